#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/tensor_ref.h"

#define HIDDEN_MAGIC 0x5348514cu

enum { HIDDEN_HEADER_BYTES = 16 };

/* The number of a tensor among those of the step. */
static enum lq_status find_weight(const struct lq_calibrate_layer *layer, const char *name,
                                  size_t *number, struct lq_error *err)
{
    for (size_t i = 0; i < layer->tensor_count; i++) {
        if (strcmp(layer->tensors[i].name, name) == 0) {
            *number = i;
            return LQ_OK;
        }
    }
    return lq_error_set(err, LQ_EINTERNAL, "the tensor '%s' is no input of this step", name);
}

static enum lq_status get_weight(void *user, const char *name,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    const struct lq_calibrate_io *io = user;
    size_t number = 0;
    enum lq_status status = find_weight(io->layer, name, &number, err);
    *tensor = &io->layer->tensors[number];
    return status == LQ_OK ? lq_tensor_load(io->run, *tensor, io->layer->inputs[number], data, err)
                           : status;
}

static enum lq_status get_matrix(void *user, const char *name, uint64_t matrix,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    const struct lq_calibrate_io *io = user;
    size_t number = 0;
    enum lq_status status = find_weight(io->layer, name, &number, err);
    *tensor = &io->layer->tensors[number];
    return status == LQ_OK ? lq_tensor_load_matrix(io->run, *tensor, io->layer->inputs[number],
                                                   matrix, data, err)
                           : status;
}

struct lq_weight_source lq_calibrate_weights(struct lq_calibrate_io *io)
{
    struct lq_weight_source source = {get_weight, io, get_matrix};
    return source;
}

enum lq_status lq_calibrate_open_tokens(struct lq_calibrate_io *io, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(io->run, "tokens", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tokens_parse(data, size_bytes, "calibration", io->layer->hparams.vocab_size,
                                 lq_run_arena(io->run), &io->tokens, err);
    }
    io->sample_count = io->tokens.sample_count;
    io->sequence_length = io->tokens.sequence_length;
    return status;
}

enum lq_status lq_calibrate_open_rows(struct lq_calibrate_io *io, const char *input,
                                      struct lq_error *err)
{
    unsigned char header[HIDDEN_HEADER_BYTES] = {0};
    uint64_t size_bytes = lq_run_input_size(io->run, input);
    enum lq_status status = lq_run_input_read(io->run, input, 0, header, sizeof header, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_reader reader;
    lq_reader_init(&reader, header, sizeof header);
    uint32_t magic = lq_read_u32(&reader);
    uint32_t sample_count = lq_read_u32(&reader);
    uint32_t sequence_length = lq_read_u32(&reader);
    uint32_t width = lq_read_u32(&reader);
    bool is_first = io->sample_count == 0;
    io->sample_count = is_first ? sample_count : io->sample_count;
    io->sequence_length = is_first ? sequence_length : io->sequence_length;
    bool good = magic == HIDDEN_MAGIC && sample_count == io->sample_count &&
                sequence_length == io->sequence_length && width == io->layer->hparams.width &&
                io->sample_count >= 1 && io->sample_count <= LQ_SAMPLES_MAX &&
                io->sequence_length >= 1 && io->sequence_length <= LQ_SEQUENCE_MAX;
    uint64_t expected = 0;
    good = good &&
           lq_mul_u64((uint64_t)io->sample_count * io->sequence_length,
                      (uint64_t)width * sizeof(float), &expected) &&
           lq_add_u64(expected, HIDDEN_HEADER_BYTES, &expected);
    if (!good || expected != size_bytes) {
        return lq_error_set(err, LQ_EINTERNAL, "the input '%s' of a layer is damaged", input);
    }
    return LQ_OK;
}

enum lq_status lq_calibrate_write_header(const struct lq_calibrate_io *io, const char *output,
                                         struct lq_error *err)
{
    struct lq_buffer header;
    lq_buffer_init(&header);
    lq_buffer_append_u32(&header, HIDDEN_MAGIC);
    lq_buffer_append_u32(&header, io->sample_count);
    lq_buffer_append_u32(&header, io->sequence_length);
    lq_buffer_append_u32(&header, io->layer->hparams.width);
    enum lq_status status =
        header.failed ? lq_error_nomem(err, "hidden states")
                      : lq_run_write(io->run, output, header.data, header.size_bytes, err);
    lq_buffer_fini(&header);
    return status;
}

enum lq_status lq_calibrate_read_rows(const struct lq_calibrate_io *io, const char *input,
                                      size_t first_sample, size_t sample_count, float *rows,
                                      struct lq_error *err)
{
    size_t sample_bytes = io->sequence_length * io->layer->hparams.width * sizeof(float);
    return lq_run_input_read(io->run, input,
                             HIDDEN_HEADER_BYTES + (uint64_t)first_sample * sample_bytes, rows,
                             sample_count * sample_bytes, err);
}

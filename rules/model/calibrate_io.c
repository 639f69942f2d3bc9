#include <string.h>

#include "rules/model/calibrate_parts.h"
#include "rules/model/hidden_states.h"
#include "rules/model/tensor_ref.h"

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

static bool get_digest(void *user, const char *name, struct lq_digest *digest)
{
    const struct lq_calibrate_io *io = user;
    size_t number = 0;
    return find_weight(io->layer, name, &number, NULL) == LQ_OK &&
           lq_run_input_digest(io->run, io->layer->inputs[number], digest);
}

struct lq_weight_source lq_calibrate_weights(struct lq_calibrate_io *io)
{
    struct lq_weight_source source = {get_weight, io, get_matrix, get_digest};
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

static bool is_hidden(const char *name)
{
    return strcmp(name, "hidden") == 0;
}

enum lq_status lq_calibrate_open_rows(struct lq_calibrate_io *io, const char *input,
                                      struct lq_error *err)
{
    struct lq_hidden_shape shape;
    enum lq_status status = lq_hidden_open(io->run, input, &shape, err);
    if (status != LQ_OK) {
        return status;
    }
    bool is_first = io->sample_count == 0;
    io->sample_count = is_first ? shape.sample_count : io->sample_count;
    io->sequence_length = is_first ? shape.sequence_length : io->sequence_length;
    io->reads_bf16 = io->reads_bf16 || (is_hidden(input) && shape.is_bf16);
    if (shape.sample_count != io->sample_count || shape.sequence_length != io->sequence_length ||
        shape.width != io->layer->hparams.width || (shape.is_bf16 && !is_hidden(input))) {
        return lq_error_set(err, LQ_EINTERNAL, "the input '%s' of a layer is damaged", input);
    }
    return LQ_OK;
}

static struct lq_hidden_shape shape_of(const struct lq_calibrate_io *io, bool is_bf16)
{
    return (struct lq_hidden_shape){.sample_count = io->sample_count,
                                    .sequence_length = io->sequence_length,
                                    .width = io->layer->hparams.width,
                                    .is_bf16 = is_bf16,
                                    .layer = io->layer->layer,
                                    .is_mixture = io->layer->hparams.expert_count != 0,
                                    .overflow = LQ_EIMPORTANCE};
}

struct lq_device_states *lq_calibrate_hold(const struct lq_calibrate_io *io,
                                           struct lq_forward_run *forward_run,
                                           const struct lq_device_team *team)
{
    struct lq_hidden_shape shape = shape_of(io, io->layer->hidden_bf16);
    struct lq_device_states *states = lq_device_states_hold_parts(
        forward_run, "hidden", &shape, team->batch_samples, team->member_count);
    if (states == NULL) {
        lq_forward_run_hold(forward_run, "hidden");
    }
    return states;
}

enum lq_status lq_calibrate_write_header(const struct lq_calibrate_io *io, const char *output,
                                         struct lq_error *err)
{
    struct lq_hidden_shape shape = shape_of(io, is_hidden(output) && io->layer->hidden_bf16);
    return lq_hidden_begin(io->run, output, &shape, err);
}

enum lq_status lq_calibrate_write_rows(const struct lq_calibrate_io *io, const char *output,
                                       const float *rows, size_t row_count, struct lq_error *err)
{
    struct lq_hidden_shape shape = shape_of(io, is_hidden(output) && io->layer->hidden_bf16);
    return lq_hidden_write(io->run, output, &shape, rows, row_count, err);
}

enum lq_status lq_calibrate_read_rows(const struct lq_calibrate_io *io, const char *input,
                                      size_t first_sample, size_t sample_count, float *rows,
                                      struct lq_error *err)
{
    struct lq_hidden_shape shape = shape_of(io, is_hidden(input) && io->reads_bf16);
    return lq_hidden_read(io->run, input, &shape, first_sample, sample_count, rows, err);
}

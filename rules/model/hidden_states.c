#include "rules/model/hidden_states.h"

#include <math.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "kernels/kernels.h"

#define MAGIC_F32 0x5348514cu
#define MAGIC_BF16 0x4248514cu

enum {
    PIECE_VALUES = 32 * 1024, /* converted at a time */
};

static size_t value_bytes(const struct lq_hidden_shape *shape)
{
    return shape->is_bf16 ? sizeof(uint16_t) : sizeof(float);
}

enum lq_status lq_hidden_open(struct lq_run *run, const char *input, struct lq_hidden_shape *shape,
                              struct lq_error *err)
{
    unsigned char header[LQ_HIDDEN_HEADER_BYTES] = {0};
    uint64_t size_bytes = lq_run_input_size(run, input);
    enum lq_status status = size_bytes < sizeof header
                                ? LQ_OK
                                : lq_run_input_read(run, input, 0, header, sizeof header, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_reader reader;
    lq_reader_init(&reader, header, sizeof header);
    uint32_t magic = lq_read_u32(&reader);
    *shape = (struct lq_hidden_shape){.is_bf16 = magic == MAGIC_BF16};
    shape->sample_count = lq_read_u32(&reader);
    shape->sequence_length = lq_read_u32(&reader);
    shape->width = lq_read_u32(&reader);
    uint64_t expected = 0;
    bool good = (magic == MAGIC_F32 || magic == MAGIC_BF16) && shape->sample_count >= 1 &&
                shape->sample_count <= LQ_SAMPLES_MAX && shape->sequence_length >= 1 &&
                shape->sequence_length <= LQ_SEQUENCE_MAX && shape->width >= 1 &&
                shape->width <= LQ_MODEL_DIM_MAX &&
                lq_mul_u64((uint64_t)shape->sample_count * shape->sequence_length,
                           (uint64_t)shape->width * value_bytes(shape), &expected) &&
                lq_add_u64(expected, LQ_HIDDEN_HEADER_BYTES, &expected);
    if (!good || expected != size_bytes) {
        return lq_error_set(err, LQ_EINTERNAL, "the input '%s' of a layer is damaged", input);
    }
    return LQ_OK;
}

static enum lq_status read_bf16(struct lq_run *run, const char *input, uint64_t offset,
                                float *values, size_t count, struct lq_error *err)
{
    uint16_t piece[PIECE_VALUES];
    for (size_t i = 0; i < count; i += PIECE_VALUES) {
        size_t length = count - i < PIECE_VALUES ? count - i : PIECE_VALUES;
        enum lq_status status = lq_run_input_read(run, input, offset + i * sizeof *piece, piece,
                                                  length * sizeof *piece, err);
        if (status != LQ_OK) {
            return status;
        }
        for (size_t j = 0; j < length; j++) {
            values[i + j] = lq_bf16_to_f32(piece[j]);
        }
    }
    return LQ_OK;
}

enum lq_status lq_hidden_read(struct lq_run *run, const char *input,
                              const struct lq_hidden_shape *shape, size_t first_sample,
                              size_t sample_count, float *rows, struct lq_error *err)
{
    size_t sample_values = (size_t)shape->sequence_length * shape->width;
    uint64_t offset =
        LQ_HIDDEN_HEADER_BYTES + (uint64_t)first_sample * sample_values * value_bytes(shape);
    if (shape->is_bf16) {
        return read_bf16(run, input, offset, rows, sample_count * sample_values, err);
    }
    return lq_run_input_read(run, input, offset, rows, sample_count * sample_values * sizeof *rows,
                             err);
}

void lq_hidden_header(const struct lq_hidden_shape *shape,
                      unsigned char header[LQ_HIDDEN_HEADER_BYTES])
{
    const uint32_t words[] = {shape->is_bf16 ? MAGIC_BF16 : MAGIC_F32, shape->sample_count,
                              shape->sequence_length, shape->width};
    for (size_t i = 0; i < LQ_HIDDEN_HEADER_BYTES; i++) {
        header[i] = (unsigned char)(words[i / 4] >> (8 * (i % 4)));
    }
}

enum lq_status lq_hidden_begin(struct lq_run *run, const char *output,
                               const struct lq_hidden_shape *shape, struct lq_error *err)
{
    unsigned char header[LQ_HIDDEN_HEADER_BYTES];
    lq_hidden_header(shape, header);
    return lq_run_write(run, output, header, sizeof header, err);
}

size_t lq_hidden_round(const float *values, uint16_t *out, size_t count)
{
    size_t first = count;
    for (size_t i = 0; i < count; i++) {
        out[i] = lq_f32_to_bf16(values[i]);
        if (first == count && isfinite(values[i]) && isinf(lq_bf16_to_f32(out[i]))) {
            first = i;
        }
    }
    return first;
}

static enum lq_status refuse_overflow(const struct lq_hidden_shape *shape, double value,
                                      struct lq_error *err)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    enum lq_layer_weight down = shape->is_mixture ? LQ_WEIGHT_FFN_DOWN_EXPS : LQ_WEIGHT_FFN_DOWN;
    return lq_error_set(err, shape->overflow,
                        "layer %u gives %g behind '%s', and bf16 ends at 3.3895e+38; keep hidden "
                        "states as they are with hidden = \"f32\"",
                        (unsigned)shape->layer, value,
                        lq_layer_weight_path(shape->layer, down, name));
}

enum lq_status lq_hidden_write(struct lq_run *run, const char *output,
                               const struct lq_hidden_shape *shape, const float *rows,
                               size_t row_count, struct lq_error *err)
{
    size_t count = row_count * shape->width;
    if (!shape->is_bf16) {
        return lq_run_write(run, output, rows, count * sizeof *rows, err);
    }
    uint16_t piece[PIECE_VALUES];
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i += PIECE_VALUES) {
        size_t length = count - i < PIECE_VALUES ? count - i : PIECE_VALUES;
        size_t place = lq_hidden_round(rows + i, piece, length);
        if (place != length) {
            return refuse_overflow(shape, (double)rows[i + place], err);
        }
        status = lq_run_write(run, output, piece, length * sizeof *piece, err);
    }
    return status;
}

#include "rules/model/layer_ranges.h"

#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

#define RANGES_MAGIC 0x4752514cu

enum { RANGES_VERSION = 1 };

static enum lq_status make_room(struct lq_input_range *range, struct lq_arena *arena,
                                struct lq_error *err)
{
    /* One more than needed: inputs that a layer does not have take no special case. */
    size_t count = (size_t)range->col_count + 1;
    range->min = lq_arena_get_array(arena, count, sizeof *range->min);
    range->max = lq_arena_get_array(arena, count, sizeof *range->max);
    range->sum = lq_arena_get_array(arena, count, sizeof *range->sum);
    range->squares = lq_arena_get_array(arena, count, sizeof *range->squares);
    bool has_room =
        range->min != NULL && range->max != NULL && range->sum != NULL && range->squares != NULL;
    return has_room ? LQ_OK : lq_error_nomem(err, "ranges of activations");
}

enum lq_status lq_layer_ranges_init(struct lq_layer_ranges *ranges,
                                    const struct lq_hparams *hparams, struct lq_arena *arena,
                                    struct lq_error *err)
{
    memset(ranges, 0, sizeof *ranges);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        struct lq_input_range *range = &ranges->inputs[i];
        bool is_shared = i != LQ_INPUT_FFN_EXPS && i != LQ_INPUT_FFN_DOWN_EXPS;
        range->col_count =
            is_shared ? (uint32_t)lq_layer_input_cols(hparams, (enum lq_layer_input)i) : 0;
        enum lq_status status = make_room(range, arena, err);
        if (status != LQ_OK) {
            return status;
        }
        for (uint32_t j = 0; j < range->col_count; j++) {
            range->min[j] = INFINITY;
            range->max[j] = -INFINITY;
        }
    }
    return LQ_OK;
}

void lq_layer_ranges_add(struct lq_layer_ranges *ranges, enum lq_layer_input input, size_t col,
                         const float *values, size_t count)
{
    struct lq_input_range *range = &ranges->inputs[input];
    size_t cols = range->col_count;
    size_t outliers = 0;
    for (size_t at = 0; cols > 0 && at < count;) {
        size_t step = count - at < cols - col ? count - at : cols - col;
        for (size_t i = 0; i < step; i++) {
            float value = values[at + i];
            size_t j = col + i;
            range->min[j] = value < range->min[j] ? value : range->min[j];
            range->max[j] = value > range->max[j] ? value : range->max[j];
            range->sum[j] += (double)value;
            range->squares[j] += (double)value * (double)value;
            outliers += fabsf(value) > LQ_OUTLIER_ABOVE;
        }
        at += step;
        col += step;
        if (col == cols) {
            col = 0;
            range->row_count++;
        }
    }
    range->outlier_count += outliers;
}

static void append_f64(struct lq_buffer *out, double value)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    lq_buffer_append_u64(out, bits);
}

enum lq_status lq_layer_ranges_format(const struct lq_layer_ranges *ranges, struct lq_buffer *out,
                                      struct lq_error *err)
{
    lq_buffer_append_u32(out, RANGES_MAGIC);
    lq_buffer_append_u32(out, RANGES_VERSION);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        const struct lq_input_range *range = &ranges->inputs[i];
        lq_buffer_append_u32(out, range->col_count);
        lq_buffer_append_u64(out, range->row_count);
        lq_buffer_append_u64(out, range->outlier_count);
        for (uint32_t j = 0; j < range->col_count; j++) {
            lq_buffer_append_f32(out, range->min[j]);
            lq_buffer_append_f32(out, range->max[j]);
            append_f64(out, range->sum[j]);
            append_f64(out, range->squares[j]);
        }
    }
    return out->failed ? lq_error_nomem(err, "ranges of activations") : LQ_OK;
}

enum lq_status lq_layer_ranges_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_layer_ranges *out, struct lq_error *err)
{
    enum { COLUMN_BYTES = 24 };
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    memset(out, 0, sizeof *out);
    bool good = lq_read_u32(&reader) == RANGES_MAGIC && lq_read_u32(&reader) == RANGES_VERSION;
    for (int i = 0; good && i < LQ_LAYER_INPUT_COUNT; i++) {
        struct lq_input_range *range = &out->inputs[i];
        range->col_count = lq_read_u32(&reader);
        range->row_count = lq_read_u64(&reader);
        range->outlier_count = lq_read_u64(&reader);
        good = !reader.failed && range->col_count <= LQ_MODEL_DIM_MAX &&
               lq_reader_left(&reader) / COLUMN_BYTES >= range->col_count;
        enum lq_status status = good ? make_room(range, arena, err) : LQ_OK;
        if (status != LQ_OK) {
            return status;
        }
        for (uint32_t j = 0; good && j < range->col_count; j++) {
            range->min[j] = lq_read_f32(&reader);
            range->max[j] = lq_read_f32(&reader);
            range->sum[j] = lq_read_f64(&reader);
            range->squares[j] = lq_read_f64(&reader);
        }
    }
    return good && !reader.failed && lq_reader_left(&reader) == 0
               ? LQ_OK
               : lq_error_set(err, LQ_EFORMAT, "%llu bytes are no ranges of activations",
                              (unsigned long long)size_bytes);
}

float lq_input_range_size(const struct lq_input_range *range, size_t col)
{
    return fmaxf(fabsf(range->min[col]), fabsf(range->max[col]));
}

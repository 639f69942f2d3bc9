#include "rules/model/layer_stats.h"

#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

#define STATS_MAGIC 0x5453514cu

enum { STATS_VERSION = 1 };

enum lq_status lq_layer_stats_alloc(struct lq_layer_stats *stats, struct lq_arena *arena,
                                    struct lq_error *err)
{
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        stats->sums[i] = lq_arena_get_array(arena, stats->cols[i], sizeof(double));
        if (stats->sums[i] == NULL) {
            return lq_error_nomem(err, "layer statistics");
        }
    }
    return LQ_OK;
}

enum lq_status lq_layer_stats_format(const struct lq_layer_stats *stats, struct lq_buffer *out,
                                     struct lq_error *err)
{
    lq_buffer_append_u32(out, STATS_MAGIC);
    lq_buffer_append_u32(out, STATS_VERSION);
    lq_buffer_append_u32(out, stats->sample_count);
    lq_buffer_append_u32(out, stats->sequence_length);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        lq_buffer_append_u32(out, stats->cols[i]);
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        for (uint32_t j = 0; j < stats->cols[i]; j++) {
            uint64_t bits = 0;
            memcpy(&bits, &stats->sums[i][j], sizeof bits);
            lq_buffer_append_u64(out, bits);
        }
    }
    return out->failed ? lq_error_nomem(err, "layer statistics") : LQ_OK;
}

static bool read_header(struct lq_reader *reader, struct lq_layer_stats *out)
{
    uint32_t magic = lq_read_u32(reader);
    uint32_t version = lq_read_u32(reader);
    out->sample_count = lq_read_u32(reader);
    out->sequence_length = lq_read_u32(reader);
    bool good = magic == STATS_MAGIC && version == STATS_VERSION && out->sample_count >= 1 &&
                out->sample_count <= LQ_SAMPLES_MAX && out->sequence_length >= 1 &&
                out->sequence_length <= LQ_SEQUENCE_MAX;
    uint64_t cols = 0;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        out->cols[i] = lq_read_u32(reader);
        good = good && out->cols[i] >= 1 && out->cols[i] <= LQ_MODEL_DIM_MAX;
        cols += out->cols[i];
    }
    return good && !reader->failed && lq_reader_left(reader) == cols * sizeof(double);
}

enum lq_status lq_layer_stats_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                    struct lq_layer_stats *out, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    memset(out, 0, sizeof *out);
    if (!read_header(&reader, out)) {
        return lq_error_set(err, LQ_EFORMAT, "%llu bytes are no layer statistics",
                            (unsigned long long)size_bytes);
    }
    enum lq_status status = lq_layer_stats_alloc(out, arena, err);
    for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
        for (uint32_t j = 0; j < out->cols[i]; j++) {
            out->sums[i][j] = lq_read_f64(&reader);
            if (!isfinite(out->sums[i][j]) || out->sums[i][j] < 0.0) {
                return lq_error_set(
                    err, LQ_EIMPORTANCE,
                    "layer statistics hold a sum of squares that is negative or not "
                    "finite");
            }
        }
    }
    return status;
}

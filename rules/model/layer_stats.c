#include "rules/model/layer_stats.h"

#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

#define STATS_MAGIC 0x5453514cu

enum { STATS_VERSION = 2 };

void lq_layer_stats_shape(struct lq_layer_stats *stats, const struct lq_hparams *hparams)
{
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = lq_layer_input_cols(hparams, (enum lq_layer_input)i);
        size_t mats = cols == 0 ? 0 : lq_layer_input_mats(hparams, (enum lq_layer_input)i);
        stats->cols[i] = (uint32_t)cols;
        stats->mats[i] = (uint32_t)mats;
    }
}

static size_t sum_count(const struct lq_layer_stats *stats, int input)
{
    return (size_t)stats->mats[input] * stats->cols[input];
}

enum lq_status lq_layer_stats_alloc(struct lq_layer_stats *stats, struct lq_arena *arena,
                                    struct lq_error *err)
{
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        /* One more than needed: inputs that a layer does not have take no special case. */
        stats->counts[i] = lq_arena_get_array(arena, (size_t)stats->mats[i] + 1, sizeof(uint64_t));
        stats->sums[i] = lq_arena_get_array(arena, sum_count(stats, i) + 1, sizeof(double));
        if (stats->counts[i] == NULL || stats->sums[i] == NULL) {
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
        lq_buffer_append_u32(out, stats->mats[i]);
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        for (uint32_t m = 0; m < stats->mats[i]; m++) {
            lq_buffer_append_u64(out, stats->counts[i][m]);
        }
        for (size_t j = 0; j < sum_count(stats, i); j++) {
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
    uint64_t values = 0;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        out->cols[i] = lq_read_u32(reader);
        good = good && out->cols[i] <= LQ_MODEL_DIM_MAX;
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        out->mats[i] = lq_read_u32(reader);
        good = good && out->mats[i] <= LQ_MODEL_EXPERTS_MAX &&
               (out->mats[i] == 0) == (out->cols[i] == 0);
        values += (uint64_t)out->mats[i] * ((uint64_t)out->cols[i] + 1);
    }
    return good && !reader->failed && lq_reader_left(reader) == values * sizeof(double);
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
        for (uint32_t m = 0; m < out->mats[i]; m++) {
            out->counts[i][m] = lq_read_u64(&reader);
        }
        for (size_t j = 0; j < sum_count(out, i); j++) {
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

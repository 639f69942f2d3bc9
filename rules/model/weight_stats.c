#include "rules/model/weight_stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

#define STATS_MAGIC 0x5357514cu

enum { STATS_VERSION = 1 };

enum lq_status lq_weight_stats_add(struct lq_weight_stats *stats, const char *name, uint32_t mats,
                                   uint32_t cols, struct lq_arena *arena, struct lq_error *err)
{
    if (stats->matrix_count == LQ_LAYER_WEIGHT_COUNT) {
        return lq_error_set(err, LQ_EINTERNAL, "a layer has more than %d matrices",
                            LQ_LAYER_WEIGHT_COUNT);
    }
    struct lq_weight_stats_matrix *matrix = &stats->matrices[stats->matrix_count++];
    (void)snprintf(matrix->name, sizeof matrix->name, "%s", name);
    matrix->mats = mats;
    matrix->cols = cols;
    matrix->counts = lq_arena_get_array(arena, mats, sizeof *matrix->counts);
    matrix->sums = lq_arena_get_array(arena, (size_t)mats * cols, sizeof *matrix->sums);
    return matrix->counts == NULL || matrix->sums == NULL ? lq_error_nomem(err, "scores of a layer")
                                                          : LQ_OK;
}

enum lq_status lq_weight_stats_format(const struct lq_weight_stats *stats, struct lq_buffer *out,
                                      struct lq_error *err)
{
    lq_buffer_append_u32(out, STATS_MAGIC);
    lq_buffer_append_u32(out, STATS_VERSION);
    lq_buffer_append_u32(out, stats->sample_count);
    lq_buffer_append_u32(out, stats->sequence_length);
    lq_buffer_append_u32(out, (uint32_t)stats->matrix_count);
    for (size_t i = 0; i < stats->matrix_count; i++) {
        const struct lq_weight_stats_matrix *matrix = &stats->matrices[i];
        lq_buffer_append_u32(out, (uint32_t)strlen(matrix->name));
        lq_buffer_append(out, matrix->name, strlen(matrix->name));
        lq_buffer_append_u32(out, matrix->mats);
        lq_buffer_append_u32(out, matrix->cols);
        for (size_t m = 0; m < matrix->mats; m++) {
            lq_buffer_append_u64(out, matrix->counts[m]);
        }
        for (size_t j = 0; j < (size_t)matrix->mats * matrix->cols; j++) {
            uint64_t bits = 0;
            memcpy(&bits, &matrix->sums[j], sizeof bits);
            lq_buffer_append_u64(out, bits);
        }
    }
    return out->failed ? lq_error_nomem(err, "scores of a layer") : LQ_OK;
}

static enum lq_status malformed(struct lq_error *err, uint64_t size_bytes)
{
    return lq_error_set(err, LQ_EFORMAT, "%llu bytes are no scores of a layer",
                        (unsigned long long)size_bytes);
}

static bool read_shape(struct lq_reader *reader, char name[LQ_WEIGHT_NAME_BYTES], uint32_t *mats,
                       uint32_t *cols)
{
    uint32_t length = lq_read_u32(reader);
    if (length == 0 || length >= LQ_WEIGHT_NAME_BYTES) {
        return false;
    }
    const void *bytes = lq_read_bytes(reader, length);
    if (bytes == NULL || memchr(bytes, 0, length) != NULL) {
        return false;
    }
    memcpy(name, bytes, length);
    name[length] = 0;
    *mats = lq_read_u32(reader);
    *cols = lq_read_u32(reader);
    /* The limits keep the product below 2^63, and what is left bounds what is allocated. */
    return !reader->failed && *mats >= 1 && *mats <= LQ_MODEL_EXPERTS_MAX && *cols >= 1 &&
           *cols <= LQ_MODEL_DIM_MAX &&
           lq_reader_left(reader) / sizeof(double) >= *mats + (uint64_t)*mats * *cols;
}

static enum lq_status read_matrix(struct lq_reader *reader, struct lq_arena *arena,
                                  struct lq_weight_stats *out, uint64_t size_bytes,
                                  struct lq_error *err)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    uint32_t mats = 0;
    uint32_t cols = 0;
    if (!read_shape(reader, name, &mats, &cols)) {
        return malformed(err, size_bytes);
    }
    enum lq_status status = lq_weight_stats_add(out, name, mats, cols, arena, err);
    if (status != LQ_OK) {
        return status;
    }
    const struct lq_weight_stats_matrix *matrix = &out->matrices[out->matrix_count - 1];
    for (size_t m = 0; m < mats; m++) {
        matrix->counts[m] = lq_read_u64(reader);
        if (matrix->counts[m] > out->sample_count) {
            return malformed(err, size_bytes);
        }
    }
    for (size_t j = 0; j < (size_t)mats * cols; j++) {
        matrix->sums[j] = lq_read_f64(reader);
        if (!isfinite(matrix->sums[j]) || matrix->sums[j] < 0.0) {
            return lq_error_set(err, LQ_EIMPORTANCE,
                                "the scores of '%s' hold a sum that is negative or not finite",
                                name);
        }
    }
    return LQ_OK;
}

enum lq_status lq_weight_stats_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_weight_stats *out, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    memset(out, 0, sizeof *out);
    uint32_t magic = lq_read_u32(&reader);
    uint32_t version = lq_read_u32(&reader);
    out->sample_count = lq_read_u32(&reader);
    out->sequence_length = lq_read_u32(&reader);
    uint32_t count = lq_read_u32(&reader);
    if (reader.failed || magic != STATS_MAGIC || version != STATS_VERSION ||
        out->sample_count < 1 || out->sample_count > LQ_SAMPLES_MAX || out->sequence_length < 1 ||
        out->sequence_length > LQ_SEQUENCE_MAX || count > LQ_LAYER_WEIGHT_COUNT) {
        return malformed(err, size_bytes);
    }
    for (uint32_t i = 0; i < count; i++) {
        enum lq_status status = read_matrix(&reader, arena, out, size_bytes, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return reader.failed || lq_reader_left(&reader) != 0 ? malformed(err, size_bytes) : LQ_OK;
}

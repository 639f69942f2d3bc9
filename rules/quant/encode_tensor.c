#include "rules/quant/encode_tensor.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "kernels/kernels.h"
#include "rules/quant/encode_gpu.h"
#include "rules/quant/levels.h"

/* A tile is what a thread takes; it goes through it in strips that stay in the innermost caches
 * from the source's bytes to the checked blocks. */
enum { TILE_ELEMS = 64 * 1024, TILES_MAX = 16, STRIP_ELEMS = 8 * 1024 };

/* The largest finite half-precision number. */
#define HALF_MAX 65504.0F

struct geometry {
    uint64_t col_count;
    uint64_t row_count;
    size_t tile_rows;
    size_t strip_rows;
    size_t row_bytes; /* encoded */
};

struct tile {
    uint64_t row;
    size_t row_count;
    float *values;     /* one strip */
    float *importance; /* one row; NULL when nothing is protected */
    unsigned char *blocks;
    enum lq_status status;
    struct lq_error err;
};

struct batch {
    const struct lq_encode_job *job;
    struct geometry geometry;
    struct tile tiles[TILES_MAX];
};

/* Where a block keeps its half-precision scales. */
struct scale_place {
    uint8_t count;
    uint8_t offset[2];
};

static const struct scale_place scale_places[LQ_DTYPE_COUNT] = {
    [LQ_DTYPE_Q4_0] = {1, {0}},    [LQ_DTYPE_Q4_1] = {2, {0, 2}}, [LQ_DTYPE_Q5_0] = {1, {0}},
    [LQ_DTYPE_Q5_1] = {2, {0, 2}}, [LQ_DTYPE_Q8_0] = {1, {0}},    [LQ_DTYPE_Q2_K] = {2, {80, 82}},
    [LQ_DTYPE_Q3_K] = {1, {108}},  [LQ_DTYPE_Q4_K] = {2, {0, 2}}, [LQ_DTYPE_Q5_K] = {2, {0, 2}},
    [LQ_DTYPE_Q6_K] = {1, {208}},  [LQ_DTYPE_IQ2_XXS] = {1, {0}}, [LQ_DTYPE_IQ2_XS] = {1, {0}},
    [LQ_DTYPE_IQ3_XXS] = {1, {0}}, [LQ_DTYPE_IQ1_S] = {1, {0}},   [LQ_DTYPE_IQ4_NL] = {1, {0}},
    [LQ_DTYPE_IQ3_S] = {1, {0}},   [LQ_DTYPE_IQ2_S] = {1, {0}},   [LQ_DTYPE_IQ4_XS] = {1, {0}},
    [LQ_DTYPE_TQ1_0] = {1, {52}},  [LQ_DTYPE_TQ2_0] = {1, {64}},  [LQ_DTYPE_Q1_0] = {1, {0}},
    [LQ_DTYPE_Q2_0] = {1, {0}},
};

/* IQ1_M keeps its half in four pieces, the top four bits of the last four words. */
static unsigned iq1_m_half(const unsigned char *block)
{
    unsigned bits = 0;
    for (unsigned k = 0; k < 4; k++) {
        bits |= (unsigned)(block[49 + 2 * k] >> 4) << (4 * k);
    }
    return bits;
}

static size_t find_bad_iq1_m(const unsigned char *at, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, at += 56) {
        if ((iq1_m_half(at) & 0x7C00) == 0x7C00) {
            return b;
        }
    }
    return block_count;
}

/* Scales in bytes: MXFP4 has one exponent, whose largest level is finite up to 252; NVFP4 four
 * small floats, of which 0x7f is no number and bit 7 is not used. */
static size_t find_bad_bytes(const unsigned char *at, size_t block_count, size_t block_bytes,
                             size_t scale_count, unsigned scale_max)
{
    for (size_t b = 0; b < block_count; b++, at += block_bytes) {
        for (size_t i = 0; i < scale_count; i++) {
            if (at[i] > scale_max) {
                return b;
            }
        }
    }
    return block_count;
}

/* Numbers of 16 bits whose exponent is all ones. Nearly always there is none, so the first walk
 * only asks for the largest, without a branch. */
static size_t find_bad_halves(const unsigned char *at, size_t count, unsigned exponent)
{
    int16_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        int16_t size = (int16_t)((at[2 * i] | at[2 * i + 1] << 8) & 0x7FFF);
        largest = size > largest ? size : largest;
    }
    if ((unsigned)largest < exponent) {
        return count;
    }
    size_t bad = 0;
    while (((unsigned)(at[2 * bad] | at[2 * bad + 1] << 8) & 0x7FFF) < exponent) {
        bad++;
    }
    return bad;
}

size_t lq_encode_find_bad_block(enum lq_dtype dtype, const void *blocks, size_t block_count)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    const unsigned char *at = blocks;
    if (dtype == LQ_DTYPE_F32) {
        return lq_kernels()->find_nonfinite(blocks, block_count);
    }
    if (dtype == LQ_DTYPE_IQ1_M) {
        return find_bad_iq1_m(at, block_count);
    }
    if (dtype == LQ_DTYPE_MXFP4) {
        return find_bad_bytes(at, block_count, info->block_bytes, 1, 252);
    }
    if (dtype == LQ_DTYPE_NVFP4) {
        return find_bad_bytes(at, block_count, info->block_bytes, 4, 0x7E);
    }
    if (dtype == LQ_DTYPE_F16 || dtype == LQ_DTYPE_BF16) {
        return find_bad_halves(at, block_count, dtype == LQ_DTYPE_F16 ? 0x7C00 : 0x7F80);
    }
    struct scale_place place = scale_places[dtype];
    const unsigned exponent = 0x7C00;
    for (size_t b = 0; place.count > 0 && b < block_count; b++, at += info->block_bytes) {
        for (uint8_t i = 0; i < place.count; i++) {
            const unsigned char *half = at + place.offset[i];
            unsigned bits = (unsigned)half[0] | (unsigned)half[1] << 8;
            if ((bits & exponent) == exponent) {
                return b;
            }
        }
    }
    return block_count;
}

bool lq_encode_uses_importance(enum lq_dtype dtype)
{
    return lq_level_is_quantized_type(dtype);
}

bool lq_encode_can_protect(enum lq_dtype dtype)
{
    return lq_encode_uses_importance(dtype) && dtype != LQ_DTYPE_TQ1_0 && dtype != LQ_DTYPE_TQ2_0;
}

static size_t row_count_within(uint64_t elems, uint64_t col_count)
{
    return col_count >= elems ? 1 : (size_t)(elems / (col_count > 0 ? col_count : 1));
}

uint64_t lq_encode_memory(const struct lq_model_tensor *tensor, enum lq_dtype dtype)
{
    (void)dtype;
    uint64_t col_count = tensor->ne[0];
    uint64_t elems = col_count * row_count_within(TILE_ELEMS, col_count);
    uint64_t strip = col_count * row_count_within(STRIP_ELEMS, col_count);
    uint64_t tiles = (lq_level_tensor_elems(tensor) + elems - 1) / (elems > 0 ? elems : 1);
    return (tiles < TILES_MAX ? tiles : TILES_MAX) * (elems + strip + col_count) * sizeof(float);
}

/* ------------------------------------------------------------------- one tile ---- */

static const float *row_importance(const struct lq_encode_job *job, uint64_t row)
{
    if (job->importance == NULL) {
        return NULL;
    }
    uint64_t mat = job->mat_count > 1 ? row / job->tensor->ne[1] : 0;
    return job->importance + mat * job->tensor->ne[0];
}

/* The first of the protected positions that is not below `position`. */
static size_t find_position(const struct lq_encode_job *job, uint64_t position)
{
    size_t low = 0;
    size_t high = job->position_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (job->positions[middle] < position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The importance of a row with protected weights: a copy in which they dominate their blocks. */
static const float *protect_row(const struct lq_encode_job *job, uint64_t row, const float *base,
                                float *copy)
{
    uint64_t col_count = job->tensor->ne[0];
    uint64_t first = row * col_count;
    size_t at = find_position(job, first);
    if (at >= job->position_count || job->positions[at] >= first + col_count) {
        return base;
    }
    for (uint64_t j = 0; j < col_count; j++) {
        copy[j] = base == NULL ? 1.0F : base[j];
    }
    uint32_t block = lq_dtype_info((uint32_t)job->dtype)->block_elems;
    for (; at < job->position_count && job->positions[at] < first + col_count; at++) {
        uint64_t col = job->positions[at] - first;
        uint64_t start = col / block * block;
        float largest = 0.0F;
        for (uint64_t j = start; j < start + block; j++) {
            float value = base == NULL ? 1.0F : base[j];
            largest = value > largest ? value : largest;
        }
        copy[col] = (largest > 0.0F ? largest : 1.0F) * LQ_PROTECT_FACTOR;
    }
    return copy;
}

const float *lq_encode_row_importance(const struct lq_encode_job *job, uint64_t row, float *copy)
{
    return protect_row(job, row, row_importance(job, row), copy);
}

/* Encoders keep scales within half precision, so what is beyond it would be cut off silently. */
float lq_encode_limit(enum lq_dtype dtype)
{
    return dtype == LQ_DTYPE_F16 || lq_level_is_quantized_type(dtype) ? HALF_MAX : FLT_MAX;
}

/* Magnitudes have the order of their bits, and those of infinities and NaNs come last. */
static bool all_within(const float *values, size_t count, float limit)
{
    int32_t largest = 0;
    int32_t bound = 0;
    memcpy(&bound, &limit, sizeof bound);
    for (size_t i = 0; i < count; i++) {
        int32_t size = 0;
        memcpy(&size, &values[i], sizeof size);
        size &= 0x7FFFFFFF;
        largest = size > largest ? size : largest;
    }
    return largest <= bound;
}

/* The values of the rows from `row` on. */
static enum lq_status check_values(const struct lq_encode_job *job, struct tile *tile, uint64_t row,
                                   size_t count)
{
    uint64_t col_count = job->tensor->ne[0];
    float limit = lq_encode_limit(job->dtype);
    if (all_within(tile->values, count, limit)) {
        return LQ_OK;
    }
    size_t bad = lq_kernels()->find_nonfinite(tile->values, count);
    const char *cause = "weights must be finite, so the model file is damaged or from a training "
                        "that diverged";
    if (bad == count) {
        bad = 0;
        while (fabsf(tile->values[bad]) <= limit) {
            bad++;
        }
        cause = "that is too large for half precision; give this tensor the type BF16 or F32";
    }
    return lq_error_set(&tile->err, LQ_EFORMAT,
                        "tensor '%s' has the value %g in row %" PRIu64 ", column %" PRIu64 "; %s",
                        job->tensor->name, (double)tile->values[bad], row + bad / col_count,
                        (uint64_t)bad % col_count, cause);
}

/* The blocks of the rows from `row` on. */
static enum lq_status check_blocks(const struct lq_encode_job *job, struct tile *tile, uint64_t row,
                                   const unsigned char *blocks, size_t size_bytes)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)job->dtype);
    size_t block_count = size_bytes / info->block_bytes;
    size_t bad = lq_encode_find_bad_block(job->dtype, blocks, block_count);
    if (bad == block_count) {
        return LQ_OK;
    }
    uint64_t elem = (uint64_t)bad * info->block_elems;
    return lq_error_set(&tile->err, LQ_EINTERNAL,
                        "encoding tensor '%s' as %s gave no finite scale for the block in row "
                        "%" PRIu64 " at column %" PRIu64
                        "; this is a mistake in lqbuild's encoder and nothing was published: "
                        "please report it, and give the tensor another type meanwhile",
                        job->tensor->name, info->name, row + elem / job->tensor->ne[0],
                        elem % job->tensor->ne[0]);
}

/* Rows [first, first + row_count) of the tile. */
static enum lq_status run_strip(const struct batch *batch, struct tile *tile, size_t first,
                                size_t row_count)
{
    const struct lq_encode_job *job = batch->job;
    size_t col_count = (size_t)batch->geometry.col_count;
    size_t row_bytes = batch->geometry.row_bytes;
    uint64_t row = tile->row + first;
    unsigned char *blocks = tile->blocks + first * row_bytes;
    enum lq_status status =
        lq_model_tensor_rows(job->tensor, job->data, row, row_count, tile->values, &tile->err);
    if (status == LQ_OK) {
        status = check_values(job, tile, row, row_count * col_count);
    }
    if (status != LQ_OK) {
        return status;
    }
    /* All ones are no finite scale in any type: a block that the encoder leaves out is found. */
    memset(blocks, 0xFF, row_count * row_bytes);
    lq_encode_fn encode = lq_kernels()->encode[job->dtype];
    bool weighted = lq_encode_uses_importance(job->dtype);
    for (size_t r = 0; r < row_count; r++) {
        const float *importance = NULL;
        if (weighted) {
            importance = lq_encode_row_importance(job, row + r, tile->importance);
        }
        encode(tile->values + r * col_count, blocks + r * row_bytes, col_count, importance);
    }
    return check_blocks(job, tile, row, blocks, row_count * row_bytes);
}

static void run_tile(void *user, size_t tile_index)
{
    struct batch *batch = user;
    struct tile *tile = &batch->tiles[tile_index];
    size_t strip_rows = batch->geometry.strip_rows;
    tile->status = LQ_OK;
    for (size_t r = 0; r < tile->row_count && tile->status == LQ_OK; r += strip_rows) {
        size_t left = tile->row_count - r;
        tile->status = run_strip(batch, tile, r, left < strip_rows ? left : strip_rows);
    }
}

/* ------------------------------------------------------------------ the tensor ---- */

static enum lq_status check_job(const struct lq_encode_job *job, struct geometry *geometry,
                                struct lq_error *err)
{
    const struct lq_model_tensor *tensor = job->tensor;
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)job->dtype);
    const char *name = tensor->name;
    if (info == NULL || lq_kernels()->encode[job->dtype] == NULL) {
        return lq_error_set(err, LQ_EUNSUPPORTED, "tensor '%s': no encoder for type %s", name,
                            lq_dtype_name((uint32_t)job->dtype));
    }
    uint64_t elems = lq_level_tensor_elems(tensor);
    if (tensor->ne[0] == 0 || elems == 0 || tensor->ne[0] > LQ_MODEL_DIM_MAX * (uint64_t)64 ||
        tensor->ne[0] % info->block_elems != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' has rows of %" PRIu64
                            " columns, which cannot be cut into blocks of %" PRIu32 " for %s",
                            name, tensor->ne[0], info->block_elems, info->name);
    }
    uint64_t want = lq_level_stored_bytes(tensor);
    if (want == 0 || want != job->size_bytes) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' has %" PRIu64 " bytes of data, expected %" PRIu64, name,
                            job->size_bytes, want);
    }
    if (job->importance != NULL && job->mat_count != 1 && job->mat_count != tensor->ne[2]) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "tensor '%s' has importance for %zu matrices, expected %" PRIu64, name,
                            job->mat_count, tensor->ne[2]);
    }
    if (job->position_count > 0 && job->positions[job->position_count - 1] >= elems) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s': protected position %" PRIu64 " is outside its %" PRIu64
                            " elements; the mask is of another model",
                            name, job->positions[job->position_count - 1], elems);
    }
    *geometry =
        (struct geometry){.col_count = tensor->ne[0],
                          .row_count = elems / tensor->ne[0],
                          .tile_rows = row_count_within(TILE_ELEMS, tensor->ne[0]),
                          .strip_rows = row_count_within(STRIP_ELEMS, tensor->ne[0]),
                          .row_bytes = lq_dtype_row_bytes(job->dtype, (size_t)tensor->ne[0])};
    return LQ_OK;
}

static bool tiles_init(struct batch *batch, size_t tile_count)
{
    const struct geometry *g = &batch->geometry;
    size_t elems = 0;
    size_t bytes = 0;
    if (!lq_mul_size(g->strip_rows, (size_t)g->col_count, &elems) ||
        !lq_mul_size(g->tile_rows, g->row_bytes, &bytes) || elems > SIZE_MAX / sizeof(float)) {
        return false;
    }
    for (size_t i = 0; i < tile_count; i++) {
        struct tile *tile = &batch->tiles[i];
        tile->values = malloc(elems * sizeof(float));
        tile->blocks = malloc(bytes);
        tile->importance = NULL;
        if (batch->job->position_count > 0) {
            tile->importance = malloc((size_t)g->col_count * sizeof(float));
        }
        if (tile->values == NULL || tile->blocks == NULL ||
            (tile->importance == NULL && batch->job->position_count > 0)) {
            return false;
        }
    }
    return true;
}

static void tiles_fini(struct batch *batch)
{
    for (size_t i = 0; i < TILES_MAX; i++) {
        free(batch->tiles[i].values);
        free(batch->tiles[i].blocks);
        free(batch->tiles[i].importance);
    }
}

/* Encodes the rows from `row` on, as many as fit the tiles, and writes them in order. */
static enum lq_status run_batch(struct batch *batch, size_t tile_count, uint64_t *row,
                                struct lq_error *err)
{
    const struct lq_encode_job *job = batch->job;
    const struct geometry *g = &batch->geometry;
    size_t used = 0;
    for (; used < tile_count && *row < g->row_count; used++) {
        uint64_t left = g->row_count - *row;
        batch->tiles[used].row = *row;
        batch->tiles[used].row_count = left < g->tile_rows ? (size_t)left : g->tile_rows;
        *row += batch->tiles[used].row_count;
    }
    lq_pool_for(job->pool, used, run_tile, batch);
    for (size_t i = 0; i < used; i++) {
        struct tile *tile = &batch->tiles[i];
        if (tile->status != LQ_OK) {
            return lq_error_set(err, tile->status, "%s", tile->err.message);
        }
        enum lq_status status =
            job->write(job->user, tile->blocks, tile->row_count * g->row_bytes, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_encode_tensor(const struct lq_encode_job *job, struct lq_error *err)
{
    struct geometry geometry;
    enum lq_status status = check_job(job, &geometry, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t row = 0;
    status = lq_encode_on_gpu(job, &row, err);
    if (status != LQ_OK || row == geometry.row_count) {
        return status;
    }
    struct batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        return lq_error_nomem(err, "the tiles of a tensor");
    }
    batch->job = job;
    batch->geometry = geometry;
    uint64_t tiles = (geometry.row_count + geometry.tile_rows - 1) / geometry.tile_rows;
    size_t tile_count = tiles < TILES_MAX ? (size_t)tiles : TILES_MAX;
    if (!tiles_init(batch, tile_count)) {
        status = lq_error_nomem(err, "the tiles of a tensor");
    }
    while (status == LQ_OK && row < geometry.row_count) {
        if (job->cancelled != NULL && job->cancelled(job->user)) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
            break;
        }
        status = run_batch(batch, tile_count, &row, err);
        if (job->progress != NULL) {
            job->progress(job->user, row, geometry.row_count);
        }
    }
    tiles_fini(batch);
    free(batch);
    return status;
}

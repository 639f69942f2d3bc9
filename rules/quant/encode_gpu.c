#include "rules/quant/encode_gpu.h"

#include <float.h>
#include <string.h>

#include "kernels/gpu.h"
#include "rules/quant/levels.h"

/* A tensor is cut into this many tiles at least, so that copying and computing overlap, unless they
 * would become smaller than GPU_TILE_ELEMS_MIN. */
enum { GPU_TILES_MIN = 4, GPU_TILE_ELEMS_MIN = 64 * 1024 };

/* A tile on its way; row_count 0: none. */
struct flight {
    uint64_t row;
    size_t row_count;
};

struct gpu_encode {
    const struct lq_encode_job *job;
    struct lq_gpu_lease *lease;
    uint64_t row_count;
    size_t tile_rows;
    struct flight flights[LQ_GPU_SLOTS];
};

static size_t choose_tile_rows(uint64_t col_count, uint64_t row_count)
{
    uint64_t elems = col_count * row_count / GPU_TILES_MIN;
    elems = elems < GPU_TILE_ELEMS_MIN ? GPU_TILE_ELEMS_MIN : elems;
    elems = elems > LQ_GPU_TILE_ELEMS ? LQ_GPU_TILE_ELEMS : elems;
    return elems < col_count ? 1 : (size_t)(elems / col_count);
}

/* Rows from `row` on that one tile takes: experts with an importance of their own are not mixed. */
static size_t next_tile_rows(const struct gpu_encode *gpu, uint64_t row)
{
    uint64_t left = gpu->row_count - row;
    uint64_t mat_rows = gpu->job->tensor->ne[1];
    if (gpu->job->mat_count > 1 && left > mat_rows - row % mat_rows) {
        left = mat_rows - row % mat_rows;
    }
    return left < gpu->tile_rows ? (size_t)left : gpu->tile_rows;
}

static void copy_rows(const struct lq_encode_job *job, const struct flight *flight, void *out)
{
    const struct lq_model_tensor *tensor = job->tensor;
    const unsigned char *data = job->data;
    unsigned char *to = out;
    size_t row_bytes = lq_dtype_row_bytes(tensor->dtype, (size_t)tensor->ne[0]);
    if (tensor->permute_heads == 0) {
        memcpy(to, data + flight->row * row_bytes, flight->row_count * row_bytes);
        return;
    }
    for (size_t i = 0; i < flight->row_count; i++, to += row_bytes) {
        uint64_t source = lq_model_tensor_source_row(tensor, flight->row + i);
        memcpy(to, data + source * row_bytes, row_bytes);
    }
}

/* Returns the number of rows of importance: one for all, one for each where weights are protected.
 * A row of ones is the same as none (search/tile.h). */
static size_t copy_importance(const struct lq_encode_job *job, const struct flight *flight,
                              float *out)
{
    size_t col_count = (size_t)job->tensor->ne[0];
    if (!lq_encode_uses_importance(job->dtype)) {
        return 0;
    }
    if (job->position_count == 0) {
        const float *row = lq_encode_row_importance(job, flight->row, NULL);
        if (row != NULL) {
            memcpy(out, row, col_count * sizeof *out);
        }
        return row == NULL ? 0 : 1;
    }
    for (size_t i = 0; i < flight->row_count; i++, out += col_count) {
        const float *row = lq_encode_row_importance(job, flight->row + i, out);
        for (size_t j = 0; row == NULL && j < col_count; j++) {
            out[j] = 1.0F;
        }
        if (row != NULL && row != out) {
            memcpy(out, row, col_count * sizeof *out);
        }
    }
    return flight->row_count;
}

static bool begin(struct gpu_encode *gpu, size_t slot, uint64_t row)
{
    const struct lq_encode_job *job = gpu->job;
    struct flight *flight = &gpu->flights[slot];
    *flight = (struct flight){row, next_tile_rows(gpu, row)};
    struct lq_gpu_buffers buffers = lq_gpu_buffers(gpu->lease, slot);
    copy_rows(job, flight, buffers.in);
    struct lq_gpu_tile tile = {.source = job->tensor->dtype,
                               .target = job->dtype,
                               .row_count = flight->row_count,
                               .col_count = (size_t)job->tensor->ne[0],
                               .importance_rows = copy_importance(job, flight, buffers.importance),
                               .limit = lq_encode_limit(job->dtype)};
    return lq_gpu_begin(gpu->lease, slot, &tile) == NULL;
}

/* False when the CPU must take over; then nothing was written. */
static bool end(struct gpu_encode *gpu, size_t slot)
{
    const struct lq_encode_job *job = gpu->job;
    struct flight *flight = &gpu->flights[slot];
    bool clean = false;
    if (lq_gpu_end(gpu->lease, slot, &clean) != NULL || !clean) {
        return false;
    }
    size_t elems = flight->row_count * (size_t)job->tensor->ne[0];
    size_t blocks = elems / lq_dtype_info((uint32_t)job->dtype)->block_elems;
    const void *out = lq_gpu_buffers(gpu->lease, slot).out;
    return lq_encode_find_bad_block(job->dtype, out, blocks) == blocks;
}

static enum lq_status write_tile(struct gpu_encode *gpu, size_t slot, uint64_t *row,
                                 struct lq_error *err)
{
    const struct lq_encode_job *job = gpu->job;
    struct flight *flight = &gpu->flights[slot];
    size_t row_bytes = lq_dtype_row_bytes(job->dtype, (size_t)job->tensor->ne[0]);
    const void *out = lq_gpu_buffers(gpu->lease, slot).out;
    enum lq_status status = job->write(job->user, out, flight->row_count * row_bytes, err);
    if (status == LQ_OK) {
        *row = flight->row + flight->row_count;
        if (job->progress != NULL) {
            job->progress(job->user, *row, gpu->row_count);
        }
    }
    flight->row_count = 0;
    return status;
}

/* Slots take turns, so tiles end in the order of rows. */
static enum lq_status encode_tiles(struct gpu_encode *gpu, uint64_t *row, struct lq_error *err)
{
    uint64_t next = 0;
    for (size_t i = 0; *row < gpu->row_count; i++) {
        size_t slot = i % LQ_GPU_SLOTS;
        if (gpu->job->cancelled != NULL && gpu->job->cancelled(gpu->job->user)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        if (gpu->flights[slot].row_count > 0) {
            if (!end(gpu, slot)) {
                gpu->flights[slot].row_count = 0;
                return LQ_OK;
            }
            enum lq_status status = write_tile(gpu, slot, row, err);
            if (status != LQ_OK) {
                return status;
            }
        }
        if (next < gpu->row_count) {
            if (!begin(gpu, slot, next)) {
                return LQ_OK;
            }
            next += gpu->flights[slot].row_count;
        }
    }
    return LQ_OK;
}

enum lq_status lq_encode_on_gpu(const struct lq_encode_job *job, uint64_t *row,
                                struct lq_error *err)
{
    *row = 0;
    const struct lq_model_tensor *tensor = job->tensor;
    bool suits = job->dtype != LQ_DTYPE_F32 && !tensor->add_one && tensor->packing == NULL &&
                 tensor->ne[0] <= LQ_GPU_TILE_ELEMS &&
                 lq_gpu_does(tensor->dtype, job->dtype, (size_t)tensor->ne[0]);
    struct gpu_encode gpu = {.job = job, .lease = suits ? lq_gpu_take() : NULL};
    if (gpu.lease == NULL) {
        return LQ_OK;
    }
    gpu.row_count = lq_level_tensor_elems(tensor) / tensor->ne[0];
    gpu.tile_rows = choose_tile_rows(tensor->ne[0], gpu.row_count);
    enum lq_status status = encode_tiles(&gpu, row, err);
    /* What is still on its way must not write into buffers of the next lease. */
    for (size_t slot = 0; slot < LQ_GPU_SLOTS; slot++) {
        bool clean = false;
        if (gpu.flights[slot].row_count > 0) {
            (void)lq_gpu_end(gpu.lease, slot, &clean);
        }
    }
    if (*row > 0 && job->computed_on != NULL) {
        job->computed_on(job->user, lq_gpu_name(gpu.lease));
    }
    lq_gpu_give(gpu.lease);
    return status;
}

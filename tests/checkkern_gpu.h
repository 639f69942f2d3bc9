/* A GPU as one more variant of the kernels for checkkern: a table whose functions send one row as a
 * tile and wait for it. And a benchmark with whole tiles, for speed. Header only. */
#ifndef LQ_TESTS_CHECKKERN_GPU_H
#define LQ_TESTS_CHECKKERN_GPU_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/block_types.h"
#include "kernels/gpu.h"
#include "kernels/kernels.h"

static struct lq_gpu_lease *gpu_lease;

/* Waits for a tile; a GPU that fails is the end. */
static bool gpu_finish(size_t slot)
{
    bool clean = false;
    const char *why = lq_gpu_end(gpu_lease, slot, &clean);
    if (why != NULL) {
        fprintf(stderr, "checkkern: the GPU failed: %s\n", why);
        exit(1);
    }
    return clean;
}

static void gpu_start(size_t slot, const struct lq_gpu_tile *tile)
{
    const char *why = lq_gpu_begin(gpu_lease, slot, tile);
    if (why != NULL) {
        fprintf(stderr, "checkkern: the GPU failed: %s\n", why);
        exit(1);
    }
}

static void gpu_encode(enum lq_dtype dtype, const float *row, void *blocks, size_t col_count,
                       const float *importance)
{
    struct lq_gpu_buffers buffers = lq_gpu_buffers(gpu_lease, 0);
    struct lq_gpu_tile tile = {.source = LQ_DTYPE_F32,
                               .target = dtype,
                               .row_count = 1,
                               .col_count = col_count,
                               .importance_rows = importance == NULL ? 0 : 1,
                               .limit = FLT_MAX};
    memcpy(buffers.in, row, col_count * sizeof *row);
    if (importance != NULL) {
        memcpy(buffers.importance, importance, col_count * sizeof *importance);
    }
    gpu_start(0, &tile);
    (void)gpu_finish(0);
    memcpy(blocks, buffers.out, lq_dtype_row_bytes(dtype, col_count));
}

static void gpu_decode(enum lq_dtype dtype, const void *blocks, float *out, size_t elem_count)
{
    struct lq_gpu_buffers buffers = lq_gpu_buffers(gpu_lease, 0);
    struct lq_gpu_tile tile = {.source = dtype,
                               .target = LQ_DTYPE_F32,
                               .row_count = 1,
                               .col_count = elem_count,
                               .limit = FLT_MAX};
    memcpy(buffers.in, blocks, lq_dtype_row_bytes(dtype, elem_count));
    gpu_start(0, &tile);
    (void)gpu_finish(0);
    memcpy(out, buffers.out, elem_count * sizeof *out);
}

#define GPU_FUNCTIONS(upper, lower)                                                                \
    static void gpu_encode_##lower(const float *row, void *blocks, size_t col_count,               \
                                   const float *importance)                                        \
    {                                                                                              \
        gpu_encode(LQ_DTYPE_##upper, row, blocks, col_count, importance);                          \
    }                                                                                              \
    static void gpu_decode_##lower(const void *blocks, float *out, size_t elem_count)              \
    {                                                                                              \
        gpu_decode(LQ_DTYPE_##upper, blocks, out, elem_count);                                     \
    }
#define GPU_FILL(upper, lower)                                                                     \
    table.encode[LQ_DTYPE_##upper] = gpu_encode_##lower;                                           \
    table.decode[LQ_DTYPE_##upper] = gpu_decode_##lower;

GPU_FUNCTIONS(F16, f16)
GPU_FUNCTIONS(BF16, bf16)
LQ_BLOCK_TYPES(GPU_FUNCTIONS)

/* NULL, with a reason, where there is no GPU. */
static const struct lq_kernels *gpu_table(const char **why)
{
    static struct lq_kernels table;
    lq_gpu_choose(LQ_GPU_QUIET, -1);
    *why = lq_gpu_start();
    if (*why != NULL) {
        return NULL;
    }
    gpu_lease = lq_gpu_take();
    if (gpu_lease == NULL) {
        *why = "its memory is short";
        return NULL;
    }
    table.find_nonfinite = lq_kernels_at(LQ_CPU_REF)->find_nonfinite;
    table.add_squares = lq_kernels_at(LQ_CPU_REF)->add_squares;
    GPU_FILL(F16, f16)
    GPU_FILL(BF16, bf16)
    LQ_BLOCK_TYPES(GPU_FILL)
    return &table;
}

#define GPU_BENCH_COLS 4096
#define GPU_BENCH_TILES 24

static double gpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Nanoseconds a weight, copies to and fro included, with one tile copied while another is computed.
 * Best of three. */
static double gpu_measure(const struct lq_gpu_tile *tile)
{
    double best = INFINITY;
    for (int run = 0; run < 4; run++) {
        double start = gpu_seconds();
        for (size_t i = 0; i < GPU_BENCH_TILES + LQ_GPU_SLOTS; i++) {
            size_t slot = i % LQ_GPU_SLOTS;
            if (i >= LQ_GPU_SLOTS) {
                (void)gpu_finish(slot);
            }
            if (i < GPU_BENCH_TILES) {
                gpu_start(slot, tile);
            }
        }
        double elapsed = gpu_seconds() - start;
        double weights = (double)GPU_BENCH_TILES * (double)(tile->row_count * tile->col_count);
        /* The first run loads kernels and sets clocks. */
        best = run == 0 ? best : fmin(best, elapsed * 1e9 / weights);
    }
    return best;
}

/* Each type from bf16 rows with an importance. `cpu_ns` has what one core of the CPU takes. What is
 * compared with is copying alone: the same bytes to and fro, which floats from and to F32 give. */
static void gpu_bench(const char *only, const double cpu_ns[LQ_DTYPE_COUNT])
{
    const size_t elems = LQ_GPU_TILE_ELEMS;
    struct lq_gpu_tile tile = {.source = LQ_DTYPE_F32,
                               .target = LQ_DTYPE_F32,
                               .row_count = elems / GPU_BENCH_COLS,
                               .col_count = GPU_BENCH_COLS,
                               .limit = FLT_MAX};
    for (size_t slot = 0; slot < LQ_GPU_SLOTS; slot++) {
        memset(lq_gpu_buffers(gpu_lease, slot).in, 0, elems * sizeof(float));
    }
    double copy_gb_per_s = 8.0 / gpu_measure(&tile);
    printf("%s: %s, copying alone %.1f GB/s\n", lq_gpu_name(gpu_lease), lq_gpu_device(gpu_lease),
           copy_gb_per_s);
    for (size_t slot = 0; slot < LQ_GPU_SLOTS; slot++) {
        struct lq_gpu_buffers buffers = lq_gpu_buffers(gpu_lease, slot);
        uint16_t *in = buffers.in;
        uint32_t random = 7;
        for (size_t i = 0; i < elems; i++) {
            random = random * 1664525u + 1013904223u;
            in[i] = lq_f32_to_bf16(((float)(random >> 8) * 0x1p-24f - 0.5f) * 0.05f);
        }
        for (size_t i = 0; i < GPU_BENCH_COLS; i++) {
            buffers.importance[i] = 0.1f + (float)(i % 17);
        }
    }
    tile.source = LQ_DTYPE_BF16;
    tile.importance_rows = 1;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (dtype == LQ_DTYPE_F32 || !lq_gpu_does(tile.source, (enum lq_dtype)dtype, elems) ||
            (only != NULL && strcmp(only, lq_dtype_name((uint32_t)dtype)) != 0)) {
            continue;
        }
        tile.target = (enum lq_dtype)dtype;
        double ns = gpu_measure(&tile);
        double gb_per_s = (2.0 + lq_dtype_bpw(tile.target) / 8.0) / ns;
        printf(
            "encode  %-8s cuda    %9.4f ns/weight %8.2f GB/s %5.1f%% of copying %8.1fx one core\n",
            lq_dtype_name((uint32_t)dtype), ns, gb_per_s, 100.0 * gb_per_s / copy_gb_per_s,
            cpu_ns[dtype] / ns);
        fflush(stdout);
    }
}

#endif

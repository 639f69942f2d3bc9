#include <limits.h>
#include <stdlib.h>

#include "kernels/device_cpu_parts.h"

/* Tile sizes. With BLAS they decide the shape of each call, and so the last bits of results: never
 * derive them from the number of threads. */
enum {
    BLAS_ROWS = 256,
    BLAS_COLS = 256,
    TILE_COLS = 1024, /* columns of a task: enough to pay for packing its rows */
    ALIGNMENT_BYTES = 64,
    PANELS_BYTES = 64 * 1024 * 1024, /* packed columns at a time */
};

void lq_cpu_choose_sgemm(struct lq_cpu_device *cpu)
{
    if (cpu->sgemm != NULL) {
        return;
    }
    cpu->tiles = cpu->blas == LQ_CPU_BLAS_AUTO ? lq_matmul_tiles() : NULL;
    if (cpu->tiles != NULL) {
        cpu->sgemm = cpu->tiles->sgemm;
        return;
    }
    if (cpu->blas != LQ_CPU_BLAS_OWN) {
        cpu->sgemm = lq_openblas_load();
        if (cpu->sgemm == NULL) {
            cpu->notice =
                "OpenBLAS (libopenblas.so.0) was not found: matrix products run on slower "
                "built-in loops; install the package libopenblas0";
        }
    }
    if (cpu->sgemm == NULL) {
        cpu->sgemm = lq_sgemm_own;
    }
}

/* A product, or the part of it with columns [col, col + col_count). */
struct matmul_job {
    const struct lq_cpu_device *cpu;
    const float *a;
    const float *b;
    float *c;
    size_t rows;
    size_t out_cols;
    size_t in_cols;
    size_t row_tiles;
    size_t col;
    size_t col_count;
};

static struct lq_sgemm_args tile_args(const struct matmul_job *job, size_t row, size_t rows,
                                      size_t col, size_t cols)
{
    return (struct lq_sgemm_args){
        .m = rows,
        .n = cols,
        .k = job->in_cols,
        .alpha = 1.0f,
        .a = job->a + row * job->in_cols,
        .lda = job->in_cols,
        .b = job->b + col * job->in_cols,
        .ldb = job->in_cols,
        .beta = 0.0f,
        .c = job->c + row * job->out_cols + col,
        .ldc = job->out_cols,
    };
}

/* ---- BLAS ---- */

/* Tiles that share columns of b follow each other, so that b stays in the cache. */
static void blas_tile(void *user, size_t index)
{
    const struct matmul_job *job = user;
    size_t row = index % job->row_tiles * BLAS_ROWS;
    size_t col = index / job->row_tiles * BLAS_COLS;
    struct lq_sgemm_args args = tile_args(job, row, lq_min_size(BLAS_ROWS, job->rows - row), col,
                                          lq_min_size(BLAS_COLS, job->out_cols - col));
    job->cpu->sgemm(true, &args);
}

/* ---- our tiles ---- */

static void pack_task(void *user, size_t index)
{
    const struct matmul_job *job = user;
    size_t panel_cols = job->cpu->tiles->panel_cols;
    size_t col = index * panel_cols;
    struct lq_sgemm_args args = tile_args(job, 0, job->rows, job->col, job->col_count);
    job->cpu->tiles->pack_panel(true, &args, col, job->cpu->panels + col * job->in_cols);
}

static void multiply_task(void *user, size_t index)
{
    const struct matmul_job *job = user;
    size_t row = index % job->row_tiles * LQ_MATMUL_ROWS;
    size_t col = index / job->row_tiles * TILE_COLS;
    struct lq_sgemm_args args =
        tile_args(job, row, lq_min_size(LQ_MATMUL_ROWS, job->rows - row), job->col + col,
                  lq_min_size(TILE_COLS, job->col_count - col));
    job->cpu->tiles->multiply(&args, job->cpu->panels + col * job->in_cols);
}

/* Room for panels of at least one task's columns; the columns of a part. */
static size_t take_panels(struct lq_cpu_device *cpu, size_t out_cols, size_t in_cols)
{
    size_t depth = in_cols == 0 ? 1 : in_cols;
    size_t most = PANELS_BYTES / sizeof(float) / depth / TILE_COLS * TILE_COLS;
    size_t cols = lq_min_size(most == 0 ? TILE_COLS : most, out_cols);
    size_t rounded = lq_divide_up(cols, cpu->tiles->panel_cols) * cpu->tiles->panel_cols;
    size_t bytes = lq_divide_up(rounded * depth * sizeof(float), ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    if (bytes > cpu->panels_bytes) {
        free(cpu->panels);
        cpu->panels = aligned_alloc(ALIGNMENT_BYTES, bytes);
        cpu->panels_bytes = cpu->panels == NULL ? 0 : bytes;
    }
    if (cpu->panels == NULL) {
        cpu->failure = "out of memory for matrix products";
    }
    return cols;
}

static void multiply_packed(struct matmul_job *job, struct lq_cpu_device *cpu)
{
    size_t cols = take_panels(cpu, job->out_cols, job->in_cols);
    job->row_tiles = lq_divide_up(job->rows, LQ_MATMUL_ROWS);
    for (job->col = 0; job->col < job->out_cols; job->col += cols) {
        job->col_count = lq_min_size(cols, job->out_cols - job->col);
        lq_cpu_run_tiles(cpu, lq_divide_up(job->col_count, cpu->tiles->panel_cols), pack_task, job);
        lq_cpu_run_tiles(cpu, job->row_tiles * lq_divide_up(job->col_count, TILE_COLS),
                         multiply_task, job);
    }
}

void lq_cpu_matmul(struct lq_device *device, const float *a, const float *b, float *c, size_t rows,
                   size_t out_cols, size_t in_cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    if (rows > INT_MAX || out_cols > INT_MAX || in_cols > INT_MAX) {
        cpu->failure = "a matrix has a dimension of 2^31 or more";
        return;
    }
    if (rows == 0 || out_cols == 0) {
        return;
    }
    lq_cpu_choose_sgemm(cpu);
    struct matmul_job job = {
        .cpu = cpu, .a = a, .b = b, .c = c, .rows = rows, .out_cols = out_cols, .in_cols = in_cols};
    if (cpu->tiles != NULL) {
        multiply_packed(&job, cpu);
        return;
    }
    job.row_tiles = lq_divide_up(rows, BLAS_ROWS);
    lq_cpu_run_tiles(cpu, job.row_tiles * lq_divide_up(out_cols, BLAS_COLS), blas_tile, &job);
}

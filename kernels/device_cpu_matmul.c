#include <limits.h>
#include <stdlib.h>

#include "kernels/device_cpu_parts.h"
#include "kernels/kernels.h"
#include "kernels/matmul_short.h"

/* Tile sizes. With BLAS they decide the shape of each call, and so the last bits of results: never
 * derive them from the number of threads. */
enum {
    BLAS_ROWS = 256,
    BLAS_COLS = 256,
    PANELS_BYTES = 64 * 1024 * 1024, /* packed columns at a time */
};

void lq_cpu_choose_sgemm(struct lq_cpu_device *cpu)
{
    if (cpu->sgemm != NULL) {
        return;
    }
    bool is_ours = cpu->blas == LQ_CPU_BLAS_AUTO || cpu->blas == LQ_CPU_BLAS_SHORT;
    /* Our tiles are as wide as AVX2: where vectors are twice as wide, OpenBLAS comes first. */
    bool is_wide = lq_kernels()->level >= LQ_CPU_AVX512;
    lq_sgemm_fn wide = is_ours && is_wide ? lq_openblas_load() : NULL;
    cpu->tiles = is_ours && wide == NULL ? lq_matmul_tiles() : NULL;
    cpu->short_tiles = cpu->blas == LQ_CPU_BLAS_SHORT ? lq_short_tiles() : NULL;
    if (wide != NULL || cpu->tiles != NULL) {
        cpu->sgemm = wide != NULL ? wide : cpu->tiles->sgemm;
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
    bool a_turned; /* a is [in_cols x rows] */
    bool b_plain;  /* b is [in_cols x out_cols] and not [out_cols x in_cols] */
};

static struct lq_sgemm_args tile_args(const struct matmul_job *job, size_t row, size_t rows,
                                      size_t col, size_t cols)
{
    return (struct lq_sgemm_args){
        .m = rows,
        .n = cols,
        .k = job->in_cols,
        .alpha = 1.0f,
        .a = job->a + row * (job->a_turned ? 1 : job->in_cols),
        .lda = job->a_turned ? job->rows : job->in_cols,
        .b = job->b + col * (job->b_plain ? 1 : job->in_cols),
        .ldb = job->b_plain ? job->out_cols : job->in_cols,
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
    job->cpu->tiles->pack_panel(!job->b_plain, &args, col,
                                (float *)job->cpu->panels + col * job->in_cols);
}

static void multiply_task(void *user, size_t index)
{
    const struct matmul_job *job = user;
    size_t row = index % job->row_tiles * LQ_MATMUL_ROWS;
    size_t col = index / job->row_tiles * LQ_CPU_TILE_COLS;
    struct lq_sgemm_args args =
        tile_args(job, row, lq_min_size(LQ_MATMUL_ROWS, job->rows - row), job->col + col,
                  lq_min_size(LQ_CPU_TILE_COLS, job->col_count - col));
    job->cpu->tiles->multiply(job->a_turned, &args,
                              (const float *)job->cpu->panels + col * job->in_cols);
}

bool lq_cpu_take_panels(struct lq_cpu_device *cpu, size_t bytes)
{
    bytes = lq_divide_up(bytes + 1, LQ_CPU_ALIGNMENT_BYTES) * LQ_CPU_ALIGNMENT_BYTES;
    if (bytes > cpu->panels_bytes) {
        lq_cpu_give_memory(cpu->panels);
        cpu->panels = lq_cpu_take_memory(bytes);
        cpu->panels_bytes = cpu->panels == NULL ? 0 : bytes;
    }
    if (cpu->panels == NULL) {
        cpu->failure = "out of memory for matrix products";
    }
    return cpu->panels != NULL;
}

size_t lq_cpu_part_columns(size_t out_cols, size_t column_bytes)
{
    size_t most = PANELS_BYTES / (column_bytes + 1) / LQ_CPU_TILE_COLS * LQ_CPU_TILE_COLS;
    return lq_min_size(most == 0 ? LQ_CPU_TILE_COLS : most, out_cols);
}

static void multiply_packed(struct matmul_job *job, struct lq_cpu_device *cpu)
{
    size_t panel_cols = cpu->tiles->panel_cols;
    size_t column_bytes = job->in_cols * sizeof(float);
    size_t cols = lq_cpu_part_columns(job->out_cols, column_bytes);
    if (!lq_cpu_take_panels(cpu, lq_divide_up(cols, panel_cols) * panel_cols * column_bytes)) {
        return;
    }
    job->row_tiles = lq_divide_up(job->rows, LQ_MATMUL_ROWS);
    for (job->col = 0; job->col < job->out_cols; job->col += cols) {
        job->col_count = lq_min_size(cols, job->out_cols - job->col);
        lq_cpu_run_tiles(cpu, lq_divide_up(job->col_count, panel_cols), pack_task, job);
        lq_cpu_run_tiles(cpu, job->row_tiles * lq_divide_up(job->col_count, LQ_CPU_TILE_COLS),
                         multiply_task, job);
    }
}

bool lq_cpu_multiply_tiles(struct lq_cpu_device *cpu, const struct lq_cpu_product *product)
{
    struct matmul_job job = {
        .cpu = cpu,
        .a = product->a,
        .b = product->b,
        .c = product->c,
        .rows = product->rows,
        .out_cols = product->cols,
        .in_cols = product->depth,
        .a_turned = product->a_turned,
        .b_plain = true,
    };
    lq_cpu_choose_sgemm(cpu);
    if (cpu->tiles != NULL) {
        multiply_packed(&job, cpu);
    }
    return cpu->tiles != NULL;
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
    if (cpu->short_tiles != NULL) {
        const struct lq_product product = {b, c, out_cols};
        lq_cpu_matmul_group(device, a, rows, in_cols, &product, 1, false);
        return;
    }
    if (cpu->tiles != NULL) {
        multiply_packed(&job, cpu);
        return;
    }
    job.row_tiles = lq_divide_up(rows, BLAS_ROWS);
    lq_cpu_run_tiles(cpu, job.row_tiles * lq_divide_up(out_cols, BLAS_COLS), blas_tile, &job);
}

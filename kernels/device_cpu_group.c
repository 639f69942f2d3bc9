/* Products with one left side: by 16-bit integers, and by our vector tiles where right sides lie
 * arranged. A task is a tile of one of the products, so all of them share one loop over threads. */
#include <limits.h>
#include <string.h>

#include "kernels/device_cpu_parts.h"
#include "kernels/kernels.h"
#include "kernels/matmul_short.h"

enum {
    SHORTS_OF_FLOAT = sizeof(float) / sizeof(int16_t),
    SPANS_MAX = 2 * LQ_PRODUCTS_MAX, /* of each product what is arranged, and what is left */
};

/* Columns of one product that lie packed side by side. */
struct span {
    const float *panels;         /* 32-bit tiles */
    struct lq_short_strip strip; /* integers: the first strip, and steps from one to the next */
    size_t value_step;
    size_t scale_step;
    float *c; /* of the first column */
    size_t ldc;
    size_t cols;
};

struct group_job {
    const struct lq_cpu_device *cpu;
    const float *a;
    size_t rows;
    size_t k;
    size_t row_tiles;
    struct lq_short_strip a_strip; /* integers: all rows, packed */
    struct span spans[SPANS_MAX];
    size_t span_count;
    /* Columns that are packed now: rows of b, into the span `into`. */
    const float *b;
    const struct span *into;
};

/* ---- tasks ---- */

/* A tile of rows and columns out of the span that is returned. */
static const struct span *find_tile(const struct group_job *job, size_t index, size_t *row,
                                    size_t *col)
{
    const struct span *span = job->spans;
    size_t tiles = job->row_tiles * lq_divide_up(span->cols, LQ_CPU_TILE_COLS);
    while (index >= tiles) {
        index -= tiles;
        span++;
        tiles = job->row_tiles * lq_divide_up(span->cols, LQ_CPU_TILE_COLS);
    }
    *row = index % job->row_tiles * LQ_MATMUL_ROWS;
    *col = index / job->row_tiles * LQ_CPU_TILE_COLS;
    return span;
}

static size_t count_tiles(const struct group_job *job)
{
    size_t tiles = 0;
    for (size_t i = 0; i < job->span_count; i++) {
        tiles += job->row_tiles * lq_divide_up(job->spans[i].cols, LQ_CPU_TILE_COLS);
    }
    return tiles;
}

static void float_task(void *user, size_t index)
{
    const struct group_job *job = user;
    size_t row = 0;
    size_t col = 0;
    const struct span *span = find_tile(job, index, &row, &col);
    const struct lq_sgemm_args args = {
        .m = lq_min_size(LQ_MATMUL_ROWS, job->rows - row),
        .n = lq_min_size(LQ_CPU_TILE_COLS, span->cols - col),
        .k = job->k,
        .alpha = 1.0f,
        .a = job->a + row * job->k,
        .lda = job->k,
        .c = span->c + row * span->ldc + col,
        .ldc = span->ldc,
    };
    job->cpu->tiles->multiply(false, &args, span->panels + col * job->k);
}

static void short_task(void *user, size_t index)
{
    const struct group_job *job = user;
    size_t row = 0;
    size_t col = 0;
    const struct span *span = find_tile(job, index, &row, &col);
    size_t strip = col / job->cpu->short_tiles->b_rows;
    const struct lq_short_args args = {
        .rows = lq_min_size(LQ_MATMUL_ROWS, job->rows - row),
        .cols = lq_min_size(LQ_CPU_TILE_COLS, span->cols - col),
        .k = job->k,
        .a = {job->a_strip.values + row * lq_short_values(job->k),
              job->a_strip.scales + row * lq_short_blocks(job->k)},
        .b = {span->strip.values + strip * span->value_step,
              span->strip.scales + strip * span->scale_step},
        .b_value_step = span->value_step,
        .b_scale_step = span->scale_step,
        .c = span->c + row * span->ldc + col,
        .ldc = span->ldc,
    };
    job->cpu->short_tiles->multiply(&args);
}

static void short_pack_rows(void *user, size_t index)
{
    const struct group_job *job = user;
    const struct lq_short_tiles *tiles = job->cpu->short_tiles;
    size_t row = index * tiles->a_rows;
    const struct lq_short_strip strip = {job->a_strip.values + row * lq_short_values(job->k),
                                         job->a_strip.scales + row * lq_short_blocks(job->k)};
    tiles->pack(job->a + row * job->k, job->k, lq_min_size(tiles->a_rows, job->rows - row), job->k,
                tiles->a_rows, strip);
}

static void short_pack_columns(void *user, size_t index)
{
    const struct group_job *job = user;
    const struct lq_short_tiles *tiles = job->cpu->short_tiles;
    const struct span *span = job->into;
    size_t col = index * tiles->b_rows;
    const struct lq_short_strip strip = {span->strip.values + index * span->value_step,
                                         span->strip.scales + index * span->scale_step};
    tiles->pack(job->b + col * job->k, job->k, lq_min_size(tiles->b_rows, span->cols - col), job->k,
                tiles->b_rows, strip);
}

/* ---- arranged right sides ---- */

/* Packed integers need not fit where the floats were: rows are padded to whole blocks. */
static bool shorts_fit(size_t k)
{
    return lq_short_values(k) * sizeof(int16_t) + lq_short_blocks(k) * sizeof(float) <=
           k * sizeof(float);
}

static size_t panel_cols(const struct lq_cpu_device *cpu)
{
    return cpu->short_tiles != NULL ? cpu->short_tiles->b_rows : cpu->tiles->panel_cols;
}

/* Columns of a product that lie arranged. */
static size_t arranged_cols(const struct lq_cpu_device *cpu, size_t out_cols, size_t k)
{
    bool fits = cpu->short_tiles == NULL || shorts_fit(k);
    return fits ? out_cols / panel_cols(cpu) * panel_cols(cpu) : 0;
}

/* The strip that lies where `rows` rows of floats were. */
static struct lq_short_strip strip_in_place(const float *to, size_t rows, size_t k)
{
    int16_t *values = (int16_t *)(uintptr_t)to;
    return (struct lq_short_strip){values, (float *)(void *)(values + rows * lq_short_values(k))};
}

void lq_cpu_arrange(const struct lq_device *device, const float *from, float *to, size_t rows,
                    size_t cols)
{
    const struct lq_cpu_device *cpu = (const struct lq_cpu_device *)device;
    size_t step = panel_cols(cpu);
    size_t arranged = arranged_cols(cpu, rows, cols);
    const struct lq_sgemm_args args = {.n = rows, .k = cols, .b = from, .ldb = cols};
    for (size_t row = 0; row < arranged; row += step) {
        float *out = to + row * cols;
        if (cpu->short_tiles != NULL) {
            cpu->short_tiles->pack(from + row * cols, cols, step, cols, step,
                                   strip_in_place(out, step, cols));
        } else {
            cpu->tiles->pack_panel(true, &args, row, out);
        }
    }
    memcpy(to + arranged * cols, from + arranged * cols, (rows - arranged) * cols * sizeof *to);
}

/* ---- groups ---- */

static void run_spans(struct group_job *job, struct lq_cpu_device *cpu)
{
    lq_cpu_run_tiles(cpu, count_tiles(job), cpu->short_tiles != NULL ? short_task : float_task,
                     job);
}

static void add_arranged_span(struct group_job *job, const struct lq_product *product)
{
    const struct lq_cpu_device *cpu = job->cpu;
    struct span span = {.c = product->c,
                        .ldc = product->out_cols,
                        .cols = arranged_cols(cpu, product->out_cols, job->k)};
    size_t step = panel_cols(cpu);
    if (cpu->short_tiles != NULL) {
        span.strip = strip_in_place(product->b, step, job->k);
        span.value_step = step * job->k * SHORTS_OF_FLOAT;
        span.scale_step = step * job->k;
    }
    span.panels = product->b;
    if (span.cols != 0) {
        job->spans[job->span_count++] = span;
    }
}

/* Packs `cols` columns from `col` on into `memory` and makes a span of them. */
static void add_packed_span(struct group_job *job, struct lq_cpu_device *cpu,
                            const struct lq_product *product, size_t col, size_t cols,
                            float *memory)
{
    struct span *span = &job->spans[job->span_count++];
    size_t k = job->k;
    *span = (struct span){.c = product->c + col, .ldc = product->out_cols, .cols = cols};
    if (cpu->short_tiles != NULL) {
        size_t step = cpu->short_tiles->b_rows;
        size_t strips = lq_divide_up(cols, step);
        span->strip = strip_in_place(memory, strips * step, k);
        span->value_step = step * lq_short_values(k);
        span->scale_step = step * lq_short_blocks(k);
        job->b = product->b + col * k;
        job->into = span;
        lq_cpu_run_tiles(cpu, strips, short_pack_columns, job);
        return;
    }
    const struct lq_sgemm_args args = {.n = product->out_cols, .k = k, .b = product->b, .ldb = k};
    cpu->tiles->pack_panel(true, &args, col, memory);
    span->panels = memory;
}

static size_t column_bytes(const struct lq_cpu_device *cpu, size_t k)
{
    return cpu->short_tiles == NULL
               ? k * sizeof(float)
               : lq_short_values(k) * sizeof(int16_t) + lq_short_blocks(k) * sizeof(float);
}

/* Bytes of `cols` packed columns. */
static size_t packed_bytes(const struct lq_cpu_device *cpu, size_t cols, size_t k)
{
    size_t step = panel_cols(cpu);
    return lq_divide_up(cols, step) * step * column_bytes(cpu, k);
}

/* `memory` holds what is left of the products beside whole panels. */
static void run_arranged(struct group_job *job, struct lq_cpu_device *cpu,
                         const struct lq_product *products, size_t count, char *memory)
{
    for (size_t i = 0; i < count; i++) {
        size_t done = arranged_cols(cpu, products[i].out_cols, job->k);
        size_t left = products[i].out_cols - done;
        add_arranged_span(job, &products[i]);
        if (left != 0) {
            add_packed_span(job, cpu, &products[i], done, left, (float *)(void *)memory);
            memory += packed_bytes(cpu, left, job->k);
        }
    }
    run_spans(job, cpu);
}

/* One product after the other, as many columns at a time as the scratch takes. */
static void run_packing(struct group_job *job, struct lq_cpu_device *cpu,
                        const struct lq_product *products, size_t count, char *memory)
{
    for (size_t i = 0; i < count; i++) {
        size_t cols = lq_cpu_part_columns(products[i].out_cols, column_bytes(cpu, job->k));
        for (size_t col = 0; col < products[i].out_cols; col += cols) {
            job->span_count = 0;
            add_packed_span(job, cpu, &products[i], col,
                            lq_min_size(cols, products[i].out_cols - col), (float *)(void *)memory);
            run_spans(job, cpu);
        }
    }
}

/* Scratch that the packed columns of a group take. */
static size_t scratch_bytes(const struct lq_cpu_device *cpu, const struct group_job *job,
                            const struct lq_product *products, size_t count, bool arranged)
{
    size_t most = 0;
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        size_t cols = products[i].out_cols;
        sum += packed_bytes(cpu, cols - arranged_cols(cpu, cols, job->k), job->k);
        size_t part =
            packed_bytes(cpu, lq_cpu_part_columns(cols, column_bytes(cpu, job->k)), job->k);
        most = part > most ? part : most;
    }
    return arranged ? sum : most;
}

static void run_group(struct group_job *job, struct lq_cpu_device *cpu,
                      const struct lq_product *products, size_t count, bool arranged)
{
    size_t a_bytes = 0;
    size_t a_rows = 0;
    if (cpu->short_tiles != NULL) {
        a_rows = lq_divide_up(job->rows, cpu->short_tiles->a_rows) * cpu->short_tiles->a_rows;
        a_bytes = lq_divide_up(a_rows * column_bytes(cpu, job->k) + 1, LQ_CPU_ALIGNMENT_BYTES) *
                  LQ_CPU_ALIGNMENT_BYTES;
    }
    if (!lq_cpu_take_panels(cpu, a_bytes + scratch_bytes(cpu, job, products, count, arranged))) {
        return;
    }
    job->row_tiles = lq_divide_up(job->rows, LQ_MATMUL_ROWS);
    char *memory = (char *)cpu->panels + a_bytes;
    if (cpu->short_tiles != NULL) {
        job->a_strip = strip_in_place(cpu->panels, a_rows, job->k);
        lq_cpu_run_tiles(cpu, a_rows / cpu->short_tiles->a_rows, short_pack_rows, job);
    }
    (arranged ? run_arranged : run_packing)(job, cpu, products, count, memory);
}

void lq_cpu_matmul_group(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, size_t count, bool arranged)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct group_job job = {.cpu = cpu, .a = a, .rows = rows, .k = in_cols};
    lq_cpu_choose_sgemm(cpu);
    bool fits = rows <= INT_MAX && in_cols <= INT_MAX && count <= LQ_PRODUCTS_MAX;
    for (size_t i = 0; i < count; i++) {
        fits = fits && products[i].out_cols <= INT_MAX;
    }
    if (!fits) {
        cpu->failure = "a matrix has a dimension of 2^31 or more";
    } else if (cpu->short_tiles == NULL && !arranged) {
        for (size_t i = 0; i < count; i++) {
            lq_cpu_matmul(device, a, products[i].b, products[i].c, rows, products[i].out_cols,
                          in_cols);
        }
    } else if (rows != 0) {
        run_group(&job, cpu, products, count, arranged);
    }
}

void lq_cpu_offer_arrange(struct lq_cpu_device *cpu)
{
    bool is_short = cpu->blas == LQ_CPU_BLAS_SHORT && lq_short_tiles() != NULL;
    /* With AVX-512 32-bit products are OpenBLAS's, which packs by itself. */
    bool is_float = cpu->blas == LQ_CPU_BLAS_AUTO && lq_kernels()->level == LQ_CPU_AVX2;
    if (is_short || is_float) {
        lq_cpu_choose_sgemm(cpu);
        cpu->ops.arrange = lq_cpu_arrange;
        cpu->ops.arrange_rows = panel_cols(cpu);
    }
}

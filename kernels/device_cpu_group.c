/* Products with one left side: by 16-bit integers, and by our vector tiles where right sides lie
 * arranged. A task is a tile of one of the products, so all of them share one loop over threads. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/device_cpu_parts.h"
#include "kernels/kernels.h"
#include "kernels/matmul_short.h"

enum {
    SHORTS_OF_FLOAT = sizeof(float) / sizeof(int16_t),
    SPANS_MAX = 2 * LQ_PRODUCTS_MAX, /* of each product what is arranged, and what is left */
    /* Of a task: its columns stay in the second-level cache beside a block of rows. */
    TASK_BYTES = 384 * 1024,
    TASK_COLS_MIN = 32,
};

/* Columns of one product that lie packed side by side. */
struct span {
    const float *panels;         /* 32-bit tiles */
    struct lq_short_strip strip; /* integers: the first strip, and steps from one to the next */
    size_t value_step;
    size_t scale_step;
    float *c; /* of the first column */
    size_t ldc;
    size_t first_col; /* in the product's matrix */
    size_t cols;
};

struct entropy {
    const int32_t *targets;
    float cap;
    size_t cols;
    struct lq_cpu_row_entropy *rows; /* [strips x rows] */
    float *picked;                   /* [rows]: the logits of the targets */
    double *nll;
};

struct group_job {
    const struct lq_cpu_device *cpu;
    const float *a;
    size_t rows;
    size_t k;
    size_t row_tiles;
    size_t tile_cols;              /* columns of a task, whole panels */
    float *left;                   /* 32-bit tiles: all rows, packed */
    struct lq_short_strip a_strip; /* integers: likewise */
    struct span spans[SPANS_MAX];
    size_t span_count;
    /* Columns that are packed now: rows of b, into the span `into`. */
    const float *b;
    const struct span *into;
    struct entropy entropy;
    /* Spans of gates are followed by those of what they are multiplied with. */
    void (*gate)(float *gate, const float *up, size_t count);
};

/* ---- tasks ---- */

/* A tile of rows and columns out of the span that is returned. */
static const struct span *find_tile(const struct group_job *job, size_t index, size_t *row,
                                    size_t *col)
{
    const struct span *span = job->spans;
    size_t tiles = job->row_tiles * lq_divide_up(span->cols, job->tile_cols);
    while (index >= tiles) {
        index -= tiles;
        span++;
        tiles = job->row_tiles * lq_divide_up(span->cols, job->tile_cols);
    }
    *row = index % job->row_tiles * LQ_MATMUL_ROWS;
    *col = index / job->row_tiles * job->tile_cols;
    return span;
}

static size_t count_tiles(const struct group_job *job, size_t span_count)
{
    size_t tiles = 0;
    for (size_t i = 0; i < span_count; i++) {
        tiles += job->row_tiles * lq_divide_up(job->spans[i].cols, job->tile_cols);
    }
    return tiles;
}

/* Part of the matrices of a span, into c. */
struct tile {
    const struct span *span;
    size_t row;
    size_t rows;
    size_t col;
    size_t cols;
    float *c;
    size_t ldc;
};

static void multiply_floats(const struct group_job *job, const struct tile *tile)
{
    const struct lq_sgemm_args args = {
        .m = tile->rows,
        .n = tile->cols,
        .k = job->k,
        .alpha = 1.0f,
        .c = tile->c,
        .ldc = tile->ldc,
    };
    const float *left = job->left + tile->row / LQ_MATMUL_ROWS * lq_matmul_left_size(job->k);
    job->cpu->tiles->multiply_packed(&args, left, tile->span->panels + tile->col * job->k);
}

static void multiply_shorts(const struct group_job *job, const struct tile *tile)
{
    const struct span *span = tile->span;
    size_t strip = tile->col / job->cpu->short_tiles->b_rows;
    const struct lq_short_args args = {
        .rows = tile->rows,
        .cols = tile->cols,
        .k = job->k,
        .a = {job->a_strip.values + tile->row * lq_short_values(job->k),
              job->a_strip.scales + tile->row * lq_short_blocks(job->k)},
        .b = {span->strip.values + strip * span->value_step,
              span->strip.scales + strip * span->scale_step},
        .b_value_step = span->value_step,
        .b_scale_step = span->scale_step,
        .c = tile->c,
        .ldc = tile->ldc,
    };
    job->cpu->short_tiles->multiply(&args);
}

static void multiply_tile(const struct group_job *job, const struct tile *tile)
{
    (job->cpu->short_tiles != NULL ? multiply_shorts : multiply_floats)(job, tile);
}

/* A tile where its matrix lies. */
static struct tile tile_in_place(const struct group_job *job, const struct span *span, size_t row,
                                 size_t col)
{
    return (struct tile){.span = span,
                         .row = row,
                         .rows = lq_min_size(LQ_MATMUL_ROWS, job->rows - row),
                         .col = col,
                         .cols = lq_min_size(job->tile_cols, span->cols - col),
                         .c = span->c + row * span->ldc + col,
                         .ldc = span->ldc};
}

static void product_task(void *user, size_t index)
{
    const struct group_job *job = user;
    size_t row = 0;
    size_t col = 0;
    const struct span *span = find_tile(job, index, &row, &col);
    struct tile tile = tile_in_place(job, span, row, col);
    multiply_tile(job, &tile);
}

/* A tile of gates, and the same one of what they are multiplied with, while both are in the cache.
 */
static void gate_task(void *user, size_t index)
{
    const struct group_job *job = user;
    size_t row = 0;
    size_t col = 0;
    const struct span *span = find_tile(job, index, &row, &col);
    struct tile gate = tile_in_place(job, span, row, col);
    struct tile up = tile_in_place(job, span + job->span_count / 2, row, col);
    multiply_tile(job, &gate);
    multiply_tile(job, &up);
    for (size_t i = 0; i < gate.rows; i++) {
        job->gate(gate.c + i * gate.ldc, up.c + i * up.ldc, gate.cols);
    }
}

static void float_pack_rows(void *user, size_t index)
{
    const struct group_job *job = user;
    size_t row = index * LQ_MATMUL_ROWS;
    const struct lq_sgemm_args args = {.m = lq_min_size(LQ_MATMUL_ROWS, job->rows - row),
                                       .k = job->k,
                                       .a = job->a + row * job->k,
                                       .lda = job->k};
    job->cpu->tiles->pack_left(&args, job->left + index * lq_matmul_left_size(job->k));
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
    lq_cpu_run_tiles(cpu, count_tiles(job, job->span_count), product_task, job);
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
    *span = (struct span){.c = product->c == NULL ? NULL : product->c + col,
                          .ldc = product->out_cols,
                          .first_col = col,
                          .cols = cols};
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
static void add_spans(struct group_job *job, struct lq_cpu_device *cpu,
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
}

static void run_arranged(struct group_job *job, struct lq_cpu_device *cpu,
                         const struct lq_product *products, size_t count, char *memory)
{
    add_spans(job, cpu, products, count, memory);
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

/* Bytes of the packed left side. */
static size_t left_bytes(const struct lq_cpu_device *cpu, const struct group_job *job)
{
    size_t bytes = job->row_tiles * lq_matmul_left_size(job->k) * sizeof(float);
    if (cpu->short_tiles != NULL) {
        size_t rows = lq_divide_up(job->rows, cpu->short_tiles->a_rows) * cpu->short_tiles->a_rows;
        bytes = rows * column_bytes(cpu, job->k);
    }
    return lq_divide_up(bytes + 1, LQ_CPU_ALIGNMENT_BYTES) * LQ_CPU_ALIGNMENT_BYTES;
}

static void pack_left(struct group_job *job, struct lq_cpu_device *cpu)
{
    if (cpu->short_tiles == NULL) {
        job->left = cpu->panels;
        lq_cpu_run_tiles(cpu, job->row_tiles, float_pack_rows, job);
        return;
    }
    size_t strips = lq_divide_up(job->rows, cpu->short_tiles->a_rows);
    job->a_strip = strip_in_place(cpu->panels, strips * cpu->short_tiles->a_rows, job->k);
    lq_cpu_run_tiles(cpu, strips, short_pack_rows, job);
}

/* Tasks with columns of `products` right sides. */
static void cut_tasks(struct group_job *job, size_t products)
{
    size_t panel = panel_cols(job->cpu);
    size_t cols = TASK_BYTES / products / (column_bytes(job->cpu, job->k) + 1) / panel * panel;
    job->tile_cols = lq_min_size(cols < TASK_COLS_MIN ? TASK_COLS_MIN : cols, LQ_CPU_TILE_COLS);
    job->row_tiles = lq_divide_up(job->rows, LQ_MATMUL_ROWS);
}

static void run_group(struct group_job *job, struct lq_cpu_device *cpu,
                      const struct lq_product *products, size_t count, bool arranged)
{
    cut_tasks(job, 1);
    size_t a_bytes = left_bytes(cpu, job);
    if (!lq_cpu_take_panels(cpu, a_bytes + scratch_bytes(cpu, job, products, count, arranged))) {
        return;
    }
    pack_left(job, cpu);
    (arranged ? run_arranged : run_packing)(job, cpu, products, count,
                                            (char *)cpu->panels + a_bytes);
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

/* ---- gates ---- */

void lq_cpu_product_gate(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, bool gelu)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct group_job job = {.cpu = cpu,
                            .a = a,
                            .rows = rows,
                            .k = in_cols,
                            .gate = gelu ? cpu->rows->gelu_mul : cpu->rows->silu_mul};
    if (rows > INT_MAX || in_cols > INT_MAX || products[0].out_cols > INT_MAX ||
        products[0].out_cols != products[1].out_cols) {
        cpu->failure = "matrices of gates have a dimension of 2^31 or more, or not the same shape";
        return;
    }
    cut_tasks(&job, 2);
    size_t a_bytes = left_bytes(cpu, &job);
    if (rows == 0 ||
        !lq_cpu_take_panels(cpu, a_bytes + scratch_bytes(cpu, &job, products, 2, true))) {
        return;
    }
    pack_left(&job, cpu);
    add_spans(&job, cpu, products, 2, (char *)cpu->panels + a_bytes);
    lq_cpu_run_tiles(cpu, count_tiles(&job, job.span_count / 2), gate_task, &job);
}

/* ---- cross entropy ---- */

/* Logits of columns [col, col + cols) of the whole matrix; what is not arranged is another span. */
static void make_logits(const struct group_job *job, struct tile tile, size_t cols)
{
    for (size_t i = 0; i < job->span_count && cols != 0; i++) {
        const struct span *span = &job->spans[i];
        size_t end = span->first_col + span->cols;
        if (tile.col < end) {
            struct tile part = tile;
            part.span = span;
            part.col = tile.col - span->first_col;
            part.cols = lq_min_size(cols, end - tile.col);
            multiply_tile(job, &part);
            tile.col += part.cols;
            tile.c += part.cols;
            cols -= part.cols;
        }
    }
}

/* Adds a tile of logits to what is known of its rows in a strip. */
static void add_logits(const struct group_job *job, const struct tile *tile,
                       struct lq_cpu_row_entropy *rows)
{
    const struct lq_device_rows *fn = job->cpu->rows;
    const struct entropy *entropy = &job->entropy;
    for (size_t i = 0; i < tile->rows; i++) {
        float *logits = tile->c + i * tile->ldc;
        size_t row = tile->row + i;
        if (entropy->cap != 0.0f) {
            fn->soft_cap(logits, tile->cols, 1.0f, entropy->cap);
        }
        lq_cpu_add_entropy(fn, &rows[row], logits, tile->cols);
        size_t col = (size_t)entropy->targets[row] - tile->col;
        if (col < tile->cols) {
            entropy->picked[row] = logits[col];
        }
    }
}

/* A strip of columns for all rows: a chunk of them stays in the cache while rows pass. */
static void entropy_task(void *user, size_t index)
{
    const struct group_job *job = user;
    float logits[LQ_MATMUL_ROWS * LQ_CPU_ENTROPY_CHUNK];
    struct tile tile = {.c = logits, .ldc = LQ_CPU_ENTROPY_CHUNK};
    struct lq_cpu_row_entropy *rows = job->entropy.rows + index * job->rows;
    size_t first = index * LQ_CPU_ENTROPY_STRIP;
    size_t end = lq_min_size(first + LQ_CPU_ENTROPY_STRIP, job->entropy.cols);
    for (size_t row = 0; row < job->rows; row++) {
        rows[row] = lq_cpu_no_entropy();
    }
    for (tile.col = first; tile.col < end; tile.col += tile.cols) {
        tile.cols = lq_min_size(LQ_CPU_ENTROPY_CHUNK, end - tile.col);
        for (tile.row = 0; tile.row < job->rows; tile.row += tile.rows) {
            tile.rows = lq_min_size(LQ_MATMUL_ROWS, job->rows - tile.row);
            make_logits(job, tile, tile.cols);
            add_logits(job, &tile, rows);
        }
    }
}

/* Strips put together, in their order. */
static void finish_entropy(void *user, size_t index)
{
    const struct group_job *job = user;
    const struct entropy *entropy = &job->entropy;
    size_t end = lq_min_size((index + 1) * LQ_MATMUL_ROWS, job->rows);
    for (size_t row = index * LQ_MATMUL_ROWS; row < end; row++) {
        struct lq_cpu_row_entropy all = lq_cpu_no_entropy();
        for (size_t s = 0; s < lq_divide_up(entropy->cols, LQ_CPU_ENTROPY_STRIP); s++) {
            lq_cpu_join_entropy(&all, &entropy->rows[s * job->rows + row]);
        }
        entropy->nll[row] = log(all.sum) - (double)(entropy->picked[row] - all.max);
    }
}

/* Puts what is known of rows behind the packed sides; false (and a failure) without memory. */
static bool take_entropy(struct group_job *job, struct lq_cpu_device *cpu, size_t packed)
{
    struct entropy *entropy = &job->entropy;
    size_t count = lq_divide_up(entropy->cols, LQ_CPU_ENTROPY_STRIP) * job->rows;
    packed = lq_divide_up(packed, LQ_CPU_ALIGNMENT_BYTES) * LQ_CPU_ALIGNMENT_BYTES;
    if (!lq_cpu_take_panels(cpu, packed + count * sizeof *entropy->rows +
                                     job->rows * sizeof *entropy->picked)) {
        return false;
    }
    entropy->rows = (struct lq_cpu_row_entropy *)(void *)((char *)cpu->panels + packed);
    entropy->picked = (float *)(void *)(entropy->rows + count);
    return true;
}

void lq_cpu_product_entropy(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                            const struct lq_product *product, float cap, const int32_t *targets,
                            double *nll)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    const struct lq_product whole = {.b = product->b, .out_cols = product->out_cols};
    size_t left = product->out_cols - arranged_cols(cpu, product->out_cols, in_cols);
    struct group_job job = {
        .cpu = cpu,
        .a = a,
        .rows = rows,
        .k = in_cols,
        .row_tiles = lq_divide_up(rows, LQ_MATMUL_ROWS),
        .entropy = {.targets = targets, .cap = cap, .cols = product->out_cols, .nll = nll}};
    if (rows > INT_MAX || in_cols > INT_MAX || product->out_cols > INT_MAX) {
        cpu->failure = "a matrix has a dimension of 2^31 or more";
        return;
    }
    size_t a_bytes = left_bytes(cpu, &job);
    if (rows == 0 || !take_entropy(&job, cpu, a_bytes + packed_bytes(cpu, left, in_cols))) {
        return;
    }
    pack_left(&job, cpu);
    add_spans(&job, cpu, &whole, 1, (char *)cpu->panels + a_bytes);
    lq_cpu_run_tiles(cpu, lq_divide_up(product->out_cols, LQ_CPU_ENTROPY_STRIP), entropy_task,
                     &job);
    lq_cpu_run_tiles(cpu, job.row_tiles, finish_entropy, &job);
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
        cpu->ops.product_gate = lq_cpu_product_gate;
        cpu->ops.product_entropy = lq_cpu_product_entropy;
        cpu->ops.picks_queries = true;
    }
}

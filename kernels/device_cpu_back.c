#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/device_cpu_parts.h"

/* Tile sizes; like those of the forward operations they decide the last bits of results. */
enum {
    TILE_ROWS = 256,
    TILE_COLS = 256,
    OUTER_ROWS = 64, /* rows of the result of an outer product; its left side is transposed */
    ROW_GROUP = 16,
    ELEM_GROUP = 16 * 1024,
    LOGIT_GROUP = 256, /* logits that are kept while their gradients are made in their place */
    SCORE_COLS = 64,
    QUERY_TILE = 64,
    KEY_TILE = 128,
};

static bool fits(struct lq_cpu_device *cpu, size_t a, size_t b, size_t c)
{
    if (a > INT_MAX || b > INT_MAX || c > INT_MAX) {
        cpu->failure = "a matrix has a dimension of 2^31 or more";
        return false;
    }
    return true;
}

/* ---- products ---- */

struct product_job {
    const struct lq_cpu_device *cpu;
    const float *a;
    const float *b;
    float *c;
    size_t rows; /* of c */
    size_t cols; /* of c */
    size_t depth;
    size_t row_tiles;
};

static void plain_tile(void *user, size_t index)
{
    const struct product_job *job = user;
    size_t row = index % job->row_tiles * TILE_ROWS;
    size_t col = index / job->row_tiles * TILE_COLS;
    struct lq_sgemm_args args = {
        .m = lq_min_size(TILE_ROWS, job->rows - row),
        .n = lq_min_size(TILE_COLS, job->cols - col),
        .k = job->depth,
        .alpha = 1.0f,
        .a = job->a + row * job->depth,
        .lda = job->depth,
        .b = job->b + col,
        .ldb = job->cols,
        .beta = 0.0f,
        .c = job->c + row * job->cols + col,
        .ldc = job->cols,
    };
    job->cpu->sgemm(false, &args);
}

void lq_cpu_matmul_plain(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t out_cols, size_t in_cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    const struct lq_cpu_product product = {a, b, c, rows, out_cols, in_cols, false};
    if (!fits(cpu, rows, out_cols, in_cols) || lq_cpu_multiply_tiles(cpu, &product)) {
        return;
    }
    struct product_job job = {cpu, a, b, c, rows, out_cols, in_cols, lq_divide_up(rows, TILE_ROWS)};
    lq_cpu_run_tiles(cpu, job.row_tiles * lq_divide_up(out_cols, TILE_COLS), plain_tile, &job);
}

/* to[cols x rows] = transpose(from[rows x cols]). */
static void transpose_block(const float *from, size_t from_stride, size_t rows, size_t cols,
                            float *to, size_t to_stride)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            to[c * to_stride + r] = from[r * from_stride + c];
        }
    }
}

/* BLAS knows a transposed right side only, so the left side is turned, a block at a time. */
static void outer_tile(void *user, size_t index)
{
    const struct product_job *job = user;
    float turned[OUTER_ROWS * TILE_ROWS];
    size_t row = index % job->row_tiles * OUTER_ROWS;
    size_t col = index / job->row_tiles * TILE_COLS;
    size_t rows = lq_min_size(OUTER_ROWS, job->rows - row);
    for (size_t k = 0; k < job->depth; k += TILE_ROWS) {
        size_t depth = lq_min_size(TILE_ROWS, job->depth - k);
        transpose_block(job->a + k * job->rows + row, job->rows, depth, rows, turned, TILE_ROWS);
        struct lq_sgemm_args args = {
            .m = rows,
            .n = lq_min_size(TILE_COLS, job->cols - col),
            .k = depth,
            .alpha = 1.0f,
            .a = turned,
            .lda = TILE_ROWS,
            .b = job->b + k * job->cols + col,
            .ldb = job->cols,
            .beta = k == 0 ? 0.0f : 1.0f,
            .c = job->c + row * job->cols + col,
            .ldc = job->cols,
        };
        job->cpu->sgemm(false, &args);
    }
}

void lq_cpu_matmul_outer(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t a_cols, size_t b_cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    if (!fits(cpu, rows, a_cols, b_cols) || cpu->failure != NULL) {
        return;
    }
    if (rows == 0) {
        memset(c, 0, a_cols * b_cols * sizeof *c);
        return;
    }
    const struct lq_cpu_product product = {a, b, c, a_cols, b_cols, rows, true};
    if (lq_cpu_multiply_tiles(cpu, &product)) {
        return;
    }
    struct product_job job = {cpu, a, b, c, a_cols, b_cols, rows, lq_divide_up(a_cols, OUTER_ROWS)};
    lq_cpu_run_tiles(cpu, job.row_tiles * lq_divide_up(b_cols, TILE_COLS), outer_tile, &job);
}

/* ---- rows ---- */

struct norm_job {
    const struct lq_device_rows *fn;
    const float *x;
    const float *weight;
    const float *out_grad;
    float *grad;
    size_t rows;
    size_t cols;
    float eps;
};

/* With s = 1 / sqrt(mean(x^2) + eps) and y = x s w: dx = s w dy - x s^3 / n * sum(x w dy). */
static void norm_tile(void *user, size_t index)
{
    const struct norm_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        const float *x = job->x + r * job->cols;
        const float *out_grad = job->out_grad + r * job->cols;
        double mean = job->fn->sum_squares(x, job->cols) / (double)job->cols;
        double scale = 1.0 / sqrt(mean + (double)job->eps);
        double slope = job->fn->dot(x, out_grad, job->weight, job->cols);
        double factor = scale * scale * scale * slope / (double)job->cols;
        job->fn->norm_back(x, out_grad, job->weight, job->grad + r * job->cols, job->cols,
                           (float)scale, (float)factor);
    }
}

void lq_cpu_rms_norm_back(struct lq_device *device, const float *x, const float *weight,
                          const float *out_grad, float *grad, size_t rows, size_t cols, float eps)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct norm_job job = {cpu->rows, x, weight, out_grad, grad, rows, cols, eps};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), norm_tile, &job);
}

struct entropy_job {
    const struct lq_device_rows *fn;
    float *logits;
    const int32_t *targets;
    size_t rows;
    size_t cols;
    float scale;
    float cap;
};

/* Logits [first, first + count) of a row whose maximum and sum of exponentials are known. */
static void entropy_group(const struct entropy_job *job, size_t r, size_t first, size_t count,
                          float max, float factor)
{
    float kept[LOGIT_GROUP];
    float *row = job->logits + r * job->cols + first;
    size_t target = (size_t)job->targets[r];
    memcpy(kept, row, count * sizeof *row);
    (void)job->fn->exp_scaled(row, count, 1.0f, max);
    job->fn->scale(row, count, factor);
    if (target >= first && target - first < count) {
        row[target - first] -= job->scale;
    }
    if (job->cap != 0.0f) {
        job->fn->soft_cap_back(kept, row, count, job->cap);
    }
}

static void entropy_tile(void *user, size_t index)
{
    const struct entropy_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        float *row = job->logits + r * job->cols;
        if (job->targets[r] < 0) {
            memset(row, 0, job->cols * sizeof *row);
            continue;
        }
        float max = job->fn->max(row, job->cols);
        float factor = (float)((double)job->scale / job->fn->exp_sum(row, job->cols, max));
        for (size_t j = 0; j < job->cols; j += LOGIT_GROUP) {
            entropy_group(job, r, j, lq_min_size(LOGIT_GROUP, job->cols - j), max, factor);
        }
    }
}

void lq_cpu_cross_entropy_back(struct lq_device *device, float *logits, const int32_t *targets,
                               size_t rows, size_t cols, float scale, float cap)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct entropy_job job = {cpu->rows, logits, targets, rows, cols, scale, cap};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), entropy_tile, &job);
}

/* ---- attention ---- */

struct attention_job {
    const struct lq_cpu_device *cpu;
    struct lq_attention_grad grad;
    struct lq_attention_shape shape;
    float scale;
};

/* What one task works on: every query head of one key-value head of one sample, so that no other
 * task adds to the same gradients of k and v. Scores are made again tile by tile from the row's
 * maximum and sum (Dao and others, "FlashAttention", 2022, algorithm 4). */
struct attention_tile {
    size_t q_stride;
    size_t kv_stride;
    const float *k;
    const float *v;
    float *k_grad;
    float *v_grad;
    const float *q; /* of the query tile; the next three likewise */
    const float *out;
    const float *out_grad;
    float *q_grad;
    size_t query;
    size_t query_count;
    size_t first_key; /* where the tiles of keys begin */
    float max[QUERY_TILE];
    float sum[QUERY_TILE];
    float mean[QUERY_TILE]; /* sum over the head of out * out_grad */
    float weights[QUERY_TILE * KEY_TILE];
    float slopes[QUERY_TILE * KEY_TILE];
    float turned[KEY_TILE * QUERY_TILE];
};

/* Keys [first, end) of a tile of keys: those that a query sees. */
struct key_range {
    size_t first;
    size_t end;
};

static struct key_range visible_keys(const struct attention_job *job,
                                     const struct attention_tile *tile, size_t i, size_t key,
                                     size_t key_count)
{
    size_t window = job->shape.window;
    size_t end = tile->query + i + 1;
    size_t start = window != 0 && end > window ? end - window : 0;
    struct key_range range = {0, end < key ? 0 : lq_min_size(end - key, key_count)};
    range.first = start < key ? 0 : lq_min_size(start - key, range.end);
    return range;
}

/* Products of a query and keys become capped scores if there is a cap; returns what scores are
 * still to be multiplied by. */
static float cap_scores(const struct attention_job *job, float *scores, size_t count)
{
    if (job->shape.cap == 0.0f) {
        return job->scale;
    }
    job->cpu->rows->soft_cap(scores, count, job->scale, job->shape.cap);
    return 1.0f;
}

/* scores[query_count x key_count] = left * transpose(keys). */
static void multiply_keys(const struct attention_job *job, const struct attention_tile *tile,
                          const float *left, const float *keys, size_t key, size_t key_count,
                          float *scores)
{
    struct lq_sgemm_args args = {
        .m = tile->query_count,
        .n = key_count,
        .k = job->shape.head_dim,
        .alpha = 1.0f,
        .a = left,
        .lda = tile->q_stride,
        .b = keys + key * tile->kv_stride,
        .ldb = tile->kv_stride,
        .beta = 0.0f,
        .c = scores,
        .ldc = KEY_TILE,
    };
    job->cpu->sgemm(true, &args);
}

/* to[key_count x head_dim] += transpose(left[query_count x key_count]) * right[query_count x
 * head_dim]. */
static void add_to_keys(const struct attention_job *job, struct attention_tile *tile,
                        const float *left, const float *right, float *to, size_t key,
                        size_t key_count)
{
    transpose_block(left, KEY_TILE, tile->query_count, key_count, tile->turned, QUERY_TILE);
    struct lq_sgemm_args args = {
        .m = key_count,
        .n = job->shape.head_dim,
        .k = tile->query_count,
        .alpha = 1.0f,
        .a = tile->turned,
        .lda = QUERY_TILE,
        .b = right,
        .ldb = tile->q_stride,
        .beta = 1.0f,
        .c = to + key * tile->kv_stride,
        .ldc = tile->kv_stride,
    };
    job->cpu->sgemm(false, &args);
}

/* The maximum and the sum of exponentials of each row. */
static void measure_rows(const struct attention_job *job, struct attention_tile *tile, size_t key,
                         size_t key_count)
{
    const struct lq_device_rows *fn = job->cpu->rows;
    multiply_keys(job, tile, tile->q, tile->k, key, key_count, tile->weights);
    for (size_t i = 0; i < tile->query_count; i++) {
        struct key_range range = visible_keys(job, tile, i, key, key_count);
        float *scores = tile->weights + i * KEY_TILE + range.first;
        size_t visible = range.end - range.first;
        if (visible == 0) {
            continue;
        }
        float scale = cap_scores(job, scores, visible);
        float max = fn->max(scores, visible) * scale;
        bool is_first = tile->sum[i] == 0.0f;
        if (!is_first && max > tile->max[i]) {
            tile->sum[i] *= expf(tile->max[i] - max);
        } else if (!is_first) {
            max = tile->max[i];
        }
        tile->max[i] = max;
        tile->sum[i] += fn->exp_scaled(scores, visible, scale, max);
    }
}

/* From the scores of a row and the gradients of its weights to its weights and the gradients of the
 * products of its query with the keys; zero for keys that it does not see. */
static void spread_row(const struct attention_job *job, struct attention_tile *tile, size_t i,
                       size_t key, size_t key_count)
{
    const struct lq_device_rows *fn = job->cpu->rows;
    float capped[KEY_TILE];
    float *weights = tile->weights + i * KEY_TILE;
    float *slopes = tile->slopes + i * KEY_TILE;
    struct key_range range = visible_keys(job, tile, i, key, key_count);
    size_t visible = range.end - range.first;
    memset(weights, 0, range.first * sizeof *weights);
    memset(slopes, 0, range.first * sizeof *slopes);
    memset(weights + range.end, 0, (key_count - range.end) * sizeof *weights);
    memset(slopes + range.end, 0, (key_count - range.end) * sizeof *slopes);
    weights += range.first;
    slopes += range.first;
    float scale = cap_scores(job, weights, visible);
    memcpy(capped, weights, visible * sizeof *capped);
    (void)fn->exp_scaled(weights, visible, scale, tile->max[i]);
    fn->scale(weights, visible, 1.0f / tile->sum[i]);
    fn->softmax_back(weights, slopes, visible, tile->mean[i], job->scale);
    if (job->shape.cap != 0.0f) {
        fn->soft_cap_back(capped, slopes, visible, job->shape.cap);
    }
}

static void spread_rows(const struct attention_job *job, struct attention_tile *tile, size_t key,
                        size_t key_count)
{
    multiply_keys(job, tile, tile->q, tile->k, key, key_count, tile->weights);
    multiply_keys(job, tile, tile->out_grad, tile->v, key, key_count, tile->slopes);
    for (size_t i = 0; i < tile->query_count; i++) {
        spread_row(job, tile, i, key, key_count);
    }
    add_to_keys(job, tile, tile->weights, tile->out_grad, tile->v_grad, key, key_count);
    add_to_keys(job, tile, tile->slopes, tile->q, tile->k_grad, key, key_count);
    struct lq_sgemm_args args = {
        .m = tile->query_count,
        .n = job->shape.head_dim,
        .k = key_count,
        .alpha = 1.0f,
        .a = tile->slopes,
        .lda = KEY_TILE,
        .b = tile->k + key * tile->kv_stride,
        .ldb = tile->kv_stride,
        .beta = key == tile->first_key ? 0.0f : 1.0f,
        .c = tile->q_grad,
        .ldc = tile->q_stride,
    };
    job->cpu->sgemm(false, &args);
}

static void query_tile(const struct attention_job *job, struct attention_tile *tile)
{
    for (size_t i = 0; i < tile->query_count; i++) {
        size_t at = i * tile->q_stride;
        tile->sum[i] = 0.0f;
        tile->mean[i] = (float)job->cpu->rows->dot(tile->out + at, tile->out_grad + at, NULL,
                                                   job->shape.head_dim);
    }
    size_t window = job->shape.window;
    bool skips = window != 0 && tile->query + 1 > window;
    tile->first_key = skips ? (tile->query + 1 - window) / KEY_TILE * KEY_TILE : 0;
    size_t key_end = tile->query + tile->query_count;
    for (size_t key = tile->first_key; key < key_end; key += KEY_TILE) {
        measure_rows(job, tile, key, lq_min_size(KEY_TILE, key_end - key));
    }
    for (size_t key = tile->first_key; key < key_end; key += KEY_TILE) {
        spread_rows(job, tile, key, lq_min_size(KEY_TILE, key_end - key));
    }
}

static void attention_task(void *user, size_t index)
{
    const struct attention_job *job = user;
    const struct lq_attention_shape *shape = &job->shape;
    const struct lq_attention_grad *grad = &job->grad;
    size_t sample = index / shape->kv_head_count;
    size_t kv_head = index % shape->kv_head_count;
    size_t group = shape->head_count / shape->kv_head_count;
    struct attention_tile tile;
    tile.q_stride = shape->head_count * shape->head_dim;
    tile.kv_stride = shape->kv_head_count * shape->head_dim;
    size_t row = sample * shape->sequence;
    size_t kv_offset = row * tile.kv_stride + kv_head * shape->head_dim;
    tile.k = grad->k + kv_offset;
    tile.v = grad->v + kv_offset;
    tile.k_grad = grad->k_grad + kv_offset;
    tile.v_grad = grad->v_grad + kv_offset;
    for (size_t i = 0; i < shape->sequence; i++) {
        memset(tile.k_grad + i * tile.kv_stride, 0, shape->head_dim * sizeof(float));
        memset(tile.v_grad + i * tile.kv_stride, 0, shape->head_dim * sizeof(float));
    }
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (size_t query = 0; query < shape->sequence; query += QUERY_TILE) {
            size_t offset = (row + query) * tile.q_stride + head * shape->head_dim;
            tile.query = query;
            tile.query_count = lq_min_size(QUERY_TILE, shape->sequence - query);
            tile.q = grad->q + offset;
            tile.out = grad->out + offset;
            tile.out_grad = grad->out_grad + offset;
            tile.q_grad = grad->q_grad + offset;
            query_tile(job, &tile);
        }
    }
}

void lq_cpu_attention_back(struct lq_device *device, const struct lq_attention_grad *grad,
                           const struct lq_attention_shape *shape)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    lq_cpu_choose_sgemm(cpu);
    struct attention_job job = {
        .cpu = cpu,
        .grad = *grad,
        .shape = *shape,
        .scale = shape->scale != 0.0f ? shape->scale : (float)(1.0 / sqrt((double)shape->head_dim)),
    };
    lq_cpu_run_tiles(cpu, shape->sample_count * shape->kv_head_count, attention_task, &job);
}

/* ---- elementwise and sums ---- */

struct gate_job {
    void (*combine_back)(float *gate, float *up, const float *out_grad, size_t count);
    float *gate;
    float *up;
    const float *out_grad;
    size_t count;
};

static void gate_tile(void *user, size_t index)
{
    const struct gate_job *job = user;
    size_t first = index * ELEM_GROUP;
    job->combine_back(job->gate + first, job->up + first, job->out_grad + first,
                      lq_min_size(ELEM_GROUP, job->count - first));
}

void lq_cpu_silu_mul_back(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct gate_job job = {cpu->rows->silu_mul_back, gate, up, out_grad, count};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), gate_tile, &job);
}

void lq_cpu_gelu_mul_back(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct gate_job job = {cpu->rows->gelu_mul_back, gate, up, out_grad, count};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), gate_tile, &job);
}

struct score_job {
    const struct lq_device_rows *fn;
    const float *grad;
    const float *weight;
    struct lq_score_shape shape;
    double *sums;
    float *scores;
};

static void score_tile(void *user, size_t index)
{
    const struct score_job *job = user;
    size_t col = index * SCORE_COLS;
    size_t count = lq_min_size(SCORE_COLS, job->shape.cols - col);
    for (size_t r = 0; r < job->shape.rows; r++) {
        size_t at = r * job->shape.cols + col;
        float *scores = job->scores == NULL ? NULL : job->scores + at;
        if (job->shape.squares) {
            job->fn->add_square_scores(job->grad + at, job->weight + at, count, job->sums + col,
                                       scores);
        } else {
            job->fn->add_scores(job->grad + at, job->weight + at, count, job->sums + col, scores);
        }
    }
}

void lq_cpu_add_scores(struct lq_device *device, const float *grad, const float *weight,
                       const struct lq_score_shape *shape, double *sums, float *scores)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct score_job job = {cpu->rows, grad, weight, *shape, sums, scores};
    lq_cpu_run_tiles(cpu, lq_divide_up(shape->cols, SCORE_COLS), score_tile, &job);
}

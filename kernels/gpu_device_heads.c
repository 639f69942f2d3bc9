#include <limits.h>
#include <math.h>

#include "kernels/gpu_device_parts.h"

/* Sizes of tiles. With the shapes they decide how products are cut. */
enum {
    TILE_ROWS = 128,     /* queries of a head in a tile */
    TILE_ROWS_MIN = 16,  /* when scores of long sequences would not fit */
    FLASH_QUERIES = 128, /* as in gpu_flash.h */
    STATS = 3,           /* as in gpu_flash_back.h */
    BANDS_MAX = 32768, /* of a product: some kernels number a batch along a side of their grid that
                        * has 65535 places */
};

/* One call. Bands (gpu_operations.h) are done in parts whose tiles of scores fit scores_bytes. */
struct attention {
    struct lq_gpu_device *gpu;
    const struct lq_attention_shape *shape;
    struct lq_gpu_heads queries;
    struct lq_gpu_heads keys;
    float scale;
    size_t window;
    size_t bands;
    size_t part;   /* bands at a time */
    size_t stride; /* of rows of scores */
    /* bf16, as lq_gpu_split leaves them. */
    uint16_t *q, *k, *v;
    /* Of a tile of a part. */
    float *scores;
    uint16_t *weights;
    float *sums;
    float *rows; /* [bands x group x queries x head_dim] */
    /* Backward only. */
    const struct lq_attention_grad *grad;
    uint16_t *out_grad;
    float *weight_grads;
    uint16_t *slopes;
    float *k_grad, *v_grad; /* [bands x sequence x head_dim] */
    float *stats;           /* as in struct lq_gpu_flash_back */
};

/* The most keys that a tile of queries sees together, padded to 16 bytes of bf16. */
static size_t stride_of(const struct attention *job, size_t tile_rows)
{
    size_t keys = job->shape->sequence;
    if (job->window != 0) {
        keys = lq_gpu_min(keys, job->window + tile_rows);
    }
    return lq_gpu_divide_up(keys, 8) * 8;
}

static size_t score_bytes(const struct attention *job, size_t tile_rows)
{
    return job->queries.group * tile_rows * stride_of(job, tile_rows) * sizeof(float);
}

/* False where there is nothing to do, or after a failure. */
static bool plan(struct attention *job)
{
    const struct lq_attention_shape *shape = job->shape;
    if (job->gpu->has_failed || shape->sample_count == 0 || shape->sequence == 0 ||
        shape->head_count == 0 || shape->head_dim == 0) {
        return false;
    }
    job->bands = shape->sample_count * shape->kv_head_count;
    if (shape->sample_count * shape->sequence > INT_MAX / shape->head_count ||
        shape->head_dim > INT_MAX / shape->head_count) {
        (void)lq_gpu_note(job->gpu, "attention has a dimension of 2^31 or more");
        return false;
    }
    job->scale = shape->scale != 0.0f ? shape->scale : (float)(1.0 / sqrt((double)shape->head_dim));
    job->window = shape->window < shape->sequence ? shape->window : 0;
    job->queries = (struct lq_gpu_heads){
        .sequence = shape->sequence,
        .kv_head_count = (uint32_t)shape->kv_head_count,
        .group = (uint32_t)(shape->head_count / shape->kv_head_count),
        .head_dim = (uint32_t)shape->head_dim,
    };
    size_t tile_rows = TILE_ROWS;
    while (tile_rows > TILE_ROWS_MIN && score_bytes(job, tile_rows) > job->gpu->scores_bytes) {
        tile_rows /= 2;
    }
    tile_rows = lq_gpu_min(tile_rows, shape->sequence);
    job->queries.tile_rows = (uint32_t)tile_rows;
    job->keys = job->queries;
    job->keys.group = 1;
    job->keys.tile_rows = (uint32_t)shape->sequence;
    job->stride = stride_of(job, tile_rows);
    job->part = lq_gpu_min(job->bands, job->gpu->scores_bytes / score_bytes(job, tile_rows) + 1);
    job->part = lq_gpu_min(job->part, BANDS_MAX);
    return true;
}

static uint16_t *split(const struct attention *job, const struct lq_gpu_heads *heads,
                       const float *x)
{
    struct lq_gpu_device *gpu = job->gpu;
    size_t rows = job->shape->sample_count * heads->sequence;
    size_t cols = (size_t)heads->kv_head_count * heads->group * heads->head_dim;
    struct lq_gpu_split op = {.shape = lq_gpu_shape_of(gpu, rows, cols), .heads = *heads, .x = x};
    op.to = lq_gpu_take_memory(gpu, rows * cols, sizeof *op.to);
    lq_gpu_run(gpu, LQ_GPU_OP_SPLIT, &op, lq_gpu_blocks_of(&op.shape));
    return op.to;
}

static void take_scratch(struct attention *job, const float *q, const float *k, const float *v)
{
    struct lq_gpu_device *gpu = job->gpu;
    size_t rows = job->part * job->queries.group * job->queries.tile_rows;
    job->q = split(job, &job->queries, q);
    job->k = split(job, &job->keys, k);
    job->v = split(job, &job->keys, v);
    job->scores = lq_gpu_take_memory(gpu, rows * job->stride, sizeof *job->scores);
    job->weights = lq_gpu_take_memory(gpu, rows * job->stride, sizeof *job->weights);
    job->sums = lq_gpu_take_memory(gpu, rows, sizeof *job->sums);
    job->rows = lq_gpu_take_memory(gpu, rows * job->queries.head_dim, sizeof *job->rows);
}

static void give_scratch(struct attention *job)
{
    void *const all[] = {job->q,       job->k,        job->v,      job->scores,
                         job->weights, job->sums,     job->rows,   job->k_grad,
                         job->v_grad,  job->out_grad, job->slopes, job->weight_grads,
                         job->stats};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        lq_gpu_give_memory(job->gpu, all[i]);
    }
}

/* A tile of queries of the bands [tile.band, tile.band + bands), and the keys that they see. */
struct tile {
    struct lq_gpu_tile_of_scores at;
    size_t bands;
    size_t rows; /* of a band: group x queries */
    size_t keys;
};

static struct tile tile_at(const struct attention *job, size_t band, size_t query)
{
    size_t count = lq_gpu_min(job->queries.tile_rows, job->shape->sequence - query);
    size_t first_key = job->window != 0 && query + 1 > job->window ? query + 1 - job->window : 0;
    return (struct tile){
        .at =
            {
                .heads = job->queries,
                .band = (uint32_t)band,
                .query = (uint32_t)query,
                .query_count = (uint32_t)count,
                .first_key = (uint32_t)first_key,
                .stride = (uint32_t)job->stride,
                .window = (uint32_t)job->window,
                .scale = job->scale,
                .cap = job->shape->cap,
            },
        .bands = lq_gpu_min(job->part, job->bands - band),
        .rows = job->queries.group * count,
        .keys = query + count - first_key,
    };
}

/* The tile of bf16 queries (or gradients of outputs), and the keys (or values) of the first band.
 */
static const uint16_t *queries_of(const struct attention *job, const struct tile *tile,
                                  const uint16_t *all)
{
    size_t line =
        (tile->at.band * job->shape->sequence + tile->at.query) * (size_t)job->queries.group;
    return all + line * job->queries.head_dim;
}

static size_t first_key_of(const struct attention *job, const struct tile *tile)
{
    return (tile->at.band * job->shape->sequence + tile->at.first_key) * job->shape->head_dim;
}

/* to[rows x keys] = left * transpose(right), for each band: scores from queries and keys, or the
 * gradients of weights from those of outputs and values. */
static void multiply_keys(const struct attention *job, const struct tile *tile,
                          const uint16_t *left, const uint16_t *right, float *to)
{
    size_t dim = job->queries.head_dim;
    const struct lq_gpu_product product = {
        .a = queries_of(job, tile, left),
        .b = right + first_key_of(job, tile),
        .c = to,
        .m = tile->rows,
        .n = tile->keys,
        .k = dim,
        .a_row = dim,
        .b_row = dim,
        .c_row = job->stride,
        .batch = tile->bands,
        .a_step = job->shape->sequence * job->queries.group * dim,
        .b_step = job->shape->sequence * dim,
        .c_step = tile->rows * job->stride,
        .b_turned = true,
    };
    lq_gpu_multiply(job->gpu, &product);
}

/* rows[rows x head_dim] = left[rows x keys] * right[keys x head_dim], for each band. */
static void gather_keys(const struct attention *job, const struct tile *tile, const uint16_t *left,
                        const uint16_t *right)
{
    size_t dim = job->queries.head_dim;
    const struct lq_gpu_product product = {
        .a = left,
        .b = right + first_key_of(job, tile),
        .c = job->rows,
        .m = tile->rows,
        .n = dim,
        .k = tile->keys,
        .a_row = job->stride,
        .b_row = dim,
        .c_row = dim,
        .batch = tile->bands,
        .a_step = tile->rows * job->stride,
        .b_step = job->shape->sequence * dim,
        .c_step = tile->rows * dim,
    };
    lq_gpu_multiply(job->gpu, &product);
}

/* The tile in `rows` to its place in rows of heads. */
static void join_tile(const struct attention *job, const struct tile *tile, const float *sums,
                      float *to, struct lq_gpu_twin twin)
{
    const struct lq_gpu_join op = {
        .shape = lq_gpu_shape_of(job->gpu, tile->bands * tile->rows, job->queries.head_dim),
        .tile = tile->at,
        .x = job->rows,
        .sums = sums,
        .to = to,
        .twin = twin,
    };
    lq_gpu_run(job->gpu, LQ_GPU_OP_JOIN, &op, lq_gpu_blocks_of(&op.shape));
}

/* ---- forward ---- */

/* Heads whose rows are whole pieces of 16 bytes, up to what registers hold. */
static bool can_flash(const struct attention *job)
{
    return !job->gpu->has_no_flash && job->shape->head_dim % 8 == 0 && job->shape->head_dim <= 256;
}

/* The operation for the size of the heads; they all take the same. */
static enum lq_gpu_operation flash_operation(size_t head_dim)
{
    return head_dim <= 64    ? LQ_GPU_OP_FLASH_64
           : head_dim <= 96  ? LQ_GPU_OP_FLASH_96
           : head_dim <= 128 ? LQ_GPU_OP_FLASH_128
           : head_dim <= 192 ? LQ_GPU_OP_FLASH_192
                             : LQ_GPU_OP_FLASH_256;
}

/* Rows of heads, and of key-value heads, as whole sequences. */
static void split_heads(struct attention *job, const float *q, const float *k, const float *v)
{
    struct lq_gpu_heads queries = job->keys;
    queries.kv_head_count = (uint32_t)job->shape->head_count;
    job->q = split(job, &queries, q);
    job->k = split(job, &job->keys, k);
    job->v = split(job, &job->keys, v);
    if (job->grad != NULL) {
        job->out_grad = split(job, &queries, job->grad->out_grad);
    }
}

static struct lq_gpu_flash flash_of(const struct attention *job, float *out,
                                    struct lq_gpu_twin twin)
{
    const struct lq_attention_shape *shape = job->shape;
    return (struct lq_gpu_flash){
        .q = job->q,
        .k = job->k,
        .v = job->v,
        .out = out,
        .twin = twin,
        .sequence = (uint32_t)shape->sequence,
        .head_count = (uint32_t)shape->head_count,
        .kv_head_count = (uint32_t)shape->kv_head_count,
        .group = job->queries.group,
        .head_dim = (uint32_t)shape->head_dim,
        .window = (uint32_t)job->window,
        .scale = job->scale,
        .cap = shape->cap,
    };
}

/* A block for each FLASH_QUERIES rows of a head. */
static size_t flash_blocks(const struct lq_attention_shape *shape, size_t head_count)
{
    return shape->sample_count * head_count * lq_gpu_divide_up(shape->sequence, FLASH_QUERIES);
}

static void flash(struct attention *job, const float *q, const float *k, const float *v, float *out,
                  struct lq_gpu_twin twin)
{
    const struct lq_attention_shape *shape = job->shape;
    split_heads(job, q, k, v);
    const struct lq_gpu_flash op = flash_of(job, out, twin);
    lq_gpu_run(job->gpu, flash_operation(shape->head_dim), &op,
               flash_blocks(shape, shape->head_count));
    give_scratch(job);
}

static void attend(const struct attention *job, const struct tile *tile, float *out,
                   struct lq_gpu_twin twin)
{
    multiply_keys(job, tile, job->q, job->k, job->scores);
    const struct lq_gpu_softmax op = {
        .shape = lq_gpu_shape_of(job->gpu, tile->bands * tile->rows, tile->keys),
        .tile = tile->at,
        .scores = job->scores,
        .weights = job->weights,
        .sums = job->sums,
    };
    lq_gpu_run(job->gpu, LQ_GPU_OP_SOFTMAX, &op, lq_gpu_blocks_of(&op.shape));
    gather_keys(job, tile, job->weights, job->v);
    join_tile(job, tile, job->sums, out, twin);
}

void lq_gpu_attention(struct lq_device *device, const float *q, const float *k, const float *v,
                      float *out, const struct lq_attention_shape *shape)
{
    struct attention job = {.gpu = lq_gpu_of(device), .shape = shape};
    size_t rows = shape->sample_count * shape->sequence;
    size_t width = shape->head_count * shape->head_dim;
    lq_gpu_written(job.gpu, out, rows * width * sizeof *out);
    if (!plan(&job)) {
        return;
    }
    /* What comes out is the left side of a product. */
    struct lq_gpu_twin twin = lq_gpu_new_twin(job.gpu, out, rows, width);
    if (can_flash(&job)) {
        flash(&job, q, k, v, out, twin);
        return;
    }
    take_scratch(&job, q, k, v);
    for (size_t band = 0; band < job.bands && !job.gpu->has_failed; band += job.part) {
        for (size_t query = 0; query < shape->sequence; query += job.queries.tile_rows) {
            struct tile tile = tile_at(&job, band, query);
            attend(&job, &tile, out, twin);
        }
    }
    give_scratch(&job);
}

/* ---- backward ---- */

/* to[keys x head_dim] += transpose(left[rows x keys]) * right[rows x head_dim], for each band. */
static void add_to_keys(const struct attention *job, const struct tile *tile, const uint16_t *left,
                        const uint16_t *right, float *to)
{
    size_t dim = job->queries.head_dim;
    const struct lq_gpu_product product = {
        .a = left,
        .b = queries_of(job, tile, right),
        .c = to + first_key_of(job, tile),
        .m = tile->keys,
        .n = dim,
        .k = tile->rows,
        .a_row = job->stride,
        .b_row = dim,
        .c_row = dim,
        .batch = tile->bands,
        .a_step = tile->rows * job->stride,
        .b_step = job->shape->sequence * job->queries.group * dim,
        .c_step = job->shape->sequence * dim,
        .a_turned = true,
        .add = true,
    };
    lq_gpu_multiply(job->gpu, &product);
}

/* Scores are made again from queries and keys, as on the CPU (Dao and others, "FlashAttention",
 * 2022, algorithm 4), but all those of a row at once. */
static void attend_back(const struct attention *job, const struct tile *tile)
{
    const struct lq_gpu_twin no_twin = {NULL, 0};
    multiply_keys(job, tile, job->q, job->k, job->scores);
    multiply_keys(job, tile, job->out_grad, job->v, job->weight_grads);
    const struct lq_gpu_spread op = {
        .shape = lq_gpu_shape_of(job->gpu, tile->bands * tile->rows, tile->keys),
        .tile = tile->at,
        .scores = job->scores,
        .weight_grads = job->weight_grads,
        .out = job->grad->out,
        .out_grad = job->grad->out_grad,
        .weights = job->weights,
        .slopes = job->slopes,
    };
    lq_gpu_run(job->gpu, LQ_GPU_OP_SPREAD, &op, lq_gpu_blocks_of(&op.shape));
    add_to_keys(job, tile, job->weights, job->out_grad, job->v_grad);
    add_to_keys(job, tile, job->slopes, job->q, job->k_grad);
    gather_keys(job, tile, job->slopes, job->k);
    join_tile(job, tile, NULL, job->grad->q_grad, no_twin);
}

/* The gradients of keys or values of all bands, to rows of heads. */
static void join_keys(const struct attention *job, const float *x, float *to)
{
    const struct lq_gpu_join op = {
        .shape = lq_gpu_shape_of(job->gpu, job->bands * job->shape->sequence, job->keys.head_dim),
        .tile = {.heads = job->keys, .query_count = (uint32_t)job->shape->sequence},
        .x = x,
        .to = to,
    };
    lq_gpu_run(job->gpu, LQ_GPU_OP_JOIN, &op, lq_gpu_blocks_of(&op.shape));
}

static float *zeroed_keys(const struct attention *job)
{
    size_t count = job->bands * job->shape->sequence * job->shape->head_dim;
    float *keys = lq_gpu_take_memory(job->gpu, count, sizeof *keys);
    if (keys != NULL) {
        (void)lq_gpu_note(job->gpu,
                          job->gpu->module->zero(job->gpu->stream, keys, count * sizeof *keys));
    }
    return keys;
}

/* Without scores in memory: three operations, of which the first one leaves what the others need to
 * know of each row. */
static void flash_back(struct attention *job)
{
    const struct lq_attention_shape *shape = job->shape;
    const struct lq_attention_grad *grad = job->grad;
    const struct lq_gpu_twin no_twin = {NULL, 0};
    enum { SIZES = 3 };
    static const enum lq_gpu_operation operations[][SIZES] = {
        {LQ_GPU_OP_QUERIES_64, LQ_GPU_OP_QUERIES_128, LQ_GPU_OP_QUERIES_256},
        {LQ_GPU_OP_KEYS_64, LQ_GPU_OP_KEYS_128, LQ_GPU_OP_KEYS_256},
        {LQ_GPU_OP_VALUES_64, LQ_GPU_OP_VALUES_128, LQ_GPU_OP_VALUES_256},
    };
    float *const to[] = {grad->q_grad, grad->k_grad, grad->v_grad};
    size_t size = shape->head_dim <= 64 ? 0 : shape->head_dim <= 128 ? 1 : 2;
    split_heads(job, grad->q, grad->k, grad->v);
    job->stats = lq_gpu_take_memory(
        job->gpu, shape->sample_count * shape->head_count * shape->sequence * STATS,
        sizeof *job->stats);
    for (size_t i = 0; i < sizeof to / sizeof to[0]; i++) {
        const struct lq_gpu_flash_back op = {
            .flash = flash_of(job, to[i], no_twin),
            .out_grad = job->out_grad,
            .rows = grad->out,
            .grad_rows = grad->out_grad,
            .stats = job->stats,
        };
        lq_gpu_run(job->gpu, operations[i][size], &op,
                   flash_blocks(shape, i == 0 ? shape->head_count : shape->kv_head_count));
    }
    give_scratch(job);
}

void lq_gpu_attention_back(struct lq_device *device, const struct lq_attention_grad *grad,
                           const struct lq_attention_shape *shape)
{
    struct attention job = {.gpu = lq_gpu_of(device), .shape = shape, .grad = grad};
    size_t rows = shape->sample_count * shape->sequence * shape->head_dim;
    lq_gpu_written(job.gpu, grad->q_grad, rows * shape->head_count * sizeof(float));
    lq_gpu_written(job.gpu, grad->k_grad, rows * shape->kv_head_count * sizeof(float));
    lq_gpu_written(job.gpu, grad->v_grad, rows * shape->kv_head_count * sizeof(float));
    if (!plan(&job)) {
        return;
    }
    if (can_flash(&job)) {
        flash_back(&job);
        return;
    }
    size_t scores = job.part * job.queries.group * job.queries.tile_rows * job.stride;
    take_scratch(&job, grad->q, grad->k, grad->v);
    job.out_grad = split(&job, &job.queries, grad->out_grad);
    job.weight_grads = lq_gpu_take_memory(job.gpu, scores, sizeof *job.weight_grads);
    job.slopes = lq_gpu_take_memory(job.gpu, scores, sizeof *job.slopes);
    job.k_grad = zeroed_keys(&job);
    job.v_grad = zeroed_keys(&job);
    for (size_t band = 0; band < job.bands && !job.gpu->has_failed; band += job.part) {
        for (size_t query = 0; query < shape->sequence; query += job.queries.tile_rows) {
            struct tile tile = tile_at(&job, band, query);
            attend_back(&job, &tile);
        }
    }
    join_keys(&job, job.k_grad, grad->k_grad);
    join_keys(&job, job.v_grad, grad->v_grad);
    give_scratch(&job);
}

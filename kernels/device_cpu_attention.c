/* Attention: tiles of scores of one head, which become weights and gather values. Where products
 * are our vector tiles', keys and values are packed once for all queries of their heads. */
#include <math.h>
#include <string.h>

#include "kernels/device_cpu_parts.h"

/* Tile sizes. With BLAS they decide the shape of each call, and so the last bits of results: never
 * derive them from the number of threads. */
enum {
    QUERY_TILE = 64,        /* rows of a tile of scores */
    PACKED_QUERY_TILE = 48, /* whole slivers of our tiles: there the shape decides no bit */
    KEY_TILE = 256,         /* columns of a tile of scores: one chain of the tiles' sums */
    HEAD_DIM_MAX = KEY_TILE /* larger heads are not packed */
};

struct attention_job {
    const struct lq_cpu_device *cpu;
    const float *q;
    const float *k;
    const float *v;
    float *out;
    struct lq_attention_shape shape;
    size_t query_count; /* of a sample */
    size_t query_tile;
    size_t query_tiles;
    float scale;
    /* Packed panels of each key-value head of each sample; NULL: not packed. */
    float *keys;
    float *values;
    size_t keys_size; /* of one head, in floats */
    size_t values_size;
};

/* What one task works on: rows [query, query + query_count) of one head of one sample. The running
 * maximum and sum of each row make the softmax exact over any number of key tiles (Milakov and
 * Gimelshein, "Online normalizer calculation for softmax", 2018). */
struct attention_tile {
    size_t query;
    size_t query_count;
    size_t first_key; /* where the tiles of keys begin */
    const float *q;
    const float *k;
    const float *v;
    float *out;
    size_t q_stride;
    size_t kv_stride;
    const float *keys;   /* packed */
    const float *values; /* likewise */
    float max[QUERY_TILE];
    float sum[QUERY_TILE];
    float scores[QUERY_TILE * KEY_TILE];
    float left[PACKED_QUERY_TILE * HEAD_DIM_MAX + LQ_MATMUL_LEFT_SLACK]; /* packed queries */
    float weights[PACKED_QUERY_TILE * KEY_TILE + LQ_MATMUL_LEFT_SLACK];  /* packed scores */
};

/* Turns the scores of row `i` against keys [key, key + key_count) into weights and rescales what
 * the row has gathered so far. Keys after the query, and before its window, get weight zero. */
static void softmax_row(const struct attention_job *job, struct attention_tile *tile, size_t i,
                        size_t key, size_t key_count)
{
    const struct lq_device_rows *fn = job->cpu->rows;
    float *scores = tile->scores + i * KEY_TILE;
    size_t end = tile->query + i + 1; /* keys [start, end) are visible */
    size_t window = job->shape.window;
    size_t start = window != 0 && end > window ? end - window : 0;
    size_t last = end < key ? 0 : lq_min_size(end - key, key_count);
    size_t first = start < key ? 0 : lq_min_size(start - key, last);
    memset(scores, 0, first * sizeof *scores);
    memset(scores + last, 0, (key_count - last) * sizeof *scores);
    if (first == last) {
        return;
    }
    size_t visible = last - first;
    float scale = job->scale;
    scores += first;
    if (job->shape.cap != 0.0f) {
        fn->soft_cap(scores, visible, scale, job->shape.cap);
        scale = 1.0f;
    }
    float max = fn->max(scores, visible) * scale;
    if (tile->sum[i] != 0.0f) {
        if (max <= tile->max[i]) {
            max = tile->max[i];
        } else {
            float factor = expf(tile->max[i] - max);
            tile->sum[i] *= factor;
            fn->scale(tile->out + i * tile->q_stride, job->shape.head_dim, factor);
        }
    }
    tile->max[i] = max;
    tile->sum[i] += fn->exp_scaled(scores, visible, scale, max);
}

/* Scores of all queries of the tile against some keys. */
static struct lq_sgemm_args score_args(const struct attention_job *job, struct attention_tile *tile,
                                       size_t key, size_t key_count)
{
    return (struct lq_sgemm_args){
        .m = tile->query_count,
        .n = key_count,
        .k = job->shape.head_dim,
        .alpha = 1.0f,
        .a = tile->q,
        .lda = tile->q_stride,
        .b = tile->k + key * tile->kv_stride,
        .ldb = tile->kv_stride,
        .beta = 0.0f,
        .c = tile->scores,
        .ldc = KEY_TILE,
    };
}

/* What the weights of these keys gather. */
static struct lq_sgemm_args gather_args(const struct attention_job *job,
                                        struct attention_tile *tile, size_t key, size_t key_count)
{
    return (struct lq_sgemm_args){
        .m = tile->query_count,
        .n = job->shape.head_dim,
        .k = key_count,
        .alpha = 1.0f,
        .a = tile->scores,
        .lda = KEY_TILE,
        .b = tile->v + key * tile->kv_stride,
        .ldb = tile->kv_stride,
        .beta = key == tile->first_key ? 0.0f : 1.0f,
        .c = tile->out,
        .ldc = tile->q_stride,
    };
}

static void attend_packed(const struct attention_job *job, struct attention_tile *tile, size_t key,
                          size_t key_count)
{
    const struct lq_matmul_tiles *tiles = job->cpu->tiles;
    size_t head_dim = job->shape.head_dim;
    struct lq_sgemm_args product = score_args(job, tile, key, key_count);
    if (key == tile->first_key) {
        tiles->pack_left(&product, tile->left);
    }
    tiles->multiply_packed(&product, tile->left, tile->keys + key * head_dim);
    for (size_t i = 0; i < tile->query_count; i++) {
        softmax_row(job, tile, i, key, key_count);
    }
    struct lq_sgemm_args gather = gather_args(job, tile, key, key_count);
    tiles->pack_left(&gather, tile->weights);
    /* A panel of values goes on beyond these keys, so panels are multiplied one by one. */
    for (size_t col = 0; col < head_dim; col += tiles->panel_cols) {
        gather.n = lq_min_size(tiles->panel_cols, head_dim - col);
        tiles->multiply_packed(&gather, tile->weights,
                               tile->values + col * job->shape.sequence + key * tiles->panel_cols);
        gather.c += tiles->panel_cols;
    }
}

static void attend_keys(const struct attention_job *job, struct attention_tile *tile, size_t key,
                        size_t key_count)
{
    if (job->keys != NULL) {
        attend_packed(job, tile, key, key_count);
        return;
    }
    struct lq_sgemm_args product = score_args(job, tile, key, key_count);
    job->cpu->sgemm(true, &product);
    for (size_t i = 0; i < tile->query_count; i++) {
        softmax_row(job, tile, i, key, key_count);
    }
    struct lq_sgemm_args gather = gather_args(job, tile, key, key_count);
    job->cpu->sgemm(false, &gather);
}

static void attention_task(void *user, size_t index)
{
    const struct attention_job *job = user;
    const struct lq_attention_shape *shape = &job->shape;
    size_t query_tile = index % job->query_tiles;
    size_t head = index / job->query_tiles % shape->head_count;
    size_t sample = index / job->query_tiles / shape->head_count;
    size_t kv_head = head / (shape->head_count / shape->kv_head_count);
    struct attention_tile tile;
    size_t first = query_tile * job->query_tile; /* among the sample's queries */
    tile.query = shape->first_query + first;
    tile.query_count = lq_min_size(job->query_tile, job->query_count - first);
    tile.q_stride = shape->head_count * shape->head_dim;
    tile.kv_stride = shape->kv_head_count * shape->head_dim;
    size_t row = sample * shape->sequence;
    size_t query_offset =
        (sample * job->query_count + first) * tile.q_stride + head * shape->head_dim;
    tile.q = job->q + query_offset;
    tile.out = job->out + query_offset;
    tile.k = job->k + row * tile.kv_stride + kv_head * shape->head_dim;
    tile.v = job->v + row * tile.kv_stride + kv_head * shape->head_dim;
    if (job->keys != NULL) {
        size_t number = sample * shape->kv_head_count + kv_head;
        tile.keys = job->keys + number * job->keys_size;
        tile.values = job->values + number * job->values_size;
    }
    memset(tile.sum, 0, sizeof tile.sum);
    bool skips = shape->window != 0 && tile.query + 1 > shape->window;
    tile.first_key = skips ? (tile.query + 1 - shape->window) / KEY_TILE * KEY_TILE : 0;
    size_t key_end = tile.query + tile.query_count;
    for (size_t key = tile.first_key; key < key_end; key += KEY_TILE) {
        attend_keys(job, &tile, key, lq_min_size(KEY_TILE, key_end - key));
    }
    for (size_t i = 0; i < tile.query_count; i++) {
        job->cpu->rows->scale(tile.out + i * tile.q_stride, shape->head_dim, 1.0f / tile.sum[i]);
    }
}

/* Keys and values of one head of one sample. */
static void pack_head(void *user, size_t index)
{
    const struct attention_job *job = user;
    const struct lq_attention_shape *shape = &job->shape;
    const struct lq_matmul_tiles *tiles = job->cpu->tiles;
    size_t stride = shape->kv_head_count * shape->head_dim;
    size_t at = index / shape->kv_head_count * shape->sequence * stride +
                index % shape->kv_head_count * shape->head_dim;
    const struct lq_sgemm_args keys = {
        .n = shape->sequence, .k = shape->head_dim, .b = job->k + at, .ldb = stride};
    const struct lq_sgemm_args values = {
        .n = shape->head_dim, .k = shape->sequence, .b = job->v + at, .ldb = stride};
    for (size_t key = 0; key < keys.n; key += tiles->panel_cols) {
        tiles->pack_panel(true, &keys, key, job->keys + index * job->keys_size + key * keys.k);
    }
    for (size_t col = 0; col < values.n; col += tiles->panel_cols) {
        tiles->pack_panel(false, &values, col,
                          job->values + index * job->values_size + col * values.k);
    }
}

/* Nothing is done after a failure, as everywhere. */
static void pack_heads(struct attention_job *job, struct lq_cpu_device *cpu)
{
    const struct lq_attention_shape *shape = &job->shape;
    size_t cols = cpu->tiles->panel_cols;
    size_t heads = shape->sample_count * shape->kv_head_count;
    job->keys_size = lq_divide_up(shape->sequence, cols) * cols * shape->head_dim;
    job->values_size = lq_divide_up(shape->head_dim, cols) * cols * shape->sequence;
    if (lq_cpu_take_panels(cpu, heads * (job->keys_size + job->values_size) * sizeof(float))) {
        job->query_tile = PACKED_QUERY_TILE;
        job->keys = cpu->panels;
        job->values = job->keys + heads * job->keys_size;
        lq_cpu_run_tiles(cpu, heads, pack_head, job);
    }
}

void lq_cpu_attention(struct lq_device *device, const float *q, const float *k, const float *v,
                      float *out, const struct lq_attention_shape *shape)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    lq_cpu_choose_sgemm(cpu);
    struct attention_job job = {
        .cpu = cpu,
        .q = q,
        .k = k,
        .v = v,
        .out = out,
        .shape = *shape,
        .query_count = shape->query_count == 0 ? shape->sequence : shape->query_count,
        .query_tile = QUERY_TILE,
        .scale =
            shape->scale != 0.0f ? shape->scale : (float)(1.0 / sqrt((double)shape->head_dim))};
    if (cpu->tiles != NULL && shape->head_dim <= HEAD_DIM_MAX) {
        pack_heads(&job, cpu);
    }
    job.query_tiles = lq_divide_up(job.query_count, job.query_tile);
    lq_cpu_run_tiles(cpu, shape->sample_count * shape->head_count * job.query_tiles, attention_task,
                     &job);
}

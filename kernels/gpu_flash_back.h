/* The gradients of attention without a matrix of scores: scores are made again, a tile of them at a
 * time, from queries and keys and what is known of each query's row (Dao, "FlashAttention-2", 2023,
 * algorithm 2). Three operations, one for each of q, k and v, so that a warp has registers for what
 * it adds up, and so that nobody adds to what another block has:
 *
 *   queries  a block has LQ_GPU_FLASH_QUERIES queries of a head and walks over the keys twice: for
 *            the largest score and the sum of exponentials of each row, which it leaves in `stats`
 *            with the mean of the weights' gradients, then for the gradients of queries.
 *   keys     a block has as many keys of a key-value head and walks over the queries of all heads
 *   values   that read it, with the stats that the first operation left.
 *
 * With w a row's weights, p = exp(score - largest) / sum, g = out_grad . value the gradient of a
 * weight and m = out_grad . out their mean under w, the gradient of a score is p (g - m) (times the
 * slope of the cap, 1 - (score / cap)^2); it and p are rounded to bf16 for the products that
 * follow. Sides and lanes are those of gpu_flash.h. Internal to the kernels and their modules.
 * Thread rule: pure; blocks write to different memory. Limits: heads of a multiple of 8, at most
 * 256. */
#ifndef LQ_KERNELS_GPU_FLASH_BACK_H
#define LQ_KERNELS_GPU_FLASH_BACK_H

#include "kernels/gpu_flash.h"

/* Which of a block's two left sides, and of a tile's two right ones. */
enum { LQ_GPU_BACK_SCORES, LQ_GPU_BACK_GRADS };

/* What of a query's row `stats` has, side by side. */
enum { LQ_GPU_STAT_BEST, LQ_GPU_STAT_FACTOR, LQ_GPU_STAT_MEAN, LQ_GPU_STATS };

/* Rows of a head that a block has in registers. */
struct lq_gpu_back_rows {
    const uint16_t *from[2]; /* [sequence x head_dim] */
    uint32_t first;
};

/* ---- products ---- */

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_left(const struct lq_gpu_flash *op,
                                                        const struct lq_gpu_back_rows *rows,
                                                        const int side, unsigned t,
                                                        const unsigned k, uint32_t to[4])
{
    LQ_GPU_UNROLL
    for (unsigned i = 0; i < 4; i++) {
        uint32_t row = rows->first + t / 32 * 16 + (t & 31) / 4 + i % 2 * 8;
        uint32_t col = k * 16 + i / 2 * 8 + 2 * (t & 3);
        bool valid = row < op->sequence && col < op->head_dim;
        to[i] = valid ? lq_gpu_pair_at(rows->from[side] + (size_t)row * op->head_dim + col) : 0u;
    }
}

/* Left sides stay in registers where they fit beside what is added up. */
LQ_DEVICE_FN static LQ_GPU_INLINE bool lq_gpu_back_keeps(const unsigned dim)
{
    return dim <= 128;
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_begin(const struct lq_gpu_flash *op,
                                                         const struct lq_gpu_back_rows *rows,
                                                         unsigned t, const unsigned dim,
                                                         struct lq_gpu_flash_lane *lane)
{
    LQ_GPU_UNROLL
    for (unsigned k = 0; k < dim / 16; k++) {
        if (lq_gpu_back_keeps(dim)) {
            lq_gpu_back_left(op, rows, LQ_GPU_BACK_SCORES, t, k, lane->q[k]);
            lq_gpu_back_left(op, rows, LQ_GPU_BACK_GRADS, t, k, lane->g[k]);
        }
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < 8; i++) {
            lane->o[2 * k + i / 4][i % 4] = 0.0f;
        }
    }
}

/* s (or d) = left side * transpose(tile). */
LQ_DEVICE_FN static LQ_GPU_INLINE void
lq_gpu_back_multiply(const struct lq_gpu_flash *op, const struct lq_gpu_back_rows *rows,
                     const int side, const uint16_t *tile, unsigned w, const unsigned dim,
                     const unsigned keys, struct lq_gpu_flash_lane *lanes)
{
    LQ_GPU_EACH_LANE(w, t)
    {
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < keys / 2; i++) {
            if (side == LQ_GPU_BACK_SCORES) {
                lanes[LQ_GPU_OF(t)].s[i / 4][i % 4] = 0.0f;
            } else {
                lanes[LQ_GPU_OF(t)].d[i / 4][i % 4] = 0.0f;
            }
        }
    }
    LQ_GPU_UNROLL
    for (unsigned k = 0; k < dim / 16; k++) {
        const unsigned at = lq_gpu_back_keeps(dim) ? k : 0;
        if (!lq_gpu_back_keeps(dim)) {
            LQ_GPU_EACH_LANE(w, t)
            {
                struct lq_gpu_flash_lane *lane = &lanes[LQ_GPU_OF(t)];
                lq_gpu_back_left(op, rows, side, t, k,
                                 side == LQ_GPU_BACK_SCORES ? lane->q[0] : lane->g[0]);
            }
        }
        LQ_GPU_UNROLL
        for (unsigned j = 0; j < keys / 8; j++) {
            LQ_GPU_EACH_LANE(w, t)
            {
                const uint16_t *from =
                    tile + (j * 8 + (t & 31) / 4) * (dim + 8) + k * 16 + 2 * (t & 3);
                lanes[LQ_GPU_OF(t)].side[0][0] = lq_gpu_shared_pair(from);
                lanes[LQ_GPU_OF(t)].side[0][1] = lq_gpu_shared_pair(from + 8);
            }
            LQ_GPU_EACH_LANE(w, t)
            {
                if (side == LQ_GPU_BACK_SCORES) {
                    LQ_GPU_MMA(lanes, t, s[j], q[at], side[0]);
                } else {
                    LQ_GPU_MMA(lanes, t, d[j], g[at], side[0]);
                }
            }
        }
    }
}

/* ---- single values ---- */

LQ_DEVICE_FN static LQ_GPU_INLINE float lq_gpu_back_score(const struct lq_gpu_flash *op,
                                                          float product)
{
    return op->cap == 0.0f ? product * op->scale
                           : lq_gpu_cap_value(product, op->scale / op->cap, op->cap);
}

LQ_DEVICE_FN static LQ_GPU_INLINE bool lq_gpu_back_seen(const struct lq_gpu_flash *op,
                                                        uint32_t query, uint32_t key)
{
    return query < op->sequence && key <= query && (op->window == 0 || key + op->window > query);
}

/* The gradient of a product of a query with a key, from its score, its weight, and the weight's
 * gradient less the mean. */
LQ_DEVICE_FN static LQ_GPU_INLINE float lq_gpu_back_slope(const struct lq_gpu_flash *op,
                                                          float score, float weight, float grad)
{
    float slope = weight * grad * op->scale;
    if (op->cap != 0.0f) {
        float ratio = score / op->cap;
        slope *= 1.0f - ratio * ratio;
    }
    return slope;
}

/* Where the stats of a head's queries begin. */
LQ_DEVICE_FN static LQ_GPU_INLINE float *lq_gpu_back_stats(const struct lq_gpu_flash_back *op,
                                                           size_t sample, uint32_t head)
{
    size_t band = sample * op->flash.head_count + head;
    return op->stats + band * op->flash.sequence * LQ_GPU_STATS;
}

/* What was added up, to rows of heads. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_end(const struct lq_gpu_flash *op, size_t sample,
                                                       uint32_t first, uint32_t head,
                                                       uint32_t head_count, unsigned t,
                                                       const unsigned dim,
                                                       const struct lq_gpu_flash_lane *lane)
{
    LQ_GPU_UNROLL
    for (unsigned i = 0; i < dim / 2; i++) {
        uint32_t row = first + t / 32 * 16 + (t & 31) / 4 + i % 4 / 2 * 8;
        uint32_t col = i / 4 * 8 + 2 * (t & 3) + i % 2;
        if (row < op->sequence && col < op->head_dim) {
            size_t at = (sample * op->sequence + row) * head_count + head;
            op->out[at * op->head_dim + col] = lane->o[i / 4][i % 4];
        }
    }
}

/* ---- queries ---- */

/* Of each row: the mean of the gradients of its weights, in parts. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_mean(const struct lq_gpu_flash_back *op,
                                                        const struct lq_gpu_flash_tile *tile,
                                                        unsigned t, struct lq_gpu_flash_lane *lane)
{
    const struct lq_gpu_flash *flash = &op->flash;
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        uint32_t query = tile->first_query + t / 32 * 16 + (t & 31) / 4 + r * 8;
        float sum = 0.0f;
        if (query < flash->sequence) {
            size_t row = (tile->sample * flash->sequence + query) * flash->head_count + tile->head;
            for (uint32_t col = t & 3; col < flash->head_dim; col += 4) {
                size_t at = row * flash->head_dim + col;
                sum += op->rows[at] * op->grad_rows[at];
            }
        }
        lane->part[r] = sum;
        lane->best[r] = -INFINITY;
        lane->sum[r] = 0.0f;
    }
}

/* Takes a tile of scores into the largest one and the sum of a row. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_count(unsigned t, const unsigned keys,
                                                         struct lq_gpu_flash_lane *lanes)
{
    struct lq_gpu_flash_lane *lane = &lanes[LQ_GPU_OF(t)];
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        float best = fmaxf(lane->best[r], LQ_GPU_QUAD_MAX(lanes, t, part[r]));
        float shift = best == -INFINITY ? 0.0f : best; /* nothing is seen yet */
        float sum = lane->sum[r] * lq_gpu_flash_exp(lane->best[r] - shift);
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < keys / 4; i++) {
            sum += lq_gpu_flash_exp(lane->s[i / 2][2 * r + i % 2] - shift);
        }
        lane->best[r] = best;
        lane->sum[r] = sum;
    }
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_know(const struct lq_gpu_flash_back *op,
                                                        const struct lq_gpu_flash_tile *tile,
                                                        unsigned t, struct lq_gpu_flash_lane *lanes)
{
    struct lq_gpu_flash_lane *lane = &lanes[LQ_GPU_OF(t)];
    float *stats = lq_gpu_back_stats(op, tile->sample, tile->head);
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        uint32_t query = tile->first_query + t / 32 * 16 + (t & 31) / 4 + r * 8;
        lane->factor[r] = 1.0f / LQ_GPU_QUAD_SUM(lanes, t, sum[r]);
        if ((t & 3) == 0 && query < op->flash.sequence) {
            stats[query * LQ_GPU_STATS + LQ_GPU_STAT_BEST] = lane->best[r];
            stats[query * LQ_GPU_STATS + LQ_GPU_STAT_FACTOR] = lane->factor[r];
            stats[query * LQ_GPU_STATS + LQ_GPU_STAT_MEAN] = lane->mean[r];
        }
    }
}

/* From scores and gradients of weights to rounded gradients of scores. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_slopes(const struct lq_gpu_flash *op,
                                                          const struct lq_gpu_flash_tile *tile,
                                                          uint32_t first_key, unsigned t,
                                                          const unsigned keys,
                                                          struct lq_gpu_flash_lane *lane)
{
    LQ_GPU_UNROLL
    for (unsigned i = 0; i < keys / 4; i++) {
        unsigned r = i % 2;
        uint32_t query = tile->first_query + t / 32 * 16 + (t & 31) / 4 + r * 8;
        float slopes[2];
        LQ_GPU_UNROLL
        for (unsigned c = 0; c < 2; c++) {
            uint32_t key = first_key + i / 2 * 8 + 2 * (t & 3) + c;
            float score = lq_gpu_back_score(op, lane->s[i / 2][2 * r + c]);
            float weight = lq_gpu_flash_exp(score - lane->best[r]) * lane->factor[r];
            float slope =
                lq_gpu_back_slope(op, score, weight, lane->d[i / 2][2 * r + c] - lane->mean[r]);
            slopes[c] = lq_gpu_back_seen(op, query, key) ? slope : 0.0f;
        }
        lane->p[i / 4][i % 4] = lq_gpu_pair_of(slopes[0], slopes[1]);
    }
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_queries(const struct lq_gpu_flash_back *op,
                                                           size_t block, const unsigned dim,
                                                           const unsigned keys, uint16_t *tiles)
{
    const struct lq_gpu_flash *flash = &op->flash;
    const unsigned tile_elems = keys * (dim + 8);
    struct lq_gpu_flash_tile tile = lq_gpu_flash_tile_of(flash, block, keys);
    const size_t band = tile.sample * flash->head_count + tile.head;
    const struct lq_gpu_back_rows rows = {
        .from = {tile.q, op->out_grad + band * flash->sequence * flash->head_dim},
        .first = tile.first_query};
    LQ_GPU_LANES(lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        lq_gpu_back_begin(flash, &rows, t, dim, &lanes[LQ_GPU_OF(t)]);
        lq_gpu_back_mean(op, &tile, t, &lanes[LQ_GPU_OF(t)]);
        lq_gpu_flash_fetch_tile(flash, &tile, 0, t, dim, keys, tiles);
        lq_gpu_flash_commit();
    }
    LQ_GPU_EACH_WARP(w)
    {
        LQ_GPU_EACH_LANE(w, t)
        {
            LQ_GPU_UNROLL
            for (unsigned r = 0; r < 2; r++) {
                lanes[LQ_GPU_OF(t)].mean[r] = LQ_GPU_QUAD_SUM(lanes, t, part[r]);
            }
        }
    }
    /* Keys once for what is known of rows, then again. */
    for (uint32_t turn = 0; turn < 2 * tile.steps; turn++) {
        uint32_t step = turn < tile.steps ? turn : turn - tile.steps;
        uint32_t next = step + 1 < tile.steps ? step + 1 : 0;
        uint16_t *now = tiles + (turn & 1) * 2 * tile_elems;
        uint32_t first_key = tile.first_key + step * keys;
        LQ_GPU_EACH_THREAD(t)
        {
            if (turn + 1 < 2 * tile.steps) {
                lq_gpu_flash_fetch_tile(flash, &tile, next, t, dim, keys,
                                        tiles + ((turn + 1) & 1) * 2 * tile_elems);
            }
            lq_gpu_flash_commit();
            lq_gpu_flash_wait();
        }
        LQ_GPU_EACH_WARP(w)
        {
            if (turn == tile.steps) {
                LQ_GPU_EACH_LANE(w, t)
                {
                    lq_gpu_back_know(op, &tile, t, lanes);
                }
            }
            if (!lq_gpu_flash_sees(flash, &tile, first_key, w, keys)) {
                continue;
            }
            lq_gpu_back_multiply(flash, &rows, LQ_GPU_BACK_SCORES, now, w, dim, keys, lanes);
            if (turn < tile.steps) {
                LQ_GPU_EACH_LANE(w, t)
                {
                    lq_gpu_flash_scale(flash, &tile, first_key, t, keys, &lanes[LQ_GPU_OF(t)]);
                }
                LQ_GPU_EACH_LANE(w, t)
                {
                    lq_gpu_back_count(t, keys, lanes);
                }
                continue;
            }
            lq_gpu_back_multiply(flash, &rows, LQ_GPU_BACK_GRADS, now + tile_elems, w, dim, keys,
                                 lanes);
            LQ_GPU_EACH_LANE(w, t)
            {
                lq_gpu_back_slopes(flash, &tile, first_key, t, keys, &lanes[LQ_GPU_OF(t)]);
            }
            lq_gpu_flash_gather(now, w, dim, keys, lanes);
        }
        LQ_GPU_BARRIER();
    }
    LQ_GPU_EACH_WARP(w)
    {
        LQ_GPU_EACH_LANE(w, t)
        {
            lq_gpu_back_end(flash, tile.sample, tile.first_query, tile.head, flash->head_count, t,
                            dim, &lanes[LQ_GPU_OF(t)]);
        }
    }
}

/* ---- keys and values ---- */

/* What a block of keys walks over: `steps` tiles of the queries of each head of the group, as tiles
 * of gradients' rows behind those of queries. */
struct lq_gpu_back_walk {
    size_t sample;
    uint32_t kv_head;
    uint32_t first_key;
    uint32_t first_query;
    uint32_t steps;
};

/* Blocks of a head follow each other, the longest first. */
LQ_DEVICE_FN static LQ_GPU_INLINE struct lq_gpu_back_walk
lq_gpu_back_walk_of(const struct lq_gpu_flash *op, size_t block, uint32_t keys)
{
    uint32_t tiles = (op->sequence + LQ_GPU_FLASH_QUERIES - 1) / LQ_GPU_FLASH_QUERIES;
    size_t band = block / tiles;
    struct lq_gpu_back_walk walk;
    walk.sample = band / op->kv_head_count;
    walk.kv_head = (uint32_t)(band % op->kv_head_count);
    walk.first_key = (uint32_t)(block % tiles) * LQ_GPU_FLASH_QUERIES;
    walk.first_query = walk.first_key; /* a multiple of `keys` */
    uint32_t left = op->sequence - walk.first_query;
    uint32_t most =
        op->window == 0 || op->window > left ? left : op->window + LQ_GPU_FLASH_QUERIES - 1;
    walk.steps = ((most < left ? most : left) + keys - 1) / keys;
    return walk;
}

/* A head's queries and the gradients of what came out for them, as keys and values are fetched. */
LQ_DEVICE_FN static LQ_GPU_INLINE struct lq_gpu_flash_tile
lq_gpu_back_tile_of(const struct lq_gpu_flash_back *op, const struct lq_gpu_back_walk *walk,
                    uint32_t turn)
{
    const struct lq_gpu_flash *flash = &op->flash;
    struct lq_gpu_flash_tile tile;
    tile.sample = walk->sample;
    tile.head = walk->kv_head * flash->group + turn / walk->steps;
    tile.first_query = 0;
    tile.first_key = walk->first_query;
    tile.steps = walk->steps;
    size_t band = walk->sample * flash->head_count + tile.head;
    tile.q = NULL;
    tile.k = flash->q + band * flash->sequence * flash->head_dim;
    tile.v = op->out_grad + band * flash->sequence * flash->head_dim;
    return tile;
}

/* From scores (rows are keys, columns queries) to rounded weights, or, with their gradients, to
 * those of scores. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_turned(const struct lq_gpu_flash *op,
                                                          const float *stats, uint32_t first_key,
                                                          uint32_t first_query, unsigned t,
                                                          const bool of_keys, const unsigned keys,
                                                          struct lq_gpu_flash_lane *lane)
{
    LQ_GPU_UNROLL
    for (unsigned j = 0; j < keys / 8; j++) {
        float values[4];
        LQ_GPU_UNROLL
        for (unsigned c = 0; c < 2; c++) {
            uint32_t query = first_query + j * 8 + 2 * (t & 3) + c;
            bool is_there = query < op->sequence;
            const float *known = stats + (is_there ? query : 0) * (size_t)LQ_GPU_STATS;
            float best = known[LQ_GPU_STAT_BEST];
            float factor = known[LQ_GPU_STAT_FACTOR];
            float mean = of_keys ? known[LQ_GPU_STAT_MEAN] : 0.0f;
            LQ_GPU_UNROLL
            for (unsigned r = 0; r < 2; r++) {
                uint32_t key = first_key + t / 32 * 16 + (t & 31) / 4 + r * 8;
                float score = lq_gpu_back_score(op, lane->s[j][2 * r + c]);
                float weight = lq_gpu_flash_exp(score - best) * factor;
                float value =
                    of_keys ? lq_gpu_back_slope(op, score, weight, lane->d[j][2 * r + c] - mean)
                            : weight;
                values[2 * r + c] = lq_gpu_back_seen(op, query, key) ? value : 0.0f;
            }
        }
        lane->p[j / 2][j % 2 * 2] = lq_gpu_pair_of(values[0], values[1]);
        lane->p[j / 2][j % 2 * 2 + 1] = lq_gpu_pair_of(values[2], values[3]);
    }
}

/* False where no query of the tile sees a key of the warp. */
LQ_DEVICE_FN static LQ_GPU_INLINE bool lq_gpu_back_sees(const struct lq_gpu_flash *op,
                                                        uint32_t first_key, uint32_t first_query,
                                                        unsigned w, const unsigned keys)
{
    uint32_t first_row = first_key + w * 16;
    return first_row < op->sequence && first_query + keys - 1 >= first_row &&
           (op->window == 0 || first_row + 15 + op->window > first_query);
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_back_keys(const struct lq_gpu_flash_back *op,
                                                        size_t block, const bool of_keys,
                                                        const unsigned dim, const unsigned keys,
                                                        uint16_t *tiles)
{
    const struct lq_gpu_flash *flash = &op->flash;
    const unsigned tile_elems = keys * (dim + 8);
    const struct lq_gpu_back_walk walk = lq_gpu_back_walk_of(flash, block, keys);
    const size_t elems = (walk.sample * flash->kv_head_count + walk.kv_head) *
                         (size_t)flash->sequence * flash->head_dim;
    const struct lq_gpu_back_rows rows = {.from = {flash->k + elems, flash->v + elems},
                                          .first = walk.first_key};
    const uint32_t turns = walk.steps * flash->group;
    LQ_GPU_LANES(lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        struct lq_gpu_flash_tile tile = lq_gpu_back_tile_of(op, &walk, 0);
        lq_gpu_back_begin(flash, &rows, t, dim, &lanes[LQ_GPU_OF(t)]);
        lq_gpu_flash_fetch_tile(flash, &tile, 0, t, dim, keys, tiles);
        lq_gpu_flash_commit();
    }
    for (uint32_t turn = 0; turn < turns; turn++) {
        uint16_t *now = tiles + (turn & 1) * 2 * tile_elems;
        uint32_t first_query = walk.first_query + turn % walk.steps * keys;
        const float *stats =
            lq_gpu_back_stats(op, walk.sample, walk.kv_head * flash->group + turn / walk.steps);
        LQ_GPU_EACH_THREAD(t)
        {
            if (turn + 1 < turns) {
                struct lq_gpu_flash_tile tile = lq_gpu_back_tile_of(op, &walk, turn + 1);
                lq_gpu_flash_fetch_tile(flash, &tile, (turn + 1) % walk.steps, t, dim, keys,
                                        tiles + ((turn + 1) & 1) * 2 * tile_elems);
            }
            lq_gpu_flash_commit();
            lq_gpu_flash_wait();
        }
        LQ_GPU_EACH_WARP(w)
        {
            if (!lq_gpu_back_sees(flash, walk.first_key, first_query, w, keys)) {
                continue;
            }
            lq_gpu_back_multiply(flash, &rows, LQ_GPU_BACK_SCORES, now, w, dim, keys, lanes);
            if (of_keys) {
                lq_gpu_back_multiply(flash, &rows, LQ_GPU_BACK_GRADS, now + tile_elems, w, dim,
                                     keys, lanes);
            }
            LQ_GPU_EACH_LANE(w, t)
            {
                lq_gpu_back_turned(flash, stats, walk.first_key, first_query, t, of_keys, keys,
                                   &lanes[LQ_GPU_OF(t)]);
            }
            lq_gpu_flash_gather(of_keys ? now : now + tile_elems, w, dim, keys, lanes);
        }
        LQ_GPU_BARRIER();
    }
    LQ_GPU_EACH_WARP(w)
    {
        LQ_GPU_EACH_LANE(w, t)
        {
            lq_gpu_back_end(flash, walk.sample, walk.first_key, walk.kv_head, flash->kv_head_count,
                            t, dim, &lanes[LQ_GPU_OF(t)]);
        }
    }
}

/* ---- operations ---- */

#define LQ_GPU_FLASH_BACK(dim, keys)                                                               \
    LQ_DEVICE_FN static inline void lq_gpu_queries_##dim##_block(                                  \
        const struct lq_gpu_queries_##dim *op, size_t block)                                       \
    {                                                                                              \
        LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t tiles[4 * (keys) * ((dim) + 8)];                     \
        lq_gpu_back_queries(&op->back, block, dim, keys, tiles);                                   \
    }                                                                                              \
    LQ_DEVICE_FN static inline void lq_gpu_keys_##dim##_block(const struct lq_gpu_keys_##dim *op,  \
                                                              size_t block)                        \
    {                                                                                              \
        LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t tiles[4 * (keys) * ((dim) + 8)];                     \
        lq_gpu_back_keys(&op->back, block, true, dim, keys, tiles);                                \
    }                                                                                              \
    LQ_DEVICE_FN static inline void lq_gpu_values_##dim##_block(                                   \
        const struct lq_gpu_values_##dim *op, size_t block)                                        \
    {                                                                                              \
        LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t tiles[4 * (keys) * ((dim) + 8)];                     \
        lq_gpu_back_keys(&op->back, block, false, dim, keys, tiles);                               \
    }

LQ_GPU_FLASH_BACK(64, 32)
LQ_GPU_FLASH_BACK(128, 32)
LQ_GPU_FLASH_BACK(256, 16)

#endif

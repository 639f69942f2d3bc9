/* Attention in one operation: scores of a tile of queries exist for one tile of keys at a time, in
 * registers, and the softmax is carried along (Dao, "FlashAttention-2", 2023, algorithm 1). A block
 * has LQ_GPU_FLASH_QUERIES queries of a head, a warp 16 of them.
 *
 * What a thread keeps between steps is a `struct lq_gpu_flash_lane` of its own: a register file on
 * a GPU, an element of an array on the CPU. Products are the matrix units' m16n8k16 (PTX ISA,
 * "Matrix fragments for mma.m16n8k16"): a warp's lane 4 g + i holds of the left side rows g and g +
 * 8, columns 2 i, 2 i + 1 and 8 more; of the right side column g, rows 2 i, 2 i + 1 and 8 more; of
 * the result rows g and g + 8, columns 2 i and 2 i + 1. On the CPU the same lanes hold the same and
 * a product gathers them, so that tests see where everything goes. So lanes of a warp are a loop
 * within a loop over warps, and a loop over lanes ends where one reads what another has.
 *
 * Internal to the kernels and their modules. Thread rule: pure; blocks write to different memory.
 * Limits: heads of a multiple of 8, at most 256. */
#ifndef LQ_KERNELS_GPU_FLASH_H
#define LQ_KERNELS_GPU_FLASH_H

#include "kernels/gpu_rows.h"
#include "kernels/gpu_warp.h"

#define LQ_GPU_FLASH_QUERIES 128u

/* Loops that run once name their variables at their end, or compilers say that nobody does. */
#ifdef LQ_GPU_BY_THREAD
#define LQ_GPU_LANES(name) struct lq_gpu_flash_lane name[1]
#define LQ_GPU_OF(t) (0 * (t))
#define LQ_GPU_EACH_WARP(w)                                                                        \
    for (unsigned w = LQ_GPU_THREAD / 32, w##_once = 1; w##_once != 0; w##_once = 0 * w)
#define LQ_GPU_EACH_LANE(w, t)                                                                     \
    for (unsigned t = LQ_GPU_THREAD, t##_once = 1; t##_once != 0; t##_once = 0 * (t + (w)))
#else
#define LQ_GPU_LANES(name) struct lq_gpu_flash_lane name[LQ_GPU_THREADS]
#define LQ_GPU_OF(t) (t)
#define LQ_GPU_EACH_WARP(w)                                                                        \
    for (unsigned w##_n = 0, w = lq_gpu_turn(0, LQ_GPU_THREADS / 32); w##_n < LQ_GPU_THREADS / 32; \
         w = lq_gpu_turn(++w##_n, LQ_GPU_THREADS / 32))
#define LQ_GPU_EACH_LANE(w, t)                                                                     \
    for (unsigned t##_n = 0, t = (w)*32 + lq_gpu_turn(0, 32); t##_n < 32;                          \
         t = (w)*32 + lq_gpu_turn(++t##_n, 32))
#endif
#ifdef __CUDACC__
#define LQ_GPU_UNROLL _Pragma("unroll")
#define LQ_GPU_INLINE __forceinline__
#else
#define LQ_GPU_UNROLL
#define LQ_GPU_INLINE inline
#endif

/* The most of any head. */
enum {
    LQ_GPU_FLASH_DEPTH = 16, /* steps of 16 columns of a head */
    LQ_GPU_FLASH_KEYS = 32,
};

struct lq_gpu_flash_lane {
    uint32_t q[LQ_GPU_FLASH_DEPTH][4];     /* queries, pairs of bf16 */
    float o[2 * LQ_GPU_FLASH_DEPTH][4];    /* what comes out, before it is divided */
    float s[LQ_GPU_FLASH_KEYS / 8][4];     /* scores */
    uint32_t p[LQ_GPU_FLASH_KEYS / 16][4]; /* weights, pairs of bf16 */
    uint32_t side[2][2];                   /* of the right side of a product */
    float part[2];                         /* of rows g and g + 8: the largest score of this lane */
    float best[2];                         /* of all lanes so far */
    float sum[2];                          /* of this lane's weights */
    /* Of gpu_flash_back.h alone. */
    uint32_t g[LQ_GPU_FLASH_DEPTH][4]; /* a second left side */
    float d[LQ_GPU_FLASH_KEYS / 8][4]; /* gradients of weights */
    float factor[2];                   /* one through the sum of a row */
    float mean[2];                     /* of the gradients of its weights */
};

/* ---- what a GPU has instructions for ---- */

LQ_DEVICE_FN static LQ_GPU_INLINE uint32_t lq_gpu_pair_at(const uint16_t *from)
{
    uint32_t pair;
    memcpy(&pair, from, sizeof pair);
    return pair;
}

#ifdef LQ_GPU_BY_THREAD

LQ_DEVICE_FN static LQ_GPU_INLINE uint32_t lq_gpu_shared_pair(const uint16_t *from)
{
    return *(const uint32_t *)from; /* even columns of aligned rows */
}

LQ_DEVICE_FN static LQ_GPU_INLINE uint32_t lq_gpu_pair_of(float low, float high)
{
    return lq_gpu_warp_round(low, high);
}

/* exp(x) of x <= 0; 0 for minus infinity. */
LQ_DEVICE_FN static LQ_GPU_INLINE float lq_gpu_flash_exp(float x)
{
    return lq_gpu_warp_exp(x);
}

/* c += a b. */
#define LQ_GPU_MMA(lanes, t, c, a, b)                                                              \
    ((void)(t), lq_gpu_warp_multiply((lanes)[0].c, (lanes)[0].a, (lanes)[0].b))
/* Over the four lanes that share rows. */
#define LQ_GPU_QUAD_MAX(lanes, t, member)                                                          \
    fmaxf(fmaxf((lanes)[0].member, lq_gpu_warp_swap((lanes)[0].member, 1)),                        \
          fmaxf(lq_gpu_warp_swap((lanes)[0].member, 2), lq_gpu_warp_swap((lanes)[0].member, 3)))
#define LQ_GPU_QUAD_SUM(lanes, t, member)                                                          \
    ((lanes)[0].member + lq_gpu_warp_swap((lanes)[0].member, 1) +                                  \
     (lq_gpu_warp_swap((lanes)[0].member, 2) + lq_gpu_warp_swap((lanes)[0].member, 3)))

/* side[0] and side[1]: the right side of 16 keys and 8 columns from `tile` on, and of the 8 columns
 * behind them. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_turned_side(const uint16_t *tile, unsigned stride,
                                                          unsigned t, uint32_t side[2][2])
{
    uint32_t all[4];
    lq_gpu_warp_load_turned(tile + (t & 15) * stride + (t & 16) / 2, all);
    side[0][0] = all[0];
    side[0][1] = all[1];
    side[1][0] = all[2];
    side[1][1] = all[3];
}

/* 16 bytes into shared memory, on their way until lq_gpu_flash_wait; zeros instead unless `valid`.
 */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_fetch(uint16_t *to, const uint16_t *from,
                                                          bool valid)
{
    lq_gpu_warp_fetch(to, from, valid ? 16 : 0);
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_commit(void)
{
    lq_gpu_warp_commit();
}

/* For all that was committed but the newest. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_wait(void)
{
    lq_gpu_warp_wait();
}

#else

static inline uint32_t lq_gpu_shared_pair(const uint16_t *from)
{
    return lq_gpu_pair_at(from);
}

static inline uint32_t lq_gpu_pair_of(float low, float high)
{
    return (uint32_t)lq_gpu_bf16_of(low) | (uint32_t)lq_gpu_bf16_of(high) << 16;
}

static inline float lq_gpu_flash_exp(float x)
{
    return x < -87.0f ? 0.0f : lq_exp_f32(x);
}

static inline float lq_gpu_half_of(uint32_t pair, unsigned which)
{
    return lq_gpu_float_of((uint16_t)(pair >> (16 * which)));
}

/* The result of one lane; `rows` are the left side in the four lanes of its rows, `cols` the right
 * side in the eight lanes of its two columns. */
static inline void lq_gpu_mma_lane(float c[4], const uint32_t *const rows[4],
                                   const uint32_t *const cols[8])
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i / 2;
        const uint32_t *const *col = cols + i % 2 * 4;
        for (unsigned k = 0; k < 16; k++) {
            unsigned part = k / 8;
            unsigned lane = k % 8 / 2;
            c[i] += lq_gpu_half_of(rows[lane][row + 2 * part], k % 2) *
                    lq_gpu_half_of(col[lane][part], k % 2);
        }
    }
}

#define LQ_GPU_MMA(lanes, t, c, a, b)                                                              \
    do {                                                                                           \
        const uint32_t *rows_[4];                                                                  \
        const uint32_t *cols_[8];                                                                  \
        for (unsigned i_ = 0; i_ < 8; i_++) {                                                      \
            rows_[i_ % 4] = (lanes)[((t) & ~3u) + i_ % 4].a;                                       \
            cols_[i_] = (lanes)[((t) & ~31u) + 8 * ((t)&3u) + i_].b;                               \
        }                                                                                          \
        lq_gpu_mma_lane((lanes)[t].c, rows_, cols_);                                               \
    } while (0)
#define LQ_GPU_QUAD(lanes, t, i, member) ((lanes)[(t) ^ (i)].member)
#define LQ_GPU_QUAD_MAX(lanes, t, member)                                                          \
    fmaxf(fmaxf(LQ_GPU_QUAD(lanes, t, 0u, member), LQ_GPU_QUAD(lanes, t, 1u, member)),             \
          fmaxf(LQ_GPU_QUAD(lanes, t, 2u, member), LQ_GPU_QUAD(lanes, t, 3u, member)))
#define LQ_GPU_QUAD_SUM(lanes, t, member)                                                          \
    (LQ_GPU_QUAD(lanes, t, 0u, member) + LQ_GPU_QUAD(lanes, t, 1u, member) +                       \
     (LQ_GPU_QUAD(lanes, t, 2u, member) + LQ_GPU_QUAD(lanes, t, 3u, member)))

static inline void lq_gpu_turned_side(const uint16_t *tile, unsigned stride, unsigned t,
                                      uint32_t side[2][2])
{
    for (unsigned i = 0; i < 4; i++) {
        const uint16_t *at = tile + (i % 2 * 8 + 2 * (t & 3)) * stride + i / 2 * 8 + (t & 31) / 4;
        side[i / 2][i % 2] = (uint32_t)at[0] | (uint32_t)at[stride] << 16;
    }
}

static inline void lq_gpu_flash_fetch(uint16_t *to, const uint16_t *from, bool valid)
{
    if (valid) {
        memcpy(to, from, 16);
    } else {
        memset(to, 0, 16);
    }
}

static inline void lq_gpu_flash_commit(void)
{
}

static inline void lq_gpu_flash_wait(void)
{
}

#endif

/* ---- steps ---- */

/* What a block has to do. */
struct lq_gpu_flash_tile {
    size_t sample;
    uint32_t head;
    uint32_t first_query;
    uint32_t first_key;
    uint32_t steps;            /* tiles of keys */
    const uint16_t *q, *k, *v; /* of the head, [sequence x head_dim] */
};

/* Blocks of a head follow each other, the longest first. */
LQ_DEVICE_FN static LQ_GPU_INLINE struct lq_gpu_flash_tile
lq_gpu_flash_tile_of(const struct lq_gpu_flash *op, size_t block, uint32_t keys)
{
    const uint32_t sequence = op->sequence;
    uint32_t tiles = (sequence + LQ_GPU_FLASH_QUERIES - 1) / LQ_GPU_FLASH_QUERIES;
    size_t band = block / tiles;
    struct lq_gpu_flash_tile tile;
    tile.sample = band / op->head_count;
    tile.head = (uint32_t)(band % op->head_count);
    tile.first_query = (tiles - 1 - (uint32_t)(block % tiles)) * LQ_GPU_FLASH_QUERIES;
    uint32_t end = tile.first_query + LQ_GPU_FLASH_QUERIES;
    uint32_t seen = tile.first_query + 1;
    end = end < sequence ? end : sequence;
    tile.first_key = op->window != 0 && seen > op->window ? (seen - op->window) / keys * keys : 0;
    tile.steps = (end - tile.first_key + keys - 1) / keys;
    size_t kv_band = tile.sample * op->kv_head_count + tile.head / op->group;
    tile.q = op->q + band * sequence * op->head_dim;
    tile.k = op->k + kv_band * sequence * op->head_dim;
    tile.v = op->v + kv_band * sequence * op->head_dim;
    return tile;
}

/* One tile of keys and values, their rows `dim` + 8 apart, which spreads them over the banks of
 * shared memory. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_fetch_tile(const struct lq_gpu_flash *op,
                                                               const struct lq_gpu_flash_tile *tile,
                                                               uint32_t step, unsigned t,
                                                               const unsigned dim,
                                                               const unsigned keys, uint16_t *to)
{
    const unsigned chunks = dim / 8;
    for (unsigned i = t; i < 2 * keys * chunks; i += LQ_GPU_THREADS) {
        unsigned row = i / chunks % keys;
        unsigned col = i % chunks * 8;
        uint32_t key = tile->first_key + step * keys + row;
        const uint16_t *from = i < keys * chunks ? tile->k : tile->v;
        bool valid = key < op->sequence && col < op->head_dim;
        lq_gpu_flash_fetch(to + i / chunks * (dim + 8) + col,
                           valid ? from + (size_t)key * op->head_dim + col : from, valid);
    }
}

LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_begin(const struct lq_gpu_flash *op,
                                                          const struct lq_gpu_flash_tile *tile,
                                                          unsigned t, const unsigned dim,
                                                          struct lq_gpu_flash_lane *lane)
{
    LQ_GPU_UNROLL
    for (unsigned k = 0; k < dim / 16; k++) {
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < 4; i++) {
            uint32_t row = tile->first_query + t / 32 * 16 + (t & 31) / 4 + i % 2 * 8;
            uint32_t col = k * 16 + i / 2 * 8 + 2 * (t & 3);
            bool valid = row < op->sequence && col < op->head_dim;
            lane->q[k][i] = valid ? lq_gpu_pair_at(tile->q + (size_t)row * op->head_dim + col) : 0u;
        }
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < 8; i++) {
            lane->o[2 * k + i / 4][i % 4] = 0.0f;
        }
    }
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        lane->best[r] = -INFINITY;
        lane->sum[r] = 0.0f;
    }
}

/* s = queries * transpose(keys). */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_scores(const uint16_t *k_tile, unsigned w,
                                                           const unsigned dim, const unsigned keys,
                                                           struct lq_gpu_flash_lane *lanes)
{
    LQ_GPU_EACH_LANE(w, t)
    {
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < keys / 2; i++) {
            lanes[LQ_GPU_OF(t)].s[i / 4][i % 4] = 0.0f;
        }
    }
    LQ_GPU_UNROLL
    for (unsigned k = 0; k < dim / 16; k++) {
        LQ_GPU_UNROLL
        for (unsigned j = 0; j < keys / 8; j++) {
            LQ_GPU_EACH_LANE(w, t)
            {
                const uint16_t *at =
                    k_tile + (j * 8 + (t & 31) / 4) * (dim + 8) + k * 16 + 2 * (t & 3);
                lanes[LQ_GPU_OF(t)].side[0][0] = lq_gpu_shared_pair(at);
                lanes[LQ_GPU_OF(t)].side[0][1] = lq_gpu_shared_pair(at + 8);
            }
            LQ_GPU_EACH_LANE(w, t)
            {
                LQ_GPU_MMA(lanes, t, s[j], q[k], side[0]);
            }
        }
    }
}

/* Scores as they count, minus infinity for keys that a query does not see; and the largest. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_scale(const struct lq_gpu_flash *op,
                                                          const struct lq_gpu_flash_tile *tile,
                                                          uint32_t first_key, unsigned t,
                                                          const unsigned keys,
                                                          struct lq_gpu_flash_lane *lane)
{
    const uint32_t first_row = tile->first_query + t / 32 * 16 + (t & 31) / 4;
    lane->part[0] = lane->part[1] = -INFINITY;
    LQ_GPU_UNROLL
    for (unsigned i = 0; i < keys / 2; i++) {
        uint32_t row = first_row + i % 4 / 2 * 8;
        uint32_t key = first_key + i / 4 * 8 + 2 * (t & 3) + i % 2;
        float product = lane->s[i / 4][i % 4];
        float score = op->cap == 0.0f ? product * op->scale
                                      : lq_gpu_cap_value(product, op->scale / op->cap, op->cap);
        bool seen = key <= row && (op->window == 0 || key + op->window > row);
        score = seen ? score : -INFINITY;
        lane->s[i / 4][i % 4] = score;
        lane->part[i % 4 / 2] = fmaxf(lane->part[i % 4 / 2], score);
    }
}

/* From scores to rounded weights, and what came before to the new maximum. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_weigh(unsigned t, const unsigned dim,
                                                          const unsigned keys,
                                                          struct lq_gpu_flash_lane *lanes)
{
    struct lq_gpu_flash_lane *lane = &lanes[LQ_GPU_OF(t)];
    float shift[2];
    float factor[2];
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        float best = fmaxf(lane->best[r], LQ_GPU_QUAD_MAX(lanes, t, part[r]));
        shift[r] = best == -INFINITY ? 0.0f : best; /* nothing is seen yet */
        factor[r] = lq_gpu_flash_exp(lane->best[r] - shift[r]);
        lane->best[r] = best;
        lane->sum[r] *= factor[r];
    }
    LQ_GPU_UNROLL
    for (unsigned i = 0; i < keys / 4; i++) {
        /* Of two columns of a row: register i of four of a step of 16 keys. */
        unsigned row = i % 2;
        const float *pair = &lane->s[i / 2][2 * row];
        uint32_t rounded = lq_gpu_pair_of(lq_gpu_flash_exp(pair[0] - shift[row]),
                                          lq_gpu_flash_exp(pair[1] - shift[row]));
        lane->p[i / 4][i % 4] = rounded;
        lane->sum[row] += lq_gpu_float_of((uint16_t)rounded);
        lane->sum[row] += lq_gpu_float_of((uint16_t)(rounded >> 16));
    }
    LQ_GPU_UNROLL
    for (unsigned n = 0; n < dim / 8; n++) {
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < 4; i++) {
            lane->o[n][i] *= factor[i / 2];
        }
    }
}

/* o += weights * values. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_gather(const uint16_t *v_tile, unsigned w,
                                                           const unsigned dim, const unsigned keys,
                                                           struct lq_gpu_flash_lane *lanes)
{
    LQ_GPU_UNROLL
    for (unsigned k = 0; k < keys / 16; k++) {
        LQ_GPU_UNROLL
        for (unsigned n = 0; n < dim / 8; n += 2) {
            LQ_GPU_EACH_LANE(w, t)
            {
                lq_gpu_turned_side(v_tile + k * 16 * (dim + 8) + n * 8, dim + 8, t,
                                   lanes[LQ_GPU_OF(t)].side);
            }
            LQ_GPU_EACH_LANE(w, t)
            {
                LQ_GPU_MMA(lanes, t, o[n], p[k], side[0]);
                LQ_GPU_MMA(lanes, t, o[n + 1], p[k], side[1]);
            }
        }
    }
}

/* To rows of heads, divided by the sums. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_end(const struct lq_gpu_flash *op,
                                                        const struct lq_gpu_flash_tile *tile,
                                                        unsigned t, const unsigned dim,
                                                        const struct lq_gpu_flash_lane *lanes)
{
    const struct lq_gpu_flash_lane *lane = &lanes[LQ_GPU_OF(t)];
    LQ_GPU_UNROLL
    for (unsigned r = 0; r < 2; r++) {
        float factor = 1.0f / LQ_GPU_QUAD_SUM(lanes, t, sum[r]);
        uint32_t query = tile->first_query + t / 32 * 16 + (t & 31) / 4 + r * 8;
        size_t row = tile->sample * op->sequence + query;
        uint32_t first_col = tile->head * op->head_dim;
        float *to = op->out + row * op->head_count * op->head_dim + first_col;
        LQ_GPU_UNROLL
        for (unsigned i = 0; i < dim / 4; i++) {
            uint32_t col = i / 2 * 8 + 2 * (t & 3) + i % 2;
            if (query < op->sequence && col < op->head_dim) {
                float value = lane->o[i / 2][2 * r + i % 2] * factor;
                to[col] = value;
                lq_gpu_leave_twin(&op->twin, row, first_col + col, value);
            }
        }
    }
}

/* False where no query of the warp sees a key of the tile. */
LQ_DEVICE_FN static LQ_GPU_INLINE bool lq_gpu_flash_sees(const struct lq_gpu_flash *op,
                                                         const struct lq_gpu_flash_tile *tile,
                                                         uint32_t first_key, unsigned w,
                                                         const unsigned keys)
{
    uint32_t first_row = tile->first_query + w * 16;
    return first_row < op->sequence && first_key <= first_row + 15 &&
           (op->window == 0 || first_key + keys - 1 + op->window > first_row);
}

/* A block; `dim` (a multiple of 16, what is beyond the head's is zero) and `keys` are constants,
 * and `tiles` has two times a tile of keys and one of values. */
LQ_DEVICE_FN static LQ_GPU_INLINE void lq_gpu_flash_run(const struct lq_gpu_flash *op, size_t block,
                                                        const unsigned dim, const unsigned keys,
                                                        uint16_t *tiles)
{
    const unsigned tile_elems = keys * (dim + 8);
    struct lq_gpu_flash_tile tile = lq_gpu_flash_tile_of(op, block, keys);
    LQ_GPU_LANES(lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        lq_gpu_flash_begin(op, &tile, t, dim, &lanes[LQ_GPU_OF(t)]);
        lq_gpu_flash_fetch_tile(op, &tile, 0, t, dim, keys, tiles);
        lq_gpu_flash_commit();
    }
    for (uint32_t step = 0; step < tile.steps; step++) {
        uint16_t *now = tiles + (step & 1) * 2 * tile_elems;
        uint32_t first_key = tile.first_key + step * keys;
        /* The next tile is on its way while this one is used. */
        LQ_GPU_EACH_THREAD(t)
        {
            if (step + 1 < tile.steps) {
                lq_gpu_flash_fetch_tile(op, &tile, step + 1, t, dim, keys,
                                        tiles + ((step + 1) & 1) * 2 * tile_elems);
            }
            lq_gpu_flash_commit();
            lq_gpu_flash_wait();
        }
        LQ_GPU_EACH_WARP(w)
        {
            if (!lq_gpu_flash_sees(op, &tile, first_key, w, keys)) {
                continue;
            }
            lq_gpu_flash_scores(now, w, dim, keys, lanes);
            LQ_GPU_EACH_LANE(w, t)
            {
                lq_gpu_flash_scale(op, &tile, first_key, t, keys, &lanes[LQ_GPU_OF(t)]);
            }
            LQ_GPU_EACH_LANE(w, t)
            {
                lq_gpu_flash_weigh(t, dim, keys, lanes);
            }
            lq_gpu_flash_gather(now + tile_elems, w, dim, keys, lanes);
        }
        LQ_GPU_BARRIER();
    }
    LQ_GPU_EACH_WARP(w)
    {
        LQ_GPU_EACH_LANE(w, t)
        {
            lq_gpu_flash_end(op, &tile, t, dim, lanes);
        }
    }
}

/* ---- operations ---- */

#define LQ_GPU_FLASH(dim, keys)                                                                    \
    LQ_DEVICE_FN static inline void lq_gpu_flash_##dim##_block(                                    \
        const struct lq_gpu_flash_##dim *op, size_t block)                                         \
    {                                                                                              \
        LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t tiles[4 * (keys) * ((dim) + 8)];                     \
        lq_gpu_flash_run(&op->flash, block, dim, keys, tiles);                                     \
    }

LQ_GPU_FLASH(64, 32)
LQ_GPU_FLASH(96, 32)
LQ_GPU_FLASH(128, 32)
LQ_GPU_FLASH(192, 16)
LQ_GPU_FLASH(256, 16)

#endif

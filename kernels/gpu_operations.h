/* The operations of a GPU besides products: what the program tells a module to launch, and what
 * each of them takes. Bodies are in gpu_rows.h (rows of floats), gpu_experts.h (mixtures),
 * gpu_heads.h (attention), gpu_flash.h and gpu_flash_back.h (attention in one go, and its
 * gradients). All pointers are device memory; sizes are never 0 unless it is said. Internal to the
 * kernels and their modules. Thread rule: plain data. Limits: columns, threads of a row and what
 * they multiply to fit 32 bits. */
#ifndef LQ_KERNELS_GPU_OPERATIONS_H
#define LQ_KERNELS_GPU_OPERATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(UPPER, lower): operation LQ_GPU_OP_UPPER runs lq_gpu_<lower>_block on a struct lq_gpu_<lower>.
 */
#define LQ_GPU_OPERATIONS(X)                                                                       \
    X(ADD, add)                                                                                    \
    X(CAP, cap)                                                                                    \
    X(GATE, gate)                                                                                  \
    X(GATE_BACK, gate_back)                                                                        \
    X(ROUND, round)                                                                                \
    X(BIAS, bias)                                                                                  \
    X(NORM, norm)                                                                                  \
    X(NORM_BACK, norm_back)                                                                        \
    X(ROPE, rope)                                                                                  \
    X(SQUARES, squares)                                                                            \
    X(SCORES, scores)                                                                              \
    X(COLUMNS, columns)                                                                            \
    X(ENTROPY, entropy)                                                                            \
    X(ENTROPY_BACK, entropy_back)                                                                  \
    X(DIFFERENCE, difference)                                                                      \
    X(CHOOSE, choose)                                                                              \
    X(PLACE, place)                                                                                \
    X(GATHER, gather)                                                                              \
    X(COMBINE, combine)                                                                            \
    X(WEIGH, weigh)                                                                                \
    X(ROUTE_BACK, route_back)                                                                      \
    X(FLASH_64, flash_64)                                                                          \
    X(FLASH_96, flash_96)                                                                          \
    X(FLASH_128, flash_128)                                                                        \
    X(FLASH_192, flash_192)                                                                        \
    X(FLASH_256, flash_256)                                                                        \
    X(QUERIES_64, queries_64)                                                                      \
    X(QUERIES_128, queries_128)                                                                    \
    X(QUERIES_256, queries_256)                                                                    \
    X(KEYS_64, keys_64)                                                                            \
    X(KEYS_128, keys_128)                                                                          \
    X(KEYS_256, keys_256)                                                                          \
    X(VALUES_64, values_64)                                                                        \
    X(VALUES_128, values_128)                                                                      \
    X(VALUES_256, values_256)                                                                      \
    X(SPLIT, split)                                                                                \
    X(SOFTMAX, softmax)                                                                            \
    X(SPREAD, spread)                                                                              \
    X(JOIN, join)

struct lq_logits_difference;

enum lq_gpu_operation {
#define LQ_GPU_OPERATION(upper, lower) LQ_GPU_OP_##upper,
    LQ_GPU_OPERATIONS(LQ_GPU_OPERATION)
#undef LQ_GPU_OPERATION
        LQ_GPU_OP_COUNT
};

/* Threads of a block. */
#define LQ_GPU_THREADS 256u
/* Values of a block of an operation on single values. */
#define LQ_GPU_BLOCK_ELEMS 1024u
/* Rows that one thread adds up in a column. */
#define LQ_GPU_PART_ROWS 32u

/* Rows, and how threads share them: `lanes` threads, a power of two, take a row. */
struct lq_gpu_shape {
    size_t rows;
    uint32_t cols;
    uint32_t lanes;
};

/* Where an operation leaves its result as bf16 as well, `stride` apart; `to` NULL: nowhere. */
struct lq_gpu_twin {
    uint16_t *to;
    uint32_t stride;
};

/* x += y. */
struct lq_gpu_add {
    float *x;
    const float *y;
    size_t count;
};

/* x = cap * tanh(x / cap). */
struct lq_gpu_cap {
    float *x;
    size_t count;
    float cap;
};

/* gate = act(gate) * up. */
struct lq_gpu_gate {
    float *gate;
    const float *up;
    size_t count;
    bool gelu;
    uint16_t *twin; /* the result as bf16; NULL: nowhere */
};

struct lq_gpu_gate_back {
    float *gate;
    float *up;
    const float *out_grad;
    size_t count;
    bool gelu;
};

/* Rounds rows to bf16, to nearest even. */
struct lq_gpu_round {
    struct lq_gpu_shape shape;
    const float *x;
    struct lq_gpu_twin twin;
};

struct lq_gpu_bias {
    struct lq_gpu_shape shape;
    float *x;
    const float *bias;
};

struct lq_gpu_norm {
    struct lq_gpu_shape shape;
    const float *x;
    const float *weight;
    float *out; /* may be x */
    struct lq_gpu_twin twin;
    float eps;
};

struct lq_gpu_norm_back {
    struct lq_gpu_shape shape;
    const float *x;
    const float *weight;
    const float *out_grad;
    float *grad; /* may be out_grad */
    float eps;
};

/* The shape's columns are pairs: head_count * pair_count. */
struct lq_gpu_rope {
    struct lq_gpu_shape shape;
    float *x;
    const float *table;
    size_t sequence;
    uint32_t row_elems;
    uint32_t head_dim;
    uint32_t pair_count;
    bool halves;
};

/* parts[p][j] = the sum of x[r][j]^2 over LQ_GPU_PART_ROWS rows in their order. */
struct lq_gpu_squares {
    const float *x;
    size_t rows;
    uint32_t cols;
    double *parts;
};

/* The same with |g w| or g^2; scores[r][j] += |g w| or (g w)^2 unless it is NULL. */
struct lq_gpu_scores {
    const float *grad;
    const float *weight;
    size_t rows;
    uint32_t cols;
    bool squares;
    double *parts;
    float *scores;
};

/* sums[j] += the sum of parts[p][j] in the order of parts. */
struct lq_gpu_columns {
    const double *parts;
    size_t part_count;
    uint32_t cols;
    double *sums;
};

struct lq_gpu_entropy {
    struct lq_gpu_shape shape;
    const float *logits;
    const int32_t *targets;
    double *nll;
};

struct lq_gpu_entropy_back {
    struct lq_gpu_shape shape;
    float *logits;
    const int32_t *targets;
    float scale;
    float cap;
};

struct lq_gpu_difference {
    struct lq_gpu_shape shape;
    const float *original;
    const float *logits;
    const int32_t *targets;
    struct lq_logits_difference *out; /* of device.h */
};

/* The experts of a row and their weights; one thread a row. */
struct lq_gpu_choose {
    const float *logits;
    size_t rows;
    uint32_t expert_count;
    uint32_t used;
    int32_t *chosen; /* [rows x used] */
    float *weights;
    float *all; /* as in struct lq_route */
};

/* A counting sort of chosen[total] by expert, by one block. */
struct lq_gpu_place {
    const int32_t *chosen;
    uint32_t total; /* may be 0 */
    uint32_t expert_count;
    uint32_t used;
    int32_t *slots;
    int32_t *sources;
    int32_t *starts;
};

struct lq_gpu_gather {
    struct lq_gpu_shape shape;
    const float *x;
    const int32_t *sources;
    float *out;
    struct lq_gpu_twin twin;
};

struct lq_gpu_combine {
    struct lq_gpu_shape shape;
    const float *x;
    const int32_t *slots;
    const float *weights; /* NULL: ones */
    float *out;
    uint32_t used;
};

/* The shape's rows are slots in the order of their rows. */
struct lq_gpu_weigh {
    struct lq_gpu_shape shape;
    float *x;
    const int32_t *slots;
    const float *weights;
};

struct lq_gpu_route_back {
    struct lq_gpu_shape shape;
    const float *x;
    const float *grad;
    const float *weights;
    const int32_t *slots;
    const int32_t *starts;
    const float *all; /* as in struct lq_route */
    float *out;       /* [rows x expert_count] */
    uint32_t expert_count;
    uint32_t used;
};

/* How attention sees rows of heads. A *band* is one key-value head of one sample, with the `group`
 * query heads that read it. Its queries are cut into tiles of tile_rows positions (the last one may
 * have fewer); a tile holds the positions of the first head of the group, then of the next. For
 * keys and values, and their gradients, `group` is 1 and the tile is the whole sequence. */
struct lq_gpu_heads {
    size_t sequence;
    uint32_t kv_head_count;
    uint32_t group;
    uint32_t head_dim;
    uint32_t tile_rows;
};

/* Rows of heads to bf16 tiles, [bands x positions x group x head_dim]. */
struct lq_gpu_split {
    struct lq_gpu_shape shape;
    struct lq_gpu_heads heads;
    const float *x;
    uint16_t *to;
};

/* One tile of queries of `shape.rows / (group * query_count)` bands from `band` on, against the
 * shape's columns: keys from first_key on. A row is one query of one head. */
struct lq_gpu_tile_of_scores {
    struct lq_gpu_heads heads;
    uint32_t band;
    uint32_t query; /* position of the tile's first query */
    uint32_t query_count;
    uint32_t first_key;
    uint32_t stride; /* of rows of scores and weights */
    uint32_t window; /* 0: all */
    float scale;
    float cap;
};

/* weights = exp(score - maximum) in bf16, 0 for keys that a query does not see, and the sum of the
 * rounded weights of each row. */
struct lq_gpu_softmax {
    struct lq_gpu_shape shape;
    struct lq_gpu_tile_of_scores tile;
    const float *scores;
    uint16_t *weights;
    float *sums;
};

/* From scores and the gradients of weights to weights and the gradients of the products of queries
 * with keys, in bf16. */
struct lq_gpu_spread {
    struct lq_gpu_shape shape;
    struct lq_gpu_tile_of_scores tile;
    const float *scores;
    const float *weight_grads;
    const float *out; /* rows of heads, of all samples; likewise out_grad */
    const float *out_grad;
    uint16_t *weights;
    uint16_t *slopes;
};

/* The way back from a tile of floats, [bands x group x query_count x head_dim], to rows of heads,
 * each row divided by its sum unless `sums` is NULL. */
struct lq_gpu_join {
    struct lq_gpu_shape shape;
    struct lq_gpu_tile_of_scores tile;
    const float *x;
    const float *sums;
    float *to;
    struct lq_gpu_twin twin;
};

/* Attention of all heads of all samples, from bf16 rows of heads, [samples x heads x sequence x
 * head_dim] each, as lq_gpu_split leaves them for a group of 1 and tiles of a sequence. */
struct lq_gpu_flash {
    const uint16_t *q;
    const uint16_t *k;
    const uint16_t *v;
    float *out; /* rows of heads */
    struct lq_gpu_twin twin;
    uint32_t sequence;
    uint32_t head_count;
    uint32_t kv_head_count;
    uint32_t group; /* head_count / kv_head_count */
    uint32_t head_dim;
    uint32_t window; /* 0: all */
    float scale;
    float cap;
};

/* For heads of at most so many columns. */
struct lq_gpu_flash_64 {
    struct lq_gpu_flash flash;
};
struct lq_gpu_flash_96 {
    struct lq_gpu_flash flash;
};
struct lq_gpu_flash_128 {
    struct lq_gpu_flash flash;
};
struct lq_gpu_flash_192 {
    struct lq_gpu_flash flash;
};
struct lq_gpu_flash_256 {
    struct lq_gpu_flash flash;
};

/* The gradients of queries, keys or values of attention, which go to flash.out as rows of heads.
 * `rows` and `grad_rows` are rows of heads: what came out, and its gradient, which is `out_grad` as
 * bf16, laid like q. The operation on queries leaves 3 floats for each of them in `stats`, [samples
 * x heads x sequence]; those on keys and values read them. */
struct lq_gpu_flash_back {
    struct lq_gpu_flash flash;
    const uint16_t *out_grad;
    const float *rows;
    const float *grad_rows;
    float *stats;
};

struct lq_gpu_queries_64 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_queries_128 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_queries_256 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_keys_64 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_keys_128 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_keys_256 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_values_64 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_values_128 {
    struct lq_gpu_flash_back back;
};
struct lq_gpu_values_256 {
    struct lq_gpu_flash_back back;
};

/* c[m x n] = a * b, or c += a * b, in bf16 with sums in 32-bit floats; `batch` of them. Matrices
 * are row-major, rows `a_row` and so on apart, matrices a_step apart. */
struct lq_gpu_product {
    const uint16_t *a; /* [m x k]; turned: [k x m] */
    const uint16_t *b; /* [k x n]; turned: [n x k] */
    float *c;
    size_t m, n, k;
    size_t a_row, b_row, c_row;
    size_t batch;
    size_t a_step, b_step, c_step;
    bool a_turned, b_turned;
    bool add;
};

#endif

/* What the files of the GPU device share. gpu_device.c has its life, the table and
 * operations on rows, gpu_device_memory.c memory, copies and weights, gpu_device_ahead.c copies of
 * weights beside other work, gpu_device_product.c products and the bf16 twins of their sides,
 * gpu_device_experts.c mixtures, gpu_device_heads.c attention.
 * Internal to gpu_device*.c. Thread rule: that of gpu_device.h. Limits: none of its own. */
#ifndef LQ_KERNELS_GPU_DEVICE_PARTS_H
#define LQ_KERNELS_GPU_DEVICE_PARTS_H

#include "kernels/gpu_device.h"

/* Of a slot of the host memory that copies go through. */
#define LQ_GPU_STAGING_BYTES ((size_t)4 << 20)
/* Such slots, each with a mark of its own; one mark is for where streams meet. */
#define LQ_GPU_STAGING_SLOTS (LQ_GPU_MARKS - 1)
#define LQ_GPU_MARK_END (LQ_GPU_MARKS - 1)
/* Of the scores that attention has at a time. */
#define LQ_GPU_SCORES_BYTES ((size_t)128 << 20)

struct lq_gpu_block {
    char *memory;
    size_t size_bytes;
    bool taken;
};

/* A range of floats that exists as bf16 as well, as long as nobody writes to it. Rows of `cols`
 * values lie `stride` apart; where that is the same, the range counts as rows of any length. */
struct lq_gpu_range_twin {
    const float *x;
    size_t count;
    size_t cols;
    size_t stride;
    uint16_t *to;
    bool is_kept;     /* until it is written to; others make room for newer ones */
    uint64_t used_at; /* `now` of its last use */
};

/* Bytes that were expected and are wanted now; their memory, NULL without. */
struct lq_gpu_claimed {
    char *memory;
    size_t size_bytes;
    size_t done_bytes; /* that are there, from the first on */
};

struct lq_gpu_device {
    struct lq_device device; /* first: the table's functions get a pointer to it */
    const struct lq_gpu_module *module;
    struct lq_gpu_context *context;
    struct lq_gpu_stream *stream;
    struct lq_gpu_device *next; /* of the idle ones */
    struct lq_gpu_block *blocks;
    size_t block_count, block_room;
    struct lq_gpu_range_twin *twins;
    size_t twin_count, twin_room;
    uint64_t now;  /* counts products */
    char *staging; /* host memory, LQ_GPU_STAGING_SLOTS slots */
    unsigned next_slot;
    struct lq_gpu_ahead *ahead; /* NULL until something is expected */
    bool has_no_ahead;          /* it cannot be */
    struct lq_gpu_claimed claimed;
    uint32_t *bad;       /* device memory: set by checks */
    size_t scores_bytes; /* LQ_GPU_SCORES_BYTES; tests set less */
    bool has_no_flash;   /* attention in tiles of scores only: LQBUILD_NO_FLASH or tests set it */
    bool has_no_pool;    /* memory is taken as it is wanted and goes at once: tests set it */
    bool has_failed;
    char failure[256];
};

static inline struct lq_gpu_device *lq_gpu_of(struct lq_device *device)
{
    return (struct lq_gpu_device *)device;
}

static inline size_t lq_gpu_divide_up(size_t value, size_t by)
{
    return (value + by - 1) / by;
}

static inline size_t lq_gpu_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Keeps the sentence, unless `why` is NULL or there was a failure before; true while all is well.
 */
bool lq_gpu_note(struct lq_gpu_device *gpu, const char *why);
/* Device memory, NULL (and a failure) when it is out; sizes may be 0. What is given back may be
 * taken at once: work is in order. */
void *lq_gpu_take_memory(struct lq_gpu_device *gpu, size_t count, size_t element_bytes);
/* The same, but without memory nothing has failed. */
void *lq_gpu_try_memory(struct lq_gpu_device *gpu, size_t size_bytes);
void lq_gpu_give_memory(struct lq_gpu_device *gpu, void *memory);
/* Gives up what was copied ahead, or that and the thread. */
void lq_gpu_drop_ahead(struct lq_gpu_device *gpu);
void lq_gpu_end_ahead(struct lq_gpu_device *gpu);
size_t lq_gpu_ahead_bytes(const struct lq_gpu_device *gpu);
void lq_gpu_give_claimed(struct lq_gpu_device *gpu);
/* Launches an operation; nothing after a failure or for no blocks. */
void lq_gpu_run(struct lq_gpu_device *gpu, enum lq_gpu_operation operation, const void *args,
                size_t block_count);

/* How threads share rows, and the blocks that this makes. A dimension beyond 32 bits is a failure.
 */
struct lq_gpu_shape lq_gpu_shape_of(struct lq_gpu_device *gpu, size_t rows, size_t cols);
size_t lq_gpu_blocks_of(const struct lq_gpu_shape *shape);

/* Everybody who writes to device memory says so first: twins of it are gone. */
void lq_gpu_written(struct lq_gpu_device *gpu, const void *memory, size_t size_bytes);
/* Memory for a twin of rows of floats that the caller's next operation fills together with them;
 * `to` is NULL after a failure. */
struct lq_gpu_twin lq_gpu_new_twin(struct lq_gpu_device *gpu, const float *x, size_t rows,
                                   size_t cols);
/* Gives up all twins. */
void lq_gpu_drop_twins(struct lq_gpu_device *gpu);
/* Gives up twins that are not those of the newest product. */
void lq_gpu_drop_old_twins(struct lq_gpu_device *gpu);
/* A product as it is; nothing after a failure. */
void lq_gpu_multiply(struct lq_gpu_device *gpu, const struct lq_gpu_product *product);

/* For the table; see device.h. */
size_t lq_gpu_spare_bytes(const struct lq_device *device);
void *lq_gpu_alloc(struct lq_device *device, size_t size_bytes);
void lq_gpu_release(struct lq_device *device, void *memory);
void lq_gpu_upload(struct lq_device *device, void *to, const void *from, size_t size_bytes);
void lq_gpu_download(struct lq_device *device, void *to, const void *from, size_t size_bytes);
void lq_gpu_zero(struct lq_device *device, void *memory, size_t size_bytes);
void lq_gpu_copy(struct lq_device *device, float *to, const float *from, size_t count);
void lq_gpu_load_weights(struct lq_device *device, enum lq_dtype dtype, const void *bytes,
                         size_t rows, size_t cols, float *to, bool *finite);
void lq_gpu_expect(struct lq_device *device, const struct lq_expected *list, size_t count);
void lq_gpu_claim(struct lq_device *device, const unsigned char *key);
void lq_gpu_settle(struct lq_device *device);
void lq_gpu_matmul(struct lq_device *device, const float *a, const float *b, float *c, size_t rows,
                   size_t out_cols, size_t in_cols);
void lq_gpu_matmul_plain(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t out_cols, size_t in_cols);
void lq_gpu_matmul_outer(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t a_cols, size_t b_cols);
void lq_gpu_attention(struct lq_device *device, const float *q, const float *k, const float *v,
                      float *out, const struct lq_attention_shape *shape);
void lq_gpu_attention_back(struct lq_device *device, const struct lq_attention_grad *grad,
                           const struct lq_attention_shape *shape);
void lq_gpu_route(struct lq_device *device, const float *logits, size_t rows, size_t expert_count,
                  size_t used, const struct lq_route *route);
void lq_gpu_gather_rows(struct lq_device *device, const float *x, const int32_t *sources,
                        float *out, size_t count, size_t cols);
void lq_gpu_combine_rows(struct lq_device *device, const float *x, const struct lq_route *route,
                         float *out, size_t rows, size_t used, size_t cols);
void lq_gpu_route_back(struct lq_device *device, const float *x, const float *grad,
                       const struct lq_route *route, float *logits_grad, size_t rows,
                       size_t expert_count, size_t used, size_t cols);
void lq_gpu_weigh_rows(struct lq_device *device, float *x, const struct lq_route *route,
                       size_t rows, size_t used, size_t cols);

#endif

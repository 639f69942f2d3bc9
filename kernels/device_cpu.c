#define _DEFAULT_SOURCE
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/device_cpu_parts.h"
#include "kernels/matmul_short.h"

/* Tile sizes. They decide the order of sums and the shape of each BLAS call, and so the last bits
 * of results: never derive them from the number of threads. */
enum {
    ROW_GROUP = 16,         /* rows of a norm, rotation or entropy task */
    ELEM_GROUP = 16 * 1024, /* elements of an elementwise task */
    SQUARE_COLS = 64,       /* columns of a sum-of-squares task */
    ALIGNMENT_BYTES = 64,
    HUGE_PAGE_BYTES = 2 * 1024 * 1024,
    HUGE_BYTES_MIN = 2 * HUGE_PAGE_BYTES, /* smaller blocks are not put into huge pages */
    SPARE_BYTES_MIN = 1024 * 1024,        /* smaller blocks are left to malloc */
    SPARE_BYTES_MAX = 256 * 1024 * 1024,  /* kept in all */
    SPARE_BLOCKS_MAX = 64,
};

struct tiles {
    const struct lq_parallel *parallel;
    void (*body)(void *user, size_t index);
    void *user;
};

static bool is_cancelled(const struct lq_parallel *parallel)
{
    return parallel->cancelled != NULL && parallel->cancelled(parallel->cancelled_user);
}

static void run_tile(void *user, size_t index)
{
    const struct tiles *tiles = user;
    if (!is_cancelled(tiles->parallel)) {
        tiles->body(tiles->user, index);
    }
}

void lq_cpu_run_tiles(struct lq_cpu_device *cpu, size_t count,
                      void (*body)(void *user, size_t index), void *user)
{
    struct tiles tiles = {&cpu->parallel, body, user};
    if (cpu->failure != NULL) {
        return;
    }
    if (cpu->parallel.run != NULL && count > 1) {
        cpu->parallel.run(cpu->parallel.context, count, run_tile, &tiles);
    } else {
        for (size_t i = 0; i < count; i++) {
            run_tile(&tiles, i);
        }
    }
    if (is_cancelled(&cpu->parallel)) {
        cpu->failure = "cancelled";
    }
}

/* ---- memory ---- */

static void cpu_destroy(struct lq_device *device)
{
    lq_cpu_give_memory(lq_cpu_of(device)->panels);
    free(device);
}

static const char *cpu_failure(const struct lq_device *device)
{
    return ((const struct lq_cpu_device *)device)->failure;
}

static const char *cpu_notice(const struct lq_device *device)
{
    return ((const struct lq_cpu_device *)device)->notice;
}

/* Big blocks that were given back. Each step of a model takes the scratch of the step before it,
 * and the system would clear every page of it again. */
static struct {
    pthread_mutex_t mutex;
    void *blocks[SPARE_BLOCKS_MAX];
    size_t count;
    size_t size_bytes;
} spare = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The smallest block that is large enough, and not much too large. */
static void *take_spare(size_t size_bytes)
{
    void *found = NULL;
    size_t best = SIZE_MAX;
    (void)pthread_mutex_lock(&spare.mutex);
    for (size_t i = 0; i < spare.count; i++) {
        size_t usable = malloc_usable_size(spare.blocks[i]);
        bool fits = usable >= size_bytes && usable - size_bytes < HUGE_PAGE_BYTES;
        if (fits && (best == SIZE_MAX || usable < malloc_usable_size(spare.blocks[best]))) {
            best = i;
        }
    }
    if (best != SIZE_MAX) {
        found = spare.blocks[best];
        spare.size_bytes -= malloc_usable_size(found);
        spare.blocks[best] = spare.blocks[--spare.count];
    }
    (void)pthread_mutex_unlock(&spare.mutex);
    return found;
}

void *lq_cpu_take_memory(size_t size_bytes)
{
    size_t alignment = size_bytes < HUGE_BYTES_MIN ? ALIGNMENT_BYTES : HUGE_PAGE_BYTES;
    if (size_bytes > SIZE_MAX - alignment) {
        return NULL;
    }
    size_t rounded = lq_divide_up(size_bytes, alignment) * alignment;
    void *memory = size_bytes < SPARE_BYTES_MIN ? NULL : take_spare(rounded);
    if (memory != NULL) {
        return memory;
    }
    memory = aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
#if defined(MADV_HUGEPAGE)
    if (memory != NULL && alignment == HUGE_PAGE_BYTES) {
        (void)madvise(memory, rounded, MADV_HUGEPAGE);
    }
#endif
    return memory;
}

void lq_cpu_give_memory(void *memory)
{
    size_t usable = memory == NULL ? 0 : malloc_usable_size(memory);
    if (usable >= SPARE_BYTES_MIN) {
        (void)pthread_mutex_lock(&spare.mutex);
        if (spare.count < SPARE_BLOCKS_MAX && usable <= SPARE_BYTES_MAX - spare.size_bytes) {
            spare.blocks[spare.count++] = memory;
            spare.size_bytes += usable;
            memory = NULL;
        }
        (void)pthread_mutex_unlock(&spare.mutex);
    }
    free(memory);
}

static void *cpu_alloc(struct lq_device *device, size_t size_bytes)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    void *memory = lq_cpu_take_memory(size_bytes);
    if (memory == NULL) {
        cpu->failure = "out of memory for activations";
    }
    return memory;
}

static void cpu_release(struct lq_device *device, void *memory)
{
    (void)device;
    lq_cpu_give_memory(memory);
}

static void cpu_copy(struct lq_device *device, void *to, const void *from, size_t size_bytes)
{
    if (lq_cpu_of(device)->failure == NULL && size_bytes != 0 && to != from) {
        memcpy(to, from, size_bytes);
    }
}

static void cpu_copy_floats(struct lq_device *device, float *to, const float *from, size_t count)
{
    cpu_copy(device, to, from, count * sizeof *to);
}

static void cpu_zero(struct lq_device *device, void *memory, size_t size_bytes)
{
    if (lq_cpu_of(device)->failure == NULL && size_bytes != 0) {
        memset(memory, 0, size_bytes);
    }
}

/* ---- rows ---- */

struct norm_job {
    const struct lq_device_rows *fn;
    const float *x;
    const float *weight;
    float *out;
    size_t rows;
    size_t cols;
    float eps;
};

static void norm_tile(void *user, size_t index)
{
    const struct norm_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        const float *x = job->x + r * job->cols;
        double mean = job->fn->sum_squares(x, job->cols) / (double)job->cols;
        float scale = (float)(1.0 / sqrt(mean + (double)job->eps));
        job->fn->scale_weighted(x, job->weight, job->out + r * job->cols, job->cols, scale);
    }
}

static void cpu_rms_norm(struct lq_device *device, const float *x, const float *weight, float *out,
                         size_t rows, size_t cols, float eps)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct norm_job job = {cpu->rows, x, weight, out, rows, cols, eps};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), norm_tile, &job);
}

struct rope_job {
    const struct lq_device_rows *fn;
    float *x;
    const float *table;
    size_t rows;
    size_t sequence;
    size_t head_count;
    size_t head_dim;
    size_t pair_count;
    bool halves;
};

static void rope_tile(void *user, size_t index)
{
    const struct rope_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        const float *table = job->table + r % job->sequence * job->pair_count * 2;
        float *row = job->x + r * job->head_count * job->head_dim;
        for (size_t h = 0; h < job->head_count; h++) {
            (job->halves ? job->fn->rotate_halves : job->fn->rotate_pairs)(row + h * job->head_dim,
                                                                           table, job->pair_count);
        }
    }
}

static void cpu_rope(struct lq_device *device, float *x, const float *table, size_t rows,
                     size_t sequence, size_t head_count, size_t head_dim, size_t pair_count,
                     bool halves)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct rope_job job = {cpu->rows,  x,        table,      rows,  sequence,
                           head_count, head_dim, pair_count, halves};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), rope_tile, &job);
}

/* ---- elementwise and sums ---- */

struct pair_job {
    float *x;
    const float *y;
    size_t count;
    void (*combine)(float *x, const float *y, size_t count);
};

static void pair_tile(void *user, size_t index)
{
    const struct pair_job *job = user;
    size_t first = index * ELEM_GROUP;
    job->combine(job->x + first, job->y + first, lq_min_size(ELEM_GROUP, job->count - first));
}

static void cpu_silu_mul(struct lq_device *device, float *gate, const float *up, size_t count)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct pair_job job = {gate, up, count, cpu->rows->silu_mul};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), pair_tile, &job);
}

static void cpu_add(struct lq_device *device, float *x, const float *y, size_t count)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct pair_job job = {x, y, count, cpu->rows->add};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), pair_tile, &job);
}

struct squares_job {
    const struct lq_device_rows *fn;
    const float *x;
    size_t rows;
    size_t cols;
    double *sums;
};

static void squares_tile(void *user, size_t index)
{
    const struct squares_job *job = user;
    size_t col = index * SQUARE_COLS;
    job->fn->add_squares(job->x + col, job->rows, lq_min_size(SQUARE_COLS, job->cols - col),
                         job->cols, job->sums + col);
}

static void cpu_add_squares(struct lq_device *device, const float *x, size_t rows, size_t cols,
                            double *sums)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct squares_job job = {cpu->rows, x, rows, cols, sums};
    lq_cpu_run_tiles(cpu, lq_divide_up(cols, SQUARE_COLS), squares_tile, &job);
}

struct entropy_job {
    const struct lq_device_rows *fn;
    const float *logits;
    const int32_t *targets;
    size_t rows;
    size_t cols;
    double *nll;
};

static void entropy_tile(void *user, size_t index)
{
    const struct entropy_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        const float *logits = job->logits + r * job->cols;
        struct lq_cpu_row_entropy all = lq_cpu_no_entropy();
        for (size_t first = 0; first < job->cols; first += LQ_CPU_ENTROPY_STRIP) {
            size_t strip_end = lq_min_size(first + LQ_CPU_ENTROPY_STRIP, job->cols);
            struct lq_cpu_row_entropy strip = lq_cpu_no_entropy();
            for (size_t col = first; col < strip_end; col += LQ_CPU_ENTROPY_CHUNK) {
                lq_cpu_add_entropy(job->fn, &strip, logits + col,
                                   lq_min_size(LQ_CPU_ENTROPY_CHUNK, strip_end - col));
            }
            lq_cpu_join_entropy(&all, &strip);
        }
        job->nll[r] = log(all.sum) - (double)(logits[job->targets[r]] - all.max);
    }
}

static void cpu_cross_entropy(struct lq_device *device, const float *logits, const int32_t *targets,
                              size_t rows, size_t cols, double *nll)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct entropy_job job = {cpu->rows, logits, targets, rows, cols, nll};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), entropy_tile, &job);
}

static const struct lq_device_ops cpu_ops = {
    .numerics = "cpu-f32",
    .host_visible = true,
    .destroy = cpu_destroy,
    .failure = cpu_failure,
    .notice = cpu_notice,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .copy = cpu_copy_floats,
    .matmul = lq_cpu_matmul,
    .matmul_group = lq_cpu_matmul_group,
    .rms_norm = cpu_rms_norm,
    .rope = cpu_rope,
    .attention = lq_cpu_attention,
    .silu_mul = cpu_silu_mul,
    .gelu_mul = lq_cpu_gelu_mul,
    .soft_cap = lq_cpu_soft_cap,
    .round_rows = lq_cpu_round_rows,
    .add_bias = lq_cpu_add_bias,
    .add = cpu_add,
    .add_squares = cpu_add_squares,
    .cross_entropy = cpu_cross_entropy,
    .route = lq_cpu_route,
    .gather_rows = lq_cpu_gather_rows,
    .combine_rows = lq_cpu_combine_rows,
    .matmul_plain = lq_cpu_matmul_plain,
    .matmul_outer = lq_cpu_matmul_outer,
    .rms_norm_back = lq_cpu_rms_norm_back,
    .attention_back = lq_cpu_attention_back,
    .silu_mul_back = lq_cpu_silu_mul_back,
    .gelu_mul_back = lq_cpu_gelu_mul_back,
    .cross_entropy_back = lq_cpu_cross_entropy_back,
    .route_back = lq_cpu_route_back,
    .weigh_rows = lq_cpu_weigh_rows,
    .add_scores = lq_cpu_add_scores,
};

struct lq_device *lq_device_cpu_create(struct lq_parallel parallel, enum lq_cpu_blas blas)
{
    struct lq_cpu_device *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return NULL;
    }
    cpu->ops = cpu_ops;
    if (blas == LQ_CPU_BLAS_SHORT && lq_short_tiles() != NULL) {
        cpu->ops.numerics = "cpu-i16";
    }
    cpu->device.ops = &cpu->ops;
    cpu->parallel = parallel;
    cpu->rows = lq_device_rows();
    cpu->blas = blas;
    lq_cpu_offer_arrange(cpu);
    return &cpu->device;
}

/* Set once, before the first device of a worker. */
static enum lq_cpu_blas preferred_blas = LQ_CPU_BLAS_AUTO;

void lq_device_cpu_prefer(enum lq_cpu_blas blas)
{
    preferred_blas = blas;
}

enum lq_cpu_blas lq_device_cpu_preferred(void)
{
    return preferred_blas;
}

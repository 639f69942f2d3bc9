/* Times of a GPU's operations, for checkdevice --bench: what limits them is measured first (copies
 * within the device, a large product), then each operation on the shapes of a model with 7 billion
 * weights, then a whole layer of it. Header only. */
#ifndef LQ_TESTS_CHECKDEVICE_BENCH_H
#define LQ_TESTS_CHECKDEVICE_BENCH_H

#include <time.h>

#include "kernels/gpu_device_parts.h"
#include "tests/checkdevice.h"

/* A layer like those of 7B models, and a batch of one sample. */
enum {
    BENCH_ROWS = 2048,
    BENCH_WIDTH = 4096,
    BENCH_FFN = 11008,
    BENCH_HEADS = 32,
    BENCH_DIM = 128,
    BENCH_VOCAB = 32000,
    BENCH_RUNS = 20,
};

static inline double bench_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct bench_layer {
    struct both q, k, v, o, gate, up, down, norm; /* weights */
    struct both x, normed, qs, ks, vs, attended, gates, ups;
    struct both table, sums;
    struct lq_attention_shape shape;
};

struct bench {
    struct bench_layer layer;
    struct both big[3]; /* of the large product */
    struct both logits, targets, nll;
    void *raw;
    size_t raw_bytes;
};

/* Random values, few of them again and again: made faster than they are copied. */
static inline struct both bench_values(size_t count, float amplitude)
{
    enum { PERIOD = 1 << 20 };
    struct both both = {NULL, gpu->ops->alloc(gpu, count * sizeof(float)), count * sizeof(float)};
    static float values[PERIOD];
    for (size_t i = 0; i < PERIOD; i++) {
        values[i] = amplitude * random_value();
    }
    for (size_t at = 0; at < count; at += PERIOD) {
        size_t part = count - at < PERIOD ? count - at : PERIOD;
        gpu->ops->upload(gpu, device_of(&both) + at, values, part * sizeof(float));
    }
    return both;
}

/* The median of BENCH_RUNS times, in seconds; the first run, which loads code, does not count. A
 * download of a few bytes waits for the device. */
static inline double bench_time(void (*run)(struct bench *bench), struct bench *bench)
{
    double times[BENCH_RUNS];
    float byte[1];
    for (size_t i = 0; i <= BENCH_RUNS; i++) {
        double start = bench_seconds();
        run(bench);
        gpu->ops->download(gpu, byte, device_of(&bench->layer.norm), sizeof byte);
        double elapsed = bench_seconds() - start;
        size_t at = i == 0 ? 0 : i - 1;
        for (; at > 0 && i > 1 && times[at - 1] > elapsed; at--) {
            times[at] = times[at - 1];
        }
        times[at] = elapsed;
    }
    expect_no_failure("timing");
    return times[BENCH_RUNS / 2];
}

static inline void bench_copy(struct bench *bench)
{
    gpu->ops->copy(gpu, device_of(&bench->big[0]), device_of(&bench->big[1]), (size_t)8192 * 8192);
}

static inline void bench_big(struct bench *bench)
{
    gpu->ops->matmul(gpu, device_of(&bench->big[0]), device_of(&bench->big[1]),
                     device_of(&bench->big[2]), 8192, 8192, 8192);
}

static inline void bench_round(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->zero(gpu, l->x.device, 4); /* rounded again */
    gpu->ops->matmul(gpu, device_of(&l->x), device_of(&l->q), device_of(&l->qs), BENCH_ROWS,
                     BENCH_WIDTH, BENCH_WIDTH);
}

static inline void bench_width(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->matmul(gpu, device_of(&l->x), device_of(&l->q), device_of(&l->qs), BENCH_ROWS,
                     BENCH_WIDTH, BENCH_WIDTH);
}

static inline void bench_ffn(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->matmul(gpu, device_of(&l->x), device_of(&l->gate), device_of(&l->gates), BENCH_ROWS,
                     BENCH_FFN, BENCH_WIDTH);
}

static inline void bench_attention(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->attention(gpu, device_of(&l->qs), device_of(&l->ks), device_of(&l->vs),
                        device_of(&l->attended), &l->shape);
}

/* The same as products of tiles of scores, which exist in memory. */
static inline void bench_attention_tiles(struct bench *bench)
{
    bool has_no_flash = lq_gpu_of(gpu)->has_no_flash;
    lq_gpu_of(gpu)->has_no_flash = true;
    bench_attention(bench);
    lq_gpu_of(gpu)->has_no_flash = has_no_flash;
}

static inline void bench_attention_back(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    const struct lq_attention_grad grad = {
        .q = device_of(&l->qs),
        .k = device_of(&l->ks),
        .v = device_of(&l->vs),
        .out = device_of(&l->attended),
        .out_grad = device_of(&l->x),
        .q_grad = device_of(&l->normed),
        .k_grad = device_of(&l->gates),
        .v_grad = device_of(&l->ups),
    };
    gpu->ops->attention_back(gpu, &grad, &l->shape);
}

static inline void bench_attention_back_tiles(struct bench *bench)
{
    bool has_no_flash = lq_gpu_of(gpu)->has_no_flash;
    lq_gpu_of(gpu)->has_no_flash = true;
    bench_attention_back(bench);
    lq_gpu_of(gpu)->has_no_flash = has_no_flash;
}

static inline void bench_norm(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->rms_norm(gpu, device_of(&l->x), device_of(&l->norm), device_of(&l->normed),
                       BENCH_ROWS, BENCH_WIDTH, 1e-5f);
}

static inline void bench_rope(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->rope(gpu, device_of(&l->qs), device_of(&l->table), BENCH_ROWS, BENCH_ROWS,
                   BENCH_HEADS, BENCH_DIM, BENCH_DIM / 2, true);
}

static inline void bench_gate(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->silu_mul(gpu, device_of(&l->gates), device_of(&l->ups),
                       (size_t)BENCH_ROWS * BENCH_FFN);
}

static inline void bench_squares(struct bench *bench)
{
    const struct bench_layer *l = &bench->layer;
    gpu->ops->add_squares(gpu, device_of(&l->gates), BENCH_ROWS, BENCH_FFN, l->sums.device);
}

static inline void bench_entropy(struct bench *bench)
{
    gpu->ops->cross_entropy(gpu, device_of(&bench->logits), bench->targets.device, BENCH_ROWS / 4,
                            BENCH_VOCAB, bench->nll.device);
}

static inline void bench_upload(struct bench *bench)
{
    gpu->ops->upload(gpu, bench->big[0].device, bench->raw, bench->raw_bytes);
}

static inline void bench_download(struct bench *bench)
{
    gpu->ops->download(gpu, bench->raw, bench->big[2].device, bench->raw_bytes);
}

static inline void bench_load(struct bench *bench)
{
    bool finite;
    gpu->ops->load(gpu, LQ_DTYPE_Q4_K, bench->raw, BENCH_FFN, BENCH_WIDTH,
                   device_of(&bench->layer.gate), &finite);
}

/* What an importance matrix does with a layer, weights loaded. */
static inline void bench_layer(struct bench *bench)
{
    struct bench_layer *l = &bench->layer;
    const struct lq_device_ops *ops = gpu->ops;
    const size_t wide = (size_t)BENCH_ROWS * BENCH_WIDTH;
    bench_norm(bench);
    ops->add_squares(gpu, device_of(&l->normed), BENCH_ROWS, BENCH_WIDTH, l->sums.device);
    const struct both *const heads[][2] = {{&l->q, &l->qs}, {&l->k, &l->ks}, {&l->v, &l->vs}};
    for (size_t i = 0; i < 3; i++) {
        ops->matmul(gpu, device_of(&l->normed), device_of(heads[i][0]), device_of(heads[i][1]),
                    BENCH_ROWS, BENCH_WIDTH, BENCH_WIDTH);
    }
    bench_rope(bench);
    ops->rope(gpu, device_of(&l->ks), device_of(&l->table), BENCH_ROWS, BENCH_ROWS, BENCH_HEADS,
              BENCH_DIM, BENCH_DIM / 2, true);
    bench_attention(bench);
    ops->add_squares(gpu, device_of(&l->attended), BENCH_ROWS, BENCH_WIDTH, l->sums.device);
    ops->matmul(gpu, device_of(&l->attended), device_of(&l->o), device_of(&l->normed), BENCH_ROWS,
                BENCH_WIDTH, BENCH_WIDTH);
    ops->add(gpu, device_of(&l->x), device_of(&l->normed), wide);
    bench_norm(bench);
    ops->add_squares(gpu, device_of(&l->normed), BENCH_ROWS, BENCH_WIDTH, l->sums.device);
    ops->matmul(gpu, device_of(&l->normed), device_of(&l->gate), device_of(&l->gates), BENCH_ROWS,
                BENCH_FFN, BENCH_WIDTH);
    ops->matmul(gpu, device_of(&l->normed), device_of(&l->up), device_of(&l->ups), BENCH_ROWS,
                BENCH_FFN, BENCH_WIDTH);
    bench_gate(bench);
    bench_squares(bench);
    ops->matmul(gpu, device_of(&l->gates), device_of(&l->down), device_of(&l->normed), BENCH_ROWS,
                BENCH_WIDTH, BENCH_FFN);
    ops->add(gpu, device_of(&l->x), device_of(&l->normed), wide);
}

static inline void bench_make(struct bench *bench)
{
    struct bench_layer *l = &bench->layer;
    const size_t square = (size_t)BENCH_WIDTH * BENCH_WIDTH;
    const size_t ffn = (size_t)BENCH_WIDTH * BENCH_FFN;
    const size_t wide = (size_t)BENCH_ROWS * BENCH_WIDTH;
    const size_t inner = (size_t)BENCH_ROWS * BENCH_FFN;
    const struct {
        struct both *to;
        size_t count;
        float amplitude;
    } all[] = {
        {&l->q, square, 0.02f},
        {&l->k, square, 0.02f},
        {&l->v, square, 0.02f},
        {&l->o, square, 0.02f},
        {&l->gate, ffn, 0.02f},
        {&l->up, ffn, 0.02f},
        {&l->down, ffn, 0.02f},
        {&l->norm, BENCH_WIDTH, 1.0f},
        {&l->x, wide, 1.0f},
        {&l->normed, wide, 1.0f},
        {&l->qs, wide, 1.0f},
        {&l->ks, wide, 1.0f},
        {&l->vs, wide, 1.0f},
        {&l->attended, wide, 1.0f},
        {&l->gates, inner, 1.0f},
        {&l->ups, inner, 1.0f},
        {&l->table, (size_t)BENCH_ROWS * BENCH_DIM, 1.0f},
        {&l->sums, 2 * BENCH_FFN, 0.0f},
        {&bench->big[0], (size_t)8192 * 8192, 1.0f},
        {&bench->big[1], (size_t)8192 * 8192, 1.0f},
        {&bench->big[2], (size_t)8192 * 8192, 1.0f},
        {&bench->logits, (size_t)BENCH_ROWS / 4 * BENCH_VOCAB, 8.0f},
        {&bench->targets, BENCH_ROWS / 4, 0.0f},
        {&bench->nll, BENCH_ROWS / 2, 0.0f},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        *all[i].to = bench_values(all[i].count, all[i].amplitude);
    }
    l->shape = (struct lq_attention_shape){1, BENCH_ROWS, BENCH_HEADS, BENCH_HEADS, BENCH_DIM,
                                           0, 0.0f,       0.0f,        0,           0};
    bench->raw_bytes = lq_dtype_row_bytes(LQ_DTYPE_Q4_K, BENCH_WIDTH) * BENCH_FFN;
    bench->raw = calloc(1, bench->raw_bytes);
    gpu->ops->zero(gpu, bench->targets.device, bench->targets.size_bytes);
    expect_no_failure("memory for the benchmark");
}

/* Operations of the matrix units, and bytes of the device's memory, of each. */
static inline void bench_all(void)
{
    const double mega = (double)BENCH_ROWS * BENCH_WIDTH;
    const double inner = (double)BENCH_ROWS * BENCH_FFN;
    const double square = 2.0 * mega * BENCH_WIDTH;
    const double ffn = 2.0 * mega * BENCH_FFN;
    /* Half of all pairs of a query and a key, two products; five for gradients. */
    const double heads = 2.0 * mega * BENCH_ROWS;
    struct bench bench = {0};
    const double raw = (double)lq_dtype_row_bytes(LQ_DTYPE_Q4_K, BENCH_WIDTH) * BENCH_FFN;
    const struct {
        const char *name;
        void (*run)(struct bench *bench);
        double flops;
        double bytes;
    } all[] = {
        {"copy within the device", bench_copy, 0, 8.0 * 8192 * 8192},
        {"product 8192^3", bench_big, 2.0 * 8192 * 8192 * 8192, 0},
        {"product 2048 x 4096 x 4096", bench_width, square, 0},
        {"the same, rounding its left side", bench_round, square, 0},
        {"product 2048 x 11008 x 4096", bench_ffn, ffn, 0},
        {"attention, 2048 x 32 x 128", bench_attention, heads, 0},
        {"the same in tiles", bench_attention_tiles, heads, 0},
        {"its gradients", bench_attention_back, 2.5 * heads, 0},
        {"the same in tiles", bench_attention_back_tiles, 2.5 * heads, 0},
        {"rms_norm", bench_norm, 0, 10.0 * mega},
        {"rope", bench_rope, 0, 8.0 * mega},
        {"silu_mul", bench_gate, 0, 14.0 * inner},
        {"add_squares", bench_squares, 0, 4.0 * inner},
        {"cross_entropy, 512 x 32000", bench_entropy, 0, 4.0 * BENCH_ROWS / 4 * BENCH_VOCAB},
        {"upload", bench_upload, 0, raw},
        {"download", bench_download, 0, raw},
        {"load Q4_K, from the host", bench_load, 0, raw},
        {"a layer of 7B, imatrix", bench_layer, 4.0 * square + 3.0 * ffn + heads, 0},
    };
    double flops_max = 0.0;
    double bytes_max = 0.0;
    bench_make(&bench);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        double seconds = bench_time(all[i].run, &bench);
        double flops = all[i].flops / seconds;
        double bytes = all[i].bytes / seconds;
        flops_max = flops > flops_max ? flops : flops_max;
        bytes_max = bytes > bytes_max ? bytes : bytes_max;
        printf("%-34s %9.3f ms", all[i].name, 1e3 * seconds);
        if (flops > 0.0) {
            printf(" %8.1f TFLOP/s %5.1f %%\n", flops * 1e-12, 100.0 * flops / flops_max);
        } else {
            printf(" %8.1f GB/s    %5.1f %%\n", bytes * 1e-9, 100.0 * bytes / bytes_max);
        }
        fflush(stdout);
    }
}

#endif

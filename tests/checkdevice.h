/* What checkdevice.c and checkdevice_bench.h share: a GPU and the CPU as devices, values that both
 * have, and the comparison of what they made of them. Header only. Thread rule: one thread. */
#ifndef LQ_TESTS_CHECKDEVICE_H
#define LQ_TESTS_CHECKDEVICE_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_device.h"
#include "kernels/gpu_load.h"
#include "kernels/kernels.h"

static struct lq_device *cpu;
static struct lq_device *gpu;

static uint64_t random_state = 20240117;
static bool has_failed;
static bool wants_bits; /* print a hash of all that operations give, compare nothing */

static inline uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 40);
}

/* In [-1, 1). */
static inline float random_value(void)
{
    return (float)((double)random_bits() / (double)(1u << 23) - 1.0);
}

static inline void *take(size_t size_bytes)
{
    void *memory = malloc(size_bytes + 1);
    if (memory == NULL) {
        fprintf(stderr, "checkdevice: memory is out\n");
        exit(1);
    }
    return memory;
}

static inline void expect_no_failure(const char *what)
{
    const char *why = gpu->ops->failure(gpu);
    if (why != NULL) {
        fprintf(stderr, "checkdevice: %s: %s\n", what, why);
        exit(1);
    }
}

/* `count` elements that the host (and so the CPU device) and the GPU have. */
struct both {
    void *host;
    void *device;
    size_t size_bytes;
};

static inline struct both both_of(const void *values, size_t size_bytes)
{
    struct both both = {take(size_bytes), gpu->ops->alloc(gpu, size_bytes), size_bytes};
    memcpy(both.host, values, size_bytes);
    gpu->ops->upload(gpu, both.device, values, size_bytes);
    return both;
}

/* Values in [-amplitude, amplitude), for the CPU rounded to bf16 with `rounded`: what a GPU makes
 * of them before it multiplies. */
static inline struct both both_random(size_t count, float amplitude, bool rounded)
{
    float *values = take(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = amplitude * random_value();
    }
    struct both both = both_of(values, count * sizeof *values);
    for (size_t i = 0; rounded && i < count; i++) {
        ((float *)both.host)[i] = lq_bf16_to_f32(lq_f32_to_bf16(values[i]));
    }
    free(values);
    return both;
}

/* What nobody has written to yet. */
static inline struct both both_poison(size_t size_bytes)
{
    struct both both = {take(size_bytes), gpu->ops->alloc(gpu, size_bytes), size_bytes};
    memset(both.host, 0xff, size_bytes);
    gpu->ops->upload(gpu, both.device, both.host, size_bytes);
    return both;
}

static inline void both_free(struct both *both)
{
    gpu->ops->release(gpu, both->device);
    free(both->host);
    memset(both, 0, sizeof *both);
}

static inline float *host_of(const struct both *both)
{
    return both->host;
}

static inline float *device_of(const struct both *both)
{
    return both->device;
}

/* ---- comparison ---- */

struct verdict {
    const char *name;
    size_t checks;
    double worst; /* error over tolerance */
    uint64_t hash;
};

#define VERDICTS_MAX 64
static struct verdict verdicts[VERDICTS_MAX];
static size_t verdict_count;

static inline struct verdict *verdict_of(const char *name)
{
    for (size_t i = 0; i < verdict_count; i++) {
        if (strcmp(verdicts[i].name, name) == 0) {
            return &verdicts[i];
        }
    }
    struct verdict *verdict = &verdicts[verdict_count++];
    *verdict = (struct verdict){.name = name, .hash = 0xcbf29ce484222325u};
    return verdict;
}

static inline void record(const char *name, double ratio, const char *shape)
{
    struct verdict *verdict = verdict_of(name);
    verdict->checks++;
    if (!(ratio <= verdict->worst)) {
        verdict->worst = ratio;
    }
    if (!(ratio <= 1.0)) {
        printf("%s: %s: %.3g times the tolerance\n", name, shape, ratio);
        has_failed = true;
    }
}

static inline void *fetch(const struct both *both)
{
    void *copy = take(both->size_bytes);
    gpu->ops->download(gpu, copy, both->device, both->size_bytes);
    return copy;
}

static inline void add_bits(const char *name, const void *data, size_t size_bytes)
{
    struct verdict *verdict = verdict_of(name);
    for (size_t i = 0; i < size_bytes; i++) {
        verdict->hash = (verdict->hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    }
    verdict->checks++;
}

/* Each value within `tolerance` of the CPU's, relative to it or, where it is small, to `scale`. */
static inline void compare_floats(const char *name, const char *shape, const struct both *both,
                                  double tolerance, double scale)
{
    size_t count = both->size_bytes / sizeof(float);
    const float *expected = both->host;
    float *got = fetch(both);
    double worst = 0.0;
    add_bits(name, got, both->size_bytes);
    for (size_t i = 0; i < count; i++) {
        double size = fabs((double)expected[i]);
        double ratio = fabs((double)got[i] - (double)expected[i]) /
                       (tolerance * (size > scale ? size : scale));
        worst = ratio <= worst ? worst : ratio;
    }
    free(got);
    record(name, wants_bits ? 0.0 : worst, shape);
}

static inline void compare_doubles(const char *name, const char *shape, const struct both *both,
                                   double tolerance)
{
    size_t count = both->size_bytes / sizeof(double);
    const double *expected = both->host;
    double *got = fetch(both);
    double worst = 0.0;
    add_bits(name, got, both->size_bytes);
    for (size_t i = 0; i < count; i++) {
        double ratio = fabs(got[i] - expected[i]) / (tolerance * (1.0 + fabs(expected[i])));
        worst = ratio <= worst ? worst : ratio;
    }
    free(got);
    record(name, wants_bits ? 0.0 : worst, shape);
}

/* The root of the mean square of the error within `tolerance` of that of the CPU's values. */
static inline void compare_norms(const char *name, const char *shape, const struct both *both,
                                 double tolerance)
{
    size_t count = both->size_bytes / sizeof(float);
    const float *expected = both->host;
    float *got = fetch(both);
    double error = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)got[i] - (double)expected[i];
        error += difference * difference;
        size += (double)expected[i] * (double)expected[i];
    }
    add_bits(name, got, both->size_bytes);
    free(got);
    record(name, wants_bits ? 0.0 : sqrt(error / (size + 1e-30)) / tolerance, shape);
}

static inline void compare_bytes(const char *name, const char *shape, const struct both *both)
{
    void *got = fetch(both);
    add_bits(name, got, both->size_bytes);
    bool same = memcmp(got, both->host, both->size_bytes) == 0;
    free(got);
    record(name, wants_bits || same ? 0.0 : INFINITY, shape);
}

#endif

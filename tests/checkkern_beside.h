/* The encoders beside those of llama.cpp, where its shared library libggml-base is at hand:
 * weighted errors on fresh random rows, and the time that both take in turn. The library is opened
 * at run time and nothing of it is needed to build. Part of checkkern. One thread. */
#ifndef LQ_TESTS_CHECKKERN_BESIDE_H
#define LQ_TESTS_CHECKKERN_BESIDE_H

#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

#define BESIDE_COLS_MAX 4096

/* A row may have so much more error than llama.cpp's: a thousandth. */
#define BESIDE_RATIO_MAX 1.001

/* Their types have the numbers of ours. */
struct beside {
    size_t (*quantize)(int type, const float *rows, void *blocks, int64_t start, int64_t row_count,
                       int64_t col_count, const float *importance);
    void (*init)(int type);
    uint64_t state; /* of beside_unit */
    float row[BESIDE_COLS_MAX], importance[BESIDE_COLS_MAX], decoded[BESIDE_COLS_MAX];
    unsigned char blocks[BESIDE_COLS_MAX * 4];
};

static bool beside_open(struct beside *beside, const char *library)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fprintf(stderr, "checkkern: cannot open '%s': %s\n", library, dlerror());
        return false;
    }
    void *quantize = dlsym(handle, "ggml_quantize_chunk");
    void *init = dlsym(handle, "ggml_quantize_init");
    if (quantize == NULL || init == NULL) {
        fprintf(stderr, "checkkern: '%s' has no quantizers\n", library);
        return false;
    }
    memcpy(&beside->quantize, &quantize, sizeof quantize);
    memcpy(&beside->init, &init, sizeof init);
    return true;
}

/* llama.cpp asks for importance. */
static bool beside_needs_importance(enum lq_dtype dtype)
{
    return dtype == LQ_DTYPE_IQ2_XXS || dtype == LQ_DTYPE_IQ2_XS || dtype == LQ_DTYPE_IQ1_S;
}

enum beside_kind {
    BESIDE_NORMAL,
    BESIDE_LAPLACE,
    BESIDE_OUTLIERS,
    BESIDE_HEAVY,
    BESIDE_KIND_COUNT
};

/* Random in (0, 1). */
static double beside_unit(struct beside *beside)
{
    beside->state = beside->state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(beside->state >> 11) + 0.5) * 0x1p-53;
}

static double beside_normal(struct beside *beside)
{
    double radius = sqrt(-2.0 * log(beside_unit(beside)));
    return radius * cos(6.283185307179586 * beside_unit(beside));
}

static double beside_value(struct beside *beside, enum beside_kind kind)
{
    switch (kind) {
    case BESIDE_LAPLACE:
        return (beside_unit(beside) < 0.5 ? 1.0 : -1.0) * log(beside_unit(beside));
    case BESIDE_OUTLIERS:
        return beside_normal(beside) * (beside_unit(beside) < 0.01 ? 10.0 : 1.0);
    case BESIDE_HEAVY: { /* Student's t with four degrees of freedom */
        double square = -0.5 * (log(beside_unit(beside)) + log(beside_unit(beside)));
        return beside_normal(beside) / sqrt(square);
    }
    default:
        return beside_normal(beside);
    }
}

/* Columns have log-normal importance, one in 500 of them 300 times more. */
static void beside_fill(struct beside *beside, enum beside_kind kind, size_t cols)
{
    for (size_t i = 0; i < cols; i++) {
        beside->row[i] = (float)(0.02 * beside_value(beside, kind));
        double far = beside_unit(beside) < 0.002 ? 300.0 : 1.0;
        beside->importance[i] = (float)(exp(beside_normal(beside)) * far);
    }
}

static double beside_error(struct beside *beside, enum lq_dtype dtype, size_t cols,
                           const float *importance)
{
    lq_kernels()->decode[dtype](beside->blocks, beside->decoded, cols);
    double sum = 0.0;
    for (size_t i = 0; i < cols; i++) {
        double miss = (double)beside->row[i] - (double)beside->decoded[i];
        sum += miss * miss * (importance == NULL ? 1.0 : (double)importance[i]);
    }
    return sum;
}

/* Ratios of root mean square errors, ours to theirs. */
struct beside_tally {
    double sum, worst;
    size_t count, above; /* above BESIDE_RATIO_MAX */
};

static void beside_row(struct beside *beside, enum lq_dtype dtype, size_t cols,
                       const float *importance, struct beside_tally *tally)
{
    lq_kernels()->encode[dtype](beside->row, beside->blocks, cols, importance);
    double ours = beside_error(beside, dtype, cols, importance);
    beside->quantize((int)dtype, beside->row, beside->blocks, 0, 1, (int64_t)cols, importance);
    double theirs = beside_error(beside, dtype, cols, importance);
    double ratio = theirs > 0.0 ? sqrt(ours / theirs) : ours > 0.0 ? INFINITY : 1.0;
    tally->sum += ratio;
    tally->worst = fmax(tally->worst, ratio);
    tally->count++;
    tally->above += ratio > BESIDE_RATIO_MAX;
}

/* `draws` rows of each kind and length; the number of those that came out worse than they may. */
static size_t beside_type(struct beside *beside, enum lq_dtype dtype, size_t draws)
{
    static const char *const names[2] = {"plain", "importance"};
    size_t above = 0;
    beside->state = 20261121; /* the same rows for a type alone and among all */
    beside->init((int)dtype);
    for (int with = 1; with >= (beside_needs_importance(dtype) ? 1 : 0); with--) {
        const float *importance = with ? beside->importance : NULL;
        struct beside_tally all = {0};
        printf("%-8s %-10s worst", lq_dtype_name(dtype), names[with]);
        for (size_t cols = 512; cols <= BESIDE_COLS_MAX; cols *= 2) {
            struct beside_tally tally = {0};
            for (size_t d = 0; d < draws * BESIDE_KIND_COUNT; d++) {
                beside_fill(beside, (enum beside_kind)(d % BESIDE_KIND_COUNT), cols);
                beside_row(beside, dtype, cols, importance, &tally);
            }
            printf(" %.4f", tally.worst);
            all.sum += tally.sum;
            all.worst = fmax(all.worst, tally.worst);
            all.count += tally.count;
            all.above += tally.above;
        }
        printf(" (rows of 512 to 4096), mean %.4f, above %.3f: %zu of %zu\n",
               all.sum / (double)all.count, BESIDE_RATIO_MAX, all.above, all.count);
        fflush(stdout);
        above += all.above;
    }
    return above;
}

static double beside_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

/* CPU ns per weight of one encoder, some runs. `table` NULL: theirs. */
static double beside_time(struct beside *beside, const struct lq_kernels *table,
                          enum lq_dtype dtype, size_t repeat)
{
    double start = beside_cpu_ns();
    for (size_t i = 0; i < repeat; i++) {
        if (table != NULL) {
            table->encode[dtype](beside->row, beside->blocks, BESIDE_COLS_MAX, beside->importance);
        } else {
            beside->quantize((int)dtype, beside->row, beside->blocks, 0, 1, BESIDE_COLS_MAX,
                             beside->importance);
        }
    }
    return (beside_cpu_ns() - start) / (double)(repeat * BESIDE_COLS_MAX);
}

/* Best of many runs of about a millisecond: theirs, the scalar reference and our best level in
 * turn, in CPU time. Returns how many times as fast ours is. */
static double beside_bench(struct beside *beside, enum lq_dtype dtype)
{
    enum { RUNS = 60 };
    const struct lq_kernels *tables[3] = {NULL, lq_kernels_at(LQ_CPU_REF), lq_kernels()};
    double best[3];
    size_t repeat[3];
    beside->state = 20261121;
    beside->init((int)dtype);
    beside_fill(beside, BESIDE_OUTLIERS, BESIDE_COLS_MAX);
    for (size_t v = 0; v < 3; v++) {
        best[v] = beside_time(beside, tables[v], dtype, 1);
        repeat[v] = (size_t)(1e6 / (best[v] * BESIDE_COLS_MAX)) + 1;
    }
    for (size_t run = 0; run < RUNS; run++) {
        for (size_t v = 0; v < 3; v++) {
            best[v] = fmin(best[v], beside_time(beside, tables[v], dtype, repeat[v]));
        }
    }
    printf("%-8s llama.cpp %8.2f ns/weight, ref %7.2f, %s %6.2f: %5.1fx\n", lq_dtype_name(dtype),
           best[0], best[1], lq_cpu_level_name(lq_kernels()->level), best[2], best[0] / best[2]);
    fflush(stdout);
    return best[0] / best[2];
}

/* All types, or one. Returns the number of rows that came out worse than they may. */
static size_t beside_all(struct beside *beside, const char *only, size_t draws, bool bench)
{
    double log_sum = 0.0;
    size_t type_count = 0;
    size_t above = 0;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        bool plain = dtype == LQ_DTYPE_F32 || dtype == LQ_DTYPE_F16 || dtype == LQ_DTYPE_BF16;
        if (plain || lq_kernels()->encode[dtype] == NULL ||
            (only != NULL && strcmp(only, lq_dtype_name((uint32_t)dtype)) != 0)) {
            continue;
        }
        type_count++;
        if (bench) {
            log_sum += log(beside_bench(beside, (enum lq_dtype)dtype));
        } else {
            above += beside_type(beside, (enum lq_dtype)dtype, draws);
        }
    }
    if (bench && type_count > 0) {
        printf("geometric mean of %zu types: %.2fx\n", type_count,
               exp(log_sum / (double)type_count));
    }
    return above;
}

#endif

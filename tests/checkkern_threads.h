/* How many times as fast several threads encode as one, and copy memory, for checkkern --bench
 * --threads N. Header only. */
#ifndef LQ_TESTS_CHECKKERN_THREADS_H
#define LQ_TESTS_CHECKKERN_THREADS_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

#define CHECKKERN_THREADS_MAX 64
#define ROW_COLS 4096

/* One of several threads that encode the same row, each into a buffer of its own, or (without a
 * type) copy one large buffer to another. */
struct encoder {
    pthread_t thread;
    pthread_barrier_t *barrier;    /* they start together */
    int dtype;                     /* -1: copy */
    const float *row, *importance; /* ROW_COLS */
    size_t repeat;
    double start, end, cpu; /* seconds */
    unsigned char *copy;    /* 2 COPY_BYTES */
    unsigned char got[ROW_COLS * 4];
};

#define COPY_BYTES ((size_t)64 << 20) /* twice what the last caches hold */

static double wall_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double cpu_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void *encode_rows(void *arg)
{
    struct encoder *encoder = arg;
    pthread_barrier_wait(encoder->barrier);
    encoder->start = wall_now();
    double cpu = cpu_now();
    for (size_t i = 0; i < encoder->repeat; i++) {
        if (encoder->dtype < 0) {
            memcpy(encoder->copy, encoder->copy + COPY_BYTES, COPY_BYTES);
            continue;
        }
        lq_kernels()->encode[encoder->dtype](encoder->row, encoder->got, ROW_COLS,
                                             encoder->importance);
    }
    encoder->cpu = cpu_now() - cpu;
    encoder->end = wall_now();
    return NULL;
}

/* Rows (or copies) per second: from the first start to the last end, and by the CPU time of the
 * slowest, which does not count what other programs took. */
struct rate {
    double wall, cpu;
};

static struct rate rate_of(struct encoder *encoders, size_t count, size_t repeat)
{
    pthread_barrier_t barrier;
    if (pthread_barrier_init(&barrier, NULL, (unsigned)count) != 0) {
        return (struct rate){NAN, NAN};
    }
    for (size_t i = 0; i < count; i++) {
        encoders[i].barrier = &barrier;
        encoders[i].repeat = repeat;
        if (pthread_create(&encoders[i].thread, NULL, encode_rows, &encoders[i]) != 0) {
            fprintf(stderr, "checkkern: no more threads\n");
            exit(1);
        }
    }
    double start = INFINITY;
    double end = 0.0;
    double cpu = 0.0;
    for (size_t i = 0; i < count; i++) {
        pthread_join(encoders[i].thread, NULL);
        start = fmin(start, encoders[i].start);
        end = fmax(end, encoders[i].end);
        cpu = fmax(cpu, encoders[i].cpu);
    }
    pthread_barrier_destroy(&barrier);
    double done = (double)(count * repeat);
    return (struct rate){done / (end - start), done / cpu};
}

/* The best of many runs, one thread and all of them in turn. */
static void best_rates(struct encoder *encoders, size_t count, size_t repeat, int runs,
                       struct rate *one, struct rate *all)
{
    *one = *all = (struct rate){0.0, 0.0};
    for (int run = 0; run < runs; run++) {
        struct rate rate = rate_of(encoders, 1, repeat);
        *one = (struct rate){fmax(one->wall, rate.wall), fmax(one->cpu, rate.cpu)};
        rate = rate_of(encoders, count, repeat);
        *all = (struct rate){fmax(all->wall, rate.wall), fmax(all->cpu, rate.cpu)};
    }
}

static void bench_copy(struct encoder *encoders, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        encoders[i].dtype = -1;
        encoders[i].copy = malloc(2 * COPY_BYTES);
        if (encoders[i].copy == NULL) {
            exit(1);
        }
        memset(encoders[i].copy, 1, 2 * COPY_BYTES);
    }
    struct rate one;
    struct rate all;
    best_rates(encoders, count, 1, 10, &one, &all);
    printf("copying memory: %.1f GB/s, %zu threads %.1f\n", one.wall * 1e-9 * (double)COPY_BYTES,
           count, all.wall * 1e-9 * (double)COPY_BYTES);
    for (size_t i = 0; i < count; i++) {
        free(encoders[i].copy);
    }
}

/* Runs of forty milliseconds: the scheduler needs some to spread threads that wake together. */
static void bench_threads(size_t count, const char *only, const float *row, const float *importance)
{
    static struct encoder encoders[CHECKKERN_THREADS_MAX];
    bench_copy(encoders, count);
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (lq_kernels()->encode[dtype] == NULL ||
            (only != NULL && strcmp(only, lq_dtype_name((uint32_t)dtype)) != 0)) {
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            encoders[i].dtype = dtype;
            encoders[i].row = row;
            encoders[i].importance = importance;
        }
        (void)rate_of(encoders, 1, 1); /* the first makes tables */
        size_t repeat = (size_t)(0.04 * rate_of(encoders, 1, 4).cpu) + 1;
        struct rate one;
        struct rate all;
        best_rates(encoders, count, repeat, 30, &one, &all);
        printf("encode %-8s %9.3f ns/weight, %zu threads %9.3f: %.2fx (%.2fx by CPU time)\n",
               lq_dtype_name((uint32_t)dtype), 1e9 / (one.wall * ROW_COLS), count,
               1e9 / (all.wall * ROW_COLS), all.wall / one.wall, all.cpu / one.cpu);
        fflush(stdout);
    }
}

#endif

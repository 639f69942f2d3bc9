/* Kernels with faults, for test_gpu_simt.c: what gpu_shadow.h and gpu_simt.h must find. Each takes
 * a struct simt_args. Thread rule: for threads of a launch. */
#ifndef LQ_TESTS_GPU_SIMT_FAULTS_H
#define LQ_TESTS_GPU_SIMT_FAULTS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/gpu_operations.h"
#include "tests/gpu_simt.h"

struct simt_args {
    float *x; /* `count` of them are there; two for each thread of all blocks */
    const float *y;
    size_t count;
    const uint16_t *halves;
};

/* X(name) */
#define SIMT_KERNELS(X)                                                                            \
    X(good)                                                                                        \
    X(no_barrier)                                                                                  \
    X(wrong_tree)                                                                                  \
    X(two_writers)                                                                                 \
    X(no_value)                                                                                    \
    X(beyond_the_end)                                                                              \
    X(blocks_that_meet)                                                                            \
    X(blocks_that_read)                                                                            \
    X(crooked)                                                                                     \
    X(half_a_barrier)                                                                              \
    X(lanes_apart)                                                                                 \
    X(early)                                                                                       \
    X(newest)                                                                                      \
    X(arrived)                                                                                     \
    X(unseen)

#define SIMT_DECLARE(name) void simt_##name(const void *args, size_t block);
SIMT_KERNELS(SIMT_DECLARE)
#undef SIMT_DECLARE

/* Operations of the program. */
void simt_norm(const void *args, size_t block);
void simt_softmax(const void *args, size_t block);
void simt_flash(const void *args, size_t block);
void simt_queries(const void *args, size_t block);
void simt_keys(const void *args, size_t block);

#endif

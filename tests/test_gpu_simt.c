/* What finds faults of kernels (gpu_simt.h, gpu_shadow.h) finds those of gpu_simt_faults.c, and
 * says which; barriers that the program's own operations need are missed when they are dropped. Not
 * in builds with ThreadSanitizer, whose library gpu_shadow.c takes the place of: functions of the
 * same names are told of accesses. There is one thread here, so there is nothing for it to find. */
#include <criterion/criterion.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu_shadow.h"
#include "tests/gpu_simt_faults.h"

enum { BLOCKS = 3, COUNT = BLOCKS * 2 * LQ_GPU_THREADS };

/* Device memory whose bytes were written, or not. */
static void *device_memory(size_t size_bytes, bool is_written)
{
    void *memory = aligned_alloc(256, (size_bytes + 255) / 256 * 256);
    memset(memory, 0, size_bytes);
    shadow_add(memory, size_bytes);
    if (is_written) {
        shadow_writes(memory, size_bytes);
    }
    return memory;
}

static void give_back(void *memory)
{
    shadow_remove(memory);
    free(memory);
}

static const char *fault_of(const char *name, gpu_simt_run_fn run, const struct simt_args *args)
{
    static const enum gpu_simt_order orders[] = {GPU_SIMT_FORWARDS, GPU_SIMT_BACKWARDS,
                                                 GPU_SIMT_MIXED};
    static char text[400];
    for (size_t i = 0; i < 3; i++) {
        shadow_pardon();
        gpu_simt_launch(name, run, args, sizeof *args, BLOCKS, orders[i]);
        const char *fault = shadow_fault();
        /* Found or not, whatever the order. */
        cr_assert(i == 0 || (fault == NULL) == (text[0] == '\0'), "%s, order %zu: %s", name, i,
                  fault == NULL ? text : fault);
        (void)snprintf(text, sizeof text, "%s", fault == NULL ? "" : fault);
    }
    return text;
}

Test(gpu_simt, faults_of_kernels_are_found)
{
    float host[LQ_GPU_THREADS] = {0};
    struct simt_args args = {.x = device_memory(COUNT * sizeof(float), true),
                             .y = device_memory(COUNT * sizeof(float), true),
                             .count = COUNT,
                             .halves = device_memory(COUNT * 16, true)};
    static const char no_barrier[] = "touches what another thread writes, and no barrier";
    const struct {
        const char *name;
        gpu_simt_run_fn run;
        const char *words; /* of the fault, NULL: there is none */
    } cases[] = {
        {"good", simt_good, NULL},
        {"no_barrier", simt_no_barrier, ""},
        {"wrong_tree", simt_wrong_tree, "no barrier is between them"},
        {"two_writers", simt_two_writers, no_barrier},
        {"no_value", simt_no_value, "reads what nobody wrote"},
        {"beyond_the_end", simt_beyond_the_end, "not the device's memory"},
        {"blocks_that_meet", simt_blocks_that_meet, "touches what another block writes"},
        {"blocks_that_read", simt_blocks_that_read, "another block"},
        {"crooked", simt_crooked, "wants more alignment"},
        {"half_a_barrier", simt_half_a_barrier, "waits for threads that do not come"},
        {"lanes_apart", simt_lanes_apart, "waits for threads that do not come"},
        {"early", simt_early, "touches what a copy is on its way to"},
        {"newest", simt_newest, "touches what a copy is on its way to"},
        {"arrived", simt_arrived, NULL},
        {"unseen", simt_unseen, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *fault = fault_of(cases[i].name, cases[i].run, &args);
        cr_assert((cases[i].words == NULL) == (fault[0] == '\0'), "%s: \"%s\"", cases[i].name,
                  fault);
        cr_assert(cases[i].words == NULL || strstr(fault, cases[i].words) != NULL, "%s: \"%s\"",
                  cases[i].name, fault);
    }
    give_back((void *)args.y);
    args.y = device_memory(COUNT * sizeof(float), false);
    cr_assert_neq(strstr(fault_of("good", simt_good, &args), "reads what nobody wrote"), NULL);
    give_back((void *)args.y);
    args.y = host;
    cr_assert_neq(strstr(fault_of("good", simt_good, &args), "not the device's memory"), NULL);
    give_back(args.x);
    give_back((void *)args.halves);
}

/* How many of the barriers below `count`, dropped one at a time, leave a fault. */
static unsigned missed(gpu_simt_run_fn run, const void *args, size_t args_bytes, unsigned count)
{
    unsigned found = 0;
    shadow_pardon();
    gpu_simt_launch("op", run, args, args_bytes, 1, GPU_SIMT_FORWARDS);
    cr_assert_null(shadow_fault(), "%s", shadow_fault());
    for (unsigned i = 0; i < count; i++) {
        gpu_simt_drop_barrier(i);
        gpu_simt_launch("op", run, args, args_bytes, 1, GPU_SIMT_MIXED);
        gpu_simt_drop_barrier(UINT_MAX);
        found += shadow_fault() != NULL ? 1 : 0;
        shadow_pardon();
    }
    return found;
}

/* A norm of 256 columns by 32 lanes has a barrier behind the squares and one behind each of the
 * five steps of their sum. A softmax has twice as many, of which the last is followed by nobody who
 * reads what another wrote. Attention to 128 keys by 32 has one in front, and two for each of four
 * tiles: behind copies that arrive, and before others go to the same place, which the last two
 * tiles do not see any more. So has the gradient of keys, and that of queries, which walks over the
 * tiles twice. */
Test(gpu_simt, barriers_that_are_needed_are_missed)
{
    enum { ROWS = 8, COLS = 256, SEQUENCE = 128, DIM = 64, KEYS = 40 };
    float *x = device_memory(SEQUENCE * COLS * sizeof(float), true);
    float *weight = device_memory(COLS * sizeof(float), true);
    float *out = device_memory(SEQUENCE * COLS * sizeof(float), false);
    uint16_t *heads = device_memory(SEQUENCE * DIM * sizeof(uint16_t), true);
    for (size_t i = 0; i < SEQUENCE * COLS; i++) {
        x[i] = (float)(i * 2654435761u % 1000) * 0.01f; /* none is the largest by its place */
    }
    const struct lq_gpu_norm norm = {
        .shape = {ROWS, COLS, 32}, .x = x, .weight = weight, .out = out, .eps = 1.0f};
    cr_assert_eq(missed(simt_norm, &norm, sizeof norm, 6), 6);
    const struct lq_gpu_softmax softmax = {.shape = {ROWS, KEYS, 32},
                                           .tile = {.heads = {SEQUENCE, 1, 1, DIM, ROWS},
                                                    .query = KEYS,
                                                    .query_count = ROWS,
                                                    .stride = COLS,
                                                    .scale = 1.0f},
                                           .scores = x,
                                           .weights = (uint16_t *)out,
                                           .sums = weight};
    cr_assert_eq(missed(simt_softmax, &softmax, sizeof softmax, 12), 11);
    const struct lq_gpu_flash_64 flash = {{.q = heads,
                                           .k = heads,
                                           .v = heads,
                                           .out = out,
                                           .sequence = SEQUENCE,
                                           .head_count = 1,
                                           .kv_head_count = 1,
                                           .group = 1,
                                           .head_dim = DIM,
                                           .scale = 1.0f}};
    cr_assert_eq(missed(simt_flash, &flash, sizeof flash, 9), 6);
    float *stats = device_memory(SEQUENCE * 3 * sizeof(float), false);
    const struct lq_gpu_queries_64 back = {
        {.flash = flash.flash, .out_grad = heads, .rows = x, .grad_rows = x, .stats = stats}};
    cr_assert_eq(missed(simt_queries, &back, sizeof back, 17), 14);
    cr_assert_eq(missed(simt_keys, &back, sizeof back, 9), 6);
    give_back(stats);
    give_back(x);
    give_back(weight);
    give_back(out);
    give_back(heads);
}

#define _GNU_SOURCE
#include "tests/gpu_simt.h"

#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "kernels/gpu_operations.h"
#include "tests/gpu_shadow.h"
#include "tests/gpu_simt_device.h"

enum {
    THREADS = LQ_GPU_THREADS,
    LANES = 32,
    WARPS = THREADS / LANES,
    STACK_BYTES = 128 * 1024,
    FETCHES_MAX = 64, /* of a thread, on their way */
};

enum state { READY, AT_BARRIER, AT_WARP, DONE };
enum instruction { SWAP, MULTIPLY, LOAD_TURNED };

struct fetch {
    uint16_t *to;
    const uint16_t *from;
    int count;
    unsigned group;
};

struct thread {
    ucontext_t context; /* of its beginning; from then on `place` */
    jmp_buf place;
    bool is_begun;
    enum state state;
    int line; /* of the barrier */
    unsigned barrier_count;
    enum instruction instruction;
    /* What it takes and gives. */
    float value;
    int other;
    float *c;
    const uint32_t *a, *b;
    const uint16_t *row;
    uint32_t *to;
    struct fetch fetches[FETCHES_MAX];
    size_t fetch_count;
    unsigned group_count;
};

static struct thread threads[THREADS];
static unsigned self;
static jmp_buf scheduler;
static unsigned dropped_barrier = UINT_MAX;
static char *stacks;
static struct {
    gpu_simt_run_fn run;
    const void *args;
    size_t block;
} job;

/* ---- threads ---- */

/* Lets others go on; comes back when what the thread waits for has happened. */
static void wait_in(enum state state)
{
    threads[self].state = state;
    if (_setjmp(threads[self].place) == 0) {
        _longjmp(scheduler, 1);
    }
}

static void begin_thread(void)
{
    job.run(job.args, job.block);
    if (threads[self].fetch_count != 0) {
        shadow_note("ends while its copies are on their way", NULL);
    }
    wait_in(DONE);
}

unsigned gpu_simt_thread(void)
{
    return self;
}

void gpu_simt_drop_barrier(unsigned number)
{
    dropped_barrier = number;
}

void gpu_simt_barrier(int line)
{
    if (threads[self].barrier_count++ == dropped_barrier) {
        return;
    }
    threads[self].line = line;
    wait_in(AT_BARRIER);
}

/* The place of the n-th of `count`; every place has one n. */
static size_t turn(enum gpu_simt_order order, size_t n, size_t count)
{
    size_t step = 7919; /* a prime, so it has no factor with a count that is no multiple of it */
    switch (order) {
    case GPU_SIMT_BACKWARDS:
        return count - 1 - n;
    case GPU_SIMT_MIXED:
        return count % step == 0 ? n : (n * step + count / 3) % count;
    default:
        return n;
    }
}

/* Until it waits. Without the system calls of swapcontext. */
static void enter(struct thread *thread)
{
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (thread->is_begun) {
        _longjmp(thread->place, 1);
    }
    thread->is_begun = true;
    (void)setcontext(&thread->context);
}

static void go_on(enum gpu_simt_order order)
{
    for (size_t i = 0; i < THREADS; i++) {
        unsigned t = (unsigned)turn(order, i, THREADS);
        if (threads[t].state == READY && shadow_fault() == NULL) {
            self = t;
            shadow_set_thread(t);
            enter(&threads[t]);
        }
    }
}

/* ---- instructions of a warp ---- */

static float float_of(uint32_t half)
{
    uint32_t bits = half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float half_of(const uint32_t *pairs, unsigned i)
{
    return float_of(pairs[i / 2] >> (i % 2 * 16) & 0xffffu);
}

/* PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type": the rows and columns of
 * the elements a0..a7, b0..b3 and c0..c3 of a lane, as its figures and formulas give them. */
static void multiply(struct thread *lanes)
{
    float a[16][16];
    float b[16][8];
    for (unsigned lane = 0; lane < LANES; lane++) {
        unsigned group = lane >> 2;
        unsigned in_group = lane % 4;
        for (unsigned i = 0; i < 8; i++) {
            bool is_upper = i < 2 || (i >= 4 && i < 6);
            unsigned col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            a[is_upper ? group : group + 8][col] = half_of(lanes[lane].a, i);
        }
        for (unsigned i = 0; i < 4; i++) {
            b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = half_of(lanes[lane].b, i);
        }
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = i < 2 ? lane >> 2 : (lane >> 2) + 8;
            unsigned col = lane % 4 * 2 + (i & 1);
            float sum = lanes[lane].c[i];
            for (unsigned k = 0; k < 16; k++) {
                sum += a[row][k] * b[k][col];
            }
            lanes[lane].c[i] = sum;
        }
    }
}

/* PTX ISA, "ldmatrix": lanes 0 to 7 bring the rows of the first matrix, and so on; of a matrix lane
 * t gets row t / 4, elements 2 (t % 4) and the next; with .trans of the transposed one. */
static void load_turned(struct thread *lanes)
{
    for (unsigned lane = 0; lane < LANES; lane++) {
        shadow_touch(lanes[lane].row, 16, false, true);
    }
    for (unsigned i = 0; i < 4 && shadow_fault() == NULL; i++) {
        for (unsigned lane = 0; lane < LANES; lane++) {
            uint32_t low = lanes[i * 8 + lane % 4 * 2].row[lane / 4];
            uint32_t high = lanes[i * 8 + lane % 4 * 2 + 1].row[lane / 4];
            lanes[lane].to[i] = low | high << 16;
        }
    }
}

static void swap(struct thread *lanes)
{
    float values[LANES];
    for (unsigned lane = 0; lane < LANES; lane++) {
        values[lane] = lanes[lane].value;
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        lanes[lane].value = values[lane ^ (unsigned)lanes[lane].other];
    }
}

/* Whether the warp waits at an instruction, which it then does. */
static bool do_instruction(struct thread *lanes)
{
    unsigned count = 0;
    for (unsigned lane = 0; lane < LANES; lane++) {
        count += lanes[lane].state == AT_WARP && lanes[lane].instruction == lanes[0].instruction;
    }
    if (count != LANES) {
        return false;
    }
    switch (lanes[0].instruction) {
    case SWAP:
        swap(lanes);
        break;
    case MULTIPLY:
        multiply(lanes);
        break;
    case LOAD_TURNED:
        load_turned(lanes);
        break;
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        lanes[lane].state = READY;
    }
    return true;
}

uint32_t lq_gpu_warp_round(float low, float high)
{
    const float values[2] = {low, high};
    uint32_t pair = 0;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bits += 0x7fffu + (bits >> 16 & 1u);
        pair |= (values[i] != values[i] ? 0x7fffu : bits >> 16) << (16 * i);
    }
    return pair;
}

float lq_gpu_warp_exp(float x)
{
    return expf(x);
}

float lq_gpu_warp_swap(float value, int other)
{
    threads[self].instruction = SWAP;
    threads[self].value = value;
    threads[self].other = other;
    wait_in(AT_WARP);
    return threads[self].value;
}

void lq_gpu_warp_multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    threads[self].instruction = MULTIPLY;
    threads[self].c = c;
    threads[self].a = a;
    threads[self].b = b;
    wait_in(AT_WARP);
}

void lq_gpu_warp_load_turned(const uint16_t *row, uint32_t to[4])
{
    threads[self].instruction = LOAD_TURNED;
    threads[self].row = row;
    threads[self].to = to;
    wait_in(AT_WARP);
}

/* ---- copies into shared memory ---- */

void lq_gpu_warp_fetch(uint16_t *to, const uint16_t *from, int count)
{
    struct thread *thread = &threads[self];
    if ((uintptr_t)from % 16 != 0) {
        shadow_note("copies from an address that is not a multiple of 16", from);
    }
    if (count != 0) {
        shadow_touch(from, (size_t)count, false, false);
    }
    shadow_fly(to, 16);
    if (thread->fetch_count == FETCHES_MAX) {
        shadow_note("has more copies on their way than a test keeps", to);
        return;
    }
    thread->fetches[thread->fetch_count++] = (struct fetch){to, from, count, thread->group_count};
}

void lq_gpu_warp_commit(void)
{
    threads[self].group_count++;
}

void lq_gpu_warp_wait(void)
{
    struct thread *thread = &threads[self];
    size_t left = 0;
    for (size_t i = 0; i < thread->fetch_count; i++) {
        struct fetch *fetch = &thread->fetches[i];
        if (fetch->group + 2 > thread->group_count) {
            thread->fetches[left++] = *fetch;
            continue;
        }
        shadow_land(fetch->to, 16);
        if (shadow_fault() == NULL) {
            memset(fetch->to, 0, 16);
            memcpy(fetch->to, fetch->from, (size_t)fetch->count);
        }
    }
    thread->fetch_count = left;
}

/* ---- blocks ---- */

/* What all threads wait for, when none can go on; false when there is nothing more to do. */
static bool settle(void)
{
    bool any = false;
    for (unsigned w = 0; w < WARPS; w++) {
        any = do_instruction(&threads[w * LANES]) || any;
    }
    if (any) {
        return true;
    }
    unsigned at_barrier = 0;
    unsigned done = 0;
    for (unsigned t = 0; t < THREADS; t++) {
        at_barrier += threads[t].state == AT_BARRIER && threads[t].line == threads[0].line;
        done += threads[t].state == DONE;
    }
    if (at_barrier == THREADS) {
        for (unsigned t = 0; t < THREADS; t++) {
            threads[t].state = READY;
        }
        shadow_begin_interval();
    } else if (done != THREADS) {
        shadow_note("waits for threads that do not come", NULL);
    }
    return at_barrier == THREADS;
}

static void run_block(size_t block, enum gpu_simt_order order)
{
    job.block = block;
    shadow_begin_block(block);
    for (unsigned t = 0; t < THREADS; t++) {
        struct thread *thread = &threads[t];
        (void)getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = stacks + (size_t)t * STACK_BYTES;
        thread->context.uc_stack.ss_size = STACK_BYTES;
        thread->context.uc_link = NULL;
        makecontext(&thread->context, begin_thread, 0);
        thread->is_begun = false;
        thread->barrier_count = 0;
        thread->state = READY;
        thread->fetch_count = 0;
        thread->group_count = 0;
    }
    do {
        go_on(order);
    } while (shadow_fault() == NULL && settle());
}

void gpu_simt_launch(const char *name, gpu_simt_run_fn run, const void *args, size_t args_bytes,
                     size_t block_count, enum gpu_simt_order order)
{
    if (stacks == NULL) {
        stacks = mmap(NULL, (size_t)THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) {
            perror("gpu_simt");
            abort();
        }
    }
    job.run = run;
    job.args = args;
    shadow_begin_launch(name, args, args_bytes, stacks, STACK_BYTES);
    for (size_t i = 0; i < block_count && shadow_fault() == NULL; i++) {
        run_block(turn(order, i, block_count), order);
    }
    shadow_end_launch();
}

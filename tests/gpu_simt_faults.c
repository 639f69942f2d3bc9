#include "tests/gpu_simt_faults.h"

#include "tests/gpu_simt_device.h"

#include "kernels/gpu_flash.h"
#include "kernels/gpu_flash_back.h"
#include "kernels/gpu_heads.h"

static size_t first_of(size_t block)
{
    return block * 2 * LQ_GPU_THREADS;
}

void simt_good(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_SHARED double part[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        part[t] = (double)op->y[first_of(block) + t];
    }
    lq_gpu_sum_lanes(part, LQ_GPU_THREADS);
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[first_of(block) + t] = (float)part[0];
    }
}

/* The neighbour's value, in the interval in which it is written. */
void simt_no_barrier(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_SHARED float part[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        part[t] = op->y[t];
        op->x[first_of(block) + t] = part[t ^ 1];
    }
}

/* Half of the threads would do. */
void simt_wrong_tree(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_SHARED float part[2 * LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        part[t] = op->y[t];
        part[t + LQ_GPU_THREADS] = 0.0f;
    }
    LQ_GPU_EACH_THREAD(t)
    {
        part[t] += part[t + LQ_GPU_THREADS / 2];
    }
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[first_of(block) + t] = part[0];
    }
}

/* Both write the same. */
void simt_two_writers(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_SHARED float part[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        part[t / 2] = 1.0f;
    }
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[first_of(block) + t] = part[t / 2];
    }
}

/* The last thread's was left out. */
void simt_no_value(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_SHARED float part[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        if (t != LQ_GPU_THREADS - 1) {
            part[t] = op->y[t];
        }
    }
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[first_of(block) + t] = part[t];
    }
}

void simt_beyond_the_end(const void *args, size_t block)
{
    const struct simt_args *op = args;
    (void)block;
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[op->count - LQ_GPU_THREADS + 1 + t] = 0.0f;
    }
}

void simt_blocks_that_meet(const void *args, size_t block)
{
    const struct simt_args *op = args;
    (void)block;
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[t] = 0.0f;
    }
}

/* What the block before writes is read by this one. */
void simt_blocks_that_read(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[first_of(block) + t] = block == 0 ? 0.0f : op->x[first_of(block - 1) + t];
    }
}

void simt_crooked(const void *args, size_t block)
{
    const struct simt_args *op = args;
    (void)block;
    LQ_GPU_EACH_THREAD(t)
    {
        op->x[t] = (float)lq_gpu_shared_pair(op->halves + t);
    }
}

void simt_half_a_barrier(const void *args, size_t block)
{
    (void)args;
    (void)block;
    if (LQ_GPU_THREAD < LQ_GPU_THREADS / 2) {
        LQ_GPU_BARRIER();
    }
}

void simt_lanes_apart(const void *args, size_t block)
{
    const struct simt_args *op = args;
    LQ_GPU_EACH_THREAD(t)
    {
        if (t % 2 == 0) {
            op->x[first_of(block) + t] = lq_gpu_warp_swap(1.0f, 1);
        }
    }
}

/* Two groups of copies, and whose values are read: the first of the own ones after a wait for
 * `groups` (0: without one), or those of another thread behind a barrier. */
static void copy_two(const struct simt_args *op, size_t block, uint16_t *part, bool waits,
                     unsigned second, bool has_barrier)
{
    unsigned t = LQ_GPU_THREAD;
    for (unsigned i = 0; i < 2; i++) {
        lq_gpu_warp_fetch(part + (i * LQ_GPU_THREADS + t) * 8, op->halves + t * 8, 16);
        lq_gpu_warp_commit();
    }
    if (waits) {
        lq_gpu_warp_wait();
    }
    if (has_barrier) {
        LQ_GPU_BARRIER();
        t ^= 1;
    }
    op->x[first_of(block) + LQ_GPU_THREAD] = (float)part[(second * LQ_GPU_THREADS + t) * 8];
    lq_gpu_warp_commit();
    lq_gpu_warp_wait();
}

void simt_early(const void *args, size_t block)
{
    LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t part[16 * LQ_GPU_THREADS];
    copy_two(args, block, part, false, 0, false);
}

void simt_newest(const void *args, size_t block)
{
    LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t part[16 * LQ_GPU_THREADS];
    copy_two(args, block, part, true, 1, true);
}

/* This one is right. */
void simt_arrived(const void *args, size_t block)
{
    LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t part[16 * LQ_GPU_THREADS];
    copy_two(args, block, part, true, 0, true);
}

/* Of another thread, but without the barrier. */
void simt_unseen(const void *args, size_t block)
{
    LQ_GPU_SHARED LQ_GPU_ALIGNED uint16_t part[16 * LQ_GPU_THREADS];
    const struct simt_args *op = args;
    unsigned t = LQ_GPU_THREAD;
    lq_gpu_warp_fetch(part + t * 8, op->halves + t * 8, 16);
    lq_gpu_warp_commit();
    lq_gpu_warp_commit();
    lq_gpu_warp_wait();
    if (t != 0) {
        op->x[first_of(block) + t] = (float)part[(t - 1) * 8];
    }
}

void simt_norm(const void *args, size_t block)
{
    lq_gpu_norm_block(args, block);
}

void simt_softmax(const void *args, size_t block)
{
    lq_gpu_softmax_block(args, block);
}

void simt_flash(const void *args, size_t block)
{
    lq_gpu_flash_64_block(args, block);
}

void simt_queries(const void *args, size_t block)
{
    lq_gpu_queries_64_block(args, block);
}

void simt_keys(const void *args, size_t block)
{
    lq_gpu_keys_64_block(args, block);
}

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_device_parts.h"
#include "kernels/kernels.h"

enum {
    STAGING_BYTES = LQ_GPU_STAGING_BYTES,
    LOAD_BYTES = 64 * 1024 * 1024, /* raw weights on the device at a time, or one row */
    BLOCK_BYTES = 256,             /* blocks are multiples of it */
};

bool lq_gpu_note(struct lq_gpu_device *gpu, const char *why)
{
    if (why != NULL && !gpu->has_failed) {
        gpu->has_failed = true;
        (void)snprintf(gpu->failure, sizeof gpu->failure, "the GPU failed: %s", why);
    }
    return !gpu->has_failed;
}

/* ---- memory ---- */

/* Gives blocks that nobody has back to the context. */
static void trim(struct lq_gpu_device *gpu)
{
    size_t kept = 0;
    (void)lq_gpu_note(gpu, gpu->module->wait(gpu->stream));
    for (size_t i = 0; i < gpu->block_count; i++) {
        if (gpu->blocks[i].taken) {
            gpu->blocks[kept++] = gpu->blocks[i];
        } else {
            gpu->module->release(gpu->context, gpu->blocks[i].memory);
        }
    }
    gpu->block_count = kept;
}

/* The smallest that fits, and is not much larger; NULL when there is none. */
static struct lq_gpu_block *find_free(const struct lq_gpu_device *gpu, size_t size_bytes)
{
    struct lq_gpu_block *best = NULL;
    for (size_t i = 0; i < gpu->block_count; i++) {
        struct lq_gpu_block *block = &gpu->blocks[i];
        if (!block->taken && block->size_bytes >= size_bytes &&
            block->size_bytes - size_bytes <= size_bytes / 4 &&
            (best == NULL || block->size_bytes < best->size_bytes)) {
            best = block;
        }
    }
    return best;
}

static const char *add_block(struct lq_gpu_device *gpu, size_t size_bytes)
{
    if (gpu->block_count == gpu->block_room) {
        size_t room = 2 * gpu->block_room + 64;
        struct lq_gpu_block *blocks = realloc(gpu->blocks, room * sizeof *blocks);
        if (blocks == NULL) {
            return "memory is out";
        }
        gpu->blocks = blocks;
        gpu->block_room = room;
    }
    void *memory = NULL;
    const char *why = gpu->module->alloc(gpu->context, size_bytes, &memory);
    if (why == NULL) {
        gpu->blocks[gpu->block_count++] =
            (struct lq_gpu_block){.memory = memory, .size_bytes = size_bytes};
    }
    return why;
}

static size_t rounded_up(const struct lq_gpu_device *gpu, size_t size_bytes)
{
    if (gpu->has_no_pool) {
        return size_bytes == 0 ? 1 : size_bytes;
    }
    return (size_bytes / BLOCK_BYTES + 1) * BLOCK_BYTES;
}

static void give_block(struct lq_gpu_device *gpu, struct lq_gpu_block *block)
{
    block->taken = false;
    if (gpu->has_no_pool) {
        trim(gpu);
    }
}

void *lq_gpu_try_memory(struct lq_gpu_device *gpu, size_t size_bytes)
{
    if (gpu->has_failed || size_bytes > SIZE_MAX - BLOCK_BYTES) {
        return NULL;
    }
    struct lq_gpu_block *block = find_free(gpu, rounded_up(gpu, size_bytes));
    if (block == NULL) {
        if (add_block(gpu, rounded_up(gpu, size_bytes)) != NULL) {
            return NULL;
        }
        block = &gpu->blocks[gpu->block_count - 1];
    }
    block->taken = true;
    return block->memory;
}

void *lq_gpu_take_memory(struct lq_gpu_device *gpu, size_t count, size_t element_bytes)
{
    if (gpu->has_failed) {
        return NULL;
    }
    if (count > (SIZE_MAX - BLOCK_BYTES) / element_bytes) {
        (void)lq_gpu_note(gpu, "out of memory for activations");
        return NULL;
    }
    size_t size_bytes = rounded_up(gpu, count * element_bytes);
    struct lq_gpu_block *block = find_free(gpu, size_bytes);
    if (block == NULL) {
        const char *why = add_block(gpu, size_bytes);
        if (why != NULL) {
            lq_gpu_drop_ahead(gpu);
            lq_gpu_drop_old_twins(gpu);
            trim(gpu);
            lq_gpu_device_trim(gpu->module, gpu->context);
            why = add_block(gpu, size_bytes);
        }
        if (!lq_gpu_note(gpu, why)) {
            return NULL;
        }
        block = &gpu->blocks[gpu->block_count - 1];
    }
    block->taken = true;
    return block->memory;
}

void lq_gpu_give_memory(struct lq_gpu_device *gpu, void *memory)
{
    for (size_t i = 0; memory != NULL && i < gpu->block_count; i++) {
        if (gpu->blocks[i].memory == memory) {
            give_block(gpu, &gpu->blocks[i]);
            return;
        }
    }
}

size_t lq_gpu_spare_bytes(const struct lq_device *device)
{
    const struct lq_gpu_device *gpu = (const struct lq_gpu_device *)device;
    size_t size_bytes = lq_gpu_ahead_bytes(gpu);
    for (size_t i = 0; i < gpu->block_count; i++) {
        size_bytes += gpu->blocks[i].taken ? 0 : gpu->blocks[i].size_bytes;
    }
    return size_bytes;
}

void lq_gpu_give_claimed(struct lq_gpu_device *gpu)
{
    lq_gpu_give_memory(gpu, gpu->claimed.memory);
    gpu->claimed = (struct lq_gpu_claimed){.memory = NULL};
}

void *lq_gpu_alloc(struct lq_device *device, size_t size_bytes)
{
    return lq_gpu_take_memory(lq_gpu_of(device), size_bytes, 1);
}

void lq_gpu_release(struct lq_device *device, void *memory)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    size_t size_bytes = 0;
    for (size_t i = 0; memory != NULL && i < gpu->block_count; i++) {
        size_bytes = gpu->blocks[i].memory == memory ? gpu->blocks[i].size_bytes : size_bytes;
    }
    lq_gpu_written(gpu, memory, size_bytes);
    lq_gpu_give_memory(gpu, memory);
}

/* ---- copies ---- */

/* Through the slots of the staging memory, so that a slot is filled while another is copied, and
 * the caller's memory is free at once. */
static void upload(struct lq_gpu_device *gpu, void *to, const void *from, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes && !gpu->has_failed; at += STAGING_BYTES) {
        size_t part = lq_gpu_min(size_bytes - at, STAGING_BYTES);
        unsigned slot = gpu->next_slot;
        char *staging = gpu->staging + (size_t)slot * STAGING_BYTES;
        gpu->next_slot = (slot + 1) % LQ_GPU_STAGING_SLOTS;
        if (!lq_gpu_note(gpu, gpu->module->wait_mark(gpu->stream, slot))) {
            return;
        }
        memcpy(staging, (const char *)from + at, part);
        (void)(lq_gpu_note(gpu, gpu->module->upload(gpu->stream, (char *)to + at, staging, part)) &&
               lq_gpu_note(gpu, gpu->module->set_mark(gpu->stream, slot)));
    }
}

void lq_gpu_upload(struct lq_device *device, void *to, const void *from, size_t size_bytes)
{
    lq_gpu_written(lq_gpu_of(device), to, size_bytes);
    upload(lq_gpu_of(device), to, from, size_bytes);
}

static void start_download(struct lq_gpu_device *gpu, const char *from, size_t size_bytes,
                           size_t part)
{
    unsigned slot = (unsigned)(part % LQ_GPU_STAGING_SLOTS);
    size_t at = part * STAGING_BYTES;
    (void)(lq_gpu_note(
               gpu, gpu->module->download(gpu->stream, gpu->staging + (size_t)slot * STAGING_BYTES,
                                          from + at, lq_gpu_min(size_bytes - at, STAGING_BYTES))) &&
           lq_gpu_note(gpu, gpu->module->set_mark(gpu->stream, slot)));
}

/* Parts are copied some ahead of the one that is waited for. Uploads through the same slots come
 * first in the stream. */
void lq_gpu_download(struct lq_device *device, void *to, const void *from, size_t size_bytes)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    size_t part_count = lq_gpu_divide_up(size_bytes, STAGING_BYTES);
    size_t started = 0;
    for (size_t part = 0; part < part_count && !gpu->has_failed; part++) {
        for (; started < part_count && started < part + LQ_GPU_STAGING_SLOTS; started++) {
            start_download(gpu, from, size_bytes, started);
        }
        unsigned slot = (unsigned)(part % LQ_GPU_STAGING_SLOTS);
        if (lq_gpu_note(gpu, gpu->module->wait_mark(gpu->stream, slot))) {
            size_t at = part * STAGING_BYTES;
            memcpy((char *)to + at, gpu->staging + (size_t)slot * STAGING_BYTES,
                   lq_gpu_min(size_bytes - at, STAGING_BYTES));
        }
    }
}

void lq_gpu_zero(struct lq_device *device, void *memory, size_t size_bytes)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    lq_gpu_written(gpu, memory, size_bytes);
    if (!gpu->has_failed && size_bytes != 0) {
        (void)lq_gpu_note(gpu, gpu->module->zero(gpu->stream, memory, size_bytes));
    }
}

void lq_gpu_copy(struct lq_device *device, float *to, const float *from, size_t count)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    lq_gpu_written(gpu, to, count * sizeof *to);
    if (!gpu->has_failed && count != 0 && to != from) {
        (void)lq_gpu_note(gpu, gpu->module->copy(gpu->stream, to, from, count * sizeof *to));
    }
}

/* ---- weights ---- */

/* The bytes lie on the device as far as they were copied ahead; the rest follows. */
static void load_claimed(struct lq_gpu_device *gpu, struct lq_gpu_work *work, const char *bytes,
                         float *to)
{
    const struct lq_gpu_claimed *claimed = &gpu->claimed;
    size_t done = claimed->done_bytes;
    upload(gpu, claimed->memory + done, bytes + done, claimed->size_bytes - done);
    work->in = (const unsigned char *)claimed->memory;
    const char *why = NULL;
    if (!gpu->has_failed) {
        why = work->source == LQ_DTYPE_F32
                  ? gpu->module->copy(gpu->stream, to, claimed->memory, claimed->size_bytes)
                  : gpu->module->decode(gpu->stream, work);
        (void)(lq_gpu_note(gpu, why) && lq_gpu_note(gpu, gpu->module->check(gpu->stream, work)));
    }
}

/* Rows of weights that the device decodes, some at a time. */
static void load_rows(struct lq_gpu_device *gpu, struct lq_gpu_work *work, const char *bytes,
                      size_t rows, float *to)
{
    size_t row_bytes = lq_dtype_row_bytes((enum lq_dtype)work->source, work->col_count);
    size_t part = lq_gpu_min(rows, row_bytes < LOAD_BYTES ? LOAD_BYTES / row_bytes : 1);
    unsigned char *raw = lq_gpu_take_memory(gpu, part * row_bytes, 1);
    work->in = raw;
    for (size_t row = 0; row < rows && !gpu->has_failed; row += part) {
        work->row_count = lq_gpu_min(rows - row, part);
        work->values = to + row * work->col_count;
        upload(gpu, raw, bytes + row * row_bytes, work->row_count * row_bytes);
        (void)(!gpu->has_failed && lq_gpu_note(gpu, gpu->module->decode(gpu->stream, work)) &&
               lq_gpu_note(gpu, gpu->module->check(gpu->stream, work)));
    }
    lq_gpu_give_memory(gpu, raw);
}

void lq_gpu_load_weights(struct lq_device *device, enum lq_dtype dtype, const void *bytes,
                         size_t rows, size_t cols, float *to, bool *finite)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    struct lq_gpu_work work = {.row_count = rows,
                               .col_count = cols,
                               .source = (uint32_t)dtype,
                               .values = to,
                               .bad = gpu->bad,
                               .limit = FLT_MAX};
    uint32_t bad = 0;
    *finite = true;
    lq_gpu_written(gpu, to, rows * cols * sizeof *to);
    if (info == NULL || rows == 0 || cols == 0) {
        (void)lq_gpu_note(gpu, info == NULL ? "weights of an unknown type" : NULL);
        return;
    }
    work.in_elems = info->block_elems;
    work.in_bytes = info->block_bytes;
    lq_gpu_zero(device, gpu->bad, sizeof bad);
    size_t size_bytes = rows * lq_dtype_row_bytes(dtype, cols);
    if (gpu->claimed.memory != NULL && gpu->claimed.size_bytes == size_bytes) {
        load_claimed(gpu, &work, bytes, to);
    } else if (dtype == LQ_DTYPE_F32) {
        upload(gpu, to, bytes, rows * cols * sizeof *to);
        (void)(!gpu->has_failed && lq_gpu_note(gpu, gpu->module->check(gpu->stream, &work)));
    } else {
        load_rows(gpu, &work, bytes, rows, to);
    }
    lq_gpu_give_claimed(gpu);
    lq_gpu_download(device, &bad, gpu->bad, sizeof bad);
    *finite = bad == 0;
}

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_device_parts.h"

enum {
    ENTRIES_MAX = 64,
    SLOTS = LQ_GPU_STAGING_SLOTS,
    FREE_SHARE = 4, /* of the free memory that may be taken */
};

struct entry {
    unsigned char key[LQ_EXPECTED_KEY_BYTES];
    const char *bytes;
    size_t size_bytes;
    size_t done_bytes; /* that are copied, or behind in the stream */
    char *memory;
};

/* All is guarded by the mutex, the stream too; it is let go while bytes are read. */
struct lq_gpu_ahead {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    const struct lq_gpu_module *module;
    struct lq_gpu_stream *stream;
    char *staging;
    unsigned next_slot;
    struct entry entries[ENTRIES_MAX];
    size_t count;
    bool is_settled; /* no part is begun */
    bool is_busy;    /* a part is being read */
    bool ends;
    const char *why; /* a copy failed */
};

/* ---- the thread ---- */

static struct entry *next_entry(struct lq_gpu_ahead *ahead)
{
    for (size_t i = 0; i < ahead->count && !ahead->is_settled && ahead->why == NULL; i++) {
        if (ahead->entries[i].done_bytes < ahead->entries[i].size_bytes) {
            return &ahead->entries[i];
        }
    }
    return NULL;
}

/* Entries stay where they are while the thread is busy. */
static void copy_part(struct lq_gpu_ahead *ahead, struct entry *entry)
{
    const struct lq_gpu_module *module = ahead->module;
    unsigned slot = ahead->next_slot;
    char *staging = ahead->staging + (size_t)slot * LQ_GPU_STAGING_BYTES;
    size_t at = entry->done_bytes;
    size_t part = lq_gpu_min(entry->size_bytes - at, LQ_GPU_STAGING_BYTES);
    ahead->next_slot = (slot + 1) % SLOTS;
    ahead->why = module->wait_mark(ahead->stream, slot);
    if (ahead->why != NULL) {
        return;
    }
    ahead->is_busy = true;
    (void)pthread_mutex_unlock(&ahead->mutex);
    memcpy(staging, entry->bytes + at, part);
    (void)pthread_mutex_lock(&ahead->mutex);
    ahead->is_busy = false;
    const char *why = module->upload(ahead->stream, entry->memory + at, staging, part);
    why = why != NULL ? why : module->set_mark(ahead->stream, slot);
    ahead->why = why;
    entry->done_bytes += why == NULL ? part : 0;
    (void)pthread_cond_broadcast(&ahead->changed);
}

static void *copy_parts(void *user)
{
    struct lq_gpu_ahead *ahead = user;
    (void)pthread_mutex_lock(&ahead->mutex);
    while (!ahead->ends) {
        struct entry *entry = next_entry(ahead);
        if (entry != NULL) {
            copy_part(ahead, entry);
        } else {
            (void)pthread_cond_wait(&ahead->changed, &ahead->mutex);
        }
    }
    (void)pthread_mutex_unlock(&ahead->mutex);
    return NULL;
}

/* ---- life ---- */

static void destroy(struct lq_gpu_device *gpu, struct lq_gpu_ahead *ahead)
{
    if (ahead->staging != NULL) {
        gpu->module->release_host(gpu->context, ahead->staging);
    }
    if (ahead->stream != NULL) {
        gpu->module->stream_close(ahead->stream);
    }
    (void)pthread_cond_destroy(&ahead->changed);
    (void)pthread_mutex_destroy(&ahead->mutex);
    free(ahead);
}

/* With all signals blocked: they are for the threads of the program. */
static bool start_thread(struct lq_gpu_ahead *ahead)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&ahead->thread, NULL, copy_parts, ahead) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* False where it cannot be: then nothing is copied ahead. */
static bool start(struct lq_gpu_device *gpu)
{
    if (gpu->ahead != NULL || gpu->has_no_ahead) {
        return gpu->ahead != NULL;
    }
    struct lq_gpu_ahead *ahead = calloc(1, sizeof *ahead);
    void *staging = NULL;
    gpu->has_no_ahead = true;
    if (ahead == NULL) {
        return false;
    }
    (void)pthread_mutex_init(&ahead->mutex, NULL);
    (void)pthread_cond_init(&ahead->changed, NULL);
    ahead->module = gpu->module;
    const char *why = gpu->module->stream_open(gpu->context, &ahead->stream);
    if (why == NULL) {
        why = gpu->module->alloc_host(gpu->context, SLOTS * LQ_GPU_STAGING_BYTES, &staging);
    }
    ahead->staging = staging;
    if (why != NULL || !start_thread(ahead)) {
        destroy(gpu, ahead);
        return false;
    }
    gpu->ahead = ahead;
    gpu->has_no_ahead = false;
    return true;
}

/* With the mutex: entries may be moved. */
static void wait_idle(struct lq_gpu_ahead *ahead)
{
    while (ahead->is_busy) {
        (void)pthread_cond_wait(&ahead->changed, &ahead->mutex);
    }
}

/* With the mutex: what the device does from here on comes behind all copies so far. */
static void join_streams(struct lq_gpu_device *gpu)
{
    struct lq_gpu_ahead *ahead = gpu->ahead;
    (void)(lq_gpu_note(gpu, gpu->module->set_mark(ahead->stream, LQ_GPU_MARK_END)) &&
           lq_gpu_note(gpu, gpu->module->follow(gpu->stream, ahead->stream, LQ_GPU_MARK_END)));
}

/* Memory may be taken by others at once, so these come behind the copies. */
static void drop_entries(struct lq_gpu_device *gpu)
{
    struct lq_gpu_ahead *ahead = gpu->ahead;
    wait_idle(ahead);
    if (ahead->count != 0) {
        join_streams(gpu);
    }
    for (size_t i = 0; i < ahead->count; i++) {
        lq_gpu_give_memory(gpu, ahead->entries[i].memory);
    }
    ahead->count = 0;
}

void lq_gpu_drop_ahead(struct lq_gpu_device *gpu)
{
    if (gpu->ahead != NULL) {
        (void)pthread_mutex_lock(&gpu->ahead->mutex);
        drop_entries(gpu);
        (void)pthread_mutex_unlock(&gpu->ahead->mutex);
    }
}

void lq_gpu_end_ahead(struct lq_gpu_device *gpu)
{
    struct lq_gpu_ahead *ahead = gpu->ahead;
    if (ahead == NULL) {
        return;
    }
    lq_gpu_drop_ahead(gpu);
    (void)pthread_mutex_lock(&ahead->mutex);
    ahead->ends = true;
    (void)pthread_cond_broadcast(&ahead->changed);
    (void)pthread_mutex_unlock(&ahead->mutex);
    (void)pthread_join(ahead->thread, NULL);
    (void)gpu->module->wait(ahead->stream);
    destroy(gpu, ahead);
    gpu->ahead = NULL;
}

size_t lq_gpu_ahead_bytes(const struct lq_gpu_device *gpu)
{
    size_t size_bytes = 0;
    if (gpu->ahead != NULL) {
        (void)pthread_mutex_lock(&gpu->ahead->mutex);
        for (size_t i = 0; i < gpu->ahead->count; i++) {
            size_bytes += gpu->ahead->entries[i].size_bytes;
        }
        (void)pthread_mutex_unlock(&gpu->ahead->mutex);
    }
    return size_bytes;
}

/* ---- for the table ---- */

/* Entries for as much of the list as there is memory for, in its order. */
static void add_entries(struct lq_gpu_device *gpu, const struct lq_expected *list, size_t count)
{
    struct lq_gpu_ahead *ahead = gpu->ahead;
    struct lq_gpu_info info;
    size_t left = gpu->module->describe(gpu->context, &info) == NULL
                      ? info.memory_free_bytes / FREE_SHARE
                      : 0;
    for (size_t i = 0; i < count && ahead->count < ENTRIES_MAX; i++) {
        char *memory = list[i].size_bytes != 0 && list[i].size_bytes <= left
                           ? lq_gpu_try_memory(gpu, list[i].size_bytes)
                           : NULL;
        if (memory == NULL) {
            return;
        }
        struct entry *entry = &ahead->entries[ahead->count++];
        *entry = (struct entry){
            .bytes = list[i].bytes, .size_bytes = list[i].size_bytes, .memory = memory};
        memcpy(entry->key, list[i].key, sizeof entry->key);
        left -= entry->size_bytes;
    }
}

void lq_gpu_expect(struct lq_device *device, const struct lq_expected *list, size_t count)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    if (gpu->has_failed || (count == 0 && gpu->ahead == NULL) || !start(gpu)) {
        return;
    }
    struct lq_gpu_ahead *ahead = gpu->ahead;
    (void)pthread_mutex_lock(&ahead->mutex);
    drop_entries(gpu);
    add_entries(gpu, list, count);
    /* The memory may have been somebody else's, whose work is not done yet. */
    bool good = lq_gpu_note(gpu, gpu->module->set_mark(gpu->stream, LQ_GPU_MARK_END)) &&
                lq_gpu_note(gpu, gpu->module->follow(ahead->stream, gpu->stream, LQ_GPU_MARK_END));
    ahead->is_settled = !good;
    (void)pthread_cond_broadcast(&ahead->changed);
    (void)pthread_mutex_unlock(&ahead->mutex);
}

void lq_gpu_claim(struct lq_device *device, const unsigned char *key)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    struct lq_gpu_ahead *ahead = gpu->ahead;
    lq_gpu_give_claimed(gpu);
    if (ahead == NULL || gpu->has_failed) {
        return;
    }
    (void)pthread_mutex_lock(&ahead->mutex);
    wait_idle(ahead);
    for (size_t i = 0; i < ahead->count; i++) {
        struct entry *entry = &ahead->entries[i];
        if (memcmp(entry->key, key, sizeof entry->key) == 0) {
            join_streams(gpu);
            gpu->claimed = (struct lq_gpu_claimed){.memory = entry->memory,
                                                   .size_bytes = entry->size_bytes,
                                                   .done_bytes = entry->done_bytes};
            memmove(entry, entry + 1, (--ahead->count - i) * sizeof *entry);
            break;
        }
    }
    (void)lq_gpu_note(gpu, ahead->why);
    (void)pthread_mutex_unlock(&ahead->mutex);
}

void lq_gpu_settle(struct lq_device *device)
{
    struct lq_gpu_ahead *ahead = lq_gpu_of(device)->ahead;
    if (ahead != NULL) {
        (void)pthread_mutex_lock(&ahead->mutex);
        ahead->is_settled = true;
        wait_idle(ahead);
        (void)pthread_mutex_unlock(&ahead->mutex);
    }
}

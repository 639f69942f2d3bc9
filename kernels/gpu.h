/* GPUs: finding the module that drives them, leases of memory and streams, tiles of rows that are
 * decoded, checked and encoded there, and whole devices for steps that run a model. Nothing is
 * loaded before it is needed. A build asks for a lease; without a GPU it gets none and computes on
 * the CPU, with the same bytes. A lease has LQ_GPU_SLOTS slots, each with buffers of its own, so
 * that one tile is copied while another is computed. Several GPUs take turns. When a GPU fails or
 * its memory is short, the GPUs are left alone from then on, and lq_gpu_notice says so once.
 *
 * Functions that can fail return NULL, or one sentence. The module stays loaded until the process
 * ends. Thread rule: any thread; a lease is used by one thread at a time. Limits: a tile has at
 * most LQ_GPU_TILE_ELEMS values of types of at most four bytes. */
#ifndef LQ_KERNELS_GPU_H
#define LQ_KERNELS_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

#define LQ_GPU_TILE_ELEMS ((size_t)4 << 20)
#define LQ_GPU_SLOTS 2
/* Leases that one device gives at once. */
#define LQ_GPU_LEASES 3
#define LQ_GPU_DEVICES_MAX 16

enum lq_gpu_choice {
    LQ_GPU_NEVER, /* until lq_gpu_choose is called */
    LQ_GPU_QUIET, /* where there is one; else no word is lost about it */
    LQ_GPU_AUTO,  /* where there is one; else lq_gpu_notice says why not */
};

/* Before the first step runs. `device`: only this one, counted from 0; -1: all. */
void lq_gpu_choose(enum lq_gpu_choice choice, int device);
/* Finds and opens the GPUs now rather than at the first lease. */
const char *lq_gpu_start(void);
/* One sentence for the user, once; NULL when there is nothing to say. */
const char *lq_gpu_notice(void);

struct lq_gpu_lease;

/* Waits for a lease when all are taken. NULL: use the CPU, this time or, as lq_gpu_notice says,
 * from now on. */
struct lq_gpu_lease *lq_gpu_take(void);
void lq_gpu_give(struct lq_gpu_lease *lease);
/* "cuda"; static. */
const char *lq_gpu_name(const struct lq_gpu_lease *lease);
/* "NVIDIA H100 80GB HBM3"; lives as long as the process. */
const char *lq_gpu_device(const struct lq_gpu_lease *lease);

/* Host memory of a slot, which the caller fills and reads between lq_gpu_end and lq_gpu_begin. */
struct lq_gpu_buffers {
    void *in;          /* rows of the source type */
    float *importance; /* importance_rows x col_count */
    void *out;         /* rows of the target type */
};

struct lq_gpu_tile {
    enum lq_dtype source, target; /* target F32: values as they are decoded */
    size_t row_count, col_count;
    size_t importance_rows; /* 0: none, 1: one for all rows, row_count: one for each */
    float limit;            /* the largest magnitude that a value may have */
};

struct lq_gpu_buffers lq_gpu_buffers(const struct lq_gpu_lease *lease, size_t slot);
/* True when a tile of so many values of these types can be done. */
bool lq_gpu_does(enum lq_dtype source, enum lq_dtype target, size_t elem_count);
/* Starts a tile; its slot is busy until lq_gpu_end, which tells by `clean` whether all values are
 * finite and within the limit. After a failure the lease is of no use but to give it back. */
const char *lq_gpu_begin(struct lq_gpu_lease *lease, size_t slot, const struct lq_gpu_tile *tile);
const char *lq_gpu_end(struct lq_gpu_lease *lease, size_t slot, bool *clean);

/* A device for a step that runs a model, one step at a time on each GPU, beside leases. Waits while
 * all are taken; *memory_bytes is what is free on it. NULL: use the CPU. */
struct lq_device *lq_gpu_take_device(size_t *memory_bytes);
/* One more, for who has one: NULL when no other GPU is idle. Does not wait. */
struct lq_device *lq_gpu_take_another(size_t *memory_bytes);
/* A device that failed is no longer used; another one is made for the next taker. */
void lq_gpu_give_device(struct lq_device *device);
/* A model did not run on a GPU: from now on all of them run on the CPU. lq_gpu_notice gives the
 * sentence. */
void lq_gpu_leave_models(const char *why);

/* Memory of a device that stays when the device is given back. What is kept is at most half of a
 * GPU's memory, and half of what is free when it is taken: NULL beyond that, and when the device
 * fails. The caller has the device. */
struct lq_gpu_kept;
struct lq_gpu_kept *lq_gpu_keep(struct lq_device *device, size_t size_bytes);
/* NULL on another device. */
void *lq_gpu_kept_memory(const struct lq_gpu_kept *kept, const struct lq_device *device);
/* Any thread: waits until the device is idle, unless the caller has it. False after a failure. */
bool lq_gpu_read_kept(struct lq_gpu_kept *kept, size_t offset, void *to, size_t size_bytes);
/* Any thread, at once. */
void lq_gpu_unkeep(struct lq_gpu_kept *kept);

struct lq_gpu_module;
struct lq_gpu_context;
/* Makes a device for models; NULL, or one sentence. */
typedef const char *(*lq_gpu_make_fn)(const struct lq_gpu_module *module,
                                      struct lq_gpu_context *context, struct lq_device **device);
/* These instead of a file's and our own: for tests, before anything is started, and again to forget
 * that models failed. */
void lq_gpu_use_module(const struct lq_gpu_module *module, lq_gpu_make_fn make);

#endif

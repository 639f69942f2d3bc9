#include "kernels/gpu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_device.h"
#include "kernels/gpu_load.h"
#include "kernels/tables/near.h"

/* Buffers of a slot have this many bytes: four for each value. */
#define SLOT_BYTES (LQ_GPU_TILE_ELEMS * 4)

struct slot {
    struct lq_gpu_stream *stream;
    /* Of the host. */
    void *in, *importance, *out, *bad;
    /* Of the device. */
    void *device_in, *device_values, *device_importance, *device_out, *device_bad;
};

struct device;
struct model;

struct lq_gpu_lease {
    struct device *device;
    bool taken;
    struct slot slots[LQ_GPU_SLOTS];
};

struct device {
    struct lq_gpu_context *context;
    struct lq_gpu_info info;
    struct lq_gpu_lease leases[LQ_GPU_LEASES];
    unsigned lease_count; /* that have memory */
    unsigned taken_count;
    bool is_full;        /* there is no memory for more leases */
    struct model *model; /* made at first use, kept from one step to the next */
};

/* A device that runs models. One that failed is no GPU's any more, and goes with the last memory
 * that is kept on it. */
struct model {
    struct lq_device *device;
    bool is_taken;
    pthread_t owner; /* who has taken it */
    bool has_failed;
    size_t total_bytes; /* of the GPU */
    size_t kept_bytes;
    unsigned kept_count;
    struct lq_gpu_kept *garbage; /* to be released by the next owner */
};

struct lq_gpu_kept {
    struct lq_gpu_kept *next;
    struct model *model;
    char *memory;
    size_t size_bytes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t given_back = PTHREAD_COND_INITIALIZER;

/* Everything below is guarded by the mutex; `module` and a lease's slots do not change while the
 * lease is taken. */
static enum lq_gpu_choice choice;
static int wanted_device = -1;
static const struct lq_gpu_module *module;
static struct device devices[LQ_GPU_DEVICES_MAX];
static unsigned device_count;
static bool is_started;
static lq_gpu_make_fn make_model = lq_gpu_device_create; /* NULL: GPUs run no models */
static bool has_models = true;                           /* none failed so far */
static bool is_usable;
static bool has_notice;
static char why_not[LQ_GPU_WHY_BYTES];

/* ------------------------------------------------------------------ devices ---- */

static const char *set_near(const struct device *device, enum lq_gpu_near which,
                            struct lq_near lists, size_t cell_count)
{
    size_t pairs_bytes = cell_count * LQ_NEAR_PAIRS * sizeof *lists.pairs;
    size_t index_bytes = cell_count * sizeof *lists.index;
    void *pairs = NULL;
    void *index = NULL;
    struct lq_gpu_stream *stream = NULL;
    const char *why = module->alloc(device->context, pairs_bytes, &pairs);
    why = why != NULL ? why : module->alloc(device->context, index_bytes, &index);
    why = why != NULL ? why : module->stream_open(device->context, &stream);
    why = why != NULL ? why : module->upload(stream, pairs, lists.pairs, pairs_bytes);
    why = why != NULL ? why : module->upload(stream, index, lists.index, index_bytes);
    why = why != NULL ? why : module->wait(stream);
    why = why != NULL ? why : module->set_near(device->context, which, pairs, index);
    if (stream != NULL) {
        module->stream_close(stream);
    }
    return why;
}

static const char *set_all_near(const struct device *device)
{
    const struct {
        struct lq_near (*lists)(void);
        size_t cell_count;
    } all[LQ_GPU_NEAR_COUNT] = {
        [LQ_GPU_NEAR_IQ2XXS] = {lq_near_iq2xxs, LQ_NEAR_CELLS_3_8},
        [LQ_GPU_NEAR_IQ2XS] = {lq_near_iq2xs, LQ_NEAR_CELLS_3_8},
        [LQ_GPU_NEAR_IQ2S] = {lq_near_iq2s, LQ_NEAR_CELLS_3_8},
        [LQ_GPU_NEAR_IQ3XXS] = {lq_near_iq3xxs, LQ_NEAR_CELLS_8_4},
        [LQ_GPU_NEAR_IQ3S] = {lq_near_iq3s, LQ_NEAR_CELLS_8_4},
        [LQ_GPU_NEAR_IQ1S] = {lq_near_iq1s, LQ_NEAR_CELLS_3_8},
    };
    const char *why = NULL;
    for (int i = 0; i < LQ_GPU_NEAR_COUNT && why == NULL; i++) {
        why = set_near(device, (enum lq_gpu_near)i, all[i].lists(), all[i].cell_count);
    }
    return why;
}

static const char *open_device(int number)
{
    struct device *device = &devices[device_count];
    const char *why = module->open(number, &device->context);
    if (why != NULL) {
        return why;
    }
    why = module->describe(device->context, &device->info);
    why = why != NULL ? why : set_all_near(device);
    if (why != NULL) {
        module->close(device->context);
        memset(device, 0, sizeof *device);
        return why;
    }
    device_count++;
    return NULL;
}

static void start(void)
{
    if (is_started) {
        return;
    }
    is_started = true;
    module = module != NULL ? module : lq_gpu_load(why_not);
    if (module == NULL) {
        has_notice = choice == LQ_GPU_AUTO;
        return;
    }
    int count = 0;
    const char *why = module->count(&count);
    if (why == NULL && count <= 0) {
        why = "there is no GPU";
    }
    if (why == NULL && wanted_device >= count) {
        (void)snprintf(why_not, sizeof why_not, "there is no GPU %d, only %d, counted from 0",
                       wanted_device, count);
        has_notice = choice == LQ_GPU_AUTO;
        return;
    }
    /* One that somebody else has to himself, or that is too old, is no reason to leave the others.
     */
    count = why == NULL ? count : 0;
    for (int i = 0; i < count && device_count < LQ_GPU_DEVICES_MAX; i++) {
        const char *failure = wanted_device < 0 || wanted_device == i ? open_device(i) : NULL;
        why = why != NULL ? why : failure;
    }
    is_usable = device_count > 0;
    has_notice = !is_usable && choice == LQ_GPU_AUTO;
    (void)snprintf(why_not, sizeof why_not, "%s", is_usable ? "" : why);
}

/* What fails once is not tried again. */
static const char *give_up(const char *why)
{
    (void)pthread_mutex_lock(&mutex);
    if (is_usable) {
        is_usable = false;
        has_notice = true;
        (void)snprintf(why_not, sizeof why_not, "the GPU failed: %s", why);
    }
    (void)pthread_cond_broadcast(&given_back);
    (void)pthread_mutex_unlock(&mutex);
    return why;
}

void lq_gpu_choose(enum lq_gpu_choice new_choice, int device)
{
    (void)pthread_mutex_lock(&mutex);
    choice = new_choice;
    wanted_device = device;
    (void)pthread_mutex_unlock(&mutex);
}

const char *lq_gpu_start(void)
{
    (void)pthread_mutex_lock(&mutex);
    start();
    const char *why = is_usable ? NULL : why_not;
    (void)pthread_mutex_unlock(&mutex);
    return why;
}

const char *lq_gpu_notice(void)
{
    (void)pthread_mutex_lock(&mutex);
    const char *text = has_notice ? why_not : NULL;
    has_notice = false;
    (void)pthread_mutex_unlock(&mutex);
    return text;
}

/* ------------------------------------------------------------------- leases ---- */

static void free_slot(const struct device *device, struct slot *slot)
{
    void *const of_device[] = {slot->device_in, slot->device_values, slot->device_importance,
                               slot->device_out, slot->device_bad};
    void *const of_host[] = {slot->in, slot->importance, slot->out, slot->bad};
    for (size_t i = 0; i < sizeof of_device / sizeof of_device[0]; i++) {
        if (of_device[i] != NULL) {
            module->release(device->context, of_device[i]);
        }
    }
    for (size_t i = 0; i < sizeof of_host / sizeof of_host[0]; i++) {
        if (of_host[i] != NULL) {
            module->release_host(device->context, of_host[i]);
        }
    }
    if (slot->stream != NULL) {
        module->stream_close(slot->stream);
    }
    memset(slot, 0, sizeof *slot);
}

static const char *fill_slot(const struct device *device, struct slot *slot)
{
    const struct {
        void **memory;
        size_t size_bytes;
    } of_device[] = {{&slot->device_in, SLOT_BYTES},
                     {&slot->device_values, SLOT_BYTES},
                     {&slot->device_importance, SLOT_BYTES},
                     {&slot->device_out, SLOT_BYTES},
                     {&slot->device_bad, sizeof(uint32_t)}},
      of_host[] = {{&slot->in, SLOT_BYTES},
                   {&slot->importance, SLOT_BYTES},
                   {&slot->out, SLOT_BYTES},
                   {&slot->bad, sizeof(uint32_t)}};
    const char *why = module->stream_open(device->context, &slot->stream);
    for (size_t i = 0; why == NULL && i < sizeof of_device / sizeof of_device[0]; i++) {
        why = module->alloc(device->context, of_device[i].size_bytes, of_device[i].memory);
    }
    for (size_t i = 0; why == NULL && i < sizeof of_host / sizeof of_host[0]; i++) {
        why = module->alloc_host(device->context, of_host[i].size_bytes, of_host[i].memory);
    }
    return why;
}

static const char *add_lease(struct device *device)
{
    struct lq_gpu_lease *lease = &device->leases[device->lease_count];
    const char *why = NULL;
    lease->device = device;
    for (size_t i = 0; i < LQ_GPU_SLOTS && why == NULL; i++) {
        why = fill_slot(device, &lease->slots[i]);
    }
    if (why == NULL) {
        device->lease_count++;
        return NULL;
    }
    for (size_t i = 0; i < LQ_GPU_SLOTS; i++) {
        free_slot(device, &lease->slots[i]);
    }
    return why;
}

/* What models left on the device goes when nobody uses it; true when there was something. */
static bool make_room(struct device *device)
{
    struct model *model = device->model;
    if (model == NULL || model->is_taken || model->kept_count > 0) {
        return false;
    }
    device->model = NULL;
    model->device->ops->destroy(model->device);
    free(model);
    lq_gpu_device_trim(module, device->context);
    return true;
}

/* A lease of the device that is not taken, a new one if need be; NULL when there is none. */
static struct lq_gpu_lease *take_from(struct device *device, const char **why)
{
    if (device->taken_count == device->lease_count && device->lease_count < LQ_GPU_LEASES &&
        !device->is_full) {
        *why = add_lease(device);
        if (*why != NULL && make_room(device)) {
            *why = add_lease(device);
        }
        device->is_full = *why != NULL && device->model == NULL;
    }
    for (unsigned i = 0; i < device->lease_count; i++) {
        struct lq_gpu_lease *lease = &device->leases[i];
        if (!lease->taken) {
            lease->taken = true;
            device->taken_count++;
            return lease;
        }
    }
    return NULL;
}

/* From the device that is least busy. Models may have all the memory for now. */
static struct lq_gpu_lease *take_any(bool *has_models_only)
{
    const char *why = NULL;
    unsigned lease_count = 0;
    for (unsigned busy = 0; busy < LQ_GPU_LEASES; busy++) {
        for (unsigned i = 0; i < device_count; i++) {
            struct lq_gpu_lease *lease =
                devices[i].taken_count == busy ? take_from(&devices[i], &why) : NULL;
            if (lease != NULL) {
                return lease;
            }
        }
    }
    for (unsigned i = 0; i < device_count; i++) {
        lease_count += devices[i].lease_count;
        *has_models_only = *has_models_only || devices[i].model != NULL;
    }
    *has_models_only = *has_models_only && lease_count == 0;
    if (lease_count == 0 && !*has_models_only) {
        is_usable = false;
        has_notice = true;
        (void)snprintf(why_not, sizeof why_not, "the GPU's memory is short: %s",
                       why == NULL ? "no lease fits" : why);
    }
    return NULL;
}

struct lq_gpu_lease *lq_gpu_take(void)
{
    struct lq_gpu_lease *lease = NULL;
    (void)pthread_mutex_lock(&mutex);
    if (choice != LQ_GPU_NEVER) {
        start();
    }
    while (choice != LQ_GPU_NEVER && is_usable) {
        bool has_models_only = false;
        lease = take_any(&has_models_only);
        if (lease != NULL || !is_usable || has_models_only) {
            break;
        }
        (void)pthread_cond_wait(&given_back, &mutex);
    }
    (void)pthread_mutex_unlock(&mutex);
    return lease;
}

void lq_gpu_give(struct lq_gpu_lease *lease)
{
    (void)pthread_mutex_lock(&mutex);
    lease->taken = false;
    lease->device->taken_count--;
    (void)pthread_cond_broadcast(&given_back);
    (void)pthread_mutex_unlock(&mutex);
}

const char *lq_gpu_name(const struct lq_gpu_lease *lease)
{
    (void)lease;
    return module->name;
}

const char *lq_gpu_device(const struct lq_gpu_lease *lease)
{
    return lease->device->info.name;
}

/* ------------------------------------------------------------------- models ---- */

static void leave_models(const char *why)
{
    if (has_models) {
        has_models = false;
        has_notice = true;
        (void)snprintf(why_not, sizeof why_not, "%s", why);
    }
}

static const char *add_model(struct device *device)
{
    struct model *model = calloc(1, sizeof *model);
    const char *why =
        model == NULL ? "out of memory" : make_model(module, device->context, &model->device);
    if (why != NULL) {
        free(model);
        return why;
    }
    model->total_bytes = device->info.memory_bytes;
    device->model = model;
    return NULL;
}

/* Nobody may use the device meanwhile, or the caller is its owner. */
static void release_garbage(struct model *model)
{
    while (model->garbage != NULL) {
        struct lq_gpu_kept *kept = model->garbage;
        model->garbage = kept->next;
        model->device->ops->release(model->device, kept->memory);
        free(kept);
        model->kept_count--;
    }
}

static void destroy_unused(struct model *model)
{
    if (model->kept_count == 0) {
        model->device->ops->destroy(model->device);
        free(model);
    }
}

static void take_model(struct model *model)
{
    model->is_taken = true;
    model->owner = pthread_self();
    release_garbage(model);
}

static void give_model(struct model *model)
{
    model->is_taken = false;
    release_garbage(model);
    if (!model->has_failed && model->device->ops->failure(model->device) != NULL) {
        model->has_failed = true;
        for (unsigned i = 0; i < device_count; i++) {
            devices[i].model = devices[i].model == model ? NULL : devices[i].model;
        }
    }
    if (model->has_failed) {
        destroy_unused(model);
    }
    (void)pthread_cond_broadcast(&given_back);
}

/* The model of an idle GPU, a new one if need be; NULL (and no reason) when all that can have one
 * are taken. */
static struct model *find_idle(const char **why)
{
    const char *failure = NULL;
    bool any_taken = false;
    for (unsigned i = 0; i < device_count; i++) {
        const char *here = devices[i].model == NULL ? add_model(&devices[i]) : NULL;
        failure = failure != NULL ? failure : here;
        if (here == NULL && !devices[i].model->is_taken) {
            *why = NULL;
            return devices[i].model;
        }
        any_taken = any_taken || here == NULL;
    }
    *why = any_taken ? NULL : failure;
    return NULL;
}

static struct model *model_of(const struct lq_device *device)
{
    unsigned i = 0;
    while (devices[i].model == NULL || devices[i].model->device != device) {
        i++; /* the caller has taken it, so it is there */
    }
    return devices[i].model;
}

static size_t free_memory(const struct lq_device *device)
{
    for (unsigned i = 0; i < device_count; i++) {
        struct lq_gpu_info info;
        if (devices[i].model != NULL && devices[i].model->device == device) {
            size_t spare = device->ops->spare_bytes == NULL ? 0 : device->ops->spare_bytes(device);
            return module->describe(devices[i].context, &info) == NULL
                       ? info.memory_free_bytes + spare
                       : 0;
        }
    }
    return 0;
}

struct lq_device *lq_gpu_take_device(size_t *memory_bytes)
{
    struct lq_device *found = NULL;
    *memory_bytes = 0;
    (void)pthread_mutex_lock(&mutex);
    if (choice != LQ_GPU_NEVER) {
        start();
    }
    while (found == NULL && choice != LQ_GPU_NEVER && is_usable && has_models &&
           make_model != NULL) {
        const char *why = NULL;
        struct model *model = find_idle(&why);
        if (model != NULL) {
            take_model(model);
            found = model->device;
            *memory_bytes = free_memory(found);
        } else if (why != NULL) {
            char text[LQ_GPU_WHY_BYTES];
            (void)snprintf(text, sizeof text, "the GPU cannot run models: %s", why);
            leave_models(text);
        } else {
            (void)pthread_cond_wait(&given_back, &mutex);
        }
    }
    (void)pthread_mutex_unlock(&mutex);
    return found;
}

struct lq_device *lq_gpu_take_another(size_t *memory_bytes)
{
    struct lq_device *found = NULL;
    const char *why = NULL;
    *memory_bytes = 0;
    (void)pthread_mutex_lock(&mutex);
    struct model *model = is_usable && has_models && make_model != NULL ? find_idle(&why) : NULL;
    if (model != NULL) {
        take_model(model);
        found = model->device;
        *memory_bytes = free_memory(found);
    }
    (void)pthread_mutex_unlock(&mutex);
    return found;
}

void lq_gpu_give_device(struct lq_device *device)
{
    (void)pthread_mutex_lock(&mutex);
    give_model(model_of(device));
    (void)pthread_mutex_unlock(&mutex);
}

void lq_gpu_leave_models(const char *why)
{
    (void)pthread_mutex_lock(&mutex);
    leave_models(why);
    (void)pthread_cond_broadcast(&given_back);
    (void)pthread_mutex_unlock(&mutex);
}

struct lq_gpu_kept *lq_gpu_keep(struct lq_device *device, size_t size_bytes)
{
    (void)pthread_mutex_lock(&mutex);
    struct model *model = model_of(device);
    size_t most = model->total_bytes / 2;
    bool fits = size_bytes <= most && model->kept_bytes <= most - size_bytes &&
                size_bytes <= free_memory(device) / 2;
    struct lq_gpu_kept *kept = fits ? calloc(1, sizeof *kept) : NULL;
    if (kept != NULL) {
        *kept = (struct lq_gpu_kept){.model = model, .size_bytes = size_bytes};
        kept->memory = device->ops->alloc(device, size_bytes);
    }
    if (kept != NULL && kept->memory == NULL) {
        free(kept);
        kept = NULL;
    }
    if (kept != NULL) {
        model->kept_bytes += size_bytes;
        model->kept_count++;
    }
    (void)pthread_mutex_unlock(&mutex);
    return kept;
}

void *lq_gpu_kept_memory(const struct lq_gpu_kept *kept, const struct lq_device *device)
{
    return kept->model->device == device ? kept->memory : NULL;
}

void lq_gpu_unkeep(struct lq_gpu_kept *kept)
{
    (void)pthread_mutex_lock(&mutex);
    struct model *model = kept->model;
    model->kept_bytes -= kept->size_bytes;
    kept->next = model->garbage;
    model->garbage = kept;
    if (!model->is_taken) {
        release_garbage(model);
        if (model->has_failed) {
            destroy_unused(model);
        }
    }
    (void)pthread_mutex_unlock(&mutex);
}

bool lq_gpu_read_kept(struct lq_gpu_kept *kept, size_t offset, void *to, size_t size_bytes)
{
    struct model *model = kept->model;
    struct lq_device *device = model->device;
    (void)pthread_mutex_lock(&mutex);
    bool is_mine = model->is_taken && pthread_equal(model->owner, pthread_self());
    while (!is_mine && model->is_taken) {
        (void)pthread_cond_wait(&given_back, &mutex);
    }
    model->is_taken = true;
    model->owner = pthread_self();
    (void)pthread_mutex_unlock(&mutex);
    device->ops->download(device, to, kept->memory + offset, size_bytes);
    bool good = device->ops->failure(device) == NULL;
    if (!is_mine) {
        (void)pthread_mutex_lock(&mutex);
        give_model(model);
        (void)pthread_mutex_unlock(&mutex);
    }
    return good;
}

void lq_gpu_use_module(const struct lq_gpu_module *new_module, lq_gpu_make_fn make)
{
    (void)pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < device_count; i++) {
        if (devices[i].model != NULL) {
            release_garbage(devices[i].model);
            destroy_unused(devices[i].model);
            devices[i].model = NULL;
        }
    }
    module = new_module;
    make_model = make;
    has_models = true;
    has_notice = false;
    (void)pthread_mutex_unlock(&mutex);
}

/* -------------------------------------------------------------------- tiles ---- */

struct lq_gpu_buffers lq_gpu_buffers(const struct lq_gpu_lease *lease, size_t slot)
{
    const struct slot *from = &lease->slots[slot];
    return (struct lq_gpu_buffers){from->in, from->importance, from->out};
}

bool lq_gpu_does(enum lq_dtype source, enum lq_dtype target, size_t elem_count)
{
    const struct lq_kernels *table = lq_kernels();
    return (unsigned)source < LQ_DTYPE_COUNT && (unsigned)target < LQ_DTYPE_COUNT &&
           table->decode[source] != NULL && table->encode[target] != NULL &&
           elem_count <= LQ_GPU_TILE_ELEMS;
}

static struct lq_gpu_work work_of(const struct slot *slot, const struct lq_gpu_tile *tile)
{
    const struct lq_dtype_info *source = lq_dtype_info((uint32_t)tile->source);
    const struct lq_dtype_info *target = lq_dtype_info((uint32_t)tile->target);
    struct lq_gpu_work work = {
        .row_count = tile->row_count,
        .col_count = tile->col_count,
        .importance_rows = tile->importance_rows,
        .source = (uint32_t)tile->source,
        .target = (uint32_t)tile->target,
        .in_elems = source->block_elems,
        .in_bytes = source->block_bytes,
        .out_elems = target->block_elems,
        .out_bytes = target->block_bytes,
        .in = slot->device_in,
        .values = slot->device_values,
        .importance = slot->device_importance,
        .out = slot->device_out,
        .bad = slot->device_bad,
        .limit = tile->limit,
    };
    if (tile->source == LQ_DTYPE_F32) {
        work.values = slot->device_in;
    }
    return work;
}

const char *lq_gpu_begin(struct lq_gpu_lease *lease, size_t slot_index,
                         const struct lq_gpu_tile *tile)
{
    const struct slot *slot = &lease->slots[slot_index];
    struct lq_gpu_stream *stream = slot->stream;
    struct lq_gpu_work work = work_of(slot, tile);
    size_t in_bytes = tile->row_count * lq_dtype_row_bytes(tile->source, tile->col_count);
    size_t out_bytes = tile->row_count * lq_dtype_row_bytes(tile->target, tile->col_count);
    size_t importance_bytes = tile->importance_rows * tile->col_count * sizeof(float);
    const void *out = slot->device_out;
    const char *why = module->upload(stream, slot->device_in, slot->in, in_bytes);
    if (why == NULL && importance_bytes > 0) {
        why = module->upload(stream, slot->device_importance, slot->importance, importance_bytes);
    }
    why = why != NULL ? why : module->zero(stream, slot->device_bad, sizeof(uint32_t));
    if (why == NULL && tile->source != LQ_DTYPE_F32) {
        why = module->decode(stream, &work);
    }
    why = why != NULL ? why : module->check(stream, &work);
    if (tile->target == LQ_DTYPE_F32) {
        out = work.values;
    } else {
        why = why != NULL ? why : module->encode(stream, &work);
    }
    why = why != NULL ? why : module->download(stream, slot->out, out, out_bytes);
    why =
        why != NULL ? why : module->download(stream, slot->bad, slot->device_bad, sizeof(uint32_t));
    return why == NULL ? NULL : give_up(why);
}

const char *lq_gpu_end(struct lq_gpu_lease *lease, size_t slot_index, bool *clean)
{
    const struct slot *slot = &lease->slots[slot_index];
    const char *why = module->wait(slot->stream);
    uint32_t bad = 1;
    if (why == NULL) {
        memcpy(&bad, slot->bad, sizeof bad);
    }
    *clean = bad == 0;
    return why == NULL ? NULL : give_up(why);
}

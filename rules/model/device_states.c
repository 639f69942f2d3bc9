#include "rules/model/device_states.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "kernels/gpu.h"

/* What a device has: every part_count-th batch, one behind the other. */
struct part {
    struct lq_gpu_kept *kept;
    float *rows;
};

struct lq_device_states {
    struct lq_object object; /* first: converted back */
    struct lq_hidden_shape shape;
    size_t batch; /* samples */
    struct part parts[LQ_FORWARD_MORE_MAX + 1];
    size_t part_count;
};

static size_t sample_elems(const struct lq_hidden_shape *shape)
{
    return (size_t)shape->sequence_length * shape->width;
}

static const struct part *part_of(const struct lq_device_states *states, size_t sample)
{
    return &states->parts[sample / states->batch % states->part_count];
}

/* The number of a sample among those of its part. */
static size_t place_of(const struct lq_device_states *states, size_t sample)
{
    size_t batch = states->batch;
    return sample / batch / states->part_count * batch + sample % batch;
}

/* Bytes of the rows from `offset` on. */
static bool read_rows(const struct lq_device_states *states, uint64_t offset, unsigned char *to,
                      size_t size_bytes)
{
    size_t sample_bytes = sample_elems(&states->shape) * sizeof(float);
    bool good = true;
    while (size_bytes > 0 && good) {
        size_t sample = (size_t)(offset / sample_bytes);
        size_t in_sample = (size_t)(offset % sample_bytes);
        size_t samples = states->batch - sample % states->batch; /* that follow each other */
        size_t count = samples * sample_bytes - in_sample;
        count = count < size_bytes ? count : size_bytes;
        good = lq_gpu_read_kept(part_of(states, sample)->kept,
                                place_of(states, sample) * sample_bytes + in_sample, to, count);
        to += count;
        offset += count;
        size_bytes -= count;
    }
    return good;
}

static enum lq_status states_read(struct lq_object *object, uint64_t offset, void *out,
                                  size_t size_bytes, struct lq_error *err)
{
    const struct lq_device_states *states = (struct lq_device_states *)(void *)object;
    unsigned char header[LQ_HIDDEN_HEADER_BYTES];
    unsigned char *to = out;
    lq_hidden_header(&states->shape, header);
    if (offset < sizeof header) {
        size_t part = sizeof header - (size_t)offset;
        part = part < size_bytes ? part : size_bytes;
        memcpy(to, header + offset, part);
        to += part;
        offset += part;
        size_bytes -= part;
    }
    return size_bytes == 0 || read_rows(states, offset - sizeof header, to, size_bytes)
               ? LQ_OK
               : lq_error_set(err, LQ_ENOMEM, "hidden states are lost with the GPU");
}

static void states_destroy(struct lq_object *object)
{
    struct lq_device_states *states = (struct lq_device_states *)(void *)object;
    for (size_t i = 0; i < states->part_count; i++) {
        lq_gpu_unkeep(states->parts[i].kept);
    }
    free(states);
}

/* Samples of a part: whole batches but for the last. */
static size_t count_samples(const struct lq_device_states *states, size_t part, size_t part_count)
{
    size_t count = 0;
    size_t step = states->batch * part_count;
    for (size_t s = part * states->batch; s < states->shape.sample_count; s += step) {
        size_t left = states->shape.sample_count - s;
        count += left < states->batch ? left : states->batch;
    }
    return count;
}

/* Memory for a part, taken off what is free for others. */
static bool add_part(struct lq_device_states *states, struct lq_forward_run *forward_run,
                     size_t part_count)
{
    size_t i = states->part_count;
    struct lq_device *device = lq_forward_run_device(forward_run, i).device;
    size_t *left = i == 0 ? &forward_run->memory_bytes : &forward_run->more[i - 1].memory_bytes;
    size_t size_bytes =
        count_samples(states, i, part_count) * sample_elems(&states->shape) * sizeof(float);
    struct lq_gpu_kept *kept = lq_gpu_keep(device, size_bytes);
    if (kept == NULL) {
        return false;
    }
    states->parts[i] = (struct part){kept, lq_gpu_kept_memory(kept, device)};
    states->part_count++;
    *left -= size_bytes < *left ? size_bytes : *left;
    return true;
}

struct lq_device_states *lq_device_states_hold_parts(struct lq_forward_run *forward_run,
                                                     const char *output,
                                                     const struct lq_hidden_shape *shape,
                                                     size_t batch_samples, size_t count)
{
    uint64_t size_bytes = 0;
    if (!forward_run->is_gpu || shape->is_bf16 ||
        !lq_mul_u64(shape->sample_count, sample_elems(shape) * sizeof(float), &size_bytes) ||
        size_bytes > SIZE_MAX - LQ_HIDDEN_HEADER_BYTES) {
        return NULL;
    }
    struct lq_device_states *states = calloc(1, sizeof *states);
    if (states == NULL) {
        return NULL;
    }
    states->object = (struct lq_object){.size_bytes = LQ_HIDDEN_HEADER_BYTES + size_bytes,
                                        .read = states_read,
                                        .destroy = states_destroy};
    states->shape = *shape;
    /* One device has all samples in their order, whatever batches it makes of them. */
    states->batch = count == 1 ? shape->sample_count : batch_samples;
    for (size_t i = 0; i < count; i++) {
        if (!add_part(states, forward_run, count)) {
            states_destroy(&states->object);
            return NULL;
        }
    }
    return lq_run_hold_object(forward_run->run, output, &states->object) ? states : NULL;
}

struct lq_device_states *lq_device_states_hold(struct lq_forward_run *forward_run,
                                               const char *output,
                                               const struct lq_hidden_shape *shape)
{
    return lq_device_states_hold_parts(forward_run, output, shape, 0, 1);
}

static struct lq_device_states *find(const struct lq_run *run, const char *input)
{
    struct lq_object *object = lq_run_input_object(run, input);
    return object == NULL || object->read != states_read
               ? NULL
               : (struct lq_device_states *)(void *)object;
}

bool lq_device_states_is_one(const struct lq_run *run, const char *input)
{
    return find(run, input) != NULL;
}

struct lq_device_states *lq_device_states_find_parts(const struct lq_forward_run *forward_run,
                                                     const char *input, size_t batch_samples,
                                                     size_t count)
{
    struct lq_device_states *states = find(forward_run->run, input);
    bool same = states != NULL && states->part_count == count &&
                (count == 1 || states->batch == batch_samples);
    for (size_t i = 0; same && i < count; i++) {
        struct lq_device *device = lq_forward_run_device(forward_run, i).device;
        same = lq_gpu_kept_memory(states->parts[i].kept, device) != NULL;
    }
    return same ? states : NULL;
}

struct lq_device_states *lq_device_states_find(const struct lq_forward_run *forward_run,
                                               const char *input)
{
    return lq_device_states_find_parts(forward_run, input, 0, 1);
}

float *lq_device_states_at(const struct lq_device_states *states, size_t sample)
{
    return states == NULL ? NULL
                          : part_of(states, sample)->rows +
                                place_of(states, sample) * sample_elems(&states->shape);
}

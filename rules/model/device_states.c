#include "rules/model/device_states.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "kernels/gpu.h"

struct lq_device_states {
    struct lq_object object; /* first: converted back */
    struct lq_hidden_shape shape;
    struct lq_gpu_kept *kept;
    float *rows;
};

static size_t sample_elems(const struct lq_hidden_shape *shape)
{
    return (size_t)shape->sequence_length * shape->width;
}

static enum lq_status states_read(struct lq_object *object, uint64_t offset, void *out,
                                  size_t size_bytes, struct lq_error *err)
{
    struct lq_device_states *states = (struct lq_device_states *)(void *)object;
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
    return size_bytes == 0 ||
                   lq_gpu_read_kept(states->kept, (size_t)offset - sizeof header, to, size_bytes)
               ? LQ_OK
               : lq_error_set(err, LQ_ENOMEM, "hidden states are lost with the GPU");
}

static void states_destroy(struct lq_object *object)
{
    struct lq_device_states *states = (struct lq_device_states *)(void *)object;
    lq_gpu_unkeep(states->kept);
    free(states);
}

struct lq_device_states *lq_device_states_hold(struct lq_forward_run *forward_run,
                                               const char *output,
                                               const struct lq_hidden_shape *shape)
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
    states->kept = lq_gpu_keep(forward_run->device, (size_t)size_bytes);
    if (states->kept == NULL) {
        free(states);
        return NULL;
    }
    states->object = (struct lq_object){.size_bytes = LQ_HIDDEN_HEADER_BYTES + size_bytes,
                                        .read = states_read,
                                        .destroy = states_destroy};
    states->shape = *shape;
    forward_run->memory_bytes -=
        size_bytes < forward_run->memory_bytes ? (size_t)size_bytes : forward_run->memory_bytes;
    states->rows = lq_gpu_kept_memory(states->kept, forward_run->device);
    return lq_run_hold_object(forward_run->run, output, &states->object) ? states : NULL;
}

struct lq_device_states *lq_device_states_find(const struct lq_forward_run *forward_run,
                                               const char *input)
{
    struct lq_object *object = lq_run_input_object(forward_run->run, input);
    if (object == NULL || object->read != states_read) {
        return NULL;
    }
    struct lq_device_states *states = (struct lq_device_states *)(void *)object;
    return lq_gpu_kept_memory(states->kept, forward_run->device) == NULL ? NULL : states;
}

float *lq_device_states_at(const struct lq_device_states *states, size_t sample)
{
    return states == NULL ? NULL : states->rows + sample * sample_elems(&states->shape);
}

#include "engine/cli/quantize_result.h"

#include <stdbool.h>
#include <string.h>

#include "engine/base/text.h"
#include "kernels/dtype.h"

struct sums {
    uint64_t bytes;
    uint64_t elements;
    size_t tensor_count;
};

static uint64_t count_elements(const struct lq_gguf_tensor *tensor)
{
    return tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
}

static void add(struct sums *sums, const struct lq_gguf_tensor *tensor)
{
    sums->bytes += tensor->size_bytes;
    sums->elements += count_elements(tensor);
    sums->tensor_count++;
}

static struct sums add_all(const struct lq_gguf *gguf)
{
    struct sums all = {0};
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        add(&all, &gguf->tensors[i]);
    }
    return all;
}

static double bits_of(const struct sums *sums)
{
    return sums->elements == 0 ? 0.0 : (double)sums->bytes * 8.0 / (double)sums->elements;
}

static double percent_of(uint64_t bytes, const struct sums *all)
{
    return all->bytes == 0 ? 0.0 : (double)bytes * 100.0 / (double)all->bytes;
}

/* The file names the tensors whose super weights are protected. */
static bool is_protected(const struct lq_gguf *gguf, const char *name)
{
    const struct lq_gguf_value *names = lq_gguf_find(gguf, "lqbuild.protected_tensors");
    bool listed =
        names != NULL && names->type == LQ_GGUF_ARRAY && names->element_type == LQ_GGUF_STRING;
    for (uint64_t i = 0; listed && i < names->count; i++) {
        const struct lq_gguf_string *listed_name = &names->strings[i];
        if (listed_name->length == strlen(name) &&
            memcmp(listed_name->data, name, listed_name->length) == 0) {
            return true;
        }
    }
    return false;
}

static void put_layer(const struct lq_gguf *gguf, const struct lq_gguf_tensor *tensor,
                      const struct sums *all, struct lq_json_writer *writer)
{
    struct sums own = {0};
    add(&own, tensor);
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "layer_name", tensor->name);
    lq_json_put_string(writer, "type", lq_dtype_name((uint32_t)tensor->dtype));
    lq_json_put_number(writer, "bit_width", bits_of(&own));
    lq_json_put_int(writer, "parameter_count", (int64_t)own.elements);
    lq_json_put_int(writer, "size_bytes", (int64_t)own.bytes);
    lq_json_put_number(writer, "size_pct", percent_of(own.bytes, all));
    lq_json_put_bool(writer, "is_protected", is_protected(gguf, tensor->name));
    lq_json_end_object(writer);
}

void lq_quantize_result_json(const struct lq_gguf *gguf, uint64_t file_bytes, uint64_t model_bytes,
                             struct lq_json_writer *writer)
{
    struct sums all = add_all(gguf);
    lq_json_key(writer, "layer_summary");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        put_layer(gguf, &gguf->tensors[i], &all, writer);
    }
    lq_json_end_array(writer);
    lq_json_put_number(writer, "effective_bpw", bits_of(&all));
    if (model_bytes > 0) {
        lq_json_put_number(writer, "compression_ratio", (double)file_bytes / (double)model_bytes);
    }
    lq_json_put_int(writer, "file_size", (int64_t)file_bytes);
}

void lq_quantize_result_text(const struct lq_gguf *gguf, const char *path, uint64_t file_bytes,
                             struct lq_buffer *out)
{
    struct sums types[LQ_DTYPE_COUNT] = {{0}};
    struct sums all = add_all(gguf);
    char size[32];
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        add(&types[gguf->tensors[i].dtype], &gguf->tensors[i]);
    }
    lq_buffer_printf(out, "%s: %s, %.2f bits per weight\n", path,
                     lq_text_size(file_bytes, size, sizeof size), bits_of(&all));
    for (;;) {
        size_t next = LQ_DTYPE_COUNT;
        for (size_t t = 0; t < LQ_DTYPE_COUNT; t++) {
            bool is_wider = next == LQ_DTYPE_COUNT || bits_of(&types[t]) > bits_of(&types[next]);
            next = types[t].tensor_count > 0 && is_wider ? t : next;
        }
        if (next == LQ_DTYPE_COUNT) {
            return;
        }
        lq_buffer_printf(out, "  %-8s %7.4g bits  %5zu tensor%s  %10s  %5.1f%%\n",
                         lq_dtype_name((uint32_t)next), bits_of(&types[next]),
                         types[next].tensor_count, types[next].tensor_count == 1 ? " " : "s",
                         lq_text_size(types[next].bytes, size, sizeof size),
                         percent_of(types[next].bytes, &all));
        types[next].tensor_count = 0;
    }
}

#include <string.h>

#include "engine/base/text.h"
#include "rules/format/inspect_parts.h"

/* A list of names, each once: "q_proj, k_proj". */
static void add_once(struct lq_buffer *list, const char *name, size_t length)
{
    const char *text = lq_buffer_text(list);
    for (const char *at = text; *at != '\0';) {
        size_t size = strcspn(at, ",");
        if (size == length && strncmp(at, name, length) == 0) {
            return;
        }
        at += size;
        at += strspn(at, ", ");
    }
    lq_buffer_printf(list, "%s%.*s", *text == '\0' ? "" : ", ", (int)length, name);
}

/* The last part of the module's name, "q_proj" of "model.layers.0.self_attn.q_proj.qweight". */
static void add_module(struct lq_buffer *list, const char *name, const char *suffix)
{
    size_t end = strlen(name) - strlen(suffix);
    size_t begin = end;
    while (begin > 0 && name[begin - 1] != '.') {
        begin--;
    }
    add_once(list, name + begin, end - begin);
}

void lq_inspect_quantized_init(struct lq_inspect_quantized *out, const cJSON *config)
{
    *out = (struct lq_inspect_quantized){.matrix_count = 0};
    lq_buffer_init(&out->quantized);
    lq_buffer_init(&out->plain);
    lq_error_clear(&out->refusal);
    if (lq_hf_quantization_find(config, NULL, &out->how, &out->refusal) != LQ_OK) {
        out->how.method = NULL;
    }
}

void lq_inspect_quantized_fini(struct lq_inspect_quantized *quantized)
{
    lq_buffer_fini(&quantized->quantized);
    lq_buffer_fini(&quantized->plain);
}

void lq_inspect_quantized_add(struct lq_inspect_quantized *quantized,
                              const struct lq_safetensor *tensor)
{
    static const char weight[] = ".weight";
    const struct lq_packing_method *method = quantized->how.method;
    if (method == NULL || tensor->dim_count != 2) {
        return;
    }
    const struct lq_packed_layout *levels = &method->parts[LQ_PACKED_LEVELS];
    if (tensor->has_dtype && tensor->dtype == levels->dtype &&
        lq_text_ends_with(tensor->name, levels->suffix)) {
        quantized->matrix_count++;
        add_module(&quantized->quantized, tensor->name, levels->suffix);
    } else if (lq_text_ends_with(tensor->name, weight)) {
        add_module(&quantized->plain, tensor->name, weight);
    }
}

uint64_t lq_inspect_quantized_count(const struct lq_inspect_quantized *quantized,
                                    const struct lq_safetensor *tensor, uint64_t stored)
{
    const struct lq_packing_method *method = quantized->how.method;
    for (int p = 0; method != NULL && p < LQ_PACKED_PART_COUNT; p++) {
        const struct lq_packed_layout *part = &method->parts[p];
        bool is_part = part->suffix != NULL && lq_text_ends_with(tensor->name, part->suffix) &&
                       tensor->has_dtype && (p == LQ_PACKED_SCALES || tensor->dtype == part->dtype);
        if (is_part && p != LQ_PACKED_LEVELS) {
            return 0;
        }
        if (is_part && part->axis != LQ_PACKED_SINGLY) {
            return stored * 32 / quantized->how.bits;
        }
    }
    return stored;
}

void lq_inspect_quantized_put(const struct lq_inspect_quantized *quantized, struct lq_view *view)
{
    const struct lq_hf_quantization *how = &quantized->how;
    if (quantized->refusal.status != LQ_OK) {
        lq_view_string(view, "quantization", "unknown");
        lq_view_string(view, "quantization_error", quantized->refusal.message);
    }
    if (how->method == NULL) {
        return;
    }
    lq_view_string(view, "quantization", how->method->title);
    lq_view_string(view, "quantization_format", how->method->name);
    lq_view_uint(view, "quantization_bits", how->bits);
    if (how->group_cols != 0) {
        lq_view_uint(view, "quantization_group_size", how->group_cols);
    } else {
        lq_view_string(view, "quantization_group_size", "row");
    }
    lq_view_string(view, "activations", how->rounds_inputs ? "8 bits, by token" : "as they are");
    lq_view_uint(view, "quantized_matrices", quantized->matrix_count);
    lq_view_string(view, "quantized_modules", lq_buffer_text(&quantized->quantized));
    lq_view_string(view, "other_modules", lq_buffer_text(&quantized->plain));
}

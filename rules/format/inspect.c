#include "rules/format/inspect.h"

#include <string.h>

#include "engine/base/reader.h"
#include "rules/format/imatrix.h"
#include "rules/format/inspect_parts.h"
#include "rules/format/mask.h"

int lq_inspect_width(int width, const char *name)
{
    size_t length = strlen(name);
    int wanted = length > 60 ? 60 : (int)length;
    int least = width < 12 ? 12 : width;
    return wanted > least ? wanted : least;
}

void lq_inspect_count(struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX], const char *name,
                      uint64_t elements, uint64_t size_bytes)
{
    for (size_t i = 0; i < LQ_INSPECT_TYPES_MAX; i++) {
        if (types[i].name == NULL || strcmp(types[i].name, name) == 0) {
            types[i].name = name;
            types[i].tensors++;
            types[i].elements += elements;
            types[i].size_bytes += size_bytes;
            return;
        }
    }
}

void lq_inspect_put_types(struct lq_view *view,
                          const struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX])
{
    struct lq_inspect_type total = {0};
    lq_view_begin_table(view, "types", "by type: tensors, parameters, size, bits per weight");
    for (size_t i = 0; i < LQ_INSPECT_TYPES_MAX && types[i].name != NULL; i++) {
        const struct lq_inspect_type *type = &types[i];
        double elements = (double)type->elements;
        lq_view_begin_row(view);
        lq_view_cell_string(view, "type", -8, type->name);
        lq_view_cell_uint(view, "tensors", 7, type->tensors);
        lq_view_cell_uint(view, "parameters", 14, type->elements);
        lq_view_cell_size(view, "size", 10, type->size_bytes);
        lq_view_cell_number(view, "bpw", 8,
                            type->elements == 0 ? 0 : 8.0 * (double)type->size_bytes / elements);
        lq_view_end_row(view);
        total.tensors += type->tensors;
        total.elements += type->elements;
        total.size_bytes += type->size_bytes;
    }
    lq_view_end_table(view);
    if (!view->json) {
        lq_buffer_append_string(view->out, "\ntotal\n");
    }
    lq_view_uint(view, "parameters", total.elements);
    lq_view_size(view, "data_size", total.size_bytes);
    lq_view_number(view, "bits_per_weight",
                   total.elements == 0 ? 0
                                       : 8.0 * (double)total.size_bytes / (double)total.elements);
}

/* A header length of sense, then a JSON object. Text never looks like this: eight bytes of it are a
 * larger number. Asked before JSON, because the length may begin with the byte of a brace. */
static bool is_safetensors(const unsigned char *data, uint64_t size_bytes)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    uint64_t header_bytes = lq_read_u64(&reader);
    return size_bytes > 8 && data[8] == '{' && header_bytes <= ((uint64_t)1 << 40);
}

static bool is_json(const char *text, uint64_t size_bytes)
{
    for (uint64_t i = 0; i < size_bytes; i++) {
        if (text[i] == '{' || text[i] == '[') {
            return true;
        }
        if (memchr(" \t\r\n", text[i], 4) == NULL) {
            return false;
        }
    }
    return false;
}

static enum lq_status inspect_unknown(const struct lq_inspection *in)
{
    /* The legacy importance matrix has no magic number: what it accepts is one. */
    struct lq_imatrix imatrix;
    if (lq_imatrix_parse(in->data, in->size_bytes, in->name, in->arena, &imatrix, NULL, NULL) ==
        LQ_OK) {
        return lq_inspect_imatrix(in);
    }
    return lq_error_set(in->err, LQ_EFORMAT,
                        "%s: unknown format; expected GGUF, safetensors, an importance matrix, a "
                        "mask, a profile, a report or other JSON",
                        in->name);
}

enum lq_status lq_inspect(const void *data, uint64_t size_bytes, const char *name, bool json,
                          struct lq_buffer *out, struct lq_error *err)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_inspection in = {data, size_bytes, name, json, out, &arena, err};
    enum lq_status status = LQ_OK;
    bool has_magic = size_bytes >= 4;
    if (has_magic && memcmp(data, "GGUF", 4) == 0) {
        status = lq_inspect_gguf(&in);
    } else if (has_magic && memcmp(data, "IMAT", 4) == 0) {
        status = lq_inspect_imatrix(&in);
    } else if (lq_mask_is(data, size_bytes)) {
        status = lq_inspect_mask(&in);
    } else if (is_safetensors(data, size_bytes)) {
        status = lq_inspect_safetensors(&in);
    } else if (is_json(data, size_bytes)) {
        status = lq_inspect_json(&in);
    } else {
        status = inspect_unknown(&in);
    }
    lq_arena_fini(&arena);
    if (status == LQ_OK && out->failed) {
        status = lq_error_nomem(err, "the summary of a file");
    }
    return status;
}

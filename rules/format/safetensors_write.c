#include "rules/format/safetensors_write.h"

#include "engine/base/json.h"

static void put_entry(struct lq_json_writer *writer, const struct lq_safetensors_entry *entry,
                      uint64_t begin)
{
    lq_json_key(writer, entry->name);
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "dtype", entry->dtype);
    lq_json_key(writer, "shape");
    lq_json_begin_array(writer);
    for (uint32_t d = 0; d < entry->dim_count; d++) {
        lq_json_uint(writer, entry->shape[d]);
    }
    lq_json_end_array(writer);
    lq_json_key(writer, "data_offsets");
    lq_json_begin_array(writer);
    lq_json_uint(writer, begin);
    lq_json_uint(writer, begin + entry->size_bytes);
    lq_json_end_array(writer);
    lq_json_end_object(writer);
}

enum lq_status lq_safetensors_header(const struct lq_safetensors_entry *entries, size_t count,
                                     struct lq_buffer *out, struct lq_error *err)
{
    struct lq_buffer json;
    struct lq_json_writer writer;
    uint64_t at = 0;
    bool fits = true;
    lq_buffer_init(&json);
    lq_json_writer_init(&writer, &json, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "__metadata__");
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "format", "pt");
    lq_json_end_object(&writer);
    for (size_t i = 0; i < count; i++) {
        put_entry(&writer, &entries[i], at);
        fits = fits && entries[i].size_bytes <= UINT64_MAX - at;
        at += entries[i].size_bytes;
    }
    lq_json_end_object(&writer);
    while (json.size_bytes % 8 != 0) {
        lq_buffer_append_char(&json, ' ');
    }
    lq_buffer_append_u64(out, json.size_bytes);
    lq_buffer_append(out, json.data, json.size_bytes);
    fits = fits && !json.failed && !out->failed;
    lq_buffer_fini(&json);
    return fits ? LQ_OK : lq_error_nomem(err, "the header of a safetensors file");
}

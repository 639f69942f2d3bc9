/* The GGUF header parser, whole and in pieces: whatever the bytes, it returns a header whose
 * tensors lie inside the file, or one sentence. */
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct lq_gguf *gguf, size_t size)
{
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf->tensors[i];
        if (tensor->offset > size || tensor->size_bytes > size - tensor->offset ||
            lq_gguf_find_tensor(gguf, tensor->name) != tensor) {
            abort();
        }
    }
    for (size_t i = 0; i < gguf->kv_count; i++) {
        if (lq_gguf_find(gguf, gguf->kvs[i].key) != &gguf->kvs[i].value) {
            abort();
        }
    }
}

/* What was read must be writable, unless the names are longer than the writer allows. */
static void write_again(const struct lq_gguf *gguf)
{
    struct lq_gguf_writer writer;
    struct lq_buffer out;
    struct lq_error err = {0};
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&out);
    bool fits = true;
    for (size_t i = 0; i < gguf->kv_count; i++) {
        lq_gguf_put_value(&writer, gguf->kvs[i].key, &gguf->kvs[i].value);
    }
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf->tensors[i];
        fits = fits && lq_gguf_put_tensor(&writer, tensor->name, tensor->dtype, tensor->dim_count,
                                          tensor->ne, &err) == LQ_OK;
    }
    if (fits && lq_gguf_writer_header(&writer, &out, &err) != LQ_OK) {
        abort();
    }
    lq_buffer_fini(&out);
    lq_gguf_writer_fini(&writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_gguf gguf = {0};
    struct lq_error err = {0};
    lq_arena_init(&arena);
    bool need_more = false;
    enum lq_status half =
        lq_gguf_parse(data, size / 2, size, "fuzz", LQ_EFORMAT, &arena, &gguf, &need_more, &err);
    enum lq_status whole =
        lq_gguf_parse(data, size, size, "fuzz", LQ_EFORMAT, &arena, &gguf, NULL, &err);
    if (half == LQ_OK && !need_more && whole != LQ_OK) {
        abort();
    }
    if (half != LQ_OK && whole == LQ_OK) {
        abort();
    }
    if (whole == LQ_OK) {
        check(&gguf, size);
        write_again(&gguf);
    }
    lq_arena_fini(&arena);
    return 0;
}

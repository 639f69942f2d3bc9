/* Bundles, as `import` reads them into a real cache. With a first byte 'r' the rest is the file;
 * else what stands before the first NUL is the head, and the bytes behind it are the objects', so
 * that the size in front is always right. What was taken must be whole. */
#include <stdint.h>

#include "cache/bundle.h"
#include "engine/base/buffer.h"
#include "tests/fuzz_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void frame(const uint8_t *data, size_t size, struct lq_buffer *out)
{
    const uint8_t *nul = memchr(data, 0, size);
    size_t head_bytes = nul == NULL ? size : (size_t)(nul - data);
    unsigned char front[16] = "LQBUNDL1";
    for (int i = 0; i < 8; i++) {
        front[8 + i] = (unsigned char)((uint64_t)head_bytes >> (8 * i));
    }
    lq_buffer_append(out, front, sizeof front);
    lq_buffer_append(out, data, head_bytes);
    if (nul != NULL) {
        lq_buffer_append(out, nul + 1, size - head_bytes - 1);
    }
}

static void take(const void *bytes, size_t size_bytes, bool trust_unsigned)
{
    const struct lq_keyring nobody = {.keys = NULL};
    struct lq_bundle_counts counts;
    struct lq_error err = {0};
    /* fmemopen takes no empty memory. */
    FILE *stream = size_bytes == 0 ? fopen("/dev/null", "rbe")
                                   : fmemopen((void *)(uintptr_t)bytes, size_bytes, "rb");
    if (stream == NULL) {
        return;
    }
    enum lq_status status = lq_bundle_read_stream(fuzz_cache_get(), stream, "bundle", &nobody,
                                                  trust_unsigned, &counts, &err);
    (void)fclose(stream);
    if (status != LQ_OK && err.message[0] == '\0') {
        abort();
    }
    if (status == LQ_OK && !trust_unsigned) {
        abort(); /* nobody signed it */
    }
    if (status == LQ_OK) {
        uint64_t checked = 0;
        uint64_t removed = 0;
        if (lq_cache_verify(fuzz_cache, &checked, &removed, &err) != LQ_OK || removed != 0) {
            abort();
        }
        fuzz_cache_empty();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_buffer file;
    if (size == 0) {
        return 0;
    }
    lq_buffer_init(&file);
    if (data[0] == 'r') {
        lq_buffer_append(&file, data + 1, size - 1);
    } else {
        frame(data + 1, size - 1, &file);
    }
    if (!file.failed) {
        take(file.data, file.size_bytes, true);
        take(file.data, file.size_bytes, false);
    }
    lq_buffer_fini(&file);
    return 0;
}

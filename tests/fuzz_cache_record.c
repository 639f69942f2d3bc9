/* The decoders of cache records. The first byte picks the record; the rest is its payload, to
 * which a right seal is added, so that the decoder behind the seal is reached; then the same bytes
 * as they are, with the seal that they happen to have. What decodes must encode to the same bytes
 * again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_same(const struct lq_buffer *encoded, const void *bytes, size_t size)
{
    if (encoded->failed || encoded->size_bytes != size || memcmp(encoded->data, bytes, size) != 0) {
        abort();
    }
}

static void try_blob(const struct lq_digest *key, const void *bytes, size_t size)
{
    struct lq_blob_record record;
    const char *why = NULL;
    if (!lq_blob_record_decode(key, bytes, size, &record, &why)) {
        if (why == NULL) {
            abort();
        }
        return;
    }
    struct lq_blob_part *parts = NULL;
    struct lq_buffer encoded;
    lq_buffer_init(&encoded);
    if (lq_blob_record_parts(&record, &parts, NULL) == LQ_OK) {
        lq_blob_record_encode(key, &record, parts, &encoded);
        check_same(&encoded, bytes, size);
    }
    uint64_t stored = 0;
    for (uint32_t i = 0; i < record.chunk_count && i < 1000; i++) {
        stored += lq_blob_record_chunk(&record, i);
    }
    if (record.chunk_count < 1000 && record.kind != LQ_BLOB_SMALL &&
        stored != record.stored_bytes) {
        abort();
    }
    free(parts);
    lq_buffer_fini(&encoded);
}

static void try_action(const struct lq_digest *key, const void *bytes, size_t size)
{
    struct lq_arena arena;
    struct lq_action_record record;
    const char *why = NULL;
    lq_arena_init(&arena);
    if (lq_action_record_decode(key, bytes, size, &arena, &record, &why, NULL) == LQ_OK &&
        why == NULL) {
        struct lq_buffer encoded;
        lq_buffer_init(&encoded);
        if (lq_action_record_encode(key, &record, &encoded, NULL) != LQ_OK) {
            abort();
        }
        check_same(&encoded, bytes, size);
        lq_buffer_fini(&encoded);
    }
    lq_arena_fini(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_digest key;
    struct lq_buffer sealed;
    if (size == 0) {
        return 0;
    }
    memset(&key, 0x5A, sizeof key);
    bool blob = data[0] % 2 == 0;
    lq_buffer_init(&sealed);
    lq_buffer_append(&sealed, data + 1, size - 1);
    lq_record_seal(blob ? LQ_RECORD_BLOB : LQ_RECORD_ACTION, key.bytes, LQ_DIGEST_BYTES, &sealed);
    if (!sealed.failed) {
        (blob ? try_blob : try_action)(&key, sealed.data, sealed.size_bytes);
    }
    (blob ? try_blob : try_action)(&key, data + 1, size - 1);
    lq_buffer_fini(&sealed);
    return 0;
}

/* The safetensors header and the shard index: whatever the bytes, the result lies inside the file
 * and lookups find every name, or there is one sentence. */
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_file(const uint8_t *data, size_t size, struct lq_arena *arena)
{
    struct lq_safetensors file = {0};
    struct lq_error err = {0};
    uint64_t need_more = 0;
    (void)lq_safetensors_parse(data, size / 2, size, "fuzz", LQ_EFORMAT, arena, &file, &need_more,
                               &err);
    if (need_more > size) {
        abort();
    }
    if (lq_safetensors_parse(data, size, size, "fuzz", LQ_EFORMAT, arena, &file, NULL, &err) !=
        LQ_OK) {
        return;
    }
    uint64_t position = file.data_offset;
    for (size_t i = 0; i < file.tensor_count; i++) {
        const struct lq_safetensor *tensor = &file.tensors[i];
        if (tensor->offset != position || lq_safetensors_find(&file, tensor->name) != tensor) {
            abort();
        }
        position += tensor->size_bytes;
    }
    if (position != size) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_shard_index index = {0};
    struct lq_error err = {0};
    lq_arena_init(&arena);
    fuzz_file(data, size, &arena);
    if (lq_shard_index_parse(data, size, "fuzz", LQ_EFORMAT, &arena, &index, &err) == LQ_OK) {
        for (size_t i = 0; i < index.entry_count; i++) {
            if (index.entries[i].file >= index.file_count ||
                lq_shard_index_find(&index, index.entries[i].tensor) != index.entries[i].file) {
                abort();
            }
        }
    }
    lq_arena_fini(&arena);
    return 0;
}

/* Results from outside: the protobuf message, the signed text in it, and layouts. What decodes must
 * encode to the same again. */
#include <stdlib.h>
#include <string.h>

#include "cache/actionresult.h"
#include "cache/layout.h"
#include "cache/result.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_result(const void *text, size_t size)
{
    struct lq_arena arena;
    struct lq_result result;
    struct lq_buffer again;
    const char *why = NULL;
    lq_arena_init(&arena);
    lq_buffer_init(&again);
    if (lq_result_decode(text, size, &arena, &result, &why, NULL) == LQ_OK && why == NULL) {
        char signer[LQ_KEY_NAME_BYTES];
        const struct lq_keyring nobody = {.keys = NULL};
        lq_result_encode(&result.key, &result.record, result.layouts, &again);
        if (lq_result_check(text, &result, &nobody, signer) == LQ_TRUSTED ||
            result.size_bytes > size || result.signed_bytes > result.size_bytes) {
            abort();
        }
    } else if (why == NULL) {
        abort();
    }
    lq_buffer_fini(&again);
    lq_arena_fini(&arena);
}

static void try_layout(const void *text, size_t size)
{
    struct lq_layout layout;
    struct lq_buffer again;
    const char *why = NULL;
    lq_buffer_init(&again);
    if (lq_layout_decode(text, size, &layout, &why, NULL) == LQ_OK && why == NULL) {
        lq_layout_encode(&layout, &again);
        if (again.size_bytes != size || memcmp(again.data, text, size) != 0) {
            abort();
        }
        lq_layout_fini(&layout);
    }
    lq_buffer_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_actionresult message;
    const char *why = NULL;
    if (lq_actionresult_decode(data, size, &message, &why) != (why == NULL)) {
        abort();
    }
    if (why == NULL && message.text != NULL) {
        try_result(message.text, message.text_bytes);
    }
    try_result(data, size);
    try_layout(data, size);
    return 0;
}

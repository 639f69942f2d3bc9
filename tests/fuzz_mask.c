/* Masks: what is read is written to an equal file in its canonical form, or there is one sentence.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "rules/format/mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_mask mask = {0};
    struct lq_mask again = {0};
    struct lq_buffer out;
    struct lq_error err = {0};
    lq_arena_init(&arena);
    lq_buffer_init(&out);
    if (lq_mask_parse(data, size, "fuzz", &arena, &mask, &err) == LQ_OK) {
        if (lq_mask_format(&mask, &out, &err) != LQ_OK ||
            lq_mask_parse(out.data, out.size_bytes, "again", &arena, &again, &err) != LQ_OK ||
            strcmp(mask.mask_id, again.mask_id) != 0) {
            abort();
        }
        for (size_t i = 0; i < mask.tensor_count; i++) {
            if (lq_mask_find(&mask, mask.tensors[i].name) != &mask.tensors[i]) {
                abort();
            }
        }
    }
    lq_buffer_fini(&out);
    lq_arena_fini(&arena);
    return 0;
}

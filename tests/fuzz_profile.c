/* Profiles: what is read can be written, and a second round gives the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "rules/format/dqprofile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_dqprofile profile = {0};
    struct lq_dqprofile again = {0};
    struct lq_buffer first;
    struct lq_buffer second;
    struct lq_error err = {0};
    lq_arena_init(&arena);
    lq_buffer_init(&first);
    lq_buffer_init(&second);
    if (lq_dqprofile_parse(data, size, "fuzz", &arena, &profile, &err) == LQ_OK &&
        lq_dqprofile_format(&profile, &first, &err) == LQ_OK) {
        if (lq_dqprofile_parse(first.data, first.size_bytes, "again", &arena, &again, &err) !=
                LQ_OK ||
            lq_dqprofile_format(&again, &second, &err) != LQ_OK ||
            first.size_bytes != second.size_bytes ||
            memcmp(first.data, second.data, first.size_bytes) != 0) {
            abort();
        }
    }
    lq_buffer_fini(&first);
    lq_buffer_fini(&second);
    lq_arena_fini(&arena);
    return 0;
}

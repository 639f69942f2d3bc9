/* Configuration files: whatever the text says, it is read or refused with a sentence. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/cli/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_error err;
    struct lq_settings settings = {.cache_dir = NULL};
    lq_arena_init(&arena);
    lq_error_clear(&err);
    enum lq_status status =
        lq_settings_apply(&settings, data, size, "config.toml", "dir", &arena, &err);
    if ((status != LQ_OK) != (err.message[0] != '\0') || settings.remote_count > LQ_REMOTES_MAX) {
        abort();
    }
    for (size_t i = 0; status == LQ_OK && i < settings.remote_count; i++) {
        if (settings.remotes[i].url == NULL || settings.remotes[i].timeout_seconds == 0) {
            abort();
        }
    }
    lq_arena_fini(&arena);
    return 0;
}

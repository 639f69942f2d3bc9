/* What a hub may say about a repository: a page of a list, a commit, the URL of the next page. The
 * first byte chooses. What is accepted must be what later parts take for granted. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/cli/hub/hub_listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool good)
{
    if (!good) {
        abort();
    }
}

static void list(const char *text, size_t size)
{
    struct lq_arena arena;
    struct lq_hub_listing listing = {.count = 0};
    struct lq_error err;
    lq_arena_init(&arena);
    /* A second page may repeat the first. */
    for (int page = 0; page < 2; page++) {
        lq_error_clear(&err);
        enum lq_status status = lq_hub_listing_add(&listing, text, size, "list", &arena, &err);
        expect((status == LQ_OK) == (err.message[0] == '\0'));
    }
    for (size_t i = 0; i < listing.count; i++) {
        const struct lq_hub_file *file = &listing.files[i];
        size_t length = strlen(file->path);
        expect(length > 0 && length <= LQ_HUB_PATH_BYTES_MAX && file->path[0] != '/' &&
               file->path[length - 1] != '/' && strstr(file->path, "//") == NULL &&
               strstr(file->path, "/../") == NULL && strncmp(file->path, "../", 3) != 0);
        expect(strlen(file->id) == (file->is_large ? 64 : 40) && strpbrk(file->id, "./") == NULL);
        expect(file->size_bytes <= LQ_HUB_FILE_BYTES_MAX);
        expect(lq_hub_listing_find(&listing, file->path) != NULL);
    }
    lq_arena_fini(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char commit[LQ_HUB_COMMIT_BYTES];
    if (size == 0) {
        return 0;
    }
    /* Exactly as long, so that a byte too far is found. */
    char *text = malloc(size);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 4) {
    case 0:
        if (lq_hub_commit_parse(text, size - 1, "commit", commit, NULL) == LQ_OK) {
            expect(lq_hub_is_commit(commit) && strlen(commit) == 40);
        }
        break;
    case 1: {
        const char *query = lq_hub_page_query(text);
        expect(query == NULL || (query[0] != '\0' && strpbrk(query, " \r\n#") == NULL));
        break;
    }
    default:
        list(text, size - 1);
        break;
    }
    free(text);
    return 0;
}

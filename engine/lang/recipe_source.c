#include "engine/lang/recipe_source.h"

#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"

void lq_recipe_sources_init(struct lq_recipe_sources *sources, struct lq_arena *arena)
{
    memset(sources, 0, sizeof *sources);
    sources->arena = arena;
}

enum lq_status lq_recipe_sources_add(struct lq_recipe_sources *sources, const char *name,
                                     const char *dir, const char *text, size_t size_bytes,
                                     struct lq_recipe_source **out, struct lq_error *err)
{
    *out = NULL;
    if (size_bytes > LQ_RECIPE_BYTES_MAX ||
        sources->size_bytes > LQ_RECIPE_BYTES_MAX - size_bytes) {
        return lq_error_set(err, LQ_ERECIPE,
                            "%s: recipe files are larger than the limit of %d bytes together", name,
                            LQ_RECIPE_BYTES_MAX);
    }
    struct lq_recipe_source *source = lq_arena_get(sources->arena, sizeof *source);
    if (source == NULL) {
        return lq_error_nomem(err, name);
    }
    source->name = lq_arena_dup_string(sources->arena, name);
    source->dir = lq_arena_dup_string(sources->arena, dir);
    source->text = lq_arena_dup(sources->arena, text, size_bytes);
    if (source->name == NULL || source->dir == NULL || source->text == NULL) {
        return lq_error_nomem(err, name);
    }
    source->size_bytes = (uint32_t)size_bytes;
    sources->size_bytes += size_bytes;
    if (sources->last == NULL) {
        sources->first = source;
    } else {
        sources->last->next = source;
    }
    sources->last = source;
    *out = source;
    return LQ_OK;
}

static struct lq_recipe_source *find_file(const struct lq_recipe_sources *sources,
                                          const struct lq_file_sig *sig)
{
    for (struct lq_recipe_source *source = sources->first; source != NULL; source = source->next) {
        if (source->is_file && source->device == sig->device && source->inode == sig->inode) {
            return source;
        }
    }
    return NULL;
}

enum lq_status lq_recipe_sources_open(struct lq_recipe_sources *sources, const char *path,
                                      struct lq_recipe_source **out, bool *known,
                                      struct lq_error *err)
{
    *out = NULL;
    *known = false;
    struct lq_file_sig sig;
    bool exists = false;
    enum lq_status status = lq_file_sig_get(path, &sig, &exists, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!exists) {
        return lq_error_set(err, LQ_ERECIPE, "%s: no such file", path);
    }
    *out = find_file(sources, &sig);
    if (*out != NULL) {
        *known = true;
        return LQ_OK;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    status = lq_file_read(path, LQ_RECIPE_BYTES_MAX, &text, err);
    char *dir = NULL;
    if (status == LQ_OK) {
        dir = lq_path_dir(sources->arena, path);
        status = dir == NULL ? lq_error_nomem(err, path) : LQ_OK;
    }
    if (status == LQ_OK) {
        status = lq_recipe_sources_add(sources, path, dir, lq_buffer_text(&text), text.size_bytes,
                                       out, err);
    }
    if (status == LQ_OK) {
        (*out)->is_file = true;
        (*out)->device = sig.device;
        (*out)->inode = sig.inode;
    }
    lq_buffer_fini(&text);
    return status;
}

const struct lq_recipe_source *lq_recipe_sources_find(const struct lq_recipe_sources *sources,
                                                      const char *file)
{
    const struct lq_recipe_source *source = sources->first;
    while (source != NULL && source->name != file) {
        source = source->next;
    }
    return source;
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0u) == 0x80u;
}

/* RFC 3629, section 4: no overlong forms, no surrogates, nothing above U+10FFFF. */
size_t lq_recipe_utf8_length(const char *text, size_t left)
{
    if (left == 0) {
        return 0;
    }
    unsigned char first = (unsigned char)text[0];
    unsigned char second = left > 1 ? (unsigned char)text[1] : 0;
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xc2 && first <= 0xdf) {
        return left > 1 && is_continuation(text[1]) ? 2 : 0;
    }
    if (first >= 0xe0 && first <= 0xef) {
        bool bad = left < 3 || !is_continuation(text[1]) || !is_continuation(text[2]) ||
                   (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f);
        return bad ? 0 : 3;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        bool bad = left < 4 || !is_continuation(text[1]) || !is_continuation(text[2]) ||
                   !is_continuation(text[3]) || (first == 0xf0 && second < 0x90) ||
                   (first == 0xf4 && second > 0x8f);
        return bad ? 0 : 4;
    }
    return 0;
}

size_t lq_recipe_utf8_check(const char *text, size_t size_bytes)
{
    size_t offset = 0;
    while (offset < size_bytes) {
        size_t length =
            text[offset] == '\0' ? 0 : lq_recipe_utf8_length(text + offset, size_bytes - offset);
        if (length == 0) {
            break;
        }
        offset += length;
    }
    return offset;
}

struct lq_position lq_recipe_source_position(const struct lq_recipe_source *source, size_t offset)
{
    struct lq_position position = {.file = source->name, .line = 1, .column = 1};
    for (size_t i = 0; i < offset && i < source->size_bytes;) {
        size_t length = lq_recipe_utf8_length(source->text + i, source->size_bytes - i);
        if (source->text[i] == '\n') {
            position.line++;
            position.column = 1;
        } else {
            position.column++;
        }
        i += length == 0 ? 1 : length;
    }
    return position;
}

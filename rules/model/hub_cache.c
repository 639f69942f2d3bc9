#include "rules/model/hub_cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"

#define SCHEME "hf:"

enum { COMMIT_BYTES_MAX = 256 };

/* "org", "name", "revision": what a folder can be called without leading elsewhere. */
static bool is_part(const char *text, size_t length)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789._-";
    for (size_t i = 0; i < length; i++) {
        if (strchr(allowed, text[i]) == NULL || (text[i] == '.' && i > 0 && text[i - 1] == '.')) {
            return false;
        }
    }
    return length > 0 && length <= LQ_NAME_BYTES_MAX && text[0] != '.' && text[0] != '-';
}

/* A path of plain names. */
static bool is_file(const char *text)
{
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, "/");
        if (!is_part(at, length)) {
            return false;
        }
        at += length;
        if (*at == '\0') {
            return true;
        }
    }
}

/* "org/name" or, where that is allowed, "name"; `length` bytes of it. */
static bool is_repository(const char *text, size_t length, bool needs_organisation)
{
    const char *slash = memchr(text, '/', length);
    size_t head = slash == NULL ? length : (size_t)(slash - text);
    return is_part(text, head) &&
           (slash == NULL ? !needs_organisation : is_part(slash + 1, length - head - 1));
}

/* Where "org/name@revision" ends: at the second slash, or at the end of the text. */
static size_t head_length(const char *text)
{
    size_t organisation = strcspn(text, "/@");
    if (text[organisation] != '/') {
        return strlen(text);
    }
    return organisation + 1 + strcspn(text + organisation + 1, "/");
}

bool lq_hub_name_parse(const char *text, struct lq_arena *arena, struct lq_hub_name *out)
{
    static const char datasets[] = "datasets/";
    text += lq_text_starts_with(text, SCHEME) ? strlen(SCHEME) : 0;
    bool is_dataset = lq_text_starts_with(text, datasets) && text[head_length(text)] == '/';
    text += is_dataset ? strlen(datasets) : 0;
    size_t head = head_length(text);
    size_t name = strcspn(text, "@") < head ? strcspn(text, "@") : head;
    const char *file = text[head] == '/' ? text + head + 1 : NULL;
    bool has_revision = name < head;
    bool good = is_repository(text, name, is_dataset || file != NULL) &&
                (!has_revision || is_part(text + name + 1, head - name - 1)) &&
                (file == NULL ? !is_dataset
                              : is_file(file) && (is_dataset || lq_text_ends_with(file, ".gguf")));
    if (!good) {
        return false;
    }
    *out = (struct lq_hub_name){
        .is_dataset = is_dataset,
        .repository = lq_arena_dup(arena, text, name),
        .revision = has_revision ? lq_arena_dup(arena, text + name + 1, head - name - 1) : "main",
        .file = file == NULL ? NULL : lq_arena_dup_string(arena, file),
    };
    return out->repository != NULL && out->revision != NULL && (out->file != NULL || file == NULL);
}

bool lq_hub_is_name(const char *text)
{
    size_t name = strcspn(text, "@");
    const char *revision = text[name] == '@' ? text + name + 1 : NULL;
    return lq_text_starts_with(text, SCHEME) ||
           (is_repository(text, name, true) && !lq_text_ends_with(text, ".gguf") &&
            (revision == NULL || is_part(revision, strlen(revision))));
}

enum lq_status lq_hub_cache_folder(struct lq_arena *arena, const char **out, struct lq_error *err)
{
    static const struct {
        const char *variable;
        const char *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HUGGINGFACE_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    *out = NULL;
    for (size_t i = 0; i < LQ_COUNT_OF(places) && *out == NULL; i++) {
        const char *value = getenv(places[i].variable);
        if (value != NULL && value[0] != '\0') {
            *out = lq_arena_printf(arena, "%s%s", value, places[i].below);
            if (*out == NULL) {
                return lq_error_nomem(err, "a path");
            }
        }
    }
    return LQ_OK;
}

/* The commit that a branch stands for, or the revision itself when it is a commit. */
static enum lq_status find_snapshot(const char *folder, const char *revision,
                                    struct lq_arena *arena, struct lq_hub_place *out,
                                    struct lq_error *err)
{
    const char *ref = lq_arena_printf(arena, "%s/refs/%s", folder, revision);
    const char *commit = revision;
    if (ref == NULL) {
        return lq_error_nomem(err, "a path");
    }
    if (lq_path_exists(ref)) {
        struct lq_buffer text;
        lq_buffer_init(&text);
        enum lq_status status = lq_file_read(ref, COMMIT_BYTES_MAX, &text, err);
        const char *line = status == LQ_OK ? lq_buffer_text(&text) : "";
        size_t length = strcspn(line, "\r\n");
        if (status == LQ_OK && !is_part(line, length)) {
            status = lq_error_set(err, LQ_EMODEL, "%s: does not hold the name of a commit", ref);
        }
        commit = status == LQ_OK ? lq_arena_dup(arena, line, length) : NULL;
        lq_buffer_fini(&text);
        if (commit == NULL) {
            return status == LQ_OK ? lq_error_nomem(err, "a path") : status;
        }
        out->ref = ref;
    }
    const char *path = lq_arena_printf(arena, "%s/snapshots/%s", folder, commit);
    out->path = path != NULL && lq_path_is_dir(path) ? path : NULL;
    return path == NULL ? lq_error_nomem(err, "a path") : LQ_OK;
}

const char *lq_hub_repository_folder(const struct lq_hub_name *name, struct lq_arena *arena)
{
    const char *kind = name->is_dataset ? "datasets" : "models";
    const char *slash = strchr(name->repository, '/');
    if (slash == NULL) {
        return lq_arena_printf(arena, "%s--%s", kind, name->repository);
    }
    return lq_arena_printf(arena, "%s--%.*s--%s", kind, (int)(slash - name->repository),
                           name->repository, slash + 1);
}

/* out->path NULL: it is not in the cache, whose folder goes to *cache. */
static enum lq_status look_up(const struct lq_hub_name *name, struct lq_arena *arena,
                              const char **cache, struct lq_hub_place *out, struct lq_error *err)
{
    *out = (struct lq_hub_place){0};
    enum lq_status status = lq_hub_cache_folder(arena, cache, err);
    if (status != LQ_OK || *cache == NULL) {
        *cache = "(HOME is not set)";
        return status;
    }
    const char *folder = lq_hub_repository_folder(name, arena);
    folder = folder == NULL ? NULL : lq_path_join(arena, *cache, folder);
    if (folder == NULL) {
        return lq_error_nomem(err, "a path");
    }
    status = find_snapshot(folder, name->revision, arena, out, err);
    if (status != LQ_OK || out->path == NULL || name->file == NULL) {
        return status;
    }
    out->path = lq_path_join(arena, out->path, name->file);
    if (out->path == NULL) {
        return lq_error_nomem(err, "a path");
    }
    out->path = lq_path_exists(out->path) ? out->path : NULL;
    return LQ_OK;
}

enum lq_status lq_hub_resolve(const char *text, const char *path, struct lq_arena *arena,
                              struct lq_hub_place *out, struct lq_error *err)
{
    bool scheme = lq_text_starts_with(text, SCHEME);
    struct lq_hub_name name;
    const char *cache = NULL;
    *out = (struct lq_hub_place){.path = path};
    if (!scheme && (lq_path_exists(path) || !lq_hub_is_name(text))) {
        return lq_path_exists(path)
                   ? LQ_OK
                   : lq_error_set(err, LQ_EMODEL,
                                  "%s: no such model; give a Hugging Face folder or a .gguf file",
                                  path);
    }
    if (!lq_hub_name_parse(text, arena, &name) || name.is_dataset) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%s' is no name of a model, expected hf:org/name, "
                            "hf:org/name@revision or hf:org/name/file.gguf",
                            text);
    }
    enum lq_status status = look_up(&name, arena, &cache, out, err);
    if (status != LQ_OK || out->path != NULL) {
        return status;
    }
    return lq_error_set(err, LQ_EMODEL,
                        "model '%s' is neither a file or folder nor in the Hugging Face cache %s; "
                        "download it with `lqbuild fetch %s`, or give a folder or a .gguf file",
                        text, cache, text);
}

bool lq_hub_is_text(const char *text)
{
    return lq_text_starts_with(text, SCHEME);
}

enum lq_status lq_hub_resolve_text(const char *text, struct lq_arena *arena,
                                   struct lq_hub_place *out, struct lq_error *err)
{
    struct lq_hub_name name;
    const char *cache = NULL;
    *out = (struct lq_hub_place){0};
    if (!lq_text_starts_with(text, SCHEME) || !lq_hub_name_parse(text, arena, &name) ||
        !name.is_dataset) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%s' is no name of a text, expected hf:datasets/org/name/file.txt or "
                            "hf:datasets/org/name@revision/file.txt",
                            text);
    }
    enum lq_status status = look_up(&name, arena, &cache, out, err);
    if (status == LQ_EMODEL) {
        return lq_error_set(err, LQ_ECALIBRATION, "%s", err == NULL ? "" : err->message);
    }
    if (status != LQ_OK || out->path != NULL) {
        return status;
    }
    return lq_error_set(err, LQ_ECALIBRATION,
                        "'%s' is not in the Hugging Face cache %s; download it with `lqbuild fetch "
                        "%s`, or give a file",
                        text, cache, text);
}

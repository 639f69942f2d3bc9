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

/* The name before "@", and what is behind it; NULL: the branch "main". */
struct hub_name {
    const char *name;
    size_t length;
    const char *slash; /* within the name; NULL: a name without an organisation */
    const char *revision;
};

static bool parse_name(const char *text, struct hub_name *out)
{
    const char *at = strchr(text, '@');
    out->name = text;
    out->length = at == NULL ? strlen(text) : (size_t)(at - text);
    out->revision = at == NULL ? NULL : at + 1;
    out->slash = memchr(text, '/', out->length);
    size_t head = out->slash == NULL ? out->length : (size_t)(out->slash - text);
    return is_part(text, head) &&
           (out->slash == NULL || is_part(out->slash + 1, out->length - head - 1)) &&
           (at == NULL || is_part(at + 1, strlen(at + 1)));
}

bool lq_hub_is_name(const char *text)
{
    struct hub_name name;
    return lq_text_starts_with(text, SCHEME) ||
           (parse_name(text, &name) && name.slash != NULL && !lq_text_ends_with(text, ".gguf"));
}

/* *out NULL: the environment names no folder. */
static enum lq_status find_cache(struct lq_arena *arena, const char **out, struct lq_error *err)
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

static enum lq_status missing(const struct hub_name *name, const char *text, const char *cache,
                              struct lq_error *err)
{
    bool other = name->revision != NULL;
    return lq_error_set(
        err, LQ_EMODEL,
        "model '%s' is neither a file or folder nor in the Hugging Face cache %s; download it with "
        "`hf download %.*s%s%s`, or give a folder or a .gguf file",
        text, cache == NULL ? "(HOME is not set)" : cache, (int)name->length, name->name,
        other ? " --revision " : "", other ? name->revision : "");
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

/* "models--org--name" in the cache. */
static const char *repository_folder(const char *cache, const char *kind,
                                     const struct hub_name *name, struct lq_arena *arena)
{
    if (name->slash == NULL) {
        return lq_arena_printf(arena, "%s/%s--%.*s", cache, kind, (int)name->length, name->name);
    }
    size_t head = (size_t)(name->slash - name->name);
    return lq_arena_printf(arena, "%s/%s--%.*s--%.*s", cache, kind, (int)head, name->name,
                           (int)(name->length - head - 1), name->slash + 1);
}

enum lq_status lq_hub_resolve(const char *text, const char *path, struct lq_arena *arena,
                              struct lq_hub_place *out, struct lq_error *err)
{
    bool scheme = lq_text_starts_with(text, SCHEME);
    struct hub_name name;
    const char *cache = NULL;
    *out = (struct lq_hub_place){.path = path};
    if (!scheme && (lq_path_exists(path) || !lq_hub_is_name(text))) {
        return lq_path_exists(path)
                   ? LQ_OK
                   : lq_error_set(err, LQ_EMODEL,
                                  "%s: no such model; give a Hugging Face folder or a .gguf file",
                                  path);
    }
    if (!parse_name(scheme ? text + strlen(SCHEME) : text, &name)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%s' is no name of a model, expected hf:org/name or "
                            "hf:org/name@revision",
                            text);
    }
    enum lq_status status = find_cache(arena, &cache, err);
    if (status != LQ_OK || cache == NULL) {
        return status == LQ_OK ? missing(&name, text, cache, err) : status;
    }
    const char *folder = repository_folder(cache, "models", &name, arena);
    if (folder == NULL) {
        return lq_error_nomem(err, "a path");
    }
    *out = (struct lq_hub_place){0};
    status = find_snapshot(folder, name.revision == NULL ? "main" : name.revision, arena, out, err);
    return status == LQ_OK && out->path == NULL ? missing(&name, text, cache, err) : status;
}

bool lq_hub_is_text(const char *text)
{
    return lq_text_starts_with(text, SCHEME);
}

/* "org/name[@revision]/file" of which every part of the file's path is a plain name. */
static bool parse_text_name(const char *text, struct lq_arena *arena, struct hub_name *name,
                            const char **file)
{
    const char *organisation_end = strchr(text, '/');
    const char *end = organisation_end == NULL ? NULL : strchr(organisation_end + 1, '/');
    const char *head = end == NULL ? NULL : lq_arena_dup(arena, text, (size_t)(end - text));
    if (head == NULL || !parse_name(head, name) || name->slash == NULL) {
        return false;
    }
    *file = end + 1;
    for (const char *at = *file;; at++) {
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

enum lq_status lq_hub_resolve_text(const char *text, struct lq_arena *arena,
                                   struct lq_hub_place *out, struct lq_error *err)
{
    static const char scheme[] = SCHEME "datasets/";
    struct hub_name name;
    const char *file = NULL;
    const char *cache = NULL;
    *out = (struct lq_hub_place){0};
    if (!lq_text_starts_with(text, scheme) ||
        !parse_text_name(text + strlen(scheme), arena, &name, &file)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%s' is no name of a text, expected hf:datasets/org/name/file.txt or "
                            "hf:datasets/org/name@revision/file.txt",
                            text);
    }
    enum lq_status status = find_cache(arena, &cache, err);
    const char *path = NULL;
    if (status == LQ_OK && cache != NULL) {
        const char *folder = repository_folder(cache, "datasets", &name, arena);
        status = folder == NULL
                     ? lq_error_nomem(err, "a path")
                     : find_snapshot(folder, name.revision == NULL ? "main" : name.revision, arena,
                                     out, err);
        path = out->path == NULL ? NULL : lq_path_join(arena, out->path, file);
    }
    if (status == LQ_EMODEL && err != NULL) {
        err->status = LQ_ECALIBRATION;
    }
    if (status != LQ_OK || (path != NULL && lq_path_exists(path))) {
        out->path = path;
        return status == LQ_EMODEL ? LQ_ECALIBRATION : status;
    }
    bool other = name.revision != NULL;
    return lq_error_set(err, LQ_ECALIBRATION,
                        "'%s' is not in the Hugging Face cache %s; download it with `hf download "
                        "--repo-type dataset %.*s %s%s%s`, or give a file",
                        text, cache == NULL ? "(HOME is not set)" : cache, (int)name.length,
                        name.name, file, other ? " --revision " : "", other ? name.revision : "");
}

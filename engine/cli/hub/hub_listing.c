#include "engine/cli/hub/hub_listing.h"

#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/quote.h"

static bool is_hex(const char *text, size_t length)
{
    return strlen(text) == length && strspn(text, "0123456789abcdef") == length;
}

bool lq_hub_is_commit(const char *text)
{
    return is_hex(text, LQ_HUB_COMMIT_BYTES - 1);
}

/* "a/b.txt": parts that are neither empty nor "." nor "..", nothing that a terminal would obey. */
static bool is_path(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)path[i] < 0x20 || path[i] == '\\' ||
            lq_text_control(path + i, length - i) > 0) {
            return false;
        }
    }
    for (const char *part = path;;) {
        size_t size = strcspn(part, "/");
        if (size == 0 || size > LQ_NAME_BYTES_MAX || (size <= 2 && strspn(part, ".") >= size)) {
            return false;
        }
        part += size;
        if (*part == '\0') {
            return length <= LQ_HUB_PATH_BYTES_MAX;
        }
        part++;
    }
}

static enum lq_status parse(const void *data, size_t size_bytes, const char *where, bool is_list,
                            cJSON **out, struct lq_error *err)
{
    enum lq_status status = lq_json_parse(data, size_bytes, where, LQ_EFORMAT, out, err);
    if (status == LQ_OK && (is_list ? !cJSON_IsArray(*out) : !cJSON_IsObject(*out))) {
        cJSON_Delete(*out);
        *out = NULL;
        status =
            lq_error_set(err, LQ_EFORMAT, "%s: is no JSON %s", where, is_list ? "list" : "object");
    }
    return status;
}

enum lq_status lq_hub_commit_parse(const void *data, size_t size_bytes, const char *where,
                                   char commit[LQ_HUB_COMMIT_BYTES], struct lq_error *err)
{
    cJSON *json = NULL;
    const char *sha = NULL;
    const struct lq_json_scope scope = {where, LQ_EFORMAT};
    enum lq_status status = parse(data, size_bytes, where, false, &json, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_json_get_string(&scope, json, "sha", &sha, NULL, err);
    if (status == LQ_OK && !lq_hub_is_commit(sha)) {
        char quoted[LQ_QUOTE_BYTES];
        status = lq_error_set(err, LQ_EFORMAT, "%s: sha is '%s', expected 40 hex digits", where,
                              lq_quote_string(sha, quoted));
    }
    if (status == LQ_OK) {
        memcpy(commit, sha, LQ_HUB_COMMIT_BYTES);
    }
    cJSON_Delete(json);
    return status;
}

/* The members of a file that say what its content is. */
static enum lq_status read_content(const struct lq_json_scope *scope, const cJSON *item,
                                   struct lq_hub_file *file, struct lq_error *err)
{
    const cJSON *large = NULL;
    const char *id = NULL;
    int64_t size = 0;
    int64_t large_size = 0;
    enum lq_status status =
        lq_json_get_int(scope, item, "size", 0, (int64_t)LQ_HUB_FILE_BYTES_MAX, &size, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_object(scope, item, "lfs", &large, &file->is_large, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, file->is_large ? large : item, "oid", &id, NULL, err);
    }
    if (status == LQ_OK && file->is_large) {
        status = lq_json_get_int(scope, large, "size", 0, (int64_t)LQ_HUB_FILE_BYTES_MAX,
                                 &large_size, NULL, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (!is_hex(id, file->is_large ? 64 : 40)) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(err, LQ_EFORMAT, "%s: oid is '%s', expected %d hex digits",
                            scope->where, lq_quote_string(id, quoted), file->is_large ? 64 : 40);
    }
    if (file->is_large && large_size != size) {
        return lq_error_set(err, LQ_EFORMAT, "%s: has %lld and %lld bytes", scope->where,
                            (long long)size, (long long)large_size);
    }
    file->size_bytes = (uint64_t)size;
    memcpy(file->id, id, strlen(id) + 1);
    return LQ_OK;
}

static enum lq_status make_room(struct lq_hub_listing *listing, const char *where,
                                struct lq_arena *arena, struct lq_error *err)
{
    if (listing->count < listing->capacity) {
        return LQ_OK;
    }
    if (listing->count >= LQ_HUB_FILES_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%s: has more than %d files", where, LQ_HUB_FILES_MAX);
    }
    size_t capacity = listing->capacity == 0 ? 64 : listing->capacity * 2;
    struct lq_hub_file *grown = lq_arena_get_array(arena, capacity, sizeof *grown);
    if (grown == NULL) {
        return lq_error_nomem(err, "a list of files");
    }
    if (listing->count > 0) {
        memcpy(grown, listing->files, listing->count * sizeof *grown);
    }
    listing->files = grown;
    listing->capacity = capacity;
    return LQ_OK;
}

static enum lq_status add_file(struct lq_hub_listing *listing, const struct lq_json_scope *scope,
                               const cJSON *item, struct lq_arena *arena, struct lq_error *err)
{
    const char *type = NULL;
    const char *path = NULL;
    char quoted[LQ_QUOTE_BYTES];
    if (!cJSON_IsObject(item)) {
        return lq_error_set(err, LQ_EFORMAT, "%s: has what is no object", scope->where);
    }
    enum lq_status status = lq_json_get_string(scope, item, "type", &type, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, item, "path", &path, NULL, err);
    }
    if (status == LQ_OK && !is_path(path)) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: names '%s', which is no path within it",
                              scope->where, lq_quote_string(path, quoted));
    }
    if (status != LQ_OK || strcmp(type, "file") != 0) {
        return status;
    }
    status = make_room(listing, scope->where, arena, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_hub_file *file = &listing->files[listing->count];
    *file = (struct lq_hub_file){.path = lq_arena_dup_string(arena, path)};
    if (file->path == NULL) {
        return lq_error_nomem(err, "a list of files");
    }
    const struct lq_json_scope inner = {lq_quote_string(path, quoted), LQ_EFORMAT};
    status = read_content(&inner, item, file, err);
    if (status == LQ_EFORMAT) {
        return lq_error_prefix(err, "%s", scope->where);
    }
    listing->count += status == LQ_OK;
    return status;
}

enum lq_status lq_hub_listing_add(struct lq_hub_listing *listing, const void *data,
                                  size_t size_bytes, const char *where, struct lq_arena *arena,
                                  struct lq_error *err)
{
    cJSON *json = NULL;
    const cJSON *item = NULL;
    const struct lq_json_scope scope = {where, LQ_EFORMAT};
    enum lq_status status = parse(data, size_bytes, where, true, &json, err);
    cJSON_ArrayForEach(item, json)
    {
        if (status == LQ_OK) {
            status = add_file(listing, &scope, item, arena, err);
        }
    }
    cJSON_Delete(json);
    return status;
}

const struct lq_hub_file *lq_hub_listing_find(const struct lq_hub_listing *listing,
                                              const char *path)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (strcmp(listing->files[i].path, path) == 0) {
            return &listing->files[i];
        }
    }
    return NULL;
}

const char *lq_hub_page_query(const char *url)
{
    const char *mark = strchr(url, '?');
    if (mark == NULL || mark[1] == '\0') {
        return NULL;
    }
    for (const char *at = mark + 1; *at != '\0'; at++) {
        /* Printable ASCII, and no fragment. */
        if (*at <= ' ' || *at > '~' || *at == '#') {
            return NULL;
        }
    }
    return mark + 1;
}

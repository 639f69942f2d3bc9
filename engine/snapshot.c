#define _DEFAULT_SOURCE
#include "engine/snapshot.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/action.h"
#include "engine/base/buffer.h"
#include "engine/base/reader.h"
#include "engine/build_state.h"

enum {
    FORMAT = 1,
    /* Builds that take the short way do not note which results they use: one in a while must not.
     */
    AGE_SECONDS_MAX = 4 * 3600,
};

bool lq_snapshot_key(const struct lq_snapshot_request *request, struct lq_digest *key)
{
    char folder[PATH_MAX];
    if (getcwd(folder, sizeof folder) == NULL) {
        return false;
    }
    struct lq_manifest manifest;
    lq_manifest_init(&manifest, "snapshot");
    lq_manifest_add_uint(&manifest, "version", request->version, FORMAT);
    for (size_t i = 0; i < request->registry->rule_count; i++) {
        const struct lq_rule *rule = request->registry->rules[i];
        lq_manifest_add_uint(&manifest, "rule", rule->kind, rule->version);
    }
    lq_manifest_add(&manifest, "recipe", folder, request->recipe_path);
    for (size_t i = 0; i < request->define_count; i++) {
        lq_manifest_add(&manifest, "define", request->defines[i].name, request->defines[i].value);
    }
    for (size_t i = 0; i < request->target_count; i++) {
        lq_manifest_add(&manifest, "target", "", request->targets[i]);
    }
    bool made = lq_manifest_key(&manifest, key);
    lq_manifest_fini(&manifest);
    return made;
}

/* ---- writing ---- */

static void put_text(struct lq_buffer *out, const char *text)
{
    lq_buffer_append_u32(out, (uint32_t)strlen(text) + 1);
    lq_buffer_append(out, text, strlen(text) + 1);
}

static void put_file(struct lq_buffer *out, const char *path, const struct lq_file_sig *sig)
{
    lq_buffer_append_u64(out, sig->device);
    lq_buffer_append_u64(out, sig->inode);
    lq_buffer_append_u64(out, sig->size_bytes);
    lq_buffer_append_u64(out, (uint64_t)sig->mtime_ns);
    lq_buffer_append_u64(out, (uint64_t)sig->ctime_ns);
    put_text(out, path);
}

static bool folder_sig(const char *path, struct lq_file_sig *sig)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return false;
    }
    *sig = (struct lq_file_sig){
        .device = (uint64_t)st.st_dev,
        .inode = (uint64_t)st.st_ino,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
        .ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec,
    };
    return true;
}

static bool put_folder_of(struct lq_build *build, struct lq_buffer *out, const char *path)
{
    struct lq_file_sig sig;
    char *folder = lq_path_dir(&build->arena, path);
    if (folder == NULL || !folder_sig(folder, &sig) || lq_file_sig_is_fresh(&sig)) {
        return false;
    }
    put_file(out, folder, &sig);
    return true;
}

/* A file that appears in the folder of a source may be one more source, and beside the recipe it
 * may be what an include means. Neighbours in the list of sources mostly share a folder. */
static bool put_folders(struct lq_build *build, struct lq_buffer *out)
{
    const char *last = NULL;
    for (size_t i = 0; lq_recipe_file(build->recipe, i) != NULL; i++) {
        if (!put_folder_of(build, out, lq_recipe_file(build->recipe, i))) {
            return false;
        }
    }
    for (const struct lq_source *source = build->sources; source != NULL; source = source->next) {
        size_t length = (size_t)(lq_path_base(source->path) - source->path);
        if (last != NULL && strncmp(last, source->path, length) == 0 &&
            (size_t)(lq_path_base(last) - last) == length) {
            continue;
        }
        last = source->path;
        if (!put_folder_of(build, out, source->path)) {
            return false;
        }
    }
    return true;
}

static bool put_checked(struct lq_buffer *out, const char *path)
{
    struct lq_file_sig sig;
    bool exists = false;
    if (lq_file_sig_get(path, &sig, &exists, NULL) != LQ_OK || !exists ||
        lq_file_sig_is_fresh(&sig)) {
        return false;
    }
    put_file(out, path, &sig);
    return true;
}

static bool put_files(struct lq_build *build, struct lq_buffer *out)
{
    for (size_t i = 0;; i++) {
        const char *file = lq_recipe_file(build->recipe, i);
        if (file == NULL) {
            break;
        }
        if (!put_checked(out, file)) {
            return false;
        }
    }
    for (const struct lq_source *source = build->sources; source != NULL; source = source->next) {
        if (!source->known || lq_file_sig_is_fresh(&source->sig)) {
            return false;
        }
        put_file(out, source->path, &source->sig);
    }
    for (size_t i = 0; i < build->node_count; i++) {
        const struct lq_node *node = &build->nodes[i];
        for (size_t k = 0; node->state == LQ_NODE_DONE && k < node->place_count; k++) {
            struct lq_file_sig sig;
            if (!lq_place_check(build, node, &node->places[k], &sig) ||
                lq_file_sig_is_fresh(&sig)) {
                return false;
            }
            put_file(out, node->places[k].path, &sig);
        }
    }
    return true;
}

static bool is_plain_node(const struct lq_node *node)
{
    const struct lq_rule *rule = node->artifact->rule;
    if (node->state == LQ_NODE_UNWANTED) {
        return true;
    }
    return node->state == LQ_NODE_DONE && node->verdict == LQ_OK && !node->would_run &&
           !(rule->shows_summary && node->target) &&
           (rule->always_expands == NULL || !rule->always_expands(node->artifact));
}

static bool is_worth_it(const struct lq_build *build)
{
    const struct lq_build_result *result = build->result;
    if (build->options->snapshot == NULL || build->node_count < LQ_SNAPSHOT_NODES_MIN ||
        result->ran + result->failed + result->would_run > 0) {
        return false;
    }
    for (size_t i = 0; i < build->node_count; i++) {
        if (!is_plain_node(&build->nodes[i])) {
            return false;
        }
    }
    return true;
}

/* `removals` was asked before the build looked at anything. */
static enum lq_status store(struct lq_build *build, const struct lq_buffer *text,
                            struct lq_error *err)
{
    struct lq_action_output output = {.name = "snapshot", .size_bytes = text->size_bytes};
    const struct lq_action_record record = {.outputs = &output,
                                            .output_count = 1,
                                            .verdict_text = "",
                                            .numerics = "",
                                            .step_count = build->result->steps};
    enum lq_status status =
        lq_blob_put(build->cache, text->data, text->size_bytes, &output.digest, err);
    return status == LQ_OK
               ? lq_action_put(build->cache, build->options->snapshot, &record, NULL, NULL, err)
               : status;
}

void lq_snapshot_save(struct lq_build *build)
{
    struct lq_error err;
    if (!is_worth_it(build)) {
        return;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_u32(&text, FORMAT);
    lq_buffer_append_u64(&text, build->removals);
    lq_buffer_append_u64(&text, lq_cache_now());
    size_t folders_at = text.size_bytes;
    lq_buffer_append_u64(&text, 0);
    bool whole = put_folders(build, &text);
    uint64_t folders_end = text.size_bytes;
    whole = whole && put_files(build, &text) && !text.failed;
    if (whole) {
        for (int i = 0; i < 8; i++) {
            text.data[folders_at + (size_t)i] = (unsigned char)(folders_end >> (8 * i));
        }
        /* Failing to store it makes the next build slower, nothing else. */
        (void)store(build, &text, &err);
    }
    lq_buffer_fini(&text);
}

/* ---- checking ---- */

static bool read_sig(struct lq_reader *reader, struct lq_file_sig *sig, const char **path)
{
    sig->device = lq_read_u64(reader);
    sig->inode = lq_read_u64(reader);
    sig->size_bytes = lq_read_u64(reader);
    sig->mtime_ns = lq_read_i64(reader);
    sig->ctime_ns = lq_read_i64(reader);
    uint32_t length = lq_read_u32(reader);
    *path = lq_read_bytes(reader, length);
    return !reader->failed && length > 0 && (*path)[length - 1] == '\0';
}

static bool is_unchanged(const unsigned char *data, uint64_t size_bytes, uint64_t removals)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    uint32_t format = lq_read_u32(&reader);
    uint64_t known_removals = lq_read_u64(&reader);
    uint64_t saved = lq_read_u64(&reader);
    uint64_t folders_end = lq_read_u64(&reader);
    uint64_t now = lq_cache_now();
    if (reader.failed || format != FORMAT || known_removals != removals || saved > now ||
        now - saved > AGE_SECONDS_MAX) {
        return false;
    }
    while (lq_reader_left(&reader) > 0) {
        struct lq_file_sig was;
        struct lq_file_sig is = {.size_bytes = 0};
        const char *path = NULL;
        bool exists = false;
        bool folder = size_bytes - lq_reader_left(&reader) < folders_end;
        if (!read_sig(&reader, &was, &path)) {
            return false;
        }
        exists = folder ? folder_sig(path, &is)
                        : lq_file_sig_get(path, &is, &exists, NULL) == LQ_OK && exists;
        if (!exists || !lq_file_sig_equal(&is, &was)) {
            return false;
        }
    }
    return true;
}

static enum lq_status compare(struct lq_cache *cache, const struct lq_digest *digest,
                              uint64_t removals, bool *current, struct lq_error *err)
{
    struct lq_blob_reader *reader = NULL;
    enum lq_status status = lq_blob_open(cache, digest, true, &reader, err);
    if (status != LQ_OK || reader == NULL) {
        return status;
    }
    uint64_t size_bytes = lq_blob_size(reader);
    unsigned char *data = size_bytes > SIZE_MAX / 2 ? NULL : malloc((size_t)size_bytes + 1);
    status = data == NULL ? lq_error_nomem(err, "a snapshot")
                          : lq_blob_read(reader, 0, data, (size_t)size_bytes, err);
    lq_blob_close(reader);
    *current = status == LQ_OK && is_unchanged(data, size_bytes, removals);
    free(data);
    return status;
}

enum lq_status lq_snapshot_check(struct lq_cache *cache, const struct lq_digest *key, bool *current,
                                 struct lq_build_result *result, struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_action_record record;
    uint64_t removals = 0;
    uint64_t size_bytes = 0;
    bool found = false;
    *current = false;
    *result = (struct lq_build_result){.steps = 0};
    lq_arena_init(&arena);
    enum lq_status status = lq_cache_removals(cache, &removals, err);
    status = status == LQ_OK ? lq_action_get(cache, key, &arena, &record, &found, err) : status;
    if (status == LQ_OK && found && record.output_count == 1 &&
        lq_blob_exists(cache, &record.outputs[0].digest, &size_bytes)) {
        status = compare(cache, &record.outputs[0].digest, removals, current, err);
        result->steps = record.step_count;
        result->cached = record.step_count;
    }
    lq_arena_fini(&arena);
    return status;
}

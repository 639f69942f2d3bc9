/* Source files: found once, stat'ed once, hashed only when their signature is new. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/build_state.h"

enum { COPY_BYTES_MAX = 64 * 1024 };

static const char *kind_name(const struct lq_source *source)
{
    return source->kind == NULL ? "plain" : source->kind->name;
}

static size_t bucket_of(const char *path)
{
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    for (const char *c = path; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    }
    return (size_t)(hash % LQ_BUILD_SOURCE_BUCKETS);
}

static struct lq_source *find_source(const struct lq_build *build, const char *path,
                                     const struct lq_source_kind *kind)
{
    for (struct lq_source *source = build->sources_by_path[bucket_of(path)]; source != NULL;
         source = source->same_bucket) {
        if (source->kind == kind && strcmp(source->path, path) == 0) {
            return source;
        }
    }
    return NULL;
}

enum lq_status lq_sources_add(struct lq_sources *sources, const char *path,
                              const struct lq_source_kind *kind, enum lq_status missing_status,
                              struct lq_error *err)
{
    struct lq_build *build = sources->build;
    struct lq_node *node = sources->node;
    struct lq_source *source = find_source(build, path, kind);
    if (source == NULL) {
        source = lq_arena_get(&build->arena, sizeof *source);
        char *copy = lq_arena_dup_string(&build->arena, path);
        if (source == NULL || copy == NULL) {
            return lq_error_nomem(err, "a source file");
        }
        source->path = copy;
        source->kind = kind;
        source->missing_status = missing_status;
        source->next = build->sources;
        build->sources = source;
        source->same_bucket = build->sources_by_path[bucket_of(path)];
        build->sources_by_path[bucket_of(path)] = source;
    }
    if (node->source_count == node->source_capacity) {
        uint32_t capacity = node->source_capacity == 0 ? 1 : node->source_capacity * 2;
        struct lq_source **list =
            lq_arena_get_array(&build->arena, capacity, sizeof(struct lq_source *));
        if (list == NULL) {
            return lq_error_nomem(err, "a source file");
        }
        if (node->source_count != 0) {
            memcpy(list, node->sources, node->source_count * sizeof(struct lq_source *));
        }
        node->sources = list;
        node->source_capacity = capacity;
    }
    node->sources[node->source_count++] = source;
    return LQ_OK;
}

enum lq_status lq_source_collect(struct lq_build *build, struct lq_node *node, struct lq_error *err)
{
    const struct lq_rule *rule = node->artifact->rule;
    struct lq_sources sources = {.build = build, .node = node};
    return rule->sources == NULL ? LQ_OK : rule->sources(node->artifact, &sources, err);
}

static size_t digest_bucket(const struct lq_digest *digest)
{
    return ((size_t)digest->bytes[0] << 8 | digest->bytes[1]) % LQ_BUILD_SOURCE_BUCKETS;
}

void lq_source_set_known(struct lq_build *build, struct lq_source *source)
{
    source->known = true;
    /* A plain source never changes its digest within a build. */
    if (source->kind == NULL && !source->in_digests) {
        struct lq_source **bucket = &build->sources_by_digest[digest_bucket(&source->digest)];
        source->in_digests = true;
        source->same_digest = *bucket;
        *bucket = source;
    }
}

static bool description_exists(struct lq_build *build, const struct lq_digest *digest)
{
    uint64_t size_bytes = 0;
    return lq_blob_exists(build->cache, digest, &size_bytes);
}

static enum lq_status check_one(struct lq_build *build, struct lq_source *source,
                                struct lq_error *err)
{
    bool exists = false;
    enum lq_status status = lq_file_sig_get(source->path, &source->sig, &exists, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!exists) {
        enum lq_status missing = source->missing_status == LQ_OK ? LQ_EIO : source->missing_status;
        return lq_error_set(err, missing, "%s: no such file", source->path);
    }
    struct lq_digest digest;
    if (lq_file_digest_get(build->cache, &source->sig, kind_name(source), &digest) &&
        (source->kind == NULL || description_exists(build, &digest))) {
        source->digest = digest;
        lq_source_set_known(build, source);
    }
    return LQ_OK;
}

enum lq_status lq_source_check(struct lq_build *build, struct lq_node *node, size_t *pending,
                               struct lq_error *err)
{
    *pending = 0;
    for (size_t i = 0; i < node->source_count; i++) {
        struct lq_source *source = node->sources[i];
        if (!source->known && !source->hashing) {
            enum lq_status status = check_one(build, source, err);
            if (status != LQ_OK) {
                return status;
            }
        }
        *pending += source->known ? 0 : 1;
    }
    return LQ_OK;
}

enum lq_status lq_source_unchanged(const struct lq_source *source, struct lq_error *err)
{
    struct lq_file_sig now;
    bool exists = false;
    enum lq_status status = lq_file_sig_get(source->path, &now, &exists, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!exists || !lq_file_sig_equal(&now, &source->sig)) {
        return lq_error_set(err, LQ_EIO, "%s: changed while it was being read; run the build again",
                            source->path);
    }
    return LQ_OK;
}

/* A copy of a small file takes the place of its map. */
static enum lq_status take_copy(struct lq_source *source, struct lq_error *err)
{
    size_t size_bytes = (size_t)source->map.size_bytes;
    unsigned char *copy = malloc(size_bytes + 1);
    if (copy != NULL) {
        memcpy(copy, source->map.data, size_bytes);
    }
    lq_map_close(&source->map);
    if (copy == NULL) {
        return lq_error_nomem(err, source->path);
    }
    source->copy = copy;
    source->map = (struct lq_map){.data = copy, .size_bytes = size_bytes};
    return LQ_OK;
}

static enum lq_status map_locked(struct lq_source *source, struct lq_error *err)
{
    if (source->mapped) {
        return LQ_OK;
    }
    enum lq_status missing = source->missing_status == LQ_OK ? LQ_EIO : source->missing_status;
    enum lq_status status = lq_map_open(&source->map, source->path, missing, err);
    if (status == LQ_OK && source->map.size_bytes != source->sig.size_bytes) {
        lq_map_close(&source->map);
        status =
            lq_error_set(err, LQ_EIO, "%s: changed during the build; run it again", source->path);
    }
    if (status == LQ_OK && source->map.size_bytes <= COPY_BYTES_MAX) {
        status = take_copy(source, err);
    }
    source->mapped = status == LQ_OK;
    return status;
}

enum lq_status lq_source_map(struct lq_build *build, struct lq_source *source,
                             const struct lq_map **map, struct lq_error *err)
{
    (void)pthread_mutex_lock(&build->mutex);
    enum lq_status status = map_locked(source, err);
    (void)pthread_mutex_unlock(&build->mutex);
    *map = status == LQ_OK ? &source->map : NULL;
    return status;
}

void lq_source_release(struct lq_build *build, struct lq_source *source, uint64_t offset,
                       uint64_t size_bytes)
{
    (void)pthread_mutex_lock(&build->mutex);
    bool mapped = source->mapped;
    (void)pthread_mutex_unlock(&build->mutex);
    if (mapped) {
        lq_map_release(&source->map, offset, size_bytes);
    }
}

/* Remembers the digest under the file's signature, unless a change could hide behind time stamps
 * that are too fresh: then it waits until they are not. */
static enum lq_status remember(struct lq_job *job, const struct lq_source *source,
                               struct lq_error *err)
{
    enum lq_status status = lq_source_unchanged(source, err);
    if (status == LQ_OK && !lq_file_sig_is_fresh(&source->sig)) {
        return lq_file_digest_put(job->build->cache, &source->sig, kind_name(source),
                                  &source->digest, err);
    }
    if (status == LQ_OK &&
        !lq_remember_add(job, source->path, kind_name(source), &source->sig, &source->digest)) {
        status = lq_error_nomem(err, source->path);
    }
    return status;
}

static enum lq_status hash_source(struct lq_job *job, struct lq_source *source,
                                  struct lq_error *err)
{
    struct lq_build *build = job->build;
    const struct lq_map *map = NULL;
    enum lq_status status = lq_source_map(build, source, &map, err);
    if (status != LQ_OK) {
        return status;
    }
    if (source->kind == NULL) {
        lq_digest_of(map->data, (size_t)map->size_bytes, &source->digest);
    } else {
        struct lq_buffer text;
        lq_buffer_init(&text);
        status = source->kind->index(source->path, map, build->pool, &text, err);
        if (status == LQ_OK && text.failed) {
            status = lq_error_nomem(err, source->path);
        }
        if (status == LQ_OK) {
            status = lq_blob_put(build->cache, text.data, text.size_bytes, &source->digest, err);
        }
        lq_buffer_fini(&text);
    }
    return status == LQ_OK ? remember(job, source, err) : status;
}

void lq_source_perform(struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    uint64_t start = lq_clock_ns();
    job->status = hash_source(job, job->source, &job->err);
    job->seconds = (double)(lq_clock_ns() - start) * 1e-9;
}

struct lq_source *lq_source_by_digest(const struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_source *source = build->sources_by_digest[digest_bucket(digest)];
    while (source != NULL && !lq_digest_equal(&source->digest, digest)) {
        source = source->same_digest;
    }
    return source;
}

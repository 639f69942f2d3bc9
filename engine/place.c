/* Puts an output at the path that the recipe names: a stream out of the cache into a temporary file
 * that replaces the old one only when every byte has been checked. A large output is written there
 * by the step that makes it, from the bytes that it hashes; then only the name is left to give. */
#include "engine/build_state.h"

enum { STREAM_BYTES_MIN = 16 << 20 };

bool lq_place_check(struct lq_build *build, const struct lq_node *node,
                    const struct lq_place *place, struct lq_file_sig *sig)
{
    struct lq_digest digest;
    bool exists = false;
    struct lq_error err;
    const struct lq_node_output *output = lq_plan_output(node, place->output);
    return output != NULL && lq_file_sig_get(place->path, sig, &exists, &err) == LQ_OK && exists &&
           lq_file_digest_get(build->cache, sig, "plain", &digest) &&
           lq_digest_equal(&digest, &output->digest);
}

static bool is_current(struct lq_build *build, const struct lq_node *node,
                       const struct lq_place *place)
{
    struct lq_file_sig sig;
    return lq_place_check(build, node, place, &sig);
}

bool lq_place_is_current(struct lq_build *build, const struct lq_node *node)
{
    for (size_t i = 0; i < node->place_count; i++) {
        if (!is_current(build, node, &node->places[i])) {
            return false;
        }
    }
    return true;
}

/* Where the bytes of an output come from. */
struct content {
    struct lq_blob_reader *reader;
    const unsigned char *bytes;
    uint64_t size_bytes;
};

static enum lq_status open_content(struct lq_job *job, const char *path,
                                   const struct lq_digest *digest, struct content *content)
{
    struct lq_build *build = job->build;
    *content = (struct content){0};
    enum lq_status status = lq_blob_open(build->cache, digest, false, &content->reader, &job->err);
    if (status != LQ_OK) {
        return status;
    }
    if (content->reader != NULL) {
        content->size_bytes = lq_blob_size(content->reader);
        return LQ_OK;
    }
    struct lq_source *source = lq_source_by_digest(build, digest);
    if (source == NULL) {
        job->lost = true;
        return lq_error_set(&job->err, LQ_ECACHE, "%s: the output is no longer in the cache", path);
    }
    const struct lq_map *map = NULL;
    status = lq_source_map(build, source, &map, &job->err);
    if (status == LQ_OK) {
        content->bytes = map->data;
        content->size_bytes = map->size_bytes;
    }
    return status;
}

struct copying {
    const struct lq_job *job;
    struct lq_atomic_file *file;
};

static enum lq_status copy_bytes(void *user, const void *data, size_t size_bytes,
                                 struct lq_error *err)
{
    const struct copying *copying = user;
    return lq_build_cancelled(copying->job->build)
               ? lq_error_set(err, LQ_ECANCELLED, "cancelled")
               : lq_atomic_file_write(copying->file, data, size_bytes, err);
}

static enum lq_status copy_source(struct copying *copying, const struct content *content,
                                  struct lq_hasher *hasher, struct lq_error *err)
{
    enum { PIECE_BYTES = 1 << 20 };
    enum lq_status status = LQ_OK;
    for (uint64_t at = 0; status == LQ_OK && at < content->size_bytes; at += PIECE_BYTES) {
        uint64_t left = content->size_bytes - at;
        size_t size_bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        lq_hasher_update(hasher, content->bytes + at, size_bytes);
        status = copy_bytes(copying, content->bytes + at, size_bytes, err);
    }
    return status;
}

/* Copies everything and checks it against the digest. */
static enum lq_status copy_content(struct lq_job *job, const char *path,
                                   const struct content *content, const struct lq_digest *digest,
                                   struct lq_atomic_file *file)
{
    struct copying copying = {job, file};
    struct lq_hasher *hasher = lq_hasher_create();
    enum lq_status status = LQ_OK;
    if (hasher == NULL) {
        status = lq_error_nomem(&job->err, "a copy");
    } else if (content->reader == NULL) {
        status = copy_source(&copying, content, hasher, &job->err);
    } else {
        status = lq_blob_walk(content->reader, job->build->pool, &hasher, 1, copy_bytes, &copying,
                              &job->err);
        job->lost = status == LQ_ECACHE;
    }
    struct lq_digest copied;
    if (status == LQ_OK) {
        lq_hasher_finish(hasher, &copied);
        if (!lq_digest_equal(&copied, digest)) {
            job->lost = true;
            status = lq_error_set(&job->err, LQ_ECACHE,
                                  "%s: the output in the cache does not have its digest", path);
        }
    }
    lq_hasher_destroy(hasher);
    return status;
}

/* Lets the cache find out what is wrong with the blob and remove it, so that it is made again. */
static void discard_altered(struct lq_job *job, const struct lq_digest *digest)
{
    struct lq_blob_reader *reader = NULL;
    struct lq_error err;
    if (lq_blob_open(job->build->cache, digest, true, &reader, &err) == LQ_OK) {
        lq_blob_close(reader);
    }
}

/* Fills a temporary file with the content. */
static enum lq_status write_content(struct lq_job *job, const char *path,
                                    const struct lq_digest *digest, struct lq_atomic_file **file)
{
    struct content content;
    enum lq_status status = open_content(job, path, digest, &content);
    if (status == LQ_OK) {
        status = lq_atomic_file_begin(file, path, &job->err);
    }
    if (status == LQ_OK && content.size_bytes >= STREAM_BYTES_MIN) {
        status = lq_atomic_file_stream(*file, &job->err);
    }
    if (status == LQ_OK) {
        status = copy_content(job, path, &content, digest, *file);
    }
    lq_blob_close(content.reader);
    if (status != LQ_OK) {
        lq_atomic_file_abort(*file);
        *file = NULL;
    }
    if (status != LQ_OK && job->lost) {
        discard_altered(job, digest);
    }
    return status;
}

static enum lq_status place_one(struct lq_job *job, struct lq_place *place)
{
    const struct lq_node_output *output = lq_plan_output(job->node, place->output);
    if (output == NULL) {
        return lq_error_set(&job->err, LQ_EINTERNAL, "rule '%s' binds no output '%s'",
                            job->node->artifact->rule->kind, place->output);
    }
    struct lq_atomic_file *file = place->ready;
    enum lq_status status = LQ_OK;
    place->ready = NULL;
    if (file != NULL && !lq_digest_equal(&place->ready_digest, &output->digest)) {
        lq_atomic_file_abort(file);
        file = NULL;
    }
    if (file == NULL) {
        status = write_content(job, place->path, &output->digest, &file);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_file_sig sig;
    status = lq_atomic_file_commit(file, &sig, &job->err);
    if (status == LQ_OK && !lq_remember_add(job, place->path, "plain", &sig, &output->digest)) {
        status = lq_error_nomem(&job->err, place->path);
    }
    return status;
}

void lq_place_perform(struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    struct lq_node *node = job->node;
    lq_error_clear(&job->err);
    job->status = LQ_OK;
    for (size_t i = 0; i < node->place_count && job->status == LQ_OK; i++) {
        if (!is_current(job->build, node, &node->places[i])) {
            job->status = place_one(job, &node->places[i]);
        }
    }
}

void lq_place_forget(struct lq_node *node)
{
    for (size_t i = 0; i < node->place_count; i++) {
        lq_atomic_file_abort(node->places[i].ready);
        node->places[i].ready = NULL;
    }
}

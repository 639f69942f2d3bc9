#include <stdlib.h>
#include <string.h>

#include "cache/bundle.h"
#include "cache/layout.h"
#include "cache/result.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum { STEP_BYTES = 1 << 20 };

struct bundle {
    struct lq_cache *cache;
    FILE *stream;
    const char *path;
    struct lq_buffer head;
    struct lq_arena arena;
    struct lq_lines lines;
    struct lq_error *err;
    const char *results; /* where they begin, and how many */
    uint64_t result_count;
    const char *blobs;
    uint64_t blob_count;
    const char *objects;
    uint64_t object_count;
};

static enum lq_status damaged(struct bundle *b, const char *why)
{
    return lq_error_set(b->err, LQ_EFORMAT, "%s: not a bundle of lqbuild, or damaged: %s", b->path,
                        why);
}

static enum lq_status read_exactly(struct bundle *b, void *out, size_t size_bytes)
{
    if (fread(out, 1, size_bytes, b->stream) == size_bytes) {
        return LQ_OK;
    }
    return ferror(b->stream) ? lq_error_errno(b->err, LQ_EIO, "%s: cannot read", b->path)
                             : damaged(b, "it ends too early");
}

/* ---- the head ---- */

/* Memory grows with what is really there, not with what the file claims. */
static enum lq_status read_head(struct bundle *b)
{
    unsigned char front[16];
    struct lq_reader reader;
    enum lq_status status = read_exactly(b, front, sizeof front);
    if (status != LQ_OK) {
        return status;
    }
    lq_reader_init(&reader, front + 8, 8);
    uint64_t left = lq_read_u64(&reader);
    if (memcmp(front, "LQBUNDL1", 8) != 0) {
        return damaged(b, "it does not begin as a bundle of version 1");
    }
    if (left > LQ_BUNDLE_HEAD_BYTES_MAX) {
        return damaged(b, "its head is too large");
    }
    while (left > 0 && status == LQ_OK) {
        size_t step = left < STEP_BYTES ? (size_t)left : STEP_BYTES;
        void *room = lq_buffer_extend(&b->head, step);
        status = room == NULL ? lq_error_nomem(b->err, "a bundle") : read_exactly(b, room, step);
        left -= step;
    }
    return status;
}

static bool read_count(struct bundle *b, const char *word, uint64_t *count)
{
    const char *line = NULL;
    size_t length = 0;
    return lq_lines_next(&b->lines, &line, &length) && lq_line_word(&line, &length, word) &&
           lq_line_number(&line, &length, count) && length == 0 && *count <= LQ_BUNDLE_ENTRIES_MAX;
}

/* One "blob" line and the layout behind it. */
static enum lq_status next_blob(struct bundle *b, struct lq_digest *digest,
                                struct lq_layout *layout, const char **why)
{
    const char *line = NULL;
    size_t length = 0;
    uint64_t text_bytes = 0;
    *why = "the layout of a blob is malformed";
    *layout = (struct lq_layout){.pieces = NULL};
    if (!lq_lines_next(&b->lines, &line, &length) || !lq_line_word(&line, &length, "blob") ||
        !lq_line_digest(&line, &length, digest) || !lq_line_number(&line, &length, &text_bytes) ||
        length != 0 || text_bytes > (uint64_t)(b->lines.end - b->lines.at)) {
        return LQ_OK;
    }
    enum lq_status status = lq_layout_decode(b->lines.at, (size_t)text_bytes, layout, why, b->err);
    b->lines.at += text_bytes;
    return status;
}

static enum lq_status next_result(struct bundle *b, struct lq_arena *arena,
                                  struct lq_result *result, const char **why)
{
    enum lq_status status = lq_result_decode(b->lines.at, (size_t)(b->lines.end - b->lines.at),
                                             arena, result, why, b->err);
    if (status == LQ_OK && *why == NULL && result->signed_bytes != result->size_bytes) {
        *why = "a result has a signature of its own";
    }
    b->lines.at += status == LQ_OK && *why == NULL ? result->size_bytes : 0;
    return status;
}

static bool next_object(struct bundle *b, struct lq_digest *digest, uint64_t *size_bytes)
{
    const char *line = NULL;
    size_t length = 0;
    return lq_lines_next(&b->lines, &line, &length) && lq_line_word(&line, &length, "object") &&
           lq_line_digest(&line, &length, digest) && lq_line_number(&line, &length, size_bytes) &&
           length == 0;
}

/* Walks over everything once: nothing is taken from a head that is wrong anywhere. */
static enum lq_status check_head(struct bundle *b, size_t *signed_bytes)
{
    const char *line = NULL;
    size_t length = 0;
    enum lq_status status = LQ_OK;
    const char *why = NULL;
    b->lines = (struct lq_lines){.at = lq_buffer_text(&b->head),
                                 .end = lq_buffer_text(&b->head) + b->head.size_bytes};
    if (!lq_lines_next(&b->lines, &line, &length) ||
        !lq_line_word(&line, &length, "lqbuild bundle 1") || length != 0 ||
        !read_count(b, "results", &b->result_count)) {
        return damaged(b, "its head is malformed");
    }
    b->results = b->lines.at;
    for (uint64_t i = 0; i < b->result_count && status == LQ_OK && why == NULL; i++) {
        struct lq_arena arena;
        struct lq_result result;
        lq_arena_init(&arena);
        status = next_result(b, &arena, &result, &why);
        lq_arena_fini(&arena);
    }
    if (status == LQ_OK && why == NULL && !read_count(b, "blobs", &b->blob_count)) {
        why = "its number of blobs is malformed";
    }
    b->blobs = b->lines.at;
    for (uint64_t i = 0; i < b->blob_count && status == LQ_OK && why == NULL; i++) {
        struct lq_digest digest;
        struct lq_layout layout;
        status = next_blob(b, &digest, &layout, &why);
        lq_layout_fini(&layout);
    }
    if (status == LQ_OK && why == NULL && !read_count(b, "objects", &b->object_count)) {
        why = "its number of objects is malformed";
    }
    b->objects = b->lines.at;
    for (uint64_t i = 0; i < b->object_count && status == LQ_OK && why == NULL; i++) {
        struct lq_digest digest;
        uint64_t size_bytes = 0;
        why = next_object(b, &digest, &size_bytes) ? NULL : "an object is malformed";
    }
    *signed_bytes = (size_t)(b->lines.at - lq_buffer_text(&b->head));
    return status == LQ_OK && why != NULL ? damaged(b, why) : status;
}

static enum lq_status check_signature(struct bundle *b, const struct lq_keyring *ring,
                                      bool trust_unsigned, size_t signed_bytes,
                                      struct lq_bundle_counts *counts)
{
    const struct lq_result whole = {.signed_bytes = signed_bytes, .size_bytes = b->head.size_bytes};
    enum lq_trust trust = lq_result_check(b->head.data, &whole, ring, counts->signer);
    if (trust == LQ_TRUSTED || (trust == LQ_UNKNOWN_SIGNER && trust_unsigned)) {
        return LQ_OK;
    }
    if (trust == LQ_WRONG_SIGNATURE) {
        return lq_error_set(b->err, LQ_EAUTH, "%s: the signature is not that of '%s'", b->path,
                            counts->signer);
    }
    if (counts->signer[0] == '\0') {
        return lq_error_set(b->err, LQ_EAUTH,
                            "%s: nobody has signed it; --trust-unsigned takes it all the same",
                            b->path);
    }
    return lq_error_set(b->err, LQ_EAUTH,
                        "%s: signed by '%s', whom you do not trust; 'lqbuild key trust' takes the "
                        "key of somebody you know, --trust-unsigned takes this file",
                        b->path, counts->signer);
}

/* ---- taking it ---- */

static enum lq_status take_object(struct bundle *b, const struct lq_digest *digest,
                                  uint64_t size_bytes, unsigned char *bytes)
{
    struct lq_blob_writer *writer = NULL;
    bool same = false;
    enum lq_status status = lq_blob_begin(b->cache, &writer, b->err);
    while (size_bytes > 0 && status == LQ_OK) {
        size_t step = size_bytes < STEP_BYTES ? (size_t)size_bytes : STEP_BYTES;
        status = read_exactly(b, bytes, step);
        if (status == LQ_OK) {
            status = lq_blob_write(writer, bytes, step, b->err);
        }
        size_bytes -= step;
    }
    if (status != LQ_OK) {
        lq_blob_abort(writer);
        return status;
    }
    status = lq_blob_commit_as(writer, digest, &same, b->err);
    return status == LQ_OK && !same ? damaged(b, "bytes do not have their digest") : status;
}

static enum lq_status take_objects(struct bundle *b, uint64_t *taken_bytes)
{
    unsigned char *bytes = malloc(STEP_BYTES);
    enum lq_status status = bytes == NULL ? lq_error_nomem(b->err, "a bundle") : LQ_OK;
    b->lines.at = b->objects;
    for (uint64_t i = 0; i < b->object_count && status == LQ_OK; i++) {
        struct lq_digest digest;
        uint64_t size_bytes = 0;
        (void)next_object(b, &digest, &size_bytes);
        status = take_object(b, &digest, size_bytes, bytes);
        *taken_bytes += size_bytes;
    }
    free(bytes);
    if (status == LQ_OK && fgetc(b->stream) != EOF) {
        status = damaged(b, "something stands behind its end");
    }
    return status;
}

static enum lq_status take_blobs(struct bundle *b)
{
    enum lq_status status = LQ_OK;
    b->lines.at = b->blobs;
    for (uint64_t i = 0; i < b->blob_count && status == LQ_OK; i++) {
        struct lq_digest digest;
        struct lq_layout layout;
        const char *why = NULL;
        bool good = false;
        status = next_blob(b, &digest, &layout, &why);
        if (status == LQ_OK && why == NULL) {
            status = lq_layout_assemble(b->cache, &layout, &digest, NULL, &good, b->err);
        }
        if (status == LQ_OK && !good) {
            status = damaged(b, "the pieces of a blob do not add up to it");
        }
        lq_layout_fini(&layout);
    }
    return status;
}

static enum lq_status take_results(struct bundle *b)
{
    enum lq_status status = LQ_OK;
    b->lines.at = b->results;
    for (uint64_t i = 0; i < b->result_count && status == LQ_OK; i++) {
        struct lq_arena arena;
        struct lq_result result;
        const char *why = NULL;
        lq_arena_init(&arena);
        status = next_result(b, &arena, &result, &why);
        if (status == LQ_OK && why == NULL) {
            status = lq_action_put(b->cache, &result.key, &result.record, NULL, NULL, b->err);
        }
        lq_arena_fini(&arena);
    }
    return status;
}

enum lq_status lq_bundle_read_stream(struct lq_cache *cache, FILE *stream, const char *path,
                                     const struct lq_keyring *ring, bool trust_unsigned,
                                     struct lq_bundle_counts *counts, struct lq_error *err)
{
    struct lq_error own;
    struct bundle b = {
        .cache = cache, .stream = stream, .path = path, .err = err == NULL ? &own : err};
    size_t signed_bytes = 0;
    *counts = (struct lq_bundle_counts){.results = 0};
    lq_buffer_init(&b.head);
    enum lq_status status = read_head(&b);
    if (status == LQ_OK) {
        status = check_head(&b, &signed_bytes);
    }
    if (status == LQ_OK) {
        status = check_signature(&b, ring, trust_unsigned, signed_bytes, counts);
    }
    if (status == LQ_OK) {
        counts->size_bytes = 16 + b.head.size_bytes;
        status = take_objects(&b, &counts->size_bytes);
    }
    if (status == LQ_OK) {
        status = take_blobs(&b);
    }
    if (status == LQ_OK) {
        status = take_results(&b);
    }
    counts->results = b.result_count;
    counts->objects = b.object_count;
    lq_buffer_fini(&b.head);
    return status;
}

enum lq_status lq_bundle_read(struct lq_cache *cache, const char *path,
                              const struct lq_keyring *ring, bool trust_unsigned,
                              struct lq_bundle_counts *counts, struct lq_error *err)
{
    FILE *stream = fopen(path, "rbe");
    if (stream == NULL) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot open", path);
    }
    enum lq_status status =
        lq_bundle_read_stream(cache, stream, path, ring, trust_unsigned, counts, err);
    (void)fclose(stream);
    return status;
}

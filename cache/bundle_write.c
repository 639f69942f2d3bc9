#include <stdlib.h>
#include <string.h>

#include "cache/bundle.h"
#include "cache/digest_set.h"
#include "cache/layout.h"
#include "cache/result.h"
#include "engine/base/fs.h"

enum { PIECE_BYTES = 1 << 20 };

/* The next bytes behind the head: a piece of a stored blob. */
struct piece {
    struct lq_digest digest;
    struct lq_digest blob;
    uint64_t offset;
    uint64_t size_bytes;
};

struct writer {
    struct lq_cache *cache;
    struct lq_digest_set keys;
    struct lq_digest_set blobs;
    struct lq_digest_set objects;
    struct lq_buffer results;
    struct lq_buffer layouts;
    size_t result_count;
    size_t layout_count;
    struct piece *pieces;
    size_t piece_count;
    size_t piece_capacity;
};

/* *added is false for what was there already. */
static enum lq_status add_once(struct lq_digest_set *set, const struct lq_digest *digest,
                               bool *added, struct lq_error *err)
{
    *added = false;
    return lq_digest_set_add(set, digest, added) ? LQ_OK : lq_error_nomem(err, "a bundle");
}

static enum lq_status add_piece(struct writer *w, const struct piece *piece, struct lq_error *err)
{
    bool added = false;
    enum lq_status status = add_once(&w->objects, &piece->digest, &added, err);
    if (!added) {
        return status;
    }
    if (w->piece_count == w->piece_capacity) {
        size_t capacity = w->piece_capacity == 0 ? 64 : w->piece_capacity * 2;
        struct piece *grown = realloc(w->pieces, capacity * sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(err, "a bundle");
        }
        w->pieces = grown;
        w->piece_capacity = capacity;
    }
    w->pieces[w->piece_count++] = *piece;
    return LQ_OK;
}

static enum lq_status add_blob(struct writer *w, const struct lq_digest *digest,
                               uint64_t size_bytes, struct lq_error *err)
{
    struct lq_layout layout = {.pieces = NULL};
    struct piece piece = {.digest = *digest, .blob = *digest, .size_bytes = size_bytes};
    bool added = false;
    enum lq_status status = add_once(&w->blobs, digest, &added, err);
    if (!added) {
        return status;
    }
    status = lq_layout_make(w->cache, digest, &layout, err);
    if (status == LQ_OK && layout.piece_count == 0) {
        status = add_piece(w, &piece, err);
    }
    for (size_t i = 0; status == LQ_OK && i < layout.piece_count; i++) {
        if (layout.pieces[i].object_count == 0) {
            piece.digest = layout.pieces[i].digest;
            piece.offset = layout.pieces[i].offset;
            piece.size_bytes = layout.pieces[i].size_bytes;
            status = add_piece(w, &piece, err);
        }
    }
    if (status == LQ_OK && layout.piece_count > 0) {
        struct lq_buffer text;
        char hex[LQ_DIGEST_HEX_BYTES];
        lq_buffer_init(&text);
        lq_layout_encode(&layout, &text);
        lq_buffer_printf(&w->layouts, "blob %s %zu\n", lq_digest_to_hex(digest, hex),
                         text.size_bytes);
        lq_buffer_append(&w->layouts, text.data, text.size_bytes);
        w->layouts.failed = w->layouts.failed || text.failed;
        w->layout_count++;
        lq_buffer_fini(&text);
    }
    lq_layout_fini(&layout);
    return status;
}

static enum lq_status add_result(struct writer *w, const struct lq_digest *key,
                                 struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_action_record record;
    bool found = false;
    bool added = false;
    enum lq_status status = add_once(&w->keys, key, &added, err);
    if (!added) {
        return status;
    }
    lq_arena_init(&arena);
    status = lq_action_get(w->cache, key, &arena, &record, &found, err);
    if (status == LQ_OK && !found) {
        status = lq_error_set(err, LQ_ECACHE, "a result is no longer in the cache; build again");
    }
    if (status == LQ_OK) {
        lq_result_encode(key, &record, NULL, &w->results);
        w->result_count++;
    }
    for (size_t i = 0; status == LQ_OK && i < record.output_count; i++) {
        const struct lq_action_output *output = &record.outputs[i];
        uint64_t stored_bytes = 0;
        if (!output->transient && lq_blob_exists(w->cache, &output->digest, &stored_bytes)) {
            status = add_blob(w, &output->digest, output->size_bytes, err);
        }
    }
    lq_arena_fini(&arena);
    return status;
}

static enum lq_status make_head(struct writer *w, const struct lq_secret_key *key,
                                struct lq_buffer *head, struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_buffer_printf(head, "lqbuild bundle 1\nresults %zu\n", w->result_count);
    lq_buffer_append(head, w->results.data, w->results.size_bytes);
    lq_buffer_printf(head, "blobs %zu\n", w->layout_count);
    lq_buffer_append(head, w->layouts.data, w->layouts.size_bytes);
    lq_buffer_printf(head, "objects %zu\n", w->piece_count);
    for (size_t i = 0; i < w->piece_count; i++) {
        lq_buffer_printf(head, "object %s %llu\n", lq_digest_to_hex(&w->pieces[i].digest, hex),
                         (unsigned long long)w->pieces[i].size_bytes);
    }
    if (head->failed || w->results.failed || w->layouts.failed) {
        return lq_error_nomem(err, "the head of a bundle");
    }
    return key == NULL ? LQ_OK : lq_result_sign(head, 0, key, err);
}

/* Damage in the cache must not travel. */
static enum lq_status write_piece(struct writer *w, const struct piece *piece,
                                  struct lq_atomic_file *file, unsigned char *bytes,
                                  struct lq_hasher *hasher, struct lq_error *err)
{
    struct lq_blob_reader *reader = NULL;
    struct lq_digest got;
    enum lq_status status = lq_blob_open(w->cache, &piece->blob, false, &reader, err);
    if (status == LQ_OK && reader == NULL) {
        status = lq_error_set(err, LQ_ECACHE, "a blob is no longer in the cache; build again");
    }
    for (uint64_t at = 0; status == LQ_OK && at < piece->size_bytes; at += PIECE_BYTES) {
        uint64_t left = piece->size_bytes - at;
        size_t step = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        status = lq_blob_read(reader, piece->offset + at, bytes, step, err);
        if (status == LQ_OK) {
            lq_hasher_update(hasher, bytes, step);
            status = lq_atomic_file_write(file, bytes, step, err);
        }
    }
    lq_hasher_finish(hasher, &got);
    if (status == LQ_OK && !lq_digest_equal(&got, &piece->digest)) {
        status = lq_error_set(err, LQ_ECACHE, "a blob of the cache is damaged; build again");
    }
    lq_blob_close(reader);
    return status;
}

static enum lq_status write_file(struct writer *w, const struct lq_buffer *head, const char *path,
                                 struct lq_error *err)
{
    struct lq_atomic_file *file = NULL;
    struct lq_buffer front;
    struct lq_hasher *hasher = lq_hasher_create();
    unsigned char *bytes = malloc(PIECE_BYTES);
    lq_buffer_init(&front);
    lq_buffer_append(&front, "LQBUNDL1", 8);
    lq_buffer_append_u64(&front, head->size_bytes);
    enum lq_status status = hasher == NULL || bytes == NULL || front.failed
                                ? lq_error_nomem(err, "a bundle")
                                : lq_atomic_file_begin(&file, path, err);
    if (status == LQ_OK) {
        status = lq_atomic_file_write(file, front.data, front.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_atomic_file_write(file, head->data, head->size_bytes, err);
    }
    for (size_t i = 0; status == LQ_OK && i < w->piece_count; i++) {
        status = write_piece(w, &w->pieces[i], file, bytes, hasher, err);
    }
    if (status == LQ_OK) {
        status = lq_atomic_file_commit(file, NULL, err);
    } else if (file != NULL) {
        lq_atomic_file_abort(file);
    }
    lq_buffer_fini(&front);
    free(bytes);
    lq_hasher_destroy(hasher);
    return status;
}

enum lq_status lq_bundle_write(struct lq_cache *cache, const struct lq_digest *keys, size_t count,
                               const struct lq_secret_key *key, const char *path,
                               struct lq_bundle_counts *counts, struct lq_error *err)
{
    struct writer w = {.cache = cache};
    struct lq_buffer head;
    enum lq_status status = LQ_OK;
    *counts = (struct lq_bundle_counts){.results = 0};
    lq_buffer_init(&w.results);
    lq_buffer_init(&w.layouts);
    lq_buffer_init(&head);
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        status = add_result(&w, &keys[i], err);
    }
    if (status == LQ_OK) {
        status = make_head(&w, key, &head, err);
    }
    if (status == LQ_OK) {
        status = write_file(&w, &head, path, err);
    }
    counts->results = w.result_count;
    counts->objects = w.piece_count;
    counts->size_bytes = 16 + head.size_bytes;
    for (size_t i = 0; i < w.piece_count; i++) {
        counts->size_bytes += w.pieces[i].size_bytes;
    }
    if (key != NULL) {
        memcpy(counts->signer, key->public_key.name, sizeof counts->signer);
    }
    free(w.pieces);
    lq_buffer_fini(&w.results);
    lq_buffer_fini(&w.layouts);
    lq_buffer_fini(&head);
    lq_digest_set_fini(&w.keys);
    lq_digest_set_fini(&w.blobs);
    lq_digest_set_fini(&w.objects);
    return status;
}

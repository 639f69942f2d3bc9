#include "cache/layout.h"

#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/result.h"
#include "engine/base/checked.h"
#include "engine/base/limits.h"

void lq_layout_fini(struct lq_layout *layout)
{
    free(layout->pieces);
    *layout = (struct lq_layout){.pieces = NULL};
}

static struct lq_layout_piece *add_piece(struct lq_layout *layout, struct lq_error *err)
{
    if (layout->piece_count == layout->capacity) {
        size_t capacity = layout->capacity == 0 ? 16 : layout->capacity * 2;
        struct lq_layout_piece *grown = realloc(layout->pieces, capacity * sizeof *grown);
        if (grown == NULL) {
            (void)lq_error_nomem(err, "the layout of a blob");
            return NULL;
        }
        layout->pieces = grown;
        layout->capacity = capacity;
    }
    struct lq_layout_piece *piece = &layout->pieces[layout->piece_count++];
    memset(piece, 0, sizeof *piece);
    return piece;
}

/* ---- cutting ---- */

struct cutter {
    struct lq_blob_reader *reader;
    struct lq_hasher *hasher;
    unsigned char *bytes;
    struct lq_layout *layout;
};

static enum lq_status hash_range(struct cutter *cutter, uint64_t offset, uint64_t size_bytes,
                                 struct lq_digest *digest, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    while (size_bytes > 0 && status == LQ_OK) {
        size_t step = size_bytes < LQ_CHUNK_BYTES ? (size_t)size_bytes : LQ_CHUNK_BYTES;
        status = lq_blob_read(cutter->reader, offset, cutter->bytes, step, err);
        lq_hasher_update(cutter->hasher, cutter->bytes, status == LQ_OK ? step : 0);
        offset += step;
        size_bytes -= step;
    }
    lq_hasher_finish(cutter->hasher, digest);
    return status;
}

/* Objects for a run of bytes; `*count` tells how many. */
static enum lq_status cut_run(struct cutter *cutter, uint64_t offset, uint64_t size_bytes,
                              uint32_t *count, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    *count = 0;
    while (size_bytes > 0 && status == LQ_OK) {
        uint64_t step = size_bytes < LQ_OBJECT_BYTES_MAX ? size_bytes : LQ_OBJECT_BYTES_MAX;
        struct lq_layout_piece *piece = add_piece(cutter->layout, err);
        if (piece == NULL) {
            return LQ_ENOMEM;
        }
        piece->offset = offset;
        piece->size_bytes = step;
        struct lq_digest digest;
        status = hash_range(cutter, offset, step, &digest, err);
        piece->digest = digest;
        offset += step;
        size_bytes -= step;
        (*count)++;
    }
    return status;
}

static enum lq_status cut_part(struct cutter *cutter, const struct lq_blob_part *part,
                               uint64_t offset, struct lq_error *err)
{
    size_t index = cutter->layout->piece_count;
    struct lq_layout_piece *piece = add_piece(cutter->layout, err);
    if (piece == NULL) {
        return LQ_ENOMEM;
    }
    piece->digest = part->digest;
    piece->offset = offset;
    piece->size_bytes = part->size_bytes;
    if (part->size_bytes <= LQ_OBJECT_BYTES_MAX) {
        return LQ_OK;
    }
    uint32_t count = 0;
    enum lq_status status = cut_run(cutter, offset, part->size_bytes, &count, err);
    cutter->layout->pieces[index].object_count = count;
    return status;
}

static bool stands_alone(const struct lq_blob_part *part)
{
    return !lq_digest_is_zero(&part->digest) && part->size_bytes >= LQ_LAYOUT_PART_BYTES_MIN;
}

static enum lq_status cut_all(struct cutter *cutter, const struct lq_blob_part *parts,
                              uint32_t part_count, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    uint64_t offset = 0;
    uint64_t run = 0; /* bytes before `offset` that wait for their object */
    uint32_t count = 0;
    for (uint32_t i = 0; i < part_count && status == LQ_OK; i++) {
        if (stands_alone(&parts[i])) {
            status = cut_run(cutter, offset - run, run, &count, err);
            run = 0;
            if (status == LQ_OK) {
                status = cut_part(cutter, &parts[i], offset, err);
            }
        } else {
            run += parts[i].size_bytes;
        }
        offset += parts[i].size_bytes;
    }
    return status == LQ_OK ? cut_run(cutter, offset - run, run, &count, err) : status;
}

enum lq_status lq_layout_make(struct lq_cache *cache, const struct lq_digest *digest,
                              struct lq_layout *out, struct lq_error *err)
{
    struct cutter cutter = {.layout = out};
    struct lq_blob_part *parts = NULL;
    uint32_t part_count = 0;
    *out = (struct lq_layout){.pieces = NULL};
    enum lq_status status = lq_blob_open(cache, digest, false, &cutter.reader, err);
    if (status == LQ_OK && cutter.reader == NULL) {
        status = lq_error_set(err, LQ_ECACHE, "a blob is no longer in the cache");
    }
    if (status == LQ_OK) {
        out->size_bytes = lq_blob_size(cutter.reader);
        status = lq_blob_parts_get(cutter.reader, &parts, &part_count, err);
    }
    bool apart = false;
    for (uint32_t i = 0; status == LQ_OK && part_count > 1 && i < part_count; i++) {
        apart = apart || stands_alone(&parts[i]);
    }
    if (status == LQ_OK && (apart || out->size_bytes > LQ_OBJECT_BYTES_MAX)) {
        cutter.hasher = lq_hasher_create();
        cutter.bytes = malloc(LQ_CHUNK_BYTES);
        uint32_t count = 0;
        status = cutter.hasher == NULL || cutter.bytes == NULL ? lq_error_nomem(err, "a layout")
                 : apart ? cut_all(&cutter, parts, part_count, err)
                         : cut_run(&cutter, 0, out->size_bytes, &count, err);
    }
    free(parts);
    free(cutter.bytes);
    lq_hasher_destroy(cutter.hasher);
    lq_blob_close(cutter.reader);
    if (status != LQ_OK) {
        lq_layout_fini(out);
    }
    return status;
}

/* ---- text ---- */

void lq_layout_encode(const struct lq_layout *layout, struct lq_buffer *out)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_buffer_printf(out, "lqbuild layout 1\nsize %llu\n", (unsigned long long)layout->size_bytes);
    for (size_t i = 0; i < layout->piece_count; i++) {
        const struct lq_layout_piece *piece = &layout->pieces[i];
        lq_digest_to_hex(&piece->digest, hex);
        if (piece->object_count > 0) {
            lq_buffer_printf(out, "split %s %llu %u\n", hex, (unsigned long long)piece->size_bytes,
                             piece->object_count);
        } else {
            lq_buffer_printf(out, "object %s %llu\n", hex, (unsigned long long)piece->size_bytes);
        }
    }
}

struct checker {
    uint64_t offset;
    uint64_t split_left; /* objects and bytes that the open split still needs */
    uint64_t split_bytes;
};

static const char *check_piece(struct checker *checker, struct lq_layout_piece *piece,
                               bool is_split, uint64_t size_max)
{
    piece->offset = checker->offset;
    if (piece->size_bytes == 0 || piece->size_bytes > size_max - checker->offset) {
        return "a piece lies outside the blob";
    }
    if (is_split) {
        if (checker->split_left > 0 || piece->object_count == 0) {
            return "a split part is malformed";
        }
        checker->split_left = piece->object_count;
        checker->split_bytes = piece->size_bytes;
        return NULL;
    }
    if (piece->size_bytes > LQ_OBJECT_BYTES_MAX) {
        return "an object is too large";
    }
    checker->offset += piece->size_bytes;
    if (checker->split_left == 0) {
        return NULL;
    }
    checker->split_left--;
    bool fits = piece->size_bytes <= checker->split_bytes;
    checker->split_bytes -= fits ? piece->size_bytes : 0;
    bool over = checker->split_left == 0;
    return fits && over == (checker->split_bytes == 0) ? NULL : "a split part is not its objects";
}

static const char *decode_piece(const char *line, size_t length, struct checker *checker,
                                struct lq_layout_piece *piece, uint64_t size_max)
{
    bool is_split = lq_line_word(&line, &length, "split");
    uint64_t count = 0;
    if ((!is_split && !lq_line_word(&line, &length, "object")) ||
        !lq_line_digest(&line, &length, &piece->digest) ||
        !lq_line_number(&line, &length, &piece->size_bytes) ||
        (is_split && !lq_line_number(&line, &length, &count)) || length != 0 ||
        count > LQ_BLOB_PARTS_MAX) {
        return "a line is malformed";
    }
    piece->object_count = (uint32_t)count;
    return check_piece(checker, piece, is_split, size_max);
}

enum lq_status lq_layout_decode(const void *text, size_t size_bytes, struct lq_layout *out,
                                const char **why, struct lq_error *err)
{
    struct lq_lines lines = {.at = text, .end = (const char *)text + size_bytes};
    struct checker checker = {.offset = 0};
    const char *line = NULL;
    size_t length = 0;
    *out = (struct lq_layout){.pieces = NULL};
    *why = NULL;
    if (!lq_lines_next(&lines, &line, &length) ||
        !lq_line_word(&line, &length, "lqbuild layout 1") || length != 0 ||
        !lq_lines_next(&lines, &line, &length) || !lq_line_word(&line, &length, "size") ||
        !lq_line_number(&line, &length, &out->size_bytes) || length != 0) {
        *why = "it does not begin as a layout of version 1";
        return LQ_OK;
    }
    while (*why == NULL && lq_lines_next(&lines, &line, &length)) {
        struct lq_layout_piece *piece = add_piece(out, err);
        if (piece == NULL) {
            lq_layout_fini(out);
            return LQ_ENOMEM;
        }
        *why = out->piece_count > LQ_BLOB_PARTS_MAX
                   ? "it has too many pieces"
                   : decode_piece(line, length, &checker, piece, out->size_bytes);
    }
    if (*why == NULL && (lines.at != lines.end || checker.offset != out->size_bytes ||
                         checker.split_left > 0 || out->piece_count == 0)) {
        *why = "its pieces do not add up to the blob";
    }
    if (*why != NULL) {
        lq_layout_fini(out);
    }
    return LQ_OK;
}

/* ---- putting together ---- */

/* Appends a piece; *gone when the cache does not have it in full. */
static enum lq_status append_piece(struct lq_cache *cache, struct lq_blob_writer *writer,
                                   const struct lq_layout_piece *piece, bool *gone,
                                   struct lq_error *err)
{
    uint64_t stored_bytes = 0;
    *gone =
        !lq_blob_exists(cache, &piece->digest, &stored_bytes) || stored_bytes != piece->size_bytes;
    if (*gone) {
        return LQ_OK;
    }
    enum lq_status status = lq_blob_write_blob(writer, &piece->digest, err);
    *gone = status == LQ_ECACHE;
    return *gone ? LQ_OK : status;
}

enum lq_status lq_layout_assemble(struct lq_cache *cache, const struct lq_layout *layout,
                                  const struct lq_digest *digest, const atomic_bool *cancel,
                                  bool *good, struct lq_error *err)
{
    struct lq_blob_writer *writer = NULL;
    enum lq_status status = lq_blob_begin(cache, &writer, err);
    bool gone = false;
    *good = false;
    for (size_t i = 0; i < layout->piece_count && status == LQ_OK && !gone; i++) {
        const struct lq_layout_piece *piece = &layout->pieces[i];
        uint64_t stored_bytes = 0;
        bool whole = lq_blob_exists(cache, &piece->digest, &stored_bytes);
        if (piece->object_count > 0 && !whole) {
            continue; /* its objects follow */
        }
        status = cancel != NULL && atomic_load(cancel)
                     ? lq_error_set(err, LQ_ECANCELLED, "cancelled")
                     : append_piece(cache, writer, piece, &gone, err);
        i += piece->object_count;
    }
    if (status != LQ_OK || gone) {
        lq_blob_abort(writer);
        return status;
    }
    return lq_blob_commit_as(writer, digest, good, err);
}

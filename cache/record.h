/* Records: how what the cache knows is laid out in bytes, little-endian, and taken apart again
 * with bounds checks. Every record ends with a seal: the first 8 bytes of SHA-256 over a letter
 * for its kind, its key and its payload, so that a record that was altered, or stored under
 * another key, does not decode. docs/cache-format.md has the layouts. Thread rule: pure functions.
 * Limits: engine/base/limits.h. */
#ifndef LQ_CACHE_RECORD_H
#define LQ_CACHE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "engine/base/buffer.h"

enum { LQ_SEAL_BYTES = 8 };

enum lq_record_kind {
    LQ_RECORD_BLOB = 'b',
    LQ_RECORD_ACTION = 'a',
    LQ_RECORD_FILE = 'f',
    LQ_RECORD_HISTORY = 'h',
    LQ_RECORD_PIN = 'p',
};

/* Appends the seal. */
void lq_record_seal(enum lq_record_kind kind, const void *key, size_t key_bytes,
                    struct lq_buffer *buffer);
/* Checks the seal; *payload_bytes is the size without it. */
bool lq_record_unseal(enum lq_record_kind kind, const void *key, size_t key_bytes,
                      const void *record, size_t record_bytes, size_t *payload_bytes);

enum lq_blob_kind { LQ_BLOB_CHUNKS = 1, LQ_BLOB_JOINED = 2, LQ_BLOB_SMALL = 3, LQ_BLOB_PLACED = 4 };

/* One piece of a concatenation: the next `size_bytes` of another blob (all of it), or with an
 * all-zero digest of the blob's own chunks. */
struct lq_blob_part {
    struct lq_digest digest;
    uint64_t size_bytes;
};

struct lq_blob_record {
    enum lq_blob_kind kind;
    uint64_t size_bytes;
    uint64_t id;               /* of its own chunks; 0 when it has none */
    uint64_t stored_bytes;     /* in its own chunks */
    uint32_t chunk_bytes;      /* of every chunk but the last */
    uint32_t chunk_count;      /* follows from the two above */
    uint32_t part_count;       /* joined */
    const void *parts;         /* joined: packed; see lq_blob_record_part; borrowed */
    const unsigned char *data; /* small: the content; borrowed */
    const char *path;          /* placed: an absolute path, without a NUL behind it; borrowed */
    uint32_t path_bytes;
    struct lq_file_sig sig; /* placed: of the file at the path, which has size_bytes */
};

/* `parts` holds `part_count` parts (joined), `data` the content (small), `path` and `sig` say where
 * it is (placed). */
void lq_blob_record_encode(const struct lq_digest *digest, const struct lq_blob_record *record,
                           const struct lq_blob_part *parts, struct lq_buffer *out);
/* False when it is malformed: then `why` says how. The result borrows from `bytes`. */
bool lq_blob_record_decode(const struct lq_digest *digest, const void *bytes, size_t size_bytes,
                           struct lq_blob_record *out, const char **why);
void lq_blob_record_part(const struct lq_blob_record *record, uint32_t index,
                         struct lq_blob_part *part);
/* All parts, on the heap; NULL when there are none. */
enum lq_status lq_blob_record_parts(const struct lq_blob_record *record,
                                    struct lq_blob_part **parts, struct lq_error *err);
/* Bytes in one chunk of the blob's own. */
size_t lq_blob_record_chunk(const struct lq_blob_record *record, uint32_t index);

/* LQ_EINTERNAL when a field is over its limit. */
enum lq_status lq_action_record_encode(const struct lq_digest *key,
                                       const struct lq_action_record *record, struct lq_buffer *out,
                                       struct lq_error *err);
/* *why is NULL when it decoded; LQ_ENOMEM is the only error. Strings live in the arena. */
enum lq_status lq_action_record_decode(const struct lq_digest *key, const void *bytes,
                                       size_t size_bytes, struct lq_arena *arena,
                                       struct lq_action_record *out, const char **why,
                                       struct lq_error *err);

#endif

/* SHA-256 digests: names of everything lqbuild stores. Computed by OpenSSL's libcrypto, which uses
 * SHA-NI where the CPU has it. Thread rule: a hasher belongs to one thread; the rest is pure. */
#ifndef LQ_BASE_DIGEST_H
#define LQ_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

enum { LQ_DIGEST_BYTES = 32, LQ_DIGEST_HEX_BYTES = 65 };

struct lq_digest {
    uint8_t bytes[LQ_DIGEST_BYTES];
};

struct lq_hasher;

/* A new SHA-256 computation; NULL when memory is out. */
struct lq_hasher *lq_hasher_create(void);
void lq_hasher_destroy(struct lq_hasher *hasher);
void lq_hasher_update(struct lq_hasher *hasher, const void *data, size_t size_bytes);
/* Writes the digest of all bytes so far and starts anew. */
void lq_hasher_finish(struct lq_hasher *hasher, struct lq_digest *digest);

/* The digest of one piece of memory. */
void lq_digest_of(const void *data, size_t size_bytes, struct lq_digest *digest);
/* The same for pieces that follow one another. */
struct lq_digest_piece {
    const void *data;
    size_t size_bytes;
};
void lq_digest_of_pieces(const struct lq_digest_piece *pieces, size_t count,
                         struct lq_digest *digest);
bool lq_digest_equal(const struct lq_digest *a, const struct lq_digest *b);
bool lq_digest_is_zero(const struct lq_digest *digest);
/* 64 lower-case hex digits and a NUL. Returns `hex`. */
char *lq_digest_to_hex(const struct lq_digest *digest, char hex[LQ_DIGEST_HEX_BYTES]);
/* Exactly 64 hex digits; false otherwise. `hex` need not end with NUL at `length`. */
bool lq_digest_from_hex(const char *hex, size_t length, struct lq_digest *digest);

#endif

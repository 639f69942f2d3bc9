/* SHA-1, because git names files by it and the Hugging Face hub does so for small ones. It proves
 * that a file is what was announced, not that nobody made another one with the same name: nothing
 * of lqbuild's own is called by it. Computed by OpenSSL's libcrypto. Thread rule: a computation
 * belongs to one thread. */
#ifndef LQ_BASE_SHA1_H
#define LQ_BASE_SHA1_H

#include <stddef.h>

enum { LQ_SHA1_BYTES = 20, LQ_SHA1_HEX_BYTES = 41 };

struct lq_sha1;

/* A new computation; NULL when memory is out. */
struct lq_sha1 *lq_sha1_create(void);
void lq_sha1_destroy(struct lq_sha1 *sha1);
void lq_sha1_update(struct lq_sha1 *sha1, const void *data, size_t size_bytes);
/* Writes 40 lower-case hex digits and a NUL, and starts anew. Returns `hex`. */
char *lq_sha1_finish(struct lq_sha1 *sha1, char hex[LQ_SHA1_HEX_BYTES]);

#endif

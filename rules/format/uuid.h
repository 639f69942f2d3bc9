/* Identifiers that are the same for the same content: UUIDs of version 8 (RFC 9562) made from a
 * SHA-256 digest instead of chance. Thread rule: pure, the caller owns the buffer. */
#ifndef LQ_RULES_FORMAT_UUID_H
#define LQ_RULES_FORMAT_UUID_H

#include "engine/base/digest.h"

enum { LQ_UUID_BYTES = 37 };

/* "xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx" and a NUL. Returns `out`. */
char *lq_uuid_of(const struct lq_digest *digest, char out[LQ_UUID_BYTES]);

#endif

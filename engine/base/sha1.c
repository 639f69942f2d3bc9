#include "engine/base/sha1.h"

#include <openssl/sha.h>
#include <stdlib.h>

/* See digest.c. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

struct lq_sha1 {
    SHA_CTX context;
};

struct lq_sha1 *lq_sha1_create(void)
{
    struct lq_sha1 *sha1 = malloc(sizeof *sha1);
    if (sha1 != NULL) {
        (void)SHA1_Init(&sha1->context);
    }
    return sha1;
}

void lq_sha1_destroy(struct lq_sha1 *sha1)
{
    free(sha1);
}

void lq_sha1_update(struct lq_sha1 *sha1, const void *data, size_t size_bytes)
{
    (void)SHA1_Update(&sha1->context, data, size_bytes);
}

char *lq_sha1_finish(struct lq_sha1 *sha1, char hex[LQ_SHA1_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[LQ_SHA1_BYTES];
    (void)SHA1_Final(bytes, &sha1->context);
    (void)SHA1_Init(&sha1->context);
    for (size_t i = 0; i < LQ_SHA1_BYTES; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[LQ_SHA1_HEX_BYTES - 1] = '\0';
    return hex;
}

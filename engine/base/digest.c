#include "engine/base/digest.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

/* The one-shot and streaming SHA256_* calls are marked as deprecated in OpenSSL 3, but they are the
 * ones that cost no provider fetch: 10 microseconds a digest matters when a no-op build is 5 ms. */
struct lq_hasher {
    SHA256_CTX context;
};

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

struct lq_hasher *lq_hasher_create(void)
{
    struct lq_hasher *hasher = malloc(sizeof *hasher);
    if (hasher != NULL) {
        (void)SHA256_Init(&hasher->context);
    }
    return hasher;
}

void lq_hasher_destroy(struct lq_hasher *hasher)
{
    free(hasher);
}

void lq_hasher_update(struct lq_hasher *hasher, const void *data, size_t size_bytes)
{
    (void)SHA256_Update(&hasher->context, data, size_bytes);
}

void lq_hasher_finish(struct lq_hasher *hasher, struct lq_digest *digest)
{
    (void)SHA256_Final(digest->bytes, &hasher->context);
    (void)SHA256_Init(&hasher->context);
}

void lq_digest_of_pieces(const struct lq_digest_piece *pieces, size_t count,
                         struct lq_digest *digest)
{
    SHA256_CTX context;
    (void)SHA256_Init(&context);
    for (size_t i = 0; i < count; i++) {
        (void)SHA256_Update(&context, pieces[i].data, pieces[i].size_bytes);
    }
    (void)SHA256_Final(digest->bytes, &context);
}

void lq_digest_of(const void *data, size_t size_bytes, struct lq_digest *digest)
{
    lq_digest_of_pieces(&(struct lq_digest_piece){data, size_bytes}, 1, digest);
}

bool lq_digest_equal(const struct lq_digest *a, const struct lq_digest *b)
{
    return memcmp(a->bytes, b->bytes, LQ_DIGEST_BYTES) == 0;
}

bool lq_digest_is_zero(const struct lq_digest *digest)
{
    static const struct lq_digest zero;
    return lq_digest_equal(digest, &zero);
}

char *lq_digest_to_hex(const struct lq_digest *digest, char hex[LQ_DIGEST_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < LQ_DIGEST_BYTES; i++) {
        hex[2 * i] = digits[digest->bytes[i] >> 4];
        hex[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    hex[LQ_DIGEST_HEX_BYTES - 1] = '\0';
    return hex;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool lq_digest_from_hex(const char *hex, size_t length, struct lq_digest *digest)
{
    if (length != LQ_DIGEST_HEX_BYTES - 1) {
        return false;
    }
    for (size_t i = 0; i < LQ_DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]);
        int low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        digest->bytes[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

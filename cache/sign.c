#include "cache/sign.h"

#include <openssl/evp.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool lq_key_name_is_valid(const char *name, size_t length)
{
    if (length == 0 || length >= LQ_KEY_NAME_BYTES || name[0] == '.' || name[0] == '-') {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';
        if (!fine) {
            return false;
        }
    }
    return true;
}

/* ---- base64, RFC 4648 section 4 ---- */

void lq_base64_encode(const uint8_t *bytes, size_t size_bytes, char *out)
{
    for (size_t i = 0; i < size_bytes; i += 3) {
        size_t left = size_bytes - i;
        uint32_t group = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                         (left > 2 ? bytes[i + 2] : 0);
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = alphabet[group >> 6 & 63];
        *out++ = alphabet[group & 63];
        if (left < 3) {
            out[-1] = '=';
        }
        if (left < 2) {
            out[-2] = '=';
        }
    }
    *out = '\0';
}

bool lq_base64_decode(const char *text, size_t length, uint8_t *out, size_t size_bytes)
{
    if (length != (size_bytes + 2) / 3 * 4) {
        return false;
    }
    size_t padding = (3 - size_bytes % 3) % 3;
    size_t written = 0;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t group = 0;
        for (size_t k = 0; k < 4; k++) {
            char c = text[i + k];
            const char *at = c == '\0' ? NULL : strchr(alphabet, c);
            bool pads = i + k >= length - padding;
            if (pads ? c != '=' : at == NULL) {
                return false;
            }
            group = group << 6 | (pads ? 0 : (uint32_t)(at - alphabet));
        }
        for (int shift = 16; shift >= 0; shift -= 8) {
            uint8_t byte = (uint8_t)(group >> shift & 255);
            if (written < size_bytes) {
                out[written++] = byte;
            } else if (byte != 0) {
                return false; /* bits behind the end: not what the encoder writes */
            }
        }
    }
    return true;
}

/* ---- keys as text ---- */

/* "NAME:" and the rest; false when there is no good name. */
static bool split_name(const char *text, char name[LQ_KEY_NAME_BYTES], const char **rest)
{
    const char *colon = strchr(text, ':');
    if (colon == NULL || !lq_key_name_is_valid(text, (size_t)(colon - text))) {
        return false;
    }
    memcpy(name, text, (size_t)(colon - text));
    name[colon - text] = '\0';
    *rest = colon + 1;
    return true;
}

enum lq_status lq_public_key_parse(const char *text, struct lq_public_key *out,
                                   struct lq_error *err)
{
    const char *rest = NULL;
    if (!split_name(text, out->name, &rest) ||
        !lq_base64_decode(rest, strlen(rest), out->bytes, sizeof out->bytes)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%.100s' is no public key; expected NAME:BASE64 as 'lqbuild key list' "
                            "prints it",
                            text);
    }
    return LQ_OK;
}

static EVP_PKEY *load_secret(const struct lq_secret_key *key)
{
    return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->seed, LQ_KEY_BYTES);
}

static bool derive_public(struct lq_secret_key *key)
{
    size_t length = LQ_KEY_BYTES;
    EVP_PKEY *loaded = load_secret(key);
    bool derived = loaded != NULL &&
                   EVP_PKEY_get_raw_public_key(loaded, key->public_key.bytes, &length) == 1 &&
                   length == LQ_KEY_BYTES;
    EVP_PKEY_free(loaded);
    return derived;
}

enum lq_status lq_secret_key_parse(const char *text, struct lq_secret_key *out,
                                   struct lq_error *err)
{
    uint8_t bytes[2 * LQ_KEY_BYTES];
    const char *rest = NULL;
    bool fine = split_name(text, out->public_key.name, &rest) &&
                lq_base64_decode(rest, strlen(rest), bytes, sizeof bytes);
    if (fine) {
        memcpy(out->seed, bytes, LQ_KEY_BYTES);
        fine = derive_public(out) &&
               memcmp(out->public_key.bytes, bytes + LQ_KEY_BYTES, LQ_KEY_BYTES) == 0;
    }
    return fine ? LQ_OK
                : lq_error_set(err, LQ_EUSAGE,
                               "not a secret key; expected NAME:BASE64 as 'lqbuild key generate' "
                               "wrote it");
}

static void write_text(const char *name, const uint8_t *bytes, size_t size_bytes,
                       char out[LQ_KEY_TEXT_BYTES])
{
    size_t length = strlen(name);
    memcpy(out, name, length);
    out[length] = ':';
    lq_base64_encode(bytes, size_bytes, out + length + 1);
}

void lq_public_key_text(const struct lq_public_key *key, char out[LQ_KEY_TEXT_BYTES])
{
    write_text(key->name, key->bytes, LQ_KEY_BYTES, out);
}

enum lq_status lq_key_generate(const char *name, struct lq_secret_key *out, struct lq_error *err)
{
    size_t length = strlen(name);
    if (!lq_key_name_is_valid(name, length)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%.100s' cannot be the name of a key; use at most 64 letters, digits, "
                            "'.', '_' and '-'",
                            name);
    }
    EVP_PKEY *made = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    size_t seed_bytes = LQ_KEY_BYTES;
    bool fine = made != NULL && EVP_PKEY_get_raw_private_key(made, out->seed, &seed_bytes) == 1 &&
                derive_public(out);
    EVP_PKEY_free(made);
    memcpy(out->public_key.name, name, length + 1);
    return fine ? LQ_OK : lq_error_set(err, LQ_EFAIL, "libcrypto cannot make an ed25519 key");
}

/* ---- signing and checking ---- */

enum lq_status lq_sign(const struct lq_secret_key *key, const void *text, size_t size_bytes,
                       char signature[LQ_SIGNATURE_TEXT_BYTES], struct lq_error *err)
{
    uint8_t raw[LQ_SIGNATURE_BYTES];
    size_t raw_bytes = sizeof raw;
    EVP_PKEY *loaded = load_secret(key);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool fine = loaded != NULL && context != NULL &&
                EVP_DigestSignInit(context, NULL, NULL, NULL, loaded) == 1 &&
                EVP_DigestSign(context, raw, &raw_bytes, text, size_bytes) == 1 &&
                raw_bytes == sizeof raw;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(loaded);
    if (!fine) {
        return lq_error_set(err, LQ_EFAIL, "libcrypto cannot sign with key '%s'",
                            key->public_key.name);
    }
    lq_base64_encode(raw, sizeof raw, signature);
    return LQ_OK;
}

static bool verify(const struct lq_public_key *key, const uint8_t raw[LQ_SIGNATURE_BYTES],
                   const void *text, size_t size_bytes)
{
    EVP_PKEY *loaded =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key->bytes, LQ_KEY_BYTES);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = loaded != NULL && context != NULL &&
                EVP_DigestVerifyInit(context, NULL, NULL, NULL, loaded) == 1 &&
                EVP_DigestVerify(context, raw, LQ_SIGNATURE_BYTES, text, size_bytes) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(loaded);
    return good;
}

enum lq_trust lq_keyring_check(const struct lq_keyring *ring, const char *name, size_t name_length,
                               const char *signature, size_t signature_length, const void *text,
                               size_t size_bytes)
{
    uint8_t raw[LQ_SIGNATURE_BYTES];
    bool readable = lq_base64_decode(signature, signature_length, raw, sizeof raw);
    enum lq_trust trust = LQ_UNKNOWN_SIGNER;
    for (size_t i = 0; i < ring->count; i++) {
        const struct lq_public_key *key = &ring->keys[i];
        if (strlen(key->name) != name_length || memcmp(key->name, name, name_length) != 0) {
            continue;
        }
        if (readable && verify(key, raw, text, size_bytes)) {
            return LQ_TRUSTED;
        }
        trust = LQ_WRONG_SIGNATURE;
    }
    return trust;
}

enum lq_status lq_keyring_add(struct lq_keyring *ring, const struct lq_public_key *key,
                              struct lq_arena *arena, struct lq_error *err)
{
    for (size_t i = 0; i < ring->count; i++) {
        if (memcmp(&ring->keys[i].bytes, key->bytes, LQ_KEY_BYTES) == 0 &&
            strcmp(ring->keys[i].name, key->name) == 0) {
            return LQ_OK;
        }
    }
    if (ring->count == ring->capacity) {
        size_t capacity = ring->capacity == 0 ? 8 : ring->capacity * 2;
        struct lq_public_key *grown = lq_arena_get_array(arena, capacity, sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(err, "the trusted keys");
        }
        if (ring->count > 0) {
            memcpy(grown, ring->keys, ring->count * sizeof *grown);
        }
        ring->keys = grown;
        ring->capacity = capacity;
    }
    ring->keys[ring->count++] = *key;
    return LQ_OK;
}

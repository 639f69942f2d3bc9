/* Signatures: ed25519 (RFC 8032, by libcrypto) over a text that says what a result is. Who signs
 * has a name, so that a message can say whose key was missing. A public key is written
 * "NAME:BASE64" of 32 bytes, a secret key "NAME:BASE64" of 64 (the seed, then the public key), a
 * signature as BASE64 of 64 bytes. A name is 1 to 64 of letters, digits, '.', '_' and '-', and does
 * not begin with '.' or '-', so that it can be the name of a file. Thread rule: pure functions,
 * except generate (random numbers of the system) and the folder functions. */
#ifndef LQ_CACHE_SIGN_H
#define LQ_CACHE_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

enum {
    LQ_KEY_NAME_BYTES = 65, /* with NUL */
    LQ_KEY_BYTES = 32,
    LQ_SIGNATURE_BYTES = 64,
    LQ_SIGNATURE_TEXT_BYTES = 89, /* base64 of 64 bytes, with NUL */
    LQ_KEY_TEXT_BYTES = 160,      /* either kind of key as text, with NUL */
};

struct lq_public_key {
    char name[LQ_KEY_NAME_BYTES];
    uint8_t bytes[LQ_KEY_BYTES];
};

struct lq_secret_key {
    struct lq_public_key public_key;
    uint8_t seed[LQ_KEY_BYTES];
};

/* Whom we trust. Two keys may have one name: either fits. */
struct lq_keyring {
    struct lq_public_key *keys;
    size_t count;
    size_t capacity;
};

bool lq_key_name_is_valid(const char *name, size_t length);
/* Base64 with padding, nothing else around it, and only as the encoder writes it. */
void lq_base64_encode(const uint8_t *bytes, size_t size_bytes, char *out);
bool lq_base64_decode(const char *text, size_t length, uint8_t *out, size_t size_bytes);

/* Errors: LQ_EUSAGE; messages never repeat the text of a secret key. */
enum lq_status lq_public_key_parse(const char *text, struct lq_public_key *out,
                                   struct lq_error *err);
enum lq_status lq_secret_key_parse(const char *text, struct lq_secret_key *out,
                                   struct lq_error *err);
void lq_public_key_text(const struct lq_public_key *key, char out[LQ_KEY_TEXT_BYTES]);
enum lq_status lq_key_generate(const char *name, struct lq_secret_key *out, struct lq_error *err);

enum lq_status lq_sign(const struct lq_secret_key *key, const void *text, size_t size_bytes,
                       char signature[LQ_SIGNATURE_TEXT_BYTES], struct lq_error *err);

enum lq_trust { LQ_TRUSTED, LQ_UNKNOWN_SIGNER, LQ_WRONG_SIGNATURE };
/* UNKNOWN_SIGNER: the ring has no key of that name. WRONG: it has, and the signature is not its. */
enum lq_trust lq_keyring_check(const struct lq_keyring *ring, const char *name, size_t name_length,
                               const char *signature, size_t signature_length, const void *text,
                               size_t size_bytes);
enum lq_status lq_keyring_add(struct lq_keyring *ring, const struct lq_public_key *key,
                              struct lq_arena *arena, struct lq_error *err);

/* ---- keys of this machine: `dir`/NAME.public and NAME.secret (mode 0600) ---- */

/* Adds every public key of the folder; a missing folder has none. LQ_EFORMAT for a bad file. */
enum lq_status lq_keyring_load(struct lq_keyring *ring, const char *dir, struct lq_arena *arena,
                               struct lq_error *err);
/* Writes both files; LQ_EUSAGE when the name is taken or is no name. */
enum lq_status lq_key_create(const char *dir, const char *name, struct lq_secret_key *out,
                             struct lq_error *err);
/* Writes a public key that somebody gave us; the same key again is fine, another is not. */
enum lq_status lq_key_trust(const char *dir, const struct lq_public_key *key, struct lq_error *err);
/* The secret key called `name`, or the only one there is when `name` is NULL; *found false when
 * there is none. LQ_EUSAGE when there are several, or others may read the file. */
enum lq_status lq_key_find(const char *dir, const char *name, struct lq_secret_key *out,
                           bool *found, struct lq_error *err);
bool lq_key_has_secret(const char *dir, const char *name);

#endif

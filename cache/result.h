/* Results as text: what is signed, sent to remotes and put into bundles. One field a line, in a
 * fixed order; ' ', newline and '\' inside names and texts are escaped. The signed text is
 * everything before the first signature line: the action key, the verdict, every output's name,
 * digest and size. So a good result cannot be replayed under another key.
 *
 *   lqbuild result 1
 *   key <hex>
 *   verdict <exit code> <text>
 *   numerics <text>
 *   duration <microseconds>
 *   steps <count>
 *   output <name> <hex> <size> kept|transient        for each output
 *   layout <hex of the blob> <hex of its layout> <size of the layout>      where there is one
 *   signature <key name> <base64>                    none, one or more
 *
 * Decoding trusts nothing. Thread rule: pure functions. Limits: LQ_RESULT_BYTES_MAX,
 * LQ_STEP_OUTPUTS_MAX, LQ_VERDICT_BYTES_MAX. */
#ifndef LQ_CACHE_RESULT_H
#define LQ_CACHE_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "cache/sign.h"
#include "engine/base/buffer.h"
#include "engine/base/limits.h"

/* Where the layout of an output's blob is (layout.h); zero size: it is one object of its own. */
struct lq_result_layout {
    struct lq_digest digest;
    uint64_t size_bytes;
};

struct lq_result {
    struct lq_digest key;
    struct lq_action_record record;
    struct lq_result_layout layouts[LQ_STEP_OUTPUTS_MAX]; /* by output */
    size_t signed_bytes;                                  /* the text before the signatures */
    size_t size_bytes;                                    /* all of it, signatures included */
};

/* `layouts` may be NULL. */
void lq_result_encode(const struct lq_digest *key, const struct lq_action_record *record,
                      const struct lq_result_layout *layouts, struct lq_buffer *out);
/* Signs what begins at `from` in the buffer and appends the signature's line. */
enum lq_status lq_result_sign(struct lq_buffer *text, size_t from, const struct lq_secret_key *key,
                              struct lq_error *err);
/* Reads one result from the start of the text. *why is NULL when it is well-formed. Strings live in
 * the arena; LQ_ENOMEM is the only error. */
enum lq_status lq_result_decode(const void *text, size_t size_bytes, struct lq_arena *arena,
                                struct lq_result *out, const char **why, struct lq_error *err);
/* Looks at every signature of a decoded text. `signer` gets the name of the last one looked at, ""
 * when there is none. */
enum lq_trust lq_result_check(const void *text, const struct lq_result *result,
                              const struct lq_keyring *ring, char signer[LQ_KEY_NAME_BYTES]);

/* ---- lines, shared with layouts and bundles ---- */

struct lq_lines {
    const char *at;
    const char *end;
};
/* The next line without its newline; false at the end, or when the last line has no newline. */
bool lq_lines_next(struct lq_lines *lines, const char **line, size_t *length);
/* Cuts `word` and the blank behind it off the line; false when it begins with anything else. */
bool lq_line_word(const char **line, size_t *length, const char *word);
/* Cuts off the next token, up to a blank or the end. */
bool lq_line_token(const char **line, size_t *length, const char **token, size_t *token_length);
bool lq_line_digest(const char **line, size_t *length, struct lq_digest *digest);
/* Decimal digits without leading zeros that fit. */
bool lq_line_number(const char **line, size_t *length, uint64_t *value);

#endif

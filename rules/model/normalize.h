/* What is done to text before it is cut into words: the normalizer of tokenizer.json, or that of a
 * SentencePiece model. It is a list of steps, kept as a JSON array in the key
 * tokenizer.lqbuild.normalizer (docs/formats.md has the steps). Unicode's forms come from
 * libutf8proc. Any bytes can be normalized: those that are no UTF-8 come out as they were, and no
 * character combines across them. Thread rule: immutable after creation; any number of threads may
 * run it. Limits: LQ_NORMALIZER_STEPS_MAX steps; memory is 4 bytes for each byte of the longest
 * stretch of text without ASCII, besides two copies of the text. */
#ifndef LQ_RULES_MODEL_NORMALIZE_H
#define LQ_RULES_MODEL_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

#define LQ_VOCAB_NORMALIZER_KEY "tokenizer.lqbuild.normalizer"
#define LQ_VOCAB_CHARSMAP_KEY "tokenizer.ggml.precompiled_charsmap"

struct lq_normalizer;

/* The bytes that a step "Precompiled" means; NULL data: there are none. They are copied. */
struct lq_normalizer_map {
    const void *data;
    size_t size_bytes;
};

/* `json` is an array of steps. `where` names the file in messages. Errors: LQ_EUNSUPPORTED for a
 * step that is not known, by name, LQ_EFORMAT for one that is malformed. */
enum lq_status lq_normalizer_create(struct lq_normalizer **out, const char *json, size_t length,
                                    const struct lq_normalizer_map *map, const char *where,
                                    struct lq_error *err);
void lq_normalizer_destroy(struct lq_normalizer *normalizer);

/* Appends the normalized text. `begins`: nothing stands before it in the whole text. Errors:
 * LQ_ENOMEM, LQ_EUNSUPPORTED when an expression gives up on the text. */
enum lq_status lq_normalizer_run(const struct lq_normalizer *normalizer, bool begins,
                                 const char *text, size_t length, struct lq_buffer *out,
                                 struct lq_error *err);

#endif

/* The steps of a normalizer, shared by normalize.c, which reads them, and normalize_steps.c, which
 * runs them. Immutable after creation. */
#ifndef LQ_RULES_MODEL_NORMALIZE_PARTS_H
#define LQ_RULES_MODEL_NORMALIZE_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/model/charsmap.h"

enum lq_normalizer_kind {
    LQ_NORMALIZE_NFC,
    LQ_NORMALIZE_NFD,
    LQ_NORMALIZE_NFKC,
    LQ_NORMALIZE_NFKD,
    LQ_NORMALIZE_LOWERCASE,
    LQ_NORMALIZE_STRIP_ACCENTS,
    LQ_NORMALIZE_NMT,
    LQ_NORMALIZE_STRIP,
    LQ_NORMALIZE_REPLACE,
    LQ_NORMALIZE_PREPEND,
    LQ_NORMALIZE_PRECOMPILED,
    LQ_NORMALIZE_EXTRA_BLANKS,
    LQ_NORMALIZE_WORDS,
    LQ_NORMALIZE_METASPACE,
};

struct lq_pattern; /* a compiled expression */

struct lq_normalizer_step {
    enum lq_normalizer_kind kind;
    const char *from; /* REPLACE: what to look for, unless there is a pattern */
    size_t from_length;
    const char *to; /* REPLACE, PREPEND */
    size_t to_length;
    struct lq_pattern *pattern;
    bool left; /* STRIP */
    bool right;
    bool always; /* METASPACE: also behind other text */
    bool first;  /* METASPACE: where the whole text begins */
    struct lq_charsmap map;
};

/* An expression of tokenizer.json, which LQ_EFORMAT refuses when it is none. */
enum lq_status lq_pattern_create(struct lq_pattern **out, const char *expression, const char *where,
                                 struct lq_error *err);
void lq_pattern_destroy(struct lq_pattern *pattern);

/* Appends what the step makes of the text. */
enum lq_status lq_normalizer_step_run(const struct lq_normalizer_step *step, bool begins,
                                      const char *text, size_t length, struct lq_buffer *out,
                                      struct lq_error *err);

#endif

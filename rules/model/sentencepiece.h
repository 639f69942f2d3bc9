/* SentencePiece's own file, tokenizer.model: a protocol buffer (ModelProto of
 * sentencepiece_model.proto) with the pieces, and how they were trained and how text is prepared.
 * Only what a vocabulary needs is read; other fields are stepped over. Every piece is checked: it
 * is UTF-8, not empty, there once, its score is a finite number and its type a known one.
 * The texts are copied into the arena: the file's bytes may go away. Thread rule: pure. Limits:
 * LQ_VOCAB_MAX pieces. */
#ifndef LQ_RULES_MODEL_SENTENCEPIECE_H
#define LQ_RULES_MODEL_SENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

/* The types have the numbers of lq_token_type. */
struct lq_sentencepiece {
    const char *text; /* ends with NUL; may hold more of them */
    size_t length;
    float score;
    int32_t type;
};

/* TrainerSpec.model_type. */
enum lq_sentencepiece_kind {
    LQ_SENTENCEPIECE_UNIGRAM = 1,
    LQ_SENTENCEPIECE_BPE = 2,
    LQ_SENTENCEPIECE_WORD = 3,
    LQ_SENTENCEPIECE_CHAR = 4,
};

struct lq_sentencepiece_model {
    struct lq_sentencepiece *pieces; /* by id */
    size_t count;
    enum lq_sentencepiece_kind kind;
    /* -1: none. Below `count`. */
    int32_t bos;
    int32_t eos;
    int32_t unknown;
    int32_t pad;
    bool add_dummy_prefix; /* one blank before the text */
    bool squeezes_blanks;  /* runs of blanks become one, those at the ends nothing */
    const void *map;       /* precompiled_charsmap, borrowed from the file; NULL: none */
    size_t map_bytes;
};

/* `where` names the file in messages. Errors: LQ_EFORMAT for a damaged file, LQ_EUNSUPPORTED for a
 * kind other than BPE and unigram, for BPE without byte fallback, and for blanks that are not
 * written as U+2581 before words. */
enum lq_status lq_sentencepiece_parse(const void *data, uint64_t size_bytes, const char *where,
                                      struct lq_arena *arena, struct lq_sentencepiece_model *out,
                                      struct lq_error *err);

#endif

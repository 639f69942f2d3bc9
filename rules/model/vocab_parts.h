/* The inside of a vocabulary, shared by the files that make it (vocab.c), and by those that merge
 * words: tokenizer_bpe.c and tokenizer_spm.c fill the tables and answer which neighbours merge,
 * tokenize.c runs the merges; tokenizer_unigram.c cuts words by the sum of scores. Everything is
 * immutable after loading. */
#ifndef LQ_RULES_MODEL_VOCAB_PARTS_H
#define LQ_RULES_MODEL_VOCAB_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "rules/format/gguf.h"
#include "rules/model/normalize.h"
#include "rules/model/pretokenize.h"
#include "rules/model/token_table.h"
#include "rules/model/vocab.h"
#include "rules/model/word_class.h"

enum lq_vocab_kind { LQ_VOCAB_BPE, LQ_VOCAB_SPM, LQ_VOCAB_UNIGRAM };

struct lq_vocab {
    struct lq_arena arena;
    enum lq_vocab_kind kind;
    size_t size;
    struct lq_token_bytes *texts;  /* as the file has them */
    struct lq_token_bytes *pieces; /* the bytes they stand for */
    uint8_t *types;
    uint8_t *strips;             /* lq_token_strip; NULL: none of any token */
    struct lq_word_class *words; /* NULL: no token counts as a whole word only */
    bool two_passes;             /* some token is LQ_TOKEN_SECOND */
    float *scores;               /* not BPE */
    int32_t bos;
    int32_t eos;
    int32_t unknown;
    bool add_bos;
    bool add_eos;
    bool add_space_prefix;
    /* What can be merged: symbols below `size` are tokens, those above are parts of merges that are
     * no tokens themselves. Strings are raw bytes for BPE, texts with U+2581 for SPM. */
    struct lq_token_table table;
    int32_t byte_symbols[256]; /* BPE: symbol of a byte; SPM: token of a byte; -1 none */
    struct lq_pair_table merges;
    struct lq_pretokenizer *pre;
    struct lq_normalizer *normalizer; /* NULL: none */
    /* SPM, UNIGRAM: no token has U+2581 behind another character, so words can be merged one by
     * one. */
    bool words_are_closed;
    /* UNIGRAM: tokens of text in the order of their bytes; those that begin with byte b are
     * sorted_ids[sorted_start[b]..sorted_start[b + 1]). */
    int32_t *sorted_ids;
    size_t sorted_count;
    size_t sorted_start[257];
    double unknown_score;
    /* Tokens that are looked for in the text before everything else: longest first, grouped by
     * first byte: those of byte b are special_ids[special_start[b]..special_start[b + 1]). */
    int32_t *special_ids;
    size_t special_start[257];
};

/* One piece of a word while it is merged. Pieces of a word lie side by side. */
struct lq_symbol {
    uint32_t start;
    uint32_t length; /* 0: merged into its left neighbour */
    uint32_t previous;
    uint32_t next; /* LQ_SYMBOL_NONE at the ends */
    int32_t id;    /* -1: no such symbol */
};
#define LQ_SYMBOL_NONE UINT32_MAX

/* The best way to cut a word up to some byte: its score, and the last token of it. */
struct lq_unigram_step {
    double score;
    size_t start;
    int32_t id; /* -1: a character that is no token */
    bool reached;
};

/* Loading: after texts and types are there. */
enum lq_status lq_bpe_load(struct lq_vocab *vocab, const struct lq_gguf *gguf, const char *where,
                           struct lq_error *err);
enum lq_status lq_spm_load(struct lq_vocab *vocab, const struct lq_gguf *gguf, const char *where,
                           struct lq_error *err);

enum lq_status lq_unigram_load(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                               const char *where, struct lq_error *err);

/* Fills path[0..length]; going back from path[length] by `start` gives the tokens. */
void lq_unigram_cut(const struct lq_vocab *vocab, const char *word, size_t length,
                    struct lq_unigram_step *path);

/* Whether two neighbours merge; *priority: smaller merges first. */
bool lq_bpe_find_merge(const struct lq_vocab *vocab, const struct lq_symbol *left,
                       const struct lq_symbol *right, uint32_t *priority, int32_t *merged);
bool lq_spm_find_merge(const struct lq_vocab *vocab, const char *word, const struct lq_symbol *left,
                       const struct lq_symbol *right, uint32_t *priority, int32_t *merged);

#endif

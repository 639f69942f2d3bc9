/* Texts for calibration and evaluation: getting them out of JSON files, and cutting their tokens
 * into samples. A text is tokenized once as a whole, with BOS in front if the vocabulary adds it,
 * and cut into whole chunks of equal length; the first token of each is replaced by BOS, as
 * llama.cpp's imatrix and perplexity tools do. Thread rule: pure. Limits: LQ_TEXT_BYTES_MAX,
 * LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX. */
#ifndef LQ_RULES_MODEL_CORPUS_H
#define LQ_RULES_MODEL_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/vocab.h"

/* Appends the texts of a JSON document (a list of strings or objects, or an object with one such
 * list), or of JSON lines when `lines`, with a line end between two texts. Of objects the member
 * `field` is taken; NULL: "text", "content" or "prompt", whichever is there first. LQ_ECALIBRATION
 * with file and line or item for anything else. */
enum lq_status lq_corpus_extract(const void *data, uint64_t size_bytes, const char *where,
                                 bool lines, const char *field, struct lq_buffer *out,
                                 struct lq_error *err);

struct lq_corpus_cut {
    uint32_t sequence; /* tokens in a sample */
    uint32_t samples;  /* 0: as many as there are */
    bool random;       /* samples drawn from all chunks, ascending; else the first ones */
    uint64_t seed;
    bool at_most; /* fewer samples are fine where the text has no more */
};

/* Tokenizes the text, cuts it, and appends the samples in the format of tokens.h. `where` names the
 * text in messages. LQ_ECALIBRATION when there are fewer tokens than needed. `cancelled` may be
 * NULL. */
enum lq_status lq_corpus_cut(const struct lq_vocab *vocab, const char *text, uint64_t size_bytes,
                             const struct lq_corpus_cut *cut, const char *where,
                             bool (*cancelled)(const void *user), const void *cancelled_user,
                             struct lq_buffer *out, struct lq_error *err);

/* The step behind both: output "main" is the token set of the artifact `text` with the vocabulary
 * of the artifact `model`. `op` as for any step. */
enum lq_status lq_corpus_add_cut_step(struct lq_expand *expand, const char *op,
                                      const struct lq_artifact *model,
                                      const struct lq_artifact *text,
                                      const struct lq_corpus_cut *cut, size_t *index,
                                      struct lq_error *err);
/* All whole chunks of `context` tokens of the artifact `text` with the vocabulary of the artifact
 * `model`, for evaluation: a step "text.chunks". */
enum lq_status lq_corpus_add_chunks_step(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_artifact *text, uint32_t context,
                                         size_t *index, struct lq_error *err);

#endif

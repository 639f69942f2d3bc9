/* Prompts and what a model writes behind them, by Jacobi iteration: in one pass a model reads all
 * prompts with a guess behind them, and what it would write in each place is the next guess; what
 * no longer changes is what it writes. Between passes the texts are bytes, so that each pass can be
 * a step: little-endian u32 magic "LQCT", u32 count, u32 length, u32 sequence, u32 vocab_size, i32
 * eos, u32 settled, then for each text u32 prompt_count, `sequence` i32 ids and `length` f64
 * log-probabilities. Ownership: texts own their memory; a pen borrows the reader. Thread rule: one
 * thread at a time and the pool. Limits: LQ_PROMPTS_MAX, LQ_CONTINUATION_MAX, LQ_SEQUENCE_MAX. */
#ifndef LQ_RULES_QUALITY_CONTINUATION_H
#define LQ_RULES_QUALITY_CONTINUATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/forward_run.h"
#include "rules/model/vocab.h"
#include "rules/quality/model_reader.h"

/* `count` sequences of `sequence` tokens: a prompt, `length` tokens behind it, then padding. */
struct lq_continuation {
    uint32_t count;
    uint32_t length;
    uint32_t sequence;
    uint32_t vocab_size; /* of the tokenizer that made the prompts */
    int32_t eos;         /* -1: none */
    bool settled;        /* another pass changes nothing */
    uint32_t *prompt_counts;
    int32_t *tokens;
    double *log_probs; /* count x length: of the tokens behind the prompts, by who read them last */
};

/* Prompts with nothing behind them. `first_number` is the first one's for people. LQ_ECALIBRATION
 * for a prompt without tokens, or too long. */
enum lq_status lq_continuation_init(struct lq_continuation *out, const struct lq_vocab *vocab,
                                    const struct lq_token_list *prompts, size_t count,
                                    uint32_t length, size_t first_number, struct lq_error *err);
enum lq_status lq_continuation_parse(struct lq_continuation *out, const void *data,
                                     uint64_t size_bytes, struct lq_error *err);
void lq_continuation_format(const struct lq_continuation *texts, struct lq_buffer *out);
void lq_continuation_fini(struct lq_continuation *texts);

/* What is written behind a prompt. */
int32_t *lq_continuation_written(const struct lq_continuation *texts, size_t index);
/* Its tokens: all, or those up to and with the end of text. */
size_t lq_continuation_written_count(const struct lq_continuation *texts, size_t index);
double lq_continuation_mean_log_prob(const struct lq_continuation *texts, size_t index);

/* A model that reads and writes. */
struct lq_pen {
    struct lq_run *run;
    struct lq_model_reader *reader;
    struct lq_forward *forward;
    struct lq_probe *probes;
    struct lq_probe_result *results;
};

/* For these texts. LQ_EFORMAT for a model with fewer tokens than the tokenizer. Close it always. */
enum lq_status lq_pen_open(struct lq_pen *pen, struct lq_run *run, struct lq_model_reader *reader,
                           const struct lq_forward_run *forward_run,
                           const struct lq_continuation *texts, struct lq_error *err);
void lq_pen_close(struct lq_pen *pen);
/* One pass over all texts: log-probabilities of what is written. */
enum lq_status lq_pen_read(struct lq_pen *pen, struct lq_continuation *texts, struct lq_error *err);
/* The same, and what is written, a guess, is replaced by what the model writes in each place. */
enum lq_status lq_pen_write(struct lq_pen *pen, struct lq_continuation *texts,
                            struct lq_error *err);

#endif

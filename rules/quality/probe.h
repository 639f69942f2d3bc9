/* Asking a model what it thinks comes next at chosen places of token sequences: the base of task
 * scores and of greedy continuation. Sequences are padded behind to one length, which changes
 * nothing in front of the padding. Layers stream; hidden states of up to 1 GiB exist at a time, and
 * logits for one tile of places. Thread rule: one thread and the pool. Limits: those of tokens.h.
 */
#ifndef LQ_RULES_QUALITY_PROBE_H
#define LQ_RULES_QUALITY_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/pool.h"
#include "rules/model/forward.h"
#include "rules/model/hparams.h"

/* What follows `position` of sequence `sample`? Probes are in the order of samples. */
struct lq_probe {
    size_t sample;
    uint32_t position;
    int32_t target;
};

struct lq_probe_result {
    int32_t top;     /* the most likely next token; the lowest id of several */
    double log_prob; /* ln of the target's probability */
};

/* `tokens` are sample_count sequences of `sequence` ids, for which `forward` was made.
 * LQ_EFAIL for logits that are not finite. */
enum lq_status lq_probe_run(struct lq_forward *forward, const struct lq_hparams *hparams,
                            struct lq_pool *pool, const int32_t *tokens, size_t sample_count,
                            uint32_t sequence, const struct lq_probe *probes, size_t probe_count,
                            struct lq_probe_result *results, struct lq_error *err);

#endif

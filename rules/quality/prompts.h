/* Prompts that models continue, cut into groups: a group passes a model together, so that weights
 * are read for many tokens at once, and groups are steps of their own. Groups follow from the
 * number of prompts and the length of continuations alone. The bytes of a group: u32 length and
 * text for each prompt. Ownership: everything lies in the expansion's arena. Thread rule: the
 * expansion's thread; lq_prompts_tokenize any. Limits: LQ_PROMPTS_MAX. */
#ifndef LQ_RULES_QUALITY_PROMPTS_H
#define LQ_RULES_QUALITY_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/vocab.h"

struct lq_prompt_group {
    struct lq_ref bytes;
    size_t first; /* the number of its first prompt, from 0 */
    size_t count;
};

struct lq_prompts {
    struct lq_prompt_group *groups;
    size_t group_count;
    size_t longest_bytes; /* of a prompt */
};

/* The lines of `text` that are not empty, or where it is NULL `list`. LQ_ECALIBRATION for a text
 * without lines or with too many. */
enum lq_status lq_prompts_group(struct lq_expand *expand, const struct lq_artifact *text,
                                const char *const *list, size_t list_count, uint32_t length,
                                struct lq_prompts *out, struct lq_error *err);

/* The prompts of a group, without what a vocabulary puts behind a text; lists[LQ_PROMPTS_MAX] must
 * be initialised, and are the caller's to free. */
enum lq_status lq_prompts_tokenize(const void *data, uint64_t size_bytes,
                                   const struct lq_vocab *vocab, struct lq_token_list *lists,
                                   size_t *count, struct lq_error *err);

#endif

/* The profiles that ship with lqbuild, and what each gives a tensor. Static and immutable. Thread
 * rule: pure. */
#ifndef LQ_RULES_PROFILE_PRESETS_H
#define LQ_RULES_PROFILE_PRESETS_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/dtype.h"
#include "rules/format/dqprofile.h"

struct lq_preset {
    const char *name; /* "attention-high" */
    enum lq_profile_strategy strategy;
    const char *description;
    bool is_measured;  /* types are found by trial encodings for a target, not fixed */
    double target_bpw; /* the default target of a measured one */
};

/* All of them, in the order in which people should see them. */
const struct lq_preset *lq_presets(size_t *count);
/* By name, with '-' or '_'; NULL when there is none. */
const struct lq_preset *lq_preset_find(const char *name);
/* What attention-high gives a tensor: 4 bits to attention, 2 bits to the feed-forward part, and 6
 * bits to what makes the output. `is_tied` says that the embedding is the output. */
enum lq_dtype lq_preset_attention_high(const char *tensor_name, bool is_tied);

#endif

/* The rules that lqbuild knows: one constant object per artifact kind, and the one sorted array of
 * them that main hands to the engine. Everything here is static and immutable. Thread rule: pure.
 * Limits: none. */
#ifndef LQ_RULES_REGISTRY_H
#define LQ_RULES_REGISTRY_H

#include "engine/rule.h"

extern const struct lq_rule lq_rule_awq;         /* rules/rule_awq.c */
extern const struct lq_rule lq_rule_calibration; /* rules/rule_calibration.c */
extern const struct lq_rule lq_rule_command;     /* rules/rule_command.c */
extern const struct lq_rule lq_rule_gguf;        /* rules/rule_gguf.c */
extern const struct lq_rule lq_rule_imatrix;     /* rules/rule_imatrix.c */
extern const struct lq_rule lq_rule_logits;
extern const struct lq_rule lq_rule_mask;        /* rules/rule_mask.c */
extern const struct lq_rule lq_rule_model;       /* rules/rule_model.c */
extern const struct lq_rule lq_rule_profile;     /* rules/rule_profile.c */
extern const struct lq_rule lq_rule_report;      /* rules/rule_report.c */
extern const struct lq_rule lq_rule_gptq;        /* rules/rule_gptq.c */
extern const struct lq_rule lq_rule_smoothquant; /* rules/rule_smoothquant.c */
extern const struct lq_rule lq_rule_tasks;
extern const struct lq_rule lq_rule_text; /* rules/rule_text.c */

/* Every rule, sorted by kind. */
const struct lq_registry *lq_rules_registry(void);

#endif

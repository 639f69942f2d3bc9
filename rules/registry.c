#include "rules/registry.h"

#include "engine/base/compiler.h"

static const struct lq_rule *const rules[] = {
    &lq_rule_awq,     &lq_rule_calibration, &lq_rule_command, &lq_rule_gguf,  &lq_rule_gptq,
    &lq_rule_imatrix, &lq_rule_logits,      &lq_rule_mask,    &lq_rule_model, &lq_rule_profile,
    &lq_rule_report,  &lq_rule_smoothquant, &lq_rule_tasks,   &lq_rule_text,
};

const struct lq_registry *lq_rules_registry(void)
{
    static const struct lq_registry registry = {.rules = rules, .rule_count = LQ_COUNT_OF(rules)};
    return &registry;
}

/* A small registry for tests of the recipe language: rules with every type of attribute, without
 * any work behind them. Include it in one place per program. */
#ifndef LQ_TESTS_RECIPE_FAKE_H
#define LQ_TESTS_RECIPE_FAKE_H

#include <string.h>

#include "engine/base/compiler.h"
#include "engine/rule.h"

static const struct lq_attr_spec fake_calibration_attrs[] = {
    {.name = "model", .type = LQ_ATTR_REF, .required = true, .choices = "model"},
    {.name = "text", .type = LQ_ATTR_REF, .required = true, .choices = "text"},
    {.name = "samples",
     .type = LQ_ATTR_INT,
     .default_text = "128",
     .min = 1,
     .max = 1024,
     .range_status = LQ_ECALIBRATION},
    {.name = "sequence", .type = LQ_ATTR_INT, .default_text = "512", .min = 1, .max = 1048576},
    {.name = "order", .type = LQ_ATTR_ENUM, .default_text = "\"first\"", .choices = "first random"},
};

static const struct lq_attr_spec fake_command_attrs[] = {
    {.name = "run", .type = LQ_ATTR_STRING, .required = true},
    {.name = "inputs", .type = LQ_ATTR_REF_LIST},
    {.name = "outputs", .type = LQ_ATTR_STRING_LIST, .required = true},
    {.name = "environment", .type = LQ_ATTR_STRING_MAP},
    {.name = "quiet", .type = LQ_ATTR_BOOL, .default_text = "false"},
};

static const struct lq_attr_spec fake_gguf_attrs[] = {
    {.name = "model", .type = LQ_ATTR_REF, .required = true, .choices = "model gguf"},
    {.name = "imatrix", .type = LQ_ATTR_REF, .choices = "imatrix"},
    {.name = "level",
     .type = LQ_ATTR_ENUM,
     .choices = "F32 F16 Q8_0 Q6_K Q5_K_M Q4_K_M Q2_K",
     .range_status = LQ_EUNSUPPORTED},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
    {.name = "promote", .type = LQ_ATTR_STRING_LIST},
};

static const struct lq_attr_spec fake_imatrix_attrs[] = {
    {.name = "model", .type = LQ_ATTR_REF, .required = true, .choices = "model"},
    {.name = "calibration", .type = LQ_ATTR_REF, .required = true, .choices = "calibration"},
    {.name = "method",
     .type = LQ_ATTR_ENUM,
     .default_text = "activation",
     .choices = "activation gradient"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
};

static const struct lq_attr_spec fake_model_attrs[] = {
    {.name = "source", .type = LQ_ATTR_PATH, .required = true},
};

static const struct lq_attr_spec fake_report_attrs[] = {
    {.name = "original", .type = LQ_ATTR_REF, .required = true, .choices = "model gguf"},
    {.name = "quantized", .type = LQ_ATTR_REF_LIST, .required = true, .choices = "gguf"},
    {.name = "text", .type = LQ_ATTR_REF, .required = true, .choices = "text"},
    {.name = "fail_above", .type = LQ_ATTR_NUMBER, .min = 0, .max = 10},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
};

static const struct lq_attr_spec fake_text_attrs[] = {
    {.name = "path", .type = LQ_ATTR_PATH, .required = true},
};

/* Refuses what a schema cannot say, as real rules do. */
static enum lq_status fake_gguf_check(const struct lq_artifact *artifact, struct lq_error *err)
{
    const char *level = lq_attr_string(artifact, "level");
    if (level != NULL && strcmp(level, "Q2_K") == 0 && !lq_attr_is_set(artifact, "imatrix")) {
        return lq_attr_error(artifact, "level", err, LQ_EIMATRIX,
                             "level '%s' needs an imatrix; set 'imatrix'", level);
    }
    if (strcmp(lq_artifact_name(artifact), "refused") == 0) {
        return lq_error_set(err, LQ_EFAIL, "refused by name");
    }
    return LQ_OK;
}

#define FAKE_RULE(rule_kind, check_fn)                                                             \
    static const struct lq_rule fake_##rule_kind = {                                               \
        .kind = #rule_kind,                                                                        \
        .version = 1,                                                                              \
        .attrs = fake_##rule_kind##_attrs,                                                         \
        .attr_count = LQ_COUNT_OF(fake_##rule_kind##_attrs),                                       \
        .check = (check_fn),                                                                       \
    }

FAKE_RULE(calibration, NULL);
FAKE_RULE(command, NULL);
FAKE_RULE(gguf, fake_gguf_check);
FAKE_RULE(imatrix, NULL);
FAKE_RULE(model, NULL);
FAKE_RULE(report, NULL);
FAKE_RULE(text, NULL);

static const struct lq_rule *const fake_rules[] = {
    &fake_calibration, &fake_command, &fake_gguf, &fake_imatrix,
    &fake_model,       &fake_report,  &fake_text,
};

static const struct lq_registry fake_registry = {fake_rules, LQ_COUNT_OF(fake_rules)};

#endif

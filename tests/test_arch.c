#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>

#include "rules/model/arch.h"
#include "rules/model/forward.h"
#include "tests/arch_model.h"

/* The project's requirement is 1e-3 of the largest logit. Both sides compute in float32 and differ
 * in the order of sums: 2 to 7 layers of products with up to 64 terms, 2^-24 each, amplified by
 * gates and norms, stay below 1e-5. */
#define LOGIT_TOLERANCE 1e-4

enum { TOKENS = 40, VOCAB = 64 };

struct case_name {
    char name[32];
};

ParameterizedTestParameters(arch, logits_agree_with_transformers)
{
    static struct case_name cases[] = {
        {"llama"},         {"llama3-rope"},    {"llama-linear"},   {"llama-yarn"},
        {"mistral"},       {"mixtral"},        {"qwen2"},          {"qwen2-yarn"},
        {"qwen3"},         {"qwen3moe"},       {"qwen3moe-share"}, {"phi3"},
        {"phi3-longrope"}, {"phi3-shortrope"}, {"gemma2"},         {"gemma3"},
    };
    return cr_make_param_array(struct case_name, cases, sizeof cases / sizeof cases[0]);
}

struct pass {
    struct lq_device *device;
    struct lq_forward *forward;
    float *hidden;
};

static void pass_open(struct pass *pass, struct arch_model *model, const struct lq_hparams *hparams,
                      uint32_t sequence)
{
    struct lq_error err = {0};
    pass->device = lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
    struct lq_forward_env env = {
        .device = pass->device, .weights = {arch_model_get, model}, .nonfinite_status = LQ_EFAIL};
    cr_assert_eq(lq_forward_create(&pass->forward, hparams, &env, sequence, &err), LQ_OK, "%s",
                 err.message);
    pass->hidden = calloc(TOKENS, hparams->width * sizeof(float));
}

static void pass_close(struct pass *pass)
{
    lq_forward_destroy(pass->forward);
    pass->device->ops->destroy(pass->device);
    free(pass->hidden);
}

static void run_layers(struct pass *pass, const struct lq_hparams *hparams, const int32_t *tokens,
                       bool collect)
{
    struct lq_error err = {0};
    cr_assert_eq(lq_forward_embed(pass->forward, tokens, TOKENS, pass->hidden, &err), LQ_OK, "%s",
                 err.message);
    for (uint32_t layer = 0; layer < hparams->layer_count; layer++) {
        cr_assert_eq(lq_forward_load_layer(pass->forward, layer, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_forward_layer(pass->forward, pass->hidden, 1, collect, false, &err), LQ_OK,
                     "%s", err.message);
    }
}

static void read_hparams(struct arch_model *model, struct lq_hparams *out)
{
    struct lq_error err = {0};
    struct lq_buffer own = {0};
    struct lq_buffer config = {0};
    cr_assert_eq(lq_hparams_read(&model->meta, &model->index, "model", LQ_EMODEL, out, &err), LQ_OK,
                 "%s", err.message);
    /* What config.json says, and what the keys made from it say. */
    lq_hparams_format(out, &own);
    struct lq_hparams said = model->config.hparams;
    /* Keys are 32-bit floats. */
    cr_expect_float_eq(said.norm_eps, out->norm_eps, 1e-7 * said.norm_eps);
    said.norm_eps = out->norm_eps;
    said.rope_local_base = said.rope_local ? said.rope_local_base : out->rope_local_base;
    lq_hparams_format(&said, &config);
    cr_expect_str_eq(lq_buffer_text(&own), lq_buffer_text(&config));
    lq_buffer_fini(&own);
    lq_buffer_fini(&config);
}

ParameterizedTest(struct case_name *param, arch, logits_agree_with_transformers)
{
    struct arch_model model;
    struct lq_hparams hparams;
    struct lq_error err = {0};
    struct lq_map tokens;
    struct lq_map expected;
    struct pass pass;
    static float logits[TOKENS * VOCAB];
    arch_model_open(&model, param->name);
    cr_assert_eq(arch_model_describe(&model, &err), LQ_OK, "%s: %s", param->name, err.message);
    read_hparams(&model, &hparams);
    arch_model_map(param->name, "tokens.i32", &tokens);
    arch_model_map(param->name, "logits.f32", &expected);
    cr_assert_eq(expected.size_bytes, sizeof logits);
    pass_open(&pass, &model, &hparams, TOKENS);
    run_layers(&pass, &hparams, (const int32_t *)tokens.data, false);
    cr_assert_eq(lq_forward_load_output(pass.forward, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_forward_logits(pass.forward, pass.hidden, TOKENS, logits, &err), LQ_OK);
    double worst = 0.0;
    double largest = 0.0;
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        float value;
        memcpy(&value, (const char *)expected.data + i * sizeof value, sizeof value);
        largest = fmax(largest, fabs((double)value));
        worst = fmax(worst, fabs((double)logits[i] - (double)value));
        worst = isnan(logits[i]) ? INFINITY : worst;
    }
    printf("%s: largest difference of a logit %.2e of %.2f, relative %.1e\n", param->name, worst,
           largest, worst / largest);
    cr_expect_lt(worst / largest, LOGIT_TOLERANCE, "%s: %g", param->name, worst / largest);
    pass_close(&pass);
    lq_map_close(&tokens);
    lq_map_close(&expected);
    arch_model_close(&model);
}

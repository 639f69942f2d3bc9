/* Profiles: what layer names mean, what presets give, and what trial encodings measure. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/profile/presets.h"
#include "rules/profile/resolve.h"
#include "rules/profile/sensitivity.h"
#include "rules/quant/levels.h"

static struct lq_model_tensor tensors[] = {
    {.name = "token_embd.weight",
     .source_name = "model.embed_tokens.weight",
     .dim_count = 2,
     .ne = {256, 64, 1, 1}},
    {.name = "blk.0.attn_norm.weight",
     .source_name = "model.layers.0.input_layernorm.weight",
     .dim_count = 1,
     .ne = {256, 1, 1, 1}},
    {.name = "blk.0.attn_q.weight",
     .source_name = "model.layers.0.self_attn.q_proj.weight",
     .dim_count = 2,
     .ne = {256, 256, 1, 1}},
    {.name = "blk.0.ffn_down.weight",
     .source_name = "model.layers.0.mlp.down_proj.weight",
     .dim_count = 2,
     .ne = {256, 256, 1, 1}},
    /* As it stands in a GGUF file: no other name. */
    {.name = "blk.1.attn_q.weight",
     .source_name = "blk.1.attn_q.weight",
     .dim_count = 2,
     .ne = {256, 256, 1, 1}},
    {.name = "blk.10.attn_q.weight",
     .source_name = "blk.10.attn_q.weight",
     .dim_count = 2,
     .ne = {256, 256, 1, 1}},
};
static const struct lq_tensor_index tensor_index = {tensors, LQ_COUNT_OF(tensors)};

static enum lq_status resolve(const char *const *names, size_t count, size_t *layers,
                              struct lq_error *err)
{
    struct lq_dqprofile_layer entries[8] = {0};
    for (size_t i = 0; i < count; i++) {
        entries[i].layer_name = names[i];
        entries[i].bit_width = 4;
    }
    struct lq_dqprofile profile = {.layers = entries, .layer_count = count};
    return lq_profile_resolve(&profile, "mine.dqprofile", &tensor_index, layers, err);
}

Test(profile, names_of_both_worlds)
{
    const char *names[] = {"model.layers.0.self_attn", "blk.0.ffn_down.weight",
                           "model.layers.1.self_attn.q_proj", "model.embed_tokens.weight"};
    size_t layers[LQ_COUNT_OF(tensors)];
    struct lq_error err;
    cr_assert_eq(resolve(names, 4, layers, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(layers[0], 3);
    cr_expect_eq(layers[1], SIZE_MAX);
    cr_expect_eq(layers[2], 0);
    cr_expect_eq(layers[3], 1);
    cr_expect_eq(layers[4], 2);
    cr_expect_eq(layers[5], SIZE_MAX);
}

Test(profile, the_most_specific_name_wins)
{
    const char *names[] = {"blk.0.attn_q.weight", "blk.*.attn_q.weight", "blk.0",
                           "model.layers.0.mlp"};
    size_t layers[LQ_COUNT_OF(tensors)];
    struct lq_error err;
    cr_assert_eq(resolve(names, 4, layers, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(layers[2], 0);
    cr_expect_eq(layers[3], 3);
    cr_expect_eq(layers[4], 1);
    cr_expect_eq(layers[5], 1);
}

Test(profile, a_beginning_ends_at_a_dot)
{
    const char *names[] = {"blk.1"};
    size_t layers[LQ_COUNT_OF(tensors)];
    struct lq_error err;
    cr_assert_eq(resolve(names, 1, layers, &err), LQ_OK);
    cr_expect_eq(layers[4], 0);
    cr_expect_eq(layers[5], SIZE_MAX);
}

Test(profile, unknown_layers_are_refused_with_a_suggestion)
{
    const char *names[] = {"model.layers.0.self_attn.q_porj"};
    size_t layers[LQ_COUNT_OF(tensors)];
    struct lq_error err;
    cr_expect_eq(resolve(names, 1, layers, &err), LQ_EPROFILE);
    cr_expect_not_null(strstr(err.message, "mine.dqprofile"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "q_porj"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "did you mean 'model.layers.0.self_attn.q_proj'"), "%s",
                       err.message);
    names[0] = "";
    cr_expect_eq(resolve(names, 1, layers, &err), LQ_EPROFILE);
    names[0] = "model.layers.0.input_layernorm";
    cr_expect_eq(resolve(names, 1, layers, &err), LQ_OK);
}

Test(profile, widths_and_types)
{
    struct lq_dqprofile_layer layer = {.bit_width = 1.5};
    cr_expect_eq(lq_profile_layer_type(&layer), LQ_DTYPE_IQ1_S);
    static const struct {
        double width;
        enum lq_dtype dtype;
    } pairs[] = {{2, LQ_DTYPE_Q2_K}, {3, LQ_DTYPE_Q3_K}, {4, LQ_DTYPE_Q4_K}, {5, LQ_DTYPE_Q5_K},
                 {6, LQ_DTYPE_Q6_K}, {8, LQ_DTYPE_Q8_0}, {16, LQ_DTYPE_F16}};
    for (size_t i = 0; i < LQ_COUNT_OF(pairs); i++) {
        layer.bit_width = pairs[i].width;
        cr_expect_eq(lq_profile_layer_type(&layer), pairs[i].dtype);
        cr_expect_eq(lq_profile_bit_width(pairs[i].dtype), pairs[i].width);
    }
    cr_expect_eq(lq_profile_bit_width(LQ_DTYPE_IQ1_S), 1.5);
    cr_expect_eq(lq_profile_bit_width(LQ_DTYPE_F32), 16.0);
    layer.has_type = true;
    layer.type = LQ_DTYPE_Q4_0;
    cr_expect_eq(lq_profile_layer_type(&layer), LQ_DTYPE_Q4_0);
    for (uint32_t t = 0; t < LQ_DTYPE_COUNT; t++) {
        if (lq_dtype_info(t) != NULL) {
            cr_expect(lq_bit_width_is_allowed(lq_profile_bit_width((enum lq_dtype)t)));
        }
    }
}

Test(profile, presets)
{
    size_t count = 0;
    const struct lq_preset *all = lq_presets(&count);
    cr_expect_eq(count, 3);
    cr_expect_str_eq(all[0].name, "attention-high");
    cr_expect_eq(lq_preset_find("attention_high"), &all[0]);
    cr_expect_null(lq_preset_find("custom"));
    cr_expect_null(lq_preset_find("nonsense"));
    cr_expect_eq(lq_preset_attention_high("blk.0.attn_q.weight", true), LQ_DTYPE_Q4_K);
    cr_expect_eq(lq_preset_attention_high("blk.0.ffn_up.weight", true), LQ_DTYPE_Q2_K);
    cr_expect_eq(lq_preset_attention_high("token_embd.weight", true), LQ_DTYPE_Q6_K);
    cr_expect_eq(lq_preset_attention_high("token_embd.weight", false), LQ_DTYPE_Q4_K);
}

Test(profile, more_bits_mean_less_error)
{
    enum { COLS = 256, ROWS = 200 };
    float *values = malloc(COLS * ROWS * sizeof *values);
    uint32_t seed = 3;
    for (int i = 0; i < COLS * ROWS; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
    struct lq_model_tensor tensor = {
        .name = "x.weight", .dtype = LQ_DTYPE_F32, .dim_count = 2, .ne = {COLS, ROWS, 1, 1}};
    enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX];
    struct lq_sensitivity_job job = {.tensor = &tensor,
                                     .data = values,
                                     .size_bytes = COLS * ROWS * sizeof *values,
                                     .row_count_max = 50,
                                     .types = types};
    job.type_count = lq_sensitivity_candidates(COLS, types);
    cr_assert_eq(job.type_count, 6);
    struct lq_sensitivity sampled, whole, again;
    struct lq_error err;
    cr_assert_eq(lq_sensitivity_measure(&job, &sampled, &err), LQ_OK, "%s", err.message);
    job.row_count_max = ROWS;
    cr_assert_eq(lq_sensitivity_measure(&job, &whole, &err), LQ_OK);
    for (size_t t = 0; t + 1 < job.type_count; t++) {
        cr_expect_gt(whole.errors[t], whole.errors[t + 1]);
        /* A quarter of the rows of a uniform distribution: within a tenth. */
        cr_expect_float_eq(sampled.errors[t] / whole.errors[t], 1.0, 0.1);
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_sensitivity_format(&whole, &text);
    cr_assert_eq(lq_sensitivity_parse(text.data, text.size_bytes, &again, &err), LQ_OK);
    cr_expect_eq(again.signal, whole.signal);
    cr_expect_eq(again.squares, whole.squares);
    /* Without importance the two are the same sum. */
    cr_expect_eq(whole.squares, whole.signal);
    cr_expect_eq(again.type_count, whole.type_count);
    cr_expect_eq(again.errors[3], whole.errors[3]);
    cr_expect_eq(again.types[3], whole.types[3]);
    static const char *const bad[] = {"{\"signal\":1,\"squares\":1,\"errors\":{\"Q4_K\":-1}}",
                                      "{\"signal\":1,\"squares\":1}",
                                      "{\"signal\":1,\"errors\":{}}"};
    for (size_t i = 0; i < LQ_COUNT_OF(bad); i++) {
        cr_expect_eq(lq_sensitivity_parse(bad[i], strlen(bad[i]), &again, &err), LQ_EPROFILE, "%s",
                     bad[i]);
    }
    values[0] = NAN;
    cr_expect_eq(lq_sensitivity_measure(&job, &sampled, &err), LQ_EFORMAT);
    lq_buffer_fini(&text);
    free(values);
}

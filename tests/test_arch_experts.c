#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>

#include "kernels/kernels.h"
#include "rules/model/backward.h"
#include "rules/model/forward.h"
#include "rules/model/spikes.h"
#include "tests/arch_model.h"

/* Mixtures of experts: which experts are read, when, and what is kept of them. */

enum { TOKENS = 40, BATCHES = 2, EXPERTS_MAX = 8, KINDS = 3 };

/* A weight source that counts, and can spoil a matrix. */
struct source {
    struct arch_model model;
    unsigned reads[KINDS][EXPERTS_MAX];
    const char *spoil; /* the name of a tensor, or NULL */
    uint64_t spoil_matrix;
    float spoil_value;
    uint16_t *spoiled;
};

static enum lq_status get(void *user, const char *name, const struct lq_model_tensor **tensor,
                          const void **data, struct lq_error *err)
{
    struct source *source = user;
    cr_expect_null(strstr(name, "_exps"), "the experts of '%s' are read whole", name);
    return arch_model_get(&source->model, name, tensor, data, err);
}

static enum lq_status get_matrix(void *user, const char *name, uint64_t matrix,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    struct source *source = user;
    int kind = strstr(name, "gate") != NULL ? 0 : strstr(name, "up") != NULL ? 1 : 2;
    enum lq_status status = arch_model_get_matrix(&source->model, name, matrix, tensor, data, err);
    cr_assert_eq(status, LQ_OK, "%s", err->message);
    cr_assert_lt(matrix, EXPERTS_MAX);
    source->reads[kind][matrix]++;
    if (source->spoil != NULL && strcmp(name, source->spoil) == 0 &&
        matrix == source->spoil_matrix) {
        size_t size_bytes = (size_t)((*tensor)->size_bytes / (*tensor)->ne[2]);
        cr_assert_eq((*tensor)->dtype, LQ_DTYPE_BF16);
        free(source->spoiled);
        source->spoiled = malloc(size_bytes);
        memcpy(source->spoiled, *data, size_bytes);
        source->spoiled[size_bytes / 2 - 1] = lq_f32_to_bf16(source->spoil_value);
        *data = source->spoiled;
    }
    return LQ_OK;
}

static void source_open(struct source *source, const char *name, struct lq_hparams *hparams)
{
    struct lq_error err = {0};
    memset(source, 0, sizeof *source);
    arch_model_open(&source->model, name);
    cr_assert_eq(arch_model_describe(&source->model, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_hparams_read(&source->model.meta, &source->model.index, "model", LQ_EMODEL,
                                 hparams, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_leq(hparams->expert_count, EXPERTS_MAX);
}

static void source_close(struct source *source)
{
    free(source->spoiled);
    arch_model_close(&source->model);
}

/* The first layer over the same batch several times: the last one's result and the sums. */
struct result {
    float *hidden; /* [TOKENS x width] */
    double *sums;
    uint64_t counts[EXPERTS_MAX];
};

static enum lq_status run(struct source *source, const struct lq_hparams *hparams,
                          uint64_t expert_bytes, struct result *out, struct lq_error *err)
{
    struct lq_map tokens;
    struct lq_forward *forward = NULL;
    struct lq_device *device = lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
    struct lq_forward_env env = {.device = device,
                                 .weights = {get, source, get_matrix},
                                 .expert_bytes = expert_bytes,
                                 .nonfinite_status = LQ_EIMPORTANCE};
    size_t sums = hparams->expert_count * (size_t)hparams->width;
    out->hidden = calloc(TOKENS, hparams->width * sizeof(float));
    out->sums = calloc(sums, sizeof(double));
    arch_model_map("mixtral", "tokens.i32", &tokens);
    cr_assert_eq(lq_forward_create(&forward, hparams, &env, TOKENS, err), LQ_OK);
    enum lq_status status = lq_forward_load_layer(forward, 0, err);
    for (int i = 0; status == LQ_OK && i < BATCHES; i++) {
        status = lq_forward_embed(forward, (const int32_t *)tokens.data, TOKENS, out->hidden, err);
        if (status == LQ_OK) {
            status = lq_forward_layer(forward, out->hidden, 1, true, false, err);
        }
    }
    if (status == LQ_OK) {
        status = lq_forward_sums(forward, LQ_INPUT_FFN_EXPS, out->sums, err);
        lq_forward_counts(forward, LQ_INPUT_FFN_EXPS, out->counts);
    }
    lq_forward_destroy(forward);
    device->ops->destroy(device);
    lq_map_close(&tokens);
    return status;
}

static void result_free(struct result *result)
{
    free(result->hidden);
    free(result->sums);
}

struct case_name {
    char name[32];
};

ParameterizedTestParameters(experts, memory_changes_no_bit)
{
    static struct case_name cases[] = {{"mixtral"}, {"qwen3moe"}};
    return cr_make_param_array(struct case_name, cases, sizeof cases / sizeof cases[0]);
}

ParameterizedTest(struct case_name *param, experts, memory_changes_no_bit)
{
    struct lq_hparams hparams;
    struct lq_error err = {0};
    struct source source;
    source_open(&source, param->name, &hparams);
    uint64_t matrix_bytes = (uint64_t)hparams.width * hparams.ffn_width * sizeof(float);
    /* All are kept; five of them; none. */
    const uint64_t budgets[] = {0, 5 * matrix_bytes + 3, 1};
    struct result results[3];
    for (int b = 0; b < 3; b++) {
        memset(source.reads, 0, sizeof source.reads);
        cr_assert_eq(run(&source, &hparams, budgets[b], &results[b], &err), LQ_OK, "%s",
                     err.message);
        unsigned reads = 0;
        unsigned in_use = 0;
        for (uint32_t e = 0; e < hparams.expert_count; e++) {
            in_use += results[b].counts[e] != 0;
            for (int k = 0; k < KINDS; k++) {
                reads += source.reads[k][e];
                cr_expect_eq(source.reads[k][e] != 0, results[b].counts[e] != 0);
            }
        }
        unsigned kept = b == 0 ? KINDS * in_use : b == 1 ? 5 : 0;
        cr_expect_eq(reads, kept + BATCHES * (KINDS * in_use - kept), "%u reads", reads);
        cr_expect_arr_eq(results[b].hidden, results[0].hidden,
                         TOKENS * hparams.width * sizeof(float));
        cr_expect_arr_eq(results[b].sums, results[0].sums,
                         hparams.expert_count * (size_t)hparams.width * sizeof(double));
    }
    for (int b = 0; b < 3; b++) {
        result_free(&results[b]);
    }
    source_close(&source);
}

Test(experts, memory_of_a_layer_is_not_that_of_its_experts)
{
    struct lq_hparams hparams;
    struct source source;
    source_open(&source, "qwen3moe", &hparams);
    hparams.width = 4096;
    hparams.ffn_width = 14336;
    hparams.expert_count = 8;
    hparams.expert_used = 2;
    /* Mixtral's experts of a layer are 5.6 GB of floats. */
    uint64_t guess = lq_forward_layer_memory(&hparams, 512);
    cr_expect_lt(guess, (uint64_t)3 << 30, "%llu", (unsigned long long)guess);
    cr_expect_gt(guess, LQ_FORWARD_EXPERT_BYTES);
    source_close(&source);
}

Test(experts, nan_in_an_expert_names_it)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    struct lq_hparams hparams;
    struct source source;
    struct result result;
    source_open(&source, "mixtral", &hparams);
    source.spoil = "blk.0.ffn_down_exps.weight";
    for (int i = 0; i < 3; i++) {
        struct lq_error err = {0};
        source.spoil_matrix = (uint64_t)i + 1;
        source.spoil_value = values[i];
        cr_expect_eq(run(&source, &hparams, 0, &result, &err), LQ_EIMPORTANCE);
        char expected[128];
        (void)snprintf(expected, sizeof expected,
                       "expert %d: the tensor 'blk.0.ffn_down_exps.weight' holds NaN or infinity",
                       i + 1);
        cr_expect_not_null(strstr(err.message, expected), "%s", err.message);
        result_free(&result);
    }
    source_close(&source);
}

/* With a threshold of nearly nothing the search takes weights out of several experts, and must
 * still see what it took out when no expert is kept. */
Test(experts, spikes_are_the_same_when_no_expert_is_kept)
{
    struct lq_hparams hparams;
    struct source source;
    struct lq_spike spikes[2][LQ_SPIKES_MAX];
    size_t counts[2] = {0, 0};
    float *hidden[2];
    struct lq_map tokens;
    source_open(&source, "mixtral", &hparams);
    arch_model_map("mixtral", "tokens.i32", &tokens);
    for (int i = 0; i < 2; i++) {
        struct lq_error err = {0};
        struct lq_forward *forward = NULL;
        struct lq_device *device =
            lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
        struct lq_forward_env env = {.device = device,
                                     .weights = {get, &source, get_matrix},
                                     .expert_bytes = i == 0 ? 0 : 1,
                                     .nonfinite_status = LQ_EIMPORTANCE};
        hidden[i] = calloc(TOKENS, hparams.width * sizeof(float));
        cr_assert_eq(lq_forward_create(&forward, &hparams, &env, TOKENS, &err), LQ_OK);
        cr_assert_eq(lq_forward_load_layer(forward, 0, &err), LQ_OK);
        cr_assert_eq(
            lq_forward_embed(forward, (const int32_t *)tokens.data, TOKENS, hidden[i], &err),
            LQ_OK);
        cr_assert_eq(lq_spikes_pass(forward, hidden[i], 1, 0.05, spikes[i], &counts[i], &err),
                     LQ_OK, "%s", err.message);
        lq_forward_destroy(forward);
        device->ops->destroy(device);
    }
    cr_expect_geq(counts[0], 2, "%zu", counts[0]);
    cr_expect_eq(counts[0], counts[1]);
    cr_expect_arr_eq(spikes[0], spikes[1], counts[0] * sizeof spikes[0][0]);
    cr_expect_arr_eq(hidden[0], hidden[1], TOKENS * hparams.width * sizeof(float));
    free(hidden[0]);
    free(hidden[1]);
    lq_map_close(&tokens);
    source_close(&source);
}

/* Gradients read experts too, in another order than the forward pass. */
Test(experts, gradients_are_the_same_when_no_expert_is_kept)
{
    static const enum lq_layer_weight weights[] = {LQ_WEIGHT_FFN_GATE_EXPS, LQ_WEIGHT_FFN_UP_EXPS,
                                                   LQ_WEIGHT_FFN_DOWN_EXPS};
    const struct lq_gradient_options options = {.method = LQ_GRADIENT_PRODUCT};
    struct lq_hparams hparams;
    struct source source;
    struct lq_map tokens;
    double *sums[2][KINDS];
    float *grads[2];
    source_open(&source, "qwen3moe", &hparams);
    arch_model_map("qwen3moe", "tokens.i32", &tokens);
    for (int i = 0; i < 2; i++) {
        struct lq_error err = {0};
        struct lq_backward *backward = NULL;
        struct lq_device *device =
            lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
        struct lq_forward_env env = {.device = device,
                                     .weights = {get, &source, get_matrix},
                                     .expert_bytes = i == 0 ? 0 : 1,
                                     .nonfinite_status = LQ_EIMPORTANCE};
        float *hidden = calloc(TOKENS, hparams.width * sizeof(float));
        grads[i] = calloc(TOKENS, hparams.width * sizeof(float));
        cr_assert_eq(lq_backward_create(&backward, &hparams, &env, TOKENS, &options, &err), LQ_OK);
        cr_assert_eq(
            lq_backward_embed(backward, (const int32_t *)tokens.data, TOKENS, hidden, &err), LQ_OK);
        memcpy(grads[i], hidden, TOKENS * hparams.width * sizeof(float));
        cr_assert_eq(lq_backward_load_layer(backward, 1, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_backward_layer(backward, hidden, grads[i], 1, &err), LQ_OK, "%s",
                     err.message);
        for (int k = 0; k < KINDS; k++) {
            sums[i][k] = calloc(hparams.expert_count * (size_t)hparams.width, sizeof(double));
            cr_assert_eq(lq_backward_sums(backward, weights[k], sums[i][k], &err), LQ_OK);
        }
        lq_backward_destroy(backward);
        device->ops->destroy(device);
        free(hidden);
    }
    cr_expect_arr_eq(grads[0], grads[1], TOKENS * hparams.width * sizeof(float));
    for (int k = 0; k < KINDS; k++) {
        cr_expect_gt(sums[0][k][0] + sums[0][k][1], 0.0);
        cr_expect_arr_eq(sums[0][k], sums[1][k],
                         hparams.expert_count * (size_t)hparams.width * sizeof(double));
        free(sums[0][k]);
        free(sums[1][k]);
    }
    free(grads[0]);
    free(grads[1]);
    lq_map_close(&tokens);
    source_close(&source);
}

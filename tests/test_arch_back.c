/* Gradients of the tiny model of every architecture: against automatic differentiation in double
 * precision (tests/make_arch_gradients.py) and against differences of the loss. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>

#include "rules/model/backward.h"
#include "tests/arch_model.h"

/* Of a column's sum, relative to the mean of its matrix. Two to seven layers forward and backward,
 * each of 2 x 2 products of up to 64 terms and attention over 40 rows; sums of k terms are off by
 * sqrt(k) * 2^-24, 5e-7, and gates and norms amplify that: 7 * 4 * 5e-7 = 1.4e-5. Squares double
 * it, and columns differ from the mean by a factor of a few. */
#define GOLDEN_TOLERANCE 1e-4
/* Against differences in float arithmetic: a loss near 5 whose 39 terms are off by 1e-6 each is
 * exact to about 2e-7. The two sides of a step are 1e-2 apart, half of that for the near ones, of
 * which four thirds are taken: 2 * 2e-7 / 5e-3 * 5 / 3 = 1.3e-4; what is left is the fifth order.
 */
#define DIFFERENCE_TOLERANCE 2e-3
#define DIFFERENCE 5e-3 /* of the loss, between the middle and a side */
#define STEP_MAX 0.02   /* weights are near 0.2 */
#define JUMP 0.02       /* of a slope, when a step is halved */

enum { HALVINGS_MAX = 3 };

enum { SEQUENCE = 40, SAMPLES = 2, LAYERS_MAX = 7, WIDTH_MAX = 64, COLS_MAX = 64 * 8 };

struct case_name {
    char name[32];
};

static struct case_name cases[] = {
    {"llama"},         {"llama3-rope"},    {"llama-linear"},   {"llama-yarn"},
    {"mistral"},       {"mixtral"},        {"qwen2"},          {"qwen2-yarn"},
    {"qwen3"},         {"qwen3moe"},       {"qwen3moe-share"}, {"phi3"},
    {"phi3-longrope"}, {"phi3-shortrope"}, {"gemma2"},         {"gemma3"},
};

/* A model, and the one tensor of it that is changed. */
struct source {
    struct arch_model model;
    struct lq_hparams hparams;
    struct lq_model_tensor changed;
    float *values; /* NULL: nothing is changed */
    int32_t tokens[SAMPLES * SEQUENCE];
    struct lq_device *device;
    float hidden[LAYERS_MAX + 1][SAMPLES * SEQUENCE * WIDTH_MAX];
    float grad[SAMPLES * SEQUENCE * WIDTH_MAX];
};

static struct lq_error err;

static enum lq_status get(void *user, const char *name, const struct lq_model_tensor **tensor,
                          const void **data, struct lq_error *error)
{
    struct source *source = user;
    if (source->values != NULL && strcmp(name, source->changed.name) == 0) {
        *tensor = &source->changed;
        *data = source->values;
        return LQ_OK;
    }
    return arch_model_get(&source->model, name, tensor, data, error);
}

static struct source *source_open(const char *name)
{
    struct source *source = calloc(1, sizeof *source);
    struct lq_map tokens;
    arch_model_open(&source->model, name);
    cr_assert_eq(arch_model_describe(&source->model, &err), LQ_OK, "%s: %s", name, err.message);
    cr_assert_eq(lq_hparams_read(&source->model.meta, &source->model.index, "model", LQ_EMODEL,
                                 &source->hparams, &err),
                 LQ_OK, "%s", err.message);
    cr_assert(source->hparams.layer_count <= LAYERS_MAX && source->hparams.width <= WIDTH_MAX);
    arch_model_map(name, "tokens.i32", &tokens);
    cr_assert_eq(tokens.size_bytes, SEQUENCE * sizeof(int32_t));
    memcpy(source->tokens, tokens.data, SEQUENCE * sizeof(int32_t));
    for (size_t i = 0; i < SEQUENCE; i++) {
        source->tokens[SEQUENCE + i] = source->tokens[SEQUENCE - 1 - i];
    }
    lq_map_close(&tokens);
    source->device = lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
    return source;
}

static void source_close(struct source *source)
{
    source->device->ops->destroy(source->device);
    arch_model_close(&source->model);
    free(source->values);
    free(source);
}

static struct lq_forward_env make_env(struct source *source)
{
    return (struct lq_forward_env){.device = source->device,
                                   .weights = {.get = get, .user = source},
                                   .nonfinite_status = LQ_EFAIL};
}

/* Hidden states of all layers; returns the sum of the samples' losses. */
static double go_forward(struct source *source, size_t samples)
{
    struct lq_forward *forward = NULL;
    struct lq_forward_env env = make_env(source);
    size_t rows = samples * SEQUENCE;
    int32_t targets[SAMPLES * SEQUENCE];
    double nll[SAMPLES * SEQUENCE];
    double loss = 0.0;
    cr_assert_eq(lq_forward_create(&forward, &source->hparams, &env, SEQUENCE, &err), LQ_OK);
    cr_assert_eq(lq_forward_embed(forward, source->tokens, rows, source->hidden[0], &err), LQ_OK);
    for (uint32_t l = 0; l < source->hparams.layer_count; l++) {
        memcpy(source->hidden[l + 1], source->hidden[l], sizeof source->hidden[l]);
        cr_assert_eq(lq_forward_load_layer(forward, l, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_forward_layer(forward, source->hidden[l + 1], samples, false, false, &err),
                     LQ_OK, "%s", err.message);
    }
    for (size_t i = 0; i < rows; i++) {
        targets[i] = (i + 1) % SEQUENCE == 0 ? 0 : source->tokens[i + 1];
    }
    cr_assert_eq(lq_forward_load_output(forward, &err), LQ_OK);
    cr_assert_eq(lq_forward_score(forward, source->hidden[source->hparams.layer_count], targets,
                                  rows, nll, &err),
                 LQ_OK);
    for (size_t i = 0; i < rows; i++) {
        loss += (i + 1) % SEQUENCE == 0 ? 0.0 : nll[i] / (SEQUENCE - 1);
    }
    lq_forward_destroy(forward);
    return loss;
}

/* Calls `body` for every matrix of every layer, once its sums are complete. */
static void go_back(struct source *source, size_t samples,
                    const struct lq_gradient_options *options,
                    void (*body)(void *user, struct lq_backward *backward, uint32_t layer,
                                 enum lq_layer_weight weight),
                    void *user)
{
    struct lq_backward *backward = NULL;
    struct lq_forward_env env = make_env(source);
    uint32_t layers = source->hparams.layer_count;
    cr_assert_eq(lq_backward_create(&backward, &source->hparams, &env, SEQUENCE, options, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_backward_load_output(backward, &err), LQ_OK);
    cr_assert_eq(lq_backward_output(backward, source->hidden[layers], source->tokens, samples,
                                    source->grad, &err),
                 LQ_OK, "%s", err.message);
    for (uint32_t l = layers; l-- > 0;) {
        cr_assert_eq(lq_backward_load_layer(backward, l, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_backward_layer(backward, source->hidden[l], source->grad, samples, &err),
                     LQ_OK, "%s", err.message);
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            if (lq_hparams_has_matrix(&source->hparams, (enum lq_layer_weight)w)) {
                body(user, backward, l, (enum lq_layer_weight)w);
            }
        }
    }
    lq_backward_destroy(backward);
}

/* ---- automatic differentiation ---- */

struct golden {
    struct source *source;
    const float *values;
    size_t at[LAYERS_MAX + 1]; /* where a layer's values begin */
    size_t offset;             /* within the newest layer */
    uint32_t layer;
    bool squares;
    double worst;
};

static size_t column_count(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    enum lq_layer_input input = lq_layer_weight_input(weight);
    return lq_layer_input_cols(hparams, input) * lq_layer_input_mats(hparams, input);
}

static void compare_sums(void *user, struct lq_backward *backward, uint32_t layer,
                         enum lq_layer_weight weight)
{
    struct golden *golden = user;
    double sums[COLS_MAX];
    double mean = 0.0;
    size_t count = column_count(&golden->source->hparams, weight);
    cr_assert_leq(count, COLS_MAX);
    golden->offset = layer == golden->layer ? golden->offset : 0;
    golden->layer = layer;
    const float *expected =
        golden->values + golden->at[layer] + golden->offset + (golden->squares ? count : 0);
    golden->offset += 2 * count;
    cr_assert_eq(lq_backward_sums(backward, weight, sums, &err), LQ_OK, "%s", err.message);
    for (size_t j = 0; j < count; j++) {
        mean += (double)expected[j] / (double)count;
    }
    for (size_t j = 0; j < count; j++) {
        double off = fabs(sums[j] - (double)expected[j]) / mean;
        golden->worst = off > golden->worst ? off : golden->worst;
        cr_expect_lt(off, GOLDEN_TOLERANCE, "layer %u %s column %zu: %g, expected %g",
                     (unsigned)layer, lq_layer_weight_name(weight), j, sums[j],
                     (double)expected[j]);
    }
}

ParameterizedTestParameters(arch_back, sums_agree_with_automatic_differentiation)
{
    return cr_make_param_array(struct case_name, cases, sizeof cases / sizeof cases[0]);
}

ParameterizedTest(struct case_name *param, arch_back, sums_agree_with_automatic_differentiation)
{
    struct source *source = source_open(param->name);
    const struct lq_hparams *hparams = &source->hparams;
    struct lq_map map;
    arch_model_map(param->name, "gradients.f32", &map);
    float *values = malloc((size_t)map.size_bytes);
    memcpy(values, map.data, (size_t)map.size_bytes);
    (void)go_forward(source, SAMPLES);
    double worst[2];
    for (int squares = 0; squares < 2; squares++) {
        struct golden golden = {.source = source, .values = values, .squares = squares != 0};
        size_t total = 0;
        for (uint32_t l = 0; l < hparams->layer_count; l++) {
            golden.at[l] = total;
            for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
                total += lq_hparams_has_matrix(hparams, (enum lq_layer_weight)w)
                             ? 2 * column_count(hparams, (enum lq_layer_weight)w)
                             : 0;
            }
        }
        golden.layer = hparams->layer_count;
        cr_assert_eq(total * sizeof(float), map.size_bytes);
        struct lq_gradient_options options = {.method = squares != 0 ? LQ_GRADIENT_FISHER
                                                                     : LQ_GRADIENT_PRODUCT};
        go_back(source, SAMPLES, &options, compare_sums, &golden);
        worst[squares] = golden.worst;
    }
    printf("%s: largest relative difference of a column, |g w| %.1e, g^2 %.1e\n", param->name,
           worst[0], worst[1]);
    free(values);
    lq_map_close(&map);
    source_close(source);
}

/* ---- differences ---- */

/* Of every matrix in one layer: the weight with the largest score, so that a step moves the loss by
 * much more than its rounding. */
struct chosen {
    struct source *source;
    size_t index[LQ_LAYER_WEIGHT_COUNT];
    double score[LQ_LAYER_WEIGHT_COUNT];
};

static uint32_t layer_of(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    return (uint32_t)weight % hparams->layer_count;
}

static size_t elem_count(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    uint64_t cols = 0;
    uint64_t rows = 0;
    lq_layer_weight_shape(hparams, weight, &cols, &rows);
    return (size_t)(cols * rows * lq_layer_weight_mats(hparams, weight));
}

static void choose_weight(void *user, struct lq_backward *backward, uint32_t layer,
                          enum lq_layer_weight weight)
{
    struct chosen *chosen = user;
    const float *scores = NULL;
    if (layer != layer_of(&chosen->source->hparams, weight)) {
        return;
    }
    cr_assert_eq(lq_backward_scores(backward, weight, &scores, &err), LQ_OK);
    for (size_t i = 0; i < elem_count(&chosen->source->hparams, weight); i++) {
        if ((double)scores[i] > chosen->score[weight]) {
            chosen->score[weight] = (double)scores[i];
            chosen->index[weight] = i;
        }
    }
}

/* Decodes a matrix into source->values, where it may be changed. */
static void take_matrix(struct source *source, enum lq_layer_weight weight)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    const struct lq_model_tensor *tensor = NULL;
    const void *data = NULL;
    size_t count = elem_count(&source->hparams, weight);
    free(source->values);
    source->values = NULL;
    lq_layer_weight_path(layer_of(&source->hparams, weight), weight, name);
    cr_assert_eq(arch_model_get(&source->model, name, &tensor, &data, &err), LQ_OK);
    float *values = malloc(count * sizeof *values);
    cr_assert_eq(lq_model_tensor_rows(tensor, data, 0, tensor->ne[1] * tensor->ne[2], values, &err),
                 LQ_OK);
    source->changed = *tensor;
    source->changed.dtype = LQ_DTYPE_F32;
    source->changed.size_bytes = count * sizeof *values;
    source->changed.permute_heads = 0;
    source->values = values;
}

static double loss_slope(struct source *source, size_t at, double step)
{
    float kept = source->values[at];
    source->values[at] = (float)((double)kept + step);
    double above = (double)source->values[at];
    double loss = go_forward(source, 1);
    source->values[at] = (float)((double)kept - step);
    above -= (double)source->values[at];
    loss -= go_forward(source, 1);
    source->values[at] = kept;
    return loss / above;
}

/* Two step sizes cancel the error of third order (Richardson). Where they disagree the loss jumps
 * between them, for a token goes to another expert: then both become smaller. */
static double smooth_slope(struct source *source, size_t at, double step)
{
    double far = loss_slope(source, at, step);
    double near = loss_slope(source, at, step / 2);
    for (int i = 0; i < HALVINGS_MAX && fabs(far - near) > JUMP * fabs(near); i++) {
        step /= 2;
        far = near;
        near = loss_slope(source, at, step / 2);
    }
    return (4.0 * near - far) / 3.0;
}

ParameterizedTestParameters(arch_back, agrees_with_differences_of_the_loss)
{
    return cr_make_param_array(struct case_name, cases, sizeof cases / sizeof cases[0]);
}

ParameterizedTest(struct case_name *param, arch_back, agrees_with_differences_of_the_loss)
{
    struct source *source = source_open(param->name);
    struct chosen chosen = {.source = source};
    struct lq_gradient_options options = {.method = LQ_GRADIENT_PRODUCT, .scores = true};
    double worst = 0.0;
    (void)go_forward(source, 1);
    go_back(source, 1, &options, choose_weight, &chosen);
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (!lq_hparams_has_matrix(&source->hparams, weight)) {
            continue;
        }
        take_matrix(source, weight);
        size_t at = chosen.index[weight];
        double gradient = chosen.score[weight] / fabs((double)source->values[at]);
        double step = fmin(DIFFERENCE / gradient, STEP_MAX);
        double expected = fabs(smooth_slope(source, at, step));
        double off = fabs(gradient / expected - 1.0);
        worst = off > worst ? off : worst;
        cr_expect_lt(off, DIFFERENCE_TOLERANCE, "%s layer %u %s: gradient %g, differences give %g",
                     param->name, (unsigned)layer_of(&source->hparams, weight),
                     lq_layer_weight_name(weight), gradient, expected);
    }
    printf("%s: largest relative difference from differences of the loss %.1e\n", param->name,
           worst);
    source_close(source);
}

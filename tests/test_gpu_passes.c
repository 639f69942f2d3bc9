/* Whole models forward and backward on a GPU, beside the CPU: the shipped model on real text, and
 * the tiny model of every architecture. The GPU is the one that tests/gpu_fake.c makes of the CPU,
 * which rounds what a GPU rounds; LQ_TEST_CUDA_MODULE names a real module instead. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>

#include "engine/base/compiler.h"
#include "kernels/gpu_device_parts.h"
#include "kernels/gpu_load.h"
#include "rules/model/backward.h"
#include "rules/model/hf_documents.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/vocab.h"
#include "rules/quality/divergence.h"
#include "tests/arch_model.h"
#include "tests/tiny_llama.h"

/* The project's requirement: importance matrix and perplexity within 1 %. */
#define REQUIREMENT 0.01
/* A product whose sides are rounded to bf16 is off by sqrt(2) * 1.65e-3 of its size in the root
 * mean square. A layer adds two results to the stream, each behind two products or more. Of these
 * tiny models, with up to 7 layers and weights that do not average anything out, that makes up to
 * sqrt(28) * 2.3e-3 = 1.2e-2; gates, norms and softmax with peaks double it. */
#define LOGIT_TOLERANCE 2.5e-2
/* Gradients go through all layers twice. Of the sums of a matrix, relative to their mean. */
#define GRADIENT_TOLERANCE 5e-2

static struct lq_error err;

/* ---- devices ---- */

static struct lq_device *open_gpu(const char *words)
{
    char why_not[LQ_GPU_WHY_BYTES];
    const char *real = getenv("LQ_TEST_CUDA_MODULE");
    struct lq_gpu_context *context = NULL;
    struct lq_device *device = NULL;
    cr_assert_eq(setenv("LQ_FAKE_GPU", words, 1), 0);
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE",
                        real != NULL ? real : LQ_BINARY_DIR "/tests/libgpu_fake.so", 1),
                 0);
    const struct lq_gpu_module *module = lq_gpu_load(why_not);
    cr_assert_not_null(module, "%s", why_not);
    cr_assert_null(module->open(0, &context));
    const char *why = lq_gpu_device_create(module, context, &device);
    cr_assert_null(why, "%s", why);
    return device;
}

/* The same by single threads, all accesses watched, in memory of just the size that was wanted. */
static struct lq_device *open_watched_gpu(void)
{
    struct lq_device *device = open_gpu("threads");
    lq_gpu_of(device)->has_no_pool = getenv("LQ_TEST_CUDA_MODULE") == NULL;
    return device;
}

static struct lq_device *open_cpu(void)
{
    return lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
}

/* ---- a model's passes ---- */

struct model {
    const struct lq_hparams *hparams;
    struct lq_weight_source weights;
    const int32_t *tokens;
    size_t samples;
    uint32_t sequence;
};

/* Sums of columns of one matrix after another. */
struct sums {
    double *values;
    size_t *ends; /* of each matrix */
    size_t count, matrix_count;
};

struct outcome {
    double nll;    /* mean over scored tokens */
    float *logits; /* of the first sample */
    size_t logit_count;
    struct sums squares;
    struct sums gradients;
};

static double *add_sums(struct sums *sums, size_t count)
{
    sums->values = realloc(sums->values, (sums->count + count) * sizeof *sums->values);
    sums->ends = realloc(sums->ends, (sums->matrix_count + 1) * sizeof *sums->ends);
    sums->count += count;
    sums->ends[sums->matrix_count++] = sums->count;
    return sums->values + sums->count - count;
}

static struct lq_forward_env env_of(const struct model *model, struct lq_device *device)
{
    return (struct lq_forward_env){
        .device = device, .weights = model->weights, .nonfinite_status = LQ_EFAIL};
}

static void add_squares(struct lq_forward *forward, const struct lq_hparams *hparams,
                        struct sums *squares)
{
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        size_t count = lq_layer_input_cols(hparams, input) * lq_layer_input_mats(hparams, input);
        if (count > 0) {
            double *sums = add_sums(squares, count);
            cr_assert_eq(lq_forward_sums(forward, input, sums, &err), LQ_OK, "%s", err.message);
        }
    }
}

/* hidden[layer] is what the layer takes. */
static void score(const struct model *model, struct lq_forward *forward, const float *last,
                  struct outcome *outcome)
{
    size_t rows = model->samples * model->sequence;
    int32_t *targets = calloc(rows, sizeof *targets);
    double *nll = calloc(rows, sizeof *nll);
    for (size_t i = 0; i < rows; i++) {
        targets[i] = (i + 1) % model->sequence == 0 ? 0 : model->tokens[i + 1];
    }
    cr_assert_eq(lq_forward_load_output(forward, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_forward_score(forward, last, targets, rows, nll, &err), LQ_OK, "%s",
                 err.message);
    for (size_t i = 0; i < rows; i++) {
        outcome->nll += (i + 1) % model->sequence == 0 ? 0.0 : nll[i];
    }
    outcome->nll /= (double)(model->samples * (model->sequence - 1));
    outcome->logit_count = model->sequence * (size_t)model->hparams->vocab_size;
    outcome->logits = calloc(outcome->logit_count, sizeof *outcome->logits);
    cr_assert_eq(lq_forward_logits(forward, last, model->sequence, outcome->logits, &err), LQ_OK);
    free(targets);
    free(nll);
}

static void go_forward(const struct model *model, struct lq_device *device, float **hidden,
                       struct outcome *outcome)
{
    struct lq_forward *forward = NULL;
    struct lq_forward_env env = env_of(model, device);
    size_t rows = model->samples * model->sequence;
    size_t bytes = rows * model->hparams->width * sizeof(float);
    uint32_t layers = model->hparams->layer_count;
    cr_assert_eq(lq_forward_create(&forward, model->hparams, &env, model->sequence, &err), LQ_OK,
                 "%s", err.message);
    for (uint32_t l = 0; l <= layers; l++) {
        hidden[l] = malloc(bytes);
    }
    cr_assert_leq(model->samples, lq_forward_batch_samples(forward));
    cr_assert_eq(lq_forward_embed(forward, model->tokens, rows, hidden[0], &err), LQ_OK);
    for (uint32_t l = 0; l < layers; l++) {
        memcpy(hidden[l + 1], hidden[l], bytes);
        cr_assert_eq(lq_forward_load_layer(forward, l, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_forward_layer(forward, hidden[l + 1], model->samples, true, false, &err),
                     LQ_OK, "%s", err.message);
        add_squares(forward, model->hparams, &outcome->squares);
    }
    score(model, forward, hidden[layers], outcome);
    lq_forward_destroy(forward);
}

static void go_back(const struct model *model, struct lq_device *device, float *const *hidden,
                    struct outcome *outcome)
{
    struct lq_backward *backward = NULL;
    struct lq_forward_env env = env_of(model, device);
    const struct lq_gradient_options options = {.method = LQ_GRADIENT_PRODUCT};
    const struct lq_hparams *hparams = model->hparams;
    float *grad = malloc(model->samples * model->sequence * hparams->width * sizeof *grad);
    cr_assert_eq(lq_backward_create(&backward, hparams, &env, model->sequence, &options, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_backward_load_output(backward, &err), LQ_OK);
    cr_assert_eq(lq_backward_output(backward, hidden[hparams->layer_count], model->tokens,
                                    model->samples, grad, &err),
                 LQ_OK, "%s", err.message);
    for (uint32_t l = hparams->layer_count; l-- > 0;) {
        cr_assert_eq(lq_backward_load_layer(backward, l, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_backward_layer(backward, hidden[l], grad, model->samples, &err), LQ_OK,
                     "%s", err.message);
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            enum lq_layer_weight weight = (enum lq_layer_weight)w;
            if (lq_hparams_has_matrix(hparams, weight)) {
                enum lq_layer_input input = lq_layer_weight_input(weight);
                double *sums =
                    add_sums(&outcome->gradients, lq_layer_input_cols(hparams, input) *
                                                      lq_layer_input_mats(hparams, input));
                cr_assert_eq(lq_backward_sums(backward, weight, sums, &err), LQ_OK, "%s",
                             err.message);
            }
        }
    }
    lq_backward_destroy(backward);
    free(grad);
}

static struct outcome run_on(const struct model *model, struct lq_device *device)
{
    struct outcome outcome = {0};
    float **hidden = calloc(model->hparams->layer_count + 1, sizeof *hidden);
    go_forward(model, device, hidden, &outcome);
    go_back(model, device, hidden, &outcome);
    cr_expect_null(device->ops->failure(device));
    for (uint32_t l = 0; l <= model->hparams->layer_count; l++) {
        free(hidden[l]);
    }
    free(hidden);
    device->ops->destroy(device);
    return outcome;
}

static void outcome_free(struct outcome *outcome)
{
    free(outcome->logits);
    free(outcome->squares.values);
    free(outcome->squares.ends);
    free(outcome->gradients.values);
    free(outcome->gradients.ends);
}

/* ---- comparison ---- */

/* Of columns: the worst difference relative to the column or the mean of its matrix, whichever is
 * larger, and the root of the mean square of the difference relative to the column itself. */
struct distance {
    double worst;
    double typical;
};

static struct distance distance_of(const struct sums *expected, const struct sums *got)
{
    struct distance distance = {0};
    size_t at = 0;
    size_t counted = 0;
    cr_assert_eq(expected->count, got->count);
    for (size_t m = 0; m < expected->matrix_count; m++) {
        double mean = 0.0;
        for (size_t j = at; j < expected->ends[m]; j++) {
            mean += expected->values[j] / (double)(expected->ends[m] - at);
        }
        for (; at < expected->ends[m]; at++) {
            double off = fabs(got->values[at] - expected->values[at]);
            double ratio = off / fmax(expected->values[at], mean);
            distance.worst = ratio <= distance.worst ? distance.worst : ratio;
            if (expected->values[at] > 0.0) {
                double relative = off / expected->values[at];
                distance.typical += relative * relative;
                counted++;
            }
        }
    }
    distance.typical = sqrt(distance.typical / (double)counted);
    return distance;
}

static double logit_distance(const struct outcome *expected, const struct outcome *got)
{
    double error = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < expected->logit_count; i++) {
        double off = (double)got->logits[i] - (double)expected->logits[i];
        error += off * off;
        size += (double)expected->logits[i] * (double)expected->logits[i];
    }
    return sqrt(error / size);
}

static void show(const char *name, const struct outcome *expected, const struct outcome *got)
{
    struct distance squares = distance_of(&expected->squares, &got->squares);
    struct distance gradients = distance_of(&expected->gradients, &got->gradients);
    printf("%s: logits %.2e, perplexity %.2e, squares %.2e (worst %.2e), gradients %.2e (worst "
           "%.2e)\n",
           name, logit_distance(expected, got), fabs(exp(got->nll - expected->nll) - 1.0),
           squares.typical, squares.worst, gradients.typical, gradients.worst);
}

/* ---- the shipped model ---- */

enum { SAMPLES = 6, SEQUENCE = 100, TEXT_BYTES = 6000 };

static cJSON *read_json(const char *path)
{
    struct lq_buffer text;
    cJSON *json = NULL;
    lq_buffer_init(&text);
    cr_assert_eq(lq_file_read(path, 64 << 20, &text, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(
        lq_json_parse((const char *)text.data, text.size_bytes, path, LQ_EFORMAT, &json, &err),
        LQ_OK, "%s", err.message);
    lq_buffer_fini(&text);
    return json;
}

/* The first tokens of the text that ships with the model. */
static void read_tokens(int32_t *tokens, size_t count)
{
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    struct lq_arena arena;
    struct lq_gguf gguf;
    struct lq_map text;
    struct lq_vocab *vocab = NULL;
    struct lq_token_list list;
    struct lq_hf_documents documents = {
        .tokenizer = read_json(LQ_SOURCE_DIR "/examples/tiny-llama/tokenizer.json")};
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    lq_arena_init(&arena);
    lq_token_list_init(&list);
    cr_assert_eq(lq_hf_tokenizer_put(&documents, 4096, &arena, &writer, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "test", LQ_EFORMAT,
                               &arena, &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_vocab_load(&vocab, &gguf, "test", &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_map_open(&text, LQ_SOURCE_DIR "/examples/text/eval.txt", LQ_EIO, &err), LQ_OK);
    cr_assert_eq(lq_tokenize(vocab, (const char *)text.data, TEXT_BYTES, false, false, &list, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_geq(list.count, count);
    memcpy(tokens, list.ids, count * sizeof *tokens);
    lq_map_close(&text);
    lq_token_list_fini(&list);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&arena);
    lq_buffer_fini(&bytes);
    lq_gguf_writer_fini(&writer);
    cJSON_Delete(documents.tokenizer);
}

Test(gpu_passes, the_shipped_model_agrees_with_the_cpu)
{
    static int32_t tokens[SAMPLES * SEQUENCE];
    struct tiny_llama tiny;
    tiny_open(&tiny);
    read_tokens(tokens, LQ_COUNT_OF(tokens));
    const struct model model = {&tiny.hparams, {tiny_get, &tiny}, tokens, SAMPLES, SEQUENCE};
    struct outcome expected = run_on(&model, open_cpu());
    struct outcome got = run_on(&model, open_gpu(""));
    struct distance squares = distance_of(&expected.squares, &got.squares);
    struct distance gradients = distance_of(&expected.gradients, &got.gradients);
    show("tiny-llama", &expected, &got);
    cr_expect_lt(logit_distance(&expected, &got), LOGIT_TOLERANCE);
    cr_expect_lt(fabs(exp(got.nll - expected.nll) - 1.0), REQUIREMENT);
    cr_expect_lt(squares.typical, REQUIREMENT);
    cr_expect_lt(squares.worst, REQUIREMENT);
    cr_expect_lt(gradients.typical, GRADIENT_TOLERANCE);
    cr_expect_lt(gradients.worst, GRADIENT_TOLERANCE);
    outcome_free(&expected);
    outcome_free(&got);
    tiny_close(&tiny);
}

/* Two models' logits compared where they are, and here after they were fetched: the same but for
 * the order of sums. */
Test(gpu_passes, logits_are_compared_on_the_device)
{
    enum { ROWS = 70 };
    static int32_t targets[ROWS];
    struct lq_divergence_row expected;
    struct lq_logits_difference got[ROWS];
    struct tiny_llama tiny;
    struct lq_forward *forwards[2];
    tiny_open(&tiny);
    struct lq_device *device = open_gpu("");
    const struct model model = {&tiny.hparams, {tiny_get, &tiny}, targets, 1, ROWS};
    struct lq_forward_env env = env_of(&model, device);
    size_t width = tiny.hparams.width;
    size_t vocab = tiny.hparams.vocab_size;
    float *hidden[2];
    float *logits[2];
    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(lq_forward_create(&forwards[i], &tiny.hparams, &env, ROWS, &err), LQ_OK, "%s",
                     err.message);
        cr_assert_eq(lq_forward_load_output(forwards[i], &err), LQ_OK, "%s", err.message);
        hidden[i] = malloc(ROWS * width * sizeof(float));
        logits[i] = malloc(ROWS * vocab * sizeof(float));
    }
    for (size_t i = 0; i < ROWS * width; i++) {
        hidden[0][i] = (float)sin((double)(i * i));
        hidden[1][i] = hidden[0][i] + 0.1f * (float)cos((double)(3 * i));
        targets[i / width] = (int32_t)((i * 7) % vocab);
    }
    const struct lq_forward_pair pair = {forwards[1], forwards[0], hidden[1], hidden[0]};
    cr_assert(lq_forward_can_compare(forwards[1]));
    cr_assert_eq(lq_forward_compare(&pair, targets, ROWS, got, &err), LQ_OK, "%s", err.message);
    size_t same = 0;
    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(lq_forward_logits(forwards[i], hidden[i], ROWS, logits[i], &err), LQ_OK);
    }
    for (size_t r = 0; r < ROWS; r++) {
        lq_divergence_of_logits(logits[0] + r * vocab, logits[1] + r * vocab, vocab, targets[r],
                                &expected);
        cr_expect_float_eq(got[r].kld, expected.kld, 1e-10);
        cr_expect_float_eq(got[r].nll, expected.nll, 1e-10);
        cr_expect_float_eq(got[r].nll_original, expected.nll_original, 1e-10);
        cr_expect_eq(got[r].same_top != 0.0, expected.same_top);
        same += expected.same_top;
    }
    cr_expect(same > 0 && same < ROWS, "%zu of %d have the same top", same, ROWS);
    for (size_t i = 0; i < 2; i++) {
        lq_forward_destroy(forwards[i]);
        free(hidden[i]);
        free(logits[i]);
    }
    device->ops->destroy(device);
    tiny_close(&tiny);
}

/* Threads and blocks in the other direction: the same bits, or there is a race. */
Test(gpu_passes, the_order_of_threads_does_not_matter)
{
    enum { FEW = 2, SHORT = 20 };
    static int32_t tokens[FEW * SHORT];
    struct tiny_llama tiny;
    struct outcome outcomes[2];
    if (getenv("LQ_TEST_CUDA_MODULE") != NULL) {
        cr_skip_test("a real GPU has one order");
    }
    tiny_open(&tiny);
    read_tokens(tokens, LQ_COUNT_OF(tokens));
    const struct model model = {&tiny.hparams, {tiny_get, &tiny}, tokens, FEW, SHORT};
    for (size_t i = 0; i < 2; i++) {
        outcomes[i] = run_on(&model, open_gpu(i == 0 ? "" : "backwards"));
    }
    cr_expect_eq(memcmp(outcomes[0].squares.values, outcomes[1].squares.values,
                        outcomes[0].squares.count * sizeof(double)),
                 0);
    cr_expect_eq(memcmp(outcomes[0].gradients.values, outcomes[1].gradients.values,
                        outcomes[0].gradients.count * sizeof(double)),
                 0);
    cr_expect_eq(outcomes[0].nll, outcomes[1].nll);
    outcome_free(&outcomes[0]);
    outcome_free(&outcomes[1]);
    tiny_close(&tiny);
}

/* ---- every architecture ---- */

struct case_name {
    char name[32];
};

ParameterizedTestParameters(gpu_passes, every_architecture_agrees_with_the_cpu)
{
    static struct case_name cases[] = {
        {"llama"},    {"llama-yarn"},     {"mistral"}, {"mixtral"}, {"qwen2"},  {"qwen3"},
        {"qwen3moe"}, {"qwen3moe-share"}, {"phi3"},    {"gemma2"},  {"gemma3"},
    };
    return cr_make_param_array(struct case_name, cases, sizeof cases / sizeof cases[0]);
}

ParameterizedTest(struct case_name *param, gpu_passes, every_architecture_agrees_with_the_cpu)
{
    struct arch_model files;
    struct lq_hparams hparams;
    struct lq_map tokens;
    arch_model_open(&files, param->name);
    cr_assert_eq(arch_model_describe(&files, &err), LQ_OK, "%s: %s", param->name, err.message);
    cr_assert_eq(lq_hparams_read(&files.meta, &files.index, "model", LQ_EMODEL, &hparams, &err),
                 LQ_OK, "%s", err.message);
    arch_model_map(param->name, "tokens.i32", &tokens);
    const struct model model = {&hparams,
                                {arch_model_get, &files, arch_model_get_matrix},
                                (const int32_t *)tokens.data,
                                2,
                                (uint32_t)(tokens.size_bytes / sizeof(int32_t) / 2)};
    struct outcome expected = run_on(&model, open_cpu());
    struct outcome got = run_on(&model, open_watched_gpu());
    show(param->name, &expected, &got);
    cr_expect_lt(logit_distance(&expected, &got), LOGIT_TOLERANCE);
    cr_expect_lt(distance_of(&expected.squares, &got.squares).typical, LOGIT_TOLERANCE);
    cr_expect_lt(distance_of(&expected.gradients, &got.gradients).typical, GRADIENT_TOLERANCE);
    outcome_free(&expected);
    outcome_free(&got);
    lq_map_close(&tokens);
    arch_model_close(&files);
}

/* ---- failures ---- */

/* A GPU that fails in the middle of a layer fails the layer, with its sentence. */
Test(gpu_passes, a_failure_ends_the_layer)
{
    static int32_t tokens[40];
    struct tiny_llama tiny;
    struct lq_forward *forward = NULL;
    if (getenv("LQ_TEST_CUDA_MODULE") != NULL) {
        cr_skip_test("a real GPU does not fail when it is told to");
    }
    tiny_open(&tiny);
    struct lq_device *device = open_gpu("breaks");
    struct lq_forward_env env = {
        .device = device, .weights = {tiny_get, &tiny}, .nonfinite_status = LQ_EFAIL};
    float *hidden = calloc(40 * 256, sizeof *hidden);
    enum lq_status status = lq_forward_create(&forward, &tiny.hparams, &env, 40, &err);
    cr_assert_eq(status, LQ_OK);
    cr_assert_eq(lq_forward_embed(forward, tokens, 40, hidden, &err), LQ_OK);
    for (uint32_t l = 0; l < 6 && status == LQ_OK; l++) {
        cr_assert_eq(lq_forward_load_layer(forward, l, &err), LQ_OK);
        status = lq_forward_layer(forward, hidden, 1, false, false, &err);
    }
    cr_expect_eq(status, LQ_ENOMEM);
    cr_expect_str_eq(err.message, "the GPU failed: it fell off the bus");
    lq_forward_destroy(forward);
    device->ops->destroy(device);
    free(hidden);
    tiny_close(&tiny);
}

Test(gpu_passes, without_products_there_is_no_device)
{
    char why_not[LQ_GPU_WHY_BYTES];
    struct lq_gpu_context *context = NULL;
    struct lq_device *device = NULL;
    cr_assert_eq(setenv("LQ_FAKE_GPU", "no-products", 1), 0);
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_BINARY_DIR "/tests/libgpu_fake.so", 1), 0);
    const struct lq_gpu_module *module = lq_gpu_load(why_not);
    cr_assert_not_null(module, "%s", why_not);
    cr_assert_null(module->open(0, &context));
    cr_expect_str_eq(lq_gpu_device_create(module, context, &device),
                     "there is no library of products");
    cr_expect_null(device);
    module->close(context);
}

/* Memory that is out is a failure that sticks; memory that was given back is taken again. */
Test(gpu_passes, memory_is_limited_and_comes_back)
{
    struct lq_device *device = open_gpu("small");
    void *most = device->ops->alloc(device, (size_t)100 << 20);
    cr_expect_not_null(most);
    for (int i = 0; i < 4; i++) { /* does not fit beside the other sizes before it */
        void *other = device->ops->alloc(device, (size_t)(10 + 10 * i) << 20);
        cr_expect_not_null(other);
        device->ops->release(device, other);
    }
    cr_expect_null(device->ops->failure(device));
    cr_expect_null(device->ops->alloc(device, (size_t)100 << 20));
    cr_expect_not_null(device->ops->failure(device));
    device->ops->release(device, most);
    device->ops->destroy(device);
}

/* Steps that several GPUs share (rules/model/device_team.h): the same bytes however many there are,
 * and the CPU's where one of them is not up to it. The GPUs are the fake module's. */
#include "tests/gpu_builds.h"

TestSuite(gpu_team, .init = set_up, .fini = tear_down, .timeout = 900);

/* How often a GPU was made ready for models. */
static size_t models_in_log(const char *path)
{
    static const char line[] = "model on ";
    struct lq_buffer text;
    size_t count = 0;
    lq_buffer_init(&text);
    cr_assert_eq(lq_file_read(path, 1 << 20, &text, &err), LQ_OK, "%s", err.message);
    for (size_t i = 0; i + sizeof line < text.size_bytes; i++) {
        count += memcmp(text.data + i, line, sizeof line - 1) == 0;
    }
    lq_buffer_fini(&text);
    return count;
}

/* Several GPUs, of which others may have some: `taken` of them. */
static void build_on_fakes(const char *cache_name, const char *gpus, size_t taken,
                           const char *target, const char *artifacts)
{
    struct lq_device *devices[3];
    size_t memory_bytes = 0;
    cr_assert_eq(setenv("LQ_FAKE_GPU", gpus, 1), 0);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    for (size_t i = 0; i < taken; i++) {
        devices[i] = lq_gpu_take_device(&memory_bytes);
        cr_assert_not_null(devices[i]);
    }
    cr_assert_eq(build_again(cache_name, target, artifacts), LQ_OK, "%s", err.message);
    cr_expect_eq(warnings, 0, "%s", warning);
    for (size_t i = 0; i < taken; i++) {
        lq_gpu_give_device(devices[i]);
    }
}

/* `line` has %s for the path. All GPUs, then fewer and fewer: the same bits. */
static void expect_shared(const char *line, const char *gpus, size_t count)
{
    char why_not[LQ_GPU_WHY_BYTES];
    char text[2048];
    char log[128];
    snprintf(log, sizeof log, "%s/log", folder);
    cr_assert_eq(setenv("LQ_FAKE_GPU", gpus, 1), 0);
    cr_assert_eq(setenv("LQ_FAKE_GPU_LOG", log, 1), 0);
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_BINARY_DIR "/tests/libgpu_fake.so", 1), 0);
    const struct lq_gpu_module *fake = lq_gpu_load(why_not);
    cr_assert_not_null(fake, "%s", why_not);
    lq_gpu_use_module(fake, make_small);
    for (size_t taken = 0; taken < count; taken++) {
        char cache_name[16];
        char path[16];
        snprintf(cache_name, sizeof cache_name, "cache-%zu", taken);
        snprintf(path, sizeof path, "taken%zu", taken);
        snprintf(text, sizeof text, line, path);
        build_on_fakes(cache_name, gpus, taken, "x", text);
        expect_same_file("taken0", path);
    }
    cr_expect_eq(models_in_log(log), count, "a GPU was not used, or made ready again");
}

Test(gpu_team, two_gpus_share_a_layer)
{
    expect_shared("imatrix x { model = base  calibration = few  path = \"%s\" }\n", "two", 2);
}

Test(gpu_team, three_gpus_share_a_layer)
{
    expect_shared("imatrix x { model = base  calibration = few  path = \"%s\" }\n", "three", 3);
}

/* States that go through the host are in the order of samples, too. */
Test(gpu_team, three_gpus_share_what_is_not_theirs)
{
    expect_shared("imatrix x { model = base  calibration = few  hidden = \"bf16\""
                  "  path = \"%s\" }\n",
                  "three", 3);
}

static void expect_shared_gradients(const char *artifacts, const char *gpus, size_t count)
{
    char line[512];
    snprintf(line, sizeof line,
             "model small { source = \"%s\" }\n"
             "calibration short { model = small  text = eval  samples = 128  sequence = 6 }\n%s",
             make_small_model("qwen2"), artifacts);
    expect_shared(line, gpus, count);
}

Test(gpu_team, two_gpus_share_gradients)
{
    expect_shared_gradients("imatrix x { model = small  calibration = short  method = \"fisher\""
                            "  path = \"%s\" }\n",
                            "two", 2);
}

/* Scores of weights, of which the mask takes the best. Two of three share a layer, three the loss.
 */
Test(gpu_team, three_gpus_share_gradients)
{
    expect_shared_gradients(
        "imatrix im { model = small  calibration = short  method = \"gradient\" }\n"
        "mask x { model = small  imatrix = im  coverage = 0.005  path = \"%s\" }\n",
        "three", 3);
}

/* One of two is not up to it: the CPU's bytes, and why. */
static void expect_shared_fallback(const char *gpus, const char *artifacts, const char *why)
{
    char text[1024];
    char why_not[LQ_GPU_WHY_BYTES];
    snprintf(text, sizeof text,
             "model small { source = \"%s\" }\n"
             "calibration short { model = small  text = eval  samples = 128  sequence = 6 }\n%s",
             make_small_model("qwen2"), artifacts);
    cr_assert_eq(build(false, "cpu", "x", text), LQ_OK, "%s", err.message);
    move_output("x", "x.cpu");
    cr_assert_eq(setenv("LQ_FAKE_GPU", gpus, 1), 0);
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_BINARY_DIR "/tests/libgpu_fake.so", 1), 0);
    used_module = lq_gpu_load(why_not);
    used_make = make_small;
    cr_assert_not_null(used_module, "%s", why_not);
    cr_assert_eq(build(true, "gpu", "x", text), LQ_OK, "%s", err.message);
    cr_expect_eq(warnings, 1, "%u: %s", warnings, warning);
    cr_expect_not_null(strstr(warning, why), "%s", warning);
    cr_expect_not_null(strstr(warning, "; computing on the CPU"), "%s", warning);
    expect_same_file("x.cpu", "x");
}

#define GRADIENT                                                                                   \
    "imatrix x { model = small  calibration = short  method = \"fisher\"  path = \"x\" }\n"
#define LOGITS "logits x { model = small  text = eval  context = 16  chunks = 60  path = \"x\" }\n"

Test(gpu_team, one_of_two_that_fails_is_made_good_by_the_cpu)
{
    expect_shared_fallback("two breaks", GRADIENT, "the GPU failed: it fell off the bus");
}

Test(gpu_team, one_of_two_that_fails_in_an_evaluation_is_made_good_by_the_cpu)
{
    expect_shared_fallback("two breaks", LOGITS, "the GPU failed: it fell off the bus");
}

Test(gpu_team, one_of_two_with_too_little_memory_is_made_good_by_the_cpu)
{
    expect_shared_fallback("two narrow", GRADIENT, "a sample of 6 tokens needs");
}

Test(gpu_team, one_of_two_with_too_little_memory_for_an_evaluation_is_made_good_by_the_cpu)
{
    expect_shared_fallback("two narrow", LOGITS, "a sample of 16 tokens needs");
}

/* Each reads the experts that its samples want. */
Test(gpu_team, two_gpus_share_a_mixture)
{
    char line[512];
    snprintf(line, sizeof line,
             "model small { source = \"%s\" }\n"
             "calibration short { model = small  text = eval  samples = 128  sequence = 6 }\n"
             "imatrix x { model = small  calibration = short  path = \"%%s\" }\n",
             make_small_model("mixtral"));
    expect_shared(line, "two", 2);
}

/* A report of a small model next to itself: enough chunks for a batch of logits for each. */
static void expect_shared_report(const char *arch, const char *gpus, size_t count)
{
    char line[512];
    snprintf(line, sizeof line,
             "model small { source = \"%s\" }\n"
             "gguf other { model = small  level = \"Q8_0\" }\n"
             "report x { original = small  quantized = [other]  text = eval  context = 16\n"
             "  chunks = 300  path = \"%%s\" }\n",
             make_small_model(arch));
    expect_shared(line, gpus, count);
}

Test(gpu_team, two_gpus_share_an_evaluation)
{
    expect_shared_report("qwen2", "two", 2);
}

Test(gpu_team, three_gpus_share_an_evaluation)
{
    expect_shared_report("mixtral", "three", 3);
}

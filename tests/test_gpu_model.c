/* Steps that run a model, on a GPU whose memory the host cannot touch (device_far.h): every
 * artifact that has such steps, what a result of a GPU is worth to a CPU, and GPUs that fail. */
#include "tests/gpu_builds.h"

TestSuite(gpu_model, .init = set_up, .fini = tear_down, .timeout = 900);

/* The same artifact by both, into "cpu" and "gpu"; `line` has %s for its name and for the path. */
static void expect_alike(const char *line, const char *before)
{
    char text[2048];
    size_t length = (size_t)snprintf(text, sizeof text, "%s", before);
    snprintf(text + length, sizeof text - length, line, "x", "cpu");
    cr_assert_eq(build(false, "cache-cpu", "x", text), LQ_OK, "%s", err.message);
    cr_expect_null(strstr(numerics, "cuda"), "%s", numerics);
    cr_expect_eq(far_state.made, 0);
    snprintf(text + length, sizeof text - length, line, "x", "gpu");
    cr_assert_eq(build(true, "cache-gpu", "x", text), LQ_OK, "%s", err.message);
    cr_expect_not_null(strstr(numerics, "cuda-bf16"), "%s", numerics);
    cr_expect_null(strstr(numerics, "cpu-"), "%s", numerics);
    cr_expect_eq(warnings, 0, "%s", warning);
    cr_expect_eq(far_state.made, 1);
    cr_expect_eq(far_state.used_bytes, 0);
    expect_same_file("cpu", "gpu");
    /* What a GPU made counts for the CPU, under another name too. */
    uint64_t steps = result.steps;
    snprintf(text + length, sizeof text - length, line, "y", "again");
    cr_assert_eq(build(false, "cache-gpu", "y", text), LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, 0, "%lu ran", result.ran);
    cr_expect_eq(result.steps, steps);
}

Test(gpu_model, activations)
{
    expect_alike("imatrix %s { model = base  calibration = calib  path = \"%s\" }\n", "");
}

Test(gpu_model, activations_without_raw_weights)
{
    far_state.no_load = true;
    expect_alike("imatrix %s { model = base  calibration = calib  hidden = \"bf16\""
                 "  skip_first = true  path = \"%s\" }\n",
                 "");
}

/* While a layer computes, the weights of the next one come: what is large enough for it. What comes
 * is what is loaded. */
static void expect_next_layer(const char *source)
{
    char text[512];
    snprintf(text, sizeof text,
             LQ_BINARY_DIR "/tests/make_model --layers 3 --vocab 300 134m %s/%s >/dev/null", folder,
             source);
    cr_assert_eq(system(text), 0);
    snprintf(text, sizeof text,
             "model big { source = \"%s\" }\n"
             "calibration short { model = big  text = eval  samples = 128  sequence = 4 }\n"
             "imatrix x { model = big  calibration = short  path = \"x\" }\n",
             source);
    cr_assert_eq(build(true, "cache", "x", text), LQ_OK, "%s", err.message);
    cr_expect_eq(warnings, 0, "%s", warning);
    /* bf16: four matrices of attention and three of the feed-forward part, in two layers. */
    size_t layer_bytes = (4 * (size_t)768 * 768 + 3 * (size_t)768 * 2048) * 2;
    cr_expect_eq(far_state.expected, 2 * layer_bytes, "%zu bytes", far_state.expected);
    cr_expect_eq(far_state.claimed, far_state.expected, "%zu bytes", far_state.claimed);
    cr_expect_eq(far_state.mistaken, 0);
}

Test(gpu_model, the_next_layer_is_expected)
{
    expect_next_layer("big.gguf");
}

/* The rows of queries and keys have another order in these, and the device puts them into ours. */
Test(gpu_model, the_next_layer_of_a_checkpoint_is_expected)
{
    expect_next_layer("big");
}

Test(gpu_model, gradients)
{
    expect_alike("imatrix %s { model = base  calibration = few  method = \"gradient\""
                 "  path = \"%s\" }\n",
                 "");
}

Test(gpu_model, squared_gradients)
{
    expect_alike("imatrix %s { model = base  calibration = few  method = \"fisher\""
                 "  path = \"%s\" }\n",
                 "");
}

/* What flows into the matrices comes over piece by piece, rows cut where pieces end. */
Test(gpu_model, ranges_of_activations)
{
    expect_alike("smoothquant %s { model = base  calibration = calib  scales = \"%s\" }\n", "");
}

/* Moments of what flows in, and layers that run in parts, with weights replaced. */
Test(gpu_model, moments_of_activations)
{
    expect_alike("gptq %s { model = base  calibration = few  group_size = 32  path = \"%s\" }\n",
                 "");
}

/* Two JSON texts that differ in numbers alone. bf16 sides put products off by 2.3e-3 of a sum in
 * the root mean square, layer by layer, scales are rounded to 2^-8, and columns are compared one by
 * one: 2 % of a number, or a hundredth of what activations are, which have variance 1. */
static void expect_numbers_near(const char *a, const char *b)
{
    size_t count = 0;
    while (*a != '\0' && *b != '\0') {
        char first = *a == '-' ? a[1] : *a;
        bool is_number = first >= '0' && first <= '9';
        if (!is_number) {
            cr_assert_eq(*a, *b, "behind %zu numbers", count);
            a++;
            b++;
            continue;
        }
        char *a_end = NULL;
        char *b_end = NULL;
        double x = strtod(a, &a_end);
        double y = strtod(b, &b_end);
        cr_assert(b_end != b && fabs(x - y) <= 0.02 * fabs(x) + 0.01, "number %zu: %g and %g",
                  count, x, y);
        a = a_end;
        b = b_end;
        count++;
    }
    cr_expect(*a == '\0' && *b == '\0');
    cr_expect_gt(count, 1000);
}

/* By the operations of a GPU: next to what the CPU measures. */
Test(gpu_model, ranges_on_a_gpu_are_those_of_the_cpu)
{
    char why_not[LQ_GPU_WHY_BYTES];
    static const char text[] =
        "smoothquant x { model = base  calibration = few  scales = \"x\" }\n";
    cr_assert_eq(build(false, "cpu", "x", text), LQ_OK, "%s", err.message);
    move_output("x", "x.cpu");
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_BINARY_DIR "/tests/libgpu_fake.so", 1), 0);
    used_module = lq_gpu_load(why_not);
    used_make = make_small;
    cr_assert_not_null(used_module, "%s", why_not);
    cr_assert_eq(build(true, "gpu", "x", text), LQ_OK, "%s", err.message);
    cr_expect_eq(warnings, 0, "%s", warning);
    expect_numbers_near(lq_buffer_text(read_output("x.cpu")), lq_buffer_text(read_output("x")));
}

Test(gpu_model, spikes)
{
    expect_alike("mask %s { model = base  find = \"spikes\"  calibration = calib"
                 "  threshold = 2  path = \"%s\" }\n",
                 "");
}

Test(gpu_model, base_logits)
{
    expect_alike("logits %s { model = base  text = eval  context = 32  chunks = 8"
                 "  path = \"%s\" }\n",
                 "");
}

/* Perplexity, divergence, accuracy and coherence, of models that are files. */
Test(gpu_model, reports)
{
    put_file("tasks.jsonl",
             "{\"context\":\"The function returns\",\"choices\":[\"the number of rows.\","
             "\"zq xj kk vv qq.\"],\"answer\":0}\n");
    expect_alike("report %s { original = base  quantized = [other]  text = eval  context = 32"
                 "  chunks = 20  tasks = [known]  coherence = true  continuation = 4"
                 "  prompts = [\"The value\"]  path = \"%s\" }\n",
                 "tasks known { path = \"tasks.jsonl\" }\n"
                 "model other { source = \"" LQ_SOURCE_DIR "/examples/tiny-llama\" }\n");
}

/* Experts, fused and biased matrices, norms behind parts, windows, caps. */
static void expect_arch_alike(const char *name)
{
    static const char *const methods[] = {"activation", "fisher"};
    char path[128];
    char text[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(make_arch_write(arch_config_find(name)->text, path, NULL, NULL, &err), LQ_OK, "%s",
                 err.message);
    for (size_t i = 0; i < LQ_COUNT_OF(methods); i++) {
        snprintf(text, sizeof text,
                 "model other { source = \"%s\" }\n"
                 "calibration short { model = other  text = eval  samples = 128  sequence = 4 }\n"
                 "imatrix x { model = other  calibration = short  method = \"%s\"  path = \"x\" }\n"
                 "mask y { model = other  find = \"spikes\"  calibration = short  threshold = 2\n"
                 "         path = \"y\" }\n",
                 path, methods[i]);
        for (int gpu = 0; gpu < 2; gpu++) {
            char cache_name[32];
            snprintf(cache_name, sizeof cache_name, "c-%s-%d", name, gpu);
            cr_assert_eq(build(gpu != 0, cache_name, "x", text), LQ_OK, "%s: %s", name,
                         err.message);
            cr_expect_eq(strstr(numerics, "cuda-bf16") != NULL, gpu != 0, "%s", numerics);
            cr_expect_eq(warnings, 0, "%s: %s", name, warning);
            cr_assert_eq(build(gpu != 0, cache_name, "y", text), LQ_OK, "%s: %s", name,
                         err.message);
            if (gpu == 0) {
                move_output("x", "x.cpu");
                move_output("y", "y.cpu");
            }
        }
        expect_same_file("x.cpu", "x");
        expect_same_file("y.cpu", "y");
    }
}

Test(gpu_model, architectures)
{
    static const char *const names[] = {"mixtral", "gemma2", "phi3", "qwen2"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        expect_arch_alike(names[i]);
    }
}

/* ---- batches ---- */

/* Larger batches are other products: the last bits may differ, not more. */
static void expect_close(const char *a, const char *b)
{
    struct lq_imatrix left;
    struct lq_imatrix right;
    enum lq_imatrix_format format;
    const struct lq_buffer *bytes = read_output(a);
    cr_assert_eq(lq_imatrix_parse(bytes->data, bytes->size_bytes, a, &arena, &left, &format, &err),
                 LQ_OK);
    bytes = read_output(b);
    cr_assert_eq(lq_imatrix_parse(bytes->data, bytes->size_bytes, b, &arena, &right, &format, &err),
                 LQ_OK);
    cr_assert_eq(left.entry_count, right.entry_count);
    cr_assert_gt(left.entry_count, 0);
    for (size_t i = 0; i < left.entry_count; i++) {
        for (size_t j = 0; j < left.entries[i].col_count; j++) {
            float x = left.entries[i].sums[j];
            float y = right.entries[i].sums[j];
            cr_assert_leq(fabsf(x - y), 1e-4f * fabsf(x) + 1e-6f, "%s", left.entries[i].name);
        }
    }
}

#define IMATRIX "imatrix im { model = base  calibration = calib  path = \"%s\" }\n"

static void make_imatrix(bool gpu, const char *cache_name, const char *path)
{
    char text[256];
    snprintf(text, sizeof text, IMATRIX, path);
    cr_assert_eq(build(gpu, cache_name, "im", text), LQ_OK, "%s", err.message);
}

Test(gpu_model, a_device_may_want_larger_or_smaller_batches)
{
    static const size_t sizes[] = {16384, 512, 1};
    make_imatrix(false, "c", "cpu");
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        char cache_name[32];
        far_state.batch_rows = sizes[i];
        lq_gpu_choose(LQ_GPU_NEVER, -1);
        snprintf(cache_name, sizeof cache_name, "c%zu", i);
        far_state.no_device = NULL;
        make_imatrix(true, cache_name, "gpu");
        cr_expect_str_eq(numerics, "cuda-bf16; exact");
        expect_close("cpu", "gpu");
    }
}

/* What is compared of layers does not depend on batches: the original by the CPU, the other by a
 * GPU that takes more or fewer samples at a time. */
Test(gpu_model, models_of_different_devices_can_be_compared)
{
    static const char reference[] =
        "report re { original = base  quantized = [base]  text = eval  context = 32"
        "  chunks = 70  path = \"a\" }\n";
    static const char compared[] =
        "gguf q8 { model = base  level = \"Q8_0\" }\n"
        "report re { original = base  quantized = [q8]  text = eval  context = 32"
        "  chunks = 70  path = \"b\" }\n";
    static const size_t sizes[] = {16384, 512};
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        char cache_name[32];
        snprintf(cache_name, sizeof cache_name, "c%zu", i);
        far_state.batch_rows = sizes[i];
        cr_assert_eq(build(false, cache_name, "q8", compared), LQ_OK, "%s", err.message);
        cr_assert_eq(build(false, cache_name, "re", reference), LQ_OK, "%s", err.message);
        cr_assert_eq(build(true, cache_name, "re", compared), LQ_OK, "%s", err.message);
        cr_expect_not_null(strstr(numerics, "cuda-bf16"), "%s", numerics);
    }
}

/* ---- failures ---- */

static void expect_fallback(const char *cache_name, const char *why)
{
    make_imatrix(true, cache_name, "gpu");
    cr_expect_eq(warnings, why == NULL ? 0 : 1, "%u: %s", warnings, warning);
    if (why != NULL) {
        cr_expect_not_null(strstr(warning, why), "%s", warning);
        cr_expect_not_null(strstr(warning, "; computing on the CPU"), "%s", warning);
    }
    cr_expect_eq(far_state.used_bytes, 0);
}

Test(gpu_model, a_failure_anywhere_is_made_good_by_the_cpu)
{
    make_imatrix(false, "c", "cpu");
    make_imatrix(true, "all", "gpu");
    size_t count = far_state.ops;
    cr_assert_gt(count, 100);
    for (size_t i = 1; i <= count; i += 1 + count / 6) {
        char cache_name[32];
        snprintf(cache_name, sizeof cache_name, "c%zu", i);
        far_state.ops = 0;
        far_state.fail_op = i;
        expect_fallback(cache_name, "the GPU failed: it fell off the bus");
        expect_same_file("cpu", "gpu");
    }
}

Test(gpu_model, an_allocation_that_fails_anywhere_is_made_good_by_the_cpu)
{
    make_imatrix(false, "c", "cpu");
    make_imatrix(true, "all", "gpu");
    size_t count = far_state.allocs;
    cr_assert_gt(count, 20);
    for (size_t i = 1; i <= count; i += 1 + count / 10) {
        char cache_name[32];
        snprintf(cache_name, sizeof cache_name, "c%zu", i);
        far_state.allocs = 0;
        far_state.fail_alloc = i;
        expect_fallback(cache_name, "the GPU failed: out of memory");
        expect_same_file("cpu", "gpu");
    }
}

/* Layers that a GPU finished stay, and the record says so, where hidden states are the host's. What
 * was on the GPU is made again. */
Test(gpu_model, what_a_gpu_finished_before_it_failed_is_kept)
{
    static const char *const hidden[] = {"bf16", "f32"};
    static const char *const expected[] = {"cuda-bf16; cpu-f32; exact", "cpu-f32; exact"};
    for (int i = 0; i < 2; i++) {
        char text[256];
        char cache_name[16];
        snprintf(
            text, sizeof text,
            "imatrix im { model = base  calibration = calib  hidden = \"%s\"  path = \"x\" }\n",
            hidden[i]);
        snprintf(cache_name, sizeof cache_name, "all%d", i);
        far_state.ops = 0;
        far_state.fail_op = 0;
        cr_assert_eq(build(true, cache_name, "im", text), LQ_OK, "%s", err.message);
        far_state.fail_op = far_state.ops + far_state.ops * 3 / 4;
        snprintf(cache_name, sizeof cache_name, "fail%d", i);
        cr_assert_eq(build(true, cache_name, "im", text), LQ_OK, "%s", err.message);
        cr_expect_eq(warnings, 1, "%s", warning);
        cr_expect_str_eq(numerics, expected[i]);
        cr_expect_eq(far_state.used_bytes, 0);
        cr_expect_eq(far_state.devices, 0);
        cr_assert_eq(build(false, cache_name, "im", text), LQ_OK, "%s", err.message);
        cr_expect_eq(result.ran, 0);
    }
}

/* Of 128 samples of 20 tokens, in six layers of 256 columns. */
#define STATE_BYTES ((size_t)128 * 20 * 256 * sizeof(float))

Test(gpu_model, states_stay_on_the_device)
{
    make_imatrix(true, "c", "gpu");
    cr_expect_lt(far_state.moved_bytes, 2 * STATE_BYTES, "%zu", far_state.moved_bytes);
}

Test(gpu_model, states_that_are_too_large_for_it_do_not)
{
    far_state.total_bytes = 2 * STATE_BYTES;
    make_imatrix(true, "c", "gpu");
    cr_expect_str_eq(numerics, "cuda-bf16; exact");
    cr_expect_geq(far_state.moved_bytes, 5 * STATE_BYTES, "%zu", far_state.moved_bytes);
}

Test(gpu_model, gradients_survive_a_failure_too)
{
    static const char text[] =
        "imatrix gr { model = base  calibration = few  method = \"gradient\"  path = \"%s\" }\n";
    char artifacts[256];
    snprintf(artifacts, sizeof artifacts, text, "cpu");
    cr_assert_eq(build(false, "c", "gr", artifacts), LQ_OK, "%s", err.message);
    snprintf(artifacts, sizeof artifacts, text, "gpu");
    cr_assert_eq(build(true, "all", "gr", artifacts), LQ_OK, "%s", err.message);
    size_t count = far_state.ops;
    for (size_t i = 1; i < 4; i++) {
        char cache_name[32];
        snprintf(cache_name, sizeof cache_name, "c%zu", i);
        far_state.ops = 0;
        far_state.fail_op = i * count / 4;
        cr_assert_eq(build(true, cache_name, "gr", artifacts), LQ_OK, "%s", err.message);
        cr_expect_eq(warnings, 1, "%s", warning);
        expect_same_file("cpu", "gpu");
    }
}

Test(gpu_model, little_memory_makes_batches_small_and_less_is_too_little)
{
    make_imatrix(false, "c", "cpu");
    far_state.batch_rows = 2048;
    far_state.memory_bytes = 24 << 20;
    make_imatrix(true, "c1", "gpu");
    cr_expect_str_eq(numerics, "cuda-bf16; exact");
    cr_expect_eq(warnings, 0, "%s", warning);
    expect_close("cpu", "gpu");
    far_state.memory_bytes = 1 << 20;
    expect_fallback("c2", "a sample of 20 tokens needs");
    cr_expect_str_eq(numerics, "cpu-f32; exact");
    expect_same_file("cpu", "gpu");
}

/* Memory that a model left is there for who quantizes. */
Test(gpu_model, leases_get_what_idle_models_keep)
{
    size_t memory_bytes = 0;
    far_state.is_full = true;
    lq_gpu_use_module(&far_module, far_make);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    struct lq_device *device = lq_gpu_take_device(&memory_bytes);
    cr_assert_not_null(device);
    cr_expect_gt(memory_bytes, 0);
    cr_expect_null(lq_gpu_take(), "the CPU does it while the model runs");
    cr_expect_null(lq_gpu_notice());
    lq_gpu_give_device(device);
    cr_expect_eq(far_state.devices, 1);
    struct lq_gpu_lease *lease = lq_gpu_take();
    cr_assert_not_null(lease, "%s", lq_gpu_notice());
    cr_expect_eq(far_state.devices, 0);
    lq_gpu_give(lease);
    far_state.is_full = false;
    device = lq_gpu_take_device(&memory_bytes);
    cr_assert_not_null(device);
    lq_gpu_give_device(device);
}

Test(gpu_model, half_of_what_is_free_may_be_kept)
{
    size_t memory_bytes = 0;
    far_state.memory_bytes = 1000;
    far_state.total_bytes = 1 << 20;
    lq_gpu_use_module(&far_module, far_make);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    struct lq_device *device = lq_gpu_take_device(&memory_bytes);
    cr_assert_not_null(device);
    cr_expect_null(lq_gpu_keep(device, 501));
    struct lq_gpu_kept *kept = lq_gpu_keep(device, 500);
    cr_assert_not_null(kept);
    cr_expect_null(lq_gpu_keep(device, 251));
    cr_expect_null(device->ops->failure(device));
    lq_gpu_unkeep(kept);
    lq_gpu_give_device(device);
    cr_expect_eq(far_state.used_bytes, 0);
}

/* Kept memory outlives its device's failure, and is gone with it. */
Test(gpu_model, memory_that_is_kept_can_be_read_until_the_device_fails)
{
    size_t memory_bytes = 0;
    float values[64];
    float out[64] = {0};
    lq_gpu_use_module(&far_module, far_make);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    struct lq_device *device = lq_gpu_take_device(&memory_bytes);
    for (int i = 0; i < 64; i++) {
        values[i] = (float)i;
    }
    struct lq_gpu_kept *kept = lq_gpu_keep(device, sizeof values);
    struct lq_gpu_kept *other = lq_gpu_keep(device, 16);
    cr_assert_not_null(kept);
    device->ops->upload(device, lq_gpu_kept_memory(kept, device), values, sizeof values);
    cr_expect(lq_gpu_read_kept(kept, 4, out, 8), "by who has the device");
    cr_expect_eq(out[1], 2.0f);
    lq_gpu_give_device(device);
    cr_expect(lq_gpu_read_kept(kept, 0, out, sizeof out), "by somebody else");
    cr_expect_arr_eq(out, values, sizeof out);
    lq_gpu_unkeep(other);
    cr_expect_eq(far_state.used_bytes, sizeof values);
    cr_assert_eq(lq_gpu_take_device(&memory_bytes), device);
    far_state.fail_op = far_state.ops + 1;
    device->ops->zero(device, lq_gpu_kept_memory(kept, device), 4);
    lq_gpu_give_device(device);
    cr_expect_not(lq_gpu_read_kept(kept, 0, out, sizeof out));
    device = lq_gpu_take_device(&memory_bytes);
    cr_assert_not_null(device);
    cr_expect_null(lq_gpu_kept_memory(kept, device), "it is another one");
    cr_expect_eq(far_state.devices, 2);
    lq_gpu_unkeep(kept);
    cr_expect_eq(far_state.devices, 1);
    cr_expect_eq(far_state.used_bytes, 0);
    lq_gpu_give_device(device);
}

Test(gpu_model, a_device_that_cannot_be_made_is_a_reason)
{
    far_state.no_device = "there is no library for products";
    expect_fallback("c", "the GPU cannot run models: there is no library for products");
    cr_expect_str_eq(numerics, "cpu-f32; exact");
}

Test(gpu_model, gpus_that_run_no_models_are_no_reason)
{
    lq_gpu_use_module(&far_module, NULL);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    size_t memory_bytes = 1;
    cr_expect_null(lq_gpu_take_device(&memory_bytes));
    cr_expect_eq(memory_bytes, 0);
    cr_expect_null(lq_gpu_notice());
}

/* A value that is no number is an error of the CPU, not of the GPU: with the CPU's words. */
Test(gpu_model, errors_are_those_of_the_cpu)
{
    static const char text[] =
        "calibration one { model = base  text = eval  samples = 128  sequence = 1 }\n"
        "imatrix gr { model = base  calibration = one  method = \"gradient\"  path = \"x\" }\n";
    cr_expect_neq(build(false, "c", "gr", text), LQ_OK);
    struct lq_error expected = err;
    cr_expect_eq(build(true, "g", "gr", text), expected.status);
    cr_expect_str_eq(err.message, expected.message);
    cr_expect_eq(warnings, 0, "%s", warning);
}

/* GPUs by way of a module whose device is the CPU (gpu_fake.c), built from the sources that GPUs
 * run: every type to and fro with the bytes of the reference, tensors with all that a tensor can
 * have, modules that are missing or fail, and the command line. */
#include "e2e.h"

#include <float.h>
#include <math.h>

#include "engine/base/compiler.h"
#include "engine/base/pool.h"
#include "kernels/gpu.h"
#include "kernels/kernels.h"
#include "rules/format/imatrix.h"
#include "rules/format/qreport.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"

#define FAKE LQ_BINARY_DIR "/tests/libgpu_fake.so"

static uint32_t seed = 12345;

static float random_value(void)
{
    float sum = 0;
    for (int i = 0; i < 6; i++) {
        seed = seed * 1664525u + 1013904223u;
        sum += (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
    return sum * 0.05f;
}

static float *random_values(size_t count)
{
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = random_value();
    }
    return values;
}

static void use_fake(const char *words)
{
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", FAKE, 1), 0);
    cr_assert_eq(setenv("LQ_FAKE_GPU", words, 1), 0);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
}

/* ------------------------------------------------------------- finding a module ---- */

static void expect_reason(const char *part)
{
    const char *why = lq_gpu_start();
    cr_assert_not_null(why);
    cr_expect_not_null(strstr(why, part), "'%s' lacks '%s'", why, part);
    cr_expect_null(lq_gpu_take());
    const char *notice = lq_gpu_notice();
    cr_assert_not_null(notice);
    cr_expect_str_eq(notice, why);
    cr_expect_null(lq_gpu_notice(), "a notice comes once");
}

Test(gpu, without_a_module_there_is_a_reason)
{
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", "/nowhere/liblqbuild_cuda.so", 1), 0);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    expect_reason("/nowhere/liblqbuild_cuda.so");
}

Test(gpu, a_library_of_another_kind_is_refused)
{
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", "libm.so.6", 1), 0);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    expect_reason("is no GPU module");
}

Test(gpu, a_file_that_is_no_library_is_refused)
{
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_SOURCE_DIR "/README.md", 1), 0);
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    expect_reason("cannot be loaded");
}

Test(gpu, a_module_of_another_version_is_refused)
{
    use_fake("version");
    expect_reason("build or install both together");
}

Test(gpu, no_driver_is_a_reason)
{
    use_fake("no-driver");
    expect_reason("there is no driver");
}

Test(gpu, no_device_is_a_reason)
{
    use_fake("none");
    expect_reason("there is no GPU");
}

Test(gpu, a_device_number_beyond_the_last_is_a_reason)
{
    use_fake("two");
    lq_gpu_choose(LQ_GPU_AUTO, 2);
    expect_reason("there is no GPU 2");
}

Test(gpu, little_memory_is_a_reason)
{
    use_fake("tiny");
    cr_assert_null(lq_gpu_start());
    cr_expect_null(lq_gpu_take());
    const char *notice = lq_gpu_notice();
    cr_assert_not_null(notice);
    cr_expect_not_null(strstr(notice, "memory is short"), "%s", notice);
    cr_expect_null(lq_gpu_take());
    cr_expect_null(lq_gpu_notice());
}

Test(gpu, who_did_not_ask_hears_nothing)
{
    use_fake("none");
    lq_gpu_choose(LQ_GPU_QUIET, -1);
    cr_expect_null(lq_gpu_take());
    cr_expect_null(lq_gpu_notice());
}

Test(gpu, never_loads_nothing)
{
    use_fake("");
    lq_gpu_choose(LQ_GPU_NEVER, -1);
    cr_expect_null(lq_gpu_take());
}

/* --------------------------------------------------------------------- leases ---- */

Test(gpu, devices_take_turns)
{
    use_fake("two");
    struct lq_gpu_lease *first = lq_gpu_take();
    struct lq_gpu_lease *second = lq_gpu_take();
    cr_assert_not_null(first);
    cr_assert_not_null(second);
    cr_expect_str_eq(lq_gpu_device(first), "fake 0");
    cr_expect_str_eq(lq_gpu_device(second), "fake 1");
    lq_gpu_give(first);
    lq_gpu_give(second);
}

Test(gpu, one_device_may_be_chosen)
{
    use_fake("two");
    lq_gpu_choose(LQ_GPU_AUTO, 1);
    struct lq_gpu_lease *lease = lq_gpu_take();
    cr_assert_not_null(lease);
    cr_expect_str_eq(lq_gpu_device(lease), "fake 1");
    lq_gpu_give(lease);
}

static void take_and_give(void *user, size_t index)
{
    (void)index;
    struct lq_gpu_lease *lease = lq_gpu_take();
    if (lease != NULL) {
        __atomic_add_fetch((unsigned *)user, 1, __ATOMIC_RELAXED);
        lq_gpu_give(lease);
    }
}

Test(gpu, who_finds_all_leases_taken_waits)
{
    use_fake("small");
    struct lq_pool *pool = NULL;
    struct lq_error err;
    unsigned count = 0;
    cr_assert_eq(lq_pool_create(&pool, 4, &err), LQ_OK);
    lq_pool_for(pool, 200, take_and_give, &count);
    lq_pool_destroy(pool);
    cr_expect_eq(count, 200);
    cr_expect_null(lq_gpu_notice());
}

/* ---------------------------------------------------------------------- types ---- */

enum { COLS = 512, ROWS = 6 };

static void fill_tile(struct lq_gpu_lease *lease, size_t slot, struct lq_gpu_tile *tile,
                      const void *rows, const float *importance)
{
    struct lq_gpu_buffers buffers = lq_gpu_buffers(lease, slot);
    memcpy(buffers.in, rows, tile->row_count * lq_dtype_row_bytes(tile->source, tile->col_count));
    if (tile->importance_rows > 0) {
        memcpy(buffers.importance, importance,
               tile->importance_rows * tile->col_count * sizeof *importance);
    }
    cr_assert_null(lq_gpu_begin(lease, slot, tile));
}

static void encode_ref(enum lq_dtype dtype, const float *values, const float *importance,
                       size_t importance_rows, unsigned char *out)
{
    const struct lq_kernels *ref = lq_kernels_at(LQ_CPU_REF);
    for (size_t r = 0; r < ROWS; r++) {
        const float *weights =
            importance_rows == 0 ? NULL : importance + (importance_rows == 1 ? 0 : r * COLS);
        ref->encode[dtype](values + r * COLS, out + r * lq_dtype_row_bytes(dtype, COLS), COLS,
                           weights);
    }
}

/* Encodes with every kind of importance, two tiles at a time, and decodes what came out. */
static void check_type(struct lq_gpu_lease *lease, enum lq_dtype dtype)
{
    static unsigned char expected[ROWS * COLS * 4];
    static float decoded[ROWS * COLS];
    static const size_t kinds[] = {0, 1, ROWS};
    float *values = random_values((size_t)ROWS * COLS);
    float *importance = random_values((size_t)ROWS * COLS);
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
        importance[i] = fabsf(importance[i]);
    }
    size_t out_bytes = ROWS * lq_dtype_row_bytes(dtype, COLS);
    for (size_t k = 0; k < LQ_COUNT_OF(kinds); k++) {
        struct lq_gpu_tile tile = {LQ_DTYPE_F32, dtype, ROWS, COLS, kinds[k], FLT_MAX};
        struct lq_gpu_tile back = {dtype, LQ_DTYPE_F32, ROWS, COLS, 0, FLT_MAX};
        bool clean = false;
        encode_ref(dtype, values, importance, kinds[k], expected);
        fill_tile(lease, 0, &tile, values, importance);
        fill_tile(lease, 1, &back, expected, NULL);
        cr_assert_null(lq_gpu_end(lease, 0, &clean));
        cr_expect(clean);
        cr_expect_arr_eq(lq_gpu_buffers(lease, 0).out, expected, out_bytes, "%s, importance %zu",
                         lq_dtype_name((uint32_t)dtype), kinds[k]);
        cr_assert_null(lq_gpu_end(lease, 1, &clean));
        cr_expect(clean);
        lq_kernels_at(LQ_CPU_REF)->decode[dtype](expected, decoded, (size_t)ROWS * COLS);
        cr_expect_arr_eq(lq_gpu_buffers(lease, 1).out, decoded, sizeof decoded, "decode %s",
                         lq_dtype_name((uint32_t)dtype));
    }
    free(values);
    free(importance);
}

Test(gpu, every_type_has_the_bytes_of_the_reference)
{
    use_fake("");
    struct lq_gpu_lease *lease = lq_gpu_take();
    cr_assert_not_null(lease);
    unsigned count = 0;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (dtype != LQ_DTYPE_F32 && lq_gpu_does(LQ_DTYPE_F32, (enum lq_dtype)dtype, COLS)) {
            check_type(lease, (enum lq_dtype)dtype);
            count++;
        }
    }
    cr_expect_eq(count, 27, "%u types", count);
    lq_gpu_give(lease);
}

Test(gpu, values_that_cannot_be_encoded_are_noticed)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 65505.0f, -65520.0f};
    use_fake("");
    struct lq_gpu_lease *lease = lq_gpu_take();
    cr_assert_not_null(lease);
    float *values = random_values((size_t)ROWS * COLS);
    struct lq_gpu_tile tile = {LQ_DTYPE_F32, LQ_DTYPE_Q8_0, ROWS, COLS, 0, 65504.0f};
    for (size_t i = 0; i <= LQ_COUNT_OF(bad); i++) {
        bool clean = i < LQ_COUNT_OF(bad);
        /* The last value of all; then the largest that is allowed. */
        values[ROWS * COLS - 1] = i < LQ_COUNT_OF(bad) ? bad[i] : -65504.0f;
        fill_tile(lease, 0, &tile, values, NULL);
        cr_assert_null(lq_gpu_end(lease, 0, &clean));
        cr_expect_eq(clean, i == LQ_COUNT_OF(bad), "value %zu", i);
    }
    free(values);
    lq_gpu_give(lease);
}

/* -------------------------------------------------------------------- tensors ---- */

struct sink {
    struct lq_buffer bytes;
    const char *computed_on;
    unsigned rows_left; /* until it is cancelled */
};

static enum lq_status collect(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    (void)err;
    lq_buffer_append(&((struct sink *)user)->bytes, data, size_bytes);
    return LQ_OK;
}

static void note(void *user, const char *name)
{
    ((struct sink *)user)->computed_on = name;
}

/* The job on the CPU and on the GPU; both must end alike. */
static void expect_alike(struct lq_encode_job *job, const char *computed_on)
{
    struct sink cpu = {.computed_on = NULL};
    struct sink gpu = {.computed_on = NULL};
    struct lq_error cpu_err = {.message = ""};
    struct lq_error gpu_err = {.message = ""};
    lq_buffer_init(&cpu.bytes);
    lq_buffer_init(&gpu.bytes);
    job->write = collect;
    job->computed_on = note;
    job->user = &cpu;
    lq_gpu_choose(LQ_GPU_NEVER, -1);
    enum lq_status cpu_status = lq_encode_tensor(job, &cpu_err);
    job->user = &gpu;
    lq_gpu_choose(LQ_GPU_AUTO, -1);
    enum lq_status gpu_status = lq_encode_tensor(job, &gpu_err);
    const char *name = lq_dtype_name((uint32_t)job->dtype);
    cr_expect_eq(cpu_status, gpu_status, "%s: %s", name, gpu_err.message);
    cr_expect_null(cpu.computed_on);
    if (computed_on == NULL) {
        cr_expect_null(gpu.computed_on);
    } else {
        cr_expect_str_eq(gpu.computed_on, computed_on);
    }
    if (cpu_status == LQ_OK) {
        cr_expect_eq(cpu.bytes.size_bytes, gpu.bytes.size_bytes, "%s", name);
        cr_expect_arr_eq(cpu.bytes.data, gpu.bytes.data, cpu.bytes.size_bytes, "%s", name);
    } else {
        cr_expect_str_eq(cpu_err.message, gpu_err.message);
    }
    lq_buffer_fini(&cpu.bytes);
    lq_buffer_fini(&gpu.bytes);
}

/* Enough rows for several tiles, the last one smaller. */
enum { TENSOR_COLS = 512, TENSOR_ROWS = 3 * 128 + 8 };

static struct lq_model_tensor tensor_of(enum lq_dtype dtype)
{
    return (struct lq_model_tensor){.name = "blk.3.attn_q.weight",
                                    .dtype = dtype,
                                    .dim_count = 2,
                                    .ne = {TENSOR_COLS, TENSOR_ROWS, 1, 1}};
}

static struct lq_encode_job job_of(const struct lq_model_tensor *tensor, const void *data,
                                   enum lq_dtype dtype)
{
    return (struct lq_encode_job){.tensor = tensor,
                                  .data = data,
                                  .size_bytes = lq_level_tensor_bytes(tensor, tensor->dtype),
                                  .dtype = dtype};
}

static void *random_tensor(enum lq_dtype dtype)
{
    size_t count = (size_t)TENSOR_COLS * TENSOR_ROWS;
    float *values = random_values(count);
    unsigned char *out = malloc(TENSOR_ROWS * lq_dtype_row_bytes(dtype, TENSOR_COLS));
    lq_kernels()->encode[dtype](values, out, count, NULL);
    free(values);
    return out;
}

Test(gpu, tensors_of_every_source_have_the_bytes_of_the_cpu)
{
    static const enum lq_dtype sources[] = {LQ_DTYPE_F32, LQ_DTYPE_F16, LQ_DTYPE_BF16,
                                            LQ_DTYPE_Q8_0};
    static const enum lq_dtype targets[] = {LQ_DTYPE_Q4_K, LQ_DTYPE_IQ4_NL, LQ_DTYPE_BF16,
                                            LQ_DTYPE_NVFP4};
    use_fake("");
    float *importance = random_values(TENSOR_COLS);
    for (size_t i = 0; i < TENSOR_COLS; i++) {
        importance[i] = fabsf(importance[i]);
    }
    for (size_t s = 0; s < LQ_COUNT_OF(sources); s++) {
        struct lq_model_tensor tensor = tensor_of(sources[s]);
        void *data = random_tensor(sources[s]);
        for (size_t t = 0; t < LQ_COUNT_OF(targets); t++) {
            struct lq_encode_job job = job_of(&tensor, data, targets[t]);
            expect_alike(&job, "cuda");
            job.importance = importance;
            job.mat_count = 1;
            expect_alike(&job, "cuda");
        }
        free(data);
    }
    free(importance);
}

Test(gpu, permuted_heads_protected_weights_and_experts)
{
    use_fake("");
    float *importance = random_values(4 * TENSOR_COLS);
    for (size_t i = 0; i < 4 * (size_t)TENSOR_COLS; i++) {
        importance[i] = fabsf(importance[i]);
    }
    void *data = random_tensor(LQ_DTYPE_BF16);
    uint64_t positions[] = {0,     5,     700,    701,
                            65535, 65536, 150000, (uint64_t)TENSOR_COLS * TENSOR_ROWS - 1};
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_BF16);
    tensor.permute_heads = 4;
    struct lq_encode_job job = job_of(&tensor, data, LQ_DTYPE_Q4_K);
    expect_alike(&job, "cuda");
    job.positions = positions;
    job.position_count = LQ_COUNT_OF(positions);
    expect_alike(&job, "cuda");
    job.importance = importance;
    job.mat_count = 1;
    expect_alike(&job, "cuda");
    /* Four experts; the rows of one are no multiple of a tile. */
    tensor.permute_heads = 0;
    tensor.dim_count = 3;
    tensor.ne[1] = TENSOR_ROWS / 4;
    tensor.ne[2] = 4;
    job.mat_count = 4;
    expect_alike(&job, "cuda");
    job.position_count = 0;
    expect_alike(&job, "cuda");
    free(data);
    free(importance);
}

Test(gpu, bad_values_give_the_error_of_the_cpu)
{
    use_fake("");
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32);
    float *data = random_tensor(LQ_DTYPE_F32);
    struct lq_encode_job job = job_of(&tensor, data, LQ_DTYPE_Q4_K);
    data[300 * TENSOR_COLS + 7] = NAN;
    expect_alike(&job, "cuda");
    data[300 * TENSOR_COLS + 7] = 1e6f;
    expect_alike(&job, "cuda");
    /* In the first tile nothing comes from the GPU. */
    data[7] = INFINITY;
    expect_alike(&job, NULL);
    job.dtype = LQ_DTYPE_BF16;
    expect_alike(&job, NULL);
    /* Beyond half precision is fine for bf16. */
    data[7] = 0.0f;
    expect_alike(&job, "cuda");
    free(data);
}

Test(gpu, the_cpu_finishes_what_a_failing_gpu_began)
{
    use_fake("fails");
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_BF16);
    void *data = random_tensor(LQ_DTYPE_BF16);
    struct lq_encode_job job = job_of(&tensor, data, LQ_DTYPE_Q6_K);
    expect_alike(&job, "cuda");
    const char *notice = lq_gpu_notice();
    cr_assert_not_null(notice);
    cr_expect_str_eq(notice, "the GPU failed: it fell off the bus");
    expect_alike(&job, NULL);
    cr_expect_null(lq_gpu_notice());
    free(data);
}

static bool is_cancelled(void *user)
{
    struct sink *sink = user;
    return sink->rows_left-- == 0;
}

Test(gpu, a_build_can_be_cancelled)
{
    use_fake("");
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_BF16);
    void *data = random_tensor(LQ_DTYPE_BF16);
    struct sink sink = {.rows_left = 2};
    struct lq_error err;
    lq_buffer_init(&sink.bytes);
    struct lq_encode_job job = job_of(&tensor, data, LQ_DTYPE_Q4_0);
    job.user = &sink;
    job.write = collect;
    job.cancelled = is_cancelled;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_ECANCELLED);
    /* The lease went back in good order. */
    job.cancelled = NULL;
    expect_alike(&job, "cuda");
    lq_buffer_fini(&sink.bytes);
    free(data);
}

/* ----------------------------------------------------------- the command line ---- */

TestSuite(gpu_cli, .init = e2e_init, .fini = e2e_fini, .timeout = 600);

static void read_imatrix(const char *path, struct lq_arena *arena, struct lq_imatrix *imatrix)
{
    enum lq_imatrix_format format;
    struct lq_map map;
    struct lq_error err;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, path, arena, imatrix, &format, &err),
                 LQ_OK, "%s", err.message);
    lq_map_close(&map);
}

static size_t line_count(const char *path)
{
    struct lq_map map;
    struct lq_error err;
    if (lq_map_open(&map, path, LQ_EIO, &err) != LQ_OK) {
        return 0;
    }
    size_t count = 0;
    for (size_t i = 0; i < map.size_bytes; i++) {
        count += ((const char *)map.data)[i] == '\n';
    }
    lq_map_close(&map);
    return count;
}

static void expect_equal_files(const char *first, const char *second)
{
    struct lq_map a;
    struct lq_map b;
    struct lq_error err;
    cr_assert_eq(lq_map_open(&a, first, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_map_open(&b, second, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_expect(a.size_bytes == b.size_bytes && memcmp(a.data, b.data, (size_t)a.size_bytes) == 0);
    lq_map_close(&a);
    lq_map_close(&b);
}

Test(gpu_cli, a_build_on_gpus_has_the_bytes_and_keys_of_one_on_the_cpu)
{
    use_fake("two");
    cr_assert_eq(setenv("LQ_FAKE_GPU_LOG", "log", 1), 0);
    cr_assert_eq(e2e_run("quantize model gguf -q Q4_K_M -o cpu.gguf --device cpu --cache-dir c1"),
                 0, "%s", e2e_stderr());
    cr_expect_eq(line_count("log"), 0);
    cr_assert_eq(e2e_run("quantize model gguf -q Q4_K_M -o gpu.gguf --device cuda --cache-dir c2"),
                 0, "%s", e2e_stderr());
    cr_expect_gt(line_count("log"), 10);
    expect_equal_files("cpu.gguf", "gpu.gguf");
    /* The record says what computed it. */
    e2e_write("recipe.lq", "model m { source = \"model\" }\n"
                           "gguf q { model = m  level = \"Q4_K_M\"  path = \"q.gguf\" }\n");
    cr_assert_eq(e2e_run("q --device cpu"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("explain q"), 0, "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stdout(), "computed by"), "%s", e2e_stdout());
    cr_assert_eq(e2e_run("q --force --device cuda"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("explain q"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "exact, cuda"), "%s", e2e_stdout());
    /* What the CPU computed counts for the GPU: nothing runs. */
    cr_assert_eq(unlink("log"), 0);
    cr_assert_eq(e2e_run("quantize model gguf -q Q4_K_M -o cpu.gguf --device cuda --cache-dir c1"),
                 0, "%s", e2e_stderr());
    cr_expect_eq(line_count("log"), 0);
}

/* ---- models ---- */

/* bf16 has 8 bits: a column of few tokens may be off by a few percent, the sum of all columns of a
 * matrix by much less than the hundredth that is asked for. */
#define IMATRIX_COLUMN_RELATIVE 0.05
#define IMATRIX_SUM_RELATIVE 0.01
#define PERPLEXITY_RELATIVE 0.01

static void expect_close_imatrix(const char *first, const char *second)
{
    struct lq_arena arena;
    struct lq_imatrix a;
    struct lq_imatrix b;
    lq_arena_init(&arena);
    read_imatrix(first, &arena, &a);
    read_imatrix(second, &arena, &b);
    cr_assert_eq(a.entry_count, b.entry_count);
    cr_assert_gt(a.entry_count, 0);
    for (size_t i = 0; i < a.entry_count; i++) {
        double sum = 0;
        double other = 0;
        for (size_t j = 0; j < a.entries[i].col_count; j++) {
            double x = (double)a.entries[i].sums[j];
            double y = (double)b.entries[i].sums[j];
            sum += x;
            other += y;
            cr_expect_leq(fabs(x - y), IMATRIX_COLUMN_RELATIVE * x + 1e-6, "%s", a.entries[i].name);
        }
        cr_expect_leq(fabs(sum - other), IMATRIX_SUM_RELATIVE * sum, "%s", a.entries[i].name);
    }
    lq_arena_fini(&arena);
}

static double read_perplexity(const char *path)
{
    struct lq_arena arena;
    struct lq_qreport report;
    struct lq_map map;
    struct lq_error err;
    lq_arena_init(&arena);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_qreport_parse(map.data, map.size_bytes, path, &arena, &report, &err), LQ_OK,
                 "%s", err.message);
    double ppl = report.perplexity;
    lq_map_close(&map);
    lq_arena_fini(&arena);
    return ppl;
}

Test(gpu_cli, models_on_a_gpu_are_within_a_hundredth_and_count_for_the_cpu)
{
    static const char recipe[] =
        "model m { source = \"model\" }\n"
        "text words { path = \"words.txt\" }\n"
        "calibration c { model = m  text = words  samples = 128  sequence = 8 }\n"
        "imatrix %s { model = m  calibration = c  path = \"%s.gguf\" }\n"
        "report r%s { original = m  quantized = [m]  text = words  context = 32  chunks = 8\n"
        "             path = \"%s.qreport\" }\n";
    use_fake("");
    e2e_copy_text("eval.txt", "words.txt", 20000);
    e2e_write("recipe.lq", recipe, "cpu", "cpu", "cpu", "cpu");
    cr_assert_eq(e2e_run("cpu rcpu --device cpu --cache-dir c1"), 0, "%s", e2e_stderr());
    e2e_write("recipe.lq", recipe, "gpu", "gpu", "gpu", "gpu");
    cr_assert_eq(e2e_run("gpu rgpu --device cuda --cache-dir c2"), 0, "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stderr(), "computing on the CPU"), "%s", e2e_stderr());
    expect_close_imatrix("cpu.gguf", "gpu.gguf");
    double cpu = read_perplexity("cpu.qreport");
    double gpu = read_perplexity("gpu.qreport");
    cr_expect_leq(fabs(cpu - gpu), PERPLEXITY_RELATIVE * cpu, "%g and %g", cpu, gpu);
    cr_expect_neq(cpu, gpu, "bf16 is not f32: did the GPU run it?");
    cr_assert_eq(e2e_run("explain gpu --cache-dir c2"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "computed by cuda-bf16; exact\n"), "%s", e2e_stdout());
    /* Under another name nothing is known of the whole, but every step is. */
    e2e_write("recipe.lq", recipe, "again", "again", "again", "again");
    cr_assert_eq(e2e_run("again ragain --device cpu --cache-dir c2 --json"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    e2e_expect_same_file("gpu.gguf", "again.gguf");
    e2e_expect_same_file("gpu.qreport", "again.qreport");
}

Test(gpu_cli, auto_goes_on_with_the_cpu_and_says_so_in_one_line)
{
    use_fake("no-driver");
    cr_assert_eq(e2e_run("quantize model gguf -q Q8_0 -o a.gguf --device auto"), 0, "%s",
                 e2e_stderr());
    const char *line = strstr(e2e_stderr(), "there is no driver; computing on the CPU");
    cr_assert_not_null(line, "%s", e2e_stderr());
    cr_expect_null(strstr(line + 1, "there is no driver"));
    /* Who does not ask is not bothered. */
    cr_assert_eq(e2e_run("quantize model gguf -q Q8_0 -o b.gguf --force"), 0, "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stderr(), "driver"), "%s", e2e_stderr());
}

Test(gpu_cli, cuda_without_a_gpu_is_an_error)
{
    use_fake("no-driver");
    cr_expect_eq(e2e_run("quantize model gguf -q Q8_0 -o a.gguf --device cuda"), 17);
    cr_expect_not_null(strstr(e2e_stderr(), "device cuda: there is no driver"), "%s", e2e_stderr());
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", "/nowhere.so", 1), 0);
    cr_expect_eq(e2e_run("quantize model gguf -q Q8_0 -o a.gguf --device cuda:1"), 17);
    cr_expect_not_null(strstr(e2e_stderr(), "/nowhere.so"), "%s", e2e_stderr());
    cr_assert_eq(setenv("LQBUILD_DEVICE", "cuda", 1), 0);
    cr_expect_eq(e2e_run("quantize model gguf -q Q8_0 -o a.gguf"), 17);
    /* The option wins over the variable. */
    cr_expect_eq(e2e_run("quantize model gguf -q Q8_0 -o a.gguf --device cpu"), 0, "%s",
                 e2e_stderr());
}

Test(gpu_cli, other_devices_are_refused)
{
    static const char *const words[] = {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "''"};
    for (size_t i = 0; i < LQ_COUNT_OF(words); i++) {
        cr_expect_eq(e2e_run("rules --device %s", words[i]), 2, "%s", words[i]);
        cr_expect_not_null(strstr(e2e_stderr(), "expects auto, cpu, cuda or cuda:N"), "%s",
                           e2e_stderr());
    }
}

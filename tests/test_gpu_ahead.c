/* Weights that come to a GPU beside other work: what is loaded is what was expected, whatever was
 * copied by then, and streams never meet in memory without an order. The GPU is the fake one, whose
 * streams either all wait or all but one hurry, and which knows of races (gpu_races.h). */
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/compiler.h"
#include "kernels/gpu_device.h"
#include "kernels/gpu_device_parts.h"
#include "kernels/gpu_load.h"
#include "kernels/kernels.h"

enum { COLS = 1024, LISTED = 4 };

static void rest(long milliseconds)
{
    const struct timespec time = {.tv_nsec = milliseconds * 1000000};
    (void)nanosleep(&time, NULL);
}

static const struct lq_gpu_module *module;
static struct lq_gpu_context *context;
static struct lq_device *gpu;

static void open_gpu(const char *words)
{
    char why_not[LQ_GPU_WHY_BYTES];
    cr_assert_eq(setenv("LQ_FAKE_GPU", words, 1), 0);
    cr_assert_eq(setenv("LQBUILD_CUDA_MODULE", LQ_BINARY_DIR "/tests/libgpu_fake.so", 1), 0);
    module = lq_gpu_load(why_not);
    cr_assert_not_null(module, "%s", why_not);
    cr_assert_null(module->open(0, &context));
    const char *why = lq_gpu_device_create(module, context, &gpu);
    cr_assert_null(why, "%s", why);
}

/* A tensor of a file: bytes, and what they are as floats. */
struct tensor {
    enum lq_dtype dtype;
    size_t rows;
    unsigned char *bytes;
    size_t size_bytes;
    float *values;
};

static struct tensor make_tensor(enum lq_dtype dtype, size_t rows, uint32_t seed)
{
    struct tensor tensor = {
        .dtype = dtype, .rows = rows, .size_bytes = rows * lq_dtype_row_bytes(dtype, COLS)};
    size_t count = rows * COLS;
    tensor.bytes = malloc(tensor.size_bytes);
    tensor.values = malloc(count * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        tensor.values[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f;
    }
    if (dtype == LQ_DTYPE_F32) {
        memcpy(tensor.bytes, tensor.values, tensor.size_bytes);
    } else {
        lq_kernels()->encode[dtype](tensor.values, tensor.bytes, count, NULL);
        lq_kernels()->decode[dtype](tensor.bytes, tensor.values, count);
    }
    return tensor;
}

static void free_tensor(struct tensor *tensor)
{
    free(tensor->bytes);
    free(tensor->values);
}

/* Sizes around those of staging slots, and types that are decoded and that are not. */
static void make_layer(struct tensor layer[LISTED], uint32_t seed)
{
    layer[0] = make_tensor(LQ_DTYPE_BF16, 4700, seed);
    layer[1] = make_tensor(LQ_DTYPE_F32, 1024, seed + 1);
    layer[2] = make_tensor(LQ_DTYPE_Q8_0, 900, seed + 2);
    layer[3] = make_tensor(LQ_DTYPE_BF16, 2048, seed + 3);
}

static void key_of(const struct tensor *tensor, unsigned char key[LQ_EXPECTED_KEY_BYTES])
{
    memset(key, 0, LQ_EXPECTED_KEY_BYTES);
    for (size_t i = 0; i < tensor->size_bytes; i++) {
        key[i % LQ_EXPECTED_KEY_BYTES] =
            (unsigned char)(key[i % LQ_EXPECTED_KEY_BYTES] * 31 + tensor->bytes[i]);
    }
}

static void expect_layer(const struct tensor layer[LISTED])
{
    struct lq_expected list[LISTED];
    for (size_t i = 0; i < LISTED; i++) {
        list[i] = (struct lq_expected){.bytes = layer[i].bytes, .size_bytes = layer[i].size_bytes};
        key_of(&layer[i], list[i].key);
    }
    gpu->ops->expect(gpu, list, LISTED);
}

static void expect_loaded(const struct tensor *tensor, bool claim, const char *what)
{
    unsigned char key[LQ_EXPECTED_KEY_BYTES];
    size_t count = tensor->rows * COLS;
    float *to = gpu->ops->alloc(gpu, count * sizeof(float));
    float *got = calloc(count, sizeof *got);
    bool finite = false;
    key_of(tensor, key);
    if (claim) {
        gpu->ops->claim(gpu, key);
    }
    gpu->ops->load(gpu, tensor->dtype, tensor->bytes, tensor->rows, COLS, to, &finite);
    gpu->ops->download(gpu, got, to, count * sizeof(float));
    cr_assert_null(gpu->ops->failure(gpu), "%s: %s", what, gpu->ops->failure(gpu));
    cr_expect(finite, "%s", what);
    cr_expect(memcmp(got, tensor->values, count * sizeof(float)) == 0, "%s: other values", what);
    gpu->ops->release(gpu, to);
    free(got);
}

/* Something on the stream that has not begun, in memory that is given back at once. */
static void keep_busy(void)
{
    const size_t count = 5000 * (size_t)COLS / 2;
    float *x = gpu->ops->alloc(gpu, count * sizeof(float));
    float *y = gpu->ops->alloc(gpu, count * sizeof(float));
    gpu->ops->zero(gpu, x, count * sizeof(float));
    gpu->ops->copy(gpu, y, x, count);
    gpu->ops->release(gpu, x);
    gpu->ops->release(gpu, y);
}

static size_t taken_blocks(void)
{
    size_t count = 0;
    for (size_t i = 0; i < lq_gpu_of(gpu)->block_count; i++) {
        count += lq_gpu_of(gpu)->blocks[i].taken ? 1 : 0;
    }
    return count;
}

static void run_layers(const char *words, long rest_ms)
{
    struct tensor layer[LISTED];
    open_gpu(words);
    size_t taken = taken_blocks();
    for (uint32_t number = 0; number < 3; number++) {
        make_layer(layer, number * 100);
        keep_busy();
        expect_layer(layer);
        keep_busy();
        rest(rest_ms);
        gpu->ops->settle(gpu);
        /* One is wanted before its turn, and one is not wanted at all. */
        expect_loaded(&layer[1], true, words);
        expect_loaded(&layer[0], true, words);
        expect_loaded(&layer[3], number != 1, words);
        for (size_t i = 0; i < LISTED; i++) {
            free_tensor(&layer[i]);
        }
    }
    gpu->ops->expect(gpu, NULL, 0);
    cr_expect_eq(taken_blocks(), taken, "%zu blocks are lost", taken_blocks() - taken);
    gpu->ops->destroy(gpu);
}

Test(gpu_ahead, what_is_loaded_is_what_was_expected)
{
    run_layers("", 0);
    run_layers("", 60);
}

Test(gpu_ahead, streams_may_hurry)
{
    run_layers("eager", 0);
    run_layers("eager", 60);
}

Test(gpu_ahead, equal_bytes_elsewhere_are_the_same_and_other_bytes_are_not)
{
    struct tensor layer[LISTED];
    open_gpu("");
    make_layer(layer, 7);
    expect_layer(layer);
    rest(60);
    gpu->ops->settle(gpu);
    cr_expect_gt(lq_gpu_ahead_bytes(lq_gpu_of(gpu)), 0);
    /* The same place with other content, which has another key. */
    struct tensor other = make_tensor(LQ_DTYPE_BF16, 2048, 99);
    memcpy(layer[3].bytes, other.bytes, other.size_bytes);
    memcpy(layer[3].values, other.values, (size_t)2048 * COLS * sizeof(float));
    expect_loaded(&layer[3], true, "other content");
    /* Another place with the same content: what was copied ahead counts, not what is given now. */
    memset(layer[2].bytes + 8, 0, 16);
    unsigned char key[LQ_EXPECTED_KEY_BYTES];
    struct tensor same = make_tensor(LQ_DTYPE_Q8_0, 900, 9);
    key_of(&same, key);
    size_t count = same.rows * COLS;
    float *to = gpu->ops->alloc(gpu, count * sizeof(float));
    float *got = calloc(count, sizeof *got);
    bool finite = false;
    gpu->ops->claim(gpu, key);
    cr_expect_not_null(lq_gpu_of(gpu)->claimed.memory);
    cr_expect_eq(lq_gpu_of(gpu)->claimed.done_bytes, same.size_bytes);
    gpu->ops->load(gpu, LQ_DTYPE_Q8_0, layer[2].bytes, 900, COLS, to, &finite);
    gpu->ops->download(gpu, got, to, count * sizeof(float));
    cr_expect(memcmp(got, same.values, count * sizeof(float)) == 0);
    free(got);
    gpu->ops->release(gpu, to);
    for (size_t i = 0; i < LISTED; i++) {
        free_tensor(&layer[i]);
    }
    free_tensor(&other);
    free_tensor(&same);
    gpu->ops->destroy(gpu);
}

/* Memory for work comes first: what was copied ahead makes room. */
Test(gpu_ahead, makes_room_when_memory_is_short)
{
    struct tensor layer[LISTED];
    open_gpu("small");
    make_layer(layer, 3);
    expect_layer(layer);
    rest(20);
    size_t ahead = lq_gpu_ahead_bytes(lq_gpu_of(gpu));
    cr_expect_gt(ahead, 0);
    void *most = gpu->ops->alloc(gpu, ((size_t)149 << 20) - ahead / 2);
    cr_assert_null(gpu->ops->failure(gpu), "%s", gpu->ops->failure(gpu));
    cr_expect_eq(lq_gpu_ahead_bytes(lq_gpu_of(gpu)), 0);
    gpu->ops->release(gpu, most);
    gpu->ops->settle(gpu);
    expect_loaded(&layer[0], true, "without what was copied");
    for (size_t i = 0; i < LISTED; i++) {
        free_tensor(&layer[i]);
    }
    gpu->ops->destroy(gpu);
}

Test(gpu_ahead, a_nan_that_was_copied_ahead_is_found)
{
    struct tensor layer[LISTED];
    bool finite = true;
    unsigned char key[LQ_EXPECTED_KEY_BYTES];
    open_gpu("");
    make_layer(layer, 5);
    memset(layer[0].bytes + layer[0].size_bytes - 2, 0xff, 2);
    expect_layer(layer);
    rest(20);
    gpu->ops->settle(gpu);
    key_of(&layer[0], key);
    float *to = gpu->ops->alloc(gpu, layer[0].rows * COLS * sizeof(float));
    gpu->ops->claim(gpu, key);
    gpu->ops->load(gpu, layer[0].dtype, layer[0].bytes, layer[0].rows, COLS, to, &finite);
    cr_expect_null(gpu->ops->failure(gpu));
    cr_expect_not(finite);
    for (size_t i = 0; i < LISTED; i++) {
        free_tensor(&layer[i]);
    }
    gpu->ops->destroy(gpu);
}

/* The masks of blocked signals of all threads but this one, all of which the device has started. */
static size_t count_open_threads(void)
{
    size_t count = 0;
    DIR *tasks = opendir("/proc/self/task");
    cr_assert_not_null(tasks);
    for (struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks)) {
        char path[320];
        char line[256];
        unsigned long long blocked = ~0ull;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *status = atol(entry->d_name) == (long)getpid() ? NULL : fopen(path, "r");
        while (status != NULL && fgets(line, sizeof line, status) != NULL) {
            (void)sscanf(line, "SigBlk: %llx", &blocked);
        }
        if (status != NULL) {
            fclose(status);
            count += (blocked >> (SIGINT - 1) & blocked >> (SIGTERM - 1) & 1) == 0;
        }
    }
    closedir(tasks);
    return count;
}

/* Signals are for the program's own threads, as wherever it starts one. */
Test(gpu_ahead, the_thread_takes_no_signals)
{
    struct tensor layer[LISTED];
    sigset_t after;
    open_gpu("");
    make_layer(layer, 4);
    size_t before = count_open_threads();
    expect_layer(layer);
    cr_expect_eq(count_open_threads(), before);
    cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    cr_expect_eq(sigismember(&after, SIGINT), 0);
    gpu->ops->settle(gpu);
    for (size_t i = 0; i < LISTED; i++) {
        free_tensor(&layer[i]);
    }
    gpu->ops->destroy(gpu);
}

/* What the tests above rely on: without an order the fake says so, with one it does not. */
Test(gpu_ahead, the_fake_knows_a_race)
{
    struct lq_gpu_stream *streams[2];
    void *memory = NULL;
    void *host = NULL;
    open_gpu("");
    cr_assert_null(module->stream_open(context, &streams[0]));
    cr_assert_null(module->stream_open(context, &streams[1]));
    cr_assert_null(module->alloc(context, 4096, &memory));
    cr_assert_null(module->alloc_host(context, 4096, &host));
    memset(host, 1, 4096);
    cr_expect_null(module->upload(streams[0], memory, host, 4096));
    cr_expect_not_null(module->zero(streams[1], (char *)memory + 4000, 8), "nobody waited");
    /* The other way about nobody waits either: both are on their way. */
    cr_assert_null(module->wait(streams[0]));
    cr_assert_null(module->wait(streams[1]));
    cr_expect_null(module->zero(streams[1], (char *)memory + 4000, 8), "the host waited for both");
    cr_expect_null(module->set_mark(streams[1], 2));
    cr_expect_not_null(module->download(streams[0], host, memory, 4096), "no one follows the mark");
    cr_assert_null(module->wait(streams[0]));
    cr_expect_null(module->zero(streams[1], memory, 8));
    cr_expect_null(module->set_mark(streams[1], 2));
    cr_expect_null(module->follow(streams[0], streams[1], 2));
    cr_expect_null(module->download(streams[0], host, memory, 4096), "it follows the mark");
    cr_assert_null(module->wait(streams[0]));
    cr_expect_eq(((unsigned char *)host)[0], 0);
    cr_expect_eq(((unsigned char *)host)[8], 1);
    module->stream_close(streams[0]);
    module->stream_close(streams[1]);
    module->release(context, memory);
    module->release_host(context, host);
    gpu->ops->destroy(gpu);
}

/* Checks every kernel of every CPU level against the reference, bit for bit, on random and
 * adversarial input, products of matrices included (or, with --products, alone); --bench measures
 * them instead, --bench --json prints one object per line, and --bench --threads N says how many
 * times as fast N threads encode as one. With --gpu a GPU is checked or measured too. --beside
 * LIBRARY sets errors on fresh random rows, or with --bench times, beside llama.cpp's. */
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "tests/checkkern_beside.h"
#include "tests/checkkern_gpu.h"
#include "tests/checkkern_products.h"
#include "tests/checkkern_threads.h"

#define COLS_MAX 4096

static uint64_t random_state;

static double random_unit(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(random_state >> 11) + 0.5) * 0x1p-53;
}

static double random_normal(void)
{
    return sqrt(-2.0 * log(random_unit())) * cos(6.283185307179586 * random_unit());
}

/* Inputs, by name; each fills `count` finite values. */
enum input_kind {
    INPUT_NORMAL,
    INPUT_HEAVY,
    INPUT_SPARSE,
    INPUT_ZERO,
    INPUT_CONSTANT,
    INPUT_POSITIVE,
    INPUT_ONE_NONZERO,
    INPUT_DENORMAL,
    INPUT_HUGE,
    INPUT_MIXED_MAGNITUDES,
    INPUT_FEW_LEVELS,
    INPUT_KIND_COUNT,
};

static const char *const input_names[INPUT_KIND_COUNT] = {
    "normal",   "heavy", "sparse",           "zero",      "constant", "positive", "one-nonzero",
    "denormal", "huge",  "mixed-magnitudes", "few-levels"};

static float input_value(enum input_kind kind, size_t i)
{
    double normal = random_normal();
    switch (kind) {
    case INPUT_HEAVY:
        return (float)(0.02 * normal / (random_unit() + 1e-3));
    case INPUT_SPARSE:
        return random_unit() < 0.02 ? (float)normal : 0.0f;
    case INPUT_ZERO:
        return i % 3 == 0 ? -0.0f : 0.0f;
    case INPUT_CONSTANT:
        return -0.37f;
    case INPUT_POSITIVE:
        return (float)(1.0 + 0.1 * fabs(normal));
    case INPUT_ONE_NONZERO:
        return i % 512 == 77 ? -3.25f : 0.0f;
    case INPUT_DENORMAL:
        return (float)(normal * 0x1p-140);
    case INPUT_HUGE:
        return (float)(fmax(-1.0, fmin(1.0, normal)) * 3.4e38);
    case INPUT_MIXED_MAGNITUDES:
        return (float)(normal * exp2(floor(random_unit() * 60.0) - 40.0));
    case INPUT_FEW_LEVELS:
        return (float)(floor(random_unit() * 4.0) - 1.0);
    default:
        return (float)(0.02 * normal);
    }
}

enum weight_kind {
    WEIGHT_NONE,
    WEIGHT_LOG_NORMAL,
    WEIGHT_ZERO,
    WEIGHT_DOMINANT,
    WEIGHT_KIND_COUNT
};

static float weight_value(enum weight_kind kind, size_t i)
{
    double random = exp(random_normal());
    switch (kind) {
    case WEIGHT_ZERO:
        return i / 64 % 2 == 0 ? 0.0f : (float)random;
    case WEIGHT_DOMINANT:
        return (float)(random * (i % 100 == 13 ? 1e6 : 1.0) * (i % 256 == 200 ? 1e30 : 1.0));
    default:
        return (float)random;
    }
}

struct buffers {
    float row[COLS_MAX];
    float importance[COLS_MAX];
    unsigned char expected[COLS_MAX * 4];
    unsigned char got[COLS_MAX * 4];
    float expected_out[COLS_MAX];
    float got_out[COLS_MAX];
};

/* What is checked against the reference. */
struct variant {
    const char *name;
    const struct lq_kernels *table;
};

static int failures;
/* Every input with one importance instead of all: for emulators. */
static bool quick;

static void report(const char *op, const char *name, const struct variant *variant,
                   const char *input)
{
    fprintf(stderr, "checkkern: %s %s %s differs from ref on %s\n", op, name, variant->name, input);
    failures++;
}

static void check_type(enum lq_dtype dtype, const struct variant *variant, struct buffers *b,
                       size_t cols)
{
    const struct lq_kernels *ref = lq_kernels_at(LQ_CPU_REF);
    const struct lq_kernels *other = variant->table;
    const char *name = lq_dtype_name(dtype);
    size_t row_bytes = lq_dtype_row_bytes(dtype, cols);
    for (int kind = 0; kind < INPUT_KIND_COUNT; kind++) {
        for (int weight = 0; weight < WEIGHT_KIND_COUNT; weight++) {
            if (quick && weight != kind % WEIGHT_KIND_COUNT) {
                continue;
            }
            for (size_t i = 0; i < cols; i++) {
                b->row[i] = input_value((enum input_kind)kind, i);
                b->importance[i] = weight_value((enum weight_kind)weight, i);
            }
            const float *importance = weight == WEIGHT_NONE ? NULL : b->importance;
            memset(b->expected, 0xa5, sizeof b->expected);
            memset(b->got, 0xa5, sizeof b->got);
            ref->encode[dtype](b->row, b->expected, cols, importance);
            other->encode[dtype](b->row, b->got, cols, importance);
            /* The whole buffer: nothing may be written behind the row either. */
            if (memcmp(b->expected, b->got, sizeof b->expected) != 0) {
                report("encode", name, variant, input_names[kind]);
            }
            if (b->got[row_bytes] != 0xa5) {
                report("encode overrun", name, variant, input_names[kind]);
            }
            ref->decode[dtype](b->expected, b->expected_out, cols);
            other->decode[dtype](b->expected, b->got_out, cols);
            if (memcmp(b->expected_out, b->got_out, cols * sizeof(float)) != 0) {
                report("decode", name, variant, input_names[kind]);
            }
            if (lq_kernels()->find_nonfinite(b->expected_out, cols) != cols) {
                report("encode gives a non-finite value:", name, variant, input_names[kind]);
            }
        }
    }
}

/* Arbitrary bytes: the decoders must agree on every bit pattern, non-finite scales included. */
static void check_decode_bytes(enum lq_dtype dtype, const struct variant *variant,
                               struct buffers *b)
{
    size_t cols = 2 * 256 + (lq_dtype_info(dtype)->block_elems < 256 ? 128 : 0);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof b->expected; i++) {
            b->expected[i] = (unsigned char)(random_unit() * 256.0);
        }
        lq_kernels_at(LQ_CPU_REF)->decode[dtype](b->expected, b->expected_out, cols);
        variant->table->decode[dtype](b->expected, b->got_out, cols);
        for (size_t i = 0; i < cols; i++) {
            bool both_nan = isnan(b->expected_out[i]) && isnan(b->got_out[i]);
            if (!both_nan && memcmp(&b->expected_out[i], &b->got_out[i], 4) != 0) {
                report("decode", lq_dtype_name(dtype), variant, "random bytes");
                break;
            }
        }
    }
}

static void check_rows(const struct variant *variant, struct buffers *b)
{
    const struct lq_kernels *ref = lq_kernels_at(LQ_CPU_REF);
    const struct lq_kernels *other = variant->table;
    for (size_t cols = 1; cols < 70; cols++) {
        size_t rows = COLS_MAX / 70;
        for (size_t i = 0; i < rows * cols; i++) {
            b->row[i] = input_value(INPUT_HEAVY, i);
        }
        for (size_t i = 0; i < cols; i++) {
            b->expected_out[i] = b->got_out[i] = (float)random_unit();
        }
        ref->add_squares(b->row, rows, cols, b->expected_out);
        other->add_squares(b->row, rows, cols, b->got_out);
        if (memcmp(b->expected_out, b->got_out, cols * sizeof(float)) != 0) {
            report("add_squares", "F32", variant, "heavy");
        }
        if (other->find_nonfinite(b->row, cols) != cols) {
            report("find_nonfinite", "F32", variant, "finite");
        }
        for (size_t at = 0; at < cols; at++) {
            float saved = b->row[at];
            b->row[at] = at % 3 == 0 ? NAN : at % 3 == 1 ? INFINITY : -INFINITY;
            if (other->find_nonfinite(b->row, cols) != at) {
                report("find_nonfinite", "F32", variant, "one bad value");
            }
            b->row[at] = saved;
        }
    }
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Best of many short runs, in ns per weight: on a busy machine some of them are left alone. */
static double measure(const struct lq_kernels *table, enum lq_dtype dtype, bool encode,
                      struct buffers *b)
{
    double best = INFINITY;
    size_t repeat = 1;
    for (int run = 0; run < 40; run++) {
        double start = seconds_now();
        for (size_t i = 0; i < repeat; i++) {
            if (encode) {
                table->encode[dtype](b->row, b->got, COLS_MAX, b->importance);
            } else {
                table->decode[dtype](b->expected, b->got_out, COLS_MAX);
            }
        }
        double elapsed = seconds_now() - start;
        if (run == 0) {
            repeat = (size_t)(0.001 / fmax(elapsed, 1e-7)) + 1;
            continue;
        }
        best = fmin(best, elapsed * 1e9 / (double)(repeat * COLS_MAX));
    }
    return best;
}

static void bench_type(enum lq_dtype dtype, bool encode, bool json, struct buffers *b)
{
    double ref_ns = 0.0;
    for (int level = 0; level < LQ_CPU_LEVEL_COUNT; level++) {
        const struct lq_kernels *table = lq_kernels_at((enum lq_cpu_level)level);
        const struct lq_kernels *below =
            level == 0 ? NULL : lq_kernels_at((enum lq_cpu_level)(level - 1));
        if (table == NULL) {
            continue;
        }
        /* A level without its own kernel runs the one below: not a variant. */
        if (below != NULL && (encode ? table->encode[dtype] == below->encode[dtype]
                                     : table->decode[dtype] == below->decode[dtype])) {
            continue;
        }
        double ns = measure(table, dtype, encode, b);
        ref_ns = level == 0 ? ns : ref_ns;
        double bytes = 4.0 + lq_dtype_bpw(dtype) / 8.0;
        const char *op = encode ? "encode" : "decode";
        const char *variant = lq_cpu_level_name((enum lq_cpu_level)level);
        if (json) {
            printf("{\"op\":\"%s\",\"type\":\"%s\",\"variant\":\"%s\",\"ns_per_weight\":%.4f,"
                   "\"gb_per_s\":%.4f}\n",
                   op, lq_dtype_name(dtype), variant, ns, bytes / ns);
        } else {
            printf("%-7s %-8s %-7s %9.3f ns/weight %8.3f GB/s %8.2fx ref\n", op,
                   lq_dtype_name(dtype), variant, ns, bytes / ns, ref_ns / ns);
        }
        fflush(stdout);
    }
}

static void fill_bench(struct buffers *b)
{
    for (size_t i = 0; i < COLS_MAX; i++) {
        b->row[i] = (float)(0.02 * random_normal() * (random_unit() < 0.01 ? 10.0 : 1.0));
        b->importance[i] = weight_value(WEIGHT_LOG_NORMAL, i);
    }
}

static void bench(bool json, const char *only, struct buffers *b)
{
    fill_bench(b);
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        const struct lq_kernels *ref = lq_kernels_at(LQ_CPU_REF);
        if (ref->encode[dtype] == NULL ||
            (only != NULL && strcmp(only, lq_dtype_name((uint32_t)dtype)) != 0)) {
            continue;
        }
        lq_kernels()->encode[dtype](b->row, b->expected, COLS_MAX, b->importance);
        bench_type((enum lq_dtype)dtype, true, json, b);
        bench_type((enum lq_dtype)dtype, false, json, b);
    }
}

static int check_variant(const struct variant *variant, const char *only, struct buffers *b)
{
    const struct lq_kernels *table = variant->table;
    int checked = 0;
    check_rows(variant, b);
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (table->encode[dtype] == NULL ||
            (only != NULL && strcmp(only, lq_dtype_name((uint32_t)dtype)) != 0)) {
            continue;
        }
        /* Rows that fill whole batches of lanes, and rows that do not. */
        size_t block = lq_dtype_info((uint32_t)dtype)->block_elems;
        check_type((enum lq_dtype)dtype, variant, b, 1024);
        check_type((enum lq_dtype)dtype, variant, b, 3 * block);
        check_decode_bytes((enum lq_dtype)dtype, variant, b);
        checked++;
    }
    return checked;
}

/* What to do, from the command line. */
struct request {
    bool bench, json, gpu, products;
    size_t threads;     /* of --bench */
    const char *beside; /* llama.cpp's library */
    size_t draws;       /* of --beside, for each kind and length */
    const char *only;   /* a type */
    const char *level;  /* a variant */
};

static bool parse(struct request *request, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            request->bench = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            request->json = true;
        } else if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else if (strcmp(argv[i], "--products") == 0) {
            request->products = true;
        } else if (strcmp(argv[i], "--gpu") == 0) {
            request->gpu = true;
        } else if (strcmp(argv[i], "--level") == 0 && i + 1 < argc) {
            request->level = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc &&
                   strtoul(argv[i + 1], NULL, 10) - 1 < CHECKKERN_THREADS_MAX) {
            request->threads = strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--beside") == 0 && i + 1 < argc) {
            request->beside = argv[++i];
        } else if (strcmp(argv[i], "--draws") == 0 && i + 1 < argc) {
            request->draws = strtoul(argv[++i], NULL, 10);
        } else if (argv[i][0] != '-') {
            request->only = argv[i];
        } else {
            fprintf(stderr,
                    "usage: checkkern [--quick] [--level NAME] [--gpu] [TYPE | --products]\n"
                    "       checkkern --bench [--json | --gpu | --threads N] [TYPE]\n"
                    "       checkkern --beside LIBGGML_BASE [--bench | --draws N] [TYPE]\n");
            return false;
        }
    }
    return true;
}

static int check_levels(const struct request *request, struct buffers *b)
{
    int checked = 0;
    for (int level = 1; level < LQ_CPU_LEVEL_COUNT; level++) {
        struct variant variant = {lq_cpu_level_name((enum lq_cpu_level)level),
                                  lq_kernels_at((enum lq_cpu_level)level)};
        if (request->level != NULL && strcmp(request->level, variant.name) != 0) {
            continue;
        }
        if (variant.table == NULL) {
            printf("SKIP %s: this CPU does not have it\n", variant.name);
            continue;
        }
        if (!request->products) {
            int count = check_variant(&variant, request->only, b);
            printf("%s: %d types\n", variant.name, count);
            checked += count;
        }
        if (request->only == NULL) {
            failures += check_products((enum lq_cpu_level)level, random_normal);
        }
    }
    return checked;
}

/* The GPU beside the best that one core of this CPU does. */
static int bench_gpu(const char *only, struct buffers *b)
{
    const char *why = NULL;
    double cpu_ns[LQ_DTYPE_COUNT] = {0};
    if (gpu_table(&why) == NULL) {
        printf("SKIP cuda: %s\n", why);
        return 0;
    }
    fill_bench(b);
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        bool wanted = only == NULL || strcmp(only, lq_dtype_name((uint32_t)dtype)) == 0;
        if (wanted && lq_kernels()->encode[dtype] != NULL) {
            cpu_ns[dtype] = measure(lq_kernels(), (enum lq_dtype)dtype, true, b);
        }
    }
    gpu_bench(only, cpu_ns);
    return 0;
}

static int run_beside(const struct request *request)
{
    static struct beside beside;
    if (!beside_open(&beside, request->beside)) {
        return 2;
    }
    size_t above = beside_all(&beside, request->only, request->draws, request->bench);
    return above == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct request request = {.draws = 12};
    if (!parse(&request, argc, argv)) {
        return 2;
    }
    static struct buffers buffers;
    random_state = 20260821;
    if (request.beside != NULL) {
        return run_beside(&request);
    }
    if (request.bench && request.gpu) {
        return bench_gpu(request.only, &buffers);
    }
    if (request.bench && request.threads > 0) {
        fill_bench(&buffers);
        bench_threads(request.threads, request.only, buffers.row, buffers.importance);
        return 0;
    }
    if (request.bench) {
        bench(request.json, request.only, &buffers);
        return 0;
    }
    int checked = check_levels(&request, &buffers);
    if (request.gpu) {
        const char *why = NULL;
        struct variant gpu = {"cuda", gpu_table(&why)};
        if (gpu.table == NULL) {
            printf("SKIP cuda: %s\n", why);
        } else {
            int count = check_variant(&gpu, request.only, &buffers);
            printf("cuda: %d types on %s\n", count, lq_gpu_device(gpu_lease));
            checked += count;
        }
    }
    printf("%d type variants checked, %d differences\n", checked, failures);
    if (checked == 0 && request.only != NULL) {
        fprintf(stderr,
                "checkkern: nothing was checked; is '%s' a type, and has this CPU the level?\n",
                request.only);
        return 1;
    }
    return failures == 0 ? 0 : 1;
}

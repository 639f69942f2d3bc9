/* Numbers of the shipped model against what llama.cpp's tools measured on it
 * (tests/golden/tiny-llama): perplexities of files at several levels, and the importance matrix. */
#include <math.h>

#include "e2e.h"
#include "rules/format/imatrix.h"

TestSuite(e2e_golden, .init = e2e_init, .fini = e2e_fini, .timeout = 900);

/* The perplexity in golden perplexity.tsv of a level, with or without an imatrix. */
static double golden_perplexity(const char *level, const char *imatrix)
{
    struct lq_buffer text;
    struct lq_error err;
    lq_buffer_init(&text);
    cr_assert_eq(
        lq_file_read(LQ_SOURCE_DIR "/tests/golden/tiny-llama/perplexity.tsv", 1 << 20, &text, &err),
        LQ_OK, "%s", err.message);
    double found = 0;
    for (char *line = strtok((char *)text.data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char name[32];
        char used[8];
        double perplexity = 0;
        double uncertainty = 0;
        if (sscanf(line, "%31s %lf %lf %7s", name, &perplexity, &uncertainty, used) == 4 &&
            strcmp(name, level) == 0 && strcmp(used, imatrix) == 0) {
            found = perplexity;
        }
    }
    lq_buffer_fini(&text);
    cr_assert_gt(found, 1, "no golden perplexity of %s", level);
    return found;
}

struct level {
    const char *name;
    bool with_imatrix;
    double tolerance; /* relative, of the perplexity: how much worse than llama.cpp's own file */
};

static const struct level levels[] = {
    {"F32", false, 0.0005},   {"Q8_0", false, 0.005},  {"Q6_K", true, 0.005},
    {"Q4_K_M", false, 0.005}, {"Q4_K_M", true, 0.005},
};

static double perplexity_of(const cJSON *report, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(report, key);
    cr_assert(cJSON_IsNumber(item), "the report has no %s", key);
    return item->valuedouble;
}

Test(e2e_golden, perplexities_of_quantized_files)
{
    struct lq_buffer list;
    lq_buffer_init(&list);
    for (size_t i = 0; i < LQ_COUNT_OF(levels); i++) {
        char file[32];
        snprintf(file, sizeof file, "q%zu.gguf", i);
        cr_assert_eq(e2e_run("quantize model gguf -q %s %s -o %s", levels[i].name,
                             levels[i].with_imatrix
                                 ? "--imatrix " LQ_SOURCE_DIR
                                   "/tests/golden/tiny-llama/imatrix-calibration-128x256.gguf"
                                 : "",
                             file),
                     0, "%s", e2e_stderr());
        lq_buffer_printf(&list, "model m%zu { source = \"%s\" }\n", i, file);
    }
    e2e_write(
        "recipe.lq",
        "%smodel base { source = \"model\" }\ntext eval { path = \"%s/examples/text/eval.txt\" }\n"
        "report r { original = base  quantized = [m0, m1, m2, m3, m4]  text = eval\n"
        "  path = \"r.qreport\" }\ndefault r\n",
        lq_buffer_text(&list), LQ_SOURCE_DIR);
    lq_buffer_fini(&list);
    cr_assert_eq(e2e_run(""), 0, "%s", e2e_stderr());
    struct lq_buffer text;
    struct lq_error err;
    lq_buffer_init(&text);
    cr_assert_eq(lq_file_read("r.qreport", 1 << 24, &text, &err), LQ_OK, "%s", err.message);
    cJSON *report = cJSON_Parse(lq_buffer_text(&text));
    cr_assert_not_null(report);
    double original = golden_perplexity("F32", "no");
    cr_expect_lt(fabs(perplexity_of(report, "perplexity_original") / original - 1), 0.0005);
    const cJSON *others = cJSON_GetObjectItemCaseSensitive(report, "others");
    cr_assert_eq(cJSON_GetArraySize(others), (int)LQ_COUNT_OF(levels) - 1);
    for (size_t i = 0; i < LQ_COUNT_OF(levels); i++) {
        const cJSON *model = i == 0 ? report : cJSON_GetArrayItem(others, (int)i - 1);
        double ours = perplexity_of(model, "perplexity_quantized");
        double golden = golden_perplexity(levels[i].name, levels[i].with_imatrix ? "yes" : "no");
        /* Better than llama.cpp's own is no failure, worse by more than the tolerance is. */
        cr_expect_lt(ours / golden - 1, levels[i].tolerance, "%s: %.4f, golden %.4f",
                     levels[i].name, ours, golden);
        cr_expect_gt(ours, original * 0.99, "%s: %.4f beats the original", levels[i].name, ours);
    }
    cJSON_Delete(report);
    lq_buffer_fini(&text);
}

static void parse_imatrix(const char *path, struct lq_arena *arena, struct lq_imatrix *imatrix)
{
    struct lq_map map;
    struct lq_error err;
    enum lq_imatrix_format format;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIMATRIX, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, path, arena, imatrix, &format, &err),
                 LQ_OK, "%s", err.message);
    lq_map_close(&map);
}

/* Every mean within 1 % of llama-imatrix's or 1e-6 absolute; the same names and counts. */
static void compare_imatrix(const char *text, const char *golden_name)
{
    struct lq_arena arena;
    struct lq_imatrix ours;
    struct lq_imatrix golden;
    char path[512];
    lq_arena_init(&arena);
    cr_assert_eq(e2e_run("analyze model --calibration-data %s/examples/text/%s "
                         "--calibration-samples 128 --sequence 256 -o im.gguf",
                         LQ_SOURCE_DIR, text),
                 0, "%s", e2e_stderr());
    snprintf(path, sizeof path, "%s/tests/golden/tiny-llama/%s", LQ_SOURCE_DIR, golden_name);
    parse_imatrix("im.gguf", &arena, &ours);
    parse_imatrix(path, &arena, &golden);
    cr_assert_eq(ours.entry_count, golden.entry_count);
    cr_expect_eq(ours.chunk_count, golden.chunk_count);
    cr_expect_eq(ours.chunk_size, golden.chunk_size);
    double worst = 0;
    for (size_t i = 0; i < golden.entry_count; i++) {
        const struct lq_imatrix_entry *a = &ours.entries[i];
        const struct lq_imatrix_entry *b = &golden.entries[i];
        cr_assert_str_eq(a->name, b->name);
        cr_assert_eq(a->col_count, b->col_count);
        cr_expect_eq(a->counts[0], b->counts[0], "%s: %g, %g", a->name, a->counts[0], b->counts[0]);
        for (size_t j = 0; j < a->col_count; j++) {
            double mean = a->sums[j] / a->counts[0];
            double expected = b->sums[j] / b->counts[0];
            double difference = fabs(mean - expected);
            if (difference > 1e-6 && difference / expected > worst) {
                worst = difference / expected;
            }
        }
    }
    cr_expect_lt(worst, 0.01, "the largest relative difference is %g", worst);
    lq_arena_fini(&arena);
}

Test(e2e_golden, imatrix_of_the_calibration_text)
{
    compare_imatrix("calibration.txt", "imatrix-calibration-128x256.gguf");
}

Test(e2e_golden, imatrix_of_the_evaluation_text)
{
    compare_imatrix("eval.txt", "imatrix-128x256.gguf");
}

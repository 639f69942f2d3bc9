#include <math.h>

#include "engine/base/arena.h"
#include "rules/format/qreport.h"
#include "tests/e2e.h"

/* Reports of the built program on the shipped model. */

static struct lq_arena arena;
static struct lq_qreport report;

static void set_up(void)
{
    e2e_init();
    lq_arena_init(&arena);
}

static void tear_down(void)
{
    lq_arena_fini(&arena);
    e2e_fini();
}

TestSuite(e2e_quality, .init = set_up, .fini = tear_down, .timeout = 600);

static void read_report(const char *path)
{
    struct lq_map map;
    struct lq_error err;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_qreport_parse(map.data, map.size_bytes, path, &arena, &report, &err), LQ_OK,
                 "%s", err.message);
    lq_map_close(&map);
}

static void write_recipe(const char *levels, const char *quantized, const char *path)
{
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "for q in [%s] { gguf \"{q}\" { model = base  level = q } }\n"
              "report r { original = base  quantized = [%s]  text = words  context = 128 "
              "path = \"%s\" }\n",
              levels, quantized, path);
}

/* What llama-perplexity --kl-divergence gives for the decoded weights is in docs/numerics-model.md;
 * here: the order of levels, bounds, and that formats agree with each other. */
Test(e2e_quality, levels_diverge_in_their_order)
{
    e2e_copy_text("eval.txt", "words.txt", 12000);
    write_recipe("\"F32\", \"Q8_0\", \"Q4_0\", \"Q2_K\"", "\"F32\", \"Q8_0\", \"Q4_0\", \"Q2_K\"",
                 "r.qreport");
    cr_assert_eq(e2e_run("r"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "KL divergence  mean"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "hidden states are off by"), "%s", e2e_stdout());
    read_report("r.qreport");
    cr_assert_eq(report.model_count, 4);
    const struct lq_qreport_model *models = report.models;
    cr_expect_float_eq(models[0].divergence.kld_mean, 0.0, 1e-7);
    cr_expect_eq(models[0].divergence.same_top_pct, 100.0);
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(models[i].hidden_count, 6);
        cr_expect_float_eq(models[i].divergence.log_ratio, log1p(models[i].delta_pct / 100.0),
                           1e-9);
    }
    for (size_t i = 1; i < 4; i++) {
        cr_expect_gt(models[i].divergence.kld_mean, 3.0 * models[i - 1].divergence.kld_mean);
        cr_expect_lt(models[i].divergence.same_top_pct, models[i - 1].divergence.same_top_pct);
        cr_expect_gt(models[i].hidden_errors[5], models[i - 1].hidden_errors[5]);
    }
    /* One more model: only it is measured, and the original, whose hidden states are gone. */
    write_recipe("\"F32\", \"Q8_0\", \"Q4_0\", \"Q2_K\", \"Q5_0\"", "\"Q5_0\", \"Q8_0\"", "r.csv");
    cr_assert_eq(e2e_run("--json r"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_count_events("step-finished",
                                  "quality.compare\",\"label\":\"Q8_0\",\"outcome\":\"cached"),
                 1);
    cr_expect_eq(
        e2e_count_events("step-finished", "quality.compare\",\"label\":\"Q5_0\",\"outcome\":\"ran"),
        1);
    struct lq_buffer csv;
    struct lq_error err;
    lq_buffer_init(&csv);
    cr_assert_eq(lq_file_read("r.csv", 1 << 20, &csv, &err), LQ_OK, "%s", err.message);
    cr_expect_not_null(strstr(lq_buffer_text(&csv), "\r\nQ5_0,"), "%s", lq_buffer_text(&csv));
    lq_buffer_fini(&csv);
}

Test(e2e_quality, results_do_not_depend_on_threads)
{
    e2e_copy_text("eval.txt", "words.txt", 4000);
    write_recipe("\"Q4_0\"", "\"Q4_0\"", "a.qreport");
    cr_assert_eq(e2e_run("-j1 r"), 0, "%s", e2e_stderr());
    write_recipe("\"Q4_0\"", "\"Q4_0\"", "b.qreport");
    cr_assert_eq(e2e_run("-j3 --cache-dir other r"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("a.qreport", "b.qreport");
}

Test(e2e_quality, other_vocabularies_and_short_texts_are_refused)
{
    e2e_copy_text("eval.txt", "words.txt", 4000);
    cr_assert_eq(system(LQ_BINARY_DIR "/tests/make_model --vocab 300 tiny other.gguf >/dev/null"),
                 0);
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "model other { source = \"other.gguf\" }\n"
                           "text words { path = \"words.txt\" }\n"
                           "text word { path = \"word.txt\" }\n"
                           "report r { original = base  quantized = [other]  text = words }\n"
                           "report s { original = base  quantized = [base]  text = word }\n");
    e2e_write("word.txt", "too short\n");
    cr_expect_eq(e2e_run("r"), 9, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "300"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("s"), 15, "%s", e2e_stderr());
}

Test(e2e_quality, coherence_is_one_for_the_original_and_fails_when_it_is_low)
{
    e2e_copy_text("eval.txt", "words.txt", 2000);
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "let least = 0.95\n"
              "gguf same { model = base  level = \"F32\" }\n"
              "gguf coarse { model = base  level = \"TQ1_0\"  pure = true }\n"
              "report r { original = base  quantized = [same, coarse]  text = words  context = 128 "
              "coherence = true  prompts = [\"The function returns\", \"If the\"] "
              "continuation = 12  min_coherence = least  path = \"r.qreport\" }\n");
    cr_assert_eq(e2e_run("r"), 12, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "coherence check of 'coarse' failed"), "%s",
                       e2e_stderr());
    read_report("r.qreport");
    cr_expect_eq(report.models[0].coherence.score, 1.0);
    cr_expect_eq(report.models[0].coherence.agreement, 1.0);
    cr_expect_lt(report.models[1].coherence.score, 0.95);
    cr_expect_eq(e2e_run("-D least=0.1 r"), 0, "%s", e2e_stderr());
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "text words { path = \"words.txt\" }\n"
                           "report r { original = base  quantized = [base]  text = words "
                           "min_coherence = 0.5 }\n");
    cr_expect_eq(e2e_run("r"), 7, "%s", e2e_stderr());
}

Test(e2e_quality, tasks_prefer_what_the_model_knows)
{
    e2e_copy_text("eval.txt", "words.txt", 2000);
    e2e_write("tasks.jsonl",
              "{\"context\":\"The function returns\",\"choices\":[\"the number of rows.\","
              "\"zq xj kk vv qq.\"],\"answer\":0}\n"
              "{\"context\":\"If the value is\",\"choices\":[\"qxz jj ww zz\",\"not set, then the "
              "default is used\"],\"answer\":1}\n");
    e2e_write("tasks.csv", "0,The value of the column is _ by default.,null,zzqx,1\n");
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "tasks known { path = \"tasks.jsonl\" }\n"
              "tasks gaps { path = \"tasks.csv\"  format = \"winogrande\" }\n"
              "gguf q8 { model = base  level = \"Q8_0\" }\n"
              "report r { original = base  quantized = [q8]  text = words  context = 128 "
              "tasks = [known, gaps]  path = \"r.qreport\" }\n");
    cr_assert_eq(e2e_run("r"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "accuracy on 2 tasks of known (guessing gives 50.00%)"),
                       "%s", e2e_stdout());
    read_report("r.qreport");
    cr_assert_eq(report.task_count, 2);
    cr_expect_eq(report.tasks[0].accuracy.right_count, 2);
    cr_expect_str_eq(report.tasks[1].name, "gaps");
    cr_assert_eq(report.models[0].task_count, 2);
    cr_expect_eq(report.models[0].tasks[0].accuracy.right_count, 2);
    /* One answer that begins another cannot be scored. */
    e2e_write("tasks.jsonl", "{\"context\":\"The\",\"choices\":[\"end\",\"end\"],\"answer\":0}\n");
    cr_expect_eq(e2e_run("r"), 9, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "no token of its own"), "%s", e2e_stderr());
    e2e_write("tasks.jsonl", "{\"context\":\"The\"}\n");
    cr_expect_eq(e2e_run("r"), 9, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "tasks.jsonl:1:"), "%s", e2e_stderr());
}

Test(e2e_quality, one_chunk_is_too_few)
{
    e2e_copy_text("eval.txt", "words.txt", 3000);
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "text words { path = \"words.txt\" }\n"
                           "report r { original = base  quantized = [base]  text = words  "
                           "chunks = 1  path = \"r.qreport\" }\n");
    cr_expect_eq(e2e_run("r"), 7, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "chunks is 1, expected at least 2"), "%s",
                       e2e_stderr());
}

Test(e2e_quality, divergence_against_a_base_file)
{
    e2e_copy_text("eval.txt", "words.txt", 3000);
    e2e_write(
        "recipe.lq",
        "model base { source = \"model\" }\n"
        "text words { path = \"words.txt\" }\n"
        "gguf q4 { model = base  level = \"Q4_0\" }\n"
        "logits made { model = base  text = words  context = 128  path = \"base.kld\" }\n"
        "logits loaded { file = \"base.kld\" }\n"
        "report a { original = base  quantized = [q4]  logits = made  path = \"a.qreport\" }\n"
        "report b { original = base  quantized = [q4]  text = words  context = 128 "
        "path = \"b.qreport\" }\n");
    cr_assert_eq(e2e_run("a b"), 0, "%s", e2e_stderr());
    read_report("a.qreport");
    double from_file = report.models[0].divergence.kld_mean;
    double ppl = report.perplexity;
    read_report("b.qreport");
    /* 16 bits of a range of 16 are 2.4e-4 wide; errors of single tokens cancel. */
    cr_expect_float_eq(from_file, report.models[0].divergence.kld_mean, 1e-4, "%g and %g",
                       from_file, report.models[0].divergence.kld_mean);
    cr_expect_eq(ppl, report.perplexity);
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "logits loaded { file = \"base.kld\" }\n"
                           "report a { original = base  quantized = [base]  logits = loaded }\n");
    cr_expect_eq(e2e_run("a"), 0, "%s", e2e_stderr());
    cr_assert_eq(truncate("base.kld", 5000), 0);
    cr_expect_eq(e2e_run("a"), 9, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "truncated"), "%s", e2e_stderr());
}

static unsigned count(const char *text, const char *what)
{
    unsigned found = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        found++;
    }
    return found;
}

/* One picture for all models with the same matrix and mask, none for a model without; what people
 * read in other formats has none. */
Test(e2e_quality, pages_show_what_the_models_were_made_with)
{
    struct lq_buffer page = {0};
    struct lq_error err;
    e2e_copy_text("eval.txt", "words.txt", 30000);
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "calibration c { model = base  text = words  samples = 128  sequence = 16 }\n"
              "imatrix im { model = base  calibration = c }\n"
              "mask top { model = base  imatrix = im }\n"
              "gguf a { model = base  imatrix = im  protect = top  level = \"Q4_0\" }\n"
              "gguf b { model = base  imatrix = im  protect = top  level = \"Q8_0\" }\n"
              "gguf d { model = base  imatrix = im  level = \"Q4_0\" }\n"
              "gguf e { model = base  level = \"Q8_0\" }\n"
              "for f in [\"html\", \"qreport\"] {\n"
              "  report \"r-{f}\" { original = base  quantized = [a, b, d, e]  text = words\n"
              "                   context = 64  chunks = 4  path = \"r.{f}\" }\n"
              "}\n"
              "report bare { original = base  quantized = [e]  text = words  context = 64\n"
              "              chunks = 4  path = \"bare.html\" }\n");
    cr_assert_eq(e2e_run("r-html r-qreport bare"), 0, "%s", e2e_stderr());
    cr_assert_eq(lq_file_read("r.html", 1 << 24, &page, &err), LQ_OK, "%s", err.message);
    const char *text = lq_buffer_text(&page);
    cr_expect_eq(count(text, "<svg "), 2);
    cr_expect_eq(count(text, "</svg>"), 2);
    cr_expect_eq(count(text, "<h2>Importance and super weights</h2>"), 1);
    cr_expect_gt(count(text, "super weights"), 1);
    cr_expect_not_null(strstr(text, "attn_q"));
    lq_buffer_clear(&page);
    cr_assert_eq(lq_file_read("bare.html", 1 << 24, &page, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(count(lq_buffer_text(&page), "<svg "), 0);
    cr_expect_eq(count(lq_buffer_text(&page), "Importance and super weights"), 0);
    lq_buffer_clear(&page);
    cr_assert_eq(lq_file_read("r.qreport", 1 << 24, &page, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(count(lq_buffer_text(&page), "svg"), 0);
    lq_buffer_fini(&page);
}

/* Too much is said, and fails only where it was asked to. */
Test(e2e_quality, thresholds_come_from_options_and_the_environment)
{
    static const char said[] = "worse: above the limit of ";
    e2e_copy_text("eval.txt", "words.txt", 30000);
    cr_assert_eq(e2e_run("quantize model gguf -q Q2_K -o q.gguf"), 0, "%s", e2e_stderr());
    static const char report_command[] =
        "quality report model q.gguf --calibration-data words.txt --calibration-samples 4";
    cr_expect_eq(e2e_run("%s", report_command), 0, "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stdout(), said), "%s", e2e_stdout());
    cr_assert_eq(setenv("LQBUILD_QUALITY_THRESHOLD", "0.01%", 1), 0);
    cr_expect_eq(e2e_run("%s", report_command), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), said), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "limit of 0.01%"), "%s", e2e_stdout());
    cr_expect_eq(e2e_run("%s --fail-above 0.01%%", report_command), 11);
    cr_assert_eq(setenv("LQBUILD_QUALITY_THRESHOLD", "much", 1), 0);
    cr_expect_eq(e2e_run("%s", report_command), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "LQBUILD_QUALITY_THRESHOLD"), "%s", e2e_stderr());
    cr_assert_eq(unsetenv("LQBUILD_QUALITY_THRESHOLD"), 0);
    cr_assert_eq(setenv("LQBUILD_CALIBRATION_DATA", "words.txt", 1), 0);
    cr_assert_eq(setenv("LQBUILD_COHERENCE_THRESHOLD", "1", 1), 0);
    static const char coherence_command[] =
        "quality report model q.gguf --calibration-samples 4 --coherence-check";
    cr_expect_eq(e2e_run("%s", coherence_command), 12, "%s", e2e_stderr());
    cr_assert_eq(setenv("LQBUILD_COHERENCE_THRESHOLD", "0", 1), 0);
    cr_expect_eq(e2e_run("%s", coherence_command), 0, "%s", e2e_stderr());
    cr_assert_eq(setenv("LQBUILD_COHERENCE_THRESHOLD", "1.5", 1), 0);
    cr_expect_eq(e2e_run("%s", coherence_command), 2);
}

/* The report that `quantize` makes: which text it measures on, and what it says to programs. */
Test(e2e_quality, quantize_reports_on_its_own_result)
{
    e2e_copy_text("eval.txt", "words.txt", 20000);
    e2e_write("other.txt", "too short\n");
    static const char command[] = "quantize model gguf -q Q2_K -o q.gguf --format json";
    cr_assert_eq(e2e_run("%s --coherence-check --evaluation-data words.txt", command), 0, "%s",
                 e2e_stderr());
    cJSON *root = cJSON_Parse(e2e_stdout());
    cr_assert_not_null(root, "%s", e2e_stdout());
    const cJSON *report = cJSON_GetObjectItemCaseSensitive(root, "quality_report");
    const cJSON *score = cJSON_GetObjectItemCaseSensitive(report, "coherence_score");
    cr_assert(cJSON_IsNumber(score), "%s", e2e_stdout());
    cr_expect(score->valuedouble > 0.5 && score->valuedouble <= 1.0);
    double share = 0.0;
    const cJSON *layer = NULL;
    cJSON_ArrayForEach(layer, cJSON_GetObjectItemCaseSensitive(root, "layer_summary"))
    {
        share += cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(layer, "size_pct"));
    }
    cr_expect_float_eq(share, 100.0, 1e-6);
    cJSON_Delete(root);
    cr_expect_not(lq_path_exists("q.gguf.imatrix"));

    cr_expect_eq(e2e_run("%s --fail-above 0.01%% --evaluation-data words.txt", command), 11);
    cr_expect_eq(e2e_run("%s --quality-report --evaluation-data other.txt", command), 15);
    cr_assert_eq(setenv("LQBUILD_CALIBRATION_DATA", "words.txt", 1), 0);
    cr_expect_eq(e2e_run("%s --quality-report", command), 0, "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stderr(), "calibration"), "%s", e2e_stderr());
    /* Where importance is needed the same text gives it: it is too short for 512 samples. */
    cr_expect_eq(e2e_run("quantize model gguf -q IQ1_S -o q.gguf"), 15);
    cr_expect_eq(e2e_run("quantize model gguf --dynamic -o q.gguf"), 15);
    cr_expect_eq(e2e_run("quantize model gguf --dynamic -o q.gguf --calibration-samples 128 "
                         "--sequence 32"),
                 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "imatrix.layer"), "%s", e2e_stderr());
}

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/qreport.h"

static struct lq_arena arena;
static struct lq_error err;

static void setup(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
}

static void teardown(void)
{
    lq_arena_fini(&arena);
}

TestSuite(qreport, .init = setup, .fini = teardown);

static enum lq_status parse_file(const char *name, struct lq_qreport *out)
{
    struct lq_buffer file;
    lq_buffer_init(&file);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests/corpus/qreport", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, &file, &err), LQ_OK, "%s", err.message);
    lq_error_clear(&err);
    enum lq_status status = lq_qreport_parse(file.data, file.size_bytes, "f", &arena, out, &err);
    lq_buffer_fini(&file);
    return status;
}

static void expect_error(const char *name, const char *words)
{
    struct lq_qreport report;
    cr_expect_eq(parse_file(name, &report), LQ_EFORMAT, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
}

Test(qreport, reads_the_documented_fields)
{
    struct lq_qreport report;
    cr_assert_eq(parse_file("seed", &report), LQ_OK, "%s", err.message);
    cr_assert_str_eq(report.model_path, "models/tiny");
    cr_assert_eq(report.perplexity, 5.234);
    cr_assert(isnan(report.plus_minus));
    cr_assert_eq(report.model_count, 1);
    const struct lq_qreport_model *model = &report.models[0];
    cr_assert_str_eq(model->quantized_path, "out/q4.gguf");
    cr_assert_eq(model->perplexity, 5.456);
    cr_assert_eq(model->delta_pct, 4.24);
    cr_assert_eq(model->effective_bpw, 4.5);
    cr_assert_eq(model->coherence.score, 0.95);
    cr_assert_eq(model->layer_count, 1);
    cr_assert_eq(model->layers[0].mse, 0.00123);
    cr_assert_eq(model->layers[0].parameter_count, 65536);
    cr_assert_str_eq(model->layers[0].type, "Q4_K");
}

Test(qreport, several_models_survive_a_round_trip)
{
    struct lq_qreport report;
    struct lq_qreport again;
    struct lq_buffer first;
    struct lq_buffer second;
    lq_buffer_init(&first);
    lq_buffer_init(&second);
    cr_assert_eq(parse_file("full", &report), LQ_OK, "%s", err.message);
    cr_assert_eq(report.model_count, 2);
    cr_assert_eq(report.token_count, 1270);
    cr_assert(isnan(report.models[1].perplexity), "null is not measured");
    cr_assert_eq(lq_qreport_format(&report, NULL, &first, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_qreport_parse(first.data, first.size_bytes, "again", &arena, &again, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_qreport_format(&again, NULL, &second, &err), LQ_OK);
    cr_assert_str_eq(lq_buffer_text(&first), lq_buffer_text(&second));
    cr_assert_eq(again.models[0].divergence.same_top_pct, 93.5);
    cr_assert_eq(again.models[0].file_size_bytes, 300);
    cr_assert_not_null(strstr(lq_buffer_text(&first), "\"timestamp\": null"));
    lq_buffer_clear(&second);
    cr_assert_eq(lq_qreport_format(&report, "2026-01-02T03:04:05Z", &second, &err), LQ_OK);
    cr_assert_not_null(strstr(lq_buffer_text(&second), "\"timestamp\": \"2026-01-02T03:04:05Z\""));
    lq_buffer_fini(&first);
    lq_buffer_fini(&second);
}

Test(qreport, identifier_follows_the_content)
{
    struct lq_qreport_model model;
    lq_qreport_model_init(&model);
    model.quantized_path = "q.gguf";
    model.perplexity = 6;
    struct lq_qreport report = {
        .model_path = "m", .perplexity = 5, .plus_minus = NAN, .models = &model, .model_count = 1};
    struct lq_buffer a;
    struct lq_buffer b;
    lq_buffer_init(&a);
    lq_buffer_init(&b);
    cr_assert_eq(lq_qreport_format(&report, NULL, &a, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_qreport_format(&report, NULL, &b, &err), LQ_OK);
    cr_assert_str_eq(lq_buffer_text(&a), lq_buffer_text(&b));
    struct lq_qreport x;
    struct lq_qreport y;
    model.perplexity = 7;
    lq_buffer_clear(&b);
    cr_assert_eq(lq_qreport_format(&report, NULL, &b, &err), LQ_OK);
    cr_assert_eq(lq_qreport_parse(a.data, a.size_bytes, "a", &arena, &x, &err), LQ_OK);
    cr_assert_eq(lq_qreport_parse(b.data, b.size_bytes, "b", &arena, &y, &err), LQ_OK);
    cr_assert_str_neq(x.report_id, y.report_id);
    cr_assert_eq(strlen(x.report_id), 36);
    report.model_count = 0;
    cr_assert_eq(lq_qreport_format(&report, NULL, &b, &err), LQ_EFORMAT);
    lq_buffer_fini(&a);
    lq_buffer_fini(&b);
}

/* A broken model has an infinite perplexity: that is null, not invalid JSON. */
Test(qreport, infinite_numbers_become_null)
{
    struct lq_qreport_model model;
    lq_qreport_model_init(&model);
    model.quantized_path = "q.gguf";
    model.perplexity = (double)INFINITY;
    struct lq_qreport report = {
        .model_path = "m", .perplexity = 5, .plus_minus = NAN, .models = &model, .model_count = 1};
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_assert_eq(lq_qreport_format(&report, NULL, &out, &err), LQ_OK, "%s", err.message);
    cr_assert_not_null(strstr(lq_buffer_text(&out), "\"perplexity_quantized\": null"));
    lq_buffer_fini(&out);
}

Test(qreport, refuses_nonsense_with_one_sentence)
{
    expect_error("no_path", "missing field 'quantized_path'");
    expect_error("no_layers", "missing field 'layer_errors'");
    expect_error("negative", "field 'perplexity_quantized' is -1");
    expect_error("coherence", "field 'coherence_score' is 1.5, expected 0 to 1");
    expect_error("layer", "layer_errors entry 1: field 'mse' is -1");
    expect_error("layer_count", "entry 0: field 'parameter_count' is 1.5");
    expect_error("others", "others entry 0: missing field 'quantized_path'");
    expect_error("others_number", "others entry 0: missing field");
    expect_error("text", "field 'effective_bpw' is not a number");
    expect_error("not_object", "not a JSON object");
    expect_error("truncated", "invalid JSON");
}

Test(qreport, survives_truncation_and_bit_flips)
{
    struct lq_buffer file;
    struct lq_qreport report;
    lq_buffer_init(&file);
    cr_assert_eq(lq_file_read(LQ_SOURCE_DIR "/tests/corpus/qreport/full", 1 << 20, &file, &err),
                 LQ_OK);
    for (size_t size = 0; size < file.size_bytes; size++) {
        char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, file.data, size);
        cr_expect_eq(lq_qreport_parse(piece, size, "f", &arena, &report, &err), LQ_EFORMAT);
        free(piece);
    }
    for (size_t bit = 0; bit < 8 * file.size_bytes; bit++) {
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status =
            lq_qreport_parse(file.data, file.size_bytes, "f", &arena, &report, &err);
        cr_expect(status == LQ_OK || status == LQ_EFORMAT);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    lq_buffer_fini(&file);
}

/* Reports for people: the table, the worst tensors, HTML that is safe and complete. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/report/report_text.h"

static struct lq_qreport_layer layers[] = {
    {"blk.0.attn_q.weight", "Q4_K", 1e-5, 0.01, 4.5, 65536},
    {"blk.0.ffn_down.weight", "Q2_K", 9e-5, 0.09, 2.625, 196608},
    {"blk.1.ffn_down.weight", "Q2_K", 7e-5, 0.07, 2.625, 196608},
    {"blk.2.ffn_up.weight", NULL, 0.0, 0.0, 32, 196608},
};

static struct lq_qreport make(struct lq_qreport_model *models)
{
    lq_qreport_model_init(&models[0]);
    lq_qreport_model_init(&models[1]);
    models[0].quantized_path = "small";
    models[0].perplexity = 50.2075;
    models[0].plus_minus = 0.7;
    models[0].delta_pct = 20.0;
    models[0].effective_bpw = 3.125;
    models[0].file_size_bytes = 3 * 1024 * 1024;
    models[0].super_weight_coverage = 0.0001;
    models[0].layers = layers;
    models[0].layer_count = LQ_COUNT_OF(layers);
    models[1].quantized_path = "<b>&\"evil\"";
    return (struct lq_qreport){.model_path = "base",
                               .perplexity = 41.8396,
                               .plus_minus = 0.63556,
                               .file_size_bytes = 11 * 1024 * 1024,
                               .context = 256,
                               .chunk_count = 10,
                               .token_count = 1270,
                               .models = models,
                               .model_count = 2};
}

Test(report, formats_by_extension)
{
    cr_expect_eq(lq_report_format_of(".html"), LQ_REPORT_HTML);
    cr_expect_eq(lq_report_format_of(".HTM"), LQ_REPORT_HTML);
    cr_expect_eq(lq_report_format_of(".txt"), LQ_REPORT_TEXT);
    cr_expect_eq(lq_report_format_of(".qreport"), LQ_REPORT_JSON);
    cr_expect_eq(lq_report_format_of(""), LQ_REPORT_JSON);
}

Test(report, text_is_an_aligned_table)
{
    struct lq_qreport_model models[2];
    struct lq_qreport report = make(models);
    struct lq_buffer out;
    lq_buffer_init(&out);
    models[1].quantized_path = "other";
    lq_report_write_text(&report, (double)NAN, &out);
    static const char expected[] =
        "perplexity of 1270 tokens in 10 chunks of 256\n"
        "\n"
        "model      size  bits/weight          perplexity   change\n"
        "base   11.0 MiB               41.8396 +/- 0.6356\n"
        "small   3.0 MiB        3.125  50.2075 +/- 0.7000  +20.00%\n"
        "other         -            -                   -        -\n"
        "\n"
        "largest tensor errors of small\n"
        "  blk.0.ffn_down.weight        Q2_K     mse 9.000e-05  max 9.000e-02\n"
        "  blk.1.ffn_down.weight        Q2_K     mse 7.000e-05  max 7.000e-02\n"
        "  blk.0.attn_q.weight          Q4_K     mse 1.000e-05  max 1.000e-02\n"
        "\n"
        "small protects 0.01% of its weights\n";
    cr_expect_str_eq(lq_buffer_text(&out), expected);
    lq_buffer_clear(&out);
    lq_report_write_text(&report, 0.1, &out);
    cr_expect_not_null(
        strstr(lq_buffer_text(&out), "small is 20.00% worse: above the limit of 10%"));
    lq_buffer_clear(&out);
    lq_report_write_text(&report, 0.2, &out);
    cr_expect_null(strstr(lq_buffer_text(&out), "above the limit"));
    lq_buffer_fini(&out);
}

Test(report, html_escapes_and_needs_nothing_else)
{
    struct lq_qreport_model models[2];
    struct lq_qreport report = make(models);
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_report_write_html(&report, 0.1, "", &out);
    const char *text = lq_buffer_text(&out);
    cr_expect_not_null(strstr(text, "&lt;b&gt;&amp;&quot;evil&quot;"));
    cr_expect_null(strstr(text, "<b>"));
    cr_expect_null(strstr(text, "http"));
    cr_expect_null(strstr(text, "nan"));
    cr_expect_not_null(strstr(text, "<tr class=\"bad\"><td>small"));
    cr_expect_not_null(strstr(text, "blk.1.ffn_down.weight"));
    cr_expect_not_null(strstr(text, "</html>"));
    struct lq_buffer again;
    lq_buffer_init(&again);
    lq_report_write_html(&report, 0.1, "", &again);
    cr_expect_str_eq(text, lq_buffer_text(&again));
    lq_buffer_fini(&again);
    lq_buffer_fini(&out);
}

Test(report, worst_layers_are_the_largest)
{
    struct lq_qreport_model models[2];
    struct lq_qreport report = make(models);
    const struct lq_qreport_layer *worst[2];
    cr_expect_eq(lq_report_worst_layers(&report.models[0], worst, 2), 2);
    cr_expect_eq(worst[0], &layers[1]);
    cr_expect_eq(worst[1], &layers[2]);
    cr_expect_eq(lq_report_worst_layers(&report.models[1], worst, 2), 0);
}

#include <math.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/report/report_text.h"

static void append_text(struct lq_buffer *out, const char *text)
{
    bool quote = strpbrk(text, ",\"\r\n") != NULL;
    if (quote) {
        lq_buffer_append_char(out, '"');
    }
    for (; *text != '\0'; text++) {
        if (*text == '"') {
            lq_buffer_append_char(out, '"');
        }
        lq_buffer_append_char(out, *text);
    }
    if (quote) {
        lq_buffer_append_char(out, '"');
    }
}

static void append_numbers(struct lq_buffer *out, const double *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lq_buffer_append_char(out, ',');
        if (isfinite(values[i])) {
            lq_json_format_number(out, values[i]);
        }
    }
    lq_buffer_append_string(out, "\r\n");
}

static double size_or_unknown(uint64_t size_bytes)
{
    return size_bytes == 0 ? (double)NAN : (double)size_bytes;
}

void lq_report_write_csv(const struct lq_qreport *report, struct lq_buffer *out)
{
    const double unknown = (double)NAN;
    const double original[] = {size_or_unknown(report->file_size_bytes),
                               unknown,
                               unknown,
                               report->perplexity,
                               report->plus_minus,
                               unknown,
                               unknown,
                               unknown,
                               unknown,
                               unknown,
                               unknown};
    lq_buffer_append_string(out, "model,file_size,effective_bpw,compression_ratio,perplexity,"
                                 "perplexity_plus_minus,perplexity_delta_pct,kl_divergence_mean,"
                                 "kl_divergence_plus_minus,same_top_pct,delta_p_rms_pct,"
                                 "coherence_score\r\n");
    append_text(out, report->model_path);
    append_numbers(out, original, LQ_COUNT_OF(original));
    for (size_t i = 0; i < report->model_count; i++) {
        const struct lq_qreport_model *model = &report->models[i];
        const double values[] = {size_or_unknown(model->file_size_bytes),
                                 model->effective_bpw,
                                 model->compression_ratio,
                                 model->perplexity,
                                 model->plus_minus,
                                 model->delta_pct,
                                 model->divergence.kld_mean,
                                 model->divergence.kld_plus_minus,
                                 model->divergence.same_top_pct,
                                 model->divergence.delta_p_rms,
                                 model->coherence.score};
        append_text(out, model->quantized_path);
        append_numbers(out, values, LQ_COUNT_OF(values));
    }
}

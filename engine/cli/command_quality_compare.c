/* `lqbuild quality compare`: one original, any number of quantized models, side by side. What needs
 * no model to run, sizes and bits, is read from the files when nothing else is asked for. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/quality_job.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/gguf.h"
#include "rules/format/qreport.h"

enum metric {
    METRIC_SIZE = 1,
    METRIC_BPW = 2,
    METRIC_PERPLEXITY = 4,
    METRIC_DIVERGENCE = 8,
    METRIC_ALL = 15,
    METRIC_MODELS = METRIC_PERPLEXITY | METRIC_DIVERGENCE, /* those that run models */
};

enum column {
    COLUMN_SIZE,
    COLUMN_RATIO,
    COLUMN_BPW,
    COLUMN_PERPLEXITY,
    COLUMN_DELTA,
    COLUMN_KLD,
    COLUMN_SAME_TOP,
    COLUMN_COUNT,
};

enum { CELL_BYTES = 40 };

static const struct {
    enum metric metric;
    const char *title;  /* for people */
    const char *name;   /* in JSON and CSV */
    const char *format; /* NULL: a size */
} columns[COLUMN_COUNT] = {
    [COLUMN_SIZE] = {METRIC_SIZE, "size", "file_size", NULL},
    [COLUMN_RATIO] = {METRIC_SIZE, "ratio", "compression_ratio", "%.3f"},
    [COLUMN_BPW] = {METRIC_BPW, "bits/weight", "effective_bpw", "%.3f"},
    [COLUMN_PERPLEXITY] = {METRIC_PERPLEXITY, "perplexity", "perplexity", "%.4f"},
    [COLUMN_DELTA] = {METRIC_PERPLEXITY, "change", "perplexity_delta_pct", "%+.2f%%"},
    [COLUMN_KLD] = {METRIC_DIVERGENCE, "KL divergence", "kl_divergence_mean", "%.6f"},
    [COLUMN_SAME_TOP] = {METRIC_DIVERGENCE, "same top", "same_top_pct", "%.2f%%"},
};

/* A model; NaN is unknown. */
struct row {
    const char *name;
    double values[COLUMN_COUNT];
};

struct comparison {
    struct lq_quality_job job;
    unsigned metrics;
    double fail_above; /* NaN: no limit */
};

/* ---- words ---- */

static enum lq_status read_metrics(struct comparison *comparison, struct lq_error *err)
{
    static const char choices[] = "all perplexity divergence size bpw";
    static const char *const names[] = {"perplexity", "divergence", "size", "bpw", "all"};
    static const unsigned bits[] = {METRIC_PERPLEXITY, METRIC_DIVERGENCE, METRIC_SIZE, METRIC_BPW,
                                    METRIC_ALL};
    struct lq_arena *arena = &comparison->job.cli->arena;
    const char *list = lq_args_get(&comparison->job.cli->args, "metrics");
    comparison->metrics = list == NULL ? (unsigned)METRIC_ALL : 0U;
    while (list != NULL) {
        size_t length = strcspn(list, ",");
        char *word = lq_arena_dup(arena, list, length);
        if (word == NULL) {
            return lq_error_nomem(err, "the command");
        }
        unsigned bit = 0;
        for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
            bit |= strcmp(names[i], word) == 0 ? bits[i] : 0U;
        }
        if (bit == 0) {
            const char *nearest = lq_choices_nearest(choices, word, arena);
            return lq_error_set(err, LQ_EUSAGE, "--metrics has no '%s'; %s%s%s", word,
                                nearest == NULL ? "give some of perplexity,divergence,size,bpw"
                                                : "did you mean '",
                                nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
        }
        comparison->metrics |= bit;
        list = list[length] == ',' ? list + length + 1 : NULL;
    }
    return LQ_OK;
}

static enum lq_status read_words(struct comparison *comparison, struct lq_error *err)
{
    bool has_limit = false;
    comparison->fail_above = (double)NAN;
    enum lq_status status = read_metrics(comparison, err);
    if (status == LQ_OK) {
        status = lq_args_number(&comparison->job.cli->args, "fail-above", &comparison->fail_above,
                                &has_limit, err);
    }
    if (status == LQ_OK && has_limit && !(comparison->fail_above >= 0.0)) {
        return lq_error_set(err, LQ_EUSAGE, "--fail-above is %g, expected 0 or more, 20%% perhaps",
                            comparison->fail_above);
    }
    if (status == LQ_OK && has_limit && (comparison->metrics & METRIC_PERPLEXITY) == 0) {
        return lq_error_set(err, LQ_EUSAGE, "--fail-above needs perplexity among the --metrics");
    }
    return status;
}

/* ---- figures ---- */

static void init_row(struct row *row, const char *name)
{
    row->name = name;
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        row->values[i] = (double)NAN;
    }
}

static double known_size(uint64_t size_bytes)
{
    return size_bytes == 0 ? (double)NAN : (double)size_bytes;
}

/* What the head of a GGUF file says; of a Hugging Face folder only the size is known. */
static enum lq_status row_of_file(struct lq_cli *cli, const char *path, struct row *row,
                                  struct lq_error *err)
{
    struct lq_map map;
    struct lq_gguf gguf;
    enum lq_status status = lq_quick_find_model(cli, path, &path, err);
    if (status != LQ_OK) {
        return status;
    }
    row->values[COLUMN_SIZE] = known_size(lq_quick_model_bytes(cli, path));
    if (lq_path_is_dir(path)) {
        return LQ_OK;
    }
    status = lq_map_open(&map, path, LQ_EMODEL, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, path, LQ_EMODEL, &cli->arena,
                           &gguf, NULL, err);
    double bytes = 0.0;
    double elements = 0.0;
    for (size_t i = 0; status == LQ_OK && i < gguf.tensor_count; i++) {
        const uint64_t *ne = gguf.tensors[i].ne;
        bytes += (double)gguf.tensors[i].size_bytes;
        elements += (double)ne[0] * (double)ne[1] * (double)ne[2] * (double)ne[3];
    }
    lq_map_close(&map);
    row->values[COLUMN_BPW] = elements > 0.0 ? 8.0 * bytes / elements : (double)NAN;
    return status;
}

static enum lq_status rows_of_report(const struct comparison *comparison, struct row *rows,
                                     struct lq_error *err)
{
    const struct lq_quality_job *job = &comparison->job;
    struct lq_qreport report;
    struct lq_map map;
    enum lq_status status = row_of_file(job->cli, rows[0].name, &rows[0], err);
    if (status == LQ_OK) {
        status = lq_map_open(&map, job->report, LQ_EIO, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    status =
        lq_qreport_parse(map.data, map.size_bytes, job->report, &job->cli->arena, &report, err);
    lq_map_close(&map);
    if (status == LQ_OK && report.model_count != job->quantized_count) {
        status = lq_error_set(err, LQ_EINTERNAL, "the report has %zu models", report.model_count);
    }
    if (status != LQ_OK) {
        return status;
    }
    rows[0].values[COLUMN_PERPLEXITY] = report.perplexity;
    for (size_t i = 0; i < report.model_count; i++) {
        const struct lq_qreport_model *model = &report.models[i];
        double *values = rows[i + 1].values;
        values[COLUMN_SIZE] = known_size(model->file_size_bytes);
        values[COLUMN_RATIO] = model->compression_ratio;
        values[COLUMN_BPW] = model->effective_bpw;
        values[COLUMN_PERPLEXITY] = model->perplexity;
        values[COLUMN_DELTA] = model->delta_pct;
        values[COLUMN_KLD] = model->divergence.kld_mean;
        values[COLUMN_SAME_TOP] = model->divergence.same_top_pct;
    }
    return LQ_OK;
}

static enum lq_status rows_of_files(const struct comparison *comparison, struct row *rows,
                                    struct lq_error *err)
{
    const struct lq_quality_job *job = &comparison->job;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i <= job->quantized_count; i++) {
        status = row_of_file(job->cli, rows[i].name, &rows[i], err);
        if (i > 0) {
            rows[i].values[COLUMN_RATIO] =
                rows[i].values[COLUMN_SIZE] / rows[0].values[COLUMN_SIZE];
        }
    }
    return status;
}

/* ---- output ---- */

static bool is_shown(const struct comparison *comparison, size_t column)
{
    return (comparison->metrics & (unsigned)columns[column].metric) != 0;
}

static void format_cell(size_t column, double value, char cell[CELL_BYTES])
{
    if (isnan(value)) {
        (void)snprintf(cell, CELL_BYTES, "-");
    } else if (columns[column].format == NULL) {
        (void)lq_text_size((uint64_t)value, cell, CELL_BYTES);
    } else {
        (void)snprintf(cell, CELL_BYTES, columns[column].format, value);
    }
}

static void print_table(const struct comparison *comparison, const struct row *rows, size_t count,
                        struct lq_buffer *out)
{
    int widths[COLUMN_COUNT];
    int name_width = (int)strlen("model");
    char cell[CELL_BYTES];
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        widths[c] = (int)strlen(columns[c].title);
        for (size_t r = 0; r < count; r++) {
            format_cell(c, rows[r].values[c], cell);
            widths[c] = (int)strlen(cell) > widths[c] ? (int)strlen(cell) : widths[c];
        }
    }
    for (size_t r = 0; r < count; r++) {
        int length = (int)strlen(rows[r].name);
        name_width = length > name_width ? length : name_width;
    }
    lq_buffer_printf(out, "%-*s", name_width, "model");
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        if (is_shown(comparison, c)) {
            lq_buffer_printf(out, "  %*s", widths[c], columns[c].title);
        }
    }
    lq_buffer_append_char(out, '\n');
    for (size_t r = 0; r < count; r++) {
        lq_buffer_printf(out, "%-*s", name_width, rows[r].name);
        for (size_t c = 0; c < COLUMN_COUNT; c++) {
            if (is_shown(comparison, c)) {
                format_cell(c, rows[r].values[c], cell);
                lq_buffer_printf(out, "  %*s", widths[c], cell);
            }
        }
        lq_buffer_append_char(out, '\n');
    }
}

/* RFC 4180, as the CSV of reports. */
static void print_csv(const struct comparison *comparison, const struct row *rows, size_t count,
                      struct lq_buffer *out)
{
    lq_buffer_append_string(out, "model");
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        if (is_shown(comparison, c)) {
            lq_buffer_printf(out, ",%s", columns[c].name);
        }
    }
    for (size_t r = 0; r < count; r++) {
        lq_buffer_append_string(out, "\r\n\"");
        for (const char *at = rows[r].name; *at != '\0'; at++) {
            lq_buffer_append_string(out, *at == '"' ? "\"" : "");
            lq_buffer_append_char(out, *at);
        }
        lq_buffer_append_char(out, '"');
        for (size_t c = 0; c < COLUMN_COUNT; c++) {
            if (is_shown(comparison, c)) {
                lq_buffer_append_char(out, ',');
            }
            if (is_shown(comparison, c) && c == COLUMN_SIZE && isfinite(rows[r].values[c])) {
                lq_buffer_printf(out, "%.0f", rows[r].values[c]);
            } else if (is_shown(comparison, c) && isfinite(rows[r].values[c])) {
                lq_json_format_number(out, rows[r].values[c]);
            }
        }
    }
    lq_buffer_append_string(out, "\r\n");
}

static void write_json(const struct comparison *comparison, const struct row *rows, size_t count,
                       struct lq_json_writer *writer)
{
    lq_json_key(writer, "models");
    lq_json_begin_array(writer);
    for (size_t r = 0; r < count; r++) {
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "model", rows[r].name);
        lq_json_put_bool(writer, "is_original", r == 0);
        for (size_t c = 0; c < COLUMN_COUNT; c++) {
            if (is_shown(comparison, c) && c == COLUMN_SIZE && isfinite(rows[r].values[c])) {
                lq_json_put_int(writer, columns[c].name, (int64_t)rows[r].values[c]);
            } else if (is_shown(comparison, c) && isfinite(rows[r].values[c])) {
                lq_json_put_number(writer, columns[c].name, rows[r].values[c]);
            }
        }
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
}

static enum lq_status judge(const struct comparison *comparison, const struct row *rows,
                            size_t count, struct lq_error *err)
{
    const struct row *worst = NULL;
    for (size_t r = 1; r < count; r++) {
        double delta = rows[r].values[COLUMN_DELTA];
        if (delta > 100.0 * comparison->fail_above &&
            (worst == NULL || delta > worst->values[COLUMN_DELTA])) {
            worst = &rows[r];
        }
    }
    return worst == NULL ? LQ_OK
                         : lq_error_set(err, LQ_EQUALITY,
                                        "perplexity degradation (%.4g%%) of '%s' exceeds threshold "
                                        "(%.4g%%); try a less aggressive level or profile",
                                        worst->values[COLUMN_DELTA], worst->name,
                                        100.0 * comparison->fail_above);
}

/* With a limit of the user's own that one counts. */
static enum lq_status warn(const struct comparison *comparison, const struct row *rows,
                           size_t count, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t r = 1; r < count && isnan(comparison->fail_above) && status == LQ_OK; r++) {
        status =
            lq_quality_warn(comparison->job.cli, rows[r].name, rows[r].values[COLUMN_DELTA], err);
    }
    return status;
}

static enum lq_status print_comparison(void *user, struct lq_json_writer *writer,
                                       struct lq_buffer *out, struct lq_error *err)
{
    const struct comparison *comparison = user;
    const struct lq_quality_job *job = &comparison->job;
    const char *format = lq_args_get(&job->cli->args, "format");
    size_t count = job->quantized_count + 1;
    struct row *rows = lq_arena_get_array(&job->cli->arena, count, sizeof *rows);
    if (rows == NULL) {
        return lq_error_nomem(err, "the comparison");
    }
    for (size_t i = 0; i < count; i++) {
        init_row(&rows[i], i == 0 ? job->original : job->quantized[i - 1]);
    }
    enum lq_status status = job->report == NULL ? rows_of_files(comparison, rows, err)
                                                : rows_of_report(comparison, rows, err);
    if (status == LQ_OK) {
        status = warn(comparison, rows, count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (writer != NULL) {
        write_json(comparison, rows, count, writer);
    } else if (format != NULL && strcmp(format, "csv") == 0) {
        print_csv(comparison, rows, count, out);
    } else {
        print_table(comparison, rows, count, out);
    }
    return judge(comparison, rows, count, err);
}

static enum lq_status run_comparison(struct comparison *comparison, struct lq_error *err)
{
    static const char *const targets[] = {"quality"};
    struct lq_recipe_text text;
    struct lq_quick_build build = {
        .targets = targets,
        .target_count = 1,
        .hide_summary = true,
        .print = print_comparison,
        .user = comparison,
    };
    if ((comparison->metrics & METRIC_MODELS) == 0) {
        return lq_quick_print(comparison->job.cli, &build, err);
    }
    lq_recipe_text_init(&text);
    enum lq_status status = lq_quality_job_place(&comparison->job, NULL, err);
    if (status == LQ_OK) {
        status = lq_quality_job_write(&comparison->job, &text, err);
    }
    if (status == LQ_OK) {
        lq_recipe_text_word(&text, "layers", "false");
        lq_recipe_text_end(&text);
        status = lq_quick_run(comparison->job.cli, &text, &build, err);
    }
    lq_quality_job_fini(&comparison->job);
    lq_recipe_text_fini(&text);
    return status;
}

enum lq_status lq_command_quality_compare(struct lq_cli *cli, struct lq_error *err)
{
    struct comparison comparison;
    enum lq_status status = lq_quality_job_init(&comparison.job, cli, err);
    if (status == LQ_OK) {
        status = read_words(&comparison, err);
    }
    return status == LQ_OK ? run_comparison(&comparison, err) : status;
}

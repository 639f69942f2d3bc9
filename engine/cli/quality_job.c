#define _XOPEN_SOURCE 700
#include "engine/cli/quality_job.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/cli/quick_recipe.h"

enum { CHUNKS_DEFAULT = 256, WARN_PERCENT_DEFAULT = 20 };

enum lq_status lq_quality_job_init(struct lq_quality_job *job, struct lq_cli *cli,
                                   struct lq_error *err)
{
    *job = (struct lq_quality_job){.cli = cli,
                                   .original = cli->args.operands[0],
                                   .quantized = cli->args.operands + 1,
                                   .quantized_count = cli->args.operand_count - 1};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < cli->args.operand_count; i++) {
        status = lq_quick_find_model(cli, cli->args.operands[i], NULL, err);
    }
    return status;
}

enum lq_status lq_quality_job_place(struct lq_quality_job *job, const char *output,
                                    struct lq_error *err)
{
    struct lq_arena *arena = &job->cli->arena;
    job->report = output;
    if (output != NULL) {
        return LQ_OK;
    }
    const char *base = getenv("TMPDIR");
    char *folder = lq_arena_printf(arena, "%s/lqbuild-XXXXXX",
                                   base == NULL || base[0] == '\0' ? "/tmp" : base);
    if (folder == NULL) {
        return lq_error_nomem(err, "the command");
    }
    if (mkdtemp(folder) == NULL) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot make a folder for the report", folder);
    }
    job->folder = folder;
    job->report = lq_arena_printf(arena, "%s/result.qreport", folder);
    return job->report == NULL ? lq_error_nomem(err, "the command") : LQ_OK;
}

void lq_quality_job_fini(struct lq_quality_job *job)
{
    if (job->folder != NULL) {
        (void)unlink(job->report);
        (void)rmdir(job->folder);
        job->folder = NULL;
    }
}

/* Messages and reports name a model by its path, where that can be a name. */
static const char *name_of(const struct lq_quality_job *job, size_t number, const char *fallback)
{
    static const char *const ours[] = {"words", "quality", "prompts"};
    const char *const *paths = job->cli->args.operands;
    bool is_free = paths[number][0] != '\0' && strlen(paths[number]) <= LQ_NAME_BYTES_MAX;
    for (size_t i = 0; i <= job->quantized_count; i++) {
        is_free = is_free && (i == number || strcmp(paths[i], paths[number]) != 0);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(ours); i++) {
        is_free = is_free && strcmp(paths[number], ours[i]) != 0;
    }
    return is_free ? paths[number] : fallback;
}

static enum lq_status write_models(const struct lq_quality_job *job, struct lq_recipe_text *text,
                                   const char **names, struct lq_error *err)
{
    for (size_t i = 0; i <= job->quantized_count; i++) {
        const char *fallback =
            i == 0 ? "original" : lq_arena_printf(&job->cli->arena, "quantized%zu", i - 1);
        if (fallback == NULL) {
            return lq_error_nomem(err, "the command");
        }
        names[i] = name_of(job, i, fallback);
        lq_recipe_text_begin(text, "model", names[i]);
        lq_recipe_text_string(text, "source", job->cli->args.operands[i]);
        lq_recipe_text_end(text);
    }
    return LQ_OK;
}

enum lq_status lq_quality_job_write(const struct lq_quality_job *job, struct lq_recipe_text *text,
                                    struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    const char *words = lq_quick_calibration_data(job->cli);
    uint64_t chunks = CHUNKS_DEFAULT;
    const char **names =
        lq_arena_get_array(&job->cli->arena, job->quantized_count + 1, sizeof *names);
    if (names == NULL) {
        return lq_error_nomem(err, "the command");
    }
    if (words == NULL) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "no text to measure with; give --calibration-data FILE, or name one in "
                            "LQBUILD_CALIBRATION_DATA: docs/command-line.md says how to get "
                            "WikiText-2");
    }
    enum lq_status status =
        lq_args_uint(args, "calibration-samples", 0, LQ_SAMPLES_MAX, &chunks, err);
    if (status == LQ_OK && chunks == 1) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "--calibration-samples is 1, expected at least 2, or 0 for all");
    }
    if (status == LQ_OK) {
        status = write_models(job, text, names, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_recipe_text_begin(text, "text", "words");
    lq_recipe_text_string(text, "path", words);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "report", "quality");
    lq_recipe_text_string(text, "original", names[0]);
    lq_recipe_text_list(text, "quantized", names + 1, job->quantized_count);
    lq_recipe_text_word(text, "text", "words");
    lq_recipe_text_uint(text, "chunks", chunks);
    lq_recipe_text_string(text, "path", job->report);
    return LQ_OK;
}

/* A number in the environment, "20" or "20%" where `percent`; *out keeps its value without it. */
static enum lq_status read_variable(const char *name, bool percent, double max, double *out,
                                    struct lq_error *err)
{
    const char *text = getenv(name);
    if (text == NULL || text[0] == '\0') {
        return LQ_OK;
    }
    char *end = NULL;
    double value = strtod(text, &end);
    bool whole = end != text && (*end == '\0' || (percent && strcmp(end, "%") == 0));
    if (!whole || !(value >= 0.0) || value > max) {
        return lq_error_set(err, LQ_EUSAGE, "%s expects a number from 0 to %g%s, got '%s'", name,
                            max, percent ? " (percent)" : "", text);
    }
    *out = value;
    return LQ_OK;
}

enum lq_status lq_quality_threshold(double *percent, struct lq_error *err)
{
    *percent = WARN_PERCENT_DEFAULT;
    return read_variable("LQBUILD_QUALITY_THRESHOLD", true, 1e6, percent, err);
}

enum lq_status lq_quality_warn(struct lq_cli *cli, const char *model, double delta_pct,
                               struct lq_error *err)
{
    double percent = 0.0;
    enum lq_status status = lq_quality_threshold(&percent, err);
    if (status != LQ_OK || !(delta_pct > percent)) {
        return status;
    }
    const char *message = lq_arena_printf(
        &cli->arena,
        "the perplexity of '%s' is %.4g%% higher than the original's, more than %.4g%%; an "
        "importance matrix, --dynamic or a less aggressive level would cost less",
        model, delta_pct, percent);
    if (message == NULL) {
        return lq_error_nomem(err, "a warning");
    }
    lq_cli_warn(cli, message);
    return LQ_OK;
}

enum lq_status lq_quality_put_limits(const struct lq_cli *cli, struct lq_recipe_text *text,
                                     struct lq_error *err)
{
    double limit = 0.0;
    double percent = 0.0;
    double coherence = -1.0;
    bool has_limit = false;
    enum lq_status status = lq_args_number(&cli->args, "fail-above", &limit, &has_limit, err);
    if (status == LQ_OK) {
        status = lq_quality_threshold(&percent, err);
    }
    if (status == LQ_OK) {
        status = read_variable("LQBUILD_COHERENCE_THRESHOLD", false, 1.0, &coherence, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_recipe_text_number(text, has_limit ? "fail_above" : "warn_above",
                          has_limit ? limit : percent / 100.0);
    if (lq_args_has(&cli->args, "coherence-check")) {
        lq_recipe_text_word(text, "coherence", "true");
        if (coherence >= 0.0) {
            lq_recipe_text_number(text, "min_coherence", coherence);
        }
    }
    return LQ_OK;
}

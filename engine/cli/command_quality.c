#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/cli/commands.h"
#include "engine/cli/quality_result.h"
#include "engine/cli/quick_recipe.h"

struct comparison {
    struct lq_cli *cli;
    const char *original;
    const char *quantized;
    const char *report; /* NULL: nobody wants the file */
    char *folder;       /* made for the report and removed with it; NULL when it has a place */
};

static enum lq_status print_comparison(void *user, struct lq_json_writer *writer,
                                       struct lq_buffer *out, struct lq_error *err)
{
    const struct comparison *job = user;
    if (writer == NULL) {
        lq_buffer_printf(out, "%s%s", job->report == NULL ? "" : job->report,
                         job->report == NULL ? "" : ": written\n");
        return LQ_OK;
    }
    return lq_quality_result_write(job->report, job->original, job->quantized,
                                   lq_args_has(&job->cli->args, "include-layers"), writer, err);
}

/* The result object is read from a report file, so without -o it gets a folder for a while. */
static enum lq_status place_report(struct comparison *job, struct lq_error *err)
{
    struct lq_arena *arena = &job->cli->arena;
    job->report = lq_args_get(&job->cli->args, "output");
    if (job->report != NULL || !lq_quick_wants_json(job->cli)) {
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

static void remove_report(const struct comparison *job)
{
    if (job->folder != NULL) {
        (void)unlink(job->report);
        (void)rmdir(job->folder);
    }
}

static enum lq_status write_comparison(const struct comparison *job, struct lq_recipe_text *text,
                                       struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    const char *words = lq_args_get(args, "calibration-data");
    uint64_t chunks = 0; /* all */
    if (words == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "no text to measure with; give --calibration-data FILE");
    }
    enum lq_status status =
        lq_args_uint(args, "calibration-samples", 1, LQ_SAMPLES_MAX, &chunks, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", job->original);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "model", "quantized");
    lq_recipe_text_string(text, "source", job->quantized);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "text", "words");
    lq_recipe_text_string(text, "path", words);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "report", "quality");
    lq_recipe_text_word(text, "original", "original");
    lq_recipe_text_word(text, "quantized", "[quantized]");
    lq_recipe_text_word(text, "text", "words");
    lq_recipe_text_uint(text, "chunks", chunks);
    lq_recipe_text_word(text, "layers", lq_args_has(args, "include-layers") ? "true" : "false");
    if (lq_args_has(args, "coherence-check")) {
        lq_recipe_text_word(text, "coherence", "true");
    }
    lq_recipe_text_string(text, "path", job->report);
    lq_recipe_text_end(text);
    return LQ_OK;
}

enum lq_status lq_command_quality_report(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"quality"};
    struct comparison job = {
        .cli = cli, .original = cli->args.operands[0], .quantized = cli->args.operands[1]};
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = lq_quick_check_model(job.original, err);
    if (status == LQ_OK) {
        status = lq_quick_check_model(job.quantized, err);
    }
    if (status == LQ_OK) {
        status = place_report(&job, err);
    }
    if (status == LQ_OK) {
        status = write_comparison(&job, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {
            .targets = targets,
            .target_count = 1,
            .hide_summary = lq_quick_wants_json(cli),
            .print = print_comparison,
            .user = &job,
        };
        status = lq_quick_run(cli, &text, &build, err);
    }
    remove_report(&job);
    lq_recipe_text_fini(&text);
    return status;
}

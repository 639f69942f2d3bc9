/* `lqbuild quality report`: one quantized model, everything about it. */
#include <string.h>

#include "engine/cli/commands.h"
#include "engine/cli/quality_job.h"
#include "engine/cli/quality_result.h"
#include "engine/cli/quick_recipe.h"

static enum lq_status print_report(void *user, struct lq_json_writer *writer, struct lq_buffer *out,
                                   struct lq_error *err)
{
    const struct lq_quality_job *job = user;
    if (writer == NULL) {
        if (job->report != NULL) {
            lq_buffer_printf(out, "%s: written\n", job->report);
        }
        return LQ_OK;
    }
    double delta_pct = 0.0;
    enum lq_status status = lq_quality_result_write(job->report, job->original, job->quantized[0],
                                                    lq_args_has(&job->cli->args, "include-layers"),
                                                    writer, &delta_pct, err);
    /* With a limit of the user's own that one counts; people read of it in the text. */
    return status == LQ_OK && !lq_args_has(&job->cli->args, "fail-above")
               ? lq_quality_warn(job->cli, job->quantized[0], delta_pct, err)
               : status;
}

/* The result object is read from a report file, so it needs one also without -o. */
static enum lq_status place_report(struct lq_quality_job *job, struct lq_error *err)
{
    const char *output = lq_args_get(&job->cli->args, "output");
    return output != NULL || lq_quick_wants_json(job->cli) ? lq_quality_job_place(job, output, err)
                                                           : LQ_OK;
}

static enum lq_status write_report(const struct lq_quality_job *job, struct lq_recipe_text *text,
                                   struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    enum lq_status status = lq_quality_job_write(job, text, err);
    if (status == LQ_OK) {
        status = lq_quality_put_limits(job->cli, text, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const char *prompts = lq_args_get(args, "prompts");
    if (prompts != NULL && !lq_args_has(args, "coherence-check")) {
        return lq_error_set(err, LQ_EUSAGE, "--prompts means nothing without --coherence-check");
    }
    lq_recipe_text_word(text, "layers", lq_args_has(args, "include-layers") ? "true" : "false");
    if (prompts != NULL) {
        lq_recipe_text_word(text, "prompts_from", "prompts");
    }
    lq_recipe_text_end(text);
    if (prompts != NULL) {
        lq_recipe_text_begin(text, "text", "prompts");
        lq_recipe_text_string(text, "path", prompts);
        lq_recipe_text_end(text);
    }
    return LQ_OK;
}

enum lq_status lq_command_quality_report(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"quality"};
    struct lq_quality_job job;
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = lq_quality_job_init(&job, cli, err);
    if (status == LQ_OK) {
        status = place_report(&job, err);
    }
    if (status == LQ_OK) {
        status = write_report(&job, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {
            .targets = targets,
            .target_count = 1,
            .hide_summary = lq_quick_wants_json(cli) || cli->quiet,
            .print = print_report,
            .user = &job,
        };
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_quality_job_fini(&job);
    lq_recipe_text_fini(&text);
    return status;
}

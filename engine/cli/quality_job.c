#define _XOPEN_SOURCE 700
#include "engine/cli/quality_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/cli/quick_recipe.h"

enum lq_status lq_quality_job_init(struct lq_quality_job *job, struct lq_cli *cli,
                                   struct lq_error *err)
{
    *job = (struct lq_quality_job){.cli = cli,
                                   .original = cli->args.operands[0],
                                   .quantized = cli->args.operands + 1,
                                   .quantized_count = cli->args.operand_count - 1};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < cli->args.operand_count; i++) {
        status = lq_quick_check_model(cli->args.operands[i], err);
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

static void write_models(const struct lq_quality_job *job, struct lq_recipe_text *text,
                         struct lq_buffer *list)
{
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", job->original);
    lq_recipe_text_end(text);
    lq_buffer_append_char(list, '[');
    for (size_t i = 0; i < job->quantized_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "quantized%zu", i);
        lq_recipe_text_begin(text, "model", name);
        lq_recipe_text_string(text, "source", job->quantized[i]);
        lq_recipe_text_end(text);
        lq_buffer_printf(list, "%s%s", i == 0 ? "" : ", ", name);
    }
    lq_buffer_append_char(list, ']');
}

enum lq_status lq_quality_job_write(const struct lq_quality_job *job, struct lq_recipe_text *text,
                                    struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    const char *words = lq_args_get(args, "calibration-data");
    uint64_t chunks = 0; /* all */
    struct lq_buffer list;
    if (words == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "no text to measure with; give --calibration-data FILE");
    }
    enum lq_status status =
        lq_args_uint(args, "calibration-samples", 1, LQ_SAMPLES_MAX, &chunks, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_buffer_init(&list);
    write_models(job, text, &list);
    lq_recipe_text_begin(text, "text", "words");
    lq_recipe_text_string(text, "path", words);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "report", "quality");
    lq_recipe_text_word(text, "original", "original");
    lq_recipe_text_word(text, "quantized", lq_buffer_text(&list));
    lq_recipe_text_word(text, "text", "words");
    lq_recipe_text_uint(text, "chunks", chunks);
    lq_recipe_text_string(text, "path", job->report);
    status = list.failed ? lq_error_nomem(err, "the command") : LQ_OK;
    lq_buffer_fini(&list);
    return status;
}

#include "engine/cli/quantize_awq.h"

#include <stdlib.h>

#include "engine/base/text.h"
#include "engine/cli/quantize_folder.h"

struct awq {
    struct lq_quantize_folder folder;
    const char *group_size; /* both out of the choices that the option has */
    const char *packing;
    bool symmetric;
    bool clip;
};

static enum lq_status check_options(struct lq_cli *cli, struct awq *job, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    const char *level = lq_args_get(args, "level");
    enum lq_status status = lq_quantize_check_options(args, "awq", err);
    if (status != LQ_OK) {
        return status;
    }
    if (level != NULL && !lq_text_equal_nocase(level, "4bit")) {
        return lq_error_set(err, LQ_EUSAGE, "the format awq has one level, 4bit, and not '%s'",
                            level);
    }
    job->group_size = lq_args_get(args, "group-size");
    job->group_size = job->group_size == NULL ? "128" : job->group_size;
    job->packing = lq_args_get(args, "packing");
    job->packing = job->packing == NULL ? "awq" : job->packing;
    job->symmetric = lq_args_has(args, "symmetric");
    job->clip = !lq_args_has(args, "no-clip");
    return strtol(job->group_size, NULL, 10) > 0
               ? LQ_OK
               : lq_error_set(err, LQ_EUSAGE,
                              "--group-size is %s, and AWQ has groups of 32, 64, 128 or 256 "
                              "weights",
                              job->group_size);
}

static void put_members(const struct lq_quantize_folder *folder, struct lq_json_writer *writer)
{
    const struct awq *job = folder->user;
    lq_json_put_int(writer, "bits", 4);
    lq_json_put_int(writer, "group_size", strtol(job->group_size, NULL, 10));
    lq_json_put_bool(writer, "zero_point", !job->symmetric);
    lq_json_put_bool(writer, "clip", job->clip);
    lq_json_put_string(writer, "packing", job->packing);
    lq_json_put_string(writer, "scales_path", folder->report);
}

static enum lq_status write_job(const struct awq *job, struct lq_recipe_text *text,
                                struct lq_error *err)
{
    const struct lq_quantize_folder *folder = &job->folder;
    enum lq_status status = lq_quantize_folder_begin(folder, text, 512, err);
    lq_recipe_text_begin(text, "awq", "quantized");
    lq_recipe_text_word(text, "model", "original");
    lq_recipe_text_word(text, "calibration", "calib");
    lq_recipe_text_word(text, "group_size", job->group_size);
    lq_recipe_text_word(text, "zero_point", job->symmetric ? "false" : "true");
    lq_recipe_text_word(text, "clip", job->clip ? "true" : "false");
    lq_recipe_text_string(text, "format", job->packing);
    lq_recipe_text_string(text, "path", folder->weights);
    lq_recipe_text_string(text, "config", folder->config);
    lq_recipe_text_string(text, "scales", folder->report);
    lq_recipe_text_end(text);
    return status;
}

enum lq_status lq_quantize_awq(struct lq_cli *cli, struct lq_error *err)
{
    struct awq job = {.folder = {.cli = cli,
                                 .format = "awq",
                                 .level = "4bit",
                                 .words = "weights of 4 bits",
                                 .put = put_members}};
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = check_options(cli, &job, err);
    if (status == LQ_OK) {
        const char *suffix = lq_arena_printf(&cli->arena, "AWQ-4bit-g%s", job.group_size);
        job.folder.user = &job;
        status = suffix == NULL ? lq_error_nomem(err, "the command")
                                : lq_quantize_folder_open(&job.folder, suffix, err);
    }
    if (status == LQ_OK) {
        status = write_job(&job, &text, err);
    }
    if (status == LQ_OK) {
        status = lq_quantize_folder_run(&job.folder, &text, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

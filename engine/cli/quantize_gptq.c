#include "engine/cli/quantize_gptq.h"

#include <stdlib.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/quantize_folder.h"

struct gptq {
    struct lq_quantize_folder folder;
    const char *bits; /* both out of the choices that the option has */
    const char *group_size;
    const char *damp; /* as it was given, or NULL */
    bool asymmetric;
    bool desc_act;
};

/* "4bit" says what --bits 4 says. */
static enum lq_status find_bits(const struct lq_args *args, struct gptq *job, struct lq_error *err)
{
    static const char *const levels[][2] = {
        {"2", "2bit"}, {"3", "3bit"}, {"4", "4bit"}, {"8", "8bit"}};
    const char *level = lq_args_get(args, "level");
    job->bits = lq_args_get(args, "bits");
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (level != NULL && lq_text_equal_nocase(level, levels[i][1])) {
            if (job->bits != NULL && !lq_text_equal_nocase(job->bits, levels[i][0])) {
                return lq_error_set(err, LQ_EUSAGE,
                                    "--level %s and --bits %s contradict each other", level,
                                    job->bits);
            }
            job->bits = levels[i][0];
            return LQ_OK;
        }
    }
    if (level != NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "the format gptq has the levels 2bit, 3bit, 4bit and 8bit, and not "
                            "'%s'",
                            level);
    }
    job->bits = job->bits == NULL ? "4" : job->bits;
    return LQ_OK;
}

static enum lq_status check_options(struct lq_cli *cli, struct gptq *job, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    double damp = 0.05;
    bool has_damp = false;
    enum lq_status status = lq_quantize_check_options(args, "gptq", err);
    if (status == LQ_OK) {
        status = find_bits(args, job, err);
    }
    if (status == LQ_OK) {
        status = lq_args_number(args, "damp", &damp, &has_damp, err);
    }
    if (status == LQ_OK && !(damp >= 0.0001 && damp <= 1.0)) {
        return lq_error_set(err, LQ_EUSAGE, "--damp is %g, expected a number from 0.0001 to 1",
                            damp);
    }
    job->group_size = lq_args_get(args, "group-size");
    job->group_size = job->group_size == NULL ? "128" : job->group_size;
    job->damp = has_damp ? lq_args_get(args, "damp") : NULL;
    job->asymmetric = lq_args_has(args, "asymmetric");
    job->desc_act = lq_args_has(args, "desc-act");
    return status;
}

static void put_members(const struct lq_quantize_folder *folder, struct lq_json_writer *writer)
{
    const struct gptq *job = folder->user;
    lq_json_put_int(writer, "bits", strtol(job->bits, NULL, 10));
    lq_json_put_int(writer, "group_size", strtol(job->group_size, NULL, 10));
    lq_json_put_bool(writer, "sym", !job->asymmetric);
    lq_json_put_bool(writer, "desc_act", job->desc_act);
    lq_json_put_string(writer, "losses_path", folder->report);
}

static enum lq_status write_job(const struct gptq *job, struct lq_recipe_text *text,
                                struct lq_error *err)
{
    const struct lq_quantize_folder *folder = &job->folder;
    const char *config = lq_path_join(&folder->cli->arena, folder->path, "quantize_config.json");
    if (config == NULL) {
        return lq_error_nomem(err, "the command");
    }
    enum lq_status status = lq_quantize_folder_begin(folder, text, 512, err);
    lq_recipe_text_begin(text, "gptq", "quantized");
    lq_recipe_text_word(text, "model", "original");
    lq_recipe_text_word(text, "calibration", "calib");
    lq_recipe_text_word(text, "bits", job->bits);
    lq_recipe_text_word(text, "group_size", job->group_size);
    lq_recipe_text_word(text, "sym", job->asymmetric ? "false" : "true");
    lq_recipe_text_word(text, "desc_act", job->desc_act ? "true" : "false");
    if (job->damp != NULL) {
        lq_recipe_text_word(text, "damp", job->damp);
    }
    lq_recipe_text_string(text, "path", folder->weights);
    lq_recipe_text_string(text, "config", folder->config);
    lq_recipe_text_string(text, "quantize_config", config);
    lq_recipe_text_string(text, "losses", folder->report);
    lq_recipe_text_end(text);
    return status;
}

enum lq_status lq_quantize_gptq(struct lq_cli *cli, struct lq_error *err)
{
    struct gptq job = {.folder = {.cli = cli, .format = "gptq", .put = put_members}};
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = check_options(cli, &job, err);
    if (status == LQ_OK) {
        bool is_row = lq_text_equal_nocase(job.group_size, "-1");
        const char *suffix = lq_arena_printf(&cli->arena, "GPTQ-%sbit%s%s", job.bits,
                                             is_row ? "" : "-g", is_row ? "" : job.group_size);
        job.folder.level = lq_arena_printf(&cli->arena, "%sbit", job.bits);
        job.folder.words = lq_arena_printf(&cli->arena, "weights of %s bits", job.bits);
        job.folder.user = &job;
        status = suffix == NULL || job.folder.level == NULL || job.folder.words == NULL
                     ? lq_error_nomem(err, "the command")
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

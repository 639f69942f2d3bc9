#include "engine/cli/quantize_w8a8.h"

#include "engine/base/text.h"
#include "engine/cli/quantize_folder.h"

static enum lq_status check_options(const struct lq_args *args, double *alpha, struct lq_error *err)
{
    const char *level = lq_args_get(args, "level");
    bool has_alpha = false;
    enum lq_status status = lq_args_number(args, "alpha", alpha, &has_alpha, err);
    if (status == LQ_OK) {
        status = lq_quantize_check_options(args, "smoothquant", err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (level != NULL && !lq_text_equal_nocase(level, "W8A8")) {
        return lq_error_set(err, LQ_EUSAGE,
                            "the format smoothquant has one level, W8A8, and not '%s'", level);
    }
    if (!(*alpha >= 0.0 && *alpha <= 1.0)) {
        return lq_error_set(err, LQ_EUSAGE, "--alpha is %g, expected a number from 0 to 1", *alpha);
    }
    return LQ_OK;
}

static void put_members(const struct lq_quantize_folder *folder, struct lq_json_writer *writer)
{
    const double *alpha = folder->user;
    lq_json_put_number(writer, "alpha", *alpha);
    lq_json_put_string(writer, "scales_path", folder->report);
}

static enum lq_status write_job(const struct lq_quantize_folder *folder, double alpha,
                                struct lq_recipe_text *text, struct lq_error *err)
{
    enum lq_status status = lq_quantize_folder_begin(folder, text, 512, err);
    lq_recipe_text_begin(text, "smoothquant", "quantized");
    lq_recipe_text_word(text, "model", "original");
    lq_recipe_text_word(text, "calibration", "calib");
    lq_recipe_text_number(text, "alpha", alpha);
    lq_recipe_text_string(text, "path", folder->weights);
    lq_recipe_text_string(text, "config", folder->config);
    lq_recipe_text_string(text, "scales", folder->report);
    lq_recipe_text_end(text);
    return status;
}

enum lq_status lq_quantize_w8a8(struct lq_cli *cli, struct lq_error *err)
{
    double alpha = 0.5;
    struct lq_quantize_folder folder = {.cli = cli,
                                        .format = "smoothquant",
                                        .level = "W8A8",
                                        .words = "weights and activations of 8 bits",
                                        .put = put_members,
                                        .user = &alpha};
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = check_options(&cli->args, &alpha, err);
    if (status == LQ_OK) {
        status = lq_quantize_folder_open(&folder, "W8A8", err);
    }
    if (status == LQ_OK) {
        status = write_job(&folder, alpha, &text, err);
    }
    if (status == LQ_OK) {
        status = lq_quantize_folder_run(&folder, &text, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

#include "engine/cli/quantize_w8a8.h"

#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "engine/cli/quick_recipe.h"
#include "rules/model/hf_documents.h"

struct smoothing {
    struct lq_cli *cli;
    const char *model;
    const char *place; /* the model's folder */
    const char *folder;
    const char *weights;
    const char *config;
    const char *scales;
    double alpha;
};

/* Options of `quantize` that are about GGUF. */
static const char *const foreign[] = {
    "imatrix",
    "dynamic",
    "profile",
    "target-bpw",
    "tensor-type",
    "protect-super-weights",
    "pure",
    "coherence-check",
    "output-tensor-type",
    "allow-requantize",
    "evaluation-data",
    "token-embedding-type",
    "fail-above",
    "quality-report",
    "protection-coverage",
};

static enum lq_status check_options(const struct smoothing *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    const char *level = lq_args_get(args, "level");
    for (size_t i = 0; i < LQ_COUNT_OF(foreign); i++) {
        if (lq_args_has(args, foreign[i])) {
            return lq_error_set(err, LQ_EUSAGE, "--%s means nothing for the format smoothquant",
                                foreign[i]);
        }
    }
    if (level != NULL && !lq_text_equal_nocase(level, "W8A8")) {
        return lq_error_set(err, LQ_EUSAGE,
                            "the format smoothquant has one level, W8A8, and not '%s'", level);
    }
    if (!(job->alpha >= 0.0 && job->alpha <= 1.0)) {
        return lq_error_set(err, LQ_EUSAGE, "--alpha is %g, expected a number from 0 to 1",
                            job->alpha);
    }
    return LQ_OK;
}

static enum lq_status name_outputs(struct smoothing *job, struct lq_error *err)
{
    struct lq_arena *arena = &job->cli->arena;
    const char *name = NULL;
    enum lq_status status = lq_quick_base_name(job->cli, job->model, &name, err);
    if (status != LQ_OK) {
        return status;
    }
    job->folder = lq_args_get(&job->cli->args, "output");
    if (job->folder == NULL) {
        job->folder = lq_arena_printf(arena, "%s-W8A8", name);
    }
    if (job->folder != NULL) {
        job->weights = lq_path_join(arena, job->folder, "model.safetensors");
        job->config = lq_path_join(arena, job->folder, "config.json");
        job->scales = lq_path_join(arena, job->folder, "smoothquant.json");
    }
    return job->weights == NULL || job->config == NULL || job->scales == NULL
               ? lq_error_nomem(err, "the command")
               : LQ_OK;
}

static enum lq_status write_job(const struct smoothing *job, struct lq_recipe_text *text,
                                struct lq_error *err)
{
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", job->model);
    lq_recipe_text_end(text);
    enum lq_status status = lq_quick_add_calibration(job->cli, text, "original", 512, err);
    lq_recipe_text_begin(text, "smoothquant", "quantized");
    lq_recipe_text_word(text, "model", "original");
    lq_recipe_text_word(text, "calibration", "calib");
    lq_recipe_text_number(text, "alpha", job->alpha);
    lq_recipe_text_string(text, "path", job->weights);
    lq_recipe_text_string(text, "config", job->config);
    lq_recipe_text_string(text, "scales", job->scales);
    lq_recipe_text_end(text);
    return status;
}

/* A model folder is of no use without its tokenizer, which nothing changes. */
static enum lq_status copy_tokenizer(const struct smoothing *job, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (int f = LQ_HF_CONFIG + 1; status == LQ_OK && f < LQ_HF_FILE_COUNT; f++) {
        struct lq_buffer bytes;
        const char *name = lq_hf_file_name((enum lq_hf_file)f);
        const char *from = lq_path_join(&job->cli->arena, job->place, name);
        const char *to = lq_path_join(&job->cli->arena, job->folder, name);
        if (from == NULL || to == NULL) {
            return lq_error_nomem(err, "the command");
        }
        if (!lq_path_exists(from)) {
            continue;
        }
        lq_buffer_init(&bytes);
        status = lq_file_read(from, LQ_JSON_BYTES_MAX, &bytes, err);
        if (status == LQ_OK) {
            status = lq_file_write(to, bytes.data, bytes.size_bytes, err);
        }
        lq_buffer_fini(&bytes);
    }
    return status;
}

static enum lq_status print_result(void *user, struct lq_json_writer *writer, struct lq_buffer *out,
                                   struct lq_error *err)
{
    const struct smoothing *job = user;
    struct lq_file_sig sig = {0};
    bool exists = false;
    char size[32];
    enum lq_status status = copy_tokenizer(job, err);
    if (status == LQ_OK) {
        status = lq_file_sig_get(job->weights, &sig, &exists, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t model_bytes = lq_quick_model_bytes(job->cli, job->model);
    if (writer == NULL) {
        lq_buffer_printf(out, "%s: %s, weights and activations of 8 bits\n", job->folder,
                         lq_text_size(sig.size_bytes, size, sizeof size));
        return LQ_OK;
    }
    lq_json_put_string(writer, "output_path", job->folder);
    lq_json_put_string(writer, "format", "smoothquant");
    lq_json_put_string(writer, "source_model_path", job->model);
    lq_json_put_string(writer, "level", "W8A8");
    lq_json_put_number(writer, "alpha", job->alpha);
    lq_json_put_string(writer, "scales_path", job->scales);
    if (model_bytes > 0) {
        lq_json_put_number(writer, "compression_ratio",
                           (double)sig.size_bytes / (double)model_bytes);
    }
    lq_json_put_int(writer, "file_size", (int64_t)sig.size_bytes);
    return LQ_OK;
}

enum lq_status lq_quantize_w8a8(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"quantized"};
    struct smoothing job = {.cli = cli, .model = cli->args.operands[0], .alpha = 0.5};
    struct lq_recipe_text text;
    bool has_alpha = false;
    lq_recipe_text_init(&text);
    enum lq_status status = lq_args_number(&cli->args, "alpha", &job.alpha, &has_alpha, err);
    if (status == LQ_OK) {
        status = check_options(&job, err);
    }
    if (status == LQ_OK) {
        status = lq_quick_find_model(cli, job.model, &job.place, err);
    }
    if (status == LQ_OK) {
        status = name_outputs(&job, err);
    }
    if (status == LQ_OK) {
        status = write_job(&job, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {.targets = targets,
                                       .target_count = 1,
                                       .hide_summary = lq_quick_wants_json(cli),
                                       .print = print_result,
                                       .user = &job};
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

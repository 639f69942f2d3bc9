#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/profile_place.h"
#include "engine/cli/quality_job.h"
#include "engine/cli/quality_result.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/gguf.h"
#include "rules/quant/levels.h"

struct quantization {
    struct lq_cli *cli;
    const char *model;
    const char *output;
    const char *report;             /* NULL: none asked for */
    const char *level;              /* NULL: the profile alone decides */
    const char *profile;            /* as the user named it; NULL: none */
    const struct lq_preset *preset; /* what it is: this, */
    const char *profile_file;       /* or a file */
    bool protect;
    double coverage;
    double target_bpw;
    bool has_target_bpw;
};

/* ---- checking the words ---- */

static enum lq_status check_format(const struct lq_args *args, struct lq_error *err)
{
    const char *format = args->operands[1];
    if (lq_args_has(args, "alpha") && !lq_args_has(args, "smoothquant")) {
        return lq_error_set(err, LQ_EUSAGE, "--alpha means nothing without --smoothquant");
    }
    if (strcmp(format, "gguf") != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "output format '%s' is not supported; the only one is: gguf", format);
    }
    if (lq_args_has(args, "smoothquant")) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "--smoothquant needs a W8A8 output format and gguf is none; leave it "
                            "out");
    }
    return LQ_OK;
}

static enum lq_status check_level(struct quantization *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    const char *level = lq_args_get(args, "level");
    bool dynamic = lq_args_has(args, "dynamic") || (level != NULL && strcmp(level, "dynamic") == 0);
    job->profile = lq_args_get(args, "profile");
    if (dynamic && job->profile == NULL) {
        job->profile = "balanced";
    }
    if (level == NULL || strcmp(level, "dynamic") == 0) {
        return job->profile != NULL
                   ? LQ_OK
                   : lq_error_set(err, LQ_EUSAGE,
                                  "no level; give -q LEVEL, Q4_K_M for example, or --dynamic");
    }
    const struct lq_level *found = lq_level_find(level);
    if (found == NULL) {
        const char *nearest = lq_level_suggest(level);
        return lq_error_set(err, LQ_EUSAGE, "unknown level '%s'%s%s%s", level,
                            nearest == NULL ? "; Q4_K_M is one, for example" : "; did you mean '",
                            nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
    }
    job->level = lq_level_name(found);
    return LQ_OK;
}

/* A preset's name, or a file. */
static enum lq_status check_profile(struct quantization *job, struct lq_error *err)
{
    return job->profile == NULL ? LQ_OK
                                : lq_profile_place_find(job->cli, job->profile, &job->preset,
                                                        &job->profile_file, err);
}

static enum lq_status check_combinations(struct quantization *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    bool has_imatrix = lq_args_has(args, "imatrix") || lq_args_has(args, "calibration-data");
    bool has_coverage = false;
    enum lq_status status =
        lq_args_number(args, "protection-coverage", &job->coverage, &has_coverage, err);
    if (status == LQ_OK) {
        status = lq_args_number(args, "target-bpw", &job->target_bpw, &job->has_target_bpw, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    job->protect = lq_args_has(args, "protect-super-weights");
    if (job->protect && !has_imatrix) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--protect-super-weights needs an importance matrix; give --imatrix "
                            "FILE or --calibration-data FILE");
    }
    if (has_coverage && !job->protect) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--protection-coverage means nothing without --protect-super-weights");
    }
    if (job->has_target_bpw && job->profile == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--target-bpw means nothing without --dynamic or --profile");
    }
    if (lq_args_has(args, "coherence-check") && !lq_args_has(args, "quality-report")) {
        return lq_error_set(err, LQ_EUSAGE, "--coherence-check needs --quality-report");
    }
    if (lq_args_has(args, "quality-report") && !lq_args_has(args, "calibration-data")) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--quality-report needs a text to measure with; give "
                            "--calibration-data FILE");
    }
    return LQ_OK;
}

static enum lq_status name_outputs(struct quantization *job, struct lq_error *err)
{
    struct lq_arena *arena = &job->cli->arena;
    const char *name = NULL;
    job->output = lq_args_get(&job->cli->args, "output");
    enum lq_status status = lq_quick_base_name(job->cli, job->model, &name, err);
    if (status == LQ_OK && job->output == NULL) {
        job->output =
            lq_arena_printf(arena, "%s-%s.gguf", name, job->level == NULL ? "dynamic" : job->level);
    }
    if (status == LQ_OK && job->output != NULL && lq_args_has(&job->cli->args, "quality-report")) {
        job->report = lq_arena_printf(arena, "%s.qreport", job->output);
    }
    bool failed = job->output == NULL ||
                  (lq_args_has(&job->cli->args, "quality-report") && job->report == NULL);
    return status == LQ_OK && failed ? lq_error_nomem(err, "the command") : status;
}

static enum lq_status prepare(struct quantization *job, struct lq_error *err)
{
    enum lq_status status = check_format(&job->cli->args, err);
    if (status == LQ_OK) {
        status = check_level(job, err);
    }
    if (status == LQ_OK) {
        status = check_profile(job, err);
    }
    if (status == LQ_OK) {
        status = check_combinations(job, err);
    }
    if (status == LQ_OK) {
        status = lq_quick_find_model(job->cli, job->model, NULL, err);
    }
    return status == LQ_OK ? name_outputs(job, err) : status;
}

/* ---- the recipe ---- */

static enum lq_status write_imatrix(const struct quantization *job, struct lq_recipe_text *text,
                                    bool *has_imatrix, struct lq_error *err)
{
    const char *file = lq_args_get(&job->cli->args, "imatrix");
    bool has_text = lq_args_has(&job->cli->args, "calibration-data");
    *has_imatrix = file != NULL || has_text;
    if (has_text) {
        enum lq_status status = lq_quick_add_calibration(job->cli, text, "original", 512, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    if (*has_imatrix) {
        lq_recipe_text_begin(text, "imatrix", "im");
        lq_recipe_text_word(text, "model", "original");
        lq_recipe_text_string(text, "file", file);
        if (file == NULL) {
            lq_recipe_text_word(text, "calibration", "calib");
        }
        lq_recipe_text_end(text);
    }
    return LQ_OK;
}

static void write_choices(const struct quantization *job, struct lq_recipe_text *text,
                          bool has_imatrix)
{
    if (job->protect) {
        lq_recipe_text_begin(text, "mask", "super");
        lq_recipe_text_word(text, "model", "original");
        lq_recipe_text_word(text, "imatrix", "im");
        lq_recipe_text_number(text, "coverage", job->coverage);
        lq_recipe_text_end(text);
    }
    if (job->profile != NULL) {
        lq_recipe_text_begin(text, "profile", "mix");
        lq_recipe_text_word(text, "model", "original");
        if (has_imatrix) {
            lq_recipe_text_word(text, "imatrix", "im");
        }
        lq_recipe_text_string(text, "strategy", job->preset == NULL ? NULL : job->preset->name);
        lq_recipe_text_string(text, "file", job->profile_file);
        if (job->has_target_bpw) {
            lq_recipe_text_number(text, "target_bpw", job->target_bpw);
        }
        lq_recipe_text_end(text);
    }
}

static void write_gguf(const struct quantization *job, struct lq_recipe_text *text,
                       bool has_imatrix)
{
    const struct lq_args *args = &job->cli->args;
    lq_recipe_text_begin(text, "gguf", "quantized");
    lq_recipe_text_word(text, "model", "original");
    if (has_imatrix) {
        lq_recipe_text_word(text, "imatrix", "im");
    }
    lq_recipe_text_string(text, "level", job->level);
    if (job->profile != NULL) {
        lq_recipe_text_word(text, "profile", "mix");
    }
    if (job->protect) {
        lq_recipe_text_word(text, "protect", "super");
    }
    if (lq_args_has(args, "pure")) {
        lq_recipe_text_word(text, "pure", "true");
    }
    if (lq_args_has(args, "allow-requantize")) {
        lq_recipe_text_word(text, "allow_requantize", "true");
    }
    lq_recipe_text_string(text, "output_type", lq_args_get(args, "output-tensor-type"));
    lq_recipe_text_string(text, "embedding_type", lq_args_get(args, "token-embedding-type"));
    lq_recipe_text_string(text, "path", job->output);
    lq_recipe_text_end(text);
}

static enum lq_status write_job(const struct quantization *job, struct lq_recipe_text *text,
                                struct lq_error *err)
{
    bool has_imatrix = false;
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", job->model);
    lq_recipe_text_end(text);
    enum lq_status status = write_imatrix(job, text, &has_imatrix, err);
    if (status != LQ_OK) {
        return status;
    }
    write_choices(job, text, has_imatrix);
    write_gguf(job, text, has_imatrix);
    if (job->report != NULL) {
        lq_recipe_text_begin(text, "report", "quality");
        lq_recipe_text_word(text, "original", "original");
        lq_recipe_text_word(text, "quantized", "[quantized]");
        lq_recipe_text_word(text, "text", "words");
        lq_recipe_text_string(text, "path", job->report);
        status = lq_quality_put_limits(job->cli, text, err);
        lq_recipe_text_end(text);
    }
    return status;
}

/* ---- the result ---- */

static uint64_t count_elements(const struct lq_gguf_tensor *tensor)
{
    return tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
}

/* The file names the tensors whose super weights are protected. */
static bool is_protected(const struct lq_gguf *gguf, const char *name)
{
    const struct lq_gguf_value *names = lq_gguf_find(gguf, "lqbuild.protected_tensors");
    bool listed =
        names != NULL && names->type == LQ_GGUF_ARRAY && names->element_type == LQ_GGUF_STRING;
    for (uint64_t i = 0; listed && i < names->count; i++) {
        const struct lq_gguf_string *listed_name = &names->strings[i];
        if (listed_name->length == strlen(name) &&
            memcmp(listed_name->data, name, listed_name->length) == 0) {
            return true;
        }
    }
    return false;
}

static void write_layers(const struct lq_gguf *gguf, struct lq_json_writer *writer)
{
    lq_json_key(writer, "layer_summary");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf->tensors[i];
        uint64_t elements = count_elements(tensor);
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", tensor->name);
        lq_json_put_string(writer, "type", lq_dtype_name((uint32_t)tensor->dtype));
        lq_json_put_number(writer, "bit_width",
                           elements == 0 ? 0.0
                                         : (double)tensor->size_bytes * 8.0 / (double)elements);
        lq_json_put_int(writer, "parameter_count", (int64_t)elements);
        lq_json_put_bool(writer, "is_protected", is_protected(gguf, tensor->name));
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
}

static void describe(const struct quantization *job, const struct lq_gguf *gguf,
                     uint64_t file_bytes, struct lq_json_writer *writer, struct lq_buffer *out)
{
    char size[32];
    uint64_t bytes = 0;
    uint64_t elements = 0;
    uint64_t model_bytes = lq_quick_model_bytes(job->cli, job->model);
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        bytes += gguf->tensors[i].size_bytes;
        elements += count_elements(&gguf->tensors[i]);
    }
    double bpw = elements == 0 ? 0.0 : (double)bytes * 8.0 / (double)elements;
    if (writer == NULL) {
        lq_buffer_printf(out, "%s: %s, %.2f bits per weight\n", job->output,
                         lq_text_size(file_bytes, size, sizeof size), bpw);
        return;
    }
    lq_json_put_string(writer, "output_path", job->output);
    lq_json_put_string(writer, "format", "gguf");
    if (job->level != NULL) {
        lq_json_put_string(writer, "level", job->level);
    }
    if (job->profile != NULL) {
        lq_json_put_string(writer, "profile", job->profile);
    }
    write_layers(gguf, writer);
    lq_json_put_number(writer, "effective_bpw", bpw);
    if (model_bytes > 0) {
        lq_json_put_number(writer, "compression_ratio", (double)file_bytes / (double)model_bytes);
    }
    lq_json_put_int(writer, "file_size", (int64_t)file_bytes);
}

static enum lq_status print_quantization(void *user, struct lq_json_writer *writer,
                                         struct lq_buffer *out, struct lq_error *err)
{
    const struct quantization *job = user;
    struct lq_map map;
    struct lq_gguf gguf;
    struct lq_arena arena;
    lq_arena_init(&arena);
    enum lq_status status = lq_map_open(&map, job->output, LQ_EIO, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, job->output, LQ_EFORMAT,
                               &arena, &gguf, NULL, err);
        if (status == LQ_OK) {
            describe(job, &gguf, map.size_bytes, writer, out);
        }
        lq_map_close(&map);
    }
    if (status == LQ_OK && job->report != NULL && writer != NULL) {
        lq_json_key(writer, "quality_report");
        lq_json_begin_object(writer);
        double delta_pct = 0.0;
        status = lq_quality_metrics_write(job->report, writer, &delta_pct, err);
        lq_json_end_object(writer);
        if (status == LQ_OK) {
            status = lq_quality_warn(job->cli, job->output, delta_pct, err);
        }
    }
    lq_arena_fini(&arena);
    return status;
}

enum lq_status lq_command_quantize(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"quantized", "quality"};
    struct quantization job = {.cli = cli, .model = cli->args.operands[0], .coverage = 0.0001};
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = prepare(&job, err);
    if (status == LQ_OK) {
        status = write_job(&job, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {
            .targets = targets,
            .target_count = job.report == NULL ? 1 : 2,
            .hide_summary = lq_quick_wants_json(cli),
            .print = print_quantization,
            .user = &job,
        };
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

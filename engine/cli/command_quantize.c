#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/profile_place.h"
#include "engine/cli/quantize_awq.h"
#include "engine/cli/quantize_folder.h"
#include "engine/cli/quantize_gptq.h"
#include "engine/cli/quantize_report.h"
#include "engine/cli/quantize_result.h"
#include "engine/cli/quantize_w8a8.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/gguf.h"
#include "rules/quant/levels.h"

struct quantization {
    struct lq_cli *cli;
    const char *model;
    const char *output;
    struct lq_quantize_report report;
    const char *level;              /* NULL: the profile alone decides */
    const char *profile;            /* as the user named it; NULL: none */
    const struct lq_preset *preset; /* what it is: this, */
    const char *profile_file;       /* or a file */
    bool calibrates;                /* computes an importance matrix */
    bool protect;
    double coverage;
    double target_bpw;
    bool has_target_bpw;
    const char **globs; /* of --tensor-type, */
    const char **types; /* and what matches them gets */
    size_t type_count;
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
                            "output format '%s' is not supported; there are gguf, gptq, awq and "
                            "smoothquant",
                            format);
    }
    if (lq_args_has(args, "smoothquant")) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "--smoothquant needs the output format smoothquant; gguf has no "
                            "activations of 8 bits");
    }
    return lq_quantize_check_options(args, "gguf", err);
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

/* --tensor-type GLOB=TYPE, as often as it is given. */
static enum lq_status check_types(struct quantization *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    size_t position = 0;
    const char *text = NULL;
    job->globs = lq_arena_get_array(&job->cli->arena, args->count + 1, sizeof *job->globs);
    job->types = lq_arena_get_array(&job->cli->arena, args->count + 1, sizeof *job->types);
    if (job->globs == NULL || job->types == NULL) {
        return lq_error_nomem(err, "the command");
    }
    while ((text = lq_args_next(args, "tensor-type", &position)) != NULL) {
        const char *equals = strrchr(text, '=');
        if (equals == NULL || equals == text || equals[1] == '\0') {
            return lq_error_set(err, LQ_EUSAGE,
                                "--tensor-type expects GLOB=TYPE, 'blk.*.ffn_down.weight=Q6_K' for "
                                "example, got '%s'",
                                text);
        }
        const char *glob = lq_arena_dup(&job->cli->arena, text, (size_t)(equals - text));
        if (glob == NULL) {
            return lq_error_nomem(err, "the command");
        }
        bool is_known = false;
        for (size_t i = 0; i < job->type_count; i++) {
            is_known = is_known || strcmp(job->globs[i], glob) == 0;
        }
        if (is_known) {
            return lq_error_set(err, LQ_EUSAGE, "--tensor-type names '%s' twice", glob);
        }
        job->globs[job->type_count] = glob;
        job->types[job->type_count++] = equals + 1;
    }
    return LQ_OK;
}

/* A preset's name, or a file. */
static enum lq_status check_profile(struct quantization *job, struct lq_error *err)
{
    return job->profile == NULL ? LQ_OK
                                : lq_profile_place_find(job->cli, job->profile, &job->preset,
                                                        &job->profile_file, err);
}

/* Texts: --calibration-data is for the importance matrix and, without --evaluation-data, for the
 * report. The one that the environment names steps in where a text is needed, and only there. */
static enum lq_status check_texts(struct quantization *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
    bool is_given = lq_args_has(args, "calibration-data");
    bool is_needed = job->protect || job->profile != NULL;
    if (!is_needed && job->level != NULL) {
        const struct lq_level *level = lq_level_find(job->level);
        is_needed = lq_level_needs_imatrix(level, "blk.0.ffn_up.weight", lq_level_base(level));
    }
    const char *usual = lq_quick_calibration_data(job->cli);
    job->calibrates = !lq_args_has(args, "imatrix") && (is_given || (is_needed && usual != NULL));
    if (job->protect && !job->calibrates && !lq_args_has(args, "imatrix")) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--protect-super-weights needs an importance matrix; give --imatrix "
                            "FILE or --calibration-data FILE");
    }
    return lq_quantize_report_check(job->cli, &job->report, err);
}

static enum lq_status check_combinations(struct quantization *job, struct lq_error *err)
{
    const struct lq_args *args = &job->cli->args;
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
    if (has_coverage && !job->protect) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--protection-coverage means nothing without --protect-super-weights");
    }
    if (job->has_target_bpw && job->profile == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--target-bpw means nothing without --dynamic or --profile");
    }
    status = check_texts(job, err);
    return status == LQ_OK ? check_types(job, err) : status;
}

static enum lq_status name_outputs(struct quantization *job, struct lq_error *err)
{
    struct lq_arena *arena = &job->cli->arena;
    const char *name = NULL;
    job->output = lq_args_get(&job->cli->args, "output");
    enum lq_status status = lq_quick_base_name(job->cli, job->model, &name, err);
    if (status == LQ_OK && job->output == NULL) {
        job->output = lq_arena_printf(arena, "%s-%s.gguf", name,
                                      job->profile != NULL ? "dynamic" : job->level);
    }
    if (status != LQ_OK || job->output == NULL) {
        return status == LQ_OK ? lq_error_nomem(err, "the command") : status;
    }
    return lq_quantize_report_place(&job->report, job->output, err);
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

static bool has_imatrix(const struct quantization *job)
{
    return job->calibrates || lq_args_has(&job->cli->args, "imatrix");
}

static enum lq_status write_imatrix(const struct quantization *job, struct lq_recipe_text *text,
                                    struct lq_error *err)
{
    if (job->calibrates) {
        enum lq_status status = lq_quick_add_calibration(job->cli, text, "original", 512, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    if (has_imatrix(job)) {
        lq_recipe_text_begin(text, "imatrix", "im");
        lq_recipe_text_word(text, "model", "original");
        lq_recipe_text_string(text, "file", lq_args_get(&job->cli->args, "imatrix"));
        if (job->calibrates) {
            lq_recipe_text_word(text, "calibration", "calib");
        }
        lq_recipe_text_end(text);
    }
    return LQ_OK;
}

static void write_choices(const struct quantization *job, struct lq_recipe_text *text)
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
        if (has_imatrix(job)) {
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

static void write_gguf(const struct quantization *job, struct lq_recipe_text *text)
{
    const struct lq_args *args = &job->cli->args;
    lq_recipe_text_begin(text, "gguf", "quantized");
    lq_recipe_text_word(text, "model", "original");
    if (has_imatrix(job)) {
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
    if (job->type_count > 0) {
        lq_recipe_text_map(text, "tensors", job->globs, job->types, job->type_count);
    }
    lq_recipe_text_string(text, "path", job->output);
    lq_recipe_text_end(text);
}

static enum lq_status write_job(const struct quantization *job, struct lq_recipe_text *text,
                                struct lq_error *err)
{
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", job->model);
    lq_recipe_text_end(text);
    enum lq_status status = write_imatrix(job, text, err);
    if (status != LQ_OK) {
        return status;
    }
    write_choices(job, text);
    write_gguf(job, text);
    return lq_quantize_report_add(&job->report, text, err);
}

/* ---- the result ---- */

static void describe(const struct quantization *job, const struct lq_gguf *gguf,
                     uint64_t file_bytes, struct lq_json_writer *writer, struct lq_buffer *out)
{
    if (writer == NULL) {
        lq_quantize_result_text(gguf, job->output, file_bytes, out);
        return;
    }
    lq_json_put_string(writer, "output_path", job->output);
    lq_json_put_string(writer, "format", "gguf");
    lq_json_put_string(writer, "source_model_path", job->model);
    /* Scales and sizes were checked before the file was put in place, its header just now. */
    lq_json_put_string(writer, "validation_status", "valid");
    if (job->level != NULL) {
        lq_json_put_string(writer, "level", job->level);
    }
    if (job->profile != NULL) {
        lq_json_put_string(writer, "profile", job->profile);
    }
    lq_quantize_result_json(gguf, file_bytes, lq_quick_model_bytes(job->cli, job->model), writer);
}

/* Such levels may leave a model that writes nonsense. Running both models to see it takes longer
 * than quantizing, so it is done when it is asked for, and said when it is not. */
static void warn_of_few_bits(const struct quantization *job)
{
    const struct lq_level *level = job->level == NULL ? NULL : lq_level_find(job->level);
    bool is_checked = lq_args_has(&job->cli->args, "coherence-check");
    if (level == NULL || job->profile != NULL || is_checked ||
        lq_dtype_bpw(lq_level_base(level)) >= 2.0) {
        return;
    }
    const char *message = lq_arena_printf(
        &job->cli->arena,
        "%s keeps fewer than 2 bits of most weights; --coherence-check tells whether what the "
        "model writes still makes sense, and --dynamic or Q2_K would keep more",
        job->level);
    if (message != NULL) {
        lq_cli_warn(job->cli, message);
    }
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
            warn_of_few_bits(job);
        }
        lq_map_close(&map);
    }
    if (status == LQ_OK) {
        status = lq_quantize_report_print(&job->report, job->output, writer, err);
    }
    lq_arena_fini(&arena);
    return status;
}

enum lq_status lq_command_quantize(struct lq_cli *cli, struct lq_error *err)
{
    struct quantization job = {.cli = cli, .model = cli->args.operands[0], .coverage = 0.0001};
    struct lq_recipe_text text;
    if (strcmp(cli->args.operands[1], "smoothquant") == 0) {
        return lq_quantize_w8a8(cli, err);
    }
    if (strcmp(cli->args.operands[1], "gptq") == 0) {
        return lq_quantize_gptq(cli, err);
    }
    if (strcmp(cli->args.operands[1], "awq") == 0) {
        return lq_quantize_awq(cli, err);
    }
    lq_recipe_text_init(&text);
    enum lq_status status = prepare(&job, err);
    if (status == LQ_OK) {
        status = write_job(&job, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {
            .hide_summary = lq_quick_wants_json(cli),
            .print = print_quantization,
            .user = &job,
        };
        build.target_count = lq_quantize_report_targets(&job.report, &build.targets);
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

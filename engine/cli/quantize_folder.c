#include "engine/cli/quantize_folder.h"

#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "engine/cli/quick_recipe.h"
#include "rules/model/hf_documents.h"

/* Options of `quantize` that only some formats know. */
static const struct {
    const char *name;
    const char *formats;
} special[] = {
    {"imatrix", "gguf"},
    {"dynamic", "gguf"},
    {"profile", "gguf"},
    {"target-bpw", "gguf"},
    {"tensor-type", "gguf"},
    {"protect-super-weights", "gguf"},
    {"pure", "gguf"},
    {"output-tensor-type", "gguf"},
    {"allow-requantize", "gguf"},
    {"token-embedding-type", "gguf"},
    {"protection-coverage", "gguf"},
    {"smoothquant", "smoothquant"},
    {"alpha", "smoothquant"},
    {"bits", "gptq"},
    {"group-size", "gptq awq"},
    {"asymmetric", "gptq"},
    {"desc-act", "gptq"},
    {"damp", "gptq"},
    {"symmetric", "awq"},
    {"no-clip", "awq"},
    {"packing", "awq"},
};

enum lq_status lq_quantize_check_options(const struct lq_args *args, const char *format,
                                         struct lq_error *err)
{
    for (size_t i = 0; i < LQ_COUNT_OF(special); i++) {
        if (lq_args_has(args, special[i].name) && !lq_choices_have(special[i].formats, format)) {
            return lq_error_set(err, LQ_EUSAGE, "--%s means nothing for the format %s",
                                special[i].name, format);
        }
    }
    return LQ_OK;
}

enum lq_status lq_quantize_folder_open(struct lq_quantize_folder *folder, const char *suffix,
                                       struct lq_error *err)
{
    struct lq_cli *cli = folder->cli;
    struct lq_arena *arena = &cli->arena;
    const char *name = NULL;
    folder->model = cli->args.operands[0];
    enum lq_status status = lq_quick_find_model(cli, folder->model, &folder->place, err);
    if (status == LQ_OK) {
        status = lq_quick_base_name(cli, folder->model, &name, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    folder->path = lq_args_get(&cli->args, "output");
    if (folder->path == NULL) {
        folder->path = lq_arena_printf(arena, "%s-%s", name, suffix);
    }
    const char *report = lq_arena_printf(arena, "%s.json", folder->format);
    if (folder->path == NULL || report == NULL) {
        return lq_error_nomem(err, "the command");
    }
    folder->weights = lq_path_join(arena, folder->path, "model.safetensors");
    folder->config = lq_path_join(arena, folder->path, "config.json");
    folder->report = lq_path_join(arena, folder->path, report);
    if (folder->weights == NULL || folder->config == NULL || folder->report == NULL) {
        return lq_error_nomem(err, "the command");
    }
    status = lq_quantize_report_check(cli, &folder->quality, err);
    return status == LQ_OK ? lq_quantize_report_place(&folder->quality, folder->path, err) : status;
}

enum lq_status lq_quantize_folder_begin(const struct lq_quantize_folder *folder,
                                        struct lq_recipe_text *text, uint64_t samples_default,
                                        struct lq_error *err)
{
    lq_recipe_text_begin(text, "model", "original");
    lq_recipe_text_string(text, "source", folder->model);
    lq_recipe_text_end(text);
    return lq_quick_add_calibration(folder->cli, text, "original", samples_default, err);
}

/* A model folder is of no use without its tokenizer, which nothing changes. */
static enum lq_status copy_tokenizer(const struct lq_quantize_folder *folder, struct lq_error *err)
{
    struct lq_arena *arena = &folder->cli->arena;
    enum lq_status status = LQ_OK;
    for (int f = LQ_HF_CONFIG + 1; status == LQ_OK && f < LQ_HF_FILE_COUNT; f++) {
        struct lq_buffer bytes;
        const char *name = lq_hf_file_name((enum lq_hf_file)f);
        const char *from = lq_path_join(arena, folder->place, name);
        const char *to = lq_path_join(arena, folder->path, name);
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
    const struct lq_quantize_folder *folder = user;
    struct lq_file_sig sig = {0};
    bool exists = false;
    char size[32];
    enum lq_status status = copy_tokenizer(folder, err);
    if (status == LQ_OK) {
        status = lq_file_sig_get(folder->weights, &sig, &exists, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t model_bytes = lq_quick_model_bytes(folder->cli, folder->model);
    if (writer == NULL) {
        lq_buffer_printf(out, "%s: %s, %s\n", folder->path,
                         lq_text_size(sig.size_bytes, size, sizeof size), folder->words);
        return LQ_OK;
    }
    lq_json_put_string(writer, "output_path", folder->path);
    lq_json_put_string(writer, "format", folder->format);
    lq_json_put_string(writer, "source_model_path", folder->model);
    lq_json_put_string(writer, "level", folder->level);
    if (folder->put != NULL) {
        folder->put(folder, writer);
    }
    if (model_bytes > 0) {
        lq_json_put_number(writer, "compression_ratio",
                           (double)sig.size_bytes / (double)model_bytes);
    }
    lq_json_put_int(writer, "file_size", (int64_t)sig.size_bytes);
    return lq_quantize_report_print(&folder->quality, folder->path, writer, err);
}

enum lq_status lq_quantize_folder_run(const struct lq_quantize_folder *folder,
                                      struct lq_recipe_text *text, struct lq_error *err)
{
    struct lq_quantize_folder job = *folder;
    struct lq_quick_build build = {
        .hide_summary = lq_quick_wants_json(folder->cli), .print = print_result, .user = &job};
    build.target_count = lq_quantize_report_targets(&folder->quality, &build.targets);
    enum lq_status status = lq_quantize_report_add(&folder->quality, text, err);
    return status == LQ_OK ? lq_quick_run(folder->cli, text, &build, err) : status;
}

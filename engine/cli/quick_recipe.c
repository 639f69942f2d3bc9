#define _XOPEN_SOURCE 700
#include "engine/cli/quick_recipe.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "engine/progress.h"
#include "rules/model/hub_cache.h"

/* Long enough for any command's name in messages. */
enum { RECIPE_NAME_BYTES = 64 };

enum lq_status lq_quick_base_name(struct lq_cli *cli, const char *model, const char **name,
                                  struct lq_error *err)
{
    model += lq_text_starts_with(model, "hf:") ? strlen("hf:") : 0;
    /* Without the revision behind a name of the hub; a file may follow it. */
    const char *at = strchr(model, '@');
    bool cuts = at != NULL && strchr(at, '/') == NULL && !lq_path_exists(model);
    size_t length = cuts ? (size_t)(at - model) : strlen(model);
    while (length > 1 && model[length - 1] == '/') {
        length--;
    }
    char *path = lq_arena_dup(&cli->arena, model, length);
    const char *base = path == NULL ? NULL : lq_path_base(path);
    /* "." and ".." name a folder only when they are resolved. */
    bool is_dots = base != NULL && (strcmp(base, ".") == 0 || strcmp(base, "..") == 0 ||
                                    strcmp(base, "/") == 0 || base[0] == '\0');
    if (is_dots) {
        char *resolved = realpath(path, NULL);
        base = resolved == NULL ? "model" : lq_path_base(resolved);
        base = lq_arena_dup_string(&cli->arena, base[0] == '\0' ? "model" : base);
        free(resolved);
    }
    if (base == NULL) {
        return lq_error_nomem(err, "the name of the model");
    }
    size_t keep = strlen(base);
    keep -= lq_text_ends_with(base, ".gguf") && keep > 5 ? 5 : 0;
    *name = lq_arena_dup(&cli->arena, base, keep);
    return *name == NULL ? lq_error_nomem(err, "the name of the model") : LQ_OK;
}

enum lq_status lq_quick_find_model(struct lq_cli *cli, const char *model, const char **path,
                                   struct lq_error *err)
{
    struct lq_hub_place place;
    enum lq_status status = lq_hub_resolve(model, model, &cli->arena, &place, err);
    if (status == LQ_OK && path != NULL) {
        *path = place.path;
    }
    return status;
}

const char *lq_quick_calibration_data(const struct lq_cli *cli)
{
    const char *given = lq_args_get(&cli->args, "calibration-data");
    const char *usual = getenv("LQBUILD_CALIBRATION_DATA");
    return given != NULL || usual == NULL || usual[0] == '\0' ? given : usual;
}

enum lq_status lq_quick_add_calibration(struct lq_cli *cli, struct lq_recipe_text *text,
                                        const char *model, uint64_t samples_default,
                                        struct lq_error *err)
{
    const char *path = lq_quick_calibration_data(cli);
    uint64_t samples = samples_default;
    uint64_t sequence = 0;
    if (path == NULL) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "no text to calibrate with; give --calibration-data FILE (.txt, .json "
                            "or .jsonl), or name one in LQBUILD_CALIBRATION_DATA: "
                            "docs/command-line.md says how to get WikiText-2");
    }
    /* The schema knows the real ranges, and the exit codes that belong to them. */
    enum lq_status status =
        lq_args_uint(&cli->args, "calibration-samples", 0, LQ_SAMPLES_MAX, &samples, err);
    if (status == LQ_OK) {
        status = lq_args_uint(&cli->args, "sequence", 0, LQ_SEQUENCE_MAX, &sequence, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_recipe_text_begin(text, "text", "words");
    lq_recipe_text_string(text, "path", path);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "calibration", "calib");
    lq_recipe_text_word(text, "model", model);
    lq_recipe_text_word(text, "text", "words");
    lq_recipe_text_uint(text, "samples", samples);
    if (lq_args_has(&cli->args, "sequence")) {
        lq_recipe_text_uint(text, "sequence", sequence);
    }
    lq_recipe_text_end(text);
    return LQ_OK;
}

bool lq_quick_wants_json(const struct lq_cli *cli)
{
    return lq_cli_prints_json(cli);
}

/* A verdict belongs into the one object of --format json: the members of an error take the place of
 * the text up to `success_end`, which says that all is well. */
static void put_verdict(struct lq_cli *cli, struct lq_buffer *out, size_t success_end,
                        const struct lq_error *err)
{
    struct lq_buffer whole;
    struct lq_json_writer writer;
    lq_buffer_init(&whole);
    lq_json_writer_init(&writer, &whole, true);
    lq_json_begin_object(&writer);
    lq_cli_put_error(&writer, err);
    lq_buffer_append(&whole, out->data + success_end, out->size_bytes - success_end);
    lq_progress_print_message(stderr, cli->color_err, "error", err->message);
    cli->error_shown = true;
    lq_buffer_fini(out);
    *out = whole;
}

struct printing {
    struct lq_cli *cli;
    const struct lq_quick_build *build;
};

static enum lq_status print_result(void *user, struct lq_error *err)
{
    struct printing *printing = user;
    const struct lq_quick_build *build = printing->build;
    bool json = lq_quick_wants_json(printing->cli);
    enum lq_status status = LQ_OK;
    struct lq_buffer out;
    struct lq_json_writer writer;
    lq_buffer_init(&out);
    /* One line in a stream of events, a readable object on its own. */
    lq_json_writer_init(&writer, &out, !printing->cli->json);
    if (json) {
        lq_json_begin_object(&writer);
        if (printing->cli->json) {
            lq_json_put_string(&writer, "event", "result");
        }
        lq_json_put_string(&writer, "status", "success");
        size_t success_end = out.size_bytes;
        status = build->print(build->user, &writer, &out, err);
        lq_json_end_object(&writer);
        if (status == LQ_EQUALITY && !printing->cli->json && !out.failed) {
            put_verdict(printing->cli, &out, success_end, err);
        }
        if (out.size_bytes > 0 && out.data[out.size_bytes - 1] != '\n') {
            lq_buffer_append_char(&out, '\n');
        }
    } else {
        /* Asked also when nobody wants to read it: it may be a verdict. */
        status = build->print(build->user, NULL, &out, err);
        if (printing->cli->quiet) {
            lq_buffer_clear(&out);
        }
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "the result");
    }
    if (status == LQ_OK || status == LQ_EQUALITY) {
        lq_cli_print(&out);
        (void)fflush(stdout);
    }
    lq_buffer_fini(&out);
    return status;
}

enum lq_status lq_quick_print(struct lq_cli *cli, const struct lq_quick_build *build,
                              struct lq_error *err)
{
    struct printing printing = {.cli = cli, .build = build};
    enum lq_status status = print_result(&printing, err);
    if (status != LQ_OK && !cli->error_shown) {
        lq_cli_show_error(cli, err);
    }
    lq_cli_close_events(cli);
    return status;
}

/* The user gave an option where the recipe has an attribute: the message is about the option. */
static void name_option(const struct lq_cli *cli, const struct lq_error *plain,
                        struct lq_error *err)
{
    static const char *const names[][2] = {
        {"samples", "calibration-samples"}, {"chunks", "calibration-samples"},
        {"sequence", "sequence"},           {"fail_above", "fail-above"},
        {"threshold", "threshold"},         {"precision", "precision"}};
    static const char lead[] = "attribute '";
    *err = *plain;
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        size_t length = strlen(names[i][0]);
        const char *at = plain->message + sizeof lead - 1;
        bool meant = lq_text_starts_with(plain->message, lead) &&
                     strncmp(at, names[i][0], length) == 0 && at[length] == '\'';
        if (meant && lq_args_has(&cli->args, names[i][1])) {
            (void)snprintf(err->message, sizeof err->message, "--%s%.*s", names[i][1],
                           (int)(sizeof err->message / 2), at + length + 1);
            return;
        }
    }
}

enum lq_status lq_quick_run(struct lq_cli *cli, const struct lq_recipe_text *text,
                            const struct lq_quick_build *build, struct lq_error *err)
{
    char name[RECIPE_NAME_BYTES];
    struct lq_recipe *recipe = NULL;
    struct printing printing = {.cli = cli, .build = build};
    enum lq_status status = lq_recipe_text_finish(text, err);
    if (status != LQ_OK) {
        return status;
    }
    (void)snprintf(name, sizeof name, "lqbuild %s", cli->command->name);
    if (cli->verbose) {
        (void)fprintf(stderr, "%s", lq_buffer_text(&text->buffer));
    }
    status = lq_recipe_parse(&recipe, lq_buffer_text(&text->buffer), text->buffer.size_bytes, name,
                             ".", cli->program->registry, NULL, 0, err);
    if (status != LQ_OK) {
        struct lq_error plain = *err;
        lq_cli_hide_positions(name, err->message, plain.message, sizeof plain.message);
        name_option(cli, &plain, err);
        err->status = lq_cli_plain_status(status);
        return err->status;
    }
    struct lq_cli_build whole = {
        .recipe = recipe,
        .targets = build->targets,
        .target_count = build->target_count,
        .hide_summary = build->hide_summary,
        .hidden_name = name,
        .before_summary = build->print == NULL ? NULL : print_result,
        .user = &printing,
    };
    status = lq_cli_plain_status(lq_cli_build(cli, &whole, NULL, err));
    lq_recipe_destroy(recipe);
    return status;
}

uint64_t lq_quick_model_bytes(struct lq_cli *cli, const char *model)
{
    struct lq_file_sig sig;
    bool exists = false;
    uint64_t total = 0;
    if (lq_quick_find_model(cli, model, &model, NULL) != LQ_OK) {
        return 0;
    }
    if (!lq_path_is_dir(model)) {
        return lq_file_sig_get(model, &sig, &exists, NULL) == LQ_OK && exists ? sig.size_bytes : 0;
    }
    DIR *dir = opendir(model);
    if (dir == NULL) {
        return 0;
    }
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        const char *path = lq_text_ends_with(entry->d_name, ".safetensors")
                               ? lq_path_join(&cli->arena, model, entry->d_name)
                               : NULL;
        if (path != NULL && lq_file_sig_get(path, &sig, &exists, NULL) == LQ_OK && exists) {
            total += sig.size_bytes;
        }
    }
    (void)closedir(dir);
    return total;
}

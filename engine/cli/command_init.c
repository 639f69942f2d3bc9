/* `lqbuild init MODEL`: a commented recipe to start from. What it can see of the model and of texts
 * beside it goes in; what it cannot, it leaves as a line to fill in. */
#define _XOPEN_SOURCE 700
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"

/* In a string of the recipe language. */
static void put_quoted(struct lq_buffer *out, const char *text)
{
    lq_buffer_append_char(out, '"');
    for (; *text != '\0'; text++) {
        if (strchr("\"\\{}", *text) != NULL) {
            lq_buffer_append_char(out, '\\');
        }
        lq_buffer_append_char(out, *text);
    }
    lq_buffer_append_char(out, '"');
}

/* The first file of the current folder, by name, that calls itself calibration text; else NULL. */
static enum lq_status find_text(struct lq_cli *cli, const char **found, struct lq_error *err)
{
    *found = NULL;
    DIR *dir = opendir(".");
    if (dir == NULL) {
        return LQ_OK;
    }
    enum lq_status status = LQ_OK;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        bool is_text =
            lq_text_ends_with(entry->d_name, ".txt") || lq_text_ends_with(entry->d_name, ".jsonl");
        if (!is_text || strstr(entry->d_name, "calib") == NULL ||
            (*found != NULL && strcmp(entry->d_name, *found) >= 0)) {
            continue;
        }
        *found = lq_arena_dup_string(&cli->arena, entry->d_name);
        if (*found == NULL) {
            status = lq_error_nomem(err, "the recipe");
            break;
        }
    }
    (void)closedir(dir);
    return status;
}

/* Paths in a recipe are relative to its folder, those of the command line to the current one. */
static enum lq_status place_model(struct lq_cli *cli, const char **model, bool *beside,
                                  struct lq_error *err)
{
    const char *dir = lq_path_dir(&cli->arena, cli->recipe_path);
    *beside = dir != NULL && strcmp(dir, ".") == 0;
    if (dir == NULL) {
        return lq_error_nomem(err, "the recipe");
    }
    /* Names of the hub are the same everywhere. */
    if (*beside || (*model)[0] == '/' || !lq_path_exists(*model)) {
        return LQ_OK;
    }
    char *resolved = realpath(*model, NULL);
    if (resolved == NULL) {
        return lq_error_errno(err, LQ_EMODEL, "%s", *model);
    }
    *model = lq_arena_dup_string(&cli->arena, resolved);
    free(resolved);
    return *model == NULL ? lq_error_nomem(err, "the recipe") : LQ_OK;
}

static void write_recipe(const char *model, const char *name, const char *corpus,
                         struct lq_buffer *out)
{
    lq_buffer_append_string(out, "# How to quantize this model: build it with `lqbuild`, see what "
                                 "would run with `lqbuild -n`.\n\n"
                                 "let level = \"Q4_K_M\"   # another one: lqbuild -D level=Q6_K\n\n"
                                 "# A Hugging Face folder or a GGUF file.\nmodel base { source = ");
    put_quoted(out, model);
    lq_buffer_append_string(out, " }\n\n# Text like what the model will see");
    lq_buffer_append_string(out, corpus == NULL ? ": put such a file here, or name another.\n"
                                                : "; 128 samples or more make a good matrix.\n");
    lq_buffer_append_string(out, "text corpus { path = ");
    put_quoted(out, corpus == NULL ? "calibration.txt" : corpus);
    lq_buffer_append_string(out,
                            " }\ncalibration calib { model = base  text = corpus  samples = 128 }\n"
                            "\n# What matters in each matrix, measured by running the text through "
                            "the model.\n"
                            "imatrix im { model = base  calibration = calib  path = ");
    put_quoted(out, "out/imatrix.gguf");
    lq_buffer_append_string(out, " }\n\ngguf small { model = base  imatrix = im  level = level  "
                                 "path = \"out/");
    for (const char *c = name; *c != '\0'; c++) {
        if (strchr("\"\\{}", *c) != NULL) {
            lq_buffer_append_char(out, '\\');
        }
        lq_buffer_append_char(out, *c);
    }
    lq_buffer_append_string(out,
                            "-{level}.gguf\" }\n"
                            "\n# What it cost: perplexity and errors beside the original.\n"
                            "report cost { original = base  quantized = [small]  text = corpus\n"
                            "              fail_above = 20%  path = \"out/quality.html\" }\n"
                            "\n# `lqbuild cost` builds the report too.\ndefault small\n");
}

/* The canonical layout, so that `lqbuild fmt` has nothing to say about it. */
static enum lq_status print_layout(const struct lq_buffer *draft, const char *path,
                                   struct lq_buffer *out, struct lq_error *err)
{
    if (draft->failed) {
        return lq_error_nomem(err, "the recipe");
    }
    enum lq_status status =
        lq_recipe_format(lq_buffer_text(draft), draft->size_bytes, path, out, err);
    return status == LQ_OK && out->failed ? lq_error_nomem(err, "the recipe") : status;
}

/* Better now than at the first build. */
static enum lq_status check_model(struct lq_cli *cli, const char *place, struct lq_error *err)
{
    const char *config = lq_path_join(&cli->arena, place, "config.json");
    if (config == NULL) {
        return lq_error_nomem(err, "the recipe");
    }
    if (!lq_path_is_dir(place)) {
        struct lq_map map;
        enum lq_status status = lq_map_open(&map, place, LQ_EMODEL, err);
        if (status != LQ_OK) {
            return status;
        }
        bool is_gguf = map.size_bytes >= 4 && memcmp(map.data, "GGUF", 4) == 0;
        lq_map_close(&map);
        return is_gguf ? LQ_OK
                       : lq_error_set(err, LQ_EMODEL,
                                      "%s: is no model; give a Hugging Face folder or a GGUF file",
                                      place);
    }
    return lq_path_exists(config)
               ? LQ_OK
               : lq_error_set(err, LQ_EMODEL,
                              "folder '%s' has no config.json; give the complete folder of a "
                              "Hugging Face model, or a .gguf file",
                              place);
}

static void say_written(const char *path, const char *corpus)
{
    bool usual = strcmp(path, "recipe.lq") == 0;
    (void)fprintf(stderr, "%s: written; ", path);
    if (corpus == NULL) {
        (void)fprintf(stderr,
                      "put the text that it names there, then build it with 'lqbuild%s%s'\n",
                      usual ? "" : " -f ", usual ? "" : path);
    } else {
        (void)fprintf(stderr, "build it with 'lqbuild%s%s'\n", usual ? "" : " -f ",
                      usual ? "" : path);
    }
}

enum lq_status lq_command_init(struct lq_cli *cli, struct lq_error *err)
{
    const char *model = cli->args.operands[0];
    const char *path = cli->recipe_path;
    const char *name = NULL;
    const char *corpus = NULL;
    const char *place = NULL;
    enum lq_status status = lq_quick_find_model(cli, model, &place, err);
    if (status == LQ_OK) {
        status = check_model(cli, place, err);
    }
    if (status == LQ_OK && lq_path_exists(path) && !cli->force) {
        status = lq_error_set(err, LQ_EUSAGE,
                              "%s: exists already; give --force to replace it, or -f FILE to write "
                              "another",
                              path);
    }
    if (status == LQ_OK) {
        status = lq_quick_base_name(cli, model, &name, err);
    }
    bool beside = false;
    if (status == LQ_OK) {
        status = place_model(cli, &model, &beside, err);
    }
    if (status == LQ_OK && beside) {
        status = find_text(cli, &corpus, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer draft;
    struct lq_buffer layout;
    lq_buffer_init(&draft);
    lq_buffer_init(&layout);
    write_recipe(model, name, corpus, &draft);
    status = print_layout(&draft, path, &layout, err);
    if (status == LQ_OK && cli->dry_run) {
        lq_cli_print(&layout);
    } else if (status == LQ_OK) {
        status = lq_file_write(path, layout.data, layout.size_bytes, err);
        if (status == LQ_OK && !cli->quiet && !cli->json) {
            say_written(path, corpus);
        }
    }
    lq_buffer_fini(&layout);
    lq_buffer_fini(&draft);
    return status;
}

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/profile_place.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/dqprofile.h"
#include "rules/profile/presets.h"
#include "rules/profile/resolve.h"

static void end_line(struct lq_buffer *out)
{
    if (out->size_bytes == 0 || out->data[out->size_bytes - 1] != '\n') {
        lq_buffer_append_char(out, '\n');
    }
}

/* What a preset with fixed types gives each kind of tensor, as layers of a profile say it. */
static const struct {
    const char *kind;
    const char *pattern;
    const char *sample;
} kinds[] = {
    {"attention", "blk.*.attn_*.weight", "blk.0.attn_q.weight"},
    {"feed-forward", "blk.*.ffn_*.weight", "blk.0.ffn_up.weight"},
    {"embedding", "token_embd.weight", "token_embd.weight"},
    {"output", "output.weight", "output.weight"},
};

static void write_preset(struct lq_json_writer *writer, const struct lq_preset *preset)
{
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "profile_name", preset->name);
    lq_json_put_string(writer, "strategy", lq_profile_strategy_name(preset->strategy));
    lq_json_put_string(writer, "description", preset->description);
    if (preset->is_measured) {
        lq_json_put_number(writer, "target_bpw", preset->target_bpw);
    } else {
        lq_json_key(writer, "layer_assignments");
        lq_json_begin_array(writer);
        for (size_t i = 0; i < LQ_COUNT_OF(kinds); i++) {
            enum lq_dtype dtype = lq_preset_attention_high(kinds[i].sample, false);
            lq_json_begin_object(writer);
            lq_json_put_string(writer, "layer_name", kinds[i].pattern);
            lq_json_put_number(writer, "bit_width", lq_profile_bit_width(dtype));
            lq_json_put_string(writer, "type", lq_dtype_name((uint32_t)dtype));
            lq_json_end_object(writer);
        }
        lq_json_end_array(writer);
    }
    lq_json_put_bool(writer, "preset", true);
    lq_json_end_object(writer);
}

static void print_preset(const struct lq_preset *preset, struct lq_buffer *out)
{
    lq_buffer_printf(out, "name      %s\nabout     %s\n", preset->name, preset->description);
    if (preset->is_measured) {
        lq_buffer_printf(out, "types     found by trial encodings, %g bits per weight by default\n",
                         preset->target_bpw);
        return;
    }
    lq_buffer_append_string(out, "types     fixed for each kind of tensor\n");
    for (size_t i = 0; i < LQ_COUNT_OF(kinds); i++) {
        enum lq_dtype dtype = lq_preset_attention_high(kinds[i].sample, false);
        lq_buffer_printf(out, "  %-14s %s\n", kinds[i].kind, lq_dtype_name((uint32_t)dtype));
    }
    lq_buffer_append_string(out, "  an embedding that is also the output is one\n");
}

static void write_file(struct lq_json_writer *writer, const char *name, const char *path)
{
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "profile_name", name);
    lq_json_put_string(writer, "path", path);
    lq_json_put_bool(writer, "preset", false);
    lq_json_end_object(writer);
}

/* The presets, and the profiles in the user's folder; one that cannot be read is listed all the
 * same. `writer` NULL: for people. */
static enum lq_status list_profiles(struct lq_cli *cli, struct lq_json_writer *writer,
                                    struct lq_buffer *out, struct lq_error *err)
{
    size_t preset_count = 0;
    const struct lq_preset *presets = lq_presets(&preset_count);
    const char *const *paths = NULL;
    size_t count = 0;
    enum lq_status status = lq_profile_place_list(cli, &paths, &count, err);
    for (size_t i = 0; i < preset_count + count; i++) {
        bool is_preset = i < preset_count;
        const char *path = is_preset ? NULL : paths[i - preset_count];
        const char *base = is_preset ? presets[i].name : lq_path_base(path);
        const char *name =
            lq_arena_dup(&cli->arena, base,
                         is_preset ? strlen(base) : strlen(base) - strlen(lq_path_extension(base)));
        if (name == NULL) {
            return lq_error_nomem(err, "the profiles");
        }
        if (cli->json) {
            lq_json_writer_init(writer, out, false);
        }
        if (writer == NULL) {
            lq_buffer_printf(out, "%-17s %s\n", name, is_preset ? presets[i].description : path);
        } else if (is_preset) {
            write_preset(writer, &presets[i]);
        } else {
            write_file(writer, name, path);
        }
        if (cli->json) {
            end_line(out);
        }
    }
    return status;
}

/* --json: an object a line; --format json: one object with all. */
enum lq_status lq_command_profile_list(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_buffer out;
    struct lq_json_writer writer;
    bool is_object = lq_quick_wants_json(cli) && !cli->json;
    lq_buffer_init(&out);
    lq_json_writer_init(&writer, &out, is_object);
    if (is_object) {
        lq_json_begin_object(&writer);
        lq_json_key(&writer, "profiles");
        lq_json_begin_array(&writer);
    }
    enum lq_status status =
        list_profiles(cli, lq_quick_wants_json(cli) ? &writer : NULL, &out, err);
    if (is_object) {
        lq_json_end_array(&writer);
        lq_json_end_object(&writer);
        end_line(&out);
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "the profiles");
    }
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    return status;
}

static void print_profile(const struct lq_dqprofile *profile, struct lq_buffer *out)
{
    lq_buffer_printf(out, "name      %s\nstrategy  %s\n", profile->profile_name,
                     lq_profile_strategy_name(profile->strategy));
    if (profile->description != NULL) {
        lq_buffer_printf(out, "about     %s\n", profile->description);
    }
    if (!isnan(profile->target_bpw)) {
        lq_buffer_printf(out, "target    %g bits per weight\n", profile->target_bpw);
    }
    lq_buffer_printf(out, "layers    %zu\n", profile->layer_count);
    for (size_t i = 0; i < profile->layer_count; i++) {
        const struct lq_dqprofile_layer *layer = &profile->layers[i];
        lq_buffer_printf(out, "  %-40s %4g bits", layer->layer_name, layer->bit_width);
        if (layer->has_type) {
            lq_buffer_printf(out, "  %s", lq_dtype_name((uint32_t)layer->type));
        }
        lq_buffer_printf(out, "%s\n", layer->is_protected ? "  protected" : "");
    }
}

static enum lq_status show_file(struct lq_cli *cli, const char *path, struct lq_buffer *out,
                                struct lq_error *err)
{
    struct lq_map map;
    struct lq_dqprofile profile;
    enum lq_status status = lq_map_open(&map, path, LQ_EPROFILE, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_dqprofile_parse(map.data, map.size_bytes, path, &cli->arena, &profile, err);
    lq_map_close(&map);
    if (status == LQ_OK && lq_quick_wants_json(cli)) {
        status = lq_dqprofile_format(&profile, out, err);
    } else if (status == LQ_OK) {
        print_profile(&profile, out);
    }
    return status;
}

enum lq_status lq_command_profile_show(struct lq_cli *cli, struct lq_error *err)
{
    const char *name = cli->args.operands[0];
    const struct lq_preset *preset = NULL;
    const char *path = NULL;
    enum lq_status status = lq_profile_place_find(cli, name, &preset, &path, err);
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (preset != NULL && lq_quick_wants_json(cli)) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &out, true);
        write_preset(&writer, preset);
        end_line(&out);
    } else if (preset != NULL) {
        print_preset(preset, &out);
    } else if (path != NULL) {
        status = show_file(cli, path, &out, err);
    }
    if (status == LQ_OK) {
        lq_cli_print_value(cli, &out);
    }
    lq_buffer_fini(&out);
    return status;
}

/* ---- create ---- */

struct creation {
    const char *output;
};

static enum lq_status print_creation(void *user, struct lq_json_writer *writer,
                                     struct lq_buffer *out, struct lq_error *err)
{
    const struct creation *creation = user;
    (void)err;
    if (writer != NULL) {
        lq_json_put_string(writer, "output_path", creation->output);
    } else {
        lq_buffer_printf(out, "%s: written\n", creation->output);
    }
    return LQ_OK;
}

static enum lq_status write_creation(struct lq_cli *cli, const struct creation *creation,
                                     struct lq_recipe_text *text, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    static const char *const numbers[][2] = {{"target-bpw", "target_bpw"},
                                             {"target-size", "target_size"}};
    const char *strategy = lq_args_get(args, "strategy");
    lq_recipe_text_begin(text, "model", "base");
    lq_recipe_text_string(text, "source", lq_args_get(args, "model"));
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "imatrix", "im");
    lq_recipe_text_word(text, "model", "base");
    lq_recipe_text_string(text, "file", lq_args_get(args, "imatrix"));
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "profile", "mix");
    lq_recipe_text_word(text, "model", "base");
    lq_recipe_text_word(text, "imatrix", "im");
    lq_recipe_text_string(text, "name", lq_args_get(args, "name"));
    lq_recipe_text_string(text, "strategy", strategy == NULL ? "balanced" : strategy);
    for (size_t i = 0; i < LQ_COUNT_OF(numbers); i++) {
        double value = 0.0;
        bool given = false;
        enum lq_status status = lq_args_number(args, numbers[i][0], &value, &given, err);
        if (status != LQ_OK) {
            return status;
        }
        if (given) {
            lq_recipe_text_number(text, numbers[i][1], value);
        }
    }
    lq_recipe_text_string(text, "path", creation->output);
    lq_recipe_text_end(text);
    return LQ_OK;
}

enum lq_status lq_command_profile_create(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const required[] = {"imatrix", "name", "model"};
    static const char *const targets[] = {"mix"};
    const struct lq_args *args = &cli->args;
    struct creation creation = {.output = lq_args_get(args, "output")};
    for (size_t i = 0; i < LQ_COUNT_OF(required); i++) {
        if (!lq_args_has(args, required[i])) {
            return lq_error_set(err, LQ_EUSAGE,
                                "'profile create' needs --%s; 'lqbuild help profile create' says "
                                "what it takes",
                                required[i]);
        }
    }
    if (creation.output == NULL && strchr(lq_args_get(args, "name"), '/') != NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--name '%s' cannot be the name of a file; give -o FILE too",
                            lq_args_get(args, "name"));
    }
    if (creation.output == NULL) {
        creation.output = lq_arena_printf(&cli->arena, "%s.dqprofile", lq_args_get(args, "name"));
    }
    if (creation.output == NULL) {
        return lq_error_nomem(err, "the command");
    }
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = lq_quick_find_model(cli, lq_args_get(args, "model"), NULL, err);
    if (status == LQ_OK) {
        status = write_creation(cli, &creation, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {.targets = targets,
                                       .target_count = 1,
                                       .hide_summary = true,
                                       .print = print_creation,
                                       .user = &creation};
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

/* ---- validate ---- */

struct validation {
    const char *profile;
    const char *model;
};

static enum lq_status print_validation(void *user, struct lq_json_writer *writer,
                                       struct lq_buffer *out, struct lq_error *err)
{
    const struct validation *validation = user;
    (void)err;
    if (writer != NULL) {
        lq_json_put_string(writer, "profile", validation->profile);
        lq_json_put_string(writer, "model", validation->model);
        lq_json_put_bool(writer, "valid", true);
    } else {
        lq_buffer_printf(out, "%s fits %s\n", validation->profile, validation->model);
    }
    return LQ_OK;
}

/* Resolving a profile against a model is what the profile rule does: a name that fits no tensor is
 * its error. */
enum lq_status lq_command_profile_validate(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"mix"};
    struct validation validation = {cli->args.operands[0], cli->args.operands[1]};
    const struct lq_preset *preset = NULL;
    const char *path = NULL;
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = lq_profile_place_find(cli, validation.profile, &preset, &path, err);
    if (status == LQ_OK) {
        status = lq_quick_find_model(cli, validation.model, NULL, err);
    }
    if (status == LQ_OK) {
        lq_recipe_text_begin(&text, "model", "base");
        lq_recipe_text_string(&text, "source", validation.model);
        lq_recipe_text_end(&text);
        lq_recipe_text_begin(&text, "profile", "mix");
        lq_recipe_text_word(&text, "model", "base");
        lq_recipe_text_string(&text, "strategy", preset == NULL ? NULL : preset->name);
        lq_recipe_text_string(&text, "file", path);
        lq_recipe_text_end(&text);
        struct lq_quick_build build = {.targets = targets,
                                       .target_count = 1,
                                       .hide_summary = true,
                                       .print = print_validation,
                                       .user = &validation};
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

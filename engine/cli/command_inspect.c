#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/inspect_folder.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/inspect.h"
#include "rules/model/hub_cache.h"
#include "rules/report/picture.h"

static enum lq_status describe(struct lq_cli *cli, const char *path, struct lq_error *err)
{
    struct lq_map map;
    struct lq_buffer out;
    lq_buffer_init(&out);
    const char *place = path;
    enum lq_status status = LQ_OK;
    if (lq_text_starts_with(path, "hf:")) {
        status = lq_quick_find_model(cli, path, &place, err);
    } else if (!lq_path_exists(path) && lq_hub_is_name(path)) {
        /* What is not in the hub's cache either is missed as a file. */
        (void)lq_quick_find_model(cli, path, &place, NULL);
    }
    if (status == LQ_OK && lq_path_is_dir(place)) {
        status = lq_inspect_folder_files(cli, path, place, &out, err);
    } else if (status == LQ_OK) {
        status = lq_map_open(&map, place, LQ_EIO, err);
        if (status == LQ_OK) {
            status =
                lq_inspect(map.data, map.size_bytes, path, lq_quick_wants_json(cli), &out, err);
            lq_map_close(&map);
        }
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "the description");
    }
    if (status == LQ_OK) {
        if (out.size_bytes > 0 && out.data[out.size_bytes - 1] != '\n') {
            lq_buffer_append_char(&out, '\n');
        }
        lq_cli_print_value(cli, &out);
    }
    lq_buffer_fini(&out);
    return status;
}

/* The files of a picture, read. */
struct drawing {
    struct lq_arena arena;
    struct lq_imatrix imatrix;
    struct lq_mask mask;
    struct lq_picture_source source;
};

static enum lq_status read_mask(struct drawing *drawing, const struct lq_map *map, const char *path,
                                struct lq_error *err)
{
    if (drawing->source.mask != NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "%s: a picture shows one mask, and there is one already", path);
    }
    drawing->source.mask = &drawing->mask;
    drawing->source.mask_name = lq_path_base(path);
    return lq_mask_parse(map->data, map->size_bytes, path, &drawing->arena, &drawing->mask, err);
}

static enum lq_status read_imatrix(struct drawing *drawing, const struct lq_map *map,
                                   const char *path, struct lq_error *err)
{
    enum lq_imatrix_format format;
    if (drawing->source.imatrix != NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "%s: a picture shows one importance matrix, and there is one already",
                            path);
    }
    drawing->source.imatrix = &drawing->imatrix;
    drawing->source.imatrix_name = lq_path_base(path);
    enum lq_status status = lq_imatrix_parse(map->data, map->size_bytes, path, &drawing->arena,
                                             &drawing->imatrix, &format, err);
    /* Legacy files begin like anything; what is wrong in one would confuse about other files. */
    bool has_magic = map->size_bytes >= 4 &&
                     (memcmp(map->data, "IMAT", 4) == 0 || memcmp(map->data, "GGUF", 4) == 0);
    if (status == LQ_EIMATRIX && !has_magic) {
        return lq_error_set(
            err, status, "%s: no importance matrix and no mask, of which pictures are made", path);
    }
    return status;
}

static enum lq_status read_source(struct drawing *drawing, const char *path, struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EIO, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_mask_is(map.data, map.size_bytes) ? read_mask(drawing, &map, path, err)
                                                  : read_imatrix(drawing, &map, path, err);
    lq_map_close(&map);
    return status;
}

/* As other tools do: blocks where the locale can show them, also through a pipe to a pager. */
static bool wants_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        const char *locale = getenv(names[i]);
        if (locale != NULL && locale[0] != '\0') {
            const char *charset = strchr(locale, '.');
            return charset != NULL && (lq_text_equal_nocase(charset, ".UTF-8") ||
                                       lq_text_equal_nocase(charset, ".utf8"));
        }
    }
    return false;
}

static enum lq_status draw(struct lq_cli *cli, const struct lq_picture *picture,
                           struct lq_error *err)
{
    const char *svg = lq_args_get(&cli->args, "svg");
    enum lq_status status = LQ_OK;
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (svg != NULL) {
        lq_picture_write_svg(picture, false, &out);
        status = out.failed ? lq_error_nomem(err, "a picture")
                            : lq_file_write(svg, out.data, out.size_bytes, err);
        lq_buffer_clear(&out);
    }
    if (status == LQ_OK && lq_args_has(&cli->args, "picture")) {
        struct lq_picture_style style = {.utf8 = wants_utf8(), .color = cli->color_out};
        lq_picture_write_text(picture, style, &out);
    } else if (status == LQ_OK && !cli->quiet) {
        lq_buffer_printf(&out, "%s: written\n", svg);
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "a picture");
    }
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status make_picture(struct lq_cli *cli, struct lq_error *err)
{
    struct drawing drawing = {.source = {.imatrix = NULL}};
    struct lq_picture picture;
    enum lq_status status = LQ_OK;
    if (lq_quick_wants_json(cli)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "a picture has no form in JSON; without --picture and --svg, --format "
                            "json prints the figures");
    }
    lq_arena_init(&drawing.arena);
    for (size_t i = 0; status == LQ_OK && i < cli->args.operand_count; i++) {
        status = read_source(&drawing, cli->args.operands[i], err);
    }
    if (status == LQ_OK) {
        status = lq_picture_make(&drawing.source, &drawing.arena, &picture, err);
    }
    if (status == LQ_OK) {
        status = draw(cli, &picture, err);
    }
    lq_arena_fini(&drawing.arena);
    return status;
}

enum lq_status lq_command_inspect(struct lq_cli *cli, struct lq_error *err)
{
    if (lq_args_has(&cli->args, "picture") || lq_args_has(&cli->args, "svg")) {
        return make_picture(cli, err);
    }
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < cli->args.operand_count; i++) {
        if (i > 0 && !lq_quick_wants_json(cli)) {
            (void)putchar('\n');
        }
        status = describe(cli, cli->args.operands[i], err);
    }
    return status;
}

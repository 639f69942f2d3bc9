#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/cli/commands.h"

static enum lq_status finish_fmt(struct lq_cli *cli, const char *path, const struct lq_buffer *text,
                                 const struct lq_buffer *layout, struct lq_error *err)
{
    bool same = text->size_bytes == layout->size_bytes &&
                (text->size_bytes == 0 || memcmp(text->data, layout->data, text->size_bytes) == 0);
    if (lq_args_has(&cli->args, "check")) {
        return same ? LQ_OK
                    : lq_error_set(err, LQ_EFAIL,
                                   "%s: not in canonical layout; run 'lqbuild fmt --write %s'",
                                   path, path);
    }
    if (!lq_args_has(&cli->args, "write")) {
        lq_cli_print(layout);
        return LQ_OK;
    }
    return same ? LQ_OK : lq_file_write(path, layout->data, layout->size_bytes, err);
}

enum lq_status lq_command_fmt(struct lq_cli *cli, struct lq_error *err)
{
    const char *path = cli->args.operand_count > 0 ? cli->args.operands[0] : cli->recipe_path;
    struct lq_buffer text;
    struct lq_buffer layout;
    lq_buffer_init(&text);
    lq_buffer_init(&layout);
    enum lq_status status = lq_file_read(path, LQ_RECIPE_BYTES_MAX, &text, err);
    if (status == LQ_OK) {
        status = lq_recipe_format(lq_buffer_text(&text), text.size_bytes, path, &layout, err);
    }
    if (status == LQ_OK && layout.failed) {
        status = lq_error_nomem(err, "the formatted recipe");
    }
    if (status == LQ_OK) {
        status = finish_fmt(cli, path, &text, &layout, err);
    }
    lq_buffer_fini(&layout);
    lq_buffer_fini(&text);
    return status;
}

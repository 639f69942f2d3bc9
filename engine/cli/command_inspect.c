#include <string.h>

#include "engine/base/fs.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/inspect.h"

enum lq_status lq_command_inspect(struct lq_cli *cli, struct lq_error *err)
{
    const char *path = cli->args.operands[0];
    struct lq_map map;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_map_open(&map, path, LQ_EIO, err);
    if (status == LQ_OK) {
        status = lq_inspect(map.data, map.size_bytes, path, lq_quick_wants_json(cli), &out, err);
        lq_map_close(&map);
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

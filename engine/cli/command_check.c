#include "engine/base/json.h"
#include "engine/cli/check_rebuild.h"
#include "engine/cli/commands.h"

enum lq_status lq_command_check(struct lq_cli *cli, struct lq_error *err)
{
    if (cli->args.operand_count > 0) {
        cli->recipe_path = cli->args.operands[0];
    }
    if (lq_args_has(&cli->args, "rebuild")) {
        return lq_cli_check_rebuild(cli, lq_args_get(&cli->args, "rebuild"), err);
    }
    struct lq_recipe *recipe = NULL;
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (cli->json) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "event", "checked");
        lq_json_put_string(&writer, "status", "success");
        lq_json_put_string(&writer, "recipe", cli->recipe_path);
        lq_json_put_int(&writer, "artifacts", (int64_t)recipe->artifact_count);
        lq_json_end_object(&writer);
        lq_buffer_append_char(&out, '\n');
    } else if (!cli->quiet) {
        lq_buffer_printf(&out, "%s: %zu artifact%s, ok\n", cli->recipe_path, recipe->artifact_count,
                         recipe->artifact_count == 1 ? "" : "s");
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    lq_recipe_destroy(recipe);
    return LQ_OK;
}

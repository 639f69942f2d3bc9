#include <string.h>

#include "engine/base/json.h"
#include "engine/cli/commands.h"
#include "engine/cli/remote_session.h"

static void print_key(struct lq_cli *cli, struct lq_buffer *out, const struct lq_public_key *key,
                      bool secret)
{
    char text[LQ_KEY_TEXT_BYTES];
    lq_public_key_text(key, text);
    if (!cli->json) {
        lq_buffer_printf(out, "%s%s\n", text, secret ? "  (signs)" : "");
        return;
    }
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "name", key->name);
    lq_json_put_string(&writer, "public_key", text);
    lq_json_put_bool(&writer, "secret", secret);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

static void show_key(struct lq_cli *cli, const struct lq_public_key *key, bool secret)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    print_key(cli, &out, key, secret);
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

enum lq_status lq_command_key_generate(struct lq_cli *cli, struct lq_error *err)
{
    const char *dir = NULL;
    struct lq_secret_key key;
    enum lq_status status = lq_cli_key_dir(cli, &dir, err);
    if (status == LQ_OK) {
        status = lq_key_create(dir, cli->args.operands[0], &key, err);
    }
    if (status == LQ_OK) {
        show_key(cli, &key.public_key, true);
    }
    return status;
}

enum lq_status lq_command_key_trust(struct lq_cli *cli, struct lq_error *err)
{
    const char *dir = NULL;
    struct lq_public_key key;
    enum lq_status status = lq_public_key_parse(cli->args.operands[0], &key, err);
    if (status == LQ_OK) {
        status = lq_cli_key_dir(cli, &dir, err);
    }
    if (status == LQ_OK) {
        status = lq_key_trust(dir, &key, err);
    }
    if (status == LQ_OK) {
        show_key(cli, &key, lq_key_has_secret(dir, key.name));
    }
    return status;
}

enum lq_status lq_command_key_list(struct lq_cli *cli, struct lq_error *err)
{
    const char *dir = NULL;
    struct lq_keyring ring;
    enum lq_status status = lq_cli_key_dir(cli, &dir, err);
    if (status == LQ_OK) {
        status = lq_cli_keyring(cli, &ring, err);
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    for (size_t i = 0; status == LQ_OK && i < ring.count; i++) {
        print_key(cli, &out, &ring.keys[i], lq_key_has_secret(dir, ring.keys[i].name));
    }
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    return status;
}

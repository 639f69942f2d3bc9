/* `lqbuild verify FILE`: is this file what its statement says, and do the keys inside agree? */
#include <string.h>

#include "engine/base/digest.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/gguf.h"
#include "rules/format/statement.h"
#include "rules/quant/provenance.h"

struct check {
    const char *file;
    const char *statement_path;
    struct lq_statement statement;
    struct lq_gguf gguf;
    struct lq_digest digest;
    struct lq_arena arena;
};

static enum lq_status read_statement(struct check *check, struct lq_error *err)
{
    if (!lq_path_exists(check->statement_path)) {
        return lq_error_set(err, LQ_EIO,
                            "%s: no such statement; name the one that came with %s with "
                            "--statement FILE",
                            check->statement_path, check->file);
    }
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, check->statement_path, LQ_EIO, err);
    if (status == LQ_OK) {
        status = lq_statement_parse(map.data, map.size_bytes, check->statement_path, &check->arena,
                                    &check->statement, err);
        lq_map_close(&map);
    }
    return status;
}

static enum lq_status check_digest(const struct check *check, struct lq_error *err)
{
    char is[LQ_DIGEST_HEX_BYTES];
    char expected[LQ_DIGEST_HEX_BYTES];
    return lq_digest_equal(&check->digest, &check->statement.digest)
               ? LQ_OK
               : lq_error_set(err, LQ_EFORMAT,
                              "%s: its SHA-256 is %s, but %s is about a file with %s: it was "
                              "changed, or the statement belongs to another",
                              check->file, lq_digest_to_hex(&check->digest, is),
                              check->statement_path,
                              lq_digest_to_hex(&check->statement.digest, expected));
}

static enum lq_status check_file(struct check *check, struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, check->file, LQ_EIO, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_hasher *hasher = lq_hasher_create();
    if (hasher == NULL) {
        lq_map_close(&map);
        return lq_error_nomem(err, check->file);
    }
    lq_hasher_update(hasher, map.data, (size_t)map.size_bytes);
    lq_hasher_finish(hasher, &check->digest);
    lq_hasher_destroy(hasher);
    status = lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, check->file, LQ_EFORMAT,
                           &check->arena, &check->gguf, NULL, err);
    if (status == LQ_OK) {
        status = check_digest(check, err);
    }
    if (status == LQ_OK) {
        status = lq_provenance_check(&check->gguf, check->file, &check->statement,
                                     check->statement_path, err);
    }
    lq_map_close(&map);
    return status;
}

static void print_human(const struct check *check, struct lq_buffer *out)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_buffer_printf(out, "%s: ok, made by lqbuild %s\n  %-18s %s\n", check->file,
                     check->statement.version, "sha256", lq_digest_to_hex(&check->digest, hex));
    for (size_t i = 0; i < check->statement.source_count; i++) {
        const struct lq_statement_source *source = &check->statement.sources[i];
        lq_buffer_printf(out, "  %-18s %s\n", source->name, lq_digest_to_hex(&source->digest, hex));
    }
    for (size_t i = 0; i < check->statement.parameter_count; i++) {
        lq_buffer_printf(out, "  %-18s %s\n", check->statement.parameters[i].name,
                         check->statement.parameters[i].value);
    }
}

static void print_json(const struct check *check, struct lq_buffer *out)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "path", check->file);
    lq_json_put_string(&writer, "statement", check->statement_path);
    lq_json_put_string(&writer, "sha256", lq_digest_to_hex(&check->digest, hex));
    lq_json_put_string(&writer, "version", check->statement.version);
    lq_json_key(&writer, "sources");
    lq_json_begin_object(&writer);
    for (size_t i = 0; i < check->statement.source_count; i++) {
        lq_json_put_string(&writer, check->statement.sources[i].name,
                           lq_digest_to_hex(&check->statement.sources[i].digest, hex));
    }
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

enum lq_status lq_command_verify(struct lq_cli *cli, struct lq_error *err)
{
    const char *given = lq_args_get(&cli->args, "statement");
    struct check check = {.file = cli->args.operands[0]};
    lq_arena_init(&check.arena);
    check.statement_path =
        given != NULL ? given : lq_arena_printf(&check.arena, "%s.intoto.json", check.file);
    enum lq_status status = check.statement_path == NULL ? lq_error_nomem(err, check.file) : LQ_OK;
    if (status == LQ_OK && !lq_path_exists(check.file)) {
        status = lq_error_set(err, LQ_EIO, "%s: no such file", check.file);
    }
    if (status == LQ_OK) {
        status = read_statement(&check, err);
    }
    if (status == LQ_OK) {
        status = check_file(&check, err);
    }
    if (status == LQ_OK) {
        struct lq_buffer out;
        lq_buffer_init(&out);
        if (lq_quick_wants_json(cli)) {
            print_json(&check, &out);
            lq_cli_print_value(cli, &out);
        } else {
            print_human(&check, &out);
            lq_cli_print(&out);
        }
        lq_buffer_fini(&out);
    }
    lq_arena_fini(&check.arena);
    return status;
}

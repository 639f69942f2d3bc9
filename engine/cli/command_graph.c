#include <string.h>

#include "engine/base/json.h"
#include "engine/cli/commands.h"

typedef void (*edge_fn)(void *user, const struct lq_artifact *needed);

static void visit_refs(const struct lq_value *value, edge_fn visit, void *user)
{
    if (value->type == LQ_VALUE_REF) {
        visit(user, value->ref);
    }
    for (size_t i = 0; value->type == LQ_VALUE_LIST && i < value->count; i++) {
        visit_refs(&value->items[i], visit, user);
    }
}

static void visit_edges(const struct lq_artifact *artifact, edge_fn visit, void *user)
{
    for (size_t i = 0; i < artifact->rule->attr_count; i++) {
        visit_refs(&artifact->values[i], visit, user);
    }
}

/* Artifacts still to be looked at; each enters once, so the list is as long as the recipe. */
struct reach {
    bool *wanted;
    const struct lq_artifact **list;
    size_t count;
};

static void want(void *user, const struct lq_artifact *artifact)
{
    struct reach *reach = user;
    if (!reach->wanted[artifact->index]) {
        reach->wanted[artifact->index] = true;
        reach->list[reach->count++] = artifact;
    }
}

static enum lq_status find_wanted(struct lq_cli *cli, const struct lq_recipe *recipe, bool **wanted,
                                  struct lq_error *err)
{
    struct reach reach = {.count = 0};
    reach.wanted = lq_arena_get_array(&cli->arena, recipe->artifact_count + 1, sizeof(bool));
    reach.list = lq_arena_get_array(&cli->arena, recipe->artifact_count + 1, sizeof *reach.list);
    if (reach.wanted == NULL || reach.list == NULL) {
        return lq_error_nomem(err, "the graph");
    }
    for (size_t i = 0; i < cli->args.operand_count; i++) {
        const struct lq_artifact *artifact = lq_recipe_find(recipe, cli->args.operands[i]);
        if (artifact == NULL) {
            const char *nearest = lq_recipe_suggest(recipe, cli->args.operands[i]);
            return lq_error_set(err, LQ_EUSAGE, "unknown target '%s'%s%s%s", cli->args.operands[i],
                                nearest == NULL ? "; 'lqbuild graph' lists the artifacts"
                                                : "; did you mean '",
                                nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
        }
        want(&reach, artifact);
    }
    for (size_t i = 0; cli->args.operand_count == 0 && i < recipe->artifact_count; i++) {
        want(&reach, &recipe->artifacts[i]);
    }
    for (size_t done = 0; done < reach.count; done++) {
        visit_edges(reach.list[done], want, &reach);
    }
    *wanted = reach.wanted;
    return LQ_OK;
}

static void append_dot_string(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            lq_buffer_append_char(out, '\\');
        }
        lq_buffer_append_char(out, *text);
    }
}

struct dot_edge {
    struct lq_buffer *out;
    const struct lq_artifact *artifact;
};

static void print_dot_edge(void *user, const struct lq_artifact *needed)
{
    struct dot_edge *edge = user;
    lq_buffer_append_string(edge->out, "  \"");
    append_dot_string(edge->out, needed->name);
    lq_buffer_append_string(edge->out, "\" -> \"");
    append_dot_string(edge->out, edge->artifact->name);
    lq_buffer_append_string(edge->out, "\";\n");
}

static void print_dot(const struct lq_recipe *recipe, const bool *wanted, struct lq_buffer *out)
{
    lq_buffer_append_string(out, "digraph recipe {\n  rankdir=LR;\n  node [shape=box];\n");
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        const struct lq_artifact *artifact = &recipe->artifacts[i];
        if (!wanted[i]) {
            continue;
        }
        lq_buffer_append_string(out, "  \"");
        append_dot_string(out, artifact->name);
        lq_buffer_append_string(out, "\" [label=\"");
        append_dot_string(out, artifact->name);
        lq_buffer_printf(out, "\\n%s\"];\n", artifact->rule->kind);
    }
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        struct dot_edge edge = {.out = out, .artifact = &recipe->artifacts[i]};
        if (wanted[i]) {
            visit_edges(edge.artifact, print_dot_edge, &edge);
        }
    }
    lq_buffer_append_string(out, "}\n");
}

static void write_need(void *user, const struct lq_artifact *needed)
{
    lq_json_string(user, needed->name);
}

static void print_json(const struct lq_recipe *recipe, const bool *wanted, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "artifacts");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        const struct lq_artifact *artifact = &recipe->artifacts[i];
        if (!wanted[i]) {
            continue;
        }
        const struct lq_value *path = lq_artifact_value(artifact, "path");
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "name", artifact->name);
        lq_json_put_string(&writer, "kind", artifact->rule->kind);
        if (path != NULL && path->string != NULL) {
            lq_json_put_string(&writer, "path", path->string);
        }
        lq_json_key(&writer, "needs");
        lq_json_begin_array(&writer);
        visit_edges(artifact, write_need, &writer);
        lq_json_end_array(&writer);
        lq_json_end_object(&writer);
    }
    lq_json_end_array(&writer);
    lq_json_key(&writer, "default");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < recipe->default_count; i++) {
        lq_json_string(&writer, recipe->defaults[i]->name);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    if (out->size_bytes > 0 && out->data[out->size_bytes - 1] != '\n') {
        lq_buffer_append_char(out, '\n');
    }
}

enum lq_status lq_command_graph(struct lq_cli *cli, struct lq_error *err)
{
    const char *format = lq_args_get(&cli->args, "format");
    bool json = cli->json || (format != NULL && strcmp(format, "json") == 0);
    struct lq_recipe *recipe = NULL;
    bool *wanted = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status == LQ_OK) {
        status = find_wanted(cli, recipe, &wanted, err);
    }
    if (status == LQ_OK) {
        (json ? print_json : print_dot)(recipe, wanted, &out);
        status = out.failed ? lq_error_nomem(err, "the graph") : LQ_OK;
    }
    if (status == LQ_OK) {
        lq_cli_print_value(cli, &out);
    }
    lq_buffer_fini(&out);
    lq_recipe_destroy(recipe);
    return status;
}

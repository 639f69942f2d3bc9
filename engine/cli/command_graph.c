#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/cli/commands.h"
#include "engine/cli/graph.h"

static void visit_refs(const struct lq_value *value, lq_graph_edge_fn visit, void *user)
{
    if (value->type == LQ_VALUE_REF) {
        visit(user, value->ref);
    }
    for (size_t i = 0; value->type == LQ_VALUE_LIST && i < value->count; i++) {
        visit_refs(&value->items[i], visit, user);
    }
}

void lq_graph_visit_needs(const struct lq_artifact *artifact, lq_graph_edge_fn visit, void *user)
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

enum lq_status lq_graph_find_target(const struct lq_recipe *recipe, const char *name,
                                    const struct lq_artifact **out, struct lq_error *err)
{
    *out = lq_recipe_find(recipe, name);
    if (*out != NULL) {
        return LQ_OK;
    }
    const char *nearest = lq_recipe_suggest(recipe, name);
    return lq_error_set(err, LQ_EUSAGE, "unknown target '%s'%s%s%s", name,
                        nearest == NULL ? "; 'lqbuild graph' lists the artifacts"
                                        : "; did you mean '",
                        nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
}

enum lq_status lq_graph_find_wanted(struct lq_cli *cli, const struct lq_recipe *recipe,
                                    size_t first, bool **wanted, struct lq_error *err)
{
    struct reach reach = {.count = 0};
    reach.wanted = lq_arena_get_array(&cli->arena, recipe->artifact_count + 1, sizeof(bool));
    reach.list = lq_arena_get_array(&cli->arena, recipe->artifact_count + 1, sizeof *reach.list);
    if (reach.wanted == NULL || reach.list == NULL) {
        return lq_error_nomem(err, "the graph");
    }
    for (size_t i = first; i < cli->args.operand_count; i++) {
        const struct lq_artifact *artifact = NULL;
        enum lq_status status = lq_graph_find_target(recipe, cli->args.operands[i], &artifact, err);
        if (status != LQ_OK) {
            return status;
        }
        want(&reach, artifact);
    }
    for (size_t i = 0; cli->args.operand_count <= first && i < recipe->artifact_count; i++) {
        want(&reach, &recipe->artifacts[i]);
    }
    for (size_t done = 0; done < reach.count; done++) {
        lq_graph_visit_needs(reach.list[done], want, &reach);
    }
    *wanted = reach.wanted;
    return LQ_OK;
}

static lq_graph_draw_fn draw_of(const struct lq_cli *cli)
{
    static const struct {
        const char *name;
        lq_graph_draw_fn draw;
    } formats[] = {{"dot", lq_graph_draw_dot},
                   {"mermaid", lq_graph_draw_mermaid},
                   {"json", lq_graph_draw_json},
                   {"html", lq_graph_draw_html}};
    const char *format = cli->json ? "json" : lq_args_get(&cli->args, "format");
    for (size_t i = 0; format != NULL && i < LQ_COUNT_OF(formats); i++) {
        if (strcmp(format, formats[i].name) == 0) {
            return formats[i].draw;
        }
    }
    return lq_graph_draw_dot;
}

enum lq_status lq_command_graph(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    bool *wanted = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status == LQ_OK) {
        status = lq_graph_find_wanted(cli, recipe, 0, &wanted, err);
    }
    if (status == LQ_OK) {
        status = draw_of(cli)(recipe, wanted, &out, err);
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "the graph");
    }
    if (status == LQ_OK) {
        lq_cli_print_value(cli, &out);
    }
    lq_buffer_fini(&out);
    lq_recipe_destroy(recipe);
    return status;
}

/* ------------------------------------------------------------------ query ---- */

struct query {
    struct lq_cli *cli;
    const struct lq_recipe *recipe;
    const struct lq_artifact *target;
    bool *found;
    bool direct;
    const struct lq_artifact *at; /* whose needs are being looked at */
};

static void mark_need(void *user, const struct lq_artifact *needed)
{
    struct query *query = user;
    query->found[needed->index] = true;
}

static void mark_dependant(void *user, const struct lq_artifact *needed)
{
    struct query *query = user;
    bool reached = needed == query->target || (!query->direct && query->found[needed->index]);
    query->found[query->at->index] = query->found[query->at->index] || reached;
}

/* Rounds until nothing is added: as many as the graph is deep. */
static void find_dependants(struct query *query)
{
    size_t before = 0;
    size_t after = 0;
    do {
        before = after;
        after = 0;
        for (size_t i = 0; i < query->recipe->artifact_count; i++) {
            query->at = &query->recipe->artifacts[i];
            lq_graph_visit_needs(query->at, mark_dependant, query);
            after += query->found[i] ? 1 : 0;
        }
    } while (after != before && !query->direct);
}

static void find_needs(struct query *query)
{
    lq_graph_visit_needs(query->target, mark_need, query);
    for (bool more = !query->direct; more;) {
        size_t before = 0;
        size_t after = 0;
        for (size_t i = 0; i < query->recipe->artifact_count; i++) {
            before += query->found[i] ? 1 : 0;
        }
        for (size_t i = query->recipe->artifact_count; i-- > 0;) {
            if (query->found[i]) {
                lq_graph_visit_needs(&query->recipe->artifacts[i], mark_need, query);
            }
        }
        for (size_t i = 0; i < query->recipe->artifact_count; i++) {
            after += query->found[i] ? 1 : 0;
        }
        more = after != before;
    }
}

static void print_found(const struct query *query)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    for (size_t i = 0; i < query->recipe->artifact_count; i++) {
        const struct lq_artifact *artifact = &query->recipe->artifacts[i];
        if (!query->found[i]) {
            continue;
        }
        if (query->cli->json) {
            struct lq_json_writer writer;
            lq_json_writer_init(&writer, &out, false);
            lq_json_begin_object(&writer);
            lq_json_put_string(&writer, "name", artifact->name);
            lq_json_put_string(&writer, "kind", artifact->rule->kind);
            lq_json_end_object(&writer);
            lq_buffer_append_char(&out, '\n');
        } else {
            lq_buffer_printf(&out, "%s %s\n", artifact->rule->kind, artifact->name);
        }
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

enum lq_status lq_command_query(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    struct query query = {.cli = cli, .direct = lq_args_has(&cli->args, "direct")};
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status == LQ_OK) {
        query.recipe = recipe;
        status = lq_graph_find_target(recipe, cli->args.operands[0], &query.target, err);
    }
    if (status == LQ_OK) {
        query.found = lq_arena_get_array(&cli->arena, recipe->artifact_count + 1, sizeof(bool));
        status = query.found == NULL ? lq_error_nomem(err, "the graph") : LQ_OK;
    }
    if (status == LQ_OK) {
        (strcmp(cli->command->name, "dependants") == 0 ? find_dependants : find_needs)(&query);
        print_found(&query);
    }
    lq_recipe_destroy(recipe);
    return status;
}

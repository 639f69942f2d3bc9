#include <string.h>

#include "engine/base/json.h"
#include "engine/cli/graph.h"

/* -------------------------------------------------------------------- dot ---- */

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

enum lq_status lq_graph_draw_dot(const struct lq_recipe *recipe, const bool *wanted,
                                 struct lq_buffer *out, struct lq_error *err)
{
    (void)err;
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
            lq_graph_visit_needs(edge.artifact, print_dot_edge, &edge);
        }
    }
    lq_buffer_append_string(out, "}\n");
    return LQ_OK;
}

/* ---------------------------------------------------------------- mermaid ---- */

/* Names are quoted; nodes are called by number, because mermaid takes few characters unquoted. */
static void append_mermaid_string(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (strchr("\"<>&#", *text) != NULL) {
            lq_buffer_printf(out, "#%d;", *text);
        } else {
            lq_buffer_append_char(out, *text);
        }
    }
}

static void print_mermaid_edge(void *user, const struct lq_artifact *needed)
{
    struct dot_edge *edge = user;
    lq_buffer_printf(edge->out, "  n%zu --> n%zu\n", needed->index, edge->artifact->index);
}

enum lq_status lq_graph_draw_mermaid(const struct lq_recipe *recipe, const bool *wanted,
                                     struct lq_buffer *out, struct lq_error *err)
{
    (void)err;
    lq_buffer_append_string(out, "flowchart LR\n");
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        if (wanted[i]) {
            lq_buffer_printf(out, "  n%zu[\"", i);
            append_mermaid_string(out, recipe->artifacts[i].name);
            lq_buffer_printf(out, "<br/>%s\"]\n", recipe->artifacts[i].rule->kind);
        }
    }
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        struct dot_edge edge = {.out = out, .artifact = &recipe->artifacts[i]};
        if (wanted[i]) {
            lq_graph_visit_needs(edge.artifact, print_mermaid_edge, &edge);
        }
    }
    return LQ_OK;
}

/* ------------------------------------------------------------------- json ---- */

static void write_need(void *user, const struct lq_artifact *needed)
{
    lq_json_string(user, needed->name);
}

enum lq_status lq_graph_draw_json(const struct lq_recipe *recipe, const bool *wanted,
                                  struct lq_buffer *out, struct lq_error *err)
{
    (void)err;
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
        lq_graph_visit_needs(artifact, write_need, &writer);
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
    return LQ_OK;
}

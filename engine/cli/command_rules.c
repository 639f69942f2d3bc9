#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"

enum { KINDS_MAX = 256, NAME_COLUMN = 20, TYPE_COLUMN = 26 };

static const char *type_name(enum lq_attr_type type)
{
    switch (type) {
    case LQ_ATTR_STRING:
        return "string";
    case LQ_ATTR_PATH:
        return "path";
    case LQ_ATTR_OUT_PATH:
        return "output path";
    case LQ_ATTR_INT:
        return "integer";
    case LQ_ATTR_NUMBER:
        return "number";
    case LQ_ATTR_BOOL:
        return "true or false";
    case LQ_ATTR_ENUM:
        return "one of";
    case LQ_ATTR_REF:
        return "reference to";
    case LQ_ATTR_REF_LIST:
        return "references to";
    case LQ_ATTR_STRING_LIST:
        return "list of strings";
    case LQ_ATTR_OUT_PATH_LIST:
        return "output paths";
    case LQ_ATTR_STRING_MAP:
        return "map of strings";
    }
    return "unknown";
}

/* The same for programs. */
static const char *type_id(enum lq_attr_type type)
{
    switch (type) {
    case LQ_ATTR_STRING:
        return "string";
    case LQ_ATTR_PATH:
        return "path";
    case LQ_ATTR_OUT_PATH:
        return "output-path";
    case LQ_ATTR_INT:
        return "integer";
    case LQ_ATTR_NUMBER:
        return "number";
    case LQ_ATTR_BOOL:
        return "boolean";
    case LQ_ATTR_ENUM:
        return "enum";
    case LQ_ATTR_REF:
        return "reference";
    case LQ_ATTR_REF_LIST:
        return "reference-list";
    case LQ_ATTR_STRING_LIST:
        return "string-list";
    case LQ_ATTR_OUT_PATH_LIST:
        return "output-path-list";
    case LQ_ATTR_STRING_MAP:
        return "string-map";
    }
    return "unknown";
}

static bool has_range(const struct lq_attr_spec *attr)
{
    return (attr->type == LQ_ATTR_INT || attr->type == LQ_ATTR_NUMBER) && attr->min < attr->max;
}

static void print_attr(struct lq_buffer *out, const struct lq_attr_spec *attr)
{
    struct lq_buffer type;
    lq_buffer_init(&type);
    lq_buffer_append_string(&type, type_name(attr->type));
    if (attr->choices != NULL) {
        lq_buffer_append_char(&type, ' ');
        for (const char *at = attr->choices; *at != '\0'; at++) {
            lq_buffer_append_char(&type, *at == ' ' ? '|' : *at);
        }
    }
    if (has_range(attr)) {
        lq_buffer_append_string(&type, " from ");
        lq_json_format_number(&type, attr->min);
        lq_buffer_append_string(&type, " to ");
        lq_json_format_number(&type, attr->max);
    }
    lq_buffer_printf(out, "  %-*s %-*s %s", NAME_COLUMN, attr->name, TYPE_COLUMN,
                     lq_buffer_text(&type), attr->help);
    if (attr->required) {
        lq_buffer_append_string(out, " (required)");
    } else if (attr->default_text != NULL) {
        lq_buffer_printf(out, " (default %s)", attr->default_text);
    }
    lq_buffer_append_char(out, '\n');
    lq_buffer_fini(&type);
}

static void print_rule(struct lq_buffer *out, const struct lq_rule *rule)
{
    lq_buffer_printf(out, "%s: %s\n\nattributes:\n", rule->kind, rule->help);
    for (size_t i = 0; i < rule->attr_count; i++) {
        print_attr(out, &rule->attrs[i]);
    }
    if (rule->outputs != NULL && rule->outputs[0] != '\0') {
        lq_buffer_printf(out, "\nother outputs: %s\n", rule->outputs);
    }
}

static void write_choices(struct lq_json_writer *writer, const char *choices)
{
    lq_json_key(writer, "choices");
    lq_json_begin_array(writer);
    for (const char *at = choices; *at != '\0';) {
        size_t span = strcspn(at, " ");
        lq_json_string_sized(writer, at, span);
        at += span;
        at += strspn(at, " ");
    }
    lq_json_end_array(writer);
}

static void write_rule(struct lq_json_writer *writer, const struct lq_rule *rule)
{
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "kind", rule->kind);
    lq_json_put_int(writer, "version", rule->version);
    lq_json_put_string(writer, "help", rule->help);
    lq_json_key(writer, "attributes");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < rule->attr_count; i++) {
        const struct lq_attr_spec *attr = &rule->attrs[i];
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "name", attr->name);
        lq_json_put_string(writer, "type", type_id(attr->type));
        lq_json_put_bool(writer, "required", attr->required);
        if (attr->default_text != NULL) {
            lq_json_put_string(writer, "default", attr->default_text);
        }
        if (attr->choices != NULL) {
            write_choices(writer, attr->choices);
        }
        if (has_range(attr)) {
            lq_json_put_number(writer, "min", attr->min);
            lq_json_put_number(writer, "max", attr->max);
        }
        lq_json_put_string(writer, "help", attr->help);
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
    if (rule->outputs != NULL) {
        lq_json_put_string(writer, "outputs", rule->outputs);
    }
    lq_json_end_object(writer);
}

static enum lq_status refuse_kind(const struct lq_registry *registry, const char *kind,
                                  struct lq_error *err)
{
    const char *kinds[KINDS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < registry->rule_count && count < KINDS_MAX; i++) {
        kinds[count++] = registry->rules[i]->kind;
    }
    const char *nearest = lq_text_nearest(kind, kinds, count);
    return nearest == NULL
               ? lq_error_set(err, LQ_EUSAGE, "unknown kind '%s'; 'lqbuild rules' lists them", kind)
               : lq_error_set(err, LQ_EUSAGE, "unknown kind '%s'; did you mean '%s'?", kind,
                              nearest);
}

static void print_rules(const struct lq_cli *cli, const struct lq_rule *one, struct lq_buffer *out)
{
    const struct lq_registry *registry = cli->program->registry;
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    for (size_t i = 0; i < registry->rule_count; i++) {
        const struct lq_rule *rule = registry->rules[i];
        if (one != NULL && rule != one) {
            continue;
        }
        if (cli->json) {
            write_rule(&writer, rule);
            lq_buffer_append_char(out, '\n');
            lq_json_writer_init(&writer, out, false);
        } else if (one != NULL) {
            print_rule(out, rule);
        } else {
            lq_buffer_printf(out, "%-*s %s\n", NAME_COLUMN - 6, rule->kind, rule->help);
        }
    }
}

enum lq_status lq_command_rules(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_rule *one = NULL;
    if (cli->args.operand_count > 0) {
        const char *kind = cli->args.operands[0];
        one = lq_registry_find(cli->program->registry, kind);
        if (one == NULL) {
            return refuse_kind(cli->program->registry, kind, err);
        }
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    print_rules(cli, one, &out);
    enum lq_status status = out.failed ? lq_error_nomem(err, "the list of rules") : LQ_OK;
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return status;
}

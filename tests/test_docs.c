/* The tables in docs/ say what the schemas and the command line say: each stands between two marks,
 * and is made again here from the program's own tables. When one of these tests fails, run
 * LQ_UPDATE_DOCS=1 build/tests/test_docs and read the difference. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/cli/command.h"
#include "engine/cli/manual.h"
#include "rules/registry.h"

#define DOCS LQ_SOURCE_DIR "/docs/"

static struct lq_buffer document;
static struct lq_error err;

static void read_document(const char *path)
{
    lq_buffer_init(&document);
    cr_assert_eq(lq_file_read(path, 1 << 22, &document, &err), LQ_OK, "%s", err.message);
}

/* The text between the marks "<!-- begin NAME -->" and "<!-- end NAME -->" must be `wanted`. */
static void expect_block(const char *path, const char *name, const struct lq_buffer *wanted)
{
    char begin[128];
    char end[128];
    struct lq_buffer out;
    snprintf(begin, sizeof begin, "<!-- begin %s -->\n", name);
    snprintf(end, sizeof end, "<!-- end %s -->\n", name);
    read_document(path);
    const char *text = lq_buffer_text(&document);
    const char *first = strstr(text, begin);
    const char *last = first == NULL ? NULL : strstr(first, end);
    cr_assert(first != NULL && last != NULL, "%s lacks the lines\n%s%s", path, begin, end);
    first += strlen(begin);
    size_t length = (size_t)(last - first);
    bool is_same = !wanted->failed && length == wanted->size_bytes &&
                   memcmp(first, lq_buffer_text(wanted), length) == 0;
    if (!is_same && getenv("LQ_UPDATE_DOCS") != NULL) {
        lq_buffer_init(&out);
        lq_buffer_append(&out, text, (size_t)(first - text));
        lq_buffer_append(&out, wanted->data, wanted->size_bytes);
        lq_buffer_append_string(&out, last);
        cr_assert_eq(lq_file_write(path, out.data, out.size_bytes, &err), LQ_OK, "%s", err.message);
        lq_buffer_fini(&out);
        is_same = true;
    }
    cr_expect(is_same,
              "%s is not what the program says about %s; run LQ_UPDATE_DOCS=1 "
              "build/tests/test_docs. Expected:\n%s",
              path, name, lq_buffer_text(wanted));
    lq_buffer_fini(&document);
}

/* A bar would end the cell. */
static void put_cell(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        lq_buffer_append_string(out, *text == '|' ? "\\" : "");
        lq_buffer_append_char(out, *text);
    }
}

/* "a b" as `"a"`, `"b"` or as a, b. */
static void put_words(struct lq_buffer *out, const char *words, const char *quote)
{
    lq_buffer_append_string(out, quote);
    for (; *words != '\0'; words++) {
        if (*words == ' ') {
            lq_buffer_printf(out, "%s, %s", quote, quote);
        } else {
            lq_buffer_append_char(out, *words);
        }
    }
    lq_buffer_append_string(out, quote);
}

/* ---- attributes ---- */

static const char *type_words(enum lq_attr_type type)
{
    switch (type) {
    case LQ_ATTR_STRING:
        return "string";
    case LQ_ATTR_PATH:
        return "path";
    case LQ_ATTR_OUT_PATH:
        return "output path";
    case LQ_ATTR_INT:
        return "int";
    case LQ_ATTR_NUMBER:
        return "number";
    case LQ_ATTR_BOOL:
        return "bool";
    case LQ_ATTR_ENUM:
        return "choice of ";
    case LQ_ATTR_REF:
        return "reference to ";
    case LQ_ATTR_REF_LIST:
        return "references to ";
    case LQ_ATTR_STRING_LIST:
        return "strings";
    case LQ_ATTR_OUT_PATH_LIST:
        return "output paths";
    case LQ_ATTR_STRING_MAP:
        return "map";
    }
    return "?";
}

static void put_type(struct lq_buffer *out, const struct lq_attr_spec *attr)
{
    bool is_number = attr->type == LQ_ATTR_INT || attr->type == LQ_ATTR_NUMBER;
    lq_buffer_append_string(out, type_words(attr->type));
    if (attr->choices != NULL) {
        put_words(out, attr->choices, attr->type == LQ_ATTR_ENUM ? "`" : "");
    }
    if (is_number && attr->min < attr->max) {
        lq_buffer_append_string(out, ", ");
        lq_json_format_number(out, attr->min);
        lq_buffer_append_string(out, " to ");
        lq_json_format_number(out, attr->max);
    }
}

static void put_rule(struct lq_buffer *out, const struct lq_rule *rule)
{
    lq_buffer_append_string(out, "\n| attribute | type | default | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < rule->attr_count; i++) {
        const struct lq_attr_spec *attr = &rule->attrs[i];
        lq_buffer_printf(out, "| `%s` | ", attr->name);
        put_type(out, attr);
        lq_buffer_append_string(out, " | ");
        if (attr->required) {
            lq_buffer_append_string(out, "required");
        } else if (attr->default_text != NULL) {
            lq_buffer_printf(out, "`%s`", attr->default_text);
        }
        lq_buffer_append_string(out, " | ");
        put_cell(out, attr->help);
        lq_buffer_append_string(out, " |\n");
    }
    if (rule->outputs != NULL && rule->outputs[0] != '\0') {
        lq_buffer_printf(out, "\nOther outputs: %s.\n", rule->outputs);
    }
    lq_buffer_append_char(out, '\n');
}

Test(docs, the_recipe_language_has_every_attribute_of_every_kind)
{
    const struct lq_registry *registry = lq_rules_registry();
    cr_assert_gt(registry->rule_count, 9);
    for (size_t i = 0; i < registry->rule_count; i++) {
        struct lq_buffer wanted;
        lq_buffer_init(&wanted);
        put_rule(&wanted, registry->rules[i]);
        expect_block(DOCS "recipe-language.md", registry->rules[i]->kind, &wanted);
        lq_buffer_fini(&wanted);
    }
}

/* ---- options ---- */

static void put_options(struct lq_buffer *out, const struct lq_option *options, size_t count)
{
    if (count == 0) {
        return;
    }
    lq_buffer_append_string(out, "| option | meaning |\n|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        const struct lq_option *option = &options[i];
        lq_buffer_append_string(out, "| ");
        if (option->letter != 0) {
            lq_buffer_printf(out, "`-%c`, ", option->letter);
        }
        lq_buffer_printf(out, "`--%s", option->name);
        if (option->value != NULL) {
            lq_buffer_append_string(out, option->number_optional ? "[=" : " ");
            put_cell(out, option->value);
            lq_buffer_append_string(out, option->number_optional ? "]" : "");
        }
        lq_buffer_append_string(out, "` | ");
        put_cell(out, option->help);
        if (option->choices != NULL) {
            lq_buffer_append_string(out, ": ");
            put_words(out, option->choices, "`");
        }
        lq_buffer_append_string(out, " |\n");
    }
    lq_buffer_append_char(out, '\n');
}

static void put_command(struct lq_buffer *out, const struct lq_command *parent,
                        const struct lq_command *command)
{
    for (size_t i = 0; i < command->child_count; i++) {
        put_command(out, command, &command->children[i]);
    }
    if (command->child_count > 0) {
        return;
    }
    bool has_operands = command->operands != NULL && command->operands[0] != '\0';
    lq_buffer_printf(out, "### lqbuild %s%s%s%s%s\n\n", parent == NULL ? "" : parent->name,
                     parent == NULL ? "" : " ", command->name, has_operands ? " " : "",
                     has_operands ? command->operands : "");
    lq_buffer_printf(out, "%s.\n", command->help);
    if (command->details != NULL) {
        lq_buffer_printf(out, "\n%s\n", command->details);
    }
    lq_buffer_append_char(out, '\n');
    put_options(out, command->options, command->option_count);
}

Test(docs, the_command_line_has_every_option_of_every_command)
{
    struct lq_buffer wanted;
    lq_buffer_init(&wanted);
    lq_buffer_append_char(&wanted, '\n');
    put_options(&wanted, lq_common_options, lq_common_option_count);
    expect_block(DOCS "command-line.md", "common options", &wanted);
    lq_buffer_clear(&wanted);
    lq_buffer_append_char(&wanted, '\n');
    for (size_t i = 0; i < lq_command_count; i++) {
        put_command(&wanted, NULL, &lq_commands[i]);
    }
    expect_block(DOCS "command-line.md", "commands", &wanted);
    lq_buffer_fini(&wanted);
}

static void expect_in_manual(const char *manual, const struct lq_option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char words[128] = "\\-\\-";
        size_t length = strlen(words);
        for (const char *c = options[i].name; *c != '\0'; c++) {
            length += (size_t)snprintf(words + length, sizeof words - length, "%s%c",
                                       *c == '-' ? "\\" : "", *c);
        }
        cr_expect_not_null(strstr(manual, words), "the manual page lacks %s", words);
    }
}

static void expect_command_in_manual(const char *manual, const struct lq_command *command)
{
    expect_in_manual(manual, command->options, command->option_count);
    for (size_t i = 0; i < command->child_count; i++) {
        expect_command_in_manual(manual, &command->children[i]);
    }
}

Test(docs, the_manual_page_has_every_option)
{
    struct lq_buffer manual;
    lq_buffer_init(&manual);
    lq_cli_manual("1.0", &manual);
    const char *text = lq_buffer_text(&manual);
    expect_in_manual(text, lq_common_options, lq_common_option_count);
    for (size_t i = 0; i < lq_command_count; i++) {
        expect_command_in_manual(text, &lq_commands[i]);
    }
    lq_buffer_fini(&manual);
}

/* Words that look like options of ours are options of ours. */
static bool is_option(const char *name, const struct lq_option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(options[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_known(const char *name, const struct lq_command *commands, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (is_option(name, commands[i].options, commands[i].option_count) ||
            is_known(name, commands[i].children, commands[i].child_count)) {
            return true;
        }
    }
    return is_option(name, lq_common_options, lq_common_option_count);
}

Test(docs, the_command_line_names_no_option_that_is_not_there)
{
    /* Of other programs. */
    static const char *const foreign[] = {"install"};
    read_document(DOCS "command-line.md");
    const char *text = lq_buffer_text(&document);
    for (const char *at = strstr(text, "--"); at != NULL; at = strstr(at, "--")) {
        char name[64];
        at += strspn(at, "-");
        size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz-");
        bool stands_alone = strchr(" `(\n", at[-3]) != NULL;
        if (length == 0 || length >= sizeof name || !stands_alone) {
            continue;
        }
        memcpy(name, at, length);
        name[length] = '\0';
        bool is_foreign = false;
        for (size_t i = 0; i < LQ_COUNT_OF(foreign); i++) {
            is_foreign = is_foreign || strcmp(foreign[i], name) == 0;
        }
        cr_expect(is_foreign || is_known(name, lq_commands, lq_command_count),
                  "docs/command-line.md names --%s, which no command has", name);
    }
    lq_buffer_fini(&document);
}

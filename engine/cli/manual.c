/* The manual page, made from the tables that the program itself is driven by. */
#include "engine/cli/manual.h"

#include <string.h>

/* Text in roff: a leading dot or quote would be a request, a dash must stay a dash. */
static void put_text(struct lq_buffer *out, const char *text)
{
    bool at_start = true;
    for (; *text != '\0'; text++) {
        if (at_start && (*text == '.' || *text == '\'')) {
            lq_buffer_append_string(out, "\\&");
        }
        if (*text == '-' || *text == '\\') {
            lq_buffer_append_string(out, *text == '-' ? "\\-" : "\\e");
        } else {
            lq_buffer_append_char(out, *text);
        }
        at_start = *text == '\n';
    }
}

static void put_option(struct lq_buffer *out, const struct lq_option *option)
{
    lq_buffer_append_string(out, ".TP\n\\fB");
    if (option->letter != 0) {
        lq_buffer_printf(out, "\\-%c\\fR, \\fB", option->letter);
    }
    lq_buffer_append_string(out, "\\-\\-");
    put_text(out, option->name);
    lq_buffer_append_string(out, "\\fR");
    if (option->value != NULL) {
        lq_buffer_printf(out, "%s\\fI%s\\fR%s", option->number_optional ? "[=" : " ", option->value,
                         option->number_optional ? "]" : "");
    }
    lq_buffer_append_char(out, '\n');
    put_text(out, option->help);
    if (option->choices != NULL) {
        lq_buffer_append_string(out, ": ");
        put_text(out, option->choices);
    }
    lq_buffer_append_char(out, '\n');
}

static void put_command(struct lq_buffer *out, const struct lq_command *parent,
                        const struct lq_command *command)
{
    lq_buffer_append_string(out, ".SS \"lqbuild ");
    if (parent != NULL) {
        lq_buffer_printf(out, "%s ", parent->name);
    }
    put_text(out, command->name);
    if (command->operands != NULL && command->operands[0] != '\0') {
        lq_buffer_append_char(out, ' ');
        put_text(out, command->operands);
    }
    lq_buffer_append_string(out, "\"\n");
    put_text(out, command->help);
    lq_buffer_append_string(out, ".\n");
    if (command->details != NULL) {
        lq_buffer_append_string(out, ".PP\n");
        put_text(out, command->details);
        lq_buffer_append_char(out, '\n');
    }
    for (size_t i = 0; i < command->option_count; i++) {
        put_option(out, &command->options[i]);
    }
    for (size_t i = 0; i < command->child_count; i++) {
        put_command(out, command, &command->children[i]);
    }
}

static void put_exit_codes(struct lq_buffer *out)
{
    lq_buffer_append_string(out, ".SH \"EXIT STATUS\"\n");
    for (unsigned i = 0; i < (unsigned)LQ_STATUS_COUNT; i++) {
        enum lq_status status = (enum lq_status)i;
        lq_buffer_printf(out, ".TP\n\\fB%d\\fR\n", lq_status_exit_code(status));
        put_text(out, lq_status_text(status));
        lq_buffer_append_char(out, '\n');
    }
}

void lq_cli_manual(const char *version, struct lq_buffer *out)
{
    lq_buffer_printf(out, ".TH LQBUILD 1 \"\" \"lqbuild %s\" \"User Commands\"\n", version);
    lq_buffer_append_string(
        out,
        ".SH NAME\nlqbuild \\- quantize language models by recipe\n"
        ".SH SYNOPSIS\n.B lqbuild\n[options] [target...]\n.br\n.B lqbuild\n[options] command "
        "[options] [word...]\n"
        ".SH DESCRIPTION\nA recipe declares artifacts: a model, a text, an importance matrix, a "
        "profile, quantized\nfiles, a report.\n.B lqbuild\nbuilds a graph from it, runs what "
        "changed and takes everything else from its cache.\nWithout a command, words are targets "
        "of the recipe.\n.SH OPTIONS\nEvery command takes these, before or after its name.\n");
    for (size_t i = 0; i < lq_common_option_count; i++) {
        put_option(out, &lq_common_options[i]);
    }
    lq_buffer_append_string(out, ".SH COMMANDS\n");
    for (size_t i = 0; i < lq_command_count; i++) {
        put_command(out, NULL, &lq_commands[i]);
    }
    lq_buffer_append_string(
        out,
        ".SH ENVIRONMENT\n.TP\n\\fBLQBUILD_CACHE_DIR\\fR\nthe cache folder, unless "
        "\\-\\-cache\\-dir is given\n.TP\n\\fBLQBUILD_RECIPES_DIR\\fR\nwhere "
        "include \"lqbuild:NAME\" looks first\n.TP\n\\fBLQBUILD_DEVICE\\fR\nwhat "
        "to compute on, unless \\-\\-device is given\n.TP\n\\fBMAKEFLAGS\\fR\na jobserver that is "
        "named here shares its jobs with lqbuild\n.TP\n\\fBNO_COLOR\\fR, \\fBTERM\\fR\nno "
        "colors; no live line when TERM is dumb or unset\n"
        ".SH FILES\n.TP\n.I recipe.lq\nthe recipe, unless \\-\\-file is given\n");
    put_exit_codes(out);
}

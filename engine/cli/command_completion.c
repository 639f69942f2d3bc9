/* Completion scripts for shells, printed from the tables that the program itself is driven by, so
 * that they cannot drift from it. `completion targets` is what the scripts ask for the names that
 * only the recipe knows. */
#include <string.h>

#include "engine/cli/commands.h"

/* A place in the command line: before any command (`command` NULL), behind "build", "cache" or
 * "cache stats". */
struct place {
    const struct lq_command *parent;
    const struct lq_command *command;
};

typedef void (*place_fn)(const struct place *place, struct lq_buffer *out);

static void visit_places(place_fn visit, struct lq_buffer *out)
{
    visit(&(struct place){.command = NULL}, out);
    for (size_t i = 0; i < lq_command_count; i++) {
        const struct lq_command *command = &lq_commands[i];
        visit(&(struct place){.command = command}, out);
        for (size_t k = 0; k < command->child_count; k++) {
            visit(&(struct place){.parent = command, .command = &command->children[k]}, out);
        }
    }
}

/* "cache stats" */
static void print_place(const struct place *place, struct lq_buffer *out)
{
    lq_buffer_printf(out, "%s%s%s", place->parent == NULL ? "" : place->parent->name,
                     place->parent == NULL ? "" : " ",
                     place->command == NULL ? "" : place->command->name);
}

/* The commands that may stand next. */
static const struct lq_command *next_commands(const struct place *place, size_t *count)
{
    bool at_start = place->command == NULL;
    *count = at_start ? lq_command_count : place->command->child_count;
    return at_start ? lq_commands : place->command->children;
}

static bool takes_targets(const struct place *place)
{
    const char *operands = place->command == NULL ? "TARGET" : place->command->operands;
    return operands != NULL && strstr(operands, "TARGET") != NULL;
}

/* The options that may stand at a place, a command's own first. */
static const struct lq_option *option_at(const struct place *place, size_t index)
{
    size_t own = place->command == NULL ? 0 : place->command->option_count;
    return index < own                            ? &place->command->options[index]
           : index - own < lq_common_option_count ? &lq_common_options[index - own]
                                                  : NULL;
}

/* ------------------------------------------------------------------- bash ---- */

static void bash_words(const struct place *place, struct lq_buffer *out)
{
    size_t count = 0;
    const struct lq_command *next = next_commands(place, &count);
    lq_buffer_append_string(out, "    '");
    print_place(place, out);
    lq_buffer_append_string(out, "') echo \"");
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(out, "%s ", next[i].name);
    }
    for (size_t i = 0; option_at(place, i) != NULL; i++) {
        lq_buffer_printf(out, "--%s ", option_at(place, i)->name);
    }
    lq_buffer_printf(out, "%s\" ;;\n",
                     takes_targets(place) ? "$(lqbuild completion targets 2> /dev/null)" : "");
}

static void bash_values(const struct place *place, struct lq_buffer *out)
{
    for (size_t i = 0; option_at(place, i) != NULL; i++) {
        const struct lq_option *option = option_at(place, i);
        if (option->value == NULL || option->number_optional) {
            continue;
        }
        lq_buffer_append_string(out, "    '");
        print_place(place, out);
        lq_buffer_printf(out, " --%s'", option->name);
        if (option->letter != 0) {
            lq_buffer_append_string(out, " | '");
            print_place(place, out);
            lq_buffer_printf(out, " -%c'", option->letter);
        }
        lq_buffer_printf(out, ") echo '%s' ;;\n", option->choices == NULL ? "" : option->choices);
    }
}

static void bash_groups(const struct place *place, struct lq_buffer *out)
{
    if (place->command != NULL && place->command->child_count > 0) {
        lq_buffer_printf(out, "%s|", place->command->name);
    }
}

static void print_bash(struct lq_buffer *out)
{
    lq_buffer_append_string(out, "# Completion of lqbuild for bash, printed by\n"
                                 "# 'lqbuild completion bash'.\n\n"
                                 "# What may stand at a place of the command line.\n"
                                 "_lqbuild_words() {\n    case $1 in\n");
    visit_places(bash_words, out);
    lq_buffer_append_string(out, "    esac\n}\n\n"
                                 "# The values of an option at a place; fails when it takes none.\n"
                                 "_lqbuild_values() {\n    case $1 in\n");
    visit_places(bash_values, out);
    lq_buffer_append_string(
        out,
        "    *) return 1 ;;\n    esac\n}\n\n"
        "_lqbuild() {\n"
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
        "    local place= skip= i values\n"
        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "        if [[ -n $skip ]]; then\n            skip=\n            continue\n        fi\n"
        "        case ${COMP_WORDS[i]} in\n"
        "        -*) _lqbuild_values \"$place ${COMP_WORDS[i]}\" > /dev/null && skip=yes ;;\n"
        "        *)\n            case $place in\n            ");
    visit_places(bash_groups, out);
    lq_buffer_append_string(
        out,
        "'')\n"
        "                [[ -n $(_lqbuild_words \"${place:+$place }${COMP_WORDS[i]}\") ]] &&\n"
        "                    place=${place:+$place }${COMP_WORDS[i]}\n"
        "                ;;\n            esac\n            ;;\n        esac\n    done\n"
        "    if [[ -n $skip ]]; then\n"
        "        values=$(_lqbuild_values \"$place $before\")\n"
        "        if [[ -n $values ]]; then\n"
        "            mapfile -t COMPREPLY < <(compgen -W \"$values\" -- \"$word\")\n"
        "        else\n"
        "            mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
        "        fi\n        return\n    fi\n"
        "    mapfile -t COMPREPLY < <(compgen -W \"$(_lqbuild_words \"$place\")\" -- \"$word\")\n"
        "    [[ $word == -* ]] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "
        "\"$word\")\n"
        "}\ncomplete -o filenames -F _lqbuild lqbuild\n");
}

/* -------------------------------------------------------------------- zsh ---- */

/* Inside single quotes; brackets and colons divide what _arguments reads. */
static void zsh_text(const char *text, struct lq_buffer *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            lq_buffer_append_string(out, "'\\''");
            continue;
        }
        if (strchr("[]:\\", *text) != NULL) {
            lq_buffer_append_char(out, '\\');
        }
        lq_buffer_append_char(out, *text);
    }
}

static void zsh_option(const struct lq_option *option, struct lq_buffer *out)
{
    lq_buffer_append_string(out, " \\\n            '*");
    if (option->letter != 0) {
        lq_buffer_printf(out, "'{-%c,--%s%s}'", option->letter, option->name,
                         option->value == NULL || option->number_optional ? "" : "=");
    } else {
        lq_buffer_printf(out, "--%s%s", option->name,
                         option->value == NULL || option->number_optional ? "" : "=");
    }
    lq_buffer_append_char(out, '[');
    zsh_text(option->help, out);
    lq_buffer_append_char(out, ']');
    if (option->value != NULL && !option->number_optional) {
        lq_buffer_append_char(out, ':');
        zsh_text(option->value, out);
        lq_buffer_printf(out, ":%s%s%s", option->choices == NULL ? "_files" : "(",
                         option->choices == NULL ? "" : option->choices,
                         option->choices == NULL ? "" : ")");
    }
    lq_buffer_append_char(out, '\'');
}

static void zsh_place(const struct place *place, struct lq_buffer *out)
{
    size_t count = 0;
    const struct lq_command *next = next_commands(place, &count);
    lq_buffer_append_string(out, "    '");
    print_place(place, out);
    lq_buffer_append_string(out, "')\n        lq_next=(");
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(out, "\n            '%s:", next[i].name);
        zsh_text(next[i].help, out);
        lq_buffer_append_char(out, '\'');
    }
    lq_buffer_printf(out, ")\n        lq_targets=%s\n        _arguments -s",
                     takes_targets(place) ? "yes" : "no");
    for (size_t i = 0; option_at(place, i) != NULL; i++) {
        zsh_option(option_at(place, i), out);
    }
    lq_buffer_append_string(out, " \\\n            '*:word:_lqbuild_next'\n        ;;\n");
}

static void zsh_name(const struct place *place, struct lq_buffer *out)
{
    if (place->command != NULL) {
        lq_buffer_append_string(out, " '");
        print_place(place, out);
        lq_buffer_append_char(out, '\'');
    }
}

static void print_zsh(struct lq_buffer *out)
{
    lq_buffer_append_string(
        out,
        "#compdef lqbuild\n# Completion of lqbuild for zsh, printed by\n"
        "# 'lqbuild completion zsh'.\n\n"
        "_lqbuild_next() {\n"
        "    (( $#lq_next )) && _describe command lq_next\n"
        "    [[ $lq_targets == yes ]] &&\n"
        "        compadd -- ${(f)\"$(lqbuild completion targets 2> /dev/null)\"}\n"
        "    (( $#lq_next )) || _files\n}\n\n"
        "_lqbuild() {\n    local place= word\n    local -a lq_next known\n    local lq_targets\n"
        "    known=(");
    visit_places(zsh_name, out);
    lq_buffer_append_string(
        out, ")\n"
             "    for word in ${words[2,CURRENT-1]}; do\n"
             "        (( ${known[(Ie)${place:+$place }$word]} )) && place=\"${place:+$place "
             "}$word\"\n"
             "    done\n"
             "    case $place in\n");
    visit_places(zsh_place, out);
    lq_buffer_append_string(out, "    esac\n}\n\n_lqbuild \"$@\"\n");
}

/* ---------------------------------------------------------------- command ---- */

static enum lq_status print_targets(struct lq_cli *cli, struct lq_buffer *out, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    for (size_t i = 0; status == LQ_OK && i < recipe->artifact_count; i++) {
        lq_buffer_printf(out, "%s\n", recipe->artifacts[i].name);
    }
    lq_recipe_destroy(recipe);
    return status;
}

enum lq_status lq_command_completion(struct lq_cli *cli, struct lq_error *err)
{
    const char *what = cli->args.operands[0];
    enum lq_status status = LQ_OK;
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (strcmp(what, "bash") == 0) {
        print_bash(&out);
    } else if (strcmp(what, "zsh") == 0) {
        print_zsh(&out);
    } else if (strcmp(what, "targets") == 0) {
        status = print_targets(cli, &out, err);
    } else {
        status =
            lq_error_set(err, LQ_EUSAGE, "no completion for '%s'; there are bash and zsh", what);
    }
    if (status == LQ_OK && out.failed) {
        status = lq_error_nomem(err, "the completion");
    }
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    return status;
}

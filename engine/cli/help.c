#include <stdio.h>
#include <string.h>

#include "engine/cli/commands.h"
#include "engine/cli/manual.h"

enum { NAME_COLUMN = 30 };

static void print_option(struct lq_buffer *out, const struct lq_option *option, bool with_letter)
{
    char name[96];
    const char *open = option->number_optional ? "[=" : " ";
    const char *close = option->number_optional ? "]" : "";
    bool has_letter = with_letter && option->letter != 0;
    (void)snprintf(name, sizeof name, "%c%c%s --%s%s%s%s", has_letter ? '-' : ' ',
                   has_letter ? option->letter : ' ', has_letter ? "," : " ", option->name,
                   option->value == NULL ? "" : open, option->value == NULL ? "" : option->value,
                   option->value == NULL ? "" : close);
    lq_buffer_printf(out, "  %-*s %s", NAME_COLUMN, name, option->help);
    if (option->choices != NULL) {
        lq_buffer_printf(out, ": %s", option->choices);
    }
    lq_buffer_append_char(out, '\n');
}

static bool takes_letter(const struct lq_command *command, char letter)
{
    for (size_t i = 0; i < command->option_count; i++) {
        if (command->options[i].letter == letter) {
            return true;
        }
    }
    return false;
}

static void print_common(struct lq_buffer *out, const struct lq_command *command)
{
    lq_buffer_append_string(out, "\noptions of every command, before or after its name:\n");
    for (size_t i = 0; i < lq_common_option_count; i++) {
        const struct lq_option *option = &lq_common_options[i];
        print_option(out, option, command == NULL || !takes_letter(command, option->letter));
    }
}

static void print_commands(struct lq_buffer *out, const struct lq_command *commands, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char usage[64];
        const char *operands = commands[i].operands == NULL ? "" : commands[i].operands;
        (void)snprintf(usage, sizeof usage, "%s %s", commands[i].name, operands);
        lq_buffer_printf(out, "  %-*s %s\n", NAME_COLUMN, usage, commands[i].help);
    }
}

static void print_overview(struct lq_buffer *out)
{
    lq_buffer_append_string(out,
                            "usage: lqbuild [options] [target...]\n"
                            "       lqbuild [options] command [options] [word...]\n"
                            "\nlqbuild quantizes language models by recipe: it runs what changed\n"
                            "and takes everything else from its cache.\n\ncommands:\n");
    print_commands(out, lq_commands, lq_command_count);
    print_common(out, NULL);
    lq_buffer_append_string(out, "\n'lqbuild help COMMAND' says more about one command.\n");
}

static void print_one(const struct lq_cli *cli, struct lq_buffer *out,
                      const struct lq_command *command)
{
    const char *parent = cli->parent == NULL ? "" : cli->parent->name;
    const char *operands = command->operands == NULL ? "" : command->operands;
    lq_buffer_printf(out, "usage: lqbuild %s%s%s%s%s%s\n\n%s\n", parent,
                     parent[0] == '\0' ? "" : " ", command->name,
                     command->option_count > 0 ? " [options]" : "", operands[0] == '\0' ? "" : " ",
                     operands, command->help);
    if (command->details != NULL) {
        lq_buffer_printf(out, "\n%s\n", command->details);
    }
    if (command->child_count > 0) {
        lq_buffer_append_string(out, "\ncommands:\n");
        print_commands(out, command->children, command->child_count);
    }
    if (command->option_count > 0) {
        lq_buffer_append_string(out, "\noptions:\n");
        for (size_t i = 0; i < command->option_count; i++) {
            print_option(out, &command->options[i], true);
        }
    }
    print_common(out, command);
}

void lq_cli_print_help(struct lq_cli *cli, const struct lq_command *command)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (command == NULL) {
        print_overview(&out);
    } else {
        print_one(cli, &out, command);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

enum lq_status lq_command_help(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_command *commands = lq_commands;
    size_t count = lq_command_count;
    const struct lq_command *command = NULL;
    cli->parent = NULL;
    if (lq_args_has(&cli->args, "man")) {
        struct lq_buffer out;
        lq_buffer_init(&out);
        lq_cli_manual(cli->program->version, &out);
        lq_cli_print(&out);
        lq_buffer_fini(&out);
        return LQ_OK;
    }
    for (size_t i = 0; i < cli->args.operand_count; i++) {
        const char *name = cli->args.operands[i];
        const struct lq_command *found = lq_command_find(commands, count, name);
        if (found == NULL) {
            const char *nearest = lq_command_nearest(commands, count, name);
            return lq_error_set(err, LQ_EUSAGE, "unknown command '%s'%s%s%s", name,
                                nearest == NULL ? "; 'lqbuild help' lists them"
                                                : "; did you mean '",
                                nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
        }
        cli->parent = command;
        command = found;
        commands = found->children;
        count = found->child_count;
    }
    lq_cli_print_help(cli, command);
    return LQ_OK;
}

enum lq_status lq_command_version(struct lq_cli *cli, struct lq_error *err)
{
    (void)err;
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_buffer_printf(&out, "lqbuild %s\n", cli->program->version);
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return LQ_OK;
}

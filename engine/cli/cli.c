#include "engine/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/cli/commands.h"

/* Finds the command that the words name; the words of a `build` may leave its name out. */
static enum lq_status choose_command(struct lq_cli *cli, char **argv, size_t *next,
                                     struct lq_error *err)
{
    const char *word = argv[*next];
    const struct lq_command *command = word == NULL || cli->args.ended
                                           ? NULL
                                           : lq_command_find(lq_commands, lq_command_count, word);
    if (command == NULL) {
        cli->command = &lq_commands[0];
        return LQ_OK;
    }
    (*next)++;
    cli->command = command;
    if (command->child_count == 0) {
        return LQ_OK;
    }
    /* "lqbuild cache --json stats": common options may stand between the two names. */
    struct lq_option_set common = {lq_common_options, lq_common_option_count};
    enum lq_status status =
        lq_args_parse(&cli->args, argv, next, &common, 1, true, &cli->arena, err);
    if (status != LQ_OK || lq_args_has(&cli->args, "help")) {
        return status;
    }
    word = argv[*next];
    if (word == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'lqbuild %s' needs a command; 'lqbuild help %s' lists them, 'lqbuild "
                            "build %s' builds a target of this name",
                            command->name, command->name, command->name);
    }
    cli->parent = command;
    cli->command = lq_command_find(command->children, command->child_count, word);
    if (cli->command == NULL) {
        const char *nearest = lq_command_nearest(command->children, command->child_count, word);
        cli->command = command;
        cli->parent = NULL;
        return nearest != NULL
                   ? lq_error_set(err, LQ_EUSAGE, "unknown command '%s %s'; did you mean '%s %s'?",
                                  command->name, word, command->name, nearest)
                   : lq_error_set(err, LQ_EUSAGE,
                                  "unknown command '%s %s'; 'lqbuild help %s' lists them",
                                  command->name, word, command->name);
    }
    (*next)++;
    return LQ_OK;
}

static enum lq_status check_operands(const struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_command *command = cli->command;
    const char *parent = cli->parent == NULL ? "" : cli->parent->name;
    const char *space = cli->parent == NULL ? "" : " ";
    size_t count = cli->args.operand_count;
    if (count < command->operand_min) {
        return lq_error_set(err, LQ_EUSAGE, "'%s%s%s' needs %s; 'lqbuild help %s%s%s' says more",
                            parent, space, command->name, command->operands, parent, space,
                            command->name);
    }
    if (count > command->operand_max) {
        return lq_error_set(err, LQ_EUSAGE,
                            "'%s%s%s' does not take '%s'; 'lqbuild help %s%s%s' says what it takes",
                            parent, space, command->name, cli->args.operands[command->operand_max],
                            parent, space, command->name);
    }
    return LQ_OK;
}

static enum lq_status run_command(struct lq_cli *cli, struct lq_error *err)
{
    if (lq_args_has(&cli->args, "help")) {
        lq_cli_print_help(cli, cli->command == &lq_commands[0] ? NULL : cli->command);
        return LQ_OK;
    }
    if (lq_args_has(&cli->args, "version")) {
        return lq_command_version(cli, err);
    }
    enum lq_status status = check_operands(cli, err);
    if (status == LQ_OK) {
        status = lq_cli_settle(cli, err);
    }
    return status == LQ_OK ? cli->command->run(cli, err) : status;
}

static enum lq_status parse_words(struct lq_cli *cli, size_t argc, char **argv,
                                  struct lq_error *err)
{
    struct lq_option_set common = {lq_common_options, lq_common_option_count};
    size_t next = argc > 0 ? 1 : 0;
    enum lq_status status = lq_args_init(&cli->args, argc, &cli->arena, err);
    if (status == LQ_OK) {
        status = lq_args_parse(&cli->args, argv, &next, &common, 1, true, &cli->arena, err);
    }
    if (status == LQ_OK) {
        status = choose_command(cli, argv, &next, err);
    }
    if (status == LQ_OK) {
        struct lq_option_set sets[2] = {{cli->command->options, cli->command->option_count},
                                        common};
        status = lq_args_parse(&cli->args, argv, &next, sets, 2, false, &cli->arena, err);
    }
    /* An error in the words is shown the way they ask for, as far as they were understood. */
    cli->json = lq_args_has(&cli->args, "json");
    return status;
}

/* Output that did not reach its reader is an error, unless the reader went away on purpose. */
static enum lq_status flush_output(struct lq_error *err)
{
    errno = 0;
    if (fflush(stdout) == 0 && ferror(stdout) == 0) {
        return LQ_OK;
    }
    return errno == EPIPE ? LQ_OK : lq_error_errno(err, LQ_EIO, "stdout: cannot write");
}

/* A stream that was closed must not come to life again as a file of the cache. Reading ends make
 * what is written to them fail, as it would without them. */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

int lq_cli_main(const struct lq_program *program, int argc, char **argv)
{
    struct lq_cli cli = {.program = program, .command = &lq_commands[0]};
    struct lq_error err;
    lq_error_clear(&err);
    hold_standard_streams();
    lq_arena_init(&cli.arena);
    (void)signal(SIGPIPE, SIG_IGN);
    enum lq_status status = parse_words(&cli, (size_t)argc, argv, &err);
    if (status == LQ_OK) {
        status = run_command(&cli, &err);
    }
    if (status != LQ_OK && !cli.error_shown) {
        lq_cli_show_error(&cli, &err);
    }
    if (status != LQ_OK) {
        lq_cli_close_events(&cli);
    }
    struct lq_error flush_err;
    if (flush_output(&flush_err) != LQ_OK && status == LQ_OK) {
        status = flush_err.status;
        lq_cli_show_error(&cli, &flush_err);
    }
    lq_cli_close_cache(&cli);
    lq_arena_fini(&cli.arena);
    return lq_status_exit_code(status);
}

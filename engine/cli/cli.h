/* The command line: everything between main and the engine. lq_cli_main parses the words, runs one
 * command and returns the exit code of docs/exit-codes.md. It owns what it opens and closes it
 * before it returns; it installs signal handlers for SIGINT and SIGTERM while a build runs and
 * ignores SIGPIPE. Thread rule: call it once, from the main thread. */
#ifndef LQ_ENGINE_CLI_CLI_H
#define LQ_ENGINE_CLI_CLI_H

#include "engine/rule.h"

/* What main puts together. */
struct lq_program {
    const char *version;
    const struct lq_registry *registry;
};

int lq_cli_main(const struct lq_program *program, int argc, char **argv);

#endif

/* The composition root: the rules and the command line, nothing else. */
#include "engine/base/memory.h"
#include "engine/base/version.h"
#include "engine/cli/cli.h"
#include "rules/registry.h"

int main(int argc, char **argv)
{
    lq_memory_keep_freed();
    const struct lq_program program = {.version = lq_version, .registry = lq_rules_registry()};
    return lq_cli_main(&program, argc, argv);
}

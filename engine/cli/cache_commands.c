/* The table of `lqbuild cache ...`: names, help and options. What a command does is in
 * command_cache_*.c. */
#include "engine/cli/commands.h"

const struct lq_command lq_cache_commands[] = {
    {.name = "stats", .help = "count what the cache holds", .run = lq_command_cache_stats},
};
_Static_assert(LQ_COUNT_OF(lq_cache_commands) == LQ_CACHE_COMMAND_COUNT,
               "the number of commands in commands.h");

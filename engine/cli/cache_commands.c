/* The table of `lqbuild cache ...`: names, help and options. What a command does is in
 * command_cache_*.c. */
#include "engine/cli/commands.h"

static const struct lq_option gc_options[] = {
    {0, "max-size", "SIZE", NULL, false,
     "remove results, least recently used first, until SIZE is left (cache.max_size)"},
    {0, "max-age", "AGE", NULL, false, "remove results not used for so long, 90d or 12h"},
};

static const struct lq_option export_options[] = {
    {'o', "output", "FILE", NULL, false, "the file to write (required)"},
};

const struct lq_command lq_cache_commands[] = {
    {.name = "export",
     .operands = "[TARGET...]",
     .help = "write the results behind targets into one file, to hand over",
     .options = export_options,
     .option_count = LQ_COUNT_OF(export_options),
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_cache_export},
    {.name = "import",
     .operands = "FILE",
     .help = "take results out of such a file",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_cache_import},
    {.name = "stats", .help = "count what the cache holds", .run = lq_command_cache_stats},
    {.name = "ls",
     .operands = "[TARGET]",
     .help = "list results: key, size, last use, what it is",
     .operand_max = 1,
     .run = lq_command_cache_ls},
    {.name = "gc",
     .help = "remove what nothing needs any more, and what exceeds the limits",
     .details =
         "Without limits only garbage goes: what no result refers to, what was known of files\n"
         "that have changed, old histories. What a running build or a pin needs stays. With\n"
         "--dry-run it only counts.",
     .options = gc_options,
     .option_count = LQ_COUNT_OF(gc_options),
     .run = lq_command_cache_gc},
    {.name = "pin",
     .operands = "TARGET|DIGEST...",
     .help = "keep the newest results of an artifact whatever the limits",
     .operand_min = 1,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_cache_pin},
    {.name = "unpin",
     .operands = "TARGET|DIGEST...",
     .help = "undo a pin",
     .operand_min = 1,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_cache_unpin},
    {.name = "rm",
     .operands = "TARGET|KEY...",
     .help = "remove the results of an artifact and its steps, or one by its key",
     .operand_min = 1,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_cache_rm},
    {.name = "verify",
     .help = "check every entry against its digest, remove what is damaged",
     .run = lq_command_cache_verify},
    {.name = "repair",
     .help = "save what a damaged data file still holds",
     .details =
         "When a command says that data.mdb is damaged: everything in it that can still be read\n"
         "and is proven by its digest goes into a new file, which then takes the place of the\n"
         "old one. What is lost is built again by the next build. Nothing happens to a file\n"
         "that is sound, nor while another lqbuild has the cache open. Needs room for the new "
         "file.",
     .run = lq_command_cache_repair},
    {.name = "compact",
     .help = "make the data file as small as what it holds",
     .run = lq_command_cache_compact},
};
_Static_assert(LQ_COUNT_OF(lq_cache_commands) == LQ_CACHE_COMMAND_COUNT,
               "the number of commands in commands.h");

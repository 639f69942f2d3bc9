/* One command of the command line and what it works with. The table of commands is in commands.c;
 * each command has a file of its own. A command reads its words from cli->args, prints data with
 * lq_cli_print, and returns a status with one sentence in err, which the caller shows. Memory in
 * cli->arena lives until the process ends. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_COMMAND_H
#define LQ_ENGINE_CLI_COMMAND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/build.h"
#include "engine/cli/cli.h"
#include "engine/cli/options.h"
#include "engine/cli/settings.h"
#include "engine/lang/recipe.h"
#include "engine/progress.h"

struct lq_cache;
struct lq_digest;
struct lq_cli;

struct lq_command {
    const char *name;
    const char *operands; /* "MODEL FORMAT": shown in help */
    const char *help;     /* one line */
    const char *details;  /* more of it for `lqbuild help NAME`; may be NULL */
    const struct lq_option *options;
    size_t option_count;
    size_t operand_min;
    size_t operand_max;
    enum lq_status (*run)(struct lq_cli *cli, struct lq_error *err); /* NULL: only children */
    bool builds; /* its stream of events ends with a summary, also when it fails early */
    const struct lq_command *children;
    size_t child_count;
};

#define LQ_OPERANDS_ANY ((size_t)-1)

struct lq_cli {
    const struct lq_program *program;
    const struct lq_command *command;
    const struct lq_command *parent; /* of a nested command, else NULL */
    struct lq_arena arena;
    struct lq_args args;
    /* Options that every command takes, read. */
    const char *recipe_path;
    struct lq_define *defines;
    size_t define_count;
    const char *cache_dir;       /* NULL: the default */
    struct lq_settings settings; /* configuration files, environment and the options on top */
    unsigned jobs;
    unsigned keep_going;
    bool dry_run;
    bool force;
    bool explain;
    bool json;
    bool quiet;
    bool verbose;
    bool color_out;
    bool color_err;
    enum lq_progress_mode progress_mode;
    /* What happened. */
    bool error_shown;
    bool summary_shown;
    struct lq_cache *cache;   /* opened by lq_cli_open_cache */
    const char *cache_folder; /* where it is */
};

/* Commands by name, for dispatch, help and suggestions. */
extern const struct lq_command lq_commands[];
extern const size_t lq_command_count;
const struct lq_command *lq_command_find(const struct lq_command *commands, size_t count,
                                         const char *name);
const char *lq_command_nearest(const struct lq_command *commands, size_t count, const char *name);
/* Options that every command takes. */
extern const struct lq_option lq_common_options[];
extern const size_t lq_common_option_count;

/* Reads the common options out of cli->args; goes to the folder of -C. */
enum lq_status lq_cli_settle(struct lq_cli *cli, struct lq_error *err);

/* Help texts, from the tables. `command` NULL: the overview. */
void lq_cli_print_help(struct lq_cli *cli, const struct lq_command *command);

/* Writes bytes to stdout. */
void lq_cli_print(const struct lq_buffer *text);
/* The same for a JSON value that was written to be read: with --json it becomes one line. */
void lq_cli_print_value(const struct lq_cli *cli, struct lq_buffer *text);
/* Shows an error as the output mode wants it: a sentence on stderr or an object on stdout. */
void lq_cli_show_error(struct lq_cli *cli, const struct lq_error *err);
/* True for --json, and for --format json, whose output is one object. */
bool lq_cli_prints_json(const struct lq_cli *cli);
/* Puts "status", "error_code", "error_type", "message" and "suggestion" into the open object. */
void lq_cli_put_error(struct lq_json_writer *writer, const struct lq_error *err);
void lq_cli_warn(struct lq_cli *cli, const char *message);

/* Loads cli->recipe_path; the caller destroys it. */
enum lq_status lq_cli_load_recipe(struct lq_cli *cli, struct lq_recipe **out, struct lq_error *err);
/* Opens the cache once; closed at the end of the process. */
enum lq_status lq_cli_open_cache(struct lq_cli *cli, struct lq_error *err);
void lq_cli_close_cache(struct lq_cli *cli);
/* Ends the process: for lq_cache_options.fatal. */
void lq_cli_cache_is_damaged(const char *message);
/* At the end of a build: when the cache is larger than its budget, removes what was not used for
 * longest, for a short while. Failing is a warning. */
void lq_cli_collect_garbage(struct lq_cli *cli);

/* From here on SIGINT and SIGTERM set the flag that is returned, once; the second signal ends the
 * process as it would without this. Release restores what was before. */
atomic_bool *lq_cli_catch_signals(void);
void lq_cli_release_signals(void);

/* One build with progress, signals, cache and thread pool. Failures have been shown when it
 * returns (cli->error_shown). `result` may be NULL. */
struct lq_cli_build {
    const struct lq_recipe *recipe;
    const char *const *targets;
    size_t target_count;
    const struct lq_digest *snapshot; /* see engine/snapshot.h; may be NULL */
    /* For a second build with a cache of its own (cli->cache): no file is put in place, no remote
     * is asked, nothing is logged. */
    bool scratch;
    /* Text that targets want to show does not go to stdout. */
    bool hide_summary;
    bool fetch_only; /* run nothing: what has to be computed is an error */
    /* Messages drop "NAME:line:column: " and the source lines: the user wrote no recipe. */
    const char *hidden_name;
    /* Takes the events instead of the user's eyes: no progress and no summary are shown, only
     * warnings and errors. May be NULL. */
    lq_event_fn watch;
    /* Called with the summary line pending: in JSON mode prints one more line. May be NULL. */
    enum lq_status (*before_summary)(void *user, struct lq_error *err);
    void *user;
};
/* For recipes that the user did not write: a status of the recipe is one of the command line, and
 * of a diagnostic only what happened is kept, without "name:line:column: " and the source lines. */
enum lq_status lq_cli_plain_status(enum lq_status status);
void lq_cli_hide_positions(const char *name, const char *text, char *out, size_t out_bytes);
enum lq_status lq_cli_build(struct lq_cli *cli, const struct lq_cli_build *build,
                            struct lq_build_result *result, struct lq_error *err);
/* Shows the end of a build that had nothing to do. */
enum lq_status lq_cli_build_current(struct lq_cli *cli, const struct lq_build_result *result,
                                    struct lq_error *err);
/* After a failure: the summary that a stream of JSON events still owes its reader. */
void lq_cli_close_events(struct lq_cli *cli);

#endif

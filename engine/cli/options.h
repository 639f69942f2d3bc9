/* Options of the command line, described by tables: the same rows drive parsing, help and
 * suggestions. Long options take "--name value" or "--name=value", short ones may be clustered
 * ("-nk", "-j4"), and "--" ends options. Everything is borrowed from argv or the arena that is
 * passed in. Thread rule: one thread. */
#ifndef LQ_ENGINE_CLI_OPTIONS_H
#define LQ_ENGINE_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

struct lq_option {
    char letter;       /* 0: none */
    const char *name;  /* without the dashes */
    const char *value; /* shown in help, "N"; NULL: a flag */
    /* "auto plain live none": what the value may be; NULL: anything. */
    const char *choices;
    /* The value may be left out; then only "--name=7", "-k7" or a number behind it counts. */
    bool number_optional;
    const char *help; /* one line */
};

/* Searched in order, so a command may take a letter of the common options for itself. */
struct lq_option_set {
    const struct lq_option *options;
    size_t count;
};

struct lq_arg {
    const struct lq_option *option;
    const char *value; /* NULL for a flag */
};

/* What was given, in order. */
struct lq_args {
    struct lq_arg *items;
    size_t count;
    const char **operands;
    size_t operand_count;
    bool ended; /* "--" was seen */
};

/* Room for `argc` words. */
enum lq_status lq_args_init(struct lq_args *args, size_t argc, struct lq_arena *arena,
                            struct lq_error *err);
/* Parses argv from *next on. With `stop_at_operand` it leaves *next at the first operand; otherwise
 * operands are collected to the end. Every error is LQ_EUSAGE. */
enum lq_status lq_args_parse(struct lq_args *args, char **argv, size_t *next,
                             const struct lq_option_set *sets, size_t set_count,
                             bool stop_at_operand, struct lq_arena *arena, struct lq_error *err);

bool lq_args_has(const struct lq_args *args, const char *name);
/* The last value given, or NULL. */
const char *lq_args_get(const struct lq_args *args, const char *name);
/* Values of an option that may be repeated: the one after *position, NULL at the end. Start with
 * *position 0. */
const char *lq_args_next(const struct lq_args *args, const char *name, size_t *position);
/* A whole number in [min, max]; `out` is untouched when the option is absent. */
enum lq_status lq_args_uint(const struct lq_args *args, const char *name, uint64_t min,
                            uint64_t max, uint64_t *out, struct lq_error *err);
/* A finite decimal number; "20%" is 0.2. *given tells whether the option is there. */
enum lq_status lq_args_number(const struct lq_args *args, const char *name, double *out,
                              bool *given, struct lq_error *err);
/* True when `word` is one of the space-separated `choices`. */
bool lq_choices_have(const char *choices, const char *word);
/* The choice nearest to `word`, copied to the arena, or NULL. */
const char *lq_choices_nearest(const char *choices, const char *word, struct lq_arena *arena);

#endif

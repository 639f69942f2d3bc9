#include "engine/cli/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/text.h"

enum { CHOICES_MAX = 64 };

enum lq_status lq_args_init(struct lq_args *args, size_t argc, struct lq_arena *arena,
                            struct lq_error *err)
{
    *args = (struct lq_args){.items = NULL};
    /* A cluster holds several options in one word, so the items grow; operands never do. */
    args->operands = lq_arena_get_array(arena, argc + 1, sizeof args->operands[0]);
    return args->operands == NULL ? lq_error_nomem(err, "the command line") : LQ_OK;
}

static enum lq_status add_item(struct lq_args *args, const struct lq_option *option,
                               const char *value, struct lq_arena *arena, struct lq_error *err)
{
    /* Doubling at powers of two keeps no capacity field. */
    if ((args->count & (args->count - 1)) == 0) {
        size_t capacity = args->count == 0 ? 1 : args->count * 2;
        struct lq_arg *items = lq_arena_get_array(arena, capacity, sizeof *items);
        if (items == NULL) {
            return lq_error_nomem(err, "the command line");
        }
        if (args->count > 0) {
            memcpy(items, args->items, args->count * sizeof *items);
        }
        args->items = items;
    }
    args->items[args->count++] = (struct lq_arg){.option = option, .value = value};
    return LQ_OK;
}

static const struct lq_option *find_long(const struct lq_option_set *sets, size_t set_count,
                                         const char *name, size_t length)
{
    for (size_t s = 0; s < set_count; s++) {
        for (size_t i = 0; i < sets[s].count; i++) {
            const struct lq_option *option = &sets[s].options[i];
            if (strncmp(option->name, name, length) == 0 && option->name[length] == '\0') {
                return option;
            }
        }
    }
    return NULL;
}

static const struct lq_option *find_short(const struct lq_option_set *sets, size_t set_count,
                                          char letter)
{
    for (size_t s = 0; s < set_count; s++) {
        for (size_t i = 0; i < sets[s].count; i++) {
            if (sets[s].options[i].letter == letter) {
                return &sets[s].options[i];
            }
        }
    }
    return NULL;
}

static enum lq_status refuse_unknown(const struct lq_option_set *sets, size_t set_count,
                                     const char *word, size_t length, struct lq_arena *arena,
                                     struct lq_error *err)
{
    size_t total = 0;
    for (size_t s = 0; s < set_count; s++) {
        total += sets[s].count;
    }
    const char **names = lq_arena_get_array(arena, total + 1, sizeof *names);
    char *name = lq_arena_dup(arena, word, length);
    if (names == NULL || name == NULL) {
        return lq_error_nomem(err, "the command line");
    }
    size_t count = 0;
    for (size_t s = 0; s < set_count; s++) {
        for (size_t i = 0; i < sets[s].count; i++) {
            names[count++] = sets[s].options[i].name;
        }
    }
    const char *nearest = lq_text_nearest(name, names, count);
    if (nearest != NULL) {
        return lq_error_set(err, LQ_EUSAGE, "unknown option '--%s'; did you mean '--%s'?", name,
                            nearest);
    }
    return lq_error_set(err, LQ_EUSAGE, "unknown option '--%s'; 'lqbuild --help' lists the options",
                        name);
}

bool lq_choices_have(const char *choices, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = choices; *at != '\0';) {
        size_t span = strcspn(at, " ");
        if (span == length && strncmp(at, word, span) == 0) {
            return true;
        }
        at += span;
        at += strspn(at, " ");
    }
    return false;
}

const char *lq_choices_nearest(const char *choices, const char *word, struct lq_arena *arena)
{
    const char *list[CHOICES_MAX];
    size_t count = 0;
    for (const char *at = choices; *at != '\0' && count < CHOICES_MAX;) {
        size_t span = strcspn(at, " ");
        list[count] = lq_arena_dup(arena, at, span);
        count += list[count] != NULL;
        at += span;
        at += strspn(at, " ");
    }
    return lq_text_nearest(word, list, count);
}

static enum lq_status check_choice(const struct lq_option *option, const char *value,
                                   struct lq_arena *arena, struct lq_error *err)
{
    if (option->choices == NULL || lq_choices_have(option->choices, value)) {
        return LQ_OK;
    }
    const char *nearest = lq_choices_nearest(option->choices, value, arena);
    return lq_error_set(err, LQ_EUSAGE, "--%s does not know '%s'; expected one of: %s%s%s%s",
                        option->name, value, option->choices,
                        nearest == NULL ? "" : "; did you mean '", nearest == NULL ? "" : nearest,
                        nearest == NULL ? "" : "'?");
}

static bool is_number(const char *text)
{
    return text != NULL && text[0] != '\0' && text[strspn(text, "0123456789")] == '\0';
}

/* True for options whose value is the name of something: it cannot be empty. */
static bool names_something(const struct lq_option *option)
{
    static const char *const values[] = {"FILE", "DIR", "NAME", "MODEL", "LEVEL", "TYPE", "RECIPE"};
    bool found = false;
    for (size_t i = 0; i < LQ_COUNT_OF(values) && option->choices == NULL; i++) {
        found = found || strcmp(option->value, values[i]) == 0;
    }
    return found;
}

/* The value of an option: `attached` is what follows "=" or the letter, or NULL; else the next
 * word. */
static enum lq_status take_value(struct lq_args *args, const struct lq_option *option,
                                 const char *attached, char **argv, size_t *next,
                                 struct lq_arena *arena, struct lq_error *err)
{
    const char *value = attached;
    if (option->value != NULL && value == NULL) {
        if (argv[*next] != NULL && (!option->number_optional || is_number(argv[*next]))) {
            value = argv[(*next)++];
        } else if (!option->number_optional) {
            return lq_error_set(err, LQ_EUSAGE, "--%s needs a value; write '--%s %s'", option->name,
                                option->name, option->value);
        }
    }
    if (value != NULL && value[0] == '\0' && names_something(option)) {
        return lq_error_set(err, LQ_EUSAGE, "the value of --%s is empty; write '--%s %s'",
                            option->name, option->name, option->value);
    }
    if (value != NULL) {
        enum lq_status status = check_choice(option, value, arena, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return add_item(args, option, value, arena, err);
}

static enum lq_status parse_long(struct lq_args *args, const char *word, char **argv, size_t *next,
                                 const struct lq_option_set *sets, size_t set_count,
                                 struct lq_arena *arena, struct lq_error *err)
{
    size_t length = strcspn(word, "=");
    const char *attached = word[length] == '=' ? word + length + 1 : NULL;
    const struct lq_option *option = find_long(sets, set_count, word, length);
    if (option == NULL) {
        return refuse_unknown(sets, set_count, word, length, arena, err);
    }
    if (option->value == NULL && attached != NULL) {
        return lq_error_set(err, LQ_EUSAGE, "--%s takes no value, got '%s'", option->name,
                            attached);
    }
    return take_value(args, option, attached, argv, next, arena, err);
}

static enum lq_status parse_cluster(struct lq_args *args, const char *letters, char **argv,
                                    size_t *next, const struct lq_option_set *sets,
                                    size_t set_count, struct lq_arena *arena, struct lq_error *err)
{
    for (const char *at = letters; *at != '\0'; at++) {
        const struct lq_option *option = find_short(sets, set_count, *at);
        if (option == NULL) {
            return lq_error_set(err, LQ_EUSAGE,
                                "unknown option '-%c'; 'lqbuild --help' lists the options", *at);
        }
        bool takes_rest = option->value != NULL && at[1] != '\0' &&
                          (!option->number_optional || is_number(at + 1));
        /* "-nkv": a letter with an optional number inside a cluster has none. */
        bool bare = option->value == NULL || (option->number_optional && at[1] != '\0');
        enum lq_status status = LQ_OK;
        if (takes_rest) {
            return take_value(args, option, at[1] == '=' ? at + 2 : at + 1, argv, next, arena, err);
        }
        if (bare) {
            status = add_item(args, option, NULL, arena, err);
        } else {
            status = take_value(args, option, NULL, argv, next, arena, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_args_parse(struct lq_args *args, char **argv, size_t *next,
                             const struct lq_option_set *sets, size_t set_count,
                             bool stop_at_operand, struct lq_arena *arena, struct lq_error *err)
{
    while (argv[*next] != NULL) {
        const char *word = argv[*next];
        enum lq_status status = LQ_OK;
        if (args->ended || word[0] != '-' || word[1] == '\0') {
            if (stop_at_operand) {
                return LQ_OK;
            }
            args->operands[args->operand_count++] = word;
            (*next)++;
            continue;
        }
        (*next)++;
        if (strcmp(word, "--") == 0) {
            args->ended = true;
            continue;
        }
        if (word[1] == '-') {
            status = parse_long(args, word + 2, argv, next, sets, set_count, arena, err);
        } else {
            status = parse_cluster(args, word + 1, argv, next, sets, set_count, arena, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

bool lq_args_has(const struct lq_args *args, const char *name)
{
    for (size_t i = 0; i < args->count; i++) {
        if (strcmp(args->items[i].option->name, name) == 0) {
            return true;
        }
    }
    return false;
}

const char *lq_args_get(const struct lq_args *args, const char *name)
{
    const char *value = NULL;
    for (size_t i = 0; i < args->count; i++) {
        if (strcmp(args->items[i].option->name, name) == 0) {
            value = args->items[i].value;
        }
    }
    return value;
}

const char *lq_args_next(const struct lq_args *args, const char *name, size_t *position)
{
    while (*position < args->count) {
        const struct lq_arg *arg = &args->items[(*position)++];
        if (strcmp(arg->option->name, name) == 0) {
            return arg->value;
        }
    }
    return NULL;
}

enum lq_status lq_args_uint(const struct lq_args *args, const char *name, uint64_t min,
                            uint64_t max, uint64_t *out, struct lq_error *err)
{
    const char *text = lq_args_get(args, name);
    if (text == NULL) {
        return LQ_OK;
    }
    uint64_t value = 0;
    bool fits = is_number(text);
    for (const char *at = text; fits && *at != '\0'; at++) {
        fits = lq_mul_u64(value, 10, &value) && lq_add_u64(value, (uint64_t)(*at - '0'), &value);
    }
    if (!fits || value < min || value > max) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--%s expects a whole number from %llu to %llu, got '%s'", name,
                            (unsigned long long)min, (unsigned long long)max, text);
    }
    *out = value;
    return LQ_OK;
}

enum lq_status lq_args_number(const struct lq_args *args, const char *name, double *out,
                              bool *given, struct lq_error *err)
{
    const char *text = lq_args_get(args, name);
    *given = text != NULL;
    if (text == NULL) {
        return LQ_OK;
    }
    char *end = NULL;
    /* strtod alone would also take "inf", hexadecimal and leading spaces. */
    size_t span = strspn(text, "0123456789.eE+-");
    double value = strtod(text, &end);
    bool percent = strcmp(text + span, "%") == 0;
    bool whole = span > 0 && end == text + span && (percent || text[span] == '\0');
    if (!whole || !isfinite(value)) {
        return lq_error_set(err, LQ_EUSAGE, "--%s expects a number, got '%s'", name, text);
    }
    *out = percent ? value / 100.0 : value;
    return LQ_OK;
}

/* The option parser: forms of long and short options, numbers, suggestions, hostile words. */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/text.h"
#include "engine/cli/options.h"

static const struct lq_option options[] = {
    {'j', "jobs", "N", NULL, false, "threads"},
    {'k', "keep-going", "N", NULL, true, "go on"},
    {'n', "dry-run", NULL, NULL, false, "do nothing"},
    {'D', "define", "NAME=VALUE", NULL, false, "define"},
    {0, "progress", "MODE", "auto plain live none", false, "mode"},
};
static const struct lq_option own[] = {{'n', "name", "NAME", NULL, false, "takes -n for itself"}};

struct parsed {
    struct lq_arena arena;
    struct lq_args args;
    struct lq_error err;
    enum lq_status status;
    size_t next;
};

static struct parsed parse(char **words, bool stop, bool with_own)
{
    struct parsed parsed;
    memset(&parsed, 0, sizeof parsed);
    size_t count = 0;
    while (words[count] != NULL) {
        count++;
    }
    struct lq_option_set sets[2] = {{own, with_own ? 1 : 0}, {options, 5}};
    lq_arena_init(&parsed.arena);
    cr_assert_eq(lq_args_init(&parsed.args, count, &parsed.arena, &parsed.err), LQ_OK);
    parsed.status =
        lq_args_parse(&parsed.args, words, &parsed.next, sets, 2, stop, &parsed.arena, &parsed.err);
    return parsed;
}
#define PARSE(...) parse((char *[]){__VA_ARGS__, NULL}, false, false)

static void expect_error(struct parsed parsed, const char *part)
{
    cr_expect_eq(parsed.status, LQ_EUSAGE);
    cr_expect(strstr(parsed.err.message, part) != NULL, "'%s' lacks '%s'", parsed.err.message,
              part);
    lq_arena_fini(&parsed.arena);
}

Test(options, values_may_be_attached_or_apart)
{
    char *forms[][3] = {{"--jobs=3", NULL},
                        {"--jobs", "3", NULL},
                        {"-j3", NULL},
                        {"-j", "3", NULL},
                        {"-j=3", NULL}};
    for (size_t i = 0; i < 5; i++) {
        struct parsed parsed = parse(forms[i], false, false);
        uint64_t jobs = 0;
        cr_assert_eq(parsed.status, LQ_OK);
        cr_expect_eq(lq_args_uint(&parsed.args, "jobs", 1, 8, &jobs, NULL), LQ_OK);
        cr_expect_eq(jobs, 3, "form %zu", i);
        cr_expect_eq(parsed.args.operand_count, 0);
        lq_arena_fini(&parsed.arena);
    }
}

Test(options, short_options_cluster)
{
    struct parsed parsed = PARSE("-nkj4", "out");
    uint64_t jobs = 0;
    cr_assert_eq(parsed.status, LQ_OK);
    cr_expect(lq_args_has(&parsed.args, "dry-run"));
    cr_expect(lq_args_has(&parsed.args, "keep-going"));
    cr_expect_null(lq_args_get(&parsed.args, "keep-going"));
    cr_expect_eq(lq_args_uint(&parsed.args, "jobs", 1, 8, &jobs, NULL), LQ_OK);
    cr_expect_eq(jobs, 4);
    cr_expect_str_eq(parsed.args.operands[0], "out");
    lq_arena_fini(&parsed.arena);
}

Test(options, an_optional_number_is_taken_only_when_it_is_one)
{
    struct parsed parsed = PARSE("-k", "7", "-k", "target", "--keep-going=2");
    size_t position = 0;
    cr_assert_eq(parsed.status, LQ_OK);
    cr_expect_str_eq(lq_args_next(&parsed.args, "keep-going", &position), "7");
    cr_expect_null(lq_args_next(&parsed.args, "keep-going", &position));
    cr_expect_str_eq(lq_args_next(&parsed.args, "keep-going", &position), "2");
    cr_expect_eq(parsed.args.operand_count, 1);
    cr_expect_str_eq(parsed.args.operands[0], "target");
    lq_arena_fini(&parsed.arena);
}

Test(options, two_dashes_end_options)
{
    struct parsed parsed = PARSE("--", "--jobs", "-n", "-");
    cr_assert_eq(parsed.status, LQ_OK);
    cr_expect_eq(parsed.args.operand_count, 3);
    cr_expect_eq(parsed.args.count, 0);
    cr_expect(parsed.args.ended);
    lq_arena_fini(&parsed.arena);
}

Test(options, parsing_can_stop_at_the_first_operand)
{
    char *words[] = {"-n", "check", "--unknown", NULL};
    struct parsed parsed = parse(words, true, false);
    cr_assert_eq(parsed.status, LQ_OK);
    cr_expect_eq(parsed.next, 1);
    cr_expect_eq(parsed.args.operand_count, 0);
    lq_arena_fini(&parsed.arena);
}

Test(options, a_command_may_take_a_letter_for_itself)
{
    char *words[] = {"-n", "x", NULL};
    struct parsed parsed = parse(words, false, true);
    cr_assert_eq(parsed.status, LQ_OK);
    cr_expect_str_eq(lq_args_get(&parsed.args, "name"), "x");
    cr_expect_not(lq_args_has(&parsed.args, "dry-run"));
    lq_arena_fini(&parsed.arena);
}

Test(options, the_last_value_counts_and_all_can_be_read)
{
    struct parsed parsed = PARSE("-Da=1", "-D", "b=2", "--define=c=3");
    size_t position = 0;
    cr_expect_str_eq(lq_args_get(&parsed.args, "define"), "c=3");
    cr_expect_str_eq(lq_args_next(&parsed.args, "define", &position), "a=1");
    cr_expect_str_eq(lq_args_next(&parsed.args, "define", &position), "b=2");
    cr_expect_str_eq(lq_args_next(&parsed.args, "define", &position), "c=3");
    cr_expect_null(lq_args_next(&parsed.args, "define", &position));
    lq_arena_fini(&parsed.arena);
}

Test(options, errors_suggest)
{
    expect_error(PARSE("--job"), "did you mean '--jobs'?");
    expect_error(PARSE("--dry-rum"), "did you mean '--dry-run'?");
    expect_error(PARSE("--zzzzzzzz"), "unknown option '--zzzzzzzz'");
    expect_error(PARSE("-Z"), "unknown option '-Z'");
    expect_error(PARSE("--jobs"), "--jobs needs a value");
    expect_error(PARSE("-j"), "--jobs needs a value");
    expect_error(PARSE("--dry-run=yes"), "takes no value");
    expect_error(PARSE("--progress=plane"), "did you mean 'plain'?");
    expect_error(PARSE("--progress", ""), "expected one of");
    expect_error(PARSE("--="), "unknown option");
}

Test(options, a_suggestion_has_something_of_what_was_typed)
{
    static const char *const numbers[] = {"2", "32"};
    static const char *const names[] = {"k", "ab"};
    cr_expect_null(lq_text_nearest("5", numbers, 2));
    cr_expect_null(lq_text_nearest("x", names, 2));
    cr_expect_str_eq(lq_text_nearest("3", numbers, 2), "32");
    cr_expect_str_eq(lq_text_nearest("ba", names, 2), "ab");
}

Test(options, whole_numbers_are_checked)
{
    char *bad[] = {"", "-1", "1.5", "0x10", "9", "0", " 1", "1 ", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct parsed parsed = PARSE("--jobs", bad[i]);
        uint64_t value = 77;
        cr_assert_eq(parsed.status, LQ_OK);
        cr_expect_eq(lq_args_uint(&parsed.args, "jobs", 1, 8, &value, NULL), LQ_EUSAGE, "'%s'",
                     bad[i]);
        cr_expect_eq(value, 77);
        lq_arena_fini(&parsed.arena);
    }
}

Test(options, numbers_are_checked)
{
    char *bad[] = {"", "nan", "inf", "-inf", "0x1p3", "1e999", " 1", "1x", "%", "1%%", "1e"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct parsed parsed = PARSE("--jobs", bad[i]);
        double value = 77;
        bool given = false;
        cr_expect_eq(lq_args_number(&parsed.args, "jobs", &value, &given, NULL), LQ_EUSAGE, "'%s'",
                     bad[i]);
        lq_arena_fini(&parsed.arena);
    }
    struct {
        char *text;
        double value;
    } good[] = {{"0.0001", 0.0001}, {"20%", 0.2}, {"1e-3", 0.001}, {"-2.5", -2.5}, {"0", 0.0}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct parsed parsed = PARSE("--jobs", good[i].text);
        double value = 77;
        bool given = false;
        cr_expect_eq(lq_args_number(&parsed.args, "jobs", &value, &given, NULL), LQ_OK);
        cr_expect(given);
        cr_expect_eq(value, good[i].value, "'%s'", good[i].text);
        lq_arena_fini(&parsed.arena);
    }
}

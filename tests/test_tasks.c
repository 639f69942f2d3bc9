#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/limits.h"
#include "rules/format/tasks.h"
#include "rules/quality/accuracy.h"

static struct lq_arena arena;
static struct lq_error err;
static struct lq_task_list list;

static void set_up(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
}

static void tear_down(void)
{
    lq_arena_fini(&arena);
}

TestSuite(tasks, .init = set_up, .fini = tear_down);

static enum lq_status parse(enum lq_task_format format, const char *text)
{
    return lq_tasks_parse(text, strlen(text), "tasks", format, &arena, &list, &err);
}

Test(tasks, json_lines)
{
    cr_assert_eq(
        parse(LQ_TASKS_JSONL,
              "{\"context\":\"The sky is\",\"choices\":[\"blue\",\"a dog\"],\"answer\":0}\n"
              "\n"
              "{\"ctx\":\"A\",\"endings\":[\"b\",\"c\",\"d\"],\"label\":\"2\"}"),
        LQ_OK, "%s", err.message);
    cr_assert_eq(list.count, 2);
    cr_expect_str_eq(list.tasks[0].texts[0], "The sky is blue");
    cr_expect_str_eq(list.tasks[0].texts[1], "The sky is a dog");
    cr_expect_eq(list.tasks[0].is_right[0], 1);
    cr_expect_eq(list.tasks[0].is_right[1], 0);
    cr_expect_eq(list.tasks[1].choice_count, 3);
    cr_expect_eq(list.tasks[1].is_right[2], 1);
    cr_expect_null(list.tasks[0].beginnings);
}

Test(tasks, hellaswag)
{
    cr_assert_eq(parse(LQ_TASKS_HELLASWAG, "Ctx\n3\na\nb\nc\nd\r\n"), LQ_OK, "%s", err.message);
    cr_assert_eq(list.count, 1);
    cr_expect_str_eq(list.tasks[0].texts[3], "Ctx d");
    cr_expect_eq(list.tasks[0].is_right[3], 1);
    cr_expect_eq(parse(LQ_TASKS_HELLASWAG, "Ctx\n3\na\nb\nc\n"), LQ_EFORMAT);
    cr_expect_eq(parse(LQ_TASKS_HELLASWAG, "Ctx\n4\na\nb\nc\nd\n"), LQ_EFORMAT);
}

Test(tasks, winogrande)
{
    cr_assert_eq(parse(LQ_TASKS_WINOGRANDE, "0,Ann met Bob so _ smiled.,Ann,Bob,2\n"
                                            "1,\"Well, _ won.\",A,B,1\n"),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(list.count, 2);
    cr_expect_str_eq(list.tasks[0].texts[1], "Ann met Bob so Bob smiled.");
    cr_expect_str_eq(list.tasks[0].beginnings[0], "Ann met Bob so Ann");
    cr_expect_eq(list.tasks[0].is_right[1], 1);
    cr_expect_str_eq(list.tasks[1].texts[0], "Well, A won.");
    cr_expect_eq(parse(LQ_TASKS_WINOGRANDE, "0,no gap,A,B,1\n"), LQ_EFORMAT);
    cr_expect_eq(parse(LQ_TASKS_WINOGRANDE, "0,a _ b,A,B,3\n"), LQ_EFORMAT);
    cr_expect_eq(parse(LQ_TASKS_WINOGRANDE, "0,a _ b,A,1\n"), LQ_EFORMAT);
    cr_expect_eq(parse(LQ_TASKS_WINOGRANDE, "0,\"a _ b,A,B,1\n"), LQ_EFORMAT);
}

static void append_text(struct lq_buffer *out, const char *text)
{
    lq_buffer_append_u32(out, (uint32_t)strlen(text));
    lq_buffer_append_string(out, text);
}

static void make_binary(struct lq_buffer *out)
{
    lq_buffer_append_u32(out, 1);
    lq_buffer_append_u32(out, 8);
    append_text(out, "Who?");
    lq_buffer_append_u32(out, 2);
    append_text(out, "me");
    append_text(out, "you");
    lq_buffer_append_u32(out, 0);
    lq_buffer_append_u32(out, 1);
    lq_buffer_append_u32(out, 0);
}

Test(tasks, multiple_choice_and_every_way_to_cut_it)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    make_binary(&bytes);
    cr_assert_eq(lq_tasks_parse(bytes.data, bytes.size_bytes, "tasks", LQ_TASKS_MULTIPLE_CHOICE,
                                &arena, &list, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(list.count, 1);
    cr_expect_str_eq(list.tasks[0].texts[1], "Who? you");
    cr_expect_eq(list.tasks[0].is_right[1], 1);
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_expect_eq(lq_tasks_parse(bytes.data, size, "tasks", LQ_TASKS_MULTIPLE_CHOICE, &arena,
                                    &list, &err),
                     LQ_EFORMAT, "%zu", size);
    }
    /* Absurd counts: of tasks, bytes of a text, answers. */
    static const size_t places[] = {0, 8, 16};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        lq_buffer_clear(&bytes);
        make_binary(&bytes);
        memset(bytes.data + places[i], 0xff, 4);
        cr_expect_eq(lq_tasks_parse(bytes.data, bytes.size_bytes, "tasks", LQ_TASKS_MULTIPLE_CHOICE,
                                    &arena, &list, &err),
                     LQ_EFORMAT, "%zu", i);
    }
    lq_buffer_fini(&bytes);
}

Test(tasks, malformed_lines_are_refused_with_their_number)
{
    static const char *const lies[] = {
        "",
        "\n\n",
        "[]",
        "{\"context\":\"a\",\"choices\":[\"b\"],\"answer\":0}",
        "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":2}",
        "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":-1}",
        "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":0.5}",
        "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":\"x\"}",
        "{\"context\":\"a\",\"choices\":[\"b\",1],\"answer\":0}",
        "{\"context\":1,\"choices\":[\"b\",\"c\"],\"answer\":0}",
        "{\"choices\":[\"b\",\"c\"],\"answer\":0}",
        "{\"context\":\"a\",",
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        cr_expect_eq(parse(LQ_TASKS_JSONL, lies[i]), LQ_EFORMAT, "%s", lies[i]);
    }
    cr_expect_eq(
        parse(LQ_TASKS_JSONL, "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":0}\n{}\n"),
        LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "tasks:2:"), "%s", err.message);
    cr_expect_eq(lq_tasks_parse("a\0b", 3, "tasks", LQ_TASKS_HELLASWAG, &arena, &list, &err),
                 LQ_EFORMAT);
}

/* llama-perplexity prints [45.2610%, 62.8139%] for 65 of 120. */
Test(tasks, intervals_are_wilsons)
{
    struct lq_accuracy got;
    lq_accuracy_make(120, 65, 25.0, &got);
    cr_expect_float_eq(got.accuracy_pct, 54.16666667, 1e-7);
    cr_expect_float_eq(got.low_pct, 45.2610, 5e-5);
    cr_expect_float_eq(got.high_pct, 62.8139, 5e-5);
    lq_accuracy_make(3, 3, 25.0, &got);
    cr_expect_leq(got.high_pct, 100.0);
    cr_expect_lt(got.low_pct, 50.0);
    static const char lie[] = "{\"tasks\":2,\"right\":3,\"chance_pct\":50}";
    cr_expect_eq(lq_accuracy_parse(lie, strlen(lie), &got, &err), LQ_EFORMAT);
}

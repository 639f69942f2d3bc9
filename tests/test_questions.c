/* Tasks as they are asked: every choice in one batch, and bytes that were tampered with. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/gguf.h"
#include "rules/quality/questions.h"

enum { TASKS = 150, CHOICES = 3 };

static struct lq_arena arena;
static struct lq_vocab *vocab;
static struct lq_task_list list;
static struct lq_error err;
static size_t first_choice[TASKS + 1];

/* Task t has words enough that lengths differ. */
static void make_tasks(struct lq_buffer *text)
{
    for (unsigned t = 0; t < TASKS; t++) {
        lq_buffer_append_string(text, "{\"context\":\"a");
        for (unsigned i = 0; i < t * 37 % 101; i++) {
            lq_buffer_append_string(text, " word");
        }
        lq_buffer_append_string(text, "\",\"choices\":[");
        for (unsigned c = 0; c < CHOICES; c++) {
            lq_buffer_printf(text, "%s\"end %u of %u\"", c > 0 ? "," : "", c, t);
        }
        lq_buffer_append_string(text, "],\"answer\":1}\n");
    }
}

static void set_up(void)
{
    static const char path[] =
        LQ_SOURCE_DIR "/tests/golden/tokenizer/ggml-vocab-deepseek-coder.gguf";
    struct lq_map map;
    struct lq_gguf gguf;
    struct lq_buffer text;
    lq_arena_init(&arena);
    lq_buffer_init(&text);
    make_tasks(&text);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, path, LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_vocab_load(&vocab, &gguf, path, &err), LQ_OK, "%s", err.message);
    lq_map_close(&map);
    cr_assert_eq(
        lq_tasks_parse(text.data, text.size_bytes, "tasks", LQ_TASKS_JSONL, &arena, &list, &err),
        LQ_OK, "%s", err.message);
    lq_buffer_fini(&text);
    for (size_t t = 0; t <= TASKS; t++) {
        first_choice[t] = t * CHOICES;
    }
}

static void tear_down(void)
{
    lq_vocab_destroy(vocab);
    lq_arena_fini(&arena);
}

TestSuite(questions, .init = set_up, .fini = tear_down);

static enum lq_status format(size_t batch_count, size_t context, struct lq_buffer *out)
{
    const struct lq_questions_request request = {
        .tasks = &list, .vocab = vocab, .context = context, .batch_count = batch_count};
    lq_buffer_init(out);
    return lq_questions_format(&request, out, &err);
}

static size_t get_batch(const struct lq_buffer *bytes, size_t number, struct lq_question **out)
{
    struct lq_questions_batch batch;
    size_t count = 0;
    cr_assert_eq(lq_questions_find(bytes->data, lq_questions_head_bytes(number), number,
                                   bytes->size_bytes, &batch, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(batch.vocab_size, lq_vocab_size(vocab));
    cr_assert_eq(lq_questions_parse(bytes->data + batch.begin, batch.end - batch.begin, &arena, out,
                                    &count, &err),
                 LQ_OK, "%s", err.message);
    return count;
}

/* However many batches there are, the same questions, from short to long, with equal shares. */
Test(questions, batches_share_all_choices)
{
    static const size_t counts[] = {1, 7, 1000};
    struct lq_question *whole = NULL;
    struct lq_buffer bytes[3];
    for (size_t i = 0; i < 3; i++) {
        size_t longest = 0;
        size_t done = 0;
        size_t most = 0;
        size_t least = SIZE_MAX;
        cr_assert_eq(format(counts[i], 4096, &bytes[i]), LQ_OK, "%s", err.message);
        for (size_t b = 0; b < counts[i]; b++) {
            struct lq_question *batch = NULL;
            size_t tokens = 0;
            size_t count = get_batch(&bytes[i], b, &batch);
            whole = i == 0 ? batch : whole;
            for (size_t k = 0; k < count; k++, done++) {
                cr_assert_geq(lq_question_length(&batch[k]), longest);
                longest = lq_question_length(&batch[k]);
                tokens += longest;
                cr_assert_eq(batch[k].task, whole[done].task);
                cr_assert_eq(batch[k].choice, whole[done].choice);
                cr_assert_eq(batch[k].from, whole[done].from);
                cr_assert_eq(batch[k].to, whole[done].to);
                cr_assert_eq(batch[k].count, whole[done].count);
                cr_assert_arr_eq(batch[k].ids, whole[done].ids, batch[k].count * sizeof(int32_t));
            }
            most = tokens > most ? tokens : most;
            least = tokens < least ? tokens : least;
        }
        cr_expect_eq(done, TASKS * CHOICES);
        if (counts[i] == 7) {
            cr_expect_leq(most - least, 2 * longest);
        }
    }
    for (size_t i = 0; i < 3; i++) {
        lq_buffer_fini(&bytes[i]);
    }
}

Test(questions, scores_what_differs)
{
    struct lq_buffer bytes;
    struct lq_question *all = NULL;
    cr_assert_eq(format(1, 4096, &bytes), LQ_OK, "%s", err.message);
    size_t count = get_batch(&bytes, 0, &all);
    for (size_t i = 0; i < count; i++) {
        const char *text = list.tasks[all[i].task].texts[all[i].choice];
        struct lq_buffer scored;
        lq_buffer_init(&scored);
        for (size_t k = all[i].from; k < all[i].to; k++) {
            size_t length = 0;
            const char *piece = lq_vocab_piece(vocab, all[i].ids[k], &length);
            lq_buffer_append(&scored, piece, length);
        }
        /* From the number of the choice on: "0 of 12". */
        cr_assert_str_eq(lq_buffer_text(&scored), strstr(text, "end ") + 4);
        lq_buffer_fini(&scored);
    }
    lq_buffer_fini(&bytes);
    cr_expect_eq(format(1, 60, &bytes), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "the model's context is 60"), "%s", err.message);
    lq_buffer_fini(&bytes);
}

Test(questions, answers_come_back_to_their_choices)
{
    struct lq_buffer bytes;
    struct lq_buffer answers;
    struct lq_question *all = NULL;
    double scores[TASKS * CHOICES];
    cr_assert_eq(format(2, 4096, &bytes), LQ_OK, "%s", err.message);
    for (size_t i = 0; i < TASKS * CHOICES; i++) {
        scores[i] = (double)NAN;
    }
    for (size_t b = 0; b < 2; b++) {
        size_t count = get_batch(&bytes, b, &all);
        for (size_t i = 0; i < count; i++) {
            all[i].score = -(double)(all[i].task * CHOICES + all[i].choice) / 3.0;
        }
        lq_buffer_init(&answers);
        lq_answers_format(all, count, &answers);
        cr_assert_eq(
            lq_answers_parse(answers.data, answers.size_bytes, &list, first_choice, scores, &err),
            LQ_OK, "%s", err.message);
        /* Twice, cut, and not a number. */
        cr_expect_eq(
            lq_answers_parse(answers.data, answers.size_bytes, &list, first_choice, scores, &err),
            LQ_EFORMAT);
        cr_expect_eq(lq_answers_parse(answers.data, 15, &list, first_choice, scores, &err),
                     LQ_EFORMAT);
        memset(answers.data + 8, 0xff, 8);
        cr_expect_eq(lq_answers_parse(answers.data, 16, &list, first_choice, scores, &err),
                     LQ_EFORMAT);
        memset(answers.data, 0xff, 8);
        cr_expect_eq(lq_answers_parse(answers.data, 16, &list, first_choice, scores, &err),
                     LQ_EFORMAT);
        lq_buffer_fini(&answers);
    }
    for (size_t i = 0; i < TASKS * CHOICES; i++) {
        cr_assert_eq(scores[i], -(double)i / 3.0);
    }
    lq_buffer_fini(&bytes);
}

Test(questions, bytes_that_lie_are_refused)
{
    struct lq_buffer bytes;
    struct lq_questions_batch batch;
    struct lq_question *out = NULL;
    size_t count = 0;
    cr_assert_eq(format(3, 4096, &bytes), LQ_OK, "%s", err.message);
    uint64_t head = lq_questions_head_bytes(2);
    cr_expect_eq(lq_questions_find(bytes.data, head, 3, bytes.size_bytes, &batch, &err),
                 LQ_EFORMAT);
    cr_expect_eq(lq_questions_find(bytes.data, head, 2, bytes.size_bytes - 1, &batch, &err),
                 LQ_EFORMAT);
    for (uint64_t size = 0; size < head; size++) {
        cr_assert_eq(lq_questions_find(bytes.data, size, 2, bytes.size_bytes, &batch, &err),
                     LQ_EFORMAT, "%d", (int)size);
    }
    cr_assert_eq(lq_questions_find(bytes.data, head, 0, bytes.size_bytes, &batch, &err), LQ_OK);
    unsigned char *data = bytes.data + batch.begin;
    uint64_t whole = 20 + 4 * (uint64_t)(data[16] + 256 * data[17]);
    for (uint64_t size = 1; size < whole; size++) {
        cr_assert_eq(lq_questions_parse(data, size, &arena, &out, &count, &err), LQ_EFORMAT, "%d",
                     (int)size);
    }
    cr_assert_eq(lq_questions_parse(data, whole, &arena, &out, &count, &err), LQ_OK);
    for (size_t field = 0; field < 5; field++) {
        unsigned char kept[4];
        memcpy(kept, data + 4 * field, sizeof kept);
        memset(data + 4 * field, 0xff, sizeof kept);
        cr_expect_eq(lq_questions_parse(data, whole, &arena, &out, &count, &err), LQ_EFORMAT, "%d",
                     (int)field);
        memcpy(data + 4 * field, kept, sizeof kept);
    }
    lq_buffer_fini(&bytes);
}

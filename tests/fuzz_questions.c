/* What steps of a report leave for each other: the first byte chooses questions of a batch, where a
 * batch lies, or continuations; the rest is the file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "rules/quality/continuation.h"
#include "rules/quality/questions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_questions(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_question *questions = NULL;
    size_t count = 0;
    struct lq_error err;
    lq_arena_init(&arena);
    if (lq_questions_parse(data, size, &arena, &questions, &count, &err) == LQ_OK) {
        for (size_t i = 0; i < count; i++) {
            if (questions[i].from == 0 || questions[i].to > questions[i].count) {
                abort();
            }
        }
    }
    lq_arena_fini(&arena);
}

static void find_batch(const uint8_t *data, size_t size)
{
    struct lq_questions_batch batch;
    struct lq_error err;
    if (lq_questions_find(data, size, size % 5, size, &batch, &err) == LQ_OK &&
        (batch.begin > batch.end || batch.end > size)) {
        abort();
    }
}

static void parse_continuations(const uint8_t *data, size_t size)
{
    struct lq_continuation texts;
    struct lq_error err;
    if (lq_continuation_parse(&texts, data, size, &err) == LQ_OK) {
        for (size_t i = 0; i < texts.count; i++) {
            if (texts.prompt_counts[i] + texts.length > texts.sequence ||
                lq_continuation_written_count(&texts, i) > texts.length) {
                abort();
            }
        }
    }
    lq_continuation_fini(&texts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(const uint8_t *data, size_t size) = {parse_questions, find_batch,
                                                                        parse_continuations};
    if (size > 0) {
        parsers[data[0] % 3](data + 1, size - 1);
    }
    return 0;
}

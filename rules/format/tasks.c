#include "rules/format/tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum { HELLASWAG_LINES = 6, HELLASWAG_CHOICES = 4, WINOGRANDE_FIELDS = 5 };

const char lq_task_format_choices[] = "jsonl hellaswag winogrande multiple-choice";

enum lq_task_format lq_task_format_of(const char *name)
{
    static const char *const names[LQ_TASK_FORMAT_COUNT] = {"jsonl", "hellaswag", "winogrande",
                                                            "multiple-choice"};
    int format = 0;
    while (format < LQ_TASK_FORMAT_COUNT && strcmp(names[format], name) != 0) {
        format++;
    }
    return (enum lq_task_format)format;
}

/* What the readers share. */
struct parse {
    const char *where;
    struct lq_arena *arena;
    struct lq_task_list *out;
    size_t room;
    struct lq_error *err;
};

static enum lq_status grow(struct parse *parse)
{
    if (parse->out->count < parse->room) {
        return LQ_OK;
    }
    if (parse->out->count >= LQ_TASKS_MAX) {
        return lq_error_set(parse->err, LQ_EFORMAT, "%s: more than %d tasks", parse->where,
                            LQ_TASKS_MAX);
    }
    size_t room = parse->room == 0 ? 64 : parse->room * 2;
    struct lq_task *tasks = lq_arena_get_array(parse->arena, room, sizeof *tasks);
    if (tasks == NULL) {
        return lq_error_nomem(parse->err, "tasks");
    }
    if (parse->out->count > 0) {
        memcpy(tasks, parse->out->tasks, parse->out->count * sizeof *tasks);
    }
    parse->out->tasks = tasks;
    parse->room = room;
    return LQ_OK;
}

/* A task with room for its choices. */
static enum lq_status add_task(struct parse *parse, size_t choice_count, struct lq_task **out,
                               uint8_t **is_right)
{
    enum lq_status status = grow(parse);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_task *task = &parse->out->tasks[parse->out->count++];
    *task = (struct lq_task){.choice_count = choice_count};
    task->texts = lq_arena_get_array(parse->arena, choice_count, sizeof *task->texts);
    *is_right = lq_arena_get_array(parse->arena, choice_count, 1);
    task->is_right = *is_right;
    *out = task;
    return task->texts == NULL || *is_right == NULL ? lq_error_nomem(parse->err, "tasks") : LQ_OK;
}

static enum lq_status set_choice(struct parse *parse, struct lq_task *task, size_t index,
                                 const char *choice)
{
    task->texts[index] = lq_arena_printf(parse->arena, "%s %s", task->context, choice);
    return task->texts[index] == NULL ? lq_error_nomem(parse->err, "tasks") : LQ_OK;
}

/* ---- lines ---- */

struct lines {
    const char *at;
    uint64_t left;
    size_t number;
};

/* The next line without its end, copied; *line NULL at the end. NUL bytes are refused. */
static enum lq_status next_line(struct parse *parse, struct lines *lines, const char **line)
{
    *line = NULL;
    if (lines->left == 0) {
        return LQ_OK;
    }
    const char *end = memchr(lines->at, '\n', (size_t)lines->left);
    size_t length = end == NULL ? (size_t)lines->left : (size_t)(end - lines->at);
    size_t used = length + (end != NULL);
    lines->number++;
    if (memchr(lines->at, 0, length) != NULL) {
        return lq_error_set(parse->err, LQ_EFORMAT, "%s:%zu: a NUL byte; this is no text",
                            parse->where, lines->number);
    }
    if (length > 0 && lines->at[length - 1] == '\r') {
        length--;
    }
    *line = lq_arena_dup(parse->arena, lines->at, length);
    lines->at += used;
    lines->left -= used;
    return *line == NULL ? lq_error_nomem(parse->err, "tasks") : LQ_OK;
}

static enum lq_status bad_line(const struct parse *parse, const struct lines *lines,
                               const char *what)
{
    return lq_error_set(parse->err, LQ_EFORMAT, "%s:%zu: %s", parse->where, lines->number, what);
}

/* ---- JSON lines ---- */

static const cJSON *find_any(const cJSON *object, const char *const *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const cJSON *member = lq_json_find(object, keys[i]);
        if (member != NULL) {
            return member;
        }
    }
    return NULL;
}

/* A whole number, also as a string; -1 for anything else. */
static long whole_number(const cJSON *item)
{
    if (cJSON_IsNumber(item)) {
        double value = item->valuedouble;
        return value >= 0.0 && value < LQ_TASK_CHOICES_MAX && value == (double)(long)value
                   ? (long)value
                   : -1;
    }
    if (!cJSON_IsString(item) || item->valuestring[0] < '0' || item->valuestring[0] > '9') {
        return -1;
    }
    char *end = NULL;
    long value = strtol(item->valuestring, &end, 10);
    return *end == '\0' ? value : -1;
}

static enum lq_status read_object(struct parse *parse, const struct lines *lines, const cJSON *root)
{
    static const char *const contexts[] = {"context", "question", "ctx", "prompt"};
    static const char *const lists[] = {"choices", "endings", "answers"};
    static const char *const answers[] = {"answer", "label", "gold"};
    const cJSON *context = find_any(root, contexts, LQ_COUNT_OF(contexts));
    const cJSON *list = find_any(root, lists, LQ_COUNT_OF(lists));
    const cJSON *answer = find_any(root, answers, LQ_COUNT_OF(answers));
    struct lq_task *task = NULL;
    uint8_t *is_right = NULL;
    if (!cJSON_IsString(context)) {
        return bad_line(parse, lines, "expected a string 'context', 'question', 'ctx' or 'prompt'");
    }
    int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (count < 2 || count > LQ_TASK_CHOICES_MAX) {
        return bad_line(parse, lines,
                        "expected a list 'choices', 'endings' or 'answers' of at least 2 strings");
    }
    long right = whole_number(answer);
    if (right < 0 || right >= count) {
        return bad_line(parse, lines,
                        "expected the number of the right choice, from 0, as 'answer', 'label' or "
                        "'gold'");
    }
    enum lq_status status = add_task(parse, (size_t)count, &task, &is_right);
    if (status != LQ_OK) {
        return status;
    }
    is_right[right] = 1;
    task->context = lq_arena_dup_string(parse->arena, context->valuestring);
    const cJSON *item = NULL;
    size_t index = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item)) {
            return bad_line(parse, lines, "a choice is no string");
        }
        status = task->context == NULL ? lq_error_nomem(parse->err, "tasks")
                                       : set_choice(parse, task, index++, item->valuestring);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status parse_jsonl(struct parse *parse, struct lines *lines)
{
    for (;;) {
        const char *line = NULL;
        enum lq_status status = next_line(parse, lines, &line);
        if (status != LQ_OK || line == NULL) {
            return status;
        }
        if (line[strspn(line, " \t")] == '\0') {
            continue;
        }
        char place[512];
        cJSON *root = NULL;
        (void)snprintf(place, sizeof place, "%.480s:%zu", parse->where, lines->number);
        status = lq_json_parse(line, strlen(line), place, LQ_EFORMAT, &root, parse->err);
        if (status == LQ_OK) {
            status = read_object(parse, lines, root);
        }
        cJSON_Delete(root);
        if (status != LQ_OK) {
            return status;
        }
    }
}

/* ---- hellaswag ---- */

static enum lq_status parse_hellaswag(struct parse *parse, struct lines *lines)
{
    for (;;) {
        const char *six[HELLASWAG_LINES] = {NULL};
        struct lq_task *task = NULL;
        uint8_t *is_right = NULL;
        for (size_t i = 0; i < HELLASWAG_LINES; i++) {
            enum lq_status status = next_line(parse, lines, &six[i]);
            if (status != LQ_OK || (i == 0 && six[0] == NULL)) {
                return status;
            }
            if (six[i] == NULL) {
                return bad_line(parse, lines, "the last task has fewer than six lines");
            }
        }
        if (six[1][0] < '0' || six[1][0] >= '0' + HELLASWAG_CHOICES || six[1][1] != '\0') {
            return bad_line(parse, lines,
                            "the second of a task's six lines must be the number of the right "
                            "ending, 0 to 3");
        }
        enum lq_status status = add_task(parse, HELLASWAG_CHOICES, &task, &is_right);
        if (status != LQ_OK) {
            return status;
        }
        task->context = six[0];
        is_right[six[1][0] - '0'] = 1;
        for (size_t i = 0; status == LQ_OK && i < HELLASWAG_CHOICES; i++) {
            status = set_choice(parse, task, i, six[2 + i]);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
}

/* ---- winogrande ---- */

/* Cuts "index,sentence,choice,choice,answer" in place; a sentence may stand in quotes. */
static bool cut_fields(char *line, char *fields[WINOGRANDE_FIELDS])
{
    size_t count = 0;
    bool quoted = false;
    fields[count++] = line;
    for (char *c = line; *c != '\0' && count < WINOGRANDE_FIELDS; c++) {
        if (*c == '"') {
            quoted = !quoted;
        } else if (*c == ',' && !quoted) {
            *c = '\0';
            fields[count++] = c + 1;
        }
    }
    size_t length = count == WINOGRANDE_FIELDS ? strlen(fields[1]) : 0;
    if (length >= 2 && fields[1][0] == '"' && fields[1][length - 1] == '"') {
        fields[1][length - 1] = '\0';
        fields[1]++;
    }
    return count == WINOGRANDE_FIELDS;
}

static enum lq_status read_winogrande(struct parse *parse, const struct lines *lines, char *line)
{
    char *fields[WINOGRANDE_FIELDS];
    struct lq_task *task = NULL;
    uint8_t *is_right = NULL;
    if (!cut_fields(line, fields)) {
        return bad_line(parse, lines,
                        "expected five fields: number, sentence, choice, choice, answer");
    }
    char *gap = strchr(fields[1], '_');
    const char *answer = fields[4] + strspn(fields[4], " ");
    if (gap == NULL) {
        return bad_line(parse, lines, "the sentence has no '_' where the choice goes");
    }
    if ((answer[0] != '1' && answer[0] != '2') || answer[1 + strspn(answer + 1, " ")] != '\0') {
        return bad_line(parse, lines, "the answer must be 1 or 2");
    }
    enum lq_status status = add_task(parse, 2, &task, &is_right);
    if (status != LQ_OK) {
        return status;
    }
    *gap = '\0';
    is_right[answer[0] - '1'] = 1;
    task->context = fields[1];
    task->beginnings = lq_arena_get_array(parse->arena, 2, sizeof *task->beginnings);
    for (size_t i = 0; task->beginnings != NULL && i < 2; i++) {
        task->beginnings[i] = lq_arena_printf(parse->arena, "%s%s", fields[1], fields[2 + i]);
        task->texts[i] = lq_arena_printf(parse->arena, "%s%s%s", fields[1], fields[2 + i], gap + 1);
        if (task->beginnings[i] == NULL || task->texts[i] == NULL) {
            return lq_error_nomem(parse->err, "tasks");
        }
    }
    return task->beginnings == NULL ? lq_error_nomem(parse->err, "tasks") : LQ_OK;
}

static enum lq_status parse_winogrande(struct parse *parse, struct lines *lines)
{
    for (;;) {
        const char *line = NULL;
        enum lq_status status = next_line(parse, lines, &line);
        if (status != LQ_OK || line == NULL) {
            return status;
        }
        if (line[0] == '\0') {
            continue;
        }
        char *copy = lq_arena_dup_string(parse->arena, line);
        status = copy == NULL ? lq_error_nomem(parse->err, "tasks")
                              : read_winogrande(parse, lines, copy);
        if (status != LQ_OK) {
            return status;
        }
    }
}

/* ---- multiple-choice: u32 count, u32 positions, then tasks, each a question and two lists of
 * answers, of which the first has one right answer and is used ---- */

static enum lq_status bad_task(const struct parse *parse, const char *what)
{
    return lq_error_set(parse->err, LQ_EFORMAT, "%s: task %zu: %s", parse->where,
                        parse->out->count + 1, what);
}

static enum lq_status read_string(struct parse *parse, struct lq_reader *reader, const char **out)
{
    uint32_t length = lq_read_u32(reader);
    const char *bytes = reader->failed ? NULL : lq_read_bytes(reader, length);
    if (bytes == NULL) {
        return bad_task(parse, "the file ends within it; it is truncated or no multiple-choice "
                               "file");
    }
    if (memchr(bytes, 0, length) != NULL) {
        return bad_task(parse, "a NUL byte in a text");
    }
    *out = lq_arena_dup(parse->arena, bytes, length);
    return *out == NULL ? lq_error_nomem(parse->err, "tasks") : LQ_OK;
}

/* Answers and labels; both lists may be NULL to skip them. */
static enum lq_status read_answers(struct parse *parse, struct lq_reader *reader,
                                   const char **answers, uint8_t *labels, uint32_t *count)
{
    *count = lq_read_u32(reader);
    if (reader->failed || *count > LQ_TASK_CHOICES_MAX) {
        return bad_task(parse, "says to have more answers than there can be");
    }
    for (uint32_t i = 0; i < *count; i++) {
        enum lq_status status = read_string(parse, reader, &answers[i]);
        if (status != LQ_OK) {
            return status;
        }
    }
    for (uint32_t i = 0; i < *count; i++) {
        labels[i] = lq_read_u32(reader) == 1;
    }
    return reader->failed ? bad_task(parse, "the file ends within it") : LQ_OK;
}

static enum lq_status read_task(struct parse *parse, struct lq_reader *reader)
{
    const char *question = NULL;
    const char *answers[LQ_TASK_CHOICES_MAX];
    const char *unused[LQ_TASK_CHOICES_MAX];
    uint8_t labels[LQ_TASK_CHOICES_MAX];
    uint8_t unused_labels[LQ_TASK_CHOICES_MAX];
    uint32_t count = 0;
    uint32_t unused_count = 0;
    struct lq_task *task = NULL;
    uint8_t *is_right = NULL;
    enum lq_status status = read_string(parse, reader, &question);
    if (status == LQ_OK) {
        status = read_answers(parse, reader, answers, labels, &count);
    }
    if (status == LQ_OK) {
        status = read_answers(parse, reader, unused, unused_labels, &unused_count);
    }
    if (status == LQ_OK && (count == 0 || question[0] == '\0')) {
        status = bad_task(parse, "has no question or no answers");
    }
    if (status == LQ_OK) {
        status = add_task(parse, count, &task, &is_right);
    }
    for (uint32_t i = 0; status == LQ_OK && i < count; i++) {
        task->context = question;
        is_right[i] = labels[i];
        status = set_choice(parse, task, i, answers[i]);
    }
    return status;
}

static enum lq_status parse_binary(struct parse *parse, const void *data, uint64_t size_bytes)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    uint32_t count = lq_read_u32(&reader);
    /* The least task: five lengths. */
    if (reader.failed || count == 0 || count > LQ_TASKS_MAX ||
        count > lq_reader_left(&reader) / 16) {
        return lq_error_set(parse->err, LQ_EFORMAT,
                            "%s: says to have %u tasks in %llu bytes; it is truncated or no "
                            "multiple-choice file",
                            parse->where, (unsigned)count, (unsigned long long)size_bytes);
    }
    lq_read_skip(&reader, 4 * (uint64_t)count);
    enum lq_status status = LQ_OK;
    for (uint32_t i = 0; status == LQ_OK && i < count; i++) {
        status = read_task(parse, &reader);
    }
    return status;
}

enum lq_status lq_tasks_parse(const void *data, uint64_t size_bytes, const char *where,
                              enum lq_task_format format, struct lq_arena *arena,
                              struct lq_task_list *out, struct lq_error *err)
{
    struct lq_task_list list = {.tasks = NULL};
    struct parse parse = {.where = where, .arena = arena, .out = &list, .err = err};
    struct lines lines = {.at = data, .left = size_bytes};
    enum lq_status status = LQ_OK;
    switch (format) {
    case LQ_TASKS_HELLASWAG:
        status = parse_hellaswag(&parse, &lines);
        break;
    case LQ_TASKS_WINOGRANDE:
        status = parse_winogrande(&parse, &lines);
        break;
    case LQ_TASKS_MULTIPLE_CHOICE:
        status = parse_binary(&parse, data, size_bytes);
        break;
    default:
        status = parse_jsonl(&parse, &lines);
    }
    if (status == LQ_OK && list.count == 0) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: there are no tasks in it", where);
    }
    if (status == LQ_OK) {
        *out = list;
    }
    return status;
}

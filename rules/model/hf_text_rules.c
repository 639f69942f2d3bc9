/* What tokenizer.json says about text before merging: its normalizer and pre-tokenizer are trees of
 * typed steps, which are flattened and compared with what GGUF has names for. */
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/normalize.h"
#include "rules/model/pretokenize.h"

#define FILE_NAME "tokenizer.json"
#define BLANK_MARK "\xe2\x96\x81"

static const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};

struct scan {
    const cJSON *steps[LQ_NORMALIZER_STEPS_MAX]; /* of the normalizer */
    size_t step_count;
    const char *expressions[LQ_PRE_EXPRESSIONS_MAX];
    size_t expression_count;
    bool too_many;
    bool byte_level;
    bool marks_blanks;  /* a step turns blanks into U+2581 */
    bool prepends_mark; /* a step puts one before the text */
};

static enum lq_status unsupported(const char *part, const char *type, struct lq_error *err)
{
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        FILE_NAME ": the %s '%.100s' is not supported: GGUF has no name for it",
                        part, type);
}

static void add_expression(struct scan *scan, const char *expression)
{
    if (scan->expression_count == LQ_PRE_EXPRESSIONS_MAX) {
        scan->too_many = true;
        return;
    }
    scan->expressions[scan->expression_count++] = expression;
}

static bool is_string(const cJSON *object, const char *key, const char *text)
{
    const cJSON *item = lq_json_find(object, key);
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

/* What SentencePiece does with blanks is a normalizer in tokenizer.json. */
static bool marks_blanks(const cJSON *step)
{
    const cJSON *pattern = lq_json_find(step, "pattern");
    return is_string(step, "type", "Replace") && pattern != NULL &&
           is_string(pattern, "String", " ") && is_string(step, "content", BLANK_MARK);
}

static bool prepends_mark(const cJSON *step)
{
    return is_string(step, "type", "Prepend") && is_string(step, "prepend", BLANK_MARK);
}

/* A boolean member, or `fallback` when it is absent. */
static bool flag(const cJSON *object, const char *key, bool fallback)
{
    const cJSON *item = lq_json_find(object, key);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : fallback;
}

/* Depth is bounded by LQ_JSON_DEPTH_MAX. */
static enum lq_status scan_normalizer(const cJSON *node, struct scan *scan, struct lq_error *err)
{
    const char *type = NULL;
    enum lq_status status = lq_json_get_string(&scope, node, "type", &type, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *list = NULL;
        status = lq_json_get_array(&scope, node, "normalizers", &list, NULL, err);
        const cJSON *child = NULL;
        cJSON_ArrayForEach(child, list)
        {
            status = status == LQ_OK ? scan_normalizer(child, scan, err) : status;
        }
        return status;
    }
    if (scan->step_count == LQ_NORMALIZER_STEPS_MAX) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": the normalizer has more than %d steps",
                            LQ_NORMALIZER_STEPS_MAX);
    }
    scan->steps[scan->step_count++] = node;
    scan->marks_blanks = scan->marks_blanks || marks_blanks(node);
    scan->prepends_mark = scan->prepends_mark || prepends_mark(node);
    return LQ_OK;
}

static enum lq_status scan_split(const cJSON *node, struct scan *scan, struct lq_error *err)
{
    const cJSON *pattern = NULL;
    const char *expression = NULL;
    enum lq_status status = lq_json_get_object(&scope, node, "pattern", &pattern, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    /* Gemma's: its normalizer has turned all blanks into marks, so there is nothing to split. */
    if (scan->marks_blanks && is_string(pattern, "String", " ")) {
        return LQ_OK;
    }
    if (lq_json_find(pattern, "Regex") == NULL) {
        return unsupported("pre-tokenizer", "Split by a plain string", err);
    }
    status = lq_json_get_string(&scope, pattern, "Regex", &expression, NULL, err);
    if (status == LQ_OK &&
        (!is_string(node, "behavior", "Isolated") || flag(node, "invert", false))) {
        return unsupported("pre-tokenizer", "Split that does not isolate its matches", err);
    }
    if (status == LQ_OK) {
        add_expression(scan, expression);
    }
    return status;
}

static enum lq_status scan_metaspace(const cJSON *node, struct scan *scan, struct lq_error *err)
{
    if (!is_string(node, "replacement", BLANK_MARK)) {
        return unsupported("pre-tokenizer", "Metaspace with its own replacement", err);
    }
    scan->marks_blanks = true;
    scan->prepends_mark = lq_json_find(node, "prepend_scheme") != NULL
                              ? !is_string(node, "prepend_scheme", "never")
                              : flag(node, "add_prefix_space", true);
    return LQ_OK;
}

static enum lq_status scan_byte_level(const cJSON *node, struct scan *scan, struct lq_error *err)
{
    if (flag(node, "add_prefix_space", true)) {
        return unsupported("pre-tokenizer", "ByteLevel with add_prefix_space", err);
    }
    scan->byte_level = true;
    if (flag(node, "use_regex", true)) {
        add_expression(scan, LQ_PRE_BYTE_LEVEL);
    }
    return LQ_OK;
}

static enum lq_status scan_pre_tokenizer(const cJSON *node, struct scan *scan, struct lq_error *err)
{
    const char *type = NULL;
    enum lq_status status = lq_json_get_string(&scope, node, "type", &type, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *list = NULL;
        status = lq_json_get_array(&scope, node, "pretokenizers", &list, NULL, err);
        const cJSON *child = NULL;
        cJSON_ArrayForEach(child, list)
        {
            status = status == LQ_OK ? scan_pre_tokenizer(child, scan, err) : status;
        }
        return status;
    }
    if (strcmp(type, "Split") == 0) {
        return scan_split(node, scan, err);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return scan_byte_level(node, scan, err);
    }
    if (strcmp(type, "Digits") == 0) {
        add_expression(scan, flag(node, "individual_digits", false) ? "\\p{N}" : "\\p{N}+");
        return LQ_OK;
    }
    if (strcmp(type, "Punctuation") == 0) {
        bool contiguous = is_string(node, "behavior", "Contiguous");
        add_expression(scan, contiguous ? LQ_PRE_PUNCTUATION "+" : LQ_PRE_PUNCTUATION);
        bool isolated =
            lq_json_find(node, "behavior") == NULL || is_string(node, "behavior", "Isolated");
        return contiguous || isolated
                   ? LQ_OK
                   : unsupported("pre-tokenizer", "Punctuation that drops or joins", err);
    }
    return strcmp(type, "Metaspace") == 0 ? scan_metaspace(node, scan, err)
                                          : unsupported("pre-tokenizer", type, err);
}

static enum lq_status unknown_expressions(const struct scan *scan, struct lq_error *err)
{
    struct lq_buffer list;
    lq_buffer_init(&list);
    for (size_t i = 0; i < scan->expression_count; i++) {
        lq_buffer_printf(&list, "%s'%.400s'", i == 0 ? "" : ", ", scan->expressions[i]);
    }
    enum lq_status status = lq_error_set(
        err, LQ_EUNSUPPORTED,
        FILE_NAME
        ": no GGUF pre-tokenizer is known for the pattern %s%s; is this a "
        "new kind of model? one that llama.cpp has converted to GGUF can be given instead",
        scan->expression_count == 0 ? "of a ByteLevel step without regex" : lq_buffer_text(&list),
        scan->too_many ? " and more" : "");
    lq_buffer_fini(&list);
    return status;
}

static enum lq_status decide(const struct scan *scan, const cJSON *model,
                             struct lq_hf_text_rules *rules, struct lq_error *err)
{
    if (scan->byte_level) {
        rules->kind = LQ_HF_BYTE_LEVEL;
        rules->pre = scan->too_many
                         ? NULL
                         : lq_pretokenizer_name_of(scan->expressions, scan->expression_count,
                                                   flag(model, "ignore_merges", false));
        return rules->pre == NULL ? unknown_expressions(scan, err) : LQ_OK;
    }
    if (scan->expression_count > 0 || !scan->marks_blanks) {
        return unsupported("tokenizer", "BPE that is neither byte-level nor SentencePiece-style",
                           err);
    }
    rules->kind = LQ_HF_SENTENCE_PIECE;
    rules->pre = "default";
    rules->add_space_prefix = scan->prepends_mark;
    return LQ_OK;
}

static void write_text(struct lq_json_writer *writer, const cJSON *node, const char *key)
{
    const cJSON *item = lq_json_find(node, key);
    if (cJSON_IsString(item)) {
        lq_json_put_string(writer, key, item->valuestring);
    } else if (cJSON_IsBool(item)) {
        lq_json_put_bool(writer, key, cJSON_IsTrue(item));
    }
}

static void write_step(struct lq_json_writer *writer, const cJSON *step)
{
    static const char *const members[] = {"content", "prepend", "strip_left", "strip_right"};
    const cJSON *pattern = lq_json_find(step, "pattern");
    lq_json_begin_object(writer);
    write_text(writer, step, "type");
    if (pattern != NULL) {
        lq_json_key(writer, "pattern");
        lq_json_begin_object(writer);
        write_text(writer, pattern, "String");
        write_text(writer, pattern, "Regex");
        lq_json_end_object(writer);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(members); i++) {
        write_text(writer, step, members[i]);
    }
    lq_json_end_object(writer);
}

/* The steps that the kind of tokenizer does not imply, as JSON; they are created once to see
 * whether they are known. */
static enum lq_status write_normalizer(const struct scan *scan, struct lq_arena *arena,
                                       struct lq_hf_text_rules *rules, struct lq_error *err)
{
    struct lq_buffer text;
    struct lq_json_writer writer;
    struct lq_normalizer *normalizer = NULL;
    size_t count = 0;
    lq_buffer_init(&text);
    lq_json_writer_init(&writer, &text, false);
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < scan->step_count; i++) {
        const cJSON *step = scan->steps[i];
        if (rules->kind == LQ_HF_BYTE_LEVEL || !(marks_blanks(step) || prepends_mark(step))) {
            write_step(&writer, step);
            count++;
        }
    }
    lq_json_end_array(&writer);
    enum lq_status status = text.failed ? lq_error_nomem(err, "normalizer") : LQ_OK;
    if (status == LQ_OK && count > 0) {
        status = lq_normalizer_create(&normalizer, lq_buffer_text(&text), text.size_bytes, NULL,
                                      FILE_NAME, err);
        rules->normalizer = lq_arena_dup(arena, lq_buffer_text(&text), text.size_bytes);
        if (status == LQ_OK && rules->normalizer == NULL) {
            status = lq_error_nomem(err, "normalizer");
        }
    }
    lq_normalizer_destroy(normalizer);
    lq_buffer_fini(&text);
    return status;
}

enum lq_status lq_hf_text_rules_find(const cJSON *tokenizer, struct lq_arena *arena,
                                     struct lq_hf_text_rules *rules, struct lq_error *err)
{
    struct scan scan = {0};
    const cJSON *normalizer = NULL;
    const cJSON *pre = NULL;
    const cJSON *model = NULL;
    bool found = false;
    memset(rules, 0, sizeof *rules);
    enum lq_status status = lq_json_get_object(&scope, tokenizer, "model", &model, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_object(&scope, tokenizer, "normalizer", &normalizer, &found, err);
    }
    if (status == LQ_OK && found) {
        status = scan_normalizer(normalizer, &scan, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_object(&scope, tokenizer, "pre_tokenizer", &pre, &found, err);
    }
    if (status == LQ_OK && found) {
        status = scan_pre_tokenizer(pre, &scan, err);
    }
    if (status == LQ_OK) {
        status = decide(&scan, model, rules, err);
    }
    return status == LQ_OK ? write_normalizer(&scan, arena, rules, err) : status;
}

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
    bool unigram;
    const char *map; /* base64 of a character map; NULL: none */
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

static enum lq_status add_step(struct scan *scan, const cJSON *node, struct lq_error *err)
{
    if (scan->step_count == LQ_NORMALIZER_STEPS_MAX) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": the normalizer has more than %d steps",
                            LQ_NORMALIZER_STEPS_MAX);
    }
    scan->steps[scan->step_count++] = node;
    return LQ_OK;
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
    if (strcmp(type, "Precompiled") == 0) {
        if (scan->map != NULL) {
            return unsupported("normalizer", "Precompiled, a second time", err);
        }
        status = lq_json_get_string(&scope, node, "precompiled_charsmap", &scan->map, NULL, err);
    }
    if (status == LQ_OK) {
        status = add_step(scan, node, err);
    }
    if (status != LQ_OK) {
        return status;
    }
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

/* Before a unigram model words are only cut at blanks, which is what its tokens say, too: so these
 * steps are about the blanks themselves. */
static enum lq_status scan_blanks(const cJSON *node, const char *type, struct scan *scan,
                                  struct lq_error *err)
{
    if (strcmp(type, "Metaspace") == 0 && !is_string(node, "replacement", BLANK_MARK)) {
        return unsupported("pre-tokenizer", "Metaspace with its own replacement", err);
    }
    scan->marks_blanks = true;
    return add_step(scan, node, err);
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
    if (scan->unigram && (strcmp(type, "Metaspace") == 0 || strcmp(type, "WhitespaceSplit") == 0)) {
        return scan_blanks(node, type, scan, err);
    }
    if (scan->unigram) {
        return unsupported("pre-tokenizer of a Unigram model", type, err);
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
    if (scan->unigram) {
        rules->kind = LQ_HF_UNIGRAM;
        rules->pre = "default";
        return LQ_OK;
    }
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

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c == '\0' ? NULL : strchr(digits, c);
    return found == NULL ? -1 : (int)(found - digits);
}

static enum lq_status decode_map(const char *text, struct lq_arena *arena, struct lq_hf_text *map,
                                 struct lq_error *err)
{
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '=') {
        length--;
    }
    unsigned char *bytes = lq_arena_get(arena, length + 1);
    if (bytes == NULL) {
        return lq_error_nomem(err, "normalizer");
    }
    unsigned bits = 0;
    unsigned held = 0;
    size_t count = 0;
    for (size_t i = 0; i < length; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) {
            return lq_error_set(err, LQ_EFORMAT,
                                FILE_NAME ": precompiled_charsmap is no base64 at character %zu",
                                i);
        }
        bits = (bits << 6 | (unsigned)digit) & 0xffffu;
        held += 6;
        if (held >= 8) {
            held -= 8;
            bytes[count++] = (unsigned char)(bits >> held);
        }
    }
    *map = (struct lq_hf_text){bytes, count};
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
    bool older =
        is_string(step, "type", "Metaspace") && lq_json_find(step, "prepend_scheme") == NULL;
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
    write_text(writer, step, "prepend_scheme");
    if (older && !flag(step, "add_prefix_space", true)) {
        lq_json_put_string(writer, "prepend_scheme", "never");
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
        if (rules->kind != LQ_HF_SENTENCE_PIECE || !(marks_blanks(step) || prepends_mark(step))) {
            write_step(&writer, step);
            count++;
        }
    }
    lq_json_end_array(&writer);
    enum lq_status status = text.failed ? lq_error_nomem(err, "normalizer") : LQ_OK;
    if (status == LQ_OK && count > 0) {
        const struct lq_normalizer_map map = {rules->map.data, (size_t)rules->map.size_bytes};
        status = lq_normalizer_create(&normalizer, lq_buffer_text(&text), text.size_bytes, &map,
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
    scan.unigram = status == LQ_OK && lq_hf_is_unigram(model);
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
    if (status == LQ_OK && scan.map != NULL) {
        status = decode_map(scan.map, arena, &rules->map, err);
    }
    return status == LQ_OK ? write_normalizer(&scan, arena, rules, err) : status;
}

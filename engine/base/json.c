#include "engine/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"

/* cJSON recurses; refuse deep nesting before it starts. Strings are skipped with their escapes. */
static bool depth_is_sane(const char *text, size_t length)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
            if (depth > LQ_JSON_DEPTH_MAX) {
                return false;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Returns a key that occurs twice in one object, or NULL. Sorting keeps this n log n for
 * vocabularies of a hundred thousand keys. */
static enum lq_status find_duplicate(const cJSON *node, const char **duplicate)
{
    *duplicate = NULL;
    if (cJSON_IsObject(node)) {
        size_t count = (size_t)cJSON_GetArraySize(node);
        const char **names = count < 2 ? NULL : calloc(count, sizeof *names);
        if (count >= 2 && names == NULL) {
            return LQ_ENOMEM;
        }
        size_t i = 0;
        const cJSON *child = NULL;
        cJSON_ArrayForEach(child, node)
        {
            if (names != NULL) {
                names[i++] = child->string;
            }
        }
        if (names != NULL) {
            qsort(names, count, sizeof *names, compare_names);
            for (size_t k = 1; k < count && *duplicate == NULL; k++) {
                if (strcmp(names[k - 1], names[k]) == 0) {
                    *duplicate = names[k];
                }
            }
        }
        free(names);
    }
    const cJSON *child = NULL;
    cJSON_ArrayForEach(child, node)
    {
        if (*duplicate != NULL) {
            return LQ_OK;
        }
        if (child->child != NULL) {
            enum lq_status status = find_duplicate(child, duplicate);
            if (status != LQ_OK) {
                return status;
            }
        }
    }
    return LQ_OK;
}

enum lq_status lq_json_parse(const void *data, size_t size_bytes, const char *where,
                             enum lq_status status, cJSON **out, struct lq_error *err)
{
    *out = NULL;
    const char *text = data;
    if (size_bytes > LQ_JSON_BYTES_MAX) {
        return lq_error_set(err, status, "%s: %zu bytes of JSON exceed the limit of %llu", where,
                            size_bytes, (unsigned long long)LQ_JSON_BYTES_MAX);
    }
    if (!depth_is_sane(text, size_bytes)) {
        return lq_error_set(err, status, "%s: JSON nested deeper than %d levels", where,
                            LQ_JSON_DEPTH_MAX);
    }
    /* cJSON stops at a NUL and would silently ignore what follows. */
    if (memchr(text, 0, size_bytes) != NULL) {
        return lq_error_set(err, status, "%s: JSON contains a NUL byte", where);
    }
    const char *end = text;
    cJSON *root = size_bytes == 0 ? NULL : cJSON_ParseWithLengthOpts(text, size_bytes, &end, 0);
    if (root == NULL) {
        size_t offset = size_bytes == 0 ? 0 : (size_t)(end - text);
        return lq_error_set(err, status, "%s: invalid JSON at byte %zu", where, offset);
    }
    for (size_t i = (size_t)(end - text); i < size_bytes; i++) {
        if (strchr(" \t\r\n", text[i]) == NULL) {
            cJSON_Delete(root);
            return lq_error_set(err, status, "%s: unexpected text after the JSON value at byte %zu",
                                where, i);
        }
    }
    const char *duplicate = NULL;
    enum lq_status walk = find_duplicate(root, &duplicate);
    if (walk != LQ_OK || duplicate != NULL) {
        walk = walk != LQ_OK ? lq_error_nomem(err, "JSON")
                             : lq_error_set(err, status, "%s: key '%s' occurs twice in one object",
                                            where, duplicate);
        cJSON_Delete(root);
        return walk;
    }
    *out = root;
    return LQ_OK;
}

const cJSON *lq_json_find(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item == NULL || cJSON_IsNull(item) ? NULL : item;
}

static const char *article_of(const char *noun)
{
    return strchr("aeiou", noun[0]) != NULL ? "an" : "a";
}

/* Finds the member and checks its type; *item is NULL when it is absent and may be. */
static enum lq_status find_typed(const struct lq_json_scope *scope, const cJSON *object,
                                 const char *key, cJSON_bool (*is_type)(const cJSON *),
                                 const char *type_name, const cJSON **item, bool *found,
                                 struct lq_error *err)
{
    *item = lq_json_find(object, key);
    if (found != NULL) {
        *found = *item != NULL;
    }
    if (*item == NULL) {
        return found != NULL ? LQ_OK
                             : lq_error_set(err, scope->status, "%s: missing field '%s', %s %s",
                                            scope->where, key, article_of(type_name), type_name);
    }
    if (!is_type(*item)) {
        return lq_error_set(err, scope->status, "%s: field '%s' is not %s %s", scope->where, key,
                            article_of(type_name), type_name);
    }
    return LQ_OK;
}

enum lq_status lq_json_get_string(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, const char **out, bool *found,
                                  struct lq_error *err)
{
    const cJSON *item = NULL;
    enum lq_status status =
        find_typed(scope, object, key, cJSON_IsString, "string", &item, found, err);
    if (status == LQ_OK && item != NULL) {
        *out = item->valuestring;
    }
    return status;
}

enum lq_status lq_json_get_number(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, double *out, bool *found, struct lq_error *err)
{
    const cJSON *item = NULL;
    enum lq_status status =
        find_typed(scope, object, key, cJSON_IsNumber, "number", &item, found, err);
    if (status == LQ_OK && item != NULL) {
        if (!isfinite(item->valuedouble)) {
            return lq_error_set(err, scope->status, "%s: field '%s' is not a finite number",
                                scope->where, key);
        }
        *out = item->valuedouble;
    }
    return status;
}

enum lq_status lq_json_get_int(const struct lq_json_scope *scope, const cJSON *object,
                               const char *key, int64_t min, int64_t max, int64_t *out, bool *found,
                               struct lq_error *err)
{
    bool present = false;
    double value = 0;
    enum lq_status status =
        lq_json_get_number(scope, object, key, &value, found != NULL ? &present : NULL, err);
    if (found != NULL) {
        *found = present;
        if (!present) {
            return status;
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    const double exact_max = 9007199254740992.0; /* 2^53 */
    if (value != floor(value) || fabs(value) > exact_max || value < (double)min ||
        value > (double)max) {
        return lq_error_set(err, scope->status,
                            "%s: field '%s' is %.17g, expected a whole number from %lld to %lld",
                            scope->where, key, value, (long long)min, (long long)max);
    }
    *out = (int64_t)value;
    return LQ_OK;
}

enum lq_status lq_json_get_bool(const struct lq_json_scope *scope, const cJSON *object,
                                const char *key, bool *out, bool *found, struct lq_error *err)
{
    const cJSON *item = NULL;
    enum lq_status status =
        find_typed(scope, object, key, cJSON_IsBool, "boolean", &item, found, err);
    if (status == LQ_OK && item != NULL) {
        *out = cJSON_IsTrue(item) != 0;
    }
    return status;
}

enum lq_status lq_json_get_array(const struct lq_json_scope *scope, const cJSON *object,
                                 const char *key, const cJSON **out, bool *found,
                                 struct lq_error *err)
{
    return find_typed(scope, object, key, cJSON_IsArray, "list", out, found, err);
}

enum lq_status lq_json_get_object(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, const cJSON **out, bool *found,
                                  struct lq_error *err)
{
    return find_typed(scope, object, key, cJSON_IsObject, "object", out, found, err);
}

void lq_json_writer_init(struct lq_json_writer *writer, struct lq_buffer *buffer, bool pretty)
{
    writer->buffer = buffer;
    writer->pretty = pretty;
    writer->depth = 0;
    writer->first = true;
    writer->after_key = false;
}

static void new_line(struct lq_json_writer *writer)
{
    if (writer->pretty) {
        lq_buffer_append_char(writer->buffer, '\n');
        for (int i = 0; i < writer->depth; i++) {
            lq_buffer_append_string(writer->buffer, "  ");
        }
    }
}

static void before_value(struct lq_json_writer *writer)
{
    if (writer->after_key) {
        writer->after_key = false;
    } else {
        if (!writer->first) {
            lq_buffer_append_char(writer->buffer, ',');
        }
        if (writer->depth > 0) {
            new_line(writer);
        }
    }
    writer->first = false;
}

static void begin(struct lq_json_writer *writer, char bracket)
{
    before_value(writer);
    lq_buffer_append_char(writer->buffer, bracket);
    writer->depth++;
    writer->first = true;
}

static void end(struct lq_json_writer *writer, char bracket)
{
    bool empty = writer->first;
    writer->depth--;
    if (!empty) {
        new_line(writer);
    }
    lq_buffer_append_char(writer->buffer, bracket);
    writer->first = false;
    if (writer->pretty && writer->depth == 0) {
        lq_buffer_append_char(writer->buffer, '\n');
    }
}

void lq_json_begin_object(struct lq_json_writer *writer)
{
    begin(writer, '{');
}

void lq_json_end_object(struct lq_json_writer *writer)
{
    end(writer, '}');
}

void lq_json_begin_array(struct lq_json_writer *writer)
{
    begin(writer, '[');
}

void lq_json_end_array(struct lq_json_writer *writer)
{
    end(writer, ']');
}

/* The length of the valid UTF-8 sequence at `s`, or 0. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80) {
        return 1;
    }
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || length > left) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xed && s[1] > 0x9f;
    bool beyond = s[0] == 0xf4 && s[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : length;
}

static void write_escaped(struct lq_buffer *buffer, const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    lq_buffer_append_char(buffer, '"');
    for (size_t i = 0; i < length;) {
        size_t step = utf8_length(s + i, length - i);
        if (step == 0) {
            lq_buffer_append_string(buffer, "\xef\xbf\xbd");
            i++;
        } else if (s[i] == '"' || s[i] == '\\') {
            lq_buffer_append_char(buffer, '\\');
            lq_buffer_append_char(buffer, (char)s[i]);
            i++;
        } else if (s[i] == '\n') {
            lq_buffer_append_string(buffer, "\\n");
            i++;
        } else if (s[i] == '\t') {
            lq_buffer_append_string(buffer, "\\t");
            i++;
        } else if (s[i] < 0x20 || s[i] == 0x7f) {
            lq_buffer_printf(buffer, "\\u%04x", s[i]);
            i++;
        } else {
            lq_buffer_append(buffer, s + i, step);
            i += step;
        }
    }
    lq_buffer_append_char(buffer, '"');
}

void lq_json_key(struct lq_json_writer *writer, const char *key)
{
    before_value(writer);
    write_escaped(writer->buffer, key, strlen(key));
    lq_buffer_append_string(writer->buffer, writer->pretty ? ": " : ":");
    writer->after_key = true;
}

void lq_json_string_sized(struct lq_json_writer *writer, const char *text, size_t length)
{
    before_value(writer);
    write_escaped(writer->buffer, text, length);
}

void lq_json_string(struct lq_json_writer *writer, const char *text)
{
    lq_json_string_sized(writer, text, strlen(text));
}

void lq_json_int(struct lq_json_writer *writer, int64_t value)
{
    before_value(writer);
    lq_buffer_printf(writer->buffer, "%lld", (long long)value);
}

void lq_json_uint(struct lq_json_writer *writer, uint64_t value)
{
    before_value(writer);
    lq_buffer_printf(writer->buffer, "%llu", (unsigned long long)value);
}

void lq_json_format_number(struct lq_buffer *buffer, double value)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    lq_buffer_append_string(buffer, text);
}

void lq_json_number(struct lq_json_writer *writer, double value)
{
    before_value(writer);
    if (!isfinite(value)) {
        lq_buffer_append_string(writer->buffer, "null");
    } else {
        lq_json_format_number(writer->buffer, value);
    }
}

void lq_json_bool(struct lq_json_writer *writer, bool value)
{
    before_value(writer);
    lq_buffer_append_string(writer->buffer, value ? "true" : "false");
}

void lq_json_null(struct lq_json_writer *writer)
{
    before_value(writer);
    lq_buffer_append_string(writer->buffer, "null");
}

void lq_json_put_string(struct lq_json_writer *writer, const char *key, const char *text)
{
    lq_json_key(writer, key);
    lq_json_string(writer, text);
}

void lq_json_put_int(struct lq_json_writer *writer, const char *key, int64_t value)
{
    lq_json_key(writer, key);
    lq_json_int(writer, value);
}

void lq_json_put_number(struct lq_json_writer *writer, const char *key, double value)
{
    lq_json_key(writer, key);
    lq_json_number(writer, value);
}

void lq_json_put_bool(struct lq_json_writer *writer, const char *key, bool value)
{
    lq_json_key(writer, key);
    lq_json_bool(writer, value);
}

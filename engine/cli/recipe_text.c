#include "engine/cli/recipe_text.h"

#include <inttypes.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"

void lq_recipe_text_init(struct lq_recipe_text *text)
{
    lq_buffer_init(&text->buffer);
    text->refused = false;
}

void lq_recipe_text_fini(struct lq_recipe_text *text)
{
    lq_buffer_fini(&text->buffer);
}

static void append_quoted(struct lq_recipe_text *text, const char *value)
{
    struct lq_buffer *out = &text->buffer;
    lq_buffer_append_char(out, '"');
    for (const char *at = value; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        switch (c) {
        case '\n':
            lq_buffer_append_string(out, "\\n");
            continue;
        case '\t':
            lq_buffer_append_string(out, "\\t");
            continue;
        case '"':
        case '\\':
        case '{':
        case '}':
            lq_buffer_append_char(out, '\\');
            break;
        default:
            text->refused = text->refused || c < 0x20 || c == 0x7f;
            break;
        }
        lq_buffer_append_char(out, *at);
    }
    lq_buffer_append_char(out, '"');
}

static bool is_identifier(const char *name)
{
    static const char *const keywords[] = {"let",     "include", "for",  "in",
                                           "default", "true",    "false"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    size_t length = strspn(name, "0123456789_"
                                 "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    for (size_t i = 0; i < LQ_COUNT_OF(keywords); i++) {
        if (strcmp(keywords[i], name) == 0) {
            return false;
        }
    }
    return name[0] != '\0' && strchr(letters, name[0]) != NULL && name[length] == '\0';
}

void lq_recipe_text_begin(struct lq_recipe_text *text, const char *kind, const char *name)
{
    lq_buffer_printf(&text->buffer, "%s ", kind);
    if (is_identifier(name)) {
        lq_buffer_append_string(&text->buffer, name);
    } else {
        append_quoted(text, name);
    }
    lq_buffer_append_string(&text->buffer, " {\n");
}

void lq_recipe_text_end(struct lq_recipe_text *text)
{
    lq_buffer_append_string(&text->buffer, "}\n");
}

void lq_recipe_text_list(struct lq_recipe_text *text, const char *attribute,
                         const char *const *values, size_t count)
{
    lq_buffer_printf(&text->buffer, "  %s = [", attribute);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_append_string(&text->buffer, i == 0 ? "" : ", ");
        append_quoted(text, values[i]);
    }
    lq_buffer_append_string(&text->buffer, "]\n");
}

void lq_recipe_text_map(struct lq_recipe_text *text, const char *attribute, const char *const *keys,
                        const char *const *values, size_t count)
{
    lq_buffer_printf(&text->buffer, "  %s = {", attribute);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_append_string(&text->buffer, i == 0 ? " " : ", ");
        append_quoted(text, keys[i]);
        lq_buffer_append_string(&text->buffer, " = ");
        append_quoted(text, values[i]);
    }
    lq_buffer_append_string(&text->buffer, " }\n");
}

void lq_recipe_text_string(struct lq_recipe_text *text, const char *attribute, const char *value)
{
    if (value == NULL) {
        return;
    }
    lq_buffer_printf(&text->buffer, "  %s = ", attribute);
    append_quoted(text, value);
    lq_buffer_append_char(&text->buffer, '\n');
}

void lq_recipe_text_word(struct lq_recipe_text *text, const char *attribute, const char *word)
{
    lq_buffer_printf(&text->buffer, "  %s = %s\n", attribute, word);
}

void lq_recipe_text_uint(struct lq_recipe_text *text, const char *attribute, uint64_t value)
{
    lq_buffer_printf(&text->buffer, "  %s = %" PRIu64 "\n", attribute, value);
}

void lq_recipe_text_number(struct lq_recipe_text *text, const char *attribute, double value)
{
    lq_buffer_printf(&text->buffer, "  %s = ", attribute);
    lq_json_format_number(&text->buffer, value);
    lq_buffer_append_char(&text->buffer, '\n');
}

enum lq_status lq_recipe_text_finish(const struct lq_recipe_text *text, struct lq_error *err)
{
    if (text->buffer.failed) {
        return lq_error_nomem(err, "the recipe of this command");
    }
    if (text->refused) {
        return lq_error_set(err, LQ_EUSAGE,
                            "a path or name has a control character; rename the file");
    }
    return LQ_OK;
}

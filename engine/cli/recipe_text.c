#include "engine/cli/recipe_text.h"

#include <inttypes.h>

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

void lq_recipe_text_begin(struct lq_recipe_text *text, const char *kind, const char *name)
{
    lq_buffer_printf(&text->buffer, "%s %s {\n", kind, name);
}

void lq_recipe_text_end(struct lq_recipe_text *text)
{
    lq_buffer_append_string(&text->buffer, "}\n");
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

#include "engine/lang/diagnostic.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A line longer than this is cut; the caret has at most BEFORE characters before it then. */
enum { LINE_CHARACTERS_MAX = 110, BEFORE_CHARACTERS_MAX = 70, MESSAGE_BYTES = 1024 };
/* Room that is kept for "and 12 more errors". */
enum { LEFT_OUT_BYTES = 40 };

void lq_diagnostics_init(struct lq_diagnostics *diagnostics,
                         const struct lq_recipe_sources *sources)
{
    memset(diagnostics, 0, sizeof *diagnostics);
    diagnostics->sources = sources;
    lq_buffer_init(&diagnostics->text);
}

void lq_diagnostics_fini(struct lq_diagnostics *diagnostics)
{
    lq_buffer_fini(&diagnostics->text);
}

/* Appends the character at `text` made harmless, and returns how many bytes it took. */
static size_t append_character(struct lq_buffer *out, const char *text, size_t left)
{
    size_t length = lq_recipe_utf8_length(text, left);
    unsigned char c = (unsigned char)text[0];
    if (length == 0 || (c < 0x20 && c != '\t') || c == 0x7f) {
        lq_buffer_append_char(out, '?');
        return length == 0 ? 1 : length;
    }
    lq_buffer_append(out, text, length);
    return length;
}

static void append_message(struct lq_buffer *out, const char *message)
{
    size_t left = strlen(message);
    while (left > 0) {
        size_t used = append_character(out, message, left);
        message += used;
        left -= used;
    }
}

struct line {
    const char *text;
    size_t size_bytes;
    size_t caret_bytes; /* offset of the character the caret points at */
};

static struct line find_line(const struct lq_recipe_source *source,
                             const struct lq_position *position)
{
    const char *text = source->text;
    const char *end = text + source->size_bytes;
    for (unsigned line = 1; line < position->line; line++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        if (newline == NULL) {
            break;
        }
        text = newline + 1;
    }
    const char *newline = memchr(text, '\n', (size_t)(end - text));
    struct line line = {.text = text,
                        .size_bytes = (size_t)((newline == NULL ? end : newline) - text)};
    if (line.size_bytes > 0 && line.text[line.size_bytes - 1] == '\r') {
        line.size_bytes--;
    }
    for (unsigned column = 1; column < position->column && line.caret_bytes < line.size_bytes;
         column++) {
        size_t length =
            lq_recipe_utf8_length(line.text + line.caret_bytes, line.size_bytes - line.caret_bytes);
        line.caret_bytes += length == 0 ? 1 : length;
    }
    return line;
}

/* Leaves out the start of a line so that at most BEFORE_CHARACTERS_MAX stand before the caret. */
static bool cut_start(struct line *line, unsigned column)
{
    if (column <= BEFORE_CHARACTERS_MAX + 1) {
        return false;
    }
    unsigned skip = column - 1 - BEFORE_CHARACTERS_MAX;
    size_t offset = 0;
    for (; skip > 0 && offset < line->caret_bytes; skip--) {
        size_t length = lq_recipe_utf8_length(line->text + offset, line->size_bytes - offset);
        offset += length == 0 ? 1 : length;
    }
    line->text += offset;
    line->size_bytes -= offset;
    line->caret_bytes -= offset;
    return true;
}

static size_t count_characters(const struct line *line, size_t enough)
{
    size_t count = 0;
    for (size_t i = 0; i < line->size_bytes && count < enough; count++) {
        size_t length = lq_recipe_utf8_length(line->text + i, line->size_bytes - i);
        i += length == 0 ? 1 : length;
    }
    return count;
}

static void append_excerpt(struct lq_buffer *out, struct line line, unsigned column)
{
    bool is_long = count_characters(&line, LINE_CHARACTERS_MAX + 1) > LINE_CHARACTERS_MAX;
    bool cut = is_long && cut_start(&line, column);
    lq_buffer_append_string(out, "\n    ");
    lq_buffer_append_string(out, cut ? "..." : "");
    size_t shown = 0;
    size_t i = 0;
    for (; i < line.size_bytes && shown < LINE_CHARACTERS_MAX; shown++) {
        i += append_character(out, line.text + i, line.size_bytes - i);
    }
    lq_buffer_append_string(out, i < line.size_bytes ? "..." : "");
    lq_buffer_append_string(out, "\n    ");
    lq_buffer_append_string(out, cut ? "   " : "");
    for (i = 0; i < line.caret_bytes;) {
        size_t length = lq_recipe_utf8_length(line.text + i, line.size_bytes - i);
        lq_buffer_append_char(out, line.text[i] == '\t' ? '\t' : ' ');
        i += length == 0 ? 1 : length;
    }
    lq_buffer_append_char(out, '^');
}

void lq_diagnostic_render(struct lq_buffer *out, const struct lq_recipe_sources *sources,
                          const struct lq_position *position, const char *message)
{
    if (position == NULL || position->file == NULL) {
        append_message(out, message);
        return;
    }
    append_message(out, position->file);
    lq_buffer_printf(out, ":%u:%u: ", position->line, position->column);
    append_message(out, message);
    const struct lq_recipe_source *source = lq_recipe_sources_find(sources, position->file);
    if (source != NULL) {
        append_excerpt(out, find_line(source, position), position->column);
    }
}

static bool is_seen(const struct lq_diagnostics *diagnostics, const struct lq_position *position,
                    const char *format)
{
    for (unsigned i = 0; position != NULL && i < diagnostics->count; i++) {
        const struct lq_position *old = &diagnostics->seen[i].position;
        if (old->file == position->file && old->line == position->line &&
            old->column == position->column && diagnostics->seen[i].format == format) {
            return true;
        }
    }
    return false;
}

void lq_diagnostics_add_text(struct lq_diagnostics *diagnostics, enum lq_status status,
                             const char *text)
{
    if (diagnostics->count == LQ_DIAGNOSTICS_MAX) {
        return;
    }
    size_t room = LQ_ERROR_BYTES - LEFT_OUT_BYTES;
    if (diagnostics->count == 0) {
        diagnostics->status = status;
        lq_buffer_append_string(&diagnostics->text, text);
    } else if (diagnostics->left_out == 0 &&
               diagnostics->text.size_bytes + 1 + strlen(text) < room) {
        lq_buffer_append_char(&diagnostics->text, '\n');
        lq_buffer_append_string(&diagnostics->text, text);
    } else {
        diagnostics->left_out++;
    }
    diagnostics->count++;
    if (diagnostics->count == LQ_DIAGNOSTICS_MAX) {
        diagnostics->stop = true;
    }
}

static void add(struct lq_diagnostics *diagnostics, const struct lq_position *position,
                enum lq_status status, const char *format, va_list args)
{
    if (diagnostics->count == LQ_DIAGNOSTICS_MAX || is_seen(diagnostics, position, format)) {
        return;
    }
    char message[MESSAGE_BYTES];
    (void)vsnprintf(message, sizeof message, format, args);
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_diagnostic_render(&text, diagnostics->sources, position, message);
    if (position != NULL) {
        diagnostics->seen[diagnostics->count].position = *position;
        diagnostics->seen[diagnostics->count].format = format;
    }
    bool failed = text.failed;
    lq_diagnostics_add_text(diagnostics, status, lq_buffer_text(&text));
    diagnostics->text.failed = diagnostics->text.failed || failed;
    lq_buffer_fini(&text);
}

void lq_diagnostics_add(struct lq_diagnostics *diagnostics, const struct lq_position *position,
                        enum lq_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(diagnostics, position, status, format, args);
    va_end(args);
}

void lq_diagnostics_stop(struct lq_diagnostics *diagnostics, const struct lq_position *position,
                         enum lq_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(diagnostics, position, status, format, args);
    va_end(args);
    diagnostics->stop = true;
}

void lq_diagnostics_nomem(struct lq_diagnostics *diagnostics)
{
    lq_diagnostics_stop(diagnostics, NULL, LQ_ENOMEM, "out of memory for the recipe");
}

enum lq_status lq_diagnostics_finish(const struct lq_diagnostics *diagnostics, struct lq_error *err)
{
    if (diagnostics->count == 0) {
        return LQ_OK;
    }
    if (diagnostics->text.failed) {
        return lq_error_nomem(err, "the messages about a recipe");
    }
    if (diagnostics->left_out > 0) {
        return lq_error_set(err, diagnostics->status, "%s\nand %u more error%s",
                            lq_buffer_text(&diagnostics->text), diagnostics->left_out,
                            diagnostics->left_out == 1 ? "" : "s");
    }
    return lq_error_set(err, diagnostics->status, "%s", lq_buffer_text(&diagnostics->text));
}

#include "rules/format/view.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/text.h"
#include "rules/format/quote.h"

enum { KEY_WIDTH = 22 };

void lq_view_begin(struct lq_view *view, struct lq_buffer *out, bool json, const char *format,
                   const char *title, uint64_t file_bytes)
{
    view->out = out;
    view->json = json;
    lq_json_writer_init(&view->writer, out, true);
    if (json) {
        lq_json_begin_object(&view->writer);
        lq_json_put_string(&view->writer, "format", format);
    } else {
        lq_buffer_printf(out, "%s\n", title);
    }
    lq_view_size(view, "file_size", file_bytes);
}

void lq_view_end(struct lq_view *view)
{
    if (view->json) {
        lq_json_end_object(&view->writer);
    }
}

/* Text keys are the JSON keys with spaces. */
static void put_label(struct lq_view *view, const char *key)
{
    char label[LQ_QUOTE_BYTES];
    (void)lq_quote_string(key, label);
    for (char *c = label; *c != '\0'; c++) {
        *c = *c == '_' ? ' ' : *c;
    }
    lq_buffer_printf(view->out, "  %-*s  ", KEY_WIDTH, label);
}

void lq_view_string_sized(struct lq_view *view, const char *key, const char *text, size_t length)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_string_sized(&view->writer, text, length);
    } else {
        char quoted[LQ_QUOTE_BYTES];
        put_label(view, key);
        lq_buffer_printf(view->out, "%s\n", lq_quote(text, length, quoted));
    }
}

void lq_view_string(struct lq_view *view, const char *key, const char *text)
{
    lq_view_string_sized(view, key, text, strlen(text));
}

void lq_view_uint(struct lq_view *view, const char *key, uint64_t value)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_uint(&view->writer, value);
    } else {
        put_label(view, key);
        lq_buffer_printf(view->out, "%llu\n", (unsigned long long)value);
    }
}

static const char *number_text(double value, char text[32])
{
    if (isnan(value)) {
        return "-";
    }
    (void)snprintf(text, 32, "%.6g", value);
    return text;
}

void lq_view_number(struct lq_view *view, const char *key, double value)
{
    if (view->json) {
        lq_json_put_number(&view->writer, key, value);
    } else {
        char text[32];
        put_label(view, key);
        lq_buffer_printf(view->out, "%s\n", number_text(value, text));
    }
}

void lq_view_size(struct lq_view *view, const char *key, uint64_t size_bytes)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_uint(&view->writer, size_bytes);
    } else {
        char text[32];
        put_label(view, key);
        lq_buffer_printf(view->out, "%s\n", lq_text_size(size_bytes, text, sizeof text));
    }
}

void lq_view_begin_table(struct lq_view *view, const char *key, const char *heading)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_begin_array(&view->writer);
    } else {
        lq_buffer_printf(view->out, "\n%s\n", heading);
    }
}

void lq_view_end_table(struct lq_view *view)
{
    if (view->json) {
        lq_json_end_array(&view->writer);
    }
}

void lq_view_begin_row(struct lq_view *view)
{
    if (view->json) {
        lq_json_begin_object(&view->writer);
    } else {
        lq_buffer_append_string(view->out, "  ");
    }
}

void lq_view_end_row(struct lq_view *view)
{
    if (view->json) {
        lq_json_end_object(&view->writer);
        return;
    }
    /* The last column may be padded; trailing blanks help nobody. */
    while (!view->out->failed && view->out->size_bytes > 0 &&
           view->out->data[view->out->size_bytes - 1] == ' ') {
        view->out->data[--view->out->size_bytes] = '\0';
    }
    lq_buffer_append_char(view->out, '\n');
}

static void put_cell(struct lq_view *view, int width, const char *text)
{
    lq_buffer_printf(view->out, "%*s  ", width, text);
}

void lq_view_cell_string(struct lq_view *view, const char *key, int width, const char *text)
{
    if (view->json) {
        lq_json_put_string(&view->writer, key, text);
    } else {
        char quoted[LQ_QUOTE_BYTES];
        put_cell(view, width, lq_quote_string(text, quoted));
    }
}

void lq_view_cell_uint(struct lq_view *view, const char *key, int width, uint64_t value)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_uint(&view->writer, value);
    } else {
        char text[32];
        (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
        put_cell(view, width, text);
    }
}

void lq_view_cell_number(struct lq_view *view, const char *key, int width, double value)
{
    if (view->json) {
        lq_json_put_number(&view->writer, key, value);
    } else {
        char text[32];
        put_cell(view, width, number_text(value, text));
    }
}

void lq_view_cell_size(struct lq_view *view, const char *key, int width, uint64_t size_bytes)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_uint(&view->writer, size_bytes);
    } else {
        char text[32];
        put_cell(view, width, lq_text_size(size_bytes, text, sizeof text));
    }
}

void lq_view_cell_shape(struct lq_view *view, const char *key, int width, const uint64_t *dims,
                        size_t count)
{
    if (view->json) {
        lq_json_key(&view->writer, key);
        lq_json_begin_array(&view->writer);
        for (size_t i = 0; i < count; i++) {
            lq_json_uint(&view->writer, dims[i]);
        }
        lq_json_end_array(&view->writer);
        return;
    }
    char text[256];
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < sizeof text - 32; i++) {
        int written = snprintf(text + used, sizeof text - used, "%s%llu", i == 0 ? "" : " x ",
                               (unsigned long long)dims[i]);
        used += written > 0 ? (size_t)written : 0;
    }
    put_cell(view, width, count == 0 ? "scalar" : text);
}

/* Private to rules/format/inspect*.c: one way to say things that comes out as aligned text for
 * people or as one JSON object for programs. Sizes are human in text and bytes in JSON; numbers
 * that are NaN are "-" or null. Strings from files are cut and cleaned in text, whole in JSON.
 * Thread rule: a view belongs to one thread; the buffer is borrowed. */
#ifndef LQ_RULES_FORMAT_VIEW_H
#define LQ_RULES_FORMAT_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/json.h"

struct lq_view {
    struct lq_buffer *out;
    bool json;
    struct lq_json_writer writer;
};

/* `format` is the machine's name, `title` the line for people. */
void lq_view_begin(struct lq_view *view, struct lq_buffer *out, bool json, const char *format,
                   const char *title, uint64_t file_bytes);
void lq_view_end(struct lq_view *view);
/* One fact: "  key   value". */
void lq_view_string(struct lq_view *view, const char *key, const char *text);
void lq_view_string_sized(struct lq_view *view, const char *key, const char *text, size_t length);
void lq_view_uint(struct lq_view *view, const char *key, uint64_t value);
void lq_view_number(struct lq_view *view, const char *key, double value);
void lq_view_size(struct lq_view *view, const char *key, uint64_t size_bytes);
/* A table: in text the heading says what the columns are. Rows of cells, each with the least width
 * it takes in text (negative: to the left). */
void lq_view_begin_table(struct lq_view *view, const char *key, const char *heading);
void lq_view_end_table(struct lq_view *view);
void lq_view_begin_row(struct lq_view *view);
void lq_view_end_row(struct lq_view *view);
void lq_view_cell_string(struct lq_view *view, const char *key, int width, const char *text);
void lq_view_cell_uint(struct lq_view *view, const char *key, int width, uint64_t value);
void lq_view_cell_number(struct lq_view *view, const char *key, int width, double value);
void lq_view_cell_size(struct lq_view *view, const char *key, int width, uint64_t size_bytes);
/* A list of whole numbers: "256 x 768" or [256, 768]. */
void lq_view_cell_shape(struct lq_view *view, const char *key, int width, const uint64_t *dims,
                        size_t count);

#endif

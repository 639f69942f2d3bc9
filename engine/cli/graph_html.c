/* The graph as one page without anything from outside: boxes in columns, left to right, by their
 * distance from what they start from. */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/graph.h"

enum { BOX_WIDTH = 190, BOX_HEIGHT = 44, COLUMN_STEP = 260, ROW_STEP = 62, MARGIN = 24 };

struct spot {
    unsigned column;
    unsigned row;
};

struct drawing {
    struct lq_buffer *out;
    const struct lq_artifact *artifact;
    struct spot *spots;
    bool moved;
};

static void append_html(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            lq_buffer_append_string(out, "&amp;");
            break;
        case '<':
            lq_buffer_append_string(out, "&lt;");
            break;
        case '>':
            lq_buffer_append_string(out, "&gt;");
            break;
        case '"':
            lq_buffer_append_string(out, "&quot;");
            break;
        default:
            lq_buffer_append_char(out, *text);
        }
    }
}

static void push_right(void *user, const struct lq_artifact *needed)
{
    struct drawing *drawing = user;
    unsigned column = drawing->spots[needed->index].column + 1;
    struct spot *spot = &drawing->spots[drawing->artifact->index];
    if (spot->column < column) {
        spot->column = column;
        drawing->moved = true;
    }
}

/* The recipe has no cycles, so this ends after as many rounds as the longest chain has links. */
static void find_columns(const struct lq_recipe *recipe, const bool *wanted, struct spot *spots)
{
    struct drawing drawing = {.spots = spots, .moved = true};
    while (drawing.moved) {
        drawing.moved = false;
        for (size_t i = 0; i < recipe->artifact_count; i++) {
            drawing.artifact = &recipe->artifacts[i];
            if (wanted[i]) {
                lq_graph_visit_needs(drawing.artifact, push_right, &drawing);
            }
        }
    }
}

/* Rows in the order of the recipe; returns the size of the picture. */
static struct spot find_rows(const struct lq_recipe *recipe, const bool *wanted, struct spot *spots,
                             unsigned *used)
{
    struct spot size = {0, 0};
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        if (wanted[i]) {
            spots[i].row = used[spots[i].column]++;
            size.column = spots[i].column + 1 > size.column ? spots[i].column + 1 : size.column;
            size.row = spots[i].row + 1 > size.row ? spots[i].row + 1 : size.row;
        }
    }
    return size;
}

static void draw_edge(void *user, const struct lq_artifact *needed)
{
    const struct drawing *drawing = user;
    const struct spot *from = &drawing->spots[needed->index];
    const struct spot *to = &drawing->spots[drawing->artifact->index];
    unsigned x1 = MARGIN + from->column * COLUMN_STEP + BOX_WIDTH;
    unsigned y1 = MARGIN + from->row * ROW_STEP + BOX_HEIGHT / 2;
    unsigned x2 = MARGIN + to->column * COLUMN_STEP;
    unsigned y2 = MARGIN + to->row * ROW_STEP + BOX_HEIGHT / 2;
    lq_buffer_printf(drawing->out, "<path d=\"M%u %uC%u %u %u %u %u %u\"/>\n", x1, y1, x1 + 40, y1,
                     x2 - 40, y2, x2, y2);
}

static void draw_box(const struct drawing *drawing)
{
    const struct lq_artifact *artifact = drawing->artifact;
    const struct spot *spot = &drawing->spots[artifact->index];
    const struct lq_value *path = lq_artifact_value(artifact, "path");
    unsigned x = MARGIN + spot->column * COLUMN_STEP;
    unsigned y = MARGIN + spot->row * ROW_STEP;
    lq_buffer_printf(drawing->out, "<g class=\"%s\"><title>", artifact->rule->kind);
    append_html(drawing->out, artifact->rule->help);
    if (path != NULL && path->string != NULL) {
        lq_buffer_append_string(drawing->out, "\n");
        append_html(drawing->out, path->string);
    }
    lq_buffer_printf(drawing->out,
                     "</title><rect x=\"%u\" y=\"%u\" width=\"%d\" height=\"%d\" rx=\"6\"/>"
                     "<text x=\"%u\" y=\"%u\">",
                     x, y, BOX_WIDTH, BOX_HEIGHT, x + 10, y + 18);
    append_html(drawing->out, artifact->name);
    lq_buffer_printf(drawing->out, "</text><text class=\"kind\" x=\"%u\" y=\"%u\">%s</text></g>\n",
                     x + 10, y + 35, artifact->rule->kind);
}

static void draw_page(const struct lq_recipe *recipe, const bool *wanted, struct drawing *drawing,
                      struct spot size)
{
    lq_buffer_append_string(
        drawing->out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>lqbuild "
        "graph</title>\n<style>\nbody{margin:0;font:13px sans-serif;background:#fff;color:#222}\n"
        "rect{fill:#f4f6f8;stroke:#8a97a6}\n.gguf rect{fill:#e6f2e6}.model rect{fill:#e8eefc}\n"
        ".report rect{fill:#fdf1dc}.text rect{fill:#f7ecf7}\n.kind{fill:#667;font-size:11px}\n"
        "path{fill:none;stroke:#9aa5b1}\ng:hover rect{stroke:#000;stroke-width:2}\n"
        "@media (prefers-color-scheme:dark){body{background:#1b1e22}}\n</style></head><body>\n");
    lq_buffer_printf(drawing->out,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
                     "height=\"%u\">\n",
                     2 * MARGIN + size.column * COLUMN_STEP, 2 * MARGIN + size.row * ROW_STEP);
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < recipe->artifact_count; i++) {
            drawing->artifact = &recipe->artifacts[i];
            if (wanted[i] && pass == 0) {
                lq_graph_visit_needs(drawing->artifact, draw_edge, drawing);
            } else if (wanted[i]) {
                draw_box(drawing);
            }
        }
    }
    lq_buffer_append_string(drawing->out, "</svg>\n</body></html>\n");
}

enum lq_status lq_graph_draw_html(const struct lq_recipe *recipe, const bool *wanted,
                                  struct lq_buffer *out, struct lq_error *err)
{
    struct spot *spots = calloc(recipe->artifact_count + 1, sizeof *spots);
    unsigned *used = calloc(recipe->artifact_count + 1, sizeof *used);
    if (spots == NULL || used == NULL) {
        free(spots);
        free(used);
        return lq_error_nomem(err, "the graph");
    }
    struct drawing drawing = {.out = out, .spots = spots};
    find_columns(recipe, wanted, spots);
    draw_page(recipe, wanted, &drawing, find_rows(recipe, wanted, spots, used));
    free(spots);
    free(used);
    return LQ_OK;
}

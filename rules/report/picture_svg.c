/* The picture as SVG: a cell is the tensor seen from above, its input columns from left to right
 * and its rows from top to bottom. Stripes are the importance of columns, dots lie where super
 * weights are, rings around those that activation spikes gave away. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rules/model/pretokenize.h"
#include "rules/report/picture.h"

enum {
    MARGIN = 16,
    LABEL_WIDTH = 46,    /* of layer numbers */
    OUTSIDE_WIDTH = 190, /* of names of tensors outside of layers */
    BAND_WIDTH = 4,
    PLACE_WIDTH = 130, /* of coordinates */
    CELL_WIDTH = BAND_WIDTH * LQ_PICTURE_BANDS,
    CELL_HEIGHT = 24,
    DOT = 2, /* pixels of a dot, and of the grid that dots lie on */
    DOT_COLUMNS = CELL_WIDTH / DOT,
    DOT_ROWS = CELL_HEIGHT / DOT,
    COUNT_WIDTH = 40, /* of the number of super weights beside a cell */
    GAP = 8,
    LINE = 18,
    WIDTH_MIN = 640,
    RINGS_MAX = 64, /* of a cell */
};

static const char style[] =
    ".lqp text{font:12px system-ui,sans-serif;fill:#1c1f24}.lqp "
    ".t{font-size:15px;font-weight:600}\n"
    ".lqp .m{font-family:ui-monospace,monospace}.lqp .d{fill:#5b6470}.lqp .bg{fill:#fff}\n"
    ".lqp .c{fill:#eef0f2}.lqp .s0{fill:#e3ecf5}.lqp .s1{fill:#c9dbec}.lqp .s2{fill:#a9c5e0}\n"
    ".lqp .s3{fill:#84abd1}.lqp .s4{fill:#5f90c0}.lqp .s5{fill:#4075ab}.lqp .s6{fill:#275a90}\n"
    ".lqp .s7{fill:#123f70}.lqp .w1{fill:#f2a65a}.lqp .w2{fill:#ee8130}.lqp .w3{fill:#e0560a}\n"
    ".lqp .r{fill:none;stroke:#c2255c;stroke-width:1.5}\n"
    "@media(prefers-color-scheme:dark){.lqp text{fill:#e6e8eb}.lqp .d{fill:#9aa4ae}\n"
    ".lqp .bg{fill:#16181c}.lqp .c{fill:#202329}.lqp .s0{fill:#1f2b38}.lqp .s1{fill:#26394c}\n"
    ".lqp .s2{fill:#2d4a66}.lqp .s3{fill:#365f86}.lqp .s4{fill:#4377a8}.lqp .s5{fill:#5b92c7}\n"
    ".lqp .s6{fill:#83b1df}.lqp .s7{fill:#b9d6f2}.lqp .w1{fill:#b96a1e}.lqp .w2{fill:#e8862a}\n"
    ".lqp .w3{fill:#ffb057}.lqp .r{stroke:#ff6b9d}}\n";

struct canvas {
    const struct lq_picture *picture;
    struct lq_buffer *out;
    unsigned width;
    unsigned y; /* where the next thing goes */
};

/* XML allows few control characters, and UTF-8 only. */
static void put_text(struct lq_buffer *out, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        size_t length = lq_utf8_length(text, left);
        unsigned char c = (unsigned char)*text;
        /* U+FFFE and U+FFFF are no characters of XML. */
        bool is_odd =
            length == 0 || c < 0x20 || c == 0x7f ||
            (length == 3 && memcmp(text, "\xef\xbf", 2) == 0 && (unsigned char)text[2] >= 0xbe);
        if (is_odd) {
            lq_buffer_append_char(out, '?');
            length = length == 0 ? 1 : length;
        } else if (c == '<' || c == '&' || c == '>' || c == '"') {
            lq_buffer_append_string(out, c == '<'   ? "&lt;"
                                         : c == '&' ? "&amp;"
                                         : c == '>' ? "&gt;"
                                                    : "&quot;");
        } else {
            lq_buffer_append(out, text, length);
        }
        text += length;
        left -= length;
    }
}

static void begin_text(struct lq_buffer *out, const char *classes, unsigned x, unsigned y)
{
    lq_buffer_printf(out, "<text class=\"%s\" x=\"%u\" y=\"%u\">", classes, x, y);
}

static void end_text(struct lq_buffer *out)
{
    lq_buffer_append_string(out, "</text>\n");
}

/* ------------------------------------------------------------------- a cell ---- */

/* The stripes of one shade are one path; neighbours are joined. */
static void put_bands(const struct canvas *canvas, const struct lq_picture_cell *cell, unsigned x)
{
    int levels[LQ_PICTURE_BANDS];
    for (size_t i = 0; i < LQ_PICTURE_BANDS; i++) {
        levels[i] = cell->has_tokens ? lq_picture_level(canvas->picture, cell->bands[i]) : -1;
    }
    for (int level = 0; level < LQ_PICTURE_LEVELS; level++) {
        bool is_open = false;
        for (unsigned i = 0; i < LQ_PICTURE_BANDS; i++) {
            unsigned run = 0;
            while (i + run < LQ_PICTURE_BANDS && levels[i + run] == level) {
                run++;
            }
            if (run == 0) {
                continue;
            }
            if (!is_open) {
                lq_buffer_printf(canvas->out, "<path class=\"s%d\" d=\"", level);
                is_open = true;
            }
            lq_buffer_printf(canvas->out, "M%u %uh%uv%dh-%uz", x + i * BAND_WIDTH, canvas->y,
                             run * BAND_WIDTH, CELL_HEIGHT, run * BAND_WIDTH);
            i += run - 1;
        }
        lq_buffer_append_string(canvas->out, is_open ? "\"/>" : "");
    }
}

static unsigned scale_down(uint64_t value, uint64_t total, unsigned room)
{
    /* In floating point, as the product may be too large; exact enough for pixels. */
    unsigned at = (unsigned)((double)value / (double)total * (double)room);
    return at < room ? at : room - 1;
}

/* 1 to 3: a third of the fullest dot, two thirds, more. */
static unsigned shade_of(size_t count, size_t most)
{
    return count * 3 <= most ? 1 : count * 3 <= most * 2 ? 2 : 3;
}

/* Darker where more of them share a dot, relative to the fullest dot of the cell. */
static void put_dots(const struct canvas *canvas, const struct lq_mask_tensor *mask, unsigned x)
{
    size_t counts[DOT_ROWS][DOT_COLUMNS] = {{0}};
    size_t most = 0;
    for (size_t i = 0; i < mask->position_count; i++) {
        unsigned row = scale_down(mask->positions[i] / mask->col_count, mask->row_count, DOT_ROWS);
        unsigned column =
            scale_down(mask->positions[i] % mask->col_count, mask->col_count, DOT_COLUMNS);
        counts[row][column]++;
        most = counts[row][column] > most ? counts[row][column] : most;
    }
    for (unsigned shade = 1; shade <= 3; shade++) {
        bool is_open = false;
        for (unsigned i = 0; i < DOT_ROWS * DOT_COLUMNS; i++) {
            size_t count = counts[i / DOT_COLUMNS][i % DOT_COLUMNS];
            if (count == 0 || shade_of(count, most) != shade) {
                continue;
            }
            if (!is_open) {
                lq_buffer_printf(canvas->out, "<path class=\"w%u\" d=\"", shade);
                is_open = true;
            }
            lq_buffer_printf(canvas->out, "M%u %uh%dv%dh-%dz", x + i % DOT_COLUMNS * DOT,
                             canvas->y + i / DOT_COLUMNS * DOT, DOT, DOT, DOT);
        }
        lq_buffer_append_string(canvas->out, is_open ? "\"/>" : "");
    }
}

static void put_rings(const struct canvas *canvas, const struct lq_mask_tensor *mask, unsigned x)
{
    for (size_t i = 0; i < mask->spike_count && i < RINGS_MAX; i++) {
        unsigned row = scale_down(mask->spikes[i] / mask->col_count, mask->row_count, DOT_ROWS);
        unsigned column =
            scale_down(mask->spikes[i] % mask->col_count, mask->col_count, DOT_COLUMNS);
        lq_buffer_printf(canvas->out, "<circle class=\"r\" cx=\"%u\" cy=\"%u\" r=\"4\"/>",
                         x + column * DOT + 1, canvas->y + row * DOT + 1);
    }
}

/* What a pointer that rests on the cell is told. */
static void put_tooltip(const struct canvas *canvas, const struct lq_picture_cell *cell)
{
    struct lq_buffer *out = canvas->out;
    lq_buffer_append_string(out, "<title>");
    put_text(out, cell->name);
    if (cell->has_tokens) {
        lq_buffer_printf(out, "\nmean %.4g, largest %.4g in column %zu", cell->mean, cell->max,
                         cell->max_column);
    } else if (canvas->picture->imatrix != NULL) {
        lq_buffer_append_string(out, "\nno tokens were seen");
    }
    if (cell->mask != NULL) {
        const struct lq_mask_tensor *mask = cell->mask;
        lq_buffer_printf(out, "\n%zu super weights, %zu of them by activation spikes",
                         mask->position_count, mask->spike_count);
        const uint64_t *positions = mask->spike_count > 0 ? mask->spikes : mask->positions;
        size_t count = mask->spike_count > 0 ? mask->spike_count : mask->position_count;
        for (size_t i = 0; i < count && i < 4; i++) {
            lq_buffer_printf(out, "%s(%" PRIu64 ", %" PRIu64 ")", i == 0 ? "\n" : " ",
                             positions[i] / mask->col_count, positions[i] % mask->col_count);
        }
        lq_buffer_append_string(out, count > 4 ? " ..." : "");
    }
    lq_buffer_append_string(out, "</title>");
}

static void put_cell(const struct canvas *canvas, const struct lq_picture_cell *cell, unsigned x)
{
    struct lq_buffer *out = canvas->out;
    if (cell->name == NULL) {
        return;
    }
    lq_buffer_append_string(out, "<g>");
    put_tooltip(canvas, cell);
    lq_buffer_printf(out, "<rect class=\"c\" x=\"%u\" y=\"%u\" width=\"%d\" height=\"%d\"/>", x,
                     canvas->y, CELL_WIDTH, CELL_HEIGHT);
    put_bands(canvas, cell, x);
    if (cell->mask != NULL) {
        put_dots(canvas, cell->mask, x);
        put_rings(canvas, cell->mask, x);
        begin_text(out, "d", x + CELL_WIDTH + 3, canvas->y + CELL_HEIGHT - 8);
        lq_buffer_printf(out, "%zu", cell->mask->position_count);
        lq_buffer_append_string(out, "</text>");
    }
    lq_buffer_append_string(out, "</g>\n");
}

/* ---------------------------------------------------------------- the sheet ---- */

static unsigned step_of(const struct lq_picture *picture)
{
    return CELL_WIDTH + GAP + (picture->mask == NULL ? 0U : (unsigned)COUNT_WIDTH);
}

static void put_title(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    struct lq_buffer *out = canvas->out;
    canvas->y = MARGIN + 14;
    begin_text(out, "t", MARGIN, canvas->y);
    lq_buffer_append_string(out, picture->imatrix == NULL ? "Super weights of "
                                 : picture->mask == NULL  ? "Importance of "
                                                          : "Importance and super weights: ");
    put_text(out, picture->imatrix == NULL ? picture->mask_name : picture->imatrix_name);
    if (picture->imatrix != NULL && picture->mask != NULL) {
        lq_buffer_append_string(out, ", ");
        put_text(out, picture->mask_name);
    }
    end_text(out);
    canvas->y += LINE;
}

static void put_scale(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    struct lq_buffer *out = canvas->out;
    unsigned x = MARGIN;
    for (int level = 0; level < LQ_PICTURE_LEVELS; level++, x += 20) {
        lq_buffer_printf(out, "<rect class=\"s%d\" x=\"%u\" y=\"%u\" width=\"20\" height=\"12\"/>",
                         level, x, canvas->y - 2);
    }
    begin_text(out, "d", x + 8, canvas->y + 8);
    lq_buffer_printf(out, "%.3g to %.3g, by its logarithm: ", picture->low, picture->high);
    put_text(out, lq_picture_meaning(picture));
    lq_buffer_append_string(out, ", the largest of each 24th of the input columns");
    end_text(out);
    canvas->y += LINE + 4;
}

static void put_mask_legend(struct canvas *canvas)
{
    const struct lq_mask *mask = canvas->picture->mask;
    struct lq_buffer *out = canvas->out;
    lq_buffer_printf(out, "<rect class=\"w3\" x=\"%d\" y=\"%u\" width=\"6\" height=\"6\"/>",
                     MARGIN + 4, canvas->y + 1);
    lq_buffer_printf(out, "<circle class=\"r\" cx=\"%d\" cy=\"%u\" r=\"4\"/>", MARGIN + 26,
                     canvas->y + 4);
    begin_text(out, "d", MARGIN + 40, canvas->y + 8);
    lq_buffer_printf(out,
                     "%" PRIu64 " super weights in %zu tensor%s, where they are by row and column; "
                     "ringed: found by activation spikes",
                     mask->total_protected, mask->tensor_count, mask->tensor_count == 1 ? "" : "s");
    end_text(out);
    canvas->y += LINE + 4;
}

static void put_grid(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    if (picture->layer_count == 0) {
        return;
    }
    canvas->y += LINE;
    begin_text(canvas->out, "d", MARGIN, canvas->y);
    lq_buffer_append_string(canvas->out, "layer");
    end_text(canvas->out);
    for (unsigned k = 0; k < picture->kind_count; k++) {
        begin_text(canvas->out, "m", MARGIN + LABEL_WIDTH + k * step_of(picture), canvas->y);
        put_text(canvas->out, picture->kinds[k]);
        end_text(canvas->out);
    }
    canvas->y += 8;
    for (size_t row = 0; row < picture->layer_count; row++) {
        begin_text(canvas->out, "d", MARGIN, canvas->y + CELL_HEIGHT - 8);
        lq_buffer_printf(canvas->out, "%u", picture->layers[row]);
        end_text(canvas->out);
        for (unsigned k = 0; k < picture->kind_count; k++) {
            put_cell(canvas, &picture->cells[row * picture->kind_count + k],
                     MARGIN + LABEL_WIDTH + k * step_of(picture));
        }
        canvas->y += CELL_HEIGHT + 4;
    }
}

static void put_outside(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    if (picture->outside_count == 0) {
        return;
    }
    canvas->y += 8;
    for (size_t i = 0; i < picture->outside_count; i++) {
        begin_text(canvas->out, "m", MARGIN, canvas->y + CELL_HEIGHT - 8);
        put_text(canvas->out, picture->outside[i].name);
        end_text(canvas->out);
        put_cell(canvas, &picture->outside[i], MARGIN + OUTSIDE_WIDTH);
        canvas->y += CELL_HEIGHT + 4;
    }
    if (picture->outside_hidden > 0) {
        begin_text(canvas->out, "d", MARGIN, canvas->y + LINE - 4);
        lq_buffer_printf(canvas->out, "and %zu more", picture->outside_hidden);
        end_text(canvas->out);
        canvas->y += LINE;
    }
}

static void put_marks(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    struct lq_buffer *out = canvas->out;
    if (picture->mark_count == 0) {
        return;
    }
    canvas->y += LINE + 8;
    begin_text(out, "d", MARGIN, canvas->y);
    lq_buffer_append_string(out, "first super weights: tensor, (row, column), score");
    end_text(out);
    for (size_t i = 0; i < picture->mark_count; i++) {
        const struct lq_picture_mark *mark = &picture->marks[i];
        canvas->y += LINE;
        begin_text(out, "m", MARGIN, canvas->y);
        put_text(out, mark->tensor->name);
        end_text(out);
        begin_text(out, "m", MARGIN + OUTSIDE_WIDTH, canvas->y);
        lq_buffer_printf(out, "(%" PRIu64 ", %" PRIu64 ")",
                         mark->position / mark->tensor->col_count,
                         mark->position % mark->tensor->col_count);
        end_text(out);
        begin_text(out, "m", MARGIN + OUTSIDE_WIDTH + PLACE_WIDTH, canvas->y);
        if (!isnan(mark->score)) {
            lq_buffer_printf(out, "%.4g", (double)mark->score);
        }
        lq_buffer_append_string(out, mark->is_spike ? " spike" : "");
        end_text(out);
    }
    uint64_t more = picture->mask->total_protected - picture->mark_count;
    if (more > 0) {
        canvas->y += LINE;
        begin_text(out, "d", MARGIN, canvas->y);
        lq_buffer_printf(out, "and %" PRIu64 " more", more);
        end_text(out);
    }
}

static void put_sheet(struct canvas *canvas)
{
    const struct lq_picture *picture = canvas->picture;
    put_title(canvas);
    if (picture->imatrix != NULL) {
        put_scale(canvas);
    }
    if (picture->mask != NULL) {
        put_mask_legend(canvas);
    }
    put_grid(canvas);
    put_outside(canvas);
    put_marks(canvas);
    canvas->y += MARGIN;
}

void lq_picture_write_svg(const struct lq_picture *picture, bool inside, struct lq_buffer *out)
{
    /* The sheet is drawn first: only then is its height known. */
    struct lq_buffer sheet;
    unsigned width = 2 * MARGIN + LABEL_WIDTH + (unsigned)picture->kind_count * step_of(picture);
    struct canvas canvas = {.picture = picture, .out = &sheet};
    canvas.width = width > WIDTH_MIN ? width : WIDTH_MIN;
    lq_buffer_init(&sheet);
    put_sheet(&canvas);
    lq_buffer_append_string(out, inside ? "" : "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    lq_buffer_printf(out,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"lqp\" role=\"img\" "
                     "width=\"%u\" height=\"%u\" viewBox=\"0 0 %u %u\">\n",
                     canvas.width, canvas.y, canvas.width, canvas.y);
    lq_buffer_append_string(out, "<title>Importance and super weights by layer</title>\n<style>");
    lq_buffer_append_string(out, style);
    lq_buffer_printf(out, "</style>\n<rect class=\"bg\" width=\"%u\" height=\"%u\"/>\n",
                     canvas.width, canvas.y);
    lq_buffer_append(out, sheet.data, sheet.size_bytes);
    lq_buffer_append_string(out, "</svg>\n");
    out->failed = out->failed || sheet.failed;
    lq_buffer_fini(&sheet);
}

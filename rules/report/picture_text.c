/* The picture on a terminal: a bar for each quarter of a tensor's input columns, as high as the
 * most important one of them, and the number of super weights. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rules/format/quote.h"
#include "rules/report/picture.h"

enum { BARS = 4, BANDS_PER_BAR = LQ_PICTURE_BANDS / BARS, COUNT_WIDTH = 4, KIND_WIDTH_MAX = 20 };

#define SPIKE_COLOR "\x1b[1;31m"
#define RANK_COLOR "\x1b[33m"
#define PLAIN "\x1b[0m"

struct sheet {
    const struct lq_picture *picture;
    struct lq_picture_style style;
    struct lq_buffer *out;
};

static const char *bar_of(const struct sheet *sheet, int level)
{
    static const char *const blocks[LQ_PICTURE_LEVELS] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                                          "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const signs[LQ_PICTURE_LEVELS] = {".", ":", "-", "=", "+", "o", "%", "@"};
    return level < 0 ? " " : sheet->style.utf8 ? blocks[level] : signs[level];
}

/* "843", "12k", "99M": at most three characters. */
static void format_count(size_t count, char out[8])
{
    if (count < 1000) {
        (void)snprintf(out, 8, "%zu", count);
    } else if (count < 100000) {
        (void)snprintf(out, 8, "%zuk", count / 1000);
    } else if (count < 1000000) {
        (void)snprintf(out, 8, ".%zuM", count / 100000);
    } else {
        size_t millions = count / 1000000;
        (void)snprintf(out, 8, "%zuM", millions > 999 ? (size_t)999 : millions);
    }
}

static void put_cell(const struct sheet *sheet, const struct lq_picture_cell *cell, int width)
{
    const struct lq_mask_tensor *mask = cell->mask;
    int used = 0;
    for (size_t bar = 0; sheet->picture->imatrix != NULL && bar < BARS; bar++) {
        float value = 0.0f;
        for (size_t i = bar * BANDS_PER_BAR; i < (bar + 1) * BANDS_PER_BAR; i++) {
            value = cell->bands[i] > value ? cell->bands[i] : value;
        }
        bool is_known = cell->name != NULL && cell->has_tokens;
        lq_buffer_append_string(
            sheet->out, bar_of(sheet, is_known ? lq_picture_level(sheet->picture, value) : -1));
        used++;
    }
    if (mask != NULL) {
        char count[8];
        bool has_spikes = mask->spike_count > 0;
        format_count(mask->position_count, count);
        lq_buffer_printf(sheet->out, "%s%c%s%s",
                         !sheet->style.color ? ""
                         : has_spikes        ? SPIKE_COLOR
                                             : RANK_COLOR,
                         has_spikes ? '!' : '*', count, sheet->style.color ? PLAIN : "");
        used += 1 + (int)strlen(count);
    } else if (cell->name == NULL && sheet->picture->imatrix == NULL) {
        lq_buffer_append_char(sheet->out, '.');
        used++;
    }
    if (width > used) {
        lq_buffer_printf(sheet->out, "%*s", width - used, "");
    }
}

/* Lines do not end in spaces. */
static void end_line(struct lq_buffer *out)
{
    while (out->size_bytes > 0 && out->data[out->size_bytes - 1] == ' ') {
        out->size_bytes--;
    }
    lq_buffer_append_char(out, '\n');
}

static int width_of(const struct sheet *sheet, const char *kind)
{
    int least = (sheet->picture->imatrix == NULL ? 0 : (int)BARS) +
                (sheet->picture->mask == NULL ? 0 : (int)COUNT_WIDTH);
    int length = strlen(kind) > KIND_WIDTH_MAX ? (int)KIND_WIDTH_MAX : (int)strlen(kind);
    return length > least ? length : least;
}

static void put_legend(const struct sheet *sheet)
{
    const struct lq_picture *picture = sheet->picture;
    char quoted[LQ_QUOTE_BYTES];
    if (picture->imatrix != NULL) {
        lq_buffer_printf(sheet->out, "%s: %s, from %.3g %s to %.3g %s by its logarithm,\n",
                         lq_quote_string(picture->imatrix_name, quoted),
                         lq_picture_meaning(picture), picture->low, bar_of(sheet, 0), picture->high,
                         bar_of(sheet, LQ_PICTURE_LEVELS - 1));
        lq_buffer_append_string(sheet->out, "  the largest of each quarter of a tensor's input "
                                            "columns\n");
    }
    if (picture->mask != NULL) {
        lq_buffer_printf(sheet->out,
                         "%s: %" PRIu64 " super weights in %zu tensor%s, * by rank, ! also by "
                         "activation spikes\n",
                         lq_quote_string(picture->mask_name, quoted),
                         picture->mask->total_protected, picture->mask->tensor_count,
                         picture->mask->tensor_count == 1 ? "" : "s");
    }
}

static void put_grid(const struct sheet *sheet)
{
    const struct lq_picture *picture = sheet->picture;
    if (picture->layer_count == 0) {
        return;
    }
    lq_buffer_append_string(sheet->out, "\nlayer");
    for (size_t k = 0; k < picture->kind_count; k++) {
        char quoted[LQ_QUOTE_BYTES];
        (void)lq_quote_string(picture->kinds[k], quoted);
        lq_buffer_printf(sheet->out, " %-*.*s", width_of(sheet, picture->kinds[k]),
                         (int)KIND_WIDTH_MAX, quoted);
    }
    end_line(sheet->out);
    for (size_t row = 0; row < picture->layer_count; row++) {
        lq_buffer_printf(sheet->out, "%5u", picture->layers[row]);
        for (size_t k = 0; k < picture->kind_count; k++) {
            lq_buffer_append_char(sheet->out, ' ');
            put_cell(sheet, &picture->cells[row * picture->kind_count + k],
                     width_of(sheet, picture->kinds[k]));
        }
        end_line(sheet->out);
    }
}

static void put_outside(const struct sheet *sheet)
{
    const struct lq_picture *picture = sheet->picture;
    if (picture->outside_count == 0) {
        return;
    }
    lq_buffer_append_string(sheet->out, "\noutside of layers\n");
    for (size_t i = 0; i < picture->outside_count; i++) {
        char quoted[LQ_QUOTE_BYTES];
        lq_buffer_printf(sheet->out, "  %-24s ", lq_quote_string(picture->outside[i].name, quoted));
        put_cell(sheet, &picture->outside[i], 0);
        end_line(sheet->out);
    }
    if (picture->outside_hidden > 0) {
        lq_buffer_printf(sheet->out, "  and %zu more\n", picture->outside_hidden);
    }
}

static void put_marks(const struct sheet *sheet)
{
    const struct lq_picture *picture = sheet->picture;
    if (picture->mark_count == 0) {
        return;
    }
    lq_buffer_append_string(sheet->out, "\nfirst super weights: tensor, (row, column), score\n");
    for (size_t i = 0; i < picture->mark_count; i++) {
        const struct lq_picture_mark *mark = &picture->marks[i];
        char quoted[LQ_QUOTE_BYTES];
        char place[64];
        (void)snprintf(place, sizeof place, "(%" PRIu64 ", %" PRIu64 ")",
                       mark->position / mark->tensor->col_count,
                       mark->position % mark->tensor->col_count);
        lq_buffer_printf(sheet->out, "  %-24s %-16s", lq_quote_string(mark->tensor->name, quoted),
                         place);
        if (!isnan(mark->score)) {
            lq_buffer_printf(sheet->out, " %.4g", (double)mark->score);
        }
        lq_buffer_append_string(sheet->out, mark->is_spike ? "  spike" : "");
        end_line(sheet->out);
    }
    uint64_t more = picture->mask->total_protected - picture->mark_count;
    if (more > 0) {
        lq_buffer_printf(sheet->out, "  and %" PRIu64 " more\n", more);
    }
}

void lq_picture_write_text(const struct lq_picture *picture, struct lq_picture_style style,
                           struct lq_buffer *out)
{
    struct sheet sheet = {picture, style, out};
    put_legend(&sheet);
    put_grid(&sheet);
    put_outside(&sheet);
    put_marks(&sheet);
}

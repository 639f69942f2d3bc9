#include "rules/report/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/quote.h"

/* Smaller values are as pale as this much below the largest. */
#define DECADES_BELOW 1e-8

/* A tensor's place in the picture. */
struct place {
    int layer;        /* -1: outside of layers */
    const char *kind; /* borrowed from the tensor's name, `length` characters */
    size_t length;
};

struct builder {
    struct lq_arena *arena;
    const struct lq_picture_source *source;
    struct lq_picture *picture;
    const char *kinds[LQ_PICTURE_KINDS_MAX];
    bool *seen;    /* layers */
    unsigned *row; /* of a layer */
    float *means;  /* room for the widest entry */
};

static struct place find_place(const char *name)
{
    struct place place = {.layer = -1, .kind = name, .length = strlen(name)};
    char *end = NULL;
    if (lq_text_starts_with(name, "blk.") && name[4] >= '0' && name[4] <= '9') {
        unsigned long layer = strtoul(name + 4, &end, 10);
        if (*end == '.' && end[1] != '\0' && layer < LQ_MODEL_LAYERS_MAX) {
            place = (struct place){(int)layer, end + 1, strlen(end + 1)};
        }
    }
    static const char weight[] = ".weight";
    const size_t tail = sizeof weight - 1;
    if (place.length > tail && strcmp(place.kind + place.length - tail, weight) == 0) {
        place.length -= tail;
    }
    return place;
}

/* Where a kind stands in a layer; unknown ones come last, by name. */
static size_t rank_of(const char *kind)
{
    static const char *const order[] = {
        "attn_qkv", "attn_q", "attn_k",   "attn_v",        "attn_output", "ffn_gate_inp",
        "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
    for (size_t i = 0; i < LQ_COUNT_OF(order); i++) {
        if (strcmp(order[i], kind) == 0) {
            return i;
        }
    }
    return LQ_COUNT_OF(order);
}

static int compare_kinds(const void *a, const void *b)
{
    const char *x = *(const char *const *)a;
    const char *y = *(const char *const *)b;
    size_t first = rank_of(x);
    size_t second = rank_of(y);
    return first != second ? (first < second ? -1 : 1) : strcmp(x, y);
}

static size_t find_kind(const struct builder *build, const struct place *place)
{
    for (size_t i = 0; i < build->picture->kind_count; i++) {
        const char *kind = build->kinds[i];
        if (strncmp(kind, place->kind, place->length) == 0 && kind[place->length] == '\0') {
            return i;
        }
    }
    return build->picture->kind_count;
}

/* Notes the layer and the kind of a tensor, or that it is outside of layers. */
static enum lq_status note_tensor(struct builder *build, const char *name, struct lq_error *err)
{
    struct lq_picture *picture = build->picture;
    struct place place = find_place(name);
    if (place.layer < 0) {
        bool is_shown = picture->outside_count < LQ_PICTURE_OUTSIDE;
        picture->outside_count += is_shown;
        picture->outside_hidden += !is_shown;
        return LQ_OK;
    }
    build->seen[place.layer] = true;
    if (find_kind(build, &place) < picture->kind_count) {
        return LQ_OK;
    }
    if (picture->kind_count == LQ_PICTURE_KINDS_MAX) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(err, LQ_EFORMAT,
                            "'%s' is one kind of tensor too many for a picture: expected at most "
                            "%d different ones in the layers",
                            lq_quote_string(name, quoted), LQ_PICTURE_KINDS_MAX);
    }
    build->kinds[picture->kind_count] = lq_arena_dup(build->arena, place.kind, place.length);
    return build->kinds[picture->kind_count++] == NULL ? lq_error_nomem(err, "a picture") : LQ_OK;
}

static enum lq_status note_all(struct builder *build, struct lq_error *err)
{
    const struct lq_picture_source *source = build->source;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; source->imatrix != NULL && i < source->imatrix->entry_count; i++) {
        if (status == LQ_OK) {
            status = note_tensor(build, source->imatrix->entries[i].name, err);
        }
    }
    for (size_t i = 0; source->mask != NULL && i < source->mask->tensor_count; i++) {
        const char *name = source->mask->tensors[i].name;
        bool is_noted = source->imatrix != NULL && lq_imatrix_find(source->imatrix, name) != NULL;
        if (status == LQ_OK && !is_noted) {
            status = note_tensor(build, name, err);
        }
    }
    return status;
}

/* Numbers the rows and sorts the columns, and makes room for the cells. */
static enum lq_status lay_out(struct builder *build, struct lq_error *err)
{
    struct lq_picture *picture = build->picture;
    unsigned *layers = lq_arena_get_array(build->arena, LQ_MODEL_LAYERS_MAX, sizeof *layers);
    const char **kinds = lq_arena_get_array(build->arena, picture->kind_count + 1, sizeof *kinds);
    if (layers == NULL || kinds == NULL) {
        return lq_error_nomem(err, "a picture");
    }
    for (unsigned i = 0; i < LQ_MODEL_LAYERS_MAX; i++) {
        if (build->seen[i]) {
            build->row[i] = (unsigned)picture->layer_count;
            layers[picture->layer_count++] = i;
        }
    }
    qsort(build->kinds, picture->kind_count, sizeof *build->kinds, compare_kinds);
    memcpy(kinds, build->kinds, picture->kind_count * sizeof *kinds);
    picture->layers = layers;
    picture->kinds = kinds;
    picture->cells = lq_arena_get_array(
        build->arena, picture->layer_count * picture->kind_count + 1, sizeof *picture->cells);
    picture->outside =
        lq_arena_get_array(build->arena, picture->outside_count + 1, sizeof *picture->outside);
    picture->outside_count = 0;
    return picture->cells == NULL || picture->outside == NULL ? lq_error_nomem(err, "a picture")
                                                              : LQ_OK;
}

/* The cell of a tensor, with its name; NULL for one that is not shown. */
static struct lq_picture_cell *get_cell(struct builder *build, const char *name)
{
    struct lq_picture *picture = build->picture;
    struct place place = find_place(name);
    struct lq_picture_cell *cell = NULL;
    if (place.layer >= 0) {
        cell =
            &picture
                 ->cells[build->row[place.layer] * picture->kind_count + find_kind(build, &place)];
    }
    for (size_t i = 0; cell == NULL && i < picture->outside_count; i++) {
        cell = strcmp(picture->outside[i].name, name) == 0 ? &picture->outside[i] : NULL;
    }
    if (cell == NULL && picture->outside_count == LQ_PICTURE_OUTSIDE) {
        return NULL;
    }
    if (cell == NULL) {
        cell = &picture->outside[picture->outside_count++];
    }
    cell->name = name;
    return cell;
}

/* The part of `columns` that belongs to a band: at least one. */
static void band_range(size_t band, size_t columns, size_t *first, size_t *end)
{
    *first = band * columns / LQ_PICTURE_BANDS;
    *end = (band + 1) * columns / LQ_PICTURE_BANDS;
    *end = *end > *first ? *end : *first + 1;
}

static void add_matrix(const float *means, size_t columns, struct lq_picture_cell *cell)
{
    for (size_t band = 0; band < LQ_PICTURE_BANDS; band++) {
        size_t first = 0;
        size_t end = 0;
        band_range(band, columns, &first, &end);
        for (size_t i = first; i < end; i++) {
            cell->bands[band] = means[i] > cell->bands[band] ? means[i] : cell->bands[band];
        }
    }
    for (size_t i = 0; i < columns; i++) {
        cell->mean += (double)means[i];
        if ((double)means[i] > cell->max) {
            cell->max = (double)means[i];
            cell->max_column = i;
        }
    }
}

static void fill_importance(struct builder *build, const struct lq_imatrix_entry *entry)
{
    struct lq_picture_cell *cell = get_cell(build, entry->name);
    size_t matrices = 0;
    for (size_t m = 0; cell != NULL && m < entry->mat_count; m++) {
        if (entry->counts[entry->count_count == 1 ? 0 : m] > 0.0f) {
            lq_imatrix_means(entry, m, build->means);
            add_matrix(build->means, entry->col_count, cell);
            matrices++;
        }
    }
    if (matrices > 0) {
        cell->mean /= (double)matrices * (double)entry->col_count;
        cell->has_tokens = true;
    }
}

static enum lq_status fill_mask(struct builder *build, const struct lq_mask_tensor *tensor,
                                struct lq_error *err)
{
    const struct lq_imatrix *imatrix = build->source->imatrix;
    const struct lq_imatrix_entry *entry =
        imatrix == NULL ? NULL : lq_imatrix_find(imatrix, tensor->name);
    if (entry != NULL && entry->col_count != tensor->col_count) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(
            err, LQ_EFORMAT,
            "%s: '%s' has %llu columns, but in %s it has %zu; give the mask and the "
            "importance matrix of one model",
            build->source->mask_name, lq_quote_string(tensor->name, quoted),
            (unsigned long long)tensor->col_count, build->source->imatrix_name, entry->col_count);
    }
    struct lq_picture_cell *cell = get_cell(build, tensor->name);
    if (cell != NULL) {
        cell->mask = tensor;
    }
    return LQ_OK;
}

static void widen_range(struct lq_picture *picture, const struct lq_picture_cell *cell)
{
    for (size_t i = 0; cell->has_tokens && i < LQ_PICTURE_BANDS; i++) {
        double value = (double)cell->bands[i];
        picture->high = value > picture->high ? value : picture->high;
        if (value > 0.0 && (picture->low == 0.0 || value < picture->low)) {
            picture->low = value;
        }
    }
}

static void find_range(struct lq_picture *picture)
{
    for (size_t i = 0; i < picture->layer_count * picture->kind_count; i++) {
        widen_range(picture, &picture->cells[i]);
    }
    for (size_t i = 0; i < picture->outside_count; i++) {
        widen_range(picture, &picture->outside[i]);
    }
    picture->low = fmax(picture->low, picture->high * DECADES_BELOW);
}

static bool is_before(const struct lq_picture_mark *a, const struct lq_picture_mark *b)
{
    return a->is_spike != b->is_spike ? a->is_spike : a->score > b->score;
}

/* Equal ones stay in the order of names and positions. */
static void add_mark(struct lq_picture *picture, const struct lq_picture_mark *mark)
{
    size_t at = picture->mark_count;
    while (at > 0 && is_before(mark, &picture->marks[at - 1])) {
        at--;
    }
    if (at == LQ_PICTURE_LISTED) {
        return;
    }
    picture->mark_count += picture->mark_count < LQ_PICTURE_LISTED;
    memmove(&picture->marks[at + 1], &picture->marks[at],
            (picture->mark_count - 1 - at) * sizeof *mark);
    picture->marks[at] = *mark;
}

static void find_marks(struct lq_picture *picture, const struct lq_mask_tensor *tensor)
{
    size_t spike = 0;
    for (size_t i = 0; i < tensor->position_count; i++) {
        struct lq_picture_mark mark = {
            .tensor = tensor,
            .position = tensor->positions[i],
            .score = tensor->scores == NULL ? NAN : tensor->scores[i],
            .is_spike =
                spike < tensor->spike_count && tensor->spikes[spike] == tensor->positions[i],
        };
        spike += mark.is_spike;
        add_mark(picture, &mark);
    }
}

static enum lq_status make_scratch(struct builder *build, struct lq_error *err)
{
    const struct lq_imatrix *imatrix = build->source->imatrix;
    size_t widest = 1;
    for (size_t i = 0; imatrix != NULL && i < imatrix->entry_count; i++) {
        size_t columns = imatrix->entries[i].col_count;
        widest = columns > widest ? columns : widest;
    }
    build->seen = lq_arena_get_array(build->arena, LQ_MODEL_LAYERS_MAX, sizeof *build->seen);
    build->row = lq_arena_get_array(build->arena, LQ_MODEL_LAYERS_MAX, sizeof *build->row);
    build->means = lq_arena_get_array(build->arena, widest, sizeof *build->means);
    return build->seen == NULL || build->row == NULL || build->means == NULL
               ? lq_error_nomem(err, "a picture")
               : LQ_OK;
}

enum lq_status lq_picture_make(const struct lq_picture_source *source, struct lq_arena *arena,
                               struct lq_picture *out, struct lq_error *err)
{
    struct builder build = {.arena = arena, .source = source, .picture = out};
    *out = (struct lq_picture){.imatrix_name = source->imatrix_name,
                               .mask_name = source->mask_name,
                               .imatrix = source->imatrix,
                               .mask = source->mask};
    enum lq_status status = make_scratch(&build, err);
    if (status == LQ_OK) {
        status = note_all(&build, err);
    }
    if (status == LQ_OK) {
        status = lay_out(&build, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    for (size_t i = 0; source->imatrix != NULL && i < source->imatrix->entry_count; i++) {
        fill_importance(&build, &source->imatrix->entries[i]);
    }
    for (size_t i = 0; status == LQ_OK && source->mask != NULL && i < source->mask->tensor_count;
         i++) {
        status = fill_mask(&build, &source->mask->tensors[i], err);
        find_marks(out, &source->mask->tensors[i]);
    }
    find_range(out);
    return status;
}

int lq_picture_level(const struct lq_picture *picture, float value)
{
    if (!(picture->high > 0.0) || !(value >= 0.0f)) {
        return -1;
    }
    if (picture->high <= picture->low || (double)value <= picture->low) {
        return (double)value < picture->high ? 0 : LQ_PICTURE_LEVELS - 1;
    }
    double part = log((double)value / picture->low) / log(picture->high / picture->low);
    int level = (int)(part * LQ_PICTURE_LEVELS);
    return level < LQ_PICTURE_LEVELS ? level : LQ_PICTURE_LEVELS - 1;
}

const char *lq_picture_meaning(const struct lq_picture *picture)
{
    switch (picture->imatrix->method) {
    case LQ_IMPORTANCE_ACTIVATION:
        return "mean square of inputs";
    case LQ_IMPORTANCE_GRADIENT:
        return "mean |gradient * weight|";
    case LQ_IMPORTANCE_FISHER:
        return "mean square of gradients";
    }
    return "importance";
}

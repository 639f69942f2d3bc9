/* A picture of importance and of super weights: one row for each layer, one column for each kind of
 * tensor, in each cell the importance of its input columns from left to right on one logarithmic
 * scale, and the super weights of its mask. From an importance matrix, a mask, or both; drawn as
 * text for terminals or as one SVG file that needs nothing else. The same inputs give the same
 * bytes. Ownership: memory from the arena; names and masks are borrowed from what was given, which
 * must outlive the picture. Thread rule: pure. Limits: LQ_PICTURE_KINDS_MAX kinds of tensors,
 * LQ_MODEL_LAYERS_MAX layers. */
#ifndef LQ_RULES_REPORT_PICTURE_H
#define LQ_RULES_REPORT_PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/format/imatrix.h"
#include "rules/format/mask.h"

enum {
    LQ_PICTURE_BANDS = 24,  /* of a cell: equal parts of its columns */
    LQ_PICTURE_LEVELS = 8,  /* shades */
    LQ_PICTURE_LISTED = 16, /* super weights that are named */
    LQ_PICTURE_OUTSIDE = 16 /* tensors outside of layers that are shown */
};

struct lq_picture_cell {
    const char *name;  /* of the tensor; NULL: the layer has none of this kind */
    bool has_tokens;   /* the importance matrix has seen tokens for it; else the next is unset */
    double mean;       /* over all columns, and of experts over those that saw tokens */
    double max;        /* of all columns */
    size_t max_column; /* where that is */
    float bands[LQ_PICTURE_BANDS];     /* the largest of each part of the columns */
    const struct lq_mask_tensor *mask; /* NULL: no super weights */
};

/* A super weight for the list below the picture. */
struct lq_picture_mark {
    const struct lq_mask_tensor *tensor;
    uint64_t position;
    float score; /* NaN: unknown */
    bool is_spike;
};

struct lq_picture {
    const char *imatrix_name; /* NULL: no importance matrix */
    const char *mask_name;    /* NULL: no mask */
    const struct lq_imatrix *imatrix;
    const struct lq_mask *mask;
    const char *const *kinds; /* "attn_q", in the order in which a layer uses them */
    size_t kind_count;
    const unsigned *layers; /* the number of each row, ascending */
    size_t layer_count;
    struct lq_picture_cell *cells; /* layer_count x kind_count */
    /* Tensors that belong to no layer, as output.weight. */
    struct lq_picture_cell *outside;
    size_t outside_count;
    size_t outside_hidden; /* how many more there are */
    /* The range of shades: the largest band, and the least that is above 0 and at most eight
     * decades below. Both 0 without an importance matrix. */
    double low;
    double high;
    struct lq_picture_mark marks[LQ_PICTURE_LISTED]; /* spikes first, then by score */
    size_t mark_count;
};

/* What to draw: either may be NULL, not both. Names are for titles. */
struct lq_picture_source {
    const struct lq_imatrix *imatrix;
    const char *imatrix_name;
    const struct lq_mask *mask;
    const char *mask_name;
};

/* Errors: LQ_EFORMAT when a tensor of the mask has other columns than the matrix says, or when
 * there are too many kinds of tensors. */
enum lq_status lq_picture_make(const struct lq_picture_source *source, struct lq_arena *arena,
                               struct lq_picture *out, struct lq_error *err);
/* 0 to LQ_PICTURE_LEVELS - 1; -1 for a value of nothing. */
int lq_picture_level(const struct lq_picture *picture, float value);
/* The words of the importance matrix's method: what a shade stands for. */
const char *lq_picture_meaning(const struct lq_picture *picture);

struct lq_picture_style {
    bool utf8;  /* blocks of Unicode; else ASCII */
    bool color; /* ANSI colors for super weights */
};
void lq_picture_write_text(const struct lq_picture *picture, struct lq_picture_style style,
                           struct lq_buffer *out);
/* A whole file, with its XML declaration; `inside` a page without it. */
void lq_picture_write_svg(const struct lq_picture *picture, bool inside, struct lq_buffer *out);

#endif

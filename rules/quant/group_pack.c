#include "rules/quant/group_pack.h"

#include <math.h>

#include "kernels/kernels.h"

const uint8_t lq_nibbles_plain[LQ_WORD_LEVELS] = {0, 1, 2, 3, 4, 5, 6, 7};
const uint8_t lq_nibbles_awq[LQ_WORD_LEVELS] = {0, 2, 4, 6, 1, 3, 5, 7};

/* The smallest numbers above 0 of the types, for groups whose scale would round to it. */
#define TINY_F16 5.9604645e-8F
#define TINY_BF16 9.1835496e-41F
#define TINY_F32 1.4012985e-45F

/* ---- groups ---- */

float lq_group_round_scale(float scale, enum lq_dtype type)
{
    if (type == LQ_DTYPE_F16) {
        return lq_f16_to_f32(lq_f32_to_f16(scale));
    }
    return type == LQ_DTYPE_BF16 ? lq_bf16_to_f32(lq_f32_to_bf16(scale)) : scale;
}

static float tiny_scale(enum lq_dtype type)
{
    return type == LQ_DTYPE_F16 ? TINY_F16 : type == LQ_DTYPE_BF16 ? TINY_BF16 : TINY_F32;
}

bool lq_group_fit_levels(float low, float high, bool symmetric, unsigned level_max,
                         enum lq_dtype scale_type, struct lq_group *out)
{
    /* Halves first: the sum of two finite floats need not be one. */
    float half = symmetric ? fmaxf(-low, high) : high / 2.0F - low / 2.0F;
    if (!(low <= 0.0F && high >= 0.0F && isfinite(half))) {
        return false;
    }
    float scale = lq_group_round_scale(half / ((float)level_max / 2.0F), scale_type);
    if (!isfinite(scale)) {
        return false;
    }
    out->scale = half == 0.0F ? 1.0F : scale > 0.0F ? scale : tiny_scale(scale_type);
    float zero = symmetric ? (float)((level_max + 1) / 2) : rintf(-low / out->scale);
    out->zero = (uint8_t)fminf(zero, (float)level_max);
    return true;
}

bool lq_group_fit_range(float low, float high, bool symmetric, enum lq_dtype scale_type,
                        struct lq_group *out)
{
    return lq_group_fit_levels(low, high, symmetric, LQ_GROUP_LEVEL_MAX, scale_type, out);
}

bool lq_group_fit(const float *values, size_t count, bool symmetric, enum lq_dtype scale_type,
                  struct lq_group *out)
{
    float low = 0.0F;
    float high = 0.0F;
    float nothing = 0.0F; /* NaN once there is NaN or infinity */
    for (size_t i = 0; i < count; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
        nothing += values[i] - values[i];
    }
    return nothing == 0.0F && lq_group_fit_range(low, high, symmetric, scale_type, out);
}

void lq_group_round(const float *values, size_t count, struct lq_group group, uint8_t *levels)
{
    float zero = (float)group.zero;
    for (size_t i = 0; i < count; i++) {
        float level = rintf(values[i] / group.scale) + zero;
        level = level > 0.0F ? level : 0.0F;
        levels[i] = (uint8_t)(level < (float)LQ_GROUP_LEVEL_MAX ? level : LQ_GROUP_LEVEL_MAX);
    }
}

void lq_group_values(const uint8_t *levels, size_t count, struct lq_group group, float *values)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)((int)levels[i] - (int)group.zero) * group.scale;
    }
}

/* ---- words ---- */

enum { BLOCK_COLS = 256 }; /* columns at a time, so that what is turned stays in the cache */

static size_t words_of(size_t count)
{
    return count / LQ_WORD_LEVELS + (count % LQ_WORD_LEVELS != 0);
}

static bool is_along(enum lq_nibble_layout layout)
{
    return layout == LQ_NIBBLES_ALONG || layout == LQ_NIBBLES_ALONG_TURNED;
}

size_t lq_nibbles_words(enum lq_nibble_layout layout, size_t rows, size_t cols)
{
    return is_along(layout) ? rows * words_of(cols) : words_of(rows) * cols;
}

/* How a matrix is walked through: lines of words, each word with its first level. */
struct walk {
    size_t lines;       /* rows, or columns when words go across rows */
    size_t line_words;  /* words of a line */
    size_t line_step;   /* from the levels of a line to those of the next one */
    size_t level_step;  /* from a level to the next one of the word */
    size_t last_levels; /* of the last word of a line */
    size_t word_line;   /* from a line's words to the next one's */
    size_t word_step;   /* from a word of a line to the next one */
};

static struct walk make_walk(enum lq_nibble_layout layout, size_t rows, size_t cols)
{
    bool along = is_along(layout);
    size_t length = along ? cols : rows;
    struct walk walk = {.lines = along ? rows : cols,
                        .line_words = words_of(length),
                        .line_step = along ? cols : 1,
                        .level_step = along ? 1 : cols,
                        .last_levels = (length - 1) % LQ_WORD_LEVELS + 1};
    bool lines_first = layout == LQ_NIBBLES_ALONG || layout == LQ_NIBBLES_ACROSS_TURNED;
    walk.word_line = lines_first ? walk.line_words : 1;
    walk.word_step = lines_first ? 1 : walk.lines;
    return walk;
}

static uint32_t pack_word(const uint8_t *levels, size_t step, size_t count, const uint8_t *order)
{
    uint32_t word = 0;
    for (size_t n = 0; n < LQ_WORD_LEVELS; n++) {
        uint32_t level = order[n] < count ? levels[order[n] * step] : 0;
        word |= level << (4 * n);
    }
    return word;
}

static void unpack_word(uint32_t word, size_t step, size_t count, const uint8_t *order,
                        uint8_t *levels)
{
    for (size_t n = 0; n < LQ_WORD_LEVELS; n++) {
        if (order[n] < count) {
            levels[order[n] * step] = (uint8_t)(word >> (4 * n) & LQ_GROUP_LEVEL_MAX);
        }
    }
}

/* Calls pack_word (levels_out NULL) or unpack_word for every word. */
static void walk_words(const struct walk *walk, const uint8_t *order, const uint8_t *levels,
                       uint32_t *words, uint8_t *levels_out, const uint32_t *words_in)
{
    for (size_t first = 0; first < walk->lines; first += BLOCK_COLS) {
        size_t end = walk->lines - first < BLOCK_COLS ? walk->lines : first + BLOCK_COLS;
        for (size_t w = 0; w < walk->line_words; w++) {
            size_t count = w + 1 == walk->line_words ? walk->last_levels : (size_t)LQ_WORD_LEVELS;
            for (size_t line = first; line < end; line++) {
                size_t from = line * walk->line_step + w * LQ_WORD_LEVELS * walk->level_step;
                size_t to = line * walk->word_line + w * walk->word_step;
                if (levels_out == NULL) {
                    words[to] = pack_word(levels + from, walk->level_step, count, order);
                } else {
                    unpack_word(words_in[to], walk->level_step, count, order, levels_out + from);
                }
            }
        }
    }
}

void lq_nibbles_pack(enum lq_nibble_layout layout, const uint8_t *order, const uint8_t *levels,
                     size_t rows, size_t cols, uint32_t *words)
{
    struct walk walk = make_walk(layout, rows, cols);
    walk_words(&walk, order, levels, words, NULL, NULL);
}

void lq_nibbles_unpack(enum lq_nibble_layout layout, const uint8_t *order, const uint32_t *words,
                       size_t rows, size_t cols, uint8_t *levels)
{
    struct walk walk = make_walk(layout, rows, cols);
    walk_words(&walk, order, NULL, NULL, levels, words);
}

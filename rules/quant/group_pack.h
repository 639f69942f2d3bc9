/* Weights of 4 bits in groups: a group of neighbours in a row of weights shares a scale and a zero
 * point, and is worth (level - zero) * scale, levels and zeros from 0 to 15. And how files put
 * eight of these into a word. What AWQ, GPTQ and compressed-tensors call qweight, qzeros and
 * weight_packed are the four layouts below, of the same levels; only the order of nibbles of AWQ is
 * another one. Thread rule: pure functions. Limits: rows * cols fits a size_t. */
#ifndef LQ_RULES_QUANT_GROUP_PACK_H
#define LQ_RULES_QUANT_GROUP_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

enum {
    LQ_GROUP_LEVEL_MAX = 15,
    LQ_GROUP_ZERO_MIDDLE = 8, /* the zero point of symmetric groups */
    LQ_WORD_LEVELS = 8,       /* in 32 bits */
};

struct lq_group {
    float scale; /* a number of the type that it is stored in, above 0 */
    uint8_t zero;
};

/* The nearest value that F32, F16 or BF16 has. */
float lq_group_round_scale(float scale, enum lq_dtype type);
/* The group that reaches from the smallest to the largest of the values and 0: symmetric ones from
 * minus the largest magnitude to it, zero point 8. The scale is rounded to `scale_type` first, and
 * everything else follows from what is stored. False when no finite scale of the type is large
 * enough; NaN gives false as well. */
bool lq_group_fit(const float *values, size_t count, bool symmetric, enum lq_dtype scale_type,
                  struct lq_group *out);
/* As if the values reached from `low` (at most 0) to `high` (at least 0). */
bool lq_group_fit_range(float low, float high, bool symmetric, enum lq_dtype scale_type,
                        struct lq_group *out);
/* The same for levels from 0 to `level_max`, 1 to 255; the middle is (level_max + 1) / 2. */
bool lq_group_fit_levels(float low, float high, bool symmetric, unsigned level_max,
                         enum lq_dtype scale_type, struct lq_group *out);
/* The nearest levels; values beyond them get the last one. */
void lq_group_round(const float *values, size_t count, struct lq_group group, uint8_t *levels);
/* What levels are worth. */
void lq_group_values(const uint8_t *levels, size_t count, struct lq_group group, float *values);

/* `levels` is [rows x cols]: rows of weights, one for each output. A word has eight levels that are
 * neighbours along a row or across rows; rows or columns that do not fill a word leave zeros. */
enum lq_nibble_layout {
    LQ_NIBBLES_ALONG,         /* [rows][cols / 8]: compressed-tensors' weights */
    LQ_NIBBLES_ALONG_TURNED,  /* [cols / 8][rows]: GPTQ's weights */
    LQ_NIBBLES_ACROSS,        /* [rows / 8][cols]: compressed-tensors' zero points */
    LQ_NIBBLES_ACROSS_TURNED, /* [cols][rows / 8]: AWQ's weights and zero points, GPTQ's zero points
                               */
};

/* Which of eight levels is in which nibble, lowest first: in their order, or as AWQ has it. */
extern const uint8_t lq_nibbles_plain[LQ_WORD_LEVELS];
extern const uint8_t lq_nibbles_awq[LQ_WORD_LEVELS];

/* Words of a layout. */
size_t lq_nibbles_words(enum lq_nibble_layout layout, size_t rows, size_t cols);
void lq_nibbles_pack(enum lq_nibble_layout layout, const uint8_t *order, const uint8_t *levels,
                     size_t rows, size_t cols, uint32_t *words);
void lq_nibbles_unpack(enum lq_nibble_layout layout, const uint8_t *order, const uint32_t *words,
                       size_t rows, size_t cols, uint8_t *levels);

#endif

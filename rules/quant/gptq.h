/* The arithmetic of GPTQ (Frantar and others, arXiv 2210.17323): the columns of a matrix are
 * quantized one after the other, and what a column loses is made up for, as well as it can be, by
 * the columns behind it. What "well" means says H, the products of the columns of what flows into
 * the matrix: rows w change their output by (w - q) H transpose(w - q). U is the upper triangular
 * factor of the inverse of H (kernels/factor.h). Rows do not know of each other, so strips of them
 * can be worked on at the same time. Errors within 128 columns are passed on at once, to the rest
 * by one product. Ownership: all memory is the caller's. Thread rule: pure. Limits: columns are a
 * multiple of 32, groups 32 columns or a multiple of it. */
#ifndef LQ_RULES_QUANT_GPTQ_H
#define LQ_RULES_QUANT_GPTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

enum {
    LQ_GPTQ_BLOCK = 128,
    LQ_GPTQ_COLS_STEP = 32, /* what columns and groups are multiples of */
    LQ_GPTQ_STRIP_ROWS = 96,
};

struct lq_gptq_grid {
    unsigned bits; /* 2 to 8 */
    bool symmetric;
    size_t group_size; /* divides the columns */
};

struct lq_gptq_strip {
    size_t rows; /* at most LQ_GPTQ_STRIP_ROWS */
    size_t cols;
    float *weights;   /* [rows x cols], finite; become what their levels are worth */
    uint8_t *levels;  /* [rows x cols] */
    uint16_t *scales; /* half precision, [rows x groups] */
    uint8_t *zeros;   /* [rows x groups] */
    double *losses;   /* [rows] (w - q) H transpose(w - q); NULL: they are not wanted */
};

/* H out of the mean products of columns, [cols x cols]: twice these, `damp` times the mean of the
 * diagonal added to it. A column that is always zero gets the mean, and so is rounded on its own.
 * `order` NULL, or column i of H is column order[i] of the products. Returns how many columns are
 * always zero. */
size_t lq_gptq_hessian(const float *products, size_t cols, double damp, const uint32_t *order,
                       float *h);
/* The columns by falling products with themselves, equal ones as they are; false when memory is
 * out. */
bool lq_gptq_order(const float *products, size_t cols, uint32_t *order);
/* Quantizes the rows; `u` NULL: rounds each weight to the nearest level (losses stay). The scale of
 * a group is found when its first column is reached, from what weights are then. False when
 * weights have grown beyond every scale of half precision. */
bool lq_gptq_quantize(const struct lq_gptq_grid *grid, const float *u, struct lq_gptq_strip *strip);
/* losses[r] = e H transpose(e) of rows e, [rows x cols], which are overwritten. */
void lq_gptq_measure(const float *u, size_t cols, float *rows, size_t row_count, double *losses);

#endif

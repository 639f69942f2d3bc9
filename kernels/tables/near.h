/* Which points of a grid lie near which cell. Space is cut into cells, one per combination of
 * digits (nearest level per coordinate), whether the grid has that point or not; each cell lists
 * the grid's points by their distance from its middle, the nearest first, equal ones in the order
 * of the grid. The encoders weigh only these. Built at first use, about 20 ms at most; static
 * memory. Thread rule: any thread. */
#ifndef LQ_KERNELS_TABLES_NEAR_H
#define LQ_KERNELS_TABLES_NEAR_H

#include <stdint.h>

#include "kernels/device_fn.h"

#define LQ_NEAR_POINTS 32 /* per cell */
#define LQ_NEAR_PAIRS (LQ_NEAR_POINTS / 2)
#define LQ_NEAR_CELLS_3_8 6561 /* grids of eight coordinates: 3^8 cells */
#define LQ_NEAR_CELLS_8_4 4096 /* those of four: 8^4 */

struct lq_near {
    /* Points as lq_grid_* packs them, two in a word, the nearer one in the low half; those of a
     * cell begin at its number times LQ_NEAR_PAIRS. A cell's number has the digits of its
     * coordinates, the first one the lowest, in base 3 or 8. */
    const uint32_t *pairs;
    /* Position in the grid of the point that is the cell's middle, where there is one. */
    const uint16_t *index;
};

LQ_DEVICE_FN struct lq_near lq_near_iq2xxs(void);
LQ_DEVICE_FN struct lq_near lq_near_iq2xs(void);
LQ_DEVICE_FN struct lq_near lq_near_iq2s(void);
LQ_DEVICE_FN struct lq_near lq_near_iq3xxs(void);
LQ_DEVICE_FN struct lq_near lq_near_iq3s(void);
LQ_DEVICE_FN struct lq_near lq_near_iq1s(void);

#endif

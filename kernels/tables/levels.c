#include "kernels/tables/grids.h"

const int8_t lq_levels_iq2[3] = {8, 25, 43};
const int8_t lq_levels_iq3xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};
const int8_t lq_levels_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
const int8_t lq_levels_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

#include "kernels/device_fn.h"
#include "kernels/tables/grids.h"

LQ_DEVICE_TABLE const int8_t lq_levels_iq2[3] = {8, 25, 43};
LQ_DEVICE_TABLE const int8_t lq_levels_iq3xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};
LQ_DEVICE_TABLE const int8_t lq_levels_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
LQ_DEVICE_TABLE const int8_t lq_levels_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Functions over lanes. Those that run once per element of a lane must not become a call: gcc's
 * limits on inlining cost a factor of two there. Internal to the kernels. Pure. */
#ifndef LQ_KERNELS_LANE_INLINE_H
#define LQ_KERNELS_LANE_INLINE_H

#include "kernels/device_fn.h"

#define LANE_FN LQ_DEVICE_FN static inline
#define LANE_INLINE LANE_FN __attribute__((always_inline))

#endif

/* What runs once per element of a lane must not become a call: gcc's limits on inlining cost a
 * factor of two there. Internal to the kernels. */
#ifndef LQ_KERNELS_LANE_INLINE_H
#define LQ_KERNELS_LANE_INLINE_H

#define LANE_INLINE static inline __attribute__((always_inline))

#endif

/* How each CPU level fills the kernel table: the reference sets every entry, a higher level then
 * replaces those that it has. Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_TABLE_H
#define LQ_KERNELS_TABLE_H

#include "kernels/kernels.h"

void lq_kernels_fill_ref(struct lq_kernels *table);
void lq_kernels_fill_avx2(struct lq_kernels *table);
void lq_kernels_fill_avx512(struct lq_kernels *table);

#endif

#define LQ_DEVICE_ROWS_TABLE lq_device_rows_ref
#include "kernels/device_rows_body.h"
#include "kernels/kernels.h"

const struct lq_device_rows *lq_device_rows(void)
{
#if defined(__x86_64__)
    if (lq_kernels()->level >= LQ_CPU_AVX512) {
        return &lq_device_rows_avx512;
    }
    if (lq_kernels()->level >= LQ_CPU_AVX2) {
        return &lq_device_rows_avx2;
    }
#endif
    return &lq_device_rows_ref;
}

#include "kernels/matmul.h"

#include "kernels/kernels.h"
#include "kernels/matmul_short.h"

const struct lq_matmul_tiles *lq_matmul_tiles(void)
{
#if defined(__x86_64__)
    if (lq_kernels()->level >= LQ_CPU_AVX512) {
        return &lq_matmul_tiles_avx512;
    }
    if (lq_kernels()->level >= LQ_CPU_AVX2) {
        return &lq_matmul_tiles_avx2;
    }
#endif
    return NULL;
}

lq_sgemm_fn lq_matmul_sgemm(void)
{
    const struct lq_matmul_tiles *tiles = lq_matmul_tiles();
    lq_sgemm_fn other = tiles == NULL ? lq_openblas_load() : NULL;
    return tiles != NULL ? tiles->sgemm : other != NULL ? other : lq_sgemm_own;
}

const struct lq_short_tiles *lq_short_tiles(void)
{
#if defined(__x86_64__)
    if (lq_kernels()->level >= LQ_CPU_AVX512) {
        return __builtin_cpu_supports("avx512vnni") ? &lq_short_tiles_vnni : &lq_short_tiles_avx512;
    }
    if (lq_kernels()->level >= LQ_CPU_AVX2) {
        return &lq_short_tiles_avx2;
    }
#endif
    return NULL;
}

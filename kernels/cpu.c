#include "kernels/kernels.h"

const char *lq_cpu_level_name(enum lq_cpu_level level)
{
    static const char *const names[LQ_CPU_LEVEL_COUNT] = {"ref", "avx2", "avx512"};
    return (unsigned)level < LQ_CPU_LEVEL_COUNT ? names[level] : "?";
}

enum lq_cpu_level lq_cpu_level_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c")) {
        return LQ_CPU_REF;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return LQ_CPU_AVX512;
    }
    return LQ_CPU_AVX2;
#else
    return LQ_CPU_REF;
#endif
}

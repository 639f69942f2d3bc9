#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

const char *lq_cpu_level_name(enum lq_cpu_level level)
{
    static const char *const names[LQ_CPU_LEVEL_COUNT] = {"ref", "avx2", "avx512"};
    return (unsigned)level < LQ_CPU_LEVEL_COUNT ? names[level] : "?";
}

#if defined(__x86_64__)
/* clang 14 does not know "f16c" as a name; the instruction set needs what AVX2 needs from the
 * operating system, so the CPU's own bit is enough. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

/* __builtin_cpu_supports asks the operating system too (XGETBV): a level counts only where wide
 * registers survive a switch of threads. */
enum lq_cpu_level lq_cpu_level_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) {
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

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blas/sgemm.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Values of the CBLAS interface (netlib cblas.h). */
enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112 };

typedef void (*cblas_sgemm_fn)(int order, int transpose_a, int transpose_b, int m, int n, int k,
                               float alpha, const float *a, int lda, const float *b, int ldb,
                               float beta, float *c, int ldc);
typedef void (*set_threads_fn)(int thread_count);

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static cblas_sgemm_fn cblas_sgemm;

#if defined(__x86_64__)
static bool is_amd(void)
{
    unsigned eax = 0;
    unsigned vendor[3] = {0};
    if (__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]) == 0) {
        return false;
    }
    return memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0;
}
#endif

const char *lq_openblas_core_type(void)
{
#if defined(__x86_64__)
    switch (lq_cpu_level_best()) {
    case LQ_CPU_AVX512:
        return "SKYLAKEX";
    case LQ_CPU_AVX2:
        return is_amd() ? "ZEN" : "HASWELL";
    default:
        return NULL;
    }
#else
    return NULL;
#endif
}

/* dlsym gives a data pointer; copying its bits is how POSIX wants it turned into a function. */
static void find_symbol(void *library, const char *name, void *function, size_t size_bytes)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, size_bytes);
}

/* OpenBLAS 0.3.21 takes CPUs newer than itself for SSE3 ones, and reads these variables only while
 * it is loaded. */
static void load(void)
{
    const char *core_type = lq_openblas_core_type();
    if (core_type != NULL) {
        (void)setenv("OPENBLAS_CORETYPE", core_type, 0);
    }
    (void)setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return;
    }
    set_threads_fn set_threads = NULL;
    find_symbol(library, "openblas_set_num_threads", &set_threads, sizeof set_threads);
    if (set_threads != NULL) {
        set_threads(1);
    }
    find_symbol(library, "cblas_sgemm", &cblas_sgemm, sizeof cblas_sgemm);
}

static void sgemm_openblas(bool transpose_b, const struct lq_sgemm_args *args)
{
    cblas_sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, transpose_b ? CBLAS_TRANS : CBLAS_NO_TRANS,
                (int)args->m, (int)args->n, (int)args->k, args->alpha, args->a, (int)args->lda,
                args->b, (int)args->ldb, args->beta, args->c, (int)args->ldc);
}

lq_sgemm_fn lq_openblas_load(void)
{
    (void)pthread_once(&load_once, load);
    return cblas_sgemm != NULL ? sgemm_openblas : NULL;
}

/* --cpu-mask lowers the kernels, and no level changes a byte of what the tool writes. */
#include "e2e.h"

TestSuite(e2e_cpu_mask, .init = e2e_init, .fini = e2e_fini, .timeout = 600);

static void expect_equal_files(const char *first, const char *second)
{
    struct lq_map a;
    struct lq_map b;
    struct lq_error err;
    cr_assert_eq(lq_map_open(&a, first, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_map_open(&b, second, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_gt(a.size_bytes, 100000);
    cr_assert_eq(a.size_bytes, b.size_bytes, "%s and %s differ in size", first, second);
    cr_expect_eq(memcmp(a.data, b.data, (size_t)a.size_bytes), 0, "%s and %s differ", first,
                 second);
    lq_map_close(&a);
    lq_map_close(&b);
}

Test(e2e_cpu_mask, every_level_writes_the_same_file)
{
    /* An affine, a symmetric and a code book mixture, and a type without super-blocks. */
    static const char *const types[] = {"Q4_K_M", "Q3_K_S", "IQ4_XS", "MXFP4_MOE", "Q8_0"};
    static const char *const levels[] = {"ref", "avx2", "avx512"};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        char first[64] = "";
        for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
            char file[64];
            snprintf(file, sizeof file, "%s.%s.gguf", types[t], levels[l]);
            cr_assert_eq(setenv("LQBUILD_CACHE_DIR", levels[l], 1), 0);
            cr_assert_eq(
                e2e_run("quantize model gguf -q %s -o %s --cpu-mask %s", types[t], file, levels[l]),
                0, "%s", e2e_stderr());
            if (l == 0) {
                snprintf(first, sizeof first, "%s", file);
            } else {
                expect_equal_files(first, file);
            }
        }
    }
}

/* The search with sixteen lanes, in plain C, gives the bytes of the reference: two super-blocks of
 * eight problems share a tile there, and the last of an odd number has half the lanes to itself. */
#include "tests/lanes_wide.h"

#include "kernels/search/encode_book.h"
#include "kernels/search/encode_grid.h"
#include "kernels/search/encode_k.h"
#include "kernels/search/encode_small.h"

#include <criterion/criterion.h>
#include <string.h>

enum { SUPERS_MAX = 5, COLS_MAX = 256 * SUPERS_MAX };

static uint32_t seed = 11;

static float next_uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 16777216.0f;
}

/* Ordinary values, and super-blocks beside each other that have nothing in common: zeros, tiny,
 * huge, one value only. */
static void fill(float *row, float *importance, size_t col_count, unsigned kind)
{
    for (size_t i = 0; i < col_count; i++) {
        float sum = next_uniform() + next_uniform() + next_uniform() - 1.5f;
        unsigned pick = kind == 0 ? 0 : (unsigned)(i / 256 + kind) % 6;
        row[i] = pick == 1   ? 0.0f
                 : pick == 2 ? sum * 1e-30f
                 : pick == 3 ? sum * 3e4f
                 : pick == 4 ? (i % 256 == 37 ? 1.0f : 0.0f)
                             : sum * 0.05f;
        float far = next_uniform() < 0.01f ? 3e4f : 1.0f;
        importance[i] = pick == 5 && kind > 3 ? 0.0f : next_uniform() * far;
    }
}

struct type {
    enum lq_dtype dtype;
    lq_encode_fn encode;
};

static const struct type types[] = {
    {LQ_DTYPE_Q2_K, lq_encode_q2_k_wide},       {LQ_DTYPE_Q3_K, lq_encode_q3_k_wide},
    {LQ_DTYPE_Q4_K, lq_encode_q4_k_wide},       {LQ_DTYPE_Q5_K, lq_encode_q5_k_wide},
    {LQ_DTYPE_Q6_K, lq_encode_q6_k_wide},       {LQ_DTYPE_IQ4_XS, lq_encode_iq4_xs_wide},
    {LQ_DTYPE_IQ1_S, lq_encode_iq1_s_wide},     {LQ_DTYPE_IQ1_M, lq_encode_iq1_m_wide},
    {LQ_DTYPE_IQ2_XXS, lq_encode_iq2_xxs_wide}, {LQ_DTYPE_IQ2_XS, lq_encode_iq2_xs_wide},
    {LQ_DTYPE_IQ2_S, lq_encode_iq2_s_wide},     {LQ_DTYPE_IQ3_XXS, lq_encode_iq3_xxs_wide},
    {LQ_DTYPE_IQ3_S, lq_encode_iq3_s_wide},     {LQ_DTYPE_Q4_0, lq_encode_q4_0_wide},
    {LQ_DTYPE_Q4_1, lq_encode_q4_1_wide},       {LQ_DTYPE_Q5_0, lq_encode_q5_0_wide},
    {LQ_DTYPE_Q5_1, lq_encode_q5_1_wide},       {LQ_DTYPE_Q8_0, lq_encode_q8_0_wide},
    {LQ_DTYPE_IQ4_NL, lq_encode_iq4_nl_wide},   {LQ_DTYPE_MXFP4, lq_encode_mxfp4_wide},
    {LQ_DTYPE_NVFP4, lq_encode_nvfp4_wide},     {LQ_DTYPE_TQ1_0, lq_encode_tq1_0_wide},
    {LQ_DTYPE_TQ2_0, lq_encode_tq2_0_wide},     {LQ_DTYPE_Q1_0, lq_encode_q1_0_wide},
    {LQ_DTYPE_Q2_0, lq_encode_q2_0_wide},
};

Test(wide_lanes, give_the_bytes_of_the_reference)
{
    static float row[COLS_MAX];
    static float importance[COLS_MAX];
    static unsigned char want[2 * COLS_MAX];
    static unsigned char got[2 * COLS_MAX];
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        const char *name = lq_dtype_name(types[t].dtype);
        for (unsigned kind = 0; kind < 7; kind++) {
            for (size_t supers = 1; supers <= SUPERS_MAX; supers += kind == 0 ? 1 : 2) {
                size_t bytes = lq_dtype_row_bytes(types[t].dtype, 256 * supers);
                fill(row, importance, 256 * supers, kind);
                const float *weights = kind == 2 ? NULL : importance;
                memset(got, 0xEE, sizeof got);
                lq_kernels_at(LQ_CPU_REF)->encode[types[t].dtype](row, want, 256 * supers, weights);
                types[t].encode(row, got, 256 * supers, weights);
                cr_expect_eq(memcmp(want, got, bytes), 0, "%s: kind %u, %zu super-blocks", name,
                             kind, supers);
                cr_expect_eq(got[bytes], 0xEE, "%s: wrote too much", name);
            }
        }
    }
}

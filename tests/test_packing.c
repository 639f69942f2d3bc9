/* Matrices that checkpoints store quantized. What is decoded here was put into words by this file,
 * number by number, as the definitions of the formats say. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_index.h"

enum { WORDS_MAX = 1 << 16, ELEMS_MAX = 1 << 16 };

static struct lq_error err;

/* Numbers and their parts. */
struct stored {
    struct lq_packing packing;
    struct lq_model_tensor tensor;
    uint64_t rows;
    uint64_t cols;
    uint64_t groups;
    int level[ELEMS_MAX]; /* [rows][cols] */
    int zero[ELEMS_MAX];  /* [rows][groups] */
    float scale[ELEMS_MAX];
    int32_t group_of[4096];
    uint32_t levels[WORDS_MAX];
    uint32_t zeros[WORDS_MAX];
    uint16_t scales[ELEMS_MAX];
    float wide_scales[ELEMS_MAX];
    const void *parts[LQ_PACKED_PART_COUNT];
};

static struct stored stored;

/* `value` at bit `bit` of words that are `stride` apart. */
static void put(uint32_t *words, uint64_t first, uint64_t stride, uint64_t bit, unsigned bits,
                unsigned value)
{
    for (unsigned i = 0; i < bits; i++) {
        uint64_t at = bit + i;
        words[first + at / 32 * stride] |= (value >> i & 1u) << (at % 32);
    }
}

static uint64_t nibble_of(uint64_t row)
{
    static const unsigned order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint64_t i = 0;
    while (order[i] != row % 8) {
        i++;
    }
    return row / 8 * 8 + i;
}

static bool is(const struct stored *s, const char *name)
{
    return strncmp(s->packing.method->name, name, strlen(name)) == 0;
}

static void put_level(struct stored *s, uint64_t r, uint64_t c)
{
    unsigned bits = s->packing.bits;
    unsigned value = (unsigned)s->level[r * s->cols + c] & ((1u << bits) - 1);
    if (is(s, "int")) {
        ((unsigned char *)s->levels)[r * s->cols + c] = (unsigned char)s->level[r * s->cols + c];
    } else if (is(s, "pack")) {
        put(s->levels, r * ((s->cols * bits + 31) / 32), 1, c * bits, bits, value);
    } else if (is(s, "awq")) {
        put(s->levels, c * (s->rows / 8), 1, nibble_of(r) * 4, 4, value);
    } else {
        put(s->levels, r, s->rows, c * bits, bits, value);
    }
}

static void put_zero(struct stored *s, uint64_t r, uint64_t g)
{
    unsigned bits = s->packing.bits;
    int zero = s->zero[r * s->groups + g];
    unsigned value = (unsigned)zero & ((1u << bits) - 1);
    if (is(s, "int")) {
        ((unsigned char *)s->zeros)[r * s->groups + g] = (unsigned char)zero;
    } else if (is(s, "pack")) {
        put(s->zeros, g, s->groups, r * bits, bits, value);
    } else if (is(s, "awq")) {
        put(s->zeros, g * (s->rows / 8), 1, nibble_of(r) * 4, 4, value);
    } else {
        unsigned less = strcmp(s->packing.method->name, "gptq") == 0 ? 1 : 0;
        put(s->zeros, g * (s->rows * bits / 32), 1, r * bits, bits,
            (value - less) & ((1u << bits) - 1));
    }
}

static void put_scale(struct stored *s, uint64_t r, uint64_t g)
{
    bool rows_first = is(s, "int") || is(s, "pack");
    uint64_t at = rows_first ? r * s->groups + g : g * s->rows + r;
    float value = 0.001f + (float)(rand() % 1000) / 7000.0f;
    if (s->packing.scale_dtype == LQ_DTYPE_F16) {
        s->scales[at] = lq_f32_to_f16(value);
        value = lq_f16_to_f32(s->scales[at]);
    } else if (s->packing.scale_dtype == LQ_DTYPE_BF16) {
        s->scales[at] = lq_f32_to_bf16(value);
        value = lq_bf16_to_f32(s->scales[at]);
    }
    s->wide_scales[at] = value;
    s->scale[r * s->groups + g] = value;
}

static void make_parts(struct stored *s)
{
    size_t part = 0;
    s->parts[part++] = s->levels;
    s->parts[part++] = s->packing.scale_dtype == LQ_DTYPE_F32 ? (const void *)s->wide_scales
                                                              : (const void *)s->scales;
    if (s->packing.has_zeros) {
        s->parts[part++] = s->zeros;
    }
    if (s->packing.has_groups) {
        s->parts[part++] = s->group_of;
    }
}

static void make(struct stored *s, const struct lq_packing *packing, uint64_t rows, uint64_t cols)
{
    memset(s, 0, sizeof *s);
    s->packing = *packing;
    s->rows = rows;
    s->cols = cols;
    s->groups = cols / packing->group_cols;
    s->tensor = (struct lq_model_tensor){.name = "blk.0.attn_q.weight",
                                         .dtype = LQ_DTYPE_F32,
                                         .dim_count = 2,
                                         .ne = {cols, rows, 1, 1},
                                         .packing = &s->packing};
    int top = 1 << packing->bits;
    int low = packing->method->is_signed ? -top / 2 : 0;
    for (uint64_t c = 0; c < cols; c++) {
        s->group_of[c] =
            (int32_t)(packing->has_groups ? (c * 7 + 3) % s->groups : c / packing->group_cols);
    }
    for (uint64_t i = 0; i < rows * cols; i++) {
        s->level[i] = low + rand() % top;
        put_level(s, i / cols, i % cols);
    }
    for (uint64_t i = 0; i < rows * s->groups; i++) {
        s->zero[i] = packing->has_zeros ? low + rand() % top : low + top / 2;
        if (packing->has_zeros) {
            put_zero(s, i / s->groups, i % s->groups);
        }
        put_scale(s, i / s->groups, i % s->groups);
    }
    make_parts(s);
}

static float wanted(const struct stored *s, uint64_t r, uint64_t c)
{
    uint64_t g = (uint64_t)s->group_of[c];
    return (float)(s->level[r * s->cols + c] - s->zero[r * s->groups + g]) *
           s->scale[r * s->groups + g];
}

static void expect_rows(const struct stored *s, uint64_t row, uint64_t count)
{
    float *out = malloc(count * s->cols * sizeof *out);
    lq_error_clear(&err);
    cr_assert_eq(lq_model_tensor_rows(&s->tensor, s->parts, row, count, out, &err), LQ_OK, "%s",
                 err.message);
    for (uint64_t r = 0; r < count; r++) {
        uint64_t source = lq_model_tensor_source_row(&s->tensor, row + r);
        for (uint64_t c = 0; c < s->cols; c++) {
            float value = wanted(s, source, c);
            cr_assert_eq(out[r * s->cols + c], value, "%s %u bits row %d col %d: %g, not %g",
                         s->packing.method->name, s->packing.bits, (int)(row + r), (int)c,
                         (double)out[r * s->cols + c], (double)value);
        }
    }
    free(out);
}

static void expect_all(const struct lq_packing *packing, uint64_t rows, uint64_t cols)
{
    make(&stored, packing, rows, cols);
    for (uint32_t heads = 0; heads <= 4; heads += 2) {
        stored.tensor.permute_heads = heads;
        expect_rows(&stored, 0, rows);
        expect_rows(&stored, rows - 1, 1);
        expect_rows(&stored, 1, rows - 2);
        expect_rows(&stored, rows / 2 - 1, 3);
    }
}

Test(packing, every_format_gives_back_its_numbers)
{
    static const enum lq_dtype scales[] = {LQ_DTYPE_F16, LQ_DTYPE_BF16, LQ_DTYPE_F32};
    srand(11);
    for (size_t m = 0; m < lq_packing_method_count; m++) {
        const struct lq_packing_method *method = &lq_packing_methods[m];
        for (unsigned bits = 1; bits <= 8; bits++) {
            for (int options = 0; options < 4; options++) {
                struct lq_packing packing = {.method = method,
                                             .bits = bits,
                                             .group_cols = options < 2 ? 32 : 288,
                                             .scale_dtype = scales[(bits + (unsigned)options) % 3],
                                             .has_zeros = method->needs_zeros || options % 2 == 1,
                                             .has_groups = options == 1};
                packing.has_groups =
                    packing.has_groups && method->parts[LQ_PACKED_GROUPS].suffix != NULL;
                if ((method->bits >> bits & 1) != 0) {
                    expect_all(&packing, 64, 288);
                }
            }
        }
    }
}

Test(packing, sizes_that_do_not_fill_tiles)
{
    const struct lq_packing packed = {.method = lq_packing_find("pack-quantized"),
                                      .bits = 4,
                                      .group_cols = 3,
                                      .scale_dtype = LQ_DTYPE_F16,
                                      .has_zeros = true};
    const struct lq_packing single = {.method = lq_packing_find("int-quantized"),
                                      .bits = 8,
                                      .group_cols = 277,
                                      .scale_dtype = LQ_DTYPE_F32};
    srand(12);
    expect_all(&packed, 44, 261);
    expect_all(&single, 28, 277);
}

/* Each matrix has its own parts, those of one behind those of the other. */
Test(packing, experts_have_parts_of_their_own)
{
    const struct lq_packing packing = {.method = lq_packing_find("awq"),
                                       .bits = 4,
                                       .group_cols = 64,
                                       .scale_dtype = LQ_DTYPE_F16,
                                       .has_zeros = true};
    static struct stored second;
    const void *parts[6];
    float out[32 * 64];
    srand(13);
    make(&stored, &packing, 16, 64);
    make(&second, &packing, 16, 64);
    stored.tensor.ne[2] = 2;
    memcpy(parts, stored.parts, 3 * sizeof *parts);
    memcpy(parts + 3, second.parts, 3 * sizeof *parts);
    cr_assert_eq(lq_model_tensor_rows(&stored.tensor, parts, 7, 20, out, &err), LQ_OK);
    for (uint64_t r = 7; r < 27; r++) {
        const struct stored *from = r < 16 ? &stored : &second;
        cr_expect_eq(out[(r - 7) * 64 + 5], wanted(from, r % 16, 5), "row %d", (int)r);
    }
    cr_expect_eq(lq_model_tensor_matrix(&stored.tensor, parts, 1), (const void *)(parts + 3));
    cr_expect_eq(lq_model_tensor_rows(&stored.tensor, parts, 7, 26, out, &err), LQ_EINTERNAL);
    cr_expect_not(lq_model_tensor_is_verbatim(&stored.tensor));
}

Test(packing, damaged_parts_are_named)
{
    static const uint16_t bad[] = {0x7c00, 0xfc00, 0x7e01}; /* both infinities and a NaN */
    const struct lq_packing packing = {.method = lq_packing_find("gptq"),
                                       .bits = 4,
                                       .group_cols = 32,
                                       .scale_dtype = LQ_DTYPE_F16,
                                       .has_zeros = true,
                                       .has_groups = true};
    static float out[64 * 96];
    srand(14);
    for (size_t i = 0; i < 3; i++) {
        make(&stored, &packing, 64, 96);
        stored.scales[2 * 64 + 41] = bad[i];
        cr_expect_eq(lq_model_tensor_rows(&stored.tensor, stored.parts, 0, 41, out, &err), LQ_OK);
        cr_expect_eq(lq_model_tensor_rows(&stored.tensor, stored.parts, 0, 64, out, &err),
                     LQ_EFORMAT);
        cr_expect_not_null(strstr(err.message, "row 41 and group 2 in 'scales'"), "%s",
                           err.message);
    }
    static const int32_t groups[] = {3, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        make(&stored, &packing, 64, 96);
        stored.group_of[95] = groups[i];
        cr_expect_eq(lq_model_tensor_rows(&stored.tensor, stored.parts, 3, 1, out, &err),
                     LQ_EFORMAT);
        cr_expect_not_null(strstr(err.message, "'g_idx' puts column 95 into group"), "%s",
                           err.message);
    }
    /* Zero scales, and negative ones, are numbers like others. */
    make(&stored, &packing, 64, 96);
    memset(stored.scales, 0, sizeof stored.scales);
    cr_expect_eq(lq_model_tensor_rows(&stored.tensor, stored.parts, 0, 64, out, &err), LQ_OK);
    cr_expect_eq(fabsf(out[77]), 0.0f);
}

/* Zeros of GPTQ's first version are stored less one: all bits set stand for zero. */
Test(packing, stored_zeros_wrap)
{
    const struct lq_packing packing = {.method = lq_packing_find("gptq"),
                                       .bits = 4,
                                       .group_cols = 32,
                                       .scale_dtype = LQ_DTYPE_F32,
                                       .has_zeros = true};
    uint32_t levels[4 * 32];
    uint32_t zeros[4];
    float scales[32];
    float out[32];
    memset(levels, 0x33, sizeof levels);
    memset(zeros, 0xff, sizeof zeros);
    for (size_t i = 0; i < 32; i++) {
        scales[i] = 0.5f;
    }
    const void *parts[] = {levels, scales, zeros};
    const struct lq_model_tensor tensor = {
        .name = "t", .dtype = LQ_DTYPE_F32, .ne = {32, 32, 1, 1}, .packing = &packing};
    cr_assert_eq(lq_model_tensor_rows(&tensor, parts, 0, 1, out, &err), LQ_OK);
    cr_expect_eq(out[0], 1.5f);
    memset(zeros, 0x77, sizeof zeros); /* what a symmetric file has: 8 */
    cr_assert_eq(lq_model_tensor_rows(&tensor, parts, 0, 1, out, &err), LQ_OK);
    cr_expect_eq(out[0], -2.5f);
}

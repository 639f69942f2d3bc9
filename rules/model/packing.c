#include "rules/model/packing.h"

#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"

#define BITS(b) (1u << (b))

enum { WORD_BITS = 32 };

/* GPTQ's first version stores zeros less one; otherwise both are the same. */
#define GPTQ_PARTS                                                                                 \
    {                                                                                              \
        {".qweight", LQ_DTYPE_I32, false, LQ_PACKED_ALONG_COLS, false},                            \
            {".scales", LQ_DTYPE_F16, false, LQ_PACKED_SINGLY, false},                             \
            {".qzeros", LQ_DTYPE_I32, false, LQ_PACKED_ALONG_ROWS, false},                         \
        {                                                                                          \
            ".g_idx", LQ_DTYPE_I32, false, LQ_PACKED_SINGLY, false                                 \
        }                                                                                          \
    }

const struct lq_packing_method lq_packing_methods[] = {
    {.name = "int-quantized",
     .title = "compressed-tensors int-quantized",
     .type = "INT",
     .help = "quant_method compressed-tensors with format int-quantized",
     .bits = BITS(4) | BITS(5) | BITS(6) | BITS(7) | BITS(8),
     .is_signed = true,
     .parts = {{".weight", LQ_DTYPE_I8, true, LQ_PACKED_SINGLY, false},
               {".weight_scale", LQ_DTYPE_F16, true, LQ_PACKED_SINGLY, false},
               {".weight_zero_point", LQ_DTYPE_I8, true, LQ_PACKED_SINGLY, false},
               {".weight_g_idx", LQ_DTYPE_I32, false, LQ_PACKED_SINGLY, false}}},
    {.name = "pack-quantized",
     .title = "compressed-tensors pack-quantized",
     .type = "INT",
     .help = "quant_method compressed-tensors with format pack-quantized",
     .bits = BITS(4) | BITS(8),
     .also = ".weight_shape",
     .parts = {{".weight_packed", LQ_DTYPE_I32, true, LQ_PACKED_ALONG_COLS, false},
               {".weight_scale", LQ_DTYPE_F16, true, LQ_PACKED_SINGLY, false},
               {".weight_zero_point", LQ_DTYPE_I32, true, LQ_PACKED_ALONG_ROWS, false},
               {".weight_g_idx", LQ_DTYPE_I32, false, LQ_PACKED_SINGLY, false}}},
    {.name = "awq",
     .title = "AWQ",
     .type = "AWQ",
     .help = "quant_method awq with version gemm",
     .bits = BITS(4),
     .needs_zeros = true,
     .words_are_full = true,
     .parts = {{".qweight", LQ_DTYPE_I32, false, LQ_PACKED_ALONG_ROWS, true},
               {".scales", LQ_DTYPE_F16, false, LQ_PACKED_SINGLY, false},
               {".qzeros", LQ_DTYPE_I32, false, LQ_PACKED_ALONG_ROWS, true},
               {NULL, LQ_DTYPE_I32, false, LQ_PACKED_SINGLY, false}}},
    {.name = "gptq",
     .title = "GPTQ",
     .type = "GPTQ",
     .help = "quant_method gptq with checkpoint_format gptq",
     .bits = BITS(2) | BITS(3) | BITS(4) | BITS(8),
     .needs_zeros = true,
     .zero_more = 1,
     .words_are_full = true,
     .parts = GPTQ_PARTS},
    {.name = "gptq_v2",
     .title = "GPTQ",
     .type = "GPTQ",
     .help = "quant_method gptq with checkpoint_format gptq_v2",
     .bits = BITS(2) | BITS(3) | BITS(4) | BITS(8),
     .needs_zeros = true,
     .words_are_full = true,
     .parts = GPTQ_PARTS},
};
const size_t lq_packing_method_count = LQ_COUNT_OF(lq_packing_methods);

const struct lq_packing_method *lq_packing_find(const char *name)
{
    for (size_t i = 0; i < lq_packing_method_count; i++) {
        if (strcmp(lq_packing_methods[i].name, name) == 0) {
            return &lq_packing_methods[i];
        }
    }
    return NULL;
}

bool lq_packing_has(const struct lq_packing *packing, enum lq_packed_part part)
{
    return part == LQ_PACKED_ZEROS ? packing->has_zeros
                                   : part != LQ_PACKED_GROUPS || packing->has_groups;
}

size_t lq_packing_part_count(const struct lq_packing *packing)
{
    return (size_t)2 + packing->has_zeros + packing->has_groups;
}

/* The words that hold `count` numbers. */
static bool count_words(const struct lq_packing *packing, uint64_t count, uint64_t *words)
{
    uint64_t bits = 0;
    bool fits = lq_mul_u64(count, packing->bits, &bits) &&
                (!packing->method->words_are_full || bits % WORD_BITS == 0);
    *words = bits / WORD_BITS + (bits % WORD_BITS != 0);
    return fits;
}

bool lq_packing_shape(const struct lq_packing *packing, enum lq_packed_part part, uint64_t cols,
                      uint64_t rows, uint64_t shape[2], uint32_t *dim_count, uint64_t *size_bytes)
{
    const struct lq_packed_layout *layout = &packing->method->parts[part];
    bool of_groups = part == LQ_PACKED_SCALES || part == LQ_PACKED_ZEROS;
    if (packing->group_cols == 0) {
        return false;
    }
    uint64_t steps = of_groups ? cols / packing->group_cols : cols;
    bool fits = cols % packing->group_cols == 0;
    uint64_t elem_bytes = part == LQ_PACKED_SCALES
                              ? lq_dtype_info((uint32_t)packing->scale_dtype)->block_bytes
                              : lq_dtype_info((uint32_t)layout->dtype)->block_bytes;
    if (part == LQ_PACKED_GROUPS) {
        *dim_count = 1;
        shape[0] = cols;
        shape[1] = 1;
        return lq_mul_u64(cols, elem_bytes, size_bytes);
    }
    if (layout->axis == LQ_PACKED_ALONG_COLS) {
        fits = count_words(packing, steps, &steps) && fits;
    } else if (layout->axis == LQ_PACKED_ALONG_ROWS) {
        fits = count_words(packing, rows, &rows) && fits;
    }
    *dim_count = 2;
    shape[0] = layout->rows_first ? rows : steps;
    shape[1] = layout->rows_first ? steps : rows;
    return fits && lq_mul_u64(rows, steps, size_bytes) &&
           lq_mul_u64(*size_bytes, elem_bytes, size_bytes);
}

const char *lq_packing_describe(const struct lq_packing *packing, uint64_t cols,
                                struct lq_arena *arena)
{
    const char *inputs = packing->rounds_inputs ? ", inputs 8 bits" : "";
    const char *order = packing->has_groups ? ", columns by g_idx" : "";
    return packing->group_cols == cols
               ? lq_arena_printf(arena, "%s, %u bits, a scale a row%s", packing->method->title,
                                 packing->bits, inputs)
               : lq_arena_printf(arena, "%s, %u bits, groups of %llu%s%s", packing->method->title,
                                 packing->bits, (unsigned long long)packing->group_cols, order,
                                 inputs);
}

const char *lq_packing_type(const struct lq_packing *packing, struct lq_arena *arena)
{
    return lq_arena_printf(arena, "%s%u", packing->method->type, packing->bits);
}

const char *lq_packing_form(const struct lq_packing *packing, struct lq_arena *arena)
{
    return lq_arena_printf(
        arena, "%s %u bits, groups of %llu, scales %s%s%s%s", packing->method->name, packing->bits,
        (unsigned long long)packing->group_cols, lq_dtype_name((uint32_t)packing->scale_dtype),
        packing->has_zeros ? ", zeros" : "", packing->has_groups ? ", groups of columns" : "",
        packing->rounds_inputs ? ", inputs rounded" : "");
}

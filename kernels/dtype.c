#include "kernels/dtype.h"

#include <string.h>

static const struct lq_dtype_info dtype_table[LQ_DTYPE_COUNT] = {
    [LQ_DTYPE_F32] = {"F32", 1, 4},
    [LQ_DTYPE_F16] = {"F16", 1, 2},
    [LQ_DTYPE_Q4_0] = {"Q4_0", 32, 18},
    [LQ_DTYPE_Q4_1] = {"Q4_1", 32, 20},
    [LQ_DTYPE_Q5_0] = {"Q5_0", 32, 22},
    [LQ_DTYPE_Q5_1] = {"Q5_1", 32, 24},
    [LQ_DTYPE_Q8_0] = {"Q8_0", 32, 34},
    [LQ_DTYPE_Q2_K] = {"Q2_K", 256, 84},
    [LQ_DTYPE_Q3_K] = {"Q3_K", 256, 110},
    [LQ_DTYPE_Q4_K] = {"Q4_K", 256, 144},
    [LQ_DTYPE_Q5_K] = {"Q5_K", 256, 176},
    [LQ_DTYPE_Q6_K] = {"Q6_K", 256, 210},
    [LQ_DTYPE_IQ2_XXS] = {"IQ2_XXS", 256, 66},
    [LQ_DTYPE_IQ2_XS] = {"IQ2_XS", 256, 74},
    [LQ_DTYPE_IQ3_XXS] = {"IQ3_XXS", 256, 98},
    [LQ_DTYPE_IQ1_S] = {"IQ1_S", 256, 50},
    [LQ_DTYPE_IQ4_NL] = {"IQ4_NL", 32, 18},
    [LQ_DTYPE_IQ3_S] = {"IQ3_S", 256, 110},
    [LQ_DTYPE_IQ2_S] = {"IQ2_S", 256, 82},
    [LQ_DTYPE_IQ4_XS] = {"IQ4_XS", 256, 136},
    [LQ_DTYPE_I8] = {"I8", 1, 1},
    [LQ_DTYPE_I16] = {"I16", 1, 2},
    [LQ_DTYPE_I32] = {"I32", 1, 4},
    [LQ_DTYPE_I64] = {"I64", 1, 8},
    [LQ_DTYPE_F64] = {"F64", 1, 8},
    [LQ_DTYPE_IQ1_M] = {"IQ1_M", 256, 56},
    [LQ_DTYPE_BF16] = {"BF16", 1, 2},
    [LQ_DTYPE_TQ1_0] = {"TQ1_0", 256, 54},
    [LQ_DTYPE_TQ2_0] = {"TQ2_0", 256, 66},
    [LQ_DTYPE_MXFP4] = {"MXFP4", 32, 17},
    [LQ_DTYPE_NVFP4] = {"NVFP4", 64, 36},
    [LQ_DTYPE_Q1_0] = {"Q1_0", 128, 18},
    [LQ_DTYPE_Q2_0] = {"Q2_0", 64, 18},
};

const struct lq_dtype_info *lq_dtype_info(uint32_t dtype)
{
    if (dtype >= LQ_DTYPE_COUNT || dtype_table[dtype].name == NULL) {
        return NULL;
    }
    return &dtype_table[dtype];
}

bool lq_dtype_find(const char *name, enum lq_dtype *dtype)
{
    for (uint32_t i = 0; i < LQ_DTYPE_COUNT; i++) {
        if (dtype_table[i].name != NULL && strcmp(dtype_table[i].name, name) == 0) {
            *dtype = (enum lq_dtype)i;
            return true;
        }
    }
    return false;
}

const char *lq_dtype_name(uint32_t dtype)
{
    const struct lq_dtype_info *info = lq_dtype_info(dtype);
    return info == NULL ? "?" : info->name;
}

double lq_dtype_bpw(enum lq_dtype dtype)
{
    const struct lq_dtype_info *info = lq_dtype_info(dtype);
    return info == NULL ? 0.0 : 8.0 * info->block_bytes / info->block_elems;
}

size_t lq_dtype_row_bytes(enum lq_dtype dtype, size_t col_count)
{
    const struct lq_dtype_info *info = lq_dtype_info(dtype);
    return info == NULL ? 0 : col_count / info->block_elems * info->block_bytes;
}

#include "rules/quant/levels.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/quant/level_table.h"

#define T(name) LQ_DTYPE_##name

/* The mixtures are facts about llama-quantize; tests/golden/levels/mixtures.tsv records what it
 * does. */
static const struct lq_level levels[] = {
    {.name = "F32", .file_type = 0, .base = T(F32), .output = AS_BASE, .embedding = AS_BASE},
    {.name = "F16", .file_type = 1, .base = T(F16), .output = AS_BASE, .embedding = AS_BASE},
    {.name = "BF16", .file_type = 32, .base = T(BF16), .output = AS_BASE, .embedding = AS_BASE},
    {.name = "Q8_0", .file_type = 7, .base = T(Q8_0), .output = T(Q8_0), .embedding = AS_BASE},
    {.name = "Q6_K", .file_type = 18, .base = T(Q6_K), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "Q5_K_M",
     .alias = "Q5_K",
     .file_type = 17,
     .base = T(Q5_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .value = {{MORE, T(Q6_K)}},
     .down = {{MORE, T(Q6_K)}}},
    {.name = "Q5_K_S", .file_type = 16, .base = T(Q5_K), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "Q5_1", .file_type = 9, .base = T(Q5_1), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "Q5_0",
     .file_type = 8,
     .base = T(Q5_0),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .down = {{IMATRIX_EIGHTH, T(Q5_1)}}},
    {.name = "Q4_K_M",
     .alias = "Q4_K",
     .file_type = 15,
     .base = T(Q4_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{MORE, T(Q6_K)}},
     .down = {{MORE, T(Q6_K)}}},
    {.name = "Q4_K_S",
     .file_type = 14,
     .base = T(Q4_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{FIRST_4, T(Q5_K)}},
     .down = {{EIGHTH, T(Q5_K)}}},
    {.name = "Q4_1", .file_type = 3, .base = T(Q4_1), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "Q4_0",
     .file_type = 2,
     .base = T(Q4_0),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .down = {{IMATRIX_EIGHTH, T(Q4_1)}}},
    {.name = "IQ4_NL",
     .file_type = 25,
     .base = T(IQ4_NL),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q5_K)}},
     .down = {{NO_IMATRIX_EIGHTH, T(Q5_K)}}},
    {.name = "IQ4_XS",
     .file_type = 30,
     .base = T(IQ4_XS),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q5_K)}},
     .down = {{NO_IMATRIX_EIGHTH, T(Q5_K)}}},
    {.name = "Q3_K_L",
     .file_type = 13,
     .base = T(Q3_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .value = {{ALWAYS, T(Q5_K)}},
     .out = {ALWAYS, T(Q5_K)},
     .down = {{ALWAYS, T(Q5_K)}}},
    {.name = "Q3_K_M",
     .alias = "Q3_K",
     .file_type = 12,
     .base = T(Q3_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{FIRST_2, T(Q5_K)}, {ALWAYS, T(Q4_K)}},
     .out = {ALWAYS, T(Q4_K)},
     .down = {{SIXTEENTH, T(Q5_K)}, {ALWAYS, T(Q4_K)}}},
    {.name = "Q3_K_S",
     .file_type = 11,
     .base = T(Q3_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT},
    {.name = "IQ3_M",
     .file_type = 27,
     .base = T(IQ3_S),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{ALWAYS, T(Q4_K)}},
     .out = {ALWAYS, T(Q4_K)},
     .down = {{EIGHTH_OR_MOE_MORE, T(Q4_K)}}},
    {.name = "IQ3_S",
     .file_type = 26,
     .base = T(IQ3_S),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q4_K)}}},
    {.name = "IQ3_XS",
     .file_type = 22,
     .base = T(IQ3_S),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q4_K)}},
     .key_query = {ALWAYS, T(IQ3_XXS)},
     .gate_up = {MIDDLE, T(IQ3_XXS)}},
    {.name = "IQ3_XXS",
     .file_type = 23,
     .base = T(IQ3_XXS),
     .output = T(Q5_K),
     .embedding = T(IQ3_S),
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q4_K)}, {IMATRIX, T(IQ3_XXS)}, {NO_IMATRIX, T(IQ3_S)}},
     .key_query = {ALWAYS, T(IQ2_S)},
     .out = {ALWAYS, T(IQ3_S)},
     .down = {{NO_IMATRIX_EIGHTH, T(Q4_K)}, {NO_IMATRIX, T(Q3_K)}}},
    {.name = "Q2_K",
     .file_type = 10,
     .base = T(Q2_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .flags = MOE_OUT,
     .value = {{GROUPED, T(Q4_K)}, {ALWAYS, T(Q3_K)}},
     .out = {ALWAYS, T(Q3_K)},
     .down = {{ALWAYS, T(Q3_K)}}},
    {.name = "Q2_K_S",
     .file_type = 21,
     .base = T(Q2_K),
     .output = T(Q6_K),
     .embedding = AS_BASE,
     .value = {{GROUPED, T(Q4_K)}},
     .down = {{EIGHTH, T(Q4_K)}}},
    {.name = "IQ2_M",
     .file_type = 29,
     .base = T(IQ2_S),
     .output = T(Q5_K),
     .embedding = T(IQ3_S),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(IQ3_S)}},
     .out = {ALWAYS, T(IQ3_S)},
     .down = {{EIGHTH, T(IQ3_S)}}},
    {.name = "IQ2_S",
     .file_type = 28,
     .base = T(IQ2_XS),
     .output = T(Q5_K),
     .embedding = T(IQ3_S),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(IQ3_S)}},
     .out = {ALWAYS, T(IQ3_S)},
     .down = {{EIGHTH, T(IQ3_S)}}},
    {.name = "IQ2_XS",
     .file_type = 20,
     .base = T(IQ2_XS),
     .output = T(Q5_K),
     .embedding = T(Q2_K),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(Q2_K)}},
     .down = {{EIGHTH, T(Q2_K)}}},
    {.name = "IQ2_XXS",
     .file_type = 19,
     .base = T(IQ2_XXS),
     .output = T(Q5_K),
     .embedding = T(Q2_K),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(Q2_K)}},
     .down = {{EIGHTH, T(Q2_K)}}},
    {.name = "IQ1_M",
     .file_type = 31,
     .base = T(IQ1_M),
     .output = T(Q5_K),
     .embedding = T(Q2_K),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(Q2_K)}},
     .out = {ALWAYS, T(IQ2_XXS)},
     .down = {{EIGHTH, T(Q2_K)}}},
    {.name = "IQ1_S",
     .file_type = 24,
     .base = T(IQ1_S),
     .output = T(Q5_K),
     .embedding = T(Q2_K),
     .flags = LOW,
     .value = {{GROUPED_OR_EXPERT, T(Q4_K)}, {ALWAYS, T(Q2_K)}},
     .out = {ALWAYS, T(IQ2_XXS)},
     .down = {{EIGHTH, T(Q2_K)}}},
    {.name = "TQ2_0", .file_type = 37, .base = T(TQ2_0), .output = T(Q6_K), .embedding = T(Q4_K)},
    {.name = "TQ1_0",
     .alias = "TERNARY",
     .file_type = 36,
     .base = T(TQ1_0),
     .output = T(Q6_K),
     .embedding = T(Q4_K)},
    {.name = "MXFP4_MOE",
     .alias = "MXFP4",
     .file_type = 38,
     .base = T(MXFP4),
     .output = T(Q8_0),
     .embedding = T(Q8_0),
     .flags = MOE_FILE},
    {.name = "NVFP4", .file_type = 39, .base = T(NVFP4), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "Q2_0", .file_type = 41, .base = T(Q2_0), .output = T(Q6_K), .embedding = T(Q4_K)},
    {.name = "Q1_0", .file_type = 40, .base = T(Q1_0), .output = T(Q6_K), .embedding = AS_BASE},
    {.name = "COPY", .base = T(F32), .output = AS_BASE, .embedding = AS_BASE, .flags = KEEP},
};

/* --------------------------------------------------------------- names and facts ---- */

/* A name that is the decimal number of general.file_type, as llama-quantize takes it too. */
static bool is_number_of(const char *name, const struct lq_level *level)
{
    char digits[16];
    (void)snprintf(digits, sizeof digits, "%" PRIu32, level->file_type);
    return !(level->flags & KEEP) && strcmp(name, digits) == 0;
}

const struct lq_level *lq_level_find(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(levels); i++) {
        if (is_number_of(name, &levels[i]) || lq_text_equal_nocase(levels[i].name, name) ||
            (levels[i].alias != NULL && lq_text_equal_nocase(levels[i].alias, name))) {
            return &levels[i];
        }
    }
    return NULL;
}

const char *lq_level_suggest(const char *name)
{
    const char *names[LQ_COUNT_OF(levels)];
    for (size_t i = 0; i < LQ_COUNT_OF(levels); i++) {
        names[i] = levels[i].name;
    }
    return lq_text_nearest(name, names, LQ_COUNT_OF(levels));
}

size_t lq_level_count(void)
{
    return LQ_COUNT_OF(levels);
}

const struct lq_level *lq_level_at(size_t index)
{
    return index < LQ_COUNT_OF(levels) ? &levels[index] : NULL;
}

const char *lq_level_name(const struct lq_level *level)
{
    return level->name;
}

bool lq_level_keeps_types(const struct lq_level *level)
{
    return (level->flags & KEEP) != 0;
}

uint32_t lq_level_file_type(const struct lq_level *level)
{
    return level->file_type;
}

enum lq_dtype lq_level_base(const struct lq_level *level)
{
    return (enum lq_dtype)level->base;
}

const struct lq_level *lq_level_of_dtype(enum lq_dtype dtype)
{
    /* The table has the plain or the M level of a type before its others, except for the types that
     * a level of the same name exists for. */
    const struct lq_level *same = lq_level_find(lq_dtype_name((uint32_t)dtype));
    if (same != NULL) {
        return same;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(levels); i++) {
        if (levels[i].base == (uint8_t)dtype) {
            return &levels[i];
        }
    }
    return &levels[0];
}

bool lq_level_dtype_find(const char *name, enum lq_dtype *dtype)
{
    for (uint32_t i = 0; i < LQ_DTYPE_COUNT; i++) {
        const struct lq_dtype_info *info = lq_dtype_info(i);
        if (info != NULL && lq_text_equal_nocase(info->name, name)) {
            *dtype = (enum lq_dtype)i;
            return true;
        }
    }
    return false;
}

void lq_level_model_read(const struct lq_gguf *meta, struct lq_level_model *out)
{
    char key[128];
    *out =
        (struct lq_level_model){.architecture = lq_gguf_get_string(meta, "general.architecture")};
    if (out->architecture == NULL || strlen(out->architecture) > 64) {
        out->architecture = "";
    }
    static const struct {
        const char *suffix;
        size_t offset;
    } fields[] = {
        {".block_count", offsetof(struct lq_level_model, layer_count)},
        {".attention.head_count", offsetof(struct lq_level_model, head_count)},
        {".attention.head_count_kv", offsetof(struct lq_level_model, head_count_kv)},
        {".expert_count", offsetof(struct lq_level_model, expert_count)},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(fields); i++) {
        strcpy(key, out->architecture);
        strcat(key, fields[i].suffix);
        uint64_t value = lq_gguf_get_uint(meta, key, 0);
        memcpy((char *)out + fields[i].offset, &value, sizeof value);
    }
    if (out->head_count_kv == 0) {
        out->head_count_kv = out->head_count;
    }
}

bool lq_level_is_embedding(const char *name)
{
    return strcmp(name, "token_embd.weight") == 0 ||
           strcmp(name, "per_layer_token_embd.weight") == 0;
}

bool lq_level_is_output(const char *name)
{
    return strcmp(name, "output.weight") == 0;
}

int64_t lq_level_layer_of(const char *name)
{
    if (!lq_text_starts_with(name, "blk.")) {
        return -1;
    }
    const char *digits = name + 4;
    int64_t layer = 0;
    const char *at = digits;
    while (*at >= '0' && *at <= '9' && layer <= LQ_MODEL_LAYERS_MAX) {
        layer = layer * 10 + (*at - '0');
        at++;
    }
    return at == digits || *at != '.' || layer > LQ_MODEL_LAYERS_MAX ? -1 : layer;
}

bool lq_level_is_quantized_type(enum lq_dtype dtype)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    return info != NULL && info->block_elems > 1;
}

bool lq_level_is_quantized(const struct lq_model_tensor *tensor)
{
    return tensor->packing != NULL || lq_level_is_quantized_type(tensor->dtype);
}

uint64_t lq_level_stored_bytes(const struct lq_model_tensor *tensor)
{
    return tensor->packing != NULL ? tensor->size_bytes
                                   : lq_level_tensor_bytes(tensor, tensor->dtype);
}

uint64_t lq_level_tensor_elems(const struct lq_model_tensor *tensor)
{
    uint64_t count = 1;
    for (int i = 0; i < 4; i++) {
        if (!lq_mul_u64(count, tensor->ne[i], &count)) {
            return UINT64_MAX;
        }
    }
    return count;
}

uint64_t lq_level_tensor_bytes(const struct lq_model_tensor *tensor, enum lq_dtype dtype)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    uint64_t elems = lq_level_tensor_elems(tensor);
    uint64_t bytes = 0;
    if (info == NULL || elems == UINT64_MAX || tensor->ne[0] % info->block_elems != 0 ||
        !lq_mul_u64(elems / info->block_elems, info->block_bytes, &bytes)) {
        return 0;
    }
    return bytes;
}

/* ----------------------------------------------------------------- quantizable ---- */

bool lq_level_is_quantizable(const struct lq_model_tensor *tensor)
{
    static const char *const kept[] = {
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        "time_mix_first.weight",
        "time_mix_w0.weight",
        "time_mix_w1.weight",
        "time_mix_w2.weight",
        "time_mix_v0.weight",
        "time_mix_v1.weight",
        "time_mix_v2.weight",
        "time_mix_a0.weight",
        "time_mix_a1.weight",
        "time_mix_a2.weight",
        "time_mix_g1.weight",
        "time_mix_g2.weight",
        "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
        "attn_rel_b.weight",
        ".position_embd",
        "sam.pos_embd",
        "sam.neck.",
        "sam.net_",
        ".rel_pos",
        ".patch_embd",
        ".patch_merger",
        "a.rvq.codebook",
        "mm.a.code_embd",
    };
    const char *name = tensor->name;
    if (tensor->dim_count < 2 || !lq_text_ends_with(name, "weight") ||
        strcmp(name, "position_embd.weight") == 0 || strcmp(name, "token_types.weight") == 0) {
        return false;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(kept); i++) {
        if (strstr(name, kept[i]) != NULL) {
            return false;
        }
    }
    return true;
}

enum lq_dtype lq_level_kept_type(const struct lq_model_tensor *tensor)
{
    bool is_half = tensor->dtype == LQ_DTYPE_F16 || tensor->dtype == LQ_DTYPE_BF16;
    bool to_single = tensor->dtype == LQ_DTYPE_BF16 || tensor->dtype == LQ_DTYPE_F64 ||
                     (is_half && tensor->dim_count < 2);
    return to_single ? LQ_DTYPE_F32 : tensor->dtype;
}

enum lq_dtype lq_level_fallback(enum lq_dtype dtype, uint64_t col_count)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    if (info == NULL || col_count % info->block_elems == 0) {
        return dtype;
    }
    enum lq_dtype other = LQ_DTYPE_F16;
    switch (dtype) {
    case LQ_DTYPE_IQ1_S:
    case LQ_DTYPE_IQ1_M:
    case LQ_DTYPE_IQ2_XXS:
    case LQ_DTYPE_IQ2_XS:
    case LQ_DTYPE_IQ2_S:
    case LQ_DTYPE_IQ3_XXS:
    case LQ_DTYPE_IQ3_S:
    case LQ_DTYPE_IQ4_XS:
        other = LQ_DTYPE_IQ4_NL;
        break;
    case LQ_DTYPE_Q2_0:
    case LQ_DTYPE_Q2_K:
    case LQ_DTYPE_Q3_K:
    case LQ_DTYPE_TQ1_0:
    case LQ_DTYPE_TQ2_0:
        other = LQ_DTYPE_Q4_0;
        break;
    case LQ_DTYPE_Q4_K:
        other = LQ_DTYPE_Q5_0;
        break;
    case LQ_DTYPE_Q5_K:
        other = LQ_DTYPE_Q5_1;
        break;
    case LQ_DTYPE_Q6_K:
        other = LQ_DTYPE_Q8_0;
        break;
    default:
        break;
    }
    return col_count % lq_dtype_info((uint32_t)other)->block_elems == 0 ? other : LQ_DTYPE_F16;
}

bool lq_level_needs_imatrix(const struct lq_level *level, const char *name, enum lq_dtype dtype)
{
    if (lq_level_is_embedding(name) || lq_level_is_output(name)) {
        return false;
    }
    switch (dtype) {
    case LQ_DTYPE_IQ1_S:
    case LQ_DTYPE_IQ1_M:
    case LQ_DTYPE_IQ2_XXS:
    case LQ_DTYPE_IQ2_XS:
    case LQ_DTYPE_IQ2_S:
    case LQ_DTYPE_IQ3_XXS:
        return true;
    case LQ_DTYPE_Q2_K:
        return level != NULL && strcmp(level->name, "Q2_K_S") == 0;
    default:
        return false;
    }
}

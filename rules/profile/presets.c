#include "rules/profile/presets.h"

#include <string.h>

#include "engine/base/compiler.h"
#include "rules/quant/levels.h"

static const struct lq_preset presets[] = {
    {"attention-high", LQ_STRATEGY_ATTENTION_HIGH, "Attention layers at 4-bit, MLP at 2-bit", false,
     0.0},
    {"balanced", LQ_STRATEGY_BALANCED, "Even distribution based on importance", true, 4.5},
    {"compression-max", LQ_STRATEGY_COMPRESSION_MAX, "Minimize size while maintaining coherence",
     true, 3.0},
};

const struct lq_preset *lq_presets(size_t *count)
{
    *count = LQ_COUNT_OF(presets);
    return presets;
}

const struct lq_preset *lq_preset_find(const char *name)
{
    enum lq_profile_strategy strategy = LQ_STRATEGY_CUSTOM;
    if (!lq_profile_strategy_find(name, &strategy)) {
        return NULL;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(presets); i++) {
        if (presets[i].strategy == strategy) {
            return &presets[i];
        }
    }
    return NULL;
}

enum lq_dtype lq_preset_attention_high(const char *name, bool is_tied)
{
    if (lq_level_is_output(name) || (is_tied && lq_level_is_embedding(name))) {
        return LQ_DTYPE_Q6_K;
    }
    return strstr(name, ".ffn_") != NULL ? LQ_DTYPE_Q2_K : LQ_DTYPE_Q4_K;
}

#include "rules/model/forward_parts.h"

#define STAGE_BIT(stage) (1U << (stage))

/* The stages that read a weight, besides the whole layer, which reads all. */
enum {
    HEADS = STAGE_BIT(LQ_STAGE_ATTN_OUTPUT) | STAGE_BIT(LQ_STAGE_FFN),
    BEHIND_HEADS = STAGE_BIT(LQ_STAGE_FFN),
    GATES = STAGE_BIT(LQ_STAGE_FFN_DOWN) | STAGE_BIT(LQ_STAGE_END),
    BEHIND_GATES = STAGE_BIT(LQ_STAGE_END),
};

static const unsigned char readers[LQ_LAYER_WEIGHT_COUNT] = {
    [LQ_WEIGHT_ATTN_NORM] = STAGE_BIT(LQ_STAGE_ATTN) | HEADS,
    [LQ_WEIGHT_ATTN_Q] = HEADS,
    [LQ_WEIGHT_ATTN_K] = HEADS,
    [LQ_WEIGHT_ATTN_V] = HEADS,
    [LQ_WEIGHT_ATTN_QKV] = HEADS,
    [LQ_WEIGHT_ATTN_Q_BIAS] = HEADS,
    [LQ_WEIGHT_ATTN_K_BIAS] = HEADS,
    [LQ_WEIGHT_ATTN_V_BIAS] = HEADS,
    [LQ_WEIGHT_ATTN_QKV_BIAS] = HEADS,
    [LQ_WEIGHT_ATTN_Q_NORM] = HEADS,
    [LQ_WEIGHT_ATTN_K_NORM] = HEADS,
    [LQ_WEIGHT_ATTN_OUTPUT] = BEHIND_HEADS,
    [LQ_WEIGHT_ATTN_OUTPUT_BIAS] = BEHIND_HEADS,
    [LQ_WEIGHT_ATTN_POST_NORM] = BEHIND_HEADS,
    [LQ_WEIGHT_FFN_NORM] = BEHIND_HEADS | GATES,
    [LQ_WEIGHT_FFN_GATE] = GATES,
    [LQ_WEIGHT_FFN_UP] = GATES,
    [LQ_WEIGHT_FFN_GATE_UP] = GATES,
    [LQ_WEIGHT_FFN_GATE_BIAS] = GATES,
    [LQ_WEIGHT_FFN_UP_BIAS] = GATES,
    [LQ_WEIGHT_FFN_DOWN] = BEHIND_GATES,
    [LQ_WEIGHT_FFN_DOWN_BIAS] = BEHIND_GATES,
    [LQ_WEIGHT_FFN_POST_NORM] = BEHIND_GATES,
};

enum lq_layer_input lq_forward_stage_input(enum lq_forward_stage stage)
{
    switch (stage) {
    case LQ_STAGE_ATTN:
        return LQ_INPUT_ATTN;
    case LQ_STAGE_ATTN_OUTPUT:
        return LQ_INPUT_ATTN_OUTPUT;
    case LQ_STAGE_FFN:
        return LQ_INPUT_FFN;
    case LQ_STAGE_FFN_DOWN:
        return LQ_INPUT_FFN_DOWN;
    default:
        return LQ_LAYER_INPUT_COUNT;
    }
}

bool lq_forward_stage_reads(enum lq_forward_stage stage, enum lq_layer_weight weight)
{
    return stage == LQ_STAGE_WHOLE || (readers[weight] & STAGE_BIT(stage)) != 0;
}

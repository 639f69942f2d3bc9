#include "rules/profile/resolve.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "rules/quant/levels.h"

/* Modules of the llama family: names of the model library's weights for those of GGUF. */
static const struct {
    const char *gguf;
    const char *hf;
} modules[] = {
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};

bool lq_profile_hf_name(const char *gguf_name, char out[LQ_PROFILE_HF_NAME_BYTES])
{
    static const char *const whole[][2] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(whole); i++) {
        if (strcmp(gguf_name, whole[i][0]) == 0) {
            strcpy(out, whole[i][1]);
            return true;
        }
    }
    int64_t layer = lq_level_layer_of(gguf_name);
    if (layer < 0) {
        return false;
    }
    const char *part = strchr(gguf_name + 4, '.') + 1;
    for (size_t i = 0; i < LQ_COUNT_OF(modules); i++) {
        if (strcmp(part, modules[i].gguf) == 0) {
            (void)snprintf(out, LQ_PROFILE_HF_NAME_BYTES, "model.layers.%" PRId64 ".%s", layer,
                           modules[i].hf);
            return true;
        }
    }
    return false;
}

enum lq_dtype lq_profile_layer_type(const struct lq_dqprofile_layer *layer)
{
    if (layer->has_type) {
        return layer->type;
    }
    /* The format's reader lets only these widths through. */
    switch ((int)layer->bit_width) {
    case 1:
        return LQ_DTYPE_IQ1_S;
    case 2:
        return LQ_DTYPE_Q2_K;
    case 3:
        return LQ_DTYPE_Q3_K;
    case 4:
        return LQ_DTYPE_Q4_K;
    case 5:
        return LQ_DTYPE_Q5_K;
    case 6:
        return LQ_DTYPE_Q6_K;
    case 8:
        return LQ_DTYPE_Q8_0;
    default:
        return LQ_DTYPE_F16;
    }
}

double lq_profile_bit_width(enum lq_dtype dtype)
{
    double bpw = lq_dtype_bpw(dtype);
    static const double allowed[] = {1.5, 2, 3, 4, 5, 6, 8, 16};
    /* Scales add up to three quarters of a bit to a type's nominal width, and Q8_0 half a bit. */
    double best = allowed[0];
    for (size_t i = 0; i < LQ_COUNT_OF(allowed); i++) {
        best = allowed[i] <= bpw ? allowed[i] : best;
    }
    return best;
}

/* How well a layer name fits a tensor's name: 0 not at all, 1 as a pattern, more for longer
 * beginnings, SIZE_MAX exactly. */
static size_t fit_of(const char *layer_name, const char *tensor_name)
{
    size_t length = strlen(layer_name);
    if (strcmp(layer_name, tensor_name) == 0) {
        return SIZE_MAX;
    }
    if (length > 0 && strncmp(layer_name, tensor_name, length) == 0 && tensor_name[length] == '.') {
        return 1 + length;
    }
    bool is_pattern = strpbrk(layer_name, "*?") != NULL;
    return is_pattern && lq_text_glob(layer_name, tensor_name) ? 1 : 0;
}

static size_t best_fit(const char *layer_name, const struct lq_model_tensor *tensor,
                       const char *hf_name)
{
    size_t fit = fit_of(layer_name, tensor->name);
    size_t other = hf_name == NULL ? 0 : fit_of(layer_name, hf_name);
    return other > fit ? other : fit;
}

static enum lq_status unmatched(const char *where, const char *layer_name,
                                const struct lq_tensor_index *index, struct lq_error *err)
{
    /* Candidates: the names of weights in both worlds, and their modules. */
    size_t count = 0;
    size_t room = 2 * index->tensor_count;
    const char **names = calloc(room + 1, sizeof *names);
    char(*hf)[LQ_PROFILE_HF_NAME_BYTES] = calloc(index->tensor_count + 1, sizeof *hf);
    const char *nearest = NULL;
    if (names != NULL && hf != NULL) {
        for (size_t i = 0; i < index->tensor_count; i++) {
            if (!lq_level_is_quantizable(&index->tensors[i])) {
                continue;
            }
            names[count++] = index->tensors[i].name;
            if (lq_profile_hf_name(index->tensors[i].name, hf[i])) {
                char *suffix = strstr(hf[i], ".weight");
                if (suffix != NULL && !lq_text_ends_with(layer_name, ".weight")) {
                    *suffix = '\0';
                }
                names[count++] = hf[i];
            }
        }
        nearest = lq_text_nearest(layer_name, names, count);
    }
    enum lq_status status =
        nearest != NULL
            ? lq_error_set(err, LQ_EPROFILE,
                           "%s: layer '%s' matches no tensor of the model; did you mean '%s'?",
                           where, layer_name, nearest)
            : lq_error_set(
                  err, LQ_EPROFILE,
                  "%s: layer '%s' matches no tensor of the model; names look like "
                  "'blk.0.ffn_down.weight', 'model.layers.0.self_attn' or 'blk.*.attn_v.*'",
                  where, layer_name);
    free(names);
    free(hf);
    return status;
}

enum lq_status lq_profile_resolve(const struct lq_dqprofile *profile, const char *where,
                                  const struct lq_tensor_index *index, size_t *layers,
                                  struct lq_error *err)
{
    bool *used = calloc(profile->layer_count + 1, sizeof *used);
    if (used == NULL) {
        return lq_error_nomem(err, "the layers of a profile");
    }
    for (size_t i = 0; i < index->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index->tensors[i];
        char derived[LQ_PROFILE_HF_NAME_BYTES];
        const char *hf_name = tensor->source_name;
        if (hf_name == NULL || strcmp(hf_name, tensor->name) == 0) {
            hf_name = lq_profile_hf_name(tensor->name, derived) ? derived : NULL;
        }
        size_t best = 0;
        layers[i] = SIZE_MAX;
        bool is_quantizable = lq_level_is_quantizable(tensor);
        for (size_t l = 0; l < profile->layer_count; l++) {
            size_t fit = best_fit(profile->layers[l].layer_name, tensor, hf_name);
            used[l] = used[l] || fit > 0;
            if (is_quantizable && fit > 0 && fit >= best) {
                best = fit;
                layers[i] = l;
            }
        }
    }
    enum lq_status status = LQ_OK;
    for (size_t l = 0; l < profile->layer_count && status == LQ_OK; l++) {
        const struct lq_dqprofile_layer *layer = &profile->layers[l];
        if (!used[l]) {
            status = unmatched(where, layer->layer_name, index, err);
        } else if (layer->quant_method == LQ_QUANT_METHOD_GPTQ ||
                   layer->quant_method == LQ_QUANT_METHOD_AWQ) {
            status =
                lq_error_set(err, LQ_EUNSUPPORTED,
                             "%s: layer '%s' asks for the quant_method '%s', which is not that "
                             "of a GGUF file; say 'auto' or 'k_quants', or leave it out",
                             where, layer->layer_name, lq_quant_method_name(layer->quant_method));
        }
    }
    free(used);
    return status;
}

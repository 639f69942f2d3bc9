#include "rules/profile/coefficients.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/quant/levels.h"

/* The two places of a layer that write to the residual stream. */
enum branch { BRANCH_ATTENTION, BRANCH_FFN, BRANCH_COUNT };

struct layer {
    double written[BRANCH_COUNT]; /* expected squared sum that the branch adds */
    double share[BRANCH_COUNT];   /* of the stream behind it */
    bool is_used[BRANCH_COUNT];
    bool is_gated;
};

struct place {
    uint32_t layer;
    enum branch branch;
    const char *part; /* behind the layer number: "attn_q.weight" */
};

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* Where a tensor of a layer stands; false for tensors outside the layers. */
static bool find_place(const char *name, struct place *out)
{
    if (!starts_with(name, "blk.")) {
        return false;
    }
    char *end = NULL;
    unsigned long layer = strtoul(name + 4, &end, 10);
    if (end == name + 4 || *end != '.') {
        return false;
    }
    *out =
        (struct place){.layer = layer < UINT32_MAX ? (uint32_t)layer : UINT32_MAX, .part = end + 1};
    out->branch = starts_with(out->part, "ffn_") ? BRANCH_FFN : BRANCH_ATTENTION;
    return true;
}

/* True for the matrix whose output is added to the residual stream. */
static bool is_writer(const char *part)
{
    return starts_with(part, "attn_output") || starts_with(part, "ffn_down") ||
           starts_with(part, "ssm_out");
}

/* A router picks some experts and its weights sum to one, so that together they write about as much
 * as one of them. */
static double written_by(const struct lq_coefficient_input *input)
{
    return input->signal / (double)(input->mat_count > 0 ? input->mat_count : 1);
}

/* Every branch's share of the stream behind it, outputs taken as uncorrelated. Without measured
 * activations the signals of different tensors cannot be compared; then each branch is taken to add
 * as much as the embedding, which makes shares fall with depth as they do in trained models. */
static void find_shares(struct layer *layers, size_t layer_count, double stream, bool is_measured)
{
    double added = 1.0;
    for (size_t l = 0; l < layer_count; l++) {
        for (int b = 0; b < BRANCH_COUNT; b++) {
            if (!layers[l].is_used[b]) {
                continue;
            }
            added += 1.0;
            stream += layers[l].written[b];
            layers[l].share[b] = is_measured && stream > 0.0 ? layers[l].written[b] / stream
                                 : is_measured               ? 0.0
                                                             : 1.0 / added;
        }
    }
}

static double factor_of(const char *name, bool is_tied, const struct layer *layers)
{
    struct place place;
    if (lq_level_is_output(name)) {
        return LQ_COEFFICIENT_OUTPUT;
    }
    if (!find_place(name, &place)) {
        /* An embedding is all of the stream where it enters. */
        return is_tied && strcmp(name, "token_embd.weight") == 0 ? 1.0 + LQ_COEFFICIENT_OUTPUT
                                                                 : 1.0;
    }
    const struct layer *layer = &layers[place.layer];
    bool is_indirect = strcmp(place.part, "attn_q.weight") == 0 ||
                       strcmp(place.part, "attn_k.weight") == 0 ||
                       (layer->is_gated && starts_with(place.part, "ffn_up"));
    return layer->share[place.branch] * (is_indirect ? LQ_COEFFICIENT_INDIRECT : 1.0);
}

enum lq_status lq_coefficients(const struct lq_coefficient_input *inputs, size_t count,
                               bool is_tied, double *factors, struct lq_error *err)
{
    struct place place;
    size_t layer_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (!find_place(inputs[i].name, &place)) {
            continue;
        }
        if (place.layer >= LQ_MODEL_LAYERS_MAX) {
            return lq_error_set(err, LQ_EPROFILE,
                                "tensor '%s' is in layer %" PRIu32 ", expected a layer below %d",
                                inputs[i].name, place.layer, LQ_MODEL_LAYERS_MAX);
        }
        layer_count = place.layer >= layer_count ? place.layer + 1 : layer_count;
    }
    struct layer *layers = calloc(layer_count + 1, sizeof *layers);
    if (layers == NULL) {
        return lq_error_nomem(err, "the factors of a profile");
    }
    double embedding = 0.0;
    bool is_measured = true;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(inputs[i].name, "token_embd.weight") == 0 && inputs[i].row_count > 0) {
            embedding = inputs[i].squares / (double)inputs[i].row_count;
        }
        if (!find_place(inputs[i].name, &place)) {
            continue;
        }
        struct layer *layer = &layers[place.layer];
        layer->is_used[place.branch] = true;
        layer->is_gated = layer->is_gated || starts_with(place.part, "ffn_gate");
        if (is_writer(place.part)) {
            is_measured = is_measured && inputs[i].has_importance;
            layer->written[place.branch] += written_by(&inputs[i]);
        }
    }
    for (size_t l = 0; l < layer_count; l++) {
        for (int b = 0; b < BRANCH_COUNT; b++) {
            is_measured = is_measured && (!layers[l].is_used[b] || layers[l].written[b] > 0.0);
        }
    }
    find_shares(layers, layer_count, embedding, is_measured);
    for (size_t i = 0; i < count; i++) {
        factors[i] = factor_of(inputs[i].name, is_tied, layers);
    }
    free(layers);
    return LQ_OK;
}

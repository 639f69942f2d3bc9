#include <stdlib.h>

#include "rules/model/forward_parts.h"

/* A layer of a mixture holds many times the weights that a token needs, and more than fits the
 * memory of a machine that could well run it. So experts are decoded one matrix at a time, when a
 * batch has rows for them. As far as expert_bytes reach they are kept for the next batch. */

static uint64_t expert_budget(uint64_t expert_bytes)
{
    return expert_bytes == 0 ? LQ_FORWARD_EXPERT_BYTES : expert_bytes;
}

static uint64_t matrix_elems(const struct lq_hparams *hparams)
{
    return (uint64_t)hparams->ffn_width * hparams->width;
}

uint64_t lq_forward_expert_elems(const struct lq_hparams *hparams, uint64_t expert_bytes)
{
    uint64_t all = LQ_EXPERT_WEIGHTS * hparams->expert_count * matrix_elems(hparams);
    uint64_t kept = expert_budget(expert_bytes) / sizeof(float);
    return kept < all ? kept + matrix_elems(hparams) : all;
}

static size_t expert_slots(const struct lq_forward *forward)
{
    return LQ_EXPERT_WEIGHTS * (size_t)forward->hparams.expert_count;
}

enum lq_status lq_forward_take_experts(struct lq_forward *forward, uint64_t slots,
                                       struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t experts = hparams->expert_count;
    forward->router = lq_forward_take(forward, forward->batch_rows * experts, sizeof(float));
    forward->slot_rows = lq_forward_take(forward, slots * hparams->width, sizeof(float));
    forward->route.weights = lq_forward_take(forward, slots, sizeof(float));
    forward->route.slots = lq_forward_take(forward, slots, sizeof(int32_t));
    forward->route.sources = lq_forward_take(forward, slots, sizeof(int32_t));
    forward->route.starts = lq_forward_take(forward, experts + 1, sizeof(int32_t));
    forward->route.all = hparams->router_over_all ? forward->router : NULL;
    forward->starts = calloc(experts + 1, sizeof *forward->starts);
    forward->sources = calloc(slots, sizeof *forward->sources);
    forward->expert_rows = calloc(experts, sizeof *forward->expert_rows);
    forward->experts = calloc(expert_slots(forward), sizeof *forward->experts);
    forward->experts_ready = calloc(expert_slots(forward), sizeof *forward->experts_ready);
    forward->expert_bytes = expert_budget(forward->env.expert_bytes);
    forward->expert_slot = SIZE_MAX;
    if (forward->starts == NULL || forward->sources == NULL || forward->expert_rows == NULL ||
        forward->experts == NULL || forward->experts_ready == NULL) {
        return lq_error_nomem(err, "experts");
    }
    return lq_forward_check_device(forward, err);
}

void lq_forward_give_experts(struct lq_forward *forward)
{
    void *const all[] = {forward->router,      forward->slot_rows,     forward->route.weights,
                         forward->route.slots, forward->route.sources, forward->route.starts};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        lq_forward_give(forward, all[i]);
    }
    lq_forward_drop_experts(forward);
    free(forward->starts);
    free(forward->sources);
    free(forward->expert_rows);
    free(forward->experts);
    free(forward->experts_ready);
}

void lq_forward_drop_experts(struct lq_forward *forward)
{
    for (size_t i = 0; forward->experts != NULL && i < expert_slots(forward); i++) {
        lq_forward_give(forward, forward->experts[i]);
        forward->experts[i] = NULL;
    }
    lq_forward_give(forward, forward->expert);
    forward->expert = NULL;
    forward->expert_bytes = expert_budget(forward->env.expert_bytes);
    lq_forward_reset_experts(forward);
}

void lq_forward_reset_experts(struct lq_forward *forward)
{
    for (size_t i = 0; forward->experts != NULL && i < expert_slots(forward); i++) {
        forward->experts_ready[i] = false;
    }
    forward->expert_slot = SIZE_MAX;
    for (size_t e = 0; forward->expert_rows != NULL && e < forward->hparams.expert_count; e++) {
        forward->expert_rows[e] = 0;
    }
}

/* Memory for the matrix: its own while there is something to spend or where it must be, else the
 * shared one. */
static float *find_room(struct lq_forward *forward, size_t slot, uint64_t elems, bool keep)
{
    uint64_t size_bytes = elems * sizeof(float);
    bool fits = size_bytes <= forward->expert_bytes;
    if (forward->experts[slot] == NULL && (fits || keep)) {
        forward->expert_bytes -= fits ? size_bytes : forward->expert_bytes;
        forward->experts[slot] = lq_forward_take(forward, elems, sizeof(float));
    }
    if (forward->experts[slot] != NULL || keep) {
        return forward->experts[slot];
    }
    if (forward->expert == NULL) {
        forward->expert = lq_forward_take(forward, elems, sizeof(float));
    }
    return forward->expert;
}

static float *find_expert(struct lq_forward *forward, enum lq_layer_weight weight, size_t expert,
                          bool keep)
{
    uint64_t mats = forward->hparams.expert_count;
    size_t slot = (size_t)(weight - LQ_WEIGHT_FFN_GATE_EXPS) * mats + expert;
    char name[LQ_WEIGHT_NAME_BYTES];
    uint64_t cols = 0;
    uint64_t rows = 0;
    if (forward->experts_ready[slot]) {
        return forward->experts[slot];
    }
    if (forward->expert_slot == slot && !keep) {
        return forward->expert;
    }
    if (lq_forward_is_cancelled(forward)) {
        return NULL;
    }
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &rows);
    float *to = find_room(forward, slot, cols * rows, keep);
    bool shared = to == forward->expert;
    forward->expert_slot = shared ? SIZE_MAX : forward->expert_slot;
    struct lq_error *failure = &forward->failure;
    if (lq_forward_check_device(forward, failure) != LQ_OK ||
        lq_forward_load_matrix(forward, lq_layer_weight_path(forward->layer, weight, name), cols,
                               rows, mats, expert, to, failure) != LQ_OK) {
        return NULL;
    }
    forward->rounds[weight] = forward->newest_rounds;
    forward->experts_ready[slot] = !shared;
    forward->expert_slot = shared ? slot : forward->expert_slot;
    return to;
}

const float *lq_forward_expert(struct lq_forward *forward, enum lq_layer_weight weight,
                               size_t expert)
{
    return find_expert(forward, weight, expert, false);
}

float *lq_forward_keep_expert(struct lq_forward *forward, enum lq_layer_weight weight,
                              size_t expert)
{
    return find_expert(forward, weight, expert, true);
}

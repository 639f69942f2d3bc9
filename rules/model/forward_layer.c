#include "rules/model/forward_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "kernels/kernels.h"

void lq_forward_multiply(struct lq_forward *forward, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, size_t count, bool arranged)
{
    if (forward->ops->matmul_group != NULL) {
        forward->ops->matmul_group(forward->device, a, rows, in_cols, products, count, arranged);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        forward->ops->matmul(forward->device, a, products[i].b, products[i].c, rows,
                             products[i].out_cols, in_cols);
    }
}

/* A product of a layer: out = x * transpose(weight), plus the bias if there is one. */
struct layer_product {
    enum lq_layer_weight weight;
    enum lq_layer_weight bias; /* LQ_LAYER_WEIGHT_COUNT: none */
    float *out;
};

/* Those products whose input is rounded, or those whose input is not. */
static void multiply_some(struct lq_forward *forward, const float *x,
                          const struct layer_product *all, size_t count, size_t rows, bool rounds)
{
    struct lq_product products[LQ_PRODUCTS_MAX];
    size_t product_count = 0;
    uint64_t cols = 0;
    for (size_t i = 0; i < count; i++) {
        if (forward->rounds[all[i].weight] == rounds) {
            uint64_t out_cols = 0;
            lq_layer_weight_shape(&forward->hparams, all[i].weight, &cols, &out_cols);
            products[product_count++] =
                (struct lq_product){forward->weights[all[i].weight], all[i].out, (size_t)out_cols};
        }
    }
    if (product_count > 0) {
        x = lq_forward_rounded(forward, rounds, x, rows, (size_t)cols);
        lq_forward_multiply(forward, x, rows, (size_t)cols, products, product_count,
                            lq_forward_is_arranged(forward, all[0].weight));
    }
}

/* Products with the same x, whose weights are arranged all or none. */
static void multiply_all(struct lq_forward *forward, const float *x,
                         const struct layer_product *all, size_t count, size_t rows)
{
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    multiply_some(forward, x, all, count, rows, false);
    multiply_some(forward, x, all, count, rows, true);
    for (size_t i = 0; i < count; i++) {
        if (all[i].bias != LQ_LAYER_WEIGHT_COUNT && forward->weights[all[i].bias] != NULL) {
            uint64_t cols = 0;
            uint64_t out_cols = 0;
            lq_layer_weight_shape(&forward->hparams, all[i].weight, &cols, &out_cols);
            forward->ops->add_bias(forward->device, all[i].out, forward->weights[all[i].bias], rows,
                                   (size_t)out_cols);
        }
    }
}

static void multiply(struct lq_forward *forward, const float *x, enum lq_layer_weight weight,
                     enum lq_layer_weight bias, float *out, size_t rows)
{
    const struct layer_product product = {weight, bias, out};
    multiply_all(forward, x, &product, 1, rows);
}

static void normalize(struct lq_forward *forward, const float *x, enum lq_layer_weight weight,
                      float *out, size_t rows, size_t cols)
{
    forward->ops->rms_norm(forward->device, x, forward->weights[weight], out, rows, cols,
                           (float)forward->hparams.norm_eps);
}

/* To whoever watches: memory of a device comes over piece by piece. */
static void show_input(struct lq_forward *forward, enum lq_layer_input input, const float *x,
                       size_t rows)
{
    enum { PIECE_VALUES = 4096 };
    float piece[PIECE_VALUES];
    size_t cols = lq_layer_input_cols(&forward->hparams, input);
    if (forward->ops->host_visible) {
        forward->env.watch(forward->env.watch_user, input, 0, x, rows * cols);
        return;
    }
    for (size_t at = 0; at < rows * cols; at += PIECE_VALUES) {
        size_t left = rows * cols - at;
        size_t count = left < PIECE_VALUES ? left : PIECE_VALUES;
        forward->ops->download(forward->device, piece, x + at, count * sizeof *piece);
        forward->env.watch(forward->env.watch_user, input, at % cols, piece, count);
    }
}

static void collect_input(struct lq_forward *forward, bool collect, enum lq_layer_input input,
                          const float *x, size_t rows)
{
    bool is_part = forward->env.stage != LQ_STAGE_WHOLE;
    if (is_part && lq_forward_stage_input(forward->env.stage) != input) {
        return;
    }
    if (collect && forward->env.watch != NULL && !lq_forward_is_cancelled(forward)) {
        show_input(forward, input, x, rows);
    }
    if (is_part) {
        return;
    }
    size_t cols = lq_layer_input_cols(&forward->hparams, input);
    size_t step = forward->env.skip_first ? forward->sequence : rows;
    size_t skipped = forward->env.skip_first ? 1 : 0;
    for (size_t row = 0; collect && row < rows; row += step) {
        forward->ops->add_squares(forward->device, x + (row + skipped) * cols, step - skipped, cols,
                                  forward->sums[input]);
    }
}

/* `to` is a field of the tape. */
static void keep(struct lq_forward *forward, float *to, const float *from, size_t count)
{
    if (to != NULL && !lq_forward_is_cancelled(forward)) {
        forward->ops->copy(forward->device, to, from, count);
    }
}

/* x += what a part of the layer left in `normed`, after its norm if it has one. */
static void add_part(struct lq_forward *forward, float *x, enum lq_layer_weight post_norm,
                     size_t rows)
{
    size_t width = forward->hparams.width;
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    if (forward->weights[post_norm] != NULL) {
        normalize(forward, forward->normed, post_norm, forward->normed, rows, width);
    }
    forward->ops->add(forward->device, x, forward->normed, rows * width);
}

/* Rows of each sample. */
struct wanted {
    size_t first;
    size_t count;
};

/* Norms of heads, if there are any, and positions: of these rows of each sample. */
static void turn_heads(struct lq_forward *forward, float *x, enum lq_layer_weight norm,
                       size_t head_count, size_t samples, const struct wanted *wanted)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t rows = samples * wanted->count;
    const float *table =
        lq_forward_rope_of(forward, forward->layer) + wanted->first * hparams->rope_dim;
    if (forward->weights[norm] != NULL) {
        normalize(forward, x, norm, x, rows * head_count, hparams->head_dim);
    }
    forward->ops->rope(forward->device, x, table, rows, wanted->count, head_count,
                       hparams->head_dim, hparams->rope_dim / 2, hparams->rope_halves);
}

struct lq_attention_shape lq_forward_attention_shape(const struct lq_forward *forward,
                                                     size_t samples)
{
    const struct lq_hparams *hparams = &forward->hparams;
    bool windowed = lq_hparams_is_windowed(hparams, forward->layer);
    return (struct lq_attention_shape){
        .sample_count = samples,
        .sequence = forward->sequence,
        .head_count = hparams->head_count,
        .kv_head_count = hparams->kv_head_count,
        .head_dim = hparams->head_dim,
        .window = windowed ? hparams->window : 0,
        .scale = (float)hparams->attention_scale,
        .cap = (float)hparams->attention_cap,
    };
}

/* Rows of whole samples become the wanted ones, side by side. */
static void pick_rows(struct lq_forward *forward, float *x, size_t width, size_t samples,
                      const struct wanted *wanted)
{
    for (size_t s = 0; s < samples && !lq_forward_is_cancelled(forward); s++) {
        forward->ops->copy(forward->device, x + s * wanted->count * width,
                           x + (s * forward->sequence + wanted->first) * width,
                           wanted->count * width);
    }
}

/* Whether attention is for the wanted rows alone, or for all of which they are picked. */
static bool picks_queries(const struct lq_forward *forward, const struct wanted *wanted)
{
    return wanted != NULL && forward->ops->picks_queries;
}

/* From x to `attended`, of the rows `queries` of each sample, side by side. */
static void attend(struct lq_forward *forward, const float *x, size_t samples,
                   const struct wanted *queries, bool collect)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct wanted all = {0, forward->sequence};
    size_t rows = samples * forward->sequence;
    size_t query_rows = samples * queries->count;
    struct lq_attention_shape shape = lq_forward_attention_shape(forward, samples);
    shape.first_query = queries->first;
    shape.query_count = queries->count;
    normalize(forward, x, LQ_WEIGHT_ATTN_NORM, forward->normed, rows, hparams->width);
    collect_input(forward, collect, LQ_INPUT_ATTN, forward->normed, rows);
    const struct layer_product heads[] = {
        {LQ_WEIGHT_ATTN_Q, LQ_WEIGHT_ATTN_Q_BIAS, forward->q},
        {LQ_WEIGHT_ATTN_K, LQ_WEIGHT_ATTN_K_BIAS, forward->k},
        {LQ_WEIGHT_ATTN_V, LQ_WEIGHT_ATTN_V_BIAS, forward->v},
    };
    if (query_rows == rows) {
        multiply_all(forward, forward->normed, heads, LQ_COUNT_OF(heads), rows);
    } else {
        multiply_all(forward, forward->normed, heads + 1, LQ_COUNT_OF(heads) - 1, rows);
        pick_rows(forward, forward->normed, hparams->width, samples, queries);
        multiply_all(forward, forward->normed, heads, 1, query_rows);
    }
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape.q, forward->q, rows * lq_forward_q_width(hparams));
    keep(forward, forward->tape.k, forward->k, rows * lq_forward_kv_width(hparams));
    turn_heads(forward, forward->q, LQ_WEIGHT_ATTN_Q_NORM, hparams->head_count, samples, queries);
    turn_heads(forward, forward->k, LQ_WEIGHT_ATTN_K_NORM, hparams->kv_head_count, samples, &all);
    forward->ops->attention(forward->device, forward->q, forward->k, forward->v, forward->attended,
                            &shape);
    collect_input(forward, collect, LQ_INPUT_ATTN_OUTPUT, forward->attended, query_rows);
}

/* Adds what comes of `attended`. */
static void add_attention(struct lq_forward *forward, float *x, size_t rows)
{
    const struct lq_hparams *hparams = &forward->hparams;
    multiply(forward, forward->attended, LQ_WEIGHT_ATTN_OUTPUT, LQ_WEIGHT_ATTN_OUTPUT_BIAS,
             forward->normed, rows);
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape.attn_out, forward->normed, rows * hparams->width);
    add_part(forward, x, LQ_WEIGHT_ATTN_POST_NORM, rows);
}

/* gate = activation(gate) * up. */
static void activate(struct lq_forward *forward, size_t rows)
{
    size_t count = rows * forward->hparams.ffn_width;
    if (forward->hparams.activation == LQ_ACTIVATION_GELU_TANH) {
        forward->ops->gelu_mul(forward->device, forward->gate, forward->up, count);
    } else {
        forward->ops->silu_mul(forward->device, forward->gate, forward->up, count);
    }
}

/* Whether one operation makes the products of gate and up and what becomes of them. */
static bool can_gate(const struct lq_forward *forward)
{
    return forward->ops->product_gate != NULL && forward->tape.gate == NULL &&
           forward->weights[LQ_WEIGHT_FFN_GATE_BIAS] == NULL &&
           forward->weights[LQ_WEIGHT_FFN_UP_BIAS] == NULL &&
           forward->rounds[LQ_WEIGHT_FFN_GATE] == forward->rounds[LQ_WEIGHT_FFN_UP] &&
           lq_forward_is_arranged(forward, LQ_WEIGHT_FFN_GATE);
}

static void gate_product(struct lq_forward *forward, size_t rows)
{
    size_t cols = forward->hparams.ffn_width;
    const struct lq_product both[] = {
        {forward->weights[LQ_WEIGHT_FFN_GATE], forward->gate, cols},
        {forward->weights[LQ_WEIGHT_FFN_UP], forward->up, cols},
    };
    if (!lq_forward_is_cancelled(forward)) {
        const float *x = lq_forward_rounded(forward, forward->rounds[LQ_WEIGHT_FFN_GATE],
                                            forward->normed, rows, forward->hparams.width);
        forward->ops->product_gate(forward->device, x, rows, forward->hparams.width, both,
                                   forward->hparams.activation == LQ_ACTIVATION_GELU_TANH);
    }
}

/* From `normed` to `gate`, the input of ffn_down. */
static void run_dense(struct lq_forward *forward, size_t rows, bool collect)
{
    const struct layer_product both[] = {
        {LQ_WEIGHT_FFN_GATE, LQ_WEIGHT_FFN_GATE_BIAS, forward->gate},
        {LQ_WEIGHT_FFN_UP, LQ_WEIGHT_FFN_UP_BIAS, forward->up},
    };
    if (can_gate(forward)) {
        gate_product(forward, rows);
    } else {
        multiply_all(forward, forward->normed, both, LQ_COUNT_OF(both), rows);
    }
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    if (!can_gate(forward)) {
        keep(forward, forward->tape.gate, forward->gate, rows * forward->hparams.ffn_width);
        activate(forward, rows);
    }
    collect_input(forward, collect, LQ_INPUT_FFN_DOWN, forward->gate, rows);
}

/* Slot of expert `e` from `slot` on whose row is not the first of a sample, or the end of them. */
static size_t next_slot(const struct lq_forward *forward, size_t slot, size_t end, bool first)
{
    while (slot < end && (forward->sources[slot] % (int32_t)forward->sequence == 0) != first) {
        slot++;
    }
    return slot;
}

/* Adds the squares of each expert's rows of x, [slots x columns], to its sums. */
static void collect_experts(struct lq_forward *forward, enum lq_layer_input input, const float *x)
{
    size_t cols = lq_layer_input_cols(&forward->hparams, input);
    for (size_t e = 0; e < forward->hparams.expert_count; e++) {
        size_t end = (size_t)forward->starts[e + 1];
        size_t slot = (size_t)forward->starts[e];
        while (slot < end) {
            size_t next = end;
            if (forward->env.skip_first) {
                slot = next_slot(forward, slot, end, false);
                next = next_slot(forward, slot, end, true);
            }
            forward->ops->add_squares(forward->device, x + slot * cols, next - slot, cols,
                                      forward->sums[input] + e * cols);
            forward->expert_rows[e] += input == LQ_INPUT_FFN_EXPS ? next - slot : 0;
            slot = next;
        }
    }
}

/* One product for each expert, over its own slots: x and out are [slots x columns]. */
static void multiply_experts(struct lq_forward *forward, const float *x,
                             enum lq_layer_weight weight, float *out)
{
    uint64_t cols = 0;
    uint64_t out_cols = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &out_cols);
    for (size_t e = 0; e < forward->hparams.expert_count; e++) {
        size_t start = (size_t)forward->starts[e];
        size_t rows = (size_t)forward->starts[e + 1] - start;
        const float *matrix = rows == 0 ? NULL : lq_forward_expert(forward, weight, e);
        if (matrix != NULL && !lq_forward_is_cancelled(forward)) {
            const float *from = lq_forward_rounded(forward, forward->rounds[weight],
                                                   x + start * cols, rows, (size_t)cols);
            forward->ops->matmul(forward->device, from, matrix, out + start * out_cols, rows,
                                 (size_t)out_cols, (size_t)cols);
        }
    }
}

static void route_rows(struct lq_forward *forward, size_t rows)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    size_t starts_bytes = (hparams->expert_count + (size_t)1) * sizeof *forward->starts;
    multiply(forward, forward->normed, LQ_WEIGHT_FFN_ROUTER, LQ_LAYER_WEIGHT_COUNT, forward->router,
             rows);
    memset(forward->starts, 0, starts_bytes);
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    ops->route(forward->device, forward->router, rows, hparams->expert_count, hparams->expert_used,
               &forward->route);
    ops->download(forward->device, forward->starts, forward->route.starts, starts_bytes);
    ops->gather_rows(forward->device, forward->normed, forward->route.sources, forward->slot_rows,
                     rows * hparams->expert_used, hparams->width);
    ops->download(forward->device, forward->sources, forward->route.sources,
                  rows * hparams->expert_used * sizeof *forward->sources);
}

/* From `normed` to `gate`, like run_dense. */
static void run_experts(struct lq_forward *forward, size_t rows, bool collect)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t slots = rows * hparams->expert_used;
    route_rows(forward, rows);
    if (collect) {
        collect_experts(forward, LQ_INPUT_FFN_EXPS, forward->slot_rows);
    }
    multiply_experts(forward, forward->slot_rows, LQ_WEIGHT_FFN_GATE_EXPS, forward->gate);
    multiply_experts(forward, forward->slot_rows, LQ_WEIGHT_FFN_UP_EXPS, forward->up);
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape.gate, forward->gate, slots * hparams->ffn_width);
    activate(forward, slots);
    if (collect) {
        collect_experts(forward, LQ_INPUT_FFN_DOWN_EXPS, forward->gate);
    }
}

void lq_forward_make_down(struct lq_forward *forward, size_t rows)
{
    const struct lq_hparams *hparams = &forward->hparams;
    if (hparams->expert_count == 0) {
        multiply(forward, forward->gate, LQ_WEIGHT_FFN_DOWN, LQ_WEIGHT_FFN_DOWN_BIAS,
                 forward->normed, rows);
        return;
    }
    multiply_experts(forward, forward->gate, LQ_WEIGHT_FFN_DOWN_EXPS, forward->slot_rows);
    if (!lq_forward_is_cancelled(forward)) {
        forward->ops->combine_rows(forward->device, forward->slot_rows, &forward->route,
                                   forward->normed, rows, hparams->expert_used, hparams->width);
    }
}

void lq_forward_run_down(struct lq_forward *forward, float *x, size_t rows)
{
    lq_forward_make_down(forward, rows);
    add_part(forward, x, LQ_WEIGHT_FFN_POST_NORM, rows);
}

static void run_ffn(struct lq_forward *forward, float *x, size_t rows, bool collect,
                    bool inputs_only)
{
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape.middle, x, rows * forward->hparams.width);
    normalize(forward, x, LQ_WEIGHT_FFN_NORM, forward->normed, rows, forward->hparams.width);
    collect_input(forward, collect, LQ_INPUT_FFN, forward->normed, rows);
    forward->row_count += collect ? rows : 0;
    if (collect && forward->env.skip_first) {
        forward->row_count -= rows / forward->sequence;
    }
    if (forward->hparams.expert_count == 0) {
        run_dense(forward, rows, collect);
    } else {
        run_experts(forward, rows, collect);
    }
    if (!inputs_only && !lq_forward_is_cancelled(forward)) {
        lq_forward_run_down(forward, x, rows);
    }
}

/* `wanted` NULL: all rows; others are given up behind attention, and have no queries where the
 * device takes a part of them. */
static void run_layer(struct lq_forward *forward, float *x, size_t sample_count,
                      const struct wanted *wanted, bool collect, bool inputs_only)
{
    const struct wanted all = {0, forward->sequence};
    size_t rows = sample_count * (wanted == NULL ? forward->sequence : wanted->count);
    bool picked = picks_queries(forward, wanted);
    attend(forward, x, sample_count, picked ? wanted : &all, collect);
    if (wanted != NULL) {
        pick_rows(forward, x, forward->hparams.width, sample_count, wanted);
    }
    if (wanted != NULL && !picked) {
        pick_rows(forward, forward->attended, lq_forward_q_width(&forward->hparams), sample_count,
                  wanted);
    }
    add_attention(forward, x, rows);
    run_ffn(forward, x, rows, collect, inputs_only);
}

/* The part env.stage of a layer, see forward.h. */
static void run_stage(struct lq_forward *forward, float *x, size_t sample_count, bool collect)
{
    enum lq_forward_stage stage = forward->env.stage;
    const struct wanted all = {0, forward->sequence};
    size_t rows = sample_count * forward->sequence;
    size_t width = forward->hparams.width;
    if (stage == LQ_STAGE_ATTN) {
        normalize(forward, x, LQ_WEIGHT_ATTN_NORM, forward->normed, rows, width);
        collect_input(forward, collect, LQ_INPUT_ATTN, forward->normed, rows);
        return;
    }
    if (stage == LQ_STAGE_ATTN_OUTPUT || stage == LQ_STAGE_FFN) {
        attend(forward, x, sample_count, &all, collect);
    }
    if (stage == LQ_STAGE_ATTN_OUTPUT) {
        return;
    }
    if (stage == LQ_STAGE_FFN) {
        add_attention(forward, x, rows);
    }
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    normalize(forward, x, LQ_WEIGHT_FFN_NORM, forward->normed, rows, width);
    collect_input(forward, collect, LQ_INPUT_FFN, forward->normed, rows);
    if (stage != LQ_STAGE_FFN) {
        run_dense(forward, rows, collect);
    }
    if (stage == LQ_STAGE_END && !lq_forward_is_cancelled(forward)) {
        lq_forward_run_down(forward, x, rows);
    }
}

void lq_forward_run_layer(struct lq_forward *forward, float *x, size_t sample_count, bool collect,
                          bool inputs_only)
{
    run_layer(forward, x, sample_count, NULL, collect, inputs_only);
}

/* The first place in the layer, as far as the newest batch left its values, where one is not
 * finite: behind or in front of a matrix. The layer had all_rows rows up to attention, query_rows
 * of them with queries, then `rows`. */
static enum lq_status name_nonfinite(struct lq_forward *forward, size_t all_rows, size_t query_rows,
                                     size_t rows, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    bool mixed = hparams->expert_count != 0;
    bool fused = lq_hparams_has(hparams, LQ_WEIGHT_ATTN_QKV);
    size_t slots = (size_t)lq_forward_slots(hparams, rows);
    size_t kv = lq_forward_kv_width(hparams);
    size_t q = lq_forward_q_width(hparams);
    enum lq_layer_weight down = mixed ? LQ_WEIGHT_FFN_DOWN_EXPS : LQ_WEIGHT_FFN_DOWN;
    const struct {
        const float *values;
        size_t count;
        const char *side;
        enum lq_layer_weight weight;
    } places[] = {
        {forward->q, query_rows * q, "behind", fused ? LQ_WEIGHT_ATTN_QKV : LQ_WEIGHT_ATTN_Q},
        {forward->k, all_rows * kv, "behind", fused ? LQ_WEIGHT_ATTN_QKV : LQ_WEIGHT_ATTN_K},
        {forward->v, all_rows * kv, "behind", fused ? LQ_WEIGHT_ATTN_QKV : LQ_WEIGHT_ATTN_V},
        {forward->attended, rows * q, "in front of", LQ_WEIGHT_ATTN_OUTPUT},
        {forward->up, slots * hparams->ffn_width, "behind",
         mixed ? LQ_WEIGHT_FFN_UP_EXPS : LQ_WEIGHT_FFN_UP},
        {forward->gate, slots * hparams->ffn_width, "in front of", down},
        {NULL, 0, "behind", down},
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        size_t count = places[i].count;
        if (places[i].values != NULL &&
            !lq_forward_stage_reads(forward->env.stage, places[i].weight)) {
            continue;
        }
        float *host = malloc((count + 1) * sizeof *host);
        if (host == NULL) {
            return lq_error_nomem(err, "activations");
        }
        forward->ops->download(forward->device, host, places[i].values, count * sizeof *host);
        bool finite = lq_kernels()->find_nonfinite(host, count) == count;
        free(host);
        if (!finite || places[i].values == NULL) {
            char name[LQ_WEIGHT_NAME_BYTES];
            return lq_error_set(err, forward->env.nonfinite_status,
                                "layer %u gives activations that are NaN or infinite, first %s "
                                "'%s'",
                                (unsigned)forward->layer, places[i].side,
                                lq_layer_weight_path(forward->layer, places[i].weight, name));
        }
    }
    return LQ_OK;
}

/* Squares of finite floats, and sums of them, are finite in double. */
static bool is_finite(struct lq_forward *forward, const float *x, size_t rows)
{
    size_t width = forward->hparams.width;
    if (forward->ops->host_visible) {
        return lq_kernels()->find_nonfinite(x, rows * width) == rows * width;
    }
    double *sums = malloc(width * sizeof *sums);
    bool finite = sums != NULL;
    forward->ops->zero(forward->device, forward->columns, width * sizeof *sums);
    forward->ops->add_squares(forward->device, x, rows, width, forward->columns);
    if (sums != NULL) {
        forward->ops->download(forward->device, sums, forward->columns, width * sizeof *sums);
    }
    for (size_t i = 0; finite && i < width; i++) {
        finite = isfinite(sums[i]);
    }
    free(sums);
    return finite;
}

enum lq_status lq_forward_fetch(struct lq_forward *forward, const float *from, size_t row_count,
                                float *host, struct lq_error *err)
{
    forward->ops->download(forward->device, host, from,
                           row_count * forward->hparams.width * sizeof *host);
    return lq_forward_check_device(forward, err);
}

/* Runs the layer; `wanted` NULL: for all rows of the samples. */
static enum lq_status run_samples(struct lq_forward *forward, const struct lq_forward_place *place,
                                  size_t sample_count, const struct wanted *wanted, bool collect,
                                  bool inputs_only, struct lq_error *err)
{
    if (sample_count > forward->batch_samples || !forward->has_layer) {
        return lq_error_set(err, LQ_EINTERNAL, "a batch of %zu samples for a layer that takes %zu",
                            sample_count, forward->batch_samples);
    }
    const struct lq_device_ops *ops = forward->ops;
    size_t width = forward->hparams.width;
    size_t all_rows = sample_count * forward->sequence;
    size_t rows = wanted == NULL ? all_rows : sample_count * wanted->count;
    float *x = place->to != NULL ? place->to : ops->host_visible ? place->host : forward->x;
    if (place->from != NULL) {
        ops->copy(forward->device, x, place->from, all_rows * width);
    } else if (x != place->host) {
        ops->upload(forward->device, x, place->host, all_rows * width * sizeof(float));
    }
    if (forward->env.stage == LQ_STAGE_WHOLE) {
        run_layer(forward, x, sample_count, wanted, collect, inputs_only);
    } else {
        run_stage(forward, x, sample_count, collect);
    }
    enum lq_status status = lq_forward_check_cancelled(forward, err);
    if (status == LQ_OK) {
        status = lq_forward_check_device(forward, err);
    }
    if (status != LQ_OK || inputs_only) {
        return status;
    }
    bool finite = is_finite(forward, x, rows);
    if (finite && place->to == NULL && x != place->host) {
        ops->download(forward->device, place->host, x, rows * width * sizeof(float));
    }
    status = lq_forward_check_device(forward, err);
    size_t query_rows = picks_queries(forward, wanted) ? rows : all_rows;
    return status == LQ_OK && !finite ? name_nonfinite(forward, all_rows, query_rows, rows, err)
                                      : status;
}

enum lq_status lq_forward_layer(struct lq_forward *forward, float *hidden, size_t sample_count,
                                bool collect, bool inputs_only, struct lq_error *err)
{
    const struct lq_forward_place place = {.host = hidden};
    return run_samples(forward, &place, sample_count, NULL, collect, inputs_only, err);
}

enum lq_status lq_forward_layer_at(struct lq_forward *forward, const struct lq_forward_place *place,
                                   size_t sample_count, bool collect, bool inputs_only,
                                   struct lq_error *err)
{
    return run_samples(forward, place, sample_count, NULL, collect, inputs_only, err);
}

enum lq_status lq_forward_layer_rows(struct lq_forward *forward,
                                     const struct lq_forward_place *place, size_t sample_count,
                                     size_t first, size_t count, struct lq_error *err)
{
    const struct wanted wanted = {first, count};
    /* Rows move down one sample after the other, so none may be overwritten before it moves. */
    if (count > first || first + count > forward->sequence) {
        return lq_error_set(err, LQ_EINTERNAL, "rows %zu to %zu of samples of %zu", first,
                            first + count, forward->sequence);
    }
    return run_samples(forward, place, sample_count, &wanted, false, false, err);
}

/* The matrix to name when an input is wrong: the first that reads it. */
static const char *name_of_input(const struct lq_hparams *hparams, uint32_t layer,
                                 enum lq_layer_input input, char name[LQ_WEIGHT_NAME_BYTES])
{
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (lq_hparams_has(hparams, weight) && lq_layer_weight_input(weight) == input) {
            return lq_layer_weight_path(layer, weight, name);
        }
    }
    return "?";
}

enum lq_status lq_forward_sums(struct lq_forward *forward, enum lq_layer_input input, double *sums,
                               struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t cols = lq_layer_input_cols(hparams, input);
    size_t count = cols * lq_layer_input_mats(hparams, input);
    if (count == 0) {
        return LQ_OK;
    }
    forward->ops->download(forward->device, sums, forward->sums[input], count * sizeof(double));
    enum lq_status status = lq_forward_check_device(forward, err);
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        if (!isfinite(sums[i])) {
            char name[LQ_WEIGHT_NAME_BYTES];
            status = lq_error_set(err, forward->env.nonfinite_status,
                                  "column %zu of the input of '%s' is NaN or infinite for some "
                                  "token",
                                  i % cols, name_of_input(hparams, forward->layer, input, name));
        }
    }
    return status;
}

void lq_forward_counts(const struct lq_forward *forward, enum lq_layer_input input,
                       uint64_t *counts)
{
    size_t mats = lq_layer_input_mats(&forward->hparams, input);
    if (input == LQ_INPUT_FFN_EXPS || input == LQ_INPUT_FFN_DOWN_EXPS) {
        memcpy(counts, forward->expert_rows, mats * sizeof *counts);
    } else {
        counts[0] = forward->row_count;
    }
}

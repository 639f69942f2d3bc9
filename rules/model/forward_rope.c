#include "rules/model/forward_parts.h"

#include <math.h>
#include <stdlib.h>

static enum lq_status read_factors(struct lq_forward *forward, size_t pairs, float *factors,
                                   struct lq_error *err)
{
    for (size_t i = 0; i < pairs; i++) {
        factors[i] = 1.0f;
    }
    if (!forward->hparams.rope_factors) {
        return LQ_OK;
    }
    const struct lq_model_tensor *tensor = NULL;
    const void *data = NULL;
    const struct lq_weight_source *source = &forward->env.weights;
    enum lq_status status = source->get(source->user, "rope_freqs.weight", &tensor, &data, err);
    if (status == LQ_OK && (tensor->ne[0] != pairs || tensor->ne[1] != 1)) {
        status = lq_error_set(err, LQ_EFORMAT,
                              "the tensor 'rope_freqs.weight' has %llu values, expected %zu",
                              (unsigned long long)tensor->ne[0], pairs);
    }
    if (status == LQ_OK) {
        status = lq_forward_decode(forward, tensor, data, factors, err);
    }
    for (size_t i = 0; status == LQ_OK && i < pairs; i++) {
        if (!(factors[i] > 0.0f)) {
            status =
                lq_error_set(err, LQ_EFORMAT, "value %zu of 'rope_freqs.weight' is not above 0", i);
        }
    }
    return status;
}

/* cos and sin of every position and pair, computed in double (Su and others, "RoFormer", 2021). */
enum lq_status lq_forward_make_rope(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t pairs = hparams->rope_dim / 2;
    float *factors = malloc(pairs * sizeof *factors);
    float *table = malloc(forward->sequence * pairs * 2 * sizeof *table);
    enum lq_status status = LQ_OK;
    if (factors == NULL || table == NULL) {
        status = lq_error_nomem(err, "rotary positions");
        goto out;
    }
    status = read_factors(forward, pairs, factors, err);
    if (status != LQ_OK) {
        goto out;
    }
    for (size_t i = 0; i < pairs; i++) {
        double frequency =
            pow(hparams->rope_freq_base, -2.0 * (double)i / (double)hparams->rope_dim) /
            (double)factors[i] / hparams->rope_scale;
        for (size_t p = 0; p < forward->sequence; p++) {
            table[(p * pairs + i) * 2] = (float)cos((double)p * frequency);
            table[(p * pairs + i) * 2 + 1] = (float)sin((double)p * frequency);
        }
    }
    size_t size_bytes = forward->sequence * pairs * 2 * sizeof *table;
    forward->rope = lq_forward_take(forward, size_bytes, 1);
    forward->ops->upload(forward->device, forward->rope, table, size_bytes);
    status = lq_forward_check_device(forward, err);
out:
    free(factors);
    free(table);
    return status;
}

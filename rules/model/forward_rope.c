#include "rules/model/forward_parts.h"

#include <math.h>
#include <stdlib.h>

enum { TASK_POSITIONS = 64 }; /* of rotary tables */

/* Reads a tensor of one positive divisor for each pair, and multiplies `factors` by it. */
static enum lq_status read_factors(struct lq_forward *forward, const char *name, size_t pairs,
                                   float *factors, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = NULL;
    const void *data = NULL;
    const struct lq_weight_source *source = &forward->env.weights;
    enum lq_status status = source->get(source->user, name, &tensor, &data, err);
    if (status == LQ_OK && (tensor->ne[0] != pairs || tensor->ne[1] != 1 || tensor->ne[2] != 1)) {
        status = lq_error_set(err, LQ_EFORMAT, "the tensor '%s' has %llu values, expected %zu",
                              name, (unsigned long long)tensor->ne[0], pairs);
    }
    if (status == LQ_OK) {
        status = lq_forward_decode(forward, tensor, data, factors, err);
    }
    for (size_t i = 0; status == LQ_OK && i < pairs; i++) {
        if (!(factors[i] > 0.0f)) {
            status = lq_error_set(err, LQ_EFORMAT, "value %zu of '%s' is not above 0", i, name);
        }
    }
    return status;
}

static enum lq_status find_factors(struct lq_forward *forward, size_t pairs, float *factors,
                                   struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    for (size_t i = 0; i < pairs; i++) {
        factors[i] = 1.0f;
    }
    if (hparams->rope_scaling == LQ_ROPE_LONGROPE) {
        bool is_long = forward->sequence > hparams->rope_original_context;
        return read_factors(forward,
                            is_long ? "rope_factors_long.weight" : "rope_factors_short.weight",
                            pairs, factors, err);
    }
    return hparams->rope_factors ? read_factors(forward, "rope_freqs.weight", pairs, factors, err)
                                 : LQ_OK;
}

/* The pair (as a real number) that turns `turns` times over the training length: YaRN, section 3.2,
 * solved for the pair. */
static double pair_of_turns(const struct lq_hparams *hparams, double turns)
{
    const double pi = 3.14159265358979323846;
    double length = (double)hparams->rope_original_context;
    return (double)hparams->rope_dim * log(length / (turns * 2.0 * pi)) /
           (2.0 * log(hparams->rope_freq_base));
}

/* How much of pair `i` keeps its frequency: 1 for those that turn often, 0 for those that do not
 * turn even once, and a ramp between. */
static double yarn_share(const struct lq_hparams *hparams, size_t i)
{
    double low = floor(pair_of_turns(hparams, hparams->rope_beta_fast));
    double high = ceil(pair_of_turns(hparams, hparams->rope_beta_slow));
    low = low < 0.0 ? 0.0 : low;
    high = high > (double)hparams->rope_dim - 1.0 ? (double)hparams->rope_dim - 1.0 : high;
    double width = high - low < 0.001 ? 0.001 : high - low;
    double ramp = ((double)i - low) / width;
    ramp = ramp < 0.0 ? 0.0 : ramp;
    return ramp > 1.0 ? 0.0 : 1.0 - ramp;
}

struct table_job {
    float *table;
    size_t pairs;
    size_t positions;
    const double *frequencies;
    double factor;
};

/* cos and sin of some positions and every pair, computed in double (Su and others, "RoFormer",
 * 2021). */
static void fill_positions(void *user, size_t index)
{
    const struct table_job *job = user;
    size_t first = index * TASK_POSITIONS;
    size_t end = first + TASK_POSITIONS < job->positions ? first + TASK_POSITIONS : job->positions;
    for (size_t p = first; p < end; p++) {
        float *row = job->table + p * job->pairs * 2;
        for (size_t i = 0; i < job->pairs; i++) {
            row[i * 2] = (float)(job->factor * cos((double)p * job->frequencies[i]));
            row[i * 2 + 1] = (float)(job->factor * sin((double)p * job->frequencies[i]));
        }
    }
}

static float *make_table(struct lq_forward *forward, size_t pairs, const double *frequencies,
                         double factor, struct lq_error *err)
{
    size_t size_bytes = forward->sequence * pairs * 2 * sizeof(float);
    float *table = malloc(size_bytes);
    if (table == NULL) {
        (void)lq_error_nomem(err, "rotary positions");
        return NULL;
    }
    struct table_job job = {table, pairs, forward->sequence, frequencies, factor};
    lq_pool_for(forward->env.pool, (forward->sequence + TASK_POSITIONS - 1) / TASK_POSITIONS,
                fill_positions, &job);
    float *memory = lq_forward_take(forward, size_bytes, 1);
    if (memory == NULL) {
        (void)lq_forward_check_device(forward, err);
    } else {
        forward->ops->upload(forward->device, memory, table, size_bytes);
    }
    free(table);
    return memory;
}

static void scaled_frequencies(const struct lq_hparams *hparams, size_t pairs, const float *factors,
                               double *out)
{
    for (size_t i = 0; i < pairs; i++) {
        double own = pow(hparams->rope_freq_base, -2.0 * (double)i / (double)hparams->rope_dim) /
                     (double)factors[i];
        double stretched = own / hparams->rope_scale;
        double share = hparams->rope_scaling == LQ_ROPE_YARN ? yarn_share(hparams, i) : 0.0;
        out[i] = share == 0.0 ? stretched : stretched * (1.0 - share) + own * share;
    }
}

enum lq_status lq_forward_make_rope(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t pairs = hparams->rope_dim / 2;
    float *factors = malloc(pairs * sizeof *factors);
    double *frequencies = malloc(pairs * sizeof *frequencies);
    enum lq_status status = LQ_OK;
    if (factors == NULL || frequencies == NULL) {
        status = lq_error_nomem(err, "rotary positions");
        goto out;
    }
    status = find_factors(forward, pairs, factors, err);
    if (status != LQ_OK) {
        goto out;
    }
    /* YaRN, section 3.4: scores are sharpened by a factor of cosines and sines. */
    double factor = hparams->rope_attn_factor;
    factor *= hparams->rope_scaling == LQ_ROPE_YARN ? 1.0 + 0.1 * log(hparams->rope_scale) : 1.0;
    scaled_frequencies(hparams, pairs, factors, frequencies);
    forward->rope = make_table(forward, pairs, frequencies, factor, err);
    forward->rope_windowed = forward->rope;
    if (forward->rope != NULL && hparams->rope_local && hparams->window != 0) {
        for (size_t i = 0; i < pairs; i++) {
            frequencies[i] =
                pow(hparams->rope_local_base, -2.0 * (double)i / (double)hparams->rope_dim);
        }
        forward->rope_windowed = make_table(forward, pairs, frequencies, 1.0, err);
    }
    status = forward->rope == NULL || forward->rope_windowed == NULL
                 ? LQ_ENOMEM
                 : lq_forward_check_device(forward, err);
out:
    free(factors);
    free(frequencies);
    return status;
}

const float *lq_forward_rope_of(const struct lq_forward *forward, uint32_t layer)
{
    return lq_hparams_is_windowed(&forward->hparams, layer) ? forward->rope_windowed
                                                            : forward->rope;
}

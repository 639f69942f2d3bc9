#include "rules/model/forward_parts.h"

#include <stdlib.h>

#include "kernels/device_rows.h"

/* Models with weights and activations of 8 bits round what goes into a matrix while they run, each
 * token by a scale of its own. Here the rounded values stay floats: products of whole numbers below
 * 128 are exact in 32 bits, so this is what an integer product gives, up to the order of sums. */

/* As much as the widest input of a batch. */
static bool take_room(struct lq_forward *forward)
{
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t rows = forward->batch_rows;
    uint64_t slots = lq_forward_slots(hparams, rows);
    uint64_t q = lq_forward_q_width(hparams);
    uint64_t count = rows * (q > hparams->width ? q : hparams->width);
    uint64_t ffn =
        slots * (hparams->ffn_width > hparams->width ? hparams->ffn_width : hparams->width);
    if (forward->rounded == NULL) {
        forward->rounded = lq_forward_take(forward, count > ffn ? count : ffn, sizeof(float));
    }
    return forward->rounded != NULL;
}

/* For a device without the operation. */
static void round_here(struct lq_forward *forward, const float *x, size_t rows, size_t cols)
{
    float *values = malloc((rows * cols + 1) * sizeof *values);
    if (values == NULL) {
        (void)lq_error_nomem(&forward->failure, "activations");
        return;
    }
    forward->ops->download(forward->device, values, x, rows * cols * sizeof *values);
    for (size_t r = 0; r < rows; r++) {
        lq_device_rows()->round_levels(values + r * cols, values + r * cols, cols);
    }
    forward->ops->upload(forward->device, forward->rounded, values, rows * cols * sizeof *values);
    free(values);
}

const float *lq_forward_rounded(struct lq_forward *forward, bool rounds, const float *x,
                                size_t rows, size_t cols)
{
    if (!rounds || !take_room(forward)) {
        return x;
    }
    if (forward->ops->round_rows != NULL) {
        forward->ops->round_rows(forward->device, x, forward->rounded, rows, cols);
    } else {
        round_here(forward, x, rows, cols);
    }
    return forward->rounded;
}

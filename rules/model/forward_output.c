#include "rules/model/forward_parts.h"

bool lq_forward_can_compare(const struct lq_forward *forward)
{
    return forward->ops->compare_logits != NULL;
}

enum lq_status lq_forward_load_output(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t vocab = hparams->vocab_size;
    lq_forward_give_layer(forward);
    lq_forward_give_output(forward);
    forward->output_norm = lq_forward_take(forward, hparams->width, sizeof(float));
    forward->output = lq_forward_take(forward, vocab * hparams->width, sizeof(float));
    forward->logits = lq_forward_take(forward, vocab * forward->logit_rows, sizeof(float));
    forward->targets = lq_forward_take(forward, forward->logit_rows, sizeof(int32_t));
    forward->nll = lq_forward_take(forward, forward->logit_rows, sizeof(double));
    if (lq_forward_can_compare(forward)) {
        forward->differences =
            lq_forward_take(forward, forward->logit_rows, sizeof *forward->differences);
    }
    enum lq_status status = lq_forward_check_device(forward, err);
    if (status == LQ_OK) {
        status = lq_forward_load_weight(forward, "output_norm.weight", hparams->width, 1,
                                        forward->output_norm, err);
    }
    const char *name = hparams->tied_output ? "token_embd.weight" : "output.weight";
    if (status == LQ_OK) {
        status = (forward->arranges ? lq_forward_load_arranged : lq_forward_load_weight)(
            forward, name, hparams->width, vocab, forward->output, err);
    }
    forward->output_rounds = forward->newest_rounds;
    if (status != LQ_OK) {
        lq_forward_give_output(forward);
    }
    return status;
}

/* Rows of host memory, behind the output norm in `normed`. */
static enum lq_status normalize_rows(struct lq_forward *forward, const float *hidden, size_t rows,
                                     struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    if (forward->output == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "the output matrix is not loaded");
    }
    enum lq_status status = lq_forward_check_cancelled(forward, err);
    if (status != LQ_OK) {
        return status;
    }
    const float *x = hidden;
    if (!ops->host_visible) {
        ops->upload(forward->device, forward->x, hidden, rows * hparams->width * sizeof(float));
        x = forward->x;
    }
    ops->rms_norm(forward->device, x, forward->output_norm, forward->normed, rows, hparams->width,
                  (float)hparams->norm_eps);
    return LQ_OK;
}

enum lq_status lq_forward_make_logits(struct lq_forward *forward, const float *hidden, size_t rows,
                                      struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    enum lq_status status = normalize_rows(forward, hidden, rows, err);
    if (status != LQ_OK) {
        return status;
    }
    const float *x =
        lq_forward_rounded(forward, forward->output_rounds, forward->normed, rows, hparams->width);
    lq_forward_multiply(forward, x, rows, hparams->width,
                        &(struct lq_product){forward->output, forward->logits, hparams->vocab_size},
                        1, forward->arranges);
    if (hparams->logit_cap != 0.0) {
        ops->soft_cap(forward->device, forward->logits, rows * hparams->vocab_size,
                      (float)hparams->logit_cap);
    }
    return lq_forward_check_device(forward, err);
}

/* Scores of at most logit_rows rows, out of their logits. */
static enum lq_status score_logits(struct lq_forward *forward, const float *hidden,
                                   const int32_t *targets, size_t rows, double *nll,
                                   struct lq_error *err)
{
    const struct lq_device_ops *ops = forward->ops;
    enum lq_status status = lq_forward_make_logits(forward, hidden, rows, err);
    if (status != LQ_OK) {
        return status;
    }
    ops->upload(forward->device, forward->targets, targets, rows * sizeof(int32_t));
    ops->cross_entropy(forward->device, forward->logits, forward->targets, rows,
                       forward->hparams.vocab_size, forward->nll);
    ops->download(forward->device, nll, forward->nll, rows * sizeof(double));
    return lq_forward_check_device(forward, err);
}

/* Scores of at most batch_rows rows, while logits come and go. */
static enum lq_status score_product(struct lq_forward *forward, const float *hidden,
                                    const int32_t *targets, size_t rows, double *nll,
                                    struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_product product = {.b = forward->output, .out_cols = hparams->vocab_size};
    enum lq_status status = normalize_rows(forward, hidden, rows, err);
    if (status == LQ_OK) {
        const float *x = lq_forward_rounded(forward, forward->output_rounds, forward->normed, rows,
                                            hparams->width);
        forward->ops->product_entropy(forward->device, x, rows, hparams->width, &product,
                                      (float)hparams->logit_cap, targets, nll);
        status = lq_forward_check_device(forward, err);
    }
    return status;
}

enum lq_status lq_forward_score(struct lq_forward *forward, const float *hidden,
                                const int32_t *targets, size_t row_count, double *nll,
                                struct lq_error *err)
{
    bool fused = forward->arranges && forward->ops->product_entropy != NULL;
    size_t most = fused ? forward->batch_rows : forward->logit_rows;
    for (size_t row = 0; row < row_count; row += most) {
        size_t left = row_count - row;
        enum lq_status status = (fused ? score_product : score_logits)(
            forward, hidden + row * forward->hparams.width, targets + row,
            left < most ? left : most, nll + row, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_forward_compare(const struct lq_forward_pair *pair, const int32_t *targets,
                                  size_t row_count, struct lq_logits_difference *out,
                                  struct lq_error *err)
{
    struct lq_forward *forward = pair->forward;
    struct lq_forward *original = pair->original;
    const struct lq_device_ops *ops = forward->ops;
    size_t tile =
        forward->logit_rows < original->logit_rows ? forward->logit_rows : original->logit_rows;
    for (size_t row = 0; row < row_count; row += tile) {
        size_t rows = row_count - row < tile ? row_count - row : tile;
        enum lq_status status = lq_forward_make_logits(
            original, pair->original_hidden + row * original->hparams.width, rows, err);
        if (status == LQ_OK) {
            status = lq_forward_make_logits(forward, pair->hidden + row * forward->hparams.width,
                                            rows, err);
        }
        if (status != LQ_OK) {
            return status;
        }
        ops->upload(forward->device, forward->targets, targets + row, rows * sizeof(int32_t));
        ops->compare_logits(forward->device, original->logits, forward->logits, forward->targets,
                            rows, forward->hparams.vocab_size, forward->differences);
        ops->download(forward->device, out + row, forward->differences, rows * sizeof *out);
        status = lq_forward_check_device(forward, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_forward_logits(struct lq_forward *forward, const float *hidden, size_t row_count,
                                 float *logits, struct lq_error *err)
{
    size_t vocab = forward->hparams.vocab_size;
    for (size_t row = 0; row < row_count; row += forward->logit_rows) {
        size_t left = row_count - row;
        size_t rows = left < forward->logit_rows ? left : forward->logit_rows;
        enum lq_status status =
            lq_forward_make_logits(forward, hidden + row * forward->hparams.width, rows, err);
        if (status != LQ_OK) {
            return status;
        }
        forward->ops->download(forward->device, logits + row * vocab, forward->logits,
                               rows * vocab * sizeof(float));
    }
    return lq_forward_check_device(forward, err);
}

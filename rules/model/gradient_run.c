#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/imatrix.h"
#include "rules/model/backward.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward_run.h"
#include "rules/model/gradient.h"
#include "rules/model/weight_stats.h"
#include "rules/quant/super_weights.h"

/* What the loss and a layer's backward step share. */
struct gradient_run {
    struct lq_calibrate_io io;
    struct lq_forward_run forward_run;
    struct lq_backward *backward;
    struct lq_forward *embedder; /* first layer only */
    float *hidden;               /* one batch */
    float *grad;                 /* one batch */
};

static enum lq_status gradient_open(struct gradient_run *gradient, struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    const struct lq_calibrate_layer *layer = io->layer;
    enum lq_status status = lq_forward_run_open(&gradient->forward_run, io->run, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_forward_run_hold(&gradient->forward_run, "grad");
    struct lq_weight_source weights = lq_calibrate_weights(io);
    struct lq_forward_env env = lq_forward_run_env(&gradient->forward_run, weights, LQ_EIMPORTANCE);
    status = lq_backward_create(&gradient->backward, &layer->hparams, &env, io->sequence_length,
                                &layer->options, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t rows = lq_backward_batch_samples(gradient->backward) * io->sequence_length;
    gradient->hidden = calloc(rows, layer->hparams.width * sizeof(float));
    gradient->grad = calloc(rows, layer->hparams.width * sizeof(float));
    return gradient->hidden == NULL || gradient->grad == NULL ? lq_error_nomem(err, "gradients")
                                                              : LQ_OK;
}

static void gradient_close(struct gradient_run *gradient)
{
    lq_backward_destroy(gradient->backward);
    lq_forward_run_close(&gradient->forward_run);
    free(gradient->hidden);
    free(gradient->grad);
}

/* Calls `body` for every batch of samples. */
static enum lq_status each_batch(struct gradient_run *gradient,
                                 enum lq_status (*body)(struct gradient_run *gradient,
                                                        size_t sample, size_t count,
                                                        struct lq_error *err),
                                 struct lq_error *err)
{
    const struct lq_calibrate_io *io = &gradient->io;
    size_t batch = lq_backward_batch_samples(gradient->backward);
    uint64_t total = (uint64_t)io->sample_count * io->sequence_length;
    enum lq_status status = LQ_OK;
    for (size_t s = 0; status == LQ_OK && s < io->sample_count; s += batch) {
        size_t left = io->sample_count - s;
        size_t count = left < batch ? left : batch;
        status = body(gradient, s, count, err);
        lq_run_progress(io->run, (uint64_t)(s + count) * io->sequence_length, total, "tokens");
    }
    return status;
}

static enum lq_status write_grad(struct gradient_run *gradient, size_t count, struct lq_error *err)
{
    const struct lq_calibrate_io *io = &gradient->io;
    size_t row_bytes = io->layer->hparams.width * sizeof(float);
    return lq_run_write(io->run, "grad", gradient->grad, count * io->sequence_length * row_bytes,
                        err);
}

/* ---- the loss ---- */

static enum lq_status loss_batch(struct gradient_run *gradient, size_t sample, size_t count,
                                 struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    enum lq_status status =
        lq_calibrate_read_rows(io, "hidden", sample, count, gradient->hidden, err);
    if (status == LQ_OK) {
        status = lq_backward_output(gradient->backward, gradient->hidden,
                                    io->tokens.tokens + sample * io->sequence_length, count,
                                    gradient->grad, err);
    }
    return status == LQ_OK ? write_grad(gradient, count, err) : status;
}

enum lq_status lq_gradient_run_loss(struct lq_run *run, struct lq_error *err)
{
    struct gradient_run gradient = {.io = {.run = run, .layer = lq_run_state(run)}};
    enum lq_status status = lq_calibrate_open_tokens(&gradient.io, err);
    if (status == LQ_OK) {
        status = lq_calibrate_open_rows(&gradient.io, "hidden", err);
    }
    if (status == LQ_OK) {
        status = gradient_open(&gradient, err);
    }
    if (status == LQ_OK) {
        status = lq_backward_load_output(gradient.backward, err);
    }
    if (status == LQ_OK) {
        status = lq_calibrate_write_header(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = each_batch(&gradient, loss_batch, err);
    }
    gradient_close(&gradient);
    return status;
}

/* ---- one layer ---- */

static enum lq_status layer_batch(struct gradient_run *gradient, size_t sample, size_t count,
                                  struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    bool is_first = io->layer->layer == 0;
    enum lq_status status =
        is_first ? lq_backward_embed(gradient->backward,
                                     io->tokens.tokens + sample * io->sequence_length,
                                     count * io->sequence_length, gradient->hidden, err)
                 : lq_calibrate_read_rows(io, "hidden", sample, count, gradient->hidden, err);
    if (status == LQ_OK) {
        status = lq_calibrate_read_rows(io, "grad", sample, count, gradient->grad, err);
    }
    if (status == LQ_OK) {
        status =
            lq_backward_layer(gradient->backward, gradient->hidden, gradient->grad, count, err);
    }
    return status == LQ_OK && !is_first ? write_grad(gradient, count, err) : status;
}

static enum lq_status write_ranks(struct gradient_run *gradient, enum lq_layer_weight weight,
                                  uint64_t elems, struct lq_error *err)
{
    const float *scores = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_backward_scores(gradient->backward, weight, &scores, err);
    if (status == LQ_OK) {
        status = lq_super_rank_scores(scores, elems, 1.0 / (double)gradient->io.sample_count,
                                      lq_gradient_rank_count(elems), &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(gradient->io.run, "ranks", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

/* Sums become means over the rows of a matrix. */
static enum lq_status add_matrix(struct gradient_run *gradient, enum lq_layer_weight weight,
                                 struct lq_weight_stats *stats, struct lq_error *err)
{
    const struct lq_hparams *hparams = &gradient->io.layer->hparams;
    uint64_t cols = 0;
    uint64_t rows = 0;
    uint64_t mats = lq_layer_weight_mats(hparams, weight);
    lq_layer_weight_shape(hparams, weight, &cols, &rows);
    enum lq_status status =
        lq_weight_stats_add(stats, lq_layer_weight_name(weight), (uint32_t)mats, (uint32_t)cols,
                            lq_run_arena(gradient->io.run), err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_weight_stats_matrix *matrix = &stats->matrices[stats->matrix_count - 1];
    lq_backward_counts(gradient->backward, weight, matrix->counts);
    status = lq_backward_sums(gradient->backward, weight, matrix->sums, err);
    for (size_t j = 0; j < mats * cols; j++) {
        matrix->sums[j] /= (double)rows;
    }
    return status == LQ_OK ? write_ranks(gradient, weight, cols * rows * mats, err) : status;
}

static enum lq_status write_stats(struct gradient_run *gradient, struct lq_error *err)
{
    const struct lq_calibrate_io *io = &gradient->io;
    struct lq_weight_stats stats = {.sample_count = io->sample_count,
                                    .sequence_length = io->sequence_length};
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (lq_hparams_has_matrix(&io->layer->hparams, (enum lq_layer_weight)w)) {
            status = add_matrix(gradient, (enum lq_layer_weight)w, &stats, err);
        }
    }
    if (status == LQ_OK) {
        status = lq_weight_stats_format(&stats, &bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(io->run, "stats", bytes.data, bytes.size_bytes, err);
    }
    lq_buffer_fini(&bytes);
    return status;
}

enum lq_status lq_gradient_run_layer(struct lq_run *run, struct lq_error *err)
{
    struct gradient_run gradient = {.io = {.run = run, .layer = lq_run_state(run)}};
    bool is_first = gradient.io.layer->layer == 0;
    enum lq_status status = is_first ? lq_calibrate_open_tokens(&gradient.io, err) : LQ_OK;
    if (status == LQ_OK && !is_first) {
        status = lq_calibrate_open_rows(&gradient.io, "hidden", err);
    }
    if (status == LQ_OK) {
        status = lq_calibrate_open_rows(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = gradient_open(&gradient, err);
    }
    if (status == LQ_OK) {
        status = lq_backward_load_layer(gradient.backward, gradient.io.layer->layer, err);
    }
    if (status == LQ_OK && !is_first) {
        status = lq_calibrate_write_header(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = each_batch(&gradient, layer_batch, err);
    }
    if (status == LQ_OK) {
        status = write_stats(&gradient, err);
    }
    gradient_close(&gradient);
    return status;
}

/* ---- the file ---- */

static enum lq_status add_entry(const struct lq_weight_stats_matrix *matrix, uint32_t layer,
                                struct lq_imatrix *imatrix, struct lq_arena *arena,
                                struct lq_error *err)
{
    struct lq_imatrix_entry *entry = &imatrix->entries[imatrix->entry_count++];
    size_t count = (size_t)matrix->mats * matrix->cols;
    float *sums = lq_arena_get_array(arena, count, sizeof *sums);
    float *counts = lq_arena_get_array(arena, matrix->mats, sizeof *counts);
    entry->name = lq_arena_printf(arena, "blk.%u.%s.weight", (unsigned)layer, matrix->name);
    if (sums == NULL || counts == NULL || entry->name == NULL) {
        return lq_error_nomem(err, "an imatrix");
    }
    for (size_t m = 0; m < matrix->mats; m++) {
        counts[m] = (float)matrix->counts[m];
    }
    for (size_t j = 0; j < count; j++) {
        sums[j] = (float)matrix->sums[j];
        if (!isfinite(sums[j])) {
            return lq_error_set(err, LQ_EIMPORTANCE,
                                "the sum of column %zu of '%s' does not fit a float",
                                j % matrix->cols, entry->name);
        }
    }
    entry->col_count = matrix->cols;
    entry->mat_count = matrix->mats;
    entry->count_count = matrix->mats;
    entry->sums = sums;
    entry->counts = counts;
    return LQ_OK;
}

static enum lq_status add_layer(struct lq_run *run, uint32_t layer, struct lq_imatrix *imatrix,
                                struct lq_calibrate_idle *idle, struct lq_error *err)
{
    char input[LQ_WEIGHT_NAME_BYTES];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_weight_stats stats;
    (void)snprintf(input, sizeof input, "stats.%u", (unsigned)layer);
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_weight_stats_parse(data, size_bytes, lq_run_arena(run), &stats, err);
    }
    for (size_t i = 0; status == LQ_OK && i < stats.matrix_count; i++) {
        const struct lq_weight_stats_matrix *matrix = &stats.matrices[i];
        imatrix->chunk_count = stats.sample_count;
        imatrix->chunk_size = stats.sequence_length;
        if (matrix->mats > 1 && strcmp(matrix->name, "ffn_down_exps") == 0) {
            lq_calibrate_count_idle(idle, layer, matrix->counts, matrix->mats);
        }
        status = add_entry(matrix, layer, imatrix, lq_run_arena(run), err);
    }
    return status;
}

enum lq_status lq_gradient_run_assemble(struct lq_run *run, struct lq_error *err)
{
    struct lq_hparams hparams;
    struct lq_calibrate_idle idle = {0};
    const char *dataset = lq_run_param(run, "dataset");
    const char *method = lq_run_param(run, "method");
    enum lq_status status = lq_hparams_parse(lq_run_param(run, "hparams"), &hparams, err);
    if (status != LQ_OK) {
        return status;
    }
    if (dataset == NULL || method == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "an imatrix without method or name of its data");
    }
    struct lq_imatrix imatrix = {
        .datasets = &dataset,
        .dataset_count = 1,
        .method = strcmp(method, "fisher") == 0 ? LQ_IMPORTANCE_FISHER : LQ_IMPORTANCE_GRADIENT,
    };
    imatrix.entries =
        lq_arena_get_array(lq_run_arena(run), (size_t)hparams.layer_count * LQ_LAYER_WEIGHT_COUNT,
                           sizeof *imatrix.entries);
    if (imatrix.entries == NULL) {
        return lq_error_nomem(err, "an imatrix");
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < hparams.layer_count; layer++) {
        status = add_layer(run, layer, &imatrix, &idle, err);
    }
    return status == LQ_OK ? lq_calibrate_finish(run, &imatrix, &idle, err) : status;
}

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/imatrix.h"
#include "rules/model/backward.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/device_team.h"
#include "rules/model/forward_run.h"
#include "rules/model/gradient.h"
#include "rules/model/weight_stats.h"
#include "rules/quant/super_weights.h"

/* Lanes of scores where a GPU computes them: up to so many share a step. */
enum { LANES = 4 };

/* Of a GPU's free memory what lanes may take. */
enum { LANES_SHARE = 4 };

/* What the loss and a layer's backward step share. */
struct gradient_run {
    struct lq_calibrate_io io;
    struct lq_forward_run forward_run;
    struct lq_backward *backwards[LQ_TEAM_MAX]; /* one for each device */
    struct lq_device_team team;
    size_t lanes;  /* of all devices; each has lanes / member_count */
    size_t round;  /* its number */
    size_t first;  /* its first sample */
    float *hidden; /* of a round */
    float *grad;
    /* With several devices: of all samples so far. */
    double *sums[LQ_LAYER_WEIGHT_COUNT];
};

/* The memory of the lanes behind the first. */
static uint64_t lane_bytes(const struct lq_hparams *hparams)
{
    uint64_t elems = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (lq_hparams_has_matrix(hparams, weight)) {
            uint64_t cols = 0;
            uint64_t rows = 0;
            lq_layer_weight_shape(hparams, weight, &cols, &rows);
            elems += cols * rows;
        }
    }
    return (LANES - 1) * elems * sizeof(float);
}

/* Scores are in lanes, batches in turns, whether there are several GPUs or one, so that their
 * number changes no bit. Not for experts, which would take all memory, nor for matrices in one,
 * whose sums are those of parts, batch by batch. */
static bool has_lanes(const struct gradient_run *gradient)
{
    const struct lq_hparams *hparams = &gradient->io.layer->hparams;
    return gradient->forward_run.is_gpu && hparams->expert_count == 0 &&
           !lq_hparams_has(hparams, LQ_WEIGHT_ATTN_QKV) &&
           !lq_hparams_has(hparams, LQ_WEIGHT_FFN_GATE_UP) &&
           lane_bytes(hparams) <= gradient->forward_run.memory_bytes / LANES_SHARE;
}

/* `keeps_scores`: a layer, whose devices must be a power of two; the loss of a batch is its own. */
static void take_devices(struct gradient_run *gradient, bool keeps_scores)
{
    struct lq_calibrate_io *io = &gradient->io;
    struct lq_device_team *team = &gradient->team;
    gradient->lanes = keeps_scores && has_lanes(gradient) ? LANES : 1;
    team->pool = lq_run_pool(io->run);
    team->user = gradient;
    team->sample_values = (size_t)io->sequence_length * io->layer->hparams.width;
    size_t wanted = lq_forward_wanted_samples(gradient->forward_run.device, io->sequence_length);
    size_t count = lq_device_team_take(&gradient->forward_run, io->sample_count, wanted,
                                       keeps_scores ? gradient->lanes : LQ_TEAM_MAX);
    team->member_count = count;
    while (keeps_scores && gradient->lanes % team->member_count != 0) {
        team->member_count--;
    }
}

static enum lq_status make_passes(struct gradient_run *gradient, struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    struct lq_device_team *team = &gradient->team;
    struct lq_gradient_options options = io->layer->options;
    enum lq_status status = LQ_OK;
    options.lanes = (gradient->lanes + team->member_count - 1) / team->member_count;
    options.apart = gradient->lanes > 1 && team->member_count > 1;
    for (size_t m = 0; status == LQ_OK && m < team->member_count; m++) {
        struct lq_forward_env env = lq_forward_run_env_of(&gradient->forward_run, m,
                                                          lq_calibrate_weights(io), LQ_EIMPORTANCE);
        status = lq_backward_create(&gradient->backwards[m], &io->layer->hparams, &env,
                                    io->sequence_length, &options, err);
        if (status == LQ_OK) {
            size_t most = lq_backward_batch_samples(gradient->backwards[m]);
            team->batch_samples = m == 0 || most < team->batch_samples ? most : team->batch_samples;
        }
    }
    return status;
}

static enum lq_status gradient_open(struct gradient_run *gradient, bool keeps_scores,
                                    struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    enum lq_status status = lq_forward_run_open(&gradient->forward_run, io->run, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_forward_run_hold(&gradient->forward_run, "grad");
    take_devices(gradient, keeps_scores);
    status = make_passes(gradient, err);
    if (status != LQ_OK) {
        return status;
    }
    const struct lq_device_team *team = &gradient->team;
    size_t samples = team->batch_samples * team->member_count;
    gradient->hidden = calloc(samples, team->sample_values * sizeof(float));
    gradient->grad = calloc(samples, team->sample_values * sizeof(float));
    return gradient->hidden == NULL || gradient->grad == NULL ? lq_error_nomem(err, "gradients")
                                                              : LQ_OK;
}

static void gradient_close(struct gradient_run *gradient)
{
    for (size_t m = 0; m < gradient->team.member_count; m++) {
        lq_backward_destroy(gradient->backwards[m]);
    }
    lq_forward_run_close(&gradient->forward_run);
    free(gradient->hidden);
    free(gradient->grad);
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        free(gradient->sums[w]);
    }
}

/* Calls `body` for every round of samples. */
static enum lq_status each_round(struct gradient_run *gradient,
                                 enum lq_status (*body)(struct gradient_run *gradient,
                                                        size_t sample, size_t count,
                                                        struct lq_error *err),
                                 struct lq_error *err)
{
    const struct lq_calibrate_io *io = &gradient->io;
    size_t round = gradient->team.batch_samples * gradient->team.member_count;
    uint64_t total = (uint64_t)io->sample_count * io->sequence_length;
    enum lq_status status = LQ_OK;
    for (size_t s = 0; status == LQ_OK && s < io->sample_count; s += round) {
        size_t left = io->sample_count - s;
        size_t count = left < round ? left : round;
        gradient->first = s;
        gradient->round = s / round;
        status = body(gradient, s, count, err);
        lq_run_progress(io->run, (uint64_t)(s + count) * io->sequence_length, total, "tokens");
    }
    return status;
}

static enum lq_status write_grad(struct gradient_run *gradient, size_t count, struct lq_error *err)
{
    const struct lq_calibrate_io *io = &gradient->io;
    return lq_run_write(io->run, "grad", gradient->grad,
                        count * gradient->team.sample_values * sizeof(float), err);
}

/* The gradients of a batch. */
static float *grad_of(const struct gradient_run *gradient, size_t sample)
{
    return gradient->grad + (sample - gradient->first) * gradient->team.sample_values;
}

/* ---- the loss ---- */

static enum lq_status loss_batch(void *user, size_t member, size_t sample, size_t count,
                                 float *hidden, struct lq_error *err)
{
    struct gradient_run *gradient = user;
    const struct lq_calibrate_io *io = &gradient->io;
    return lq_backward_output(gradient->backwards[member], hidden,
                              io->tokens.tokens + sample * io->sequence_length, count,
                              grad_of(gradient, sample), err);
}

static enum lq_status loss_round(struct gradient_run *gradient, size_t sample, size_t count,
                                 struct lq_error *err)
{
    enum lq_status status =
        lq_calibrate_read_rows(&gradient->io, "hidden", sample, count, gradient->hidden, err);
    if (status == LQ_OK) {
        status = lq_device_team_run(&gradient->team, sample, count, gradient->hidden, err);
    }
    return status == LQ_OK ? write_grad(gradient, count, err) : status;
}

enum lq_status lq_gradient_run_loss(struct lq_run *run, struct lq_error *err)
{
    struct gradient_run gradient = {.io = {.run = run, .layer = lq_run_state(run)},
                                    .team = {.body = loss_batch}};
    enum lq_status status = lq_calibrate_open_tokens(&gradient.io, err);
    if (status == LQ_OK) {
        status = lq_calibrate_open_rows(&gradient.io, "hidden", err);
    }
    if (status == LQ_OK) {
        status = gradient_open(&gradient, false, err);
    }
    for (size_t m = 0; status == LQ_OK && m < gradient.team.member_count; m++) {
        status = lq_backward_load_output(gradient.backwards[m], err);
    }
    if (status == LQ_OK) {
        status = lq_calibrate_write_header(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = each_round(&gradient, loss_round, err);
    }
    gradient_close(&gradient);
    return status;
}

/* ---- one layer ---- */

static bool is_apart(const struct gradient_run *gradient)
{
    return gradient->team.member_count > 1;
}

static enum lq_status layer_batch(void *user, size_t member, size_t sample, size_t count,
                                  float *hidden, struct lq_error *err)
{
    struct gradient_run *gradient = user;
    struct lq_backward *backward = gradient->backwards[member];
    size_t lanes = gradient->lanes / gradient->team.member_count;
    lq_backward_use_lane(backward, gradient->round % lanes);
    return lq_backward_layer(backward, hidden, grad_of(gradient, sample), count, err);
}

/* Sums of each sample, in the order of samples. */
static enum lq_status collect_sums(struct gradient_run *gradient, size_t count,
                                   struct lq_error *err)
{
    const struct lq_hparams *hparams = &gradient->io.layer->hparams;
    size_t batches = (count + gradient->team.batch_samples - 1) / gradient->team.batch_samples;
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        size_t cols = lq_hparams_has_matrix(hparams, weight)
                          ? lq_layer_input_cols(hparams, lq_layer_weight_input(weight))
                          : 0;
        if (cols != 0 && gradient->sums[w] == NULL) {
            gradient->sums[w] = calloc(cols, sizeof *gradient->sums[w]);
            status = gradient->sums[w] == NULL ? lq_error_nomem(err, "sums of gradients") : LQ_OK;
        }
        for (size_t m = 0; status == LQ_OK && cols != 0 && m < batches; m++) {
            status = lq_backward_add_sums(gradient->backwards[m], weight, gradient->sums[w], err);
        }
    }
    return status;
}

static enum lq_status layer_round(struct gradient_run *gradient, size_t sample, size_t count,
                                  struct lq_error *err)
{
    struct lq_calibrate_io *io = &gradient->io;
    bool is_first = io->layer->layer == 0;
    enum lq_status status =
        is_first ? lq_backward_embed(gradient->backwards[0],
                                     io->tokens.tokens + sample * io->sequence_length,
                                     count * io->sequence_length, gradient->hidden, err)
                 : lq_calibrate_read_rows(io, "hidden", sample, count, gradient->hidden, err);
    if (status == LQ_OK) {
        status = lq_calibrate_read_rows(io, "grad", sample, count, gradient->grad, err);
    }
    if (status == LQ_OK) {
        status = lq_device_team_run(&gradient->team, sample, count, gradient->hidden, err);
    }
    if (status == LQ_OK && is_apart(gradient)) {
        status = collect_sums(gradient, count, err);
    }
    return status == LQ_OK && !is_first ? write_grad(gradient, count, err) : status;
}

/* Lanes that are apart are added as one device adds its own (lq_backward_scores): the first half of
 * the devices get what the second half has, and so on. One device has them all: nothing is copied.
 */
static enum lq_status join_scores(struct gradient_run *gradient, enum lq_layer_weight weight,
                                  size_t elems, float **parts, const float **scores,
                                  struct lq_error *err)
{
    size_t members = gradient->team.member_count;
    enum lq_status status = LQ_OK;
    for (size_t m = 0; status == LQ_OK && m < members; m++) {
        status = lq_backward_scores(gradient->backwards[m], weight, scores, err);
        if (status == LQ_OK && members > 1) {
            parts[m] = malloc(elems * sizeof(float) + 1);
            status = parts[m] == NULL ? lq_error_nomem(err, "scores of weights") : LQ_OK;
        }
        if (status == LQ_OK && members > 1) {
            memcpy(parts[m], *scores, elems * sizeof(float));
        }
    }
    for (size_t half = members / 2; status == LQ_OK && half > 0; half /= 2) {
        for (size_t m = 0; m < half; m++) {
            for (size_t i = 0; i < elems; i++) {
                parts[m][i] += parts[m + half][i];
            }
        }
    }
    *scores = members > 1 ? parts[0] : *scores;
    return status;
}

static enum lq_status write_ranks(struct gradient_run *gradient, enum lq_layer_weight weight,
                                  uint64_t elems, struct lq_error *err)
{
    float *parts[LQ_TEAM_MAX] = {NULL};
    const float *scores = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = join_scores(gradient, weight, (size_t)elems, parts, &scores, err);
    if (status == LQ_OK) {
        status = lq_super_rank_scores(scores, elems, 1.0 / (double)gradient->io.sample_count,
                                      lq_gradient_rank_count(elems), &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(gradient->io.run, "ranks", out.data, out.size_bytes, err);
    }
    for (size_t m = 0; m < LQ_TEAM_MAX; m++) {
        free(parts[m]);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status take_sums(struct gradient_run *gradient, enum lq_layer_weight weight,
                                struct lq_weight_stats_matrix *matrix, struct lq_error *err)
{
    if (!is_apart(gradient)) {
        lq_backward_counts(gradient->backwards[0], weight, matrix->counts);
        return lq_backward_sums(gradient->backwards[0], weight, matrix->sums, err);
    }
    matrix->counts[0] = gradient->io.sample_count;
    memcpy(matrix->sums, gradient->sums[weight], matrix->cols * sizeof *matrix->sums);
    return LQ_OK;
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
    status = take_sums(gradient, weight, matrix, err);
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
    struct gradient_run gradient = {.io = {.run = run, .layer = lq_run_state(run)},
                                    .team = {.body = layer_batch}};
    bool is_first = gradient.io.layer->layer == 0;
    enum lq_status status = is_first ? lq_calibrate_open_tokens(&gradient.io, err) : LQ_OK;
    if (status == LQ_OK && !is_first) {
        status = lq_calibrate_open_rows(&gradient.io, "hidden", err);
    }
    if (status == LQ_OK) {
        status = lq_calibrate_open_rows(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = gradient_open(&gradient, true, err);
    }
    for (size_t m = 0; status == LQ_OK && m < gradient.team.member_count; m++) {
        status = lq_backward_load_layer(gradient.backwards[m], gradient.io.layer->layer, err);
    }
    if (status == LQ_OK) {
        lq_forward_run_expect(&gradient.forward_run, &gradient.io.layer->hparams);
    }
    if (status == LQ_OK && !is_first) {
        status = lq_calibrate_write_header(&gradient.io, "grad", err);
    }
    if (status == LQ_OK) {
        status = each_round(&gradient, layer_round, err);
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

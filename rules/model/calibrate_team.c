#include "rules/model/calibrate_team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/base/pool.h"
#include "rules/model/device_states.h"
#include "rules/model/forward.h"

enum { MEMBERS_MAX = LQ_FORWARD_MORE_MAX + 1 };

/* A GPU and its samples. */
struct member {
    struct lq_forward *forward;
    float *hidden; /* of a batch */
    size_t first, end;
    enum lq_status status;
    struct lq_error err;
};

struct team {
    const struct lq_calibrate_team *plan;
    struct lq_calibrate_io *io;
    struct member members[MEMBERS_MAX];
    size_t ends[MEMBERS_MAX];
    size_t count;
    size_t batch;       /* samples */
    size_t batch_count; /* of all members */
    struct lq_device_states *in, *out;
    size_t sum_count;          /* columns of all inputs */
    double *sums;              /* [batch_count x sum_count] */
    pthread_mutex_t embedding; /* inputs are loaded by one at a time */
    atomic_bool stops;         /* somebody has failed */
    atomic_size_t samples_done;
};

/* ---- a member ---- */

static enum lq_status run_samples(struct team *team, struct member *member, size_t sample,
                                  size_t count, struct lq_error *err)
{
    const struct lq_calibrate_io *io = team->io;
    const struct lq_forward_place place = {.host = member->hidden,
                                           .from = lq_device_states_at(team->in, sample),
                                           .to = lq_device_states_at(team->out, sample)};
    size_t rows = count * io->sequence_length;
    enum lq_status status = LQ_OK;
    if (team->plan->is_first) {
        (void)pthread_mutex_lock(&team->embedding);
        status = lq_forward_embed(member->forward, io->tokens.tokens + sample * io->sequence_length,
                                  rows, member->hidden, err);
        (void)pthread_mutex_unlock(&team->embedding);
    } else if (team->in == NULL) {
        status = lq_calibrate_read_rows(io, "hidden", sample, count, member->hidden, err);
    }
    return status == LQ_OK ? lq_forward_layer_at(member->forward, &place, count, true,
                                                 team->plan->inputs_only, err)
                           : status;
}

/* What the batch has added, and zeros again. */
static enum lq_status collect(struct team *team, struct member *member, size_t batch,
                              struct lq_error *err)
{
    double *to = team->sums + batch * team->sum_count;
    enum lq_status status = LQ_OK;
    for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
        status = lq_forward_sums(member->forward, (enum lq_layer_input)i, to, err);
        to += lq_layer_input_cols(&team->io->layer->hparams, (enum lq_layer_input)i);
    }
    lq_forward_restart_sums(member->forward);
    return status;
}

static enum lq_status run_member(struct team *team, struct member *member, struct lq_error *err)
{
    const struct lq_calibrate_io *io = team->io;
    size_t most = lq_forward_batch_samples(member->forward);
    enum lq_status status = LQ_OK;
    for (size_t s = member->first; status == LQ_OK && s < member->end; s += team->batch) {
        size_t end = member->end - s < team->batch ? member->end : s + team->batch;
        for (size_t at = s; status == LQ_OK && at < end; at += most) {
            status = run_samples(team, member, at, end - at < most ? end - at : most, err);
        }
        status = status == LQ_OK ? collect(team, member, s / team->batch, err) : status;
        if (status == LQ_OK && atomic_load(&team->stops)) {
            return LQ_OK; /* another one says why */
        }
        size_t done = atomic_fetch_add(&team->samples_done, end - s) + end - s;
        lq_run_progress(io->run, (uint64_t)done * io->sequence_length,
                        (uint64_t)io->sample_count * io->sequence_length, "tokens");
    }
    return status;
}

static void member_body(void *user, size_t index)
{
    struct team *team = user;
    struct member *member = &team->members[index];
    member->status = run_member(team, member, &member->err);
    if (member->status != LQ_OK) {
        atomic_store(&team->stops, true);
    }
}

/* ---- all ---- */

/* Who has which samples: whole batches, as many as there are for everybody. */
static bool divide(struct team *team)
{
    const struct lq_calibrate_io *io = team->io;
    const struct lq_forward_run *forward_run = team->plan->forward_run;
    team->batch = lq_forward_wanted_samples(forward_run->device, io->sequence_length);
    team->batch_count = (io->sample_count + team->batch - 1) / team->batch;
    team->count = forward_run->more_count + 1;
    team->count = team->count < team->batch_count ? team->count : team->batch_count;
    for (size_t i = 0; i < team->count; i++) {
        size_t end = team->batch_count * (i + 1) / team->count * team->batch;
        team->ends[i] = end < io->sample_count ? end : io->sample_count;
        team->members[i].first = i == 0 ? 0 : team->ends[i - 1];
        team->members[i].end = team->ends[i];
    }
    return team->count > 1;
}

/* False where states must be written: they are in the order of samples only with one device. */
static bool hold(struct team *team)
{
    struct lq_calibrate_io *io = team->io;
    struct lq_forward_run *forward_run = team->plan->forward_run;
    const struct lq_hidden_shape shape = {.sample_count = io->sample_count,
                                          .sequence_length = io->sequence_length,
                                          .width = io->layer->hparams.width,
                                          .is_bf16 = io->layer->hidden_bf16};
    if (!team->plan->is_first) {
        team->in = lq_device_states_find_parts(forward_run, "hidden", team->ends, team->count);
    }
    if (!team->plan->inputs_only) {
        team->out =
            lq_device_states_hold_parts(forward_run, "hidden", &shape, team->ends, team->count);
    }
    return team->plan->inputs_only || team->out != NULL;
}

static enum lq_status add_member(struct team *team, size_t index, struct lq_error *err)
{
    struct member *member = &team->members[index];
    struct lq_calibrate_io *io = team->io;
    const struct lq_calibrate_layer *layer = io->layer;
    struct lq_forward_env env = lq_forward_run_env_of(team->plan->forward_run, index,
                                                      lq_calibrate_weights(io), LQ_EIMPORTANCE);
    env.only_products = true;
    env.pool = NULL; /* its threads are the members' */
    enum lq_status status =
        lq_forward_create(&member->forward, &layer->hparams, &env, io->sequence_length, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t rows = lq_forward_batch_samples(member->forward) * io->sequence_length;
    member->hidden = calloc(rows, layer->hparams.width * sizeof(float));
    return member->hidden == NULL ? lq_error_nomem(err, "hidden states")
                                  : lq_forward_load_layer(member->forward, layer->layer, err);
}

static enum lq_status add_up(struct team *team, struct lq_layer_stats *stats, struct lq_error *err)
{
    stats->sample_count = team->io->sample_count;
    stats->sequence_length = team->io->sequence_length;
    lq_layer_stats_shape(stats, &team->io->layer->hparams);
    enum lq_status status = lq_layer_stats_alloc(stats, lq_run_arena(team->io->run), err);
    size_t at = 0;
    for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = stats->cols[i];
        for (size_t m = 0; m < team->count && cols != 0; m++) {
            uint64_t rows = 0;
            lq_forward_counts(team->members[m].forward, (enum lq_layer_input)i, &rows);
            stats->counts[i][0] = (m == 0 ? 0 : stats->counts[i][0]) + rows;
        }
        for (size_t j = 0; j < cols; j++) {
            double sum = 0.0;
            for (size_t b = 0; b < team->batch_count; b++) {
                sum += team->sums[b * team->sum_count + at + j];
            }
            stats->sums[i][j] = sum;
        }
        at += cols;
    }
    return status;
}

static enum lq_status run_all(struct team *team, struct lq_layer_stats *stats, struct lq_error *err)
{
    const struct lq_hparams *hparams = &team->io->layer->hparams;
    enum lq_status status = LQ_OK;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        team->sum_count += lq_layer_input_cols(hparams, (enum lq_layer_input)i);
    }
    team->sums = calloc(team->batch_count, team->sum_count * sizeof *team->sums);
    if (team->sums == NULL) {
        return lq_error_nomem(err, "sums");
    }
    for (size_t i = 0; status == LQ_OK && i < team->count; i++) {
        status = add_member(team, i, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_forward_run_expect(team->plan->forward_run, hparams);
    lq_pool_for(lq_run_pool(team->io->run), team->count, member_body, team);
    for (size_t i = 0; i < team->count; i++) {
        if (team->members[i].status != LQ_OK) {
            *err = team->members[i].err;
            return team->members[i].status;
        }
    }
    return add_up(team, stats, err);
}

enum lq_status lq_calibrate_run_team(const struct lq_calibrate_team *plan,
                                     struct lq_layer_stats *stats, bool *done, struct lq_error *err)
{
    struct team *team = calloc(1, sizeof *team);
    *done = false;
    if (team == NULL) {
        return lq_error_nomem(err, "a layer");
    }
    enum lq_status status = LQ_OK;
    team->plan = plan;
    team->io = plan->io;
    (void)pthread_mutex_init(&team->embedding, NULL);
    if (divide(team) && hold(team)) {
        *done = true;
        status = run_all(team, stats, err);
    }
    for (size_t i = 0; i < team->count; i++) {
        lq_forward_destroy(team->members[i].forward);
        free(team->members[i].hidden);
    }
    (void)pthread_mutex_destroy(&team->embedding);
    free(team->sums);
    free(team);
    return status;
}

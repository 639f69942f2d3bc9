#include "rules/model/device_team.h"

struct round {
    const struct lq_device_team *team;
    size_t sample, count;
    float *rows;
    struct lq_error errors[LQ_TEAM_MAX];
};

static void run_batch(void *user, size_t member)
{
    struct round *round = user;
    const struct lq_device_team *team = round->team;
    size_t skipped = member * team->batch_samples;
    size_t left = round->count - skipped;
    float *rows = round->rows == NULL ? NULL : round->rows + skipped * team->sample_values;
    (void)team->body(team->user, member, round->sample + skipped,
                     left < team->batch_samples ? left : team->batch_samples, rows,
                     &round->errors[member]);
}

enum lq_status lq_device_team_run(const struct lq_device_team *team, size_t sample, size_t count,
                                  float *rows, struct lq_error *err)
{
    struct round round = {.team = team, .sample = sample, .count = count, .rows = rows};
    size_t batches = (count + team->batch_samples - 1) / team->batch_samples;
    lq_pool_for(batches > 1 ? team->pool : NULL, batches, run_batch, &round);
    for (size_t i = 0; i < batches; i++) {
        if (round.errors[i].status != LQ_OK) {
            return lq_error_set(err, round.errors[i].status, "%s", round.errors[i].message);
        }
    }
    return LQ_OK;
}

size_t lq_device_team_take(struct lq_forward_run *forward_run, size_t sample_count,
                           size_t batch_samples, size_t most)
{
    size_t batches = (sample_count + batch_samples - 1) / batch_samples;
    lq_forward_run_take_more(forward_run, batches < most ? batches : most);
    return forward_run->more_count + 1;
}

#include "rules/model/batch_flow.h"

#include <stdbool.h>
#include <stdlib.h>

#include "engine/base/checked.h"

enum { SLOTS = 3 }; /* batches in memory: written, computed, read */

struct turn {
    const struct lq_batch_flow *flow;
    float *rows[SLOTS];
    size_t batch; /* that is computed; the number of batches when only the last one is written */
    struct lq_error write_error;
    struct lq_error compute_error;
    struct lq_error read_error;
};

static size_t count_batches(const struct lq_batch_flow *flow)
{
    return (flow->sample_count + flow->batch_samples - 1) / flow->batch_samples;
}

static enum lq_status call(const struct turn *turn, lq_batch_fn fn, size_t batch,
                           struct lq_error *err)
{
    const struct lq_batch_flow *flow = turn->flow;
    size_t sample = batch * flow->batch_samples;
    size_t left = flow->sample_count - sample;
    size_t count = left < flow->batch_samples ? left : flow->batch_samples;
    return fn == NULL ? LQ_OK : fn(flow->user, sample, count, turn->rows[batch % SLOTS], err);
}

/* The first piece is the caller's own, see lq_pool_for. */
static void run_piece(void *user, size_t index)
{
    struct turn *turn = user;
    const struct lq_batch_flow *flow = turn->flow;
    size_t count = count_batches(flow);
    if (index == 0) {
        if (turn->batch < count) {
            (void)call(turn, flow->compute, turn->batch, &turn->compute_error);
        }
        return;
    }
    enum lq_status status = LQ_OK;
    if (turn->batch > 0) {
        status = call(turn, flow->write, turn->batch - 1, &turn->write_error);
    }
    if (status == LQ_OK && turn->batch + 1 < count) {
        (void)call(turn, flow->read, turn->batch + 1, &turn->read_error);
    }
}

static enum lq_status take_turn(struct turn *turn, struct lq_error *err)
{
    const struct lq_batch_flow *flow = turn->flow;
    struct lq_error *const errors[] = {&turn->write_error, &turn->compute_error, &turn->read_error};
    bool beside = (flow->write != NULL && turn->batch > 0) ||
                  (flow->read != NULL && turn->batch + 1 < count_batches(flow));
    lq_pool_for(flow->pool, beside ? 2 : 1, run_piece, turn);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i]->status != LQ_OK) {
            return lq_error_set(err, errors[i]->status, "%s", errors[i]->message);
        }
    }
    return LQ_OK;
}

enum lq_status lq_batch_flow_run(const struct lq_batch_flow *flow, struct lq_error *err)
{
    struct turn turn = {.flow = flow};
    size_t count = count_batches(flow);
    uint64_t values = 0;
    bool failed = !lq_mul_u64(flow->batch_samples, flow->sample_values, &values) ||
                  values > SIZE_MAX / sizeof(float);
    for (size_t i = 0; i < SLOTS && i < count && !failed; i++) {
        turn.rows[i] = calloc((size_t)values, sizeof(float));
        failed = turn.rows[i] == NULL;
    }
    enum lq_status status = failed ? lq_error_nomem(err, "hidden states") : LQ_OK;
    if (status == LQ_OK && count > 0) {
        status = call(&turn, flow->read, 0, err);
    }
    for (turn.batch = 0; status == LQ_OK && turn.batch <= count; turn.batch++) {
        status = take_turn(&turn, err);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        free(turn.rows[i]);
    }
    return status;
}

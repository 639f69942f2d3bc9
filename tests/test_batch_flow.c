/* Batches that are read, computed and written at the same time: order, content and errors. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "rules/model/batch_flow.h"

enum { SAMPLES = 23, VALUES = 5 };

struct log {
    float in[SAMPLES * VALUES];
    float out[SAMPLES * VALUES];
    size_t read;
    size_t computed;
    size_t written;
    size_t fail_at; /* computing this sample fails */
    size_t lose_at; /* writing this sample fails */
};

static enum lq_status read_rows(void *user, size_t sample, size_t count, float *rows,
                                struct lq_error *err)
{
    struct log *log = user;
    (void)err;
    cr_assert_eq(sample, log->read);
    log->read += count;
    memcpy(rows, log->in + sample * VALUES, count * VALUES * sizeof *rows);
    return LQ_OK;
}

static enum lq_status double_rows(void *user, size_t sample, size_t count, float *rows,
                                  struct lq_error *err)
{
    struct log *log = user;
    cr_assert_eq(sample, log->computed);
    log->computed += count;
    if (log->fail_at >= sample && log->fail_at < sample + count) {
        return lq_error_set(err, LQ_EFAIL, "computing %zu", sample);
    }
    for (size_t i = 0; i < count * VALUES; i++) {
        rows[i] *= 2.0f;
    }
    return LQ_OK;
}

static enum lq_status write_rows(void *user, size_t sample, size_t count, float *rows,
                                 struct lq_error *err)
{
    struct log *log = user;
    cr_assert_eq(sample, log->written);
    if (log->lose_at >= sample && log->lose_at < sample + count) {
        return lq_error_set(err, LQ_EIO, "writing %zu", sample);
    }
    log->written += count;
    memcpy(log->out + sample * VALUES, rows, count * VALUES * sizeof *rows);
    return LQ_OK;
}

static enum lq_status run(struct log *log, unsigned threads, size_t batch, struct lq_error *err)
{
    struct lq_pool *pool = NULL;
    log->read = log->computed = log->written = 0;
    for (size_t i = 0; i < SAMPLES * VALUES; i++) {
        log->in[i] = (float)i;
        log->out[i] = -1.0f;
    }
    cr_assert_eq(lq_pool_create(&pool, threads, NULL), LQ_OK);
    const struct lq_batch_flow flow = {.pool = pool,
                                       .sample_count = SAMPLES,
                                       .batch_samples = batch,
                                       .sample_values = VALUES,
                                       .read = read_rows,
                                       .compute = double_rows,
                                       .write = write_rows,
                                       .user = log};
    enum lq_status status = lq_batch_flow_run(&flow, err);
    lq_pool_destroy(pool);
    return status;
}

Test(batch_flow, every_row_passes_in_order)
{
    static struct log log = {.fail_at = SIZE_MAX, .lose_at = SIZE_MAX};
    for (unsigned threads = 1; threads <= 3; threads++) {
        for (size_t batch = 1; batch <= SAMPLES + 1; batch++) {
            cr_assert_eq(run(&log, threads, batch, NULL), LQ_OK);
            cr_assert_eq(log.written, SAMPLES);
            for (size_t i = 0; i < SAMPLES * VALUES; i++) {
                cr_assert_eq(log.out[i], 2.0f * (float)i);
            }
        }
    }
}

Test(batch_flow, the_first_failure_ends_it)
{
    static struct log log;
    struct lq_error err;
    for (unsigned threads = 1; threads <= 3; threads++) {
        log.fail_at = 9;
        log.lose_at = SIZE_MAX;
        lq_error_clear(&err);
        cr_assert_eq(run(&log, threads, 4, &err), LQ_EFAIL);
        cr_assert_str_eq(err.message, "computing 8");
        cr_assert_eq(log.written, 8);
        log.lose_at = 5;
        lq_error_clear(&err);
        cr_assert_eq(run(&log, threads, 4, &err), LQ_EIO);
        cr_assert_str_eq(err.message, "writing 4");
    }
}

Test(batch_flow, no_samples_and_too_many_values)
{
    struct lq_batch_flow flow = {.batch_samples = 4, .sample_values = VALUES};
    struct lq_error err;
    lq_error_clear(&err);
    cr_assert_eq(lq_batch_flow_run(&flow, &err), LQ_OK);
    flow.sample_count = 1;
    flow.sample_values = SIZE_MAX / 8;
    cr_assert_eq(lq_batch_flow_run(&flow, &err), LQ_ENOMEM);
}

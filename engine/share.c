/* Remotes, as the build uses them: it asks them for what the cache does not have, and sends them
 * what it has built. All of it happens on the remote's own threads, so that neither the build's
 * thread nor a computing one ever waits for a network. */
#include <stdlib.h>

#include "engine/build_state.h"

bool lq_share_can_ask(const struct lq_build *build)
{
    const struct lq_build_options *options = build->options;
    return options->remote != NULL && !options->dry_run && !options->force && !build->stopping &&
           lq_remote_can_get(options->remote);
}

static void perform_ask(struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    uint64_t start = lq_clock_ns();
    job->got = lq_remote_get(job->build->options->remote, &job->key, job->want, job->listed,
                             job->listed_count);
    job->seconds = (double)(lq_clock_ns() - start) * 1e-9;
}

static void perform_send(struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    job->got = lq_remote_put(job->build->options->remote, &job->key);
}

/* Frees the job when it cannot be handed over. */
static bool submit(struct lq_build *build, struct lq_job *job, const struct lq_digest *key,
                   bool sends)
{
    struct lq_executor *executor = build->executor;
    struct lq_pool *pool = lq_remote_pool(build->options->remote, sends);
    job->build = build;
    job->key = *key;
    job->work.perform = sends ? perform_send : perform_ask;
    enum lq_status status = executor->submit_on == NULL
                                ? executor->submit(executor, &job->work, &job->err)
                                : executor->submit_on(executor, pool, &job->work, &job->err);
    if (status != LQ_OK) {
        free(job);
        return false;
    }
    build->waits_under_way++;
    return true;
}

bool lq_share_ask_task(struct lq_build *build, struct lq_task *task)
{
    struct lq_job *job = lq_build_job(LQ_JOB_ASK_TASK);
    if (job == NULL) {
        return false;
    }
    job->task = task;
    job->want = LQ_REMOTE_ALL;
    return submit(build, job, &task->key, false);
}

bool lq_share_ask_node(struct lq_build *build, struct lq_node *node, enum lq_remote_want want,
                       const struct lq_digest *listed, size_t listed_count)
{
    struct lq_job *job = lq_build_job(LQ_JOB_ASK_NODE);
    if (job == NULL) {
        return false;
    }
    job->node = node;
    job->want = want;
    job->listed = listed;
    job->listed_count = listed_count;
    return submit(build, job, &node->key, false);
}

void lq_share_send(struct lq_build *build, const struct lq_digest *key)
{
    struct lq_remote *remote = build->options->remote;
    struct lq_job *job =
        remote == NULL || !lq_remote_can_put(remote) ? NULL : lq_build_job(LQ_JOB_SEND);
    if (job != NULL) {
        (void)submit(build, job, key, true);
    }
}

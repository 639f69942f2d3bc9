/* Remembers digests of files under their signatures. Only a signature that no later write can
 * repeat is worth remembering, so a file that was just written waits in a queue until its time
 * stamps are old enough; nobody sleeps for it but the end of the build. */
#include <stdlib.h>
#include <time.h>

#include "engine/build_state.h"

bool lq_remember_add(struct lq_job *job, const char *path, const char *kind,
                     const struct lq_file_sig *sig, const struct lq_digest *digest)
{
    struct lq_remember *item = malloc(sizeof *item);
    if (item == NULL) {
        return false;
    }
    *item = (struct lq_remember){
        .next = job->remember, .path = path, .kind = kind, .sig = *sig, .digest = *digest};
    job->remember = item;
    return true;
}

void lq_remember_take(struct lq_build *build, struct lq_job *job)
{
    while (job->remember != NULL) {
        struct lq_remember *item = job->remember;
        job->remember = item->next;
        item->next = NULL;
        *build->remember_end = item;
        build->remember_end = &item->next;
    }
}

static void put(struct lq_build *build, const struct lq_remember *item)
{
    struct lq_file_sig now;
    struct lq_error err;
    bool exists = false;
    if (lq_file_sig_get(item->path, &now, &exists, &err) != LQ_OK || !exists ||
        !lq_file_sig_equal(&now, &item->sig)) {
        return; /* somebody else has written it meanwhile: it is looked at again next time */
    }
    if (lq_file_digest_put(build->cache, &item->sig, item->kind, &item->digest, &err) != LQ_OK) {
        lq_build_warn(build, err.message);
    }
}

void lq_remember_settle(struct lq_build *build, bool wait)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    /* Time stamps of the future stay fresh for ever: give up after a while. */
    int pauses_left = wait ? 8 : 0;
    while (build->remember != NULL) {
        struct lq_remember *item = build->remember;
        bool fresh = lq_file_sig_is_fresh(&item->sig);
        if (fresh && !wait) {
            return;
        }
        if (fresh && pauses_left > 0) {
            pauses_left--;
            (void)nanosleep(&pause, NULL);
            continue;
        }
        build->remember = item->next;
        if (build->remember == NULL) {
            build->remember_end = &build->remember;
        }
        if (!fresh) {
            put(build, item);
        }
        free(item);
    }
}

/* Builds a recipe: the one call behind every subcommand that makes something. It takes a checked
 * recipe, asks the cache, runs what misses on the pool, puts outputs in place, and reports what
 * happens through a progress sink. Thread rule: one build at a time per cache object; the sink is
 * called on the calling thread only. */
#ifndef LQ_ENGINE_BUILD_H
#define LQ_ENGINE_BUILD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/remote.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"
#include "engine/rule.h"

struct lq_cache;
struct lq_digest;
struct lq_pool;
struct lq_recipe;

enum lq_event_kind {
    LQ_EVENT_PLAN,             /* totals changed: steps_total */
    LQ_EVENT_ARTIFACT_CHANGED, /* artifact, explain: what is different since it was last built */
    LQ_EVENT_STEP_STARTED,     /* op, label, artifact; explain when asked for */
    LQ_EVENT_STEP_PROGRESS,    /* done, total, unit */
    LQ_EVENT_STEP_FINISHED,    /* outcome, seconds */
    LQ_EVENT_ARTIFACT_DONE, /* artifact; path when something was put in place or found in place */
    LQ_EVENT_SOURCE_HASHED, /* label: the file */
    LQ_EVENT_WARNING,       /* text */
    LQ_EVENT_ERROR,         /* text, status; artifact and label when a step failed */
    LQ_EVENT_SUMMARY_TEXT,  /* text: what a target wants to show at the end, for stdout */
    LQ_EVENT_WAITING,       /* label: another process is building this step */
    LQ_EVENT_CRITICAL_PATH, /* text: the steps of the longest chain that ran; seconds */
};

enum lq_outcome {
    LQ_OUTCOME_RAN,
    LQ_OUTCOME_CACHED,
    LQ_OUTCOME_FAILED,
    LQ_OUTCOME_SHARED,    /* another process built it while we waited: counts as cached */
    LQ_OUTCOME_WOULD_RUN, /* dry run */
    LQ_OUTCOME_FETCHED,   /* a remote had it: counts as cached */
};

struct lq_event {
    enum lq_event_kind kind;
    uint64_t step; /* stable number of the step within the build */
    const char *artifact;
    const char *rule; /* kind of the artifact */
    const char *op;
    const char *label;
    const char *path;
    const char *text;
    const char *explain;         /* why it runs, one or more lines; NULL unless options.explain */
    const struct lq_digest *key; /* of a step that would run; NULL while it is not known */
    const struct lq_digest *key_before; /* zero: no earlier build of it is known */
    const char *unit;
    const char *numerics; /* of an artifact that is done: what computed it; NULL: not known */
    enum lq_status status;
    enum lq_outcome outcome;
    double seconds;
    uint64_t done;
    uint64_t total;
    uint64_t steps_total;    /* steps known so far */
    uint64_t steps_finished; /* of them */
    double eta_seconds;      /* negative when unknown */
};

typedef void (*lq_event_fn)(void *user, const struct lq_event *event);

struct lq_build_options {
    const char *const *targets; /* artifact names or output paths; none: the recipe's default */
    size_t target_count;
    unsigned keep_going; /* failures to tolerate before stopping; 0: stop at the first */
    bool dry_run;
    bool force;         /* run every step of the wanted artifacts even if it is cached */
    bool place_nothing; /* leave the files that the recipe names as they are */
    bool explain;
    double hold_seconds; /* work that may be lost with held outputs; 0: LQ_BUILD_HOLD_SECONDS */
    uint64_t memory_bytes_max; /* limit for steps that run at the same time; 0: a part of RAM */
    const struct lq_digest *snapshot; /* where a build without changes leaves a snapshot; or NULL */
    struct lq_remote *remote;         /* asked when the cache misses; may be NULL */
    bool fetch_only;                  /* what neither the cache nor the remote has is an error */
    atomic_bool *cancel;              /* set by a signal handler; may be NULL */
    /* A dry run that looks at every step: called with the key of each result that is there, steps
     * before the artifact they belong to. What would have to run is only counted. */
    void (*visit)(void *user, const struct lq_digest *key);
    void *visit_user;
    lq_event_fn on_event;
    void *event_user;
};

struct lq_build_result {
    uint64_t steps;
    uint64_t ran;
    uint64_t cached;
    uint64_t failed;
    uint64_t would_run; /* dry run only; a lower bound where an expansion is not known yet */
    double wall_seconds;
    bool has_remote;
    struct lq_remote_counts remote; /* when there was one */
    /* The most memory of the process besides files, looked at as steps go; 0 when unknown. */
    uint64_t peak_memory_bytes;
};

/* Returns LQ_OK, or the status of the first failure (all of them have been reported as events;
 * `err` has the first). Verdicts count as failures after everything is in place. LQ_ECANCELLED when
 * interrupted. `result` is filled in every case. */
enum lq_status lq_build_run(const struct lq_recipe *recipe, const struct lq_registry *registry,
                            struct lq_cache *cache, struct lq_pool *pool,
                            const struct lq_build_options *options, struct lq_build_result *result,
                            struct lq_error *err);

#endif

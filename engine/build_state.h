/* The state of one build, shared by the engine's files: plan.c moves nodes and tasks through their
 * states, expand.c lets rules add tasks, run.c is what a running step sees, source.c finds digests
 * of files, place.c puts outputs in place, schedule.c decides what runs next, build.c is the loop.
 * Private to the engine. */
#ifndef LQ_ENGINE_BUILD_STATE_H
#define LQ_ENGINE_BUILD_STATE_H

#include <pthread.h>

#include "cache/cache.h"
#include "engine/build.h"
#include "engine/executor.h"
#include "engine/graph.h"
#include "engine/lang/recipe.h"
#include "engine/read_ahead.h"

enum {
    LQ_BUILD_KEY_BUCKETS = 1 << 14,
    LQ_BUILD_SOURCE_BUCKETS = 1 << 14,
    LQ_BUILD_ATTEMPTS_MAX = 3,
    LQ_BUILD_CHECKED_MAX = 64, /* blobs that are known to be intact */
    LQ_BUILD_CLAIM_BUCKETS = 256,
};

/* Work that a killed build may lose because its result was only in memory. */
#define LQ_BUILD_HOLD_SECONDS 60.0

/* From here on a second copy of an output in the cache costs more than it is worth. */
#define LQ_BUILD_LARGE_BYTES ((uint64_t)64 << 20)

struct lq_pending_warning {
    struct lq_pending_warning *next;
    char text[];
};

/* Ready tasks as a binary heap: highest priority first, then lowest number. */
struct lq_ready_heap {
    struct lq_task **items;
    size_t count;
    size_t capacity;
};

/* How long a unit of cost of an operation takes: known from earlier builds, measured in this one.
 */
struct lq_rate {
    const char *op;
    double known; /* seconds; 0 when it is not */
    double cost;
    double seconds;
};
enum { LQ_BUILD_RATES_MAX = 64 };

struct lq_build {
    const struct lq_recipe *recipe;
    struct lq_cache *cache;
    struct lq_pool *pool;
    struct lq_executor *executor;
    const struct lq_build_options *options;
    struct lq_build_result *result;
    uint64_t memory_seen_ns; /* when memory was last looked at */
    struct lq_arena arena;
    struct lq_node *nodes; /* one for each artifact, same order */
    size_t node_count;
    struct lq_source *sources;
    struct lq_source **sources_by_path;   /* LQ_BUILD_SOURCE_BUCKETS chains */
    struct lq_source **sources_by_digest; /* the same */
    struct lq_task **by_key;              /* LQ_BUILD_KEY_BUCKETS chains */
    struct lq_node *node_queue;
    struct lq_node **node_queue_end;
    struct lq_ready_heap ready;
    struct lq_task *woken;
    struct lq_task **woken_end;
    struct lq_task *locked;
    uint64_t task_numbers;
    unsigned jobs_under_way;  /* on the executor's slots */
    unsigned waits_under_way; /* for remotes */
    bool parallel_under_way;
    uint64_t memory_under_way;
    uint64_t memory_max;
    uint64_t large_bytes; /* what is written once only, to its place */
    struct lq_held *held; /* transient outputs in memory */
    uint64_t held_bytes;
    struct lq_claim *claims[LQ_BUILD_CLAIM_BUCKETS];
    struct lq_claim *unclaimed;   /* to be swept */
    struct lq_remember *remember; /* a queue, oldest first */
    struct lq_remember **remember_end;
    uint64_t removals; /* of the cache, before the build began */
    uint64_t failures;
    bool stopping;
    enum lq_status first_status;
    struct lq_error first_error;
    /* Estimates. */
    uint64_t started_ns;
    struct lq_rate rates[LQ_BUILD_RATES_MAX];
    size_t rate_count;
    uint64_t cost_left;
    uint64_t cost_ran;
    double seconds_ran;
    struct lq_read_ahead ahead;
    /* Shared with workers. */
    pthread_mutex_t mutex; /* maps of sources, warnings, checked blobs */
    struct lq_pending_warning *warnings;
    struct lq_digest checked[LQ_BUILD_CHECKED_MAX]; /* the newest ones, in a ring */
    uint64_t checked_count;
};

/* build.c: a build on any executor; lq_build_run is this on the CPU. For tests. */
enum lq_status lq_build_run_on(struct lq_executor *executor, const struct lq_recipe *recipe,
                               struct lq_cache *cache, struct lq_pool *pool,
                               const struct lq_build_options *options,
                               struct lq_build_result *result, struct lq_error *err);
enum lq_status lq_build_submit(struct lq_build *build, struct lq_job *job,
                               void (*perform)(struct lq_work *work));
/* A job for lq_build_submit, freed by the loop when it has been taken back; NULL when memory is
 * out. */
struct lq_job *lq_build_job(enum lq_job_kind kind);
void lq_build_event(struct lq_build *build, struct lq_event *event);
void lq_build_fail(struct lq_build *build, const struct lq_node *node, const struct lq_task *task,
                   enum lq_status status, const struct lq_error *err);
/* Fails the build when it ends, but lets the rest of it go on. */
void lq_build_fail_later(struct lq_build *build, const struct lq_node *node, enum lq_status status,
                         const struct lq_error *err);
void lq_build_warn(struct lq_build *build, const char *text); /* any thread */
bool lq_build_cancelled(const struct lq_build *build);        /* any thread */

/* path_clash.c: LQ_ERECIPE when an output would replace what the build reads. */
enum lq_status lq_plan_check_paths(const struct lq_build *build, struct lq_error *err);

/* plan.c: nodes */
enum lq_status lq_plan_create(struct lq_build *build, struct lq_error *err);
struct lq_node *lq_plan_node(const struct lq_build *build, const struct lq_artifact *artifact);
/* A finished or expanding node's output; NULL when there is none of that name. */
struct lq_node_output *lq_plan_output(const struct lq_node *node, const char *name);
/* Room for one more output behind the others; NULL when memory is out. */
struct lq_node_output *lq_plan_add_output(struct lq_build *build, struct lq_node *node);

/* node.c: the life of one node */
void lq_node_queue(struct lq_build *build, struct lq_node *node);
void lq_node_advance(struct lq_build *build, struct lq_node *node);
void lq_node_hashed(struct lq_build *build, struct lq_job *job);
void lq_node_placed(struct lq_build *build, struct lq_job *job);
void lq_node_task_over(struct lq_build *build, struct lq_node *node);
/* Makes a done node's outputs again, because one of them is gone; `task` waits for it. */
void lq_node_remake(struct lq_build *build, struct lq_node *node, struct lq_task *task);
/* True when the content can be read from the cache or from a source. */
void lq_node_check_content(struct lq_build *build, const struct lq_digest *digest);
void lq_task_check_outputs(struct lq_build *build, const struct lq_task *task);
bool lq_node_has_content(const struct lq_build *build, const struct lq_digest *digest);

/* task.c: the life of one task */
void lq_task_start(struct lq_build *build, struct lq_task *task);
/* Takes a task of an expansion that is thrown away out of the result's counts. */
void lq_task_uncount(struct lq_build *build, struct lq_task *task);
void lq_task_wake(struct lq_build *build, struct lq_task *task);
/* `task` goes on when `target` is over. False when memory is out. */
bool lq_task_wait(struct lq_build *build, struct lq_task *task, struct lq_waiter **waiters);
void lq_task_wake_all(struct lq_build *build, struct lq_waiter **waiters, bool doomed);
/* Handles one task of the woken queue; false when it is empty. */
bool lq_task_next_woken(struct lq_build *build);
/* Starts ready tasks while there is room. */
void lq_task_run_ready(struct lq_build *build);
void lq_task_ran(struct lq_build *build, struct lq_job *job);
/* Looks again at tasks that another process was building. */
void lq_task_retry_locked(struct lq_build *build);

/* The output of another task that is an input; NULL for what comes from elsewhere. */
struct lq_task_output *lq_task_input(const struct lq_task *task, size_t input);

/* held.c: transient outputs */
/* What an output of a task is called in keys, whatever its content. */
void lq_transient_name(const struct lq_task *task, const char *output, struct lq_digest *digest);
/* A task is done: sees to it that its transient outputs can be had, or made again. */
void lq_transient_claim(struct lq_build *build, struct lq_task *task);
/* A task will read it again. */
void lq_transient_reclaim(struct lq_build *build, struct lq_task_output *output);
/* Nobody will read it any more. What is in the cache waits for the sweep. */
void lq_transient_drop(struct lq_build *build, struct lq_task_output *output);
/* Removes from the cache what nobody claims: flushes of the disk, so for when steps are running. */
void lq_transient_sweep(struct lq_build *build);
/* NULL when it is not in memory. */
struct lq_held *lq_held_find(const struct lq_build *build, const struct lq_digest *digest);
/* Takes it. */
void lq_held_add(struct lq_build *build, struct lq_held *held);
void lq_held_release(struct lq_build *build, struct lq_held *held);
/* Forgets those that a worker found lost. */
void lq_held_bury(struct lq_build *build);
/* One that the build does not have yet. */
void lq_held_destroy(struct lq_held *held);
void lq_held_free(struct lq_build *build);

/* share.c: remotes */
/* False when there is none to ask, or what it says does not count. */
bool lq_share_can_ask(const struct lq_build *build);
/* Asks for everything of a step; lq_task_asked goes on. False when it could not be asked. */
bool lq_share_ask_task(struct lq_build *build, struct lq_task *task);
/* Asks for a node's record, or for the content that is listed; lq_node_asked goes on. */
bool lq_share_ask_node(struct lq_build *build, struct lq_node *node, enum lq_remote_want want,
                       const struct lq_digest *listed, size_t listed_count);
/* Sends the result of a key, in the background of this build. */
void lq_share_send(struct lq_build *build, const struct lq_digest *key);
void lq_task_asked(struct lq_build *build, struct lq_job *job);
void lq_node_asked(struct lq_build *build, struct lq_job *job);

/* expand.c */
enum lq_status lq_expand_node(struct lq_build *build, struct lq_node *node, bool *lost,
                              struct lq_error *err);

/* run.c */
enum lq_status lq_run_create(struct lq_build *build, struct lq_task *task, struct lq_error *err);
void lq_run_perform(struct lq_work *work);
/* What the run left in memory becomes the build's. */
void lq_run_take_held(struct lq_run *run);
void lq_run_destroy(struct lq_run *run);
/* The step is done: files that were written with its outputs wait for their node to be placed. */
void lq_run_keep_files(struct lq_run *run);
/* Has the parts of model files that a task will read fetched in the background. */
void lq_run_read_ahead(struct lq_build *build, const struct lq_task *task);
/* Before the run begins: what a task that waits for it will read. */
void lq_run_collect_expected(struct lq_build *build, struct lq_run *run,
                             const struct lq_task *waiter);
/* Borrowed from the run. */
enum lq_status lq_run_get_verdict(const struct lq_run *run, const char **text);
/* Static text. */
const char *lq_run_get_numerics(const struct lq_run *run);
void lq_run_get_progress(const struct lq_run *run, uint64_t *done, uint64_t *total,
                         const char **unit);

/* source.c */
enum lq_status lq_source_collect(struct lq_build *build, struct lq_node *node,
                                 struct lq_error *err);
/* Fills in digests that are known for unchanged files; *pending is how many must be hashed. */
enum lq_status lq_source_check(struct lq_build *build, struct lq_node *node, size_t *pending,
                               struct lq_error *err);
void lq_source_perform(struct lq_work *work);
/* The digest of the source has been found. */
void lq_source_set_known(struct lq_build *build, struct lq_source *source);
/* The file's bytes, mapped for the rest of the build; checks that it is the file that was hashed.
 */
enum lq_status lq_source_map(struct lq_build *build, struct lq_source *source,
                             const struct lq_map **map, struct lq_error *err);
/* A step is done with a part of a source: its pages leave the process's memory. */
void lq_source_release(struct lq_build *build, struct lq_source *source, uint64_t offset,
                       uint64_t size_bytes);
enum lq_status lq_source_unchanged(const struct lq_source *source, struct lq_error *err);
/* A plain source whose content has this digest, or NULL. */
struct lq_source *lq_source_by_digest(const struct lq_build *build, const struct lq_digest *digest);

/* remember.c */
/* A worker leaves a note with its job. The path and the kind outlive the build. */
bool lq_remember_add(struct lq_job *job, const char *path, const char *kind,
                     const struct lq_file_sig *sig, const struct lq_digest *digest);
void lq_remember_take(struct lq_build *build, struct lq_job *job);
/* Stores the digests whose files are old enough; with `wait` also those that will be in a moment.
 */
void lq_remember_settle(struct lq_build *build, bool wait);

/* early.c: an output of a step that is written to its place while it is made */
struct lq_early {
    struct lq_place *place;      /* NULL: it is not */
    struct lq_atomic_file *file; /* NULL: not begun, kept, or in place */
    bool failed;
    bool only;  /* the cache has no copy */
    char *path; /* where it is then; of the run's arena; NULL: the cache has one */
    struct lq_cache *cache;
};
/* True when bytes of this number are written once only. */
bool lq_early_is_large(const struct lq_build *build, uint64_t size_bytes);
/* For a task that is about to run and reads so much; `output` is one of its own. */
void lq_early_init(struct lq_early *early, const struct lq_build *build, const struct lq_task *task,
                   const struct lq_step_output *output, uint64_t read_bytes,
                   struct lq_arena *arena);
/* Before the first byte. `early` stays where it is until the writer is gone. */
void lq_early_begin(struct lq_early *early, struct lq_blob_writer *writer);
/* The step is done: the file waits for its node to be placed. */
void lq_early_keep(struct lq_early *early, const struct lq_digest *digest);
void lq_early_abort(struct lq_early *early);

/* place.c */
/* True when the files at the node's places are known to be its outputs already. */
bool lq_place_is_current(struct lq_build *build, const struct lq_node *node);
/* The same for one place, with the file's signature. */
bool lq_place_check(struct lq_build *build, const struct lq_node *node,
                    const struct lq_place *place, struct lq_file_sig *sig);
void lq_place_perform(struct lq_work *work);
/* Removes what was written early and is not wanted after all. */
void lq_place_forget(struct lq_node *node);

/* snapshot.c: after a build that changed nothing, for the next one. */
void lq_snapshot_save(struct lq_build *build);

/* schedule.c */
bool lq_ready_push(struct lq_build *build, struct lq_task *task);
/* The best ready task that the resources allow now, or NULL. */
struct lq_task *lq_ready_pop(struct lq_build *build);
void lq_schedule_claim(struct lq_build *build, const struct lq_task *task);
void lq_schedule_release(struct lq_build *build, const struct lq_task *task);
/* Sets priorities of a node's tasks: the cost of the longest chain behind each. */
void lq_schedule_prioritise(struct lq_node *node);
uint64_t lq_schedule_default_memory(void);

/* ---- timing.c ---- */

/* The microseconds that a step of this cost is likely to take. */
uint64_t lq_timing_cost(struct lq_build *build, const char *op, uint64_t cost);
/* A task is done; `seconds` 0 when it did not run. */
void lq_timing_note(struct lq_build *build, struct lq_task *task, double seconds);
/* The build is over: tells the longest chain, and remembers what was measured. */
void lq_timing_finish(struct lq_build *build);

#endif

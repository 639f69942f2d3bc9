/* The build graph: nodes (artifacts of the recipe) and tasks (steps that a node expanded into),
 * with explicit states. Private to the engine. Everything lives in the build's arena and dies with
 * it. Thread rule: the build's thread owns all of it; a worker sees its own task's `run` and `work`
 * and fields that no longer change (spec, key, manifest, sources). */
#ifndef LQ_ENGINE_GRAPH_H
#define LQ_ENGINE_GRAPH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/digest.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/build.h"
#include "engine/executor.h"
#include "engine/rule.h"

struct lq_build;
struct lq_node;
struct lq_task;

/* One file that artifacts read; shared by all that read it in the same way. */
struct lq_source {
    const char *path;
    const struct lq_source_kind *kind; /* NULL: plain */
    enum lq_status missing_status;
    struct lq_file_sig sig;
    bool known; /* `digest` is set */
    bool hashing;
    struct lq_digest digest;
    struct lq_map map; /* opened at first use, under the build's lock */
    bool mapped;
    unsigned char *copy; /* small files are read instead: the system has few maps to give */
    struct lq_source *next;
    struct lq_source *same_bucket; /* chain of sources by path */
    struct lq_source *same_digest; /* chain of plain sources by digest */
    bool in_digests;
    struct lq_node_link *waiting; /* nodes that wait for the digest */
};

struct lq_node_link {
    struct lq_node *node;
    struct lq_node_link *next;
};

struct lq_sources {
    struct lq_build *build;
    struct lq_node *node;
};

/* A file whose digest is to be remembered once its time stamps are old enough. */
struct lq_remember {
    struct lq_remember *next;
    const char *path; /* lives as long as the build */
    const char *kind; /* the way of reading it */
    struct lq_file_sig sig;
    struct lq_digest digest;
};

enum lq_job_kind {
    LQ_JOB_HASH,
    LQ_JOB_RUN,
    LQ_JOB_PLACE,
    LQ_JOB_ASK_TASK, /* a remote, for a step's result */
    LQ_JOB_ASK_NODE, /* a remote, for an artifact's record or for its content */
    LQ_JOB_SEND,     /* a result, to remotes */
};

/* A piece of work for the executor, with its result. */
struct lq_job {
    struct lq_work work; /* first: converted back from what the executor returns */
    enum lq_job_kind kind;
    struct lq_build *build;
    struct lq_source *source;
    struct lq_task *task;
    struct lq_node *node;
    enum lq_status status;
    struct lq_error err;
    bool lost; /* an input's blob turned out to be missing or altered */
    double seconds;
    struct lq_remember *remember; /* files that were read or written */
    /* ASK and SEND */
    struct lq_digest key;
    enum lq_remote_want want;
    const struct lq_digest *listed;
    size_t listed_count;
    bool got;
};

enum lq_task_state {
    LQ_TASK_WAITING,   /* for tasks or nodes whose outputs it reads */
    LQ_TASK_FOLLOWING, /* another task with the same key is under way */
    LQ_TASK_ASKING,    /* a remote is being asked */
    LQ_TASK_READY,     /* must run */
    LQ_TASK_LOCKED,    /* another process is at it */
    LQ_TASK_RUNNING,
    LQ_TASK_DONE,
    LQ_TASK_FAILED,
    LQ_TASK_SKIPPED, /* something it needs failed */
};

struct lq_task_output {
    const char *name;
    bool transient;
    struct lq_digest digest;
    uint64_t size_bytes;
    size_t readers_left; /* tasks that still may read it */
    /* held.c, for transient ones that have readers. */
    bool in_cache;
    struct lq_digest *bases; /* outputs in the cache that it would be made from; of the arena */
    size_t basis_count;
};

/* A transient output in memory. */
struct lq_held {
    struct lq_held *next;
    struct lq_digest digest; /* lq_transient_name */
    struct lq_buffer bytes;
    struct lq_object *object; /* instead of bytes; or NULL */
    atomic_bool is_lost;      /* a worker could not read the object */
    double unsaved_seconds;   /* what it costs to make it again */
    unsigned users;           /* runs that read it */
    bool dropped;             /* goes with its last user */
};

/* How many have a use for a transient output in the cache. */
struct lq_claim {
    struct lq_claim *next;
    struct lq_digest digest;
    size_t count;
    bool unclaimed; /* in the list of those whose outputs go */
    struct lq_claim *next_unclaimed;
};

/* A list of tasks that wait for something. */
struct lq_waiter {
    struct lq_task *task;
    struct lq_waiter *next;
};

struct lq_task {
    struct lq_node *node;
    size_t index;    /* within the node */
    uint64_t number; /* within the build */
    struct lq_step spec;
    enum lq_task_state state;
    size_t waiting_on;
    struct lq_waiter *waiters;
    struct lq_task_output *outputs;
    char *manifest;
    char *lost_path; /* of the file that was its output; NULL: none; only for explanations */
    struct lq_digest key;
    bool keyed;
    bool counted;  /* `outcome` is in the result's counts */
    bool must_run; /* its output is needed again: no look-up */
    bool asked;    /* remotes have been asked */
    bool doomed;   /* something it needs failed */
    bool would_run;
    bool read_inputs; /* its readers_left have been given back */
    enum lq_outcome outcome;
    unsigned attempts;
    unsigned revivals; /* because an output of it was lost */
    uint64_t priority;
    uint64_t eta_cost;            /* microseconds, guessed */
    double own_seconds;           /* of the run; 0 for a hit */
    double chain_seconds;         /* of the longest chain that ends with this task */
    struct lq_task *chain_before; /* its link before this one */
    enum lq_status verdict;
    const char *verdict_text;
    const char *numerics;        /* what computed it; NULL while it is not known */
    const char *reason;          /* why it runs; set when explanations are asked for */
    struct lq_digest key_before; /* the key it was last built with; likewise, zero if unknown */
    struct lq_run *run;
    struct lq_job job;
    struct lq_task *key_next;   /* hash chain of tasks by key */
    struct lq_task *queue_next; /* the woken queue or the locked list: never in both */
};

enum lq_node_state {
    LQ_NODE_UNWANTED,
    LQ_NODE_WAITING, /* for the nodes it refers to */
    LQ_NODE_HASHING, /* for digests of its sources */
    LQ_NODE_LOOKUP,
    LQ_NODE_ASKING, /* a remote is being asked */
    LQ_NODE_EXPANDING,
    LQ_NODE_RUNNING, /* its tasks are under way */
    LQ_NODE_PLACING, /* its output is being put in place */
    LQ_NODE_DONE,
    LQ_NODE_FAILED,
    LQ_NODE_SKIPPED,
};

struct lq_node_output {
    const char *name;
    struct lq_ref ref; /* when expanded */
    bool bound;
    struct lq_digest digest;
    uint64_t size_bytes;
};

struct lq_place {
    const char *output; /* "main", "out2", … */
    const char *path;   /* joined to the recipe's folder */
    /* What the step that made the content has written on the way, and its digest; NULL: nothing. */
    struct lq_atomic_file *ready;
    struct lq_digest ready_digest;
};

struct lq_node {
    const struct lq_artifact *artifact;
    enum lq_node_state state;
    bool target;
    bool forced_expand; /* the shortcut through its own record is not to be taken */
    bool would_run;
    bool queued;
    bool announced; /* its users have been told that it is done */
    bool doomed;
    bool broken;        /* a task of it failed or was skipped */
    bool ran;           /* a task of it ran */
    bool asked_record;  /* remotes have been asked for its record */
    bool asked_content; /* and for the content of its outputs */
    bool remaking;      /* because its content is needed now */
    size_t waiting_on;
    struct lq_node_link *deps;
    struct lq_node_link *users;
    struct lq_waiter *waiters;          /* tasks that wait for a lost output */
    struct lq_node_link *waiting_nodes; /* nodes that wait for a lost output */
    struct lq_source **sources;
    uint32_t source_count;
    uint32_t source_capacity;
    struct lq_task **tasks;
    size_t task_count;
    size_t task_capacity;
    size_t tasks_left;
    struct lq_task *longest;        /* its task at the end of the longest chain */
    struct lq_node_output *outputs; /* room for output_capacity */
    uint32_t output_count;
    uint32_t output_capacity;
    struct lq_digest key;
    uint64_t record_steps; /* steps counted because its own record was a hit */
    uint64_t depth_cost;   /* cost of the longest chain of nodes behind it */
    unsigned attempts;
    struct lq_place *places; /* outputs that the recipe wants as files */
    uint32_t place_count;
    enum lq_status verdict;
    const char *verdict_text;
    const char *numerics; /* those of its tasks, "exact, cuda; exact"; NULL while not known */
    struct lq_node *queue_next;
};

#endif

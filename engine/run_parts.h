/* What the files of a running step share: run.c opens inputs, runs the step and publishes its
 * record; run_output.c has what it writes. Private to the engine. Thread rule: created and
 * destroyed on the build's thread, used on a worker. */
#ifndef LQ_ENGINE_RUN_PARTS_H
#define LQ_ENGINE_RUN_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/build_state.h"

struct lq_run_input {
    const char *name;
    struct lq_digest digest;
    uint64_t size_bytes;
    struct lq_source *source; /* bytes come from a file, at `offset` */
    uint64_t offset;
    const void *bytes; /* bytes in memory */
    pthread_mutex_t mutex;
    struct lq_blob_reader *reader;
    void *loaded;
    char *path;
    struct lq_held *held; /* bytes in memory are those of a transient output */
};

struct lq_run_output {
    const char *name;
    struct lq_blob_writer *writer;
    struct lq_held *held; /* it stays in memory so far */
    struct lq_early early;
};

struct lq_run {
    struct lq_build *build;
    struct lq_task *task;
    struct lq_arena arena;
    struct lq_run_input *inputs;
    struct lq_run_output *outputs;
    enum lq_status verdict;
    char *verdict_text;
    const char *numerics;
    struct lq_run_expected *expected; /* by those who wait */
    size_t expected_count;
    uint64_t hold_bytes_left;
    double unsaved_seconds; /* what it costs to make the inputs again that are in memory only */
    bool lost;
    bool may_retry;
    bool is_retry;
    struct lq_error first_error;
    _Atomic uint64_t done;
    _Atomic uint64_t total;
    _Atomic(const char *) unit;
};

/* Bytes of an input that lies in memory or in a file; NULL (and LQ_OK) for others. */
enum lq_status lq_run_direct_bytes(struct lq_run *run, const struct lq_run_input *input,
                                   const unsigned char **bytes, struct lq_error *err);
struct lq_run_input *lq_run_find_input(const struct lq_run *run, const char *name);

/* Forgets what was written. */
void lq_run_forget_output(struct lq_run_output *output);
/* Begins to publish what is not held, and names all. `seconds`: of the run. */
enum lq_status lq_run_commit_outputs(struct lq_run *run, double seconds, struct lq_error *err);
/* The content of a blob has been found to be its digest's: this build need not look again. */
void lq_run_note_checked(struct lq_build *build, const struct lq_digest *digest);
/* When the record that names them is put. */
enum lq_status lq_run_end_commits(struct lq_run *run, struct lq_error *err);

#endif

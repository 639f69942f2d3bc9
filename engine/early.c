/* Writes a large output to its place while its step makes it: the bytes go into the temporary file
 * as they are hashed for the cache. When the step is done the file waits for its node to be placed,
 * which then has only the name to give.
 *
 * Of an output most of which the step makes itself the cache keeps no copy: the file gets its name
 * before the step's record is written, and the cache remembers which file it is. */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/build_state.h"

/* What reads much may write much, and how much is not known before. */
static const uint64_t read_bytes_min = 16 * 1024 * 1024;

bool lq_early_is_large(const struct lq_build *build, uint64_t size_bytes)
{
    return size_bytes >= build->large_bytes;
}

static struct lq_place *find_place(const struct lq_task *task, const char *output)
{
    struct lq_node *node = task->node;
    for (size_t i = 0; i < node->place_count; i++) {
        const struct lq_node_output *bound = lq_plan_output(node, node->places[i].output);
        if (bound != NULL && bound->bound && bound->ref.kind == LQ_REF_STEP &&
            bound->ref.index == task->index && strcmp(bound->ref.name, output) == 0) {
            return &node->places[i];
        }
    }
    return NULL;
}

/* The cache must find the file from any folder; NULL: then it keeps the content itself. */
static char *absolute_path(struct lq_arena *arena, const char *path)
{
    char folder[LQ_BLOB_PATH_BYTES_MAX + 1];
    if (path[0] != '/' && getcwd(folder, sizeof folder) == NULL) {
        return NULL;
    }
    char *joined = lq_path_join(arena, path[0] == '/' ? "" : folder, path);
    return joined == NULL || strlen(joined) > LQ_BLOB_PATH_BYTES_MAX ? NULL : joined;
}

void lq_early_init(struct lq_early *early, const struct lq_build *build, const struct lq_task *task,
                   const struct lq_step_output *output, uint64_t read_bytes, struct lq_arena *arena)
{
    bool is_large = task->spec.own_bytes > 0 && lq_early_is_large(build, task->spec.own_bytes);
    *early = (struct lq_early){.place = NULL};
    if ((read_bytes < read_bytes_min && !is_large) || build->options->place_nothing) {
        return;
    }
    early->place = find_place(task, output->name);
    if (early->place != NULL && is_large && !output->transient) {
        early->cache = build->cache;
        early->path = absolute_path(arena, early->place->path);
    }
}

/* After an error the file is written when it is placed, which says what is wrong; but when it is
 * the only copy. */
static enum lq_status write_bytes(void *user, const void *data, size_t size_bytes,
                                  struct lq_error *err)
{
    struct lq_early *early = user;
    enum lq_status status = LQ_OK;
    if (!early->failed) {
        status = lq_atomic_file_write(early->file, data, size_bytes, early->only ? err : NULL);
        early->failed = status != LQ_OK;
    }
    return early->only ? status : LQ_OK;
}

/* Waits until no later write can leave the file with this signature. Time stamps of the future stay
 * fresh for ever. */
static bool wait_until_old(const struct lq_file_sig *sig)
{
    enum { PAUSES_MAX = 40 };
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    for (int i = 0; i < PAUSES_MAX && lq_file_sig_is_fresh(sig); i++) {
        (void)nanosleep(&pause, NULL);
    }
    return !lq_file_sig_is_fresh(sig);
}

static enum lq_status land(void *user, const struct lq_digest *digest, const char **path,
                           struct lq_file_sig *sig, struct lq_error *err)
{
    struct lq_early *early = user;
    struct lq_atomic_file *file = early->file;
    struct lq_file_sig now;
    bool exists = false;
    early->file = NULL;
    enum lq_status status = lq_atomic_file_commit(file, sig, err);
    if (status == LQ_OK && !wait_until_old(sig)) {
        return lq_error_set(err, LQ_EIO,
                            "%s: its time stamps lie in the future; set the clock of this machine, "
                            "or of the one that has the file, and build again",
                            early->path);
    }
    if (status == LQ_OK) {
        status = lq_file_sig_get(early->path, &now, &exists, err);
    }
    if (status == LQ_OK && (!exists || !lq_file_sig_equal(&now, sig))) {
        status =
            lq_error_set(err, LQ_EIO, "%s: changed while it was written; build again", early->path);
    }
    *path = early->path;
    return status == LQ_OK ? lq_file_digest_put(early->cache, sig, "plain", digest, err) : status;
}

/* Where another machine's clock that is ahead gives the time stamps, they stay fresh for long. */
static bool is_ahead(const struct lq_atomic_file *file)
{
    struct lq_file_sig sig;
    struct timespec now;
    if (!lq_atomic_file_sig(file, &sig)) {
        return true;
    }
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return sig.ctime_ns > (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void lq_early_begin(struct lq_early *early, struct lq_blob_writer *writer)
{
    if (early->place == NULL ||
        lq_atomic_file_begin(&early->file, early->place->path, NULL) != LQ_OK) {
        return;
    }
    early->failed = lq_atomic_file_stream(early->file, NULL) != LQ_OK;
    early->only = early->path != NULL && !early->failed && !is_ahead(early->file);
    if (early->only) {
        lq_blob_keep_outside(writer, write_bytes, land, early);
    } else {
        lq_blob_tee(writer, write_bytes, early);
    }
}

void lq_early_keep(struct lq_early *early, const struct lq_digest *digest)
{
    if (early->file != NULL && !early->failed) {
        lq_atomic_file_abort(early->place->ready);
        early->place->ready = early->file;
        early->place->ready_digest = *digest;
        early->file = NULL;
    }
}

void lq_early_abort(struct lq_early *early)
{
    lq_atomic_file_abort(early->file);
    early->file = NULL;
    early->failed = false;
}

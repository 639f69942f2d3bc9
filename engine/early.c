/* Writes a large output to its place while its step makes it: the bytes go into the temporary file
 * as they are hashed for the cache. When the step is done the file waits for its node to be placed,
 * which then has only the name to give. */
#include <string.h>

#include "engine/build_state.h"

/* What reads much may write much, and how much is not known before. */
static const uint64_t read_bytes_min = 16 * 1024 * 1024;

void lq_early_init(struct lq_early *early, const struct lq_build *build, const struct lq_task *task,
                   const char *output, uint64_t read_bytes)
{
    struct lq_node *node = task->node;
    *early = (struct lq_early){.place = NULL};
    if (read_bytes < read_bytes_min || build->options->place_nothing) {
        return;
    }
    for (size_t i = 0; i < node->place_count && early->place == NULL; i++) {
        const struct lq_node_output *bound = lq_plan_output(node, node->places[i].output);
        if (bound != NULL && bound->bound && bound->ref.kind == LQ_REF_STEP &&
            bound->ref.index == task->index && strcmp(bound->ref.name, output) == 0) {
            early->place = &node->places[i];
        }
    }
}

/* After an error the file is written when it is placed, which says what is wrong. */
static enum lq_status write_bytes(void *user, const void *data, size_t size_bytes,
                                  struct lq_error *err)
{
    struct lq_early *early = user;
    (void)err;
    early->failed =
        early->failed || lq_atomic_file_write(early->file, data, size_bytes, NULL) != LQ_OK;
    return LQ_OK;
}

void lq_early_begin(struct lq_early *early, struct lq_blob_writer *writer)
{
    if (early->place == NULL ||
        lq_atomic_file_begin(&early->file, early->place->path, NULL) != LQ_OK) {
        return;
    }
    early->failed = lq_atomic_file_stream(early->file, NULL) != LQ_OK;
    lq_blob_tee(writer, write_bytes, early);
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

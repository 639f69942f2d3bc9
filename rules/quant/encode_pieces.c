#include "rules/quant/encode_pieces.h"

#include "rules/model/tensor_ref.h"

/* What the callbacks of one matrix pass on. */
struct piece {
    const struct lq_encode_job *whole;
    uint64_t number;
};

static enum lq_status write_piece(void *user, const void *data, size_t size_bytes,
                                  struct lq_error *err)
{
    const struct lq_encode_job *whole = ((const struct piece *)user)->whole;
    return whole->write(whole->user, data, size_bytes, err);
}

static bool is_cancelled(void *user)
{
    const struct lq_encode_job *whole = ((const struct piece *)user)->whole;
    return whole->cancelled != NULL && whole->cancelled(whole->user);
}

static void report_rows(void *user, uint64_t done, uint64_t total)
{
    const struct piece *piece = user;
    const struct lq_encode_job *whole = piece->whole;
    if (whole->progress != NULL) {
        whole->progress(whole->user, piece->number * total + done, whole->tensor->ne[2] * total);
    }
}

static void note_computed_on(void *user, const char *name)
{
    const struct lq_encode_job *whole = ((const struct piece *)user)->whole;
    if (whole->computed_on != NULL) {
        whole->computed_on(whole->user, name);
    }
}

/* The protected weights of one matrix, counted from its beginning; *at goes past them. */
static enum lq_status take_positions(struct lq_run *run, const struct lq_encode_job *whole,
                                     uint64_t first, uint64_t elems, size_t *at,
                                     struct lq_encode_job *job, struct lq_error *err)
{
    size_t end = *at;
    while (end < whole->position_count && whole->positions[end] < first + elems) {
        end++;
    }
    uint64_t *own = lq_arena_get_array(lq_run_arena(run), end - *at + 1, sizeof *own);
    if (own == NULL) {
        return lq_error_nomem(err, "the protected weights of a tensor");
    }
    job->position_count = end - *at;
    for (size_t i = 0; i < job->position_count; i++) {
        own[i] = whole->positions[*at + i] - first;
    }
    job->positions = own;
    *at = end;
    return LQ_OK;
}

enum lq_status lq_encode_pieces(struct lq_run *run, const struct lq_encode_job *whole,
                                const char *input, struct lq_error *err)
{
    struct lq_model_tensor matrix = *whole->tensor;
    uint64_t count = whole->tensor->ne[2];
    uint64_t elems = matrix.ne[0] * matrix.ne[1];
    size_t at = 0;
    enum lq_status status = LQ_OK;
    matrix.ne[2] = 1;
    matrix.pieces = NULL;
    matrix.piece_count = 0;
    matrix.size_bytes = whole->tensor->size_bytes / count;
    for (uint64_t m = 0; m < count && status == LQ_OK; m++) {
        struct piece piece = {whole, m};
        struct lq_encode_job job = *whole;
        job.tensor = &matrix;
        job.size_bytes = matrix.size_bytes;
        job.user = &piece;
        job.write = write_piece;
        job.cancelled = is_cancelled;
        job.progress = report_rows;
        job.computed_on = note_computed_on;
        if (whole->importance != NULL && whole->mat_count > 1) {
            job.importance = whole->importance + m * matrix.ne[0];
            job.mat_count = 1;
        }
        status = take_positions(run, whole, m * elems, elems, &at, &job, err);
        if (status == LQ_OK) {
            status = lq_tensor_load_matrix(run, whole->tensor, input, m, &job.data, err);
        }
        if (status == LQ_OK) {
            status = lq_encode_tensor(&job, err);
        }
        if (status != LQ_OK && status != LQ_ECANCELLED && count > 1) {
            return lq_error_prefix(err, "expert %llu", (unsigned long long)m);
        }
    }
    return status;
}

#include "rules/quant/super_weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "engine/base/reader.h"
#include "kernels/kernels.h"
#include "rules/quant/levels.h"

enum { TILE_ELEMS = 256 * 1024, READ_AHEAD = 1024 };

uint64_t lq_super_keep_count(double coverage, uint64_t total)
{
    double wanted = floor(coverage * (double)total);
    return wanted < 1.0 ? 1 : (uint64_t)wanted;
}

struct lq_weight_rank lq_weight_rank_read(const void *bytes)
{
    struct lq_reader reader;
    lq_reader_init(&reader, bytes, LQ_WEIGHT_RANK_BYTES);
    struct lq_weight_rank rank = {.score = lq_read_f64(&reader)};
    rank.position = lq_read_u64(&reader);
    return rank;
}

/* ------------------------------------------------------- the best of one tensor ---- */

/* True when `a` ranks behind `b`. */
static bool is_worse(const struct lq_weight_rank *a, const struct lq_weight_rank *b)
{
    return a->score != b->score ? a->score < b->score : a->position > b->position;
}

static int compare_best_first(const void *a, const void *b)
{
    return is_worse(a, b) ? 1 : is_worse(b, a) ? -1 : 0;
}

/* A heap with the worst candidate on top. */
struct heap {
    struct lq_weight_rank *items;
    size_t count;
    size_t capacity;
};

static void sift_down(struct heap *heap, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count) {
            return;
        }
        if (child + 1 < heap->count && is_worse(&heap->items[child + 1], &heap->items[child])) {
            child++;
        }
        if (!is_worse(&heap->items[child], &heap->items[at])) {
            return;
        }
        struct lq_weight_rank swapped = heap->items[at];
        heap->items[at] = heap->items[child];
        heap->items[child] = swapped;
        at = child;
    }
}

static void sift_up(struct heap *heap, size_t at)
{
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!is_worse(&heap->items[at], &heap->items[parent])) {
            return;
        }
        struct lq_weight_rank swapped = heap->items[at];
        heap->items[at] = heap->items[parent];
        heap->items[parent] = swapped;
        at = parent;
    }
}

static void heap_offer(struct heap *heap, struct lq_weight_rank rank)
{
    if (heap->count < heap->capacity) {
        heap->items[heap->count] = rank;
        sift_up(heap, heap->count++);
    } else if (is_worse(&heap->items[0], &rank)) {
        heap->items[0] = rank;
        sift_down(heap, 0);
    }
}

static enum lq_status scan_rows(const struct lq_super_job *job, uint64_t row, uint64_t row_count,
                                const float *values, struct heap *heap, struct lq_error *err)
{
    uint64_t col_count = job->tensor->ne[0];
    size_t count = (size_t)(row_count * col_count);
    size_t bad = lq_kernels()->find_nonfinite(values, count);
    if (bad < count) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' has the value %g in row %" PRIu64 ", column %" PRIu64
                            "; weights must be finite",
                            job->tensor->name, (double)values[bad], row + bad / col_count,
                            (uint64_t)bad % col_count);
    }
    for (uint64_t r = 0; r < row_count; r++) {
        uint64_t mat = job->mat_count > 1 ? (row + r) / job->tensor->ne[1] : 0;
        const float *importance = job->importance + mat * col_count;
        for (uint64_t j = 0; j < col_count; j++) {
            double score = fabs((double)values[r * col_count + j]) * (double)importance[j];
            heap_offer(heap, (struct lq_weight_rank){score, (row + r) * col_count + j});
        }
    }
    return LQ_OK;
}

static enum lq_status scan_tensor(const struct lq_super_job *job, struct heap *heap, float *values,
                                  uint64_t tile_rows, struct lq_error *err)
{
    uint64_t row_count = lq_level_tensor_elems(job->tensor) / job->tensor->ne[0];
    for (uint64_t row = 0; row < row_count; row += tile_rows) {
        if (job->cancelled != NULL && job->cancelled(job->user)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        uint64_t count = row_count - row < tile_rows ? row_count - row : tile_rows;
        enum lq_status status =
            job->matrices == NULL
                ? lq_model_tensor_rows(job->tensor, job->data, row, count, values, err)
                : lq_model_tensor_rows_of(job->tensor, job->matrices, row, count, values, err);
        if (status == LQ_OK) {
            status = scan_rows(job, row, count, values, heap, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static void write_ranks(const struct heap *heap, struct lq_buffer *out)
{
    for (size_t i = 0; i < heap->count; i++) {
        uint64_t bits = 0;
        memcpy(&bits, &heap->items[i].score, sizeof bits);
        lq_buffer_append_u64(out, bits);
        lq_buffer_append_u64(out, heap->items[i].position);
    }
}

enum lq_status lq_super_candidates(const struct lq_super_job *job, struct lq_buffer *out,
                                   struct lq_error *err)
{
    const struct lq_model_tensor *tensor = job->tensor;
    uint64_t elems = lq_level_tensor_elems(tensor);
    uint64_t want = lq_level_stored_bytes(tensor);
    if (tensor->ne[0] == 0 || want == 0 || want != job->size_bytes) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' has %" PRIu64 " bytes of data, expected %" PRIu64,
                            tensor->name, job->size_bytes, want);
    }
    uint64_t tile_rows = tensor->ne[0] >= TILE_ELEMS ? 1 : TILE_ELEMS / tensor->ne[0];
    uint64_t capacity = job->keep < elems ? job->keep : elems;
    struct heap heap = {.capacity = (size_t)capacity};
    size_t heap_bytes = 0;
    size_t tile_bytes = 0;
    enum lq_status status = LQ_OK;
    float *values = NULL;
    if (lq_mul_size((size_t)capacity, sizeof *heap.items, &heap_bytes) &&
        lq_mul_size((size_t)(tile_rows * tensor->ne[0]), sizeof *values, &tile_bytes)) {
        heap.items = malloc(heap_bytes);
        values = malloc(tile_bytes);
    }
    if (heap.items == NULL || values == NULL) {
        status = lq_error_nomem(err, "the candidates of a mask");
        goto out;
    }
    status = scan_tensor(job, &heap, values, tile_rows, err);
    if (status == LQ_OK) {
        qsort(heap.items, heap.count, sizeof *heap.items, compare_best_first);
        write_ranks(&heap, out);
        status = out->failed ? lq_error_nomem(err, "the candidates of a mask") : LQ_OK;
    }
out:
    free(heap.items);
    free(values);
    return status;
}

enum lq_status lq_super_rank_scores(const float *scores, uint64_t count, double scale,
                                    uint64_t keep, struct lq_buffer *out, struct lq_error *err)
{
    struct heap heap = {.capacity = (size_t)(keep < count ? keep : count)};
    size_t heap_bytes = 0;
    if (lq_mul_size(heap.capacity, sizeof *heap.items, &heap_bytes)) {
        heap.items = malloc(heap_bytes + 1);
    }
    if (heap.items == NULL) {
        return lq_error_nomem(err, "the ranks of weights");
    }
    enum lq_status status = LQ_OK;
    for (uint64_t i = 0; i < count && heap.capacity > 0; i++) {
        if (!isfinite(scores[i])) {
            status = lq_error_set(err, LQ_EIMPORTANCE,
                                  "the score of weight %" PRIu64 " is NaN or infinite", i);
            break;
        }
        heap_offer(&heap, (struct lq_weight_rank){(double)scores[i] * scale, i});
    }
    if (status == LQ_OK) {
        qsort(heap.items, heap.count, sizeof *heap.items, compare_best_first);
        write_ranks(&heap, out);
        status = out->failed ? lq_error_nomem(err, "the ranks of weights") : LQ_OK;
    }
    free(heap.items);
    return status;
}

/* ---------------------------------------------------------- the best of all ---- */

/* The head of one list, with a piece of it read ahead. */
struct cursor {
    uint64_t next; /* number of the head */
    uint64_t read; /* candidates read so far */
    size_t at;     /* of the head within `bytes` */
    unsigned char bytes[READ_AHEAD * LQ_WEIGHT_RANK_BYTES];
    struct lq_weight_rank head;
    bool done;
};

static enum lq_status cursor_advance(const struct lq_super_lists *lists, size_t list,
                                     struct cursor *cursor, struct lq_error *err)
{
    uint64_t count = lists->counts[list];
    if (cursor->next >= count) {
        cursor->done = true;
        return LQ_OK;
    }
    if (cursor->next == cursor->read) {
        uint64_t left = count - cursor->read;
        size_t piece = left < READ_AHEAD ? (size_t)left : READ_AHEAD;
        enum lq_status status =
            lists->read(lists->user, list, cursor->read, cursor->bytes, piece, err);
        if (status != LQ_OK) {
            return status;
        }
        cursor->read += piece;
        cursor->at = 0;
    }
    cursor->head = lq_weight_rank_read(cursor->bytes + cursor->at * LQ_WEIGHT_RANK_BYTES);
    cursor->at++;
    cursor->next++;
    return LQ_OK;
}

/* A heap of lists, the one with the best head on top; equal scores go to the earlier list. */
static bool list_is_better(const struct cursor *cursors, size_t a, size_t b)
{
    double x = cursors[a].head.score;
    double y = cursors[b].head.score;
    return x != y ? x > y : a < b;
}

static void lists_sift(const struct cursor *cursors, size_t *order, size_t count, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && list_is_better(cursors, order[child + 1], order[child])) {
            child++;
        }
        if (!list_is_better(cursors, order[child], order[at])) {
            return;
        }
        size_t swapped = order[at];
        order[at] = order[child];
        order[child] = swapped;
        at = child;
    }
}

static enum lq_status select_best(const struct lq_super_lists *lists, struct cursor *cursors,
                                  size_t *order, uint64_t keep, uint64_t *taken,
                                  struct lq_error *err)
{
    size_t count = 0;
    for (size_t i = 0; i < lists->list_count; i++) {
        taken[i] = 0;
        enum lq_status status = cursor_advance(lists, i, &cursors[i], err);
        if (status != LQ_OK) {
            return status;
        }
        if (!cursors[i].done) {
            order[count++] = i;
        }
    }
    for (size_t i = count; i-- > 0;) {
        lists_sift(cursors, order, count, i);
    }
    for (uint64_t kept = 0; kept < keep && count > 0; kept++) {
        size_t best = order[0];
        taken[best]++;
        enum lq_status status = cursor_advance(lists, best, &cursors[best], err);
        if (status != LQ_OK) {
            return status;
        }
        if (cursors[best].done) {
            order[0] = order[--count];
        }
        lists_sift(cursors, order, count, 0);
    }
    return LQ_OK;
}

enum lq_status lq_super_select(const struct lq_super_lists *lists, uint64_t keep, uint64_t *taken,
                               struct lq_error *err)
{
    struct cursor *cursors = calloc(lists->list_count + 1, sizeof *cursors);
    size_t *order = calloc(lists->list_count + 1, sizeof *order);
    enum lq_status status = LQ_OK;
    if (cursors == NULL || order == NULL) {
        status = lq_error_nomem(err, "the selection of a mask");
    } else {
        status = select_best(lists, cursors, order, keep, taken, err);
    }
    free(cursors);
    free(order);
    return status;
}

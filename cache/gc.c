/* Garbage collection: what nothing refers to, then what was not used for longest. It works in two
 * steps, so that a running build never sees a result whose blobs are gone: names of results first,
 * then, after every look-up that could still have seen them is over, the blobs that only they named
 * and that nobody has marked meanwhile. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/index.h"
#include "cache/replace.h"
#include "cache/upkeep.h"
#include "engine/base/reader.h"

enum {
    BATCH_ACTIONS = 512, /* names removed in one transaction */
    BATCH_BLOBS = 64,
    BATCH_FILES = 1024,
    GRACE_MS = 50,   /* longer than a look-up, from reading a record to marking its blobs */
    WAIT_MS = 20000, /* for another collector */
};

/* What may go, oldest first. */
struct candidate {
    uint64_t used;
    uint32_t number;
    bool is_file; /* a description, else an action */
};

struct gc {
    struct lq_cache *cache;
    const struct lq_gc_options *options;
    struct lq_gc_result *result;
    struct lq_index index;
    struct lq_mark_set *marks;
    struct candidate *candidates;
    size_t candidate_count;
    size_t chosen_count; /* of the candidates, in their order */
    uint32_t *dead;      /* blobs, concatenations before their parts */
    size_t dead_count;
    uint64_t live_bytes;
    uint64_t now;
    uint64_t deadline_ns;
};

static bool is_late(const struct gc *gc)
{
    return gc->deadline_ns != 0 && lq_clock_ns() >= gc->deadline_ns;
}

static bool is_marked(const struct gc *gc, const struct lq_digest *digest)
{
    return lq_mark_set_has(gc->marks, digest);
}

/* ---- choosing ---- */

/* One reference less; true for a blob that dies of it. */
static bool release_one(struct gc *gc, uint32_t number)
{
    struct lq_index_blob *blob = &gc->index.blobs[number];
    if (blob->refs > 0) {
        blob->refs--;
    }
    if (blob->refs > 0 || blob->dead || blob->pinned || is_marked(gc, &blob->digest)) {
        return false;
    }
    blob->dead = true;
    gc->dead[gc->dead_count++] = number;
    gc->live_bytes -= blob->stored_bytes < gc->live_bytes ? blob->stored_bytes : gc->live_bytes;
    return true;
}

/* With a blob may die its parts, which have none: no record of ours refers to one that refers. */
static void release_blob(struct gc *gc, uint32_t number)
{
    const struct lq_index_blob *blob = &gc->index.blobs[number];
    uint32_t count = release_one(gc, number) ? blob->part_count : 0;
    for (uint32_t i = 0; i < count; i++) {
        (void)release_one(gc, gc->index.links[blob->part_first + i]);
    }
}

static void release_unreferenced(struct gc *gc)
{
    for (size_t i = 0; i < gc->index.blob_count; i++) {
        if (gc->index.blobs[i].refs == 0) {
            release_blob(gc, (uint32_t)i);
        }
    }
}

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *left = a;
    const struct candidate *right = b;
    if (left->used != right->used) {
        return left->used < right->used ? -1 : 1;
    }
    return left->number < right->number ? -1 : left->number > right->number;
}

static enum lq_status list_candidates(struct gc *gc, struct lq_error *err)
{
    const struct lq_index *index = &gc->index;
    gc->candidates = calloc(index->action_count + index->file_count + 1, sizeof *gc->candidates);
    gc->dead = calloc(index->blob_count + 1, sizeof *gc->dead);
    if (gc->candidates == NULL || gc->dead == NULL) {
        return lq_error_nomem(err, "the list of what may go");
    }
    for (size_t i = 0; i < index->action_count; i++) {
        gc->candidates[gc->candidate_count++] =
            (struct candidate){.used = index->actions[i].used, .number = (uint32_t)i};
    }
    for (size_t i = 0; i < index->file_count; i++) {
        gc->candidates[gc->candidate_count++] = (struct candidate){
            .used = index->files[i].used, .number = (uint32_t)i, .is_file = true};
    }
    qsort(gc->candidates, gc->candidate_count, sizeof *gc->candidates, compare_candidates);
    return LQ_OK;
}

static bool is_wanted(const struct gc *gc, const struct candidate *candidate)
{
    if (candidate->is_file) {
        const struct lq_index_blob *blob =
            &gc->index.blobs[gc->index.files[candidate->number].blob];
        return blob->pinned || is_marked(gc, &blob->digest);
    }
    const struct lq_index_action *action = &gc->index.actions[candidate->number];
    return action->pinned || is_marked(gc, &action->key);
}

static void choose(struct gc *gc)
{
    uint64_t age_max = gc->options->age_seconds_max;
    uint64_t size_max = gc->options->size_bytes_max;
    for (size_t i = 0; i < gc->candidate_count; i++) {
        const struct candidate candidate = gc->candidates[i];
        bool too_old = age_max != 0 && gc->now - candidate.used > age_max;
        bool too_large = size_max != 0 && gc->live_bytes > size_max;
        if (!too_old && !too_large) {
            break;
        }
        if (is_wanted(gc, &candidate)) {
            gc->result->needed_actions++;
            continue;
        }
        gc->candidates[gc->chosen_count++] = candidate;
        if (candidate.is_file) {
            release_blob(gc, gc->index.files[candidate.number].blob);
            continue;
        }
        const struct lq_index_action *action = &gc->index.actions[candidate.number];
        for (uint32_t k = 0; k < action->output_count; k++) {
            release_blob(gc, gc->index.links[action->output_first + k]);
        }
    }
}

/* ---- removing names ---- */

struct names {
    struct gc *gc;
    size_t first, count;
    uint64_t removed;
};

static enum lq_status delete_action(struct lq_txn *txn, const struct lq_digest *key,
                                    struct lq_error *err)
{
    enum lq_status status =
        lq_txn_del(txn, LQ_DB_ACTIONS, &(struct lq_bytes){key->bytes, LQ_DIGEST_BYTES}, NULL, err);
    status = status == LQ_OK ? lq_blob_count_removal(txn, err) : status;
    return status == LQ_OK ? lq_use_remove(txn, LQ_USE_ACTION, key, err) : status;
}

/* Somebody may have come to need them since they were chosen. */
static enum lq_status remove_names(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct names *names = user;
    struct gc *gc = names->gc;
    struct lq_mark_set *marks = NULL;
    enum lq_status status = lq_mark_set_read(&marks, gc->cache->dir, err);
    names->removed = 0;
    for (size_t i = 0; i < names->count && status == LQ_OK; i++) {
        const struct candidate *candidate = &gc->candidates[names->first + i];
        if (candidate->is_file) {
            const struct lq_index_file *file = &gc->index.files[candidate->number];
            const struct lq_digest *digest = &gc->index.blobs[file->blob].digest;
            if (!lq_mark_set_has(marks, digest)) {
                struct lq_bytes key = {gc->index.file_keys.data + file->key_offset,
                                       file->key_bytes};
                status = lq_txn_del(txn, LQ_DB_FILES, &key, NULL, err);
                status = status == LQ_OK ? lq_use_remove(txn, LQ_USE_BLOB, digest, err) : status;
            }
            continue;
        }
        const struct lq_index_action *action = &gc->index.actions[candidate->number];
        if (!lq_mark_set_has(marks, &action->key)) {
            status = delete_action(txn, &action->key, err);
            names->removed++;
        }
    }
    lq_mark_set_destroy(marks);
    return status;
}

static enum lq_status remove_chosen(struct gc *gc, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < gc->chosen_count && status == LQ_OK; i += BATCH_ACTIONS) {
        size_t left = gc->chosen_count - i;
        struct names names = {
            .gc = gc, .first = i, .count = left < BATCH_ACTIONS ? left : BATCH_ACTIONS};
        if (i > 0 && is_late(gc)) {
            gc->result->finished = false;
            break;
        }
        status = lq_store_write(gc->cache->store, 0, names.count * 256, remove_names, &names, err);
        gc->result->actions_removed += names.removed;
    }
    return status;
}

/* ---- removing blobs ---- */

struct bodies {
    struct gc *gc;
    const uint32_t *numbers;
    size_t count;
    uint64_t garbage_ids[BATCH_BLOBS];
    bool gone[BATCH_BLOBS];
};

/* True when a result that was stored since the picture was taken, or that stayed, names the blob:
 * then a running process made it or looked at it, and marked the blob. So marks decide. */
static enum lq_status remove_bodies(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct bodies *bodies = user;
    struct gc *gc = bodies->gc;
    struct lq_mark_set *marks = NULL;
    enum lq_status status = lq_mark_set_read(&marks, gc->cache->dir, err);
    for (size_t i = 0; i < bodies->count && status == LQ_OK; i++) {
        const struct lq_digest *digest = &gc->index.blobs[bodies->numbers[i]].digest;
        struct lq_blob_record record;
        bool found = false;
        uint64_t refs = 0;
        bodies->garbage_ids[i] = 0;
        bodies->gone[i] = false;
        if (lq_mark_set_has(marks, digest)) {
            continue;
        }
        status = lq_blob_find(NULL, txn, digest, &record, &found, err);
        if (status == LQ_OK && found) {
            status = lq_blob_ref_count(txn, digest, &refs, err);
        }
        if (status == LQ_OK && found && refs == 0) {
            status = lq_blob_forget(txn, digest, &record, &bodies->garbage_ids[i], err);
            bodies->gone[i] = true;
        }
    }
    lq_mark_set_destroy(marks);
    return status;
}

static enum lq_status remove_batch(struct gc *gc, struct bodies *bodies, struct lq_error *err)
{
    enum lq_status status =
        lq_store_write(gc->cache->store, 0, bodies->count * 1024, remove_bodies, bodies, err);
    for (size_t i = 0; i < bodies->count && status == LQ_OK; i++) {
        const struct lq_index_blob *blob = &gc->index.blobs[bodies->numbers[i]];
        if (bodies->garbage_ids[i] != 0) {
            status = lq_blob_sweep(gc->cache->store, bodies->garbage_ids[i], err);
        }
        gc->result->blobs_removed += bodies->gone[i] ? 1 : 0;
        gc->result->blob_bytes_removed += bodies->gone[i] ? blob->stored_bytes : 0;
    }
    return status;
}

static enum lq_status remove_dead(struct gc *gc, struct lq_error *err)
{
    const struct timespec grace = {.tv_nsec = (long)GRACE_MS * 1000 * 1000};
    enum lq_status status = LQ_OK;
    if (gc->dead_count > 0 && gc->chosen_count > 0) {
        (void)nanosleep(&grace, NULL);
    }
    for (size_t i = 0; i < gc->dead_count && status == LQ_OK; i += BATCH_BLOBS) {
        size_t left = gc->dead_count - i;
        struct bodies bodies = {
            .gc = gc, .numbers = gc->dead + i, .count = left < BATCH_BLOBS ? left : BATCH_BLOBS};
        /* Always one batch, so that every run gets somewhere. */
        if (i > 0 && is_late(gc)) {
            gc->result->finished = false;
            break;
        }
        status = remove_batch(gc, &bodies, err);
    }
    return status;
}

/* ---- files and histories ---- */

struct stale {
    struct gc *gc;
    struct lq_reader reader; /* over stale_files: where this batch begins */
    struct lq_reader after;
    size_t history_first, history_count;
};

static enum lq_status remove_stale(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct stale *stale = user;
    const struct lq_index *index = &stale->gc->index;
    enum lq_status status = LQ_OK;
    stale->after = stale->reader;
    for (int i = 0; i < BATCH_FILES && lq_reader_left(&stale->after) > 0 && status == LQ_OK; i++) {
        uint32_t length = lq_read_u32(&stale->after);
        const void *bytes = lq_read_bytes(&stale->after, length);
        status = stale->after.failed
                     ? LQ_OK
                     : lq_txn_del(txn, LQ_DB_FILES, &(struct lq_bytes){bytes, length}, NULL, err);
    }
    for (size_t i = 0; i < stale->history_count && status == LQ_OK; i++) {
        const struct lq_digest *key = &index->histories[stale->history_first + i];
        status = lq_txn_del(txn, LQ_DB_HISTORY, &(struct lq_bytes){key->bytes, LQ_DIGEST_BYTES},
                            NULL, err);
        status = status == LQ_OK ? lq_use_remove(txn, LQ_USE_HISTORY, key, err) : status;
    }
    return status;
}

static enum lq_status remove_stale_names(struct gc *gc, struct lq_error *err)
{
    struct stale stale = {.gc = gc};
    const struct lq_index *index = &gc->index;
    enum lq_status status = LQ_OK;
    lq_reader_init(&stale.reader, index->stale_files.data, index->stale_files.size_bytes);
    while (status == LQ_OK &&
           (lq_reader_left(&stale.reader) > 0 || stale.history_first < index->history_count)) {
        size_t left = index->history_count - stale.history_first;
        stale.history_count = left < BATCH_FILES ? left : BATCH_FILES;
        status = lq_store_write(gc->cache->store, 0, 64 * 1024, remove_stale, &stale, err);
        stale.reader = stale.after;
        stale.history_first += stale.history_count;
    }
    return status;
}

/* What has no time yet begins to age now. */
static enum lq_status note_unknown(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct gc *gc = user;
    const struct lq_index *index = &gc->index;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < index->action_count && status == LQ_OK; i++) {
        if (index->actions[i].unknown_use) {
            status = lq_use_put(txn, LQ_USE_ACTION, &index->actions[i].key, gc->now, err);
        }
    }
    for (size_t i = 0; i < index->file_count && status == LQ_OK; i++) {
        if (index->files[i].unknown_use) {
            const struct lq_index_blob *blob = &index->blobs[index->files[i].blob];
            status = lq_use_put(txn, LQ_USE_BLOB, &blob->digest, gc->now, err);
        }
    }
    return status;
}

static bool has_unknown(const struct lq_index *index)
{
    bool unknown = false;
    for (size_t i = 0; i < index->action_count && !unknown; i++) {
        unknown = index->actions[i].unknown_use;
    }
    for (size_t i = 0; i < index->file_count && !unknown; i++) {
        unknown = index->files[i].unknown_use;
    }
    return unknown;
}

/* ---- the whole ---- */

static enum lq_status remove_all(struct gc *gc, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    if (has_unknown(&gc->index)) {
        status = lq_store_write(gc->cache->store, 0, 64 * 1024, note_unknown, gc, err);
    }
    status = status == LQ_OK ? remove_chosen(gc, err) : status;
    /* With names left, some of the blobs are not dead yet: the next run finds those that are. */
    status = status == LQ_OK && gc->result->finished ? remove_dead(gc, err) : status;
    return status == LQ_OK ? remove_stale_names(gc, err) : status;
}

static void count_plan(struct gc *gc)
{
    for (size_t i = 0; i < gc->chosen_count; i++) {
        gc->result->actions_removed += gc->candidates[i].is_file ? 0 : 1;
    }
    gc->result->blobs_removed = gc->dead_count;
    for (size_t i = 0; i < gc->dead_count; i++) {
        gc->result->blob_bytes_removed += gc->index.blobs[gc->dead[i]].stored_bytes;
    }
}

typedef void (*gc_choice)(struct gc *gc, const void *what);

static enum lq_status collect(struct gc *gc, gc_choice choice, const void *what,
                              struct lq_error *err)
{
    uint64_t age = gc->options->age_seconds_max;
    uint64_t history_age = (uint64_t)LQ_GC_HISTORY_DAYS * 24 * 3600;
    history_age = age != 0 && age < history_age ? age : history_age;
    lq_marks_remove_dead(gc->cache->dir, gc->cache->locks);
    lq_replace_remove_leftovers(gc->cache->dir);
    enum lq_status status = lq_blob_sweep_dead(gc->cache, err);
    status = status == LQ_OK ? lq_store_live_bytes(gc->cache->store, &gc->live_bytes, err) : status;
    gc->result->before_bytes = gc->live_bytes;
    if (status == LQ_OK) {
        uint64_t limit = gc->now > history_age ? gc->now - history_age : 0;
        status = lq_index_read(&gc->index, gc->cache, gc->now, limit, err);
    }
    status = status == LQ_OK ? lq_mark_set_read(&gc->marks, gc->cache->dir, err) : status;
    status = status == LQ_OK ? list_candidates(gc, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    release_unreferenced(gc);
    choice(gc, what);
    if (gc->options->time_ms_max != 0) {
        gc->deadline_ns = lq_clock_ns() + gc->options->time_ms_max * 1000 * 1000;
    }
    gc->result->files_removed = gc->index.stale_file_count;
    gc->result->histories_removed = gc->index.history_count;
    if (gc->options->dry_run) {
        count_plan(gc);
    } else {
        status = remove_all(gc, err);
        /* What can not be given back stays free pages. */
        (void)lq_store_trim(gc->cache->store, gc->deadline_ns, NULL);
    }
    gc->result->after_bytes = gc->result->before_bytes > gc->result->blob_bytes_removed
                                  ? gc->result->before_bytes - gc->result->blob_bytes_removed
                                  : 0;
    gc->result->actions_kept = gc->index.action_count - gc->result->actions_removed;
    return status;
}

static enum lq_status become_collector(struct lq_cache *cache, bool wait, int *handle,
                                       bool *acquired, struct lq_error *err)
{
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    enum lq_status status = LQ_OK;
    for (int waited_ms = 0; status == LQ_OK; waited_ms += 20) {
        status = lq_locks_try_collector(cache->locks, handle, acquired, err);
        if (*acquired || !wait || waited_ms >= WAIT_MS) {
            break;
        }
        (void)nanosleep(&pause, NULL);
    }
    return status;
}

static enum lq_status run(struct lq_cache *cache, const struct lq_gc_options *options,
                          gc_choice choice, const void *what, struct lq_gc_result *out,
                          struct lq_error *err)
{
    struct gc *gc = calloc(1, sizeof *gc);
    int handle = -1;
    bool acquired = false;
    *out = (struct lq_gc_result){.finished = true};
    if (gc == NULL) {
        return lq_error_nomem(err, "the list of what may go");
    }
    enum lq_status status = become_collector(cache, options->wait, &handle, &acquired, err);
    if (status != LQ_OK || !acquired) {
        out->busy = status == LQ_OK;
        free(gc);
        return status;
    }
    gc->cache = cache;
    gc->options = options;
    gc->result = out;
    gc->now = lq_uses_now();
    /* What this process has used counts as used. */
    status = lq_uses_flush(cache->uses, cache->store, err);
    status = status == LQ_OK ? collect(gc, choice, what, err) : status;
    lq_index_fini(&gc->index);
    lq_mark_set_destroy(gc->marks);
    free(gc->candidates);
    free(gc->dead);
    free(gc);
    lq_locks_release_all(handle);
    return status;
}

static void choose_by_limits(struct gc *gc, const void *what)
{
    (void)what;
    choose(gc);
}

enum lq_status lq_cache_gc(struct lq_cache *cache, const struct lq_gc_options *options,
                           struct lq_gc_result *out, struct lq_error *err)
{
    return run(cache, options, choose_by_limits, NULL, out, err);
}

/* ---- removing by name ---- */

struct selection {
    const char *label; /* or NULL */
    const struct lq_digest *key;
};

static void choose_selected(struct gc *gc, const void *what)
{
    const struct selection *selection = what;
    for (size_t i = 0; i < gc->candidate_count; i++) {
        const struct candidate candidate = gc->candidates[i];
        const struct lq_index_action *action = &gc->index.actions[candidate.number];
        if (candidate.is_file ||
            !(selection->label != NULL ? lq_index_label_below(action->label, selection->label)
                                       : lq_digest_equal(&action->key, selection->key))) {
            continue;
        }
        if (is_wanted(gc, &candidate)) {
            gc->result->needed_actions++;
            continue;
        }
        gc->candidates[gc->chosen_count++] = candidate;
        for (uint32_t k = 0; k < action->output_count; k++) {
            release_blob(gc, gc->index.links[action->output_first + k]);
        }
    }
}

enum lq_status lq_cache_remove_label(struct lq_cache *cache, const char *label,
                                     struct lq_gc_result *out, struct lq_error *err)
{
    const struct lq_gc_options options = {.wait = true};
    const struct selection selection = {.label = label};
    return run(cache, &options, choose_selected, &selection, out, err);
}

enum lq_status lq_cache_remove_key(struct lq_cache *cache, const struct lq_digest *key,
                                   struct lq_gc_result *out, struct lq_error *err)
{
    const struct lq_gc_options options = {.wait = true};
    const struct selection selection = {.key = key};
    return run(cache, &options, choose_selected, &selection, out, err);
}

/* ---- sizes and listing ---- */

enum lq_status lq_cache_live_bytes(struct lq_cache *cache, uint64_t *size_bytes,
                                   struct lq_error *err)
{
    return lq_store_live_bytes(cache->store, size_bytes, err);
}

uint64_t lq_cache_disk_bytes(const struct lq_cache *cache)
{
    return lq_store_disk_bytes(cache->store);
}

void lq_cache_trim(struct lq_cache *cache, uint64_t time_ms_max)
{
    if (lq_store_has_written(cache->store)) {
        (void)lq_store_trim(cache->store, lq_clock_ns() + time_ms_max * 1000 * 1000, NULL);
    }
}

static int compare_actions(const void *a, const void *b)
{
    const struct lq_index_action *left = a;
    const struct lq_index_action *right = b;
    if (left->used != right->used) {
        return left->used < right->used ? -1 : 1;
    }
    int order = strcmp(left->label, right->label);
    return order != 0 ? order : memcmp(left->key.bytes, right->key.bytes, LQ_DIGEST_BYTES);
}

enum lq_status lq_cache_list(struct lq_cache *cache,
                             void (*visit)(void *user, const struct lq_cache_entry *entry),
                             void *user, struct lq_error *err)
{
    struct lq_index index;
    enum lq_status status = lq_index_read(&index, cache, lq_uses_now(), 0, err);
    if (status == LQ_OK && index.action_count > 0) {
        qsort(index.actions, index.action_count, sizeof *index.actions, compare_actions);
    }
    for (size_t i = 0; i < index.action_count && status == LQ_OK; i++) {
        const struct lq_index_action *action = &index.actions[i];
        const struct lq_cache_entry entry = {
            .key = &action->key,
            .label = action->label,
            .size_bytes = action->size_bytes,
            .used_seconds = action->used,
            .output_count = action->output_count,
            .pinned = action->pinned,
        };
        visit(user, &entry);
    }
    lq_index_fini(&index);
    return status;
}

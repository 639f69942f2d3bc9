#include "cache/index.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum {
    PAGE_BYTES = 4096,
    SIGNATURE_BYTES = 40, /* of a file key: device, inode, size, mtime, ctime */
    RESET_EVERY = 1024,   /* records decoded into one arena */
};

/* Room for one more element. */
static bool reserve(void **list, size_t count, size_t *capacity, size_t element_bytes)
{
    if (count < *capacity) {
        return true;
    }
    size_t wanted = *capacity == 0 ? 256 : *capacity * 2;
    size_t size_bytes = 0;
    void *grown = wanted > UINT32_MAX || !lq_mul_size(wanted, element_bytes, &size_bytes)
                      ? NULL
                      : realloc(*list, size_bytes);
    if (grown == NULL) {
        return false;
    }
    *list = grown;
    *capacity = wanted;
    return true;
}

static enum lq_status nomem(struct lq_error *err)
{
    return lq_error_nomem(err, "the list of what the cache holds");
}

static bool add_link(struct lq_index *index, uint32_t blob)
{
    void *list = index->links;
    if (!reserve(&list, index->link_count, &index->link_capacity, sizeof *index->links)) {
        return false;
    }
    index->links = list;
    index->links[index->link_count++] = blob;
    return true;
}

/* Steps to the next record of a table; *key is where it is. */
struct cursor {
    unsigned char key[LQ_STORE_KEY_BYTES_MAX];
    size_t key_bytes;
    struct lq_bytes value;
};

static enum lq_status step(struct lq_txn *txn, enum lq_db db, struct cursor *cursor, bool *found,
                           struct lq_error *err)
{
    struct lq_bytes key = {cursor->key, cursor->key_bytes};
    struct lq_bytes found_key;
    enum lq_status status =
        lq_txn_next(txn, db, &key, cursor->key_bytes > 0, &found_key, &cursor->value, found, err);
    *found = *found && found_key.size_bytes > 0 && found_key.size_bytes <= sizeof cursor->key;
    if (status == LQ_OK && *found) {
        memcpy(cursor->key, found_key.data, found_key.size_bytes);
        cursor->key_bytes = found_key.size_bytes;
    }
    return status;
}

/* ---- blobs ---- */

static uint64_t stored_size(const struct lq_blob_record *record, size_t record_bytes)
{
    return record->stored_bytes / PAGE_BYTES * PAGE_BYTES +
           (record->stored_bytes % PAGE_BYTES == 0 ? 0 : PAGE_BYTES) + record_bytes +
           LQ_DIGEST_BYTES;
}

static enum lq_status read_blobs(struct lq_index *index, struct lq_txn *txn, struct lq_error *err)
{
    struct cursor cursor = {.key_bytes = 0};
    for (;;) {
        bool found = false;
        enum lq_status status = step(txn, LQ_DB_BLOBS, &cursor, &found, err);
        if (status != LQ_OK || !found) {
            return status;
        }
        void *list = index->blobs;
        if (!reserve(&list, index->blob_count, &index->blob_capacity, sizeof *index->blobs)) {
            return nomem(err);
        }
        index->blobs = list;
        struct lq_index_blob *blob = &index->blobs[index->blob_count];
        *blob = (struct lq_index_blob){.refs = 0};
        struct lq_blob_record record;
        const char *why = NULL;
        memcpy(blob->digest.bytes, cursor.key, LQ_DIGEST_BYTES);
        if (cursor.key_bytes != LQ_DIGEST_BYTES ||
            !lq_blob_record_decode(&blob->digest, cursor.value.data, cursor.value.size_bytes,
                                   &record, &why)) {
            continue; /* verify removes it */
        }
        blob->stored_bytes = stored_size(&record, cursor.value.size_bytes);
        blob->part_count = record.kind == LQ_BLOB_JOINED ? record.part_count : 0;
        index->blob_count++;
    }
}

static int compare_digest_to_blob(const void *key, const void *item)
{
    return memcmp(key, ((const struct lq_index_blob *)item)->digest.bytes, LQ_DIGEST_BYTES);
}

uint32_t lq_index_find_blob(const struct lq_index *index, const struct lq_digest *digest)
{
    const struct lq_index_blob *blob = index->blob_count == 0
                                           ? NULL
                                           : bsearch(digest->bytes, index->blobs, index->blob_count,
                                                     sizeof *index->blobs, compare_digest_to_blob);
    return blob == NULL ? (uint32_t)LQ_INDEX_NONE : (uint32_t)(blob - index->blobs);
}

/* A second look at concatenations, now that every blob has its number. */
static enum lq_status link_parts(struct lq_index *index, struct lq_txn *txn, struct lq_error *err)
{
    for (size_t i = 0; i < index->blob_count; i++) {
        struct lq_index_blob *blob = &index->blobs[i];
        struct lq_blob_record record;
        bool found = false;
        if (blob->part_count == 0) {
            continue;
        }
        enum lq_status status = lq_blob_find(NULL, txn, &blob->digest, &record, &found, err);
        if (status != LQ_OK) {
            return status;
        }
        blob->part_first = (uint32_t)index->link_count;
        blob->part_count = 0;
        for (uint32_t k = 0; found && k < record.part_count; k++) {
            struct lq_blob_part part;
            lq_blob_record_part(&record, k, &part);
            uint32_t number = lq_digest_is_zero(&part.digest)
                                  ? (uint32_t)LQ_INDEX_NONE
                                  : lq_index_find_blob(index, &part.digest);
            if (number == LQ_INDEX_NONE) {
                continue;
            }
            if (!add_link(index, number)) {
                return nomem(err);
            }
            blob->part_count++;
            index->blobs[number].refs++;
        }
    }
    return LQ_OK;
}

/* ---- actions ---- */

static enum lq_status add_outputs(struct lq_index *index, struct lq_index_action *action,
                                  const struct lq_action_record *record, struct lq_error *err)
{
    action->output_first = (uint32_t)index->link_count;
    for (size_t i = 0; i < record->output_count; i++) {
        uint32_t number = lq_index_find_blob(index, &record->outputs[i].digest);
        if (number == LQ_INDEX_NONE) {
            continue; /* transient, or lost */
        }
        if (!add_link(index, number)) {
            return nomem(err);
        }
        action->size_bytes += record->outputs[i].size_bytes;
        action->output_count++;
        index->blobs[number].refs++;
    }
    return LQ_OK;
}

static enum lq_status read_actions(struct lq_index *index, struct lq_txn *txn, uint64_t now,
                                   struct lq_error *err)
{
    struct lq_arena arena;
    struct cursor cursor = {.key_bytes = 0};
    enum lq_status status = LQ_OK;
    lq_arena_init(&arena);
    for (size_t decoded = 0; status == LQ_OK; decoded++) {
        bool found = false;
        struct lq_index_action action = {.label = ""};
        struct lq_action_record record;
        const char *why = NULL;
        if (decoded % RESET_EVERY == 0) {
            lq_arena_fini(&arena);
        }
        status = step(txn, LQ_DB_ACTIONS, &cursor, &found, err);
        if (status != LQ_OK || !found) {
            break;
        }
        if (cursor.key_bytes != LQ_DIGEST_BYTES) {
            continue;
        }
        memcpy(action.key.bytes, cursor.key, LQ_DIGEST_BYTES);
        status = lq_action_record_decode(&action.key, cursor.value.data, cursor.value.size_bytes,
                                         &arena, &record, &why, err);
        if (status == LQ_OK && why == NULL) {
            status = add_outputs(index, &action, &record, err);
        }
        if (status == LQ_OK) {
            status = lq_use_get(txn, LQ_USE_ACTION, &action.key, &action.used, err);
        }
        action.unknown_use = action.used == 0;
        /* A time of the future comes from a wrong clock. */
        action.used = action.unknown_use || action.used > now ? now : action.used;
        void *list = index->actions;
        if (status == LQ_OK &&
            !reserve(&list, index->action_count, &index->action_capacity, sizeof *index->actions)) {
            status = nomem(err);
        }
        if (status == LQ_OK) {
            index->actions = list;
            index->actions[index->action_count++] = action;
        }
    }
    lq_arena_fini(&arena);
    return status;
}

/* A result is as recently used as what contains it: the tensor of a file that is built every day is
 * itself looked up only when the file changes. */
static void spread_uses(struct lq_index *index)
{
    for (size_t i = 0; i < index->action_count; i++) {
        const struct lq_index_action *action = &index->actions[i];
        for (uint32_t k = 0; k < action->output_count; k++) {
            struct lq_index_blob *blob = &index->blobs[index->links[action->output_first + k]];
            blob->used = action->used > blob->used ? action->used : blob->used;
        }
    }
    for (size_t i = 0; i < index->blob_count; i++) {
        const struct lq_index_blob *joined = &index->blobs[i];
        for (uint32_t k = 0; k < joined->part_count; k++) {
            struct lq_index_blob *part = &index->blobs[index->links[joined->part_first + k]];
            part->used = joined->used > part->used ? joined->used : part->used;
        }
    }
    for (size_t i = 0; i < index->action_count; i++) {
        struct lq_index_action *action = &index->actions[i];
        for (uint32_t k = 0; k < action->output_count; k++) {
            uint64_t used = index->blobs[index->links[action->output_first + k]].used;
            action->used = used > action->used ? used : action->used;
        }
    }
}

/* ---- labels ---- */

static int compare_key_to_action(const void *key, const void *item)
{
    return memcmp(key, ((const struct lq_index_action *)item)->key.bytes, LQ_DIGEST_BYTES);
}

static struct lq_index_action *find_action(const struct lq_index *index,
                                           const struct lq_digest *key)
{
    return index->action_count == 0 ? NULL
                                    : bsearch(key->bytes, index->actions, index->action_count,
                                              sizeof *index->actions, compare_key_to_action);
}

/* The key of a step is the digest of its manifest, and histories hold manifests by label. */
static enum lq_status set_label(const struct cursor *cursor, struct lq_index *index,
                                bool *labels_action, struct lq_error *err)
{
    *labels_action = false;
    size_t payload_bytes = 0;
    struct lq_reader reader;
    if (!lq_record_unseal(LQ_RECORD_HISTORY, cursor->key, cursor->key_bytes, cursor->value.data,
                          cursor->value.size_bytes, &payload_bytes)) {
        return LQ_OK;
    }
    lq_reader_init(&reader, cursor->value.data, payload_bytes);
    uint32_t length = lq_read_u32(&reader);
    const void *text = lq_read_bytes(&reader, length);
    size_t left = (size_t)lq_reader_left(&reader);
    const void *manifest = lq_read_bytes(&reader, left);
    if (reader.failed) {
        return LQ_OK;
    }
    struct lq_digest key;
    lq_digest_of(left == 0 ? "" : manifest, left, &key);
    struct lq_index_action *action = find_action(index, &key);
    if (action == NULL) {
        return LQ_OK;
    }
    *labels_action = true;
    action->label = lq_arena_dup(&index->arena, text, length);
    return action->label == NULL ? nomem(err) : LQ_OK;
}

/* Old histories are collected on the way; those without a time count as used now, and the one that
 * labels a stored result stays with it. */
static enum lq_status check_history(struct lq_index *index, struct lq_txn *txn,
                                    const struct cursor *cursor, bool labels_action, uint64_t limit,
                                    struct lq_error *err)
{
    struct lq_digest key;
    uint64_t used = 0;
    if (labels_action) {
        return LQ_OK;
    }
    memcpy(key.bytes, cursor->key, LQ_DIGEST_BYTES);
    enum lq_status status = lq_use_get(txn, LQ_USE_HISTORY, &key, &used, err);
    if (status != LQ_OK || used == 0 || used >= limit) {
        return status;
    }
    void *list = index->histories;
    if (!reserve(&list, index->history_count, &index->history_capacity, sizeof *index->histories)) {
        return nomem(err);
    }
    index->histories = list;
    index->histories[index->history_count++] = key;
    return LQ_OK;
}

static enum lq_status read_labels(struct lq_index *index, struct lq_txn *txn, uint64_t limit,
                                  struct lq_error *err)
{
    struct cursor cursor = {.key_bytes = 0};
    for (;;) {
        bool found = false;
        bool labels_action = false;
        enum lq_status status = step(txn, LQ_DB_HISTORY, &cursor, &found, err);
        if (status != LQ_OK || !found) {
            return status;
        }
        if (cursor.key_bytes == LQ_DIGEST_BYTES) {
            status = set_label(&cursor, index, &labels_action, err);
            if (status == LQ_OK) {
                status = check_history(index, txn, &cursor, labels_action, limit, err);
            }
        }
        if (status != LQ_OK) {
            return status;
        }
    }
}

bool lq_index_label_below(const char *label, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(label, prefix, length) == 0 && (label[length] == '\0' || label[length] == '|');
}

/* ---- known files ---- */

struct known {
    size_t offset, key_bytes; /* in file_keys */
    struct lq_digest digest;
};

/* Device and inode name a file as long as it lives, and its ctime only grows: of the signatures of
 * one file and one way of reading, all but the newest are history. */
struct group {
    struct known *items;
    size_t count, capacity;
};

static bool supersedes(const struct lq_index *index, const struct known *a, const struct known *b)
{
    const unsigned char *left = index->file_keys.data + a->offset;
    const unsigned char *right = index->file_keys.data + b->offset;
    return a->key_bytes == b->key_bytes &&
           memcmp(left + SIGNATURE_BYTES, right + SIGNATURE_BYTES,
                  a->key_bytes - SIGNATURE_BYTES) == 0 &&
           memcmp(left + SIGNATURE_BYTES - 8, right + SIGNATURE_BYTES - 8, 8) > 0;
}

static enum lq_status add_description(struct lq_index *index, struct lq_txn *txn,
                                      const struct known *known, uint64_t now, struct lq_error *err)
{
    uint32_t number = lq_index_find_blob(index, &known->digest);
    bool plain = known->key_bytes == SIGNATURE_BYTES + strlen("plain") &&
                 memcmp(index->file_keys.data + known->offset + SIGNATURE_BYTES, "plain",
                        strlen("plain")) == 0;
    if (plain || number == LQ_INDEX_NONE) {
        return LQ_OK;
    }
    void *list = index->files;
    if (!reserve(&list, index->file_count, &index->file_capacity, sizeof *index->files)) {
        return nomem(err);
    }
    index->files = list;
    struct lq_index_file *file = &index->files[index->file_count++];
    *file = (struct lq_index_file){
        .key_offset = known->offset, .key_bytes = known->key_bytes, .blob = number};
    enum lq_status status = lq_use_get(txn, LQ_USE_BLOB, &known->digest, &file->used, err);
    file->unknown_use = file->used == 0;
    file->used = file->unknown_use || file->used > now ? now : file->used;
    index->blobs[number].refs++;
    return status;
}

static enum lq_status end_group(struct lq_index *index, struct lq_txn *txn, struct group *group,
                                uint64_t now, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < group->count && status == LQ_OK; i++) {
        const struct known *known = &group->items[i];
        bool stale = false;
        for (size_t k = 0; k < group->count && !stale; k++) {
            stale = supersedes(index, &group->items[k], known);
        }
        if (stale) {
            lq_buffer_append_u32(&index->stale_files, (uint32_t)known->key_bytes);
            lq_buffer_append(&index->stale_files, index->file_keys.data + known->offset,
                             known->key_bytes);
            index->stale_file_count++;
        } else {
            status = add_description(index, txn, known, now, err);
        }
    }
    group->count = 0;
    return status;
}

static enum lq_status read_files(struct lq_index *index, struct lq_txn *txn, uint64_t now,
                                 struct lq_error *err)
{
    struct group group = {0};
    struct cursor cursor = {.key_bytes = 0};
    unsigned char file[16] = {0};
    enum lq_status status = LQ_OK;
    for (bool found = true; status == LQ_OK;) {
        status = step(txn, LQ_DB_FILES, &cursor, &found, err);
        if (status != LQ_OK || !found) {
            break;
        }
        if (cursor.key_bytes <= SIGNATURE_BYTES || cursor.value.size_bytes < LQ_DIGEST_BYTES) {
            continue;
        }
        if (memcmp(file, cursor.key, sizeof file) != 0) {
            status = end_group(index, txn, &group, now, err);
            memcpy(file, cursor.key, sizeof file);
        }
        void *list = group.items;
        if (status == LQ_OK && !reserve(&list, group.count, &group.capacity, sizeof *group.items)) {
            status = nomem(err);
        }
        if (status == LQ_OK) {
            group.items = list;
            struct known *known = &group.items[group.count++];
            known->offset = index->file_keys.size_bytes;
            known->key_bytes = cursor.key_bytes;
            memcpy(known->digest.bytes, cursor.value.data, LQ_DIGEST_BYTES);
            lq_buffer_append(&index->file_keys, cursor.key, cursor.key_bytes);
            status = index->file_keys.failed ? nomem(err) : LQ_OK;
        }
    }
    status = status == LQ_OK ? end_group(index, txn, &group, now, err) : status;
    free(group.items);
    return status == LQ_OK && index->stale_files.failed ? nomem(err) : status;
}

/* ---- all of it ---- */

enum lq_status lq_index_read(struct lq_index *index, struct lq_cache *cache, uint64_t now,
                             uint64_t history_limit, struct lq_error *err)
{
    memset(index, 0, sizeof *index);
    lq_arena_init(&index->arena);
    lq_buffer_init(&index->file_keys);
    lq_buffer_init(&index->stale_files);
    struct lq_txn txn;
    enum lq_status status = lq_store_flush(cache->store, err);
    status = status == LQ_OK ? lq_store_read_begin(cache->store, &txn, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    status = read_blobs(index, &txn, err);
    status = status == LQ_OK ? link_parts(index, &txn, err) : status;
    status = status == LQ_OK ? read_actions(index, &txn, now, err) : status;
    status = status == LQ_OK ? read_labels(index, &txn, history_limit, err) : status;
    status = status == LQ_OK ? read_files(index, &txn, now, err) : status;
    status = status == LQ_OK ? lq_index_apply_pins(index, &txn, err) : status;
    lq_store_read_end(&txn);
    if (status == LQ_OK) {
        spread_uses(index);
    }
    return status;
}

void lq_index_fini(struct lq_index *index)
{
    free(index->blobs);
    free(index->actions);
    free(index->files);
    free(index->links);
    free(index->histories);
    lq_buffer_fini(&index->file_keys);
    lq_buffer_fini(&index->stale_files);
    lq_arena_fini(&index->arena);
    memset(index, 0, sizeof *index);
}

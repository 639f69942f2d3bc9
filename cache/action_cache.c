#include <string.h>

#include "cache/cache_internal.h"
#include "cache/history.h"

static void note_use(struct lq_cache *cache, const struct lq_digest *key,
                     const struct lq_action_record *record)
{
    lq_marks_add(cache->marks, key);
    for (size_t i = 0; i < record->output_count; i++) {
        lq_marks_add(cache->marks, &record->outputs[i].digest);
    }
    lq_uses_add(cache->uses, LQ_USE_ACTION, key);
}

enum lq_status lq_action_get(struct lq_cache *cache, const struct lq_digest *key,
                             struct lq_arena *arena, struct lq_action_record *out, bool *found,
                             struct lq_error *err)
{
    struct lq_txn txn;
    struct lq_bytes raw_key = {key->bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value;
    const char *why = NULL;
    *found = false;
    memset(out, 0, sizeof *out);
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_txn_get(&txn, LQ_DB_ACTIONS, &raw_key, &value, found, err);
    if (status == LQ_OK && *found) {
        status = lq_action_record_decode(key, value.data, value.size_bytes, arena, out, &why, err);
    }
    if (status == LQ_OK && *found && why == NULL) {
        /* Inside the transaction: see gc.c. */
        note_use(cache, key, out);
    }
    lq_store_read_end(&txn);
    if (status != LQ_OK) {
        *found = false;
        return status;
    }
    if (why != NULL) {
        char hex[LQ_DIGEST_HEX_BYTES];
        memset(out, 0, sizeof *out);
        *found = false;
        lq_cache_warn(cache, "the record of action %.12s is unusable: %s; the step runs again",
                      lq_digest_to_hex(key, hex), why);
    }
    return LQ_OK;
}

struct put {
    const struct lq_digest *key;
    const struct lq_action_record *record;
    struct lq_buffer action;
    struct lq_history_record history; /* empty without a label */
};

/* From now on nobody drops what the action keeps. */
static enum lq_status keep_outputs(struct lq_txn *txn, const struct lq_action_record *record,
                                   struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < record->output_count && status == LQ_OK; i++) {
        const struct lq_action_output *output = &record->outputs[i];
        status =
            output->transient ? LQ_OK : lq_use_remove(txn, LQ_USE_TRANSIENT, &output->digest, err);
    }
    return status;
}

static enum lq_status put_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct put *put = user;
    struct lq_bytes key = {put->key->bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value = {put->action.data, put->action.size_bytes};
    enum lq_status status = lq_txn_put(txn, LQ_DB_ACTIONS, &key, &value, err);
    status = status == LQ_OK ? keep_outputs(txn, put->record, err) : status;
    status =
        status == LQ_OK ? lq_use_put(txn, LQ_USE_ACTION, put->key, lq_uses_now(), err) : status;
    return status == LQ_OK ? lq_history_write(txn, &put->history, err) : status;
}

enum lq_status lq_action_put(struct lq_cache *cache, const struct lq_digest *key,
                             const struct lq_action_record *record, const char *label,
                             const char *manifest, struct lq_error *err)
{
    struct put put = {.key = key, .record = record};
    lq_marks_add(cache->marks, key);
    for (size_t i = 0; i < record->output_count; i++) {
        lq_marks_add(cache->marks, &record->outputs[i].digest);
    }
    lq_buffer_init(&put.action);
    enum lq_status status = lq_history_record_init(&put.history, label, manifest, err);
    if (status == LQ_OK) {
        status = lq_action_record_encode(key, record, &put.action, err);
    }
    if (status == LQ_OK) {
        /* Small outputs that wait in memory become durable together with the record. */
        status = lq_store_write(cache->store, LQ_STORE_WITH_LATER,
                                put.action.size_bytes + put.history.value.size_bytes, put_change,
                                &put, err);
    }
    lq_buffer_fini(&put.action);
    lq_history_record_fini(&put.history);
    return status;
}

static enum lq_status remove_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct lq_digest *key = user;
    enum lq_status status = lq_blob_count_removal(txn, err);
    return status != LQ_OK ? status
                           : lq_txn_del(txn, LQ_DB_ACTIONS,
                                        &(struct lq_bytes){key->bytes, LQ_DIGEST_BYTES}, NULL, err);
}

enum lq_status lq_action_remove(struct lq_cache *cache, const struct lq_digest *key,
                                struct lq_error *err)
{
    struct lq_digest copy = *key;
    return lq_store_write(cache->store, 0, 4096, remove_change, &copy, err);
}

/* Whatever stands in the databases of a cache: the input is a list of records, which are stored as
 * they are, sealed when they ask for it; then everything that reads them runs. For each record: a
 * byte for the database (and 0x80 for a seal), the size of the key, the size of the value, the key,
 * the value. What was verified once has nothing wrong the second time, unless it is refused. */
#include <stdint.h>

#include "cache/record.h"
#include "cache/upkeep.h"
#include "engine/base/buffer.h"
#include "tests/fuzz_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 64, SEALED = 0x80 };

struct input {
    const uint8_t *at, *end;
    struct lq_digest last_key;
};

static enum lq_record_kind kind_of(enum lq_db db)
{
    switch (db) {
    case LQ_DB_BLOBS:
        return LQ_RECORD_BLOB;
    case LQ_DB_ACTIONS:
        return LQ_RECORD_ACTION;
    case LQ_DB_FILES:
        return LQ_RECORD_FILE;
    case LQ_DB_HISTORY:
        return LQ_RECORD_HISTORY;
    default:
        return LQ_RECORD_PIN;
    }
}

static enum lq_status put_one(struct lq_txn *txn, struct input *input, struct lq_error *err)
{
    uint8_t first = input->at[0];
    size_t key_bytes = input->at[1];
    size_t value_bytes = input->at[2];
    size_t left = (size_t)(input->end - input->at) - 3;
    enum lq_db db = (enum lq_db)(LQ_DB_BLOBS + (first & ~SEALED) % (LQ_DB_COUNT - LQ_DB_BLOBS));
    key_bytes = key_bytes < left ? key_bytes : left;
    value_bytes = value_bytes < left - key_bytes ? value_bytes : left - key_bytes;
    struct lq_bytes key = {input->at + 3, key_bytes};
    struct lq_buffer value;
    lq_buffer_init(&value);
    lq_buffer_append(&value, input->at + 3 + key_bytes, value_bytes);
    if ((first & SEALED) != 0) {
        lq_record_seal(kind_of(db), key.data, key.size_bytes, &value);
    }
    struct lq_bytes bytes = {lq_buffer_text(&value), value.size_bytes};
    enum lq_status status =
        key_bytes == 0 || value.failed ? LQ_OK : lq_txn_put(txn, db, &key, &bytes, err);
    lq_buffer_fini(&value);
    memset(&input->last_key, 0, sizeof input->last_key);
    memcpy(input->last_key.bytes, input->at + 3,
           key_bytes < LQ_DIGEST_BYTES ? key_bytes : LQ_DIGEST_BYTES);
    input->at += 3 + key_bytes + value_bytes;
    return status;
}

static enum lq_status put_all(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct input input = *(struct input *)user;
    enum lq_status status = LQ_OK;
    for (int i = 0; i < RECORDS_MAX && input.end - input.at > 3 && status == LQ_OK; i++) {
        status = put_one(txn, &input, err);
    }
    ((struct input *)user)->last_key = input.last_key;
    return status;
}

static void visit(void *user, const struct lq_cache_entry *entry)
{
    *(uint64_t *)user += entry->size_bytes + strlen(entry->label);
}

static void read_some(struct lq_cache *cache, const struct lq_digest *key)
{
    struct lq_arena arena;
    struct lq_action_record record;
    struct lq_cache_stats stats;
    struct lq_gc_result result;
    struct lq_blob_reader *reader = NULL;
    const struct lq_gc_options options = {.size_bytes_max = 1, .dry_run = true};
    const struct lq_file_sig sig = {1, 2, 3, 4, 5};
    struct lq_digest digest;
    char *manifest = NULL;
    bool found = false;
    uint64_t sum = 0;
    lq_arena_init(&arena);
    (void)lq_action_get(cache, key, &arena, &record, &found, NULL);
    (void)lq_history_get(cache, "a", &arena, &manifest, NULL);
    (void)lq_file_digest_get(cache, &sig, "plain", &digest);
    (void)lq_cache_stats_get(cache, &stats, NULL);
    (void)lq_cache_list(cache, visit, &sum, NULL);
    (void)lq_cache_gc(cache, &options, &result, NULL);
    if (lq_blob_open(cache, key, false, &reader, NULL) == LQ_OK && reader != NULL) {
        unsigned char bytes[64];
        uint64_t size_bytes = lq_blob_size(reader);
        size_t step = size_bytes < sizeof bytes ? (size_t)size_bytes : sizeof bytes;
        (void)lq_blob_read(reader, size_bytes - step, bytes, step, NULL);
    }
    lq_blob_close(reader);
    reader = NULL;
    (void)lq_blob_open(cache, key, true, &reader, NULL);
    lq_blob_close(reader);
    lq_arena_fini(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_cache *cache = fuzz_cache_get();
    struct input input = {.at = data, .end = data + size};
    struct lq_error err = {0};
    uint64_t checked = 0;
    uint64_t removed = 0;
    enum lq_status status = lq_store_write(cache->store, 0, size, put_all, &input, &err);
    if (status == LQ_OK) {
        read_some(cache, &input.last_key);
        status = lq_cache_verify(cache, &checked, &removed, &err);
    }
    if (status == LQ_OK) {
        status = lq_cache_verify(cache, &checked, &removed, &err);
    }
    /* A name that is no digest is refused as damage, with what to do. */
    bool refused = status == LQ_ECACHE && strstr(err.message, "--cache-dir") != NULL;
    refused = refused || (status == LQ_ECACHE && strstr(err.message, "remove the folder") != NULL);
    if ((status != LQ_OK && !refused) || (status == LQ_OK && removed != 0)) {
        (void)fprintf(stderr, "verify again: %llu removed; %s\n", (unsigned long long)removed,
                      err.message);
        abort();
    }
    fuzz_cache_empty();
    return 0;
}

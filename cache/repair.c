/* Repair: a new data file is filled with what a damaged one still proves. A plain blob is proven by
 * its digest, a concatenation after its parts by its own, a record by its seal and by what is in
 * it; numbers of chunks, counts of references and garbage are made anew. What cannot be proven is
 * left out, as if it had been removed. */
#define _POSIX_C_SOURCE 200809L
#include "cache/repair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cache/cache_internal.h"
#include "cache/placed.h"
#include "cache/replace.h"
#include "cache/store_file.h"
#include "cache/store_salvage.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum {
    file_key_bytes_min = 5 * 8, /* see file_table.c */
    number_bytes = 8,
    step_bytes = 1024 * 1024,
    /* Reading and hashing in all, in sizes of the file: records thrice, blobs once, concatenations
     * as often as they share parts. More is asked for by a file that was made to be slow. */
    work_factor = 64,
};
static const uint64_t record_bytes_max =
    2 * (uint64_t)LQ_MANIFEST_BYTES_MAX + 64; /* label and manifest; all others are smaller */

/* Where a chunk may be. */
struct chunk {
    uint64_t id, offset;
    uint32_t index, size_bytes;
    bool reached;
};

struct repair {
    struct lq_salvage *salvage;
    struct lq_cache *cache; /* the new one */
    struct chunk *chunks;   /* by id, index, those that trees lead to first */
    size_t chunk_count, chunk_capacity;
    uint64_t work_left;
    unsigned char *value; /* of the record at hand */
    size_t value_capacity;
    unsigned char *step; /* step_bytes of content */
    uint64_t sealed;     /* records whose seal fits */
    bool wants_joined;
    uint64_t format; /* 0: not found */
    uint64_t now;
};

/* ---- reading ---- */

static bool may_work(struct repair *repair, uint64_t size_bytes)
{
    bool fits = size_bytes <= repair->work_left;
    repair->work_left = fits ? repair->work_left - size_bytes : 0;
    return fits;
}

static bool grow_value(struct repair *repair, size_t size_bytes)
{
    if (size_bytes <= repair->value_capacity) {
        return true;
    }
    unsigned char *grown = realloc(repair->value, size_bytes);
    if (grown == NULL) {
        return false;
    }
    repair->value = grown;
    repair->value_capacity = size_bytes;
    return true;
}

/* The value of an entry, in repair->value; *got is false when it cannot be read. */
static enum lq_status read_value(struct repair *repair, const struct lq_salvage_entry *entry,
                                 bool *got, struct lq_error *err)
{
    *got = false;
    if (entry->size_bytes > record_bytes_max || !may_work(repair, entry->size_bytes)) {
        return LQ_OK;
    }
    size_t size_bytes = (size_t)entry->size_bytes;
    if (!grow_value(repair, size_bytes)) {
        return lq_error_nomem(err, "a record");
    }
    *got = lq_salvage_read(repair->salvage, entry->offset, repair->value, size_bytes);
    return LQ_OK;
}

/* ---- chunks ---- */

static enum lq_status note_chunk(void *user, const struct lq_salvage_entry *entry,
                                 struct lq_error *err)
{
    struct repair *repair = user;
    if (entry->key_bytes != LQ_CHUNK_KEY_BYTES || entry->size_bytes > UINT32_MAX ||
        repair->chunk_count == lq_salvage_page_count(repair->salvage)) {
        return LQ_OK; /* every chunk has a page and more */
    }
    if (repair->chunk_count == repair->chunk_capacity) {
        size_t capacity = repair->chunk_capacity == 0 ? 256 : 2 * repair->chunk_capacity;
        struct chunk *grown = realloc(repair->chunks, capacity * sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(err, "the list of chunks");
        }
        repair->chunks = grown;
        repair->chunk_capacity = capacity;
    }
    const unsigned char *index = entry->key + LQ_ID_KEY_BYTES;
    repair->chunks[repair->chunk_count++] = (struct chunk){
        .id = lq_id_from_key(entry->key),
        .index = (uint32_t)index[0] << 24 | (uint32_t)index[1] << 16 | (uint32_t)index[2] << 8 |
                 (uint32_t)index[3],
        .offset = entry->offset,
        .size_bytes = (uint32_t)entry->size_bytes,
        .reached = entry->reached,
    };
    return LQ_OK;
}

static int compare_names(const struct chunk *a, const struct chunk *b)
{
    if (a->id != b->id) {
        return a->id < b->id ? -1 : 1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

static int compare_chunks(const void *left, const void *right)
{
    const struct chunk *a = left;
    const struct chunk *b = right;
    int order = compare_names(a, b);
    if (order == 0) {
        order = (int)b->reached - (int)a->reached;
    }
    return order != 0 ? order : (a->offset > b->offset) - (a->offset < b->offset);
}

/* The first place where a chunk of that size may be; NULL: none. */
static const struct chunk *find_chunk(const struct repair *repair, uint64_t id, uint32_t index,
                                      size_t size_bytes)
{
    const struct chunk wanted = {.id = id, .index = index};
    size_t low = 0;
    size_t high = repair->chunk_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_names(&repair->chunks[middle], &wanted) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (; low < repair->chunk_count && compare_names(&repair->chunks[low], &wanted) == 0; low++) {
        if (repair->chunks[low].size_bytes == size_bytes) {
            return &repair->chunks[low];
        }
    }
    return NULL;
}

/* ---- blobs ---- */

/* What a blob lacks is told by *whole; other failures are errors. */
static enum lq_status copy_chunk(struct repair *repair, const struct chunk *chunk,
                                 struct lq_blob_writer *writer, bool *whole, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    *whole = chunk != NULL && may_work(repair, chunk->size_bytes);
    for (uint32_t done = 0; *whole && done < chunk->size_bytes && status == LQ_OK;) {
        uint32_t left = chunk->size_bytes - done;
        uint32_t size = left < step_bytes ? left : step_bytes;
        *whole = lq_salvage_read(repair->salvage, chunk->offset + done, repair->step, size);
        status = *whole ? lq_blob_write(writer, repair->step, size, err) : LQ_OK;
        done += size;
    }
    return status;
}

static enum lq_status copy_chunks(struct repair *repair, const struct lq_blob_record *record,
                                  struct lq_blob_writer *writer, bool *whole, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    *whole = true;
    for (uint32_t i = 0; i < record->chunk_count && *whole && status == LQ_OK; i++) {
        const struct chunk *chunk =
            find_chunk(repair, record->id, i, lq_blob_record_chunk(record, i));
        status = copy_chunk(repair, chunk, writer, whole, err);
    }
    return status;
}

/* The next `size_bytes` of the inline chunks. */
static enum lq_status copy_inline(struct repair *repair, const struct lq_blob_record *record,
                                  uint64_t from, uint64_t size_bytes, struct lq_blob_writer *writer,
                                  bool *whole, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (uint64_t at = from; *whole && at < from + size_bytes && status == LQ_OK;) {
        uint32_t index = (uint32_t)(at / record->chunk_bytes);
        uint32_t inside = (uint32_t)(at % record->chunk_bytes);
        const struct chunk *found =
            find_chunk(repair, record->id, index, lq_blob_record_chunk(record, index));
        *whole = found != NULL;
        if (*whole) {
            uint64_t left = from + size_bytes - at;
            struct chunk part = *found;
            part.offset += inside;
            part.size_bytes -= inside;
            part.size_bytes = left < part.size_bytes ? (uint32_t)left : part.size_bytes;
            status = copy_chunk(repair, &part, writer, whole, err);
            at += part.size_bytes;
        }
    }
    return status;
}

static enum lq_status copy_part(struct repair *repair, const struct lq_blob_part *part,
                                struct lq_blob_writer *writer, bool *whole, struct lq_error *err)
{
    uint64_t stored_bytes = 0;
    *whole = lq_blob_exists(repair->cache, &part->digest, &stored_bytes) &&
             stored_bytes == part->size_bytes && may_work(repair, part->size_bytes);
    return *whole ? lq_blob_write_blob(writer, &part->digest, err) : LQ_OK;
}

static enum lq_status copy_parts(struct repair *repair, const struct lq_blob_record *record,
                                 struct lq_blob_writer *writer, bool *whole, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    uint64_t inline_at = 0;
    *whole = true;
    for (uint32_t i = 0; i < record->part_count && *whole && status == LQ_OK; i++) {
        struct lq_blob_part part;
        lq_blob_record_part(record, i, &part);
        if (!lq_digest_is_zero(&part.digest)) {
            status = copy_part(repair, &part, writer, whole, err);
        } else {
            status = copy_inline(repair, record, inline_at, part.size_bytes, writer, whole, err);
            inline_at += part.size_bytes;
        }
    }
    return status;
}

static enum lq_status copy_content(struct repair *repair, const struct lq_blob_record *record,
                                   struct lq_blob_writer *writer, bool *whole, struct lq_error *err)
{
    *whole = true;
    switch (record->kind) {
    case LQ_BLOB_SMALL:
        return lq_blob_write(writer, record->data, (size_t)record->size_bytes, err);
    case LQ_BLOB_CHUNKS:
        return copy_chunks(repair, record, writer, whole, err);
    default:
        return copy_parts(repair, record, writer, whole, err);
    }
}

static enum lq_status put(struct repair *repair, enum lq_db db,
                          const struct lq_salvage_entry *entry, struct lq_error *err)
{
    struct lq_bytes key = {entry->key, entry->key_bytes};
    struct lq_bytes value = {repair->value, (size_t)entry->size_bytes};
    return lq_store_later(repair->cache->store, db, &key, &value, true, err);
}

/* Content in a file outside is as proven as the digest of a file: its record has a seal. */
static enum lq_status save_blob(struct repair *repair, const struct lq_salvage_entry *entry,
                                const struct lq_digest *digest, const struct lq_blob_record *record,
                                struct lq_error *err)
{
    struct lq_blob_writer *writer = NULL;
    bool whole = false;
    bool same = false;
    if (lq_blob_exists(repair->cache, digest, NULL)) {
        return LQ_OK;
    }
    if (record->kind == LQ_BLOB_PLACED) {
        return lq_placed_is_there(record) ? put(repair, LQ_DB_BLOBS, entry, err) : LQ_OK;
    }
    enum lq_status status = lq_blob_begin(repair->cache, &writer, err);
    if (status != LQ_OK) {
        return status;
    }
    status = copy_content(repair, record, writer, &whole, err);
    if (status != LQ_OK || !whole) {
        lq_blob_abort(writer);
        return status;
    }
    return lq_blob_commit_as(writer, digest, &same, err);
}

static enum lq_status visit_blob(void *user, const struct lq_salvage_entry *entry,
                                 struct lq_error *err)
{
    struct repair *repair = user;
    struct lq_digest digest;
    struct lq_blob_record record;
    const char *why = NULL;
    bool got = false;
    if (entry->key_bytes != LQ_DIGEST_BYTES) {
        return LQ_OK;
    }
    enum lq_status status = read_value(repair, entry, &got, err);
    if (!got) {
        return status;
    }
    memcpy(digest.bytes, entry->key, LQ_DIGEST_BYTES);
    if (!lq_blob_record_decode(&digest, repair->value, (size_t)entry->size_bytes, &record, &why)) {
        return LQ_OK;
    }
    repair->sealed++;
    return (record.kind == LQ_BLOB_JOINED) == repair->wants_joined
               ? save_blob(repair, entry, &digest, &record, err)
               : LQ_OK;
}

/* ---- records ---- */

static bool has_seal(const struct repair *repair, enum lq_record_kind kind,
                     const struct lq_salvage_entry *entry, size_t *payload_bytes)
{
    return lq_record_unseal(kind, entry->key, entry->key_bytes, repair->value,
                            (size_t)entry->size_bytes, payload_bytes);
}

static enum lq_status is_action(const struct repair *repair, const struct lq_salvage_entry *entry,
                                bool *good, struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_action_record record;
    struct lq_digest key;
    const char *why = NULL;
    memcpy(key.bytes, entry->key, LQ_DIGEST_BYTES);
    lq_arena_init(&arena);
    enum lq_status status = lq_action_record_decode(&key, repair->value, (size_t)entry->size_bytes,
                                                    &arena, &record, &why, err);
    lq_arena_fini(&arena);
    *good = status == LQ_OK && why == NULL;
    return status;
}

/* The key is the digest of the label that stands in it. */
static bool is_history(const struct repair *repair, const struct lq_salvage_entry *entry)
{
    size_t payload_bytes = 0;
    struct lq_digest digest;
    struct lq_reader reader;
    if (!has_seal(repair, LQ_RECORD_HISTORY, entry, &payload_bytes)) {
        return false;
    }
    lq_reader_init(&reader, repair->value, payload_bytes);
    uint32_t label_bytes = lq_read_u32(&reader);
    const void *label = lq_read_bytes(&reader, label_bytes);
    if (reader.failed) {
        return false;
    }
    lq_digest_of(label, label_bytes, &digest);
    return memcmp(digest.bytes, entry->key, LQ_DIGEST_BYTES) == 0;
}

static bool is_pin(const struct repair *repair, const struct lq_salvage_entry *entry)
{
    size_t payload_bytes = 0;
    struct lq_digest digest;
    if (!has_seal(repair, LQ_RECORD_PIN, entry, &payload_bytes)) {
        return false;
    }
    lq_digest_of(repair->value, payload_bytes, &digest);
    return memcmp(digest.bytes, entry->key, LQ_DIGEST_BYTES) == 0;
}

static enum lq_status visit_named(struct repair *repair, const struct lq_salvage_entry *entry,
                                  struct lq_error *err)
{
    bool got = false;
    bool good = false;
    enum lq_status status = read_value(repair, entry, &got, err);
    if (!got) {
        return status;
    }
    status = is_action(repair, entry, &good, err);
    enum lq_db db = LQ_DB_ACTIONS;
    if (status == LQ_OK && !good && is_history(repair, entry)) {
        good = true;
        db = LQ_DB_HISTORY;
    } else if (status == LQ_OK && !good && is_pin(repair, entry)) {
        good = true;
        db = LQ_DB_PINS;
    }
    repair->sealed += good ? 1 : 0;
    return good ? put(repair, db, entry, err) : status;
}

/* Times of use have no seal; one that is wrong makes an entry look older than it is. */
static enum lq_status visit_use(struct repair *repair, const struct lq_salvage_entry *entry,
                                struct lq_error *err)
{
    unsigned char kind = entry->key[0];
    bool got = false;
    if (entry->size_bytes != number_bytes ||
        (kind != LQ_USE_ACTION && kind != LQ_USE_BLOB && kind != LQ_USE_HISTORY)) {
        return LQ_OK;
    }
    enum lq_status status = read_value(repair, entry, &got, err);
    if (!got) {
        return status;
    }
    struct lq_reader reader;
    lq_reader_init(&reader, repair->value, number_bytes);
    return lq_read_u64(&reader) <= repair->now ? put(repair, LQ_DB_USES, entry, err) : LQ_OK;
}

static enum lq_status visit_file(struct repair *repair, const struct lq_salvage_entry *entry,
                                 struct lq_error *err)
{
    size_t payload_bytes = 0;
    bool got = false;
    if (entry->size_bytes != LQ_DIGEST_BYTES + LQ_SEAL_BYTES) {
        return LQ_OK;
    }
    enum lq_status status = read_value(repair, entry, &got, err);
    if (!got || !has_seal(repair, LQ_RECORD_FILE, entry, &payload_bytes)) {
        return status;
    }
    repair->sealed++;
    return put(repair, LQ_DB_FILES, entry, err);
}

static enum lq_status visit_record(void *user, const struct lq_salvage_entry *entry,
                                   struct lq_error *err)
{
    struct repair *repair = user;
    if (entry->key_bytes == LQ_DIGEST_BYTES) {
        return visit_named(repair, entry, err);
    }
    if (entry->key_bytes == LQ_USE_KEY_BYTES) {
        return visit_use(repair, entry, err);
    }
    return entry->key_bytes > file_key_bytes_min ? visit_file(repair, entry, err) : LQ_OK;
}

static enum lq_status visit_format(void *user, const struct lq_salvage_entry *entry,
                                   struct lq_error *err)
{
    static const char key[] = "format";
    struct repair *repair = user;
    bool got = false;
    if (repair->format != 0 || entry->key_bytes != sizeof key - 1 ||
        memcmp(entry->key, key, sizeof key - 1) != 0 || entry->size_bytes != sizeof(uint32_t)) {
        return LQ_OK;
    }
    enum lq_status status = read_value(repair, entry, &got, err);
    if (got) {
        struct lq_reader reader;
        lq_reader_init(&reader, repair->value, sizeof(uint32_t));
        repair->format = lq_read_u32(&reader);
    }
    return status;
}

/* ---- all of it ---- */

/* Whoever remembers how many removals there were must see another number. */
static enum lq_status put_removals(struct repair *repair, struct lq_error *err)
{
    static const char name[] = "removals";
    struct timespec now = {.tv_sec = 0};
    unsigned char value[LQ_ID_KEY_BYTES];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    lq_id_key((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, value);
    struct lq_bytes key = {name, sizeof name - 1};
    struct lq_bytes bytes = {value, sizeof value};
    return lq_store_later(repair->cache->store, LQ_DB_META, &key, &bytes, false, err);
}

static enum lq_status save_all(struct repair *repair, struct lq_error *err)
{
    struct lq_salvage *salvage = repair->salvage;
    enum lq_status status = lq_salvage_each(salvage, note_chunk, repair, err);
    if (status == LQ_OK && repair->chunk_count > 0) {
        qsort(repair->chunks, repair->chunk_count, sizeof *repair->chunks, compare_chunks);
    }
    for (int joined = 0; joined < 2 && status == LQ_OK; joined++) {
        repair->wants_joined = joined == 1;
        status = lq_salvage_each(salvage, visit_blob, repair, err);
    }
    status = status == LQ_OK ? lq_salvage_each(salvage, visit_record, repair, err) : status;
    status = status == LQ_OK ? put_removals(repair, err) : status;
    return status == LQ_OK ? lq_store_flush(repair->cache->store, err) : status;
}

static void count_lost(const struct lq_salvage *salvage, struct lq_repair_result *out)
{
    uint64_t results = 0;
    uint64_t blobs = 0;
    uint64_t blobs_saved =
        out->saved.blob_count + out->saved.joined_count + out->saved.placed_count;
    out->lost_known = lq_salvage_table(salvage, "actions", &results) &&
                      lq_salvage_table(salvage, "blobs", &blobs);
    /* A number that is wrong itself is not believed. */
    uint64_t most = lq_salvage_file_bytes(salvage) / LQ_DIGEST_BYTES;
    out->lost_known = out->lost_known && results <= most && blobs <= most;
    if (out->lost_known) {
        out->results_lost =
            results > out->saved.action_count ? results - out->saved.action_count : 0;
        out->blobs_lost = blobs > blobs_saved ? blobs - blobs_saved : 0;
    }
}

static enum lq_status fill(struct repair *repair, const struct lq_cache_options *options,
                           const char *folder, struct lq_repair_result *out, struct lq_error *err)
{
    const struct lq_cache_options new_options = {.dir = folder, .fatal = options->fatal};
    enum lq_status status = lq_cache_open(&repair->cache, &new_options, err);
    status = status == LQ_OK ? save_all(repair, err) : status;
    status = status == LQ_OK ? lq_cache_stats_get(repair->cache, &out->saved, err) : status;
    lq_cache_close(repair->cache);
    repair->cache = NULL;
    if (status == LQ_OK) {
        count_lost(repair->salvage, out);
    }
    return status;
}

/* Another program's file, and another format, are left alone. */
static enum lq_status check_format(const struct repair *repair, const char *dir,
                                   struct lq_error *err)
{
    return repair->format == 0 || repair->format == LQ_STORE_FORMAT
               ? LQ_OK
               : lq_error_set(err, LQ_ECACHE,
                              "cache folder %s: it has format %llu and this lqbuild repairs format "
                              "%d; upgrade lqbuild, or use another folder with --cache-dir",
                              dir, (unsigned long long)repair->format, (int)LQ_STORE_FORMAT);
}

static enum lq_status repair_damaged(struct repair *repair, struct lq_replace *replace,
                                     const struct lq_cache_options *options,
                                     struct lq_repair_result *out, struct lq_error *err)
{
    struct stat st;
    uint64_t used_bytes =
        stat(replace->data, &st) == 0 ? (uint64_t)st.st_blocks * 512 : out->before_bytes;
    repair->work_left = work_factor * (out->before_bytes + step_bytes);
    repair->now = lq_cache_now();
    repair->step = malloc(step_bytes);
    if (repair->step == NULL) {
        return lq_error_nomem(err, "a repair");
    }
    enum lq_status status = lq_salvage_each(repair->salvage, visit_format, repair, err);
    status = status == LQ_OK ? check_format(repair, options->dir, err) : status;
    status = status == LQ_OK ? lq_replace_make_folder(replace, used_bytes, err) : status;
    status = status == LQ_OK ? fill(repair, options, replace->folder, out, err) : status;
    if (status == LQ_OK && repair->sealed == 0 && repair->format == 0) {
        return lq_error_set(err, LQ_ECACHE,
                            "%s: nothing in it is of a cache; remove it to start with an empty "
                            "cache, or use another folder with --cache-dir",
                            replace->data);
    }
    return status == LQ_OK ? lq_replace_commit(replace, err) : status;
}

/* Sound pages may still hold what lqbuild cannot open; nothing in them can hurt LMDB. */
static enum lq_status is_sound(const struct repair *repair, const struct lq_cache_options *options,
                               bool *sound, struct lq_error *err)
{
    struct lq_store *store = NULL;
    const struct lq_store_options store_options = {.dir = options->dir, .fatal = options->fatal};
    uint64_t size_bytes = 0;
    *sound = lq_salvage_is_sound(repair->salvage) &&
             lq_store_check_data(options->dir, &size_bytes, NULL) == LQ_OK;
    if (!*sound) {
        return LQ_OK;
    }
    enum lq_status status = lq_store_open(&store, &store_options, err);
    lq_store_close(store);
    *sound = status == LQ_OK;
    return status == LQ_ECACHE ? LQ_OK : status;
}

static enum lq_status repair_alone(struct lq_replace *replace,
                                   const struct lq_cache_options *options,
                                   struct lq_repair_result *out, struct lq_error *err)
{
    struct repair repair = {.salvage = NULL};
    struct stat st;
    if (stat(replace->data, &st) != 0 && errno == ENOENT) {
        out->sound = true;
        return LQ_OK;
    }
    enum lq_status status = lq_salvage_open(&repair.salvage, replace->data, err);
    if (status == LQ_OK) {
        out->before_bytes = lq_salvage_file_bytes(repair.salvage);
        out->sound = out->before_bytes == 0;
    }
    if (status == LQ_OK && !out->sound) {
        status = is_sound(&repair, options, &out->sound, err);
    }
    if (status == LQ_OK && !out->sound) {
        lq_error_clear(err);
        status = repair_damaged(&repair, replace, options, out, err);
    }
    out->after_bytes = stat(replace->data, &st) == 0 ? (uint64_t)st.st_size : 0;
    lq_salvage_close(repair.salvage);
    free(repair.chunks);
    free(repair.value);
    free(repair.step);
    return status;
}

enum lq_status lq_cache_repair(const struct lq_cache_options *options, struct lq_repair_result *out,
                               struct lq_error *err)
{
    struct lq_replace replace;
    memset(out, 0, sizeof *out);
    enum lq_status status = lq_replace_begin(&replace, options->dir, "repair", err);
    if (status == LQ_OK) {
        status = repair_alone(&replace, options, out, err);
    }
    lq_replace_end(&replace);
    return status;
}

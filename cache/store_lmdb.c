#define _GNU_SOURCE
#include "cache/store_lmdb.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_batch.h"
#include "cache/store_file.h"
#include "cache/store_later.h"
#include "engine/base/compiler.h"
#include "engine/base/reader.h"

enum {
    reader_slots = 510, /* threads of all processes that read at the same moment */
    writes_between_checks = 64,
    idle_max = 32,     /* read transactions kept for the next reader */
    attempts_max = 80, /* map sizes double: 64 steps cover every address there is */
};
static const uint64_t map_bytes_default = (uint64_t)4 << 30;

static const char *const db_names[LQ_DB_COUNT] = {"meta", "blobs",   "chunks", "pending",
                                                  "refs", "actions", "files",  "history"};
static const char format_key[] = "format";

struct lq_store {
    char *dir;
    void (*warn)(void *user, const char *message);
    void *warn_user;
    MDB_env *env;
    MDB_dbi dbis[LQ_DB_COUNT];
    struct lq_folder_claim claim;
    bool walking; /* these three while a file that was cut is looked through, by one thread */
    jmp_buf walk_escape;
    MDB_cursor *walk_cursor;

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    unsigned active;   /* transactions of this process that are open */
    unsigned resizing; /* threads that wait to resize the map: no new transaction then */
    bool broken;       /* the map is gone */
    uint64_t write_count;
    MDB_txn *idle[idle_max];
    unsigned idle_count;
    struct lq_later_list later;
    struct lq_batch batch;
};

static MDB_val to_val(const struct lq_bytes *bytes)
{
    /* LMDB does not write through keys and values that are given to it. */
    return (MDB_val){bytes->size_bytes, (void *)(uintptr_t)bytes->data};
}

/* ---- errors ---- */

static bool is_full(const struct lq_store *store, int code)
{
    /* A write that the disk cut short comes back as EIO. */
    return code == ENOSPC || code == EDQUOT || code == EFBIG ||
           (code == EIO && lq_store_disk_is_full(store->dir));
}

static enum lq_status fail(const struct lq_store *store, int code, const char *doing,
                           struct lq_error *err)
{
    if (is_full(store, code)) {
        return lq_error_set(err, LQ_EIO,
                            "cache folder %s: cannot %s: no space left on device; free some space "
                            "or use another folder with --cache-dir",
                            store->dir, doing);
    }
    switch (code) {
    case ENOMEM:
        return lq_error_set(err, LQ_ENOMEM, "cache folder %s: cannot %s: out of memory", store->dir,
                            doing);
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_BAD_TXN: /* after one of the others */
    case MDB_PANIC:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: cannot %s: data.mdb is damaged (%s); remove the "
                            "folder to start with an empty cache, or use another one with "
                            "--cache-dir",
                            store->dir, doing, mdb_strerror(code));
    case MDB_READERS_FULL:
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: cannot %s: %d readers are at work already; run fewer "
                            "builds at once",
                            store->dir, doing, (int)reader_slots);
    case EACCES:
    case EPERM:
    case EROFS:
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: cannot %s: %s; use a folder that you may write to "
                            "with --cache-dir",
                            store->dir, doing, mdb_strerror(code));
    default:
        return lq_error_set(err, LQ_EIO, "cache folder %s: cannot %s: %s", store->dir, doing,
                            mdb_strerror(code));
    }
}

static enum lq_status txn_fail(struct lq_txn *txn, int code, const char *doing,
                               struct lq_error *err)
{
    txn->code = code;
    return fail(txn->store, code, doing, err);
}

/* ---- the gate: many transactions, or one change of the map ---- */

static enum lq_status gate_enter(struct lq_store *store, struct lq_error *err)
{
    (void)pthread_mutex_lock(&store->mutex);
    while (store->resizing > 0) {
        (void)pthread_cond_wait(&store->changed, &store->mutex);
    }
    bool broken = store->broken;
    if (!broken) {
        store->active++;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    return broken ? fail(store, ENOMEM, "map data.mdb", err) : LQ_OK;
}

static void gate_leave(struct lq_store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    store->active--;
    (void)pthread_cond_broadcast(&store->changed);
    (void)pthread_mutex_unlock(&store->mutex);
}

static uint64_t map_bytes_of(MDB_env *env)
{
    MDB_envinfo info;
    return mdb_env_info(env, &info) == 0 ? (uint64_t)info.me_mapsize : 0;
}

/* LMDB unmaps before it maps: a size that does not fit must be found out before. */
static bool address_space_has(uint64_t size_bytes)
{
    if (size_bytes > SIZE_MAX / 2) {
        return false;
    }
    void *probe = mmap(NULL, (size_t)size_bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (probe == MAP_FAILED) {
        return false;
    }
    (void)munmap(probe, (size_t)size_bytes);
    return true;
}

/* Waits until this process has no transaction, then takes over the size that another process gave
 * the map, and with `seen` doubles it unless somebody else did meanwhile. */
static enum lq_status resize(struct lq_store *store, uint64_t seen, struct lq_error *err)
{
    (void)pthread_mutex_lock(&store->mutex);
    store->resizing++;
    while (store->active > 0) {
        (void)pthread_cond_wait(&store->changed, &store->mutex);
    }
    int code = store->broken ? ENOMEM : 0;
    if (code == 0 && seen == 0) {
        code = mdb_env_set_mapsize(store->env, 0);
    } else if (code == 0 && map_bytes_of(store->env) == seen) {
        code = address_space_has(2 * seen) ? mdb_env_set_mapsize(store->env, (size_t)(2 * seen))
                                           : ENOMEM;
        if (code != 0 && map_bytes_of(store->env) != seen) {
            store->broken = true;
        }
    }
    store->resizing--;
    (void)pthread_cond_broadcast(&store->changed);
    (void)pthread_mutex_unlock(&store->mutex);
    return code == 0 ? LQ_OK : fail(store, code, "grow the map of data.mdb", err);
}

uint64_t lq_store_map_bytes(struct lq_store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    uint64_t size_bytes = map_bytes_of(store->env);
    (void)pthread_mutex_unlock(&store->mutex);
    return size_bytes;
}

/* ---- read transactions ---- */

static MDB_txn *idle_take(struct lq_store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    MDB_txn *handle = store->idle_count > 0 ? store->idle[--store->idle_count] : NULL;
    (void)pthread_mutex_unlock(&store->mutex);
    return handle;
}

static int begin_handle(struct lq_store *store, MDB_txn **out)
{
    MDB_txn *handle = idle_take(store);
    if (handle != NULL) {
        int code = mdb_txn_renew(handle);
        if (code != 0) {
            mdb_txn_abort(handle);
            handle = NULL;
        }
        *out = handle;
        return code;
    }
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, out);
    if (code == MDB_READERS_FULL) {
        int dead = 0;
        (void)mdb_reader_check(store->env, &dead);
        code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, out);
    }
    return code;
}

enum lq_status lq_store_read_begin(struct lq_store *store, struct lq_txn *txn, struct lq_error *err)
{
    txn->store = store;
    txn->code = 0;
    txn->handle = NULL;
    for (int attempt = 0; attempt < attempts_max; attempt++) {
        enum lq_status status = gate_enter(store, err);
        if (status != LQ_OK) {
            return status;
        }
        int code = begin_handle(store, &txn->handle);
        if (code == 0) {
            return LQ_OK;
        }
        gate_leave(store);
        if (code != MDB_MAP_RESIZED) {
            return fail(store, code, "read", err);
        }
        status = resize(store, 0, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return fail(store, MDB_MAP_RESIZED, "read", err);
}

void lq_store_read_end(struct lq_txn *txn)
{
    struct lq_store *store = txn->store;
    mdb_txn_reset(txn->handle);
    (void)pthread_mutex_lock(&store->mutex);
    bool kept = store->idle_count < idle_max;
    if (kept) {
        store->idle[store->idle_count++] = txn->handle;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    if (!kept) {
        mdb_txn_abort(txn->handle);
    }
    txn->handle = NULL;
    gate_leave(store);
}

/* ---- postponed records ---- */

bool lq_store_has_later(struct lq_store *store, enum lq_db db, const struct lq_bytes *key,
                        void *value, size_t value_bytes)
{
    (void)pthread_mutex_lock(&store->mutex);
    const struct lq_later *later = lq_later_find(&store->later, db, key);
    if (later != NULL && value != NULL && later->value.size_bytes == value_bytes) {
        memcpy(value, later->value.data, value_bytes);
    }
    (void)pthread_mutex_unlock(&store->mutex);
    return later != NULL;
}

static enum lq_status change_nothing(struct lq_txn *txn, void *user, struct lq_error *err)
{
    (void)txn;
    (void)user;
    (void)err;
    return LQ_OK;
}

enum lq_status lq_store_flush(struct lq_store *store, struct lq_error *err)
{
    (void)pthread_mutex_lock(&store->mutex);
    bool empty = store->later.count == 0;
    (void)pthread_mutex_unlock(&store->mutex);
    return empty ? LQ_OK
                 : lq_store_write(store, LQ_STORE_WITH_LATER, LQ_STORE_LATER_BYTES, change_nothing,
                                  NULL, err);
}

enum lq_status lq_store_later(struct lq_store *store, enum lq_db db, const struct lq_bytes *key,
                              const struct lq_bytes *value, bool keep_old, struct lq_error *err)
{
    (void)pthread_mutex_lock(&store->mutex);
    bool room = lq_later_has_room(&store->later, value->size_bytes);
    (void)pthread_mutex_unlock(&store->mutex);
    if (!room) {
        enum lq_status status = lq_store_flush(store, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    (void)pthread_mutex_lock(&store->mutex);
    bool added = lq_later_add(&store->later, db, key, value, keep_old);
    (void)pthread_mutex_unlock(&store->mutex);
    return added ? LQ_OK : lq_error_nomem(err, "a cache record");
}

/* Inside a write transaction: puts every record with a serial up to `serial`. The mutex is held:
 * the records are small, and LMDB only copies them. */
static enum lq_status later_put(struct lq_txn *txn, uint64_t serial, struct lq_error *err)
{
    struct lq_store *store = txn->store;
    int code = 0;
    (void)pthread_mutex_lock(&store->mutex);
    for (size_t i = 0; i < store->later.count && code == 0; i++) {
        const struct lq_later *later = &store->later.items[i];
        if (later->serial > serial) {
            continue;
        }
        MDB_val key = to_val(&later->key);
        MDB_val value = to_val(&later->value);
        code = mdb_put(txn->handle, store->dbis[later->db], &key, &value,
                       later->keep_old ? MDB_NOOVERWRITE : 0);
        code = code == MDB_KEYEXIST ? 0 : code;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    return code == 0 ? LQ_OK : txn_fail(txn, code, "write", err);
}

static uint64_t later_serial(struct lq_store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    uint64_t serial = store->later.serial;
    (void)pthread_mutex_unlock(&store->mutex);
    return serial;
}

static void later_forget(struct lq_store *store, uint64_t serial)
{
    (void)pthread_mutex_lock(&store->mutex);
    lq_later_forget(&store->later, serial);
    (void)pthread_mutex_unlock(&store->mutex);
}

/* ---- write transactions ---- */

/* LMDB does not reuse what the newest transaction gave back. On a full disk that may be all there
 * is: an empty step of history makes it the second newest. */
static void age_free_pages(struct lq_store *store)
{
    static const char touched_key[] = "touched";
    MDB_txn *handle = NULL;
    MDB_val key = {sizeof touched_key - 1, (void *)(uintptr_t)touched_key};
    MDB_val old = {0, NULL};
    unsigned char count = 0;
    if (gate_enter(store, NULL) != LQ_OK) {
        return;
    }
    if (mdb_txn_begin(store->env, NULL, 0, &handle) == 0) {
        MDB_dbi dbi = store->dbis[LQ_DB_META];
        if (mdb_get(handle, dbi, &key, &old) == 0 && old.mv_size == 1) {
            memcpy(&count, old.mv_data, 1);
        }
        count = (unsigned char)(count + 1);
        MDB_val value = {1, &count};
        if (mdb_put(handle, dbi, &key, &value, 0) == 0) {
            (void)mdb_txn_commit(handle);
        } else {
            mdb_txn_abort(handle);
        }
    }
    gate_leave(store);
}

/* A reader that was killed keeps the pages that it saw from being used again, until somebody looks
 * whether it lives. */
static void check_readers(struct lq_store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    if (++store->write_count % writes_between_checks == 0) {
        int dead = 0;
        (void)mdb_reader_check(store->env, &dead);
    }
    (void)pthread_mutex_unlock(&store->mutex);
}

/* One attempt. The error goes to the first of the list; *code is LMDB's own result. */
static enum lq_status try_list(struct lq_store *store, struct lq_op *list, bool with_later,
                               uint64_t serial, int *code)
{
    enum lq_status status = gate_enter(store, &list->err);
    *code = 0;
    if (status != LQ_OK) {
        return status;
    }
    struct lq_txn txn = {.store = store};
    txn.code = mdb_txn_begin(store->env, NULL, 0, &txn.handle);
    if (txn.code != 0) {
        status = fail(store, txn.code, "begin to write", &list->err);
    } else {
        status = with_later ? later_put(&txn, serial, &list->err) : LQ_OK;
        for (struct lq_op *op = list; op != NULL && status == LQ_OK; op = op->next) {
            status = op->change(&txn, op->user, &list->err);
        }
        if (status != LQ_OK) {
            mdb_txn_abort(txn.handle);
        } else if ((txn.code = mdb_txn_commit(txn.handle)) != 0) {
            status = fail(store, txn.code, "write", &list->err);
        }
    }
    gate_leave(store);
    *code = txn.code;
    return status;
}

/* Runs a list of changes in one transaction; again with a larger map when it was too small, and
 * once more when the disk is full. */
static enum lq_status run_list(struct lq_store *store, struct lq_op *list)
{
    bool with_later = false;
    for (struct lq_op *op = list; op != NULL; op = op->next) {
        with_later = with_later || (op->flags & LQ_STORE_WITH_LATER) != 0;
    }
    bool aged = false;
    for (int attempt = 0; attempt < attempts_max; attempt++) {
        int code = 0;
        check_readers(store);
        uint64_t serial = later_serial(store);
        uint64_t map_bytes = lq_store_map_bytes(store);
        enum lq_status status = try_list(store, list, with_later, serial, &code);
        if (status == LQ_OK) {
            if (with_later) {
                later_forget(store, serial);
            }
            return LQ_OK;
        }
        if (code == MDB_MAP_FULL || code == MDB_MAP_RESIZED) {
            status = resize(store, code == MDB_MAP_FULL ? map_bytes : 0, &list->err);
            if (status != LQ_OK) {
                return status;
            }
        } else if (!aged && code != 0 && is_full(store, code)) {
            aged = true;
            age_free_pages(store);
        } else {
            return status;
        }
    }
    return fail(store, MDB_MAP_FULL, "write", &list->err);
}

enum lq_status lq_store_write(struct lq_store *store, unsigned flags, size_t size_bytes,
                              lq_store_change change, void *user, struct lq_error *err)
{
    struct lq_op op = {.change = change, .user = user, .flags = flags, .size_bytes = size_bytes};
    lq_batch_run(&store->batch, &op);
    if (op.status != LQ_OK && err != NULL) {
        *err = op.err;
    }
    return op.status;
}

/* ---- inside a transaction ---- */

enum lq_status lq_txn_get(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          struct lq_bytes *value, bool *found, struct lq_error *err)
{
    MDB_val raw_key = to_val(key);
    MDB_val raw = {0, NULL};
    int code = mdb_get(txn->handle, txn->store->dbis[db], &raw_key, &raw);
    *found = code == 0;
    *value = (struct lq_bytes){raw.mv_data, raw.mv_size};
    return code == 0 || code == MDB_NOTFOUND ? LQ_OK : txn_fail(txn, code, "read", err);
}

enum lq_status lq_txn_next(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                           bool after, struct lq_bytes *found_key, struct lq_bytes *value,
                           bool *found, struct lq_error *err)
{
    MDB_cursor *cursor = NULL;
    *found = false;
    int code = mdb_cursor_open(txn->handle, txn->store->dbis[db], &cursor);
    if (code != 0) {
        return txn_fail(txn, code, "read", err);
    }
    MDB_val raw_key = to_val(key);
    MDB_val raw = {0, NULL};
    code = mdb_cursor_get(cursor, &raw_key, &raw, key->size_bytes == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (code == 0 && after && raw_key.mv_size == key->size_bytes &&
        memcmp(raw_key.mv_data, key->data, key->size_bytes) == 0) {
        code = mdb_cursor_get(cursor, &raw_key, &raw, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    *found = code == 0;
    *found_key = (struct lq_bytes){raw_key.mv_data, raw_key.mv_size};
    *value = (struct lq_bytes){raw.mv_data, raw.mv_size};
    return code == 0 || code == MDB_NOTFOUND ? LQ_OK : txn_fail(txn, code, "read", err);
}

enum lq_status lq_txn_put(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          const struct lq_bytes *value, struct lq_error *err)
{
    MDB_val raw_key = to_val(key);
    MDB_val raw = to_val(value);
    int code = mdb_put(txn->handle, txn->store->dbis[db], &raw_key, &raw, 0);
    return code == 0 ? LQ_OK : txn_fail(txn, code, "write", err);
}

enum lq_status lq_txn_del(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          bool *found, struct lq_error *err)
{
    MDB_val raw_key = to_val(key);
    int code = mdb_del(txn->handle, txn->store->dbis[db], &raw_key, NULL);
    if (found != NULL) {
        *found = code == 0;
    }
    return code == 0 || code == MDB_NOTFOUND ? LQ_OK : txn_fail(txn, code, "delete", err);
}

enum lq_status lq_txn_count(struct lq_txn *txn, enum lq_db db, uint64_t *count,
                            struct lq_error *err)
{
    MDB_stat stat;
    *count = 0;
    int code = mdb_stat(txn->handle, txn->store->dbis[db], &stat);
    if (code != 0) {
        return txn_fail(txn, code, "read", err);
    }
    *count = (uint64_t)stat.ms_entries;
    return LQ_OK;
}

enum lq_status lq_txn_empty(struct lq_txn *txn, enum lq_db db, struct lq_error *err)
{
    int code = mdb_drop(txn->handle, txn->store->dbis[db], 0);
    return code == 0 ? LQ_OK : txn_fail(txn, code, "delete", err);
}

/* ---- opening and closing ---- */

static enum lq_status check_format(struct lq_store *store, const MDB_val *value,
                                   struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, value->mv_data, value->mv_size);
    uint32_t format = lq_read_u32(&reader);
    if (reader.failed || format == 0) {
        return fail(store, MDB_CORRUPTED, "read the format number", err);
    }
    if (format != LQ_STORE_FORMAT) {
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: it has format %u and this lqbuild supports format "
                            "%d; %s or use another folder with --cache-dir",
                            store->dir, (unsigned)format, (int)LQ_STORE_FORMAT,
                            format > LQ_STORE_FORMAT ? "upgrade lqbuild" : "remove the folder");
    }
    return LQ_OK;
}

/* Opens the databases that are there. *complete is false when the store is new. */
static enum lq_status open_databases(struct lq_store *store, MDB_txn *handle, bool create,
                                     bool *complete, struct lq_error *err)
{
    *complete = false;
    /* Counted in this transaction: another process may be creating the databases right now. */
    MDB_stat stat;
    MDB_dbi root = 0;
    int code = mdb_dbi_open(handle, NULL, 0, &root);
    code = code != 0 ? code : mdb_stat(handle, root, &stat);
    bool empty = code == 0 && stat.ms_entries == 0;
    if (code == 0) {
        code = mdb_dbi_open(handle, db_names[LQ_DB_META], create && empty ? MDB_CREATE : 0,
                            &store->dbis[LQ_DB_META]);
    }
    if (code == MDB_NOTFOUND && empty) {
        return LQ_OK;
    }
    MDB_val key = {sizeof format_key - 1, (void *)(uintptr_t)format_key};
    MDB_val value = {0, NULL};
    if (code == 0) {
        code = mdb_get(handle, store->dbis[LQ_DB_META], &key, &value);
    }
    if (code == MDB_NOTFOUND && !empty) {
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: its data.mdb belongs to another program; use another "
                            "folder with --cache-dir",
                            store->dir);
    }
    if (code == 0) {
        enum lq_status status = check_format(store, &value, err);
        if (status != LQ_OK) {
            return status;
        }
    } else if (code == MDB_NOTFOUND && create) {
        unsigned char format[4] = {LQ_STORE_FORMAT, 0, 0, 0};
        value = (MDB_val){sizeof format, format};
        code = mdb_put(handle, store->dbis[LQ_DB_META], &key, &value, 0);
    }
    for (int i = 0; i < LQ_DB_COUNT && code == 0; i++) {
        code = mdb_dbi_open(handle, db_names[i], create ? MDB_CREATE : 0, &store->dbis[i]);
    }
    *complete = code == 0;
    return code == 0 ? LQ_OK : fail(store, code, "open its databases", err);
}

static enum lq_status open_all(struct lq_store *store, struct lq_error *err)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        bool create = attempt == 1;
        bool complete = false;
        MDB_txn *handle = NULL;
        int code = mdb_txn_begin(store->env, NULL, create ? 0 : MDB_RDONLY, &handle);
        if (code == MDB_MAP_RESIZED) {
            code = mdb_env_set_mapsize(store->env, 0);
            code = code != 0 ? code
                             : mdb_txn_begin(store->env, NULL, create ? 0 : MDB_RDONLY, &handle);
        }
        if (code != 0) {
            return fail(store, code, "open it", err);
        }
        enum lq_status status = open_databases(store, handle, create, &complete, err);
        if (status != LQ_OK) {
            mdb_txn_abort(handle);
            return status;
        }
        code = mdb_txn_commit(handle);
        if (code != 0) {
            return fail(store, code, "open it", err);
        }
        if (complete) {
            return LQ_OK;
        }
    }
    return fail(store, MDB_CORRUPTED, "open its databases", err);
}

/* Reads every page of the trees, the one of free pages included. */
static int walk_all(struct lq_store *store, MDB_txn *handle)
{
    int code = 0;
    for (int i = -1; i < LQ_DB_COUNT && code == 0; i++) {
        code = mdb_cursor_open(handle, i < 0 ? 0 : store->dbis[i], &store->walk_cursor);
        MDB_val key;
        MDB_val value;
        while (code == 0) {
            code = mdb_cursor_get(store->walk_cursor, &key, &value, MDB_NEXT);
        }
        mdb_cursor_close(store->walk_cursor);
        store->walk_cursor = NULL;
        code = code == MDB_NOTFOUND ? 0 : code;
    }
    return code;
}

/* LMDB asserts where it meets a page of zeros on its way to a neighbour; here, and only here,
 * nothing is at stake, and the walk ends with an error instead of the process. */
static int walk_guarded(struct lq_store *store, MDB_txn *handle)
{
    int code = MDB_CORRUPTED;
    if (setjmp(store->walk_escape) == 0) {
        store->walking = true;
        code = walk_all(store, handle);
    } else {
        mdb_cursor_close(store->walk_cursor);
        store->walk_cursor = NULL;
    }
    store->walking = false;
    return code;
}

/* A file that is shorter than its last page was cut, or ends in pages that were given back before
 * they were written. Touching what is missing through the map would be a signal: fill it with
 * zeros, which no page looks like, and see whether any tree needed it. */
static enum lq_status check_length(struct lq_store *store, struct lq_error *err)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat st;
    int fd = -1;
    int code = mdb_env_info(store->env, &info);
    code = code != 0 ? code : mdb_env_stat(store->env, &stat);
    code = code != 0 ? code : mdb_env_get_fd(store->env, &fd);
    if (code != 0) {
        return fail(store, code, "open it", err);
    }
    off_t wanted = (off_t)((info.me_last_pgno + 1) * stat.ms_psize);
    if (fstat(fd, &st) == 0 && st.st_size >= wanted) {
        return LQ_OK;
    }
    MDB_txn *handle = NULL;
    code = mdb_txn_begin(store->env, NULL, 0, &handle);
    if (code == 0) {
        /* Nobody else writes now. */
        if (fstat(fd, &st) != 0 || (st.st_size < wanted && ftruncate(fd, wanted) != 0)) {
            code = errno;
        }
        mdb_txn_abort(handle);
    }
    return code == 0 ? LQ_OK : fail(store, code, "open it", err);
}

static enum lq_status check_trees(struct lq_store *store, bool cut, struct lq_error *err)
{
    if (!cut) {
        return LQ_OK;
    }
    MDB_txn *handle = NULL;
    int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &handle);
    if (code == 0) {
        code = walk_guarded(store, handle);
        mdb_txn_abort(handle);
    }
    return code == 0 ? LQ_OK : fail(store, code, "open it: the file was cut short", err);
}

static void on_assert(MDB_env *env, const char *message)
{
    struct lq_store *store = mdb_env_get_userctx(env);
    if (store != NULL && store->walking) {
        longjmp(store->walk_escape, 1);
    }
    if (store != NULL && store->warn != NULL) {
        char text[LQ_ERROR_BYTES];
        (void)snprintf(text, sizeof text,
                       "cache folder %s: data.mdb is damaged (%s); remove the folder to start with "
                       "an empty cache",
                       store->dir, message);
        store->warn(store->warn_user, text);
    }
    abort();
}

static enum lq_status open_environment(struct lq_store *store, uint64_t map_bytes,
                                       struct lq_error *err)
{
    uint64_t data_bytes = 0;
    enum lq_status status = lq_store_check_data(store->dir, &data_bytes, err);
    if (status == LQ_OK) {
        status = lq_store_reserve_lock(store->dir, reader_slots, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t size = map_bytes == 0 ? map_bytes_default : map_bytes;
    while (size < data_bytes + data_bytes / 2) {
        size *= 2;
    }
    while (size > data_bytes + ((uint64_t)64 << 20) && !address_space_has(size)) {
        size /= 2;
    }
    int code = mdb_env_create(&store->env);
    if (code != 0) {
        return fail(store, code, "open it", err);
    }
    (void)mdb_env_set_userctx(store->env, store);
    (void)mdb_env_set_assert(store->env, on_assert);
    code = mdb_env_set_maxdbs(store->env, LQ_DB_COUNT);
    code = code != 0 ? code : mdb_env_set_maxreaders(store->env, reader_slots);
    code = code != 0 ? code : mdb_env_set_mapsize(store->env, (size_t)size);
    code = code != 0 ? code : mdb_env_open(store->env, store->dir, MDB_NOTLS, 0664);
    if (code != 0) {
        return fail(store, code, "open it", err);
    }
    int dead = 0;
    (void)mdb_reader_check(store->env, &dead);
    uint64_t before = lq_store_disk_bytes(store);
    status = check_length(store, err);
    bool cut = lq_store_disk_bytes(store) != before;
    if (status == LQ_OK) {
        status = open_all(store, err);
    }
    return status == LQ_OK ? check_trees(store, cut, err) : status;
}

static void destroy(struct lq_store *store)
{
    for (unsigned i = 0; i < store->idle_count; i++) {
        mdb_txn_abort(store->idle[i]);
    }
    if (store->env != NULL) {
        mdb_env_close(store->env);
    }
    lq_folder_release(&store->claim);
    lq_later_fini(&store->later);
    lq_batch_fini(&store->batch);
    (void)pthread_mutex_destroy(&store->mutex);
    (void)pthread_cond_destroy(&store->changed);
    free(store->dir);
    free(store);
}

enum lq_status lq_store_open(struct lq_store **out, const struct lq_store_options *options,
                             struct lq_error *err)
{
    *out = NULL;
    enum lq_status status = lq_store_check_folder(options->dir, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_store *store = calloc(1, sizeof *store);
    char *dir = strdup(options->dir);
    if (store == NULL || dir == NULL) {
        free(store);
        free(dir);
        return lq_error_nomem(err, options->dir);
    }
    store->dir = dir;
    store->warn = options->warn;
    store->warn_user = options->warn_user;
    (void)pthread_mutex_init(&store->mutex, NULL);
    (void)pthread_cond_init(&store->changed, NULL);
    lq_batch_init(&store->batch, store, run_list);
    status = lq_folder_claim(&store->claim, store->dir, err);
    if (status == LQ_OK) {
        status = open_environment(store, options->map_bytes, err);
    }
    if (status != LQ_OK) {
        destroy(store);
        return status;
    }
    *out = store;
    return LQ_OK;
}

void lq_store_close(struct lq_store *store)
{
    if (store == NULL) {
        return;
    }
    struct lq_error err = {0};
    if (lq_store_flush(store, &err) != LQ_OK && store->warn != NULL) {
        store->warn(store->warn_user, err.message);
    }
    destroy(store);
}

uint64_t lq_store_disk_bytes(const struct lq_store *store)
{
    int fd = -1;
    struct stat st;
    if (mdb_env_get_fd(store->env, &fd) != 0 || fstat(fd, &st) != 0) {
        return 0;
    }
    return (uint64_t)st.st_size;
}

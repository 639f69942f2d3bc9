#define _GNU_SOURCE
#include "cache/store_lmdb.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_private.h"
#include "engine/base/compiler.h"

enum {
    writes_between_checks = 64,
    attempts_max = 80, /* map sizes double: 64 steps cover every address there is */
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

enum lq_status lq_store_fail(const struct lq_store *store, int code, const char *doing,
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
    case MDB_PAGE_FULL:
    case MDB_CURSOR_FULL:
    case EINVAL:      /* of a page number that no file has */
    case MDB_BAD_TXN: /* after one of the others */
    case MDB_PANIC:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        return lq_store_damaged(err, store->dir, mdb_strerror(code));
    case MDB_READERS_FULL:
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: cannot %s: %d readers are at work already; run fewer "
                            "builds at once",
                            store->dir, doing, (int)LQ_STORE_READER_SLOTS);
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
    return lq_store_fail(txn->store, code, doing, err);
}

/* ---- the gate: many transactions, or one change of the map ---- */

enum lq_status lq_store_gate_enter(struct lq_store *store, struct lq_error *err)
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
    return broken ? lq_store_fail(store, ENOMEM, "map data.mdb", err) : LQ_OK;
}

void lq_store_gate_leave(struct lq_store *store)
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

bool lq_store_address_space_has(uint64_t size_bytes)
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
        code = lq_store_address_space_has(2 * seen)
                   ? mdb_env_set_mapsize(store->env, (size_t)(2 * seen))
                   : ENOMEM;
        if (code != 0 && map_bytes_of(store->env) != seen) {
            store->broken = true;
        }
    }
    store->resizing--;
    (void)pthread_cond_broadcast(&store->changed);
    (void)pthread_mutex_unlock(&store->mutex);
    return code == 0 ? LQ_OK : lq_store_fail(store, code, "grow the map of data.mdb", err);
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

/* What a thread holds. */
struct hold {
    struct lq_store *store; /* NULL: nothing */
    MDB_txn *handle;        /* NULL: not begun */
    uint64_t commits;       /* of the store when it began */
};
static LQ_THREAD_LOCAL struct hold hold;

static void end_handle(struct lq_store *store, MDB_txn *handle)
{
    mdb_txn_reset(handle);
    (void)pthread_mutex_lock(&store->mutex);
    bool kept = store->idle_count < LQ_STORE_IDLE_MAX;
    if (kept) {
        store->idle[store->idle_count++] = handle;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    if (!kept) {
        mdb_txn_abort(handle);
    }
    lq_store_gate_leave(store);
}

static void end_held(struct lq_store *store)
{
    if (hold.store == store && hold.handle != NULL) {
        end_handle(store, hold.handle);
        hold.handle = NULL;
    }
}

void lq_store_hold(struct lq_store *store)
{
    hold = (struct hold){.store = store};
}

void lq_store_release(struct lq_store *store)
{
    end_held(store);
    hold = (struct hold){.store = NULL};
}

static enum lq_status read_begin(struct lq_store *store, struct lq_txn *txn, struct lq_error *err)
{
    txn->store = store;
    txn->code = 0;
    txn->handle = NULL;
    for (int attempt = 0; attempt < attempts_max; attempt++) {
        enum lq_status status = lq_store_gate_enter(store, err);
        if (status != LQ_OK) {
            return status;
        }
        int code = begin_handle(store, &txn->handle);
        if (code == 0) {
            return LQ_OK;
        }
        lq_store_gate_leave(store);
        if (code != MDB_MAP_RESIZED) {
            return lq_store_fail(store, code, "read", err);
        }
        status = resize(store, 0, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return lq_store_fail(store, MDB_MAP_RESIZED, "read", err);
}

static enum lq_status begin_or_share(struct lq_store *store, struct lq_txn *txn,
                                     struct lq_error *err)
{
    if (hold.store != store) {
        return read_begin(store, txn, err);
    }
    /* What this process has committed since must be seen. */
    uint64_t commits = atomic_load(&store->commits);
    if (hold.handle != NULL && hold.commits != commits) {
        end_held(store);
    }
    *txn = (struct lq_txn){.store = store, .handle = hold.handle};
    enum lq_status status = hold.handle == NULL ? read_begin(store, txn, err) : LQ_OK;
    hold.handle = txn->handle;
    hold.commits = commits;
    return status;
}

enum lq_status lq_store_read_begin(struct lq_store *store, struct lq_txn *txn, struct lq_error *err)
{
    lq_guard_enter(&store->guard);
    enum lq_status status = begin_or_share(store, txn, err);
    if (status != LQ_OK) {
        lq_guard_leave();
    }
    return status;
}

void lq_store_read_end(struct lq_txn *txn)
{
    lq_guard_leave();
    if (hold.store != txn->store || hold.handle != txn->handle) {
        end_handle(txn->store, txn->handle);
    }
    txn->handle = NULL;
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

/* On a full disk what the newest transaction gave back may be all there is. */
void lq_store_age_free_pages(struct lq_store *store)
{
    static const char touched_key[] = "touched";
    MDB_txn *handle = NULL;
    MDB_val key = {sizeof touched_key - 1, (void *)(uintptr_t)touched_key};
    MDB_val old = {0, NULL};
    unsigned char count = 0;
    if (lq_store_gate_enter(store, NULL) != LQ_OK) {
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
    lq_store_gate_leave(store);
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

/* A meta page that is not flushed by itself follows the pages that it names, which are; the one
 * before it is durable and stays whole until the next flush. LMDB 0.9 ignores the flag of a
 * transaction that writes and asks for the environment's; whoever leads is the only one in this
 * process that commits. */
static int commit_txn(const struct lq_txn *txn, bool flush_meta)
{
    MDB_env *env = txn->store->env;
    if (flush_meta) {
        return mdb_txn_commit(txn->handle);
    }
    (void)mdb_env_set_flags(env, MDB_NOMETASYNC, 1);
    int code = mdb_txn_commit(txn->handle);
    (void)mdb_env_set_flags(env, MDB_NOMETASYNC, 0);
    return code;
}

/* One attempt. The error goes to the first of the list; *code is LMDB's own result. */
static enum lq_status try_list(struct lq_store *store, struct lq_op *list, unsigned flags,
                               uint64_t serial, int *code)
{
    enum lq_status status = lq_store_gate_enter(store, &list->err);
    *code = 0;
    if (status != LQ_OK) {
        return status;
    }
    struct lq_txn txn = {.store = store};
    txn.code = mdb_txn_begin(store->env, NULL, 0, &txn.handle);
    if (txn.code != 0) {
        status = lq_store_fail(store, txn.code, "begin to write", &list->err);
    } else {
        status = lq_store_check_trees(store, (uint64_t)mdb_txn_id(txn.handle) - 1, &list->err);
        if (status == LQ_OK && (flags & LQ_STORE_WITH_LATER) != 0) {
            status = later_put(&txn, serial, &list->err);
        }
        for (struct lq_op *op = list; op != NULL && status == LQ_OK; op = op->next) {
            status = op->change(&txn, op->user, &list->err);
        }
        if (status != LQ_OK) {
            mdb_txn_abort(txn.handle);
        } else if ((txn.code = commit_txn(&txn, (flags & LQ_STORE_UNNAMED) == 0)) != 0) {
            status = lq_store_fail(store, txn.code, "write", &list->err);
        }
    }
    lq_store_gate_leave(store);
    atomic_fetch_add(&store->commits, 1);
    *code = txn.code;
    return status;
}

enum lq_status lq_store_run_list(struct lq_store *store, struct lq_op *list)
{
    unsigned flags = LQ_STORE_UNNAMED;
    for (struct lq_op *op = list; op != NULL; op = op->next) {
        flags |= op->flags & LQ_STORE_WITH_LATER;
        flags &= (op->flags & LQ_STORE_UNNAMED) | ~(unsigned)LQ_STORE_UNNAMED;
    }
    bool aged = false;
    for (int attempt = 0; attempt < attempts_max; attempt++) {
        int code = 0;
        check_readers(store);
        uint64_t serial = later_serial(store);
        uint64_t map_bytes = lq_store_map_bytes(store);
        lq_guard_enter(&store->guard);
        enum lq_status status = try_list(store, list, flags, serial, &code);
        lq_guard_leave();
        if (status == LQ_OK) {
            if ((flags & LQ_STORE_WITH_LATER) != 0) {
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
            lq_store_age_free_pages(store);
        } else {
            return status;
        }
    }
    return lq_store_fail(store, MDB_MAP_FULL, "write", &list->err);
}

enum lq_status lq_store_write(struct lq_store *store, unsigned flags, size_t size_bytes,
                              lq_store_change change, void *user, struct lq_error *err)
{
    struct lq_op op = {.change = change, .user = user, .flags = flags, .size_bytes = size_bytes};
    /* Growing the map waits for every reader of this process. */
    end_held(store);
    lq_batch_run(&store->batch, &op);
    if (op.status != LQ_OK && err != NULL) {
        *err = op.err;
    }
    return op.status;
}

struct lq_store_writing {
    struct lq_op op;
};

enum lq_status lq_store_write_begin(struct lq_store *store, unsigned flags, size_t size_bytes,
                                    lq_store_change change, void *user,
                                    struct lq_store_writing **out, struct lq_error *err)
{
    struct lq_store_writing *writing = calloc(1, sizeof *writing);
    *out = writing;
    if (writing == NULL) {
        return lq_error_nomem(err, "a change of the cache");
    }
    bool patient = (flags & LQ_STORE_PATIENT) != 0;
    writing->op = (struct lq_op){.change = change,
                                 .user = user,
                                 .flags = flags & ~(unsigned)LQ_STORE_PATIENT,
                                 .size_bytes = size_bytes};
    if (patient) {
        lq_batch_begin_patient(&store->batch, &writing->op);
    } else {
        lq_batch_begin(&store->batch, &writing->op);
    }
    return LQ_OK;
}

enum lq_status lq_store_write_end(struct lq_store *store, struct lq_store_writing *writing,
                                  struct lq_error *err)
{
    if (writing == NULL) {
        return LQ_OK;
    }
    /* Growing the map waits for every reader of this process. */
    end_held(store);
    lq_batch_end(&store->batch, &writing->op);
    enum lq_status status = writing->op.status;
    if (status != LQ_OK && err != NULL) {
        *err = writing->op.err;
    }
    free(writing);
    return status;
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

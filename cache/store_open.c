#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_private.h"
#include "engine/base/compiler.h"
#include "engine/base/reader.h"

static const uint64_t map_bytes_default = (uint64_t)4 << 30;

static const char *const db_names[LQ_DB_COUNT] = {"meta",    "blobs", "chunks",  "pending", "refs",
                                                  "actions", "files", "history", "uses",    "pins"};
static const char format_key[] = "format";

static enum lq_status check_format(struct lq_store *store, const MDB_val *value,
                                   struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, value->mv_data, value->mv_size);
    uint32_t format = lq_read_u32(&reader);
    if (reader.failed || format == 0) {
        return lq_store_fail(store, MDB_CORRUPTED, "read the format number", err);
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
    if (code == MDB_NOTFOUND && !create) {
        return LQ_OK; /* made before there were so many */
    }
    *complete = code == 0;
    return code == 0 ? LQ_OK : lq_store_fail(store, code, "open its databases", err);
}

/* Before there are threads. */
static int begin_first(struct lq_store *store, unsigned flags, MDB_txn **handle)
{
    int code = mdb_txn_begin(store->env, NULL, flags, handle);
    if (code == MDB_MAP_RESIZED) {
        code = mdb_env_set_mapsize(store->env, 0);
        code = code != 0 ? code : mdb_txn_begin(store->env, NULL, flags, handle);
    }
    return code;
}

static enum lq_status open_all(struct lq_store *store, struct lq_error *err)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        bool create = attempt == 1;
        bool complete = false;
        MDB_txn *handle = NULL;
        int code = begin_first(store, create ? 0 : MDB_RDONLY, &handle);
        if (code != 0) {
            return lq_store_fail(store, code, "open it", err);
        }
        enum lq_status status = open_databases(store, handle, create, &complete, err);
        if (status != LQ_OK) {
            mdb_txn_abort(handle);
            return status;
        }
        code = mdb_txn_commit(handle);
        if (code != 0) {
            return lq_store_fail(store, code, "open it", err);
        }
        if (complete) {
            return LQ_OK;
        }
    }
    return lq_store_fail(store, MDB_CORRUPTED, "open its databases", err);
}

/* A file that is shorter than its last page was cut, or ends in pages that were given back before
 * they were written. Touching what is missing through the map would be a signal: fill it with
 * zeros, which no page of a tree looks like. */
static enum lq_status check_length(struct lq_store *store, bool *cut, struct lq_error *err)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat st;
    int fd = -1;
    int code = mdb_env_info(store->env, &info);
    code = code != 0 ? code : mdb_env_stat(store->env, &stat);
    code = code != 0 ? code : mdb_env_get_fd(store->env, &fd);
    if (code != 0) {
        return lq_store_fail(store, code, "open it", err);
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
        *cut = true;
        mdb_txn_abort(handle);
    }
    return code == 0 ? LQ_OK : lq_store_fail(store, code, "open it", err);
}

static enum lq_status check_trees(struct lq_store *store, struct lq_error *err)
{
    MDB_txn *handle = NULL;
    int code = begin_first(store, MDB_RDONLY, &handle);
    if (code != 0) {
        return lq_store_fail(store, code, "open it", err);
    }
    enum lq_status status = lq_store_check_trees(store, (uint64_t)mdb_txn_id(handle), err);
    mdb_txn_abort(handle);
    return status;
}

static void on_assert(MDB_env *env, const char *message)
{
    struct lq_store *store = mdb_env_get_userctx(env);
    if (store != NULL && store->guard.fatal != NULL) {
        store->guard.fatal(store->guard.message);
    }
    if (store != NULL && store->warn != NULL) {
        struct lq_error err;
        (void)lq_store_damaged(&err, store->dir, message);
        store->warn(store->warn_user, err.message);
    }
    abort();
}

static enum lq_status open_environment(struct lq_store *store, uint64_t map_bytes,
                                       struct lq_error *err)
{
    uint64_t data_bytes = 0;
    enum lq_status status = lq_store_check_data(store->dir, &data_bytes, err);
    if (status == LQ_OK) {
        status = lq_store_reserve_lock(store->dir, LQ_STORE_READER_SLOTS, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t size = map_bytes == 0 ? map_bytes_default : map_bytes;
    while (size < data_bytes + data_bytes / 2) {
        size *= 2;
    }
    while (size > data_bytes + ((uint64_t)64 << 20) && !lq_store_address_space_has(size)) {
        size /= 2;
    }
    int code = mdb_env_create(&store->env);
    if (code != 0) {
        return lq_store_fail(store, code, "open it", err);
    }
    (void)mdb_env_set_userctx(store->env, store);
    (void)mdb_env_set_assert(store->env, on_assert);
    code = mdb_env_set_maxdbs(store->env, LQ_DB_COUNT);
    code = code != 0 ? code : mdb_env_set_maxreaders(store->env, LQ_STORE_READER_SLOTS);
    code = code != 0 ? code : mdb_env_set_mapsize(store->env, (size_t)size);
    code = code != 0 ? code : mdb_env_open(store->env, store->dir, MDB_NOTLS, 0664);
    if (code != 0) {
        return lq_store_fail(store, code, "open it", err);
    }
    int dead = 0;
    (void)mdb_reader_check(store->env, &dead);
    bool cut = false;
    status = check_length(store, &cut, err);
    status = status == LQ_OK && cut ? check_trees(store, err) : status;
    return status == LQ_OK ? open_all(store, err) : status;
}

static void destroy(struct lq_store *store)
{
    lq_batch_fini(&store->batch);
    for (unsigned i = 0; i < store->idle_count; i++) {
        mdb_txn_abort(store->idle[i]);
    }
    if (store->env != NULL) {
        mdb_env_close(store->env);
    }
    lq_folder_release(&store->claim);
    lq_later_fini(&store->later);
    (void)pthread_mutex_destroy(&store->mutex);
    (void)pthread_mutex_destroy(&store->check_mutex);
    (void)pthread_cond_destroy(&store->changed);
    free(store->damage_text);
    free(store->dir);
    free(store);
}

static char *describe_damage(const char *dir)
{
    struct lq_error err;
    (void)lq_store_damaged(&err, dir, NULL);
    return strdup(err.message);
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
    store->damage_text = describe_damage(dir);
    store->guard = (struct lq_guard){.fatal = options->fatal, .message = store->damage_text};
    lq_guard_install(&store->guard);
    (void)pthread_mutex_init(&store->mutex, NULL);
    (void)pthread_mutex_init(&store->check_mutex, NULL);
    (void)pthread_cond_init(&store->changed, NULL);
    lq_batch_init(&store->batch, store, lq_store_run_list);
    status = lq_folder_claim(&store->claim, store->dir, err);
    if (status == LQ_OK && store->damage_text == NULL) {
        status = lq_error_nomem(err, options->dir);
    }
    if (status == LQ_OK) {
        lq_guard_enter(&store->guard);
        status = open_environment(store, options->map_bytes, err);
        lq_guard_leave();
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

/* The list of free pages has a record for each transaction that gave some back: their count first,
 * then their numbers (mdb.c, MDB_IDL). */
static int count_free(MDB_txn *handle, uint64_t *pages)
{
    MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    int code = mdb_cursor_open(handle, 0, &cursor);
    while (code == 0 && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t count = 0;
        if (value.mv_size >= sizeof count) {
            memcpy(&count, value.mv_data, sizeof count);
            *pages += count;
        }
    }
    mdb_cursor_close(cursor);
    return code == MDB_NOTFOUND ? 0 : code;
}

enum lq_status lq_store_live_bytes(struct lq_store *store, uint64_t *size_bytes,
                                   struct lq_error *err)
{
    struct lq_txn txn;
    MDB_envinfo info;
    MDB_stat stat;
    uint64_t free_pages = 0;
    *size_bytes = 0;
    enum lq_status status = lq_store_read_begin(store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    int code = mdb_env_info(store->env, &info);
    code = code != 0 ? code : mdb_env_stat(store->env, &stat);
    code = code != 0 ? code : count_free(txn.handle, &free_pages);
    lq_store_read_end(&txn);
    if (code != 0) {
        return lq_store_fail(store, code, "count its free pages", err);
    }
    uint64_t pages = (uint64_t)info.me_last_pgno + 1;
    *size_bytes = (pages > free_pages ? pages - free_pages : 0) * stat.ms_psize;
    return LQ_OK;
}

enum lq_status lq_store_copy(struct lq_store *store, const char *path, struct lq_error *err)
{
    /* LMDB copies damage, and what it cannot read is gone then. */
    enum lq_status status = lq_store_check(store, err);
    if (status != LQ_OK) {
        return status;
    }
    int code = mdb_env_copy2(store->env, path, MDB_CP_COMPACT);
    return code == 0 ? LQ_OK : lq_store_fail(store, code, "write a compact copy of it", err);
}

uint64_t lq_store_disk_bytes(const struct lq_store *store)
{
    enum { BLOCK_BYTES = 512 }; /* the unit of st_blocks */
    int fd = -1;
    struct stat st;
    if (mdb_env_get_fd(store->env, &fd) != 0 || fstat(fd, &st) != 0) {
        return 0;
    }
    return (uint64_t)st.st_blocks * BLOCK_BYTES;
}

bool lq_store_has_written(const struct lq_store *store)
{
    return atomic_load(&store->commits) > 0;
}

/* When the trees of the data file are looked at: once in a process, before it writes. Reads do not
 * wait for it (a million results have many pages); they are guarded (store_guard.h). */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_private.h"
#include "cache/store_tree.h"

/* The meta record of a snapshot, which a later commit may have overwritten. */
static enum lq_status check_snapshot(struct lq_store *store, uint64_t snapshot,
                                     struct lq_error *err)
{
    unsigned char meta[LQ_META_BYTES];
    MDB_stat stat;
    struct stat st;
    int fd = -1;
    int code = mdb_env_get_fd(store->env, &fd);
    code = code != 0 ? code : mdb_env_stat(store->env, &stat);
    code = code == 0 && fstat(fd, &st) != 0 ? errno : code;
    if (code != 0) {
        return lq_store_fail(store, code, "check it", err);
    }
    off_t at = (off_t)((snapshot % 2) * stat.ms_psize + LQ_META_AT);
    if (pread(fd, meta, sizeof meta, at) != LQ_META_BYTES) {
        return lq_store_fail(store, MDB_CORRUPTED, "check it", err);
    }
    if (lq_tree_snapshot(meta) != snapshot) {
        return LQ_OK;
    }
    bool no_memory = false;
    const struct lq_tree_file file = {fd, (uint64_t)st.st_size, stat.ms_psize};
    const char *why = lq_tree_check(&file, meta, &no_memory);
    if (no_memory) {
        return lq_error_nomem(err, store->dir);
    }
    if (why != NULL) {
        return lq_store_damaged(err, store->dir, why);
    }
    store->checked = true;
    return LQ_OK;
}

enum lq_status lq_store_check(struct lq_store *store, struct lq_error *err)
{
    struct lq_txn txn;
    enum lq_status status = lq_store_read_begin(store, &txn, err);
    if (status == LQ_OK) {
        status = lq_store_check_trees(store, (uint64_t)mdb_txn_id(txn.handle), err);
        lq_store_read_end(&txn);
    }
    return status;
}

enum lq_status lq_store_check_trees(struct lq_store *store, uint64_t snapshot, struct lq_error *err)
{
    (void)pthread_mutex_lock(&store->check_mutex);
    enum lq_status status = store->checked ? LQ_OK : check_snapshot(store, snapshot, err);
    (void)pthread_mutex_unlock(&store->check_mutex);
    return status;
}

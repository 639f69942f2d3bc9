/* What the files of the store share: store_lmdb.c has transactions, store_open.c opens, checks and
 * closes, store_trim.c gives free pages back. Nothing else includes this, or knows
 * LMDB. Thread rule: as in store_lmdb.h. */
#ifndef LQ_CACHE_STORE_PRIVATE_H
#define LQ_CACHE_STORE_PRIVATE_H

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#include "cache/store_batch.h"
#include "cache/store_file.h"
#include "cache/store_guard.h"
#include "cache/store_later.h"
#include "cache/store_lmdb.h"

enum {
    LQ_STORE_READER_SLOTS = 510, /* threads of all processes that read at the same moment */
    LQ_STORE_IDLE_MAX = 32,      /* read transactions kept for the next reader */
};

struct lq_store {
    char *dir;
    void (*warn)(void *user, const char *message);
    void *warn_user;
    struct lq_guard guard;
    char *damage_text; /* what the guard says */
    MDB_env *env;
    MDB_dbi dbis[LQ_DB_COUNT];
    struct lq_folder_claim claim;
    pthread_mutex_t check_mutex; /* guards the next */
    bool checked;                /* the trees were found sound */

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    unsigned active;   /* transactions of this process that are open */
    unsigned resizing; /* threads that wait to resize the map: no new transaction then */
    bool broken;       /* the map is gone */
    uint64_t write_count;
    atomic_uint_fast64_t commits; /* of this process; without the mutex */
    MDB_txn *idle[LQ_STORE_IDLE_MAX];
    unsigned idle_count;
    struct lq_later_list later;
    struct lq_batch batch;
};

/* The sentence for an LMDB result code. */
enum lq_status lq_store_fail(const struct lq_store *store, int code, const char *doing,
                             struct lq_error *err);
/* Runs a list of changes in one transaction; again with a larger map when it was too small, and
 * once more when the disk is full. */
enum lq_status lq_store_run_list(struct lq_store *store, struct lq_op *list);
/* Between the two this process does not change its map, so that transactions may be open. */
enum lq_status lq_store_gate_enter(struct lq_store *store, struct lq_error *err);
void lq_store_gate_leave(struct lq_store *store);
/* Looks once, at the latest before this process writes, whether the trees that `snapshot` sees are
 * sound; the caller has a transaction that sees it too, or writes the next. Nothing happens when
 * the snapshot is too old to be found, which cannot be the newest. */
enum lq_status lq_store_check_trees(struct lq_store *store, uint64_t snapshot,
                                    struct lq_error *err);
/* LMDB does not reuse what the newest transaction gave back: an empty step of history makes it the
 * second newest. */
void lq_store_age_free_pages(struct lq_store *store);
/* LMDB unmaps before it maps: a size that does not fit must be found out before. */
bool lq_store_address_space_has(uint64_t size_bytes);

#endif

/* The store below the cache: one LMDB environment, its named databases, short transactions, and a
 * map that grows by itself. Only the files store_*.c know LMDB; everything else works
 * through this header.
 *
 * Reading: lq_store_read_begin and lq_store_read_end around lookups; the bytes that lq_txn_get
 * gives live until the end, so copy them. Writing: lq_store_write runs a change inside a write
 * transaction and returns when it is durable. Changes of several threads may share one
 * transaction and one flush to the disk, and a change may run more than once (after the map grew,
 * or when its neighbour failed), possibly on another thread while its owner waits: it must start
 * from scratch every time and touch nothing but its own data. Never begin a transaction inside
 * another one on the same thread.
 *
 * Postponed records (lq_store_later) are small records that wait in memory for the next change
 * that asks for them, at most LQ_STORE_LATER_BYTES and LQ_STORE_LATER_COUNT in all; whoever reads a
 * key asks lq_store_has_later first.
 *
 * Thread rule: any thread; a transaction belongs to the thread that began it. A process opens a
 * folder once at a time.
 */
#ifndef LQ_CACHE_STORE_LMDB_H
#define LQ_CACHE_STORE_LMDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

enum lq_db {
    LQ_DB_META,    /* "format" and "next-id" */
    LQ_DB_BLOBS,   /* digest -> blob record */
    LQ_DB_CHUNKS,  /* id, index -> bytes */
    LQ_DB_PENDING, /* id -> who writes or deletes its chunks */
    LQ_DB_REFS,    /* digest -> number of times joined blobs refer to it */
    LQ_DB_ACTIONS, /* action key -> action record */
    LQ_DB_FILES,   /* file signature and kind -> digest */
    LQ_DB_HISTORY, /* digest of a label -> label and manifest */
    LQ_DB_USES,    /* a letter and a key -> when it was used last */
    LQ_DB_PINS,    /* digest of a pin's text -> the text */
    LQ_DB_COUNT
};

enum {
    LQ_STORE_KEY_BYTES_MAX = 511,
    LQ_STORE_LATER_BYTES = 4 * 1024 * 1024,
    LQ_STORE_LATER_COUNT = 512,
    LQ_STORE_FORMAT = 1,
};

struct lq_store;
struct MDB_txn;

struct lq_bytes {
    const void *data;
    size_t size_bytes;
};

struct lq_txn {
    struct lq_store *store;
    struct MDB_txn *handle;
    int code; /* the last LMDB result that was not success */
};

/* `map_bytes`: the first size of the map, 0 for the default; `warn` gets the one sentence said
 * before LMDB ends the process over a damaged file. */
struct lq_store_options {
    const char *dir;
    uint64_t map_bytes;
    void (*warn)(void *user, const char *message);
    void *warn_user;
    void (*fatal)(const char *message); /* see cache.h; may be NULL */
};
enum lq_status lq_store_open(struct lq_store **out, const struct lq_store_options *options,
                             struct lq_error *err);
/* Writes postponed records and closes. */
void lq_store_close(struct lq_store *store);
/* Looks at all pages of all trees now, as is done before the first write. LQ_ECACHE: damage. */
enum lq_status lq_store_check(struct lq_store *store, struct lq_error *err);
/* Bytes of the data file that hold something: the file less its free pages. */
enum lq_status lq_store_live_bytes(struct lq_store *store, uint64_t *size_bytes,
                                   struct lq_error *err);
/* Writes a copy without free pages to `path`/data.mdb; `path` is a folder. Nobody may write
 * meanwhile. */
enum lq_status lq_store_copy(struct lq_store *store, const char *path, struct lq_error *err);
/* Gives free pages back to the file system when they are more than a twentieth of what is in use
 * and 1 MiB, until `deadline_ns` on the monotonic clock (0: no limit). Readers and writers of all
 * processes go on meanwhile. Does nothing where the file system has no holes. */
enum lq_status lq_store_trim(struct lq_store *store, uint64_t deadline_ns, struct lq_error *err);
/* True when this process has committed anything. */
bool lq_store_has_written(const struct lq_store *store);
/* What the data file takes on the disk: holes take nothing. */
uint64_t lq_store_disk_bytes(const struct lq_store *store);
uint64_t lq_store_map_bytes(struct lq_store *store);

enum lq_status lq_store_read_begin(struct lq_store *store, struct lq_txn *txn,
                                   struct lq_error *err);
void lq_store_read_end(struct lq_txn *txn);

/* Between hold and release, reads of this thread share one transaction as long as this process
 * commits nothing: a thread that asks many small questions in a row holds, and releases before it
 * waits for anything. Not nested, one store at a time. */
void lq_store_hold(struct lq_store *store);
void lq_store_release(struct lq_store *store);

typedef enum lq_status (*lq_store_change)(struct lq_txn *txn, void *user, struct lq_error *err);
enum lq_store_flags {
    LQ_STORE_WITH_LATER = 1, /* postponed records go into the same transaction, before the change */
    /* Content without a name yet: a power cut may undo it. The next change without this flag
     * makes it durable together with itself. */
    LQ_STORE_UNNAMED = 2,
    /* Only for lq_store_write_begin: nothing starts the change before its end, except that the next
     * change takes it into its transaction. */
    LQ_STORE_PATIENT = 4,
};
/* `size_bytes`: about how much the change writes, so that shared transactions stay short. */
enum lq_status lq_store_write(struct lq_store *store, unsigned flags, size_t size_bytes,
                              lq_store_change change, void *user, struct lq_error *err);

/* The same in two halves: what the caller does in between runs beside the write. The error and the
 * status come from the second half. Errors of the first: LQ_ENOMEM; then nothing has begun. */
struct lq_store_writing;
enum lq_status lq_store_write_begin(struct lq_store *store, unsigned flags, size_t size_bytes,
                                    lq_store_change change, void *user,
                                    struct lq_store_writing **out, struct lq_error *err);
/* Frees `writing`; NULL is fine. */
enum lq_status lq_store_write_end(struct lq_store *store, struct lq_store_writing *writing,
                                  struct lq_error *err);

/* Postpones one record. With `keep_old` a record that is already stored stays. LQ_OK also when it
 * had to be written at once. */
enum lq_status lq_store_later(struct lq_store *store, enum lq_db db, const struct lq_bytes *key,
                              const struct lq_bytes *value, bool keep_old, struct lq_error *err);
/* True when a postponed record has this key; copies its value when it has `value_bytes` bytes and
 * `value` is not NULL. */
bool lq_store_has_later(struct lq_store *store, enum lq_db db, const struct lq_bytes *key,
                        void *value, size_t value_bytes);
/* Writes postponed records now. */
enum lq_status lq_store_flush(struct lq_store *store, struct lq_error *err);

/* ---- inside a transaction ---- */

enum lq_status lq_txn_get(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          struct lq_bytes *value, bool *found, struct lq_error *err);
/* The first record whose key is not below `key` (above it when `after`). */
enum lq_status lq_txn_next(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                           bool after, struct lq_bytes *found_key, struct lq_bytes *value,
                           bool *found, struct lq_error *err);
enum lq_status lq_txn_put(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          const struct lq_bytes *value, struct lq_error *err);
/* `found` may be NULL. */
enum lq_status lq_txn_del(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                          bool *found, struct lq_error *err);
enum lq_status lq_txn_count(struct lq_txn *txn, enum lq_db db, uint64_t *count,
                            struct lq_error *err);
/* Removes every record of a database. */
enum lq_status lq_txn_empty(struct lq_txn *txn, enum lq_db db, struct lq_error *err);

#endif

/* What can be said about an LMDB data file before LMDB is let at it: a file that is not one, or
 * whose first pages are damaged, must give a sentence and not a crash. The layout of the two meta
 * pages is LMDB's (mdb.c, MDB_page and MDB_meta, format 1, 64 bit): a 16 byte page header, then
 * magic, version, map address, map size, two database descriptions, last page, transaction number.
 * Thread rule: thread-safe. */
#ifndef LQ_CACHE_STORE_FILE_H
#define LQ_CACHE_STORE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"

/* Looks at `dir`: makes it when missing, refuses what is no folder or lies on a network file
 * system. */
enum lq_status lq_store_check_folder(const char *dir, struct lq_error *err);

/* LMDB breaks when a process opens one folder twice: closing one drops the locks of both. A claim,
 * owned by the caller and zeroed at first, keeps the second one out. */
struct lq_folder_claim {
    uint64_t device, inode;
    struct lq_folder_claim *next;
};
enum lq_status lq_folder_claim(struct lq_folder_claim *claim, const char *dir,
                               struct lq_error *err);
/* Nothing happens to a claim that was not granted. */
void lq_folder_release(struct lq_folder_claim *claim);

/* The one sentence about a data file that is damaged: `why` is static text or NULL; LQ_ECACHE. */
enum lq_status lq_store_damaged(struct lq_error *err, const char *dir, const char *why);

/* Checks the meta pages of dir/data.mdb; a missing or empty file is fine. *size_bytes is the size
 * of the file. */
enum lq_status lq_store_check_data(const char *dir, uint64_t *size_bytes, struct lq_error *err);
/* Opens a data file for reading; LQ_ECACHE when it cannot be opened or is no regular file. The
 * caller closes *fd, which is -1 when there is no file. */
enum lq_status lq_store_open_data(const char *path, int *fd, uint64_t *size_bytes,
                                  struct lq_error *err);
/* Gives dir/lock.mdb its blocks now, because LMDB writes to it through a map, where a full disk is
 * a signal and not an error. */
enum lq_status lq_store_reserve_lock(const char *dir, unsigned reader_count, struct lq_error *err);
/* True when less than 1 MiB is left where `dir` is. */
bool lq_store_disk_is_full(const char *dir);

#endif

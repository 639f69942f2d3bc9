/* What can still be read of a damaged LMDB data file, without LMDB. Trees are followed as far as
 * they lead; where one points, a page may have one thing wrong with it. What no tree leads to any
 * more is found by looking at every page by itself, and must be a leaf in every respect; pages of
 * values and pages that are known to be free are passed over, because content may look like
 * anything. Entries are given as they stand: whoever gets them proves them. Nothing is read twice
 * because a file says so: the work grows with its size, whatever is in it. Thread rule: one thread
 * at a time. Memory: a byte a page. Limits: pages of 512 to 32768 bytes, 16 databases that are
 * counted.
 */
#ifndef LQ_CACHE_STORE_SALVAGE_H
#define LQ_CACHE_STORE_SALVAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

struct lq_salvage;

struct lq_salvage_entry {
    const unsigned char *key; /* borrowed during the call */
    size_t key_bytes;
    uint64_t offset; /* of the value in the file */
    uint64_t size_bytes;
    bool reached; /* a tree leads here */
};

/* Looks at all pages. LQ_EIO, LQ_ENOMEM; LQ_ECACHE when it is no regular file. */
enum lq_status lq_salvage_open(struct lq_salvage **out, const char *path, struct lq_error *err);
void lq_salvage_close(struct lq_salvage *salvage);
/* True when nothing is wrong with pages and trees. */
bool lq_salvage_is_sound(const struct lq_salvage *salvage);
uint64_t lq_salvage_file_bytes(const struct lq_salvage *salvage);
uint64_t lq_salvage_page_count(const struct lq_salvage *salvage);
/* How many entries a database had; false when that cannot be read any more. */
bool lq_salvage_table(const struct lq_salvage *salvage, const char *name, uint64_t *entries);
/* Calls `visit` with every entry, those that trees lead to first; what it returns other than LQ_OK
 * ends the walk. */
enum lq_status lq_salvage_each(struct lq_salvage *salvage,
                               enum lq_status (*visit)(void *user,
                                                       const struct lq_salvage_entry *entry,
                                                       struct lq_error *err),
                               void *user, struct lq_error *err);
/* False when the disk does not give it. */
bool lq_salvage_read(const struct lq_salvage *salvage, uint64_t offset, void *out,
                     size_t size_bytes);

#endif

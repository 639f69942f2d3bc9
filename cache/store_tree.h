/* Whether the trees of an LMDB data file hold together. LMDB trusts its pages: one flipped bit in a
 * page of a tree can make it loop, read far outside or write over the process's own memory. So
 * every page of every tree is looked at before LMDB uses it: its number, kind and bounds, the nodes
 * in it, the order of keys, where it points to, that nothing points to a page twice, that free
 * pages are free, and that pages, depth and entries are as many as the database says. What values
 * hold is not looked at; records and blobs have digests of their own.
 * Thread rule: thread-safe; the pages must not change meanwhile, so the caller holds a
 * transaction. */
#ifndef LQ_CACHE_STORE_TREE_H
#define LQ_CACHE_STORE_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/store_page.h"

struct lq_tree_file {
    int fd;
    uint64_t size_bytes;
    uint32_t page_bytes;
};

/* Checks all trees that a copy of a meta record names. NULL, or what is wrong: static text.
 * *no_memory: nothing was found out. */
const char *lq_tree_check(const struct lq_tree_file *file, const unsigned char meta[LQ_META_BYTES],
                          bool *no_memory);
/* The transaction that wrote it. */
uint64_t lq_tree_snapshot(const unsigned char meta[LQ_META_BYTES]);

#endif

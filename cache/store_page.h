/* The layout of an LMDB data file, for what reads it without LMDB (store_tree.c checks it,
 * store_salvage.c saves what a damaged one holds). It is LMDB's (mdb.c 0.9: MDB_meta, MDB_db,
 * MDB_page, MDB_node), 64 bit, in the machine's byte order. Nothing here believes what it reads:
 * a node is given only when it lies in its page. Thread rule: pure functions. Limits: pages of 512
 * to 32768 bytes.
 */
#ifndef LQ_CACHE_STORE_PAGE_H
#define LQ_CACHE_STORE_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /* Of a page. */
    LQ_PAGE_HEAD_BYTES = 16,
    LQ_PAGE_BRANCH = 0x01, /* flags */
    LQ_PAGE_LEAF = 0x02,
    LQ_PAGE_RUN = 0x04, /* a value in pages of its own */
    LQ_PAGE_META = 0x08,
    LQ_PAGE_FIRST = 2, /* behind the two meta pages */
    LQ_PAGE_KEY_BYTES_MAX = 511,
    LQ_PAGE_BYTES_MIN = 512,
    LQ_PAGE_BYTES_MAX = 0x8000,

    /* The meta record in its page; magic, version, address and size of the map come first. */
    LQ_META_AT = 16,
    LQ_META_BYTES = 136,
    LQ_META_FREE_AT = 24, /* the database of free pages */
    LQ_META_MAIN_AT = 72, /* the database that names the others */
    LQ_META_LAST_PAGE_AT = 120,
    LQ_META_SNAPSHOT_AT = 128, /* the transaction that wrote it */

    /* The description of a database. In that of free pages the first number is the size of a page.
     */
    LQ_TABLE_BYTES = 48,
    LQ_TABLE_FLAGS_AT = 4,
    LQ_TABLE_NUMBERS = 0x08, /* flag: keys are numbers */
    LQ_TABLE_DEPTH_AT = 6,
    LQ_TABLE_BRANCH_AT = 8,
    LQ_TABLE_LEAF_AT = 16,
    LQ_TABLE_RUN_AT = 24,
    LQ_TABLE_ENTRIES_AT = 32,
    LQ_TABLE_ROOT_AT = 40,
    LQ_TABLE_DEPTH_MAX = 32, /* of LMDB's cursors */
};
#define LQ_META_MAGIC 0xBEEFC0DEu
#define LQ_META_VERSION 1u
#define LQ_PAGE_NONE UINT64_MAX /* the root of an empty tree */

uint16_t lq_u16_at(const unsigned char *at);
uint32_t lq_u32_at(const unsigned char *at);
uint64_t lq_u64_at(const unsigned char *at);

uint64_t lq_page_number(const unsigned char *page);
unsigned lq_page_flags(const unsigned char *page);
/* How many pages a run says that it has. */
uint64_t lq_page_run_count(const unsigned char *page);
/* How many pages a value of that size takes. */
uint64_t lq_page_run_needed(uint64_t value_bytes, uint32_t page_bytes);

struct lq_page_node {
    const unsigned char *key;
    size_t key_bytes;
    const unsigned char *value; /* of a leaf; the number of its first page when `big` */
    uint64_t value_bytes;
    uint64_t child; /* of a branch */
    bool big;       /* the value is a run of pages */
    bool is_table;  /* the value describes a database */
};

/* How many nodes the page has; 0 when its bounds make no sense. */
size_t lq_page_node_count(const unsigned char *page, uint32_t page_bytes);
/* Reads a node and tells what room it takes; 0: it does not fit. */
size_t lq_page_node(const unsigned char *page, uint32_t page_bytes, size_t index, bool leaf,
                    struct lq_page_node *node);
/* NULL when bounds and nodes fit one another, or what is wrong: static text. */
const char *lq_page_check(const unsigned char *page, uint32_t page_bytes, bool leaf);

#endif

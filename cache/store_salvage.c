#define _POSIX_C_SOURCE 200809L
#include "cache/store_salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/store_file.h"
#include "cache/store_page.h"
#include "cache/store_tree.h"

enum {
    levels_max = 3 * LQ_TABLE_DEPTH_MAX, /* of nested trees, and some for depths that are wrong */
    tables_max = 16,
    table_name_bytes = 16,
};

enum page_kind {
    PAGE_UNKNOWN,
    PAGE_TAKEN, /* a branch, of a value, or free */
    LEAF_REACHED,
    LEAF_FOUND,
};

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_NAMED };

struct table {
    char name[table_name_bytes];
    uint64_t entries;
};

struct lq_salvage {
    int fd;
    uint64_t size_bytes;
    uint64_t page_count;
    uint32_t page_bytes;
    bool sound;
    unsigned char meta[LQ_META_BYTES]; /* of the newest snapshot */
    bool has_meta;
    unsigned char *kinds; /* enum page_kind of each page */
    unsigned char *pages; /* one for each level of trees */
    unsigned level;
    struct table tables[tables_max];
    size_t table_count;
};

bool lq_salvage_read(const struct lq_salvage *salvage, uint64_t offset, void *out,
                     size_t size_bytes)
{
    if (offset > salvage->size_bytes || size_bytes > salvage->size_bytes - offset) {
        return false;
    }
    unsigned char *to = out;
    for (size_t done = 0; done < size_bytes;) {
        ssize_t got = pread(salvage->fd, to + done, size_bytes - done, (off_t)(offset + done));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return false;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool read_page(const struct lq_salvage *salvage, uint64_t page, void *out, size_t size_bytes)
{
    return lq_salvage_read(salvage, page * salvage->page_bytes, out, size_bytes);
}

/* ---- pages that are no leaves ---- */

/* Takes the pages of a value, up to the first that is something else, and tells how many. A run
 * that does not look like one takes nothing. */
static uint64_t take_run(struct lq_salvage *salvage, uint64_t first, uint64_t needed)
{
    unsigned char head[LQ_PAGE_HEAD_BYTES];
    if (first < LQ_PAGE_FIRST || first >= salvage->page_count ||
        salvage->kinds[first] != PAGE_UNKNOWN || !read_page(salvage, first, head, sizeof head)) {
        return 0;
    }
    uint64_t count = lq_page_run_count(head);
    if (lq_page_number(head) != first || lq_page_flags(head) != LQ_PAGE_RUN || count < needed ||
        count == 0 || count > salvage->page_count - first) {
        return 0;
    }
    uint64_t taken = 0;
    while (taken < count && salvage->kinds[first + taken] == PAGE_UNKNOWN) {
        salvage->kinds[first + taken++] = PAGE_TAKEN;
    }
    return taken;
}

static void take_free_list(struct lq_salvage *salvage, const unsigned char *value,
                           uint64_t size_bytes)
{
    uint64_t room = size_bytes / sizeof(uint64_t);
    uint64_t count = room > 0 ? lq_u64_at(value) : 0;
    for (uint64_t i = 1; i <= count && i < room; i++) {
        uint64_t page = lq_u64_at(value + i * sizeof page);
        if (page >= LQ_PAGE_FIRST && page < salvage->page_count &&
            salvage->kinds[page] == PAGE_UNKNOWN) {
            salvage->kinds[page] = PAGE_TAKEN;
        }
    }
}

static void take_free(struct lq_salvage *salvage, const struct lq_page_node *node)
{
    if (!node->big) {
        take_free_list(salvage, node->value, node->value_bytes);
        return;
    }
    uint64_t first = lq_u64_at(node->value);
    uint64_t needed = lq_page_run_needed(node->value_bytes, salvage->page_bytes);
    if (take_run(salvage, first, needed) < needed) {
        return;
    }
    unsigned char *value = malloc((size_t)node->value_bytes + 1);
    if (value != NULL && lq_salvage_read(salvage, first * salvage->page_bytes + LQ_PAGE_HEAD_BYTES,
                                         value, (size_t)node->value_bytes)) {
        take_free_list(salvage, value, node->value_bytes);
    }
    free(value);
}

/* ---- trees ---- */

static void walk_tree(struct lq_salvage *salvage, enum tree_kind kind, const unsigned char *table);

static void note_table(struct lq_salvage *salvage, const struct lq_page_node *node)
{
    if (salvage->table_count < tables_max && node->key_bytes < table_name_bytes) {
        struct table *table = &salvage->tables[salvage->table_count++];
        memset(table, 0, sizeof *table);
        memcpy(table->name, node->key, node->key_bytes);
        table->entries = lq_u64_at(node->value + LQ_TABLE_ENTRIES_AT);
    }
}

static void walk_value(struct lq_salvage *salvage, enum tree_kind kind,
                       const struct lq_page_node *node)
{
    if (node->is_table) {
        if (kind == TREE_MAIN && !node->big && node->value_bytes == LQ_TABLE_BYTES) {
            note_table(salvage, node);
            walk_tree(salvage, TREE_NAMED, node->value);
        }
    } else if (kind == TREE_FREE) {
        take_free(salvage, node);
    } else if (node->big) {
        (void)take_run(salvage, lq_u64_at(node->value),
                       lq_page_run_needed(node->value_bytes, salvage->page_bytes));
    }
}

/* What a page is that a tree leads to: with its number or its kind wrong, but not both. */
static bool judge_page(const unsigned char *page, uint64_t number, bool expect_leaf, bool *leaf)
{
    unsigned flags = lq_page_flags(page);
    bool named = lq_page_number(page) == number;
    bool typed = flags == LQ_PAGE_LEAF || flags == LQ_PAGE_BRANCH;
    *leaf = named && typed ? flags == LQ_PAGE_LEAF : expect_leaf;
    return named || (typed && expect_leaf == (flags == LQ_PAGE_LEAF));
}

static void walk_page(struct lq_salvage *salvage, enum tree_kind kind, uint64_t number,
                      unsigned depth)
{
    bool leaf = false;
    if (number < LQ_PAGE_FIRST || number >= salvage->page_count || salvage->level == levels_max ||
        salvage->kinds[number] != PAGE_UNKNOWN) {
        return;
    }
    unsigned char *page = salvage->pages + (size_t)salvage->level * salvage->page_bytes;
    if (!read_page(salvage, number, page, salvage->page_bytes) ||
        !judge_page(page, number, depth <= 1, &leaf)) {
        return;
    }
    salvage->kinds[number] = leaf && kind != TREE_FREE ? LEAF_REACHED : PAGE_TAKEN;
    salvage->level++;
    size_t count = lq_page_node_count(page, salvage->page_bytes);
    for (size_t i = 0; i < count; i++) {
        struct lq_page_node node;
        if (lq_page_node(page, salvage->page_bytes, i, leaf, &node) == 0) {
            continue;
        }
        if (leaf) {
            walk_value(salvage, kind, &node);
        } else {
            walk_page(salvage, kind, node.child, depth > 0 ? depth - 1 : 0);
        }
    }
    salvage->level--;
}

static void walk_tree(struct lq_salvage *salvage, enum tree_kind kind, const unsigned char *table)
{
    walk_page(salvage, kind, lq_u64_at(table + LQ_TABLE_ROOT_AT),
              lq_u16_at(table + LQ_TABLE_DEPTH_AT));
}

/* ---- what no tree leads to ---- */

static void find_leaves(struct lq_salvage *salvage)
{
    unsigned char *page = salvage->pages;
    for (uint64_t i = LQ_PAGE_FIRST; i < salvage->page_count; i++) {
        if (salvage->kinds[i] != PAGE_UNKNOWN || take_run(salvage, i, 1) > 0 ||
            !read_page(salvage, i, page, LQ_PAGE_HEAD_BYTES) || lq_page_number(page) != i ||
            lq_page_flags(page) != LQ_PAGE_LEAF) {
            continue;
        }
        if (read_page(salvage, i, page, salvage->page_bytes) &&
            lq_page_check(page, salvage->page_bytes, true) == NULL) {
            salvage->kinds[i] = LEAF_FOUND;
        }
    }
}

/* ---- beginning ---- */

static bool is_page_size(uint64_t size_bytes)
{
    return size_bytes >= LQ_PAGE_BYTES_MIN && size_bytes <= LQ_PAGE_BYTES_MAX &&
           (size_bytes & (size_bytes - 1)) == 0;
}

/* The meta record of the page at `offset`; its page size, or 0 when it is none. */
static uint32_t read_meta(const struct lq_salvage *salvage, uint64_t offset,
                          unsigned char meta[LQ_META_BYTES])
{
    if (!lq_salvage_read(salvage, offset + LQ_META_AT, meta, LQ_META_BYTES) ||
        lq_u32_at(meta) != LQ_META_MAGIC || (lq_u32_at(meta + 4) & 0xFFFF) != LQ_META_VERSION) {
        return 0;
    }
    uint32_t page_bytes = lq_u32_at(meta + LQ_META_FREE_AT);
    return is_page_size(page_bytes) ? page_bytes : 0;
}

/* Two copies, the newer one counts; the second stands where the size of pages says, which only the
 * copies say. Without any, pages are as large as the system's. */
static void find_meta(struct lq_salvage *salvage)
{
    unsigned char second[LQ_META_BYTES];
    uint32_t first_bytes = read_meta(salvage, 0, salvage->meta);
    salvage->page_bytes = first_bytes;
    salvage->has_meta = first_bytes != 0;
    for (uint32_t at = LQ_PAGE_BYTES_MIN; at <= LQ_PAGE_BYTES_MAX; at *= 2) {
        if ((first_bytes != 0 && at != first_bytes) || read_meta(salvage, at, second) != at) {
            continue;
        }
        salvage->page_bytes = at;
        salvage->sound = first_bytes != 0;
        if (first_bytes == 0 || lq_tree_snapshot(second) > lq_tree_snapshot(salvage->meta)) {
            memcpy(salvage->meta, second, sizeof second);
        }
        salvage->has_meta = true;
        break;
    }
    if (!salvage->has_meta) {
        long system_bytes = sysconf(_SC_PAGESIZE);
        bool usable = system_bytes > 0 && is_page_size((uint64_t)system_bytes);
        salvage->page_bytes = usable ? (uint32_t)system_bytes : LQ_PAGE_BYTES_MIN * 8;
    }
}

static enum lq_status look(struct lq_salvage *salvage, const char *path, struct lq_error *err)
{
    bool no_memory = false;
    find_meta(salvage);
    salvage->page_count = salvage->size_bytes / salvage->page_bytes;
    salvage->kinds = calloc((size_t)salvage->page_count + 1, 1);
    salvage->pages = malloc((size_t)levels_max * salvage->page_bytes);
    if (salvage->kinds == NULL || salvage->pages == NULL) {
        return lq_error_nomem(err, path);
    }
    const struct lq_tree_file file = {salvage->fd, salvage->size_bytes, salvage->page_bytes};
    if (salvage->sound) {
        salvage->sound = lq_tree_check(&file, salvage->meta, &no_memory) == NULL;
    }
    if (no_memory) {
        return lq_error_nomem(err, path);
    }
    if (salvage->has_meta) {
        walk_tree(salvage, TREE_MAIN, salvage->meta + LQ_META_MAIN_AT);
        walk_tree(salvage, TREE_FREE, salvage->meta + LQ_META_FREE_AT);
    }
    find_leaves(salvage);
    return LQ_OK;
}

enum lq_status lq_salvage_open(struct lq_salvage **out, const char *path, struct lq_error *err)
{
    *out = NULL;
    struct lq_salvage *salvage = calloc(1, sizeof *salvage);
    if (salvage == NULL) {
        return lq_error_nomem(err, path);
    }
    enum lq_status status = lq_store_open_data(path, &salvage->fd, &salvage->size_bytes, err);
    if (status == LQ_OK) {
        status = salvage->fd < 0 ? lq_error_set(err, LQ_EIO, "%s: there is no such file", path)
                                 : look(salvage, path, err);
    }
    if (status != LQ_OK) {
        lq_salvage_close(salvage);
        return status;
    }
    *out = salvage;
    return LQ_OK;
}

void lq_salvage_close(struct lq_salvage *salvage)
{
    if (salvage == NULL) {
        return;
    }
    if (salvage->fd >= 0) {
        (void)close(salvage->fd);
    }
    free(salvage->kinds);
    free(salvage->pages);
    free(salvage);
}

bool lq_salvage_is_sound(const struct lq_salvage *salvage)
{
    return salvage->sound;
}

uint64_t lq_salvage_file_bytes(const struct lq_salvage *salvage)
{
    return salvage->size_bytes;
}

uint64_t lq_salvage_page_count(const struct lq_salvage *salvage)
{
    return salvage->page_count;
}

bool lq_salvage_table(const struct lq_salvage *salvage, const char *name, uint64_t *entries)
{
    for (size_t i = 0; i < salvage->table_count; i++) {
        if (strcmp(salvage->tables[i].name, name) == 0) {
            *entries = salvage->tables[i].entries;
            return true;
        }
    }
    return false;
}

/* ---- giving ---- */

struct giving {
    struct lq_salvage *salvage;
    enum lq_status (*visit)(void *user, const struct lq_salvage_entry *entry, struct lq_error *err);
    void *user;
};

/* Nodes that lie over one another are damage: no more than a page of them is given. */
static enum lq_status give_page(const struct giving *giving, uint64_t number, struct lq_error *err)
{
    const struct lq_salvage *salvage = giving->salvage;
    unsigned char *page = salvage->pages;
    size_t left = salvage->page_bytes;
    enum lq_status status = LQ_OK;
    if (!read_page(salvage, number, page, salvage->page_bytes)) {
        return LQ_OK;
    }
    size_t count = lq_page_node_count(page, salvage->page_bytes);
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        struct lq_page_node node;
        size_t taken = lq_page_node(page, salvage->page_bytes, i, true, &node);
        if (taken == 0 || taken > left || node.is_table) {
            continue;
        }
        left -= taken;
        struct lq_salvage_entry entry = {
            .key = node.key,
            .key_bytes = node.key_bytes,
            .size_bytes = node.value_bytes,
            .offset = number * salvage->page_bytes + (uint64_t)(node.value - page),
            .reached = salvage->kinds[number] == LEAF_REACHED,
        };
        if (node.big) {
            uint64_t first = lq_u64_at(node.value);
            entry.offset = first * salvage->page_bytes + LQ_PAGE_HEAD_BYTES;
            if (first < LQ_PAGE_FIRST || first >= salvage->page_count ||
                entry.size_bytes > salvage->size_bytes - entry.offset) {
                continue;
            }
        }
        status = giving->visit(giving->user, &entry, err);
    }
    return status;
}

enum lq_status lq_salvage_each(struct lq_salvage *salvage,
                               enum lq_status (*visit)(void *user,
                                                       const struct lq_salvage_entry *entry,
                                                       struct lq_error *err),
                               void *user, struct lq_error *err)
{
    static const unsigned char kinds[] = {LEAF_REACHED, LEAF_FOUND};
    const struct giving giving = {salvage, visit, user};
    enum lq_status status = LQ_OK;
    for (size_t k = 0; k < sizeof kinds; k++) {
        for (uint64_t i = LQ_PAGE_FIRST; i < salvage->page_count && status == LQ_OK; i++) {
            if (salvage->kinds[i] == kinds[k]) {
                status = give_page(&giving, i, err);
            }
        }
    }
    return status;
}

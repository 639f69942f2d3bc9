#define _POSIX_C_SOURCE 200809L
#include "cache/store_tree.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/store_page.h"

enum { nesting = 2 }; /* trees in the main tree */

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_NAMED };

struct tree {
    enum tree_kind kind;
    unsigned depth;
    uint64_t branches, leaves, overflows, entries;
    /* The newest key on the way through the tree, and whether it is only a bound of what follows.
     */
    unsigned char key[LQ_PAGE_KEY_BYTES_MAX];
    size_t key_bytes;
    bool has_key, is_bound;
};

struct walk {
    struct lq_tree_file file;
    uint64_t page_count;
    unsigned char *seen;  /* a bit for each page */
    unsigned char *pages; /* one for each level of nested trees */
    unsigned depth;       /* of them in use */
    bool no_memory;
    const char *why;
};

static bool bad(struct walk *walk, const char *why)
{
    walk->why = why;
    return false;
}

static bool see(struct walk *walk, uint64_t page, uint64_t count)
{
    if (page < LQ_PAGE_FIRST || page >= walk->page_count || count > walk->page_count - page) {
        return bad(walk, "a page number is beyond the last page");
    }
    for (uint64_t i = page; i < page + count; i++) {
        unsigned char bit = (unsigned char)(1u << (i % 8));
        if ((walk->seen[i / 8] & bit) != 0) {
            return bad(walk, "a page is used twice");
        }
        walk->seen[i / 8] = (unsigned char)(walk->seen[i / 8] | bit);
    }
    return true;
}

static bool read_at(struct walk *walk, uint64_t page, void *out, size_t size_bytes)
{
    ssize_t got = pread(walk->file.fd, out, size_bytes, (off_t)(page * walk->file.page_bytes));
    return got >= 0 && (size_t)got == size_bytes ? true : bad(walk, "a page cannot be read");
}

/* ---- values ---- */

/* The numbers of free pages: how many, then the numbers from the largest on. */
static bool check_free(struct walk *walk, const unsigned char *value, uint64_t size_bytes)
{
    uint64_t room = size_bytes / sizeof(uint64_t);
    uint64_t count = room > 0 ? lq_u64_at(value) : 0;
    if (room == 0 || count >= room) {
        return bad(walk, "a list of free pages is too short");
    }
    uint64_t above = LQ_PAGE_NONE;
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t page = lq_u64_at(value + i * sizeof page);
        if (page >= above) {
            return bad(walk, "a list of free pages is out of order");
        }
        if (!see(walk, page, 1)) {
            return false;
        }
        above = page;
    }
    return true;
}

static bool check_free_run(struct walk *walk, uint64_t first, uint64_t size_bytes)
{
    unsigned char *run = malloc((size_t)(LQ_PAGE_HEAD_BYTES + size_bytes));
    if (run == NULL) {
        walk->no_memory = true;
        return false;
    }
    bool good = read_at(walk, first, run, (size_t)(LQ_PAGE_HEAD_BYTES + size_bytes)) &&
                check_free(walk, run + LQ_PAGE_HEAD_BYTES, size_bytes);
    free(run);
    return good;
}

/* A value in pages of its own. */
static bool check_run(struct walk *walk, struct tree *tree, uint64_t first, uint64_t size_bytes)
{
    unsigned char head[LQ_PAGE_HEAD_BYTES];
    if (!see(walk, first, 1) || !read_at(walk, first, head, sizeof head)) {
        return false;
    }
    uint64_t count = lq_page_run_count(head);
    uint64_t needed = lq_page_run_needed(size_bytes, walk->file.page_bytes);
    if (lq_page_number(head) != first || lq_page_flags(head) != LQ_PAGE_RUN || count < needed) {
        return bad(walk, "the pages of a value are not that");
    }
    if (count > 1 && !see(walk, first + 1, count - 1)) {
        return false;
    }
    tree->overflows += count;
    return tree->kind != TREE_FREE || check_free_run(walk, first, size_bytes);
}

static bool check_tree(struct walk *walk, enum tree_kind kind, const unsigned char *db);

/* ---- pages of trees ---- */

static bool check_value(struct walk *walk, struct tree *tree, const struct lq_page_node *node)
{
    if (node->is_table && tree->kind != TREE_MAIN) {
        return bad(walk, "a database is where none belongs");
    }
    if (node->is_table) {
        return !node->big && node->value_bytes == LQ_TABLE_BYTES
                   ? check_tree(walk, TREE_NAMED, node->value)
                   : bad(walk, "the description of a database has another size");
    }
    if (node->big) {
        return check_run(walk, tree, lq_u64_at(node->value), node->value_bytes);
    }
    return tree->kind != TREE_FREE || check_free(walk, node->value, node->value_bytes);
}

static bool check_page(struct walk *walk, struct tree *tree, uint64_t number, unsigned level);

/* Of two keys of a tree; those of the free list are numbers. */
static int compare_keys(const struct tree *tree, const struct lq_page_node *node)
{
    if (tree->kind == TREE_FREE) {
        uint64_t left = lq_u64_at(node->key);
        uint64_t right = lq_u64_at(tree->key);
        return left < right ? -1 : left > right;
    }
    size_t common = node->key_bytes < tree->key_bytes ? node->key_bytes : tree->key_bytes;
    int order = memcmp(node->key, tree->key, common);
    return order != 0 ? order
                      : (node->key_bytes > tree->key_bytes) - (node->key_bytes < tree->key_bytes);
}

/* What is out of order is not found, or found at times: new records would vanish. */
static bool check_key(struct walk *walk, struct tree *tree, const struct lq_page_node *node,
                      bool leaf)
{
    if (tree->kind == TREE_FREE && node->key_bytes != sizeof(uint64_t)) {
        return bad(walk, "a key has another size");
    }
    if (tree->has_key) {
        int order = compare_keys(tree, node);
        if (order < 0 || (order == 0 && !(leaf && tree->is_bound))) {
            return bad(walk, "keys are out of order");
        }
    }
    memcpy(tree->key, node->key, node->key_bytes);
    tree->key_bytes = node->key_bytes;
    tree->has_key = true;
    tree->is_bound = !leaf;
    return true;
}

static bool check_node(struct walk *walk, struct tree *tree, const struct lq_page_node *node,
                       unsigned level)
{
    if (level < tree->depth) {
        return check_page(walk, tree, node->child, level + 1);
    }
    tree->entries++;
    return check_value(walk, tree, node);
}

static bool check_nodes(struct walk *walk, struct tree *tree, const unsigned char *page,
                        unsigned level)
{
    bool leaf = level == tree->depth;
    size_t count = lq_page_node_count(page, walk->file.page_bytes);
    for (size_t i = 0; i < count; i++) {
        struct lq_page_node node;
        (void)lq_page_node(page, walk->file.page_bytes, i, leaf, &node);
        /* The first key of a branch stands for all that is smaller. */
        if ((leaf || i > 0) && !check_key(walk, tree, &node, leaf)) {
            return false;
        }
        if (!check_node(walk, tree, &node, level)) {
            return false;
        }
    }
    return true;
}

static bool check_page_bytes(struct walk *walk, struct tree *tree, const unsigned char *page,
                             uint64_t number, unsigned level)
{
    bool leaf = level == tree->depth;
    if (lq_page_number(page) != number ||
        lq_page_flags(page) != (leaf ? LQ_PAGE_LEAF : LQ_PAGE_BRANCH)) {
        return bad(walk, "a page is not what points to it says");
    }
    const char *why = lq_page_check(page, walk->file.page_bytes, leaf);
    if (why != NULL) {
        return bad(walk, why);
    }
    tree->leaves += leaf ? 1 : 0;
    tree->branches += leaf ? 0 : 1;
    return check_nodes(walk, tree, page, level);
}

static bool check_page(struct walk *walk, struct tree *tree, uint64_t number, unsigned level)
{
    /* Trees are no deeper than LQ_TABLE_DEPTH_MAX, and only those of the main tree nest. */
    unsigned char *page = walk->pages + (size_t)walk->depth * walk->file.page_bytes;
    walk->depth++;
    bool good = see(walk, number, 1) && read_at(walk, number, page, walk->file.page_bytes) &&
                check_page_bytes(walk, tree, page, number, level);
    walk->depth--;
    return good;
}

/* What the description says of a database besides its tree; how keys are compared is part of it. */
static bool is_ours(const struct walk *walk, enum tree_kind kind, const unsigned char *db)
{
    uint32_t reserved = lq_u32_at(db);
    unsigned flags = lq_u16_at(db + LQ_TABLE_FLAGS_AT);
    return kind == TREE_FREE ? reserved == walk->file.page_bytes && flags == LQ_TABLE_NUMBERS
                             : reserved == 0 && flags == 0;
}

static bool check_tree(struct walk *walk, enum tree_kind kind, const unsigned char *db)
{
    struct tree tree = {.kind = kind, .depth = lq_u16_at(db + LQ_TABLE_DEPTH_AT)};
    uint64_t root = lq_u64_at(db + LQ_TABLE_ROOT_AT);
    if (!is_ours(walk, kind, db)) {
        return bad(walk, "a database is of another kind");
    }
    if (tree.depth > LQ_TABLE_DEPTH_MAX || (root == LQ_PAGE_NONE) != (tree.depth == 0)) {
        return bad(walk, "the depth of a tree is impossible");
    }
    if (root != LQ_PAGE_NONE && !check_page(walk, &tree, root, 1)) {
        return false;
    }
    if (tree.branches != lq_u64_at(db + LQ_TABLE_BRANCH_AT) ||
        tree.leaves != lq_u64_at(db + LQ_TABLE_LEAF_AT) ||
        tree.overflows != lq_u64_at(db + LQ_TABLE_RUN_AT) ||
        tree.entries != lq_u64_at(db + LQ_TABLE_ENTRIES_AT)) {
        return bad(walk, "a tree has not as many pages or entries as are written down");
    }
    return true;
}

const char *lq_tree_check(const struct lq_tree_file *file, const unsigned char meta[LQ_META_BYTES],
                          bool *no_memory)
{
    struct walk walk = {.file = *file};
    uint64_t last = lq_u64_at(meta + LQ_META_LAST_PAGE_AT);
    *no_memory = false;
    if (last < LQ_PAGE_FIRST - 1 || last >= file->size_bytes / file->page_bytes) {
        return "the file is shorter than its last page";
    }
    walk.page_count = last + 1;
    walk.seen = calloc((size_t)(walk.page_count / 8 + 1), 1);
    walk.pages = malloc((size_t)nesting * LQ_TABLE_DEPTH_MAX * file->page_bytes);
    walk.no_memory = walk.seen == NULL || walk.pages == NULL;
    if (!walk.no_memory && check_tree(&walk, TREE_MAIN, meta + LQ_META_MAIN_AT)) {
        (void)check_tree(&walk, TREE_FREE, meta + LQ_META_FREE_AT);
    }
    free(walk.seen);
    free(walk.pages);
    *no_memory = walk.no_memory;
    return walk.why;
}

uint64_t lq_tree_snapshot(const unsigned char meta[LQ_META_BYTES])
{
    return lq_u64_at(meta + LQ_META_SNAPSHOT_AT);
}

#define _POSIX_C_SOURCE 200809L
#include "cache/store_tree.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    meta_free_at = 24, /* magic, version, address and size of the map come before */
    meta_main_at = 72,
    meta_last_page_at = 120,
    meta_snapshot_at = 128,

    db_bytes = 48,
    db_depth_at = 6,
    db_branch_at = 8,
    db_leaf_at = 16,
    db_overflow_at = 24,
    db_entries_at = 32,
    db_root_at = 40,

    page_flags_at = 10,
    page_lower_at = 12, /* in runs of pages, how many, in 32 bits */
    page_upper_at = 14,
    page_head_bytes = 16,
    page_branch = 0x01,
    page_leaf = 0x02,
    page_overflow = 0x04,

    node_flags_at = 4,
    node_key_bytes_at = 6,
    node_head_bytes = 8,
    node_big = 0x01, /* the value is a run of pages, whose number stands here */
    node_tree = 0x02,

    first_page = 2, /* behind the two meta pages */
    key_bytes_max = 511,
    depth_max = 32, /* of LMDB's cursors */
    nesting = 2,    /* trees in the main tree */
};
static const uint64_t no_page = UINT64_MAX;

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_NAMED };

struct tree {
    enum tree_kind kind;
    unsigned depth;
    uint64_t branches, leaves, overflows, entries;
    /* The newest key on the way through the tree, and whether it is only a bound of what follows.
     */
    unsigned char key[key_bytes_max];
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

static uint16_t u16_at(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t u32_at(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64_at(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static bool bad(struct walk *walk, const char *why)
{
    walk->why = why;
    return false;
}

static bool see(struct walk *walk, uint64_t page, uint64_t count)
{
    if (page < first_page || page >= walk->page_count || count > walk->page_count - page) {
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
    uint64_t count = room > 0 ? u64_at(value) : 0;
    if (room == 0 || count >= room) {
        return bad(walk, "a list of free pages is too short");
    }
    uint64_t above = no_page;
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t page = u64_at(value + i * sizeof page);
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
    unsigned char *run = malloc((size_t)(page_head_bytes + size_bytes));
    if (run == NULL) {
        walk->no_memory = true;
        return false;
    }
    bool good = read_at(walk, first, run, (size_t)(page_head_bytes + size_bytes)) &&
                check_free(walk, run + page_head_bytes, size_bytes);
    free(run);
    return good;
}

/* A value in pages of its own. */
static bool check_run(struct walk *walk, struct tree *tree, uint64_t first, uint64_t size_bytes)
{
    unsigned char head[page_head_bytes];
    if (!see(walk, first, 1) || !read_at(walk, first, head, sizeof head)) {
        return false;
    }
    uint64_t count = u32_at(head + page_lower_at);
    uint64_t needed = (page_head_bytes - 1 + size_bytes) / walk->file.page_bytes + 1;
    if (u64_at(head) != first || u16_at(head + page_flags_at) != page_overflow || count < needed) {
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

struct node {
    const unsigned char *key;
    size_t key_bytes;
    const unsigned char *value;
    uint64_t value_bytes;
    uint64_t child; /* of a branch */
    bool big;
};

/* Reads the node at `at` and tells what room it takes; 0: it does not fit. */
static size_t read_node(struct walk *walk, const unsigned char *page, size_t at, bool leaf,
                        struct node *node)
{
    size_t room = walk->file.page_bytes - at;
    const unsigned char *head = page + at;
    if (at % 2 != 0 || room < node_head_bytes) {
        return 0;
    }
    uint32_t low = u16_at(head) | (uint32_t)u16_at(head + 2) << 16;
    unsigned flags = u16_at(head + node_flags_at);
    node->key_bytes = u16_at(head + node_key_bytes_at);
    node->key = head + node_head_bytes;
    node->child = low | (uint64_t)flags << 32;
    node->value_bytes = low;
    node->big = leaf && (flags & node_big) != 0;
    size_t inside = !leaf ? 0 : node->big ? sizeof(uint64_t) : low;
    if (node->key_bytes > key_bytes_max || inside > room ||
        node_head_bytes + node->key_bytes + inside > room) {
        return 0;
    }
    if (leaf && (flags & ~(unsigned)(node_big | node_tree)) != 0) {
        return 0;
    }
    node->value = node->key + node->key_bytes;
    size_t taken = node_head_bytes + node->key_bytes + inside;
    return taken + taken % 2;
}

static bool check_value(struct walk *walk, struct tree *tree, const struct node *node,
                        const unsigned char *head)
{
    bool is_tree = (u16_at(head + node_flags_at) & node_tree) != 0;
    if (is_tree && tree->kind != TREE_MAIN) {
        return bad(walk, "a database is where none belongs");
    }
    if (is_tree) {
        return !node->big && node->value_bytes == db_bytes
                   ? check_tree(walk, TREE_NAMED, node->value)
                   : bad(walk, "the description of a database has another size");
    }
    if (node->big) {
        return check_run(walk, tree, u64_at(node->value), node->value_bytes);
    }
    return tree->kind != TREE_FREE || check_free(walk, node->value, node->value_bytes);
}

static bool check_page(struct walk *walk, struct tree *tree, uint64_t number, unsigned level);

/* Of two keys of a tree; those of the free list are numbers. */
static int compare_keys(const struct tree *tree, const struct node *node)
{
    if (tree->kind == TREE_FREE) {
        uint64_t left = u64_at(node->key);
        uint64_t right = u64_at(tree->key);
        return left < right ? -1 : left > right;
    }
    size_t common = node->key_bytes < tree->key_bytes ? node->key_bytes : tree->key_bytes;
    int order = memcmp(node->key, tree->key, common);
    return order != 0 ? order
                      : (node->key_bytes > tree->key_bytes) - (node->key_bytes < tree->key_bytes);
}

/* What is out of order is not found, or found at times: new records would vanish. */
static bool check_key(struct walk *walk, struct tree *tree, const struct node *node, bool leaf)
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

static bool check_node(struct walk *walk, struct tree *tree, const struct node *node,
                       const unsigned char *head, unsigned level)
{
    if (level < tree->depth) {
        return check_page(walk, tree, node->child, level + 1);
    }
    tree->entries++;
    return check_value(walk, tree, node, head);
}

static bool check_nodes(struct walk *walk, struct tree *tree, const unsigned char *page,
                        size_t count, unsigned level)
{
    bool leaf = level == tree->depth;
    size_t lower = u16_at(page + page_lower_at);
    size_t upper = u16_at(page + page_upper_at);
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        struct node node;
        size_t at = u16_at(page + page_head_bytes + 2 * i);
        size_t size =
            at < upper || at >= walk->file.page_bytes ? 0 : read_node(walk, page, at, leaf, &node);
        if (size == 0) {
            return bad(walk, "a node does not fit its page");
        }
        taken += size;
    }
    if (lower > upper || taken != walk->file.page_bytes - upper) {
        return bad(walk, "the nodes of a page are not as long as its bounds say");
    }
    for (size_t i = 0; i < count; i++) {
        struct node node;
        size_t at = u16_at(page + page_head_bytes + 2 * i);
        (void)read_node(walk, page, at, leaf, &node);
        /* The first key of a branch stands for all that is smaller. */
        if ((leaf || i > 0) && !check_key(walk, tree, &node, leaf)) {
            return false;
        }
        if (!check_node(walk, tree, &node, page + at, level)) {
            return false;
        }
    }
    return true;
}

static bool check_page_bytes(struct walk *walk, struct tree *tree, const unsigned char *page,
                             uint64_t number, unsigned level)
{
    bool leaf = level == tree->depth;
    size_t lower = u16_at(page + page_lower_at);
    size_t upper = u16_at(page + page_upper_at);
    if (u64_at(page) != number ||
        u16_at(page + page_flags_at) != (leaf ? page_leaf : page_branch)) {
        return bad(walk, "a page is not what points to it says");
    }
    if (lower <= page_head_bytes || lower % 2 != 0 || upper < lower ||
        upper > walk->file.page_bytes) {
        return bad(walk, "the bounds of a page are impossible");
    }
    tree->leaves += leaf ? 1 : 0;
    tree->branches += leaf ? 0 : 1;
    return check_nodes(walk, tree, page, (lower - page_head_bytes) / 2, level);
}

static bool check_page(struct walk *walk, struct tree *tree, uint64_t number, unsigned level)
{
    /* Trees are no deeper than depth_max, and only those of the main tree nest. */
    unsigned char *page = walk->pages + (size_t)walk->depth * walk->file.page_bytes;
    walk->depth++;
    bool good = see(walk, number, 1) && read_at(walk, number, page, walk->file.page_bytes) &&
                check_page_bytes(walk, tree, page, number, level);
    walk->depth--;
    return good;
}

static bool check_tree(struct walk *walk, enum tree_kind kind, const unsigned char *db)
{
    struct tree tree = {.kind = kind, .depth = u16_at(db + db_depth_at)};
    uint64_t root = u64_at(db + db_root_at);
    if (tree.depth > depth_max || (root == no_page) != (tree.depth == 0)) {
        return bad(walk, "the depth of a tree is impossible");
    }
    if (root != no_page && !check_page(walk, &tree, root, 1)) {
        return false;
    }
    if (tree.branches != u64_at(db + db_branch_at) || tree.leaves != u64_at(db + db_leaf_at) ||
        tree.overflows != u64_at(db + db_overflow_at) ||
        tree.entries != u64_at(db + db_entries_at)) {
        return bad(walk, "a tree has not as many pages or entries as are written down");
    }
    return true;
}

const char *lq_tree_check(const struct lq_tree_file *file,
                          const unsigned char meta[LQ_TREE_META_BYTES], bool *no_memory)
{
    struct walk walk = {.file = *file};
    uint64_t last = u64_at(meta + meta_last_page_at);
    *no_memory = false;
    if (last < first_page - 1 || last >= file->size_bytes / file->page_bytes) {
        return "the file is shorter than its last page";
    }
    walk.page_count = last + 1;
    walk.seen = calloc((size_t)(walk.page_count / 8 + 1), 1);
    walk.pages = malloc((size_t)nesting * depth_max * file->page_bytes);
    walk.no_memory = walk.seen == NULL || walk.pages == NULL;
    if (!walk.no_memory && check_tree(&walk, TREE_MAIN, meta + meta_main_at)) {
        (void)check_tree(&walk, TREE_FREE, meta + meta_free_at);
    }
    free(walk.seen);
    free(walk.pages);
    *no_memory = walk.no_memory;
    return walk.why;
}

uint64_t lq_tree_snapshot(const unsigned char meta[LQ_TREE_META_BYTES])
{
    return u64_at(meta + meta_snapshot_at);
}

/* Pages of trees in the bytes of a data file, for tests that damage them. For tests only. */
#ifndef LQ_TESTS_TREE_PAGES_H
#define LQ_TESTS_TREE_PAGES_H

#include <sys/mman.h>

#include "cache/store_tree.h"
#include "tests/cache_helpers.h"

enum { PAGE = 4096, TREE_PAGES_MAX = 512 };

/* What the check of trees says of the newest snapshot; NULL: nothing is wrong. */
static inline const char *check_trees(const struct bytes *data)
{
    unsigned char metas[2][LQ_META_BYTES];
    bool no_memory = false;
    for (size_t i = 0; i < 2; i++) {
        memcpy(metas[i], data->data + i * PAGE + LQ_META_AT, LQ_META_BYTES);
    }
    size_t newest = lq_tree_snapshot(metas[1]) > lq_tree_snapshot(metas[0]) ? 1 : 0;
    int fd = memfd_create("data", MFD_CLOEXEC);
    cr_assert_eq(write(fd, data->data, data->size), (ssize_t)data->size);
    const struct lq_tree_file file = {fd, data->size, PAGE};
    const char *why = lq_tree_check(&file, metas[newest], &no_memory);
    (void)close(fd);
    cr_assert(!no_memory);
    return why;
}

/* The pages of trees that are in use, not those that an older snapshot left behind. */
static inline size_t find_tree_pages(const struct bytes *data, size_t pages[TREE_PAGES_MAX])
{
    size_t count = 0;
    for (size_t page = 2; page < data->size / PAGE && count < TREE_PAGES_MAX; page++) {
        unsigned char *at = data->data + page * PAGE;
        unsigned flags = lq_page_flags(at);
        if (lq_page_number(at) != page || (flags != LQ_PAGE_BRANCH && flags != LQ_PAGE_LEAF)) {
            continue;
        }
        at[0] ^= 1;
        if (check_trees(data) != NULL) {
            pages[count++] = page;
        }
        at[0] ^= 1;
    }
    return count;
}

/* Some bits, mostly where it hurts: in heads and pointers of pages. */
static inline void flip_in_pages(struct bytes *data, const size_t *pages, size_t page_count,
                                 uint64_t *state)
{
    for (uint64_t flips = 1 + next_random(state) % 4; flips > 0; flips--) {
        uint64_t within = next_random(state) % 3 == 0 ? PAGE : 120;
        size_t at =
            pages[next_random(state) % page_count] * PAGE + (size_t)(next_random(state) % within);
        data->data[at] ^= (unsigned char)(1u << (next_random(state) % 8));
    }
}

#endif

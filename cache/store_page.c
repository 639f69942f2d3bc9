#include "cache/store_page.h"

#include <string.h>

enum {
    flags_at = 10,
    lower_at = 12, /* in runs of pages, how many, in 32 bits */
    upper_at = 14,
    node_flags_at = 4,
    node_key_bytes_at = 6,
    node_head_bytes = 8,
    node_big = 0x01,
    node_table = 0x02,
};

uint16_t lq_u16_at(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

uint32_t lq_u32_at(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

uint64_t lq_u64_at(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

uint64_t lq_page_number(const unsigned char *page)
{
    return lq_u64_at(page);
}

unsigned lq_page_flags(const unsigned char *page)
{
    return lq_u16_at(page + flags_at);
}

uint64_t lq_page_run_count(const unsigned char *page)
{
    return lq_u32_at(page + lower_at);
}

uint64_t lq_page_run_needed(uint64_t value_bytes, uint32_t page_bytes)
{
    return (LQ_PAGE_HEAD_BYTES - 1 + value_bytes) / page_bytes + 1;
}

size_t lq_page_node_count(const unsigned char *page, uint32_t page_bytes)
{
    size_t lower = lq_u16_at(page + lower_at);
    return lower <= LQ_PAGE_HEAD_BYTES || lower % 2 != 0 || lower > page_bytes
               ? 0
               : (lower - LQ_PAGE_HEAD_BYTES) / 2;
}

size_t lq_page_node(const unsigned char *page, uint32_t page_bytes, size_t index, bool leaf,
                    struct lq_page_node *node)
{
    size_t at = lq_u16_at(page + LQ_PAGE_HEAD_BYTES + 2 * index);
    if (at % 2 != 0 || at < LQ_PAGE_HEAD_BYTES || at >= page_bytes ||
        page_bytes - at < node_head_bytes) {
        return 0;
    }
    size_t room = page_bytes - at;
    const unsigned char *head = page + at;
    uint32_t low = lq_u16_at(head) | (uint32_t)lq_u16_at(head + 2) << 16;
    unsigned flags = lq_u16_at(head + node_flags_at);
    node->key_bytes = lq_u16_at(head + node_key_bytes_at);
    node->key = head + node_head_bytes;
    node->child = low | (uint64_t)flags << 32;
    node->value_bytes = low;
    node->big = leaf && (flags & node_big) != 0;
    node->is_table = leaf && (flags & node_table) != 0;
    size_t inside = !leaf ? 0 : node->big ? sizeof(uint64_t) : low;
    if (node->key_bytes > LQ_PAGE_KEY_BYTES_MAX || inside > room ||
        node_head_bytes + node->key_bytes + inside > room) {
        return 0;
    }
    if (leaf && (flags & ~(unsigned)(node_big | node_table)) != 0) {
        return 0;
    }
    node->value = node->key + node->key_bytes;
    size_t taken = node_head_bytes + node->key_bytes + inside;
    return taken + taken % 2;
}

const char *lq_page_check(const unsigned char *page, uint32_t page_bytes, bool leaf)
{
    size_t count = lq_page_node_count(page, page_bytes);
    size_t lower = lq_u16_at(page + lower_at);
    size_t upper = lq_u16_at(page + upper_at);
    size_t taken = 0;
    if (count == 0 || upper < lower || upper > page_bytes) {
        return "the bounds of a page are impossible";
    }
    for (size_t i = 0; i < count; i++) {
        struct lq_page_node node;
        size_t at = lq_u16_at(page + LQ_PAGE_HEAD_BYTES + 2 * i);
        size_t size = at < upper ? 0 : lq_page_node(page, page_bytes, i, leaf, &node);
        if (size == 0) {
            return "a node does not fit its page";
        }
        taken += size;
    }
    return taken == page_bytes - upper ? NULL
                                       : "the nodes of a page are not as long as its bounds say";
}

/* Hash tables of the tokenizer: byte strings to symbol numbers, and pairs of symbols to what they
 * merge into. Built once when a vocabulary is loaded, read by many threads afterwards. Strings are
 * borrowed: they must outlive the table. Memory is on the heap and owned by the table. Limits:
 * 2^31 - 1 symbols (callers check LQ_VOCAB_MAX and LQ_MERGES_MAX before). */
#ifndef LQ_RULES_MODEL_TOKEN_TABLE_H
#define LQ_RULES_MODEL_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lq_token_slot {
    uint32_t hash;
    int32_t id; /* -1: empty */
};

struct lq_token_bytes {
    const char *data;
    size_t length;
};

struct lq_token_table {
    struct lq_token_slot *slots;
    size_t slot_mask;
    struct lq_token_bytes *strings; /* by symbol number */
    size_t count;
    size_t capacity;
};

struct lq_token_pair {
    uint64_t key; /* left in the high half, right in the low half; UINT64_MAX: empty */
    uint32_t rank;
    int32_t merged;
};

struct lq_pair_table {
    struct lq_token_pair *slots;
    size_t slot_mask;
};

uint64_t lq_token_hash(const char *data, size_t length);

/* Room for `capacity` strings; false when memory is out. */
bool lq_token_table_init(struct lq_token_table *table, size_t capacity);
void lq_token_table_fini(struct lq_token_table *table);
/* The symbol of a string, or -1. */
int32_t lq_token_table_find(const struct lq_token_table *table, const char *data, size_t length);
/* Gives the string the next symbol number. With `visible` false it takes a number but cannot be
 * found. Returns the number, or -1 when the table is full; *existing gets the number of an equal
 * visible string (which keeps being found), or -1. */
int32_t lq_token_table_add(struct lq_token_table *table, const char *data, size_t length,
                           bool visible, int32_t *existing);

bool lq_pair_table_init(struct lq_pair_table *table, size_t capacity);
void lq_pair_table_fini(struct lq_pair_table *table);
/* Keeps the first rank of a pair that is added twice. */
void lq_pair_table_add(struct lq_pair_table *table, int32_t left, int32_t right, uint32_t rank,
                       int32_t merged);
/* NULL when the pair does not merge. */
const struct lq_token_pair *lq_pair_table_find(const struct lq_pair_table *table, int32_t left,
                                               int32_t right);

#endif

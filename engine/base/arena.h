/* An arena: memory that lives as long as one load or one build and is freed at once. The control
 * plane (recipe, graph, metadata) lives in arenas; large data does not. Allocation returns zeroed
 * memory, or NULL when the system has none or the size overflows. Thread rule: one thread at a
 * time. Nothing from an arena is freed one by one. */
#ifndef LQ_BASE_ARENA_H
#define LQ_BASE_ARENA_H

#include <stddef.h>

#include "engine/base/compiler.h"

struct lq_arena_block;

struct lq_arena {
    struct lq_arena_block *head;
};

void lq_arena_init(struct lq_arena *arena);
void lq_arena_fini(struct lq_arena *arena);
/* `size_bytes` zeroed bytes, aligned for any type. */
void *lq_arena_get(struct lq_arena *arena, size_t size_bytes);
/* `count` zeroed elements; NULL when count * element_bytes overflows. */
void *lq_arena_get_array(struct lq_arena *arena, size_t count, size_t element_bytes);
/* A copy of `length` bytes with a NUL behind them. */
char *lq_arena_dup(struct lq_arena *arena, const void *text, size_t length);
char *lq_arena_dup_string(struct lq_arena *arena, const char *text);
char *lq_arena_printf(struct lq_arena *arena, const char *format, ...) LQ_PRINTF(2, 3);

#endif

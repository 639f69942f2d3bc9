#include "engine/base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"

enum { BLOCK_BYTES = 64 * 1024 };

struct lq_arena_block {
    struct lq_arena_block *next;
    size_t used;
    size_t capacity;
    alignas(max_align_t) unsigned char data[];
};

void lq_arena_init(struct lq_arena *arena)
{
    arena->head = NULL;
}

void lq_arena_fini(struct lq_arena *arena)
{
    struct lq_arena_block *block = arena->head;
    while (block != NULL) {
        struct lq_arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena->head = NULL;
}

static struct lq_arena_block *add_block(struct lq_arena *arena, size_t size_bytes)
{
    size_t capacity = size_bytes > BLOCK_BYTES / 4 ? size_bytes : BLOCK_BYTES;
    if (capacity > SIZE_MAX - sizeof(struct lq_arena_block)) {
        return NULL;
    }
    struct lq_arena_block *block = calloc(1, sizeof *block + capacity);
    if (block == NULL) {
        return NULL;
    }
    block->capacity = capacity;
    /* A block made for one large object goes behind the head, whose free room stays in use. */
    if (capacity != BLOCK_BYTES && arena->head != NULL) {
        block->next = arena->head->next;
        arena->head->next = block;
    } else {
        block->next = arena->head;
        arena->head = block;
    }
    return block;
}

/* `align` is a power of two, at most that of max_align_t. */
static void *get(struct lq_arena *arena, size_t size_bytes, size_t align)
{
    size_t need = size_bytes == 0 ? 1 : size_bytes;
    struct lq_arena_block *block = arena->head;
    size_t start = block == NULL ? 0 : (block->used + align - 1) & ~(align - 1);
    if (block == NULL || start > block->capacity || need > block->capacity - start) {
        block = add_block(arena, need);
        if (block == NULL) {
            return NULL;
        }
        start = block->used;
    }
    block->used = start + need;
    return block->data + start;
}

void *lq_arena_get(struct lq_arena *arena, size_t size_bytes)
{
    return get(arena, size_bytes, alignof(max_align_t));
}

void *lq_arena_get_array(struct lq_arena *arena, size_t count, size_t element_bytes)
{
    size_t size_bytes = 0;
    return lq_mul_size(count, element_bytes, &size_bytes) ? lq_arena_get(arena, size_bytes) : NULL;
}

char *lq_arena_dup(struct lq_arena *arena, const void *text, size_t length)
{
    if (length == SIZE_MAX) {
        return NULL;
    }
    char *copy = get(arena, length + 1, 1);
    if (copy != NULL && length != 0) {
        memcpy(copy, text, length);
    }
    return copy;
}

char *lq_arena_dup_string(struct lq_arena *arena, const char *text)
{
    return lq_arena_dup(arena, text, strlen(text));
}

char *lq_arena_printf(struct lq_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : get(arena, (size_t)length + 1, 1);
    if (text != NULL) {
        (void)vsnprintf(text, (size_t)length + 1, format, again);
    }
    va_end(again);
    return text;
}

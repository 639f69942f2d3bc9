#include "engine/read_ahead.h"

#include <stdlib.h>

#include "engine/base/thread.h"

/* What Linux reads for one request wherever nobody has made its read-ahead window smaller. */
enum { PIECE_BYTES = 128 * 1024 };

struct lq_ahead_part {
    struct lq_ahead_part *next;
    const struct lq_map *map;
    uint64_t offset;
    uint64_t size_bytes;
};

void lq_read_ahead_init(struct lq_read_ahead *ahead)
{
    *ahead = (struct lq_read_ahead){.first = NULL};
    ahead->last = &ahead->first;
    (void)pthread_mutex_init(&ahead->mutex, NULL);
    (void)pthread_cond_init(&ahead->added, NULL);
}

void lq_read_ahead_fini(struct lq_read_ahead *ahead)
{
    (void)pthread_mutex_lock(&ahead->mutex);
    ahead->stopping = true;
    (void)pthread_cond_signal(&ahead->added);
    (void)pthread_mutex_unlock(&ahead->mutex);
    if (ahead->has_thread) {
        (void)pthread_join(ahead->thread, NULL);
    }
    while (ahead->first != NULL) {
        struct lq_ahead_part *next = ahead->first->next;
        free(ahead->first);
        ahead->first = next;
    }
    (void)pthread_mutex_destroy(&ahead->mutex);
    (void)pthread_cond_destroy(&ahead->added);
}

/* Takes the first piece of the first part; the mutex is held. */
static struct lq_ahead_part take_piece(struct lq_read_ahead *ahead)
{
    struct lq_ahead_part *part = ahead->first;
    struct lq_ahead_part piece = *part;
    if (part->size_bytes > PIECE_BYTES) {
        piece.size_bytes = PIECE_BYTES;
        part->offset += PIECE_BYTES;
        part->size_bytes -= PIECE_BYTES;
        return piece;
    }
    ahead->first = part->next;
    ahead->last = ahead->first == NULL ? &ahead->first : ahead->last;
    free(part);
    return piece;
}

static void *read_parts(void *user)
{
    struct lq_read_ahead *ahead = user;
    (void)pthread_mutex_lock(&ahead->mutex);
    while (!ahead->stopping) {
        if (ahead->first == NULL) {
            (void)pthread_cond_wait(&ahead->added, &ahead->mutex);
            continue;
        }
        struct lq_ahead_part piece = take_piece(ahead);
        (void)pthread_mutex_unlock(&ahead->mutex);
        lq_map_expect(piece.map, piece.offset, piece.size_bytes);
        (void)pthread_mutex_lock(&ahead->mutex);
    }
    (void)pthread_mutex_unlock(&ahead->mutex);
    return NULL;
}

void lq_read_ahead_add(struct lq_read_ahead *ahead, const struct lq_map *map, uint64_t offset,
                       uint64_t size_bytes)
{
    struct lq_ahead_part *part = calloc(1, sizeof *part);
    if (part == NULL) {
        return;
    }
    *part = (struct lq_ahead_part){.map = map, .offset = offset, .size_bytes = size_bytes};
    (void)pthread_mutex_lock(&ahead->mutex);
    *ahead->last = part;
    ahead->last = &part->next;
    (void)pthread_cond_signal(&ahead->added);
    if (!ahead->has_thread) {
        ahead->has_thread = lq_thread_start(&ahead->thread, read_parts, ahead);
    }
    (void)pthread_mutex_unlock(&ahead->mutex);
}

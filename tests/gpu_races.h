/* Whether work on several streams of a fake GPU is ordered wherever it meets in memory. Each stream
 * has a clock: how far every stream is done before its next item begins. Marks keep the clock of
 * their moment; who follows or waits for one joins it with his own (Lamport's happened-before, with
 * a vector for each stream). Two accesses of the same bytes, one of them a write, on streams that
 * do not know of each other are a race, whatever happened to come first. Header only. Thread rule:
 * the caller's lock. Limits: the newest accesses, and the first streams of a process. */
#ifndef LQ_TESTS_GPU_RACES_H
#define LQ_TESTS_GPU_RACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RACE_STREAMS_MAX = 32, RACE_ACCESSES_MAX = 2048 };

struct race_clock {
    uint64_t of[RACE_STREAMS_MAX]; /* items that are done, of each stream */
};

static struct race_access {
    unsigned stream;
    uint64_t turn; /* the item's number in its stream, from 1 on */
    uintptr_t first, end;
    bool writes;
} race_accesses[RACE_ACCESSES_MAX];
static size_t race_access_count; /* ever */

static void race_join(struct race_clock *clock, const struct race_clock *other)
{
    for (size_t i = 0; i < RACE_STREAMS_MAX; i++) {
        clock->of[i] = other->of[i] > clock->of[i] ? other->of[i] : clock->of[i];
    }
}

/* Item `turn` of a stream touches bytes; false for a race. */
static bool race_touch(unsigned stream, const struct race_clock *clock, uint64_t turn,
                       const void *memory, size_t size_bytes, bool writes)
{
    uintptr_t first = (uintptr_t)memory;
    uintptr_t end = first + size_bytes;
    bool good = true;
    if (stream >= RACE_STREAMS_MAX || size_bytes == 0) {
        return true;
    }
    for (size_t i = 0; i < RACE_ACCESSES_MAX && i < race_access_count; i++) {
        const struct race_access *other = &race_accesses[i];
        if (other->stream != stream && (other->writes || writes) && other->first < end &&
            first < other->end && clock->of[other->stream] < other->turn) {
            good = false;
        }
    }
    race_accesses[race_access_count++ % RACE_ACCESSES_MAX] =
        (struct race_access){stream, turn, first, end, writes};
    return good;
}

/* The memory is given back, for which a GPU waits. */
static void race_forget(const void *memory, size_t size_bytes)
{
    uintptr_t first = (uintptr_t)memory;
    for (size_t i = 0; i < RACE_ACCESSES_MAX && i < race_access_count; i++) {
        struct race_access *other = &race_accesses[i];
        if (other->first < first + size_bytes && first < other->end) {
            other->end = other->first;
        }
    }
}

#endif

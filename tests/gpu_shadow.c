#include "tests/gpu_shadow.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* Of a byte. */
    WRITTEN = 1,
    FLYING = 2,
    /* Of a pair: read by two threads in the interval, by two blocks in the launch. */
    MANY_THREADS = 4,
    MANY_BLOCKS = 8,
    THREADS = 1024, /* more than a block has */
};

/* Of two bytes: the last access of both kinds. */
struct pair {
    uint32_t write_interval, read_interval;
    uint64_t writer, reader; /* block * THREADS + thread */
};

struct memory {
    uintptr_t first;
    size_t size_bytes;
    unsigned char *states;
    struct pair *pairs;
    uint32_t since; /* the interval that what counts began with */
};

/* The linker knows where the arrays of shared memory are, and the program. */
extern char __start_gpu_simt_shared[] __attribute__((visibility("hidden")));
extern char __stop_gpu_simt_shared[] __attribute__((visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));

static struct memory shared;
static struct memory *memories;
static size_t memory_count, memory_room;
static char fault[400];

static struct {
    bool is_on;
    const char *name;
    uintptr_t args, args_end;
    uintptr_t stacks;
    size_t stack_bytes;
    uint64_t block;
    unsigned thread;
    /* Intervals are counted through all launches. */
    uint32_t interval, launch_interval;
} now;

/* ---- faults ---- */

const char *shadow_fault(void)
{
    return fault[0] == '\0' ? NULL : fault;
}

void shadow_pardon(void)
{
    fault[0] = '\0';
}

static bool is_in(const struct memory *memory, uintptr_t at)
{
    return at >= memory->first && at - memory->first < memory->size_bytes;
}

static void note_pair(const char *what, uintptr_t at, uint64_t other)
{
    char where[80] = "";
    char whom[80] = "";
    if (fault[0] != '\0') {
        return;
    }
    if (is_in(&shared, at)) {
        (void)snprintf(where, sizeof where, " (byte %zu of shared memory)",
                       (size_t)(at - shared.first));
    }
    for (size_t i = 0; i < memory_count; i++) {
        if (is_in(&memories[i], at)) {
            (void)snprintf(where, sizeof where, " (byte %zu of %zu of the device)",
                           (size_t)(at - memories[i].first), memories[i].size_bytes);
        }
    }
    if (other != UINT64_MAX) {
        (void)snprintf(whom, sizeof whom, ", as thread %u of block %llu did",
                       (unsigned)(other % THREADS), (unsigned long long)(other / THREADS));
    }
    if (now.is_on) {
        (void)snprintf(fault, sizeof fault, "%s: thread %u of block %llu %s%s%s", now.name,
                       now.thread, (unsigned long long)now.block, what, whom, where);
    } else {
        (void)snprintf(fault, sizeof fault, "the program %s%s", what, where);
    }
}

void shadow_note(const char *what, const void *address)
{
    note_pair(what, (uintptr_t)address, UINT64_MAX);
}

/* ---- memory ---- */

static struct memory new_memory(const void *from, size_t size_bytes)
{
    return (struct memory){(uintptr_t)from, size_bytes, calloc(size_bytes + 1, 1),
                           calloc(size_bytes / 2 + 1, sizeof(struct pair)), 0};
}

void shadow_add(const void *from, size_t size_bytes)
{
    if (memory_count == memory_room) {
        memory_room = 2 * memory_room + 64;
        memories = realloc(memories, memory_room * sizeof *memories);
    }
    memories[memory_count++] = new_memory(from, size_bytes);
}

void shadow_remove(const void *from)
{
    for (size_t i = 0; i < memory_count; i++) {
        if (memories[i].first == (uintptr_t)from) {
            free(memories[i].states);
            free(memories[i].pairs);
            memories[i] = memories[--memory_count];
            return;
        }
    }
}

/* The device memory that has the byte. Kernels go to and fro between few. */
static struct memory *find(uintptr_t at)
{
    enum { RECENT = 4 };
    static size_t recent[RECENT];
    static size_t turn;
    for (size_t i = 0; i < RECENT; i++) {
        if (recent[i] < memory_count && is_in(&memories[recent[i]], at)) {
            return &memories[recent[i]];
        }
    }
    for (size_t i = 0; i < memory_count; i++) {
        if (is_in(&memories[i], at)) {
            recent[turn++ % RECENT] = i;
            return &memories[i];
        }
    }
    return NULL;
}

static struct memory *find_whole(const void *from, size_t size_bytes)
{
    struct memory *memory = find((uintptr_t)from);
    if (memory == NULL) {
        shadow_note("touches what is not the device's memory", from);
    } else if ((uintptr_t)from - memory->first > memory->size_bytes - size_bytes) {
        shadow_note("goes beyond the end of memory", from);
        memory = NULL;
    }
    return memory;
}

void shadow_reads(const void *from, size_t size_bytes)
{
    const struct memory *memory = size_bytes == 0 ? NULL : find_whole(from, size_bytes);
    for (size_t i = 0; memory != NULL && i < size_bytes; i++) {
        if ((memory->states[(uintptr_t)from - memory->first + i] & WRITTEN) == 0) {
            shadow_note("reads what nobody wrote", (const char *)from + i);
            return;
        }
    }
}

void shadow_writes(const void *to, size_t size_bytes)
{
    struct memory *memory = size_bytes == 0 ? NULL : find_whole(to, size_bytes);
    if (memory != NULL) {
        memset(memory->states + ((uintptr_t)to - memory->first), WRITTEN, size_bytes);
    }
}

void shadow_of_host(const void *memory)
{
    if (find((uintptr_t)memory) != NULL) {
        shadow_note("takes the device's memory for the host's", memory);
    }
}

/* ---- where a launch is ---- */

void shadow_begin_launch(const char *name, const void *args, size_t args_bytes, const void *stacks,
                         size_t stack_bytes)
{
    if (shared.first == 0) {
        shared = new_memory(__start_gpu_simt_shared,
                            (size_t)(__stop_gpu_simt_shared - __start_gpu_simt_shared));
    }
    now.is_on = true;
    now.name = name;
    now.args = (uintptr_t)args;
    now.args_end = now.args + args_bytes;
    now.stacks = (uintptr_t)stacks;
    now.stack_bytes = stack_bytes;
    now.launch_interval = now.interval + 1;
}

void shadow_begin_block(size_t block)
{
    now.block = block;
    now.interval++;
    shared.since = now.interval;
    memset(shared.states, 0, shared.size_bytes);
    memset(__start_gpu_simt_shared, 0xa5, shared.size_bytes);
}

void shadow_begin_interval(void)
{
    now.interval++;
}

void shadow_set_thread(unsigned thread)
{
    now.thread = thread;
}

void shadow_end_launch(void)
{
    now.is_on = false;
}

/* ---- accesses ---- */

static void check_write(const struct memory *memory, size_t at, uint64_t self)
{
    const struct pair *pair = &memory->pairs[at / 2];
    unsigned state = memory->states[at / 2 * 2];
    bool other_block = pair->read_interval >= memory->since &&
                       ((state & MANY_BLOCKS) != 0 || pair->reader / THREADS != now.block);
    bool other_thread = pair->read_interval == now.interval &&
                        ((state & MANY_THREADS) != 0 || pair->reader != self);
    if (other_block) {
        note_pair("writes what another block reads", memory->first + at, pair->reader);
    } else if (other_thread) {
        note_pair("writes what another thread reads, and no barrier is between them",
                  memory->first + at, pair->reader);
    }
}

static void check_pair(struct memory *memory, size_t at, bool writes)
{
    struct pair *pair = &memory->pairs[at / 2];
    unsigned char *state = &memory->states[at / 2 * 2];
    uint64_t self = now.block * THREADS + now.thread;
    if (pair->write_interval >= memory->since && pair->writer / THREADS != now.block) {
        note_pair("touches what another block writes", memory->first + at, pair->writer);
    } else if (pair->write_interval == now.interval && pair->writer != self) {
        note_pair("touches what another thread writes, and no barrier is between them",
                  memory->first + at, pair->writer);
    }
    if (writes) {
        check_write(memory, at, self);
        pair->write_interval = now.interval;
        pair->writer = self;
        return;
    }
    if (pair->read_interval < memory->since) {
        *state &= (unsigned char)~(MANY_BLOCKS | MANY_THREADS);
    } else if (pair->reader / THREADS != now.block) {
        *state |= MANY_BLOCKS;
    } else if (pair->reader != self && pair->read_interval == now.interval) {
        *state |= MANY_THREADS;
    }
    if (pair->read_interval != now.interval) {
        *state &= (unsigned char)~MANY_THREADS;
    }
    pair->read_interval = now.interval;
    pair->reader = self;
}

/* Memory that is neither: of the program only what it has from the beginning, as tables; of the
 * stack only one's own. */
static bool is_private(uintptr_t at, bool writes)
{
    uintptr_t stack = now.stacks + now.thread * now.stack_bytes;
    return (at >= stack && at < stack + now.stack_bytes) ||
           (!writes && ((at >= now.args && at < now.args_end) ||
                        (at >= (uintptr_t)__ehdr_start && at < (uintptr_t)_end)));
}

void shadow_touch(const void *address, size_t size_bytes, bool writes, bool is_aligned)
{
    uintptr_t at = (uintptr_t)address;
    if (!now.is_on || fault[0] != '\0') {
        return;
    }
    bool is_shared = is_in(&shared, at);
    if (!is_shared && is_private(at, writes)) {
        return;
    }
    struct memory *memory = is_shared ? &shared : find_whole(address, size_bytes);
    if (memory == NULL) {
        return;
    }
    memory->since = is_shared ? shared.since : now.launch_interval;
    if (is_aligned && at % size_bytes != 0) {
        shadow_note("wants more alignment than the address has", address);
    }
    for (size_t i = at - memory->first; i < at - memory->first + size_bytes; i++) {
        if ((memory->states[i] & FLYING) != 0) {
            shadow_note("touches what a copy is on its way to", address);
        }
        if (!writes && (memory->states[i] & WRITTEN) == 0) {
            shadow_note("reads what nobody wrote", address);
        }
        if (i % 2 == 0) {
            check_pair(memory, i, writes);
        }
        memory->states[i] |= writes ? WRITTEN : 0;
    }
}

void shadow_fly(const void *to, size_t size_bytes)
{
    shadow_touch(to, size_bytes, true, true);
    for (size_t i = 0; i < size_bytes && is_in(&shared, (uintptr_t)to + i); i++) {
        shared.states[(uintptr_t)to + i - shared.first] |= FLYING;
    }
}

void shadow_land(const void *to, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes && is_in(&shared, (uintptr_t)to + i); i++) {
        shared.states[(uintptr_t)to + i - shared.first] &= (unsigned char)~FLYING;
    }
    shadow_touch(to, size_bytes, true, true);
}

/* ---- what compilers call for -fsanitize=thread ---- */

void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void *__tsan_memcpy(void *to, const void *from, size_t size_bytes);
void *__tsan_memset(void *to, int value, size_t size_bytes);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *caller)
{
    (void)caller;
}

void __tsan_func_exit(void)
{
}

void *__tsan_memcpy(void *to, const void *from, size_t size_bytes)
{
    shadow_touch(from, size_bytes, false, false);
    shadow_touch(to, size_bytes, true, false);
    return memcpy(to, from, size_bytes);
}

void *__tsan_memset(void *to, int value, size_t size_bytes)
{
    shadow_touch(to, size_bytes, true, false);
    return memset(to, value, size_bytes);
}

#define ACCESS(bytes)                                                                              \
    void __tsan_read##bytes(void *address);                                                        \
    void __tsan_write##bytes(void *address);                                                       \
    void __tsan_unaligned_read##bytes(void *address);                                              \
    void __tsan_unaligned_write##bytes(void *address);                                             \
    void __tsan_read##bytes(void *address)                                                         \
    {                                                                                              \
        shadow_touch(address, bytes, false, true);                                                 \
    }                                                                                              \
    void __tsan_write##bytes(void *address)                                                        \
    {                                                                                              \
        shadow_touch(address, bytes, true, true);                                                  \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *address)                                               \
    {                                                                                              \
        shadow_touch(address, bytes, false, false);                                                \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *address)                                              \
    {                                                                                              \
        shadow_touch(address, bytes, true, false);                                                 \
    }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *address, size_t size_bytes);
void __tsan_write_range(void *address, size_t size_bytes);

void __tsan_read_range(void *address, size_t size_bytes)
{
    shadow_touch(address, size_bytes, false, false);
}

void __tsan_write_range(void *address, size_t size_bytes)
{
    shadow_touch(address, size_bytes, true, false);
}

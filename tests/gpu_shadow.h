/* Who touched which memory of a fake GPU, and when: a record beside every byte of device memory and
 * of the shared memory of a block, and the accesses that it refuses. A *thread* is one of a block,
 * an *interval* the time between two barriers of a block, a launch has no order of blocks. Found
 * are:
 *   accesses that are not of the device's memory, or beyond its end
 *   values that nobody wrote since the memory was taken, or since the block began
 *   addresses that are not multiples of the size of what is read or written
 *   two accesses of the same bytes, one of them a write, by threads of a block in one interval, or
 *   by two blocks of a launch
 *   bytes that are read or written while a copy into them is on its way
 *   stacks of other threads
 * Code that is compiled with -fsanitize=thread reports its accesses here: gpu_shadow.c stands in
 * for that sanitizer's library. The first fault is kept, as a sentence. Thread rule: one at a time.
 * Limits: values of two bytes or more; an access beyond an array of shared memory that ends in
 * another one is not seen (the address sanitizer sees it, in gpu_fake.c's loops). */
#ifndef LQ_TESTS_GPU_SHADOW_H
#define LQ_TESTS_GPU_SHADOW_H

#include <stdbool.h>
#include <stddef.h>

/* NULL while all is well. */
const char *shadow_fault(void);
/* Keeps the sentence, with where it happened, unless there is one. */
void shadow_note(const char *what, const void *address);
/* Forgets the fault; for tests. */
void shadow_pardon(void);

/* Device memory: nobody has written to it yet. */
void shadow_add(const void *memory, size_t size_bytes);
void shadow_remove(const void *memory);
/* What is done besides launches; the memory must be the device's, and written to where it is read.
 */
void shadow_reads(const void *memory, size_t size_bytes);
void shadow_writes(const void *memory, size_t size_bytes);
/* Must not be the device's. */
void shadow_of_host(const void *memory);

/* Where a launch is. Threads may read `args` and have stacks of stack_bytes from `stacks` on. */
void shadow_begin_launch(const char *name, const void *args, size_t args_bytes, const void *stacks,
                         size_t stack_bytes);
void shadow_begin_block(size_t block);
void shadow_begin_interval(void);
void shadow_set_thread(unsigned thread);
void shadow_end_launch(void);

/* An access of the thread. */
void shadow_touch(const void *memory, size_t size_bytes, bool writes, bool is_aligned);
/* A copy into the memory begins, and has arrived. */
void shadow_fly(const void *memory, size_t size_bytes);
void shadow_land(const void *memory, size_t size_bytes);

#endif

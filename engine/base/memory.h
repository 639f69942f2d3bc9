/* How much memory this process holds. Thread rule: thread-safe. Limits: Linux; elsewhere unknown.
 */
#ifndef LQ_BASE_MEMORY_H
#define LQ_BASE_MEMORY_H

#include <stdint.h>

/* Resident bytes that are not pages of files (proc(5), statm: resident less shared); 0 when
 * unknown. */
uint64_t lq_memory_resident(void);

/* Blocks of some MiB that are freed will be asked for again, such as the store's pages on their way
 * to the disk: they stay with the process, which otherwise gets each of their pages anew from the
 * system. For the program to call at its start. */
void lq_memory_keep_freed(void);

#endif

/* How much memory this process holds. Thread rule: thread-safe. Limits: Linux; elsewhere unknown.
 */
#ifndef LQ_BASE_MEMORY_H
#define LQ_BASE_MEMORY_H

#include <stdint.h>

/* Resident bytes that are not pages of files (proc(5), statm: resident less shared); 0 when
 * unknown. */
uint64_t lq_memory_resident(void);

#endif

#include "engine/base/memory.h"

#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

void lq_memory_keep_freed(void)
{
#ifdef __GLIBC__
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

uint64_t lq_memory_resident(void)
{
    unsigned long long resident = 0;
    unsigned long long shared = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) {
        return 0;
    }
    int found = fscanf(file, "%*u %llu %llu", &resident, &shared);
    (void)fclose(file);
    long page_bytes = sysconf(_SC_PAGESIZE);
    return found == 2 && resident > shared && page_bytes > 0
               ? (uint64_t)(resident - shared) * (uint64_t)page_bytes
               : 0;
}

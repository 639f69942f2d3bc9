/* zstd compression of what is sent, by libzstd, loaded at first use. Thread rule: any thread. */
#ifndef LQ_CACHE_ZSTD_LIBRARY_H
#define LQ_CACHE_ZSTD_LIBRARY_H

#include <stddef.h>

/* A zstd frame on the heap; NULL when the library is missing, memory is out, or the frame would not
 * be at least a sixteenth smaller. */
void *lq_zstd_compress(const void *data, size_t size_bytes, size_t *packed_bytes);

#endif

#include "cache/zstd_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The stable interface of libzstd 1.x (zstd.h). */
static struct {
    size_t (*compress)(void *out, size_t out_bytes, const void *in, size_t in_bytes, int level);
    size_t (*bound)(size_t in_bytes);
    unsigned (*is_error)(size_t code);
    bool loaded;
} lib;

static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

static bool find(void *handle, const char *name, void *place)
{
    void *symbol = dlsym(handle, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void load_library(void)
{
    void *handle = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    lib.loaded = handle != NULL && find(handle, "ZSTD_compress", &lib.compress) &&
                 find(handle, "ZSTD_compressBound", &lib.bound) &&
                 find(handle, "ZSTD_isError", &lib.is_error);
}

void *lq_zstd_compress(const void *data, size_t size_bytes, size_t *packed_bytes)
{
    enum { LEVEL = 3 }; /* zstd's default */
    (void)pthread_once(&lib_once, load_library);
    size_t room = lib.loaded ? lib.bound(size_bytes) : 0;
    void *packed = room == 0 ? NULL : malloc(room);
    if (packed == NULL) {
        return NULL;
    }
    *packed_bytes = lib.compress(packed, room, data, size_bytes, LEVEL);
    if (lib.is_error(*packed_bytes) != 0 || *packed_bytes > size_bytes - size_bytes / 16) {
        free(packed);
        return NULL;
    }
    return packed;
}

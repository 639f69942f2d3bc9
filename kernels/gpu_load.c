#include "kernels/gpu_load.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define MODULE_FILE "liblqbuild_cuda.so"

/* The folder of the running program, without a slash at its end; empty when it is not known. */
static void find_program_folder(char folder[PATH_BYTES])
{
    ssize_t length = readlink("/proc/self/exe", folder, PATH_BYTES - 1);
    folder[length < 0 ? 0 : length] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
}

/* dlsym gives a data pointer; copying its bits is how POSIX wants it turned into a function. */
static lq_gpu_module_get_fn find_getter(void *library)
{
    lq_gpu_module_get_fn getter = NULL;
    void *symbol = dlsym(library, LQ_GPU_MODULE_SYMBOL);
    memcpy(&getter, &symbol, sizeof getter);
    return getter;
}

static const struct lq_gpu_module *open_module(const char *path, char why[LQ_GPU_WHY_BYTES])
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        (void)snprintf(why, LQ_GPU_WHY_BYTES, "the GPU module cannot be loaded: %s", dlerror());
        return NULL;
    }
    lq_gpu_module_get_fn getter = find_getter(library);
    const struct lq_gpu_module *module = getter == NULL ? NULL : getter();
    if (module == NULL) {
        (void)snprintf(why, LQ_GPU_WHY_BYTES, "%s is no GPU module of lqbuild", path);
    } else if (module->version != LQ_GPU_MODULE_VERSION) {
        (void)snprintf(why, LQ_GPU_WHY_BYTES,
                       "%s has version %u, this lqbuild needs %d; build or install both together",
                       path, (unsigned)module->version, LQ_GPU_MODULE_VERSION);
        module = NULL;
    }
    /* A module in use is never closed: a driver's threads may run its code. */
    if (module == NULL) {
        (void)dlclose(library);
    }
    return module;
}

const struct lq_gpu_module *lq_gpu_load(char why[LQ_GPU_WHY_BYTES])
{
    static const char *const places[] = {"", "/../lib/lqbuild"};
    const char *named = getenv("LQBUILD_CUDA_MODULE");
    if (named != NULL && named[0] != '\0') {
        return open_module(named, why);
    }
    char folder[PATH_BYTES];
    find_program_folder(folder);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char path[PATH_BYTES + 64];
        (void)snprintf(path, sizeof path, "%s%s/%s", folder, places[i], MODULE_FILE);
        if (access(path, F_OK) == 0) {
            return open_module(path, why);
        }
    }
    (void)snprintf(why, LQ_GPU_WHY_BYTES,
                   "this lqbuild has no GPU module: there is no %s beside the program",
                   MODULE_FILE);
    return NULL;
}

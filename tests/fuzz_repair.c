/* Repair of whatever a data file may hold. The input is a list of changes to the data file of a
 * small cache: 4 bytes where, 1 byte what; or, when it begins with 0xFF, the beginning of the file
 * itself. A repair succeeds or is refused; what it makes has nothing wrong with it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache_internal.h"
#include "cache/repair.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANGE_BYTES = 5, RAW = 0xFF, PAGE_BYTES = 4096, BLOBS = 40 };

static char folder[64];
static char path[96];
static unsigned char *image; /* of a sound data file */
static size_t image_bytes;

static void stop(const char *what, const struct lq_error *err)
{
    (void)fprintf(stderr, "%s: %s\n", what, err->message);
    abort();
}

static void remove_all(void)
{
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) {
        (void)fprintf(stderr, "%s stays\n", folder);
    }
}

static struct lq_cache *open_cache(struct lq_error *err)
{
    struct lq_cache *cache = NULL;
    const struct lq_cache_options options = {.dir = folder};
    if (lq_cache_open_sized(&cache, &options, 4096 * 1024, err) != LQ_OK) {
        stop("open", err);
    }
    return cache;
}

/* Blobs of all kinds, a few hundred records, so that every tree has something in it. */
static void fill(struct lq_cache *cache, struct lq_error *err)
{
    static unsigned char bytes[100000];
    struct lq_digest digest = {{0}};
    for (size_t i = 0; i < BLOBS; i++) {
        char label[32];
        struct lq_blob_writer *writer = NULL;
        bytes[0] = (unsigned char)i;
        size_t size = i % 8 == 7 ? sizeof bytes : 100 + 50 * i;
        (void)snprintf(label, sizeof label, "/f|%zu", i);
        struct lq_digest before = digest;
        const struct lq_file_sig sig = {1, i, 3, 4, 5};
        struct lq_action_output output = {"out", digest, size, false};
        struct lq_action_record record = {.outputs = &output, .output_count = 1};
        if (lq_blob_put(cache, bytes, size, &digest, err) != LQ_OK ||
            lq_action_put(cache, &digest, &record, label, "manifest", err) != LQ_OK ||
            lq_file_digest_put(cache, &sig, "plain", &digest, err) != LQ_OK) {
            stop("fill", err);
        }
        if (i % 8 == 0 && i > 0 &&
            (lq_blob_begin(cache, &writer, err) != LQ_OK ||
             lq_blob_write(writer, "inline", 6, err) != LQ_OK ||
             lq_blob_write_blob(writer, &before, err) != LQ_OK ||
             lq_blob_commit(writer, NULL, NULL, err) != LQ_OK)) {
            stop("join", err);
        }
    }
}

static void make_image(void)
{
    struct lq_error err = {0};
    (void)snprintf(folder, sizeof folder, "%s/lqfuzz-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(folder) == NULL) {
        stop(folder, &err);
    }
    (void)atexit(remove_all);
    (void)snprintf(path, sizeof path, "%s/data.mdb", folder);
    struct lq_cache *cache = open_cache(&err);
    fill(cache, &err);
    lq_cache_close(cache);
    struct lq_buffer content;
    lq_buffer_init(&content);
    if (lq_file_read(path, SIZE_MAX, &content, &err) != LQ_OK ||
        (image = malloc(content.size_bytes)) == NULL) {
        stop("read", &err);
    }
    memcpy(image, content.data, content.size_bytes);
    image_bytes = content.size_bytes;
    lq_buffer_fini(&content);
}

static void write_file(const uint8_t *data, size_t size)
{
    unsigned char *altered = malloc(image_bytes);
    if (altered == NULL) {
        abort();
    }
    memcpy(altered, image, image_bytes);
    if (size > 0 && data[0] == RAW) {
        size_t taken = size - 1 < image_bytes ? size - 1 : image_bytes;
        memcpy(altered, data + 1, taken);
    } else {
        for (size_t i = 0; i + CHANGE_BYTES <= size; i += CHANGE_BYTES) {
            size_t at = (size_t)data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16 |
                        (size_t)data[i + 3] << 24;
            altered[at % image_bytes] ^= data[i + 4];
        }
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, altered, image_bytes) != (ssize_t)image_bytes) {
        abort();
    }
    (void)close(fd);
    free(altered);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_error err = {0};
    struct lq_repair_result result;
    uint64_t checked = 0;
    uint64_t removed = 0;
    if (image == NULL) {
        make_image();
    }
    write_file(data, size);
    const struct lq_cache_options options = {.dir = folder};
    enum lq_status status = lq_cache_repair(&options, &result, &err);
    if (status != LQ_OK && status != LQ_ECACHE) {
        stop("repair", &err);
    }
    if (status != LQ_OK || result.sound) {
        return 0;
    }
    struct lq_cache *cache = open_cache(&err);
    if (lq_cache_verify(cache, &checked, &removed, &err) != LQ_OK || removed != 0) {
        stop("verify", &err);
    }
    lq_cache_close(cache);
    return 0;
}

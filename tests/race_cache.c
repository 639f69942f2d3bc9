/* Threads that do everything at once on one cache, in a plain program, because ThreadSanitizer and
 * the forking test runner do not get along: blobs of all sizes, whole and in pieces,
 * concatenations, results, holds, drops, collecting and giving pages back, in a map that begins
 * small. race_cache [ROUNDS]          (8; each thread so often) */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache_internal.h"
#include "cache/upkeep.h"

enum { THREADS = 6, PIECE_BYTES = 700 * 1000 };

static struct lq_cache *cache;
static unsigned rounds = 8;

struct worker {
    unsigned number;
    unsigned failures;
};

static void fill(unsigned char *data, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[i] = (unsigned char)(seed >> 56);
    }
}

/* Small ones, some of one chunk, one of more than one flush. */
static size_t size_of(uint64_t seed)
{
    static const size_t sizes[] = {10, 50000, 70000, 1500000, 3000001, 20000000};
    return sizes[seed % (sizeof sizes / sizeof *sizes)];
}

static enum lq_status put_pieces(const unsigned char *data, size_t size, struct lq_digest *digest,
                                 struct lq_error *err)
{
    struct lq_blob_writer *writer = NULL;
    enum lq_status status = lq_blob_begin(cache, &writer, err);
    for (size_t at = 0; at < size && status == LQ_OK; at += PIECE_BYTES) {
        size_t step = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
        status = lq_blob_write(writer, data + at, step, err);
    }
    if (status != LQ_OK) {
        lq_blob_abort(writer);
        return status;
    }
    return lq_blob_commit(writer, digest, NULL, err);
}

static enum lq_status join(const struct lq_digest *a, const struct lq_digest *b,
                           struct lq_digest *digest, struct lq_error *err)
{
    struct lq_blob_writer *writer = NULL;
    enum lq_status status = lq_blob_begin(cache, &writer, err);
    status = status == LQ_OK ? lq_blob_write_blob(writer, a, err) : status;
    status = status == LQ_OK ? lq_blob_write_blob(writer, b, err) : status;
    if (status != LQ_OK) {
        lq_blob_abort(writer);
        return status;
    }
    return lq_blob_commit(writer, digest, NULL, err);
}

static bool reads_as(const struct lq_digest *digest, const unsigned char *a, size_t a_size,
                     const unsigned char *b, size_t b_size, struct lq_error *err)
{
    struct lq_blob_reader *reader = NULL;
    unsigned char *got = malloc(a_size + b_size);
    bool same = got != NULL && lq_blob_open(cache, digest, true, &reader, err) == LQ_OK &&
                reader != NULL && lq_blob_read(reader, 0, got, a_size + b_size, err) == LQ_OK &&
                memcmp(got, a, a_size) == 0 && memcmp(got + a_size, b, b_size) == 0;
    lq_blob_close(reader);
    free(got);
    return same;
}

static bool publish(const struct lq_digest *key, const struct lq_digest *output,
                    struct lq_error *err)
{
    struct lq_action_output outputs[] = {{.name = "main", .digest = *output}};
    const struct lq_action_record record = {.outputs = outputs, .output_count = 1};
    struct lq_action_record back;
    struct lq_arena arena;
    bool found = false;
    lq_arena_init(&arena);
    bool ok = lq_action_put(cache, key, &record, "label", "manifest", err) == LQ_OK;
    lq_cache_hold(cache);
    ok = ok && lq_action_get(cache, key, &arena, &back, &found, err) == LQ_OK && found;
    lq_cache_release(cache);
    lq_arena_fini(&arena);
    return ok;
}

static void *work(void *user)
{
    struct worker *worker = user;
    for (uint64_t round = 0; round < rounds; round++) {
        uint64_t seed = (worker->number + 1) * 1000 + round; /* no round is a seed */
        size_t own_size = size_of(seed);
        size_t shared_size = size_of(round);
        unsigned char *own = malloc(own_size);
        unsigned char *shared = malloc(shared_size);
        struct lq_digest own_digest;
        struct lq_digest shared_digest;
        struct lq_digest joined;
        struct lq_gc_result result;
        const struct lq_gc_options options = {.size_bytes_max = 1};
        struct lq_error err = {0};
        fill(own, own_size, seed);
        fill(shared, shared_size, round);
        bool ok = put_pieces(own, own_size, &own_digest, &err) == LQ_OK &&
                  lq_blob_put(cache, shared, shared_size, &shared_digest, &err) == LQ_OK &&
                  join(&own_digest, &shared_digest, &joined, &err) == LQ_OK &&
                  reads_as(&joined, own, own_size, shared, shared_size, &err) &&
                  publish(&own_digest, &joined, &err);
        if (ok && round % 3 == 0) {
            /* What this process has made is needed, so nothing of it goes. */
            ok = lq_cache_gc(cache, &options, &result, &err) == LQ_OK &&
                 reads_as(&joined, own, own_size, shared, shared_size, &err);
        } else if (ok && round % 3 == 1) {
            ok = lq_blob_drop(cache, &joined, &err) == LQ_OK &&
                 lq_blob_drop(cache, &own_digest, &err) == LQ_OK;
            lq_cache_trim(cache, 1000);
        }
        if (!ok) {
            printf("thread %u, round %u: %s\n", worker->number, (unsigned)round, err.message);
            worker->failures++;
        }
        free(own);
        free(shared);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/lqrace-XXXXXX";
    char command[64];
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    struct lq_error err = {0};
    unsigned failures = 0;
    uint64_t checked = 0;
    uint64_t removed = 0;
    if (argc > 1) {
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    }
    const struct lq_cache_options options = {.dir = dir};
    if (mkdtemp(dir) == NULL || lq_cache_open_sized(&cache, &options, 256 * 1024, &err) != LQ_OK) {
        printf("%s: %s\n", dir, err.message);
        return 1;
    }
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.number = i};
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0) {
            return 1;
        }
    }
    for (unsigned i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
        failures += workers[i].failures;
    }
    if (lq_cache_verify(cache, &checked, &removed, &err) != LQ_OK || removed != 0) {
        printf("verify: %llu removed: %s\n", (unsigned long long)removed, err.message);
        failures++;
    }
    lq_cache_close(cache);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0) {
        failures++;
    }
    printf("%d threads, %u rounds, %llu blobs left, %u failures\n", (int)THREADS, rounds,
           (unsigned long long)checked, failures);
    return failures == 0 ? 0 : 1;
}

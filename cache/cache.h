/* The content-addressed store: one LMDB environment in a folder of its own.
 *
 * What it holds
 *   blobs     bytes named by their SHA-256, stored as chunks of whole pages; a blob may also be a
 *             concatenation that refers to other blobs (an assembled GGUF does not store its
 * tensors twice) actions   action key -> names, digests and sizes of what the action produced files
 * file signature -> digest of the content, so that unchanged files are never read history   label
 * of a step -> the manifest it was last built with, for explanations
 *
 * Caveats first. Local disk only: LMDB does not work on network file systems. Never use a cache
 * object after fork(). A missing, truncated or altered entry is a miss with a warning, never an
 * error. Mapped memory never leaves a transaction: reads copy, or call back. Nothing stored here
 * may be trusted to be well-formed; records are decoded with bounds checks.
 *
 * Thread rule: every function may be called from any thread; a writer or reader object belongs to
 * one thread at a time. Several processes may use one folder at the same time. Limits: 4 GiB minus
 * 1 chunks a blob; LQ_STEP_OUTPUTS_MAX outputs an action.
 */
#ifndef LQ_CACHE_CACHE_H
#define LQ_CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"
#include "engine/base/fs.h"

struct lq_cache;
struct lq_pool;

struct lq_cache_options {
    const char *dir; /* made when missing */
    /* Called, from any thread, with one sentence when an entry is corrupted or missing. May be
     * NULL. */
    void (*warn)(void *user, const char *message);
    void *warn_user;
    /* Called when tree pages of the data file are so damaged that going on is impossible, maybe
     * from a signal handler: says the sentence and ends the process, with async-signal-safe calls
     * only. NULL: a warning and abort(), or the signal. */
    void (*fatal)(const char *message);
};

/* Opens or creates. Errors: LQ_ECACHE (newer format: says which, and what to do; not a folder; no
 * permission), LQ_EIO (disk), LQ_ENOMEM. Clears stale readers and leftovers of killed writers. */
enum lq_status lq_cache_open(struct lq_cache **out, const struct lq_cache_options *options,
                             struct lq_error *err);
void lq_cache_close(struct lq_cache *cache);
/* --cache-dir if given, else LQBUILD_CACHE_DIR, else $XDG_CACHE_HOME/lqbuild, else
 * $HOME/.cache/lqbuild. LQ_ECACHE when none of them is set. */
enum lq_status lq_cache_default_dir(const char *option, struct lq_arena *arena, char **out,
                                    struct lq_error *err);

/* Between hold and release, look-ups of this thread share one view of the store, which makes many
 * of them cheap. Release before waiting for anything; changes of this process are seen at once,
 * those of others after the release. Not nested, one cache at a time. */
void lq_cache_hold(struct lq_cache *cache);
void lq_cache_release(struct lq_cache *cache);

/* ---- blobs ---- */

struct lq_blob_writer;

/* Streams one new blob. Chunks reach the disk as they fill (memory: a few MiB a writer); nothing is
 * visible under the digest before commit. A full disk gives LQ_EIO and leaves the store as it was.
 */
enum lq_status lq_blob_begin(struct lq_cache *cache, struct lq_blob_writer **out,
                             struct lq_error *err);
enum lq_status lq_blob_write(struct lq_blob_writer *writer, const void *data, size_t size_bytes,
                             struct lq_error *err);
/* Appends the content of a stored blob by reference: its bytes are read (and checked against its
 * digest) but not stored again. LQ_ECACHE when it is missing or corrupted. */
enum lq_status lq_blob_write_blob(struct lq_blob_writer *writer, const struct lq_digest *part,
                                  struct lq_error *err);
/* Large parts are hashed, for their own digest and the whole's, and copied by several threads. */
void lq_blob_use_pool(struct lq_blob_writer *writer, struct lq_pool *pool);
/* Before anything is appended: until the commit every byte is also given to `copy`, in order, so
 * that the content gets into a file while it is hashed. `copy` must not keep the pointer nor write
 * to the cache, and may be called on a thread of the pool; what it returns other than LQ_OK fails
 * the writer. */
typedef enum lq_status (*lq_blob_take)(void *user, const void *data, size_t size_bytes,
                                       struct lq_error *err);
void lq_blob_tee(struct lq_blob_writer *writer, lq_blob_take copy, void *user);
/* The same, and the taker is the only one who keeps the content: nothing but a record of where it
 * is gets into the cache. `land` is called by the commit when the taker has every byte; it makes
 * the file durable, gives it its name, and tells the absolute path, which lives as long as the
 * writer, and a signature that no later write can repeat (not lq_file_sig_is_fresh). Such a blob is
 * there as long as the file is as it was; a blob that is stored already stays. */
typedef enum lq_status (*lq_blob_land)(void *user, const struct lq_digest *digest,
                                       const char **path, struct lq_file_sig *sig,
                                       struct lq_error *err);
void lq_blob_keep_outside(struct lq_blob_writer *writer, lq_blob_take keep, lq_blob_land land,
                          void *user);
/* Before the commit: the blob is an output that goes when its readers are done. One that is stored
 * already stays what it is. */
void lq_blob_set_transient(struct lq_blob_writer *writer);
/* Publishes and frees the writer, whether it succeeds or not. A blob that is already stored costs
 * nothing: the new copy is dropped. */
enum lq_status lq_blob_commit(struct lq_blob_writer *writer, struct lq_digest *digest,
                              uint64_t *size_bytes, struct lq_error *err);
/* The same in two halves: after the first the digest is known and nothing but the second, or
 * lq_blob_abort, may follow; after the second the blob is there. An action that is put in between
 * becomes durable in one transaction with it. Without success of the first the writer is still to
 * be aborted; the second frees it whether it succeeds or not. */
enum lq_status lq_blob_commit_begin(struct lq_blob_writer *writer, struct lq_digest *digest,
                                    uint64_t *size_bytes, struct lq_error *err);
enum lq_status lq_blob_commit_end(struct lq_blob_writer *writer, struct lq_error *err);
/* The same for content whose digest is known beforehand: publishes it only if it has that digest.
 */
enum lq_status lq_blob_commit_as(struct lq_blob_writer *writer, const struct lq_digest *expected,
                                 bool *same, struct lq_error *err);
void lq_blob_abort(struct lq_blob_writer *writer);

/* Begin, write, commit for bytes in memory. */
enum lq_status lq_blob_put(struct lq_cache *cache, const void *data, size_t size_bytes,
                           struct lq_digest *digest, struct lq_error *err);

struct lq_blob_reader;

/* Opens a blob for reading. With `verify` the whole content is first checked against the digest; a
 * blob that is missing or altered gives *out NULL and LQ_OK, after a warning, and an altered one is
 * removed, so that the caller rebuilds it. */
enum lq_status lq_blob_open(struct lq_cache *cache, const struct lq_digest *digest, bool verify,
                            struct lq_blob_reader **out, struct lq_error *err);
uint64_t lq_blob_size(const struct lq_blob_reader *reader);
/* Copies [offset, offset + size_bytes). LQ_ECACHE when a chunk is gone or the range is outside. */
enum lq_status lq_blob_read(struct lq_blob_reader *reader, uint64_t offset, void *out,
                            size_t size_bytes, struct lq_error *err);
/* Gives the bytes of a whole blob in order where they lie in the map, a chunk or less at a time and
 * each in a transaction of its own: no copy. `take` must not keep the pointer nor write to the
 * cache; what it returns ends the walk unless it is LQ_OK. Several threads may walk over one reader
 * at once. LQ_ECACHE when a chunk is gone. */
enum lq_status lq_blob_each(struct lq_blob_reader *reader, lq_blob_take take, void *user,
                            struct lq_error *err);
/* Reads a whole blob for everything that wants it: each of at most two hashers gets all of its
 * bytes in order, and so does `copy`, which may be NULL. With a pool a large blob is read by two
 * threads. */
enum lq_status lq_blob_walk(struct lq_blob_reader *reader, struct lq_pool *pool,
                            struct lq_hasher *const *hashers, size_t hasher_count,
                            lq_blob_take copy, void *user, struct lq_error *err);
void lq_blob_close(struct lq_blob_reader *reader);

/* True when the blob and all its parts have records (content not checked), or the file that it lies
 * in is as it was. */
bool lq_blob_exists(struct lq_cache *cache, const struct lq_digest *digest, uint64_t *size_bytes);
/* The path of the file that a blob lies, or lay, in; NULL for one in the cache or none at all. */
enum lq_status lq_blob_place_get(struct lq_cache *cache, const struct lq_digest *digest,
                                 struct lq_arena *arena, char **path, struct lq_error *err);
/* Forgets a blob. Not an error when it is absent or when a concatenation still refers to it (then
 * it stays). */
enum lq_status lq_blob_drop(struct lq_cache *cache, const struct lq_digest *digest,
                            struct lq_error *err);
/* The same, and the blob also stays unless transient outputs alone have its content: it was written
 * as one, and since then neither was it written in any other way nor does an action keep it. */
enum lq_status lq_blob_drop_transient(struct lq_cache *cache, const struct lq_digest *digest,
                                      struct lq_error *err);

/* ---- actions ---- */

struct lq_action_output {
    const char *name;
    struct lq_digest digest;
    uint64_t size_bytes;
    bool transient; /* the blob may have been dropped; the digest still identifies it */
};

struct lq_action_record {
    struct lq_action_output *outputs;
    size_t output_count;
    /* A verdict is part of the result: a report that found too much degradation is a cached result
     * and fails the build every time. LQ_OK and "" normally. */
    enum lq_status verdict;
    const char *verdict_text;
    const char *numerics; /* what computed it, e.g. "cpu-f32"; not part of any key */
    uint64_t duration_us; /* for critical paths and ETAs */
    uint64_t step_count;  /* steps this result stands for; 1 for a plain step */
};

/* Everything in *out lives in the arena. *found false for a miss (also for a record that does not
 * decode, after a warning). */
enum lq_status lq_action_get(struct lq_cache *cache, const struct lq_digest *key,
                             struct lq_arena *arena, struct lq_action_record *out, bool *found,
                             struct lq_error *err);
/* Stores the record, and `manifest` as the history of `label`, in one transaction. `label` may be
 * NULL: then no history. */
enum lq_status lq_action_put(struct lq_cache *cache, const struct lq_digest *key,
                             const struct lq_action_record *record, const char *label,
                             const char *manifest, struct lq_error *err);
/* Forgets an action (not an error when absent). */
enum lq_status lq_action_remove(struct lq_cache *cache, const struct lq_digest *key,
                                struct lq_error *err);
/* The manifest last stored for a label; NULL when there is none. */
enum lq_status lq_history_get(struct lq_cache *cache, const char *label, struct lq_arena *arena,
                              char **manifest, struct lq_error *err);
/* Remembers a manifest without an action. Does not write when it is the same. */
enum lq_status lq_history_put(struct lq_cache *cache, const char *label, const char *manifest,
                              struct lq_error *err);

/* ---- files ---- */

/* The digest known for a file signature under a way of reading it ("plain", "tensors-1", …). */
bool lq_file_digest_get(struct lq_cache *cache, const struct lq_file_sig *sig, const char *kind,
                        struct lq_digest *digest);
enum lq_status lq_file_digest_put(struct lq_cache *cache, const struct lq_file_sig *sig,
                                  const char *kind, const struct lq_digest *digest,
                                  struct lq_error *err);

/* ---- locks between processes ---- */

/* Tries to become the one process that works on `key`; the lock dies with the process. Within one
 * process a key must be locked once at a time (the engine sees to it). */
enum lq_status lq_cache_lock_try(struct lq_cache *cache, const struct lq_digest *key,
                                 bool *acquired, struct lq_error *err);
void lq_cache_unlock(struct lq_cache *cache, const struct lq_digest *key);

/* ---- looking after it ---- */

/* Counts removals of blobs and actions by anybody: as long as it stays, what was there is there. */
enum lq_status lq_cache_removals(struct lq_cache *cache, uint64_t *count, struct lq_error *err);
/* The clock of use times, in seconds since 1970. */
uint64_t lq_cache_now(void);

struct lq_cache_stats {
    uint64_t blob_count;
    uint64_t blob_bytes;   /* content of stored blobs, concatenations not counted */
    uint64_t joined_count; /* concatenations */
    uint64_t joined_bytes;
    uint64_t placed_count; /* blobs that lie in files outside of the cache */
    uint64_t placed_bytes;
    uint64_t action_count;
    uint64_t file_count;
    uint64_t history_count;
    uint64_t disk_bytes; /* what the data file takes on the disk */
};
enum lq_status lq_cache_stats_get(struct lq_cache *cache, struct lq_cache_stats *out,
                                  struct lq_error *err);
/* Checks every blob against its digest; removes what is wrong and warns about each. The record of a
 * file outside of the cache that has changed goes, too, but is no damage. */
enum lq_status lq_cache_verify(struct lq_cache *cache, uint64_t *checked, uint64_t *removed,
                               struct lq_error *err);
/* Removes everything. LQ_ECACHE while another process holds a step lock. */
enum lq_status lq_cache_clear(struct lq_cache *cache, struct lq_error *err);

#endif

/* One file of the hub in the cache that all tools of the hub share: blobs/<id>, which appears when
 * it is whole and has the digest that the hub announced, and not before. What is on its way lies in
 * blobs/<id>.incomplete; a process that is killed leaves it, and the next one goes on behind what
 * is there, after reading it for the digest. While one process downloads a file others wait, by a
 * lock on .locks/<repository>/<id>.lock that huggingface_hub takes too; it ends with its process.
 * Thread rule: any thread, one call a file. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_BLOB_H
#define LQ_ENGINE_CLI_HUB_HUB_BLOB_H

#include "engine/cli/hub/hub_client.h"

/* Who wants to know how far it is. All are called on the thread of the file. */
struct lq_hub_watch {
    void (*moved)(void *user, int64_t bytes); /* came, or were there; negative: thrown away */
    void (*waits)(void *user, const char *path);
    bool (*stopped)(void *user); /* asked often: true ends it with LQ_ECANCELLED */
    void *user;
};

struct lq_hub_blob {
    struct lq_hub *hub;
    const struct lq_hub_name *name;
    const char *commit;
    const struct lq_hub_file *file;
    const char *folder; /* .../models--org--name; "blobs" in it exists */
    const char *locks;  /* .../.locks/models--org--name, which exists */
    bool check;         /* read what is there, and load it again when it is not what it should be */
    const struct lq_hub_watch *watch;
    uint64_t loaded_bytes; /* out: came over the network */
};

/* "folder/blobs/id"; NULL when memory is out. */
const char *lq_hub_blob_path(const char *folder, const struct lq_hub_file *file,
                             struct lq_arena *arena);
/* True when it is there and has its size. */
bool lq_hub_blob_is_there(const char *folder, const struct lq_hub_file *file,
                          struct lq_arena *arena);
/* Bytes of it that an earlier download left, at most its size. */
uint64_t lq_hub_blob_begun(const char *folder, const struct lq_hub_file *file,
                           struct lq_arena *arena);
/* Errors: those of lq_hub_read, LQ_EIO, and LQ_EFORMAT for a file without its digest, of which
 * nothing is left. */
enum lq_status lq_hub_blob_get(struct lq_hub_blob *blob, struct lq_error *err);

#endif

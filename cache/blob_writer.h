/* A writer of blobs inside the cache, private to blob_write.c, which takes bytes and parts and
 * sends chunks to the store, and blob_commit.c, which publishes the record. Thread rule: one thread
 * a writer; the store's and the hashing thread work beside it. */
#ifndef LQ_CACHE_BLOB_WRITER_H
#define LQ_CACHE_BLOB_WRITER_H

#include "cache/cache_internal.h"

/* Chunks on their way to the disk. The caller's memory is borrowed until its call returns. */
struct lq_writer_flush {
    struct lq_blob_writer *writer;
    struct lq_store_writing *writing; /* NULL: nothing is on its way */
    const unsigned char *data;
    size_t size_bytes;
    uint64_t id; /* where the chunks are */
    bool borrowed;
};

/* The record on its way to the disk. */
struct lq_writer_commit {
    struct lq_blob_writer *writer;
    struct lq_store_writing *writing; /* NULL: nothing is on its way */
    struct lq_digest digest;
    uint64_t garbage_id; /* of a record that was replaced */
    bool duplicate;      /* stored already: the writer's chunks are garbage */
    const char *path;    /* of the file that it lies in; NULL: here */
    struct lq_file_sig sig;
};

struct lq_blob_writer {
    struct lq_cache *cache;
    struct lq_hasher *hasher;
    uint64_t size_bytes;   /* of the blob so far, parts included */
    uint64_t stored_bytes; /* given to chunks so far, the buffer included */
    uint64_t id;           /* 0 until chunks were flushed */
    uint32_t flushed_count;
    bool failed; /* a part was wrong or a flush failed: it can only be aborted */
    unsigned char *buffer;
    size_t buffered_bytes, buffer_capacity;
    unsigned char *other; /* a full buffer on its way to the disk, or one to fill next, or NULL */
    struct lq_writer_flush flush;
    struct lq_writer_commit commit;
    struct lq_blob_part *parts;
    uint32_t part_count, part_capacity;
    bool has_refs; /* some part is another blob */
    bool is_transient;
    struct lq_pool *pool; /* may be NULL */
    lq_blob_take copy;    /* may be NULL */
    void *copy_user;
    lq_blob_land land;          /* `copy` alone keeps the content; else NULL */
    size_t fresh_bytes;         /* the last ones of the buffer: neither hashed nor copied yet */
    struct lq_hash_job hashing; /* a full buffer */
};

/* LQ_ECACHE unless the chunks `id` of an earlier flush are still this process's. */
enum lq_status lq_writer_check_pending(struct lq_txn *txn, struct lq_cache *cache, uint64_t id,
                                       struct lq_error *err);
/* Puts bytes as chunks `index` and following of `id`. */
enum lq_status lq_writer_put_chunks(struct lq_txn *txn, uint64_t id, uint32_t index,
                                    const unsigned char *data, size_t size_bytes,
                                    struct lq_error *err);
/* Waits for the chunks that are on their way; then `id` and `flushed_count` are true. */
enum lq_status lq_writer_flush_end(struct lq_blob_writer *writer, struct lq_error *err);
/* Waits for the hash of the last full buffer. */
void lq_writer_hash_end(struct lq_blob_writer *writer);
/* Everything that was written is hashed and copied. */
enum lq_status lq_writer_settle(struct lq_blob_writer *writer, struct lq_error *err);
/* LQ_ECACHE when an earlier call failed. */
enum lq_status lq_writer_usable(const struct lq_blob_writer *writer, struct lq_error *err);
/* Waits for the record, and sweeps what is garbage now. */
enum lq_status lq_writer_commit_wait(struct lq_blob_writer *writer, struct lq_error *err);

#endif

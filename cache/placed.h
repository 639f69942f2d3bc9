/* Content that lies in a file outside of the cache, at the place where a build has put it: its
 * record has the path and the file's signature, and it is there as long as the file at the path has
 * that signature. Files are read with pread, never mapped, and their signature is asked for again
 * after every read, so that one that is cut or written to meanwhile gives an error and no wrong
 * bytes. Anything but a regular file is not opened. Ownership: a file object belongs to who opened
 * it and borrows nothing. Thread rule: several threads may read one file at a time. Limits:
 * LQ_BLOB_PATH_BYTES_MAX. */
#ifndef LQ_CACHE_PLACED_H
#define LQ_CACHE_PLACED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/record.h"
#include "engine/base/error.h"

struct lq_placed;

/* True when the file has the signature of the record, which is of the kind LQ_BLOB_PLACED. */
bool lq_placed_is_there(const struct lq_blob_record *record);
/* *out is NULL when the file is not as it was. */
enum lq_status lq_placed_open(const struct lq_blob_record *record, struct lq_placed **out,
                              struct lq_error *err);
/* True when the record is the one that the file was opened with. */
bool lq_placed_is_of(const struct lq_placed *placed, const struct lq_blob_record *record);
/* Copies [offset, offset + size_bytes), which must lie in the file. LQ_ECACHE when it is not as it
 * was any more. */
enum lq_status lq_placed_read(const struct lq_placed *placed, uint64_t offset, void *out,
                              size_t size_bytes, struct lq_error *err);
void lq_placed_close(struct lq_placed *placed);

#endif

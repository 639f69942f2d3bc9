/* Repairing a cache whose data file is damaged: a new one takes its place, with everything that can
 * still be read and is proven by digests and seals. What is left out is a miss for whoever wants
 * it. Owns nothing; the old file stays until the new one is complete and on the disk. Thread rule:
 * any thread, nobody else may have the cache open. Limits: a byte of memory a page; at most 64
 * times the size of the file is read. */
#ifndef LQ_CACHE_REPAIR_H
#define LQ_CACHE_REPAIR_H

#include "cache/cache.h"

struct lq_repair_result {
    bool sound; /* nothing was wrong: the file is as it was, and nothing below counts */
    struct lq_cache_stats saved; /* without disk_bytes */
    bool lost_known;             /* the file still says how many there were */
    uint64_t results_lost, blobs_lost;
    uint64_t before_bytes, after_bytes; /* lengths of the data file */
};

/* LQ_ECACHE: another process has it open, it is of another format, nothing in it is of a cache; the
 * file is left alone then, and with LQ_EIO and LQ_ENOMEM. Needs room for the new file. */
enum lq_status lq_cache_repair(const struct lq_cache_options *options, struct lq_repair_result *out,
                               struct lq_error *err);

#endif

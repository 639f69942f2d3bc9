/* History records: the manifest a label was last built with, for explanations. The key is the
 * digest of the label, because labels may be longer than keys. Thread rule: a record belongs to
 * one thread at a time. */
#ifndef LQ_CACHE_HISTORY_H
#define LQ_CACHE_HISTORY_H

#include "cache/store_lmdb.h"
#include "engine/base/buffer.h"
#include "engine/base/digest.h"

struct lq_history_record {
    struct lq_digest key;
    struct lq_buffer value; /* empty: nothing to write */
};

/* `label` NULL gives an empty record; `manifest` NULL counts as "". */
enum lq_status lq_history_record_init(struct lq_history_record *record, const char *label,
                                      const char *manifest, struct lq_error *err);
void lq_history_record_fini(struct lq_history_record *record);
/* Writes nothing when the same record is there. */
enum lq_status lq_history_write(struct lq_txn *txn, const struct lq_history_record *record,
                                struct lq_error *err);

#endif

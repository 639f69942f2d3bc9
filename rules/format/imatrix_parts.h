/* Private to the importance matrix readers and writers: what rules/format/imatrix.c and the three
 * files beside it share. Each reader fills entries in file order and leaves sorting and the check
 * for double names to lq_imatrix_parse; each writer gets a checked matrix. Thread rule and limits:
 * rules/format/imatrix.h. */
#ifndef LQ_RULES_FORMAT_IMATRIX_PARTS_H
#define LQ_RULES_FORMAT_IMATRIX_PARTS_H

#include "engine/base/reader.h"
#include "rules/format/imatrix.h"

enum {
    /* A legacy file counts in chunks but does not say how long they are: llama.cpp's default. */
    LQ_IMATRIX_LEGACY_CHUNK = 512,
    LQ_IMATRIX_DATASETS_MAX = 65536,
};

/* What a reader needs to make entries and messages. */
struct lq_imatrix_reader {
    struct lq_reader reader;
    const char *where;
    struct lq_arena *arena;
    struct lq_error *err;
};

enum lq_status lq_imatrix_parse_gguf(const void *data, uint64_t size_bytes,
                                     struct lq_imatrix_reader *in, struct lq_imatrix *out);
enum lq_status lq_imatrix_parse_imat(struct lq_imatrix_reader *in, struct lq_imatrix *out);
enum lq_status lq_imatrix_parse_dat(struct lq_imatrix_reader *in, struct lq_imatrix *out);
enum lq_status lq_imatrix_format_gguf(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                      struct lq_error *err);
enum lq_status lq_imatrix_format_imat(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                      struct lq_error *err);
enum lq_status lq_imatrix_format_dat(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                     struct lq_error *err);

/* `count` little-endian floats at `bytes`, copied into the arena; each must be finite and not
 * negative, else the message names the entry, `what` and the place. */
enum lq_status lq_imatrix_copy_floats(struct lq_imatrix_reader *in, const char *name,
                                      const char *what, const void *bytes, size_t count,
                                      float **out);
/* Fills sums and counts from `sums` that are mean values (or values per `factor` tokens): sums are
 * multiplied by `factor`. A product that is no longer finite is refused. */
enum lq_status lq_imatrix_scale(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry,
                                float factor);
/* Entries for a file that has `count` of them, each of at least `record_bytes` bytes. */
enum lq_status lq_imatrix_get_entries(struct lq_imatrix_reader *in, uint64_t count,
                                      uint64_t record_bytes, struct lq_imatrix *out);

#endif

/* GGUF v2/v3 files: a bounded reader and a writer of headers. The reader takes any bytes and never
 * trusts a count, a length or an offset; what it returns borrows strings from the caller's memory
 * through copies in the arena, so the input may go away, except array payloads, which are copied
 * too. Data of tensors is not touched: offsets and sizes are checked against the file's size.
 * Format facts: docs/formats.md (GGUF). Limits: limits.h. Thread rule: pure, per object. */
#ifndef LQ_RULES_FORMAT_GGUF_H
#define LQ_RULES_FORMAT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "kernels/dtype.h"

enum lq_gguf_type {
    LQ_GGUF_U8 = 0,
    LQ_GGUF_I8 = 1,
    LQ_GGUF_U16 = 2,
    LQ_GGUF_I16 = 3,
    LQ_GGUF_U32 = 4,
    LQ_GGUF_I32 = 5,
    LQ_GGUF_F32 = 6,
    LQ_GGUF_BOOL = 7,
    LQ_GGUF_STRING = 8,
    LQ_GGUF_ARRAY = 9,
    LQ_GGUF_U64 = 10,
    LQ_GGUF_I64 = 11,
    LQ_GGUF_F64 = 12,
};

/* Strings may contain any byte, also NUL; one more NUL always follows the last byte. */
struct lq_gguf_string {
    const char *data;
    size_t length;
};

struct lq_gguf_value {
    enum lq_gguf_type type;
    enum lq_gguf_type element_type;       /* of an array */
    uint64_t count;                       /* elements of an array, else 1 */
    uint64_t integer;                     /* scalar integers and booleans, sign-extended */
    double number;                        /* scalar numbers, integers too */
    struct lq_gguf_string string;         /* scalar string */
    const struct lq_gguf_string *strings; /* array of strings */
    const void *elements; /* array of numbers: little-endian, packed, aligned for the type */
};

struct lq_gguf_kv {
    const char *key;
    struct lq_gguf_value value;
};

struct lq_gguf_tensor {
    const char *name;
    uint32_t dim_count;
    uint64_t ne[4]; /* ne[0] is the fastest-varying; missing dims are 1 */
    enum lq_dtype dtype;
    uint64_t offset; /* from the start of the file */
    uint64_t size_bytes;
};

struct lq_gguf {
    uint32_t version;
    uint64_t alignment;
    uint64_t data_offset; /* start of the data section; without tensors at most the file's size */
    struct lq_gguf_kv *kvs;
    size_t kv_count;
    struct lq_gguf_tensor *tensors;
    size_t tensor_count;
    /* Numbers of the keys and tensors sorted by name, which lookups search. */
    const uint32_t *kv_order;
    const uint32_t *tensor_order;
};

/* Parses the header out of the first `size_bytes` bytes of a file that is `file_bytes` long (both
 * the same for a whole file in memory). `where` names the file in messages; malformed input gives
 * `status`. When the header is longer than `size_bytes`, *need_more is true and the result is LQ_OK
 * with *out untouched (need_more may be NULL: then that is an error). */
enum lq_status lq_gguf_parse(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                             const char *where, enum lq_status status, struct lq_arena *arena,
                             struct lq_gguf *out, bool *need_more, struct lq_error *err);

const struct lq_gguf_value *lq_gguf_find(const struct lq_gguf *gguf, const char *key);
const struct lq_gguf_tensor *lq_gguf_find_tensor(const struct lq_gguf *gguf, const char *name);
/* Scalars by key with a fallback when absent or of another kind. */
uint64_t lq_gguf_get_uint(const struct lq_gguf *gguf, const char *key, uint64_t fallback);
double lq_gguf_get_number(const struct lq_gguf *gguf, const char *key, double fallback);
bool lq_gguf_get_bool(const struct lq_gguf *gguf, const char *key, bool fallback);
/* NULL when absent or not a string. */
const char *lq_gguf_get_string(const struct lq_gguf *gguf, const char *key);

/* Writing: collect keys (in order) and tensors (in order), then make the header. The caller writes
 * the header, then each tensor's data followed by zero bytes up to the alignment. Files are version
 * 3 with LQ_GGUF_ALIGNMENT, so a key "general.alignment" is dropped. */
struct lq_gguf_writer {
    struct lq_buffer kvs;
    struct lq_buffer infos;
    uint64_t kv_count;
    uint64_t tensor_count;
    uint64_t data_bytes; /* size of the data section so far, padded */
};
enum { LQ_GGUF_ALIGNMENT = 32, LQ_GGUF_NAME_BYTES_MAX = 63 };
void lq_gguf_writer_init(struct lq_gguf_writer *writer);
void lq_gguf_writer_fini(struct lq_gguf_writer *writer);
void lq_gguf_put_uint(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type,
                      uint64_t value);
void lq_gguf_put_u32(struct lq_gguf_writer *writer, const char *key, uint32_t value);
void lq_gguf_put_f32(struct lq_gguf_writer *writer, const char *key, float value);
void lq_gguf_put_bool(struct lq_gguf_writer *writer, const char *key, bool value);
void lq_gguf_put_string(struct lq_gguf_writer *writer, const char *key, const char *text);
void lq_gguf_put_strings(struct lq_gguf_writer *writer, const char *key,
                         const struct lq_gguf_string *strings, uint64_t count);
/* Numbers other than strings, packed little-endian. */
void lq_gguf_put_array(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type,
                       const void *elements, uint64_t count);
/* A key and value as read. */
void lq_gguf_put_value(struct lq_gguf_writer *writer, const char *key,
                       const struct lq_gguf_value *value);
/* LQ_EFORMAT when the name is longer than LQ_GGUF_NAME_BYTES_MAX. */
enum lq_status lq_gguf_put_tensor(struct lq_gguf_writer *writer, const char *name,
                                  enum lq_dtype dtype, uint32_t dim_count, const uint64_t ne[4],
                                  struct lq_error *err);
/* Appends magic, counts, keys, infos and the padding before the data section (none without
 * tensors). The result is parsed again: what the reader would refuse, for example a key that was
 * put twice, is LQ_EFORMAT here. */
enum lq_status lq_gguf_writer_header(const struct lq_gguf_writer *writer, struct lq_buffer *out,
                                     struct lq_error *err);

#endif

/* JSON in and out. Reading uses cJSON behind checks that it lacks: a size limit, a depth limit, no
 * duplicate keys in one object, nothing after the value. Writing is our own, because outputs must
 * be byte-identical everywhere: fixed order, shortest number that reads back, no locale. Thread
 * rule: a document or writer belongs to one thread at a time. */
#ifndef LQ_BASE_JSON_H
#define LQ_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"

/* Parses `size_bytes` of text. `where` (a file name) starts every message. On success *out is owned
 * by the caller (cJSON_Delete). Errors: `status` for malformed text, LQ_ENOMEM. */
enum lq_status lq_json_parse(const void *data, size_t size_bytes, const char *where,
                             enum lq_status status, cJSON **out, struct lq_error *err);

/* Typed members of an object. `found` may be NULL, then the member is required. A member of the
 * wrong type or out of range is an error of `status` that names `where` and the key. */
struct lq_json_scope {
    const char *where;     /* file name for messages */
    enum lq_status status; /* status of errors */
};
enum lq_status lq_json_get_string(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, const char **out, bool *found,
                                  struct lq_error *err);
/* An integer within [min, max]; numbers beyond 2^53 are refused. */
enum lq_status lq_json_get_int(const struct lq_json_scope *scope, const cJSON *object,
                               const char *key, int64_t min, int64_t max, int64_t *out, bool *found,
                               struct lq_error *err);
/* A finite number. */
enum lq_status lq_json_get_number(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, double *out, bool *found, struct lq_error *err);
enum lq_status lq_json_get_bool(const struct lq_json_scope *scope, const cJSON *object,
                                const char *key, bool *out, bool *found, struct lq_error *err);
enum lq_status lq_json_get_array(const struct lq_json_scope *scope, const cJSON *object,
                                 const char *key, const cJSON **out, bool *found,
                                 struct lq_error *err);
enum lq_status lq_json_get_object(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, const cJSON **out, bool *found,
                                  struct lq_error *err);
/* The member as it is (case-sensitive), or NULL. JSON null counts as absent. */
const cJSON *lq_json_find(const cJSON *object, const char *key);

/* The writer appends to a buffer. Containers nest up to LQ_JSON_DEPTH_MAX. `pretty` gives two-space
 * indentation and ends lines; compact gives one line. */
struct lq_json_writer {
    struct lq_buffer *buffer;
    bool pretty;
    int depth;
    bool first;
    bool after_key;
};
void lq_json_writer_init(struct lq_json_writer *writer, struct lq_buffer *buffer, bool pretty);
void lq_json_begin_object(struct lq_json_writer *writer);
void lq_json_end_object(struct lq_json_writer *writer);
void lq_json_begin_array(struct lq_json_writer *writer);
void lq_json_end_array(struct lq_json_writer *writer);
void lq_json_key(struct lq_json_writer *writer, const char *key);
/* Invalid UTF-8 is replaced by U+FFFD, so that the output is always valid JSON. */
void lq_json_string(struct lq_json_writer *writer, const char *text);
void lq_json_string_sized(struct lq_json_writer *writer, const char *text, size_t length);
void lq_json_int(struct lq_json_writer *writer, int64_t value);
void lq_json_uint(struct lq_json_writer *writer, uint64_t value);
/* The shortest decimal that reads back as the same double; null for NaN and infinities. */
void lq_json_number(struct lq_json_writer *writer, double value);
void lq_json_bool(struct lq_json_writer *writer, bool value);
void lq_json_null(struct lq_json_writer *writer);
/* Key and value in one call. */
void lq_json_put_string(struct lq_json_writer *writer, const char *key, const char *text);
void lq_json_put_int(struct lq_json_writer *writer, const char *key, int64_t value);
void lq_json_put_number(struct lq_json_writer *writer, const char *key, double value);
void lq_json_put_bool(struct lq_json_writer *writer, const char *key, bool value);
/* Appends the shortest decimal that reads back as the same double to any text buffer. */
void lq_json_format_number(struct lq_buffer *buffer, double value);

#endif

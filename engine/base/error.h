/* One error, one sentence. Fallible functions return a status and take a `struct lq_error *` last,
 * which may be NULL. The message is lower case, has no trailing period, and names the file, the
 * field, what was expected, what was found, and what to do. The caller owns the struct; it holds no
 * pointers. Thread rule: one error belongs to one thread at a time. Limit: LQ_ERROR_BYTES. */
#ifndef LQ_BASE_ERROR_H
#define LQ_BASE_ERROR_H

#include "engine/base/compiler.h"
#include "engine/base/status.h"

enum { LQ_ERROR_BYTES = 2048 };

struct lq_error {
    enum lq_status status;
    char message[LQ_ERROR_BYTES];
};

/* Empties the error: LQ_OK and "". */
void lq_error_clear(struct lq_error *err);
/* Sets status and message (cut at the limit) and returns the status, so that a failing function can
 * end with `return lq_error_set(...)`. */
enum lq_status lq_error_set(struct lq_error *err, enum lq_status status, const char *format, ...)
    LQ_PRINTF(3, 4);
/* Puts "prefix: " before the message that is there; keeps and returns the status. */
enum lq_status lq_error_prefix(struct lq_error *err, const char *format, ...) LQ_PRINTF(2, 3);
/* Appends errno's words to a message about a system call: "format: Permission denied". ENOMEM gives
 * LQ_ENOMEM, everything else `status`. Reads errno before anything else. */
enum lq_status lq_error_errno(struct lq_error *err, enum lq_status status, const char *format, ...)
    LQ_PRINTF(3, 4);
/* The message for running out of memory while making `what`. */
enum lq_status lq_error_nomem(struct lq_error *err, const char *what);

#endif

#include "engine/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void lq_error_clear(struct lq_error *err)
{
    if (err != NULL) {
        err->status = LQ_OK;
        err->message[0] = '\0';
    }
}

enum lq_status lq_error_set(struct lq_error *err, enum lq_status status, const char *format, ...)
{
    if (err != NULL) {
        /* Through a second buffer, so that the old message may be an argument of the new one. */
        char text[LQ_ERROR_BYTES];
        va_list args;
        va_start(args, format);
        (void)vsnprintf(text, sizeof text, format, args);
        va_end(args);
        err->status = status;
        memcpy(err->message, text, sizeof text);
    }
    return status;
}

enum lq_status lq_error_prefix(struct lq_error *err, const char *format, ...)
{
    if (err == NULL) {
        return LQ_EFAIL;
    }
    char text[LQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof text) {
        size_t room = sizeof text - (size_t)used;
        (void)snprintf(text + used, room, ": %.*s", (int)room, err->message);
    }
    memcpy(err->message, text, sizeof text);
    return err->status;
}

enum lq_status lq_error_errno(struct lq_error *err, enum lq_status status, const char *format, ...)
{
    int number = errno;
    if (number == ENOMEM) {
        status = LQ_ENOMEM;
    }
    if (err != NULL) {
        char text[LQ_ERROR_BYTES];
        va_list args;
        va_start(args, format);
        int used = vsnprintf(text, sizeof text, format, args);
        va_end(args);
        if (used >= 0 && (size_t)used < sizeof text) {
            char reason[128] = "";
            if (strerror_r(number, reason, sizeof reason) != 0) {
                (void)snprintf(reason, sizeof reason, "error %d", number);
            }
            (void)snprintf(text + used, sizeof text - (size_t)used, ": %s", reason);
        }
        err->status = status;
        memcpy(err->message, text, sizeof text);
    }
    return status;
}

enum lq_status lq_error_nomem(struct lq_error *err, const char *what)
{
    return lq_error_set(err, LQ_ENOMEM, "out of memory for %s", what);
}

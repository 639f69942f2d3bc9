#include "cache/http_response.h"

#include <string.h>

/* Error pages are thrown away; a server that never ends one is left. */
enum { ERROR_PAGE_BYTES_MAX = 256 * 1024 };

/* What belongs to one block of headers. */
static void forget_headers(struct lq_http_response *response)
{
    response->has_length = false;
    response->content_length = 0;
    response->encoded = false;
    response->range_fits = false;
    response->wait_seconds = 0;
    response->code[0] = '\0';
    response->next[0] = '\0';
}

void lq_http_response_begin(struct lq_http_response *response)
{
    response->status = 0;
    forget_headers(response);
    response->lacks_range = false;
    response->received = 0;
    response->over_limit = false;
    response->failed = false;
    lq_buffer_clear(&response->body);
    lq_error_clear(&response->err);
    lq_blob_abort(response->writer);
    response->writer = NULL;
}

void lq_http_response_fini(struct lq_http_response *response)
{
    lq_blob_abort(response->writer);
    response->writer = NULL;
    lq_buffer_fini(&response->body);
}

/* ---- headers ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* The value of a header of this name, without blanks around it; false for another header. */
static bool header_value(const char *line, size_t length, const char *name, const char **value,
                         size_t *value_length)
{
    size_t name_length = strlen(name);
    if (length <= name_length || line[name_length] != ':') {
        return false;
    }
    for (size_t i = 0; i < name_length; i++) {
        if (lower(line[i]) != name[i]) {
            return false;
        }
    }
    const char *begin = line + name_length + 1;
    const char *end = line + length;
    while (begin < end && (*begin == ' ' || *begin == '\t')) {
        begin++;
    }
    while (end > begin && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    *value = begin;
    *value_length = (size_t)(end - begin);
    return true;
}

static bool names_zstd(const char *value, size_t length)
{
    for (size_t i = 0; i + 4 <= length; i++) {
        if (lower(value[i]) == 'z' && lower(value[i + 1]) == 's' && lower(value[i + 2]) == 't' &&
            lower(value[i + 3]) == 'd') {
            return true;
        }
    }
    return false;
}

/* "HTTP/1.1 200 OK", "HTTP/2 404": a new block of headers begins. */
static bool read_status(struct lq_http_response *response, const char *line, size_t length)
{
    const char *blank = memchr(line, ' ', length);
    size_t at = blank == NULL ? length : (size_t)(blank - line) + 1;
    unsigned status = 0;
    for (int i = 0; i < 3; i++, at++) {
        if (at >= length || line[at] < '0' || line[at] > '9') {
            return false;
        }
        status = status * 10 + (unsigned)(line[at] - '0');
    }
    if (status < 100 || (at < length && line[at] != ' ')) {
        return false;
    }
    response->status = status;
    forget_headers(response);
    return true;
}

/* The digits at the beginning; how many there are, 0 when the number does not fit either. */
static size_t read_number(const char *text, size_t length, uint64_t *number)
{
    size_t i = 0;
    *number = 0;
    for (; i < length && text[i] >= '0' && text[i] <= '9'; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (*number > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        *number = *number * 10 + digit;
    }
    return i;
}

static bool read_length(struct lq_http_response *response, const char *value, size_t length)
{
    uint64_t size_bytes = 0;
    bool is_number = length > 0 && read_number(value, length, &size_bytes) == length;
    if (!is_number || (response->has_length && response->content_length != size_bytes)) {
        return false;
    }
    response->has_length = true;
    response->content_length = size_bytes;
    return true;
}

/* "bytes 100-199/200" when the bytes from 100 on were asked for. */
static void read_range(struct lq_http_response *response, const char *value, size_t length)
{
    static const char unit[] = "bytes ";
    uint64_t first = 0;
    size_t skip = sizeof unit - 1;
    size_t digits = length > skip && memcmp(value, unit, skip) == 0
                        ? read_number(value + skip, length - skip, &first)
                        : 0;
    response->range_fits = digits > 0 && skip + digits < length && value[skip + digits] == '-' &&
                           first == response->range_from;
}

/* Seconds as in Retry-After, or behind a mark in another header; a date counts as nothing said. */
static void read_wait(struct lq_http_response *response, const char *value, size_t length)
{
    enum { WAIT_SECONDS_MAX = 1 << 30 };
    uint64_t seconds = 0;
    if (read_number(value, length, &seconds) > 0) {
        response->wait_seconds = seconds > WAIT_SECONDS_MAX ? WAIT_SECONDS_MAX : (unsigned)seconds;
    }
}

/* What follows the mark within the value; NULL when it is not there. */
static const char *find_mark(const char *value, size_t length, const char *mark)
{
    size_t size = strlen(mark);
    for (size_t i = 0; i + size <= length; i++) {
        if (memcmp(value + i, mark, size) == 0) {
            return value + i + size;
        }
    }
    return NULL;
}

/* RFC 8288, as lists in pages use it: <URL>; rel="next". False for a URL that has no room. */
static bool read_link(struct lq_http_response *response, const char *value, size_t length)
{
    const char *end = length > 0 && value[0] == '<' ? memchr(value, '>', length) : NULL;
    if (end == NULL || find_mark(end, length - (size_t)(end - value), "rel=\"next\"") == NULL) {
        return true;
    }
    size_t size = (size_t)(end - value) - 1;
    if (size >= sizeof response->next || memchr(value, '\0', length) != NULL) {
        response->over_limit = true;
        return false;
    }
    memcpy(response->next, value + 1, size);
    response->next[size] = '\0';
    return true;
}

/* Headers that only some requests ask about. */
static bool read_other(struct lq_http_response *response, const char *line, size_t length)
{
    const char *value = NULL;
    size_t value_length = 0;
    if (header_value(line, length, "content-range", &value, &value_length)) {
        read_range(response, value, value_length);
    } else if (header_value(line, length, "retry-after", &value, &value_length)) {
        read_wait(response, value, value_length);
    } else if (header_value(line, length, "ratelimit", &value, &value_length)) {
        /* IETF draft "RateLimit header fields": t is what is left of the time window. */
        const char *left = find_mark(value, value_length, ";t=");
        if (response->status == 429 && response->wait_seconds == 0 && left != NULL) {
            read_wait(response, left, value_length - (size_t)(left - value));
        }
    } else if (header_value(line, length, "link", &value, &value_length)) {
        return read_link(response, value, value_length);
    } else if (header_value(line, length, "x-error-code", &value, &value_length) &&
               value_length < sizeof response->code && memchr(value, '\0', value_length) == NULL) {
        memcpy(response->code, value, value_length);
        response->code[value_length] = '\0';
    }
    return true;
}

bool lq_http_response_header(struct lq_http_response *response, const char *line, size_t length)
{
    const char *value = NULL;
    size_t value_length = 0;
    while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) {
        length--;
    }
    if (length >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        return read_status(response, line, length);
    }
    if (header_value(line, length, "content-length", &value, &value_length)) {
        return read_length(response, value, value_length);
    }
    if (header_value(line, length, "content-encoding", &value, &value_length)) {
        bool identity = value_length == 8 && memcmp(value, "identity", 8) == 0;
        response->encoded = value_length > 0 && !identity;
    } else if (header_value(line, length, "accept-encoding", &value, &value_length)) {
        /* RFC 7694: what may stand in a request. */
        response->takes_zstd = response->takes_zstd || names_zstd(value, value_length);
    } else {
        return read_other(response, line, length);
    }
    return true;
}

/* ---- body ---- */

static bool is_success(const struct lq_http_response *response)
{
    return response->status >= 200 && response->status < 300;
}

static bool fail(struct lq_http_response *response, enum lq_status status)
{
    response->failed = response->failed || status != LQ_OK;
    return status == LQ_OK;
}

/* Part of a file was asked for, and what came is no such part. */
static bool misses_range(const struct lq_http_response *response)
{
    return response->range_from > 0 && response->wants_body && is_success(response) &&
           !(response->status == 206 && response->range_fits);
}

bool lq_http_response_body(struct lq_http_response *response, const void *data, size_t size_bytes)
{
    bool keeps = is_success(response) && response->wants_body;
    if (misses_range(response)) {
        return false;
    }
    uint64_t max = !keeps                     ? (uint64_t)ERROR_PAGE_BYTES_MAX
                   : response->digest != NULL ? response->size_bytes
                                              : response->size_max;
    if (response->failed || size_bytes > max - response->received) {
        response->over_limit = true;
        return false;
    }
    response->received += size_bytes;
    if (!keeps || size_bytes == 0) {
        return true;
    }
    if (response->take != NULL) {
        bool goes_on = response->take(response->take_user, data, size_bytes, &response->err);
        response->failed = response->failed || !goes_on;
        return goes_on;
    }
    if (response->digest == NULL) {
        lq_buffer_append(&response->body, data, size_bytes);
        return fail(response,
                    response->body.failed ? lq_error_nomem(&response->err, "an answer") : LQ_OK);
    }
    if (response->writer == NULL &&
        !fail(response, lq_blob_begin(response->cache, &response->writer, &response->err))) {
        return false;
    }
    return fail(response, lq_blob_write(response->writer, data, size_bytes, &response->err));
}

/* ---- the end ---- */

static enum lq_http_outcome end_blob(struct lq_http_response *response)
{
    bool same = false;
    if (response->received != response->size_bytes) {
        return LQ_HTTP_TRUNCATED;
    }
    if (response->writer == NULL &&
        !fail(response, lq_blob_begin(response->cache, &response->writer, &response->err))) {
        return LQ_HTTP_LOCAL;
    }
    struct lq_blob_writer *writer = response->writer;
    response->writer = NULL;
    if (!fail(response, lq_blob_commit_as(writer, response->digest, &same, &response->err))) {
        return LQ_HTTP_LOCAL;
    }
    return same ? LQ_HTTP_OK : LQ_HTTP_ALTERED;
}

enum lq_http_outcome lq_http_response_end(struct lq_http_response *response, bool complete)
{
    unsigned status = response->status;
    if (response->failed) {
        return LQ_HTTP_LOCAL;
    }
    if (status == 404 || status == 410 || (status == 204 && response->wants_body)) {
        return LQ_HTTP_MISSING;
    }
    if (status == 401 || status == 403) {
        return LQ_HTTP_DENIED;
    }
    if (status < 200 || status >= 500 || status == 429 || status == 408) {
        return LQ_HTTP_BROKEN;
    }
    response->lacks_range = misses_range(response);
    if (status >= 300 || response->lacks_range || (status == 206 && response->range_from == 0)) {
        return LQ_HTTP_REFUSED;
    }
    if (response->over_limit && response->wants_body) {
        return LQ_HTTP_ALTERED;
    }
    bool cut = response->wants_body && response->has_length && !response->encoded &&
               response->received != response->content_length;
    if (!complete || cut) {
        return LQ_HTTP_TRUNCATED;
    }
    if (!response->wants_body || response->digest == NULL) {
        return LQ_HTTP_OK;
    }
    return end_blob(response);
}

/* What a server may say: header lines up to an empty one, then a body that arrives in odd pieces.
 * The first byte chooses what was asked for. */
#include <stdlib.h>
#include <string.h>

#include "cache/http_response.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool take(void *user, const void *data, size_t size, struct lq_error *err)
{
    size_t *taken = user;
    (void)data;
    (void)err;
    *taken += size;
    return true;
}

static void play(struct lq_http_response *response, const char *at, size_t size, bool complete)
{
    bool goes_on = true;
    lq_http_response_begin(response);
    while (size > 0 && goes_on && *at != '\r') {
        const char *newline = memchr(at, '\n', size);
        size_t length = newline == NULL ? size : (size_t)(newline - at) + 1;
        char *line = malloc(length); /* exactly as long, so that a byte too far is found */
        if (line == NULL) {
            return;
        }
        memcpy(line, at, length);
        goes_on = lq_http_response_header(response, line, length);
        free(line);
        at += length;
        size -= length;
    }
    for (size_t step = 1; size > 0 && goes_on; step = step * 3 + 1) {
        size_t taken = step < size ? step : size;
        goes_on = lq_http_response_body(response, at, taken);
        at += taken;
        size -= taken;
    }
    enum lq_http_outcome outcome = lq_http_response_end(response, complete && goes_on);
    bool is_success = response->status >= 200 && response->status < 300;
    if (memchr(response->next, '\0', sizeof response->next) == NULL ||
        memchr(response->code, '\0', sizeof response->code) == NULL ||
        (response->take != NULL && *(size_t *)response->take_user > 2 * response->size_max) ||
        (outcome == LQ_HTTP_OK && response->wants_body && response->range_from > 0 &&
         (response->status != 206 || !response->range_fits))) {
        abort();
    }
    if ((outcome == LQ_HTTP_OK) != (outcome == LQ_HTTP_OK && is_success && goes_on && complete) ||
        (response->wants_body && outcome == LQ_HTTP_OK && response->digest == NULL &&
         response->body.size_bytes > response->size_max) ||
        (outcome == LQ_HTTP_OK && response->digest != NULL)) {
        abort(); /* no body here has the digest that is asked for */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct lq_digest wanted = {{1, 2, 3}};
    if (size == 0) {
        return 0;
    }
    struct lq_http_response response = {.wants_body = (data[0] & 1) != 0, .size_max = 100};
    if ((data[0] & 2) != 0) {
        /* A size that nothing reaches: the cache is never touched. */
        response.digest = &wanted;
        response.size_bytes = 0;
        response.wants_body = true;
    }
    if (response.digest != NULL && size > 1 && memchr(data, '2', size) != NULL) {
        response.digest = NULL;
    }
    size_t taken = 0;
    if ((data[0] & 8) != 0 && response.digest == NULL) {
        /* The rest of a file. */
        response.wants_body = true;
        response.take = take;
        response.take_user = &taken;
        response.range_from = 7;
    }
    play(&response, (const char *)data + 1, size - 1, (data[0] & 4) != 0);
    play(&response, (const char *)data + 1, size - 1, true);
    lq_http_response_fini(&response);
    return 0;
}

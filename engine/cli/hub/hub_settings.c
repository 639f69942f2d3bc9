#include "engine/cli/hub/hub_settings.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/text.h"

enum { TOKEN_BYTES_MAX = 4096, TIMEOUT_SECONDS = 30, TIMEOUT_SECONDS_MAX = 3600 };

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text <= ' ' || *text > '~') {
            return false;
        }
    }
    return true;
}

static enum lq_status load_endpoint(struct lq_hub_settings *settings, struct lq_arena *arena,
                                    struct lq_error *err)
{
    const char *given = variable("HF_ENDPOINT");
    const char *endpoint = given == NULL ? "https://huggingface.co" : given;
    size_t length = strlen(endpoint);
    while (length > 0 && endpoint[length - 1] == '/') {
        length--;
    }
    const char *host = strstr(endpoint, "://");
    bool is_web =
        lq_text_starts_with(endpoint, "https://") || lq_text_starts_with(endpoint, "http://");
    if (!is_web || host + 3 >= endpoint + length || !is_printable(endpoint) ||
        strpbrk(endpoint, "?#") != NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "HF_ENDPOINT is '%s', expected the URL of a hub such as "
                            "https://huggingface.co",
                            endpoint);
    }
    settings->endpoint = lq_arena_dup(arena, endpoint, length);
    return settings->endpoint == NULL ? lq_error_nomem(err, "a URL") : LQ_OK;
}

/* The first line without blanks around it. */
static enum lq_status set_token(struct lq_hub_settings *settings, const char *text,
                                const char *where, struct lq_arena *arena, struct lq_error *err)
{
    text += strspn(text, " \t\r\n");
    size_t length = strcspn(text, "\r\n");
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t')) {
        length--;
    }
    settings->token = length == 0 ? NULL : lq_arena_dup(arena, text, length);
    if (length > 0 && settings->token == NULL) {
        return lq_error_nomem(err, "a token");
    }
    /* What it is stays out of the message. */
    return settings->token == NULL || is_printable(settings->token)
               ? LQ_OK
               : lq_error_set(err, LQ_EUSAGE,
                              "%s holds what is no token, expected letters and digits", where);
}

static enum lq_status load_token(struct lq_hub_settings *settings, struct lq_arena *arena,
                                 struct lq_error *err)
{
    static const struct {
        const char *variable;
        const char *below;
    } places[] = {{"HF_TOKEN_PATH", ""},
                  {"HF_HOME", "/token"},
                  {"XDG_CACHE_HOME", "/huggingface/token"},
                  {"HOME", "/.cache/huggingface/token"}};
    const char *token = variable("HF_TOKEN");
    if (token != NULL) {
        return set_token(settings, token, "HF_TOKEN", arena, err);
    }
    const char *path = NULL;
    for (size_t i = 0; i < LQ_COUNT_OF(places) && path == NULL; i++) {
        const char *value = variable(places[i].variable);
        if (value != NULL) {
            path = lq_arena_printf(arena, "%s%s", value, places[i].below);
            if (path == NULL) {
                return lq_error_nomem(err, "a path");
            }
        }
    }
    if (path == NULL || !lq_path_exists(path)) {
        return LQ_OK;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_file_read(path, TOKEN_BYTES_MAX, &text, err);
    if (status == LQ_OK) {
        status = set_token(settings, lq_buffer_text(&text), path, arena, err);
    }
    lq_buffer_fini(&text);
    return status;
}

static bool is_true(const char *name)
{
    static const char *const yes[] = {"1", "on", "yes", "true"};
    const char *value = variable(name);
    for (size_t i = 0; value != NULL && i < LQ_COUNT_OF(yes); i++) {
        if (lq_text_equal_nocase(value, yes[i])) {
            return true;
        }
    }
    return false;
}

enum lq_status lq_hub_settings_load(struct lq_hub_settings *settings, struct lq_arena *arena,
                                    struct lq_error *err)
{
    const char *timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT");
    *settings = (struct lq_hub_settings){
        .ca_file = variable("SSL_CERT_FILE"),
        .timeout_seconds = TIMEOUT_SECONDS,
        .is_offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
    };
    if (timeout != NULL) {
        char *end = NULL;
        unsigned long seconds = strtoul(timeout, &end, 10);
        if (*end != '\0' || seconds == 0 || seconds > TIMEOUT_SECONDS_MAX) {
            return lq_error_set(err, LQ_EUSAGE,
                                "HF_HUB_DOWNLOAD_TIMEOUT is '%s', expected 1 to %d seconds",
                                timeout, TIMEOUT_SECONDS_MAX);
        }
        settings->timeout_seconds = (unsigned)seconds;
    }
    enum lq_status status = load_endpoint(settings, arena, err);
    return status == LQ_OK ? load_token(settings, arena, err) : status;
}

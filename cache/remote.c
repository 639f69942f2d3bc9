#include "cache/remote.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/remote_internal.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "engine/base/text.h"

/* ---- URLs ---- */

enum { URL_BYTES_MAX = 2048 };

static enum lq_status check_url(const char *url, const char *name, struct lq_error *err)
{
    size_t length = strlen(url);
    bool known = lq_text_starts_with(url, "http://") || lq_text_starts_with(url, "https://");
    const char *why = NULL;
    if (!known) {
        why = "it must begin with https:// or http://";
    } else if (length > URL_BYTES_MAX) {
        why = "it is too long";
    } else if (strcspn(strstr(url, "://") + 3, "/") == 0) {
        why = "it names no host";
    }
    for (size_t i = 0; i < length && why == NULL; i++) {
        unsigned char c = (unsigned char)url[i];
        if (c <= ' ' || c >= 0x7f || strchr("?#\"<>\\^`{|}", c) != NULL) {
            why = "it has a character that cannot stand in the address of a cache";
        }
    }
    return why == NULL ? LQ_OK
                       : lq_error_set(err, LQ_EUSAGE, "remote '%s': bad url: %s", name, why);
}

/* Passwords are not for messages. */
static char *hide_password(const char *url)
{
    const char *host = strstr(url, "://") + 3;
    size_t span = strcspn(host, "/");
    const char *at = NULL;
    for (size_t i = 0; i < span; i++) {
        at = host[i] == '@' ? host + i : at;
    }
    size_t length = strlen(url);
    char *shown = malloc(length + 1);
    if (shown != NULL && at != NULL) {
        (void)snprintf(shown, length + 1, "%.*s%s", (int)(host - url), url, at + 1);
    } else if (shown != NULL) {
        memcpy(shown, url, length + 1);
    }
    return shown;
}

/* ---- open and close ---- */

static enum lq_status init_site(struct lq_site *site, const struct lq_remote_site *options,
                                struct lq_error *err)
{
    enum lq_status status = check_url(options->url, options->name, err);
    site->options = *options;
    (void)pthread_mutex_init(&site->mutex, NULL);
    if (status != LQ_OK) {
        return status;
    }
    site->base = strdup(options->url);
    site->shown = hide_password(options->url);
    if (site->base == NULL || site->shown == NULL) {
        return lq_error_nomem(err, "a remote");
    }
    for (size_t length = strlen(site->base); length > 0 && site->base[length - 1] == '/';) {
        site->base[--length] = '\0';
    }
    atomic_store(&site->writes_off, !options->writes);
    atomic_store(&site->takes_zstd, options->compression == LQ_COMPRESS_ZSTD);
    return LQ_OK;
}

enum lq_status lq_remote_open(struct lq_remote **out, const struct lq_remote_options *options,
                              struct lq_error *err)
{
    *out = NULL;
    struct lq_remote *remote = calloc(1, sizeof *remote);
    if (remote == NULL) {
        return lq_error_nomem(err, "a remote");
    }
    remote->options = *options;
    (void)pthread_mutex_init(&remote->mutex, NULL);
    remote->sites = calloc(options->site_count + 1, sizeof *remote->sites);
    enum lq_status status = remote->sites == NULL ? lq_error_nomem(err, "a remote") : LQ_OK;
    unsigned connections = 1;
    for (size_t i = 0; i < options->site_count && status == LQ_OK; i++) {
        unsigned wanted = options->sites[i].connections;
        connections = wanted > connections ? wanted : connections;
        remote->site_count++;
        status = init_site(&remote->sites[i], &options->sites[i], err);
    }
    if (status == LQ_OK) {
        status = lq_pool_create(&remote->downloads, connections, err);
    }
    if (status == LQ_OK) {
        status = lq_pool_create(&remote->uploads, (connections + 1) / 2, err);
    }
    if (status != LQ_OK) {
        lq_remote_close(remote);
        return status;
    }
    *out = remote;
    return LQ_OK;
}

void lq_remote_close(struct lq_remote *remote)
{
    if (remote == NULL) {
        return;
    }
    lq_pool_destroy(remote->downloads);
    lq_pool_destroy(remote->uploads);
    while (remote->idle != NULL) {
        struct lq_connection *next = remote->idle->next;
        lq_http_close(remote->idle->http);
        free(remote->idle);
        remote->idle = next;
    }
    for (size_t i = 0; i < remote->site_count; i++) {
        struct lq_site *site = &remote->sites[i];
        free(site->base);
        free(site->shown);
        lq_digest_set_fini(&site->has);
        lq_digest_set_fini(&site->bad);
        (void)pthread_mutex_destroy(&site->mutex);
    }
    free(remote->sites);
    (void)pthread_mutex_destroy(&remote->mutex);
    free(remote);
}

/* ---- questions ---- */

struct lq_pool *lq_remote_pool(struct lq_remote *remote, bool uploads)
{
    return uploads ? remote->uploads : remote->downloads;
}

bool lq_remote_can_get(struct lq_remote *remote)
{
    for (size_t i = 0; i < remote->site_count; i++) {
        if (!atomic_load(&remote->sites[i].reads_off)) {
            return !lq_remote_cancelled(remote);
        }
    }
    return false;
}

bool lq_remote_can_put(struct lq_remote *remote)
{
    for (size_t i = 0; i < remote->site_count; i++) {
        struct lq_site *site = &remote->sites[i];
        bool counts = remote->options.sign_key != NULL || site->options.trust_unsigned;
        if (!atomic_load(&site->writes_off) && !counts) {
            lq_remote_warn(remote, site, LQ_WARN_UPLOAD,
                           "results are not sent there, because there is no key to sign them "
                           "with; 'lqbuild key generate NAME' makes one");
            atomic_store(&site->writes_off, true);
        }
        if (!atomic_load(&site->writes_off)) {
            return !lq_remote_cancelled(remote);
        }
    }
    return false;
}

bool lq_remote_cancelled(const struct lq_remote *remote)
{
    return remote->options.cancel != NULL && atomic_load(remote->options.cancel);
}

/* ---- counts and warnings ---- */

void lq_remote_count(struct lq_remote *remote, uint64_t *count, uint64_t by)
{
    (void)pthread_mutex_lock(&remote->mutex);
    *count += by;
    (void)pthread_mutex_unlock(&remote->mutex);
}

void lq_remote_counts_get(struct lq_remote *remote, struct lq_remote_counts *out)
{
    (void)pthread_mutex_lock(&remote->mutex);
    *out = remote->counts;
    (void)pthread_mutex_unlock(&remote->mutex);
}

void lq_remote_warn(struct lq_remote *remote, struct lq_site *site, enum lq_remote_warning kind,
                    const char *format, ...)
{
    if (remote->options.warn == NULL || atomic_exchange(&site->warned[kind], true)) {
        return;
    }
    char text[LQ_ERROR_BYTES / 2];
    char message[LQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)snprintf(message, sizeof message, "%s (%s): %s", site->options.name, site->shown, text);
    remote->options.warn(remote->options.warn_user, message);
}

/* ---- what a site has ---- */

bool lq_site_knows(struct lq_site *site, struct lq_digest_set *set, const struct lq_digest *digest)
{
    (void)pthread_mutex_lock(&site->mutex);
    bool known = lq_digest_set_has(set, digest);
    (void)pthread_mutex_unlock(&site->mutex);
    return known;
}

void lq_site_learn(struct lq_site *site, struct lq_digest_set *set, const struct lq_digest *digest)
{
    (void)pthread_mutex_lock(&site->mutex);
    (void)lq_digest_set_add(set, digest, NULL);
    (void)pthread_mutex_unlock(&site->mutex);
}

/* Look-ups and downloads. */
#include <stdlib.h>
#include <string.h>

#include "cache/actionresult.h"
#include "cache/layout.h"
#include "cache/remote_internal.h"
#include "cache/result.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"

/* ---- objects ---- */

static bool has_blob(struct lq_remote *remote, const struct lq_digest *digest, uint64_t size_bytes)
{
    uint64_t stored_bytes = 0;
    return lq_blob_exists(remote->options.cache, digest, &stored_bytes) &&
           stored_bytes == size_bytes;
}

/* Fetches one object from the first site that has it right, beginning with the one that had the
 * result: what a digest names is the same everywhere. */
static bool get_object(struct lq_remote *remote, size_t first_site, const struct lq_digest *digest,
                       uint64_t size_bytes)
{
    if (has_blob(remote, digest, size_bytes)) {
        return true;
    }
    bool got = false;
    for (size_t i = 0; i < remote->site_count && !got && !lq_remote_cancelled(remote); i++) {
        struct lq_site *site = &remote->sites[(first_site + i) % remote->site_count];
        struct lq_http_request request = {.method = LQ_HTTP_GET};
        struct lq_http_response response = {
            .digest = digest, .size_bytes = size_bytes, .cache = remote->options.cache};
        if (atomic_load(&site->reads_off)) {
            continue;
        }
        enum lq_http_outcome outcome =
            lq_site_request(remote, site, &request, &response, "cas", digest);
        got = outcome == LQ_HTTP_OK;
        if (got) {
            lq_site_learn(site, &site->has, digest);
        } else if (outcome == LQ_HTTP_ALTERED || outcome == LQ_HTTP_TRUNCATED) {
            lq_site_learn(site, &site->bad, digest);
        }
        lq_http_response_fini(&response);
    }
    return got;
}

/* Fetches an object into memory. */
static bool get_text(struct lq_remote *remote, size_t first_site, const struct lq_digest *digest,
                     uint64_t size_bytes, struct lq_buffer *out)
{
    for (size_t i = 0; i < remote->site_count && !lq_remote_cancelled(remote); i++) {
        struct lq_site *site = &remote->sites[(first_site + i) % remote->site_count];
        struct lq_http_request request = {.method = LQ_HTTP_GET};
        struct lq_http_response response = {.size_max = size_bytes};
        if (atomic_load(&site->reads_off)) {
            continue;
        }
        struct lq_digest got;
        bool fine = lq_site_request(remote, site, &request, &response, "cas", digest) == LQ_HTTP_OK;
        if (fine) {
            lq_digest_of(response.body.data, response.body.size_bytes, &got);
            fine = response.body.size_bytes == size_bytes && lq_digest_equal(&got, digest);
            if (fine) {
                lq_buffer_append(out, response.body.data, response.body.size_bytes);
                fine = !out->failed;
            } else {
                lq_site_learn(site, &site->bad, digest);
                lq_remote_count(remote, &remote->counts.altered, 1);
                lq_remote_warn(remote, site, LQ_WARN_ALTERED,
                               "it sent bytes that do not have their digest; they are not used");
            }
        }
        lq_http_response_fini(&response);
        if (fine) {
            return true;
        }
    }
    return false;
}

/* ---- blobs in pieces ---- */

struct download {
    struct lq_remote *remote;
    size_t first_site;
    const struct lq_layout_piece **objects;
    atomic_bool failed;
};

static void download_one(void *user, size_t index)
{
    struct download *download = user;
    const struct lq_layout_piece *piece = download->objects[index];
    if (!atomic_load(&download->failed) &&
        !get_object(download->remote, download->first_site, &piece->digest, piece->size_bytes)) {
        atomic_store(&download->failed, true);
    }
}

static bool get_pieces(struct lq_remote *remote, size_t first_site, const struct lq_layout *layout,
                       const struct lq_digest *digest)
{
    struct download download = {.remote = remote, .first_site = first_site};
    size_t count = 0;
    atomic_init(&download.failed, false);
    download.objects = calloc(layout->piece_count, sizeof *download.objects);
    if (download.objects == NULL) {
        return false;
    }
    for (size_t i = 0; i < layout->piece_count; i++) {
        const struct lq_layout_piece *piece = &layout->pieces[i];
        bool whole = has_blob(remote, &piece->digest, piece->size_bytes);
        if (whole) {
            i += piece->object_count;
        } else if (piece->object_count == 0) {
            download.objects[count++] = piece;
        }
    }
    lq_pool_for(remote->downloads, count, download_one, &download);
    free(download.objects);
    bool good = false;
    struct lq_error err;
    enum lq_status status = atomic_load(&download.failed)
                                ? LQ_OK
                                : lq_layout_assemble(remote->options.cache, layout, digest,
                                                     remote->options.cancel, &good, &err);
    if (status == LQ_ECANCELLED) {
        return false;
    }
    if (status != LQ_OK) {
        lq_remote_count(remote, &remote->counts.errors, 1);
        lq_remote_warn(remote, &remote->sites[first_site], LQ_WARN_ERROR, "%s", err.message);
    } else if (!atomic_load(&download.failed) && !good) {
        lq_remote_count(remote, &remote->counts.altered, 1);
        lq_remote_warn(remote, &remote->sites[first_site], LQ_WARN_ALTERED,
                       "the pieces of an output do not add up to it; they are not used");
    }
    return good;
}

static bool get_blob(struct lq_remote *remote, size_t first_site,
                     const struct lq_action_output *output, const struct lq_result_layout *where)
{
    if (has_blob(remote, &output->digest, output->size_bytes)) {
        return true;
    }
    if (where->size_bytes == 0) {
        return get_object(remote, first_site, &output->digest, output->size_bytes);
    }
    struct lq_buffer text;
    struct lq_layout layout = {.pieces = NULL};
    const char *why = NULL;
    lq_buffer_init(&text);
    bool got = get_text(remote, first_site, &where->digest, where->size_bytes, &text) &&
               lq_layout_decode(text.data, text.size_bytes, &layout, &why, NULL) == LQ_OK &&
               why == NULL && layout.size_bytes == output->size_bytes &&
               get_pieces(remote, first_site, &layout, &output->digest);
    if (why != NULL) {
        lq_remote_count(remote, &remote->counts.altered, 1);
        lq_remote_warn(remote, &remote->sites[first_site], LQ_WARN_ALTERED,
                       "the layout of an output is malformed: %s", why);
    }
    lq_layout_fini(&layout);
    lq_buffer_fini(&text);
    return got;
}

/* ---- results ---- */

/* Who may have said so? */
static bool is_trusted(struct lq_remote *remote, struct lq_site *site, const char *text,
                       const struct lq_result *result)
{
    char signer[LQ_KEY_NAME_BYTES];
    enum lq_trust trust = lq_result_check(text, result, &site->options.keyring, signer);
    if (trust == LQ_TRUSTED) {
        return true;
    }
    if (trust == LQ_WRONG_SIGNATURE) {
        lq_remote_count(remote, &remote->counts.bad_signatures, 1);
        lq_remote_warn(remote, site, LQ_WARN_SIGNATURE,
                       "a result has a signature that is not that of '%s'; it is ignored", signer);
        return false;
    }
    if (site->options.trust_unsigned) {
        return true;
    }
    lq_remote_count(remote, &remote->counts.untrusted, 1);
    if (signer[0] == '\0') {
        lq_remote_warn(remote, site, LQ_WARN_UNTRUSTED,
                       "a result is not signed; it is ignored (--trust-unsigned takes it)");
    } else {
        lq_remote_warn(remote, site, LQ_WARN_UNTRUSTED,
                       "a result is signed by '%s', whom you do not trust; it is ignored "
                       "('lqbuild key trust' takes the key of somebody you know)",
                       signer);
    }
    return false;
}

static bool decode(struct lq_remote *remote, struct lq_site *site, const struct lq_buffer *body,
                   const struct lq_digest *key, struct lq_arena *arena, struct lq_result *result)
{
    struct lq_actionresult message;
    const char *why = NULL;
    if (lq_actionresult_decode(body->data, body->size_bytes, &message, &why) &&
        message.text == NULL) {
        why = "it is not one of lqbuild's";
    }
    if (why == NULL &&
        lq_result_decode(message.text, message.text_bytes, arena, result, &why, NULL) != LQ_OK) {
        why = "memory is out";
    }
    if (why == NULL && result->size_bytes != message.text_bytes) {
        why = "something stands behind its end";
    }
    if (why != NULL) {
        lq_remote_count(remote, &remote->counts.altered, 1);
        lq_remote_warn(remote, site, LQ_WARN_ALTERED, "a result is malformed: %s; it is ignored",
                       why);
        return false;
    }
    if (!lq_digest_equal(&result->key, key)) {
        lq_remote_count(remote, &remote->counts.bad_signatures, 1);
        lq_remote_warn(remote, site, LQ_WARN_SIGNATURE,
                       "a result was signed for another key than the one it is stored under; it is "
                       "ignored");
        return false;
    }
    return is_trusted(remote, site, message.text, result);
}

/* *missing: the site said that it has none, which is no trouble. */
static bool find_result(struct lq_remote *remote, size_t index, const struct lq_digest *key,
                        struct lq_arena *arena, struct lq_result *result, bool *missing)
{
    struct lq_site *site = &remote->sites[index];
    struct lq_http_request request = {.method = LQ_HTTP_GET};
    struct lq_http_response response = {.size_max = LQ_RESULT_BYTES_MAX};
    enum lq_http_outcome outcome = LQ_HTTP_CANCELLED;
    if (!atomic_load(&site->reads_off)) {
        outcome = lq_site_request(remote, site, &request, &response, "ac", key);
    }
    bool found = outcome == LQ_HTTP_OK && decode(remote, site, &response.body, key, arena, result);
    *missing = outcome == LQ_HTTP_MISSING;
    lq_http_response_fini(&response);
    return found;
}

static bool is_listed(const struct lq_digest *digest, const struct lq_digest *listed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (lq_digest_equal(&listed[i], digest)) {
            return true;
        }
    }
    return false;
}

static bool get_content(struct lq_remote *remote, size_t site, const struct lq_result *result,
                        enum lq_remote_want want, const struct lq_digest *listed,
                        size_t listed_count)
{
    for (size_t i = 0; i < result->record.output_count && want != LQ_REMOTE_RECORD; i++) {
        const struct lq_action_output *output = &result->record.outputs[i];
        bool wanted = want == LQ_REMOTE_ALL ? !output->transient
                                            : is_listed(&output->digest, listed, listed_count);
        if (wanted && !get_blob(remote, site, output, &result->layouts[i])) {
            return false;
        }
    }
    return true;
}

bool lq_remote_get(struct lq_remote *remote, const struct lq_digest *key, enum lq_remote_want want,
                   const struct lq_digest *listed, size_t listed_count)
{
    bool got = false;
    bool missing = false;
    for (size_t i = 0; i < remote->site_count && !got && !lq_remote_cancelled(remote); i++) {
        bool missing_here = false;
        struct lq_arena arena;
        struct lq_result result;
        struct lq_error err;
        lq_arena_init(&arena);
        bool found = find_result(remote, i, key, &arena, &result, &missing_here);
        if (found && !get_content(remote, i, &result, want, listed, listed_count)) {
            missing_here = true; /* a result that has lost a part */
        } else if (found) {
            got = lq_action_put(remote->options.cache, key, &result.record, NULL, NULL, &err) ==
                  LQ_OK;
            if (!got) {
                lq_remote_count(remote, &remote->counts.errors, 1);
                lq_remote_warn(remote, &remote->sites[i], LQ_WARN_ERROR, "%s", err.message);
            }
        }
        missing = missing || missing_here;
        lq_arena_fini(&arena);
    }
    /* Trouble has been counted by its own name. */
    lq_remote_count(remote, &remote->counts.hits, got && want != LQ_REMOTE_LISTED ? 1 : 0);
    lq_remote_count(remote, &remote->counts.misses, missing && !got ? 1 : 0);
    return got;
}

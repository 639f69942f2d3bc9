/* Asks the Hugging Face hub, or what speaks like it: which commit a revision is, which files a
 * folder has, and their bytes. Requests that fail for a passing reason are repeated with growing
 * pauses, as long as the server asks for if it says so. The token goes to the endpoint's own host
 * and to no other (cache/http.h). Every message names the repository and what to do. Ownership: the
 * client owns its connections; options are borrowed. Thread rule: any thread; each request uses a
 * connection of its own. Limits: LQ_HUB_PAGES_MAX, LQ_HUB_PAGE_BYTES_MAX. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_CLIENT_H
#define LQ_ENGINE_CLI_HUB_HUB_CLIENT_H

#include <stdatomic.h>

#include "cache/http_response.h"
#include "engine/cli/hub/hub_listing.h"
#include "rules/model/hub_cache.h"

struct lq_hub;

struct lq_hub_options {
    const char *endpoint; /* "https://huggingface.co", without a slash at its end */
    const char *token;    /* NULL: none */
    const char *ca_file;  /* PEM; NULL: the system's list */
    unsigned timeout_seconds;
    atomic_bool *cancel;
};

/* LQ_EUNSUPPORTED when libcurl is not there; LQ_ENOMEM. */
enum lq_status lq_hub_open(struct lq_hub **out, const struct lq_hub_options *options,
                           struct lq_error *err);
void lq_hub_close(struct lq_hub *hub);

/* Errors of all requests: LQ_EAUTH where a token is missing or not enough, LQ_EMODEL (models) or
 * LQ_ECALIBRATION (data sets) for what the hub does not have, LQ_EFORMAT for an answer that cannot
 * be right, LQ_EFAIL when the hub cannot be reached or does not answer well, LQ_ECANCELLED. */
enum lq_status lq_hub_find_commit(struct lq_hub *hub, const struct lq_hub_name *name,
                                  char commit[LQ_HUB_COMMIT_BYTES], struct lq_error *err);
/* The files of one folder, not those in folders below it; "" is the root. */
enum lq_status lq_hub_list(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                           const char *folder, struct lq_arena *arena,
                           struct lq_hub_listing *listing, struct lq_error *err);

/* Where the bytes of a file go. */
struct lq_hub_sink {
    uint64_t received; /* bytes that are there; the client asks for the rest and counts on */
    lq_http_take_fn take;
    /* True: do not wait for a better time. May be NULL. */
    bool (*stopped)(void *user);
    /* The server cannot go on in the middle: nothing has been received. */
    enum lq_status (*restart)(void *user, struct lq_error *err);
    void *user;
};
/* LQ_OK when as many bytes came as the file has; whether they are the right ones is for the caller
 * to see. */
enum lq_status lq_hub_read(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                           const struct lq_hub_file *file, struct lq_hub_sink *sink,
                           struct lq_error *err);

#endif

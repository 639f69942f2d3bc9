/* What the environment says about the Hugging Face hub, in the variables of the hub's own tools:
 * HF_ENDPOINT, HF_TOKEN or the file that HF_TOKEN_PATH names (else "token" in $HF_HOME,
 * $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface), HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT,
 * and SSL_CERT_FILE. Strings go to the caller's arena. Thread rule: reads the environment. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_SETTINGS_H
#define LQ_ENGINE_CLI_HUB_HUB_SETTINGS_H

#include <stdbool.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

struct lq_hub_settings {
    const char *endpoint; /* without a slash at its end */
    const char *token;    /* NULL: none */
    const char *ca_file;  /* NULL: the system's list */
    unsigned timeout_seconds;
    bool is_offline;
};

/* LQ_EUSAGE for a value that cannot be right, LQ_EIO for a token file that cannot be read. */
enum lq_status lq_hub_settings_load(struct lq_hub_settings *settings, struct lq_arena *arena,
                                    struct lq_error *err);

#endif

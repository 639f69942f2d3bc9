/* Opens what the settings say about remotes and keys: used by every command that builds or shares.
 * Keys lie in the folder `keys` of the configuration folder. LQBUILD_SECRET_KEY, when set, is the
 * key that signs. Everything but the remote lives in cli->arena. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_REMOTE_SESSION_H
#define LQ_ENGINE_CLI_REMOTE_SESSION_H

#include <stdatomic.h>

#include "cache/remote.h"
#include "engine/cli/command.h"

/* The folder of this machine's keys; LQ_EUSAGE without a home. */
enum lq_status lq_cli_key_dir(struct lq_cli *cli, const char **out, struct lq_error *err);
/* Everybody who is trusted everywhere. */
enum lq_status lq_cli_keyring(struct lq_cli *cli, struct lq_keyring *ring, struct lq_error *err);
/* The key that signs; *found false when there is none. */
enum lq_status lq_cli_sign_key(struct lq_cli *cli, struct lq_secret_key *key, bool *found,
                               struct lq_error *err);
/* *out NULL when no remote is configured. The cache must be open. The caller closes it. */
enum lq_status lq_cli_open_remote(struct lq_cli *cli, atomic_bool *cancel, struct lq_remote **out,
                                  struct lq_error *err);

#endif

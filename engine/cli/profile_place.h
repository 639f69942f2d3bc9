/* Where a profile is that a command names: a preset, a file, or a file in the user's folder of
 * profiles, $LQBUILD_PROFILE_DIR or `profiles` in the configuration folder, in which NAME is
 * NAME.dqprofile. Memory comes from cli->arena. Thread rule: the main thread. Limits:
 * PROFILES_LISTED_MAX files are listed. */
#ifndef LQ_ENGINE_CLI_PROFILE_PLACE_H
#define LQ_ENGINE_CLI_PROFILE_PLACE_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/cli/command.h"
#include "rules/profile/presets.h"

/* One of *preset and *path is NULL. LQ_EPROFILE when it is nowhere. */
enum lq_status lq_profile_place_find(struct lq_cli *cli, const char *name,
                                     const struct lq_preset **preset, const char **path,
                                     struct lq_error *err);
/* The paths of the profiles in that folder, by name; none when there is no folder. */
enum lq_status lq_profile_place_list(struct lq_cli *cli, const char *const **paths, size_t *count,
                                     struct lq_error *err);

#endif

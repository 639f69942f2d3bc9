/* Is a target reproducible? Builds it, builds it again with an empty cache in a folder that is
 * removed afterwards, and compares the digests of every step's outputs. Thread rule: the main
 * thread. */
#ifndef LQ_ENGINE_CLI_CHECK_REBUILD_H
#define LQ_ENGINE_CLI_CHECK_REBUILD_H

#include "engine/cli/command.h"

/* LQ_EFAIL when a step gave other bytes than before, with the first of them in `err`; LQ_EUSAGE for
 * an unknown target. */
enum lq_status lq_cli_check_rebuild(struct lq_cli *cli, const char *target, struct lq_error *err);

#endif

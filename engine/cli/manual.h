/* The manual page lqbuild(1) in roff, from the tables of commands, options and statuses. Thread
 * rule: pure, except for the buffer. */
#ifndef LQ_ENGINE_CLI_MANUAL_H
#define LQ_ENGINE_CLI_MANUAL_H

#include "engine/base/buffer.h"
#include "engine/cli/command.h"

void lq_cli_manual(const char *version, struct lq_buffer *out);

#endif

/* `quantize MODEL awq`: a folder with a model of 4-bit weights. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_AWQ_H
#define LQ_ENGINE_CLI_QUANTIZE_AWQ_H

#include "engine/cli/command.h"

/* Checks the options, builds, and copies the tokenizer's files beside the result. */
enum lq_status lq_quantize_awq(struct lq_cli *cli, struct lq_error *err);

#endif

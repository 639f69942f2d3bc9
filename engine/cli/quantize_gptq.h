/* `quantize MODEL gptq`: a folder with a model of weights of a few bits. Thread rule: the main
 * thread. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_GPTQ_H
#define LQ_ENGINE_CLI_QUANTIZE_GPTQ_H

#include "engine/cli/command.h"

/* Checks the options, builds, and copies the tokenizer's files beside the result. */
enum lq_status lq_quantize_gptq(struct lq_cli *cli, struct lq_error *err);

#endif

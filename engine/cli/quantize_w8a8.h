/* `quantize MODEL smoothquant`: a folder with a model of 8-bit weights and activations. Thread
 * rule: the main thread. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_W8A8_H
#define LQ_ENGINE_CLI_QUANTIZE_W8A8_H

#include "engine/cli/command.h"

/* Checks the options, builds, and copies the tokenizer's files beside the result. */
enum lq_status lq_quantize_w8a8(struct lq_cli *cli, struct lq_error *err);

#endif

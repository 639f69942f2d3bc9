/* What the attributes of a `gguf` may say, beyond what its schema tells: names of levels and of
 * types, and which attributes need each other. Thread rule: pure. */
#ifndef LQ_RULES_QUANT_GGUF_CHECK_H
#define LQ_RULES_QUANT_GGUF_CHECK_H

#include "engine/rule.h"

/* Errors: LQ_ERECIPE at the attribute, with the nearest name that there is. */
enum lq_status lq_gguf_check(const struct lq_artifact *artifact, struct lq_error *err);

#endif

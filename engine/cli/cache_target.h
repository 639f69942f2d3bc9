/* What the cache commands are given to name results: an artifact of the recipe (or its output
 * path), or a digest in hexadecimal digits. Texts live in cli->arena. Thread rule: the main thread.
 */
#ifndef LQ_ENGINE_CLI_CACHE_TARGET_H
#define LQ_ENGINE_CLI_CACHE_TARGET_H

#include "cache/upkeep.h"
#include "engine/base/digest.h"
#include "engine/cli/command.h"

struct lq_cache_target {
    const char *label; /* NULL: a digest */
    struct lq_digest digest;
};

/* 64 hexadecimal digits are a digest; fewer, at least 8, are the beginning of the key of one
 * result. Everything else is looked up in the recipe. */
enum lq_status lq_cache_target_find(struct lq_cli *cli, const char *word,
                                    struct lq_cache_target *out, struct lq_error *err);
/* The counts as one JSON object and a newline. */
void lq_cache_write_result(struct lq_buffer *out, const struct lq_gc_result *result);

#endif

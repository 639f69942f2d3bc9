/* Which files of a repository are wanted: of a model those that the rule "model" reads
 * (rules/rule_model.c), of a name with a file in it that one. Thread rule: as hub_client.h. Limits:
 * LQ_MODEL_SHARDS_MAX. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_CHOOSE_H
#define LQ_ENGINE_CLI_HUB_HUB_CHOOSE_H

#include "engine/cli/hub/hub_client.h"

struct lq_hub_choice {
    const struct lq_hub_file **files; /* the smallest first; they live in the arena */
    size_t count;
    uint64_t size_bytes; /* of all of them */
};

/* Asks for the list of files and, where there is one, the index of shards. Errors besides those of
 * the client: LQ_EMODEL for what lqbuild cannot use, said before anything large is loaded. */
enum lq_status lq_hub_choose(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                             struct lq_arena *arena, struct lq_hub_choice *out,
                             struct lq_error *err);

#endif

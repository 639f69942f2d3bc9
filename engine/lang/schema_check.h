/* Checks the attributes of artifacts against what the rules publish, converts their values, fills
 * in defaults and resolves references. Runs when every artifact of the recipe is known by name.
 * Errors go to the diagnostics; a value outside its range or choices has the status that the schema
 * gives. Thread rule: one thread. */
#ifndef LQ_ENGINE_LANG_SCHEMA_CHECK_H
#define LQ_ENGINE_LANG_SCHEMA_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/lang/evaluator.h"
#include "engine/lang/parser.h"

/* A rule with its defaults evaluated once. */
struct lq_schema {
    const struct lq_rule *rule;
    struct lq_value *defaults; /* of each attribute; NONE where there is no default */
};

struct lq_schema_check {
    struct lq_evaluator *evaluator;
    const struct lq_parse_options *parse;
    const struct lq_registry *registry;
    struct lq_recipe_sources *sources;
    const char *dir;
    struct lq_artifact *artifacts;    /* that symbols refer to; NULL before they are all known */
    const struct lq_attr_node **seen; /* scratch, as long as the longest schema */
    /* Some artifacts could not even be named: do not complain about names that are missing. */
    bool incomplete;
};

bool lq_schema_check_init(struct lq_schema_check *check, struct lq_evaluator *evaluator,
                          const struct lq_parse_options *parse, const struct lq_registry *registry,
                          const char *dir);
/* The schema of the rule of this name; NULL with a diagnostic when there is none. */
const struct lq_schema *lq_schema_get(struct lq_schema_check *check, struct lq_symbol *symbol,
                                      const struct lq_position *position);
/* Gives the artifact its values from the attributes of its declaration. */
bool lq_schema_fill(struct lq_schema_check *check, const struct lq_schema *schema,
                    struct lq_artifact *artifact, const struct lq_item *item);
/* Checks that every artifact named in a value exists. */
bool lq_schema_check_names(struct lq_schema_check *check, const struct lq_value *value);
/* The artifact that a STRING or REF value names; NULL with a diagnostic when there is none. */
struct lq_artifact *lq_schema_resolve(struct lq_schema_check *check, const struct lq_value *value);

#endif

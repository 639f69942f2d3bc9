/* The graph of artifacts as the recipe declares it, walked and drawn. Thread rule: one thread; the
 * recipe is only read. */
#ifndef LQ_ENGINE_CLI_GRAPH_H
#define LQ_ENGINE_CLI_GRAPH_H

#include <stdbool.h>

#include "engine/base/buffer.h"
#include "engine/cli/command.h"

typedef void (*lq_graph_edge_fn)(void *user, const struct lq_artifact *needed);

/* Calls `visit` for everything that an artifact refers to, in the order of its attributes. */
void lq_graph_visit_needs(const struct lq_artifact *artifact, lq_graph_edge_fn visit, void *user);
/* Marks the artifacts that the operands name, from operand number `first` on, and everything they
 * need; all of them without operands. LQ_EUSAGE for an unknown name. */
enum lq_status lq_graph_find_wanted(struct lq_cli *cli, const struct lq_recipe *recipe,
                                    size_t first, bool **wanted, struct lq_error *err);
/* LQ_EUSAGE, with a suggestion, for a name that the recipe does not have. */
enum lq_status lq_graph_find_target(const struct lq_recipe *recipe, const char *name,
                                    const struct lq_artifact **out, struct lq_error *err);

/* The artifacts with wanted[index], drawn. */
typedef enum lq_status (*lq_graph_draw_fn)(const struct lq_recipe *recipe, const bool *wanted,
                                           struct lq_buffer *out, struct lq_error *err);
enum lq_status lq_graph_draw_dot(const struct lq_recipe *recipe, const bool *wanted,
                                 struct lq_buffer *out, struct lq_error *err);
enum lq_status lq_graph_draw_mermaid(const struct lq_recipe *recipe, const bool *wanted,
                                     struct lq_buffer *out, struct lq_error *err);
enum lq_status lq_graph_draw_json(const struct lq_recipe *recipe, const bool *wanted,
                                  struct lq_buffer *out, struct lq_error *err);
/* One page with everything in it: columns by distance from the sources. */
enum lq_status lq_graph_draw_html(const struct lq_recipe *recipe, const bool *wanted,
                                  struct lq_buffer *out, struct lq_error *err);

#endif

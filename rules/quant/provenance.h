/* Where a quantized file comes from: the digests of what it was made from, kept in keys of the file
 * itself ("lqbuild.source.imatrix.sha256") and in a statement beside it. Digests are those of the
 * outputs that artifacts have when they are put at a path (a text, a mask, a profile, an imatrix in
 * GGUF); a model's is that of its tensor index (docs/formats.md). Memory comes from arenas. Thread
 * rule: collecting as lq_expand; the rest is pure. */
#ifndef LQ_RULES_QUANT_PROVENANCE_H
#define LQ_RULES_QUANT_PROVENANCE_H

#include "engine/rule.h"
#include "rules/format/gguf.h"
#include "rules/format/statement.h"

/* Version, sources and parameters of a gguf artifact; subject and digest are left open. */
enum lq_status lq_provenance_collect(struct lq_expand *expand, struct lq_statement *out,
                                     struct lq_error *err);
/* The keys of a file. */
void lq_provenance_put_keys(const struct lq_statement *statement, struct lq_gguf_writer *writer);
/* True for keys that lq_provenance_put_keys writes. */
bool lq_provenance_is_key(const char *key);
/* Compares the keys of a file with a statement. LQ_EFORMAT names the first that differs or is
 * missing on one side. */
enum lq_status lq_provenance_check(const struct lq_gguf *gguf, const char *file,
                                   const struct lq_statement *statement, const char *where,
                                   struct lq_error *err);
/* Adds the step that writes the statement about output "main" of a step; its output is "main". */
enum lq_status lq_provenance_add_step(struct lq_expand *expand,
                                      const struct lq_statement *statement,
                                      const struct lq_ref *file, size_t *index,
                                      struct lq_error *err);

#endif

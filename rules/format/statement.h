/* Provenance statements (.intoto.json): which file was made, from what, how, by which version. An
 * in-toto Statement v1 with a SLSA provenance v1 predicate, so that tools which know those read it;
 * one subject. No time and no place, so equal builds give equal statements. Parsed memory comes
 * from the arena. Malformed input gives LQ_EFORMAT. Limits: LQ_STATEMENT_BYTES_MAX,
 * LQ_STATEMENT_ITEMS_MAX of each list. Thread rule: per object. Sources: the specifications
 * in-toto.io/Statement/v1 and slsa.dev/provenance/v1. */
#ifndef LQ_RULES_FORMAT_STATEMENT_H
#define LQ_RULES_FORMAT_STATEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"

enum { LQ_STATEMENT_ITEMS_MAX = 64, LQ_STATEMENT_BYTES_MAX = 1 << 20 };

/* Something that the file was made from: "model", "calibration_text", "imatrix", … */
struct lq_statement_source {
    const char *name;
    struct lq_digest digest;
};

/* A parameter as the recipe gave it. */
struct lq_statement_parameter {
    const char *name;
    const char *value;
};

struct lq_statement {
    const char *subject; /* what the recipe calls it */
    struct lq_digest digest;
    const char *version; /* of lqbuild */
    struct lq_statement_parameter *parameters;
    size_t parameter_count;
    struct lq_statement_source *sources;
    size_t source_count;
};

void lq_statement_write(const struct lq_statement *statement, struct lq_buffer *out);
/* `where` starts every message. */
enum lq_status lq_statement_parse(const void *data, uint64_t size_bytes, const char *where,
                                  struct lq_arena *arena, struct lq_statement *out,
                                  struct lq_error *err);
/* The source of that name, or NULL. */
const struct lq_statement_source *lq_statement_find(const struct lq_statement *statement,
                                                    const char *name);

#endif

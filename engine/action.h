/* Manifests: the canonical text that says what a step or an artifact is made from. Its SHA-256 is
 * the key under which the result is cached, and the same text is what explanations compare, so the
 * reason given can not drift from the key. One field a line: "kind name value", where blanks,
 * newlines and backslashes inside name and value are escaped. Thread rule: per object. */
#ifndef LQ_ENGINE_ACTION_H
#define LQ_ENGINE_ACTION_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/digest.h"

struct lq_manifest {
    struct lq_buffer text;
};

/* Starts a manifest: first line "lqbuild <what> <format version>". */
void lq_manifest_init(struct lq_manifest *manifest, const char *what);
void lq_manifest_fini(struct lq_manifest *manifest);
void lq_manifest_add(struct lq_manifest *manifest, const char *kind, const char *name,
                     const char *value);
void lq_manifest_add_uint(struct lq_manifest *manifest, const char *kind, const char *name,
                          uint64_t value);
void lq_manifest_add_digest(struct lq_manifest *manifest, const char *kind, const char *name,
                            const struct lq_digest *digest);
/* The key; false when memory ran out while the manifest was written. */
bool lq_manifest_key(const struct lq_manifest *manifest, struct lq_digest *key);

/* Appends one line per field that differs: "param type: Q4_K -> Q6_K". `before` NULL: says that no
 * earlier build is known. Nothing is appended when they are equal. */
void lq_manifest_explain(const char *before, const char *after, struct lq_buffer *out);

#endif

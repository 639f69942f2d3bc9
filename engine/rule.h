/* THE contract between the engine and the rules.
 *
 * A recipe declares artifacts. Each artifact has a kind, and a kind is a rule: a schema of
 * attributes, the source files it reads, and a way to expand into steps. A step is the unit that
 * has a key, runs once, and is cached. Rules never see the cache, the graph or the scheduler: they
 * get attributes, digests and opened inputs, and they write outputs.
 *
 * Life of an artifact
 *   1. The schema is checked when the recipe is read; then `check` may refuse combinations.
 *   2. `sources` names the files that the artifact reads. The engine finds their digests.
 *   3. When every artifact it refers to is done, the engine forms the artifact's own key from the
 *      rule, its attributes and the digests of everything it refers to. A hit ends it here.
 *   4. On a miss `expand` is called: it may read small inputs (an index, a profile), and adds steps
 *      and binds outputs to them. Steps have keys of their own, so only what changed runs.
 *   5. `run` of each step is called on a worker thread, if its key misses.
 *
 * Ownership: everything a rule gets is borrowed and lives until the build ends, except what `run`
 * loads, which lives until `run` returns. Memory from lq_expand_arena lives until the build ends.
 * Thread rule: sources, check and expand run on one thread; `run` on any thread, several at once,
 * so it must not write to shared state.
 */
#ifndef LQ_ENGINE_RULE_H
#define LQ_ENGINE_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"

struct lq_pool;

/* ------------------------------------------------------------------ schema ---- */

enum lq_attr_type {
    LQ_ATTR_STRING,
    LQ_ATTR_PATH,     /* a file or folder that is read; relative to the recipe's folder */
    LQ_ATTR_OUT_PATH, /* where an output is put; never part of a key */
    LQ_ATTR_INT,
    LQ_ATTR_NUMBER, /* accepts 20% (0.2) */
    LQ_ATTR_BOOL,
    LQ_ATTR_ENUM, /* a string out of `choices` */
    LQ_ATTR_REF,  /* an artifact of one of `kinds` */
    LQ_ATTR_REF_LIST,
    LQ_ATTR_STRING_LIST,
    LQ_ATTR_OUT_PATH_LIST, /* where outputs are put: the first is "main", the i-th "out<i>" */
    LQ_ATTR_STRING_MAP,    /* { "key" = "value" }, order kept */
};

struct lq_attr_spec {
    const char *name;
    enum lq_attr_type type;
    bool required;
    const char
        *default_text;   /* as it would stand in a recipe; NULL: unset. For help and for values */
    const char *choices; /* ENUM: "activation gradient"; REF and REF_LIST: kinds, "model gguf" */
    double min;          /* INT and NUMBER: inclusive range, used when min < max */
    double max;
    /* OUT_PATH: the output that is put there, NULL for "main", and what an unset path is: the path
     * attribute `beside` with `suffix` behind it (unset where that is unset). */
    const char *output;
    const char *beside;
    const char *suffix;
    /* The status of a value outside the range or choices; LQ_OK stands for LQ_ERECIPE. */
    enum lq_status range_status;
    const char *help; /* one line, lower case */
};

/* One declared artifact with its evaluated attributes; opaque, borrowed. */
struct lq_artifact;

const char *lq_artifact_name(const struct lq_artifact *artifact);
const char *lq_artifact_kind(const struct lq_artifact *artifact);
/* The folder of the recipe: paths given by lq_attr_path are already joined to it. */
const char *lq_artifact_dir(const struct lq_artifact *artifact);
/* Getters of attributes by schema name. The schema has been checked: asking for an attribute that
 * is unset and has no default gives NULL, 0 or false. */
/* True when the recipe itself gives the attribute; a default does not count. */
bool lq_attr_is_set(const struct lq_artifact *artifact, const char *name);
const char *lq_attr_string(const struct lq_artifact *artifact, const char *name);
const char *lq_attr_path(const struct lq_artifact *artifact, const char *name);
int64_t lq_attr_int(const struct lq_artifact *artifact, const char *name);
double lq_attr_number(const struct lq_artifact *artifact, const char *name);
bool lq_attr_bool(const struct lq_artifact *artifact, const char *name);
/* Lists and maps. A single REF counts as a list of one. */
size_t lq_attr_count(const struct lq_artifact *artifact, const char *name);
const struct lq_artifact *lq_attr_ref(const struct lq_artifact *artifact, const char *name,
                                      size_t index);
const char *lq_attr_item(const struct lq_artifact *artifact, const char *name, size_t index);
const char *lq_attr_item_key(const struct lq_artifact *artifact, const char *name, size_t index);
/* An error located at the attribute (file:line:column, line and caret are added by the engine).
 * `name` NULL points at the artifact. Returns `status`. */
enum lq_status lq_attr_error(const struct lq_artifact *artifact, const char *name,
                             struct lq_error *err, enum lq_status status, const char *format, ...)
    LQ_PRINTF(5, 6);

/* ----------------------------------------------------------------- sources ---- */

/* How a source file is turned into a digest. `index` NULL: the SHA-256 of its bytes ("plain").
 * Otherwise `index` reads the file and writes a canonical description of it (for a model: names,
 * types, shapes and digests of its tensors); the digest of that description is the digest of the
 * source, and the description can be read in `expand`. A description must not contain paths, times
 * or anything else that is not content. `name` changes whenever the description changes. */
struct lq_buffer;
struct lq_map;

struct lq_source_kind {
    const char *name;
    enum lq_status (*index)(const char *path, const struct lq_map *map, struct lq_pool *pool,
                            struct lq_buffer *out, struct lq_error *err);
};

struct lq_sources;

/* Adds a source file and returns its number, counting from 0. `missing_status` is the status when
 * the file does not exist (LQ_EMODEL for a model's). Paths are copied. */
enum lq_status lq_sources_add(struct lq_sources *sources, const char *path,
                              const struct lq_source_kind *kind, enum lq_status missing_status,
                              struct lq_error *err);

/* ------------------------------------------------------------------- steps ---- */

enum lq_ref_kind {
    LQ_REF_NONE,
    LQ_REF_STEP,     /* output `name` of step `index` of the same expansion */
    LQ_REF_ARTIFACT, /* output `name` of another artifact */
    LQ_REF_SOURCE,   /* whole source `index` of `artifact`; its digest is the source's digest */
    LQ_REF_SLICE, /* bytes [offset, offset + size) of source `index` of `artifact`, with `digest` */
    LQ_REF_BYTES, /* bytes in memory, owned by the expand arena */
};

/* Where bytes come from. Make one with the functions below. */
struct lq_ref {
    enum lq_ref_kind kind;
    const struct lq_artifact *artifact;
    size_t index;
    const char *name;
    uint64_t offset;
    uint64_t size_bytes;
    const void *data;
    struct lq_digest digest;
};

struct lq_ref lq_ref_step(size_t step_index, const char *output_name);
struct lq_ref lq_ref_artifact(const struct lq_artifact *artifact, const char *output_name);
struct lq_ref lq_ref_source(const struct lq_artifact *artifact, size_t source_index);
struct lq_ref lq_ref_slice(const struct lq_artifact *artifact, size_t source_index, uint64_t offset,
                           uint64_t size_bytes, const struct lq_digest *digest);
/* `data` must live in the expand arena (or be static). */
struct lq_ref lq_ref_bytes(const void *data, uint64_t size_bytes);

struct lq_step_input {
    const char *name; /* unique within the step; part of the key */
    struct lq_ref ref;
};

struct lq_step_param {
    const char *name; /* part of the key together with the value */
    const char *value;
};

struct lq_step_output {
    const char *name;
    bool transient; /* only needed by other steps of the expansion; dropped once they are done */
};

struct lq_run;
typedef enum lq_status (*lq_run_fn)(struct lq_run *run, struct lq_error *err);

struct lq_step {
    const char *op;    /* what is done, e.g. "gguf.tensor": part of the key, shown to people */
    unsigned version;  /* raise it when the same inputs give other bytes */
    const char *label; /* what it is done to, e.g. "blk.0.attn_q.weight"; not part of the key */
    lq_run_fn run;
    const void *state; /* for `run`; not part of the key, so it must follow from what is */
    const struct lq_step_param *params;
    size_t param_count;
    const struct lq_step_input *inputs;
    size_t input_count;
    const struct lq_step_output *outputs;
    size_t output_count;
    /* About how many bytes of its outputs the step makes itself, rather than passing on whole
     * inputs that steps made; 0: few. Where that is large (lq_expand_is_large) an output that has a
     * place is kept there only. */
    uint64_t own_bytes;
    /* Resources. `parallel`: splits its work with lq_run_pool and wants the machine; such steps run
     * one at a time. `memory_bytes`: what it needs at its peak besides mapped sources. `cost`: a
     * guess at its duration in microseconds, used before a measured one is known. */
    bool parallel;
    uint64_t memory_bytes;
    uint64_t cost;
};

struct lq_expand;

const struct lq_artifact *lq_expand_artifact(const struct lq_expand *expand);
struct lq_arena *lq_expand_arena(struct lq_expand *expand);
/* Reads a whole output of an artifact that is referred to, or a source's description (SOURCE with
 * an index kind; for a plain source its bytes), or BYTES. The memory lives until the build ends. */
enum lq_status lq_expand_read(struct lq_expand *expand, const struct lq_ref *ref, const void **data,
                              uint64_t *size_bytes, struct lq_error *err);
/* The digest and size of an output of an artifact that is referred to, directly or through others;
 * false when it has no such output. `size_bytes` may be NULL. */
bool lq_expand_digest(const struct lq_expand *expand, const struct lq_artifact *artifact,
                      const char *output, struct lq_digest *digest, uint64_t *size_bytes);
/* Number of sources of an artifact, and the base name (never a path) of one. */
size_t lq_expand_source_count(const struct lq_expand *expand, const struct lq_artifact *artifact);
const char *lq_expand_source_name(const struct lq_expand *expand,
                                  const struct lq_artifact *artifact, size_t source_index);
/* Adds a step. Everything `step` points at is copied except `state` and BYTES. The number of the
 * step within this expansion goes to *index. Inputs of kind STEP must refer to steps added before.
 */
enum lq_status lq_expand_add_step(struct lq_expand *expand, const struct lq_step *step,
                                  size_t *index, struct lq_error *err);
/* True for content so large that it should be written once only. What costs less to make than to
 * read back is then best made by the step that writes the file. */
bool lq_expand_is_large(const struct lq_expand *expand, uint64_t size_bytes);
/* Says what an output of the artifact is. The output named "main" is what is put at the path that
 * the recipe names. An output may be a step's output or a source or bytes, unchanged. */
enum lq_status lq_expand_bind_output(struct lq_expand *expand, const char *name,
                                     const struct lq_ref *ref, struct lq_error *err);

/* --------------------------------------------------------------------- run ---- */

/* `state` of the step. */
const void *lq_run_state(const struct lq_run *run);
/* The value of a parameter; NULL when the step has none of that name. */
const char *lq_run_param(const struct lq_run *run, const char *name);
/* Worker threads for inner loops. Never NULL in a build; may be NULL in tests. */
struct lq_pool *lq_run_pool(const struct lq_run *run);
/* Freed when `run` returns; one thread at a time. */
struct lq_arena *lq_run_arena(struct lq_run *run);
/* True when the user interrupts the build: return LQ_ECANCELLED soon. Call it between tiles. */
bool lq_run_cancelled(const struct lq_run *run);
/* Tells progress: `done` of `total` units ("tokens", "rows"). Cheap; any thread. */
void lq_run_progress(struct lq_run *run, uint64_t done, uint64_t total, const char *unit);
/* A warning for the user: one sentence, shown when it happens. Any thread. */
void lq_run_warn(struct lq_run *run, const char *format, ...) LQ_PRINTF(2, 3);

bool lq_run_has_input(const struct lq_run *run, const char *name);
uint64_t lq_run_input_size(const struct lq_run *run, const char *name);
/* The digest of an input's content; false when there is no such input. */
bool lq_run_input_digest(const struct lq_run *run, const char *name, struct lq_digest *digest);
/* The whole input in memory until `run` returns: sources are mapped (no copy), blobs are copied. */
enum lq_status lq_run_input_load(struct lq_run *run, const char *name, const void **data,
                                 uint64_t *size_bytes, struct lq_error *err);
/* Copies a part of an input. Thread-safe. */
enum lq_status lq_run_input_read(struct lq_run *run, const char *name, uint64_t offset, void *out,
                                 size_t size_bytes, struct lq_error *err);
/* Parts of files that steps which wait for this one will read, and what their content is: for who
 * can use the time until then. Mapped for the rest of the build; the list lives as long as the run.
 */
struct lq_run_expected {
    struct lq_digest digest;
    const void *data;
    uint64_t size_bytes;
};
size_t lq_run_expected(const struct lq_run *run, const struct lq_run_expected **list);
/* The input will be read soon; it will not be read again: for steps that read large parts of files
 * one after the other. */
void lq_run_input_ahead(struct lq_run *run, const char *name);
void lq_run_input_done(struct lq_run *run, const char *name);
/* A file that has the input's content, for programs that want a path; removed after the run. */
enum lq_status lq_run_input_path(struct lq_run *run, const char *name, const char **path,
                                 struct lq_error *err);

/* Appends to an output, in order. Each output is written by one thread at a time. */
enum lq_status lq_run_write(struct lq_run *run, const char *output, const void *data,
                            size_t size_bytes, struct lq_error *err);
/* A transient output stays in memory as far as there is room, and is not written to the cache
 * unless a killed build would lose much work with it: for steps that are faster than the cache.
 * Before the first write to it. */
void lq_run_hold(struct lq_run *run, const char *output);
/* What a step leaves somewhere else, on a device, instead of bytes: `read` gives a part of them, on
 * any thread, one at a time; when it fails they are lost. `destroy` is called once, on any thread.
 * Rules embed it in an object of their own. */
struct lq_object {
    uint64_t size_bytes;
    enum lq_status (*read)(struct lq_object *object, uint64_t offset, void *out, size_t size_bytes,
                           struct lq_error *err);
    void (*destroy)(struct lq_object *object);
};
/* As lq_run_hold, for a transient output that is an object and is not written to. Takes it; false
 * when it was destroyed at once, because the output cannot be held. */
bool lq_run_hold_object(struct lq_run *run, const char *output, struct lq_object *object);
/* The object that an input is, until the run ends; NULL for bytes. All inputs can be read, too. */
struct lq_object *lq_run_input_object(const struct lq_run *run, const char *name);
/* Appends a whole input to an output without copying it (assembling a file from finished parts). */
enum lq_status lq_run_write_input(struct lq_run *run, const char *output, const char *input,
                                  struct lq_error *err);
/* If this run fails it begins again at once, with nothing written: for a step that tries a device
 * that may not be up to it. The second attempt is not tried again. */
void lq_run_allow_retry(struct lq_run *run);
/* What the first attempt failed with; NULL in the first one. */
const struct lq_error *lq_run_first_error(const struct lq_run *run);
/* A judgement that is part of the result: it is cached, and fails the build after the outputs are
 * in place, now and whenever the result is reused. */
void lq_run_verdict(struct lq_run *run, enum lq_status status, const char *format, ...)
    LQ_PRINTF(3, 4);
/* What computed it, e.g. "cpu-f32": recorded, not part of the key. Static text. */
void lq_run_numerics(struct lq_run *run, const char *numerics);

/* -------------------------------------------------------------------- rule ---- */

struct lq_rule {
    const char *kind;
    /* Part of the artifact's key. Raise it when expand changes meaning, and whenever the version of
     * one of its steps is raised: a hit of the artifact's own key never looks at its steps. */
    unsigned version;
    /* The version of lqbuild, for a rule whose outputs name it; part of the key. Else NULL. */
    const char *program_version;
    const char *help; /* one line */
    const struct lq_attr_spec *attrs;
    size_t attr_count;
    /* Outputs besides "main" that other rules may refer to; for help only. */
    const char *outputs;
    /* May be NULL. Refuses combinations of attributes that the schema cannot. */
    enum lq_status (*check)(const struct lq_artifact *artifact, struct lq_error *err);
    /* May be NULL. */
    enum lq_status (*sources)(const struct lq_artifact *artifact, struct lq_sources *sources,
                              struct lq_error *err);
    enum lq_status (*expand)(struct lq_expand *expand, struct lq_error *err);
    /* The output "summary" is text that is shown at the end of a build with this target. */
    bool shows_summary;
    /* May be NULL. True for an artifact that is never cached as a whole, because its steps depend
     * on more than its attributes and sources. */
    bool (*always_expands)(const struct lq_artifact *artifact);
};

/* Every rule, sorted by kind. */
struct lq_registry {
    const struct lq_rule *const *rules;
    size_t rule_count;
};

const struct lq_rule *lq_registry_find(const struct lq_registry *registry, const char *kind);

#endif

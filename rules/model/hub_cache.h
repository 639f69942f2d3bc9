/* Models of the Hugging Face hub that were downloaded before, and files of its data sets:
 * "org/name", "hf:org/name@revision", "hf:org/name/file.gguf" or "hf:datasets/org/name/file.txt" is
 * looked up in the cache that the hub's own tools keep (huggingface_hub, transformers), whose
 * layout is documented there: models--org--name/refs/<branch> (datasets--...) holds a commit,
 * snapshots/<commit> the files. Nothing is downloaded here: `lqbuild fetch` does that
 * (engine/cli/hub). The cache is $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub,
 * else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. Thread rule: pure besides
 * reading files and the environment. Limits: LQ_NAME_BYTES_MAX a part of a name. */
#ifndef LQ_RULES_MODEL_HUB_CACHE_H
#define LQ_RULES_MODEL_HUB_CACHE_H

#include <stdbool.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

/* What a name says. Its parts can stand in a path or a URL as they are: letters, digits, '-', '_'
 * and single dots; only `repository` and `file` have slashes. */
struct lq_hub_name {
    bool is_dataset;
    const char *repository; /* "org/name", or "name" of a model from the hub's first days */
    const char *revision;   /* a branch, tag or commit; "main" when the name says none */
    const char *file;       /* within the repository; NULL: the model as a whole */
};

/* Where a model is. */
struct lq_hub_place {
    const char *path; /* the file or folder itself, or the snapshot's folder */
    const char *ref;  /* the file that names the commit; NULL: no such file has a say */
};

/* Reads a name, with or without "hf:"; its parts go to the arena. False for what is none, and when
 * memory is out. */
bool lq_hub_name_parse(const char *text, struct lq_arena *arena, struct lq_hub_name *out);
/* *out NULL: the environment names no folder. */
enum lq_status lq_hub_cache_folder(struct lq_arena *arena, const char **out, struct lq_error *err);
/* "models--org--name"; NULL when memory is out. */
const char *lq_hub_repository_folder(const struct lq_hub_name *name, struct lq_arena *arena);

/* True for "hf:..." and for what has the form of a name of the hub, "org/name". */
bool lq_hub_is_name(const char *text);
/* `path` is where `text` would be if it were a file or folder; that wins, unless the text begins
 * with "hf:". Errors: LQ_EMODEL when it is nowhere, with the command that downloads it; LQ_EUSAGE
 * for a malformed "hf:" name. */
enum lq_status lq_hub_resolve(const char *text, const char *path, struct lq_arena *arena,
                              struct lq_hub_place *out, struct lq_error *err);

/* A file of a data set: "hf:datasets/org/name/folder/file.txt", with "@revision" behind the name.
 * True for what begins with "hf:". */
bool lq_hub_is_text(const char *text);
/* Where such a file is. Errors: LQ_ECALIBRATION when it is not in the cache, with the command that
 * downloads it; LQ_EUSAGE for a malformed name. */
enum lq_status lq_hub_resolve_text(const char *text, struct lq_arena *arena,
                                   struct lq_hub_place *out, struct lq_error *err);

#endif

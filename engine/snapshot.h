/* Snapshots: what a large build looked at when nothing had changed, so that the next one can see at
 * a glance that nothing has changed still. A snapshot lists the recipe's files, every source and
 * every output in place with the signature under which its digest is known, and the folders of the
 * sources. When all of them are as they were, and nothing was removed from the cache since, a build
 * would find every result cached and every output current: it has nothing to do, and does not even
 * read the recipe. Only builds that say nothing but their summary have one: no verdicts, no texts
 * to show, no commands that look at the environment. Thread rule: the build's thread. Limits:
 * LQ_SNAPSHOT_NODES_MIN; smaller builds are fast enough. */
#ifndef LQ_ENGINE_SNAPSHOT_H
#define LQ_ENGINE_SNAPSHOT_H

#include "engine/base/digest.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"

enum { LQ_SNAPSHOT_NODES_MIN = 500 };

/* What was asked for, and of which program. */
struct lq_snapshot_request {
    const char *recipe_path;
    const struct lq_define *defines;
    size_t define_count;
    const char *const *targets;
    size_t target_count;
    const struct lq_registry *registry;
    const char *version;
};

/* False when memory is out or the working folder has no name. */
bool lq_snapshot_key(const struct lq_snapshot_request *request, struct lq_digest *key);
/* *current: everything is as the snapshot says; `result` is filled. A snapshot that is missing,
 * old or unusable is not current. */
enum lq_status lq_snapshot_check(struct lq_cache *cache, const struct lq_digest *key, bool *current,
                                 struct lq_build_result *result, struct lq_error *err);

#endif

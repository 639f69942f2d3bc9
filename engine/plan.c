/* The plan: which artifacts are wanted, what they depend on, and in which order that can be done.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/build_state.h"

struct lq_node *lq_plan_node(const struct lq_build *build, const struct lq_artifact *artifact)
{
    return &build->nodes[artifact->index];
}

struct lq_node_output *lq_plan_output(const struct lq_node *node, const char *name)
{
    for (size_t i = 0; i < node->output_count; i++) {
        if (strcmp(node->outputs[i].name, name) == 0) {
            /* Outputs belong to the build; const only says that the node is not changed here. */
            return (struct lq_node_output *)(uintptr_t)&node->outputs[i];
        }
    }
    return NULL;
}

static bool link_to(struct lq_build *build, struct lq_node *node, struct lq_node *dep)
{
    for (const struct lq_node_link *link = node->deps; link != NULL; link = link->next) {
        if (link->node == dep) {
            return true;
        }
    }
    struct lq_node_link *down = lq_arena_get(&build->arena, sizeof *down);
    struct lq_node_link *up = lq_arena_get(&build->arena, sizeof *up);
    if (down == NULL || up == NULL) {
        return false;
    }
    *down = (struct lq_node_link){.node = dep, .next = node->deps};
    node->deps = down;
    *up = (struct lq_node_link){.node = node, .next = dep->users};
    dep->users = up;
    node->waiting_on++;
    return true;
}

/* Calls `visit` for every artifact that a value refers to. */
static bool each_ref(const struct lq_value *value,
                     bool (*visit)(struct lq_build *, struct lq_node *, const struct lq_artifact *),
                     struct lq_build *build, struct lq_node *node)
{
    if (value->type == LQ_VALUE_REF) {
        return visit(build, node, value->ref);
    }
    if (value->type == LQ_VALUE_LIST || value->type == LQ_VALUE_MAP) {
        for (size_t i = 0; i < value->count; i++) {
            /* Lists of references hold references only: no deeper nesting to follow. */
            if (value->items[i].type == LQ_VALUE_REF && !visit(build, node, value->items[i].ref)) {
                return false;
            }
        }
    }
    return true;
}

static bool visit_ref(struct lq_build *build, struct lq_node *node, const struct lq_artifact *ref)
{
    struct lq_node *dep = lq_plan_node(build, ref);
    if (dep->state == LQ_NODE_UNWANTED) {
        dep->state = LQ_NODE_WAITING;
        dep->queue_next = build->node_queue; /* used as a stack while the plan is made */
        build->node_queue = dep;
    }
    return link_to(build, node, dep);
}

static enum lq_status prepare_node(struct lq_build *build, struct lq_node *node,
                                   struct lq_error *err)
{
    const struct lq_artifact *artifact = node->artifact;
    const struct lq_rule *rule = artifact->rule;
    for (size_t i = 0; i < rule->attr_count; i++) {
        if (!each_ref(&artifact->values[i], visit_ref, build, node)) {
            return lq_error_nomem(err, "the build graph");
        }
    }
    for (size_t i = 0; i < rule->attr_count; i++) {
        const struct lq_attr_spec *spec = &rule->attrs[i];
        if (strcmp(spec->name, "path") == 0 && spec->type == LQ_ATTR_OUT_PATH) {
            node->out_path = lq_attr_path(artifact, "path");
        }
        /* A command names its outputs in a list; the first is "main". */
        if (strcmp(spec->name, "outputs") == 0 && spec->type == LQ_ATTR_STRING_LIST &&
            lq_attr_count(artifact, "outputs") > 0) {
            node->out_path = lq_path_join(&build->arena, lq_artifact_dir(artifact),
                                          lq_attr_item(artifact, "outputs", 0));
            if (node->out_path == NULL) {
                return lq_error_nomem(err, "the build graph");
            }
        }
    }
    return lq_source_collect(build, node, err);
}

static enum lq_status want(struct lq_build *build, const struct lq_artifact *artifact, bool target,
                           struct lq_error *err)
{
    struct lq_node *node = lq_plan_node(build, artifact);
    node->target = node->target || target;
    if (node->state != LQ_NODE_UNWANTED) {
        return LQ_OK;
    }
    node->state = LQ_NODE_WAITING;
    build->node_queue = node;
    while (build->node_queue != NULL) {
        struct lq_node *next = build->node_queue;
        build->node_queue = next->queue_next;
        next->queue_next = NULL;
        enum lq_status status = prepare_node(build, next, err);
        if (status != LQ_OK) {
            build->node_queue = NULL;
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status want_targets(struct lq_build *build, struct lq_error *err)
{
    const struct lq_recipe *recipe = build->recipe;
    const struct lq_build_options *options = build->options;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < options->target_count && status == LQ_OK; i++) {
        const char *name = options->targets[i];
        const struct lq_artifact *artifact = lq_recipe_find(recipe, name);
        if (artifact == NULL) {
            const char *near = lq_recipe_suggest(recipe, name);
            return near == NULL
                       ? lq_error_set(err, LQ_EUSAGE, "unknown target '%s'", name)
                       : lq_error_set(err, LQ_EUSAGE, "unknown target '%s'; did you mean '%s'?",
                                      name, near);
        }
        status = want(build, artifact, true, err);
    }
    if (options->target_count == 0) {
        for (size_t i = 0; i < recipe->default_count && status == LQ_OK; i++) {
            status = want(build, recipe->defaults[i], true, err);
        }
    }
    return status;
}

static int compare_paths(const void *a, const void *b)
{
    const struct lq_node *left = *(const struct lq_node *const *)a;
    const struct lq_node *right = *(const struct lq_node *const *)b;
    return strcmp(left->out_path, right->out_path);
}

/* Two artifacts must not write one file, and none may write what another reads. */
static enum lq_status check_paths(struct lq_build *build, struct lq_error *err)
{
    size_t count = 0;
    const struct lq_node **placed = calloc(build->node_count + 1, sizeof(const struct lq_node *));
    if (placed == NULL) {
        return lq_error_nomem(err, "the build graph");
    }
    for (size_t i = 0; i < build->node_count; i++) {
        if (build->nodes[i].state != LQ_NODE_UNWANTED && build->nodes[i].out_path != NULL) {
            placed[count++] = &build->nodes[i];
        }
    }
    qsort(placed, count, sizeof(const struct lq_node *), compare_paths);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        const struct lq_artifact *artifact = placed[i]->artifact;
        if (i > 0 && strcmp(placed[i - 1]->out_path, placed[i]->out_path) == 0) {
            status =
                lq_attr_error(artifact, "path", err, LQ_ERECIPE,
                              "'%s' and '%s' both write '%s'; give each its own path",
                              placed[i - 1]->artifact->name, artifact->name, placed[i]->out_path);
        }
        for (const struct lq_source *source = build->sources; source != NULL && status == LQ_OK;
             source = source->next) {
            if (strcmp(source->path, placed[i]->out_path) == 0) {
                status = lq_attr_error(artifact, "path", err, LQ_ERECIPE,
                                       "'%s' would overwrite '%s', which this build reads",
                                       artifact->name, source->path);
            }
        }
    }
    free(placed);
    return status;
}

/* The cost of the longest chain of nodes behind each node. A node's own tasks are not known yet, so
 * each counts the same: the order is what matters. Kahn's walk from the targets down. */
static enum lq_status weigh_nodes(struct lq_build *build, struct lq_error *err)
{
    static const uint64_t node_cost = 1000000;
    size_t *users_left = calloc(build->node_count + 1, sizeof *users_left);
    struct lq_node **order = calloc(build->node_count + 1, sizeof(struct lq_node *));
    if (users_left == NULL || order == NULL) {
        free(users_left);
        free(order);
        return lq_error_nomem(err, "the build graph");
    }
    size_t ordered = 0;
    for (size_t i = 0; i < build->node_count; i++) {
        struct lq_node *node = &build->nodes[i];
        for (const struct lq_node_link *link = node->users; link != NULL; link = link->next) {
            users_left[i]++;
        }
        if (node->state != LQ_NODE_UNWANTED && users_left[i] == 0) {
            order[ordered++] = node;
        }
    }
    for (size_t i = 0; i < ordered; i++) {
        for (const struct lq_node_link *link = order[i]->deps; link != NULL; link = link->next) {
            struct lq_node *dep = link->node;
            if (dep->depth_cost < order[i]->depth_cost + node_cost) {
                dep->depth_cost = order[i]->depth_cost + node_cost;
            }
            size_t index = dep->artifact->index;
            users_left[index]--;
            if (users_left[index] == 0) {
                order[ordered++] = dep;
            }
        }
    }
    free(users_left);
    free(order);
    return LQ_OK;
}

enum lq_status lq_plan_create(struct lq_build *build, struct lq_error *err)
{
    build->node_count = build->recipe->artifact_count;
    build->nodes = lq_arena_get_array(&build->arena, build->node_count + 1, sizeof(struct lq_node));
    if (build->nodes == NULL) {
        return lq_error_nomem(err, "the build graph");
    }
    for (size_t i = 0; i < build->node_count; i++) {
        build->nodes[i].artifact = &build->recipe->artifacts[i];
    }
    enum lq_status status = want_targets(build, err);
    if (status == LQ_OK) {
        status = check_paths(build, err);
    }
    if (status == LQ_OK) {
        status = weigh_nodes(build, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    build->node_queue_end = &build->node_queue;
    for (size_t i = 0; i < build->node_count; i++) {
        struct lq_node *node = &build->nodes[i];
        if (node->state == LQ_NODE_WAITING && node->waiting_on == 0) {
            lq_node_queue(build, node);
        }
    }
    return LQ_OK;
}

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

struct lq_node_output *lq_plan_add_output(struct lq_build *build, struct lq_node *node)
{
    if (node->output_count == node->output_capacity) {
        uint32_t capacity = node->output_capacity == 0 ? 1 : node->output_capacity * 4;
        struct lq_node_output *grown = lq_arena_get_array(&build->arena, capacity, sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        for (size_t i = 0; i < node->output_count; i++) {
            grown[i] = node->outputs[i];
        }
        node->outputs = grown;
        node->output_capacity = capacity;
    }
    struct lq_node_output *output = &node->outputs[node->output_count++];
    *output = (struct lq_node_output){.name = ""};
    return output;
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

static enum lq_status collect_places(struct lq_build *build, struct lq_node *node,
                                     struct lq_error *err)
{
    const struct lq_artifact *artifact = node->artifact;
    size_t room = 0;
    for (size_t i = 0; i < artifact->rule->attr_count; i++) {
        enum lq_attr_type type = artifact->rule->attrs[i].type;
        room += type == LQ_ATTR_OUT_PATH ? 1 : 0;
        room += type == LQ_ATTR_OUT_PATH_LIST ? artifact->values[i].count : 0;
    }
    node->places = lq_arena_get_array(&build->arena, room, sizeof *node->places);
    if (node->places == NULL) {
        return lq_error_nomem(err, "the build graph");
    }
    for (size_t i = 0; i < artifact->rule->attr_count; i++) {
        enum lq_attr_type type = artifact->rule->attrs[i].type;
        const struct lq_value *value = &artifact->values[i];
        if (type == LQ_ATTR_OUT_PATH && value->path != NULL) {
            node->places[node->place_count++] = (struct lq_place){
                .output = artifact->rule->attrs[i].output == NULL ? "main"
                                                                  : artifact->rule->attrs[i].output,
                .path = value->path};
        }
        for (size_t k = 0; type == LQ_ATTR_OUT_PATH_LIST && k < value->count; k++) {
            const char *name = k == 0 ? "main" : lq_arena_printf(&build->arena, "out%zu", k + 1);
            if (name == NULL) {
                return lq_error_nomem(err, "the build graph");
            }
            node->places[node->place_count++] =
                (struct lq_place){.output = name, .path = value->items[k].path};
        }
    }
    return LQ_OK;
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
    enum lq_status status = collect_places(build, node, err);
    return status == LQ_OK ? lq_source_collect(build, node, err) : status;
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
    size_t count = build->recipe->artifact_count;
    build->nodes = lq_arena_get_array(&build->arena, count + 1, sizeof(struct lq_node));
    build->node_count = build->nodes == NULL ? 0 : count;
    if (build->nodes == NULL) {
        return lq_error_nomem(err, "the build graph");
    }
    for (size_t i = 0; i < build->node_count; i++) {
        build->nodes[i].artifact = &build->recipe->artifacts[i];
    }
    enum lq_status status = want_targets(build, err);
    if (status == LQ_OK) {
        status = lq_plan_check_paths(build, err);
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

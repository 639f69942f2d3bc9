/* The life of one node: digests of its sources, its own key, a hit or an expansion into tasks, its
 * outputs, and the file that the recipe wants. */
#include <stdlib.h>
#include <string.h>

#include "engine/action.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/build_state.h"
#include "engine/label.h"

void lq_node_queue(struct lq_build *build, struct lq_node *node)
{
    if (!node->queued) {
        node->queued = true;
        node->queue_next = NULL;
        *build->node_queue_end = node;
        build->node_queue_end = &node->queue_next;
    }
}

bool lq_node_has_content(const struct lq_build *build, const struct lq_digest *digest)
{
    uint64_t size_bytes = 0;
    return lq_held_find(build, digest) != NULL ||
           lq_blob_exists(build->cache, digest, &size_bytes) ||
           lq_source_by_digest(build, digest) != NULL;
}

/* Lets the cache look at every byte, now that it has proved to be damaged: what is altered goes, so
 * that all of it is made again in one round. */
void lq_node_check_content(struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_blob_reader *reader = NULL;
    struct lq_error err;
    uint64_t size_bytes = 0;
    if (lq_blob_exists(build->cache, digest, &size_bytes) &&
        lq_blob_open(build->cache, digest, true, &reader, &err) == LQ_OK) {
        lq_blob_close(reader);
    }
}

/* ---- ends ---- */

static void tell(struct lq_build *build, struct lq_node *user, bool doomed)
{
    user->doomed = user->doomed || doomed;
    user->waiting_on--;
    if (user->waiting_on == 0) {
        lq_node_queue(build, user);
    }
}

static void announce(struct lq_build *build, struct lq_node *node, bool doomed)
{
    lq_task_wake_all(build, &node->waiters, doomed);
    struct lq_node_link *again = node->waiting_nodes;
    node->waiting_nodes = NULL;
    for (; again != NULL; again = again->next) {
        tell(build, again->node, doomed);
    }
    if (node->announced) {
        return;
    }
    node->announced = true;
    for (const struct lq_node_link *link = node->users; link != NULL; link = link->next) {
        tell(build, link->node, doomed);
    }
}

static void fail(struct lq_build *build, struct lq_node *node, enum lq_status status,
                 const struct lq_error *err)
{
    node->state = LQ_NODE_FAILED;
    build->result->failed++;
    lq_build_fail(build, node, NULL, status, err);
    announce(build, node, true);
}

static void done(struct lq_build *build, struct lq_node *node)
{
    node->state = LQ_NODE_DONE;
    lq_place_forget(node);
    struct lq_event event = {.kind = LQ_EVENT_ARTIFACT_DONE,
                             .artifact = node->artifact->name,
                             .rule = node->artifact->rule->kind,
                             .path = node->place_count == 0 ? NULL : node->places[0].path,
                             .numerics = node->numerics};
    if (!node->would_run) {
        lq_build_event(build, &event);
    }
    if (node->verdict != LQ_OK && !node->announced) {
        struct lq_error err;
        (void)lq_error_set(&err, node->verdict, "%s", node->verdict_text);
        lq_build_fail_later(build, node, node->verdict, &err);
    }
    announce(build, node, false);
}

/* ---- putting the output in place ---- */

static void place(struct lq_build *build, struct lq_node *node)
{
    bool leave = build->options->dry_run || build->options->place_nothing;
    if (node->would_run || leave || lq_place_is_current(build, node)) {
        done(build, node);
        return;
    }
    node->state = LQ_NODE_PLACING;
    struct lq_job *job = lq_build_job(LQ_JOB_PLACE);
    if (job == NULL) {
        struct lq_error err;
        fail(build, node, lq_error_nomem(&err, "an output"), &err);
        return;
    }
    job->node = node;
    enum lq_status status = lq_build_submit(build, job, lq_place_perform);
    if (status != LQ_OK) {
        fail(build, node, status, &job->err);
        free(job);
    }
}

static void make_again(struct lq_build *build, struct lq_node *node)
{
    build->result->steps -= node->record_steps;
    build->result->cached -= node->record_steps;
    node->record_steps = 0;
    for (size_t i = 0; i < node->task_count; i++) {
        lq_task_uncount(build, node->tasks[i]);
    }
    node->forced_expand = true;
    node->attempts++;
    node->state = LQ_NODE_WAITING;
    node->broken = false;
    lq_node_queue(build, node);
}

/* Asks remotes for outputs whose content is not here. */
static bool ask_content(struct lq_build *build, struct lq_node *node)
{
    if (node->asked_content || !lq_share_can_ask(build)) {
        return false;
    }
    struct lq_digest *listed =
        lq_arena_get_array(&build->arena, (size_t)node->output_count + 1, sizeof *listed);
    size_t count = 0;
    for (size_t i = 0; listed != NULL && i < node->output_count; i++) {
        if (!lq_node_has_content(build, &node->outputs[i].digest)) {
            listed[count++] = node->outputs[i].digest;
        }
    }
    node->asked_content = true;
    return count > 0 && lq_share_ask_node(build, node, LQ_REMOTE_LISTED, listed, count);
}

/* Gets content that is needed after all: from a remote if one has it. */
static void remake(struct lq_build *build, struct lq_node *node)
{
    if (ask_content(build, node)) {
        node->remaking = true;
        node->state = LQ_NODE_ASKING;
    } else {
        make_again(build, node);
    }
}

void lq_node_placed(struct lq_build *build, struct lq_job *job)
{
    struct lq_node *node = job->node;
    if (job->status == LQ_OK) {
        done(build, node);
    } else if (job->lost && node->attempts < LQ_BUILD_ATTEMPTS_MAX) {
        for (size_t i = 0; i < node->task_count; i++) {
            lq_task_check_outputs(build, node->tasks[i]);
        }
        remake(build, node);
    } else {
        fail(build, node, job->status, &job->err);
    }
}

void lq_node_remake(struct lq_build *build, struct lq_node *node, struct lq_task *task)
{
    if (!lq_task_wait(build, task, &node->waiters)) {
        task->doomed = true;
    }
    if (node->state == LQ_NODE_DONE && node->attempts < LQ_BUILD_ATTEMPTS_MAX) {
        remake(build, node);
    } else if (node->state == LQ_NODE_DONE) {
        struct lq_error err;
        enum lq_status status =
            lq_error_set(&err, LQ_ECACHE,
                         "'%s' can not be kept in the cache: its output was lost "
                         "%d times; check the disk, or use another --cache-dir",
                         node->artifact->name, LQ_BUILD_ATTEMPTS_MAX);
        fail(build, node, status, &err);
    }
}

/* ---- the node's own key ---- */

static void add_value(struct lq_manifest *manifest, const char *name, const struct lq_value *value,
                      struct lq_buffer *text)
{
    switch (value->type) {
    case LQ_VALUE_STRING:
        lq_buffer_printf(text, "\"%s\"", value->string);
        break;
    case LQ_VALUE_NUMBER:
        lq_json_format_number(text, value->number);
        break;
    case LQ_VALUE_BOOL:
        lq_buffer_append_string(text, value->boolean ? "true" : "false");
        break;
    case LQ_VALUE_REF:
        lq_buffer_append_string(text, value->ref->name);
        break;
    case LQ_VALUE_LIST:
    case LQ_VALUE_MAP:
        for (size_t i = 0; i < value->count; i++) {
            if (value->type == LQ_VALUE_MAP) {
                lq_buffer_printf(text, "%s=", value->keys[i]);
            }
            add_value(NULL, NULL, &value->items[i], text);
            lq_buffer_append_char(text, ';');
        }
        break;
    default:
        break;
    }
    if (manifest != NULL) {
        lq_manifest_add(manifest, "attr", name, lq_buffer_text(text));
    }
}

/* A path is where content comes from or goes to: only its extension can mean something. */
static void add_attributes(struct lq_manifest *manifest, const struct lq_artifact *artifact)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < artifact->rule->attr_count; i++) {
        const struct lq_attr_spec *spec = &artifact->rule->attrs[i];
        const struct lq_value *value = &artifact->values[i];
        if (value->type == LQ_VALUE_NONE) {
            continue;
        }
        if (spec->type == LQ_ATTR_PATH || spec->type == LQ_ATTR_OUT_PATH) {
            lq_manifest_add(manifest, "extension", spec->name, lq_path_extension(value->string));
            continue;
        }
        lq_buffer_clear(&text); /* forgets that it failed */
        add_value(manifest, spec->name, value, &text);
        manifest->text.failed = manifest->text.failed || text.failed;
    }
    lq_buffer_fini(&text);
}

/* "input im.gguf 5f3a…": many artifacts have an output of the same name. */
static void add_input(struct lq_manifest *manifest, const char *artifact,
                      const struct lq_node_output *output)
{
    char name[2 * LQ_NAME_BYTES_MAX + 2];
    size_t length = strlen(artifact);
    size_t rest = strlen(output->name);
    length = length > LQ_NAME_BYTES_MAX ? LQ_NAME_BYTES_MAX : length;
    rest = rest > LQ_NAME_BYTES_MAX ? LQ_NAME_BYTES_MAX : rest;
    memcpy(name, artifact, length);
    name[length] = '.';
    memcpy(name + length + 1, output->name, rest);
    name[length + 1 + rest] = '\0';
    lq_manifest_add_digest(manifest, "input", name, &output->digest);
}

/* Everything that the artifact is made from. */
static void write_manifest(const struct lq_node *node, struct lq_manifest *manifest)
{
    const struct lq_artifact *artifact = node->artifact;
    lq_manifest_init(manifest, "artifact");
    lq_manifest_add_uint(manifest, "rule", artifact->rule->kind, artifact->rule->version);
    if (artifact->rule->program_version != NULL) {
        lq_manifest_add(manifest, "version", "lqbuild", artifact->rule->program_version);
    }
    lq_manifest_add(manifest, "name", "self", artifact->name);
    add_attributes(manifest, artifact);
    for (size_t i = 0; i < node->source_count; i++) {
        lq_manifest_add_digest(manifest, "source", lq_path_base(node->sources[i]->path),
                               &node->sources[i]->digest);
    }
    /* Rules may look at the attributes of what they refer to, so its whole key counts, besides the
     * digests of what it really produced. */
    for (const struct lq_node_link *link = node->deps; link != NULL; link = link->next) {
        lq_manifest_add_digest(manifest, "key", link->node->artifact->name, &link->node->key);
        for (size_t i = 0; i < link->node->output_count; i++) {
            add_input(manifest, link->node->artifact->name, &link->node->outputs[i]);
        }
    }
}

static enum lq_status make_key(struct lq_node *node, struct lq_error *err)
{
    struct lq_manifest manifest;
    write_manifest(node, &manifest);
    bool made = lq_manifest_key(&manifest, &node->key);
    lq_manifest_fini(&manifest);
    return made ? LQ_OK : lq_error_nomem(err, "a manifest");
}

/* ---- hit or expansion ---- */

enum taken { TAKEN, TAKEN_NOTHING, TAKEN_WITHOUT_CONTENT };

/* What only other artifacts read need not be here before one of them reads it. */
static bool needs_content(const struct lq_build *build, const struct lq_node *node)
{
    return node->target || node->place_count > 0 || build->options->dry_run;
}

static enum taken take_record(struct lq_build *build, struct lq_node *node)
{
    struct lq_action_record record = {0};
    bool found = false;
    struct lq_error err;
    if (lq_action_get(build->cache, &node->key, &build->arena, &record, &found, &err) != LQ_OK) {
        lq_build_warn(build, err.message);
        return TAKEN_NOTHING;
    }
    if (!found || record.output_count > LQ_STEP_OUTPUTS_MAX) {
        return TAKEN_NOTHING;
    }
    bool whole = true;
    node->output_count = 0;
    for (size_t i = 0; i < record.output_count; i++) {
        struct lq_node_output *output = lq_plan_add_output(build, node);
        if (output == NULL) {
            return TAKEN_NOTHING;
        }
        output->name = record.outputs[i].name;
        output->digest = record.outputs[i].digest;
        output->size_bytes = record.outputs[i].size_bytes;
        whole =
            whole && (!needs_content(build, node) || lq_node_has_content(build, &output->digest));
    }
    if (!whole) {
        return TAKEN_WITHOUT_CONTENT;
    }
    node->verdict = record.verdict;
    node->verdict_text = record.verdict_text;
    node->numerics = record.numerics;
    node->record_steps = record.step_count;
    build->result->steps += record.step_count;
    build->result->cached += record.step_count;
    return TAKEN;
}

/* The shortcut through the artifact's own record. True when it was taken, or a remote is being
 * asked for it. */
static bool take_shortcut(struct lq_build *build, struct lq_node *node)
{
    enum taken taken = take_record(build, node);
    if (taken == TAKEN) {
        place(build, node);
        return true;
    }
    node->state = LQ_NODE_ASKING;
    if (taken == TAKEN_WITHOUT_CONTENT && ask_content(build, node)) {
        return true;
    }
    if (taken == TAKEN_NOTHING && !node->asked_record && lq_share_can_ask(build)) {
        node->asked_record = true;
        return lq_share_ask_node(build, node, LQ_REMOTE_RECORD, NULL, 0);
    }
    return false;
}

/* Descriptions of sources that are gone from the cache: the files will be read again. */
static bool forget_lost_sources(struct lq_build *build, const struct lq_node *node)
{
    bool lost = false;
    for (size_t i = 0; i < node->source_count; i++) {
        struct lq_source *source = node->sources[i];
        uint64_t size_bytes = 0;
        if (source->kind == NULL) {
            continue;
        }
        lq_node_check_content(build, &source->digest);
        if (!lq_blob_exists(build->cache, &source->digest, &size_bytes)) {
            source->known = false;
            lost = true;
        }
    }
    return lost;
}

/* What a rule wanted to read is gone from the cache: sources are hashed again, nodes made again,
 * and the expansion is tried once more afterwards. False when nothing is missing after all. */
static bool recover_inputs(struct lq_build *build, struct lq_node *node)
{
    if (node->attempts < LQ_BUILD_ATTEMPTS_MAX && forget_lost_sources(build, node)) {
        node->attempts++;
        lq_node_queue(build, node);
        return true;
    }
    bool waits = false;
    for (struct lq_node_link *link = node->deps; link != NULL; link = link->next) {
        struct lq_node *dep = link->node;
        bool lost = forget_lost_sources(build, dep);
        for (size_t i = 0; i < dep->output_count; i++) {
            lq_node_check_content(build, &dep->outputs[i].digest);
            lost = lost || !lq_node_has_content(build, &dep->outputs[i].digest);
        }
        struct lq_node_link *again = lost ? lq_arena_get(&build->arena, sizeof *again) : NULL;
        if (again == NULL || dep->attempts >= LQ_BUILD_ATTEMPTS_MAX) {
            continue;
        }
        *again = (struct lq_node_link){.node = node, .next = dep->waiting_nodes};
        dep->waiting_nodes = again;
        node->waiting_on++;
        waits = true;
        if (dep->state == LQ_NODE_DONE) {
            remake(build, dep);
        }
    }
    return waits;
}

static void start_tasks(struct lq_build *build, struct lq_node *node)
{
    node->state = LQ_NODE_RUNNING;
    node->tasks_left = node->task_count;
    lq_schedule_prioritise(node);
    build->result->steps += node->task_count;
    for (size_t i = 0; i < node->task_count; i++) {
        build->cost_left += node->tasks[i]->eta_cost;
    }
    for (size_t i = 0; i < node->task_count; i++) {
        lq_task_start(build, node->tasks[i]);
    }
    struct lq_event event = {.kind = LQ_EVENT_PLAN, .artifact = node->artifact->name};
    lq_build_event(build, &event);
    if (node->task_count == 0) {
        lq_node_queue(build, node);
    }
}

/* Tells what is different since the artifact was last built. */
static void explain_change(struct lq_build *build, const struct lq_node *node, const char *awaited)
{
    if (!build->options->explain) {
        return;
    }
    struct lq_buffer text;
    struct lq_manifest manifest;
    char *before = NULL;
    struct lq_error err;
    const char *label = lq_label_make(&build->arena, node->artifact, NULL, NULL);
    lq_buffer_init(&text);
    write_manifest(node, &manifest);
    if (awaited != NULL) {
        lq_buffer_printf(&text, "it needs %s, which is to be made anew\n", awaited);
    } else if (label != NULL && !manifest.text.failed &&
               lq_history_get(build->cache, label, &build->arena, &before, &err) == LQ_OK) {
        lq_manifest_explain(before, lq_buffer_text(&manifest.text), &text);
    }
    struct lq_event event = {.kind = LQ_EVENT_ARTIFACT_CHANGED,
                             .artifact = node->artifact->name,
                             .rule = node->artifact->rule->kind,
                             .explain = lq_buffer_text(&text)};
    if (text.size_bytes > 0 && !text.failed) {
        lq_build_event(build, &event);
    }
    lq_manifest_fini(&manifest);
    lq_buffer_fini(&text);
}

static bool always_expands(const struct lq_node *node)
{
    const struct lq_rule *rule = node->artifact->rule;
    return rule->always_expands != NULL && rule->always_expands(node->artifact);
}

static void look_up_or_expand(struct lq_build *build, struct lq_node *node)
{
    struct lq_error err;
    for (const struct lq_node_link *link = node->deps; link != NULL; link = link->next) {
        if (link->node->would_run) {
            /* A dry run can not see further: at least one step would run here. */
            explain_change(build, node, link->node->artifact->name);
            node->would_run = true;
            build->result->steps++;
            build->result->would_run++;
            done(build, node);
            return;
        }
    }
    enum lq_status status = make_key(node, &err);
    bool shortcut = !build->options->force && build->options->visit == NULL &&
                    !always_expands(node) && !node->forced_expand;
    if (status == LQ_OK && shortcut && take_shortcut(build, node)) {
        return;
    }
    bool lost = false;
    node->state = LQ_NODE_EXPANDING;
    if (status == LQ_OK) {
        explain_change(build, node, NULL);
        status = lq_expand_node(build, node, &lost, &err);
    }
    if (status == LQ_OK) {
        start_tasks(build, node);
    } else if (lost && recover_inputs(build, node)) {
        node->state = LQ_NODE_WAITING;
    } else {
        fail(build, node, status, &err);
    }
}

/* ---- from tasks to outputs ---- */

static enum lq_status resolve_output(struct lq_build *build, const struct lq_node *node,
                                     struct lq_node_output *output, struct lq_error *err)
{
    const struct lq_ref *ref = &output->ref;
    if (ref->kind == LQ_REF_STEP) {
        const struct lq_task *task = node->tasks[ref->index];
        for (size_t i = 0; i < task->spec.output_count; i++) {
            if (strcmp(task->outputs[i].name, ref->name) == 0) {
                output->digest = task->outputs[i].digest;
                output->size_bytes = task->outputs[i].size_bytes;
            }
        }
    } else if (ref->kind == LQ_REF_ARTIFACT) {
        const struct lq_node_output *other =
            lq_plan_output(lq_plan_node(build, ref->artifact), ref->name);
        output->digest = other->digest;
        output->size_bytes = other->size_bytes;
    } else if (ref->kind == LQ_REF_SOURCE) {
        const struct lq_source *source = lq_plan_node(build, ref->artifact)->sources[ref->index];
        output->digest = source->digest;
        output->size_bytes = source->sig.size_bytes;
    } else if (ref->kind == LQ_REF_BYTES) {
        output->size_bytes = ref->size_bytes;
        return lq_blob_put(build->cache, ref->data, (size_t)ref->size_bytes, &output->digest, err);
    } else {
        return lq_error_set(err, LQ_EINTERNAL, "rule '%s' binds '%s' to a part of a file",
                            node->artifact->rule->kind, output->name);
    }
    return LQ_OK;
}

/* The label names the artifact's result for pins and listings. */
static enum lq_status put_record(struct lq_build *build, const struct lq_node *node,
                                 const struct lq_action_record *record, struct lq_error *err)
{
    struct lq_manifest manifest;
    struct lq_arena arena;
    lq_arena_init(&arena);
    write_manifest(node, &manifest);
    char *label = lq_label_make(&arena, node->artifact, NULL, NULL);
    enum lq_status status = manifest.text.failed || label == NULL
                                ? lq_error_nomem(err, "a manifest")
                                : lq_action_put(build->cache, &node->key, record, label,
                                                lq_buffer_text(&manifest.text), err);
    lq_manifest_fini(&manifest);
    lq_arena_fini(&arena);
    return status;
}

static enum lq_status save_record(struct lq_build *build, const struct lq_node *node,
                                  struct lq_error *err)
{
    struct lq_action_output outputs[LQ_STEP_OUTPUTS_MAX];
    for (size_t i = 0; i < node->output_count; i++) {
        outputs[i] = (struct lq_action_output){.name = node->outputs[i].name,
                                               .digest = node->outputs[i].digest,
                                               .size_bytes = node->outputs[i].size_bytes};
    }
    const struct lq_action_record record = {
        .outputs = outputs,
        .output_count = node->output_count,
        .verdict = node->verdict,
        .verdict_text = node->verdict_text == NULL ? "" : node->verdict_text,
        .numerics = node->numerics == NULL ? "" : node->numerics,
        .step_count = node->task_count,
    };
    return put_record(build, node, &record, err);
}

/* What its tasks were computed by, each once, in the order of tasks. */
static const char *join_numerics(struct lq_build *build, const struct lq_node *node)
{
    const char *seen[8];
    size_t count = 0;
    const char *text = "";
    for (size_t i = 0; i < node->task_count && count < LQ_COUNT_OF(seen); i++) {
        const char *numerics = node->tasks[i]->numerics;
        size_t at = 0;
        while (numerics != NULL && at < count && strcmp(seen[at], numerics) != 0) {
            at++;
        }
        if (numerics != NULL && numerics[0] != '\0' && at == count) {
            seen[count++] = numerics;
            text = lq_arena_printf(&build->arena, "%s%s%s", text, count == 1 ? "" : "; ", numerics);
            if (text == NULL) {
                return NULL;
            }
        }
    }
    /* A record takes a name, no list of any length. */
    return strlen(text) > LQ_NAME_BYTES_MAX ? NULL : text;
}

static void collect(struct lq_build *build, struct lq_node *node)
{
    if (node->broken) {
        node->state = LQ_NODE_SKIPPED;
        announce(build, node, true);
        return;
    }
    struct lq_error err;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < node->task_count; i++) {
        if (node->tasks[i]->verdict != LQ_OK && node->verdict == LQ_OK) {
            node->verdict = node->tasks[i]->verdict;
            node->verdict_text = node->tasks[i]->verdict_text;
        }
    }
    node->numerics = join_numerics(build, node);
    for (size_t i = 0; i < node->output_count && status == LQ_OK && !node->would_run; i++) {
        status = resolve_output(build, node, &node->outputs[i], &err);
    }
    if (status == LQ_OK && !node->would_run && !always_expands(node)) {
        status = save_record(build, node, &err);
        if (status == LQ_OK && build->options->visit != NULL) {
            build->options->visit(build->options->visit_user, &node->key);
        }
        if (status == LQ_OK && node->ran) {
            lq_share_send(build, &node->key);
        }
    }
    if (status != LQ_OK) {
        fail(build, node, status, &err);
        return;
    }
    place(build, node);
}

/* A remote has answered: the cache has what it said. */
void lq_node_asked(struct lq_build *build, struct lq_job *job)
{
    struct lq_node *node = job->node;
    node->state = LQ_NODE_WAITING;
    if (build->stopping) {
        return;
    }
    if (!node->remaking) {
        look_up_or_expand(build, node);
        return;
    }
    node->remaking = false;
    bool here = true;
    for (size_t i = 0; i < node->output_count; i++) {
        here = here && lq_node_has_content(build, &node->outputs[i].digest);
    }
    if (here) {
        place(build, node);
    } else {
        make_again(build, node);
    }
}

void lq_node_task_over(struct lq_build *build, struct lq_node *node)
{
    node->tasks_left--;
    if (node->tasks_left == 0) {
        lq_node_queue(build, node);
    }
}

/* ---- sources ---- */

static void hash_sources(struct lq_build *build, struct lq_node *node)
{
    struct lq_error err;
    size_t pending = 0;
    enum lq_status status = lq_source_check(build, node, &pending, &err);
    node->state = LQ_NODE_HASHING;
    for (size_t i = 0; i < node->source_count && status == LQ_OK; i++) {
        struct lq_source *source = node->sources[i];
        if (source->known) {
            continue;
        }
        struct lq_node_link *link = lq_arena_get(&build->arena, sizeof *link);
        if (link == NULL) {
            status = lq_error_nomem(&err, "a source file");
            break;
        }
        *link = (struct lq_node_link){.node = node, .next = source->waiting};
        source->waiting = link;
        if (source->hashing) {
            continue;
        }
        struct lq_job *job = lq_build_job(LQ_JOB_HASH);
        if (job == NULL) {
            status = lq_error_nomem(&err, "a source file");
            break;
        }
        job->source = source;
        source->hashing = true;
        status = lq_build_submit(build, job, lq_source_perform);
        if (status != LQ_OK) {
            err = job->err;
            source->hashing = false;
            free(job);
        }
    }
    if (status != LQ_OK) {
        fail(build, node, status, &err);
    } else if (pending == 0) {
        look_up_or_expand(build, node);
    }
}

void lq_node_hashed(struct lq_build *build, struct lq_job *job)
{
    struct lq_source *source = job->source;
    source->hashing = false;
    if (job->status == LQ_OK) {
        lq_source_set_known(build, source);
    }
    struct lq_event event = {.kind = LQ_EVENT_SOURCE_HASHED,
                             .label = source->path,
                             .seconds = job->seconds,
                             .total = source->sig.size_bytes};
    lq_build_event(build, &event);
    struct lq_node_link *link = source->waiting;
    source->waiting = NULL;
    for (; link != NULL; link = link->next) {
        struct lq_node *node = link->node;
        bool complete = true;
        for (size_t k = 0; k < node->source_count; k++) {
            complete = complete && node->sources[k]->known;
        }
        if (node->state == LQ_NODE_HASHING && job->status != LQ_OK) {
            fail(build, node, job->status, &job->err);
        } else if (node->state == LQ_NODE_HASHING && complete) {
            lq_node_queue(build, node);
        }
    }
}

void lq_node_advance(struct lq_build *build, struct lq_node *node)
{
    node->queued = false;
    if (node->state == LQ_NODE_RUNNING && node->tasks_left == 0) {
        collect(build, node);
    } else if (node->state == LQ_NODE_WAITING || node->state == LQ_NODE_HASHING) {
        if (node->doomed) {
            node->state = LQ_NODE_SKIPPED;
            announce(build, node, true);
        } else {
            hash_sources(build, node);
        }
    }
}

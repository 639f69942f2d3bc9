/* `lqbuild explain TARGET` and `lqbuild why-miss TARGET`: a dry run that tells reasons. The first
 * puts steps with one reason together; the second names every step with the key that it has now and
 * the one it was last built with. */
#include <string.h>

#include "engine/base/json.h"
#include "engine/cli/commands.h"

enum { GROUPS_MAX = 256 };

/* Steps of one artifact that would run for one reason. */
struct group {
    const char *artifact;
    const char *reason;
    const char *first;
    uint64_t count;
};

struct answer {
    struct lq_cli *cli;
    bool by_step;
    struct lq_buffer out;
    struct group groups[GROUPS_MAX];
    size_t group_count;
    uint64_t step_count;
    uint64_t changed_count;
    const char *numerics; /* what computed the target */
};

static const char *keep(struct answer *answer, const char *text)
{
    const char *copy = lq_arena_dup_string(&answer->cli->arena, text == NULL ? "" : text);
    return copy == NULL ? "" : copy;
}

/* Lines with an indent. */
static void put_lines(struct lq_buffer *out, const char *text, const char *indent)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        lq_buffer_printf(out, "%s%.*s\n", indent, (int)length, text);
        text += length;
        text += *text == '\n' ? 1 : 0;
    }
}

static void put_reason_json(struct answer *answer, const struct lq_event *event, const char *kind)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, &answer->out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "event", kind);
    lq_json_put_string(&writer, "artifact", event->artifact == NULL ? "" : event->artifact);
    if (event->op != NULL) {
        lq_json_put_string(&writer, "op", event->op);
        lq_json_put_string(&writer, "label", event->label == NULL ? "" : event->label);
    }
    if (event->key != NULL) {
        lq_json_put_string(&writer, "key", lq_digest_to_hex(event->key, hex));
    }
    if (event->key_before != NULL && !lq_digest_is_zero(event->key_before)) {
        lq_json_put_string(&writer, "key_before", lq_digest_to_hex(event->key_before, hex));
    }
    lq_json_put_string(&writer, "explain", event->explain == NULL ? "" : event->explain);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&answer->out, '\n');
}

static void note_group(struct answer *answer, const struct lq_event *event)
{
    for (size_t i = 0; i < answer->group_count; i++) {
        struct group *group = &answer->groups[i];
        if (strcmp(group->artifact, event->artifact) == 0 &&
            strcmp(group->reason, event->explain) == 0) {
            group->count++;
            return;
        }
    }
    if (answer->group_count < GROUPS_MAX) {
        const char *first = lq_arena_printf(&answer->cli->arena, "%s %s", event->op,
                                            event->label == NULL ? "" : event->label);
        answer->groups[answer->group_count++] =
            (struct group){.artifact = keep(answer, event->artifact),
                           .reason = keep(answer, event->explain),
                           .first = first == NULL ? "" : first,
                           .count = 1};
    }
}

static void put_step(struct answer *answer, const struct lq_event *event)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    bool known = event->key_before != NULL && !lq_digest_is_zero(event->key_before);
    lq_buffer_printf(&answer->out, "%s %s\n", event->op, event->label == NULL ? "" : event->label);
    lq_buffer_printf(&answer->out, "    key now     %s\n",
                     event->key == NULL ? "not known before its inputs are made"
                                        : lq_digest_to_hex(event->key, hex));
    lq_buffer_printf(&answer->out, "    key before  %s\n",
                     known ? lq_digest_to_hex(event->key_before, hex) : "none");
    put_lines(&answer->out, event->explain, "    ");
}

/* Flushes what has been gathered about an artifact when the next one begins. */
static void flush_groups(struct answer *answer)
{
    for (size_t i = 0; i < answer->group_count; i++) {
        const struct group *group = &answer->groups[i];
        lq_buffer_printf(&answer->out, "  %s", group->first);
        if (group->count > 1) {
            lq_buffer_printf(&answer->out, " and %llu more",
                             (unsigned long long)(group->count - 1));
        }
        lq_buffer_append_string(&answer->out, " would run:\n");
        put_lines(&answer->out, group->reason, "      ");
    }
    answer->group_count = 0;
}

static void take_event(void *user, const struct lq_event *event)
{
    struct answer *answer = user;
    bool would_run = event->kind == LQ_EVENT_STEP_STARTED && event->explain != NULL &&
                     event->artifact != NULL && event->op != NULL;
    if (event->kind == LQ_EVENT_ARTIFACT_CHANGED && event->explain != NULL) {
        answer->changed_count++;
        if (answer->cli->json) {
            put_reason_json(answer, event, "artifact-changed");
            return;
        }
        flush_groups(answer);
        lq_buffer_printf(&answer->out, "%s %s\n", event->rule, event->artifact);
        put_lines(&answer->out, event->explain, "  ");
    } else if (would_run) {
        answer->step_count++;
        if (answer->cli->json) {
            put_reason_json(answer, event, "step-would-run");
        } else if (answer->by_step) {
            put_step(answer, event);
        } else {
            note_group(answer, event);
        }
    } else if (event->kind == LQ_EVENT_ARTIFACT_DONE && event->numerics != NULL &&
               strcmp(event->artifact, answer->cli->args.operands[0]) == 0) {
        answer->numerics = keep(answer, event->numerics);
    }
}

/* The target is there: what computed it. */
static void put_current(struct answer *answer)
{
    const char *target = answer->cli->args.operands[0];
    bool known = answer->numerics != NULL && answer->numerics[0] != '\0';
    if (answer->cli->json) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &answer->out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "event", "current");
        lq_json_put_string(&writer, "artifact", target);
        lq_json_put_string(&writer, "computed_by", known ? answer->numerics : "");
        lq_json_end_object(&writer);
        lq_buffer_append_char(&answer->out, '\n');
        return;
    }
    lq_buffer_printf(&answer->out, "%s: nothing has changed since it was last built\n", target);
    /* What involves no arithmetic with fractions needs no such remark. */
    if (known && strcmp(answer->numerics, "exact") != 0) {
        lq_buffer_printf(&answer->out, "  computed by %s\n", answer->numerics);
    }
}

enum lq_status lq_command_explain(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    struct answer answer = {.cli = cli, .by_step = strcmp(cli->command->name, "why-miss") == 0};
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    lq_buffer_init(&answer.out);
    if (status == LQ_OK && lq_recipe_find(recipe, cli->args.operands[0]) == NULL) {
        const char *nearest = lq_recipe_suggest(recipe, cli->args.operands[0]);
        status = lq_error_set(err, LQ_EUSAGE, "unknown target '%s'%s%s%s", cli->args.operands[0],
                              nearest == NULL ? "; 'lqbuild graph' lists the artifacts"
                                              : "; did you mean '",
                              nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
    }
    if (status == LQ_OK) {
        struct lq_cli_build build = {.recipe = recipe,
                                     .targets = cli->args.operands,
                                     .target_count = 1,
                                     .watch = take_event,
                                     .user = &answer};
        cli->dry_run = true;
        cli->explain = true;
        status = lq_cli_build(cli, &build, NULL, err);
    }
    if (status == LQ_OK) {
        flush_groups(&answer);
        if (answer.step_count == 0 && answer.changed_count == 0) {
            put_current(&answer);
        }
        lq_cli_print(&answer.out);
    }
    lq_buffer_fini(&answer.out);
    lq_recipe_destroy(recipe);
    return status;
}

/* Small rules for tests of the engine: text in, text out, with every feature of the contract that
 * the real rules use. Each run of a step appends "op label" to the file named by fake_log_path, so
 * that a test can count runs over several processes. Header only; include it in one test program.
 */
#ifndef LQ_TESTS_FAKE_RULES_H
#define LQ_TESTS_FAKE_RULES_H

#include <ctype.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/rule.h"

static char fake_log_path[4096];
/* The label of a step that fails, or "". */
static char fake_fail_label[64];
/* Set by the test: cancelled from within the step with this label. */
static char fake_cancel_label[64];
static atomic_bool fake_cancel;
static unsigned fake_step_ms;
/* Links of chains hold their states; the link with this label fails at its first attempts. */
static bool fake_holds;
static char fake_retry_label[64];
static unsigned fake_retry_failures;
static char fake_first_error[LQ_ERROR_BYTES];
/* Links hand on objects instead; those of the link with this label cannot be read, so many times.
 */
static bool fake_objects;
static char fake_lost_label[64];
static unsigned fake_lost_reads;
static atomic_int fake_objects_alive;
static atomic_uint fake_objects_taken;

struct fake_object {
    struct lq_object object;
    bool is_lost;
    char bytes[256];
};

static enum lq_status fake_object_read(struct lq_object *object, uint64_t offset, void *out,
                                       size_t size_bytes, struct lq_error *err)
{
    struct fake_object *self = (struct fake_object *)object;
    if (self->is_lost && fake_lost_reads > 0) {
        fake_lost_reads--;
        return lq_error_set(err, LQ_EFAIL, "the object is lost");
    }
    memcpy(out, self->bytes + offset, size_bytes);
    return LQ_OK;
}

static void fake_object_destroy(struct lq_object *object)
{
    atomic_fetch_sub(&fake_objects_alive, 1);
    free(object);
}

static enum lq_status fake_hand_on(struct lq_run *run, const void *data, size_t size_bytes,
                                   const char *label, struct lq_error *err)
{
    struct fake_object *object = calloc(1, sizeof *object);
    object->object =
        (struct lq_object){size_bytes + strlen(label), fake_object_read, fake_object_destroy};
    object->is_lost = strcmp(label, fake_lost_label) == 0;
    memcpy(object->bytes, data, size_bytes);
    memcpy(object->bytes + size_bytes, label, strlen(label));
    atomic_fetch_add(&fake_objects_alive, 1);
    if (!lq_run_hold_object(run, "state", &object->object)) {
        return lq_error_set(err, LQ_EFAIL, "the object cannot be held");
    }
    atomic_fetch_add(&fake_objects_taken, lq_run_input_object(run, "state") != NULL);
    return lq_run_write(run, "stats", label, strlen(label), err);
}

/* The step "lower" says at its end whether this file is there. */
static char fake_watched_path[4096];
static atomic_bool fake_watched_exists;

static void fake_log(const char *op, const char *label)
{
    int fd = open(fake_log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char line[256];
    int length = snprintf(line, sizeof line, "%s %s\n", op, label);
    if (fd >= 0) {
        if (write(fd, line, (size_t)length) != length) {
            abort();
        }
        close(fd);
    }
}

static enum lq_status fake_begin(struct lq_run *run, const char *op, struct lq_error *err)
{
    const char *label = lq_run_param(run, "label") == NULL ? "" : lq_run_param(run, "label");
    fake_log(op, label);
    if (fake_step_ms != 0) {
        struct timespec pause = {.tv_sec = fake_step_ms / 1000,
                                 .tv_nsec = (long)(fake_step_ms % 1000) * 1000000};
        nanosleep(&pause, NULL);
    }
    if (fake_cancel_label[0] != '\0' && strcmp(label, fake_cancel_label) == 0) {
        atomic_store(&fake_cancel, true);
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    if (fake_fail_label[0] != '\0' && strcmp(label, fake_fail_label) == 0) {
        return lq_error_set(err, LQ_EIMPORTANCE, "step '%s' was told to fail", label);
    }
    return LQ_OK;
}

/* ---- file: a source, unchanged ---- */

static enum lq_status file_sources(const struct lq_artifact *artifact, struct lq_sources *sources,
                                   struct lq_error *err)
{
    return lq_sources_add(sources, lq_attr_path(artifact, "path"), NULL, LQ_ECALIBRATION, err);
}

static enum lq_status file_expand(struct lq_expand *expand, struct lq_error *err)
{
    struct lq_ref ref = lq_ref_source(lq_expand_artifact(expand), 0);
    return lq_expand_bind_output(expand, "main", &ref, err);
}

static const struct lq_attr_spec file_attrs[] = {
    {.name = "path", .type = LQ_ATTR_PATH, .required = true, .help = "file"},
};
static const struct lq_rule fake_file = {
    .kind = "file",
    .version = 1,
    .help = "a file as it is",
    .attrs = file_attrs,
    .attr_count = 1,
    .sources = file_sources,
    .expand = file_expand,
};

/* ---- lower: one step; the same output for inputs that differ in case only ---- */

static enum lq_status lower_run(struct lq_run *run, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = fake_begin(run, "lower", err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "text", &data, &size_bytes, err);
    }
    for (uint64_t i = 0; i < size_bytes && status == LQ_OK; i++) {
        char c = (char)tolower(((const unsigned char *)data)[i]);
        status = lq_run_write(run, "out", &c, 1, err);
    }
    atomic_store(&fake_watched_exists, access(fake_watched_path, F_OK) == 0);
    return status;
}

static enum lq_status lower_expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const struct lq_step_input input = {"text",
                                        lq_ref_artifact(lq_attr_ref(artifact, "input", 0), "main")};
    const struct lq_step_output output = {"out", false};
    const struct lq_step step = {.op = "lower",
                                 .version = 1,
                                 .label = "",
                                 .run = lower_run,
                                 .inputs = &input,
                                 .input_count = 1,
                                 .outputs = &output,
                                 .output_count = 1};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(expand, &step, &index, err);
    struct lq_ref ref = lq_ref_step(index, "out");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &ref, err) : status;
}

static const struct lq_attr_spec lower_attrs[] = {
    {.name = "input",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "file lower lines chain",
     .help = "text"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "output"},
};
static const struct lq_rule fake_lower = {
    .kind = "lower",
    .version = 1,
    .help = "lower case",
    .attrs = lower_attrs,
    .attr_count = 2,
    .expand = lower_expand,
};

/* ---- lines: one step a line, then an assembly; like one step a tensor ---- */

static enum lq_status line_run(struct lq_run *run, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = fake_begin(run, "line", err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "line", &data, &size_bytes, err);
    }
    const char *mark = lq_run_param(run, "mark");
    if (status == LQ_OK) {
        status = lq_run_write(run, "out", mark, strlen(mark), err);
    }
    return status == LQ_OK ? lq_run_write(run, "out", data, (size_t)size_bytes, err) : status;
}

static enum lq_status join_run(struct lq_run *run, struct lq_error *err)
{
    enum lq_status status = fake_begin(run, "join", err);
    for (unsigned i = 0; status == LQ_OK; i++) {
        char name[24];
        snprintf(name, sizeof name, "part%u", i);
        if (!lq_run_has_input(run, name)) {
            break;
        }
        status = lq_run_write_input(run, "out", name, err);
        if (status == LQ_OK) {
            status = lq_run_write(run, "out", "\n", 1, err);
        }
    }
    if (status == LQ_OK && strcmp(lq_run_param(run, "verdict"), "bad") == 0) {
        lq_run_verdict(run, LQ_EQUALITY, "the text is bad");
    }
    return status;
}

static enum lq_status lines_expand(struct lq_expand *expand, struct lq_error *err)
{
    enum { LINES_MAX = 64 };
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_ref text = lq_ref_artifact(lq_attr_ref(artifact, "input", 0), "main");
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &text, &data, &size_bytes, err);
    struct lq_step_input parts[LINES_MAX];
    size_t count = 0;
    const char *cursor = data;
    const char *end = cursor + size_bytes;
    while (status == LQ_OK && cursor < end && count < LINES_MAX) {
        const char *stop = memchr(cursor, '\n', (size_t)(end - cursor));
        stop = stop == NULL ? end : stop;
        char *line = lq_arena_dup(lq_expand_arena(expand), cursor, (size_t)(stop - cursor));
        const struct lq_step_input input = {"line", lq_ref_bytes(line, (uint64_t)(stop - cursor))};
        const struct lq_step_param params[] = {{"label", line},
                                               {"mark", lq_attr_string(artifact, "mark")}};
        const struct lq_step_output output = {"out", false};
        const struct lq_step step = {.op = "line",
                                     .version = 1,
                                     .label = line,
                                     .run = line_run,
                                     .params = params,
                                     .param_count = 2,
                                     .inputs = &input,
                                     .input_count = 1,
                                     .outputs = &output,
                                     .output_count = 1};
        size_t index = 0;
        status = lq_expand_add_step(expand, &step, &index, err);
        parts[count].name = lq_arena_printf(lq_expand_arena(expand), "part%zu", count);
        parts[count].ref = lq_ref_step(index, "out");
        count++;
        cursor = stop + 1;
    }
    const struct lq_step_output output = {"out", false};
    const struct lq_step_param param = {"verdict", lq_attr_string(artifact, "verdict")};
    const struct lq_step step = {.op = "join",
                                 .version = 1,
                                 .label = "all",
                                 .run = join_run,
                                 .params = &param,
                                 .param_count = 1,
                                 .inputs = parts,
                                 .input_count = count,
                                 .outputs = &output,
                                 .output_count = 1};
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &index, err);
    }
    struct lq_ref ref = lq_ref_step(index, "out");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &ref, err) : status;
}

static const struct lq_attr_spec lines_attrs[] = {
    {.name = "input",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "file lower lines chain",
     .help = "text"},
    {.name = "mark", .type = LQ_ATTR_STRING, .default_text = "\"> \"", .help = "put before lines"},
    {.name = "verdict", .type = LQ_ATTR_STRING, .default_text = "\"good\"", .help = "judgement"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "output"},
};
static const struct lq_rule fake_lines = {
    .kind = "lines",
    .version = 1,
    .help = "marks lines",
    .attrs = lines_attrs,
    .attr_count = 4,
    .expand = lines_expand,
};

/* ---- chain: steps that hand a transient state on; like one step a layer ---- */

static enum lq_status link_run(struct lq_run *run, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = fake_begin(run, "link", err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "state", &data, &size_bytes, err);
    }
    const char *label = lq_run_param(run, "label");
    if (fake_holds && !fake_objects) {
        lq_run_hold(run, "state");
    }
    if (status == LQ_OK && strcmp(label, fake_retry_label) == 0) {
        const struct lq_error *first = lq_run_first_error(run);
        snprintf(fake_first_error, sizeof fake_first_error, "%s",
                 first == NULL ? "" : first->message);
        lq_run_allow_retry(run);
        if (fake_retry_failures > 0) {
            fake_retry_failures--;
            (void)lq_run_write(run, "state", "garbage", 7, err);
            (void)lq_run_write(run, "stats", "garbage", 7, err);
            return lq_error_set(err, LQ_EIMPORTANCE, "%u failures are left", fake_retry_failures);
        }
    }
    if (status == LQ_OK && fake_objects) {
        return fake_hand_on(run, data, (size_t)size_bytes, label, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "state", data, (size_t)size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "state", label, strlen(label), err);
    }
    return status == LQ_OK ? lq_run_write(run, "stats", label, strlen(label), err) : status;
}

static enum lq_status chain_expand(struct lq_expand *expand, struct lq_error *err)
{
    enum { LINKS_MAX = 32 };
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    size_t count = (size_t)lq_attr_int(artifact, "links");
    struct lq_ref state = lq_ref_artifact(lq_attr_ref(artifact, "input", 0), "main");
    struct lq_step_input stats[LINKS_MAX];
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        char *label = lq_arena_printf(lq_expand_arena(expand), "link%zu", i);
        const struct lq_step_input input = {"state", state};
        const struct lq_step_param param = {"label", label};
        const struct lq_step_output outputs[] = {{"stats", false}, {"state", true}};
        const struct lq_step step = {.op = "link",
                                     .version = 1,
                                     .label = label,
                                     .run = link_run,
                                     .params = &param,
                                     .param_count = 1,
                                     .inputs = &input,
                                     .input_count = 1,
                                     .outputs = outputs,
                                     .output_count = 2,
                                     .parallel = true};
        size_t index = 0;
        status = lq_expand_add_step(expand, &step, &index, err);
        state = lq_ref_step(index, "state");
        stats[i].name = lq_arena_printf(lq_expand_arena(expand), "part%zu", i);
        stats[i].ref = lq_ref_step(index, "stats");
    }
    const struct lq_step_output output = {"out", false};
    const struct lq_step_param param = {"verdict", "good"};
    const struct lq_step step = {.op = "join",
                                 .version = 1,
                                 .label = "all",
                                 .run = join_run,
                                 .params = &param,
                                 .param_count = 1,
                                 .inputs = stats,
                                 .input_count = count,
                                 .outputs = &output,
                                 .output_count = 1};
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &index, err);
    }
    struct lq_ref ref = lq_ref_step(index, "out");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &ref, err) : status;
}

static const struct lq_attr_spec chain_attrs[] = {
    {.name = "input",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "file lower lines chain",
     .help = "text"},
    {.name = "links",
     .type = LQ_ATTR_INT,
     .default_text = "4",
     .min = 1,
     .max = 32,
     .help = "how many"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "output"},
};
static const struct lq_rule fake_chain = {
    .kind = "chain",
    .version = 1,
    .help = "a chain of steps",
    .attrs = chain_attrs,
    .attr_count = 3,
    .expand = chain_expand,
};

/* ---- hops: steps that hand the same bytes on, the first one in lower case. A letter a step: 't'
 * has a transient output, 'k' one that is kept; a capital's output is also read at the end. ---- */

static enum lq_status hop_run(struct lq_run *run, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = fake_begin(run, "hop", err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "in", &data, &size_bytes, err);
    }
    for (uint64_t i = 0; i < size_bytes && status == LQ_OK; i++) {
        char c = (char)tolower(((const unsigned char *)data)[i]);
        status = lq_run_write(run, "out", &c, 1, err);
    }
    return status;
}

static enum lq_status hops_expand(struct lq_expand *expand, struct lq_error *err)
{
    enum { HOPS_MAX = 16 };
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const char *kinds = lq_attr_string(artifact, "kinds");
    struct lq_ref before = lq_ref_artifact(lq_attr_ref(artifact, "input", 0), "main");
    struct lq_step_input parts[HOPS_MAX];
    size_t part_count = 0;
    size_t index = 0;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; kinds[i] != '\0' && i < HOPS_MAX && status == LQ_OK; i++) {
        char *label = lq_arena_printf(lq_expand_arena(expand), "hop%zu", i);
        const struct lq_step_input input = {"in", before};
        const struct lq_step_param params[] = {{"label", label},
                                               {"mark", lq_attr_string(artifact, "mark")}};
        const struct lq_step_output output = {"out", tolower((unsigned char)kinds[i]) == 't'};
        const struct lq_step step = {.op = "hop",
                                     .version = 1,
                                     .label = label,
                                     .run = hop_run,
                                     .params = params,
                                     .param_count = 2,
                                     .inputs = &input,
                                     .input_count = 1,
                                     .outputs = &output,
                                     .output_count = 1};
        status = lq_expand_add_step(expand, &step, &index, err);
        before = lq_ref_step(index, "out");
        if (kinds[i + 1] == '\0' || isupper((unsigned char)kinds[i])) {
            parts[part_count].name =
                lq_arena_printf(lq_expand_arena(expand), "part%zu", part_count);
            parts[part_count++].ref = before;
        }
    }
    const struct lq_step_output output = {"out", false};
    const struct lq_step_param param = {"verdict", "good"};
    const struct lq_step step = {.op = "join",
                                 .version = 1,
                                 .label = "all",
                                 .run = join_run,
                                 .params = &param,
                                 .param_count = 1,
                                 .inputs = parts,
                                 .input_count = part_count,
                                 .outputs = &output,
                                 .output_count = 1};
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &index, err);
    }
    struct lq_ref ref = lq_ref_step(index, "out");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &ref, err) : status;
}

static const struct lq_attr_spec hops_attrs[] = {
    {.name = "input",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "file lower lines chain",
     .help = "text"},
    {.name = "kinds", .type = LQ_ATTR_STRING, .required = true, .help = "a letter a step"},
    {.name = "mark", .type = LQ_ATTR_STRING, .default_text = "\"\"", .help = "makes keys differ"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "output"},
};
static const struct lq_rule fake_hops = {
    .kind = "hops",
    .version = 1,
    .help = "steps with equal outputs",
    .attrs = hops_attrs,
    .attr_count = 4,
    .expand = hops_expand,
};

static const struct lq_rule *const fake_rules[] = {&fake_chain, &fake_file, &fake_hops, &fake_lines,
                                                   &fake_lower};
static const struct lq_registry fake_registry = {.rules = fake_rules, .rule_count = 5};

#endif

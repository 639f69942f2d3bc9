/* The rule `command`: a program of the user's as a step. It runs in a fresh folder that holds its
 * inputs under stable names and the files it declares, with an environment of its own, so that what
 * it makes follows from what its key names. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/scratch.h"
#include "engine/base/text.h"
#include "rules/registry.h"

enum {
    COMMAND_LIST_MAX = 1000, /* inputs, outputs, files and variables each */
    STDERR_TAIL_BYTES = 1200,
    POLL_NS_MIN = 200 * 1000,
    POLL_NS_MAX = 10 * 1000 * 1000,
    POLL_MS = 10,
};

static const struct lq_attr_spec attrs[] = {
    {.name = "run",
     .type = LQ_ATTR_STRING,
     .required = true,
     .help = "shell command; $in, $in1, $out, $out1 ... stand for quoted paths, $$ for $"},
    {.name = "inputs", .type = LQ_ATTR_REF_LIST, .help = "artifacts whose main outputs it reads"},
    {.name = "outputs",
     .type = LQ_ATTR_OUT_PATH_LIST,
     .required = true,
     .help = "relative paths that it writes; the first is the artifact"},
    {.name = "files",
     .type = LQ_ATTR_STRING_LIST,
     .help = "files beside the recipe that it uses, such as scripts; a first word ./x counts"},
    {.name = "env",
     .type = LQ_ATTR_STRING_LIST,
     .help = "names of environment variables that it may see; their values are part of the key"},
};

/* True for a path that stays inside the folder it is put in. */
static bool is_inside(const char *path)
{
    if (path[0] == '\0' || path[0] == '/' || path[strlen(path) - 1] == '/') {
        return false;
    }
    for (const char *at = path; at != NULL; at = strchr(at, '/')) {
        at += *at == '/';
        if (at[0] == '.' && at[1] == '.' && (at[2] == '/' || at[2] == '\0')) {
            return false;
        }
    }
    return true;
}

static bool is_variable_name(const char *name)
{
    if (!isalpha((unsigned char)name[0]) && name[0] != '_') {
        return false;
    }
    for (; *name != '\0'; name++) {
        if (!isalnum((unsigned char)*name) && *name != '_') {
            return false;
        }
    }
    return true;
}

static enum lq_status check_list(const struct lq_artifact *artifact, const char *attr,
                                 bool (*accept)(const char *item), const char *expected,
                                 struct lq_error *err)
{
    size_t count = lq_attr_count(artifact, attr);
    if (count > COMMAND_LIST_MAX) {
        return lq_attr_error(artifact, attr, err, LQ_ERECIPE, "%zu items, expected at most %d",
                             count, COMMAND_LIST_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const char *item = lq_attr_item(artifact, attr, i);
        if (!accept(item)) {
            return lq_attr_error(artifact, attr, err, LQ_ERECIPE, "'%s' is not %s", item, expected);
        }
    }
    return LQ_OK;
}

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    size_t outputs = lq_attr_count(artifact, "outputs");
    if (outputs == 0 || outputs > LQ_STEP_OUTPUTS_MAX) {
        return lq_attr_error(artifact, "outputs", err, LQ_ERECIPE,
                             "a command has %zu outputs, expected 1 to %d", outputs,
                             LQ_STEP_OUTPUTS_MAX);
    }
    if (lq_attr_count(artifact, "inputs") > COMMAND_LIST_MAX) {
        return lq_attr_error(artifact, "inputs", err, LQ_ERECIPE, "more than %d inputs",
                             COMMAND_LIST_MAX);
    }
    enum lq_status status = check_list(artifact, "outputs", is_inside,
                                       "a relative path below the recipe's folder", err);
    if (status == LQ_OK) {
        status = check_list(artifact, "files", is_inside,
                            "a relative path below the recipe's folder", err);
    }
    if (status == LQ_OK) {
        status = check_list(artifact, "env", is_variable_name, "the name of a variable", err);
    }
    return status;
}

/* ------------------------------------------------------------------- files ---- */

/* The script in "./score.sh $in", or NULL: *length is that of "score.sh". */
static const char *first_word(const char *run, size_t *length)
{
    run += strspn(run, " \t\n");
    if (run[0] != '.' || run[1] != '/') {
        return NULL;
    }
    *length = strcspn(run + 2, " \t\n;|&<>()$`\"'\\*?[#~");
    return *length > 0 ? run + 2 : NULL;
}

/* The files that the command uses, in the order of sources. */
static enum lq_status list_files(const struct lq_artifact *artifact, struct lq_arena *arena,
                                 const char ***names, size_t *count, struct lq_error *err)
{
    size_t listed = lq_attr_count(artifact, "files");
    *names = lq_arena_get_array(arena, listed + 1, sizeof **names);
    if (*names == NULL) {
        return lq_error_nomem(err, "the files of a command");
    }
    *count = 0;
    for (size_t i = 0; i < listed; i++) {
        (*names)[(*count)++] = lq_attr_item(artifact, "files", i);
    }
    size_t length = 0;
    const char *word = first_word(lq_attr_string(artifact, "run"), &length);
    char *name = word == NULL ? NULL : lq_arena_dup(arena, word, length);
    if (word != NULL && name == NULL) {
        return lq_error_nomem(err, "the files of a command");
    }
    bool is_new = name != NULL && is_inside(name);
    for (size_t i = 0; is_new && i < listed; i++) {
        is_new = strcmp((*names)[i], name) != 0;
    }
    if (is_new) {
        (*names)[(*count)++] = name;
    }
    return LQ_OK;
}

static enum lq_status sources(const struct lq_artifact *artifact, struct lq_sources *list,
                              struct lq_error *err)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    const char **names = NULL;
    size_t count = 0;
    enum lq_status status = list_files(artifact, &arena, &names, &count, err);
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        const char *path = lq_path_join(&arena, lq_artifact_dir(artifact), names[i]);
        status = path == NULL ? lq_error_nomem(err, "the files of a command")
                              : lq_sources_add(list, path, NULL, LQ_EIO, err);
    }
    lq_arena_fini(&arena);
    return status;
}

/* ------------------------------------------------------------------ expand ---- */

static void append_quoted(struct lq_buffer *out, const char *text)
{
    lq_buffer_append_char(out, '\'');
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            lq_buffer_append_string(out, "'\\''");
        } else {
            lq_buffer_append_char(out, *text);
        }
    }
    lq_buffer_append_char(out, '\'');
}

/* "in2-small.gguf": a name for input `index` that does not depend on where it lies. */
static char *input_name(struct lq_arena *arena, const struct lq_artifact *artifact, size_t index)
{
    const struct lq_artifact *input = lq_attr_ref(artifact, "inputs", index);
    const char *extension = "";
    if (lq_attr_is_set(input, "path") && lq_attr_string(input, "path") != NULL) {
        extension = lq_path_extension(lq_attr_string(input, "path"));
    }
    char *name =
        lq_arena_printf(arena, "in%zu-%s%s", index + 1, lq_artifact_name(input), extension);
    for (char *at = name; at != NULL && *at != '\0'; at++) {
        *at = *at == '/' ? '_' : *at;
    }
    return name;
}

struct names {
    const char *prefix;
    const char *const *items;
    size_t count;
};

/* Appends what "$in", "$in3" stand for; returns the characters used after '$', 0 for none. */
static size_t append_names(const char *at, const struct names *names, struct lq_buffer *out,
                           bool *bad)
{
    size_t length = strlen(names->prefix);
    if (strncmp(at, names->prefix, length) != 0) {
        return 0;
    }
    size_t digits = strspn(at + length, "0123456789");
    char next = at[length + digits];
    if (isalnum((unsigned char)next) || next == '_') {
        return 0;
    }
    if (digits == 0) {
        for (size_t i = 0; i < names->count; i++) {
            if (i > 0) {
                lq_buffer_append_char(out, ' ');
            }
            append_quoted(out, names->items[i]);
        }
        return length;
    }
    size_t number = digits > 6 ? 0 : (size_t)strtoul(at + length, NULL, 10);
    if (number < 1 || number > names->count) {
        *bad = true;
        return length + digits;
    }
    append_quoted(out, names->items[number - 1]);
    return length + digits;
}

static enum lq_status expand_run(const struct lq_artifact *artifact, const struct names *in,
                                 const struct names *out_names, struct lq_buffer *out,
                                 struct lq_error *err)
{
    bool bad = false;
    for (const char *at = lq_attr_string(artifact, "run"); *at != '\0'; at++) {
        if (*at != '$') {
            lq_buffer_append_char(out, *at);
            continue;
        }
        if (at[1] == '$') {
            lq_buffer_append_char(out, '$');
            at++;
            continue;
        }
        size_t used = append_names(at + 1, in, out, &bad);
        used = used > 0 ? used : append_names(at + 1, out_names, out, &bad);
        if (bad) {
            return lq_attr_error(artifact, "run", err, LQ_ERECIPE,
                                 "'%.*s' has no counterpart: there are %zu inputs and %zu outputs",
                                 (int)used + 1, at, in->count, out_names->count);
        }
        if (used == 0) {
            lq_buffer_append_char(out, '$');
        }
        at += used;
    }
    return out->failed ? lq_error_nomem(err, "a command") : LQ_OK;
}

/* Everything `run` needs, as parameters and inputs of one step. */
struct plan {
    struct lq_arena *arena;
    struct lq_step_param *params;
    size_t param_count;
    struct lq_step_input *inputs;
    size_t input_count;
    struct lq_step_output *outputs;
    size_t output_count;
    const char **in_names;
    const char **out_names;
};

static void add_param(struct plan *plan, const char *name, const char *value)
{
    plan->params[plan->param_count++] = (struct lq_step_param){name, value};
}

static enum lq_status plan_init(struct plan *plan, const struct lq_artifact *artifact,
                                size_t file_count, struct lq_error *err)
{
    size_t in = lq_attr_count(artifact, "inputs");
    size_t out = lq_attr_count(artifact, "outputs");
    size_t env = lq_attr_count(artifact, "env");
    struct lq_arena *arena = plan->arena;
    plan->params =
        lq_arena_get_array(arena, 4 + in + out + 2 * env + file_count, sizeof *plan->params);
    plan->inputs = lq_arena_get_array(arena, 1 + in + file_count, sizeof *plan->inputs);
    plan->outputs = lq_arena_get_array(arena, 1 + out, sizeof *plan->outputs);
    plan->in_names = lq_arena_get_array(arena, 1 + in, sizeof *plan->in_names);
    plan->out_names = lq_arena_get_array(arena, 1 + out, sizeof *plan->out_names);
    bool made = plan->params && plan->inputs && plan->outputs && plan->in_names && plan->out_names;
    return made ? LQ_OK : lq_error_nomem(err, "a command");
}

static enum lq_status plan_names(struct plan *plan, const struct lq_artifact *artifact,
                                 const char *const *files, size_t file_count, struct lq_error *err)
{
    struct lq_arena *arena = plan->arena;
    bool failed = false;
    for (size_t i = 0; i < lq_attr_count(artifact, "inputs"); i++) {
        plan->in_names[i] = input_name(arena, artifact, i);
        const char *name = lq_arena_printf(arena, "in%zu", i + 1);
        failed = failed || plan->in_names[i] == NULL || name == NULL;
        add_param(plan, name, plan->in_names[i]);
        plan->inputs[plan->input_count++] = (struct lq_step_input){
            name, lq_ref_artifact(lq_attr_ref(artifact, "inputs", i), "main")};
    }
    for (size_t i = 0; i < lq_attr_count(artifact, "outputs"); i++) {
        plan->out_names[i] = lq_attr_item(artifact, "outputs", i);
        const char *name = i == 0 ? "main" : lq_arena_printf(arena, "out%zu", i + 1);
        failed = failed || name == NULL;
        add_param(plan, name, plan->out_names[i]);
        plan->outputs[plan->output_count++] = (struct lq_step_output){.name = name};
    }
    for (size_t i = 0; i < file_count; i++) {
        const char *name = lq_arena_printf(arena, "file%zu", i + 1);
        failed = failed || name == NULL;
        add_param(plan, name, files[i]);
        plan->inputs[plan->input_count++] =
            (struct lq_step_input){name, lq_ref_source(artifact, i)};
    }
    for (size_t i = 0; i < lq_attr_count(artifact, "env"); i++) {
        const char *variable = lq_attr_item(artifact, "env", i);
        const char *value = getenv(variable);
        const char *name = lq_arena_printf(arena, "env%zu", i + 1);
        const char *text = value == NULL ? "" : lq_arena_printf(arena, "%s=%s", variable, value);
        failed = failed || name == NULL || text == NULL;
        add_param(plan, name, text);
    }
    return failed ? lq_error_nomem(err, "a command") : LQ_OK;
}

static enum lq_status run_command(struct lq_run *run, struct lq_error *err);

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct plan plan = {.arena = lq_expand_arena(expand)};
    const char **files = NULL;
    size_t file_count = 0;
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = list_files(artifact, plan.arena, &files, &file_count, err);
    if (status == LQ_OK) {
        status = plan_init(&plan, artifact, file_count, err);
    }
    if (status == LQ_OK) {
        status = plan_names(&plan, artifact, files, file_count, err);
    }
    if (status == LQ_OK) {
        struct names in = {"in", plan.in_names, lq_attr_count(artifact, "inputs")};
        struct names out = {"out", plan.out_names, plan.output_count};
        status = expand_run(artifact, &in, &out, &text, err);
    }
    if (status == LQ_OK) {
        add_param(&plan, "run", lq_buffer_text(&text));
        struct lq_step step = {.op = "command.run",
                               .version = 1,
                               .label = lq_artifact_name(artifact),
                               .run = run_command,
                               .params = plan.params,
                               .param_count = plan.param_count,
                               .inputs = plan.inputs,
                               .input_count = plan.input_count,
                               .outputs = plan.outputs,
                               .output_count = plan.output_count,
                               .cost = 1000000};
        size_t index = 0;
        status = lq_expand_add_step(expand, &step, &index, err);
        for (size_t i = 0; status == LQ_OK && i < plan.output_count; i++) {
            struct lq_ref ref = lq_ref_step(index, plan.outputs[i].name);
            status = lq_expand_bind_output(expand, plan.outputs[i].name, &ref, err);
        }
    }
    lq_buffer_fini(&text);
    return status;
}

/* --------------------------------------------------------------------- run ---- */

/* The folder of one run has a path without meaning for the command: it works with relative names.
 */

static enum lq_status place_inputs(struct lq_run *run, const struct lq_scratch *place,
                                   struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    for (size_t i = 1;; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "in%zu", i);
        const char *file = lq_run_param(run, name);
        if (file == NULL || !lq_run_has_input(run, name)) {
            return LQ_OK;
        }
        const char *from = NULL;
        enum lq_status status = lq_run_input_path(run, name, &from, err);
        if (status != LQ_OK) {
            return status;
        }
        const char *to = lq_path_join(arena, place->path, file);
        if (to == NULL) {
            return lq_error_nomem(err, "a command");
        }
        if (symlink(from, to) != 0) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot create", to);
        }
    }
}

static enum lq_status place_files(struct lq_run *run, const struct lq_scratch *place,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    for (size_t i = 1;; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "file%zu", i);
        const char *file = lq_run_param(run, name);
        if (file == NULL) {
            return LQ_OK;
        }
        const void *data = NULL;
        uint64_t size_bytes = 0;
        enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
        const char *to = lq_path_join(arena, place->path, file);
        if (status == LQ_OK && to == NULL) {
            status = lq_error_nomem(err, "a command");
        }
        if (status == LQ_OK) {
            status = lq_file_write(to, data, (size_t)size_bytes, err);
        }
        if (status == LQ_OK && chmod(to, 0755) != 0) {
            status = lq_error_errno(err, LQ_EIO, "%s: cannot make executable", to);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
}

static enum lq_status place_outputs(struct lq_run *run, const struct lq_scratch *place,
                                    struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    for (size_t i = 1; i <= LQ_STEP_OUTPUTS_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "out%zu", i);
        const char *file = lq_run_param(run, i == 1 ? "main" : name);
        if (file == NULL) {
            return LQ_OK;
        }
        const char *path = lq_path_join(arena, place->path, file);
        const char *dir = path == NULL ? NULL : lq_path_dir(arena, path);
        enum lq_status status =
            dir == NULL ? lq_error_nomem(err, "a command") : lq_make_dirs(dir, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

/* Where it works, and where its streams go. */
static int set_files(posix_spawn_file_actions_t *files, const char *dir, const char *out_path,
                     const char *err_path)
{
    const int how = O_WRONLY | O_CREAT | O_TRUNC;
    int code = posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0);
    code = code != 0 ? code : posix_spawn_file_actions_addopen(files, 1, out_path, how, 0600);
    code = code != 0 ? code : posix_spawn_file_actions_addopen(files, 2, err_path, how, 0600);
    return code != 0 ? code : posix_spawn_file_actions_addchdir_np(files, dir);
}

/* A process group of its own, so that all of it can be ended; no signal is blocked. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none;
    (void)sigemptyset(&none);
    int code = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    code = code != 0 ? code : posix_spawnattr_setpgroup(attributes, 0);
    return code != 0 ? code : posix_spawnattr_setsigmask(attributes, &none);
}

/* posix_spawn and not fork: the child does not copy our page tables, which are large in a large
 * build. */
static enum lq_status start(const struct lq_scratch *place, const char *out_path,
                            const char *err_path, char *const argv[], char *const envp[],
                            pid_t *pid, struct lq_error *err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int code = posix_spawn_file_actions_init(&files);
    if (code == 0) {
        code = posix_spawnattr_init(&attributes);
        if (code == 0) {
            code = set_files(&files, place->path, out_path, err_path);
            code = code != 0 ? code : set_attributes(&attributes);
            code = code != 0 ? code : posix_spawn(pid, "/bin/sh", &files, &attributes, argv, envp);
            (void)posix_spawnattr_destroy(&attributes);
        }
        (void)posix_spawn_file_actions_destroy(&files);
    }
    errno = code;
    return code == 0 ? LQ_OK : lq_error_errno(err, LQ_EFAIL, "cannot start the command");
}

/* Waits a little, or until the process ends when `handle` is one for it. */
static void pause_for(int handle, long pause_ns)
{
    if (handle >= 0) {
        struct pollfd ended = {.fd = handle, .events = POLLIN};
        (void)poll(&ended, 1, POLL_MS);
        return;
    }
    struct timespec pause = {.tv_nsec = pause_ns};
    (void)nanosleep(&pause, NULL);
}

static enum lq_status wait_child(struct lq_run *run, pid_t pid, int *result, struct lq_error *err)
{
    /* Since Linux 5.3; without it, short commands are noticed soon and long ones cost nothing. */
    int handle = (int)syscall(SYS_pidfd_open, pid, 0);
    enum lq_status status = LQ_OK;
    for (long pause_ns = POLL_NS_MIN;;) {
        pid_t done = waitpid(pid, result, WNOHANG);
        if (done == pid) {
            break;
        }
        if (done < 0 && errno != EINTR) {
            status = lq_error_errno(err, LQ_EFAIL, "cannot wait for the command");
            break;
        }
        if (lq_run_cancelled(run)) {
            (void)kill(-pid, SIGKILL);
            (void)kill(pid, SIGKILL);
            while (waitpid(pid, result, 0) < 0 && errno == EINTR) {
            }
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
            break;
        }
        pause_for(handle, pause_ns);
        pause_ns = 2 * pause_ns < POLL_NS_MAX ? 2 * pause_ns : POLL_NS_MAX;
    }
    if (handle >= 0) {
        (void)close(handle);
    }
    return status;
}

/* The environment: a fixed PATH and locale, and what `env` names. */
static char **make_environment(struct lq_run *run)
{
    struct lq_arena *arena = lq_run_arena(run);
    static char path[] = "PATH=/usr/bin:/bin";
    static char locale[] = "LC_ALL=C";
    char **envp = lq_arena_get_array(arena, COMMAND_LIST_MAX + 3, sizeof *envp);
    size_t count = 0;
    if (envp == NULL) {
        return NULL;
    }
    envp[count++] = path;
    envp[count++] = locale;
    for (size_t i = 1; i <= COMMAND_LIST_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "env%zu", i);
        const char *value = lq_run_param(run, name);
        if (value == NULL) {
            break;
        }
        if (value[0] != '\0') {
            envp[count] = lq_arena_dup_string(arena, value);
            if (envp[count++] == NULL) {
                return NULL;
            }
        }
    }
    return envp;
}

/* The end of what it wrote to stderr, on one line for each line. */
static const char *stderr_tail(struct lq_arena *arena, const char *path)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    struct lq_error ignored;
    char *tail = NULL;
    if (lq_file_read(path, 64 * 1024 * 1024, &text, &ignored) == LQ_OK) {
        size_t size = text.size_bytes;
        while (size > 0 && isspace(text.data[size - 1])) {
            size--;
        }
        size_t from = size > STDERR_TAIL_BYTES ? size - STDERR_TAIL_BYTES : 0;
        while (from > 0 && from < size && text.data[from - 1] != '\n') {
            from++;
        }
        tail = size == 0 ? NULL : lq_arena_dup(arena, text.data + from, size - from);
    }
    lq_buffer_fini(&text);
    return tail == NULL ? "it wrote nothing to stderr" : tail;
}

static enum lq_status judge(int result, const char *tail, struct lq_error *err)
{
    if (WIFSIGNALED(result)) {
        return lq_error_set(err, LQ_ECOMMAND, "the command was ended by signal %d: %s",
                            WTERMSIG(result), tail);
    }
    int code = WEXITSTATUS(result);
    return code == 0 ? LQ_OK
                     : lq_error_set(err, LQ_ECOMMAND, "the command exited with %d: %s", code, tail);
}

static enum lq_status spawn(struct lq_run *run, const struct lq_scratch *place,
                            struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    const char *out_path = lq_path_join(arena, place->path, ".stdout");
    const char *err_path = lq_path_join(arena, place->path, ".stderr");
    char *text = lq_arena_dup_string(arena, lq_run_param(run, "run"));
    char **envp = make_environment(run);
    static char shell[] = "sh";
    static char option[] = "-c";
    if (out_path == NULL || err_path == NULL || text == NULL || envp == NULL) {
        return lq_error_nomem(err, "a command");
    }
    char *argv[] = {shell, option, text, NULL};
    pid_t pid = 0;
    int result = 0;
    enum lq_status status = start(place, out_path, err_path, argv, envp, &pid, err);
    status = status == LQ_OK ? wait_child(run, pid, &result, err) : status;
    return status == LQ_OK ? judge(result, stderr_tail(arena, err_path), err) : status;
}

static enum lq_status collect(struct lq_run *run, const struct lq_scratch *place,
                              struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    for (size_t i = 1; i <= LQ_STEP_OUTPUTS_MAX; i++) {
        char numbered[32];
        (void)snprintf(numbered, sizeof numbered, "out%zu", i);
        const char *name = i == 1 ? "main" : numbered;
        const char *file = lq_run_param(run, name);
        if (file == NULL) {
            return LQ_OK;
        }
        const char *path = lq_path_join(arena, place->path, file);
        struct lq_map map;
        enum lq_status status = path == NULL ? lq_error_nomem(err, "a command") : LQ_OK;
        if (status == LQ_OK && !lq_path_exists(path)) {
            status =
                lq_error_set(err, LQ_ECOMMAND, "the command did not write its output '%s'", file);
        }
        if (status == LQ_OK) {
            status = lq_map_open(&map, path, LQ_ECOMMAND, err);
        }
        if (status != LQ_OK) {
            return status;
        }
        status = lq_run_write(run, name, map.data, (size_t)map.size_bytes, err);
        lq_map_close(&map);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status run_command(struct lq_run *run, struct lq_error *err)
{
    struct lq_scratch place;
    enum lq_status status = lq_scratch_make(&place, err);
    if (status != LQ_OK) {
        return status;
    }
    status = place_inputs(run, &place, err);
    if (status == LQ_OK) {
        status = place_files(run, &place, err);
    }
    if (status == LQ_OK) {
        status = place_outputs(run, &place, err);
    }
    if (status == LQ_OK) {
        status = spawn(run, &place, err);
    }
    if (status == LQ_OK) {
        status = collect(run, &place, err);
    }
    lq_scratch_remove(&place);
    return status;
}

/* Variables of the environment are looked up when it is expanded. */
static bool reads_environment(const struct lq_artifact *artifact)
{
    return lq_attr_count(artifact, "env") > 0;
}

const struct lq_rule lq_rule_command = {
    .kind = "command",
    .version = 1,
    .help = "runs a program of yours on artifacts, with declared inputs and outputs",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "out2, out3, ... in the order of `outputs`",
    .check = check,
    .sources = sources,
    .expand = expand,
    .always_expands = reads_environment,
};

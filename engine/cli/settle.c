#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "engine/cli/command.h"
#include "kernels/device.h"
#include "kernels/gpu.h"
#include "kernels/kernels.h"

const struct lq_option lq_common_options[] = {
    {'f', "file", "RECIPE", NULL, false, "read this recipe (recipe.lq)"},
    {'C', "directory", "DIR", NULL, false, "go to DIR first"},
    {'D', "define", "NAME=VALUE", NULL, false, "give a `let` of the recipe another value"},
    {'j', "jobs", "N", NULL, false, "use N threads (all CPUs)"},
    {'k', "keep-going", "N", NULL, true, "go on after failures, at most N of them (any number)"},
    {'n', "dry-run", NULL, NULL, false, "show what would be done and do nothing"},
    {0, "force", NULL, NULL, false, "run every wanted step even if its result is cached"},
    {0, "explain", NULL, NULL, false, "say why each step runs"},
    {0, "trace", "FILE", NULL, false,
     "write a trace of the build for chrome://tracing or Perfetto"},
    {0, "cache-dir", "DIR", NULL, false,
     "keep results in DIR (LQBUILD_CACHE_DIR, else XDG_CACHE_HOME/lqbuild)"},
    {0, "remote", "URL", NULL, false,
     "share results through this server, or a configured remote; may be given again"},
    {0, "no-remote", NULL, NULL, false, "ask no remote"},
    {0, "remote-mode", "MODE", "read read-write", false, "whether results are also sent there"},
    {0, "trust-unsigned", NULL, NULL, false, "take results that nobody trusted has signed"},
    {0, "json", NULL, NULL, false, "JSON on stdout, one object a line"},
    {'q', "quiet", NULL, NULL, false, "show only errors and warnings"},
    {'v', "verbose", NULL, NULL, false, "show cached steps and outputs too"},
    {0, "cpu-mask", "LEVEL", "ref avx2 avx512", false, "use no CPU feature above LEVEL"},
    {0, "device", "DEVICE", NULL, false, "compute on auto, cpu, cuda or cuda:N (auto)"},
    {0, "products", "KIND", "f32 fast", false, "how models multiply matrices (f32)"},
    {0, "progress", "MODE", "auto plain live none", false, "how to show progress (auto)"},
    {0, "color", "WHEN", "auto always never", false,
     "color messages (auto; NO_COLOR is respected)"},
    {'h', "help", NULL, NULL, false, "show help and exit"},
    {0, "version", NULL, NULL, false, "show the version and exit"},
};
const size_t lq_common_option_count = LQ_COUNT_OF(lq_common_options);

static bool is_plain_terminal(int fd)
{
    const char *term = getenv("TERM");
    bool dumb = term == NULL || term[0] == '\0' || strcmp(term, "dumb") == 0;
    return isatty(fd) == 1 && !dumb;
}

/* https://no-color.org: any non-empty value turns color off. */
static bool wants_color(const char *when, int fd)
{
    if (when != NULL && strcmp(when, "always") == 0) {
        return true;
    }
    const char *no_color = getenv("NO_COLOR");
    bool refused =
        (when != NULL && strcmp(when, "never") == 0) || (no_color != NULL && no_color[0] != '\0');
    return !refused && is_plain_terminal(fd);
}

static void settle_output(struct lq_cli *cli)
{
    const struct lq_args *args = &cli->args;
    const char *mode = lq_args_get(args, "progress");
    const char *color = lq_args_get(args, "color");
    cli->json = lq_args_has(args, "json");
    cli->quiet = lq_args_has(args, "quiet");
    cli->verbose = lq_args_has(args, "verbose");
    cli->color_out = wants_color(color, STDOUT_FILENO);
    cli->color_err = wants_color(color, STDERR_FILENO);
    if (cli->json) {
        cli->progress_mode = LQ_PROGRESS_JSON;
    } else if (cli->quiet || (mode != NULL && strcmp(mode, "none") == 0)) {
        cli->progress_mode = LQ_PROGRESS_NONE;
    } else if (mode != NULL && strcmp(mode, "live") == 0) {
        cli->progress_mode = LQ_PROGRESS_LIVE;
    } else if (mode != NULL && strcmp(mode, "plain") == 0) {
        cli->progress_mode = LQ_PROGRESS_PLAIN;
    } else {
        cli->progress_mode =
            is_plain_terminal(STDERR_FILENO) ? LQ_PROGRESS_LIVE : LQ_PROGRESS_PLAIN;
    }
}

static enum lq_status settle_defines(struct lq_cli *cli, struct lq_error *err)
{
    cli->defines = lq_arena_get_array(&cli->arena, cli->args.count + 1, sizeof cli->defines[0]);
    if (cli->defines == NULL) {
        return lq_error_nomem(err, "the command line");
    }
    size_t position = 0;
    for (;;) {
        const char *text = lq_args_next(&cli->args, "define", &position);
        if (text == NULL) {
            return LQ_OK;
        }
        size_t length = strcspn(text, "=");
        if (length == 0 || text[length] != '=') {
            return lq_error_set(err, LQ_EUSAGE, "--define expects NAME=VALUE, got '%s'", text);
        }
        char *name = lq_arena_dup(&cli->arena, text, length);
        if (name == NULL) {
            return lq_error_nomem(err, "the command line");
        }
        cli->defines[cli->define_count++] =
            (struct lq_define){.name = name, .value = text + length + 1};
    }
}

static enum lq_status settle_numbers(struct lq_cli *cli, struct lq_error *err)
{
    uint64_t jobs = cli->settings.jobs == 0 ? lq_cpu_count() : cli->settings.jobs;
    uint64_t failures = 0;
    enum lq_status status =
        lq_args_uint(&cli->args, "jobs", 1, (uint64_t)LQ_THREADS_MAX, &jobs, err);
    if (status != LQ_OK) {
        return status;
    }
    if (lq_args_has(&cli->args, "keep-going")) {
        failures = UINT32_MAX;
        status = lq_args_uint(&cli->args, "keep-going", 0, UINT32_MAX, &failures, err);
    }
    cli->jobs = (unsigned)jobs;
    cli->keep_going = (unsigned)failures;
    return status;
}

/* Each -C is relative to the one before it, as in make and git. */
static enum lq_status settle_folder(struct lq_cli *cli, struct lq_error *err)
{
    size_t position = 0;
    for (;;) {
        const char *dir = lq_args_next(&cli->args, "directory", &position);
        if (dir == NULL) {
            return LQ_OK;
        }
        if (chdir(dir) != 0) {
            return lq_error_errno(err, LQ_EUSAGE, "--directory %s: cannot go there", dir);
        }
    }
}

static void settle_cpu(const struct lq_cli *cli)
{
    const char *mask = lq_args_get(&cli->args, "cpu-mask");
    const char *products = lq_args_get(&cli->args, "products");
    if (products != NULL && strcmp(products, "fast") == 0) {
        lq_device_cpu_prefer(LQ_CPU_BLAS_SHORT);
    }
    if (mask == NULL) {
        return;
    }
    for (unsigned level = 0; level < (unsigned)LQ_CPU_LEVEL_COUNT; level++) {
        if (strcmp(mask, lq_cpu_level_name((enum lq_cpu_level)level)) == 0) {
            lq_kernels_init((enum lq_cpu_level)level);
        }
    }
}

/* A number after "cuda:", or -1 for all of them; false for what is neither. */
static bool parse_cuda(const char *text, int *number)
{
    *number = -1;
    if (strcmp(text, "cuda") == 0) {
        return true;
    }
    if (strncmp(text, "cuda:", 5) != 0 || text[5] < '0' || text[5] > '9') {
        return false;
    }
    char *end = NULL;
    unsigned long value = strtoul(text + 5, &end, 10);
    *number = value < LQ_GPU_DEVICES_MAX ? (int)value : LQ_GPU_DEVICES_MAX;
    return *end == '\0';
}

/* Who asks for a GPU by name gets one or an error at once. Who says nothing hears nothing. */
static enum lq_status settle_device(const struct lq_cli *cli, struct lq_error *err)
{
    const char *option = lq_args_get(&cli->args, "device");
    const char *text = option != NULL ? option : cli->settings.device;
    int number = -1;
    if (text == NULL) {
        lq_gpu_choose(LQ_GPU_QUIET, -1);
    } else if (strcmp(text, "auto") == 0) {
        lq_gpu_choose(LQ_GPU_AUTO, -1);
    } else if (strcmp(text, "cpu") == 0) {
        lq_gpu_choose(LQ_GPU_NEVER, -1);
    } else if (parse_cuda(text, &number)) {
        lq_gpu_choose(LQ_GPU_QUIET, number);
        const char *why = cli->command->builds && !cli->dry_run ? lq_gpu_start() : NULL;
        return why == NULL ? LQ_OK
                           : lq_error_set(err, LQ_EUNSUPPORTED,
                                          "device %s: %s; --device cpu and "
                                          "--device auto do without",
                                          text, why);
    } else {
        return lq_error_set(err, LQ_EUSAGE, "%s expects auto, cpu, cuda or cuda:N, got '%s'",
                            option != NULL ? "--device" : "the device", text);
    }
    return LQ_OK;
}

/* Options on top of the configuration. Naming remotes replaces the configured ones. */
static enum lq_status settle_remotes(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_settings *settings = &cli->settings;
    const char *mode = lq_args_get(&cli->args, "remote-mode");
    struct lq_settings_choice choice = {.count = 0};
    size_t position = 0;
    for (;;) {
        const char *word = lq_args_next(&cli->args, "remote", &position);
        if (word == NULL) {
            break;
        }
        enum lq_status status = lq_settings_choose(settings, &choice, word, &cli->arena, err);
        if (status != LQ_OK) {
            return lq_error_prefix(err, "--remote");
        }
    }
    if (choice.count > 0) {
        memcpy(settings->remotes, choice.remotes, sizeof choice.remotes);
        settings->remote_count = choice.count;
    }
    if (lq_args_has(&cli->args, "no-remote")) {
        settings->remote_count = 0;
    }
    for (size_t i = 0; i < settings->remote_count && mode != NULL; i++) {
        settings->remotes[i].mode = mode;
    }
    settings->trust_unsigned =
        settings->trust_unsigned || lq_args_has(&cli->args, "trust-unsigned");
    return LQ_OK;
}

/* Help works with a broken configuration. */
static enum lq_status settle_settings(struct lq_cli *cli, struct lq_error *err)
{
    if (strcmp(cli->command->name, "help") == 0 || strcmp(cli->command->name, "version") == 0) {
        return LQ_OK;
    }
    const char *dir = lq_path_dir(&cli->arena, cli->recipe_path);
    if (dir == NULL) {
        return lq_error_nomem(err, "the configuration");
    }
    enum lq_status status = lq_settings_load(&cli->settings, dir, &cli->arena, err);
    if (status == LQ_OK && cli->cache_dir == NULL) {
        cli->cache_dir = cli->settings.cache_dir;
    }
    return status == LQ_OK ? settle_remotes(cli, err) : status;
}

enum lq_status lq_cli_settle(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    settle_output(cli);
    cli->dry_run = lq_args_has(args, "dry-run");
    cli->force = lq_args_has(args, "force");
    cli->explain = lq_args_has(args, "explain");
    cli->cache_dir = lq_args_get(args, "cache-dir");
    cli->recipe_path = lq_args_has(args, "file") ? lq_args_get(args, "file") : "recipe.lq";
    settle_cpu(cli);
    enum lq_status status = settle_defines(cli, err);
    if (status == LQ_OK) {
        status = settle_folder(cli, err);
    }
    if (status == LQ_OK) {
        status = settle_settings(cli, err);
    }
    if (status == LQ_OK) {
        status = settle_device(cli, err);
    }
    return status == LQ_OK ? settle_numbers(cli, err) : status;
}

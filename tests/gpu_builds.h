/* What tests of steps that run models on GPUs share: recipes about tiny-llama that are built with
 * or without GPUs, in a folder of the test's own, what the build said, and the files that came out.
 * The GPUs are those of device_far.h, or others that a test puts into used_module and used_make.
 * Header only. Thread rule: one thread; a test's init and fini are set_up and tear_down. */
#ifndef LQ_TESTS_GPU_BUILDS_H
#define LQ_TESTS_GPU_BUILDS_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "kernels/gpu.h"
#include "kernels/gpu_device.h"
#include "kernels/gpu_load.h"
#include "rules/format/imatrix.h"
#include "rules/format/qreport.h"
#include "rules/registry.h"
#include "tests/arch_configs.h"
#include "tests/device_far.h"
#include "tests/make_arch.h"

static char folder[64];
/* What builds get; a test may take another one before its first build. */
static const struct lq_gpu_module *used_module = &far_module;
static lq_gpu_make_fn used_make = far_make;
static struct lq_build_result result;
static struct lq_error err;
static struct lq_arena arena;
static char warning[LQ_ERROR_BYTES];
static unsigned warnings;
static char numerics[256];

static inline void set_up(void)
{
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    lq_arena_init(&arena);
    lq_error_clear(&err);
    memset(&far_state, 0, sizeof far_state);
}

static inline void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
    lq_arena_fini(&arena);
}

static inline void on_event(void *user, const struct lq_event *event)
{
    (void)user;
    if (event->kind == LQ_EVENT_WARNING) {
        snprintf(warning, sizeof warning, "%s", event->text);
        warnings++;
    }
    if (event->kind == LQ_EVENT_ARTIFACT_DONE && event->numerics != NULL) {
        snprintf(numerics, sizeof numerics, "%s", event->numerics);
    }
}

static inline void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_file_write(path, text, strlen(text), &err), LQ_OK, "%s", err.message);
}

/* Builds one artifact, on the GPUs as they are. */
static inline enum lq_status build_again(const char *cache_name, const char *target,
                                         const char *artifacts)
{
    static const char base[] =
        "model base { source = \"" LQ_SOURCE_DIR "/examples/tiny-llama\" }\n"
        "text eval { path = \"" LQ_SOURCE_DIR "/examples/text/eval.txt\" }\n"
        "calibration calib { model = base  text = eval  samples = 128  sequence = 20 }\n"
        "calibration few { model = base  text = eval  samples = 128  sequence = 6 }\n";
    char text[4096];
    char dir[128];
    struct lq_cache *cache = NULL;
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    snprintf(text, sizeof text, "%s%s", base, artifacts);
    snprintf(dir, sizeof dir, "%s/%s", folder, cache_name);
    const struct lq_cache_options cache_options = {.dir = dir};
    lq_error_clear(&err);
    warning[0] = '\0';
    numerics[0] = '\0';
    warnings = 0;
    cr_assert_eq(lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", folder,
                                 lq_rules_registry(), NULL, 0, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_cache_open(&cache, &cache_options, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_pool_create(&pool, 2, &err), LQ_OK);
    const struct lq_build_options options = {
        .targets = &target, .target_count = 1, .on_event = on_event};
    enum lq_status status =
        lq_build_run(recipe, lq_rules_registry(), cache, pool, &options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    lq_cache_close(cache);
    return status;
}

/* The same on new ones; `gpu` says whether there are any. */
static inline enum lq_status build(bool gpu, const char *cache_name, const char *target,
                                   const char *artifacts)
{
    lq_gpu_use_module(used_module, used_make);
    lq_gpu_choose(gpu ? LQ_GPU_AUTO : LQ_GPU_NEVER, -1);
    return build_again(cache_name, target, artifacts);
}

static inline struct lq_buffer *read_output(const char *name)
{
    static struct lq_buffer buffers[4];
    static size_t next;
    struct lq_buffer *buffer = &buffers[next++ % LQ_COUNT_OF(buffers)];
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    lq_buffer_clear(buffer);
    cr_assert_eq(lq_file_read(path, 1 << 28, buffer, &err), LQ_OK, "%s", err.message);
    return buffer;
}

static inline void move_output(const char *from, const char *to)
{
    char old[128];
    char new[128];
    snprintf(old, sizeof old, "%s/%s", folder, from);
    snprintf(new, sizeof new, "%s/%s", folder, to);
    cr_assert_eq(rename(old, new), 0);
}

static inline void expect_same_file(const char *a, const char *b)
{
    const struct lq_buffer *left = read_output(a);
    const struct lq_buffer *right = read_output(b);
    cr_expect(left->size_bytes == right->size_bytes &&
                  memcmp(left->data, right->data, left->size_bytes) == 0,
              "%s and %s differ", a, b);
}

/* Small batches, so that a short text has several. */
static inline const char *make_small(const struct lq_gpu_module *module,
                                     struct lq_gpu_context *context, struct lq_device **device)
{
    static struct lq_device_ops ops;
    const char *why = lq_gpu_device_create(module, context, device);
    if (why == NULL) {
        ops = *(*device)->ops;
        ops.batch_rows = 200;
        (*device)->ops = &ops;
    }
    return why;
}

static inline const char *make_small_model(const char *arch)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, arch);
    cr_assert_eq(make_arch_write(arch_config_find(arch)->text, path, NULL, NULL, &err), LQ_OK, "%s",
                 err.message);
    return path;
}

#endif

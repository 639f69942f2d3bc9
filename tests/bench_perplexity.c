/* The perplexity of one model, as the steps of a report measure it and nothing else, for
 * bench_model.sh:
 *   bench_perplexity DIR MODEL TEXT CHUNKS CONTEXT THREADS f32|fast
 * DIR: an empty folder for the cache and the result. Prints the perplexity as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "engine/base/buffer.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "rules/model/corpus.h"
#include "rules/quality/evaluate.h"
#include "rules/registry.h"

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const struct lq_artifact *model = lq_attr_ref(artifact, "model", 0);
    const struct lq_artifact *text = lq_attr_ref(artifact, "text", 0);
    const struct lq_corpus_cut cut = {.sequence = (uint32_t)lq_attr_int(artifact, "context"),
                                      .samples = (uint32_t)lq_attr_int(artifact, "chunks")};
    struct lq_pass pass;
    size_t step = 0;
    enum lq_status status =
        lq_corpus_add_cut_step(expand, "text.chunks", model, text, &cut, &step, err);
    if (status == LQ_OK) {
        const struct lq_pass_options options = {.tokens = lq_ref_step(step, "main")};
        status = lq_evaluate_add_reference(expand, model, &options, &pass, &step, err);
    }
    struct lq_ref ref = lq_ref_step(step, "main");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &ref, err) : status;
}

static const struct lq_attr_spec attrs[] = {
    {.name = "model", .type = LQ_ATTR_REF, .required = true, .choices = "model"},
    {.name = "text", .type = LQ_ATTR_REF, .required = true, .choices = "text"},
    {.name = "context", .type = LQ_ATTR_INT, .required = true},
    {.name = "chunks", .type = LQ_ATTR_INT, .required = true},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
};
static const struct lq_rule rule = {.kind = "measure",
                                    .version = 1,
                                    .help = "a perplexity as a file",
                                    .attrs = attrs,
                                    .attr_count = sizeof attrs / sizeof attrs[0],
                                    .expand = expand};
static const struct lq_rule *const rules[] = {&rule, &lq_rule_model, &lq_rule_text};
static const struct lq_registry registry = {rules, 3};

static void check(enum lq_status status, const struct lq_error *err)
{
    if (status != LQ_OK) {
        (void)fprintf(stderr, "%s\n", err->message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    char text[4096];
    struct lq_error err = {.message = ""};
    struct lq_cache *cache = NULL;
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    struct lq_build_result result;
    struct lq_build_options options = {.on_event = NULL};
    struct lq_buffer out;
    if (argc != 8) {
        (void)fprintf(stderr, "usage: %s DIR MODEL TEXT CHUNKS CONTEXT THREADS f32|fast\n",
                      argv[0]);
        return 2;
    }
    (void)snprintf(text, sizeof text,
                   "model base { source = \"%s\" }\ntext words { path = \"%s\" }\n"
                   "measure m { model = base  text = words  chunks = %s  context = %s\n"
                   "            path = \"result.json\" }\n",
                   argv[2], argv[3], argv[4], argv[5]);
    if (strcmp(argv[7], "fast") == 0) {
        lq_device_cpu_prefer(LQ_CPU_BLAS_SHORT);
    }
    const struct lq_cache_options cache_options = {.dir = argv[1]};
    check(lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", argv[1], &registry, NULL, 0,
                          &err),
          &err);
    check(lq_cache_open(&cache, &cache_options, &err), &err);
    check(lq_pool_create(&pool, (unsigned)atoi(argv[6]), &err), &err);
    check(lq_build_run(recipe, &registry, cache, pool, &options, &result, &err), &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    lq_cache_close(cache);
    lq_buffer_init(&out);
    (void)snprintf(text, sizeof text, "%s/result.json", argv[1]);
    check(lq_file_read(text, 1 << 20, &out, &err), &err);
    (void)printf("%s\n", lq_buffer_text(&out));
    lq_buffer_fini(&out);
    return 0;
}

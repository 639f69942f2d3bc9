/* The rule `tasks`: multiple-choice tasks out of a file. Its output "main" is the file as it is;
 * the steps that run models read it in the artifact's format. */
#include <string.h>

#include "engine/base/compiler.h"
#include "rules/format/tasks.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "path", .type = LQ_ATTR_PATH, .required = true, .help = "the file with the tasks"},
    {.name = "format",
     .type = LQ_ATTR_ENUM,
     .default_text = "jsonl",
     .choices = "jsonl hellaswag winogrande multiple-choice",
     .help = "JSON lines, or one of llama-perplexity's three kinds of files"},
};

static enum lq_status sources(const struct lq_artifact *artifact, struct lq_sources *out,
                              struct lq_error *err)
{
    return lq_sources_add(out, lq_attr_path(artifact, "path"), NULL, LQ_EIO, err);
}

/* The file is read here once, so that what is wrong with it shows before any model runs. */
static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_ref file = lq_ref_source(artifact, 0);
    struct lq_task_list list;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &file, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tasks_parse(data, size_bytes, lq_attr_path(artifact, "path"),
                                lq_task_format_of(lq_attr_string(artifact, "format")),
                                lq_expand_arena(expand), &list, err);
    }
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &file, err) : status;
}

const struct lq_rule lq_rule_tasks = {
    .kind = "tasks",
    .version = 1,
    .help = "multiple-choice tasks that a report can run",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .sources = sources,
    .expand = expand,
};

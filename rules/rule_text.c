/* The rule "text": a text to calibrate or evaluate with. A plain text file is the output itself;
 * JSON and JSON lines go through a step that takes the texts out, one per line. */
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/rule.h"
#include "rules/model/corpus.h"
#include "rules/model/hub_cache.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "path",
     .type = LQ_ATTR_PATH,
     .required = true,
     .help = "a text file (.txt, .md), a JSON list (.json) or JSON lines (.jsonl, .ndjson), or "
             "hf:datasets/org/name/file in the Hugging Face cache (lqbuild fetch)"},
    {.name = "field",
     .type = LQ_ATTR_STRING,
     .help = "member of JSON objects that holds the text (default: text, content or prompt)"},
};

enum text_format { TEXT_PLAIN, TEXT_JSON, TEXT_LINES, TEXT_REFUSED };

static enum text_format format_of(const char *path)
{
    static const struct {
        const char *extension;
        enum text_format format;
    } formats[] = {
        {".json", TEXT_JSON},       {".jsonl", TEXT_LINES},   {".ndjson", TEXT_LINES},
        {".parquet", TEXT_REFUSED}, {".arrow", TEXT_REFUSED}, {".csv", TEXT_REFUSED},
        {".tsv", TEXT_REFUSED},     {".gz", TEXT_REFUSED},    {".zst", TEXT_REFUSED},
        {".xz", TEXT_REFUSED},      {".bz2", TEXT_REFUSED},   {".zip", TEXT_REFUSED},
    };
    const char *extension = lq_path_extension(path);
    for (size_t i = 0; i < LQ_COUNT_OF(formats); i++) {
        if (lq_text_equal_nocase(extension, formats[i].extension)) {
            return formats[i].format;
        }
    }
    return TEXT_PLAIN;
}

static enum lq_status check_text(const struct lq_artifact *artifact, struct lq_error *err)
{
    const char *path = lq_attr_string(artifact, "path");
    enum text_format format = format_of(path);
    if (format == TEXT_REFUSED) {
        return lq_attr_error(artifact, "path", err, LQ_ECALIBRATION,
                             "'%s' files are not read; give plain text, .json or .jsonl "
                             "(docs/command-line.md shows how to make one of a data set)",
                             lq_path_extension(path));
    }
    if (format == TEXT_PLAIN && lq_attr_is_set(artifact, "field")) {
        return lq_attr_error(artifact, "field", err, LQ_ERECIPE,
                             "field is for .json and .jsonl files; '%s' is plain text", path);
    }
    return LQ_OK;
}

/* A file of a data set of the hub is looked up in its cache; everything else is a path. */
static enum lq_status find_place(const struct lq_artifact *artifact, struct lq_arena *arena,
                                 struct lq_hub_place *place, struct lq_error *err)
{
    const char *text = lq_attr_string(artifact, "path");
    struct lq_error own;
    *place = (struct lq_hub_place){.path = lq_attr_path(artifact, "path")};
    lq_error_clear(&own);
    enum lq_status status = LQ_OK;
    if (lq_hub_is_text(text)) {
        status = lq_hub_resolve_text(text, arena, place, &own);
    } else if (!lq_path_exists(place->path) && strstr(text, "wikitext") != NULL) {
        status =
            lq_error_set(&own, LQ_ECALIBRATION,
                         "%s: no such file; docs/command-line.md says how to get WikiText-2", text);
    }
    status = status == LQ_EUSAGE ? LQ_ERECIPE : status;
    return status == LQ_OK ? LQ_OK
                           : lq_attr_error(artifact, "path", err, status, "%s", own.message);
}

static enum lq_status add_sources(const struct lq_artifact *artifact,
                                  const struct lq_hub_place *place, struct lq_sources *sources,
                                  struct lq_error *err)
{
    if (lq_path_is_dir(place->path)) {
        return lq_attr_error(artifact, "path", err, LQ_ECALIBRATION,
                             "'%s' is a folder; give a text file, .json or .jsonl",
                             lq_attr_string(artifact, "path"));
    }
    enum lq_status status = lq_sources_add(sources, place->path, NULL, LQ_ECALIBRATION, err);
    /* When it changes, so does which file is meant. */
    return status == LQ_OK && place->ref != NULL
               ? lq_sources_add(sources, place->ref, NULL, LQ_ECALIBRATION, err)
               : status;
}

static enum lq_status find_sources(const struct lq_artifact *artifact, struct lq_sources *sources,
                                   struct lq_error *err)
{
    struct lq_hub_place place;
    struct lq_arena arena;
    lq_arena_init(&arena);
    enum lq_status status = find_place(artifact, &arena, &place, err);
    if (status == LQ_OK) {
        status = add_sources(artifact, &place, sources, err);
    }
    lq_arena_fini(&arena);
    return status;
}

static enum lq_status run_extract(struct lq_run *run, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size = 0;
    struct lq_buffer out;
    lq_buffer_init(&out);
    bool lines = strcmp(lq_run_param(run, "format"), "lines") == 0;
    enum lq_status status = lq_run_input_load(run, "file", &data, &size, err);
    if (status == LQ_OK) {
        status = lq_corpus_extract(data, size, lq_run_state(run), lines, lq_run_param(run, "field"),
                                   &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status expand_text(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_ref ref = lq_ref_source(artifact, 0);
    enum text_format format = format_of(lq_attr_string(artifact, "path"));
    if (format != TEXT_PLAIN) {
        const char *field = lq_attr_string(artifact, "field");
        const struct lq_step_param params[] = {
            {.name = "format", .value = format == TEXT_LINES ? "lines" : "document"},
            {.name = "field", .value = field}};
        const struct lq_step_input input = {.name = "file", .ref = ref};
        const struct lq_step_output output = {.name = "main"};
        const struct lq_step step = {.op = "text.extract",
                                     .version = 1,
                                     .label = lq_artifact_name(artifact),
                                     .run = run_extract,
                                     .state = lq_expand_source_name(expand, artifact, 0),
                                     .params = params,
                                     .param_count = field == NULL ? 1 : 2,
                                     .inputs = &input,
                                     .input_count = 1,
                                     .outputs = &output,
                                     .output_count = 1,
                                     .memory_bytes = (uint64_t)64 << 20,
                                     .cost = 50000};
        size_t index = 0;
        enum lq_status status = lq_expand_add_step(expand, &step, &index, err);
        if (status != LQ_OK) {
            return status;
        }
        ref = lq_ref_step(index, "main");
    }
    return lq_expand_bind_output(expand, "main", &ref, err);
}

const struct lq_rule lq_rule_text = {
    .kind = "text",
    .version = 1,
    .help = "a text to calibrate or evaluate with",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .check = check_text,
    .sources = find_sources,
    .expand = expand_text,
};

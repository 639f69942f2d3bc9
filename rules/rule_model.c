/* The rule "model": a model from a Hugging Face directory or a GGUF file. Its outputs say what the
 * model is, not where: "main" and "tensors" are the tensor index, "meta" all keys as a GGUF file
 * without tensors, "vocab" the tokenizer's keys alone. The sources are numbered with the tensor
 * files first, in order of their names, then the JSON files: the tensor index counts on that. */
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "engine/rule.h"
#include "rules/format/gguf.h"
#include "rules/format/safetensors.h"
#include "rules/model/arch.h"
#include "rules/model/hf_documents.h"
#include "rules/model/hparams.h"
#include "rules/model/hub_cache.h"
#include "rules/model/model_describe.h"
#include "rules/model/model_scan.h"
#include "rules/registry.h"

#define SINGLE_FILE "model.safetensors"
#define SHARD_INDEX "model.safetensors.index.json"

static const struct lq_attr_spec attrs[] = {
    {.name = "source",
     .type = LQ_ATTR_PATH,
     .required = true,
     .help = "a Hugging Face model folder (config.json, tokenizer.json or tokenizer.model, "
             "safetensors), a .gguf file, or org/name in the Hugging Face cache (lqbuild fetch)"},
};

/* All shards that the index names; it is read here because it decides what the sources are. */
static enum lq_status add_shards(struct lq_sources *sources, struct lq_arena *arena,
                                 const char *dir, const char *index_path, struct lq_error *err)
{
    struct lq_map map;
    struct lq_shard_index index;
    enum lq_status status = lq_map_open(&map, index_path, LQ_EMODEL, err);
    if (status != LQ_OK) {
        return status;
    }
    status =
        lq_shard_index_parse(map.data, map.size_bytes, index_path, LQ_EFORMAT, arena, &index, err);
    lq_map_close(&map);
    for (size_t i = 0; status == LQ_OK && i < index.file_count; i++) {
        const char *path = lq_path_join(arena, dir, index.files[i]);
        status = path == NULL ? lq_error_nomem(err, "model")
                              : lq_sources_add(sources, path, &lq_tensor_source, LQ_EMODEL, err);
    }
    return status;
}

/* A folder lacks something. In the hub's cache it can be completed. */
static enum lq_status refuse_folder(const struct lq_artifact *artifact, const char *dir,
                                    const char *lack, const char *advice, struct lq_error *err)
{
    const char *text = lq_attr_string(artifact, "source");
    if (lq_hub_is_name(text) && strcmp(dir, lq_attr_path(artifact, "source")) != 0) {
        return lq_attr_error(artifact, "source", err, LQ_EMODEL,
                             "folder '%s' has %s; `lqbuild fetch %s` gets what is missing", dir,
                             lack, text);
    }
    return lq_attr_error(artifact, "source", err, LQ_EMODEL, "folder '%s' has %s; give the %s", dir,
                         lack, advice);
}

static enum lq_status add_tensor_files(const struct lq_artifact *artifact,
                                       struct lq_sources *sources, struct lq_arena *arena,
                                       const char *dir, struct lq_error *err)
{
    const char *single = lq_path_join(arena, dir, SINGLE_FILE);
    const char *shards = lq_path_join(arena, dir, SHARD_INDEX);
    if (single == NULL || shards == NULL) {
        return lq_error_nomem(err, "model");
    }
    /* A single file wins: half-deleted shards beside it are no part of the model. */
    if (lq_path_exists(single)) {
        return lq_sources_add(sources, single, &lq_tensor_source, LQ_EMODEL, err);
    }
    if (lq_path_exists(shards)) {
        return add_shards(sources, arena, dir, shards, err);
    }
    return refuse_folder(artifact, dir, "neither " SINGLE_FILE " nor " SHARD_INDEX,
                         "folder of a Hugging Face model with safetensors weights", err);
}

static enum lq_status add_plain_files(const struct lq_artifact *artifact,
                                      struct lq_sources *sources, struct lq_arena *arena,
                                      const char *dir, struct lq_error *err)
{
    static const char advice[] = "complete folder of a Hugging Face model";
    bool there[LQ_HF_FILE_COUNT] = {false};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < LQ_HF_FILE_COUNT && status == LQ_OK; i++) {
        const char *path = lq_path_join(arena, dir, lq_hf_file_name((enum lq_hf_file)i));
        if (path == NULL) {
            return lq_error_nomem(err, "model");
        }
        there[i] =
            lq_hf_file_is_read((enum lq_hf_file)i, there[LQ_HF_TOKENIZER]) && lq_path_exists(path);
        status = there[i] ? lq_sources_add(sources, path, NULL, LQ_EMODEL, err) : LQ_OK;
    }
    if (status == LQ_OK && !there[LQ_HF_CONFIG]) {
        return refuse_folder(artifact, dir, "no config.json", advice, err);
    }
    if (status == LQ_OK && !there[LQ_HF_TOKENIZER] && !there[LQ_HF_SENTENCEPIECE]) {
        return refuse_folder(artifact, dir, "neither tokenizer.json nor tokenizer.model", advice,
                             err);
    }
    return status;
}

/* A name of the hub is looked up in its cache; everything else is a path. */
static enum lq_status find_place(const struct lq_artifact *artifact, struct lq_arena *arena,
                                 struct lq_hub_place *place, struct lq_error *err)
{
    const char *text = lq_attr_string(artifact, "source");
    const char *path = lq_attr_path(artifact, "source");
    struct lq_error own;
    *place = (struct lq_hub_place){.path = path};
    if (!lq_hub_is_name(text)) {
        return lq_path_exists(path)
                   ? LQ_OK
                   : lq_attr_error(artifact, "source", err, LQ_EMODEL,
                                   "model '%s' does not exist: no such file or folder", path);
    }
    lq_error_clear(&own);
    enum lq_status status = lq_hub_resolve(text, path, arena, place, &own);
    status = status == LQ_EUSAGE ? LQ_ERECIPE : status;
    return status == LQ_OK ? LQ_OK
                           : lq_attr_error(artifact, "source", err, status, "%s", own.message);
}

static enum lq_status add_sources(const struct lq_artifact *artifact,
                                  const struct lq_hub_place *place, struct lq_sources *sources,
                                  struct lq_arena *arena, struct lq_error *err)
{
    bool is_folder = lq_path_is_dir(place->path);
    enum lq_status status =
        is_folder ? add_tensor_files(artifact, sources, arena, place->path, err)
                  : lq_sources_add(sources, place->path, &lq_tensor_source, LQ_EMODEL, err);
    if (status == LQ_OK && is_folder) {
        status = add_plain_files(artifact, sources, arena, place->path, err);
    }
    /* Last, so that it is not taken for one of the model's files: when it changes, so does which
     * folder is meant. */
    return status == LQ_OK && place->ref != NULL
               ? lq_sources_add(sources, place->ref, NULL, LQ_EMODEL, err)
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
        status = add_sources(artifact, &place, sources, &arena, err);
    }
    lq_arena_fini(&arena);
    return status;
}

/* What `run` must know besides its inputs; it follows from the sources. */
struct describe_state {
    size_t file_count;
    const char *const *file_names; /* for messages, as is `source` */
    const char *source;
    bool is_gguf;
};

static enum lq_status load_scan(struct lq_run *run, size_t number, const char *where,
                                struct lq_scanned_file *out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size = 0;
    struct lq_arena *arena = lq_run_arena(run);
    const char *name = lq_arena_printf(arena, "index.%zu", number);
    if (name == NULL) {
        return lq_error_nomem(err, "model");
    }
    enum lq_status status = lq_run_input_load(run, name, &data, &size, err);
    return status == LQ_OK ? lq_scanned_file_parse(data, size, where, arena, out, err) : status;
}

static enum lq_status describe_gguf(struct lq_run *run, const struct describe_state *state,
                                    struct lq_model_outputs *out, struct lq_error *err)
{
    struct lq_scanned_file scanned;
    const void *data = NULL;
    uint64_t size = 0;
    enum lq_status status = load_scan(run, 0, state->file_names[0], &scanned, err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "file", &data, &size, err);
    }
    return status == LQ_OK ? lq_model_describe_gguf(data, size, size, state->file_names[0],
                                                    &scanned, lq_run_arena(run), out, err)
                           : status;
}

static enum lq_status load_text(struct lq_run *run, const char *input, struct lq_hf_text *out,
                                struct lq_error *err)
{
    *out = (struct lq_hf_text){0};
    return lq_run_has_input(run, input)
               ? lq_run_input_load(run, input, &out->data, &out->size_bytes, err)
               : LQ_OK;
}

static enum lq_status describe_directory(struct lq_run *run, const struct describe_state *state,
                                         struct lq_model_outputs *out, struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    struct lq_scanned_file *files = lq_arena_get_array(arena, state->file_count, sizeof *files);
    if (files == NULL) {
        return lq_error_nomem(err, "model");
    }
    struct lq_model_directory directory = {.files = files, .file_count = state->file_count};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < state->file_count && status == LQ_OK; i++) {
        status = load_scan(run, i, state->file_names[i], &files[i], err);
    }
    for (size_t i = 0; i < LQ_HF_FILE_COUNT && status == LQ_OK; i++) {
        status = load_text(run, lq_hf_file_name((enum lq_hf_file)i), &directory.texts[i], err);
    }
    if (status == LQ_OK) {
        status = lq_model_describe_directory(&directory, arena, out, err);
    }
    /* Files of all folders have the same names. */
    return status == LQ_OK ? LQ_OK : lq_error_prefix(err, "%s", state->source);
}

static enum lq_status write_output(struct lq_run *run, const char *name,
                                   const struct lq_buffer *buffer, struct lq_error *err)
{
    return lq_run_write(run, name, buffer->data, buffer->size_bytes, err);
}

/* A file that cannot be run can still be quantized, but hardly anybody wants that unknowingly. */
static enum lq_status warn_of_gaps(struct lq_run *run, const char *name, const struct lq_gguf *keys,
                                   const struct lq_buffer *tensors, struct lq_error *err)
{
    struct lq_hparams hparams;
    struct lq_tensor_index index;
    struct lq_error own;
    enum lq_status status =
        lq_tensor_index_parse(tensors->data, tensors->size_bytes, lq_run_arena(run), &index, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_error_clear(&own);
    enum lq_status gap = lq_hparams_read(keys, &index, name, LQ_EMODEL, &hparams, &own);
    if (gap != LQ_OK) {
        lq_run_warn(run, "%s%s", own.message,
                    gap == LQ_EUNSUPPORTED ? ""
                                           : "; it can be quantized as it stands, but not run");
    }
    return LQ_OK;
}

/* Said once, when the model is read first: most of what people want works all the same. */
static enum lq_status warn_of_limits(struct lq_run *run, const struct describe_state *state,
                                     const struct lq_model_outputs *out, struct lq_error *err)
{
    const char *file = state->file_names[0];
    struct lq_gguf keys;
    enum lq_status status =
        lq_gguf_parse(out->meta->data, out->meta->size_bytes, out->meta->size_bytes, file,
                      LQ_EFORMAT, lq_run_arena(run), &keys, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    const char *name = lq_gguf_get_string(&keys, "general.architecture");
    if (name != NULL && lq_arch_find(name) == NULL) {
        lq_run_warn(run,
                    "%s: the architecture '%s' has no forward pass here: it can be quantized, but "
                    "without an imatrix of its own, super weights, perplexity or a report of its "
                    "quality (known are %s)",
                    file, name, lq_arch_names());
        return LQ_OK;
    }
    if (!lq_gguf_get_bool(&keys, "qwen3moe.expert_weights_norm", true)) {
        lq_run_warn(run,
                    "%s: the weights of a token's experts do not add up to 1 in this model "
                    "(norm_topk_prob is false); lqbuild computes it so and the file says so, but "
                    "llama.cpp makes them add up to 1 for qwen3moe whatever the file says",
                    file);
    }
    return state->is_gguf ? warn_of_gaps(run, file, &keys, out->tensors, err) : LQ_OK;
}

static enum lq_status run_describe(struct lq_run *run, struct lq_error *err)
{
    const struct describe_state *state = lq_run_state(run);
    struct lq_buffer meta;
    struct lq_buffer vocab;
    struct lq_buffer tensors;
    lq_buffer_init(&meta);
    lq_buffer_init(&vocab);
    lq_buffer_init(&tensors);
    struct lq_model_outputs out = {.meta = &meta, .vocab = &vocab, .tensors = &tensors};
    enum lq_status status = state->is_gguf ? describe_gguf(run, state, &out, err)
                                           : describe_directory(run, state, &out, err);
    if (status == LQ_OK) {
        status = warn_of_limits(run, state, &out, err);
    }
    if (status == LQ_OK) {
        status = write_output(run, "meta", &meta, err);
    }
    if (status == LQ_OK) {
        status = write_output(run, "vocab", &vocab, err);
    }
    if (status == LQ_OK) {
        status = write_output(run, "tensors", &tensors, err);
    }
    lq_buffer_fini(&meta);
    lq_buffer_fini(&vocab);
    lq_buffer_fini(&tensors);
    return status;
}

/* The number of the plain file with this base name, or SIZE_MAX. */
static size_t find_plain(const struct lq_expand *expand, const struct lq_artifact *artifact,
                         const char *name)
{
    size_t count = lq_expand_source_count(expand, artifact);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(lq_expand_source_name(expand, artifact, i), name) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static bool is_plain_name(const char *name)
{
    for (size_t i = 0; i < LQ_HF_FILE_COUNT; i++) {
        if (strcmp(name, lq_hf_file_name((enum lq_hf_file)i)) == 0) {
            return true;
        }
    }
    return false;
}

/* Adds the descriptions of the tensor files as inputs, and learns what kind of files they are. */
static enum lq_status add_indexes(struct lq_expand *expand, const struct lq_artifact *artifact,
                                  struct describe_state *state, const char **names,
                                  struct lq_step_input *inputs, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    for (size_t i = 0; i < state->file_count; i++) {
        struct lq_ref ref = lq_ref_source(artifact, i);
        const void *data = NULL;
        uint64_t size = 0;
        enum lq_status status = lq_expand_read(expand, &ref, &data, &size, err);
        if (status != LQ_OK) {
            return status;
        }
        struct lq_scanned_file scanned;
        names[i] = lq_expand_source_name(expand, artifact, i);
        status = lq_scanned_file_parse(data, size, names[i], arena, &scanned, err);
        if (status != LQ_OK) {
            return status;
        }
        state->is_gguf = state->is_gguf || scanned.is_gguf;
        inputs[i].name = lq_arena_printf(arena, "index.%zu", i);
        inputs[i].ref = lq_ref_bytes(data, size);
        if (inputs[i].name == NULL) {
            return lq_error_nomem(err, "model");
        }
    }
    return LQ_OK;
}

/* The step itself, and what the artifact's outputs are. */
static enum lq_status add_describe_step(struct lq_expand *expand,
                                        const struct describe_state *state,
                                        const struct lq_step_input *inputs, size_t input_count,
                                        struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {
        {.name = "tensors"}, {.name = "meta"}, {.name = "vocab"}};
    const struct lq_step step = {.op = "model.describe",
                                 .version = 7,
                                 .label = lq_artifact_name(lq_expand_artifact(expand)),
                                 .run = run_describe,
                                 .state = state,
                                 .inputs = inputs,
                                 .input_count = input_count,
                                 .outputs = outputs,
                                 .output_count = LQ_COUNT_OF(outputs),
                                 .memory_bytes = (uint64_t)256 << 20,
                                 .cost = 100000};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(expand, &step, &index, err);
    for (size_t i = 0; i < LQ_COUNT_OF(outputs) && status == LQ_OK; i++) {
        struct lq_ref ref = lq_ref_step(index, outputs[i].name);
        status = lq_expand_bind_output(expand, outputs[i].name, &ref, err);
    }
    struct lq_ref main_ref = lq_ref_step(index, "tensors");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &main_ref, err) : status;
}

static enum lq_status expand_model(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_arena *arena = lq_expand_arena(expand);
    size_t source_count = lq_expand_source_count(expand, artifact);
    size_t plain_count = 0;
    for (size_t i = 0; i < LQ_HF_FILE_COUNT; i++) {
        plain_count +=
            find_plain(expand, artifact, lq_hf_file_name((enum lq_hf_file)i)) != SIZE_MAX;
    }
    struct describe_state *state = lq_arena_get(arena, sizeof *state);
    const char **names = lq_arena_get_array(arena, source_count, sizeof *names);
    struct lq_step_input *inputs = lq_arena_get_array(arena, source_count + 1, sizeof *inputs);
    if (state == NULL || names == NULL || inputs == NULL) {
        return lq_error_nomem(err, "model");
    }
    /* What is neither comes last and says which revision of a hub's model is meant. */
    bool has_ref = source_count > 1 &&
                   !is_plain_name(lq_expand_source_name(expand, artifact, source_count - 1));
    state->file_count = source_count - plain_count - (has_ref ? 1 : 0);
    state->file_names = names;
    state->source = lq_attr_string(artifact, "source");
    size_t input_count = state->file_count;
    enum lq_status status = add_indexes(expand, artifact, state, names, inputs, err);
    if (status != LQ_OK) {
        return status;
    }
    if (plain_count == 0 && !state->is_gguf) {
        return lq_attr_error(artifact, "source", err, LQ_EFORMAT,
                             "'%s' is a safetensors file; give its folder, with config.json and "
                             "its tokenizer",
                             lq_attr_string(artifact, "source"));
    }
    if (state->is_gguf && state->file_count == 1) {
        inputs[input_count++] =
            (struct lq_step_input){.name = "file", .ref = lq_ref_source(artifact, 0)};
    }
    for (size_t i = 0; i < LQ_HF_FILE_COUNT; i++) {
        const char *name = lq_hf_file_name((enum lq_hf_file)i);
        size_t number = find_plain(expand, artifact, name);
        if (number != SIZE_MAX && !state->is_gguf) {
            inputs[input_count++] =
                (struct lq_step_input){.name = name, .ref = lq_ref_source(artifact, number)};
        }
    }
    return add_describe_step(expand, state, inputs, input_count, err);
}

const struct lq_rule lq_rule_model = {
    .kind = "model",
    .version = 7,
    .help = "a model to read: a Hugging Face folder or a GGUF file",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "tensors meta vocab",
    .sources = find_sources,
    .expand = expand_model,
};

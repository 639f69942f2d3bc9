/* The rule `gguf`: a model as a GGUF file at a quantization level or by a profile: what type each
 * tensor gets, and the header. quant/gguf_steps.h has the steps. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "engine/base/version.h"
#include "kernels/kernels.h"
#include "rules/format/dqprofile.h"
#include "rules/format/mask.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_ref.h"
#include "rules/profile/resolve.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/gguf_check.h"
#include "rules/quant/gguf_steps.h"
#include "rules/quant/levels.h"
#include "rules/quant/promotion.h"
#include "rules/quant/provenance.h"
#include "rules/quant/tensor_inputs.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "what to quantize"},
    {.name = "level",
     .type = LQ_ATTR_STRING,
     .help = "quantization level such as Q4_K_M; beside a profile: for tensors it does not name"},
    {.name = "imatrix", .type = LQ_ATTR_REF, .choices = "imatrix", .help = "importance of weights"},
    {.name = "profile", .type = LQ_ATTR_REF, .choices = "profile", .help = "types by layer"},
    {.name = "protect",
     .type = LQ_ATTR_REF,
     .choices = "mask",
     .help = "mask of weights that dominate the search of their blocks"},
    {.name = "promote",
     .type = LQ_ATTR_STRING_LIST,
     .help = "globs of tensors to keep in promote_type; \"masked\" means those the mask touches"},
    {.name = "promote_type",
     .type = LQ_ATTR_ENUM,
     .choices = "Q8_0 F16",
     .help = "type of promoted tensors; by default F16 for a mask of 16 bits, else Q8_0"},
    {.name = "promote_spikes",
     .type = LQ_ATTR_BOOL,
     .default_text = "true",
     .help = "promote tensors in which the mask has super weights found by activation spikes"},
    {.name = "tensors",
     .type = LQ_ATTR_STRING_MAP,
     .help = "types by glob over GGUF names, first match wins: { \"blk.0.*\" = \"Q6_K\" }"},
    {.name = "pure",
     .type = LQ_ATTR_BOOL,
     .default_text = "false",
     .help = "the level's base type everywhere, no mixture"},
    {.name = "output_type", .type = LQ_ATTR_STRING, .help = "type of output.weight"},
    {.name = "embedding_type", .type = LQ_ATTR_STRING, .help = "type of token_embd.weight"},
    {.name = "allow_requantize",
     .type = LQ_ATTR_BOOL,
     .default_text = "false",
     .help = "quantize again what is quantized already"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where the file is put"},
    {.name = "statement",
     .type = LQ_ATTR_OUT_PATH,
     .output = "statement",
     .beside = "path",
     .suffix = ".intoto.json",
     .help = "where its provenance statement is put; by default beside it, PATH.intoto.json"},
};

/* --------------------------------------------------------------- what is wanted ---- */

/* Everything that is read while expanding, and the decision. All in the expand arena. */
struct request {
    struct lq_expand *expand;
    const struct lq_artifact *artifact;
    const struct lq_artifact *model;
    struct lq_arena *arena;
    struct lq_tensor_index index;
    struct lq_gguf meta;
    bool has_imatrix;
    struct lq_imatrix imatrix;
    bool has_mask;
    struct lq_mask mask;
    bool has_profile;
    struct lq_dqprofile profile;
    const struct lq_level *level; /* also the default beside a profile */
    struct lq_statement provenance;
    enum lq_dtype *types;
    struct lq_promotion *promotions; /* of tensors with spikes; what is read is not filled in yet */
    size_t promotion_count;
};

static enum lq_status read_mask(struct request *request, struct lq_error *err)
{
    const struct lq_artifact *mask = lq_attr_ref(request->artifact, "protect", 0);
    if (mask == NULL) {
        return LQ_OK;
    }
    request->has_mask = true;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_ref ref = lq_ref_artifact(mask, "main");
    enum lq_status status = lq_expand_read(request->expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_mask_parse(data, size_bytes, lq_artifact_name(mask), request->arena,
                               &request->mask, err);
    }
    for (size_t i = 0; status == LQ_OK && i < request->mask.tensor_count; i++) {
        const struct lq_mask_tensor *entry = &request->mask.tensors[i];
        const struct lq_model_tensor *tensor = lq_tensor_index_find(&request->index, entry->name);
        if (tensor == NULL || tensor->ne[0] != entry->col_count ||
            lq_level_tensor_elems(tensor) / entry->col_count != entry->row_count) {
            status = lq_attr_error(request->artifact, "protect", err, LQ_EFORMAT,
                                   "mask '%s' is of another model: it has '%s' with %" PRIu64
                                   " x %" PRIu64 " weights, this model has not",
                                   lq_artifact_name(mask), entry->name, entry->row_count,
                                   entry->col_count);
        }
    }
    return status;
}

static enum lq_status read_profile(struct request *request, struct lq_error *err)
{
    const struct lq_artifact *profile = lq_attr_ref(request->artifact, "profile", 0);
    if (profile == NULL) {
        return LQ_OK;
    }
    request->has_profile = true;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_ref ref = lq_ref_artifact(profile, "main");
    enum lq_status status = lq_expand_read(request->expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_dqprofile_parse(data, size_bytes, lq_artifact_name(profile), request->arena,
                                    &request->profile, err);
    }
    return status;
}

static enum lq_status read_inputs(struct request *request, struct lq_error *err)
{
    enum lq_status status =
        lq_inputs_read_model(request->expand, request->model, &request->index, &request->meta, err);
    const struct lq_artifact *imatrix = lq_attr_ref(request->artifact, "imatrix", 0);
    if (status == LQ_OK && imatrix != NULL) {
        request->has_imatrix = true;
        status = lq_inputs_read_imatrix(request->expand, imatrix, &request->imatrix, err);
    }
    if (status == LQ_OK) {
        status = read_mask(request, err);
    }
    return status == LQ_OK ? read_profile(request, err) : status;
}

/* Adds the profile's assignments behind the user's own patterns. */
static enum lq_status add_profile_types(struct request *request,
                                        const struct lq_level_request *level,
                                        struct lq_level_override *overrides, size_t *count,
                                        struct lq_error *err)
{
    size_t *layers =
        lq_arena_get_array(request->arena, request->index.tensor_count + 1, sizeof *layers);
    if (layers == NULL) {
        return lq_error_nomem(err, "the types of a model");
    }
    const char *where = lq_artifact_name(lq_attr_ref(request->artifact, "profile", 0));
    enum lq_status status =
        lq_profile_resolve(&request->profile, where, &request->index, layers, err);
    bool is_tied = lq_tensor_index_find(&request->index, "output.weight") == NULL;
    for (size_t i = 0; status == LQ_OK && i < request->index.tensor_count; i++) {
        const char *name = request->index.tensors[i].name;
        bool is_embedding = lq_level_is_embedding(name);
        bool is_output = lq_level_is_output(name) || (is_tied && is_embedding);
        if (layers[i] == SIZE_MAX || (is_embedding && level->embedding_type != NULL) ||
            (is_output && level->output_type != NULL)) {
            continue;
        }
        enum lq_dtype dtype = lq_profile_layer_type(&request->profile.layers[layers[i]]);
        overrides[(*count)++] = (struct lq_level_override){name, dtype};
    }
    return status;
}

static const enum lq_dtype *type_attr(const struct request *request, const char *attr)
{
    enum lq_dtype *dtype = NULL;
    if (lq_attr_is_set(request->artifact, attr)) {
        dtype = lq_arena_get(request->arena, sizeof *dtype);
        if (dtype != NULL) {
            (void)lq_level_dtype_find(lq_attr_string(request->artifact, attr), dtype);
        }
    }
    return dtype;
}

static enum lq_dtype promoted_type(const struct request *request)
{
    enum lq_dtype dtype = LQ_DTYPE_Q8_0;
    if (lq_attr_is_set(request->artifact, "promote_type")) {
        (void)lq_level_dtype_find(lq_attr_string(request->artifact, "promote_type"), &dtype);
    } else if (request->has_mask && request->mask.protection_precision == 16) {
        dtype = LQ_DTYPE_F16;
    }
    return dtype;
}

/* Raises the tensors that hold a super weight found by a spike, unless the user said no. */
static enum lq_status promote_spikes(struct request *request, struct lq_error *err)
{
    if (!request->has_mask || !lq_attr_bool(request->artifact, "promote_spikes")) {
        return LQ_OK;
    }
    enum lq_dtype dtype = promoted_type(request);
    request->promotions = lq_arena_get_array(request->arena, request->mask.tensor_count + 1,
                                             sizeof *request->promotions);
    if (request->promotions == NULL) {
        return lq_error_nomem(err, "promoted tensors");
    }
    for (size_t i = 0; i < request->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &request->index.tensors[i];
        const struct lq_mask_tensor *mask = lq_mask_find(&request->mask, tensor->name);
        if (mask == NULL || mask->spike_count == 0 ||
            lq_dtype_bpw(request->types[i]) >= lq_dtype_bpw(dtype)) {
            continue;
        }
        struct lq_promotion *promotion = &request->promotions[request->promotion_count];
        *promotion = (struct lq_promotion){.tensor = tensor,
                                           .from = request->types[i],
                                           .to = lq_level_fallback(dtype, tensor->ne[0]),
                                           .spike_count = mask->spike_count};
        request->types[i] = promotion->to;
        /* What was quantized before says little about what it gains. */
        request->promotion_count += tensor->packing == NULL ? 1 : 0;
    }
    return LQ_OK;
}

/* Raises the tensors that `promote` names. */
static enum lq_status promote(struct request *request, struct lq_error *err)
{
    const struct lq_artifact *artifact = request->artifact;
    enum lq_dtype dtype = promoted_type(request);
    for (size_t p = 0; p < lq_attr_count(artifact, "promote"); p++) {
        const char *pattern = lq_attr_item(artifact, "promote", p);
        bool masked = strcmp(pattern, "masked") == 0;
        bool matched = masked;
        for (size_t i = 0; i < request->index.tensor_count; i++) {
            const struct lq_model_tensor *tensor = &request->index.tensors[i];
            bool hit = masked ? lq_mask_find(&request->mask, tensor->name) != NULL
                              : lq_text_glob(pattern, tensor->name);
            if (!hit || !lq_level_is_quantizable(tensor)) {
                continue;
            }
            matched = true;
            if (lq_dtype_bpw(request->types[i]) < lq_dtype_bpw(dtype)) {
                request->types[i] = lq_level_fallback(dtype, tensor->ne[0]);
            }
        }
        if (!matched) {
            return lq_attr_error(artifact, "promote", err, LQ_ERECIPE,
                                 "pattern '%s' matches no tensor that can be quantized", pattern);
        }
    }
    return LQ_OK;
}

static enum lq_status decide_types(struct request *request, struct lq_error *err)
{
    const struct lq_artifact *artifact = request->artifact;
    size_t map_count = lq_attr_count(artifact, "tensors");
    size_t room = map_count + request->index.tensor_count + 1;
    struct lq_level_override *overrides =
        lq_arena_get_array(request->arena, room, sizeof *overrides);
    request->types = lq_arena_get_array(request->arena, room, sizeof *request->types);
    if (overrides == NULL || request->types == NULL) {
        return lq_error_nomem(err, "the types of a model");
    }
    const char *level = lq_attr_string(artifact, "level");
    request->level = lq_level_find(level == NULL ? "Q4_K_M" : level);
    struct lq_level_request wanted = {.level = request->level,
                                      .has_imatrix = request->has_imatrix,
                                      .pure = lq_attr_bool(artifact, "pure"),
                                      .output_type = type_attr(request, "output_type"),
                                      .embedding_type = type_attr(request, "embedding_type"),
                                      .overrides = overrides};
    lq_level_model_read(&request->meta, &wanted.model);
    for (size_t i = 0; i < map_count; i++) {
        overrides[i].pattern = lq_attr_item_key(artifact, "tensors", i);
        (void)lq_level_dtype_find(lq_attr_item(artifact, "tensors", i), &overrides[i].dtype);
    }
    wanted.override_count = map_count;
    enum lq_status status = LQ_OK;
    if (request->has_profile) {
        status = add_profile_types(request, &wanted, overrides, &wanted.override_count, err);
    }
    if (status == LQ_OK) {
        status = lq_level_assign(&wanted, &request->index, request->types, err);
        if (status == LQ_ERECIPE && err != NULL) {
            struct lq_error cause = *err;
            status = lq_attr_error(artifact, "tensors", err, status, "%s", cause.message);
        }
    }
    if (status == LQ_OK) {
        status = promote(request, err);
    }
    return status == LQ_OK ? promote_spikes(request, err) : status;
}

/* Refuses what would give a useless or impossible file, before any work. */
static enum lq_status check_types(const struct request *request, struct lq_error *err)
{
    const struct lq_artifact *artifact = request->artifact;
    bool allow = lq_attr_bool(artifact, "allow_requantize");
    const char *cause = lq_attr_is_set(artifact, "level") ? "level" : "profile";
    for (size_t i = 0; i < request->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &request->index.tensors[i];
        enum lq_dtype dtype = request->types[i];
        if (dtype == tensor->dtype && lq_model_tensor_is_verbatim(tensor)) {
            continue;
        }
        if (lq_level_is_quantized(tensor) && !allow) {
            const char *type =
                tensor->packing == NULL
                    ? lq_dtype_name((uint32_t)tensor->dtype)
                    : lq_packing_describe(tensor->packing, tensor->ne[0], request->arena);
            return lq_attr_error(
                artifact, "model", err, LQ_ERECIPE,
                "tensor '%s' is already %s; quantizing it again to %s loses "
                "quality: start from the original model, or allow it (allow_requantize = true, "
                "--allow-requantize)",
                tensor->name, type == NULL ? "quantized" : type, lq_dtype_name((uint32_t)dtype));
        }
        if (lq_kernels()->encode[dtype] == NULL) {
            return lq_attr_error(artifact, cause, err, LQ_EUNSUPPORTED,
                                 "tensor '%s' would be %s, which this version of lqbuild cannot "
                                 "encode; choose another level or give the tensor another type "
                                 "with `tensors`",
                                 tensor->name, lq_dtype_name((uint32_t)dtype));
        }
        if (lq_level_needs_imatrix(request->level, tensor->name, dtype) &&
            (!request->has_imatrix || lq_imatrix_find(&request->imatrix, tensor->name) == NULL)) {
            return lq_attr_error(artifact, cause, err, LQ_EIMATRIX,
                                 "%s at this size is unusable without an importance matrix and "
                                 "tensor '%s' has none; give one (imatrix = NAME in a recipe, "
                                 "--imatrix or --calibration-data on the command line)",
                                 lq_dtype_name((uint32_t)dtype), tensor->name);
        }
    }
    return LQ_OK;
}

/* ------------------------------------------------------------------ the header ---- */

static uint32_t file_type_of(const struct request *request)
{
    if (lq_attr_is_set(request->artifact, "level") && !lq_level_keeps_types(request->level)) {
        return lq_level_file_type(request->level);
    }
    uint64_t elems[LQ_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < request->index.tensor_count; i++) {
        elems[request->types[i]] += lq_level_tensor_elems(&request->index.tensors[i]);
    }
    size_t most = 0;
    for (size_t t = 1; t < LQ_DTYPE_COUNT; t++) {
        most = elems[t] > elems[most] ? t : most;
    }
    uint32_t file_type = lq_level_file_type(lq_level_of_dtype((enum lq_dtype)most));
    if (lq_attr_is_set(request->artifact, "level")) { /* a copy is what its source is */
        file_type = (uint32_t)lq_gguf_get_uint(&request->meta, "general.file_type", file_type);
    }
    return file_type;
}

/* Keys that say how a file was made or laid out: they are written anew or have no meaning here. */
static bool is_own_key(const char *key)
{
    return strcmp(key, "general.quantization_version") == 0 ||
           strcmp(key, "general.file_type") == 0 || strcmp(key, "general.alignment") == 0 ||
           lq_text_starts_with(key, "lqbuild.protected_") || lq_provenance_is_key(key) ||
           lq_text_starts_with(key, "split.") || lq_text_starts_with(key, "quantize.imatrix.");
}

enum { QUANTIZATION_VERSION = 2 }; /* of the block formats, docs/formats.md */

/* True for a tensor in which the mask's weights got better values than they would have had: they
 * lead their blocks, or the type has room for them. */
static bool is_protected(const struct request *request, size_t number)
{
    enum lq_dtype dtype = request->types[number];
    return lq_mask_find(&request->mask, request->index.tensors[number].name) != NULL &&
           (lq_encode_can_protect(dtype) || lq_dtype_bpw(dtype) >= lq_dtype_bpw(LQ_DTYPE_Q8_0));
}

static enum lq_status put_protection(const struct request *request, struct lq_gguf_writer *writer,
                                     struct lq_error *err)
{
    struct lq_gguf_string *names =
        lq_arena_get_array(request->arena, request->index.tensor_count + 1, sizeof *names);
    size_t count = 0;
    if (names == NULL) {
        return lq_error_nomem(err, "a GGUF header");
    }
    for (size_t i = 0; i < request->index.tensor_count; i++) {
        if (is_protected(request, i)) {
            const char *name = request->index.tensors[i].name;
            names[count++] = (struct lq_gguf_string){.data = name, .length = strlen(name)};
        }
    }
    lq_gguf_put_uint(writer, "lqbuild.protected_weights", LQ_GGUF_U64,
                     request->mask.total_protected);
    lq_gguf_put_strings(writer, "lqbuild.protected_tensors", names, count);
    return LQ_OK;
}

static enum lq_status put_keys(const struct request *request, struct lq_gguf_writer *writer,
                               struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < request->meta.kv_count; i++) {
        if (!is_own_key(request->meta.kvs[i].key)) {
            lq_gguf_put_value(writer, request->meta.kvs[i].key, &request->meta.kvs[i].value);
        }
    }
    lq_gguf_put_u32(writer, "general.quantization_version", QUANTIZATION_VERSION);
    lq_gguf_put_u32(writer, "general.file_type", file_type_of(request));
    if (request->has_imatrix) {
        const struct lq_imatrix *imatrix = &request->imatrix;
        lq_gguf_put_string(writer, "quantize.imatrix.file",
                           lq_artifact_name(lq_attr_ref(request->artifact, "imatrix", 0)));
        if (imatrix->dataset_count > 0) {
            lq_gguf_put_string(writer, "quantize.imatrix.dataset", imatrix->datasets[0]);
        }
        lq_gguf_put_u32(writer, "quantize.imatrix.entries_count", (uint32_t)imatrix->entry_count);
        lq_gguf_put_u32(writer, "quantize.imatrix.chunks_count", imatrix->chunk_count);
    }
    if (request->has_mask) {
        status = put_protection(request, writer, err);
    }
    lq_provenance_put_keys(&request->provenance, writer);
    return status;
}

static enum lq_status make_header(const struct request *request, struct lq_ref *ref,
                                  struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer header;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&header);
    enum lq_status status = put_keys(request, &writer, err);
    for (size_t i = 0; i < request->index.tensor_count && status == LQ_OK; i++) {
        const struct lq_model_tensor *tensor = &request->index.tensors[i];
        status = lq_gguf_put_tensor(&writer, tensor->name, request->types[i], tensor->dim_count,
                                    tensor->ne, err);
    }
    if (status == LQ_OK) {
        status = lq_gguf_writer_header(&writer, &header, err);
    }
    if (status == LQ_OK) {
        char *copy = lq_arena_dup(request->arena, header.data, header.size_bytes);
        status = copy == NULL ? lq_error_nomem(err, "a GGUF header") : LQ_OK;
        *ref = lq_ref_bytes(copy == NULL ? "" : copy, copy == NULL ? 0 : header.size_bytes);
    }
    lq_buffer_fini(&header);
    lq_gguf_writer_fini(&writer);
    return status;
}

/* ------------------------------------------------------------------- the steps ---- */

static enum lq_status add_steps(const struct request *request, const struct lq_ref *header,
                                struct lq_error *err)
{
    const struct lq_gguf_job job = {.expand = request->expand,
                                    .label = lq_artifact_name(request->artifact),
                                    .model = request->model,
                                    .index = &request->index,
                                    .types = request->types,
                                    .imatrix = request->has_imatrix ? &request->imatrix : NULL,
                                    .mask = request->has_mask ? &request->mask : NULL,
                                    .header = *header};
    struct lq_ref ref = {.kind = LQ_REF_NONE};
    size_t index = 0;
    enum lq_status status = lq_gguf_add_steps(&job, &ref, err);
    if (status == LQ_OK) {
        status = lq_expand_bind_output(request->expand, "main", &ref, err);
    }
    if (status == LQ_OK) {
        status = lq_provenance_add_step(request->expand, &request->provenance, &ref, &index, err);
    }
    if (status == LQ_OK) {
        ref = lq_ref_step(index, "main");
        status = lq_expand_bind_output(request->expand, "statement", &ref, err);
    }
    return status;
}

/* What promotions cost and gain; text for the end of the build. */
static enum lq_status add_summary(const struct request *request, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < request->promotion_count; i++) {
        struct lq_promotion *promotion = &request->promotions[i];
        struct lq_importance importance = {0};
        status = lq_tensor_ref(request->expand, request->model, promotion->tensor,
                               &promotion->weights, err);
        if (status == LQ_OK && request->has_imatrix) {
            status = lq_inputs_importance(&request->imatrix, promotion->tensor, request->arena,
                                          &importance, err);
        }
        if (importance.values != NULL) {
            promotion->importance = lq_inputs_importance_ref(&importance, promotion->tensor);
        }
    }
    return status == LQ_OK ? lq_promotion_add_summary(request->expand, request->promotions,
                                                      request->promotion_count, err)
                           : status;
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct request *request = lq_arena_get(lq_expand_arena(expand), sizeof *request);
    if (request == NULL) {
        return lq_error_nomem(err, "a gguf");
    }
    request->expand = expand;
    request->artifact = artifact;
    request->arena = lq_expand_arena(expand);
    request->model = lq_attr_ref(artifact, "model", 0);
    enum lq_status status = read_inputs(request, err);
    if (status == LQ_OK) {
        status = lq_provenance_collect(expand, &request->provenance, err);
    }
    if (status == LQ_OK) {
        status = decide_types(request, err);
    }
    if (status == LQ_OK) {
        status = check_types(request, err);
    }
    struct lq_ref header = {.kind = LQ_REF_NONE};
    if (status == LQ_OK) {
        status = make_header(request, &header, err);
    }
    if (status == LQ_OK) {
        status = add_steps(request, &header, err);
    }
    return status == LQ_OK ? add_summary(request, err) : status;
}

const struct lq_rule lq_rule_gguf = {
    .kind = "gguf",
    .version = 11,
    .program_version = lq_version,
    .help = "a GGUF file of a model at a quantization level or by a profile",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "statement (its provenance, an in-toto statement), summary (what keeping tensors "
               "with super weights in higher precision costs)",
    .check = lq_gguf_check,
    .expand = expand,
    .shows_summary = true,
};

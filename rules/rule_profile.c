/* The rule `profile`: a type for every tensor that is quantized. Fixed presets and custom files are
 * resolved at once; measured presets try types on sampled rows, one step for each tensor, and one
 * more step divides the bits. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/format/dqprofile.h"
#include "rules/model/tensor_ref.h"
#include "rules/profile/allocate.h"
#include "rules/profile/coefficients.h"
#include "rules/profile/presets.h"
#include "rules/profile/resolve.h"
#include "rules/profile/sensitivity.h"
#include "rules/quant/levels.h"
#include "rules/quant/tensor_inputs.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "for which model"},
    {.name = "strategy",
     .type = LQ_ATTR_ENUM,
     .choices = "attention-high balanced compression-max custom attention_high compression_max",
     .range_status = LQ_EPROFILE,
     .help = "preset; balanced when nothing is said"},
    {.name = "file",
     .type = LQ_ATTR_PATH,
     .help = "a .dqprofile file; layers by GGUF name, model name, their beginning, or glob"},
    {.name = "imatrix",
     .type = LQ_ATTR_REF,
     .choices = "imatrix",
     .help = "weighs the errors of trial encodings"},
    {.name = "target_bpw",
     .type = LQ_ATTR_NUMBER,
     .help = "bits per quantized weight: 4.5 for balanced, 3.0 for compression-max by default"},
    {.name = "target_size",
     .type = LQ_ATTR_NUMBER,
     .help = "size relative to 16 bits a weight, for example 25%"},
    {.name = "name", .type = LQ_ATTR_STRING, .help = "name written into the profile"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where the .dqprofile is put"},
};

/* Bits per weight that a target may ask for. */
static const double target_bpw_max = 32.0;
static const double bits_unquantized = 16.0;

/* ------------------------------------------------------------------- check ---- */

static const char *strategy_of(const struct lq_artifact *artifact)
{
    const char *strategy = lq_attr_string(artifact, "strategy");
    if (strategy != NULL) {
        return strategy;
    }
    return lq_attr_is_set(artifact, "file") ? "custom" : "balanced";
}

static enum lq_status check_targets(const struct lq_artifact *artifact, struct lq_error *err)
{
    bool has_bpw = lq_attr_is_set(artifact, "target_bpw");
    bool has_size = lq_attr_is_set(artifact, "target_size");
    const struct lq_preset *preset = lq_preset_find(strategy_of(artifact));
    const char *attr = has_bpw ? "target_bpw" : "target_size";
    if ((has_bpw || has_size) && (preset == NULL || !preset->is_measured)) {
        return lq_attr_error(artifact, attr, err, LQ_EPROFILE,
                             "a target needs strategy balanced or compression-max; %s has fixed "
                             "types",
                             strategy_of(artifact));
    }
    if (has_bpw && has_size) {
        return lq_attr_error(artifact, "target_size", err, LQ_EPROFILE,
                             "target_bpw and target_size say the same thing; give one of them");
    }
    double bpw = lq_attr_number(artifact, "target_bpw");
    if (has_bpw && !(bpw > 0.0 && bpw <= target_bpw_max)) {
        return lq_attr_error(artifact, "target_bpw", err, LQ_EPROFILE,
                             "target_bpw is %g, expected above 0 and at most %g", bpw,
                             target_bpw_max);
    }
    double size = lq_attr_number(artifact, "target_size");
    if (has_size && !(size > 0.0 && size <= 1.0)) {
        return lq_attr_error(artifact, "target_size", err, LQ_EPROFILE,
                             "target_size is %g, expected above 0 and at most 1 (100%%)", size);
    }
    return LQ_OK;
}

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    bool has_file = lq_attr_is_set(artifact, "file");
    bool is_custom = strcmp(strategy_of(artifact), "custom") == 0;
    if (has_file != is_custom) {
        return has_file ? lq_attr_error(artifact, "file", err, LQ_EPROFILE,
                                        "a profile file goes with strategy custom, not %s",
                                        strategy_of(artifact))
                        : lq_attr_error(artifact, "strategy", err, LQ_EPROFILE,
                                        "strategy custom needs file = \"NAME.dqprofile\"");
    }
    return check_targets(artifact, err);
}

static enum lq_status sources(const struct lq_artifact *artifact, struct lq_sources *list,
                              struct lq_error *err)
{
    if (!lq_attr_is_set(artifact, "file")) {
        return LQ_OK;
    }
    return lq_sources_add(list, lq_attr_path(artifact, "file"), NULL, LQ_EPROFILE, err);
}

/* ------------------------------------------------------------ without measuring ---- */

struct profile_plan {
    struct lq_expand *expand;
    const struct lq_artifact *artifact;
    const struct lq_artifact *model;
    struct lq_arena *arena;
    struct lq_tensor_index index;
    const struct lq_preset *preset; /* NULL for custom */
    struct lq_dqprofile profile;    /* what is written */
};

static const char *profile_name(const struct profile_plan *plan, const char *otherwise)
{
    const char *name = lq_attr_string(plan->artifact, "name");
    return name == NULL ? otherwise : name;
}

static enum lq_status profile_init(struct profile_plan *plan, const char *name,
                                   const char *description, enum lq_profile_strategy strategy,
                                   struct lq_error *err)
{
    plan->profile = (struct lq_dqprofile){.profile_name = name,
                                          .description = description,
                                          .strategy = strategy,
                                          .target_bpw = (double)NAN,
                                          .target_compression = (double)NAN};
    plan->profile.layers =
        lq_arena_get_array(plan->arena, plan->index.tensor_count + 1, sizeof *plan->profile.layers);
    return plan->profile.layers == NULL ? lq_error_nomem(err, "a profile") : LQ_OK;
}

static struct lq_dqprofile_layer *profile_add(struct lq_dqprofile *profile, const char *name,
                                              enum lq_dtype dtype)
{
    struct lq_dqprofile_layer *layer = &profile->layers[profile->layer_count++];
    *layer = (struct lq_dqprofile_layer){.layer_name = name,
                                         .bit_width = lq_profile_bit_width(dtype),
                                         .has_type = true,
                                         .type = dtype,
                                         .importance_score = (double)NAN,
                                         .estimated_error = (double)NAN};
    return layer;
}

/* Binds the profile as bytes: nothing has to run for it. */
static enum lq_status bind_profile(struct profile_plan *plan, struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_dqprofile_format(&plan->profile, &out, err);
    if (status == LQ_OK) {
        char *copy = lq_arena_dup(plan->arena, out.data, out.size_bytes);
        struct lq_ref ref =
            lq_ref_bytes(copy == NULL ? "" : copy, copy == NULL ? 0 : out.size_bytes);
        status = copy == NULL ? lq_error_nomem(err, "a profile")
                              : lq_expand_bind_output(plan->expand, "main", &ref, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status expand_fixed(struct profile_plan *plan, struct lq_error *err)
{
    bool is_tied = lq_tensor_index_find(&plan->index, "output.weight") == NULL;
    enum lq_status status = profile_init(plan, profile_name(plan, plan->preset->name),
                                         plan->preset->description, plan->preset->strategy, err);
    for (size_t i = 0; status == LQ_OK && i < plan->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &plan->index.tensors[i];
        if (lq_level_is_quantizable(tensor)) {
            enum lq_dtype dtype = lq_preset_attention_high(tensor->name, is_tied);
            (void)profile_add(&plan->profile, tensor->name,
                              lq_level_fallback(dtype, tensor->ne[0]));
        }
    }
    return status == LQ_OK ? bind_profile(plan, err) : status;
}

static enum lq_status expand_custom(struct profile_plan *plan, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_dqprofile custom;
    struct lq_ref ref = lq_ref_source(plan->artifact, 0);
    const char *where = lq_expand_source_name(plan->expand, plan->artifact, 0);
    size_t *layers = lq_arena_get_array(plan->arena, plan->index.tensor_count + 1, sizeof *layers);
    if (layers == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    enum lq_status status = lq_expand_read(plan->expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_dqprofile_parse(data, size_bytes, where, plan->arena, &custom, err);
    }
    if (status == LQ_OK) {
        status = lq_profile_resolve(&custom, where, &plan->index, layers, err);
    }
    if (status == LQ_OK) {
        status = profile_init(plan, profile_name(plan, custom.profile_name), custom.description,
                              custom.strategy, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    plan->profile.target_bpw = custom.target_bpw;
    plan->profile.target_compression = custom.target_compression;
    for (size_t i = 0; i < plan->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &plan->index.tensors[i];
        if (layers[i] == SIZE_MAX) {
            continue;
        }
        const struct lq_dqprofile_layer *from = &custom.layers[layers[i]];
        enum lq_dtype dtype = lq_level_fallback(lq_profile_layer_type(from), tensor->ne[0]);
        struct lq_dqprofile_layer *layer = profile_add(&plan->profile, tensor->name, dtype);
        layer->is_protected = from->is_protected;
        layer->quant_method = from->quant_method;
        layer->importance_score = from->importance_score;
        layer->estimated_error = from->estimated_error;
    }
    return bind_profile(plan, err);
}

/* ------------------------------------------------------------------ measuring ---- */

static enum lq_status run_measure(struct lq_run *run, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = lq_run_state(run);
    struct lq_importance importance;
    enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX];
    struct lq_sensitivity sensitivity;
    struct lq_sensitivity_job job = {.tensor = tensor,
                                     .row_count_max = LQ_SENSITIVITY_ROWS,
                                     .types = types,
                                     .pool = lq_run_pool(run)};
    job.type_count = lq_sensitivity_candidates(tensor->ne[0], types);
    enum lq_status status;
    if (tensor->piece_count != 0) {
        job.size_bytes = tensor->size_bytes;
        status = lq_tensor_load_matrices(run, tensor, "weights", &job.matrices, err);
    } else {
        status = lq_run_input_load(run, "weights", &job.data, &job.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_run_load_importance(run, "importance", tensor, &importance, err);
    }
    if (status == LQ_OK) {
        job.importance = importance.values;
        job.mat_count = importance.mat_count;
        status = lq_sensitivity_measure(&job, &sensitivity, err);
    }
    if (status == LQ_OK) {
        struct lq_buffer out;
        lq_buffer_init(&out);
        lq_sensitivity_format(&sensitivity, &out);
        status = out.failed ? lq_error_nomem(err, "a measurement")
                            : lq_run_write(run, "errors", out.data, out.size_bytes, err);
        lq_buffer_fini(&out);
    }
    return status;
}

/* Everything that the solving step needs follows from its parameters. */
struct solve_state {
    struct lq_dqprofile profile; /* name, strategy, target */
    const struct lq_model_tensor **tensors;
    bool *has_importance; /* of each tensor */
    size_t tensor_count;
    bool is_tied;
    double target_bpw;
};

static char *list_candidates(struct lq_arena *arena, uint64_t col_count)
{
    enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX];
    size_t count = lq_sensitivity_candidates(col_count, types);
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(&text, "%s%s", i > 0 ? " " : "", lq_dtype_name((uint32_t)types[i]));
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static enum lq_status add_measure(struct profile_plan *plan, const struct lq_model_tensor *tensor,
                                  const struct lq_imatrix *imatrix, size_t *index,
                                  bool *has_importance, struct lq_error *err)
{
    struct lq_importance importance = {0};
    struct lq_step_param params[LQ_TENSOR_PARAMS_MAX + 2];
    struct lq_step_input *inputs =
        lq_arena_get_array(plan->arena, lq_tensor_input_count(tensor) + 1, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a step");
    }
    struct lq_step_output output = {.name = "errors"};
    struct lq_step step = {.op = "profile.measure",
                           .version = 6,
                           .label = tensor->name,
                           .run = run_measure,
                           .state = tensor,
                           .params = params,
                           .inputs = inputs,
                           .outputs = &output,
                           .output_count = 1,
                           .memory_bytes = 16 * tensor->ne[0] * sizeof(float),
                           .cost = 100 + tensor->ne[0] * LQ_SENSITIVITY_ROWS};
    enum lq_status status =
        lq_inputs_tensor_params(tensor, plan->arena, params, &step.param_count, err);
    if (status == LQ_OK) {
        status = lq_tensor_put_inputs(plan->expand, plan->model, tensor, "weights", inputs,
                                      &step.input_count, err);
    }
    if (status == LQ_OK && imatrix != NULL) {
        status = lq_inputs_importance(imatrix, tensor, plan->arena, &importance, err);
        if (status != LQ_OK && lq_level_is_embedding(tensor->name)) {
            status = LQ_OK;
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_ref ref = lq_inputs_importance_ref(&importance, tensor);
    *has_importance = importance.values != NULL;
    if (!*has_importance) {
        status = lq_inputs_output_importance(plan->expand, plan->model, &plan->index, tensor, &ref,
                                             has_importance, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (*has_importance) {
        inputs[step.input_count++] = (struct lq_step_input){"importance", ref};
    }
    params[step.param_count++] =
        (struct lq_step_param){"rows", lq_arena_printf(plan->arena, "%d", LQ_SENSITIVITY_ROWS)};
    params[step.param_count++] =
        (struct lq_step_param){"types", list_candidates(plan->arena, tensor->ne[0])};
    if (params[step.param_count - 1].value == NULL || params[step.param_count - 2].value == NULL) {
        return lq_error_nomem(err, "a step");
    }
    return lq_expand_add_step(plan->expand, &step, index, err);
}

/* -------------------------------------------------------------------- solving ---- */

/* The noise that a type adds to a tensor's output, relative to the output: comparable between
 * tensors, whatever the scale of their inputs. */
static double relative_error(const struct lq_sensitivity *sensitivity, size_t type)
{
    return sensitivity->signal > 0.0 ? sensitivity->errors[type] / sensitivity->signal : 0.0;
}

static enum lq_status load_measured(struct lq_run *run, const struct solve_state *state,
                                    struct lq_sensitivity *measured, struct lq_error *err)
{
    for (size_t i = 0; i < state->tensor_count; i++) {
        char name[32];
        const void *data = NULL;
        uint64_t size_bytes = 0;
        (void)snprintf(name, sizeof name, "errors%zu", i);
        enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_sensitivity_parse(data, size_bytes, &measured[i], err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status find_factors(const struct solve_state *state,
                                   const struct lq_sensitivity *measured, struct lq_arena *arena,
                                   double *factors, struct lq_error *err)
{
    struct lq_coefficient_input *inputs =
        lq_arena_get_array(arena, state->tensor_count + 1, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    for (size_t i = 0; i < state->tensor_count; i++) {
        inputs[i] = (struct lq_coefficient_input){.name = state->tensors[i]->name,
                                                  .row_count = state->tensors[i]->ne[1],
                                                  .mat_count = state->tensors[i]->ne[2],
                                                  .signal = measured[i].signal,
                                                  .squares = measured[i].squares,
                                                  .has_importance = state->has_importance[i]};
    }
    return lq_coefficients(inputs, state->tensor_count, state->is_tied, factors, err);
}

static void make_items(const struct solve_state *state, const struct lq_sensitivity *measured,
                       const double *factors, struct lq_allocation_item *items)
{
    for (size_t i = 0; i < state->tensor_count; i++) {
        items[i].choice_count = measured[i].type_count;
        for (size_t t = 0; t < measured[i].type_count; t++) {
            uint64_t bytes = lq_level_tensor_bytes(state->tensors[i], measured[i].types[t]);
            items[i].choices[t] = (struct lq_allocation_choice){
                bytes * 8, factors[i] * relative_error(&measured[i], t)};
        }
    }
}

static enum lq_status check_target(const struct solve_state *state,
                                   const struct lq_allocation_item *items, uint64_t weights,
                                   struct lq_error *err)
{
    uint64_t least = 0;
    uint64_t most = 0;
    lq_allocation_range(items, state->tensor_count, &least, &most);
    double low = (double)least / (double)weights;
    double high = (double)most / (double)weights;
    if (state->target_bpw >= low && state->target_bpw <= high) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EPROFILE,
                        "%.4g bits per weight cannot be reached for this model: its tensors allow "
                        "%.4g to %.4g",
                        state->target_bpw, ceil(low * 1000.0) / 1000.0,
                        floor(high * 1000.0) / 1000.0);
}

static enum lq_status write_solution(struct lq_run *run, const struct solve_state *state,
                                     const struct lq_sensitivity *measured, const double *factors,
                                     const size_t *chosen, struct lq_error *err)
{
    struct lq_dqprofile profile = state->profile;
    profile.layers =
        lq_arena_get_array(lq_run_arena(run), state->tensor_count + 1, sizeof *profile.layers);
    if (profile.layers == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    for (size_t i = 0; i < state->tensor_count; i++) {
        struct lq_dqprofile_layer *layer =
            profile_add(&profile, state->tensors[i]->name, measured[i].types[chosen[i]]);
        layer->importance_score = factors[i];
        layer->estimated_error = relative_error(&measured[i], chosen[i]);
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_dqprofile_format(&profile, &out, err);
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status run_solve(struct lq_run *run, struct lq_error *err)
{
    const struct solve_state *state = lq_run_state(run);
    struct lq_arena *arena = lq_run_arena(run);
    size_t count = state->tensor_count;
    struct lq_sensitivity *measured = lq_arena_get_array(arena, count + 1, sizeof *measured);
    struct lq_allocation_item *items = lq_arena_get_array(arena, count + 1, sizeof *items);
    size_t *chosen = lq_arena_get_array(arena, count + 1, sizeof *chosen);
    double *factors = lq_arena_get_array(arena, count + 1, sizeof *factors);
    if (measured == NULL || items == NULL || chosen == NULL || factors == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    enum lq_status status = load_measured(run, state, measured, err);
    if (status == LQ_OK) {
        status = find_factors(state, measured, arena, factors, err);
    }
    uint64_t weights = 0;
    for (size_t i = 0; i < count; i++) {
        weights += lq_level_tensor_elems(state->tensors[i]);
    }
    if (status == LQ_OK) {
        make_items(state, measured, factors, items);
        status = check_target(state, items, weights, err);
    }
    if (status == LQ_OK) {
        uint64_t budget = (uint64_t)(state->target_bpw * (double)weights);
        status = lq_allocate(items, count, budget, chosen, err);
    }
    return status == LQ_OK ? write_solution(run, state, measured, factors, chosen, err) : status;
}

static char *describe_tensors(const struct solve_state *state, struct lq_arena *arena)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < state->tensor_count; i++) {
        const struct lq_model_tensor *tensor = state->tensors[i];
        lq_buffer_printf(&text, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %d\n",
                         tensor->name, tensor->ne[0], tensor->ne[1], tensor->ne[2],
                         lq_level_tensor_elems(tensor), state->has_importance[i] ? 1 : 0);
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static enum lq_status add_solve(struct profile_plan *plan, struct solve_state *state,
                                const struct lq_step_input *inputs, struct lq_error *err)
{
    struct lq_step_param params[] = {
        {"target_bpw", lq_arena_printf(plan->arena, "%.17g", state->target_bpw)},
        {"name", state->profile.profile_name},
        {"strategy", lq_profile_strategy_name(state->profile.strategy)},
        {"tensors", describe_tensors(state, plan->arena)},
        {"tied", state->is_tied ? "1" : "0"},
    };
    if (params[0].value == NULL || params[3].value == NULL) {
        return lq_error_nomem(err, "a step");
    }
    struct lq_step_output output = {.name = "main"};
    struct lq_step step = {.op = "profile.solve",
                           .version = 3,
                           .label = lq_artifact_name(plan->artifact),
                           .run = run_solve,
                           .state = state,
                           .params = params,
                           .param_count = LQ_COUNT_OF(params),
                           .inputs = inputs,
                           .input_count = state->tensor_count,
                           .outputs = &output,
                           .output_count = 1,
                           .cost = 1000};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(plan->expand, &step, &index, err);
    if (status == LQ_OK) {
        struct lq_ref ref = lq_ref_step(index, "main");
        status = lq_expand_bind_output(plan->expand, "main", &ref, err);
    }
    return status;
}

static double target_of(const struct profile_plan *plan)
{
    if (lq_attr_is_set(plan->artifact, "target_bpw")) {
        return lq_attr_number(plan->artifact, "target_bpw");
    }
    return lq_attr_is_set(plan->artifact, "target_size")
               ? lq_attr_number(plan->artifact, "target_size") * bits_unquantized
               : plan->preset->target_bpw;
}

static enum lq_status expand_measured(struct profile_plan *plan, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_attr_ref(plan->artifact, "imatrix", 0);
    struct lq_imatrix imatrix;
    size_t room = plan->index.tensor_count + 1;
    struct solve_state *state = lq_arena_get(plan->arena, sizeof *state);
    struct lq_step_input *inputs = lq_arena_get_array(plan->arena, room, sizeof *inputs);
    const struct lq_model_tensor **tensors = lq_arena_get_array(plan->arena, room, sizeof *tensors);
    bool *has_importance = lq_arena_get_array(plan->arena, room, sizeof *has_importance);
    if (state == NULL || inputs == NULL || tensors == NULL || has_importance == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    enum lq_status status = profile_init(plan, profile_name(plan, plan->preset->name),
                                         plan->preset->description, plan->preset->strategy, err);
    if (status == LQ_OK && artifact != NULL) {
        status = lq_inputs_read_imatrix(plan->expand, artifact, &imatrix, err);
    }
    for (size_t i = 0; status == LQ_OK && i < plan->index.tensor_count; i++) {
        struct lq_model_tensor *tensor = lq_arena_get(plan->arena, sizeof *tensor);
        if (!lq_level_is_quantizable(&plan->index.tensors[i])) {
            continue;
        }
        if (tensor == NULL) {
            return lq_error_nomem(err, "a profile");
        }
        *tensor = plan->index.tensors[i];
        size_t number = state->tensor_count++;
        size_t index = 0;
        tensors[number] = tensor;
        inputs[number].name = lq_arena_printf(plan->arena, "errors%zu", number);
        status = inputs[number].name == NULL
                     ? lq_error_nomem(err, "a profile")
                     : add_measure(plan, tensor, artifact == NULL ? NULL : &imatrix, &index,
                                   &has_importance[number], err);
        inputs[number].ref = lq_ref_step(index, "errors");
    }
    if (status != LQ_OK) {
        return status;
    }
    state->tensors = tensors;
    state->has_importance = has_importance;
    state->is_tied = lq_tensor_index_find(&plan->index, "output.weight") == NULL;
    state->target_bpw = target_of(plan);
    state->profile = plan->profile;
    state->profile.target_bpw = state->target_bpw;
    state->profile.target_compression = state->target_bpw / bits_unquantized;
    if (state->profile.target_compression > 1.0) {
        state->profile.target_compression = (double)NAN;
    }
    return add_solve(plan, state, inputs, err);
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    struct profile_plan plan = {
        .expand = expand, .artifact = lq_expand_artifact(expand), .arena = lq_expand_arena(expand)};
    plan.model = lq_attr_ref(plan.artifact, "model", 0);
    plan.preset = lq_preset_find(strategy_of(plan.artifact));
    enum lq_status status = lq_inputs_read_model(expand, plan.model, &plan.index, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    if (plan.preset == NULL) {
        return expand_custom(&plan, err);
    }
    return plan.preset->is_measured ? expand_measured(&plan, err) : expand_fixed(&plan, err);
}

const struct lq_rule lq_rule_profile = {
    .kind = "profile",
    .version = 8,
    .help = "a type for every layer: a preset, a file, or found for a target size",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .check = check,
    .sources = sources,
    .expand = expand,
};

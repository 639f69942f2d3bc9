/* The rule `mask`: the weights whose magnitude times input importance is largest in the model. One
 * step for each tensor finds its candidates, one more takes the best of all. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "rules/format/mask.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/levels.h"
#include "rules/quant/super_weights.h"
#include "rules/quant/tensor_inputs.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "whose weights"},
    {.name = "imatrix",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "imatrix",
     .help = "importance of input columns"},
    {.name = "coverage",
     .type = LQ_ATTR_NUMBER,
     .default_text = "0.0001",
     .help = "fraction of the weights to protect, above 0 and at most 1%"},
    {.name = "precision",
     .type = LQ_ATTR_INT,
     .default_text = "16",
     .help = "bits of promoted tensors: 8 or 16"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where the mask is put"},
};

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    double coverage = lq_attr_number(artifact, "coverage");
    if (!(coverage > 0.0 && coverage <= LQ_MASK_COVERAGE_MAX)) {
        return lq_attr_error(artifact, "coverage", err, LQ_ERECIPE,
                             "coverage is %g, expected a fraction above 0 and at most %g (1%%)",
                             coverage, LQ_MASK_COVERAGE_MAX);
    }
    int64_t precision = lq_attr_int(artifact, "precision");
    if (precision != 8 && precision != 16) {
        return lq_attr_error(artifact, "precision", err, LQ_ERECIPE,
                             "precision is %" PRId64 ", expected 8 or 16", precision);
    }
    return LQ_OK;
}

/* What a candidates step looks at. */
struct candidates_state {
    struct lq_model_tensor tensor;
    uint64_t keep;
};

static enum lq_status run_candidates(struct lq_run *run, struct lq_error *err)
{
    const struct candidates_state *state = lq_run_state(run);
    struct lq_importance importance;
    struct lq_super_job job = {.tensor = &state->tensor,
                               .keep = state->keep,
                               .user = run,
                               .cancelled = lq_run_cancelled_user};
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_run_input_load(run, "weights", &job.data, &job.size_bytes, err);
    if (status == LQ_OK) {
        status = lq_run_load_importance(run, &state->tensor, &importance, err);
    }
    if (status == LQ_OK) {
        job.importance = importance.values;
        job.mat_count = importance.mat_count;
        status = lq_super_candidates(&job, &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "candidates", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

/* What the selection looks at: everything here follows from the parameters. */
struct select_state {
    double coverage;
    uint32_t precision;
    uint64_t keep;
    const char *matrix_id;
    struct lq_model_tensor *tensors; /* in the order of the model */
    size_t tensor_count;
};

static enum lq_status read_candidates(void *user, size_t list, uint64_t first, void *out,
                                      size_t count, struct lq_error *err)
{
    char name[32];
    (void)snprintf(name, sizeof name, "candidates%zu", list);
    return lq_run_input_read(user, name, first * LQ_WEIGHT_RANK_BYTES, out,
                             count * LQ_WEIGHT_RANK_BYTES, err);
}

static int compare_ranks(const void *a, const void *b)
{
    const struct lq_weight_rank *x = a;
    const struct lq_weight_rank *y = b;
    return x->position < y->position ? -1 : x->position > y->position;
}

/* The first `count` candidates of a tensor as an entry of the mask, by position. */
static enum lq_status fill_entry(struct lq_run *run, const struct lq_model_tensor *tensor,
                                 size_t list, uint64_t count, struct lq_mask_tensor *entry,
                                 struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    struct lq_weight_rank *ranks = lq_arena_get_array(arena, (size_t)count, sizeof *ranks);
    uint64_t *positions = lq_arena_get_array(arena, (size_t)count, sizeof *positions);
    float *scores = lq_arena_get_array(arena, (size_t)count, sizeof *scores);
    unsigned char *bytes = lq_arena_get_array(arena, (size_t)count, LQ_WEIGHT_RANK_BYTES);
    if (ranks == NULL || positions == NULL || scores == NULL || bytes == NULL) {
        return lq_error_nomem(err, "a mask");
    }
    enum lq_status status = read_candidates(run, list, 0, bytes, (size_t)count, err);
    if (status != LQ_OK) {
        return status;
    }
    for (uint64_t i = 0; i < count; i++) {
        ranks[i] = lq_weight_rank_read(bytes + i * LQ_WEIGHT_RANK_BYTES);
    }
    qsort(ranks, (size_t)count, sizeof *ranks, compare_ranks);
    for (uint64_t i = 0; i < count; i++) {
        positions[i] = ranks[i].position;
        scores[i] = (float)ranks[i].score;
    }
    *entry = (struct lq_mask_tensor){.name = tensor->name,
                                     .row_count = lq_level_tensor_elems(tensor) / tensor->ne[0],
                                     .col_count = tensor->ne[0],
                                     .positions = positions,
                                     .scores = scores,
                                     .position_count = (size_t)count};
    return LQ_OK;
}

static int compare_entries(const void *a, const void *b)
{
    const struct lq_mask_tensor *x = a;
    const struct lq_mask_tensor *y = b;
    return strcmp(x->name, y->name);
}

static enum lq_status write_mask(struct lq_run *run, const struct select_state *state,
                                 const uint64_t *taken, struct lq_error *err)
{
    struct lq_mask mask = {.source_matrix_id = state->matrix_id,
                           .coverage = state->coverage,
                           .protection_precision = state->precision};
    mask.tensors =
        lq_arena_get_array(lq_run_arena(run), state->tensor_count + 1, sizeof *mask.tensors);
    enum lq_status status = mask.tensors == NULL ? lq_error_nomem(err, "a mask") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < state->tensor_count; i++) {
        if (taken[i] > 0) {
            status = fill_entry(run, &state->tensors[i], i, taken[i],
                                &mask.tensors[mask.tensor_count++], err);
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    qsort(mask.tensors, mask.tensor_count, sizeof *mask.tensors, compare_entries);
    struct lq_buffer out;
    lq_buffer_init(&out);
    status = lq_mask_format(&mask, &out, err);
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status run_select(struct lq_run *run, struct lq_error *err)
{
    const struct select_state *state = lq_run_state(run);
    struct lq_arena *arena = lq_run_arena(run);
    uint64_t *counts = lq_arena_get_array(arena, state->tensor_count + 1, sizeof *counts);
    uint64_t *taken = lq_arena_get_array(arena, state->tensor_count + 1, sizeof *taken);
    if (counts == NULL || taken == NULL) {
        return lq_error_nomem(err, "a mask");
    }
    for (size_t i = 0; i < state->tensor_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "candidates%zu", i);
        counts[i] = lq_run_input_size(run, name) / LQ_WEIGHT_RANK_BYTES;
    }
    struct lq_super_lists lists = {
        .list_count = state->tensor_count, .counts = counts, .user = run, .read = read_candidates};
    enum lq_status status = lq_super_select(&lists, state->keep, taken, err);
    return status == LQ_OK ? write_mask(run, state, taken, err) : status;
}

/* ------------------------------------------------------------------ expand ---- */

struct mask_plan {
    struct lq_expand *expand;
    const struct lq_artifact *artifact;
    const struct lq_artifact *model;
    struct lq_arena *arena;
    struct lq_tensor_index index;
    struct lq_imatrix imatrix;
    struct select_state *select;
    struct lq_step_input *inputs; /* of the selection */
};

/* Layer weights that are quantized and that the matrix knows. */
static bool is_candidate(const struct mask_plan *plan, const struct lq_model_tensor *tensor)
{
    return lq_level_is_quantizable(tensor) && lq_level_layer_of(tensor->name) >= 0 &&
           lq_imatrix_find(&plan->imatrix, tensor->name) != NULL;
}

static enum lq_status count_weights(struct mask_plan *plan, struct lq_error *err)
{
    uint64_t total = 0;
    for (size_t i = 0; i < plan->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &plan->index.tensors[i];
        if (is_candidate(plan, tensor)) {
            plan->select->tensors[plan->select->tensor_count++] = *tensor;
            if (!lq_add_u64(total, lq_level_tensor_elems(tensor), &total)) {
                return lq_error_set(err, LQ_EFORMAT, "the model's tensors are too large");
            }
        }
    }
    if (total == 0) {
        return lq_attr_error(plan->artifact, "imatrix", err, LQ_EIMATRIX,
                             "the importance matrix has no entry for any layer weight of model "
                             "'%s'; make it from this model",
                             lq_artifact_name(plan->model));
    }
    plan->select->keep = lq_super_keep_count(plan->select->coverage, total);
    return LQ_OK;
}

static enum lq_status add_candidates(struct mask_plan *plan, size_t number, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &plan->select->tensors[number];
    struct lq_importance importance;
    enum lq_status status =
        lq_inputs_importance(&plan->imatrix, tensor, plan->arena, &importance, err);
    struct candidates_state *state = lq_arena_get(plan->arena, sizeof *state);
    char *keep = lq_arena_printf(plan->arena, "%" PRIu64, plan->select->keep);
    char *name = lq_arena_printf(plan->arena, "candidates%zu", number);
    if (status == LQ_OK && (state == NULL || keep == NULL || name == NULL)) {
        status = lq_error_nomem(err, "a step");
    }
    if (status != LQ_OK) {
        return status;
    }
    *state = (struct candidates_state){*tensor, plan->select->keep};
    uint64_t elems = lq_level_tensor_elems(tensor);
    uint64_t kept = plan->select->keep < elems ? plan->select->keep : elems;
    struct lq_step_param params[LQ_TENSOR_PARAMS_MAX + 1];
    struct lq_step_input inputs[2] = {
        {.name = "weights"},
        {"importance", lq_inputs_importance_ref(&importance, tensor)},
    };
    struct lq_step_output output = {.name = "candidates"};
    struct lq_step step = {.op = "mask.candidates",
                           .version = 1,
                           .label = tensor->name,
                           .run = run_candidates,
                           .state = state,
                           .params = params,
                           .inputs = inputs,
                           .input_count = 2,
                           .outputs = &output,
                           .output_count = 1,
                           .memory_bytes =
                               2 * 1024 * 1024 + 2 * kept * sizeof(struct lq_weight_rank),
                           .cost = 100 + elems / 100};
    status = lq_inputs_tensor_params(tensor, plan->arena, params, &step.param_count, err);
    params[step.param_count++] = (struct lq_step_param){"keep", keep};
    if (status == LQ_OK) {
        status = lq_tensor_ref(plan->expand, plan->model, tensor, &inputs[0].ref, err);
    }
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(plan->expand, &step, &index, err);
    }
    plan->inputs[number] = (struct lq_step_input){name, lq_ref_step(index, "candidates")};
    return status;
}

/* The names and shapes of the tensors, as one parameter: they are written into the mask. */
static char *describe_tensors(const struct mask_plan *plan)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < plan->select->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &plan->select->tensors[i];
        lq_buffer_printf(&text, "%s %" PRIu64 " %" PRIu64 "\n", tensor->name, tensor->ne[0],
                         lq_level_tensor_elems(tensor));
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(plan->arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static enum lq_status add_selection(struct mask_plan *plan, struct lq_error *err)
{
    struct select_state *select = plan->select;
    struct lq_step_param params[] = {
        {"coverage", lq_arena_printf(plan->arena, "%.17g", select->coverage)},
        {"precision", lq_arena_printf(plan->arena, "%" PRIu32, select->precision)},
        {"keep", lq_arena_printf(plan->arena, "%" PRIu64, select->keep)},
        {"matrix", select->matrix_id},
        {"tensors", describe_tensors(plan)},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(params); i++) {
        if (params[i].value == NULL) {
            return lq_error_nomem(err, "a step");
        }
    }
    struct lq_step_output output = {.name = "main"};
    struct lq_step step = {.op = "mask.select",
                           .version = 1,
                           .label = lq_artifact_name(plan->artifact),
                           .run = run_select,
                           .state = select,
                           .params = params,
                           .param_count = LQ_COUNT_OF(params),
                           .inputs = plan->inputs,
                           .input_count = select->tensor_count,
                           .outputs = &output,
                           .output_count = 1,
                           .cost = 1000 + select->keep};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(plan->expand, &step, &index, err);
    if (status == LQ_OK) {
        struct lq_ref ref = lq_ref_step(index, "main");
        status = lq_expand_bind_output(plan->expand, "main", &ref, err);
    }
    return status;
}

/* The digest of the matrix as it was read: what the mask says it was made from. */
static enum lq_status identify_matrix(struct mask_plan *plan, const struct lq_artifact *imatrix,
                                      struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_ref ref = lq_ref_artifact(imatrix, "gguf");
    enum lq_status status = lq_expand_read(plan->expand, &ref, &data, &size_bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_digest digest;
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_digest_of(data, (size_t)size_bytes, &digest);
    plan->select->matrix_id = lq_arena_dup_string(plan->arena, lq_digest_to_hex(&digest, hex));
    return plan->select->matrix_id == NULL ? lq_error_nomem(err, "a mask") : LQ_OK;
}

static enum lq_status plan_init(struct mask_plan *plan, struct lq_error *err)
{
    const struct lq_artifact *imatrix = lq_attr_ref(plan->artifact, "imatrix", 0);
    plan->model = lq_attr_ref(plan->artifact, "model", 0);
    enum lq_status status =
        lq_inputs_read_model(plan->expand, plan->model, &plan->index, NULL, err);
    if (status == LQ_OK) {
        status = lq_inputs_read_imatrix(plan->expand, imatrix, &plan->imatrix, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    size_t room = plan->index.tensor_count + 1;
    plan->select = lq_arena_get(plan->arena, sizeof *plan->select);
    plan->inputs = lq_arena_get_array(plan->arena, room, sizeof *plan->inputs);
    if (plan->select != NULL) {
        plan->select->tensors =
            lq_arena_get_array(plan->arena, room, sizeof *plan->select->tensors);
    }
    if (plan->select == NULL || plan->inputs == NULL || plan->select->tensors == NULL) {
        return lq_error_nomem(err, "a mask");
    }
    plan->select->coverage = lq_attr_number(plan->artifact, "coverage");
    plan->select->precision = (uint32_t)lq_attr_int(plan->artifact, "precision");
    return identify_matrix(plan, imatrix, err);
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    struct mask_plan plan = {
        .expand = expand, .artifact = lq_expand_artifact(expand), .arena = lq_expand_arena(expand)};
    enum lq_status status = plan_init(&plan, err);
    if (status == LQ_OK) {
        status = count_weights(&plan, err);
    }
    for (size_t i = 0; status == LQ_OK && i < plan.select->tensor_count; i++) {
        status = add_candidates(&plan, i, err);
    }
    return status == LQ_OK ? add_selection(&plan, err) : status;
}

const struct lq_rule lq_rule_mask = {
    .kind = "mask",
    .version = 1,
    .help = "the super weights of a model: few weights that matter most",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .check = check,
    .expand = expand,
};

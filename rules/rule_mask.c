/* The rule `mask`: super weights by rank, by activation spikes, or both. By rank: the weights whose
 * magnitude times input importance is largest in the model; one step for each tensor finds its
 * candidates, unless the importance matrix has ranked them already, and one more takes the best of
 * all. By spikes: one step for each layer, see spikes.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "rules/format/mask.h"
#include "rules/model/gradient.h"
#include "rules/model/spike_steps.h"
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
    {.name = "find",
     .type = LQ_ATTR_ENUM,
     .default_text = "ranking",
     .choices = "ranking spikes both",
     .help = "what super weights are: the best by rank, those behind activation spikes, or both"},
    {.name = "imatrix",
     .type = LQ_ATTR_REF,
     .choices = "imatrix",
     .help = "importance of input columns; required for ranking"},
    {.name = "calibration",
     .type = LQ_ATTR_REF,
     .choices = "calibration",
     .help = "samples in whose first 2048 tokens spikes are sought; required for spikes"},
    {.name = "threshold",
     .type = LQ_ATTR_NUMBER,
     .default_text = "50",
     .help = "an activation above it is a spike"},
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
    static const char *const needs[2][2] = {{"imatrix", "spikes"}, {"calibration", "ranking"}};
    const char *find = lq_attr_string(artifact, "find");
    for (size_t i = 0; i < LQ_COUNT_OF(needs); i++) {
        bool needed = strcmp(find, needs[i][1]) != 0;
        if (needed && lq_attr_count(artifact, needs[i][0]) == 0) {
            return lq_attr_error(artifact, NULL, err, LQ_ERECIPE,
                                 "a mask with find = \"%s\" needs '%s'", find, needs[i][0]);
        }
        if (!needed && lq_attr_is_set(artifact, needs[i][0])) {
            return lq_attr_error(artifact, needs[i][0], err, LQ_ERECIPE,
                                 "'%s' means nothing with find = \"%s\"", needs[i][0], find);
        }
    }
    double threshold = lq_attr_number(artifact, "threshold");
    if (!(threshold > 0.0 && threshold < 1e30)) {
        return lq_attr_error(artifact, "threshold", err, LQ_ERECIPE,
                             "threshold is %g, expected more than 0", threshold);
    }
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
    enum lq_status status;
    if (state->tensor.piece_count != 0) {
        job.size_bytes = state->tensor.size_bytes;
        status = lq_tensor_load_matrices(run, &state->tensor, "weights", &job.matrices, err);
    } else {
        status = lq_run_input_load(run, "weights", &job.data, &job.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_run_load_importance(run, "importance", &state->tensor, &importance, err);
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
    struct lq_model_tensor *spike_tensors; /* one for each layer */
    size_t spike_tensor_count;
    uint64_t spike_elems; /* of all of them */
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

/* An entry with room for `count` positions. */
static enum lq_status make_entry(struct lq_run *run, const struct lq_model_tensor *tensor,
                                 size_t count, struct lq_mask_tensor *entry, uint64_t **positions,
                                 float **scores, struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    *positions = lq_arena_get_array(arena, count, sizeof **positions);
    *scores = lq_arena_get_array(arena, count, sizeof **scores);
    *entry = (struct lq_mask_tensor){.name = tensor->name,
                                     .row_count = lq_level_tensor_elems(tensor) / tensor->ne[0],
                                     .col_count = tensor->ne[0],
                                     .positions = *positions,
                                     .scores = *scores,
                                     .position_count = count};
    return *positions == NULL || *scores == NULL ? lq_error_nomem(err, "a mask") : LQ_OK;
}

/* `count` ranks as an entry of the mask, by position. */
static enum lq_status fill_entry(struct lq_run *run, const struct lq_model_tensor *tensor,
                                 struct lq_weight_rank *ranks, size_t count,
                                 struct lq_mask_tensor *entry, struct lq_error *err)
{
    uint64_t *positions = NULL;
    float *scores = NULL;
    enum lq_status status = make_entry(run, tensor, count, entry, &positions, &scores, err);
    if (status != LQ_OK) {
        return status;
    }
    qsort(ranks, count, sizeof *ranks, compare_ranks);
    for (size_t i = 0; i < count; i++) {
        positions[i] = ranks[i].position;
        scores[i] = (float)ranks[i].score;
    }
    return LQ_OK;
}

/* The first `count` candidates of a tensor. */
static enum lq_status fill_ranked(struct lq_run *run, const struct lq_model_tensor *tensor,
                                  size_t list, uint64_t count, struct lq_mask_tensor *entry,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    struct lq_weight_rank *ranks = lq_arena_get_array(arena, (size_t)count, sizeof *ranks);
    unsigned char *bytes = lq_arena_get_array(arena, (size_t)count, LQ_WEIGHT_RANK_BYTES);
    if (ranks == NULL || bytes == NULL) {
        return lq_error_nomem(err, "a mask");
    }
    enum lq_status status = read_candidates(run, list, 0, bytes, (size_t)count, err);
    for (uint64_t i = 0; status == LQ_OK && i < count; i++) {
        ranks[i] = lq_weight_rank_read(bytes + i * LQ_WEIGHT_RANK_BYTES);
    }
    return status == LQ_OK ? fill_entry(run, tensor, ranks, (size_t)count, entry, err) : status;
}

/* The spikes of a layer, scored by the output that they make. */
static enum lq_status fill_spikes(struct lq_run *run, const struct lq_model_tensor *tensor,
                                  size_t layer, struct lq_mask_tensor *entry, struct lq_error *err)
{
    char name[32];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_weight_rank ranks[LQ_SPIKES_MAX];
    (void)snprintf(name, sizeof name, "spikes%zu", layer);
    enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
    size_t count = (size_t)(size_bytes / LQ_SPIKE_BYTES);
    if (status == LQ_OK && count > LQ_SPIKES_MAX) {
        status = lq_error_set(err, LQ_EINTERNAL, "%zu spikes in a layer", count);
    }
    if (status != LQ_OK || count == 0) {
        entry->position_count = 0;
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        struct lq_spike spike = lq_spike_read((const unsigned char *)data + i * LQ_SPIKE_BYTES);
        ranks[i] = (struct lq_weight_rank){fabs((double)spike.output), spike.position};
    }
    status = fill_entry(run, tensor, ranks, count, entry, err);
    entry->spikes = entry->positions;
    entry->spike_count = count;
    return status;
}

/* Puts the spikes of `from` among the ranked positions of `entry`; where both have one, the rank's
 * score stays. */
static enum lq_status merge_spikes(struct lq_run *run, const struct lq_model_tensor *tensor,
                                   const struct lq_mask_tensor *from, struct lq_mask_tensor *entry,
                                   struct lq_error *err)
{
    struct lq_mask_tensor ranked = *entry;
    uint64_t *positions = NULL;
    float *scores = NULL;
    enum lq_status status = make_entry(run, tensor, ranked.position_count + from->position_count,
                                       entry, &positions, &scores, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t i = 0;
    size_t k = 0;
    size_t count = 0;
    while (i < ranked.position_count || k < from->position_count) {
        uint64_t a = i < ranked.position_count ? ranked.positions[i] : UINT64_MAX;
        uint64_t b = k < from->position_count ? from->positions[k] : UINT64_MAX;
        positions[count] = a < b ? a : b;
        scores[count++] = a <= b ? ranked.scores[i] : from->scores[k];
        i += a <= b;
        k += b <= a;
    }
    entry->position_count = count;
    entry->spikes = from->spikes;
    entry->spike_count = from->spike_count;
    return LQ_OK;
}

static int compare_entries(const void *a, const void *b)
{
    const struct lq_mask_tensor *x = a;
    const struct lq_mask_tensor *y = b;
    return strcmp(x->name, y->name);
}

/* Adds the spikes of every layer to the mask's entries. */
static enum lq_status add_spikes(struct lq_run *run, const struct select_state *state,
                                 struct lq_mask *mask, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    size_t found = 0;
    for (size_t i = 0; status == LQ_OK && i < state->spike_tensor_count; i++) {
        const struct lq_model_tensor *tensor = &state->spike_tensors[i];
        struct lq_mask_tensor spikes;
        struct lq_mask_tensor *entry = NULL;
        status = fill_spikes(run, tensor, i, &spikes, err);
        if (status != LQ_OK || spikes.position_count == 0) {
            continue;
        }
        found += spikes.position_count;
        for (size_t t = 0; t < mask->tensor_count; t++) {
            entry = strcmp(mask->tensors[t].name, tensor->name) == 0 ? &mask->tensors[t] : entry;
        }
        if (entry == NULL) {
            mask->tensors[mask->tensor_count++] = spikes;
        } else {
            status = merge_spikes(run, tensor, &spikes, entry, err);
        }
    }
    if (status == LQ_OK && found == 0 && state->spike_tensor_count != 0) {
        lq_run_warn(run, "no activation spike gives a super weight away; a lower threshold or "
                         "find = \"ranking\" may find what matters");
    }
    if (state->tensor_count == 0) {
        mask->coverage = (double)(found == 0 ? 1 : found) / (double)state->spike_elems;
        mask->coverage =
            mask->coverage > LQ_MASK_COVERAGE_MAX ? LQ_MASK_COVERAGE_MAX : mask->coverage;
    }
    return status;
}

static enum lq_status write_mask(struct lq_run *run, const struct select_state *state,
                                 const uint64_t *taken, struct lq_error *err)
{
    struct lq_mask mask = {.source_matrix_id = state->matrix_id,
                           .coverage = state->coverage,
                           .protection_precision = state->precision};
    mask.tensors =
        lq_arena_get_array(lq_run_arena(run), state->tensor_count + state->spike_tensor_count + 1,
                           sizeof *mask.tensors);
    enum lq_status status = mask.tensors == NULL ? lq_error_nomem(err, "a mask") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < state->tensor_count; i++) {
        if (taken[i] > 0) {
            status = fill_ranked(run, &state->tensors[i], i, taken[i],
                                 &mask.tensors[mask.tensor_count++], err);
        }
    }
    if (status == LQ_OK) {
        status = add_spikes(run, state, &mask, err);
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

/* Says so when a list that an importance matrix made is used up: more of that tensor might rank
 * among the best. */
static void warn_of_short_lists(struct lq_run *run, const struct select_state *state,
                                const uint64_t *counts, const uint64_t *taken)
{
    for (size_t i = 0; i < state->tensor_count; i++) {
        if (taken[i] == counts[i] && counts[i] < state->keep &&
            counts[i] < lq_level_tensor_elems(&state->tensors[i])) {
            lq_run_warn(run,
                        "all %" PRIu64 " weights of '%s' that the importance matrix has ranked "
                        "are in the mask; with a smaller coverage it is exact",
                        counts[i], state->tensors[i].name);
            return;
        }
    }
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
    if (status == LQ_OK) {
        warn_of_short_lists(run, state, counts, taken);
    }
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
    size_t input_count;
    bool has_ranks; /* the importance matrix has scores of single weights */
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
    struct lq_step_input *inputs =
        lq_arena_get_array(plan->arena, lq_tensor_input_count(tensor) + 1, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a step");
    }
    struct lq_step_output output = {.name = "candidates"};
    struct lq_step step = {.op = "mask.candidates",
                           .version = 1,
                           .label = tensor->name,
                           .run = run_candidates,
                           .state = state,
                           .params = params,
                           .inputs = inputs,
                           .outputs = &output,
                           .output_count = 1,
                           .memory_bytes =
                               2 * 1024 * 1024 + 2 * kept * sizeof(struct lq_weight_rank),
                           .cost = 100 + elems / 100};
    status = lq_inputs_tensor_params(tensor, plan->arena, params, &step.param_count, err);
    params[step.param_count++] = (struct lq_step_param){"keep", keep};
    if (status == LQ_OK) {
        status = lq_tensor_put_inputs(plan->expand, plan->model, tensor, "weights", inputs,
                                      &step.input_count, err);
        inputs[step.input_count++] =
            (struct lq_step_input){"importance", lq_inputs_importance_ref(&importance, tensor)};
    }
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(plan->expand, &step, &index, err);
    }
    plan->inputs[plan->input_count++] =
        (struct lq_step_input){name, lq_ref_step(index, "candidates")};
    return status;
}

/* The candidates that a matrix made by gradients has ranked by the scores of single weights. */
static enum lq_status take_ranks(struct mask_plan *plan, size_t number, struct lq_error *err)
{
    const struct lq_artifact *imatrix = lq_attr_ref(plan->artifact, "imatrix", 0);
    char *name = lq_arena_printf(plan->arena, "candidates%zu", number);
    size_t index = 0;
    if (name == NULL) {
        return lq_error_nomem(err, "a step");
    }
    enum lq_status status = lq_gradient_pick_ranks(plan->expand, imatrix,
                                                   plan->select->tensors[number].name, &index, err);
    plan->inputs[plan->input_count++] =
        (struct lq_step_input){name, lq_ref_step(index, "candidates")};
    return status;
}

static enum lq_status add_spike_layers(struct mask_plan *plan, struct lq_error *err)
{
    struct lq_spike_plan spikes = {
        .model = plan->model,
        .calibration = lq_attr_ref(plan->artifact, "calibration", 0),
        .threshold = lq_attr_number(plan->artifact, "threshold"),
    };
    enum lq_status status = lq_spike_layers(plan->expand, &spikes, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_step_input *inputs =
        lq_arena_get_array(plan->arena, plan->input_count + spikes.layer_count + 1, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a mask");
    }
    memcpy(inputs, plan->inputs, plan->input_count * sizeof *inputs);
    plan->inputs = inputs;
    plan->select->spike_tensors = spikes.tensors;
    plan->select->spike_tensor_count = spikes.layer_count;
    for (size_t i = 0; i < spikes.layer_count; i++) {
        char *name = lq_arena_printf(plan->arena, "spikes%zu", i);
        if (name == NULL) {
            return lq_error_nomem(err, "a mask");
        }
        plan->select->spike_elems += lq_level_tensor_elems(&spikes.tensors[i]);
        plan->inputs[plan->input_count++] =
            (struct lq_step_input){name, lq_ref_step(spikes.steps[i], "spikes")};
    }
    return LQ_OK;
}

/* Names and shapes of tensors, as one parameter: they are written into the mask. */
static char *describe(const struct mask_plan *plan, const struct lq_model_tensor *tensors,
                      size_t count)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < count; i++) {
        const struct lq_model_tensor *tensor = &tensors[i];
        lq_buffer_printf(&text, "%s %" PRIu64 " %" PRIu64 "\n", tensor->name, tensor->ne[0],
                         lq_level_tensor_elems(tensor));
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(plan->arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static char *describe_tensors(const struct mask_plan *plan)
{
    return describe(plan, plan->select->tensors, plan->select->tensor_count);
}

static char *describe_spikes(const struct mask_plan *plan)
{
    return describe(plan, plan->select->spike_tensors, plan->select->spike_tensor_count);
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
        {"spikes", describe_spikes(plan)},
    };
    /* Without spikes the step is what it always was. */
    size_t param_count = LQ_COUNT_OF(params) - (select->spike_tensor_count == 0 ? 1 : 0);
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
                           .param_count = param_count,
                           .inputs = plan->inputs,
                           .input_count = plan->input_count,
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
    if (status == LQ_OK && imatrix != NULL) {
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
    plan->select->matrix_id = "";
    if (imatrix == NULL) {
        return LQ_OK;
    }
    plan->has_ranks = !lq_attr_is_set(imatrix, "file") &&
                      strcmp(lq_attr_string(imatrix, "method"), "activation") != 0 &&
                      lq_attr_ref(imatrix, "model", 0) == plan->model;
    return identify_matrix(plan, imatrix, err);
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    struct mask_plan plan = {
        .expand = expand, .artifact = lq_expand_artifact(expand), .arena = lq_expand_arena(expand)};
    enum lq_status status = plan_init(&plan, err);
    const char *find = lq_attr_string(plan.artifact, "find");
    if (status == LQ_OK && strcmp(find, "spikes") != 0) {
        status = count_weights(&plan, err);
    }
    for (size_t i = 0; status == LQ_OK && i < plan.select->tensor_count; i++) {
        status = plan.has_ranks ? take_ranks(&plan, i, err) : add_candidates(&plan, i, err);
    }
    if (status == LQ_OK && strcmp(find, "ranking") != 0) {
        status = add_spike_layers(&plan, err);
    }
    return status == LQ_OK ? add_selection(&plan, err) : status;
}

const struct lq_rule lq_rule_mask = {
    .kind = "mask",
    .version = 3,
    .help = "the super weights of a model: few weights that matter most",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .check = check,
    .expand = expand,
};

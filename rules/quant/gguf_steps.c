#include "rules/quant/gguf_steps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "kernels/gpu.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/copied_tensors.h"
#include "rules/quant/encode_pieces.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"
#include "rules/quant/tensor_inputs.h"

/* Names of the inputs that belong to one tensor. */
enum { NAME_BYTES = 48 };
struct names {
    char weights[NAME_BYTES];
    char importance[NAME_BYTES];
    char mask[NAME_BYTES];
};

static const struct names own_names = {"weights", "importance", "mask"};

/* What a step knows of a tensor. */
struct tensor_state {
    struct lq_model_tensor tensor;
    enum lq_dtype dtype;
    bool verbatim; /* its bytes stay */
    bool here;     /* made by the step that assembles */
};

struct assembly {
    struct tensor_state *tensors;
    size_t tensor_count;
    uint64_t row_count; /* of tensors that are made here */
};

static void name_inputs(size_t number, struct names *names)
{
    (void)snprintf(names->weights, NAME_BYTES, "tensor%zu", number);
    (void)snprintf(names->importance, NAME_BYTES, "importance%zu", number);
    (void)snprintf(names->mask, NAME_BYTES, "mask%zu", number);
}

/* ------------------------------------------------------------------- encoding ---- */

/* Where the bytes of a tensor go, and how far the step is. */
struct sink {
    struct lq_run *run;
    const char *output;
    uint64_t size_bytes;
    uint64_t rows_before;
    uint64_t rows_total; /* 0: of this tensor alone */
};

static enum lq_status write_data(void *user, const void *data, size_t size_bytes,
                                 struct lq_error *err)
{
    struct sink *sink = user;
    sink->size_bytes += size_bytes;
    return lq_run_write(sink->run, sink->output, data, size_bytes, err);
}

static bool is_cancelled(void *user)
{
    return lq_run_cancelled(((const struct sink *)user)->run);
}

/* The bytes are the same wherever they are computed. */
static void note_gpu(void *user, const char *name)
{
    lq_run_numerics(((const struct sink *)user)->run,
                    strcmp(name, "cuda") == 0 ? "exact, cuda" : "exact, gpu");
}

static void report_rows(void *user, uint64_t done, uint64_t total)
{
    const struct sink *sink = user;
    lq_run_progress(sink->run, sink->rows_before + done,
                    sink->rows_total == 0 ? total : sink->rows_total, "rows");
}

static enum lq_status encode(const struct tensor_state *state, const struct names *names,
                             struct sink *sink, struct lq_error *err)
{
    struct lq_run *run = sink->run;
    struct lq_importance importance;
    struct lq_encode_job job = {.tensor = &state->tensor,
                                .dtype = state->dtype,
                                .pool = lq_run_pool(run),
                                .user = sink,
                                .write = write_data,
                                .cancelled = is_cancelled,
                                .progress = report_rows,
                                .computed_on = note_gpu};
    bool in_pieces = state->tensor.piece_count != 0;
    enum lq_status status =
        lq_run_load_importance(run, names->importance, &state->tensor, &importance, err);
    if (status == LQ_OK && !in_pieces) {
        status = lq_run_input_load(run, names->weights, &job.data, &job.size_bytes, err);
    }
    if (status == LQ_OK && lq_run_has_input(run, names->mask)) {
        const void *data = NULL;
        uint64_t size_bytes = 0;
        status = lq_run_input_load(run, names->mask, &data, &size_bytes, err);
        job.positions = data;
        job.position_count = (size_t)(size_bytes / sizeof *job.positions);
    }
    if (status != LQ_OK) {
        return status;
    }
    job.importance = importance.values;
    job.mat_count = importance.mat_count;
    status =
        in_pieces ? lq_encode_pieces(run, &job, names->weights, err) : lq_encode_tensor(&job, err);
    const char *notice = lq_gpu_notice();
    if (notice != NULL) {
        lq_run_warn(run, "%s; computing on the CPU", notice);
    }
    return status;
}

static enum lq_status run_tensor(struct lq_run *run, struct lq_error *err)
{
    struct sink sink = {.run = run, .output = "data"};
    return encode(lq_run_state(run), &own_names, &sink, err);
}

/* ----------------------------------------------------------------- assembling ---- */

static enum lq_status check_size(const struct tensor_state *state, uint64_t size_bytes,
                                 struct lq_error *err)
{
    uint64_t want = lq_level_tensor_bytes(&state->tensor, state->dtype);
    if (size_bytes == want) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EINTERNAL,
                        "tensor '%s' came out with %" PRIu64 " bytes, expected %" PRIu64
                        " as %s; nothing was published, please report it",
                        state->tensor.name, size_bytes, want,
                        lq_dtype_name((uint32_t)state->dtype));
}

/* The inputs of a tensor that is made here are parts of files, read one after the other. */
static void each_part(struct lq_run *run, const struct assembly *assembly, size_t number,
                      void (*tell)(struct lq_run *run, const char *name))
{
    struct names names;
    char part[NAME_BYTES + 24];
    if (number >= assembly->tensor_count || !assembly->tensors[number].here) {
        return;
    }
    name_inputs(number, &names);
    size_t count = assembly->tensors[number].tensor.piece_count;
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(part, sizeof part, "%s.%zu", names.weights, i);
        tell(run, part);
    }
    if (count == 0) {
        tell(run, names.weights);
    }
}

/* Appends one tensor, and says how many bytes it has. */
static enum lq_status append_tensor(struct sink *sink, const struct tensor_state *state,
                                    size_t number, struct lq_error *err)
{
    struct names names;
    name_inputs(number, &names);
    sink->size_bytes = 0;
    if (state->here && !state->verbatim) {
        return encode(state, &names, sink, err);
    }
    sink->size_bytes = lq_run_input_size(sink->run, names.weights);
    enum lq_status status = check_size(state, sink->size_bytes, err);
    return status == LQ_OK ? lq_run_write_input(sink->run, "main", names.weights, err) : status;
}

static enum lq_status run_assemble(struct lq_run *run, struct lq_error *err)
{
    const struct assembly *assembly = lq_run_state(run);
    static const unsigned char zeros[LQ_GGUF_ALIGNMENT];
    struct sink sink = {.run = run, .output = "main", .rows_total = assembly->row_count};
    enum lq_status status = lq_run_write_input(run, "main", "header", err);
    each_part(run, assembly, 0, lq_run_input_ahead);
    for (size_t i = 0; i < assembly->tensor_count && status == LQ_OK; i++) {
        const struct tensor_state *state = &assembly->tensors[i];
        if (lq_run_cancelled(run)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        each_part(run, assembly, i + 1, lq_run_input_ahead);
        status = append_tensor(&sink, state, i, err);
        status = status == LQ_OK ? check_size(state, sink.size_bytes, err) : status;
        size_t over = (size_t)(sink.size_bytes % LQ_GGUF_ALIGNMENT);
        if (status == LQ_OK && over > 0) {
            status = lq_run_write(run, "main", zeros, LQ_GGUF_ALIGNMENT - over, err);
        }
        each_part(run, assembly, i, lq_run_input_done);
        sink.rows_before +=
            state->here ? lq_level_tensor_elems(&state->tensor) / state->tensor.ne[0] : 0;
    }
    return status;
}

/* ------------------------------------------------------------------ expanding ---- */

static enum lq_status put_input(struct lq_arena *arena, const char *name, const struct lq_ref *ref,
                                struct lq_step_input *inputs, size_t *count, struct lq_error *err)
{
    struct lq_step_input *input = &inputs[(*count)++];
    input->name = lq_arena_dup_string(arena, name);
    input->ref = *ref;
    return input->name == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
}

static enum lq_status add_inputs(const struct lq_gguf_job *job, const struct tensor_state *state,
                                 const struct names *names, struct lq_step_input *inputs,
                                 size_t *count, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &state->tensor;
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const char *weights = lq_arena_dup_string(arena, names->weights);
    /* Experts are encoded one by one: joining them would copy most of a model. */
    enum lq_status status = weights == NULL ? lq_error_nomem(err, "a step")
                                            : lq_tensor_put_inputs(job->expand, job->model, tensor,
                                                                   weights, inputs, count, err);
    if (status != LQ_OK || state->verbatim || !lq_encode_uses_importance(state->dtype)) {
        return status;
    }
    struct lq_importance importance = {0};
    if (job->imatrix != NULL) {
        status = lq_inputs_importance(job->imatrix, tensor, arena, &importance, err);
        /* Embeddings may have entries of another shape: they are looked up, not multiplied. */
        if (status != LQ_OK && !lq_level_is_embedding(tensor->name)) {
            return status;
        }
    }
    status = LQ_OK;
    if (importance.values != NULL) {
        const struct lq_ref ref = lq_inputs_importance_ref(&importance, tensor);
        status = put_input(arena, names->importance, &ref, inputs, count, err);
    }
    const struct lq_mask_tensor *mask = job->mask != NULL && lq_encode_can_protect(state->dtype)
                                            ? lq_mask_find(job->mask, tensor->name)
                                            : NULL;
    if (status == LQ_OK && mask != NULL) {
        const struct lq_ref ref =
            lq_ref_bytes(mask->positions, mask->position_count * sizeof *mask->positions);
        status = put_input(arena, names->mask, &ref, inputs, count, err);
    }
    return status;
}

/* A step of its own that encodes a tensor. */
static enum lq_status add_tensor_step(const struct lq_gguf_job *job,
                                      const struct tensor_state *state, struct lq_ref *ref,
                                      struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &state->tensor;
    struct lq_arena *arena = lq_expand_arena(job->expand);
    struct lq_step_input *inputs =
        lq_arena_get_array(arena, lq_tensor_input_count(tensor) + 2, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a step");
    }
    struct lq_step_param params[LQ_TENSOR_PARAMS_MAX + 1];
    struct lq_step_output output = {.name = "data"};
    struct lq_step step = {.op = "gguf.tensor",
                           .version = 8,
                           .label = tensor->name,
                           .run = run_tensor,
                           .state = state,
                           .params = params,
                           .inputs = inputs,
                           .outputs = &output,
                           .output_count = 1,
                           .memory_bytes = lq_encode_memory(tensor, state->dtype),
                           .cost = 100 + lq_level_tensor_elems(tensor) / 8};
    enum lq_status status = lq_inputs_tensor_params(tensor, arena, params, &step.param_count, err);
    params[step.param_count++] =
        (struct lq_step_param){"type", lq_dtype_name((uint32_t)state->dtype)};
    if (status == LQ_OK) {
        status = add_inputs(job, state, &own_names, inputs, &step.input_count, err);
    }
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(job->expand, &step, &index, err);
    }
    *ref = lq_ref_step(index, "data");
    return status;
}

/* A tensor as inputs of the step that assembles: the source itself, what a step makes of it, or
 * what this step needs to make it. */
static enum lq_status add_tensor(const struct lq_gguf_job *job, const struct tensor_state *state,
                                 size_t number, struct lq_step *step, struct lq_step_input *inputs,
                                 struct lq_error *err)
{
    struct names names;
    name_inputs(number, &names);
    if (state->here) {
        return add_inputs(job, state, &names, inputs, &step->input_count, err);
    }
    struct lq_step_input *input = &inputs[step->input_count++];
    input->name = lq_arena_dup_string(lq_expand_arena(job->expand), names.weights);
    if (input->name == NULL) {
        return lq_error_nomem(err, "a step");
    }
    return state->verbatim
               ? lq_tensor_ref(job->expand, job->model, &state->tensor, &input->ref, err)
               : add_tensor_step(job, state, &input->ref, err);
}

/* What the bytes of a tensor that is made here depend on besides its inputs. */
static enum lq_status add_param(const struct lq_gguf_job *job, const struct tensor_state *state,
                                size_t number, struct lq_step_param *params, size_t *count,
                                struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    struct lq_step_param own[LQ_TENSOR_PARAMS_MAX];
    size_t own_count = 0;
    struct lq_buffer text;
    enum lq_status status = lq_inputs_tensor_params(&state->tensor, arena, own, &own_count, err);
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, lq_dtype_name((uint32_t)state->dtype));
    for (size_t i = 0; i < own_count; i++) {
        lq_buffer_printf(&text, ", %s %s", own[i].name, own[i].value);
    }
    struct lq_step_param *param = &params[(*count)++];
    param->name = lq_arena_printf(arena, "tensor%zu", number);
    param->value = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return status == LQ_OK && (param->name == NULL || param->value == NULL)
               ? lq_error_nomem(err, "a step")
               : status;
}

static bool is_quantized(const struct tensor_state *state)
{
    return lq_level_is_quantized(&state->tensor);
}

/* True when a tensor is made faster than a disk gives it back. */
static bool is_cheap(const struct tensor_state *state)
{
    bool simple = state->dtype == LQ_DTYPE_F32 || state->dtype == LQ_DTYPE_F16 ||
                  state->dtype == LQ_DTYPE_BF16 || state->dtype == LQ_DTYPE_Q8_0;
    return state->verbatim || (simple && !is_quantized(state));
}

/* Decides what is made by the step that assembles: what is cheap, in a large file that is mostly
 * cheap. *own_bytes is how much that is, 0 for none. */
static void choose_place(const struct lq_gguf_job *job, struct assembly *assembly,
                         uint64_t *own_bytes)
{
    uint64_t cheap = 0;
    uint64_t dear = 0;
    for (size_t i = 0; i < assembly->tensor_count; i++) {
        const struct tensor_state *state = &assembly->tensors[i];
        uint64_t size_bytes = lq_level_tensor_bytes(&state->tensor, state->dtype);
        *(is_cheap(state) ? &cheap : &dear) += size_bytes;
    }
    *own_bytes = 0;
    if (cheap < dear || !lq_expand_is_large(job->expand, cheap)) {
        return;
    }
    *own_bytes = cheap;
    for (size_t i = 0; i < assembly->tensor_count; i++) {
        struct tensor_state *state = &assembly->tensors[i];
        /* Pieces of floats go through the encoder, which gives them back, rather than be joined. */
        bool pieces = state->tensor.piece_count != 0;
        state->here = is_cheap(state) && !(pieces && is_quantized(state));
        state->verbatim = state->verbatim && !(pieces && state->here);
        assembly->row_count +=
            state->here ? lq_level_tensor_elems(&state->tensor) / state->tensor.ne[0] : 0;
    }
}

static struct assembly *make_assembly(const struct lq_gguf_job *job, uint64_t *own_bytes)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    size_t count = job->index->tensor_count;
    struct assembly *assembly = lq_arena_get(arena, sizeof *assembly);
    struct tensor_state *tensors = lq_arena_get_array(arena, count + 1, sizeof *tensors);
    if (assembly == NULL || tensors == NULL) {
        return NULL;
    }
    *assembly = (struct assembly){.tensors = tensors, .tensor_count = count};
    for (size_t i = 0; i < count; i++) {
        const struct lq_model_tensor *tensor = &job->index->tensors[i];
        tensors[i] = (struct tensor_state){.tensor = *tensor, .dtype = job->types[i]};
        tensors[i].verbatim = job->types[i] == tensor->dtype && lq_model_tensor_is_verbatim(tensor);
    }
    choose_place(job, assembly, own_bytes);
    return assembly;
}

static uint64_t memory_of(const struct assembly *assembly)
{
    uint64_t most = 0;
    for (size_t i = 0; i < assembly->tensor_count; i++) {
        const struct tensor_state *state = &assembly->tensors[i];
        uint64_t bytes =
            state->here && !state->verbatim ? lq_encode_memory(&state->tensor, state->dtype) : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

enum lq_status lq_gguf_add_steps(const struct lq_gguf_job *job, struct lq_ref *main,
                                 struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    uint64_t own_bytes = 0;
    const struct assembly *assembly = make_assembly(job, &own_bytes);
    size_t count = job->index->tensor_count;
    size_t input_max = 2;
    for (size_t i = 0; i < count; i++) {
        input_max += lq_tensor_input_count(&job->index->tensors[i]) + 2;
    }
    struct lq_step_input *inputs = lq_arena_get_array(arena, input_max, sizeof *inputs);
    struct lq_step_param *params = lq_arena_get_array(arena, count + 1, sizeof *params);
    struct lq_copied_tensor *copied = lq_arena_get_array(arena, count + 1, sizeof *copied);
    size_t copied_count = 0;
    if (assembly == NULL || inputs == NULL || params == NULL || copied == NULL) {
        return lq_error_nomem(err, "a gguf");
    }
    struct lq_step_output output = {.name = "main"};
    struct lq_step step = {.op = "gguf.assemble",
                           .version = 1,
                           .label = job->label,
                           .run = run_assemble,
                           .state = assembly,
                           .params = params,
                           .inputs = inputs,
                           .outputs = &output,
                           .output_count = 1,
                           .own_bytes = own_bytes,
                           .parallel = own_bytes > 0,
                           .memory_bytes = memory_of(assembly),
                           .cost = 1000 + count * 20 + own_bytes / 1000};
    inputs[step.input_count++] = (struct lq_step_input){"header", job->header};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        const struct tensor_state *state = &assembly->tensors[i];
        status = add_tensor(job, state, i, &step, inputs, err);
        if (status == LQ_OK && state->here && !state->verbatim) {
            status = add_param(job, state, i, params, &step.param_count, err);
        }
        if (status == LQ_OK && state->verbatim) {
            copied[copied_count++] = (struct lq_copied_tensor){&job->index->tensors[i],
                                                               inputs[step.input_count - 1].ref};
        }
    }
    if (status == LQ_OK && copied_count > 0) {
        struct lq_step_input *input = &inputs[step.input_count++];
        input->name = "checked";
        status = lq_copied_add_check(job->expand, copied, copied_count, &input->ref, err);
    }
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(job->expand, &step, &index, err);
    }
    *main = lq_ref_step(index, "main");
    return status;
}

#include "rules/quant/copied_tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/buffer.h"
#include "engine/base/pool.h"
#include "rules/quant/encode_tensor.h"

enum { PIECE_BYTES = 1 << 20 };

struct check_state {
    const struct lq_copied_tensor *tensors;
    size_t count;
};

/* One tensor's outcome. */
struct finding {
    enum lq_status status;
    struct lq_error err;
};

struct check {
    struct lq_run *run;
    const struct check_state *state;
    struct finding *findings;
};

static const char *input_name(size_t number, char *name, size_t name_bytes)
{
    (void)snprintf(name, name_bytes, "tensor%zu", number);
    return name;
}

static enum lq_status describe(const struct lq_model_tensor *tensor, uint64_t block,
                               struct lq_error *err)
{
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)tensor->dtype);
    uint64_t elem = block * info->block_elems;
    uint64_t row = elem / tensor->ne[0];
    uint64_t column = elem % tensor->ne[0];
    if (info->block_elems == 1) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' holds NaN or infinity in row %" PRIu64 ", column %" PRIu64
                            "; weights must be finite, so the model file is damaged or from a "
                            "training that diverged",
                            tensor->name, row, column);
    }
    return lq_error_set(err, LQ_EFORMAT,
                        "tensor '%s' has no finite scale in the %s block in row %" PRIu64
                        " at column %" PRIu64 "; the model file is damaged",
                        tensor->name, info->name, row, column);
}

static enum lq_status look_through(const struct check *check, size_t number, void *piece,
                                   struct lq_error *err)
{
    const struct lq_model_tensor *tensor = check->state->tensors[number].tensor;
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)tensor->dtype);
    char name[32];
    (void)input_name(number, name, sizeof name);
    uint64_t size_bytes = lq_run_input_size(check->run, name);
    uint64_t step_bytes = PIECE_BYTES / info->block_bytes * info->block_bytes;
    for (uint64_t at = 0; at < size_bytes; at += step_bytes) {
        size_t want = (size_t)(size_bytes - at < step_bytes ? size_bytes - at : step_bytes);
        size_t block_count = want / info->block_bytes;
        enum lq_status status = lq_run_input_read(check->run, name, at, piece, want, err);
        if (status != LQ_OK) {
            return status;
        }
        size_t bad = lq_encode_find_bad_block(tensor->dtype, piece, block_count);
        if (bad < block_count) {
            return describe(tensor, at / info->block_bytes + bad, err);
        }
        if (lq_run_cancelled(check->run)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
    }
    return LQ_OK;
}

static void check_one(void *user, size_t number)
{
    const struct check *check = user;
    struct finding *finding = &check->findings[number];
    void *piece = malloc(PIECE_BYTES);
    finding->status = piece == NULL ? lq_error_nomem(&finding->err, "a piece of a tensor")
                                    : look_through(check, number, piece, &finding->err);
    free(piece);
}

static enum lq_status run_check(struct lq_run *run, struct lq_error *err)
{
    const struct check_state *state = lq_run_state(run);
    struct check check = {.run = run, .state = state};
    check.findings = lq_arena_get_array(lq_run_arena(run), state->count, sizeof *check.findings);
    if (check.findings == NULL) {
        return lq_error_nomem(err, "the tensors of a model");
    }
    lq_pool_for(lq_run_pool(run), state->count, check_one, &check);
    for (size_t i = 0; i < state->count; i++) {
        if (check.findings[i].status != LQ_OK) {
            *err = check.findings[i].err;
            return check.findings[i].status;
        }
    }
    return lq_run_write(run, "checked", "finite\n", 7, err);
}

/* What the bytes mean: "BF16 256 F32 256 ..." by type and length of a row. */
static const char *list_types(struct lq_arena *arena, const struct lq_copied_tensor *tensors,
                              size_t count)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < count; i++) {
        const struct lq_model_tensor *tensor = tensors[i].tensor;
        lq_buffer_printf(&text, "%s%s %" PRIu64, i == 0 ? "" : " ",
                         lq_dtype_name((uint32_t)tensor->dtype), tensor->ne[0]);
    }
    const char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

enum lq_status lq_copied_add_check(struct lq_expand *expand, const struct lq_copied_tensor *tensors,
                                   size_t count, struct lq_ref *ref, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct check_state *state = lq_arena_get(arena, sizeof *state);
    struct lq_step_input *inputs = lq_arena_get_array(arena, count, sizeof *inputs);
    const char *types = list_types(arena, tensors, count);
    if (state == NULL || inputs == NULL || types == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = (struct check_state){tensors, count};
    uint64_t size_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        char name[32];
        inputs[i].name = lq_arena_dup_string(arena, input_name(i, name, sizeof name));
        inputs[i].ref = tensors[i].data;
        if (inputs[i].name == NULL) {
            return lq_error_nomem(err, "a step");
        }
        size_bytes += tensors[i].tensor->size_bytes;
    }
    const struct lq_step_param params[] = {{.name = "types", .value = types}};
    const struct lq_step_output output = {.name = "checked"};
    const struct lq_step step = {.op = "gguf.check",
                                 .version = 1,
                                 .label = lq_artifact_name(lq_expand_artifact(expand)),
                                 .run = run_check,
                                 .state = state,
                                 .params = params,
                                 .param_count = 1,
                                 .inputs = inputs,
                                 .input_count = count,
                                 .outputs = &output,
                                 .output_count = 1,
                                 .memory_bytes = (uint64_t)64 * PIECE_BYTES,
                                 .cost = 100 + size_bytes / 4000};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(expand, &step, &index, err);
    *ref = lq_ref_step(index, "checked");
    return status;
}

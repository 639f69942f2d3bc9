#include "rules/model/tensor_ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/packing.h"

const char *lq_tensor_model_name(const struct lq_expand *expand, const struct lq_artifact *model)
{
    bool is_file = lq_expand_source_count(expand, model) == 1;
    return is_file ? lq_expand_source_name(expand, model, 0) : lq_artifact_name(model);
}

static enum lq_status run_join(struct lq_run *run, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = lq_run_state(run);
    for (size_t i = 0; i < tensor->piece_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "piece.%zu", i);
        enum lq_status status = lq_run_write_input(run, "data", name, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status add_join(struct lq_expand *expand, const struct lq_artifact *model,
                               const struct lq_model_tensor *tensor, struct lq_ref *ref,
                               struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    size_t count = tensor->piece_count;
    struct lq_step_input *inputs = lq_arena_get_array(arena, count, sizeof *inputs);
    struct lq_model_tensor *state = lq_arena_get(arena, sizeof *state);
    if (inputs == NULL || state == NULL) {
        return lq_error_nomem(err, "the pieces of a tensor");
    }
    *state = *tensor;
    for (size_t i = 0; i < count; i++) {
        const struct lq_tensor_piece *piece = &tensor->pieces[i];
        inputs[i].name = lq_arena_printf(arena, "piece.%zu", i);
        inputs[i].ref =
            lq_ref_slice(model, piece->source, piece->offset, piece->size_bytes, &piece->digest);
        if (inputs[i].name == NULL) {
            return lq_error_nomem(err, "the pieces of a tensor");
        }
    }
    static const struct lq_step_output output = {.name = "data", .transient = true};
    const struct lq_step step = {.op = "tensor.join",
                                 .version = 1,
                                 .label = tensor->name,
                                 .run = run_join,
                                 .state = state,
                                 .inputs = inputs,
                                 .input_count = count,
                                 .outputs = &output,
                                 .output_count = 1,
                                 .cost = 10 + tensor->size_bytes / 1000};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(expand, &step, &index, err);
    *ref = lq_ref_step(index, "data");
    return status;
}

enum lq_status lq_tensor_ref(struct lq_expand *expand, const struct lq_artifact *model,
                             const struct lq_model_tensor *tensor, struct lq_ref *ref,
                             struct lq_error *err)
{
    if (tensor->literal != NULL) {
        *ref = lq_ref_bytes(tensor->literal, tensor->size_bytes);
        return LQ_OK;
    }
    if (tensor->packing != NULL) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "tensor '%s' is quantized already (%s); this needs a model whose "
                            "weights are BF16, F16 or F32",
                            tensor->name, tensor->packing->method->title);
    }
    if (tensor->piece_count != 0) {
        return add_join(expand, model, tensor, ref, err);
    }
    *ref = lq_ref_slice(model, tensor->source, tensor->offset, tensor->size_bytes, &tensor->digest);
    return LQ_OK;
}

size_t lq_tensor_input_count(const struct lq_model_tensor *tensor)
{
    return tensor->piece_count == 0 ? 1 : tensor->piece_count;
}

enum lq_status lq_tensor_put_inputs(struct lq_expand *expand, const struct lq_artifact *model,
                                    const struct lq_model_tensor *tensor, const char *name,
                                    struct lq_step_input *inputs, size_t *input_count,
                                    struct lq_error *err)
{
    if (tensor->piece_count == 0) {
        struct lq_step_input *input = &inputs[(*input_count)++];
        input->name = name;
        return lq_tensor_ref(expand, model, tensor, &input->ref, err);
    }
    for (size_t i = 0; i < tensor->piece_count; i++) {
        const struct lq_tensor_piece *piece = &tensor->pieces[i];
        struct lq_step_input *input = &inputs[(*input_count)++];
        input->name = lq_arena_printf(lq_expand_arena(expand), "%s.%zu", name, i);
        input->ref =
            lq_ref_slice(model, piece->source, piece->offset, piece->size_bytes, &piece->digest);
        if (input->name == NULL) {
            return lq_error_nomem(err, "the pieces of a tensor");
        }
    }
    return LQ_OK;
}

static enum lq_status load_input(struct lq_run *run, const char *input, uint64_t expected_bytes,
                                 const void **data, struct lq_error *err)
{
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, input, data, &size_bytes, err);
    if (status == LQ_OK && size_bytes != expected_bytes) {
        status =
            lq_error_set(err, LQ_EINTERNAL, "the input '%s' has %llu bytes, expected %llu", input,
                         (unsigned long long)size_bytes, (unsigned long long)expected_bytes);
    }
    return status;
}

/* The parts of matrices [first, first + count) of a packed tensor. */
static enum lq_status load_parts(struct lq_run *run, const struct lq_model_tensor *tensor,
                                 const char *input, uint64_t first, uint64_t count,
                                 const void **data, struct lq_error *err)
{
    size_t part_count = lq_packing_part_count(tensor->packing);
    size_t begin = (size_t)first * part_count;
    size_t total = (size_t)count * part_count;
    const void **parts = lq_arena_get_array(lq_run_arena(run), total, sizeof *parts);
    enum lq_status status = parts == NULL ? lq_error_nomem(err, "the parts of a tensor") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < total; i++) {
        char name[LQ_NAME_BYTES_MAX + 1];
        (void)snprintf(name, sizeof name, "%s.%zu", input, begin + i);
        status = load_input(run, name, tensor->pieces[begin + i].size_bytes, &parts[i], err);
    }
    *data = parts;
    return status;
}

enum lq_status lq_tensor_load(struct lq_run *run, const struct lq_model_tensor *tensor,
                              const char *input, const void **data, struct lq_error *err)
{
    if (tensor->packing != NULL) {
        return load_parts(run, tensor, input, 0, tensor->ne[2], data, err);
    }
    return load_input(run, input, tensor->size_bytes, data, err);
}

enum lq_status lq_tensor_load_matrix(struct lq_run *run, const struct lq_model_tensor *tensor,
                                     const char *input, uint64_t matrix, const void **data,
                                     struct lq_error *err)
{
    uint64_t size_bytes = tensor->size_bytes / tensor->ne[2];
    if (tensor->packing != NULL) {
        return load_parts(run, tensor, input, matrix, 1, data, err);
    }
    if (tensor->piece_count != 0) {
        char name[LQ_NAME_BYTES_MAX + 1];
        (void)snprintf(name, sizeof name, "%s.%llu", input, (unsigned long long)matrix);
        return load_input(run, name, size_bytes, data, err);
    }
    enum lq_status status = load_input(run, input, tensor->size_bytes, data, err);
    if (status == LQ_OK) {
        *data = (const char *)*data + matrix * size_bytes;
    }
    return status;
}

enum lq_status lq_tensor_load_matrices(struct lq_run *run, const struct lq_model_tensor *tensor,
                                       const char *input, const void *const **matrices,
                                       struct lq_error *err)
{
    const void **all =
        lq_arena_get_array(lq_run_arena(run), (size_t)tensor->ne[2], sizeof(const void *));
    enum lq_status status = all == NULL ? lq_error_nomem(err, "the matrices of a tensor") : LQ_OK;
    for (uint64_t m = 0; m < tensor->ne[2] && status == LQ_OK; m++) {
        status = lq_tensor_load_matrix(run, tensor, input, m, &all[m], err);
    }
    *matrices = all;
    return status;
}

bool lq_tensor_mark_sources(const struct lq_model_tensor *tensor, bool *used, size_t source_count)
{
    if (tensor->literal != NULL) {
        return true;
    }
    size_t count = tensor->piece_count == 0 ? 1 : tensor->piece_count;
    for (size_t i = 0; i < count; i++) {
        size_t source = tensor->piece_count == 0 ? tensor->source : tensor->pieces[i].source;
        if (source >= source_count) {
            return false;
        }
        used[source] = true;
    }
    return true;
}

static enum lq_status find_piece(const struct lq_tensor_piece *piece, const char *name,
                                 lq_tensor_source_fn get, void *user, const unsigned char **out,
                                 struct lq_error *err)
{
    const void *file = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = get(user, piece->source, &file, &size_bytes, err);
    if (status == LQ_OK &&
        (piece->offset > size_bytes || piece->size_bytes > size_bytes - piece->offset)) {
        status =
            lq_error_set(err, LQ_EFORMAT, "the tensor '%s' lies beyond the end of its file", name);
    }
    *out = status == LQ_OK ? (const unsigned char *)file + piece->offset : NULL;
    return status;
}

/* Pointers to the parts of matrices [first, first + count), in *parts, which is grown. */
static enum lq_status find_parts(const struct lq_model_tensor *tensor, uint64_t first,
                                 uint64_t count, lq_tensor_source_fn get, void *user, void **parts,
                                 const void **data, struct lq_error *err)
{
    size_t part_count = lq_packing_part_count(tensor->packing);
    size_t begin = (size_t)first * part_count;
    size_t total = (size_t)count * part_count;
    const void **to = realloc(*parts, total * sizeof *to);
    if (to == NULL) {
        return lq_error_nomem(err, tensor->name);
    }
    *parts = to;
    *data = to;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < total; i++) {
        const unsigned char *from = NULL;
        status = find_piece(&tensor->pieces[begin + i], tensor->name, get, user, &from, err);
        to[i] = from;
    }
    return status;
}

enum lq_status lq_tensor_matrix(const struct lq_model_tensor *tensor, uint64_t matrix,
                                lq_tensor_source_fn get, void *user, void **joined,
                                const void **data, struct lq_error *err)
{
    uint64_t mats = tensor->ne[2];
    uint64_t size_bytes = mats == 0 ? 0 : tensor->size_bytes / mats;
    const unsigned char *from = NULL;
    *data = NULL;
    if (tensor->packing != NULL && matrix < mats) {
        return find_parts(tensor, matrix, 1, get, user, joined, data, err);
    }
    if (matrix >= mats || (tensor->piece_count != 0 && tensor->piece_count != mats)) {
        return lq_error_set(err, LQ_EINTERNAL, "the tensor '%s' has no matrix %llu", tensor->name,
                            (unsigned long long)matrix);
    }
    if (tensor->literal != NULL) {
        *data = (const unsigned char *)tensor->literal + matrix * size_bytes;
        return LQ_OK;
    }
    struct lq_tensor_piece piece = {.source = tensor->source,
                                    .offset = tensor->offset + matrix * size_bytes,
                                    .size_bytes = size_bytes};
    if (tensor->piece_count != 0) {
        piece = tensor->pieces[matrix];
    }
    enum lq_status status = find_piece(&piece, tensor->name, get, user, &from, err);
    *data = from;
    return status;
}

enum lq_status lq_tensor_data(const struct lq_model_tensor *tensor, lq_tensor_source_fn get,
                              void *user, void **joined, const void **data, struct lq_error *err)
{
    const unsigned char *from = NULL;
    *data = tensor->literal;
    if (tensor->literal != NULL) {
        return LQ_OK;
    }
    if (tensor->packing != NULL) {
        return find_parts(tensor, 0, tensor->ne[2], get, user, joined, data, err);
    }
    if (tensor->piece_count == 0) {
        const struct lq_tensor_piece whole = {tensor->source, tensor->offset, tensor->size_bytes,
                                              tensor->digest};
        enum lq_status status = find_piece(&whole, tensor->name, get, user, &from, err);
        *data = from;
        return status;
    }
    unsigned char *to =
        tensor->size_bytes >= SIZE_MAX ? NULL : realloc(*joined, (size_t)tensor->size_bytes + 1);
    if (to == NULL) {
        return lq_error_nomem(err, tensor->name);
    }
    *joined = to;
    *data = to;
    for (size_t i = 0; i < tensor->piece_count; i++) {
        const struct lq_tensor_piece *piece = &tensor->pieces[i];
        enum lq_status status = find_piece(piece, tensor->name, get, user, &from, err);
        if (status != LQ_OK) {
            return status;
        }
        memcpy(to, from, (size_t)piece->size_bytes);
        to += piece->size_bytes;
    }
    return LQ_OK;
}

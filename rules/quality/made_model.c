#include "rules/quality/made_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/model/hf_config.h"
#include "rules/model/hf_names.h"
#include "rules/model/hparams.h"
#include "rules/model/model_scan.h"
#include "rules/model/packing.h"

enum {
    NAME_BYTES = 96,
    HEADER_BYTES_FIRST = 1 << 20, /* doubled until the header is whole */
};

static const char where[] = "quantized model";

bool lq_made_model_is(const struct lq_artifact *artifact)
{
    return strcmp(lq_artifact_kind(artifact), "model") != 0;
}

bool lq_made_model_is_folder(const struct lq_artifact *artifact)
{
    return lq_made_model_is(artifact) && strcmp(lq_artifact_kind(artifact), "gguf") != 0;
}

enum lq_status lq_made_model_put(struct lq_expand *expand, const struct lq_artifact *artifact,
                                 const char *name, struct lq_step_input *inputs, size_t *count,
                                 struct lq_error *err)
{
    inputs[(*count)++] = (struct lq_step_input){name, lq_ref_artifact(artifact, "main")};
    if (!lq_made_model_is_folder(artifact)) {
        return LQ_OK;
    }
    const char *config = lq_arena_printf(lq_expand_arena(expand), "%s.config", name);
    inputs[(*count)++] = (struct lq_step_input){config, lq_ref_artifact(artifact, "config")};
    return config == NULL ? lq_error_nomem(err, "the inputs of a step") : LQ_OK;
}

/* The first bytes of the file, as far as there are so many. */
static enum lq_status read_begin(struct lq_made_model *made, uint64_t *size_bytes,
                                 struct lq_error *err)
{
    *size_bytes = *size_bytes < made->file_bytes ? *size_bytes : made->file_bytes;
    free(made->bytes);
    made->bytes = *size_bytes >= SIZE_MAX ? NULL : malloc((size_t)*size_bytes + 1);
    if (made->bytes == NULL) {
        return lq_error_nomem(err, "the header of a model");
    }
    return lq_run_input_read(made->run, made->name, 0, made->bytes, (size_t)*size_bytes, err);
}

static enum lq_status open_file(struct lq_made_model *made, struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(made->run);
    uint64_t size_bytes = HEADER_BYTES_FIRST;
    bool need_more = true;
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && need_more) {
        need_more = false;
        status = read_begin(made, &size_bytes, err);
        if (status == LQ_OK) {
            status =
                lq_gguf_parse(made->bytes, size_bytes, made->file_bytes, where, LQ_EFORMAT, arena,
                              &made->keys, size_bytes < made->file_bytes ? &need_more : NULL, err);
        }
        size_bytes *= 2;
    }
    return status == LQ_OK ? lq_hparams_index_gguf(&made->keys, arena, &made->index, err) : status;
}

/* Which matrices are quantized, and how, follows from the names and config.json, as in any folder.
 */
static enum lq_status index_folder(struct lq_made_model *made, const struct lq_scanned_file *file,
                                   struct lq_error *err)
{
    char name[NAME_BYTES];
    struct lq_hf_config config;
    struct lq_arena *arena = lq_run_arena(made->run);
    const void *data = NULL;
    uint64_t size_bytes = 0;
    cJSON *json = NULL;
    (void)snprintf(name, sizeof name, "%s.config", made->name);
    enum lq_status status = lq_run_input_load(made->run, name, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_json_parse(data, (size_t)size_bytes, "config.json", LQ_EFORMAT, &json, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_config_read(json, arena, &config, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_tensor_index(&config, file, 1, arena, &made->index, err);
    }
    cJSON_Delete(json);
    return status;
}

static enum lq_status open_folder(struct lq_made_model *made, struct lq_error *err)
{
    struct lq_scanned_file file;
    uint64_t size_bytes = HEADER_BYTES_FIRST;
    uint64_t need_more = size_bytes;
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && need_more != 0) {
        size_bytes = need_more;
        status = read_begin(made, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_scanned_file_header(made->bytes, size_bytes, made->file_bytes, where,
                                            lq_run_arena(made->run), &file, &need_more, err);
        }
    }
    return status == LQ_OK ? index_folder(made, &file, err) : status;
}

enum lq_status lq_made_model_open(struct lq_made_model *made, struct lq_run *run, const char *name,
                                  struct lq_error *err)
{
    char config[NAME_BYTES];
    (void)snprintf(config, sizeof config, "%s.config", name);
    *made = (struct lq_made_model){.run = run,
                                   .name = name,
                                   .is_folder = lq_run_has_input(run, config),
                                   .file_bytes = lq_run_input_size(run, name)};
    return made->is_folder ? open_folder(made, err) : open_file(made, err);
}

void lq_made_model_close(struct lq_made_model *made)
{
    free(made->bytes);
    made->bytes = NULL;
}

/* Pieces [first, first + count) one behind the other; in front of them is room for a pointer to
 * each, which is what a packed tensor's data are. */
static enum lq_status read_pieces(struct lq_made_model *made, const struct lq_model_tensor *tensor,
                                  size_t first, size_t count, const void **data,
                                  struct lq_error *err)
{
    const void **parts = made->bytes;
    unsigned char *to = (unsigned char *)made->bytes + count * sizeof *parts;
    *data = tensor->packing != NULL ? made->bytes : to;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        const struct lq_tensor_piece *piece = &tensor->pieces[first + i];
        parts[i] = to;
        status = lq_run_input_read(made->run, made->name, piece->offset, to,
                                   (size_t)piece->size_bytes, err);
        to += piece->size_bytes;
    }
    return status;
}

enum lq_status lq_made_model_read(struct lq_made_model *made, const struct lq_model_tensor *tensor,
                                  uint64_t first, uint64_t count, const void **data,
                                  struct lq_error *err)
{
    uint64_t matrix_bytes = tensor->size_bytes / tensor->ne[2];
    uint64_t piece_count = tensor->piece_count / tensor->ne[2];
    uint64_t room = count * (matrix_bytes + piece_count * sizeof(void *));
    *data = tensor->literal;
    if (tensor->literal != NULL) {
        return LQ_OK;
    }
    free(made->bytes);
    made->bytes = room >= SIZE_MAX ? NULL : malloc((size_t)room + 1);
    if (made->bytes == NULL) {
        return lq_error_nomem(err, tensor->name);
    }
    if (tensor->piece_count != 0) {
        return read_pieces(made, tensor, (size_t)(first * piece_count),
                           (size_t)(count * piece_count), data, err);
    }
    *data = made->bytes;
    return lq_run_input_read(made->run, made->name, tensor->offset + first * matrix_bytes,
                             made->bytes, (size_t)(count * matrix_bytes), err);
}

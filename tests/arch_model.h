/* A tiny Hugging Face model of tests/golden/arch for tests: what lqbuild makes of its files,
 * without an engine around it. Everything lives until arch_model_close. */
#ifndef LQ_TESTS_ARCH_MODEL_H
#define LQ_TESTS_ARCH_MODEL_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_config.h"
#include "rules/model/hf_names.h"
#include "rules/model/hparams.h"
#include "rules/model/model_scan.h"
#include "rules/model/tensor_ref.h"

struct arch_model {
    struct lq_arena arena;
    struct lq_map weights;
    struct lq_map text;
    cJSON *json;
    struct lq_buffer description;
    struct lq_scanned_file file;
    struct lq_hf_config config;
    struct lq_tensor_index index;
    struct lq_buffer header;
    struct lq_gguf meta;
    void *joined;
};

static inline void arch_model_map(const char *name, const char *file, struct lq_map *out)
{
    struct lq_error err = {0};
    char path[512];
    (void)snprintf(path, sizeof path, LQ_SOURCE_DIR "/tests/golden/arch/%s/%s", name, file);
    cr_assert_eq(lq_map_open(out, path, LQ_EMODEL, &err), LQ_OK, "%s", err.message);
}

/* The files alone: the configuration may be changed before arch_model_describe. */
static inline void arch_model_open(struct arch_model *model, const char *name)
{
    struct lq_error err = {0};
    memset(model, 0, sizeof *model);
    lq_arena_init(&model->arena);
    arch_model_map(name, "model.safetensors", &model->weights);
    arch_model_map(name, "config.json", &model->text);
    cr_assert_eq(lq_json_parse((const char *)model->text.data, (size_t)model->text.size_bytes,
                               "config.json", LQ_EFORMAT, &model->json, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_tensor_source.index("m", &model->weights, NULL, &model->description, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_scanned_file_parse(model->description.data, model->description.size_bytes, "m",
                                       &model->arena, &model->file, &err),
                 LQ_OK, "%s", err.message);
}

static inline enum lq_status arch_model_describe(struct arch_model *model, struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer text = {0};
    enum lq_status status = lq_hf_config_read(model->json, &model->arena, &model->config, err);
    if (status == LQ_OK) {
        status =
            lq_hf_tensor_index(&model->config, &model->file, 1, &model->arena, &model->index, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    /* Through the text of the index, as between steps. */
    cr_assert_eq(lq_tensor_index_format(&model->index, &text, err), LQ_OK, "%s", err->message);
    cr_assert_eq(
        lq_tensor_index_parse(text.data, text.size_bytes, &model->arena, &model->index, err), LQ_OK,
        "%s", err->message);
    lq_buffer_fini(&text);
    lq_gguf_writer_init(&writer);
    lq_hf_config_put(&model->config, 1000, &writer);
    cr_assert_eq(lq_gguf_writer_header(&writer, &model->header, err), LQ_OK, "%s", err->message);
    lq_gguf_writer_fini(&writer);
    cr_assert_eq(lq_gguf_parse(model->header.data, model->header.size_bytes,
                               model->header.size_bytes, "keys", LQ_EFORMAT, &model->arena,
                               &model->meta, NULL, err),
                 LQ_OK, "%s", err->message);
    return LQ_OK;
}

static inline void arch_model_close(struct arch_model *model)
{
    free(model->joined);
    lq_buffer_fini(&model->header);
    lq_buffer_fini(&model->description);
    cJSON_Delete(model->json);
    lq_map_close(&model->text);
    lq_map_close(&model->weights);
    lq_arena_fini(&model->arena);
}

static inline enum lq_status arch_model_source(void *user, size_t source, const void **data,
                                               uint64_t *size_bytes, struct lq_error *err)
{
    const struct arch_model *model = user;
    (void)err;
    cr_assert_eq(source, 0);
    *data = model->weights.data;
    *size_bytes = model->weights.size_bytes;
    return LQ_OK;
}

/* A struct lq_weight_source's `get`. */
static inline enum lq_status arch_model_get(void *user, const char *name,
                                            const struct lq_model_tensor **tensor,
                                            const void **data, struct lq_error *err)
{
    struct arch_model *model = user;
    *tensor = lq_tensor_index_find(&model->index, name);
    if (*tensor == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "the tensor '%s' is missing", name);
    }
    return lq_tensor_data(*tensor, arch_model_source, model, &model->joined, data, err);
}

/* And its `get_matrix`. */
static inline enum lq_status arch_model_get_matrix(void *user, const char *name, uint64_t matrix,
                                                   const struct lq_model_tensor **tensor,
                                                   const void **data, struct lq_error *err)
{
    struct arch_model *model = user;
    *tensor = lq_tensor_index_find(&model->index, name);
    if (*tensor == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "the tensor '%s' is missing", name);
    }
    return lq_tensor_matrix(*tensor, matrix, arch_model_source, model, &model->joined, data, err);
}

#endif

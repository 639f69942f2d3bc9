/* Writes a synthetic Hugging Face folder of any architecture that lqbuild knows, from the text of a
 * config.json: names and shapes follow lqbuild's own tables (their truth is tested on checkpoints
 * that transformers wrote, in tests/golden/arch), weights are bf16, normally distributed with a
 * size that keeps activations in range, and depend on nothing but the seed and a tensor's place.
 * The tokenizer is that of make_model_vocab.h, whatever the architecture. `edit` sees the values of
 * each tensor before they are written and may change them, or leave the tensor out. Needs memory
 * for one tensor. Thread rule: one call at a time. Limits: those of hf_config.h. */
#ifndef LQ_TESTS_MAKE_ARCH_H
#define LQ_TESTS_MAKE_ARCH_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"
#include "rules/model/hf_config.h"
#include "tests/make_model_vocab.h"

struct make_arch_tensor {
    char name[LQ_TENSOR_NAME_BYTES_MAX];
    uint64_t cols;
    uint64_t rows; /* 0: one-dimensional */
    uint64_t offset;
};

/* False leaves the tensor out. */
typedef bool (*make_arch_edit_fn)(void *user, const struct make_arch_tensor *tensor, float *values);

struct make_arch {
    struct lq_arena arena;
    struct lq_hf_config config;
    struct make_vocab vocab;
    struct make_arch_tensor *tensors;
    size_t tensor_count;
    make_arch_edit_fn edit;
    void *user;
};

static inline void make_arch_add(struct make_arch *make, const char *name, uint64_t cols,
                                 uint64_t rows)
{
    struct make_arch_tensor *tensor = &make->tensors[make->tensor_count++];
    (void)snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->cols = cols;
    tensor->rows = rows;
}

static inline void make_arch_add_layer(struct make_arch *make, uint32_t layer)
{
    const struct lq_hparams *hparams = &make->config.hparams;
    for (size_t i = 0; i < lq_hf_row_count; i++) {
        const struct lq_hf_row *row = &lq_hf_rows[i];
        const char *mark = strstr(row->hf, "%u");
        uint64_t cols = 0;
        uint64_t rows = 0;
        if ((row->families & (unsigned)make->config.arch->family) == 0) {
            continue;
        }
        lq_layer_weight_shape(hparams, row->weight, &cols, &rows);
        if (lq_layer_weight_input(row->weight) == LQ_LAYER_INPUT_COUNT) {
            rows = 0;
        }
        for (uint32_t e = 0; e < (mark == NULL ? 1 : hparams->expert_count); e++) {
            char name[LQ_TENSOR_NAME_BYTES_MAX];
            char number[16] = "";
            int head = (int)(mark == NULL ? strlen(row->hf) : (size_t)(mark - row->hf));
            (void)snprintf(number, sizeof number, "%u", (unsigned)e);
            (void)snprintf(name, sizeof name, "model.layers.%u.%.*s%s%s", (unsigned)layer, head,
                           row->hf, mark == NULL ? "" : number, mark == NULL ? "" : mark + 2);
            make_arch_add(make, name, cols, rows);
        }
    }
}

static inline bool make_arch_add_tensors(struct make_arch *make)
{
    const struct lq_hparams *hparams = &make->config.hparams;
    size_t experts = hparams->expert_count == 0 ? 1 : hparams->expert_count;
    make->tensors = lq_arena_get_array(
        &make->arena, (size_t)hparams->layer_count * (lq_hf_row_count + 3 * experts) + 3,
        sizeof *make->tensors);
    if (make->tensors == NULL) {
        return false;
    }
    make_arch_add(make, "model.embed_tokens.weight", hparams->width, hparams->vocab_size);
    for (uint32_t layer = 0; layer < hparams->layer_count; layer++) {
        make_arch_add_layer(make, layer);
    }
    make_arch_add(make, "model.norm.weight", hparams->width, 0);
    if (!hparams->tied_output) {
        make_arch_add(make, "lm_head.weight", hparams->width, hparams->vocab_size);
    }
    return true;
}

/* Sebastiano Vigna's splitmix64; four 16-bit parts of it are nearly normal together. */
static inline float make_arch_normal(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    double sum = (double)(z & 0xffff) + (double)(z >> 16 & 0xffff) + (double)(z >> 32 & 0xffff) +
                 (double)(z >> 48);
    return (float)((sum / 65535.0 - 2.0) * sqrt(3.0));
}

static inline void make_arch_fill(const struct make_arch *make,
                                  const struct make_arch_tensor *tensor, float *values)
{
    uint64_t state = (uint64_t)(tensor - make->tensors + 1) << 32;
    uint64_t count = tensor->cols * (tensor->rows == 0 ? 1 : tensor->rows);
    bool is_norm = tensor->rows == 0 && strstr(tensor->name, "bias") == NULL;
    float base = is_norm && !make->config.arch->norms_add_one ? 1.0f : 0.0f;
    float deviation = tensor->rows == 0 ? 0.1f : 1.5f / sqrtf((float)tensor->cols);
    for (uint64_t i = 0; i < count; i++) {
        values[i] = base + deviation * make_arch_normal(&state);
    }
}

/* The safetensors header of the tensors that stay; their data follow in order. */
static inline void make_arch_header(const struct make_arch *make, struct lq_buffer *out)
{
    struct lq_buffer json;
    struct lq_json_writer writer;
    lq_buffer_init(&json);
    lq_json_writer_init(&writer, &json, false);
    lq_json_begin_object(&writer);
    for (size_t i = 0; i < make->tensor_count; i++) {
        const struct make_arch_tensor *tensor = &make->tensors[i];
        uint64_t count = tensor->cols * (tensor->rows == 0 ? 1 : tensor->rows);
        lq_json_key(&writer, tensor->name);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "dtype", "BF16");
        lq_json_key(&writer, "shape");
        lq_json_begin_array(&writer);
        if (tensor->rows != 0) {
            lq_json_uint(&writer, tensor->rows);
        }
        lq_json_uint(&writer, tensor->cols);
        lq_json_end_array(&writer);
        lq_json_key(&writer, "data_offsets");
        lq_json_begin_array(&writer);
        lq_json_uint(&writer, tensor->offset);
        lq_json_uint(&writer, tensor->offset + count * sizeof(uint16_t));
        lq_json_end_array(&writer);
        lq_json_end_object(&writer);
    }
    lq_json_end_object(&writer);
    while (json.size_bytes % sizeof(uint64_t) != 0) {
        lq_buffer_append_char(&json, ' ');
    }
    lq_buffer_append_u64(out, json.size_bytes);
    lq_buffer_append(out, json.data, json.size_bytes);
    lq_buffer_fini(&json);
}

/* Values of the tensors, and offsets of those that stay; with a file they are written. */
static inline bool make_arch_data(struct make_arch *make, FILE *file)
{
    uint64_t offset = 0;
    size_t kept = 0;
    bool good = true;
    for (size_t i = 0; good && i < make->tensor_count; i++) {
        struct make_arch_tensor *tensor = &make->tensors[i];
        size_t count = (size_t)(tensor->cols * (tensor->rows == 0 ? 1 : tensor->rows));
        float *values = calloc(count, sizeof *values);
        uint16_t *narrow = calloc(count, sizeof *narrow);
        good = values != NULL && narrow != NULL;
        if (good && (file != NULL || make->edit != NULL)) {
            make_arch_fill(make, tensor, values);
        }
        bool stays = good && (make->edit == NULL || make->edit(make->user, tensor, values));
        for (size_t j = 0; stays && file != NULL && j < count; j++) {
            narrow[j] = lq_f32_to_bf16(values[j]);
        }
        good = good && (!stays || file == NULL || fwrite(narrow, 2, count, file) == count);
        tensor->offset = stays ? offset : UINT64_MAX;
        offset += stays ? count * sizeof *narrow : 0;
        kept += stays;
        free(values);
        free(narrow);
    }
    return good && kept != 0;
}

static inline enum lq_status make_arch_weights(struct make_arch *make, const char *path,
                                               struct lq_error *err)
{
    struct lq_buffer header;
    lq_buffer_init(&header);
    bool good = make_arch_data(make, NULL);
    struct make_arch named = *make;
    named.tensors = calloc(make->tensor_count, sizeof *named.tensors);
    named.tensor_count = 0;
    for (size_t i = 0; good && named.tensors != NULL && i < make->tensor_count; i++) {
        if (make->tensors[i].offset != UINT64_MAX) {
            named.tensors[named.tensor_count++] = make->tensors[i];
        }
    }
    make_arch_header(&named, &header);
    FILE *file = fopen(path, "wb");
    good = good && named.tensors != NULL && file != NULL && !header.failed &&
           fwrite(header.data, 1, header.size_bytes, file) == header.size_bytes &&
           make_arch_data(make, file);
    good = (file == NULL || fclose(file) == 0) && good;
    free(named.tensors);
    lq_buffer_fini(&header);
    return good ? LQ_OK : lq_error_set(err, LQ_EIO, "%s: cannot be written", path);
}

static inline enum lq_status make_arch_files(struct make_arch *make, const char *config,
                                             const char *out, struct lq_error *err)
{
    static const char tokenizer_config[] =
        "{\"add_bos_token\": true, \"add_eos_token\": false, "
        "\"bos_token\": \"<|begin_of_text|>\", \"eos_token\": \"<|end_of_text|>\", "
        "\"pad_token\": \"<|pad|>\", \"tokenizer_class\": \"PreTrainedTokenizerFast\"}\n";
    struct lq_buffer tokenizer;
    lq_buffer_init(&tokenizer);
    make_vocab_json(&make->vocab, &tokenizer);
    const struct {
        const char *name;
        const void *data;
        size_t size_bytes;
    } files[] = {{"config.json", config, strlen(config)},
                 {"tokenizer.json", tokenizer.data, tokenizer.size_bytes},
                 {"tokenizer_config.json", tokenizer_config, sizeof tokenizer_config - 1}};
    enum lq_status status = tokenizer.failed ? lq_error_nomem(err, out) : lq_make_dirs(out, err);
    for (size_t i = 0; status == LQ_OK && i < sizeof files / sizeof files[0]; i++) {
        const char *path = lq_path_join(&make->arena, out, files[i].name);
        status = path == NULL ? lq_error_nomem(err, out)
                              : lq_file_write(path, files[i].data, files[i].size_bytes, err);
    }
    const char *path = lq_path_join(&make->arena, out, "model.safetensors");
    if (status == LQ_OK) {
        status = path == NULL ? lq_error_nomem(err, out) : make_arch_weights(make, path, err);
    }
    lq_buffer_fini(&tokenizer);
    return status;
}

/* `edit` may be NULL. */
static inline enum lq_status make_arch_write(const char *config, const char *out,
                                             make_arch_edit_fn edit, void *user,
                                             struct lq_error *err)
{
    struct make_arch make = {.edit = edit, .user = user};
    cJSON *json = NULL;
    lq_arena_init(&make.arena);
    enum lq_status status =
        lq_json_parse(config, strlen(config), "config.json", LQ_EFORMAT, &json, err);
    if (status == LQ_OK) {
        status = lq_hf_config_read(json, &make.arena, &make.config, err);
    }
    if (status == LQ_OK && make.config.hparams.vocab_size < MAKE_BYTE_COUNT + MAKE_SPECIAL_COUNT) {
        status =
            lq_error_set(err, LQ_EFORMAT,
                         "config.json: vocab_size is %u, expected at least %d: every byte has a "
                         "token of its own",
                         make.config.hparams.vocab_size, MAKE_BYTE_COUNT + MAKE_SPECIAL_COUNT);
    }
    if (status == LQ_OK &&
        (!make_vocab_init(&make.vocab, &make.arena, make.config.hparams.vocab_size) ||
         !make_arch_add_tensors(&make))) {
        status = lq_error_nomem(err, "the model");
    }
    if (status == LQ_OK) {
        status = make_arch_files(&make, config, out, err);
    }
    cJSON_Delete(json);
    lq_arena_fini(&make.arena);
    return status;
}

#endif

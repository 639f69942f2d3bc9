#include "rules/model/model_describe.h"

#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_config.h"
#include "rules/model/hf_names.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/tensor_index.h"

static enum lq_status finish(const struct lq_gguf_writer *writer, struct lq_buffer *out,
                             struct lq_error *err)
{
    enum lq_status status = lq_gguf_writer_header(writer, out, err);
    return status == LQ_OK && out->failed ? lq_error_nomem(err, "model keys") : status;
}

static uint64_t count_parameters(const struct lq_tensor_index *index)
{
    uint64_t total = 0;
    for (size_t i = 0; i < index->tensor_count; i++) {
        const uint64_t *ne = index->tensors[i].ne;
        total += ne[0] * ne[1] * ne[2] * ne[3];
    }
    return total;
}

static enum lq_status write_directory(const struct lq_hf_documents *documents,
                                      const struct lq_model_directory *directory,
                                      struct lq_arena *arena, struct lq_gguf_writer *meta,
                                      struct lq_gguf_writer *vocab, struct lq_model_outputs *out,
                                      struct lq_error *err)
{
    struct lq_hf_config config;
    struct lq_tensor_index index;
    enum lq_status status = lq_hf_config_read(documents->config, arena, &config, err);
    if (status == LQ_OK) {
        status = lq_hf_quantization_find(documents->config, documents->quantize_config,
                                         &config.quantization, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_tensor_index(&config, directory->files, directory->file_count, arena, &index,
                                    err);
    }
    if (status == LQ_OK) {
        status = lq_tensor_index_format(&index, out->tensors, err);
    }
    if (status == LQ_OK) {
        lq_hf_config_put(&config, count_parameters(&index), meta);
        status = lq_hf_tokenizer_put(documents, config.hparams.vocab_size, arena, meta, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_tokenizer_put(documents, config.hparams.vocab_size, arena, vocab, err);
    }
    if (status == LQ_OK) {
        status = finish(meta, out->meta, err);
    }
    return status == LQ_OK ? finish(vocab, out->vocab, err) : status;
}

static enum lq_status check_documents(const struct lq_hf_documents *documents, struct lq_error *err)
{
    if (documents->config == NULL) {
        return lq_error_set(err, LQ_EMODEL, "the model has no config.json");
    }
    if (documents->tokenizer == NULL && documents->sentencepiece.data == NULL) {
        return lq_error_set(err, LQ_EMODEL,
                            "the model has neither tokenizer.json nor tokenizer.model");
    }
    return LQ_OK;
}

enum lq_status lq_model_describe_directory(const struct lq_model_directory *directory,
                                           struct lq_arena *arena, struct lq_model_outputs *out,
                                           struct lq_error *err)
{
    struct lq_hf_documents documents;
    struct lq_gguf_writer meta;
    struct lq_gguf_writer vocab;
    lq_gguf_writer_init(&meta);
    lq_gguf_writer_init(&vocab);
    enum lq_status status = lq_hf_documents_parse(directory->texts, arena, &documents, err);
    if (status == LQ_OK) {
        status = check_documents(&documents, err);
    }
    if (status == LQ_OK) {
        status = write_directory(&documents, directory, arena, &meta, &vocab, out, err);
    }
    lq_gguf_writer_fini(&meta);
    lq_gguf_writer_fini(&vocab);
    lq_hf_documents_fini(&documents);
    return status;
}

/* Keys about the file, not about the model: whoever writes a file adds its own. */
static bool is_about_file(const char *key)
{
    static const char *const keys[] = {"general.alignment", "general.file_type",
                                       "general.quantization_version"};
    for (size_t i = 0; i < LQ_COUNT_OF(keys); i++) {
        if (strcmp(key, keys[i]) == 0) {
            return true;
        }
    }
    return lq_text_starts_with(key, "split.");
}

static enum lq_status format_index(const struct lq_scanned_file *scanned, struct lq_arena *arena,
                                   struct lq_buffer *out, struct lq_error *err)
{
    struct lq_tensor_index index = {.tensor_count = scanned->tensor_count};
    index.tensors = lq_arena_get_array(arena, scanned->tensor_count + 1, sizeof *index.tensors);
    if (index.tensors == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    for (size_t i = 0; i < scanned->tensor_count; i++) {
        const struct lq_scanned_tensor *from = &scanned->tensors[i];
        struct lq_model_tensor *to = &index.tensors[i];
        to->name = from->name;
        to->source_name = from->name;
        to->dtype = from->dtype;
        to->dim_count = from->dim_count;
        memcpy(to->ne, from->shape, sizeof to->ne);
        to->offset = from->offset;
        to->size_bytes = from->size_bytes;
        to->digest = from->digest;
    }
    return lq_tensor_index_format(&index, out, err);
}

enum lq_status lq_model_describe_gguf(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                      const char *where, const struct lq_scanned_file *scanned,
                                      struct lq_arena *arena, struct lq_model_outputs *out,
                                      struct lq_error *err)
{
    struct lq_gguf gguf;
    struct lq_gguf_writer meta;
    struct lq_gguf_writer vocab;
    lq_gguf_writer_init(&meta);
    lq_gguf_writer_init(&vocab);
    enum lq_status status =
        lq_gguf_parse(data, size_bytes, file_bytes, where, LQ_EFORMAT, arena, &gguf, NULL, err);
    if (status == LQ_OK && lq_gguf_get_string(&gguf, "general.architecture") == NULL) {
        status =
            lq_error_set(err, LQ_EFORMAT, "%s: no general.architecture; this is no model", where);
    }
    if (status == LQ_OK && gguf.tensor_count == 0) {
        status =
            lq_error_set(err, LQ_EFORMAT, "%s: the file has no tensors; this is no model", where);
    }
    for (size_t i = 0; status == LQ_OK && i < gguf.kv_count; i++) {
        const struct lq_gguf_kv *kv = &gguf.kvs[i];
        if (!is_about_file(kv->key)) {
            lq_gguf_put_value(&meta, kv->key, &kv->value);
        }
        if (lq_text_starts_with(kv->key, "tokenizer.")) {
            lq_gguf_put_value(&vocab, kv->key, &kv->value);
        }
    }
    if (status == LQ_OK) {
        status = format_index(scanned, arena, out->tensors, err);
    }
    if (status == LQ_OK) {
        status = finish(&meta, out->meta, err);
    }
    if (status == LQ_OK) {
        status = finish(&vocab, out->vocab, err);
    }
    lq_gguf_writer_fini(&meta);
    lq_gguf_writer_fini(&vocab);
    return status;
}

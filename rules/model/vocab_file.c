#include "rules/model/vocab_file.h"

#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_documents.h"
#include "rules/model/hf_tokenizer.h"

static enum lq_status load_keys(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_vocab **out, struct lq_error *err)
{
    struct lq_gguf gguf;
    enum lq_status status =
        lq_gguf_parse(data, size_bytes, size_bytes, where, LQ_EFORMAT, arena, &gguf, NULL, err);
    return status == LQ_OK ? lq_vocab_load(out, &gguf, where, err) : status;
}

static enum lq_status load_gguf(const char *path, struct lq_arena *arena, struct lq_vocab **out,
                                struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EMODEL, err);
    if (status == LQ_OK) {
        status = load_keys(map.data, map.size_bytes, path, arena, out, err);
        lq_map_close(&map);
    }
    return status;
}

/* The rows of the embedding, as far as config.json says; else 0. */
static uint64_t count_rows(const cJSON *config)
{
    const cJSON *rows = config == NULL ? NULL : lq_json_find(config, "vocab_size");
    bool usable =
        cJSON_IsNumber(rows) && rows->valuedouble >= 1 && rows->valuedouble <= LQ_VOCAB_MAX;
    return usable ? (uint64_t)rows->valuedouble : 0;
}

static enum lq_status load_documents(const struct lq_hf_documents *documents, const char *where,
                                     struct lq_arena *arena, struct lq_vocab **out,
                                     struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    enum lq_status status =
        lq_hf_tokenizer_put(documents, count_rows(documents->config), arena, &writer, err);
    if (status == LQ_OK) {
        status = lq_gguf_writer_header(&writer, &bytes, err);
    }
    if (status == LQ_OK) {
        status = load_keys(bytes.data, bytes.size_bytes, where, arena, out, err);
    }
    lq_buffer_fini(&bytes);
    lq_gguf_writer_fini(&writer);
    return status;
}

/* Maps the tokenizer, whatever its name, and the other files of the folder that are there and
 * count beside it. */
static enum lq_status open_files(const char *tokenizer, const char *folder, enum lq_hf_file kind,
                                 struct lq_arena *arena, struct lq_map maps[LQ_HF_FILE_COUNT],
                                 struct lq_error *err)
{
    enum lq_status status = lq_map_open(&maps[kind], tokenizer, LQ_EMODEL, err);
    for (size_t i = 0; i < LQ_HF_FILE_COUNT && status == LQ_OK; i++) {
        const char *path = lq_path_join(arena, folder, lq_hf_file_name((enum lq_hf_file)i));
        if (path == NULL) {
            return lq_error_nomem(err, "a path");
        }
        bool is_tokenizer = i == LQ_HF_TOKENIZER || i == LQ_HF_SENTENCEPIECE;
        if (!is_tokenizer && lq_hf_file_is_read((enum lq_hf_file)i, kind == LQ_HF_TOKENIZER) &&
            lq_path_exists(path)) {
            status = lq_map_open(&maps[i], path, LQ_EMODEL, err);
        }
    }
    return status;
}

/* `kind` is LQ_HF_TOKENIZER or LQ_HF_SENTENCEPIECE. */
static enum lq_status load_folder(const char *tokenizer, const char *folder, enum lq_hf_file kind,
                                  struct lq_arena *arena, struct lq_vocab **out,
                                  struct lq_error *err)
{
    struct lq_map maps[LQ_HF_FILE_COUNT] = {0};
    struct lq_hf_text texts[LQ_HF_FILE_COUNT];
    struct lq_hf_documents documents = {0};
    enum lq_status status = open_files(tokenizer, folder, kind, arena, maps, err);
    for (size_t i = 0; i < LQ_HF_FILE_COUNT; i++) {
        texts[i] = (struct lq_hf_text){maps[i].data, maps[i].size_bytes};
    }
    if (status == LQ_OK) {
        status = lq_hf_documents_parse(texts, arena, &documents, err);
    }
    if (status == LQ_OK) {
        status = load_documents(&documents, tokenizer, arena, out, err);
    }
    lq_hf_documents_fini(&documents);
    for (size_t i = 0; i < LQ_HF_FILE_COUNT; i++) {
        lq_map_close(&maps[i]);
    }
    return status;
}

static enum lq_status load_dir(const char *path, struct lq_arena *arena, struct lq_vocab **out,
                               struct lq_error *err)
{
    const char *json = lq_path_join(arena, path, lq_hf_file_name(LQ_HF_TOKENIZER));
    const char *pieces = lq_path_join(arena, path, lq_hf_file_name(LQ_HF_SENTENCEPIECE));
    if (json == NULL || pieces == NULL) {
        return lq_error_nomem(err, "a path");
    }
    bool has_json = lq_path_exists(json);
    if (!has_json && !lq_path_exists(pieces)) {
        return lq_error_set(err, LQ_EMODEL,
                            "%s: neither tokenizer.json nor tokenizer.model is there; give the "
                            "folder of a model, one of these files, or a .gguf file",
                            path);
    }
    return load_folder(has_json ? json : pieces, path,
                       has_json ? LQ_HF_TOKENIZER : LQ_HF_SENTENCEPIECE, arena, out, err);
}

enum lq_status lq_vocab_file_load(const char *path, struct lq_vocab **out, struct lq_error *err)
{
    struct lq_arena arena;
    enum lq_status status;
    *out = NULL;
    lq_arena_init(&arena);
    const char *extension = lq_path_extension(path);
    bool is_json = strcmp(extension, ".json") == 0;
    if (lq_path_is_dir(path)) {
        status = load_dir(path, &arena, out, err);
    } else if (is_json || strcmp(extension, ".model") == 0) {
        const char *folder = lq_path_dir(&arena, path);
        status = folder == NULL
                     ? lq_error_nomem(err, "a path")
                     : load_folder(path, folder, is_json ? LQ_HF_TOKENIZER : LQ_HF_SENTENCEPIECE,
                                   &arena, out, err);
    } else {
        status = load_gguf(path, &arena, out, err);
    }
    lq_arena_fini(&arena);
    return status;
}

#include "rules/model/vocab_file.h"

#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
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

/* *out stays NULL when the file does not exist. */
static enum lq_status read_document(const char *path, cJSON **out, struct lq_error *err)
{
    if (path == NULL) {
        return lq_error_nomem(err, "a path");
    }
    if (!lq_path_exists(path)) {
        return LQ_OK;
    }
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EMODEL, err);
    if (status == LQ_OK) {
        status = lq_json_parse(map.data, (size_t)map.size_bytes, path, LQ_EFORMAT, out, err);
        lq_map_close(&map);
    }
    return status;
}

static enum lq_status load_documents(const struct lq_hf_documents *documents, const char *where,
                                     struct lq_arena *arena, struct lq_vocab **out,
                                     struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    enum lq_status status = lq_hf_tokenizer_put(documents, 0, arena, &writer, err);
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

/* `tokenizer` is the path of tokenizer.json, `folder` where its neighbours are. */
static enum lq_status load_folder(const char *tokenizer, const char *folder, struct lq_arena *arena,
                                  struct lq_vocab **out, struct lq_error *err)
{
    static const char *const names[] = {"tokenizer_config.json", "config.json",
                                        "generation_config.json"};
    cJSON *documents[4] = {NULL};
    if (!lq_path_exists(tokenizer)) {
        return lq_error_set(err, LQ_EMODEL,
                            "%s: no such file; give a folder with tokenizer.json, a tokenizer.json "
                            "or a .gguf file",
                            tokenizer);
    }
    enum lq_status status = read_document(tokenizer, &documents[0], err);
    for (size_t i = 0; status == LQ_OK && i < 3; i++) {
        status = read_document(lq_path_join(arena, folder, names[i]), &documents[i + 1], err);
    }
    if (status == LQ_OK) {
        struct lq_hf_documents all = {.tokenizer = documents[0],
                                      .tokenizer_config = documents[1],
                                      .config = documents[2],
                                      .generation_config = documents[3]};
        status = load_documents(&all, tokenizer, arena, out, err);
    }
    for (size_t i = 0; i < 4; i++) {
        cJSON_Delete(documents[i]);
    }
    return status;
}

enum lq_status lq_vocab_file_load(const char *path, struct lq_vocab **out, struct lq_error *err)
{
    struct lq_arena arena;
    enum lq_status status;
    *out = NULL;
    lq_arena_init(&arena);
    if (lq_path_is_dir(path)) {
        const char *tokenizer = lq_path_join(&arena, path, "tokenizer.json");
        status = tokenizer == NULL ? lq_error_nomem(err, "a path")
                                   : load_folder(tokenizer, path, &arena, out, err);
    } else if (strcmp(lq_path_extension(path), ".json") == 0) {
        const char *folder = lq_path_dir(&arena, path);
        status = folder == NULL ? lq_error_nomem(err, "a path")
                                : load_folder(path, folder, &arena, out, err);
    } else {
        status = load_gguf(path, &arena, out, err);
    }
    lq_arena_fini(&arena);
    return status;
}

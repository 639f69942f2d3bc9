#include "engine/cli/hub/hub_choose.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/safetensors.h"
#include "rules/model/hf_documents.h"

#define SINGLE_FILE "model.safetensors"
#define SHARD_INDEX "model.safetensors.index.json"

struct chooser {
    struct lq_hub *hub;
    const struct lq_hub_name *name;
    const char *commit;
    struct lq_arena *arena;
    struct lq_hub_listing listing;
    struct lq_hub_choice *choice;
};

static enum lq_status add(struct chooser *chooser, const struct lq_hub_file *file,
                          struct lq_error *err)
{
    struct lq_hub_choice *choice = chooser->choice;
    choice->files[choice->count++] = file;
    return lq_add_u64(choice->size_bytes, file->size_bytes, &choice->size_bytes)
               ? LQ_OK
               : lq_error_set(err, LQ_EFORMAT, "%s: is larger than any disk",
                              chooser->name->repository);
}

static enum lq_status make_room(struct chooser *chooser, size_t count, struct lq_error *err)
{
    chooser->choice->files = lq_arena_get_array(chooser->arena, count + LQ_HF_FILE_COUNT + 1,
                                                sizeof chooser->choice->files[0]);
    return chooser->choice->files == NULL ? lq_error_nomem(err, "a list of files") : LQ_OK;
}

/* ---- the index of shards ---- */

static bool keep_bytes(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    struct lq_buffer *buffer = user;
    lq_buffer_append(buffer, data, size_bytes);
    if (buffer->failed) {
        (void)lq_error_nomem(err, "the index of shards");
    }
    return !buffer->failed;
}

static enum lq_status drop_bytes(void *user, struct lq_error *err)
{
    (void)err;
    lq_buffer_clear(user);
    return LQ_OK;
}

/* Into memory: a dry run leaves nothing behind. When it is loaded again its digest is checked. */
static enum lq_status read_index(struct chooser *chooser, const struct lq_hub_file *file,
                                 struct lq_shard_index *index, struct lq_error *err)
{
    struct lq_buffer bytes;
    struct lq_hub_sink sink = {.take = keep_bytes, .restart = drop_bytes, .user = &bytes};
    if (file->size_bytes > LQ_HUB_PAGE_BYTES_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%s: %s has %llu bytes, expected at most %d",
                            chooser->name->repository, file->path,
                            (unsigned long long)file->size_bytes, LQ_HUB_PAGE_BYTES_MAX);
    }
    lq_buffer_init(&bytes);
    enum lq_status status =
        lq_hub_read(chooser->hub, chooser->name, chooser->commit, file, &sink, err);
    if (status == LQ_OK) {
        status = lq_shard_index_parse(lq_buffer_text(&bytes), bytes.size_bytes, file->path,
                                      LQ_EFORMAT, chooser->arena, index, err);
        if (status == LQ_EFORMAT) {
            status = lq_error_prefix(err, "%s", chooser->name->repository);
        }
    }
    lq_buffer_fini(&bytes);
    return status;
}

static enum lq_status add_shards(struct chooser *chooser, const struct lq_hub_file *file,
                                 struct lq_error *err)
{
    struct lq_shard_index index;
    enum lq_status status = read_index(chooser, file, &index, err);
    if (status == LQ_OK && index.file_count > LQ_MODEL_SHARDS_MAX) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: has more than %d shards",
                              chooser->name->repository, LQ_MODEL_SHARDS_MAX);
    }
    if (status == LQ_OK) {
        status = make_room(chooser, index.file_count, err);
    }
    if (status == LQ_OK) {
        status = add(chooser, file, err);
    }
    for (size_t i = 0; i < index.file_count && status == LQ_OK; i++) {
        const struct lq_hub_file *shard = lq_hub_listing_find(&chooser->listing, index.files[i]);
        status = shard == NULL ? lq_error_set(err, LQ_EMODEL, "%s: %s names %s, which is not there",
                                              chooser->name->repository, file->path, index.files[i])
                               : add(chooser, shard, err);
    }
    return status;
}

/* ---- a model ---- */

/* What there is instead of safetensors, and what to do with it. */
static enum lq_status refuse_weights(const struct chooser *chooser, struct lq_error *err)
{
    const char *repository = chooser->name->repository;
    const char *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < chooser->listing.count; i++) {
        if (lq_text_ends_with(chooser->listing.files[i].path, ".gguf")) {
            first = first == NULL ? chooser->listing.files[i].path : first;
            count++;
        }
    }
    if (first != NULL) {
        return lq_error_set(err, LQ_EMODEL,
                            "%s: has no safetensors weights, but %zu GGUF file%s; name one, as in "
                            "`lqbuild fetch %s/%s`",
                            repository, count, count == 1 ? "" : "s", repository, first);
    }
    return lq_error_set(err, LQ_EMODEL,
                        "%s: has neither " SINGLE_FILE " nor " SHARD_INDEX
                        "; look for a conversion of it to safetensors",
                        repository);
}

static enum lq_status choose_model(struct chooser *chooser, struct lq_error *err)
{
    const struct lq_hub_file *single = lq_hub_listing_find(&chooser->listing, SINGLE_FILE);
    const struct lq_hub_file *shards = lq_hub_listing_find(&chooser->listing, SHARD_INDEX);
    bool has_file[LQ_HF_FILE_COUNT] = {false};
    enum lq_status status = LQ_OK;
    if (single != NULL) {
        status = make_room(chooser, 1, err);
        status = status == LQ_OK ? add(chooser, single, err) : status;
    } else if (shards != NULL) {
        status = add_shards(chooser, shards, err);
    } else {
        status = refuse_weights(chooser, err);
    }
    for (size_t i = 0; i < LQ_HF_FILE_COUNT && status == LQ_OK; i++) {
        const struct lq_hub_file *file =
            lq_hub_listing_find(&chooser->listing, lq_hf_file_name((enum lq_hf_file)i));
        has_file[i] = file != NULL;
        status = file == NULL ? LQ_OK : add(chooser, file, err);
    }
    if (status == LQ_OK && !has_file[LQ_HF_CONFIG]) {
        return lq_error_set(err, LQ_EMODEL, "%s: has no config.json, so lqbuild cannot use it",
                            chooser->name->repository);
    }
    if (status == LQ_OK && !has_file[LQ_HF_TOKENIZER] && !has_file[LQ_HF_SENTENCEPIECE]) {
        return lq_error_set(err, LQ_EMODEL,
                            "%s: has neither tokenizer.json nor tokenizer.model, so lqbuild "
                            "cannot use it",
                            chooser->name->repository);
    }
    return status;
}

/* ---- both ---- */

static enum lq_status choose_file(struct chooser *chooser, struct lq_error *err)
{
    const struct lq_hub_name *name = chooser->name;
    const struct lq_hub_file *file = lq_hub_listing_find(&chooser->listing, name->file);
    if (file == NULL) {
        return lq_error_set(err, name->is_dataset ? LQ_ECALIBRATION : LQ_EMODEL,
                            "%s: has no file '%s' (revision %s)", name->repository, name->file,
                            name->revision);
    }
    enum lq_status status = make_room(chooser, 1, err);
    return status == LQ_OK ? add(chooser, file, err) : status;
}

static int compare_sizes(const void *a, const void *b)
{
    const struct lq_hub_file *left = *(const struct lq_hub_file *const *)a;
    const struct lq_hub_file *right = *(const struct lq_hub_file *const *)b;
    if (left->size_bytes != right->size_bytes) {
        return left->size_bytes < right->size_bytes ? -1 : 1;
    }
    return strcmp(left->path, right->path);
}

enum lq_status lq_hub_choose(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                             struct lq_arena *arena, struct lq_hub_choice *out,
                             struct lq_error *err)
{
    struct chooser chooser = {
        .hub = hub, .name = name, .commit = commit, .arena = arena, .choice = out};
    *out = (struct lq_hub_choice){.count = 0};
    bool is_below = name->file != NULL && strchr(name->file, '/') != NULL;
    const char *folder = is_below ? lq_path_dir(arena, name->file) : "";
    if (folder == NULL) {
        return lq_error_nomem(err, "a path");
    }
    enum lq_status status = lq_hub_list(hub, name, commit, folder, arena, &chooser.listing, err);
    if (status == LQ_OK) {
        status = name->file == NULL ? choose_model(&chooser, err) : choose_file(&chooser, err);
    }
    if (status == LQ_OK) {
        /* A token that is not enough is found out by a small file. */
        qsort(out->files, out->count, sizeof(const struct lq_hub_file *), compare_sizes);
    }
    return status;
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/forward_run.h"
#include "rules/quality/perplexity.h"

enum {
    STEP_VERSION = 2,
    SOURCE_NAME_BYTES = 32,
    HEADER_BYTES_FIRST = 1 << 20, /* of a GGUF file; doubled until the header is whole */
};

/* Guess for a first estimate of time: float operations a microsecond of a small machine. */
#define OPS_PER_MICROSECOND 50000.0

/* ---- weights of a model artifact or a GGUF output ---- */

struct model_reader {
    struct lq_run *run;
    struct lq_tensor_index index;
    bool is_gguf;
    void *bytes; /* the newest tensor of a GGUF output, or its header */
};

static enum lq_status read_header(struct model_reader *reader, struct lq_gguf *gguf,
                                  struct lq_error *err)
{
    uint64_t file_bytes = lq_run_input_size(reader->run, "gguf");
    uint64_t size_bytes = HEADER_BYTES_FIRST;
    for (;;) {
        bool need_more = false;
        size_bytes = size_bytes < file_bytes ? size_bytes : file_bytes;
        free(reader->bytes);
        reader->bytes = size_bytes >= SIZE_MAX ? NULL : malloc((size_t)size_bytes + 1);
        if (reader->bytes == NULL) {
            return lq_error_nomem(err, "a GGUF header");
        }
        enum lq_status status =
            lq_run_input_read(reader->run, "gguf", 0, reader->bytes, (size_t)size_bytes, err);
        if (status == LQ_OK) {
            status = lq_gguf_parse(reader->bytes, size_bytes, file_bytes, "quantized model",
                                   LQ_EFORMAT, lq_run_arena(reader->run), gguf,
                                   size_bytes < file_bytes ? &need_more : NULL, err);
        }
        if (status != LQ_OK || !need_more) {
            return status;
        }
        size_bytes *= 2;
    }
}

static enum lq_status read_tensor(struct model_reader *reader, const struct lq_model_tensor *tensor,
                                  const void **data, struct lq_error *err)
{
    free(reader->bytes);
    reader->bytes = tensor->size_bytes >= SIZE_MAX ? NULL : malloc((size_t)tensor->size_bytes + 1);
    if (reader->bytes == NULL) {
        return lq_error_nomem(err, tensor->name);
    }
    *data = reader->bytes;
    return lq_run_input_read(reader->run, "gguf", tensor->offset, reader->bytes,
                             (size_t)tensor->size_bytes, err);
}

static enum lq_status get_weight(void *user, const char *name,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    struct model_reader *reader = user;
    const struct lq_model_tensor *found = lq_tensor_index_find(&reader->index, name);
    if (found == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "the tensor '%s' is missing", name);
    }
    *tensor = found;
    if (reader->is_gguf) {
        return read_tensor(reader, found, data, err);
    }
    char input[SOURCE_NAME_BYTES];
    (void)snprintf(input, sizeof input, "source.%zu", found->source);
    const void *file = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(reader->run, input, &file, &size_bytes, err);
    if (status == LQ_OK &&
        (found->offset > size_bytes || found->size_bytes > size_bytes - found->offset)) {
        status =
            lq_error_set(err, LQ_EFORMAT, "the tensor '%s' lies beyond the end of its file", name);
    }
    if (status == LQ_OK) {
        *data = (const unsigned char *)file + found->offset;
    }
    return status;
}

static enum lq_status open_model(struct model_reader *reader, struct lq_hparams *hparams,
                                 struct lq_error *err)
{
    struct lq_run *run = reader->run;
    reader->is_gguf = lq_run_has_input(run, "gguf");
    if (reader->is_gguf) {
        struct lq_gguf gguf = {0};
        enum lq_status status = read_header(reader, &gguf, err);
        if (status == LQ_OK) {
            status = lq_hparams_index_gguf(&gguf, lq_run_arena(run), &reader->index, err);
        }
        if (status == LQ_OK) {
            status =
                lq_hparams_read(&gguf, &reader->index, "quantized model", LQ_EFORMAT, hparams, err);
        }
        return status;
    }
    const void *json = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "tensors", &json, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(json, size_bytes, lq_run_arena(run), &reader->index, err);
    }
    return status == LQ_OK ? lq_hparams_parse(lq_run_param(run, "hparams"), hparams, err) : status;
}

/* ---- run ---- */

static void report_tokens(void *user, uint64_t done, uint64_t total)
{
    lq_run_progress(user, done, total, "token layers");
}

static enum lq_status check_vocab(const struct lq_run *run, const struct lq_hparams *hparams,
                                  struct lq_error *err)
{
    const char *text = lq_run_param(run, "vocab_size");
    unsigned long expected = text == NULL ? 0 : strtoul(text, NULL, 10);
    if (hparams->vocab_size != expected) {
        return lq_error_set(err, LQ_EFORMAT,
                            "the model has %u tokens in its vocabulary and the original %lu: they "
                            "cannot be compared on the same tokens",
                            (unsigned)hparams->vocab_size, expected);
    }
    return LQ_OK;
}

static enum lq_status measure(struct lq_run *run, struct lq_forward_run *forward_run,
                              struct model_reader *reader, const struct lq_hparams *hparams,
                              struct lq_perplexity *out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_tokens tokens;
    struct lq_forward *forward = NULL;
    enum lq_status status = lq_run_input_load(run, "tokens", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tokens_parse(data, size_bytes, "evaluation text", hparams->vocab_size,
                                 lq_run_arena(run), &tokens, err);
    }
    if (status == LQ_OK) {
        struct lq_weight_source weights = {get_weight, reader};
        struct lq_forward_env env = lq_forward_run_env(forward_run, weights, LQ_EFAIL);
        status = lq_forward_create(&forward, hparams, &env, tokens.sequence_length, err);
    }
    if (status == LQ_OK) {
        status = lq_perplexity_measure(forward, hparams, &tokens, report_tokens, run, out, err);
    }
    lq_forward_destroy(forward);
    return status;
}

static enum lq_status run_perplexity(struct lq_run *run, struct lq_error *err)
{
    struct model_reader reader = {.run = run};
    struct lq_forward_run forward_run = {0};
    struct lq_hparams hparams;
    struct lq_perplexity result;
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = open_model(&reader, &hparams, err);
    if (status == LQ_OK) {
        status = check_vocab(run, &hparams, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = measure(run, &forward_run, &reader, &hparams, &result, err);
    }
    if (status == LQ_OK) {
        lq_perplexity_format(&result, &text);
        status = text.failed ? lq_error_nomem(err, "the perplexity")
                             : lq_run_write(run, "main", text.data, text.size_bytes, err);
    }
    lq_forward_run_close(&forward_run);
    free(reader.bytes);
    lq_buffer_fini(&text);
    return status;
}

/* ---- expansion ---- */

enum lq_status lq_perplexity_hparams(struct lq_expand *expand, const struct lq_artifact *model,
                                     struct lq_hparams *out, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_ref meta_ref = lq_ref_artifact(model, "meta");
    struct lq_ref tensors_ref = lq_ref_artifact(model, "tensors");
    struct lq_tensor_index index;
    struct lq_gguf meta;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &tensors_ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &index, err);
    }
    if (status == LQ_OK) {
        status = lq_expand_read(expand, &meta_ref, &data, &size_bytes, err);
    }
    const char *where = lq_artifact_name(model);
    if (status == LQ_OK) {
        status =
            lq_gguf_parse(data, size_bytes, size_bytes, where, LQ_EMODEL, arena, &meta, NULL, err);
    }
    return status == LQ_OK ? lq_hparams_read(&meta, &index, where, LQ_EMODEL, out, err) : status;
}

/* The inputs that hold a model artifact's tensors: its index and each of its files that has any. */
static enum lq_status add_model_inputs(struct lq_expand *expand, const struct lq_artifact *model,
                                       struct lq_step_input **inputs, size_t *count,
                                       struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_ref ref = lq_ref_artifact(model, "tensors");
    struct lq_tensor_index index;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &index, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    size_t sources = lq_expand_source_count(expand, model);
    bool *used = lq_arena_get_array(arena, sources + 1, sizeof *used);
    struct lq_step_input *list = lq_arena_get_array(arena, sources + 2, sizeof *list);
    if (used == NULL || list == NULL) {
        return lq_error_nomem(err, "the inputs of a perplexity step");
    }
    list[0] = (struct lq_step_input){"tensors", ref};
    *count = 1;
    for (size_t i = 0; i < index.tensor_count; i++) {
        size_t source = index.tensors[i].source;
        if (source >= sources) {
            return lq_error_set(err, LQ_EINTERNAL, "tensor '%s' is in file %zu of %zu",
                                index.tensors[i].name, source, sources);
        }
        used[source] = true;
    }
    for (size_t i = 0; i < sources; i++) {
        if (used[i]) {
            const char *name = lq_arena_printf(arena, "source.%zu", i);
            if (name == NULL) {
                return lq_error_nomem(err, "the inputs of a perplexity step");
            }
            list[(*count)++] = (struct lq_step_input){name, lq_ref_source(model, i)};
        }
    }
    *inputs = list;
    return LQ_OK;
}

static uint64_t guess_memory(const struct lq_hparams *hparams)
{
    uint32_t context = lq_perplexity_context(hparams->context_length, 0);
    return lq_forward_memory(hparams, context, true) + ((uint64_t)1 << 28);
}

static uint64_t guess_cost(const struct lq_hparams *hparams)
{
    double params = (double)hparams->layer_count * hparams->width *
                    (4.0 * hparams->width + 3.0 * hparams->ffn_width);
    return (uint64_t)(params * 2.0 * 1e5 / OPS_PER_MICROSECOND);
}

enum lq_status lq_perplexity_add_step(struct lq_expand *expand,
                                      const struct lq_perplexity_request *request, size_t *step,
                                      struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_step_input *inputs = NULL;
    size_t count = 0;
    struct lq_step_param params[2] = {
        {"vocab_size", lq_arena_printf(arena, "%u", (unsigned)request->original->vocab_size)}};
    size_t param_count = 1;
    if (strcmp(lq_artifact_kind(request->model), "gguf") == 0) {
        inputs = lq_arena_get_array(arena, 2, sizeof *inputs);
        if (inputs == NULL) {
            return lq_error_nomem(err, "a perplexity step");
        }
        inputs[0] = (struct lq_step_input){"gguf", lq_ref_artifact(request->model, "main")};
        count = 1;
    } else {
        struct lq_hparams hparams;
        struct lq_buffer text;
        enum lq_status status = lq_perplexity_hparams(expand, request->model, &hparams, err);
        if (status == LQ_OK) {
            status = add_model_inputs(expand, request->model, &inputs, &count, err);
        }
        if (status != LQ_OK) {
            return status;
        }
        lq_buffer_init(&text);
        lq_hparams_format(&hparams, &text);
        params[param_count++] = (struct lq_step_param){
            "hparams", text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text))};
        lq_buffer_fini(&text);
    }
    if (params[0].value == NULL || params[param_count - 1].value == NULL) {
        return lq_error_nomem(err, "a perplexity step");
    }
    inputs[count++] = (struct lq_step_input){"tokens", request->tokens};
    static const struct lq_step_output outputs[] = {{"main", false}};
    struct lq_step added = {
        .op = "quality.perplexity",
        .version = STEP_VERSION,
        .label = request->label,
        .run = run_perplexity,
        .params = params,
        .param_count = param_count,
        .inputs = inputs,
        .input_count = count,
        .outputs = outputs,
        .output_count = 1,
        .parallel = true,
        .memory_bytes = guess_memory(request->original),
        .cost = guess_cost(request->original),
    };
    return lq_expand_add_step(expand, &added, step, err);
}

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/forward_run.h"
#include "rules/model/vocab.h"
#include "rules/quality/coherence.h"
#include "rules/quality/model_reader.h"
#include "rules/quality/perplexity.h"
#include "rules/quality/probe.h"

enum { STEP_VERSION = 1 };

#define ORIGINAL "original."

/* ---- texts: prompts and what is written behind them ---- */

/* `count` sequences of `sequence` tokens: a prompt, `length` tokens behind it, then padding. */
struct texts {
    struct lq_vocab *vocab;
    size_t count;
    uint32_t length;
    uint32_t sequence;
    uint32_t *prompt_counts;
    int32_t *tokens;
    double *log_probs; /* count x length: of the tokens behind the prompts, by whoever read them */
};

static void free_texts(struct texts *texts)
{
    lq_vocab_destroy(texts->vocab);
    free(texts->prompt_counts);
    free(texts->tokens);
    free(texts->log_probs);
}

static int32_t *written(const struct texts *texts, size_t index)
{
    return texts->tokens + index * texts->sequence + texts->prompt_counts[index];
}

/* Tokens of a continuation: all, or those up to and with the end of text. */
static size_t written_count(const struct texts *texts, size_t index)
{
    int32_t eos = lq_vocab_eos(texts->vocab);
    const int32_t *tokens = written(texts, index);
    size_t count = 0;
    while (count < texts->length && (count == 0 || tokens[count - 1] != eos)) {
        count++;
    }
    return count;
}

static double mean_log_prob(const struct texts *texts, size_t index)
{
    size_t count = written_count(texts, index);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += texts->log_probs[index * texts->length + i];
    }
    return sum / (double)count;
}

static enum lq_status load_vocab(struct lq_run *run, struct lq_vocab **out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_gguf gguf;
    enum lq_status status = lq_run_input_load(run, "vocab", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size_bytes, size_bytes, "vocabulary", LQ_EFORMAT,
                               lq_run_arena(run), &gguf, NULL, err);
    }
    return status == LQ_OK ? lq_vocab_load(out, &gguf, "vocabulary", err) : status;
}

static enum lq_status place_prompts(struct texts *texts, const struct lq_token_list *lists,
                                    struct lq_error *err)
{
    size_t longest = 0;
    for (size_t i = 0; i < texts->count; i++) {
        if (lists[i].count == 0) {
            return lq_error_set(err, LQ_ECALIBRATION,
                                "prompt %zu has no tokens; give every prompt some text", i + 1);
        }
        longest = lists[i].count > longest ? lists[i].count : longest;
    }
    if (longest + texts->length > LQ_SEQUENCE_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "a prompt has %zu tokens, the limit is %d",
                            longest, LQ_SEQUENCE_MAX - LQ_CONTINUATION_MAX);
    }
    texts->sequence = (uint32_t)longest + texts->length;
    texts->prompt_counts = calloc(texts->count, sizeof *texts->prompt_counts);
    texts->tokens = calloc(texts->count * texts->sequence, sizeof *texts->tokens);
    texts->log_probs = calloc(texts->count * texts->length, sizeof *texts->log_probs);
    if (texts->prompt_counts == NULL || texts->tokens == NULL || texts->log_probs == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    for (size_t i = 0; i < texts->count; i++) {
        texts->prompt_counts[i] = (uint32_t)lists[i].count;
        memcpy(texts->tokens + i * texts->sequence, lists[i].ids,
               lists[i].count * sizeof *lists[i].ids);
    }
    return LQ_OK;
}

/* A prompt; the bytes belong to whoever listed them. */
struct prompt {
    const char *text;
    size_t length;
};

/* The lines of a text that are not empty: at most LQ_PROMPTS_MAX + 1 of them go to `out`, which may
 * be NULL; returns their number. */
static size_t split_lines(const char *data, uint64_t size_bytes, struct prompt *out)
{
    size_t count = 0;
    for (uint64_t at = 0; at < size_bytes && count <= LQ_PROMPTS_MAX; at++) {
        const char *end = memchr(data + at, '\n', (size_t)(size_bytes - at));
        size_t length = end == NULL ? (size_t)(size_bytes - at) : (size_t)(end - (data + at));
        size_t kept = length > 0 && data[at + length - 1] == '\r' ? length - 1 : length;
        if (kept > 0 && out != NULL) {
            out[count] = (struct prompt){data + at, kept};
        }
        count += kept > 0;
        at += length;
    }
    return count;
}

static enum lq_status read_lines(struct lq_run *run, struct prompt **out, size_t *count,
                                 struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "prompts", &data, &size_bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    *count = split_lines(data, size_bytes, NULL);
    if (*count == 0 || *count > LQ_PROMPTS_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "the text of the prompts has %s lines that are not empty, expected 1 "
                            "to %d",
                            *count == 0 ? "no" : "too many", LQ_PROMPTS_MAX);
    }
    *out = lq_arena_get_array(lq_run_arena(run), *count, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    (void)split_lines(data, size_bytes, *out);
    return LQ_OK;
}

static enum lq_status read_list(struct lq_run *run, struct prompt **out, size_t *count,
                                struct lq_error *err)
{
    const char *prompts = lq_run_param(run, "prompts");
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(prompts, strlen(prompts), "prompts", LQ_EINTERNAL, &root, err);
    if (status != LQ_OK) {
        return status;
    }
    *count = (size_t)cJSON_GetArraySize(root);
    *out = lq_arena_get_array(lq_run_arena(run), *count + 1, sizeof **out);
    const cJSON *item = root->child;
    for (size_t i = 0; *out != NULL && i < *count; i++, item = item->next) {
        (*out)[i].length = strlen(item->valuestring);
        (*out)[i].text = lq_arena_dup_string(lq_run_arena(run), item->valuestring);
        *out = (*out)[i].text == NULL ? NULL : *out;
    }
    cJSON_Delete(root);
    return *out == NULL ? lq_error_nomem(err, "prompts") : LQ_OK;
}

/* Out of the input "prompts" (a line for each) or the parameter "prompts" (a JSON list), the
 * parameter "length", and the input "vocab". */
static enum lq_status load_texts(struct lq_run *run, struct texts *texts, struct lq_error *err)
{
    struct prompt *prompts = NULL;
    enum lq_status status = load_vocab(run, &texts->vocab, err);
    if (status == LQ_OK) {
        status = lq_run_has_input(run, "prompts") ? read_lines(run, &prompts, &texts->count, err)
                                                  : read_list(run, &prompts, &texts->count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    texts->length = (uint32_t)strtoul(lq_run_param(run, "length"), NULL, 10);
    struct lq_token_list *lists = calloc(texts->count, sizeof *lists);
    status = lists == NULL ? lq_error_nomem(err, "prompts") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < texts->count; i++) {
        status = lq_tokenize(texts->vocab, prompts[i].text, prompts[i].length, true, false,
                             &lists[i], err);
        /* What is continued must not end. */
        if (status == LQ_OK && lq_vocab_adds_eos(texts->vocab) && lists[i].count > 0) {
            lists[i].count--;
        }
    }
    if (status == LQ_OK) {
        status = place_prompts(texts, lists, err);
    }
    for (size_t i = 0; lists != NULL && i < texts->count; i++) {
        lq_token_list_fini(&lists[i]);
    }
    free(lists);
    return status;
}

static void format_texts(const struct texts *texts, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "tokens");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < texts->count; i++) {
        for (size_t k = 0; k < texts->length; k++) {
            lq_json_int(&writer, written(texts, i)[k]);
        }
    }
    lq_json_end_array(&writer);
    lq_json_key(&writer, "log_probs");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < texts->count * texts->length; i++) {
        lq_json_number(&writer, texts->log_probs[i]);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

/* What format_texts wrote for the same prompts. */
static enum lq_status load_written(struct lq_run *run, struct texts *texts, struct lq_error *err)
{
    static const struct lq_json_scope scope = {"continuations", LQ_EFORMAT};
    const void *data = NULL;
    uint64_t size_bytes = 0;
    cJSON *root = NULL;
    const cJSON *tokens = NULL;
    const cJSON *log_probs = NULL;
    enum lq_status status = lq_run_input_load(run, "reference", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, root, "tokens", &tokens, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, root, "log_probs", &log_probs, NULL, err);
    }
    size_t total = texts->count * texts->length;
    if (status == LQ_OK && ((size_t)cJSON_GetArraySize(tokens) != total ||
                            (size_t)cJSON_GetArraySize(log_probs) != total)) {
        status = lq_error_set(err, scope.status, "continuations: other lengths than expected");
    }
    const cJSON *token = status == LQ_OK ? tokens->child : NULL;
    const cJSON *log_prob = status == LQ_OK ? log_probs->child : NULL;
    for (size_t i = 0; status == LQ_OK && i < total; i++) {
        written(texts, i / texts->length)[i % texts->length] = token->valueint;
        texts->log_probs[i] = log_prob->valuedouble;
        token = token->next;
        log_prob = log_prob->next;
    }
    cJSON_Delete(root);
    return status;
}

/* ---- a model reads and writes ---- */

struct pen {
    struct lq_run *run;
    struct lq_model_reader *reader;
    struct lq_forward *forward;
    struct lq_probe *probes;
    struct lq_probe_result *results;
};

static enum lq_status open_pen(struct pen *pen, struct lq_run *run, struct lq_model_reader *reader,
                               const struct lq_forward_run *forward_run, const struct texts *texts,
                               struct lq_error *err)
{
    size_t total = texts->count * texts->length;
    struct lq_forward_env env =
        lq_forward_run_env(forward_run, lq_model_reader_weights(reader), LQ_EFAIL);
    *pen = (struct pen){.run = run, .reader = reader};
    env.only_products = true;
    if (reader->hparams.vocab_size < lq_vocab_size(texts->vocab)) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "the model has %u tokens in its vocabulary and the original's tokenizer "
            "%zu: it cannot read the same text",
            (unsigned)reader->hparams.vocab_size, lq_vocab_size(texts->vocab));
    }
    pen->probes = calloc(total, sizeof *pen->probes);
    pen->results = calloc(total, sizeof *pen->results);
    if (pen->probes == NULL || pen->results == NULL) {
        return lq_error_nomem(err, "continuations");
    }
    return lq_forward_create(&pen->forward, &reader->hparams, &env, texts->sequence, err);
}

static void close_pen(struct pen *pen)
{
    lq_forward_destroy(pen->forward);
    free(pen->probes);
    free(pen->results);
}

/* One pass over all texts: log-probabilities of what is written, and in `results` what the model
 * would write in each place. */
static enum lq_status read_texts(struct pen *pen, struct texts *texts, struct lq_error *err)
{
    size_t total = texts->count * texts->length;
    for (size_t i = 0; i < total; i++) {
        size_t text = i / texts->length;
        size_t place = i % texts->length;
        if ((uint32_t)written(texts, text)[place] >= pen->reader->hparams.vocab_size) {
            return lq_error_set(err, LQ_EFORMAT,
                                "a continuation has token %d, and the model that reads it knows %u",
                                (int)written(texts, text)[place],
                                (unsigned)pen->reader->hparams.vocab_size);
        }
        pen->probes[i] = (struct lq_probe){
            .sample = text,
            .position = texts->prompt_counts[text] + (uint32_t)place - 1,
            .target = written(texts, text)[place],
        };
    }
    enum lq_status status =
        lq_probe_run(pen->forward, &pen->reader->hparams, lq_run_pool(pen->run), texts->tokens,
                     texts->count, texts->sequence, pen->probes, total, pen->results, err);
    for (size_t i = 0; status == LQ_OK && i < total; i++) {
        texts->log_probs[i] = pen->results[i].log_prob;
    }
    return status;
}

/* Replaces what is written behind the prompts, a guess, by what the model writes. */
static enum lq_status write_texts(struct pen *pen, struct texts *texts, struct lq_error *err)
{
    for (uint32_t pass = 0; pass <= texts->length; pass++) {
        bool changed = false;
        enum lq_status status = read_texts(pen, texts, err);
        if (status != LQ_OK) {
            return status;
        }
        for (size_t i = 0; i < texts->count * texts->length; i++) {
            int32_t *token = &written(texts, i / texts->length)[i % texts->length];
            changed = changed || *token != pen->results[i].top;
            *token = pen->results[i].top;
        }
        lq_run_progress(pen->run, pass + 1, texts->length + 1, "passes");
        if (!changed) {
            return LQ_OK;
        }
    }
    return lq_error_set(err, LQ_EINTERNAL, "continuations do not settle");
}

/* ---- the original ---- */

static enum lq_status write_output(struct lq_run *run, const struct lq_buffer *out,
                                   struct lq_error *err)
{
    return out->failed ? lq_error_nomem(err, "continuations")
                       : lq_run_write(run, "main", out->data, out->size_bytes, err);
}

static enum lq_status run_continue(struct lq_run *run, struct lq_error *err)
{
    struct texts texts = {.vocab = NULL};
    struct lq_model_reader reader = {.bytes = NULL};
    struct lq_forward_run forward_run = {0};
    struct pen pen = {.run = run};
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = load_texts(run, &texts, err);
    if (status == LQ_OK) {
        status = lq_model_reader_open(&reader, run, "", err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = open_pen(&pen, run, &reader, &forward_run, &texts, err);
    }
    if (status == LQ_OK) {
        status = write_texts(&pen, &texts, err);
    }
    if (status == LQ_OK) {
        format_texts(&texts, &out);
        status = write_output(run, &out, err);
    }
    close_pen(&pen);
    lq_forward_run_close(&forward_run);
    lq_model_reader_close(&reader);
    free_texts(&texts);
    lq_buffer_fini(&out);
    return status;
}

/* ---- a model against it ---- */

static void put_text(struct lq_json_writer *writer, const char *key, const struct texts *texts,
                     size_t index)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < written_count(texts, index); i++) {
        size_t length = 0;
        const char *piece = lq_vocab_piece(texts->vocab, written(texts, index)[i], &length);
        lq_buffer_append(&text, piece == NULL ? "" : piece, piece == NULL ? 0 : length);
    }
    lq_json_key(writer, key);
    lq_json_string_sized(writer, lq_buffer_text(&text), text.size_bytes);
    lq_buffer_fini(&text);
}

static void put_scores(struct lq_json_writer *writer, const struct lq_coherence *coherence)
{
    lq_json_put_number(writer, "score", coherence->score);
    lq_json_put_number(writer, "likelihood", coherence->likelihood);
    lq_json_put_number(writer, "repetition", coherence->repetition);
    lq_json_put_number(writer, "agreement", coherence->agreement);
}

static void judge_texts(const struct texts *texts, const struct texts *original,
                        struct lq_buffer *out)
{
    struct lq_coherence mean = {0};
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "prompts");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < texts->count; i++) {
        struct lq_coherence one;
        lq_coherence_judge(written(texts, i), written_count(texts, i), mean_log_prob(texts, i),
                           written(original, i), written_count(original, i),
                           mean_log_prob(original, i), &one);
        mean.score += one.score / (double)texts->count;
        mean.likelihood += one.likelihood / (double)texts->count;
        mean.repetition += one.repetition / (double)texts->count;
        mean.agreement += one.agreement / (double)texts->count;
        lq_json_begin_object(&writer);
        put_scores(&writer, &one);
        put_text(&writer, "original", original, i);
        put_text(&writer, "model", texts, i);
        lq_json_end_object(&writer);
    }
    lq_json_end_array(&writer);
    /* Sums of shares may end a bit above the whole. */
    mean.score = fmin(1.0, mean.score);
    mean.likelihood = fmin(1.0, mean.likelihood);
    mean.repetition = fmin(1.0, mean.repetition);
    mean.agreement = fmin(1.0, mean.agreement);
    put_scores(&writer, &mean);
    lq_json_end_object(&writer);
}

/* Opens the model `prefix`, and lets it write, or read when `only_read`. */
static enum lq_status use_model(struct lq_run *run, const char *prefix,
                                const struct lq_forward_run *forward_run, bool only_read,
                                struct texts *texts, struct lq_error *err)
{
    struct lq_model_reader reader = {.bytes = NULL};
    struct pen pen = {.run = run};
    enum lq_status status = lq_model_reader_open(&reader, run, prefix, err);
    if (status == LQ_OK) {
        status = open_pen(&pen, run, &reader, forward_run, texts, err);
    }
    if (status == LQ_OK) {
        status = only_read ? read_texts(&pen, texts, err) : write_texts(&pen, texts, err);
    }
    close_pen(&pen);
    lq_model_reader_close(&reader);
    return status;
}

static enum lq_status run_coherence(struct lq_run *run, struct lq_error *err)
{
    struct texts texts = {.vocab = NULL};
    struct texts original = {.vocab = NULL};
    struct lq_forward_run forward_run = {0};
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = load_texts(run, &texts, err);
    if (status == LQ_OK) {
        status = load_texts(run, &original, err);
    }
    if (status == LQ_OK) {
        status = load_written(run, &original, err);
    }
    if (status == LQ_OK) {
        /* A good model writes what the original wrote: that is the guess. */
        memcpy(texts.tokens, original.tokens, texts.count * texts.sequence * sizeof *texts.tokens);
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = use_model(run, "", &forward_run, false, &texts, err);
    }
    if (status == LQ_OK) {
        status = use_model(run, ORIGINAL, &forward_run, true, &texts, err);
    }
    if (status == LQ_OK) {
        judge_texts(&texts, &original, &out);
        status = write_output(run, &out, err);
    }
    lq_forward_run_close(&forward_run);
    free_texts(&original);
    free_texts(&texts);
    lq_buffer_fini(&out);
    return status;
}

/* ---- expansion ---- */

static const char *list_prompts(const struct lq_coherence_request *request, struct lq_arena *arena)
{
    struct lq_buffer text;
    struct lq_json_writer writer;
    lq_buffer_init(&text);
    lq_json_writer_init(&writer, &text, false);
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < request->prompt_count; i++) {
        lq_json_string(&writer, request->prompts[i]);
    }
    lq_json_end_array(&writer);
    const char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static enum lq_status begin_step(struct lq_expand *expand,
                                 const struct lq_coherence_request *request,
                                 const struct lq_artifact *const *models, size_t model_count,
                                 struct lq_model_inputs *inputs, struct lq_error *err)
{
    static const char *const prefixes[] = {"", ORIGINAL};
    struct lq_arena *arena = lq_expand_arena(expand);
    enum lq_status status = lq_model_inputs_init(inputs, expand, models, model_count, 4, err);
    for (size_t i = 0; status == LQ_OK && i < model_count; i++) {
        status = lq_model_inputs_add(inputs, expand, models[i], prefixes[i], err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const char *prompts = request->text != NULL ? "" : list_prompts(request, arena);
    const char *length = lq_arena_printf(arena, "%u", (unsigned)request->length);
    if (prompts == NULL || length == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    if (request->text != NULL) {
        lq_model_inputs_put(inputs, "prompts", lq_ref_artifact(request->text, "main"));
    } else {
        lq_model_inputs_set(inputs, "prompts", prompts);
    }
    lq_model_inputs_set(inputs, "length", length);
    lq_model_inputs_put(inputs, "vocab", lq_ref_artifact(request->original, "vocab"));
    return LQ_OK;
}

static enum lq_status end_step(struct lq_expand *expand, const struct lq_model_inputs *inputs,
                               const struct lq_coherence_request *request, const char *op,
                               const struct lq_artifact *model, lq_run_fn run, size_t *step,
                               struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    struct lq_hparams hparams;
    enum lq_status status = lq_perplexity_hparams(expand, request->original, &hparams, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_step added = {.op = op,
                            .version = STEP_VERSION,
                            .label = lq_artifact_name(model),
                            .run = run,
                            .params = inputs->params,
                            .param_count = inputs->param_count,
                            .inputs = inputs->inputs,
                            .input_count = inputs->input_count,
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .parallel = true,
                            .memory_bytes = lq_forward_memory(&hparams, request->length + 64, true),
                            .cost = 1000000};
    return lq_expand_add_step(expand, &added, step, err);
}

enum lq_status lq_coherence_add_reference(struct lq_expand *expand,
                                          const struct lq_coherence_request *request, size_t *step,
                                          struct lq_error *err)
{
    struct lq_model_inputs inputs;
    enum lq_status status = begin_step(expand, request, &request->original, 1, &inputs, err);
    return status == LQ_OK ? end_step(expand, &inputs, request, "quality.continue",
                                      request->original, run_continue, step, err)
                           : status;
}

enum lq_status lq_coherence_add_step(struct lq_expand *expand,
                                     const struct lq_coherence_request *request,
                                     const struct lq_artifact *model, size_t reference,
                                     size_t *step, struct lq_error *err)
{
    const struct lq_artifact *models[] = {model, request->original};
    struct lq_model_inputs inputs;
    enum lq_status status = begin_step(expand, request, models, 2, &inputs, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_put(&inputs, "reference", lq_ref_step(reference, "main"));
    return end_step(expand, &inputs, request, "quality.coherence", model, run_coherence, step, err);
}

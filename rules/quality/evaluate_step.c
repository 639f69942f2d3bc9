#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "rules/format/gguf.h"
#include "rules/format/logits_file.h"
#include "rules/model/forward_run.h"
#include "rules/quality/evaluate.h"
#include "rules/quality/model_reader.h"

enum {
    REFERENCE_VERSION = 1,
    COMPARE_VERSION = 1,
    TILE_ROWS_MIN = 16,
    TILE_BYTES_MAX = 32 * 1024 * 1024, /* of one model's logits */
};

#define ORIGINAL "original."
/* Guess for a first estimate of time: float operations a microsecond of a small machine. */
#define OPS_PER_MICROSECOND 50000.0

/* ---- what both steps share ---- */

static void report_tokens(void *user, uint64_t done, uint64_t total)
{
    lq_run_progress(user, done, total, "tokens");
}

static enum lq_status load_tokens(struct lq_run *run, uint32_t vocab_size, struct lq_tokens *tokens,
                                  struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "tokens", &data, &size_bytes, err);
    return status == LQ_OK ? lq_tokens_parse(data, size_bytes, "evaluation text", vocab_size,
                                             lq_run_arena(run), tokens, err)
                           : status;
}

static enum lq_status make_forward(struct lq_model_reader *reader,
                                   const struct lq_forward_run *forward_run, uint32_t sequence,
                                   struct lq_forward **out, struct lq_error *err)
{
    struct lq_forward_env env =
        lq_forward_run_env(forward_run, lq_model_reader_weights(reader), LQ_EFAIL);
    return lq_forward_create(out, &reader->hparams, &env, sequence, err);
}

/* Positions of the first batch whose hidden states are kept: every `stride`-th of `rows`. */
struct kept {
    size_t samples;
    size_t rows;
    size_t stride;
};

static struct kept kept_rows(const struct lq_forward *forward, const struct lq_tokens *tokens)
{
    struct kept kept = {.samples = lq_forward_batch_samples(forward)};
    if (kept.samples > tokens->sample_count) {
        kept.samples = tokens->sample_count;
    }
    size_t rows = kept.samples * tokens->sequence_length;
    kept.stride = (rows + LQ_HIDDEN_ROWS_MAX - 1) / LQ_HIDDEN_ROWS_MAX;
    kept.rows = (rows + kept.stride - 1) / kept.stride;
    return kept;
}

static enum lq_status write_text(struct lq_run *run, const struct lq_buffer *text,
                                 struct lq_error *err)
{
    return text->failed ? lq_error_nomem(err, "the evaluation")
                        : lq_run_write(run, "main", text->data, text->size_bytes, err);
}

/* ---- the original ---- */

struct reference {
    struct lq_run *run;
    struct lq_forward *forward;
    size_t width;
    struct kept kept;
};

static void reference_report(void *user, uint64_t done, uint64_t total)
{
    report_tokens(((struct reference *)user)->run, done, total);
}

static enum lq_status reference_layer(void *user, uint32_t layer, size_t first_sample,
                                      size_t samples, const float *hidden, struct lq_error *err)
{
    struct reference *self = user;
    (void)layer;
    (void)samples;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; first_sample == 0 && status == LQ_OK && i < self->kept.rows; i++) {
        status = lq_run_write(self->run, "layers", hidden + i * self->kept.stride * self->width,
                              self->width * sizeof *hidden, err);
    }
    return status;
}

static enum lq_status reference_score(void *user, size_t first_row, size_t rows,
                                      const float *hidden, const int32_t *targets, double *nll,
                                      struct lq_error *err)
{
    struct reference *self = user;
    (void)first_row;
    enum lq_status status =
        lq_run_write(self->run, "hidden", hidden, rows * self->width * sizeof *hidden, err);
    return status == LQ_OK ? lq_forward_score(self->forward, hidden, targets, rows, nll, err)
                           : status;
}

static enum lq_status measure_reference(struct lq_run *run, struct lq_model_reader *reader,
                                        const struct lq_forward_run *forward_run,
                                        struct lq_perplexity *out, struct lq_error *err)
{
    struct lq_tokens tokens;
    struct reference self = {.run = run, .width = reader->hparams.width};
    struct lq_perplexity_hooks hooks = {reference_report, reference_layer, reference_score, &self};
    enum lq_status status = load_tokens(run, reader->hparams.vocab_size, &tokens, err);
    if (status == LQ_OK) {
        status = make_forward(reader, forward_run, tokens.sequence_length, &self.forward, err);
    }
    if (status == LQ_OK) {
        self.kept = kept_rows(self.forward, &tokens);
        status = lq_perplexity_measure(self.forward, &reader->hparams, &tokens, &hooks, out, err);
    }
    lq_forward_destroy(self.forward);
    return status;
}

static enum lq_status run_reference(struct lq_run *run, struct lq_error *err)
{
    struct lq_model_reader reader;
    struct lq_forward_run forward_run = {0};
    struct lq_perplexity result;
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_model_reader_open(&reader, run, "", err);
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = measure_reference(run, &reader, &forward_run, &result, err);
    }
    if (status == LQ_OK) {
        lq_perplexity_format(&result, &text);
        status = write_text(run, &text, err);
    }
    lq_forward_run_close(&forward_run);
    lq_model_reader_close(&reader);
    lq_buffer_fini(&text);
    return status;
}

/* ---- a model against it ---- */

struct comparison {
    struct lq_run *run;
    const struct lq_forward_run *forward_run;
    struct lq_model_reader *reader;
    struct lq_model_reader *original_reader;
    struct lq_forward *forward;
    struct lq_forward *original; /* only while logits are made: its scratch is not needed before */
    uint32_t sequence;
    struct kept kept;
    struct lq_divergence_row *rows; /* all scored positions */
    double *hidden_errors;          /* NULL: the layers cannot be compared */
    float *hidden;                  /* of the original: rows of a tile, or one kept row */
    float *original_logits;
    float *logits;
    size_t tile_rows;
    bool has_file; /* divergence is measured against a base logits file */
    struct lq_logits_header file;
    unsigned char *file_rows; /* of a tile */
};

static void compare_report(void *user, uint64_t done, uint64_t total)
{
    report_tokens(((struct comparison *)user)->run, done, total);
}

static enum lq_status compare_layer(void *user, uint32_t layer, size_t first_sample, size_t samples,
                                    const float *hidden, struct lq_error *err)
{
    struct comparison *self = user;
    size_t width = self->reader->hparams.width;
    double difference = 0.0;
    double signal = 0.0;
    (void)samples;
    lq_forward_destroy(self->original);
    self->original = NULL;
    if (first_sample != 0 || self->hidden_errors == NULL) {
        return LQ_OK;
    }
    for (size_t i = 0; i < self->kept.rows; i++) {
        uint64_t row = (uint64_t)layer * self->kept.rows + i;
        enum lq_status status = lq_run_input_read(self->run, "layers", row * width * sizeof *hidden,
                                                  self->hidden, width * sizeof *hidden, err);
        if (status != LQ_OK) {
            return status;
        }
        const float *mine = hidden + i * self->kept.stride * width;
        for (size_t k = 0; k < width; k++) {
            double d = (double)mine[k] - (double)self->hidden[k];
            difference += d * d;
            signal += (double)self->hidden[k] * (double)self->hidden[k];
        }
    }
    self->hidden_errors[layer] = signal > 0.0 ? sqrt(difference / signal) : (double)NAN;
    return LQ_OK;
}

struct tile {
    struct comparison *self;
    const int32_t *targets;
    struct lq_divergence_row *rows;
};

static void compare_row(void *user, size_t index)
{
    struct tile *tile = user;
    size_t vocab = tile->self->reader->hparams.vocab_size;
    if (tile->self->has_file) {
        lq_divergence_of_log_probs(tile->self->original_logits + index * vocab,
                                   tile->self->logits + index * vocab, vocab, tile->targets[index],
                                   &tile->rows[index]);
        return;
    }
    lq_divergence_of_logits(tile->self->original_logits + index * vocab,
                            tile->self->logits + index * vocab, vocab, tile->targets[index],
                            &tile->rows[index]);
}

/* Logarithms of the original's probabilities out of the file. */
static enum lq_status read_tile(struct comparison *self, size_t first_row, size_t rows,
                                struct lq_error *err)
{
    const struct lq_logits_header *file = &self->file;
    enum lq_status status =
        lq_run_input_read(self->run, "logits", file->rows_offset + first_row * file->row_bytes,
                          self->file_rows, rows * (size_t)file->row_bytes, err);
    for (size_t r = 0; status == LQ_OK && r < rows; r++) {
        status =
            lq_logits_row_decode(self->file_rows + r * (size_t)file->row_bytes, file->vocab_size,
                                 self->original_logits + r * file->vocab_size, err);
    }
    return status;
}

/* The original's logits out of its hidden states. */
static enum lq_status make_tile(struct comparison *self, size_t first_row, size_t rows,
                                struct lq_error *err)
{
    uint64_t row_bytes = (uint64_t)self->original_reader->hparams.width * sizeof *self->hidden;
    enum lq_status status = lq_run_input_read(self->run, "hidden", first_row * row_bytes,
                                              self->hidden, (size_t)(rows * row_bytes), err);
    return status == LQ_OK
               ? lq_forward_logits(self->original, self->hidden, rows, self->original_logits, err)
               : status;
}

static enum lq_status compare_tile(struct comparison *self, size_t first_row, size_t rows,
                                   const float *hidden, const int32_t *targets,
                                   struct lq_error *err)
{
    struct tile tile = {self, targets, self->rows + first_row};
    enum lq_status status = self->has_file ? read_tile(self, first_row, rows, err)
                                           : make_tile(self, first_row, rows, err);
    if (status == LQ_OK) {
        status = lq_forward_logits(self->forward, hidden, rows, self->logits, err);
    }
    if (status == LQ_OK) {
        lq_pool_for(lq_run_pool(self->run), rows, compare_row, &tile);
    }
    return status;
}

static enum lq_status compare_score(void *user, size_t first_row, size_t rows, const float *hidden,
                                    const int32_t *targets, double *nll, struct lq_error *err)
{
    struct comparison *self = user;
    size_t width = self->reader->hparams.width;
    enum lq_status status = LQ_OK;
    if (self->original == NULL && !self->has_file) {
        status = make_forward(self->original_reader, self->forward_run, self->sequence,
                              &self->original, err);
        if (status == LQ_OK) {
            status = lq_forward_load_output(self->original, err);
        }
    }
    for (size_t r = 0; status == LQ_OK && r < rows; r += self->tile_rows) {
        size_t count = rows - r < self->tile_rows ? rows - r : self->tile_rows;
        status = compare_tile(self, first_row + r, count, hidden + r * width, targets + r, err);
    }
    for (size_t r = 0; status == LQ_OK && r < rows; r++) {
        /* Either model's NaN shows in the divergence. */
        nll[r] =
            isfinite(self->rows[first_row + r].kld) ? self->rows[first_row + r].nll : (double)NAN;
    }
    return status;
}

/* The base logits file, if there is one. */
static enum lq_status open_file(struct comparison *self, const struct lq_tokens *tokens,
                                struct lq_error *err)
{
    unsigned char bytes[LQ_LOGITS_HEADER_BYTES] = {0};
    self->has_file = lq_run_has_input(self->run, "logits");
    if (!self->has_file) {
        return LQ_OK;
    }
    uint64_t file_bytes = lq_run_input_size(self->run, "logits");
    size_t size_bytes = file_bytes < sizeof bytes ? (size_t)file_bytes : sizeof bytes;
    enum lq_status status = lq_run_input_read(self->run, "logits", 0, bytes, size_bytes, err);
    if (status == LQ_OK) {
        status = lq_logits_header_read(bytes, size_bytes, file_bytes, "base logits file",
                                       &self->file, err);
    }
    if (status == LQ_OK && (self->file.vocab_size != self->reader->hparams.vocab_size ||
                            self->file.context != tokens->sequence_length ||
                            self->file.chunk_count != tokens->sample_count)) {
        status = lq_error_set(err, LQ_EFORMAT,
                              "the base logits file is of a vocabulary of %u tokens, the model has "
                              "%u: they cannot be compared",
                              (unsigned)self->file.vocab_size,
                              (unsigned)self->reader->hparams.vocab_size);
    }
    return status;
}

static enum lq_status get_memory(struct comparison *self, const struct lq_tokens *tokens,
                                 struct lq_error *err)
{
    const struct lq_hparams *hparams = &self->reader->hparams;
    const struct lq_hparams *original = &self->original_reader->hparams;
    size_t vocab = hparams->vocab_size;
    size_t scored = (size_t)tokens->sample_count * lq_perplexity_scored(tokens->sequence_length);
    size_t rows = TILE_BYTES_MAX / (vocab * sizeof *self->logits);
    self->tile_rows = rows < TILE_ROWS_MIN ? TILE_ROWS_MIN : rows;
    self->tile_rows = self->tile_rows < scored ? self->tile_rows : scored;
    self->rows = calloc(scored + 1, sizeof *self->rows);
    self->hidden = calloc(self->tile_rows + 1, original->width * sizeof *self->hidden);
    self->original_logits = calloc(self->tile_rows + 1, vocab * sizeof *self->original_logits);
    self->logits = calloc(self->tile_rows + 1, vocab * sizeof *self->logits);
    if (self->has_file) {
        self->file_rows = calloc(self->tile_rows + 1, (size_t)self->file.row_bytes);
        if (self->file_rows == NULL) {
            return lq_error_nomem(err, "a comparison of models");
        }
    }
    bool has_layers =
        original->layer_count == hparams->layer_count && original->width == hparams->width;
    self->hidden_errors =
        has_layers ? calloc(hparams->layer_count + 1, sizeof *self->hidden_errors) : NULL;
    bool failed = self->rows == NULL || self->hidden == NULL || self->original_logits == NULL ||
                  self->logits == NULL || (has_layers && self->hidden_errors == NULL);
    return failed ? lq_error_nomem(err, "a comparison of models") : LQ_OK;
}

static enum lq_status compare_models(struct comparison *self, struct lq_buffer *text,
                                     struct lq_error *err)
{
    const struct lq_hparams *hparams = &self->reader->hparams;
    struct lq_tokens tokens;
    struct lq_evaluation result = {.hidden_errors = NULL};
    struct lq_perplexity_hooks hooks = {compare_report, compare_layer, compare_score, self};
    enum lq_status status = load_tokens(self->run, hparams->vocab_size, &tokens, err);
    if (status == LQ_OK) {
        status = open_file(self, &tokens, err);
    }
    if (status == LQ_OK) {
        self->sequence = tokens.sequence_length;
        status = get_memory(self, &tokens, err);
    }
    if (status == LQ_OK) {
        status = make_forward(self->reader, self->forward_run, self->sequence, &self->forward, err);
    }
    if (status == LQ_OK) {
        self->kept = kept_rows(self->forward, &tokens);
        status =
            lq_perplexity_measure(self->forward, hparams, &tokens, &hooks, &result.perplexity, err);
    }
    if (status == LQ_OK) {
        status = lq_divergence_make(self->rows, (size_t)result.perplexity.tokens,
                                    &result.divergence, err);
    }
    if (status == LQ_OK) {
        result.hidden_errors = self->hidden_errors;
        result.layer_count = self->hidden_errors == NULL ? 0 : hparams->layer_count;
        lq_evaluation_format(&result, text);
    }
    lq_forward_destroy(self->original);
    lq_forward_destroy(self->forward);
    return status;
}

static enum lq_status check_vocab(const struct lq_hparams *hparams,
                                  const struct lq_hparams *original, struct lq_error *err)
{
    if (hparams->vocab_size != original->vocab_size) {
        return lq_error_set(err, LQ_EFORMAT,
                            "the model has %u tokens in its vocabulary and the original %u: they "
                            "cannot be compared on the same tokens",
                            (unsigned)hparams->vocab_size, (unsigned)original->vocab_size);
    }
    return LQ_OK;
}

static enum lq_status run_compare(struct lq_run *run, struct lq_error *err)
{
    struct lq_model_reader reader = {.bytes = NULL};
    struct lq_model_reader original = {.bytes = NULL};
    struct lq_forward_run forward_run = {0};
    struct comparison self = {
        .run = run, .forward_run = &forward_run, .reader = &reader, .original_reader = &original};
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_model_reader_open(&reader, run, "", err);
    if (status == LQ_OK) {
        status = lq_model_reader_open(&original, run, ORIGINAL, err);
    }
    if (status == LQ_OK) {
        status = check_vocab(&reader.hparams, &original.hparams, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = compare_models(&self, &text, err);
    }
    if (status == LQ_OK) {
        status = write_text(run, &text, err);
    }
    free(self.rows);
    free(self.hidden_errors);
    free(self.hidden);
    free(self.original_logits);
    free(self.logits);
    free(self.file_rows);
    lq_forward_run_close(&forward_run);
    lq_model_reader_close(&original);
    lq_model_reader_close(&reader);
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

static enum lq_status add_step(struct lq_expand *expand, const struct lq_model_inputs *from,
                               struct lq_step *step, size_t *index, struct lq_error *err)
{
    step->inputs = from->inputs;
    step->input_count = from->input_count;
    step->params = from->params;
    step->param_count = from->param_count;
    step->parallel = true;
    return lq_expand_add_step(expand, step, index, err);
}

enum lq_status lq_evaluate_add_reference(struct lq_expand *expand, const struct lq_artifact *model,
                                         struct lq_ref tokens, size_t *step, struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {
        {"main", false}, {"hidden", true}, {"layers", true}};
    struct lq_model_inputs inputs;
    struct lq_hparams hparams;
    enum lq_status status = lq_perplexity_hparams(expand, model, &hparams, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_init(&inputs, expand, &model, 1, 1, err);
    }
    if (status == LQ_OK) {
        status = lq_model_inputs_add(&inputs, expand, model, "", err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_put(&inputs, "tokens", tokens);
    struct lq_step added = {.op = "quality.reference",
                            .version = REFERENCE_VERSION,
                            .label = lq_artifact_name(model),
                            .run = run_reference,
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .memory_bytes = guess_memory(&hparams),
                            .cost = guess_cost(&hparams)};
    return add_step(expand, &inputs, &added, step, err);
}

enum lq_status lq_evaluate_add_step(struct lq_expand *expand,
                                    const struct lq_evaluate_request *request, size_t *step,
                                    struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    const struct lq_artifact *models[] = {request->model, request->original};
    struct lq_model_inputs inputs;
    enum lq_status status = lq_model_inputs_init(&inputs, expand, models, 2, 4, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_add(&inputs, expand, request->model, "", err);
    }
    if (status == LQ_OK) {
        status = lq_model_inputs_add(&inputs, expand, request->original, ORIGINAL, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_put(&inputs, "tokens", request->tokens);
    lq_model_inputs_put(&inputs, "hidden", lq_ref_step(request->reference, "hidden"));
    lq_model_inputs_put(&inputs, "layers", lq_ref_step(request->reference, "layers"));
    if (request->logits != NULL) {
        lq_model_inputs_put(&inputs, "logits", lq_ref_artifact(request->logits, "main"));
    }
    struct lq_step added = {.op = "quality.compare",
                            .version = COMPARE_VERSION,
                            .label = lq_artifact_name(request->model),
                            .run = run_compare,
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .memory_bytes = guess_memory(request->hparams),
                            .cost = guess_cost(request->hparams)};
    return add_step(expand, &inputs, &added, step, err);
}

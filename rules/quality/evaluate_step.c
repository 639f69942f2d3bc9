#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "rules/format/gguf.h"
#include "rules/format/logits_file.h"
#include "rules/model/tensor_ref.h"
#include "rules/quality/evaluate.h"

enum {
    PERPLEXITY_VERSION = 2,
    COMPARE_VERSION = 2,
    TILE_ROWS_MIN = 16,
    TILE_BYTES_MAX = 32 * 1024 * 1024, /* of one model's logits */
    KEPT_PIECE_VALUES = 64 * 1024,
};

#define ORIGINAL "original."

/* ---- perplexity ---- */

/* Follows from the parameters of the step. */
struct perplexity_state {
    struct lq_model_part part;
    const char *model; /* its name, for messages */
};

/* Says of which of the models a report looks at. */
static enum lq_status name_model(enum lq_status status, const char *model, struct lq_error *err)
{
    return status == LQ_OK || status == LQ_ECANCELLED ? status
                                                      : lq_error_prefix(err, "model '%s'", model);
}

static enum lq_status write_text(struct lq_run *run, const struct lq_buffer *text,
                                 struct lq_error *err)
{
    return text->failed ? lq_error_nomem(err, "the evaluation")
                        : lq_run_write(run, "main", text->data, text->size_bytes, err);
}

/* Perplexity on all devices that are idle: each makes logits of batches of its own. */
struct scoring {
    struct lq_run *run;
    struct lq_forward_run forward_run;
    struct lq_pass_end ends[LQ_TEAM_MAX];
    size_t lanes;
};

static enum lq_status end_read(void *user, size_t first_sample, size_t samples, float *rows,
                               struct lq_error *err)
{
    return lq_pass_end_read(&((struct scoring *)user)->ends[0], first_sample, samples, rows, err);
}

static enum lq_status end_score(void *user, size_t lane, size_t first_row, size_t rows,
                                const float *hidden, const int32_t *targets, double *nll,
                                struct lq_error *err)
{
    struct scoring *self = user;
    (void)first_row;
    return lq_forward_score(self->ends[lane].forward, hidden, targets, rows, nll, err);
}

static void end_report(void *user, uint64_t done, uint64_t total)
{
    lq_run_progress(((struct scoring *)user)->run, done, total, "tokens");
}

/* As many devices as there are batches to score. */
static size_t take_lanes(struct lq_forward_run *forward_run, const struct lq_tokens *tokens)
{
    return lq_device_team_take(forward_run, tokens->sample_count,
                               lq_perplexity_batch_samples(tokens), LQ_TEAM_MAX);
}

static enum lq_status score_text(struct scoring *self, const struct lq_model_part *part,
                                 struct lq_perplexity *result, struct lq_error *err)
{
    struct lq_tokens tokens;
    enum lq_status status = lq_pass_load_tokens(self->run, part->hparams.vocab_size, &tokens, err);
    if (status == LQ_OK) {
        status = lq_forward_run_open(&self->forward_run, self->run, err);
    }
    if (status == LQ_OK) {
        self->lanes = take_lanes(&self->forward_run, &tokens);
    }
    for (size_t i = 0; status == LQ_OK && i < self->lanes; i++) {
        status = lq_pass_end_open(&self->ends[i], self->run, "", part, &self->forward_run, i,
                                  tokens.sequence_length, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const struct lq_perplexity_source source = {.tokens = &tokens,
                                                .width = part->hparams.width,
                                                .read = end_read,
                                                .score = end_score,
                                                .report = end_report,
                                                .user = self,
                                                .lanes = self->lanes,
                                                .pool = lq_run_pool(self->run)};
    return lq_perplexity_measure(&source, result, err);
}

static enum lq_status run_perplexity(struct lq_run *run, struct lq_error *err)
{
    const struct perplexity_state *state = lq_run_state(run);
    struct scoring self = {.run = run};
    struct lq_perplexity result;
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = score_text(&self, &state->part, &result, err);
    if (status == LQ_OK) {
        lq_perplexity_format(&result, &text);
        status = write_text(run, &text, err);
    }
    for (size_t i = 0; i < LQ_TEAM_MAX; i++) {
        lq_pass_end_close(&self.ends[i]);
    }
    lq_forward_run_close(&self.forward_run);
    lq_buffer_fini(&text);
    return name_model(status, state->model, err);
}

/* ---- a model against the original ---- */

/* Follows from the parameters of the step. */
struct compare_state {
    struct lq_model_part part;
    const char *model; /* its name, for messages */
    struct lq_model_part original;
    bool has_layers; /* layers can be compared */
};

struct comparison {
    struct lq_run *run;
    const struct compare_state *state;
    struct lq_forward_run forward_run;
    struct lq_pass_end ends[LQ_TEAM_MAX];      /* one for each device */
    struct lq_pass_end originals[LQ_TEAM_MAX]; /* not with a file */
    size_t lanes;
    size_t first_row; /* of the rows that were read last */
    size_t scored;    /* rows of a sample */
    size_t vocab;
    size_t width;
    size_t original_width;
    struct lq_divergence_row *rows; /* all scored positions */
    double *hidden_errors;          /* NULL: the layers cannot be compared */
    float *original_hidden;         /* of a round */
    float *original_logits;         /* of a tile */
    float *logits;
    size_t tile_rows;
    bool has_file; /* divergence is measured against a base logits file */
    struct lq_logits_header file;
    unsigned char *file_rows; /* of a tile */
};

static void compare_report(void *user, uint64_t done, uint64_t total)
{
    lq_run_progress(((struct comparison *)user)->run, done, total, "tokens");
}

/* Rows that both models kept of a layer are read piece by piece: a model has many layers. */
struct kept_rows {
    char mine_name[LQ_WEIGHT_NAME_BYTES];
    char original_name[LQ_WEIGHT_NAME_BYTES];
    float mine[KEPT_PIECE_VALUES];
    float original[KEPT_PIECE_VALUES];
    double difference; /* sums of squares */
    double signal;
};

static enum lq_status add_kept_piece(struct comparison *self, struct kept_rows *kept,
                                     uint64_t offset, size_t count, struct lq_error *err)
{
    size_t size_bytes = count * sizeof(float);
    enum lq_status status =
        lq_run_input_read(self->run, kept->mine_name, offset, kept->mine, size_bytes, err);
    if (status == LQ_OK) {
        status = lq_run_input_read(self->run, kept->original_name, offset, kept->original,
                                   size_bytes, err);
    }
    for (size_t k = 0; status == LQ_OK && k < count; k++) {
        double d = (double)kept->mine[k] - (double)kept->original[k];
        kept->difference += d * d;
        kept->signal += (double)kept->original[k] * (double)kept->original[k];
    }
    return status;
}

static enum lq_status compare_layer(struct comparison *self, struct kept_rows *kept, uint32_t layer,
                                    struct lq_error *err)
{
    (void)snprintf(kept->mine_name, sizeof kept->mine_name, "kept.%u", (unsigned)layer);
    (void)snprintf(kept->original_name, sizeof kept->original_name, ORIGINAL "kept.%u",
                   (unsigned)layer);
    kept->difference = 0.0;
    kept->signal = 0.0;
    uint64_t size_bytes = lq_run_input_size(self->run, kept->mine_name);
    if (size_bytes != lq_run_input_size(self->run, kept->original_name)) {
        return lq_error_set(err, LQ_EINTERNAL, "layer %u kept other rows than the original",
                            (unsigned)layer);
    }
    enum lq_status status = LQ_OK;
    uint64_t values = size_bytes / sizeof(float);
    for (uint64_t at = 0; status == LQ_OK && at < values; at += KEPT_PIECE_VALUES) {
        uint64_t left = values - at;
        status = add_kept_piece(self, kept, at * sizeof(float),
                                left < KEPT_PIECE_VALUES ? (size_t)left : KEPT_PIECE_VALUES, err);
    }
    self->hidden_errors[layer] =
        kept->signal > 0.0 ? sqrt(kept->difference / kept->signal) : (double)NAN;
    return status;
}

static enum lq_status compare_layers(struct comparison *self, struct lq_error *err)
{
    uint32_t count = self->state->part.hparams.layer_count;
    if (!self->state->has_layers) {
        return LQ_OK;
    }
    self->hidden_errors = calloc(count, sizeof *self->hidden_errors);
    struct kept_rows *kept = calloc(1, sizeof *kept);
    enum lq_status status = self->hidden_errors == NULL || kept == NULL
                                ? lq_error_nomem(err, "a comparison of models")
                                : LQ_OK;
    for (uint32_t layer = 0; status == LQ_OK && layer < count; layer++) {
        status = compare_layer(self, kept, layer, err);
    }
    free(kept);
    return status;
}

struct tile {
    struct comparison *self;
    const int32_t *targets;
    struct lq_divergence_row *rows;
};

static void compare_row(void *user, size_t index)
{
    struct tile *tile = user;
    size_t vocab = tile->self->vocab;
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

static enum lq_status compare_read(void *user, size_t first_sample, size_t samples, float *rows,
                                   struct lq_error *err)
{
    struct comparison *self = user;
    enum lq_status status = lq_pass_end_read(&self->ends[0], first_sample, samples, rows, err);
    self->first_row = first_sample * self->scored;
    return status == LQ_OK && !self->has_file
               ? lq_pass_end_read(&self->originals[0], first_sample, samples, self->original_hidden,
                                  err)
               : status;
}

/* On the device, where logits of both can stay. */
static enum lq_status compare_there(struct comparison *self, size_t lane, size_t first_row,
                                    size_t rows, const float *hidden, const int32_t *targets,
                                    struct lq_error *err)
{
    const float *original =
        self->original_hidden + (first_row - self->first_row) * self->original_width;
    const struct lq_forward_pair pair = {self->ends[lane].forward, self->originals[lane].forward,
                                         hidden, original};
    struct lq_logits_difference *all = calloc(rows, sizeof *all);
    enum lq_status status = all == NULL ? lq_error_nomem(err, "a comparison of models")
                                        : lq_forward_compare(&pair, targets, rows, all, err);
    for (size_t r = 0; status == LQ_OK && r < rows; r++) {
        self->rows[first_row + r] = (struct lq_divergence_row){.kld = all[r].kld,
                                                               .nll = all[r].nll,
                                                               .nll_original = all[r].nll_original,
                                                               .same_top = all[r].same_top != 0.0};
    }
    free(all);
    return status;
}

/* Here, from logits that are fetched; by one device. */
static enum lq_status compare_here(struct comparison *self, size_t first_row, size_t rows,
                                   const float *hidden, const int32_t *targets,
                                   struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t r = 0; status == LQ_OK && r < rows; r += self->tile_rows) {
        size_t count = rows - r < self->tile_rows ? rows - r : self->tile_rows;
        struct tile tile = {self, targets + r, self->rows + first_row + r};
        status = self->has_file
                     ? read_tile(self, first_row + r, count, err)
                     : lq_forward_logits(self->originals[0].forward,
                                         self->original_hidden + r * self->original_width, count,
                                         self->original_logits, err);
        if (status == LQ_OK) {
            status = lq_forward_logits(self->ends[0].forward, hidden + r * self->width, count,
                                       self->logits, err);
        }
        if (status == LQ_OK) {
            lq_pool_for(lq_run_pool(self->run), count, compare_row, &tile);
        }
    }
    return status;
}

static bool is_compared_there(const struct comparison *self)
{
    return !self->has_file && self->forward_run.device->ops->compare_logits != NULL;
}

static enum lq_status compare_score(void *user, size_t lane, size_t first_row, size_t rows,
                                    const float *hidden, const int32_t *targets, double *nll,
                                    struct lq_error *err)
{
    struct comparison *self = user;
    enum lq_status status = is_compared_there(self)
                                ? compare_there(self, lane, first_row, rows, hidden, targets, err)
                                : compare_here(self, first_row, rows, hidden, targets, err);
    for (size_t r = 0; status == LQ_OK && r < rows; r++) {
        /* The divergence takes both models' logits, the likelihood one's. */
        const struct lq_divergence_row *row = &self->rows[first_row + r];
        nll[r] = row->nll;
        if (isfinite(row->nll) && !isfinite(row->kld)) {
            status = lq_error_set(err, LQ_EFAIL,
                                  "the original that it is compared with gives logits that are "
                                  "NaN or infinite");
        }
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
    if (status == LQ_OK &&
        (self->file.vocab_size != self->vocab || self->file.context != tokens->sequence_length ||
         self->file.chunk_count != tokens->sample_count)) {
        status = lq_error_set(err, LQ_EFORMAT,
                              "the base logits file is of a vocabulary of %u tokens, the model has "
                              "%u: they cannot be compared",
                              (unsigned)self->file.vocab_size, (unsigned)self->vocab);
    }
    return status;
}

static enum lq_status get_memory(struct comparison *self, const struct lq_tokens *tokens,
                                 struct lq_error *err)
{
    size_t vocab = self->vocab;
    size_t scored = self->scored;
    size_t batch = lq_perplexity_batch_samples(tokens) * scored;
    size_t rows = TILE_BYTES_MAX / (vocab * sizeof *self->logits);
    self->tile_rows = rows < TILE_ROWS_MIN ? TILE_ROWS_MIN : rows;
    self->tile_rows = self->tile_rows < batch ? self->tile_rows : batch;
    self->rows = calloc(tokens->sample_count * scored, sizeof *self->rows);
    self->original_hidden = calloc(batch * self->lanes, (self->original_width + 1) * sizeof(float));
    self->original_logits = calloc(self->tile_rows, vocab * sizeof *self->original_logits);
    self->logits = calloc(self->tile_rows, vocab * sizeof *self->logits);
    if (self->has_file) {
        self->file_rows = calloc(self->tile_rows, (size_t)self->file.row_bytes);
        if (self->file_rows == NULL) {
            return lq_error_nomem(err, "a comparison of models");
        }
    }
    bool failed = self->rows == NULL || self->original_hidden == NULL ||
                  self->original_logits == NULL || self->logits == NULL;
    return failed ? lq_error_nomem(err, "a comparison of models") : LQ_OK;
}

static enum lq_status open_ends(struct comparison *self, uint32_t sequence, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < self->lanes; i++) {
        status = lq_pass_end_open(&self->ends[i], self->run, "", &self->state->part,
                                  &self->forward_run, i, sequence, err);
        if (status == LQ_OK && !self->has_file) {
            status = lq_pass_end_open(&self->originals[i], self->run, ORIGINAL,
                                      &self->state->original, &self->forward_run, i, sequence, err);
        }
    }
    return status;
}

static enum lq_status compare_models(struct comparison *self, struct lq_buffer *text,
                                     struct lq_error *err)
{
    struct lq_tokens tokens;
    struct lq_evaluation result = {.hidden_errors = NULL};
    enum lq_status status = lq_pass_load_tokens(self->run, (uint32_t)self->vocab, &tokens, err);
    if (status == LQ_OK) {
        status = compare_layers(self, err);
    }
    if (status == LQ_OK) {
        status = open_file(self, &tokens, err);
    }
    if (status == LQ_OK) {
        self->scored = lq_perplexity_scored(tokens.sequence_length);
        self->lanes = is_compared_there(self) ? take_lanes(&self->forward_run, &tokens) : 1;
        status = get_memory(self, &tokens, err);
    }
    if (status == LQ_OK) {
        status = open_ends(self, tokens.sequence_length, err);
    }
    if (status == LQ_OK) {
        const struct lq_perplexity_source source = {.tokens = &tokens,
                                                    .width = self->width,
                                                    .read = compare_read,
                                                    .score = compare_score,
                                                    .report = compare_report,
                                                    .user = self,
                                                    .lanes = self->lanes,
                                                    .pool = lq_run_pool(self->run)};
        status = lq_perplexity_measure(&source, &result.perplexity, err);
    }
    if (status == LQ_OK) {
        status = lq_divergence_make(self->rows, (size_t)result.perplexity.tokens,
                                    &result.divergence, err);
    }
    if (status == LQ_OK) {
        result.hidden_errors = self->hidden_errors;
        result.layer_count =
            self->hidden_errors == NULL ? 0 : self->state->part.hparams.layer_count;
        lq_evaluation_format(&result, text);
    }
    return status;
}

static enum lq_status run_compare(struct lq_run *run, struct lq_error *err)
{
    const struct compare_state *state = lq_run_state(run);
    struct comparison self = {.run = run,
                              .state = state,
                              .vocab = state->part.hparams.vocab_size,
                              .width = state->part.hparams.width,
                              .original_width = state->original.hparams.width};
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_forward_run_open(&self.forward_run, run, err);
    if (status == LQ_OK) {
        status = compare_models(&self, &text, err);
    }
    if (status == LQ_OK) {
        status = write_text(run, &text, err);
    }
    free(self.rows);
    free(self.hidden_errors);
    free(self.original_hidden);
    free(self.original_logits);
    free(self.logits);
    free(self.file_rows);
    for (size_t i = 0; i < LQ_TEAM_MAX; i++) {
        lq_pass_end_close(&self.originals[i]);
        lq_pass_end_close(&self.ends[i]);
    }
    lq_forward_run_close(&self.forward_run);
    lq_buffer_fini(&text);
    return name_model(status, state->model, err);
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
    const char *where = lq_tensor_model_name(expand, model);
    if (status == LQ_OK) {
        status =
            lq_gguf_parse(data, size_bytes, size_bytes, where, LQ_EMODEL, arena, &meta, NULL, err);
    }
    return status == LQ_OK ? lq_hparams_read(&meta, &index, where, LQ_EMODEL, out, err) : status;
}

static enum lq_status end_step(struct lq_expand *expand, const struct lq_model_inputs *from,
                               const struct lq_pass *pass, struct lq_step *step, size_t *index,
                               struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    const struct lq_hparams *hparams = &pass->view.hparams;
    step->label = lq_artifact_name(pass->view.model);
    step->inputs = from->inputs;
    step->input_count = from->input_count;
    step->params = from->params;
    step->param_count = from->param_count;
    step->outputs = outputs;
    step->output_count = LQ_COUNT_OF(outputs);
    step->parallel = true;
    step->memory_bytes += lq_forward_memory(hparams, pass->sequence, true) + ((uint64_t)1 << 28);
    step->cost = (uint64_t)hparams->vocab_size * hparams->width / 500;
    return lq_expand_add_step(expand, step, index, err);
}

enum lq_status lq_evaluate_add_reference(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_pass_options *options,
                                         struct lq_pass *pass, size_t *step, struct lq_error *err)
{
    struct lq_model_inputs inputs;
    struct perplexity_state *state = lq_arena_get(lq_expand_arena(expand), sizeof *state);
    enum lq_status status = state == NULL ? lq_error_nomem(err, "a step")
                                          : lq_pass_add(pass, expand, model, options, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_init(&inputs, expand, NULL, 0, LQ_PASS_INPUTS_MAX + 1, err);
    }
    if (status == LQ_OK) {
        status = lq_pass_inputs_add(&inputs, expand, pass, "", &state->part, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    state->model = lq_artifact_name(model);
    lq_model_inputs_put(&inputs, "tokens", pass->tokens);
    struct lq_step added = {.op = "quality.perplexity",
                            .version = PERPLEXITY_VERSION,
                            .run = run_perplexity,
                            .state = state};
    return end_step(expand, &inputs, pass, &added, step, err);
}

static enum lq_status add_kept(struct lq_model_inputs *inputs, struct lq_expand *expand,
                               const struct lq_pass *pass, const char *prefix, struct lq_error *err)
{
    for (uint32_t layer = 0; layer < pass->view.hparams.layer_count; layer++) {
        const char *name =
            lq_arena_printf(lq_expand_arena(expand), "%skept.%u", prefix, (unsigned)layer);
        if (name == NULL) {
            return lq_error_nomem(err, "a step");
        }
        lq_model_inputs_put(inputs, name, lq_ref_step(pass->steps[layer], "kept"));
    }
    return LQ_OK;
}

static enum lq_status check_vocab(const char *name, const struct lq_hparams *hparams,
                                  const struct lq_hparams *original, struct lq_error *err)
{
    if (hparams->vocab_size != original->vocab_size) {
        return lq_error_set(err, LQ_EFORMAT,
                            "model '%s' has %u tokens in its vocabulary and the original %u: they "
                            "cannot be compared on the same tokens",
                            name, (unsigned)hparams->vocab_size, (unsigned)original->vocab_size);
    }
    return LQ_OK;
}

/* What the comparison reads of both models. */
static enum lq_status add_inputs(struct lq_model_inputs *inputs, struct lq_expand *expand,
                                 const struct lq_evaluate_request *request,
                                 const struct lq_pass *pass, struct compare_state *state,
                                 struct lq_error *err)
{
    const struct lq_hparams *hparams = &pass->view.hparams;
    const struct lq_hparams *original = &request->original->view.hparams;
    state->has_layers =
        original->layer_count == hparams->layer_count && original->width == hparams->width;
    size_t kept = state->has_layers ? 2 * (size_t)hparams->layer_count : 0;
    enum lq_status status =
        lq_model_inputs_init(inputs, expand, NULL, 0, 2 * LQ_PASS_INPUTS_MAX + 2 + kept, err);
    if (status == LQ_OK) {
        status = lq_pass_inputs_add(inputs, expand, pass, "", &state->part, err);
    }
    if (status == LQ_OK && request->logits == NULL) {
        status =
            lq_pass_inputs_add(inputs, expand, request->original, ORIGINAL, &state->original, err);
    }
    if (status == LQ_OK && state->has_layers) {
        status = add_kept(inputs, expand, pass, "", err);
    }
    if (status == LQ_OK && state->has_layers) {
        status = add_kept(inputs, expand, request->original, ORIGINAL, err);
    }
    if (status == LQ_OK && request->logits != NULL) {
        lq_model_inputs_put(inputs, "logits", lq_ref_artifact(request->logits, "main"));
    }
    return status;
}

enum lq_status lq_evaluate_add_step(struct lq_expand *expand,
                                    const struct lq_evaluate_request *request, size_t *step,
                                    struct lq_error *err)
{
    struct lq_pass pass;
    struct lq_model_inputs inputs;
    struct compare_state *state = lq_arena_get(lq_expand_arena(expand), sizeof *state);
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    enum lq_status status = lq_pass_add(&pass, expand, request->model, &request->options, err);
    if (status == LQ_OK) {
        status = check_vocab(lq_artifact_name(request->model), &pass.view.hparams,
                             &request->original->view.hparams, err);
    }
    if (status == LQ_OK) {
        status = add_inputs(&inputs, expand, request, &pass, state, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    state->model = lq_artifact_name(request->model);
    lq_model_inputs_put(&inputs, "tokens", request->options.tokens);
    struct lq_step added = {.op = "quality.compare",
                            .version = COMPARE_VERSION,
                            .run = run_compare,
                            .state = state,
                            .memory_bytes = (uint64_t)pass.view.hparams.vocab_size *
                                            pass.view.hparams.width * sizeof(float)};
    return end_step(expand, &inputs, &pass, &added, step, err);
}

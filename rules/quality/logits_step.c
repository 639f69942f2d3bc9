#include "rules/quality/logits_step.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/pool.h"
#include "rules/format/gguf.h"
#include "rules/format/logits_file.h"
#include "rules/model/tokens.h"
#include "rules/model/vocab.h"
#include "rules/quality/pass.h"
#include "rules/quality/perplexity.h"

enum {
    STEP_VERSION = 2,
    TOKENS_VERSION = 1,
    TILE_ROWS_MIN = 16,
    TILE_BYTES_MAX = 32 * 1024 * 1024,
};

/* ---- writing ---- */

struct writing {
    struct lq_run *run;
    struct lq_forward_run forward_run;
    struct lq_pass_end end;
    uint32_t vocab;
    size_t tile_rows;
    size_t row_bytes;
    float *logits;
    unsigned char *rows;
};

static void report_tokens(void *user, uint64_t done, uint64_t total)
{
    lq_run_progress(((struct writing *)user)->run, done, total, "tokens");
}

static void encode_row(void *user, size_t index)
{
    struct writing *self = user;
    lq_logits_row_encode(self->logits + index * self->vocab, self->vocab,
                         self->rows + index * self->row_bytes);
}

static enum lq_status read_rows(void *user, size_t first_sample, size_t samples, float *rows,
                                struct lq_error *err)
{
    return lq_pass_end_read(&((struct writing *)user)->end, first_sample, samples, rows, err);
}

static enum lq_status write_rows(void *user, size_t lane, size_t first_row, size_t rows,
                                 const float *hidden, const int32_t *targets, double *nll,
                                 struct lq_error *err)
{
    struct writing *self = user;
    struct lq_forward *forward = self->end.forward;
    size_t width = self->end.hidden.width;
    enum lq_status status = lq_forward_score(forward, hidden, targets, rows, nll, err);
    (void)lane;
    (void)first_row;
    for (size_t r = 0; status == LQ_OK && r < rows; r += self->tile_rows) {
        size_t count = rows - r < self->tile_rows ? rows - r : self->tile_rows;
        status = lq_forward_logits(forward, hidden + r * width, count, self->logits, err);
        if (status == LQ_OK) {
            lq_pool_for(lq_run_pool(self->run), count, encode_row, self);
            status = lq_run_write(self->run, "main", self->rows, count * self->row_bytes, err);
        }
    }
    return status;
}

static enum lq_status write_header(struct writing *self, const struct lq_tokens *tokens,
                                   struct lq_error *err)
{
    struct lq_buffer header;
    lq_buffer_init(&header);
    lq_logits_header_write(tokens->sequence_length, self->vocab, tokens->sample_count,
                           tokens->tokens, &header);
    enum lq_status status =
        header.failed ? lq_error_nomem(err, "a base logits file")
                      : lq_run_write(self->run, "main", header.data, header.size_bytes, err);
    lq_buffer_fini(&header);
    return status;
}

static enum lq_status write_file(struct writing *self, const struct lq_model_part *part,
                                 struct lq_error *err)
{
    struct lq_tokens tokens;
    struct lq_perplexity perplexity;
    enum lq_status status = lq_pass_load_tokens(self->run, self->vocab, &tokens, err);
    if (status == LQ_OK) {
        status = lq_pass_end_open(&self->end, self->run, "", part, &self->forward_run, 0,
                                  tokens.sequence_length, err);
    }
    if (status == LQ_OK) {
        size_t rows = TILE_BYTES_MAX / (self->vocab * sizeof *self->logits);
        self->tile_rows = rows < TILE_ROWS_MIN ? TILE_ROWS_MIN : rows;
        self->row_bytes = (size_t)lq_logits_row_bytes(self->vocab);
        self->logits = calloc(self->tile_rows, self->vocab * sizeof *self->logits);
        self->rows = calloc(self->tile_rows, self->row_bytes);
        status = self->logits == NULL || self->rows == NULL ? lq_error_nomem(err, "logits")
                                                            : write_header(self, &tokens, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const struct lq_perplexity_source source = {.tokens = &tokens,
                                                .width = self->end.hidden.width,
                                                .read = read_rows,
                                                .score = write_rows,
                                                .report = report_tokens,
                                                .user = self};
    return lq_perplexity_measure(&source, &perplexity, err);
}

static enum lq_status run_logits(struct lq_run *run, struct lq_error *err)
{
    const struct lq_model_part *part = lq_run_state(run);
    struct writing self = {.run = run, .vocab = part->hparams.vocab_size, .end = {.run = run}};
    enum lq_status status = lq_forward_run_open(&self.forward_run, run, err);
    if (status == LQ_OK) {
        status = write_file(&self, part, err);
    }
    lq_pass_end_close(&self.end);
    free(self.logits);
    free(self.rows);
    lq_forward_run_close(&self.forward_run);
    return status;
}

enum lq_status lq_logits_add_step(struct lq_expand *expand, const struct lq_artifact *model,
                                  struct lq_ref tokens, uint32_t sequence, size_t *step,
                                  struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    const struct lq_pass_options options = {.tokens = tokens, .sequence = sequence};
    struct lq_pass pass;
    struct lq_model_inputs inputs;
    struct lq_model_part *part = lq_arena_get(lq_expand_arena(expand), sizeof *part);
    enum lq_status status = part == NULL ? lq_error_nomem(err, "a step")
                                         : lq_pass_add(&pass, expand, model, &options, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_init(&inputs, expand, NULL, 0, LQ_PASS_INPUTS_MAX + 1, err);
    }
    if (status == LQ_OK) {
        status = lq_pass_inputs_add(&inputs, expand, &pass, "", part, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_put(&inputs, "tokens", tokens);
    const struct lq_hparams *hparams = &pass.view.hparams;
    struct lq_step added = {.op = "quality.logits",
                            .version = STEP_VERSION,
                            .label = lq_artifact_name(model),
                            .run = run_logits,
                            .state = part,
                            .params = inputs.params,
                            .param_count = inputs.param_count,
                            .inputs = inputs.inputs,
                            .input_count = inputs.input_count,
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .parallel = true,
                            .memory_bytes = lq_forward_memory(hparams, pass.sequence, true),
                            .cost = 1000000};
    return lq_expand_add_step(expand, &added, step, err);
}

/* ---- tokens of a file ---- */

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

static enum lq_status read_tokens(struct lq_run *run, const struct lq_vocab *vocab, int32_t **ids,
                                  struct lq_tokens *tokens, struct lq_error *err)
{
    unsigned char bytes[LQ_LOGITS_HEADER_BYTES] = {0};
    struct lq_logits_header header;
    uint64_t file_bytes = lq_run_input_size(run, "logits");
    size_t size_bytes = file_bytes < sizeof bytes ? (size_t)file_bytes : sizeof bytes;
    enum lq_status status = lq_run_input_read(run, "logits", 0, bytes, size_bytes, err);
    if (status == LQ_OK) {
        status =
            lq_logits_header_read(bytes, size_bytes, file_bytes, "base logits file", &header, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    *ids = malloc((size_t)header.tokens_bytes);
    if (*ids == NULL) {
        return lq_error_nomem(err, "tokens");
    }
    status = lq_run_input_read(run, "logits", LQ_LOGITS_HEADER_BYTES, *ids,
                               (size_t)header.tokens_bytes, err);
    bool adds_bos = lq_vocab_adds_bos(vocab);
    for (uint32_t i = 0; status == LQ_OK && adds_bos && i < header.chunk_count; i++) {
        (*ids)[(size_t)i * header.context] = lq_vocab_bos(vocab);
    }
    *tokens = (struct lq_tokens){
        .sample_count = header.chunk_count,
        .sequence_length = header.context,
        .bos = adds_bos ? (uint32_t)lq_vocab_bos(vocab) : LQ_TOKENS_NO_BOS,
        .tokens = *ids,
    };
    return status;
}

static enum lq_status run_tokens(struct lq_run *run, struct lq_error *err)
{
    struct lq_vocab *vocab = NULL;
    struct lq_tokens tokens;
    struct lq_buffer out;
    int32_t *ids = NULL;
    lq_buffer_init(&out);
    enum lq_status status = load_vocab(run, &vocab, err);
    if (status == LQ_OK) {
        status = read_tokens(run, vocab, &ids, &tokens, err);
    }
    if (status == LQ_OK) {
        status = lq_tokens_format(&tokens, &out, err);
    }
    if (status == LQ_OK) {
        status = out.failed ? lq_error_nomem(err, "tokens")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    free(ids);
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&out);
    return status;
}

enum lq_status lq_logits_add_tokens_step(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_artifact *logits, size_t *step,
                                         struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    const struct lq_step_input inputs[] = {{"logits", lq_ref_artifact(logits, "main")},
                                           {"vocab", lq_ref_artifact(model, "vocab")}};
    struct lq_step added = {.op = "logits.tokens",
                            .version = TOKENS_VERSION,
                            .label = lq_artifact_name(logits),
                            .run = run_tokens,
                            .inputs = inputs,
                            .input_count = LQ_COUNT_OF(inputs),
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .cost = 10000};
    return lq_expand_add_step(expand, &added, step, err);
}

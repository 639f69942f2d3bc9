#include "rules/quality/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/batch_flow.h"
#include "rules/model/device_states.h"
#include "rules/model/device_team.h"
#include "rules/quality/perplexity.h"

enum {
    LAYER_VERSION = 2,
    NAMES_MAX = LQ_LAYER_WEIGHT_COUNT + 4,
};

/* Guess for a first estimate of time: float operations a microsecond of a small machine. */
#define OPS_PER_MICROSECOND 50000.0

/* The state of a layer's step; follows from its parameters. */
struct layer_state {
    struct lq_model_part part;
    const char *model; /* its name, for messages */
    uint32_t layer;
    bool hidden_bf16;
};

/* ---- one layer ---- */

struct layer_run {
    struct lq_run *run;
    const struct layer_state *state;
    struct lq_model_reader reader;
    struct lq_tokens tokens; /* first layer */
    struct lq_hidden_shape in;
    struct lq_hidden_shape out;
    struct lq_forward_run forward_run;
    struct lq_forward *forwards[LQ_TEAM_MAX]; /* one for each device */
    struct lq_device_team team;
    bool is_last;
    /* States that are on the devices; or NULL. */
    struct lq_device_states *from;
    struct lq_device_states *to;
};

enum lq_status lq_pass_load_tokens(struct lq_run *run, uint32_t vocab_size,
                                   struct lq_tokens *tokens, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "tokens", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tokens_parse(data, size_bytes, "evaluation text", vocab_size, lq_run_arena(run),
                                 tokens, err);
    }
    return status == LQ_OK ? lq_perplexity_check(tokens, err) : status;
}

/* What comes in, and what goes out. */
static enum lq_status open_states(struct layer_run *self, struct lq_error *err)
{
    const struct lq_hparams *hparams = &self->reader.hparams;
    enum lq_status status;
    if (self->state->layer == 0) {
        status = lq_pass_load_tokens(self->run, hparams->vocab_size, &self->tokens, err);
        self->in = (struct lq_hidden_shape){.sample_count = self->tokens.sample_count,
                                            .sequence_length = self->tokens.sequence_length,
                                            .width = hparams->width};
    } else {
        status = lq_hidden_open(self->run, "hidden", &self->in, err);
        if (status == LQ_OK && self->in.width != hparams->width) {
            status = lq_error_set(err, LQ_EFORMAT, "layer %u is %u wide, the one before it %u",
                                  (unsigned)self->state->layer, (unsigned)hparams->width,
                                  (unsigned)self->in.width);
        }
    }
    self->out = self->in;
    self->out.is_bf16 = self->state->hidden_bf16;
    self->out.layer = self->state->layer;
    self->out.is_mixture = self->reader.hparams.expert_count != 0;
    self->out.overflow = LQ_EFAIL;
    if (status == LQ_OK && self->is_last) {
        self->out.sequence_length = lq_perplexity_scored(self->in.sequence_length);
    }
    return status;
}

/* The rows that a sample of a round leaves, in host memory: those of a device's batch lie side by
 * side, where the batch began. */
static float *rows_of(const struct layer_run *self, size_t in_round, float *hidden)
{
    size_t in_batch = in_round % self->team.batch_samples;
    return hidden + (in_round - in_batch) * self->team.sample_values +
           in_batch * self->out.sequence_length * self->out.width;
}

/* A row of a sample of the round comes to its place in `rows`. */
static enum lq_status fetch_row(struct layer_run *self, size_t sample, size_t row, float *rows,
                                struct lq_error *err)
{
    const float *there = lq_device_states_at(self->to, sample);
    size_t member = sample / self->team.batch_samples % self->team.member_count;
    size_t at = row * self->in.width;
    return there == NULL ? LQ_OK
                         : lq_forward_fetch(self->forwards[member], there + at, 1, rows + at, err);
}

/* Every stride-th of the scored rows of the first samples, as far as they are in this round. */
static enum lq_status write_kept(struct layer_run *self, size_t sample, size_t count, float *hidden,
                                 struct lq_error *err)
{
    size_t width = self->in.width;
    /* The last layer gives scored rows alone. */
    size_t sequence = self->out.sequence_length;
    size_t unscored = self->is_last ? 0 : sequence / 2;
    size_t first = lq_forward_first_samples(self->in.sequence_length);
    size_t samples = first < self->in.sample_count ? first : self->in.sample_count;
    size_t scored = lq_perplexity_scored(self->in.sequence_length);
    size_t kept = samples * scored;
    size_t stride = (kept + LQ_KEPT_ROWS_MAX - 1) / LQ_KEPT_ROWS_MAX;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < kept; i += stride) {
        size_t from = i / scored;
        if (from >= sample && from < sample + count) {
            size_t row = unscored + i % scored;
            float *rows = rows_of(self, from - sample, hidden);
            status = fetch_row(self, from, row, rows, err);
            if (status == LQ_OK) {
                status =
                    lq_run_write(self->run, "kept", rows + row * width, width * sizeof *rows, err);
            }
        }
    }
    return status;
}

static enum lq_status read_batch(void *user, size_t sample, size_t count, float *hidden,
                                 struct lq_error *err)
{
    struct layer_run *self = user;
    return lq_hidden_read(self->run, "hidden", &self->in, sample, count, hidden, err);
}

static enum lq_status write_batch(void *user, size_t sample, size_t count, float *hidden,
                                  struct lq_error *err)
{
    struct layer_run *self = user;
    size_t batch = self->team.batch_samples;
    enum lq_status status = LQ_OK;
    (void)sample;
    for (size_t at = 0; status == LQ_OK && at < count; at += batch) {
        size_t samples = count - at < batch ? count - at : batch;
        status = lq_hidden_write(self->run, "hidden", &self->out, rows_of(self, at, hidden),
                                 samples * self->out.sequence_length, err);
    }
    return status;
}

/* A part of a device's batch, as large as its memory makes it; what is left of it begins at `to`
 * in host memory. */
static enum lq_status pass_part(struct layer_run *self, struct lq_forward *forward, size_t sample,
                                size_t count, float *rows, float *to, struct lq_error *err)
{
    size_t sequence = self->in.sequence_length;
    const struct lq_forward_place place = {.host = rows,
                                           .from = lq_device_states_at(self->from, sample),
                                           .to = lq_device_states_at(self->to, sample)};
    enum lq_status status = self->is_last
                                ? lq_forward_layer_rows(forward, &place, count, sequence / 2,
                                                        self->out.sequence_length, err)
                                : lq_forward_layer_at(forward, &place, count, false, false, err);
    if (status == LQ_OK && to != rows) {
        memmove(to, rows, count * self->out.sequence_length * self->out.width * sizeof *to);
    }
    return status;
}

static enum lq_status pass_batch(void *user, size_t member, size_t sample, size_t count,
                                 float *hidden, struct lq_error *err)
{
    struct layer_run *self = user;
    struct lq_forward *forward = self->forwards[member];
    size_t most = lq_forward_batch_samples(forward);
    size_t left_values = (size_t)self->out.sequence_length * self->out.width;
    enum lq_status status = LQ_OK;
    for (size_t at = 0; status == LQ_OK && at < count; at += most) {
        status = pass_part(self, forward, sample + at, count - at < most ? count - at : most,
                           hidden + at * self->team.sample_values, hidden + at * left_values, err);
    }
    return status;
}

static enum lq_status pass_round(void *user, size_t sample, size_t count, float *hidden,
                                 struct lq_error *err)
{
    struct layer_run *self = user;
    size_t sequence = self->in.sequence_length;
    enum lq_status status = LQ_OK;
    if (self->state->layer == 0) {
        status = lq_forward_embed(self->forwards[0], self->tokens.tokens + sample * sequence,
                                  count * sequence, hidden, err);
    }
    if (status == LQ_OK) {
        status = lq_device_team_run(&self->team, sample, count, hidden, err);
    }
    if (status == LQ_OK) {
        status = write_kept(self, sample, count, hidden, err);
    }
    lq_run_progress(self->run, (sample + count) * sequence,
                    (uint64_t)self->in.sample_count * sequence, "tokens");
    return status;
}

static enum lq_status stream_samples(struct layer_run *self, struct lq_error *err)
{
    const struct lq_device_team *team = &self->team;
    bool reads = self->state->layer != 0 && self->from == NULL;
    const struct lq_batch_flow flow = {
        .pool = reads && lq_device_states_is_one(self->run, "hidden") ? NULL : team->pool,
        .sample_count = self->in.sample_count,
        .batch_samples = team->batch_samples * team->member_count,
        .sample_values = team->sample_values,
        .read = reads ? read_batch : NULL,
        .compute = pass_round,
        .write = self->to == NULL ? write_batch : NULL,
        .user = self};
    enum lq_status status = LQ_OK;
    for (size_t m = 0; status == LQ_OK && m < team->member_count; m++) {
        status = lq_forward_load_layer(self->forwards[m], self->state->layer, err);
    }
    if (status == LQ_OK) {
        lq_forward_run_expect(&self->forward_run, &self->reader.hparams);
    }
    if (status == LQ_OK && self->to == NULL) {
        status = lq_hidden_begin(self->run, "hidden", &self->out, err);
    }
    return status == LQ_OK ? lq_batch_flow_run(&flow, err) : status;
}

static void take_devices(struct layer_run *self)
{
    struct lq_device_team *team = &self->team;
    team->pool = lq_run_pool(self->run);
    team->body = pass_batch;
    team->user = self;
    team->sample_values = (size_t)self->in.sequence_length * self->in.width;
    team->batch_samples =
        lq_forward_wanted_samples(self->forward_run.device, self->in.sequence_length);
    team->member_count = lq_device_team_take(&self->forward_run, self->in.sample_count,
                                             team->batch_samples, LQ_TEAM_MAX);
}

/* What goes out stays on the devices or in memory where it can; behind the last layer it is a part
 * of the rows. */
static void hold_states(struct layer_run *self)
{
    const struct lq_device_team *team = &self->team;
    self->from = lq_device_states_find_parts(&self->forward_run, "hidden", team->batch_samples,
                                             team->member_count);
    self->to = self->is_last ? NULL
                             : lq_device_states_hold_parts(&self->forward_run, "hidden", &self->out,
                                                           team->batch_samples, team->member_count);
    if (self->to == NULL) {
        lq_forward_run_hold(&self->forward_run, "hidden");
    }
}

static enum lq_status make_passes(struct layer_run *self, struct lq_error *err)
{
    struct lq_device_team *team = &self->team;
    enum lq_status status = LQ_OK;
    for (size_t m = 0; status == LQ_OK && m < team->member_count; m++) {
        struct lq_forward_env env = lq_forward_run_env_of(
            &self->forward_run, m, lq_model_reader_weights(&self->reader), LQ_EFAIL);
        env.only_products = true;
        status = lq_forward_create(&self->forwards[m], &self->reader.hparams, &env,
                                   self->in.sequence_length, err);
    }
    if (status == LQ_OK && team->member_count == 1) {
        team->batch_samples = lq_forward_batch_samples(self->forwards[0]);
    }
    return status;
}

static enum lq_status run_layer(struct lq_run *run, struct lq_error *err)
{
    struct layer_run self = {.run = run, .state = lq_run_state(run)};
    enum lq_status status =
        lq_model_reader_open_part(&self.reader, run, "", &self.state->part, err);
    self.is_last = self.state->layer + 1 == self.state->part.hparams.layer_count;
    if (status == LQ_OK) {
        status = open_states(&self, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&self.forward_run, run, err);
    }
    if (status == LQ_OK) {
        take_devices(&self);
        hold_states(&self);
        status = make_passes(&self, err);
    }
    if (status == LQ_OK) {
        status = stream_samples(&self, err);
    }
    for (size_t m = 0; m < self.team.member_count; m++) {
        lq_forward_destroy(self.forwards[m]);
    }
    lq_forward_run_close(&self.forward_run);
    lq_model_reader_close(&self.reader);
    return status == LQ_OK || status == LQ_ECANCELLED
               ? status
               : lq_error_prefix(err, "model '%s'", self.state->model);
}

/* ---- behind the last layer ---- */

enum lq_status lq_pass_end_open(struct lq_pass_end *end, struct lq_run *run, const char *prefix,
                                const struct lq_model_part *part,
                                const struct lq_forward_run *forward_run, size_t device,
                                uint32_t sequence, struct lq_error *err)
{
    *end = (struct lq_pass_end){.run = run};
    (void)snprintf(end->input, sizeof end->input, "%shidden", prefix);
    enum lq_status status = lq_model_reader_open_part(&end->reader, run, prefix, part, err);
    if (status == LQ_OK) {
        status = lq_hidden_open(run, end->input, &end->hidden, err);
    }
    if (status == LQ_OK && (end->hidden.width != end->reader.hparams.width ||
                            end->hidden.sequence_length != lq_perplexity_scored(sequence))) {
        status = lq_error_set(err, LQ_EINTERNAL, "the hidden states are of another pass");
    }
    if (status == LQ_OK) {
        struct lq_forward_env env = lq_forward_run_env_of(
            forward_run, device, lq_model_reader_weights(&end->reader), LQ_EFAIL);
        env.only_products = true;
        status = lq_forward_create(&end->forward, &end->reader.hparams, &env, sequence, err);
    }
    return status == LQ_OK ? lq_forward_load_output(end->forward, err) : status;
}

void lq_pass_end_close(struct lq_pass_end *end)
{
    lq_forward_destroy(end->forward);
    end->forward = NULL;
    lq_model_reader_close(&end->reader);
}

enum lq_status lq_pass_end_read(struct lq_pass_end *end, size_t first_sample, size_t sample_count,
                                float *rows, struct lq_error *err)
{
    return lq_hidden_read(end->run, end->input, &end->hidden, first_sample, sample_count, rows,
                          err);
}

/* ---- expansion ---- */

struct names {
    const char *items[NAMES_MAX];
    size_t count;
    char text[LQ_LAYER_WEIGHT_COUNT][LQ_WEIGHT_NAME_BYTES];
};

/* Every forward pass makes its rotary positions. */
static void name_rope(const struct lq_hparams *hparams, struct names *names)
{
    if (hparams->rope_factors) {
        names->items[names->count++] = "rope_freqs.weight";
    }
    if (hparams->rope_scaling == LQ_ROPE_LONGROPE) {
        names->items[names->count++] = "rope_factors_long.weight";
        names->items[names->count++] = "rope_factors_short.weight";
    }
}

static void name_layer(const struct lq_hparams *hparams, uint32_t layer, struct names *names)
{
    name_rope(hparams, names);
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (lq_hparams_has(hparams, (enum lq_layer_weight)w)) {
            names->items[names->count++] =
                lq_layer_weight_path(layer, (enum lq_layer_weight)w, names->text[w]);
        }
    }
    if (layer == 0) {
        names->items[names->count++] = "token_embd.weight";
    }
}

static uint64_t guess_cost(const struct lq_hparams *hparams)
{
    double parts = hparams->expert_count == 0 ? 1.0 : (double)hparams->expert_used;
    double params =
        (double)hparams->width * (4.0 * hparams->width + 3.0 * parts * hparams->ffn_width);
    return (uint64_t)(params * 2.0 * 1e5 / OPS_PER_MICROSECOND);
}

static enum lq_status add_layer(struct lq_pass *pass, struct lq_expand *expand,
                                const struct lq_pass_options *options, uint32_t layer,
                                struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"hidden", true}, {"kept", true}};
    const struct lq_hparams *hparams = &pass->view.hparams;
    struct lq_arena *arena = lq_expand_arena(expand);
    struct names names = {.count = 0};
    struct lq_model_inputs inputs;
    struct layer_state *state = lq_arena_get(arena, sizeof *state);
    const char *number = lq_arena_printf(arena, "%u", (unsigned)layer);
    const char *label =
        lq_arena_printf(arena, "%s/blk.%u", lq_artifact_name(pass->view.model), (unsigned)layer);
    if (state == NULL || number == NULL || label == NULL) {
        return lq_error_nomem(err, "a step");
    }
    name_layer(hparams, layer, &names);
    *state = (struct layer_state){.model = lq_artifact_name(pass->view.model),
                                  .layer = layer,
                                  .hidden_bf16 = options->hidden_bf16};
    enum lq_status status = lq_model_inputs_init(&inputs, expand, NULL, 0, names.count + 4, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_add_part(&inputs, expand, &pass->view, "", names.items,
                                          names.count, &state->part, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_set(&inputs, "layer", number);
    if (options->hidden_bf16) {
        lq_model_inputs_set(&inputs, "hidden", "bf16");
    }
    lq_model_inputs_put(&inputs, layer == 0 ? "tokens" : "hidden",
                        layer == 0 ? options->tokens
                                   : lq_ref_step(pass->steps[layer - 1], "hidden"));
    const struct lq_step step = {.op = "quality.layer",
                                 .version = LAYER_VERSION,
                                 .label = label,
                                 .run = run_layer,
                                 .state = state,
                                 .params = inputs.params,
                                 .param_count = inputs.param_count,
                                 .inputs = inputs.inputs,
                                 .input_count = inputs.input_count,
                                 .outputs = outputs,
                                 .output_count = LQ_COUNT_OF(outputs),
                                 .parallel = true,
                                 .memory_bytes = pass->layer_memory_bytes,
                                 .cost = guess_cost(hparams)};
    return lq_expand_add_step(expand, &step, &pass->steps[layer], err);
}

enum lq_status lq_pass_add(struct lq_pass *pass, struct lq_expand *expand,
                           const struct lq_artifact *model, const struct lq_pass_options *options,
                           struct lq_error *err)
{
    *pass = (struct lq_pass){.tokens = options->tokens};
    enum lq_status status = lq_model_view_open(&pass->view, expand, model, err);
    if (status != LQ_OK) {
        return status;
    }
    uint32_t layers = pass->view.hparams.layer_count;
    pass->sequence = options->sequence != 0
                         ? options->sequence
                         : lq_perplexity_context(pass->view.hparams.context_length, 0);
    pass->layer_memory_bytes = lq_forward_layer_memory(&pass->view.hparams, pass->sequence);
    pass->steps = lq_arena_get_array(lq_expand_arena(expand), layers, sizeof *pass->steps);
    if (pass->steps == NULL) {
        return lq_error_nomem(err, "steps");
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < layers; layer++) {
        status = add_layer(pass, expand, options, layer, err);
    }
    return status;
}

enum lq_status lq_pass_inputs_add(struct lq_model_inputs *out, struct lq_expand *expand,
                                  const struct lq_pass *pass, const char *prefix,
                                  struct lq_model_part *part, struct lq_error *err)
{
    const struct lq_hparams *hparams = &pass->view.hparams;
    struct names names = {.count = 0};
    const char *input = lq_arena_printf(lq_expand_arena(expand), "%shidden", prefix);
    if (input == NULL) {
        return lq_error_nomem(err, "a step");
    }
    name_rope(hparams, &names);
    names.items[names.count++] = "output_norm.weight";
    names.items[names.count++] = hparams->tied_output ? "token_embd.weight" : "output.weight";
    lq_model_inputs_put(out, input, lq_ref_step(pass->steps[hparams->layer_count - 1], "hidden"));
    return lq_model_inputs_add_part(out, expand, &pass->view, prefix, names.items, names.count,
                                    part, err);
}

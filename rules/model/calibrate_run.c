#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/imatrix.h"
#include "rules/model/batch_flow.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/device_states.h"
#include "rules/model/device_team.h"
#include "rules/model/forward_run.h"
#include "rules/model/layer_ranges.h"
#include "rules/model/layer_stats.h"
#include "rules/model/moments.h"

/* What a calibration of ours has at least. */
enum { SAMPLES_ENOUGH = 128 };

/* ---- one layer ---- */

struct layer_run {
    struct lq_calibrate_io io;
    bool is_first;
    bool inputs_only;
    struct lq_forward_run forward_run;
    struct lq_forward *forwards[LQ_TEAM_MAX]; /* one for each device */
    struct lq_device_team team;
    /* States that are on the devices; or NULL. */
    struct lq_device_states *in;
    struct lq_device_states *out;
    struct lq_layer_stats stats;
    /* Where they are asked for. */
    struct lq_layer_ranges ranges;
    struct lq_moments moments[LQ_LAYER_INPUT_COUNT];
};

static void watch_input(void *user, enum lq_layer_input input, size_t col, const float *values,
                        size_t count)
{
    struct layer_run *layer_run = user;
    if (layer_run->io.layer->ranges) {
        lq_layer_ranges_add(&layer_run->ranges, input, col, values, count);
    }
    if (layer_run->io.layer->moments) {
        lq_moments_add(&layer_run->moments[input], lq_run_pool(layer_run->io.run), values, count);
    }
}

static enum lq_status init_watched(struct layer_run *layer_run, struct lq_error *err)
{
    const struct lq_calibrate_layer *layer = layer_run->io.layer;
    enum lq_status status = LQ_OK;
    if (layer->ranges) {
        status = lq_layer_ranges_init(&layer_run->ranges, &layer->hparams,
                                      lq_run_arena(layer_run->io.run), err);
    }
    for (int i = 0; status == LQ_OK && layer->moments && i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        bool has_output = lq_calibrate_moments_output(input) != NULL;
        status = lq_moments_init(&layer_run->moments[i],
                                 has_output ? lq_layer_input_cols(&layer->hparams, input) : 0, err);
    }
    return status;
}

struct output {
    struct lq_run *run;
    const char *name;
};

static enum lq_status write_output(void *user, const void *data, size_t size_bytes,
                                   struct lq_error *err)
{
    const struct output *output = user;
    return lq_run_write(output->run, output->name, data, size_bytes, err);
}

static enum lq_status write_moments(struct layer_run *layer_run, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
        struct lq_moments *moments = &layer_run->moments[i];
        struct output output = {layer_run->io.run,
                                lq_calibrate_moments_output((enum lq_layer_input)i)};
        if (moments->col_count > 0) {
            status = lq_moments_finish(moments, lq_run_pool(output.run), err);
        }
        if (moments->col_count > 0 && status == LQ_OK) {
            status = lq_moments_write(moments, write_output, &output, err);
        }
    }
    return status;
}

static enum lq_status write_ranges(const struct layer_run *layer_run, struct lq_error *err)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    enum lq_status status = lq_layer_ranges_format(&layer_run->ranges, &bytes, err);
    if (status == LQ_OK) {
        status = lq_run_write(layer_run->io.run, "ranges", bytes.data, bytes.size_bytes, err);
    }
    lq_buffer_fini(&bytes);
    return status;
}

static enum lq_status read_batch(void *user, size_t sample, size_t count, float *hidden,
                                 struct lq_error *err)
{
    struct layer_run *layer_run = user;
    return lq_calibrate_read_rows(&layer_run->io, "hidden", sample, count, hidden, err);
}

static enum lq_status write_batch(void *user, size_t sample, size_t count, float *hidden,
                                  struct lq_error *err)
{
    struct layer_run *layer_run = user;
    (void)sample;
    return lq_calibrate_write_rows(&layer_run->io, "hidden", hidden,
                                   count * layer_run->io.sequence_length, err);
}

/* A batch of one device, in as many parts as its memory makes of it. */
static enum lq_status pass_batch(void *user, size_t member, size_t sample, size_t count,
                                 float *hidden, struct lq_error *err)
{
    struct layer_run *layer_run = user;
    struct lq_forward *forward = layer_run->forwards[member];
    size_t most = lq_forward_batch_samples(forward);
    enum lq_status status = LQ_OK;
    for (size_t at = 0; status == LQ_OK && at < count; at += most) {
        const struct lq_forward_place place = {
            .host = hidden + at * layer_run->team.sample_values,
            .from = lq_device_states_at(layer_run->in, sample + at),
            .to = lq_device_states_at(layer_run->out, sample + at)};
        status = lq_forward_layer_at(forward, &place, count - at < most ? count - at : most, true,
                                     layer_run->inputs_only, err);
    }
    return status;
}

/* What the batch of each device has added, in the order of batches, which is how one device adds
 * them. */
static enum lq_status collect_round(struct layer_run *layer_run, size_t batches,
                                    struct lq_error *err)
{
    struct lq_layer_stats *stats = &layer_run->stats;
    enum lq_status status = LQ_OK;
    for (size_t m = 0; m < batches; m++) {
        for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
            size_t count = (size_t)stats->mats[i] * stats->cols[i];
            double *sums = count == 0 ? NULL : malloc(count * sizeof *sums);
            if (count != 0 && sums == NULL) {
                return lq_error_nomem(err, "sums");
            }
            status = lq_forward_sums(layer_run->forwards[m], (enum lq_layer_input)i, sums, err);
            for (size_t j = 0; status == LQ_OK && j < count; j++) {
                stats->sums[i][j] += sums[j];
            }
            free(sums);
        }
        lq_forward_restart_sums(layer_run->forwards[m]);
    }
    return status;
}

static enum lq_status run_round(void *user, size_t sample, size_t count, float *hidden,
                                struct lq_error *err)
{
    struct layer_run *layer_run = user;
    struct lq_calibrate_io *io = &layer_run->io;
    const struct lq_device_team *team = &layer_run->team;
    size_t first_row = sample * io->sequence_length;
    size_t rows = count * io->sequence_length;
    enum lq_status status = LQ_OK;
    if (layer_run->is_first) {
        status = lq_forward_embed(layer_run->forwards[0], io->tokens.tokens + first_row, rows,
                                  hidden, err);
    }
    if (status == LQ_OK) {
        status = lq_device_team_run(team, sample, count, hidden, err);
    }
    if (status == LQ_OK && team->member_count > 1) {
        size_t batches = (count + team->batch_samples - 1) / team->batch_samples;
        status = collect_round(layer_run, batches, err);
    }
    lq_run_progress(io->run, first_row + rows, (uint64_t)io->sample_count * io->sequence_length,
                    "tokens");
    return status;
}

static enum lq_status write_stats(struct lq_run *run, const struct lq_layer_stats *stats,
                                  struct lq_error *err)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    enum lq_status status = lq_layer_stats_format(stats, &bytes, err);
    if (status == LQ_OK) {
        status = lq_run_write(run, "stats", bytes.data, bytes.size_bytes, err);
    }
    lq_buffer_fini(&bytes);
    return status;
}

/* Sums that were not collected round by round, and counts of all devices. */
static enum lq_status finish_stats(struct layer_run *layer_run, struct lq_error *err)
{
    struct lq_layer_stats *stats = &layer_run->stats;
    enum lq_status status = LQ_OK;
    for (int i = 0; status == LQ_OK && i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        if (stats->cols[i] == 0) {
            continue;
        }
        uint64_t *counts = calloc(stats->mats[i], sizeof *counts);
        if (counts == NULL) {
            return lq_error_nomem(err, "counts");
        }
        for (size_t m = 0; m < layer_run->team.member_count; m++) {
            lq_forward_counts(layer_run->forwards[m], input, counts);
            for (size_t e = 0; e < stats->mats[i]; e++) {
                stats->counts[i][e] += counts[e];
            }
        }
        free(counts);
        if (layer_run->team.member_count == 1) {
            status = lq_forward_sums(layer_run->forwards[0], input, stats->sums[i], err);
        }
    }
    return status == LQ_OK ? write_stats(layer_run->io.run, stats, err) : status;
}

static enum lq_status stream_samples(struct layer_run *layer_run, struct lq_error *err)
{
    struct lq_calibrate_io *io = &layer_run->io;
    const struct lq_device_team *team = &layer_run->team;
    bool writes = !layer_run->inputs_only && layer_run->out == NULL;
    bool reads = !layer_run->is_first && layer_run->in == NULL;
    const struct lq_batch_flow flow = {
        .pool = reads && lq_device_states_is_one(io->run, "hidden") ? NULL : lq_run_pool(io->run),
        .sample_count = io->sample_count,
        .batch_samples = team->batch_samples * team->member_count,
        .sample_values = team->sample_values,
        .read = reads ? read_batch : NULL,
        .compute = run_round,
        .write = writes ? write_batch : NULL,
        .user = layer_run};
    enum lq_status status = LQ_OK;
    for (size_t m = 0; status == LQ_OK && m < team->member_count; m++) {
        status = lq_forward_load_layer(layer_run->forwards[m], io->layer->layer, err);
    }
    if (status == LQ_OK) {
        lq_forward_run_expect(&layer_run->forward_run, &io->layer->hparams);
    }
    if (status == LQ_OK && writes) {
        status = lq_calibrate_write_header(io, "hidden", err);
    }
    if (status == LQ_OK) {
        status = lq_batch_flow_run(&flow, err);
    }
    if (status == LQ_OK && io->layer->ranges) {
        status = write_ranges(layer_run, err);
    }
    if (status == LQ_OK && io->layer->moments) {
        status = write_moments(layer_run, err);
    }
    return status == LQ_OK ? finish_stats(layer_run, err) : status;
}

static bool is_watched(const struct lq_calibrate_layer *layer)
{
    return layer->ranges || layer->moments;
}

/* Several devices only where sums are those of batches, and nobody looks at the rows. */
static void take_devices(struct layer_run *layer_run)
{
    struct lq_calibrate_io *io = &layer_run->io;
    const struct lq_calibrate_layer *layer = io->layer;
    struct lq_device_team *team = &layer_run->team;
    struct lq_forward_run *forward_run = &layer_run->forward_run;
    bool is_alone = layer->skip_first || is_watched(layer);
    team->pool = lq_run_pool(io->run);
    team->body = pass_batch;
    team->user = layer_run;
    team->sample_values = (size_t)io->sequence_length * layer->hparams.width;
    team->batch_samples = lq_forward_wanted_samples(forward_run->device, io->sequence_length);
    team->member_count = lq_device_team_take(forward_run, io->sample_count, team->batch_samples,
                                             is_alone ? 1 : LQ_TEAM_MAX);
}

static enum lq_status make_passes(struct layer_run *layer_run, struct lq_error *err)
{
    const struct lq_calibrate_layer *layer = layer_run->io.layer;
    struct lq_device_team *team = &layer_run->team;
    enum lq_status status = LQ_OK;
    for (size_t m = 0; status == LQ_OK && m < team->member_count; m++) {
        struct lq_forward_env env = lq_forward_run_env_of(
            &layer_run->forward_run, m, lq_calibrate_weights(&layer_run->io), LQ_EIMPORTANCE);
        env.skip_first = layer->skip_first;
        env.only_products = true;
        env.watch = is_watched(layer) ? watch_input : NULL;
        env.watch_user = layer_run;
        status = lq_forward_create(&layer_run->forwards[m], &layer->hparams, &env,
                                   layer_run->io.sequence_length, err);
    }
    if (status == LQ_OK && team->member_count == 1) {
        team->batch_samples = lq_forward_batch_samples(layer_run->forwards[0]);
    }
    return status;
}

static enum lq_status run_layer(struct layer_run *layer_run, struct lq_error *err)
{
    struct lq_calibrate_io *io = &layer_run->io;
    const struct lq_calibrate_layer *layer = io->layer;
    enum lq_status status = init_watched(layer_run, err);
    if (status == LQ_OK) {
        layer_run->stats = (struct lq_layer_stats){.sample_count = io->sample_count,
                                                   .sequence_length = io->sequence_length};
        lq_layer_stats_shape(&layer_run->stats, &layer->hparams);
        status = lq_layer_stats_alloc(&layer_run->stats, lq_run_arena(io->run), err);
    }
    if (status != LQ_OK) {
        return status;
    }
    take_devices(layer_run);
    layer_run->in =
        lq_device_states_find_parts(&layer_run->forward_run, "hidden",
                                    layer_run->team.batch_samples, layer_run->team.member_count);
    layer_run->out = layer_run->inputs_only
                         ? NULL
                         : lq_calibrate_hold(io, &layer_run->forward_run, &layer_run->team);
    status = make_passes(layer_run, err);
    return status == LQ_OK ? stream_samples(layer_run, err) : status;
}

enum lq_status lq_calibrate_run_layer(struct lq_run *run, struct lq_error *err)
{
    const struct lq_calibrate_layer *layer = lq_run_state(run);
    struct layer_run layer_run = {
        .io = {.run = run, .layer = layer},
        .is_first = layer->layer == 0,
        .inputs_only = layer->layer + 1 == layer->hparams.layer_count && !layer->whole,
    };
    enum lq_status status = layer_run.is_first
                                ? lq_calibrate_open_tokens(&layer_run.io, err)
                                : lq_calibrate_open_rows(&layer_run.io, "hidden", err);
    if (status == LQ_OK) {
        status = lq_forward_run_open(&layer_run.forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = run_layer(&layer_run, err);
    }
    for (size_t m = 0; m < layer_run.team.member_count; m++) {
        lq_forward_destroy(layer_run.forwards[m]);
    }
    lq_forward_run_close(&layer_run.forward_run);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        lq_moments_fini(&layer_run.moments[i]);
    }
    return status;
}

/* ---- the file ---- */

static enum lq_status write_formats(struct lq_run *run, const struct lq_imatrix *imatrix,
                                    struct lq_error *err)
{
    const char *name = lq_run_param(run, "format");
    enum lq_imatrix_format format = LQ_IMATRIX_IMAT;
    if (name != NULL && strcmp(name, "gguf") == 0) {
        format = LQ_IMATRIX_GGUF;
    } else if (name != NULL && strcmp(name, "dat") == 0) {
        format = LQ_IMATRIX_DAT;
    }
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    enum lq_status status = lq_imatrix_format(imatrix, format, &bytes, err);
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", bytes.data, bytes.size_bytes, err);
    }
    if (status == LQ_OK && format != LQ_IMATRIX_GGUF) {
        lq_buffer_clear(&bytes);
        status = lq_imatrix_format(imatrix, LQ_IMATRIX_GGUF, &bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "gguf", bytes.data, bytes.size_bytes, err);
    }
    lq_buffer_fini(&bytes);
    return status;
}

/* One input's sums and counts as an imatrix has them, shared by the matrices that read it. */
static enum lq_status convert_input(const struct lq_layer_stats *stats, int input, uint32_t layer,
                                    struct lq_arena *arena, struct lq_imatrix_entry *out,
                                    struct lq_error *err)
{
    size_t mats = stats->mats[input];
    size_t count = mats * stats->cols[input];
    out->col_count = stats->cols[input];
    out->mat_count = mats;
    out->count_count = mats;
    float *sums = lq_arena_get_array(arena, count + 1, sizeof *sums);
    float *counts = lq_arena_get_array(arena, mats + 1, sizeof *counts);
    if (sums == NULL || counts == NULL) {
        return lq_error_nomem(err, "an imatrix");
    }
    for (size_t m = 0; m < mats; m++) {
        counts[m] = (float)stats->counts[input][m];
    }
    for (size_t j = 0; j < count; j++) {
        sums[j] = (float)stats->sums[input][j];
        if (!isfinite(sums[j])) {
            return lq_error_set(err, LQ_EIMPORTANCE,
                                "a sum of squares of layer %u does not fit a float",
                                (unsigned)layer);
        }
    }
    out->sums = sums;
    out->counts = counts;
    return LQ_OK;
}

static enum lq_status add_entries(const struct lq_layer_stats *stats,
                                  const struct lq_hparams *hparams, uint32_t layer,
                                  struct lq_imatrix *imatrix, struct lq_arena *arena,
                                  struct lq_error *err)
{
    struct lq_imatrix_entry inputs[LQ_LAYER_INPUT_COUNT];
    memset(inputs, 0, sizeof inputs);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_status status = convert_input(stats, i, layer, arena, &inputs[i], err);
        if (status != LQ_OK) {
            return status;
        }
    }
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_input input = lq_layer_weight_input((enum lq_layer_weight)w);
        if (input == LQ_LAYER_INPUT_COUNT || !lq_hparams_has(hparams, (enum lq_layer_weight)w)) {
            continue;
        }
        char name[LQ_WEIGHT_NAME_BYTES];
        lq_layer_weight_path(layer, (enum lq_layer_weight)w, name);
        struct lq_imatrix_entry *entry = &imatrix->entries[imatrix->entry_count++];
        *entry = inputs[input];
        entry->name = lq_arena_dup_string(arena, name);
        if (entry->name == NULL) {
            return lq_error_nomem(err, "an imatrix");
        }
    }
    return LQ_OK;
}

void lq_calibrate_count_idle(struct lq_calibrate_idle *idle, uint32_t layer, const uint64_t *counts,
                             size_t count)
{
    idle->total += count;
    for (size_t e = 0; e < count; e++) {
        if (counts[e] != 0) {
            continue;
        }
        size_t at = strlen(idle->text);
        size_t room = sizeof idle->text - at;
        bool same = idle->count != 0 && idle->layer == layer;
        int length = same ? snprintf(idle->text + at, room, ", %zu", e)
                          : snprintf(idle->text + at, room, "%slayer %u: %zu",
                                     idle->count == 0 ? "" : "; ", (unsigned)layer, e);
        if (length < 0 || (size_t)length >= room) {
            idle->text[at] = '\0';
        }
        idle->layer = layer;
        idle->count++;
    }
}

static int compare_names(const void *a, const void *b)
{
    const struct lq_imatrix_entry *left = a;
    const struct lq_imatrix_entry *right = b;
    return strcmp(left->name, right->name);
}

enum lq_status lq_calibrate_finish(struct lq_run *run, struct lq_imatrix *imatrix,
                                   const struct lq_calibrate_idle *idle, struct lq_error *err)
{
    if (idle->count != 0) {
        bool cut = strlen(idle->text) + LQ_WEIGHT_NAME_BYTES > sizeof idle->text;
        lq_run_warn(run,
                    "no token of the calibration went to %llu of %llu experts (%s%s); all columns "
                    "of these count the same when they are quantized, a longer text helps",
                    (unsigned long long)idle->count, (unsigned long long)idle->total, idle->text,
                    cut ? " and more" : "");
    }
    qsort(imatrix->entries, imatrix->entry_count, sizeof *imatrix->entries, compare_names);
    return write_formats(run, imatrix, err);
}

static enum lq_status add_layer_stats(struct lq_run *run, const struct lq_hparams *hparams,
                                      uint32_t layer, struct lq_imatrix *imatrix,
                                      struct lq_calibrate_idle *idle, struct lq_error *err)
{
    char input[LQ_WEIGHT_NAME_BYTES];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_layer_stats stats;
    (void)snprintf(input, sizeof input, "stats.%u", (unsigned)layer);
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_layer_stats_parse(data, size_bytes, lq_run_arena(run), &stats, err);
    }
    if (status == LQ_OK) {
        imatrix->chunk_count = stats.sample_count;
        imatrix->chunk_size = stats.sequence_length;
        lq_calibrate_count_idle(idle, layer, stats.counts[LQ_INPUT_FFN_EXPS],
                                stats.mats[LQ_INPUT_FFN_EXPS]);
        status = add_entries(&stats, hparams, layer, imatrix, lq_run_arena(run), err);
    }
    return status;
}

enum lq_status lq_calibrate_run_assemble(struct lq_run *run, struct lq_error *err)
{
    struct lq_hparams hparams;
    struct lq_calibrate_idle idle = {0};
    enum lq_status status = lq_hparams_parse(lq_run_param(run, "hparams"), &hparams, err);
    if (status != LQ_OK) {
        return status;
    }
    uint32_t layers = hparams.layer_count;
    const char *dataset = lq_run_param(run, "dataset");
    struct lq_imatrix imatrix = {
        .datasets = &dataset, .dataset_count = 1, .method = LQ_IMPORTANCE_ACTIVATION};
    if (dataset == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "an imatrix without a name of its data");
    }
    imatrix.entries = lq_arena_get_array(lq_run_arena(run), (size_t)layers * LQ_LAYER_WEIGHT_COUNT,
                                         sizeof *imatrix.entries);
    if (imatrix.entries == NULL) {
        return lq_error_nomem(err, "an imatrix");
    }
    for (uint32_t layer = 0; layer < layers; layer++) {
        status = add_layer_stats(run, &hparams, layer, &imatrix, &idle, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return lq_calibrate_finish(run, &imatrix, &idle, err);
}

/* ---- a finished file ---- */

/* A legacy .dat file does not say where one expert ends and the next begins; the model does. */
static void split_experts(struct lq_imatrix_entry *entry, const struct lq_model_tensor *tensor)
{
    bool joined = entry->mat_count == 1 && tensor->ne[2] > 1 &&
                  entry->col_count / tensor->ne[2] == tensor->ne[0] &&
                  entry->col_count % tensor->ne[2] == 0;
    if (joined) {
        entry->col_count = (size_t)tensor->ne[0];
        entry->mat_count = (size_t)tensor->ne[2];
    }
}

static enum lq_status check_fit(struct lq_imatrix *imatrix, const struct lq_tensor_index *index,
                                const char *where, struct lq_error *err)
{
    size_t found = 0;
    for (size_t i = 0; i < index->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index->tensors[i];
        const struct lq_imatrix_entry *match = lq_imatrix_find(imatrix, tensor->name);
        if (match == NULL) {
            continue;
        }
        struct lq_imatrix_entry *entry = &imatrix->entries[match - imatrix->entries];
        split_experts(entry, tensor);
        found++;
        if (entry->col_count != tensor->ne[0] || entry->mat_count != tensor->ne[2]) {
            return lq_error_set(err, LQ_EIMATRIX,
                                "%s: '%s' has %zu x %zu values, expected %llu x %llu; the imatrix "
                                "was made for another model",
                                where, entry->name, entry->col_count, entry->mat_count,
                                (unsigned long long)tensor->ne[0],
                                (unsigned long long)tensor->ne[2]);
        }
    }
    if (found == 0) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "%s: none of its %zu entries names a tensor of the model; it was made "
                            "for another one",
                            where, imatrix->entry_count);
    }
    return LQ_OK;
}

/* A matrix of few samples is usable, and worth less than it looks. */
static void warn_of_few_samples(struct lq_run *run, const struct lq_imatrix *imatrix,
                                const char *where)
{
    if (imatrix->chunk_count > 0 && imatrix->chunk_count < SAMPLES_ENOUGH) {
        lq_run_warn(run, "%s: was made from %u sample%s; %d or more are worth their time", where,
                    imatrix->chunk_count, imatrix->chunk_count == 1 ? "" : "s", SAMPLES_ENOUGH);
    }
}

/* An importance matrix may leave layers out, but hardly on purpose. */
static void warn_of_gaps(struct lq_run *run, const struct lq_imatrix *imatrix,
                         const struct lq_tensor_index *index, const char *where)
{
    const char *first = NULL;
    size_t missing = 0;
    size_t wanted = 0;
    for (size_t i = 0; i < index->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index->tensors[i];
        if (tensor->ne[1] <= 1 || strncmp(tensor->name, "blk.", 4) != 0) {
            continue;
        }
        wanted++;
        if (lq_imatrix_find(imatrix, tensor->name) == NULL) {
            first = first == NULL ? tensor->name : first;
            missing++;
        }
    }
    if (missing > 0) {
        lq_run_warn(run,
                    "%s: says nothing about %zu of %zu matrices of the layers, '%s' first; they "
                    "are quantized without importance",
                    where, missing, wanted, first);
    }
}

enum lq_status lq_calibrate_run_load(struct lq_run *run, struct lq_error *err)
{
    const char *where = lq_run_param(run, "name");
    struct lq_arena *arena = lq_run_arena(run);
    struct lq_tensor_index index;
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "file", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_imatrix_parse(data, size_bytes, where, arena, &imatrix, &format, err);
    }
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "tensors", &data, &size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &index, err);
    }
    if (status == LQ_OK) {
        status = check_fit(&imatrix, &index, where, err);
    }
    if (status == LQ_OK) {
        warn_of_few_samples(run, &imatrix, where);
        warn_of_gaps(run, &imatrix, &index, where);
    }
    return status == LQ_OK ? write_formats(run, &imatrix, err) : status;
}

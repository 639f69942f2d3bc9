#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/imatrix.h"
#include "rules/format/mask.h"

struct analysis {
    struct lq_cli *cli;
    const char *model;
    const char *output;
    const char *mask_output; /* NULL: no mask asked for */
    const char *method;
    const char *find; /* ranking, spikes or both */
    double coverage;
    double threshold; /* 0: the rule's own */
    uint64_t precision;
    uint64_t started_ns;
};

struct statistics {
    double min;
    double max;
    double mean;
    double deviation;
};

/* Over the mean square of every column of every entry. */
static enum lq_status count_statistics(struct lq_arena *arena, const struct lq_imatrix *imatrix,
                                       struct statistics *out, struct lq_error *err)
{
    double sum = 0.0;
    double sum_squares = 0.0;
    uint64_t count = 0;
    *out = (struct statistics){.min = INFINITY, .max = -INFINITY};
    for (size_t e = 0; e < imatrix->entry_count; e++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[e];
        float *means = lq_arena_get_array(arena, entry->col_count, sizeof *means);
        if (means == NULL) {
            return lq_error_nomem(err, "the statistics");
        }
        for (size_t mat = 0; mat < entry->mat_count; mat++) {
            lq_imatrix_means(entry, mat, means);
            for (size_t i = 0; i < entry->col_count; i++) {
                double value = (double)means[i];
                out->min = fmin(out->min, value);
                out->max = fmax(out->max, value);
                sum += value;
                sum_squares += value * value;
                count++;
            }
        }
    }
    if (count > 0) {
        out->mean = sum / (double)count;
        out->deviation = sqrt(fmax(0.0, sum_squares / (double)count - out->mean * out->mean));
    }
    return LQ_OK;
}

static int64_t count_layers(const struct lq_imatrix *imatrix)
{
    int64_t last = -1;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        unsigned layer = 0;
        if (sscanf(imatrix->entries[i].name, "blk.%5u.", &layer) == 1 && (int64_t)layer > last) {
            last = (int64_t)layer;
        }
    }
    return last + 1;
}

/* What it was measured on; the hash is that of the file, as sha256sum gives it. */
static void put_calibration(const struct analysis *analysis, const struct lq_imatrix *imatrix,
                            struct lq_json_writer *writer)
{
    struct lq_map map;
    const char *path = lq_quick_calibration_data(analysis->cli);
    lq_json_key(writer, "calibration_info");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "dataset_name",
                       imatrix->dataset_count > 0 ? imatrix->datasets[0] : lq_path_base(path));
    lq_json_put_int(writer, "num_samples", (int64_t)imatrix->chunk_count);
    lq_json_put_int(writer, "sequence_length", (int64_t)imatrix->chunk_size);
    lq_json_put_string(writer, "source_path", path);
    if (lq_map_open(&map, path, LQ_EIO, NULL) == LQ_OK) {
        struct lq_digest digest;
        char hex[LQ_DIGEST_HEX_BYTES];
        lq_digest_of(map.data, (size_t)map.size_bytes, &digest);
        lq_json_put_string(writer, "hash", lq_digest_to_hex(&digest, hex));
        lq_map_close(&map);
    }
    lq_json_end_object(writer);
}

static void write_result(const struct analysis *analysis, const struct lq_imatrix *imatrix,
                         const struct lq_mask *mask, const struct statistics *stats,
                         struct lq_json_writer *writer)
{
    /* The words of the command line contract for the methods. */
    static const char *const methods[] = {"activation_magnitude", "gradient_sensitivity",
                                          "fisher_information"};
    unsigned method = (unsigned)imatrix->method;
    char id[LQ_DIGEST_HEX_BYTES];
    lq_json_put_string(writer, "output_path", analysis->output);
    if (lq_imatrix_id(imatrix, id, NULL) == LQ_OK) {
        lq_json_put_string(writer, "matrix_id", id);
    }
    lq_json_put_string(writer, "model_path", analysis->model);
    lq_json_put_string(writer, "method",
                       method < LQ_COUNT_OF(methods) ? methods[method] : methods[0]);
    lq_json_put_int(writer, "num_layers", count_layers(imatrix));
    lq_json_put_int(writer, "num_tensors", (int64_t)imatrix->entry_count);
    lq_json_put_int(writer, "calibration_samples", (int64_t)imatrix->chunk_count);
    put_calibration(analysis, imatrix, writer);
    lq_json_key(writer, "global_statistics");
    lq_json_begin_object(writer);
    lq_json_put_number(writer, "min", stats->min);
    lq_json_put_number(writer, "max", stats->max);
    lq_json_put_number(writer, "mean", stats->mean);
    lq_json_put_number(writer, "std", stats->deviation);
    lq_json_end_object(writer);
    lq_json_key(writer, "super_weights");
    lq_json_begin_object(writer);
    lq_json_put_bool(writer, "identified", analysis->mask_output != NULL);
    if (analysis->mask_output != NULL) {
        lq_json_put_number(writer, "coverage", mask->coverage);
        lq_json_put_int(writer, "total_protected", (int64_t)mask->total_protected);
        lq_json_put_string(writer, "mask_path", analysis->mask_output);
    }
    lq_json_end_object(writer);
    lq_json_put_number(writer, "duration_seconds",
                       (double)(lq_clock_ns() - analysis->started_ns) * 1e-9);
}

static enum lq_status read_mask(const char *path, struct lq_arena *arena, struct lq_mask *mask,
                                struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EIO, err);
    if (status == LQ_OK) {
        status = lq_mask_parse(map.data, map.size_bytes, path, arena, mask, err);
        lq_map_close(&map);
    }
    return status;
}

static enum lq_status print_analysis(void *user, struct lq_json_writer *writer,
                                     struct lq_buffer *out, struct lq_error *err)
{
    const struct analysis *analysis = user;
    struct lq_map map;
    struct lq_imatrix imatrix;
    struct lq_arena arena;
    struct statistics stats;
    struct lq_mask mask = {.total_protected = 0};
    enum lq_imatrix_format format;
    lq_arena_init(&arena);
    enum lq_status status = lq_map_open(&map, analysis->output, LQ_EIMATRIX, err);
    if (status == LQ_OK) {
        status = lq_imatrix_parse(map.data, map.size_bytes, analysis->output, &arena, &imatrix,
                                  &format, err);
        lq_map_close(&map);
    }
    if (status == LQ_OK) {
        status = count_statistics(&arena, &imatrix, &stats, err);
    }
    if (status == LQ_OK && analysis->mask_output != NULL) {
        status = read_mask(analysis->mask_output, &arena, &mask, err);
    }
    if (status == LQ_OK && writer != NULL) {
        write_result(analysis, &imatrix, &mask, &stats, writer);
    } else if (status == LQ_OK) {
        lq_buffer_printf(out, "%s: %zu tensors of %lld layers, %u samples of %u tokens\n",
                         analysis->output, imatrix.entry_count, (long long)count_layers(&imatrix),
                         imatrix.chunk_count, imatrix.chunk_size);
        if (analysis->mask_output != NULL) {
            lq_buffer_printf(out, "%s: %llu super weights in %zu tensors\n", analysis->mask_output,
                             (unsigned long long)mask.total_protected, mask.tensor_count);
        }
    }
    lq_arena_fini(&arena);
    return status;
}

static void write_mask(const struct analysis *analysis, struct lq_recipe_text *text)
{
    lq_recipe_text_begin(text, "mask", "super");
    lq_recipe_text_word(text, "model", "base");
    lq_recipe_text_string(text, "find", analysis->find);
    if (strcmp(analysis->find, "spikes") != 0) {
        lq_recipe_text_word(text, "imatrix", "im");
        lq_recipe_text_number(text, "coverage", analysis->coverage);
    }
    if (strcmp(analysis->find, "ranking") != 0) {
        lq_recipe_text_word(text, "calibration", "calib");
    }
    if (analysis->threshold != 0.0) {
        lq_recipe_text_number(text, "threshold", analysis->threshold);
    }
    lq_recipe_text_uint(text, "precision", analysis->precision);
    lq_recipe_text_string(text, "path", analysis->mask_output);
    lq_recipe_text_end(text);
}

static enum lq_status write_analysis(struct lq_cli *cli, const struct analysis *analysis,
                                     struct lq_recipe_text *text, struct lq_error *err)
{
    lq_recipe_text_begin(text, "model", "base");
    lq_recipe_text_string(text, "source", analysis->model);
    lq_recipe_text_end(text);
    enum lq_status status = lq_quick_add_calibration(cli, text, "base", 512, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_recipe_text_begin(text, "imatrix", "im");
    lq_recipe_text_word(text, "model", "base");
    lq_recipe_text_word(text, "calibration", "calib");
    lq_recipe_text_string(text, "method", analysis->method);
    if (lq_args_has(&cli->args, "skip-first")) {
        lq_recipe_text_word(text, "skip_first", "true");
    }
    lq_recipe_text_string(text, "path", analysis->output);
    lq_recipe_text_end(text);
    if (analysis->mask_output != NULL) {
        write_mask(analysis, text);
    }
    return LQ_OK;
}

/* FILE with another extension, for what goes beside it. */
static const char *beside(struct lq_cli *cli, const char *path, const char *extension)
{
    size_t length = strlen(path) - strlen(lq_path_extension(path));
    char *stem = lq_arena_dup(&cli->arena, path, length);
    return stem == NULL ? NULL : lq_arena_printf(&cli->arena, "%s%s", stem, extension);
}

/* Results are kept step by step in the cache, so a checkpoint folder is a cache folder. */
static enum lq_status settle_checkpoints(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const names[] = {"checkpoint-dir", "resume"};
    const char *given = lq_args_get(&cli->args, "cache-dir");
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        const char *dir = lq_args_get(&cli->args, names[i]);
        if (dir == NULL) {
            continue;
        }
        if (given != NULL && strcmp(given, dir) != 0) {
            return lq_error_set(err, LQ_EUSAGE,
                                "--%s %s, but results go to %s already; give one folder", names[i],
                                dir, given);
        }
        if (strcmp(names[i], "resume") == 0 && !lq_path_is_dir(dir)) {
            return lq_error_set(err, LQ_EUSAGE,
                                "--resume %s: no such folder; it is what --checkpoint-dir named "
                                "when the analysis was interrupted",
                                dir);
        }
        given = dir;
        cli->cache_dir = dir;
    }
    return LQ_OK;
}

/* What is said about the mask. */
static enum lq_status read_mask_words(struct analysis *analysis, struct lq_error *err)
{
    static const char *const names[] = {"find", "threshold", "coverage", "precision"};
    const struct lq_args *args = &analysis->cli->args;
    bool has_coverage = false;
    bool has_threshold = false;
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        if (lq_args_has(args, names[i]) && !lq_args_has(args, "identify-super-weights")) {
            return lq_error_set(err, LQ_EUSAGE,
                                "--%s means nothing without --identify-super-weights", names[i]);
        }
    }
    const char *find = lq_args_get(args, "find");
    analysis->find = find == NULL ? "ranking" : find;
    enum lq_status status =
        lq_args_number(args, "coverage", &analysis->coverage, &has_coverage, err);
    if (status == LQ_OK) {
        status = lq_args_number(args, "threshold", &analysis->threshold, &has_threshold, err);
    }
    /* The schema knows the real ranges. */
    if (status == LQ_OK) {
        status = lq_args_uint(args, "precision", 0, 64, &analysis->precision, err);
    }
    if (status == LQ_OK && has_threshold && strcmp(analysis->find, "ranking") == 0) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--threshold is for activation spikes; give --find spikes or both");
    }
    if (status == LQ_OK && has_threshold && !(analysis->threshold > 0.0)) {
        return lq_error_set(err, LQ_EUSAGE, "--threshold is %g, expected more than 0",
                            analysis->threshold);
    }
    if (status == LQ_OK && has_coverage && strcmp(analysis->find, "spikes") == 0) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--coverage is for ranking; give --find ranking or both");
    }
    return status;
}

static enum lq_status prepare(struct lq_cli *cli, struct analysis *analysis, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    const char *name = NULL;
    *analysis = (struct analysis){
        .cli = cli,
        .model = args->operands[0],
        .output = lq_args_get(args, "output"),
        .method = lq_args_get(args, "method"),
        .coverage = 0.0001,
        .precision = 16,
        .started_ns = lq_clock_ns(),
    };
    enum lq_status status = read_mask_words(analysis, err);
    if (status == LQ_OK) {
        status = settle_checkpoints(cli, err);
    }
    if (status == LQ_OK) {
        status = lq_quick_find_model(cli, analysis->model, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_quick_base_name(cli, analysis->model, &name, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (analysis->output == NULL) {
        analysis->output = lq_arena_printf(&cli->arena, "%s.imatrix", name);
    }
    if (analysis->output != NULL && lq_args_has(args, "identify-super-weights")) {
        analysis->mask_output = beside(cli, analysis->output, ".mask");
        return analysis->mask_output == NULL ? lq_error_nomem(err, "the command") : LQ_OK;
    }
    return analysis->output == NULL ? lq_error_nomem(err, "the command") : LQ_OK;
}

enum lq_status lq_command_analyze(struct lq_cli *cli, struct lq_error *err)
{
    static const char *const targets[] = {"im", "super"};
    struct analysis analysis;
    struct lq_recipe_text text;
    lq_recipe_text_init(&text);
    enum lq_status status = prepare(cli, &analysis, err);
    if (status == LQ_OK) {
        status = write_analysis(cli, &analysis, &text, err);
    }
    if (status == LQ_OK) {
        struct lq_quick_build build = {
            .targets = targets,
            .target_count = analysis.mask_output == NULL ? 1 : 2,
            .hide_summary = true,
            .print = print_analysis,
            .user = &analysis,
        };
        status = lq_quick_run(cli, &text, &build, err);
    }
    lq_recipe_text_fini(&text);
    return status;
}

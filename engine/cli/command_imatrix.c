#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/imatrix.h"
#include "rules/format/imatrix_merge.h"
#include "rules/format/imatrix_stats.h"

/* Differences of mean squares below this are noise of the file formats' floats. */
#define ABSOLUTE_DEFAULT 1e-6

static enum lq_status read_matrix(struct lq_cli *cli, const char *path, struct lq_imatrix *out,
                                  struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EIMATRIX, err);
    if (status == LQ_OK) {
        status = lq_imatrix_parse(map.data, map.size_bytes, path, &cli->arena, out, NULL, err);
        lq_map_close(&map);
    }
    return status;
}

static enum lq_status write_matrix(const char *path, const struct lq_imatrix *imatrix,
                                   struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_imatrix_format(imatrix, lq_imatrix_format_of_path(path), &out, err);
    if (status == LQ_OK) {
        status = lq_file_write(path, out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status print_text(struct lq_buffer *out, const struct lq_cli *cli,
                                 struct lq_error *err)
{
    enum lq_status status = out->failed ? lq_error_nomem(err, "the output") : LQ_OK;
    if (status == LQ_OK) {
        lq_cli_print_value(cli, out);
    }
    lq_buffer_fini(out);
    return status;
}

static enum lq_status print_written(const struct lq_cli *cli, const char *path,
                                    const struct lq_imatrix *imatrix, struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (lq_quick_wants_json(cli)) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &out, true);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "status", "success");
        lq_json_put_string(&writer, "output_path", path);
        lq_json_put_int(&writer, "entries", (int64_t)imatrix->entry_count);
        lq_json_put_int(&writer, "samples", (int64_t)imatrix->chunk_count);
        lq_json_end_object(&writer);
    } else {
        lq_buffer_printf(&out, "%s: %zu entries of %u samples\n", path, imatrix->entry_count,
                         (unsigned)imatrix->chunk_count);
    }
    return print_text(&out, cli, err);
}

enum lq_status lq_command_imatrix_convert(struct lq_cli *cli, struct lq_error *err)
{
    const char *to = cli->args.operands[1];
    struct lq_imatrix imatrix;
    enum lq_status status = read_matrix(cli, cli->args.operands[0], &imatrix, err);
    if (status == LQ_OK) {
        status = write_matrix(to, &imatrix, err);
    }
    return status == LQ_OK ? print_written(cli, to, &imatrix, err) : status;
}

enum lq_status lq_command_imatrix_merge(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    const char *to = lq_args_get(args, "output");
    size_t count = args->operand_count;
    if (to == NULL) {
        return lq_error_set(err, LQ_EUSAGE, "no file to write the sum to; give -o FILE");
    }
    struct lq_imatrix merged;
    struct lq_imatrix *matrices = lq_arena_get_array(&cli->arena, count, sizeof *matrices);
    enum lq_status status = matrices == NULL ? lq_error_nomem(err, "the matrices") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        status = read_matrix(cli, args->operands[i], &matrices[i], err);
    }
    if (status == LQ_OK) {
        status = lq_imatrix_merge(matrices, args->operands, count,
                                  lq_args_has(args, "allow-missing"), &cli->arena, &merged, err);
    }
    if (status == LQ_OK) {
        status = write_matrix(to, &merged, err);
    }
    return status == LQ_OK ? print_written(cli, to, &merged, err) : status;
}

/* ---- stats ---- */

static void print_number(struct lq_buffer *out, int width, const char *format, double value)
{
    char text[48] = "-";
    if (!isnan(value)) {
        (void)snprintf(text, sizeof text, format, value);
    }
    lq_buffer_printf(out, " %*s", width, text);
}

static int name_width(const struct lq_imatrix *imatrix)
{
    size_t width = 12;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        size_t length = strlen(imatrix->entries[i].name);
        width = length > width ? length : width;
    }
    return width > 60 ? 60 : (int)width;
}

static void print_stats(const struct lq_imatrix *imatrix, const struct lq_imatrix_stats *all,
                        struct lq_buffer *out)
{
    int width = name_width(imatrix);
    lq_buffer_printf(out, "%-*s %11s %11s %11s %11s %11s %8s %7s %8s %8s %8s %7s\n", width,
                     "tensor", "sum", "min", "max", "mean", "deviation", "active%", "columns",
                     "entropy", "entropy%", "outlier%", "cosine");
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_stats *stats = &all[i];
        lq_buffer_printf(out, "%-*.*s", width, width, stats->name);
        print_number(out, 11, "%.5g", stats->sum);
        print_number(out, 11, "%.4g", stats->min);
        print_number(out, 11, "%.4g", stats->max);
        print_number(out, 11, "%.4g", stats->mean);
        print_number(out, 11, "%.4g", stats->deviation);
        print_number(out, 8, "%.2f", stats->active_pct);
        lq_buffer_printf(out, " %7zu", stats->columns);
        print_number(out, 8, "%.4f", stats->entropy);
        print_number(out, 8, "%.2f", stats->entropy_pct);
        print_number(out, 8, "%.2f", stats->outlier_pct);
        print_number(out, 7, "%.4f", stats->previous_cosine);
        lq_buffer_append_char(out, '\n');
    }
}

static void put_stats(const struct lq_imatrix *imatrix, const struct lq_imatrix_stats *all,
                      struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "tensors");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_stats *stats = &all[i];
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "name", stats->name);
        lq_json_put_int(&writer, "columns", (int64_t)stats->columns);
        lq_json_put_number(&writer, "sum", stats->sum);
        lq_json_put_number(&writer, "min", stats->min);
        lq_json_put_number(&writer, "max", stats->max);
        lq_json_put_number(&writer, "mean", stats->mean);
        lq_json_put_number(&writer, "deviation", stats->deviation);
        lq_json_put_number(&writer, "active_pct", stats->active_pct);
        lq_json_put_number(&writer, "entropy", stats->entropy);
        lq_json_put_number(&writer, "entropy_pct", stats->entropy_pct);
        lq_json_put_number(&writer, "outlier_pct", stats->outlier_pct);
        lq_json_put_number(&writer, "previous_cosine", stats->previous_cosine);
        lq_json_end_object(&writer);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

enum lq_status lq_command_imatrix_stats(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_imatrix imatrix;
    struct lq_imatrix_stats *all = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = read_matrix(cli, cli->args.operands[0], &imatrix, err);
    if (status == LQ_OK) {
        status = lq_imatrix_stats_make(&imatrix, &cli->arena, &all, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (lq_quick_wants_json(cli)) {
        put_stats(&imatrix, all, &out);
    } else {
        print_stats(&imatrix, all, &out);
    }
    return print_text(&out, cli, err);
}

/* ---- compare ---- */

struct differences {
    const struct lq_imatrix_difference *items;
    size_t count;
    const char *a;
    const char *b;
    double limit; /* NaN: none */
    double largest;
    size_t beyond; /* entries that differ by more than the limit, or are not in both */
};

static bool is_beyond(const struct differences *all, const struct lq_imatrix_difference *one)
{
    return one->only_in_a || one->only_in_b || one->shapes_differ || one->relative > all->limit;
}

static void print_differences(const struct differences *all, struct lq_buffer *out)
{
    int width = 12;
    for (size_t i = 0; i < all->count; i++) {
        int length = (int)strlen(all->items[i].name);
        width = length > width ? length : width;
    }
    lq_buffer_printf(out, "%-*s %12s %12s %8s\n", width, "tensor", "relative", "absolute",
                     "column");
    for (size_t i = 0; i < all->count; i++) {
        const struct lq_imatrix_difference *one = &all->items[i];
        lq_buffer_printf(out, "%-*s ", width, one->name);
        if (one->only_in_a || one->only_in_b) {
            lq_buffer_printf(out, "only in %s\n", one->only_in_a ? all->a : all->b);
        } else if (one->shapes_differ) {
            lq_buffer_append_string(out, "has different shapes\n");
        } else {
            lq_buffer_printf(out, "%12.4e %12.4e %8zu%s\n", one->relative, one->absolute,
                             one->column, is_beyond(all, one) ? "  beyond the limit" : "");
        }
    }
    lq_buffer_printf(out, "largest relative difference %.4e\n", all->largest);
}

static void put_differences(const struct differences *all, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_put_number(&writer, "largest_relative", all->largest);
    lq_json_put_number(&writer, "max_relative", all->limit);
    lq_json_put_int(&writer, "beyond", (int64_t)all->beyond);
    lq_json_key(&writer, "tensors");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < all->count; i++) {
        const struct lq_imatrix_difference *one = &all->items[i];
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "name", one->name);
        if (one->only_in_a || one->only_in_b) {
            lq_json_put_string(&writer, "only_in", one->only_in_a ? "a" : "b");
        } else if (one->shapes_differ) {
            lq_json_put_bool(&writer, "shapes_differ", true);
        } else {
            lq_json_put_number(&writer, "relative", one->relative);
            lq_json_put_number(&writer, "absolute", one->absolute);
            lq_json_put_int(&writer, "column", (int64_t)one->column);
        }
        lq_json_end_object(&writer);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

static enum lq_status read_limits(const struct lq_args *args, double *limit, double *floor,
                                  struct lq_error *err)
{
    bool given = false;
    enum lq_status status = lq_args_number(args, "max-relative", limit, &given, err);
    if (status == LQ_OK && given && *limit < 0.0) {
        return lq_error_set(err, LQ_EUSAGE, "--max-relative is %g, expected at least 0", *limit);
    }
    if (status == LQ_OK) {
        status = lq_args_number(args, "ignore-below", floor, &given, err);
    }
    return status;
}

enum lq_status lq_command_imatrix_compare(struct lq_cli *cli, struct lq_error *err)
{
    struct differences all = {
        .a = cli->args.operands[0], .b = cli->args.operands[1], .limit = (double)NAN};
    double floor = ABSOLUTE_DEFAULT;
    struct lq_imatrix a;
    struct lq_imatrix b;
    struct lq_imatrix_difference *items = NULL;
    enum lq_status status = read_limits(&cli->args, &all.limit, &floor, err);
    if (status == LQ_OK) {
        status = read_matrix(cli, all.a, &a, err);
    }
    if (status == LQ_OK) {
        status = read_matrix(cli, all.b, &b, err);
    }
    if (status == LQ_OK) {
        status = lq_imatrix_compare(&a, &b, floor, &cli->arena, &items, &all.count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    all.items = items;
    for (size_t i = 0; i < all.count; i++) {
        all.largest = fmax(all.largest, items[i].relative);
        all.beyond += is_beyond(&all, &items[i]);
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (lq_quick_wants_json(cli)) {
        put_differences(&all, &out);
    } else {
        print_differences(&all, &out);
    }
    status = print_text(&out, cli, err);
    if (status == LQ_OK && !isnan(all.limit) && all.beyond > 0) {
        status = lq_error_set(err, LQ_EFAIL,
                              "%zu of %zu entries of %s and %s differ by more than %g, or are not "
                              "in both",
                              all.beyond, all.count, all.a, all.b, all.limit);
    }
    return status;
}

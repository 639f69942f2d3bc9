/* Pictures of importance matrices and masks: what is in a cell, what is drawn, what is refused. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "rules/report/picture.h"
#include "xml_check.h"

#define TESTS LQ_SOURCE_DIR "/tests/"

static struct lq_arena arena;
static struct lq_error err;
static struct lq_imatrix imatrix;
static struct lq_mask mask;
static struct lq_picture picture;

static void setup(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
    imatrix = (struct lq_imatrix){.entries = NULL};
    mask = (struct lq_mask){.tensors = NULL};
}

static void teardown(void)
{
    lq_arena_fini(&arena);
}

TestSuite(picture, .init = setup, .fini = teardown);

static enum lq_status make(bool with_imatrix, bool with_mask)
{
    struct lq_picture_source source = {with_imatrix ? &imatrix : NULL, "a.imatrix",
                                       with_mask ? &mask : NULL, "a.mask"};
    lq_error_clear(&err);
    return lq_picture_make(&source, &arena, &picture, &err);
}

/* `columns` values that grow from `first` by the factor `step`; one token. */
static void add_entry(const char *name, size_t columns, double first, double step)
{
    struct lq_imatrix_entry *entries =
        lq_arena_get_array(&arena, imatrix.entry_count + 1, sizeof *entries);
    if (imatrix.entry_count > 0) {
        memcpy(entries, imatrix.entries, imatrix.entry_count * sizeof *entries);
    }
    struct lq_imatrix_entry *entry = &entries[imatrix.entry_count++];
    *entry = (struct lq_imatrix_entry){
        .name = name, .col_count = columns, .mat_count = 1, .count_count = 1};
    entry->sums = lq_arena_get_array(&arena, columns, sizeof *entry->sums);
    entry->counts = lq_arena_get_array(&arena, 1, sizeof *entry->counts);
    entry->counts[0] = 1.0f;
    for (size_t i = 0; i < columns; i++) {
        entry->sums[i] = (float)(first * pow(step, (double)i));
    }
    imatrix.entries = entries;
}

static void read_file(const char *path, struct lq_map *map)
{
    cr_assert_eq(lq_map_open(map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
}

static enum lq_status read_imatrix(const char *path)
{
    struct lq_map map;
    enum lq_imatrix_format format;
    read_file(path, &map);
    enum lq_status status =
        lq_imatrix_parse(map.data, map.size_bytes, path, &arena, &imatrix, &format, &err);
    lq_map_close(&map);
    return status;
}

static const uint64_t two_positions[] = {2 * 48 + 40, 3 * 48 + 7};
static const uint64_t one_spike[] = {3 * 48 + 7};
static const float two_scores[] = {9.5f, 0.25f};

static void add_mask(struct lq_mask_tensor *tensors, size_t count)
{
    mask = (struct lq_mask){.tensors = tensors, .tensor_count = count, .coverage = 0.001};
    for (size_t i = 0; i < count; i++) {
        mask.total_protected += tensors[i].position_count;
    }
}

/* Entries are sorted by name, as readers give them. */
static struct lq_mask_tensor *add_small_model(void)
{
    static struct lq_mask_tensor tensors[] = {{.name = "blk.1.ffn_down.weight",
                                               .row_count = 4,
                                               .col_count = 48,
                                               .positions = two_positions,
                                               .scores = two_scores,
                                               .position_count = 2,
                                               .spikes = one_spike,
                                               .spike_count = 1}};
    add_entry("blk.0.attn_q.weight", 48, 1.0, 1.0);
    add_entry("blk.0.ffn_down.weight", 48, 1.0, 1.1);
    add_entry("blk.1.attn_q.weight", 48, 0.01, 1.0);
    add_entry("blk.1.ffn_down.weight", 48, 1.0, 1.0);
    add_entry("blk.12.ffn_odd.weight", 3, 5.0, 1.0);
    add_entry("output.weight", 48, 0.5, 1.0);
    add_mask(tensors, 1);
    return tensors;
}

Test(picture, has_a_row_for_each_layer_and_a_column_for_each_kind)
{
    (void)add_small_model();
    cr_assert_eq(make(true, true), LQ_OK, "%s", err.message);
    cr_assert_eq(picture.layer_count, 3);
    cr_assert_eq(picture.kind_count, 3);
    cr_expect_eq(picture.layers[2], 12);
    cr_expect_str_eq(picture.kinds[0], "attn_q");
    cr_expect_str_eq(picture.kinds[1], "ffn_down");
    cr_expect_str_eq(picture.kinds[2], "ffn_odd");
    const struct lq_picture_cell *cell = &picture.cells[0 * 3 + 1];
    cr_expect_str_eq(cell->name, "blk.0.ffn_down.weight");
    cr_expect_float_eq(cell->max, pow(1.1, 47), 1e-4);
    cr_expect_eq(cell->max_column, 47);
    cr_expect_float_eq(cell->mean, (pow(1.1, 48) - 1.0) / 0.1 / 48.0, 1e-4);
    /* Two columns a band; the larger one counts. */
    cr_expect_float_eq(cell->bands[3], powf(1.1f, 7), 1e-5);
    cr_expect_null(picture.cells[0 * 3 + 2].name);
    cr_expect_eq(picture.cells[1 * 3 + 1].mask, &mask.tensors[0]);
    cr_expect_float_eq(picture.low, 0.01, 1e-9);
    cr_expect_float_eq(picture.high, pow(1.1, 47), 1e-4);
    cr_assert_eq(picture.outside_count, 1);
    cr_expect_str_eq(picture.outside[0].name, "output.weight");
    cr_assert_eq(picture.mark_count, 2);
    cr_expect(picture.marks[0].is_spike, "spikes come first");
    cr_expect_eq(picture.marks[0].position, one_spike[0]);
}

Test(picture, shades_by_the_logarithm)
{
    add_entry("blk.0.ffn_up.weight", 24, 1.0, 10.0);
    imatrix.entries[0].sums[0] = 0.0f;
    cr_assert_eq(make(true, false), LQ_OK);
    /* 1e23 is the largest; nothing is paler than eight decades below it. */
    cr_expect_float_eq(picture.low / 1e15, 1.0, 1e-6);
    cr_expect_eq(lq_picture_level(&picture, 0.0f), 0);
    cr_expect_eq(lq_picture_level(&picture, 1e3f), 0);
    for (int i = 0; i < LQ_PICTURE_LEVELS; i++) {
        float value = (float)(1.3 * pow(10.0, 15 + i));
        cr_expect_eq(lq_picture_level(&picture, value), i, "%g", (double)value);
    }
    cr_expect_eq(lq_picture_level(&picture, 1e23f), LQ_PICTURE_LEVELS - 1);
    cr_expect_eq(lq_picture_level(&picture, NAN), -1);
}

Test(picture, leaves_out_experts_that_saw_no_tokens)
{
    add_entry("blk.0.ffn_down_exps.weight", 48, 4.0, 1.0);
    struct lq_imatrix_entry *entry = &imatrix.entries[0];
    entry->col_count = 24;
    entry->mat_count = 2;
    entry->count_count = 2;
    float counts[] = {2.0f, 0.0f};
    entry->counts = counts;
    cr_assert_eq(make(true, false), LQ_OK);
    cr_expect_float_eq(picture.cells[0].mean, 2.0, 1e-9);
    cr_expect_float_eq(picture.cells[0].max, 2.0, 1e-9);
    counts[0] = 0.0f;
    cr_assert_eq(make(true, false), LQ_OK);
    cr_expect(!picture.cells[0].has_tokens);
    cr_expect_eq(picture.high, 0.0);
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_picture_write_svg(&picture, false, &out);
    cr_expect_not_null(strstr(lq_buffer_text(&out), "no tokens were seen"));
    lq_buffer_fini(&out);
}

Test(picture, is_drawn_as_text)
{
    static const char expected[] =
        "a.imatrix: mean square of inputs, from 0.01 . to 88.2 @ by its logarithm,\n"
        "  the largest of each quarter of a tensor's input columns\n"
        "a.mask: 2 super weights in 1 tensor, * by rank, ! also by activation spikes\n"
        "\n"
        "layer attn_q   ffn_down ffn_odd\n"
        "    0 ++++     +o%@\n"
        "    1 ....     ++++!2\n"
        "   12                   oooo\n"
        "\n"
        "outside of layers\n"
        "  output.weight            ====\n"
        "\n"
        "first super weights: tensor, (row, column), score\n"
        "  blk.1.ffn_down.weight    (3, 7)           0.25  spike\n"
        "  blk.1.ffn_down.weight    (2, 40)          9.5\n";
    struct lq_buffer out;
    lq_buffer_init(&out);
    (void)add_small_model();
    cr_assert_eq(make(true, true), LQ_OK);
    lq_picture_write_text(&picture, (struct lq_picture_style){false, false}, &out);
    cr_expect_str_eq(lq_buffer_text(&out), expected);
    lq_buffer_clear(&out);
    lq_picture_write_text(&picture, (struct lq_picture_style){true, true}, &out);
    cr_expect_not_null(strstr(lq_buffer_text(&out), "\u2585\u2585\u2585\u2585\x1b[1;31m!2\x1b[0m"));
    lq_buffer_clear(&out);
    cr_assert_eq(make(false, true), LQ_OK);
    lq_picture_write_text(&picture, (struct lq_picture_style){false, false}, &out);
    cr_expect_not_null(strstr(lq_buffer_text(&out), "\nlayer ffn_down\n    1 !2\n"), "%s",
                       lq_buffer_text(&out));
    lq_buffer_fini(&out);
}

/* Well-formed, the same twice, and nothing in it is fetched from anywhere. */
static void expect_svg(size_t elements_min, const char *what)
{
    struct lq_buffer out;
    struct lq_buffer again;
    size_t elements = 0;
    lq_buffer_init(&out);
    lq_buffer_init(&again);
    lq_picture_write_svg(&picture, false, &out);
    lq_picture_write_svg(&picture, false, &again);
    const char *problem = xml_check(out.data, out.size_bytes, &elements);
    cr_expect_null(problem, "%s: %s", what, problem);
    cr_expect_geq(elements, elements_min, "%s", what);
    cr_expect_eq(out.size_bytes, again.size_bytes);
    cr_expect_arr_eq(out.data, again.data, out.size_bytes);
    const char *xmlns = strstr(lq_buffer_text(&out), "http");
    cr_assert_not_null(xmlns);
    cr_expect_null(strstr(xmlns + 1, "http"), "%s", what);
    cr_expect_null(strstr(lq_buffer_text(&out), "url("));
    cr_expect_not_null(strstr(lq_buffer_text(&out), "prefers-color-scheme:dark"));
    lq_buffer_fini(&again);
    lq_buffer_fini(&out);
}

Test(picture, is_drawn_as_svg)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    (void)add_small_model();
    cr_assert_eq(make(true, true), LQ_OK);
    expect_svg(40, "both");
    lq_picture_write_svg(&picture, true, &out);
    const char *text = lq_buffer_text(&out);
    cr_expect_eq(strncmp(text, "<svg ", 5), 0, "no declaration inside of a page");
    cr_expect_not_null(strstr(text, "2 super weights, 1 of them by activation spikes\n(3, 7)"));
    cr_expect_not_null(strstr(text, "largest 88.2 in column 47"));
    cr_expect_not_null(strstr(text, "<circle class=\"r\""));
    lq_buffer_fini(&out);
    cr_assert_eq(make(true, false), LQ_OK);
    expect_svg(30, "an importance matrix alone");
    cr_assert_eq(make(false, true), LQ_OK);
    expect_svg(15, "a mask alone");
}

Test(picture, survives_names_that_are_no_text)
{
    static const uint64_t position[] = {0};
    struct lq_mask_tensor tensors[] = {{.name = "blk.0.<&\">\x01\xff\xfe\xef\xbf\xbf",
                                        .row_count = 1,
                                        .col_count = 1,
                                        .positions = position,
                                        .position_count = 1},
                                       {.name = "blk.99999999999999999999.x",
                                        .row_count = UINT32_MAX,
                                        .col_count = UINT32_MAX,
                                        .positions = position,
                                        .position_count = 1}};
    struct lq_buffer out;
    lq_buffer_init(&out);
    add_mask(tensors, 2);
    cr_assert_eq(make(false, true), LQ_OK, "%s", err.message);
    cr_expect_eq(picture.layer_count, 1);
    cr_expect_eq(picture.outside_count, 1, "a number that is no layer is outside of layers");
    expect_svg(10, "odd names");
    lq_picture_write_text(&picture, (struct lq_picture_style){false, false}, &out);
    for (size_t i = 0; i < out.size_bytes; i++) {
        cr_expect(out.data[i] >= 0x20 || out.data[i] == '\n', "control character at %zu", i);
    }
    lq_buffer_fini(&out);
}

Test(picture, refuses_what_does_not_belong_together)
{
    struct lq_mask_tensor *tensors = add_small_model();
    tensors[0].col_count = 47;
    cr_expect_eq(make(true, true), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "a.mask: 'blk.1.ffn_down.weight' has 47 columns, but in "
                                           "a.imatrix it has 48"),
                       "%s", err.message);
    tensors[0].col_count = 48;
    for (int i = 0; i <= LQ_PICTURE_KINDS_MAX; i++) {
        add_entry(lq_arena_printf(&arena, "blk.3.kind%d", i), 1, 1.0, 1.0);
    }
    cr_expect_eq(make(true, false), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "at most 64 different"), "%s", err.message);
}

Test(picture, names_the_best_and_counts_the_rest)
{
    uint64_t positions[100];
    float scores[100];
    for (size_t i = 0; i < 100; i++) {
        positions[i] = i * 3;
        scores[i] = (float)(i * 37 % 100);
    }
    struct lq_mask_tensor tensors[] = {{.name = "token_embd.weight",
                                        .row_count = 10,
                                        .col_count = 30,
                                        .positions = positions,
                                        .scores = scores,
                                        .position_count = 100}};
    add_mask(tensors, 1);
    cr_assert_eq(make(false, true), LQ_OK);
    cr_assert_eq(picture.mark_count, LQ_PICTURE_LISTED);
    for (size_t i = 0; i < picture.mark_count; i++) {
        cr_expect_float_eq(picture.marks[i].score, 99.0f - (float)i, 0.0f);
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_picture_write_text(&picture, (struct lq_picture_style){false, false}, &out);
    cr_expect_not_null(strstr(lq_buffer_text(&out), "  and 84 more\n"));
    lq_buffer_fini(&out);
}

/* Whatever the readers accept can be drawn. */
Test(picture, draws_every_file_of_the_corpora)
{
    static const char *const folders[] = {TESTS "corpus/imatrix", TESTS "corpus/mask",
                                          TESTS "golden/tiny-llama"};
    size_t drawn = 0;
    for (size_t f = 0; f < LQ_COUNT_OF(folders); f++) {
        DIR *dir = opendir(folders[f]);
        cr_assert_not_null(dir);
        for (struct dirent *file = readdir(dir); file != NULL; file = readdir(dir)) {
            char path[1024];
            struct lq_map map;
            (void)snprintf(path, sizeof path, "%s/%s", folders[f], file->d_name);
            if (file->d_name[0] == '.' || strstr(file->d_name, ".tsv") != NULL) {
                continue;
            }
            read_file(path, &map);
            bool is_mask = lq_mask_is(map.data, map.size_bytes);
            enum lq_status status =
                is_mask ? lq_mask_parse(map.data, map.size_bytes, path, &arena, &mask, &err)
                        : read_imatrix(path);
            lq_map_close(&map);
            if (status == LQ_OK) {
                cr_expect_eq(make(!is_mask, is_mask), LQ_OK, "%s: %s", path, err.message);
                expect_svg(3, path);
                drawn++;
            }
        }
        (void)closedir(dir);
    }
    cr_expect_gt(drawn, 10);
}

Test(picture, check_of_xml_knows_bad_from_good)
{
    static const char *const bad[] = {"<a><b></a></b>",     "<a>", "<a/><b/>",      "<a b=c/>",
                                      "<a b=\"<\"/>",       "",    "<a>&nbsp;</a>", "<a>\x01</a>",
                                      "<a b=\"\" b=\"\"/>", "x",   "<a>\xff</a>",   "<a></a>x"};
    for (size_t i = 0; i < LQ_COUNT_OF(bad); i++) {
        cr_expect_not_null(xml_check(bad[i], strlen(bad[i]), NULL), "%s", bad[i]);
    }
    static const char good[] = "<?xml version=\"1.0\"?>\n<a b=\"1\"><b/>t &amp; \u00e9</a>\n";
    cr_expect_null(xml_check(good, strlen(good), NULL));
}

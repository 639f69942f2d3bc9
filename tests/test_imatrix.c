#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/imatrix.h"

#define GOLDEN "golden/tiny-llama/"

static struct lq_arena arena;
static struct lq_error err;

static void setup(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
}

static void teardown(void)
{
    lq_arena_fini(&arena);
}

TestSuite(imatrix, .init = setup, .fini = teardown);

static void read_file(const char *name, struct lq_buffer *out)
{
    lq_buffer_init(out);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, out, &err), LQ_OK, "%s", err.message);
}

static enum lq_status parse_file(const char *name, struct lq_imatrix *out,
                                 enum lq_imatrix_format *format)
{
    struct lq_buffer file;
    read_file(name, &file);
    lq_error_clear(&err);
    enum lq_status status =
        lq_imatrix_parse(file.data, file.size_bytes, "f", &arena, out, format, &err);
    if (file.data != NULL) {
        memset(file.data, 0x55, file.size_bytes); /* nothing may be borrowed */
    }
    lq_buffer_fini(&file);
    return status;
}

static void expect_error(const char *name, const char *words)
{
    struct lq_imatrix imatrix;
    char *path = lq_arena_printf(&arena, "corpus/imatrix/%s", name);
    cr_expect_eq(parse_file(path, &imatrix, NULL), LQ_EIMATRIX, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
}

/* Writes and compares with the bytes of a file that another program wrote. */
static void expect_same_bytes(const struct lq_imatrix *imatrix, enum lq_imatrix_format format,
                              const char *name)
{
    struct lq_buffer out;
    struct lq_buffer file;
    lq_buffer_init(&out);
    read_file(name, &file);
    cr_assert_eq(lq_imatrix_format(imatrix, format, &out, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(out.size_bytes, file.size_bytes);
    cr_assert_arr_eq(out.data, file.data, out.size_bytes);
    lq_buffer_fini(&out);
    lq_buffer_fini(&file);
}

Test(imatrix, reads_and_writes_llama_imatrix_gguf)
{
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format = LQ_IMATRIX_DAT;
    cr_assert_eq(parse_file(GOLDEN "imatrix-128x256.gguf", &imatrix, &format), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(format, LQ_IMATRIX_GGUF);
    cr_assert_eq(imatrix.entry_count, 42);
    cr_assert_eq(imatrix.chunk_count, 128);
    cr_assert_eq(imatrix.chunk_size, 256);
    cr_assert_eq(imatrix.dataset_count, 1);
    cr_assert_str_eq(imatrix.datasets[0], "text/eval.txt");
    for (size_t i = 0; i < imatrix.entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix.entries[i];
        bool is_down = strstr(entry->name, "ffn_down") != NULL;
        cr_assert_eq(entry->col_count, is_down ? 768 : 256, "%s", entry->name);
        cr_assert_eq(entry->mat_count, 1);
        cr_assert_eq(entry->counts[0], 128.0f * 256.0f);
    }
    cr_assert_not_null(lq_imatrix_find(&imatrix, "blk.5.ffn_up.weight"));
    cr_assert_null(lq_imatrix_find(&imatrix, "blk.6.ffn_up.weight"));
    expect_same_bytes(&imatrix, LQ_IMATRIX_GGUF, GOLDEN "imatrix-128x256.gguf");
}

/* The same matrix in llama.cpp's two formats: same names, same means, and each can be written from
 * the other. Counts differ in nothing because 128 x 256 tokens are 64 whole legacy chunks. */
Test(imatrix, legacy_and_gguf_agree)
{
    struct lq_imatrix gguf;
    struct lq_imatrix dat;
    enum lq_imatrix_format format = LQ_IMATRIX_GGUF;
    cr_assert_eq(parse_file(GOLDEN "imatrix-calibration-128x256.gguf", &gguf, NULL), LQ_OK);
    cr_assert_eq(parse_file(GOLDEN "imatrix-calibration-128x256.dat", &dat, &format), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(format, LQ_IMATRIX_DAT);
    cr_assert_eq(dat.entry_count, gguf.entry_count);
    cr_assert_eq(dat.chunk_count, 64);
    cr_assert_eq(dat.chunk_size, 512);
    cr_assert_str_eq(dat.datasets[0], "text/calibration.txt");
    for (size_t i = 0; i < gguf.entry_count; i++) {
        const struct lq_imatrix_entry *a = &gguf.entries[i];
        const struct lq_imatrix_entry *b = &dat.entries[i];
        float x[768];
        float y[768];
        cr_assert_str_eq(a->name, b->name);
        cr_assert_eq(a->col_count, b->col_count);
        cr_assert_eq(a->counts[0], b->counts[0]);
        lq_imatrix_means(a, 0, x);
        lq_imatrix_means(b, 0, y);
        cr_assert_arr_eq(x, y, a->col_count * sizeof *x);
    }
    expect_same_bytes(&gguf, LQ_IMATRIX_DAT, GOLDEN "imatrix-calibration-128x256.dat");
}

/* Whatever the counts, experts have the same means in the file; without tokens they are ones. */
Test(imatrix, legacy_keeps_the_means_of_experts)
{
    enum { EXPERTS = 5, COLS = 64 };
    static float sums[EXPERTS * COLS];
    float counts[EXPERTS] = {1299.0f, 880.0f, 0.0f, 583.0f, 2145.0f};
    struct lq_imatrix_entry entry = {
        "blk.0.ffn_up_exps.weight", COLS, EXPERTS, EXPERTS, sums, counts};
    const struct lq_imatrix imatrix = {
        .entries = &entry, .entry_count = 1, .chunk_count = 128, .chunk_size = 32};
    struct lq_imatrix again;
    struct lq_buffer out = {0};
    for (size_t i = 0; i < EXPERTS * COLS; i++) {
        sums[i] = counts[i / COLS] == 0.0f ? 0.0f : 0.37f * (float)(i * i) + 1.0f / (float)(i + 3);
    }
    cr_assert_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_DAT, &out, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(out.data, out.size_bytes, "f", &arena, &again, NULL, &err), LQ_OK,
                 "%s", err.message);
    cr_assert_eq(again.entry_count, 1);
    cr_assert_eq(again.entries[0].col_count, EXPERTS * COLS);
    float joined[EXPERTS * COLS];
    lq_imatrix_means(&again.entries[0], 0, joined);
    for (size_t e = 0; e < EXPERTS; e++) {
        float means[COLS];
        lq_imatrix_means(&entry, e, means);
        cr_expect_arr_eq(joined + e * COLS, means, sizeof means, "expert %zu", e);
    }
    lq_buffer_fini(&out);
}

Test(imatrix, imat_keeps_everything)
{
    struct lq_imatrix golden;
    struct lq_imatrix again;
    enum lq_imatrix_format format = LQ_IMATRIX_GGUF;
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_assert_eq(parse_file(GOLDEN "imatrix-128x256.gguf", &golden, NULL), LQ_OK);
    golden.method = LQ_IMPORTANCE_FISHER;
    cr_assert_eq(lq_imatrix_format(&golden, LQ_IMATRIX_IMAT, &out, &err), LQ_OK);
    cr_assert_arr_eq(out.data, "IMAT\1\0\0\0\2\0\0\0\x2a\0\0\0\x80\0\0\0\0\1\0\0\2\0\0\0", 28);
    cr_assert_eq(lq_imatrix_parse(out.data, out.size_bytes, "imat", &arena, &again, &format, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(format, LQ_IMATRIX_IMAT);
    cr_assert_eq(again.method, LQ_IMPORTANCE_FISHER);
    cr_assert_eq(again.chunk_count, 128);
    cr_assert_eq(again.chunk_size, 256);
    cr_assert_str_eq(again.datasets[0], golden.datasets[0]);
    cr_assert_eq(again.entry_count, golden.entry_count);
    for (size_t i = 0; i < golden.entry_count; i++) {
        cr_assert_str_eq(again.entries[i].name, golden.entries[i].name);
        cr_assert_eq(again.entries[i].counts[0], golden.entries[i].counts[0]);
        /* Means of a power of two of tokens lose nothing. */
        cr_assert_arr_eq(again.entries[i].sums, golden.entries[i].sums,
                         golden.entries[i].col_count * sizeof(float));
    }
    lq_buffer_fini(&out);
}

Test(imatrix, experts_keep_their_counts)
{
    float sums[6] = {3, 6, 9, 0, 0, 0};
    float counts[2] = {3, 0};
    struct lq_imatrix_entry entry = {"blk.0.ffn_up_exps.weight", 3, 2, 2, sums, counts};
    struct lq_imatrix imatrix = {&entry, 1, NULL, 0, 1, 3, LQ_IMPORTANCE_ACTIVATION};
    float means[6];
    for (int format = LQ_IMATRIX_GGUF; format <= LQ_IMATRIX_DAT; format++) {
        struct lq_imatrix again;
        struct lq_buffer out;
        lq_buffer_init(&out);
        cr_assert_eq(lq_imatrix_format(&imatrix, (enum lq_imatrix_format)format, &out, &err),
                     LQ_OK);
        cr_assert_eq(lq_imatrix_parse(out.data, out.size_bytes, "x", &arena, &again, NULL, &err),
                     LQ_OK, "%s", err.message);
        bool is_dat = format == LQ_IMATRIX_DAT;
        cr_assert_eq(again.entries[0].mat_count, is_dat ? 1 : 2);
        cr_assert_eq(again.entries[0].col_count, is_dat ? 6 : 3);
        lq_imatrix_means(&again.entries[0], 0, means);
        cr_expect(means[0] == 1.0f && means[1] == 2.0f && means[2] == 3.0f);
        if (!is_dat) {
            cr_expect_eq(again.entries[0].counts[1], 0.0f);
            lq_imatrix_means(&again.entries[0], 1, means);
            cr_expect(means[0] == 1.0f && means[1] == 1.0f && means[2] == 1.0f);
        } else {
            cr_expect_eq(again.entries[0].sums[5], 512.0f, "no data counts as ones");
        }
        lq_buffer_fini(&out);
    }
}

Test(imatrix, reads_small_files_of_each_format)
{
    struct lq_imatrix imatrix;
    cr_assert_eq(parse_file("corpus/imatrix/imat_valid", &imatrix, NULL), LQ_OK, "%s", err.message);
    cr_assert_eq(imatrix.entries[0].sums[1], 2.5f * 32.0f);
    cr_assert_eq(imatrix.entries[1].mat_count, 2);
    cr_assert_eq(parse_file("corpus/imatrix/imat_counts", &imatrix, NULL), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(imatrix.entries[1].counts[1], 7.0f);
    cr_assert_eq(imatrix.entries[1].sums[0], 0.0f);
    cr_assert_eq(imatrix.entries[1].sums[3], 28.0f);
    cr_assert_str_eq(imatrix.datasets[0], "wiki");
    cr_assert_eq(parse_file("corpus/imatrix/imat_unknown_length", &imatrix, NULL), LQ_OK);
    cr_assert_eq(imatrix.entries[0].counts[0], 1.0f);
    cr_assert_eq(parse_file("corpus/imatrix/dat_valid", &imatrix, NULL), LQ_OK, "%s", err.message);
    cr_assert_str_eq(imatrix.entries[0].name, "a.weight");
    cr_assert_eq(imatrix.entries[0].sums[2], 6.0f * 512.0f);
    cr_assert_eq(imatrix.entries[0].counts[0], 1024.0f);
    cr_assert_eq(parse_file("corpus/imatrix/dat_no_trailer", &imatrix, NULL), LQ_OK);
    cr_assert_eq(parse_file("corpus/imatrix/dat_chunk_only", &imatrix, NULL), LQ_OK);
    cr_assert_eq(imatrix.chunk_count, 3);
    cr_assert_eq(parse_file("corpus/imatrix/gguf_valid", &imatrix, NULL), LQ_OK, "%s", err.message);
    cr_assert_eq(imatrix.entries[1].counts[1], 9.0f);
    cr_assert_eq(parse_file("corpus/imatrix/gguf_broadcast", &imatrix, NULL), LQ_OK);
    cr_assert_eq(imatrix.entries[0].count_count, 1);
    cr_assert_eq(imatrix.entries[0].mat_count, 2);
}

Test(imatrix, refuses_hostile_files_with_one_sentence)
{
    expect_error("imat_version", "version is 2");
    expect_error("imat_method", "method is 3");
    expect_error("imat_reserved", "reserved bits");
    expect_error("imat_flag", "reserved bits");
    expect_error("imat_none", "0 entries");
    expect_error("imat_huge_count", "4294967295 entries");
    expect_error("imat_dup", "occurs twice");
    expect_error("imat_trailing", "1 bytes follow");
    expect_error("imat_nan", "finite number");
    expect_error("imat_inf", "finite number");
    expect_error("imat_negative", "score 1 is -1");
    expect_error("imat_too_large", "too large for a sum");
    expect_error("imat_empty_name", "expected a name");
    expect_error("imat_zero_cols", "at least one value");
    expect_error("imat_offset_far", "truncated");
    expect_error("imat_offset_before", "has its data at 8");
    expect_error("imat_shape_overflow", "4294967295 x 4294967295");
    expect_error("imat_bad_counts", "has 3 counts");
    expect_error("imat_fraction", "whole number of tokens");
    expect_error("imat_no_nul", "within a name");
    expect_error("dat_negative_count", "no importance matrix");
    expect_error("dat_zero", "0 entries");
    expect_error("dat_huge", "2147483647 entries");
    expect_error("dat_name_long", "2147483647 bytes");
    expect_error("dat_name_negative", "-5 bytes");
    expect_error("dat_values_negative", "-1 values");
    expect_error("dat_values_huge", "ends within the values");
    expect_error("dat_nan", "finite number");
    expect_error("dat_dup", "occurs twice");
    expect_error("dat_trailer_wrong", "name of the data set");
    expect_error("dat_nul", "NUL byte");
    expect_error("text", "no importance matrix");
    expect_error("empty", "number of entries");
    expect_error("gguf_no_counts", "has no counts");
    expect_error("gguf_no_sums", "has no sums");
    expect_error("gguf_type", "general.type is 'model'");
    expect_error("gguf_keys", "imatrix.datasets");
    expect_error("gguf_none", "no entries");
    expect_error("gguf_f16", "expected F32");
    expect_error("gguf_3counts", "with 3 counts");
    expect_error("gguf_nan", "finite number");
    expect_error("gguf_fraction", "whole number of tokens");
}

static void check_damage(const char *name, bool trailer_is_optional)
{
    struct lq_buffer file;
    read_file(name, &file);
    for (size_t size = 0; size < file.size_bytes; size++) {
        struct lq_arena scratch;
        struct lq_imatrix imatrix;
        unsigned char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, file.data, size);
        lq_arena_init(&scratch);
        enum lq_status status = lq_imatrix_parse(piece, size, "f", &scratch, &imatrix, NULL, &err);
        cr_expect(status == LQ_EIMATRIX || (trailer_is_optional && status == LQ_OK),
                  "%s cut to %zu bytes was accepted", name, size);
        lq_arena_fini(&scratch);
        free(piece);
    }
    for (size_t bit = 0; bit < 8 * file.size_bytes; bit++) {
        struct lq_arena scratch;
        struct lq_imatrix imatrix;
        lq_arena_init(&scratch);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status =
            lq_imatrix_parse(file.data, file.size_bytes, "f", &scratch, &imatrix, NULL, &err);
        cr_expect(status == LQ_OK || status == LQ_EIMATRIX);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        lq_arena_fini(&scratch);
    }
    lq_buffer_fini(&file);
}

Test(imatrix, survives_truncation_and_bit_flips)
{
    check_damage("corpus/imatrix/imat_valid", false);
    check_damage("corpus/imatrix/imat_counts", false);
    /* The last 24 bytes of this file are padding behind the last tensor. */
    check_damage("corpus/imatrix/gguf_valid", true);
    check_damage("corpus/imatrix/dat_valid", true);
}

Test(imatrix, refuses_to_write_what_it_would_not_read)
{
    float sums[2] = {1, NAN};
    float counts[1] = {1};
    struct lq_imatrix_entry entries[2] = {{"b", 2, 1, 1, sums, counts},
                                          {"a", 1, 1, 1, sums, counts}};
    struct lq_imatrix imatrix = {entries, 1, NULL, 0, 1, 1, LQ_IMPORTANCE_ACTIVATION};
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_expect_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_GGUF, &out, &err), LQ_EIMATRIX);
    sums[1] = 2;
    imatrix.entry_count = 2;
    cr_expect_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_GGUF, &out, &err), LQ_EIMATRIX, "unsorted");
    imatrix.entry_count = 0;
    cr_expect_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_IMAT, &out, &err), LQ_EIMATRIX);
    imatrix.entry_count = 1;
    char name[80];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    entries[0].name = name;
    cr_expect_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_GGUF, &out, &err), LQ_EIMATRIX);
    cr_expect_not_null(strstr(err.message, ".imatrix"), "%s", err.message);
    cr_expect_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_IMAT, &out, &err), LQ_OK);
    lq_buffer_fini(&out);
}

Test(imatrix, extension_chooses_the_format)
{
    cr_expect_eq(lq_imatrix_format_of_path("out/a.gguf"), LQ_IMATRIX_GGUF);
    cr_expect_eq(lq_imatrix_format_of_path("out/a.GGUF"), LQ_IMATRIX_GGUF);
    cr_expect_eq(lq_imatrix_format_of_path("a.dat"), LQ_IMATRIX_DAT);
    cr_expect_eq(lq_imatrix_format_of_path("a.imatrix"), LQ_IMATRIX_IMAT);
    cr_expect_eq(lq_imatrix_format_of_path("gguf"), LQ_IMATRIX_IMAT);
}

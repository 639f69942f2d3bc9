#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/mask.h"

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

TestSuite(mask, .init = setup, .fini = teardown);

static void read_file(const char *name, struct lq_buffer *out)
{
    lq_buffer_init(out);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests/corpus/mask", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, out, &err), LQ_OK, "%s", err.message);
}

static enum lq_status parse_file(const char *name, struct lq_mask *out)
{
    struct lq_buffer file;
    read_file(name, &file);
    lq_error_clear(&err);
    enum lq_status status = lq_mask_parse(file.data, file.size_bytes, "f", &arena, out, &err);
    memset(file.data, 0x55, file.size_bytes); /* nothing may be borrowed */
    lq_buffer_fini(&file);
    return status;
}

static void expect_error(const char *name, const char *words)
{
    struct lq_mask mask;
    cr_expect_eq(parse_file(name, &mask), LQ_EFORMAT, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
}

/* The corpus files were made by an independent program, identifiers included. */
Test(mask, reads_and_writes_the_same_bytes)
{
    static const char *const names[] = {"valid", "scores", "none"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        struct lq_mask mask;
        struct lq_buffer file;
        struct lq_buffer out;
        read_file(names[i], &file);
        lq_buffer_init(&out);
        cr_assert_eq(parse_file(names[i], &mask), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_mask_format(&mask, &out, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(out.size_bytes, file.size_bytes, "%s", names[i]);
        cr_assert_arr_eq(out.data, file.data, file.size_bytes);
        lq_buffer_fini(&out);
        lq_buffer_fini(&file);
    }
}

Test(mask, keeps_positions_and_scores)
{
    struct lq_mask mask;
    cr_assert_eq(parse_file("valid", &mask), LQ_OK, "%s", err.message);
    cr_assert_eq(mask.total_protected, 5);
    cr_assert_eq(mask.protection_precision, 16);
    cr_assert_eq(mask.coverage, 0.001);
    cr_assert_str_eq(mask.source_matrix_id, "m");
    const struct lq_mask_tensor *tensor = lq_mask_find(&mask, "blk.0.ffn_down.weight");
    cr_assert_not_null(tensor);
    const uint64_t expected[4] = {0, 1, 130, 1199};
    cr_assert_eq(tensor->position_count, 4);
    cr_assert_arr_eq(tensor->positions, expected, sizeof expected);
    cr_assert_eq(tensor->col_count, 300);
    cr_assert_null(tensor->scores);
    cr_assert_null(lq_mask_find(&mask, "blk.2.ffn_down.weight"));
    cr_assert_eq(parse_file("scores", &mask), LQ_OK, "%s", err.message);
    cr_assert_eq(mask.tensors[0].scores[0], 2.5f);
}

Test(mask, identifier_follows_the_content)
{
    uint64_t positions[2] = {5, 9};
    struct lq_mask_tensor tensor = {"t", 4, 4, positions, NULL, 2};
    struct lq_mask mask = {"", "im", 0.01, 16, &tensor, 1, 0};
    struct lq_buffer out[3];
    for (int i = 0; i < 3; i++) {
        lq_buffer_init(&out[i]);
        positions[1] = i == 2 ? 10 : 9;
        cr_assert_eq(lq_mask_format(&mask, &out[i], &err), LQ_OK, "%s", err.message);
    }
    cr_assert_str_eq((char *)out[0].data + 16, (char *)out[1].data + 16);
    struct lq_mask first;
    struct lq_mask other;
    cr_assert_eq(lq_mask_parse(out[0].data, out[0].size_bytes, "a", &arena, &first, &err), LQ_OK);
    cr_assert_eq(lq_mask_parse(out[2].data, out[2].size_bytes, "b", &arena, &other, &err), LQ_OK);
    cr_assert_str_neq(first.mask_id, other.mask_id);
    cr_assert_eq(strlen(first.mask_id), 36);
    cr_assert_eq(first.mask_id[14], '8');
    for (int i = 0; i < 3; i++) {
        lq_buffer_fini(&out[i]);
    }
}

Test(mask, refuses_hostile_files_with_one_sentence)
{
    expect_error("coverage0", "field 'coverage' is 0");
    expect_error("coverage_large", "field 'coverage' is 0.011");
    expect_error("precision", "field 'protection_precision' is 4");
    expect_error("id", "field 'mask_id'");
    expect_error("id_long", "field 'mask_id'");
    expect_error("total", "field 'total_protected' is 5, expected 4");
    expect_error("order", "order of their names");
    expect_error("dup", "order of their names");
    expect_error("beyond", "position 0 is 4, expected ascending numbers below 4");
    expect_error("tail", "1 bytes follow");
    expect_error("count_large", "1000 positions in 6 bytes");
    expect_error("long_varint", "position 0 cannot be decoded");
    expect_error("overflow_varint", "position 0 cannot be decoded");
    expect_error("overflow_shape", "overflow");
    expect_error("nan_score", "finite number");
    expect_error("header_long", "truncated");
    expect_error("short", "truncated");
    expect_error("magic", "it is no mask");
}

Test(mask, refuses_to_write_nonsense)
{
    uint64_t positions[2] = {9, 5};
    float scores[2] = {1, -1};
    struct lq_mask_tensor tensor = {"t", 4, 4, positions, NULL, 2};
    struct lq_mask mask = {"", "im", 0.001, 16, &tensor, 1, 0};
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT, "descending");
    positions[0] = 5;
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT, "twice");
    positions[0] = 4;
    tensor.scores = scores;
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT, "negative score");
    scores[1] = 0;
    mask.coverage = (double)NAN;
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT, "coverage is no number");
    mask.coverage = 0.02;
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT, "coverage too large");
    cr_expect_eq(out.size_bytes, 0);
    mask.coverage = 0.01;
    cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_OK, "%s", err.message);
    lq_buffer_fini(&out);
}

Test(mask, damage_is_always_noticed)
{
    struct lq_buffer file;
    struct lq_mask mask;
    read_file("scores", &file);
    for (size_t size = 0; size < file.size_bytes; size++) {
        unsigned char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, file.data, size);
        cr_expect_eq(lq_mask_parse(piece, size, "f", &arena, &mask, &err), LQ_EFORMAT,
                     "cut to %zu bytes", size);
        free(piece);
    }
    size_t accepted = 0;
    for (size_t bit = 0; bit < 8 * file.size_bytes; bit++) {
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status = lq_mask_parse(file.data, file.size_bytes, "f", &arena, &mask, &err);
        cr_expect(status == LQ_OK || status == LQ_EFORMAT);
        accepted += status == LQ_OK ? 1 : 0;
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    /* White space may change; content may not, thanks to the identifier. */
    cr_expect_lt(accepted, 200);
    lq_buffer_fini(&file);
}

/* A million positions: the sparse form stays small and fast. */
Test(mask, large_masks_stay_small)
{
    enum { COUNT = 1000000 };
    uint64_t *positions = malloc(COUNT * sizeof *positions);
    for (uint64_t i = 0; i < COUNT; i++) {
        positions[i] = i * 10000 + i % 77;
    }
    struct lq_mask_tensor tensor = {"t", 1000000, 10000, positions, NULL, COUNT};
    struct lq_mask mask = {"", "im", 0.0001, 16, &tensor, 1, 0};
    struct lq_mask again;
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_assert_eq(lq_mask_format(&mask, &out, &err), LQ_OK, "%s", err.message);
    cr_assert_lt(out.size_bytes, 2 * COUNT + 1000);
    cr_assert_eq(lq_mask_parse(out.data, out.size_bytes, "f", &arena, &again, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_arr_eq(again.tensors[0].positions, positions, COUNT * sizeof *positions);
    lq_buffer_fini(&out);
    free(positions);
}

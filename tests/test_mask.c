#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
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

/* The super weights that the paper's authors list for down_proj of public models (Yu and others,
 * "The Super Weight in Large Language Models", arXiv 2411.07191, table of coordinates): layer, row,
 * column, and the shape of the matrix. */
struct published {
    const char *model;
    unsigned layer;
    uint64_t row;
    uint64_t col;
    uint64_t rows;
    uint64_t cols;
};

static const struct published published[] = {
    {"Llama-7B", 2, 3968, 7003, 4096, 11008},   {"Llama-13B", 2, 2231, 2278, 5120, 13824},
    {"Llama-13B", 2, 2231, 6939, 5120, 13824},  {"Llama-30B", 3, 5633, 12817, 6656, 17920},
    {"Llama-30B", 3, 5633, 17439, 6656, 17920}, {"Llama-30B", 10, 5633, 14386, 6656, 17920},
    {"Llama-3-8B", 1, 788, 2427, 4096, 14336},  {"Llama-3-8B", 1, 1384, 2427, 4096, 14336},
    {"Llama-3-8B", 1, 4062, 2427, 4096, 14336}, {"Mistral-7B", 1, 2070, 7310, 4096, 14336},
    {"OLMo-1B", 1, 1764, 1710, 2048, 8192},     {"OLMo-1B", 2, 1764, 8041, 2048, 8192},
    {"OLMo-7B", 1, 269, 7467, 4096, 11008},     {"OLMo-7B", 2, 269, 8275, 4096, 11008},
    {"OLMo-7B", 7, 269, 453, 4096, 11008},      {"OLMo-7B", 24, 269, 2300, 4096, 11008},
    {"Phi-3-mini", 2, 525, 808, 3072, 8192},    {"Phi-3-mini", 2, 1113, 808, 3072, 8192},
    {"Phi-3-mini", 2, 1693, 808, 3072, 8192},   {"Phi-3-mini", 4, 525, 2723, 3072, 8192},
    {"Phi-3-mini", 4, 1113, 2723, 3072, 8192},  {"Phi-3-mini", 4, 1693, 2723, 3072, 8192},
};

static int compare_masks(const void *a, const void *b)
{
    return strcmp(((const struct lq_mask_tensor *)a)->name,
                  ((const struct lq_mask_tensor *)b)->name);
}

/* Every super weight of `model` in one mask; returns how many rows of the table were used. */
static size_t make_published(const char *model, struct lq_mask *mask)
{
    size_t used = 0;
    *mask = (struct lq_mask){.source_matrix_id = "", .coverage = 1e-4, .protection_precision = 16};
    mask->tensors = lq_arena_get_array(&arena, LQ_COUNT_OF(published), sizeof *mask->tensors);
    for (size_t i = 0; i < LQ_COUNT_OF(published); i++) {
        const struct published *row = &published[i];
        if (strcmp(row->model, model) != 0) {
            continue;
        }
        const char *name = lq_arena_printf(&arena, "blk.%u.ffn_down.weight", row->layer);
        struct lq_mask_tensor *tensor = NULL;
        for (size_t t = 0; t < mask->tensor_count; t++) {
            tensor = strcmp(mask->tensors[t].name, name) == 0 ? &mask->tensors[t] : tensor;
        }
        if (tensor == NULL) {
            uint64_t *positions =
                lq_arena_get_array(&arena, LQ_COUNT_OF(published), sizeof *positions);
            tensor = &mask->tensors[mask->tensor_count++];
            *tensor = (struct lq_mask_tensor){.name = name,
                                              .row_count = row->rows,
                                              .col_count = row->cols,
                                              .positions = positions,
                                              .spikes = positions};
        }
        ((uint64_t *)tensor->positions)[tensor->position_count++] = row->row * row->cols + row->col;
        tensor->spike_count = tensor->position_count;
        used++;
    }
    qsort(mask->tensors, mask->tensor_count, sizeof *mask->tensors, compare_masks);
    return used;
}

Test(mask, keeps_the_published_super_weights)
{
    static const char *const models[] = {"Llama-7B",   "Llama-13B", "Llama-30B", "Llama-3-8B",
                                         "Mistral-7B", "OLMo-1B",   "OLMo-7B",   "Phi-3-mini"};
    size_t used = 0;
    for (size_t m = 0; m < LQ_COUNT_OF(models); m++) {
        struct lq_mask mask;
        struct lq_mask again;
        struct lq_buffer out;
        lq_buffer_init(&out);
        used += make_published(models[m], &mask);
        cr_assert_eq(lq_mask_format(&mask, &out, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_mask_parse(out.data, out.size_bytes, "f", &arena, &again, &err), LQ_OK,
                     "%s", err.message);
        for (size_t i = 0; i < LQ_COUNT_OF(published); i++) {
            const struct published *row = &published[i];
            if (strcmp(row->model, models[m]) != 0) {
                continue;
            }
            char name[64];
            snprintf(name, sizeof name, "blk.%u.ffn_down.weight", row->layer);
            const struct lq_mask_tensor *tensor = lq_mask_find(&again, name);
            cr_assert_not_null(tensor);
            size_t found = 0;
            for (size_t k = 0; k < tensor->spike_count; k++) {
                found += tensor->spikes[k] / tensor->col_count == row->row &&
                         tensor->spikes[k] % tensor->col_count == row->col;
            }
            cr_expect_eq(found, 1, "%s layer %u row %llu", row->model, row->layer,
                         (unsigned long long)row->row);
        }
        lq_buffer_fini(&out);
    }
    cr_expect_eq(used, LQ_COUNT_OF(published));
}

Test(mask, refuses_spikes_that_are_no_positions)
{
    static const uint64_t positions[] = {3, 5, 9};
    static const uint64_t wrong[][2] = {{3, 4}, {5, 3}, {9, 9}, {3, 12}};
    struct lq_mask_tensor tensor = {.name = "blk.0.ffn_down.weight",
                                    .row_count = 2,
                                    .col_count = 8,
                                    .positions = positions,
                                    .position_count = 3,
                                    .spike_count = 2};
    struct lq_mask mask = {.source_matrix_id = "",
                           .coverage = 0.01,
                           .protection_precision = 8,
                           .tensors = &tensor,
                           .tensor_count = 1};
    for (size_t i = 0; i < LQ_COUNT_OF(wrong); i++) {
        struct lq_buffer out;
        lq_buffer_init(&out);
        tensor.spikes = wrong[i];
        cr_expect_eq(lq_mask_format(&mask, &out, &err), LQ_EFORMAT);
        cr_expect_not_null(strstr(err.message, "spike"), "%s", err.message);
        lq_buffer_fini(&out);
    }
}

/* Numbers that a program other than ours might have put there. */
Test(mask, refuses_spikes_that_are_no_numbers)
{
    static const char *const wrong[] = {"-1", "0.5", "1e300", "\"3\"", "null"};
    for (size_t i = 0; i < LQ_COUNT_OF(wrong); i++) {
        char header[512];
        struct lq_buffer file;
        struct lq_mask mask;
        snprintf(header, sizeof header,
                 "{\"version\":1,\"mask_id\":\"\",\"source_matrix_id\":\"\",\"coverage\":0.01,"
                 "\"total_protected\":1,\"protection_precision\":8,\"has_scores\":false,"
                 "\"layer_masks\":[{\"layer_name\":\"a\",\"rows\":2,\"columns\":8,\"count\":1,"
                 "\"size_bytes\":1,\"spikes\":[%s]}]}",
                 wrong[i]);
        lq_buffer_init(&file);
        lq_buffer_append(&file, "LQMASK01", 8);
        lq_buffer_append_u64(&file, strlen(header));
        lq_buffer_append(&file, header, strlen(header));
        lq_buffer_append_u8(&file, 3);
        cr_expect_eq(lq_mask_parse(file.data, file.size_bytes, "f", &arena, &mask, &err),
                     LQ_EFORMAT);
        cr_expect_not_null(strstr(err.message, "is no position"), "%s", err.message);
        lq_buffer_fini(&file);
    }
}

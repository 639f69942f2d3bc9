#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/dqprofile.h"

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

TestSuite(dqprofile, .init = setup, .fini = teardown);

static enum lq_status parse_file(const char *name, struct lq_dqprofile *out)
{
    struct lq_buffer file;
    lq_buffer_init(&file);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests/corpus/profile", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, &file, &err), LQ_OK, "%s", err.message);
    lq_error_clear(&err);
    enum lq_status status = lq_dqprofile_parse(file.data, file.size_bytes, "f", &arena, out, &err);
    lq_buffer_fini(&file);
    return status;
}

static void expect_error(const char *name, const char *words)
{
    struct lq_dqprofile profile;
    cr_expect_eq(parse_file(name, &profile), LQ_EPROFILE, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
    cr_expect(strncmp(err.message, "f: ", 3) == 0, "%s", err.message);
}

Test(dqprofile, reads_the_documented_example)
{
    struct lq_dqprofile profile;
    cr_assert_eq(parse_file("seed", &profile), LQ_OK, "%s", err.message);
    cr_assert_str_eq(profile.profile_id, "uuid");
    cr_assert_str_eq(profile.profile_name, "balanced");
    cr_assert_null(profile.description);
    cr_assert_eq(profile.strategy, LQ_STRATEGY_BALANCED);
    cr_assert_eq(profile.target_bpw, 3.5);
    cr_assert(isnan(profile.target_compression));
    cr_assert_eq(profile.layer_count, 1);
    cr_assert_str_eq(profile.layers[0].layer_name, "model.layers.0.self_attn");
    cr_assert_eq(profile.layers[0].bit_width, 4.0);
    cr_assert_eq(profile.layers[0].quant_method, LQ_QUANT_METHOD_AUTO);
    cr_assert(!profile.layers[0].is_protected);
    cr_assert(!profile.layers[0].has_type);
    cr_assert(isnan(profile.layers[0].importance_score));
}

Test(dqprofile, reads_every_field)
{
    struct lq_dqprofile profile;
    cr_assert_eq(parse_file("full", &profile), LQ_OK, "%s", err.message);
    cr_assert_eq(profile.strategy, LQ_STRATEGY_COMPRESSION_MAX, "the hyphen is accepted");
    cr_assert_str_eq(profile.description, "all \xc3\xbc"
                                          "ber");
    cr_assert_eq(profile.target_compression, 0.25);
    cr_assert_eq(profile.layer_count, 3);
    cr_assert_eq(profile.layers[0].quant_method, LQ_QUANT_METHOD_K_QUANTS);
    cr_assert_eq(profile.layers[0].type, LQ_DTYPE_Q4_K);
    cr_assert_eq(profile.layers[0].importance_score, 0.5);
    cr_assert_eq(profile.layers[0].estimated_error, 0.001);
    cr_assert_eq(profile.layers[1].bit_width, 1.5);
    cr_assert(profile.layers[1].is_protected);
    cr_assert(profile.layers[1].has_type && profile.layers[1].type == LQ_DTYPE_IQ1_S);
    cr_assert_eq(parse_file("empty_layers", &profile), LQ_OK, "%s", err.message);
    cr_assert_eq(profile.layer_count, 0);
}

Test(dqprofile, names_the_entry_and_the_field_of_an_error)
{
    expect_error("no_id", "missing field 'profile_id'");
    expect_error("no_layers", "missing field 'layer_assignments'");
    expect_error("strategy", "field 'strategy' is 'best', expected 'attention_high'");
    expect_error("bits7", "layer_assignments entry 1: field 'bit_width' is 7, expected one of 1.5");
    expect_error("bits_text", "entry 0: field 'bit_width' is not a number");
    expect_error("bits_missing", "entry 0: missing field 'bit_width'");
    expect_error("score", "field 'importance_score' is -1");
    expect_error("score_huge", "not a finite number");
    expect_error("dup", "entry 2: field 'layer_name' is 'model.layers.0.self_attn' as in entry 0");
    expect_error("name_empty", "field 'layer_name' has 0 bytes");
    expect_error("method", "field 'quant_method' is 'magic'");
    expect_error("type", "field 'type' is 'Q4_K_M', expected a GGUF tensor type");
    expect_error("type_int", "field 'type' is 'I8'");
    expect_error("typo", "did you mean 'importance_score'?");
    expect_error("typo_top", "did you mean 'target_bpw'?");
    expect_error("bpw0", "field 'target_bpw' is 0");
    expect_error("bpw_large", "field 'target_bpw' is 33");
    expect_error("compression", "field 'target_compression' is 4");
    expect_error("not_object", "not a JSON object");
    expect_error("entry_number", "entry 0 is not an object");
    expect_error("layers_object", "field 'layer_assignments' is not a list");
    expect_error("truncated", "invalid JSON");
    expect_error("protected", "field 'is_protected' is not a boolean");
}

Test(dqprofile, writes_what_it_reads)
{
    static const char *const names[] = {"seed", "full", "empty_layers"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        struct lq_dqprofile profile;
        struct lq_dqprofile again;
        struct lq_buffer first;
        struct lq_buffer second;
        lq_buffer_init(&first);
        lq_buffer_init(&second);
        cr_assert_eq(parse_file(names[i], &profile), LQ_OK);
        cr_assert_eq(lq_dqprofile_format(&profile, &first, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(
            lq_dqprofile_parse(first.data, first.size_bytes, "again", &arena, &again, &err), LQ_OK,
            "%s", err.message);
        cr_assert_eq(lq_dqprofile_format(&again, &second, &err), LQ_OK);
        cr_assert_str_eq(lq_buffer_text(&first), lq_buffer_text(&second));
        cr_assert_eq(again.layer_count, profile.layer_count);
        lq_buffer_fini(&first);
        lq_buffer_fini(&second);
    }
}

Test(dqprofile, identifier_follows_the_content)
{
    struct lq_dqprofile_layer layer = {
        .layer_name = "blk.0", .bit_width = 4, .importance_score = NAN, .estimated_error = NAN};
    struct lq_dqprofile profile = {.profile_name = "mine",
                                   .strategy = LQ_STRATEGY_CUSTOM,
                                   .layers = &layer,
                                   .layer_count = 1,
                                   .target_bpw = NAN,
                                   .target_compression = NAN};
    struct lq_buffer out[3];
    for (int i = 0; i < 3; i++) {
        lq_buffer_init(&out[i]);
        layer.bit_width = i == 2 ? 5 : 4;
        cr_assert_eq(lq_dqprofile_format(&profile, &out[i], &err), LQ_OK, "%s", err.message);
    }
    cr_expect_str_eq(lq_buffer_text(&out[0]), lq_buffer_text(&out[1]));
    const char *first = strstr(lq_buffer_text(&out[0]), "\"profile_id\": \"");
    const char *other = strstr(lq_buffer_text(&out[2]), "\"profile_id\": \"");
    cr_assert(first != NULL && other != NULL);
    cr_expect(strncmp(first, other, 15 + 36) != 0);
    cr_expect_eq(first[15 + 14], '8', "a UUID of version 8");
    layer.bit_width = 7;
    cr_expect_eq(lq_dqprofile_format(&profile, &out[0], &err), LQ_EPROFILE);
    for (int i = 0; i < 3; i++) {
        lq_buffer_fini(&out[i]);
    }
}

Test(dqprofile, survives_truncation_and_bit_flips)
{
    struct lq_buffer file;
    struct lq_dqprofile profile;
    lq_buffer_init(&file);
    cr_assert_eq(lq_file_read(LQ_SOURCE_DIR "/tests/corpus/profile/full", 1 << 20, &file, &err),
                 LQ_OK);
    for (size_t size = 0; size < file.size_bytes; size++) {
        char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, file.data, size);
        cr_expect_eq(lq_dqprofile_parse(piece, size, "f", &arena, &profile, &err), LQ_EPROFILE);
        free(piece);
    }
    for (size_t bit = 0; bit < 8 * file.size_bytes; bit++) {
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status =
            lq_dqprofile_parse(file.data, file.size_bytes, "f", &arena, &profile, &err);
        cr_expect(status == LQ_OK || status == LQ_EPROFILE);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    lq_buffer_fini(&file);
}

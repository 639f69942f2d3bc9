#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/safetensors.h"

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

TestSuite(safetensors, .init = setup, .fini = teardown);

static void read_file(const char *name, struct lq_buffer *out)
{
    lq_buffer_init(out);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests/corpus/safetensors", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, out, &err), LQ_OK, "%s", err.message);
}

static enum lq_status parse(const struct lq_buffer *file, struct lq_safetensors *out)
{
    return lq_safetensors_parse(file->data, file->size_bytes, file->size_bytes, "f", LQ_EMODEL,
                                &arena, out, NULL, &err);
}

static void expect_error(const char *name, const char *words)
{
    struct lq_buffer file;
    struct lq_safetensors parsed;
    read_file(name, &file);
    lq_error_clear(&err);
    cr_expect_eq(parse(&file, &parsed), LQ_EMODEL, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
    cr_expect(strncmp(err.message, "f: ", 3) == 0, "%s", err.message);
    lq_buffer_fini(&file);
}

Test(safetensors, reads_tensors_in_order_of_their_data)
{
    struct lq_buffer buffer;
    struct lq_safetensors file;
    read_file("valid.safetensors", &buffer);
    cr_assert_eq(parse(&buffer, &file), LQ_OK, "%s", err.message);
    memset(buffer.data, 0x55, buffer.size_bytes);
    cr_assert_eq(file.tensor_count, 5);
    cr_assert_eq(file.data_offset + 39, buffer.size_bytes);
    static const char *const names[] = {"a", "e", "b", "s", "u"};
    for (size_t i = 0; i < 5; i++) {
        cr_expect_str_eq(file.tensors[i].name, names[i]);
        cr_expect_eq(lq_safetensors_find(&file, names[i]), &file.tensors[i]);
    }
    const struct lq_safetensor *b = lq_safetensors_find(&file, "b");
    cr_assert(b->has_dtype && b->dtype == LQ_DTYPE_BF16);
    cr_assert_eq(b->dim_count, 2);
    cr_assert_eq(b->shape[0], 2);
    cr_assert_eq(b->shape[1], 3);
    cr_assert_eq(b->offset, file.data_offset + 16);
    cr_assert_eq(b->size_bytes, 12);
    const struct lq_safetensor *e = lq_safetensors_find(&file, "e");
    cr_assert(!e->has_dtype);
    cr_assert_str_eq(e->dtype_name, "F8_E4M3");
    cr_assert_null(lq_safetensors_find(&file, "__metadata__"));
    lq_buffer_fini(&buffer);
}

Test(safetensors, accepts_an_empty_object_and_padding)
{
    struct lq_buffer buffer;
    struct lq_safetensors file;
    read_file("empty.safetensors", &buffer);
    cr_assert_eq(parse(&buffer, &file), LQ_OK, "%s", err.message);
    cr_assert_eq(file.tensor_count, 0);
    cr_assert_null(lq_safetensors_find(&file, "a"));
    lq_buffer_fini(&buffer);
    read_file("spaces.safetensors", &buffer);
    cr_assert_eq(parse(&buffer, &file), LQ_OK, "%s", err.message);
    cr_assert_eq(file.tensors[0].dtype, LQ_DTYPE_F16);
    lq_buffer_fini(&buffer);
}

Test(safetensors, refuses_lying_headers_with_one_sentence)
{
    expect_error("overlap.safetensors",
                 "tensor 'b': its data starts at 4, expected 8: it overlaps");
    expect_error("gap.safetensors",
                 "tensor 'b': its data starts at 12, expected 8: there is a gap");
    expect_error("trailing.safetensors", "9 bytes of data, but the tensors end after 8");
    expect_error("short_data.safetensors", "within the 7 bytes of data");
    expect_error("size.safetensors", "span 8 bytes, expected 12");
    expect_error("reversed.safetensors", "data_offsets are [8, 0]");
    expect_error("overflow.safetensors", "overflows 64 bits");
    expect_error("negative.safetensors", "no whole number");
    expect_error("fraction.safetensors", "no whole number");
    expect_error("huge_dim.safetensors", "no whole number");
    expect_error("dup.safetensors", "key 'a' occurs twice");
    expect_error("dtype.safetensors", "dtype is 'F99', which is unknown");
    expect_error("no_shape.safetensors", "expected an object with a string 'dtype'");
    expect_error("tensor_null.safetensors", "expected an object with a string 'dtype'");
    expect_error("not_object.safetensors", "not a JSON object");
    expect_error("dims9.safetensors", "more than 8 dimensions");
    expect_error("nibble.safetensors", "does not end at a byte");
    expect_error("bad_json.safetensors", "invalid JSON");
    expect_error("empty_name.safetensors", "the name has 0 bytes");
    expect_error("header_limit.safetensors", "the limit is 104857600");
    expect_error("header_long.safetensors", "the file has only 2 more");
    expect_error("three_offsets.safetensors", "not two whole numbers");
    expect_error("deep.safetensors", "nested deeper");
    expect_error("tiny", "too few");
}

Test(safetensors, survives_truncation_and_says_how_much_it_needs)
{
    struct lq_buffer buffer;
    struct lq_safetensors file;
    read_file("valid.safetensors", &buffer);
    for (size_t size = 0; size < buffer.size_bytes; size++) {
        unsigned char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, buffer.data, size);
        cr_expect_eq(
            lq_safetensors_parse(piece, size, size, "f", LQ_EMODEL, &arena, &file, NULL, &err),
            LQ_EMODEL, "%zu bytes", size);
        uint64_t need_more = 77;
        cr_expect_eq(lq_safetensors_parse(piece, size, buffer.size_bytes, "f", LQ_EMODEL, &arena,
                                          &file, &need_more, &err),
                     LQ_OK, "%zu bytes: %s", size, err.message);
        uint64_t header = buffer.size_bytes - 39;
        cr_expect_eq(need_more, size < 8 ? 8 : size < header ? header : 0);
        free(piece);
    }
    lq_buffer_fini(&buffer);
}

Test(safetensors, survives_single_bit_flips)
{
    struct lq_buffer buffer;
    read_file("valid.safetensors", &buffer);
    for (size_t bit = 0; bit < 8 * buffer.size_bytes; bit++) {
        struct lq_arena scratch;
        struct lq_safetensors file;
        lq_arena_init(&scratch);
        buffer.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status =
            lq_safetensors_parse(buffer.data, buffer.size_bytes, buffer.size_bytes, "f", LQ_EMODEL,
                                 &scratch, &file, NULL, &err);
        cr_expect(status == LQ_OK || status == LQ_EMODEL);
        buffer.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        lq_arena_fini(&scratch);
    }
    lq_buffer_fini(&buffer);
}

Test(safetensors, reads_a_real_model)
{
    struct lq_map map;
    struct lq_safetensors file;
    cr_assert_eq(
        lq_map_open(&map, LQ_SOURCE_DIR "/examples/tiny-llama/model.safetensors", LQ_EMODEL, &err),
        LQ_OK, "%s", err.message);
    cr_assert_eq(lq_safetensors_parse(map.data, map.size_bytes, map.size_bytes, "m", LQ_EMODEL,
                                      &arena, &file, NULL, &err),
                 LQ_OK, "%s", err.message);
    const struct lq_safetensor *down =
        lq_safetensors_find(&file, "model.layers.0.mlp.down_proj.weight");
    cr_assert_not_null(down);
    cr_assert_eq(down->dtype, LQ_DTYPE_BF16);
    cr_assert_eq(down->shape[0], 256);
    cr_assert_eq(down->shape[1], 768);
    lq_map_close(&map);
}

static enum lq_status parse_index(const char *name, struct lq_shard_index *out)
{
    struct lq_buffer file;
    read_file(name, &file);
    lq_error_clear(&err);
    enum lq_status status =
        lq_shard_index_parse(file.data, file.size_bytes, "i", LQ_EMODEL, &arena, out, &err);
    lq_buffer_fini(&file);
    return status;
}

Test(safetensors, reads_a_shard_index)
{
    struct lq_shard_index index;
    cr_assert_eq(parse_index("index.json", &index), LQ_OK, "%s", err.message);
    cr_assert_eq(index.file_count, 2);
    cr_assert_str_eq(index.files[0], "model-00001-of-00002.safetensors");
    cr_assert_str_eq(index.files[1], "model-00002-of-00002.safetensors");
    cr_assert_eq(index.entry_count, 3);
    cr_assert_str_eq(index.entries[0].tensor, "a");
    cr_assert_eq(lq_shard_index_find(&index, "a"), 0);
    cr_assert_eq(lq_shard_index_find(&index, "b"), 1);
    cr_assert_eq(lq_shard_index_find(&index, "c"), 1);
    cr_assert_eq(lq_shard_index_find(&index, "d"), SIZE_MAX);
}

Test(safetensors, refuses_shards_outside_the_folder)
{
    static const char *const names[] = {"index_parent.json", "index_dots.json", "index_abs.json",
                                        "index_bin.json", "index_number.json"};
    struct lq_shard_index index;
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        cr_expect_eq(parse_index(names[i], &index), LQ_EMODEL, "%s was accepted", names[i]);
        cr_expect_not_null(strstr(err.message, "expected a plain file name"), "%s", err.message);
    }
    cr_expect_eq(parse_index("index_none.json", &index), LQ_EMODEL);
    cr_expect_eq(parse_index("index_empty.json", &index), LQ_EMODEL);
    cr_expect_eq(parse_index("index_dup.json", &index), LQ_EMODEL);
}

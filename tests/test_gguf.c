#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"

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

TestSuite(gguf, .init = setup, .fini = teardown);

static void read_file(const char *name, struct lq_buffer *out)
{
    lq_buffer_init(out);
    char *path = lq_path_join(&arena, LQ_SOURCE_DIR "/tests", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, out, &err), LQ_OK, "%s", err.message);
}

static enum lq_status parse(const struct lq_buffer *file, struct lq_gguf *out)
{
    return lq_gguf_parse(file->data, file->size_bytes, file->size_bytes, "f.gguf", LQ_EFORMAT,
                         &arena, out, NULL, &err);
}

/* Parses a corpus file and demands an error with these words. */
static void expect_error(const char *name, const char *words)
{
    struct lq_buffer file;
    struct lq_gguf gguf;
    read_file(name, &file);
    lq_error_clear(&err);
    cr_expect_eq(parse(&file, &gguf), LQ_EFORMAT, "%s was accepted", name);
    cr_expect_not_null(strstr(err.message, words), "%s: '%s' lacks '%s'", name, err.message, words);
    cr_expect(strncmp(err.message, "f.gguf: ", 8) == 0, "%s", err.message);
    lq_buffer_fini(&file);
}

Test(gguf, reads_every_kind_of_value)
{
    struct lq_buffer file;
    struct lq_gguf gguf;
    read_file("corpus/gguf/valid.gguf", &file);
    cr_assert_eq(parse(&file, &gguf), LQ_OK, "%s", err.message);
    /* Nothing may be borrowed from the input. */
    memset(file.data, 0x55, file.size_bytes);
    cr_assert_eq(gguf.version, 3);
    cr_assert_eq(gguf.kv_count, 14);
    cr_assert_str_eq(lq_gguf_get_string(&gguf, "general.architecture"), "llama");
    cr_assert_eq(lq_gguf_get_uint(&gguf, "u8", 0), 255);
    cr_assert_eq((int64_t)lq_gguf_find(&gguf, "i8")->integer, -1);
    cr_assert_eq(lq_gguf_find(&gguf, "i8")->number, -1.0);
    cr_assert_eq(lq_gguf_get_uint(&gguf, "i8", 77), 77, "a negative number is no uint");
    cr_assert_eq(lq_gguf_get_uint(&gguf, "u16", 0), 65535);
    cr_assert_eq((int64_t)lq_gguf_find(&gguf, "i16")->integer, -2);
    cr_assert_eq(lq_gguf_get_uint(&gguf, "u32", 0), 7);
    cr_assert_eq(lq_gguf_get_number(&gguf, "i32", 0), -7.0);
    cr_assert_eq(lq_gguf_get_number(&gguf, "f32", 0), 1.5);
    cr_assert_eq(lq_gguf_get_number(&gguf, "f64", 0), 2.25);
    cr_assert_eq(lq_gguf_get_number(&gguf, "bool", 5.0), 5.0, "a boolean is no number");
    cr_assert(lq_gguf_get_bool(&gguf, "bool", false));
    cr_assert_eq(lq_gguf_get_uint(&gguf, "u64", 0), (uint64_t)1 << 63);
    cr_assert_eq((int64_t)lq_gguf_find(&gguf, "i64")->integer, -9);
    cr_assert_null(lq_gguf_find(&gguf, "absent"));
    cr_assert_null(lq_gguf_get_string(&gguf, "u8"));
    const struct lq_gguf_value *strings = lq_gguf_find(&gguf, "strs");
    cr_assert_eq(strings->type, LQ_GGUF_ARRAY);
    cr_assert_eq(strings->element_type, LQ_GGUF_STRING);
    cr_assert_eq(strings->count, 3);
    cr_assert_eq(strings->strings[1].length, 0);
    cr_assert_eq(strings->strings[2].length, 3);
    cr_assert_arr_eq(strings->strings[2].data, "x\0y", 4);
    const int32_t *ints = lq_gguf_find(&gguf, "ints")->elements;
    cr_assert_eq(ints[1], -2);
    lq_buffer_fini(&file);
}

Test(gguf, places_tensors_in_the_file)
{
    struct lq_buffer file;
    struct lq_gguf gguf;
    read_file("corpus/gguf/valid.gguf", &file);
    cr_assert_eq(parse(&file, &gguf), LQ_OK, "%s", err.message);
    cr_assert_eq(gguf.tensor_count, 3);
    cr_assert_eq(gguf.data_offset % 32, 0);
    const struct lq_gguf_tensor *a = lq_gguf_find_tensor(&gguf, "a.weight");
    cr_assert_eq(a, &gguf.tensors[0]);
    cr_assert_eq(a->dtype, LQ_DTYPE_Q4_0);
    cr_assert_eq(a->size_bytes, 36);
    cr_assert_eq(a->offset, gguf.data_offset);
    cr_assert_eq(a->ne[2], 1);
    const struct lq_gguf_tensor *c = lq_gguf_find_tensor(&gguf, "c");
    cr_assert_eq(c->offset, gguf.data_offset + 96);
    cr_assert_eq(c->size_bytes, 24);
    cr_assert_eq(c->dim_count, 3);
    cr_assert_null(lq_gguf_find_tensor(&gguf, "a.weigh"));
    lq_buffer_fini(&file);
}

Test(gguf, accepts_versions_alignments_and_empty_files)
{
    static const char *const names[] = {"valid_v2", "align64", "empty", "zero_dim"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        struct lq_buffer file;
        struct lq_gguf gguf;
        read_file(lq_arena_printf(&arena, "corpus/gguf/%s.gguf", names[i]), &file);
        cr_expect_eq(parse(&file, &gguf), LQ_OK, "%s", err.message);
        cr_expect_leq(gguf.data_offset, file.size_bytes);
        lq_buffer_fini(&file);
    }
}

Test(gguf, refuses_hostile_headers_with_one_sentence)
{
    expect_error("corpus/gguf/magic.gguf", "expected 'GGUF'");
    expect_error("corpus/gguf/v0.gguf", "version is 0");
    expect_error("corpus/gguf/v1.gguf", "version 1 is no longer read");
    expect_error("corpus/gguf/v4.gguf", "newer than this program");
    expect_error("corpus/gguf/big_endian.gguf", "big-endian");
    expect_error("corpus/gguf/huge_kv.gguf", "keys, the limit is");
    expect_error("corpus/gguf/huge_tensors.gguf", "tensors, the limit is");
    expect_error("corpus/gguf/kv_limit.gguf", "cannot fit into the 100 bytes");
    expect_error("corpus/gguf/huge_string.gguf", "the limit is 1073741824");
    expect_error("corpus/gguf/huge_array.gguf", "elements, the limit is");
    expect_error("corpus/gguf/big_array.gguf", "the file ends after");
    expect_error("corpus/gguf/nested.gguf", "arrays of arrays");
    expect_error("corpus/gguf/dup_key.gguf", "key 1 'k'");
    expect_error("corpus/gguf/dup_tensor.gguf", "the name occurs twice, first as tensor 0");
    expect_error("corpus/gguf/overflow.gguf", "product of its dimensions overflows");
    expect_error("corpus/gguf/overflow_bytes.gguf", "size in bytes overflows");
    expect_error("corpus/gguf/not_block.gguf", "expected a multiple of 32, the block of Q4_0");
    expect_error("corpus/gguf/offset_gap.gguf", "data offset is 64, expected 32");
    expect_error("corpus/gguf/outside.gguf", "outside the file");
    expect_error("corpus/gguf/align0.gguf", "general.alignment is 0");
    expect_error("corpus/gguf/align3.gguf", "general.alignment is 3");
    expect_error("corpus/gguf/dims5.gguf", "5 dimensions, the limit is 4");
    expect_error("corpus/gguf/retired.gguf", "type 4 is unknown or retired");
    expect_error("corpus/gguf/type43.gguf", "type 43 is unknown or retired");
    expect_error("corpus/gguf/nul_name.gguf", "contains a NUL byte");
}

/* Every prefix is refused as a file, and as a piece of the whole file asks for more. Copies of the
 * exact size let the address sanitizer see a read behind the end. */
Test(gguf, survives_truncation_at_every_byte)
{
    struct lq_buffer file;
    struct lq_gguf gguf;
    read_file("corpus/gguf/valid.gguf", &file);
    cr_assert_eq(parse(&file, &gguf), LQ_OK, "%s", err.message);
    size_t data_end = (size_t)(gguf.tensors[2].offset + gguf.tensors[2].size_bytes);
    size_t asked = 0;
    for (size_t size = 0; size < file.size_bytes; size++) {
        unsigned char *piece = malloc(size == 0 ? 1 : size);
        memcpy(piece, file.data, size);
        enum lq_status status =
            lq_gguf_parse(piece, size, size, "f", LQ_EMODEL, &arena, &gguf, NULL, &err);
        cr_expect_eq(status, size < data_end ? LQ_EMODEL : LQ_OK, "%zu bytes", size);
        bool need_more = false;
        status = lq_gguf_parse(piece, size, file.size_bytes, "f", LQ_EMODEL, &arena, &gguf,
                               &need_more, &err);
        cr_expect_eq(status, LQ_OK, "%zu bytes: %s", size, err.message);
        asked += need_more ? 1 : 0;
        cr_expect(!need_more || size < gguf.data_offset);
        free(piece);
    }
    cr_expect_gt(asked, gguf.data_offset - 32);
    lq_buffer_fini(&file);
}

Test(gguf, asks_for_more_before_it_allocates)
{
    /* An array of 2^29 strings in a file that says to be large: no memory until the bytes are
     * there. */
    struct lq_buffer file;
    struct lq_gguf gguf;
    read_file("corpus/gguf/big_array.gguf", &file);
    bool need_more = false;
    cr_assert_eq(lq_gguf_parse(file.data, file.size_bytes, (uint64_t)1 << 40, "f", LQ_EFORMAT,
                               &arena, &gguf, &need_more, &err),
                 LQ_OK);
    cr_assert(need_more);
    cr_assert_eq(lq_gguf_parse(file.data, file.size_bytes, (uint64_t)1 << 40, "f", LQ_EFORMAT,
                               &arena, &gguf, NULL, &err),
                 LQ_EFORMAT);
    lq_buffer_fini(&file);
}

Test(gguf, survives_single_bit_flips)
{
    struct lq_buffer file;
    read_file("corpus/gguf/valid.gguf", &file);
    for (size_t bit = 0; bit < 8 * file.size_bytes; bit++) {
        struct lq_arena scratch;
        struct lq_gguf gguf;
        lq_arena_init(&scratch);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        enum lq_status status = lq_gguf_parse(file.data, file.size_bytes, file.size_bytes, "f",
                                              LQ_EFORMAT, &scratch, &gguf, NULL, &err);
        cr_expect(status == LQ_OK || status == LQ_EFORMAT);
        file.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        lq_arena_fini(&scratch);
    }
    lq_buffer_fini(&file);
}

Test(gguf, writes_what_it_read)
{
    static const char *const names[] = {"golden/tiny-llama/imatrix-128x256.gguf",
                                        "corpus/gguf/valid.gguf"};
    for (size_t k = 0; k < LQ_COUNT_OF(names); k++) {
        struct lq_buffer file;
        struct lq_buffer out;
        struct lq_gguf gguf;
        struct lq_gguf_writer writer;
        read_file(names[k], &file);
        lq_buffer_init(&out);
        lq_gguf_writer_init(&writer);
        cr_assert_eq(parse(&file, &gguf), LQ_OK, "%s", err.message);
        for (size_t i = 0; i < gguf.kv_count; i++) {
            lq_gguf_put_value(&writer, gguf.kvs[i].key, &gguf.kvs[i].value);
        }
        for (size_t i = 0; i < gguf.tensor_count; i++) {
            const struct lq_gguf_tensor *tensor = &gguf.tensors[i];
            cr_assert_eq(lq_gguf_put_tensor(&writer, tensor->name, tensor->dtype, tensor->dim_count,
                                            tensor->ne, &err),
                         LQ_OK, "%s", err.message);
        }
        cr_assert_eq(lq_gguf_writer_header(&writer, &out, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(out.size_bytes, gguf.data_offset);
        cr_assert_arr_eq(out.data, file.data, out.size_bytes);
        cr_assert_eq(out.size_bytes + writer.data_bytes, file.size_bytes);
        lq_gguf_writer_fini(&writer);
        lq_buffer_fini(&out);
        lq_buffer_fini(&file);
    }
}

Test(gguf, writer_refuses_what_the_reader_would)
{
    struct lq_gguf_writer writer;
    struct lq_buffer out;
    const uint64_t row33[4] = {33, 1, 1, 1};
    const uint64_t large[4] = {(uint64_t)1 << 40, (uint64_t)1 << 40, 1, 1};
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&out);
    char name[65];
    memset(name, 'n', 64);
    name[64] = '\0';
    cr_assert_eq(lq_gguf_put_tensor(&writer, name, LQ_DTYPE_F32, 1, row33, &err), LQ_EFORMAT);
    name[63] = '\0';
    cr_assert_eq(lq_gguf_put_tensor(&writer, name, LQ_DTYPE_F32, 1, row33, &err), LQ_OK);
    cr_assert_eq(lq_gguf_put_tensor(&writer, "q", LQ_DTYPE_Q8_0, 1, row33, &err), LQ_EFORMAT);
    cr_assert_eq(lq_gguf_put_tensor(&writer, "l", LQ_DTYPE_F32, 2, large, &err), LQ_EFORMAT);
    cr_assert_eq(writer.tensor_count, 1);
    lq_gguf_put_u32(&writer, "k", 1);
    cr_assert_eq(lq_gguf_writer_header(&writer, &out, &err), LQ_OK, "%s", err.message);
    size_t size = out.size_bytes;
    lq_gguf_put_bool(&writer, "k", true);
    cr_assert_eq(lq_gguf_writer_header(&writer, &out, &err), LQ_EFORMAT);
    cr_assert_eq(out.size_bytes, size, "nothing is appended on failure");
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&out);
}

/* 50000 keys and tensors: quadratic checks would take minutes. */
Test(gguf, large_tables_stay_fast)
{
    struct lq_gguf_writer writer;
    struct lq_buffer out;
    struct lq_gguf gguf;
    const uint64_t ne[4] = {1, 1, 1, 1};
    char name[32];
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&out);
    for (uint32_t i = 0; i < 50000; i++) {
        (void)snprintf(name, sizeof name, "name%u", i * 7919u);
        lq_gguf_put_u32(&writer, name, i);
        cr_assert_eq(lq_gguf_put_tensor(&writer, name, LQ_DTYPE_I8, 1, ne, &err), LQ_OK);
    }
    uint64_t start = lq_clock_ns();
    cr_assert_eq(lq_gguf_writer_header(&writer, &out, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(out.data, out.size_bytes, out.size_bytes + writer.data_bytes, "f",
                               LQ_EFORMAT, &arena, &gguf, NULL, &err),
                 LQ_OK);
    cr_expect_lt(lq_clock_ns() - start, 5000000000u);
    cr_expect_eq(lq_gguf_get_uint(&gguf, "name7919", 0), 1);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&out);
}

Test(gguf, numbers_of_types_are_consistent)
{
    enum lq_dtype found = LQ_DTYPE_F32;
    size_t known = 0;
    for (uint32_t i = 0; i < 100; i++) {
        const struct lq_dtype_info *info = lq_dtype_info(i);
        if (info != NULL) {
            known++;
            cr_expect(lq_dtype_find(info->name, &found) && found == i);
        }
    }
    cr_expect_eq(known, 33);
    cr_expect_null(lq_dtype_info(LQ_DTYPE_COUNT));
}

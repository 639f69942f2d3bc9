/* Levels against what llama-quantize decides for synthetic models (tests/golden/levels) and against
 * the sizes of files that it made from the shipped model (tests/golden/tiny-llama). */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "rules/quant/levels.h"

struct shape {
    const char *name;
    const char *architecture;
    uint64_t layers, heads, heads_kv, experts;
    bool tied;
    uint64_t columns, hidden, vocab;
};

static const struct shape shapes[] = {
    {"plain16", "llama", 16, 4, 4, 0, false, 256, 512, 320},
    {"gqa16", "llama", 16, 8, 2, 0, false, 256, 512, 320},
    {"tied6", "llama", 6, 4, 2, 0, true, 256, 512, 320},
    {"moe8", "llama", 16, 8, 2, 8, false, 256, 512, 320},
    {"moe4", "llama", 8, 4, 2, 4, false, 256, 512, 320},
    {"big80", "llama", 80, 8, 2, 0, false, 256, 512, 320},
    {"odd", "llama", 8, 4, 4, 0, false, 96, 160, 320},
    {"falcon16", "falcon", 16, 4, 1, 0, false, 256, 512, 320},
    {"tiny-llama", "llama", 6, 4, 2, 0, true, 256, 768, 4096},
};

static const struct shape *find_shape(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(shapes); i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }
    return NULL;
}

static void add(struct lq_tensor_index *index, const char *name, enum lq_dtype dtype, uint64_t c0,
                uint64_t c1, uint64_t c2)
{
    index->tensors[index->tensor_count++] = (struct lq_model_tensor){
        .name = name,
        .dtype = dtype,
        .dim_count = c2 > 1   ? 3
                     : c1 > 1 ? 2
                              : 1,
        .ne = {c0, c1, c2, 1},
    };
}

static struct lq_tensor_index make_index(const struct shape *s, struct lq_arena *arena)
{
    struct lq_tensor_index index = {
        .tensors = lq_arena_get_array(arena, 3 + 11 * s->layers, sizeof(struct lq_model_tensor))};
    uint64_t kv = s->columns / s->heads * s->heads_kv;
    uint64_t experts = s->experts > 0 ? s->experts : 1;
    const char *suffix = s->experts > 0 ? "_exps" : "";
    enum lq_dtype dtype = LQ_DTYPE_BF16;
    add(&index, "token_embd.weight", dtype, s->columns, s->vocab, 1);
    add(&index, "output_norm.weight", dtype, s->columns, 1, 1);
    if (!s->tied) {
        add(&index, "output.weight", dtype, s->columns, s->vocab, 1);
    }
    for (uint64_t i = 0; i < s->layers; i++) {
#define NAME(part) lq_arena_printf(arena, "blk.%" PRIu64 ".%s.weight", i, part)
#define EXPERT(part) lq_arena_printf(arena, "blk.%" PRIu64 ".%s%s.weight", i, part, suffix)
        add(&index, NAME("attn_norm"), dtype, s->columns, 1, 1);
        add(&index, NAME("attn_q"), dtype, s->columns, s->columns, 1);
        add(&index, NAME("attn_k"), dtype, s->columns, kv, 1);
        add(&index, NAME("attn_v"), dtype, s->columns, kv, 1);
        add(&index, NAME("attn_output"), dtype, s->columns, s->columns, 1);
        add(&index, NAME("ffn_norm"), dtype, s->columns, 1, 1);
        if (s->experts > 0) {
            add(&index, NAME("ffn_gate_inp"), LQ_DTYPE_F32, s->columns, s->experts, 1);
        }
        add(&index, EXPERT("ffn_gate"), dtype, s->columns, s->hidden, experts);
        add(&index, EXPERT("ffn_up"), dtype, s->columns, s->hidden, experts);
        add(&index, EXPERT("ffn_down"), dtype, s->hidden, s->columns, experts);
    }
    return index;
}

static struct lq_level_request request_for(const struct shape *s, const char *level, bool imatrix)
{
    return (struct lq_level_request){
        .level = lq_level_find(level),
        .model = {s->architecture, s->layers, s->heads, s->heads_kv, s->experts},
        .has_imatrix = imatrix,
    };
}

static enum lq_dtype type_of(const struct lq_tensor_index *index, const enum lq_dtype *types,
                             const char *name)
{
    for (size_t i = 0; i < index->tensor_count; i++) {
        if (strcmp(index->tensors[i].name, name) == 0) {
            return types[i];
        }
    }
    cr_assert_fail("no tensor %s", name);
    return LQ_DTYPE_COUNT;
}

/* "attn_q=Q4_K*3,Q6_K*1" against the chosen types; returns how many were compared. */
static size_t check_cell(const char *line, char *cell, const struct lq_tensor_index *index,
                         const enum lq_dtype *types)
{
    char *equals = strchr(cell, '=');
    cr_assert_not_null(equals);
    *equals = 0;
    char name[128];
    if (strchr(equals + 1, '*') == NULL) {
        snprintf(name, sizeof name, "%s.weight", cell);
        const char *got = lq_dtype_name(type_of(index, types, name));
        cr_expect_str_eq(got, equals + 1, "%s: %s is %s, want %s", line, name, got, equals + 1);
        return 1;
    }
    size_t layer = 0;
    for (char *run = equals + 1; run != NULL;) {
        char *next = strchr(run, ',');
        char want[32];
        int count = 0;
        cr_assert_eq(sscanf(run, "%31[^*]*%d", want, &count), 2);
        for (int i = 0; i < count; i++, layer++) {
            snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, cell);
            const char *got = lq_dtype_name(type_of(index, types, name));
            cr_expect_str_eq(got, want, "%s: %s is %s, want %s", line, name, got, want);
        }
        run = next == NULL ? NULL : next + 1;
    }
    return layer;
}

static size_t check_line(char *text)
{
    char label[256];
    char *save = NULL;
    char *model = strtok_r(text, "\t", &save);
    char *level = strtok_r(NULL, "\t", &save);
    char *imatrix = strtok_r(NULL, "\t", &save);
    snprintf(label, sizeof label, "%s %s imatrix=%s", model, level, imatrix);
    const struct shape *shape = find_shape(model);
    cr_assert_not_null(shape);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_tensor_index index = make_index(shape, &arena);
    struct lq_level_request request = request_for(shape, level, strcmp(imatrix, "yes") == 0);
    cr_assert_not_null(request.level, "unknown level %s", level);
    enum lq_dtype *types = lq_arena_get_array(&arena, index.tensor_count, sizeof *types);
    struct lq_error err;
    lq_error_clear(&err);
    cr_assert_eq(lq_level_assign(&request, &index, types, &err), LQ_OK, "%s", err.message);
    size_t compared = 0;
    for (char *cell = strtok_r(NULL, "\t", &save); cell; cell = strtok_r(NULL, "\t", &save)) {
        compared += check_cell(label, cell, &index, types);
    }
    lq_arena_fini(&arena);
    return compared;
}

Test(levels, mixtures_are_those_of_llama_quantize)
{
    struct lq_buffer text;
    struct lq_error err;
    lq_buffer_init(&text);
    cr_assert_eq(
        lq_file_read(LQ_SOURCE_DIR "/tests/golden/levels/mixtures.tsv", 1 << 20, &text, &err),
        LQ_OK);
    size_t compared = 0;
    size_t lines = 0;
    char *at = (char *)text.data;
    while (*at != 0) {
        char *end = strchr(at, '\n');
        *end = 0;
        compared += check_line(at);
        lines++;
        at = end + 1;
    }
    cr_expect_eq(lines, 530);
    cr_expect_gt(compared, 50000);
    lq_buffer_fini(&text);
}

static uint64_t data_bytes(const struct lq_tensor_index *index, const enum lq_dtype *types)
{
    uint64_t total = 0;
    for (size_t i = 0; i < index->tensor_count; i++) {
        uint64_t bytes = lq_level_tensor_bytes(&index->tensors[i], types[i]);
        cr_assert_gt(bytes, 0);
        total += (bytes + 31) / 32 * 32;
    }
    return total;
}

/* Header bytes of those files: that of the F32 file; general.quantization_version, which
 * llama-quantize adds and which is 44 bytes, 32 after alignment; and the keys about the matrix. */
enum {
    GOLDEN_HEADER_BYTES = 133696,
    GOLDEN_VERSION_KEY_BYTES = 32,
    GOLDEN_IMATRIX_KEYS_BYTES = 288,
};

Test(levels, file_sizes_are_those_of_llama_quantize)
{
    struct lq_buffer text;
    struct lq_error err;
    struct lq_arena arena;
    lq_buffer_init(&text);
    lq_arena_init(&arena);
    cr_assert_eq(
        lq_file_read(LQ_SOURCE_DIR "/tests/golden/tiny-llama/perplexity.tsv", 1 << 20, &text, &err),
        LQ_OK);
    const struct shape *shape = find_shape("tiny-llama");
    struct lq_tensor_index index = make_index(shape, &arena);
    enum lq_dtype *types = lq_arena_get_array(&arena, index.tensor_count, sizeof *types);
    size_t compared = 0;
    const char *at = strchr((char *)text.data, '\n') + 1;
    for (; *at != 0; at = strchr(at, '\n') + 1) {
        char level[32], imatrix[8];
        uint64_t want = 0;
        cr_assert_eq(sscanf(at, "%31s %*s %*s %7s %" SCNu64, level, imatrix, &want), 3);
        bool has = strcmp(imatrix, "yes") == 0;
        struct lq_level_request request = request_for(shape, level, has);
        cr_assert_not_null(request.level, "unknown level %s", level);
        cr_assert_eq(lq_level_assign(&request, &index, types, &err), LQ_OK);
        uint64_t got = data_bytes(&index, types) + GOLDEN_HEADER_BYTES +
                       (strcmp(level, "F32") != 0 ? GOLDEN_VERSION_KEY_BYTES : 0) +
                       (has ? GOLDEN_IMATRIX_KEYS_BYTES : 0);
        cr_expect_eq(got, want, "%s imatrix=%s: %" PRIu64 ", want %" PRIu64, level, imatrix, got,
                     want);
        compared++;
    }
    cr_expect_eq(compared, 41);
    lq_arena_fini(&arena);
    lq_buffer_fini(&text);
}

Test(levels, names_have_aliases_and_suggestions)
{
    cr_expect_str_eq(lq_level_name(lq_level_find("q4_k")), "Q4_K_M");
    cr_expect_str_eq(lq_level_name(lq_level_find("Q3_K")), "Q3_K_M");
    cr_expect_str_eq(lq_level_name(lq_level_find("Q5_K")), "Q5_K_M");
    cr_expect_str_eq(lq_level_name(lq_level_find("Q2_K")), "Q2_K");
    cr_expect_str_eq(lq_level_name(lq_level_find("ternary")), "TQ1_0");
    cr_expect_null(lq_level_find("Q7_K"));
    cr_expect_null(lq_level_find(""));
    cr_expect_str_eq(lq_level_suggest("Q4_KM"), "Q4_K_M");
    cr_expect_str_eq(lq_level_name(lq_level_of_dtype(LQ_DTYPE_Q4_K)), "Q4_K_M");
    cr_expect_str_eq(lq_level_name(lq_level_of_dtype(LQ_DTYPE_Q2_K)), "Q2_K");
    cr_expect_eq(lq_level_file_type(lq_level_find("Q6_K")), 18);
}

/* Every name in llama-quantize's help of August 2026, with its number. */
Test(levels, names_and_numbers_of_llama_quantize_are_accepted)
{
    static const struct {
        const char *name;
        uint32_t file_type;
    } theirs[] = {
        {"Q1_0", 40},   {"Q2_0", 41},   {"Q4_0", 2},     {"Q4_1", 3},    {"MXFP4_MOE", 38},
        {"Q5_0", 8},    {"Q5_1", 9},    {"IQ2_XXS", 19}, {"IQ2_XS", 20}, {"IQ2_S", 28},
        {"IQ2_M", 29},  {"IQ1_S", 24},  {"IQ1_M", 31},   {"TQ1_0", 36},  {"TQ2_0", 37},
        {"Q2_K", 10},   {"Q2_K_S", 21}, {"IQ3_XXS", 23}, {"IQ3_S", 26},  {"IQ3_M", 27},
        {"Q3_K", 12},   {"IQ3_XS", 22}, {"Q3_K_S", 11},  {"Q3_K_M", 12}, {"Q3_K_L", 13},
        {"IQ4_NL", 25}, {"IQ4_XS", 30}, {"Q4_K", 15},    {"Q4_K_S", 14}, {"Q4_K_M", 15},
        {"Q5_K", 17},   {"Q5_K_S", 16}, {"Q5_K_M", 17},  {"Q6_K", 18},   {"Q8_0", 7},
        {"F16", 1},     {"BF16", 32},   {"F32", 0},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(theirs); i++) {
        char number[8];
        const struct lq_level *level = lq_level_find(theirs[i].name);
        cr_assert_not_null(level, "%s", theirs[i].name);
        cr_expect_eq(lq_level_file_type(level), theirs[i].file_type, "%s", theirs[i].name);
        snprintf(number, sizeof number, "%u", theirs[i].file_type);
        cr_expect_eq(lq_level_find(number), level, "%s", number);
    }
    cr_expect(lq_level_keeps_types(lq_level_find("copy")));
    cr_expect_null(lq_level_find("015"));
    cr_expect_null(lq_level_find("5"));
    cr_expect_null(lq_level_find("-1"));
}

Test(levels, a_copy_changes_no_type_that_is_not_chosen)
{
    struct lq_arena arena;
    struct lq_error err;
    lq_arena_init(&arena);
    const struct shape *shape = find_shape("tiny-llama");
    struct lq_tensor_index index = make_index(shape, &arena);
    enum lq_dtype types[128];
    index.tensors[2].dtype = LQ_DTYPE_F32;
    index.tensors[3].dtype = LQ_DTYPE_Q5_K;
    struct lq_level_request request = request_for(shape, "COPY", true);
    struct lq_level_override override = {"blk.1.attn_v.weight", LQ_DTYPE_Q8_0};
    request.overrides = &override;
    request.override_count = 1;
    cr_assert_eq(lq_level_assign(&request, &index, types, &err), LQ_OK);
    for (size_t i = 0; i < index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index.tensors[i];
        bool is_chosen = strcmp(tensor->name, override.pattern) == 0;
        enum lq_dtype want = is_chosen                ? LQ_DTYPE_Q8_0
                             : tensor->dim_count == 1 ? LQ_DTYPE_F32
                                                      : tensor->dtype;
        cr_expect_eq(types[i], want, "%s: %s", tensor->name, lq_dtype_name(types[i]));
    }
    lq_arena_fini(&arena);
}

Test(levels, the_users_choice_beats_the_mixture)
{
    struct lq_arena arena;
    struct lq_error err;
    lq_arena_init(&arena);
    const struct shape *shape = find_shape("tiny-llama");
    struct lq_tensor_index index = make_index(shape, &arena);
    enum lq_dtype plain[128];
    enum lq_dtype types[128];
    struct lq_level_request request = request_for(shape, "Q4_K_M", false);
    cr_assert_eq(lq_level_assign(&request, &index, plain, &err), LQ_OK);
    struct lq_level_override overrides[] = {{"blk.0.attn_v.weight", LQ_DTYPE_Q8_0},
                                            {"blk.0.attn_*", LQ_DTYPE_Q2_K}};
    enum lq_dtype output = LQ_DTYPE_F16;
    request.overrides = overrides;
    request.override_count = 2;
    request.output_type = &output;
    cr_assert_eq(lq_level_assign(&request, &index, types, &err), LQ_OK);
    cr_expect_eq(type_of(&index, types, "blk.0.attn_v.weight"), LQ_DTYPE_Q8_0);
    cr_expect_eq(type_of(&index, types, "blk.0.attn_q.weight"), LQ_DTYPE_Q2_K);
    cr_expect_eq(type_of(&index, types, "token_embd.weight"), LQ_DTYPE_F16);
    cr_expect_eq(type_of(&index, types, "blk.0.attn_norm.weight"), LQ_DTYPE_F32);
    /* Nothing else moves. */
    for (size_t i = 0; i < index.tensor_count; i++) {
        const char *name = index.tensors[i].name;
        if (strncmp(name, "blk.0.attn_", 11) != 0 && strcmp(name, "token_embd.weight") != 0) {
            cr_expect_eq(types[i], plain[i], "%s", name);
        }
    }
    overrides[1].pattern = "blk.7.*";
    cr_expect_eq(lq_level_assign(&request, &index, types, &err), LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "blk.7.*"));
    lq_arena_fini(&arena);
}

Test(levels, pure_uses_the_base_everywhere)
{
    struct lq_arena arena;
    struct lq_error err;
    lq_arena_init(&arena);
    const struct shape *shape = find_shape("tiny-llama");
    struct lq_tensor_index index = make_index(shape, &arena);
    enum lq_dtype types[128];
    struct lq_level_request request = request_for(shape, "Q4_K_M", false);
    request.pure = true;
    cr_assert_eq(lq_level_assign(&request, &index, types, &err), LQ_OK);
    for (size_t i = 0; i < index.tensor_count; i++) {
        bool is_matrix = index.tensors[i].dim_count > 1;
        cr_expect_eq(types[i], is_matrix ? LQ_DTYPE_Q4_K : LQ_DTYPE_F32);
    }
    lq_arena_fini(&arena);
}

Test(levels, shapes_that_do_not_fit_fall_back)
{
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_Q4_K, 256), LQ_DTYPE_Q4_K);
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_Q4_K, 32), LQ_DTYPE_Q5_0);
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_Q6_K, 288), LQ_DTYPE_Q8_0);
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_IQ1_S, 32), LQ_DTYPE_IQ4_NL);
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_Q2_K, 33), LQ_DTYPE_F16);
    cr_expect_eq(lq_level_fallback(LQ_DTYPE_F32, 33), LQ_DTYPE_F32);
}

Test(levels, needs_of_an_importance_matrix)
{
    const struct lq_level *small = lq_level_find("Q2_K_S");
    const char *name = "blk.0.ffn_up.weight";
    cr_expect(lq_level_needs_imatrix(small, name, LQ_DTYPE_Q2_K));
    cr_expect_not(lq_level_needs_imatrix(lq_level_find("Q2_K"), name, LQ_DTYPE_Q2_K));
    cr_expect(lq_level_needs_imatrix(NULL, name, LQ_DTYPE_IQ2_XXS));
    cr_expect_not(lq_level_needs_imatrix(small, "token_embd.weight", LQ_DTYPE_IQ2_XXS));
}

Test(levels, hostile_names_and_sizes)
{
    cr_expect_eq(lq_level_layer_of("blk.12.attn_q.weight"), 12);
    cr_expect_eq(lq_level_layer_of("blk..weight"), -1);
    cr_expect_eq(lq_level_layer_of("blk.99999999999999999999.weight"), -1);
    cr_expect_eq(lq_level_layer_of("blk.3"), -1);
    struct lq_model_tensor tensor = {
        .name = "x.weight", .dim_count = 2, .ne = {UINT64_MAX / 2, 4, 1, 1}};
    cr_expect_eq(lq_level_tensor_elems(&tensor), UINT64_MAX);
    cr_expect_eq(lq_level_tensor_bytes(&tensor, LQ_DTYPE_F32), 0);
    tensor.ne[0] = 100;
    cr_expect_eq(lq_level_tensor_bytes(&tensor, LQ_DTYPE_Q8_0), 0);
}

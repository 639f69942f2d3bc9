/* Importance by gradients of models that are not plain Llama, through lqbuild: fused and biased
 * matrices, norms everywhere, experts. What the numbers are worth is checked in test_arch_back.c.
 */
#include <math.h>

#include "e2e.h"
#include "rules/format/imatrix.h"

enum { SAMPLES = 128, SEQUENCE = 20, VOCAB = 64 };

static struct lq_arena arena;

/* A byte-level vocabulary of 64 tokens that can spell small letters. */
static void write_tokenizer(const char *path)
{
    static const char *const pairs[] = {"t h", "h e", "i n", "e r", "a n", "r e", "o n", "a t",
                                        "e n", "e d", "t o", "i t", "o u", "n d", "h a", "n g",
                                        "o r", "e s", "i s", "a s", "t e", "t i", "s t", "a r",
                                        "n t", "a l", "m e", "s e", "l e", "d e", "s a"};
    static const char specials[][8] = {"<pad>", "<s>", "</s>"};
    struct lq_buffer text;
    struct lq_error err;
    size_t count = 3;
    lq_buffer_init(&text);
    lq_buffer_printf(&text, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (size_t i = 0; i < 3; i++) {
        lq_buffer_printf(&text,
                         "%s{\"id\": %zu, \"content\": \"%s\", \"single_word\": false, \"lstrip\": "
                         "false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
                         i == 0 ? "" : ", ", i, specials[i]);
    }
    lq_buffer_printf(&text, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                            "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
                            "true}, \"post_processor\": null, \"decoder\": {\"type\": "
                            "\"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (size_t i = 0; i < 3; i++) {
        lq_buffer_printf(&text, "\"%s\": %zu, ", specials[i], i);
    }
    lq_buffer_printf(&text, "\"\u0120\": %zu, \"\u010a\": %zu", count, count + 1);
    count += 2;
    for (const char *c = "abcdefghijklmnopqrstuvwxyz,."; *c != '\0'; c++) {
        lq_buffer_printf(&text, ", \"%c\": %zu", *c, count++);
    }
    for (size_t i = 0; count < VOCAB; i++) {
        lq_buffer_printf(&text, ", \"%c%c\": %zu", pairs[i][0], pairs[i][2], count++);
    }
    lq_buffer_printf(&text, "}, \"merges\": [");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        lq_buffer_printf(&text, "%s\"%s\"", i == 0 ? "" : ", ", pairs[i]);
    }
    lq_buffer_printf(&text, "]}}");
    cr_assert_eq(lq_file_write(path, text.data, text.size_bytes, &err), LQ_OK, "%s", err.message);
    lq_buffer_fini(&text);
}

/* Small letters alone. */
static void write_words(void)
{
    struct lq_error err;
    struct lq_map map;
    lq_arena_init(&arena);
    cr_assert_eq(lq_map_open(&map, LQ_SOURCE_DIR "/examples/text/eval.txt", LQ_EIO, &err), LQ_OK);
    char words[30000];
    size_t count = 0;
    for (size_t i = 0; i < map.size_bytes && count < sizeof words; i++) {
        char c = (char)map.data[i];
        words[count] = c;
        count += (c >= 'a' && c <= 'z') || c == ' ' || c == '.' ? 1 : 0;
    }
    lq_map_close(&map);
    cr_assert_eq(lq_file_write("words.txt", words, count, &err), LQ_OK);
}

static void init(void)
{
    e2e_init();
    write_words();
}

TestSuite(e2e_gradient, .init = init, .fini = e2e_fini, .timeout = 300);

static void use_model(const char *name)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char target[512];
    char path[128];
    cr_assert_eq(mkdir("arch", 0777), 0);
    for (size_t i = 0; i < 2; i++) {
        snprintf(target, sizeof target, LQ_SOURCE_DIR "/tests/golden/arch/%s/%s", name, files[i]);
        snprintf(path, sizeof path, "arch/%s", files[i]);
        cr_assert_eq(symlink(target, path), 0);
    }
    write_tokenizer("arch/tokenizer.json");
    e2e_write("recipe.lq",
              "model base { source = \"arch\" }\n"
              "text words { path = \"words.txt\" }\n"
              "calibration calib { model = base  text = words  samples = %d\n"
              "                    sequence = %d }\n"
              "imatrix a { model = base  calibration = calib  path = \"a.gguf\" }\n"
              "imatrix g { model = base  calibration = calib  method = \"gradient\"\n"
              "            path = \"g.imatrix\" }\n"
              "imatrix f { model = base  calibration = calib  method = \"fisher\"\n"
              "            skip_first = true  path = \"f.gguf\" }\n"
              "mask m { model = base  imatrix = g  coverage = 0.01  path = \"m.mask\" }\n"
              "gguf q { model = base  level = \"Q8_0\"  imatrix = f  protect = m\n"
              "         path = \"q.gguf\" }\n",
              SAMPLES, SEQUENCE);
}

static struct lq_imatrix read_imatrix(const char *name)
{
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format;
    struct lq_error err;
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, name, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, name, &arena, &imatrix, &format, &err),
                 LQ_OK, "%s", err.message);
    lq_map_close(&map);
    return imatrix;
}

/* Samples, not tokens: all of them, or those that reached the expert. */
static void check_entry(const struct lq_imatrix_entry *entry)
{
    double samples = 0.0;
    cr_expect_eq(entry->count_count, entry->mat_count);
    for (size_t m = 0; m < entry->mat_count; m++) {
        double total = 0.0;
        samples += (double)entry->counts[m];
        cr_expect_leq(entry->counts[m], SAMPLES);
        for (size_t j = 0; j < entry->col_count; j++) {
            float sum = entry->sums[m * entry->col_count + j];
            cr_expect(isfinite(sum) && sum >= 0.0f, "%s", entry->name);
            total += (double)sum;
        }
        cr_expect_eq(total > 0.0, entry->counts[m] > 0.0f, "%s", entry->name);
    }
    cr_expect(entry->mat_count > 1 ? samples > SAMPLES : samples == SAMPLES, "%s: %g", entry->name,
              samples);
}

static void check_model(const char *name, const char *tensor, size_t mats)
{
    use_model(name);
    cr_assert_eq(e2e_run("-q"), 0, "%s: %s", name, e2e_stderr());
    struct lq_imatrix activation = read_imatrix("a.gguf");
    struct lq_imatrix gradient = read_imatrix("g.imatrix");
    struct lq_imatrix fisher = read_imatrix("f.gguf");
    cr_expect_eq(gradient.method, LQ_IMPORTANCE_GRADIENT);
    cr_expect_eq(fisher.method, LQ_IMPORTANCE_FISHER);
    cr_assert_eq(gradient.entry_count, activation.entry_count);
    cr_assert_eq(fisher.entry_count, activation.entry_count);
    for (size_t i = 0; i < fisher.entry_count; i++) {
        const struct lq_imatrix_entry *entry = &activation.entries[i];
        cr_expect_str_eq(fisher.entries[i].name, entry->name);
        cr_expect_eq(fisher.entries[i].col_count, entry->col_count);
        cr_expect_eq(fisher.entries[i].mat_count, entry->mat_count);
        check_entry(&fisher.entries[i]);
        check_entry(lq_imatrix_find(&gradient, entry->name));
    }
    const struct lq_imatrix_entry *found = lq_imatrix_find(&fisher, tensor);
    cr_assert_not_null(found, "%s: no %s", name, tensor);
    cr_expect_eq(found->mat_count, mats);
    cr_expect(lq_path_exists("m.mask") && lq_path_exists("q.gguf"));
    cr_assert_eq(e2e_run("--json"), 0);
    cr_expect_eq(e2e_count_events("step-finished", "\"outcome\":\"ran\""), 0);
}

Test(e2e_gradient, fused)
{
    check_model("phi3", "blk.1.attn_qkv.weight", 1);
}

Test(e2e_gradient, biased)
{
    check_model("qwen2", "blk.0.attn_q.weight", 1);
}

Test(e2e_gradient, experts)
{
    check_model("mixtral", "blk.1.ffn_down_exps.weight", 4);
}

Test(e2e_gradient, experts_and_norms_of_heads)
{
    check_model("qwen3moe", "blk.0.ffn_gate_exps.weight", 6);
}

Test(e2e_gradient, norms_behind_parts_and_caps)
{
    check_model("gemma2", "blk.2.ffn_down.weight", 1);
}

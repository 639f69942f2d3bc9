#include <math.h>

#include "rules/format/gguf.h"
#include "tests/e2e.h"

/* `quality compare` and `analyze` of the built program on the shipped model. */

TestSuite(e2e_analysis, .init = e2e_init, .fini = e2e_fini, .timeout = 600);

/* Stdout as one JSON value. */
static cJSON *parse_stdout(void)
{
    cJSON *root = cJSON_Parse(e2e_stdout());
    cr_assert_not_null(root, "no JSON: %s (stderr: %s)", e2e_stdout(), e2e_stderr());
    return root;
}

static double number_at(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    cr_assert(cJSON_IsNumber(item), "no number %s", key);
    return item->valuedouble;
}

static void quantize(const char *level, const char *output)
{
    cr_assert_eq(e2e_run("-q quantize model gguf --level %s -o '%s'", level, output), 0, "%s",
                 e2e_stderr());
}

Test(e2e_analysis, compare_puts_models_side_by_side)
{
    e2e_copy_text("eval.txt", "words.txt", 20000);
    quantize("Q8_0", "good.gguf");
    quantize("Q2_K", "a,\"b.gguf");
    const char *models =
        "model good.gguf 'a,\"b.gguf' --calibration-data words.txt --progress none";
    cr_assert_eq(e2e_run("quality compare %s --format json", models), 0, "%s", e2e_stderr());
    cJSON *root = parse_stdout();
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "models");
    cr_assert_eq(cJSON_GetArraySize(list), 3);
    const cJSON *original = cJSON_GetArrayItem(list, 0);
    const cJSON *good = cJSON_GetArrayItem(list, 1);
    const cJSON *bad = cJSON_GetArrayItem(list, 2);
    double delta = number_at(bad, "perplexity_delta_pct");
    cr_expect_float_eq(
        delta, 100.0 * (number_at(bad, "perplexity") / number_at(original, "perplexity") - 1.0),
        1e-9);
    cr_expect_lt(fabs(number_at(good, "perplexity_delta_pct")), 0.5);
    cr_expect_gt(delta, 1.0);
    cr_expect_gt(number_at(bad, "kl_divergence_mean"), 10 * number_at(good, "kl_divergence_mean"));
    cr_expect_lt(number_at(bad, "effective_bpw"), number_at(good, "effective_bpw"));
    double bpw = number_at(bad, "effective_bpw");
    double size = number_at(bad, "file_size");
    cJSON_Delete(root);

    /* Nothing runs again, and a limit between the two fails with everything printed. */
    cr_expect_eq(e2e_run("quality compare %s --fail-above 0.5%%", models), 11);
    cr_expect_not_null(strstr(e2e_stdout(), "KL divergence"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stderr(), "of 'a,\"b.gguf' exceeds threshold (0.5%)"), "%s",
                       e2e_stderr());
    cr_expect_eq(e2e_run("-q quality compare %s --fail-above 0.5%%", models), 11);
    cr_expect_eq(e2e_out.size_bytes, 0);
    cr_expect_eq(e2e_run("--json quality compare %s --fail-above 0.5%%", models), 11);
    cr_expect_eq(e2e_count_events("result", "perplexity_delta_pct"), 1);
    cr_expect_eq(e2e_count_events("error", "QualityDegradationError"), 1);
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect_eq(e2e_run("quality compare %s --fail-above 90%% --format csv", models), 0);
    cr_expect_not_null(strstr(e2e_stdout(), "\r\n\"a,\"\"b.gguf\","), "%s", e2e_stdout());

    /* Programs get one object: the verdict with the figures, or the error of a build. */
    cr_expect_eq(e2e_run("quality compare %s --fail-above 0.5%% --format json", models), 11);
    root = parse_stdout();
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(root, "status")->valuestring, "error");
    cr_expect_eq(number_at(root, "error_code"), 11);
    cr_expect_eq(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "models")), 3);
    cr_expect_not_null(strstr(e2e_stderr(), "exceeds threshold (0.5%)"), "%s", e2e_stderr());
    cJSON_Delete(root);
    cr_expect_eq(e2e_run("quality report model 'a,\"b.gguf' --calibration-data words.txt "
                         "--fail-above 0.5%% --format json"),
                 11);
    root = parse_stdout();
    cr_expect_eq(number_at(root, "error_code"), 11);
    cr_expect_not_null(cJSON_GetObjectItemCaseSensitive(root, "suggestion"));
    cJSON_Delete(root);
    cr_expect_eq(e2e_run("quantize model gguf -q IQ1_S --format json"), 10);
    root = parse_stdout();
    cr_expect_eq(number_at(root, "error_code"), 10);
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(root, "error_type")->valuestring,
                     "ImatrixError");
    cJSON_Delete(root);

    /* Without a limit of one's own a growth above the usual one is said, and nothing fails. */
    cr_expect_eq(e2e_run("quality compare %s --format json", models), 0);
    cr_expect_null(strstr(e2e_stderr(), "higher than the original's"), "%s", e2e_stderr());
    cr_assert_eq(setenv("LQBUILD_QUALITY_THRESHOLD", "0.5", 1), 0);
    cr_expect_eq(e2e_run("quality compare %s", models), 0);
    cr_expect_not_null(strstr(e2e_stderr(), "perplexity of 'a,\"b.gguf' is "), "%s", e2e_stderr());
    cr_expect_null(strstr(e2e_stderr(), "perplexity of 'good.gguf'"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("--json quality compare %s", models), 0);
    cr_expect_eq(e2e_count_events("warning", "higher than the original's, more than 0.5%"), 1);
    cr_expect_eq(e2e_run("--json quality report model 'a,\"b.gguf' --calibration-data words.txt"),
                 0);
    cr_expect_eq(e2e_count_events("warning", "higher than the original's, more than 0.5%"), 1);
    cr_expect_eq(e2e_run("quality compare %s --fail-above 90%%", models), 0);
    cr_expect_null(strstr(e2e_stderr(), "higher than the original's"), "%s", e2e_stderr());
    cr_assert_eq(unsetenv("LQBUILD_QUALITY_THRESHOLD"), 0);

    /* Sizes need no text, and agree with what the report says. */
    cr_assert_eq(e2e_run("quality compare good.gguf 'a,\"b.gguf' --metrics size,bpw --format json"),
                 0, "%s", e2e_stderr());
    root = parse_stdout();
    const cJSON *other = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "models"), 1);
    cr_expect_float_eq(number_at(other, "effective_bpw"), bpw, 1e-12);
    cr_expect_float_eq(number_at(other, "file_size"), size, 0.0);
    cr_expect_null(cJSON_GetObjectItemCaseSensitive(other, "perplexity"));
    cJSON_Delete(root);
}

Test(e2e_analysis, compare_says_what_is_wrong)
{
    e2e_write("words.txt", "too short\n");
    quantize("Q8_0", "good.gguf");
    cr_expect_eq(e2e_run("quality compare model good.gguf"), 15);
    cr_expect_not_null(strstr(e2e_stderr(), "--calibration-data FILE"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf --metrics size,bwp"), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "did you mean 'bpw'?"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf --metrics ''"), 2);
    cr_expect_eq(e2e_run("quality compare model good.gguf --metrics size --fail-above 1"), 2);
    cr_expect_eq(e2e_run("quality compare model good.gguf --fail-above -1"), 2);
    cr_expect_eq(e2e_run("quality compare model nothere.gguf"), 3);
    cr_expect_eq(e2e_run("quality compare model good.gguf --calibration-data ''"), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "the value of --calibration-data is empty"), "%s",
                       e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf --calibration-data ."), 15);
    cr_expect_not_null(strstr(e2e_stderr(), "'.' is a folder; give a text file"), "%s",
                       e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model words.txt --calibration-data words.txt"), 9);
    cr_expect_not_null(strstr(e2e_stderr(), "words.txt: is no model"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf --metrics perplexity "
                         "--calibration-samples 2 --calibration-data model/model.safetensors"),
                 0);
    cr_expect_not_null(
        strstr(e2e_stderr(), "warning: text 'words' (model.safetensors) has a zero byte"), "%s",
        e2e_stderr());
    cr_expect_eq(e2e_run("init words.txt"), 3);
    cr_expect_eq(e2e_run("profile create --imatrix x --name a/b --model model"), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "give -o FILE too"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model words.txt --metrics size"), 3, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf --calibration-data words.txt"), 15);
    cr_expect_not_null(strstr(e2e_stderr(), "words"), "%s", e2e_stderr());
}

/* True when a member of the object is the text in the file. */
static bool file_holds(const char *path, const cJSON *object, const char *member)
{
    struct lq_buffer text;
    struct lq_error err;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);
    lq_buffer_init(&text);
    cr_assert_eq(lq_file_read(path, 1 << 16, &text, &err), LQ_OK, "%s", err.message);
    bool same = cJSON_IsString(item) && strcmp(item->valuestring, lq_buffer_text(&text)) == 0;
    lq_buffer_fini(&text);
    return same;
}

Test(e2e_analysis, analyze_finds_super_weights_as_it_is_told)
{
    e2e_copy_text("calibration.txt", "words.txt", 100000);
    const char *common = "analyze model --calibration-data words.txt --calibration-samples 128 "
                         "--sequence 32 --progress none -o x.imatrix";
    cr_expect_eq(e2e_run("%s --find spikes", common), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "without --identify-super-weights"));
    cr_expect_eq(e2e_run("%s --identify-super-weights --threshold 3", common), 2);
    cr_expect_eq(e2e_run("%s --identify-super-weights --find spikes --coverage 0.1%%", common), 2);
    cr_expect_eq(e2e_run("%s --identify-super-weights --precision 9", common), 2);
    cr_expect_eq(e2e_run("%s --resume nothere", common), 2);
    cr_expect_eq(e2e_run("%s --checkpoint-dir a --cache-dir b", common), 2);

    cr_assert_eq(e2e_run("%s --identify-super-weights --find both --threshold 2 --coverage 0.1%% "
                         "--checkpoint-dir steps --format json",
                         common),
                 0, "%s", e2e_stderr());
    cJSON *root = parse_stdout();
    double both =
        number_at(cJSON_GetObjectItemCaseSensitive(root, "super_weights"), "total_protected");
    const cJSON *info = cJSON_GetObjectItemCaseSensitive(root, "calibration_info");
    cr_expect_eq(number_at(info, "num_samples"), 128.0);
    cr_expect_eq(number_at(info, "sequence_length"), 32.0);
    cr_assert_eq(system("sha256sum words.txt | cut -c1-64 | tr -d '\\n' > hash"), 0);
    cr_expect(file_holds("hash", info, "hash"));
    cr_assert_eq(e2e_run("imatrix convert x.imatrix y.gguf"), 0);
    cr_assert_eq(system("sha256sum y.gguf | cut -c1-64 | tr -d '\\n' > hash"), 0);
    cr_expect(file_holds("hash", root, "matrix_id"));
    cJSON_Delete(root);
    cr_assert_eq(e2e_run("--json %s --identify-super-weights --find both --threshold 2 "
                         "--coverage 0.1%% --resume steps",
                         common),
                 0);
    cr_expect_eq(e2e_summary("ran"), 0, "nothing is left to be done");
    cr_assert_eq(
        e2e_run("%s --identify-super-weights --coverage 0.1%% --resume steps --format json",
                common),
        0);
    root = parse_stdout();
    double ranked =
        number_at(cJSON_GetObjectItemCaseSensitive(root, "super_weights"), "total_protected");
    cJSON_Delete(root);
    cr_expect_geq(both, ranked);
    cr_expect_gt(ranked, 4000);

    /* The result says which tensors' super weights are protected: those of the mask. */
    cr_assert_eq(e2e_run("quantize model gguf -q Q2_K --imatrix x.imatrix --protect-super-weights "
                         "--protection-coverage 0.000001 -o kept.gguf --format json"),
                 0, "%s", e2e_stderr());
    root = parse_stdout();
    size_t protected_count = 0;
    const cJSON *layer = NULL;
    cJSON_ArrayForEach(layer, cJSON_GetObjectItemCaseSensitive(root, "layer_summary"))
    {
        const cJSON *flag = cJSON_GetObjectItemCaseSensitive(layer, "is_protected");
        cr_assert(cJSON_IsBool(flag));
        protected_count += cJSON_IsTrue(flag) ? 1 : 0;
    }
    cr_expect(protected_count >= 1 && protected_count <= 4, "%zu", protected_count);
    cJSON_Delete(root);

    cr_assert_eq(e2e_run("inspect x.imatrix x.mask --picture --svg x.svg"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "\nlayer attn_q"), "%s", e2e_stdout());
    cr_expect(lq_path_exists("x.svg"));
    rename("x.imatrix", "all.imatrix");
    cr_assert_eq(e2e_run("%s --skip-first --resume steps", common), 0);
    cr_expect_eq(e2e_run("imatrix compare all.imatrix x.imatrix --max-relative 0.0001"), 1,
                 "leaving out a token of each sample changes the sums");
}

/* Makes `path` a copy of the F32 file `from` in which all of one tensor is `value`. */
static void poison(const char *from, const char *path, const char *tensor, float value)
{
    struct lq_map map;
    struct lq_gguf gguf;
    struct lq_arena arena;
    struct lq_error err;
    lq_arena_init(&arena);
    cr_assert_eq(lq_map_open(&map, from, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, from, LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    const struct lq_gguf_tensor *found = NULL;
    for (size_t i = 0; i < gguf.tensor_count; i++) {
        found = strcmp(gguf.tensors[i].name, tensor) == 0 ? &gguf.tensors[i] : found;
    }
    cr_assert_not_null(found, "%s", tensor);
    unsigned char *bytes = malloc(map.size_bytes);
    memcpy(bytes, map.data, map.size_bytes);
    for (uint64_t at = 0; at < found->size_bytes; at += sizeof value) {
        memcpy(bytes + found->offset + at, &value, sizeof value);
    }
    cr_assert_eq(lq_file_write(path, bytes, map.size_bytes, &err), LQ_OK, "%s", err.message);
    free(bytes);
    lq_map_close(&map);
    lq_arena_fini(&arena);
}

Test(e2e_analysis, numbers_that_overflow_are_traced_to_model_layer_and_tensor)
{
    e2e_copy_text("eval.txt", "words.txt", 8000);
    quantize("F32", "good.gguf");
    poison("good.gguf", "layer.gguf", "blk.2.ffn_down.weight", 3e38f);
    poison("good.gguf", "nan.gguf", "blk.3.attn_k.weight", NAN);
    poison("good.gguf", "end.gguf", "output_norm.weight", 3e38f);
    const char *rest = "--calibration-data words.txt --progress none";
    cr_expect_eq(e2e_run("quality compare model good.gguf layer.gguf %s", rest), 1);
    cr_expect_not_null(strstr(e2e_stderr(),
                              "model 'layer.gguf': layer 2 gives activations that are "
                              "NaN or infinite"),
                       "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "'blk.2.ffn_down.weight'"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf nan.gguf %s", rest), 1);
    cr_expect_not_null(
        strstr(e2e_stderr(), "model 'nan.gguf': the tensor 'blk.3.attn_k.weight' holds NaN"), "%s",
        e2e_stderr());
    cr_expect_eq(e2e_run("quality compare model good.gguf end.gguf %s", rest), 1);
    cr_expect_not_null(strstr(e2e_stderr(), "model 'end.gguf': the model's logits are NaN"), "%s",
                       e2e_stderr());
    /* As the original it is at fault too. */
    cr_expect_eq(e2e_run("quality compare end.gguf good.gguf %s", rest), 1);
    cr_expect(strstr(e2e_stderr(), "model 'end.gguf'") != NULL ||
                  strstr(e2e_stderr(), "the original that it is compared with") != NULL,
              "%s", e2e_stderr());
}

/* What floats hold and bf16 does not is the fault of the layer that gave it, not of the next one.
 */
Test(e2e_analysis, hidden_states_that_bf16_cannot_hold_name_their_layer)
{
    e2e_copy_text("eval.txt", "words.txt", 60000);
    quantize("F32", "good.gguf");
    poison("good.gguf", "large.gguf", "token_embd.weight", 3.398e38f);
    e2e_write("recipe.lq",
              "model base { source = \"large.gguf\" }\n"
              "text words { path = \"words.txt\" }\n"
              "calibration calib { model = base  text = words  samples = 128  sequence = 16 }\n"
              "imatrix im { model = base  calibration = calib  hidden = \"bf16\" }\n"
              "report r { original = base  quantized = [base]  text = words  context = 16\n"
              "           chunks = 2  hidden = \"bf16\" }\n");
    static const char *const targets[] = {"im", "r"};
    static const int codes[] = {16, 1};
    for (size_t i = 0; i < LQ_COUNT_OF(targets); i++) {
        cr_expect_eq(e2e_run("%s", targets[i]), codes[i], "%s", e2e_stderr());
        cr_expect_not_null(strstr(e2e_stderr(),
                                  "layer 0 gives 3.398e+38 behind 'blk.0.ffn_down.weight', and "
                                  "bf16 ends at"),
                           "%s", e2e_stderr());
    }
}

Test(e2e_analysis, tensors_that_are_copied_are_looked_through)
{
    quantize("F32", "floats.gguf");
    quantize("Q8_0", "blocks.gguf");
    poison("floats.gguf", "nan.gguf", "blk.3.attn_k.weight", NAN);
    poison("floats.gguf", "inf.gguf", "blk.5.ffn_norm.weight", INFINITY);
    /* Every second block begins with the upper half of such a float. */
    poison("blocks.gguf", "scale.gguf", "blk.2.ffn_up.weight", NAN);
    static const struct {
        const char *file;
        const char *level;
        const char *message;
    } cases[] = {
        {"nan", "COPY", "tensor 'blk.3.attn_k.weight' holds NaN or infinity in row 0, column 0"},
        {"nan", "F32", "tensor 'blk.3.attn_k.weight' holds NaN or infinity in row 0, column 0"},
        {"inf", "Q4_0", "tensor 'blk.5.ffn_norm.weight' holds NaN or infinity in row 0, column 0"},
        {"scale", "COPY",
         "tensor 'blk.2.ffn_up.weight' has no finite scale in the Q8_0 block in row 0 at column "
         "32"},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(cases); i++) {
        cr_expect_eq(e2e_run("quantize %s.gguf gguf -q %s -o copy.gguf --progress none",
                             cases[i].file, cases[i].level),
                     9);
        cr_expect_not_null(strstr(e2e_stderr(), cases[i].message), "%s", e2e_stderr());
        cr_expect_not(lq_path_exists("copy.gguf"));
    }
    cr_expect_eq(e2e_run("quantize blocks.gguf gguf -q COPY -o copy.gguf --progress none"), 0);
}

static double coherence_of(const char *prompts)
{
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "text lines { path = \"prompts.txt\" }\n"
              "text items { path = \"prompts.jsonl\" }\n"
              "gguf q { model = base  level = \"Q2_K\" }\n"
              "report r { original = base  quantized = [q]  text = words  chunks = 2  coherence = "
              "true  min_coherence = 0  continuation = 8  %s  path = \"r.qreport\" }\n",
              prompts);
    cr_assert_eq(e2e_run("--progress none r"), 0, "%s: %s", prompts, e2e_stderr());
    cr_assert_eq(e2e_run("inspect --format json r.qreport"), 0);
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    cr_assert_eq(lq_file_read("r.qreport", 1 << 20, &file, &err), LQ_OK, "%s", err.message);
    cJSON *root = cJSON_Parse(lq_buffer_text(&file));
    cr_assert_not_null(root);
    double score = number_at(root, "coherence_score");
    cJSON_Delete(root);
    lq_buffer_fini(&file);
    return score;
}

Test(e2e_analysis, prompts_come_from_a_list_or_a_file)
{
    e2e_copy_text("eval.txt", "words.txt", 8000);
    e2e_write("prompts.txt", "\nThe king was\r\n\nIn the year 1900");
    e2e_write("prompts.jsonl",
              "{\"prompt\": \"The king was\"}\n{\"prompt\": \"In the year 1900\"}\n");
    double listed = coherence_of("prompts = [\"The king was\", \"In the year 1900\"]");
    cr_expect_float_eq(coherence_of("prompts_from = lines"), listed, 1e-12);
    cr_expect_float_eq(coherence_of("prompts_from = items"), listed, 1e-12);
    cr_expect_neq(coherence_of(""), listed);
    e2e_write("prompts.txt", "\n\r\n");
    cr_expect_eq(
        e2e_run("quality report model model --calibration-data words.txt --coherence-check "
                "--prompts prompts.txt --progress none"),
        15);
    cr_expect_not_null(strstr(e2e_stderr(), "no lines that are not empty"), "%s", e2e_stderr());
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "report r { original = base  quantized = [base]  text = words  coherence = true  "
              "prompts = [\"a\"]  prompts_from = words }\n");
    cr_expect_eq(e2e_run("check"), 7);
}

Test(e2e_analysis, profiles_are_found_by_name_in_the_users_folder)
{
    cr_assert_eq(system("mkdir -p mine"), 0);
    cr_assert_eq(setenv("LQBUILD_PROFILE_DIR", "mine", 1), 0);
    e2e_write(
        "mine/low.dqprofile",
        "{\"profile_id\": \"12345678-1234-4234-8234-123456789abc\", \"profile_name\": \"low\","
        " \"strategy\": \"custom\", \"layer_assignments\": [{\"layer_name\": "
        "\"model.layers.0.self_attn\", \"bit_width\": 4.0}]}\n");
    e2e_write("mine/notes.txt", "no profile\n");
    cr_expect_eq(e2e_run("profile list"), 0);
    cr_expect_not_null(strstr(e2e_stdout(), "mine/low.dqprofile\n"), "%s", e2e_stdout());
    cr_expect_null(strstr(e2e_stdout(), "notes"), "%s", e2e_stdout());
    cr_expect_eq(e2e_run("profile show low"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("profile validate low model"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("-q quantize model gguf --level Q4_0 --profile low -o low.gguf"), 0, "%s",
                 e2e_stderr());
    cr_expect(lq_path_exists("low.gguf"));
    cr_expect_eq(e2e_run("profile show lower"), 13);
    cr_expect_not_null(strstr(e2e_stderr(), "nor a file, nor in mine"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("profile show ../mine/low"), 13, "a path is no name");
    cr_assert_eq(unsetenv("LQBUILD_PROFILE_DIR"), 0);
}

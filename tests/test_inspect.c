#include <criterion/criterion.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "rules/format/inspect.h"
#include "rules/format/quote.h"

static struct lq_error err;

static enum lq_status inspect(const char *path, bool json, struct lq_buffer *out)
{
    struct lq_map map;
    lq_error_clear(&err);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    enum lq_status status = lq_inspect(map.data, map.size_bytes, "f", json, out, &err);
    lq_map_close(&map);
    return status;
}

/* Inspects a file both ways; the text must hold `words` and the JSON say the format. */
static void expect(const char *path, const char *format, const char *words)
{
    struct lq_buffer out;
    cJSON *root = NULL;
    const char *found = NULL;
    struct lq_json_scope scope = {"out", LQ_EFORMAT};
    lq_buffer_init(&out);
    cr_assert_eq(inspect(path, false, &out), LQ_OK, "%s: %s", path, err.message);
    cr_expect_not_null(strstr(lq_buffer_text(&out), words), "%s lacks '%s':\n%s", path, words,
                       lq_buffer_text(&out));
    lq_buffer_clear(&out);
    cr_assert_eq(inspect(path, true, &out), LQ_OK, "%s: %s", path, err.message);
    cr_assert_eq(lq_json_parse(out.data, out.size_bytes, "out", LQ_EFORMAT, &root, &err), LQ_OK,
                 "%s", err.message);
    cr_assert_eq(lq_json_get_string(&scope, root, "format", &found, NULL, &err), LQ_OK);
    cr_expect_str_eq(found, format, "%s", path);
    cJSON_Delete(root);
    lq_buffer_fini(&out);
}

#define TESTS LQ_SOURCE_DIR "/tests/"
#define TINY LQ_SOURCE_DIR "/examples/tiny-llama/"

Test(inspect, knows_every_format_by_content)
{
    expect(TESTS "corpus/gguf/valid.gguf", "gguf", "general.architecture  string        \"llama\"");
    expect(TESTS "corpus/gguf/valid.gguf", "gguf", "[1, -2, 3, -4]");
    expect(TESTS "corpus/gguf/empty.gguf", "gguf", "tensor count            0");
    expect(TESTS "golden/tiny-llama/imatrix-128x256.gguf", "imatrix-gguf", "blk.5.ffn_up.weight");
    expect(TESTS "golden/tiny-llama/imatrix-calibration-128x256.dat", "imatrix-dat",
           "text/calibration.txt");
    expect(TESTS "corpus/imatrix/imat_valid", "imatrix-imat", "blk.0.attn_k.weight");
    expect(TESTS "corpus/mask/valid", "mask", "(0, 0) (0, 1) (0, 130) (3, 299)");
    expect(TESTS "corpus/profile/full", "dqprofile", "blk.*.ffn_down.weight");
    expect(TESTS "corpus/qreport/full", "qreport", "out/q4.gguf");
    expect(TESTS "corpus/safetensors/index.json", "safetensors-index",
           "model-00002-of-00002.safetensors");
    expect(TESTS "corpus/safetensors/valid.safetensors", "safetensors", "F8_E4M3");
    expect(TESTS "corpus/inspect/safetensors_123", "safetensors", "tensor count            1");
    expect(TINY "model.safetensors", "safetensors", "model.layers.0.mlp.down_proj.weight");
    expect(TINY "config.json", "config-json", "LlamaForCausalLM");
    expect(TINY "tokenizer.json", "tokenizer-json", "merges                  3837");
    expect(TINY "generation_config.json", "json", "members");
}

Test(inspect, says_when_nothing_fits)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_expect_eq(inspect(TESTS "corpus/inspect/text", false, &out), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "unknown format"), "%s", err.message);
    cr_expect_eq(inspect(TESTS "corpus/inspect/empty", false, &out), LQ_EFORMAT);
    cr_expect_eq(inspect(TESTS "corpus/gguf/outside.gguf", false, &out), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "outside the file"), "%s", err.message);
    cr_expect_eq(inspect(TESTS "corpus/profile/bits7", false, &out), LQ_EPROFILE);
    cr_expect_eq(inspect(TESTS "corpus/imatrix/imat_nan", false, &out), LQ_EIMATRIX);
    lq_buffer_fini(&out);
}

/* Every small file of every corpus, good or bad, in both forms. */
Test(inspect, survives_all_corpora)
{
    static const char *const folders[] = {"gguf",    "imatrix",     "mask",   "profile",
                                          "qreport", "safetensors", "inspect"};
    size_t files = 0;
    for (size_t i = 0; i < LQ_COUNT_OF(folders); i++) {
        char path[1024];
        (void)snprintf(path, sizeof path, TESTS "corpus/%s", folders[i]);
        DIR *dir = opendir(path);
        cr_assert_not_null(dir, "%s", path);
        for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
            struct lq_buffer text;
            struct lq_buffer json;
            if (entry->d_name[0] == '.') {
                continue;
            }
            (void)snprintf(path, sizeof path, TESTS "corpus/%s/%s", folders[i], entry->d_name);
            lq_buffer_init(&text);
            lq_buffer_init(&json);
            enum lq_status status = inspect(path, false, &text);
            cr_expect_eq(inspect(path, true, &json), status, "%s", path);
            cr_expect(status == LQ_OK ? text.size_bytes > 0 : err.message[0] != '\0', "%s", path);
            lq_buffer_fini(&text);
            lq_buffer_fini(&json);
            files++;
        }
        (void)closedir(dir);
    }
    cr_expect_gt(files, 150);
}

Test(inspect, quoted_names_are_safe_and_short)
{
    char out[LQ_QUOTE_BYTES];
    char name[200];
    cr_expect_str_eq(lq_quote("a\x1b[31mb\0c", 9, out), "a?[31mb?c");
    cr_expect_str_eq(lq_quote(NULL, 0, out), "");
    memset(name, 'x', sizeof name);
    cr_expect_eq(strlen(lq_quote(name, sizeof name, out)), LQ_QUOTE_BYTES - 1);
    cr_expect_str_eq(out + LQ_QUOTE_BYTES - 4, "...");
    cr_expect_eq(strlen(lq_quote(name, LQ_QUOTE_BYTES - 4, out)), LQ_QUOTE_BYTES - 4);
    /* A two-byte character at the cut goes as a whole. */
    memcpy(name + LQ_QUOTE_BYTES - 5, "\xc3\xbc", 2);
    (void)lq_quote(name, sizeof name, out);
    cr_expect_str_eq(out + LQ_QUOTE_BYTES - 6, "x...");
}

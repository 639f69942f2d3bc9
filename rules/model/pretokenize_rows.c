/* The table of pre-tokenizers. */
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/model/pretokenize_parts.h"

/* The expressions are facts about published models: they stand in the tokenizer.json of the model
 * that each row is named after. */
#define LLAMA3_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_HEAD CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define ENDING CONTRACTIONS "?"
#define DEEPSEEK_CJK "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
#define DEEPSEEK_LETTERS                                                                           \
    "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295"     \
    "-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-"          \
    "\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"         \
    "\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-"        \
    "\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-"          \
    "\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-"         \
    "\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-"          \
    "\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E"     \
    "\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-"          \
    "\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17"         \
    "\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-"              \
    "\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-"         \
    "\U0001E943]+"
#define DEEPSEEK_PUNCTUATION "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"
#define DEEPSEEK3_CJK "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
#define DEEPSEEK3_WORDS                                                                            \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}"    \
    "\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN_WORDS                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|"       \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O_WORDS                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ENDING "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" ENDING "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define BLOOM_WORDS " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
/* Brackets within brackets, which PCRE2 would read otherwise. */
#define BLOOM_JSON_WORDS " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
#define YOUTU_SCRIPTS                                                                              \
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"  \
    "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
#define O1_WORDS                                                                                   \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ENDING "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" ENDING "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct lq_pre_row rows[] = {
    {"llama-bpe",
     "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     true,
     true,
     {LLAMA3_HEAD "\\p{N}{1,3}" LLAMA3_TAIL}},
    {"smaug-bpe", "dbrx chatglm-bpe glm4", false, false, {LLAMA3_HEAD "\\p{N}{1,3}" LLAMA3_TAIL}},
    {"gpt-2",
     "phi-2 olmo mpt jais gigachat mellum modern-bert exaone4 a.x-4.0 trillion granite-docling",
     false,
     false,
     {LQ_PRE_BYTE_LEVEL}},
    {"qwen2",
     "deepseek-r1-qwen stablelm2 hunyuan solar-open megrez grok-2 kormo",
     false,
     false,
     {LLAMA3_HEAD "\\p{N}" LLAMA3_TAIL}},
    {"qwen35",
     "",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+"
                   "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"starcoder",
     "refact command-r smollm codeshell exaone minerva-7b mellum2",
     false,
     false,
     {"\\p{N}", LQ_PRE_BYTE_LEVEL}},
    /* Its digits are cut behind the byte-level step, where only those of ASCII are left. */
    {"falcon",
     "",
     false,
     false,
     {LQ_PRE_PUNCTUATION "+", LQ_PRE_BYTE_LEVEL, "[0-9]+", "[0-9][0-9][0-9]"}},
    {"deepseek-coder",
     "",
     false,
     false,
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {"deepseek-llm",
     "",
     false,
     false,
     {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, "\\s+$", DEEPSEEK_CJK, "\\p{N}+"}},
    {"deepseek-v3",
     "hunyuan-dense joyai-llm",
     false,
     false,
     {"\\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3_WORDS}},
    {"tekken", "", true, true, {TEKKEN_WORDS}},
    {"gpt-4o", "llama4 kanana2 minimax-m2", false, false, {GPT4O_WORDS}},
    {"tiny_aya", "", false, false, {"\\d{1,3}(?=(?:\\d{3})*\\b)", GPT4O_WORDS}},
    {"youtu", "", true, false, {YOUTU_SCRIPTS, O1_WORDS}},
    {"bloom", "poro-chat gpt3-finnish", false, false, {BLOOM_WORDS}},
    {"viking", "", false, false, {BLOOM_WORDS, "\\p{N}"}},
    {"seed-coder",
     "",
     false,
     false,
     {LLAMA3_HEAD "\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"bailingmoe",
     "bailingmoe2 llada-moe",
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"exaone-moe",
     "",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"minicpm5", "", true, false, {"\\p{N}{1,3}", LLAMA3_HEAD "\\p{N}+" LLAMA3_TAIL}},
    {"jais-2",
     "",
     false,
     false,
     {LLAMA3_HEAD "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|"
                  "\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|"
                  "\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"}},
    {"laguna", "", false, false, {"[^\\n]+|[\\n]+", LLAMA3_HEAD "\\p{N}" LLAMA3_TAIL}},
    {"default",
     "",
     false,
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", LQ_PRE_BYTE_LEVEL, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

/* Other spellings in tokenizer.json of what a row says. */
static const struct lq_pre_row json_forms[] = {
    {"falcon",
     "",
     false,
     false,
     {LQ_PRE_PUNCTUATION "+", LQ_PRE_BYTE_LEVEL, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"deepseek-llm",
     "",
     false,
     false,
     {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, "\\s+$", DEEPSEEK_CJK, "\\p{N}"}},
    {"bloom", "", false, false, {BLOOM_JSON_WORDS}},
    {"viking", "", false, false, {BLOOM_JSON_WORDS, "\\p{N}"}},
};

/* True when `name` is one of the blank-separated words of `list`. */
static bool list_has(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; *at != '\0';) {
        size_t word = strcspn(at, " ");
        if (word == length && memcmp(at, name, length) == 0) {
            return true;
        }
        at += word;
        at += strspn(at, " ");
    }
    return false;
}

const struct lq_pre_row *lq_pre_row_find(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(rows); i++) {
        if (strcmp(rows[i].name, name) == 0 || list_has(rows[i].aliases, name)) {
            return &rows[i];
        }
    }
    return NULL;
}

void lq_pre_row_list(struct lq_buffer *out)
{
    for (size_t i = 0; i < LQ_COUNT_OF(rows); i++) {
        lq_buffer_printf(out, "%s%s%s%s", i == 0 ? "" : " ", rows[i].name,
                         rows[i].aliases[0] == '\0' ? "" : " ", rows[i].aliases);
    }
}

/* Line ends may stand in an expression as they are or as escapes; compare them as escapes. */
static bool same_expression(const char *known, const char *given)
{
    if (strcmp(known, LQ_PRE_BYTE_LEVEL) == 0 && strcmp(given, LQ_PRE_GPT2_EXPRESSION) == 0) {
        return true;
    }
    while (*known != '\0' && *given != '\0') {
        if ((*given == '\r' || *given == '\n') && known[0] == '\\') {
            if (known[1] != (*given == '\r' ? 'r' : 'n')) {
                return false;
            }
            known += 2;
            given++;
        } else if (*known++ != *given++) {
            return false;
        }
    }
    return *known == *given;
}

static bool same_expressions(const struct lq_pre_row *row, const char *const *expressions,
                             size_t count)
{
    size_t same = 0;
    while (same < count && row->expressions[same] != NULL &&
           same_expression(row->expressions[same], expressions[same])) {
        same++;
    }
    bool ends = same == LQ_PRE_EXPRESSIONS_MAX || row->expressions[same] == NULL;
    return count > 0 && same == count && ends;
}

const char *lq_pretokenizer_name_of(const char *const *expressions, size_t count,
                                    bool ignore_merges)
{
    const char *name = NULL;
    for (size_t i = 0; i < LQ_COUNT_OF(rows) && count <= LQ_PRE_EXPRESSIONS_MAX; i++) {
        if (!same_expressions(&rows[i], expressions, count)) {
            continue;
        }
        if (rows[i].ignore_merges == ignore_merges) {
            return rows[i].name;
        }
        name = name == NULL ? rows[i].name : name;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(json_forms) && name == NULL; i++) {
        name = same_expressions(&json_forms[i], expressions, count) ? json_forms[i].name : NULL;
    }
    return name;
}

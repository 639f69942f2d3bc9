"""Makes pretokenize.json: where the Hugging Face tokenizers library cuts strings, for the
pre-tokenizers of published models as their tokenizer.json spells them.

usage: make_pretokenize_vectors.py > golden/tokenizer/pretokenize.json
"""

import json
import random
import sys

from tokenizers import Tokenizer

HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + ENDING + r"|[^\r\n\p{L}\p{N}]?" + UPPER
         + "+" + LOWER + "*" + ENDING
         + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Letters that have capitals, as DeepSeek-LLM lists them.
CASED = (
    "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-"
    "\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1"
    "\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-"
    "\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15"
    "\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D"
    "\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB"
    "\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D"
    "\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E\u2183"
    "\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B"
    "\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-"
    "\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB"
    "\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943")


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def splits(*regexes):
    return sequence(*[split(r) for r in regexes], byte_level(False))


BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
"""GGUF name, whether whole words win over merges, the pre-tokenizer."""
ROWS = [
    ("gpt-2", False, byte_level(True)),
    ("starcoder", False, sequence(digits(True), byte_level(True))),
    ("llama-bpe", True, splits(HEAD + r"\p{N}{1,3}" + TAIL)),
    ("smaug-bpe", False, splits(HEAD + r"\p{N}{1,3}" + TAIL)),
    ("qwen2", False, splits(HEAD + r"\p{N}" + TAIL)),
    ("qwen35", False, splits(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")),
    ("falcon", False, sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True),
                               digits(False), split("[0-9][0-9][0-9]"))),
    ("deepseek-coder", False, sequence(
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
        digits(True), byte_level(False))),
    ("deepseek-llm", False, sequence(
        split("[\r\n]"), split(r"\s?[" + CASED + "]+"),
        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"), split(r"\s+$"),
        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), digits(False), byte_level(False))),
    ("deepseek-v3", False, splits(
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        PUNCTUATION + r"[A-Za-z]+|[^" + "\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
        + "\r\n" + r"]*|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+")),
    ("tekken", True, splits(
        r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER
        + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")),
    ("gpt-4o", False, splits(O200K)),
    ("youtu", True, splits(
        "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
        "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        O200K.replace("{1,3}", ""))),
    ("laguna", False, splits(r"[^\n]+|[\n]+", HEAD + r"\p{N}" + TAIL)),
    ("bloom", False, splits(BLOOM)),
    ("viking", False, sequence(split(BLOOM), digits(True), byte_level(False))),
    ("seed-coder", False, splits(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^" + "\r\n" + r"\p{L}\p{N}]?\p{L}+|\p{N}{1}|"
        r" ?[^\s\p{L}\p{N}" + "\r\n" + r"]+|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+")),
    ("bailingmoe", False, splits(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
        r"\s*[\r\n]|\s+(?!\S)|\s+")),
    ("exaone-moe", False, splits(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+")),
    ("minicpm5", True, splits(r"\p{N}{1,3}", HEAD + r"\p{N}+" + TAIL)),
    ("jais-2", False, splits(
        HEAD + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|"
        r"\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|"
        r"\s{1,2}(?!\S)|\s{1}")),
    ("tiny_aya", False, splits(r"\d{1,3}(?=(?:\d{3})*\b)", O200K)),
]

STRINGS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", " \n \n  \n", "a", "Hello world",
    " Hello  world   !", "Hello,\ty'all! 😶‍🌫️ (normal) 🦙🦙", "we'Ve a'lL 'RE you'D I'M he'S it'ſ don't",
    "'s't're've'm'll'd 'x ''", "3 33 333 3333 33333 333333 3333333 1,234.5678", "x2y22z222 v1.0.3",
    " 12 345 6789", "٣٤٥ ⅷ ½ ² ①② १२३ 一二三", "naïve Ünïcödé ÉCOLE Straße ǅ ʰʱ", "e\u0301a\u0300 x\u0302\u0303y",
    "CamelCaseAndHTMLParser fooBar iPhone XMLHttpRequest'S", "Ещё один ТЕСТ Бөлгар қазақ",
    "កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～", "日本語テキスト ひらがな カタカナ 한국어 텍스트",
    "שלום עולם العربية ،؟ हिन्दी में", "------======= ```` \"\"\"\" ......!!!!!!?????? /// \\\\ ((()))",
    "if (x<=y&&z!=0) { return a[i]->b; } // ok\n\t\t#define X\r\n\r\n\tz", "https://example.org/a/b?c=d&e=f#g",
    "a\r\nb\rc\n\r\n d", "end  ", "end\n", "end \n ", "\u00a0nbsp\u2003em\u3000ideo\u0085nel\u2028ls\u180emvs",
    "\ufeffbom \u200bzwsp \u00adshy", "$5 €6 £7 +8 <9> a^b ~c |d| `e`", "“quoted” ‘single’ —dash– …",
    "\U0001d4d0\U0001d7d8 \U00010400\U00010428 \U0001f1e9\U0001f1ea \U0010ffff", "\x01\x02\x7f",
    "x" * 40 + " " * 70 + "y" + " " * 513 + "z", "a b c d e f", "1 2 3", "!a !B #c _d -e", "।۔، । text।",
]


def random_string(seed, count):
    pool = ([chr(c) for c in range(1, 0x500)]
            + list("\u2028\u3000\u0085\u00a0\u180e\u200b\u017f\u212a中文가\u0663\u2160\u0301\ufffd\ue000。，、।۔،")
            + [" "] * 300 + ["\n"] * 80 + ["'s", "'RE", "'LL", "12", "345"] * 20)
    rng = random.Random(seed)
    return "".join(rng.choice(pool) for _ in range(count))


def cut(name, tokenizer, text):
    """The byte offsets at which words end."""
    # Falcon's digits are looked for among the stand-ins of bytes, so it cuts inside of characters.
    if name == "falcon" and not text.isascii():
        return None
    words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    at = [0]
    for char in text:
        at.append(at[-1] + len(char.encode()))
    return sorted({at[end] for _, (start, end) in words if end > start})


def main():
    strings = STRINGS + [random_string(1, 700)]
    rows = []
    for name, ignore_merges, pre in ROWS:
        model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
        tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "pre_tokenizer": pre, "model": model}))
        rows.append({"pre": name, "ignore_merges": ignore_merges, "pre_tokenizer": pre,
                     "cuts": [cut(name, tokenizer, s) for s in strings]})
    out = ['{"strings": [', ",\n".join(json.dumps(s) for s in strings), '],\n"rows": [',
           ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows), "]}"]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()

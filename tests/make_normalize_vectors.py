"""Makes normalize.json: what the normalizers of the Hugging Face tokenizers library make of strings.

usage: make_normalize_vectors.py > golden/tokenizer/normalize.json
"""

import json
import random
import sys
import unicodedata

from tokenizers import Tokenizer


def simple(name):
    return {"type": name}


def sequence(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(kind, pattern, content):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def strip(left, right):
    return {"type": "Strip", "strip_left": left, "strip_right": right}


ROWS = [
    simple("NFC"), simple("NFD"), simple("NFKC"), simple("NFKD"), simple("Lowercase"),
    simple("StripAccents"), simple("Nmt"), strip(True, True), strip(False, True), strip(True, False),
    replace("String", "aa", "<\u00e9>"), replace("String", "\u0301", ""), replace("Regex", " {2,}", "_"),
    replace("Regex", r"\s+", " "), replace("Regex", r"(?i:hello)|\d+", "X"), replace("Regex", "^a|b$", "!"),
    {"type": "Prepend", "prepend": "\u2581"},
    sequence(simple("NFD"), simple("StripAccents"), simple("Lowercase"), simple("NFC")),
    sequence(simple("Nmt"), simple("NFKC"), replace("Regex", " {2,}", " "), strip(True, True)),
    sequence(replace("String", "``", "\""), replace("String", "''", "\""), sequence(simple("NFKD"))),
    sequence(),
]

STRINGS = [
    "", " ", "a", "Hello world", "  Hello   HELLO 12 345  ", "aaaa aaa aa a", "``quoted'' 'x'",
    # Decomposed and composed, several marks in both orders, marks without a letter.
    "e\u0301 \u00e9 a\u0323\u0307 a\u0307\u0323 \u1e69 s\u0323\u0307 s\u0307\u0323 \u0301x \u0344 \u0958",
    "\u212b A\u030a \u00c5 \u2126 \u03a9 \u1f71 \u03ac \u0340 \u037e \u1fef",
    # Composition exclusions, singletons, stacked blockers.
    "\u0915\u093c \u0958 \u2adc \u2add\u0338 \ufb1f \u05f2\u05b7 a\u0334\u0301 a\u0301\u0334 \U0001d15e \U0001d1bb",
    # Hangul: jamo, syllables, half-width, broken sequences.
    "\u1100\u1161\u11a8 \uac00\u11a8 \uac01 \u1100\u1161 \u1161\u11a8 \uac00\u11a7 \uac01\u11a8 \uffa1\uffc2 \u3131\u314f",
    # Compatibility: ligatures, full width, circled, fractions, Arabic forms, long expansions.
    "\ufb01\ufb03 \uff21\uff11\uff5e \u2460\u24b6 \u00bd\u2153 \u210c\u2122 \ufdfa \ufe8e \u3392\u33ff x\u00b2 \u2026 \u00a0\u2003",
    # Emoji with joiners, flags, skin tones, variation selectors.
    "\U0001f636\u200d\U0001f32b\ufe0f \U0001f1e9\U0001f1ea \U0001f44b\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3",
    # Small and capital letters.
    "\u0130I\u0131\u00df\u1e9e \u01c5\u01c8 \u03a3\u03c2\u03c3 \u039f\u03a3 \u0410\u042f\u0401 \U00010400 \u2160\u24b6 \u13a0 \u1c90 \ua64a \u0345",
    # Thai and Devanagari marks, Hebrew points, enclosing marks.
    "\u0e01\u0e33 \u0e19\u0e49\u0e33 \u0939\u093f\u0928\u094d\u0926\u0940 \u05e9\u05c1\u05b8\u05dc a\u20dd \u0bcb \u0dde",
    # Control characters and blanks of all kinds.
    "\x01\x08\t\x0b\x0c\r\n\x0e\x1f\x7f\x80\x85\x8f\x9f\u00a0\u1680\u180e\u2000\u200a\u200b\u200f\u2028\u2029\u202f\u205f\u2060\u2581\u3000\ufeff\ufffd",
    "\u3000\u2003 both ends \u0085\u2029\n", "\ufeffbom", "tab\there", "line\r\nends\n\n", "a\nb", "ba\nab",
    "\u2581already\u2581marked", "\U0010ffff\ue000\ufdd0", "x" + "\u0301" * 40 + "y" + "\u0323\u0301" * 20,
]


def random_string(seed, count):
    pool = ([chr(c) for c in range(0x20, 0x2000)]
            + [chr(c) for c in range(0x300, 0x370)] * 20
            + [chr(c) for c in range(0x1100, 0x1200)] * 4
            + [chr(c) for c in range(0xac00, 0xac80)] * 4
            + [chr(c) for c in range(0xf900, 0xfb50)] * 4 + ["a", "e", "o", " "] * 400)
    # What is newer than Unicode 3.2 the library may not know yet.
    pool = [c for c in pool if unicodedata.ucd_3_2_0.category(c) != "Cn"]
    rng = random.Random(seed)
    return "".join(rng.choice(pool) for _ in range(count))


def main():
    strings = STRINGS + [random_string(1, 600)]
    rows = []
    for normalizer in ROWS:
        model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
        tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "normalizer": normalizer, "model": model}))
        rows.append({"normalizer": normalizer,
                     "texts": [tokenizer.normalizer.normalize_str(s) for s in strings]})
    out = ['{"strings": [', ",\n".join(json.dumps(s) for s in strings), '],\n"rows": [',
           ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows), "]}"]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()

"""Trains the small models golden/tokenizer/sentencepiece-{unigram,bytes,map}.model with the sentencepiece
package, and writes what it makes of strings beside them.

usage: make_sentencepiece_vectors.py ../examples/text/calibration.txt golden/tokenizer
"""

import os
import random
import sys
import tempfile

import sentencepiece

# Single characters and sequences to what replaces them, as code points.
RULES = [
    ("FF21", "0041"), ("FF22", "0042"), ("FF41", "0061"), ("FB01", "0066 0069"), ("FB03", "0066 0066 0069"),
    ("3000", "0020"), ("00A0", "0020"), ("2028", "0020"), ("0009", "0020"), ("000A", "0020"), ("000D", ""),
    ("200B", ""), ("2460", "0031"), ("00BD", "0031 002F 0032"), ("212B", "00C5"), ("0041 030A", "00C5"),
    ("0065 0301", "00E9"), ("0065 0301 0302", "1EBF"), ("1100 1161", "AC00"), ("2581", "0020"),
    ("2026", "002E 002E 002E"), ("00AD", ""),
]

STRINGS = [
    "", "a", " a", "a  b", "  two  blanks ", "   ", "Hello world", "\u212bngstrom A\u030a caf\u00e9 cafe\u0301 e\u0301\u0302",
    "\ufb01ne \ufb03x", "\uff21\uff22\uff41", "\u3000wide\u00a0nb\u2028ls", "a\tb\nc\r\nd", "\u2460 \u00bd \u2026",
    "\u1100\u1161\u11a8 \uac00", "\u65e5\u672c\u8a9e", "\U0001f600\U0001f601 x \U0001f636\u200d\U0001f32b\ufe0f",
    "\u2581lit\u2581eral", "soft\u00adhyphen\u200bzw", "1234.5678", "the quick brown fox jumps over the lazy dog", "x" * 50,
    "\u00e9" * 20, "q\u0301z", "\ufdfa", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "if (x) { return y; }",
    "The of and in to was", "a" + "\u0301" * 5, "UPPER Case", "\u00b5\u00b5 \u00b5", "\u4e2d \u6587", "mixed\u4e2d\u6587text",
]


def train(text, folder, name, **options):
    sentencepiece.SentencePieceTrainer.train(
        input=text, model_prefix=f"{folder}/sentencepiece-{name}", num_threads=1, hard_vocab_limit=False,
        minloglevel=2, max_sentence_length=100000, **options)
    os.remove(f"{folder}/sentencepiece-{name}.vocab")


def write_ids(folder, name, strings):
    path = f"{folder}/sentencepiece-{name}.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    with open(path + ".inp", "w", encoding="utf-8", newline="") as file:
        file.writelines(string + "\n__ggml_vocab_test__\n" for string in strings)
    with open(path + ".out", "w", encoding="ascii") as file:
        for string in strings:
            file.write("".join(f" {i}" for i in processor.encode(string)) + "\n")


def main():
    text, folder = sys.argv[1:]
    with open(text, encoding="utf-8") as file:
        words = file.read()
    rng = random.Random(3)
    strings = list(STRINGS)
    for _ in range(40):
        at = rng.randrange(len(words) - 400)
        strings.append(words[at:at + rng.randrange(20, 400)])
    with tempfile.TemporaryDirectory() as scratch:
        rules = f"{scratch}/rules.tsv"
        with open(rules, "w", encoding="ascii") as file:
            file.writelines(f"{a}\t{b}\n" for a, b in RULES)
        train(text, folder, "unigram", model_type="unigram", vocab_size=420, normalization_rule_tsv=rules)
        train(text, folder, "map", model_type="bpe", vocab_size=500, byte_fallback=True,
              normalization_rule_tsv=rules)
    train(text, folder, "bytes", model_type="unigram", vocab_size=600, byte_fallback=True, add_dummy_prefix=False,
          normalization_rule_name="identity", remove_extra_whitespaces=False, pad_id=3,
          user_defined_symbols=["<sep>", "    "])
    for name in ("unigram", "map", "bytes"):
        write_ids(folder, name, strings)


if __name__ == "__main__":
    main()

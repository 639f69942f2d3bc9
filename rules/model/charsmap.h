/* SentencePiece's precompiled character map (normalizer_spec.precompiled_charsmap, also in
 * tokenizer.json and in GGUF's tokenizer.ggml.precompiled_charsmap): a u32 with the size of a
 * double-array trie, the trie's units as u32, then the replacements, each ended by NUL. A unit
 * packs a label in the low 8 bits, a flag whether a key ends here in bit 8, and the offset of its
 * children in the bits from 10 on, times 256 when bit 9 is set; where a key ends, the unit at that
 * offset holds the position of its replacement. Bytes are borrowed. Thread rule: immutable after
 * parsing. Limits: none besides the size of the bytes; every index is checked when it is used. */
#ifndef LQ_RULES_MODEL_CHARSMAP_H
#define LQ_RULES_MODEL_CHARSMAP_H

#include <stddef.h>

#include "engine/base/error.h"

struct lq_charsmap {
    const unsigned char *units; /* little-endian u32 each */
    size_t unit_count;
    const char *texts; /* the last byte is NUL */
    size_t text_bytes;
};

/* LQ_EFORMAT for sizes that contradict each other. */
enum lq_status lq_charsmap_parse(const void *data, size_t size_bytes, const char *where,
                                 struct lq_charsmap *out, struct lq_error *err);
/* The bytes of the longest key that the text starts with, and what replaces them; 0: none. */
size_t lq_charsmap_match(const struct lq_charsmap *map, const char *text, size_t length,
                         const char **replacement, size_t *replacement_length);

#endif

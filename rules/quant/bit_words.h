/* Numbers of 2, 3, 4 or 8 bits in words of 32, lowest bits first, one behind the other: what GPTQ
 * files have. Where the width does not divide 32 a number may lie in two words: 32 numbers of 3
 * bits take 3 words. Thread rule: pure functions. Limits: `count` numbers fill whole words. */
#ifndef LQ_RULES_QUANT_BIT_WORDS_H
#define LQ_RULES_QUANT_BIT_WORDS_H

#include <stddef.h>
#include <stdint.h>

/* Words of a line of numbers; `count` is a multiple of 32. */
size_t lq_bit_words(size_t count, unsigned bits);
/* Packs a line of numbers that lie `number_step` apart into words that lie `word_step` apart. */
void lq_bit_words_pack(const uint8_t *numbers, size_t number_step, size_t count, unsigned bits,
                       uint32_t *words, size_t word_step);
void lq_bit_words_unpack(const uint32_t *words, size_t word_step, size_t count, unsigned bits,
                         uint8_t *numbers, size_t number_step);

#endif

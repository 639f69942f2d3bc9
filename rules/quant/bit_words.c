#include "rules/quant/bit_words.h"

enum { WORD_BITS = 32 };

size_t lq_bit_words(size_t count, unsigned bits)
{
    return count / WORD_BITS * bits;
}

void lq_bit_words_pack(const uint8_t *numbers, size_t number_step, size_t count, unsigned bits,
                       uint32_t *words, size_t word_step)
{
    uint64_t pending = 0; /* bits that fill no word yet */
    unsigned pending_bits = 0;
    for (size_t i = 0; i < count; i++) {
        pending |= (uint64_t)numbers[i * number_step] << pending_bits;
        pending_bits += bits;
        if (pending_bits >= WORD_BITS) {
            *words = (uint32_t)pending;
            words += word_step;
            pending >>= WORD_BITS;
            pending_bits -= WORD_BITS;
        }
    }
}

void lq_bit_words_unpack(const uint32_t *words, size_t word_step, size_t count, unsigned bits,
                         uint8_t *numbers, size_t number_step)
{
    uint64_t pending = 0;
    unsigned pending_bits = 0;
    for (size_t i = 0; i < count; i++) {
        if (pending_bits < bits) {
            pending |= (uint64_t)*words << pending_bits;
            words += word_step;
            pending_bits += WORD_BITS;
        }
        numbers[i * number_step] = (uint8_t)(pending & ((1U << bits) - 1));
        pending >>= bits;
        pending_bits -= bits;
    }
}

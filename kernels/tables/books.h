/* Code books of sixteen ascending levels with the middles between neighbours arranged for a binary
 * search: middle3 decides bit 3 of the index, middle2[index / 8] bit 2, and so on. Read-only. */
#ifndef LQ_KERNELS_TABLES_BOOKS_H
#define LQ_KERNELS_TABLES_BOOKS_H

struct lq_book {
    float levels[16];
    float middle3;
    float middle2[2];
    float middle1[8]; /* four used */
    float middle0[8];
};

/* On a GPU the definitions come before their use instead: C++ has no declarations of constants. */
#ifndef __CUDACC__
/* IQ4_NL and IQ4_XS; the index is the code. */
extern const struct lq_book lq_book_iq4;
/* Value of an unsigned float of 4 exponent and 3 mantissa bits; 127, its NaN, counts as zero. */
extern const float lq_ue4m3_values[128];
#endif

#endif

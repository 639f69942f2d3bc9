/* The shape of a row of the level table, shared by the table (levels.c) and by the walk over a
 * model's tensors that applies it (level_mix.c). Private to the two. Thread rule: constant data. */
#ifndef LQ_RULES_QUANT_LEVEL_TABLE_H
#define LQ_RULES_QUANT_LEVEL_TABLE_H

#include <stdint.h>

/* When a mixture rule applies. L is the number of layers (for the attention value column: of such
 * tensors), i the running number of the tensor within its column. */
enum lq_level_condition {
    NEVER = 0,
    ALWAYS,
    MORE,              /* first and last eighth, and every third between */
    EIGHTH,            /* i < L/8 */
    SIXTEENTH,         /* i < L/16 */
    FIRST_2,           /* i < 2 */
    FIRST_4,           /* i < 4 */
    MIDDLE,            /* L/8 <= i < 7L/8 */
    GROUPED,           /* four or more query heads share a value head */
    GROUPED_OR_EXPERT, /* or the model has four or more experts */
    IMATRIX,
    NO_IMATRIX,
    IMATRIX_EIGHTH,
    NO_IMATRIX_EIGHTH,
    EIGHTH_OR_MOE_MORE, /* i < L/8, or exactly 8 experts and MORE */
};

struct lq_mix_rule {
    uint8_t when;
    uint8_t dtype;
};

enum { MIX_RULES = 3 };

enum lq_level_flags {
    LOW = 1,      /* the mixtures of one and two bits: own rules for experts, running counters */
    MOE_OUT = 2,  /* with 8 experts the attention output is Q5_K */
    MOE_FILE = 4, /* experts in the base type, everything else Q8_0 */
    KEEP = 8,     /* every tensor in the type that it has */
};

enum { AS_BASE = 255 };

struct lq_level {
    const char *name;
    const char *alias; /* may be NULL */
    uint32_t file_type;
    uint8_t base;
    uint8_t output;
    uint8_t embedding;
    uint8_t flags;
    struct lq_mix_rule value[MIX_RULES]; /* the first rule whose condition holds */
    struct lq_mix_rule key_query;
    struct lq_mix_rule out;
    struct lq_mix_rule down[MIX_RULES];
    struct lq_mix_rule gate_up;
};

#endif

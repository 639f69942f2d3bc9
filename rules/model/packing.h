/* Matrices that a checkpoint stores quantized: what the parts of one are called, how they lie in
 * their files, and what numbers they stand for. One row of a table for each way of storing; the
 * facts are in docs/formats.md ("Quantized Hugging Face folders"). A matrix has `rows` outputs and
 * `cols` inputs; columns that share a scale are a group. A number is (level - zero) * scale of its
 * row and group, in 32-bit floats, the difference exact. Thread rule: pure. Limits: those of
 * tensor_index.h. */
#ifndef LQ_RULES_MODEL_PACKING_H
#define LQ_RULES_MODEL_PACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "kernels/dtype.h"

enum lq_packed_part {
    LQ_PACKED_LEVELS,
    LQ_PACKED_SCALES,
    LQ_PACKED_ZEROS,
    LQ_PACKED_GROUPS, /* the group of each column */
    LQ_PACKED_PART_COUNT,
};

/* Several numbers in a word of 32 bits, from its lowest bits on, one behind the other, also across
 * words: those of one row, those of one column, or none. */
enum lq_packed_axis { LQ_PACKED_SINGLY, LQ_PACKED_ALONG_COLS, LQ_PACKED_ALONG_ROWS };

struct lq_packed_layout {
    const char *suffix;  /* behind the name of the module; NULL: no such part */
    enum lq_dtype dtype; /* I8 or I32; F16 stands for any of F16, BF16 and F32 */
    bool rows_first;     /* [rows][columns or groups], else [columns or groups][rows] */
    enum lq_packed_axis axis;
    bool interleaved; /* eight rows of a word in the order 0 2 4 6 1 3 5 7 */
};

struct lq_packing_method {
    const char *name;    /* "gptq_v2": in the tensor index and in parameters of steps */
    const char *title;   /* "GPTQ" */
    const char *type;    /* "GPTQ": with the bits behind it, the type of a tensor in reports */
    const char *help;    /* what config.json calls it */
    unsigned bits;       /* bit b: levels of b bits can be read */
    bool is_signed;      /* levels are signed, 0 is zero; else zero is in the middle */
    bool needs_zeros;    /* else a file without them is symmetric */
    unsigned zero_more;  /* is added to stored zeros, as far as the bits reach */
    bool words_are_full; /* packed sizes must fill their words */
    const char *also;    /* suffix of a part that says nothing new, or NULL */
    struct lq_packed_layout parts[LQ_PACKED_PART_COUNT];
};

extern const struct lq_packing_method lq_packing_methods[];
extern const size_t lq_packing_method_count;
/* NULL when there is none. */
const struct lq_packing_method *lq_packing_find(const char *name);

/* How one matrix, or each matrix of one tensor of experts, is stored. */
struct lq_packing {
    const struct lq_packing_method *method;
    unsigned bits;
    uint64_t group_cols; /* divides the columns */
    enum lq_dtype scale_dtype;
    bool has_zeros;
    bool has_groups;    /* else group g has the columns from g * group_cols on */
    bool rounds_inputs; /* what it is multiplied with is rounded to 8 bits, token by token */
};

/* How many parts a matrix has, and which is which: part `number` of those that it has. */
size_t lq_packing_part_count(const struct lq_packing *packing);
bool lq_packing_has(const struct lq_packing *packing, enum lq_packed_part part);
/* The part's shape, slowest first as in a safetensors file, and its size; false when the sizes
 * overflow. `dim_count` is 1 or 2. */
bool lq_packing_shape(const struct lq_packing *packing, enum lq_packed_part part, uint64_t cols,
                      uint64_t rows, uint64_t shape[2], uint32_t *dim_count, uint64_t *size_bytes);
/* "GPTQ, 4 bits, groups of 128", for people; NULL when memory is out. */
const char *lq_packing_describe(const struct lq_packing *packing, uint64_t cols,
                                struct lq_arena *arena);
/* "GPTQ4"; NULL when memory is out. */
const char *lq_packing_type(const struct lq_packing *packing, struct lq_arena *arena);
/* Everything that the numbers depend on besides the bytes, for parameters of steps. */
const char *lq_packing_form(const struct lq_packing *packing, struct lq_arena *arena);

struct lq_model_tensor;
/* Decodes rows as lq_model_tensor_rows does, undoing permute_heads. `parts` has those of one matrix
 * behind those of the other. Errors: LQ_EFORMAT for a scale that is NaN or infinite, or a column of
 * a group that does not exist. */
enum lq_status lq_packed_rows(const struct lq_model_tensor *tensor, const void *const *parts,
                              uint64_t row, uint64_t row_count, float *out, struct lq_error *err);

#endif

/* Quantization levels: what a level name such as "Q4_K_M" means for each tensor of a model. A level
 * has a base type, a number for general.file_type, and a mixture: rules by kind of tensor and layer
 * that raise or lower single tensors, as llama.cpp's levels of the same names do. One difference,
 * on purpose: layer counters also advance past tensors whose type the user chose, so that choosing
 * one tensor's type changes no other.
 * Everything is static or the caller's. Thread rule: pure. */
#ifndef LQ_RULES_QUANT_LEVELS_H
#define LQ_RULES_QUANT_LEVELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "kernels/dtype.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_index.h"

struct lq_level;

/* By name or alias, case-free ("q4_k" is Q4_K_M), or by the number of its file type ("15"); NULL
 * when there is none. */
const struct lq_level *lq_level_find(const char *name);
/* The level name most like `name`, or NULL. */
const char *lq_level_suggest(const char *name);
size_t lq_level_count(void);
const struct lq_level *lq_level_at(size_t index);
const char *lq_level_name(const struct lq_level *level);
/* True for COPY, which changes no tensor's type: the file type is then the source's. */
bool lq_level_keeps_types(const struct lq_level *level);
/* The value of general.file_type. */
uint32_t lq_level_file_type(const struct lq_level *level);
enum lq_dtype lq_level_base(const struct lq_level *level);
/* The level that best names a file whose largest part has this type. */
const struct lq_level *lq_level_of_dtype(enum lq_dtype dtype);

/* What the mixtures ask about a model. */
struct lq_level_model {
    const char *architecture;
    uint64_t layer_count;
    uint64_t head_count;
    uint64_t head_count_kv;
    uint64_t expert_count;
};
/* From the keys of a model's "meta" output. Strings are borrowed. */
void lq_level_model_read(const struct lq_gguf *meta, struct lq_level_model *out);

/* A type chosen by the user for every tensor whose GGUF name matches the glob. */
struct lq_level_override {
    const char *pattern;
    enum lq_dtype dtype;
};

struct lq_level_request {
    const struct lq_level *level;
    struct lq_level_model model;
    bool has_imatrix;
    bool pure; /* no mixture: the base type everywhere */
    /* NULL: as the level says. output_type is also the tied embedding's. */
    const enum lq_dtype *output_type;
    const enum lq_dtype *embedding_type;
    const struct lq_level_override *overrides; /* the first match wins */
    size_t override_count;
};

/* Chooses a type for every tensor: types[i] belongs to index->tensors[i]. Tensors that are not
 * quantizable get F32 when they are vectors or BF16, else the type they have. Errors: LQ_ERECIPE
 * for a pattern that matches no quantizable tensor, LQ_ENOMEM. */
enum lq_status lq_level_assign(const struct lq_level_request *request,
                               const struct lq_tensor_index *index, enum lq_dtype *types,
                               struct lq_error *err);

/* True for weights that levels and profiles decide about: two or more dimensions, a name that ends
 * in "weight", and none of the small or sensitive kinds (norms, routers, position embeddings, ...).
 */
bool lq_level_is_quantizable(const struct lq_model_tensor *tensor);
/* The type of a tensor that is not quantizable. */
enum lq_dtype lq_level_kept_type(const struct lq_model_tensor *tensor);
/* `dtype`, or the nearest type whose blocks fit rows of `col_count` columns. */
enum lq_dtype lq_level_fallback(enum lq_dtype dtype, uint64_t col_count);
/* Types that are unusable without an importance matrix; never for embeddings and output. `level`
 * may be NULL. */
bool lq_level_needs_imatrix(const struct lq_level *level, const char *tensor_name,
                            enum lq_dtype dtype);
bool lq_level_is_embedding(const char *tensor_name);
bool lq_level_is_output(const char *tensor_name);
/* The layer number in "blk.12.attn_q.weight", or -1. */
int64_t lq_level_layer_of(const char *tensor_name);
/* True for types that hold blocks of quantized values. */
bool lq_level_is_quantized_type(enum lq_dtype dtype);
/* A tensor of such a type, or one that a checkpoint stores quantized. */
bool lq_level_is_quantized(const struct lq_model_tensor *tensor);
/* Bytes of the whole tensor in this type, 0 when the row is not a multiple of the block or the size
 * overflows. */
uint64_t lq_level_tensor_bytes(const struct lq_model_tensor *tensor, enum lq_dtype dtype);
/* Bytes of the tensor as it is in its model; 0 when its shape does not fit its type. */
uint64_t lq_level_stored_bytes(const struct lq_model_tensor *tensor);
/* Elements of a tensor; saturates at UINT64_MAX. */
uint64_t lq_level_tensor_elems(const struct lq_model_tensor *tensor);
/* A type by name, case-free ("q8_0"); false when there is none. */
bool lq_level_dtype_find(const char *name, enum lq_dtype *dtype);

#endif

/* The tensor index: what the `model` rule says about the tensors of a model, whatever files they
 * come from. Names are GGUF names and order is the order of a GGUF file, so everything behind it
 * knows one world only. It is the artifact's output "tensors", written as canonical JSON: no paths,
 * no times. A model's other outputs are "meta", a GGUF file without tensors that holds all keys of
 * the model (architecture, hyperparameters, tokenizer), and "vocab", the same with the tokenizer.*
 * keys only. Thread rule: immutable after parsing. */
#ifndef LQ_RULES_MODEL_TENSOR_INDEX_H
#define LQ_RULES_MODEL_TENSOR_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"
#include "kernels/dtype.h"

/* Where a part of a tensor's data lies. */
struct lq_tensor_piece {
    size_t source;   /* number of the source file within the model artifact */
    uint64_t offset; /* in that file */
    uint64_t size_bytes;
    struct lq_digest digest; /* SHA-256 of the bytes */
};

struct lq_packing;

struct lq_model_tensor {
    const char *name;        /* GGUF name, "blk.0.attn_q.weight" */
    const char *source_name; /* name in the source file, "model.layers.0.self_attn.q_proj.weight" */
    enum lq_dtype dtype;     /* in the source; F32 for what is packed */
    uint32_t dim_count;
    uint64_t ne[4];  /* GGUF order: ne[0] input columns, ne[1] output rows */
    size_t source;   /* number of the source file within the model artifact */
    uint64_t offset; /* of the data in that file */
    uint64_t size_bytes;
    struct lq_digest digest; /* SHA-256 of the data bytes */
    /* 0: rows are stored in GGUF order. Otherwise rows must be reordered when read: within each of
     * the `permute_heads` heads of ne[1]/permute_heads rows, GGUF row 2*i + j is source row
     * j*half + i, half = rows of a head / 2 (rotary pairs side by side instead of split halves). */
    uint32_t permute_heads;
    bool add_one; /* values mean 1 more than they say: norms of Gemma checkpoints */
    /* Data that is not one stretch of a file: experts that a checkpoint stores one by one (`pieces`
     * follow each other), or values that come from the configuration (`literal`, in the index
     * itself). Then source and offset are 0, and `digest` names the whole. */
    const struct lq_tensor_piece *pieces;
    size_t piece_count;  /* 0: one stretch */
    const void *literal; /* size_bytes of it, or NULL */
    /* What a checkpoint stores quantized has its parts as pieces, those of one matrix behind those
     * of the other. Its data, wherever functions take or give it, are then not bytes but an array
     * of pointers to the bytes of these parts, `const void *const *`. NULL for others. */
    const struct lq_packing *packing;
};

struct lq_tensor_index {
    struct lq_model_tensor *tensors;
    size_t tensor_count;
};

enum lq_status lq_tensor_index_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_tensor_index *out, struct lq_error *err);
enum lq_status lq_tensor_index_format(const struct lq_tensor_index *index, struct lq_buffer *out,
                                      struct lq_error *err);
/* True when the data in the source are the tensor's values, so that copying them is enough. */
bool lq_model_tensor_is_verbatim(const struct lq_model_tensor *tensor);
/* What values follow from besides the bytes: type, shape, order of rows, packing; for parameters of
 * steps. NULL when memory is out. */
const char *lq_model_tensor_form(const struct lq_model_tensor *tensor, struct lq_arena *arena);
/* The data of one of the ne[2] matrices, given those of the whole. */
const void *lq_model_tensor_matrix(const struct lq_model_tensor *tensor, const void *data,
                                   uint64_t matrix);
const struct lq_model_tensor *lq_tensor_index_find(const struct lq_tensor_index *index,
                                                   const char *name);
/* The source row that holds GGUF row `row`. */
uint64_t lq_model_tensor_source_row(const struct lq_model_tensor *tensor, uint64_t row);
/* Decodes GGUF rows [row, row + row_count) of the tensor whose raw data is `data` into
 * row_count x ne[0] floats, undoing permute_heads and add_one. `data` is the whole tensor.
 * LQ_EUNSUPPORTED for a type without a decoder. Higher dimensions count as more rows. */
enum lq_status lq_model_tensor_rows(const struct lq_model_tensor *tensor, const void *data,
                                    uint64_t row, uint64_t row_count, float *out,
                                    struct lq_error *err);
/* The same where each of the ne[2] matrices has its data elsewhere. */
enum lq_status lq_model_tensor_rows_of(const struct lq_model_tensor *tensor,
                                       const void *const *matrices, uint64_t row,
                                       uint64_t row_count, float *out, struct lq_error *err);

#endif

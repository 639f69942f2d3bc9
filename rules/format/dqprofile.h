/* .dqprofile files: how many bits each layer gets. JSON as users of llm-quantize know it, plus an
 * optional exact GGUF type in each assignment. This file only reads and writes; which tensors a
 * layer name means is for the rules. Layer names are Hugging Face module names
 * ("model.layers.0.mlp.down_proj", "model.layers.0"), GGUF names ("blk.0.ffn_down.weight",
 * "blk.0") or patterns with '*' and '?'. Parsed memory comes from the arena. Errors: LQ_EPROFILE
 * with file, entry and field. Limit: LQ_PROFILE_LAYERS_MAX. Thread rule: per object. */
#ifndef LQ_RULES_FORMAT_DQPROFILE_H
#define LQ_RULES_FORMAT_DQPROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "kernels/dtype.h"

enum lq_profile_strategy {
    LQ_STRATEGY_ATTENTION_HIGH,
    LQ_STRATEGY_BALANCED,
    LQ_STRATEGY_COMPRESSION_MAX,
    LQ_STRATEGY_CUSTOM,
    LQ_STRATEGY_COUNT
};

enum lq_quant_method {
    LQ_QUANT_METHOD_AUTO,
    LQ_QUANT_METHOD_K_QUANTS,
    LQ_QUANT_METHOD_GPTQ,
    LQ_QUANT_METHOD_AWQ,
    LQ_QUANT_METHOD_COUNT
};

struct lq_dqprofile_layer {
    const char *layer_name;
    double bit_width; /* one of 1.5, 2, 3, 4, 5, 6, 8, 16 */
    enum lq_quant_method quant_method;
    bool is_protected;
    bool has_type;
    enum lq_dtype type;      /* the exact type when has_type: field "type" */
    double importance_score; /* NaN when absent, else not negative */
    double estimated_error;  /* NaN when absent */
};

struct lq_dqprofile {
    const char *profile_id; /* when written, NULL or "" gives one derived from the content */
    const char *profile_name;
    const char *description; /* NULL when absent */
    enum lq_profile_strategy strategy;
    struct lq_dqprofile_layer *layers; /* in the order of the file; no name twice */
    size_t layer_count;
    double target_bpw;         /* NaN when absent, else in (0, 32] */
    double target_compression; /* NaN when absent, else in (0, 1]: size of the result / original */
};

enum lq_status lq_dqprofile_parse(const void *data, uint64_t size_bytes, const char *where,
                                  struct lq_arena *arena, struct lq_dqprofile *out,
                                  struct lq_error *err);
/* Appends pretty JSON with a fixed order of fields. */
enum lq_status lq_dqprofile_format(const struct lq_dqprofile *profile, struct lq_buffer *out,
                                   struct lq_error *err);

/* "attention_high"; finding also takes "attention-high". */
const char *lq_profile_strategy_name(enum lq_profile_strategy strategy);
bool lq_profile_strategy_find(const char *name, enum lq_profile_strategy *out);
const char *lq_quant_method_name(enum lq_quant_method method);
bool lq_quant_method_find(const char *name, enum lq_quant_method *out);
/* True for the bit widths that profiles allow. */
bool lq_bit_width_is_allowed(double bit_width);

#endif

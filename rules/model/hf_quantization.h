/* What config.json says about weights that are quantized already: its quantization_config, or the
 * quantize_config.json of older GPTQ folders. Which matrices are quantized is not in there: the
 * names of the tensors tell (hf_names.h). What lqbuild cannot decode is refused by name. Thread
 * rule: pure. Limits: LQ_MODEL_DIM_MAX columns. */
#ifndef LQ_RULES_MODEL_HF_QUANTIZATION_H
#define LQ_RULES_MODEL_HF_QUANTIZATION_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "rules/model/packing.h"

struct lq_hf_quantization {
    const struct lq_packing_method *method; /* NULL: weights are floats */
    unsigned bits;
    uint64_t group_cols; /* 0: a whole row */
    bool symmetric;      /* compressed-tensors: there are no zeros; others always have them */
    bool rounds_inputs;  /* to 8 bits, token by token */
};

/* Reads the object `quantization`, which messages call `where`. LQ_EUNSUPPORTED for a method,
 * version or number of bits that cannot be decoded, LQ_EFORMAT for what is malformed. */
enum lq_status lq_hf_quantization_read(const cJSON *quantization, const char *where,
                                       struct lq_hf_quantization *out, struct lq_error *err);
/* The same out of a folder's documents: `config` is config.json, `other` quantize_config.json or
 * NULL. LQ_EFORMAT when both say how weights are quantized and differ. */
enum lq_status lq_hf_quantization_find(const cJSON *config, const cJSON *other,
                                       struct lq_hf_quantization *out, struct lq_error *err);

#endif

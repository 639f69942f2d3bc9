/* config.json of a Hugging Face model directory, and the GGUF keys that say the same. The classes
 * that are known stand in hf_arch.c; any other, and any option that changes the maths in a way we
 * do not compute or GGUF cannot say, is refused by name. Numbers are checked against limits.h and
 * against each other. Thread rule: pure. */
#ifndef LQ_RULES_MODEL_HF_CONFIG_H
#define LQ_RULES_MODEL_HF_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_arch.h"
#include "rules/model/hf_quantization.h"
#include "rules/model/hparams.h"

struct lq_hf_config {
    const struct lq_hf_arch *arch;
    const char *name; /* last part of "_name_or_path", or NULL; borrowed from the document */
    /* As lq_hparams_read would find them in the keys that lq_hf_config_put puts. */
    struct lq_hparams hparams;
    uint32_t feed_forward; /* intermediate_size; experts may have another width */
    /* Divisors of the frequencies, one for each pair, or NULL: tensors that no file holds. */
    const float *rope_freqs;
    const float *rope_long;
    const float *rope_short;
    struct lq_hf_quantization quantization; /* of the weights */
};

/* Memory from the arena. */
enum lq_status lq_hf_config_read(const cJSON *config, struct lq_arena *arena,
                                 struct lq_hf_config *out, struct lq_error *err);
/* The part about rotary positions: rope_theta, rope_scaling, rope_parameters and their like; sizes
 * and windows must be set. For lq_hf_config_read. */
enum lq_status lq_hf_rope_read(const cJSON *config, struct lq_arena *arena,
                               struct lq_hf_config *out, struct lq_error *err);
/* Puts general.* keys and those of the architecture. `parameter_count` makes the size label. */
void lq_hf_config_put(const struct lq_hf_config *config, uint64_t parameter_count,
                      struct lq_gguf_writer *writer);

#endif

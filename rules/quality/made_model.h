/* A model that another artifact of the recipe made, as a step reads it: the GGUF file of a "gguf",
 * or the weights and the config.json of a folder ("smoothquant", "gptq", "awq"). The file is an
 * input of the step under a name of the caller's; a folder's configuration is "<name>.config".
 * Tensors are read one at a time, when they are asked for. Ownership: the object owns the tensor
 * that was read last; close it. Thread rule: one thread at a time. Limits: those of gguf.h and
 * safetensors.h. */
#ifndef LQ_RULES_QUALITY_MADE_MODEL_H
#define LQ_RULES_QUALITY_MADE_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_index.h"

enum { LQ_MADE_INPUTS_MAX = 2 };

/* Any kind but "model"; the artifact that it was made of is its attribute "model". */
bool lq_made_model_is(const struct lq_artifact *artifact);
bool lq_made_model_is_folder(const struct lq_artifact *artifact);
/* Adds up to LQ_MADE_INPUTS_MAX inputs. */
enum lq_status lq_made_model_put(struct lq_expand *expand, const struct lq_artifact *artifact,
                                 const char *name, struct lq_step_input *inputs, size_t *count,
                                 struct lq_error *err);

struct lq_made_model {
    struct lq_run *run;
    const char *name; /* of the input */
    struct lq_tensor_index index;
    bool is_folder;
    struct lq_gguf keys; /* of a file */
    uint64_t file_bytes;
    void *bytes; /* the newest tensor, or a header */
};

/* `name` must outlive the object. LQ_EFORMAT for malformed files. */
enum lq_status lq_made_model_open(struct lq_made_model *made, struct lq_run *run, const char *name,
                                  struct lq_error *err);
void lq_made_model_close(struct lq_made_model *made);
/* Matrices [first, first + count) of the ne[2] of a tensor of `index`, borrowed until the next
 * call. */
enum lq_status lq_made_model_read(struct lq_made_model *made, const struct lq_model_tensor *tensor,
                                  uint64_t first, uint64_t count, const void **data,
                                  struct lq_error *err);

#endif

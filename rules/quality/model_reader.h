/* The model that a step measures: a "model" artifact, the GGUF file that a "gguf" artifact made, or
 * the folder of a "smoothquant", "gptq" or "awq" artifact.
 * At expansion lq_model_inputs_add lists the inputs and the parameter by which a step gets it; at
 * run time the reader finds tensors in them for a forward pass. A step that needs a few tensors
 * only takes a part of the model: its key then depends on nothing else of it, except that what
 * an artifact made is always taken whole. `prefix` tells the models of one step apart ("",
 * "original."). Ownership: a reader owns the tensor it read last; close it. Thread rule: one thread
 * at a time. Limits: those of gguf.h and hparams.h. */
#ifndef LQ_RULES_QUALITY_MODEL_READER_H
#define LQ_RULES_QUALITY_MODEL_READER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/forward.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"
#include "rules/quality/made_model.h"

/* Inputs and parameters of a step that is being put together; in the expansion's arena. */
struct lq_model_inputs {
    struct lq_step_input *inputs;
    size_t input_count;
    size_t input_room;
    struct lq_step_param *params;
    size_t param_count;
    size_t param_room;
};

/* `room` more inputs and parameters than the models that will be added need. */
enum lq_status lq_model_inputs_init(struct lq_model_inputs *out, struct lq_expand *expand,
                                    const struct lq_artifact *const *models, size_t model_count,
                                    size_t room, struct lq_error *err);
/* Adds what a reader of `prefix` needs: for a model its index, its files and its hyperparameters as
 * a parameter; of what an artifact made the file, and of a folder the configuration. */
enum lq_status lq_model_inputs_add(struct lq_model_inputs *out, struct lq_expand *expand,
                                   const struct lq_artifact *model, const char *prefix,
                                   struct lq_error *err);
/* A model that steps take parts of, read once for an expansion. */
struct lq_model_view {
    const struct lq_artifact *model;
    bool is_made;                 /* of another kind than "model" */
    struct lq_hparams hparams;    /* then those of the model that it was made from */
    struct lq_tensor_index index; /* kind "model" only */
};

/* What a step sees of a model, for its state; empty for what was made. Follows from the step's
 * parameters. */
struct lq_model_part {
    struct lq_hparams hparams;
    const struct lq_model_tensor *tensors;
    const char *const *inputs; /* that hold them */
    size_t tensor_count;
};

/* LQ_EUNSUPPORTED when the forward pass does not know the model. */
enum lq_status lq_model_view_open(struct lq_model_view *view, struct lq_expand *expand,
                                  const struct lq_artifact *model, struct lq_error *err);
/* Adds the named tensors, which takes name_count + 1 inputs and parameters. LQ_EMODEL for one that
 * is missing. */
enum lq_status lq_model_inputs_add_part(struct lq_model_inputs *out, struct lq_expand *expand,
                                        const struct lq_model_view *view, const char *prefix,
                                        const char *const *names, size_t name_count,
                                        struct lq_model_part *part, struct lq_error *err);
void lq_model_inputs_put(struct lq_model_inputs *out, const char *name, struct lq_ref ref);
void lq_model_inputs_set(struct lq_model_inputs *out, const char *name, const char *value);

enum { LQ_MODEL_INPUT_BYTES = 64 };

struct lq_model_reader {
    struct lq_run *run;
    const char *prefix;
    struct lq_hparams hparams;
    struct lq_tensor_index index;
    const struct lq_model_part *part; /* NULL: the whole model */
    bool is_made;
    struct lq_made_model made;
    char file[LQ_MODEL_INPUT_BYTES]; /* name of the input that holds it */
    void *bytes;                     /* the newest tensor that was copied */
};

/* LQ_EFORMAT for a malformed file, LQ_EUNSUPPORTED for a model that the forward pass lacks. */
enum lq_status lq_model_reader_open(struct lq_model_reader *reader, struct lq_run *run,
                                    const char *prefix, struct lq_error *err);
/* The same for a part; `part` must outlive the reader. */
enum lq_status lq_model_reader_open_part(struct lq_model_reader *reader, struct lq_run *run,
                                         const char *prefix, const struct lq_model_part *part,
                                         struct lq_error *err);
void lq_model_reader_close(struct lq_model_reader *reader);
struct lq_weight_source lq_model_reader_weights(struct lq_model_reader *reader);

#endif

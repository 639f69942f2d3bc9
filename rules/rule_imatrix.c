#include <string.h>

#include "rules/format/imatrix.h"
#include "rules/model/calibrate.h"
#include "rules/model/gradient.h"
#include "rules/model/hidden_states.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "the model whose weights are to be weighed"},
    {.name = "calibration",
     .type = LQ_ATTR_REF,
     .choices = "calibration",
     .help = "the samples to run through it; required unless file is given"},
    {.name = "method",
     .type = LQ_ATTR_ENUM,
     .default_text = "activation",
     .choices = "activation gradient fisher",
     .range_status = LQ_EIMPORTANCE,
     .help = "what importance is: mean square of inputs, mean |gradient * weight|, or mean square "
             "of gradients"},
    {.name = "skip_first",
     .type = LQ_ATTR_BOOL,
     .default_text = "false",
     .help = "leave the first token of each sample out, whose activations are unlike all others"},
    {.name = "hidden",
     .type = LQ_ATTR_ENUM,
     .default_text = LQ_HIDDEN_DEFAULT,
     .choices = LQ_HIDDEN_CHOICES,
     .help = "type of the hidden states between layers; bf16 halves the space they take while it "
             "runs"},
    {.name = "file",
     .type = LQ_ATTR_PATH,
     .help = "take this imatrix (GGUF, IMAT or .dat) instead of computing one"},
    {.name = "path",
     .type = LQ_ATTR_OUT_PATH,
     .help = "where to put it; .gguf, .dat, and anything else is the IMAT format"},
};

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    bool has_file = lq_attr_is_set(artifact, "file");
    if (has_file && lq_attr_count(artifact, "calibration") != 0) {
        return lq_attr_error(artifact, "calibration", err, LQ_ERECIPE,
                             "'file' and 'calibration' exclude each other: an imatrix is either "
                             "loaded or computed");
    }
    if (!has_file && lq_attr_count(artifact, "calibration") == 0) {
        return lq_attr_error(artifact, NULL, err, LQ_ERECIPE,
                             "an imatrix needs 'calibration' (to compute it) or 'file' (to load "
                             "it)");
    }
    static const char *const computing[] = {"method", "skip_first", "hidden"};
    for (size_t i = 0; has_file && i < sizeof computing / sizeof computing[0]; i++) {
        if (lq_attr_is_set(artifact, computing[i])) {
            return lq_attr_error(artifact, computing[i], err, LQ_ERECIPE,
                                 "'%s' says how an imatrix is computed; it means nothing for a "
                                 "file",
                                 computing[i]);
        }
    }
    return LQ_OK;
}

static enum lq_status sources(const struct lq_artifact *artifact, struct lq_sources *out,
                              struct lq_error *err)
{
    const char *path = lq_attr_path(artifact, "file");
    return path == NULL ? LQ_OK : lq_sources_add(out, path, NULL, LQ_EIMATRIX, err);
}

/* "main" in the format that the path asks for; other rules read "gguf". */
static enum lq_status bind_outputs(struct lq_expand *expand, size_t step, struct lq_error *err)
{
    struct lq_ref main_ref = lq_ref_step(step, "main");
    struct lq_ref gguf_ref = lq_ref_step(step, "gguf");
    enum lq_status status = lq_expand_bind_output(expand, "main", &main_ref, err);
    return status == LQ_OK ? lq_expand_bind_output(expand, "gguf", &gguf_ref, err) : status;
}

static enum lq_importance_method method_of(const char *text)
{
    if (strcmp(text, "gradient") == 0) {
        return LQ_IMPORTANCE_GRADIENT;
    }
    return strcmp(text, "fisher") == 0 ? LQ_IMPORTANCE_FISHER : LQ_IMPORTANCE_ACTIVATION;
}

static enum lq_status expand_imatrix(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const char *path = lq_attr_path(artifact, "path");
    struct lq_calibrate_request request = {
        .model = lq_attr_ref(artifact, "model", 0),
        .format = path == NULL ? LQ_IMATRIX_GGUF : lq_imatrix_format_of_path(path),
    };
    size_t step = 0;
    enum lq_status status = LQ_OK;
    if (lq_attr_is_set(artifact, "file")) {
        status = lq_calibrate_load(expand, &request, artifact, &step, err);
    } else {
        request.calibration = lq_attr_ref(artifact, "calibration", 0);
        request.method = method_of(lq_attr_string(artifact, "method"));
        request.skip_first = lq_attr_bool(artifact, "skip_first");
        request.hidden_bf16 = strcmp(lq_attr_string(artifact, "hidden"), "bf16") == 0;
        status = request.method == LQ_IMPORTANCE_ACTIVATION
                     ? lq_calibrate_layers(expand, &request, &step, err)
                     : lq_gradient_layers(expand, &request, &step, err);
    }
    return status == LQ_OK ? bind_outputs(expand, step, err) : status;
}

const struct lq_rule lq_rule_imatrix = {
    .kind = "imatrix",
    .version = 5,
    .help = "importance of every input column, measured on calibration text or loaded",
    .attrs = attrs,
    .attr_count = sizeof attrs / sizeof attrs[0],
    .outputs =
        "gguf (the same in llama.cpp's GGUF format), with gradients ranks (the best weights of "
        "each tensor)",
    .check = check,
    .sources = sources,
    .expand = expand_imatrix,
};

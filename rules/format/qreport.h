/* .qreport files: what quantization cost. JSON with the fields of the QuantizationQualityReport
 * that users of llm-quantize know, plus llama.cpp's figures. One report compares one original with
 * any number of quantized models: the first stands at the top level, so that a reader of one sees
 * what it expects, the rest under "others" with the same fields. Files hold no time, so equal
 * results are equal files; a timestamp is for printing. Numbers that were not measured are NaN here
 * and null there. Parsed memory comes from the arena. Malformed input gives LQ_EFORMAT. Limits:
 * LQ_REPORT_MODELS_MAX models, LQ_MODEL_TENSORS_MAX layers. Thread rule: per object. */
#ifndef LQ_RULES_FORMAT_QREPORT_H
#define LQ_RULES_FORMAT_QREPORT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/quality/accuracy.h"
#include "rules/quality/coherence.h"
#include "rules/quality/divergence.h"

struct lq_qreport_layer {
    const char *layer_name; /* GGUF tensor name */
    const char *type;       /* "Q4_K"; NULL when unknown */
    double mse;
    double max_error;
    double bit_width; /* bits per weight as stored */
    uint64_t parameter_count;
};

/* Accuracy of one model on one set of tasks. */
struct lq_qreport_task {
    const char *name;
    struct lq_accuracy accuracy;
};

struct lq_qreport_model {
    const char *quantized_path;
    double perplexity; /* perplexity_quantized */
    double plus_minus; /* its standard error */
    double delta_pct;  /* 100 * (quantized / original - 1) */
    double effective_bpw;
    double super_weight_coverage;
    struct lq_coherence coherence; /* NaN when it was not measured */
    struct lq_divergence divergence;
    double *hidden_errors; /* of each layer's output, relative to the original's */
    size_t hidden_count;
    struct lq_qreport_task *tasks;
    size_t task_count;
    double compression_ratio; /* file size / original's file size */
    uint64_t file_size_bytes; /* 0 is unknown */
    struct lq_qreport_layer *layers;
    size_t layer_count;
};

struct lq_qreport {
    const char *report_id; /* when written, NULL or "" gives one derived from the content */
    const char *model_path;
    double perplexity; /* perplexity_original */
    double plus_minus;
    uint64_t file_size_bytes; /* 0 is unknown */
    uint64_t context;         /* tokens in a chunk */
    uint64_t chunk_count;
    uint64_t token_count;          /* tokens that were scored */
    struct lq_qreport_task *tasks; /* of the original */
    size_t task_count;
    struct lq_qreport_model *models; /* at least one */
    size_t model_count;
};

/* A model with every number NaN or 0. */
void lq_qreport_model_init(struct lq_qreport_model *model);
enum lq_status lq_qreport_parse(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_qreport *out,
                                struct lq_error *err);
/* Appends pretty JSON with a fixed order of fields. `timestamp` (RFC 3339) is NULL in artifacts. */
enum lq_status lq_qreport_format(const struct lq_qreport *report, const char *timestamp,
                                 struct lq_buffer *out, struct lq_error *err);

#endif

/* What the step "model.describe" makes of a model, whatever files it comes from: "meta", a GGUF
 * file without tensors that holds all keys; "vocab", the same with the tokenizer's keys only; and
 * "tensors", the tensor index. Thread rule: pure. */
#ifndef LQ_RULES_MODEL_MODEL_DESCRIBE_H
#define LQ_RULES_MODEL_MODEL_DESCRIBE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/model/hf_documents.h"
#include "rules/model/model_scan.h"

struct lq_model_directory {
    const struct lq_scanned_file *files; /* safetensors, in the order of their source numbers */
    size_t file_count;
    struct lq_hf_text texts[LQ_HF_FILE_COUNT];
};

/* The outputs are appended to. */
struct lq_model_outputs {
    struct lq_buffer *meta;
    struct lq_buffer *vocab;
    struct lq_buffer *tensors;
};

enum lq_status lq_model_describe_directory(const struct lq_model_directory *directory,
                                           struct lq_arena *arena, struct lq_model_outputs *out,
                                           struct lq_error *err);
/* `data` is at least the header of the GGUF file, which is `file_bytes` long; `scanned` is its
 * description. Keys that speak about the file itself are left out: alignment, file type,
 * quantization version, splits. */
enum lq_status lq_model_describe_gguf(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                      const char *where, const struct lq_scanned_file *scanned,
                                      struct lq_arena *arena, struct lq_model_outputs *out,
                                      struct lq_error *err);

#endif

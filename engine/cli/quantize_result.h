/* What `quantize` prints about the file that it made: each tensor's type, size and share for
 * programs, the sums by type for people. Everything is read from the file's header. Thread rule:
 * pure. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_RESULT_H
#define LQ_ENGINE_CLI_QUANTIZE_RESULT_H

#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"

/* "path: size, bits per weight" and a line for each type, widest first. */
void lq_quantize_result_text(const struct lq_gguf *gguf, const char *path, uint64_t file_bytes,
                             struct lq_buffer *out);
/* "layer_summary", "effective_bpw", "compression_ratio" (not without `model_bytes`) and "file_size"
 * into the open object. */
void lq_quantize_result_json(const struct lq_gguf *gguf, uint64_t file_bytes, uint64_t model_bytes,
                             struct lq_json_writer *writer);

#endif

/* Private to rules/format/inspect*.c: one function for each family of formats, called by lq_inspect
 * once it knows the family. Thread rule: pure. */
#ifndef LQ_RULES_FORMAT_INSPECT_PARTS_H
#define LQ_RULES_FORMAT_INSPECT_PARTS_H

#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "rules/format/inspect.h"
#include "rules/format/safetensors.h"
#include "rules/format/view.h"
#include "rules/model/hf_quantization.h"

/* What lq_inspect was asked, with memory for the reader. */
struct lq_inspection {
    const void *data;
    uint64_t size_bytes;
    const char *name;
    bool json;
    struct lq_buffer *out;
    struct lq_arena *arena;
    struct lq_error *err;
};

/* GGUF models and vocabularies; importance matrices in GGUF go to lq_inspect_imatrix. */
enum lq_status lq_inspect_gguf(const struct lq_inspection *in);
enum lq_status lq_inspect_safetensors(const struct lq_inspection *in);
enum lq_status lq_inspect_imatrix(const struct lq_inspection *in);
enum lq_status lq_inspect_mask(const struct lq_inspection *in);
/* All formats that are JSON, told apart by their fields. */
enum lq_status lq_inspect_json(const struct lq_inspection *in);

/* Of a folder whose weights are quantized: how config.json says they are, and which modules. What
 * lqbuild cannot read is said, not refused. */
struct lq_inspect_quantized {
    struct lq_hf_quantization how;
    struct lq_error refusal;
    uint64_t matrix_count;
    struct lq_buffer quantized; /* names of modules, each once */
    struct lq_buffer plain;
};
void lq_inspect_quantized_init(struct lq_inspect_quantized *out, const cJSON *config);
void lq_inspect_quantized_fini(struct lq_inspect_quantized *quantized);
void lq_inspect_quantized_add(struct lq_inspect_quantized *quantized,
                              const struct lq_safetensor *tensor);
/* Weights that a tensor of `stored` elements holds: of words more than these, of scales none. */
uint64_t lq_inspect_quantized_count(const struct lq_inspect_quantized *quantized,
                                    const struct lq_safetensor *tensor, uint64_t stored);
/* Nothing for a model of floats. */
void lq_inspect_quantized_put(const struct lq_inspect_quantized *quantized, struct lq_view *view);

/* Width for a column of names: at least 12, at most 60. */
int lq_inspect_width(int width, const char *name);
/* Tensors by type: what lq_inspect_count collects and lq_inspect_put_types shows. */
struct lq_inspect_type {
    const char *name;
    uint64_t tensors;
    uint64_t elements;
    uint64_t size_bytes;
};
enum { LQ_INSPECT_TYPES_MAX = 64 };
void lq_inspect_count(struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX], const char *name,
                      uint64_t elements, uint64_t size_bytes);
void lq_inspect_put_types(struct lq_view *view,
                          const struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX]);

#endif

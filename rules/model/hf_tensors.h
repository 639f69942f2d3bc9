/* The tensors of a model folder by name, as they are taken one after the other: found, checked
 * against the shape that config.json makes them, and marked, so that what is left over can be
 * named. A matrix that is stored quantized is taken with all its parts. Ownership: memory from the
 * arena; names and digests are those of the scanned files. Thread rule: one thread at a time.
 * Limits: LQ_MODEL_TENSORS_MAX. */
#ifndef LQ_RULES_MODEL_HF_TENSORS_H
#define LQ_RULES_MODEL_HF_TENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "rules/model/hf_quantization.h"
#include "rules/model/model_scan.h"
#include "rules/model/packing.h"

struct lq_hf_found {
    const struct lq_scanned_tensor *tensor;
    size_t file;
    bool used;
};

struct lq_hf_tensors {
    const struct lq_scanned_file *files;
    size_t file_count;
    const struct lq_hf_quantization *quantization;
    struct lq_arena *arena;
    struct lq_hf_found *found; /* sorted by name */
    size_t count;
    size_t packed_count; /* matrices that were stored quantized */
};

/* LQ_EFORMAT for a name that is there twice, or a file that is GGUF. */
enum lq_status lq_hf_tensors_open(struct lq_hf_tensors *tensors,
                                  const struct lq_scanned_file *files, size_t file_count,
                                  const struct lq_hf_quantization *quantization,
                                  struct lq_arena *arena, struct lq_error *err);

/* A tensor as it lies in the files: the tensor itself, or the parts of a packed matrix, in the
 * order of lq_packed_part, as far as it has them. */
struct lq_hf_stored {
    const struct lq_hf_found *parts[LQ_PACKED_PART_COUNT];
    size_t part_count;
    const struct lq_packing *packing; /* NULL: not packed */
};

/* Takes "<module>.weight" and the like. LQ_EFORMAT for what is missing or has another shape,
 * LQ_EUNSUPPORTED for types. */
enum lq_status lq_hf_tensors_take(struct lq_hf_tensors *tensors, const char *name, uint64_t cols,
                                  uint64_t rows, bool is_matrix, struct lq_hf_stored *out,
                                  struct lq_error *err);
/* Whether a tensor that nobody took says nothing: what writers of quantized folders put beside a
 * matrix without need. */
bool lq_hf_tensors_is_idle(const struct lq_hf_tensors *tensors, const struct lq_hf_found *found);

#endif

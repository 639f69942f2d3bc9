/* The part of lq_encode_tensor that runs on a GPU, where there is one: tiles of rows are copied
 * there as they are in the file, decoded, checked and encoded, one tile being copied while another
 * is computed. The bytes are those of the CPU. Internal to the encoder. Thread rule: as
 * lq_encode_tensor. Limits: tiles of LQ_GPU_TILE_ELEMS values; a row must fit into one. */
#ifndef LQ_RULES_QUANT_ENCODE_GPU_H
#define LQ_RULES_QUANT_ENCODE_GPU_H

#include "rules/quant/encode_tensor.h"

/* Encodes and writes rows from the first one on and leaves the number of those in *row: all of
 * them, or fewer (none without a GPU) where the CPU must go on, because the GPU failed or because
 * the next tile holds a value that the CPU will name in an error. Errors: LQ_ECANCELLED and what
 * the job's `write` returns. */
enum lq_status lq_encode_on_gpu(const struct lq_encode_job *job, uint64_t *row,
                                struct lq_error *err);

#endif

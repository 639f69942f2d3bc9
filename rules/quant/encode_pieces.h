/* Encodes a tensor whose matrices are inputs of their own, as the experts of a checkpoint that
 * stores them one by one: from each in turn, so that they are never joined. The bytes are those of
 * the joined tensor. Thread rule and limits: those of encode_tensor.h. */
#ifndef LQ_RULES_QUANT_ENCODE_PIECES_H
#define LQ_RULES_QUANT_ENCODE_PIECES_H

#include "engine/rule.h"
#include "rules/quant/encode_tensor.h"

/* `job` describes the whole tensor, but for its data; those are in the inputs "<input>.<number>"
 * (tensor_ref.h). Errors: those of lq_encode_tensor, in front of them which expert it is. */
enum lq_status lq_encode_pieces(struct lq_run *run, const struct lq_encode_job *job,
                                const char *input, struct lq_error *err);

#endif

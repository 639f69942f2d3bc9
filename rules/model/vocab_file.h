/* A vocabulary straight from files, for tools that need no more of a model: a GGUF file (with or
 * without tensors), a Hugging Face folder, or a tokenizer.json or tokenizer.model, beside which the
 * other files of the folder (hf_documents.h) are read when they are there. Nothing of the files is
 * kept. Errors: LQ_EMODEL when nothing is there, else those of vocab.h and hf_tokenizer.h. Thread
 * rule: pure besides reading. Limits: those of vocab.h. */
#ifndef LQ_RULES_MODEL_VOCAB_FILE_H
#define LQ_RULES_MODEL_VOCAB_FILE_H

#include "engine/base/error.h"
#include "rules/model/vocab.h"

enum lq_status lq_vocab_file_load(const char *path, struct lq_vocab **out, struct lq_error *err);

#endif

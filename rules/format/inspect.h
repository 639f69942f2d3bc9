/* What a file is and what is in it, for people: GGUF (models and importance matrices), safetensors,
 * shard indexes, importance matrices of the other two formats, masks, profiles, reports,
 * tokenizer.json, config.json. The format is found by content; the name only serves messages. Pure:
 * bytes in, text out; nothing is borrowed afterwards. Thread rule: pure. */
#ifndef LQ_RULES_FORMAT_INSPECT_H
#define LQ_RULES_FORMAT_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"

/* Appends a summary: text for people, or one JSON object when `json`. Errors: the status of the
 * format's reader; LQ_EFORMAT when no reader knows the bytes. On an error `out` may hold a part. */
enum lq_status lq_inspect(const void *data, uint64_t size_bytes, const char *name, bool json,
                          struct lq_buffer *out, struct lq_error *err);

/* A file of a model folder, as it is in memory. */
struct lq_inspect_file {
    const char *name; /* for messages */
    const void *data;
    uint64_t size_bytes;
};
/* The same for a Hugging Face folder, `path` as the user named it: what config.json says about the
 * model, and the sums of the tensors that the headers of its safetensors files list. Without such
 * files there are no sums. Errors: LQ_EMODEL for files that are not what they should be. */
enum lq_status lq_inspect_folder(const char *path, const struct lq_inspect_file *config,
                                 const struct lq_inspect_file *weights, size_t weight_count,
                                 bool json, struct lq_buffer *out, struct lq_error *err);

#endif

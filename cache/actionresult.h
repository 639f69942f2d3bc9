/* Bazel's ActionResult, as far as a remote cache needs it (remote-apis,
 * build/bazel/remote/execution/v2/remote_execution.proto; wire format: protobuf.dev): output_files
 * (2) with path (1) and digest (2: hash 1, size_bytes 2), exit_code (4), stdout_raw (5). Our signed
 * result text travels in stdout_raw; output_files name every object that belongs to the result, so
 * that a server which checks them does not serve a result that has lost one. Servers may add fields
 * and write the message anew: the reader skips what it does not know. Thread rule: pure functions.
 * Limits: LQ_RESULT_BYTES_MAX, LQ_RESULT_FILES_MAX. */
#ifndef LQ_CACHE_ACTIONRESULT_H
#define LQ_CACHE_ACTIONRESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/digest.h"

/* Appends one output_files entry. */
void lq_actionresult_add_file(struct lq_buffer *out, const char *path,
                              const struct lq_digest *digest, uint64_t size_bytes);
/* Appends exit_code and stdout_raw. */
void lq_actionresult_add_text(struct lq_buffer *out, int exit_code, const void *text,
                              size_t size_bytes);

struct lq_actionresult {
    const char *text; /* stdout_raw, borrowed; NULL when there is none */
    size_t text_bytes;
    uint64_t exit_code;
    uint64_t file_count;
};
/* False with *why when the message is malformed. */
bool lq_actionresult_decode(const void *data, size_t size_bytes, struct lq_actionresult *out,
                            const char **why);

#endif

/* Base logits files: what the header promises is there, and rows decode or are refused. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/logits_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_logits_header header;
    struct lq_error err;
    if (lq_logits_header_read(data, size, size, "fuzz", &header, &err) != LQ_OK) {
        return 0;
    }
    float *log_probs = calloc(header.vocab_size, sizeof *log_probs);
    if (log_probs == NULL) {
        return 0;
    }
    for (uint64_t r = 0; r < header.row_count; r++) {
        uint64_t offset = header.rows_offset + r * header.row_bytes;
        if (offset + header.row_bytes > size) {
            abort();
        }
        if (lq_logits_row_decode(data + offset, header.vocab_size, log_probs, &err) == LQ_OK &&
            !(log_probs[header.vocab_size - 1] <= 1e-3f)) {
            abort();
        }
    }
    free(log_probs);
    return 0;
}

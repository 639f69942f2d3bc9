/* Provenance statements: what is read is written to a text that reads the same, or there is one
 * sentence. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "rules/format/statement.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_statement statement;
    struct lq_statement again;
    struct lq_buffer out;
    struct lq_error err = {0};
    lq_arena_init(&arena);
    lq_buffer_init(&out);
    if (lq_statement_parse(data, size, "fuzz", &arena, &statement, &err) == LQ_OK) {
        lq_statement_write(&statement, &out);
        if (lq_statement_parse(out.data, out.size_bytes, "again", &arena, &again, &err) != LQ_OK ||
            again.source_count != statement.source_count ||
            !lq_digest_equal(&again.digest, &statement.digest)) {
            abort();
        }
    } else if (err.message[0] == '\0') {
        abort();
    }
    lq_buffer_fini(&out);
    lq_arena_fini(&arena);
    return 0;
}

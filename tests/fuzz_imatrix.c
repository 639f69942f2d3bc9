/* The three importance matrix formats: what is read can be written in each of them and read again,
 * unless values or names do not fit, which is one sentence. */
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_read(const struct lq_imatrix *imatrix, enum lq_imatrix_format format,
                           struct lq_arena *arena)
{
    struct lq_buffer out;
    struct lq_error err = {0};
    struct lq_imatrix again = {0};
    enum lq_imatrix_format found = LQ_IMATRIX_GGUF;
    lq_buffer_init(&out);
    if (lq_imatrix_format(imatrix, format, &out, &err) == LQ_OK &&
        lq_imatrix_parse(out.data, out.size_bytes, "again", arena, &again, &found, &err) == LQ_OK) {
        if (found != format ||
            (format != LQ_IMATRIX_DAT && again.entry_count != imatrix->entry_count)) {
            abort();
        }
    }
    lq_buffer_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_imatrix imatrix = {0};
    struct lq_error err = {0};
    lq_arena_init(&arena);
    if (lq_imatrix_parse(data, size, "fuzz", &arena, &imatrix, NULL, &err) == LQ_OK) {
        for (size_t i = 0; i < imatrix.entry_count; i++) {
            const struct lq_imatrix_entry *entry = &imatrix.entries[i];
            if (lq_imatrix_find(&imatrix, entry->name) != entry) {
                abort();
            }
            float *means = malloc(entry->col_count * sizeof *means);
            for (size_t k = 0; means != NULL && k < entry->mat_count; k++) {
                lq_imatrix_means(entry, k, means);
            }
            free(means);
        }
        write_and_read(&imatrix, LQ_IMATRIX_GGUF, &arena);
        write_and_read(&imatrix, LQ_IMATRIX_IMAT, &arena);
        write_and_read(&imatrix, LQ_IMATRIX_DAT, &arena);
    }
    lq_arena_fini(&arena);
    return 0;
}

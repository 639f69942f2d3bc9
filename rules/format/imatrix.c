#include "rules/format/imatrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/imatrix_parts.h"
#include "rules/format/quote.h"

enum lq_status lq_imatrix_copy_floats(struct lq_imatrix_reader *in, const char *name,
                                      const char *what, const void *bytes, size_t count,
                                      float **out)
{
    char quoted[LQ_QUOTE_BYTES];
    float *values = lq_arena_get_array(in->arena, count, sizeof *values);
    if (values == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    struct lq_reader reader;
    lq_reader_init(&reader, bytes, (uint64_t)count * 4);
    for (size_t i = 0; i < count; i++) {
        values[i] = lq_read_f32(&reader);
        if (!isfinite(values[i]) || values[i] < 0.0f) {
            return lq_error_set(in->err, LQ_EIMATRIX,
                                "%s: entry '%s': %s %zu is %g, expected a finite number that is "
                                "not negative",
                                in->where, lq_quote_string(name, quoted), what, i,
                                (double)values[i]);
        }
    }
    *out = values;
    return LQ_OK;
}

enum lq_status lq_imatrix_scale(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry,
                                float factor)
{
    char quoted[LQ_QUOTE_BYTES];
    for (size_t i = 0; i < entry->mat_count * entry->col_count; i++) {
        float scaled = entry->sums[i] * factor;
        if (!isfinite(scaled)) {
            return lq_error_set(in->err, LQ_EIMATRIX,
                                "%s: entry '%s': value %zu is %g, too large for a sum over %g "
                                "tokens",
                                in->where, lq_quote_string(entry->name, quoted), i,
                                (double)entry->sums[i], (double)factor);
        }
        entry->sums[i] = scaled;
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_get_entries(struct lq_imatrix_reader *in, uint64_t count,
                                      uint64_t record_bytes, struct lq_imatrix *out)
{
    uint64_t left = lq_reader_left(&in->reader);
    if (count == 0 || count > LQ_IMATRIX_ENTRIES_MAX || count > left / record_bytes) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: says to have %llu entries in %llu bytes, expected 1 to %d that "
                            "fit; this is no importance matrix or it is truncated",
                            in->where, (unsigned long long)count, (unsigned long long)left,
                            LQ_IMATRIX_ENTRIES_MAX);
    }
    out->entries = lq_arena_get_array(in->arena, (size_t)count, sizeof *out->entries);
    return out->entries == NULL ? lq_error_nomem(in->err, "an importance matrix") : LQ_OK;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct lq_imatrix_entry *)a)->name,
                  ((const struct lq_imatrix_entry *)b)->name);
}

/* Counts are numbers of tokens: whole, or a mean over part of a token could overflow. */
static enum lq_status check_entries(struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    char quoted[LQ_QUOTE_BYTES];
    if (out->entry_count == 0) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: the importance matrix has no entries",
                            in->where);
    }
    qsort(out->entries, out->entry_count, sizeof *out->entries, compare_entries);
    for (size_t i = 0; i < out->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &out->entries[i];
        if (i > 0 && strcmp(entry[-1].name, entry->name) == 0) {
            return lq_error_set(in->err, LQ_EIMATRIX, "%s: entry '%s' occurs twice", in->where,
                                lq_quote_string(entry->name, quoted));
        }
        for (size_t k = 0; k < entry->count_count; k++) {
            if (entry->counts[k] != floorf(entry->counts[k])) {
                return lq_error_set(in->err, LQ_EIMATRIX,
                                    "%s: entry '%s': count %zu is %g, expected a whole number of "
                                    "tokens",
                                    in->where, lq_quote_string(entry->name, quoted), k,
                                    (double)entry->counts[k]);
            }
        }
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_parse(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_imatrix *out,
                                enum lq_imatrix_format *format, struct lq_error *err)
{
    struct lq_imatrix imatrix = {.method = LQ_IMPORTANCE_ACTIVATION};
    struct lq_imatrix_reader in = {.where = where, .arena = arena, .err = err};
    enum lq_imatrix_format found = LQ_IMATRIX_DAT;
    enum lq_status status = LQ_OK;
    lq_reader_init(&in.reader, data, size_bytes);
    if (size_bytes >= 4 && memcmp(data, "GGUF", 4) == 0) {
        found = LQ_IMATRIX_GGUF;
        status = lq_imatrix_parse_gguf(data, size_bytes, &in, &imatrix);
    } else if (size_bytes >= 4 && memcmp(data, "IMAT", 4) == 0) {
        found = LQ_IMATRIX_IMAT;
        status = lq_imatrix_parse_imat(&in, &imatrix);
    } else {
        status = lq_imatrix_parse_dat(&in, &imatrix);
    }
    if (status == LQ_OK) {
        status = check_entries(&in, &imatrix);
    }
    if (status == LQ_OK) {
        *out = imatrix;
        if (format != NULL) {
            *format = found;
        }
    }
    return status;
}

/* What the reader would refuse must not be written. */
static enum lq_status check_writable(const struct lq_imatrix *imatrix, struct lq_error *err)
{
    char quoted[LQ_QUOTE_BYTES];
    if (imatrix->entry_count == 0) {
        return lq_error_set(err, LQ_EIMATRIX, "the importance matrix has no entries to write");
    }
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        const char *name = lq_quote_string(entry->name, quoted);
        bool counts_fit = entry->count_count == 1 || entry->count_count == entry->mat_count;
        if (entry->col_count == 0 || entry->mat_count == 0 || !counts_fit) {
            return lq_error_set(err, LQ_EIMATRIX,
                                "importance matrix entry '%s': %zu columns, %zu matrices and %zu "
                                "counts do not fit together",
                                name, entry->col_count, entry->mat_count, entry->count_count);
        }
        if (i > 0 && strcmp(entry[-1].name, entry->name) >= 0) {
            return lq_error_set(err, LQ_EIMATRIX,
                                "importance matrix entry '%s' is not in the order of names", name);
        }
        for (size_t k = 0; k < entry->mat_count * entry->col_count; k++) {
            if (!isfinite(entry->sums[k]) || entry->sums[k] < 0.0f) {
                return lq_error_set(err, LQ_EIMATRIX,
                                    "importance matrix entry '%s': value %zu is %g, expected a "
                                    "finite number that is not negative",
                                    name, k, (double)entry->sums[k]);
            }
        }
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_format(const struct lq_imatrix *imatrix, enum lq_imatrix_format format,
                                 struct lq_buffer *out, struct lq_error *err)
{
    enum lq_status status = check_writable(imatrix, err);
    if (status == LQ_OK) {
        switch (format) {
        case LQ_IMATRIX_GGUF:
            status = lq_imatrix_format_gguf(imatrix, out, err);
            break;
        case LQ_IMATRIX_IMAT:
            status = lq_imatrix_format_imat(imatrix, out, err);
            break;
        case LQ_IMATRIX_DAT:
            status = lq_imatrix_format_dat(imatrix, out, err);
            break;
        }
    }
    if (status == LQ_OK && out->failed) {
        status = lq_error_nomem(err, "an importance matrix file");
    }
    return status;
}

const struct lq_imatrix_entry *lq_imatrix_find(const struct lq_imatrix *imatrix, const char *name)
{
    struct lq_imatrix_entry wanted = {.name = name};
    return imatrix->entry_count == 0 ? NULL
                                     : bsearch(&wanted, imatrix->entries, imatrix->entry_count,
                                               sizeof *imatrix->entries, compare_entries);
}

void lq_imatrix_means(const struct lq_imatrix_entry *entry, size_t mat, float *out)
{
    float count = entry->counts[entry->count_count == 1 ? 0 : mat];
    const float *sums = entry->sums + mat * entry->col_count;
    for (size_t i = 0; i < entry->col_count; i++) {
        out[i] = count > 0.0f ? sums[i] / count : 1.0f;
    }
}

enum lq_status lq_imatrix_id(const struct lq_imatrix *imatrix, char hex[LQ_DIGEST_HEX_BYTES],
                             struct lq_error *err)
{
    struct lq_buffer bytes;
    struct lq_digest digest;
    lq_buffer_init(&bytes);
    enum lq_status status = lq_imatrix_format(imatrix, LQ_IMATRIX_GGUF, &bytes, err);
    if (status == LQ_OK) {
        lq_digest_of(bytes.data, bytes.size_bytes, &digest);
        (void)lq_digest_to_hex(&digest, hex);
    }
    lq_buffer_fini(&bytes);
    return status;
}

enum lq_imatrix_format lq_imatrix_format_of_path(const char *path)
{
    const char *extension = lq_path_extension(path);
    if (lq_text_equal_nocase(extension, ".gguf")) {
        return LQ_IMATRIX_GGUF;
    }
    return lq_text_equal_nocase(extension, ".dat") ? LQ_IMATRIX_DAT : LQ_IMATRIX_IMAT;
}

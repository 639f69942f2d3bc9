#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/imatrix_parts.h"
#include "rules/format/quote.h"

/* The legacy format has no magic number, so every message says what it was taken for. */
static enum lq_status truncated(struct lq_imatrix_reader *in, const char *what)
{
    return lq_error_set(in->err, LQ_EIMATRIX,
                        "%s: read as a legacy importance matrix, it ends within %s at byte %llu; "
                        "it is truncated or no importance matrix",
                        in->where, what, (unsigned long long)in->reader.offset);
}

static enum lq_status read_entry(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry)
{
    int32_t length = lq_read_i32(&in->reader);
    if (!in->reader.failed && (length <= 0 || length > LQ_TENSOR_NAME_BYTES_MAX)) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: read as a legacy importance matrix, a name at byte %llu has %d "
                            "bytes, expected 1 to %d; this is no importance matrix",
                            in->where, (unsigned long long)in->reader.offset, length,
                            LQ_TENSOR_NAME_BYTES_MAX);
    }
    const char *name = lq_read_bytes(&in->reader, (uint64_t)(uint32_t)length);
    if (name == NULL) {
        return truncated(in, "a name");
    }
    if (memchr(name, 0, (size_t)length) != NULL) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: read as a legacy importance matrix, a name at byte %llu contains "
                            "a NUL byte; this is no importance matrix",
                            in->where, (unsigned long long)in->reader.offset);
    }
    entry->name = lq_arena_dup(in->arena, name, (size_t)length);
    entry->counts = lq_arena_get_array(in->arena, 1, sizeof *entry->counts);
    if (entry->name == NULL || entry->counts == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    int32_t calls = lq_read_i32(&in->reader);
    int32_t value_count = lq_read_i32(&in->reader);
    if (!in->reader.failed && value_count <= 0) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: entry '%s' has %d values, expected at least 1", in->where,
                            lq_quote_string(entry->name, quoted), value_count);
    }
    const void *values = lq_read_bytes(&in->reader, 4 * (uint64_t)(uint32_t)value_count);
    if (values == NULL) {
        return truncated(in, "the values of an entry");
    }
    entry->col_count = (size_t)value_count;
    entry->mat_count = 1;
    entry->count_count = 1;
    /* Values without a number of calls are means already: one call. */
    entry->counts[0] = (float)(calls > 0 ? calls : 1) * (float)LQ_IMATRIX_LEGACY_CHUNK;
    enum lq_status status =
        lq_imatrix_copy_floats(in, entry->name, "value", values, entry->col_count, &entry->sums);
    return status == LQ_OK ? lq_imatrix_scale(in, entry, (float)LQ_IMATRIX_LEGACY_CHUNK) : status;
}

/* The optional trailer: the number of the last chunk, then the name of the data set. */
static enum lq_status read_trailer(struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    if (lq_reader_left(&in->reader) == 0) {
        return LQ_OK;
    }
    int32_t last_chunk = lq_read_i32(&in->reader);
    if (in->reader.failed || last_chunk < 0) {
        return truncated(in, "the number of chunks");
    }
    out->chunk_count = (uint32_t)last_chunk;
    if (lq_reader_left(&in->reader) == 0) {
        return LQ_OK;
    }
    int32_t length = lq_read_i32(&in->reader);
    uint64_t left = lq_reader_left(&in->reader);
    if (in->reader.failed || length < 0 || (uint64_t)length != left) {
        return truncated(in, "the name of the data set");
    }
    const char *text = lq_read_bytes(&in->reader, left);
    const char **names = lq_arena_get_array(in->arena, 1, sizeof *names);
    char *name = lq_arena_dup(in->arena, text, (size_t)left);
    if (names == NULL || name == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    names[0] = name;
    out->datasets = names;
    out->dataset_count = length > 0 ? 1 : 0;
    return LQ_OK;
}

enum lq_status lq_imatrix_parse_dat(struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    int32_t entry_count = lq_read_i32(&in->reader);
    if (in->reader.failed) {
        return truncated(in, "the number of entries");
    }
    /* A negative count becomes an absurd one. The least entry: three numbers, a letter, a value. */
    enum lq_status status = lq_imatrix_get_entries(in, (uint64_t)(int64_t)entry_count, 17, out);
    float most = 0.0f;
    for (int32_t i = 0; status == LQ_OK && i < entry_count; i++) {
        struct lq_imatrix_entry *entry = &out->entries[out->entry_count];
        status = read_entry(in, entry);
        if (status == LQ_OK) {
            out->entry_count++;
            most = entry->counts[0] > most ? entry->counts[0] : most;
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    out->chunk_size = LQ_IMATRIX_LEGACY_CHUNK;
    out->chunk_count = (uint32_t)(most / (float)LQ_IMATRIX_LEGACY_CHUNK);
    return read_trailer(in, out);
}

static float max_count(const struct lq_imatrix_entry *entry)
{
    float most = 0.0f;
    for (size_t k = 0; k < entry->count_count; k++) {
        most = entry->counts[k] > most ? entry->counts[k] : most;
    }
    return most;
}

/* The number of calls of an entry. Experts share one number, so theirs says little, and is a power
 * of two: multiplying and dividing by it is exact, and whoever reads the file gets the very means.
 */
static double calls_of(const struct lq_imatrix_entry *entry)
{
    double calls = ceil((double)max_count(entry) / LQ_IMATRIX_LEGACY_CHUNK);
    return entry->mat_count > 1 ? exp2(ceil(log2(calls))) : calls;
}

/* Values are means times the number of calls; matrices without data count as all ones. */
static enum lq_status append_entry(struct lq_buffer *out, const struct lq_imatrix_entry *entry,
                                   struct lq_error *err)
{
    char quoted[LQ_QUOTE_BYTES];
    double calls = calls_of(entry);
    size_t length = strlen(entry->name);
    size_t value_count = entry->mat_count * entry->col_count;
    if (calls > INT32_MAX || value_count > INT32_MAX || length > LQ_TENSOR_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "entry '%s' is too large for the legacy format; write a .gguf file",
                            lq_quote_string(entry->name, quoted));
    }
    lq_buffer_append_u32(out, (uint32_t)length);
    lq_buffer_append(out, entry->name, length);
    lq_buffer_append_u32(out, (uint32_t)calls);
    lq_buffer_append_u32(out, (uint32_t)value_count);
    for (size_t k = 0; k < entry->mat_count; k++) {
        float count = entry->counts[entry->count_count == 1 ? 0 : k];
        for (size_t i = 0; i < entry->col_count; i++) {
            float mean = count > 0.0f ? entry->sums[k * entry->col_count + i] / count : 1.0f;
            float value = mean * (float)calls;
            if (!isfinite(value)) {
                return lq_error_set(err, LQ_EIMATRIX,
                                    "entry '%s': value %zu is too large for the legacy format; "
                                    "write a .gguf file",
                                    lq_quote_string(entry->name, quoted), i);
            }
            lq_buffer_append_f32(out, value);
        }
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_format_dat(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                     struct lq_error *err)
{
    uint32_t entry_count = 0;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        entry_count += max_count(&imatrix->entries[i]) > 0.0f ? 1 : 0;
    }
    if (entry_count == 0) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "no entry of the importance matrix has data; a legacy file of it "
                            "would be empty");
    }
    lq_buffer_append_u32(out, entry_count);
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        if (max_count(&imatrix->entries[i]) > 0.0f) {
            enum lq_status status = append_entry(out, &imatrix->entries[i], err);
            if (status != LQ_OK) {
                return status;
            }
        }
    }
    uint64_t tokens = (uint64_t)imatrix->chunk_count * imatrix->chunk_size;
    uint64_t chunks = (tokens + LQ_IMATRIX_LEGACY_CHUNK - 1) / LQ_IMATRIX_LEGACY_CHUNK;
    const char *dataset = imatrix->dataset_count > 0 ? imatrix->datasets[0] : "";
    size_t length = strlen(dataset);
    if (length > INT32_MAX) {
        length = 0;
    }
    lq_buffer_append_u32(out, chunks > INT32_MAX ? INT32_MAX : (uint32_t)chunks);
    lq_buffer_append_u32(out, (uint32_t)length);
    lq_buffer_append(out, dataset, length);
    return LQ_OK;
}

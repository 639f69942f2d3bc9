/* The IMAT format, docs/formats.md. */
#include <math.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "rules/format/imatrix_parts.h"
#include "rules/format/quote.h"

enum {
    HEADER_BYTES = 64,
    VERSION = 1,
    DATA_ALIGNMENT = 64,
    ENTRY_BYTES_MIN = 2 + 8 + 8, /* a letter, NUL, offset, shape */
    HAS_COUNTS = 1,              /* flag: a list of counts follows the data */
    HAS_DATASETS = 2,            /* flag: the names of the data sets follow */
};

struct place {
    uint64_t offset;
    uint64_t size_bytes;
};

static enum lq_status truncated(struct lq_imatrix_reader *in, const char *what)
{
    return lq_error_set(in->err, LQ_EIMATRIX,
                        "%s: the IMAT file ends within %s at byte %llu of %llu; it is truncated",
                        in->where, what, (unsigned long long)in->reader.offset,
                        (unsigned long long)in->reader.size_bytes);
}

/* A C string inside the file; NULL when no NUL comes within the limit. */
static const char *read_text(struct lq_imatrix_reader *in, uint64_t length_max)
{
    uint64_t left = lq_reader_left(&in->reader);
    uint64_t searched = left < length_max + 1 ? left : length_max + 1;
    const char *text = (const char *)in->reader.data + in->reader.offset;
    const char *end = searched == 0 ? NULL : memchr(text, 0, (size_t)searched);
    if (end == NULL) {
        in->reader.failed = true;
        return NULL;
    }
    size_t length = (size_t)(end - text);
    lq_read_skip(&in->reader, (uint64_t)length + 1);
    return lq_arena_dup(in->arena, text, length);
}

static enum lq_status read_index_entry(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry,
                                       struct place *place)
{
    char quoted[LQ_QUOTE_BYTES];
    entry->name = read_text(in, LQ_TENSOR_NAME_BYTES_MAX);
    if (entry->name == NULL) {
        return in->reader.failed ? truncated(in, "a name")
                                 : lq_error_nomem(in->err, "an importance matrix");
    }
    place->offset = lq_read_u64(&in->reader);
    uint32_t mats = lq_read_u32(&in->reader);
    uint32_t cols = lq_read_u32(&in->reader);
    if (in->reader.failed) {
        return truncated(in, "the layer index");
    }
    entry->mat_count = mats;
    entry->col_count = cols;
    /* 2^32 * 2^32 * 4 overflows; the check against the file's size comes with the data. */
    bool fits = lq_mul_u64((uint64_t)mats * cols, 4, &place->size_bytes);
    if (!fits || place->size_bytes == 0 || entry->name[0] == '\0') {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: entry '%s' has the shape %u x %u, expected a name and at least "
                            "one value",
                            in->where, lq_quote_string(entry->name, quoted), mats, cols);
    }
    return LQ_OK;
}

/* The scores stand in the order of the index and do not overlap, so they are never more than the
 * file. */
static enum lq_status read_scores(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry,
                                  const struct place *place)
{
    char quoted[LQ_QUOTE_BYTES];
    if (place->offset < in->reader.offset) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: entry '%s' has its data at %llu, expected at least %llu, behind "
                            "what comes before it",
                            in->where, lq_quote_string(entry->name, quoted),
                            (unsigned long long)place->offset,
                            (unsigned long long)in->reader.offset);
    }
    lq_read_skip(&in->reader, place->offset - in->reader.offset);
    const void *scores = lq_read_bytes(&in->reader, place->size_bytes);
    if (scores == NULL) {
        return truncated(in, "the data");
    }
    return lq_imatrix_copy_floats(in, entry->name, "score", scores,
                                  entry->mat_count * entry->col_count, &entry->sums);
}

static enum lq_status read_counts(struct lq_imatrix_reader *in, struct lq_imatrix_entry *entry)
{
    char quoted[LQ_QUOTE_BYTES];
    entry->count_count = lq_read_u32(&in->reader);
    if (!in->reader.failed && entry->count_count != 1 && entry->count_count != entry->mat_count) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: entry '%s' has %zu counts, expected 1 or one for each of %zu "
                            "matrices",
                            in->where, lq_quote_string(entry->name, quoted), entry->count_count,
                            entry->mat_count);
    }
    const void *counts = lq_read_bytes(&in->reader, 4 * (uint64_t)entry->count_count);
    if (counts == NULL) {
        return truncated(in, "the counts");
    }
    return lq_imatrix_copy_floats(in, entry->name, "count", counts, entry->count_count,
                                  &entry->counts);
}

/* Scores are means; sums are means times tokens. A file of unknown length counts as one token. */
static enum lq_status multiply(struct lq_imatrix_reader *in, const struct lq_imatrix *imatrix,
                               struct lq_imatrix_entry *entry)
{
    if (entry->counts == NULL) {
        uint64_t tokens = (uint64_t)imatrix->chunk_count * imatrix->chunk_size;
        entry->counts = lq_arena_get_array(in->arena, 1, sizeof *entry->counts);
        if (entry->counts == NULL) {
            return lq_error_nomem(in->err, "an importance matrix");
        }
        entry->counts[0] = tokens == 0 ? 1.0f : (float)tokens;
        entry->count_count = 1;
    }
    for (size_t k = 0; k < entry->mat_count; k++) {
        struct lq_imatrix_entry part = *entry;
        part.mat_count = 1;
        part.sums = entry->sums + k * entry->col_count;
        enum lq_status status =
            lq_imatrix_scale(in, &part, entry->counts[entry->count_count == 1 ? 0 : k]);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status read_datasets(struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    uint32_t count = lq_read_u32(&in->reader);
    if (in->reader.failed || count > LQ_IMATRIX_DATASETS_MAX ||
        count > lq_reader_left(&in->reader)) {
        return truncated(in, "the names of the data sets");
    }
    const char **names = lq_arena_get_array(in->arena, count, sizeof *names);
    if (names == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    for (uint32_t i = 0; i < count; i++) {
        names[i] = read_text(in, LQ_GGUF_STRING_BYTES_MAX);
        if (names[i] == NULL) {
            return truncated(in, "the names of the data sets");
        }
    }
    out->datasets = names;
    out->dataset_count = count;
    return LQ_OK;
}

static enum lq_status read_header(struct lq_imatrix_reader *in, struct lq_imatrix *out,
                                  uint32_t *entry_count, uint32_t *flags)
{
    lq_read_skip(&in->reader, 4);
    uint32_t version = lq_read_u32(&in->reader);
    uint32_t method = lq_read_u32(&in->reader);
    *entry_count = lq_read_u32(&in->reader);
    out->chunk_count = lq_read_u32(&in->reader);
    out->chunk_size = lq_read_u32(&in->reader);
    *flags = lq_read_u32(&in->reader);
    const unsigned char *rest = lq_read_bytes(&in->reader, HEADER_BYTES - 28);
    if (rest == NULL) {
        return truncated(in, "the header");
    }
    if (version != VERSION) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: IMAT version is %u, expected %d", in->where,
                            version, VERSION);
    }
    if (method > LQ_IMPORTANCE_FISHER) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: IMAT method is %u, expected 0 to 2",
                            in->where, method);
    }
    bool is_zero = (*flags & ~(uint32_t)(HAS_COUNTS | HAS_DATASETS)) == 0;
    for (size_t i = 0; i < HEADER_BYTES - 28; i++) {
        is_zero = is_zero && rest[i] == 0;
    }
    if (!is_zero) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: IMAT header has reserved bits set; the file is newer than this "
                            "program or damaged",
                            in->where);
    }
    out->method = (enum lq_importance_method)method;
    return LQ_OK;
}

static enum lq_status read_data(struct lq_imatrix_reader *in, struct lq_imatrix *out,
                                const struct place *places, uint32_t flags)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < out->entry_count; i++) {
        status = read_scores(in, &out->entries[i], &places[i]);
    }
    for (size_t i = 0; status == LQ_OK && (flags & HAS_COUNTS) != 0 && i < out->entry_count; i++) {
        status = read_counts(in, &out->entries[i]);
    }
    if (status == LQ_OK && (flags & HAS_DATASETS) != 0) {
        status = read_datasets(in, out);
    }
    if (status == LQ_OK && lq_reader_left(&in->reader) != 0) {
        status = lq_error_set(in->err, LQ_EIMATRIX,
                              "%s: %llu bytes follow the end of the IMAT file at byte %llu",
                              in->where, (unsigned long long)lq_reader_left(&in->reader),
                              (unsigned long long)in->reader.offset);
    }
    for (size_t i = 0; status == LQ_OK && i < out->entry_count; i++) {
        status = multiply(in, out, &out->entries[i]);
    }
    return status;
}

enum lq_status lq_imatrix_parse_imat(struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    uint32_t entry_count = 0;
    uint32_t flags = 0;
    enum lq_status status = read_header(in, out, &entry_count, &flags);
    if (status == LQ_OK) {
        status = lq_imatrix_get_entries(in, entry_count, ENTRY_BYTES_MIN, out);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct place *places = lq_arena_get_array(in->arena, entry_count, sizeof *places);
    if (places == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    for (uint32_t i = 0; status == LQ_OK && i < entry_count; i++) {
        status = read_index_entry(in, &out->entries[i], &places[i]);
    }
    out->entry_count = entry_count;
    return status == LQ_OK ? read_data(in, out, places, flags) : status;
}

/* True when samples times sequence does not say it all. */
static bool needs_counts(const struct lq_imatrix *imatrix)
{
    float tokens = (float)((uint64_t)imatrix->chunk_count * imatrix->chunk_size);
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        if (tokens == 0.0f || entry->count_count != 1 || entry->counts[0] != tokens) {
            return true;
        }
    }
    return false;
}

static void append_index(const struct lq_imatrix *imatrix, size_t start, struct lq_buffer *out)
{
    size_t index_bytes = 0;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        index_bytes += strlen(imatrix->entries[i].name) + 1 + 8 + 8;
    }
    uint64_t offset = 0;
    (void)lq_align_u64(HEADER_BYTES + index_bytes, DATA_ALIGNMENT, &offset);
    uint64_t data_offset = offset;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        lq_buffer_append(out, entry->name, strlen(entry->name) + 1);
        lq_buffer_append_u64(out, offset);
        lq_buffer_append_u32(out, (uint32_t)entry->mat_count);
        lq_buffer_append_u32(out, (uint32_t)entry->col_count);
        offset += 4 * (uint64_t)entry->mat_count * entry->col_count;
    }
    size_t written = out->size_bytes - start;
    if (!out->failed && written < data_offset) {
        (void)lq_buffer_extend(out, (size_t)data_offset - written);
    }
}

/* A matrix without data has no mean: zeros stand for it, and its count of zero says so. */
static void append_scores(const struct lq_imatrix_entry *entry, struct lq_buffer *out)
{
    for (size_t k = 0; k < entry->mat_count; k++) {
        float count = entry->counts[entry->count_count == 1 ? 0 : k];
        for (size_t i = 0; i < entry->col_count; i++) {
            float sum = entry->sums[k * entry->col_count + i];
            lq_buffer_append_f32(out, count > 0.0f ? sum / count : 0.0f);
        }
    }
}

static void append_counts(const struct lq_imatrix *imatrix, struct lq_buffer *out)
{
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        lq_buffer_append_u32(out, (uint32_t)entry->count_count);
        for (size_t k = 0; k < entry->count_count; k++) {
            lq_buffer_append_f32(out, entry->counts[k]);
        }
    }
}

enum lq_status lq_imatrix_format_imat(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                      struct lq_error *err)
{
    char quoted[LQ_QUOTE_BYTES];
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        size_t length = strlen(entry->name);
        if (length == 0 || length > LQ_TENSOR_NAME_BYTES_MAX || entry->mat_count > UINT32_MAX ||
            entry->col_count > UINT32_MAX) {
            return lq_error_set(err, LQ_EIMATRIX, "entry '%s' is too large for an IMAT file",
                                lq_quote_string(entry->name, quoted));
        }
    }
    if (imatrix->entry_count > LQ_IMATRIX_ENTRIES_MAX) {
        return lq_error_set(err, LQ_EIMATRIX, "%zu entries, an IMAT file holds at most %d",
                            imatrix->entry_count, LQ_IMATRIX_ENTRIES_MAX);
    }
    bool has_counts = needs_counts(imatrix);
    bool has_datasets = imatrix->dataset_count > 0;
    size_t start = out->size_bytes;
    lq_buffer_append(out, "IMAT", 4);
    lq_buffer_append_u32(out, VERSION);
    lq_buffer_append_u32(out, (uint32_t)imatrix->method);
    lq_buffer_append_u32(out, (uint32_t)imatrix->entry_count);
    lq_buffer_append_u32(out, imatrix->chunk_count);
    lq_buffer_append_u32(out, imatrix->chunk_size);
    lq_buffer_append_u32(out, (has_counts ? HAS_COUNTS : 0u) | (has_datasets ? HAS_DATASETS : 0u));
    (void)lq_buffer_extend(out, HEADER_BYTES - 28);
    append_index(imatrix, start, out);
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        append_scores(&imatrix->entries[i], out);
    }
    if (has_counts) {
        append_counts(imatrix, out);
    }
    if (has_datasets) {
        lq_buffer_append_u32(out, (uint32_t)imatrix->dataset_count);
        for (size_t i = 0; i < imatrix->dataset_count; i++) {
            lq_buffer_append(out, imatrix->datasets[i], strlen(imatrix->datasets[i]) + 1);
        }
    }
    return LQ_OK;
}

#include "rules/format/mask.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "rules/format/quote.h"

static const char MAGIC[] = "LQMASK01";
enum { MAGIC_BYTES = 8, VERSION = 1, ID_BYTES_MAX = 255 };
#define SPIKE_POSITION_MAX 9007199254740992.0

static enum lq_status fail(const char *where, const char *name, struct lq_error *err,
                           const char *format, ...) LQ_PRINTF(4, 5);

static enum lq_status fail(const char *where, const char *name, struct lq_error *err,
                           const char *format, ...)
{
    char words[512];
    char quoted[LQ_QUOTE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    if (name == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "%s: mask: %s", where, words);
    }
    return lq_error_set(err, LQ_EFORMAT, "%s: mask of tensor '%s': %s", where,
                        lq_quote_string(name, quoted), words);
}

static enum lq_status check_tensor(const struct lq_mask_tensor *tensor, bool has_scores,
                                   const char *where, struct lq_error *err)
{
    uint64_t elements = 0;
    size_t length = strlen(tensor->name);
    if (length == 0 || length > LQ_TENSOR_NAME_BYTES_MAX) {
        return fail(where, NULL, err, "a tensor name has %zu bytes, expected 1 to %d", length,
                    LQ_TENSOR_NAME_BYTES_MAX);
    }
    if (!lq_mul_u64(tensor->row_count, tensor->col_count, &elements) || elements > INT64_MAX) {
        return fail(where, tensor->name, err, "%llu rows of %llu columns overflow",
                    (unsigned long long)tensor->row_count, (unsigned long long)tensor->col_count);
    }
    if (tensor->position_count == 0 || (tensor->scores != NULL) != has_scores) {
        return fail(where, tensor->name, err,
                    "expected at least one position, and scores for all tensors or for none");
    }
    for (size_t i = 0; i < tensor->position_count; i++) {
        uint64_t position = tensor->positions[i];
        if (position >= elements || (i > 0 && position <= tensor->positions[i - 1])) {
            return fail(where, tensor->name, err,
                        "position %zu is %llu, expected ascending numbers below %llu", i,
                        (unsigned long long)position, (unsigned long long)elements);
        }
        if (has_scores && (!isfinite(tensor->scores[i]) || tensor->scores[i] < 0.0f)) {
            return fail(where, tensor->name, err,
                        "score %zu is %g, expected a finite number that is not negative", i,
                        (double)tensor->scores[i]);
        }
    }
    return LQ_OK;
}

static enum lq_status check_spikes(const struct lq_mask_tensor *tensor, const char *where,
                                   struct lq_error *err)
{
    size_t at = 0;
    for (size_t i = 0; i < tensor->spike_count; i++) {
        while (at < tensor->position_count && tensor->positions[at] < tensor->spikes[i]) {
            at++;
        }
        if (at == tensor->position_count || tensor->positions[at] != tensor->spikes[i]) {
            return fail(where, tensor->name, err,
                        "spike %zu is %llu, expected ascending numbers out of the positions", i,
                        (unsigned long long)tensor->spikes[i]);
        }
        at++;
    }
    return LQ_OK;
}

/* The rules that hold for every mask, read or to be written. */
static enum lq_status check_mask(const struct lq_mask *mask, const char *where, uint64_t *total,
                                 struct lq_error *err)
{
    if (!(mask->coverage > 0.0 && mask->coverage <= LQ_MASK_COVERAGE_MAX)) {
        return fail(where, NULL, err, "field 'coverage' is %g, expected more than 0 and at most %g",
                    mask->coverage, LQ_MASK_COVERAGE_MAX);
    }
    if (mask->protection_precision != 8 && mask->protection_precision != 16) {
        return fail(where, NULL, err, "field 'protection_precision' is %u, expected 8 or 16",
                    mask->protection_precision);
    }
    if (strlen(mask->source_matrix_id) > ID_BYTES_MAX) {
        return fail(where, NULL, err, "field 'source_matrix_id' is longer than %d bytes",
                    ID_BYTES_MAX);
    }
    bool has_scores = mask->tensor_count > 0 && mask->tensors[0].scores != NULL;
    *total = 0;
    for (size_t i = 0; i < mask->tensor_count; i++) {
        const struct lq_mask_tensor *tensor = &mask->tensors[i];
        if (i > 0 && strcmp(tensor[-1].name, tensor->name) >= 0) {
            return fail(where, tensor->name, err,
                        "tensors must stand in the order of their names, "
                        "each once");
        }
        enum lq_status status = check_tensor(tensor, has_scores, where, err);
        if (status == LQ_OK) {
            status = check_spikes(tensor, where, err);
        }
        if (status != LQ_OK) {
            return status;
        }
        *total += tensor->position_count;
        if (*total > LQ_MASK_POSITIONS_MAX) {
            return fail(where, NULL, err, "more than %d positions", LQ_MASK_POSITIONS_MAX);
        }
    }
    return LQ_OK;
}

/* LEB128: seven bits a byte, lowest first, the top bit says that more follow. */
static void append_varint(struct lq_buffer *out, uint64_t value)
{
    while (value >= 0x80) {
        lq_buffer_append_u8(out, (uint8_t)(value | 0x80));
        value >>= 7;
    }
    lq_buffer_append_u8(out, (uint8_t)value);
}

/* False for a number that ends too early, overflows, or has a shorter form. */
static bool read_varint(struct lq_reader *reader, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = lq_read_u8(reader);
        uint64_t bits = byte & 0x7f;
        if (reader->failed || (shift == 63 && bits > 1) || (shift > 0 && byte == 0)) {
            return false;
        }
        value |= bits << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

/* The first position, then for each further one the number of elements between. */
static void append_positions(const struct lq_mask_tensor *tensor, struct lq_buffer *out)
{
    for (size_t i = 0; i < tensor->position_count; i++) {
        uint64_t before = i == 0 ? 0 : tensor->positions[i - 1] + 1;
        append_varint(out, tensor->positions[i] - before);
    }
}

static void append_spikes(const struct lq_mask_tensor *tensor, struct lq_json_writer *json)
{
    if (tensor->spike_count == 0) {
        return;
    }
    lq_json_key(json, "spikes");
    lq_json_begin_array(json);
    for (size_t i = 0; i < tensor->spike_count; i++) {
        lq_json_int(json, (int64_t)tensor->spikes[i]);
    }
    lq_json_end_array(json);
}

static void append_header(const struct lq_mask *mask, const char *mask_id, uint64_t total,
                          const size_t *sizes, struct lq_buffer *out)
{
    struct lq_json_writer json;
    lq_json_writer_init(&json, out, true);
    lq_json_begin_object(&json);
    lq_json_put_int(&json, "version", VERSION);
    lq_json_put_string(&json, "mask_id", mask_id);
    lq_json_put_string(&json, "source_matrix_id", mask->source_matrix_id);
    lq_json_put_number(&json, "coverage", mask->coverage);
    lq_json_put_int(&json, "total_protected", (int64_t)total);
    lq_json_put_int(&json, "protection_precision", mask->protection_precision);
    lq_json_put_bool(&json, "has_scores",
                     mask->tensor_count > 0 && mask->tensors[0].scores != NULL);
    lq_json_key(&json, "layer_masks");
    lq_json_begin_array(&json);
    for (size_t i = 0; i < mask->tensor_count; i++) {
        const struct lq_mask_tensor *tensor = &mask->tensors[i];
        lq_json_begin_object(&json);
        lq_json_put_string(&json, "layer_name", tensor->name);
        lq_json_put_int(&json, "rows", (int64_t)tensor->row_count);
        lq_json_put_int(&json, "columns", (int64_t)tensor->col_count);
        lq_json_put_int(&json, "count", (int64_t)tensor->position_count);
        lq_json_put_int(&json, "size_bytes", (int64_t)sizes[i]);
        append_spikes(tensor, &json);
        lq_json_end_object(&json);
    }
    lq_json_end_array(&json);
    lq_json_end_object(&json);
}

/* The identifier is the digest of the header without it and of the data. */
static enum lq_status make_id(const struct lq_mask *mask, uint64_t total, const size_t *sizes,
                              const struct lq_buffer *data, char mask_id[LQ_UUID_BYTES],
                              struct lq_error *err)
{
    struct lq_buffer header;
    struct lq_digest digest;
    struct lq_hasher *hasher = lq_hasher_create();
    lq_buffer_init(&header);
    append_header(mask, "", total, sizes, &header);
    bool is_made = hasher != NULL && !header.failed;
    if (is_made) {
        lq_hasher_update(hasher, header.data, header.size_bytes);
        lq_hasher_update(hasher, data->data, data->size_bytes);
        lq_hasher_finish(hasher, &digest);
        (void)lq_uuid_of(&digest, mask_id);
    }
    lq_hasher_destroy(hasher);
    lq_buffer_fini(&header);
    return is_made ? LQ_OK : lq_error_nomem(err, "a mask");
}

/* The binary section; sizes[i] becomes the bytes of the positions of tensor i. */
static enum lq_status make_data(const struct lq_mask *mask, size_t *sizes, struct lq_buffer *data,
                                struct lq_error *err)
{
    for (size_t i = 0; i < mask->tensor_count; i++) {
        const struct lq_mask_tensor *tensor = &mask->tensors[i];
        size_t start = data->size_bytes;
        append_positions(tensor, data);
        sizes[i] = data->size_bytes - start;
        for (size_t k = 0; tensor->scores != NULL && k < tensor->position_count; k++) {
            lq_buffer_append_f32(data, tensor->scores[k]);
        }
    }
    return data->failed ? lq_error_nomem(err, "a mask") : LQ_OK;
}

enum lq_status lq_mask_format(const struct lq_mask *mask, struct lq_buffer *out,
                              struct lq_error *err)
{
    uint64_t total = 0;
    char mask_id[LQ_UUID_BYTES];
    struct lq_buffer data;
    struct lq_buffer header;
    lq_buffer_init(&data);
    lq_buffer_init(&header);
    size_t *sizes = calloc(mask->tensor_count + 1, sizeof *sizes);
    enum lq_status status = sizes == NULL ? lq_error_nomem(err, "a mask") : LQ_OK;
    if (status == LQ_OK) {
        status = check_mask(mask, "new mask", &total, err);
    }
    if (status == LQ_OK) {
        status = make_data(mask, sizes, &data, err);
    }
    if (status == LQ_OK) {
        status = make_id(mask, total, sizes, &data, mask_id, err);
    }
    if (status == LQ_OK) {
        append_header(mask, mask_id, total, sizes, &header);
        lq_buffer_append(out, MAGIC, MAGIC_BYTES);
        lq_buffer_append_u64(out, header.size_bytes);
        lq_buffer_append(out, header.data, header.size_bytes);
        lq_buffer_append(out, data.data, data.size_bytes);
        status = header.failed || out->failed ? lq_error_nomem(err, "a mask") : LQ_OK;
    }
    free(sizes);
    lq_buffer_fini(&header);
    lq_buffer_fini(&data);
    return status;
}

struct parser {
    struct lq_reader data; /* the binary section */
    const char *where;
    struct lq_arena *arena;
    bool has_scores;
    struct lq_error *err;
};

static enum lq_status read_positions(struct parser *p, struct lq_mask_tensor *tensor,
                                     uint64_t size_bytes)
{
    size_t count = tensor->position_count;
    uint64_t end = p->data.offset + size_bytes;
    uint64_t *positions = lq_arena_get_array(p->arena, count, sizeof *positions);
    if (positions == NULL) {
        return lq_error_nomem(p->err, "a mask");
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t gap = 0;
        uint64_t before = i == 0 ? 0 : positions[i - 1] + 1;
        if (!read_varint(&p->data, &gap) || p->data.offset > end ||
            !lq_add_u64(before, gap, &positions[i]) || positions[i] == UINT64_MAX) {
            return fail(p->where, tensor->name, p->err, "position %zu cannot be decoded", i);
        }
    }
    if (p->data.offset != end) {
        return fail(p->where, tensor->name, p->err, "%zu positions take fewer than %llu bytes",
                    count, (unsigned long long)size_bytes);
    }
    tensor->positions = positions;
    return LQ_OK;
}

static enum lq_status read_scores(struct parser *p, struct lq_mask_tensor *tensor)
{
    float *scores = lq_arena_get_array(p->arena, tensor->position_count, sizeof *scores);
    if (scores == NULL) {
        return lq_error_nomem(p->err, "a mask");
    }
    for (size_t i = 0; i < tensor->position_count; i++) {
        scores[i] = lq_read_f32(&p->data);
    }
    tensor->scores = scores;
    return LQ_OK;
}

/* An optional list. Numbers of JSON are doubles: whole ones below 2^53 are exact. */
static enum lq_status read_spikes(struct parser *p, const struct lq_json_scope *scope,
                                  const cJSON *item, struct lq_mask_tensor *tensor)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(item, "spikes");
    if (list == NULL) {
        return LQ_OK;
    }
    enum lq_status status = lq_json_get_array(scope, item, "spikes", &list, NULL, p->err);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    uint64_t *spikes = lq_arena_get_array(p->arena, (size_t)count + 1, sizeof *spikes);
    if (spikes == NULL) {
        return lq_error_nomem(p->err, "a mask");
    }
    const cJSON *number = NULL;
    cJSON_ArrayForEach(number, list)
    {
        double value = cJSON_IsNumber(number) ? number->valuedouble : -1.0;
        if (!(value >= 0.0 && value <= SPIKE_POSITION_MAX && value == floor(value))) {
            return fail(p->where, tensor->name, p->err,
                        "spike %zu is no position, expected a whole number", tensor->spike_count);
        }
        spikes[tensor->spike_count++] = (uint64_t)value;
    }
    tensor->spikes = spikes;
    return LQ_OK;
}

static enum lq_status read_tensor(struct parser *p, const cJSON *item, size_t number,
                                  struct lq_mask_tensor *tensor)
{
    char place[LQ_QUOTE_BYTES + 64];
    (void)snprintf(place, sizeof place, "%.96s: layer_masks entry %zu", p->where, number);
    struct lq_json_scope scope = {place, LQ_EFORMAT};
    const char *name = NULL;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t count = 0;
    int64_t size_bytes = 0;
    enum lq_status status = lq_json_get_string(&scope, item, "layer_name", &name, NULL, p->err);
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, item, "rows", 1, INT64_MAX, &rows, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, item, "columns", 1, INT64_MAX, &cols, NULL, p->err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, item, "count", 1, LQ_MASK_POSITIONS_MAX, &count, NULL, p->err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, item, "size_bytes", 1, INT64_MAX, &size_bytes, NULL, p->err);
    }
    if (status != LQ_OK) {
        return status;
    }
    tensor->name = lq_arena_dup_string(p->arena, name);
    if (tensor->name == NULL) {
        return lq_error_nomem(p->err, "a mask");
    }
    status = read_spikes(p, &scope, item, tensor);
    if (status != LQ_OK) {
        return status;
    }
    tensor->row_count = (uint64_t)rows;
    tensor->col_count = (uint64_t)cols;
    tensor->position_count = (size_t)count;
    /* A position takes at least a byte, so nothing is allocated for data that is not there. */
    uint64_t needed = (uint64_t)size_bytes + (p->has_scores ? 4 * (uint64_t)count : 0);
    if (count > size_bytes || needed > lq_reader_left(&p->data)) {
        return fail(p->where, tensor->name, p->err,
                    "%lld positions in %lld bytes do not fit into the %llu bytes that are left; "
                    "the file is truncated or damaged",
                    (long long)count, (long long)size_bytes,
                    (unsigned long long)lq_reader_left(&p->data));
    }
    status = read_positions(p, tensor, (uint64_t)size_bytes);
    return status == LQ_OK && p->has_scores ? read_scores(p, tensor) : status;
}

static enum lq_status read_fields(struct parser *p, const cJSON *root, struct lq_mask *out,
                                  const char **mask_id, const cJSON **layers)
{
    struct lq_json_scope scope = {p->where, LQ_EFORMAT};
    int64_t version = 0;
    int64_t precision = 0;
    int64_t total = 0;
    const char *source = NULL;
    enum lq_status status =
        lq_json_get_int(&scope, root, "version", VERSION, VERSION, &version, NULL, p->err);
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, root, "mask_id", mask_id, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, root, "source_matrix_id", &source, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_number(&scope, root, "coverage", &out->coverage, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, root, "total_protected", 0, LQ_MASK_POSITIONS_MAX, &total,
                                 NULL, p->err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, root, "protection_precision", 0, 255, &precision, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, root, "has_scores", &p->has_scores, NULL, p->err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, root, "layer_masks", layers, NULL, p->err);
    }
    if (status != LQ_OK) {
        return status;
    }
    out->total_protected = (uint64_t)total;
    out->protection_precision = (uint32_t)precision;
    out->source_matrix_id = lq_arena_dup_string(p->arena, source);
    return out->source_matrix_id == NULL ? lq_error_nomem(p->err, "a mask") : LQ_OK;
}

/* A mask whose identifier is not that of its content was changed by hand or damaged. */
static enum lq_status check_id(struct parser *p, const struct lq_mask *mask, const char *mask_id)
{
    struct lq_buffer data;
    char expected[LQ_UUID_BYTES];
    lq_buffer_init(&data);
    size_t *sizes = calloc(mask->tensor_count + 1, sizeof *sizes);
    enum lq_status status = sizes == NULL ? lq_error_nomem(p->err, "a mask") : LQ_OK;
    if (status == LQ_OK) {
        status = make_data(mask, sizes, &data, p->err);
    }
    if (status == LQ_OK) {
        status = make_id(mask, mask->total_protected, sizes, &data, expected, p->err);
    }
    free(sizes);
    lq_buffer_fini(&data);
    if (status == LQ_OK && strcmp(mask_id, expected) != 0) {
        char quoted[LQ_QUOTE_BYTES];
        status = fail(p->where, NULL, p->err,
                      "field 'mask_id' is '%s', expected '%s' for this content; the file was "
                      "changed or damaged",
                      lq_quote_string(mask_id, quoted), expected);
    }
    return status;
}

static enum lq_status read_mask(struct parser *p, const cJSON *root, struct lq_mask *out)
{
    const char *mask_id = NULL;
    const cJSON *layers = NULL;
    enum lq_status status = read_fields(p, root, out, &mask_id, &layers);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(layers);
    if (count > LQ_MODEL_TENSORS_MAX) {
        return fail(p->where, NULL, p->err, "%d tensors, the limit is %d", count,
                    LQ_MODEL_TENSORS_MAX);
    }
    out->tensors = lq_arena_get_array(p->arena, (size_t)count, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(p->err, "a mask");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, layers)
    {
        status = read_tensor(p, item, out->tensor_count, &out->tensors[out->tensor_count]);
        if (status != LQ_OK) {
            return status;
        }
        out->tensor_count++;
    }
    if (lq_reader_left(&p->data) != 0) {
        return fail(p->where, NULL, p->err, "%llu bytes follow the last tensor",
                    (unsigned long long)lq_reader_left(&p->data));
    }
    uint64_t total = 0;
    status = check_mask(out, p->where, &total, p->err);
    if (status == LQ_OK && total != out->total_protected) {
        status = fail(p->where, NULL, p->err, "field 'total_protected' is %llu, expected %llu",
                      (unsigned long long)out->total_protected, (unsigned long long)total);
    }
    if (status == LQ_OK) {
        status = check_id(p, out, mask_id);
    }
    if (status == LQ_OK) {
        memcpy(out->mask_id, mask_id, LQ_UUID_BYTES);
    }
    return status;
}

bool lq_mask_is(const void *data, uint64_t size_bytes)
{
    return size_bytes >= MAGIC_BYTES && memcmp(data, MAGIC, MAGIC_BYTES) == 0;
}

enum lq_status lq_mask_parse(const void *data, uint64_t size_bytes, const char *where,
                             struct lq_arena *arena, struct lq_mask *out, struct lq_error *err)
{
    struct parser p = {.where = where, .arena = arena, .err = err};
    struct lq_mask mask = {0};
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    if (!lq_mask_is(data, size_bytes)) {
        return fail(where, NULL, err, "the file does not start with '%s'; it is no mask", MAGIC);
    }
    lq_read_skip(&reader, MAGIC_BYTES);
    uint64_t header_bytes = lq_read_u64(&reader);
    const void *header = lq_read_bytes(&reader, header_bytes);
    if (header == NULL) {
        return fail(where, NULL, err,
                    "the header does not fit into the file of %llu bytes; it is "
                    "truncated",
                    (unsigned long long)size_bytes);
    }
    uint64_t data_bytes = lq_reader_left(&reader);
    lq_reader_init(&p.data, lq_read_bytes(&reader, data_bytes), data_bytes);
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(header, (size_t)header_bytes, where, LQ_EFORMAT, &root, err);
    if (status == LQ_OK) {
        status = read_mask(&p, root, &mask);
    }
    cJSON_Delete(root);
    if (status == LQ_OK) {
        *out = mask;
    }
    return status;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct lq_mask_tensor *)a)->name,
                  ((const struct lq_mask_tensor *)b)->name);
}

const struct lq_mask_tensor *lq_mask_find(const struct lq_mask *mask, const char *name)
{
    struct lq_mask_tensor wanted = {.name = name};
    return mask->tensor_count == 0 ? NULL
                                   : bsearch(&wanted, mask->tensors, mask->tensor_count,
                                             sizeof *mask->tensors, compare_tensors);
}

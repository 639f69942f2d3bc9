#include "rules/model/tensor_index.h"

#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"
#include "rules/model/packing.h"

/* The largest integer that JSON carries exactly. */
#define JSON_INT_MAX ((int64_t)1 << 53)

static const struct lq_json_scope scope = {"tensor index", LQ_EFORMAT};

static enum lq_status parse_shape(const cJSON *object, struct lq_model_tensor *tensor,
                                  struct lq_error *err)
{
    const cJSON *dims = NULL;
    enum lq_status status = lq_json_get_array(&scope, object, "ne", &dims, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(dims);
    if (count < 1 || count > LQ_TENSOR_DIMS_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: '%s' has %d dimensions, expected 1 to %d", tensor->name,
                            count, LQ_TENSOR_DIMS_MAX);
    }
    tensor->dim_count = (uint32_t)count;
    for (int i = 0; i < LQ_TENSOR_DIMS_MAX; i++) {
        tensor->ne[i] = 1;
    }
    int i = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, dims)
    {
        double value = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
        if (!(value >= 0.0 && value <= (double)JSON_INT_MAX) || value != (double)(uint64_t)value) {
            return lq_error_set(err, LQ_EFORMAT,
                                "tensor index: 'ne' of '%s' has an entry that is no size",
                                tensor->name);
        }
        tensor->ne[i++] = (uint64_t)value;
    }
    return LQ_OK;
}

/* Rows of ne[0] elements; false when the product overflows. */
static bool count_rows(const struct lq_model_tensor *tensor, uint64_t *rows)
{
    return lq_mul_u64(tensor->ne[1], tensor->ne[2], rows) && lq_mul_u64(*rows, tensor->ne[3], rows);
}

/* The sizes of all parts. */
static bool fits_packing(const struct lq_model_tensor *tensor)
{
    const struct lq_packing *packing = tensor->packing;
    uint64_t part_count = lq_packing_part_count(packing);
    bool fits = tensor->ne[0] != 0 && tensor->ne[1] != 0 && tensor->ne[3] == 1 &&
                tensor->ne[0] <= LQ_MODEL_DIM_MAX * (uint64_t)64 && tensor->dtype == LQ_DTYPE_F32 &&
                !tensor->add_one && tensor->literal == NULL && tensor->piece_count != 0 &&
                tensor->piece_count % part_count == 0 &&
                tensor->piece_count / part_count == tensor->ne[2];
    for (size_t i = 0; fits && i < tensor->piece_count;) {
        for (int part = 0; part < LQ_PACKED_PART_COUNT; part++) {
            uint64_t shape[2];
            uint64_t size_bytes = 0;
            uint32_t dims = 0;
            if (lq_packing_has(packing, (enum lq_packed_part)part)) {
                fits = fits &&
                       lq_packing_shape(packing, (enum lq_packed_part)part, tensor->ne[0],
                                        tensor->ne[1], shape, &dims, &size_bytes) &&
                       size_bytes == tensor->pieces[i].size_bytes;
                i++;
            }
        }
    }
    return fits;
}

static bool fits_type(const struct lq_model_tensor *tensor)
{
    const struct lq_dtype_info *info = lq_dtype_info(tensor->dtype);
    uint64_t rows = 0;
    uint64_t size_bytes = 0;
    return tensor->ne[0] % info->block_elems == 0 && count_rows(tensor, &rows) &&
           lq_mul_u64(tensor->ne[0] / info->block_elems, info->block_bytes, &size_bytes) &&
           lq_mul_u64(size_bytes, rows, &size_bytes) && size_bytes == tensor->size_bytes;
}

static enum lq_status check_tensor(const struct lq_model_tensor *tensor, struct lq_error *err)
{
    const char *type =
        tensor->packing == NULL ? lq_dtype_name(tensor->dtype) : tensor->packing->method->name;
    if (!(tensor->packing == NULL ? fits_type : fits_packing)(tensor)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: '%s' has %llu bytes, which does not fit its shape as %s",
                            tensor->name, (unsigned long long)tensor->size_bytes, type);
    }
    uint64_t heads = tensor->permute_heads;
    if (heads != 0 && (tensor->ne[1] % heads != 0 || tensor->ne[1] / heads % 2 != 0)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: %llu rows of '%s' do not divide into %llu heads of even "
                            "size",
                            (unsigned long long)tensor->ne[1], tensor->name,
                            (unsigned long long)heads);
    }
    return LQ_OK;
}

static enum lq_status parse_name(const cJSON *object, const char *key, struct lq_arena *arena,
                                 const char **out, struct lq_error *err)
{
    const char *text = NULL;
    enum lq_status status = lq_json_get_string(&scope, object, key, &text, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    if (text[0] == '\0' || strlen(text) > LQ_TENSOR_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: '%s' has %zu characters, expected 1 to %d", key,
                            strlen(text), LQ_TENSOR_NAME_BYTES_MAX);
    }
    *out = lq_arena_dup_string(arena, text);
    return *out == NULL ? lq_error_nomem(err, "the tensor index") : LQ_OK;
}

static enum lq_status parse_place(const cJSON *object, struct lq_model_tensor *tensor,
                                  struct lq_error *err)
{
    int64_t source = 0;
    int64_t offset = 0;
    int64_t size_bytes = 0;
    int64_t heads = 0;
    bool permuted = false;
    enum lq_status status =
        lq_json_get_int(&scope, object, "source", 0, LQ_MODEL_SHARDS_MAX, &source, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, object, "offset", 0, JSON_INT_MAX, &offset, NULL, err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, object, "size_bytes", 0, JSON_INT_MAX, &size_bytes, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, object, "permute_heads", 1, LQ_MODEL_DIM_MAX, &heads,
                                 &permuted, err);
    }
    tensor->source = (size_t)source;
    tensor->offset = (uint64_t)offset;
    tensor->size_bytes = (uint64_t)size_bytes;
    tensor->permute_heads = permuted ? (uint32_t)heads : 0;
    return status;
}

static enum lq_status parse_literal(const cJSON *object, struct lq_arena *arena,
                                    struct lq_model_tensor *tensor, struct lq_error *err)
{
    const char *hex = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_string(&scope, object, "literal", &hex, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    size_t digits = strlen(hex);
    unsigned char *bytes = lq_arena_get(arena, digits / 2 + 1);
    if (bytes == NULL) {
        return lq_error_nomem(err, "the tensor index");
    }
    bool good = digits % 2 == 0 && digits / 2 == tensor->size_bytes &&
                strspn(hex, "0123456789abcdef") == digits;
    for (size_t i = 0; good && i < digits; i++) {
        unsigned value = (unsigned)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
        bytes[i / 2] = (unsigned char)(i % 2 == 0 ? value << 4 : bytes[i / 2] | value);
    }
    tensor->literal = bytes;
    return good ? LQ_OK
                : lq_error_set(err, LQ_EFORMAT, "tensor index: the data of '%s' are malformed",
                               tensor->name);
}

static enum lq_status parse_piece(const cJSON *object, struct lq_tensor_piece *piece,
                                  struct lq_error *err)
{
    int64_t source = 0;
    int64_t offset = 0;
    int64_t size_bytes = 0;
    const char *hex = NULL;
    enum lq_status status =
        lq_json_get_int(&scope, object, "source", 0, LQ_MODEL_SHARDS_MAX, &source, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, object, "offset", 0, JSON_INT_MAX, &offset, NULL, err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, object, "size_bytes", 1, JSON_INT_MAX, &size_bytes, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, object, "digest", &hex, NULL, err);
    }
    if (status == LQ_OK && !lq_digest_from_hex(hex, strlen(hex), &piece->digest)) {
        status = lq_error_set(err, LQ_EFORMAT, "tensor index: the digest of a piece is no SHA-256");
    }
    piece->source = (size_t)source;
    piece->offset = (uint64_t)offset;
    piece->size_bytes = (uint64_t)size_bytes;
    return status;
}

static enum lq_status parse_pieces(const cJSON *object, struct lq_arena *arena,
                                   struct lq_model_tensor *tensor, struct lq_error *err)
{
    const cJSON *list = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_array(&scope, object, "pieces", &list, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    size_t count = (size_t)cJSON_GetArraySize(list);
    struct lq_tensor_piece *pieces = NULL;
    if (count >= 1 && count <= (size_t)LQ_MODEL_EXPERTS_MAX * LQ_PACKED_PART_COUNT) {
        pieces = lq_arena_get_array(arena, count, sizeof *pieces);
        if (pieces == NULL) {
            return lq_error_nomem(err, "the tensor index");
        }
    }
    uint64_t total = 0;
    size_t at = 0;
    for (const cJSON *item = list->child; pieces != NULL && item != NULL; item = item->next) {
        status = parse_piece(item, &pieces[at], err);
        if (status != LQ_OK) {
            return status;
        }
        if (!lq_add_u64(total, pieces[at++].size_bytes, &total)) {
            total = UINT64_MAX;
            break;
        }
    }
    if (pieces == NULL || total != tensor->size_bytes) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: the %zu pieces of '%s' do not make up its %llu bytes",
                            count, tensor->name, (unsigned long long)tensor->size_bytes);
    }
    tensor->pieces = pieces;
    tensor->piece_count = count;
    return LQ_OK;
}

static enum lq_status parse_flags(const cJSON *object, struct lq_packing *packing,
                                  struct lq_error *err)
{
    const struct {
        const char *key;
        bool *value;
    } flags[] = {{"zeros", &packing->has_zeros},
                 {"groups", &packing->has_groups},
                 {"rounds_inputs", &packing->rounds_inputs}};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < sizeof flags / sizeof flags[0]; i++) {
        status = lq_json_get_bool(&scope, object, flags[i].key, flags[i].value, NULL, err);
    }
    return status;
}

static enum lq_status parse_packing(const cJSON *object, struct lq_arena *arena,
                                    struct lq_model_tensor *tensor, struct lq_error *err)
{
    const cJSON *from = NULL;
    const char *method = NULL;
    const char *scales = NULL;
    int64_t bits = 0;
    int64_t group_cols = 0;
    bool found = false;
    enum lq_status status = lq_json_get_object(&scope, object, "packing", &from, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    struct lq_packing *packing = lq_arena_get(arena, sizeof *packing);
    if (packing == NULL) {
        return lq_error_nomem(err, "the tensor index");
    }
    *packing = (struct lq_packing){.method = NULL};
    tensor->packing = packing;
    status = lq_json_get_string(&scope, from, "method", &method, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, from, "scales", &scales, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, from, "bits", 1, 8, &bits, NULL, err);
    }
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, from, "group_cols", 1, JSON_INT_MAX, &group_cols, NULL, err);
    }
    if (status == LQ_OK) {
        status = parse_flags(from, packing, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    packing->method = lq_packing_find(method);
    packing->bits = (unsigned)bits;
    packing->group_cols = (uint64_t)group_cols;
    if (packing->method == NULL || (packing->method->bits >> bits & 1) == 0 ||
        !lq_dtype_find(scales, &packing->scale_dtype) ||
        (packing->has_groups && packing->method->parts[LQ_PACKED_GROUPS].suffix == NULL) ||
        (packing->scale_dtype != LQ_DTYPE_F16 && packing->scale_dtype != LQ_DTYPE_BF16 &&
         packing->scale_dtype != LQ_DTYPE_F32)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor index: '%s' is packed in an unknown way, '%s' of %u bits with "
                            "scales '%s'",
                            tensor->name, method, packing->bits, scales);
    }
    return LQ_OK;
}

static enum lq_status parse_tensor(const cJSON *object, struct lq_arena *arena,
                                   struct lq_model_tensor *tensor, struct lq_error *err)
{
    enum lq_status status = parse_name(object, "name", arena, &tensor->name, err);
    if (status == LQ_OK) {
        status = parse_name(object, "source_name", arena, &tensor->source_name, err);
    }
    const char *type = NULL;
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, object, "dtype", &type, NULL, err);
    }
    if (status == LQ_OK && !lq_dtype_find(type, &tensor->dtype)) {
        status = lq_error_set(err, LQ_EFORMAT, "tensor index: '%s' has the unknown type '%s'",
                              tensor->name, type);
    }
    const char *hex = NULL;
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, object, "digest", &hex, NULL, err);
    }
    if (status == LQ_OK && !lq_digest_from_hex(hex, strlen(hex), &tensor->digest)) {
        status = lq_error_set(err, LQ_EFORMAT, "tensor index: the digest of '%s' is no SHA-256",
                              tensor->name);
    }
    if (status == LQ_OK) {
        status = parse_shape(object, tensor, err);
    }
    if (status == LQ_OK) {
        status = parse_place(object, tensor, err);
    }
    bool found = false;
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, object, "add_one", &tensor->add_one, &found, err);
    }
    if (status == LQ_OK) {
        status = parse_literal(object, arena, tensor, err);
    }
    if (status == LQ_OK) {
        status = parse_pieces(object, arena, tensor, err);
    }
    if (status == LQ_OK) {
        status = parse_packing(object, arena, tensor, err);
    }
    return status == LQ_OK ? check_tensor(tensor, err) : status;
}

static enum lq_status parse_tensors(const cJSON *root, struct lq_arena *arena,
                                    struct lq_tensor_index *out, struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(&scope, root, "tensors", &list, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    if (count > LQ_MODEL_TENSORS_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "tensor index: %d tensors, expected at most %d", count,
                            LQ_MODEL_TENSORS_MAX);
    }
    struct lq_model_tensor *tensors =
        lq_arena_get_array(arena, (size_t)(count == 0 ? 1 : count), sizeof *tensors);
    if (tensors == NULL) {
        return lq_error_nomem(err, "the tensor index");
    }
    size_t i = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        status = parse_tensor(item, arena, &tensors[i++], err);
        if (status != LQ_OK) {
            return status;
        }
    }
    out->tensors = tensors;
    out->tensor_count = (size_t)count;
    return LQ_OK;
}

enum lq_status lq_tensor_index_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_tensor_index *out, struct lq_error *err)
{
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    if (status != LQ_OK) {
        return status;
    }
    status = parse_tensors(root, arena, out, err);
    cJSON_Delete(root);
    return status;
}

static bool format_literal(struct lq_json_writer *writer, const struct lq_model_tensor *tensor)
{
    static const char digits[] = "0123456789abcdef";
    struct lq_buffer hex;
    lq_buffer_init(&hex);
    for (uint64_t i = 0; i < tensor->size_bytes; i++) {
        unsigned byte = ((const unsigned char *)tensor->literal)[i];
        lq_buffer_append_u8(&hex, (unsigned char)digits[byte >> 4]);
        lq_buffer_append_u8(&hex, (unsigned char)digits[byte & 15]);
    }
    bool good = !hex.failed;
    lq_json_put_string(writer, "literal", good ? lq_buffer_text(&hex) : "");
    lq_buffer_fini(&hex);
    return good;
}

static void format_pieces(struct lq_json_writer *writer, const struct lq_model_tensor *tensor)
{
    lq_json_key(writer, "pieces");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < tensor->piece_count; i++) {
        const struct lq_tensor_piece *piece = &tensor->pieces[i];
        char hex[LQ_DIGEST_HEX_BYTES];
        lq_json_begin_object(writer);
        lq_json_put_int(writer, "source", (int64_t)piece->source);
        lq_json_put_int(writer, "offset", (int64_t)piece->offset);
        lq_json_put_int(writer, "size_bytes", (int64_t)piece->size_bytes);
        lq_json_put_string(writer, "digest", lq_digest_to_hex(&piece->digest, hex));
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
}

static void format_packing(struct lq_json_writer *writer, const struct lq_packing *packing)
{
    lq_json_key(writer, "packing");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "method", packing->method->name);
    lq_json_put_int(writer, "bits", packing->bits);
    lq_json_put_int(writer, "group_cols", (int64_t)packing->group_cols);
    lq_json_put_string(writer, "scales", lq_dtype_name((uint32_t)packing->scale_dtype));
    lq_json_put_bool(writer, "zeros", packing->has_zeros);
    lq_json_put_bool(writer, "groups", packing->has_groups);
    lq_json_put_bool(writer, "rounds_inputs", packing->rounds_inputs);
    lq_json_end_object(writer);
}

static bool format_tensor(struct lq_json_writer *writer, const struct lq_model_tensor *tensor)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    bool good = true;
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "name", tensor->name);
    lq_json_put_string(writer, "source_name", tensor->source_name);
    lq_json_put_string(writer, "dtype", lq_dtype_name(tensor->dtype));
    lq_json_key(writer, "ne");
    lq_json_begin_array(writer);
    for (uint32_t i = 0; i < tensor->dim_count; i++) {
        lq_json_uint(writer, tensor->ne[i]);
    }
    lq_json_end_array(writer);
    lq_json_put_int(writer, "source", (int64_t)tensor->source);
    lq_json_put_int(writer, "offset", (int64_t)tensor->offset);
    lq_json_put_int(writer, "size_bytes", (int64_t)tensor->size_bytes);
    if (tensor->permute_heads != 0) {
        lq_json_put_int(writer, "permute_heads", (int64_t)tensor->permute_heads);
    }
    if (tensor->add_one) {
        lq_json_put_bool(writer, "add_one", true);
    }
    if (tensor->literal != NULL) {
        good = format_literal(writer, tensor);
    }
    if (tensor->piece_count != 0) {
        format_pieces(writer, tensor);
    }
    if (tensor->packing != NULL) {
        format_packing(writer, tensor->packing);
    }
    lq_json_put_string(writer, "digest", lq_digest_to_hex(&tensor->digest, hex));
    lq_json_end_object(writer);
    return good;
}

bool lq_model_tensor_is_verbatim(const struct lq_model_tensor *tensor)
{
    return tensor->permute_heads == 0 && !tensor->add_one && tensor->packing == NULL;
}

const char *lq_model_tensor_form(const struct lq_model_tensor *tensor, struct lq_arena *arena)
{
    const char *packing = tensor->packing == NULL ? "" : lq_packing_form(tensor->packing, arena);
    if (packing == NULL) {
        return NULL;
    }
    return lq_arena_printf(arena, "%s %llux%llux%llu permute %u%s%s%s",
                           lq_dtype_name(tensor->dtype), (unsigned long long)tensor->ne[0],
                           (unsigned long long)tensor->ne[1], (unsigned long long)tensor->ne[2],
                           (unsigned)tensor->permute_heads, tensor->add_one ? " add 1" : "",
                           tensor->packing == NULL ? "" : " ", packing);
}

const void *lq_model_tensor_matrix(const struct lq_model_tensor *tensor, const void *data,
                                   uint64_t matrix)
{
    if (tensor->packing != NULL) {
        return (const void *const *)data + matrix * lq_packing_part_count(tensor->packing);
    }
    return (const unsigned char *)data + matrix * (tensor->size_bytes / tensor->ne[2]);
}

enum lq_status lq_tensor_index_format(const struct lq_tensor_index *index, struct lq_buffer *out,
                                      struct lq_error *err)
{
    struct lq_json_writer writer;
    bool good = true;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "tensors");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < index->tensor_count; i++) {
        good = format_tensor(&writer, &index->tensors[i]) && good;
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    return out->failed || !good ? lq_error_nomem(err, "the tensor index") : LQ_OK;
}

const struct lq_model_tensor *lq_tensor_index_find(const struct lq_tensor_index *index,
                                                   const char *name)
{
    for (size_t i = 0; i < index->tensor_count; i++) {
        if (strcmp(index->tensors[i].name, name) == 0) {
            return &index->tensors[i];
        }
    }
    return NULL;
}

uint64_t lq_model_tensor_source_row(const struct lq_model_tensor *tensor, uint64_t row)
{
    if (tensor->permute_heads == 0) {
        return row;
    }
    uint64_t head_rows = tensor->ne[1] / tensor->permute_heads;
    uint64_t within = row % head_rows;
    return row - within + within % 2 * (head_rows / 2) + within / 2;
}

enum lq_status lq_model_tensor_rows(const struct lq_model_tensor *tensor, const void *data,
                                    uint64_t row, uint64_t row_count, float *out,
                                    struct lq_error *err)
{
    lq_decode_fn decode =
        (unsigned)tensor->dtype < LQ_DTYPE_COUNT ? lq_kernels()->decode[tensor->dtype] : NULL;
    if (decode == NULL && tensor->packing == NULL) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "tensor '%s' has the type %s, which cannot be "
                            "decoded",
                            tensor->name, lq_dtype_name(tensor->dtype));
    }
    uint64_t rows = 0;
    if (!count_rows(tensor, &rows) || row > rows || row_count > rows - row) {
        return lq_error_set(err, LQ_EINTERNAL, "rows %llu to %llu of tensor '%s', which has %llu",
                            (unsigned long long)row, (unsigned long long)(row + row_count),
                            tensor->name, (unsigned long long)rows);
    }
    if (tensor->packing != NULL) {
        return lq_packed_rows(tensor, data, row, row_count, out, err);
    }
    size_t cols = (size_t)tensor->ne[0];
    size_t row_bytes = lq_dtype_row_bytes(tensor->dtype, cols);
    const unsigned char *bytes = data;
    if (tensor->permute_heads == 0) {
        decode(bytes + row * row_bytes, out, (size_t)row_count * cols);
    } else {
        for (uint64_t i = 0; i < row_count; i++) {
            uint64_t source = lq_model_tensor_source_row(tensor, row + i);
            decode(bytes + source * row_bytes, out + i * cols, cols);
        }
    }
    for (size_t i = 0; tensor->add_one && i < row_count * cols; i++) {
        out[i] += 1.0f;
    }
    return LQ_OK;
}

enum lq_status lq_model_tensor_rows_of(const struct lq_model_tensor *tensor,
                                       const void *const *matrices, uint64_t row,
                                       uint64_t row_count, float *out, struct lq_error *err)
{
    struct lq_model_tensor matrix = *tensor;
    matrix.ne[2] = 1;
    enum lq_status status = LQ_OK;
    while (row_count > 0 && status == LQ_OK) {
        uint64_t number = row / tensor->ne[1];
        uint64_t within = row % tensor->ne[1];
        uint64_t count = tensor->ne[1] - within < row_count ? tensor->ne[1] - within : row_count;
        if (number >= tensor->ne[2]) {
            return lq_error_set(err, LQ_EINTERNAL, "row %llu of tensor '%s', which has fewer",
                                (unsigned long long)row, tensor->name);
        }
        status = lq_model_tensor_rows(&matrix, matrices[number], within, count, out, err);
        row += count;
        row_count -= count;
        out += count * tensor->ne[0];
    }
    return status;
}

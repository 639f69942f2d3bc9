#include "rules/model/hf_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/text.h"

static int compare_found(const void *a, const void *b)
{
    const struct lq_hf_found *x = a;
    const struct lq_hf_found *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

enum lq_status lq_hf_tensors_open(struct lq_hf_tensors *tensors,
                                  const struct lq_scanned_file *files, size_t file_count,
                                  const struct lq_hf_quantization *quantization,
                                  struct lq_arena *arena, struct lq_error *err)
{
    size_t total = 0;
    *tensors = (struct lq_hf_tensors){
        .files = files, .file_count = file_count, .quantization = quantization, .arena = arena};
    for (size_t f = 0; f < file_count; f++) {
        if (files[f].is_gguf) {
            return lq_error_set(err, LQ_EFORMAT,
                                "a model directory must hold safetensors files, but one is GGUF");
        }
        total += files[f].tensor_count;
    }
    if (total > LQ_MODEL_TENSORS_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%zu tensors exceed the limit of %d", total,
                            LQ_MODEL_TENSORS_MAX);
    }
    tensors->found = lq_arena_get_array(arena, total + 1, sizeof *tensors->found);
    if (tensors->found == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    struct lq_hf_found *found = tensors->found;
    for (size_t f = 0; f < file_count; f++) {
        for (size_t i = 0; i < files[f].tensor_count; i++) {
            found[tensors->count++] =
                (struct lq_hf_found){.tensor = &files[f].tensors[i], .file = f};
        }
    }
    qsort(found, tensors->count, sizeof *found, compare_found);
    for (size_t i = 1; i < tensors->count; i++) {
        if (compare_found(&found[i - 1], &found[i]) == 0) {
            return lq_error_set(err, LQ_EFORMAT, "tensor '%.200s' is in two files",
                                found[i].tensor->name);
        }
    }
    return LQ_OK;
}

static struct lq_hf_found *find_tensor(const struct lq_hf_tensors *tensors, const char *name)
{
    const struct lq_scanned_tensor wanted = {.name = name};
    const struct lq_hf_found key = {.tensor = &wanted};
    return bsearch(&key, tensors->found, tensors->count, sizeof *tensors->found, compare_found);
}

enum { SHAPE_BYTES = 128 };

/* "4096x256": the file's order, the fastest-varying size last. */
static void format_shape(uint32_t dim_count, const uint64_t *shape, char out[SHAPE_BYTES])
{
    size_t at = 0;
    (void)snprintf(out, SHAPE_BYTES, "()");
    for (uint32_t d = dim_count; d-- > 0 && at < SHAPE_BYTES;) {
        int length = snprintf(out + at, SHAPE_BYTES - at, "%s%llu", at == 0 ? "" : "x",
                              (unsigned long long)shape[d]);
        at += length > 0 ? (size_t)length : 0;
    }
}

static enum lq_status check_tensor(const struct lq_scanned_tensor *tensor, uint64_t cols,
                                   uint64_t rows, bool is_matrix, struct lq_error *err)
{
    uint32_t dims = is_matrix ? 2 : 1;
    if (tensor->dim_count != dims || tensor->shape[0] != cols || tensor->shape[1] != rows) {
        char expected[SHAPE_BYTES];
        char got[SHAPE_BYTES];
        const uint64_t wanted[LQ_TENSOR_DIMS_MAX] = {cols, rows, 1, 1};
        format_shape(dims, wanted, expected);
        format_shape(tensor->dim_count, tensor->shape, got);
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%.200s' has shape %s, but config.json makes it %s",
                            tensor->name, got, expected);
    }
    bool known =
        tensor->has_dtype && (tensor->dtype == LQ_DTYPE_F32 || tensor->dtype == LQ_DTYPE_F16 ||
                              tensor->dtype == LQ_DTYPE_BF16);
    if (!known) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "tensor '%.200s' has type %.40s; F32, F16 and BF16 are supported",
                            tensor->name, tensor->dtype_name);
    }
    return LQ_OK;
}

static enum lq_status refuse_missing(const struct lq_hf_tensors *tensors, const char *name,
                                     struct lq_error *err)
{
    if (tensors->file_count == 1) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: tensor '%s' is missing; the file is incomplete, or config.json is "
                            "that of another model",
                            tensors->files[0].name, name);
    }
    return lq_error_set(err, LQ_EFORMAT,
                        "tensor '%s' is missing in all %zu safetensors files of the model, from %s "
                        "on",
                        name, tensors->file_count, tensors->files[0].name);
}

/* ---- packed matrices ---- */

enum { NAME_BYTES = 256 };

/* The module's tensor with this suffix. */
static struct lq_hf_found *find_beside(const struct lq_hf_tensors *tensors, const char *module,
                                       const char *suffix, char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "%s%s", module, suffix);
    return find_tensor(tensors, name);
}

static bool is_float(const struct lq_scanned_tensor *tensor)
{
    return tensor->has_dtype && (tensor->dtype == LQ_DTYPE_F32 || tensor->dtype == LQ_DTYPE_F16 ||
                                 tensor->dtype == LQ_DTYPE_BF16);
}

/* Type and shape of a part. */
static enum lq_status check_part(const struct lq_packing *packing, enum lq_packed_part part,
                                 const struct lq_scanned_tensor *tensor, uint64_t cols,
                                 uint64_t rows, struct lq_error *err)
{
    const struct lq_packed_layout *layout = &packing->method->parts[part];
    bool of_floats = part == LQ_PACKED_SCALES;
    uint64_t shape[2] = {0, 0};
    uint64_t size_bytes = 0;
    uint32_t dim_count = 0;
    if (of_floats ? !is_float(tensor) : !tensor->has_dtype || tensor->dtype != layout->dtype) {
        return lq_error_set(err, LQ_EFORMAT, "tensor '%.200s' has type %.40s; for %s it must be %s",
                            tensor->name, tensor->dtype_name, packing->method->title,
                            of_floats ? "F16, BF16 or F32"
                                      : lq_dtype_name((uint32_t)layout->dtype));
    }
    if (!lq_packing_shape(packing, part, cols, rows, shape, &dim_count, &size_bytes)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%.200s': %llu rows and %llu columns of %u bits do not fill "
                            "words of 32 bits; %s cannot store such a matrix",
                            tensor->name, (unsigned long long)rows, (unsigned long long)cols,
                            packing->bits, packing->method->title);
    }
    const uint64_t wanted[LQ_TENSOR_DIMS_MAX] = {dim_count == 2 ? shape[1] : shape[0],
                                                 dim_count == 2 ? shape[0] : 1, 1, 1};
    if (tensor->dim_count != dim_count || memcmp(tensor->shape, wanted, sizeof wanted) != 0 ||
        tensor->size_bytes != size_bytes) {
        char expected[SHAPE_BYTES];
        char got[SHAPE_BYTES];
        format_shape(dim_count, wanted, expected);
        format_shape(tensor->dim_count, tensor->shape, got);
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%.200s' has shape %s, but config.json makes it %s (%llu rows, "
                            "%llu columns, %u bits, groups of %llu)",
                            tensor->name, got, expected, (unsigned long long)rows,
                            (unsigned long long)cols, packing->bits,
                            (unsigned long long)packing->group_cols);
    }
    return LQ_OK;
}

/* A tensor that only repeats the shape: its bytes must be these two numbers, where their digest is
 * known. */
static enum lq_status check_repeated(const struct lq_hf_found *found, uint64_t cols, uint64_t rows,
                                     struct lq_error *err)
{
    const struct lq_scanned_tensor *tensor = found->tensor;
    unsigned char bytes[16] = {0};
    size_t width = tensor->has_dtype && tensor->dtype == LQ_DTYPE_I32 ? 4 : 8;
    struct lq_digest digest;
    for (size_t i = 0; i < width; i++) {
        bytes[i] = (unsigned char)(i < 8 ? rows >> (8 * i) : 0);
        bytes[width + i] = (unsigned char)(i < 8 ? cols >> (8 * i) : 0);
    }
    lq_digest_of(bytes, 2 * width, &digest);
    if (lq_digest_is_zero(&tensor->digest) || lq_digest_equal(&digest, &tensor->digest)) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EFORMAT,
                        "tensor '%.200s' does not say %llu rows and %llu columns, which is what "
                        "config.json makes the matrix",
                        tensor->name, (unsigned long long)rows, (unsigned long long)cols);
}

/* Finds the parts that are there and refuses those that are not but must be. */
static enum lq_status find_parts(struct lq_hf_tensors *tensors, const char *module,
                                 struct lq_packing *packing, struct lq_hf_found **parts,
                                 struct lq_error *err)
{
    const struct lq_packing_method *method = packing->method;
    bool asymmetric = method->needs_zeros || !tensors->quantization->symmetric;
    for (int part = 0; part < LQ_PACKED_PART_COUNT; part++) {
        char name[NAME_BYTES];
        const char *suffix = method->parts[part].suffix;
        bool needed = part == LQ_PACKED_LEVELS || part == LQ_PACKED_SCALES ||
                      (part == LQ_PACKED_ZEROS && asymmetric);
        parts[part] = suffix == NULL ? NULL : find_beside(tensors, module, suffix, name);
        if (parts[part] == NULL && needed) {
            return refuse_missing(tensors, name, err);
        }
    }
    packing->has_zeros = parts[LQ_PACKED_ZEROS] != NULL;
    packing->has_groups = parts[LQ_PACKED_GROUPS] != NULL;
    if (is_float(parts[LQ_PACKED_SCALES]->tensor)) {
        packing->scale_dtype = parts[LQ_PACKED_SCALES]->tensor->dtype;
    }
    return LQ_OK;
}

static enum lq_status take_packed(struct lq_hf_tensors *tensors, const char *module, uint64_t cols,
                                  uint64_t rows, struct lq_hf_stored *out, struct lq_error *err)
{
    const struct lq_hf_quantization *quantization = tensors->quantization;
    struct lq_hf_found *parts[LQ_PACKED_PART_COUNT] = {NULL};
    struct lq_packing *packing = lq_arena_get(tensors->arena, sizeof *packing);
    char name[NAME_BYTES];
    if (packing == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    *packing = (struct lq_packing){
        .method = quantization->method,
        .bits = quantization->bits,
        .group_cols = quantization->group_cols == 0 ? cols : quantization->group_cols,
        .scale_dtype = LQ_DTYPE_F16,
        .rounds_inputs = quantization->rounds_inputs};
    if (cols % packing->group_cols != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "the matrix '%s' has %llu columns, which groups of %llu do not divide; "
                            "check the group size in config.json",
                            module, (unsigned long long)cols,
                            (unsigned long long)packing->group_cols);
    }
    enum lq_status status = find_parts(tensors, module, packing, parts, err);
    for (int part = 0; status == LQ_OK && part < LQ_PACKED_PART_COUNT; part++) {
        if (parts[part] != NULL) {
            parts[part]->used = true;
            out->parts[out->part_count++] = parts[part];
            status = check_part(packing, (enum lq_packed_part)part, parts[part]->tensor, cols, rows,
                                err);
            if (status != LQ_OK) {
                return lq_error_prefix(err, "%s", tensors->files[parts[part]->file].name);
            }
        }
    }
    struct lq_hf_found *also = status == LQ_OK && packing->method->also != NULL
                                   ? find_beside(tensors, module, packing->method->also, name)
                                   : NULL;
    if (also != NULL) {
        also->used = true;
        status = check_repeated(also, cols, rows, err);
    }
    out->packing = packing;
    tensors->packed_count++;
    return status;
}

/* Whether the matrix "<module>.weight" is stored quantized, which its tensors tell. */
static enum lq_status find_packed(const struct lq_hf_tensors *tensors, const char *name,
                                  char module[NAME_BYTES], bool *packed, struct lq_error *err)
{
    static const char weight[] = ".weight";
    const struct lq_packing_method *method = tensors->quantization->method;
    size_t length = strlen(name);
    char other[NAME_BYTES];
    *packed = false;
    if (method == NULL || !lq_text_ends_with(name, weight) || length >= NAME_BYTES / 2) {
        return LQ_OK;
    }
    (void)snprintf(module, NAME_BYTES, "%.*s", (int)(length - (sizeof weight - 1)), name);
    const struct lq_hf_found *plain = find_tensor(tensors, name);
    const struct lq_hf_found *levels =
        find_beside(tensors, module, method->parts[LQ_PACKED_LEVELS].suffix, other);
    if (levels != NULL && levels == plain) {
        const struct lq_hf_found *scales =
            find_beside(tensors, module, method->parts[LQ_PACKED_SCALES].suffix, other);
        *packed = scales != NULL || !is_float(levels->tensor);
        return LQ_OK;
    }
    *packed = levels != NULL;
    return levels == NULL || plain == NULL
               ? LQ_OK
               : lq_error_set(err, LQ_EFORMAT,
                              "the matrix '%s' is there twice, as '%s' and quantized as '%s'; "
                              "leave one of them out",
                              module, name, levels->tensor->name);
}

enum lq_status lq_hf_tensors_take(struct lq_hf_tensors *tensors, const char *name, uint64_t cols,
                                  uint64_t rows, bool is_matrix, struct lq_hf_stored *out,
                                  struct lq_error *err)
{
    char module[NAME_BYTES];
    bool packed = false;
    *out = (struct lq_hf_stored){.part_count = 0};
    if (is_matrix) {
        enum lq_status status = find_packed(tensors, name, module, &packed, err);
        if (status != LQ_OK || packed) {
            return status == LQ_OK ? take_packed(tensors, module, cols, rows, out, err) : status;
        }
    }
    struct lq_hf_found *found = find_tensor(tensors, name);
    if (found == NULL) {
        return refuse_missing(tensors, name, err);
    }
    found->used = true;
    out->parts[0] = found;
    out->part_count = 1;
    enum lq_status status = check_tensor(found->tensor, cols, rows, is_matrix, err);
    return status == LQ_OK ? LQ_OK : lq_error_prefix(err, "%s", tensors->files[found->file].name);
}

/* Writers of GPTQ folders gave every matrix a bias, of zeros where the model has none. */
bool lq_hf_tensors_is_idle(const struct lq_hf_tensors *tensors, const struct lq_hf_found *found)
{
    static const char bias[] = ".bias";
    const struct lq_packing_method *method = tensors->quantization->method;
    const struct lq_scanned_tensor *tensor = found->tensor;
    size_t length = strlen(tensor->name);
    char module[NAME_BYTES];
    char name[NAME_BYTES];
    if (method == NULL || !lq_text_ends_with(tensor->name, bias) || length >= NAME_BYTES / 2 ||
        !is_float(tensor) || tensor->size_bytes > LQ_MODEL_DIM_MAX * sizeof(float)) {
        return false;
    }
    (void)snprintf(module, sizeof module, "%.*s", (int)(length - (sizeof bias - 1)), tensor->name);
    const struct lq_hf_found *levels =
        find_beside(tensors, module, method->parts[LQ_PACKED_LEVELS].suffix, name);
    void *zeros = calloc(1, (size_t)tensor->size_bytes + 1);
    bool idle = false;
    if (levels != NULL && levels->used && zeros != NULL) {
        struct lq_digest digest;
        lq_digest_of(zeros, (size_t)tensor->size_bytes, &digest);
        idle = lq_digest_equal(&digest, &tensor->digest);
    }
    free(zeros);
    return idle;
}

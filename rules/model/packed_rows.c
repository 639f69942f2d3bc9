#include <math.h>
#include <string.h>

#include "kernels/bytes.h"
#include "kernels/kernels.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_index.h"

/* A matrix is decoded tile by tile: levels as they come out of their words, which may lie row by
 * row or column by column, then numbers. */
enum { TILE_ROWS = 16, TILE_COLS = 256, WORD_BITS = 32, WORD_BYTES = 4 };

struct matrix {
    const struct lq_model_tensor *tensor;
    const struct lq_packing *packing;
    const unsigned char *parts[LQ_PACKED_PART_COUNT];
    uint64_t cols;
    uint64_t rows;
    uint64_t group_count;
    int mask; /* of a level */
};

/* Where the numbers of a part that is packed lie: word w of row or column `other` is at w *
 * word_stride + other * other_stride words. */
struct words {
    const unsigned char *bytes;
    uint64_t word_stride;
    uint64_t other_stride;
    unsigned bits;
    bool interleaved;
};

static struct words words_of(const struct matrix *matrix, enum lq_packed_part part)
{
    const struct lq_packed_layout *layout = &matrix->packing->method->parts[part];
    uint64_t steps = part == LQ_PACKED_LEVELS ? matrix->cols : matrix->group_count;
    bool along_cols = layout->axis == LQ_PACKED_ALONG_COLS;
    uint64_t packed = along_cols ? steps : matrix->rows;
    uint64_t other = along_cols ? matrix->rows : steps;
    uint64_t count = (packed * matrix->packing->bits + WORD_BITS - 1) / WORD_BITS;
    bool words_last = along_cols == layout->rows_first;
    return (struct words){.bytes = matrix->parts[part],
                          .word_stride = words_last ? 1 : other,
                          .other_stride = words_last ? count : 1,
                          .bits = matrix->packing->bits,
                          .interleaved = layout->interleaved};
}

/* Where the number `at` of a packed row or column begins. */
static uint64_t first_bit(const struct words *words, uint64_t at)
{
    static const unsigned char places[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return words->interleaved ? (at / 8 * 8 + places[at % 8]) * words->bits : at * words->bits;
}

static int take(const struct words *words, uint64_t bit, uint64_t other, int mask)
{
    unsigned shift = (unsigned)(bit % WORD_BITS);
    const unsigned char *at =
        words->bytes +
        (bit / WORD_BITS * words->word_stride + other * words->other_stride) * WORD_BYTES;
    uint32_t value = lq_load_u32(at) >> shift;
    if (shift + words->bits > WORD_BITS) {
        value |= lq_load_u32(at + words->word_stride * WORD_BYTES) << (WORD_BITS - shift);
    }
    return (int)value & mask;
}

struct tile {
    uint64_t row; /* in the source */
    uint64_t col;
    size_t rows;
    size_t cols;
    int16_t levels[TILE_ROWS][TILE_COLS];
};

/* Single bytes, row by row. */
static void take_bytes(const struct matrix *matrix, struct tile *tile)
{
    for (size_t r = 0; r < tile->rows; r++) {
        const unsigned char *from =
            matrix->parts[LQ_PACKED_LEVELS] + (tile->row + r) * matrix->cols + tile->col;
        for (size_t c = 0; c < tile->cols; c++) {
            tile->levels[r][c] = (int16_t)(int8_t)from[c];
        }
    }
}

static void take_along_cols(const struct matrix *matrix, struct tile *tile)
{
    const struct words words = words_of(matrix, LQ_PACKED_LEVELS);
    for (size_t c = 0; c < tile->cols; c++) {
        uint64_t bit = first_bit(&words, tile->col + c);
        for (size_t r = 0; r < tile->rows; r++) {
            tile->levels[r][c] = (int16_t)take(&words, bit, tile->row + r, matrix->mask);
        }
    }
}

static void take_along_rows(const struct matrix *matrix, struct tile *tile)
{
    const struct words words = words_of(matrix, LQ_PACKED_LEVELS);
    uint64_t bits[TILE_ROWS];
    for (size_t r = 0; r < tile->rows; r++) {
        bits[r] = first_bit(&words, tile->row + r);
    }
    for (size_t c = 0; c < tile->cols; c++) {
        for (size_t r = 0; r < tile->rows; r++) {
            tile->levels[r][c] = (int16_t)take(&words, bits[r], tile->col + c, matrix->mask);
        }
    }
}

static void take_levels(const struct matrix *matrix, struct tile *tile)
{
    switch (matrix->packing->method->parts[LQ_PACKED_LEVELS].axis) {
    case LQ_PACKED_SINGLY:
        take_bytes(matrix, tile);
        break;
    case LQ_PACKED_ALONG_COLS:
        take_along_cols(matrix, tile);
        break;
    default:
        take_along_rows(matrix, tile);
        break;
    }
}

/* ---- scales and zeros ---- */

static uint64_t place_of(const struct matrix *matrix, enum lq_packed_part part, uint64_t row,
                         uint64_t group)
{
    bool rows_first = matrix->packing->method->parts[part].rows_first;
    return rows_first ? row * matrix->group_count + group : group * matrix->rows + row;
}

static float scale_at(const struct matrix *matrix, uint64_t row, uint64_t group)
{
    uint64_t at = place_of(matrix, LQ_PACKED_SCALES, row, group);
    const unsigned char *from = matrix->parts[LQ_PACKED_SCALES];
    uint32_t bits = 0;
    float value = 0.0F;
    switch (matrix->packing->scale_dtype) {
    case LQ_DTYPE_F16:
        return lq_f16_to_f32(lq_load_u16(from + at * 2));
    case LQ_DTYPE_BF16:
        return lq_bf16_to_f32(lq_load_u16(from + at * 2));
    default:
        bits = lq_load_u32(from + at * 4);
        memcpy(&value, &bits, sizeof value);
        return value;
    }
}

static int zero_at(const struct matrix *matrix, uint64_t row, uint64_t group)
{
    const struct lq_packing_method *method = matrix->packing->method;
    const struct lq_packed_layout *layout = &method->parts[LQ_PACKED_ZEROS];
    if (!matrix->packing->has_zeros) {
        return method->is_signed ? 0 : 1 << (matrix->packing->bits - 1);
    }
    if (layout->axis == LQ_PACKED_SINGLY) {
        uint64_t at = place_of(matrix, LQ_PACKED_ZEROS, row, group);
        return (int8_t)matrix->parts[LQ_PACKED_ZEROS][at];
    }
    const struct words words = words_of(matrix, LQ_PACKED_ZEROS);
    return (take(&words, first_bit(&words, row), group, matrix->mask) + (int)method->zero_more) &
           matrix->mask;
}

static enum lq_status refuse_scale(const struct matrix *matrix, uint64_t row, uint64_t group,
                                   struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT,
                        "tensor '%s': the scale of row %llu and group %llu in '%s' is NaN or "
                        "infinite; the file is damaged or was made from a damaged one",
                        matrix->tensor->name, (unsigned long long)row, (unsigned long long)group,
                        matrix->packing->method->parts[LQ_PACKED_SCALES].suffix + 1);
}

/* ---- numbers ---- */

static enum lq_status find_group(const struct matrix *matrix, uint64_t col, uint64_t *group,
                                 struct lq_error *err)
{
    if (!matrix->packing->has_groups) {
        *group = col / matrix->packing->group_cols;
        return LQ_OK;
    }
    *group = lq_load_u32(matrix->parts[LQ_PACKED_GROUPS] + col * WORD_BYTES);
    if (*group < matrix->group_count) {
        return LQ_OK;
    }
    return lq_error_set(
        err, LQ_EFORMAT, "tensor '%s': '%s' puts column %llu into group %d, expected 0 to %llu",
        matrix->tensor->name, matrix->packing->method->parts[LQ_PACKED_GROUPS].suffix + 1,
        (unsigned long long)col, (int)(uint32_t)*group,
        (unsigned long long)matrix->group_count - 1);
}

/* Columns [first, end) of the tile are of one group. */
static enum lq_status scale_run(const struct matrix *matrix, const struct tile *tile,
                                uint64_t group, size_t first, size_t end, float *out,
                                uint64_t stride, struct lq_error *err)
{
    for (size_t r = 0; r < tile->rows; r++) {
        float scale = scale_at(matrix, tile->row + r, group);
        int zero = zero_at(matrix, tile->row + r, group);
        const int16_t *levels = tile->levels[r];
        float *to = out + r * stride + tile->col;
        if (!isfinite(scale)) {
            return refuse_scale(matrix, tile->row + r, group, err);
        }
        for (size_t c = first; c < end; c++) {
            to[c] = (float)(levels[c] - zero) * scale;
        }
    }
    return LQ_OK;
}

static enum lq_status scale_tile(const struct matrix *matrix, const struct tile *tile, float *out,
                                 uint64_t stride, struct lq_error *err)
{
    uint64_t group = 0;
    enum lq_status status = find_group(matrix, tile->col, &group, err);
    for (size_t c = 0; status == LQ_OK && c < tile->cols;) {
        uint64_t next = group;
        size_t end = c + 1;
        while (status == LQ_OK && end < tile->cols) {
            status = find_group(matrix, tile->col + end, &next, err);
            if (next != group) {
                break;
            }
            end++;
        }
        if (status == LQ_OK) {
            status = scale_run(matrix, tile, group, c, end, out, stride, err);
        }
        group = next;
        c = end;
    }
    return status;
}

/* Rows that follow each other in the source, `stride` floats apart. */
static enum lq_status decode_rows(const struct matrix *matrix, uint64_t row, size_t row_count,
                                  float *out, uint64_t stride, struct lq_error *err)
{
    struct tile tile = {.row = row, .rows = row_count};
    enum lq_status status = LQ_OK;
    for (uint64_t col = 0; status == LQ_OK && col < matrix->cols; col += TILE_COLS) {
        uint64_t left = matrix->cols - col;
        tile.col = col;
        tile.cols = left < TILE_COLS ? (size_t)left : (size_t)TILE_COLS;
        take_levels(matrix, &tile);
        status = scale_tile(matrix, &tile, out, stride, err);
    }
    return status;
}

static struct matrix matrix_of(const struct lq_model_tensor *tensor, const void *const *parts)
{
    const struct lq_packing *packing = tensor->packing;
    struct matrix matrix = {.tensor = tensor,
                            .packing = packing,
                            .cols = tensor->ne[0],
                            .rows = tensor->ne[1],
                            .group_count = tensor->ne[0] / packing->group_cols,
                            .mask = (1 << packing->bits) - 1};
    size_t number = 0;
    for (int part = 0; part < LQ_PACKED_PART_COUNT; part++) {
        if (lq_packing_has(packing, (enum lq_packed_part)part)) {
            matrix.parts[part] = parts[number++];
        }
    }
    return matrix;
}

/* Rows [row, end) of one matrix. Where heads are reordered every second row follows its
 * predecessor in the source. */
static enum lq_status decode_matrix(const struct matrix *matrix, uint64_t row, uint64_t end,
                                    float *out, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = matrix->tensor;
    uint64_t step = tensor->permute_heads == 0 ? 1 : 2;
    enum lq_status status = LQ_OK;
    for (uint64_t first = row; first < row + step; first++) {
        for (uint64_t at = first; status == LQ_OK && at < end;) {
            uint64_t source = lq_model_tensor_source_row(tensor, at);
            size_t count = 1;
            while (count < TILE_ROWS && at + count * step < end &&
                   lq_model_tensor_source_row(tensor, at + count * step) == source + count) {
                count++;
            }
            status = decode_rows(matrix, source, count, out + (at - row) * matrix->cols,
                                 step * matrix->cols, err);
            at += count * step;
        }
    }
    return status;
}

enum lq_status lq_packed_rows(const struct lq_model_tensor *tensor, const void *const *parts,
                              uint64_t row, uint64_t row_count, float *out, struct lq_error *err)
{
    size_t part_count = lq_packing_part_count(tensor->packing);
    enum lq_status status = LQ_OK;
    while (row_count > 0 && status == LQ_OK) {
        uint64_t within = row % tensor->ne[1];
        uint64_t left = tensor->ne[1] - within;
        uint64_t count = left < row_count ? left : row_count;
        const struct matrix matrix = matrix_of(tensor, parts + row / tensor->ne[1] * part_count);
        status = decode_matrix(&matrix, within, within + count, out, err);
        out += count * tensor->ne[0];
        row += count;
        row_count -= count;
    }
    return status;
}

/* What config.json says about quantized weights: whatever it says, it is read or refused with a
 * sentence, and what is read gives parts whose sizes fit each other. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/base/limits.h"
#include "rules/model/hf_quantization.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_shapes(const struct lq_hf_quantization *how)
{
    static const uint64_t sizes[][2] = {{64, 64},
                                        {1, 1},
                                        {4096, 11008},
                                        {UINT64_MAX / 2, 3},
                                        {(uint64_t)1 << 40, (uint64_t)1 << 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct lq_packing packing = {.method = how->method,
                                           .bits = how->bits,
                                           .group_cols =
                                               how->group_cols == 0 ? sizes[i][0] : how->group_cols,
                                           .scale_dtype = LQ_DTYPE_F16,
                                           .has_zeros = true};
        for (int part = 0; part < LQ_PACKED_PART_COUNT; part++) {
            uint64_t shape[2] = {0, 0};
            uint64_t size_bytes = 0;
            uint32_t dims = 0;
            if (lq_packing_shape(&packing, (enum lq_packed_part)part, sizes[i][0], sizes[i][1],
                                 shape, &dims, &size_bytes) &&
                (dims < 1 || dims > 2 || size_bytes < shape[0] || size_bytes % shape[0] != 0)) {
                abort();
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_error err;
    struct lq_hf_quantization how;
    cJSON *json = NULL;
    lq_error_clear(&err);
    if (lq_json_parse(data, size, "config.json", LQ_EFORMAT, &json, &err) != LQ_OK) {
        return 0;
    }
    enum lq_status status = lq_hf_quantization_find(json, json, &how, &err);
    if ((status != LQ_OK) != (err.message[0] != '\0')) {
        abort();
    }
    if (status == LQ_OK && how.method != NULL) {
        if ((how.method->bits >> how.bits & 1) == 0 || how.group_cols > LQ_MODEL_DIM_MAX) {
            abort();
        }
        check_shapes(&how);
    }
    cJSON_Delete(json);
    return 0;
}

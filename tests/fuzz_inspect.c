/* inspect on any bytes: text has no control bytes but line ends, JSON is valid, or there is one
 * sentence. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/inspect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_buffer out;
    struct lq_error err = {0};
    lq_buffer_init(&out);
    enum lq_status text = lq_inspect(data, size, "fuzz", false, &out, &err);
    for (size_t i = 0; text == LQ_OK && i < out.size_bytes; i++) {
        if ((out.data[i] < 0x20 && out.data[i] != '\n') || out.data[i] == 0x7f) {
            abort();
        }
    }
    lq_buffer_clear(&out);
    if (lq_inspect(data, size, "fuzz", true, &out, &err) != text) {
        abort();
    }
    cJSON *root = NULL;
    if (text == LQ_OK &&
        lq_json_parse(out.data, out.size_bytes, "out", LQ_EFORMAT, &root, &err) != LQ_OK) {
        abort();
    }
    cJSON_Delete(root);
    lq_buffer_fini(&out);
    return 0;
}

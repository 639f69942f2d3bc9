/* Keys as text, and base64: what is taken is written back the same. */
#include <stdlib.h>
#include <string.h>

#include "cache/sign.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_public_key public_key;
    struct lq_secret_key secret_key;
    char again[LQ_KEY_TEXT_BYTES];
    uint8_t raw[LQ_SIGNATURE_BYTES];
    char *text = malloc(size + 1);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    if (lq_public_key_parse(text, &public_key, NULL) == LQ_OK) {
        lq_public_key_text(&public_key, again);
        if (strcmp(again, text) != 0) {
            abort();
        }
    }
    if (lq_secret_key_parse(text, &secret_key, NULL) == LQ_OK &&
        !lq_key_name_is_valid(secret_key.public_key.name, strlen(secret_key.public_key.name))) {
        abort();
    }
    if (lq_base64_decode((const char *)data, size, raw, sizeof raw)) {
        lq_base64_encode(raw, sizeof raw, again);
        if (memcmp(again, data, size) != 0) {
            abort();
        }
    }
    free(text);
    return 0;
}

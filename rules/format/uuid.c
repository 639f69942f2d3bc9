#include "rules/format/uuid.h"

char *lq_uuid_of(const struct lq_digest *digest, char out[LQ_UUID_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    char *place = out;
    for (size_t i = 0; i < 16; i++) {
        unsigned byte = digest->bytes[i];
        /* RFC 9562, section 5.8: the version is 8, the variant is binary 10. */
        if (i == 6) {
            byte = (byte & 0x0f) | 0x80;
        } else if (i == 8) {
            byte = (byte & 0x3f) | 0x80;
        }
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *place++ = '-';
        }
        *place++ = hex[byte >> 4];
        *place++ = hex[byte & 15];
    }
    *place = '\0';
    return out;
}

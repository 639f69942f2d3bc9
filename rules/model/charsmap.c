#include "rules/model/charsmap.h"

#include <stdint.h>
#include <string.h>

#include "engine/base/reader.h"

enum { UNIT_BYTES = 4 };

enum lq_status lq_charsmap_parse(const void *data, size_t size_bytes, const char *where,
                                 struct lq_charsmap *out, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    uint64_t trie_bytes = lq_read_u32(&reader);
    const unsigned char *units = lq_read_bytes(&reader, trie_bytes);
    size_t text_bytes = reader.failed ? 0 : (size_t)lq_reader_left(&reader);
    const char *texts = lq_read_bytes(&reader, text_bytes);
    if (reader.failed || trie_bytes < UNIT_BYTES || trie_bytes % UNIT_BYTES != 0 ||
        text_bytes == 0 || texts[text_bytes - 1] != '\0') {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: the precompiled character map of %zu bytes is damaged: its trie "
                            "would have %llu bytes, followed by texts that end with NUL",
                            where, size_bytes, (unsigned long long)trie_bytes);
    }
    *out = (struct lq_charsmap){.units = units,
                                .unit_count = (size_t)trie_bytes / UNIT_BYTES,
                                .texts = texts,
                                .text_bytes = text_bytes};
    return LQ_OK;
}

static uint32_t unit_at(const struct lq_charsmap *map, size_t index)
{
    const unsigned char *bytes = map->units + UNIT_BYTES * index;
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static size_t offset_of(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200u) != 0 ? 8 : 0);
}

size_t lq_charsmap_match(const struct lq_charsmap *map, const char *text, size_t length,
                         const char **replacement, size_t *replacement_length)
{
    size_t matched = 0;
    size_t node = offset_of(unit_at(map, 0));
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        node ^= byte;
        uint32_t unit = node < map->unit_count ? unit_at(map, node) : 0x80000000u;
        /* The label; a unit with the top bit set is a value, which no byte equals. */
        if ((unit & 0x800000ffu) != byte) {
            break;
        }
        node ^= offset_of(unit);
        if ((unit & 0x100u) != 0 && node < map->unit_count) {
            size_t at = unit_at(map, node) & 0x7fffffffu;
            if (at < map->text_bytes) {
                matched = i + 1;
                *replacement = map->texts + at;
                *replacement_length = strlen(*replacement);
            }
        }
    }
    return matched;
}

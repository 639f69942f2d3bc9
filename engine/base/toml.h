/* Reads configuration files: a strict part of TOML 1.0. There are tables `[a]` and `[a.b]`, keys,
 * strings ("basic" and 'literal'), integers, booleans, arrays of strings, and comments. Dates,
 * floats, inline tables, dotted keys, arrays of tables and multi-line strings are refused by name,
 * and so are keys and tables that are given twice. What a key means is its reader's business; each
 * item remembers its line for that. Everything lives in the arena. Thread rule: pure. Limits:
 * LQ_CONFIG_BYTES_MAX, LQ_CONFIG_ITEMS_MAX. */
#ifndef LQ_BASE_TOML_H
#define LQ_BASE_TOML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

enum { LQ_TOML_DEPTH_MAX = 2 };

enum lq_toml_type { LQ_TOML_STRING, LQ_TOML_INT, LQ_TOML_BOOL, LQ_TOML_LIST };

struct lq_toml_table {
    const char *parts[LQ_TOML_DEPTH_MAX]; /* "remote", "team"; the second may be NULL */
    unsigned line;
};

struct lq_toml_item {
    size_t table; /* index; table 0 is the one before the first header, with parts[0] "" */
    const char *key;
    unsigned line;
    enum lq_toml_type type;
    const char *string;
    int64_t integer;
    bool boolean;
    const char **strings;
    size_t string_count;
};

struct lq_toml {
    struct lq_toml_table *tables;
    size_t table_count;
    struct lq_toml_item *items;
    size_t item_count;
};

/* `where` (a file name) starts every message, as "where:line: ". Errors: LQ_EUSAGE, LQ_ENOMEM. */
enum lq_status lq_toml_parse(const void *data, size_t size_bytes, const char *where,
                             struct lq_arena *arena, struct lq_toml *out, struct lq_error *err);
/* "string", "integer", "boolean", "array of strings". */
const char *lq_toml_type_name(enum lq_toml_type type);

#endif

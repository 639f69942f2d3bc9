#include "engine/action.h"

#include <stdio.h>
#include <string.h>

/* Raise it when the layout of manifests changes: every key changes with it. */
static const char format_version[] = "1";

static void append_escaped(struct lq_buffer *buffer, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        switch (*c) {
        case ' ':
            lq_buffer_append_string(buffer, "\\s");
            break;
        case '\n':
            lq_buffer_append_string(buffer, "\\n");
            break;
        case '\\':
            lq_buffer_append_string(buffer, "\\\\");
            break;
        default:
            lq_buffer_append_char(buffer, *c);
            break;
        }
    }
}

void lq_manifest_init(struct lq_manifest *manifest, const char *what)
{
    lq_buffer_init(&manifest->text);
    lq_buffer_printf(&manifest->text, "lqbuild %s %s\n", what, format_version);
}

void lq_manifest_fini(struct lq_manifest *manifest)
{
    lq_buffer_fini(&manifest->text);
}

void lq_manifest_add(struct lq_manifest *manifest, const char *kind, const char *name,
                     const char *value)
{
    lq_buffer_append_string(&manifest->text, kind);
    lq_buffer_append_char(&manifest->text, ' ');
    append_escaped(&manifest->text, name);
    lq_buffer_append_char(&manifest->text, ' ');
    append_escaped(&manifest->text, value);
    lq_buffer_append_char(&manifest->text, '\n');
}

void lq_manifest_add_uint(struct lq_manifest *manifest, const char *kind, const char *name,
                          uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    lq_manifest_add(manifest, kind, name, text);
}

void lq_manifest_add_digest(struct lq_manifest *manifest, const char *kind, const char *name,
                            const struct lq_digest *digest)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_manifest_add(manifest, kind, name, lq_digest_to_hex(digest, hex));
}

bool lq_manifest_key(const struct lq_manifest *manifest, struct lq_digest *key)
{
    if (manifest->text.failed) {
        return false;
    }
    lq_digest_of(manifest->text.data, manifest->text.size_bytes, key);
    return true;
}

/* ---- explanations ---- */

struct field {
    const char *head; /* "kind name" */
    size_t head_length;
    const char *value;
    size_t value_length;
};

/* Splits off the next line; false at the end. A line without a value has an empty one. */
static bool next_field(const char **cursor, struct field *field)
{
    if (**cursor == '\0') {
        return false;
    }
    const char *line = *cursor;
    const char *end = strchr(line, '\n');
    size_t length = end == NULL ? strlen(line) : (size_t)(end - line);
    *cursor = end == NULL ? line + length : end + 1;
    const char *blank = memchr(line, ' ', length);
    const char *second =
        blank == NULL ? NULL : memchr(blank + 1, ' ', length - (size_t)(blank + 1 - line));
    field->head = line;
    field->head_length = second == NULL ? length : (size_t)(second - line);
    field->value = second == NULL ? line + length : second + 1;
    field->value_length = length - (size_t)(field->value - line);
    return true;
}

static bool find_field(const char *manifest, const struct field *wanted, struct field *found)
{
    while (next_field(&manifest, found)) {
        if (found->head_length == wanted->head_length &&
            memcmp(found->head, wanted->head, wanted->head_length) == 0) {
            return true;
        }
    }
    return false;
}

/* Digests are shown by their first 12 digits, other values up to a line's worth. */
static int shown_length(const struct field *field)
{
    if (field->value_length == LQ_DIGEST_HEX_BYTES - 1) {
        return 12;
    }
    return field->value_length > 60 ? 60 : (int)field->value_length;
}

static void explain_changed(const struct field *before, const struct field *after,
                            struct lq_buffer *out)
{
    lq_buffer_printf(out, "%.*s: %.*s -> %.*s\n", (int)after->head_length, after->head,
                     shown_length(before), before->value, shown_length(after), after->value);
}

void lq_manifest_explain(const char *before, const char *after, struct lq_buffer *out)
{
    if (before == NULL) {
        lq_buffer_append_string(out, "no earlier build of it is known\n");
        return;
    }
    struct field now;
    struct field old;
    const char *cursor = after;
    while (next_field(&cursor, &now)) {
        if (!find_field(before, &now, &old)) {
            lq_buffer_printf(out, "%.*s: new, %.*s\n", (int)now.head_length, now.head,
                             shown_length(&now), now.value);
        } else if (old.value_length != now.value_length ||
                   memcmp(old.value, now.value, now.value_length) != 0) {
            explain_changed(&old, &now, out);
        }
    }
    cursor = before;
    while (next_field(&cursor, &old)) {
        if (!find_field(after, &old, &now)) {
            lq_buffer_printf(out, "%.*s: gone, was %.*s\n", (int)old.head_length, old.head,
                             shown_length(&old), old.value);
        }
    }
}

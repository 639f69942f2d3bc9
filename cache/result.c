#include "cache/result.h"

#include <string.h>

#include "engine/base/limits.h"

/* ---- lines ---- */

bool lq_lines_next(struct lq_lines *lines, const char **line, size_t *length)
{
    size_t left = (size_t)(lines->end - lines->at);
    const char *newline = left == 0 ? NULL : memchr(lines->at, '\n', left);
    if (newline == NULL) {
        return false;
    }
    *line = lines->at;
    *length = (size_t)(newline - lines->at);
    lines->at = newline + 1;
    return true;
}

bool lq_line_token(const char **line, size_t *length, const char **token, size_t *token_length)
{
    const char *blank = *length == 0 ? NULL : memchr(*line, ' ', *length);
    *token = *line;
    *token_length = blank == NULL ? *length : (size_t)(blank - *line);
    size_t used = blank == NULL ? *length : *token_length + 1;
    *line += used;
    *length -= used;
    return *token_length > 0;
}

bool lq_line_word(const char **line, size_t *length, const char *word)
{
    size_t size = strlen(word);
    if (*length < size || memcmp(*line, word, size) != 0 ||
        (*length > size && (*line)[size] != ' ')) {
        return false;
    }
    size += *length > size;
    *line += size;
    *length -= size;
    return true;
}

bool lq_line_digest(const char **line, size_t *length, struct lq_digest *digest)
{
    const char *token = NULL;
    size_t token_length = 0;
    if (!lq_line_token(line, length, &token, &token_length) ||
        !lq_digest_from_hex(token, token_length, digest)) {
        return false;
    }
    char hex[LQ_DIGEST_HEX_BYTES];
    return memcmp(lq_digest_to_hex(digest, hex), token, token_length) == 0;
}

bool lq_line_number(const char **line, size_t *length, uint64_t *value)
{
    const char *token = NULL;
    size_t token_length = 0;
    *value = 0;
    if (!lq_line_token(line, length, &token, &token_length) ||
        (token[0] == '0' && token_length > 1)) {
        return false;
    }
    for (size_t i = 0; i < token_length; i++) {
        uint64_t digit = (uint64_t)(unsigned char)token[i] - '0';
        if (digit > 9 || *value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return true;
}

/* ---- writing ---- */

static void append_escaped(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case ' ':
            lq_buffer_append_string(out, "\\s");
            break;
        case '\n':
            lq_buffer_append_string(out, "\\n");
            break;
        case '\\':
            lq_buffer_append_string(out, "\\\\");
            break;
        default:
            lq_buffer_append_char(out, *text);
            break;
        }
    }
}

void lq_result_encode(const struct lq_digest *key, const struct lq_action_record *record,
                      const struct lq_result_layout *layouts, struct lq_buffer *out)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    char layout_hex[LQ_DIGEST_HEX_BYTES];
    lq_buffer_printf(out, "lqbuild result 1\nkey %s\n", lq_digest_to_hex(key, hex));
    lq_buffer_printf(out, "verdict %d ", lq_status_exit_code(record->verdict));
    append_escaped(out, record->verdict_text);
    lq_buffer_append_string(out, "\nnumerics ");
    append_escaped(out, record->numerics);
    lq_buffer_printf(out, "\nduration %llu\nsteps %llu\n", (unsigned long long)record->duration_us,
                     (unsigned long long)record->step_count);
    for (size_t i = 0; i < record->output_count; i++) {
        const struct lq_action_output *output = &record->outputs[i];
        lq_buffer_append_string(out, "output ");
        append_escaped(out, output->name);
        lq_buffer_printf(out, " %s %llu %s\n", lq_digest_to_hex(&output->digest, hex),
                         (unsigned long long)output->size_bytes,
                         output->transient ? "transient" : "kept");
    }
    for (size_t i = 0; i < record->output_count && layouts != NULL; i++) {
        if (layouts[i].size_bytes > 0) {
            lq_buffer_printf(out, "layout %s %s %llu\n",
                             lq_digest_to_hex(&record->outputs[i].digest, hex),
                             lq_digest_to_hex(&layouts[i].digest, layout_hex),
                             (unsigned long long)layouts[i].size_bytes);
        }
    }
}

enum lq_status lq_result_sign(struct lq_buffer *text, size_t from, const struct lq_secret_key *key,
                              struct lq_error *err)
{
    char signature[LQ_SIGNATURE_TEXT_BYTES];
    if (text->failed) {
        return lq_error_nomem(err, "a result");
    }
    enum lq_status status =
        lq_sign(key, text->data + from, text->size_bytes - from, signature, err);
    if (status == LQ_OK) {
        lq_buffer_printf(text, "signature %s %s\n", key->public_key.name, signature);
        status = text->failed ? lq_error_nomem(err, "a result") : LQ_OK;
    }
    return status;
}

/* ---- reading ---- */

/* A token without its escapes, in the arena. NULL: *why, or memory is out (then *why stays). */
static char *unescape(struct lq_arena *arena, const char *token, size_t length, const char **why)
{
    char *out = lq_arena_get(arena, length + 1);
    size_t used = 0;
    for (size_t i = 0; i < length && out != NULL; i++) {
        char c = token[i];
        if (c == '\0') {
            *why = "a NUL in a text";
            return NULL;
        }
        if (c == '\\') {
            static const char letters[] = "sn\\";
            static const char meanings[] = " \n\\";
            const char *at =
                i + 1 < length && token[i + 1] != '\0' ? strchr(letters, token[i + 1]) : NULL;
            if (at == NULL) {
                *why = "an unknown escape";
                return NULL;
            }
            c = meanings[at - letters];
            i++;
        }
        out[used++] = c;
    }
    return out;
}

static enum lq_status verdict_from_code(uint64_t code, bool *known)
{
    for (int status = 0; status < LQ_STATUS_COUNT; status++) {
        if ((uint64_t)lq_status_exit_code((enum lq_status)status) == code) {
            *known = true;
            return (enum lq_status)status;
        }
    }
    *known = false;
    return LQ_OK;
}

struct decoder {
    struct lq_lines lines;
    struct lq_arena *arena;
    struct lq_result *out;
    const char *why;
};

/* The next line, which must begin with the word. */
static bool expect(struct decoder *d, const char *word, const char **line, size_t *length)
{
    if (!lq_lines_next(&d->lines, line, length) || !lq_line_word(line, length, word)) {
        d->why = "a line is missing or out of order";
        return false;
    }
    return true;
}

static bool expect_number(struct decoder *d, const char *word, uint64_t *value)
{
    const char *line = NULL;
    size_t length = 0;
    if (!expect(d, word, &line, &length)) {
        return false;
    }
    if (!lq_line_number(&line, &length, value) || length != 0) {
        d->why = "a number is malformed";
        return false;
    }
    return true;
}

static bool decode_head(struct decoder *d)
{
    struct lq_action_record *record = &d->out->record;
    const char *line = NULL;
    size_t length = 0;
    uint64_t code = 0;
    bool known = false;
    if (!expect(d, "lqbuild result 1", &line, &length) || length != 0 ||
        !expect(d, "key", &line, &length)) {
        d->why = "it does not begin as a result of version 1";
        return false;
    }
    if (!lq_line_digest(&line, &length, &d->out->key) || length != 0) {
        d->why = "its key is malformed";
        return false;
    }
    if (!expect(d, "verdict", &line, &length)) {
        return false;
    }
    if (!lq_line_number(&line, &length, &code) || length > LQ_VERDICT_BYTES_MAX) {
        d->why = "its verdict is malformed";
        return false;
    }
    record->verdict = verdict_from_code(code, &known);
    if (!known || memchr(line, ' ', length) != NULL) {
        d->why = "its verdict is unknown";
        return false;
    }
    record->verdict_text = unescape(d->arena, line, length, &d->why);
    if (record->verdict_text == NULL || !expect(d, "numerics", &line, &length)) {
        return false;
    }
    if (length > LQ_NAME_BYTES_MAX) {
        d->why = "the name of its numerics is too long";
        return false;
    }
    record->numerics = unescape(d->arena, line, length, &d->why);
    return record->numerics != NULL && expect_number(d, "duration", &record->duration_us) &&
           expect_number(d, "steps", &record->step_count);
}

static bool decode_output(struct decoder *d, const char *line, size_t length)
{
    struct lq_action_record *record = &d->out->record;
    if (record->output_count == LQ_STEP_OUTPUTS_MAX) {
        d->why = "it has too many outputs";
        return false;
    }
    struct lq_action_output *output = &record->outputs[record->output_count];
    const char *name = NULL;
    size_t name_length = 0;
    if (!lq_line_token(&line, &length, &name, &name_length) || name_length > LQ_NAME_BYTES_MAX ||
        !lq_line_digest(&line, &length, &output->digest) ||
        !lq_line_number(&line, &length, &output->size_bytes)) {
        d->why = "an output is malformed";
        return false;
    }
    output->transient = length == strlen("transient") && memcmp(line, "transient", length) == 0;
    if (!output->transient && !(length == strlen("kept") && memcmp(line, "kept", length) == 0)) {
        d->why = "an output is neither kept nor transient";
        return false;
    }
    output->name = unescape(d->arena, name, name_length, &d->why);
    record->output_count++;
    return output->name != NULL;
}

static bool decode_layout(struct decoder *d, const char *line, size_t length)
{
    struct lq_digest blob;
    struct lq_result_layout layout;
    if (!lq_line_digest(&line, &length, &blob) || !lq_line_digest(&line, &length, &layout.digest) ||
        !lq_line_number(&line, &length, &layout.size_bytes) || length != 0 ||
        layout.size_bytes == 0 || layout.size_bytes > LQ_LAYOUT_BYTES_MAX) {
        d->why = "a layout is malformed";
        return false;
    }
    bool used = false;
    for (size_t i = 0; i < d->out->record.output_count; i++) {
        if (lq_digest_equal(&d->out->record.outputs[i].digest, &blob)) {
            d->out->layouts[i] = layout;
            used = true;
        }
    }
    d->why = used ? d->why : "a layout belongs to no output";
    return used;
}

/* Outputs, layouts, signatures: up to the first line that is none of them. */
static bool decode_rest(struct decoder *d, const char *text)
{
    bool in_layouts = false;
    bool in_signatures = false;
    d->out->signed_bytes = (size_t)(d->lines.at - text);
    for (;;) {
        struct lq_lines before = d->lines;
        const char *line = NULL;
        size_t length = 0;
        if (!lq_lines_next(&d->lines, &line, &length)) {
            return true;
        }
        bool fine = true;
        if (!in_layouts && !in_signatures && lq_line_word(&line, &length, "output")) {
            fine = decode_output(d, line, length);
        } else if (!in_signatures && lq_line_word(&line, &length, "layout")) {
            in_layouts = true;
            fine = decode_layout(d, line, length);
        } else if (lq_line_word(&line, &length, "signature")) {
            in_signatures = true;
        } else {
            d->lines = before;
            return true;
        }
        if (!fine) {
            return false;
        }
        if (!in_signatures) {
            d->out->signed_bytes = (size_t)(d->lines.at - text);
        }
    }
}

enum lq_status lq_result_decode(const void *text, size_t size_bytes, struct lq_arena *arena,
                                struct lq_result *out, const char **why, struct lq_error *err)
{
    *out = (struct lq_result){.signed_bytes = 0};
    *why = NULL;
    struct decoder d = {
        .lines = {.at = text, .end = (const char *)text + size_bytes}, .arena = arena, .out = out};
    out->record.outputs =
        lq_arena_get_array(arena, LQ_STEP_OUTPUTS_MAX, sizeof *out->record.outputs);
    if (out->record.outputs == NULL) {
        return lq_error_nomem(err, "a result");
    }
    bool fine = decode_head(&d) && decode_rest(&d, text);
    if (!fine && d.why == NULL) {
        return lq_error_nomem(err, "a result");
    }
    out->size_bytes = (size_t)(d.lines.at - (const char *)text);
    *why = fine ? NULL : d.why;
    return LQ_OK;
}

enum lq_trust lq_result_check(const void *text, const struct lq_result *result,
                              const struct lq_keyring *ring, char signer[LQ_KEY_NAME_BYTES])
{
    struct lq_lines lines = {.at = (const char *)text + result->signed_bytes,
                             .end = (const char *)text + result->size_bytes};
    enum lq_trust trust = LQ_UNKNOWN_SIGNER;
    enum { SIGNATURES_MAX = 8 };
    const char *line = NULL;
    size_t length = 0;
    signer[0] = '\0';
    for (int i = 0; i < SIGNATURES_MAX && lq_lines_next(&lines, &line, &length); i++) {
        const char *name = NULL;
        size_t name_length = 0;
        if (!lq_line_word(&line, &length, "signature") ||
            !lq_line_token(&line, &length, &name, &name_length) ||
            !lq_key_name_is_valid(name, name_length)) {
            continue;
        }
        memcpy(signer, name, name_length);
        signer[name_length] = '\0';
        enum lq_trust one =
            lq_keyring_check(ring, name, name_length, line, length, text, result->signed_bytes);
        if (one == LQ_TRUSTED) {
            return one;
        }
        trust = one == LQ_WRONG_SIGNATURE ? one : trust;
    }
    return trust;
}

#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/cli/commands.h"
#include "engine/cli/quick_recipe.h"
#include "rules/model/vocab_file.h"

enum { PIECE_READ_BYTES = 1 << 16 };

static enum lq_status read_stdin(struct lq_buffer *text, struct lq_error *err)
{
    for (;;) {
        char bytes[PIECE_READ_BYTES];
        size_t count = fread(bytes, 1, sizeof bytes, stdin);
        lq_buffer_append(text, bytes, count);
        if (text->failed) {
            return lq_error_nomem(err, "the text on stdin");
        }
        if (text->size_bytes > LQ_TEXT_BYTES_MAX) {
            return lq_error_set(err, LQ_EIO, "the text on stdin has more than %llu bytes",
                                (unsigned long long)LQ_TEXT_BYTES_MAX);
        }
        if (count < sizeof bytes) {
            return ferror(stdin) ? lq_error_errno(err, LQ_EIO, "cannot read the text on stdin")
                                 : LQ_OK;
        }
    }
}

/* Bytes of a well-formed UTF-8 character at `text` (RFC 3629), 0 when there is none. */
static size_t character_bytes(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t count = s[0] < 0x80                    ? 1
                   : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
                   : s[0] >= 0xe0 && s[0] <= 0xef ? 3
                   : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                  : 0;
    if (count == 0 || count > length) {
        return 0;
    }
    for (size_t i = 1; i < count; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool is_valid = !(s[0] == 0xe0 && s[1] < 0xa0) && !(s[0] == 0xed && s[1] > 0x9f) &&
                    !(s[0] == 0xf0 && s[1] < 0x90) && !(s[0] == 0xf4 && s[1] > 0x8f);
    return is_valid ? count : 0;
}

/* One line whatever the bytes: line ends, backslashes, control characters and bytes that are no
 * UTF-8 are written as escapes. */
static void append_escaped(struct lq_buffer *out, const char *piece, size_t length)
{
    for (size_t i = 0; i < length;) {
        size_t count = character_bytes(piece + i, length - i);
        unsigned char c = (unsigned char)piece[i];
        if (c == '\n' || c == '\t' || c == '\\') {
            lq_buffer_printf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : '\\');
        } else if (count == 0 || c < 0x20 || c == 0x7f) {
            lq_buffer_printf(out, "\\x%02x", c);
            count = 1;
        } else {
            lq_buffer_append(out, piece + i, count);
        }
        i += count == 0 ? 1 : count;
    }
}

static void print_ids(const struct lq_token_list *list, struct lq_buffer *out)
{
    for (size_t i = 0; i < list->count; i++) {
        lq_buffer_printf(out, "%s%d", i == 0 ? "" : " ", (int)list->ids[i]);
    }
    lq_buffer_append_char(out, '\n');
}

static void print_pieces(const struct lq_vocab *vocab, const struct lq_token_list *list,
                         struct lq_buffer *out)
{
    for (size_t i = 0; i < list->count; i++) {
        size_t length = 0;
        const char *piece = lq_vocab_piece(vocab, list->ids[i], &length);
        append_escaped(out, piece == NULL ? "" : piece, length);
        lq_buffer_append_char(out, '\n');
    }
}

static void print_json(const struct lq_vocab *vocab, const struct lq_token_list *list,
                       struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "ids");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < list->count; i++) {
        lq_json_int(&writer, list->ids[i]);
    }
    lq_json_end_array(&writer);
    lq_json_key(&writer, "pieces");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < list->count; i++) {
        size_t length = 0;
        const char *piece = lq_vocab_piece(vocab, list->ids[i], &length);
        lq_json_string_sized(&writer, piece == NULL ? "" : piece, length);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

static enum lq_status print_tokens(struct lq_cli *cli, const struct lq_vocab *vocab,
                                   const struct lq_token_list *list, struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (lq_quick_wants_json(cli)) {
        print_json(vocab, list, &out);
    } else if (lq_args_has(&cli->args, "ids")) {
        print_ids(list, &out);
    } else {
        print_pieces(vocab, list, &out);
    }
    enum lq_status status = out.failed ? lq_error_nomem(err, "the tokens") : LQ_OK;
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    return status;
}

enum lq_status lq_command_tokenize(struct lq_cli *cli, struct lq_error *err)
{
    bool special = !lq_args_has(&cli->args, "no-special");
    struct lq_vocab *vocab = NULL;
    struct lq_buffer text;
    struct lq_token_list list;
    lq_buffer_init(&text);
    lq_token_list_init(&list);
    const char *path = NULL;
    enum lq_status status = lq_quick_find_model(cli, cli->args.operands[0], &path, err);
    if (status == LQ_OK) {
        status = lq_vocab_file_load(path, &vocab, err);
    }
    if (status == LQ_OK) {
        status = read_stdin(&text, err);
    }
    if (status == LQ_OK) {
        status = lq_tokenize(vocab, lq_buffer_text(&text), text.size_bytes, special, special, &list,
                             err);
    }
    if (status == LQ_OK) {
        status = print_tokens(cli, vocab, &list, err);
    }
    lq_token_list_fini(&list);
    lq_buffer_fini(&text);
    lq_vocab_destroy(vocab);
    return status;
}

#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/command.h"

/* The colours of pictures, which are ours. */
static size_t color_at(const char *text, size_t length)
{
    static const char *const colors[] = {"\x1b[0m", "\x1b[33m", "\x1b[1;31m"};
    for (size_t i = 0; i < LQ_COUNT_OF(colors); i++) {
        size_t size = strlen(colors[i]);
        if (length >= size && memcmp(text, colors[i], size) == 0) {
            return size;
        }
    }
    return 0;
}

/* Names and values come from files of strangers: what a terminal would obey becomes a '?'. */
void lq_cli_print(const struct lq_buffer *text)
{
    const char *at = lq_buffer_text(text);
    size_t left = text->size_bytes;
    while (left > 0) {
        size_t plain = 0;
        size_t control = 0;
        while (plain < left && (control = lq_text_control(at + plain, left - plain)) == 0) {
            plain++;
        }
        size_t color = color_at(at + plain, left - plain);
        plain += color;
        control = color > 0 ? 0 : control;
        (void)fwrite(at, 1, plain, stdout);
        if (control > 0) {
            (void)fputc('?', stdout);
        }
        at += plain + control;
        left -= plain + control;
    }
}

void lq_cli_print_value(const struct lq_cli *cli, struct lq_buffer *text)
{
    /* Strings in JSON have no line breaks of their own. */
    size_t kept = 0;
    for (size_t i = 0; cli->json && i < text->size_bytes; i++) {
        if (text->data[i] != '\n') {
            text->data[kept++] = text->data[i];
            continue;
        }
        while (i + 1 < text->size_bytes && text->data[i + 1] == ' ') {
            i++;
        }
    }
    if (cli->json) {
        text->size_bytes = kept;
        lq_buffer_append_char(text, '\n');
    }
    lq_cli_print(text);
}

/* What to try when the message itself says nothing. */
static const char *default_suggestion(enum lq_status status)
{
    switch (status) {
    case LQ_EUSAGE:
        return "see 'lqbuild help'";
    case LQ_ENOMEM:
        return "use fewer threads with -j, or a machine with more memory";
    case LQ_EQUALITY:
        return "try --protect-super-weights or a less aggressive level";
    case LQ_ECACHE:
        return "choose another folder with --cache-dir";
    default:
        return NULL;
    }
}

void lq_cli_put_error(struct lq_json_writer *writer, const struct lq_error *err)
{
    const char *suggestion = NULL;
    size_t length = lq_progress_split_suggestion(err->message, &suggestion);
    lq_json_put_string(writer, "status", "error");
    lq_json_put_int(writer, "error_code", lq_status_exit_code(err->status));
    lq_json_put_string(writer, "error_type", lq_status_type(err->status));
    lq_json_key(writer, "message");
    lq_json_string_sized(writer, err->message, length);
    if (suggestion == NULL) {
        suggestion = default_suggestion(err->status);
    }
    if (suggestion != NULL) {
        lq_json_put_string(writer, "suggestion", suggestion);
    }
}

static void show_json(const struct lq_error *err, bool event)
{
    struct lq_buffer out;
    struct lq_json_writer writer;
    lq_buffer_init(&out);
    lq_json_writer_init(&writer, &out, false);
    lq_json_begin_object(&writer);
    if (event) {
        lq_json_put_string(&writer, "event", "error");
    }
    lq_cli_put_error(&writer, err);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&out, '\n');
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

bool lq_cli_prints_json(const struct lq_cli *cli)
{
    const char *format = lq_args_get(&cli->args, "format");
    return cli->json || (format != NULL && strcmp(format, "json") == 0);
}

void lq_cli_show_error(struct lq_cli *cli, const struct lq_error *err)
{
    if (lq_cli_prints_json(cli)) {
        show_json(err, cli->json);
    } else {
        lq_progress_print_message(stderr, cli->color_err, "error",
                                  err->message[0] == '\0' ? lq_status_text(err->status)
                                                          : err->message);
    }
    cli->error_shown = true;
}

void lq_cli_warn(struct lq_cli *cli, const char *message)
{
    if (!cli->json) {
        lq_progress_print_message(stderr, cli->color_err, "warning", message);
        return;
    }
    struct lq_buffer out;
    struct lq_json_writer writer;
    lq_buffer_init(&out);
    lq_json_writer_init(&writer, &out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "event", "warning");
    lq_json_put_string(&writer, "text", message);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&out, '\n');
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

/* Runs the built lqbuild in a scratch folder and looks at what it says. Header only; one test
 * process at a time (Criterion forks for each test). The program is LQ_BINARY_DIR/lqbuild; the
 * model and texts are those in examples/. */
#ifndef LQ_TESTS_E2E_H
#define LQ_TESTS_E2E_H

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/buffer.h"
#include "engine/base/digest.h"
#include "engine/base/fs.h"

static char e2e_folder[64];
static struct lq_buffer e2e_out;
static struct lq_buffer e2e_err;

static void e2e_init(void)
{
    strcpy(e2e_folder, "/tmp/lqbuild-e2e-XXXXXX");
    cr_assert_not_null(mkdtemp(e2e_folder));
    cr_assert_eq(chdir(e2e_folder), 0);
    cr_assert_eq(symlink(LQ_SOURCE_DIR "/examples/tiny-llama", "model"), 0);
    cr_assert_eq(setenv("LQBUILD_CACHE_DIR", "cache", 1), 0);
    cr_assert_eq(setenv("LQBUILD_CONFIG", "", 1), 0);
}

static void e2e_fini(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", e2e_folder);
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(system(command), 0);
}

static LQ_UNUSED void e2e_write(const char *name, const char *format, ...)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    va_list args;
    va_start(args, format);
    vfprintf(stream, format, args);
    va_end(args);
    fclose(stream);
    struct lq_error err;
    cr_assert_eq(lq_file_write(name, text, length, &err), LQ_OK, "%s", err.message);
    free(text);
}

/* The first `size_bytes` bytes of a shipped text, cut at a line end. */
static LQ_UNUSED void e2e_copy_text(const char *from, const char *to, size_t size_bytes)
{
    struct lq_map map;
    struct lq_error err;
    char path[512];
    snprintf(path, sizeof path, "%s/examples/text/%s", LQ_SOURCE_DIR, from);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    size_t length = size_bytes < map.size_bytes ? size_bytes : (size_t)map.size_bytes;
    while (length > 0 && map.data[length - 1] != '\n') {
        length--;
    }
    cr_assert_eq(lq_file_write(to, map.data, length, &err), LQ_OK, "%s", err.message);
    lq_map_close(&map);
}

/* Starts `lqbuild arguments…` (a shell line); output goes to files. */
static pid_t e2e_start(const char *arguments, const char *tag)
{
    char command[4096];
    snprintf(command, sizeof command, "exec '%s/lqbuild' %s >out.%s 2>err.%s </dev/null",
             LQ_BINARY_DIR, arguments, tag, tag);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    return child;
}

/* The exit code, or 128 + the signal's number. */
static int e2e_wait(pid_t child)
{
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void e2e_collect(const char *tag)
{
    struct lq_error err;
    char name[64];
    lq_buffer_clear(&e2e_out);
    lq_buffer_clear(&e2e_err);
    snprintf(name, sizeof name, "out.%s", tag);
    cr_assert_eq(lq_file_read(name, 1 << 26, &e2e_out, &err), LQ_OK, "%s", err.message);
    snprintf(name, sizeof name, "err.%s", tag);
    cr_assert_eq(lq_file_read(name, 1 << 26, &e2e_err, &err), LQ_OK, "%s", err.message);
}

static int e2e_run(const char *format, ...)
{
    char arguments[3072];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    int code = e2e_wait(e2e_start(arguments, "run"));
    e2e_collect("run");
    return code;
}

static LQ_UNUSED const char *e2e_stdout(void)
{
    return lq_buffer_text(&e2e_out);
}

static LQ_UNUSED const char *e2e_stderr(void)
{
    return lq_buffer_text(&e2e_err);
}

/* A number of the last --json line, the summary. */
static LQ_UNUSED double e2e_summary(const char *key)
{
    const char *text = e2e_stdout();
    const char *last = text;
    for (const char *line = text; *line != '\0';) {
        last = line;
        line = strchr(line, '\n');
        cr_assert_not_null(line, "stdout does not end with a newline: %s", text);
        line++;
    }
    cJSON *json = cJSON_Parse(last);
    cr_assert_not_null(json, "last line is no JSON: %s (stderr: %s)", last, e2e_stderr());
    const cJSON *event = cJSON_GetObjectItemCaseSensitive(json, "event");
    cr_assert(cJSON_IsString(event) && strcmp(event->valuestring, "summary") == 0,
              "last line is no summary: %s", last);
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    cr_assert(cJSON_IsNumber(item), "summary has no %s: %s", key, last);
    double value = item->valuedouble;
    cJSON_Delete(json);
    return value;
}

/* How many --json lines have all three in them. */
static LQ_UNUSED unsigned e2e_count_lines(const char *mark, const char *text, const char *more)
{
    unsigned count = 0;
    const char *line = e2e_stdout();
    while (*line != '\0') {
        const char *end = strchr(line, '\n');
        size_t length = end == NULL ? strlen(line) : (size_t)(end - line);
        char *copy = strndup(line, length);
        count +=
            strstr(copy, mark) != NULL && strstr(copy, text) != NULL && strstr(copy, more) != NULL;
        free(copy);
        line += length + (end != NULL);
    }
    return count;
}

/* How many --json lines have the event and the text in them. */
static LQ_UNUSED unsigned e2e_count_events(const char *event, const char *text)
{
    char mark[128];
    snprintf(mark, sizeof mark, "\"event\":\"%s\"", event);
    return e2e_count_lines(mark, text, "");
}

static LQ_UNUSED void e2e_digest(const char *name, char hex[LQ_DIGEST_HEX_BYTES])
{
    struct lq_map map;
    struct lq_error err;
    struct lq_digest digest;
    cr_assert_eq(lq_map_open(&map, name, LQ_EIO, &err), LQ_OK, "%s", err.message);
    lq_digest_of(map.data, (size_t)map.size_bytes, &digest);
    lq_digest_to_hex(&digest, hex);
    lq_map_close(&map);
}

static LQ_UNUSED void e2e_expect_same_file(const char *a, const char *b)
{
    char left[LQ_DIGEST_HEX_BYTES];
    char right[LQ_DIGEST_HEX_BYTES];
    e2e_digest(a, left);
    e2e_digest(b, right);
    cr_expect_str_eq(left, right, "%s and %s differ", a, b);
}

#endif

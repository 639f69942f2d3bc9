/* Keys of this machine, as files in a folder. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/sign.h"
#include "engine/base/fs.h"
#include "engine/base/text.h"

enum { KEY_FILE_BYTES_MAX = 4096 };

static char *key_path(struct lq_arena *arena, const char *dir, const char *name, const char *suffix)
{
    return lq_arena_printf(arena, "%s/%s%s", dir, name, suffix);
}

/* The first line of a file. */
static enum lq_status read_line(const char *path, struct lq_buffer *line, struct lq_error *err)
{
    lq_buffer_init(line);
    enum lq_status status = lq_file_read(path, KEY_FILE_BYTES_MAX, line, err);
    if (status == LQ_OK && line->size_bytes > 0) {
        line->data[strcspn(lq_buffer_text(line), "\r\n")] = '\0';
    }
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names of keys that have a file with the suffix, sorted. */
static enum lq_status list_names(const char *dir, const char *suffix, struct lq_arena *arena,
                                 const char ***out, size_t *count, struct lq_error *err)
{
    enum { KEYS_MAX = 4096 };
    *count = 0;
    *out = lq_arena_get_array(arena, KEYS_MAX, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "the keys");
    }
    DIR *folder = opendir(dir);
    if (folder == NULL) {
        return errno == ENOENT ? LQ_OK : lq_error_errno(err, LQ_EIO, "%s: cannot list keys", dir);
    }
    for (struct dirent *entry = readdir(folder); entry != NULL && *count < KEYS_MAX;
         entry = readdir(folder)) {
        size_t length = strlen(entry->d_name);
        size_t tail = strlen(suffix);
        if (length <= tail || !lq_text_ends_with(entry->d_name, suffix) ||
            !lq_key_name_is_valid(entry->d_name, length - tail)) {
            continue;
        }
        char *name = lq_arena_dup(arena, entry->d_name, length - tail);
        if (name != NULL) {
            (*out)[(*count)++] = name;
        }
    }
    (void)closedir(folder);
    if (*count > 1) {
        qsort(*out, *count, sizeof **out, by_name);
    }
    return LQ_OK;
}

/* A file of one key must be called like the key: the name in it is what signatures carry. */
static enum lq_status load_public(const char *path, const char *name, struct lq_public_key *key,
                                  struct lq_error *err)
{
    struct lq_buffer line;
    enum lq_status status = read_line(path, &line, err);
    if (status == LQ_OK) {
        status = lq_public_key_parse(lq_buffer_text(&line), key, err);
        if (status == LQ_OK && strcmp(key->name, name) != 0) {
            status = lq_error_set(err, LQ_EUSAGE, "the key calls itself '%s'", key->name);
        }
        if (status != LQ_OK) {
            (void)lq_error_prefix(err, "%s", path);
            status = LQ_EFORMAT;
            if (err != NULL) {
                err->status = status;
            }
        }
    }
    lq_buffer_fini(&line);
    return status;
}

enum lq_status lq_keyring_load(struct lq_keyring *ring, const char *dir, struct lq_arena *arena,
                               struct lq_error *err)
{
    const char **names = NULL;
    size_t count = 0;
    enum lq_status status = list_names(dir, ".public", arena, &names, &count, err);
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        struct lq_public_key key;
        const char *path = key_path(arena, dir, names[i], ".public");
        status =
            path == NULL ? lq_error_nomem(err, "a key") : load_public(path, names[i], &key, err);
        if (status == LQ_OK) {
            status = lq_keyring_add(ring, &key, arena, err);
        }
    }
    return status;
}

static enum lq_status write_secret(const char *path, const struct lq_secret_key *key,
                                   struct lq_error *err)
{
    uint8_t bytes[2 * LQ_KEY_BYTES];
    char text[LQ_KEY_TEXT_BYTES + 2];
    memcpy(bytes, key->seed, LQ_KEY_BYTES);
    memcpy(bytes + LQ_KEY_BYTES, key->public_key.bytes, LQ_KEY_BYTES);
    size_t length = strlen(key->public_key.name);
    memcpy(text, key->public_key.name, length);
    text[length] = ':';
    lq_base64_encode(bytes, sizeof bytes, text + length + 1);
    strcat(text, "\n");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno == EEXIST ? lq_error_set(err, LQ_EUSAGE,
                                              "%s: there is a key of that name already; "
                                              "choose another name",
                                              path)
                               : lq_error_errno(err, LQ_EIO, "%s: cannot create", path);
    }
    length = strlen(text);
    bool wrote = write(fd, text, length) == (ssize_t)length && fsync(fd) == 0;
    enum lq_status status = wrote ? LQ_OK : lq_error_errno(err, LQ_EIO, "%s: cannot write", path);
    (void)close(fd);
    if (status != LQ_OK) {
        (void)unlink(path);
    }
    return status;
}

static enum lq_status write_public(const char *path, const struct lq_public_key *key,
                                   struct lq_error *err)
{
    char text[LQ_KEY_TEXT_BYTES + 2];
    lq_public_key_text(key, text);
    strcat(text, "\n");
    return lq_file_write(path, text, strlen(text), err);
}

enum lq_status lq_key_create(const char *dir, const char *name, struct lq_secret_key *out,
                             struct lq_error *err)
{
    struct lq_arena arena;
    enum lq_status status = lq_key_generate(name, out, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_arena_init(&arena);
    const char *secret = key_path(&arena, dir, name, ".secret");
    const char *public = key_path(&arena, dir, name, ".public");
    status =
        secret == NULL || public == NULL ? lq_error_nomem(err, "a key") : lq_make_dirs(dir, err);
    if (status == LQ_OK && lq_path_exists(public)) {
        status = lq_error_set(
            err, LQ_EUSAGE, "%s: there is a key of that name already; choose another name", public);
    }
    if (status == LQ_OK) {
        status = write_secret(secret, out, err);
    }
    if (status == LQ_OK) {
        status = write_public(public, &out->public_key, err);
        if (status != LQ_OK) {
            (void)unlink(secret);
        }
    }
    lq_arena_fini(&arena);
    return status;
}

enum lq_status lq_key_trust(const char *dir, const struct lq_public_key *key, struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_public_key old;
    lq_arena_init(&arena);
    const char *path = key_path(&arena, dir, key->name, ".public");
    enum lq_status status = path == NULL ? lq_error_nomem(err, "a key") : lq_make_dirs(dir, err);
    if (status == LQ_OK && lq_path_exists(path)) {
        status = load_public(path, key->name, &old, err);
        if (status == LQ_OK && memcmp(old.bytes, key->bytes, LQ_KEY_BYTES) != 0) {
            status = lq_error_set(err, LQ_EUSAGE,
                                  "%s: another key of that name is trusted already; remove the "
                                  "file if the new one is right",
                                  path);
        }
    } else if (status == LQ_OK) {
        status = write_public(path, key, err);
    }
    lq_arena_fini(&arena);
    return status;
}

bool lq_key_has_secret(const char *dir, const char *name)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    const char *path = key_path(&arena, dir, name, ".secret");
    bool has = path != NULL && lq_path_exists(path);
    lq_arena_fini(&arena);
    return has;
}

static enum lq_status load_secret(const char *path, const char *name, struct lq_secret_key *out,
                                  struct lq_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot read", path);
    }
    if ((st.st_mode & 077) != 0) {
        return lq_error_set(err, LQ_EUSAGE, "%s: others may read the secret key; run 'chmod 600'",
                            path);
    }
    struct lq_buffer line;
    enum lq_status status = read_line(path, &line, err);
    if (status == LQ_OK) {
        status = lq_secret_key_parse(lq_buffer_text(&line), out, err);
        if (status == LQ_OK && strcmp(out->public_key.name, name) != 0) {
            status =
                lq_error_set(err, LQ_EUSAGE, "the key calls itself '%s'", out->public_key.name);
        }
        if (status != LQ_OK) {
            (void)lq_error_prefix(err, "%s", path);
        }
    }
    lq_buffer_fini(&line);
    return status;
}

enum lq_status lq_key_find(const char *dir, const char *name, struct lq_secret_key *out,
                           bool *found, struct lq_error *err)
{
    struct lq_arena arena;
    const char **names = NULL;
    size_t count = 0;
    *found = false;
    lq_arena_init(&arena);
    enum lq_status status = list_names(dir, ".secret", &arena, &names, &count, err);
    if (status == LQ_OK && name == NULL && count > 1) {
        status = lq_error_set(err, LQ_EUSAGE,
                              "%s: there are %zu keys to sign with; choose one with 'sign_with' in "
                              "[trust] of the configuration",
                              dir, count);
    }
    for (size_t i = 0; i < count && status == LQ_OK && !*found; i++) {
        if (name == NULL || strcmp(names[i], name) == 0) {
            const char *path = key_path(&arena, dir, names[i], ".secret");
            status =
                path == NULL ? lq_error_nomem(err, "a key") : load_secret(path, names[i], out, err);
            *found = status == LQ_OK;
        }
    }
    if (status == LQ_OK && name != NULL && !*found) {
        status =
            lq_error_set(err, LQ_EUSAGE, "%s: there is no secret key '%s' to sign with", dir, name);
    }
    lq_arena_fini(&arena);
    return status;
}

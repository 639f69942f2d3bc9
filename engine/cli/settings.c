#include "engine/cli/settings.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/base/toml.h"

/* ---- the keys ---- */

enum setting_kind {
    SETTING_TEXT,
    SETTING_PATH, /* relative to the file's folder; "~/" is the home folder */
    SETTING_SIZE, /* bytes, or "50 GB" */
    SETTING_COUNT,
    SETTING_FLAG,
    SETTING_WORDS, /* appended to what is there */
};

struct setting {
    const char *table;
    const char *key;
    enum setting_kind kind;
    size_t offset;
    size_t count_offset; /* WORDS */
    uint64_t min;        /* COUNT */
    uint64_t max;
    const char *choices; /* TEXT; NULL: anything */
};

#define AT(member) offsetof(struct lq_settings, member)
#define REMOTE_AT(member) offsetof(struct lq_remote_settings, member)

static const struct setting general[] = {
    {"cache", "dir", SETTING_PATH, AT(cache_dir), 0, 0, 0, NULL},
    {"cache", "max_size", SETTING_SIZE, AT(cache_max_bytes), 0, 0, 0, NULL},
    {"build", "jobs", SETTING_COUNT, AT(jobs), 0, 1, LQ_THREADS_MAX, NULL},
    {"build", "device", SETTING_TEXT, AT(device), 0, 0, 0, NULL},
    {"trust", "keys", SETTING_WORDS, AT(trusted_keys), AT(trusted_key_count), 0, 0, NULL},
    {"trust", "sign_with", SETTING_TEXT, AT(sign_key), 0, 0, 0, NULL},
    {"trust", "unsigned", SETTING_FLAG, AT(trust_unsigned), 0, 0, 0, NULL},
};

static const struct setting of_remote[] = {
    {"remote", "url", SETTING_TEXT, REMOTE_AT(url), 0, 0, 0, NULL},
    {"remote", "mode", SETTING_TEXT, REMOTE_AT(mode), 0, 0, 0, "read read-write"},
    {"remote", "token_file", SETTING_PATH, REMOTE_AT(token_file), 0, 0, 0, NULL},
    {"remote", "ca_file", SETTING_PATH, REMOTE_AT(ca_file), 0, 0, 0, NULL},
    {"remote", "token_env", SETTING_TEXT, REMOTE_AT(token_env), 0, 0, 0, NULL},
    {"remote", "trusted_keys", SETTING_WORDS, REMOTE_AT(trusted_keys), REMOTE_AT(trusted_key_count),
     0, 0, NULL},
    {"remote", "trust_unsigned", SETTING_FLAG, REMOTE_AT(trust_unsigned), 0, 0, 0, NULL},
    {"remote", "timeout", SETTING_COUNT, REMOTE_AT(timeout_seconds), 0, 1, 3600, NULL},
    {"remote", "connections", SETTING_COUNT, REMOTE_AT(connections), 0, 1, 64, NULL},
    {"remote", "compression", SETTING_TEXT, REMOTE_AT(compression), 0, 0, 0, "auto zstd none"},
};

static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = words; *at != '\0';) {
        size_t span = strcspn(at, " ");
        if (span == length && memcmp(at, word, length) == 0) {
            return true;
        }
        at += span;
        at += *at == ' ';
    }
    return false;
}

/* ---- one value ---- */

struct target {
    const char *where;
    const char *dir;
    struct lq_arena *arena;
    struct lq_error *err;
};

static enum lq_status wrong_type(const struct target *target, const struct lq_toml_item *item,
                                 const char *expected)
{
    return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: '%s' expects %s, got a%s %s", target->where,
                        item->line, item->key, expected,
                        item->type == LQ_TOML_INT || item->type == LQ_TOML_LIST ? "n" : "",
                        lq_toml_type_name(item->type));
}

static enum lq_status set_text(const struct target *target, const struct setting *setting,
                               const struct lq_toml_item *item, const char **out)
{
    if (item->type != LQ_TOML_STRING) {
        return wrong_type(target, item, "a string");
    }
    if (item->string[0] == '\0') {
        return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: '%s' is empty", target->where,
                            item->line, item->key);
    }
    if (setting->choices != NULL && !has_word(setting->choices, item->string)) {
        return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: '%s' expects one of: %s; got '%s'",
                            target->where, item->line, item->key, setting->choices, item->string);
    }
    *out = item->string;
    if (setting->kind != SETTING_PATH) {
        return LQ_OK;
    }
    const char *home = getenv("HOME");
    bool in_home = lq_text_starts_with(item->string, "~/") && home != NULL && home[0] == '/';
    *out = in_home ? lq_path_join(target->arena, home, item->string + 2)
                   : lq_path_join(target->arena, target->dir, item->string);
    return *out == NULL ? lq_error_nomem(target->err, target->where) : LQ_OK;
}

static enum lq_status set_number(const struct target *target, const struct setting *setting,
                                 const struct lq_toml_item *item, uint64_t *out)
{
    if (setting->kind == SETTING_SIZE && item->type == LQ_TOML_STRING) {
        if (!lq_text_size_parse(item->string, out)) {
            return lq_error_set(target->err, LQ_EUSAGE,
                                "%s:%u: '%s' expects a size such as \"50 GB\", got '%s'",
                                target->where, item->line, item->key, item->string);
        }
        return LQ_OK;
    }
    if (item->type != LQ_TOML_INT) {
        return wrong_type(target, item,
                          setting->kind == SETTING_SIZE ? "a size such as \"50 GB\""
                                                        : "an integer");
    }
    uint64_t max = setting->kind == SETTING_SIZE ? INT64_MAX : setting->max;
    if (item->integer < (int64_t)setting->min || (uint64_t)item->integer > max) {
        return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: '%s' expects %llu to %llu, got %lld",
                            target->where, item->line, item->key, (unsigned long long)setting->min,
                            (unsigned long long)max, (long long)item->integer);
    }
    *out = (uint64_t)item->integer;
    return LQ_OK;
}

static enum lq_status add_words(const struct target *target, const struct lq_toml_item *item,
                                const char ***out, size_t *count)
{
    if (item->type != LQ_TOML_LIST) {
        return wrong_type(target, item, "an array of strings");
    }
    const char **grown =
        lq_arena_get_array(target->arena, *count + item->string_count + 1, sizeof *grown);
    if (grown == NULL) {
        return lq_error_nomem(target->err, target->where);
    }
    if (*count > 0) {
        memcpy(grown, *out, *count * sizeof *grown);
    }
    if (item->string_count > 0) {
        memcpy(grown + *count, item->strings, item->string_count * sizeof *grown);
    }
    *out = grown;
    *count += item->string_count;
    return LQ_OK;
}

static enum lq_status set_value(const struct target *target, const struct setting *setting,
                                const struct lq_toml_item *item, void *base)
{
    unsigned char *bytes = base;
    void *place = bytes + setting->offset;
    switch (setting->kind) {
    case SETTING_TEXT:
    case SETTING_PATH:
        return set_text(target, setting, item, place);
    case SETTING_SIZE:
    case SETTING_COUNT:
        return set_number(target, setting, item, place);
    case SETTING_FLAG:
        if (item->type != LQ_TOML_BOOL) {
            return wrong_type(target, item, "true or false");
        }
        *(bool *)place = item->boolean;
        return LQ_OK;
    case SETTING_WORDS:
        return add_words(target, item, place, (void *)(bytes + setting->count_offset));
    }
    return LQ_OK;
}

/* ---- files ---- */

static enum lq_status unknown(const struct target *target, unsigned line, const char *what,
                              const char *name, const char *const *known, size_t count)
{
    const char *nearest = lq_text_nearest(name, known, count);
    return nearest != NULL
               ? lq_error_set(target->err, LQ_EUSAGE, "%s:%u: unknown %s '%s'; did you mean '%s'?",
                              target->where, line, what, name, nearest)
               : lq_error_set(target->err, LQ_EUSAGE,
                              "%s:%u: unknown %s '%s'; docs/configuration.md lists them",
                              target->where, line, what, name);
}

static enum lq_status apply_item(const struct target *target, const struct setting *rows,
                                 size_t row_count, const char *table,
                                 const struct lq_toml_item *item, void *base)
{
    const char *known[32];
    size_t known_count = 0;
    for (size_t i = 0; i < row_count; i++) {
        if (strcmp(rows[i].table, table) != 0) {
            continue;
        }
        if (strcmp(rows[i].key, item->key) == 0) {
            return set_value(target, &rows[i], item, base);
        }
        known[known_count++] = rows[i].key;
    }
    return unknown(target, item->line, "key", item->key, known, known_count);
}

static bool is_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= 64 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") ==
               length;
}

static const struct lq_remote_settings new_remote = {
    .mode = "read-write",
    .compression = "auto",
    .timeout_seconds = 20,
    .connections = 8,
};

/* The remote of a table. One that an earlier file has configured starts anew when the table gives
 * a URL: credentials must not go to a server that they were not meant for. */
static enum lq_status find_remote(struct lq_settings *settings, const struct target *target,
                                  const struct lq_toml_table *table, bool has_url,
                                  struct lq_remote_settings **out)
{
    const char *name = table->parts[1];
    if (name == NULL || !is_name(name)) {
        return lq_error_set(target->err, LQ_EUSAGE,
                            "%s:%u: a remote needs a name of letters, digits, '_', '-' and '.': "
                            "[remote.NAME]",
                            target->where, table->line);
    }
    struct lq_remote_settings *found = NULL;
    for (size_t i = 0; i < settings->remote_count; i++) {
        if (strcmp(settings->remotes[i].name, name) == 0) {
            found = &settings->remotes[i];
        }
    }
    if (found == NULL && !has_url) {
        return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: remote '%s' has no url", target->where,
                            table->line, name);
    }
    if (found == NULL) {
        if (settings->remote_count == LQ_REMOTES_MAX) {
            return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: more than %d remotes",
                                target->where, table->line, LQ_REMOTES_MAX);
        }
        found = &settings->remotes[settings->remote_count++];
        *found = new_remote;
    } else if (has_url) {
        *found = new_remote;
    }
    found->name = name;
    *out = found;
    return LQ_OK;
}

static bool is_general_table(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(general); i++) {
        if (strcmp(general[i].table, name) == 0) {
            return true;
        }
    }
    return false;
}

static enum lq_status apply_table(struct lq_settings *settings, const struct target *target,
                                  const struct lq_toml *toml, size_t index)
{
    static const char *const known[] = {"cache", "build", "trust", "remote"};
    const struct lq_toml_table *table = &toml->tables[index];
    const struct setting *rows = general;
    size_t row_count = LQ_COUNT_OF(general);
    void *base = settings;
    bool has_url = false;
    bool is_remote = strcmp(table->parts[0], "remote") == 0;
    bool has_items = false;
    for (size_t i = 0; i < toml->item_count; i++) {
        const struct lq_toml_item *item = &toml->items[i];
        has_items = has_items || item->table == index;
        has_url = has_url || (item->table == index && strcmp(item->key, "url") == 0);
    }
    if (index == 0 && !has_items) {
        return LQ_OK;
    }
    if (index == 0) {
        return lq_error_set(target->err, LQ_EUSAGE, "%s:%u: a key stands before the first [table]",
                            target->where, toml->items[0].line);
    }
    bool is_general = is_general_table(table->parts[0]);
    if (!is_remote && (!is_general || table->parts[1] != NULL)) {
        return unknown(target, table->line, "table", table->parts[is_general ? 1 : 0], known,
                       LQ_COUNT_OF(known));
    }
    enum lq_status status = LQ_OK;
    if (is_remote) {
        struct lq_remote_settings *remote = NULL;
        status = find_remote(settings, target, table, has_url, &remote);
        rows = of_remote;
        row_count = LQ_COUNT_OF(of_remote);
        base = remote;
    }
    for (size_t i = 0; i < toml->item_count && status == LQ_OK; i++) {
        if (toml->items[i].table == index) {
            status = apply_item(target, rows, row_count, table->parts[0], &toml->items[i], base);
        }
    }
    return status;
}

enum lq_status lq_settings_apply(struct lq_settings *settings, const void *text, size_t size_bytes,
                                 const char *where, const char *dir, struct lq_arena *arena,
                                 struct lq_error *err)
{
    struct lq_toml toml;
    struct target target = {.where = where, .dir = dir, .arena = arena, .err = err};
    enum lq_status status = lq_toml_parse(text, size_bytes, where, arena, &toml, err);
    for (size_t i = 0; status == LQ_OK && i < toml.table_count; i++) {
        status = apply_table(settings, &target, &toml, i);
    }
    return status;
}

/* A file that may be missing. */
static enum lq_status apply_file(struct lq_settings *settings, const char *path, bool required,
                                 struct lq_arena *arena, struct lq_error *err)
{
    if (!required && !lq_path_exists(path)) {
        return LQ_OK;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_file_read(path, LQ_CONFIG_BYTES_MAX, &text, err);
    char *dir = lq_path_dir(arena, path);
    if (status == LQ_OK && dir == NULL) {
        status = lq_error_nomem(err, path);
    }
    if (status == LQ_OK) {
        status = lq_settings_apply(settings, lq_buffer_text(&text), text.size_bytes, path, dir,
                                   arena, err);
    }
    lq_buffer_fini(&text);
    return status;
}

/* ---- environment and options ---- */

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value == NULL || value[0] == '\0' ? NULL : value;
}

enum lq_status lq_settings_config_dir(struct lq_arena *arena, const char **out,
                                      struct lq_error *err)
{
    const char *base = variable("XDG_CONFIG_HOME");
    const char *home = variable("HOME");
    *out = NULL;
    if (base != NULL && base[0] == '/') {
        *out = lq_path_join(arena, base, "lqbuild");
    } else if (home != NULL && home[0] == '/') {
        *out = lq_path_join(arena, home, ".config/lqbuild");
    } else {
        return LQ_OK;
    }
    return *out == NULL ? lq_error_nomem(err, "the configuration") : LQ_OK;
}

static enum lq_status apply_environment(struct lq_settings *settings, struct lq_arena *arena,
                                        struct lq_error *err)
{
    const char *max_size = variable("LQBUILD_CACHE_MAX_SIZE");
    if (max_size != NULL && !lq_text_size_parse(max_size, &settings->cache_max_bytes)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "LQBUILD_CACHE_MAX_SIZE expects a size such as '50 GB', got '%s'",
                            max_size);
    }
    const char *jobs = variable("LQBUILD_JOBS");
    if (jobs != NULL) {
        char *end = NULL;
        unsigned long long count = strtoull(jobs, &end, 10);
        if (*end != '\0' || jobs[0] == '-' || count < 1 || count > LQ_THREADS_MAX) {
            return lq_error_set(err, LQ_EUSAGE, "LQBUILD_JOBS expects 1 to %d, got '%s'",
                                (int)LQ_THREADS_MAX, jobs);
        }
        settings->jobs = count;
    }
    if (variable("LQBUILD_DEVICE") != NULL) {
        settings->device = variable("LQBUILD_DEVICE");
    }
    if (variable("LQBUILD_CACHE_DIR") != NULL) {
        settings->cache_dir = NULL; /* lq_cache_default_dir looks at it */
    }
    if (variable("LQBUILD_REMOTE") == NULL) {
        return LQ_OK;
    }
    struct lq_settings_choice choice = {.count = 0};
    enum lq_status status =
        lq_settings_choose(settings, &choice, variable("LQBUILD_REMOTE"), arena, err);
    if (status != LQ_OK) {
        return lq_error_prefix(err, "LQBUILD_REMOTE");
    }
    memcpy(settings->remotes, choice.remotes, sizeof choice.remotes);
    settings->remote_count = choice.count;
    return LQ_OK;
}

enum lq_status lq_settings_choose(const struct lq_settings *settings,
                                  struct lq_settings_choice *choice, const char *word,
                                  struct lq_arena *arena, struct lq_error *err)
{
    const char *names[LQ_REMOTES_MAX];
    if (choice->count == LQ_REMOTES_MAX) {
        return lq_error_set(err, LQ_EUSAGE, "more than %d remotes", LQ_REMOTES_MAX);
    }
    for (size_t i = 0; i < settings->remote_count; i++) {
        names[i] = settings->remotes[i].name;
        if (strcmp(names[i], word) == 0) {
            choice->remotes[choice->count++] = settings->remotes[i];
            return LQ_OK;
        }
    }
    if (strstr(word, "://") == NULL) {
        const char *nearest = lq_text_nearest(word, names, settings->remote_count);
        return lq_error_set(err, LQ_EUSAGE,
                            "no remote is named '%s'%s%s%s; give the name of a configured one, or "
                            "a URL that begins with https:// or http://",
                            word, nearest == NULL ? "" : "; did you mean '",
                            nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
    }
    struct lq_remote_settings *remote = &choice->remotes[choice->count++];
    *remote = new_remote;
    remote->name = lq_arena_printf(arena, "remote %zu", choice->count);
    remote->url = lq_arena_dup_string(arena, word);
    remote->token_env = "LQBUILD_REMOTE_TOKEN";
    return remote->name == NULL || remote->url == NULL ? lq_error_nomem(err, "a remote") : LQ_OK;
}

enum lq_status lq_settings_load(struct lq_settings *settings, const char *project_dir,
                                struct lq_arena *arena, struct lq_error *err)
{
    *settings = (struct lq_settings){.cache_dir = NULL};
    enum lq_status status = lq_settings_config_dir(arena, &settings->config_dir, err);
    const char *named = getenv("LQBUILD_CONFIG");
    if (status == LQ_OK && named != NULL) {
        /* Empty: no user's file at all. */
        status = named[0] == '\0' ? LQ_OK : apply_file(settings, named, true, arena, err);
    } else if (status == LQ_OK && settings->config_dir != NULL) {
        char *path = lq_path_join(arena, settings->config_dir, "config.toml");
        status = path == NULL ? lq_error_nomem(err, "the configuration")
                              : apply_file(settings, path, false, arena, err);
    }
    if (status == LQ_OK) {
        char *path = lq_path_join(arena, project_dir, "lqbuild.toml");
        status = path == NULL ? lq_error_nomem(err, "the configuration")
                              : apply_file(settings, path, false, arena, err);
    }
    return status == LQ_OK ? apply_environment(settings, arena, err) : status;
}

/* From settings to opened remotes: keys, tokens, sites. */
#include "engine/cli/remote_session.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"

enum { TOKEN_BYTES_MAX = 64 * 1024 };

enum lq_status lq_cli_key_dir(struct lq_cli *cli, const char **out, struct lq_error *err)
{
    const char *config = NULL;
    enum lq_status status = lq_settings_config_dir(&cli->arena, &config, err);
    *out = NULL;
    if (status != LQ_OK) {
        return status;
    }
    if (config == NULL) {
        return lq_error_set(err, LQ_EUSAGE, "keys need a home: set HOME or XDG_CONFIG_HOME");
    }
    *out = lq_path_join(&cli->arena, config, "keys");
    return *out == NULL ? lq_error_nomem(err, "the keys") : LQ_OK;
}

static enum lq_status add_texts(struct lq_cli *cli, struct lq_keyring *ring, const char **texts,
                                size_t count, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < count && status == LQ_OK; i++) {
        struct lq_public_key key;
        status = lq_public_key_parse(texts[i], &key, err);
        if (status == LQ_OK) {
            status = lq_keyring_add(ring, &key, &cli->arena, err);
        } else {
            (void)lq_error_prefix(err, "a trusted key of the configuration");
        }
    }
    return status;
}

enum lq_status lq_cli_sign_key(struct lq_cli *cli, struct lq_secret_key *key, bool *found,
                               struct lq_error *err)
{
    const char *given = getenv("LQBUILD_SECRET_KEY");
    const char *dir = NULL;
    *found = false;
    if (given != NULL && given[0] != '\0') {
        enum lq_status status = lq_secret_key_parse(given, key, err);
        *found = status == LQ_OK;
        return status == LQ_OK ? LQ_OK : lq_error_prefix(err, "LQBUILD_SECRET_KEY");
    }
    enum lq_status status = LQ_OK;
    if (cli->settings.config_dir != NULL) {
        status = lq_cli_key_dir(cli, &dir, err);
    }
    return status == LQ_OK && dir != NULL
               ? lq_key_find(dir, cli->settings.sign_key, key, found, err)
               : status;
}

enum lq_status lq_cli_keyring(struct lq_cli *cli, struct lq_keyring *ring, struct lq_error *err)
{
    const char *dir = NULL;
    *ring = (struct lq_keyring){.keys = NULL};
    enum lq_status status =
        add_texts(cli, ring, cli->settings.trusted_keys, cli->settings.trusted_key_count, err);
    if (status == LQ_OK && cli->settings.config_dir != NULL) {
        status = lq_cli_key_dir(cli, &dir, err);
        if (status == LQ_OK) {
            status = lq_keyring_load(ring, dir, &cli->arena, err);
        }
    }
    const char *given = getenv("LQBUILD_SECRET_KEY");
    if (status == LQ_OK && given != NULL && given[0] != '\0') {
        /* What this process signs it also believes. */
        struct lq_secret_key own;
        status = lq_secret_key_parse(given, &own, err);
        status = status == LQ_OK ? lq_keyring_add(ring, &own.public_key, &cli->arena, err)
                                 : lq_error_prefix(err, "LQBUILD_SECRET_KEY");
    }
    return status;
}

/* ---- tokens ---- */

static enum lq_status check_token(const char *token, const char *where, struct lq_error *err)
{
    for (const char *c = token; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f) {
            return lq_error_set(err, LQ_EUSAGE,
                                "%s: the token has a blank or a character that cannot be in one",
                                where);
        }
    }
    return LQ_OK;
}

static enum lq_status find_token(struct lq_cli *cli, const struct lq_remote_settings *settings,
                                 const char **out, struct lq_error *err)
{
    *out = NULL;
    if (settings->token_env != NULL) {
        const char *value = getenv(settings->token_env);
        *out = value == NULL || value[0] == '\0' ? NULL : value;
        return *out == NULL ? LQ_OK : check_token(*out, settings->token_env, err);
    }
    if (settings->token_file == NULL) {
        return LQ_OK;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_file_read(settings->token_file, TOKEN_BYTES_MAX, &text, err);
    if (status == LQ_OK) {
        size_t length = strcspn(lq_buffer_text(&text), "\r\n");
        *out = lq_arena_dup(&cli->arena, lq_buffer_text(&text), length);
        status = *out == NULL ? lq_error_nomem(err, "a token")
                              : check_token(*out, settings->token_file, err);
    }
    lq_buffer_fini(&text);
    return status;
}

/* ---- sites ---- */

static enum lq_status make_site(struct lq_cli *cli, const struct lq_remote_settings *settings,
                                const struct lq_keyring *ring, struct lq_remote_site *site,
                                struct lq_error *err)
{
    *site = (struct lq_remote_site){
        .name = settings->name,
        .url = settings->url,
        .ca_file = settings->ca_file,
        .writes = strcmp(settings->mode, "read-write") == 0,
        .trust_unsigned = settings->trust_unsigned || cli->settings.trust_unsigned,
        .timeout_seconds = (unsigned)settings->timeout_seconds,
        .connections = (unsigned)settings->connections,
    };
    site->compression = strcmp(settings->compression, "zstd") == 0   ? LQ_COMPRESS_ZSTD
                        : strcmp(settings->compression, "none") == 0 ? LQ_COMPRESS_NONE
                                                                     : LQ_COMPRESS_AUTO;
    enum lq_status status = find_token(cli, settings, &site->token, err);
    for (size_t i = 0; i < ring->count && status == LQ_OK; i++) {
        status = lq_keyring_add(&site->keyring, &ring->keys[i], &cli->arena, err);
    }
    return status == LQ_OK ? add_texts(cli, &site->keyring, settings->trusted_keys,
                                       settings->trusted_key_count, err)
                           : status;
}

static void warn_remote(void *user, const char *message)
{
    lq_cli_warn(user, message);
}

enum lq_status lq_cli_open_remote(struct lq_cli *cli, atomic_bool *cancel, struct lq_remote **out,
                                  struct lq_error *err)
{
    const struct lq_settings *settings = &cli->settings;
    struct lq_remote_site *sites =
        lq_arena_get_array(&cli->arena, settings->remote_count + 1, sizeof *sites);
    struct lq_secret_key *key = lq_arena_get(&cli->arena, sizeof *key);
    struct lq_keyring ring;
    bool found = false;
    bool writes = false;
    *out = NULL;
    if (settings->remote_count == 0) {
        return LQ_OK;
    }
    if (sites == NULL || key == NULL) {
        return lq_error_nomem(err, "the remotes");
    }
    enum lq_status status = lq_cli_keyring(cli, &ring, err);
    for (size_t i = 0; i < settings->remote_count && status == LQ_OK; i++) {
        status = make_site(cli, &settings->remotes[i], &ring, &sites[i], err);
        writes = writes || sites[i].writes;
    }
    if (status == LQ_OK && writes) {
        status = lq_cli_sign_key(cli, key, &found, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_remote_options options = {
        .cache = cli->cache,
        .sites = sites,
        .site_count = settings->remote_count,
        .sign_key = found ? key : NULL,
        .cancel = cancel,
        .warn = warn_remote,
        .warn_user = cli,
    };
    return lq_remote_open(out, &options, err);
}

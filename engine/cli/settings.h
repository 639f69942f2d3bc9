/* Settings: what the user and the project configured. Four layers, the later ones win: the user's
 * file ($XDG_CONFIG_HOME/lqbuild/config.toml, or LQBUILD_CONFIG), the project's file (lqbuild.toml
 * beside the recipe), environment variables, options of the command line. docs/configuration.md
 * lists every key; an unknown one is an error that names file and line. Everything lives in the
 * arena that is passed in. Thread rule: one thread. Limits: LQ_REMOTES_MAX, engine/base/toml.h. */
#ifndef LQ_ENGINE_CLI_SETTINGS_H
#define LQ_ENGINE_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/limits.h"

struct lq_remote_settings {
    const char *name; /* "team", or the URL itself for one of the command line */
    const char *url;
    const char *mode;       /* "read", "read-write" */
    const char *token_file; /* bearer token: the first line of a file, or a variable */
    const char *token_env;
    const char *ca_file;     /* PEM: who may vouch for the server; NULL: the system's list */
    const char *compression; /* "auto", "zstd", "none": of uploads */
    const char **trusted_keys;
    size_t trusted_key_count;
    bool trust_unsigned;
    uint64_t timeout_seconds; /* without progress */
    uint64_t connections;
};

struct lq_settings {
    const char *cache_dir;     /* NULL: the default */
    uint64_t cache_max_bytes;  /* 0: no budget */
    uint64_t jobs;             /* 0: all CPUs */
    const char *device;        /* as --device; NULL: not said */
    const char *sign_key;      /* name of the key that signs; NULL: the only one there is */
    const char **trusted_keys; /* "NAME:BASE64" */
    size_t trusted_key_count;
    bool trust_unsigned;
    struct lq_remote_settings remotes[LQ_REMOTES_MAX]; /* in the order in which they are asked */
    size_t remote_count;
    const char *config_dir; /* folder of the user's file and keys; NULL without HOME */
};

/* $XDG_CONFIG_HOME/lqbuild, else $HOME/.config/lqbuild; *out NULL when neither is set. */
enum lq_status lq_settings_config_dir(struct lq_arena *arena, const char **out,
                                      struct lq_error *err);
/* Defaults, then the two files, then the environment. `project_dir` is the recipe's folder. */
enum lq_status lq_settings_load(struct lq_settings *settings, const char *project_dir,
                                struct lq_arena *arena, struct lq_error *err);
/* One file's text on top of what is there; `dir` is what relative paths are relative to. */
enum lq_status lq_settings_apply(struct lq_settings *settings, const void *text, size_t size_bytes,
                                 const char *where, const char *dir, struct lq_arena *arena,
                                 struct lq_error *err);
/* --remote: the name of a configured remote, or a URL. The first call replaces the configured
 * remotes with the one named. */
struct lq_settings_choice {
    struct lq_remote_settings remotes[LQ_REMOTES_MAX];
    size_t count;
};
enum lq_status lq_settings_choose(const struct lq_settings *settings,
                                  struct lq_settings_choice *choice, const char *word,
                                  struct lq_arena *arena, struct lq_error *err);

#endif

/* Reads every #include "..." of the tree and refuses arrows that docs/ARCHITECTURE.md does not
 * draw: main and the command line may use everything; rules use the rule contract, base and the
 * kernels' public headers; the engine uses base and the cache's header; the cache uses base;
 * kernels use nothing but themselves; base uses nothing. */
#define _XOPEN_SOURCE 700
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum group { GROUP_TOP, GROUP_BASE, GROUP_CORE, GROUP_CACHE, GROUP_KERNELS, GROUP_RULES };

static bool starts(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static enum group group_of(const char *path)
{
    if (starts(path, "engine/base/")) {
        return GROUP_BASE;
    }
    if (starts(path, "engine/cli/") || starts(path, "engine/progress") ||
        strcmp(path, "engine/main.c") == 0) {
        return GROUP_TOP;
    }
    if (starts(path, "cache/")) {
        return GROUP_CACHE;
    }
    if (starts(path, "kernels/")) {
        return GROUP_KERNELS;
    }
    return starts(path, "rules/") ? GROUP_RULES : GROUP_CORE;
}

static bool is_allowed(const char *from, const char *to)
{
    enum group target = group_of(to);
    switch (group_of(from)) {
    case GROUP_TOP:
        return true;
    case GROUP_BASE:
        return target == GROUP_BASE;
    case GROUP_CORE:
        return target == GROUP_CORE || target == GROUP_BASE || strcmp(to, "cache/cache.h") == 0 ||
               strcmp(to, "cache/remote.h") == 0;
    case GROUP_CACHE:
        return target == GROUP_CACHE || target == GROUP_BASE;
    case GROUP_KERNELS:
        return target == GROUP_KERNELS;
    case GROUP_RULES:
        return target == GROUP_RULES || target == GROUP_BASE || strcmp(to, "engine/rule.h") == 0 ||
               (target == GROUP_KERNELS && strchr(to + strlen("kernels/"), '/') == NULL);
    }
    return false;
}

/* Libraries whose use is one layer's business. */
static bool is_system_allowed(const char *from, const char *to)
{
    if (starts(to, "lmdb")) {
        return starts(from, "cache/store_");
    }
    if (starts(to, "curl/")) {
        return strcmp(from, "cache/http_curl.c") == 0;
    }
    if (starts(to, "pcre2") || starts(to, "utf8proc")) {
        return starts(from, "rules/");
    }
    if (starts(to, "openssl/")) {
        return starts(from, "engine/base/") || starts(from, "cache/");
    }
    if (starts(to, "cjson/")) {
        return starts(from, "engine/base/");
    }
    if (starts(to, "cuda")) {
        return starts(from, "kernels/cuda/");
    }
    return true;
}

static size_t file_count;
static size_t include_count;
static size_t bad_count;

static void check_line(const char *path, const char *line, unsigned number)
{
    char name[512];
    char close = 0;
    line += strspn(line, " \t");
    if (*line != '#') {
        return;
    }
    line += 1 + strspn(line + 1, " \t");
    if (sscanf(line, "include \"%511[^\"]%c", name, &close) == 2 && close == '"') {
        char full[2048];
        snprintf(full, sizeof full, "%s/%s", LQ_SOURCE_DIR, name);
        FILE *file = fopen(full, "r");
        bool exists = file != NULL;
        if (file != NULL) {
            fclose(file);
        }
        include_count++;
        if (!exists || strstr(name, "..") != NULL || !is_allowed(path, name)) {
            bad_count++;
            fprintf(stderr, "%s:%u: #include \"%s\" %s\n", path, number, name,
                    exists ? "is not an allowed arrow" : "is not a path from the root");
        }
    } else if (sscanf(line, "include <%511[^>]%c", name, &close) == 2 && close == '>') {
        if (!is_system_allowed(path, name)) {
            bad_count++;
            fprintf(stderr, "%s:%u: #include <%s> belongs to another layer\n", path, number, name);
        }
    }
}

static int check_file(const char *full, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    const char *dot = strrchr(full, '.');
    bool source = dot != NULL && (strcmp(dot, ".c") == 0 || strcmp(dot, ".h") == 0 ||
                                  strcmp(dot, ".cu") == 0 || strcmp(dot, ".cuh") == 0);
    if (type != FTW_F || !source) {
        return 0;
    }
    FILE *file = fopen(full, "r");
    cr_assert_not_null(file, "%s", full);
    char line[4096];
    unsigned number = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        check_line(full + strlen(LQ_SOURCE_DIR) + 1, line, ++number);
    }
    fclose(file);
    file_count++;
    return 0;
}

Test(include_arrows, only_drawn_arrows_exist)
{
    const char *folders[] = {"engine", "cache", "kernels", "rules"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", LQ_SOURCE_DIR, folders[i]);
        cr_assert_eq(nftw(path, check_file, 16, FTW_PHYS), 0);
    }
    cr_expect_eq(bad_count, 0, "%zu forbidden includes", bad_count);
    cr_expect_gt(file_count, 30, "only %zu files were read", file_count);
    cr_expect_gt(include_count, file_count / 2, "only %zu includes were seen", include_count);
}

Test(include_arrows, forbidden_arrows_are_seen)
{
    cr_expect_not(is_allowed("engine/base/fs.c", "engine/rule.h"));
    cr_expect_not(is_allowed("engine/graph.c", "rules/registry.h"));
    cr_expect_not(is_allowed("engine/graph.c", "cache/store.h"));
    cr_expect_not(is_allowed("engine/graph.c", "engine/cli/cli.h"));
    cr_expect_not(is_allowed("engine/graph.c", "engine/progress.h"));
    cr_expect_not(is_allowed("engine/lang/lexer.c", "kernels/kernels.h"));
    cr_expect_not(is_allowed("rules/rule_gguf.c", "cache/cache.h"));
    cr_expect_not(is_allowed("rules/rule_gguf.c", "engine/build.h"));
    cr_expect_not(is_allowed("rules/rule_gguf.c", "engine/lang/recipe.h"));
    cr_expect_not(is_allowed("rules/rule_gguf.c", "kernels/ref/tables.h"));
    cr_expect_not(is_allowed("cache/gc.c", "engine/rule.h"));
    cr_expect_not(is_allowed("kernels/dispatch.c", "engine/base/error.h"));
    cr_expect_not(is_system_allowed("engine/source.c", "lmdb.h"));
    cr_expect_not(is_system_allowed("cache/gc.c", "lmdb.h"));
    cr_expect_not(is_system_allowed("rules/rule_text.c", "openssl/sha.h"));
    cr_expect(is_allowed("engine/main.c", "rules/registry.h"));
    cr_expect(is_allowed("engine/cli/help.c", "cache/cache.h"));
    cr_expect(is_allowed("rules/rule_gguf.c", "kernels/dtype.h"));
    cr_expect(is_allowed("engine/source.c", "cache/cache.h"));
}

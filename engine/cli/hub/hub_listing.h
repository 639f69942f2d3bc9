/* What the Hugging Face hub says about a repository, read with distrust: which commit a revision
 * is, and which files a folder has, with their sizes and digests. Only names that stay within a
 * folder are accepted, and only digests that can be one. Thread rule: pure. What is read goes to
 * the caller's arena. Limits: LQ_HUB_FILES_MAX, LQ_HUB_PATH_BYTES_MAX, LQ_HUB_FILE_BYTES_MAX. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_LISTING_H
#define LQ_ENGINE_CLI_HUB_HUB_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

enum { LQ_HUB_COMMIT_BYTES = 41, LQ_HUB_ID_BYTES = 65 };

struct lq_hub_file {
    const char *path; /* from the root of the repository */
    uint64_t size_bytes;
    /* Large files (Git LFS) are known by the SHA-256 of their content, others by the SHA-1 that git
     * gives them; hex digits. The hub's tools call the file by it in their cache. */
    bool is_large;
    char id[LQ_HUB_ID_BYTES];
};

/* Empty when zeroed. */
struct lq_hub_listing {
    struct lq_hub_file *files;
    size_t count;
    size_t capacity;
};

/* True for 40 hex digits, lower case: the name of a commit, and nothing else is. */
bool lq_hub_is_commit(const char *text);
/* The commit out of what the hub says about a revision. `where` begins every message. LQ_EFORMAT.
 */
enum lq_status lq_hub_commit_parse(const void *data, size_t size_bytes, const char *where,
                                   char commit[LQ_HUB_COMMIT_BYTES], struct lq_error *err);
/* Adds the files of one page of a list; folders are left out. LQ_EFORMAT, LQ_ENOMEM. */
enum lq_status lq_hub_listing_add(struct lq_hub_listing *listing, const void *data,
                                  size_t size_bytes, const char *where, struct lq_arena *arena,
                                  struct lq_error *err);
/* The first of that name; NULL: there is none. */
const struct lq_hub_file *lq_hub_listing_find(const struct lq_hub_listing *listing,
                                              const char *path);
/* The query of the URL of a next page, "cursor=...", which is all that is used of it: the next page
 * is asked for where the first one was. NULL when it has none, or one that cannot stand in a URL.
 */
const char *lq_hub_page_query(const char *url);

#endif

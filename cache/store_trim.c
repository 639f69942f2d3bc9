/* Giving free pages back to the file system. LMDB never makes its file shorter, but a hole where a
 * free page was takes no room, reads as zeros that nobody reads, and is filled again when LMDB
 * writes there. Which pages are free for good is LMDB's own rule for using them again: those that a
 * transaction gave back which every reader, and the snapshot before the newest one, has behind it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/store_private.h"
#include "engine/base/fs.h"

enum {
    run_pages_min = 16, /* smaller holes only cut the file into pieces */
    slice_ms_max = 50,  /* the write lock is held for so long at most */
    spare_bytes = 1024 * 1024,
};

struct trim {
    struct lq_store *store;
    MDB_txn *reader; /* LMDB shows the list of free pages to readers only */
    uint64_t oldest; /* pages that an older transaction gave back are free */
    uint64_t *pages; /* of the last look, ascending */
    size_t count, capacity;
    uint64_t next_page; /* below it all is done */
    bool done;
};

/* ---- the oldest reader ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\n';
}

/* A row is process, thread, number of its snapshot or "-"; what is written in another way means
 * that nothing is known, so nothing is free. */
static int note_reader(const char *row, void *user)
{
    struct trim *trim = user;
    if (strstr(row, "txnid") != NULL || strstr(row, "no active readers") != NULL) {
        return 0;
    }
    const char *at = row;
    for (int word = 0; word < 2; word++) {
        while (is_blank(*at)) {
            at++;
        }
        while (*at != '\0' && !is_blank(*at)) {
            at++;
        }
    }
    while (is_blank(*at)) {
        at++;
    }
    if (at[0] == '-' && at[1] == '\n') {
        return 0;
    }
    char *end = NULL;
    unsigned long long snapshot = strtoull(at, &end, 10);
    if (*at < '0' || *at > '9' || *end != '\n') {
        snapshot = 0;
    }
    trim->oldest = snapshot < trim->oldest ? snapshot : trim->oldest;
    return 0;
}

/* ---- free pages ---- */

static int compare_pages(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* One record of the list of free pages: their count, then their numbers. */
static bool add_pages(struct trim *trim, const MDB_val *value)
{
    size_t count = 0;
    if (value->mv_size < sizeof count) {
        return true;
    }
    memcpy(&count, value->mv_data, sizeof count);
    size_t room = value->mv_size / sizeof(size_t) - 1;
    count = count < room ? count : room;
    if (count > trim->capacity - trim->count) {
        size_t capacity =
            2 * trim->capacity > trim->count + count ? 2 * trim->capacity : trim->count + count;
        uint64_t *grown = realloc(trim->pages, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        trim->pages = grown;
        trim->capacity = capacity;
    }
    const unsigned char *at = value->mv_data;
    for (size_t i = 1; i <= count; i++) {
        size_t page = 0;
        memcpy(&page, at + i * sizeof page, sizeof page);
        if (page >= trim->next_page) {
            trim->pages[trim->count++] = page;
        }
    }
    return true;
}

/* The database of free pages has number 0; its keys are numbers of transactions. */
static int list_pages(struct trim *trim)
{
    MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    trim->count = 0;
    int code = mdb_cursor_open(trim->reader, 0, &cursor);
    while (code == 0 && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t number = 0;
        if (key.mv_size != sizeof number) {
            code = MDB_CORRUPTED;
            break;
        }
        memcpy(&number, key.mv_data, sizeof number);
        if (number >= trim->oldest) {
            break;
        }
        code = add_pages(trim, &value) ? 0 : ENOMEM;
    }
    mdb_cursor_close(cursor);
    if (trim->count > 0) {
        qsort(trim->pages, trim->count, sizeof *trim->pages, compare_pages);
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

/* ---- holes ---- */

/* Holes for runs of pages, until the slice is over. */
static int punch(struct trim *trim, int fd, uint64_t page_bytes, uint64_t until_ns)
{
    for (size_t i = 0; i < trim->count;) {
        size_t end = i + 1;
        while (end < trim->count && trim->pages[end] == trim->pages[end - 1] + 1) {
            end++;
        }
        uint64_t first = trim->pages[i];
        uint64_t length = trim->pages[end - 1] + 1 - first;
        if (length >= run_pages_min &&
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * page_bytes),
                      (off_t)(length * page_bytes)) != 0) {
            return errno;
        }
        trim->next_page = first + length;
        if (lq_clock_ns() >= until_ns) {
            return 0;
        }
        i = end;
    }
    trim->done = true;
    return 0;
}

/* One write transaction that changes nothing: nobody uses free pages meanwhile. */
static int trim_slice(struct trim *trim)
{
    MDB_stat stat;
    MDB_env *env = trim->store->env;
    int fd = -1;
    MDB_txn *writer = NULL;
    int code = mdb_txn_begin(env, NULL, 0, &writer);
    if (code != 0) {
        return code;
    }
    trim->oldest = (uint64_t)mdb_txn_id(writer) - 1;
    code = mdb_reader_list(env, note_reader, trim) < 0 ? MDB_CORRUPTED : 0;
    code = code != 0 ? code : mdb_env_stat(env, &stat);
    code = code != 0 ? code : mdb_env_get_fd(env, &fd);
    code = code != 0 ? code : mdb_txn_begin(env, NULL, MDB_RDONLY, &trim->reader);
    if (code == 0) {
        code = list_pages(trim);
        mdb_txn_abort(trim->reader);
    }
    if (code == 0) {
        code = punch(trim, fd, stat.ms_psize, lq_clock_ns() + (uint64_t)slice_ms_max * 1000 * 1000);
    }
    mdb_txn_abort(writer);
    return code;
}

enum lq_status lq_store_trim(struct lq_store *store, uint64_t deadline_ns, struct lq_error *err)
{
    struct trim trim = {.store = store};
    uint64_t live_bytes = 0;
    enum lq_status status = lq_store_live_bytes(store, &live_bytes, err);
    if (status != LQ_OK ||
        lq_store_disk_bytes(store) <= live_bytes + live_bytes / 20 + spare_bytes) {
        return status;
    }
    int dead = 0;
    (void)mdb_reader_check(store->env, &dead);
    /* What the newest transaction gave back is not free yet. */
    lq_store_age_free_pages(store);
    int code = 0;
    while (!trim.done && code == 0 && (deadline_ns == 0 || lq_clock_ns() < deadline_ns)) {
        status = lq_store_gate_enter(store, err);
        if (status != LQ_OK) {
            break;
        }
        lq_guard_enter(&store->guard);
        code = trim_slice(&trim);
        lq_guard_leave();
        lq_store_gate_leave(store);
    }
    free(trim.pages);
    /* Not every file system has holes, and another process may have grown the map. */
    bool harmless = code == 0 || code == EOPNOTSUPP || code == ENOSYS || code == MDB_MAP_RESIZED;
    return harmless ? status : lq_store_fail(store, code, "give free pages back", err);
}

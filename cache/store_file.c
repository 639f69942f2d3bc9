#define _GNU_SOURCE
#include "cache/store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/reader.h"

enum {
    meta_page_bytes = 152,   /* page header and meta record */
    meta_flag = 0x08,        /* P_META */
    lock_slot_bytes = 64,    /* one reader, and the head of the table is not larger than four */
    page_bytes_min = 512,    /* LMDB's own bounds on a page */
    page_bytes_max = 0x8000, /* MAX_PAGESIZE */
    lock_head_slots = 4,
};
static const uint32_t lmdb_magic = 0xBEEFC0DE;
static const uint32_t lmdb_version = 1;

/* Numbers from linux/magic.h and the file systems' own sources; names as mount(8) prints them. */
static const struct {
    uint32_t magic;
    const char *name;
} network_systems[] = {
    {0x6969, "nfs"},      {0xFF534D42, "cifs"},   {0xFE534D42, "smb3"}, {0x517B, "smb"},
    {0x00C36400, "ceph"}, {0x0BD00BD0, "lustre"}, {0x5346414F, "afs"},  {0x01021997, "9p"},
    {0x47504653, "gpfs"}, {0x19830326, "beegfs"}, {0x564C, "ncp"},      {0x7461636F, "ocfs2"},
    {0x01161970, "gfs2"},
};

static enum lq_status refuse_folder(const char *dir, const char *why, struct lq_error *err)
{
    return lq_error_set(err, LQ_ECACHE,
                        "cache folder %s: %s; choose a folder on a local disk that you may write "
                        "to with --cache-dir or LQBUILD_CACHE_DIR",
                        dir, why);
}

enum lq_status lq_store_check_folder(const char *dir, struct lq_error *err)
{
    if (dir == NULL || dir[0] == '\0') {
        return lq_error_set(err, LQ_ECACHE,
                            "the cache folder has an empty name; give one with "
                            "--cache-dir or LQBUILD_CACHE_DIR");
    }
    if (lq_path_exists(dir) && !lq_path_is_dir(dir)) {
        return refuse_folder(dir, "it is a file, not a folder", err);
    }
    struct lq_error cause = {0};
    enum lq_status status = lq_make_dirs(dir, &cause);
    if (status == LQ_ENOMEM) {
        return lq_error_nomem(err, dir);
    }
    if (status != LQ_OK) {
        return refuse_folder(dir, cause.message, err);
    }
    if (access(dir, R_OK | W_OK | X_OK) != 0) {
        return refuse_folder(dir, strerror(errno), err);
    }
    struct statfs system;
    if (statfs(dir, &system) == 0) {
        for (size_t i = 0; i < LQ_COUNT_OF(network_systems); i++) {
            if ((uint32_t)system.f_type == network_systems[i].magic) {
                char why[128];
                (void)snprintf(why, sizeof why,
                               "it lies on a network file system (%s), where locks and shared "
                               "memory between machines do not work",
                               network_systems[i].name);
                return refuse_folder(dir, why, err);
            }
        }
    }
    return LQ_OK;
}

static pthread_mutex_t claim_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct lq_folder_claim *claims;

enum lq_status lq_folder_claim(struct lq_folder_claim *claim, const char *dir, struct lq_error *err)
{
    struct stat st;
    if (stat(dir, &st) != 0) {
        return lq_error_errno(err, LQ_ECACHE, "cache folder %s: cannot stat", dir);
    }
    claim->device = (uint64_t)st.st_dev;
    claim->inode = (uint64_t)st.st_ino;
    (void)pthread_mutex_lock(&claim_mutex);
    struct lq_folder_claim *other = claims;
    while (other != NULL && (other->device != claim->device || other->inode != claim->inode)) {
        other = other->next;
    }
    if (other == NULL) {
        claim->next = claims;
        claims = claim;
    }
    (void)pthread_mutex_unlock(&claim_mutex);
    if (other == NULL) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_ECACHE,
                        "cache folder %s: this process has it open already; close it first", dir);
}

void lq_folder_release(struct lq_folder_claim *claim)
{
    (void)pthread_mutex_lock(&claim_mutex);
    struct lq_folder_claim **at = &claims;
    while (*at != NULL && *at != claim) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = claim->next;
    }
    (void)pthread_mutex_unlock(&claim_mutex);
}

enum lq_status lq_store_damaged(struct lq_error *err, const char *dir, const char *why)
{
    return lq_error_set(err, LQ_ECACHE,
                        "cache folder %s: data.mdb is damaged%s%s%s; 'lqbuild cache repair' saves "
                        "what can still be read, or use another folder with --cache-dir",
                        dir, why == NULL ? "" : " (", why == NULL ? "" : why,
                        why == NULL ? "" : ")");
}

static bool path_in(char *out, size_t out_bytes, const char *dir, const char *name)
{
    int length = snprintf(out, out_bytes, "%s/%s", dir, name);
    return length > 0 && (size_t)length < out_bytes;
}

/* One meta page; 0 for the page size when it is not one. */
static uint32_t read_meta(const unsigned char *bytes, uint32_t *version)
{
    struct lq_reader reader;
    lq_reader_init(&reader, bytes, meta_page_bytes);
    lq_read_skip(&reader, 10);
    uint16_t flags = lq_read_u16(&reader);
    lq_read_skip(&reader, 4);
    uint32_t magic = lq_read_u32(&reader);
    *version = lq_read_u32(&reader);
    lq_read_skip(&reader, 16);
    uint32_t page_bytes = lq_read_u32(&reader);
    if (reader.failed || (flags & meta_flag) == 0 || magic != lmdb_magic) {
        return 0;
    }
    return page_bytes;
}

static enum lq_status check_metas(int fd, const char *dir, uint64_t size_bytes,
                                  struct lq_error *err)
{
    unsigned char bytes[meta_page_bytes];
    uint32_t version = 0;
    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    if (got < 0) {
        return lq_error_errno(err, LQ_EIO, "%s/data.mdb: cannot read", dir);
    }
    uint32_t page_bytes = (size_t)got < sizeof bytes ? 0 : read_meta(bytes, &version);
    if (page_bytes == 0) {
        return lq_store_damaged(err, dir, "it does not begin like a data file of LMDB");
    }
    /* LMDB reads its header in the byte order and with the flag bits of the machine. */
    if ((version & 0xFFFFu) != lmdb_version) {
        return lq_store_damaged(err, dir, "its header names another version of LMDB");
    }
    if (page_bytes < page_bytes_min || page_bytes > page_bytes_max ||
        (page_bytes & (page_bytes - 1)) != 0 || size_bytes < 2 * (uint64_t)page_bytes) {
        return lq_store_damaged(err, dir, "its header makes no sense, or the file was cut");
    }
    got = pread(fd, bytes, sizeof bytes, (off_t)page_bytes);
    if ((size_t)got != sizeof bytes || read_meta(bytes, &version) != page_bytes) {
        return lq_store_damaged(err, dir, "its second header makes no sense");
    }
    return LQ_OK;
}

enum lq_status lq_store_open_data(const char *path, int *fd, uint64_t *size_bytes,
                                  struct lq_error *err)
{
    struct stat st;
    /* A pipe would wait for its other end. */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) {
        return errno == ENOENT ? LQ_OK
                               : lq_error_errno(err, LQ_ECACHE, "%s: cannot open the cache", path);
    }
    if (fstat(*fd, &st) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot stat", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return lq_error_set(err, LQ_ECACHE,
                            "%s: it is not a regular file; remove it, or use another folder with "
                            "--cache-dir",
                            path);
    }
    *size_bytes = (uint64_t)st.st_size;
    return LQ_OK;
}

static enum lq_status check_data(const char *dir, uint64_t *size_bytes, struct lq_error *err)
{
    char path[4096];
    *size_bytes = 0;
    if (!path_in(path, sizeof path, dir, "data.mdb")) {
        return refuse_folder(dir, "its name is too long", err);
    }
    int fd;
    enum lq_status status = lq_store_open_data(path, &fd, size_bytes, err);
    if (status == LQ_OK && *size_bytes > 0) {
        status = check_metas(fd, dir, *size_bytes, err);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

enum lq_status lq_store_check_data(const char *dir, uint64_t *size_bytes, struct lq_error *err)
{
    enum { TRIES = 20 };
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    enum lq_status status = check_data(dir, size_bytes, err);
    /* A file that another process is just making grows page by page: what looks truncated now may
     * be whole a moment later. A damaged one stays damaged. */
    for (int i = 1; i < TRIES && status == LQ_ECACHE && *size_bytes < 2 * (uint64_t)page_bytes_max;
         i++) {
        (void)nanosleep(&pause, NULL);
        status = check_data(dir, size_bytes, err);
    }
    return status;
}

enum lq_status lq_store_reserve_lock(const char *dir, unsigned reader_count, struct lq_error *err)
{
    char path[4096];
    if (!path_in(path, sizeof path, dir, "lock.mdb")) {
        return refuse_folder(dir, "its name is too long", err);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (fd < 0) {
        return lq_error_errno(err, LQ_ECACHE, "%s: cannot open the cache", path);
    }
    off_t size = (off_t)(reader_count + lock_head_slots) * lock_slot_bytes;
    struct stat st;
    enum lq_status status = LQ_OK;
    bool enough = fstat(fd, &st) == 0 && st.st_size >= size && st.st_blocks * 512 >= size;
    /* A file system without fallocate keeps LMDB's own way of growing the file. */
    if (!enough && fallocate(fd, 0, 0, size) != 0 && (errno == ENOSPC || errno == EDQUOT)) {
        status = lq_error_set(err, LQ_EIO,
                              "cache folder %s: no space left on device; free some space or use "
                              "another folder with --cache-dir",
                              dir);
    }
    (void)close(fd);
    return status;
}

bool lq_store_disk_is_full(const char *dir)
{
    struct statvfs system;
    return statvfs(dir, &system) == 0 &&
           (uint64_t)system.f_bavail * (uint64_t)system.f_frsize < 1024 * 1024;
}

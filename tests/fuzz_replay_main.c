/* Replays every file of a corpus folder through a fuzz target, so that crash inputs found once stay
 * tests without a fuzzer. Fails when the folder is missing or empty: a replay of nothing is no
 * test. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
    struct lq_map map;
    struct lq_error err = {0};
    if (lq_map_open(&map, path, LQ_EIO, &err) != LQ_OK) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    (void)LLVMFuzzerTestOneInput(map.data, (size_t)map.size_bytes);
    lq_map_close(&map);
    return 0;
}

int main(int argc, char **argv)
{
    int replayed = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (dir == NULL) {
            (void)fprintf(stderr, "%s: no such corpus folder\n", argv[i]);
            return 1;
        }
        for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
            char path[4096];
            int length = snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            if (entry->d_name[0] == '.' || length < 0 || (size_t)length >= sizeof path) {
                continue;
            }
            if (replay(path) != 0) {
                (void)closedir(dir);
                return 1;
            }
            replayed++;
        }
        (void)closedir(dir);
    }
    (void)printf("%d inputs replayed\n", replayed);
    return replayed > 0 ? 0 : 1;
}

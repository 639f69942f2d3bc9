/* A small HTTP server for tests that does what servers should not. It serves files below a folder
 * to GET, HEAD and PUT, in a process of its own; the test changes its mood while it runs. Header
 * only; needs threads. */
#ifndef LQ_TESTS_HTTP_SERVER_H
#define LQ_TESTS_HTTP_SERVER_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/zstd_library.h"

enum mood {
    MOOD_GOOD,
    MOOD_HANGS,      /* takes the request and says nothing */
    MOOD_DRIPS,      /* one byte a second */
    MOOD_FAILS,      /* 500 */
    MOOD_STUMBLES,   /* 500 to every other request */
    MOOD_TRUNCATES,  /* half of the body, then the connection ends */
    MOOD_ALTERS,     /* one bit of every body */
    MOOD_ALTERS_CAS, /* the same, only below /cas/ */
    MOOD_STOPS,      /* good for some requests, then gone */
    MOOD_SHORT,      /* Content-Length smaller than the body */
    MOOD_LONG,       /* ... larger, and the connection stays open */
    MOOD_TWO,        /* two different lengths */
    MOOD_BABBLES,    /* no HTTP at all */
    MOOD_LOOPS,      /* redirects to itself */
    MOOD_MOVED,      /* redirects once, to where the file is */
    MOOD_FLOODS,     /* bodies without an end */
    MOOD_DENIES,     /* 401 */
    MOOD_TOKEN,      /* 401 without the right bearer token */
    MOOD_HEADERS,    /* headers without an end */
    MOOD_CONTINUES,  /* "100 Continue" without an end */
    MOOD_TRAILS,     /* an error page whose trailer says that all went well */
    MOOD_ZSTD,       /* packs what it sends, and takes what is packed */
    MOOD_BOMB,       /* a few KB that unpack to 64 MiB */
};

struct server_shared {
    atomic_int mood;
    atomic_int requests;
    atomic_int stop_after;
    atomic_int packed; /* bodies that came or went as zstd */
};

struct test_server {
    /* Answers one request, its headers as text; false when the connection is over. */
    bool (*answer)(struct test_server *server, int fd, char *request);
    struct server_shared *shared;
    const char *root;
    int listener;
    int port;
    pid_t process;
};

struct server_request {
    struct test_server *server;
    int fd;
};

static void server_say(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return;
        }
        at += sent;
        size -= (size_t)sent;
    }
}

static void server_pause(long ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static inline bool server_has_zstd(void)
{
    return dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL) != NULL;
}

/* The body of an answer as zstd, when that makes it smaller; it takes the place of *bytes. */
static bool server_pack(struct test_server *server, char **bytes, size_t *size, enum mood mood)
{
    enum { BOMB_BYTES = 64 << 20 };
    size_t packed_size = 0;
    char *zeros = mood == MOOD_BOMB ? calloc(1, BOMB_BYTES) : NULL;
    char *packed = mood == MOOD_BOMB ? lq_zstd_compress(zeros, BOMB_BYTES, &packed_size)
                                     : lq_zstd_compress(*bytes, *size, &packed_size);
    free(zeros);
    if (packed == NULL) {
        return false;
    }
    free(*bytes);
    *bytes = packed;
    *size = packed_size;
    atomic_fetch_add(&server->shared->packed, 1);
    return true;
}

static void server_file(struct test_server *server, int fd, const char *path, bool head,
                        bool takes_zstd, enum mood mood)
{
    char name[1024];
    char line[256];
    struct stat st;
    snprintf(name, sizeof name, "%s%s", server->root, path);
    int file = open(name, O_RDONLY);
    if (file < 0 || fstat(file, &st) != 0 || strstr(path, "..") != NULL) {
        const char missing[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone";
        server_say(fd, missing, sizeof missing - 1 - (head ? 4 : 0));
        if (file >= 0) {
            close(file);
        }
        return;
    }
    size_t size = (size_t)st.st_size;
    char *bytes = malloc(size + 1);
    cr_assert_eq(read(file, bytes, size), (ssize_t)size);
    close(file);
    if ((mood == MOOD_ALTERS || (mood == MOOD_ALTERS_CAS && strstr(path, "/cas/") != NULL)) &&
        size > 0) {
        bytes[size / 2] ^= 4;
    }
    bool packs = (mood == MOOD_ZSTD || mood == MOOD_BOMB) && takes_zstd && !head;
    packs = packs && server_pack(server, &bytes, &size, mood);
    size_t told = mood == MOOD_SHORT ? size / 2 : mood == MOOD_LONG ? size + 100 : size;
    snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n", told);
    server_say(fd, line, strlen(line));
    if (packs) {
        server_say(fd, "Content-Encoding: zstd\r\n", 24);
    }
    if (mood == MOOD_TWO) {
        snprintf(line, sizeof line, "Content-Length: %zu\r\n", told + 1);
        server_say(fd, line, strlen(line));
    }
    server_say(fd, "\r\n", 2);
    if (!head && mood == MOOD_DRIPS) {
        for (size_t i = 0; i < size && i < 30; i++) {
            server_say(fd, bytes + i, 1);
            server_pause(1000);
        }
    } else if (!head) {
        server_say(fd, bytes, mood == MOOD_TRUNCATES ? size / 2 : size);
    }
    free(bytes);
}

/* Keeps the body of a PUT, unpacked. */
static bool server_keep(struct test_server *server, const char *path, const char *headers,
                        char *body, size_t size)
{
    char name[1024];
    char *plain = NULL;
    if (strlen(path) > 512 || strstr(path, "..") != NULL) {
        return false;
    }
    if (strcasestr(headers, "content-encoding: zstd") != NULL) {
        const char *told = strcasestr(headers, "x-digest-sizebytes: ");
        size_t plain_size = told == NULL ? 0 : strtoul(told + 20, NULL, 10);
        size_t (*unpack)(void *, size_t, const void *, size_t) = NULL;
        void *symbol = dlsym(dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL), "ZSTD_decompress");
        memcpy(&unpack, &symbol, sizeof unpack);
        plain = malloc(plain_size + 1);
        if (unpack(plain, plain_size, body, size) != plain_size) {
            free(plain);
            return false;
        }
        body = plain;
        size = plain_size;
        atomic_fetch_add(&server->shared->packed, 1);
    }
    for (size_t i = 1; path[i] != '\0'; i++) {
        if (path[i] == '/') {
            snprintf(name, sizeof name, "%s%.*s", server->root, (int)i, path);
            (void)mkdir(name, 0777);
        }
    }
    snprintf(name, sizeof name, "%s%.512s", server->root, path);
    FILE *stream = fopen(name, "w");
    bool kept = stream != NULL && fwrite(body, 1, size, stream) == size;
    kept = stream != NULL && fclose(stream) == 0 && kept;
    free(plain);
    return kept;
}

/* A PUT whose headers are `text` and of whose body `got` bytes lie behind them. False when the
 * connection is over. */
static bool server_put(struct test_server *server, int fd, char *text, const char *more, size_t got)
{
    const char *told = strcasestr(text, "content-length: ");
    size_t size = told == NULL ? 0 : strtoul(told + 16, NULL, 10);
    char *body = malloc(size + 1);
    char *path = text + 4;
    memcpy(body, more, got < size ? got : size);
    while (got < size) {
        ssize_t step = recv(fd, body + got, size - got, 0);
        if (step <= 0) {
            free(body);
            return false;
        }
        got += (size_t)step;
    }
    char *headers = path + strcspn(path, " ");
    *headers++ = '\0';
    bool kept = server_keep(server, path, headers, body, size);
    const char *answer = kept ? "HTTP/1.1 201 Kept\r\nContent-Length: 0\r\n\r\n"
                              : "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n";
    server_say(fd, answer, strlen(answer));
    free(body);
    return true;
}

/* False when the connection is over. */
static bool server_answer(struct test_server *server, int fd, char *request)
{
    enum mood mood = (enum mood)atomic_load(&server->shared->mood);
    int number = atomic_fetch_add(&server->shared->requests, 1);
    bool head = strncmp(request, "HEAD ", 5) == 0;
    char *path = strchr(request, ' ') + 1;
    bool has_token = strcasestr(path, "authorization: bearer sesame\r\n") != NULL;
    bool takes_zstd = strcasestr(path, "accept-encoding: zstd\r\n") != NULL;
    path[strcspn(path, " ")] = '\0';
    static const char error[] = "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno";
    static const char trailing[] = "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n"
                                   "4\r\nnone\r\n0\r\nHTTP/1.1 200 OK\r\nX: y\r\n\r\n";
    static const char denied[] = "HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n";
    char line[1200];
    switch (mood) {
    case MOOD_HANGS:
        server_pause(30000);
        return false;
    case MOOD_STUMBLES:
        if (number % 2 == 0) {
            server_say(fd, error, sizeof error - 1);
            return true;
        }
        break;
    case MOOD_FAILS:
        server_say(fd, error, sizeof error - 1);
        return true;
    case MOOD_STOPS:
        if (number >= atomic_load(&server->shared->stop_after)) {
            shutdown(server->listener, SHUT_RDWR);
            close(server->listener);
            return false;
        }
        break;
    case MOOD_BABBLES:
        server_say(fd, "220 welcome\r\n\0\r\n", 16);
        return false;
    case MOOD_LOOPS:
        snprintf(line, sizeof line,
                 "HTTP/1.1 302 There\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", path);
        server_say(fd, line, strlen(line));
        return true;
    case MOOD_MOVED:
        if (strncmp(path, "/moved", 6) == 0) {
            path += 6;
            break;
        }
        snprintf(line, sizeof line,
                 "HTTP/1.1 307 There\r\nLocation: /moved%s\r\nContent-Length: 0\r\n\r\n", path);
        server_say(fd, line, strlen(line));
        return true;
    case MOOD_FLOODS:
        server_say(fd, "HTTP/1.1 200 OK\r\n\r\n", 19);
        for (int i = 0; i < 4096; i++) {
            char zeros[16384] = {0};
            server_say(fd, zeros, sizeof zeros);
        }
        return false;
    case MOOD_HEADERS:
        server_say(fd, "HTTP/1.1 200 OK\r\n", 17);
        for (int i = 0; i < 20000; i++) {
            server_say(fd, "X-Filler: 0123456789012345678901234567890123456789\r\n", 52);
        }
        return false;
    case MOOD_CONTINUES:
        for (int i = 0; i < 300; i++) {
            server_say(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
            server_pause(i < 100 ? 0 : 100);
        }
        return false;
    case MOOD_TRAILS:
        server_say(fd, trailing, sizeof trailing - 1);
        return true;
    case MOOD_TOKEN:
        if (has_token) {
            break;
        }
        server_say(fd, denied, sizeof denied - 1);
        return true;
    case MOOD_DENIES:
        server_say(fd, denied, sizeof denied - 1);
        return true;
    default:
        break;
    }
    server_file(server, fd, path, head, takes_zstd, mood);
    return mood != MOOD_TRUNCATES && mood != MOOD_SHORT && mood != MOOD_DRIPS;
}

static void *server_connection(void *user)
{
    struct server_request request = *(struct server_request *)user;
    char text[8192];
    size_t used = 0;
    free(user);
    for (;;) {
        ssize_t got = recv(request.fd, text + used, sizeof text - 1 - used, 0);
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
        text[used] = '\0';
        char *end = strstr(text, "\r\n\r\n");
        if (end == NULL) {
            continue;
        }
        size_t behind = used - (size_t)(end + 4 - text);
        used = 0;
        if (strncmp(text, "PUT ", 4) == 0) {
            end[2] = '\0';
            if (!server_put(request.server, request.fd, text, end + 4, behind)) {
                break;
            }
            continue;
        }
        if (!request.server->answer(request.server, request.fd, text)) {
            break;
        }
    }
    close(request.fd);
    return NULL;
}

static int server_listen(int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(fd, 64), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* A server of another kind: `answer` says which. */
static void server_start_as(struct test_server *server, const char *root,
                            bool (*answer)(struct test_server *, int, char *))
{
    *server = (struct test_server){.answer = answer, .root = root};
    server->shared = mmap(NULL, sizeof *server->shared, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(server->shared, MAP_FAILED);
    server->listener = server_listen(&server->port);
    server->process = fork();
    cr_assert_geq(server->process, 0);
    if (server->process > 0) {
        close(server->listener);
        return;
    }
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0) {
            /* It stopped listening: connections that are open go too. */
            _exit(0);
        }
        struct server_request *request = malloc(sizeof *request);
        pthread_t thread;
        *request = (struct server_request){.server = server, .fd = fd};
        if (pthread_create(&thread, NULL, server_connection, request) == 0) {
            pthread_detach(thread);
        }
    }
}

static inline void server_start(struct test_server *server, const char *root)
{
    server_start_as(server, root, server_answer);
}

static void server_stop(struct test_server *server)
{
    kill(server->process, SIGKILL);
    waitpid(server->process, NULL, 0);
    munmap(server->shared, sizeof *server->shared);
}

#endif

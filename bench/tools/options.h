/* What a load consists of: loadgen's command line, and the request it sends. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define WATCHED_MAX 8
#define HEADERS_MAX 8
#define KEY_DIGITS 8

typedef struct {
    struct sockaddr_in target;
    const char *host, *path, *key, *model, *standin;
    unsigned connections, sources, keys;
    double spread_s, warmup_s, duration_s;
    long requests;       /* in all; -1: until the time is over */
    size_t body_bytes;   /* about so long is a body at least */
    bool streamed, usage, once, never_read;
    const char *headers[HEADERS_MAX];
    unsigned header_count;
    pid_t watched[WATCHED_MAX];
    unsigned watched_count;
} options;

/* Ends the program when the command line is wrong. */
options options_read(int argc, char **argv);

/* The request's bytes: before the digits of the key, and after them. Every connection sends the same ones. */
typedef struct {
    char *before, *after;
    size_t before_len, after_len;
} request_text;

request_text request_build(const options *o);

#endif

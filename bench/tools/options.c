#define _GNU_SOURCE
#include "options.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *why)
{
    fprintf(stderr, "loadgen: %s; its options stand at the head of loadgen.c\n", why);
    exit(2);
}

/* http://ADDRESS:PORT/path */
static void read_url(options *o, char *url)
{
    if (strncmp(url, "http://", 7) != 0)
        fail("-u wants http://ADDRESS:PORT/path");
    char *host = url + 7, *colon = strchr(host, ':'), *slash = strchr(host, '/');
    if (colon == NULL || slash == NULL || colon > slash)
        fail("-u wants http://ADDRESS:PORT/path");
    o->path = strdup(slash);
    *slash = 0;
    o->host = strdup(host); /* with the port, as the Host header has it */
    *colon = 0;
    o->target.sin_family = AF_INET;
    o->target.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &o->target.sin_addr) != 1)
        fail("-u wants an address, not a name");
    /* A load test is for this machine alone. */
    if ((ntohl(o->target.sin_addr.s_addr) >> 24) != 127)
        fail("-u wants a loopback address");
}

options options_read(int argc, char **argv)
{
    options o = {.host = NULL, .key = "sk-bench", .model = "bench-model", .standin = NULL, .connections = 1,
                 .sources = 1, .duration_s = 5, .requests = -1};
    int option;
    while ((option = getopt(argc, argv, "u:c:S:w:d:n:sUk:K:m:x:b:B:H:P:1z")) != -1) {
        switch (option) {
        case 'u': read_url(&o, optarg); break;
        case 'c': o.connections = (unsigned)atoi(optarg); break;
        case 'S': o.spread_s = atof(optarg); break;
        case 'w': o.warmup_s = atof(optarg); break;
        case 'd': o.duration_s = atof(optarg); break;
        case 'n': o.requests = atol(optarg); break;
        case 's': o.streamed = true; break;
        case 'U': o.usage = true; break;
        case 'k': o.key = optarg; break;
        case 'K': o.keys = (unsigned)atoi(optarg); break;
        case 'm': o.model = optarg; break;
        case 'x': o.standin = optarg; break;
        case 'b': o.body_bytes = strtoul(optarg, NULL, 10); break;
        case 'B': o.sources = (unsigned)atoi(optarg); break;
        case 'H':
            if (o.header_count == HEADERS_MAX)
                fail("too many -H");
            o.headers[o.header_count++] = optarg;
            break;
        case 'P':
            if (o.watched_count == WATCHED_MAX)
                fail("too many -P");
            o.watched[o.watched_count++] = atoi(optarg);
            break;
        case '1': o.once = true; break;
        case 'z': o.never_read = true; break;
        default: fail("unknown option");
        }
    }
    if (o.host == NULL || o.connections == 0 || o.sources == 0 || o.sources > 200 || optind < argc)
        fail("-u is needed, -c from 1, -B from 1 to 200");
    return o;
}

/* A chat call in the shape of an app's: "stream" stands before the messages, however long they are. */
static char *build_body(const options *o, size_t *len)
{
    static const char question[] = "Which discounts may be combined, and what are the rules?";
    size_t room = o->body_bytes + strlen(o->model) + (o->standin ? strlen(o->standin) : 0) + 1024;
    char *body = malloc(room);
    if (body == NULL)
        abort();
    int n = snprintf(body, room,
                     "{\"model\":\"%s\",\"stream\":%s%s%s%s%s,\"temperature\":0.7,\"max_tokens\":1000,\"messages\":["
                     "{\"role\":\"system\",\"content\":\"You answer customers of a shop.\"},"
                     "{\"role\":\"user\",\"content\":\"%s",
                     o->model, o->streamed ? "true" : "false",
                     o->usage ? ",\"stream_options\":{\"include_usage\":true}" : "",
                     o->standin ? ",\"standin\":\"" : "", o->standin ? o->standin : "", o->standin ? "\"" : "",
                     question);
    *len = (size_t)n;
    while (*len + 4 < o->body_bytes) { /* words, as a long prompt has them */
        static const char word[] = " token";
        size_t take = o->body_bytes - 4 - *len;
        take = take < sizeof word - 1 ? take : sizeof word - 1;
        memcpy(body + *len, word, take);
        *len += take;
    }
    memcpy(body + *len, "\"}]}", 4);
    *len += 4;
    return body;
}

request_text request_build(const options *o)
{
    request_text r;
    size_t body_len;
    char *body = build_body(o, &body_len);
    int n = asprintf(&r.before, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s", o->path, o->host, o->key);
    if (n < 0)
        abort();
    r.before_len = (size_t)n;
    size_t room = 256;
    for (unsigned i = 0; i < o->header_count; i++)
        room += strlen(o->headers[i]) + 2;
    r.after = malloc(room + body_len);
    if (r.after == NULL)
        abort();
    n = snprintf(r.after, room, "\r\nContent-Type: application/json\r\nAccept: %s\r\nUser-Agent: loadgen\r\n",
                 o->streamed ? "text/event-stream" : "application/json");
    for (unsigned i = 0; i < o->header_count; i++)
        n += sprintf(r.after + n, "%s\r\n", o->headers[i]);
    n += sprintf(r.after + n, "Content-Length: %zu\r\n\r\n", body_len);
    memcpy(r.after + n, body, body_len);
    r.after_len = (size_t)n + body_len;
    free(body);
    return r;
}

/* standin: answers like an OpenAI-compatible provider, faster than anything that will be measured with it.
 *
 *     standin [-a ADDRESS] [-p PORT] [WORD=VALUE]...
 *
 * One thread, one epoll. POST gets a completion, streamed when its body says `"stream": true`; GET gets a list of
 * models. WORDs say how it answers and fails (spec.h); a POST to /standin with WORDs as its body changes them for all
 * requests to come. It prints {"port":…} when it listens (-p 0: a free port), and at SIGTERM what it did: connections,
 * requests, streams, events, CPU, and how late its own events left.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answers.h"
#include "asked.h"
#include "clock.h"
#include "deadlines.h"
#include "histogram.h"
#include "message.h"

typedef enum { READING, THINKING, STREAMING, SILENT } phase;

typedef struct connection {
    deadline next; /* first, so that a deadline is its connection */
    int fd;
    phase phase;
    bool streamed, usage, wants_out;
    enum { TO_THE_END, TO_A_FIN, TO_A_RST } goes;
    unsigned sent; /* content events of this answer */
    uint64_t received;
    spec spec;
    text out; /* what the kernel would not take yet */
    size_t out_from;
    message request;
    body_ends body;
} connection;

static int epoll_fd, listen_fd;
static spec usual = {.events = 64};
static text scratch; /* one answer under construction */
static volatile sig_atomic_t stopping;
static struct {
    uint64_t connections, requests, streams, events, unread;
    histogram late;
} done;

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

static void watch(connection *c, bool out)
{
    struct epoll_event e = {EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), {.ptr = c}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    c->wants_out = out;
}

static void hang_up(connection *c, bool reset)
{
    struct linger now = {1, 0};
    deadline_clear(&c->next);
    if (reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c->fd);
    free(c->out.bytes);
    free(c);
}

/* Sends what stands in `scratch`; what the kernel will not take waits. False: the connection is gone. */
static bool send_scratch(connection *c)
{
    size_t sent = 0;
    if (!c->wants_out) {
        ssize_t n = send(c->fd, scratch.bytes, scratch.len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            scratch.len = 0;
            hang_up(c, false);
            return false;
        }
        sent = n < 0 ? 0 : (size_t)n;
    }
    if (sent < scratch.len) {
        text_reserve(&c->out, scratch.len - sent);
        memcpy(c->out.bytes + c->out.len, scratch.bytes + sent, scratch.len - sent);
        c->out.len += scratch.len - sent;
        if (!c->wants_out)
            watch(c, true);
    }
    scratch.len = 0;
    return true;
}

static void expect_request(connection *c)
{
    c->phase = READING;
    ends_reset(&c->body);
    message_reset(&c->request, false);
}

/* What was put into `scratch` is the whole answer. */
static void answer_is_whole(connection *c)
{
    if (send_scratch(c))
        expect_request(c);
}

static uint64_t on_tick(const spec *s, uint64_t due)
{
    return s->tick_ns ? (due + s->tick_ns - 1) / s->tick_ns * s->tick_ns : due;
}

/* The connection's time has come: its answer, or the next part of its stream. */
static void go_on(connection *c)
{
    uint64_t due = c->next.due;
    deadline_clear(&c->next);
    if (!c->streamed) {
        add_completion(&scratch, c->received, c->spec.pad, c->spec.events);
        answer_is_whole(c);
        return;
    }
    c->phase = STREAMING;
    while (c->sent < c->spec.events) {
        if (c->goes != TO_THE_END && c->sent >= c->spec.events / 2) {
            hang_up(c, c->goes == TO_A_RST);
            return;
        }
        if (c->wants_out) { /* it does not read: a provider would wait, too */
            done.unread++;
            return;
        }
        add_content(&scratch, c->received, c->spec.pad);
        if (!send_scratch(c))
            return;
        c->sent++;
        done.events++;
        if (c->spec.interval_ns && c->sent < c->spec.events) {
            deadline_set(&c->next, on_tick(&c->spec, due + c->spec.interval_ns));
            return;
        }
    }
    add_stream_end(&scratch, c->spec.events, c->usage);
    answer_is_whole(c);
}

static unsigned draw(void) /* 0..99, the same in every run */
{
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % 100;
}

/* A whole request is here. */
static void answer(connection *c)
{
    c->received = now_ns();
    if (strncmp(c->request.head, "POST /standin ", 14) == 0) {
        spec_read(&usual, c->body.first) ? add_facts(&scratch) : add_overloaded(&scratch);
        answer_is_whole(c);
        return;
    }
    done.requests++;
    if (strncmp(c->request.head, "POST", 4) != 0) {
        add_facts(&scratch);
        answer_is_whole(c);
        return;
    }
    c->spec = ends_spec(&c->body, &usual);
    c->streamed = ends_say(&c->body, "\"stream\"", "true");
    c->usage = ends_say(&c->body, "\"include_usage\"", "true");
    c->sent = 0;
    if (draw() < c->spec.fail) {
        add_overloaded(&scratch);
        answer_is_whole(c);
        return;
    }
    if (draw() < c->spec.stall) {
        c->phase = SILENT;
        return;
    }
    unsigned dice = draw();
    c->goes = dice < c->spec.cut ? TO_A_FIN : dice < c->spec.cut + c->spec.reset ? TO_A_RST : TO_THE_END;
    c->phase = THINKING;
    if (c->streamed) {
        done.streams++;
        add_stream_head(&scratch);
        if (!send_scratch(c))
            return;
    }
    c->next.due = on_tick(&c->spec, c->received + c->spec.first_ns);
    if (c->spec.first_ns)
        deadline_set(&c->next, c->next.due);
    else
        go_on(c);
}

static void take_body(void *context, const char *bytes, size_t count)
{
    connection *c = context;
    ends_take(&c->body, bytes, count);
}

static void on_readable(connection *c)
{
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    /* Nobody pipelines to a provider: bytes during an answer are as bad as a close. */
    if (n <= 0 || c->phase != READING) {
        hang_up(c, n > 0);
        return;
    }
    size_t used = message_feed(&c->request, buffer, (size_t)n, take_body, c);
    if (c->request.state == MALFORMED || used < (size_t)n)
        hang_up(c, true);
    else if (c->request.state == COMPLETE)
        answer(c);
}

/* The kernel takes bytes again. False: the connection is gone. */
static bool on_writable(connection *c)
{
    ssize_t n = send(c->fd, c->out.bytes + c->out_from, c->out.len - c->out_from, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        hang_up(c, false);
        return false;
    }
    c->out_from += n < 0 ? 0 : (size_t)n;
    if (c->out_from < c->out.len)
        return true;
    c->out_from = c->out.len = 0;
    watch(c, false);
    if (c->phase == STREAMING && c->next.place == 0)
        deadline_set(&c->next, now_ns()); /* it was due meanwhile */
    return true;
}

static void accept_all(void)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection *c = calloc(1, sizeof *c);
        if (c == NULL)
            abort();
        c->fd = fd;
        expect_request(c);
        struct epoll_event e = {EPOLLIN | EPOLLRDHUP, {.ptr = c}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
        done.connections++;
    }
}

static void run_due(void)
{
    uint64_t now = now_ns();
    for (deadline *d; (d = deadline_next()) != NULL && d->due <= now;) {
        histogram_add(&done.late, now - d->due);
        go_on((connection *)d);
    }
}

static void wait_and_serve(void)
{
    struct epoll_event events[256];
    deadline *next = deadline_next();
    uint64_t now = now_ns(), wait = next == NULL ? 1000000000u : next->due > now ? next->due - now : 0;
    struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
    int count = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        connection *c = events[i].data.ptr;
        uint32_t what = events[i].events;
        if (c == NULL)
            accept_all();
        else if (what & (EPOLLERR | EPOLLHUP))
            hang_up(c, false);
        else if ((what & EPOLLOUT) && !on_writable(c))
            continue;
        else if (what & (EPOLLIN | EPOLLRDHUP))
            on_readable(c);
    }
    run_due();
}

static int listen_on(const char *address, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t len = sizeof a;
    int on = 1;
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (inet_pton(AF_INET, address, &a.sin_addr) != 1 || bind(listen_fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        listen(listen_fd, 65535) != 0 || getsockname(listen_fd, (struct sockaddr *)&a, &len) != 0) {
        perror("standin: listen");
        exit(1);
    }
    return ntohs(a.sin_port);
}

static void report(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"connections\":%llu,\"requests\":%llu,\"streams\":%llu,\"events\":%llu,\"unread\":%llu,\"cpu_s\":%.6f,"
           "\"late_ms\":",
           (unsigned long long)done.connections, (unsigned long long)done.requests, (unsigned long long)done.streams,
           (unsigned long long)done.events, (unsigned long long)done.unread, cpu);
    histogram_print(&done.late, stdout);
    puts("}");
}

int main(int argc, char **argv)
{
    const char *address = "127.0.0.1";
    int port = 0, option;
    while ((option = getopt(argc, argv, "a:p:")) != -1) {
        if (option == 'a')
            address = optarg;
        else if (option == 'p')
            port = atoi(optarg);
        else
            return 2;
    }
    for (; optind < argc; optind++)
        if (!spec_read(&usual, argv[optind])) {
            fprintf(stderr, "standin: what is %s?\n", argv[optind]);
            return 2;
        }
    prctl(PR_SET_TIMERSLACK, 1ul); /* waits end when they should, not 50 µs later */
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    printf("{\"port\":%d}\n", listen_on(address, port));
    fflush(stdout);
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &e);
    while (!stopping)
        wait_and_serve();
    report();
    return 0;
}

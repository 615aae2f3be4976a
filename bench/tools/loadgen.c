/* loadgen: keeps connections busy with chat calls and tells what stands between them and the stand-in costs and adds.
 *
 *     loadgen -u http://127.0.0.1:PORT/path [options]
 *
 *     -c N     connections, each with one call after the other (1)
 *     -S S     they start evenly spread over so many seconds (0: all at once)
 *     -w S     warm-up that is not counted (0)      -d S   seconds counted after it (5)
 *     -n N     so many calls in all, then end; -d is then the longest it may take
 *     -s       streamed calls                       -U     that ask for usage
 *     -k KEY   the bearer token                     -K N   or N keys in turn: KEY and eight digits
 *     -m MODEL                                      -b N   bytes of a body, about
 *     -H LINE  one more header, such as 'X-Team: a' (up to 8 times)
 *     -x WORDS what the stand-in is asked to do (spec.h), as a field of the body
 *     -B N     source addresses 127.0.0.1 to 127.0.0.N in turn, for more connections than one has ports
 *     -P PID   CPU and memory of this process and its children, over the seconds counted (up to 8 times)
 *     -1       a new connection for each call
 *     -z       never read the answer: connections are held until the end
 *
 * One thread, one epoll. Ends before its time at SIGTERM. Prints one JSON object (tally.c). Times are in milliseconds: `delay` of each content event
 * since the stand-in sent it; `first_content` since the call was sent; `added`: of that, what was not the stand-in's
 * own (call sent → arrived there, and first content sent → here); `total` of a whole call.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "deadlines.h"
#include "events.h"
#include "message.h"
#include "options.h"
#include "tally.h"

#define REDIAL_NS 50000000u /* after a failure: 50 ms */

typedef enum { CLOSED, CONNECTING, SENDING, WAITING, HOLDING, OVER } phase;

typedef struct {
    deadline dial; /* first, so that a deadline is its connection */
    int fd;
    unsigned number;
    phase phase;
    bool had_content;
    uint64_t started;
    size_t sent;
    char digits[16]; /* KEY_DIGITS of them */
    message answer;
    event_reader body;
} connection;

static options o;
static request_text request;
static connection *connections;
static tally counts;
static int epoll_fd;
static long left_to_start;  /* with -n */
static unsigned over;       /* connections with nothing more to do */
static uint64_t segment_at; /* when the segment in hand was read */
static uint64_t calls;
static volatile sig_atomic_t stopping;

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

static void watch(connection *c, uint32_t events, int operation)
{
    struct epoll_event e = {events, {.ptr = c}};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
}

static void hang_up(connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->phase = CLOSED;
}

static void retire(connection *c)
{
    hang_up(c);
    c->phase = OVER;
    over++;
}

/* Ends the call that is under way. The connection, too, unless it is fit for another. */
static void settle(connection *c, outcome how)
{
    bool another = c->phase == WAITING && !c->answer.close && !o.once && (how == OK || how == STATUS || how == NO_DONE);
    if (counts.recording) {
        counts.outcomes[how]++;
        if (c->answer.status > 0 && c->answer.status < 600)
            counts.statuses[c->answer.status]++;
        if (how == OK)
            histogram_add(&counts.total, segment_at - c->started);
    }
    if (!another) {
        hang_up(c);
        deadline_set(&c->dial, how == OK ? now_ns() : now_ns() + REDIAL_NS);
    } else {
        c->phase = CLOSED; /* for a moment: begin() follows */
    }
}

static void send_more(connection *c)
{
    struct iovec parts[3] = {{request.before, request.before_len},
                             {c->digits, o.keys ? KEY_DIGITS : 0},
                             {request.after, request.after_len}};
    struct iovec *from = parts;
    size_t skip = c->sent;
    while (skip >= from->iov_len && from < parts + 2)
        skip -= from++->iov_len;
    from->iov_base = (char *)from->iov_base + skip;
    from->iov_len -= skip;
    struct msghdr m = {.msg_iov = from, .msg_iovlen = (size_t)(parts + 3 - from)};
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        settle(c, RESET);
        return;
    }
    c->sent += n < 0 ? 0 : (size_t)n;
    if (c->sent < request.before_len + (o.keys ? KEY_DIGITS : 0) + request.after_len) {
        if (c->phase != SENDING)
            watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
        c->phase = SENDING;
        return;
    }
    if (o.never_read)
        watch(c, EPOLLRDHUP, EPOLL_CTL_MOD);
    else if (c->phase == SENDING)
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
    c->phase = o.never_read ? HOLDING : WAITING;
}

/* Starts a call on an open connection. */
static void begin(connection *c)
{
    if (o.requests >= 0 && left_to_start-- <= 0) {
        retire(c);
        return;
    }
    if (o.keys) /* a stride that visits all of them, far from each other */
        snprintf(c->digits, sizeof c->digits, "%08u", (unsigned)(calls * 7919 % o.keys));
    calls++;
    c->sent = 0;
    c->had_content = false;
    message_reset(&c->answer, true);
    events_reset(&c->body);
    c->started = now_ns();
    send_more(c);
}

static void dial(connection *c)
{
    int on = 1;
    deadline_clear(&c->dial);
    if (o.requests >= 0 && left_to_start <= 0) {
        retire(c);
        return;
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("loadgen: socket");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (o.sources > 1) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + c->number % o.sources);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source) != 0)
            perror("loadgen: bind");
    }
    message_reset(&c->answer, true);
    c->phase = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&o.target, sizeof o.target) != 0 && errno != EINPROGRESS)
        settle(c, REFUSED);
    else
        watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void on_connected(connection *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        settle(c, REFUSED);
        return;
    }
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    begin(c);
}

static void take_stamp(void *context, uint64_t sent, uint64_t received)
{
    connection *c = context;
    if (counts.recording) {
        uint64_t delay = segment_at > sent ? segment_at - sent : 0;
        counts.events++;
        histogram_add(&counts.delay, delay);
        if (!c->had_content) {
            histogram_add(&counts.first_content, segment_at - c->started);
            histogram_add(&counts.added, delay + (received > c->started ? received - c->started : 0));
        }
    }
    c->had_content = true;
}

static void take_body(void *context, const char *bytes, size_t count)
{
    connection *c = context;
    events_feed(&c->body, bytes, count, take_stamp, c);
}

static outcome outcome_of(connection *c)
{
    events_end(&c->body, take_stamp, c);
    if (c->answer.status != 200)
        return STATUS;
    if (!o.streamed)
        return c->had_content ? OK : NO_DONE;
    return c->body.error ? ERROR_EVENT : c->body.done ? OK : NO_DONE;
}

static void on_readable(connection *c)
{
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    segment_at = now_ns();
    if (n <= 0) {
        bool in_body = c->answer.state != IN_HEAD || c->answer.head_len > 0;
        if (n == 0 && in_body && message_closed(&c->answer)) {
            c->answer.close = true;
            settle(c, outcome_of(c));
        } else {
            settle(c, n == 0 && in_body ? TRUNCATED : RESET);
        }
        return;
    }
    if (counts.recording)
        counts.bytes += (uint64_t)n;
    size_t used = message_feed(&c->answer, buffer, (size_t)n, take_body, c);
    if (c->answer.state == MALFORMED || used < (size_t)n || (c->answer.state == COMPLETE && c->phase == SENDING))
        settle(c, MALFORMED_ANSWER); /* so is an answer to half a call */
    else if (c->answer.state == COMPLETE) {
        settle(c, outcome_of(c));
        if (c->phase == CLOSED && c->fd >= 0)
            begin(c);
    }
}

static void on_event(connection *c, uint32_t what)
{
    if (c->fd < 0)
        return;
    if (c->phase == CONNECTING)
        on_connected(c);
    else if (c->phase == HOLDING)
        settle(c, RESET);
    else if ((what & EPOLLOUT) && c->phase == SENDING)
        send_more(c);
    else
        on_readable(c);
}

/* Dials what is due and serves what is ready; waits until `end` at the longest. */
static void turn(uint64_t end)
{
    struct epoll_event events[256];
    uint64_t now = now_ns();
    for (deadline *d; (d = deadline_next()) != NULL && d->due <= now;)
        dial((connection *)d);
    if (over == o.connections)
        return;
    deadline *next = deadline_next();
    if (next != NULL && next->due < end)
        end = next->due;
    uint64_t wait = end > now ? end - now : 0;
    struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
    int count = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
    for (int i = 0; i < count; i++)
        on_event(events[i].data.ptr, events[i].events);
}

int main(int argc, char **argv)
{
    o = options_read(argc, argv);
    request = request_build(&o);
    left_to_start = o.requests;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    prctl(PR_SET_TIMERSLACK, 1ul);
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGTERM, &stop, NULL);
    connections = calloc(o.connections, sizeof *connections);
    if (connections == NULL)
        abort();
    uint64_t start = now_ns(), warm = start + (uint64_t)(o.warmup_s * NS_PER_S);
    for (unsigned i = 0; i < o.connections; i++) {
        connections[i].fd = -1;
        connections[i].number = i;
        deadline_set(&connections[i].dial, start + (uint64_t)(o.spread_s * NS_PER_S * i / o.connections));
    }
    while (now_ns() < warm && !stopping)
        turn(warm);
    tally_begin(&counts, &o);
    uint64_t end = counts.began + (uint64_t)(o.duration_s * NS_PER_S);
    while (now_ns() < end && !stopping && over < o.connections)
        turn(end);
    unsigned open = 0, held = 0;
    for (unsigned i = 0; i < o.connections; i++) {
        open += connections[i].phase == WAITING && connections[i].had_content;
        held += connections[i].phase == HOLDING;
    }
    tally_print(&counts, &o, open, held);
    return 0;
}

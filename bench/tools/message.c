#define _GNU_SOURCE
#include "message.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void message_reset(message *m, bool is_answer)
{
    m->state = IN_HEAD;
    m->is_answer = is_answer;
    m->close = false;
    m->status = 0;
    m->line_len = m->digits = 0;
    m->left = 0;
    m->head_len = 0;
}

/* The value of a header line with this lower-case name, or NULL. */
static const char *value_of(const char *line, const char *name)
{
    size_t len = strlen(name);
    if (strncasecmp(line, name, len) != 0 || line[len] != ':')
        return NULL;
    const char *value = line + len + 1;
    return value + strspn(value, " \t");
}

/* Reads what the head says about the body. The head is whole and ends with NUL. */
static void read_head(message *m)
{
    bool chunked = false, sized = false;
    m->left = 0;
    if (m->is_answer) {
        if (strncmp(m->head, "HTTP/1.", 7) != 0) {
            m->state = MALFORMED;
            return;
        }
        m->status = atoi(m->head + 9);
    }
    for (const char *line = strstr(m->head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        const char *value;
        line += 2;
        /* Few header names matter, and all of them begin with these letters. */
        if ((*line | 32) == 'c') {
            if ((value = value_of(line, "content-length"))) {
                m->left = strtoull(value, NULL, 10);
                sized = true;
            } else if ((value = value_of(line, "connection"))) {
                m->close = strncasecmp(value, "close", 5) == 0;
            }
        } else if ((*line | 32) == 't' && (value = value_of(line, "transfer-encoding"))) {
            chunked = strncasecmp(value, "chunked", 7) == 0;
        }
    }
    if (m->is_answer && m->status / 100 == 1) /* an interim answer: the real one follows */
        m->head_len = 0;
    else if (chunked)
        m->state = IN_CHUNK_SIZE;
    else if (sized && m->left)
        m->state = IN_SIZED_BODY;
    else if (sized || !m->is_answer || m->status == 204 || m->status == 304)
        m->state = COMPLETE;
    else
        m->state = UNTIL_CLOSE;
}

static size_t feed_head(message *m, const char *bytes, size_t count)
{
    size_t before = m->head_len, room = MESSAGE_HEAD_MAX - before;
    size_t taken = count < room ? count : room;
    memcpy(m->head + before, bytes, taken);
    m->head_len += taken;
    /* The blank line may have begun three bytes ago. */
    size_t from = before > 3 ? before - 3 : 0;
    char *end = memmem(m->head + from, m->head_len - from, "\r\n\r\n", 4);
    if (end == NULL) {
        if (m->head_len == MESSAGE_HEAD_MAX)
            m->state = MALFORMED;
        return taken;
    }
    size_t whole = (size_t)(end + 4 - m->head);
    m->head_len = whole;
    m->head[whole] = 0;
    read_head(m);
    return whole - before;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of a chunk-size line: digits, an optional extension, CRLF. */
static void feed_size(message *m, char c)
{
    int digit = m->line_len == m->digits ? hex_digit(c) : -1;
    m->line_len++;
    if (digit >= 0 && m->digits < 15) {
        m->left = m->left * 16 + (uint64_t)digit;
        m->digits++;
    } else if (c == '\n' && m->digits) {
        m->state = m->left ? IN_CHUNK : IN_TRAILER;
        m->line_len = m->digits = 0;
    } else if (!m->digits || (c != '\r' && c != ';' && m->line_len == m->digits + 1) || m->line_len > 256) {
        m->state = MALFORMED;
    }
}

/* One byte of the CRLF after a chunk. */
static void feed_chunk_end(message *m, char c)
{
    if (c != "\r\n"[m->line_len++])
        m->state = MALFORMED;
    else if (m->line_len == 2) {
        m->state = IN_CHUNK_SIZE;
        m->line_len = 0;
        m->left = 0;
    }
}

/* One byte after the last chunk: trailer lines, then an empty one. */
static void feed_trailer(message *m, char c)
{
    if (c == '\n') {
        if (m->line_len == 0)
            m->state = COMPLETE;
        m->line_len = 0;
    } else if (c != '\r') {
        m->line_len++;
    }
}

size_t message_feed(message *m, const char *bytes, size_t count, body_taker *take, void *context)
{
    size_t used = 0;
    while (used < count && m->state != COMPLETE && m->state != MALFORMED) {
        const char *here = bytes + used;
        size_t rest = count - used;
        switch (m->state) {
        case IN_HEAD:
            used += feed_head(m, here, rest);
            break;
        case IN_CHUNK_SIZE:
            feed_size(m, *here);
            used++;
            break;
        case IN_CHUNK_END:
            feed_chunk_end(m, *here);
            used++;
            break;
        case IN_TRAILER:
            feed_trailer(m, *here);
            used++;
            break;
        case UNTIL_CLOSE:
            take(context, here, rest);
            used = count;
            break;
        default: /* IN_SIZED_BODY, IN_CHUNK */
            if (rest > m->left)
                rest = (size_t)m->left;
            take(context, here, rest);
            used += rest;
            m->left -= rest;
            if (m->left == 0)
                m->state = m->state == IN_CHUNK ? IN_CHUNK_END : COMPLETE;
        }
    }
    return used;
}

bool message_closed(message *m)
{
    if (m->state == UNTIL_CLOSE)
        m->state = COMPLETE;
    return m->state == COMPLETE;
}

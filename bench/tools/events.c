#include "events.h"

#include <string.h>

void events_reset(event_reader *r)
{
    r->len = 0;
    r->done = r->error = false;
}

/* Reads digits up to `until`; false if anything else stands there. */
static bool read_digits(const char **at, const char *end, char until, uint64_t *value)
{
    const char *p = *at;
    *value = 0;
    while (p < end && *p >= '0' && *p <= '9')
        *value = *value * 10 + (uint64_t)(*p++ - '0');
    if (p == end || p - *at < 10 || *p != until)
        return false;
    *at = p + 1;
    return true;
}

static void read_line(event_reader *r, const char *line, size_t len, stamp_taker *take, void *context)
{
    const char *end = line + len, *at = line;
    if (len >= 12 && memcmp(line, "data: [DONE]", 12) == 0) {
        r->done = true;
        return;
    }
    if (len >= 14 && memcmp(line, "data: {\"error\"", 14) == 0) {
        r->error = true;
        return;
    }
    while ((at = memchr(at, '@', (size_t)(end - at))) != NULL) {
        uint64_t sent, received;
        at++;
        if (read_digits(&at, end, '/', &sent) && read_digits(&at, end, ';', &received)) {
            take(context, sent, received);
            return;
        }
    }
}

static void keep(event_reader *r, const char *bytes, size_t count)
{
    size_t room = LINE_MAX_KEPT - r->len;
    if (count > room)
        count = room;
    memcpy(r->line + r->len, bytes, count);
    r->len += count;
}

void events_feed(event_reader *r, const char *bytes, size_t count, stamp_taker *take, void *context)
{
    while (count) {
        const char *end = memchr(bytes, '\n', count);
        if (end == NULL) {
            keep(r, bytes, count);
            return;
        }
        size_t len = (size_t)(end - bytes);
        if (r->len) { /* the line began in an earlier segment */
            keep(r, bytes, len);
            read_line(r, r->line, r->len, take, context);
            r->len = 0;
        } else if (len) {
            read_line(r, bytes, len, take, context);
        }
        bytes += len + 1;
        count -= len + 1;
    }
}

void events_end(event_reader *r, stamp_taker *take, void *context)
{
    if (r->len)
        read_line(r, r->line, r->len, take, context);
    r->len = 0;
}

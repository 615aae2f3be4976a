/* Finds in an answer's body what the stand-in put there: stamps, the end of a stream, an error. The body may be cut
 * anywhere. Works on server-sent events line by line, and on a plain JSON body as on one long line.
 */
#ifndef BENCH_EVENTS_H
#define BENCH_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of a longer line the beginning is enough: gateways put up to some hundred bytes before the content. */
#define LINE_MAX_KEPT 2048

typedef struct {
    size_t len;                /* of the line under way, at most LINE_MAX_KEPT */
    bool done, error;          /* seen: `data: [DONE]`, an event that is an error */
    char line[LINE_MAX_KEPT];
} event_reader;

/* Called for each content: when it was sent, and when its request had come in. */
typedef void stamp_taker(void *context, uint64_t sent, uint64_t received);

void events_reset(event_reader *r);
void events_feed(event_reader *r, const char *bytes, size_t count, stamp_taker *take, void *context);

/* The body has ended: a last line without a line end counts, too. */
void events_end(event_reader *r, stamp_taker *take, void *context);

#endif

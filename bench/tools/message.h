/* One HTTP/1.1 message at a time, read from segments that may be cut anywhere.
 *
 * Strict where a relay could go wrong: a chunk must have a hexadecimal size, end with CRLF, and the message with a
 * zero chunk. Both programs read with it: `standin` requests, `loadgen` answers.
 */
#ifndef BENCH_MESSAGE_H
#define BENCH_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESSAGE_HEAD_MAX 8192

typedef enum {
    IN_HEAD,
    IN_SIZED_BODY,
    IN_CHUNK_SIZE,
    IN_CHUNK,
    IN_CHUNK_END,
    IN_TRAILER,
    UNTIL_CLOSE,
    COMPLETE,
    MALFORMED
} message_state;

typedef struct {
    message_state state;
    bool is_answer;      /* an answer without a length goes on until the connection closes; a request has no body */
    bool close;          /* "Connection: close" */
    int status;          /* of an answer */
    unsigned line_len;   /* of the chunk-size or trailer line under way */
    unsigned digits;     /* of the chunk size under way */
    uint64_t left;       /* bytes to come of the body or chunk */
    size_t head_len;
    char head[MESSAGE_HEAD_MAX + 1]; /* up to and with the blank line, then NUL */
} message;

typedef void body_taker(void *context, const char *bytes, size_t count);

/* Starts a new message. */
void message_reset(message *m, bool is_answer);

/* Takes bytes until the message is COMPLETE or MALFORMED; returns how many it used. */
size_t message_feed(message *m, const char *bytes, size_t count, body_taker *take, void *context);

/* The connection has ended: true if this was a proper end of the message. */
bool message_closed(message *m);

#endif

/* What loadgen counts, from the end of the warm-up on, and prints at the end as one JSON object. */
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"
#include "options.h"

typedef enum {
    OK,        /* a whole answer with 200; a stream up to [DONE] */
    REFUSED,   /* no connection */
    STATUS,    /* a whole answer with another status */
    ERROR_EVENT, /* a stream that told an error */
    NO_DONE,   /* a stream that ended well but without [DONE] */
    TRUNCATED, /* the connection was closed in the middle */
    RESET,     /* the connection was reset, or closed before an answer */
    MALFORMED_ANSWER,
    OUTCOMES
} outcome;

typedef struct {
    bool recording;
    uint64_t began, events, bytes;
    uint64_t outcomes[OUTCOMES], statuses[600];
    histogram first_content, added, delay, total;
} tally;

/* The warm-up is over: takes the time and the CPU used so far. */
void tally_begin(tally *t, const options *o);

/* `open`: answers under way; `held`: never-reading connections that still stand. */
void tally_print(tally *t, const options *o, unsigned open, unsigned held);

#endif

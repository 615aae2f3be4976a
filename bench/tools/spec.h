/* How the stand-in answers, in words such as `events=64 interval_ms=20`: on its command line for all requests, and in
 * a request's own field `"standin": "…"` for that one.
 */
#ifndef BENCH_SPEC_H
#define BENCH_SPEC_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    unsigned events;       /* content events of a stream */
    uint64_t first_ns;     /* silence before the first content, plain answers too */
    uint64_t interval_ns;  /* between two content events; 0: all at once */
    uint64_t tick_ns;      /* events leave on multiples of this only, so that streams move in step; 0: each on its own */
    unsigned pad;          /* bytes of padding in each content */
    /* Failures, in per cent of requests. */
    unsigned fail;         /* answered with 503 */
    unsigned stall;        /* never answered */
    unsigned cut;          /* streams that end in the middle with a FIN */
    unsigned reset;        /* streams that end in the middle with a RST */
} spec;

#define SPEC_PAD_MAX (16u << 20)

/* Reads words up to the end or a quote into `s`; false if one is unknown or out of range. */
bool spec_read(spec *s, const char *words);

#endif

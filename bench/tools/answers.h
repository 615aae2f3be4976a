/* The bytes of an OpenAI-like provider. Every content begins with a stamp:
 *
 *     "content": "@<sent>/<received>;padding"
 *
 * both 19 digits of CLOCK_MONOTONIC nanoseconds: when this content was sent, and when its request had come in. The
 * stamp stands in the text and not in a field of its own, since gateways that rewrite events drop unknown fields.
 */
#ifndef BENCH_ANSWERS_H
#define BENCH_ANSWERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *bytes;
    size_t len, room;
} text;

/* Each appends to `t`. */
void add_stream_head(text *t); /* with the event that tells the role */
void add_content(text *t, uint64_t received, unsigned pad);
void add_stream_end(text *t, unsigned events, bool usage);
void add_completion(text *t, uint64_t received, unsigned pad, unsigned tokens);
void add_overloaded(text *t);
void add_facts(text *t); /* to any GET: a list of models that also passes for a health report */

/* Room for `more` bytes after `len`. */
void text_reserve(text *t, size_t more);

#endif

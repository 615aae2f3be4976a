/* What a request's body asks of the stand-in. Of a long body only its two ends are kept and looked at: what matters
 * stands before or after the messages.
 */
#ifndef BENCH_ASKED_H
#define BENCH_ASKED_H

#include <stdbool.h>
#include <stddef.h>

#include "spec.h"

#define END_OF_BODY 2048

typedef struct {
    size_t first_len, last_len;
    char first[END_OF_BODY + 1], last[END_OF_BODY + 1];
} body_ends;

void ends_reset(body_ends *ends);
void ends_take(body_ends *ends, const char *bytes, size_t count);

/* Whether a field `"name"` has this value. */
bool ends_say(const body_ends *ends, const char *name, const char *value);

/* `usual`, changed by the body's own "standin" words, if it brings some. */
spec ends_spec(const body_ends *ends, const spec *usual);

#endif

/* What is due when: a binary heap, so that each stream keeps its own phase to the microsecond. */
#ifndef BENCH_DEADLINES_H
#define BENCH_DEADLINES_H

#include <stdint.h>

/* Lives inside what has a deadline. */
typedef struct {
    uint64_t due;   /* CLOCK_MONOTONIC ns */
    unsigned place; /* in the heap, counted from 1; 0: not there */
} deadline;

void deadline_set(deadline *d, uint64_t due);
void deadline_clear(deadline *d);

/* The earliest, or NULL. */
deadline *deadline_next(void);

#endif

/* Durations in nanoseconds, counted in buckets that are at most 1.6 % wide: percentiles without keeping values. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

#define HISTOGRAM_BUCKETS (60 * 64)

typedef struct {
    uint64_t count, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
} histogram;

void histogram_add(histogram *h, uint64_t ns);

/* The value under which `share` (0..1) of all values lie, in nanoseconds; 0 without values. */
double histogram_quantile(const histogram *h, double share);

/* {"count":…,"p50":…,"p90":…,"p99":…,"p999":…,"max":…}, in milliseconds. */
void histogram_print(const histogram *h, FILE *out);

#endif

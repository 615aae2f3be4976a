#include "histogram.h"

#include "clock.h"

/* Values below 128 have a bucket each; above, every power of two is cut into 64 equal buckets. */
static unsigned bucket_of(uint64_t ns)
{
    if (ns < 128)
        return (unsigned)ns;
    unsigned exponent = 63u - (unsigned)__builtin_clzll(ns);
    unsigned bucket = (exponent - 5) * 64 + (unsigned)((ns >> (exponent - 6)) & 63);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static double middle_of(unsigned bucket)
{
    if (bucket < 128)
        return bucket;
    unsigned exponent = bucket / 64 + 5;
    uint64_t width = 1ull << (exponent - 6);
    return (double)((1ull << exponent) + (bucket % 64) * width) + (double)width / 2;
}

void histogram_add(histogram *h, uint64_t ns)
{
    h->buckets[bucket_of(ns)]++;
    h->count++;
    if (ns > h->max)
        h->max = ns;
}

double histogram_quantile(const histogram *h, double share)
{
    /* The rank is rounded up: of 100 values the 99 % one is the 99th, of three the median is the second. */
    uint64_t rank = (uint64_t)(share * (double)h->count + 0.999999), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && h->count; i++) {
        seen += h->buckets[i];
        if (seen && seen >= rank) {
            double value = middle_of(i);
            return value < (double)h->max ? value : (double)h->max;
        }
    }
    return (double)h->max;
}

void histogram_print(const histogram *h, FILE *out)
{
    fprintf(out, "{\"count\":%llu,\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"p999\":%.4f,\"max\":%.4f}",
            (unsigned long long)h->count, histogram_quantile(h, .5) / NS_PER_MS,
            histogram_quantile(h, .9) / NS_PER_MS, histogram_quantile(h, .99) / NS_PER_MS,
            histogram_quantile(h, .999) / NS_PER_MS, (double)h->max / NS_PER_MS);
}

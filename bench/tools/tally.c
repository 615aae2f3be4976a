#include "tally.h"

#include <stdio.h>
#include <sys/resource.h>

#include "clock.h"
#include "process.h"

static const char *const NAMES[OUTCOMES] = {"ok",      "refused",   "status", "error_event",
                                            "no_done", "truncated", "reset",  "malformed"};

static process_usage before[WATCHED_MAX];
static double own_before;

static double own_cpu(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

void tally_begin(tally *t, const options *o)
{
    t->recording = true;
    for (unsigned i = 0; i < o->watched_count; i++)
        before[i] = process_tree_usage(o->watched[i]);
    own_before = own_cpu();
    t->began = now_ns();
}

static void print_duration(const char *name, const histogram *h)
{
    printf(",\"%s\":", name);
    histogram_print(h, stdout);
}

/* CPU of each process since the warm-up; one that was born meanwhile counts from its birth. */
static void print_watched(const process_usage *from, const process_usage *to)
{
    double sum = 0, busiest = 0;
    for (int i = 0; i < to->processes; i++) {
        double used = to->cpu_s[i];
        for (int k = 0; k < from->processes; k++)
            if (from->pids[k] == to->pids[i])
                used -= from->cpu_s[k];
        sum += used;
        busiest = used > busiest ? used : busiest;
    }
    printf("{\"processes\":%d,\"cpu_s\":%.6f,\"busiest_s\":%.6f,\"rss_kb\":%ld}", to->processes, sum, busiest,
           to->rss_kb);
}

void tally_print(tally *t, const options *o, unsigned open, unsigned held)
{
    process_usage after[WATCHED_MAX];
    double seconds = (double)(now_ns() - t->began) / NS_PER_S, own = own_cpu() - own_before;
    for (unsigned i = 0; i < o->watched_count; i++)
        after[i] = process_tree_usage(o->watched[i]);
    printf("{\"seconds\":%.4f,\"events\":%llu,\"bytes\":%llu,\"open\":%u,\"held\":%u,\"own_cpu_s\":%.6f,\"outcomes\":{",
           seconds, (unsigned long long)t->events, (unsigned long long)t->bytes, open, held, own);
    for (int i = 0; i < OUTCOMES; i++)
        printf("%s\"%s\":%llu", i ? "," : "", NAMES[i], (unsigned long long)t->outcomes[i]);
    printf("},\"statuses\":{");
    const char *comma = "";
    for (int i = 0; i < 600; i++)
        if (t->statuses[i]) {
            printf("%s\"%d\":%llu", comma, i, (unsigned long long)t->statuses[i]);
            comma = ",";
        }
    printf("}");
    print_duration("first_content_ms", &t->first_content);
    print_duration("added_ms", &t->added);
    print_duration("delay_ms", &t->delay);
    print_duration("total_ms", &t->total);
    printf(",\"watched\":[");
    for (unsigned i = 0; i < o->watched_count; i++) {
        if (i)
            printf(",");
        print_watched(&before[i], &after[i]);
    }
    puts("]}");
}

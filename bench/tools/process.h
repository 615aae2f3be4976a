/* What other processes cost: CPU time and resident memory of a process and of all its descendants. */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <sys/types.h>

typedef struct {
    int processes;      /* found alive */
    double cpu_s;       /* user and system, since they began; to the nanosecond where the kernel allows */
    double busiest_s;   /* of the one that used most */
    long rss_kb;
} process_usage;

process_usage process_tree_usage(pid_t root);

#endif

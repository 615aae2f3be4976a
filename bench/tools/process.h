/* What other processes cost: CPU time and resident memory of a process and of all its descendants. */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <sys/types.h>

#define TREE_MAX 64

typedef struct {
    int processes; /* found alive */
    pid_t pids[TREE_MAX];
    double cpu_s[TREE_MAX]; /* user and system, since each began, to the nanosecond */
    long rss_kb;            /* of all of them */
} process_usage;

process_usage process_tree_usage(pid_t root);

#endif

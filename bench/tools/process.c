#define _GNU_SOURCE
#include "process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Appends the children of all threads of `pid`. */
static int add_children(pid_t pid, pid_t *list, int count)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL)
        return count;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char file[400];
        int child;
        if (task->d_name[0] == '.')
            continue;
        snprintf(file, sizeof file, "/proc/%d/task/%s/children", (int)pid, task->d_name);
        FILE *children = fopen(file, "r");
        if (children == NULL)
            continue;
        while (count < TREE_MAX && fscanf(children, "%d", &child) == 1)
            list[count++] = child;
        fclose(children);
    }
    closedir(tasks);
    return count;
}

static double cpu_of(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return -1;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long rss_of(pid_t pid)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *statm = fopen(path, "r");
    if (statm == NULL)
        return 0;
    if (fscanf(statm, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(statm);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

process_usage process_tree_usage(pid_t root)
{
    process_usage usage = {.processes = 0};
    pid_t list[TREE_MAX] = {root};
    int count = 1;
    for (int i = 0; i < count; i++) {
        double cpu = cpu_of(list[i]);
        if (cpu < 0) /* it has ended */
            continue;
        usage.pids[usage.processes] = list[i];
        usage.cpu_s[usage.processes++] = cpu;
        usage.rss_kb += rss_of(list[i]);
        count = add_children(list[i], list, count);
    }
    return usage;
}

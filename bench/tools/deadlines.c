#include "deadlines.h"

#include <stdlib.h>

static deadline **heap; /* heap[1] is the earliest */
static unsigned count, room;

static void put(unsigned place, deadline *d)
{
    heap[place] = d;
    d->place = place;
}

static void move_up(unsigned place, deadline *d)
{
    for (; place > 1 && heap[place / 2]->due > d->due; place /= 2)
        put(place, heap[place / 2]);
    put(place, d);
}

static void move_down(unsigned place, deadline *d)
{
    for (unsigned child; (child = place * 2) <= count; place = child) {
        if (child < count && heap[child + 1]->due < heap[child]->due)
            child++;
        if (heap[child]->due >= d->due)
            break;
        put(place, heap[child]);
    }
    put(place, d);
}

void deadline_set(deadline *d, uint64_t due)
{
    if (d->place == 0) {
        if (count + 2 > room) {
            room = room ? room * 2 : 1024;
            heap = realloc(heap, room * sizeof *heap);
            if (heap == NULL)
                abort();
        }
        d->due = due;
        move_up(++count, d);
    } else if (due < d->due) {
        d->due = due;
        move_up(d->place, d);
    } else {
        d->due = due;
        move_down(d->place, d);
    }
}

void deadline_clear(deadline *d)
{
    unsigned place = d->place;
    if (place == 0)
        return;
    d->place = 0;
    deadline *last = heap[count--];
    if (last == d)
        return;
    if (place > 1 && heap[place / 2]->due > last->due)
        move_up(place, last);
    else
        move_down(place, last);
}

deadline *deadline_next(void)
{
    return count ? heap[1] : NULL;
}

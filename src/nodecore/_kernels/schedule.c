/* See lanes/schedule.h and schedule.py. */
#include "lanes/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { LEVEL_OF_FIRST = 1 << 30 };

int64_t nc_schedule_bytes(int kind, int64_t slots)
{
    return kind == NC_KEEP_ALL ? 0 : slots * (6 * (int64_t)sizeof(int64_t));
}

/* Room for at least one more slot; 0, or -1 when memory is out. */
static int grow(nc_schedule *c)
{
    int64_t **arrays[] = {&c->step, &c->slot, &c->level, &c->soft_step, &c->soft_slot, &c->free_slot};
    int64_t cap = c->cap ? 2 * c->cap : 64, count = sizeof arrays / sizeof arrays[0];
    if (cap > c->slots)
        cap = c->slots;
    int64_t *block = malloc((size_t)nc_schedule_bytes(c->kind, cap));
    if (!block)
        return -1;
    int64_t *old = c->step;
    for (int64_t i = 0; i < count; i++) {
        if (c->cap)
            memcpy(block + i * cap, *arrays[i], (size_t)c->cap * sizeof(int64_t));
        *arrays[i] = block + i * cap;
    }
    free(old);
    c->cap = cap;
    return 0;
}

int nc_schedule_init(nc_schedule *c, int kind, int64_t slots, int64_t n, int64_t segment)
{
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->slots = slots;
    c->n = n;
    c->segment = segment;
    if (kind == NC_KEEP_ALL)
        return 0;
    nc_schedule_restart(c);
    return grow(c);
}

void nc_schedule_free(nc_schedule *c)
{
    free(c->step);
    c->step = NULL;
}

void nc_schedule_restart(nc_schedule *c)
{
    c->n_kept = c->n_hard = c->n_soft = 0;
    c->stride = 1;
    c->next = 0;
    c->consumed = 0;
    c->n_free = c->n_fresh = 0; /* slot 0 is handed out first */
}

/* C(s + r, s), or more than any number of steps. */
static int64_t reach(int64_t s, int64_t r)
{
    if (s < 0 || r < 0)
        return 0;
    if (s < r) { /* symmetric: the shorter product */
        int64_t swap = s;
        s = r;
        r = swap;
    }
    __int128 value = 1;
    for (int64_t i = 1; i <= r; i++) {
        value = value * (s + i) / i;
        if (value > ((__int128)1 << 60))
            return (int64_t)1 << 60;
    }
    return (int64_t)value;
}

int64_t nc_split(int64_t n, int64_t s)
{
    if (s == 1)
        return n - 1;
    int64_t r = 1, m;
    while (reach(s, r) < n)
        r++;
    int64_t here = reach(s, r - 1), below = reach(s - 1, r - 1), left = reach(s - 2, r - 1);
    if (n <= here + left)
        m = reach(s, r - 2);
    else if (n < here + below + left)
        m = n - below - left;
    else
        m = here;
    return m < 1 ? 1 : m;
}

static int64_t available(const nc_schedule *c)
{
    return c->n_free + c->slots - c->n_fresh;
}

static int64_t take(nc_schedule *c)
{
    if (c->n_free)
        return c->free_slot[--c->n_free];
    if (c->n_fresh == c->cap && grow(c))
        return -1;
    return c->n_fresh++;
}

/* Slots that the segment beginning at `start` has left, the newest kept state being in it or before. */
static int64_t segment_slots(const nc_schedule *c, int64_t start)
{
    if (c->segment >= c->n)
        return available(c);
    int64_t used = 0;
    while (used < c->n_kept && c->step[c->n_kept - 1 - used] >= start)
        used++;
    return c->slots / ((c->n + c->segment - 1) / c->segment) - used;
}

/* Keeps the state before step i, as the newest, in a slot that is available; -1 when memory is out. */
static int64_t keep(nc_schedule *c, int64_t i)
{
    int64_t slot = take(c); /* first: the arrays may move */
    if (slot < 0)
        return -1;
    c->step[c->n_kept] = i;
    c->slot[c->n_kept++] = slot;
    return slot;
}

static int64_t place_binomial(nc_schedule *c, int64_t i)
{
    if (i != c->next || i >= c->n) /* n may be off by one, where rounding decides */
        return -1;
    int64_t start = i / c->segment * c->segment;
    int64_t end = start + c->segment < c->n ? start + c->segment : c->n;
    int64_t left = segment_slots(c, start) - 1; /* behind this one */
    c->next = left == 0 || end - i == 1 ? end : i + nc_split(end - i, left + 1);
    return keep(c, i);
}

static int64_t place_uniform(nc_schedule *c, int64_t i)
{
    if (i % c->stride)
        return -1;
    if (available(c) == 0 && c->slots > 1) {
        int64_t m = 0;
        c->stride *= 2;
        for (int64_t j = 0; j < c->n_kept; j++) {
            if (j % 2) {
                c->free_slot[c->n_free++] = c->slot[j];
            } else {
                c->step[m] = c->step[j];
                c->slot[m++] = c->slot[j];
            }
        }
        c->n_kept = m;
    }
    if (i % c->stride || available(c) == 0)
        return -1;
    return keep(c, i);
}

static int64_t place_online(nc_schedule *c, int64_t i)
{
    int64_t level = 0, slot;
    if (i == 0)
        level = LEVEL_OF_FIRST;
    if (available(c)) {
        slot = take(c);
        if (slot < 0)
            return -1;
    } else if (c->n_soft) {
        slot = c->soft_slot[--c->n_soft];
    } else if (c->n_hard > 1) {
        c->n_hard--;
        slot = c->slot[c->n_hard];
        level = c->level[c->n_hard] + 1;
    } else {
        return -1;
    }
    int64_t lower = c->n_hard;
    while (lower && c->level[lower - 1] < level)
        lower--;
    for (int64_t j = lower; j < c->n_hard; j++) {
        c->soft_step[c->n_soft] = c->step[j];
        c->soft_slot[c->n_soft++] = c->slot[j];
    }
    c->step[lower] = i;
    c->slot[lower] = slot;
    c->level[lower] = level;
    c->n_hard = lower + 1;
    return slot;
}

int64_t nc_schedule_place(nc_schedule *c, int64_t i)
{
    switch (c->kind) {
    case NC_KEEP_BINOMIAL:
        return place_binomial(c, i);
    case NC_KEEP_UNIFORM:
        return place_uniform(c, i);
    case NC_KEEP_ONLINE:
        return place_online(c, i);
    default:
        return i;
    }
}

void nc_schedule_close(nc_schedule *c, int64_t n)
{
    c->n = n;
    if (c->segment == 0 || c->segment > n)
        c->segment = n;
    if (c->kind == NC_KEEP_ONLINE) {
        /* merge the two lists, both ascending, from the end: the result fits in step and slot */
        int64_t h = c->n_hard, s = c->n_soft;
        c->n_kept = h + s;
        for (int64_t j = c->n_kept - 1; s > 0; j--) {
            if (h > 0 && c->step[h - 1] > c->soft_step[s - 1]) {
                c->step[j] = c->step[--h];
                c->slot[j] = c->slot[h];
            } else {
                c->step[j] = c->soft_step[--s];
                c->slot[j] = c->soft_slot[s];
            }
        }
        c->n_hard = c->n_soft = 0;
    }
    while (c->n_kept && c->step[c->n_kept - 1] >= n)
        nc_schedule_drop(c); /* the state before a step that no lane ended up making */
}

void nc_schedule_drop(nc_schedule *c)
{
    c->n_kept--;
    c->free_slot[c->n_free++] = c->slot[c->n_kept];
}

int64_t nc_schedule_free_slots(const nc_schedule *c)
{
    return segment_slots(c, c->step[c->n_kept - 1] / c->segment * c->segment);
}

int64_t nc_schedule_push(nc_schedule *c, int64_t step)
{
    return keep(c, step);
}

/* Checkpoint schedules on integers: which steps keep their state, and in which slot. Plain C; the
 * specification, with the sources, is schedule.py. Memory is O(slots in use). */
#ifndef NODECORE_SCHEDULE_H
#define NODECORE_SCHEDULE_H

#include <stdint.h>

enum nc_schedule_kind {
    NC_KEEP_ALL = 0, /* every state, no limit */
    NC_KEEP_BINOMIAL, /* the number of steps is known */
    NC_KEEP_ONLINE,   /* it is not */
    NC_KEEP_UNIFORM
};

typedef struct {
    int32_t kind, consumed; /* consumed: a backward pass has used the slots */
    int64_t slots, n;       /* n: number of steps; 0 while unknown */
    int64_t segment;        /* steps of a segment with slots of its own, or n */
    /* kept states: step and slot, ascending. Online: the first n_hard are not dispensable while the
     * first sweep runs. */
    int64_t n_kept, n_hard, n_soft;
    int64_t n_free, n_fresh; /* slots given back; slots ever handed out */
    int64_t cap;             /* of the six arrays, which grow with n_fresh */
    int64_t *step, *slot, *level;           /* of the kept (online: of the hard) */
    int64_t *soft_step, *soft_slot, *free_slot;
    int64_t stride, next;                   /* uniform; binomial: the next step to keep */
} nc_schedule;

/* 0, or -1 when memory is out. n: 0 if unknown. */
int nc_schedule_init(nc_schedule *c, int kind, int64_t slots, int64_t n, int64_t segment);
void nc_schedule_free(nc_schedule *c);
int64_t nc_schedule_bytes(int kind, int64_t slots);

/* The first sweep is about to make step i: the slot that keeps the state before it, or -1. */
int64_t nc_schedule_place(nc_schedule *c, int64_t i);
/* The first sweep has made n steps. */
void nc_schedule_close(nc_schedule *c, int64_t n);
/* Forgets what was kept, for a first sweep made again with n known. */
void nc_schedule_restart(nc_schedule *c);

/* Steps to advance from a kept state before the next is kept, n to reverse, slots for them. */
int64_t nc_split(int64_t n, int64_t slots);

/* The backward pass, with steps [0, end) left to reverse: the newest kept state is (step, slot). */
void nc_schedule_drop(nc_schedule *c);                    /* it is not needed any more */
int64_t nc_schedule_free_slots(const nc_schedule *c);     /* in the newest state's segment */
int64_t nc_schedule_push(nc_schedule *c, int64_t step);   /* keeps another one: its slot */

#endif

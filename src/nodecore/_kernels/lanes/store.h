/* What the forward pass keeps for the backward one: fixed-size entries, one a tile step or one a slot
 * of a checkpoint schedule, in blocks. */
#ifndef NODECORE_STORE_H
#define NODECORE_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "schedule.h"

/* The entry of a tile step for L lanes and D rows of `real`, laid out by nc_record_init:
 *   int32 sample[L], q[L] (the next output when the step began), uint8 flags[L],
 *   double t[L], h[L], t_new[L], real y[D][L] (the state when the step began),
 *   real k[stages][D][L] (the stages, of methods that find them by iteration).
 * Where a schedule limits the entries, each is a checkpoint: behind the entry is the *carry*, what the
 * driver needs besides to make this step, and all behind it, again:
 *   nc_carry, double h_next[L], log_err1[L], log_err2[L], int64 count[L], accepted[L], rejected[L],
 *   int32 stop[L], uint8 more[L], and what Newton's iteration remembers: double [8][L], real [rows][D][L].
 * It has no stages: its step is made again to be reversed.
 * A checkpoint is kept before its step is made; the entry's h, t_new and accepted flags are filled in
 * when it is (nc_carry.complete). */
typedef struct {
    int64_t next, queue_first, queue_size, queue_pos; /* which samples wait, and which are ready */
    int32_t complete, unused;
} nc_carry;

/* Of the coupled scheme, which is undone step by step, a record holds no entries but one path a sample:
 * the pair of states (y, z), real [2][D], behind every `period` steps and behind the last, and the end of
 * each step where the grid is not known from the inputs. */
typedef struct {
    double *ends;
    char *pairs;
    int64_t n_ends, n_pairs;
} nc_path;

typedef struct {
    int64_t n, lanes, dim, real_bytes;
    int64_t entry_bytes, per_block, n_blocks, cap_blocks;
    int64_t off_q, off_flags, off_t, off_h, off_t_new, off_y;
    int64_t stages, off_stages;
    int64_t off_carry; /* 0: entries have none */
    int64_t carry_rows, off_newton; /* from the carry's begin */
    int64_t limit;     /* slots, or 0 */
    int64_t window;    /* tile steps from one state that may be kept to the next: the schedule's unit */
    int64_t most;      /* of a record without slots: entries that it may hold, or 0 */
    int64_t peak_bytes;
    char **blocks;
    /* Step traces, beside the entries: of the first steps, as many as their limit allows. Stage i =
     * 1 .. stages of the step has its argument and its residuals, real [D][L] and [res_rows][L]. */
    int64_t trace_bytes, trace_limit, traces_per_block, n_trace_blocks;
    int64_t trace_stages, trace_stage_bytes, trace_off_res;
    char **trace_blocks;
    nc_schedule plan;
    nc_path *paths; /* of the samples first_path .., or NULL */
    int64_t first_path, n_paths, period, path_bytes;
    char *last; /* the entry of the last step made, without a carry, kept beside the slots */
    int64_t last_bytes;
    int64_t recomputed; /* lane steps made again by the last backward pass */
} nc_record;

enum { NC_NEWTON_DOUBLES = 8 }; /* float64 arrays of the carry that Newton's iteration needs */

enum nc_lane_flag {
    NC_LANE_ACCEPTED = 1, /* the lane made a step */
    NC_LANE_HELD = 2,     /* alive, but the step was rejected */
    NC_LANE_FIRST = 4,    /* the step is the sample's first */
    NC_LANE_AT_STOP = 8,  /* the step ends on a stop */
    NC_LANE_AFTER_STOP = 16, /* the step starts on a stop */
    NC_LANE_FRESH = 32,      /* its first derivative is a field value, not the last stage before */
    NC_LANE_STIFF = 64,      /* made by the method's stiff partner */
    NC_LANE_CUT = 128,       /* an event ends the step before its end */
};

/* stages, carry_rows: 0 unless the method finds its stages by iteration. */
void nc_record_init(nc_record *r, int64_t lanes, int64_t dim, int64_t real_bytes, int64_t stages,
                    int64_t carry_rows);
/* Makes the record a pool of `slots` checkpoints under a schedule whose unit is `window` tile steps; 0, or
 * -1 when memory is out. */
int nc_record_limit(nc_record *r, int kind, int64_t slots, int64_t n, int64_t segment, int64_t window);
/* Bytes of a checkpoint and its share of the schedule, and of what there is besides the slots. */
int64_t nc_checkpoint_bytes(int64_t lanes, int64_t dim, int64_t real_bytes, int64_t carry_rows);
int64_t nc_record_overhead(int64_t lanes, int64_t dim, int64_t real_bytes, int64_t stages);
/* Lets the record keep step traces in at most `bytes`. */
void nc_record_keep_traces(nc_record *r, int64_t stages, int64_t res_rows, int64_t real_bytes,
                           int64_t bytes);
/* Where the trace of step i is or goes; NULL if it has none. */
char *nc_record_trace(nc_record *r, int64_t i);
/* Room for one more entry, or NULL when memory is out or the record is full. */
char *nc_record_push(nc_record *r);
/* The slot's memory, or NULL when memory is out. */
char *nc_record_slot(nc_record *r, int64_t slot);
/* Makes the record one of `n` paths; 0, or -1 when memory is out. */
int nc_record_paths(nc_record *r, int64_t first, int64_t n, int64_t period);
/* The step's end behind those of a path; 0, or -1 when memory is out. */
int nc_path_end(nc_record *r, int64_t sample, double t_new);
/* Room for one more pair of a path, or NULL when memory is out. */
char *nc_path_pair(nc_record *r, int64_t sample);
/* Gives back what a path was given in advance. */
void nc_path_close(nc_record *r, int64_t sample);
void nc_record_free(nc_record *r);
int64_t nc_record_bytes(const nc_record *r);

static inline char *nc_record_at(const nc_record *r, int64_t i)
{
    return r->blocks[i / r->per_block] + (i % r->per_block) * r->entry_bytes;
}

static inline const nc_path *nc_path_of(const nc_record *r, int64_t sample)
{
    return r->paths + (sample - r->first_path);
}

static inline char *nc_pair_at(const nc_record *r, const nc_path *path, int64_t i)
{
    return path->pairs + i * 2 * r->dim * r->real_bytes;
}

static inline char *nc_trace_at(const nc_record *r, int64_t i)
{
    if (i < 0 || i >= r->trace_limit || i >= r->n_trace_blocks * r->traces_per_block)
        return NULL;
    return r->trace_blocks[i / r->traces_per_block] + i % r->traces_per_block * r->trace_bytes;
}

#endif

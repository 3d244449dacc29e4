/* What the forward pass keeps for the backward one: one fixed-size entry a tile step, in blocks. */
#ifndef NODECORE_STORE_H
#define NODECORE_STORE_H

#include <stddef.h>
#include <stdint.h>

/* The entry of a tile step for L lanes and D rows of `real`, laid out by nc_record_init:
 *   int32 sample[L], q[L] (the next output when the step began), uint8 flags[L],
 *   double t[L], h[L], t_new[L], real y[D][L] (the state when the step began). */
typedef struct {
    int64_t n, lanes, dim;
    int64_t entry_bytes, per_block, n_blocks, cap_blocks;
    int64_t off_q, off_flags, off_t, off_h, off_t_new, off_y;
    char **blocks;
} nc_record;

enum nc_lane_flag {
    NC_LANE_ACCEPTED = 1, /* the lane made a step */
    NC_LANE_HELD = 2,     /* alive, but the step was rejected */
    NC_LANE_FIRST = 4,    /* the step is the sample's first */
    NC_LANE_AT_STOP = 8   /* the step ends on a stop: its last stages see the left-hand limit */
};

void nc_record_init(nc_record *r, int64_t lanes, int64_t dim, int64_t real_bytes);
/* Room for one more entry, or NULL when memory is out. */
char *nc_record_push(nc_record *r);
void nc_record_free(nc_record *r);
int64_t nc_record_bytes(const nc_record *r);

static inline char *nc_record_at(const nc_record *r, int64_t i)
{
    return r->blocks[i / r->per_block] + (i % r->per_block) * r->entry_bytes;
}

#endif

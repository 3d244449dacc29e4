/* A sample's steps from the last to the first, where the record has no entries: the times of a grid that
 * was chosen step by step are kept (8 bytes a step), those of fixed grids follow from the outputs and
 * stops, as `propose` in drive.h made them. */
#ifndef NODECORE_WALK_H
#define NODECORE_WALK_H

#include <math.h>

#include "solve.h"

typedef struct {
    const nc_problem *p;
    const double *ends; /* adaptive: the end of each step */
    int64_t b, step;    /* the sample; how many steps were made before this one */
    double t, t_new, h;
    int at_stop, after_stop;
    int64_t q; /* the next output when the step began */
} nc_walk;

/* A step of a given grid whose nodes have moved (nc_problem.grid_nodes). Between two nodes that are given
 * steps keep their fractions of the interval, up to an event and up to the end they keep their sizes.
 * event: when lane l had its last one. */
static inline void nc_move_step(const double node[4], const double *event, int64_t l, double *h,
                                double *t_new)
{
    double lo = node[0], lo_new = isnan(node[1]) ? event[l] : node[1], hi = node[2];
    double ratio = isnan(hi) ? 1 : (node[3] - lo_new) / (hi - lo);
    if (ratio == 1 && lo_new == lo)
        return;
    *h *= ratio;
    *t_new = *t_new == hi ? node[3] : lo_new + (*t_new - lo) * ratio;
}

/* Behind the last step. */
static inline void nc_walk_begin(nc_walk *w, const nc_problem *p, int64_t b, const double *ends)
{
    w->p = p;
    w->ends = ends;
    w->b = b;
    w->step = p->n_accepted[b];
    w->t = p->t_reached[b];
    w->q = p->n_reached[b];
    w->at_stop = w->after_stop = 0;
    w->t_new = w->t;
    w->h = 0;
}

/* The last of `times`, in the direction dir, that lies before t; `none` if there is none. */
static inline double nc_last_before(const double *times, int64_t n, double dir, double t, double none)
{
    int64_t lo = 0, hi = n; /* [0, lo) lie before t, [hi, n) do not */
    while (lo < hi) {
        int64_t middle = (lo + hi) / 2;
        if (dir * (times[middle] - t) < 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo ? times[lo - 1] : none;
}

static inline int nc_is_among(const double *times, int64_t n, double dir, double t)
{
    return nc_last_before(times, n, dir, nextafter(t, dir * HUGE_VAL), -dir * HUGE_VAL) == t;
}

/* Steps of size dt: their ends are the nodes t0 + k dt and the targets, but for nodes that almost are a
 * target (to 1e-9 dt). */
static inline void nc_walk_dt(nc_walk *w, const double *times, int64_t n_out, const double *stops,
                              int64_t n_stops, double dir)
{
    const nc_control *c = &w->p->control;
    double t0 = times[0], dt = dir * c->dt, near = 1e-9 * c->dt, to = w->t_new;
    int64_t k = (int64_t)(dir * (to - t0) / c->dt) + 1; /* to the first node before `to` */
    while (k > 0 && dir * (to - (t0 + (double)k * dt)) <= near)
        k--;
    double node = t0 + (double)k * dt, target = nc_last_before(stops, n_stops, dir, to, t0);
    if (c->stop_at_outputs) {
        double output = nc_last_before(times, n_out, dir, to, t0);
        target = dir * (output - target) > 0 ? output : target;
    }
    int is_target = to == times[n_out - 1] || nc_is_among(stops, n_stops, dir, to) ||
                    (c->stop_at_outputs && nc_is_among(times, n_out, dir, to));
    w->t = dir * (target - node) >= -near ? target : node;
    w->h = !is_target && w->t == node ? dt : to - w->t;
}

/* One step back. */
static inline void nc_walk_back(nc_walk *w)
{
    const nc_problem *p = w->p;
    const nc_control *c = &p->control;
    int64_t b = w->b, n_out = p->out_off[b + 1] - p->out_off[b];
    const double *times = p->t + p->t_off[b];
    const double *stops = p->stop_off ? p->stops + p->stop_off[b] : NULL;
    int64_t n_stops = stops ? p->stop_off[b + 1] - p->stop_off[b] : 0;
    double dir = times[n_out - 1] >= times[0] ? 1.0 : -1.0;
    int64_t i = --w->step;
    w->t_new = w->t;
    if (c->mode == NC_ADAPTIVE) {
        w->t = i ? w->ends[i - 1] : times[0];
        w->h = w->t_new - w->t;
    } else if (c->mode == NC_REPLAY) {
        int64_t at = p->grid_off[b] + i;
        double end = p->grid[at], size = 0;
        w->t = i ? p->grid[at - 1] : times[0];
        w->h = p->grid_h[at];
        if (p->grid_nodes) {
            nc_move_step(p->grid_nodes[at], NULL, 0, &w->h, &end);
            if (i)
                nc_move_step(p->grid_nodes[at - 1], NULL, 0, &size, &w->t);
        }
    } else if (c->mode == NC_FIXED_STEPS) {
        const double *out = times + i / c->n_sub;
        w->h = (out[1] - out[0]) / c->n_sub;
        w->t = i % c->n_sub == 0 ? out[0] : out[0] + (double)(i % c->n_sub) * w->h;
    } else {
        nc_walk_dt(w, times, n_out, stops, n_stops, dir);
    }
    w->at_stop = nc_is_among(stops, n_stops, dir, w->t_new);
    w->after_stop = nc_is_among(stops, n_stops, dir, w->t);
    if (c->mode == NC_REPLAY)
        while (w->q > 0 && p->out_step[p->out_off[b] + w->q - 1] >= i)
            w->q--;
    else
        while (w->q > 0 && dir * (times[w->q - 1] - w->t) > 0)
            w->q--;
}

#endif

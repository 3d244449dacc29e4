/* One file: the backward pass of a lane is one idea, from a chunk to a step.
 *
 * The life of a lane, backwards: each chunk's record is walked from its last entry to its first,
 * with the same assignment of samples to lanes, so refill and occupancy come for free. Lanes that
 * did not move in an entry have h = 0 and a zero cotangent; those without a sample repeat a lane
 * that moved, so that no NaN meets the products that sum over lanes. */
typedef struct {
    FN(tile) tile, stiff_tile; /* the second is the first one's `other` */
    int64_t L, pad;
    int leader, countdown;
    int64_t step; /* of the record */
    double next_poll, last_look;
    int64_t *cur, *q; /* the lane's sample (-1: none), outputs not yet given back */
    int64_t *donor;   /* whose values of S a lane without a sample holds */
    int want_t;       /* the times matter: they are asked for, or events depend on them */
    /* the interval of the grid that the lane's steps are in: are their sizes held, up to an event or the
     * end, or their fractions, up to a node at time hi (of output row hi_row, or -1)? And the sums over
     * them that its ends will get */
    uint8_t *held;
    double *hi, *moved, *stretched;
    int64_t *hi_row;
    FN(event_back) ev;
    double *time_sum, *size_sum, *part, *dot, *theta;
    double *sbar; /* [n_sample][L] */
    uint8_t *pending, *bad;
    RINT *mask, *fresh, *stiff_mask;
    REAL *lambda, *sum, *kappa, *lambda_n, *sbar_stage, *args, *args_out, *carried;
    REAL *kbar[NC_MAX_STAGES], *stiff_kbar[NC_MAX_STAGES], *ybar[NC_MAX_STAGES], *stiff_sum;
    double *sample_bar; /* [samples of the chunk][n_sample] */
    REAL *z_bar, *lambda_z; /* of the coupled scheme, reversible.h; else NULL */
    nc_walk *walk;
    int32_t *q_start;
    uint8_t *flags; /* of the steps in hand: none */
    double *turned_time, *turned_size;
    nc_sinks sinks, sample_sinks, second_sinks, event_sinks; /* of reverse, sample_reverse, second,
                                                                events.spread */
} FN(back);

enum { FN(N_SINKS) = 4 };

static size_t FN(back_memory)(FN(back) *s, char *base, int64_t chunk_samples,
                              const size_t *panel_elems)
{
    const nc_problem *p = s->tile.p;
    int64_t L = s->L, n = s->pad, rows = p->dim * L + FN(SLACK);
    size_t used = FN(tile_memory)(&s->tile, base, 1);
    used = FN(other_memory)(&s->stiff_tile, &s->tile, base, used, 1);
    s->tile.other = s->tile.method->stiff ? &s->stiff_tile : NULL;
    NC_TAKE(s->cur, n);
    NC_TAKE(s->q, n);
    NC_TAKE(s->donor, n);
    NC_TAKE(s->time_sum, n);
    NC_TAKE(s->size_sum, n);
    NC_TAKE(s->part, 8 * n);
    NC_TAKE(s->dot, n);
    NC_TAKE(s->theta, n);
    NC_TAKE(s->sbar, p->n_sample * L + FN(SLACK));
    NC_TAKE(s->held, n);
    NC_TAKE(s->hi, n);
    NC_TAKE(s->moved, n);
    NC_TAKE(s->stretched, n);
    NC_TAKE(s->hi_row, n);
    NC_TAKE(s->pending, n);
    NC_TAKE(s->bad, n);
    NC_TAKE(s->mask, n);
    NC_TAKE(s->fresh, n);
    NC_TAKE(s->stiff_mask, n);
    NC_TAKE(s->stiff_sum, rows);
    NC_TAKE(s->lambda, rows);
    NC_TAKE(s->carried, 2 * rows); /* of both parts, of an additive method */
    NC_TAKE(s->sum, rows);
    NC_TAKE(s->kappa, rows);
    NC_TAKE(s->lambda_n, rows);
    NC_TAKE(s->sbar_stage, p->n_sample * L + FN(SLACK));
    NC_TAKE(s->args, p->n_args * L + FN(SLACK));
    NC_TAKE(s->args_out, p->n_args * L + FN(SLACK));
    const nc_tableau *m = s->tile.method;
    for (int i = 0; i < m->n_stages || (m->stiff && i < m->stiff->n_stages); i++) {
        NC_TAKE(s->kbar[i], rows);
        NC_TAKE(s->ybar[i], rows);
        if (m->stiff)
            NC_TAKE(s->stiff_kbar[i], rows);
    }
    NC_TAKE(s->sample_bar, chunk_samples * p->n_sample);
    if (p->control.coupling > 0) {
        NC_TAKE(s->z_bar, rows);
        NC_TAKE(s->lambda_z, rows);
        NC_TAKE(s->walk, n);
        NC_TAKE(s->q_start, n);
        NC_TAKE(s->flags, n);
        NC_TAKE(s->turned_time, n);
        NC_TAKE(s->turned_size, n);
    }
    NC_TAKE(s->sinks.panels, p->n_panels);
    NC_TAKE(s->sample_sinks.panels, p->n_sample_panels);
    NC_TAKE(s->second_sinks.panels, p->n_second_panels);
    NC_TAKE(s->event_sinks.panels, p->events.n_panels);
    nc_sinks *sinks[FN(N_SINKS)] = {&s->sinks, &s->sample_sinks, &s->second_sinks, &s->event_sinks};
    for (int i = 0; i < FN(N_SINKS); i++) {
        REAL *buf = NULL;
        NC_TAKE(buf, panel_elems[i] + FN(SLACK));
        sinks[i]->buf = buf;
    }
    if (p->events.n)
        used = FN(event_back_memory)(&s->ev, base, used, p, L, n);
    return used;
}

/* events_reverse.h */
static void FN(enter_events)(FN(back) *s, int64_t l);
static int64_t FN(pull_events)(FN(back) *s, const nc_backward *g, int *dense);

/* Loads an entry into the tile; returns whether any lane moved. */
static int FN(enter)(FN(back) *s, const nc_record *r, const char *e)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int64_t L = s->L, D = p->dim, leader = -1;
    const int32_t *sample = (const int32_t *)e;
    const uint8_t *flags = (const uint8_t *)(e + r->off_flags);
    memcpy(T->t, e + r->off_t, (size_t)L * sizeof(double));
    memcpy(T->h, e + r->off_h, (size_t)L * sizeof(double));
    memcpy(T->t_new, e + r->off_t_new, (size_t)L * sizeof(double));
    memcpy(T->y, e + r->off_y, (size_t)(L * D) * sizeof(REAL));
    for (int64_t i = 0; i < r->stages; i++)
        memcpy(FN(iterating)(T)->k[i], e + r->off_stages + i * (L * D) * (int64_t)sizeof(REAL),
               (size_t)(L * D) * sizeof(REAL));
    for (int64_t l = 0; l < L; l++) {
        int64_t b = sample[l];
        int status = p->status[b];
        int alive = flags[l] & (NC_LANE_ACCEPTED | NC_LANE_HELD) &&
                    (status == NC_OK || status == NC_EVENT);
        int moved = alive && flags[l] & NC_LANE_ACCEPTED;
        T->active[l] = (uint8_t)moved;
        s->mask[l] = moved ? -1 : 0;
        s->fresh[l] = moved && flags[l] & NC_LANE_FRESH ? -1 : 0;
        if (T->other) {
            T->stiff[l] = flags[l] & NC_LANE_STIFF ? -1 : 0;
            s->stiff_mask[l] = moved && T->stiff[l] ? -1 : 0;
            s->fresh[l] &= s->stiff_mask[l];
        }
        T->at_stop[l] = moved && flags[l] & NC_LANE_AT_STOP;
        T->after_stop[l] = moved && flags[l] & NC_LANE_AFTER_STOP;
        if (moved && leader < 0)
            leader = l;
        if (!moved)
            T->h[l] = 0;
        if (!alive) {
            s->cur[l] = -1;
        } else if (s->cur[l] != b) {
            /* the last entry of this sample: its adjoint begins */
            s->cur[l] = b;
            s->donor[l] = b;
            s->q[l] = p->n_reached[b];
            s->held[l] = 1;
            s->moved[l] = s->stretched[l] = 0;
            if (p->events.n)
                FN(enter_events)(s, l);
            FN(lane_in)(T->base[NC_SP_S], (const REAL *)p->sample_values + b * p->n_sample,
                        p->n_sample, L, l);
            for (int64_t i = 0; i < D; i++)
                s->lambda[i * L + l] = s->carried[i * L + l] = s->carried[(D + i) * L + l] = 0;
            for (int64_t i = 0; i < p->n_sample; i++)
                s->sbar[i * L + l] = 0;
        }
        T->sample[l] = alive ? b : -1;
    }
    if (leader < 0)
        return 0;
    for (int64_t l = 0; l < L; l++) {
        if (s->cur[l] < 0) {
            FN(lane_copy)(T->y, l, T->y, leader, D, L);
            T->t[l] = T->t_new[l] = T->t[leader];
            if (s->donor[l] != s->cur[leader]) {
                s->donor[l] = s->cur[leader];
                FN(lane_copy)(T->base[NC_SP_S], l, T->base[NC_SP_S], leader, p->n_sample, L);
            }
            for (int64_t i = 0; i < D; i++)
                s->lambda[i * L + l] = s->carried[i * L + l] = s->carried[(D + i) * L + l] = 0;
        }
    }
    return 1;
}

/* The coupled scheme's outputs have a term more, theta (1 - l) (z - y): gives its share of the cotangent
 * dy to lambda_z, where the output is interpolated, and returns dy times its derivative in theta. */
static double FN(pull_apart)(FN(back) *s, int64_t l, const REAL *dy)
{
    FN(tile) *T = &s->tile;
    int64_t D = T->p->dim, L = s->L;
    REAL pull = FN(pull_to_z)(T), share = pull * (REAL)s->theta[l];
    double slope = 0;
    for (int64_t i = 0; i < D; i++) {
        slope += (double)dy[i] * (double)(pull * T->apart[i * L + l]);
        if (s->pending[l] == 1) {
            s->lambda_z[i * L + l] += share * dy[i];
            s->lambda_n[i * L + l] -= share * dy[i];
        }
    }
    return slope;
}

/* What the outputs within the step, and events, give to its stages: nothing yet. With want_t the trace of
 * all stages is made. */
static void FN(open_stages)(FN(back) *s)
{
    FN(tile) *T = &s->tile;
    size_t bytes = (size_t)(T->p->dim * s->L) * sizeof(REAL);
    if (s->want_t)
        FN(method_trace)(T, T->method->n_stages);
    for (int i = 0; i < T->method->n_stages; i++)
        memset(s->kbar[i], 0, bytes);
    for (int i = 0; T->other && i < T->other->method->n_stages; i++)
        memset(s->stiff_kbar[i], 0, bytes);
    memset(s->lambda_n, 0, bytes);
    if (s->lambda_z)
        memset(s->lambda_z, 0, bytes);
}

/* Gives component i of a cotangent of the dense output, with weights w, to the stages. */
static void FN(to_stages)(FN(back) *s, int64_t l, int64_t i, const double *w, REAL d)
{
    FN(tile) *by = FN(maker)(&s->tile, l);
    REAL *const *kbar = by == &s->tile ? s->kbar : s->stiff_kbar;
    int64_t at = i * s->L + l;
    double size = by->method->family == NC_ROSENBROCK ? 1 : by->h[l];
    s->lambda_n[at] += d;
    for (int j = 0; j < by->method->n_stages; j++)
        kbar[j][at] += (REAL)(size * w[j]) * d;
}

/* Component i of the slope of the dense output, with derivatives dw of the weights. */
static double FN(dense_slope)(FN(back) *s, int64_t l, int64_t i, const double *dw)
{
    const FN(tile) *by = FN(maker)(&s->tile, l);
    double v = 0;
    for (int j = 0; j < by->method->n_stages; j++)
        v += dw[j] * (double)by->k[j][i * s->L + l];
    return by->method->family == NC_ROSENBROCK ? v / by->h[l] : v;
}

/* Gives the cotangents of this step's outputs to lambda (outputs at its end), or to kbar and
 * lambda_n (interpolated ones) and, if they are wanted, to their times. any: whether the stages are open.
 * Returns whether an interpolant was needed. */
static int FN(pull_outputs)(FN(back) *s, const nc_backward *g, const int32_t *q_start,
                            const uint8_t *flags, int any)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int64_t D = p->dim, L = s->L;
    const REAL *dy = g->dy;
    for (;;) {
        int due = 0;
        for (int64_t l = 0; l < L; l++) {
            s->pending[l] = 0;
            s->theta[l] = 0;
            if (!T->active[l] || s->q[l] <= q_start[l])
                continue;
            int64_t b = s->cur[l], row = p->out_off[b] + s->q[l] - 1;
            double t = p->t[p->t_off[b] + s->q[l] - 1];
            if (t == T->t_new[l]) { /* computed as y1 */
                for (int64_t i = 0; i < D; i++)
                    s->lambda[i * L + l] += dy[row * D + i];
                int node = g->grid_rule == NC_HOLD_FRACTIONS ||
                           (g->grid_rule == NC_HOLD_STOPS && row + 1 == p->out_off[b + 1]);
                if (!s->want_t || (node && !(flags[l] & NC_LANE_CUT))) {
                    s->q[l]--; /* the time of a grid's node moves the grid, not the output */
                    l--;
                    continue;
                }
                s->pending[l] = 2; /* its time moves theta, at theta = 1 */
                s->theta[l] = 1;
            } else {
                s->pending[l] = 1;
                s->theta[l] = (t - T->t[l]) / FN(maker)(T, l)->h[l];
            }
            due = 1;
        }
        if (!due)
            return any;
        if (!any)
            FN(open_stages)(s);
        any = 1;
        for (int64_t l = 0; l < L; l++) {
            double w[NC_MAX_STAGES], dw[NC_MAX_STAGES];
            if (!s->pending[l])
                continue;
            FN(dense_weights)(FN(maker)(T, l)->method, s->theta[l], w,
                              s->want_t ? dw : NULL);
            int64_t b = s->cur[l], row = p->out_off[b] + s->q[l] - 1;
            double slope = 0; /* dy . sum b_i'(theta) k_i */
            for (int64_t i = 0; i < D && s->want_t; i++)
                slope += (double)dy[row * D + i] * FN(dense_slope)(s, l, i, dw);
            if (T->z)
                slope += FN(pull_apart)(s, l, dy + row * D) / T->h[l];
            if (s->pending[l] == 1)
                for (int64_t i = 0; i < D; i++)
                    FN(to_stages)(s, l, i, w, dy[row * D + i]);
            if (g->want_t)
                g->t_bar[row] += slope;
            s->time_sum[l] -= slope;
            s->size_sum[l] -= s->theta[l] * slope;
            s->q[l]--;
        }
    }
}

/* The lane's steps have been walked back to the lower end of an interval of the grid, at time lo:
 * returns what they give to it, having given the upper end its part. With T_n and H_n the cotangents
 * of a step's start and size, sizes held give T_n; fractions held, (hi - t_n) / (hi - lo) T_n -
 * h / (hi - lo) H_n, and the rest of T_n to the upper end. */
static double FN(close_interval)(FN(back) *s, const nc_backward *g, int64_t l, double lo)
{
    double bar = s->held[l] ? s->moved[l] : s->stretched[l] / (s->hi[l] - lo);
    if (!s->held[l] && g->want_t && s->hi_row[l] >= 0)
        g->t_bar[s->hi_row[l]] += s->moved[l] - bar;
    s->moved[l] = s->stretched[l] = 0;
    return bar;
}

/* The cotangents of the start and the size of the lane's step. */
static void FN(gain_times)(FN(back) *s, int64_t l, double T_n, double H_n)
{
    FN(tile) *T = &s->tile;
    s->moved[l] += T_n;
    if (!s->held[l])
        s->stretched[l] += (s->hi[l] - T->t[l]) * T_n - FN(maker)(T, l)->h[l] * H_n;
}

/* The step that is entered may end on a node of the grid whose time is given: an output, or a stop. */
static void FN(enter_node)(FN(back) *s, const nc_backward *g, int64_t l)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int64_t b = s->cur[l], first = p->out_off[b], n = p->out_off[b + 1] - first, row = -1;
    const double *t = p->t + p->t_off[b];
    if (g->grid_rule == NC_HOLD_FRACTIONS && s->q[l] > 0 && t[s->q[l] - 1] == T->t_new[l])
        row = first + s->q[l] - 1;
    else if (g->grid_rule == NC_HOLD_STOPS && t[n - 1] == T->t_new[l])
        row = first + n - 1;
    else if (g->grid_rule != NC_HOLD_STOPS || !T->at_stop[l])
        return;
    double bar = FN(close_interval)(s, g, l, T->t_new[l]);
    if (g->want_t && row >= 0)
        g->t_bar[row] += bar;
    s->held[l] = 0;
    s->hi[l] = T->t_new[l];
    s->hi_row[l] = row;
}

/* The trace of the first n stages: the kept one if there is one, else the stages are evaluated again.
 * A kept trace begins at the second stage; the first is the last one of the step before, if every lane
 * that moves made it, else it is evaluated again. The bits are the same. */
static void FN(step_trace)(FN(back) *s, const nc_backward *g, const nc_record *r, const char *e,
                           int n)
{
    FN(tile) *T = &s->tile;
    char *trace = T->method->family == NC_EXPLICIT ? nc_trace_at(r, s->step) : NULL;
    int need_k = s->want_t && g->grid_rule != NC_HOLD_SIZES;
    if (!trace || need_k || n > r->trace_stages + 1) {
        FN(method_trace)(T, n);
        return;
    }
    FN(rk_load_trace)(T, n, trace, r->trace_stage_bytes, r->trace_off_res);
    char *before = r->limit ? NULL : nc_trace_at(r, s->step - 1);
    if (before) {
        const char *b = nc_record_at(r, s->step - 1);
        const int32_t *sample = (const int32_t *)e, *was = (const int32_t *)b;
        const uint8_t *flags = (const uint8_t *)(b + r->off_flags);
        for (int64_t l = 0; l < s->L && before; l++)
            if (T->active[l] && (sample[l] != was[l] || !(flags[l] & NC_LANE_ACCEPTED) ||
                                 flags[l] & (NC_LANE_AT_STOP | NC_LANE_CUT)))
                before = NULL;
    }
    if (!before) {
        FN(rk_trace_stage)(T, 0);
        return;
    }
    FN(trace_time)(T, 0, 0.0);
    T->trace_y[0] = T->y;
    T->trace_res[0] =
        (REAL *)(before + (r->trace_stages - 1) * r->trace_stage_bytes + r->trace_off_res);
}

/* Gives the stiff lanes' steps to the stiff partner; their number. */
static int FN(split_lanes)(FN(back) *s)
{
    FN(tile) *T = &s->tile;
    int stiff = FN(auto_share)(T);
    for (int64_t l = 0; l < s->L; l++)
        if (T->stiff[l])
            T->h[l] = 0;
    return stiff;
}

/* The sample's first step is done: the cotangents of t0, of y0 (lambda), and of its values of S. */
static void FN(give_back)(FN(back) *s, const nc_backward *g, int64_t l, int64_t first_sample)
{
    const nc_problem *p = s->tile.p;
    int64_t b = s->cur[l], D = p->dim, L = s->L;
    if (g->want_t)
        g->t_bar[p->out_off[b]] += FN(close_interval)(s, g, l, s->tile.t[l]);
    REAL *out = (REAL *)g->y0_bar + b * D;
    const REAL *dy = (const REAL *)g->dy + p->out_off[b] * D;
    for (int64_t i = 0; i < D; i++) { /* the first outputs are y0 itself */
        REAL sum = s->lambda[i * L + l];
        for (int64_t j = 0; j < s->q[l]; j++)
            sum += dy[j * D + i];
        out[i] = sum;
    }
    for (int64_t i = 0; i < p->n_sample; i++)
        s->sample_bar[(b - first_sample) * p->n_sample + i] = s->sbar[i * L + l];
}

/* One entry backwards. Returns the first lane whose cotangent is not finite, or -1. */
static int64_t FN(back_step)(FN(back) *s, const nc_backward *g, const nc_record *r, const char *e,
                             int64_t first_sample)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_tableau *m = T->method;
    int64_t L = s->L, D = p->dim;
    const int32_t *q = (const int32_t *)(e + r->off_q);
    const uint8_t *flags = (const uint8_t *)(e + r->off_flags);
    if (!FN(enter)(s, r, e))
        return -1;
    int stiff = T->other ? FN(split_lanes)(s) : 0;
    for (int64_t l = 0; l < L; l++) {
        s->size_sum[l] = s->time_sum[l] = 0;
        if (s->want_t && T->active[l] && !(flags[l] & NC_LANE_CUT))
            FN(enter_node)(s, g, l);
    }
    int dense = 0;
    if (p->events.n) {
        int64_t bad = FN(pull_events)(s, g, &dense);
        if (bad >= 0)
            return bad;
    }
    dense = FN(pull_outputs)(s, g, q, flags, dense);
    int n = dense ? m->n_stages : m->n_step - 1;
    if (!(dense && s->want_t))
        FN(step_trace)(s, g, r, e, n);
    const FN(cotangents) c = {
        .lambda = s->lambda,
        .kbar = dense ? s->kbar : NULL,
        .ybar = s->ybar,
        .sum = s->sum,
        .kappa = s->kappa,
        .sbar_stage = s->sbar_stage,
        .carried = s->carried,
        .moved = s->mask,
        .fresh = s->fresh,
        .sbar = s->sbar,
        .time_sum = s->want_t ? s->time_sum : NULL,
        .size_sum = s->want_t && g->grid_rule != NC_HOLD_SIZES ? s->size_sum : NULL,
        .part = s->part,
        .dot = s->dot,
        .sinks = &s->sinks,
        .second_sinks = &s->second_sinks,
    };
    FN(method_reverse)(T, n, &c);
    if (stiff) {
        FN(cotangents) own = c;
        own.kbar = dense ? s->stiff_kbar : NULL;
        own.sum = s->stiff_sum;
        own.moved = s->stiff_mask;
        FN(method_reverse)(T->other, n, &own);
        FN(select_lanes)(s->sum, s->stiff_sum, s->stiff_mask, D, L);
    }
    int whole = FN(reverse_is_whole)(m);
    for (int64_t j = 0; j < D * L; j++) {
        REAL v = whole ? s->sum[j] : s->lambda[j] + s->sum[j];
        if (dense)
            v += s->lambda_n[j];
        s->sum[j] = v;
    }
    FN(select_lanes)(s->lambda, s->sum, s->mask, D, L);

    FN(find_nonfinite)(s->lambda, D, L, s->bad);
    for (int64_t l = 0; l < L; l++) {
        if (!T->active[l])
            continue;
        if (s->bad[l])
            return l;
        FN(gain_times)(s, l, s->time_sum[l], s->size_sum[l]);
        s->q[l] = q[l];
        if (flags[l] & NC_LANE_FIRST)
            FN(give_back)(s, g, l, first_sample);
    }
    return -1;
}

/* Pulls the cotangents of S back to args, a tile of samples at a time. */
static void FN(back_samples)(FN(back) *s, const nc_backward *g, int64_t begin, int64_t end)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int64_t L = s->L;
    if (!p->n_args || p->opaque_pull)
        return;
    for (int64_t first = begin; first < end; first += L) {
        for (int64_t l = 0; l < L; l++) {
            int64_t b = first + l < end ? first + l : first;
            int status = p->status[b];
            int live = first + l < end && (status == NC_OK || status == NC_EVENT);
            FN(lane_in)(s->args, (const REAL *)p->args + b * p->n_args, p->n_args, L, l);
            for (int64_t i = 0; i < p->n_sample; i++)
                s->sbar_stage[i * L + l] =
                    live ? (REAL)s->sample_bar[(b - begin) * p->n_sample + i] : 0;
        }
        T->base[NC_SP_ARGS] = s->args;
        T->base[NC_SP_CT] = s->sbar_stage;
        T->base[NC_SP_OUT] = s->args_out;
        FN(vm_run)(&p->sample_reverse, T->base, L, &s->sample_sinks);
        for (int64_t l = 0; l < L && first + l < end; l++)
            FN(lane_out)((REAL *)g->args_bar + (first + l) * p->n_args, s->args_out, p->n_args, L,
                         l);
    }
}

/* As look_up of the forward pass. */
static int FN(back_look_up)(FN(back) *s, const nc_backward *g)
{
    nc_problem *p = (nc_problem *)s->tile.p;
    if (s->leader && --s->countdown < 0) {
        double now = nc_now();
        s->countdown = now - s->last_look < 1e-3 ? 8 : 0;
        s->last_look = now;
        if (p->poll && now >= s->next_poll) {
            s->next_poll = now + 0.02;
            if (p->poll(p->poll_ctx, (double)g->next / (double)(p->n_chunks + 1)))
                __atomic_store_n(&p->stop, NC_STOP_INTERRUPT, __ATOMIC_RELAXED);
        }
    }
    return __atomic_load_n(&p->stop, __ATOMIC_RELAXED);
}

/* Reverses one entry; non-zero ends the chunk. */
static int FN(back_entry)(FN(back) *s, nc_backward *g, int64_t chunk, const char *e, int64_t step,
                          int64_t begin)
{
    FN(tile) *T = &s->tile;
    s->step = step;
    if (FN(back_look_up)(s, g))
        return 1;
    int64_t l = FN(back_step)(s, g, T->p->records + chunk, e, begin);
    if (l >= 0) {
        g->bad_sample[chunk] = s->cur[l];
        g->bad_t[chunk] = T->t[l];
        g->bad_event[chunk] = -1;
        if (T->p->events.n && s->ev.grazes >= 0) {
            g->bad_t[chunk] = s->ev.grazes_t;
            g->bad_event[chunk] = s->ev.grazes;
        }
        return 1;
    }
    return T->failed;
}

static int FN(back_all)(FN(back) *s, nc_backward *g, int64_t chunk, int64_t begin)
{
    const nc_record *r = s->tile.p->records + chunk;
    for (int64_t i = r->n - 1; i >= 0; i--)
        if (FN(back_entry)(s, g, chunk, nc_record_at(r, i), i, begin))
            return 1;
    return 0;
}

/* Makes steps again until one is recorded (in w->slot, and beside the slots); the lanes that moved. */
static int64_t FN(again)(FN(lanes) *w)
{
    for (int retry = 0;; retry = 1) {
        FN(refill)(w);
        if (retry && w->slot)
            FN(save)(w, w->slot); /* kept as before the try that counts */
        if (w->n_live == 0 || FN(tile_step)(w)) {
            w->tile.failed = 1;
            return 0;
        }
        if (w->accepted_lanes)
            return w->accepted_lanes;
    }
}

/* The first sweep once more, from the initial state, which is in slot 0: the number of steps is known
 * now, so the optimal schedule serves. */
static int FN(sweep_again)(FN(back) *s, FN(lanes) *w, nc_backward *g, nc_record *r)
{
    nc_schedule *plan = &r->plan;
    FN(restore)(w, nc_record_at(r, 0));
    if (plan->kind == NC_KEEP_ONLINE)
        plan->kind = NC_KEEP_BINOMIAL;
    nc_schedule_restart(plan);
    for (int64_t i = 0; i < r->n; i++) {
        FN(refill)(w);
        int64_t slot = nc_schedule_place(plan, i);
        char *e = slot < 0 ? NULL : nc_record_slot(r, slot);
        if (slot >= 0 && !e)
            return 1;
        w->slot = NULL;
        if (e && i > 0)
            FN(save)(w, e);
        r->recomputed += FN(again)(w);
        if (w->tile.failed || FN(back_look_up)(s, g))
            return 1;
    }
    nc_schedule_close(plan, r->n);
    return 0;
}

/* schedule.py: `backward`. */
static int FN(back_scheduled)(FN(back) *s, nc_backward *g, int64_t chunk, int64_t begin)
{
    nc_problem *p = (nc_problem *)s->tile.p;
    nc_record *r = p->records + chunk;
    nc_schedule *plan = &r->plan;
    FN(lanes) *w = FN(new_lanes)(p);
    if (!w)
        return 1;
    FN(start_chunk)(w, chunk);
    w->silent = 1;
    r->recomputed = 0;
    int failed = r->n > 0 && plan->consumed && FN(sweep_again)(s, w, g, r);
    plan->consumed = 1;
    int64_t end = r->n, at = end - 1;
    int have_last = 1; /* the entry of step `at` stands beside the slots */
    while (end > 0 && !failed) {
        int64_t top = plan->step[plan->n_kept - 1];
        char *e = nc_record_at(r, plan->slot[plan->n_kept - 1]);
        if (top == end - 1) {
            if (r->stages ? at != top || !have_last : !((nc_carry *)(e + r->off_carry))->complete) {
                if (at != top || have_last)
                    FN(restore)(w, e);
                w->slot = e;
                FN(again)(w);
            }
            failed = w->tile.failed ||
                     FN(back_entry)(s, g, chunk, r->stages ? r->last : e, end - 1, begin);
            nc_schedule_drop(plan);
            end--;
            at = -1;
        } else if (at == end - 1) {
            if (!have_last)
                FN(again)(w);
            failed = w->tile.failed || FN(back_entry)(s, g, chunk, r->last, end - 1, begin);
            end--;
            at = -1;
        } else {
            if (at != top)
                FN(restore)(w, e);
            int64_t free_slots = nc_schedule_free_slots(plan);
            at = free_slots <= 0 ? end - 1 : top + nc_split(end - top, free_slots + 1);
            w->slot = e;
            for (int64_t i = top; i < at && !failed; i++) {
                r->recomputed += FN(again)(w);
                failed = w->tile.failed || FN(back_look_up)(s, g);
            }
            have_last = 0;
            FN(refill)(w);
            w->slot = NULL;
            if (free_slots > 0 && !failed) {
                char *kept = nc_record_slot(r, nc_schedule_push(plan, at));
                if (kept)
                    FN(save)(w, kept);
                else
                    __atomic_store_n(&p->stop, NC_STOP_MEMORY, __ATOMIC_RELAXED);
                failed = !kept;
            }
        }
    }
    s->tile.failed |= w->tile.failed;
    nc_arena_put(w);
    return failed;
}

/* Sets the lanes before a window of tile steps: back to the newest state that is kept before it, and on from
 * there by steps made again. On the way states before windows are kept for those still to come, the earlier
 * ones, where back_scheduled would keep them for single steps. */
static int FN(approach)(FN(lanes) *w, int64_t window, nc_record *out)
{
    nc_record *r = w->record;
    nc_schedule *plan = &r->plan;
    int64_t k = plan->n_kept - 1;
    while (plan->step[k] > window)
        k--;
    int64_t at = plan->step[k];
    FN(restore)(w, nc_record_at(r, plan->slot[k]));
    while (at < window && plan->n_kept > k + 1)
        nc_schedule_drop(plan); /* later ones, which have served */
    while (at < window) {
        int64_t free_slots = nc_schedule_free_slots(plan);
        int64_t next = free_slots <= 0 ? window : at + nc_split(window + 1 - at, free_slots + 1);
        w->slot = NULL;
        for (; at < next; at++)
            for (int64_t i = 0; i < r->window; i++) {
                out->recomputed += FN(again)(w);
                if (w->tile.failed)
                    return 1;
            }
        if (free_slots > 0) {
            FN(refill)(w);
            char *kept = nc_record_slot(r, nc_schedule_push(plan, at));
            if (!kept)
                return 1;
            FN(save)(w, kept);
        }
    }
    return 0;
}

/* The entries of a chunk whose record has a limit, made again into one that has none: those of a window, or
 * (-1) all. */
static int FN(unroll)(nc_problem *p, int64_t chunk, int64_t window, nc_record *out)
{
    nc_record *r = p->records + chunk;
    FN(lanes) *w = FN(new_lanes)(p);
    if (!w)
        return 1;
    FN(start_chunk)(w, chunk);
    w->silent = 1;
    char *last = malloc((size_t)r->last_bytes); /* the adjoint still needs its own */
    if (last)
        memcpy(last, r->last, (size_t)r->last_bytes);
    int failed = !last;
    int64_t n = r->n;
    if (window >= 0) {
        n -= window * r->window;
        n = n < r->window ? n : r->window;
        failed = failed || FN(approach)(w, window, out);
    } else if (n > 0) {
        FN(restore)(w, nc_record_at(r, 0));
    }
    for (int64_t i = 0; i < n && !failed; i++) {
        w->slot = NULL;
        out->recomputed += FN(again)(w);
        char *e = nc_record_push(out);
        failed = w->tile.failed || !e;
        if (!failed)
            memcpy(e, r->last, (size_t)out->entry_bytes);
    }
    if (last)
        memcpy(r->last, last, (size_t)r->last_bytes);
    free(last);
    nc_arena_put(w);
    return failed;
}

static int FN(back_paths)(FN(back) *s, nc_backward *g, int64_t chunk, int64_t begin, int64_t end);

static void FN(back_chunk)(FN(back) *s, nc_backward *g, int64_t chunk)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_record *r = p->records + chunk;
    int64_t D = p->dim, begin = p->batch * chunk / p->n_chunks,
            end = p->batch * (chunk + 1) / p->n_chunks;
    s->sinks.acc = s->sample_sinks.acc = s->second_sinks.acc = s->event_sinks.acc =
        g->acc + chunk * p->acc_size;
    memset(s->sinks.acc, 0, (size_t)p->acc_size * sizeof(double));
    if (p->n_sample)
        memset(s->sample_bar, 0, (size_t)((end - begin) * p->n_sample) * sizeof(double));
    for (int64_t b = begin; b < end; b++) { /* samples without a step are their own first output */
        int live = p->status[b] == NC_OK || p->status[b] == NC_EVENT;
        const REAL *dy = (const REAL *)g->dy + p->out_off[b] * D;
        for (int64_t i = 0; i < D; i++)
            ((REAL *)g->y0_bar)[b * D + i] = live && p->n_accepted[b] == 0 ? dy[i] : 0;
    }
    for (int64_t l = 0; l < s->L; l++) {
        s->cur[l] = s->donor[l] = -1;
        T->at_stop[l] = T->after_stop[l] = 0;
    }
    memset(s->lambda, 0, (size_t)(D * s->L) * sizeof(REAL));
    memset(s->carried, 0, (size_t)(2 * D * s->L) * sizeof(REAL));
    FN(method_reset)(T);
    FN(method_aim)(T, s->sinks.acc);
    memset(s->sbar, 0, (size_t)(p->n_sample * s->L) * sizeof(double));
    if (r->paths    ? FN(back_paths)(s, g, chunk, begin, end)
        : r->limit ? FN(back_scheduled)(s, g, chunk, begin)
                   : FN(back_all)(s, g, chunk, begin))
        return;
    FN(method_settle)(T);
    FN(back_samples)(s, g, begin, end);
    FN(panel_flush)(&s->sinks);
    FN(panel_flush)(&s->sample_sinks);
    FN(panel_flush)(&s->second_sinks);
    FN(panel_flush)(&s->event_sinks);
}

static void FN(backward)(nc_problem *p, nc_backward *g, int leader)
{
    int64_t samples = (p->batch + p->n_chunks - 1) / p->n_chunks + 1;
    nc_panel few[64], *probe_panels = few;
    int64_t n_panels = p->n_panels > p->n_sample_panels ? p->n_panels : p->n_sample_panels;
    if (p->n_second_panels > n_panels)
        n_panels = p->n_second_panels;
    if (p->events.n_panels > n_panels)
        n_panels = p->events.n_panels;
    if (n_panels > 64)
        probe_panels = malloc((size_t)n_panels * sizeof(nc_panel));
    if (!probe_panels) {
        p->stop = NC_STOP_MEMORY;
        return;
    }
    size_t elems[FN(N_SINKS)] = {FN(panel_layout)(&p->reverse, p->tile, probe_panels),
                                 FN(panel_layout)(&p->sample_reverse, p->tile, probe_panels),
                                 FN(panel_layout)(&p->second, p->tile, probe_panels),
                                 FN(panel_layout)(&p->events.spread, p->tile, probe_panels)};
    if (probe_panels != few)
        free(probe_panels);

    FN(back) probe = {0}, *s;
    probe.tile.p = p;
    probe.L = probe.tile.L = p->tile;
    probe.pad = (p->tile + 15) & ~(int64_t)15;
    size_t head = (sizeof probe + 63) & ~(size_t)63;
    char *arena =
        nc_arena_get(head + FN(back_memory)(&probe, NULL, samples, elems) + 256);
    if (!arena) {
        p->stop = NC_STOP_MEMORY;
        return;
    }
    s = (FN(back) *)arena;
    *s = probe;
    FN(back_memory)(s, arena + head, samples, elems);
    FN(panel_layout)(&p->reverse, p->tile, s->sinks.panels);
    FN(panel_layout)(&p->sample_reverse, p->tile, s->sample_sinks.panels);
    s->sinks.n_panels = p->n_panels;
    FN(panel_layout)(&p->second, p->tile, s->second_sinks.panels);
    s->sample_sinks.n_panels = p->n_sample_panels;
    s->second_sinks.n_panels = p->n_second_panels;
    FN(panel_layout)(&p->events.spread, p->tile, s->event_sinks.panels);
    s->event_sinks.n_panels = p->events.n_panels;
    s->want_t = g->want_t || (p->events.n && p->known.off[p->batch] > 0);
    s->leader = leader;
    s->last_look = nc_now();
    s->next_poll = s->last_look + 0.02;
    for (;;) {
        int64_t chunk = __atomic_fetch_add(&g->next, 1, __ATOMIC_RELAXED);
        if (chunk >= p->n_chunks || __atomic_load_n(&p->stop, __ATOMIC_RELAXED))
            break;
        FN(back_chunk)(s, g, chunk);
        if (s->tile.failed)
            p->stop = NC_STOP_CALLBACK;
    }
    nc_arena_put(arena);
}

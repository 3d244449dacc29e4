/* The life of a lane, forwards. Methods never see samples; this file never sees stages.
 *
 *   queue --load--> lane: propose -> step -> judge -> emit -> record -> advance --retire--> free
 *     ^                      ^__________________________________________|              |
 *     |______________________________ the next waiting samples ________________________|
 *
 * The queue holds up to L samples that are ready to go (their values of S, f0 and h0 are computed a
 * whole tile at a time). A lane whose trajectory ends takes the next of them. Lanes without a
 * sample keep a finite state and h = 0. Every lane has its own t, h, error and fate. */
typedef struct {
    FN(tile) tile;
    int64_t L, pad; /* pad: L rounded up to whole float64 vectors */
    int64_t next, end; /* the samples of this chunk that wait for the queue */
    int shared;        /* samples come from the problem's counter, L at a time */
    int silent;        /* a step made again: outputs and results are there already */
    nc_record *record;
    char *slot;        /* where the next step's entry is completed, or NULL */
    int64_t accepted_lanes; /* of the last tile step */
    int64_t placed, placed_slot; /* the step that place was last asked for, and its slot */
    int64_t chunk;
    int64_t n_live;

    /* per lane */
    int64_t *q, *n_out;        /* next output, number of outputs */
    const double **times;      /* the sample's times */
    int64_t *out0;             /* its first output row */
    int64_t *stop, *n_stop;    /* next stop, number of stops */
    int64_t *count;            /* steps made on the fixed or given grid */
    int64_t *accepted, *rejected, *fev;
    uint8_t *fresh, *first, *non_finite, *bad;
    RINT *mask, *fresh_mask;
    double *t_end, *dir, *h_next, *h_free;
    double *err, *log_err, *log_err1, *log_err2, *rejected_before, *factor, *theta, *part, *tmp;
    REAL *dense;

    /* the queue: a tile of samples in waiting */
    int64_t q_pos, q_size, q_first;
    int64_t *queue;
    REAL *queue_y, *queue_k, *queue_f1, *queue_args, *queue_s;
    double *queue_h;
    uint8_t *queue_bad;
    double next_poll, last_look;
    int countdown;
} FN(lanes);

static size_t FN(lanes_memory)(FN(lanes) *s, char *base)
{
    const nc_problem *p = s->tile.p;
    int64_t L = s->L, D = p->dim, n = s->pad, rows = D * L + FN(SLACK);
    size_t used = FN(tile_memory)(&s->tile, base, 0);
    NC_TAKE(s->q, n);
    NC_TAKE(s->n_out, n);
    NC_TAKE(s->times, n);
    NC_TAKE(s->out0, n);
    NC_TAKE(s->stop, n);
    NC_TAKE(s->n_stop, n);
    NC_TAKE(s->count, n);
    NC_TAKE(s->accepted, n);
    NC_TAKE(s->rejected, n);
    NC_TAKE(s->fev, n);
    NC_TAKE(s->fresh, n);
    NC_TAKE(s->first, n);
    NC_TAKE(s->non_finite, n);
    NC_TAKE(s->bad, n);
    NC_TAKE(s->mask, n);
    NC_TAKE(s->fresh_mask, n);
    NC_TAKE(s->t_end, n);
    NC_TAKE(s->dir, n);
    NC_TAKE(s->h_next, n);
    NC_TAKE(s->h_free, n);
    NC_TAKE(s->err, n);
    NC_TAKE(s->log_err, n);
    NC_TAKE(s->log_err1, n);
    NC_TAKE(s->log_err2, n);
    NC_TAKE(s->rejected_before, n);
    NC_TAKE(s->factor, n);
    NC_TAKE(s->theta, n);
    NC_TAKE(s->part, 8 * n);
    NC_TAKE(s->tmp, 4 * n);
    NC_TAKE(s->dense, rows);
    NC_TAKE(s->queue, n);
    NC_TAKE(s->queue_y, rows);
    NC_TAKE(s->queue_k, rows);
    NC_TAKE(s->queue_f1, rows);
    NC_TAKE(s->queue_args, (int64_t)p->n_args * L + FN(SLACK));
    NC_TAKE(s->queue_s, (int64_t)p->n_sample * L + FN(SLACK));
    NC_TAKE(s->queue_h, n);
    NC_TAKE(s->queue_bad, n);
    return used;
}

/* ---- The queue ------------------------------------------------------------------------------ */

/* NUMERICS: Hairer, Norsett & Wanner I, II.4. Leaves |h0| in queue_h. The tile's step arrays serve
 * as scratch; live lanes' y and k are not touched. */
static void FN(initial_step)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_control *c = &p->control;
    int64_t L = s->L, D = p->dim;
    double *d0 = s->tmp, *d1 = s->tmp + s->pad, *d2 = s->tmp + 2 * s->pad, *h0 = s->tmp + 3 * s->pad;
    const REAL *y = s->queue_y, *f0 = s->queue_k;
    FN(scaled_square)(y, y, y, c->atol, c->rtol, D, L, s->part, d0);
    FN(scaled_square)(f0, y, y, c->atol, c->rtol, D, L, s->part, d1);
    for (int64_t l = 0; l < L; l++) {
        int64_t b = s->queue[l];
        const double *t = p->t + p->t_off[b];
        int64_t n = p->out_off[b + 1] - p->out_off[b];
        double span = fabs(t[n - 1] - t[0]);
        double a = sqrt(d0[l] / (double)D), f = sqrt(d1[l] / (double)D);
        d1[l] = f;
        h0[l] = a < 1e-5 || f < 1e-5 ? 1e-6 : 0.01 * (a / f);
        h0[l] = fmin(h0[l], span);
        s->queue_h[l] = t[n - 1] >= t[0] ? 1.0 : -1.0;
    }
    for (int attempt = 0; attempt < 12; attempt++) {
        for (int64_t l = 0; l < L; l++) {
            T->coef[l] = (REAL)(h0[l] * s->queue_h[l]);
            T->stage_t[l] = p->t[p->t_off[s->queue[l]]] + h0[l] * s->queue_h[l];
            T->time[l] = (REAL)T->stage_t[l];
        }
        const REAL *k[1] = {f0};
        FN(lincomb)(T->stage, y, 1, k, T->coef, D, L);
        FN(field)(T, T->stage, s->queue_f1, NULL);
        if (!FN(find_nonfinite)(s->queue_f1, D, L, s->bad))
            break;
        for (int64_t l = 0; l < L; l++)
            if (s->bad[l])
                h0[l] /= 10;
    }
    for (int64_t j = 0; j < D * L; j++)
        T->stage[j] = s->queue_f1[j] - f0[j];
    FN(scaled_square)(T->stage, y, y, c->atol, c->rtol, D, L, s->part, d2);
    for (int64_t l = 0; l < L; l++) {
        double second = sqrt(d2[l] / (double)D) / h0[l];
        double big = fmax(d1[l], second);
        d2[l] = big <= 1e-15 || !(big < HUGE_VAL) ? 1.0 : 0.01 / big;
        d0[l] = big;
    }
    for (int64_t l = L; l < s->pad; l++)
        d2[l] = 1.0;
    control_power(d2, 1.0 / c->error_exponent, d1, s->pad);
    for (int64_t l = 0; l < L; l++) {
        double h1 = d0[l] <= 1e-15 ? fmax(1e-6, h0[l] * 1e-3) : d1[l];
        if (!(d0[l] < HUGE_VAL))
            h1 = h0[l];
        s->queue_h[l] = fmin(100 * h0[l], h1);
    }
}

/* Is the sample's first stop its initial time? */
static int FN(starts_on_stop)(const nc_problem *p, int64_t b)
{
    return p->stop_off && p->stop_off[b] < p->stop_off[b + 1] &&
           p->stops[p->stop_off[b]] == p->t[p->t_off[b]];
}

/* Makes the next samples ready. Lanes of the queue without one repeat the first. */
static void FN(fill_queue)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t L = s->L, D = p->dim, first, n;
    s->q_pos = s->q_size = 0;
    if (s->shared) {
        first = __atomic_fetch_add(&p->next, L, __ATOMIC_RELAXED);
        n = p->batch - first < L ? p->batch - first : L;
    } else {
        first = s->next;
        n = s->end - first < L ? s->end - first : L;
        s->next += n;
    }
    if (n <= 0)
        return;
    s->q_first = first;
    for (int64_t l = 0; l < L; l++) {
        int64_t b = s->queue[l] = first + (l < n ? l : 0);
        FN(lane_in)(s->queue_y, (const REAL *)p->y0 + b * D, D, L, l);
        if (p->n_args)
            FN(lane_in)(s->queue_args, (const REAL *)p->args + b * p->n_args, p->n_args, L, l);
    }
    REAL *live = T->base[NC_SP_S];
    T->base[NC_SP_S] = s->queue_s; /* the queue's samples, while its values are computed */
    if (p->n_sample && !p->opaque_field) {
        T->base[NC_SP_ARGS] = s->queue_args;
        FN(vm_run)(&p->sample, T->base, L, NULL);
        if (p->sample_values)
            for (int64_t l = 0; l < n; l++)
                FN(lane_out)((REAL *)p->sample_values + (first + l) * p->n_sample, s->queue_s,
                             p->n_sample, L, l);
    }
    int64_t *sample = T->sample;
    uint8_t *active = T->active;
    T->sample = s->queue;
    T->active = s->queue_bad;
    for (int64_t l = 0; l < L; l++) {
        int64_t b = s->queue[l];
        const double *t = p->t + p->t_off[b];
        s->queue_bad[l] = l < n;
        T->stage_t[l] = t[0];
        T->time[l] = (REAL)t[0];
        if (FN(starts_on_stop)(p, b)) { /* as stage_time has it */
            double end = t[p->out_off[b + 1] - p->out_off[b] - 1];
            T->stage_t[l] = nextafter(t[0], end);
            T->time[l] = FN(next_to)(T->time[l], end - t[0]);
        }
    }
    FN(field)(T, s->queue_y, s->queue_k, NULL);
    if (p->control.mode == NC_ADAPTIVE) {
        if (p->control.first_step > 0)
            for (int64_t l = 0; l < L; l++)
                s->queue_h[l] = p->control.first_step;
        else
            FN(initial_step)(s);
    }
    T->sample = sample;
    T->active = active;
    T->base[NC_SP_S] = live;
    FN(find_nonfinite)(s->queue_y, D, L, s->queue_bad);
    FN(find_nonfinite)(s->queue_k, D, L, s->bad);
    for (int64_t l = 0; l < L; l++)
        s->queue_bad[l] |= s->bad[l];
    s->q_size = n;
}

/* ---- Load and retire ------------------------------------------------------------------------ */

static void FN(finish_sample)(FN(lanes) *s, int64_t l, int status)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t b = T->sample[l], D = p->dim;
    T->active[l] = 0;
    s->n_live--;
    if (s->silent) {
        T->h[l] = 0;
        return;
    }
    p->status[b] = status;
    p->t_reached[b] = T->t[l];
    p->h_last[b] = T->h[l];
    p->n_accepted[b] = s->accepted[l];
    p->n_rejected[b] = s->rejected[l];
    p->n_fev[b] = s->fev[l];
    p->n_reached[b] = s->q[l];
    REAL *y = (REAL *)p->y_out;
    for (int64_t i = (s->out0[l] + s->q[l]) * D; i < (s->out0[l] + s->n_out[l]) * D; i++)
        y[i] = R_NAN;
    if (status != NC_OK && status != NC_EVENT && s->q[l] < s->n_out[l]) /* Run takes it from there */
        FN(lane_out)(y + (s->out0[l] + s->q[l]) * D, T->y, D, s->L, l);
    T->h[l] = 0;
    __atomic_fetch_add(&p->retired, 1, __ATOMIC_RELAXED);
}

/* What a lane knows of its sample without looking at the state. */
static void FN(bind_lane)(FN(lanes) *s, int64_t l, int64_t b)
{
    const nc_problem *p = s->tile.p;
    s->tile.sample[l] = b;
    s->times[l] = p->t + p->t_off[b];
    s->out0[l] = p->out_off[b];
    s->n_out[l] = p->out_off[b + 1] - s->out0[l];
    s->n_stop[l] = p->stop_off ? p->stop_off[b + 1] : 0;
    s->t_end[l] = s->times[l][s->n_out[l] - 1];
    s->dir[l] = s->t_end[l] >= s->times[l][0] ? 1.0 : -1.0;
}

static int FN(load_lane)(FN(lanes) *s, int64_t l)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t D = p->dim, L = s->L;
    for (;;) {
        if (s->q_pos == s->q_size)
            FN(fill_queue)(s);
        if (s->q_pos == s->q_size)
            return 0;
        int64_t j = s->q_pos++, b = s->queue[j];
        FN(lane_copy)(T->y, l, s->queue_y, j, D, L);
        FN(lane_copy)(T->k[0], l, s->queue_k, j, D, L);
        FN(lane_copy)(T->base[NC_SP_S], l, s->queue_s, j, p->n_sample, L);
        FN(bind_lane)(s, l, b);
        T->active[l] = 1;
        s->n_live++;
        s->stop[l] = p->stop_off ? p->stop_off[b] : 0;
        T->t[l] = s->times[l][0];
        s->count[l] = s->accepted[l] = s->rejected[l] = 0;
        s->fev[l] = 1 + (p->control.mode == NC_ADAPTIVE && p->control.first_step <= 0);
        s->fresh[l] = s->non_finite[l] = 0;
        T->after_stop[l] = (uint8_t)FN(starts_on_stop)(p, b);
        s->stop[l] += T->after_stop[l];
        s->first[l] = 1;
        s->log_err1[l] = s->log_err2[l] = s->rejected_before[l] = 0;
        T->h[l] = 0;
        s->h_next[l] = p->control.mode == NC_ADAPTIVE
                           ? s->dir[l] * fmin(s->queue_h[j], fabs(s->t_end[l] - T->t[l]))
                           : 0;
        memcpy((REAL *)p->y_out + s->out0[l] * D, (const REAL *)p->y0 + b * D,
               (size_t)D * sizeof(REAL));
        s->q[l] = 1;
        if (p->control.mode == NC_REPLAY) /* outputs at the initial time */
            while (s->q[l] < s->n_out[l] && p->out_step[s->out0[l] + s->q[l]] < 0) {
                memcpy((REAL *)p->y_out + (s->out0[l] + s->q[l]) * D, (const REAL *)p->y0 + b * D,
                       (size_t)D * sizeof(REAL));
                s->q[l]++;
            }
        int64_t steps = p->control.mode == NC_REPLAY ? p->grid_off[b + 1] - p->grid_off[b] : 1;
        if (s->queue_bad[j])
            FN(finish_sample)(s, l, NC_NON_FINITE);
        else if (s->n_out[l] == 1 || steps == 0)
            FN(finish_sample)(s, l, NC_OK);
        else if (p->stop)
            FN(finish_sample)(s, l, NC_DEADLINE);
        else
            return 1;
    }
}

static void FN(refill)(FN(lanes) *s)
{
    for (int64_t l = 0; l < s->L; l++)
        if (!s->tile.active[l] && !FN(load_lane)(s, l))
            return;
}

/* ---- A tile step ---------------------------------------------------------------------------- */

/* Chooses h and t_new of a live lane; 0 or the status that ends it. */
static int FN(propose)(FN(lanes) *s, int64_t l)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_control *c = &p->control;
    double t = T->t[l], dir = s->dir[l], target = s->t_end[l];
    if (s->accepted[l] + s->rejected[l] >= c->max_steps)
        return NC_MAX_STEPS;
    int at_stop = 0;
    if (c->stop_at_outputs)
        target = s->times[l][s->q[l]];
    if (s->stop[l] < s->n_stop[l]) {
        double stop = p->stops[s->stop[l]];
        if (dir * (stop - target) <= 0) {
            target = stop;
            at_stop = 1;
        }
    }
    T->at_stop[l] = 0;
    if (c->mode == NC_ADAPTIVE) {
        double h = s->h_next[l];
        if (fabs(h) > c->max_step)
            h = dir * c->max_step;
        s->h_free[l] = h;
        if (dir * (t + 1.01 * h - target) >= 0) {
            /* a step that would almost reach the target reaches it, but never beyond max_step */
            double rest = target - t;
            if (fabs(rest) <= c->max_step) {
                T->h[l] = rest;
                T->t_new[l] = target;
                T->at_stop[l] = (uint8_t)at_stop;
                return 0;
            }
        }
        T->h[l] = h;
        T->t_new[l] = t + h;
        if (fabs(h) < 10 * DBL_EPSILON * fabs(t) || t + h == t)
            return s->non_finite[l] ? NC_NON_FINITE : NC_STEP_UNDERFLOW;
    } else if (c->mode == NC_FIXED_DT) {
        double dt = dir * c->dt, t0 = s->times[l][0];
        double from = t0 + (double)s->count[l] * dt, to = t0 + (double)(s->count[l] + 1) * dt;
        if (dir * (to - target) >= -1e-9 * c->dt) {
            T->h[l] = target - t;
            T->t_new[l] = target;
            T->at_stop[l] = (uint8_t)at_stop;
        } else {
            T->h[l] = t == from ? dt : to - t;
            T->t_new[l] = to;
        }
    } else if (c->mode == NC_FIXED_STEPS) {
        const double *out = s->times[l] + s->q[l];
        int64_t j = s->count[l];
        double h = (out[0] - out[-1]) / c->n_sub;
        T->h[l] = h;
        T->t_new[l] = j + 1 == c->n_sub ? out[0] : out[-1] + (double)(j + 1) * h;
    } else {
        int64_t at = p->grid_off[T->sample[l]] + s->count[l];
        T->h[l] = p->grid_h[at];
        T->t_new[l] = p->grid[at + T->sample[l] + 1];
        while (s->stop[l] < s->n_stop[l] && T->h[l] * (p->stops[s->stop[l]] - t) <= 0)
            s->stop[l]++; /* the grid was moved away from it */
        T->at_stop[l] = s->stop[l] < s->n_stop[l] && T->t_new[l] == p->stops[s->stop[l]];
    }
    return 0;
}

/* Is the lane's next output due by the end of this step? exact: at the end itself. */
static int FN(output_due)(const FN(lanes) *s, int64_t l, int *exact)
{
    const FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    if (s->q[l] >= s->n_out[l])
        return 0;
    double t = s->times[l][s->q[l]];
    *exact = t == T->t_new[l];
    if (p->control.mode == NC_REPLAY)
        return p->out_step[s->out0[l] + s->q[l]] == s->count[l];
    return s->dir[l] * (t - T->t_new[l]) <= 0;
}

/* Writes the outputs that the accepted steps reached: the i-th of every lane in round i. */
static void FN(emit)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t D = p->dim, L = s->L;
    REAL *y = p->y_out;
    int exact, have_stages = 0;
    if (s->silent) {
        for (int64_t l = 0; l < L; l++)
            while (s->mask[l] && FN(output_due)(s, l, &exact))
                s->q[l]++;
        return;
    }
    for (;;) {
        int due = 0, dense = 0;
        for (int64_t l = 0; l < L; l++) {
            s->theta[l] = 0;
            if (!s->mask[l] || !FN(output_due)(s, l, &exact))
                continue;
            due = 1;
            if (exact) {
                FN(lane_out)(y + (s->out0[l] + s->q[l]) * D, T->y1, D, L, l);
                s->q[l]++;
                l--; /* the next one of the same lane */
            } else {
                dense = 1;
                s->theta[l] = (s->times[l][s->q[l]] - T->t[l]) / T->h[l];
            }
        }
        if (!due)
            return;
        if (!dense)
            continue;
        if (!have_stages && p->method->n_stages > p->method->n_step) {
            FN(rk_dense_stages)(T);
            for (int64_t l = 0; l < L; l++)
                if (s->mask[l] && FN(output_due)(s, l, &exact) && !exact)
                    s->fev[l] += p->method->n_stages - p->method->n_step;
        }
        have_stages = 1;
        FN(rk_dense)(T, s->theta, s->dense);
        for (int64_t l = 0; l < L; l++)
            if (s->mask[l] && FN(output_due)(s, l, &exact) && !exact) {
                FN(lane_out)(y + (s->out0[l] + s->q[l]) * D, s->dense, D, L, l);
                s->q[l]++;
            }
    }
}

/* ---- Records and checkpoints ---------------------------------------------------------------- */

/* The state of all lanes before a step, and which sample and output they are at. */
static void FN(write_start)(const FN(lanes) *s, const nc_record *r, char *e)
{
    const FN(tile) *T = &s->tile;
    int64_t L = s->L;
    int32_t *sample = (int32_t *)e, *q = (int32_t *)(e + r->off_q);
    for (int64_t l = 0; l < L; l++) {
        sample[l] = (int32_t)T->sample[l];
        q[l] = (int32_t)s->q[l];
    }
    memcpy(e + r->off_t, T->t, (size_t)L * sizeof(double));
    memcpy(e + r->off_y, T->y, (size_t)(L * T->p->dim) * sizeof(REAL));
}

/* What the step was: its size and end, and which lanes it moved. */
static void FN(write_step)(const FN(lanes) *s, const nc_record *r, char *e)
{
    const FN(tile) *T = &s->tile;
    int64_t L = s->L;
    uint8_t *flags = (uint8_t *)(e + r->off_flags);
    for (int64_t l = 0; l < L; l++) {
        flags[l] = 0;
        if (T->active[l]) {
            flags[l] = s->mask[l] ? NC_LANE_ACCEPTED : NC_LANE_HELD;
            if (s->mask[l] && s->first[l])
                flags[l] |= NC_LANE_FIRST;
            if (T->at_stop[l])
                flags[l] |= NC_LANE_AT_STOP;
            if (T->after_stop[l])
                flags[l] |= NC_LANE_AFTER_STOP;
        }
    }
    memcpy(e + r->off_h, T->h, (size_t)L * sizeof(double));
    memcpy(e + r->off_t_new, T->t_new, (size_t)L * sizeof(double));
    if (r->off_carry)
        ((nc_carry *)(e + r->off_carry))->complete = 1;
}

/* Lets the stages of the next step leave their trace in the record, if there is room. */
static void FN(aim_trace)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_record *r = s->record;
    char *trace = s->silent || !r ? NULL : nc_record_trace(r, r->n);
    for (int64_t i = 1; i <= (r ? r->trace_stages : 0); i++) {
        char *stage = trace ? trace + (i - 1) * r->trace_stage_bytes : NULL;
        T->keep_y[i] = (REAL *)stage;
        T->keep_res[i] = trace ? (REAL *)(stage + r->trace_off_res) : NULL;
    }
}

/* Lanes that did not move repeat one that did: no NaN of theirs meets the sums over lanes. */
static void FN(mend_trace)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_record *r = s->record;
    int64_t donor = 0;
    if (!r->trace_stages || !T->keep_y[1])
        return;
    while (!s->mask[donor])
        donor++;
    for (int64_t l = 0; l < s->L; l++)
        for (int64_t i = 1; i <= r->trace_stages && !s->mask[l]; i++) {
            FN(lane_copy)(T->keep_y[i], l, T->keep_y[i], donor, T->p->dim, s->L);
            FN(lane_copy)(T->keep_res[i], l, T->keep_res[i], donor, T->p->res_rows, s->L);
        }
}

static int FN(record)(FN(lanes) *s)
{
    nc_record *r = s->record;
    FN(mend_trace)(s);
    if (!r->limit) {
        char *e = nc_record_push(r);
        if (!e)
            return NC_STOP_MEMORY;
        FN(write_start)(s, r, e);
        FN(write_step)(s, r, e);
        return 0;
    }
    if (s->slot)
        FN(write_step)(s, r, s->slot);
    FN(write_start)(s, r, r->last);
    FN(write_step)(s, r, r->last);
    s->slot = NULL;
    r->n += !s->silent;
    return 0;
}

enum { FN(MORE_ACTIVE) = 1, FN(MORE_FIRST) = 2, FN(MORE_REJECTED) = 4, FN(MORE_AFTER_STOP) = 8 };

/* The arrays behind an entry: what the driver needs besides. */
typedef struct {
    nc_carry *head;
    double *h_next, *log_err1, *log_err2;
    int64_t *count, *made;
    int32_t *stop;
    uint8_t *more;
} FN(carry);

static FN(carry) FN(carry_of)(const nc_record *r, char *e)
{
    FN(carry) c;
    int64_t L = r->lanes;
    c.head = (nc_carry *)(e + r->off_carry);
    c.h_next = (double *)(c.head + 1);
    c.log_err1 = c.h_next + L;
    c.log_err2 = c.log_err1 + L;
    c.count = (int64_t *)(c.log_err2 + L);
    c.made = c.count + L;
    c.stop = (int32_t *)(c.made + L);
    c.more = (uint8_t *)(c.stop + L);
    return c;
}

/* Keeps the state before the next step in a slot; its entry is completed by that step. */
static void FN(save)(FN(lanes) *s, char *e)
{
    const nc_record *r = s->record;
    FN(carry) c = FN(carry_of)(r, e);
    FN(write_start)(s, r, e);
    c.head->next = s->next;
    c.head->queue_first = s->q_first;
    c.head->queue_size = s->q_size;
    c.head->queue_pos = s->q_pos;
    c.head->complete = 0;
    for (int64_t l = 0; l < s->L; l++) {
        c.h_next[l] = s->h_next[l];
        c.log_err1[l] = s->log_err1[l];
        c.log_err2[l] = s->log_err2[l];
        c.count[l] = s->count[l];
        c.made[l] = s->accepted[l] + s->rejected[l];
        c.stop[l] = (int32_t)s->stop[l];
        c.more[l] = (uint8_t)((s->tile.active[l] ? FN(MORE_ACTIVE) : 0) |
                              (s->first[l] ? FN(MORE_FIRST) : 0) |
                              (s->rejected_before[l] != 0 ? FN(MORE_REJECTED) : 0) |
                              (s->tile.after_stop[l] ? FN(MORE_AFTER_STOP) : 0));
    }
    s->slot = e;
}

/* The lanes as they were when the slot was saved. First derivatives are evaluated afresh: they have
 * the bits of those that were handed on. */
static void FN(restore)(FN(lanes) *s, char *e)
{
    FN(tile) *T = &s->tile;
    const nc_record *r = s->record;
    const nc_problem *p = T->p;
    int64_t L = s->L;
    FN(carry) c = FN(carry_of)(r, e);
    const int32_t *sample = (const int32_t *)e, *q = (const int32_t *)(e + r->off_q);
    memcpy(T->t, e + r->off_t, (size_t)L * sizeof(double));
    memcpy(T->y, e + r->off_y, (size_t)(L * p->dim) * sizeof(REAL));
    if (s->q_first != c.head->queue_first || s->q_size != c.head->queue_size) {
        s->next = c.head->queue_first;
        if (c.head->queue_size > 0)
            FN(fill_queue)(s);
        s->q_size = c.head->queue_size;
    }
    s->next = c.head->next;
    s->q_pos = c.head->queue_pos;
    s->n_live = 0;
    for (int64_t l = 0; l < L; l++) {
        FN(bind_lane)(s, l, sample[l]);
        s->q[l] = q[l];
        s->h_next[l] = c.h_next[l];
        s->log_err1[l] = c.log_err1[l];
        s->log_err2[l] = c.log_err2[l];
        s->count[l] = c.count[l];
        s->accepted[l] = c.made[l];
        s->rejected[l] = 0;
        s->stop[l] = c.stop[l];
        s->non_finite[l] = 0;
        T->active[l] = (c.more[l] & FN(MORE_ACTIVE)) != 0;
        s->fresh[l] = T->active[l];
        s->first[l] = (c.more[l] & FN(MORE_FIRST)) != 0;
        s->rejected_before[l] = (c.more[l] & FN(MORE_REJECTED)) != 0;
        T->after_stop[l] = (c.more[l] & FN(MORE_AFTER_STOP)) != 0;
        s->n_live += T->active[l];
        FN(lane_in)(T->base[NC_SP_S], (const REAL *)p->sample_values + sample[l] * p->n_sample,
                    p->n_sample, L, l);
    }
    s->slot = e;
}

/* First derivatives again, where a step starts behind a stop. */
static void FN(refresh)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    int any = 0;
    for (int64_t l = 0; l < s->L; l++) {
        s->fresh_mask[l] = s->fresh[l] && T->active[l] ? -1 : 0;
        any |= s->fresh_mask[l] != 0;
    }
    if (!any)
        return;
    FN(stage_time)(T, 0.0);
    FN(field)(T, T->y, s->dense, NULL);
    FN(select_lanes)(T->k[0], s->dense, s->fresh_mask, T->p->dim, s->L);
    for (int64_t l = 0; l < s->L; l++)
        if (s->fresh_mask[l]) {
            s->fev[l]++;
            s->fresh[l] = 0;
        }
}

/* One step of every live lane; 0, or why to stop. */
static int FN(tile_step)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    const nc_control *c = &p->control;
    const nc_tableau *m = p->method;
    int64_t L = s->L, D = p->dim;
    int adaptive = c->mode == NC_ADAPTIVE, last = m->n_step - 1;

    for (int64_t l = 0; l < L; l++) {
        int status = T->active[l] ? FN(propose)(s, l) : NC_OK;
        if (status)
            FN(finish_sample)(s, l, status);
        if (!T->active[l]) {
            T->h[l] = 0;
            T->t_new[l] = T->t[l];
            T->at_stop[l] = T->after_stop[l] = 0;
        }
    }
    if (s->n_live == 0)
        return 0;
    FN(refresh)(s);
    if (s->record)
        FN(aim_trace)(s);
    FN(rk_step)(T);
    int finish_first = adaptive && FN(rk_error_reads_finish)(m);
    if (finish_first)
        FN(rk_finish)(T);

    /* judge */
    int any_accepted = 0, all_accepted = 1, need_finish = 0;
    FN(find_nonfinite)(T->y1, D, L, s->bad);
    if (adaptive) {
        FN(rk_error)(T, s->part, s->tmp, s->err);
        for (int64_t l = 0; l < L; l++)
            if (s->bad[l])
                s->err[l] = HUGE_VAL;
        for (int64_t l = L; l < s->pad; l++)
            s->err[l] = 1;
        control_factor(c, s->err, s->log_err, s->log_err1, s->log_err2, s->rejected_before,
                       s->factor, s->pad);
    }
    for (int64_t l = 0; l < L; l++) {
        int ok = T->active[l] && (adaptive ? s->err[l] <= 1 : !s->bad[l]);
        s->mask[l] = ok ? -1 : 0;
        any_accepted += ok;
        all_accepted &= ok;
        int exact; /* does this lane read its step stage's derivative, whatever the others do? */
        int finish = ok && (c->mode == NC_REPLAY || T->t_new[l] != s->t_end[l] ||
                            (FN(output_due)(s, l, &exact) && !exact));
        need_finish |= finish;
        if (T->active[l])
            s->fev[l] += last - 1 + (finish_first || finish);
    }
    if (!finish_first && (need_finish || (any_accepted && T->keep_res[last])))
        FN(rk_finish)(T); /* a trace is whole */

    int stop = 0;
    s->accepted_lanes = any_accepted;
    if (any_accepted) {
        if (s->record)
            stop = FN(record)(s);
        FN(emit)(s);
        if (all_accepted) {
            REAL *swap = T->y;
            T->y = T->y1;
            T->y1 = swap;
            swap = T->k[0];
            T->k[0] = T->k[last];
            T->k[last] = swap;
        } else {
            FN(select_lanes)(T->y, T->y1, s->mask, D, L);
            FN(select_lanes)(T->k[0], T->k[last], s->mask, D, L);
        }
    }

    for (int64_t l = 0; l < L; l++) {
        if (!T->active[l])
            continue;
        if (!s->mask[l]) {
            if (!adaptive) {
                s->rejected[l]++;
                FN(finish_sample)(s, l, NC_NON_FINITE);
                continue;
            }
            s->rejected[l]++;
            s->non_finite[l] = !(s->err[l] < HUGE_VAL);
            s->rejected_before[l] = 1;
            s->h_next[l] = T->h[l] * s->factor[l];
            continue;
        }
        s->accepted[l]++;
        s->first[l] = 0;
        if (c->mode == NC_FIXED_STEPS) {
            s->count[l] = s->count[l] + 1 == c->n_sub ? 0 : s->count[l] + 1;
        } else if (c->mode == NC_FIXED_DT) {
            double to = s->times[l][0] + (double)(s->count[l] + 1) * s->dir[l] * c->dt;
            if (s->dir[l] * (T->t_new[l] - to) >= -1e-9 * c->dt)
                s->count[l]++;
        } else {
            s->count[l]++;
        }
        if (adaptive) {
            double h = T->h[l] * s->factor[l];
            if (T->h[l] != s->h_free[l] && fabs(s->h_free[l]) > fabs(h))
                h = s->h_free[l]; /* clipped: the proposal still stands */
            s->h_next[l] = h;
            s->log_err2[l] = s->log_err1[l];
            s->log_err1[l] = fmax(s->log_err[l], c->log2_memory_floor);
            s->rejected_before[l] = 0;
            s->non_finite[l] = 0;
        }
        T->after_stop[l] = T->at_stop[l];
        if (T->at_stop[l]) {
            s->stop[l]++;
            s->fresh[l] = 1;
        }
        T->t[l] = T->t_new[l];
        int done = c->mode == NC_REPLAY
                       ? s->count[l] == p->grid_off[T->sample[l] + 1] - p->grid_off[T->sample[l]]
                       : T->t[l] == s->t_end[l];
        if (done)
            FN(finish_sample)(s, l, NC_OK);
    }
    return T->failed ? NC_STOP_CALLBACK : stop;
}

/* ---- A chunk, and all of them --------------------------------------------------------------- */

/* Ctrl-C, deadline, progress: looked at every 20 ms by the leader, the flag by everyone. The clock is
 * read every few steps, or at each if steps are slow. */
static int FN(look_up)(FN(lanes) *s, int leader)
{
    nc_problem *p = (nc_problem *)s->tile.p;
    if (leader && --s->countdown < 0) {
        double now = nc_now();
        s->countdown = now - s->last_look < 1e-3 ? 8 : 0;
        s->last_look = now;
        if (now >= p->deadline && !p->stop)
            __atomic_store_n(&p->stop, NC_STOP_DEADLINE, __ATOMIC_RELAXED);
        if (p->poll && now >= s->next_poll) {
            s->next_poll = now + 0.02;
            if (p->poll(p->poll_ctx, (double)p->retired / (double)p->batch))
                __atomic_store_n(&p->stop, NC_STOP_INTERRUPT, __ATOMIC_RELAXED);
        }
    }
    return __atomic_load_n(&p->stop, __ATOMIC_RELAXED);
}

/* Keeps the state before the next recorded step, if the schedule says so. A step that is tried more
 * than once is kept as it was before the last try. */
static int FN(place)(FN(lanes) *s)
{
    nc_record *r = s->record;
    if (s->placed != r->n) {
        s->placed = r->n;
        s->placed_slot = nc_schedule_place(&r->plan, r->n);
    }
    if (s->placed_slot < 0)
        return 0;
    char *e = nc_record_slot(r, s->placed_slot);
    if (!e)
        return -1;
    FN(save)(s, e);
    return 0;
}

/* Runs until no sample is left. Returns 1 when it paused. */
static int FN(run_lanes)(FN(lanes) *s, int leader, double pause_at)
{
    nc_problem *p = (nc_problem *)s->tile.p;
    for (;;) {
        if (s->n_live < s->L)
            FN(refill)(s);
        if (s->n_live == 0)
            return 0;
        int stop = FN(look_up)(s, leader);
        if (stop == NC_STOP_DEADLINE) {
            for (int64_t l = 0; l < s->L; l++)
                if (s->tile.active[l])
                    FN(finish_sample)(s, l, NC_DEADLINE);
            continue; /* refill marks those that wait */
        }
        if (stop)
            return 0;
        if (pause_at < HUGE_VAL && s->last_look > pause_at &&
            p->next < (s->shared ? p->batch : p->n_chunks))
            return 1;
        if (s->record && s->record->limit && FN(place)(s)) {
            __atomic_store_n(&p->stop, NC_STOP_MEMORY, __ATOMIC_RELAXED);
            return 0;
        }
        stop = FN(tile_step)(s);
        if (stop) {
            __atomic_store_n(&p->stop, stop, __ATOMIC_RELAXED);
            return 0;
        }
    }
}

static void FN(start_chunk)(FN(lanes) *s, int64_t chunk)
{
    const nc_problem *p = s->tile.p;
    s->chunk = chunk;
    s->shared = p->records == NULL;
    s->record = s->shared ? NULL : p->records + chunk;
    s->next = s->shared ? 0 : p->batch * chunk / p->n_chunks;
    s->end = s->shared ? 0 : p->batch * (chunk + 1) / p->n_chunks;
    s->n_live = s->q_pos = s->q_size = 0;
    s->q_first = s->placed = s->placed_slot = -1;
    s->silent = 0;
    s->slot = NULL;
    memset(s->tile.keep_y, 0, sizeof s->tile.keep_y);
    memset(s->tile.keep_res, 0, sizeof s->tile.keep_res);
    memset(s->tile.active, 0, (size_t)s->L);
    /* Until it gets a sample, a lane repeats the first of the chunk: a finite state. */
    int64_t b = s->shared ? 0 : s->next;
    for (int64_t l = 0; l < s->L; l++) {
        FN(lane_in)(s->tile.y, (const REAL *)p->y0 + b * p->dim, p->dim, s->L, l);
        s->tile.t[l] = p->t[p->t_off[b]];
        s->tile.h[l] = 0;
        s->tile.sample[l] = b;
    }
    memset(s->tile.k[0], 0, (size_t)(p->dim * s->L) * sizeof(REAL));
    memset(s->tile.base[NC_SP_S], 0, (size_t)(p->n_sample * s->L) * sizeof(REAL));
    memset(s->fresh, 0, (size_t)s->L);
    memset(s->tile.at_stop, 0, (size_t)s->L);
    memset(s->tile.after_stop, 0, (size_t)s->L);
}

/* A set of lanes with its work space, to be given back by nc_arena_put; NULL when memory is out. */
static FN(lanes) *FN(new_lanes)(nc_problem *p)
{
    FN(lanes) probe = {0};
    probe.tile.p = p;
    probe.L = probe.tile.L = p->tile;
    probe.pad = (p->tile + 15) & ~(int64_t)15;
    size_t head = (sizeof probe + 63) & ~(size_t)63;
    char *arena = nc_arena_get(head + FN(lanes_memory)(&probe, NULL) + 256);
    if (!arena) {
        __atomic_store_n(&p->stop, NC_STOP_MEMORY, __ATOMIC_RELAXED);
        return NULL;
    }
    FN(lanes) *s = (FN(lanes) *)arena;
    *s = probe;
    FN(lanes_memory)(s, arena + head);
    s->last_look = nc_now();
    s->next_poll = s->last_look + 0.02;
    s->chunk = -1;
    return s;
}

static int FN(forward)(nc_problem *p, int leader, double pause_after, void **state)
{
    FN(lanes) *s = *state;
    int resumed = s != NULL;
    if (!resumed && !(s = FN(new_lanes)(p)))
        return 0;
    double pause_at = leader && pause_after > 0 ? nc_now() + pause_after : HUGE_VAL;
    for (;;) {
        if (!resumed) {
            if (p->records) {
                int64_t chunk = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
                if (chunk >= p->n_chunks || p->stop == NC_STOP_INTERRUPT)
                    break;
                FN(start_chunk)(s, chunk);
            } else {
                if (s->chunk >= 0)
                    break;
                FN(start_chunk)(s, 0);
            }
        }
        resumed = 0;
        if (FN(run_lanes)(s, leader, pause_at)) {
            *state = s;
            return 1;
        }
        if (s->record && s->record->limit)
            nc_schedule_close(&s->record->plan, s->record->n);
    }
    nc_arena_put(s);
    *state = NULL;
    return 0;
}

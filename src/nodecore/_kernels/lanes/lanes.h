/* The life of a lane, forwards: lanes and their work space, the queue, load and retire; what is between
 * them is drive.h.
 *
 *   queue --load--> lane: propose -> step -> judge -> emit -> record -> advance --retire--> free
 *     ^                      ^__________________________________________|              |
 *     |______________________________ the next waiting samples ________________________|
 *
 * Between judge and emit events are looked for (events.h), which may end the step before its end.
 *
 * The queue holds some tiles of samples that are ready to go (their values of S, f0 and h0 are computed a
 * whole tile at a time). A lane whose trajectory ends takes the next of them: where steps are adaptive
 * the one that is expected to need the most (Graham's longest processing time first), so that the lanes of
 * a chunk end at about the same step. Lanes without a sample keep a finite state and h = 0. Every lane has
 * its own t, h, error and fate. */

/* A tile of samples in waiting: their initial states, derivatives, step sizes, values of S; and whether one
 * of these is not finite. */
typedef struct {
    int64_t *sample;
    REAL *y, *k, *s;
    double *h;
    uint8_t *bad;
} FN(waiting);

typedef struct {
    FN(tile) tile, stiff_tile; /* the second is the first one's `other` */
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
    int64_t *accepted, *rejected, *fev, *jev, *factored, *switches;
    uint8_t *fresh, *first, *bad, *wild;
    int32_t *near_limit; /* measured steps in a row that stability seems to limit */
    int64_t *n_stiff;
    double *stiff_at;    /* [3][pad]: time, size and rate there */
    int steps_made;
    uint8_t *evaluated; /* the first derivative is a field value */
    uint8_t *trouble;   /* why the last try was rejected, if not by its error: enum nc_status */
    RINT *mask, *fresh_mask;
    double *t_end, *dir, *h_next, *h_free;
    double *apart; /* of the coupled scheme: how far y and z are apart */
    double *err, *log_err, *log_err1, *log_err2, *rejected_before, *factor, *theta, *part, *tmp;
    REAL *dense;
    double *reach; /* up to where the step's outputs are due: t_new, or an event's time */
    /* of the step: are the stages there that the dense output reads; does this lane read the last stage's
     * derivative, the dense output? */
    int finished, opened;
    uint8_t *reads_finish, *reads_dense;
    FN(event_state) ev;

    /* the queue: p->window tiles of samples in waiting */
    int64_t q_pos, q_size, q_first;
    int64_t *q_order; /* [window * L]: which place of the queue is loaded next */
    double *q_steps;  /* [window * L]: about how many steps each will make */
    FN(waiting) *q_tile; /* [window] */
    REAL *queue_f1, *queue_args;
    double next_poll, last_look;
    int countdown;
} FN(lanes);

/* Does an event end the lane's step? */
static int FN(is_cut)(const FN(lanes) *s, int64_t l)
{
    return s->tile.p->events.n && s->ev.cut[l];
}

static size_t FN(lanes_memory)(FN(lanes) *s, char *base)
{
    const nc_problem *p = s->tile.p;
    int64_t L = s->L, D = p->dim, n = s->pad, rows = D * L + FN(SLACK);
    size_t used = FN(tile_memory)(&s->tile, base, 0);
    used = FN(other_memory)(&s->stiff_tile, &s->tile, base, used, 0);
    s->tile.other = s->tile.method->stiff ? &s->stiff_tile : NULL;
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
    NC_TAKE(s->jev, n);
    NC_TAKE(s->factored, n);
    NC_TAKE(s->switches, n);
    NC_TAKE(s->fresh, n);
    NC_TAKE(s->first, n);
    NC_TAKE(s->evaluated, n);
    NC_TAKE(s->near_limit, n);
    NC_TAKE(s->n_stiff, n);
    NC_TAKE(s->stiff_at, 3 * n);
    NC_TAKE(s->trouble, n);
    NC_TAKE(s->bad, n);
    NC_TAKE(s->wild, n);
    NC_TAKE(s->mask, n);
    NC_TAKE(s->fresh_mask, n);
    NC_TAKE(s->t_end, n);
    NC_TAKE(s->dir, n);
    NC_TAKE(s->h_next, n);
    NC_TAKE(s->h_free, n);
    NC_TAKE(s->apart, n);
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
    NC_TAKE(s->reads_finish, n);
    NC_TAKE(s->reads_dense, n);
    NC_TAKE(s->q_order, p->window * L);
    NC_TAKE(s->q_steps, p->window * L);
    NC_TAKE(s->q_tile, p->window);
    for (int64_t i = 0; i < p->window; i++) {
        FN(waiting) none, *w = base ? s->q_tile + i : &none;
        NC_TAKE(w->sample, n);
        NC_TAKE(w->y, rows);
        NC_TAKE(w->k, rows);
        NC_TAKE(w->s, (int64_t)p->n_sample * L + FN(SLACK));
        NC_TAKE(w->h, n);
        NC_TAKE(w->bad, n);
    }
    NC_TAKE(s->queue_f1, rows);
    NC_TAKE(s->queue_args, (int64_t)p->n_args * L + FN(SLACK));
    s->reach = s->tile.t_new;
    if (p->events.n) {
        NC_TAKE(s->reach, n);
        used = FN(event_memory)(&s->ev, base, used, p, L, n);
    }
    return used;
}

/* ---- The dense output of the step made ------------------------------------------------------ */

/* Everything that it reads. */
static void FN(open_dense)(FN(lanes) *s)
{
    const nc_tableau *m = s->tile.method;
    if (s->opened)
        return;
    if (!s->finished && FN(method_finishes)(m))
        FN(method_finish)(&s->tile);
    if (m->n_stages > m->n_step)
        FN(method_dense_stages)(&s->tile);
    s->finished = s->opened = 1;
}

/* A lane reads it: what that costs, whatever the others do. */
static void FN(read_dense)(FN(lanes) *s, int64_t l)
{
    const nc_tableau *m = FN(maker)(&s->tile, l)->method;
    if (!s->reads_dense[l])
        s->fev[l] += m->n_stages - m->n_step + (FN(method_finishes)(m) && !s->reads_finish[l]);
    s->reads_dense[l] = s->reads_finish[l] = 1;
}

/* ---- The queue ------------------------------------------------------------------------------ */

/* NUMERICS: Hairer, Norsett & Wanner I, II.4. Leaves |h0| in w->h. The tile's step arrays serve
 * as scratch; live lanes' y and k are not touched. */
static void FN(initial_step)(FN(lanes) *s, FN(waiting) *w)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_control *c = &p->control;
    int64_t L = s->L, D = p->dim;
    double *d0 = s->tmp, *d1 = s->tmp + s->pad, *d2 = s->tmp + 2 * s->pad, *h0 = s->tmp + 3 * s->pad;
    const REAL *y = w->y, *f0 = w->k;
    FN(scaled_square)(y, y, y, c->atol, c->rtol, D, L, s->part, d0);
    FN(scaled_square)(f0, y, y, c->atol, c->rtol, D, L, s->part, d1);
    for (int64_t l = 0; l < L; l++) {
        int64_t b = w->sample[l];
        const double *t = p->t + p->t_off[b];
        int64_t n = p->out_off[b + 1] - p->out_off[b];
        double span = fabs(t[n - 1] - t[0]);
        double a = sqrt(d0[l] / (double)D), f = sqrt(d1[l] / (double)D);
        d1[l] = f;
        h0[l] = a < 1e-5 || f < 1e-5 ? 1e-6 : 0.01 * (a / f);
        h0[l] = fmin(h0[l], span);
        w->h[l] = t[n - 1] >= t[0] ? 1.0 : -1.0;
    }
    for (int attempt = 0; attempt < 12; attempt++) {
        for (int64_t l = 0; l < L; l++) {
            T->coef[l] = (REAL)(h0[l] * w->h[l]);
            T->stage_t[l] = p->t[p->t_off[w->sample[l]]] + h0[l] * w->h[l];
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
        double t0 = fabs(p->t[p->t_off[w->sample[l]]]);
        w->h[l] = fmax(fmin(100 * h0[l], h1), 100 * DBL_EPSILON * t0); /* t must move */
    }
}

/* Is the sample's first stop its initial time? */
static int FN(starts_on_stop)(const nc_problem *p, int64_t b)
{
    return p->stop_off && p->stop_off[b] < p->stop_off[b + 1] &&
           p->stops[p->stop_off[b]] == p->t[p->t_off[b]];
}

/* Makes samples first .. first + n - 1 ready, n <= L. Lanes without one repeat the first. */
static void FN(fill_tile)(FN(lanes) *s, FN(waiting) *w, int64_t first, int64_t n)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t L = s->L, D = p->dim;
    for (int64_t l = 0; l < L; l++) {
        int64_t b = w->sample[l] = first + (l < n ? l : 0);
        FN(lane_in)(w->y, (const REAL *)p->y0 + b * D, D, L, l);
        if (p->n_args)
            FN(lane_in)(s->queue_args, (const REAL *)p->args + b * p->n_args, p->n_args, L, l);
    }
    REAL *live = T->base[NC_SP_S];
    T->base[NC_SP_S] = w->s; /* the queue's samples, while its values are computed */
    if (p->n_sample && !p->opaque_field) {
        T->base[NC_SP_ARGS] = s->queue_args;
        FN(vm_run)(&p->sample, T->base, L, NULL);
        if (p->sample_values)
            for (int64_t l = 0; l < n; l++)
                FN(lane_out)((REAL *)p->sample_values + (first + l) * p->n_sample, w->s,
                             p->n_sample, L, l);
    }
    int64_t *sample = T->sample;
    uint8_t *active = T->active;
    T->sample = w->sample;
    T->active = w->bad;
    for (int64_t l = 0; l < L; l++) {
        int64_t b = w->sample[l];
        const double *t = p->t + p->t_off[b];
        w->bad[l] = l < n;
        T->stage_t[l] = t[0];
        T->time[l] = (REAL)t[0];
        if (FN(starts_on_stop)(p, b)) { /* as stage_time has it */
            double end = t[p->out_off[b + 1] - p->out_off[b] - 1];
            T->stage_t[l] = nextafter(t[0], end);
            T->time[l] = FN(next_to)(T->time[l], end - t[0]);
        }
    }
    FN(field)(T, w->y, w->k, NULL);
    if (p->control.mode == NC_ADAPTIVE) {
        if (p->control.first_step > 0)
            for (int64_t l = 0; l < L; l++)
                w->h[l] = p->control.first_step;
        else
            FN(initial_step)(s, w);
    }
    T->sample = sample;
    T->active = active;
    T->base[NC_SP_S] = live;
    FN(find_nonfinite)(w->y, D, L, w->bad);
    FN(find_nonfinite)(w->k, D, L, s->bad);
    for (int64_t l = 0; l < L; l++)
        w->bad[l] |= s->bad[l];
}

/* Makes the next samples ready, and puts them in order: at equal expectations the earlier one first. */
static void FN(fill_queue)(FN(lanes) *s)
{
    nc_problem *p = (nc_problem *)s->tile.p;
    int64_t L = s->L, most = p->window * L, first, n;
    s->q_pos = s->q_size = 0;
    if (s->shared) {
        first = __atomic_fetch_add(&p->next, most, __ATOMIC_RELAXED);
        n = p->batch - first < most ? p->batch - first : most;
    } else {
        first = s->next;
        n = s->end - first < most ? s->end - first : most;
        s->next += n;
    }
    if (n <= 0)
        return;
    s->q_first = first;
    for (int64_t at = 0; at < n; at += L)
        FN(fill_tile)(s, s->q_tile + at / L, first + at, n - at < L ? n - at : L);
    for (int64_t j = 0; j < n; j++) {
        int64_t b = first + j, i = j;
        if (p->control.mode == NC_ADAPTIVE) {
            const double *t = p->t + p->t_off[b];
            double span = t[p->out_off[b + 1] - p->out_off[b] - 1] - t[0];
            p->expected[b] = fabs(span) / s->q_tile[j / L].h[j % L];
        }
        double steps = p->expected[b];
        for (; i > 0 && s->q_steps[i - 1] < steps; i--) {
            s->q_steps[i] = s->q_steps[i - 1];
            s->q_order[i] = s->q_order[i - 1];
        }
        s->q_steps[i] = steps;
        s->q_order[i] = j;
    }
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
    p->n_jev[b] = s->jev[l];
    p->n_lu[b] = s->factored[l];
    p->n_switches[b] = s->switches[l];
    p->n_stiff[b] = s->n_stiff[l];
    if (s->n_stiff[l]) {
        p->stiff_t[b] = s->stiff_at[l];
        p->stiff_h[b] = s->stiff_at[s->pad + l];
        p->stiff_rho[b] = s->stiff_at[2 * s->pad + l];
    }
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

static void FN(load_events)(FN(lanes) *s, int64_t l);
static void FN(find_lane_events)(FN(lanes) *s, int64_t l);

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
        int64_t place = s->q_order[s->q_pos++], j = place % L;
        const FN(waiting) *w = s->q_tile + place / L;
        int64_t b = w->sample[j];
        FN(lane_copy)(T->y, l, w->y, j, D, L);
        FN(lane_copy)(T->k[0], l, w->k, j, D, L);
        if (T->z)
            FN(lane_copy)(T->z, l, w->y, j, D, L);
        FN(lane_copy)(T->base[NC_SP_S], l, w->s, j, p->n_sample, L);
        FN(bind_lane)(s, l, b);
        T->active[l] = 1;
        s->n_live++;
        s->stop[l] = p->stop_off ? p->stop_off[b] : 0;
        T->t[l] = s->times[l][0];
        s->count[l] = s->accepted[l] = s->rejected[l] = 0;
        s->fev[l] = 1 + (p->control.mode == NC_ADAPTIVE && p->control.first_step <= 0);
        s->jev[l] = s->factored[l] = s->switches[l] = s->n_stiff[l] = 0;
        s->near_limit[l] = 0;
        s->fresh[l] = (uint8_t)FN(starts_in_parts)(T->method);
        s->trouble[l] = 0;
        s->evaluated[l] = 1;
        FN(method_start)(T, l);
        if (T->other) {
            int replay = p->control.mode == NC_REPLAY;
            int some = replay && p->grid_off[b] < p->grid_off[b + 1]; /* a grid may have none */
            FN(auto_give)(T, l, some && p->grid_stiff[p->grid_off[b]]);
            T->look[l] = !replay;
        }
        T->after_stop[l] = (uint8_t)FN(starts_on_stop)(p, b);
        s->stop[l] += T->after_stop[l];
        s->first[l] = 1;
        s->log_err1[l] = s->log_err2[l] = s->rejected_before[l] = 0;
        T->h[l] = 0;
        if (p->events.n)
            FN(load_events)(s, l);
        s->h_next[l] = p->control.mode == NC_ADAPTIVE
                           ? s->dir[l] * fmin(w->h[j], fabs(s->t_end[l] - T->t[l]))
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
        if (w->bad[j])
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

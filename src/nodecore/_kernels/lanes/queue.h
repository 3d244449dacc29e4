/* Where a lane's life begins and ends: the queue, load, retire (lanes.h). */

/* ---- The queue: the next samples of a chunk, made ready some tiles at a time ------------------ */

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

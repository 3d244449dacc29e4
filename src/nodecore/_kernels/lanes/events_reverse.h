/* Events of a step, backwards (docs/math/discrete-adjoint.md): an event's time t* = t_n + theta h is
 * an implicit function, g(t*, y(theta)) = 0, and y* = y(theta). With tau and eta the cotangents of t*
 * and y*, and lambda that of the state behind the event r(t*, y*), if it ends the step:
 *
 *   A = lambda . r_t + (what the steps behind give to t*) + tau,   B = r_y^T lambda + eta
 *   s = A + B . y',   g' = g_t + g_y . y'   (y' the slope of the dense output)
 *   y* gets B - g_y^T s / g',   t_n gets A - g_t s / g',   params get r_p^T lambda - g_p^T s / g'
 *
 * The state gets its part as an interpolated output does. */

/* Where g changes by less than this part of its size in the step, the root grazes: its derivative is
 * lost in rounding. */
static double FN(least_slope)(void)
{
    return sizeof(REAL) == 8 ? 0x1p-20 : 0x1p-9;
}

static void FN(enter_events)(FN(back) *s, int64_t l)
{
    const nc_problem *p = s->tile.p;
    s->ev.cursor[l] = p->known.off[s->cur[l] + 1];
    s->ev.nth[l] = p->n_accepted[s->cur[l]] - 1;
}

/* The last event of this step that is left in each lane; whether there is any. In lanes without one the
 * programs see what a lane with one sees. */
static int FN(take_events)(FN(back) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_back) *v = &s->ev;
    int64_t L = s->L, donor = -1;
    for (int64_t l = 0; l < L; l++) {
        v->job[l] = -1;
        if (!T->active[l])
            continue;
        int64_t i = v->cursor[l] - 1;
        while (i >= p->known.off[s->cur[l]] && p->known.items[i].step == v->nth[l] &&
               p->known.items[i].event < 0)
            i--;
        v->cursor[l] = i + 1;
        if (i < p->known.off[s->cur[l]] || p->known.items[i].step != v->nth[l])
            continue;
        v->job[l] = i;
        donor = donor < 0 ? l : donor;
    }
    if (donor < 0)
        return 0;
    memcpy(v->s, T->base[NC_SP_S], (size_t)(p->n_sample * L) * sizeof(REAL));
    for (int64_t l = 0; l < L; l++) {
        int64_t i = v->job[v->job[l] < 0 ? donor : l];
        FN(lane_in)(v->y, (const REAL *)p->known.y + i * p->dim, p->dim, L, l);
        v->time[l] = (REAL)p->known.items[i].t;
        if (v->job[l] < 0)
            FN(lane_copy)(v->s, l, v->s, donor, p->n_sample, L);
    }
    return 1;
}

/* The cotangents of events and resets, back to y and t, or to all that is slower. */
static void FN(event_program)(FN(back) *s, const nc_program *program, nc_sinks *sinks)
{
    FN(tile) *T = &s->tile;
    FN(event_back) *v = &s->ev;
    REAL *live = T->base[NC_SP_S];
    T->base[NC_SP_S] = v->s;
    T->base[NC_SP_T] = v->time;
    T->base[NC_SP_Y] = v->y;
    T->base[NC_SP_CT] = v->ct;
    T->base[NC_SP_YBAR] = v->ybar;
    T->base[NC_SP_TBAR] = v->tbar;
    T->base[NC_SP_SBAR] = s->sbar_stage;
    FN(vm_run)(program, T->base, s->L, sinks);
    T->base[NC_SP_S] = live;
}

/* g of all events where the step begins and where it ends. */
static void FN(event_ends)(FN(back) *s)
{
    FN(tile) *T = &s->tile;
    FN(event_back) *v = &s->ev;
    for (int end = 0; end < 2; end++) {
        for (int64_t l = 0; l < s->L; l++) {
            T->time[l] = (REAL)(end ? T->t_new[l] : T->t[l]);
            s->theta[l] = end;
        }
        FN(method_dense)(T, s->theta, s->kappa); /* free until the step's own reverse */
        T->base[NC_SP_T] = T->time;
        T->base[NC_SP_Y] = s->kappa;
        T->base[NC_SP_OUT] = end ? v->g1 : v->g0;
        FN(vm_run)(&T->p->events.value, T->base, s->L, NULL);
    }
}

/* One event of a lane, with g_y, g_t in v->g_y, v->g_t and r_y^T lambda, r_t . lambda in v->ybar,
 * v->tbar; non-zero if it grazes. */
static int FN(pull_event)(FN(back) *s, const nc_backward *g, int64_t l)
{
    const FN(tile) *by = FN(maker)(&s->tile, l);
    const nc_problem *p = by->p;
    FN(event_back) *v = &s->ev;
    int64_t D = p->dim, L = s->L, item = v->job[l];
    const nc_event *e = p->known.items + item;
    const REAL *y_bar = g->event_y_bar ? (const REAL *)g->event_y_bar + item * D : NULL;
    double w[NC_MAX_STAGES], dw[NC_MAX_STAGES], slope = (double)v->g_t[l];
    FN(dense_weights)(by->method, e->theta, w, dw);
    double time = g->event_t_bar ? g->event_t_bar[item] : 0;
    if (e->cut) {
        time += (double)v->tbar[l] + FN(close_interval)(s, g, l, e->t);
        s->held[l] = 1;
    }
    double total = time;
    for (int64_t i = 0; i < D; i++) {
        int64_t at = i * L + l;
        double f = FN(dense_slope)(s, l, i, dw);
        v->ybar[at] = (e->cut ? v->ybar[at] : 0) + (y_bar ? y_bar[i] : 0);
        slope += (double)v->g_y[at] * f;
        total += (double)v->ybar[at] * f;
    }
    double size = fmax(fabs((double)v->g0[e->event * L + l]), fabs((double)v->g1[e->event * L + l]));
    if (!(fabs(slope * by->h[l]) > FN(least_slope)() * size)) {
        v->grazes = e->event;
        v->grazes_t = e->t;
        return 1;
    }
    double share = total / slope;
    for (int64_t i = 0; i < D; i++) {
        int64_t at = i * L + l;
        FN(to_stages)(s, l, i, w, (REAL)((double)v->ybar[at] - (double)v->g_y[at] * share));
        if (e->cut)
            s->lambda[at] = 0; /* the end of the step is not used */
    }
    time -= (double)v->g_t[l] * share;
    s->time_sum[l] += time;
    s->size_sum[l] += e->theta * time;
    v->ct[e->event * L + l] = (REAL)-share;
    return 0;
}

/* All events of the step, from the last to the first. Returns the lane of one that grazes, or -1. */
static int64_t FN(pull_events)(FN(back) *s, const nc_backward *g, int *dense)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_back) *v = &s->ev;
    int64_t D = p->dim, L = s->L;
    size_t events = (size_t)(p->events.n * L), resets = (size_t)(p->events.n_resets * D * L);
    while (FN(take_events)(s)) {
        if (!*dense) {
            FN(open_stages)(s);
            FN(event_ends)(s);
        }
        *dense = 1;
        memset(v->ct, 0, (events + resets) * sizeof(REAL));
        for (int64_t l = 0; l < L; l++)
            if (v->job[l] >= 0)
                v->ct[p->known.items[v->job[l]].event * L + l] = 1;
        FN(event_program)(s, &p->events.pull, NULL);
        memcpy(v->g_y, v->ybar, (size_t)(D * L) * sizeof(REAL));
        memcpy(v->g_t, v->tbar, (size_t)L * sizeof(REAL));
        memset(v->ct, 0, events * sizeof(REAL));
        for (int64_t l = 0; l < L; l++) {
            const nc_event *e = v->job[l] < 0 ? NULL : p->known.items + v->job[l];
            int32_t block = !e || p->events.terminal[e->event] ? -1 : p->events.reset_at[e->event];
            if (block >= 0)
                FN(lane_copy)(v->ct + events + block * D * L, l, s->lambda, l, D, L);
        }
        FN(event_program)(s, &p->events.pull, NULL);
        for (int64_t l = 0; l < L; l++)
            if (v->job[l] >= 0 && FN(pull_event)(s, g, l))
                return l;
        FN(event_program)(s, &p->events.spread, &s->event_sinks);
        for (int64_t l = 0; l < L; l++) {
            if (v->job[l] < 0)
                continue;
            for (int64_t j = 0; j < p->n_sample; j++)
                s->sbar[j * L + l] += (double)s->sbar_stage[j * L + l];
            v->cursor[l]--;
        }
    }
    for (int64_t l = 0; l < L; l++)
        if (T->active[l])
            v->nth[l]--;
    return -1;
}

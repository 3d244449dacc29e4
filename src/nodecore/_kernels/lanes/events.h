/* One file: how an event is seen, located and told, and what follows, are one idea.
 *
 * Events of a step, forwards (docs/events.md): after a step is accepted, changes of the sign of g
 * between its ends are located on its dense output, in float64 time.
 *
 *   arm_events --> step --> judge --> step_events: detect --> locate --> tell --> emit, record
 *        ^                                                                           |
 *        |________________ enter_cuts: the state there, or what the reset makes of it |
 *
 * Where a grid is given (replay), the events of each step are given too, and only located again; where
 * steps are made again from a checkpoint, they are what they were. */

/* |g| is told from zero when it exceeds its noise by this factor, its slope when it exceeds this
 * part of what it was in the step before. */
enum { FN(CLEAR) = 32 };
static const double FN(STILL) = sizeof(REAL) == 8 ? 0x1p-48 : 0x1p-20;

/* g of all events at times t and states y. */
static void FN(event_values)(FN(lanes) *s, const double *t, REAL *y, REAL *g)
{
    FN(tile) *T = &s->tile;
    for (int64_t l = 0; l < s->L; l++)
        s->ev.time[l] = (REAL)t[l];
    T->base[NC_SP_T] = s->ev.time;
    T->base[NC_SP_Y] = y;
    T->base[NC_SP_OUT] = g;
    FN(vm_run)(&T->p->events.value, T->base, s->L, NULL);
}

/* The time at theta. */
static double FN(event_time)(const FN(lanes) *s, int64_t l, double theta)
{
    const FN(tile) *T = &s->tile;
    return theta == 1 ? T->t_new[l] : T->t[l] + theta * T->h[l];
}

/* The dense output at ev.at, and g there. */
static void FN(event_look)(FN(lanes) *s)
{
    FN(event_state) *v = &s->ev;
    FN(open_dense)(s);
    FN(method_dense)(&s->tile, v->at, v->y);
    for (int64_t l = 0; l < s->L; l++)
        v->t[l] = FN(event_time)(s, l, v->at[l]);
    FN(event_values)(s, v->t, v->y, v->g);
}

/* Rounding of the step's times, in units of theta. */
static double FN(theta_rounding)(const FN(lanes) *s, int64_t l)
{
    const FN(tile) *T = &s->tile;
    double t = fmax(fabs(T->t[l]), fabs(T->t_new[l]));
    return DBL_EPSILON * fmax(1, t / fabs(T->h[l]));
}

static int FN(sign)(double g)
{
    return (g > 0) - (g < 0);
}

/* ---- Lanes ---------------------------------------------------------------------------------- */

static void FN(load_events)(FN(lanes) *s, int64_t l)
{
    const nc_problem *p = s->tile.p;
    FN(event_state) *v = &s->ev;
    for (int64_t i = l; i < p->events.n * s->pad; i += s->pad) {
        v->side[i] = 0;
        v->zero[i] = FN(ZERO_NO);
        v->noise[i] = 0;
        v->still[i] = HUGE_VAL;
        v->last[i] = NAN;
    }
    v->fresh[l] = 1;
    v->node[l] = NAN;
    v->cursor[l] = p->known.off ? p->known.off[s->tile.sample[l]] : 0;
}

/* A lane set back to where it was: which events lie ahead. */
static void FN(find_lane_events)(FN(lanes) *s, int64_t l)
{
    const nc_event_table *known = &s->tile.p->known;
    FN(event_state) *v = &s->ev;
    int64_t b = s->tile.sample[l], i = known->off[b];
    v->node[l] = NAN;
    for (; i < known->off[b + 1] && known->items[i].step < s->accepted[l]; i++)
        if (known->items[i].cut)
            v->node[l] = known->items[i].t;
    v->cursor[l] = i;
    v->fresh[l] = 0;
}

/* The side of zero that each event of a fresh lane is on. */
static void FN(arm_events)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_state) *v = &s->ev;
    int any = 0;
    if (s->silent || p->control.mode == NC_REPLAY)
        return;
    for (int64_t l = 0; l < s->L; l++)
        any |= T->active[l] && v->fresh[l];
    if (!any)
        return;
    FN(event_values)(s, T->t, T->y, v->g);
    for (int64_t l = 0; l < s->L; l++) {
        if (!T->active[l] || !v->fresh[l])
            continue;
        v->fresh[l] = 0;
        for (int64_t k = 0; k < p->events.n; k++) {
            int64_t i = k * s->pad + l;
            double g = (double)v->g[k * s->L + l];
            int near = fabs(g) <= FN(CLEAR) * v->noise[i];
            if (!near || v->zero[i] == FN(ZERO_NO))
                v->side[i] = (int8_t)FN(sign)(g);
            else if (v->zero[i] == FN(ZERO_HAPPENED))
                v->side[i] = 0;
            v->zero[i] = FN(ZERO_NO);
        }
    }
}

/* ---- Location ------------------------------------------------------------------------------- */

/* Between a, where g is on the side `in`, and b, where it is not: the root of event job, lane by
 * lane, by T. R. Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a
 * nonlinear function without using derivatives, Adv. Eng. Software 28 (1997) 145-149. fb must be
 * there. The lanes without a job have -1. */
static void FN(locate)(FN(lanes) *s)
{
    FN(event_state) *v = &s->ev;
    const double eps = sizeof(REAL) == 8 ? DBL_EPSILON : 0x1p-30;
    int64_t L = s->L, left = 0;
    for (int64_t l = 0; l < L; l++)
        v->at[l] = v->job[l] < 0 ? 0 : v->a[l];
    FN(event_look)(s);
    for (int64_t l = 0; l < L; l++) {
        v->frac[l] = -1; /* done */
        if (v->job[l] < 0)
            continue;
        int64_t i = v->job[l] * s->pad + l;
        FN(read_dense)(s, l);
        v->fa[l] = (double)v->g[v->job[l] * L + l];
        if (v->fa[l] * v->in[l] > 0) {
            v->c[l] = v->b[l];
            v->fc[l] = v->fb[l];
            v->frac[l] = 0.5;
            left++;
        } else { /* it had passed, within rounding, when the step began */
            v->theta[i] = v->a[l];
            v->noise[i] = fmax(v->noise[i], fabs(v->fa[l]));
        }
    }
    for (int round = 0; left && round < 200; round++) {
        for (int64_t l = 0; l < L; l++)
            v->at[l] = v->frac[l] < 0 ? 0 : v->a[l] + v->frac[l] * (v->b[l] - v->a[l]);
        FN(event_look)(s);
        for (int64_t l = 0; l < L; l++) {
            if (v->frac[l] < 0)
                continue;
            double x = v->at[l], f = (double)v->g[v->job[l] * L + l];
            if ((f * v->in[l] > 0) == (v->fa[l] * v->in[l] > 0)) {
                v->c[l] = v->a[l];
                v->fc[l] = v->fa[l];
            } else {
                v->c[l] = v->b[l];
                v->fc[l] = v->fb[l];
                v->b[l] = v->a[l];
                v->fb[l] = v->fa[l];
            }
            double a = v->a[l] = x, fa = v->fa[l] = f;
            double b = v->b[l], c = v->c[l], fb = v->fb[l], fc = v->fc[l];
            double best = fabs(fa) < fabs(fb) ? a : b;
            double least = (2 * eps * fabs(best) + 0x1p-57) / fabs(b - a);
            if (fa == 0 || fb == 0 || least > 0.5) {
                int64_t i = v->job[l] * s->pad + l;
                v->theta[i] = fa == 0 ? a : best;
                v->noise[i] = fa == 0 || fb == 0 ? 0 : fmax(fabs(fa), fabs(fb));
                v->frac[l] = -1;
                left--;
                continue;
            }
            double xi = (a - b) / (c - b), phi = (fa - fb) / (fc - fb), frac = 0.5;
            if (phi * phi < xi && (1 - phi) * (1 - phi) < 1 - xi) /* inverse quadratic */
                frac = fa / (fb - fa) * fc / (fb - fc) +
                       (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb);
            v->frac[l] = fmin(fmax(frac, least), 1 - least);
        }
    }
    for (int64_t l = 0; l < L; l++) /* a g of NaN; any of its points will do */
        if (v->frac[l] >= 0)
            v->theta[v->job[l] * s->pad + l] = v->b[l];
    /* an exact zero says nothing of g's noise: how large is g one rounding of time aside, and on? */
    double wide = 8;
    for (int round = 0; round < 24; round++) {
        int64_t any = 0;
        for (int64_t l = 0; l < L; l++) {
            int64_t i = v->job[l] * s->pad + l;
            int ask = v->job[l] >= 0 && !(v->noise[i] > 0);
            v->at[l] = ask ? v->theta[i] + (round & 1 ? -wide : wide) * FN(theta_rounding)(s, l) : 0;
            any |= ask;
        }
        if (!any)
            return;
        FN(event_look)(s);
        for (int64_t l = 0; l < L; l++) {
            int64_t i = v->job[l] * s->pad + l;
            if (v->job[l] >= 0 && !(v->noise[i] > 0))
                v->noise[i] = fabs((double)v->g[v->job[l] * L + l]);
        }
        if (round & 1)
            wide *= 8;
    }
}

/* ---- Detection ------------------------------------------------------------------------------ */

/* out = the slope of the dense output where the steps begin. */
static void FN(first_slope)(FN(tile) *T, REAL *out)
{
    const nc_tableau *m = T->method;
    double w[NC_MAX_STAGES], dw[NC_MAX_STAGES];
    const REAL *k[NC_MAX_STAGES];
    FN(dense_weights)(m, 0, w, dw);
    for (int i = 0; i < m->n_stages; i++) {
        k[i] = T->k[i];
        for (int64_t l = 0; l < T->L; l++) {
            double size = m->family == NC_ROSENBROCK && T->h[l] != 0 ? T->h[l] : 1;
            T->coef[i * T->L + l] = (REAL)(dw[i] / size);
        }
    }
    FN(lincomb)(out, NULL, m->n_stages, k, T->coef, T->p->dim, T->L);
}

/* The sign of dg/dt where the steps begin, along the dense output. */
static void FN(find_ways)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile, *o = T->other;
    FN(event_state) *v = &s->ev;
    FN(open_dense)(s);
    FN(first_slope)(T, v->y);
    if (o) {
        FN(first_slope)(o, o->n.rest);
        FN(select_lanes)(v->y, o->n.rest, T->stiff, T->p->dim, s->L);
    }
    for (int64_t l = 0; l < s->L; l++)
        v->time[l] = (REAL)T->t[l];
    T->base[NC_SP_T] = v->time;
    T->base[NC_SP_Y] = T->y;
    T->base[NC_SP_V] = v->y;
    T->base[NC_SP_OUT] = v->g;
    FN(vm_run)(&T->p->events.slope, T->base, s->L, NULL);
    for (int64_t l = 0; l < s->L; l++)
        for (int64_t e = 0; e < T->p->events.n; e++) {
            int64_t i = e * s->pad + l;
            double slope = (double)v->g[e * s->L + l];
            int known = v->noise[i] > 0 && fabs(slope) > v->still[i];
            v->way[i] = (int8_t)(known ? FN(sign)(slope) * s->dir[l] : 0);
        }
}

/* Events whose g was zero when the step began: on which side does it leave, and where is that seen
 * first? From nearby to far, so that a short excursion is not stepped over. First of all in the
 * middle: a g that is zero there and at the end has not left. One with a reset that is first seen on
 * the other side than its slope says has been back within g's noise: such events pile up, and end
 * the sample. */
static void FN(find_departures)(FN(lanes) *s)
{
    const nc_problem *p = s->tile.p;
    FN(event_state) *v = &s->ev;
    for (double theta = 0.5; theta <= 1; theta = theta == 0.5 ? 0x1p-44 : 4 * theta) {
        int any = 0;
        for (int64_t l = 0; l < s->L; l++) {
            int ask = 0;
            for (int64_t k = 0; k < p->events.n && s->mask[l]; k++) {
                int64_t i = k * s->pad + l;
                double end = (double)v->g_end[k * s->L + l];
                if (v->side[i] == 0 && v->way[i] && v->way[i] * end > FN(CLEAR) * v->noise[i])
                    v->side[i] = v->way[i];
                ask |= v->side[i] == 0 && v->lo[i] == 0;
            }
            v->at[l] = ask ? theta : 0;
            any |= ask;
            if (ask)
                FN(read_dense)(s, l);
        }
        if (!any)
            return;
        FN(event_look)(s);
        for (int64_t l = 0; l < s->L; l++)
            for (int64_t k = 0; k < p->events.n && v->at[l] > 0; k++) {
                int64_t i = k * s->pad + l;
                double g = (double)v->g[k * s->L + l], end = (double)v->g_end[k * s->L + l];
                double clear = FN(CLEAR) * v->noise[i];
                if (v->side[i] || v->lo[i] > 0)
                    continue;
                if (theta == 0.5) {
                    if (!(fabs(g) > clear) && !(fabs(end) > clear))
                        v->lo[i] = 1;
                } else if (fabs(g) > clear) {
                    v->side[i] = (int8_t)FN(sign)(g);
                    v->lo[i] = theta;
                    if (v->way[i] == -v->side[i] && p->events.reset_at[k] >= 0) {
                        v->ends[l] = NC_STEP_UNDERFLOW;
                        v->pause[l] = theta * s->tile.h[l];
                    }
                }
            }
    }
}

/* The events of the accepted steps: theta of each, and the first one that ends its step. */
static int FN(detect)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    const nc_events *e = &p->events;
    FN(event_state) *v = &s->ev;
    int64_t L = s->L;
    int any = 0, disarmed = 0;
    FN(event_values)(s, T->t_new, T->y1, v->g_end);
    for (int64_t l = 0; l < L; l++)
        for (int64_t k = 0; k < e->n && s->mask[l]; k++) {
            int64_t i = k * s->pad + l;
            v->lo[i] = 0;
            v->zero[i] = v->side[i] == 0 ? FN(ZERO_HAPPENED) : FN(ZERO_NO);
            disarmed |= v->side[i] == 0;
            if (isnan(v->g_end[k * L + l]))
                v->ends[l] = NC_NON_FINITE;
        }
    if (disarmed) {
        FN(find_ways)(s);
        FN(find_departures)(s);
    }
    for (int64_t l = 0; l < L; l++)
        for (int64_t k = 0; k < e->n && s->mask[l]; k++) {
            int64_t i = k * s->pad + l;
            int side = v->side[i];
            if (side && side * (double)v->g_end[k * L + l] <= 0 &&
                (e->direction[k] == 0 || e->direction[k] == -side)) {
                v->theta[i] = HUGE_VAL; /* to be located */
                any = 1;
            }
        }
    if (!any)
        return 0;
    for (int64_t left = 1; left;) {
        left = 0;
        for (int64_t l = 0; l < L; l++) {
            v->job[l] = -1;
            for (int64_t k = 0; k < e->n && v->job[l] < 0; k++)
                if (v->theta[k * s->pad + l] == HUGE_VAL) {
                    v->job[l] = (int32_t)k;
                    v->a[l] = v->lo[k * s->pad + l];
                    v->b[l] = 1;
                    v->fb[l] = (double)v->g_end[k * L + l];
                    v->in[l] = v->side[k * s->pad + l];
                    left = 1;
                }
        }
        if (left)
            FN(locate)(s);
    }
    /* The first that ends the step. Those behind it have not happened yet: if g is zero where the next
     * step starts, they are still about to. */
    for (int64_t l = 0; l < L; l++) {
        double first = HUGE_VAL;
        for (int64_t k = 0; k < e->n && s->mask[l]; k++) {
            double theta = v->theta[k * s->pad + l];
            if ((e->terminal[k] || e->reset_at[k] >= 0) && theta < first) {
                first = theta;
                v->cut[l] = 1;
                v->by[l] = (int32_t)k;
            }
        }
        if (!s->mask[l] || !v->cut[l])
            continue;
        double same = first + 8 * FN(theta_rounding)(s, l);
        for (int64_t k = 0; k < e->n; k++) {
            int64_t i = k * s->pad + l;
            v->still[i] = FN(STILL) * fabs((double)v->g_end[k * L + l] / T->h[l]);
            if (isnan(v->theta[i]))
                continue;
            int told = k == v->by[l] || (v->theta[i] <= same && !e->terminal[k] && e->reset_at[k] < 0);
            if (told)
                v->zero[i] = FN(ZERO_HAPPENED);
            else if (v->zero[i] == FN(ZERO_NO) || v->lo[i] <= first) /* else not even left zero */
                v->zero[i] = FN(ZERO_WAITS);
            if (!told)
                v->theta[i] = NAN;
        }
        v->fresh[l] = 1;
        v->ends[l] = 0; /* what would end the sample lies behind */
    }
    return 1;
}

/* The sides at the end of whole steps. */
static void FN(pass_sides)(FN(lanes) *s)
{
    const nc_problem *p = s->tile.p;
    FN(event_state) *v = &s->ev;
    for (int64_t l = 0; l < s->L; l++)
        for (int64_t k = 0; k < p->events.n && s->mask[l] && !v->cut[l]; k++) {
            int64_t i = k * s->pad + l;
            double g = (double)v->g_end[k * s->L + l];
            if (!isnan(v->theta[i])) /* it happened */
                v->side[i] = (int8_t)(fabs(g) > FN(CLEAR) * v->noise[i] ? FN(sign)(g) : 0);
            else if (v->side[i] && g != 0)
                v->side[i] = (int8_t)FN(sign)(g);
        }
}

/* ---- Given events --------------------------------------------------------------------------- */

/* The lane's next given event, if it is in this step. */
static const nc_event *FN(given_event)(const FN(lanes) *s, int64_t l)
{
    const nc_event_table *known = &s->tile.p->known;
    int64_t i = s->ev.cursor[l];
    if (!s->mask[l] || i >= known->off[s->tile.sample[l] + 1] ||
        known->items[i].step != s->accepted[l])
        return NULL;
    return known->items + i;
}

/* Makes [a, b] enclose the root of a given event again, which may have moved out of it. b goes
 * first, and a at first towards the root: it may keep another one out. The search ends one step away;
 * the lane has no job then. */
static void FN(enclose)(FN(lanes) *s)
{
    enum { DONE, LOOK, UP, IN, DOWN };
    FN(event_state) *v = &s->ev;
    for (int round = 0; round < 7; round++) {
        double wide = 0x1p-6 * (1 << round);
        int any = 0;
        for (int64_t l = 0; l < s->L; l++) {
            const nc_event *e = v->job[l] < 0 ? NULL : FN(given_event)(s, l);
            int way = DONE;
            if (e && round == 0) {
                v->at[l] = v->a[l];
                way = LOOK;
            } else if (e && v->fb[l] * v->in[l] > 0) {
                v->at[l] = 1 + wide;
                way = UP;
            } else if (e && !(v->fa[l] * v->in[l] > 0) &&
                       !(e->theta == e->lo && fabs(v->fa[l]) <= FN(CLEAR) * e->noise)) {
                way = round == 1 ? IN : DOWN;
                v->at[l] = way == IN ? 0.5 * (e->lo + e->theta) : e->lo - wide;
            } else {
                v->at[l] = 0;
            }
            v->frac[l] = way;
            any |= way != DONE;
        }
        if (!any)
            return;
        FN(event_look)(s);
        for (int64_t l = 0; l < s->L; l++) {
            double g = v->job[l] < 0 ? 0 : (double)v->g[v->job[l] * s->L + l];
            if (v->frac[l] == UP) {
                v->b[l] = v->at[l];
                v->fb[l] = g;
            } else if (v->frac[l] == DOWN) {
                v->b[l] = v->a[l];
                v->fb[l] = v->fa[l];
            }
            if (v->frac[l] == LOOK || v->frac[l] == DOWN || (v->frac[l] == IN && g * v->in[l] > 0)) {
                v->a[l] = v->at[l];
                v->fa[l] = g;
            }
        }
    }
    for (int64_t l = 0; l < s->L; l++)
        if (v->job[l] >= 0 && v->frac[l] != DONE &&
            (v->fb[l] * v->in[l] > 0 || !(v->fa[l] * v->in[l] > 0))) {
            v->ends[l] = NC_NON_FINITE;
            v->job[l] = -1;
        }
}

/* The given events of the accepted steps, located again. */
static int FN(locate_given)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    FN(event_state) *v = &s->ev;
    int any = 0;
    for (int64_t left = 1; left;) {
        left = 0;
        for (int64_t l = 0; l < s->L; l++) {
            const nc_event *e = FN(given_event)(s, l);
            v->job[l] = -1;
            if (!e)
                continue;
            left = 1;
            v->ends[l] = e->ends;
            if (e->event < 0)
                continue;
            int64_t i = e->event * s->pad + l;
            v->job[l] = e->event;
            v->a[l] = v->lo[i] = e->lo;
            v->b[l] = 1;
            v->in[l] = v->side[i] = (int8_t)e->side;
            if (e->cut) {
                v->cut[l] = 1;
                v->by[l] = e->event;
            }
        }
        if (!left)
            break;
        if (!any)
            FN(event_values)(s, T->t_new, T->y1, v->g_end);
        any = 1;
        for (int64_t l = 0; l < s->L; l++)
            if (v->job[l] >= 0)
                v->fb[l] = (double)v->g_end[v->job[l] * s->L + l];
        FN(enclose)(s);
        FN(locate)(s);
        for (int64_t l = 0; l < s->L; l++)
            if (FN(given_event)(s, l))
                v->cursor[l]++;
    }
    for (int64_t l = 0; l < s->L; l++) /* one that is lost ends nothing but the sample */
        if (v->cut[l] && isnan(v->theta[v->by[l] * s->pad + l]))
            v->cut[l] = 0;
    return any;
}

/* Where events ended steps that are made again. */
static void FN(recall)(FN(lanes) *s)
{
    const nc_problem *p = s->tile.p;
    FN(event_state) *v = &s->ev;
    for (int64_t l = 0; l < s->L; l++)
        for (const nc_event *e; (e = FN(given_event)(s, l)); v->cursor[l]++) {
            v->ends[l] = e->ends;
            if (!e->cut)
                continue;
            v->cut[l] = 1;
            v->by[l] = e->event;
            v->cut_t[l] = e->t;
            FN(lane_in)(v->cut_y, (const REAL *)p->known.y + (e - p->known.items) * p->dim, p->dim,
                        s->L, l);
        }
}

/* ---- What follows --------------------------------------------------------------------------- */

/* Up to where outputs are due: one that is at the event's time, within rounding, is before it. */
static void FN(set_reach)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    for (int64_t l = 0; l < s->L; l++) {
        s->reach[l] = T->t_new[l];
        if (!s->ev.cut[l])
            continue;
        double t = s->ev.cut_t[l], same = t + s->dir[l] * 8 * DBL_EPSILON * fabs(t);
        if (s->dir[l] * (same - T->t_new[l]) < 0)
            s->reach[l] = same;
    }
}

/* Tells the events that were located, each lane's in the order of time, last the one that ends its
 * step. */
static int FN(tell)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_state) *v = &s->ev;
    int64_t L = s->L;
    for (;;) {
        int any = 0;
        for (int64_t l = 0; l < L; l++) {
            double first = HUGE_VAL;
            v->job[l] = -1;
            v->at[l] = 0;
            for (int64_t k = 0; k < p->events.n && s->mask[l]; k++) {
                int64_t i = k * s->pad + l;
                if (isnan(v->lo[i]) || !(v->theta[i] < first) || (v->cut[l] && k == v->by[l]))
                    continue;
                first = v->theta[i];
                v->job[l] = (int32_t)k;
            }
            if (v->job[l] < 0 && s->mask[l] && v->cut[l] && !isnan(v->lo[v->by[l] * s->pad + l]))
                v->job[l] = v->by[l];
            if (v->job[l] < 0)
                continue;
            v->at[l] = v->theta[v->job[l] * s->pad + l];
            any = 1;
        }
        if (!any)
            return 0;
        FN(open_dense)(s);
        FN(method_dense)(T, v->at, v->y);
        for (int64_t l = 0; l < L; l++) {
            int64_t k = v->job[l], i = k * s->pad + l;
            if (k < 0)
                continue;
            FN(read_dense)(s, l);
            nc_event e = {T->sample[l], (int32_t)k, (int32_t)s->accepted[l],
                          FN(event_time)(s, l, v->at[l]), v->at[l], v->lo[i], v->noise[i],
                          v->side[i], 0, 0};
            if (v->cut[l] && k == v->by[l]) {
                double far = fmax(fabs(e.t), fabs(s->times[l][0]));
                e.cut = 1;
                v->cut_t[l] = e.t;
                v->pause[l] = e.t - v->last[i];
                v->last[i] = e.t;
                FN(lane_copy)(v->cut_y, l, v->y, l, p->dim, L);
                if (p->events.terminal[k])
                    v->ends[l] = NC_EVENT;
                else if (fabs(v->pause[l]) <= 0x1p17 * DBL_EPSILON * far) /* again and again */
                    v->ends[l] = NC_STEP_UNDERFLOW;
            }
            e.ends = v->ends[l];
            FN(lane_out)(v->row, v->y, p->dim, L, l);
            if (nc_event_push(p->found, &e, v->row))
                return NC_STOP_MEMORY;
            v->lo[i] = NAN;
        }
    }
}

/* The events of the accepted steps: located, told, and which of them end their step. */
static int FN(step_events)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_state) *v = &s->ev;
    int stop = 0;
    for (int64_t l = 0; l < s->L; l++) {
        v->cut[l] = 0;
        v->ends[l] = 0;
        for (int64_t k = 0; k < p->events.n; k++)
            v->theta[k * s->pad + l] = NAN;
    }
    if (s->silent) {
        FN(recall)(s);
    } else if (p->control.mode == NC_REPLAY) {
        if (FN(locate_given)(s))
            stop = FN(tell)(s);
    } else {
        if (FN(detect)(s))
            stop = FN(tell)(s);
        FN(pass_sides)(s);
        for (int64_t l = 0; l < s->L; l++) /* g is not a number, or was back in no time */
            if (v->ends[l] && !v->cut[l] && !stop) {
                nc_event e = {T->sample[l], -1, (int32_t)s->accepted[l], T->t_new[l], 1, 0, 0, 0, 0,
                              v->ends[l]};
                memset(v->row, 0, (size_t)p->dim * sizeof(REAL));
                stop = nc_event_push(p->found, &e, v->row) ? NC_STOP_MEMORY : 0;
                if (v->ends[l] == NC_STEP_UNDERFLOW) { /* the step is not to be believed */
                    v->cut[l] = 1;
                    v->by[l] = 0;
                    v->cut_t[l] = T->t[l];
                    FN(lane_copy)(v->cut_y, l, T->y, l, p->dim, s->L);
                }
            }
    }
    FN(set_reach)(s);
    return stop;
}

/* The states behind the events that end steps. */
static void FN(enter_cuts)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    FN(event_state) *v = &s->ev;
    int64_t D = p->dim, L = s->L;
    int resets = 0;
    for (int64_t l = 0; l < L; l++)
        resets |= s->mask[l] && v->cut[l] && !v->ends[l] && p->events.reset_at[v->by[l]] >= 0;
    if (resets) {
        for (int64_t l = 0; l < L; l++)
            v->time[l] = (REAL)v->cut_t[l];
        T->base[NC_SP_T] = v->time;
        T->base[NC_SP_Y] = v->cut_y;
        T->base[NC_SP_OUT] = v->behind;
        FN(vm_run)(&p->events.reset, T->base, L, NULL);
    }
    for (int64_t l = 0; l < L; l++) {
        if (!s->mask[l] || !v->cut[l])
            continue;
        int32_t block = v->ends[l] ? -1 : p->events.reset_at[v->by[l]];
        FN(lane_copy)(T->y, l, block < 0 ? v->cut_y : v->behind + block * D * L, l, D, L);
        for (int64_t i = 0; i < D; i++)
            if (!(T->y[i * L + l] - T->y[i * L + l] == 0))
                v->ends[l] = NC_NON_FINITE;
    }
}

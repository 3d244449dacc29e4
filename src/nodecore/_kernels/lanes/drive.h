/* A step of all lanes, a chunk, and all of them: the part of a lane's life between load and retire
 * (queue.h). Methods never see samples; this file never sees stages. */

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
        h = FN(method_size)(T, h);
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
        if (T->z)
            T->h[l] = s->h_free[l] = T->t_new[l] - t; /* going back, it follows from the ends */
        if (fabs(h) < 10 * DBL_EPSILON * fabs(t) || t + h == t)
            return s->trouble[l] ? s->trouble[l] : NC_STEP_UNDERFLOW;
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
        T->t_new[l] = j + 1 == c->n_sub ? out[0] : out[-1] + (double)(j + 1) * h;
        T->h[l] = t == out[-1] + (double)j * h ? h : T->t_new[l] - t; /* from an event on */
    } else {
        int64_t at = p->grid_off[T->sample[l]] + s->count[l];
        T->h[l] = p->grid_h[at];
        T->t_new[l] = p->grid[at];
        if (p->grid_nodes)
            nc_move_step(p->grid_nodes[at], s->ev.node, l, T->h + l, T->t_new + l);
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
    return s->dir[l] * (t - s->reach[l]) <= 0;
}

/* Writes the outputs that the accepted steps reached: the i-th of every lane in round i. */
static void FN(emit)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    int64_t D = p->dim, L = s->L;
    REAL *y = p->y_out;
    int exact;
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
        FN(open_dense)(s);
        FN(method_dense)(T, s->theta, s->dense);
        for (int64_t l = 0; l < L; l++)
            if (s->mask[l] && FN(output_due)(s, l, &exact) && !exact) {
                FN(read_dense)(s, l);
                FN(lane_out)(y + (s->out0[l] + s->q[l]) * D, s->dense, D, L, l);
                s->q[l]++;
            }
    }
}

/* First derivatives again, where a step starts behind a stop. */
static void FN(refresh)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    int any = 0;
    if (T->z)
        return; /* its steps begin with an evaluation of their own */
    for (int64_t l = 0; l < s->L; l++) {
        s->fresh_mask[l] = s->fresh[l] && T->active[l] ? -1 : 0;
        any |= s->fresh_mask[l] != 0;
    }
    if (!any)
        return;
    FN(method_first)(T, s->fresh_mask, s->dense);
    for (int64_t l = 0; l < s->L; l++)
        if (s->fresh_mask[l]) {
            s->fev[l]++;
            s->fresh[l] = 0;
            s->evaluated[l] = 1;
            FN(method_start)(T, l);
        }
}

enum { FN(MEASURE_EVERY) = 8, FN(STIFF_MEASURES) = 15 };

/* Is the explicit method's step as long as stability allows? Measured at every 8th step; 15 times in a
 * row say so (Hairer & Wanner II, IV.2, who ask for the limit itself; but the estimate falls short of it
 * where other components are as large). */
static void FN(look_for_stiffness)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    double *rho = s->tmp + 2 * s->pad;
    FN(stage_radius)(T, s->part, s->tmp, s->tmp + s->pad, rho);
    for (int64_t l = 0; l < s->L; l++) {
        if (!s->mask[l])
            continue;
        if (fabs(T->h[l]) * rho[l] <= 0.6 * T->method->real_limit) {
            s->near_limit[l] = s->near_limit[l] > 2 ? s->near_limit[l] - 3 : 0;
            continue;
        }
        if (++s->near_limit[l] < FN(STIFF_MEASURES))
            continue;
        s->n_stiff[l] += s->n_stiff[l] ? FN(MEASURE_EVERY) : FN(MEASURE_EVERY) * FN(STIFF_MEASURES);
        s->stiff_at[l] = T->t[l];
        s->stiff_at[s->pad + l] = T->h[l];
        s->stiff_at[2 * s->pad + l] = rho[l];
    }
}

/* A step that was not good enough: the next try, or the sample's end. */
static void FN(reject)(FN(lanes) *s, int64_t l)
{
    FN(tile) *T = &s->tile;
    FN(newton) *n = &FN(maker)(T, l)->n;
    int failed = FN(method_failed)(T, l);
    int why = failed ? (n->singular[l] ? NC_SINGULAR : NC_NEWTON_FAILED)
              : s->err[l] < HUGE_VAL && !s->bad[l] ? 0
                                                    : NC_NON_FINITE;
    s->rejected[l]++;
    if (T->p->control.mode != NC_ADAPTIVE) {
        FN(finish_sample)(s, l, why ? why : NC_NON_FINITE);
        return;
    }
    s->trouble[l] = (uint8_t)why;
    s->rejected_before[l] = 1;
    if (failed && n->stale[l]) {
        n->want_jac[l] = 1; /* the same step with a Jacobian of its own */
        s->h_next[l] = T->h[l];
    } else {
        s->h_next[l] = T->h[l] * (failed ? 0.25 : s->factor[l]);
    }
}

/* The stages of the next steps of a given grid, as they were found when it was made. */
static void FN(load_stages)(FN(lanes) *s)
{
    FN(tile) *T = FN(iterating)(&s->tile);
    const nc_problem *p = T->p;
    const nc_tableau *m = T->method;
    int64_t D = p->dim, S = m->n_stages;
    if (s->tile.other) {
        FN(auto_share)(&s->tile);
        if (FN(any_explicit)(&s->tile))
            FN(rk_step)(&s->tile);
    }
    for (int64_t l = 0; l < s->L; l++) {
        if (!T->active[l])
            continue;
        const REAL *k = (const REAL *)p->grid_k + (p->grid_off[T->sample[l]] + s->count[l]) * S * D;
        for (int64_t i = 0; i < S; i++)
            FN(lane_in)(T->k[i], k + i * D, D, s->L, l);
        T->n.failed[l] = 0;
        T->n.fev[l] = T->n.jev[l] = T->n.factored[l] = 0;
    }
    FN(combine)(T, T->y1, T->y, m->b, (int)S);
    if (s->tile.other)
        FN(select_lanes)(s->tile.y1, T->y1, s->tile.stiff, D, s->L);
}

/* Behind an accepted step: the method of the lane's next one, as chosen or as given. */
static void FN(switch_method)(FN(lanes) *s, int64_t l)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int was = T->stiff[l] != 0, stiff = was;
    if (p->control.mode == NC_REPLAY) {
        int64_t b = T->sample[l], at = p->grid_off[b] + s->count[l];
        if (at < p->grid_off[b + 1])
            stiff = p->grid_stiff[at];
    } else if (FN(auto_choose)(T, l, T->h[l])) {
        stiff = !was;
    }
    if (stiff == was)
        return;
    s->switches[l]++;
    FN(auto_give)(T, l, stiff);
    if (stiff) {
        s->evaluated[l] = 1; /* the explicit step's last stage is a value of the field */
    } else {
        s->fresh[l] = 1;
        s->h_next[l] *= 0.5;
    }
}

/* Of the coupled scheme: has the parasitic mode grown too large? Then the sample ends. A given grid is
 * gone through whatever happens, so long as the numbers are finite. */
static int FN(fell_apart)(FN(lanes) *s, int64_t l)
{
    int replay = s->tile.p->control.mode == NC_REPLAY;
    if (replay ? s->apart[l] < HUGE_VAL : s->apart[l] <= 1)
        return 0;
    FN(finish_sample)(s, l, replay ? NC_NON_FINITE : NC_UNSTABLE);
    return 1;
}

/* One step of every live lane; 0, or why to stop. */
static int FN(tile_step)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_problem *p = (nc_problem *)T->p;
    const nc_control *c = &p->control;
    const nc_tableau *m = T->method;
    int64_t L = s->L, D = p->dim;
    int adaptive = c->mode == NC_ADAPTIVE, last = m->n_step - 1;
    int plain = m->family == NC_EXPLICIT && !T->other && !T->z; /* nothing that a lane has for itself */
    /* looked up once: stores of bytes may alias anything */
    RINT *const mask = s->mask;
    uint8_t *const active = T->active, *const first = s->first, *const fresh = s->fresh;
    uint8_t *const after_stop = T->after_stop, *const at_stop = T->at_stop, *const bad = s->bad;
    uint8_t *const trouble = s->trouble, *const evaluated = s->evaluated;
    uint8_t *const reads_finish = s->reads_finish, *const reads_dense = s->reads_dense;
    double *const t = T->t, *const h = T->h, *const t_new = T->t_new, *const t_end = s->t_end;
    double *const err = s->err, *const h_next = s->h_next, *const h_free = s->h_free;
    double *const log_err = s->log_err, *const log_err1 = s->log_err1, *const log_err2 = s->log_err2;
    double *const factor = s->factor, *const rejected_before = s->rejected_before;
    int64_t *const count = s->count, *const accepted = s->accepted, *const fev = s->fev;

    for (int64_t l = 0; l < L; l++) {
        int status = active[l] ? FN(propose)(s, l) : NC_OK;
        if (status)
            FN(finish_sample)(s, l, status);
        if (!active[l]) {
            h[l] = 0;
            t_new[l] = t[l];
            at_stop[l] = after_stop[l] = 0;
        }
    }
    if (s->n_live == 0)
        return 0;
    FN(refresh)(s);
    if (p->events.n)
        FN(arm_events)(s);
    if (s->record)
        FN(aim_trace)(s);
    if (p->grid_k)
        FN(load_stages)(s);
    else
        FN(method_step)(T, s->part);
    for (int64_t l = 0; T->other && l < L; l++)
        if (T->switched[l]) {
            T->switched[l] = 0;
            evaluated[l] = 1; /* the explicit step's last stage is a value of the field */
            s->switches[l]++;
        }
    int finish_first = adaptive && FN(error_reads_finish)(m);
    if (finish_first)
        FN(method_finish)(T);
    s->finished = finish_first;
    s->opened = 0;

    /* judge */
    int any_accepted = 0, all_accepted = 1, need_finish = 0;
    FN(find_nonfinite)(T->y1, D, L, bad);
    if (adaptive) {
        FN(method_error)(T, s->part, s->tmp, err);
        for (int64_t l = 0; l < L; l++)
            if (bad[l] || (!plain && FN(method_failed)(T, l)))
                err[l] = HUGE_VAL;
        int64_t whole = (L + 7) & ~(int64_t)7; /* vectors of float64 */
        for (int64_t l = L; l < whole; l++)
            err[l] = 1;
        control_factor(c, err, log_err, log_err1, log_err2, rejected_before, factor, whole);
    }
    for (int64_t l = 0; l < L; l++) {
        int ok = active[l] && (adaptive ? err[l] <= 1 : !bad[l] && (plain || !FN(method_failed)(T, l)));
        mask[l] = ok ? -1 : 0;
        any_accepted += ok;
        all_accepted &= ok;
        int exact; /* does this lane read its step stage's derivative, whatever the others do? */
        int finish = ok && (plain || (!T->z && FN(method_finishes)(FN(maker)(T, l)->method))) &&
                     (c->mode == NC_REPLAY || t_new[l] != t_end[l] ||
                      (FN(output_due)(s, l, &exact) && !exact));
        need_finish |= finish;
        reads_finish[l] = (uint8_t)(finish_first || finish);
        reads_dense[l] = 0;
        if (!active[l])
            continue;
        fev[l] += plain ? FN(explicit_work)(m, 0)
                        : FN(method_work)(T, l, s->jev + l, s->factored + l);
        if (plain || FN(maker)(T, l) == T)
            fev[l] += finish_first || finish;
    }
    if (!finish_first && FN(method_finishes)(m) &&
        (need_finish || (any_accepted && T->keep_res[last]))) {
        FN(method_finish)(T); /* a trace is whole */
        s->finished = 1;
    }

    int finished = finish_first || (FN(method_finishes)(m) && need_finish);
    if (adaptive && m->twin && !T->other && !T->z && finished && ++s->steps_made % FN(MEASURE_EVERY) == 0)
        FN(look_for_stiffness)(s);

    int stop = 0;
    s->accepted_lanes = any_accepted;
    if (any_accepted) {
        if (p->events.n)
            stop = FN(step_events)(s);
        if (s->record && !stop && !T->z)
            stop = FN(record)(s);
        FN(emit)(s);
        if (all_accepted) {
            REAL *swap = T->y;
            T->y = T->y1;
            T->y1 = swap;
        } else {
            FN(select_lanes)(T->y, T->y1, mask, D, L);
        }
        FN(method_advance)(T, mask, all_accepted);
        if (T->z)
            FN(coupled_apart)(T, s->part, s->tmp, s->pad, s->apart);
        if (p->events.n)
            FN(enter_cuts)(s);
    }

    for (int64_t l = 0; l < L; l++) {
        if (!active[l])
            continue;
        if (!plain)
            FN(method_remember)(T, l, mask[l] != 0);
        if (!mask[l]) {
            FN(reject)(s, l);
            continue;
        }
        accepted[l]++;
        first[l] = 0;
        int cut = FN(is_cut)(s, l);
        double end = cut ? s->ev.cut_t[l] : t_new[l];
        int whole = end == t_new[l]; /* an event may end it before */
        if (c->mode == NC_FIXED_STEPS) {
            if (whole)
                count[l] = count[l] + 1 == c->n_sub ? 0 : count[l] + 1;
        } else if (c->mode == NC_FIXED_DT) {
            double to = s->times[l][0] + (double)(count[l] + 1) * s->dir[l] * c->dt;
            if (s->dir[l] * (end - to) >= -1e-9 * c->dt)
                count[l]++;
        } else {
            count[l]++;
        }
        if (adaptive) {
            double next = h[l] * factor[l];
            if (h[l] != h_free[l] && fabs(h_free[l]) > fabs(next))
                next = h_free[l]; /* clipped: the proposal still stands */
            h_next[l] = next;
            log_err2[l] = log_err1[l];
            log_err1[l] = fmax(log_err[l], c->log2_memory_floor);
            rejected_before[l] = 0;
            trouble[l] = 0;
        }
        evaluated[l] = 0;
        if (T->other)
            FN(switch_method)(s, l);
        after_stop[l] = at_stop[l] && whole;
        if (after_stop[l]) {
            s->stop[l]++;
            fresh[l] = 1;
        }
        t[l] = end;
        if (T->z) {
            fev[l] += m->n_step - 1; /* of the way back */
            if (FN(fell_apart)(s, l))
                continue;
        }
        if (cut) {
            fresh[l] = 1;
            s->ev.node[l] = end;
        }
        if (p->events.n && s->ev.ends[l]) {
            h[l] = s->ev.ends[l] == NC_STEP_UNDERFLOW ? s->ev.pause[l] : h[l];
            FN(finish_sample)(s, l, s->ev.ends[l]);
            continue;
        }
        int done = c->mode == NC_REPLAY
                       ? count[l] == p->grid_off[T->sample[l] + 1] - p->grid_off[T->sample[l]]
                       : t[l] == t_end[l];
        if (T->z && s->record && FN(keep_pair)(s, l, done))
            stop = NC_STOP_MEMORY;
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
        s->placed_slot = r->n % r->window ? -1 : nc_schedule_place(&r->plan, r->n / r->window);
    }
    if (s->placed_slot < 0)
        return 0;
    char *e = nc_record_slot(r, s->placed_slot);
    if (!e)
        return -1;
    FN(save)(s, e);
    return 0;
}

/* Is the rest worth a call for help? So long after the beginning, and if the samples or chunks that nobody
 * has taken will need as long again, going by those that were. */
static int FN(needs_help)(const FN(lanes) *s, double begin, double pause_after)
{
    const nc_problem *p = s->tile.p;
    double spent = s->last_look - begin, taken = (double)p->next;
    double left = (double)(s->shared ? p->batch : p->n_chunks) - taken;
    return spent > pause_after && spent * left >= pause_after * taken;
}

/* Runs until no sample is left. Returns 1 when it paused; pause_after: HUGE_VAL, or as in nc_backend. */
static int FN(run_lanes)(FN(lanes) *s, int leader, double begin, double pause_after)
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
        if (pause_after < HUGE_VAL && FN(needs_help)(s, begin, pause_after))
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
    s->steps_made = 0;
    s->slot = NULL;
    memset(s->tile.keep_y, 0, sizeof s->tile.keep_y);
    memset(s->tile.keep_res, 0, sizeof s->tile.keep_res);
    memset(s->tile.active, 0, (size_t)s->L);
    /* Until it gets a sample, a lane repeats the first of the chunk: a finite state. */
    int64_t b = s->shared ? 0 : s->next;
    for (int64_t l = 0; l < s->L; l++) {
        FN(lane_in)(s->tile.y, (const REAL *)p->y0 + b * p->dim, p->dim, s->L, l);
        if (s->tile.z)
            FN(lane_in)(s->tile.z, (const REAL *)p->y0 + b * p->dim, p->dim, s->L, l);
        s->tile.t[l] = p->t[p->t_off[b]];
        s->tile.h[l] = 0;
        s->tile.sample[l] = b;
    }
    memset(s->tile.k[0], 0, (size_t)(p->dim * s->L) * sizeof(REAL));
    memset(s->tile.base[NC_SP_S], 0, (size_t)(p->n_sample * s->L) * sizeof(REAL));
    memset(s->fresh, 0, (size_t)s->L);
    memset(s->tile.at_stop, 0, (size_t)s->L);
    memset(s->tile.after_stop, 0, (size_t)s->L);
    FN(method_reset)(&s->tile);
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
    double begin = nc_now();
    pause_after = leader && pause_after > 0 ? pause_after : HUGE_VAL;
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
        if (FN(run_lanes)(s, leader, begin, pause_after)) {
            *state = s;
            return 1;
        }
        if (s->record && s->record->limit)
            nc_schedule_close(&s->record->plan,
                              (s->record->n + s->record->window - 1) / s->record->window);
    }
    nc_arena_put(s);
    *state = NULL;
    return 0;
}

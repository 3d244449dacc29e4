/* The backward pass of the coupled scheme (methods/reversible.h; docs/math/reversible-adjoint.md): each
 * sample is walked from its last step to its first, which undoes the steps on its way. No lane depends
 * on another, so a lane whose sample is done takes the chunk's next one. */

/* The samples that wait go to the lanes that are free, beginning at *next. How many lanes live. */
static int64_t FN(take_paths)(FN(back) *s, const nc_record *r, int64_t *next, int64_t end)
{
    FN(tile) *T = &s->tile;
    const nc_problem *p = T->p;
    int64_t L = s->L, D = p->dim, live = 0;
    for (int64_t l = 0; l < L; l++) {
        for (; s->cur[l] < 0 && *next < end; ++*next) {
            int64_t b = *next;
            const nc_path *path = nc_path_of(r, b);
            int ok = p->status[b] == NC_OK || p->status[b] == NC_EVENT;
            if (!ok || p->n_accepted[b] == 0)
                continue;
            s->cur[l] = T->sample[l] = b;
            T->active[l] = 1;
            s->mask[l] = -1;
            nc_walk_begin(s->walk + l, p, b, path->ends);
            s->q[l] = s->walk[l].q;
            s->held[l] = 1;
            s->moved[l] = s->stretched[l] = 0;
            FN(lane_in)(T->base[NC_SP_S], (const REAL *)p->sample_values + b * p->n_sample,
                        p->n_sample, L, l);
            for (int64_t i = 0; i < p->n_sample; i++)
                s->sbar[i * L + l] = 0;
            const REAL *pair = (const REAL *)nc_pair_at(r, path, path->n_pairs - 1);
            FN(lane_in)(T->y, pair, D, L, l);
            FN(lane_in)(T->z, pair + D, D, L, l);
        }
        live += s->cur[l] >= 0;
    }
    return live;
}

/* Every lane's next step back: its times, and the states behind it where they were kept. Lanes without a
 * sample repeat one that has one, with h = 0. */
static void FN(aim_back)(FN(back) *s, const nc_record *r)
{
    FN(tile) *T = &s->tile;
    int64_t L = s->L, D = T->p->dim, leader = 0;
    while (s->cur[leader] < 0)
        leader++;
    for (int64_t l = 0; l < L; l++) {
        nc_walk *w = s->walk + l;
        if (s->cur[l] < 0)
            continue;
        if (w->step % r->period == 0) {
            const nc_path *path = nc_path_of(r, s->cur[l]);
            const REAL *pair = (const REAL *)nc_pair_at(r, path, w->step / r->period - 1);
            FN(lane_in)(T->y, pair, D, L, l);
            FN(lane_in)(T->z, pair + D, D, L, l);
        }
        nc_walk_back(w);
        T->t[l] = w->t;
        T->t_new[l] = w->t_new;
        T->h[l] = w->h;
        T->at_stop[l] = (uint8_t)w->at_stop;
        T->after_stop[l] = (uint8_t)w->after_stop;
        s->q_start[l] = (int32_t)w->q;
    }
    for (int64_t l = 0; l < L; l++) {
        if (s->cur[l] >= 0)
            continue;
        FN(lane_copy)(T->y, l, T->y, leader, D, L);
        FN(lane_copy)(T->z, l, T->z, leader, D, L);
        FN(lane_copy)(T->base[NC_SP_S], l, T->base[NC_SP_S], leader, T->p->n_sample, L);
        T->t[l] = T->t_new[l] = T->t[leader];
        T->h[l] = 0;
        T->at_stop[l] = T->after_stop[l] = 0;
    }
}

/* One step back in every lane. With the cotangents Y of y+ (in lambda) and Z of z+ (in z_bar):
 *
 *   Y -= (dPsi_-h/dy)^T Z,   z_bar = Z + (1 - l) Y + (dPsi_h/dz)^T Y,   y_bar = l Y
 *
 * Returns the first lane whose cotangent is not finite, or -1. */
static int64_t FN(undo_step)(FN(back) *s, const nc_backward *g)
{
    FN(tile) *T = &s->tile;
    const nc_tableau *m = T->method;
    int64_t L = s->L, n = T->p->dim * L, last = m->n_step - 1;
    int want_size = s->want_t && g->grid_rule != NC_HOLD_SIZES;
    FN(cotangents) c = {
        .ybar = s->ybar,
        .sum = s->sum,
        .kappa = s->kappa,
        .sbar_stage = s->sbar_stage,
        .moved = s->mask,
        .sbar = s->sbar,
        .part = s->part,
        .dot = s->dot,
        .sinks = &s->sinks,
    };
    for (int64_t l = 0; l < L; l++) {
        s->time_sum[l] = s->size_sum[l] = s->turned_time[l] = s->turned_size[l] = 0;
        if (s->want_t && s->cur[l] >= 0)
            FN(enter_node)(s, g, l);
    }

    FN(turn)(T);
    FN(undo_z)(T);
    for (int64_t j = 0; j < n; j++)
        s->lambda_n[j] = -s->z_bar[j];
    c.lambda = s->lambda_n;
    c.time_sum = s->want_t ? s->turned_time : NULL;
    c.size_sum = want_size ? s->turned_size : NULL;
    FN(rk_reverse)(T, (int)last, &c);
    FN(turn)(T);
    for (int64_t j = 0; j < n; j++)
        s->lambda[j] += s->sum[j];

    FN(ahead)(T);
    FN(undo_y)(T);
    int dense = FN(pull_outputs)(s, g, s->q_start, s->flags, 0);
    if (dense && !s->want_t)
        for (int i = (int)last; i < m->n_stages; i++)
            FN(rk_trace_stage)(T, i);
    c.lambda = s->lambda;
    c.kbar = dense ? s->kbar : NULL;
    c.time_sum = s->want_t ? s->time_sum : NULL;
    c.size_sum = want_size ? s->size_sum : NULL;
    FN(rk_reverse)(T, dense ? m->n_stages : (int)last, &c);
    FN(ahead)(T);
    REAL pull = FN(pull_to_z)(T);
    for (int64_t j = 0; j < n; j++) {
        REAL to_z = pull * s->lambda[j];
        s->z_bar[j] += to_z + s->sum[j];
        s->lambda[j] -= to_z;
        if (dense) {
            s->z_bar[j] += s->lambda_z[j];
            s->lambda[j] += s->lambda_n[j];
        }
    }
    for (const REAL *x = s->lambda; x; x = x == s->lambda ? s->z_bar : NULL)
        if (FN(find_nonfinite)(x, T->p->dim, L, s->bad))
            for (int64_t l = 0; l < L; l++)
                if (s->bad[l] && s->cur[l] >= 0)
                    return l;
    for (int64_t l = 0; l < L && s->want_t; l++) /* Psi_-h starts at t + h and has the size -h */
        if (s->cur[l] >= 0)
            FN(gain_times)(s, l, s->time_sum[l] + s->turned_time[l],
                           s->size_sum[l] + s->turned_time[l] - s->turned_size[l]);
    return -1;
}

/* The chunk's samples, begin .. end - 1; non-zero ends the chunk. */
static int FN(back_paths)(FN(back) *s, nc_backward *g, int64_t chunk, int64_t begin, int64_t end)
{
    FN(tile) *T = &s->tile;
    const nc_record *r = T->p->records + chunk;
    int64_t L = s->L, D = T->p->dim, next = begin;
    memset(s->z_bar, 0, (size_t)(D * L) * sizeof(REAL));
    for (int64_t l = 0; l < L; l++) {
        T->active[l] = 0;
        T->sample[l] = -1;
        s->mask[l] = 0;
        s->flags[l] = 0;
    }
    while (FN(take_paths)(s, r, &next, end)) {
        if (FN(back_look_up)(s, g))
            return 1;
        FN(aim_back)(s, r);
        int64_t wrong = FN(undo_step)(s, g);
        if (wrong >= 0) {
            g->bad_sample[chunk] = s->cur[wrong];
            g->bad_t[chunk] = T->t[wrong];
            g->bad_event[chunk] = -1;
        }
        if (wrong >= 0 || T->failed)
            return 1;
        for (int64_t l = 0; l < L; l++) {
            if (s->cur[l] < 0 || s->walk[l].step > 0)
                continue;
            for (int64_t i = 0; i < D; i++)
                s->lambda[i * L + l] += s->z_bar[i * L + l]; /* both began in y0 */
            FN(give_back)(s, g, l, begin);
            for (int64_t i = 0; i < D; i++)
                s->lambda[i * L + l] = s->z_bar[i * L + l] = 0;
            s->cur[l] = T->sample[l] = -1;
            T->active[l] = 0;
            s->mask[l] = 0;
        }
    }
    return 0;
}

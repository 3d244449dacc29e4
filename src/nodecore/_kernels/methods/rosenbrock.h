/* Rosenbrock methods (docs/math/implicit-methods.md, 4). With M = I - h gamma J, J = f_y(t, y),
 *
 *   M k_i = h gamma (f(t + c_i h, y + sum_{j<i} a_ij k_j) + h d_i f_t) + gamma sum_{j<i} C_ij k_j
 *   y1    = y + sum_i m_i k_i
 *
 * Stages are numbered as in nc_tableau: 1 .. s; at 0 stands the field's value at y. */

/* The right side of stage i, whose field value is f; ft is NULL or the time derivative. */
static void FN(rosenbrock_right)(FN(tile) *s, int i, const REAL *f, const REAL *ft, REAL *out)
{
    const nc_tableau *m = s->method;
    const REAL *v[NC_MAX_STAGES];
    int64_t L = s->L;
    int count = 0;
    for (int64_t l = 0; l < L; l++)
        s->coef[l] = (REAL)(s->h[l] * m->gamma);
    v[count++] = f;
    if (ft && m->d[i] != 0.0) {
        for (int64_t l = 0; l < L; l++)
            s->coef[count * L + l] = (REAL)(s->h[l] * s->h[l] * m->gamma * m->d[i]);
        v[count++] = ft;
    }
    for (int j = 1; j < i; j++) {
        double w = m->gamma * m->C[i * m->n_stages + j];
        if (w == 0.0)
            continue;
        for (int64_t l = 0; l < L; l++)
            s->coef[count * L + l] = (REAL)w;
        v[count++] = s->k[j];
    }
    FN(lincomb)(out, NULL, count, v, s->coef, s->p->dim, L);
}

/* f_t of an opaque field by a difference; its value is in k[0]. */
static void FN(opaque_time_derivative)(FN(tile) *s, REAL *ft)
{
    int64_t D = s->p->dim, L = s->L;
    double *delta = s->n.size, *t = s->n.sums;
    for (int64_t l = 0; l < L; l++) {
        double least = 64 * DBL_EPSILON * fabs(s->stage_t[l]);
        double d = sqrt((double)R_EPS) * fabs(s->h[l]);
        t[l] = s->stage_t[l];
        s->stage_t[l] += copysign(fmax(d, least), s->h[l]);
        delta[l] = s->stage_t[l] - t[l];
    }
    FN(field)(s, s->y, ft, NULL);
    for (int64_t l = 0; l < L; l++) {
        s->stage_t[l] = t[l];
        for (int64_t r = 0; r < D; r++)
            ft[r * L + l] = delta[l] == 0
                                ? 0
                                : (REAL)(((double)ft[r * L + l] - (double)s->k[0][r * L + l]) / delta[l]);
    }
}

/* The stages of a step. keep: the traces stay. */
static void FN(rosenbrock_stages)(FN(tile) *s, int keep)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = p->dim, L = s->L;
    REAL *ft = p->time_dependent || p->opaque_field ? n->known : NULL;
    for (int64_t l = 0; l < L; l++) {
        n->ask[l] = s->active[l] ? -1 : 0;
        n->failed[l] = n->stale[l] = 0;
        n->fev[l] = n->jev[l] = n->factored[l] = 0;
        n->hg[l] = (REAL)(s->h[l] * m->gamma);
    }
    FN(own_trace)(s, 1);
    s->trace_res[1] = s->own_res[0];
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    if (keep) {
        s->trace_y[1] = s->y;
        s->time = s->trace_time[1];
        s->stage_t = s->trace_t[1];
    }
    FN(stage_time)(s, 0.0);
    if (!p->opaque_field)
        FN(field)(s, s->y, s->k[0], s->own_res[0]);
    else
        FN(field)(s, s->y, s->k[0], NULL);
    if (p->opaque_field) {
        FN(opaque_time_derivative)(s, ft);
    } else if (ft) {
        s->base[NC_SP_T] = s->time;
        s->base[NC_SP_Y] = s->y;
        s->base[NC_SP_RES] = s->own_res[0];
        s->base[NC_SP_OUT] = ft;
        FN(vm_run)(&p->time, s->base, L, NULL);
    }
    FN(jacobian_from)(s, s->y, s->own_res[0], n->jac, n->ask);
    s->time = time;
    s->stage_t = stage_t;
    FN(newton_factor)(s, n->ask);
    for (int64_t l = 0; l < L; l++)
        n->jev[l] = s->active[l];
    for (int i = 1; i < m->n_stages; i++) {
        const REAL *f = s->k[0];
        if (i > 1) {
            if (keep) {
                FN(own_trace)(s, i);
                FN(combine)(s, s->own_y[i], s->y, m->A + i * m->n_stages, i);
                FN(trace_time)(s, i, m->c[i]);
                FN(trace_field)(s, i, n->value);
            } else {
                FN(combine)(s, s->stage, s->y, m->A + i * m->n_stages, i);
                FN(stage_time)(s, m->c[i]);
                FN(field)(s, s->stage, n->value, NULL);
            }
            f = n->value;
        }
        FN(rosenbrock_right)(s, i, f, ft, s->k[i]);
        FN(lu_solve)(n->lu, n->piv, s->k[i], D, L, n->ask);
    }
    for (int64_t l = 0; l < L; l++)
        n->fev[l] = m->n_stages - 1;
}

static void FN(rosenbrock_step)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    FN(rosenbrock_stages)(s, 0);
    FN(combine)(s, s->y1, s->y, m->b, m->n_stages);
    for (int64_t l = 0; l < s->L; l++) /* nothing of a singular matrix is used */
        if (s->n.failed[l])
            FN(lane_copy)(s->y1, l, s->y, l, s->p->dim, s->L);
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/*   M^T u_i = h gamma (m_i lambda + kbar_i + sum_{j>i} (a_ji v_j + C_ji u_j / h)),  v_i = f_y^T u_i
 *   lambda <- lambda + sum_i v_i + d/dy sum_i u_i . (J k_i + h d_i f_t)
 *
 * The trace is there, with J's factors. ybar[i] is v_i; the u_i stand in own_y, whose states the reverse
 * programs have read by then. */
static void FN(rosenbrock_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = p->dim, L = s->L;
    int done[NC_MAX_STAGES] = {0}, S = m->n_stages;
    REAL *u[NC_MAX_STAGES], *ft = p->time_dependent ? n->known : NULL, *v = n->columns[NC_SP_V];
    FN(lincomb)(c->sum, NULL, 0, NULL, s->coef, D, L);
    for (int i = S - 1; i > 0; i--) {
        const REAL *part[2 * NC_MAX_STAGES];
        int count = 0;
        u[i] = s->own_y[i];
        if (m->b[i] != 0.0) {
            for (int64_t l = 0; l < L; l++)
                s->coef[l] = (REAL)m->b[i];
            part[count++] = c->lambda;
        }
        for (int j = i + 1; j < S; j++) {
            double a = m->A[j * S + i], w = m->C[j * S + i];
            if (!done[j])
                continue;
            if (a != 0.0) {
                for (int64_t l = 0; l < L; l++)
                    s->coef[count * L + l] = (REAL)a;
                part[count++] = c->ybar[j];
            }
            if (w != 0.0) {
                for (int64_t l = 0; l < L; l++)
                    s->coef[count * L + l] = (REAL)(s->h[l] == 0 ? 0 : w / s->h[l]);
                part[count++] = u[j];
            }
        }
        if (count == 0 && !c->kbar)
            continue;
        FN(lincomb)(c->kappa, c->kbar ? c->kbar[i] : NULL, count, part, s->coef, D, L);
        for (int64_t r = 0; r < D; r++)
            for (int64_t l = 0; l < L; l++)
                c->kappa[r * L + l] *= n->hg[l];
        FN(lu_solve_t)(n->lu, n->piv, c->kappa, D, L, c->moved);
        FN(keep_moved)(s, c->kappa, c->moved);
        FN(pull_stage)(s, c, i, c->kappa, c->ybar[i]);
        done[i] = 1;
        memcpy(u[i], c->kappa, (size_t)(D * L) * sizeof(REAL));

        /* what J, f_t and the explicit h of the formula give */
        FN(aim_reverse)(s, c, 1, u[i], n->rest);
        memcpy(v, s->k[i], (size_t)(D * L) * sizeof(REAL));
        for (int64_t l = 0; l < L; l++)
            v[D * L + l] = (REAL)(s->h[l] * m->d[i]);
        s->base[NC_SP_V] = v;
        s->base[NC_SP_Y] = s->y;
        FN(vm_run)(&p->second, s->base, L, c->second_sinks);
        FN(take_slow)(s, c, 0.0);
        for (int64_t r = 0; r < D * L; r++)
            c->sum[r] += n->rest[r];
        if (!c->size_sum)
            continue;
        if (ft) {
            FN(dot_rows)(u[i], ft, D, L, c->part, c->dot);
            for (int64_t l = 0; l < L; l++)
                c->size_sum[l] += m->d[i] * c->dot[l];
        }
        for (int j = 1; j <= i; j++) {
            double w = j == i ? 1 / m->gamma : -m->C[i * S + j];
            if (w == 0.0)
                continue;
            FN(dot_rows)(u[i], s->k[j], D, L, c->part, c->dot);
            for (int64_t l = 0; l < L; l++)
                if (s->h[l] != 0)
                    c->size_sum[l] += w * c->dot[l] / (s->h[l] * s->h[l]);
        }
    }
    for (int i = 1; i < S; i++)
        if (done[i])
            for (int64_t r = 0; r < D * L; r++)
                c->sum[r] += c->ybar[i][r];
    FN(keep_moved)(s, c->sum, c->moved);
}

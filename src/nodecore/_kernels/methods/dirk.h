/* Diagonally implicit Runge-Kutta with an explicit first stage (docs/math/implicit-methods.md, 1).
 *
 *   Y_i = y + h sum_{j<=i} a_ij k_j,  k_i = f(t + c_i h, Y_i),  y1 = y + h sum_i b_i k_i
 *
 * An implicit stage is solved for z = h gamma k_i, so that its derivative is what the equation says and
 * not a fresh value of the field, which would multiply the iteration's error by h J. */

/* r = hg f - z */
static void FN(newton_residual)(const REAL *hg, const REAL *z, REAL *f, int64_t D, int64_t L)
{
    if (L == 1) {
        for (int64_t r = 0; r < D; r++)
            f[r] = hg[0] * f[r] - z[r];
        return;
    }
    for (int64_t l = 0; l < L; l += VL) {
        const VF h = vload(hg + l);
        for (int64_t r = 0; r < D; r++)
            vstore(f + r * L + l, h * vload(f + r * L + l) - vload(z + r * L + l));
    }
}

/* x += d in the masked lanes. */
static void FN(add_lanes)(REAL *x, const REAL *d, const RINT *mask, int64_t D, int64_t L)
{
    for (int64_t r = 0; r < D; r++)
        for (int64_t l = 0; l < L; l++)
            x[r * L + l] = mask[l] ? x[r * L + l] + d[r * L + l] : x[r * L + l];
}

/* Corrections by factors of another h gamma are too long or too short in the stiff components: the
 * factor 2 / (1 + ratio) makes the best of it (Hindmarsh et al., CVODES). */
static void FN(rescale)(FN(newton) *n, REAL *d, int64_t D, int64_t L)
{
    for (int64_t l = 0; l < L; l++) {
        if ((double)n->hg[l] == n->lu_hg[l] || n->lu_hg[l] == 0)
            continue;
        REAL f = (REAL)(2 / (1 + (double)n->hg[l] / n->lu_hg[l]));
        for (int64_t r = 0; r < D; r++)
            d[r * L + l] *= f;
    }
}

/* Solves stage i: known + z is its argument, z = h gamma k_i, from the guess that is in z. The stage's
 * time is set. part is [8][L]. */
static void FN(solve_stage)(FN(tile) *s, int i, int strict, double *part)
{
    const nc_problem *p = s->p;
    const nc_control *c = &p->control;
    FN(newton) *n = &s->n;
    int64_t D = p->dim, L = s->L;
    double kappa = FN(newton_kappa)(c);
    int live = FN(newton_begin)(s);
    const REAL *z[1] = {n->z};
    for (int it = 0; live; it++) {
        FN(lincomb)(s->stage, n->known, 1, z, n->ones, D, L);
        FN(field)(s, s->stage, n->rest, NULL);
        FN(newton_residual)(n->hg, n->z, n->rest, D, L);
        FN(lu_solve)(n->lu, n->piv, n->rest, D, L, n->live);
        if (!strict)
            FN(rescale)(n, n->rest, D, L);
        FN(add_lanes)(n->z, n->rest, n->live, D, L);
        if (strict) {
            FN(relative_size)(n->rest, s->stage, D, L, n->size);
        } else {
            FN(scaled_square)(n->rest, s->y, s->y, c->atol, c->rtol, D, L, part, n->size);
            for (int64_t l = 0; l < L; l++)
                n->size[l] = sqrt(n->size[l] / (double)D);
        }
        for (int64_t l = 0; l < L; l++)
            n->fev[l] += n->live[l] != 0;
        if (FN(newton_judge)(n, L, it, strict, kappa, &live)) {
            FN(lincomb)(s->stage, n->known, 1, z, n->ones, D, L);
            FN(newton_renew)(s, s->stage);
            FN(newton_factor)(s, n->ask);
        }
        if (s->failed)
            break;
    }
    REAL *k = s->k[i];
    for (int64_t l = 0; l < L; l++) {
        if (s->h[l] == 0 || n->failed[l] || !s->active[l]) {
            FN(lane_copy)(k, l, s->k[0], l, D, L);
            continue;
        }
        REAL inverse = 1 / n->hg[l];
        for (int64_t r = 0; r < D; r++)
            k[r * L + l] = n->z[r * L + l] * inverse;
    }
}

/* Stage i. part is [8][L]. */
static void FN(dirk_stage)(FN(tile) *s, int i, int strict, double *part)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    double guess[NC_MAX_STAGES];
    const double *row = m->A + i * m->n_stages;
    FN(combine)(s, n->known, s->y, row, i);
    if (row[i] == 0) {
        FN(stage_time)(s, m->c[i]);
        FN(field)(s, n->known, s->k[i], NULL);
        return;
    }
    for (int j = 0; j < i; j++)
        guess[j] = m->gamma * m->predictor[i * m->n_stages + j];
    FN(combine)(s, n->z, NULL, guess, i);
    FN(stage_time)(s, m->c[i]);
    FN(solve_stage)(s, i, strict, part);
}

static void FN(dirk_step)(FN(tile) *s, double *part)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int strict = s->p->control.mode != NC_ADAPTIVE;
    if (FN(newton_prepare)(s, strict))
        FN(newton_factor)(s, n->ask);
    for (int i = 1; i < m->n_stages; i++)
        FN(dirk_stage)(s, i, strict, part);
    FN(combine)(s, s->y1, s->y, m->b, m->n_stages);
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* The trace of stage i of a step whose derivatives k are there. */
static void FN(known_stage)(FN(tile) *s, int i)
{
    const nc_tableau *m = s->method;
    FN(own_trace)(s, i);
    if (i == 0)
        memcpy(s->own_y[0], s->y, (size_t)(s->p->dim * s->L) * sizeof(REAL));
    else
        FN(combine)(s, s->own_y[i], s->y, m->A + i * m->n_stages, m->n_stages);
    FN(trace_time)(s, i, m->c[i]);
    if (!s->p->opaque_field)
        FN(trace_field)(s, i, s->n.value);
}

/* J at the traced stage i, in the lanes that moved. */
static void FN(stage_jacobian)(FN(tile) *s, int i, const RINT *moved)
{
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    s->time = s->trace_time[i];
    s->stage_t = s->trace_t[i];
    FN(jacobian_from)(s, s->trace_y[i], s->trace_res[i], s->n.jac, moved);
    s->time = time;
    s->stage_t = stage_t;
}

/* x = 0 where a lane did not move: what stood there must not meet sums over lanes. */
static void FN(keep_moved)(FN(tile) *s, REAL *x, const RINT *moved)
{
    for (int64_t r = 0; r < s->p->dim; r++)
        for (int64_t l = 0; l < s->L; l++)
            if (!moved[l])
                x[r * s->L + l] = 0;
}

/* The first stage. Its cotangent goes to the step before, whose last stage it is; where it is a field
 * value, it is pulled through the field here. `own` holds it. */
static void FN(first_stage)(FN(tile) *s, const FN(cotangents) *c, REAL *own, int *done)
{
    int64_t D = s->p->dim, L = s->L;
    FN(keep_moved)(s, own, c->moved);
    FN(add_size)(s, c, own, s->k[0]);
    FN(select_lanes)(c->carried, own, c->moved, D, L);
    int any = 0;
    for (int64_t l = 0; l < L; l++)
        any |= c->fresh[l] != 0;
    if (!any)
        return;
    for (int64_t r = 0; r < D; r++)
        for (int64_t l = 0; l < L; l++) {
            if (!c->fresh[l])
                own[r * L + l] = 0;
            else
                c->carried[r * L + l] = 0;
        }
    FN(known_stage)(s, 0);
    FN(pull_stage)(s, c, 0, own, c->ybar[0]);
    FN(keep_moved)(s, c->ybar[0], c->fresh);
    done[0] = 1;
}

/* The Jacobian of an opaque field may be one of finite differences: kappa is made to solve its equation
 * with the pullback itself, where it stands at one stage (count 1) or at `count` coupled ones.
 *
 *   kappa_i - h sum_j a_ji f_y^T(Y_j) kappa_j = right_i,  i, j = first .. first + count - 1 */
static void FN(refine_opaque)(FN(tile) *s, const FN(cotangents) *c, int first, int count,
                              REAL *const *kappa, REAL *const *right, REAL *lu, const int32_t *piv,
                              REAL *work)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method;
    int64_t D = p->dim, L = s->L;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < count; i++)
            for (int64_t r = 0; r < D * L; r++)
                work[i * D * L + r] = right[i][r] - kappa[i][r];
        for (int j = 0; j < count && !s->failed; j++) {
            REAL *pulled = c->ybar[first + j];
            s->failed = p->opaque_pull(p->opaque_ctx, p, L, s->trace_t[first + j],
                                       s->trace_y[first + j], kappa[j], pulled, s->sample,
                                       s->active, 0);
            for (int i = 0; i < count; i++) {
                double a = m->A[(first + j) * m->n_stages + first + i];
                for (int64_t r = 0; r < D; r++)
                    for (int64_t l = 0; l < L; l++)
                        work[(i * D + r) * L + l] += (REAL)(s->h[l] * a) * pulled[r * L + l];
            }
        }
        if (count == 1)
            FN(lu_solve_t)(lu, piv, work, D, L, c->moved);
        else
            FN(lu_solve)(lu, piv, work, count * D, L, c->moved);
        for (int i = 0; i < count; i++) {
            FN(keep_moved)(s, work + i * D * L, c->moved);
            for (int64_t r = 0; r < D * L; r++)
                kappa[i][r] += work[i * D * L + r];
        }
    }
}

/* Pulls kappa of the implicit stage i back. Of the last stage, what the next step gave to its first does
 * not scale with this step's size. own is scratch. */
static void FN(pull_implicit)(FN(tile) *s, const FN(cotangents) *c, int i, REAL *kappa, REAL *own,
                              int *done)
{
    int64_t n = s->p->dim * s->L;
    FN(pull_stage)(s, c, i, kappa, c->ybar[i]);
    done[i] = 1;
    memcpy(own, kappa, (size_t)n * sizeof(REAL));
    if (i == s->method->n_stages - 1 && c->size_sum)
        for (int64_t r = 0; r < n; r++)
            own[r] -= c->carried[r];
    FN(add_size)(s, c, own, s->k[i]);
}

/* The first stage, and the sum over all, once the implicit ones are done. own is scratch. */
static void FN(close_reverse)(FN(tile) *s, const FN(cotangents) *c, REAL *own, int *done)
{
    int n = s->method->n_stages;
    if (!FN(stage_cotangent)(s, c, 0, n, done, own))
        memset(own, 0, (size_t)(s->p->dim * s->L) * sizeof(REAL));
    FN(first_stage)(s, c, own, done);
    FN(sum_stages)(s, c, n, done);
}

/*   (I - h gamma J_i^T) kappa_i = kbar_i + h b_i lambda + sum_{j>i} h a_ji ybar_j,  ybar_i = J_i^T kappa_i
 *
 * with J_i at the stage itself; the last stage also has what the next step gave to its first. */
static void FN(dirk_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = s->p->dim, L = s->L;
    int done[NC_MAX_STAGES] = {0}, last = m->n_stages - 1;
    REAL *own = n->known;
    for (int64_t l = 0; l < L; l++) {
        n->hg[l] = (REAL)(s->h[l] * m->gamma);
        n->ones[l] = 1;
        n->singular[l] = n->failed[l] = 0;
        n->factored[l] = 0;
    }
    for (int i = last; i > 0; i--) {
        if (!FN(stage_cotangent)(s, c, i, m->n_stages, done, c->kappa))
            memset(c->kappa, 0, (size_t)(D * L) * sizeof(REAL));
        FN(known_stage)(s, i);
        if (i == last)
            for (int64_t j = 0; j < D * L; j++)
                c->kappa[j] += c->carried[j];
        if (m->A[i * m->n_stages + i] != 0) {
            FN(stage_jacobian)(s, i, c->moved);
            FN(newton_factor)(s, c->moved);
            if (s->p->opaque_field)
                memcpy(n->z, c->kappa, (size_t)(D * L) * sizeof(REAL));
            FN(lu_solve_t)(n->lu, n->piv, c->kappa, D, L, c->moved);
        }
        FN(keep_moved)(s, c->kappa, c->moved);
        if (s->p->opaque_field)
            FN(refine_opaque)(s, c, i, 1, &c->kappa, &n->z, n->lu, n->piv, n->rest);
        FN(pull_implicit)(s, c, i, c->kappa, own, done);
    }
    FN(close_reverse)(s, c, own, done);
}

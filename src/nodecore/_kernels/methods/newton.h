/* What the implicit families share: Jacobians, Newton's matrices I - h gamma J with their factors, and
 * the memory of the iteration (docs/math/implicit-methods.md). Every lane has its own Jacobian, age,
 * factors and fate; masked work leaves the other lanes' bits alone. */

static int FN(iterates)(const nc_tableau *m)
{
    return m->family == NC_DIRK || m->family == NC_RADAU || m->family == NC_IMEX;
}

/* Lanes of a tile whose lanes are the columns of one Jacobian. */
static int64_t FN(column_lanes)(int64_t D)
{
    int64_t width = (D + VL - 1) / VL * VL;
    return width < 4 * VL ? width : 4 * VL;
}

static size_t FN(newton_memory)(FN(tile) *s, char *base, size_t used, int backward)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t L = s->L, D = p->dim, rows = D * L + FN(SLACK), lanes = L + 16;
    if (m->family == NC_EXPLICIT)
        return used;
    int64_t big = m->family == NC_RADAU ? (backward ? 3 : 2) * D : 0;
    int64_t C = FN(column_lanes)(D);
    NC_TAKE(n->jac, D * D * L + FN(SLACK));
    NC_TAKE(n->matrix, D * D * L + FN(SLACK));
    NC_TAKE(n->lu, (int64_t)FN(lu_work)(D, L) + FN(SLACK));
    NC_TAKE(n->piv, D * L + FN(SLACK));
    n->big_dim = big;
    if (big) {
        NC_TAKE(n->big_matrix, big * big * L + FN(SLACK));
        NC_TAKE(n->big_lu, (int64_t)FN(lu_work)(big, L) + FN(SLACK));
        NC_TAKE(n->big_piv, big * L + FN(SLACK));
        NC_TAKE(n->big, big * L + FN(SLACK));
        for (int i = 0; i < 3; i++) {
            NC_TAKE(n->z3[i], rows);
            NC_TAKE(n->w3[i], rows);
            NC_TAKE(n->last_z[i], rows);
            NC_TAKE(n->stage3[i], rows);
        }
    }
    NC_TAKE(n->rest, rows);
    NC_TAKE(n->known, rows);
    NC_TAKE(n->z, rows);
    NC_TAKE(n->value, rows);
    NC_TAKE(n->jac_y, rows);
    NC_TAKE(n->jac_t, lanes);
    NC_TAKE(n->jac_time, lanes);
    NC_TAKE(n->lu_hg, lanes);
    NC_TAKE(n->eta, lanes);
    NC_TAKE(n->last_h, lanes);
    NC_TAKE(n->hg, lanes + FN(SLACK));
    NC_TAKE(n->ones, lanes + FN(SLACK));
    NC_TAKE(n->size, lanes);
    NC_TAKE(n->size_before, lanes);
    NC_TAKE(n->rate, lanes);
    NC_TAKE(n->sums, lanes);
    NC_TAKE(n->power, 3 * D);
    NC_TAKE(n->age, lanes);
    NC_TAKE(n->iterations, lanes);
    NC_TAKE(n->since, lanes);
    NC_TAKE(n->fev, lanes);
    NC_TAKE(n->jev, lanes);
    NC_TAKE(n->factored, lanes);
    NC_TAKE(n->want_jac, lanes);
    NC_TAKE(n->failed, lanes);
    NC_TAKE(n->singular, lanes);
    NC_TAKE(n->stale, lanes);
    NC_TAKE(n->ask, lanes);
    NC_TAKE(n->live, lanes);
    NC_TAKE(n->columns[NC_SP_S], p->n_sample * C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_T], C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_Y], D * C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_OUT], D * C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_RES], p->res_rows * C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_CURVE], p->curve.rows * C + FN(SLACK));
    NC_TAKE(n->columns[NC_SP_V], (D + 1) * (L > C ? L : C) + FN(SLACK));
    return used;
}

/* Lanes without a sample have a Jacobian too: zero. */
static void FN(newton_reset)(FN(tile) *s)
{
    FN(newton) *n = &s->n;
    int64_t L = s->L, D = s->p->dim;
    if (s->method->family == NC_EXPLICIT)
        return;
    memset(n->jac, 0, (size_t)(D * D * L) * sizeof(REAL));
    FN(lu_identity)(n->lu, n->piv, D, L, NULL);
    if (n->big_lu)
        FN(lu_identity)(n->big_lu, n->big_piv, n->big_dim, L, NULL);
    for (int i = 0; i < 3 && n->last_z[i]; i++)
        memset(n->last_z[i], 0, (size_t)(D * L) * sizeof(REAL));
    memset(n->jac_y, 0, (size_t)(D * L) * sizeof(REAL));
    for (int64_t l = 0; l < L; l++) {
        n->jac_t[l] = n->jac_time[l] = n->lu_hg[l] = n->last_h[l] = 0;
        n->eta[l] = -1;
        n->rate[l] = 0;
        n->age[l] = 0;
        n->iterations[l] = 0;
        n->want_jac[l] = 1;
        n->failed[l] = n->stale[l] = 0;
        n->ones[l] = 1;
    }
}

/* A lane starts anew: with a sample, or behind a jump of the field or the state. */
static void FN(newton_start)(FN(tile) *s, int64_t l)
{
    if (s->method->family == NC_EXPLICIT)
        return;
    s->n.want_jac[l] = 1;
    s->n.age[l] = 0;
    s->n.eta[l] = -1;
    s->n.last_h[l] = 0;
}

/* ---- Jacobians ------------------------------------------------------------------------------ */

/* The columns of one lane's Jacobian, side by side as lanes: the same bits. */
static void FN(jacobian_columns)(FN(tile) *s, const REAL *y, const REAL *res, REAL *jac, int64_t l)
{
    const nc_problem *p = s->p;
    int64_t L = s->L, D = p->dim, C = FN(column_lanes)(D);
    REAL *base[NC_N_SPACES];
    memcpy(base, s->base, sizeof base);
    const struct {
        int space;
        const REAL *from;
        int64_t rows;
    } given[] = {{NC_SP_S, s->base[NC_SP_S], p->n_sample},
                 {NC_SP_T, s->time, 1},
                 {NC_SP_Y, y, D},
                 {NC_SP_RES, res, p->res_rows},
                 {NC_SP_CURVE, s->base[NC_SP_CURVE], p->curve.rows}};
    for (size_t g = 0; g < sizeof given / sizeof *given; g++) {
        REAL *to = base[given[g].space] = s->n.columns[given[g].space];
        for (int64_t r = 0; r < given[g].rows; r++)
            for (int64_t c = 0; c < C; c++)
                to[r * C + c] = given[g].from[r * L + l];
    }
    base[NC_SP_V] = s->n.columns[NC_SP_V];
    base[NC_SP_OUT] = s->n.columns[NC_SP_OUT];
    for (int64_t first = 0; first < D; first += C) {
        int64_t count = D - first < C ? D - first : C;
        memset(base[NC_SP_V], 0, (size_t)(D * C) * sizeof(REAL));
        for (int64_t c = 0; c < count; c++)
            base[NC_SP_V][(first + c) * C + c] = 1;
        FN(vm_run)(&p->tangent, base, C, NULL);
        for (int64_t i = 0; i < D; i++)
            for (int64_t c = 0; c < count; c++)
                jac[(i * D + first + c) * L + l] = base[NC_SP_OUT][i * C + c];
    }
}

/* J at `time` and y in the masked lanes, from the residuals of the field there. The tangent program runs
 * once a column, or for each lane with columns as lanes, whichever is less work. */
static void FN(jacobian_from)(FN(tile) *s, REAL *y, REAL *res, REAL *jac, const RINT *mask)
{
    const nc_problem *p = s->p;
    int64_t L = s->L, D = p->dim, asking = 0, C = FN(column_lanes)(D);
    for (int64_t l = 0; l < L; l++)
        asking += mask[l] != 0;
    if (p->opaque_field) {
        if (asking && !s->failed)
            s->failed = p->opaque_jacobian(p->opaque_ctx, p, L, s->stage_t, y, jac, s->sample,
                                           s->active);
        return;
    }
    if (L == 1 || asking * ((D + C - 1) / C * C) < D * L) {
        for (int64_t l = 0; l < L; l++)
            if (mask[l])
                FN(jacobian_columns)(s, y, res, jac, l);
        return;
    }
    REAL *v = s->n.columns[NC_SP_V], *out = s->n.rest;
    s->base[NC_SP_T] = s->time;
    s->base[NC_SP_Y] = y;
    s->base[NC_SP_RES] = res;
    s->base[NC_SP_V] = v;
    s->base[NC_SP_OUT] = out;
    memset(v, 0, (size_t)(D * L) * sizeof(REAL));
    for (int64_t j = 0; j < D; j++) {
        for (int64_t l = 0; l < L; l++)
            v[j * L + l] = 1;
        FN(vm_run)(&p->tangent, s->base, L, NULL);
        for (int64_t l = 0; l < L; l++)
            v[j * L + l] = 0;
        for (int64_t i = 0; i < D; i++)
            FN(select_lanes)(jac + (i * D + j) * L, out + i * L, mask, 1, L);
    }
}

/* ---- Newton's matrix ------------------------------------------------------------------------ */

/* Factors I - h gamma J in the lanes that ask; those where it is singular have failed. */
static void FN(newton_factor)(FN(tile) *s, const RINT *mask)
{
    FN(newton) *n = &s->n;
    int64_t L = s->L, D = s->p->dim;
    FN(newton_matrix)(n->jac, n->hg, n->matrix, D, L);
    FN(lu_factor)(n->matrix, n->lu, n->piv, D, L, mask, n->singular);
    for (int64_t l = 0; l < L; l++)
        if (mask[l]) {
            n->factored[l]++;
            n->failed[l] |= n->singular[l];
        }
}

/* J at the beginning of the step. */
static void FN(newton_jacobian)(FN(tile) *s, const RINT *mask)
{
    FN(newton) *n = &s->n;
    FN(stage_time)(s, 0.0);
    if (!s->p->opaque_field)
        FN(field)(s, s->y, n->value, s->own_res[0]);
    FN(jacobian_from)(s, s->y, s->own_res[0], n->jac, mask);
}

/* How far h gamma may be from that of the factors. Small systems are factored at every change. */
static double FN(refactor_beyond)(int64_t D)
{
    return D <= 8 ? 0.0 : 0.03;
}

/* A new Jacobian where the iteration needs one, strict: at every step; returns whether lanes ask for new
 * factors. */
static int FN(newton_prepare)(FN(tile) *s, int strict)
{
    FN(newton) *n = &s->n;
    int64_t L = s->L, D = s->p->dim;
    double far = FN(refactor_beyond)(D);
    int jacobians = 0, factors = 0;
    for (int64_t l = 0; l < L; l++) {
        n->failed[l] = 0;
        n->fev[l] = n->jev[l] = n->factored[l] = 0;
        n->iterations[l] = 0;
        n->rate[l] = 0;
        n->hg[l] = (REAL)(s->h[l] * s->method->gamma);
        int want = s->active[l] && (strict || n->want_jac[l]);
        n->ask[l] = want ? -1 : 0;
        jacobians += want;
    }
    if (jacobians) {
        FN(newton_jacobian)(s, n->ask);
        for (int64_t l = 0; l < L; l++)
            if (n->ask[l]) {
                n->jac_t[l] = s->stage_t[l];
                n->jac_time[l] = (double)s->time[l];
                FN(lane_copy)(n->jac_y, l, s->y, l, D, L);
                n->want_jac[l] = 0;
                n->age[l] = 0;
                n->jev[l]++;
                n->lu_hg[l] = 0;
            }
    }
    for (int64_t l = 0; l < L; l++) {
        int want = s->active[l] && fabs((double)n->hg[l] - n->lu_hg[l]) > far * fabs(n->lu_hg[l]);
        n->ask[l] = want ? -1 : 0;
        factors += want;
        if (want) {
            n->lu_hg[l] = (double)n->hg[l];
            n->eta[l] = -1;
        }
        n->stale[l] = n->age[l] > 0;
    }
    return factors;
}

/* J again from what a checkpoint holds of it, in every live lane; these ask for factors then. */
static void FN(newton_restore)(FN(tile) *s)
{
    FN(newton) *n = &s->n;
    int64_t L = s->L;
    for (int64_t l = 0; l < L; l++) {
        n->ask[l] = s->active[l] && !n->want_jac[l] ? -1 : 0;
        s->stage_t[l] = n->jac_t[l];
        s->time[l] = (REAL)n->jac_time[l];
        n->hg[l] = (REAL)n->lu_hg[l];
        if (!n->ask[l])
            FN(lane_copy)(n->jac_y, l, s->y, l, s->p->dim, L);
    }
    if (!s->p->opaque_field)
        FN(field)(s, n->jac_y, n->value, s->own_res[0]);
    FN(jacobian_from)(s, n->jac_y, s->own_res[0], n->jac, n->ask);
}

/* ---- The iteration -------------------------------------------------------------------------- */

enum { FN(NEWTON_MOST) = 14, FN(NEWTON_STRICT_MOST) = 50 };

/* How small the correction that is still to come must be, in tolerances. A gradient differs from that
 * of the equations by about as much. */
static double FN(newton_kappa)(const nc_control *c)
{
    double floor = 10 * (double)R_EPS / c->rtol;
    return floor > 1e-6 ? floor : 1e-6;
}

/* The size of corrections without a tolerance: relative to each component, or to 1e-10 of the largest. */
static void FN(relative_size)(const REAL *d, const REAL *y, int64_t D, int64_t L, double *size)
{
    for (int64_t l = 0; l < L; l++) {
        double most = 0, sum = 0;
        for (int64_t r = 0; r < D; r++)
            most = fmax(most, fabs((double)y[r * L + l]) + fabs((double)d[r * L + l]));
        for (int64_t r = 0; r < D; r++) {
            double x = fabs((double)d[r * L + l]);
            double q = x == 0 ? 0 : x / fmax(fabs((double)y[r * L + l]), 1e-10 * most);
            sum += q * q;
        }
        size[l] = sqrt(sum / (double)D);
    }
}

/* One lane's verdict after a correction of size `size`, the it-th since the matrix was last changed:
 * 1: done, 0: go on, -1: failed (Hairer & Wanner II, IV.8). */
static int FN(newton_verdict)(FN(newton) *n, int64_t l, int it, double kappa)
{
    double size = n->size[l], eta;
    if (!(size < HUGE_VAL))
        return -1;
    if (size == 0)
        return 1;
    if (it == 0) {
        if (n->eta[l] < 0)
            return 0;
        double root = sqrt(fmax(n->eta[l], 1e-3)); /* no stage is sure to converge as fast */
        eta = root * sqrt(root); /* ^ 0.75 */
        return eta * size < kappa;
    }
    double theta = size / n->size_before[l];
    if (theta > n->rate[l])
        n->rate[l] = theta;
    if (theta >= 0.99) /* the first correction may be short by chance */
        return size < kappa ? 1 : it > 1 ? -1 : 0;
    eta = n->eta[l] = theta / (1 - theta);
    if (eta * size < kappa)
        return 1;
    double left = eta * size;
    for (int i = it + 1; i < FN(NEWTON_MOST); i++)
        left *= theta;
    return left < kappa || it == 1 ? 0 : -1;
}

/* Without a tolerance: until rounding. 2: the matrix should be taken at the iterate. */
static int FN(strict_verdict)(FN(newton) *n, int64_t l, int it)
{
    double size = n->size[l];
    int renewed = n->since[l] >= 0, since = renewed ? (int)n->since[l] : it;
    n->since[l] += renewed;
    if (!(size < HUGE_VAL))
        return -1;
    if (size <= 4 * (double)R_EPS)
        return 1;
    int slow = it > 0 && size > 0.5 * n->size_before[l];
    if (it + 1 >= FN(NEWTON_STRICT_MOST))
        return -1;
    if (slow && renewed && since >= 1 && size < 1e3 * sqrt((double)R_EPS))
        return 1;
    return since >= 3 || (slow && since >= 1) ? 2 : 0;
}

/* The Jacobian at the iterate instead of the step's beginning, in the lanes that ask. */
static void FN(newton_renew)(FN(tile) *s, REAL *y)
{
    FN(newton) *n = &s->n;
    if (!s->p->opaque_field)
        FN(field)(s, y, n->value, s->own_res[0]);
    FN(jacobian_from)(s, y, s->own_res[0], n->jac, n->ask);
    for (int64_t l = 0; l < s->L; l++)
        if (n->ask[l]) {
            n->jev[l]++;
            n->since[l] = 0;
            n->want_jac[l] = 1;
        }
}

/* Verdicts after the it-th correction, whose sizes are in n->size; counts the live lanes down. Returns
 * whether lanes ask for the matrix at the iterate. */
static int FN(newton_judge)(FN(newton) *n, int64_t L, int it, int strict, double kappa, int *live)
{
    int renew = 0;
    for (int64_t l = 0; l < L; l++) {
        n->ask[l] = 0;
        if (!n->live[l])
            continue;
        if (it + 1 > n->iterations[l])
            n->iterations[l] = it + 1;
        int verdict = strict ? FN(strict_verdict)(n, l, it) : FN(newton_verdict)(n, l, it, kappa);
        n->size_before[l] = n->size[l];
        n->failed[l] |= verdict < 0;
        if (verdict == 2) {
            n->ask[l] = -1;
            renew = 1;
        } else if (verdict) {
            n->live[l] = 0;
            --*live;
        }
    }
    return renew;
}

/* The lanes that are to be solved; their number. */
static int FN(newton_begin)(FN(tile) *s)
{
    FN(newton) *n = &s->n;
    int live = 0;
    for (int64_t l = 0; l < s->L; l++) {
        n->live[l] = s->active[l] && !n->failed[l] ? -1 : 0;
        n->since[l] = -1;
        live += n->live[l] != 0;
    }
    return live;
}

/* After the step: when the next one wants a new Jacobian. accepted: the lane moved. */
static void FN(newton_remember)(FN(newton) *n, int64_t l, int accepted)
{
    if (!accepted)
        return;
    n->age[l]++;
    if ((n->iterations[l] > 2 && n->rate[l] > 0.02) || n->age[l] >= 20)
        n->want_jac[l] = 1;
}

/* Additive Runge-Kutta: y' = f + g, f implicit, g explicit (docs/math/implicit-methods.md, 2).
 *
 *   Y_i = y + h sum_{j<=i} a_ij f(Y_j) + h sum_{j<i} ahat_ij g(Y_j),   y1 = y + h sum_i b_i (f(Y_i) + g(Y_i))
 *
 * The derivatives of f stand in k[0 .. S-1], those of g in k[S .. 2S-1], S = stages_of(m), and the rows of
 * the tableau have both parts' weights: what sums stages serves as it is. The parts are evaluated through
 * the one tile, with the part's problem in the place of the whole. */

static int FN(stages_of)(const nc_tableau *m)
{
    return m->n_stages / 2;
}

/* k = f(y) or g(y) at the tile's stage time. */
static void FN(part_field)(FN(tile) *s, int part, REAL *y, REAL *k)
{
    const nc_problem *mine = s->p, *whole = s->whole;
    s->p = whole->parts + part;
    FN(field)(s, y, k, NULL);
    s->p = mine;
}

/* First derivatives, where they are field values. scratch: [D][L]. */
static void FN(imex_first)(FN(tile) *s, const RINT *mask, REAL *scratch)
{
    for (int part = 0; part < 2; part++) {
        FN(part_field)(s, part, s->y, scratch);
        FN(select_lanes)(s->k[part * FN(stages_of)(s->method)], scratch, mask, s->p->dim, s->L);
    }
}

static void FN(imex_stage)(FN(tile) *s, int i, int strict, double *part)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int S = FN(stages_of)(m), N = m->n_stages;
    const double *row = m->A + i * N;
    double before[NC_MAX_STAGES] = {0}, guess[NC_MAX_STAGES] = {0};
    for (int j = 0; j < i; j++) {
        before[j] = row[j];
        before[S + j] = row[S + j];
        guess[j] = m->gamma * m->predictor[i * N + j];
    }
    FN(combine)(s, n->known, s->y, before, N);
    FN(stage_time)(s, m->c[i]);
    if (row[i] == 0) {
        FN(field)(s, n->known, s->k[i], NULL);
        FN(part_field)(s, 1, n->known, s->k[S + i]);
        return;
    }
    FN(combine)(s, n->z, NULL, guess, N);
    FN(solve_stage)(s, i, strict, part);
    before[i] = row[i];
    FN(combine)(s, s->stage, s->y, before, N);
    FN(stage_time)(s, m->c[i]);
    FN(part_field)(s, 1, s->stage, s->k[S + i]);
}

static void FN(imex_step)(FN(tile) *s, double *part)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int S = FN(stages_of)(m), strict = s->p->control.mode != NC_ADAPTIVE;
    s->p = s->whole->parts;
    if (FN(newton_prepare)(s, strict))
        FN(newton_factor)(s, n->ask);
    for (int i = 1; i < S; i++)
        FN(imex_stage)(s, i, strict, part);
    s->p = s->whole;
    FN(combine)(s, s->y1, s->y, m->b, m->n_stages);
    for (int64_t l = 0; l < s->L; l++)
        n->fev[l] += S;
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* out = what outputs gave to the derivative in `column` + h b lambda + h sum_{j>i} a_j,column Ybar_j, i its
 * stage. */
static void FN(imex_cotangent)(FN(tile) *s, const FN(cotangents) *c, int i, int column, REAL *out)
{
    const nc_tableau *m = s->method;
    const REAL *v[NC_MAX_STAGES];
    int64_t L = s->L;
    int count = 0, N = m->n_stages;
    for (int j = i; j < FN(stages_of)(m); j++) {
        double a = j == i ? m->b[column] : m->A[j * N + column];
        if (a == 0.0)
            continue;
        for (int64_t l = 0; l < L; l++)
            s->coef[count * L + l] = (REAL)(s->h[l] * a);
        v[count++] = j == i ? c->lambda : c->ybar[j];
    }
    FN(lincomb)(out, c->kbar ? c->kbar[column] : NULL, count, v, s->coef, s->p->dim, L);
}

/* The traces of both parts at stage i. */
static void FN(imex_trace)(FN(tile) *s, int i)
{
    const nc_problem *parts = s->whole->parts;
    int S = FN(stages_of)(s->method);
    s->p = parts;
    FN(known_stage)(s, i);
    s->p = parts + 1;
    FN(own_trace)(s, S + i);
    s->trace_y[S + i] = s->own_y[i];
    FN(trace_time)(s, S + i, s->method->c[i]);
    FN(trace_field)(s, S + i, s->n.value);
    s->p = parts;
}

/* Pulls kappa through f, or eta through g, at stage i. */
static void FN(imex_pull)(FN(tile) *s, const FN(cotangents) *c, int part, int i, REAL *kappa)
{
    int S = FN(stages_of)(s->method), at = part * S + i;
    FN(cotangents) own = *c;
    if (part)
        own.sinks = c->second_sinks; /* those of the explicit part */
    s->p = s->whole->parts + part;
    FN(pull_stage)(s, &own, at, kappa, c->ybar[at]);
    s->p = s->whole->parts;
}

/* With eta_i and kappa_i the cotangents of g(Y_i) and f(Y_i),
 *
 *   eta_i                      = (kbar + h b lambda + h sum_{j>i} ahat_ji Ybar_j)_i + carried
 *   (I - h a_ii J^T) kappa_i   = (kbar + h b lambda + h sum_{j>i} a_ji Ybar_j)_i + carried + h a_ii G^T eta_i
 *   Ybar_i                     = J^T kappa_i + G^T eta_i */
static void FN(imex_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = s->p->dim, L = s->L;
    int S = FN(stages_of)(m), N = m->n_stages, last = S - 1;
    REAL *own = n->known, *eta = n->z;
    for (int64_t l = 0; l < L; l++) {
        n->hg[l] = (REAL)(s->h[l] * m->gamma);
        n->ones[l] = 1;
        n->singular[l] = n->failed[l] = 0;
        n->factored[l] = 0;
    }
    s->p = s->whole->parts;
    for (int i = last; i > 0; i--) {
        FN(imex_trace)(s, i);
        FN(imex_cotangent)(s, c, i, S + i, eta);
        FN(keep_moved)(s, eta, c->moved);
        FN(add_size)(s, c, eta, s->k[S + i]);
        for (int64_t j = 0; j < D * L && i == last; j++)
            eta[j] += c->carried[D * L + j];
        FN(keep_moved)(s, eta, c->moved);
        FN(imex_pull)(s, c, 1, i, eta);

        FN(imex_cotangent)(s, c, i, i, c->kappa);
        for (int64_t j = 0; j < D * L && i == last; j++)
            c->kappa[j] += c->carried[j];
        double a = m->A[i * N + i];
        if (a != 0) {
            for (int64_t r = 0; r < D; r++)
                for (int64_t l = 0; l < L; l++)
                    c->kappa[r * L + l] += (REAL)(s->h[l] * a) * c->ybar[S + i][r * L + l];
            FN(stage_jacobian)(s, i, c->moved);
            FN(newton_factor)(s, c->moved);
            FN(lu_solve_t)(n->lu, n->piv, c->kappa, D, L, c->moved);
        }
        FN(keep_moved)(s, c->kappa, c->moved);
        FN(imex_pull)(s, c, 0, i, c->kappa);
        memcpy(own, c->kappa, (size_t)(D * L) * sizeof(REAL));
        for (int64_t j = 0; j < D * L && i == last; j++)
            own[j] -= c->carried[j];
        FN(keep_moved)(s, own, c->moved);
        FN(add_size)(s, c, own, s->k[i]);
        for (int64_t j = 0; j < D * L; j++)
            c->ybar[i][j] += c->ybar[S + i][j];
    }
    memset(c->ybar[0], 0, (size_t)(D * L) * sizeof(REAL));
    int any = 0;
    for (int64_t l = 0; l < L; l++)
        any |= c->fresh[l] != 0;
    for (int part = 1; part >= 0; part--) {
        REAL *carried = c->carried + part * D * L;
        FN(imex_cotangent)(s, c, 0, part * S, own);
        FN(keep_moved)(s, own, c->moved);
        FN(add_size)(s, c, own, s->k[part * S]);
        FN(select_lanes)(carried, own, c->moved, D, L);
        if (!any)
            continue;
        for (int64_t r = 0; r < D; r++) /* field values are pulled through the field */
            for (int64_t l = 0; l < L; l++)
                if (c->fresh[l])
                    carried[r * L + l] = 0;
        FN(keep_moved)(s, own, c->fresh);
        if (part)
            FN(imex_trace)(s, 0);
        memcpy(eta, own, (size_t)(D * L) * sizeof(REAL));
        FN(imex_pull)(s, c, part, 0, eta);
        FN(keep_moved)(s, c->ybar[part * S], c->fresh);
        if (part)
            continue;
        for (int64_t j = 0; j < D * L; j++)
            c->ybar[0][j] += c->ybar[S][j];
    }
    s->p = s->whole;
    int done[NC_MAX_STAGES];
    for (int i = 0; i < S; i++)
        done[i] = i > 0 || any;
    FN(sum_stages)(s, c, S, done);
}

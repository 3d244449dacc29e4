/* Radau IIA of three coupled stages (docs/math/implicit-methods.md, 3; Hairer & Wanner II, IV.8). With
 * z_i = Y_i - y and z = T w, the simplified Newton systems are
 *
 *   (mu I - h J) dw_1 = h (T^-1 F)_1 - mu w_1
 *   (alpha I - h J) dw_2 - beta dw_3 = h (T^-1 F)_2 - (alpha w_2 - beta w_3)
 *   beta dw_2 + (alpha I - h J) dw_3 = h (T^-1 F)_3 - (beta w_2 + alpha w_3)
 *
 * The last two are one complex system; here they are one real one of twice the size, for which the
 * batched factorisation serves. Stages 1 .. 3 are implicit, stage 0 is the step before's last. */

/* out_i = sum_j W[i][j] in_j for three arrays; the same arrays may not be both. */
static void FN(mix3)(REAL *const *out, const double *W, REAL *const *in, int64_t n)
{
    for (int i = 0; i < 3; i++) {
        const REAL a = (REAL)W[3 * i], b = (REAL)W[3 * i + 1], c = (REAL)W[3 * i + 2];
        for (int64_t r = 0; r < n; r++)
            out[i][r] = a * in[0][r] + (b * in[1][r] + c * in[2][r]);
    }
}

/* The factors of both systems, in the lanes that ask. */
static void FN(radau_factor)(FN(tile) *s, const RINT *mask)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = s->p->dim, L = s->L, E = 2 * D;
    FN(newton_factor)(s, mask);
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++) {
            const REAL *J = n->jac + (i * D + j) * L;
            REAL *a = n->big_matrix + (i * E + j) * L, *d = n->big_matrix + ((D + i) * E + D + j) * L;
            REAL *b = n->big_matrix + (i * E + D + j) * L, *e = n->big_matrix + ((D + i) * E + j) * L;
            for (int64_t l = 0; l < L; l++) {
                REAL h = (REAL)(n->lu_hg[l] / m->gamma);
                a[l] = d[l] = (i == j ? (REAL)m->alpha : 0) - h * J[l];
                b[l] = i == j ? (REAL)-m->beta : 0;
                e[l] = i == j ? (REAL)m->beta : 0;
            }
        }
    FN(lu_factor)(n->big_matrix, n->big_lu, n->big_piv, E, L, mask, n->singular);
    for (int64_t l = 0; l < L; l++)
        if (mask[l])
            n->failed[l] |= n->singular[l];
}

/* Newton's first guess: the collocation polynomial of the step before, continued. */
static void FN(radau_guess)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = s->p->dim, L = s->L;
    for (int i = 0; i < 3; i++)
        for (int64_t l = 0; l < L; l++) {
            double w[3] = {0, 0, 0}, old = n->last_h[l], first = 0;
            if (old != 0) {
                double theta = 1 + m->c[1 + i] * s->h[l] / old;
                for (int j = 0; j < 3; j++)
                    w[j] = ((m->P_z[3 * j + 2] * theta + m->P_z[3 * j + 1]) * theta + m->P_z[3 * j]) * theta;
                w[2] -= 1;
            } else {
                first = m->c[1 + i] * s->h[l];
            }
            for (int64_t r = 0; r < D; r++)
                n->z3[i][r * L + l] = (REAL)(w[0] * (double)n->last_z[0][r * L + l] +
                                             (w[1] * (double)n->last_z[1][r * L + l] +
                                              w[2] * (double)n->last_z[2][r * L + l]) +
                                             first * (double)s->k[0][r * L + l]);
        }
}

/* n->stage3 = f(y + z_i), three times. */
static void FN(radau_values)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    for (int i = 0; i < 3; i++) {
        const REAL *z[1] = {n->z3[i]};
        FN(lincomb)(s->stage, s->y, 1, z, n->ones, s->p->dim, s->L);
        FN(stage_time)(s, m->c[1 + i]);
        FN(field)(s, s->stage, n->stage3[i], NULL);
    }
}

static void FN(radau_step)(FN(tile) *s, double *part)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method;
    const nc_control *c = &p->control;
    FN(newton) *n = &s->n;
    int64_t D = p->dim, L = s->L;
    int strict = c->mode != NC_ADAPTIVE;
    double kappa = FN(newton_kappa)(c);
    if (FN(newton_prepare)(s, strict))
        FN(radau_factor)(s, n->ask);
    FN(radau_guess)(s);
    FN(mix3)(n->w3, m->T_inv, n->z3, D * L);
    int live = FN(newton_begin)(s);
    REAL *second = n->big, *third = n->big + D * L, *first = n->rest;
    REAL *right[3] = {first, second, third};
    for (int it = 0; live; it++) {
        FN(radau_values)(s);
        FN(mix3)(right, m->T_inv, n->stage3, D * L);
        for (int64_t r = 0; r < D; r++)
            for (int64_t l = 0; l < L; l++) {
                int64_t e = r * L + l;
                REAL h = (REAL)s->h[l], w1 = n->w3[0][e], w2 = n->w3[1][e], w3 = n->w3[2][e];
                REAL a = (REAL)m->alpha, b = (REAL)m->beta;
                first[e] = h * (REAL)m->gamma * first[e] - w1; /* divided by mu */
                second[e] = h * second[e] - (a * w2 - b * w3);
                third[e] = h * third[e] - (b * w2 + a * w3);
            }
        FN(lu_solve)(n->lu, n->piv, first, D, L, n->live);
        FN(lu_solve)(n->big_lu, n->big_piv, n->big, 2 * D, L, n->live);
        for (int i = 0; i < 3; i++)
            FN(add_lanes)(n->w3[i], right[i], n->live, D, L);
        REAL *dz[3] = {n->stage3[0], n->stage3[1], n->stage3[2]};
        FN(mix3)(dz, m->T, right, D * L);
        FN(mix3)(n->z3, m->T, n->w3, D * L);
        for (int64_t l = 0; l < L; l++)
            n->size[l] = 0;
        for (int i = 0; i < 3; i++) {
            if (strict) {
                const REAL *z[1] = {n->z3[i]};
                FN(lincomb)(s->stage, s->y, 1, z, n->ones, D, L);
                FN(relative_size)(dz[i], s->stage, D, L, part);
                for (int64_t l = 0; l < L; l++)
                    n->size[l] += part[l] * part[l] / 3;
            } else {
                FN(scaled_square)(dz[i], s->y, s->y, c->atol, c->rtol, D, L, part, n->sums);
                for (int64_t l = 0; l < L; l++)
                    n->size[l] += n->sums[l] / (3 * (double)D);
            }
        }
        for (int64_t l = 0; l < L; l++) {
            n->size[l] = sqrt(n->size[l]);
            n->fev[l] += 3 * (n->live[l] != 0);
        }
        if (FN(newton_judge)(n, L, it, strict, kappa, &live)) { /* one matrix for all three stages: that of the last one */
            const REAL *z[1] = {n->z3[2]};
            FN(lincomb)(s->stage, s->y, 1, z, n->ones, D, L);
            FN(stage_time)(s, 1.0);
            FN(newton_renew)(s, s->stage);
            FN(radau_factor)(s, n->ask);
        }
        if (s->failed)
            break;
    }
    for (int i = 0; i < 3; i++) { /* k = A^-1 z / h */
        REAL *k = s->k[1 + i];
        const REAL a = (REAL)m->A_inv[3 * i], b = (REAL)m->A_inv[3 * i + 1],
                   g = (REAL)m->A_inv[3 * i + 2];
        for (int64_t l = 0; l < L; l++) {
            if (s->h[l] == 0 || n->failed[l] || !s->active[l]) {
                FN(lane_copy)(k, l, s->k[0], l, D, L);
                continue;
            }
            REAL inverse = (REAL)(1 / s->h[l]);
            for (int64_t e = l; e < D * L; e += L)
                k[e] = (a * n->z3[0][e] + (b * n->z3[1][e] + g * n->z3[2][e])) * inverse;
        }
    }
    FN(combine)(s, s->y1, s->y, m->b, m->n_stages);
}

/* The lane moved: what the next guess continues. */
static void FN(radau_remember)(FN(tile) *s, int64_t l)
{
    for (int i = 0; i < 3; i++)
        FN(lane_copy)(s->n.last_z[i], l, s->n.z3[i], l, s->p->dim, s->L);
    s->n.last_h[l] = s->h[l];
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/*   kappa_i - h sum_j a_ji J_j^T kappa_j = kbar_i + h b_i lambda,   ybar_i = J_i^T kappa_i
 *
 * one system of three times the size, since the Jacobians of the stages differ. */
static void FN(radau_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    const nc_tableau *m = s->method;
    FN(newton) *n = &s->n;
    int64_t D = s->p->dim, L = s->L, E = 3 * D;
    int done[NC_MAX_STAGES] = {0}, none[NC_MAX_STAGES] = {0};
    REAL *own = n->known;
    for (int64_t l = 0; l < L; l++)
        n->ones[l] = 1;
    for (int i = 1; i < 4; i++) {
        REAL *right = n->big + (i - 1) * D * L;
        if (!FN(stage_cotangent)(s, c, i, m->n_stages, none, right))
            memset(right, 0, (size_t)(D * L) * sizeof(REAL));
        if (i == 3)
            for (int64_t r = 0; r < D * L; r++)
                right[r] += c->carried[r];
        FN(known_stage)(s, i);
        FN(stage_jacobian)(s, i, c->moved);
        for (int o = 1; o < 4; o++) { /* block (o, i): delta - h a_io J_i^T */
            double a = m->A[i * m->n_stages + o];
            for (int64_t r = 0; r < D; r++)
                for (int64_t q = 0; q < D; q++) {
                    const REAL *J = n->jac + (q * D + r) * L;
                    REAL *M = n->big_matrix + (((o - 1) * D + r) * E + (i - 1) * D + q) * L;
                    for (int64_t l = 0; l < L; l++)
                        M[l] = (o == i && r == q ? 1 : 0) - (REAL)(s->h[l] * a) * J[l];
                }
        }
    }
    FN(lu_factor)(n->big_matrix, n->big_lu, n->big_piv, E, L, c->moved, n->singular);
    REAL *kappas[3], *rights[3] = {n->z3[0], n->z3[1], n->z3[2]};
    for (int i = 0; i < 3; i++) {
        kappas[i] = n->big + i * D * L;
        memcpy(rights[i], kappas[i], (size_t)(D * L) * sizeof(REAL));
    }
    FN(lu_solve)(n->big_lu, n->big_piv, n->big, E, L, c->moved);
    for (int i = 0; i < 3; i++)
        FN(keep_moved)(s, kappas[i], c->moved);
    if (s->p->opaque_field)
        FN(refine_opaque)(s, c, 1, 3, kappas, rights, n->big_lu, n->big_piv, n->big_matrix);
    for (int i = 3; i > 0; i--)
        FN(pull_implicit)(s, c, i, kappas[i - 1], own, done);
    FN(close_reverse)(s, c, own, done);
}

/* Explicit Runge-Kutta in extended FSAL form (docs/math/explicit-runge-kutta.md).
 *
 *   Y_i = y + h sum_{j<i} a_ij k_j,  k_i = f(t + c_i h, Y_i);  y1 = Y of the step stage */
static void FN(rk_stage)(FN(tile) *s, int i, REAL *arg, REAL *keep)
{
    const nc_tableau *m = s->method;
    if (i == 0)
        memcpy(arg, s->y, (size_t)(s->p->dim * s->L) * sizeof(REAL));
    else
        FN(combine)(s, arg, s->y, m->A + i * m->n_stages, i);
    FN(stage_time)(s, m->c[i]);
    FN(field)(s, arg, s->k[i], keep);
}

/* Stages 2 .. n_step - 1 and the new state y1. k[0] must be there. The step stage's own derivative
 * is rk_finish: where the error estimate does not read it, a rejected step does not need it. */
static void FN(rk_step)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    int last = m->n_step - 1;
    for (int i = 1; i < last; i++)
        FN(rk_stage)(s, i, s->keep_y[i] ? s->keep_y[i] : s->stage, s->keep_res[i]);
    FN(combine)(s, s->y1, s->y, m->b, last);
}

static void FN(rk_finish)(FN(tile) *s)
{
    int last = s->method->n_step - 1;
    FN(stage_time)(s, 1.0);
    FN(field)(s, s->y1, s->k[last], s->keep_res[last]);
    if (s->keep_y[last])
        memcpy(s->keep_y[last], s->y1, (size_t)(s->p->dim * s->L) * sizeof(REAL));
}

static int FN(rk_error_reads_finish)(const nc_tableau *m)
{
    int last = m->n_step - 1;
    return m->b_err && (m->b_err[last] != 0.0 || (m->b_err2 && m->b_err2[last] != 0.0));
}

/* The stages that only the dense output reads. */
static void FN(rk_dense_stages)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    for (int i = m->n_step; i < m->n_stages; i++)
        FN(rk_stage)(s, i, s->stage, NULL);
}

/* rho = |k_s - k_j| / |Y_s - Y_j| of the last stage and its twin at c = 1: an estimate of the field's
 * largest rate where that dominates (Shampine 1977). All stages must be there; part is [8][L], above and
 * below [L]. */
static void FN(stage_radius)(FN(tile) *s, double *part, double *above, double *below, double *rho)
{
    const nc_tableau *m = s->method;
    const nc_control *c = &s->p->control;
    int64_t D = s->p->dim, L = s->L;
    int last = m->n_step - 1, j = m->twin;
    FN(combine)(s, s->stage, s->y, m->A + j * m->n_stages, j);
    for (int64_t r = 0; r < D * L; r++)
        s->stage[r] = s->y1[r] - s->stage[r];
    FN(scaled_square)(s->stage, s->y, s->y, c->atol, c->rtol, D, L, part, below);
    for (int64_t r = 0; r < D * L; r++)
        s->stage[r] = s->k[last][r] - s->k[j][r];
    FN(scaled_square)(s->stage, s->y, s->y, c->atol, c->rtol, D, L, part, above);
    for (int64_t l = 0; l < L; l++)
        rho[l] = below[l] > 0 && above[l] < HUGE_VAL ? sqrt(above[l] / below[l]) : 0;
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* Stage i again, with its residuals. */
static void FN(rk_trace_stage)(FN(tile) *s, int i)
{
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    s->time = s->trace_time[i];
    s->stage_t = s->trace_t[i];
    FN(own_trace)(s, i);
    FN(rk_stage)(s, i, s->trace_y[i], s->trace_res[i]);
    s->time = time;
    s->stage_t = stage_t;
}

/* Evaluates the first n stages again with their residuals: the step trace. */
static void FN(rk_trace)(FN(tile) *s, int n)
{
    for (int i = 0; i < n; i++)
        FN(rk_trace_stage)(s, i);
}

/* A trace that was kept: stage i = 1 .. has its argument and residuals at trace + (i - 1) bytes. */
static void FN(rk_load_trace)(FN(tile) *s, int n, char *trace, int64_t bytes, int64_t off_res)
{
    for (int i = 1; i < n; i++) {
        s->trace_y[i] = (REAL *)(trace + (i - 1) * bytes);
        s->trace_res[i] = (REAL *)(trace + (i - 1) * bytes + off_res);
        FN(trace_time)(s, i, s->method->c[i]);
    }
}

/* Pulls the cotangents back through the step (docs/math/discrete-adjoint.md).
 *
 *   kappa_i = kbar_i + h b_i lambda + sum_{j>i} h a_ji ybar_j,   ybar_i = f_y^T kappa_i
 *   lambda <- lambda + sum_i ybar_i
 *
 * time_sum[l] gains sum_i kappa_i . f_t,i and size_sum[l] gains sum_i (kappa_i . k_i / h + c_i kappa_i
 * . f_t,i). */
static void FN(rk_reverse)(FN(tile) *s, int n, const FN(cotangents) *c)
{
    int done[NC_MAX_STAGES] = {0};
    for (int i = n - 1; i >= 0; i--) {
        if (!FN(stage_cotangent)(s, c, i, n, done, c->kappa))
            continue;
        done[i] = 1;
        FN(pull_stage)(s, c, i, c->kappa, c->ybar[i]);
        FN(add_size)(s, c, c->kappa, s->k[i]);
    }
    FN(sum_stages)(s, c, n, done);
}

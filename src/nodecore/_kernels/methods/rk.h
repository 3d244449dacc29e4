/* Explicit Runge-Kutta in extended FSAL form (docs/math/explicit-runge-kutta.md): the family's
 * step, dense output and reverse. Nothing here knows samples, outputs or records.
 *
 *   Y_i = y + h sum_{j<i} a_ij k_j,  k_i = f(t + c_i h, Y_i);  y1 = Y of the step stage
 *
 * The tile of a step. The arrays are [rows][L]; h is 0 in lanes that are not to move. */
typedef struct {
    const nc_problem *p;
    int64_t L;
    REAL *y, *y1, *stage;    /* state, new state, a stage's argument */
    REAL *k[NC_MAX_STAGES];  /* stage derivatives */
    REAL *time;              /* the stage's time, rounded to the element type */
    double *t, *h, *t_new;   /* the step: from, size, to */
    double *stage_t;
    uint8_t *at_stop;        /* the step ends on a stop */
    uint8_t *after_stop;     /* the step starts on one */
    uint8_t *active;
    int64_t *sample;
    REAL *coef;              /* [NC_MAX_STAGES][L] */
    int64_t *piece;          /* of the curve: the piece each lane was in last */
    REAL *base[NC_N_SPACES];
    /* where the stages leave their trace; NULL: nowhere */
    REAL *keep_y[NC_MAX_STAGES], *keep_res[NC_MAX_STAGES];
    /* the step trace of the backward pass: what `reverse` reads; it stands in own_... or elsewhere */
    REAL *own_y[NC_MAX_STAGES], *own_res[NC_MAX_STAGES];
    REAL *trace_y[NC_MAX_STAGES], *trace_res[NC_MAX_STAGES], *trace_time[NC_MAX_STAGES];
    double *trace_t[NC_MAX_STAGES];
    int failed; /* an opaque callback said no */
} FN(tile);

/* The curve at stage_t, for every lane that has a sample. */
static void FN(curve_values)(FN(tile) *s)
{
    const nc_curve *c = &s->p->curve;
    int64_t L = s->L, R = c->rows;
    REAL *out = s->base[NC_SP_CURVE];
    for (int64_t l = 0; l < L; l++) {
        int64_t first = c->off[s->sample[l]][0], last = c->off[s->sample[l]][1] - 1;
        if (last < first)
            continue;
        int64_t i = s->piece[l] < first || s->piece[l] > last ? first : s->piece[l];
        double t = s->stage_t[l], sign = c->size[first] >= 0 ? 1 : -1;
        while (i < last && sign * (t - c->start[i + 1]) >= 0)
            i++;
        while (i > first && sign * (t - c->start[i]) < 0)
            i--;
        s->piece[l] = i;
        REAL theta = (REAL)((t - c->start[i]) / c->size[i]);
        const REAL *coef = (const REAL *)c->coef + i * (c->degree + 1) * R;
        for (int64_t r = 0; r < R; r++) {
            REAL v = coef[c->degree * R + r];
            for (int k = c->degree - 1; k >= 0; k--)
                v = v * theta + coef[k * R + r];
            out[r * L + l] = v;
        }
    }
}

/* k = f(stage_t, y). keep: residuals go there (or NULL). */
static void FN(field)(FN(tile) *s, REAL *y, REAL *k, REAL *keep)
{
    const nc_problem *p = s->p;
    if (p->opaque_field) {
        if (!s->failed)
            s->failed = p->opaque_field(p->opaque_ctx, p, s->L, s->stage_t, y, k, s->sample,
                                        s->active);
        return;
    }
    s->base[NC_SP_T] = s->time;
    s->base[NC_SP_Y] = y;
    s->base[NC_SP_OUT] = k;
    s->base[NC_SP_RES] = keep;
    if (p->curve.rows)
        FN(curve_values)(s);
    FN(vm_run)(keep ? &p->field_keep : &p->field, s->base, s->L, NULL);
}

/* The next number in the direction of `way`. */
static REAL FN(next_to)(REAL t, double way)
{
#if defined(NC_REAL_IS_F64)
    return nextafter(t, way > 0 ? HUGE_VAL : -HUGE_VAL);
#else
    return nextafterf(t, way > 0 ? HUGE_VALF : -HUGE_VALF);
#endif
}

/* Time of a stage. With c = 1 it is t_new itself, so that the last derivative of a step and the
 * first of the next have the same bits. A stop is never seen from within a step: at its two ends,
 * and where rounding would put a stage there, the time is the next number inside, so that the field
 * has its one-sided limit. */
static void FN(stage_time)(FN(tile) *s, double c)
{
    for (int64_t l = 0; l < s->L; l++) {
        double t = c == 1.0 ? s->t_new[l] : c == 0.0 ? s->t[l] : s->t[l] + c * s->h[l];
        REAL time = (REAL)t;
        if (s->after_stop[l] && c < 1.0) {
            if (t == s->t[l])
                t = nextafter(t, s->t_new[l]);
            if (time == (REAL)s->t[l])
                time = FN(next_to)(time, s->h[l]);
        }
        if (s->at_stop[l] && c > 0.0) {
            if (t == s->t_new[l])
                t = nextafter(t, s->t[l]);
            if (time == (REAL)s->t_new[l])
                time = FN(next_to)(time, -s->h[l]);
        }
        s->stage_t[l] = t;
        s->time[l] = time;
    }
}

/* out = base + h sum_j w[j] k_j over the first n stages. */
static void FN(combine)(FN(tile) *s, REAL *out, const REAL *base, const double *w, int n)
{
    const REAL *k[NC_MAX_STAGES];
    int m = 0;
    for (int j = 0; j < n; j++)
        if (w[j] != 0.0) {
            for (int64_t l = 0; l < s->L; l++)
                s->coef[m * s->L + l] = (REAL)(s->h[l] * w[j]);
            k[m++] = s->k[j];
        }
    FN(lincomb)(out, base, m, k, s->coef, s->p->dim, s->L);
}

static void FN(rk_stage)(FN(tile) *s, int i, REAL *arg, REAL *keep)
{
    const nc_tableau *m = s->p->method;
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
    const nc_tableau *m = s->p->method;
    int last = m->n_step - 1;
    for (int i = 1; i < last; i++)
        FN(rk_stage)(s, i, s->keep_y[i] ? s->keep_y[i] : s->stage, s->keep_res[i]);
    FN(combine)(s, s->y1, s->y, m->b, last);
}

static void FN(rk_finish)(FN(tile) *s)
{
    int last = s->p->method->n_step - 1;
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

/* The scaled error norm of each lane. part is [8][L], tmp [L]. */
static void FN(rk_error)(FN(tile) *s, double *part, double *tmp, double *err)
{
    const nc_tableau *m = s->p->method;
    const nc_control *c = &s->p->control;
    int64_t D = s->p->dim, L = s->L;
    FN(combine)(s, s->stage, NULL, m->b_err, m->n_step);
    FN(scaled_square)(s->stage, s->y, s->y1, c->atol, c->rtol, D, L, part, err);
    if (m->b_err2) { /* DOP853: |e|^2 / sqrt(|e|^2 + 0.01 |e2|^2) */
        FN(combine)(s, s->stage, NULL, m->b_err2, m->n_step);
        FN(scaled_square)(s->stage, s->y, s->y1, c->atol, c->rtol, D, L, part, tmp);
        for (int64_t l = 0; l < L; l++) {
            double den = err[l] + 0.01 * tmp[l];
            err[l] = den == 0 ? 0 : err[l] / sqrt(den * (double)D);
        }
    } else {
        for (int64_t l = 0; l < L; l++)
            err[l] = sqrt(err[l] / (double)D);
    }
}

/* The stages that only the dense output reads. */
static void FN(rk_dense_stages)(FN(tile) *s)
{
    const nc_tableau *m = s->p->method;
    for (int i = m->n_step; i < m->n_stages; i++)
        FN(rk_stage)(s, i, s->stage, NULL);
}

/* b_i(theta) and its derivative. */
static void FN(rk_weights)(const nc_tableau *m, double theta, double *w, double *dw)
{
    for (int i = 0; i < m->n_stages; i++) {
        const double *P = m->P + i * m->degree;
        double v = 0, d = 0;
        for (int k = m->degree - 1; k >= 0; k--) {
            d = d * theta + (k + 1) * P[k];
            v = v * theta + P[k];
        }
        w[i] = v * theta;
        dw[i] = d;
    }
}

/* out = y(t + theta h), lane by lane; theta 0 where a lane wants nothing. */
static void FN(rk_dense)(FN(tile) *s, const double *theta, REAL *out)
{
    const nc_tableau *m = s->p->method;
    double w[NC_MAX_STAGES], dw[NC_MAX_STAGES];
    const REAL *k[NC_MAX_STAGES];
    for (int64_t l = 0; l < s->L; l++) {
        FN(rk_weights)(m, theta[l], w, dw);
        for (int i = 0; i < m->n_stages; i++)
            s->coef[i * s->L + l] = (REAL)(s->h[l] * w[i]);
    }
    for (int i = 0; i < m->n_stages; i++)
        k[i] = s->k[i];
    FN(lincomb)(out, s->y, m->n_stages, k, s->coef, s->p->dim, s->L);
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* Stage i again, with its residuals. */
static void FN(rk_trace_stage)(FN(tile) *s, int i)
{
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    s->time = s->trace_time[i]; /* the trace keeps each stage's time */
    s->stage_t = s->trace_t[i];
    s->trace_y[i] = s->own_y[i];
    s->trace_res[i] = s->own_res[i];
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
        REAL *time = s->time;
        double *stage_t = s->stage_t;
        s->time = s->trace_time[i];
        s->stage_t = s->trace_t[i];
        s->trace_y[i] = (REAL *)(trace + (i - 1) * bytes);
        s->trace_res[i] = (REAL *)(trace + (i - 1) * bytes + off_res);
        FN(stage_time)(s, s->p->method->c[i]);
        s->time = time;
        s->stage_t = stage_t;
    }
}

/* Pulls the cotangents back through the step (docs/math/discrete-adjoint.md).
 *
 *   kappa_i = kbar_i + h b_i lambda + sum_{j>i} h a_ji ybar_j,   ybar_i = f_y^T kappa_i
 *   lambda <- lambda + sum_i ybar_i
 *
 * lambda [D][L] is the cotangent of y1 on entry; the caller adds sum = sum_i ybar_i to it, in the
 * lanes that moved. kbar[i] (or NULL) is what the outputs gave to k_i, sbar the cotangent of S,
 * added up in float64. time_sum[l] gains sum_i kappa_i . f_t,i and size_sum[l] gains sum_i (kappa_i .
 * k_i / h + c_i kappa_i . f_t,i), each unless NULL. */
static void FN(rk_reverse)(FN(tile) *s, int n, const REAL *lambda, REAL *const *kbar,
                           REAL *const *ybar, REAL *kappa, REAL *sum, REAL *sbar_stage,
                           double *sbar, double *time_sum, double *size_sum, double *part,
                           double *dot, nc_sinks *sinks)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = p->method;
    int64_t D = p->dim, L = s->L;
    int done[NC_MAX_STAGES] = {0};
    for (int i = n - 1; i >= 0; i--) {
        const REAL *v[NC_MAX_STAGES];
        int c = 0;
        if (m->b[i] != 0.0) {
            for (int64_t l = 0; l < L; l++)
                s->coef[c * L + l] = (REAL)(s->h[l] * m->b[i]);
            v[c++] = lambda;
        }
        for (int j = i + 1; j < n; j++) {
            double a = m->A[j * m->n_stages + i];
            if (!done[j] || a == 0.0)
                continue;
            for (int64_t l = 0; l < L; l++)
                s->coef[c * L + l] = (REAL)(s->h[l] * a);
            v[c++] = ybar[j];
        }
        if (c == 0 && !kbar)
            continue;
        done[i] = 1;
        FN(lincomb)(kappa, kbar ? kbar[i] : NULL, c, v, s->coef, D, L);

        REAL *tbar = s->time; /* free during the reverse */
        if (p->opaque_pull) {
            if (!s->failed)
                s->failed = p->opaque_pull(p->opaque_ctx, p, L, s->trace_t[i], s->trace_y[i],
                                           kappa, ybar[i], s->sample, s->active);
        } else {
            s->base[NC_SP_T] = s->trace_time[i];
            s->base[NC_SP_Y] = s->trace_y[i];
            s->base[NC_SP_RES] = s->trace_res[i];
            s->base[NC_SP_CT] = kappa;
            s->base[NC_SP_YBAR] = ybar[i];
            s->base[NC_SP_TBAR] = tbar;
            s->base[NC_SP_SBAR] = sbar_stage;
            FN(vm_run)(&p->reverse, s->base, L, sinks);
        }
        for (int64_t j = 0; j < (int64_t)p->n_sample; j++)
            for (int64_t l = 0; l < L; l++)
                if (s->active[l])
                    sbar[j * L + l] += (double)sbar_stage[j * L + l];
        if (p->time_dependent && time_sum)
            for (int64_t l = 0; l < L; l++) {
                time_sum[l] += (double)tbar[l];
                if (size_sum)
                    size_sum[l] += m->c[i] * (double)tbar[l];
            }
        if (!size_sum)
            continue;
        FN(dot_rows)(kappa, s->k[i], D, L, part, dot);
        for (int64_t l = 0; l < L; l++)
            if (s->h[l] != 0.0)
                size_sum[l] += dot[l] / s->h[l];
    }
    const REAL *all[NC_MAX_STAGES];
    int count = 0;
    for (int i = 0; i < n; i++)
        if (done[i])
            all[count++] = ybar[i];
    for (int64_t j = 0; j < count * L; j++)
        s->coef[j] = 1;
    FN(lincomb)(sum, NULL, count, all, s->coef, D, L);
}

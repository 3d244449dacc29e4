/* What the methods of every family have in common: the tile of a step, the field at a stage, sums of
 * stages, the error norm, dense output, and the pullback of a stage. Nothing here knows samples, outputs
 * or records. */

/* What a cotangent's way back through a step needs and leaves; all [rows][L]. */
typedef struct {
    const REAL *lambda;  /* the cotangent of y1 */
    REAL *const *kbar;   /* what outputs within the step gave to the stages, or NULL */
    REAL *const *ybar;   /* [stages]: f_y^T kappa_i */
    REAL *sum;           /* what is to be added to lambda, in the lanes that moved */
    REAL *kappa, *sbar_stage;
    REAL *carried;       /* in: of the last stage, as the next step's first; out: of the first stage */
    const RINT *moved, *fresh; /* fresh: the first stage is a field value */
    double *sbar;        /* the cotangent of S, added up in float64 */
    double *time_sum, *size_sum; /* dL/dt_n and dL/dh are added, each unless NULL */
    double *part, *dot;
    nc_sinks *sinks, *second_sinks;
} FN(cotangents);

/* Of the implicit families: J and the factors of Newton's matrices of every lane, and what is
 * remembered from step to step; see newton.h. */
typedef struct {
    REAL *jac, *matrix, *lu, *rest, *known, *z, *value;
    REAL *big_matrix, *big_lu, *big; /* of systems of several stages */
    REAL *z3[3], *w3[3], *last_z[3], *stage3[3]; /* radau */
    int32_t *piv, *big_piv;
    int64_t big_dim;
    double *jac_t, *jac_time, *lu_hg, *eta, *last_h, *age;
    REAL *jac_y, *hg, *ones;
    double *size, *size_before, *rate, *sums;
    double *power; /* [3][D], see auto.h */
    int64_t *iterations, *fev, *jev, *factored;
    int64_t *since; /* corrections since the matrix was taken at the iterate; -1: it was not */
    uint8_t *want_jac, *failed, *singular, *stale;
    RINT *ask, *live;
    REAL *columns[NC_N_SPACES]; /* for a lane's Jacobian with its columns as lanes */
} FN(newton);

/* The tile of a step. The arrays are [rows][L]; h is 0 in lanes that are not to move. */
typedef struct FN(tile_) {
    const nc_problem *p;
    const nc_tableau *method;
    const nc_problem *whole;  /* of a sum whose parts are evaluated through this tile: see imex.h */
    struct FN(split_) *split; /* the parts of a sum: see split.h */
    struct FN(expm_) *expm;   /* exponentials of a linear part: see expm.h */
    struct FN(tile_) *other; /* the tile of the method's stiff partner, or NULL; see auto.h */
    RINT *stiff;             /* lanes that are the partner's */
    uint8_t *look, *switched; /* lanes that are yet to be looked at; that went to the partner */
    double *measured; /* rho of this step */
    double *hits, *rho;      /* for the choice: successive steps that speak for the other method */
    int64_t L;
    REAL *y, *y1, *stage;    /* state, new state, a stage's argument */
    REAL *z, *apart;         /* of the coupled scheme: the second state, and z - y; else NULL */
    double *minus_h;
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
    FN(newton) n;
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

/* A node beyond the step must not look beyond the next stop, which the step may not have reached. */
static double FN(before_stop)(const FN(tile) *s, int64_t l, double t)
{
    const nc_problem *p = s->p;
    int64_t b = s->sample[l];
    if (!p->stop_off || b < 0)
        return t;
    for (int64_t i = p->stop_off[b]; i < p->stop_off[b + 1]; i++) {
        double stop = p->stops[i];
        if (s->h[l] * (stop - s->t_new[l]) > 0)
            return s->h[l] * (t - stop) >= 0 ? nextafter(stop, s->t[l]) : t;
    }
    return t;
}

/* Time of a stage. With c = 1 it is t_new itself, so that the last derivative of a step and the
 * first of the next have the same bits. A stop is never seen from within a step: at its two ends,
 * and where rounding would put a stage there, the time is the next number inside, so that the field
 * has its one-sided limit; nor from a node beyond the step, which then stands at its end. */
static void FN(stage_time)(FN(tile) *s, double c)
{
    if (!s->p->stop_off) {
        const double *from = c == 1.0 ? s->t_new : s->t, *h = s->h, part = c == 1.0 ? 0 : c;
        double *restrict stage_t = s->stage_t;
        REAL *restrict time = s->time;
        if (s->L == 1) {
            stage_t[0] = from[0] + part * h[0];
            time[0] = (REAL)stage_t[0];
        }
        for (int64_t l = 0; l + VL <= s->L; l += VL)
            for (int64_t q = l; q < l + VL; q++) {
                stage_t[q] = from[q] + part * h[q];
                time[q] = (REAL)stage_t[q];
            }
        return;
    }
    for (int64_t l = 0; l < s->L; l++) {
        double t = c == 1.0 || (c > 1.0 && s->at_stop[l]) ? s->t_new[l]
                   : c == 0.0                             ? s->t[l]
                                                          : s->t[l] + c * s->h[l];
        int clipped = 0;
        if (c > 1.0) {
            double free = t;
            t = FN(before_stop)(s, l, t);
            clipped = t != free;
        }
        REAL time = (REAL)t;
        if (clipped && s->h[l] * ((double)time - t) > 0) /* rounded to the stop */
            time = FN(next_to)(time, -s->h[l]);
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

/* out = base + h sum_j w[j] k_j over the first n stages; of a Rosenbrock method without the h. */
static void FN(combine)(FN(tile) *s, REAL *out, const REAL *base, const double *w, int n)
{
    const REAL *k[NC_MAX_STAGES];
    int m = 0, increments = s->method->family == NC_ROSENBROCK;
    for (int j = 0; j < n; j++)
        if (w[j] != 0.0) {
            REAL *coef = s->coef + m * s->L;
            if (increments)
                for (int64_t l = 0; l < s->L; l++)
                    coef[l] = (REAL)w[j];
            else
                FN(scale_lanes)(coef, s->h, w[j], s->L);
            k[m++] = s->k[j];
        }
    FN(lincomb)(out, base, m, k, s->coef, s->p->dim, s->L);
}

/* The scaled norm of the error, which stands in `stage`, in each lane. part is [8][L], tmp [L]. */
static void FN(error_norm)(FN(tile) *s, double *part, double *tmp, double *err)
{
    const nc_tableau *m = s->method;
    const nc_control *c = &s->p->control;
    int64_t D = s->p->dim, L = s->L;
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

/* w = b_i(theta), a polynomial of coefficients P, at n numbers theta. */
NC_INLINE void FN(dense_weight)(const double *P, int degree, const double *theta, int n, double *w)
{
    for (int q = 0; q < n; q++)
        w[q] = 0;
    for (int k = degree - 1; k >= 0; k--)
        for (int q = 0; q < n; q++)
            w[q] = w[q] * theta[q] + P[k];
    for (int q = 0; q < n; q++)
        w[q] *= theta[q];
}

/* All b_i(theta), and their derivatives unless dw is NULL. */
static void FN(dense_weights)(const nc_tableau *m, double theta, double *w, double *dw)
{
    for (int i = 0; i < m->n_stages; i++) {
        const double *P = m->P + i * m->degree;
        FN(dense_weight)(P, m->degree, &theta, 1, w + i);
        if (!dw)
            continue;
        dw[i] = 0;
        for (int k = m->degree - 1; k >= 0; k--)
            dw[i] = dw[i] * theta + (k + 1) * P[k];
    }
}

/* out = y(t + theta h), lane by lane; theta 0 where a lane wants nothing. */
static void FN(dense)(FN(tile) *s, const double *theta, REAL *out)
{
    const nc_tableau *m = s->method;
    const REAL *k[NC_MAX_STAGES];
    const double *h = m->family == NC_ROSENBROCK ? NULL : s->h;
    const int64_t L = s->L, each = L == 1 ? 1 : VL;
    for (int i = 0; i < m->n_stages; i++) {
        const double *P = m->P + i * m->degree;
        REAL *coef = s->coef + i * L;
        k[i] = s->k[i];
        for (int64_t l = 0; l < L; l += each) {
            double w[VL];
            if (L == 1)
                FN(dense_weight)(P, m->degree, theta, 1, w);
            else
                FN(dense_weight)(P, m->degree, theta + l, VL, w);
            for (int64_t q = 0; q < each; q++)
                coef[l + q] = (REAL)(h ? h[l + q] * w[q] : w[q]);
        }
    }
    FN(lincomb)(out, s->y, m->n_stages, k, s->coef, s->p->dim, s->L);
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* Where stage i's trace goes: the trace keeps each stage's time, argument and residuals. */
static void FN(own_trace)(FN(tile) *s, int i)
{
    s->trace_y[i] = s->own_y[i];
    s->trace_res[i] = s->own_res[i];
}

/* The time of stage i, c as in stage_time, into its trace. */
static void FN(trace_time)(FN(tile) *s, int i, double c)
{
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    s->time = s->trace_time[i];
    s->stage_t = s->trace_t[i];
    FN(stage_time)(s, c);
    s->time = time;
    s->stage_t = stage_t;
}

/* The field at the traced time and argument of stage i, with its residuals; its value goes to k. */
static void FN(trace_field)(FN(tile) *s, int i, REAL *k)
{
    REAL *time = s->time;
    double *stage_t = s->stage_t;
    s->time = s->trace_time[i];
    s->stage_t = s->trace_t[i];
    FN(field)(s, s->trace_y[i], k, s->trace_res[i]);
    s->time = time;
    s->stage_t = stage_t;
}

/* A program of the reverse phase at the traced stage i has left the cotangents of time and S. */
static void FN(take_slow)(FN(tile) *s, const FN(cotangents) *c, double node)
{
    const nc_problem *p = s->p;
    int64_t L = s->L;
    const REAL *tbar = s->time;
    for (int64_t j = 0; j < (int64_t)p->n_sample; j++)
        for (int64_t l = 0; l < L; l++)
            if (s->active[l])
                c->sbar[j * L + l] += (double)c->sbar_stage[j * L + l];
    if (p->time_dependent && c->time_sum)
        for (int64_t l = 0; l < L; l++) {
            double t = s->t[l] + node * s->h[l];
            if (node > 1.0 && !s->at_stop[l] && FN(before_stop)(s, l, t) != t)
                continue; /* it stands at a stop that does not move */
            c->time_sum[l] += (double)tbar[l];
            if (c->size_sum)
                c->size_sum[l] += (s->at_stop[l] ? fmin(node, 1.0) : node) * (double)tbar[l];
        }
}

static void FN(aim_reverse)(FN(tile) *s, const FN(cotangents) *c, int i, REAL *kappa, REAL *out)
{
    s->base[NC_SP_T] = s->trace_time[i];
    s->base[NC_SP_Y] = s->trace_y[i];
    s->base[NC_SP_RES] = s->trace_res[i];
    s->base[NC_SP_CT] = kappa;
    s->base[NC_SP_YBAR] = out;
    s->base[NC_SP_TBAR] = s->time; /* free during the reverse */
    s->base[NC_SP_SBAR] = c->sbar_stage;
}

/* out = f_y^T kappa at the traced stage i; its other cotangents are added up. */
static void FN(pull_stage)(FN(tile) *s, const FN(cotangents) *c, int i, REAL *kappa, REAL *out)
{
    const nc_problem *p = s->p;
    if (p->opaque_pull) {
        if (!s->failed)
            s->failed = p->opaque_pull(p->opaque_ctx, p, s->L, s->trace_t[i], s->trace_y[i], kappa,
                                       out, s->sample, s->active, 1);
    } else {
        FN(aim_reverse)(s, c, i, kappa, out);
        FN(vm_run)(&p->reverse, s->base, s->L, c->sinks);
    }
    FN(take_slow)(s, c, s->method->c[i]);
}

/* size_sum += scale x . y / h, where h is not zero. */
static void FN(add_size)(FN(tile) *s, const FN(cotangents) *c, const REAL *x, const REAL *y)
{
    if (!c->size_sum)
        return;
    FN(dot_rows)(x, y, s->p->dim, s->L, c->part, c->dot);
    for (int64_t l = 0; l < s->L; l++)
        if (s->h[l] != 0.0)
            c->size_sum[l] += c->dot[l] / s->h[l];
}

/* out = base + h b_i lambda + h sum_{j>i} a_ji ybar_j over the stages j < n that are done: the
 * cotangent of k_i. Returns whether there is anything. */
static int FN(stage_cotangent)(FN(tile) *s, const FN(cotangents) *c, int i, int n, const int *done,
                               REAL *out)
{
    const nc_tableau *m = s->method;
    const REAL *v[NC_MAX_STAGES];
    int64_t L = s->L;
    int count = 0;
    if (m->b[i] != 0.0) {
        FN(scale_lanes)(s->coef + count * L, s->h, m->b[i], L);
        v[count++] = c->lambda;
    }
    for (int j = i + 1; j < n; j++) {
        double a = m->A[j * m->n_stages + i];
        if (!done[j] || a == 0.0)
            continue;
        FN(scale_lanes)(s->coef + count * L, s->h, a, L);
        v[count++] = c->ybar[j];
    }
    if (count == 0 && !c->kbar)
        return 0;
    FN(lincomb)(out, c->kbar ? c->kbar[i] : NULL, count, v, s->coef, s->p->dim, L);
    return 1;
}

/* sum = sum of ybar over the stages that are done. */
static void FN(sum_stages)(FN(tile) *s, const FN(cotangents) *c, int n, const int *done)
{
    const REAL *all[NC_MAX_STAGES];
    int count = 0;
    for (int i = 0; i < n; i++)
        if (done[i])
            all[count++] = c->ybar[i];
    for (int64_t j = 0; j < count * s->L; j++)
        s->coef[j] = 1;
    FN(lincomb)(c->sum, NULL, count, all, s->coef, s->p->dim, s->L);
}

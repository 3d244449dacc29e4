/* ETDRK4 for y' = A y + g(t, y) (Cox & Matthews 2002; docs/math/splitting.md, 4). With X = h A and g_i = g at
 * stage i,
 *
 *   a  = exp(X/2) y + h/2 phi_1(X/2) g_0        g_1 at a, t + h/2
 *   b  = exp(X/2) y + h/2 phi_1(X/2) g_1        g_2 at b, t + h/2
 *   c  = exp(X/2) a + h/2 phi_1(X/2) (2 g_2 - g_0)   g_3 at c, t + h
 *   y1 = exp(X) y + h (f_1(X) g_0 + 2 f_2(X) (g_1 + g_2) + f_3(X) g_3)
 *
 * The first part's tile has the functions of X, the second's the stages, at the nodes of its tableau.
 * Nothing is handed on. */

/* out = base + f h x */
static void FN(etd_add)(FN(tile) *s, REAL *out, const REAL *base, double f, const REAL *x)
{
    const REAL *v[1] = {x};
    for (int64_t l = 0; l < s->L; l++)
        s->coef[l] = (REAL)(f * s->h[l]);
    FN(lincomb)(out, base, 1, v, s->coef, s->p->dim, s->L);
}

/* out = x a + y b */
static void FN(etd_mix)(FN(tile) *s, REAL *out, double x, const REAL *a, double y, const REAL *b)
{
    for (int64_t i = 0; i < s->p->dim * s->L; i++)
        out[i] = (REAL)x * a[i] + (REAL)y * b[i];
}

/* g at stage i; keep: with its trace. */
static void FN(etd_stage)(FN(tile) *v, int i, REAL *arg, int keep)
{
    if (keep) {
        FN(own_trace)(v, i);
        memcpy(v->own_y[i], arg, (size_t)(v->p->dim * v->L) * sizeof(REAL));
        FN(trace_time)(v, i, v->method->c[i]);
        FN(trace_field)(v, i, v->k[i]);
    } else {
        FN(stage_time)(v, v->method->c[i]);
        FN(field)(v, arg, v->k[i], NULL);
    }
}

/* The stages, and with `out` the new state. */
static void FN(etd_stages)(FN(tile) *s, int keep, REAL *out)
{
    FN(split) *w = s->split;
    FN(tile) *u = w->sub, *v = w->sub + 1;
    REAL **g = v->k, *half = w->etd[0], *a = w->etd[1], *b = w->etd[2], *c = w->etd[3];
    REAL *mixed = w->etd[4], *rest = w->etd[5];
    FN(aim_flow)(s, 0, 0);
    FN(aim_flow)(s, 1, 0);
    if (u->expm->values)
        FN(expm_numbers)(u);
    FN(etd_stage)(v, 0, s->y, keep);
    FN(expm_apply)(u, PHI_HALF_EXP, 1, s->y, half, 0);
    FN(expm_apply)(u, PHI_HALF, 1, g[0], rest, 0);
    FN(etd_add)(s, a, half, 0.5, rest);
    FN(etd_stage)(v, 1, a, keep);
    FN(expm_apply)(u, PHI_HALF, 1, g[1], rest, 0);
    FN(etd_add)(s, b, half, 0.5, rest);
    FN(etd_stage)(v, 2, b, keep);
    FN(etd_mix)(s, mixed, 2, g[2], -1, g[0]);
    FN(expm_apply)(u, PHI_HALF, 1, mixed, rest, 0);
    FN(expm_apply)(u, PHI_HALF_EXP, 1, a, half, 0);
    FN(etd_add)(s, c, half, 0.5, rest);
    FN(etd_stage)(v, 3, c, keep);
    if (!out)
        return;
    FN(expm_apply)(u, PHI_EXP, 1, s->y, half, 0);
    FN(expm_apply)(u, PHI_FIRST, 1, g[0], rest, 0);
    FN(etd_add)(s, half, half, 1, rest);
    FN(etd_mix)(s, mixed, 1, g[1], 1, g[2]);
    FN(expm_apply)(u, PHI_MIDDLE, 1, mixed, rest, 0);
    FN(etd_add)(s, half, half, 2, rest);
    FN(expm_apply)(u, PHI_LAST, 1, g[3], rest, 0);
    FN(etd_add)(s, out, half, 1, rest);
}

static void FN(etd_step)(FN(tile) *s)
{
    FN(etd_stages)(s, 0, s->y1);
    for (int64_t l = 0; l < s->L; l++)
        s->n.fev[l] += 4;
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* A term x = f h^power F v of the step, with bar the cotangent of x: out = f h^power F^T bar, and F's
 * share goes to A. */
static void FN(etd_pull)(FN(tile) *s, int kind, double f, int power, const REAL *bar, const REAL *v,
                         REAL *out)
{
    FN(split) *w = s->split;
    FN(tile) *u = w->sub;
    for (int64_t l = 0; l < s->L; l++)
        w->scale[l] = power ? f * s->h[l] : f;
    FN(expm_gather)(u, kind, 1, w->scale, bar, v, w->sinks[0].acc);
    FN(expm_apply)(u, kind, 1, bar, out, 1);
    for (int64_t r = 0; r < s->p->dim; r++)
        for (int64_t l = 0; l < s->L; l++)
            out[r * s->L + l] *= (REAL)w->scale[l];
}

static void FN(etd_plus)(FN(tile) *s, REAL *sum, const REAL *x)
{
    for (int64_t i = 0; i < s->p->dim * s->L; i++)
        sum[i] += x[i];
}

static void FN(etd_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    FN(split) *w = s->split;
    FN(tile) *v = w->sub + 1;
    size_t bytes = (size_t)(s->p->dim * s->L) * sizeof(REAL);
    REAL **g = v->k, *a = w->etd[1], *mixed = w->etd[4], *rest = w->etd[5], *arg = w->etd[6];
    REAL *bar[4] = {w->ybar[0], w->ybar[1], w->ybar[2], w->ybar[3]}; /* of g_i */
    REAL *y = w->lambda, *abar = w->etd[7];
    FN(cotangents) own = *c;
    own.sinks = w->sinks + 1;
    own.second_sinks = w->second_sinks + 1;
    own.time_sum = own.size_sum = NULL;
    FN(etd_stages)(s, 1, NULL);
    /* y1 */
    FN(etd_pull)(s, PHI_EXP, 1, 0, c->lambda, s->y, y);
    FN(etd_pull)(s, PHI_FIRST, 1, 1, c->lambda, g[0], bar[0]);
    FN(etd_mix)(s, mixed, 1, g[1], 1, g[2]);
    FN(etd_pull)(s, PHI_MIDDLE, 2, 1, c->lambda, mixed, bar[1]);
    memcpy(bar[2], bar[1], bytes);
    FN(etd_pull)(s, PHI_LAST, 1, 1, c->lambda, g[3], bar[3]);
    /* c */
    FN(keep_moved)(s, bar[3], c->moved);
    FN(pull_stage)(v, &own, 3, bar[3], arg);
    FN(etd_mix)(s, mixed, 2, g[2], -1, g[0]);
    FN(etd_pull)(s, PHI_HALF, 0.5, 1, arg, mixed, rest);
    FN(etd_mix)(s, bar[2], 1, bar[2], 2, rest);
    FN(etd_mix)(s, bar[0], 1, bar[0], -1, rest);
    FN(etd_pull)(s, PHI_HALF_EXP, 1, 0, arg, a, abar);
    /* b */
    FN(keep_moved)(s, bar[2], c->moved);
    FN(pull_stage)(v, &own, 2, bar[2], arg);
    FN(etd_pull)(s, PHI_HALF, 0.5, 1, arg, g[1], rest);
    FN(etd_plus)(s, bar[1], rest);
    FN(etd_pull)(s, PHI_HALF_EXP, 1, 0, arg, s->y, rest);
    FN(etd_plus)(s, y, rest);
    /* a */
    FN(keep_moved)(s, bar[1], c->moved);
    FN(pull_stage)(v, &own, 1, bar[1], arg);
    FN(etd_plus)(s, abar, arg);
    FN(etd_pull)(s, PHI_HALF, 0.5, 1, abar, g[0], rest);
    FN(etd_plus)(s, bar[0], rest);
    FN(etd_pull)(s, PHI_HALF_EXP, 1, 0, abar, s->y, rest);
    FN(etd_plus)(s, y, rest);
    /* y */
    FN(keep_moved)(s, bar[0], c->moved);
    FN(pull_stage)(v, &own, 0, bar[0], arg);
    FN(etd_plus)(s, y, arg);
    memcpy(c->sum, y, bytes);
}

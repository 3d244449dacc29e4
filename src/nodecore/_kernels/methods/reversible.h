/* The coupled scheme of McCallum & Foster (docs/math/reversible-adjoint.md), around any explicit method.
 * A second state z travels with y, and Psi is the increment of the method's step:
 *
 *   y+ = l y + (1 - l) z + Psi_h(t, z),      z+ = z - Psi_-h(t + h, y+)
 *
 * so that a step can be undone: z from y+, then y from z. Both increments are steps of the tile, whose
 * pointers are exchanged for them: `ahead` starts from z, `turned` from the new state, backwards. */

/* Psi_h starts from z. */
static void FN(ahead)(FN(tile) *s)
{
    REAL *y = s->y;
    s->y = s->z;
    s->z = y;
}

/* Psi_-h goes from the step's end to its start; of stops too the two ends are exchanged. */
static void FN(turn)(FN(tile) *s)
{
    double *t = s->t, *h = s->h;
    uint8_t *stop = s->at_stop;
    for (int64_t l = 0; l < s->L; l++)
        s->minus_h[l] = -h[l];
    s->t = s->t_new;
    s->t_new = t;
    s->h = s->minus_h;
    s->minus_h = h;
    s->at_stop = s->after_stop;
    s->after_stop = stop;
}

/* 1 - l in the element type: as y and z are close, its rounding does not matter. */
static REAL FN(pull_to_z)(const FN(tile) *s)
{
    return (REAL)(1.0 - s->p->control.coupling);
}

/* Stages first .. n - 1 of Psi_h(t, z). */
static void FN(coupled_stages)(FN(tile) *s, int first, int n)
{
    FN(ahead)(s);
    for (int i = first; i < n; i++)
        FN(rk_stage)(s, i, s->stage, NULL);
    FN(ahead)(s);
}

/* out += scale (z - y), the scale lane by lane. */
static void FN(add_apart)(FN(tile) *s, const double *scale, REAL *out)
{
    const REAL *apart[1] = {s->apart};
    for (int64_t l = 0; l < s->L; l++)
        s->coef[l] = FN(pull_to_z)(s) * (REAL)(scale ? scale[l] : 1.0);
    FN(lincomb)(out, out, 1, apart, s->coef, s->p->dim, s->L);
}

/* y1 = y + (1 - l) (z - y) + Psi_h(t, z) */
static void FN(coupled_step)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    FN(coupled_stages)(s, 0, m->n_step - 1);
    for (int64_t j = 0; j < s->p->dim * s->L; j++)
        s->apart[j] = s->z[j] - s->y[j];
    FN(combine)(s, s->y1, s->y, m->b, m->n_step - 1);
    FN(add_apart)(s, NULL, s->y1);
}

/* Behind an accepted step, when y is the new state: z goes along in the lanes that moved. */
static void FN(coupled_advance)(FN(tile) *s, const RINT *moved)
{
    const nc_tableau *m = s->method;
    FN(turn)(s);
    for (int i = 0; i < m->n_step - 1; i++)
        FN(rk_stage)(s, i, s->stage, NULL);
    FN(turn)(s);
    FN(combine)(s, s->stage, s->z, m->b, m->n_step - 1);
    FN(select_lanes)(s->z, s->stage, moved, s->p->dim, s->L);
}

/* The parasitic mode: out[l] = the norm of y - z, where 1 is too much: a hundred tolerances, atol + rtol
 * times the norm of y, or of what eight steps change it by (where the state passes zero). Fixed steps
 * have no tolerance: half of that norm is too much. Norms of the whole state, since a component that
 * passes zero says nothing. Behind coupled_advance, which leaves f(t + h, y) in k[0]. part is [8][L],
 * tmp [2][pad]. */
static void FN(coupled_apart)(FN(tile) *s, double *part, double *tmp, int64_t pad, double *out)
{
    const nc_control *c = &s->p->control;
    int64_t D = s->p->dim, L = s->L;
    int adaptive = c->mode == NC_ADAPTIVE;
    double *state = tmp, *change = tmp + pad, rtol = adaptive ? c->rtol : 5e-3, atol = 0;
    for (int64_t i = 0; i < D && adaptive; i++) {
        double a = (double)((const REAL *)c->atol)[i];
        atol += a * a;
    }
    atol = sqrt(atol);
    for (int64_t j = 0; j < D * L; j++)
        s->stage[j] = s->y[j] - s->z[j];
    FN(dot_rows)(s->stage, s->stage, D, L, part, out);
    FN(dot_rows)(s->y, s->y, D, L, part, state);
    FN(dot_rows)(s->k[0], s->k[0], D, L, part, change);
    for (int64_t l = 0; l < L; l++) {
        double h = 8.0 * s->h[l], size = sqrt(fmax(state[l], h * h * change[l]));
        out[l] = out[l] == 0.0 ? 0.0 : sqrt(out[l]) / (100.0 * (atol + rtol * size));
    }
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* From (y+, z+) to (y+, z); the trace of Psi_-h is there then. The tile is turned. */
static void FN(undo_z)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    FN(rk_trace)(s, m->n_step - 1);
    FN(combine)(s, s->z, s->z, m->b, m->n_step - 1);
}

/* From (y+, z) to (y, z); the trace of Psi_h is there then. The tile is `ahead`: its y is z. */
static void FN(undo_y)(FN(tile) *s)
{
    const nc_tableau *m = s->method;
    const REAL *z = s->y, inverse = 1 / (1 - FN(pull_to_z)(s));
    REAL *y = s->z;
    FN(rk_trace)(s, m->n_step - 1);
    FN(combine)(s, s->y1, NULL, m->b, m->n_step - 1);
    for (int64_t j = 0; j < s->p->dim * s->L; j++) {
        REAL away = (y[j] - z[j] - s->y1[j]) * inverse; /* y - z */
        y[j] = z[j] + away;
        s->apart[j] = -away;
    }
}

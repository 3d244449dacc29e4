/* A choice between an explicit and a stiff method, lane by lane, with hysteresis (docs/math/
 * implicit-methods.md, 6). Each has a tile of its own; they share t, y and the stage's work space, and
 * each step of the tile is made by both under complementary masks.
 *
 * A lane is suspected where h rho is near the explicit method's limit of stability NC_STIFF_HITS times in
 * a row, with rho of stage_radius. That costs nothing, but misses the radius where other components are as large: so the Jacobian decides, by
 * a power iteration. The explicit method is taken up again where h times the radius was well inside
 * NC_CALM_HITS times in a row. Norms are those of the tolerance. */
#ifndef NC_AUTO_LIMITS
#define NC_AUTO_LIMITS
enum { NC_STIFF_HITS = 10, NC_CALM_HITS = 5, NC_COOL_DOWN = 100 };
#endif

/* The partner sees the step and the state of the tile, in its own lanes. */
static int FN(auto_share)(FN(tile) *s)
{
    FN(tile) *o = s->other;
    int stiff = 0;
    o->y = s->y;
    for (int64_t l = 0; l < s->L; l++) {
        int own = s->active[l] && s->stiff[l];
        o->active[l] = (uint8_t)own;
        o->h[l] = own ? s->h[l] : 0;
        stiff += own;
    }
    return stiff;
}

static int FN(any_explicit)(const FN(tile) *s)
{
    if (!s->other)
        return 1;
    for (int64_t l = 0; l < s->L; l++)
        if (s->active[l] && !s->stiff[l])
            return 1;
    return 0;
}

/* The spectral radius of J by a few power iterations from f, in the tolerance's norm at y; *real is the
 * Rayleigh quotient at their end: about minus the radius if the dominant mode is damped, about 0 if it
 * oscillates. */
static double FN(dominant)(const FN(tile) *o, const REAL *y, const REAL *f, int64_t l, double *real)
{
    const nc_control *c = &o->p->control;
    const REAL *atol = c->atol, *J = o->n.jac;
    int64_t D = o->p->dim, L = o->L;
    double *w = o->n.power, *v = w + D, *x = v + D, size = 0, radius = 0;
    for (int64_t i = 0; i < D; i++) {
        w[i] = (double)atol[i] + c->rtol * fabs((double)y[i * L + l]);
        w[i] = w[i] > 0 ? w[i] : DBL_MIN;
        v[i] = (double)f[i * L + l] / w[i] + (i & 1 ? -1e-3 : 1e-3);
        size += v[i] * v[i];
    }
    *real = 0;
    for (int round = 0; round < 8 && size > 0 && size < HUGE_VAL; round++) {
        double norm = 1 / sqrt(size);
        for (int64_t i = 0; i < D; i++)
            v[i] *= norm;
        size = *real = 0;
        for (int64_t i = 0; i < D; i++) {
            x[i] = 0;
            for (int64_t j = 0; j < D; j++)
                x[i] += (double)J[(i * D + j) * L + l] * (w[j] / w[i]) * v[j];
            size += x[i] * x[i];
            *real += x[i] * v[i];
        }
        radius = sqrt(size);
        memcpy(v, x, (size_t)D * sizeof(double));
    }
    return radius;
}

/* The lane goes to the other method. Its first derivative there is a value of the field. */
static void FN(auto_give)(FN(tile) *s, int64_t l, int stiff)
{
    FN(tile) *o = s->other;
    s->stiff[l] = stiff ? -1 : 0;
    s->hits[l] = 0;
    if (stiff) {
        FN(lane_copy)(o->k[0], l, s->k[0], l, s->p->dim, s->L);
        FN(newton_start)(o, l);
    }
}

/* Lanes at their first step, and those under suspicion: one whose accuracy allows steps beyond stability
 * is stiff. */
static void FN(auto_look)(FN(tile) *s)
{
    FN(tile) *o = s->other;
    int any = 0;
    for (int64_t l = 0; l < s->L; l++) {
        int suspect = !s->stiff[l] && s->hits[l] >= NC_STIFF_HITS;
        o->n.ask[l] = s->active[l] && (s->look[l] || suspect) ? -1 : 0;
        any |= o->n.ask[l] != 0;
    }
    if (!any)
        return;
    for (int64_t l = 0; l < s->L; l++)
        o->active[l] = o->n.ask[l] != 0;
    o->y = s->y;
    FN(newton_jacobian)(o, o->n.ask);
    for (int64_t l = 0; l < s->L; l++)
        if (o->n.ask[l]) {
            double real, limit = (s->look[l] ? 2 : 0.5) * s->method->real_limit;
            FN(dominant)(o, s->y, s->k[0], l, &real);
            int stiff = -s->h[l] * real > limit;
            s->switched[l] = stiff && !s->look[l];
            s->look[l] = 0;
            if (stiff)
                FN(auto_give)(s, l, 1);
            else
                s->hits[l] = -NC_COOL_DOWN;
        }
}

static void FN(auto_step)(FN(tile) *s, double *part)
{
    FN(tile) *o = s->other;
    FN(auto_look)(s);
    int stiff = FN(auto_share)(s);
    if (FN(any_explicit)(s))
        FN(rk_step)(s);
    if (stiff) {
        FN(dirk_step)(o, part);
        FN(select_lanes)(s->y1, o->y1, s->stiff, s->p->dim, s->L);
    }
}

/* After an accepted step of size h: whether the lane is the other method's from now on. */
static int FN(auto_choose)(FN(tile) *s, int64_t l, double h)
{
    double limit = s->method->real_limit, real;
    if (!s->stiff[l]) { /* auto_look decides */
        s->hits[l] = s->hits[l] < 0 || fabs(h) * s->rho[l] > 0.4 * limit ? s->hits[l] + 1 : 0;
        return 0;
    }
    if (s->other->n.age[l] <= 1) /* a new Jacobian */
        s->rho[l] = FN(dominant)(s->other, s->y, s->other->k[0], l, &real);
    s->hits[l] = fabs(h) * s->rho[l] < 0.5 * limit ? s->hits[l] + 1 : 0;
    return s->hits[l] >= NC_CALM_HITS;
}

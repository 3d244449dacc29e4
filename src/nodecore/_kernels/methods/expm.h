/* The flow of a linear part, y' = A y: y1 = exp(h A) y (docs/math/splitting.md).
 *
 * A stands in the uniform space: [D][D], or its diagonal [D]. Exponentials of dense matrices are kept,
 * as many as there is room for, each with what the backward pass has gathered for it: the sum of lambda
 * y^T over the steps that it served. An exponential integrator (etd.h) keeps the N_PHI functions that it
 * needs in the same way; of a diagonal they are made anew at each step. */

enum { FN(EXPM_MOST) = 16 };

typedef struct FN(expm_) {
    int slots, used, kinds;    /* kinds: of functions of h A, 1 or N_PHI */
    int64_t P, clock;
    double key[FN(EXPM_MOST)]; /* the step size */
    int64_t stamp[FN(EXPM_MOST)];
    uint8_t gathered[FN(EXPM_MOST)];
    REAL *rows, *cols;         /* exp(h A) by rows, by columns; [slots][kinds][P][P] */
    double *bar;               /* [slots][kinds][P][P] */
    double *X, *G, *E, *dE, *work;
    REAL *values, *slopes;     /* of a diagonal: [N_PHI][D][L] */
    REAL *in, *out;            /* one lane */
    double *acc;               /* where the cotangent of A is added up, or NULL */
} FN(expm);

static size_t FN(expm_memory)(FN(tile) *s, char *base, size_t used, int backward)
{
    const nc_problem *p = s->p;
    FN(expm) local = {0}, *x;
    int64_t D = p->dim, P = expm_pitch(D), n = P * P;
    int derivative = backward && p->matrix_acc >= 0, phis = s->method->degree > 0;
    NC_TAKE(s->expm, 1);
    if (base)
        *s->expm = local;
    x = base ? s->expm : &local;
    x->kinds = phis ? N_PHI : 1;
    if (p->matrix_kind != NC_MATRIX_DENSE) {
        if (phis) {
            NC_TAKE(x->values, N_PHI * D * s->L + FN(SLACK));
            NC_TAKE(x->slopes, N_PHI * D * s->L + FN(SLACK));
        }
        return used;
    }
    n *= x->kinds;
    int64_t room = (int64_t)(48 << 20) / (n * (2 * (int64_t)sizeof(REAL) + 8));
    x->slots = room < 4 ? 4 : room > FN(EXPM_MOST) ? FN(EXPM_MOST) : (int)room;
    x->P = P;
    NC_TAKE(x->rows, n * x->slots);
    NC_TAKE(x->cols, n * x->slots);
    NC_TAKE(x->X, P * P);
    NC_TAKE(x->E, n);
    NC_TAKE(x->work, expm_work(D, phis, derivative));
    NC_TAKE(x->in, P + FN(SLACK));
    NC_TAKE(x->out, P + FN(SLACK));
    if (derivative) {
        NC_TAKE(x->bar, n * x->slots);
        NC_TAKE(x->G, P * P);
        NC_TAKE(x->dE, n);
    }
    return used;
}

/* X = h A, or its transpose. */
static void FN(expm_matrix)(FN(tile) *s, double h, int transposed)
{
    FN(expm) *x = s->expm;
    const REAL *A = s->base[NC_SP_U] + s->p->matrix_at;
    int64_t D = s->p->dim, P = x->P;
    memset(x->X, 0, (size_t)(P * P) * sizeof(double));
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            x->X[transposed ? j * P + i : i * P + j] = h * (double)A[i * D + j];
}

/* What the steps with this slot's exponential have gathered goes to A:
 * A_bar += h L(h A^T, sum lambda y^T), L the derivative of exp. */
static void FN(expm_settle)(FN(tile) *s, int slot)
{
    FN(expm) *x = s->expm;
    int64_t D = s->p->dim, P = x->P, n = P * P;
    if (!x->bar || !x->gathered[slot])
        return;
    double *acc = x->acc + s->p->matrix_acc;
    for (int kind = 0; kind < x->kinds; kind++) { /* each function's derivative along its own sum */
        FN(expm_matrix)(s, x->key[slot], 1);
        memcpy(x->G, x->bar + (slot * x->kinds + kind) * n, (size_t)n * sizeof(double));
        if (x->kinds > 1)
            phi_frechet(x->X, x->G, x->E, x->dE, P, x->work);
        else
            expm_frechet(x->X, x->G, x->E, x->dE, P, x->work);
        const double *dE = x->dE + kind * n;
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++)
                acc[i * D + j] += x->key[slot] * dE[i * P + j];
    }
    x->gathered[slot] = 0;
}

/* A chunk begins or ends: nothing is kept between chunks, so that sums do not depend on which of them a
 * thread has seen. */
static void FN(expm_settle_all)(FN(tile) *s)
{
    for (int i = 0; i < s->expm->used; i++)
        FN(expm_settle)(s, i);
    s->expm->used = 0;
    s->expm->clock = 0;
}

static int FN(expm_slot)(FN(tile) *s, double h)
{
    FN(expm) *x = s->expm;
    int64_t D = s->p->dim, P = x->P, n = P * P * x->kinds;
    int at = 0;
    x->clock++;
    for (int i = 0; i < x->used; i++) {
        if (x->key[i] == h) {
            x->stamp[i] = x->clock;
            return i;
        }
        if (x->stamp[i] < x->stamp[at])
            at = i;
    }
    if (x->used < x->slots)
        at = x->used++;
    else
        FN(expm_settle)(s, at);
    x->key[at] = h;
    x->stamp[at] = x->clock;
    x->gathered[at] = 0;
    if (x->bar)
        memset(x->bar + at * n, 0, (size_t)n * sizeof(double));
    FN(expm_matrix)(s, h, 0);
    if (x->kinds > 1)
        phi_frechet(x->X, NULL, x->E, NULL, P, x->work);
    else
        expm_frechet(x->X, NULL, x->E, NULL, P, x->work);
    REAL *rows = x->rows + at * n, *cols = x->cols + at * n;
    memset(rows, 0, (size_t)n * sizeof(REAL));
    memset(cols, 0, (size_t)n * sizeof(REAL));
    for (int64_t kind = 0; kind < n; kind += P * P)
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++)
                rows[kind + i * P + j] = cols[kind + j * P + i] = (REAL)x->E[kind + i * P + j];
    return at;
}

/* out[r] = sum_c M[c][r] in[c], ascending c: M by columns, one lane. */
static void FN(expm_lane)(const REAL *M, const REAL *in, REAL *out, int64_t D, int64_t P)
{
    for (int64_t r = 0; r < D; r += 4 * VL) { /* P is a multiple of 16; behind D stand zeros */
        int n = P - r < 4 * VL ? (int)((P - r) / VL) : 4;
        VF a[4];
        for (int q = 0; q < 4; q++)
            a[q] = vset1(0);
        for (int64_t c = 0; c < D; c++) {
            VF v = vset1(in[c]);
            for (int q = 0; q < n; q++)
                a[q] = vfma(vload(M + c * P + r + q * VL), v, a[q]);
        }
        for (int q = 0; q < n; q++)
            vstore(out + r + q * VL, a[q]);
    }
}

/* The same for a tile whose lanes share M, which is by rows here: out[r][l] = sum_c M[r][c] in[c][l]. */
static void FN(expm_tile)(const REAL *M, const REAL *in, REAL *out, int64_t D, int64_t P, int64_t L)
{
    for (int64_t l = 0; l < L; l += VL)
        for (int64_t r = 0; r < D; r += 4) {
            int n = D - r < 4 ? (int)(D - r) : 4;
            VF a[4];
            for (int q = 0; q < 4; q++)
                a[q] = vset1(0);
            for (int64_t c = 0; c < D; c++) {
                VF v = vload(in + c * L + l);
                for (int q = 0; q < n; q++)
                    a[q] = vfma(vset1(M[(r + q) * P + c]), v, a[q]);
            }
            for (int q = 0; q < n; q++)
                vstore(out + (r + q) * L + l, a[q]);
        }
}

/* The step size of which the lane's exponential is taken. On a fixed grid the steps' sizes differ by the
 * rounding of the times; they are all taken to be the first one's, so that one exponential serves, and
 * the sum of the sizes is as exact as the times are. A function of the sample alone. */
static double FN(expm_size)(const FN(tile) *s, int64_t l, double fraction)
{
    const nc_problem *p = s->p;
    const nc_control *c = &p->control;
    int64_t b = s->sample[l];
    double h = s->h[l], nominal = 0;
    if (b < 0)
        return h;
    const double *t = p->t + p->t_off[b];
    if (c->dt > 0)
        nominal = copysign(c->dt * fraction, h);
    else if (c->n_sub > 0)
        nominal = (t[1] - t[0]) / c->n_sub * fraction;
    double rounding = 4 * DBL_EPSILON * (fabs(s->t[l]) + fabs(s->t_new[l]));
    return fabs(h - nominal) <= rounding * fabs(fraction) ? nominal : h;
}

/* The functions of a diagonal at the lanes' step sizes, for expm_apply. */
static void FN(expm_numbers)(FN(tile) *s)
{
    FN(expm) *x = s->expm;
    const REAL *a = s->base[NC_SP_U] + s->p->matrix_at;
    int64_t D = s->p->dim, L = s->L;
    for (int64_t r = 0; r < D; r++)
        for (int64_t l = 0; l < L; l++) {
            double F[N_PHI], dF[N_PHI];
            phi_numbers((double)a[r] * s->h[l], F, dF);
            for (int kind = 0; kind < N_PHI; kind++) {
                x->values[(kind * D + r) * L + l] = (REAL)F[kind];
                x->slopes[(kind * D + r) * L + l] = (REAL)(s->h[l] * dF[kind]);
            }
        }
}

/* out = F y or F^T y, F one kind of function of h A: exp, or one of the N_PHI; lanes with h = 0 are
 * copied. fraction: of the whole step. */
static void FN(expm_apply)(FN(tile) *s, int kind, double fraction, const REAL *y, REAL *out,
                           int transposed)
{
    const nc_problem *p = s->p;
    FN(expm) *x = s->expm;
    int64_t D = p->dim, L = s->L;
    if (x->values) {
        for (int64_t i = 0; i < D * L; i++)
            out[i] = x->values[kind * D * L + i] * y[i];
        return;
    }
    if (p->matrix_kind == NC_MATRIX_DIAGONAL) {
        const REAL *a = s->base[NC_SP_U] + p->matrix_at;
        REAL *h = s->coef;
        for (int64_t l = 0; l < L; l++)
            h[l] = (REAL)s->h[l];
        if (L == 1)
            for (int64_t r = 0; r < D; r += VL) {
                int n = D - r < VL ? (int)(D - r) : VL; /* vload_n is for less than a vector */
                VF rate = n < VL ? vload_n(a + r, n) : vload(a + r);
                VF value = v_exp(rate * vset1(h[0])) * (n < VL ? vload_n(y + r, n) : vload(y + r));
                if (n < VL)
                    vstore_n(out + r, value, n);
                else
                    vstore(out + r, value);
            }
        else
            for (int64_t l = 0; l < L; l += VL)
                for (int64_t r = 0; r < D; r++)
                    vstore(out + r * L + l,
                           v_exp(vset1(a[r]) * vload(h + l)) * vload(y + r * L + l));
        return;
    }
    int64_t P = x->P, n = P * P;
    double common = 0;
    int same = 1;
    for (int64_t l = 0; l < L; l++) {
        double h = s->h[l] == 0 ? 0 : FN(expm_size)(s, l, fraction);
        if (h == 0)
            continue;
        same &= common == 0 || h == common;
        common = h;
    }
    if (common == 0) {
        memcpy(out, y, (size_t)(D * L) * sizeof(REAL));
        return;
    }
    if (same && L > 1) {
        int64_t at = (FN(expm_slot)(s, common) * x->kinds + kind) * n;
        FN(expm_tile)((transposed ? x->cols : x->rows) + at, y, out, D, P, L);
        for (int64_t l = 0; l < L; l++)
            if (s->h[l] == 0)
                FN(lane_copy)(out, l, y, l, D, L);
        return;
    }
    for (int64_t l = 0; l < L; l++) {
        if (s->h[l] == 0) {
            FN(lane_copy)(out, l, y, l, D, L);
            continue;
        }
        int64_t at = (FN(expm_slot)(s, FN(expm_size)(s, l, fraction)) * x->kinds + kind) * n;
        FN(lane_out)(x->in, y, D, L, l);
        FN(expm_lane)((transposed ? x->rows : x->cols) + at, x->in, x->out, D, P);
        FN(lane_in)(out, x->out, D, L, l);
    }
}

/* What out = F y gives to A, with lambda the cotangent of out: of a matrix it is gathered (expm_settle), of a
 * diagonal added to acc; scale [L] stands before both, NULL: 1. */
static void FN(expm_gather)(FN(tile) *s, int kind, double fraction, const double *scale,
                            const REAL *lambda, const REAL *y, double *acc)
{
    const nc_problem *p = s->p;
    FN(expm) *x = s->expm;
    int64_t D = p->dim, L = s->L;
    if (p->matrix_acc < 0)
        return;
    for (int64_t l = 0; l < L; l++) {
        double f = scale ? scale[l] : 1;
        if (s->h[l] == 0)
            continue;
        if (p->matrix_kind == NC_MATRIX_DIAGONAL) { /* exp: its slope times y is h times its value */
            const REAL *slope = x->values ? x->slopes + kind * D * L : NULL;
            for (int64_t i = 0; i < D; i++) {
                int64_t e = i * L + l;
                double v = slope ? (double)slope[e] * (double)y[e] : s->h[l] * (double)s->y1[e];
                acc[p->matrix_acc + i] += f * ((double)lambda[e] * v);
            }
            continue;
        }
        x->acc = acc;
        int slot = FN(expm_slot)(s, FN(expm_size)(s, l, fraction));
        double *bar = x->bar + (int64_t)(slot * x->kinds + kind) * x->P * x->P;
        for (int64_t j = 0; j < D; j++)
            x->G[j] = f * (double)y[j * L + l];
        for (int64_t i = 0; i < D; i++) {
            double v = (double)lambda[i * L + l];
            for (int64_t j = 0; j < D; j++)
                bar[i * x->P + j] += v * x->G[j];
        }
        x->gathered[slot] = 1;
    }
}

/* size_sum += lambda . A y1: what y1 = exp(h A) y gives to h. */
static void FN(expm_pull_size)(FN(tile) *s, const REAL *lambda, double *size_sum)
{
    const nc_problem *p = s->p;
    const REAL *A = s->base[NC_SP_U] + p->matrix_at;
    int64_t D = p->dim, L = s->L;
    for (int64_t l = 0; l < L; l++) {
        double slope = 0;
        for (int64_t i = 0; i < D && s->h[l] != 0; i++) {
            double v = 0;
            if (p->matrix_kind == NC_MATRIX_DENSE)
                for (int64_t j = 0; j < D; j++)
                    v += (double)A[i * D + j] * (double)s->y1[j * L + l];
            else
                v = (double)A[i] * (double)s->y1[i * L + l];
            slope += (double)lambda[i * L + l] * v;
        }
        size_sum[l] += slope;
    }
}

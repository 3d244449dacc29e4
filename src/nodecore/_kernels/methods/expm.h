/* The flow of a linear part, y' = A y: y1 = exp(h A) y (docs/math/splitting.md).
 *
 * A stands in the uniform space: [D][D], or its diagonal [D]. Exponentials of dense matrices are kept,
 * as many as there is room for, each with what the backward pass has gathered for it: the sum of lambda
 * y^T over the steps that it served. */

enum { FN(EXPM_MOST) = 16 };

typedef struct FN(expm_) {
    int slots, used;
    int64_t P, clock;
    double key[FN(EXPM_MOST)]; /* the step size */
    int64_t stamp[FN(EXPM_MOST)];
    uint8_t gathered[FN(EXPM_MOST)];
    REAL *rows, *cols;         /* exp(h A) by rows, by columns; [slots][P][P] */
    double *bar;               /* [slots][P][P] */
    double *X, *G, *E, *dE, *work;
    REAL *in, *out;            /* one lane */
    double *acc;               /* where the cotangent of A is added up, or NULL */
} FN(expm);

static size_t FN(expm_memory)(FN(tile) *s, char *base, size_t used, int backward)
{
    const nc_problem *p = s->p;
    FN(expm) local = {0}, *x;
    int64_t D = p->dim, P = expm_pitch(D), n = P * P;
    int derivative = backward && p->matrix_acc >= 0;
    NC_TAKE(s->expm, 1);
    if (base)
        *s->expm = local;
    x = base ? s->expm : &local;
    if (p->matrix_kind != NC_MATRIX_DENSE)
        return used;
    int64_t room = (int64_t)(48 << 20) / (n * (2 * (int64_t)sizeof(REAL) + 8));
    x->slots = room < 4 ? 4 : room > FN(EXPM_MOST) ? FN(EXPM_MOST) : (int)room;
    x->P = P;
    NC_TAKE(x->rows, n * x->slots);
    NC_TAKE(x->cols, n * x->slots);
    NC_TAKE(x->X, n);
    NC_TAKE(x->E, n);
    NC_TAKE(x->work, expm_work(D, derivative));
    NC_TAKE(x->in, P + FN(SLACK));
    NC_TAKE(x->out, P + FN(SLACK));
    if (derivative) {
        NC_TAKE(x->bar, n * x->slots);
        NC_TAKE(x->G, n);
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
    FN(expm_matrix)(s, x->key[slot], 1);
    memcpy(x->G, x->bar + slot * n, (size_t)n * sizeof(double));
    expm_frechet(x->X, x->G, x->E, x->dE, P, x->work);
    double *acc = x->acc + s->p->matrix_acc;
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            acc[i * D + j] += x->key[slot] * x->dE[i * P + j];
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
    int64_t D = s->p->dim, P = x->P, n = P * P;
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
    expm_frechet(x->X, NULL, x->E, NULL, P, x->work);
    REAL *rows = x->rows + at * n, *cols = x->cols + at * n;
    memset(rows, 0, (size_t)n * sizeof(REAL));
    memset(cols, 0, (size_t)n * sizeof(REAL));
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            rows[i * P + j] = cols[j * P + i] = (REAL)x->E[i * P + j];
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

/* y1 = exp(h A) y, or y1 = exp(h A)^T y. fraction: of the whole step. */
static void FN(expm_apply)(FN(tile) *s, double fraction, const REAL *y, REAL *y1, int transposed)
{
    const nc_problem *p = s->p;
    FN(expm) *x = s->expm;
    int64_t D = p->dim, L = s->L;
    if (p->matrix_kind == NC_MATRIX_DIAGONAL) {
        const REAL *a = s->base[NC_SP_U] + p->matrix_at;
        REAL *h = s->coef;
        for (int64_t l = 0; l < L; l++)
            h[l] = (REAL)s->h[l];
        if (L == 1)
            for (int64_t r = 0; r < D; r += VL) {
                int n = D - r < VL ? (int)(D - r) : VL;
                vstore_n(y1 + r, v_exp(vload_n(a + r, n) * vset1(h[0])) * vload_n(y + r, n), n);
            }
        else
            for (int64_t l = 0; l < L; l += VL)
                for (int64_t r = 0; r < D; r++)
                    vstore(y1 + r * L + l,
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
        memcpy(y1, y, (size_t)(D * L) * sizeof(REAL));
        return;
    }
    if (same && L > 1) {
        int slot = FN(expm_slot)(s, common);
        FN(expm_tile)((transposed ? x->cols : x->rows) + slot * n, y, y1, D, P, L);
        for (int64_t l = 0; l < L; l++)
            if (s->h[l] == 0)
                FN(lane_copy)(y1, l, y, l, D, L);
        return;
    }
    for (int64_t l = 0; l < L; l++) {
        if (s->h[l] == 0) {
            FN(lane_copy)(y1, l, y, l, D, L);
            continue;
        }
        int slot = FN(expm_slot)(s, FN(expm_size)(s, l, fraction));
        FN(lane_out)(x->in, y, D, L, l);
        FN(expm_lane)((transposed ? x->rows : x->cols) + slot * n, x->in, x->out, D, P);
        FN(lane_in)(y1, x->out, D, L, l);
    }
}

/* What lambda, the cotangent of y1, gives to A; and with size_sum to h: lambda . A y1. */
static void FN(expm_gather)(FN(tile) *s, double fraction, const REAL *lambda, double *acc,
                            double *size_sum)
{
    const nc_problem *p = s->p;
    FN(expm) *x = s->expm;
    const REAL *A = s->base[NC_SP_U] + p->matrix_at;
    int64_t D = p->dim, L = s->L;
    int dense = p->matrix_kind == NC_MATRIX_DENSE;
    for (int64_t l = 0; l < L; l++) {
        if (s->h[l] == 0)
            continue;
        double slope = 0;
        for (int64_t i = 0; i < D && size_sum; i++) {
            double v = 0;
            if (dense)
                for (int64_t j = 0; j < D; j++)
                    v += (double)A[i * D + j] * (double)s->y1[j * L + l];
            else
                v = (double)A[i] * (double)s->y1[i * L + l];
            slope += (double)lambda[i * L + l] * v;
        }
        if (size_sum)
            size_sum[l] += slope;
        if (p->matrix_acc < 0)
            continue;
        if (!dense) {
            for (int64_t i = 0; i < D; i++)
                acc[p->matrix_acc + i] +=
                    s->h[l] * ((double)lambda[i * L + l] * (double)s->y1[i * L + l]);
            continue;
        }
        x->acc = acc;
        int slot = FN(expm_slot)(s, FN(expm_size)(s, l, fraction));
        double *bar = x->bar + slot * x->P * x->P;
        for (int64_t j = 0; j < D; j++)
            x->G[j] = (double)s->y[j * L + l];
        for (int64_t i = 0; i < D; i++) {
            double v = (double)lambda[i * L + l];
            for (int64_t j = 0; j < D; j++)
                bar[i * x->P + j] += v * x->G[j];
        }
        x->gathered[slot] = 1;
    }
}

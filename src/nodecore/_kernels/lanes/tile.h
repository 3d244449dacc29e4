/* Loops over a tile: [rows][L] arrays of lanes, with per-lane coefficients. L is 1 or a multiple of
 * VL; with L = 1 the same arithmetic runs along the rows. Every lane's result is the same function
 * of its own numbers for every L. */

/* out = base + sum_j coef[j] k[j], coefficients [n][L]; base NULL is zero. Ascending j, fused. */
NC_INLINE void FN(lincomb_n)(REAL *out, const REAL *base, const int n, const REAL *const *k,
                             const REAL *coef, int64_t rows, int64_t L)
{
    if (L == 1) {
        int64_t r = 0;
        for (; r + VL <= rows; r += VL) {
            VF acc = base ? vload(base + r) : vset1(0);
            for (int j = 0; j < n; j++)
                acc = vfma(vset1(coef[j]), vload(k[j] + r), acc);
            vstore(out + r, acc);
        }
        int rest = (int)(rows - r);
        if (rest) {
            VF acc = base ? vload_n(base + r, rest) : vset1(0);
            for (int j = 0; j < n; j++)
                acc = vfma(vset1(coef[j]), vload_n(k[j] + r, rest), acc);
            vstore_n(out + r, acc, rest);
        }
        return;
    }
    for (int64_t l = 0; l < L; l += VL)
        for (int64_t r = 0; r < rows; r++) {
            int64_t i = r * L + l;
            VF acc = base ? vload(base + i) : vset1(0);
            for (int j = 0; j < n; j++)
                acc = vfma(vload(coef + j * L + l), vload(k[j] + i), acc);
            vstore(out + i, acc);
        }
}

static void FN(lincomb)(REAL *out, const REAL *base, int n, const REAL *const *k, const REAL *coef,
                        int64_t rows, int64_t L)
{
    switch (n) { /* small counts unrolled */
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        FN(lincomb_n)(out, base, m, k, coef, rows, L);                                             \
        return;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#undef CASE
    default:
        FN(lincomb_n)(out, base, n, k, coef, rows, L);
    }
}

/* out[l] = x[l] w, rounded to the element type. In blocks of constant length: whole vectors. */
NC_INLINE void FN(scale_lanes)(REAL *out, const double *x, double w, int64_t L)
{
    if (L == 1) {
        out[0] = (REAL)(x[0] * w);
        return;
    }
    for (int64_t l = 0; l < L; l += VL)
        for (int q = 0; q < VL; q++)
            out[l + q] = (REAL)(x[l + q] * w);
}

/* dst = mask ? src : dst, lane by lane. */
static void FN(select_lanes)(REAL *dst, const REAL *src, const RINT *mask, int64_t rows, int64_t L)
{
    if (L == 1) {
        if (mask[0])
            memcpy(dst, src, (size_t)rows * sizeof(REAL));
        return;
    }
    for (int64_t l = 0; l < L; l += VL) {
        VI m;
        memcpy(&m, mask + l, sizeof m);
        for (int64_t r = 0; r < rows; r++)
            vstore(dst + r * L + l, vsel(m, vload(src + r * L + l), vload(dst + r * L + l)));
    }
}

static void FN(lane_in)(REAL *tile, const REAL *sample, int64_t rows, int64_t L, int64_t lane)
{
    for (int64_t r = 0; r < rows; r++)
        tile[r * L + lane] = sample[r];
}

static void FN(lane_out)(REAL *sample, const REAL *tile, int64_t rows, int64_t L, int64_t lane)
{
    for (int64_t r = 0; r < rows; r++)
        sample[r] = tile[r * L + lane];
}

static void FN(lane_copy)(REAL *dst, int64_t to, const REAL *src, int64_t from, int64_t rows,
                          int64_t L)
{
    for (int64_t r = 0; r < rows; r++)
        dst[r * L + to] = src[r * L + from];
}

/* Eight partial sums by row index, folded in one order: part is [8][L]. */
static void FN(fold8)(const double *part, int64_t L, double *out)
{
    for (int64_t l = 0; l < L; l++) {
        const double *s = part + l;
        out[l] = ((s[0] + s[4 * L]) + (s[2 * L] + s[6 * L])) +
                 ((s[L] + s[5 * L]) + (s[3 * L] + s[7 * L]));
    }
}

NC_INLINE VF FN(scaled)(VF e, VF y, VF y1, VF atol, VF rtol)
{
    VF q = e / vfma(rtol, vmax(vabs(y), vabs(y1)), atol);
    return vsel(veq(e, vset1(0)), vset1(0), q); /* no error is no error, also at scale 0 */
}

/* out[l] = sum over rows of (e / (atol + rtol max(|y|, |y1|)))^2, in float64. */
static void FN(scaled_square)(const REAL *e, const REAL *y, const REAL *y1, const REAL *atol,
                              double rtol, int64_t rows, int64_t L, double *part, double *out)
{
    VF rt = vset1((REAL)rtol);
    memset(part, 0, (size_t)(8 * L) * sizeof(double));
    if (L == 1) {
        double q[VL];
        for (int64_t r = 0; r < rows; r += VL) {
            int n = rows - r < VL ? (int)(rows - r) : VL;
#define LOAD(p) (n < VL ? vload_n((p) + r, n) : vload((p) + r))
            vstore_as_f64(q, FN(scaled)(LOAD(e), LOAD(y), LOAD(y1), LOAD(atol), rt));
#undef LOAD
            for (int i = 0; i < n; i++)
                part[(r + i) & 7] += q[i] * q[i];
        }
    } else {
        for (int64_t l = 0; l < L; l += VL)
            for (int64_t r = 0; r < rows; r++) {
                int64_t i = r * L + l;
                double q[VL], *s = part + (r & 7) * L + l;
                vstore_as_f64(q, FN(scaled)(vload(e + i), vload(y + i), vload(y1 + i),
                                            vset1(atol[r]), rt));
                for (int j = 0; j < VL; j++)
                    s[j] += q[j] * q[j];
            }
    }
    FN(fold8)(part, L, out);
}

/* bad[l] is set where a row of lane l is infinite or NaN. */
static int FN(find_nonfinite)(const REAL *y, int64_t rows, int64_t L, uint8_t *bad)
{
    int any = 0;
    if (L == 1) {
        bad[0] = 0;
        for (int64_t r = 0; r < rows; r++)
            bad[0] |= (uint8_t)!(y[r] - y[r] == 0);
        return bad[0];
    }
    for (int64_t l = 0; l < L; l += VL) {
        VF sum = vset1(0);
        for (int64_t r = 0; r < rows; r++) {
            VF v = vload(y + r * L + l);
            sum += v - v;
        }
        VI ok = veq(sum, vset1(0));
        for (int j = 0; j < VL; j++)
            any |= bad[l + j] = (uint8_t)!ok[j];
    }
    return any;
}

/* out[l] = sum over rows of a b, in float64 by eight partial sums. */
static void FN(dot_rows)(const REAL *a, const REAL *b, int64_t rows, int64_t L, double *part,
                         double *out)
{
    memset(part, 0, (size_t)(8 * L) * sizeof(double));
    for (int64_t r = 0; r < rows; r++) {
        double *s = part + (r & 7) * L;
        for (int64_t l = 0; l < L; l++)
            s[l] += (double)a[r * L + l] * (double)b[r * L + l];
    }
    FN(fold8)(part, L, out);
}

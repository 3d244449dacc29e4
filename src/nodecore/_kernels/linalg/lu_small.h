/* LU of VL matrices at once, one in each lane: what all kernels share, and those for D <=
 * NC_LU_SMALL, which hold a matrix in registers. With L = 1 the matrix stands in all lanes of a
 * vector. See lu.h.
 *
 * In lu, the matrices of lanes l ... l + VL - 1 stand together, [L/VL][D*D][VL] ([D*D] for L = 1),
 * L below the diagonal, U above it and 1/u_kk on it. piv[i*L + l] is the row of M that became row
 * i. */

/* c - a b, rounded like vfnma. */
NC_INLINE REAL FN(fnma1)(REAL a, REAL b, REAL c)
{
#if !NC_HAS_FMA
    return c - a * b;
#elif defined(NC_REAL_IS_F64)
    return __builtin_fma(-a, b, c);
#else
    return __builtin_fmaf(-a, b, c);
#endif
}

NC_INLINE VI FN(isel)(VI mask, VI a, VI b)
{
    return (VI)vsel(mask, (VF)a, (VF)b);
}

/* a[l] == i */
NC_INLINE VI FN(is_row)(VI a, int64_t i)
{
    return (VI)(a == (RINT)i);
}

/* Lanes l ... l + VL - 1 of a mask; all where it is NULL. */
NC_INLINE VI FN(mask_at)(const RINT *mask, int64_t l)
{
    VI m = (VI){0} - 1;
    if (mask)
        memcpy(&m, mask + l, sizeof m);
    return m;
}

NC_INLINE void FN(store_lanes)(REAL *to, VF x, VI mask, int whole)
{
    vstore(to, whole ? x : vsel(mask, x, vload(to)));
}

/* Lanes whose pivot is zero, not finite, or so small that its reciprocal r is not finite. */
NC_INLINE VI FN(bad_pivot)(VF pivot, VF r)
{
    return ~(visfinite(pivot) & visfinite(r));
}

/* VL row numbers in memory. */
typedef int32_t FN(nc_rows_mem) __attribute__((vector_size(4 * VL), aligned(4), may_alias));

NC_INLINE VI FN(load_rows)(const int32_t *piv)
{
    return __builtin_convertvector(*(const FN(nc_rows_mem) *)piv, VI);
}

/* piv = mask ? rows : piv */
NC_INLINE void FN(store_rows)(int32_t *piv, VI rows, VI mask, int whole)
{
    if (!whole)
        rows = FN(isel)(mask, rows, FN(load_rows)(piv));
    *(FN(nc_rows_mem) *)piv = __builtin_convertvector(rows, FN(nc_rows_mem));
}

/* Factors of the identity. */
static void FN(lanes_identity)(REAL *lu, int32_t *piv, int64_t D, int64_t L, const RINT *mask)
{
    const int64_t width = L > 1 ? VL : 1;
    for (int64_t l = 0; l < L; l++) {
        if (mask && !mask[l])
            continue;
        REAL *a = lu + l / width * D * D * width + l % width;
        for (int64_t i = 0; i < D; i++) {
            piv[i * L + l] = (int32_t)i;
            for (int64_t j = 0; j < D; j++)
                a[(i * D + j) * width] = i == j;
        }
    }
}

/* ---- In registers, D a constant ------------------------------------------------------------- */

/* Factors a[D*D]; row[i] becomes the row of M in row i. Returns the singular lanes. */
NC_INLINE VI FN(small_factor)(const int D, VF *a, VI *row)
{
    VI bad = {0};
#pragma GCC unroll 4
    for (int i = 0; i < D; i++)
        row[i] = (VI){0} + (RINT)i;
#pragma GCC unroll 4
    for (int k = 0; k < D; k++) {
        VF best = vabs(a[k * D + k]);
#pragma GCC unroll 4
        for (int i = k + 1; i < D; i++)
            best = vat_least(best, vabs(a[i * D + k]));
        VI open = vne(vabs(a[k * D + k]), best) & veq(best, best);
        VF old[4], top[4];
        VI old_row = row[k];
#pragma GCC unroll 4
        for (int j = 0; j < D; j++)
            old[j] = top[j] = a[k * D + j];
#pragma GCC unroll 4
        for (int i = k + 1; i < D; i++) {
            const VI here = open & veq(vabs(a[i * D + k]), best);
            open &= ~here;
#pragma GCC unroll 4
            for (int j = 0; j < D; j++) {
                const VF x = a[i * D + j];
                a[i * D + j] = vsel(here, old[j], x);
                top[j] = vsel(here, x, top[j]);
            }
            const VI from = row[i];
            row[i] = FN(isel)(here, old_row, from);
            row[k] = FN(isel)(here, from, row[k]);
        }
        const VF r = vset1(1) / top[k];
        bad |= FN(bad_pivot)(top[k], r);
        top[k] = r;
#pragma GCC unroll 4
        for (int j = 0; j < D; j++)
            a[k * D + j] = top[j];
#pragma GCC unroll 4
        for (int i = k + 1; i < D; i++) {
            const VF m = a[i * D + k] * r;
            a[i * D + k] = m;
#pragma GCC unroll 4
            for (int j = k + 1; j < D; j++)
                a[i * D + j] = vfnma(m, top[j], a[i * D + j]);
        }
    }
    return bad;
}

/* x = M^-1 x or M^-T x from the factors. */
NC_INLINE void FN(small_solve)(const int D, const int transposed, const VF *a, const VI *row, VF *x)
{
    VF y[4];
    if (!transposed) {
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            y[i] = x[0];
#pragma GCC unroll 4
            for (int c = 1; c < D; c++)
                y[i] = vsel(FN(is_row)(row[i], c), x[c], y[i]);
        }
#pragma GCC unroll 4
        for (int i = 1; i < D; i++)
#pragma GCC unroll 4
            for (int k = 0; k < i; k++)
                y[i] = vfnma(a[i * D + k], y[k], y[i]);
#pragma GCC unroll 4
        for (int i = D - 1; i >= 0; i--) {
#pragma GCC unroll 4
            for (int k = D - 1; k > i; k--)
                y[i] = vfnma(a[i * D + k], x[k], y[i]);
            x[i] = y[i] * a[i * D + i];
        }
        return;
    }
#pragma GCC unroll 4
    for (int i = 0; i < D; i++) {
        y[i] = x[i];
#pragma GCC unroll 4
        for (int k = 0; k < i; k++)
            y[i] = vfnma(a[k * D + i], y[k], y[i]);
        y[i] = y[i] * a[i * D + i];
    }
#pragma GCC unroll 4
    for (int i = D - 1; i >= 0; i--)
#pragma GCC unroll 4
        for (int k = D - 1; k > i; k--)
            y[i] = vfnma(a[k * D + i], y[k], y[i]);
#pragma GCC unroll 4
    for (int c = 0; c < D; c++) {
        x[c] = y[0];
#pragma GCC unroll 4
        for (int i = 1; i < D; i++)
            x[c] = vsel(FN(is_row)(row[i], c), y[i], x[c]);
    }
}

/* ---- Tiles ---------------------------------------------------------------------------------- */

NC_INLINE void FN(small_factor_tile)(const int D, const REAL *M, REAL *lu, int32_t *piv, int64_t L,
                                     const RINT *mask, uint8_t *singular)
{
    VF a[16];
    VI row[4];
    if (L == 1) {
        if (mask && !mask[0])
            return;
#pragma GCC unroll 16
        for (int e = 0; e < D * D; e++)
            a[e] = vset1(M[e]);
        singular[0] = FN(small_factor)(D, a, row)[0] != 0;
#pragma GCC unroll 16
        for (int e = 0; e < D * D; e++)
            lu[e] = a[e][0];
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            piv[i] = (int32_t)row[i][0];
        return;
    }
    for (int64_t l = 0; l < L; l += VL, lu += D * D * VL) {
        const VI m = FN(mask_at)(mask, l);
        if (!vany(m))
            continue;
#pragma GCC unroll 16
        for (int e = 0; e < D * D; e++)
            a[e] = vload(M + e * L + l);
        const VI bad = FN(small_factor)(D, a, row) & m;
        const int whole = vall(m);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            FN(store_rows)(piv + i * L + l, row[i], m, whole);
        if (whole) {
#pragma GCC unroll 16
            for (int e = 0; e < D * D; e++)
                vstore(lu + e * VL, a[e]);
        } else {
#pragma GCC unroll 16
            for (int e = 0; e < D * D; e++)
                FN(store_lanes)(lu + e * VL, a[e], m, 0);
        }
        if (vany(bad))
            for (int q = 0; q < VL; q++)
                singular[l + q] = bad[q] != 0;
    }
}

NC_INLINE void FN(small_solve_tile)(const int D, const int transposed, const REAL *lu,
                                    const int32_t *piv, REAL *b, int64_t L, const RINT *mask)
{
    VF a[16], x[4];
    VI row[4];
    if (L == 1) {
        if (mask && !mask[0])
            return;
#pragma GCC unroll 16
        for (int e = 0; e < D * D; e++)
            a[e] = vset1(lu[e]);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            row[i] = (VI){0} + (RINT)piv[i], x[i] = vset1(b[i]);
        FN(small_solve)(D, transposed, a, row, x);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            b[i] = x[i][0];
        return;
    }
    for (int64_t l = 0; l < L; l += VL, lu += D * D * VL) {
        const VI m = FN(mask_at)(mask, l);
        if (!vany(m))
            continue;
#pragma GCC unroll 16
        for (int e = 0; e < D * D; e++)
            a[e] = vload(lu + e * VL);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            row[i] = FN(load_rows)(piv + i * L + l), x[i] = vload(b + i * L + l);
        FN(small_solve)(D, transposed, a, row, x);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
            FN(store_lanes)(b + i * L + l, x[i], m, !mask);
    }
}

static void FN(small_factor_any)(const REAL *M, REAL *lu, int32_t *piv, int64_t D, int64_t L,
                                 const RINT *mask, uint8_t *singular)
{
    switch (D) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        FN(small_factor_tile)(n, M, lu, piv, L, mask, singular);                                   \
        return;
        CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
    }
}

static void FN(small_solve_any)(int transposed, const REAL *lu, const int32_t *piv, REAL *b,
                                int64_t D, int64_t L, const RINT *mask)
{
    switch (2 * D + transposed) {
#define CASE(n)                                                                                    \
    case 2 * n:                                                                                    \
        FN(small_solve_tile)(n, 0, lu, piv, b, L, mask);                                           \
        return;                                                                                    \
    case 2 * n + 1:                                                                                \
        FN(small_solve_tile)(n, 1, lu, piv, b, L, mask);                                           \
        return;
        CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
    }
}

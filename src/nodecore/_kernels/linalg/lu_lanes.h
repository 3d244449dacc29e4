/* LU of VL matrices at once, one in each lane: a is [D][D][VL], and every lane has pivots of its
 * own. See lu.h; Golub & Van Loan, Matrix Computations, 4th ed., sections 3.2 and 3.4.
 *
 * In lu, the matrices of lanes l ... l + VL - 1 stand together, [L/VL][D*D][VL], L below the
 * diagonal, U above it and 1/u_kk on it. piv[i*L + l] is the row of M that became row i. */

#define NC_A(i, j) (a + ((i) * D + (j)) * VL)

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

/* ---- D <= NC_LU_SMALL: in registers, D a constant ------------------------------------------- */

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

/* ---- D <= NC_LU_LANES ----------------------------------------------------------------------- */

/* The largest |x| so far and its row, lane by lane; the first one where several are equal, and a
 * NaN that came first. */
typedef struct {
    VF most;
    VI row;
} FN(nc_pivot);

NC_INLINE void FN(pivot_first)(FN(nc_pivot) *p, VF x, VI i)
{
    p->most = vabs(x);
    p->row = i;
}

NC_INLINE void FN(pivot_next)(FN(nc_pivot) *p, VF x, VI i)
{
    const VF size = vabs(x);
    p->row = FN(isel)(vgt(size, p->most), i, p->row);
    p->most = vat_least(p->most, size);
}

static VI FN(lanes_pivot)(const REAL *a, int64_t D, int64_t k)
{
    const VI one = (VI){0} + 1;
    VI row = (VI){0} + (RINT)k;
    FN(nc_pivot) p;
    FN(pivot_first)(&p, vload(NC_A(k, k)), row);
    for (int64_t i = k + 1; i < D; i++)
        FN(pivot_next)(&p, vload(NC_A(i, k)), row += one);
    return p.row;
}

/* Row x changes places with row y[q] in the lanes of here[q]; these n masks exclude each other. */
NC_INLINE void FN(lanes_exchange_rows)(const int n, REAL *x, REAL *const *y, const VI *here,
                                       int64_t D)
{
    VI m[4];
    REAL *to[4];
#pragma GCC unroll 4
    for (int q = 0; q < n; q++)
        m[q] = here[q], to[q] = y[q];
    for (int64_t j = 0; j < D * VL; j += VL) {
        const VF old = vload(x + j);
        VF new = old;
#pragma GCC unroll 4
        for (int q = 0; q < n; q++) {
            const VF other = vload(to[q] + j);
            vstore(to[q] + j, vsel(m[q], old, other));
            new = vsel(m[q], other, new);
        }
        vstore(x + j, new);
    }
}

/* Rows k and p change places, p lane by lane. */
static void FN(lanes_exchange)(REAL *a, VI *row, int64_t D, int64_t k, VI p)
{
    RINT each[VL];
    memcpy(each, &p, sizeof p);
    uint32_t others = 0;
    for (int l = 0; l < VL; l++)
        others |= (uint32_t)1 << each[l];
    others &= ~((uint32_t)1 << k);
    while (others) {
        VI here[4];
        REAL *other[4];
        int n = 0;
        for (; others && n < 4; others &= others - 1, n++) {
            const int q = __builtin_ctz(others);
            here[n] = FN(is_row)(p, q);
            other[n] = NC_A(q, 0);
            const VI from = row[q];
            row[q] = FN(isel)(here[n], row[k], from);
            row[k] = FN(isel)(here[n], from, row[k]);
        }
        switch (n) {
        case 1:
            FN(lanes_exchange_rows)(1, NC_A(k, 0), other, here, D);
            break;
        case 2:
            FN(lanes_exchange_rows)(2, NC_A(k, 0), other, here, D);
            break;
        case 3:
            FN(lanes_exchange_rows)(3, NC_A(k, 0), other, here, D);
            break;
        default:
            FN(lanes_exchange_rows)(4, NC_A(k, 0), other, here, D);
        }
    }
}

/* Multipliers of column k, and their products with the n columns behind it. Returns the pivots of
 * the next column, if n > 0. */
NC_INLINE VI FN(lanes_eliminate)(const int n, REAL *a, int64_t D, int64_t k, VF r)
{
    const VI one = (VI){0} + 1;
    VI row = (VI){0} + (RINT)k;
    FN(nc_pivot) p;
    VF u[3];
    FN(pivot_first)(&p, vset1(0), row);
#pragma GCC unroll 3
    for (int j = 0; j < n; j++)
        u[j] = vload(NC_A(k, k + 1 + j));
    for (int64_t i = k + 1; i < D; i++) {
        REAL *x = NC_A(i, k);
        const VF m = vload(x) * r;
        vstore(x, m);
        row += one;
#pragma GCC unroll 3
        for (int j = 0; j < n; j++) {
            const VF y = vfnma(m, u[j], vload(x + (j + 1) * VL));
            vstore(x + (j + 1) * VL, y);
            if (j > 0)
                continue;
            if (i == k + 1)
                FN(pivot_first)(&p, y, row);
            else
                FN(pivot_next)(&p, y, row);
        }
    }
    return p.row;
}

/* n rows minus four multiples of rows: from row x on, multipliers at x[0..3], U at u. */
NC_INLINE void FN(lanes_update)(const int n, REAL *x, const REAL *u, int64_t D, int64_t columns)
{
    VF m[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            m[i][k] = vload(x + (i * D + k) * VL);
    x += 4 * VL;
    u += 4 * VL;
    for (int64_t j = 0; j < columns; j++, x += VL, u += VL) {
        VF s[4];
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            s[i] = vload(x + i * D * VL);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const VF v = vload(u + k * D * VL);
#pragma GCC unroll 4
            for (int i = 0; i < n; i++)
                s[i] = vfnma(m[i][k], v, s[i]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            vstore(x + i * D * VL, s[i]);
    }
}

#if NC_VBYTES == 64 || defined(NC_NEON)
#define NC_UPDATE_ROWS 4 /* 16 multipliers in 32 registers */
#else
#define NC_UPDATE_ROWS 2
#endif

/* Right-looking, in blocks of four columns. Returns the singular lanes. */
static VI FN(lanes_factor_vector)(REAL *a, VI *row, int64_t D)
{
    VI bad = {0};
    for (int64_t i = 0; i < D; i++)
        row[i] = (VI){0} + (RINT)i;
    for (int64_t k0 = 0; k0 < D; k0 += 4) {
        const int64_t k1 = k0 + 4 < D ? k0 + 4 : D;
        VI p = FN(lanes_pivot)(a, D, k0);
        for (int64_t k = k0; k < k1; k++) {
            if (!vall(FN(is_row)(p, k)))
                FN(lanes_exchange)(a, row, D, k, p);
            const VF pivot = vload(NC_A(k, k)), r = vset1(1) / pivot;
            bad |= FN(bad_pivot)(pivot, r);
            vstore(NC_A(k, k), r);
            switch (k1 - 1 - k) {
            case 0:
                FN(lanes_eliminate)(0, a, D, k, r);
                break;
            case 1:
                p = FN(lanes_eliminate)(1, a, D, k, r);
                break;
            case 2:
                p = FN(lanes_eliminate)(2, a, D, k, r);
                break;
            default:
                p = FN(lanes_eliminate)(3, a, D, k, r);
            }
        }
        if (k1 == D)
            break;
        const VF l10 = vload(NC_A(k0 + 1, k0)), l20 = vload(NC_A(k0 + 2, k0));
        const VF l21 = vload(NC_A(k0 + 2, k0 + 1)), l30 = vload(NC_A(k0 + 3, k0));
        const VF l31 = vload(NC_A(k0 + 3, k0 + 1)), l32 = vload(NC_A(k0 + 3, k0 + 2));
        for (int64_t j = k1; j < D; j++) {
            REAL *u = NC_A(k0, j);
            const VF u0 = vload(u);
            const VF u1 = vfnma(l10, u0, vload(u + D * VL));
            const VF u2 = vfnma(l21, u1, vfnma(l20, u0, vload(u + 2 * D * VL)));
            vstore(u + D * VL, u1);
            vstore(u + 2 * D * VL, u2);
            vstore(u + 3 * D * VL,
                   vfnma(l32, u2, vfnma(l31, u1, vfnma(l30, u0, vload(u + 3 * D * VL)))));
        }
        int64_t i = k1;
        for (; i + NC_UPDATE_ROWS <= D; i += NC_UPDATE_ROWS)
            FN(lanes_update)(NC_UPDATE_ROWS, NC_A(i, k0), NC_A(k0, k0), D, D - k1);
        for (; i < D; i++)
            FN(lanes_update)(1, NC_A(i, k0), NC_A(k0, k0), D, D - k1);
    }
    return bad;
}

/* Substitution in n unknowns i ... i + n - 1, those before them (descending: after them) known.
 * Coefficient (i, k) stands at i*rs + k*cs; divide: the diagonal holds reciprocals, else it is
 * 1. */
NC_INLINE void FN(lanes_unknowns)(const int n, const int descending, const int divide,
                                  const REAL *a, int64_t rs, int64_t cs, REAL *x, int64_t D,
                                  int64_t i)
{
    VF s[4];
    a += i * rs;
#pragma GCC unroll 4
    for (int q = 0; q < n; q++)
        s[q] = vload(x + (i + q) * VL);
    for (int64_t t = 0, end = descending ? D - i - n : i; t < end; t++) {
        const int64_t k = descending ? D - 1 - t : t;
        const VF known = vload(x + k * VL);
#pragma GCC unroll 4
        for (int q = 0; q < n; q++)
            s[q] = vfnma(vload(a + q * rs + k * cs), known, s[q]);
    }
    a += i * cs;
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        const int k = descending ? n - 1 - t : t;
        if (divide)
            s[k] = s[k] * vload(a + k * (rs + cs));
        vstore(x + (i + k) * VL, s[k]);
#pragma GCC unroll 4
        for (int q = 0; q < n; q++)
            if (descending ? q < k : q > k)
                s[q] = vfnma(vload(a + q * rs + k * cs), s[k], s[q]);
    }
}

NC_INLINE void FN(lanes_substitute)(const int descending, const int divide, const REAL *a,
                                    int64_t rs, int64_t cs, REAL *x, int64_t D)
{
    const int64_t whole = D & ~(int64_t)3, rest = D & 3;
    for (int64_t t = 0; t < whole; t += 4)
        FN(lanes_unknowns)(4, descending, divide, a, rs, cs, x, D, descending ? D - 4 - t : t);
    for (int64_t t = 0; t < rest; t++)
        FN(lanes_unknowns)(1, descending, divide, a, rs, cs, x, D,
                           descending ? rest - 1 - t : whole + t);
}

/* ---- Whole tiles ---------------------------------------------------------------------------- */

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

static void FN(lanes_factor)(const REAL *M, REAL *lu, int32_t *piv, int64_t D, int64_t L,
                             const RINT *mask, uint8_t *singular)
{
    switch (D) {
    case 1:
        FN(small_factor_tile)(1, M, lu, piv, L, mask, singular);
        return;
    case 2:
        FN(small_factor_tile)(2, M, lu, piv, L, mask, singular);
        return;
    case 3:
        FN(small_factor_tile)(3, M, lu, piv, L, mask, singular);
        return;
    case 4:
        FN(small_factor_tile)(4, M, lu, piv, L, mask, singular);
        return;
    }
    REAL *spare = lu + D * D * L;
    VI row[NC_LU_LANES];
    for (int64_t l = 0; l < L; l += VL, lu += D * D * VL) {
        const VI m = FN(mask_at)(mask, l);
        if (!vany(m))
            continue;
        REAL *a = vall(m) ? lu : spare;
        for (int64_t e = 0; e < D * D; e++)
            vstore(a + e * VL, vload(M + e * L + l));
        const VI bad = FN(lanes_factor_vector)(a, row, D) & m;
        if (a == spare)
            for (int64_t e = 0; e < D * D; e++)
                FN(store_lanes)(lu + e * VL, vload(a + e * VL), m, 0);
        for (int64_t i = 0; i < D; i++)
            FN(store_rows)(piv + i * L + l, row[i], m, a == lu);
        if (vany(bad))
            for (int q = 0; q < VL; q++)
                singular[l + q] = bad[q] != 0;
    }
}

static void FN(lanes_solve)(int transposed, const REAL *lu, const int32_t *piv, REAL *b, int64_t D,
                            int64_t L, const RINT *mask)
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
    REAL x[NC_LU_LANES * VL] __attribute__((aligned(NC_VBYTES)));
    REAL y[NC_LU_LANES * VL] __attribute__((aligned(NC_VBYTES)));
    for (int64_t l = 0; l < L; l += VL, lu += D * D * VL) {
        const VI m = FN(mask_at)(mask, l);
        if (!vany(m))
            continue;
        const REAL *result = x;
        if (!transposed) {
            for (int64_t i = 0; i < D; i++)
                for (int q = 0; q < VL; q++)
                    x[i * VL + q] = b[piv[i * L + l + q] * L + l + q];
            FN(lanes_substitute)(0, 0, lu, D * VL, VL, x, D);
            FN(lanes_substitute)(1, 1, lu, D * VL, VL, x, D);
        } else {
            for (int64_t i = 0; i < D; i++)
                vstore(x + i * VL, vload(b + i * L + l));
            FN(lanes_substitute)(0, 1, lu, VL, D * VL, x, D);
            FN(lanes_substitute)(1, 0, lu, VL, D * VL, x, D);
            for (int64_t i = 0; i < D; i++)
                for (int q = 0; q < VL; q++)
                    y[piv[i * L + l + q] * VL + q] = x[i * VL + q];
            result = y;
        }
        for (int64_t i = 0; i < D; i++)
            FN(store_lanes)(b + i * L + l, vload(result + i * VL), m, !mask);
    }
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

#undef NC_A
#undef NC_UPDATE_ROWS

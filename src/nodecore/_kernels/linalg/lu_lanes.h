/* LU of VL matrices at once, NC_LU_SMALL < D <= NC_LU_LANES: a is [D][D][VL], and every lane has
 * pivots of its own. See lu.h for the order and lu_small.h for lu and piv; Golub & Van Loan, Matrix
 * Computations, 4th ed., sections 3.2 and 3.4. */

#define NC_A(i, j) (a + ((i) * D + (j)) * VL)

/* ---- Pivots --------------------------------------------------------------------------------- */

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

/* ---- Elimination ---------------------------------------------------------------------------- */

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

/* ---- Substitution --------------------------------------------------------------------------- */

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

/* ---- Tiles ---------------------------------------------------------------------------------- */

static void FN(lanes_factor)(const REAL *M, REAL *lu, int32_t *piv, int64_t D, int64_t L,
                             const RINT *mask, uint8_t *singular)
{
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

#undef NC_A
#undef NC_UPDATE_ROWS

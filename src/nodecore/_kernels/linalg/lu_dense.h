/* LU of one matrix, columns contiguous: element (i, j) stands at a[i + j*ld]. See lu.h; recursive
 * as in S. Toledo, Locality of reference in LU decomposition with partial pivoting, SIAM J. Matrix
 * Anal. Appl. 18 (1997): the left half of the columns, then the right half minus L21 U12, so that
 * blocks fit every level of cache without being told its size.
 *
 * L stands below the diagonal, U above it and 1/u_kk on it; piv[k] is the row that was exchanged
 * with row k. Each column has at least VL - 1 rows of zeros below row D - 1: kernels go down a
 * column in whole vectors and stop behind its end. */

/* Columns that are factored one by one; a multiple of VL. */
#define NC_LU_PANEL (VL > 8 ? VL : 8)

/* The block of the product: vectors x columns. */
#if NC_VBYTES == 64 || defined(NC_NEON)
#define NC_GEMM_VECS 3
#define NC_GEMM_COLS 8
#elif NC_VBYTES == 32
#define NC_GEMM_VECS 3
#define NC_GEMM_COLS 4
#else
#define NC_GEMM_VECS 2
#define NC_GEMM_COLS 4
#endif

/* The distance of columns: an odd number of cache lines, so that they do not share their sets. */
NC_INLINE int64_t FN(dense_ld)(int64_t D)
{
    const int64_t line = 64 / (int64_t)sizeof(REAL);
    return ((D + VL - 1 + line - 1) / line | 1) * line;
}

/* The masked lanes of M into their places, transposed in blocks of VL x VL. */
static void FN(dense_load)(const REAL *M, REAL *lu, int64_t D, int64_t L, int64_t ld,
                           const RINT *mask)
{
    const int64_t above = D & ~(int64_t)(VL - 1); /* rows below are the last block, and zeros */
    for (int64_t l = 0; l < L; l++)
        if (!mask || mask[l])
            for (int64_t j = 0; j < D; j++) {
                REAL *end = lu + (l * D + j) * ld + above;
                memset(end, 0, (size_t)(ld - above) * sizeof(REAL));
            }
    VF v[VL];
    if (L == 1) {
        if (mask && !mask[0])
            return;
        for (int64_t i = 0; i < D; i += VL)
            for (int64_t j = 0; j < D; j += VL) {
                const REAL *from = M + i * D + j;
                REAL *to = lu + j * ld + i;
                if (i + VL <= D && j + VL <= D) {
#pragma GCC unroll 16
                    for (int q = 0; q < VL; q++)
                        v[q] = vload(from + q * D);
                    FN(transpose)(v);
#pragma GCC unroll 16
                    for (int q = 0; q < VL; q++)
                        vstore(to + q * ld, v[q]);
                } else {
                    for (int64_t q = i; q < i + VL && q < D; q++)
                        for (int64_t c = j; c < j + VL && c < D; c++)
                            lu[c * ld + q] = M[q * D + c];
                }
            }
        return;
    }
    for (int64_t l = 0; l < L; l += VL) {
        int wanted[VL], any = 0;
        for (int q = 0; q < VL; q++)
            any |= wanted[q] = !mask || mask[l + q];
        if (!any)
            continue;
        for (int64_t i = 0; i < D; i += VL)
            for (int64_t j = 0; j < D; j++) {
                const REAL *from = M + (i * D + j) * L + l;
                REAL *to = lu + (l * D + j) * ld + i;
                if (i + VL <= D) {
#pragma GCC unroll 16
                    for (int q = 0; q < VL; q++)
                        v[q] = vload(from + q * D * L);
                } else {
                    for (int q = 0; q < VL; q++)
                        v[q] = i + q < D ? vload(from + q * D * L) : vset1(0);
                }
                FN(transpose)(v);
#pragma GCC unroll 16
                for (int q = 0; q < VL; q++)
                    if (wanted[q])
                        vstore(to + q * D * ld, v[q]);
            }
    }
}

/* ---- Products and triangles ----------------------------------------------------------------- */

/* c -= a b for n vectors of rows and m columns, K terms each in ascending order. */
NC_INLINE void FN(gemm_block)(const int n, const int m, const REAL *a, const REAL *b, REAL *c,
                              int64_t ld, int64_t K)
{
    VF s[NC_GEMM_COLS][NC_GEMM_VECS];
#pragma GCC unroll 8
    for (int j = 0; j < m; j++)
#pragma GCC unroll 3
        for (int i = 0; i < n; i++)
            s[j][i] = vload(c + j * ld + i * VL);
    for (int64_t k = 0; k < K; k++, a += ld, b++) {
        VF x[NC_GEMM_VECS];
#pragma GCC unroll 3
        for (int i = 0; i < n; i++)
            x[i] = vload(a + i * VL);
#pragma GCC unroll 8
        for (int j = 0; j < m; j++) {
            const VF y = vset1(b[j * ld]);
#pragma GCC unroll 3
            for (int i = 0; i < n; i++)
                s[j][i] = vfnma(x[i], y, s[j][i]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < m; j++)
#pragma GCC unroll 3
        for (int i = 0; i < n; i++)
            vstore(c + j * ld + i * VL, s[j][i]);
}

NC_INLINE void FN(gemm_rows)(const int n, const REAL *a, const REAL *b, REAL *c, int64_t ld,
                             int64_t columns, int64_t K)
{
    int64_t j = 0;
    for (; j + NC_GEMM_COLS <= columns; j += NC_GEMM_COLS)
        FN(gemm_block)(n, NC_GEMM_COLS, a, b + j * ld, c + j * ld, ld, K);
    for (; j + 2 <= columns; j += 2)
        FN(gemm_block)(n, 2, a, b + j * ld, c + j * ld, ld, K);
    if (j < columns)
        FN(gemm_block)(n, 1, a, b + j * ld, c + j * ld, ld, K);
}

/* C (rows x columns) -= A (rows x K) B (K x columns), all with columns ld apart. */
static void FN(dense_gemm)(const REAL *a, const REAL *b, REAL *c, int64_t ld, int64_t rows,
                           int64_t columns, int64_t K)
{
    int64_t left = (rows + VL - 1) / VL, step;
    for (; left > 0; left -= step, a += step * VL, c += step * VL) {
#if NC_GEMM_VECS > 2
        if (left >= 3 && left != 4) {
            step = 3;
            FN(gemm_rows)(3, a, b, c, ld, columns, K);
            continue;
        }
#endif
        step = left >= 2 ? 2 : 1;
        if (step == 2)
            FN(gemm_rows)(2, a, b, c, ld, columns, K);
        else
            FN(gemm_rows)(1, a, b, c, ld, columns, K);
    }
}

/* B (NC_LU_PANEL x columns) = L^-1 B, L unit lower triangular: VL columns of B at a time,
 * transposed, so that vectors go along a row. */
static void FN(dense_triangle)(const REAL *l, REAL *b, int64_t ld, int64_t columns)
{
    for (int64_t j = 0; j < columns; j += VL, b += VL * ld) {
        const int m = columns - j < VL ? (int)(columns - j) : VL;
        VF x[NC_LU_PANEL];
#pragma GCC unroll 8
        for (int i = 0; i < NC_LU_PANEL; i += VL) {
#pragma GCC unroll 16
            for (int q = 0; q < VL; q++)
                x[i + q] = q < m ? vload(b + q * ld + i) : vset1(0);
            FN(transpose)(x + i);
        }
#pragma GCC unroll 16
        for (int k = 0; k < NC_LU_PANEL; k++)
#pragma GCC unroll 16
            for (int i = k + 1; i < NC_LU_PANEL; i++)
                x[i] = vfnma(vset1(l[k * ld + i]), x[k], x[i]);
#pragma GCC unroll 8
        for (int i = 0; i < NC_LU_PANEL; i += VL) {
            FN(transpose)(x + i);
#pragma GCC unroll 16
            for (int q = 0; q < VL; q++)
                if (q < m)
                    vstore(b + q * ld + i, x[i + q]);
        }
    }
}

/* ---- Factorisation -------------------------------------------------------------------------- */

/* The first row from k on with the largest |column[row]|; k where column[k] is NaN. */
static int32_t FN(dense_pivot)(const REAL *column, int64_t k, int64_t D)
{
    if (!(column[k] == column[k]))
        return (int32_t)k;
    VF most = vset1(0);
    int64_t i = k;
    for (; i + VL <= D; i += VL)
        most = vat_least(most, vabs(vload(column + i)));
    for (; i < D; i++)
        most = vat_least(most, vabs(vset1(column[i])));
    REAL each[VL], best = 0;
    vstore(each, most);
    for (int q = 0; q < VL; q++)
        best = each[q] > best ? each[q] : best;
    for (i = k; i + VL <= D; i += VL)
        if (vany(veq(vabs(vload(column + i)), vset1(best))))
            break;
    for (; i < D; i++)
        if (column[i] == best || column[i] == -best)
            return (int32_t)i;
    return (int32_t)k;
}

NC_INLINE void FN(dense_exchange_n)(const int n, REAL *a, int64_t ld, const int32_t *piv,
                                    int64_t k0, int64_t k1)
{
    for (int64_t k = k0; k < k1; k++) {
        REAL *x = a + k, *y = a + piv[k];
        if (x == y)
            continue;
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) {
            const REAL t = x[j * ld];
            x[j * ld] = y[j * ld];
            y[j * ld] = t;
        }
    }
}

/* Rows k0 ... k1 - 1 of the columns change places with rows piv[k]. */
static void FN(dense_exchange)(REAL *a, int64_t ld, int64_t columns, const int32_t *piv, int64_t k0,
                               int64_t k1)
{
    while (k0 < k1 && piv[k0] == k0)
        k0++;
    if (k0 == k1)
        return;
    for (; columns >= 8; columns -= 8, a += 8 * ld)
        FN(dense_exchange_n)(8, a, ld, piv, k0, k1);
    for (; columns > 0; columns--, a += ld)
        FN(dense_exchange_n)(1, a, ld, piv, k0, k1);
}

/* The product of column k's multipliers with n columns behind it, and the multipliers. */
NC_INLINE void FN(dense_eliminate)(const int n, const int scale, REAL *x, const REAL *m, REAL *c,
                                   int64_t ld, REAL r, int64_t k, int64_t D)
{
    VF u[4];
    const VF rv = vset1(r);
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
        u[j] = vset1(c[j * ld + k]);
    for (int64_t i = k + 1; i < D; i += VL) {
        VF l = vload(m + i);
        if (scale) {
            l = l * rv;
            vstore(x + i, l);
        }
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            vstore(c + j * ld + i, vfnma(l, u[j], vload(c + j * ld + i)));
    }
}

/* Columns c0 ... c1 - 1, of which everything that depends on earlier columns is done. Rows are
 * exchanged in these columns alone. Whether a pivot was bad. */
static int FN(dense_panel)(REAL *a, int64_t ld, int64_t D, int64_t c0, int64_t c1, int32_t *piv)
{
    int bad = 0;
    for (int64_t k = c0; k < c1; k++) {
        REAL *x = a + k * ld, *c = x + ld;
        piv[k] = FN(dense_pivot)(x, k, D);
        FN(dense_exchange)(a + c0 * ld, ld, c1 - c0, piv, k, k + 1);
        const REAL r = 1 / x[k];
        bad |= !(x[k] - x[k] == 0 && r - r == 0);
        x[k] = r;
        int64_t n = c1 - 1 - k;
        switch (n < 4 ? n : 4) {
        case 0:
            FN(dense_eliminate)(0, 1, x, x, c, ld, r, k, D);
            break;
        case 1:
            FN(dense_eliminate)(1, 1, x, x, c, ld, r, k, D);
            break;
        case 2:
            FN(dense_eliminate)(2, 1, x, x, c, ld, r, k, D);
            break;
        case 3:
            FN(dense_eliminate)(3, 1, x, x, c, ld, r, k, D);
            break;
        default:
            FN(dense_eliminate)(4, 1, x, x, c, ld, r, k, D);
        }
        for (n -= 4, c += 4 * ld; n >= 4; n -= 4, c += 4 * ld)
            FN(dense_eliminate)(4, 0, x, x, c, ld, r, k, D);
        for (; n > 0; n--, c += ld)
            FN(dense_eliminate)(1, 0, x, x, c, ld, r, k, D);
    }
    return bad;
}

/* The same for any number of columns: the left half of their panels, then the right half. */
static int FN(dense_factor)(REAL *a, int64_t ld, int64_t D, int64_t c0, int64_t c1, int32_t *piv)
{
    if (c1 - c0 <= NC_LU_PANEL)
        return FN(dense_panel)(a, ld, D, c0, c1, piv);
    const int64_t panels = (c1 - c0 + NC_LU_PANEL - 1) / NC_LU_PANEL;
    const int64_t middle = c0 + (panels + 1) / 2 * NC_LU_PANEL, n = middle - c0, m = c1 - middle;
    REAL *right = a + middle * ld;
    int bad = FN(dense_factor)(a, ld, D, c0, middle, piv);
    FN(dense_exchange)(right, ld, m, piv, c0, middle);
    for (int64_t k = c0; k < middle; k += NC_LU_PANEL) {
        const REAL *l = a + k * ld;
        const int64_t next = k + NC_LU_PANEL;
        FN(dense_triangle)(l + k, right + k, ld, m);
        FN(dense_gemm)(l + next, right + k, right + next, ld, middle - next, m, NC_LU_PANEL);
    }
    FN(dense_gemm)(a + c0 * ld + middle, right + c0, right + middle, ld, D - middle, m, n);
    bad |= FN(dense_factor)(a, ld, D, middle, c1, piv);
    FN(dense_exchange)(a + c0 * ld, ld, n, piv, middle, c1);
    return bad;
}

#undef NC_LU_PANEL
#undef NC_GEMM_VECS
#undef NC_GEMM_COLS

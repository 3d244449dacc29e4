/* Substitution with the factors of lu_dense.h, for one right-hand side x, which has zeros below row
 * D - 1 as the columns of the factors have. See lu.h. */

/* n unknowns k0 ... whose other terms are done. Coefficient (i, k) stands at i*rs + k*cs. */
NC_INLINE void FN(dense_unknowns)(int64_t n, const int descending, const int divide, const REAL *a,
                                  int64_t rs, int64_t cs, REAL *x)
{
    for (int64_t t = 0; t < n; t++) {
        const int64_t k = descending ? n - 1 - t : t;
        const REAL known = divide ? x[k] * a[k * (rs + cs)] : x[k];
        x[k] = known;
        for (int64_t i = descending ? 0 : k + 1; i < (descending ? k : n); i++)
            x[i] = FN(fnma1)(a[i * rs + k * cs], known, x[i]);
    }
}

/* x[i] minus four terms, from <= i < to. Ascending, whole vectors may run into the rows of zeros
 * behind the end; descending, they must not run into the unknowns. */
NC_INLINE void FN(dense_subtract)(const int descending, const REAL *a, int64_t ld,
                                  const REAL *known, REAL *x, int64_t from, int64_t to)
{
    VF v[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        v[k] = vset1(known[k]);
    int64_t i = from;
    for (; descending ? i + VL <= to : i < to; i += VL) {
        VF s = vload(x + i);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const int k = descending ? 3 - t : t;
            s = vfnma(vload(a + k * ld + i), v[k], s);
        }
        vstore(x + i, s);
    }
    if (VL > 4 && i < to) {
        const int m = (int)(to - i);
        VF s = vload_n(x + i, m);
#pragma GCC unroll 4
        for (int k = 3; k >= 0; k--)
            s = vfnma(vload_n(a + k * ld + i, m), v[k], s);
        vstore_n(x + i, s, m);
    }
}

/* x = L^-1 x, then U^-1 x: four unknowns, then their terms in all rows below (above). */
static void FN(dense_solve_plain)(const REAL *a, int64_t ld, int64_t D, REAL *x)
{
    const int64_t whole = D & ~(int64_t)3;
    for (int64_t k = 0; k < whole; k += 4) {
        FN(dense_unknowns)(4, 0, 0, a + k * ld + k, 1, ld, x + k);
        FN(dense_subtract)(0, a + k * ld, ld, x + k, x, k + 4, D);
    }
    FN(dense_unknowns)(D - whole, 0, 0, a + whole * ld + whole, 1, ld, x + whole);
    FN(dense_unknowns)(D - whole, 1, 1, a + whole * ld + whole, 1, ld, x + whole);
    for (int64_t k = D - 1; k >= whole; k--) {
        const VF known = vset1(x[k]);
        for (int64_t i = 0; i < whole; i += VL) {
            const int m = whole - i < VL ? (int)(whole - i) : VL;
            if (VL <= 4 || m == VL)
                vstore(x + i, vfnma(vload(a + k * ld + i), known, vload(x + i)));
            else
                vstore_n(x + i, vfnma(vload_n(a + k * ld + i, m), known, vload_n(x + i, m)), m);
        }
    }
    for (int64_t k = whole - 4; k >= 0; k -= 4) {
        FN(dense_unknowns)(4, 1, 1, a + k * ld + k, 1, ld, x + k);
        FN(dense_subtract)(1, a + k * ld, ld, x + k, x, 0, k);
    }
}

/* v[q] = row k + q of columns j ... j + VL - 1. */
NC_INLINE void FN(dense_rows)(VF *v, const REAL *a, int64_t ld, int64_t D, int64_t k, int64_t j)
{
#pragma GCC unroll 16
    for (int q = 0; q < VL; q++)
        v[q] = j + q < D ? vload(a + (j + q) * ld + k) : vset1(0);
    FN(transpose)(v);
}

/* x = U^-T x, then L^-T x: VL unknowns, then their terms in all columns behind (before). */
static void FN(dense_solve_transposed)(const REAL *a, int64_t ld, int64_t D, REAL *x)
{
    VF v[VL];
    int64_t k = 0;
    for (; k + VL < D; k += VL) {
        FN(dense_unknowns)(VL, 0, 1, a + k * ld + k, ld, 1, x + k);
        for (int64_t j = k + VL; j < D; j += VL) {
            FN(dense_rows)(v, a, ld, D, k, j);
            VF s = vload(x + j);
#pragma GCC unroll 16
            for (int q = 0; q < VL; q++)
                s = vfnma(v[q], vset1(x[k + q]), s);
            vstore(x + j, s);
        }
    }
    FN(dense_unknowns)(D - k, 0, 1, a + k * ld + k, ld, 1, x + k);
    for (int64_t end = D; k >= 0; end = k, k -= VL) {
        FN(dense_unknowns)(end - k, 1, 0, a + k * ld + k, ld, 1, x + k);
        for (int64_t j = 0; j < k; j += VL) {
            FN(dense_rows)(v, a, ld, D, k, j);
            VF s = vload(x + j);
            if (end - k == VL) {
#pragma GCC unroll 16
                for (int q = VL - 1; q >= 0; q--)
                    s = vfnma(v[q], vset1(x[k + q]), s);
            } else {
                for (int64_t q = end - k - 1; q >= 0; q--)
                    s = vfnma(v[q], vset1(x[k + q]), s);
            }
            vstore(x + j, s);
        }
    }
}

static void FN(dense_solve)(int transposed, const REAL *a, int64_t ld, int64_t D,
                            const int32_t *piv, REAL *x)
{
    if (!transposed) {
        FN(dense_exchange)(x, ld, 1, piv, 0, D);
        FN(dense_solve_plain)(a, ld, D, x);
        return;
    }
    FN(dense_solve_transposed)(a, ld, D, x);
    for (int64_t k = D - 1; k >= 0; k--) {
        const REAL t = x[k];
        x[k] = x[piv[k]];
        x[piv[k]] = t;
    }
}

/* LU factorisation of a tile's matrices, and what Newton's method needs around it.
 *
 *     newton_matrix   M = I - hg J
 *     lu_factor       P M = L U, partial pivoting       lu_identity     the factors of I
 *     lu_solve        M x = b          lu_solve_t      M^T x = b
 *     lu_residual     r = b - M x, or b - M^T x
 *
 * A tile's matrices are [D*D][L]: element (i, j) of lane l stands at (i*D + j)*L + l. Vectors are
 * [D][L]. L is 1 or a multiple of VL. lu and piv are opaque: use them with the D and L they were
 * made with. A mask has one element a lane, all ones or all zeros; NULL stands for all lanes.
 * Lanes outside it keep what they have, bit for bit.
 *
 * One elimination order for every kernel: pivots in ascending k; the pivot is the first of the
 * largest |a_ik|, i >= k; multipliers are l_ik = a_ik * (1/u_kk); every element is updated by
 * a_ij = vfnma(l_ik, u_kj, a_ij) in ascending k. Substitution likewise: ascending for L and U^T,
 * descending for U and L^T, one vfnma a term, then times 1/u_kk. Kernels differ in which elements
 * they treat side by side, never in the operations on one element, so a lane's result is a function
 * of its own matrix alone.
 *
 *     D <= NC_LU_SMALL          lu_small.h: vectors along lanes, the matrices in registers
 *     D <= NC_LU_LANES, L > 1   lu_lanes.h: vectors along lanes, a pivot of its own in every lane
 *     other                     lu_dense.h, lu_dense_solve.h: one matrix after the other, vectors
 *                               along a column
 *
 * docs/math/batched-lu.md has the algorithms, the argument for the bits and measured speeds. */
#ifndef NC_LU_LIMITS
#define NC_LU_LIMITS
enum { NC_LU_LANES = 32, NC_LU_SMALL = 4 };
#endif

#include "lu_small.h"
#include "lu_lanes.h"
#include "lu_dense.h"
#include "lu_dense_solve.h"

NC_INLINE int FN(lu_is_dense)(int64_t D, int64_t L)
{
    return D > (L > 1 ? NC_LU_LANES : NC_LU_SMALL);
}

/* Elements of lu. piv has D*L. */
static __attribute__((unused)) size_t FN(lu_work)(int64_t D, int64_t L)
{
    if (FN(lu_is_dense)(D, L))
        return (size_t)((D * L + 1) * FN(dense_ld)(D));
    return (size_t)(L > 1 ? D * D * (L + VL) : D * D);
}

/* Factors of the identity: what lanes without a matrix hold. piv must be valid in every lane that
 * a solve touches, so fresh memory begins with this. */
static __attribute__((unused)) void FN(lu_identity)(REAL *lu, int32_t *piv, int64_t D, int64_t L,
                                                    const RINT *mask)
{
    if (!FN(lu_is_dense)(D, L)) {
        FN(lanes_identity)(lu, piv, D, L, mask);
        return;
    }
    const int64_t ld = FN(dense_ld)(D);
    for (int64_t l = 0; l < L; l++) {
        if (mask && !mask[l])
            continue;
        REAL *a = lu + l * D * ld;
        memset(a, 0, (size_t)(D * ld) * sizeof(REAL));
        for (int64_t k = 0; k < D; k++) {
            a[k * (ld + 1)] = 1;
            piv[l * D + k] = (int32_t)k;
        }
    }
}

/* Factors the matrices of the masked lanes. singular[l] is set where a masked lane has a pivot that
 * is zero or not finite, or too small for 1/pivot to be finite, and cleared everywhere else. The
 * factors of a singular lane are numbers of no use, but safe to solve with. */
static __attribute__((unused)) void FN(lu_factor)(const REAL *M, REAL *lu, int32_t *piv, int64_t D,
                                                  int64_t L, const RINT *mask, uint8_t *singular)
{
    for (int64_t l = 0; l < L; l++)
        singular[l] = 0;
    if (D <= NC_LU_SMALL) {
        FN(small_factor_any)(M, lu, piv, D, L, mask, singular);
        return;
    }
    if (!FN(lu_is_dense)(D, L)) {
        FN(lanes_factor)(M, lu, piv, D, L, mask, singular);
        return;
    }
    const int64_t ld = FN(dense_ld)(D);
    FN(dense_load)(M, lu, D, L, ld, mask);
    for (int64_t l = 0; l < L; l++)
        if (!mask || mask[l])
            singular[l] = (uint8_t)FN(dense_factor)(lu + l * D * ld, ld, D, 0, D, piv + l * D);
}

NC_INLINE void FN(lu_solve_either)(const int transposed, REAL *lu, const int32_t *piv, REAL *b,
                                   int64_t D, int64_t L, const RINT *mask)
{
    if (D <= NC_LU_SMALL) {
        FN(small_solve_any)(transposed, lu, piv, b, D, L, mask);
        return;
    }
    if (!FN(lu_is_dense)(D, L)) {
        FN(lanes_solve)(transposed, lu, piv, b, D, L, mask);
        return;
    }
    const int64_t ld = FN(dense_ld)(D);
    REAL *x = lu + L * D * ld; /* one column more: rows below D are zero */
    for (int64_t l = 0; l < L; l++) {
        if (mask && !mask[l])
            continue;
        for (int64_t i = 0; i < D; i++)
            x[i] = b[i * L + l];
        memset(x + D, 0, (size_t)(ld - D) * sizeof(REAL));
        FN(dense_solve)(transposed, lu + l * D * ld, ld, D, piv + l * D, x);
        for (int64_t i = 0; i < D; i++)
            b[i * L + l] = x[i];
    }
}

/* b = M^-1 b in the masked lanes. Of lu, only scratch space is written. */
static __attribute__((unused)) void FN(lu_solve)(REAL *lu, const int32_t *piv, REAL *b, int64_t D,
                                                 int64_t L, const RINT *mask)
{
    FN(lu_solve_either)(0, lu, piv, b, D, L, mask);
}

/* b = M^-T b */
static __attribute__((unused)) void FN(lu_solve_t)(REAL *lu, const int32_t *piv, REAL *b,
                                                   int64_t D, int64_t L, const RINT *mask)
{
    FN(lu_solve_either)(1, lu, piv, b, D, L, mask);
}

/* ---- Around the factorisation --------------------------------------------------------------- */

/* M = I - hg J, hg [L]; M may be J. */
static __attribute__((unused)) void FN(newton_matrix)(const REAL *J, const REAL *hg, REAL *M,
                                                      int64_t D, int64_t L)
{
    if (L == 1) {
        const VF h = vset1(hg[0]);
        for (int64_t i = 0; i < D; i++, J += D, M += D)
            for (int64_t j = 0; j < D; j += VL) {
                const int m = D - j < VL ? (int)(D - j) : VL;
                const VF delta = vbool(FN(is_row)(viota(), i - j));
                if (m == VL)
                    vstore(M + j, vfnma(h, vload(J + j), delta));
                else
                    vstore_n(M + j, vfnma(h, vload_n(J + j, m), delta), m);
            }
        return;
    }
    for (int64_t l = 0; l < L; l += VL) {
        const VF h = vload(hg + l), one = vset1(1), zero = vset1(0);
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++) {
                const int64_t e = (i * D + j) * L + l;
                vstore(M + e, vfnma(h, vload(J + e), i == j ? one : zero));
            }
    }
}

/* r[i] = b[i] - sum_k A(i, k) x[k], k ascending, for n rows i and VL lanes; A(i, k) stands at
 * i*rs + k*cs and the rows of x, b and r are L apart. */
NC_INLINE void FN(residual_rows)(const int n, const REAL *A, int64_t rs, int64_t cs, const REAL *x,
                                 const REAL *b, REAL *r, int64_t D, int64_t L)
{
    VF acc[4];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        acc[i] = vload(b + i * L);
    for (int64_t k = 0; k < D; k++) {
        const VF xk = vload(x + k * L);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
            acc[i] = vfnma(vload(A + i * rs + k * cs), xk, acc[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        vstore(r + i * L, acc[i]);
}

/* The same for one lane and up to VL rows; the matrix is read in blocks of VL x VL, which are
 * transposed where its rows and not its columns are contiguous. */
static void FN(residual_single)(const REAL *M, const REAL *x, const REAL *b, REAL *r, int64_t D,
                                int transposed)
{
    for (int64_t i = 0; i < D; i += VL) {
        const int m = D - i < VL ? (int)(D - i) : VL;
        VF acc = m < VL ? vload_n(b + i, m) : vload(b + i);
        if (transposed) {
            for (int64_t k = 0; k < D; k++) {
                const REAL *p = M + k * D + i;
                acc = vfnma(m < VL ? vload_n(p, m) : vload(p), vset1(x[k]), acc);
            }
        } else {
            for (int64_t k = 0; k < D; k += VL) {
                const int n = D - k < VL ? (int)(D - k) : VL;
                VF v[VL];
                for (int q = 0; q < VL; q++) {
                    const REAL *p = M + (i + q) * D + k;
                    v[q] = q >= m ? vset1(0) : n < VL ? vload_n(p, n) : vload(p);
                }
                FN(transpose)(v);
                for (int q = 0; q < n; q++)
                    acc = vfnma(v[q], vset1(x[k + q]), acc);
            }
        }
        if (m < VL)
            vstore_n(r + i, acc, m);
        else
            vstore(r + i, acc);
    }
}

/* r = b - M x, or b - M^T x; r may be b. For iterative refinement: solve for r, add to x. */
static __attribute__((unused)) void FN(lu_residual)(const REAL *M, const REAL *x, const REAL *b,
                                                    REAL *r, int64_t D, int64_t L, int transposed)
{
    if (L == 1) {
        FN(residual_single)(M, x, b, r, D, transposed);
        return;
    }
    const int64_t rs = transposed ? L : D * L, cs = transposed ? D * L : L;
    for (int64_t l = 0; l < L; l += VL) {
        int64_t i = 0;
        for (; i + 4 <= D; i += 4)
            FN(residual_rows)(4, M + i * rs + l, rs, cs, x + l, b + i * L + l, r + i * L + l, D, L);
        for (; i < D; i++)
            FN(residual_rows)(1, M + i * rs + l, rs, cs, x + l, b + i * L + l, r + i * L + l, D, L);
    }
}

/* Contractions: affine, matmul, outer.
 *
 *     affine   dst[o,j,i] = c[j] + sum_k a[o,k,i] b[k,j]      b and c uniform
 *     matmul   dst[o,j,i] =        sum_k a[o,k,i] b[k,j]      b of each sample
 *     outer    dst[k,j]   =        sum_o,i a[o,k,i] b[o,j,i]
 *
 * Canonical order, obeyed by every kernel whatever L:
 *   sums run over k (outer: o, then i) in ascending order, one vfma a term, from c[j] or 0;
 *   affine with J < 8: four partial sums s[k mod 4], s0 from c[j], the others from 0, folded
 *   (s0 + s1) + (s2 + s3).
 *
 * Two shapes of register block serve all of it. The index i and the lane are neighbours in memory,
 * so they make one axis w of W = I*L elements:
 *
 *   lanes (vectors along w)               outputs (L = 1 and I = 1: vectors along j)
 *     a[o] is K x W, dst[o] is J x W        a is O x K, b is K x J, dst is O x J
 *     block: rows j.. x vectors of w        block: rows o.. x vectors of j
 *     per k: load a, broadcast b            per k: load b, broadcast a
 *
 * Rows are cut in blocks of nearly equal height, so that no block is left with too few independent
 * sums to hide the latency of the multiply-add. Blocks are macros: the accumulators have to be
 * registers at any level of optimisation.
 *
 * One long file, because all three ops are driven over the same few blocks. */

#ifndef NC_ROWS_1
#define NC_ROWS_1(M, q) M(0, q)
#define NC_ROWS_2(M, q) NC_ROWS_1(M, q) M(1, q)
#define NC_ROWS_3(M, q) NC_ROWS_2(M, q) M(2, q)
#define NC_ROWS_4(M, q) NC_ROWS_3(M, q) M(3, q)
#define NC_ROWS_5(M, q) NC_ROWS_4(M, q) M(4, q)
#define NC_ROWS_6(M, q) NC_ROWS_5(M, q) M(5, q)
#define NC_ROWS_7(M, q) NC_ROWS_6(M, q) M(6, q)
#define NC_ROWS_8(M, q) NC_ROWS_7(M, q) M(7, q)
#define NC_ROWS_9(M, q) NC_ROWS_8(M, q) M(8, q)
#define NC_ROWS_10(M, q) NC_ROWS_9(M, q) M(9, q)
#define NC_ROWS_11(M, q) NC_ROWS_10(M, q) M(10, q)
#define NC_ROWS_12(M, q) NC_ROWS_11(M, q) M(11, q)
#define NC_ROWS_13(M, q) NC_ROWS_12(M, q) M(12, q)
#define NC_ROWS_14(M, q) NC_ROWS_13(M, q) M(13, q)
#define NC_ROWS_15(M, q) NC_ROWS_14(M, q) M(14, q)
#define NC_ROWS_16(M, q) NC_ROWS_15(M, q) M(15, q)

/* VECS(NV): the NV vectors of a row, M(v, r). */
#define NC_VECS_1(M, r) M(0, r)
#define NC_VECS_2(M, r) NC_VECS_1(M, r) M(1, r)
#define NC_VECS_3(M, r) NC_VECS_2(M, r) M(2, r)
#define NC_VECS_4(M, r) NC_VECS_3(M, r) M(3, r)
#define NC_VECS_5(M, r) NC_VECS_4(M, r) M(4, r)
#define NC_VECS_6(M, r) NC_VECS_5(M, r) M(5, r)
#define NC_VECS_7(M, r) NC_VECS_6(M, r) M(6, r)
#define NC_VECS_8(M, r) NC_VECS_7(M, r) M(7, r)
#endif

/* The tallest blocks of one and of two vectors that the registers hold. */
#if NC_VBYTES == 64 || defined(NC_NEON)
#define NC_MAX_ROWS_1 16
#define NC_MAX_ROWS_2 8
#elif NC_VBYTES == 32
#define NC_MAX_ROWS_1 12
#define NC_MAX_ROWS_2 6
#else
#define NC_MAX_ROWS_1 8
#define NC_MAX_ROWS_2 4
#endif
#define NC_MAX_PARTIAL_ROWS_1 4
#define NC_MAX_PARTIAL_ROWS_2 3
#define NC_PARTIAL_BELOW 8 /* outputs */

/* Keeps a vector in a register. A load that is used twice would otherwise be done twice. */
#if defined(__aarch64__)
#define NC_KEEP(v) __asm__("" : "+w"(v))
#elif defined(NC_ISA_AVX512)
#define NC_KEEP(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__) && NC_VBYTES <= 32
#define NC_KEEP(v) __asm__("" : "+x"(v))
#else
#define NC_KEEP(v) (void)0
#endif

/* How many of the `left` rows the next block takes: the last ones are shared out evenly. */
NC_INLINE int64_t FN(next_block)(int64_t left, int64_t tallest)
{
    if (left > 3 * tallest || left <= tallest)
        return left < tallest ? left : tallest;
    return left > 2 * tallest ? (left + 2) / 3 : (left + 1) / 2;
}

/* ---- Blocks along lanes --------------------------------------------------------------------- */

/* d[j, w] for the block's rows j and vectors at w; x is a at w, b and c begin at the block's first
 * row. m elements of the one vector exist in the kernels for W < VL, which the others ignore. */
#define NC_LANES_ARGS                                                                              \
    int64_t K, int64_t J, int64_t W, const REAL *x, const REAL *b, const REAL *c, REAL *d, int m
typedef void (*FN(nc_lanes_block))(NC_LANES_ARGS);

#define NC_X_ALL(v, r) const VF x##v = vload(x + v * VL);
#define NC_X_END(v, r) const VF x##v = vload_n(x, m);
#define NC_D_ALL(r, v, value) vstore(d + r * W + v * VL, value);
#define NC_D_END(r, v, value) vstore_n(d + r * W, value, m);

#define NC_INIT_V(v, r) VF s##r##_##v = i##r;
#define NC_INIT(r, VECS)                                                                           \
    const VF i##r = c ? vset1(c[r]) : vset1(RC(0.0));                                              \
    VECS(NC_INIT_V, r)
#define NC_STEP_V(v, r) s##r##_##v = vfma(w##r, x##v, s##r##_##v);
#define NC_STEP(r, VECS)                                                                           \
    const VF w##r = vset1(b[r]);                                                                   \
    VECS(NC_STEP_V, r)
#define NC_STORE_ALL_V(v, r) NC_D_ALL(r, v, s##r##_##v)
#define NC_STORE_END_V(v, r) NC_D_END(r, v, s##r##_##v)
#define NC_STORE_ALL(r, VECS) VECS(NC_STORE_ALL_V, r)
#define NC_STORE_END(r, VECS) VECS(NC_STORE_END_V, r)

/* The sum over k. Measured: with two vectors, four terms a turn are faster, since the processor can
 * then predict the end of the short loop; with one vector they are slower. The empty statement
 * keeps x and b two plain pointers: left alone, the compiler makes a pointer for each term. */
#define NC_TERM(MR, NV, HOW)                                                                       \
    {                                                                                              \
        NC_VECS_##NV(NC_X_##HOW, 0) NC_ROWS_##MR(NC_STEP, NC_VECS_##NV)                            \
        x += W;                                                                                    \
        b += J;                                                                                    \
        __asm__("" : "+r"(x), "+r"(b));                                                            \
    }
#define NC_TERMS_1(MR, HOW)                                                                        \
    for (; K > 0; K--)                                                                             \
        NC_TERM(MR, 1, HOW)
#define NC_TERMS_2(MR, HOW)                                                                        \
    for (; K >= 4; K -= 4) {                                                                       \
        NC_TERM(MR, 2, HOW)                                                                        \
        NC_TERM(MR, 2, HOW)                                                                        \
        NC_TERM(MR, 2, HOW)                                                                        \
        NC_TERM(MR, 2, HOW)                                                                        \
    }                                                                                              \
    for (; K > 0; K--)                                                                             \
        NC_TERM(MR, 2, HOW)

#define NC_LANES_BLOCK(NAME, MR, NV, HOW)                                                          \
    static void FN(NAME)(NC_LANES_ARGS)                                                            \
    {                                                                                              \
        NC_ROWS_##MR(NC_INIT, NC_VECS_##NV) (void)m;                                               \
        NC_TERMS_##NV(MR, HOW)                                                                     \
        NC_ROWS_##MR(NC_STORE_##HOW, NC_VECS_##NV)                                                 \
    }

NC_LANES_BLOCK(lanes_1x1, 1, 1, ALL)
NC_LANES_BLOCK(lanes_2x1, 2, 1, ALL)
NC_LANES_BLOCK(lanes_3x1, 3, 1, ALL)
NC_LANES_BLOCK(lanes_4x1, 4, 1, ALL)
NC_LANES_BLOCK(lanes_5x1, 5, 1, ALL)
NC_LANES_BLOCK(lanes_6x1, 6, 1, ALL)
NC_LANES_BLOCK(lanes_7x1, 7, 1, ALL)
NC_LANES_BLOCK(lanes_8x1, 8, 1, ALL)
#if NC_MAX_ROWS_1 > 8
NC_LANES_BLOCK(lanes_9x1, 9, 1, ALL)
NC_LANES_BLOCK(lanes_10x1, 10, 1, ALL)
NC_LANES_BLOCK(lanes_11x1, 11, 1, ALL)
NC_LANES_BLOCK(lanes_12x1, 12, 1, ALL)
#endif
#if NC_MAX_ROWS_1 > 12
NC_LANES_BLOCK(lanes_13x1, 13, 1, ALL)
NC_LANES_BLOCK(lanes_14x1, 14, 1, ALL)
NC_LANES_BLOCK(lanes_15x1, 15, 1, ALL)
NC_LANES_BLOCK(lanes_16x1, 16, 1, ALL)
#endif
NC_LANES_BLOCK(lanes_1x2, 1, 2, ALL)
NC_LANES_BLOCK(lanes_2x2, 2, 2, ALL)
NC_LANES_BLOCK(lanes_3x2, 3, 2, ALL)
NC_LANES_BLOCK(lanes_4x2, 4, 2, ALL)
#if NC_MAX_ROWS_2 > 4
NC_LANES_BLOCK(lanes_5x2, 5, 2, ALL)
NC_LANES_BLOCK(lanes_6x2, 6, 2, ALL)
#endif
#if NC_MAX_ROWS_2 > 6
NC_LANES_BLOCK(lanes_7x2, 7, 2, ALL)
NC_LANES_BLOCK(lanes_8x2, 8, 2, ALL)
#endif
NC_LANES_BLOCK(lanes_1xm, 1, 1, END)
NC_LANES_BLOCK(lanes_2xm, 2, 1, END)
NC_LANES_BLOCK(lanes_3xm, 3, 1, END)
NC_LANES_BLOCK(lanes_4xm, 4, 1, END)

/* The same with four partial sums p<row>_<vector>_<k mod 4>: two passes over k, each for two of
 * them, so that taller blocks fit in the registers. */
#define NC_PINIT_V(v, r) VF p##r##_##v##_0 = i##r, p##r##_##v##_1 = zero;
#define NC_PINIT(r, VECS)                                                                          \
    const VF i##r = c ? vset1(c[r]) : zero;                                                        \
    VECS(NC_PINIT_V, r)
#define NC_PNEXT_V(v, r) VF p##r##_##v##_2 = zero, p##r##_##v##_3 = zero;
#define NC_PNEXT(r, VECS) VECS(NC_PNEXT_V, r)
#define NC_PSTEP_V0(v, r) p##r##_##v##_0 = vfma(w##r, x##v, p##r##_##v##_0);
#define NC_PSTEP_V1(v, r) p##r##_##v##_1 = vfma(w##r, x##v, p##r##_##v##_1);
#define NC_PSTEP_V2(v, r) p##r##_##v##_2 = vfma(w##r, x##v, p##r##_##v##_2);
#define NC_PSTEP_V3(v, r) p##r##_##v##_3 = vfma(w##r, x##v, p##r##_##v##_3);
#define NC_PSTEP(r, VECS, q) const VF w##r = vset1(bk[r]); VECS(NC_PSTEP_V##q, r)
#define NC_PSTEP0(r, VECS) NC_PSTEP(r, VECS, 0)
#define NC_PSTEP1(r, VECS) NC_PSTEP(r, VECS, 1)
#define NC_PSTEP2(r, VECS) NC_PSTEP(r, VECS, 2)
#define NC_PSTEP3(r, VECS) NC_PSTEP(r, VECS, 3)
#define NC_PHALF_V(v, r) const VF h##r##_##v = p##r##_##v##_0 + p##r##_##v##_1;
#define NC_PHALF(r, VECS) VECS(NC_PHALF_V, r)
#define NC_FOLD(r, v) h##r##_##v + (p##r##_##v##_2 + p##r##_##v##_3)
#define NC_PSTORE_ALL_V(v, r) NC_D_ALL(r, v, NC_FOLD(r, v))
#define NC_PSTORE_END_V(v, r) NC_D_END(r, v, NC_FOLD(r, v))
#define NC_PSTORE_ALL(r, VECS) VECS(NC_PSTORE_ALL_V, r)
#define NC_PSTORE_END(r, VECS) VECS(NC_PSTORE_END_V, r)

#define NC_PARTIAL_TERM(MR, NV, HOW, q, ahead)                                                     \
    {                                                                                              \
        const REAL *xk = xp + ahead * W, *bk = bp + ahead * J;                                     \
        NC_VECS_##NV(NC_PX_##HOW, 0) NC_ROWS_##MR(NC_PSTEP##q, NC_VECS_##NV)                       \
    }
#define NC_PX_ALL(v, r)                                                                            \
    VF x##v = vload(xk + v * VL);                                                                  \
    NC_KEEP(x##v);
#define NC_PX_END(v, r) const VF x##v = vload_n(xk, m);
#define NC_PARTIAL_PASS(MR, NV, HOW, q0, q1)                                                       \
    {                                                                                              \
        const REAL *xp = x + q0 * W, *bp = b + q0 * J;                                             \
        int64_t k = q0;                                                                            \
        for (; k + 1 < K; k += 4) {                                                                \
            NC_PARTIAL_TERM(MR, NV, HOW, q0, 0)                                                    \
            NC_PARTIAL_TERM(MR, NV, HOW, q1, 1)                                                    \
            xp += 4 * W;                                                                           \
            bp += 4 * J;                                                                           \
            __asm__("" : "+r"(xp), "+r"(bp));                                                      \
        }                                                                                          \
        if (k < K)                                                                                 \
            NC_PARTIAL_TERM(MR, NV, HOW, q0, 0)                                                    \
    }
#define NC_PARTIAL_BLOCK(NAME, MR, NV, HOW)                                                        \
    static void FN(NAME)(NC_LANES_ARGS)                                                            \
    {                                                                                              \
        const VF zero = vset1(RC(0.0));                                                            \
        NC_ROWS_##MR(NC_PINIT, NC_VECS_##NV) (void)m;                                              \
        NC_PARTIAL_PASS(MR, NV, HOW, 0, 1)                                                         \
        NC_ROWS_##MR(NC_PHALF, NC_VECS_##NV) NC_ROWS_##MR(NC_PNEXT, NC_VECS_##NV)                  \
        NC_PARTIAL_PASS(MR, NV, HOW, 2, 3)                                                         \
        NC_ROWS_##MR(NC_PSTORE_##HOW, NC_VECS_##NV)                                                \
    }

NC_PARTIAL_BLOCK(partial_1x1, 1, 1, ALL)
NC_PARTIAL_BLOCK(partial_2x1, 2, 1, ALL)
NC_PARTIAL_BLOCK(partial_3x1, 3, 1, ALL)
NC_PARTIAL_BLOCK(partial_4x1, 4, 1, ALL)
NC_PARTIAL_BLOCK(partial_1x2, 1, 2, ALL)
NC_PARTIAL_BLOCK(partial_2x2, 2, 2, ALL)
NC_PARTIAL_BLOCK(partial_3x2, 3, 2, ALL)
NC_PARTIAL_BLOCK(partial_1xm, 1, 1, END)
NC_PARTIAL_BLOCK(partial_2xm, 2, 1, END)
NC_PARTIAL_BLOCK(partial_3xm, 3, 1, END)

/* All rows at one place along w: blocks[r] is the block of r rows, 1 <= r <= tallest. */
NC_INLINE void FN(all_rows)(const FN(nc_lanes_block) *blocks, int64_t tallest, NC_LANES_ARGS)
{
    for (int64_t left = J; left > 0;) {
        const int64_t rows = FN(next_block)(left, tallest);
        blocks[rows](K, J, W, x, b, c, d, m);
        b += rows;
        c = c ? c + rows : c;
        d += rows * W;
        left -= rows;
    }
}

/* d (J x W) = c + b^T a for a (K x W). The caller says whether the sums are partial, which is part
 * of an op's canonical order. Where W is no multiple of VL the last vector overlaps the one before:
 * those elements are computed twice, with the same bits. */
static NC_APART void FN(along_lanes)(int partial, int64_t K, int64_t J, int64_t W, const REAL *a,
                                     const REAL *b, const REAL *c, REAL *d)
{
    static const FN(nc_lanes_block) full_1[] = {
        NULL, FN(lanes_1x1), FN(lanes_2x1), FN(lanes_3x1), FN(lanes_4x1),
        FN(lanes_5x1), FN(lanes_6x1), FN(lanes_7x1), FN(lanes_8x1),
#if NC_MAX_ROWS_1 > 8
        FN(lanes_9x1), FN(lanes_10x1), FN(lanes_11x1), FN(lanes_12x1),
#endif
#if NC_MAX_ROWS_1 > 12
        FN(lanes_13x1), FN(lanes_14x1), FN(lanes_15x1), FN(lanes_16x1),
#endif
    };
    static const FN(nc_lanes_block) full_2[] = {
        NULL, FN(lanes_1x2), FN(lanes_2x2), FN(lanes_3x2), FN(lanes_4x2),
#if NC_MAX_ROWS_2 > 4
        FN(lanes_5x2), FN(lanes_6x2),
#endif
#if NC_MAX_ROWS_2 > 6
        FN(lanes_7x2), FN(lanes_8x2),
#endif
    };
    static const FN(nc_lanes_block) full_m[] = {
        NULL, FN(lanes_1xm), FN(lanes_2xm), FN(lanes_3xm), FN(lanes_4xm),
    };
    static const FN(nc_lanes_block) partial_1[] = {
        NULL, FN(partial_1x1), FN(partial_2x1), FN(partial_3x1), FN(partial_4x1),
    };
    static const FN(nc_lanes_block) partial_2[] = {
        NULL, FN(partial_1x2), FN(partial_2x2), FN(partial_3x2),
    };
    static const FN(nc_lanes_block) partial_m[] = {
        NULL, FN(partial_1xm), FN(partial_2xm), FN(partial_3xm),
    };

    if (W < VL) {
        if (partial)
            FN(all_rows)(partial_m, 3, K, J, W, a, b, c, d, (int)W);
        else
            FN(all_rows)(full_m, 4, K, J, W, a, b, c, d, (int)W);
        return;
    }
    int64_t w = 0;
    for (; w + 2 * VL <= W; w += 2 * VL) { /* reads b half as often as one vector at a time */
        if (partial)
            FN(all_rows)(partial_2, NC_MAX_PARTIAL_ROWS_2, K, J, W, a + w, b, c, d + w, 0);
        else
            FN(all_rows)(full_2, NC_MAX_ROWS_2, K, J, W, a + w, b, c, d + w, 0);
    }
    for (; w < W; w += VL) {
        const int64_t at = w + VL <= W ? w : W - VL;
        if (partial)
            FN(all_rows)(partial_1, NC_MAX_PARTIAL_ROWS_1, K, J, W, a + at, b, c, d + at, 0);
        else
            FN(all_rows)(full_1, NC_MAX_ROWS_1, K, J, W, a + at, b, c, d + at, 0);
    }
}

/* ---- Blocks along outputs ------------------------------------------------------------------- */

/* d[o, j] for the block's rows o and vectors of j, from a[o, k] = a[o*ao + k*ak] and b[k, j]. The
 * last vector stands `last` elements after the first: less than the even spacing where it overlaps
 * its neighbour to end with the row. */
#define NC_OUTPUTS_ARGS                                                                            \
    int64_t K, int64_t J, const REAL *a, int64_t ao, int64_t ak, const REAL *b, const REAL *c,     \
        int64_t last, REAL *d
typedef void (*FN(nc_outputs_block))(NC_OUTPUTS_ARGS);

#define NC_AT(v, NV) (v + 1 == NV ? last : (int64_t)v * VL)
#define NC_OINIT_V(v, r) VF s##r##_##v = c ? vload(c + NC_AT(v, nv)) : vset1(RC(0.0));
#define NC_OINIT(r, VECS) VECS(NC_OINIT_V, r)
#define NC_OX(v, r) const VF x##v = vload(b + NC_AT(v, nv));
#define NC_OSTEP(r, VECS)                                                                          \
    const VF w##r = vset1(a[r * ao]);                                                              \
    VECS(NC_STEP_V, r)
#define NC_OSTORE_V(v, r) vstore(d + r * J + NC_AT(v, nv), s##r##_##v);
#define NC_OSTORE(r, VECS) VECS(NC_OSTORE_V, r)

#define NC_OUTPUTS_BLOCK(NAME, MR, NV)                                                             \
    static void FN(NAME)(NC_OUTPUTS_ARGS)                                                          \
    {                                                                                              \
        enum { nv = NV };                                                                          \
        NC_ROWS_##MR(NC_OINIT, NC_VECS_##NV) (void)ao;                                             \
        for (int64_t k = 0; k < K; k++, a += ak, b += J) {                                         \
            NC_VECS_##NV(NC_OX, 0) NC_ROWS_##MR(NC_OSTEP, NC_VECS_##NV)                            \
        }                                                                                          \
        NC_ROWS_##MR(NC_OSTORE, NC_VECS_##NV)                                                      \
    }

NC_OUTPUTS_BLOCK(outputs_1x1, 1, 1)
NC_OUTPUTS_BLOCK(outputs_1x2, 1, 2)
NC_OUTPUTS_BLOCK(outputs_1x3, 1, 3)
NC_OUTPUTS_BLOCK(outputs_1x4, 1, 4)
NC_OUTPUTS_BLOCK(outputs_1x5, 1, 5)
NC_OUTPUTS_BLOCK(outputs_1x6, 1, 6)
NC_OUTPUTS_BLOCK(outputs_1x7, 1, 7)
NC_OUTPUTS_BLOCK(outputs_1x8, 1, 8)
NC_OUTPUTS_BLOCK(outputs_4x1, 4, 1)
NC_OUTPUTS_BLOCK(outputs_4x2, 4, 2)

/* Four partial sums, for VL <= J < 8. */
#define NC_OPINIT_V(v, r)                                                                          \
    VF p##r##_##v##_0 = c ? vload(c + NC_AT(v, nv)) : zero;                                        \
    VF p##r##_##v##_1 = zero, p##r##_##v##_2 = zero, p##r##_##v##_3 = zero;
#define NC_OPTERM(NV, q)                                                                           \
    {                                                                                              \
        const VF w0 = vset1(*a);                                                                   \
        NC_VECS_##NV(NC_OX, 0) NC_VECS_##NV(NC_PSTEP_V##q, 0)                                      \
        a += ak;                                                                                   \
        b += J;                                                                                    \
    }
#define NC_OPSTORE_V(v, r)                                                                         \
    vstore(d + NC_AT(v, nv), (p##r##_##v##_0 + p##r##_##v##_1) + (p##r##_##v##_2 + p##r##_##v##_3));

#define NC_OUTPUTS_PARTIAL(NAME, NV)                                                               \
    static void FN(NAME)(NC_OUTPUTS_ARGS)                                                          \
    {                                                                                              \
        enum { nv = NV };                                                                          \
        const VF zero = vset1(RC(0.0));                                                            \
        NC_VECS_##NV(NC_OPINIT_V, 0) (void)ao;                                                     \
        for (; K >= 4; K -= 4) {                                                                   \
            NC_OPTERM(NV, 0)                                                                       \
            NC_OPTERM(NV, 1)                                                                       \
            NC_OPTERM(NV, 2)                                                                       \
            NC_OPTERM(NV, 3)                                                                       \
        }                                                                                          \
        if (K > 0)                                                                                 \
            NC_OPTERM(NV, 0)                                                                       \
        if (K > 1)                                                                                 \
            NC_OPTERM(NV, 1)                                                                       \
        if (K > 2)                                                                                 \
            NC_OPTERM(NV, 2)                                                                       \
        NC_VECS_##NV(NC_OPSTORE_V, 0)                                                              \
    }

#if VL < NC_PARTIAL_BELOW
NC_OUTPUTS_PARTIAL(outputs_partial_1, 1)
NC_OUTPUTS_PARTIAL(outputs_partial_2, 2)
#endif

/* One row of J < VL outputs. Rows of b are read as whole vectors while these end inside b: what
 * stands in the lanes from J on is discarded. */
static NC_APART void FN(few_outputs)(int partial, int64_t K, int64_t J, const REAL *a, int64_t ak,
                                     const REAL *b, const REAL *c, REAL *d)
{
    const int m = (int)J;
    const VF zero = vset1(RC(0.0));
    VF s0 = c ? FN(load_head)(c, m) : zero;
    if (partial) {
        VF s1 = zero, s2 = zero, s3 = zero;
        for (; K >= 4 && K * J >= 3 * J + VL; K -= 4, a += 4 * ak, b += 4 * J) {
            s0 = vfma(vset1(a[0]), vload(b), s0);
            s1 = vfma(vset1(a[ak]), vload(b + J), s1);
            s2 = vfma(vset1(a[2 * ak]), vload(b + 2 * J), s2);
            s3 = vfma(vset1(a[3 * ak]), vload(b + 3 * J), s3);
        }
        for (; K > 0; K -= 4, a += 4 * ak, b += 4 * J) {
            s0 = vfma(vset1(a[0]), FN(load_head)(b, m), s0);
            if (K > 1)
                s1 = vfma(vset1(a[ak]), FN(load_head)(b + J, m), s1);
            if (K > 2)
                s2 = vfma(vset1(a[2 * ak]), FN(load_head)(b + 2 * J, m), s2);
            if (K > 3)
                s3 = vfma(vset1(a[3 * ak]), FN(load_head)(b + 3 * J, m), s3);
        }
        s0 = (s0 + s1) + (s2 + s3);
    } else {
        for (; K * J >= VL; K--, a += ak, b += J)
            s0 = vfma(vset1(*a), vload(b), s0);
        for (; K > 0; K--, a += ak, b += J)
            s0 = vfma(vset1(*a), FN(load_head)(b, m), s0);
    }
    FN(store_head)(d, s0, m);
}

static const FN(nc_outputs_block) FN(outputs_row)[] = {
    NULL, FN(outputs_1x1), FN(outputs_1x2), FN(outputs_1x3), FN(outputs_1x4),
    FN(outputs_1x5), FN(outputs_1x6), FN(outputs_1x7), FN(outputs_1x8),
};
static const FN(nc_outputs_block) FN(outputs_rows)[] = {NULL, FN(outputs_4x1), FN(outputs_4x2)};
#if VL < NC_PARTIAL_BELOW
static const FN(nc_outputs_block) FN(outputs_partial)[] = {
    NULL, FN(outputs_partial_1), FN(outputs_partial_2),
};
#else
#define NC_ALL_FEW /* J < 8 is J < VL */
#endif

/* d (O x J) = c + a b for a[o, k] = a[o*ao + k*ak] and b (K x J). */
static NC_APART void FN(along_outputs)(int partial, int64_t O, int64_t K, int64_t J, const REAL *a,
                                       int64_t ao, int64_t ak, const REAL *b, const REAL *c,
                                       REAL *d)
{
    while (O > 0) {
        int64_t rows = 1;
        if (J < VL) {
            FN(few_outputs)(partial, K, J, a, ak, b, c, d);
        } else {
            const FN(nc_outputs_block) *blocks = FN(outputs_row);
            int64_t widest = 8;
#ifndef NC_ALL_FEW
            if (partial) {
                blocks = FN(outputs_partial);
                widest = 2;
            }
#endif
            if (O >= 4 && !partial) {
                blocks = FN(outputs_rows);
                widest = 2;
                rows = 4;
            }
            for (int64_t j = 0; j < J;) {
                const int64_t nv = FN(next_block)((J - j + VL - 1) / VL, widest);
                const int64_t end = j + nv * VL <= J ? j + nv * VL : J;
                /* The last vector of a block of one may have to begin earlier itself. */
                const int64_t first = nv == 1 ? end - VL : j;
                const int64_t last = end - VL - first;
                blocks[nv](K, J, a, ao, ak, b + first, c ? c + first : c, last, d + first);
                j += nv * VL;
            }
        }
        a += rows * ao;
        d += rows * J;
        O -= rows;
    }
}

/* One row, without the detours where one block does: a small network of one sample spends as long
 * on the way to its multiply-adds as in them. */
NC_INLINE void FN(one_output_row)(int partial, int64_t K, int64_t J, const REAL *a, int64_t ak,
                                  const REAL *b, const REAL *c, REAL *d)
{
    const int64_t nv = (J + VL - 1) / VL;
    if (J < VL)
        FN(few_outputs)(partial, K, J, a, ak, b, c, d);
    else if (!partial && nv <= 8)
        FN(outputs_row)[nv](K, J, a, 0, ak, b, c, J - VL, d);
#ifndef NC_ALL_FEW
    else if (partial && nv <= 2)
        FN(outputs_partial)[nv](K, J, a, 0, ak, b, c, J - VL, d);
#endif
    else
        FN(along_outputs)(partial, 1, K, J, a, 0, ak, b, c, d);
}

/* ---- Products of each sample's own matrices, L > 1 ------------------------------------------- */

/* d[t, j] = sum_k a[t, k] b[k, j] for TR rows t (a pointer each) and JR columns j. */
NC_INLINE void FN(matmul_block)(const int TR, const int JR, int64_t K, int64_t L,
                                const REAL *const *a, int64_t ak, const REAL *b, int64_t bk,
                                REAL *const *d, int64_t dj)
{
    for (int64_t l = 0; l < L; l += VL) {
        VF s[2][4];
#pragma GCC unroll 2
        for (int t = 0; t < TR; t++)
#pragma GCC unroll 4
            for (int j = 0; j < JR; j++)
                s[t][j] = vset1(RC(0.0));
        for (int64_t k = 0; k < K; k++) {
            VF y[4];
#pragma GCC unroll 4
            for (int j = 0; j < JR; j++)
                y[j] = vload(b + k * bk + j * L + l);
#pragma GCC unroll 2
            for (int t = 0; t < TR; t++) {
                const VF x = vload(a[t] + k * ak + l);
#pragma GCC unroll 4
                for (int j = 0; j < JR; j++)
                    s[t][j] = vfma(x, y[j], s[t][j]);
            }
        }
#pragma GCC unroll 2
        for (int t = 0; t < TR; t++)
#pragma GCC unroll 4
            for (int j = 0; j < JR; j++)
                vstore(d[t] + j * dj + l, s[t][j]);
    }
}

static NC_APART void FN(matmul_lanes)(int64_t O, int64_t K, int64_t J, int64_t I, int64_t L,
                                      const REAL *a, const REAL *b, REAL *d)
{
    const int64_t T = O * I; /* rows (o, i) */
    for (int64_t t = 0; t < T; t += 2) {
        const int two = t + 1 < T;
        const REAL *x[2];
        REAL *y[2];
        for (int u = 0; u <= two; u++) {
            const int64_t o = (t + u) / I, i = (t + u) % I;
            x[u] = a + (o * K * I + i) * L;
            y[u] = d + (o * J * I + i) * L;
        }
        for (int64_t j = 0; j < J;) {
            const int four = j + 4 <= J;
            const REAL *bj = b + j * L;
            REAL *yj[2] = {y[0] + j * I * L, two ? y[1] + j * I * L : NULL};
            if (two && four)
                FN(matmul_block)(2, 4, K, L, x, I * L, bj, J * L, yj, I * L);
            else if (two)
                FN(matmul_block)(2, 1, K, L, x, I * L, bj, J * L, yj, I * L);
            else if (four)
                FN(matmul_block)(1, 4, K, L, x, I * L, bj, J * L, yj, I * L);
            else
                FN(matmul_block)(1, 1, K, L, x, I * L, bj, J * L, yj, I * L);
            j += four ? 4 : 1;
        }
    }
}

/* d[k, j] = sum_o,i a[o, k, i] b[o, j, i] for KR x JR outputs. */
NC_INLINE void FN(outer_block)(const int KR, const int JR, int64_t O, int64_t K, int64_t J,
                               int64_t I, int64_t L, const REAL *a, const REAL *b, REAL *d)
{
    for (int64_t l = 0; l < L; l += VL) {
        VF s[4][2];
#pragma GCC unroll 4
        for (int k = 0; k < KR; k++)
#pragma GCC unroll 2
            for (int j = 0; j < JR; j++)
                s[k][j] = vset1(RC(0.0));
        for (int64_t o = 0; o < O; o++)
            for (int64_t i = 0; i < I; i++) {
                const REAL *ai = a + (o * K * I + i) * L + l, *bi = b + (o * J * I + i) * L + l;
                VF y[2];
#pragma GCC unroll 2
                for (int j = 0; j < JR; j++)
                    y[j] = vload(bi + j * I * L);
#pragma GCC unroll 4
                for (int k = 0; k < KR; k++) {
                    const VF x = vload(ai + k * I * L);
#pragma GCC unroll 2
                    for (int j = 0; j < JR; j++)
                        s[k][j] = vfma(x, y[j], s[k][j]);
                }
            }
#pragma GCC unroll 4
        for (int k = 0; k < KR; k++)
#pragma GCC unroll 2
            for (int j = 0; j < JR; j++)
                vstore(d + (k * J + j) * L + l, s[k][j]);
    }
}

static NC_APART void FN(outer_lanes)(int64_t O, int64_t K, int64_t J, int64_t I, int64_t L,
                                     const REAL *a, const REAL *b, REAL *d)
{
    for (int64_t k = 0; k < K;) {
        const int four = k + 4 <= K;
        for (int64_t j = 0; j < J;) {
            const int two = j + 2 <= J;
            const REAL *ak = a + k * I * L, *bj = b + j * I * L;
            REAL *dkj = d + (k * J + j) * L;
            if (four && two)
                FN(outer_block)(4, 2, O, K, J, I, L, ak, bj, dkj);
            else if (four)
                FN(outer_block)(4, 1, O, K, J, I, L, ak, bj, dkj);
            else if (two)
                FN(outer_block)(1, 2, O, K, J, I, L, ak, bj, dkj);
            else
                FN(outer_block)(1, 1, O, K, J, I, L, ak, bj, dkj);
            j += two ? 2 : 1;
        }
        k += four ? 4 : 1;
    }
}

/* One sample with I > 1: neither k nor j are contiguous, so one number at a time. The first lane
 * of a vector is used because a scalar multiply-add need not round as vfma does. */
static void FN(outer_single)(int64_t O, int64_t K, int64_t J, int64_t I, const REAL *a,
                             const REAL *b, REAL *d)
{
    for (int64_t k = 0; k < K; k++)
        for (int64_t j = 0; j < J; j++) {
            VF s = vset1(RC(0.0));
            for (int64_t o = 0; o < O; o++)
                for (int64_t i = 0; i < I; i++)
                    s = vfma(vset1(a[(o * K + k) * I + i]), vset1(b[(o * J + j) * I + i]), s);
            d[k * J + j] = s[0];
        }
}

/* ---- Instructions --------------------------------------------------------------------------- */

#define NC_SHAPE                                                                                   \
    const int64_t O = in->p[0], K = in->p[1], J = in->p[2], I = in->p[3];                          \
    (void)ipool, (void)sinks

static void FN(op_affine)(NC_KERNEL_ARGS)
{
    NC_SHAPE;
    const int partial = J < NC_PARTIAL_BELOW;
    const int64_t W = I * L;
    const REAL *a = FN(at)(in->a, base, L), *b = FN(at)(in->b, base, L);
    const REAL *c = in->c.kind == NC_ABSENT ? NULL : FN(at)(in->c, base, L);
    REAL *d = FN(at)(in->dst, base, L);
    if (W == 1 && O == 1)
        FN(one_output_row)(partial, K, J, a, 1, b, c, d);
    else if (W == 1)
        FN(along_outputs)(partial, O, K, J, a, K, 1, b, c, d);
    else
        for (int64_t o = 0; o < O; o++)
            FN(along_lanes)(partial, K, J, W, a + o * K * W, b, c, d + o * J * W);
}

static void FN(op_matmul)(NC_KERNEL_ARGS)
{
    NC_SHAPE;
    const REAL *a = FN(at)(in->a, base, L), *b = FN(at)(in->b, base, L);
    REAL *d = FN(at)(in->dst, base, L);
    if (L > 1)
        FN(matmul_lanes)(O, K, J, I, L, a, b, d);
    else if (I == 1)
        FN(along_outputs)(0, O, K, J, a, K, 1, b, NULL, d);
    else
        for (int64_t o = 0; o < O; o++)
            FN(along_lanes)(0, K, J, I, a + o * K * I, b, NULL, d + o * J * I);
}

static void FN(op_outer)(NC_KERNEL_ARGS)
{
    NC_SHAPE;
    const REAL *a = FN(at)(in->a, base, L), *b = FN(at)(in->b, base, L);
    REAL *d = FN(at)(in->dst, base, L);
    if (L > 1)
        FN(outer_lanes)(O, K, J, I, L, a, b, d);
    else if (I == 1)
        FN(along_outputs)(0, K, O, J, a, 1, K, b, NULL, d);
    else
        FN(outer_single)(O, K, J, I, a, b, d);
}

#undef NC_MAX_ROWS_1
#undef NC_MAX_ROWS_2
#undef NC_MAX_PARTIAL_ROWS_1
#undef NC_MAX_PARTIAL_ROWS_2
#undef NC_PARTIAL_BELOW
#undef NC_KEEP
#undef NC_LANES_ARGS
#undef NC_X_ALL
#undef NC_X_END
#undef NC_D_ALL
#undef NC_D_END
#undef NC_INIT_V
#undef NC_INIT
#undef NC_STEP_V
#undef NC_STEP
#undef NC_STORE_ALL_V
#undef NC_STORE_END_V
#undef NC_STORE_ALL
#undef NC_STORE_END
#undef NC_TERM
#undef NC_TERMS_1
#undef NC_TERMS_2
#undef NC_LANES_BLOCK
#undef NC_PINIT_V
#undef NC_PINIT
#undef NC_PNEXT_V
#undef NC_PNEXT
#undef NC_PSTEP_V0
#undef NC_PSTEP_V1
#undef NC_PSTEP_V2
#undef NC_PSTEP_V3
#undef NC_PSTEP
#undef NC_PSTEP0
#undef NC_PSTEP1
#undef NC_PSTEP2
#undef NC_PSTEP3
#undef NC_PHALF_V
#undef NC_PHALF
#undef NC_FOLD
#undef NC_PSTORE_ALL_V
#undef NC_PSTORE_END_V
#undef NC_PSTORE_ALL
#undef NC_PSTORE_END
#undef NC_PARTIAL_TERM
#undef NC_PX_ALL
#undef NC_PX_END
#undef NC_PARTIAL_PASS
#undef NC_PARTIAL_BLOCK
#undef NC_OUTPUTS_ARGS
#undef NC_AT
#undef NC_OINIT_V
#undef NC_OINIT
#undef NC_OX
#undef NC_OSTEP
#undef NC_OSTORE_V
#undef NC_OSTORE
#undef NC_OUTPUTS_BLOCK
#undef NC_OPINIT_V
#undef NC_OPTERM
#undef NC_OPSTORE_V
#undef NC_OUTPUTS_PARTIAL
#undef NC_ALL_FEW
#undef NC_SHAPE

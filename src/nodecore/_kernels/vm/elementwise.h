/* Elementwise instructions: for each op of ops.def one kernel for tiles and one for single samples.
 *
 *     LANE  [n][L]   ROW  [1][L], the same for every row   UNI  [n]   USC  [1]
 *
 * op_<name>, L > 1. Where the operands are LANE or USC, all is one row of n*L elements, which is
 * the path of nearly all instructions; a scalar field spends its time in the few nanoseconds of
 * overhead here. Otherwise rows_<name> goes row by row.
 *
 * single_<name>, L = 1. Everything is one row of n elements; ROW and USC are one number.
 *
 * Every element is loaded before its result is stored, so the destination may be a LANE operand
 * itself. */

#define NC_KERNEL_ARGS                                                                             \
    const nc_instr *in, REAL *const *base, int64_t L, const int32_t *ipool, nc_sinks *sinks
#define NC_KERNEL_UNUSED (void)ipool, (void)sinks
/* A function that stays as it is written: its callers end in a jump to it. */
#if defined(__clang__)
#define NC_APART __attribute__((noinline))
#else
#define NC_APART __attribute__((noinline, noclone))
#endif

/* ---- Operands -------------------------------------------------------------------------------- */

/* Where an operand begins: LANE and ROW ones count rows of L elements, UNI and USC ones of 1. */
NC_INLINE REAL *FN(at_lanes)(nc_operand o, REAL *const *base, int64_t L)
{
    return base[o.space] + (int64_t)o.off * L;
}

NC_INLINE REAL *FN(at_uniform)(nc_operand o, REAL *const *base)
{
    return base[o.space] + o.off;
}

NC_INLINE REAL *FN(at)(nc_operand o, REAL *const *base, int64_t L)
{
    return o.kind < NC_UNI ? FN(at_lanes)(o, base, L) : FN(at_uniform)(o, base);
}

/* The first m elements of a vector, 0 < m < VL. AVX2's masked store takes a dozen cycles on some
 * processors, and a masked load cannot take its data from a store still under way: these use moves
 * of 16, 8 and 4 bytes, so that what one instruction stores the next can load at once. */
#if defined(NC_ISA_AVX2) && defined(NC_REAL_IS_F64)

NC_INLINE VF FN(load_head)(const REAL *p, int m)
{
    __m256d v;
    if (m == 1)
        v = _mm256_zextpd128_pd256(_mm_load_sd(p));
    else if (m == 2)
        v = _mm256_zextpd128_pd256(_mm_loadu_pd(p));
    else
        v = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_load_sd(p + 2), 1);
    return (VF)v;
}

NC_INLINE void FN(store_head)(REAL *p, VF v, int m)
{
    const __m128d low = _mm256_castpd256_pd128((__m256d)v);
    if (m == 1) {
        _mm_store_sd(p, low);
    } else {
        _mm_storeu_pd(p, low);
        if (m == 3)
            _mm_store_sd(p + 2, _mm256_extractf128_pd((__m256d)v, 1));
    }
}

#elif defined(NC_ISA_AVX2)

NC_INLINE VF FN(load_head)(const REAL *p, int m)
{
    if (m == 1)
        return (VF)_mm256_zextps128_ps256(_mm_load_ss(p));
    const REAL *rest = p + (m & 4);
    __m128 low = _mm_setzero_ps();
    if (m & 2) {
        low = _mm_loadl_pi(low, (const __m64 *)rest);
        if (m & 1)
            low = _mm_movelh_ps(low, _mm_load_ss(rest + 2));
    } else if (m & 1) {
        low = _mm_load_ss(rest);
    }
    return (VF)(m & 4 ? _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), low, 1)
                      : _mm256_zextps128_ps256(low));
}

NC_INLINE void FN(store_head)(REAL *p, VF v, int m)
{
    __m128 low = _mm256_castps256_ps128((__m256)v);
    if (m & 4) {
        _mm_storeu_ps(p, low);
        low = _mm256_extractf128_ps((__m256)v, 1);
        p += 4;
    }
    if (m & 2) {
        _mm_storel_pi((__m64 *)p, low);
        low = _mm_movehl_ps(low, low);
        p += 2;
    }
    if (m & 1)
        _mm_store_ss(p, low);
}

#else
NC_INLINE VF FN(load_head)(const REAL *p, int m) { return vload_n(p, m); }
NC_INLINE void FN(store_head)(REAL *p, VF v, int m) { vstore_n(p, v, m); }
#endif

/* ---- Loops ----------------------------------------------------------------------------------- */

/* An operand x of a row-by-row or single kernel: a pointer, the number that stands for a whole row
 * where it is one (x_one), and the elements from row to row. */
#define NC_ROW_OPERAND(x)                                                                          \
    const REAL *x = FN(at)(in->x, base, L);                                                        \
    const int x##_one = in->x.kind >= NC_UNI;                                                      \
    const int64_t x##_step = in->x.kind == NC_LANE ? L : in->x.kind == NC_UNI
#define NC_SINGLE_OPERAND(x)                                                                       \
    const REAL *x = FN(at_uniform)(in->x, base);                                                   \
    const int x##_one = in->x.kind & 1;                                                            \
    const VF x##_splat = vset1(*x)
#define NC_ROW_VALUE(x) (x##_one ? x##_splat : vload(x + l))
#define NC_HEAD_VALUE(x) (x##_one ? x##_splat : FN(load_head)(x + l, (int)m))

/* Whole vectors of a row of `size` elements. The empty statement keeps the compiler from making a
 * call to memcpy out of `copy`. */
#define NC_PLAIN_LOOP __asm__ volatile("")
#define NC_FLAT(value)                                                                             \
    do {                                                                                           \
        vstore(d + l, value);                                                                      \
        l += VL;                                                                                   \
        NC_PLAIN_LOOP;                                                                             \
    } while (l < size)

#define NC_SINGLE(whole, head)                                                                     \
    REAL *d = FN(at_uniform)(in->dst, base);                                                       \
    int64_t l = 0, m = in->n;                                                                      \
    for (; m >= VL; m -= VL) {                                                                     \
        vstore(d + l, whole);                                                                      \
        l += VL;                                                                                   \
        NC_PLAIN_LOOP;                                                                             \
    }                                                                                              \
    if (m > 0)                                                                                     \
        FN(store_head)(d + l, head, (int)m);                                                       \
    (void)L

#define NC_TILE_FRAME                                                                              \
    REAL *d = FN(at_lanes)(in->dst, base, L);                                                      \
    const int64_t size = in->n * L;                                                                \
    int64_t l = 0

#define UNARY(name)                                                                                \
    static NC_APART void FN(rows_##name)(NC_KERNEL_ARGS)                                           \
    {                                                                                              \
        NC_ROW_OPERAND(a);                                                                         \
        REAL *d = FN(at_lanes)(in->dst, base, L);                                                  \
        const int64_t size = L;                                                                    \
        NC_KERNEL_UNUSED;                                                                          \
        for (int32_t rows = in->n; rows > 0; rows--, a += a_step, d += L) {                        \
            const VF a_splat = vset1(*a);                                                          \
            int64_t l = 0;                                                                         \
            NC_FLAT(v_##name(NC_ROW_VALUE(a)));                                                    \
        }                                                                                          \
    }                                                                                              \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        if (in->a.kind != NC_LANE) {                                                               \
            FN(rows_##name)(in, base, L, ipool, sinks);                                            \
            return;                                                                                \
        }                                                                                          \
        NC_TILE_FRAME;                                                                             \
        const REAL *a = FN(at_lanes)(in->a, base, L);                                              \
        NC_FLAT(v_##name(vload(a + l)));                                                           \
    }                                                                                              \
    static void FN(single_##name)(NC_KERNEL_ARGS)                                                  \
    {                                                                                              \
        NC_SINGLE_OPERAND(a);                                                                      \
        NC_KERNEL_UNUSED;                                                                          \
        NC_SINGLE(v_##name(NC_ROW_VALUE(a)), v_##name(NC_HEAD_VALUE(a)));                          \
    }

#define BINARY(name)                                                                               \
    static NC_APART void FN(rows_##name)(NC_KERNEL_ARGS)                                           \
    {                                                                                              \
        NC_ROW_OPERAND(a);                                                                         \
        NC_ROW_OPERAND(b);                                                                         \
        REAL *d = FN(at_lanes)(in->dst, base, L);                                                  \
        const int64_t size = L;                                                                    \
        NC_KERNEL_UNUSED;                                                                          \
        for (int32_t rows = in->n; rows > 0; rows--, a += a_step, b += b_step, d += L) {           \
            const VF a_splat = vset1(*a), b_splat = vset1(*b);                                     \
            int64_t l = 0;                                                                         \
            NC_FLAT(v_##name(NC_ROW_VALUE(a), NC_ROW_VALUE(b)));                                   \
        }                                                                                          \
    }                                                                                              \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        const unsigned kinds = in->a.kind * 4u + in->b.kind;                                       \
        if (kinds == NC_LANE * 4 + NC_LANE) {                                                      \
            NC_TILE_FRAME;                                                                         \
            const REAL *a = FN(at_lanes)(in->a, base, L), *b = FN(at_lanes)(in->b, base, L);       \
            NC_FLAT(v_##name(vload(a + l), vload(b + l)));                                         \
        } else if (kinds == NC_LANE * 4 + NC_USC) {                                                \
            NC_TILE_FRAME;                                                                         \
            const REAL *a = FN(at_lanes)(in->a, base, L);                                          \
            const VF b = vset1(*FN(at_uniform)(in->b, base));                                      \
            NC_FLAT(v_##name(vload(a + l), b));                                                    \
        } else if (kinds == NC_USC * 4 + NC_LANE) {                                                \
            NC_TILE_FRAME;                                                                         \
            const VF a = vset1(*FN(at_uniform)(in->a, base));                                      \
            const REAL *b = FN(at_lanes)(in->b, base, L);                                          \
            NC_FLAT(v_##name(a, vload(b + l)));                                                    \
        } else {                                                                                   \
            FN(rows_##name)(in, base, L, ipool, sinks);                                            \
        }                                                                                          \
    }                                                                                              \
    static void FN(single_##name)(NC_KERNEL_ARGS)                                                  \
    {                                                                                              \
        NC_SINGLE_OPERAND(a);                                                                      \
        NC_SINGLE_OPERAND(b);                                                                      \
        NC_KERNEL_UNUSED;                                                                          \
        NC_SINGLE(v_##name(NC_ROW_VALUE(a), NC_ROW_VALUE(b)),                                      \
                  v_##name(NC_HEAD_VALUE(a), NC_HEAD_VALUE(b)));                                   \
    }

#define TERNARY(name)                                                                              \
    static NC_APART void FN(rows_##name)(NC_KERNEL_ARGS)                                           \
    {                                                                                              \
        NC_ROW_OPERAND(a);                                                                         \
        NC_ROW_OPERAND(b);                                                                         \
        NC_ROW_OPERAND(c);                                                                         \
        REAL *d = FN(at_lanes)(in->dst, base, L);                                                  \
        const int64_t size = L;                                                                    \
        NC_KERNEL_UNUSED;                                                                          \
        for (int32_t rows = in->n; rows > 0; rows--) {                                             \
            const VF a_splat = vset1(*a), b_splat = vset1(*b), c_splat = vset1(*c);                \
            int64_t l = 0;                                                                         \
            NC_FLAT(v_##name(NC_ROW_VALUE(a), NC_ROW_VALUE(b), NC_ROW_VALUE(c)));                  \
            a += a_step;                                                                           \
            b += b_step;                                                                           \
            c += c_step;                                                                           \
            d += L;                                                                                \
        }                                                                                          \
    }                                                                                              \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        if ((in->a.kind | in->b.kind | in->c.kind) != NC_LANE) {                                   \
            FN(rows_##name)(in, base, L, ipool, sinks);                                            \
            return;                                                                                \
        }                                                                                          \
        NC_TILE_FRAME;                                                                             \
        const REAL *a = FN(at_lanes)(in->a, base, L), *b = FN(at_lanes)(in->b, base, L);           \
        const REAL *c = FN(at_lanes)(in->c, base, L);                                              \
        NC_FLAT(v_##name(vload(a + l), vload(b + l), vload(c + l)));                               \
    }                                                                                              \
    static void FN(single_##name)(NC_KERNEL_ARGS)                                                  \
    {                                                                                              \
        NC_SINGLE_OPERAND(a);                                                                      \
        NC_SINGLE_OPERAND(b);                                                                      \
        NC_SINGLE_OPERAND(c);                                                                      \
        NC_KERNEL_UNUSED;                                                                          \
        NC_SINGLE(v_##name(NC_ROW_VALUE(a), NC_ROW_VALUE(b), NC_ROW_VALUE(c)),                     \
                  v_##name(NC_HEAD_VALUE(a), NC_HEAD_VALUE(b), NC_HEAD_VALUE(c)));                 \
    }

#define OTHER(name)
#include "../ops.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef OTHER

#undef NC_ROW_OPERAND
#undef NC_SINGLE_OPERAND
#undef NC_ROW_VALUE
#undef NC_HEAD_VALUE
#undef NC_PLAIN_LOOP
#undef NC_FLAT
#undef NC_SINGLE
#undef NC_TILE_FRAME

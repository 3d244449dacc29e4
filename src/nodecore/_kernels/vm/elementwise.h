/* Elementwise instructions: one kernel an op of ops.def, each a frame of loops around v_<op>.
 *
 * A kernel sees `rows` rows of `width` elements. When every operand is LANE, or L is 1, all is one
 * row of n*L elements; otherwise there are n rows of L. In a row an operand is either a vector
 * stream (V) or one number for the whole row (S):
 *
 *               L > 1                 L = 1
 *     LANE      V, next row + L       V
 *     ROW       V, next row + 0       S
 *     UNI       S, next row + 1       V
 *     USC       S, next row + 0       S
 *
 * Every element is loaded before its result is stored, so the destination may be a LANE operand
 * itself. */

/* Where an operand begins. Off-by-lane operands count rows of L elements, uniform ones of 1. */
NC_INLINE REAL *FN(at)(nc_operand o, REAL *const *base, int64_t L)
{
    return base[o.space] + (int64_t)o.off * (o.kind < NC_UNI ? L : 1);
}

/* The elements a row of an operand advances by when L > 1. */
NC_INLINE int64_t FN(row_stride)(nc_operand o, int64_t L)
{
    return o.kind == NC_LANE ? L : o.kind == NC_UNI;
}

/* Whether an operand is one number for a whole row (S of the table above). */
NC_INLINE int FN(is_splat)(nc_operand o, int64_t L)
{
    return L == 1 ? o.kind & 1 : o.kind >> 1;
}

/* How an operand is read at the start of a row, for a whole vector and for the last m elements. */
#define NC_ROW_V(p) vset1(RC(0.0))
#define NC_ROW_S(p) vset1(*(p))
#define NC_ALL_V(p, s) vload((p) + l)
#define NC_ALL_S(p, s) (s)
#define NC_END_V(p, s) vload_n((p) + l, m)
#define NC_END_S(p, s) (s)

/* One row: ALL over whole vectors, END over the m elements left. */
#define NC_ALONG_ROW(ALL, END)                                                                     \
    int64_t l = 0;                                                                                 \
    for (; l + VL <= width; l += VL)                                                               \
        vstore(d + l, ALL);                                                                        \
    if (l < width) {                                                                               \
        const int m = (int)(width - l);                                                            \
        vstore_n(d + l, END, m);                                                                   \
    }                                                                                              \
    d += width

#define NC_LOOP1(name, A)                                                                          \
    for (; rows > 0; rows--, a += a_row) {                                                         \
        const VF sa = NC_ROW_##A(a);                                                               \
        (void)sa;                                                                                  \
        NC_ALONG_ROW(v_##name(NC_ALL_##A(a, sa)), v_##name(NC_END_##A(a, sa)));                    \
    }

#define NC_LOOP2(name, A, B)                                                                       \
    for (; rows > 0; rows--, a += a_row, b += b_row) {                                             \
        const VF sa = NC_ROW_##A(a), sb = NC_ROW_##B(b);                                           \
        (void)sa, (void)sb;                                                                        \
        NC_ALONG_ROW(v_##name(NC_ALL_##A(a, sa), NC_ALL_##B(b, sb)),                               \
                     v_##name(NC_END_##A(a, sa), NC_END_##B(b, sb)));                              \
    }

#define NC_LOOP3(name, A, B, C)                                                                    \
    for (; rows > 0; rows--, a += a_row, b += b_row, c += c_row) {                                 \
        const VF sa = NC_ROW_##A(a), sb = NC_ROW_##B(b), sc = NC_ROW_##C(c);                       \
        (void)sa, (void)sb, (void)sc;                                                              \
        NC_ALONG_ROW(v_##name(NC_ALL_##A(a, sa), NC_ALL_##B(b, sb), NC_ALL_##C(c, sc)),            \
                     v_##name(NC_END_##A(a, sa), NC_END_##B(b, sb), NC_END_##C(c, sc)));           \
    }

#define NC_KERNEL_ARGS                                                                             \
    const nc_instr *in, REAL *const *base, int64_t L, const int32_t *ipool, nc_sinks *sinks

/* `some`: the kinds of all operands or-ed; 0 says that all are LANE. */
#define NC_FRAME(some)                                                                             \
    const int flat = L == 1 || (some) == NC_LANE;                                                  \
    int64_t rows = flat ? 1 : in->n;                                                               \
    const int64_t width = flat ? in->n * L : L;                                                    \
    REAL *d = FN(at)(in->dst, base, L);                                                            \
    (void)ipool, (void)sinks

#define NC_OPERAND(x)                                                                              \
    const REAL *x = FN(at)(in->x, base, L);                                                        \
    const int64_t x##_row = FN(row_stride)(in->x, L)

#define UNARY(name)                                                                                \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        NC_FRAME(in->a.kind);                                                                      \
        NC_OPERAND(a);                                                                             \
        if (!FN(is_splat)(in->a, L)) {                                                             \
            NC_LOOP1(name, V)                                                                      \
        } else {                                                                                   \
            for (; rows > 0; rows--, a += a_row) {                                                 \
                const VF value = v_##name(vset1(*a));                                              \
                NC_ALONG_ROW(value, value);                                                        \
            }                                                                                      \
        }                                                                                          \
    }

#define BINARY(name)                                                                               \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        NC_FRAME(in->a.kind | in->b.kind);                                                         \
        NC_OPERAND(a);                                                                             \
        NC_OPERAND(b);                                                                             \
        switch (FN(is_splat)(in->a, L) * 2 + FN(is_splat)(in->b, L)) {                             \
        case 0:                                                                                    \
            NC_LOOP2(name, V, V) break;                                                            \
        case 1:                                                                                    \
            NC_LOOP2(name, V, S) break;                                                            \
        case 2:                                                                                    \
            NC_LOOP2(name, S, V) break;                                                            \
        default:                                                                                   \
            for (; rows > 0; rows--, a += a_row, b += b_row) {                                     \
                const VF value = v_##name(vset1(*a), vset1(*b));                                   \
                NC_ALONG_ROW(value, value);                                                        \
            }                                                                                      \
        }                                                                                          \
    }

#define TERNARY(name)                                                                              \
    static void FN(op_##name)(NC_KERNEL_ARGS)                                                      \
    {                                                                                              \
        NC_FRAME(in->a.kind | in->b.kind | in->c.kind);                                            \
        NC_OPERAND(a);                                                                             \
        NC_OPERAND(b);                                                                             \
        NC_OPERAND(c);                                                                             \
        switch (FN(is_splat)(in->a, L) * 4 + FN(is_splat)(in->b, L) * 2 +                          \
                FN(is_splat)(in->c, L)) {                                                          \
        case 0:                                                                                    \
            NC_LOOP3(name, V, V, V) break;                                                         \
        case 1:                                                                                    \
            NC_LOOP3(name, V, V, S) break;                                                         \
        case 2:                                                                                    \
            NC_LOOP3(name, V, S, V) break;                                                         \
        case 3:                                                                                    \
            NC_LOOP3(name, V, S, S) break;                                                         \
        case 4:                                                                                    \
            NC_LOOP3(name, S, V, V) break;                                                         \
        case 5:                                                                                    \
            NC_LOOP3(name, S, V, S) break;                                                         \
        case 6:                                                                                    \
            NC_LOOP3(name, S, S, V) break;                                                         \
        default:                                                                                   \
            NC_LOOP3(name, S, S, S)                                                                \
        }                                                                                          \
    }

#define OTHER(name)
#include "../ops.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef OTHER

#undef NC_OPERAND
#undef NC_FRAME
#undef NC_LOOP1
#undef NC_LOOP2
#undef NC_LOOP3
#undef NC_ALONG_ROW
#undef NC_ROW_V
#undef NC_ROW_S
#undef NC_ALL_V
#undef NC_ALL_S
#undef NC_END_V
#undef NC_END_S

/* Instructions that read rows by an index table: gather and segsum.
 *
 * Their operand may be of any kind: ROW and USC have one row, which every index means; UNI has one
 * number a row, the same in every lane. */

/* VL lanes, from lane l on, of an operand's row r. For L > 1. */
NC_INLINE VF FN(row_vector)(nc_operand o, const REAL *p, int64_t r, int64_t L, int64_t l)
{
    switch (o.kind) {
    case NC_LANE:
        return vload(p + r * L + l);
    case NC_ROW:
        return vload(p + l);
    case NC_UNI:
        return vset1(p[r]);
    default:
        return vset1(*p);
    }
}

/* Runs of consecutive rows are copied as one. */
static void FN(op_gather)(NC_KERNEL_ARGS)
{
    const int32_t *idx = ipool + in->aux;
    const REAL *a = FN(at)(in->a, base, L);
    REAL *d = FN(at)(in->dst, base, L);
    const int64_t n = in->n;
    (void)sinks;
    if (L == 1) {
        const int64_t step = !(in->a.kind & 1); /* LANE and UNI: a number a row; ROW, USC: one */
        for (int64_t r = 0; r < n; r++)
            d[r] = idx[r] < 0 ? RC(0.0) : a[idx[r] * step];
        return;
    }
    for (int64_t r = 0; r < n;) {
        int64_t run = 1;
        if (in->a.kind == NC_LANE && idx[r] >= 0) {
            while (r + run < n && idx[r + run] == idx[r] + run)
                run++;
            const REAL *from = a + idx[r] * L;
            for (int64_t e = 0; e < run * L; e += VL)
                vstore(d + r * L + e, vload(from + e));
        } else {
            for (int64_t l = 0; l < L; l += VL)
                vstore(d + r * L + l, idx[r] < 0 ? vset1(RC(0.0))
                                                 : FN(row_vector)(in->a, a, idx[r], L, l));
        }
        r += run;
    }
}

/* Canonical order of a sum of n terms. n <= 8: ascending from the first term (0 for none). More:
 * eight partial sums by position modulo 8, each ascending from its first term, folded
 *     ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)). */
#define NC_SEGSUM(TYPE, TERM)                                                                      \
    TYPE s;                                                                                        \
    if (len <= 8) {                                                                                \
        s = len > 0 ? TERM(0) : (TYPE){0};                                                         \
        for (int64_t e = 1; e < len; e++)                                                          \
            s = s + TERM(e);                                                                       \
    } else {                                                                                       \
        TYPE s0 = TERM(0), s1 = TERM(1), s2 = TERM(2), s3 = TERM(3);                               \
        TYPE s4 = TERM(4), s5 = TERM(5), s6 = TERM(6), s7 = TERM(7);                               \
        int64_t e = 8;                                                                             \
        for (; e + 8 <= len; e += 8) {                                                             \
            s0 = s0 + TERM(e);                                                                     \
            s1 = s1 + TERM(e + 1);                                                                 \
            s2 = s2 + TERM(e + 2);                                                                 \
            s3 = s3 + TERM(e + 3);                                                                 \
            s4 = s4 + TERM(e + 4);                                                                 \
            s5 = s5 + TERM(e + 5);                                                                 \
            s6 = s6 + TERM(e + 6);                                                                 \
            s7 = s7 + TERM(e + 7);                                                                 \
        }                                                                                          \
        if (e < len)                                                                               \
            s0 = s0 + TERM(e);                                                                     \
        if (e + 1 < len)                                                                           \
            s1 = s1 + TERM(e + 1);                                                                 \
        if (e + 2 < len)                                                                           \
            s2 = s2 + TERM(e + 2);                                                                 \
        if (e + 3 < len)                                                                           \
            s3 = s3 + TERM(e + 3);                                                                 \
        if (e + 4 < len)                                                                           \
            s4 = s4 + TERM(e + 4);                                                                 \
        if (e + 5 < len)                                                                           \
            s5 = s5 + TERM(e + 5);                                                                 \
        if (e + 6 < len)                                                                           \
            s6 = s6 + TERM(e + 6);                                                                 \
        s = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7));                                     \
    }

#define NC_TERM_SINGLE(e) a[seg[e] * step]
#define NC_TERM_LANES(e) vload(al + seg[e] * L)
#define NC_TERM_ANY(e) FN(row_vector)(in->a, a, seg[e], L, l)

static void FN(op_segsum)(NC_KERNEL_ARGS)
{
    const int32_t *ptr = ipool + in->aux, *idx = ptr + in->n + 1;
    const REAL *a = FN(at)(in->a, base, L);
    REAL *d = FN(at)(in->dst, base, L);
    (void)sinks;
    for (int64_t r = 0; r < in->n; r++) {
        const int32_t *seg = idx + ptr[r];
        const int64_t len = ptr[r + 1] - ptr[r];
        if (L == 1) {
            const int64_t step = !(in->a.kind & 1);
            NC_SEGSUM(REAL, NC_TERM_SINGLE)
            d[r] = s;
        } else if (in->a.kind == NC_LANE) {
            for (int64_t l = 0; l < L; l += VL) {
                const REAL *al = a + l;
                NC_SEGSUM(VF, NC_TERM_LANES)
                vstore(d + r * L + l, s);
            }
        } else {
            for (int64_t l = 0; l < L; l += VL) {
                NC_SEGSUM(VF, NC_TERM_ANY)
                vstore(d + r * L + l, s);
            }
        }
    }
}

#undef NC_SEGSUM
#undef NC_TERM_SINGLE
#undef NC_TERM_LANES
#undef NC_TERM_ANY

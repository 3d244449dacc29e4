/* Gradient sinks: acc[acc_off + k*J + j] += sum over o, i and lanes of x[o,k,i] g[o,j,i].
 *
 * A run of a program adds O*I*L columns (o, i, lane) to a panel. Their products are summed in the
 * element type over at most `cap` columns and then added to the float64 accumulator. There are
 * three layouts; which one a panel uses is a function of its instruction and of L:
 *
 *   lane sums  [K*J][VL]   one running sum for each output and vector lane, straight from the
 *                          registers; for few outputs, and for biases (K = 1, no x)
 *   sums       [J]         the same for L = 1 and no x
 *   tiles                  everything else: the columns are kept until there are cap of them, and
 *                          then multiplied, X^T G, in register blocks
 *
 * Tiles hold x and g as [row / VL][column][row % VL]: VL rows of a column next to each other,
 * because then a block of outputs is accumulated in registers without a sum across lanes, and the
 * block reads its panels from end to end. One side (x or g, the one that fills its vectors better)
 * is read as vectors, the other one number at a time. With L > 1 the columns arrive as rows of
 * lanes, and are transposed in blocks of VL x VL when they are pushed.
 *
 * All sums are functions of the sequence of pushes alone. Lanes that are held have g = 0 and a
 * finite x.
 *
 * One long file: the layouts differ in how they push and flush, and share everything else. */

#ifndef NC_PANEL_MODES
#define NC_PANEL_MODES
enum { NC_PANEL_LANE_SUMS, NC_PANEL_SUMS, NC_PANEL_TILES };
#endif
#define NC_MODE(panel) (panel)->unused

/* Columns that are summed in the element type. Tiles: 512 bytes a row, which is 128 terms of a sum
 * in float32. Lane sums: 64 terms a lane. */
#define NC_TILE_COLUMNS ((int64_t)(512 / sizeof(REAL)))
#define NC_LANE_COLUMNS ((int64_t)(64 * VL))

/* ---- Transposition of VL x VL ---------------------------------------------------------------- */

#if defined(__clang__) || __GNUC__ >= 12
#define NC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define NC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VI){__VA_ARGS__})
#endif

/* NC_SWAP_s: a row pair (r, r + s) exchanges its off-diagonal blocks of s lanes. In float32 the
 * steps s = 1 and 2 are one zip and one pairing inside 16 bytes, which are single instructions. */
#if defined(NC_REAL_IS_F64) && NC_VBYTES == 16
#define NC_LO_1 0, 2
#define NC_HI_1 1, 3
#elif defined(NC_REAL_IS_F64) && NC_VBYTES == 32
#define NC_LO_1 0, 4, 2, 6
#define NC_HI_1 1, 5, 3, 7
#define NC_LO_2 0, 1, 4, 5
#define NC_HI_2 2, 3, 6, 7
#elif defined(NC_REAL_IS_F64)
#define NC_LO_1 0, 8, 2, 10, 4, 12, 6, 14
#define NC_HI_1 1, 9, 3, 11, 5, 13, 7, 15
#define NC_LO_2 0, 1, 8, 9, 4, 5, 12, 13
#define NC_HI_2 2, 3, 10, 11, 6, 7, 14, 15
#define NC_LO_4 0, 1, 2, 3, 8, 9, 10, 11
#define NC_HI_4 4, 5, 6, 7, 12, 13, 14, 15
#elif NC_VBYTES == 16
#define NC_LO_1 0, 4, 1, 5
#define NC_HI_1 2, 6, 3, 7
#define NC_LO_2 0, 1, 4, 5
#define NC_HI_2 2, 3, 6, 7
#elif NC_VBYTES == 32
#define NC_LO_1 0, 8, 1, 9, 4, 12, 5, 13
#define NC_HI_1 2, 10, 3, 11, 6, 14, 7, 15
#define NC_LO_2 0, 1, 8, 9, 4, 5, 12, 13
#define NC_HI_2 2, 3, 10, 11, 6, 7, 14, 15
#define NC_LO_4 0, 1, 2, 3, 8, 9, 10, 11
#define NC_HI_4 4, 5, 6, 7, 12, 13, 14, 15
#else
#define NC_LO_1 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define NC_HI_1 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define NC_LO_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define NC_HI_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define NC_LO_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define NC_HI_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define NC_LO_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define NC_HI_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#endif

#define NC_STAGE(s)                                                                                \
    _Pragma("GCC unroll 16") for (int r = 0; r < VL; r++) if (!(r & s))                            \
    {                                                                                              \
        const VF a = v[r], b = v[r + s];                                                           \
        v[r] = NC_SHUFFLE(a, b, NC_LO_##s);                                                        \
        v[r + s] = NC_SHUFFLE(a, b, NC_HI_##s);                                                    \
    }

/* v[r][l] <-> v[l][r] */
NC_INLINE void FN(transpose)(VF *v)
{
#if defined(NC_REAL_IS_F64)
    NC_STAGE(1)
#if VL >= 4
    NC_STAGE(2)
#endif
#else
#pragma GCC unroll 4
    for (int q = 0; q < VL; q += 4) {
        const VF t0 = NC_SHUFFLE(v[q], v[q + 1], NC_LO_1), t1 = NC_SHUFFLE(v[q], v[q + 1], NC_HI_1);
        const VF t2 = NC_SHUFFLE(v[q + 2], v[q + 3], NC_LO_1);
        const VF t3 = NC_SHUFFLE(v[q + 2], v[q + 3], NC_HI_1);
        v[q] = NC_SHUFFLE(t0, t2, NC_LO_2);
        v[q + 1] = NC_SHUFFLE(t0, t2, NC_HI_2);
        v[q + 2] = NC_SHUFFLE(t1, t3, NC_LO_2);
        v[q + 3] = NC_SHUFFLE(t1, t3, NC_HI_2);
    }
#endif
#if VL >= 8
    NC_STAGE(4)
#endif
#if VL >= 16
    NC_STAGE(8)
#endif
}

/* ---- Operands -------------------------------------------------------------------------------- */

/* An operand with R rows an o, each W = I*L elements: element w of row r (counted over all o). */
typedef struct {
    const REAL *p;
    int64_t R, I, L, W;
    int kind;
} FN(nc_columns);

static FN(nc_columns) FN(columns_of)(nc_operand o, REAL *const *base, int64_t L, int64_t R,
                                     int64_t I)
{
    /* For one sample a uniform operand is an ordinary one, and a single row a single number. */
    const int kind = L == 1 ? (o.kind & 1 ? NC_USC : NC_LANE) : o.kind;
    return (FN(nc_columns)){FN(at)(o, base, L), R, I, L, I * L, kind};
}

/* Elements w, ..., w + VL - 1 of row r; m of them exist where VL do not (L = 1 only). */
NC_INLINE VF FN(column_vector)(const FN(nc_columns) *x, int64_t r, int64_t w, int m)
{
    switch (x->kind) {
    case NC_LANE:
        return m == VL ? vload(x->p + r * x->W + w) : vload_n(x->p + r * x->W + w, m);
    case NC_ROW:
        return vload(x->p + w % x->L);
    case NC_UNI:
        return vset1(x->p[r * x->I + w / x->L]);
    default:
        return vset1(*x->p);
    }
}

/* ---- Lane sums ------------------------------------------------------------------------------- */

/* s[a*a_step + b*b_step] += x[a] y[b] for A rows of x and B rows of y, over n columns: one vector
 * of them, or two at a time. */
NC_INLINE void FN(rank_one)(const int two, int64_t A, int64_t B, const REAL *x, const REAL *y,
                            int64_t W, REAL *s, int64_t a_step, int64_t b_step)
{
    for (; A > 0; A--, x += W, s += a_step) {
        const VF x0 = vload(x), x1 = two ? vload(x + VL) : x0;
        const REAL *yb = y;
        REAL *to = s;
        for (int64_t b = 0; b < B; b++, yb += W, to += b_step) {
            VF sum = vfma(x0, vload(yb), vload(to));
            if (two)
                sum = vfma(x1, vload(yb + VL), sum);
            vstore(to, sum);
        }
    }
}

/* s[k*J + j] += x[k] g[j], lane by lane, over the n columns of group o from w on. */
static NC_APART void FN(push_lane_sums)(const FN(nc_columns) *x, const FN(nc_columns) *g,
                                        int64_t o, int64_t w, int64_t n, REAL *s)
{
    const int64_t K = x->R, J = g->R, W = g->W;
    const REAL *gp = g->p + o * J * W + w;
    if (x->kind == NC_ABSENT && g->kind == NC_LANE) {
        for (int64_t j = 0; j < J; j++, gp += W, s += VL) {
            VF sum = vload(s);
            for (int64_t c = 0; c < n; c += VL)
                sum = sum + vload(gp + c);
            vstore(s, sum);
        }
    } else if (x->kind == NC_LANE && g->kind == NC_LANE) {
        const REAL *xp = x->p + o * K * W + w;
        for (int64_t c = 0; c < n;) { /* the longer side is the inner loop */
            const int two = c + 2 * VL <= n;
            if (K <= J && two)
                FN(rank_one)(1, K, J, xp + c, gp + c, W, s, J * VL, VL);
            else if (K <= J)
                FN(rank_one)(0, K, J, xp + c, gp + c, W, s, J * VL, VL);
            else if (two)
                FN(rank_one)(1, J, K, gp + c, xp + c, W, s, VL, J * VL);
            else
                FN(rank_one)(0, J, K, gp + c, xp + c, W, s, VL, J * VL);
            c += two ? 2 * VL : VL;
        }
    } else {
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < J; j++, s += VL) {
                VF sum = vload(s);
                for (int64_t c = w; c < w + n; c += VL) {
                    const VF gc = FN(column_vector)(g, o * J + j, c, VL);
                    sum = x->kind == NC_ABSENT
                              ? sum + gc
                              : vfma(FN(column_vector)(x, o * K + k, c, VL), gc, sum);
                }
                vstore(s, sum);
            }
    }
}

/* acc[i] += the sum of s[i] over its lanes, for VL outputs at once. */
static void FN(flush_lane_sums)(int64_t n, const REAL *s, double *acc)
{
    for (int64_t i = 0; i < n; i += VL) {
        VF v[VL];
#pragma GCC unroll 16
        for (int q = 0; q < VL; q++)
            v[q] = vload(s + (i + q) * VL);
        FN(transpose)(v);
#pragma GCC unroll 4
        for (int h = VL / 2; h > 0; h /= 2)
#pragma GCC unroll 8
            for (int q = 0; q < h; q++)
                v[q] = v[q] + v[q + h];
        if (i + VL <= n)
            vacc_f64(acc + i, v[0]);
        else
            for (int q = 0; q < n - i; q++)
                acc[i + q] += (double)v[0][q];
    }
}

/* ---- Sums of one sample's rows --------------------------------------------------------------- */

static NC_APART void FN(push_sums)(const FN(nc_columns) *g, int64_t o, int64_t w, int64_t n,
                                   REAL *s)
{
    const int64_t J = g->R;
    if (g->kind == NC_LANE && g->W == 1) {
        const REAL *p = g->p + o * J;
        int64_t j = 0;
        for (; j + VL <= J; j += VL)
            vstore(s + j, vload(s + j) + vload(p + j));
        for (; j < J; j++)
            s[j] = s[j] + p[j];
        return;
    }
    for (int64_t j = 0; j < J; j++)
        for (int64_t c = w; c < w + n; c++)
            s[j] = s[j] + (g->kind == NC_LANE ? g->p[(o * J + j) * g->W + c] : *g->p);
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* Puts m columns of VL rows, each given as a vector, into a panel. */
NC_INLINE void FN(store_columns)(REAL *to, VF *v, int m)
{
    FN(transpose)(v);
#pragma GCC unroll 16
    for (int q = 0; q < VL; q++)
        if (q < m)
            vstore(to + q * VL, v[q]);
}

/* The same from rows of any kind, and where fewer than VL rows or columns are left. Below the last
 * row stands a copy of it, which takes part in no output. */
static NC_APART void FN(push_block)(const FN(nc_columns) *x, int64_t row, int64_t last, int64_t w,
                                    int m, REAL *to)
{
    VF v[VL];
    for (int q = 0; q < VL; q++)
        v[q] = FN(column_vector)(x, row + q < last ? row + q : last, w, m);
    FN(store_columns)(to, v, m);
}

/* Puts n columns of group o, from w on, into a side of a panel; to: where its first row and the
 * first of these columns stand, step: from VL rows to the next. */
static NC_APART void FN(push_tiles)(const FN(nc_columns) *x, int64_t o, int64_t w, int64_t n,
                                    REAL *to, int64_t step)
{
    const int64_t R = x->R, W = x->W;
    int64_t r = 0;
    if (x->kind == NC_LANE && W == 1) {
        const REAL *p = x->p + o * R;
        for (; r + VL <= R; r += VL, to += step)
            vstore(to, vload(p + r));
        if (r < R)
            vstore(to, FN(load_head)(p + r, (int)(R - r)));
        return;
    }
    if (x->kind == NC_LANE && n % VL == 0)
        for (; r + VL <= R; r += VL, to += step) {
            const REAL *p = x->p + (o * R + r) * W + w;
            for (int64_t c = 0; c < n; c += VL) {
                const REAL *row = p + c;
                VF v[VL];
#pragma GCC unroll 16
                for (int q = 0; q < VL; q++, row += W)
                    v[q] = vload(row);
                FN(store_columns)(to + c * VL, v, VL);
            }
        }
    for (; r < R; r += VL, to += step)
        for (int64_t c = 0; c < n; c += VL)
            FN(push_block)(x, o * R + r, o * R + R - 1, w + c, n - c < VL ? (int)(n - c) : VL,
                           to + c * VL);
}

/* out[row][vector] = sum over n columns of number[row] * vector. */
#define NC_TILE_ARGS int64_t n, const REAL *numbers, const REAL *vectors, int64_t step, REAL *out
typedef void (*FN(nc_tile_block))(NC_TILE_ARGS);

#define NC_TINIT_V(v, r) VF s##r##_##v = vset1(RC(0.0));
#define NC_TINIT(r, VECS) VECS(NC_TINIT_V, r)
#define NC_TX(v, r) const VF x##v = vload(vectors + v * step);
#define NC_TSTEP_V(v, r) s##r##_##v = vfma(w##r, x##v, s##r##_##v);
#define NC_TSTEP(r, VECS)                                                                          \
    const VF w##r = vset1(numbers[r / VL * step + r % VL]);                                        \
    VECS(NC_TSTEP_V, r)
#define NC_TSTORE_V(v, r) vstore(out + (r * nv + v) * VL, s##r##_##v);
#define NC_TSTORE(r, VECS) VECS(NC_TSTORE_V, r)

#define NC_TILE_BLOCK(NAME, MR, NV)                                                                \
    static void FN(NAME)(NC_TILE_ARGS)                                                             \
    {                                                                                              \
        enum { nv = NV };                                                                          \
        NC_ROWS_##MR(NC_TINIT, NC_VECS_##NV) (void)step;                                           \
        for (int64_t c = 0; c < n; c++, numbers += VL, vectors += VL) {                            \
            NC_VECS_##NV(NC_TX, 0) NC_ROWS_##MR(NC_TSTEP, NC_VECS_##NV)                            \
        }                                                                                          \
        NC_ROWS_##MR(NC_TSTORE, NC_VECS_##NV)                                                      \
    }

NC_TILE_BLOCK(tile_1x1, 1, 1)
NC_TILE_BLOCK(tile_1x2, 1, 2)
NC_TILE_BLOCK(tile_1x3, 1, 3)
NC_TILE_BLOCK(tile_2x1, 2, 1)
NC_TILE_BLOCK(tile_2x2, 2, 2)
NC_TILE_BLOCK(tile_2x3, 2, 3)
NC_TILE_BLOCK(tile_4x1, 4, 1)
NC_TILE_BLOCK(tile_4x2, 4, 2)
NC_TILE_BLOCK(tile_4x3, 4, 3)
NC_TILE_BLOCK(tile_8x1, 8, 1)
#if NC_VBYTES == 64 || defined(NC_NEON)
#define NC_TILE_ROWS 8
NC_TILE_BLOCK(tile_8x2, 8, 2)
NC_TILE_BLOCK(tile_8x3, 8, 3)
#else
#define NC_TILE_ROWS 4
#endif
#if NC_VBYTES == 16 && !defined(NC_NEON)
#define NC_TILE_VECTORS 2
#else
#define NC_TILE_VECTORS 3
#endif

/* acc[r*row + c*col] += sums[r][c], r < rows, c < columns; the rows of sums are `width` apart. */
static void FN(add_tile)(double *acc, int64_t row, int64_t col, const REAL *sums, int64_t rows,
                         int64_t columns, int64_t width)
{
    for (; rows > 0; rows--, acc += row, sums += width) {
        int64_t c = 0;
        if (col == 1)
            for (; c + VL <= columns; c += VL)
                vacc_f64(acc + c, vload(sums + c));
        for (; c < columns; c++)
            acc[c * col] += (double)sums[c];
    }
}

static NC_APART void FN(flush_tiles)(const nc_panel *panel, const REAL *buf, double *acc)
{
    static const FN(nc_tile_block) blocks[][4] = {
        [1] = {NULL, FN(tile_1x1), FN(tile_1x2), FN(tile_1x3)},
        [2] = {NULL, FN(tile_2x1), FN(tile_2x2), FN(tile_2x3)},
        [4] = {NULL, FN(tile_4x1), FN(tile_4x2), FN(tile_4x3)},
#if NC_TILE_ROWS == 8
        [8] = {NULL, FN(tile_8x1), FN(tile_8x2), FN(tile_8x3)},
#else
        [8] = {NULL, FN(tile_8x1)},
#endif
    };
    const int64_t K = panel->K, J = panel->J, step = (int64_t)panel->cap * VL;
    const int g_vectors = (J + VL - 1) / VL * K <= (K + VL - 1) / VL * J;
    const REAL *numbers = buf + (g_vectors ? panel->x_off : panel->g_off);
    const REAL *vectors = buf + (g_vectors ? panel->g_off : panel->x_off);
    const int64_t R = g_vectors ? K : J, C = g_vectors ? J : K;
    const int64_t row = g_vectors ? J : 1, col = g_vectors ? 1 : J;
    REAL sums[(NC_TILE_ROWS * NC_TILE_VECTORS > 8 ? NC_TILE_ROWS * NC_TILE_VECTORS : 8) * VL];

    for (int64_t c = 0; c < C;) {
        const int64_t nv = FN(next_block)((C - c + VL - 1) / VL, NC_TILE_VECTORS);
        const int64_t columns = C - c < nv * VL ? C - c : nv * VL;
        int64_t rows = nv == 1 ? 8 : NC_TILE_ROWS;
        for (int64_t r = 0; r < R; r += rows) {
            while (rows > R - r)
                rows /= 2;
            blocks[rows][nv](panel->fill, numbers + r / VL * step + r % VL, vectors, step, sums);
            FN(add_tile)(acc + r * row + c * col, row, col, sums, rows, columns, nv * VL);
        }
        c += nv * VL;
        vectors += nv * step;
    }
}

/* ---- The sink -------------------------------------------------------------------------------- */

static NC_APART void FN(flush_one)(nc_sinks *sinks, nc_panel *panel)
{
    const REAL *buf = sinks->buf;
    double *acc = sinks->acc + panel->acc_off;
    switch (NC_MODE(panel)) {
    case NC_PANEL_LANE_SUMS:
        FN(flush_lane_sums)((int64_t)panel->K * panel->J, buf + panel->x_off, acc);
        break;
    case NC_PANEL_SUMS:
        for (int64_t j = 0; j < panel->J; j++)
            acc[j] += (double)buf[panel->x_off + j];
        break;
    default:
        FN(flush_tiles)(panel, buf, acc);
    }
    panel->fill = 0;
}

static void FN(op_acc)(NC_KERNEL_ARGS)
{
    nc_panel *panel = sinks->panels + in->panel;
    REAL *buf = sinks->buf;
    const int64_t O = in->p[0], K = panel->K, J = panel->J, I = in->p[3], W = I * L;
    const int64_t cap = panel->cap;
    const FN(nc_columns) g = FN(columns_of)(in->b, base, L, J, I);
    FN(nc_columns) x = {NULL, K, I, L, W, NC_ABSENT};
    const int mode = NC_MODE(panel);
    (void)ipool;
    if (panel->has_x)
        x = FN(columns_of)(in->a, base, L, K, I);
    for (int64_t o = 0; o < O; o++)
        for (int64_t w = 0; w < W;) {
            const int64_t fill = panel->fill;
            const int64_t n = W - w < cap - fill ? W - w : cap - fill;
            switch (mode) {
            case NC_PANEL_LANE_SUMS:
                if (fill == 0)
                    memset(buf + panel->x_off, 0, (size_t)(K * J * VL) * sizeof(REAL));
                FN(push_lane_sums)(&x, &g, o, w, n, buf + panel->x_off);
                break;
            case NC_PANEL_SUMS:
                if (fill == 0)
                    memset(buf + panel->x_off, 0, (size_t)J * sizeof(REAL));
                FN(push_sums)(&g, o, w, n, buf + panel->x_off);
                break;
            default:
                FN(push_tiles)(&x, o, w, n, buf + panel->x_off + fill * VL, cap * VL);
                FN(push_tiles)(&g, o, w, n, buf + panel->g_off + fill * VL, cap * VL);
            }
            panel->fill += (int32_t)n;
            w += n;
            if (panel->fill == cap)
                FN(flush_one)(sinks, panel);
        }
}

/* Adds what the panels still hold to the accumulator. */
static __attribute__((unused)) void FN(panel_flush)(nc_sinks *sinks)
{
    for (int32_t i = 0; i < sinks->n_panels; i++)
        if (sinks->panels[i].fill > 0)
            FN(flush_one)(sinks, sinks->panels + i);
}

/* Elements of a part of a panel with so many rows of `width`, in whole vectors and cache lines. */
NC_INLINE int64_t FN(part_size)(int64_t rows, int64_t width)
{
    return ((rows + VL - 1) / VL * VL * width + 15) / 16 * 16;
}

/* Fills the panels of a program, one for each acc instruction, for runs with L lanes. Returns the
 * number of elements that nc_sinks.buf needs. */
static __attribute__((unused)) size_t FN(panel_layout)(const nc_program *p, int64_t L,
                                                       nc_panel *panels)
{
    int64_t size = 0;
    for (int32_t i = 0; i < p->n_instr; i++) {
        const nc_instr *in = p->code + i;
        if (in->op != NC_OP_acc)
            continue;
        nc_panel *panel = panels + in->panel;
        const int has_x = in->a.kind != NC_ABSENT;
        const int64_t K = has_x ? in->p[1] : 1, J = in->p[2];
        int mode;
        if (L == 1 && !has_x)
            mode = NC_PANEL_SUMS;
        else if (L > 1 && (!has_x || K * J <= 4 * (K + J))) /* measured: where both cost the same */
            mode = NC_PANEL_LANE_SUMS;
        else
            mode = NC_PANEL_TILES;
        /* A whole number of runs where they fit, so that a run's columns are not split. */
        const int64_t run = (int64_t)in->p[0] * in->p[3] * L;
        const int64_t most = mode == NC_PANEL_LANE_SUMS ? NC_LANE_COLUMNS : NC_TILE_COLUMNS;
        const int64_t cap = run < most ? most / run * run : most;
        *panel = (nc_panel){.K = (int32_t)K, .J = (int32_t)J, .cap = (int32_t)cap, .fill = 0,
                            .acc_off = in->aux, .has_x = has_x};
        NC_MODE(panel) = mode;
        panel->x_off = panel->g_off = size;
        if (mode == NC_PANEL_LANE_SUMS)
            size += FN(part_size)(K * J, VL);
        else if (mode == NC_PANEL_SUMS)
            size += FN(part_size)(J, 1);
        else {
            panel->g_off += FN(part_size)(K, cap);
            size = panel->g_off + FN(part_size)(J, cap);
        }
    }
    return (size_t)size;
}

#undef NC_MODE
#undef NC_TILE_COLUMNS
#undef NC_LANE_COLUMNS
#undef NC_SHUFFLE
#undef NC_LO_1
#undef NC_HI_1
#undef NC_LO_2
#undef NC_HI_2
#undef NC_LO_4
#undef NC_HI_4
#undef NC_LO_8
#undef NC_HI_8
#undef NC_STAGE
#undef NC_TILE_ARGS
#undef NC_TINIT_V
#undef NC_TINIT
#undef NC_TX
#undef NC_TSTEP_V
#undef NC_TSTEP
#undef NC_TSTORE_V
#undef NC_TSTORE
#undef NC_TILE_BLOCK
#undef NC_TILE_ROWS
#undef NC_TILE_VECTORS

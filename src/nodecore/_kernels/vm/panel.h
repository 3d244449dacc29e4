/* Gradient sinks: acc[acc_off + k*J + j] += sum over o, i and lanes of x[o,k,i] g[o,j,i], and where the
 * instruction asks for it acc[bias_off + j] += sum of g[o,j,i].
 *
 * A run of a program adds O*I*L columns (o, i, lane) to a panel. Their products are summed in the
 * element type over at most `cap` columns and then added to the float64 accumulator. There are
 * four ways; which one a panel uses is a function of its instruction and of L:
 *
 *   sums       [J]         no x, L = 1: running sums
 *   lane sums  [J][VL]     no x, L > 1: a running sum for each output and vector lane
 *   dots                   few outputs, L > 1: rows of columns are kept, each output is a dot product
 *                          of two rows, summed across lanes at the end
 *   tiles                  everything else: the columns are kept, and X^T G is a matrix product in
 *                          register blocks
 *
 * In tiles one side (x or g) is read as vectors of VL rows, so that an output needs no sum across
 * lanes, and the other one number at a time. The vectors stand as [row / VL][column][row % VL]: with
 * L > 1 the columns arrive as rows of lanes, so they are transposed in blocks of VL x VL when they are
 * pushed. The numbers may stand in any order: as they arrive.
 *
 * All sums are functions of the sequence of pushes alone. Lanes that are held have g = 0 and a
 * finite x.
 *
 * One long file: the ways differ in how they push and flush, and share everything else. */
#include "transpose.h"

#ifndef NC_PANEL_MODES
#define NC_PANEL_MODES
enum { NC_PANEL_SUMS, NC_PANEL_LANE_SUMS, NC_PANEL_DOTS, NC_PANEL_TILES };
#endif

/* Columns that are summed in the element type. Tiles: 512 bytes a row, which is 128 terms of a sum
 * in float32. Lane sums and dots: 64 and 16 terms a lane. */
#define NC_TILE_COLUMNS ((int64_t)(512 / sizeof(REAL)))
#define NC_LANE_COLUMNS ((int64_t)(64 * VL))
#define NC_DOT_COLUMNS ((int64_t)(16 * VL))

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

/* s[j] += g[j], lane by lane, over n columns of group o from w on. */
static NC_APART void FN(push_lane_sums)(const FN(nc_columns) *g, int64_t o, int64_t w, int64_t n,
                                        REAL *s)
{
    for (int64_t j = o * g->R; j < (o + 1) * g->R; j++, s += VL) {
        VF sum = vload(s);
        for (int64_t c = w; c < w + n; c += VL)
            sum = sum + FN(column_vector)(g, j, c, VL);
        vstore(s, sum);
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

/* ---- Sides that are kept as they arrive ------------------------------------------------------- */

/* Puts n columns (whole vectors) of group o, from w on, into rows that are `step` apart, L > 1. */
static NC_APART void FN(push_rows)(const FN(nc_columns) *x, int64_t o, int64_t w, int64_t n,
                                   REAL *to, int64_t step)
{
    const int64_t R = x->R, W = x->W;
    if (x->kind != NC_LANE) {
        for (int64_t r = 0; r < R; r++, to += step)
            for (int64_t c = 0; c < n; c += VL)
                vstore(to + c, FN(column_vector)(x, o * R + r, w + c, VL));
        return;
    }
    const REAL *p = x->p + o * R * W + w;
    if (n == 2 * VL)
        for (int64_t r = 0; r < R; r++, to += step, p += W) {
            vstore(to, vload(p));
            vstore(to + VL, vload(p + VL));
        }
    else
        for (int64_t r = 0; r < R; r++, to += step, p += W)
            for (int64_t c = 0; c < n; c += VL)
                vstore(to + c, vload(p + c));
}

/* Puts n columns of group o, from w on, one behind the other, `step` numbers apart, L = 1. */
static NC_APART void FN(push_numbers)(const FN(nc_columns) *x, int64_t o, int64_t w, int64_t n,
                                      REAL *to, int64_t step)
{
    const int64_t R = x->R, W = x->W;
    if (x->kind == NC_LANE && W == 1) {
        memcpy(to, x->p + o * R, (size_t)R * sizeof(REAL));
        return;
    }
    for (int64_t c = w; c < w + n; c++, to += step)
        for (int64_t r = 0; r < R; r++)
            to[r] = x->kind == NC_LANE ? x->p[(o * R + r) * W + c] : *x->p;
}

/* ---- Dots ------------------------------------------------------------------------------------- */

/* out[i*J + j] = the products of row i of x and row j of g over n columns, lane by lane. */
NC_INLINE void FN(dot_block)(const int MR, const int NR, int64_t n, const REAL *x, const REAL *g,
                             int64_t step, REAL *out, int64_t J)
{
    VF s[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NR; j++)
            s[i][j] = vset1(RC(0.0));
    for (int64_t c = 0; c < n; c += VL) {
        VF y[4];
#pragma GCC unroll 4
        for (int j = 0; j < NR; j++)
            y[j] = vload(g + j * step + c);
#pragma GCC unroll 4
        for (int i = 0; i < MR; i++) {
            const VF xi = vload(x + i * step + c);
#pragma GCC unroll 4
            for (int j = 0; j < NR; j++)
                s[i][j] = vfma(xi, y[j], s[i][j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NR; j++)
            vstore(out + (i * J + j) * VL, s[i][j]);
}

/* The widest block that the registers hold beside four rows of x. */
#if NC_VBYTES == 64 || defined(NC_NEON)
#define NC_DOT_ROWS 4
#else
#define NC_DOT_ROWS 2
#endif

NC_INLINE void FN(dots_of_rows)(const int MR, const nc_panel *panel, const REAL *x, const REAL *g,
                            REAL *out)
{
    const int64_t n = panel->fill, step = panel->row_step, J = panel->J;
    int64_t j = 0;
    for (; j + NC_DOT_ROWS <= J; j += NC_DOT_ROWS)
        FN(dot_block)(MR, NC_DOT_ROWS, n, x, g + j * step, step, out + j * VL, J);
    for (; NC_DOT_ROWS > 2 && j + 2 <= J; j += 2)
        FN(dot_block)(MR, 2, n, x, g + j * step, step, out + j * VL, J);
    for (; j < J; j++)
        FN(dot_block)(MR, 1, n, x, g + j * step, step, out + j * VL, J);
}

static NC_APART void FN(flush_dots)(const nc_panel *panel, REAL *buf, double *acc)
{
    const int64_t K = panel->K, J = panel->J, step = panel->row_step;
    const REAL *x = buf + panel->x_off, *g = buf + panel->g_off;
    REAL *sums = buf + panel->sums_off;
    int64_t k = 0;
    for (; k + 4 <= K; k += 4)
        FN(dots_of_rows)(4, panel, x + k * step, g, sums + k * J * VL);
    for (; k + 2 <= K; k += 2)
        FN(dots_of_rows)(2, panel, x + k * step, g, sums + k * J * VL);
    for (; k < K; k++)
        FN(dots_of_rows)(1, panel, x + k * step, g, sums + k * J * VL);
    FN(flush_lane_sums)(K * J, sums, acc);
}

/* bias[j] += the sum of row j of g. */
static NC_APART void FN(flush_bias_rows)(const nc_panel *panel, REAL *buf, double *bias)
{
    const REAL *g = buf + panel->g_off;
    REAL *sums = buf + panel->sums_off;
    for (int64_t j = 0; j < panel->J; j++, g += panel->row_step) {
        VF s = vset1(RC(0.0));
        for (int64_t c = 0; c < panel->fill; c += VL)
            s = s + vload(g + c);
        vstore(sums + j * VL, s);
    }
    FN(flush_lane_sums)(panel->J, sums, bias);
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

/* Puts n columns of group o, from w on, into the vectors of a panel; to: where the first row and the
 * first of these columns stand, step: from VL rows to the next. */
static NC_APART void FN(push_vectors)(const FN(nc_columns) *x, int64_t o, int64_t w, int64_t n,
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

/* out[row][vector] = sum over n columns of number[row] * vector. From row to row the numbers are rs
 * apart, from column to column cs. */
#define NC_TILE_ARGS                                                                               \
    int64_t n, const REAL *numbers, int64_t rs, int64_t cs, const REAL *vectors, int64_t step,     \
        REAL *out
typedef void (*FN(nc_tile_block))(NC_TILE_ARGS);

#define NC_TINIT_V(v, r) VF s##r##_##v = vset1(RC(0.0));
#define NC_TINIT(r, VECS) VECS(NC_TINIT_V, r)
#define NC_TX(v, r) const VF x##v = vload(vectors + v * step);
#define NC_TSTEP_V(v, r) s##r##_##v = vfma(w##r, x##v, s##r##_##v);
#define NC_TSTEP(r, VECS)                                                                          \
    const VF w##r = vset1(numbers[r * rs]);                                                        \
    VECS(NC_TSTEP_V, r)
#define NC_TSTORE_V(v, r) vstore(out + (r * nv + v) * VL, s##r##_##v);
#define NC_TSTORE(r, VECS) VECS(NC_TSTORE_V, r)

#define NC_TILE_BLOCK(NAME, MR, NV)                                                                \
    static void FN(NAME)(NC_TILE_ARGS)                                                             \
    {                                                                                              \
        enum { nv = NV };                                                                          \
        NC_ROWS_##MR(NC_TINIT, NC_VECS_##NV) (void)step, (void)rs;                                 \
        for (int64_t c = 0; c < n; c++, numbers += cs, vectors += VL) {                            \
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
    const int g_vectors = panel->g_vectors;
    const REAL *numbers = buf + (g_vectors ? panel->x_off : panel->g_off);
    const REAL *vectors = buf + (g_vectors ? panel->g_off : panel->x_off);
    const int64_t R = g_vectors ? K : J, C = g_vectors ? J : K;
    const int64_t row = g_vectors ? J : 1, col = g_vectors ? 1 : J;
    const int64_t rs = panel->single ? 1 : panel->row_step, cs = panel->single ? R : 1;
    REAL sums[(NC_TILE_ROWS * NC_TILE_VECTORS > 8 ? NC_TILE_ROWS * NC_TILE_VECTORS : 8) * VL];

    for (int64_t c = 0; c < C;) {
        const int64_t nv = FN(next_block)((C - c + VL - 1) / VL, NC_TILE_VECTORS);
        const int64_t columns = C - c < nv * VL ? C - c : nv * VL;
        int64_t rows = nv == 1 ? 8 : NC_TILE_ROWS;
        for (int64_t r = 0; r < R; r += rows) {
            while (rows > R - r)
                rows /= 2;
            blocks[rows][nv](panel->fill, numbers + r * rs, rs, cs, vectors, step, sums);
            FN(add_tile)(acc + r * row + c * col, row, col, sums, rows, columns, nv * VL);
        }
        c += nv * VL;
        vectors += nv * step;
    }
}

/* bias[j] += the sums over the columns of g. */
static NC_APART void FN(flush_bias_tiles)(const nc_panel *panel, const REAL *buf, double *bias)
{
    const REAL *g = buf + panel->g_off;
    const int64_t J = panel->J, n = panel->fill;
    if (!panel->g_vectors) { /* L = 1: numbers, column after column */
        for (int64_t j = 0; j < J; j++) {
            REAL s = 0;
            for (int64_t c = 0; c < n; c++)
                s = s + g[c * J + j];
            bias[j] += (double)s;
        }
        return;
    }
    for (int64_t j = 0; j < J; j += VL, g += panel->cap * VL) {
        REAL sums[VL];
        VF s = vset1(RC(0.0));
        for (int64_t c = 0; c < n; c++)
            s = s + vload(g + c * VL);
        vstore(sums, s);
        FN(add_tile)(bias + j, J, 1, sums, 1, J - j < VL ? J - j : VL, VL);
    }
}

/* ---- The sink -------------------------------------------------------------------------------- */

static NC_APART void FN(flush_one)(nc_sinks *sinks, nc_panel *panel)
{
    REAL *buf = sinks->buf;
    double *acc = sinks->acc + panel->acc_off;
    const int rows = panel->mode == NC_PANEL_DOTS || (!panel->single && !panel->g_vectors);
    switch (panel->mode) {
    case NC_PANEL_SUMS:
        for (int64_t j = 0; j < panel->J; j++)
            acc[j] += (double)buf[panel->g_off + j];
        break;
    case NC_PANEL_LANE_SUMS:
        FN(flush_lane_sums)(panel->J, buf + panel->g_off, acc);
        break;
    case NC_PANEL_DOTS:
        FN(flush_dots)(panel, buf, acc);
        break;
    default:
        FN(flush_tiles)(panel, buf, acc);
    }
    if (panel->bias_off >= 0) {
        if (rows)
            FN(flush_bias_rows)(panel, buf, sinks->acc + panel->bias_off);
        else
            FN(flush_bias_tiles)(panel, buf, sinks->acc + panel->bias_off);
    }
    panel->fill = 0;
}

/* Puts n columns of one side of a panel that keeps them. */
NC_INLINE void FN(push_side)(const nc_panel *panel, int vectors, const FN(nc_columns) *x, int64_t o,
                             int64_t w, int64_t n, REAL *side)
{
    if (vectors)
        FN(push_vectors)(x, o, w, n, side + panel->fill * VL, (int64_t)panel->cap * VL);
    else if (panel->single)
        FN(push_numbers)(x, o, w, n, side + panel->fill * x->R, x->R);
    else
        FN(push_rows)(x, o, w, n, side + panel->fill, panel->row_step);
}

static void FN(op_acc)(NC_KERNEL_ARGS)
{
    nc_panel *panel = sinks->panels + in->panel;
    REAL *buf = sinks->buf;
    const int64_t O = in->p[0], K = panel->K, J = panel->J, I = in->p[3], W = I * L;
    const int64_t cap = panel->cap;
    const int tiles = panel->mode == NC_PANEL_TILES;
    const FN(nc_columns) g = FN(columns_of)(in->b, base, L, J, I);
    FN(nc_columns) x = {NULL, K, I, L, W, NC_ABSENT};
    (void)ipool;
    if (in->a.kind != NC_ABSENT)
        x = FN(columns_of)(in->a, base, L, K, I);
    for (int64_t o = 0; o < O; o++)
        for (int64_t w = 0; w < W;) {
            const int64_t fill = panel->fill;
            const int64_t n = W - w < cap - fill ? W - w : cap - fill;
            switch (panel->mode) {
            case NC_PANEL_SUMS:
                if (fill == 0)
                    memset(buf + panel->g_off, 0, (size_t)J * sizeof(REAL));
                FN(push_sums)(&g, o, w, n, buf + panel->g_off);
                break;
            case NC_PANEL_LANE_SUMS:
                if (fill == 0)
                    memset(buf + panel->g_off, 0, (size_t)(J * VL) * sizeof(REAL));
                FN(push_lane_sums)(&g, o, w, n, buf + panel->g_off);
                break;
            default:
                FN(push_side)(panel, tiles && !panel->g_vectors, &x, o, w, n, buf + panel->x_off);
                FN(push_side)(panel, tiles && panel->g_vectors, &g, o, w, n, buf + panel->g_off);
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

/* The way of a panel, and which side is vectors: what VL columns cost least, in multiply-adds of a
 * vector. Tiles: as many as the other side has rows for each output, and log2(VL) shuffles and a store to
 * transpose a row, which cost two each; where x is the vectors, sums are added one by one. Dots: K J, and
 * 0.6 K J for the sums across lanes. */
static void FN(choose_way)(nc_panel *panel, int has_x, int64_t K, int64_t J)
{
    const int64_t K_whole = (K + VL - 1) / VL * VL, J_whole = (J + VL - 1) / VL * VL;
    const int64_t transpose = panel->single ? 0 : 2 * (VL >= 16 ? 5 : VL >= 8 ? 4 : VL >= 4 ? 3 : 2);
    const int64_t g_cost = K * J_whole + transpose * J_whole;
    const int64_t x_cost = J * K_whole + transpose * K_whole + K * J / 2;
    panel->g_vectors = g_cost <= x_cost;
    if (!has_x)
        panel->mode = panel->single ? NC_PANEL_SUMS : NC_PANEL_LANE_SUMS;
    else if (!panel->single && 8 * K * J <= 5 * (panel->g_vectors ? g_cost : x_cost))
        panel->mode = NC_PANEL_DOTS;
    else
        panel->mode = NC_PANEL_TILES;
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
        *panel = (nc_panel){.K = (int32_t)K, .J = (int32_t)J, .acc_off = in->aux,
                            .bias_off = in->dst.kind == NC_ABSENT ? -1 : in->dst.off,
                            .single = L == 1};
        FN(choose_way)(panel, has_x, K, J);
        /* A whole number of runs where they fit, so that a run's columns are not split. */
        const int64_t run = (int64_t)in->p[0] * in->p[3] * L;
        const int64_t most = panel->mode == NC_PANEL_LANE_SUMS ? NC_LANE_COLUMNS
                             : panel->mode == NC_PANEL_DOTS    ? NC_DOT_COLUMNS
                                                               : NC_TILE_COLUMNS;
        const int64_t cap = run < most ? most / run * run : most;
        panel->cap = (int32_t)cap;
        /* Not a power of two: rows that begin in the same cache set push each other out. */
        panel->row_step = (int32_t)(cap + 64 / (int64_t)sizeof(REAL));
        panel->x_off = panel->g_off = size;
        if (panel->mode == NC_PANEL_SUMS)
            size += FN(part_size)(J, 1);
        else if (panel->mode == NC_PANEL_LANE_SUMS)
            size += FN(part_size)(J, VL);
        else {
            panel->g_off += FN(part_size)(K, panel->row_step);
            panel->sums_off = panel->g_off + FN(part_size)(J, panel->row_step);
            const int64_t sums = panel->mode == NC_PANEL_DOTS ? K * J : panel->bias_off < 0 ? 0 : J;
            size = panel->sums_off + FN(part_size)(sums, VL);
        }
    }
    return (size_t)size;
}

#undef NC_TILE_COLUMNS
#undef NC_LANE_COLUMNS
#undef NC_DOT_COLUMNS
#undef NC_DOT_ROWS
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

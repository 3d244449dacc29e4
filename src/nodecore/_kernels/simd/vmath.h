/* Vector mathematics: one function VF -> VF an elementwise op of ops.def. docs/math/vector-math.md
 * has the derivations, the measured errors and the speeds.
 *
 * Semantics at the edges (NaN, infinities, zeros, signs, overflow, underflow) are NumPy's. Every
 * lane's result is a function of that lane alone, to the bit: a branch on a whole vector only ever
 * skips work that would not have changed the lanes of that vector. No libm is called.
 *
 * Relies on rounding to nearest, on subnormals (no flush to zero), and on the compiler keeping the
 * order of floating-point operations: -ffp-contract=off, no -ffast-math. -fno-math-errno and
 * -fno-trapping-math are welcome; no result depends on them. */

#define K(literal) vset1(RC(literal))
#define poly FN(nc_poly)
#define poly3 FN(nc_poly3)

/* c[0] + c[1] x + ... + c[deg] x^deg for deg = 0..3; x2 = x^2. */
NC_INLINE VF poly3(VF x, VF x2, int deg, const REAL *c)
{
    if (deg == 0)
        return vset1(c[0]);
    VF low = vfma(vset1(c[1]), x, vset1(c[0]));
    if (deg == 1)
        return low;
    if (deg == 2)
        return vfma(vset1(c[2]), x2, low);
    return vfma(vfma(vset1(c[3]), x, vset1(c[2])), x2, low);
}

/* A polynomial of constant degree: Estrin's scheme within blocks of four coefficients, Horner's in
 * x^4 over the blocks. */
NC_INLINE VF poly(VF x, int deg, const REAL *c)
{
    VF x2 = x * x, x4 = x2 * x2;
    int i = deg & ~3;
    VF sum = poly3(x, x2, deg - i, c + i);
#pragma GCC unroll 4
    for (i -= 4; i >= 0; i -= 4)
        sum = vfma(sum, x4, poly3(x, x2, 3, c + i));
    return sum;
}

/* ---- Without rounding error, or with one ---------------------------------------------------- */

NC_INLINE VF v_copy(VF a) { return a; }
NC_INLINE VF v_neg(VF a) { return vneg(a); }
NC_INLINE VF v_abs(VF a) { return vabs(a); }
NC_INLINE VF v_square(VF a) { return a * a; }
NC_INLINE VF v_recip(VF a) { return K(1.0) / a; }
NC_INLINE VF v_sqrt(VF a) { return vsqrt(a); }
NC_INLINE VF v_floor(VF a) { return vfloor(a); }
NC_INLINE VF v_isnan(VF a) { return vbool(visnan(a)); }
NC_INLINE VF v_not(VF a) { return vbool(veq(a, K(0.0))); }

/* sign(NaN) = NaN, sign(-0) = +0 */
NC_INLINE VF v_sign(VF a)
{
    VF one = vbool(vgt(a, K(0.0))) - vbool(vlt(a, K(0.0)));
    return vsel(visnan(a), a, one);
}

NC_INLINE VF v_add(VF a, VF b) { return a + b; }
NC_INLINE VF v_sub(VF a, VF b) { return a - b; }
NC_INLINE VF v_mul(VF a, VF b) { return a * b; }
NC_INLINE VF v_div(VF a, VF b) { return a / b; }
NC_INLINE VF v_maximum(VF a, VF b) { return vmax(a, b); }
NC_INLINE VF v_minimum(VF a, VF b) { return vmin(a, b); }
NC_INLINE VF v_zmul(VF a, VF b) { return vkeep(vne(a, K(0.0)), a * b); }
NC_INLINE VF v_lt(VF a, VF b) { return vbool(vlt(a, b)); }
NC_INLINE VF v_le(VF a, VF b) { return vbool(vle(a, b)); }
NC_INLINE VF v_eq(VF a, VF b) { return vbool(veq(a, b)); }
NC_INLINE VF v_ne(VF a, VF b) { return vbool(vne(a, b)); }
NC_INLINE VF v_and(VF a, VF b) { return vbool(vne(a, K(0.0)) & vne(b, K(0.0))); }
NC_INLINE VF v_or(VF a, VF b) { return vbool(vne(a, K(0.0)) | vne(b, K(0.0))); }
NC_INLINE VF v_select(VF a, VF b, VF c) { return vsel(vne(a, K(0.0)), b, c); }

/* a (1 - b^2), without cancellation where |b| is near 1 */
NC_INLINE VF v_tanhbar(VF a, VF b)
{
#if NC_HAS_FMA
    return a * vfnma(b, b, K(1.0));
#else
    return a * ((K(1.0) - b) * (K(1.0) + b));
#endif
}

#include "vmath_exp.h"
#include "vmath_log.h"
#include "vmath_trig.h"
#include "vmath_special.h"

#undef K
#undef poly
#undef poly3
#undef exp_reduce_exact
#undef exp_reduce
#undef exp_poly
#undef exp_scale
#undef exp_parts
#undef c_exp
#undef c_tanh
#undef c_sinh
#undef c_cosh
#undef LOG2E
#undef LN2_HI
#undef LN2_LO
#undef ROUND_MAGIC
#undef EXP_DEGREE
#undef SINH_DEGREE
#undef COSH_DEGREE
#undef log_split
#undef log_sum
#undef c_log
#undef c_log1p
#undef pow_finite
#undef SQRT_HALF_BITS
#undef LOG_DEGREE
#undef LOG1P_DEGREE
#undef ONE_BITS
#undef trig_reduce
#undef trig_reduce_huge
#undef sin_poly
#undef cos_poly
#undef arctan_ratio
#undef c_sin
#undef c_cos
#undef c_arctan
#undef SIN_DEGREE
#undef SIN_LEVEL
#undef COS_DEGREE
#undef ARCTAN_DEGREE
#undef HALF_PI_1
#undef HALF_PI_2
#undef HALF_PI_3
#undef TRIG_MAX
#undef PI_HI
#undef PI_LO
#undef PI34_HI
#undef PI34_LO
#undef c_erf
#undef c_erfcx
#undef ERF_DEGREE
#undef ERFCX_DEGREE

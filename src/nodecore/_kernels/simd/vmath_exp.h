/* exp, expm1, and what is made of them: tanh, sinh, cosh, sigmoid.
 *
 * x = k ln2 + r with |r| <= ln2 / 2 (Cody & Waite), exp(r) - 1 = r + r^2 (1/2 + r Q(r)) with a
 * minimax Q, exp(x) = 2^k + 2^k (exp(r) - 1). docs/math/vector-math.md, "The exponential". */

#define exp_reduce_exact FN(nc_exp_reduce_exact)
#define exp_reduce FN(nc_exp_reduce)
#define exp_poly FN(nc_exp_poly)
#define exp_scale FN(nc_exp_scale)
#define exp_parts FN(nc_exp_parts)
#define c_exp FN(nc_c_exp)
#define c_tanh FN(nc_c_tanh)
#define c_sinh FN(nc_c_sinh)
#define c_cosh FN(nc_c_cosh)

#if defined(NC_REAL_IS_F64)
#define LOG2E 1.4426950408889634
#define LN2_HI 0x1.62e42fefa4p-1 /* 40 bits: k LN2_HI is exact */
#define LN2_LO -0x1.8432a1b0e2634p-43
#define ROUND_MAGIC 0x1.8p52 /* adding it rounds to an integer, which the low bits then hold */
#define EXP_DEGREE 9
/* 1/2 + r Q(r): relative error of exp(r) - 1 below 2^-55.1 */
static const REAL c_exp[] = {
    0.5, 0.1666666666666668, 0.04166666666661954, 0.008333333333319015, 0.0013888888920710039,
    0.000198412698942202, 2.4801516070595114e-05, 2.7557235231353356e-06, 2.762234542913526e-07,
    2.5112331100145678e-08};
/* c_exp[i] 2^(i + 1): (exp(2u) - 1) / 2 = u + u^2 (1 + ...) */
static const REAL c_tanh[] = {
    1.0, 0.6666666666666672, 0.33333333333295634, 0.13333333333310424, 0.044444444546272124,
    0.012698412732300927, 0.0031745940570361746, 0.0007054652219226459, 0.00014142640859717253,
    2.5715027046549174e-05};
/* sinh(r) = r + r^3 S(r^2): 2^-61.7; cosh(r) = 1 + r^2 (1/2 + r^2 C(r^2)): 2^-57.3 */
#define SINH_DEGREE 4
#define COSH_DEGREE 4
static const REAL c_sinh[] = {
    0.16666666666666677, 0.008333333333321579, 0.00019841269886267075, 2.7557244061194977e-06,
    2.5109090626076193e-08};
static const REAL c_cosh[] = {
    0.5, 0.04166666666660264, 0.0013888888927337168, 2.480150799898344e-05, 2.762545916084424e-07};
#else
#define LOG2E 1.44269504f
#define LN2_HI 0x1.62e4p-1f /* 15 bits */
#define LN2_LO 0x1.7f7d1cp-20f
#define ROUND_MAGIC 0x1.8p23f
#define EXP_DEGREE 4
static const REAL c_exp[] = {0.5f, 1.6666545e-01f, 4.1666403e-02f, 8.366454e-03f, 1.39406e-03f};
static const REAL c_tanh[] = {1.0f, 6.666618e-01f, 3.3333123e-01f, 1.3386327e-01f, 4.460992e-02f};
#define SINH_DEGREE 1
#define COSH_DEGREE 2
static const REAL c_sinh[] = {1.6666543e-01f, 8.366613e-03f};
static const REAL c_cosh[] = {0.5f, 4.166646e-02f, 1.3935439e-03f};
#endif

/* x = k ln2 + r + r_lo. k is an integer, returned as a float and in *bits so that
 * (bits << R_MANT) is 2^k where that is a normal number. */
NC_INLINE VF exp_reduce_exact(VF x, VU *bits, VF *r, VF *r_lo)
{
    VF magic = vset1(ROUND_MAGIC + R_BIAS);
    VF n = vfma(x, vset1(LOG2E), magic);
    VF k = n - magic;
    *bits = (VU)n;
    VF h = vfnma(k, vset1(LN2_HI), x); /* exact */
    *r = vfnma(k, vset1(LN2_LO), h);
    *r_lo = vfnma(k, vset1(LN2_LO), h - *r);
    return k;
}

NC_INLINE VF exp_reduce(VF x, VU *bits, VF *r)
{
    VF r_lo;
    return exp_reduce_exact(x, bits, r, &r_lo);
}

/* exp(r) - 1 */
NC_INLINE VF exp_poly(VF r)
{
    return vfma(r * r, poly(r, EXP_DEGREE, c_exp), r);
}

/* (1 + p) 2^k for any k that a finite or overflowing result can have: the factor is split in two,
 * so that only the last product rounds, into a subnormal number, or to infinity. */
NC_INLINE VF exp_scale(VF p, VF k, VU bits)
{
#if defined(NC_ISA_AVX512) && defined(NC_REAL_IS_F64)
    (void)bits;
    return (VF)_mm512_scalef_pd((__m512d)(K(1.0) + p), (__m512d)k);
#elif defined(NC_ISA_AVX512)
    (void)bits;
    return (VF)_mm512_scalef_ps((__m512)(K(1.0) + p), (__m512)k);
#else
    VU half = (VU)vfma(k, K(0.5), vset1(ROUND_MAGIC + R_BIAS));
    VF s1 = (VF)(half << R_MANT);
    VF s2 = (VF)((bits - half + R_BIAS) << R_MANT);
    return vfma(p, s1, s1) * s2;
#endif
}

NC_INLINE VF v_exp(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF hi = K(800.0), safe = K(700.0);
#else
    VF hi = K(110.0), safe = K(86.0);
#endif
    VU bits;
    VF r, k, y;
#if defined(NC_ISA_AVX512)
    (void)safe;
    k = exp_reduce(vat_least(vat_most(x, hi), -hi), &bits, &r);
    y = exp_scale(exp_poly(r), k, bits);
#else
    if (__builtin_expect(vany(~vle(vabs(x), safe)), 0)) {
        k = exp_reduce(vat_least(vat_most(x, hi), -hi), &bits, &r);
        y = exp_scale(exp_poly(r), k, bits);
    } else { /* the same bits: no lane overflows or underflows */
        exp_reduce(x, &bits, &r);
        VF s = (VF)(bits << R_MANT);
        y = vfma(exp_poly(r), s, s);
    }
#endif
    return y;
}

/* With exp(r) - 1 = r + q: (2^k - 1 + 2^k r) + 2^k q, halved until the end so that k may be that of
 * an overflow. */
NC_INLINE VF v_expm1(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF y = vat_least(vat_most(x, K(710.0)), K(-40.0)), tiny = K(0x1p-54);
#else
    VF y = vat_least(vat_most(x, K(89.0)), K(-20.0)), tiny = K(0x1p-25);
#endif
    VU bits;
    VF r, r_lo;
    exp_reduce_exact(y, &bits, &r, &r_lo);
    VF q = vfma(r * r, poly(r, EXP_DEGREE, c_exp), r_lo);
    VF s = (VF)((bits - 1) << R_MANT);
    VF e = vfma(s, q, vfma(s, r, s - K(0.5)));
    return vsel(vlt(vabs(x), tiny), x, e + e);
}

/* With u = |x| - k ln2/2 and q = (exp(2u) - 1) / 2:
 *     tanh|x| = (exp(2|x|) - 1) / (exp(2|x|) + 1) = (q + (1 - 2^-k)/2) / (q + (1 + 2^-k)/2),
 * whose denominator is the numerator and 2^-k: a rounding of the numerator is in both. */
NC_INLINE VF v_tanh(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF t = vat_most(vabs(x), K(20.0)); /* tanh(20) = 1 - 2^-56.7 */
#else
    VF t = vat_most(vabs(x), K(10.0));
#endif
    VF magic = vset1(ROUND_MAGIC + (R_BIAS - 1));
    VF n = vfma(t, vset1(-2 * LOG2E), magic);
    VF minus_k = n - magic;
    VF i = (VF)((VU)n << R_MANT); /* 2^-k / 2 */
#if NC_HAS_FMA && defined(NC_REAL_IS_F32)
    VF u = vfma(minus_k, vset1((LN2_HI + LN2_LO) / 2), t);
#else
    VF u = vfma(minus_k, vset1(LN2_LO / 2), vfma(minus_k, vset1(LN2_HI / 2), t));
#endif
    VF q = vfma(u * u, poly(u, EXP_DEGREE, c_tanh), u);
    VF above = q + (K(0.5) - i);
    return vxorsign(above / vfma(i, K(2.0), above), x);
}

/* 1 / (1 + exp(-x)). Both sides of the fraction carry the factor 2^-SHIFT, so that the denominator
 * does not overflow before the result underflows. */
NC_INLINE VF v_sigmoid(VF x)
{
#if defined(NC_REAL_IS_F64)
#define SHIFT 512
    VF y = vat_least(vat_most(-x, K(800.0)), K(-40.0)), one = K(0x1p-512);
#else
#define SHIFT 64
    VF y = vat_least(vat_most(-x, K(110.0)), K(-20.0)), one = K(0x1p-64);
#endif
    VU bits;
    VF r;
    exp_reduce(y, &bits, &r);
    VF s = (VF)((bits - SHIFT) << R_MANT);
    return one / (s + vfma(exp_poly(r), s, one));
#undef SHIFT
}

/* exp(+-t) / 4 = 2^(k-2) (cosh r + sinh r), 2^(-k-2) (cosh r - sinh r): the sum and difference of
 * the two powers of two are *a, *b; *s = sinh r, *c = cosh r - 1. */
NC_INLINE void exp_parts(VF t, VF *a, VF *b, VF *s, VF *c)
{
    VU bits;
    VF r, k = exp_reduce(t, &bits, &r);
    VF grow = (VF)((bits - 2) << R_MANT);
    /* 2^-k is below rounding from k = 60 on; later its bits would not be a power of two. */
    VU zero = (VU)vset1(ROUND_MAGIC + R_BIAS); /* the bits of k = 0 */
    VF decay = vkeep(vlt(k, K(60.0)), (VF)((2 * zero - bits - 2) << R_MANT));
    VF z = r * r;
    *a = grow + decay;
    *b = grow - decay;
    *s = vfma(r * z, poly(z, SINH_DEGREE, c_sinh), r);
    *c = z * poly(z, COSH_DEGREE, c_cosh);
}

NC_INLINE VF v_sinh(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF t = vat_most(vabs(x), K(710.6)), tiny = K(0x1p-28);
#else
    VF t = vat_most(vabs(x), K(89.6)), tiny = K(0x1p-13);
#endif
    VF a, b, s, c;
    exp_parts(t, &a, &b, &s, &c);
    VF y = b + vfma(b, c, a * s);
    return vsel(vlt(t, tiny), x, vxorsign(y + y, x));
}

NC_INLINE VF v_cosh(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF t = vat_most(vabs(x), K(710.6));
#else
    VF t = vat_most(vabs(x), K(89.6));
#endif
    VF a, b, s, c;
    exp_parts(t, &a, &b, &s, &c);
    VF y = a + vfma(a, c, b * s);
    return y + y;
}

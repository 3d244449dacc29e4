/* log, log1p, softplus, pow.
 *
 * x = 2^k m with m in [1/sqrt2, sqrt2), f = m - 1, s = f / (2 + f):
 *     log m = 2 artanh s = f - s (f - s^2 R(s^2)), R(z) = 2/3 + 2/5 z + ...
 * (the form of Tang and of FDLIBM: f is exact, and only a small part carries the error of s).
 * docs/math/vector-math.md, "The logarithm". */

#define log_split FN(nc_log_split)
#define log_sum FN(nc_log_sum)
#define c_log FN(nc_c_log)
#define c_log1p FN(nc_c_log1p)
#define pow_finite FN(nc_pow_finite)

#if defined(NC_REAL_IS_F64)
#define SQRT_HALF_BITS (RUINT)0x3fe6a09e667f3bcd
#define LOG_DEGREE 6
#define LOG1P_DEGREE 8
/* R on [0, 0.0295]: 2^-59.4 of the result; on [0, 1/9]: 2^-54.1 */
static const REAL c_log[] = {
    0.6666666666666735, 0.39999999999411123, 0.2857142874325519, 0.2222219847681531,
    0.1818356969397759, 0.15313904484850113, 0.14797494696918528};
static const REAL c_log1p[] = {
    0.6666666666667788, 0.3999999999599792, 0.2857142906316004, 0.22222192655848572,
    0.18182820704704433, 0.15364192509445418, 0.13587242407034003, 0.09898324909769006,
    0.17748815176062369};
#else
#define SQRT_HALF_BITS (RUINT)0x3f3504f3
#define LOG_DEGREE 2
#define LOG1P_DEGREE 3
static const REAL c_log[] = {6.6666776e-01f, 3.9977494e-01f, 2.9873082e-01f};
static const REAL c_log1p[] = {6.666641e-01f, 4.00217e-01f, 2.7999154e-01f, 2.8024378e-01f};
#endif
#define ONE_BITS ((RUINT)R_BIAS << R_MANT)

/* k as a float and m for a positive normal x. */
NC_INLINE VF log_split(VF x, VF *m)
{
    VU t = (VU)x + (ONE_BITS - SQRT_HALF_BITS);
    *m = (VF)((t & (((RUINT)1 << R_MANT) - 1)) + SQRT_HALF_BITS);
    /* The biased exponent becomes a float as the low bits of 2^R_MANT. */
    VF two_mant = vset1((REAL)((RINT)1 << R_MANT));
    VU e = (t >> R_MANT) | (VU)two_mant;
    return (VF)e - (two_mant + (REAL)R_BIAS);
}

/* k ln2 + log(1 + f) */
NC_INLINE VF log_sum(VF k, VF f)
{
    VF s = f / (K(2.0) + f);
    VF z = s * s;
    VF w = s * vfnma(z, poly(z, LOG_DEGREE, c_log), f);
    return vfma(k, vset1(LN2_HI), f - vfnma(k, vset1(LN2_LO), w));
}

NC_INLINE VF v_log(VF x)
{
    VI odd = ~(vge(x, vset1(R_MIN)) & vle(x, vset1(R_MAX)));
    VF m, k, y;
    if (__builtin_expect(vany(odd), 0)) {
        VI low = vlt(x, vset1(R_MIN)); /* subnormal, zero or negative */
        REAL up = (REAL)((RINT)1 << (R_MANT + 2));
        k = log_split(vsel(low, x * up, x), &m) - vkeep(low, vset1((REAL)(R_MANT + 2)));
        y = log_sum(k, m - K(1.0));
        y = vsel(vgt(x, vset1(R_MAX)) | visnan(x), x, y);
        y = vsel(vlt(x, K(0.0)), vset1(R_NAN), y);
        y = vsel(veq(x, K(0.0)), vset1(-R_INF), y);
    } else {
        k = log_split(x, &m);
        y = log_sum(k, m - K(1.0));
    }
    return y;
}

/* log of u = 1 + x, whose rounding error c = x - (u - 1) is put back into f = m - 1 + c 2^-k. */
NC_INLINE VF v_log1p(VF x)
{
    VF one = K(1.0), m;
    VF u = one + x;
    VF c = vsel(vlt(u, K(2.0)), x - (u - one), one - (u - x));
    VF k = log_split(u, &m);
    VU bits = (VU)(vset1(ROUND_MAGIC + R_BIAS) - k);
    /* From 2^60 on c is below rounding, and 2^-k would be no normal number. */
    VF down = vkeep(vlt(u, K(0x1p60)), (VF)(bits << R_MANT));
    VF y = log_sum(k, vfma(c, down, m - one));
    VI odd = ~(vge(u, vset1(R_MIN)) & vle(u, vset1(R_MAX)));
    if (__builtin_expect(vany(odd), 0)) {
        y = vsel(vgt(x, vset1(R_MAX)) | visnan(x), x, y);
        y = vsel(vlt(x, -one), vset1(R_NAN), y);
        y = vsel(veq(x, -one), vset1(-R_INF), y);
    }
    return vcopysign(y, x);
}

/* max(x, 0) + log(1 + e) with e = exp(-|x|) <= 1: the series without a reduction, s <= 1/3. e is
 * carried with the factor 2^SHIFT, which keeps it a normal number until it is rounded. */
NC_INLINE VF v_softplus(VF x)
{
#if defined(NC_REAL_IS_F64)
#define SHIFT 512
    VF down = K(0x1p-512), two = K(0x1p513), limit = K(800.0);
#else
#define SHIFT 64
    VF down = K(0x1p-64), two = K(0x1p65), limit = K(110.0);
#endif
    VU bits;
    VF r;
    exp_reduce(-vat_most(vabs(x), limit), &bits, &r);
    VF scale = (VF)((bits + SHIFT) << R_MANT);
    VF scaled = vfma(exp_poly(r), scale, scale), e = scaled * down;
    VF s = scaled / (two + scaled);
    VF z = s * s;
    VF log1p = vfnma(s, vfnma(z, poly(z, LOG1P_DEGREE, c_log1p), e), e);
    return vat_least(x, K(0.0)) + log1p;
#undef SHIFT
}

/* ---- pow ------------------------------------------------------------------------------------ */

#if defined(NC_REAL_IS_F64)

/* a b = hi + *lo exactly (FMA, or Dekker's product), barring overflow. */
NC_INLINE VF FN(nc_two_product)(VF a, VF b, VF *lo)
{
    VF hi = a * b;
#if NC_HAS_FMA
    *lo = vfms(a, b, hi);
#else
    VF split = K(134217729.0); /* 2^27 + 1 */
    VF ta = split * a, tb = split * b;
    VF a1 = ta - (ta - a), b1 = tb - (tb - b);
    VF a2 = a - a1, b2 = b - b1;
    *lo = ((a1 * b1 - hi) + (a1 * b2 + a2 * b1)) + a2 * b2;
#endif
    return hi;
}

/* a + b = sum + *lo exactly, for |a| >= |b| or a = 0. */
NC_INLINE VF FN(nc_fast_two_sum)(VF a, VF b, VF *lo)
{
    VF sum = a + b;
    *lo = (a - sum) + b;
    return sum;
}

/* x^y for x > 0 finite, y finite. log x is a sum hi + lo with a relative error near 2^-65, for y
 * multiplies its absolute error by up to 745 / |log x|. */
NC_INLINE VF pow_finite(VF x, VF y)
{
    /* log(1 + f) = 2s + s^3 c, c = 2/3 + z (2/5 + ...): coefficients from 2/5 on, 2^-66 */
    static const REAL tail[] = {0.4000000000000227, 0.2857142857009189, 0.2222222252135354,
                                0.18181784237116136, 0.15386763527953323, 0.13256668919099215,
                                0.13197749453536445};
    VI low = vlt(x, vset1(R_MIN));
    VF m;
    VF k = log_split(vsel(low, x * K(0x1p54), x), &m) - vkeep(low, K(54.0));
    VF f = m - K(1.0);
    VF d = K(2.0) + f, d_lo = f - (d - K(2.0));
    /* s + s_lo = f / (d + d_lo) */
    VF inv = K(1.0) / d;
    VF s = f * inv, sd_lo, sd = FN(nc_two_product)(s, d, &sd_lo);
    VF s_lo = (((f - sd) - sd_lo) - s * d_lo) * inv;
    /* z + z_lo = s^2 */
    VF z_lo, z = FN(nc_two_product)(s, s, &z_lo);
    z_lo = vfma(s + s, s_lo, z_lo);
    VF c_lo, c = FN(nc_fast_two_sum)(K(0x1.5555555555555p-1), z * poly(z, 6, tail), &c_lo);
    c_lo = c_lo + K(0x1.5555555555555p-55);
    /* p + p_lo = z c, t + t_lo = s z c */
    VF p_lo, p = FN(nc_two_product)(z, c, &p_lo);
    p_lo = p_lo + (z * c_lo + z_lo * c);
    VF t_lo, t = FN(nc_two_product)(s, p, &t_lo);
    t_lo = t_lo + (s * p_lo + s_lo * p);
    /* hi + lo = k ln2 + 2s + t */
    VF e1, e2, lo;
    VF hi = FN(nc_fast_two_sum)(k * LN2_HI, s + s, &e1);
    hi = FN(nc_fast_two_sum)(hi, t, &e2);
    lo = (e1 + e2) + ((s_lo + s_lo) + vfma(k, vset1(LN2_LO), t_lo));
    hi = FN(nc_fast_two_sum)(hi, lo, &lo);

    /* A larger |y| makes no difference, since |hi| >= 2^-53 or hi = 0, but might overflow. */
    y = vat_least(vat_most(y, K(0x1p100)), K(-0x1p100));
    VF yl_lo, yl = FN(nc_two_product)(y, hi, &yl_lo);
    yl_lo = vfma(y, lo, yl_lo);
    /* Where the result overflows or vanishes, the second part may be anything. */
    yl_lo = vkeep(vlt(vabs(yl), K(800.0)), yl_lo);
    VU bits;
    VF r;
    k = exp_reduce(vat_least(vat_most(yl, K(800.0)), K(-800.0)), &bits, &r);
    return exp_scale(exp_poly(r + yl_lo), k, bits);
}

#else

/* In float64: its single log is as good as a double one here. */
NC_INLINE VF pow_finite(VF x, VF y)
{
    FN64(nc_vf) x0, x1, y0, y1, m, k;
    vwiden(x, &x0, &x1);
    vwiden(y, &y0, &y1);
    k = FN64(nc_log_split)(x0, &m);
    x0 = FN64(v_exp)(y0 * FN64(nc_log_sum)(k, m - 1.0));
    k = FN64(nc_log_split)(x1, &m);
    x1 = FN64(v_exp)(y1 * FN64(nc_log_sum)(k, m - 1.0));
    return vnarrow(x0, x1);
}

#endif

/* The special values are those of C and NumPy: 1^y = x^0 = 1 even for NaN; a negative x gives NaN
 * unless y is an integer; (-1)^(+-inf) = 1. */
NC_INLINE VF v_pow(VF x, VF y)
{
    VF zero = K(0.0), one = K(1.0), inf = vset1(R_INF);
    VF a = vabs(x);
    VF result = pow_finite(a, y);
    VI plain = vgt(x, zero) & vlt(x, inf) & vlt(vabs(y), inf);
    if (__builtin_expect(!vall(plain), 0)) {
        VF half = y * K(0.5);
        VI odd = veq(vfloor(y), y) & vne(vfloor(half), half);
        VI integer = veq(vfloor(y), y);
        /* a = 0, a = inf, or y infinite: 0 or inf, by whether log a and y have the same sign. */
        VI extreme = veq(a, zero) | veq(a, inf) | veq(vabs(y), inf);
        VI grows = ~(vgt(a, one) ^ vgt(y, zero));
        result = vsel(extreme, vkeep(grows, inf), result);
        result = vsel(veq(a, one), one, result);
        result = vsel(vlt(x, zero) & vlt(a, inf) & ~integer, vset1(R_NAN), result);
        VI negative = (VI)vxorsign(one, x) != (VI)one;
        result = vsel(negative & odd & vlt(vabs(y), inf), -result, result);
        result = vsel(visnan(x) | visnan(y), x + y, result);
        result = vsel(veq(y, zero) | veq(x, one), one, result);
    }
    return result;
}

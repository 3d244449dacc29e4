/* sin, cos, tan, arctan, arctan2.
 *
 * |x| = k pi/2 + r with |r| <= pi/4; sin and cos of r by minimax polynomials; the quadrant k mod 4
 * selects. The reduction is Cody & Waite's up to TRIG_MAX and Payne & Hanek's, in integers and a
 * lane at a time, beyond. docs/math/vector-math.md, "Trigonometric functions". */

#define trig_reduce FN(nc_trig_reduce)
#define trig_reduce_huge FN(nc_trig_reduce_huge)
#define sin_poly FN(nc_sin_poly)
#define cos_poly FN(nc_cos_poly)
#define arctan_ratio FN(nc_arctan_ratio)
#define c_sin FN(nc_c_sin)
#define c_cos FN(nc_c_cos)
#define c_arctan FN(nc_c_arctan)

#if defined(NC_REAL_IS_F64)

/* Payne & Hanek: |x| = r_hi + r_lo + q pi/2 for a finite |x| > 2^16, where |r| <= pi/4 and q is 0,
 * 1, 2 or 3. Only the bits of 2/pi that matter modulo 4 are multiplied: 192 of them, which leaves
 * 75 good ones where |r| is smallest (2^-62). NaN for NaN and infinity. */
__attribute__((unused)) static int nc_payne_hanek(double x, double *r_hi, double *r_lo)
{
    __extension__ typedef unsigned __int128 u128;
    /* 64 zero bits, then the binary fraction of 2/pi. */
    static const uint64_t two_over_pi[] = {
        0,
        0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561,
        0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484,
        0xe99c7026b45f7e41, 0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f,
        0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7, 0x4f463f669e5fea2d, 0x7527bac7ebe5f17b,
        0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab, 0xf0cfbc209af4361d};
    const u128 half_pi = (u128)0xc90fdaa22168c234 << 64 | 0xc4c6628b80dc1cd1; /* pi/2 2^127 */
    uint64_t ix;
    memcpy(&ix, &x, sizeof ix);
    int biased = (int)(ix >> 52 & 0x7ff);
    *r_hi = *r_lo = x - x;
    if (biased == 0x7ff)
        return 0;
    uint64_t m = (ix & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52; /* |x| = m 2^(biased-1075) */
    int bit = biased - 1075 - 2 + 64, word = bit >> 6, shift = bit & 63;
    uint64_t w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = two_over_pi[word + i] << shift;
        if (shift)
            w[i] |= two_over_pi[word + i + 1] >> (64 - shift);
    }
    /* (f, low) = m w modulo 2^192: quadrants in units of 2^-190. */
    u128 p0 = (u128)m * w[2], p1 = (u128)m * w[1] + (uint64_t)(p0 >> 64);
    uint64_t low = (uint64_t)p0;
    u128 f = ((u128)(m * w[0]) << 64) + p1;
    int q = (int)(f >> 126);
    f = f << 2 | low >> 62;
    low <<= 2;
    int negative = (int)(f >> 127); /* nearer to the next quadrant */
    if (negative) {
        q++;
        low = ~low;
        f = ~f;
    }
    int zeros = 0;
    while (!(f >> 127)) {
        f = f << 1 | low >> 63;
        low <<= 1;
        zeros++;
    }
    /* r = f pi/2, the high 128 bits of the product. */
    uint64_t f1 = (uint64_t)(f >> 64), f0 = (uint64_t)f;
    uint64_t h1 = (uint64_t)(half_pi >> 64), h0 = (uint64_t)half_pi;
    u128 mid = (u128)f1 * h0 + ((u128)f0 * h0 >> 64);
    u128 mid2 = (u128)f0 * h1 + (uint64_t)mid;
    u128 r = (u128)f1 * h1 + (mid >> 64) + (mid2 >> 64); /* |r| = r 2^(-127 - zeros) */
    uint64_t scale_bits = (uint64_t)(1023 - 127 - zeros) << 52;
    double scale;
    memcpy(&scale, &scale_bits, sizeof scale);
    if (negative)
        scale = -scale;
    const u128 below = ((u128)1 << 75) - 1;
    *r_hi = (double)(uint64_t)(r >> 75) * 0x1p75 * scale;
    *r_lo = (double)(uint64_t)((r & below) >> 11) * 0x1p11 * scale;
    return q & 3;
}

#define SIN_DEGREE 5
#define COS_DEGREE 5
#define ARCTAN_DEGREE 10
/* sin r = r + r^3 S(r^2): 2^-58.0; cos r = 1 - r^2/2 + r^4 C(r^2): 2^-64 */
static const REAL c_sin[] = {-0.16666666666666632, 0.008333333333322403, -0.00019841269829799232,
                             2.7557313688799804e-06, -2.5050757605903485e-08,
                             1.5896764980683848e-10};
static const REAL c_cos[] = {0.0416666666666666, -0.0013888888888874112, 2.480158728947348e-05,
                             -2.755731434968272e-07, 2.087572289628911e-09,
                             -1.1359627484337778e-11};
/* arctan a = a + a^3 A(a^2), |a| <= tan(pi/8): 2^-59.4 */
static const REAL c_arctan[] = {
    -0.333333333333332, 0.19999999999953874, -0.14285714280226408, 0.11111110784979424,
    -0.09090897801798804, 0.07692060999505719, -0.06663112917105618, 0.05847953122856702,
    -0.05039588003014525, 0.03807163332830564, -0.017914806170170463};
/* pi/2 in parts of 53 bits */
#define HALF_PI_1 0x1.921fb54442d18p+0
#define HALF_PI_2 0x1.1a62633145c07p-54
#define HALF_PI_3 -0x1.f1976b7ed8fbcp-110
#if NC_HAS_FMA
#define TRIG_MAX 0x1p30 /* k pi/2 has no rounding error in an FMA */
#else
#define TRIG_MAX 1e6 /* k has at most 20 bits, as many as the parts of pi/2 leave free */
#endif
#define PI_HI 0x1.921fb54442d18p+1
#define PI_LO 0x1.1a62633145c07p-53
#define PI34_HI 0x1.2d97c7f3321d2p+1 /* 3/4 pi */
#define PI34_LO 0x1.a79394c9e8a0ap-54

#else

#define SIN_DEGREE 2
#define COS_DEGREE 2
#define ARCTAN_DEGREE 4
static const REAL c_sin[] = {-1.6666654e-01f, 8.332118e-03f, -1.9509069e-04f};
static const REAL c_cos[] = {4.1666646e-02f, -1.3887289e-03f, 2.4429217e-05f};
static const REAL c_arctan[] = {-3.3333316e-01f, 1.9998486e-01f, -1.4243795e-01f, 1.05955765e-01f,
                                -6.0823176e-02f};
/* pi/2 in parts of 24 bits */
#define HALF_PI_1 0x1.921fb6p+0f
#define HALF_PI_2 -0x1.777a5cp-25f
#define HALF_PI_3 -0x1.ee59dap-50f
#define TRIG_MAX 1e5f /* the rounding of k costs r at most 0.01 */
#define PI_HI 0x1.921fb6p+1f
#define PI_LO -0x1.777a5cp-24f
#define PI34_HI 0x1.2d97c8p+1f
#define PI34_LO -0x1.99bc5cp-28f

#endif

/* Without an FMA, float32 sin and cos do well enough without r_lo. */
#define SIN_LEVEL (NC_HAS_FMA || R_BITS == 64)

/* Replaces r, r_lo and quadrant in the lanes where t > TRIG_MAX. */
__attribute__((noinline, cold, unused)) static void
trig_reduce_huge(const REAL *t, REAL *r, REAL *r_lo, RUINT *quadrant)
{
    for (int i = 0; i < VL; i++) {
        if (t[i] <= TRIG_MAX)
            continue;
        double hi, lo;
        quadrant[i] = (RUINT)nc_payne_hanek((double)t[i], &hi, &lo);
        r[i] = (REAL)hi;
        r_lo[i] = (REAL)((hi - (double)r[i]) + lo);
    }
}

/* t = r + r_lo + quadrant pi/2 for t >= 0; only the two lowest bits of the quadrant count. r_lo is
 * small beside r, though not always below its last bit. */
NC_INLINE VF trig_reduce(VF t, VF *r_lo, VU *quadrant)
{
    VF magic = vset1(ROUND_MAGIC);
    VF n = vfma(t, K(0.6366197723675814), magic);
    VF k = n - magic;
    VF r;
    *quadrant = (VU)n;
#if NC_HAS_FMA
    /* The first difference is exact, being below 1 and a multiple of half an ulp of pi/2. */
    VF p2 = vset1(HALF_PI_2);
    VF a = vfnma(k, vset1(HALF_PI_1), t);
    r = a - k * p2;
    *r_lo = vfnma(k, vset1(HALF_PI_3), vfnma(k, p2, a - r));
#elif defined(NC_REAL_IS_F64)
    /* Parts of 33 bits: their products with k are exact. */
    VF a = t - k * K(0x1.921fb544p+0), w = k * K(0x1.0b4611a6p-34);
    VF b = a - w, b_lo = (a - b) - w;
    VF v = k * K(0x1.3198a2ep-69);
    r = b - v;
    *r_lo = (b_lo + ((b - r) - v)) - k * K(0x1.b839a252049c1p-104);
#else
    /* In float64. */
    FN64(nc_vf) t0, t1, k0, k1;
    vwiden(t, &t0, &t1);
    vwiden(k, &k0, &k1);
    t0 = t0 - k0 * 0x1.921fb544p+0 - k0 * 0x1.0b4611a626331p-34;
    t1 = t1 - k1 * 0x1.921fb544p+0 - k1 * 0x1.0b4611a626331p-34;
    r = vnarrow(t0, t1);
    vwiden(r, &k0, &k1);
    *r_lo = vnarrow(t0 - k0, t1 - k1);
#endif
    if (__builtin_expect(vany(~vle(t, vset1(TRIG_MAX))), 0)) {
        REAL ts[VL], rs[VL], los[VL];
        RUINT qs[VL];
        vstore(ts, t);
        vstore(rs, r);
        vstore(los, *r_lo);
        memcpy(qs, quadrant, sizeof qs);
        trig_reduce_huge(ts, rs, los, qs);
        r = vload(rs);
        *r_lo = vload(los);
        memcpy(quadrant, qs, sizeof qs);
    }
    return r;
}

/* sin(r + r_lo) and cos(r + r_lo), z = r^2. r_lo counts from level 1 on; at level 2 the rounding of
 * r^2 / 2 is put back as well. */
NC_INLINE VF sin_poly(VF r, VF r_lo, VF z, int level)
{
    VF rz = r * z, s = poly(z, SIN_DEGREE, c_sin);
    return level ? r + vfma(rz, s, r_lo) : vfma(rz, s, r);
}

NC_INLINE VF cos_poly(VF r, VF r_lo, VF z, int level)
{
    VF one = K(1.0), half = K(0.5);
    VF z2 = z * z, c = poly(z, COS_DEGREE, c_cos);
    VF tail = level ? vfms(z2, c, r * r_lo) : z2 * c;
    if (level < 2)
        return one - vfms(z, half, tail);
    VF h = half * r;
    VF w = vfnma(h, r, one);
    return w + (vfnma(h, r, one - w) + tail);
}

NC_INLINE VF v_sin(VF x)
{
    VF r_lo, t = vabs(x);
    VU q;
    VF r = trig_reduce(t, &r_lo, &q), z = r * r;
    VF y = vsel((VI)-(q & 1), cos_poly(r, r_lo, z, SIN_LEVEL),
                sin_poly(r, r_lo, z, SIN_LEVEL));
    return vxorsign(y, (VF)((VU)x ^ (q << (R_BITS - 2))));
}

NC_INLINE VF v_cos(VF x)
{
    VF r_lo;
    VU q;
    VF r = trig_reduce(vabs(x), &r_lo, &q), z = r * r;
    VF y = vsel((VI)-(q & 1), sin_poly(r, r_lo, z, SIN_LEVEL),
                cos_poly(r, r_lo, z, SIN_LEVEL));
    return vxorsign(y, (VF)((q + 1) << (R_BITS - 2)));
}

NC_INLINE VF v_tan(VF x)
{
    VF r_lo;
    VU q;
    VF r = trig_reduce(vabs(x), &r_lo, &q), z = r * r;
    VF s = sin_poly(r, r_lo, z, 2), c = cos_poly(r, r_lo, z, 2);
    VI odd = (VI)-(q & 1);
    VF y = vsel(odd, c, s) / vsel(odd, s, c);
    return vxorsign(y, (VF)((VU)x ^ (q << (R_BITS - 1))));
}

/* arctan(y / x) for y, x >= 0, or its supplement to pi where x has the sign of `side`: pi/4 is
 * taken out where y / x is above tan(pi/8), pi/2 where it is above tan(3 pi/8). */
NC_INLINE VF arctan_ratio(VF y, VF x, VF side)
{
    VI steep = vgt(y, x * K(2.414213562373095));
    VI mid = vgt(y, x * K(0.41421356237309503)) & ~steep;
    VI turned = (VI)-((VU)side >> (R_BITS - 1));
    VF num = vsel(steep, -x, vsel(mid, y - x, y));
    VF den = vsel(steep, y, vsel(mid, y + x, x));
    VF a = vxorsign(num / den, side);
    VF base = vsel(steep, vset1(PI_HI / 2),
                   vsel(mid, vsel(turned, vset1(PI34_HI), vset1(PI_HI / 4)),
                        vkeep(turned, vset1(PI_HI))));
    VF base_lo = vsel(steep, vset1(PI_LO / 2),
                      vsel(mid, vsel(turned, vset1(PI34_LO), vset1(PI_LO / 4)),
                           vkeep(turned, vset1(PI_LO))));
    VF z = a * a;
    return base + (a + vfma(a * z, poly(z, ARCTAN_DEGREE, c_arctan), base_lo));
}

NC_INLINE VF v_arctan(VF x)
{
    VF one = K(1.0);
    return vxorsign(arctan_ratio(vabs(x), one, one), x);
}

NC_INLINE VF v_arctan2(VF y, VF x)
{
#if defined(NC_REAL_IS_F64)
    VF huge = K(0x1p1000), small = K(0x1p-900), down = K(0x1p-60), up = K(0x1p200);
#else
    VF huge = K(0x1p100), small = K(0x1p-80), down = K(0x1p-20), up = K(0x1p60);
#endif
    VF one = K(1.0), zero = K(0.0), inf = vset1(R_INF);
    VF ay = vabs(y), ax = vabs(x);
    VI both = veq(ay, inf) & veq(ax, inf);
    ay = vsel(both, one, ay);
    ax = vsel(both, one, ax);
    /* Powers of two keep the sum finite and the comparisons exact. */
    VF larger = vsel(vgt(ay, ax), ay, ax);
    VF scale = vsel(vgt(larger, huge), down, vsel(vlt(larger, small), up, one));
    ay = ay * scale;
    ax = vsel(veq(larger, zero), one, ax * scale);
    return vxorsign(arctan_ratio(ay, ax, x), y);
}

/* Vectors of one element type and one ISA, on the vector extensions of gcc and clang: + - * / are
 * the operators, comparisons and everything that has no operator are the functions below. Masks
 * are VI whose lanes are all ones or all zeros; & | ^ ~ combine them.
 *
 * Each result lane is a function of the same lane of the arguments alone, but for the horizontal
 * vany, vall, vhsum. Nothing here is contracted (build with -ffp-contract=off): a fused
 * multiply-add is vfma, vfms or vfnma, nothing else. */

typedef REAL VF __attribute__((vector_size(NC_VBYTES)));
typedef RINT VI __attribute__((vector_size(NC_VBYTES)));
typedef RUINT VU __attribute__((vector_size(NC_VBYTES)));
/* The same in memory: only as aligned as its elements. */
typedef REAL FN(nc_vf_mem)
    __attribute__((vector_size(NC_VBYTES), aligned(sizeof(REAL)), may_alias));

/* NC_X86(name, a, ...) is the intrinsic of this ISA and type: _mm256_sqrt_pd for sqrt. */
#if defined(NC_ISA_AVX512) && defined(NC_REAL_IS_F64)
#define NC_X86(name) _mm512_##name##_pd
#elif defined(NC_ISA_AVX512)
#define NC_X86(name) _mm512_##name##_ps
#elif defined(NC_ISA_AVX2) && defined(NC_REAL_IS_F64)
#define NC_X86(name) _mm256_##name##_pd
#elif defined(NC_ISA_AVX2)
#define NC_X86(name) _mm256_##name##_ps
#elif defined(NC_SSE2) && defined(NC_REAL_IS_F64)
#define NC_X86(name) _mm_##name##_pd
#elif defined(NC_SSE2)
#define NC_X86(name) _mm_##name##_ps
#endif
#if defined(NC_NEON) && defined(NC_REAL_IS_F64)
#define NC_ARM(name) name##_f64
#elif defined(NC_NEON)
#define NC_ARM(name) name##_f32
#endif

/* ---- Memory --------------------------------------------------------------------------------- */

NC_INLINE VF vload(const REAL *p)
{
    return *(const FN(nc_vf_mem) *)p;
}

NC_INLINE void vstore(REAL *p, VF v)
{
    *(FN(nc_vf_mem) *)p = v;
}

NC_INLINE VF vset1(REAL x)
{
    return x - (VF){0};
}

/* 0, 1, ..., VL - 1 */
NC_INLINE VI viota(void)
{
#if NC_VBYTES * 8 / R_BITS == 2
    return (VI){0, 1};
#elif NC_VBYTES * 8 / R_BITS == 4
    return (VI){0, 1, 2, 3};
#elif NC_VBYTES * 8 / R_BITS == 8
    return (VI){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (VI){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#endif
}

/* The first n of VL elements, 0 < n < VL; the other lanes are zero. Touches only these n. */
NC_INLINE VF vload_n(const REAL *p, int n)
{
#if defined(NC_ISA_AVX512) && defined(NC_REAL_IS_F64)
    return (VF)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p);
#elif defined(NC_ISA_AVX512)
    return (VF)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif defined(NC_ISA_AVX2)
    return (VF)NC_X86(maskload)(p, (__m256i)(VI)(viota() < (RINT)n));
#else
    VF v = {0};
    for (int i = 0; i < VL - 1; i++)
        if (i < n)
            v[i] = p[i];
    return v;
#endif
}

NC_INLINE void vstore_n(REAL *p, VF v, int n)
{
#if defined(NC_ISA_AVX512) && defined(NC_REAL_IS_F64)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1u), (__m512d)v);
#elif defined(NC_ISA_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif defined(NC_ISA_AVX2) && defined(NC_REAL_IS_F64)
    _mm256_maskstore_pd(p, (__m256i)(VI)(viota() < (RINT)n), (__m256d)v);
#elif defined(NC_ISA_AVX2)
    _mm256_maskstore_ps(p, (__m256i)(VI)(viota() < (RINT)n), (__m256)v);
#else
    for (int i = 0; i < VL - 1; i++)
        if (i < n)
            p[i] = v[i];
#endif
}

/* ---- Multiply-add --------------------------------------------------------------------------- */

/* a * b + c: one rounding where NC_HAS_FMA, two elsewhere. */
NC_INLINE VF vfma(VF a, VF b, VF c)
{
#if defined(NC_X86) && NC_HAS_FMA
    return (VF)NC_X86(fmadd)(a, b, c);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vfmaq)(c, a, b);
#else
    return a * b + c;
#endif
}

/* a * b - c */
NC_INLINE VF vfms(VF a, VF b, VF c)
{
#if defined(NC_X86) && NC_HAS_FMA
    return (VF)NC_X86(fmsub)(a, b, c);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vfmaq)(-c, a, b);
#else
    return a * b - c;
#endif
}

/* c - a * b */
NC_INLINE VF vfnma(VF a, VF b, VF c)
{
#if defined(NC_X86) && NC_HAS_FMA
    return (VF)NC_X86(fnmadd)(a, b, c);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vfmsq)(c, a, b);
#else
    return c - a * b;
#endif
}

/* ---- Comparisons and masks ------------------------------------------------------------------ */

NC_INLINE VI vlt(VF a, VF b) { return (VI)(a < b); }
NC_INLINE VI vle(VF a, VF b) { return (VI)(a <= b); }
NC_INLINE VI vgt(VF a, VF b) { return (VI)(a > b); }
NC_INLINE VI vge(VF a, VF b) { return (VI)(a >= b); }
NC_INLINE VI veq(VF a, VF b) { return (VI)(a == b); }
NC_INLINE VI vne(VF a, VF b) { return (VI)(a != b); } /* true for NaN */
NC_INLINE VI visnan(VF a) { return (VI)(a != a); }

/* mask ? a : b, bit for bit. The mask's lanes must be all ones or all zeros. */
NC_INLINE VF vsel(VI mask, VF a, VF b)
{
#if defined(NC_ISA_AVX512)
    return (VF)_mm512_ternarylogic_epi64((__m512i)mask, (__m512i)a, (__m512i)b, 0xCA);
#elif defined(NC_ISA_AVX2)
    return (VF)NC_X86(blendv)(b, a, (VF)mask);
#else
    return (VF)((mask & (VI)a) | (~mask & (VI)b));
#endif
}

/* mask ? a : +0 */
NC_INLINE VF vkeep(VI mask, VF a)
{
    return (VF)(mask & (VI)a);
}

/* mask ? 1 : 0 */
NC_INLINE VF vbool(VI mask)
{
    return vkeep(mask, vset1(RC(1.0)));
}

NC_INLINE int vany(VI mask)
{
#if defined(NC_ISA_AVX512) && defined(NC_REAL_IS_F64)
    return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif defined(NC_ISA_AVX512)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(NC_X86)
    return NC_X86(movemask)((VF)mask) != 0;
#elif defined(NC_NEON)
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    RINT any = 0;
    for (int i = 0; i < VL; i++)
        any |= mask[i];
    return any != 0;
#endif
}

NC_INLINE int vall(VI mask)
{
    return !vany(~mask);
}

/* ---- Signs ---------------------------------------------------------------------------------- */

#define NC_SIGN ((VI)vset1(RC(-0.0)))

NC_INLINE VF vabs(VF a) { return (VF)((VI)a & ~NC_SIGN); }
NC_INLINE VF vneg(VF a) { return (VF)((VI)a ^ NC_SIGN); }
/* |a| with the sign of s */
NC_INLINE VF vcopysign(VF a, VF s) { return (VF)(((VI)a & ~NC_SIGN) | ((VI)s & NC_SIGN)); }
/* a, negated where s is negative */
NC_INLINE VF vxorsign(VF a, VF s) { return (VF)((VI)a ^ ((VI)s & NC_SIGN)); }

/* Neither infinite nor NaN. */
NC_INLINE VI visfinite(VF a) { return (VI)(vabs(a) < R_INF); }

/* ---- Square root, extremes, rounding --------------------------------------------------------- */

NC_INLINE VF vsqrt(VF a)
{
#if defined(NC_X86)
    return (VF)NC_X86(sqrt)(a);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vsqrtq)(a);
#else
    for (int i = 0; i < VL; i++)
#if defined(NC_REAL_IS_F64)
        a[i] = __builtin_sqrt(a[i]);
#else
        a[i] = __builtin_sqrtf(a[i]);
#endif
    return a;
#endif
}

/* Symmetric in the arguments: NaN wins, -0 < +0 (`maximum` and `minimum` of IEEE 754-2019). */
NC_INLINE VF vmax(VF a, VF b)
{
    VF equal = (VF)((VI)a & (VI)b); /* +0 if one of the two zeros is; the same bits otherwise */
    return vsel(vgt(a, b), a, vsel(vlt(a, b), b, vsel(veq(a, b), equal, a + b)));
}

NC_INLINE VF vmin(VF a, VF b)
{
    VF equal = (VF)((VI)a | (VI)b);
    return vsel(vlt(a, b), a, vsel(vgt(a, b), b, vsel(veq(a, b), equal, a + b)));
}

/* a > hi ? hi : a, and a < lo ? lo : a. NaN stays; between two zeros either may come out. */
NC_INLINE VF vat_most(VF a, VF hi)
{
#if defined(NC_X86)
    return (VF)NC_X86(min)(hi, a); /* hi < a ? hi : a */
#elif defined(NC_ARM)
    return (VF)NC_ARM(vminq)(hi, a);
#else
    return vsel(vlt(hi, a), hi, a);
#endif
}

NC_INLINE VF vat_least(VF a, VF lo)
{
#if defined(NC_X86)
    return (VF)NC_X86(max)(lo, a);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vmaxq)(lo, a);
#else
    return vsel(vgt(lo, a), lo, a);
#endif
}

/* To the nearest integer, halves to even; the sign of zero stays. */
NC_INLINE VF vrint(VF a)
{
#if defined(NC_ISA_AVX512)
    return (VF)NC_X86(roundscale)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(NC_ISA_AVX2)
    return (VF)NC_X86(round)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vrndnq)(a);
#else
    /* Adding 2^mant pushes the fraction out; above 2^mant there is none. */
    VF big = vset1((REAL)((RINT)1 << R_MANT));
    VF t = vabs(a);
    VF r = (t + big) - big;
    return vcopysign(vsel(vlt(t, big), r, t), a);
#endif
}

NC_INLINE VF vfloor(VF a)
{
#if defined(NC_ISA_AVX512)
    return (VF)NC_X86(roundscale)(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(NC_ISA_AVX2)
    return (VF)NC_X86(round)(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(NC_ARM)
    return (VF)NC_ARM(vrndmq)(a);
#else
    VF r = vrint(a);
    VF f = r - vbool(vgt(r, a));
    return vcopysign(f, a); /* floor(0.3) is +0, floor(-0.0) is -0: never the other sign */
#endif
}

/* ---- Sums ----------------------------------------------------------------------------------- */

/* Sum over the lanes: halves are folded onto each other, lane i with lane i + VL/2, and so on. */
NC_INLINE REAL vhsum(VF a)
{
    REAL t[VL];
    vstore(t, a);
#pragma GCC unroll 4
    for (int w = VL / 2; w > 0; w /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    return t[0];
}

/* ---- float32 and float64 -------------------------------------------------------------------- */

#if defined(NC_REAL_IS_F64)

NC_INLINE void vstore_as_f64(double *p, VF v) { vstore(p, v); }
NC_INLINE VF vload_from_f64(const double *p) { return vload(p); }
NC_INLINE void vacc_f64(double *acc, VF v) { vstore(acc, vload(acc) + v); }

#else

typedef float nc_vf_half __attribute__((vector_size(NC_VBYTES / 2)));

/* Lanes [0, VL/2) and [VL/2, VL) as float64. */
NC_INLINE void vwiden(VF v, FN64(nc_vf) *lo, FN64(nc_vf) *hi)
{
#if defined(NC_ISA_AVX512)
    *lo = (FN64(nc_vf))_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    *hi = (FN64(nc_vf))_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(NC_ISA_AVX2)
    *lo = (FN64(nc_vf))_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    *hi = (FN64(nc_vf))_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#elif defined(NC_SSE2)
    *lo = (FN64(nc_vf))_mm_cvtps_pd((__m128)v);
    *hi = (FN64(nc_vf))_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
#elif defined(NC_NEON)
    *lo = (FN64(nc_vf))vcvt_f64_f32(vget_low_f32((float32x4_t)v));
    *hi = (FN64(nc_vf))vcvt_high_f64_f32((float32x4_t)v);
#else
    union { VF whole; nc_vf_half half[2]; } u = {v};
    *lo = __builtin_convertvector(u.half[0], FN64(nc_vf));
    *hi = __builtin_convertvector(u.half[1], FN64(nc_vf));
#endif
}

/* The inverse of vwiden, rounding to nearest. */
NC_INLINE VF vnarrow(FN64(nc_vf) lo, FN64(nc_vf) hi)
{
#if defined(NC_ISA_AVX512)
    return (VF)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)lo)),
                                  _mm512_cvtpd_ps((__m512d)hi), 1);
#elif defined(NC_ISA_AVX2)
    return (VF)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps((__m256d)lo)),
                                    _mm256_cvtpd_ps((__m256d)hi), 1);
#elif defined(NC_SSE2)
    return (VF)_mm_movelh_ps(_mm_cvtpd_ps((__m128d)lo), _mm_cvtpd_ps((__m128d)hi));
#elif defined(NC_NEON)
    return (VF)vcvt_high_f32_f64(vcvt_f32_f64((float64x2_t)lo), (float64x2_t)hi);
#else
    union { VF whole; nc_vf_half half[2]; } u;
    u.half[0] = __builtin_convertvector(lo, nc_vf_half);
    u.half[1] = __builtin_convertvector(hi, nc_vf_half);
    return u.whole;
#endif
}

/* p[0..VL) = v */
NC_INLINE void vstore_as_f64(double *p, VF v)
{
    FN64(nc_vf) lo, hi;
    vwiden(v, &lo, &hi);
    FN64(vstore)(p, lo);
    FN64(vstore)(p + VL / 2, hi);
}

NC_INLINE VF vload_from_f64(const double *p)
{
    return vnarrow(FN64(vload)(p), FN64(vload)(p + VL / 2));
}

/* acc[0..VL) += v, in float64 */
NC_INLINE void vacc_f64(double *acc, VF v)
{
    FN64(nc_vf) lo, hi;
    vwiden(v, &lo, &hi);
    FN64(vstore)(acc, FN64(vload)(acc) + lo);
    FN64(vstore)(acc + VL / 2, FN64(vload)(acc + VL / 2) + hi);
}

#endif

#undef NC_X86
#undef NC_ARM

/* Opens the region of one element type. Define NC_REAL_IS_F64 or NC_REAL_IS_F32 first; float64
 * always comes before float32, so that a float32 template may call a float64 function by its full
 * name (FN64). real_end.h closes the region.
 *
 * A template writes generic names. Each is a macro for the name with the type's suffix:
 * vload -> vload_f64. New names of a template are bound in the same way by the template itself
 * (`#define thing FN(thing)`), or written FN(thing). */
#if defined(NC_REAL_IS_F64)
#define FN(name) name##_f64
#define RC(literal) literal
#define REAL double
#define RINT int64_t
#define RUINT uint64_t
#define R_BITS 64
#define R_MANT 52   /* stored mantissa bits */
#define R_BIAS 1023 /* of the exponent */
#define R_EPS DBL_EPSILON
#define R_MIN DBL_MIN /* smallest normal number */
#define R_MAX DBL_MAX
#define R_INF ((double)INFINITY)
#define R_NAN ((double)NAN)
#define VL (NC_VBYTES / 8)
#elif defined(NC_REAL_IS_F32)
#define FN(name) name##_f32
#define RC(literal) literal##f
#define REAL float
#define RINT int32_t
#define RUINT uint32_t
#define R_BITS 32
#define R_MANT 23
#define R_BIAS 127
#define R_EPS FLT_EPSILON
#define R_MIN FLT_MIN
#define R_MAX FLT_MAX
#define R_INF INFINITY
#define R_NAN NAN
#define VL (NC_VBYTES / 4)
#else
#error "define NC_REAL_IS_F64 or NC_REAL_IS_F32"
#endif
#define FN64(name) name##_f64

/* VF: VL numbers. VI, VU: as many integers of the same width; comparisons give VI masks. */
#define VF FN(nc_vf)
#define VI FN(nc_vi)
#define VU FN(nc_vu)

/* vec.h */
#define vload FN(vload)
#define vstore FN(vstore)
#define vload_n FN(vload_n)
#define vstore_n FN(vstore_n)
#define vset1 FN(vset1)
#define viota FN(viota)
#define vfma FN(vfma)
#define vfms FN(vfms)
#define vfnma FN(vfnma)
#define vsel FN(vsel)
#define vkeep FN(vkeep)
#define vbool FN(vbool)
#define vlt FN(vlt)
#define vle FN(vle)
#define vgt FN(vgt)
#define vge FN(vge)
#define veq FN(veq)
#define vne FN(vne)
#define visnan FN(visnan)
#define visfinite FN(visfinite)
#define vabs FN(vabs)
#define vneg FN(vneg)
#define vcopysign FN(vcopysign)
#define vxorsign FN(vxorsign)
#define vsqrt FN(vsqrt)
#define vmin FN(vmin)
#define vmax FN(vmax)
#define vat_most FN(vat_most)
#define vat_least FN(vat_least)
#define vfloor FN(vfloor)
#define vrint FN(vrint)
#define vany FN(vany)
#define vall FN(vall)
#define vhsum FN(vhsum)
#define vstore_as_f64 FN(vstore_as_f64)
#define vload_from_f64 FN(vload_from_f64)
#define vacc_f64 FN(vacc_f64)
#define vwiden FN(vwiden)
#define vnarrow FN(vnarrow)

/* vmath.h: one function an elementwise op of ops.def. */
#define v_copy FN(v_copy)
#define v_neg FN(v_neg)
#define v_abs FN(v_abs)
#define v_sign FN(v_sign)
#define v_square FN(v_square)
#define v_recip FN(v_recip)
#define v_sqrt FN(v_sqrt)
#define v_exp FN(v_exp)
#define v_expm1 FN(v_expm1)
#define v_log FN(v_log)
#define v_log1p FN(v_log1p)
#define v_sin FN(v_sin)
#define v_cos FN(v_cos)
#define v_tan FN(v_tan)
#define v_tanh FN(v_tanh)
#define v_sinh FN(v_sinh)
#define v_cosh FN(v_cosh)
#define v_arctan FN(v_arctan)
#define v_sigmoid FN(v_sigmoid)
#define v_softplus FN(v_softplus)
#define v_erf FN(v_erf)
#define v_floor FN(v_floor)
#define v_isnan FN(v_isnan)
#define v_not FN(v_not)
#define v_add FN(v_add)
#define v_sub FN(v_sub)
#define v_mul FN(v_mul)
#define v_div FN(v_div)
#define v_pow FN(v_pow)
#define v_arctan2 FN(v_arctan2)
#define v_maximum FN(v_maximum)
#define v_minimum FN(v_minimum)
#define v_zmul FN(v_zmul)
#define v_tanhbar FN(v_tanhbar)
#define v_lt FN(v_lt)
#define v_le FN(v_le)
#define v_eq FN(v_eq)
#define v_ne FN(v_ne)
#define v_and FN(v_and)
#define v_or FN(v_or)
#define v_select FN(v_select)

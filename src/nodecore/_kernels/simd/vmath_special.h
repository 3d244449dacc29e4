/* erf. docs/math/vector-math.md, "The error function". */

#define c_erf FN(nc_c_erf)
#define c_erfcx FN(nc_c_erfcx)

#if defined(NC_REAL_IS_F64)
#define ERF_DEGREE 11
#define ERFCX_DEGREE 11
/* erf x = x + x P(x^2), |x| <= 1: 2^-56.9 */
static const REAL c_erf[] = {
    0.12837916709551256, -0.3761263890318352, 0.11283791670944185, -0.026866170643111597,
    0.005223977606119715, -0.0008548325929378773, 0.00012055293578917283, -1.492471234196851e-05,
    1.6447132074226744e-06, -1.6206317657115439e-07, 1.371099736756755e-08,
    -7.779500223584706e-10};
/* exp(x^2) erfc x = Q((x - 2) / (x + 2)), 1 <= x <= 6: 2^-55.1 of erf x */
static const REAL c_erfcx[] = {
    0.25539567631050714, -0.4271858474139461, 0.24165819424095158, -0.07897858103658122,
    0.003732892520203537, 0.006997464610766196, -0.000847135697645804, -0.000982060025652052,
    4.3039785188093566e-05, 0.00017413170840066178, 3.291034375351569e-05,
    -1.1775746262934992e-05};
#else
#define ERF_DEGREE 6
#define ERFCX_DEGREE 4
static const REAL c_erf[] = {1.2837917e-01f, -3.7612626e-01f, 1.12835854e-01f, -2.6853813e-02f,
                             5.188328e-03f, -8.010198e-04f, 7.8538775e-05f};
static const REAL c_erfcx[] = {2.5539613e-01f, -4.271875e-01f, 2.4146268e-01f, -8.0816455e-02f,
                               -2.4920122e-03f};
#endif

NC_INLINE VF v_erf(VF x)
{
#if defined(NC_REAL_IS_F64)
    VF t = vat_most(vabs(x), K(6.0)); /* erf(6) = 1 - 2^-55.4 */
#else
    VF t = vat_most(vabs(x), K(4.0));
#endif
    VF z = t * t;
    VF inner = vfma(t, poly(z, ERF_DEGREE, c_erf), t);
    VU bits;
    VF r;
    exp_reduce(-z, &bits, &r);
    VF scale = (VF)(bits << R_MANT);
    VF e = vfma(exp_poly(r), scale, scale);
    VF w = (t - K(2.0)) / (t + K(2.0));
    VF outer = vfnma(e, poly(w, ERFCX_DEGREE, c_erfcx), K(1.0));
    return vxorsign(vsel(vlt(t, K(1.0)), inner, outer), x);
}

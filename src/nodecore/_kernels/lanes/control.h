/* The step-size factor of control.py, in float64 vectors; compiled once an ISA.
 *
 * Per lane, log_err holds log2 of the errors of this step and of the last two accepted ones. err is
 * non-finite or NaN where the step went wrong: the factor is then factor_min. n is a multiple of
 * VL. */
static void control_factor(const nc_control *c, const double *err, double *log_err,
                           const double *log_err1, const double *log_err2,
                           const double *rejected_before, double *factor, int64_t n)
{
    const VF inv_ln2 = vset1(1.4426950408889634), ln2 = vset1(0.6931471805599453);
    const VF floor = vset1(1e-300), one = vset1(1.0);
    for (int64_t i = 0; i < n; i += VL) {
        VF e = vload(err + i);
        VI finite = visfinite(e);
        e = vsel(finite, vmax(e, floor), one);
        VF le = v_log(e) * inv_ln2;
        vstore(log_err + i, le);
        VI accept = vle(e, one) & finite;
        VF x = vset1(c->log2_safety) - vset1(c->beta[0]) * le -
               vset1(c->beta[1]) * vload(log_err1 + i) - vset1(c->beta[2]) * vload(log_err2 + i);
        VF xr = vset1(c->log2_safety) - vset1(c->beta_reject) * le;
        VF f = v_exp(vsel(accept, x, xr) * ln2);
        VI grow = accept & veq(vload(rejected_before + i), vset1(0));
        VF top = vsel(grow, vset1(c->factor_max), one);
        f = vmin(vmax(f, vset1(c->factor_min)), top);
        vstore(factor + i, vsel(finite, f, vset1(c->factor_min)));
    }
}

/* x[i] ^ p for positive x. */
static void control_power(const double *x, double p, double *out, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL)
        vstore(out + i, v_exp(v_log(vload(x + i)) * vset1(p)));
}

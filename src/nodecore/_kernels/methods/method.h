/* The families behind one interface: what the driver and the backward pass call. */

/* Starts the memory that a method has of earlier steps: of all lanes, or of one. */
static void FN(method_reset)(FN(tile) *s)
{
    FN(newton_reset)(s);
}

static void FN(method_start)(FN(tile) *s, int64_t l)
{
    FN(newton_start)(s, l);
}

/* y1 and the stages that it needs. k[0] must be there. Afterwards n.failed says where it went wrong; part
 * is [8][L]. */
static void FN(method_step)(FN(tile) *s, double *part)
{
    switch (s->method->family) {
    case NC_EXPLICIT:
        FN(rk_step)(s);
        return;
    case NC_DIRK:
        FN(dirk_step)(s, part);
        return;
    case NC_RADAU:
        FN(radau_step)(s, part);
        return;
    default:
        FN(rosenbrock_step)(s);
    }
}

/* Whether the next step's first derivative is still to be evaluated; if so, by method_finish. */
static int FN(method_finishes)(const nc_tableau *m)
{
    return m->family == NC_EXPLICIT;
}

static int FN(error_reads_finish)(const nc_tableau *m)
{
    return FN(method_finishes)(m) && FN(rk_error_reads_finish)(m);
}

/* The error norm of each lane. part is [8][L], tmp [L]. */
static void FN(method_error)(FN(tile) *s, double *part, double *tmp, double *err)
{
    const nc_tableau *m = s->method;
    FN(combine)(s, s->stage, NULL, m->b_err, m->n_step);
    if (m->filter_error)
        FN(lu_solve)(s->n.lu, s->n.piv, s->stage, s->p->dim, s->L, NULL);
    FN(error_norm)(s, part, tmp, err);
}

/* Did the method itself fail in this lane? */
static int FN(method_failed)(const FN(tile) *s, int64_t l)
{
    return s->method->family != NC_EXPLICIT && s->n.failed[l];
}

/* A lane's step is over. */
static void FN(method_remember)(FN(tile) *s, int64_t l, int accepted)
{
    if (!FN(iterates)(s->method))
        return;
    if (accepted && s->method->family == NC_RADAU)
        FN(radau_remember)(s, l);
    FN(newton_remember)(&s->n, l, accepted);
}

/* The memory again, once what a checkpoint holds of it is back in its place. */
static void FN(method_restore)(FN(tile) *s)
{
    if (!FN(iterates)(s->method))
        return;
    FN(newton_restore)(s);
    if (s->method->family == NC_DIRK)
        FN(newton_factor)(s, s->n.ask);
    else
        FN(radau_factor)(s, s->n.ask);
}

/* Evaluations per lane of the last step: of the field, of the Jacobian, factorisations. */
static int64_t FN(method_work)(const FN(tile) *s, int64_t l, int64_t *jev, int64_t *factored)
{
    if (s->method->family == NC_EXPLICIT)
        return s->method->n_step - 2;
    *jev += s->n.jev[l];
    *factored += s->n.factored[l];
    return s->n.fev[l];
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* The trace of the first n stages, if the family's reverse reads one. */
static void FN(method_trace)(FN(tile) *s, int n)
{
    if (s->method->family == NC_EXPLICIT)
        FN(rk_trace)(s, n);
    else if (s->method->family == NC_ROSENBROCK)
        FN(rosenbrock_stages)(s, 1);
}

static void FN(method_reverse)(FN(tile) *s, int n, const FN(cotangents) *c)
{
    switch (s->method->family) {
    case NC_EXPLICIT:
        FN(rk_reverse)(s, n, c);
        return;
    case NC_DIRK:
        FN(dirk_reverse)(s, c);
        return;
    case NC_RADAU:
        FN(radau_reverse)(s, c);
        return;
    default:
        FN(rosenbrock_reverse)(s, c);
    }
}

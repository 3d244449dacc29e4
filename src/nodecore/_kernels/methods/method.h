/* The families behind one interface: what the driver and the backward pass call. */

/* Starts the memory that a method has of earlier steps: of all lanes, or of one. */
static void FN(method_reset)(FN(tile) *s)
{
    if (s->method->family == NC_SPLIT) {
        FN(split_reset)(s);
        return;
    }
    FN(newton_reset)(s);
    if (!s->other)
        return;
    FN(newton_reset)(s->other);
    for (int64_t l = 0; l < s->L; l++) {
        s->stiff[l] = 0;
        s->look[l] = s->switched[l] = 0;
        s->hits[l] = s->rho[l] = 0;
        s->other->active[l] = 0;
        s->other->h[l] = 0;
    }
    for (int i = 0; i < s->other->method->n_stages; i++)
        memset(s->other->k[i], 0, (size_t)(s->p->dim * s->L) * sizeof(REAL));
    memset(s->other->y1, 0, (size_t)(s->p->dim * s->L) * sizeof(REAL));
}

static void FN(method_start)(FN(tile) *s, int64_t l)
{
    if (s->method->family == NC_SPLIT)
        return;
    FN(newton_start)(s, l);
    if (s->other)
        FN(newton_start)(s->other, l);
}

/* Are a lane's first derivatives those of the parts, of which the queue knows only the sum? */
static int FN(starts_in_parts)(const nc_tableau *m)
{
    return m->family == NC_IMEX;
}

/* The first derivative at y, in the masked lanes, where it is a field value. scratch is [D][L]. */
static void FN(method_first)(FN(tile) *s, const RINT *mask, REAL *scratch)
{
    FN(stage_time)(s, 0.0);
    if (s->method->family == NC_IMEX) {
        FN(imex_first)(s, mask, scratch);
        return;
    }
    FN(field)(s, s->y, scratch, NULL);
    FN(select_lanes)(s->k[0], scratch, mask, s->p->dim, s->L);
    if (s->other)
        FN(select_lanes)(s->other->k[0], scratch, mask, s->p->dim, s->L);
}

/* The tile that makes the lane's step. */
static FN(tile) *FN(maker)(FN(tile) *s, int64_t l)
{
    return s->other && s->stiff[l] ? s->other : s;
}

/* The tile whose stages are found by iteration, or NULL. */
static FN(tile) *FN(iterating)(FN(tile) *s)
{
    return s->other ? s->other : FN(iterates)(s->method) ? s : NULL;
}

/* The step size that a method takes for a proposed one. */
static double FN(method_size)(const FN(tile) *s, double h)
{
    return s->method->family == NC_SPLIT ? FN(split_size)(s->method->composition, h) : h;
}

/* y1 and the stages that it needs. k[0] must be there. Afterwards n.failed says where it went wrong; part
 * is [8][L]. */
static void FN(method_step)(FN(tile) *s, double *part)
{
    if (s->other) {
        FN(auto_step)(s, part);
        return;
    }
    if (s->z) {
        FN(coupled_step)(s);
        return;
    }
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
    case NC_IMEX:
        FN(imex_step)(s, part);
        return;
    case NC_SPLIT:
        FN(split_step)(s, part);
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

/* The derivative of the step stage: the next step's first, but for the coupled scheme. */
static void FN(method_finish)(FN(tile) *s)
{
    if (s->z)
        FN(coupled_stages)(s, s->method->n_step - 1, s->method->n_step);
    else if (FN(any_explicit)(s))
        FN(rk_finish)(s);
}

/* The lanes that moved have the next step's first derivative in its place (of an additive method, those of
 * both parts); all: every lane moved. */
static void FN(method_advance)(FN(tile) *s, const RINT *moved, int all)
{
    if (s->z) {
        FN(coupled_advance)(s, moved);
        return;
    }
    int n = s->method->n_step, parts = s->method->family == NC_IMEX ? 2 : 1;
    for (int i = 0; i < parts; i++) {
        REAL **first = s->k + i * (n / parts), **last = s->k + (i + 1) * (n / parts) - 1;
        if (all) {
            REAL *swap = *first;
            *first = *last;
            *last = swap;
        } else {
            FN(select_lanes)(*first, *last, moved, s->p->dim, s->L);
        }
    }
    if (!s->other)
        return;
    FN(tile) *o = s->other;
    for (int64_t l = 0; l < s->L; l++)
        o->n.ask[l] = moved[l] & s->stiff[l];
    FN(select_lanes)(o->k[0], o->k[o->method->n_step - 1], o->n.ask, s->p->dim, s->L);
}

static void FN(own_error)(FN(tile) *s, double *part, double *tmp, double *err)
{
    const nc_tableau *m = s->method;
    if (m->family == NC_SPLIT)
        FN(split_error)(s, part);
    else
        FN(combine)(s, s->stage, NULL, m->b_err, m->n_step);
    if (m->filter_error)
        FN(lu_solve)(s->n.lu, s->n.piv, s->stage, s->p->dim, s->L, NULL);
    FN(error_norm)(s, part, tmp, err);
}

/* The error norm of each lane. part is [8][L], tmp [L]. */
static void FN(method_error)(FN(tile) *s, double *part, double *tmp, double *err)
{
    FN(tile) *o = s->other;
    if (FN(any_explicit)(s)) {
        FN(own_error)(s, part, tmp, err);
        if (o) { /* where an explicit step was made */
            FN(stage_radius)(s, part, o->n.size, o->n.sums, s->measured);
            for (int64_t l = 0; l < s->L; l++)
                s->rho[l] = s->stiff[l] ? s->rho[l] : s->measured[l];
        }
    }
    if (!o)
        return;
    double *theirs = o->n.size;
    FN(own_error)(o, part, tmp, theirs);
    for (int64_t l = 0; l < s->L; l++)
        if (s->stiff[l])
            err[l] = theirs[l];
}

/* Did the method itself fail in this lane? */
static int FN(method_failed)(FN(tile) *s, int64_t l)
{
    const FN(tile) *by = FN(maker)(s, l);
    return by->method->family != NC_EXPLICIT && by->n.failed[l];
}

/* A lane's step is over. */
static void FN(method_remember)(FN(tile) *s, int64_t l, int accepted)
{
    FN(tile) *by = FN(maker)(s, l);
    if (!FN(iterates)(by->method))
        return;
    if (accepted && by->method->family == NC_RADAU)
        FN(radau_remember)(by, l);
    FN(newton_remember)(&by->n, l, accepted);
}

/* The memory again, once what a checkpoint holds of it is back in its place. */
static void FN(method_restore)(FN(tile) *s)
{
    FN(tile) *by = FN(iterating)(s);
    if (!by)
        return;
    if (s->other)
        FN(auto_share)(s);
    if (by->method->family == NC_IMEX)
        by->p = by->whole->parts;
    FN(newton_restore)(by);
    if (by->method->family == NC_RADAU)
        FN(radau_factor)(by, by->n.ask);
    else
        FN(newton_factor)(by, by->n.ask);
    by->p = by->whole;
}

/* Evaluations of an explicit step, but for that at its end. */
NC_INLINE int64_t FN(explicit_work)(const nc_tableau *m, int coupled)
{
    return m->n_step - (coupled ? 1 : 2);
}

/* Evaluations per lane of the last step: of the field, of the Jacobian, factorisations. */
static int64_t FN(method_work)(FN(tile) *s, int64_t l, int64_t *jev, int64_t *factored)
{
    s = FN(maker)(s, l);
    if (s->method->family == NC_EXPLICIT)
        return FN(explicit_work)(s->method, s->z != NULL);
    *jev += s->n.jev[l];
    *factored += s->n.factored[l];
    return s->n.fev[l];
}

/* The stages that only the dense output reads. */
static void FN(method_dense_stages)(FN(tile) *s)
{
    if (s->z)
        FN(coupled_stages)(s, s->method->n_step, s->method->n_stages);
    else
        FN(rk_dense_stages)(s);
}

/* out = y(t + theta h), lane by lane; theta 0 where a lane wants nothing. */
static void FN(method_dense)(FN(tile) *s, const double *theta, REAL *out)
{
    if (FN(any_explicit)(s))
        FN(dense)(s, theta, out);
    if (s->z)
        FN(add_apart)(s, theta, out);
    if (!s->other)
        return;
    FN(dense)(s->other, theta, s->other->n.rest);
    FN(select_lanes)(out, s->other->n.rest, s->stiff, s->p->dim, s->L);
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
    case NC_IMEX:
        FN(imex_reverse)(s, c);
        return;
    case NC_SPLIT:
        FN(split_reverse)(s, c);
        return;
    default:
        FN(rosenbrock_reverse)(s, c);
    }
}

/* Does the family's reverse leave the whole cotangent of y in `sum`, or what is to be added to lambda? */
static int FN(reverse_is_whole)(const nc_tableau *m)
{
    return m->family == NC_SPLIT;
}

/* A chunk's backward pass begins: what has sinks of its own adds to the chunk's accumulator; it ends. */
static void FN(method_aim)(FN(tile) *s, double *acc)
{
    if (s->method->family == NC_SPLIT)
        FN(split_aim)(s, acc);
}

static void FN(method_settle)(FN(tile) *s)
{
    if (s->method->family == NC_SPLIT)
        FN(split_settle)(s);
}

/* Splitting: y' = sum_i f_i, a step is a sequence of flows of the parts (docs/math/splitting.md). The
 * sequence is data: flow j advances part[j] from start[j] to start[j] + size[j], in fractions of the step,
 * on the part's own clock.
 *
 * Each part has a tile of its own, with its own programs and method, which shares the lanes of the whole.
 * A flow is a function of its start, its size and its state alone: nothing is handed from one to the
 * next, equations of stages are solved to rounding. So a step made again has the same bits. */

typedef struct FN(split_) {
    FN(tile) sub[NC_MAX_PARTS];
    nc_sinks sinks[NC_MAX_PARTS], second_sinks[NC_MAX_PARTS];
    int n_states;                /* flows of a step, each sub-step counted */
    REAL *states;                /* [n_states][D][L], the state before each */
    REAL *lambda, *sum, *kappa, *carried, *lie;
    REAL *ybar[NC_MAX_STAGES];
    double *time_sum, *size_sum;
    REAL *etd[8];                /* of an exponential integrator: see etd.h */
    double *scale;
} FN(split);

static void FN(method_step)(FN(tile) *s, double *part);
static void FN(method_trace)(FN(tile) *s, int n);
static void FN(method_reverse)(FN(tile) *s, int n, const FN(cotangents) *c);
static size_t FN(tile_memory)(FN(tile) *s, char *base, int backward);

/* The panels of one program's sinks. */
static size_t FN(sinks_memory)(nc_sinks *k, const nc_program *program, int32_t n, int64_t L, char *base,
                               size_t used)
{
    nc_panel few[64], *probe = n > 64 ? malloc((size_t)n * sizeof(nc_panel)) : few;
    REAL *buf = NULL;
    if (!probe)
        return (size_t)1 << 60; /* no arena is so large: memory is out */
    size_t elems = FN(panel_layout)(program, L, probe);
    if (probe != few)
        free(probe);
    NC_TAKE(k->panels, n);
    NC_TAKE(buf, elems + FN(SLACK));
    if (base) {
        k->buf = buf;
        k->n_panels = n;
        FN(panel_layout)(program, L, k->panels);
    }
    return used;
}

static size_t FN(split_memory)(FN(tile) *s, char *base, size_t used, int backward)
{
    const nc_problem *p = s->p;
    const nc_composition *m = s->method->composition;
    FN(split) local, *w = &local;
    int64_t L = s->L, rows = p->dim * L + FN(SLACK), lanes = L + 16;
    int stages = 0;
    memset(&local, 0, sizeof local);
    NC_TAKE(s->split, 1);
    if (base) {
        w = s->split;
        memset(w, 0, sizeof *w);
    }
    for (int j = 0; j < m->n_flows; j++)
        w->n_states += m->substeps[m->part[j]];
    for (int i = 0; i < m->n_parts; i++) {
        FN(tile) *u = w->sub + i;
        u->p = p->parts + i;
        u->L = L;
        used += FN(tile_memory)(u, base ? base + used : NULL, backward);
        u->sample = s->sample;
        u->active = s->active;
        u->base[NC_SP_S] = s->base[NC_SP_S];
        if (u->method->n_stages > stages)
            stages = u->method->n_stages;
        if (backward) {
            used = FN(sinks_memory)(w->sinks + i, &u->p->reverse, u->p->n_panels, L, base, used);
            used = FN(sinks_memory)(w->second_sinks + i, &u->p->second, u->p->n_second_panels, L, base,
                                    used);
        }
    }
    NC_TAKE(w->lie, rows);
    NC_TAKE(w->scale, lanes);
    for (int i = 0; i < 8 && m->exponential; i++)
        NC_TAKE(w->etd[i], rows);
    NC_TAKE(s->n.fev, lanes);
    NC_TAKE(s->n.jev, lanes);
    NC_TAKE(s->n.factored, lanes);
    NC_TAKE(s->n.failed, lanes);
    NC_TAKE(s->n.singular, lanes);
    NC_TAKE(s->n.stale, lanes);
    if (!backward)
        return used;
    NC_TAKE(w->states, w->n_states * p->dim * L + FN(SLACK));
    NC_TAKE(w->lambda, rows);
    NC_TAKE(w->sum, rows);
    NC_TAKE(w->kappa, rows);
    NC_TAKE(w->carried, rows);
    NC_TAKE(w->time_sum, lanes);
    NC_TAKE(w->size_sum, lanes);
    for (int i = 0; i < stages; i++)
        NC_TAKE(w->ybar[i], rows);
    return used;
}

/* The step size that is taken for a proposed one. Where exponentials of dense matrices are to serve again,
 * it is the next smaller power of 2^(1/4). */
static double FN(split_size)(const nc_composition *m, double h)
{
    const double roots[4] = {0.5, 0.59460355750136053, 0.70710678118654757, 0.84089641525371461};
    int exponent, i = 3;
    if (!m->few_sizes)
        return h;
    double fraction = frexp(fabs(h), &exponent);
    while (i > 0 && roots[i] > fraction)
        i--;
    return copysign(ldexp(roots[i], exponent), h);
}

/* A chunk begins, forwards or backwards. */
static void FN(split_reset)(FN(tile) *s)
{
    const nc_composition *m = s->method->composition;
    for (int64_t l = 0; l < s->L; l++)
        s->n.failed[l] = s->n.singular[l] = s->n.stale[l] = 0;
    for (int i = 0; i < m->n_parts; i++) {
        FN(tile) *u = s->split->sub + i;
        if (u->method->family == NC_EXPM) {
            u->expm->used = 0;
            u->expm->clock = 0;
        } else {
            FN(newton_reset)(u);
        }
        for (int j = 0; j < u->method->n_stages; j++)
            memset(u->k[j], 0, (size_t)(s->p->dim * s->L) * sizeof(REAL));
    }
}

/* Places the q-th of the sub-steps of flow j of a table. */
static void FN(aim_flow)(FN(tile) *s, int j, int q)
{
    const nc_composition *m = s->method->composition;
    FN(tile) *u = s->split->sub + m->part[j];
    int n = m->substeps[m->part[j]];
    double from = m->start[j] + m->size[j] * ((double)q / n);
    double to = m->start[j] + m->size[j] * ((double)(q + 1) / n);
    for (int64_t l = 0; l < s->L; l++) {
        double h = s->h[l];
        u->h[l] = m->size[j] / n * h;
        u->t[l] = from == 0 ? s->t[l] : from == 1 ? s->t_new[l] : s->t[l] + from * h;
        u->t_new[l] = to == 0 ? s->t[l] : to == 1 ? s->t_new[l] : s->t[l] + to * h;
        u->after_stop[l] = (from == 0 && s->after_stop[l]) || (from == 1 && s->at_stop[l]);
        u->at_stop[l] = (to == 1 && s->at_stop[l]) || (to == 0 && s->after_stop[l]);
    }
}

/* y1 of a part's sub-step, from its y; counts the work if it is asked to. */
static void FN(flow)(FN(tile) *s, int j, double *part, int count)
{
    const nc_composition *m = s->method->composition;
    FN(tile) *u = s->split->sub + m->part[j];
    int64_t L = s->L;
    int family = u->method->family;
    if (family == NC_EXPM) {
        FN(expm_apply)(u, 0, m->size[j], u->y, u->y1, 0);
        return;
    }
    for (int64_t l = 0; l < L; l++)
        FN(newton_start)(u, l);
    if (family != NC_ROSENBROCK) {
        FN(stage_time)(u, 0.0);
        FN(field)(u, u->y, u->k[0], NULL);
    }
    FN(method_step)(u, part);
    for (int64_t l = 0; l < L; l++) {
        if (family != NC_EXPLICIT && u->n.failed[l]) {
            s->n.failed[l] = 1;
            s->n.singular[l] |= u->n.singular[l];
        }
        if (!count)
            continue;
        if (family == NC_EXPLICIT) {
            s->n.fev[l] += u->method->n_step - 1;
        } else {
            s->n.fev[l] += u->n.fev[l] + (family != NC_ROSENBROCK);
            s->n.jev[l] += u->n.jev[l];
            s->n.factored[l] += u->n.factored[l];
        }
    }
}

/* The flows first .. last - 1 of the table, from y to out. states: NULL, or where the state before each
 * sub-step goes. */
static void FN(flows)(FN(tile) *s, int first, int last, const REAL *y, REAL *out, REAL *states,
                      double *part)
{
    const nc_composition *m = s->method->composition;
    size_t n = (size_t)(s->p->dim * s->L);
    const REAL *at = y;
    for (int j = first; j < last; j++)
        for (int q = 0; q < m->substeps[m->part[j]]; q++) {
            FN(tile) *u = s->split->sub + m->part[j];
            FN(aim_flow)(s, j, q);
            if (states) {
                memcpy(states, at, n * sizeof(REAL));
                states += n;
            }
            memcpy(u->y, at, n * sizeof(REAL));
            FN(flow)(s, j, part, states == NULL);
            at = u->y1;
        }
    memcpy(out, at, n * sizeof(REAL));
}

static void FN(etd_step)(FN(tile) *s);
static void FN(etd_reverse)(FN(tile) *s, const FN(cotangents) *c);

static void FN(split_step)(FN(tile) *s, double *part)
{
    const nc_composition *m = s->method->composition;
    for (int64_t l = 0; l < s->L; l++) {
        s->n.failed[l] = s->n.singular[l] = 0;
        s->n.fev[l] = s->n.jev[l] = s->n.factored[l] = 0;
    }
    if (m->exponential)
        FN(etd_step)(s);
    else
        FN(flows)(s, 0, m->n_flows, s->y, s->y1, NULL, part);
}

/* The step's difference to that of Lie's scheme, which takes all parts once and is of order 1. */
static void FN(split_error)(FN(tile) *s, double *part)
{
    const nc_composition *m = s->method->composition;
    REAL *lie = s->split->lie;
    FN(flows)(s, m->n_flows, m->n_flows + m->n_lie, s->y, lie, NULL, part);
    for (int64_t i = 0; i < s->p->dim * s->L; i++)
        s->stage[i] = s->y1[i] - lie[i];
}

/* ---- Reverse -------------------------------------------------------------------------------- */

/* A chunk's gradient accumulator, for all parts; and the chunk's end. */
static void FN(split_aim)(FN(tile) *s, double *acc)
{
    for (int i = 0; i < s->method->composition->n_parts; i++) {
        s->split->sinks[i].acc = s->split->second_sinks[i].acc = acc;
        if (s->split->sub[i].expm)
            s->split->sub[i].expm->acc = acc;
    }
}

static void FN(split_settle)(FN(tile) *s)
{
    for (int i = 0; i < s->method->composition->n_parts; i++) {
        if (s->split->sub[i].method->family == NC_EXPM) {
            FN(expm_settle_all)(s->split->sub + i);
            continue;
        }
        FN(panel_flush)(s->split->sinks + i);
        FN(panel_flush)(s->split->second_sinks + i);
    }
}

/* The flows in reverse order, each by its own method's adjoint. Leaves the cotangent of y in c->sum. */
static void FN(split_reverse)(FN(tile) *s, const FN(cotangents) *c)
{
    const nc_composition *m = s->method->composition;
    FN(split) *w = s->split;
    int64_t L = s->L;
    size_t n = (size_t)(s->p->dim * L);
    REAL *states = w->states + (size_t)w->n_states * n;
    if (m->exponential) {
        FN(etd_reverse)(s, c);
        return;
    }
    FN(flows)(s, 0, m->n_flows, s->y, s->y1, w->states, c->part);
    memcpy(w->lambda, c->lambda, n * sizeof(REAL));
    for (int j = m->n_flows - 1; j >= 0; j--) {
        int i = m->part[j], count = m->substeps[i];
        FN(tile) *u = w->sub + i;
        for (int q = count - 1; q >= 0; q--) {
            states -= n;
            FN(aim_flow)(s, j, q);
            memcpy(u->y, states, n * sizeof(REAL));
            for (int64_t l = 0; l < L; l++)
                w->time_sum[l] = w->size_sum[l] = 0;
            if (u->method->family == NC_EXPM) {
                FN(expm_apply)(u, 0, m->size[j], u->y, u->y1, 0);
                FN(expm_gather)(u, 0, m->size[j], NULL, w->lambda, u->y, w->sinks[i].acc);
                if (c->size_sum)
                    FN(expm_pull_size)(u, w->lambda, w->size_sum);
                FN(expm_apply)(u, 0, m->size[j], w->lambda, w->sum, 1);
                memcpy(w->lambda, w->sum, n * sizeof(REAL));
            } else {
                const FN(cotangents) own = {
                    .lambda = w->lambda,
                    .ybar = w->ybar,
                    .sum = w->sum,
                    .kappa = w->kappa,
                    .sbar_stage = c->sbar_stage,
                    .carried = w->carried,
                    .moved = c->moved,
                    .fresh = c->moved,
                    .sbar = c->sbar,
                    .time_sum = c->time_sum ? w->time_sum : NULL,
                    .size_sum = c->size_sum ? w->size_sum : NULL,
                    .part = c->part,
                    .dot = c->dot,
                    .sinks = w->sinks + i,
                    .second_sinks = w->second_sinks + i,
                };
                int stages = u->method->n_step - 1;
                if (FN(iterates)(u->method))
                    FN(flow)(s, j, c->part, 0);
                else
                    FN(method_trace)(u, stages);
                memset(w->carried, 0, n * sizeof(REAL));
                FN(method_reverse)(u, stages, &own);
                for (size_t e = 0; e < n; e++)
                    w->lambda[e] += w->sum[e];
            }
            if (!c->time_sum)
                continue;
            double from = m->start[j] + m->size[j] * ((double)q / count), size = m->size[j] / count;
            for (int64_t l = 0; l < L; l++) {
                c->time_sum[l] += w->time_sum[l];
                if (c->size_sum)
                    c->size_sum[l] += from * w->time_sum[l] + size * w->size_sum[l];
            }
        }
    }
    memcpy(c->sum, w->lambda, n * sizeof(REAL));
}

/* The tile's arrays in one arena. Called twice: with base NULL it only counts bytes. */
#define NC_TAKE(ptr, count)                                                                        \
    do {                                                                                           \
        size_t bytes_ = (((size_t)(count) * sizeof(*(ptr))) + 63) & ~(size_t)63;                   \
        if (base) {                                                                                \
            (ptr) = (void *)(base + used);                                                         \
            NC_FORBID(base + used + bytes_, NC_FENCE);                                             \
        }                                                                                          \
        used += bytes_ + NC_FENCE;                                                                 \
    } while (0)

/* Reads past a register's end stay inside the arena. */
enum { FN(SLACK) = 64 };

static size_t FN(newton_memory)(FN(tile) *s, char *base, size_t used, int backward);
static int64_t FN(column_lanes)(int64_t D);
static size_t FN(split_memory)(FN(tile) *s, char *base, size_t used, int backward);
static size_t FN(expm_memory)(FN(tile) *s, char *base, size_t used, int backward);

static size_t FN(tile_memory)(FN(tile) *s, char *base, int backward)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method = p->method;
    s->whole = p;
    size_t used = 0;
    int64_t L = s->L, D = p->dim, rows = D * L + FN(SLACK), lanes = L + 16;
    NC_TAKE(s->y, rows);
    NC_TAKE(s->y1, rows);
    NC_TAKE(s->stage, rows);
    for (int i = 0; i < m->n_stages; i++) {
        NC_TAKE(s->k[i], rows);
        if (backward || (i == 0 && m->family != NC_EXPLICIT))
            NC_TAKE(s->own_res[i], (int64_t)p->res_rows * L + FN(SLACK));
        if (backward) {
            NC_TAKE(s->own_y[i], rows);
            NC_TAKE(s->trace_time[i], lanes + FN(SLACK));
            NC_TAKE(s->trace_t[i], lanes);
        }
    }
    NC_TAKE(s->time, lanes + FN(SLACK));
    NC_TAKE(s->t, lanes);
    NC_TAKE(s->h, lanes);
    NC_TAKE(s->t_new, lanes);
    NC_TAKE(s->stage_t, lanes);
    NC_TAKE(s->at_stop, lanes);
    NC_TAKE(s->after_stop, lanes);
    NC_TAKE(s->active, lanes);
    NC_TAKE(s->sample, lanes);
    NC_TAKE(s->coef, (NC_MAX_STAGES + 1) * L + FN(SLACK));
    const nc_events *e = &p->events;
    const nc_program *programs[] = {&p->field,     &p->sample,         &p->field_keep, &p->tangent,
                                    &p->time,      &e->value,          &e->slope,      &e->reset,
                                    &p->reverse,   &p->sample_reverse, &p->second,     &e->pull,
                                    &e->spread};
    int64_t registers = 0, width = L;
    for (int i = 0; i < (backward ? 13 : 8); i++)
        if (programs[i]->rf_rows > registers)
            registers = programs[i]->rf_rows;
    for (int j = 0; j < p->n_parts && m->family == NC_IMEX; j++) {
        const nc_problem *q = p->parts + j;
        const nc_program *theirs[] = {&q->field, &q->field_keep, &q->tangent};
        for (int i = 0; i < 3; i++)
            if (theirs[i]->rf_rows > registers)
                registers = theirs[i]->rf_rows;
    }
    if ((m->family != NC_EXPLICIT || m->stiff) && FN(column_lanes)(D) > width)
        width = FN(column_lanes)(D);
    NC_TAKE(s->base[NC_SP_RF], registers * width + FN(SLACK));
    NC_TAKE(s->base[NC_SP_S], (int64_t)p->n_sample * L + FN(SLACK));
    NC_TAKE(s->base[NC_SP_CURVE], (int64_t)p->curve.rows * L + FN(SLACK));
    NC_TAKE(s->piece, lanes);
    s->base[NC_SP_U] = (REAL *)p->uniform;
    if (p->control.coupling > 0) {
        NC_TAKE(s->z, rows);
        NC_TAKE(s->apart, rows);
        NC_TAKE(s->minus_h, lanes);
    }
    if (m->family == NC_SPLIT)
        return FN(split_memory)(s, base, used, backward);
    if (m->family == NC_EXPM)
        return FN(expm_memory)(s, base, used, backward);
    if (m->stiff) {
        NC_TAKE(s->stiff, lanes);
        NC_TAKE(s->look, lanes);
        NC_TAKE(s->switched, lanes);
        NC_TAKE(s->measured, lanes);
        NC_TAKE(s->hits, lanes);
        NC_TAKE(s->rho, lanes);
    }
    return FN(newton_memory)(s, base, used, backward);
}

/* What the tile of the stiff partner has of its own; the rest is that of `s`. */
static size_t FN(other_memory)(FN(tile) *o, const FN(tile) *s, char *base, size_t used, int backward)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = s->method->stiff;
    if (!m)
        return used;
    *o = *s;
    o->other = NULL;
    o->method = m;
    int64_t L = s->L, rows = p->dim * L + FN(SLACK), lanes = L + 16;
    NC_TAKE(o->y1, rows);
    NC_TAKE(o->h, lanes);
    NC_TAKE(o->active, lanes);
    for (int i = 0; i < m->n_stages; i++) {
        NC_TAKE(o->k[i], rows);
        if (backward || i == 0)
            NC_TAKE(o->own_res[i], (int64_t)p->res_rows * L + FN(SLACK));
        if (backward) {
            NC_TAKE(o->own_y[i], rows);
            NC_TAKE(o->trace_time[i], lanes + FN(SLACK));
            NC_TAKE(o->trace_t[i], lanes);
        }
    }
    return FN(newton_memory)(o, base, used, backward);
}

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

static size_t FN(tile_memory)(FN(tile) *s, char *base, int backward)
{
    const nc_problem *p = s->p;
    const nc_tableau *m = p->method;
    size_t used = 0;
    int64_t L = s->L, D = p->dim, rows = D * L + FN(SLACK), lanes = L + 16;
    NC_TAKE(s->y, rows);
    NC_TAKE(s->y1, rows);
    NC_TAKE(s->stage, rows);
    for (int i = 0; i < m->n_stages; i++) {
        NC_TAKE(s->k[i], rows);
        if (backward) {
            NC_TAKE(s->own_y[i], rows);
            NC_TAKE(s->own_res[i], (int64_t)p->res_rows * L + FN(SLACK));
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
    int64_t registers = p->field.rf_rows;
    if (p->sample.rf_rows > registers)
        registers = p->sample.rf_rows;
    if (backward) {
        if (p->field_keep.rf_rows > registers)
            registers = p->field_keep.rf_rows;
        if (p->reverse.rf_rows > registers)
            registers = p->reverse.rf_rows;
        if (p->sample_reverse.rf_rows > registers)
            registers = p->sample_reverse.rf_rows;
    }
    const nc_program *events[] = {&p->events.value, &p->events.slope, &p->events.reset,
                                  &p->events.pull, &p->events.spread};
    for (int i = 0; i < 5; i++)
        if (events[i]->rf_rows > registers)
            registers = events[i]->rf_rows;
    NC_TAKE(s->base[NC_SP_RF], registers * L + FN(SLACK));
    NC_TAKE(s->base[NC_SP_S], (int64_t)p->n_sample * L + FN(SLACK));
    NC_TAKE(s->base[NC_SP_CURVE], (int64_t)p->curve.rows * L + FN(SLACK));
    NC_TAKE(s->piece, lanes);
    s->base[NC_SP_U] = (REAL *)p->uniform;
    return used;
}

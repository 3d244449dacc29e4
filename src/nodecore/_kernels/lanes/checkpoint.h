/* What the lanes leave in the record: entries for the backward pass, step traces, and checkpoints from
 * which they can be set back (docs/math/checkpoints.md). */

/* The state of all lanes before a step, and which sample and output they are at. */
static void FN(write_start)(const FN(lanes) *s, const nc_record *r, char *e)
{
    const FN(tile) *T = &s->tile;
    int64_t L = s->L;
    int32_t *sample = (int32_t *)e, *q = (int32_t *)(e + r->off_q);
    for (int64_t l = 0; l < L; l++) {
        sample[l] = (int32_t)T->sample[l];
        q[l] = (int32_t)s->q[l];
    }
    memcpy(e + r->off_t, T->t, (size_t)L * sizeof(double));
    memcpy(e + r->off_y, T->y, (size_t)(L * T->p->dim) * sizeof(REAL));
}

/* What the step was: its size and end, and which lanes it moved. */
static void FN(write_step)(const FN(lanes) *s, const nc_record *r, char *e)
{
    const FN(tile) *T = &s->tile;
    int64_t L = s->L;
    uint8_t *flags = (uint8_t *)(e + r->off_flags);
    const int stops = T->p->stop_off != NULL, events = T->p->events.n != 0, both = T->other != NULL;
    for (int64_t l = 0; l < L; l++) {
        int moved = s->mask[l] != 0;
        int f = moved ? NC_LANE_ACCEPTED : NC_LANE_HELD;
        f |= moved & s->first[l] ? NC_LANE_FIRST : 0;
        f |= s->evaluated[l] ? NC_LANE_FRESH : 0;
        if (stops)
            f |= (T->at_stop[l] ? NC_LANE_AT_STOP : 0) | (T->after_stop[l] ? NC_LANE_AFTER_STOP : 0);
        if (events)
            f |= moved && FN(is_cut)(s, l) ? NC_LANE_CUT : 0;
        if (both)
            f |= T->stiff[l] ? NC_LANE_STIFF : 0;
        flags[l] = (uint8_t)(T->active[l] ? f : 0);
    }
    memcpy(e + r->off_h, T->h, (size_t)L * sizeof(double));
    memcpy(e + r->off_t_new, T->t_new, (size_t)L * sizeof(double));
    if (r->off_carry && e != r->last) {
        ((nc_carry *)(e + r->off_carry))->complete = 1;
        return;
    }
    char *stage = e + r->off_stages;
    size_t bytes = (size_t)(L * T->p->dim) * sizeof(REAL);
    for (int64_t i = 0; i < r->stages; i++, stage += bytes) {
        memcpy(stage, FN(iterating)((FN(tile) *)T)->k[i], bytes);
        for (int64_t l = 0; l < L; l++)
            if (!s->mask[l] || (T->other && !T->stiff[l])) /* a try that failed may have left anything */
                for (int64_t j = 0; j < T->p->dim; j++)
                    ((REAL *)stage)[j * L + l] = 0;
    }
}

/* Lets the stages of the next step leave their trace in the record, if there is room. */
static void FN(aim_trace)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    nc_record *r = s->record;
    char *trace = s->silent || !r ? NULL : nc_record_trace(r, r->n);
    for (int64_t i = 1; i <= (r ? r->trace_stages : 0); i++) {
        char *stage = trace ? trace + (i - 1) * r->trace_stage_bytes : NULL;
        T->keep_y[i] = (REAL *)stage;
        T->keep_res[i] = trace ? (REAL *)(stage + r->trace_off_res) : NULL;
    }
}

/* Are the numbers of a lane that did not move such as an accepted step has? They are those at an accepted
 * state, or of a step that was only a little too long. */
static int FN(is_tame)(const FN(lanes) *s, int64_t l)
{
    const nc_problem *p = s->tile.p;
    int status = p->status[s->tile.sample[l]];
    if (!s->tile.active[l])
        return status == NC_OK || status == NC_EVENT;
    return p->control.mode == NC_ADAPTIVE && s->err[l] <= 100;
}

/* No NaN of a lane that did not move meets the sums over lanes: such a lane repeats one that did. */
static void FN(mend_trace)(FN(lanes) *s)
{
    FN(tile) *T = &s->tile;
    const nc_record *r = s->record;
    int64_t moved = 0, donor = 0, L = s->L, D = T->p->dim, R = T->p->res_rows;
    for (int64_t l = 0; l < L; l++)
        moved += s->mask[l] != 0;
    if (!r->trace_stages || !T->keep_y[1] || moved == L)
        return;
    while (!s->mask[donor])
        donor++;
    for (int64_t i = 1; i <= r->trace_stages; i++)
        for (int half = 0; half < 2; half++) {
            REAL *rows = half ? T->keep_res[i] : T->keep_y[i];
            int64_t n = half ? R : D;
            FN(find_nonfinite)(rows, n, L, s->wild);
            for (int64_t l = 0; l < L; l++)
                if (!s->mask[l] && (s->wild[l] || !FN(is_tame)(s, l)))
                    FN(lane_copy)(rows, l, rows, donor, n, L);
        }
}

static int FN(record)(FN(lanes) *s)
{
    nc_record *r = s->record;
    FN(mend_trace)(s);
    if (!r->limit) {
        char *e = nc_record_push(r);
        if (!e)
            return NC_STOP_MEMORY;
        FN(write_start)(s, r, e);
        FN(write_step)(s, r, e);
        return 0;
    }
    if (s->slot)
        FN(write_step)(s, r, s->slot);
    FN(write_start)(s, r, r->last);
    FN(write_step)(s, r, r->last);
    s->slot = NULL;
    r->n += !s->silent;
    return 0;
}

/* Behind a step of the coupled scheme: what is needed to undo it. Rounding grows by 1/l a step undone, so
 * both states are kept from time to time. Non-zero when memory is out. */
static int FN(keep_pair)(FN(lanes) *s, int64_t l, int done)
{
    FN(tile) *T = &s->tile;
    nc_record *r = s->record;
    int64_t b = T->sample[l], D = T->p->dim;
    if (T->p->control.mode == NC_ADAPTIVE && nc_path_end(r, b, T->t[l]))
        return 1;
    if (!done && s->accepted[l] % r->period)
        return 0;
    REAL *pair = (REAL *)nc_path_pair(r, b);
    if (!pair)
        return 1;
    FN(lane_out)(pair, T->y, D, s->L, l);
    FN(lane_out)(pair + D, T->z, D, s->L, l);
    if (done)
        nc_path_close(r, b);
    return 0;
}

enum {
    FN(MORE_ACTIVE) = 1,
    FN(MORE_FIRST) = 2,
    FN(MORE_REJECTED) = 4,
    FN(MORE_AFTER_STOP) = 8,
    FN(MORE_EVALUATED) = 16,
    FN(MORE_FRESH) = 32,
    FN(MORE_WANT_JAC) = 64,
    FN(MORE_STIFF) = 128
};

/* The arrays behind an entry: what the driver needs besides. */
typedef struct {
    nc_carry *head;
    double *h_next, *log_err1, *log_err2;
    int64_t *count, *accepted, *rejected;
    int32_t *stop;
    uint8_t *more;
} FN(carry);

static FN(carry) FN(carry_of)(const nc_record *r, char *e)
{
    FN(carry) c;
    int64_t L = r->lanes;
    c.head = (nc_carry *)(e + r->off_carry);
    c.h_next = (double *)(c.head + 1);
    c.log_err1 = c.h_next + L;
    c.log_err2 = c.log_err1 + L;
    c.count = (int64_t *)(c.log_err2 + L);
    c.accepted = c.count + L;
    c.rejected = c.accepted + L;
    c.stop = (int32_t *)(c.rejected + L);
    c.more = (uint8_t *)(c.stop + L);
    return c;
}

/* What Newton's iteration remembers, into the carry or back from it. */
static void FN(carry_newton)(FN(lanes) *s, char *e, uint8_t *more, int save)
{
    const nc_record *r = s->record;
    FN(tile) *A = &s->tile, *T = FN(iterating)(A);
    FN(newton) *n = &T->n;
    char *at = e + r->off_carry + r->off_newton;
    size_t state = (size_t)(T->p->dim * s->L) * sizeof(REAL);
    double *numbers[NC_NEWTON_DOUBLES] = {n->jac_t, n->jac_time, n->lu_hg,
                                          n->eta,   n->last_h,   n->age,
                                          A->other ? A->hits : NULL, A->other ? A->rho : NULL};
    int additive = T->method->family == NC_IMEX;
    REAL *third = additive ? T->k[FN(stages_of)(T->method)] : n->last_z[0];
    REAL *states[] = {T->k[0], n->jac_y, third, n->last_z[1], n->last_z[2]};
#define NC_MOVE(array, bytes)                                                                      \
    do {                                                                                           \
        memcpy(save ? (void *)at : (void *)(array), save ? (void *)(array) : (void *)at, bytes);   \
        at += bytes;                                                                               \
    } while (0)
    for (int i = 0; i < NC_NEWTON_DOUBLES && numbers[i]; i++)
        NC_MOVE(numbers[i], (size_t)s->L * sizeof(double));
    for (int64_t i = 0; i < r->carry_rows; i++)
        NC_MOVE(states[i], state);
#undef NC_MOVE
    for (int64_t l = 0; l < s->L; l++) {
        if (save)
            more[l] |= (uint8_t)(n->want_jac[l] ? FN(MORE_WANT_JAC) : 0);
        else
            n->want_jac[l] = (more[l] & FN(MORE_WANT_JAC)) != 0;
        if (!A->other)
            continue;
        if (save) {
            more[l] |= (uint8_t)(A->stiff[l] ? FN(MORE_STIFF) : 0);
        } else {
            A->stiff[l] = more[l] & FN(MORE_STIFF) ? -1 : 0;
            A->look[l] = s->accepted[l] == 0 && A->p->control.mode != NC_REPLAY;
            if (!A->stiff[l] && A->active[l])
                s->fresh[l] = 1; /* the explicit method's is evaluated again */
        }
    }
}

/* Keeps the state before the next step in a slot; its entry is completed by that step. */
static void FN(save)(FN(lanes) *s, char *e)
{
    const nc_record *r = s->record;
    FN(carry) c = FN(carry_of)(r, e);
    FN(write_start)(s, r, e);
    c.head->next = s->next;
    c.head->queue_first = s->q_first;
    c.head->queue_size = s->q_size;
    c.head->queue_pos = s->q_pos;
    c.head->complete = 0;
    for (int64_t l = 0; l < s->L; l++) {
        c.h_next[l] = s->h_next[l];
        c.log_err1[l] = s->log_err1[l];
        c.log_err2[l] = s->log_err2[l];
        c.count[l] = s->count[l];
        c.accepted[l] = s->accepted[l];
        c.rejected[l] = s->rejected[l];
        c.stop[l] = (int32_t)s->stop[l];
        c.more[l] = (uint8_t)((s->tile.active[l] ? FN(MORE_ACTIVE) : 0) |
                              (s->first[l] ? FN(MORE_FIRST) : 0) |
                              (s->rejected_before[l] != 0 ? FN(MORE_REJECTED) : 0) |
                              (s->tile.after_stop[l] ? FN(MORE_AFTER_STOP) : 0) |
                              (s->evaluated[l] ? FN(MORE_EVALUATED) : 0) |
                              (s->fresh[l] ? FN(MORE_FRESH) : 0));
    }
    if (r->carry_rows)
        FN(carry_newton)(s, e, c.more, 1);
    s->slot = e;
}

/* The lanes as they were when the slot was saved. First derivatives are evaluated afresh: they have
 * the bits of those that were handed on. */
static void FN(restore)(FN(lanes) *s, char *e)
{
    FN(tile) *T = &s->tile;
    const nc_record *r = s->record;
    const nc_problem *p = T->p;
    int64_t L = s->L;
    FN(carry) c = FN(carry_of)(r, e);
    const int32_t *sample = (const int32_t *)e, *q = (const int32_t *)(e + r->off_q);
    memcpy(T->t, e + r->off_t, (size_t)L * sizeof(double));
    memcpy(T->y, e + r->off_y, (size_t)(L * p->dim) * sizeof(REAL));
    if (s->q_first != c.head->queue_first || s->q_size != c.head->queue_size) {
        s->next = c.head->queue_first;
        if (c.head->queue_size > 0)
            FN(fill_queue)(s);
        s->q_size = c.head->queue_size;
    }
    s->next = c.head->next;
    s->q_pos = c.head->queue_pos;
    s->n_live = 0;
    for (int64_t l = 0; l < L; l++) {
        FN(bind_lane)(s, l, sample[l]);
        s->q[l] = q[l];
        s->h_next[l] = c.h_next[l];
        s->log_err1[l] = c.log_err1[l];
        s->log_err2[l] = c.log_err2[l];
        s->count[l] = c.count[l];
        s->accepted[l] = c.accepted[l];
        s->rejected[l] = c.rejected[l];
        s->stop[l] = c.stop[l];
        s->trouble[l] = 0;
        T->active[l] = (c.more[l] & FN(MORE_ACTIVE)) != 0;
        s->fresh[l] = T->active[l] && (!r->carry_rows || (c.more[l] & FN(MORE_FRESH)) != 0);
        s->evaluated[l] = (c.more[l] & FN(MORE_EVALUATED)) != 0;
        s->first[l] = (c.more[l] & FN(MORE_FIRST)) != 0;
        s->rejected_before[l] = (c.more[l] & FN(MORE_REJECTED)) != 0;
        T->after_stop[l] = (c.more[l] & FN(MORE_AFTER_STOP)) != 0;
        s->n_live += T->active[l];
        if (p->events.n)
            FN(find_lane_events)(s, l);
        FN(lane_in)(T->base[NC_SP_S], (const REAL *)p->sample_values + sample[l] * p->n_sample,
                    p->n_sample, L, l);
    }
    if (r->carry_rows) {
        FN(carry_newton)(s, e, c.more, 0);
        FN(method_restore)(T);
    }
    s->slot = e;
}

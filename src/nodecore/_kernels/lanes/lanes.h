/* The life of a lane, forwards: here the lanes and their work space; queue.h has its begin and end, the
 * queue, load and retire, and drive.h what is between them.
 *
 *   queue --load--> lane: propose -> step -> judge -> emit -> record -> advance --retire--> free
 *     ^                      ^__________________________________________|              |
 *     |______________________________ the next waiting samples ________________________|
 *
 * Between judge and emit events are looked for (events.h), which may end the step before its end.
 *
 * The queue holds some tiles of samples that are ready to go (their values of S, f0 and h0 are computed a
 * whole tile at a time). A lane whose trajectory ends takes the next of them: where steps are adaptive
 * the one that is expected to need the most (Graham's longest processing time first), so that the lanes of
 * a chunk end at about the same step. Lanes without a sample keep a finite state and h = 0. Every lane has
 * its own t, h, error and fate. */

/* A tile of samples in waiting: their initial states, derivatives, step sizes, values of S; and whether one
 * of these is not finite. */
typedef struct {
    int64_t *sample;
    REAL *y, *k, *s;
    double *h;
    uint8_t *bad;
} FN(waiting);

typedef struct {
    FN(tile) tile, stiff_tile; /* the second is the first one's `other` */
    int64_t L, pad; /* pad: L rounded up to whole float64 vectors */
    int64_t next, end; /* the samples of this chunk that wait for the queue */
    int shared;        /* samples come from the problem's counter, a window at a time */
    int silent;        /* a step made again: outputs and results are there already */
    nc_record *record;
    char *slot;        /* where the next step's entry is completed, or NULL */
    int64_t accepted_lanes; /* of the last tile step */
    int64_t placed, placed_slot; /* the step that place was last asked for, and its slot */
    int64_t chunk;
    int64_t n_live;

    /* per lane */
    int64_t *q, *n_out;        /* next output, number of outputs */
    const double **times;      /* the sample's times */
    int64_t *out0;             /* its first output row */
    int64_t *stop, *n_stop;    /* next stop, number of stops */
    int64_t *count;            /* steps made on the fixed or given grid */
    int64_t *accepted, *rejected, *fev, *jev, *factored, *switches;
    uint8_t *fresh, *first, *bad, *wild;
    int32_t *near_limit; /* measured steps in a row that stability seems to limit */
    int64_t *n_stiff;
    double *stiff_at;    /* [3][pad]: time, size and rate there */
    int steps_made;
    uint8_t *evaluated; /* the first derivative is a field value */
    uint8_t *trouble;   /* why the last try was rejected, if not by its error: enum nc_status */
    RINT *mask, *fresh_mask;
    double *t_end, *dir, *h_next, *h_free;
    double *apart; /* of the coupled scheme: how far y and z are apart */
    double *err, *log_err, *log_err1, *log_err2, *rejected_before, *factor, *theta, *part, *tmp;
    REAL *dense;
    double *reach; /* up to where the step's outputs are due: t_new, or an event's time */
    /* of the step: are the stages there that the dense output reads; does this lane read the last stage's
     * derivative, the dense output? */
    int finished, opened;
    uint8_t *reads_finish, *reads_dense;
    FN(event_state) ev;

    /* the queue: p->window tiles of samples in waiting */
    int64_t q_pos, q_size, q_first;
    int64_t *q_order; /* [window * L]: which place of the queue is loaded next */
    double *q_steps;  /* [window * L]: about how many steps each will make */
    FN(waiting) *q_tile; /* [window] */
    REAL *queue_f1, *queue_args;
    double next_poll, last_look;
    int countdown;
} FN(lanes);

/* Does an event end the lane's step? */
static int FN(is_cut)(const FN(lanes) *s, int64_t l)
{
    return s->tile.p->events.n && s->ev.cut[l];
}

static size_t FN(lanes_memory)(FN(lanes) *s, char *base)
{
    const nc_problem *p = s->tile.p;
    int64_t L = s->L, D = p->dim, n = s->pad, rows = D * L + FN(SLACK);
    size_t used = FN(tile_memory)(&s->tile, base, 0);
    used = FN(other_memory)(&s->stiff_tile, &s->tile, base, used, 0);
    s->tile.other = s->tile.method->stiff ? &s->stiff_tile : NULL;
    NC_TAKE(s->q, n);
    NC_TAKE(s->n_out, n);
    NC_TAKE(s->times, n);
    NC_TAKE(s->out0, n);
    NC_TAKE(s->stop, n);
    NC_TAKE(s->n_stop, n);
    NC_TAKE(s->count, n);
    NC_TAKE(s->accepted, n);
    NC_TAKE(s->rejected, n);
    NC_TAKE(s->fev, n);
    NC_TAKE(s->jev, n);
    NC_TAKE(s->factored, n);
    NC_TAKE(s->switches, n);
    NC_TAKE(s->fresh, n);
    NC_TAKE(s->first, n);
    NC_TAKE(s->evaluated, n);
    NC_TAKE(s->near_limit, n);
    NC_TAKE(s->n_stiff, n);
    NC_TAKE(s->stiff_at, 3 * n);
    NC_TAKE(s->trouble, n);
    NC_TAKE(s->bad, n);
    NC_TAKE(s->wild, n);
    NC_TAKE(s->mask, n);
    NC_TAKE(s->fresh_mask, n);
    NC_TAKE(s->t_end, n);
    NC_TAKE(s->dir, n);
    NC_TAKE(s->h_next, n);
    NC_TAKE(s->h_free, n);
    NC_TAKE(s->apart, n);
    NC_TAKE(s->err, n);
    NC_TAKE(s->log_err, n);
    NC_TAKE(s->log_err1, n);
    NC_TAKE(s->log_err2, n);
    NC_TAKE(s->rejected_before, n);
    NC_TAKE(s->factor, n);
    NC_TAKE(s->theta, n);
    NC_TAKE(s->part, 8 * n);
    NC_TAKE(s->tmp, 4 * n);
    NC_TAKE(s->dense, rows);
    NC_TAKE(s->reads_finish, n);
    NC_TAKE(s->reads_dense, n);
    NC_TAKE(s->q_order, p->window * L);
    NC_TAKE(s->q_steps, p->window * L);
    NC_TAKE(s->q_tile, p->window);
    for (int64_t i = 0; i < p->window; i++) {
        FN(waiting) none, *w = base ? s->q_tile + i : &none;
        NC_TAKE(w->sample, n);
        NC_TAKE(w->y, rows);
        NC_TAKE(w->k, rows);
        NC_TAKE(w->s, (int64_t)p->n_sample * L + FN(SLACK));
        NC_TAKE(w->h, n);
        NC_TAKE(w->bad, n);
    }
    NC_TAKE(s->queue_f1, rows);
    NC_TAKE(s->queue_args, (int64_t)p->n_args * L + FN(SLACK));
    s->reach = s->tile.t_new;
    if (p->events.n) {
        NC_TAKE(s->reach, n);
        used = FN(event_memory)(&s->ev, base, used, p, L, n);
    }
    return used;
}

/* ---- The dense output of the step made ------------------------------------------------------ */

/* Everything that it reads. */
static void FN(open_dense)(FN(lanes) *s)
{
    const nc_tableau *m = s->tile.method;
    if (s->opened)
        return;
    if (!s->finished && FN(method_finishes)(m))
        FN(method_finish)(&s->tile);
    if (m->n_stages > m->n_step)
        FN(method_dense_stages)(&s->tile);
    s->finished = s->opened = 1;
}

/* A lane reads it: what that costs, whatever the others do. */
static void FN(read_dense)(FN(lanes) *s, int64_t l)
{
    const nc_tableau *m = FN(maker)(&s->tile, l)->method;
    if (!s->reads_dense[l])
        s->fev[l] += m->n_stages - m->n_step + (FN(method_finishes)(m) && !s->reads_finish[l]);
    s->reads_dense[l] = s->reads_finish[l] = 1;
}

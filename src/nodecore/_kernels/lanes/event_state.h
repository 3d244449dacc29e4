/* What a lane knows of its events. Arrays [n][L] have a row an event. */
typedef struct {
    /* from step to step */
    int8_t *side;    /* [n][L]: the sign of g at the step's start; 0: disarmed, g has not left zero */
    uint8_t *zero;   /* [n][L]: enum, until g is looked at where the next step starts */
    double *noise;   /* [n][L]: |g| that cannot be told from 0 there */
    double *still;   /* [n][L]: |dg/dt| that cannot either */
    double *last;    /* [n][L]: when it ended a step last, or NaN */
    double *node;    /* when any of them did */
    uint8_t *fresh;  /* the lane starts, or starts again: its sides are to be found */
    int64_t *cursor; /* given events: the lane's next */
    /* of the step */
    int8_t *way;        /* [n][L]: the sign of dg/dt where it starts with g zero; 0: unknown */
    double *theta, *lo; /* [n][L]: where it happens, or NaN; where its bracket begins */
    uint8_t *cut;       /* an event ends the step ... */
    int32_t *by;        /* ... this one */
    double *cut_t, *pause; /* when, and how long after it did so last */
    int32_t *ends;      /* the status that the sample ends with behind this step, or 0 */
    REAL *cut_y, *behind; /* the state there; the states behind all resets */
    /* the search for a root: a (the newest) and b enclose it, c is the one before */
    int32_t *job;
    double *at, *t, *a, *b, *c, *fa, *fb, *fc, *frac, *in;
    REAL *time, *y, *g, *g_end, *row;
} FN(event_state);

/* zero: g is zero here because the event happened; or it happens here, but another one came first */
enum { FN(ZERO_NO) = 0, FN(ZERO_HAPPENED), FN(ZERO_WAITS) };

static size_t FN(event_memory)(FN(event_state) *v, char *base, size_t used, const nc_problem *p,
                               int64_t L, int64_t n)
{
    int64_t all = p->events.n * n, rows = p->dim * L + FN(SLACK), g = p->events.n * L + FN(SLACK);
    NC_TAKE(v->side, all);
    NC_TAKE(v->zero, all);
    NC_TAKE(v->noise, all);
    NC_TAKE(v->still, all);
    NC_TAKE(v->way, all);
    NC_TAKE(v->last, all);
    NC_TAKE(v->theta, all);
    NC_TAKE(v->lo, all);
    NC_TAKE(v->node, n);
    NC_TAKE(v->fresh, n);
    NC_TAKE(v->cursor, n);
    NC_TAKE(v->cut, n);
    NC_TAKE(v->by, n);
    NC_TAKE(v->cut_t, n);
    NC_TAKE(v->pause, n);
    NC_TAKE(v->ends, n);
    NC_TAKE(v->cut_y, rows);
    NC_TAKE(v->behind, p->events.n_resets * p->dim * L + FN(SLACK));
    NC_TAKE(v->job, n);
    double **search[] = {&v->at, &v->t, &v->a, &v->b, &v->c, &v->fa, &v->fb, &v->fc, &v->frac, &v->in};
    for (int i = 0; i < 10; i++)
        NC_TAKE(*search[i], n);
    NC_TAKE(v->time, n + FN(SLACK));
    NC_TAKE(v->y, rows);
    NC_TAKE(v->g, g);
    NC_TAKE(v->g_end, g);
    NC_TAKE(v->row, p->dim + FN(SLACK));
    return used;
}

/* The same, backwards. */
typedef struct {
    int64_t *cursor; /* the lane's events from its first one up to here are still to come */
    int64_t *nth;    /* the number of the lane's step */
    int64_t *job;    /* the event in hand, or -1 */
    double *slope;   /* [D][L]: the slope of the dense output there */
    REAL *time, *y, *s, *ct, *ybar, *tbar, *g_y, *g_t, *g0, *g1;
    int32_t grazes;  /* the event at which g does not change in time, or -1; and when */
    double grazes_t;
} FN(event_back);

static size_t FN(event_back_memory)(FN(event_back) *v, char *base, size_t used, const nc_problem *p,
                                    int64_t L, int64_t n)
{
    int64_t rows = p->dim * L + FN(SLACK), g = p->events.n * L + FN(SLACK);
    NC_TAKE(v->cursor, n);
    NC_TAKE(v->nth, n);
    NC_TAKE(v->job, n);
    NC_TAKE(v->slope, rows);
    NC_TAKE(v->time, n + FN(SLACK));
    NC_TAKE(v->y, rows);
    NC_TAKE(v->s, p->n_sample * L + FN(SLACK));
    NC_TAKE(v->ct, (p->events.n + p->events.n_resets * p->dim) * L + FN(SLACK));
    NC_TAKE(v->ybar, rows);
    NC_TAKE(v->tbar, n + FN(SLACK));
    NC_TAKE(v->g_y, rows);
    NC_TAKE(v->g_t, n + FN(SLACK));
    NC_TAKE(v->g0, g);
    NC_TAKE(v->g1, g);
    v->grazes = -1;
    return used;
}

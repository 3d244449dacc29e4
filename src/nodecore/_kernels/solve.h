/* One solve, as Cython hands it to the kernels: the method's table, the step-size control, the
 * batch, and the opaque field's callbacks. Plain C, no template. `real` stands for the element
 * type, float or double, by the backend that is called. */
#ifndef NODECORE_SOLVE_H
#define NODECORE_SOLVE_H

#include "lanes/store.h"
#include "structs.h"

enum nc_status {
#define STATUS(code, NAME, message) NC_##NAME = code,
#include "status.def"
#undef STATUS
};

enum { NC_MAX_STAGES = 32, NC_MAX_DEGREE = 8, NC_MAX_PARTS = 8 };

enum nc_family { NC_EXPLICIT = 0, NC_DIRK, NC_RADAU, NC_ROSENBROCK, NC_SPLIT, NC_EXPM, NC_IMEX };

/* A splitting method: the flows of a step, and behind them those of the step of Lie's scheme with which it
 * is compared. See methods/split.h. */
typedef struct {
    int32_t n_parts, n_flows, n_lie;
    int32_t exponential; /* not flows, but ETDRK4 for a linear and another part: see methods/etd.h */
    int32_t few_sizes; /* a step size costs much: adaptive ones are taken from a coarse grid */
    const int32_t *part;       /* [n_flows + n_lie] */
    const double *start, *size; /* fractions of the step */
    const int32_t *substeps;   /* [n_parts] */
} nc_composition;

/* A linear part A y, whose A stands in the uniform space. */
enum nc_matrix_kind { NC_MATRIX_NONE = 0, NC_MATRIX_DENSE, NC_MATRIX_DIAGONAL };

/* A Runge-Kutta method in extended FSAL form: the argument of stage n_step - 1 is y_{n+1}. Stages
 * behind it are evaluated only where an output is interpolated.
 *
 * A Rosenbrock method has a stage more, without a weight: its increments k_i stand at 1 .. s behind the
 * field's value at the beginning of the step. Its sums have no factor h.
 *
 * An explicit method with a `stiff` one beside it gives a lane to that where stability limits its steps,
 * and takes it back. */
typedef struct nc_tableau {
    int32_t n_stages, n_step, degree, adaptive;
    int32_t family;
    int32_t filter_error;         /* the error is multiplied by (I - h gamma J)^-1 */
    int32_t twin; /* explicit: a stage before the last one that is at c = 1 too, or 0 */
    int32_t unused;
    double gamma;
    const double *A, *b, *c;      /* [s][s], [s], [s] */
    const double *b_err, *b_err2; /* [s]; NULL where there is none */
    const double *P;              /* [s][degree]: b_i(theta) = sum_k P[i][k] theta^(k+1) */
    const double *predictor;      /* dirk: [s][s] */
    const double *C, *d;          /* rosenbrock: [s][s], [s] */
    /* radau: k h = A_inv z, z = T w, eigenvalues mu and alpha +- i beta of A_inv, and the collocation
     * polynomial z(theta) = sum_i z_i sum_k P_z[i][k] theta^(k+1); all [3][3] */
    const double *A_inv, *T, *T_inv, *P_z;
    double alpha, beta;
    const nc_composition *composition; /* split */
    const struct nc_tableau *stiff;
    double real_limit; /* explicit: stable for h lambda in [-real_limit, 0] */
} nc_tableau;

enum nc_mode {
    NC_ADAPTIVE = 0,
    NC_FIXED_DT,    /* t0 + k dt */
    NC_FIXED_STEPS, /* n_sub equal steps between consecutive outputs */
    NC_REPLAY       /* a given grid a sample */
};

typedef struct {
    int32_t mode, n_sub;
    int32_t stop_at_outputs, error_exponent; /* the error is O(h^error_exponent) */
    double rtol, dt, first_step, max_step;   /* first_step 0: chosen */
    int64_t max_steps;
    const void *atol; /* real [D] */
    double coupling; /* 0, or l of the coupled scheme: methods/reversible.h */
    /* log2(factor) = log2_safety - sum beta_i log2(err_{n-i}); see control.py */
    double log2_safety, beta[3], beta_reject, factor_min, factor_max, log2_memory_floor;
} nc_control;

/* A curve that a field may read at the time of each stage, a polynomial a piece: sample b has pieces
 * off[b][0] .. off[b][1] - 1, ordered along its time. In piece i, theta = (t - start[i]) / size[i], row r is
 * sum_k coef[i][k][r] theta^k. */
typedef int64_t nc_pair[2];

typedef struct {
    const nc_pair *off;
    const double *start, *size;
    const void *coef; /* real [pieces][degree + 1][rows] */
    int32_t rows, degree;
} nc_curve;

/* Events: where a function of the solution passes zero (lanes/events.h). A cotangent has a row for each
 * event, then dim rows for each reset. */
typedef struct {
    nc_program value, slope; /* OUT: g of each event; dg/dt, where V is the slope of the state */
    nc_program reset;        /* OUT: the state behind each event that has a reset */
    nc_program pull, spread; /* of a cotangent: to Y and T; to S and the gradient accumulator */
    int32_t n, n_resets, n_panels, unused;
    const int32_t *reset_at;  /* [n]: the event's block of dim rows in `reset`, or -1 */
    const int32_t *direction; /* [n]: 1, -1, or 0 for both */
    const int32_t *terminal;  /* [n] */
} nc_events;

/* One event that happened. */
typedef struct {
    int64_t sample;
    int32_t event, step; /* event -1: none, only `ends`; step: the sample's accepted steps before it */
    double t, theta;     /* t = t_n + theta h */
    double lo, noise;    /* where its bracket began; |g| that cannot be told from 0 there */
    int16_t side, cut;   /* the sign of g before; whether the step ends there */
    int32_t ends;        /* the status that the sample ends with there, or 0 */
} nc_event;

/* Events as they are found, each with its state; those of one sample in the order of its time. */
typedef struct {
    nc_event *items;
    char *y;
    int64_t n, cap, row_bytes;
} nc_event_list;

/* 0, or -1 when memory is out; from any thread. */
int nc_event_push(nc_event_list *list, const nc_event *e, const void *y);
void nc_event_free(nc_event_list *list);

/* Events by sample: those of sample b are items[off[b]] .. items[off[b + 1] - 1]. */
typedef struct {
    const int64_t *off;
    const nc_event *items;
    const void *y; /* real [][dim] */
} nc_event_table;

typedef double nc_nodes[4];

typedef struct nc_problem nc_problem;

/* An opaque field evaluates the active lanes of a tile; 0 on success. y and k are [D][L]. */
typedef int (*nc_opaque_field)(void *ctx, const nc_problem *p, int64_t L, const double *t,
                               const void *y, void *k, const int64_t *sample,
                               const uint8_t *active);
/* Its pullback: ybar [D][L] is set; the cotangents of params and args are added up by the callback if
 * `slow`. */
typedef int (*nc_opaque_pull)(void *ctx, const nc_problem *p, int64_t L, const double *t,
                              const void *y, const void *kappa, void *ybar, const int64_t *sample,
                              const uint8_t *active, int slow);
/* Its Jacobian in the active lanes, [D*D][L]. */
typedef int (*nc_opaque_jacobian)(void *ctx, const nc_problem *p, int64_t L, const double *t,
                                  const void *y, void *jac, const int64_t *sample,
                                  const uint8_t *active);
/* Called every 20 ms by the thread that entered; non-zero ends the solve. */
typedef int (*nc_poll)(void *ctx, double done);

struct nc_problem {
    /* the field */
    nc_program sample, field, field_keep, reverse, sample_reverse, second, tangent, time;
    int32_t dim, n_args, n_sample, res_rows;
    int64_t acc_size;
    int32_t n_panels, n_sample_panels, n_second_panels, time_dependent;
    nc_opaque_field opaque_field;
    nc_opaque_pull opaque_pull;
    nc_opaque_jacobian opaque_jacobian;
    void *opaque_ctx;
    const void *uniform; /* real */
    /* of a sum of fields, each with its own programs and method; the rest is that of the whole */
    const nc_problem *parts;
    int32_t n_parts, matrix_kind;
    int64_t matrix_at, matrix_acc; /* in the uniform space, in the accumulator (-1: A is constant) */
    nc_curve curve; /* rows 0: none */
    nc_events events;
    nc_event_list *found;
    nc_event_table known; /* replay: the events of the given grid; later those of this solve itself */

    const nc_tableau *method;
    nc_control control;

    /* the batch: sample b has times t[t_off[b] ..] and output rows out_off[b] .. out_off[b+1] */
    int64_t batch;
    const void *y0;   /* real [B][dim] */
    const void *args; /* real [B][n_args] */
    void *sample_values; /* real [B][n_sample]: kept for the backward pass */
    const double *t;
    const int64_t *t_off, *out_off;
    const double *stops; /* times where steps end and the next starts with a fresh evaluation */
    const int64_t *stop_off;
    const double *grid; /* replay: each step's end and size */
    const double *grid_h;
    /* replay, NULL unless the grid moves: for each step the nodes of the grid around it, old and new:
     * {lower, moved to, upper, moved to}. A lower one that moves to NaN is the sample's last event; an
     * upper one that is NaN is an event or the end, with sizes held up to there. */
    const nc_nodes *grid_nodes;
    const int64_t *grid_off;
    const int32_t *out_step; /* replay: the step each output belongs to, -1 for the first */
    const uint8_t *grid_stiff; /* replay: which method each step was made by, or NULL */
    double *expected; /* about how many steps each sample makes, [B]: found by an adaptive solve, given to a
                       * replay. The order in which a chunk's samples are loaded. */
    const void *grid_k; /* replay: the stages of each step, real [][n_stages][dim], or NULL: they are
                         * solved for */

    /* results */
    void *y_out; /* real [out_off[B]][dim] */
    int32_t *status;
    double *t_reached, *h_last;
    double *stiff_t, *stiff_h, *stiff_rho; /* where stability was last seen to limit the steps */
    int64_t *n_stiff;                      /* how many steps it limited, about */
    int64_t *n_accepted, *n_rejected, *n_fev, *n_reached, *n_jev, *n_lu, *n_switches;

    /* how the batch is cut; chunks have records of their own */
    int64_t tile; /* lanes */
    int64_t window; /* tiles of samples that are made ready at a time: lanes/queue.h */
    int64_t n_chunks;
    nc_record *records; /* [n_chunks], or NULL: nothing is kept */

    /* shared between threads */
    int64_t next; /* chunk, or sample where nothing is kept */
    int64_t retired;
    int32_t stop; /* 0, or why: enum nc_stop */
    int32_t n_done; /* threads that are out of work */
    double deadline; /* seconds of nc_now(), or infinity */
    nc_poll poll;
    void *poll_ctx;
};

enum nc_stop { NC_GO = 0, NC_STOP_INTERRUPT, NC_STOP_DEADLINE, NC_STOP_MEMORY, NC_STOP_CALLBACK };

/* The backward pass. The grid's dependence on t: the step sizes are held (interpolated outputs),
 * or each step's fractions of the interval between outputs (steps end on outputs), or of the interval
 * between stops. Up to an event sizes are held, and what is behind it moves with it. */
enum nc_grid_rule { NC_HOLD_SIZES = 0, NC_HOLD_FRACTIONS, NC_HOLD_STOPS };

typedef struct {
    const void *dy; /* real, like y_out; rows not reached are zero */
    void *y0_bar;   /* real [B][dim] */
    void *args_bar; /* real [B][n_args] */
    double *t_bar;  /* [out_off[B]] */
    double *acc;    /* [n_chunks][acc_size] */
    int32_t grid_rule, want_t; /* want_t: t_bar too */
    const double *event_t_bar; /* like p->known.items, or NULL */
    const void *event_y_bar;   /* like p->known.y, or NULL */
    int64_t next;
    /* the first non-finite cotangent, by chunk; or the event at which g does not change in time */
    int64_t *bad_sample; /* [n_chunks], -1: none */
    double *bad_t;
    int32_t *bad_event; /* -1: not an event */
} nc_backward;

/* For the leader, when it is out of work: polls until `others` threads have set p->n_done. */
void nc_wait(nc_problem *p, int others);
double nc_now(void);
int nc_forked(void); /* whether this process is a child, where one thread must do */

/* A sanitized build keeps the arrays of an arena apart by fences that nothing may touch. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { NC_FENCE = 64 };
#define NC_FORBID(p, bytes) ASAN_POISON_MEMORY_REGION(p, bytes)
#define NC_ALLOW(p, bytes) ASAN_UNPOISON_MEMORY_REGION(p, bytes)
#else
enum { NC_FENCE = 0 };
#define NC_FORBID(p, bytes) ((void)0)
#define NC_ALLOW(p, bytes) ((void)0)
#endif

/* Holds garbage: whoever gets it writes before it reads. */
void *nc_arena_get(size_t bytes);
void nc_arena_put(void *p);

#endif

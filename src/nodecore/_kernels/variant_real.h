/* The engine's templates for one element type, and their entry points. */
#include "linalg/lu.h"
#include "lanes/tile.h"
#include "methods/stage.h"
#include "lanes/tile_memory.h"
#include "methods/rk.h"
#include "methods/reversible.h"
#include "methods/newton.h"
#include "methods/dirk.h"
#include "methods/imex.h"
#include "methods/radau.h"
#include "methods/rosenbrock.h"
#include "methods/expm.h"
#include "methods/split.h"
#include "methods/etd.h"
#include "methods/auto.h"
#include "methods/method.h"
#include "lanes/event_state.h"
#include "lanes/lanes.h"
#include "lanes/queue.h"
#include "lanes/checkpoint.h"
#include "lanes/events.h"
#include "lanes/drive.h"
#include "lanes/reverse.h"
#include "lanes/reversible.h"
#include "lanes/events_reverse.h"

/* The floating-point control state is the kernels' own while they run: round to nearest, no
 * flushing of subnormals, whatever other libraries have set. */
#if defined(__x86_64__)
#define NC_FP_GUARD                                                                                \
    unsigned csr_ = _mm_getcsr();                                                                  \
    _mm_setcsr(0x1f80)
#define NC_FP_RESTORE _mm_setcsr(csr_)
#else
#define NC_FP_GUARD
#define NC_FP_RESTORE
#endif

static void FN(run)(const nc_program *p, void *const *base, int64_t L, nc_sinks *sinks)
{
    NC_FP_GUARD;
    FN(vm_run)(p, (REAL *const *)base, L, sinks);
    NC_FP_RESTORE;
}

static int FN(guarded_forward)(nc_problem *p, int leader, double pause_after, void **state)
{
    NC_FP_GUARD;
    int paused = FN(forward)(p, leader, pause_after, state);
    NC_FP_RESTORE;
    return paused;
}

static void FN(guarded_backward)(nc_problem *p, nc_backward *g, int leader)
{
    NC_FP_GUARD;
    FN(backward)(p, g, leader);
    NC_FP_RESTORE;
}

static void FN(guarded_lu)(void *M, const void *hg, const void *again, const void *mask, void *lu,
                           int32_t *piv, void *b, void *r, int64_t D, int64_t L, uint8_t *singular,
                           int transposed)
{
    NC_FP_GUARD;
    memcpy(r, b, (size_t)(D * L) * sizeof(REAL));
    FN(lu_identity)(lu, piv, D, L, NULL);
    if (hg)
        FN(newton_matrix)(M, hg, M, D, L);
    FN(lu_factor)(M, lu, piv, D, L, NULL, singular);
    if (again) {
        FN(lu_factor)(again, lu, piv, D, L, mask, singular);
        FN(select_lanes)(M, again, mask, D * D, L);
    }
    (transposed ? FN(lu_solve_t) : FN(lu_solve))(lu, piv, b, D, L, NULL);
    FN(lu_residual)(M, b, r, r, D, L, transposed);
    NC_FP_RESTORE;
}
static int FN(guarded_unroll)(nc_problem *p, int64_t chunk, int64_t window, nc_record *out)
{
    NC_FP_GUARD;
    int failed = FN(unroll)(p, chunk, window, out);
    NC_FP_RESTORE;
    return failed;
}

#undef NC_FP_GUARD
#undef NC_FP_RESTORE
#undef NC_TAKE

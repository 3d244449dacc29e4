# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The Python/C boundary: arrays in, arrays out, and the one parallel loop.

    Fields     the programs of one field for one element type
    Run        one solve: what went in, what came out, and the record for the backward pass

Everything numerical happens in the templates of this folder, in the variant that `backend` picks.
One file, since a Cython module is one unit: declarations, callbacks, and these two classes.
"""

from cpython.buffer cimport (
    PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from threading import Lock

import numpy as np

# Seconds for which a pass works alone before other threads are asked to help: what waking them
# costs.
cdef double ALONE_SECONDS = 150e-6
# Operations of one evaluation of a batch whose whole solve is done in about that time.
cdef int64_t ALONE_OPERATIONS = 100_000
# Tiles of samples that a chunk has where their step counts differ, and that are ordered together.
cdef int64_t WINDOW = 4


cdef extern from "backend.h":
    enum:
        NC_N_SPACES
        NC_MAX_STAGES
        NC_MAX_PARTS
        NC_ADAPTIVE
        NC_STOP_INTERRUPT
        NC_STOP_DEADLINE
        NC_STOP_MEMORY
        NC_STOP_CALLBACK
        NC_EVENT
        NC_SP_RF
        NC_SP_U
        NC_SP_OUT
        NC_SP_CT
    ctypedef struct nc_instr:
        int32_t op
        int32_t n
        int32_t p[4]
    ctypedef struct nc_program:
        const nc_instr *code
        const int32_t *ipool
        int32_t n_instr
        int32_t rf_rows
    ctypedef struct nc_panel:
        int32_t cap
    ctypedef struct nc_sinks:
        double *acc
        void *buf
        nc_panel *panels
        int32_t n_panels
    enum:
        NC_KEEP_ALL
        NC_KEEP_BINOMIAL
        NC_KEEP_ONLINE
        NC_KEEP_UNIFORM
    ctypedef struct nc_schedule:
        int32_t consumed
        int64_t slots
        int64_t n
        int64_t n_kept
        int64_t *step
        int64_t *slot
    int nc_schedule_init(nc_schedule *c, int kind, int64_t slots, int64_t n, int64_t segment) nogil
    void nc_schedule_free(nc_schedule *c) nogil
    int64_t nc_schedule_place(nc_schedule *c, int64_t i) nogil
    void nc_schedule_close(nc_schedule *c, int64_t n) nogil
    int64_t nc_split(int64_t n, int64_t slots) nogil
    ctypedef struct nc_path:
        double *ends
    ctypedef struct nc_record:
        int64_t n
        int64_t lanes
        int64_t dim
        int64_t entry_bytes
        int64_t per_block
        int64_t off_q
        int64_t off_flags
        int64_t off_t
        int64_t off_h
        int64_t off_t_new
        int64_t off_y
        int64_t stages
        int64_t off_stages
        int64_t carry_rows
        int64_t limit
        int64_t window
        int64_t most
        int64_t recomputed
        nc_path *paths
        nc_schedule plan
    void nc_record_init(nc_record *r, int64_t lanes, int64_t dim, int64_t real_bytes,
                        int64_t stages, int64_t carry_rows) nogil
    int nc_record_limit(nc_record *r, int kind, int64_t slots, int64_t n, int64_t segment,
                        int64_t window) nogil
    void nc_record_keep_traces(nc_record *r, int64_t stages, int64_t res_rows, int64_t real_bytes,
                               int64_t bytes) nogil
    int64_t nc_checkpoint_bytes(int64_t lanes, int64_t dim, int64_t real_bytes,
                                int64_t carry_rows) nogil
    int64_t nc_record_overhead(int64_t lanes, int64_t dim, int64_t real_bytes,
                               int64_t stages) nogil
    int nc_record_paths(nc_record *r, int64_t first, int64_t n, int64_t period) nogil
    const nc_path *nc_path_of(const nc_record *r, int64_t sample) nogil
    void nc_record_free(nc_record *r) nogil
    int64_t nc_record_bytes(const nc_record *r) nogil
    char *nc_record_at(const nc_record *r, int64_t i) nogil
    enum:
        NC_EXPLICIT
        NC_DIRK
        NC_RADAU
        NC_ROSENBROCK
        NC_SPLIT
        NC_EXPM
        NC_IMEX
    enum:
        NC_MATRIX_DENSE
        NC_MATRIX_DIAGONAL
        NC_FIXED_DT
    ctypedef struct nc_composition:
        int32_t n_parts
        int32_t n_flows
        int32_t n_lie
        int32_t exponential
        int32_t few_sizes
        const int32_t *part
        const double *start
        const double *size
        const int32_t *substeps
    ctypedef struct nc_tableau
    ctypedef struct nc_tableau:
        int32_t n_stages
        int32_t n_step
        int32_t degree
        int32_t adaptive
        int32_t family
        int32_t filter_error
        int32_t twin
        double gamma
        const double *predictor
        const double *C
        const double *d
        const double *A_inv
        const double *T
        const double *T_inv
        const double *P_z
        double alpha
        double beta
        const nc_composition *composition
        const nc_tableau *stiff
        double real_limit
        const double *A
        const double *b
        const double *c
        const double *b_err
        const double *b_err2
        const double *P
    ctypedef struct nc_control:
        int32_t mode
        int32_t n_sub
        int32_t stop_at_outputs
        int32_t error_exponent
        double rtol
        double dt
        double first_step
        double max_step
        int64_t max_steps
        const void *atol
        double coupling
        double log2_safety
        double beta[3]
        double beta_reject
        double factor_min
        double factor_max
        double log2_memory_floor
    ctypedef int64_t nc_pair[2]
    ctypedef struct nc_curve:
        const nc_pair *off
        const double *start
        const double *size
        const void *coef
        int32_t rows
        int32_t degree
    ctypedef struct nc_events:
        nc_program value
        nc_program slope
        nc_program reset
        nc_program pull
        nc_program spread
        int32_t n
        int32_t n_resets
        int32_t n_panels
        const int32_t *reset_at
        const int32_t *direction
        const int32_t *terminal
    ctypedef struct nc_event:
        int64_t sample
    ctypedef struct nc_event_list:
        nc_event *items
        char *y
        int64_t n
        int64_t cap
        int64_t row_bytes
    void nc_event_free(nc_event_list *list) nogil
    ctypedef struct nc_event_table:
        const int64_t *off
        const nc_event *items
        const void *y
    ctypedef double nc_nodes[4]
    ctypedef struct nc_problem
    ctypedef int (*nc_opaque_field)(void *, const nc_problem *, int64_t, const double *,
                                    const void *, void *, const int64_t *, const uint8_t *)
    ctypedef int (*nc_opaque_pull)(void *, const nc_problem *, int64_t, const double *,
                                   const void *, const void *, void *, const int64_t *,
                                   const uint8_t *, int)
    ctypedef int (*nc_opaque_jacobian)(void *, const nc_problem *, int64_t, const double *,
                                       const void *, void *, const int64_t *, const uint8_t *)
    ctypedef int (*nc_poll)(void *, double)
    ctypedef struct nc_problem:
        nc_program sample
        nc_program field
        nc_program field_keep
        nc_program reverse
        nc_program sample_reverse
        nc_program second
        nc_program tangent
        nc_program time
        int32_t dim
        int32_t n_args
        int32_t n_sample
        int32_t res_rows
        int64_t acc_size
        int32_t n_panels
        int32_t n_sample_panels
        int32_t n_second_panels
        int32_t time_dependent
        nc_opaque_field opaque_field
        nc_opaque_pull opaque_pull
        nc_opaque_jacobian opaque_jacobian
        void *opaque_ctx
        const void *uniform
        const nc_problem *parts
        int32_t n_parts
        int32_t matrix_kind
        int64_t matrix_at
        int64_t matrix_acc
        nc_curve curve
        nc_events events
        nc_event_list *found
        nc_event_table known
        const nc_tableau *method
        nc_control control
        int64_t batch
        const void *y0
        const void *args
        void *sample_values
        const double *t
        const int64_t *t_off
        const int64_t *out_off
        const double *stops
        const int64_t *stop_off
        const double *grid
        const double *grid_h
        const nc_nodes *grid_nodes
        const int64_t *grid_off
        const int32_t *out_step
        const uint8_t *grid_stiff
        double *expected
        const void *grid_k
        void *y_out
        int32_t *status
        double *t_reached
        double *h_last
        int64_t *n_accepted
        int64_t *n_rejected
        int64_t *n_fev
        int64_t *n_reached
        int64_t *n_jev
        int64_t *n_lu
        int64_t *n_switches
        double *stiff_t
        double *stiff_h
        double *stiff_rho
        int64_t *n_stiff
        int64_t tile
        int64_t window
        int64_t n_chunks
        nc_record *records
        int64_t next
        int64_t retired
        int32_t stop
        int32_t n_done
        double deadline
        nc_poll poll
        void *poll_ctx
    ctypedef struct nc_backward:
        const void *dy
        void *y0_bar
        void *args_bar
        double *t_bar
        double *acc
        int32_t grid_rule
        int32_t want_t
        const double *event_t_bar
        const void *event_y_bar
        int64_t next
        int64_t *bad_sample
        double *bad_t
        int32_t *bad_event
    ctypedef struct nc_backend:
        const char *isa
        int32_t real_bytes
        int32_t vector_lanes
        void (*run)(const nc_program *, void **, int64_t, nc_sinks *) noexcept nogil
        size_t (*panel_layout)(const nc_program *, int64_t, nc_panel *) noexcept nogil
        void (*panel_flush)(nc_sinks *) noexcept nogil
        int (*forward)(nc_problem *, int, double, void **) noexcept nogil
        void (*backward)(nc_problem *, nc_backward *, int) noexcept nogil
        int (*unroll)(nc_problem *, int64_t, int64_t, nc_record *) noexcept nogil
        size_t (*lu_work)(int64_t, int64_t) noexcept nogil
        void (*lu)(void *, const void *, const void *, const void *, void *, int32_t *, void *,
                   void *, int64_t, int64_t, uint8_t *, int) noexcept nogil
    ctypedef struct nc_variant:
        const char *name
        const nc_backend *f64
        const nc_backend *f32
    int nc_n_variants() nogil
    const nc_variant *nc_variant_at(int i) nogil
    int nc_isa_available(const char *name) nogil
    void nc_wait(nc_problem *p, int others) nogil
    double nc_now() nogil
    int nc_forked() nogil


cdef extern from "lanes/walk.h":
    ctypedef struct nc_walk:
        int64_t step
        double t
        double t_new
        double h
        int at_stop
        int after_stop
        int64_t q
    void nc_walk_begin(nc_walk *w, const nc_problem *p, int64_t b, const double *ends) nogil
    void nc_walk_back(nc_walk *w) nogil


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static int nc_openmp(void) { return 1; }
    static int nc_max_threads(void) { return omp_get_max_threads(); }
    #else
    static int nc_openmp(void) { return 0; }
    static int nc_max_threads(void) { return 1; }
    #endif
    static void nc_thread_done(int32_t *n) { __atomic_fetch_add(n, 1, __ATOMIC_RELEASE); }
    """
    int nc_openmp() nogil
    int nc_max_threads() nogil
    void nc_thread_done(int32_t *n) nogil


# ---- Which variant -------------------------------------------------------------------------------

ISAS = tuple(nc_variant_at(i).name.decode() for i in range(nc_n_variants()))


def isas_available():
    """The compiled instruction sets that this processor can run, best first."""
    return tuple(name for name in ISAS if nc_isa_available(name.encode()))


def openmp():
    """Whether the build has OpenMP, and how many threads it would use."""
    return bool(nc_openmp()), nc_max_threads()


cdef const nc_backend *_backend(str isa, bint is_f32) except NULL:
    cdef int i
    for i in range(nc_n_variants()):
        if nc_variant_at(i).name.decode() == isa:
            if not nc_isa_available(nc_variant_at(i).name):
                break
            return nc_variant_at(i).f32 if is_f32 else nc_variant_at(i).f64
    raise ValueError(f"ISA {isa!r} is not available; there are {', '.join(isas_available())}")


# nc_event: one event that happened
EVENT = np.dtype([
    ("sample", np.int64), ("event", np.int32), ("step", np.int32), ("t", np.float64),
    ("theta", np.float64), ("lo", np.float64), ("noise", np.float64), ("side", np.int16),
    ("cut", np.int16), ("ends", np.int32),
])
assert EVENT.itemsize == sizeof(nc_event)


# ---- Arrays --------------------------------------------------------------------------------------

cdef void *_ptr(object array) except? NULL:
    """The data of a C-contiguous array that the caller keeps alive; NULL for None."""
    cdef Py_buffer view
    cdef void *p
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    p = view.buf
    PyBuffer_Release(&view)
    return p


cdef int _copy_into(char *dst, Py_ssize_t nbytes, object array) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    if view.len != nbytes:
        PyBuffer_Release(&view)
        raise ValueError("size mismatch")
    memcpy(dst, view.buf, nbytes)
    PyBuffer_Release(&view)
    return 0


cdef nc_program _program(object program):
    """The C view of a nodecore.ir.program.Program, which must stay alive."""
    cdef nc_program p
    memset(&p, 0, sizeof(p))
    if program is not None:
        p.n_instr = program.packed.shape[0]
        p.code = <const nc_instr *> (_ptr(program.packed) if p.n_instr else NULL)
        p.ipool = <const int32_t *> _ptr(program.ipool)
        p.rf_rows = program.rf_rows
    return p


def run_program(code, ipool, int rf_rows, dict spaces, int64_t L, str isa, acc=None):
    """Runs one program once: the entry for tests, and for programs that are not stepped.

    `spaces` maps the numbers of `enum nc_space` to C-contiguous arrays of one element type, (rows,
    L) or, for the uniform space, (rows,); they are modified in place. `acc`, a float64 array,
    receives the sinks.
    """
    cdef void *base[32]
    cdef nc_program p
    cdef nc_sinks sinks
    cdef const nc_backend *be
    cdef size_t elems
    memset(base, 0, sizeof(base))
    first = next(iter(spaces.values()))
    be = _backend(isa, first.dtype.itemsize == 4)
    for space, array in spaces.items():
        base[<int> space] = _ptr(array)
    registers = np.zeros(rf_rows * L + 64, first.dtype)
    base[NC_SP_RF] = _ptr(registers)
    p.n_instr = code.shape[0]
    p.code = <const nc_instr *> (_ptr(code) if p.n_instr else NULL)
    p.ipool = <const int32_t *> _ptr(ipool)
    p.rf_rows = rf_rows
    if acc is None:
        be.run(&p, base, L, NULL)
        return
    panels = np.zeros((p.n_instr + 1) * 128, np.uint8)
    sinks.panels = <nc_panel *> _ptr(panels)
    elems = be.panel_layout(&p, L, sinks.panels)
    buf = np.zeros(elems + 64, first.dtype)
    sinks.buf = _ptr(buf)
    sinks.acc = <double *> _ptr(acc)
    sinks.n_panels = int(code[:, 15].max()) + 1 if p.n_instr else 0
    be.run(&p, base, L, &sinks)
    be.panel_flush(&sinks)


def lu(M, b, str isa, bint transposed=False, hg=None, again=None, mask=None):
    """Solves M x = b (or M^T x = b) for a batch by the tile kernels of one ISA: x, singular,
    residual. An entry for tests.

    M is (B, D, D), b (B, D). With `hg` (B,) the matrices are I - hg M. With `again` (B, D, D) and
    `mask` (B,), the masked samples are factored a second time. One sample is a tile of one lane;
    more fill whole vectors, the last lanes with copies of the last sample.
    """
    cdef const nc_backend *be = _backend(isa, M.dtype.itemsize == 4)
    cdef int64_t B = M.shape[0], D = M.shape[1], VL = be.vector_lanes
    cdef int64_t L = 1 if B == 1 else (B + VL - 1) // VL * VL
    lanes = np.minimum(np.arange(L), B - 1)

    def tile(a):
        return np.ascontiguousarray(a.astype(M.dtype, copy=False)[lanes].reshape(L, -1).T)

    matrices, x = tile(M), tile(b)
    residual, flags = np.empty_like(x), np.empty(L, np.uint8)
    factors = np.empty(be.lu_work(D, L), M.dtype)
    pivots = np.empty(D * L, np.int32)
    h = None if hg is None else tile(hg)
    second = None if again is None else tile(again)
    bits = None
    if again is not None:
        bits = -mask[lanes].astype(np.int64 if M.dtype.itemsize == 8 else np.int32)
    be.lu(_ptr(matrices), NULL if h is None else _ptr(h), NULL if second is None else _ptr(second),
          NULL if bits is None else _ptr(bits), _ptr(factors), <int32_t *> _ptr(pivots), _ptr(x),
          _ptr(residual), D, L, <uint8_t *> _ptr(flags), transposed)
    return x.T[:B].copy(), flags[:B].astype(bool), residual.T[:B].copy()


def schedule_first_sweep(int kind, int64_t slots, int64_t n, int64_t segment, bint known):
    """The slot that each step of a first sweep is kept in (-1: none), and what is left at its end,
    as pairs (step, slot): for the test against schedule.py."""
    cdef nc_schedule c
    cdef int64_t i
    if nc_schedule_init(&c, kind, slots, n if known else 0, segment):
        raise MemoryError
    placed = [nc_schedule_place(&c, i) for i in range(n)]
    nc_schedule_close(&c, n)
    left = [(c.step[i], c.slot[i]) for i in range(c.n_kept)]
    nc_schedule_free(&c)
    return placed, left


def schedule_split(int64_t n, int64_t slots):
    """`schedule.split` in C."""
    return nc_split(n, slots)


# ---- Callbacks -----------------------------------------------------------------------------------

cdef class _Watch:
    """What the leader does every 20 ms: signals, and a progress callback."""
    cdef object progress
    cdef public object error

    def __cinit__(self, progress):
        self.progress = progress
        self.error = None


cdef int _poll(void *ctx, double done) noexcept with gil:
    cdef _Watch watch = <_Watch> ctx
    try:
        PyErr_CheckSignals()
        if watch.progress is not None:
            watch.progress(done)
    except BaseException as error:
        watch.error = error
        return 1
    return 0


cdef class _Opaque:
    """A field (and its pullback) given as Python callables on arrays of lanes."""
    cdef object field, pull, jacobian, dtype
    cdef Py_ssize_t itemsize
    cdef public object error

    def __cinit__(self, field, pull, jacobian, dtype):
        self.field, self.pull, self.jacobian = field, pull, jacobian
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        self.error = None

    cdef object lanes(self, const void *p, int64_t rows, int64_t L):
        view = PyMemoryView_FromMemory(<char *> p, rows * L * self.itemsize, PyBUF_WRITE)
        return np.frombuffer(view, self.dtype).reshape(rows, L)


cdef object _active(const double *t, const int64_t *sample, const uint8_t *active, int64_t L):
    cdef list lanes = [lane for lane in range(L) if active[lane]]
    cdef object times = np.array([t[<int64_t> lane] for lane in lanes])
    return lanes, times, np.array([sample[<int64_t> lane] for lane in lanes], np.int64)


cdef int _opaque_field(void *ctx, const nc_problem *p, int64_t L, const double *t, const void *y,
                       void *k, const int64_t *sample, const uint8_t *active) noexcept with gil:
    cdef _Opaque o = <_Opaque> ctx
    try:
        lanes, times, samples = _active(t, sample, active, L)
        if lanes:
            out = o.lanes(k, p.dim, L)
            out[:, lanes] = o.field(times, o.lanes(y, p.dim, L)[:, lanes].T.copy(), samples).T
    except BaseException as error:
        o.error = error
        return 1
    return 0


cdef int _opaque_pull(void *ctx, const nc_problem *p, int64_t L, const double *t, const void *y,
                      const void *kappa, void *ybar, const int64_t *sample,
                      const uint8_t *active, int slow) noexcept with gil:
    cdef _Opaque o = <_Opaque> ctx
    try:
        lanes, times, samples = _active(t, sample, active, L)
        out = o.lanes(ybar, p.dim, L)
        out[:] = 0
        if lanes:
            out[:, lanes] = o.pull(times, o.lanes(y, p.dim, L)[:, lanes].T.copy(), samples,
                                   o.lanes(kappa, p.dim, L)[:, lanes].T.copy(), bool(slow)).T
    except BaseException as error:
        o.error = error
        return 1
    return 0


cdef int _opaque_jacobian(void *ctx, const nc_problem *p, int64_t L, const double *t,
                          const void *y, void *jac, const int64_t *sample,
                          const uint8_t *active) noexcept with gil:
    cdef _Opaque o = <_Opaque> ctx
    try:
        lanes, times, samples = _active(t, sample, active, L)
        if lanes:
            out = o.lanes(jac, p.dim * p.dim, L)
            values = o.jacobian(times, o.lanes(y, p.dim, L)[:, lanes].T.copy(), samples)
            out[:, lanes] = values.reshape(len(lanes), -1).T
    except BaseException as error:
        o.error = error
        return 1
    return 0


# ---- A field's programs, bound to an element type and a variant ----------------------------------

cdef class Fields:
    """The programs of one field for one element type, and the uniform space's layout.

    Parameters: the `Lowered` programs (or None and the dimensions, for an opaque field), the
    tableau, the element type, the ISA.
    """
    cdef const nc_backend *be
    cdef nc_problem proto
    cdef nc_tableau tableau, stiff_tableau
    cdef nc_composition composition
    cdef nc_problem part_protos[8]  # NC_MAX_PARTS
    cdef nc_tableau part_tableaus[8]
    cdef nc_program matrices
    cdef nc_program prologue, derivative_prologue
    cdef readonly object lowered, method
    cdef object consts, keep_alive
    cdef readonly object dtype
    cdef readonly str isa
    cdef readonly int dim, n_args
    cdef readonly bint has_adjoint, time_dependent
    cdef Py_ssize_t itemsize
    cdef readonly Py_ssize_t params_off
    cdef readonly Py_ssize_t n_uniform, n_params
    cdef readonly int64_t acc_size
    cdef Py_ssize_t registers

    def __init__(self, lowered, method, dtype, str isa, int dim=0, int n_args=0):
        cdef nc_problem *p = &self.proto
        memset(p, 0, sizeof(nc_problem))
        self.lowered, self.method = lowered, method
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        self.isa = isa
        self.be = _backend(isa, self.itemsize == 4)
        self.keep_alive = []
        self._set_method(method)
        if lowered is None:
            p.dim = self.dim = dim
            self.n_args = n_args
            self.has_adjoint = True
            self.time_dependent = False
            return
        p.sample = _program(lowered.sample)
        p.field = _program(lowered.field)
        p.dim = self.dim = lowered.dim
        p.n_args = self.n_args = lowered.n_args
        p.n_sample = lowered.n_sample
        self.prologue = _program(lowered.prologue)
        self.registers = lowered.prologue.rf_rows
        self.n_uniform, self.n_params = lowered.n_uniform, lowered.n_params
        self.params_off = lowered.params_off
        self.consts = np.ascontiguousarray(lowered.consts, self.dtype)
        p.field_keep = _program(lowered.field_keep)
        p.res_rows = lowered.res_rows
        p.time_dependent = self.time_dependent = lowered.time_dependent
        self.derivative_prologue = _program(lowered.derivative_prologue)
        self.registers = max(self.registers, lowered.derivative_prologue.rf_rows)
        if lowered.tangent is not None:
            p.tangent = _program(lowered.tangent.tangent)
            p.time = _program(lowered.tangent.time)
        adjoint = lowered.adjoint
        self.has_adjoint = adjoint is not None
        if self.has_adjoint:
            p.reverse = _program(adjoint.reverse)
            p.sample_reverse = _program(adjoint.sample_reverse)
            p.acc_size = self.acc_size = adjoint.acc_size
            p.n_panels = adjoint.reverse.n_panels
            p.n_sample_panels = adjoint.sample_reverse.n_panels
            if adjoint.second is not None:
                p.second = _program(adjoint.second)
                p.n_second_panels = adjoint.second.n_panels
        if lowered.parts and method is not None:
            self._set_parts(lowered.parts, getattr(method, "of_parts", (None, None)))
        if lowered.events is not None:
            self._set_events(lowered.events)

    cdef int _set_events(self, programs) except -1:
        cdef nc_events *e = &self.proto.events
        reset_at = np.array(programs.reset_at, np.int32)
        self.keep_alive.append(reset_at)
        e.reset_at = <const int32_t *> _ptr(reset_at)
        e.n, e.n_resets = len(reset_at), int((reset_at >= 0).sum())
        e.value, e.slope = _program(programs.value), _program(programs.slope)
        e.reset = _program(programs.reset)
        e.pull, e.spread = _program(programs.pull), _program(programs.spread)
        e.n_panels = 0 if programs.spread is None else programs.spread.n_panels
        return 0

    cdef int _set_method(self, m) except -1:
        memset(&self.tableau, 0, sizeof(nc_tableau))
        if m is None:
            return 0
        self.proto.method = &self.tableau
        if m.family != "auto":
            return self._set_tableau(&self.tableau, m)
        self._set_tableau(&self.tableau, m.explicit)
        self._set_tableau(&self.stiff_tableau, m.stiff)
        self.tableau.stiff = &self.stiff_tableau
        return 0

    cdef int _set_tableau(self, nc_tableau *T, m) except -1:
        cdef nc_composition *C
        memset(T, 0, sizeof(nc_tableau))
        if m is None:
            return 0
        if m.family == "expm":
            T.family = NC_EXPM
            T.degree = 3 if m.phis else 0
            return 0
        k = m.kernel_form()
        if len(k["c"]) > NC_MAX_STAGES:
            raise ValueError(f"{m.name} has more than {NC_MAX_STAGES} stages")
        self.keep_alive.append(k)
        T.family = {"explicit": NC_EXPLICIT, "dirk": NC_DIRK, "radau": NC_RADAU,
                    "rosenbrock": NC_ROSENBROCK, "split": NC_SPLIT,
                    "imex": NC_IMEX}[m.family]
        T.n_stages, T.n_step = len(k["c"]), k["n_step"]
        T.degree = k["P"].shape[1]
        T.adaptive = k["b_err"] is not None
        T.gamma, T.filter_error = k["gamma"], k["filter_error"]
        T.twin, T.real_limit = k.get("twin", 0), k.get("real_limit", 0.0)
        T.A, T.b = <const double *> _ptr(k["A"]), <const double *> _ptr(k["b"])
        T.c, T.P = <const double *> _ptr(k["c"]), <const double *> _ptr(k["P"])
        T.b_err = <const double *> _ptr(k["b_err"])
        T.b_err2 = <const double *> _ptr(k["b_err2"])
        T.predictor = <const double *> _ptr(k.get("predictor"))
        T.C, T.d = <const double *> _ptr(k.get("C")), <const double *> _ptr(k.get("d"))
        if m.family == "radau":
            T.A_inv, T.P_z = <const double *> _ptr(k["A_inv"]), <const double *> _ptr(k["P_z"])
            T.T, T.T_inv = <const double *> _ptr(k["T"]), <const double *> _ptr(k["T_inv"])
            T.alpha, T.beta = k["alpha"], k["beta"]
        if m.family == "split":
            C = &self.composition
            C.n_parts, C.n_flows, C.n_lie = len(k["substeps"]), k["n_flows"], k["n_lie"]
            C.part = <const int32_t *> _ptr(k["part"])
            C.start, C.size = <const double *> _ptr(k["start"]), <const double *> _ptr(k["size"])
            C.substeps = <const int32_t *> _ptr(k["substeps"])
            C.exponential = k["exponential"]
            T.composition = C
        return 0

    cdef int _set_parts(self, parts, methods) except -1:
        """The programs and methods of the parts of a sum."""
        cdef nc_problem *p
        cdef nc_problem *q
        cdef int i
        if len(parts) > NC_MAX_PARTS:
            raise ValueError(f"a sum of more than {NC_MAX_PARTS} parts")
        self.matrices = _program(self.lowered.matrices)
        self.registers = max(self.registers, self.lowered.matrices.rf_rows)
        for i, (part, method) in enumerate(zip(parts, methods)):
            p = &self.part_protos[i]
            memset(p, 0, sizeof(nc_problem))
            self._set_tableau(&self.part_tableaus[i], method)
            p.method = &self.part_tableaus[i]
            if part.matrix is not None:
                p.matrix_kind = {"dense": NC_MATRIX_DENSE,
                                 "diagonal": NC_MATRIX_DIAGONAL}[part.matrix.kind]
                p.matrix_at, p.matrix_acc = part.matrix.at, part.matrix.acc
            p.field, p.field_keep = _program(part.field), _program(part.field_keep)
            p.res_rows, p.time_dependent = part.res_rows, part.time_dependent
            if part.tangent is not None:
                p.tangent = _program(part.tangent.tangent)
                p.time = _program(part.tangent.time)
            if part.reverse is not None:
                p.reverse = _program(part.reverse)
                p.n_panels = part.reverse.n_panels
            if part.second is not None:
                p.second = _program(part.second)
                p.n_second_panels = part.second.n_panels
        self.proto.n_parts = len(parts)
        self.composition.few_sizes = any(
            part.matrix is not None and part.matrix.kind == "dense"
            for part in parts
        )
        if self.tableau.family == NC_IMEX:  # evaluated through one tile: see methods/imex.h
            p, q = &self.part_protos[0], &self.part_protos[1]
            self.proto.reverse, self.proto.n_panels = p.reverse, p.n_panels
            self.proto.second, self.proto.n_second_panels = q.reverse, q.n_panels
            self.proto.res_rows = max(p.res_rows, q.res_rows)
        return 0

    cdef void _bind_parts(self, const nc_problem *run, nc_problem *parts) noexcept:
        """The parts' problems of a run: its own, with their programs and methods."""
        cdef nc_problem *p
        cdef nc_problem *q
        cdef int i
        for i in range(run.n_parts):
            p, q = &parts[i], &self.part_protos[i]
            memcpy(p, run, sizeof(nc_problem))
            p.field, p.field_keep, p.reverse, p.second = (
                q.field, q.field_keep, q.reverse, q.second)
            p.tangent, p.time, p.method = q.tangent, q.time, q.method
            p.res_rows, p.time_dependent = q.res_rows, q.time_dependent
            p.n_panels, p.n_second_panels = q.n_panels, q.n_second_panels
            p.matrix_kind, p.matrix_at, p.matrix_acc = q.matrix_kind, q.matrix_at, q.matrix_acc
            p.parts, p.n_parts = NULL, 0
            if run.method.family == NC_SPLIT:  # a flow's equations are solved to rounding
                p.control.mode = NC_FIXED_DT

    @property
    def vector_lanes(self):
        """Lanes of one vector of this element type."""
        return self.be.vector_lanes

    @property
    def stage_rows(self):
        """Stages that an entry of a record holds, and states that a checkpoint holds besides."""
        if self.tableau.stiff != NULL:
            return self.stiff_tableau.n_stages, 2
        if self.tableau.family == NC_DIRK:
            return self.tableau.n_stages, 2
        if self.tableau.family == NC_IMEX:
            return self.tableau.n_stages, 3
        if self.tableau.family == NC_RADAU:
            return self.tableau.n_stages, 5
        return 0, 0

    def uniform(self, list leaves):
        """The uniform space: constants, params, and what the prologues compute from them."""
        cdef void *base[32]
        cdef char *at
        cdef Py_ssize_t n = self.n_uniform
        out = np.empty(n + 64, self.dtype)
        at = <char *> _ptr(out)
        memcpy(at, _ptr(self.consts), self.consts.nbytes)
        memset(at + n * self.itemsize, 0, 64 * self.itemsize)
        cdef Py_ssize_t off = self.params_off
        for leaf in leaves:
            same = leaf.dtype is self.dtype or leaf.dtype == self.dtype
            if not same or not leaf.flags.c_contiguous:
                leaf = np.ascontiguousarray(leaf, self.dtype)
            _copy_into(at + off * self.itemsize, leaf.nbytes, leaf)
            off += leaf.size
        if off != self.params_off + self.n_params:
            raise ValueError("params do not fit the field")
        if self.prologue.n_instr or self.derivative_prologue.n_instr:
            memset(base, 0, sizeof(base))
            registers = np.empty(self.registers + 64, self.dtype)
            base[NC_SP_RF] = _ptr(registers)
            base[NC_SP_U] = at
            self.be.run(&self.prologue, base, 1, NULL)
            self.be.run(&self.derivative_prologue, base, 1, NULL)
        if self.matrices.n_instr:
            memset(base, 0, sizeof(base))
            registers = np.empty(self.registers + 64, self.dtype)
            base[NC_SP_RF] = _ptr(registers)
            base[NC_SP_U] = at
            self.be.run(&self.matrices, base, 1, NULL)
        return out

    def params_bar(self, uniform, acc):
        """Sums the chunks' accumulators in the order of a balanced tree, and pulls the sum back to
        the params (float64 fields only). Returns the params' cotangents, flat, and whether all are
        finite."""
        cdef void *base[32]
        cdef nc_program p = _program(self.lowered.adjoint.params_reverse)
        cdef int64_t n = acc.shape[1], chunks = acc.shape[0]
        memset(base, 0, sizeof(base))
        out = np.empty(self.n_params + 64)
        work = np.empty(n + 64 + p.rf_rows + 64)
        cdef double *sums = <double *> _ptr(work)
        _tree_sum(<double *> _ptr(acc), chunks, n)
        if chunks:
            memcpy(sums, _ptr(acc), n * sizeof(double))
        memset(sums + n, 0, 64 * sizeof(double))
        base[NC_SP_RF] = sums + n + 64
        base[NC_SP_U] = _ptr(uniform)
        base[NC_SP_CT] = sums
        base[NC_SP_OUT] = _ptr(out)
        self.be.run(&p, base, 1, NULL)
        return out[:self.n_params], _finite(_ptr(out), self.n_params, False)


cdef void _tree_sum(double *parts, int64_t count, int64_t n) noexcept nogil:
    """Into the first part, in an order that depends on the count alone."""
    cdef int64_t half, i, j
    while count > 1:
        half = (count + 1) // 2
        for i in range(count - half):
            for j in range(n):
                parts[i * n + j] += parts[(half + i) * n + j]
        count = half


cdef int64_t _operations(const nc_program *p) noexcept nogil:
    """About how many floating-point operations a lane costs; a function as much as 16."""
    cdef int64_t i, total = 0
    cdef const nc_instr *code = p.code
    for i in range(p.n_instr):
        total += 16 * code[i].n
        total += 2 * <int64_t> code[i].p[0] * code[i].p[1] * code[i].p[2] * code[i].p[3]
    return total


cdef bint _finite(const void *p, int64_t n, bint is_f32) noexcept nogil:
    cdef int64_t i
    cdef double sum = 0
    if is_f32:
        for i in range(n):
            sum += (<const float *> p)[i] - (<const float *> p)[i]
    else:
        for i in range(n):
            sum += (<const double *> p)[i] - (<const double *> p)[i]
    return sum == 0


def times_ok(t):
    """Whether a contiguous float64 array is finite and strictly monotonic (or a single time)."""
    cdef const double *p = <const double *> _ptr(t)
    cdef int64_t i, n = t.shape[0]
    cdef bint up
    if n == 0 or not (p[0] - p[0] == 0 and p[n - 1] - p[n - 1] == 0):
        return False
    up = p[n - 1] > p[0]
    for i in range(n - 1):
        if not (p[i + 1] > p[i] if up else p[i + 1] < p[i]):
            return False
    return True


cdef class Run:
    """One solve: owns (or shares) its inputs, its results and the record of its steps.

    `events`, `event_y`, `event_off`: the events that happened, sorted by sample and time (array of
    EVENT, (n, dim) states, (B + 1,) offsets); None where none were asked for.
    """
    cdef nc_problem p
    cdef nc_problem parts[8]  # NC_MAX_PARTS
    cdef nc_event_list found
    cdef readonly object events, event_y, event_off
    cdef object event_options, given_events
    cdef nc_record *records
    cdef int64_t n_records
    cdef const nc_backend *be
    cdef readonly Fields fields
    cdef readonly object inputs, y, ints, floats, status, sample_values, uniform
    cdef readonly object failed, last
    cdef double seconds  # that the forward pass took
    cdef _Opaque opaque
    cdef object atol, lock, curve, grid_k
    cdef readonly object plan
    cdef readonly bint outgrown
    cdef public int64_t held_bytes  # by a backward pass, of what the record is turned into

    def __cinit__(self):
        self.records = NULL

    def __dealloc__(self):
        cdef int64_t i
        nc_event_free(&self.found)
        if self.records != NULL:
            for i in range(self.n_records):
                nc_record_free(&self.records[i])
            free(self.records)

    def __init__(self, Fields fields, uniform, tuple inputs, tuple control, object keep,
                 opaque=None, curve=None, events=None, given_events=None, grid_k=None):
        """keep: None, or the plan of the record: a function of (lanes, chunk bounds, bytes of a
        checkpoint, of a record besides, of all samples' values) that gives for each chunk (kind,
        slots, steps, segment, window), or None, and the bytes for step traces.

        inputs: (y0, args, t, t_off, out_off, stops, stop_off, grid, grid_h, grid_off, out_step,
        grid_nodes, grid_stiff, expected);
        grid_k: None, or the stages (steps, stages, D) of a given grid;
        curve: None, or (offsets, starts, sizes, coefficients (pieces, degree + 1, rows)).

        events: None, or (directions, terminal), int32 arrays; given_events: None, or those of the
        given grid as in (`events`, `event_y`, `event_off`).

        control: (mode, n_sub, stop_at_outputs, error_exponent, rtol, dt, first_step, max_step,
        max_steps, atol, *controller, coupling)."""
        cdef nc_problem *p = &self.p
        cdef nc_control *c
        cdef int64_t B, i, n_out
        memcpy(p, &fields.proto, sizeof(nc_problem))
        self.fields, self.be = fields, fields.be
        self.inputs, self.uniform = inputs, uniform
        p.uniform = _ptr(uniform)
        (y0, args, t, t_off, out_off, stops, stop_off, grid, grid_h, grid_off, out_step,
         grid_nodes, grid_stiff, expected) = inputs
        p.batch = B = y0.shape[0]
        p.y0, p.args = _ptr(y0), _ptr(args)
        p.t = <const double *> _ptr(t)
        p.t_off = <const int64_t *> _ptr(t_off)
        p.out_off = <const int64_t *> _ptr(out_off)
        p.stops, p.stop_off = <const double *> _ptr(stops), <const int64_t *> _ptr(stop_off)
        p.grid, p.grid_h = <const double *> _ptr(grid), <const double *> _ptr(grid_h)
        p.grid_off = <const int64_t *> _ptr(grid_off)
        p.out_step = <const int32_t *> _ptr(out_step)
        p.grid_nodes = <const nc_nodes *> _ptr(grid_nodes)
        self.grid_k = grid_k
        p.grid_k = _ptr(grid_k)
        p.grid_stiff = <const uint8_t *> _ptr(grid_stiff)
        c = &p.control
        c.mode, c.n_sub, c.stop_at_outputs = control[0], control[1], control[2]
        c.error_exponent = control[3]
        c.rtol, c.dt, c.first_step, c.max_step = control[4], control[5], control[6], control[7]
        c.max_steps = control[8]
        self.atol = control[9]
        c.atol = _ptr(self.atol)
        c.log2_safety = control[10]
        c.beta[0], c.beta[1], c.beta[2] = control[11], control[12], control[13]
        c.beta_reject, c.factor_min, c.factor_max = control[14], control[15], control[16]
        c.log2_memory_floor = control[17]
        c.coupling = control[18]
        n_out = p.out_off[B]
        self.y = np.empty((n_out, fields.dim), fields.dtype)
        self.ints = np.zeros((8, B), np.int64)
        self.floats = np.zeros((6, B))
        self.status = np.zeros(B, np.int32)
        p.y_out = _ptr(self.y)
        p.status = <int32_t *> _ptr(self.status)
        p.n_accepted = <int64_t *> _ptr(self.ints)
        p.n_rejected = p.n_accepted + B
        p.n_fev = p.n_accepted + 2 * B
        p.n_reached = p.n_accepted + 3 * B
        p.n_jev = p.n_accepted + 4 * B
        p.n_lu = p.n_accepted + 5 * B
        p.n_switches = p.n_accepted + 6 * B
        p.n_stiff = p.n_accepted + 7 * B
        p.t_reached = <double *> _ptr(self.floats)
        p.h_last = p.t_reached + B
        p.stiff_t = p.t_reached + 2 * B
        p.stiff_h = p.t_reached + 3 * B
        p.stiff_rho = p.t_reached + 4 * B
        p.expected = p.t_reached + 5 * B
        if expected is not None:
            self.floats[5] = expected
        self.sample_values = None
        if keep is not None:
            self.sample_values = np.empty((B, p.n_sample), fields.dtype)
            p.sample_values = _ptr(self.sample_values)
        if opaque is not None:
            field, pull, jacobian = opaque
            self.opaque = _Opaque(field, pull, jacobian, fields.dtype)
            p.opaque_field = _opaque_field
            p.opaque_jacobian = _opaque_jacobian
            p.opaque_ctx = <void *> self.opaque
            if pull is not None:
                p.opaque_pull = _opaque_pull
        if events is None:
            memset(&p.events, 0, sizeof(nc_events))
        else:
            self.event_options = events
            p.events.direction = <const int32_t *> _ptr(events[0])
            p.events.terminal = <const int32_t *> _ptr(events[1])
            self.found.row_bytes = fields.dim * self.be.real_bytes
            p.found = &self.found
            if given_events is not None:
                self._know(given_events)
        self.curve = curve
        if curve is not None:
            off, start, size, coef = curve
            p.curve.off = <const nc_pair *> _ptr(off)
            p.curve.start, p.curve.size = <const double *> _ptr(start), <const double *> _ptr(size)
            p.curve.coef = _ptr(coef)
            p.curve.degree, p.curve.rows = coef.shape[1] - 1, coef.shape[2]
        # a grid that is gone through again is cut as when it was made
        self._cut(keep is not None, c.mode == NC_ADAPTIVE or expected is not None)
        p.parts = self.parts
        fields._bind_parts(p, self.parts)
        if keep is not None:
            self.lock = Lock()
            self.n_records = p.n_chunks
            self.records = <nc_record *> calloc(p.n_chunks, sizeof(nc_record))
            if self.records == NULL:
                raise MemoryError
            p.records = self.records
            stages, rows = fields.stage_rows
            for i in range(p.n_chunks):
                nc_record_init(&self.records[i], p.tile, p.dim, self.be.real_bytes, stages, rows)
            bounds = [B * j // p.n_chunks for j in range(p.n_chunks + 1)]
            self.plan = keep
            plans, trace_bytes = keep(
                p.tile, bounds, nc_checkpoint_bytes(p.tile, p.dim, self.be.real_bytes, rows),
                nc_record_overhead(p.tile, p.dim, self.be.real_bytes, stages),
                self.sample_values.nbytes,
            )
            for i in range(p.n_chunks if c.coupling > 0 else 0):
                if nc_record_paths(&self.records[i], bounds[i], bounds[i + 1] - bounds[i],
                                   max(round(5 / (1 - c.coupling)), 1)):
                    raise MemoryError("nodecore: out of memory")
            for i, (kind, slots, n, segment, window) in enumerate(plans or ()):
                if kind == NC_KEEP_ALL:
                    self.records[i].most = slots
                elif nc_record_limit(&self.records[i], kind, slots, n, segment, window):
                    raise MemoryError("nodecore: out of memory")

            traced = fields.has_adjoint and p.opaque_field == NULL
            traced = traced and p.method.family == NC_EXPLICIT and p.method.stiff == NULL
            traced = traced and c.coupling == 0
            if traced and trace_bytes > 0:
                for i in range(p.n_chunks):
                    nc_record_keep_traces(
                        &self.records[i], p.method.n_step - 1, p.res_rows, self.be.real_bytes,
                        trace_bytes // p.n_chunks,
                    )

    cdef int _know(self, tuple table) except -1:
        """Give the kernels events by sample: those of a grid, or what this solve has found."""
        events, y, off = self.given_events = table
        self.p.known.items = <const nc_event *> _ptr(events)
        self.p.known.y, self.p.known.off = _ptr(y), <const int64_t *> _ptr(off)
        return 0

    cdef int _take_events(self) except -1:
        """Sorts what was found; the backward pass, and steps made again, look it up."""
        cdef int64_t n = self.found.n, B = self.p.batch
        if n:
            whole = PyMemoryView_FromMemory(
                <char *> self.found.items, n * sizeof(nc_event), PyBUF_READ
            )
            items = np.frombuffer(whole, EVENT)
            whole = PyMemoryView_FromMemory(self.found.y, n * self.found.row_bytes, PyBUF_READ)
            y = np.frombuffer(whole, self.fields.dtype).reshape(n, self.fields.dim)
        else:
            items, y = np.empty(0, EVENT), np.empty((0, self.fields.dim), self.fields.dtype)
        order = np.argsort(items["sample"], kind="stable")
        self.events, self.event_y = items[order], y[order]
        self.event_off = np.searchsorted(self.events["sample"], np.arange(B + 1)).astype(np.int64)
        nc_event_free(&self.found)
        self._know((self.events, self.event_y, self.event_off))
        return 0

    cdef int _cut(self, bint keep, bint adaptive) except -1:
        """Tile width, number of chunks and the window: functions of batch and program only."""
        cdef nc_problem *p = &self.p
        cdef int64_t B = p.batch, v = self.be.vector_lanes, L, each, most, tiles, share
        p.window = p.n_chunks = 1
        if p.opaque_field != NULL:
            p.tile = (B + v - 1) // v * v
            return 0
        p.tile = L = 1 if B <= 2 else v if B < 8 * v else 2 * v
        tiles = (B + L - 1) // L
        if not keep:
            # A window is one thread's: only so little work that it is not worth a second one is put
            # in order as a whole.
            if adaptive and tiles <= WINDOW and B * _operations(&p.field) < ALONE_OPERATIONS:
                p.window = tiles
            return 0
        # Each chunk has an accumulator, which is set to 0 and added up in the end: 8 MiB of them,
        # or 4.
        each = 8 * max(p.acc_size, 1)
        most = min(max((8 << 20) // each, min((32 << 20) // each, 4), 1), 64)
        # Where step counts differ, several tiles of samples a chunk keep its lanes full.
        share = WINDOW if adaptive and L > 1 else 1
        share = max(share, (tiles + most - 1) // most)
        p.n_chunks = max(B // (share * L) if share > 1 else tiles, 1)
        if adaptive and L > 1:
            p.window = min((B + p.n_chunks * L - 1) // (p.n_chunks * L), 2 * WINDOW)
        return 0

    def forward(self, int n_threads, double deadline, progress=None):
        """Solves. Raises what a callback or a signal raised. Where the steps do not fit into the
        record that was planned, the solve ends early and `outgrown` says so."""
        cdef nc_problem *p = &self.p
        cdef const nc_backend *be = self.be
        cdef void *state = NULL
        cdef int n = n_threads if p.opaque_field == NULL and not nc_forked() else 1
        cdef _Watch watch = _Watch(progress)
        p.deadline = nc_now() + deadline
        p.poll, p.poll_ctx = _poll, <void *> watch
        with nogil:
            if be.forward(p, 1, ALONE_SECONDS if n > 1 else 0, &state):
                with parallel(num_threads=n):
                    if threadid() == 0:
                        be.forward(p, 1, 0, &state)
                        nc_wait(p, _team() - 1)
                    else:
                        _follow(be, p)
        self.seconds = nc_now() - (p.deadline - deadline)
        p.poll, p.poll_ctx = NULL, NULL
        if p.found != NULL:
            self._take_events()
        if p.stop == NC_STOP_MEMORY and self._full():
            self.outgrown = True
            return
        self._raise(p.stop, watch)
        if not self.all_ok():
            self._take_failed()

    cdef bint _full(self):
        """Whether a record holds as many entries as it may."""
        cdef int64_t i
        for i in range(self.n_records):
            if self.records[i].most and self.records[i].n == self.records[i].most:
                return True
        return False

    cdef int _take_failed(self) except -1:
        """The kernels leave a failed sample's last state in its first output not reached."""
        failed = np.flatnonzero((self.status != 0) & (self.status != NC_EVENT))
        first = np.asarray(self.inputs[4])[failed] + self.ints[3, failed]
        short = first < np.asarray(self.inputs[4])[failed + 1]
        self.failed, rows = failed[short], first[short]
        self.last = self.y[rows]
        self.y[rows] = np.nan
        return 0

    cdef int _raise(self, int stop, _Watch watch) except -1:
        cdef object error = watch.error
        if self.opaque is not None and self.opaque.error is not None:
            error, self.opaque.error = self.opaque.error, None
        if error is not None:
            raise error
        if stop == NC_STOP_MEMORY:
            raise MemoryError("nodecore: out of memory")
        if stop == NC_STOP_CALLBACK:
            raise RuntimeError("nodecore: a step could not be made again from its checkpoint")
        return 0

    def backward(self, dy, int n_threads, int grid_rule, bint want_t=False, progress=None,
                 event_t_bar=None, event_y_bar=None):
        """(y0_bar, args_bar, t_bar, acc, bad): bad is None, or (sample, t, event) of the first
        cotangent that is not finite (event -1), or of an event at which g does not change in time.
        event_t_bar (n,), event_y_bar (n, dim): cotangents of `events`. May run in several threads
        at once."""
        cdef nc_problem own = self.p
        cdef nc_problem *p = &own
        cdef const nc_backend *be = self.be
        cdef nc_backward g
        cdef bint alone = p.opaque_field != NULL or p.n_chunks <= 1 or nc_forked()
        cdef int n = 1 if alone else n_threads
        cdef int64_t B = p.batch, chunks = p.n_chunks, n_args = self.fields.n_args
        cdef _Watch watch = _Watch(progress)
        memset(&g, 0, sizeof(g))
        y0_bar = np.empty((B, p.dim), self.fields.dtype)
        args_bar = np.zeros((B, n_args), self.fields.dtype) if n_args else None
        t_bar = np.zeros(p.out_off[B]) if want_t else None
        acc = np.empty((chunks, p.acc_size))
        cdef int64_t bad[64]
        cdef double bad_t[64]
        cdef int32_t bad_event[64]
        cdef int64_t i
        for i in range(chunks):
            bad[i] = -1
        g.dy, g.y0_bar, g.args_bar = _ptr(dy), _ptr(y0_bar), _ptr(args_bar)
        g.t_bar, g.acc = <double *> _ptr(t_bar), <double *> _ptr(acc)
        g.bad_sample, g.bad_t, g.bad_event = bad, bad_t, bad_event
        g.event_t_bar = <const double *> _ptr(event_t_bar)
        g.event_y_bar = _ptr(event_y_bar)
        g.grid_rule, g.want_t = grid_rule, want_t
        p.stop = p.n_done = 0
        p.deadline = INFINITY
        p.poll, p.poll_ctx = _poll, <void *> watch
        self.lock.acquire()  # checkpoints move while the record is walked
        with nogil:
            if n == 1 or self.seconds < ALONE_SECONDS:
                be.backward(p, &g, 1)
            else:
                with parallel(num_threads=n):
                    if threadid() == 0:
                        be.backward(p, &g, 1)
                        nc_wait(p, _team() - 1)
                    else:
                        _follow_back(be, p, &g)
        self.lock.release()
        self._raise(p.stop, watch)
        for i in range(chunks):
            if bad[i] >= 0:
                return y0_bar, args_bar, t_bar, acc, (bad[i], bad_t[i], bad_event[i])
        if not _finite(_ptr(y0_bar), B * p.dim, self.be.real_bytes == 4):
            bad[0] = np.flatnonzero(~np.isfinite(y0_bar).all(axis=1))[0]
            return y0_bar, args_bar, t_bar, acc, (bad[0], p.t[p.t_off[bad[0]]], -1)
        return y0_bar, args_bar, t_bar, acc, None

    def limited_steps(self):
        """The most steps of a sample whose size stability seemed to limit."""
        cdef int64_t i, most = 0
        for i in range(self.p.batch):
            most = max(most, self.p.n_stiff[i])
        return most

    def all_ok(self):
        """Whether every sample reached its end (or a terminal event)."""
        cdef int64_t i
        for i in range(self.p.batch):
            if self.p.status[i] != 0 and self.p.status[i] != NC_EVENT:
                return False
        return True

    @property
    def stopped(self):
        """Whether the deadline ended the solve."""
        return self.p.stop == NC_STOP_DEADLINE

    @property
    def lanes(self):
        """Lanes of a tile, and number of chunks."""
        return self.p.tile, self.p.n_chunks

    def storage_bytes(self):
        """Bytes kept for the backward pass."""
        cdef int64_t i, total = 0
        if self.records == NULL:
            return 0
        for i in range(self.n_records):
            total += nc_record_bytes(&self.records[i])
        if self.events is not None:
            total += self.events.nbytes + self.event_y.nbytes
        return total + self.sample_values.nbytes + self.held_bytes

    def recomputed_steps(self):
        """Lane steps that the last backward pass made again, beyond each step's own reversal."""
        cdef int64_t i, total = 0
        for i in range(self.n_records if self.records != NULL else 0):
            total += self.records[i].recomputed
        return total

    def kept_steps(self):
        """For each chunk the number of tile steps, whether they are all kept or not."""
        return [self.records[i].n for i in range(self.n_records)]

    cdef tuple _walked(self):
        """`steps` of the coupled scheme, whose records hold no entries: from the ends back."""
        cdef nc_walk w
        cdef int64_t b, i, chunk = 0, B = self.p.batch
        off = np.concatenate([[0], np.cumsum(self.ints[0])]).astype(np.int64)
        n = int(off[B])
        sample = np.repeat(np.arange(B, dtype=np.int64), self.ints[0])
        first, on_stop = np.empty(n, np.int64), np.empty(n, np.uint8)
        t, h, t_new = np.empty(n), np.empty(n), np.empty(n)
        cdef int64_t *p_first = <int64_t *> _ptr(first)
        cdef uint8_t *p_stop = <uint8_t *> _ptr(on_stop)
        cdef double *p_t = <double *> _ptr(t)
        cdef double *p_h = <double *> _ptr(h)
        cdef double *p_new = <double *> _ptr(t_new)
        cdef const int64_t *p_off = <const int64_t *> _ptr(off)
        for b in range(B):
            while b >= B * (chunk + 1) // self.p.n_chunks:
                chunk += 1
            nc_walk_begin(&w, &self.p, b, nc_path_of(&self.records[chunk], b).ends)
            for i in range(p_off[b + 1] - 1, p_off[b] - 1, -1):
                nc_walk_back(&w)
                p_first[i], p_stop[i] = w.q, w.at_stop | w.after_stop << 1
                p_t[i], p_h[i], p_new[i] = w.t, w.h, w.t_new
        return (sample, first, on_stop, t, h, t_new, np.zeros((n, 0), self.fields.dtype),
                np.zeros((n, 0, self.p.dim), self.fields.dtype))

    def steps(self):
        """Every accepted step: arrays (sample, first output behind its start, on_stop, t, h, t_new,
        y, k), sorted by sample and time; on_stop: 1 if the step ends on a stop, plus 2 if it starts
        on one, plus 4 if it was made by the stiff partner of the method; k (steps, stages, D): the
        stages, of methods that find them by iteration. Of the coupled scheme y has no columns.
        """
        if self.p.control.coupling > 0:
            return self._walked()
        parts = []
        for chunk in range(self.n_records if self.records != NULL else 0):
            self._read(chunk, -1, 0, parts)
        return self._joined(parts)

    def window(self, chunks, begin, end):
        """`steps` of the tile steps begin[i] to end[i] - 1 of chunks[i], and the bytes of their
        entries where these are made again. Of a record with a limit, begin is a multiple of its
        window, and no more than one is asked for; windows are meant to be read from the last to the
        first."""
        parts, most = [], 0
        for chunk, first, last in zip(chunks, begin, end):
            if first < last:
                most = max(most, self._read(chunk, first, last, parts))
        return self._joined(parts), most

    def forget_recomputed(self):
        """Begin to count the steps made again."""
        cdef int64_t i
        for i in range(self.n_records):
            self.records[i].recomputed = 0

    def _read(self, int64_t chunk, int64_t begin, int64_t end, list parts):
        """The accepted steps of entries of a chunk (begin -1: all), behind those of ``parts``; the
        bytes of what was made again for them."""
        cdef int64_t j, n, made = 0
        cdef nc_record *r = &self.records[chunk]
        cdef nc_record whole
        cdef nc_problem own = self.p
        cdef bint all_of_it = begin < 0
        if all_of_it:
            begin, end = 0, r.n
        if r.limit:
            nc_record_init(&whole, r.lanes, r.dim, self.be.real_bytes, r.stages, r.carry_rows)
            whole.most = end - begin
            own.stop = 0
            own.deadline = INFINITY
            own.poll = NULL
            with self.lock:
                failed = self.be.unroll(
                    &own, chunk, -1 if all_of_it else begin // r.window, &whole)
            if not all_of_it:
                r.recomputed += whole.recomputed
            r, begin, end = &whole, 0, whole.n
        j = begin
        while j < end:
            n = min(r.per_block - j % r.per_block, end - j)
            parts.append(_entries(nc_record_at(r, j), n, r, self.fields.dtype))
            j += n
        if r == &whole:
            made = nc_record_bytes(r)
            nc_record_free(r)
            if failed:
                raise MemoryError("nodecore: out of memory")
        return made

    cdef tuple _joined(self, list parts):
        """Steps sorted by sample and time."""
        D = self.p.dim
        if not parts:
            empty = np.zeros(0)
            return (empty.astype(np.int64), empty.astype(np.int64), empty.astype(np.uint8), empty,
                    empty, empty, np.zeros((0, D), self.fields.dtype),
                    np.zeros((0, self.fields.stage_rows[0], D), self.fields.dtype))
        columns = [np.concatenate(c) for c in zip(*parts)]
        order = np.argsort(columns[0], kind="stable")
        return tuple(c[order] for c in columns)


cdef object _entries(char *block, int64_t n, nc_record *r, dtype):
    """The accepted steps of n entries, one behind the other, as in Run.steps."""
    cdef int64_t L = r.lanes
    whole = PyMemoryView_FromMemory(block, n * r.entry_bytes, PyBUF_READ)
    raw = np.frombuffer(whole, np.uint8).reshape(n, r.entry_bytes)

    def view(off, kind, rows):
        size = rows * L * np.dtype(kind).itemsize
        part = np.ascontiguousarray(raw[:, off:off + size])
        return part.view(kind).reshape(n, rows, L)

    flags = view(r.off_flags, np.uint8, 1)[:, 0]
    step, lane = np.nonzero(flags & 1)

    def number(off, kind):
        return view(off, kind, 1)[step, 0, lane]

    return (number(0, np.int32).astype(np.int64), number(r.off_q, np.int32).astype(np.int64),
            flags[step, lane] >> 3 & 3 | flags[step, lane] >> 4 & 4,
            number(r.off_t, np.float64), number(r.off_h, np.float64),
            number(r.off_t_new, np.float64), view(r.off_y, dtype, r.dim)[step, :, lane],
            view(r.off_stages, dtype, r.stages * r.dim)[step, :, lane].reshape(
                len(step), r.stages, r.dim))


cdef extern from *:
    """
    #ifdef _OPENMP
    static int nc_team(void) { return omp_get_num_threads(); }
    #else
    static int nc_team(void) { return 1; }
    #endif
    """
    int nc_team() nogil


cdef inline int _team() noexcept nogil:
    return nc_team()


cdef void _follow(const nc_backend *be, nc_problem *p) noexcept nogil:
    cdef void *state = NULL
    be.forward(p, 0, 0, &state)
    nc_thread_done(&p.n_done)


cdef void _follow_back(const nc_backend *be, nc_problem *p, nc_backward *g) noexcept nogil:
    be.backward(p, g, 0)
    nc_thread_done(&p.n_done)

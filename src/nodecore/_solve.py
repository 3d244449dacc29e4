"""The front door: `solve`, and the two ways to run a solved grid again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nodecore import _adjoint, _inputs, methods, plan, tree
from nodecore._adjoint import Discrete
from nodecore._failure import failure, warn_precision
from nodecore._field import Field, Opaque
from nodecore._inputs import Array, InputError, State, Times
from nodecore.control import FixedStep, resolve
from nodecore.gradient import Given, GridRule, OpaquePull
from nodecore.ir.trace import Spec
from nodecore.solution import Inputs, Solution
from nodecore.status import Status

ADAPTIVE, FIXED_DT, FIXED_STEPS, REPLAY = range(4)


def solve(
    field: Any,
    y0: Any,
    t: Any,
    params: Any = None,
    args: Any = None,
    *,
    batch: bool | None = None,
    method: Any = None,
    rtol: float = 1e-6,
    atol: Any = 1e-9,
    dt: float | None = None,
    steps: int | None = None,
    first_step: float | None = None,
    max_step: float = np.inf,
    max_steps: int = 1_000_000,
    controller: Any = None,
    adjoint: Any = None,
    tstops: Any = False,
    dense: bool = False,
    on_failure: str = "raise",
    threads: int | None = None,
    progress: Any = False,
    deadline: float | None = None,
) -> Solution:
    """Solve dy/dt = field(t, y, params, args) for one sample or a batch, each with its own steps.

    Parameters
    ----------
    field : callable
        ``f(t, y)``, ``f(t, y, params)`` or ``f(t, y, params, args)`` in plain NumPy for ONE sample:
        ``t`` a scalar, ``y`` of one sample's shape. Or `nodecore.field`, `nodecore.opaque`.
    y0 : array or tree of arrays
        Initial states, float32 or float64 (others become float64). Leaves of 0 or 1 dimensions are
        one sample; of 2 or more, axis 0 is the batch.
    t : (T,) array, (B, T) array, or list of B arrays
        Output times, strictly monotonic; ``t[0]`` is the initial time.
    params : tree of arrays, optional
        Shared by the batch.
    args : tree of arrays, optional
        Per sample: the first axis is the batch (for one sample there is none).
    batch : bool, optional
        True: axis 0 is the batch, also of a (B,) array; False: one sample, whatever its shape.
    method : str or Tableau
        See ``nodecore.methods.names()``; default "tsit5".
    rtol, atol : float
        The local error of each step is at most ``atol + rtol |y|`` in the root mean square over a
        sample's components. ``atol`` may be one number a component.
    dt : float, optional
        Fixed steps ``t[0] + k dt``; outputs between them are interpolated.
    steps : int, optional
        Fixed steps: this many equal ones between consecutive outputs.
    first_step : float, optional
        Size of the first adaptive step; chosen if not given.
    max_step : float
        Largest adaptive step.
    max_steps : int
        A sample that needs more fails with MAX_STEPS.
    controller : controller or str, optional
        `IController`, `PIController` (default), `PIDController`, or a name.
    adjoint : None, "auto", "discrete" or Discrete
        How gradients will be computed; None: no gradient, nothing is kept. "discrete" keeps every
        step, "auto" at most a quarter of the memory that the process may use.
    tstops : bool, (K,) array or list of B arrays
        False: outputs are interpolated; True: steps end on them. Times: steps end there and the next
        one starts with a fresh evaluation that sees the right-hand limit.
    dense : bool
        Keep the steps, so that ``sol(t)`` gives the state at any time.
    on_failure : {"raise", "mark"}
        "mark": a failed sample has a status and NaN, the others are untouched.
    threads : int, optional
        Default: NODECORE_NUM_THREADS, or what OpenMP and the container grant.
    progress : bool or callable
        A progress bar, or a function of the fraction of samples done.
    deadline : float, optional
        Seconds; what is not done by then has status DEADLINE.

    Returns
    -------
    Solution

    Raises
    ------
    InputError
        If an argument is not possible.
    TraceError
        If the field cannot be traced, or is not what it is compared with.
    SolveError
        If a sample fails and ``on_failure`` is "raise"; ``.solution`` holds what was reached.

    Notes
    -----
    Methods, dense output and their order: docs/methods.md. Step sizes: Hairer, Nørsett & Wanner,
    Solving Ordinary Differential Equations I, II.4; Söderlind, ACM TOMS 29 (2003). A sample's bits do
    not depend on the batch it is in, its place there, or the number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> def predator_prey(t, y, p):
    ...     x, z = y
    ...     return [p["a"] * x - p["b"] * x * z, p["d"] * x * z - p["c"] * z]
    >>> p = {"a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1}
    >>> sol = nc.solve(predator_prey, np.array([[10.0, 5.0], [2.0, 1.0]]), np.linspace(0, 9, 10), p)
    >>> sol.y.shape, sol.ok
    ((2, 10, 2), True)
    """
    leaves, treedef = _inputs.params_leaves(params)
    key = sig = None
    if type(y0) is np.ndarray and type(t) is np.ndarray and type(atol) is float and args is None:
        key = (
            y0.shape, y0.dtype, t.shape, t.dtype, treedef, tuple([p.shape for p in leaves]), batch,
            method, rtol, atol, dt, steps, first_step, max_step, max_steps, controller, adjoint,
            tstops if type(tstops) is bool else None, dense, on_failure,
        )  # fmt: skip
        try:
            sig = _signatures.values.get(key) if type(tstops) is bool else None
        except TypeError:  # something unhashable, which the checks below will name
            key = None
    if sig is not None and plan.times_ok(t):
        # seen before: only values can be wrong, and those the kernels look at
        flat = y0.reshape(sig.like.y0_shape)
        if not flat.flags.c_contiguous:
            flat = np.ascontiguousarray(flat)
        state = State(flat, tree.LEAF, *sig.like[1:])
        when = Times(t, *sig.offsets, "shared", t) if t.flags.c_contiguous else _inputs.times(
            t, len(flat), state.batched
        )  # fmt: skip
        given = Given(state, leaves, treedef, _inputs.NO_ARGS, when, sig.rule)
        stop_times: tuple[Any, Any] = (None, None)
    else:
        sig, given, stop_times = _read(
            y0, t, args, leaves, treedef, batch, method, rtol, atol, dt, steps, first_step, max_step,
            max_steps, controller, adjoint, tstops, dense, on_failure,
        )  # fmt: skip
        simple = given.when.form == "shared" and given.state.y0.dtype == given.state.dtypes[0]
        if key is not None and simple and type(tstops) is bool:
            _signatures.get(key, lambda: sig)
    if deadline is not None:
        deadline = _inputs.number("deadline", deadline, infinite=True)
    if sig.keep:
        given = _own(given)
    inputs = Inputs(
        field,
        sig.method,
        given,
        params if not sig.keep else tree.unflatten(treedef, given.params),
        sig.control,
        stop_times,
        sig.options,
        sig.keep,
        sig.adjoint,
        plan.thread_count(threads),
    )
    sol = _run(inputs, _NO_GRID, deadline, progress, signature=sig)
    if on_failure == "raise" and not sol._run.all_ok():
        raise failure(sol)
    return sol


_NO_GRID = (None, None, None, None)


class _Like(NamedTuple):
    """A state without its values; what follows the first are the fields of State."""

    y0_shape: tuple[int, int]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    batched: bool


@dataclass(frozen=True, eq=False)
class Signature:
    """What follows from shapes, dtypes and options alone: read once, then found."""

    method: methods.Tableau
    like: _Like
    offsets: tuple[Array, Array]
    control: tuple[Any, ...]
    rule: GridRule
    options: dict[str, Any]
    keep: bool
    adjoint: Discrete | None


_signatures: plan.Cache[Signature] = plan.Cache(512)


def _read(
    y0: Any,
    t: Any,
    args: Any,
    leaves: list[Array],
    treedef: Any,
    batch: bool | None,
    method: Any,
    rtol: float,
    atol: Any,
    dt: float | None,
    steps: int | None,
    first_step: float | None,
    max_step: float,
    max_steps: int,
    controller: Any,
    adjoint: Any,
    tstops: Any,
    dense: bool,
    on_failure: str,
) -> tuple[Signature, Given, tuple[Array | None, Array | None]]:
    """Check everything that `solve` was given."""
    tableau = methods.get("tsit5" if method is None else method)
    state = _inputs.state(y0, batch)
    B = state.y0.shape[0]
    when = _inputs.times(t, B, state.batched)
    arg = _inputs.args_of(args, B, state.batched, state.y0.dtype)
    discrete = _adjoint.resolve(adjoint)
    if on_failure not in ("raise", "mark"):
        raise InputError(f'on_failure must be "raise" or "mark", not {on_failure!r}')
    stop_times = _inputs.stops(tstops, when, B)
    control, rule = _control(
        tableau, state, rtol, atol, dt, steps, first_step, max_step, max_steps, controller, tstops,
        stop_times[0] is not None,
    )  # fmt: skip
    given = Given(state, leaves, treedef, arg, when, rule)
    options = {
        "rtol": rtol, "atol": atol, "dt": dt, "steps": steps, "first_step": first_step,
        "max_step": max_step, "max_steps": max_steps, "controller": controller,
        "tstops": tstops, "dense": dense, "batch": state.batched,
    }  # fmt: skip
    sig = Signature(
        method=tableau,
        like=_Like(state.y0.shape, state.shapes, state.dtypes, state.batched),
        offsets=(when.t_off, when.out_off),
        control=control,
        rule=rule,
        options=options,
        keep=adjoint is not None or bool(dense),
        adjoint=discrete,
    )
    return sig, given, stop_times


def _own(given: Given) -> Given:
    """Copies of everything a backward pass reads: later changes in place cannot change it."""
    state, arg, when = given.state, given.args, given.when
    state = state._replace(y0=state.y0.copy())
    if arg.flat is not None:
        arg = arg._replace(flat=arg.flat.copy(), leaves=tuple([a.copy() for a in arg.leaves]))
    when = when._replace(t=when.t.copy())
    params = [p.copy() for p in given.params]
    return Given(state, params, given.params_treedef, arg, when, given.grid_rule)


def _control(
    tableau: methods.Tableau,
    state: State,
    rtol: float,
    atol: Any,
    dt: float | None,
    steps: int | None,
    first_step: float | None,
    max_step: float,
    max_steps: int,
    controller: Any,
    tstops: Any,
    has_stops: bool,
) -> tuple[tuple[Any, ...], GridRule]:
    """The kernels' step-size control (see Run), and how the grid depends on the output times."""
    if isinstance(controller, FixedStep):
        if dt is not None or steps is not None:
            raise InputError("give dt or steps, or a FixedStep controller, not both")
        dt, steps, controller = controller.dt, controller.steps, None
    if dt is not None and steps is not None:
        raise InputError("dt and steps exclude each other: dt is a step size, steps a count")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int | np.integer) or max_steps < 1:
        raise InputError(f"max_steps must be a positive integer, not {max_steps!r}")
    max_step = _inputs.number("max_step", max_step, infinite=True)
    first = 0.0 if first_step is None else _inputs.number("first_step", first_step)
    mode, n_sub, size = ADAPTIVE, 0, 0.0
    if dt is not None:
        mode, size = FIXED_DT, _inputs.number("dt", dt)
    elif steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
            raise InputError(f"steps must be a positive integer, not {steps!r}")
        if has_stops:
            raise InputError("steps= divides the intervals between outputs: it excludes tstops")
        mode, n_sub = FIXED_STEPS, int(steps)
    elif not tableau.adaptive:
        raise InputError(
            f"{tableau.name} has no error estimate: give dt= (a step size) or steps= (steps between "
            'outputs), or choose an adaptive method such as "tsit5"'
        )
    if mode == ADAPTIVE:
        rtol = _inputs.number("rtol", rtol)
        eps = float(np.finfo(state.y0.dtype).eps)
        if rtol < eps / 2:
            raise InputError(
                f"rtol={rtol:g} is below the rounding of {state.y0.dtype} ({eps / 2:.1g})"
                + (": pass y0 as float64" if state.y0.dtype == np.float32 else "")
            )
        if rtol < min(10 * eps, 1e-6):  # the default is nobody's wish
            warn_precision(rtol, state.y0.dtype)
        order = tableau.error_order
        assert order is not None
        tol = _inputs.tolerance(atol, state)
        k = resolve(controller).coefficients(order)
        filter_ = (*k[:7], math.log2(k.memory_floor))
    else:
        order, rtol, tol = 1, 1.0, np.ones(state.y0.shape[1], state.y0.dtype)
        filter_ = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
    on_outputs = tstops is True or mode == FIXED_STEPS
    rule = (
        GridRule.HOLD_FRACTIONS
        if on_outputs and mode != FIXED_DT
        else GridRule.HOLD_STOPS
        if has_stops and mode != FIXED_DT
        else GridRule.HOLD_SIZES
    )
    control = (
        mode, n_sub, int(on_outputs), order + 1, rtol, size, first, max_step, int(max_steps), tol,
        *filter_,
    )  # fmt: skip
    return control, rule


def _example(inputs: Inputs) -> tuple[Any, ...]:
    """(t, y, params, args) of the first sample, as the field sees them."""
    given = inputs.given
    y = given.state.split(given.state.y0[0].astype(np.float64))
    args = None
    if given.args.treedef is not None:
        leaves = [a[0] if given.state.batched else a for a in given.args.leaves]
        args = tree.unflatten(given.args.treedef, leaves)
    params = None
    if given.params_treedef is not None:
        params = tree.unflatten(given.params_treedef, given.params)
    return float(given.when.t[0]), y, params, args


def _run(
    inputs: Inputs,
    grid: tuple[Any, Any, Any, Any],
    deadline: float | None,
    progress: Any,
    *,
    signature: Signature | None = None,
) -> Solution:
    given = inputs.given
    state, when, arg = given.state, given.when, given.args
    keep = inputs.keep
    dtype = state.y0.dtype
    opaque = pull = None
    fields = None
    if type(inputs.fun) is Field:
        fields = inputs.fun.plans.get((signature, given.params_treedef))
    if fields is not None:
        uniform = fields.uniform(given.params, inputs.adjoint is not None)
    elif isinstance(inputs.fun, Opaque):
        n_args = 0
        fields = plan.opaque_fields(inputs.fun, inputs.method, dtype, state.y0.shape[1], n_args)
        opaque, pull = _opaque(inputs)
        uniform = None
    else:
        if not callable(inputs.fun):
            raise InputError(
                f"a field is a function f(t, y, params, args), not {inputs.fun!r}: the arguments "
                "of solve are (field, y0, t, params, args)"
            )
        kinds = ("f",) * len(state.shapes)
        y_spec = Spec(state.treedef, state.shapes, kinds)
        p_spec = Spec(
            given.params_treedef,
            tuple([p.shape for p in given.params]),
            ("f",) * len(given.params),
        )
        a_spec = Spec(arg.treedef, arg.shapes, arg.kinds)
        fields = plan.fields_for(
            inputs.fun, y_spec, p_spec, a_spec, inputs.method, dtype,
            inputs.adjoint is not None, lambda: _example(inputs),
        )  # fmt: skip
        if type(inputs.fun) is Field and arg.treedef is None and signature is not None:
            inputs.fun.plans[(signature, given.params_treedef)] = fields
        uniform = fields.uniform(given.params, inputs.adjoint is not None)
    record = None
    if keep:
        record = _adjoint.plan_for(inputs.adjoint or Discrete(), lambda: _counts(inputs, grid))
    run = plan.Run(
        fields,
        uniform,
        (
            state.y0,
            None if opaque else arg.flat,
            when.t,
            when.t_off,
            when.out_off,
            *inputs.stops,
            *grid,
        ),
        inputs.control,
        record,
        opaque,
    )
    seconds = math.inf if deadline is None else deadline
    if progress:
        with _bar(progress) as report:
            run.forward(inputs.threads, seconds, report)
    else:
        run.forward(inputs.threads, seconds)
    sol = Solution(run, inputs)
    sol._pull = pull
    return sol


def _counts(inputs: Inputs, grid: tuple[Any, Any, Any, Any]) -> Any:
    """Each sample's number of steps, where the grid is known before the solve."""
    mode, n_sub, on_outputs, _, _, dt = inputs.control[:6]
    when = inputs.when
    n_out = np.diff(when.out_off)
    if mode == FIXED_STEPS:
        return n_sub * (n_out - 1)
    if mode == REPLAY:
        return np.diff(grid[2])
    if mode == FIXED_DT and not on_outputs and inputs.stops[0] is None:
        spans = [abs(t[-1] - t[0]) for t in (when.of(b) for b in range(len(n_out)))]
        return np.ceil(np.array(spans) / dt - 1e-9).astype(np.int64)
    return None


class _bar:
    """A tqdm bar, or the user's own callback."""

    def __init__(self, progress: Any) -> None:
        if progress is not True and not callable(progress):
            raise InputError(f"progress must be True, False or a function, not {progress!r}")
        self.progress = progress
        self.bar: Any = None

    def __enter__(self) -> Callable[[float], None]:
        if callable(self.progress):
            call: Callable[[float], None] = self.progress
            return call
        from tqdm.auto import tqdm

        self.bar = tqdm(total=100, desc="solve", unit="%", leave=False)
        return self._update

    def _update(self, done: float) -> None:
        self.bar.update(round(100 * done) - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif callable(self.progress):
            self.progress(1.0)


def _opaque(inputs: Inputs) -> tuple[tuple[Any, Any], OpaquePull | None]:
    """The callbacks of an opaque field, with their results checked."""
    fun: Opaque = inputs.fun
    given = inputs.given
    arg = given.args

    def args_for(samples: Array) -> Any:
        if arg.treedef is None:
            return None
        leaves = [a[samples] if given.state.batched else a[None] for a in arg.leaves]
        return tree.unflatten(arg.treedef, leaves)

    params = inputs.params

    def call(t: Array, y: Array, samples: Array) -> Array:
        result = fun.fun(t, y, params, args_for(samples))
        return _inputs.returned(result, y.shape, f"the opaque field {fun.__name__}", "y")

    if fun.vjp is None:
        if inputs.adjoint is not None:
            raise InputError(
                f"the opaque field {fun.__name__} has no vjp, so its solution has no gradient: pass "
                "nc.opaque(fun, vjp=...) or adjoint=None"
            )
        return (call, None), None
    pull = OpaquePull(fun.vjp, params, given, args_for)
    return (call, pull), pull


# ---- Running a grid again -------------------------------------------------------------------------


def replay(sol: Solution, y0: Any, params: Any, args: Any, t: Any, *, keep: bool) -> Solution:
    """See `Solution.replay`."""
    old = sol._in
    given = old.given
    sample, first, at_stop, t_n, h, t_end, _ = sol._steps()
    state = given.state if y0 is None else _inputs.state(y0, given.state.batched)
    if state.y0.shape != given.state.y0.shape or state.treedef != given.state.treedef:
        raise InputError("replay: y0 must have the shape of the solved one")
    state = state._replace(y0=state.y0.astype(given.state.y0.dtype))
    leaves, treedef = given.params, given.params_treedef
    if params is not None:
        leaves, treedef = _inputs.params_leaves(params)
        if treedef != given.params_treedef or [p.shape for p in leaves] != [
            p.shape for p in given.params
        ]:
            raise InputError("replay: params must have the tree and shapes of the solved ones")
    B = len(given.state.y0)
    arg = given.args
    if args is not None:
        arg = _inputs.args_of(args, B, given.state.batched, state.y0.dtype)
        if (arg.treedef, arg.shapes) != (given.args.treedef, given.args.shapes):
            raise InputError("replay: args must have the tree and shapes of the solved ones")
    when = given.when
    count = np.bincount(sample, minlength=B)
    off = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    if t is not None:
        when = _inputs.times(t, B, given.state.batched)
        if (when.out_off != given.when.out_off).any():
            raise InputError("replay: t must have as many times as the solved ones")
        t_n, h, t_end = _move_grid(given, when, sample, first, t_n, h, t_end, off, old.stops)
    # step ends, one more than steps for each sample
    grid = np.empty(len(t_n) + B)
    out_step = np.empty(int(when.out_off[-1]), np.int32)
    for b in range(B):
        lo, hi = off[b], off[b + 1]
        grid[lo + b : hi + b] = t_n[lo:hi]
        grid[hi + b] = t_end[hi - 1] if hi > lo else when.of(b)[0]
        rows = slice(int(when.out_off[b]), int(when.out_off[b + 1]))
        n = rows.stop - rows.start
        out_step[rows] = np.searchsorted(first[lo:hi], np.arange(n), side="right") - 1
    control = (REPLAY, *old.control[1:8], 2**62, *old.control[9:])
    inputs = Inputs(
        fun=old.fun,
        method=old.method,
        given=Given(state, leaves, treedef, arg, when, given.grid_rule),
        params=old.params if params is None else tree.unflatten(treedef, leaves),
        control=control,
        stops=old.stops,
        options=old.options,
        keep=keep,
        adjoint=old.adjoint if keep else None,
        threads=old.threads,
    )
    return _run(inputs, (grid, np.ascontiguousarray(h), off, out_step), None, False)


def _move_grid(
    given: Given,
    when: Times,
    sample: Array,
    first: Array,
    t_n: Array,
    h: Array,
    t_end: Array,
    off: Array,
    stops: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    """The steps' starts, sizes and ends when the output times move; the rules of GridRule."""
    old = given.when
    t_n, h, t_end = t_n.copy(), h.copy(), t_end.copy()
    for b in range(len(old.t_off)):
        here = slice(int(off[b]), int(off[b + 1]))
        a, z = old.of(b), when.of(b)
        if (a == z).all():
            continue
        start, size, end = t_n[here], h[here], t_end[here]
        if given.grid_rule is GridRule.HOLD_SIZES:
            shift = z[0] - a[0]
            t_n[here], t_end[here] = start + shift, end + shift
            continue
        if given.grid_rule is GridRule.HOLD_FRACTIONS:
            nodes, moved, j = a, z, first[here]
        else:
            flat, s_off = stops
            assert flat is not None and s_off is not None
            inner = flat[s_off[b] : s_off[b + 1]]
            nodes = np.concatenate([a[:1], inner, a[-1:]])
            moved = np.concatenate([z[:1], inner, z[-1:]])
            sign = 1.0 if a[-1] >= a[0] else -1.0
            j = np.searchsorted(sign * nodes, sign * start, side="right")
        lo, hi, lo2, hi2 = nodes[j - 1], nodes[j], moved[j - 1], moved[j]
        ratio = (hi2 - lo2) / (hi - lo)
        t_n[here] = np.where(start == lo, lo2, lo2 + (start - lo) * ratio)
        h[here] = size * ratio
        t_end[here] = np.where(end == hi, hi2, lo2 + (end - lo) * ratio)
    return t_n, h, t_end


def interpolate(sol: Solution, steps: tuple[Array, ...], t: Any) -> Any:
    """The dense output: each step that is asked is made once more, from its stored start."""
    old = sol._in
    given = old.given
    state, B = given.state, len(given.state.y0)
    sample, _, _, t_n, h, t_end, y_n = steps
    query = _inputs._times_array(t, "t")
    scalar = query.ndim == 0
    if query.ndim > (2 if state.batched else 1) or (query.ndim == 2 and len(query) != B):
        raise InputError(f"t of shape {query.shape} does not fit a batch of {B}")
    each = np.broadcast_to(query.reshape(1, -1) if query.ndim < 2 else query, (B, query.shape[-1]
                           if query.ndim else 1))  # fmt: skip
    K = each.shape[1]
    count = np.bincount(sample, minlength=B)
    off = np.concatenate([[0], np.cumsum(count)])
    out = np.full((B, K, state.y0.shape[1]), np.nan, state.y0.dtype)
    step_of = np.full((B, K), -1)
    for b in range(B):
        times = given.when.of(b)
        sign = 1.0 if times[-1] >= times[0] else -1.0
        q = each[b]
        if (
            (sign * (q - times[0]) < 0).any()
            or (sign * (q - times[-1]) > 0).any()
            or np.isnan(q).any()
        ):
            raise InputError(
                f"a time is outside of the interval [{times[0]:g}, {times[-1]:g}] that was solved"
            )
        lo, hi = off[b], off[b + 1]
        k = np.searchsorted(sign * t_n[lo:hi], sign * q, side="right") - 1
        if hi > lo:
            reached = sign * (q - t_end[hi - 1]) <= 0
            step_of[b, reached] = lo + np.maximum(k[reached], 0)
        out[b, q == times[0]] = state.y0[b]
        step_of[b, q == times[0]] = -1
    flat = np.flatnonzero(step_of.reshape(-1) >= 0)
    if flat.size:
        which = step_of.reshape(-1)[flat]
        used, place = np.unique(which, return_inverse=True)
        # one run of one step a used step; its outputs in the order of time
        q = each.reshape(-1)[flat]
        sign = np.sign(h[used])[place]
        order = np.lexsort((sign * q, place))
        n = np.bincount(place, minlength=len(used)) + 1
        out_off = np.concatenate([[0], np.cumsum(n)]).astype(np.int64)
        times = np.empty(int(out_off[-1]))
        times[out_off[:-1]] = t_n[used]
        rows = (
            out_off[place[order]]
            + 1
            + (np.arange(flat.size) - (out_off[:-1] - np.arange(len(used)))[place[order]])
        )
        times[rows] = q[order]
        out_step = np.zeros(int(out_off[-1]), np.int32)
        out_step[out_off[:-1]] = -1
        grid = np.stack([t_n[used], t_end[used]], axis=1).reshape(-1)
        arg = given.args
        who = sample[used]
        if arg.flat is not None:
            leaves = tuple([(a if state.batched else a[None])[who] for a in arg.leaves])
            arg = arg._replace(flat=arg.flat[who], leaves=leaves)
        inputs = Inputs(
            fun=old.fun,
            method=old.method,
            given=Given(
                state._replace(y0=np.ascontiguousarray(y_n[used]), batched=True),
                given.params,
                given.params_treedef,
                arg,
                Times(times, out_off[:-1].copy(), out_off, "ragged", None),
                given.grid_rule,
            ),
            params=old.params,
            control=(REPLAY, *old.control[1:8], 2**62, *old.control[9:]),
            stops=(None, None),
            options={},
            threads=old.threads,
        )
        one = np.arange(len(used) + 1, dtype=np.int64)
        found = _run(inputs, (grid, np.ascontiguousarray(h[used]), one, out_step), None, False)
        values = found._run.y[rows]
        out.reshape(B * K, -1)[flat[order]] = values
    result = out if state.batched else out[0]
    if scalar:
        result = result[..., 0, :]
    return state.split(result)


__all__ = ["Status", "interpolate", "replay", "solve"]

"""The front door: `solve`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodecore import _adjoint, _inputs, methods, plan, tree
from nodecore import events as _events
from nodecore._adjoint import Reversible
from nodecore._failure import failure, warn_precision, warn_stiffness
from nodecore._field import Linear, Opaque, Split
from nodecore._inputs import Array, State, Times
from nodecore._run import (
    ADAPTIVE,
    FIXED_DT,
    FIXED_STEPS,
    NO_GRID,
    Inputs,
    Like,
    Signature,
    run,
)
from nodecore.control import FixedStep, resolve
from nodecore.gradient import Given, GridRule
from nodecore.methods.split import etdrk4
from nodecore.solution import Solution
from nodecore.status import InputError


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
    events: Any = None,
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
        ``t`` a scalar, ``y`` of one sample's shape. Or `nodecore.field`, `nodecore.opaque`,
        `nodecore.linear`, `nodecore.Split`.
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
        See ``nodecore.methods.names()``; default "tsit5". A `Split` has methods of its own: None,
        "kencarp4" or "etdrk4".
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
    adjoint : None, "auto", "discrete", "continuous", "reversible", or an object
        How gradients will be computed: `Discrete`, `Continuous`, `Reversible`. None: no gradient,
        nothing is kept. "discrete" keeps every step, "auto" at most a quarter of the memory that
        the process may use; "reversible" keeps none, but its steps are those of another scheme.
    tstops : bool, (K,) array or list of B arrays
        False: outputs are interpolated; True: steps end on them. Times, such as those of jumps of
        the field: steps end there seeing the limit from behind, and the next one starts with a
        fresh evaluation that sees the limit ahead (so at ``t[0]`` and ``t[-1]`` too).
    dense : bool
        Keep the steps, so that ``sol(t)`` gives the state at any time.
    events : Event or list of Event, optional
        Changes of sign to look for along each solution: ``sol.t_events``, ``sol.y_events``. They
        may stop a sample (status EVENT, which counts as ok; outputs behind it are NaN) or reset its
        state. See `nodecore.Event`.
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
    Solving Ordinary Differential Equations I, II.4; Söderlind, ACM TOMS 29 (2003). A sample's bits
    do not depend on the batch it is in, its place there, or the number of threads.

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
    given_field = field.fun if isinstance(field, plan.Frozen) else field
    if isinstance(given_field, Split):
        method = _method_of_sum(given_field, method, adjoint, dense)
    elif isinstance(method, methods.Composition | methods.Tableau) and method.family in OF_SUMS:
        raise InputError(f"{method.name} solves the sum of an nc.Split, not a field as a whole")
    looked_for = _events.read(events)
    key = sig = None
    plain = type(y0) is np.ndarray and type(t) is np.ndarray and type(atol) is float
    if plain and args is None:
        key = (
            y0.shape, y0.dtype, t.shape, t.dtype, treedef, tuple([p.shape for p in leaves]), batch,
            method, rtol, atol, dt, steps, first_step, max_step, max_steps, controller, adjoint,
            tstops if type(tstops) is bool else None, dense, on_failure, bool(looked_for),
        )  # fmt: skip
        try:
            sig = _signatures.values.get(key) if type(tstops) is bool else None
        except TypeError:  # something unhashable, which the checks below will name
            key = None
    if sig is not None and plan.times_ok(t):
        # seen before: only values can be wrong, and those the kernels look at
        flat = y0.reshape(sig.like.y0_shape)
        if sig.keep:  # what a backward pass reads is the solution's own
            flat, t, leaves = flat.copy(), t.copy(), [p.copy() for p in leaves]
            params = tree.unflatten(treedef, leaves)
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
            y0, t, args, leaves, treedef, batch, method, rtol, atol, dt, steps, first_step,
            max_step, max_steps, controller, adjoint, tstops, dense, on_failure, bool(looked_for),
        )  # fmt: skip
        if sig.keep:
            given = _own(given)
            params = tree.unflatten(treedef, given.params)
        simple = given.when.form == "shared" and given.state.y0.dtype == given.state.dtypes[0]
        if key is not None and simple and type(tstops) is bool:
            _signatures.get(key, lambda: sig)
    if deadline is not None:
        deadline = _inputs.number("deadline", deadline, infinite=True)
    inputs = Inputs(
        field,
        sig.method,
        given,
        params,
        sig.control,
        stop_times,
        {**sig.options, "events": events},
        sig.keep,
        sig.adjoint,
        plan.thread_count(threads),
        events=looked_for,
    )
    if looked_for:
        _check_events(field, sig.adjoint)
    made, pull = run(inputs, NO_GRID, deadline, progress, sig)
    if made.limited_steps() >= WORTH_A_WARNING:
        from nodecore.methods.order import real_limit

        warn_stiffness(
            sig.method.name, real_limit(sig.method), made.floats[2], made.floats[3],
            made.floats[4], np.minimum(made.ints[7], made.ints[0]),
            batched=given.state.batched, stacklevel=3,
        )  # fmt: skip
    sol = Solution(made, inputs, pull)
    if on_failure == "raise" and not made.all_ok():
        raise failure(sol)
    return sol


# Steps that stability limits in one solve: fewer cost little.
WORTH_A_WARNING = 500

_signatures: plan.Cache[Signature] = plan.Cache(512)

# Families that solve a Split.
ADDITIVE = ("imex",)
OF_SUMS = ("split", *ADDITIVE)


def _method_of_sum(field: Split, method: Any, adjoint: Any, dense: bool) -> methods.Solver:
    """What solves a Split: its own scheme, or an additive method."""
    solver: methods.Solver = field.solver
    if method is field.solver or method is etdrk4():  # that of a solution made earlier
        solver = method
    elif method is not None:
        try:
            exponential = methods.normal(method) == "etdrk4"
            solver = etdrk4() if exponential else methods.get(method, ADDITIVE)
        except InputError:
            raise InputError(
                "a Split has its own methods (nc.Split(..., methods=...)), or is solved by "
                f"{', '.join((*methods.names(ADDITIVE), 'etdrk4'))}: leave out method={method!r}"
            ) from None
        if exponential and not (len(field.parts) == 2 and isinstance(field.parts[0], Linear)):
            raise InputError(
                "etdrk4 takes two parts, a linear and another one, in this order: "
                "nc.Split(nc.linear(A), g)"
            )
        if len(field.parts) != 2:
            raise InputError(
                f"{solver.name} takes two parts, an implicit and an explicit one, not "
                f"{len(field.parts)}"
            )
    if dense and solver.family == "split":
        raise InputError(
            "a Split has no interpolant: ask for the states at the times t, where its steps end"
        )
    if isinstance(_adjoint.resolve(adjoint), _adjoint.Continuous):
        raise InputError(
            'the continuous adjoint has no parts to split: use adjoint="discrete" with a Split'
        )
    return solver


def _check_events(field: Any, adjoint: _adjoint.Adjoint | None) -> None:
    """Events go with fields that are traced, and with gradients of what was computed."""
    if isinstance(field, Split):
        raise InputError("a Split has no events: solve the sum as one field")
    if isinstance(field, Opaque):
        raise InputError(
            f"events need a field that can be traced, and {field.__name__} is opaque: solve "
            "without events, and look for them in sol(t)"
        )
    if isinstance(adjoint, _adjoint.Continuous):
        raise InputError(
            'the continuous adjoint does not pass through events: use adjoint="discrete" (or '
            '"auto")'
        )


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
    has_events: bool,
) -> tuple[Signature, Given, tuple[Array | None, Array | None]]:
    """Check everything that `solve` was given."""
    tableau: methods.Solver = (
        method
        if isinstance(method, methods.Composition | methods.Tableau)
        else methods.get("tsit5" if method is None else method)
    )
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
        stop_times[0] is not None, has_events, _coupling(discrete, tableau, dense, has_events),
    )  # fmt: skip
    given = Given(state, leaves, treedef, arg, when, rule)
    options = {
        "rtol": rtol, "atol": atol, "dt": dt, "steps": steps, "first_step": first_step,
        "max_step": max_step, "max_steps": max_steps, "controller": controller,
        "tstops": tstops, "dense": dense, "batch": state.batched,
    }  # fmt: skip
    sig = Signature(
        method=tableau,
        like=Like(state.y0.shape, state.shapes, state.dtypes, state.batched),
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


def _coupling(adjoint: Any, tableau: Any, dense: bool, has_events: bool) -> float:
    """The coupling of a reversible solve; 0 for all others."""
    if not isinstance(adjoint, Reversible):
        return 0.0
    if tableau.family != "explicit":
        raise InputError(
            f'adjoint="reversible" couples steps of an explicit method, which {tableau.name} is '
            f"not: use one of {', '.join(methods.names(('explicit',)))}, or "
            "nc.Discrete(memory=...), which is for all methods"
        )
    if dense:
        raise InputError(
            'adjoint="reversible" keeps no steps, which dense=True needs: give the times as '
            "outputs, or use nc.Discrete()"
        )
    if has_events:
        raise InputError(
            'adjoint="reversible" does not pass through events: use adjoint="discrete" (or "auto")'
        )
    return adjoint.coupling


def _control(
    tableau: methods.Solver,
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
    has_events: bool,
    coupling: float,
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
            f"{tableau.name} has no error estimate: give dt= (a step size) or steps= (steps "
            'between outputs), or choose an adaptive method such as "tsit5"'
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
    split = tableau.family == "split"
    on_outputs = tstops is True or mode == FIXED_STEPS or split
    tied = mode != FIXED_DT or has_events  # behind an event, a grid of dt is no longer t0 + k dt
    rule = (
        GridRule.UNKNOWN
        if split and (has_stops or mode == FIXED_DT or tableau.name == "etdrk4")
        else GridRule.HOLD_FRACTIONS
        if on_outputs and tied
        else GridRule.HOLD_STOPS
        if has_stops and tied
        else GridRule.HOLD_SIZES
    )
    control = (
        mode, n_sub, int(on_outputs), order + 1, rtol, size, first, max_step, int(max_steps), tol,
        *filter_, coupling,
    )  # fmt: skip
    return control, rule

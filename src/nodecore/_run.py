"""Runs of a plan: forwards, again on a given grid, and at any time between.

Below solutions: a run is the kernels' object, its inputs are all it was made from. The three share
the grid's form, so they stand together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nodecore import _inputs, _record, plan, tree
from nodecore._adjoint import Adjoint, Continuous, Discrete
from nodecore._field import Field, Opaque
from nodecore._inputs import Array, State, Times
from nodecore.events import Event
from nodecore.gradient import Given, GridRule, OpaquePull
from nodecore.ir.trace import Spec
from nodecore.methods import Solver
from nodecore.status import InputError

# enum nc_mode
ADAPTIVE, FIXED_DT, FIXED_STEPS, REPLAY = range(4)
NO_GRID = (None,) * 7

# step of an output that was not reached
_NEVER = np.iinfo(np.int32).max


@dataclass
class Inputs:
    """Everything a solve was given, read; enough to replay it."""

    fun: Any
    method: Solver
    given: Given
    params: Any
    control: tuple[Any, ...]
    stops: tuple[Array | None, Array | None]
    options: dict[str, Any] = field(repr=False)
    keep: bool = False
    adjoint: Adjoint | None = None
    threads: int = 1
    transform: str = ""  # the field that is solved is made of `fun`: see ir.variational
    curve: tuple[Array, ...] | None = None  # what it reads at each stage: see Run
    events: tuple[Event, ...] = ()
    grid_k: Array | None = None  # the stages of a given grid

    @property
    def state(self) -> State:
        return self.given.state

    @property
    def when(self) -> Times:
        return self.given.when


class Like(NamedTuple):
    """A state without its values; what follows the first are the fields of State."""

    y0_shape: tuple[int, int]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    batched: bool


@dataclass(frozen=True, eq=False)
class Signature:
    """What follows from shapes, dtypes and options alone: read once, then found."""

    method: Solver
    like: Like
    offsets: tuple[Array, Array]
    control: tuple[Any, ...]
    rule: GridRule
    options: dict[str, Any]
    keep: bool
    adjoint: Adjoint | None


def _example(inputs: Inputs) -> tuple[Any, ...]:
    """(t, y, params, args) of the first sample, as the field sees them."""
    given = inputs.given
    dim = sum(int(np.prod(s)) for s in given.state.shapes)  # without a tangent
    y = given.state.split(given.state.y0[0, :dim].astype(np.float64))
    args = None
    if given.args.treedef is not None:
        leaves = [a[0] if given.state.batched else a for a in given.args.leaves]
        args = tree.unflatten(given.args.treedef, leaves)
    params = None
    if given.params_treedef is not None:
        params = tree.unflatten(given.params_treedef, given.params)
    return float(given.when.t[0]), y, params, args


def run(
    inputs: Inputs,
    grid: tuple[Any, ...],
    deadline: float | None,
    progress: Any,
    signature: Signature | None = None,
    given_events: tuple[Array, Array, Array] | None = None,
    record: Any = None,
) -> tuple[Any, OpaquePull | None]:
    """A run and, of an opaque field, its vjp. ``record``: the plan of what it keeps, if it is not
    what ``inputs.adjoint`` asks for."""
    given = inputs.given
    state, when, arg = given.state, given.when, given.args
    keep = inputs.keep
    dtype = state.y0.dtype
    opaque = pull = None
    fields = None
    if type(inputs.fun) is Field:
        fields = inputs.fun.plans.get((signature, given.params_treedef, inputs.events))
    if fields is not None:
        uniform = fields.uniform(given.params)
    elif isinstance(inputs.fun, Opaque):
        n_args = 0
        fields = plan.opaque_fields(inputs.fun, inputs.method, dtype, state.y0.shape[1], n_args)
        opaque, pull = _opaque(inputs)
        uniform = None
    else:
        if not callable(inputs.fun) and not isinstance(inputs.fun, plan.Frozen):
            raise InputError(
                f"a field is a function f(t, y, params, args), not {inputs.fun!r}: the arguments "
                "of solve are (field, y0, t, params, args)"
            )
        fields = _fields(inputs)
        known = arg.treedef is None and signature is not None
        if type(inputs.fun) is Field and known and plan.pure(inputs.events):
            inputs.fun.plans[(signature, given.params_treedef, inputs.events)] = fields
        uniform = fields.uniform(given.params)
    if keep and record is None:
        record = _record.plan_for(
            inputs.adjoint or Discrete(),
            lambda: _counts(inputs, grid),
            bool(inputs.events),
            (inputs.method, state.y0.shape[1], dtype.itemsize),
        )
    events = None
    if inputs.events:
        events = (
            np.array([e.direction for e in inputs.events], np.int32),
            np.array([e.terminal for e in inputs.events], np.int32),
        )
    values = (
        state.y0,
        None if opaque else arg.flat,
        when.t,
        when.t_off,
        when.out_off,
        *inputs.stops,
        *grid,
    )
    until = math.inf if deadline is None else time.monotonic() + deadline
    while True:
        made = plan.Run(
            fields,
            uniform,
            values,
            inputs.control,
            record,
            opaque,
            inputs.curve,
            events,
            given_events,
            inputs.grid_k,
        )
        seconds = until - time.monotonic()
        if progress:
            with _bar(progress) as report:
                made.forward(inputs.threads, seconds, report)
        else:
            made.forward(inputs.threads, seconds)
        if not made.outgrown:
            return made, pull
        record = record.limited()  # the steps do not fit: once more, within the budget


def _fields(inputs: Inputs) -> Any:
    """The compiled fields of a traceable function."""
    given = inputs.given
    state, arg = given.state, given.args
    specs = (
        Spec(state.treedef, state.shapes, ("f",) * len(state.shapes)),
        Spec(
            given.params_treedef, tuple([p.shape for p in given.params]), ("f",) * len(given.params)
        ),
        Spec(arg.treedef, arg.shapes, arg.kinds),
    )
    if inputs.keep and not plan.is_pure(inputs.fun):
        inputs.fun = plan.freeze(inputs.fun, *specs, inputs.events)
    return plan.fields_for(
        inputs.fun,
        *specs,
        inputs.method,
        state.y0.dtype,
        inputs.adjoint is not None,
        lambda: _example(inputs),
        transform=inputs.transform,
        events=inputs.events,
    )


def _counts(inputs: Inputs, grid: tuple[Any, ...]) -> Any:
    """Each sample's number of steps, where the grid is known before the solve."""
    mode, n_sub, on_outputs, _, _, dt = inputs.control[:6]
    when = inputs.when
    n_out = np.diff(when.out_off)
    if mode == REPLAY:
        return np.diff(grid[2])
    if inputs.events:
        return None  # they add steps
    if mode == FIXED_STEPS:
        return n_sub * (n_out - 1)
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


def _opaque(inputs: Inputs) -> tuple[tuple[Any, Any, Any], OpaquePull | None]:
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

    def jacobian(t: Array, y: Array, samples: Array) -> Array:
        n, dim = y.shape
        if fun.jac is not None:
            result = fun.jac(t, y, params, args_for(samples))
            who = f"the jac of the opaque field {fun.__name__}"
            return _inputs.returned(result, (n, dim, dim), who, "the Jacobians")
        return _differences(call, t, y, samples)

    if isinstance(inputs.adjoint, Continuous):
        raise InputError(
            f"the opaque field {fun.__name__} cannot be traced, which the continuous adjoint "
            'needs: use adjoint="discrete" with a vjp'
        )
    if inputs.adjoint is not None and inputs.method.family == "rosenbrock":
        raise InputError(
            f"{inputs.method.name} has the Jacobian in its formula, so its gradient needs second "
            f"derivatives, which the opaque field {fun.__name__} does not have: use an ESDIRK "
            'method such as "kvaerno5"'
        )
    if fun.vjp is None:
        if inputs.adjoint is not None:
            raise InputError(
                f"the opaque field {fun.__name__} has no vjp, so its solution has no gradient: "
                "pass nc.opaque(fun, vjp=...) or adjoint=None"
            )
        return (call, None, jacobian), None
    pull = OpaquePull(fun.vjp, params, given, args_for)
    return (call, pull, jacobian), pull


def _differences(call: Callable[..., Array], t: Array, y: Array, samples: Array) -> Array:
    """Jacobians (n, D, D) by forward differences, all columns in one call."""
    n, dim = y.shape
    eps = float(np.sqrt(np.finfo(y.dtype).eps))
    size = np.maximum(np.abs(y), 1e-5 * np.abs(y).max(axis=1, keepdims=True))
    moved = y + eps * np.where(size > 0, size, 1.0)
    step = moved - y  # as rounded
    points = np.repeat(y[:, None], dim + 1, axis=1)
    points[:, np.arange(dim), np.arange(dim)] = moved
    many = dim + 1
    values = call(np.repeat(t, many), points.reshape(n * many, dim), np.repeat(samples, many))
    values = np.asarray(values, np.float64).reshape(n, many, dim)
    out: Array = (values[:, :dim] - values[:, dim:]) / step[:, :, None]
    return np.ascontiguousarray(out.transpose(0, 2, 1))


# ---- Running a grid again ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grid:
    """What a run did: the steps (`Run.steps`), what each sample reached, and its events."""

    steps: tuple[Array, ...]
    reached: Array  # outputs
    t_reached: Array
    events: tuple[Array, Array, Array] | None
    expected: Array | None  # numbers of steps, by which the samples were put in order

    @classmethod
    def of(cls, made: Any) -> Grid:
        """That of a run that kept its steps."""
        events = None
        if made.events is not None:
            events = (made.events, made.event_y, made.event_off)
        expected = made.floats[5] if made.floats[5].any() else None
        return cls(made.steps(), made.ints[3], made.floats[0], events, expected)

    @property
    def cuts(self) -> Array:
        """The events that ended their step."""
        if self.events is None:
            return np.zeros(0, np.int64)
        cuts: Array = self.events[0][self.events[0]["cut"] != 0]
        return cuts


def replay(
    old: Inputs, grid: Grid, y0: Any, params: Any, args: Any, t: Any, *, keep: bool
) -> tuple[Any, OpaquePull | None, Inputs]:
    """Run a grid again, with some of the inputs changed; see `Solution.replay`."""
    given = old.given
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
    when = given.when if t is None else _inputs.times(t, B, given.state.batched)
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
        events=old.events,
    )
    made, pull = run(inputs, grid_of(old, grid, when), None, False, given_events=grid.events)
    return made, pull, inputs


def stiff_steps(steps: tuple[Array, ...]) -> Array:
    """Which steps were made by the stiff partner of the method."""
    return np.ascontiguousarray(steps[2] >> 2 & 1, np.uint8)


def grid_of(old: Inputs, grid: Grid, when: Times) -> tuple[Any, ...]:
    """The kernels' form of a grid: step ends, sizes, offsets, the step of each output, the nodes
    that move, if any, which steps the method's stiff partner made, and the samples' order."""
    given = old.given
    sample, first, _, _, h, t_end, _, _ = grid.steps
    B = len(given.state.y0)
    off = np.concatenate([[0], np.cumsum(np.bincount(sample, minlength=B))]).astype(np.int64)
    if (when.out_off != given.when.out_off).any():
        raise InputError("replay: t must have as many times as the solved ones")
    if given.grid_rule is GridRule.UNKNOWN and (when.t != given.when.t).any():
        raise InputError(
            "replay: etdrk4, and steps of a Split that have a given size or are cut at tstops, "
            "cannot follow other times"
        )
    nodes = None
    if when is not given.when or grid.cuts.size:
        nodes = _nodes(given, when, grid, off)
    out_step = np.full(int(when.out_off[-1]), _NEVER, np.int32)
    for b in range(B):
        begin, n = int(when.out_off[b]), int(grid.reached[b])
        steps = np.searchsorted(first[off[b] : off[b + 1]], np.arange(n), side="right") - 1
        out_step[begin : begin + n] = steps
    ends, sizes = np.ascontiguousarray(t_end), np.ascontiguousarray(h)
    return ends, sizes, off, out_step, nodes, stiff_steps(grid.steps), grid.expected


def _nodes(given: Given, when: Times, grid: Grid, off: Array) -> Array:
    """The nodes around each step, (n, 4), as nc_problem.grid_nodes has them.

    Nodes are the initial time, events that end a step, and, by the `GridRule`, outputs or stops.
    """
    _, _, on_stop, _, _, t_end, _, _ = grid.steps
    out = np.full((len(t_end), 4), np.nan)
    cuts = grid.cuts
    for b in range(len(given.when.t_off)):
        here = slice(int(off[b]), int(off[b + 1]))
        old, new = given.when.of(b), when.of(b)
        end, moved = t_end[here], np.full(here.stop - here.start, np.nan)  # NaN: no node there
        if given.grid_rule is GridRule.HOLD_STOPS:
            stop = (on_stop[here] & 1) != 0
            moved[stop] = end[stop]
            moved[end == old[-1]] = new[-1]
        elif given.grid_rule is GridRule.HOLD_FRACTIONS:
            sign = 1.0 if old[-1] >= old[0] else -1.0
            k = np.minimum(np.searchsorted(sign * old, sign * end), len(old) - 1)
            moved[old[k] == end] = new[k[old[k] == end]]
        mine = cuts[cuts["sample"] == b] if cuts.size else cuts
        cut = np.full(len(end), np.nan)
        if mine.size:
            cut[mine["step"]] = mine["t"]
        moved[~np.isnan(cut)] = np.nan
        lower, begin = (old[0], new[0]), here.start
        for i in np.flatnonzero(~(np.isnan(moved) & np.isnan(cut))):
            rows = slice(begin, here.start + int(i) + 1)
            out[rows, :2] = lower
            if np.isnan(cut[i]):
                out[rows, 2:] = end[i], moved[i]
                lower = (end[i], moved[i])
            else:
                lower = (cut[i], np.nan)
            begin = rows.stop
        out[begin : here.stop, :2] = lower
    return out


def interpolate(old: Inputs, grid: Grid, t: Any) -> Any:
    """The dense output: each step that is asked is made once more, from its stored start."""
    given = old.given
    state, B = given.state, len(given.state.y0)
    sample, _, _, t_n, *_ = steps = grid.steps
    query = _inputs._times_array(t, "t")
    scalar = query.ndim == 0
    if query.ndim > (2 if state.batched else 1) or (query.ndim == 2 and len(query) != B):
        raise InputError(f"t of shape {query.shape} does not fit a batch of {B}")
    each = np.broadcast_to(query.reshape(1, -1) if query.ndim < 2 else query, (B, query.shape[-1]
                           if query.ndim else 1))  # fmt: skip
    K = each.shape[1]
    count = np.bincount(sample, minlength=B)
    off = np.concatenate([[0], np.cumsum(count)])
    after_event = np.zeros(len(t_n) + 1, bool)
    cuts = grid.cuts
    if cuts.size:
        after_event[off[cuts["sample"]] + cuts["step"] + 1] = True
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
            k = np.maximum(k, 0)
            near = 8 * np.finfo(float).eps * np.abs(q) if cuts.size else 0.0  # as outputs are due
            for _ in range(cuts.size):  # at the very time of events it is the state before
                back = (k > 0) & after_event[lo + k] & (sign * (q - t_n[lo + k]) <= near)
                if not back.any():
                    break
                k -= back
            reached = sign * (q - grid.t_reached[b]) <= near
            step_of[b, reached] = lo + k[reached]
        out[b, q == times[0]] = state.y0[b]
        step_of[b, q == times[0]] = -1
    flat = np.flatnonzero(step_of.reshape(-1) >= 0)
    if flat.size:
        values = within_steps(old, steps, step_of.reshape(-1)[flat], each.reshape(-1)[flat])
        out.reshape(B * K, -1)[flat] = values
    result = out if state.batched else out[0]
    if scalar:
        result = result[..., 0, :]
    return state.split(result)


def within_steps(old: Inputs, steps: tuple[Array, ...], which: Array, t: Array) -> Array:
    """The dense output (n, D) of the steps ``which`` at times ``t``.

    One run of one step for each step that is used, from its stored start; its outputs in the order
    of time.
    """
    given = old.given
    state = given.state
    sample, _, on_stop, t_n, h, t_end, y_n, k = steps
    used, place = np.unique(which, return_inverse=True)
    order = np.lexsort((np.sign(h[used])[place] * t, place))
    n = np.bincount(place, minlength=len(used)) + 1
    out_off = np.concatenate([[0], np.cumsum(n)]).astype(np.int64)
    times = np.empty(int(out_off[-1]))
    times[out_off[:-1]] = t_n[used]
    first_query = out_off[:-1] - np.arange(len(used))
    rows = out_off[place[order]] + 1 + np.arange(which.size) - first_query[place[order]]
    times[rows] = t[order]
    out_step = np.zeros(int(out_off[-1]), np.int32)
    out_step[out_off[:-1]] = -1
    ends = np.stack([t_n[used], t_end[used]], axis=1)
    # what is on a stop has its one-sided limits, as when the step was made first
    is_stop = np.stack([on_stop[used] & 2, on_stop[used] & 1], axis=1) != 0
    stop_off = np.concatenate([[0], np.cumsum(is_stop.sum(axis=1))]).astype(np.int64)
    stops = (ends[is_stop], stop_off) if stop_off[-1] else (None, None)
    arg = given.args
    who = sample[used]
    if arg.flat is not None:
        leaves = tuple([(a if state.batched else a[None])[who] for a in arg.leaves])
        arg = arg._replace(flat=np.ascontiguousarray(arg.flat[who]), leaves=leaves)
    curve = old.curve
    if curve is not None:
        curve = (np.ascontiguousarray(curve[0][who]), *curve[1:])
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
        stops=stops,
        options={},
        threads=old.threads,
        transform=old.transform,
        curve=curve,
        # stages that were found by iteration are kept
        grid_k=np.ascontiguousarray(k[used]) if k.shape[1] else None,
    )
    one = np.arange(len(used) + 1, dtype=np.int64)
    stiff = np.ascontiguousarray(stiff_steps(steps)[used])
    made_again = (t_end[used], h[used], one, out_step, None, stiff, None)
    found, _ = run(inputs, made_again, None, False)
    values = np.empty((which.size, found.y.shape[1]), found.y.dtype)
    values[order] = found.y[rows]
    return values

"""The discrete adjoint, on the record of a solve: docs/math/discrete-adjoint.md.

Works on runs and plans; knows neither solutions nor the front door.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from nodecore import plan, tree
from nodecore._inputs import Args, Array, State, Times, returned
from nodecore.status import GradientError, InputError


class GridRule(IntEnum):
    """How the grid depends on the output times (``enum nc_grid_rule``).

    HOLD_SIZES: outputs are interpolated; step sizes are held, so t[0] shifts the grid.
    HOLD_FRACTIONS: steps end on the outputs; each step keeps its fraction of their interval.
    HOLD_STOPS: steps end on given times; only the first and the last interval move.
    UNKNOWN: none of these (steps of a given size that are cut at the outputs; exponential
    integrators): there is no g.t.

    An event that ends a step is a node of the grid too: sizes are held up to it, and what is behind
    it, up to the next output or stop that steps end on, moves with it.
    """

    HOLD_SIZES = 0
    HOLD_FRACTIONS = 1
    HOLD_STOPS = 2
    UNKNOWN = 3


class Gradient:
    """Cotangents of what a solve was given, each with the shape of what was given.

    Attributes
    ----------
    y0, params, args, t
        The derivatives of <dy, y>. ``params`` is summed over the batch; ``t`` too, where it is
        shared. None where nothing was given.
    """

    def __init__(self, y0: Any, params: Any, args: Any, t: Any) -> None:
        self.y0, self.params, self.args = y0, params, args
        self._t = t  # a value, or how to get it

    @property
    def t(self) -> Any:
        """Computed when it is asked for, by one more backward pass."""
        if callable(self._t):
            self._t = self._t()
        return self._t

    def __reduce__(self) -> tuple[Any, ...]:
        return Gradient, (self.y0, self.params, self.args, self.t)

    def __repr__(self) -> str:
        return f"Gradient(y0={self.y0!r}, params={self.params!r}, args={self.args!r})"


@dataclass
class Given:
    """What a solve was given, as far as its gradient's shapes depend on it."""

    state: State
    params: list[Array]
    params_treedef: Any
    args: Args
    when: Times
    grid_rule: GridRule


class OpaquePull:
    """Adds up the cotangents that an opaque field's vjp returns; one thread at a time."""

    def __init__(
        self, vjp: Callable[..., Any], params: Any, given: Given, args_for: Callable[[Array], Any]
    ) -> None:
        self.vjp, self.params, self.given, self.args_for = vjp, params, given, args_for
        self.lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Forget what was added up."""
        self.params_bar = [np.zeros(np.shape(p)) for p in self.given.params]
        self.args_bar = [np.zeros(a.shape) for a in self.given.args.leaves]
        if not self.given.state.batched:
            self.args_bar = [a[None] for a in self.args_bar]

    def __call__(self, t: Array, y: Array, samples: Array, ct: Array, slow: bool = True) -> Array:
        """y_bar; with ``slow`` the cotangents of params and args are added up."""
        result = self.vjp(t, y, self.params, self.args_for(samples), ct)
        if not isinstance(result, tuple) or len(result) != 3:
            raise InputError(
                "the opaque field's vjp must return (y_bar, params_bar, args_bar); None stands for "
                "zeros"
            )
        y_bar, params_bar, args_bar = result
        given = self.given
        for name, treedef, total, part, index in (
            ("params", given.params_treedef, self.params_bar, params_bar, None),
            ("args", given.args.treedef, self.args_bar, args_bar, samples),
        ):
            if part is None or not slow:
                continue
            leaves, part_treedef = tree.flatten(part)
            if part_treedef != treedef and len(leaves) != len(total):
                raise InputError(
                    f"the opaque field's vjp returned a {name}_bar that is not a tree like {name}"
                )
            paths = tree.paths(treedef)
            for sum_, leaf, path in zip(total, leaves, paths, strict=True):
                shape = sum_.shape if index is None else (len(index),) + sum_.shape[1:]
                bar = returned(leaf, shape, f"the opaque field's vjp, for {name}_bar{path},", name)
                if index is None:
                    sum_ += bar
                else:
                    sum_[index] += bar
        if y_bar is None:
            return np.zeros_like(ct)
        return returned(y_bar, ct.shape, "the opaque field's vjp, for y_bar,", "y")


# Cotangents of the times (n,) and states (n, D) of all events of a run.
EventBars = tuple[Array, Array]


def _back(
    run: Any, given: Given, dy: Array, threads: int, events: EventBars | None, want_t: bool = False
) -> tuple[Any, ...]:
    rule = int(given.grid_rule)
    out: tuple[Any, ...] = run.backward(dy, threads, rule, want_t, None, *(events or (None, None)))
    return out


def discrete(
    run: Any,
    given: Given,
    dy: Array,
    threads: int,
    pull: OpaquePull | None,
    dim: int | None = None,
    events: EventBars | None = None,
) -> Gradient:
    """The exact gradient of <dy, y> with respect to y0, params, args and t.

    ``dim``: only this many components of the run's state, and the args of ``given``, are asked for;
    the others are a tangent. ``events``: cotangents of the events too.
    """
    if pull is None:
        return _discrete(run, given, dy, threads, None, dim, events)
    with pull.lock:
        return _discrete(run, given, dy, threads, pull)


def _discrete(
    run: Any,
    given: Given,
    dy: Array,
    threads: int,
    pull: OpaquePull | None,
    dim: int | None = None,
    events: EventBars | None = None,
) -> Gradient:
    if pull is not None:
        pull.start()
    y0_bar, args_bar, _, acc, bad = _back(run, given, dy, threads, events)
    if bad is not None:
        sample, t, event = bad
        if event >= 0:
            raise GradientError(
                f"sample {sample}: event {event} at t = {t:.6g} has no derivative: g hardly "
                "changes in time there (it grazes zero, or the state is at rest), so its time is "
                "not a smooth function of anything. Choose another g, or leave the sample out",
                sample=sample,
                t=t,
            )
        if events is not None:
            _check_event_bars(run, sample, events)
        rows = slice(*given.when.out_off[sample : sample + 2])
        wrong = np.flatnonzero(~np.isfinite(dy[rows]).all(axis=1))
        if wrong.size:
            t = float(given.when.of(sample)[wrong[-1]])
            why = f"is not finite at t = {t:.6g}, because dy is not: look at the loss"
        else:
            why = (
                f"became non-finite at t = {t:.6g} in the backward pass: the field's derivative is "
                "infinite or NaN there. Look for sqrt, log, division or a power at zero; np.where "
                "guards protect gradients"
            )
        raise GradientError(
            f"sample {sample}: the cotangent of the state {why}", sample=sample, t=t
        )
    if dim is not None:
        y0_bar = np.ascontiguousarray(y0_bar[:, :dim])
    params: Any = None
    if pull is not None:
        for i, bar in enumerate(pull.params_bar):
            if not np.isfinite(bar).all():
                raise _bad_block(i, run, given, dy, threads, pull, events)
    elif given.params:
        params, finite = plan.params_bar(run.fields, run.uniform, acc)
        start = 0
        for i, p in enumerate([] if finite else given.params):
            if not np.isfinite(params[start : start + p.size]).all():
                raise _bad_block(i, run, given, dy, threads, None, events)
            start += p.size

    def in_time() -> Any:
        if pull is not None:
            raise GradientError(
                "an opaque field's vjp gives no derivative in time, so g.t is unknown"
            )
        if given.grid_rule is GridRule.UNKNOWN:
            raise GradientError(
                "etdrk4, and steps of a Split that have a given size or are cut at tstops, have no "
                "rule by which they follow the times, so g.t is unknown: use a scheme of the Split "
                "with steps=, or with adaptive steps"
            )
        return _t_bar(given, _back(run, given, dy, threads, events, True)[2])

    return shaped(given, y0_bar, params, args_bar, in_time, pull)


def shaped(
    given: Given,
    y0_bar: Array,
    params_flat: Array | None,
    args_bar: Array,
    t: Any,
    pull: OpaquePull | None,
) -> Gradient:
    """Flat cotangents in the shapes and dtypes of what was given; ``t``: rows, or how to get it."""
    state = given.state
    if state.treedef == tree.LEAF and state.dtypes[0] == y0_bar.dtype:
        y0 = y0_bar.reshape(y0_bar.shape[:1] * state.batched + state.shapes[0])
    else:
        y0 = _as_given(
            state.split(y0_bar if state.batched else y0_bar[0]), state.treedef, state.dtypes
        )
    params = None
    if given.params_treedef is not None:
        params_bar = [] if pull is None else pull.params_bar
        if params_flat is not None:
            start = 0
            for p in given.params:
                end = start + p.size
                bar = params_flat[start:end]
                params_bar.append(bar if p.ndim == 1 else bar.reshape(p.shape))
                start = end
        leaves = [
            x if p.dtype is x.dtype else np.asarray(x, p.dtype if p.dtype.kind == "f" else x.dtype)
            for x, p in zip(params_bar, given.params, strict=True)
        ]
        params = tree.unflatten(given.params_treedef, leaves)
    args = None
    if given.args.treedef is not None:
        args = _args_bar(given, args_bar, pull)
    return Gradient(y0, params, args, t if callable(t) else _t_bar(given, t))


def _bad_block(
    i: int,
    run: Any,
    given: Given,
    dy: Array,
    threads: int,
    pull: OpaquePull | None,
    events: EventBars | None,
) -> GradientError:
    """Params leaf i has a cotangent that is not finite, though the states' are: whose fault is it?

    The sample is found by halving the batch whose cotangents are kept, the time by halving the
    outputs: those before the fault do not see it. Where it takes the events' cotangents, the sample
    is that of an event.
    """
    path = tree.paths(given.params_treedef)[i]

    def bad(begin: int, end: int, events: EventBars | None = None) -> bool:
        part = np.zeros_like(dy)
        part[begin:end] = dy[begin:end]
        if pull is not None:
            pull.start()
        acc = _back(run, given, part, threads, events)[3]
        if pull is not None:
            return not np.isfinite(pull.params_bar[i]).all()
        start = sum(p.size for p in given.params[:i])
        flat = plan.params_bar(run.fields, run.uniform, acc)[0]
        return not np.isfinite(flat[start : start + given.params[i].size]).all()

    rows = [int(r) for r in given.when.out_off]
    if events is not None and not bad(0, rows[-1]):
        for k in range(len(run.events)):
            one = (np.zeros_like(events[0]), np.zeros_like(events[1]))
            one[0][k], one[1][k] = events[0][k], events[1][k]
            if bad(0, 0, one):
                break
        sample, t = int(run.events["sample"][k]), float(run.events["t"][k])
        return GradientError(
            f"sample {sample}: the cotangent of params{path} became non-finite on the way to event "
            f"{run.events['event'][k]} at t = {t:.6g}: a derivative in this parameter is infinite "
            "or NaN. Look for sqrt, log, division or a power at zero; np.where guards protect "
            "gradients",
            sample=sample,
            t=t,
        )
    sample, end = 0, len(rows) - 1
    while end - sample > 1:
        half = (sample + end) // 2
        sample, end = (sample, half) if bad(rows[sample], rows[half]) else (half, end)
    first = rows[sample]
    before, out = 0, rows[sample + 1] - first  # outputs [0, before) are innocent, [0, out) are not
    while out - before > 1:
        half = (before + out) // 2
        before, out = (before, half) if bad(first, first + half) else (half, out)
    times = given.when.of(sample)
    t = float(times[out - 1])
    return GradientError(
        f"sample {sample}: the cotangent of params{path} became "
        f"non-finite on the way to the output at t = {t:.6g}, though those of the states are "
        "finite: the field's derivative in this parameter is infinite or NaN. Look for sqrt, log, "
        "division or a power at zero; np.where guards protect gradients",
        sample=sample,
        t=t,
    )


def _check_event_bars(run: Any, sample: int, bars: EventBars) -> None:
    """Raises if what is not finite was given with an event of the sample."""
    for name, bar in zip(("dt_events", "dy_events"), bars, strict=True):
        here = slice(*run.event_off[sample : sample + 2])
        wrong = ~np.isfinite(bar[here]).reshape(here.stop - here.start, -1).all(axis=1)
        if wrong.any():
            e = run.events[here][wrong][-1]
            raise GradientError(
                f"sample {sample}: the cotangent of event {e['event']} at t = {e['t']:.6g} is not "
                f"finite, because {name} is not: look at the loss",
                sample=sample,
                t=float(e["t"]),
            )


def _as_given(value: Any, treedef: Any, dtypes: Any) -> Any:
    leaves = tree.flatten(value)[0]
    kinds = [d if d.kind == "f" else np.dtype(np.float64) for d in dtypes]
    return tree.unflatten(treedef, [np.asarray(x, d) for x, d in zip(leaves, kinds, strict=True)])


def _args_bar(given: Given, flat: Array, pull: OpaquePull | None) -> Any:
    leaves = []
    start = 0
    for i, (shape, dtype) in enumerate(zip(given.args.shapes, given.args.dtypes, strict=True)):
        n = int(np.prod(shape))
        bar = flat[:, start : start + n] if pull is None else pull.args_bar[i]
        start += n
        bar = bar.reshape((-1,) + shape)
        if dtype.kind != "f":
            bar = np.zeros(bar.shape, dtype)  # integers have no tangent space
        leaves.append(np.asarray(bar if given.state.batched else bar[0], dtype))
    return tree.unflatten(given.args.treedef, leaves)


def _t_bar(given: Given, rows: Array) -> Any:
    when = given.when
    out = when.split(rows, given.state.batched)
    return out.sum(axis=0) if when.form == "shared" and given.state.batched else out

"""Forward mode and second order on the frozen grid: tangents, Jacobians, Hessian products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodecore import _run, tree
from nodecore._adjoint import Discrete
from nodecore._field import Opaque
from nodecore._inputs import Args, Array, State, Times
from nodecore._run import REPLAY, Grid, Inputs
from nodecore.gradient import Given, Gradient, discrete
from nodecore.status import GradientError, InputError

# Columns of a Jacobian that are solved for at once, times the batch.
MOST_SAMPLES = 4096


def _tangent_leaves(value: Any, like: list[Array], treedef: Any, name: str) -> list[Array]:
    """A tangent as a list of float64 arrays shaped like ``like``; None is zero."""
    if value is None:
        return [np.zeros(np.shape(x)) for x in like]
    leaves, other = tree.flatten(value)
    if other != treedef:
        raise InputError(f"{name} has another tree than what it is a tangent of")
    out = []
    for leaf, x in zip(leaves, like, strict=True):
        a = np.asarray(leaf, np.float64)
        if a.shape != np.shape(x):
            raise InputError(f"{name} has a leaf of shape {a.shape}, not {np.shape(x)}")
        out.append(a)
    return out


class Tangent:
    """Everything that a tangent run of one solution needs."""

    def __init__(self, inputs: Inputs, grid: Grid) -> None:
        if isinstance(inputs.fun, Opaque):
            raise GradientError(
                "an opaque field has no tangent: forward mode needs a field that can be traced"
            )
        if inputs.method.family in ("split", "imex"):
            raise GradientError(
                "the parts of a Split have no tangent run: forward mode needs a field that is "
                "solved as a whole"
            )
        if grid.cuts.size:
            raise GradientError(
                f"sample {grid.cuts['sample'][0]} was stopped or reset by an event at t = "
                f"{grid.cuts['t'][0]:.6g}, and forward mode (jvp, jacobian, hvp) does not pass "
                "through these: use sol.vjp"
            )
        self.inputs, self.grid = inputs, grid

    def directions(self, dy0: Any, dparams: Any, dargs: Any) -> tuple[Array, Array]:
        """The tangents of the state (B, D), and of params and args (B, n), for each sample."""
        given = self.inputs.given
        state, arg = given.state, given.args
        B = len(state.y0)
        shapes = [(B, *s) if state.batched else s for s in state.shapes]
        v = _tangent_leaves(dy0, [np.empty(s) for s in shapes], state.treedef, "dy0")
        dy = np.concatenate([x.reshape(B, -1) for x in v], axis=1)
        if given.params_treedef is None and dparams is not None:
            raise InputError("dparams was given, but the solve had no params")
        dp = _tangent_leaves(dparams, given.params, given.params_treedef, "dparams")
        if arg.treedef is None and dargs is not None:
            raise InputError("dargs was given, but the solve had no args")
        da = _tangent_leaves(dargs, list(arg.leaves), arg.treedef, "dargs")
        for x, kind in zip(da, arg.kinds, strict=True):
            if kind != "f":
                x[...] = 0  # integers have no tangent
        slow = [np.broadcast_to(x.reshape(1, -1), (B, x.size)) for x in dp]
        slow += [x.reshape(B, -1) for x in da]
        return dy, np.concatenate([*slow, np.zeros((B, 0))], axis=1)

    def run(self, who: Array, dy: Array, slow: Array, *, keep: bool) -> tuple[Any, Inputs]:
        """Solve for the samples ``who`` and their tangents on the frozen grid."""
        old = self.inputs
        given = old.given
        state, arg, when = given.state, given.args, given.when
        dtype = state.y0.dtype
        y0 = np.ascontiguousarray(np.concatenate([state.y0[who], dy], axis=1), dtype)
        parts = [slow] if arg.flat is None else [arg.flat[who], slow]
        flat = np.ascontiguousarray(np.concatenate(parts, axis=1), dtype)
        grid = _run.grid_of(old, self.grid, when)
        stops = old.stops
        times = when
        if len(who) != len(state.y0) or not np.array_equal(who, np.arange(len(who))):
            grid, times, stops = _pick(grid, when, stops, who)
        inputs = Inputs(
            fun=old.fun,
            method=old.method,
            given=Given(
                State(y0, state.treedef, state.shapes, state.dtypes, state.batched),
                given.params,
                given.params_treedef,
                Args(flat, arg.treedef, arg.shapes, arg.dtypes, arg.kinds, arg.leaves),
                times,
                given.grid_rule,
            ),
            params=old.params,
            control=(
                REPLAY,
                *old.control[1:8],
                2**62,
                np.ones(y0.shape[1], dtype),
                *old.control[10:],
            ),
            stops=stops,
            options=old.options,
            keep=keep,
            adjoint=Discrete() if keep else None,
            threads=old.threads,
            transform="tangent",
        )
        made, _ = _run.run(inputs, grid, None, False)
        return made, inputs


def _pick(
    grid: tuple[Any, ...], when: Times, stops: tuple[Any, Any], who: Array
) -> tuple[tuple[Any, ...], Times, tuple[Any, Any]]:
    """The grids, times and stops of the samples ``who``."""
    ends, h, off, out_step, _, stiff, expected = grid

    def gather(values: Array, starts: Array, stops: Array) -> tuple[Array, Array]:
        n = stops - starts
        new = np.concatenate([[0], np.cumsum(n)]).astype(np.int64)
        index = np.repeat(starts - new[:-1], n) + np.arange(new[-1])
        return values[index], new

    rows, out_off = gather(out_step, when.out_off[who], when.out_off[who + 1])
    sizes = when.out_off[who + 1] - when.out_off[who]
    times, _ = gather(when.t, when.t_off[who], when.t_off[who] + sizes)
    new_h, new_off = gather(h, off[who], off[who + 1])
    new_stiff, _ = gather(stiff, off[who], off[who + 1])
    new_ends, _ = gather(ends, off[who], off[who + 1])
    moved = Times(times, out_off[:-1].copy(), out_off, "ragged", None)
    if stops[0] is not None:
        stops = gather(stops[0], stops[1][who], stops[1][who + 1])
        if stops[0].size == 0:
            stops = (np.zeros(1), stops[1])
    order = None if expected is None else expected[who]
    return (new_ends, new_h, new_off, rows, None, new_stiff, order), moved, stops


def jvp(inputs: Inputs, grid: Grid, dy0: Any, dparams: Any, dargs: Any) -> Array:
    """Rows (N, D) of the tangent of y."""
    t = Tangent(inputs, grid)
    dy, slow = t.directions(dy0, dparams, dargs)
    made, _ = t.run(np.arange(len(dy)), dy, slow, keep=False)
    rows: Array = made.y[:, dy.shape[1] :]
    return rows


def columns(inputs: Inputs, grid: Grid, starts: Array, kind: str) -> Array:
    """Rows (N, D, P) of the Jacobian of y in the entries ``starts`` of y0, params or args."""
    t = Tangent(inputs, grid)
    given = inputs.given
    B, D = given.state.y0.shape
    n_slow = sum(p.size for p in given.params) + (
        0 if given.args.flat is None else given.args.flat.shape[1]
    )
    N, P = int(given.when.out_off[-1]), len(starts)
    out = np.empty((N, D, P), given.state.y0.dtype)
    block = max(1, MOST_SAMPLES // B)
    for lo in range(0, P, block):
        here = starts[lo : lo + block]
        who = np.tile(np.arange(B), len(here))
        dy, slow = np.zeros((len(who), D)), np.zeros((len(who), n_slow))
        (dy if kind == "y0" else slow)[np.arange(len(who)), np.repeat(here, B)] = 1.0
        made, _ = t.run(who, dy, slow, keep=False)
        out[:, :, lo : lo + block] = made.y[:, D:].reshape(len(here), N, D).transpose(1, 2, 0)
    return out


def hvp(
    inputs: Inputs, grid: Grid, function: Any, values: Sequence[Array],
    to_rows: Any, dy0: Any, dparams: Any, dargs: Any,
) -> Gradient:  # fmt: skip
    """The Hessian of a loss of y times a direction: the adjoint of the tangent run.

    ``function`` is the derivative of the loss along a tangent of y, with its gradient in y and in
    the tangent; ``values`` are its inputs but for y and the tangent.
    """
    t = Tangent(inputs, grid)
    dy, slow = t.directions(dy0, dparams, dargs)
    D = dy.shape[1]
    made, doubled = t.run(np.arange(len(dy)), dy, slow, keep=True)
    from_rows, back = to_rows
    y, v = from_rows(made.y[:, :D]), from_rows(made.y[:, D:])
    out = function(np.concatenate([y, *values, v]))
    n = y.size
    ct = np.concatenate([back(out[1 : 1 + n]), back(out[1 + n : 1 + 2 * n])], axis=1)
    ct = np.ascontiguousarray(ct, made.y.dtype)
    # the run's state is twice as large as the tree that it is split into
    given = inputs.given
    shaped = Given(
        given.state, given.params, given.params_treedef, given.args, given.when, given.grid_rule
    )
    return discrete(made, shaped, ct, doubled.threads, None, dim=D)

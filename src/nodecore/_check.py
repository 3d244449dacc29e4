"""Can a gradient be trusted? `gradcheck`, `gradient_error`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodecore import tree
from nodecore._inputs import Array
from nodecore._solve import solve
from nodecore.solution import Solution
from nodecore.status import GradientError, InputError


def _leaves(value: Any) -> list[Array]:
    return [np.asarray(x, np.float64) for x in tree.flatten(value)[0]]


def _dot(a: Any, b: Any) -> float:
    """<a, b>, skipping outputs that were not reached."""
    total = 0.0
    for x, y in zip(_leaves(a), _leaves(b), strict=True):
        total += float(np.sum(np.where(np.isnan(y), 0.0, x * y)))
    return total


def _norm(value: Any) -> float:
    return float(np.sqrt(sum(np.sum(x * x) for x in _leaves(value))))


def _like(value: Any, rng: np.random.Generator, scale: float = 1.0) -> Any:
    return tree.map(lambda x: scale * rng.standard_normal(np.shape(x)), value)


def _moved(value: Any, direction: Any, eps: float) -> Any:
    """value + eps direction, in the dtypes of value; integers stay."""

    def move(x: Any, d: Any) -> Any:
        x = np.asarray(x)
        return x if x.dtype.kind != "f" else np.asarray(x + eps * d, x.dtype)

    leaves, treedef = tree.flatten(value)
    return tree.unflatten(
        treedef, [move(x, d) for x, d in zip(leaves, tree.flatten(direction)[0], strict=True)]
    )


def gradcheck(
    sol: Solution,
    dy: Any = None,
    *,
    wrt: Sequence[str] = ("y0", "params", "args", "t"),
    seed: int = 0,
) -> float:
    """Is the gradient the derivative of what was computed?

    Compares ``sol.vjp(dy)`` along random directions with fourth-order finite differences of
    ``sol.replay``, on the frozen grid.

    Parameters
    ----------
    sol : Solution
        With an adjoint.
    dy : like ``sol.y``, optional
        Cotangent; random by default.
    wrt : sequence of {"y0", "params", "args", "t"}
        What to move; what was not given is skipped.
    seed : int
        Of the random directions.

    Returns
    -------
    float
        The largest relative difference. In float64 an exact gradient gives 1e-8 or less (as near as
        the rounding of the differences allows); in float32 about 1e-2.

    Raises
    ------
    GradientError
        If the solution has no adjoint.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, k: -k * y**2, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
    >>> nc.gradcheck(sol) < 1e-8
    True
    """
    rng = np.random.default_rng(seed)
    inputs = sol._in
    if dy is None:
        dy = _like(sol.y, rng)
    g = sol.vjp(dy)
    base: dict[str, Any] = {
        "y0": inputs.state.split(inputs.state.y0 if inputs.state.batched else inputs.state.y0[0]),
        "params": inputs.params,
        "args": None,
        "t": inputs.when.given,
    }
    if inputs.given.args.treedef is not None:
        base["args"] = tree.unflatten(inputs.given.args.treedef, list(inputs.given.args.leaves))
    base["params"] = (
        None
        if inputs.given.params_treedef is None
        else tree.unflatten(
            inputs.given.params_treedef,
            [p if p.dtype.kind == "f" else p.astype(float) for p in inputs.given.params],
        )
    )
    worst = 0.0
    for name in wrt:
        if name not in base:
            raise InputError(f"gradcheck: wrt holds {name!r}; it may hold y0, params, args, t")
        value = base[name]
        if value is None:
            continue
        if name == "t":
            if isinstance(value, list):
                value = [np.asarray(x, float) for x in value]
            else:
                value = np.asarray(value, float)
        grad = getattr(g, name)
        size = max((float(np.abs(x).max(initial=0)) for x in _leaves(value)), default=0.0)
        direction = _like(value, rng)
        if name == "t":
            size = min(float(np.min(np.abs(np.diff(x)))) if x.size > 1 else 1.0
                       for x in _leaves(value))  # fmt: skip
        exact = _dot(direction, grad) if tree.flatten(grad)[0] else 0.0
        scale = max(abs(exact), 1e-3 * _norm(grad) * _norm(direction), 1e-300)
        f32 = inputs.state.y0.dtype == np.float32
        best = np.inf
        for step in (3e-2, 1e-2) if f32 else (1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
            eps = step * max(size, 1e-2 if name != "t" else 0.0)

            def value_at(
                e: float, name: str = name, value: Any = value, direction: Any = direction
            ) -> float:
                moved = {name: _moved(value, direction, e)}
                again = sol._replay(
                    moved.get("y0"), moved.get("params"), moved.get("args"), moved.get("t"),
                    keep=False,
                )  # fmt: skip
                return _dot(dy, again.y)

            fd = (
                8 * (value_at(eps) - value_at(-eps)) - (value_at(2 * eps) - value_at(-2 * eps))
            ) / (12 * eps)
            if np.isfinite(fd):
                best = min(best, abs(fd - exact) / scale)
        worst = max(worst, best)
    return worst


def gradient_error(sol: Solution, dy: Any, factor: float = 100.0) -> float:
    """Is the gradient the one you want? Its relative difference to that at tighter tolerances.

    The discrete gradient is the derivative of the computed solution; where the solve is coarse,
    that is the derivative of a coarse program. This solves again with tolerances divided by
    ``factor`` (with fixed steps, with steps shorter by the cube root of it) and compares.

    Parameters
    ----------
    sol : Solution
        With an adjoint.
    dy : like ``sol.y``
        Cotangent of the outputs.
    factor : float
        How much tighter.

    Returns
    -------
    float
        ||g - g_tight|| / ||g_tight|| over y0, params and args.

    Raises
    ------
    GradientError
        If the solution has no adjoint.
    """
    if sol.adjoint is None:
        raise GradientError('gradient_error: solve with adjoint="discrete" (or "auto")')
    inputs = sol._in
    options = dict(inputs.options)
    given = inputs.given
    if options["dt"] is not None:
        options["dt"] = options["dt"] / factor ** (1 / 3)
    elif options["steps"] is not None:
        options["steps"] = int(np.ceil(options["steps"] * factor ** (1 / 3)))
    options["rtol"] = max(options["rtol"] / factor, 1e-13)
    options["atol"] = tree.map(lambda a: np.asarray(a) / factor, options["atol"])
    state = given.state
    y0 = state.split((state.y0 if state.batched else state.y0[0]).astype(np.float64))
    args = None
    if given.args.treedef is not None:
        args = tree.unflatten(given.args.treedef, list(given.args.leaves))
    tight = solve(
        inputs.fun, y0, inputs.when.given, inputs.params, args,
        method=inputs.method, adjoint="discrete", on_failure="mark", threads=inputs.threads,
        **options,
    )  # fmt: skip
    a, b = sol.vjp(dy), tight.vjp(tree.map(lambda x: np.asarray(x, float), dy))
    top = bottom = 0.0
    for name in ("y0", "params", "args"):
        if getattr(b, name) is None:
            continue
        for x, y in zip(_leaves(getattr(a, name)), _leaves(getattr(b, name)), strict=True):
            top += float(np.sum((x - y) ** 2))
            bottom += float(np.sum(y**2))
    return float(np.sqrt(top / bottom)) if bottom else float(np.sqrt(top))

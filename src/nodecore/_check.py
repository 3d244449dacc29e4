"""Can a gradient be trusted? `gradcheck`, `gradient_error`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodecore import tree
from nodecore._field import Opaque
from nodecore._inputs import Array
from nodecore._run import Inputs
from nodecore._solve import solve
from nodecore.control import FixedStep
from nodecore.gradient import GridRule
from nodecore.solution import Solution
from nodecore.status import GradientError, InputError, Status

# Relative steps of the finite differences, the largest first: truncation, then rounding.
_STEPS = {8: (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6), 4: (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)}

# gradcheck: near enough to stop trying other steps
_ENOUGH = 1e-10


def _leaves(value: Any) -> list[Array]:
    return [np.asarray(x, np.float64) for x in tree.flatten(value)[0]]


def _dot(a: list[Array], b: list[Array]) -> float:
    """<a, b>, skipping outputs that were not reached."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += float(np.sum(np.where(np.isnan(y), 0.0, x * y)))
    return total


def _given(inputs: Inputs) -> dict[str, Any]:
    """What a solve was given, by its name in `gradcheck`; None: nothing."""
    given = inputs.given
    state, when = inputs.state, inputs.when
    out = {"y0": state.split(state.y0 if state.batched else state.y0[0]), "params": None}
    out["args"] = None
    if given.params_treedef is not None:
        params = [p if p.dtype.kind == "f" else p.astype(float) for p in given.params]
        out["params"] = tree.unflatten(given.params_treedef, params)
    if given.args.treedef is not None:
        out["args"] = tree.unflatten(given.args.treedef, list(given.args.leaves))
    t = when.given
    many = when.form == "ragged"
    out["t"] = [np.asarray(x, float) for x in t] if many else np.asarray(t, float)
    return out


def _scale(leaf: Array, grad: Array, most: float, is_time: bool) -> Array:
    """How far each number of a leaf may be moved at the relative step 1.

    By its own size, or that of its leaf if it is small; times by the gap between them; zeros, whose
    size nobody knows, by what changes the result by ``most``. Integers stay.
    """
    if leaf.dtype.kind != "f" or leaf.size == 0:
        return np.zeros(leaf.shape)
    x = leaf.astype(np.float64)
    if is_time:
        gaps = np.abs(np.diff(x, axis=-1))
        return np.full(x.shape, float(gaps.min()) if gaps.size else 1.0)
    size = float(np.sqrt(np.mean(x**2)))
    if size == 0:
        return np.full(x.shape, min(1.0, most / max(float(np.linalg.norm(grad)), 1e-300)))
    return np.maximum(np.abs(x), 0.1 * size)


def gradcheck(
    sol: Solution,
    dy: Any = None,
    *,
    dt_events: Any = None,
    dy_events: Any = None,
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
    dy, dt_events, dy_events : like those of ``sol.vjp``, optional
        Cotangents of the outputs, and of the times and states of events; if none is given, all are
        random.
    wrt : sequence of {"y0", "params", "args", "t"}
        What to move; what was not given, what consists of integers, and the times of an opaque
        field (or of others whose g.t is unknown), are skipped.
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
    InputError
        If ``wrt`` holds another name.

    Notes
    -----
    Each number is moved in proportion to its size, all of a name together; of several step sizes
    the one with the smallest difference counts, since where the differences are best depends on the
    problem, and a wrong gradient is wrong at each. Differences are relative to the derivative, but
    at least to what a relative change of the inputs by one would have to give to be seen above
    rounding (about 1e-6 of <|dy|, |y|> in float64).

    The gradient of `nodecore.Continuous` is that of the exact solution, not of the computed one:
    for it the result is the difference between the two, about the tolerance of the solve.
    `gradient_error` says which is the one you want.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, k: -k * y**2, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
    >>> nc.gradcheck(sol) < 1e-8
    True
    """
    for name in wrt:
        if name not in ("y0", "params", "args", "t"):
            raise InputError(f"gradcheck: wrt holds {name!r}; it may hold y0, params, args, t")
    rng = np.random.default_rng(seed)

    def random(value: Any) -> Any:
        return tree.map(lambda x: rng.standard_normal(np.shape(x)), value)

    if dy is None and dt_events is None and dy_events is None:
        dy = random(sol.y)
        if sol.t_events:
            dt_events, dy_events = random(sol.t_events), random(sol.y_events)
    with_events = {"dt_events": dt_events, "dy_events": dy_events}
    g = sol.vjp(dy, **{name: bar for name, bar in with_events.items() if bar is not None})
    inputs = sol._in
    base = _given(inputs)
    parts = [(dy, "y"), (dt_events, "t_events"), (dy_events, "y_events")]
    parts = [(bar, name) for bar, name in parts if bar is not None]
    bars_out = [x for bar, _ in parts for x in _leaves(bar)]

    def results(solution: Solution) -> list[Array]:
        return [x for _, name in parts for x in _leaves(getattr(solution, name))]

    dtype = inputs.state.y0.dtype
    most = _dot([np.abs(x) for x in bars_out], [np.abs(x) for x in results(sol)])
    seen = 100 * float(np.sqrt(np.finfo(dtype).eps)) * most
    worst = 0.0
    for name in wrt:
        no_t = isinstance(inputs.fun, Opaque) or inputs.given.grid_rule is GridRule.UNKNOWN
        if base[name] is None or (name == "t" and no_t):
            continue
        leaves, treedef = tree.flatten(base[name])
        leaves = [np.asarray(x) for x in leaves]
        bars = _leaves(getattr(g, name))
        direction = [
            rng.standard_normal(x.shape) * _scale(x, bar, most, name == "t")
            for x, bar in zip(leaves, bars, strict=True)
        ]
        if not any(d.any() for d in direction):
            continue
        terms = [d * bar for d, bar in zip(direction, bars, strict=True)]
        exact = sum(float(np.sum(x)) for x in terms)
        # a sum of random signs: it may cancel, then its terms say how large it might have been
        floor = max(0.1 * np.sqrt(sum(float(np.sum(x * x)) for x in terms)), seen, 1e-300)

        def value_at(
            eps: float,
            name: str = name,
            leaves: list[Array] = leaves,
            treedef: Any = treedef,
            direction: list[Array] = direction,
        ) -> float:
            moved = [
                np.asarray(x + eps * d, x.dtype) if d.any() else x
                for x, d in zip(leaves, direction, strict=True)
            ]
            change: dict[str, Any] = dict.fromkeys(("y0", "params", "args", "t"))
            change[name] = tree.unflatten(treedef, moved)
            moved_to = results(sol._replay(**change, keep=False))
            if any(x.shape != y.shape for x, y in zip(bars_out, moved_to, strict=True)):
                return np.nan  # moved so far that an event is lost
            return _dot(bars_out, moved_to)

        best = np.inf
        for eps in _STEPS[dtype.itemsize]:
            near = value_at(eps) - value_at(-eps)
            far = value_at(2 * eps) - value_at(-2 * eps)
            fd = (8 * near - far) / (12 * eps)
            if np.isfinite(fd):
                best = min(best, abs(fd - exact) / max(abs(exact), abs(fd), floor))
            if best < _ENOUGH:
                break
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
        How much tighter; more than 1.

    Returns
    -------
    float
        ||g - g_tight|| / ||g_tight|| over y0, params and args. Where it is small, it is the error
        of the gradient; where it is not small, the gradient at these tolerances is not to be
        trusted.

    Raises
    ------
    GradientError
        If the solution has no adjoint, or a sample that was solved fails at the tighter tolerances.
    InputError
        If ``factor`` is not more than 1.

    Notes
    -----
    `gradcheck` cannot see this error: a gradient may be exact for the steps that were made, yet
    far from the derivative of the exact solution. On a frozen grid the global error of a solve is a
    function of the parameters too, whose derivative is large where the solution jumps, as in a
    relaxation oscillation.

    Examples
    --------
    >>> import numpy as np
    >>> import nodecore as nc
    >>> sol = nc.solve(lambda t, y, k: -k * y**2, [1.0], [0.0, 1.0], 2.0, adjoint="discrete")
    >>> nc.gradient_error(sol, np.array([[0.0], [1.0]])) < 1e-4
    True
    """
    if sol.adjoint is None:
        raise GradientError('gradient_error: solve with adjoint="discrete" (or "auto")')
    if not factor > 1:
        raise InputError(f"gradient_error: factor must be more than 1, not {factor!r}")
    coarse = sol.vjp(dy)
    inputs = sol._in
    base = _given(inputs)
    options = dict(inputs.options)
    if isinstance(options["controller"], FixedStep):
        fixed, options["controller"] = options["controller"], None
        options["dt"], options["steps"] = fixed.dt, fixed.steps
    finer = factor ** (1 / 3)
    if options["dt"] is not None:
        options["dt"] = options["dt"] / finer
    elif options["steps"] is not None:
        options["steps"] = int(np.ceil(options["steps"] * finer))
    options["max_steps"] = int(options["max_steps"] * max(10.0, finer))
    options["rtol"] = max(options["rtol"] / factor, 1e-13)
    options["atol"] = tree.map(lambda a: np.asarray(a) / factor, options["atol"])
    tight = solve(
        inputs.fun,
        tree.map(lambda x: np.asarray(x, np.float64), base["y0"]),
        inputs.when.given,
        inputs.params,
        base["args"],
        method=inputs.method,
        adjoint="auto",
        on_failure="mark",
        threads=inputs.threads,
        **options,
    )
    solved = np.isin(sol._run.status, (Status.OK, Status.EVENT))
    lost = np.flatnonzero(solved & ~np.isin(tight._run.status, (Status.OK, Status.EVENT)))
    if lost.size:
        b = int(lost[0])
        why = tight.message(b if inputs.state.batched else None)
        raise GradientError(
            f"gradient_error: sample {b} fails at the tighter tolerances: {why}. Take a smaller "
            "factor",
            sample=b,
        )
    rows = sol._rows(dy).astype(np.float64)
    owner = np.repeat(np.arange(len(solved)), np.diff(inputs.when.out_off))
    rows[~solved[owner]] = 0
    fine = tight.vjp(sol._split(rows))
    top = bottom = 0.0
    for name in ("y0", "params", "args"):
        if getattr(fine, name) is None:
            continue
        for x, y in zip(_leaves(getattr(coarse, name)), _leaves(getattr(fine, name)), strict=True):
            top += float(np.sum((x - y) ** 2))
            bottom += float(np.sum(y**2))
    return float(np.sqrt(top / bottom)) if bottom else float(np.sqrt(top))

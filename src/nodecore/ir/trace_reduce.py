"""NumPy functions that reduce: sum, prod, max, mean, var, norm, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import trace_ufuncs as uf
from .blame import trace_error
from .trace_shapes import by_name, function, lift_all
from .tracer import FUNCTIONS, UFUNCS, Tracer, positions


def axes_of(x: Tracer, axis: Any) -> tuple[int, ...]:
    """The axes as nonnegative numbers; None stands for all."""
    if axis is None:
        return tuple(range(x.ndim))
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    out = []
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            raise np.exceptions.AxisError(a, x.ndim)
        out.append(a % x.ndim)
    return tuple(out)


def to_last(x: Tracer, axes: tuple[int, ...]) -> tuple[Tracer, tuple[int, ...]]:
    """``x`` as a matrix whose columns run over ``axes``, and the shape of its rows."""
    rest = [i for i in range(x.ndim) if i not in axes]
    idx = positions(x.shape).transpose(*rest, *axes)
    shape = tuple(x.shape[i] for i in rest)
    return x.pick(idx.reshape(int(np.prod(shape)), -1)), shape


def _finish(
    node: Any, x: Tracer, shape: tuple[int, ...], axes: Any, keep: bool, kind: str
) -> Tracer:
    if keep:
        shape = tuple(1 if i in axes else k for i, k in enumerate(x.shape))
    return Tracer(x.graph, node, shape, kind)


def _where(x: Tracer, where: Any, neutral: float) -> Tracer:
    if where is True or where is np._NoValue:
        return x
    x, where = lift_all(x, where)
    return uf.select(where, x, uf.const(x, neutral))


@function(np.sum)
def sum(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: Any = False,
    initial: Any = 0.0, where: Any = True,
) -> Tracer:  # fmt: skip
    (x,) = lift_all(a)
    x = _where(x, where, 0.0)
    axes = axes_of(x, axis)
    rest = tuple(1 if i in axes else k for i, k in enumerate(x.shape))
    target = np.broadcast_to(positions(rest), x.shape)
    n = int(np.prod(rest))
    node = x.graph.sum(x.node) if n == 1 else x.graph.segsum(x.node, target, n)
    shape = tuple(k for i, k in enumerate(x.shape) if i not in axes)
    kind = "f" if x.kind == "f" else "i"
    result = _finish(node, x, shape, axes, keepdims is True, kind)
    if initial is np._NoValue or (type(initial) in (int, float) and initial == 0):
        return result
    return uf.add(*lift_all(result, initial))


def _tree(op: str, neutral: float) -> Callable[..., Tracer]:
    """A reduction by halves: n - 1 ops on rows, in about log2(n) instructions."""

    def meaning(
        a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: Any = False,
        initial: Any = np._NoValue, where: Any = True,
    ) -> Tracer:  # fmt: skip
        (x,) = lift_all(a)
        x = _where(x, where, neutral)
        axes = axes_of(x, axis)
        result = _finish(*_halve(op, x, axes), axes, keepdims is True, x.kind)
        return result if initial is np._NoValue else UFUNCS[op](*lift_all(result, initial))

    return meaning


def _halve(op: str, x: Tracer, axes: tuple[int, ...]) -> tuple[Any, Tracer, tuple[int, ...]]:
    y, shape = to_last(x, axes)
    if y.shape[1] == 0:
        if op != "multiply":
            raise ValueError(f"{op} of no elements")
        return uf.const(x, 1.0).broadcast(shape).node, x, shape
    while y.shape[1] > 1:
        half = (y.shape[1] + 1) // 2
        low, high = y[:, :half], y[:, half:]
        if high.shape[1] < half:
            done = UFUNCS[op](low[:, :-1], high)
            y = FUNCTIONS[np.concatenate]([done, low[:, -1:]], axis=1)
        else:
            y = UFUNCS[op](low, high)
    return y.node, x, shape


prod = FUNCTIONS[np.prod] = _tree("multiply", 1.0)


def _extremum(op: str, neutral: float) -> Callable[..., Tracer]:
    tree = _tree(op, neutral)

    def meaning(
        a: Any, axis: Any = None, out: None = None, keepdims: Any = False,
        initial: Any = np._NoValue, where: Any = True,
    ) -> Tracer:  # fmt: skip
        return tree(a, axis, None, None, keepdims, initial, where)

    return meaning


max = _extremum("maximum", -np.inf)
min = _extremum("minimum", np.inf)
for _f in by_name("max", "amax"):
    FUNCTIONS[_f] = max
for _f in by_name("min", "amin"):
    FUNCTIONS[_f] = min


@function(np.ptp)
def ptp(a: Any, axis: Any = None, out: None = None, keepdims: Any = False) -> Tracer:
    return uf.subtract(max(a, axis, None, keepdims), min(a, axis, None, keepdims))


@function(np.any)
def any(
    a: Any, axis: Any = None, out: None = None, keepdims: Any = False, *, where: Any = True
) -> Tracer:
    (x,) = lift_all(a)
    count = sum(uf.truth(_where(x, where, 0.0)), axis, keepdims=keepdims)
    return uf.not_equal(count, uf.const(x, 0.0))


@function(np.all)
def all(
    a: Any, axis: Any = None, out: None = None, keepdims: Any = False, *, where: Any = True
) -> Tracer:
    (x,) = lift_all(a)
    wrong = sum(uf.logical_not(_where(x, where, 1.0)), axis, keepdims=keepdims)
    return uf.equal(wrong, uf.const(x, 0.0))


@function(np.count_nonzero)
def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Tracer:
    (x,) = lift_all(a)
    return sum(uf.truth(x), axis, keepdims=keepdims)


def _count(x: Tracer, axis: Any) -> int:
    return int(np.prod([x.shape[i] for i in axes_of(x, axis)]))


@function(np.mean)
def mean(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: Any = False, *,
    where: Any = True,
) -> Tracer:  # fmt: skip
    (x,) = lift_all(a)
    total = sum(x, axis, keepdims=keepdims, where=where)
    if where is True or where is np._NoValue:
        return uf.multiply(total, uf.const(x, 1.0 / _count(x, axis)))
    x, where = lift_all(x, where)
    return uf.divide(total, sum(where.broadcast(x.shape), axis, keepdims=keepdims))


@function(np.average)
def average(
    a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    if weights is None:
        return mean(a, axis, keepdims=keepdims)
    x, w = lift_all(a, weights)
    if w.shape != x.shape and axis is not None:
        w = w.reshape([k if i in axes_of(x, axis) else 1 for i, k in enumerate(x.shape)])
    w = w.broadcast(x.shape)
    scale = sum(w, axis, keepdims=keepdims)
    result = uf.divide(sum(uf.multiply(x, w), axis, keepdims=keepdims), scale)
    return (result, scale) if returned else result


@function(np.var)
def var(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, ddof: float = 0,
    keepdims: Any = False, **kwargs: Any,
) -> Tracer:  # fmt: skip
    (x,) = lift_all(a)
    squares = uf.square(uf.subtract(x, mean(x, axis, keepdims=True)))
    total = sum(squares, axis, keepdims=keepdims)
    ddof = kwargs.get("correction", ddof)
    return uf.multiply(total, uf.const(x, 1.0 / (_count(x, axis) - ddof)))


@function(np.std)
def std(*args: Any, **kwargs: Any) -> Tracer:
    return uf.root(var(*args, **kwargs))


@function(np.nansum)
def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: Any = False,
    initial: Any = 0.0, where: Any = True,
) -> Tracer:  # fmt: skip
    (x,) = lift_all(a)
    clean = uf.select(uf.isnan(x), uf.const(x, 0.0), x)
    return sum(clean, axis, None, None, keepdims, initial, where)


@function(np.nanmean)
def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: Any = False, *,
    where: Any = True,
) -> Tracer:  # fmt: skip
    (x,) = lift_all(a)
    here = uf.logical_not(uf.isnan(x))
    if where is not True and where is not np._NoValue:
        here = uf.logical_and(*lift_all(here, where))
    return mean(x, axis, keepdims=keepdims, where=here)


@function(np.nanmax)
def nanmax(a: Any, axis: Any = None, out: None = None, keepdims: Any = False) -> Tracer:
    (x,) = lift_all(a)
    return max(uf.select(uf.isnan(x), uf.const(x, -np.inf), x), axis, keepdims=keepdims)


@function(np.nanmin)
def nanmin(a: Any, axis: Any = None, out: None = None, keepdims: Any = False) -> Tracer:
    (x,) = lift_all(a)
    return min(uf.select(uf.isnan(x), uf.const(x, np.inf), x), axis, keepdims=keepdims)


@function(np.nan_to_num)
def nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Tracer:
    (x,) = lift_all(x)
    big = float(np.finfo(float).max)
    high, low = big if posinf is None else posinf, -big if neginf is None else neginf
    inf = uf.const(x, np.inf)
    out = uf.select(uf.isnan(x), *lift_all(nan, x))
    out = uf.select(uf.equal(out, inf), *lift_all(high, out))
    return uf.select(uf.equal(out, uf.negative(inf)), *lift_all(low, out))


@function(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tracer:
    (x,) = lift_all(x)
    if ord is None and axis is None:
        axis = tuple(range(x.ndim))
    elif axis is None:
        axis = tuple(range(x.ndim))
    n_axes = len(axes_of(x, axis))
    if ord in (None, "fro") or (ord == 2 and n_axes == 1):
        return uf.root(sum(uf.square(x), axis, keepdims=keepdims))
    if n_axes == 1 and ord in (np.inf, -np.inf):
        return (max if ord > 0 else min)(uf.absolute(x), axis, keepdims=keepdims)
    if n_axes == 1 and ord == 0:
        return sum(uf.truth(x), axis, keepdims=keepdims)
    if n_axes == 1 and isinstance(ord, int | float):
        powers = uf.power(uf.absolute(x), uf.const(x, ord))
        return uf.power(sum(powers, axis, keepdims=keepdims), uf.const(x, 1.0 / ord))
    raise trace_error(
        f"np.linalg.norm with ord={ord!r} of a matrix", "Use the Frobenius norm, ord=None or 'fro'."
    )


if hasattr(np.linalg, "vector_norm"):

    @function(np.linalg.vector_norm)
    def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tracer:
        (x,) = lift_all(x)
        return norm(x.ravel() if axis is None and not keepdims else x, ord, axis, keepdims)


def _reduce(f: Callable[..., Any]) -> Callable[..., Any]:
    """``ufunc.reduce``: as the function, along axis 0 unless told otherwise."""

    def meaning(
        a: Tracer, axis: Any = 0, dtype: Any = None, keepdims: Any = False, **kw: Any
    ) -> Any:
        return f(a, axis, keepdims=keepdims, **kw)

    return meaning


_REDUCTIONS: dict[str, Callable[..., Tracer]] = {
    "add": sum, "multiply": prod, "maximum": max, "minimum": min, "logical_and": all,
    "logical_or": any,
}  # fmt: skip
for _name, _f in _REDUCTIONS.items():
    UFUNCS[f"{_name}.reduce"] = _reduce(_f)


def _fold(name: str) -> Callable[..., Tracer]:
    def meaning(a: Tracer, axis: Any = 0, dtype: Any = None, keepdims: Any = False) -> Tracer:
        axes = axes_of(a, axis)
        return _finish(*_halve(name, a, axes), axes, keepdims is True, "f")

    return meaning


for _name in ("logaddexp", "hypot"):
    UFUNCS[f"{_name}.reduce"] = _fold(_name)

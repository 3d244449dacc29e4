"""NumPy functions along an axis: cumsum, diff, trapezoid, gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import trace_ufuncs as uf
from .blame import trace_error
from .trace_reduce import axes_of
from .trace_reduce import sum as sum_
from .trace_shapes import by_name, function, lift_all
from .tracer import FUNCTIONS, UFUNCS, Tracer, lift, positions


def _scan(op: str) -> Callable[..., Tracer]:
    """Prefix sums or products by doubling: log2(n) instructions of n rows."""

    def meaning(a: Any, axis: Any = None, dtype: Any = None, out: None = None) -> Tracer:
        (x,) = lift_all(a)
        if axis is None:
            x, axis = x.ravel(), 0
        axis %= x.ndim
        idx = np.moveaxis(positions(x.shape), axis, 0)
        n, shift = x.shape[axis], 1
        while shift < n:
            before = np.concatenate([np.full_like(idx[:shift], -1), idx[:-shift]])
            before = np.moveaxis(before, 0, axis)
            earlier = x.pick(before)
            if op == "multiply":
                earlier = uf.select(
                    Tracer(x.graph, x.graph.const(before < 0), x.shape), uf.const(x, 1.0), earlier
                )
            x = UFUNCS[op](x, earlier)
            shift *= 2
        return x.copy()

    return meaning


FUNCTIONS[np.cumsum], FUNCTIONS[np.cumprod] = _scan("add"), _scan("multiply")


@function(np.diff)
def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tracer:
    (x,) = lift_all(a)
    axis %= x.ndim
    ends = [v for v in (prepend, x, append) if v is not None and v is not np._NoValue]
    if len(ends) > 1:
        parts = []
        for end in lift_all(*ends):
            if end.ndim == 0:
                end = end.broadcast(tuple(1 if i == axis else k for i, k in enumerate(x.shape)))
            parts.append(end)
        x = FUNCTIONS[np.concatenate](parts, axis=axis)
    for _ in range(n):
        idx = np.moveaxis(positions(x.shape), axis, 0)
        up, low = (x.pick(np.moveaxis(i, 0, axis)) for i in (idx[1:], idx[:-1]))
        x = UFUNCS["not_equal" if x.kind == "b" else "subtract"](up, low)
    return x


def trapezoid(y: Any, x: Any = None, dx: float = 1.0, axis: int = -1) -> Tracer:
    """The trapezoidal rule along an axis."""
    if x is None:
        (y,) = lift_all(y)
        width: Any = uf.const(y, dx)
    else:
        y, x = lift_all(y, x)
        width = diff(x, axis=axis if x.ndim > 1 else -1)
        if x.ndim == 1:
            width = width.reshape([-1 if i == axis % y.ndim else 1 for i in range(y.ndim)])
    idx = np.moveaxis(positions(y.shape), axis, 0)
    up, low = (y.pick(np.moveaxis(i, 0, axis)) for i in (idx[1:], idx[:-1]))
    return sum_(uf.multiply(uf.multiply(width, uf.add(up, low)), uf.const(y, 0.5)), axis)


for _f in by_name("trapezoid", "trapz"):
    FUNCTIONS[_f] = trapezoid


@function(np.gradient)
def gradient(f: Any, *spacing: Any, axis: Any = None, edge_order: int = 1) -> Any:
    (x,) = lift_all(f)
    axes = axes_of(x, axis)
    steps = list(spacing) if len(spacing) > 1 else [spacing[0] if spacing else 1.0] * len(axes)
    if edge_order != 1 or len(steps) != len(axes) or not np.all([np.ndim(s) == 0 for s in steps]):
        raise trace_error(
            "np.gradient with a spacing that is not a number, or edge_order=2",
            "Write the differences out with slices.",
        )
    out = []
    for k, h in zip(axes, steps, strict=True):
        idx = np.moveaxis(positions(x.shape), k, 0)
        up = np.moveaxis(np.concatenate([idx[1:], idx[-1:]]), 0, k)
        low = np.moveaxis(np.concatenate([idx[:1], idx[:-1]]), 0, k)
        widths = np.full(x.shape[k], 2.0)
        widths[[0, -1]] = 1.0
        width = lift(x.graph, widths.reshape([-1 if i == k else 1 for i in range(x.ndim)]))
        span = uf.multiply(width, lift(x.graph, h))
        out.append(uf.divide(uf.subtract(x.pick(up), x.pick(low)), span))
    return out[0] if len(out) == 1 else tuple(out)


def _accumulate(f: Callable[..., Any]) -> Callable[..., Any]:
    def meaning(a: Tracer, axis: Any = 0, dtype: Any = None) -> Any:
        return f(a, axis)

    return meaning


UFUNCS["add.accumulate"] = _accumulate(FUNCTIONS[np.cumsum])
UFUNCS["multiply.accumulate"] = _accumulate(FUNCTIONS[np.cumprod])

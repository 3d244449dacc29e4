"""NumPy functions that choose or evaluate: where, select, clip, interp, polyval, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import trace_ufuncs as uf
from .blame import trace_error
from .trace_products import matmul
from .trace_shapes import by_name, find_graph, function, lift_all, lift_one
from .tracer import FUNCTIONS, Tracer, ew, lift


@function(np.where)
def where(condition: Any, *xs: Any) -> Tracer:
    if len(xs) != 2:
        raise trace_error(
            "np.where(mask) with a traced mask: the number of results is not known",
            "Give both values: np.where(mask, a, b).",
        )
    return uf.select(*lift_all(condition, *xs))


@function(np.select)
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Tracer:
    g = find_graph(condlist, choicelist, default)
    out = lift(g, default)
    for c, x in reversed(list(zip(condlist, choicelist, strict=True))):
        out = uf.select(lift(g, c), lift(g, x), out)
    return out


@function(np.piecewise)
def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Tracer:
    g = find_graph(x, condlist)
    x = lift(g, x)
    conds = list(condlist) if isinstance(condlist, list | tuple) else [condlist]
    branches = [lift(g, f(x, *args, **kw) if callable(f) else f) for f in funclist]
    out = branches.pop() if len(branches) == len(conds) + 1 else lift(g, 0.0)
    for c, value in zip(conds, branches, strict=True):  # the last condition that holds counts
        out = uf.select(lift(g, c), value, out)
    return out.broadcast(x.shape)


@function(np.clip)
def clip(
    a: Any, a_min: Any = None, a_max: Any = None, out: None = None, *, min: Any = None,
    max: Any = None, **kwargs: Any,
) -> Tracer:  # fmt: skip
    low = min if a_min is None or a_min is np._NoValue else a_min
    high = max if a_max is None or a_max is np._NoValue else a_max
    g = find_graph(a, low, high)
    x = lift(g, a)
    if low is not None and low is not np._NoValue:
        x = uf.maximum(x, lift(g, low))
    if high is not None and high is not np._NoValue:
        x = uf.minimum(x, lift(g, high))
    return x


@function(np.round, np.around)
def round(a: Any, decimals: int = 0, out: None = None) -> Tracer:
    (x,) = lift_all(a)
    if decimals == 0:
        return uf.rint(x)
    scale = uf.const(x, 10.0**decimals)
    return uf.divide(uf.rint(uf.multiply(x, scale)), scale)


@function(np.sinc)
def sinc(x: Any) -> Tracer:
    (x,) = lift_all(x)
    z = uf.multiply(x, uf.const(x, np.pi))
    none = uf.equal(z, uf.const(x, 0.0))
    one = uf.const(x, 1.0)
    safe = uf.select(none, one, z)
    # near 0 the series keeps derivatives right: sin(z)/z = 1 - z^2/6 + O(z^4)
    series = uf.subtract(one, uf.multiply(uf.square(z), uf.const(x, 1 / 6)))
    return uf.select(none, series, uf.divide(uf.sin(safe), safe))


@function(np.polyval)
def polyval(p: Any, x: Any) -> Tracer:
    p, x = lift_all(p, x)
    out = Tracer(x.graph, x.graph.zeros(x.size), x.shape)
    for i in range(p.shape[0]):
        out = uf.add(uf.multiply(out, x), p[i])
    return out


def _windows(x: Tracer, n: int, mode: str) -> Tracer:
    """Row i holds the n elements that end at position i of the result; zero outside of ``x``."""
    m = x.size
    first, count = {
        "full": (0, m + n - 1),
        "same": ((min(m, n) - 1) // 2, max(m, n)),
        "valid": (min(m, n) - 1, max(m, n) - min(m, n) + 1),
    }[mode]
    idx = np.arange(first, first + count)[:, None] - np.arange(n)[None, :]
    return x.pick(np.where((idx < 0) | (idx >= m), -1, idx))


@function(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Tracer:
    a, v = lift_all(a, v)
    if v.size > a.size:
        a, v = v, a
    return matmul(_windows(a, v.size, mode), v)


@function(np.interp)
def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Tracer:
    """Linear interpolation: the segment is a one-hot row, the rest a product with the table.

    ``hot[i]`` is 1 where ``xp[i-1] <= x < xp[i]``; the table has a row (value, slope, knot) for
    each segment, the two outer ones flat.
    """
    g = find_graph(x, xp, fp)
    if period is not None:
        if not isinstance(xp, np.ndarray | list | tuple):
            raise trace_error("np.interp with period= and traced xp", "xp must be a plain array.")
        knots = np.asarray(xp, float) % period
        order = np.argsort(knots)
        around = np.concatenate([order[-1:], order, order[:1]])
        xp = np.concatenate([knots[order[-1:]] - period, knots[order], knots[order[:1]] + period])
        fp = lift(g, fp)[around]
        x = uf.remainder(lift(g, x), lift(g, period))
        left = right = None
    x, xp, fp = lift(g, x), lift(g, xp), lift(g, fp)
    n, m = xp.size, x.size
    if xp.ndim != 1 or xp.shape != fp.shape or n == 0:
        raise ValueError(f"interp: xp and fp need one shape (n,), not {xp.shape} and {fp.shape}")
    column = x.reshape(m, 1)
    above = uf.less_equal(xp.reshape(1, n), column)
    if right is not None:  # at the last knot itself the value is fp[-1]
        inside = above[:, : n - 1]
        last = uf.less(xp[n - 1 :].reshape(1, 1), column)
        above = FUNCTIONS[np.concatenate]([inside, last], axis=1)
    ones = np.ones((m, 1))
    above = Tracer(g, above.node, (m, n))
    upper = FUNCTIONS[np.concatenate]([lift(g, ones), above], axis=1)
    lower = FUNCTIONS[np.concatenate]([above, lift(g, 0 * ones)], axis=1)
    hot = ew("sub", upper, lower)
    values = FUNCTIONS[np.concatenate](
        [fp[:1] if left is None else lift(g, left).reshape(1), fp[: n - 1],
         fp[n - 1 :] if right is None else lift(g, right).reshape(1)]
    )  # fmt: skip
    slopes = uf.divide(uf.subtract(fp[1:], fp[:-1]), uf.subtract(xp[1:], xp[:-1]))
    slopes = FUNCTIONS[np.concatenate]([np.zeros(1), slopes, lift(g, np.zeros(1))])
    starts = FUNCTIONS[np.concatenate]([xp[:1], xp])
    table = FUNCTIONS[np.stack]([values, slopes, starts], axis=1)
    found = matmul(hot, table)
    value, slope, start = (found[:, i].reshape(x.shape) for i in range(3))
    return uf.add(value, uf.multiply(slope, uf.subtract(x, start)))


@function(np.real, np.real_if_close)
def real(x: Any, *args: Any) -> Tracer:
    return lift_one(x)


@function(np.imag)
def imag(x: Any) -> Tracer:
    return lift_one(x).imag


@function(np.isclose)
def isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Tracer:
    a, b, rtol, atol = lift_all(a, b, rtol, atol)
    limit = uf.add(atol, uf.multiply(rtol, uf.absolute(b)))
    near = uf.less_equal(uf.absolute(uf.subtract(a, b)), limit)
    return uf.logical_or(near, uf.equal(a, b))


# ---- small matrices -----------------------------------------------------------------------------


def _minor(a: Tracer, i: int, j: int) -> Tracer:
    n = a.shape[-1]
    rows = [k for k in range(n) if k != i]
    cols = [k for k in range(n) if k != j]
    return det(a[np.ix_(rows, cols)])


@function(np.linalg.det)
def det(matrix: Any) -> Tracer:
    a = lift_one(matrix)
    n = _square("det", a)
    if n == 0:
        return uf.const(a, 1.0)
    if n == 1:
        return a[0, 0]
    terms = [uf.multiply(a[0, j], _minor(a, 0, j)) for j in range(n)]
    out = terms[0]
    for j in range(1, n):
        out = uf.subtract(out, terms[j]) if j % 2 else uf.add(out, terms[j])
    return out


def _square(name: str, a: Tracer) -> int:
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise trace_error(f"np.linalg.{name} of an array of shape {a.shape}; it needs one matrix")
    if a.shape[0] > 3:
        raise trace_error(
            f"np.linalg.{name} of a traced {a.shape[0]} x {a.shape[0]} matrix (at most 3 x 3)",
            "Compute it outside of the field where it is constant, or eliminate by hand.",
        )
    return a.shape[0]


@function(np.linalg.inv)
def inv(a: Any) -> Tracer:
    (a,) = lift_all(a)
    n = _square("inv", a)
    one = uf.const(a, 1.0)
    signs = [[1.0 if (i + j) % 2 == 0 else -1.0 for j in range(n)] for i in range(n)]
    cofactors = [
        [uf.multiply(_minor(a, j, i) if n > 1 else one, uf.const(a, signs[i][j])) for j in range(n)]
        for i in range(n)
    ]
    return uf.divide(lift(a.graph, cofactors), det(a))


@function(np.linalg.solve)
def solve(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    if not a.node.rate:
        # a constant matrix is inverted once, by NumPy
        value = a.node.data if a.node.op == "const" else np.full(a.size, a.node.args[0].data[0])
        return matmul(lift(a.graph, np.linalg.inv(value.reshape(a.shape))), b)
    return matmul(inv(a), b)


@function(np.fix)
def fix(x: Any) -> Tracer:
    return uf.trunc(lift_one(x))


for _f in by_name("isreal", "isrealobj"):
    FUNCTIONS[_f] = lambda x: True
for _f in by_name("iscomplex", "iscomplexobj"):
    FUNCTIONS[_f] = lambda x: False

"""Products: matmul, dot, einsum and what is made of them.

A product whose one factor depends on constants and params alone is a ``contract`` with that factor
as the matrix; the other factor's rows are O x K x I. So states times weights, weights times states,
and batches of either cost one instruction, and no transposed copy of a state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import trace_ufuncs as uf
from .blame import trace_error
from .graph import PARAMS
from .trace_reduce import axes_of
from .trace_reduce import sum as sum_
from .trace_shapes import function, join, lift_all
from .trace_ufuncs import ufunc
from .tracer import FUNCTIONS, Tracer, positions, size_of


def _contract(a: Tracer, b: Tracer, N: int, K: int, M: int, shape: tuple[int, ...]) -> Tracer:
    """(N, K) times (K, M)."""
    g = a.graph
    if K == 0 or N == 0 or M == 0:
        return Tracer(g, g.const(np.zeros(N * M)), shape)
    if b.node.rate > PARAMS >= a.node.rate:
        turned = a.node if N == 1 or K == 1 else g.gather(a.node, positions((N, K)).T)
        return Tracer(g, g.contract(b.node, turned, (1, K, N, M)), shape)
    return Tracer(g, g.contract(a.node, b.node, (N, K, M, 1)), shape)


@ufunc("matmul")
def matmul(a: Tracer, b: Tracer, **kwargs: Any) -> Tracer:
    if kwargs:
        raise trace_error(f"np.matmul with {', '.join(kwargs)}")
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul: operands must have at least one dimension")
    K = a.shape[-1]
    if b.shape[-2 if b.ndim > 1 else 0] != K:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not match")
    if b.ndim <= 2:
        lead = a.shape[:-1]
        M = b.shape[1] if b.ndim == 2 else 1
        shape = lead + b.shape[1:]
        return _contract(a, b, size_of(lead), K, M, shape)
    if a.ndim == 1:
        return einsum("k,...km->...m", a, b)
    return einsum("...nk,...km->...nm", a, b)


FUNCTIONS[np.matmul] = matmul


@ufunc("vecdot")
def vecdot(a: Tracer, b: Tracer) -> Tracer:
    return einsum("...k,...k->...", a, b)


@ufunc("matvec")
def matvec(a: Tracer, b: Tracer) -> Tracer:
    return einsum("...nk,...k->...n", a, b)


@ufunc("vecmat")
def vecmat(a: Tracer, b: Tracer) -> Tracer:
    return einsum("...k,...km->...m", a, b)


@function(np.dot)
def dot(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return uf.multiply(a, b)
    return matmul(a, b) if b.ndim <= 2 else tensordot(a, b, (a.ndim - 1, b.ndim - 2))


@function(np.vdot)
def vdot(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    return matmul(a.ravel(), b.ravel())


@function(np.inner)
def inner(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return uf.multiply(a, b)
    return tensordot(a, b, (a.ndim - 1, b.ndim - 1))


@function(np.outer)
def outer(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    return uf.multiply(a.reshape(-1, 1), b.reshape(1, -1))


@function(np.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Tracer:
    a, b = lift_all(a, b)
    if isinstance(axes, int):
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left, right = axes_of(a, axes[0]), axes_of(b, axes[1])
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ValueError(f"tensordot: shapes {a.shape} and {b.shape} do not match along {axes}")
    free_a = [i for i in range(a.ndim) if i not in left]
    free_b = [i for i in range(b.ndim) if i not in right]
    K = int(np.prod([a.shape[i] for i in left]))
    shape = tuple([a.shape[i] for i in free_a] + [b.shape[i] for i in free_b])
    N = int(np.prod([a.shape[i] for i in free_a]))
    M = int(np.prod([b.shape[i] for i in free_b]))
    a = a.transpose(*free_a, *left)
    b = b.transpose(*right, *free_b)
    return _contract(a, b, N, K, M, shape)


@function(np.kron)
def kron(a: Any, b: Any) -> Tracer:
    a, b = lift_all(a, b)
    n = max(a.ndim, b.ndim)
    sa, sb = (1,) * (n - a.ndim) + a.shape, (1,) * (n - b.ndim) + b.shape
    left = a.reshape([k for s in sa for k in (s, 1)])
    right = b.reshape([k for s in sb for k in (1, s)])
    return uf.multiply(left, right).reshape([p * q for p, q in zip(sa, sb, strict=True)])


@function(np.cross)
def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: Any = None
) -> Tracer:
    a, b = lift_all(a, b)
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = (FUNCTIONS[np.moveaxis](x, k, -1) for x, k in ((a, axisa), (b, axisb)))
    if a.shape[-1] == b.shape[-1] == 2:
        return uf.subtract(a[..., 0] * b[..., 1], a[..., 1] * b[..., 0])
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ValueError("cross: vectors must have 3 components")
    turn, back = [1, 2, 0], [2, 0, 1]
    c = uf.subtract(
        uf.multiply(a[..., turn], b[..., back]), uf.multiply(a[..., back], b[..., turn])
    )
    return FUNCTIONS[np.moveaxis](c, -1, axisc)  # type: ignore[no-any-return]


@function(np.trace)
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Tracer:
    (a,) = lift_all(a)
    return sum_(a.diagonal(offset, axis1, axis2), -1)


@function(np.einsum)
def einsum(subscripts: Any, *operands: Any, **kwargs: Any) -> Tracer:
    """Pairwise from left to right; each pair is one contraction, or one for each batch index."""
    if not isinstance(subscripts, str):
        raise trace_error(
            "np.einsum without a subscript string", "Write np.einsum('ij,j->i', A, x)."
        )
    xs = lift_all(*operands)
    terms, result = _subscripts(subscripts, xs)
    for i, x in enumerate(xs):
        later = set(result).union(*terms[:i], *terms[i + 1 :])
        terms[i], xs[i] = _diagonal(terms[i], x, later)
    term, x = terms[0], xs[0]
    for i in range(1, len(xs)):
        later = set(result).union(*terms[i + 1 :])
        term, x = _pair(term, x, terms[i], xs[i], later)
    term, x = _diagonal(term, x, set(result))
    return x.transpose(*[term.index(c) for c in result]) if result else x.reshape(())


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _subscripts(subscripts: str, xs: list[Tracer]) -> tuple[list[str], str]:
    text = subscripts.replace(" ", "")
    left, arrow, result = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise ValueError(f"einsum: {len(terms)} subscripts for {len(xs)} operands")
    free = [c for c in _LETTERS if c not in text]
    widest = 0
    for i, (term, x) in enumerate(zip(terms, xs, strict=True)):
        if "..." in term:
            count = x.ndim - len(term) + 3
            widest = max(widest, count)
            dots = "".join(reversed(free[:count]))
            terms[i] = term.replace("...", dots)
        if len(terms[i]) != x.ndim:
            raise ValueError(f"einsum: subscript {term!r} for an operand of shape {x.shape}")
    dots = "".join(reversed(free[:widest]))
    if not arrow:
        letters = "".join(terms)
        result = dots + "".join(
            c for c in sorted(set(letters)) if letters.count(c) == 1 and c not in dots
        )
    else:
        result = result.replace("...", dots)
    sizes: dict[str, int] = {}
    for term, x in zip(terms, xs, strict=True):
        for c, k in zip(term, x.shape, strict=True):
            if sizes.get(c, 1) != k and k != 1 and sizes.get(c, 1) != 1:
                raise ValueError(f"einsum: sizes {sizes[c]} and {k} of subscript {c!r} differ")
            sizes[c] = max(k, sizes.get(c, 1))
    for i, (term, x) in enumerate(zip(terms, xs, strict=True)):  # sizes of 1 broadcast
        xs[i] = x.broadcast(tuple(sizes[c] for c in term))
    return terms, result


def _diagonal(term: str, x: Tracer, later: set[str]) -> tuple[str, Tracer]:
    """Take diagonals of repeated subscripts, and sum over those that nobody asks for."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            i, j = term.index(c), term.rindex(c)
            x = x.diagonal(0, i, j)
            term = "".join(d for k, d in enumerate(term) if k not in (i, j)) + c
    gone = tuple(i for i, c in enumerate(term) if c not in later)
    if gone:
        x = sum_(x, gone)
        term = "".join(c for c in term if c in later)
    return term, x


def _pair(ta: str, a: Tracer, tb: str, b: Tracer, later: set[str]) -> tuple[str, Tracer]:
    batch = [c for c in ta if c in tb and c in later]
    inner_ = [c for c in ta if c in tb and c not in later]
    free_a = [c for c in ta if c not in tb]
    free_b = [c for c in tb if c not in ta]
    size = {**dict(zip(tb, b.shape, strict=True)), **dict(zip(ta, a.shape, strict=True))}

    def count(letters: list[str]) -> int:
        return int(np.prod([size[c] for c in letters]))

    B, K, N, M = count(batch), count(inner_), count(free_a), count(free_b)
    a = a.transpose(*[ta.index(c) for c in batch + free_a + inner_])
    b = b.transpose(*[tb.index(c) for c in batch + inner_ + free_b])
    shape = tuple(size[c] for c in batch + free_a + free_b)
    term = "".join(batch + free_a + free_b)
    if B == 1:
        return term, _contract(a, b, N, K, M, shape)
    a, b = a.reshape(B, N, K), b.reshape(B, K, M)
    if K == 1 or N * M <= 4 or B > 64:  # elementwise is cheaper, or shorter
        wide = uf.multiply(a.reshape(B, N, K, 1), b.reshape(B, 1, K, M))
        return term, sum_(wide, 2).reshape(shape)
    parts = [_contract(a[i], b[i], N, K, M, (N, M)) for i in range(B)]
    return term, join(a.graph, np.concatenate, parts).reshape(shape)

"""The trace of a function's Jacobian as nodes: what ``nc.divergence`` computes.

In general it takes one tangent for each unit vector, of which one row is needed. A chain of two
products with uniform matrices costs no more than one of them, however many rows there are:

    v = W3^T z2,  z2' = D2 W2^T D1 U^T  (D1, D2 diagonal, U what comes before)
    tr = sum_r (W3^T D2 W2^T D1 U^T)_rr = d1^T M d2,  M = W2 * (U^T W3^T)^T elementwise

and M is a function of params alone. So the Jacobians of inner nodes are kept as such factors for as
long as they have this form (`_Factors`); where one has not, the tangents serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import autodiff
from .graph import SAMPLE, Graph, IndexArray, Node, reachable
from .ops import OPS


def trace_of_jacobian(g: Graph, outs: Sequence[Node], variables: Sequence[Node]) -> Node:
    """The sum over k of the trace of d outs[k] / d variables[k]."""
    primal = set(reachable(outs))
    total = g.const(0.0)
    for out, var in zip(outs, variables, strict=True):
        if _is_diagonal(out, variables):
            tangents = [g.zeros(v.n) for v in variables]
            tangents[variables.index(var)] = g.gather(g.const(1.0), np.zeros(var.n, np.int32))
            moved = autodiff.jvp(g, [out], variables, tangents)[0]
            part = None if moved is None else g.sum(moved)
        else:
            try:
                part = _Chain(g, out, var).trace(out, 0)
            except _NoFactorsError:
                part = _by_tangents(g, out, var, primal)
        if part is not None:
            total = g.ew("add", total, part)
    return total


def _is_diagonal(out: Node, wrt: Sequence[Node]) -> bool:
    """Is the way from ``wrt`` to ``out`` elementwise?"""
    active = set(wrt)
    for node in reachable([out]):
        if node not in active and any(a in active for a in node.args):
            if node.op not in OPS or node.n != out.n:
                return False
            if any(a in active and a.n != node.n for a in node.args):
                return False
            active.add(node)
    return out in active


# ---- By tangents --------------------------------------------------------------------------------


def _by_tangents(g: Graph, out: Node, var: Node, primal: set[Node]) -> Node | None:
    """One tangent for each row of ``var``."""
    total: Node | None = None
    for i in range(var.n):
        unit = np.zeros(var.n)
        unit[i] = 1.0
        moved = autodiff.jvp(g, [out], [var], [g.const(unit)])[0]
        if moved is not None:
            row = _row(g, moved, i, primal)
            total = row if total is None else g.ew("add", total, row)
    return total


def _row(g: Graph, node: Node, i: int, primal: set[Node]) -> Node:
    """Row i alone of a tangent: nobody needs its other rows."""
    if node.n == 1:
        return node
    if node in primal or not node.args:
        return g.gather(node, [i])
    if node.op in OPS:
        return g.ew(node.op, *[_row(g, a, i, primal) for a in node.args])
    if node.op == "gather":
        return g.gather(node, [i])
    if node.op == "concat":
        for part in node.args:
            if i < part.n:
                return _row(g, part, i, primal)
            i -= part.n
    if node.op == "contract" and len(node.args) == 2:
        O, K, J, I = node.attrs  # noqa: E741
        x, w = node.args
        if w.rate < SAMPLE:
            o, j, k = i // (J * I), i // I % J, i % I
            rows = np.arange(O * K * I).reshape(O, K, I)[o, :, k]
            column = np.arange(K * J).reshape(K, J)[:, j]
            return g.contract(g.gather(x, rows), g.gather(w, column), (1, K, 1, 1))
    return g.gather(node, [i])


# ---- By factors ---------------------------------------------------------------------------------


class _NoFactorsError(Exception):
    """A Jacobian that does not have the form of `_Factors`."""


@dataclass(frozen=True)
class _Factors:
    """The Jacobian diag(scale) W^T diag(inner) U^T of a node, or diag(scale) U^T where W is None.

    U is (variable rows x K), W is (K x rows), both uniform; a scale None stands for ones.
    """

    scale: Node | None
    U: Node
    W: Node | None = None
    inner: Node | None = None


class _Chain:
    """The factors of all nodes between a variable and a result."""

    def __init__(self, g: Graph, out: Node, var: Node) -> None:
        self.g, self.n = g, var.n
        self.of: dict[Node, _Factors] = {var: _Factors(None, g.const(np.eye(var.n)))}
        self.failed: set[Node] = set()
        for v in reachable([out]):
            if v not in self.of and any(self.active(a) for a in v.args):
                try:
                    self.of[v] = self._push(v)
                except _NoFactorsError:
                    self.failed.add(v)

    def active(self, v: Node) -> bool:
        """Does the variable have an influence on v?"""
        return v in self.of or v in self.failed

    def _factors(self, v: Node) -> _Factors:
        if v in self.failed:
            raise _NoFactorsError
        return self.of[v]

    # ---- products with diagonal matrices ------------------------------------------------------

    def _mul(self, a: Node | None, b: Node | None) -> Node | None:
        if a is None or b is None:
            return b if a is None else a
        return self.g.ew("mul", a, b)

    def _columns(self, d: Node, n: int) -> Node:
        """d (rows or 1) beside each of n rows of a matrix (n x rows)."""
        return d if d.n == 1 else self.g.gather(d, np.tile(np.arange(d.n), n))

    def _uniform(self, f: _Factors) -> Node | None:
        """U diag(scale), where that is uniform; else None."""
        if f.W is not None or (f.scale is not None and f.scale.rate >= SAMPLE):
            return None
        return f.U if f.scale is None else self.g.ew("mul", f.U, self._columns(f.scale, self.n))

    # ---- forwards -----------------------------------------------------------------------------

    def _push(self, v: Node) -> _Factors:
        if v.wild:  # a product with 0 may have to stay 0
            raise _NoFactorsError
        if v.op in OPS:
            return self._elementwise(v)
        if v.op == "gather":
            return self._gather(v)
        if v.op == "concat":
            return self._concat(v)
        if v.op == "contract":
            return self._contract(v)
        raise _NoFactorsError

    def _elementwise(self, v: Node) -> _Factors:
        g = self.g
        slopes: dict[Node, Node] = {}
        rule = OPS[v.op].pull
        if rule is None:
            raise _NoFactorsError
        for a, d in zip(v.args, rule(g, g.const(1.0), v, *v.args), strict=True):
            if self.active(a) and d is not None:
                if a.n != v.n or d.wild:
                    raise _NoFactorsError
                slopes[a] = g.ew("add", slopes[a], d) if a in slopes else d
        if len(slopes) == 1:
            [(a, d)] = slopes.items()
            f = self._factors(a)
            return replace(f, scale=self._mul(f.scale, d))
        total: Node | None = None
        for a, d in slopes.items():
            U = self._uniform(self._factors(a))
            if U is None or d.rate >= SAMPLE:
                raise _NoFactorsError
            part = g.ew("mul", U, self._columns(d, self.n))
            total = part if total is None else g.ew("add", total, part)
        if total is None:
            raise _NoFactorsError
        return _Factors(None, total)

    def _gather(self, v: Node) -> _Factors:
        g, x, idx = self.g, v.args[0], v.data
        if idx.min() < 0:
            raise _NoFactorsError
        f = self._factors(x)
        scale = f.scale if f.scale is None or f.scale.n == 1 else g.gather(f.scale, idx)
        if f.W is None:
            return _Factors(scale, g.gather(f.U, _take_columns(self.n, x.n, idx)))
        K = f.W.n // x.n
        return replace(f, scale=scale, W=g.gather(f.W, _take_columns(K, x.n, idx)))

    def _concat(self, v: Node) -> _Factors:
        g, n = self.g, self.n
        matrices: list[Node] = []
        scales: list[Node] = []
        scaled = False
        for part in v.args:
            f = self._factors(part) if self.active(part) else _Factors(None, g.zeros(n * part.n))
            if f.W is not None:
                raise _NoFactorsError
            matrices.append(f.U)
            scale = g.const(1.0) if f.scale is None else f.scale
            scaled = scaled or f.scale is not None
            whole = scale.n == part.n
            scales.append(scale if whole else g.gather(scale, np.zeros(part.n, np.int32)))
        # the matrices stand one after the other, and their columns shall stand beside each other
        starts = np.cumsum([0, *(m.n for m in matrices)])
        places = [
            np.arange(a, b).reshape(n, -1) for a, b in zip(starts[:-1], starts[1:], strict=True)
        ]
        U = g.gather(g.concat(matrices), np.concatenate(places, axis=1))
        return _Factors(g.concat(scales) if scaled else None, U)

    def _contract(self, v: Node) -> _Factors:
        O, K, J, I = v.attrs  # noqa: E741
        x, w = v.args[:2]
        if O != 1 or I != 1 or w.rate >= SAMPLE or any(self.active(a) for a in v.args[1:]):
            raise _NoFactorsError
        f = self._factors(x)
        U = self._uniform(f)
        if U is not None:
            return _Factors(None, self.g.contract(U, w, (self.n, K, J, 1)))
        if f.W is not None:
            raise _NoFactorsError
        return _Factors(None, f.U, w, f.scale)

    # ---- the trace ----------------------------------------------------------------------------

    def trace(self, v: Node, first: int) -> Node | None:
        """The sum over r of d v[r] / d variable[first + r]; None stands for zero."""
        g = self.g
        if not self.active(v):
            return None
        if v.op in ("add", "sub") and all(a.n == v.n for a in v.args):
            a, b = (self.trace(arg, first) for arg in v.args)
            if b is None or a is None:
                return a if b is None else b if v.op == "add" else g.ew("neg", b)
            return g.ew(v.op, a, b)
        if v.op == "concat":
            total = None
            for part in v.args:
                more = self.trace(part, first)
                first += part.n
                if more is not None:
                    total = more if total is None else g.ew("add", total, more)
            return total
        if v not in self.failed:
            return self._of_factors(self.of[v], first, v.n)
        if v.op != "contract" or v.attrs[0] != 1 or v.attrs[3] != 1:
            raise _NoFactorsError
        x, w = v.args[:2]
        if w.rate >= SAMPLE or any(self.active(a) for a in v.args[1:]):
            raise _NoFactorsError
        return self._of_product(self._factors(x), w, first, v.n)

    def _rows_of(self, U: Node, first: int, n: int) -> Node:
        K = U.n // self.n
        return self.g.gather(U, np.arange(first * K, (first + n) * K))

    def _of_factors(self, f: _Factors, first: int, n: int) -> Node:
        g = self.g
        U = self._rows_of(f.U, first, n)
        if f.W is None:
            diagonal = g.gather(U, np.arange(n) * (n + 1))
            return _dot(g, f.scale, diagonal)
        K = U.n // n
        M = g.ew("mul", f.W, _transposed(g, U, n, K))
        return self._of_pairs(f, M, K, n)

    def _of_product(self, f: _Factors, w: Node, first: int, n: int) -> Node:
        """Of w^T times the Jacobian f; w is (rows of f x n)."""
        g = self.g
        U = self._rows_of(f.U, first, n)
        J = w.n // n
        if f.W is None:
            M = g.ew("mul", w, _transposed(g, U, n, J))
            return _dot(g, f.scale, g.segsum(M, np.repeat(np.arange(J), n), J))
        K = U.n // n
        P = g.contract(_transposed(g, w, J, n), U, (1, n, K, J))  # K x J
        return self._of_pairs(f, g.ew("mul", f.W, P), K, J)

    def _of_pairs(self, f: _Factors, M: Node, K: int, J: int) -> Node:
        """inner^T M scale."""
        g = self.g
        inner = f.inner if f.inner is not None and f.inner.n == K else None
        if inner is None:
            inner = g.gather(f.inner or g.const(1.0), np.zeros(K, np.int32))
        return _dot(g, f.scale, g.contract(inner, M, (1, K, J, 1)))


def _dot(g: Graph, scale: Node | None, values: Node) -> Node:
    return g.sum(values if scale is None else g.ew("mul", values, scale))


def _take_columns(rows: int, columns: int, idx: IndexArray) -> IndexArray:
    """The index that takes these columns of a (rows x columns) matrix."""
    out: IndexArray = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)[:, idx]
    return out


def _transposed(g: Graph, a: Node, rows: int, columns: int) -> Node:
    return g.gather(a, autodiff.transpose_index(rows, columns))

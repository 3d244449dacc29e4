"""The hash-consed graph that tracer and transforms share.

A node's value is a flat vector of ``n`` rows (for one sample); shapes live in the tracer. Nodes are
immutable, and equal nodes are one object, so common subexpressions never arise. The id of a node is
larger than those of its arguments: ascending ids are a topological order.

Every node has a *rate*: how often its value changes. What depends on constants and params alone is
computed once a solve, what depends on args too once a sample, the rest at every stage.

A node is *wild* when its value may be infinite or NaN although its sample is fine: behind a guard
such as ``np.where(x > 0, np.log(x), 0)``. A cotangent of 0 must stay 0 when multiplied by it, so
products with wild factors are ``zmul`` there, and plain ``mul`` otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import ops
from .pack import SHORTEST, pack_runs
from .simplify import simplify

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int32]
Dims = tuple[int, int, int, int]

CONST, PARAMS, SAMPLE, STEP = range(4)


class Node:
    """One operation. ``attrs`` is hashable; ``data`` holds a constant or an index array."""

    __slots__ = ("args", "attrs", "data", "id", "n", "op", "rate", "wild")

    def __init__(
        self, op: str, args: tuple[Node, ...], attrs: Any, n: int, rate: int, id_: int, data: Any,
        wild: bool,
    ) -> None:  # fmt: skip
        self.op, self.args, self.attrs, self.n = op, args, attrs, n
        self.rate, self.id, self.data, self.wild = rate, id_, data, wild

    def __repr__(self) -> str:
        args = ", ".join(f"%{a.id}" for a in self.args)
        attrs = f" {self.attrs}" if self.op in ("input", "contract", "outer") else ""
        return f"%{self.id} = {self.op}({args}){attrs} : {self.n}"


# inputs that a solve has checked to be finite; args and data may hold NaN for "not measured"
_TAME_INPUTS = ("t", "y", "params", "ct", "v")


_COMMUTATIVE = frozenset(("add", "mul", "eq", "ne", "and", "or"))


def _as_index(idx: npt.ArrayLike) -> IndexArray:
    out = np.ascontiguousarray(idx, dtype=np.int32).reshape(-1)
    out.flags.writeable = False
    return out


@lru_cache(maxsize=4096)
def _row_index(i: int) -> tuple[IndexArray, bytes]:
    idx = _as_index([i])
    return idx, idx.tobytes()


class Graph:
    """Builds nodes; the only place where nodes are made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._table: dict[Any, Node] = {}
        self._scalars: dict[float, Node] = {}
        self._n_vars = 0

    # ---- construction ---------------------------------------------------------------------------

    def _node(
        self, op: str, args: tuple[Node, ...], n: int, attrs: Any = None, data: Any = None
    ) -> Node:
        key = (op, tuple([a.id for a in args]), attrs)
        node = self._table.get(key)
        if node is None:
            rate = CONST
            wild = op in ops.WILD
            for a in args:
                if a.rate > rate:
                    rate = a.rate
                wild = wild or a.wild
            if op in ops.TAME:
                wild = False
            node = Node(op, args, attrs, n, rate, len(self.nodes), data, wild)
            self.nodes.append(node)
            self._table[key] = node
        return node

    def input(self, kind: str, slot: int, n: int, rate: int, wild: bool | None = None) -> Node:
        """A leaf: ``kind`` is "t", "y", "params", "args", "ct", ...; ``slot`` its number."""
        key = ("input", (), (kind, slot))
        node = self._table.get(key)
        if node is None:
            if wild is None:
                wild = kind not in _TAME_INPUTS
            node = Node("input", (), (kind, slot), n, rate, len(self.nodes), None, wild)
            self.nodes.append(node)
            self._table[key] = node
        return node

    def var(self, n: int, rate: int, wild: bool = True) -> Node:
        """A fresh placeholder, to be differentiated by and then substituted (nested ``grad``)."""
        self._n_vars += 1
        return self.input("var", self._n_vars, n, rate, wild)

    def const(self, value: npt.ArrayLike) -> Node:
        """A constant; an array whose entries are all equal (bitwise) is stored as one number."""
        if type(value) is float and value != 0 and value == value:
            node = self._scalars.get(value)
            if node is None:
                node = self._scalars[value] = self._const(np.array([value]))
            return node
        return self._const(np.array(value, dtype=np.float64).reshape(-1))

    def _const(self, data: FloatArray) -> Node:
        bits = data.view(np.int64)
        data.flags.writeable = False
        if data.size > 1 and bits[0] == bits[-1] and (bits == bits[0]).all():
            return self.gather(self._const(data[:1].copy()), np.zeros(data.size, np.int32))
        node = self._node("const", (), data.size, data.tobytes(), data)
        node.wild = not bool(np.isfinite(data).all())
        return node

    def zeros(self, n: int) -> Node:
        """``n`` zeros."""
        zero = self.const(0.0)
        return zero if n == 1 else self.gather(zero, np.zeros(n, np.int32))

    def ew(self, op: str, *args: Node) -> Node:
        """An elementwise op; an operand has the result's rows, or one row that serves for all."""
        n = 1
        for a in args:
            if a.n != 1 and a.n != n:
                if n != 1:
                    raise ValueError(f"{op}: rows {[b.n for b in args]} do not agree")
                n = a.n
        if n > 1 and any(a.op == "gather" for a in args):
            # a row repeated by a gather is the row itself
            args = tuple([_unrepeat(a) for a in args])
            if all(a.n == 1 for a in args):
                return self.gather(self.ew(op, *args), np.zeros(n, np.int32))
        if all(a.op == "const" for a in args):
            with np.errstate(all="ignore"):
                return self.const(ops.OPS[op].numpy(*[a.data for a in args]))
        if op in _COMMUTATIVE:
            # constants stand last; else as written, so that expressions of one form stay alike
            a, b = args
            if a.op == "const" or (op, (b.id, a.id), None) in self._table:
                args = b, a
        simple = simplify(self, op, args, n)
        return self._node(op, tuple(args), n) if simple is None else simple

    def gather(self, x: Node, idx: npt.ArrayLike) -> Node:
        """``out[r] = x[idx[r]]``, or 0 where ``idx[r] < 0``."""
        idx = _as_index(idx)
        n = idx.size
        if n == 1:
            return self.row(x, int(idx[0]))
        if n and int(idx.max()) < 0:
            return self.zeros(n)
        if x.op == "gather":
            return self.gather(x.args[0], np.where(idx < 0, -1, x.data[idx]) if n else idx)
        if n == x.n and (idx == np.arange(n)).all():
            return x
        if x.op == "const":
            if x.n > 1 or (idx < 0).any():
                values = np.where(idx < 0, 0.0, x.data[idx])
                if n == 0 or not (values == values[0]).all():
                    return self.const(values)
                x, idx = self.const(values[0]), _as_index(np.zeros(n, np.int32))
        elif x.op == "concat" and n:
            lo, hi = int(idx.min()), int(idx.max())
            start = 0
            for part in x.args:
                if start <= lo and hi < start + part.n:
                    return self.gather(part, idx - start)
                start += part.n
        return self._node("gather", (x,), n, idx.tobytes(), idx)

    def row(self, x: Node, i: int) -> Node:
        """One row; 0 where ``i < 0``."""
        while x.op == "gather" and i >= 0:
            x, i = x.args[0], int(x.data[i])
        if i < 0:
            return self.const(0.0)
        if x.n == 1:
            return x
        if x.op == "const":
            return self.const(float(x.data[i]))
        if x.op == "concat":
            for part in x.args:
                if i < part.n:
                    return self.row(part, i)
                i -= part.n
        idx, key = _row_index(i)
        return self._node("gather", (x,), 1, key, idx)

    def segsum(self, x: Node, idx: npt.ArrayLike, n: int) -> Node:
        """``out[idx[e]] += x[e]``, skipping ``idx[e] < 0``: the transpose of ``gather``."""
        idx = _as_index(idx)
        count = np.bincount(idx[idx >= 0], minlength=n)
        if (count <= 1).all():  # a permutation with holes is a gather
            back = np.full(n, -1, np.int32)
            keep = idx >= 0
            back[idx[keep]] = np.flatnonzero(keep)
            return self.gather(x, back)
        return self._node("segsum", (x,), n, (n, idx.tobytes()), idx)

    def sum(self, x: Node) -> Node:
        """The sum of all rows, as one row."""
        return x if x.n == 1 else self.segsum(x, np.zeros(x.n, np.int32), 1)

    def concat(self, parts: Sequence[Node]) -> Node:
        """Rows of all parts, one after the other."""
        parts = [p for p in parts if p.n]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self.const(np.zeros(0))
        if len(parts) == 2 and parts[0].op == "concat":
            parts = [*parts[0].args, parts[1]]
        parts = self._merge(parts)
        if len(parts) >= SHORTEST:
            parts = self._merge(pack_runs(self, parts))
        return self.place(parts)

    def place(self, parts: Sequence[Node]) -> Node:
        """``concat`` of parts as they are."""
        if len(parts) == 1:
            return parts[0]
        return self._node("concat", tuple(parts), sum(p.n for p in parts))

    def _merge(self, parts: Sequence[Node]) -> list[Node]:
        """Neighbours that are constants, or rows of one node, as one part."""
        groups: list[tuple[Node, list[IndexArray]]] = []
        for p in parts:
            source, idx = (p.args[0], p.data) if p.op == "gather" else (p, None)
            if groups and (source is groups[-1][0]):
                groups[-1][1].append(np.arange(p.n, dtype=np.int32) if idx is None else idx)
            elif groups and source.op == "const" and groups[-1][0].op == "const":
                last, indices = groups[-1]
                values = np.concatenate([_values(last, i) for i in indices])
                mine = source.data if idx is None else _values(source, idx)
                merged = np.concatenate([values, mine])
                node = self.const(merged)
                if node.op == "gather":
                    groups[-1] = (node.args[0], [node.data])
                else:
                    groups[-1] = (node, [np.arange(node.n, dtype=np.int32)])
            else:
                groups.append((source, [np.arange(p.n, dtype=np.int32) if idx is None else idx]))
        if len(groups) == len(parts):
            return list(parts)
        return [self.gather(source, np.concatenate(indices)) for source, indices in groups]

    def contract(self, x: Node, w: Node, dims: Dims, bias: Node | None = None) -> Node:
        """``out[o,j,i] = bias[j] + sum_k x[o,k,i] w[k,j]`` with ``dims = (O, K, J, I)``."""
        O, K, J, I = dims  # noqa: E741
        if x.n != O * K * I or w.n != K * J:
            raise ValueError(f"contract: rows {x.n}, {w.n} do not fit {dims}")
        if x.op == "const" and O == I == 1 and K > 1 and not w.wild:
            used = np.flatnonzero(x.data)
            if used.size < K:  # rows that are multiplied by 0: sparse tangents
                rows = np.arange(K * J).reshape(K, J)[used]
                w = self.gather(w, rows)
                if used.size == 0:
                    return self.zeros(J) if bias is None else bias
                if used.size == 1 and bias is None:
                    return self.ew("mul", w, self.const(float(x.data[used[0]])))
                return self.contract(self.const(x.data[used]), w, (1, used.size, J, 1), bias)
        args = (x, w) if bias is None else (x, w, bias)
        return self._node("contract", args, O * J * I, dims)

    def outer(self, x: Node, g: Node, dims: Dims) -> Node:
        """``out[k,j] = sum_{o,i} x[o,k,i] g[o,j,i]``: the cotangent of ``contract``'s ``w``."""
        O, K, J, I = dims  # noqa: E741
        if x.n != O * K * I or g.n != O * J * I:
            raise ValueError(f"outer: rows {x.n}, {g.n} do not fit {dims}")
        return self._node("outer", (x, g), K * J, dims)

    def rebuild(self, node: Node, args: tuple[Node, ...]) -> Node:
        """The same operation on other arguments."""
        if node.op in ("input", "const"):
            return node
        if node.op == "gather":
            return self.gather(args[0], node.data)
        if node.op == "segsum":
            return self.segsum(args[0], node.data, node.n)
        if node.op == "concat":
            return self.concat(args)
        if node.op == "contract":
            return self.contract(args[0], args[1], node.attrs, args[2] if len(args) > 2 else None)
        if node.op == "outer":
            return self.outer(args[0], args[1], node.attrs)
        out = self.ew(node.op, *args)
        return out if out.n == node.n else self.gather(out, np.zeros(node.n, np.int32))

    def substitute(self, outs: Sequence[Node], mapping: Mapping[Node, Node]) -> list[Node]:
        """``outs`` with the nodes of ``mapping`` replaced, here or from another graph."""
        memo = dict(mapping)
        for node in reachable(outs):
            if node in memo:
                continue
            args = tuple([memo[a] for a in node.args])
            if all(a is b for a, b in zip(args, node.args, strict=True)) and self.owns(node):
                memo[node] = node
            elif node.op == "input":
                kind, slot = node.attrs
                memo[node] = self.input(kind, slot, node.n, node.rate, node.wild)
            elif node.op == "const":
                memo[node] = self.const(node.data)
            else:
                memo[node] = self.rebuild(node, args)
        return [memo[o] for o in outs]

    def owns(self, node: Node) -> bool:
        """Was the node made by this graph?"""
        return node.id < len(self.nodes) and self.nodes[node.id] is node


def _values(const: Node, idx: IndexArray) -> FloatArray:
    return np.where(idx < 0, 0.0, const.data[idx])


def _unrepeat(a: Node) -> Node:
    if a.op == "gather" and a.args[0].n == 1 and a.n > 1 and not a.data.any():
        return a.args[0]
    return a


def reachable(outs: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> list[Node]:
    """The nodes that ``outs`` depend on, in topological order; not looking behind ``stop``."""
    seen: dict[Node, None] = {}
    stack = list(outs)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            if stop is None or not stop(node):
                stack.extend(node.args)
    return sorted(seen, key=lambda v: v.id)

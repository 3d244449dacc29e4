"""Vectorisation of what was written element by element.

``[k[i] * (y[i - 1] - y[i]) for i in range(1, n)]`` traces to n small expressions of one form. When
they are concatenated they are made into one expression on vectors: the same op applied to
concatenated operands, down to slices of one node, constants, or values shared by all. A Python loop
over compartments, grid points or particles then costs as many instructions as its body, not n times
as many.

Elementwise ops keep their bits; an operand that occurs in several places is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .ops import OPS

if TYPE_CHECKING:
    from .graph import Graph, Node

STEP = 3  # as in graph

# fewer are not worth a copy of their operands
SHORTEST = 3
DEEPEST = 100
NEAR = 4  # how far below a part that stays alone packed values are looked for


def pack_runs(g: Graph, parts: Sequence[Node]) -> list[Node]:
    """``parts`` of a concatenation, with runs of expressions of one form made into one node."""
    packing = _Packing(g)
    out: list[Node] = []
    alone: list[int] = []
    i = 0
    while i < len(parts):
        j = i + 1
        if parts[i].op in _PACKABLE:
            form = _form(parts[i])
            while j < len(parts) and _form(parts[j]) == form:
                j += 1
        packed = None
        if j - i >= SHORTEST:
            packed = packing.pack(list(parts[i:j]))
        if packed is not None and packed.n == parts[i].n * (j - i):
            out.append(packed)
        else:
            alone.extend(range(len(out), len(out) + j - i))
            out.extend(parts[i:j])
        i = j
    if packing.place:
        for k in alone:
            out[k] = packing.placed(out[k])
    return out


_PACKABLE = frozenset(OPS) | {"segsum", "contract"}


def _form(node: Node, depth: int = 3) -> Any:
    """The shape of an expression, as far as runs are told apart by it."""
    if node.rate < STEP:
        return "slow"
    if depth == 0 or node.op not in _PACKABLE:
        return node.op
    return node.op, node.n, tuple([_form(a, depth - 1) for a in node.args])


def _alike(a: Node, b: Node) -> bool:
    return (
        b.op == a.op
        and b.n == a.n
        and len(b.args) == len(a.args)
        and (b.attrs == a.attrs or a.op == "gather")
    )


class _Packing:
    """One concatenation: remembers where each node has gone."""

    def __init__(self, g: Graph) -> None:
        self.g = g
        self.place: dict[Node, tuple[Node, int]] = {}
        self.depth = 0

    def pack(self, nodes: list[Node]) -> Node | None:
        """One node with the rows of all ``nodes``, which have equally many; None if not worth it.

        If all are one node of one row, that node: it serves for all rows.
        """
        g, first = self.g, nodes[0]
        if first.n == 1 and all(v is first for v in nodes):
            return first
        if all(v.op == "const" for v in nodes):
            return g.const(np.concatenate([v.data for v in nodes]))
        if all(v.op == "gather" and v.args[0] is first.args[0] for v in nodes):
            return g.gather(first.args[0], np.concatenate([v.data for v in nodes]))
        unique = list(dict.fromkeys(nodes))
        if len(unique) < len(nodes) or any(v in self.place for v in unique):
            return self._repeated(nodes, unique)
        packed = None
        if first.op in _PACKABLE and all(_alike(first, v) for v in nodes):
            self.depth += 1
            packed = self._operation(nodes) if self.depth < DEEPEST else None
            self.depth -= 1
        if packed is None and all(v.rate < STEP for v in nodes):
            packed = g.place(nodes)  # computed once a solve or a sample
        if packed is not None and packed.n == first.n * len(nodes):
            for i, v in enumerate(nodes):
                self.place[v] = packed, i * first.n
        return packed

    def _repeated(self, nodes: list[Node], unique: list[Node]) -> Node | None:
        """Some occur twice, or are there already: pack each once, and gather."""
        g, n = self.g, nodes[0].n
        missing = [v for v in unique if v not in self.place]
        if missing:
            packed = missing[0] if len(missing) == 1 else self.pack(missing)
            if packed is None or packed.n != n * len(missing):
                return None
            for i, v in enumerate(missing):
                self.place.setdefault(v, (packed, i * n))
        sources = list(dict.fromkeys([self.place[v][0] for v in unique]))
        start = dict(zip(sources, np.cumsum([0] + [s.n for s in sources]), strict=False))
        first_rows = [start[self.place[v][0]] + self.place[v][1] for v in nodes]
        return g.gather(g.place(sources), np.add.outer(first_rows, np.arange(n)))

    def placed(self, node: Node, depth: int = 0) -> Node:
        """A part that stayed alone, made of what has been packed as far as possible."""
        if node in self.place:
            source, row = self.place[node]
            return self.g.gather(source, np.arange(row, row + node.n))
        if node.op not in OPS or node.rate < STEP or depth == NEAR:
            return node
        args = tuple([self.placed(a, depth + 1) for a in node.args])
        if all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        return self.g.rebuild(node, args)

    def _operation(self, nodes: list[Node]) -> Node | None:
        g, first, count = self.g, nodes[0], len(nodes)
        if first.op == "contract":
            return self._contract(nodes)
        operands = [[v.args[k] for v in nodes] for k in range(len(first.args))]
        if any(len({v.n for v in column}) > 1 for column in operands):
            return None
        self._unite(operands)
        packed = []
        for column in operands:
            whole = self.pack(column)
            if whole is None:
                return None
            if column[0].n < first.n and whole.n > 1 and first.op in OPS:
                whole = g.gather(whole, np.repeat(np.arange(count), first.n))
            packed.append(whole)
        if first.op == "segsum":
            n, _ = first.attrs
            (x,) = packed
            if x.n != count * first.args[0].n:
                return None
            shift = np.repeat(np.arange(count) * n, first.data.size)
            target = np.tile(first.data, count)
            return g.segsum(x, np.where(target < 0, -1, target + shift), count * n)
        return g.ew(first.op, *packed)

    def _unite(self, operands: list[list[Node]]) -> None:
        """Pack at once what two operands have in common, such as the fluxes f[i-1] and f[i]."""
        if len(operands) < 2 or operands[0][0].n != operands[1][0].n:
            return
        a, b = dict.fromkeys(operands[0]), dict.fromkeys(operands[1])
        if len(a) > 1 and len(b) > 1 and not a.keys().isdisjoint(b.keys()):
            union = sorted({**a, **b}, key=lambda v: v.id)
            if all(v.op in _PACKABLE and _alike(union[0], v) for v in union):
                self.pack(union)

    def _contract(self, nodes: list[Node]) -> Node | None:
        """Rows times one matrix, or one row times columns of one matrix."""
        g, first, count = self.g, nodes[0], len(nodes)
        O, K, J, I = first.attrs  # noqa: E741
        if O != 1 or I != 1:
            return None
        biases = [v.args[2] for v in nodes if len(v.args) > 2]
        bias: Node | None = biases[0] if biases else None
        if all(v.args[1] is first.args[1] for v in nodes):
            if any(b is not bias for b in biases) or len(biases) not in (0, count):
                return None
            x = self.pack([v.args[0] for v in nodes])
            if x is None or x.n != count * K:
                return None
            return g.contract(x, first.args[1], (count, K, J, 1), bias)
        if J == 1 and all(v.args[0] is first.args[0] for v in nodes):
            columns = self.pack([v.args[1] for v in nodes])
            if columns is None or columns.n != count * K:
                return None
            if biases:
                bias = self.pack(biases)
                if bias is None or bias.n != count:
                    return None
            turned = g.gather(columns, np.arange(count * K).reshape(count, K).T)
            return g.contract(first.args[0], turned, (1, K, count, 1), bias)
        return None

"""From a set of nodes to one Program: storage, register allocation, instructions.

Storage is decided from the results backwards: a result is computed where it must end up, and the
parts of a concatenation are computed in place inside it; contiguous slices are aliases, and a row
repeated over n rows is that row with kind ROW. What remains lives in virtual registers, which a
linear scan maps to rows of the register file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .autodiff import Sink
from .graph import Node, reachable
from .ops import OPS
from .program import ABSENT, Instr, Int32Array, Kind, Operand, Program, Space


@dataclass(eq=False)
class _Root:
    """A block of rows: a virtual register, or a place in an outside space."""

    rows: int
    space: Space = Space.RF
    off: int = 0
    first: int = -1
    last: int = -1


@dataclass(frozen=True)
class _Place:
    root: _Root
    off: int
    kind: Kind


@dataclass
class _Draft:
    """An instruction whose operands are still places."""

    op: str
    n: int
    dst: _Place | None
    src: list[_Place | None]
    p: tuple[int, int, int, int] = (0, 0, 0, 0)
    aux: int = 0
    panel: int = 0


@dataclass(frozen=True)
class SinkAt:
    """A sink and where it adds its product in the gradient accumulator; ``bias_off``: where it adds
    its cotangent too, or -1."""

    sink: Sink
    acc_off: int
    bias_off: int = -1


def _contiguous(idx: Int32Array) -> bool:
    n = idx.size
    return bool(n and idx[0] >= 0 and idx[-1] - idx[0] == n - 1 and (np.diff(idx) == 1).all())


def _repeated(idx: Int32Array) -> bool:
    return bool(idx.size and idx[0] >= 0 and (idx == idx[0]).all())


def is_alias(node: Node) -> bool:
    """Can the node be read where its argument is, as a slice or a repeated row?"""
    return node.op == "gather" and (_contiguous(node.data) or _repeated(node.data))


@dataclass(eq=False)
class _Emitter:
    given: Mapping[Node, Operand]
    uniform_lanes: bool
    place: dict[Node, _Place] = field(default_factory=dict)
    drafts: list[_Draft] = field(default_factory=list)
    pool: list[Int32Array] = field(default_factory=list)
    pool_at: dict[bytes, int] = field(default_factory=dict)
    pool_size: int = 0
    outside: dict[tuple[Space, int], _Root] = field(default_factory=dict)
    n_panels: int = 0

    # ---- places ---------------------------------------------------------------------------------

    def outer_root(self, operand: Operand, n: int) -> _Place:
        return _Place(_Root(n, operand.space, operand.off), 0, operand.kind)

    def plan(self, outs: Sequence[tuple[Node, Operand]], order: Sequence[Node]) -> list[tuple]:  # type: ignore[type-arg]
        """Assign storage to computed nodes; returns the copies that results still need."""
        late = []
        for node, dst in outs:
            target = self.outer_root(dst, node.n)
            if node in self.given or node in self.place or is_alias(node):
                late.append((node, target))
            else:
                self.place[node] = target
        for node in reversed(order):
            if node in self.given or is_alias(node):
                continue
            if node not in self.place:
                self.place[node] = _Place(_Root(node.n), 0, Kind.LANE)
            if node.op == "concat":
                here, start = self.place[node], 0
                for part in node.args:
                    if part not in self.given and part not in self.place and not is_alias(part):
                        self.place[part] = _Place(here.root, here.off + start, Kind.LANE)
                    start += part.n
        return late

    def at(self, node: Node) -> _Place:
        """Where the node's value can be read."""
        if node in self.place:
            return self.place[node]
        if node in self.given:
            operand = self.given[node]
            place = self.outer_root(operand, node.n)
        else:
            src = self.at(node.args[0])
            assert is_alias(node), f"{node} has no storage"
            start = int(node.data[0])
            if src.kind in (Kind.ROW, Kind.USC):
                place = src
            elif _contiguous(node.data):
                place = _Place(src.root, src.off + start, src.kind)
            else:
                one = Kind.ROW if src.kind is Kind.LANE else Kind.USC
                place = _Place(src.root, src.off + start, one)
        self.place[node] = place
        return place

    def spread(self, node: Node, n: int) -> _Place:
        """The node as an elementwise operand of ``n`` rows."""
        place = self.at(node)
        if n == 1:  # one row: the kernels' fast kinds
            one = Kind.LANE if place.kind in (Kind.LANE, Kind.ROW) else Kind.USC
            return _Place(place.root, place.off, one)
        if node.n == n or place.kind in (Kind.ROW, Kind.USC):
            return place
        return _Place(place.root, place.off, Kind.ROW if place.kind is Kind.LANE else Kind.USC)

    def lanes(self, node: Node) -> _Place:
        """The node as full lanes, copied if it is stored otherwise."""
        place = self.at(node)
        if place.kind is Kind.LANE:
            return place
        temp = _Place(_Root(node.n), 0, Kind.LANE)
        self.drafts.append(_Draft("copy", node.n, temp, [place]))
        return temp

    def index(self, data: Int32Array) -> int:
        key = data.tobytes()
        if key not in self.pool_at:
            self.pool_at[key] = self.pool_size
            self.pool.append(data)
            self.pool_size += data.size
        return self.pool_at[key]

    # ---- instructions ---------------------------------------------------------------------------

    def emit(self, v: Node) -> None:
        dst = self.place[v]
        add = self.drafts.append
        if v.op in OPS:
            add(_Draft(v.op, v.n, dst, [self.spread(a, v.n) for a in v.args]))
        elif v.op == "gather":
            add(_Draft("gather", v.n, dst, [self.at(v.args[0])], aux=self.index(v.data)))
        elif v.op == "segsum":
            add(_Draft("segsum", v.n, dst, [self.at(v.args[0])], aux=self.index(_csr(v))))
        elif v.op == "concat":
            start = 0
            for part in v.args:
                here, target = self.at(part), _Place(dst.root, dst.off + start, Kind.LANE)
                if (here.root, here.off, here.kind) != (target.root, target.off, target.kind):
                    add(_Draft("copy", part.n, target, [here]))
                start += part.n
        elif v.op == "contract":
            x, w = self.lanes(v.args[0]), self.at(v.args[1])
            if w.kind in (Kind.UNI, Kind.USC) or self.uniform_lanes:
                bias = self.at(v.args[2]) if len(v.args) > 2 else None
                add(_Draft("affine", v.n, dst, [x, w, bias], v.attrs))
            else:
                add(_Draft("matmul", v.n, dst, [x, self.lanes(v.args[1])], v.attrs))
        else:
            x, g = (self.lanes(a) for a in v.args)
            add(_Draft("outer", v.n, dst, [x, g], v.attrs))

    def emit_sink(self, at: SinkAt) -> None:
        s = at.sink
        x = None if s.x is None else self.at(s.x)
        O, K, J, I = s.dims  # noqa: E741
        bias = None
        if at.bias_off >= 0:
            bias = self.outer_root(Operand(Space.U, at.bias_off, Kind.UNI), J)
        self.drafts.append(
            _Draft("acc", K * J, bias, [x, self.at(s.g)], s.dims, at.acc_off, self.n_panels)
        )
        self.n_panels += 1

    # ---- registers ------------------------------------------------------------------------------

    def allocate(self) -> int:
        for i, d in enumerate(self.drafts):
            for p in (*d.src, d.dst):
                if p is not None and p.root.space is Space.RF:
                    p.root.first = i if p.root.first < 0 else p.root.first
                    p.root.last = i
        free: list[tuple[int, int]] = []  # (offset, rows), sorted
        top = 0
        live: list[_Root] = []
        for i, d in enumerate(self.drafts):
            root = d.dst.root if d.dst is not None else None
            if root is not None and root.space is Space.RF and root.first == i:
                heir = _in_place(d, i)
                if heir is not None:
                    root.off = heir.off
                    live.remove(heir)
                else:
                    for k, (off, rows) in enumerate(free):
                        if rows >= root.rows:
                            root.off = off
                            rest = (off + root.rows, rows - root.rows)
                            free[k : k + 1] = [rest] if rest[1] else []
                            break
                    else:
                        if free and free[-1][0] + free[-1][1] == top:
                            root.off = free.pop()[0]
                        else:
                            root.off = top
                        top = root.off + root.rows
                live.append(root)
            for dead in [r for r in live if r.last == i]:
                live.remove(dead)
                free = _merge([*free, (dead.off, dead.rows)])
        return top

    def finish(self, name: str) -> Program:
        rf_rows = self.allocate()
        code = []
        for d in self.drafts:
            a, b, c = ([_operand(p) for p in d.src] + [ABSENT] * 3)[:3]
            code.append(Instr(d.op, d.n, _operand(d.dst), a, b, c, d.p, d.aux, d.panel))
        pool = np.concatenate(self.pool) if self.pool else np.zeros(1, np.int32)
        return Program(tuple(code), pool.astype(np.int32), rf_rows, self.n_panels, name)


def _operand(p: _Place | None) -> Operand:
    return ABSENT if p is None else Operand(p.root.space, p.root.off + p.off, p.kind)


def _in_place(d: _Draft, i: int) -> _Root | None:
    """An operand that dies here and whose rows an elementwise result may take over."""
    if d.op not in OPS or d.dst is None or d.dst.root.rows != d.n:
        return None
    for p in d.src:
        if p is None or p.root.space is not Space.RF or p.root.last != i or p.root.rows != d.n:
            continue
        if all(
            q is None or q.root is not p.root or (q.kind, q.off) == (Kind.LANE, 0) for q in d.src
        ):
            return p.root
    return None


def _merge(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for off, rows in sorted(blocks):
        if out and out[-1][0] + out[-1][1] == off:
            out[-1] = (out[-1][0], out[-1][1] + rows)
        else:
            out.append((off, rows))
    return out


def _csr(v: Node) -> Int32Array:
    """Row pointers and indices of a segmented sum."""
    idx = v.data
    keep = np.flatnonzero(idx >= 0)
    order = keep[np.argsort(idx[keep], kind="stable")]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(idx[keep], minlength=v.n))])
    return np.concatenate([ptr, order]).astype(np.int32)


def _with_biases(sinks: Sequence[SinkAt]) -> list[SinkAt]:
    """The sinks, where a product with a cotangent also sums that of a bias."""
    products = [s for s in sinks if s.sink.x is not None]
    out = {s: s for s in sinks}
    for s in sinks:
        O, _, J, I = s.sink.dims  # noqa: E741
        if s.sink.x is not None:
            continue
        for p in products:
            o, _, j, i = p.sink.dims
            if p.sink.g is s.sink.g and (o, j, i) == (O, J, I) and out[p].bias_off < 0:
                out[p] = SinkAt(p.sink, p.acc_off, s.acc_off)
                del out[s]
                break
    return list(out.values())


def emit(
    name: str,
    outs: Sequence[tuple[Node, Operand]],
    given: Mapping[Node, Operand],
    sinks: Sequence[SinkAt] = (),
    *,
    uniform_lanes: bool = False,
) -> Program:
    """The program that computes ``outs`` where they are wanted, and feeds ``sinks``.

    ``given`` says where values are that need no computing. With ``uniform_lanes`` the program runs
    with one lane over uniform values, so that those are its lanes (the prologue).
    """
    sinks = _with_biases(sinks)
    wanted = [o for o, _ in outs]
    for s in sinks:
        wanted += [s.sink.g] if s.sink.x is None else [s.sink.x, s.sink.g]
    order = [v for v in reachable(wanted, stop=lambda v: v in given) if v not in given]
    e = _Emitter(given, uniform_lanes)
    late = e.plan(outs, order)
    waiting = sorted(sinks, key=lambda s: max(s.sink.g.id, -1 if s.sink.x is None else s.sink.x.id))
    for v in order:
        while waiting and max(waiting[0].sink.g.id, getattr(waiting[0].sink.x, "id", -1)) < v.id:
            e.emit_sink(waiting.pop(0))
        if not is_alias(v):
            e.emit(v)
    for s in waiting:
        e.emit_sink(s)
    for node, target in late:
        e.drafts.append(_Draft("copy", node.n, target, [e.at(node)]))
    return e.finish(name)

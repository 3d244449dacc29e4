"""jvp and vjp: graph to graph.

Both walk the nodes between the outputs and the variables once, in topological order, and emit
nodes into the same graph, so they nest without further care. Elementwise rules live in ``ops``;
the other ops are linear in each argument, and their rules stand here side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .graph import Dims, Graph, IndexArray, Node, reachable
from .ops import OPS


@dataclass(frozen=True)
class Sink:
    """A contribution to the cotangent of a node that changes more slowly than its user.

    The cotangent of ``target`` gains ``sum x[o,k,i] g[o,j,i]`` over o and i (``dims``), and over
    the lanes and stages in which it was used; ``x`` None stands for ones with K = 1.
    """

    target: Node
    x: Node | None
    g: Node
    dims: Dims


def transpose_index(K: int, J: int) -> IndexArray:
    """The gather index that turns a (K, J) matrix into its (J, K) transpose."""
    idx: IndexArray = np.arange(K * J, dtype=np.int32).reshape(K, J).T.reshape(-1)
    return idx


def _transpose(g: Graph, w: Node, K: int, J: int) -> Node:
    return w if K == 1 or J == 1 else g.gather(w, transpose_index(K, J))


def _to_rows(g: Graph, ct: Node, n: int) -> Node:
    """``ct`` with exactly ``n`` rows: sums what was broadcast, repeats what was not."""
    if ct.n == n:
        return ct
    return g.sum(ct) if n == 1 else g.gather(ct, np.zeros(n, np.int32))


def _add(g: Graph, a: Node | None, b: Node | None) -> Node | None:
    if a is None or b is None:
        return b if a is None else a
    return g.ew("add", a, b)


def _active(
    outs: Sequence[Node], wrt: Sequence[Node], sink_rate: int = -1
) -> tuple[list[Node], set[Node]]:
    """All nodes in order, and those that ``wrt`` or slow nodes have an influence on."""
    order = reachable(outs)
    active = {v for v in order if 0 < v.rate <= sink_rate}
    active.update(wrt)
    for node in order:
        if node not in active and any(a in active for a in node.args):
            active.add(node)
    return order, active


def jvp(
    g: Graph, outs: Sequence[Node], wrt: Sequence[Node], tangents: Sequence[Node]
) -> list[Node | None]:
    """The tangents of ``outs`` when ``wrt`` moves along ``tangents``; None stands for zero."""
    order, active = _active(outs, wrt)
    tan: dict[Node, Node | None] = dict(zip(wrt, tangents, strict=True))
    for v in order:
        if v in tan or v not in active:
            continue
        ds = [tan.get(a) for a in v.args]
        tan[v] = None if all(d is None for d in ds) else _push(g, v, ds)
    return [tan.get(o) for o in outs]


def _push(g: Graph, v: Node, ds: list[Node | None]) -> Node | None:
    out: Node | None = None
    if v.op in OPS:
        rule = OPS[v.op].pull
        if rule is None:
            return None
        for i, d in enumerate(ds):
            if d is not None:
                out = _add(g, out, rule(g, d, v, *v.args)[i])
        return None if out is None else _to_rows(g, out, v.n)
    if v.op == "concat":
        return g.concat([g.zeros(a.n) if d is None else d for a, d in zip(v.args, ds, strict=True)])
    if v.op in ("gather", "segsum"):
        assert ds[0] is not None
        return g.rebuild(v, (ds[0],))
    # contract and outer: bilinear, and a bias
    x, w = v.args[:2]
    make = g.contract if v.op == "contract" else g.outer
    if ds[0] is not None:
        out = _add(g, out, make(ds[0], w, v.attrs))
    if ds[1] is not None:
        out = _add(g, out, make(x, ds[1], v.attrs))
    if len(ds) > 2 and ds[2] is not None:
        out = _add(g, out, g.gather(ds[2], _bias_index(v.attrs)))
    return out


def _bias_index(dims: Dims) -> IndexArray:
    O, _, J, I = dims  # noqa: E741
    return np.ascontiguousarray(
        np.broadcast_to(np.arange(J, dtype=np.int32)[None, :, None], (O, J, I))
    ).reshape(-1)


def vjp(
    g: Graph,
    outs: Sequence[Node],
    cts: Sequence[Node | None],
    wrt: Sequence[Node],
    sinks: list[Sink] | None = None,
    sink_rate: int = -1,
) -> list[Node | None]:
    """The cotangents of ``wrt`` for cotangents ``cts`` of ``outs``; None stands for zero.

    With ``sinks``, the walk stops at arguments whose rate is at most ``sink_rate``: what would flow
    into them is appended to ``sinks`` instead.
    """
    order, active = _active(outs, wrt, sink_rate if sinks is not None else -1)
    bar: dict[Node, Node | None] = {}
    # cotangents of gathers, collected until all users of their source have been seen: one segsum
    # (or, where rows are used once, a mere placement) instead of a padded vector for each
    scattered: dict[Node, list[tuple[Node, IndexArray]]] = {}
    for o, ct in zip(outs, cts, strict=True):
        if ct is not None:
            bar[o] = _add(g, bar.get(o), ct)
    leaves = set(wrt)

    def give(a: Node, ct: Node | None) -> None:
        if ct is None:
            return
        ct = _to_rows(g, ct, a.n)
        if sinks is not None and a.rate <= sink_rate:
            if a.rate > 0:
                sinks.append(Sink(a, None, ct, (1, 1, a.n, 1)))
        elif a in active:
            bar[a] = _add(g, bar.get(a), ct)

    def wanted(a: Node) -> bool:
        return (
            (0 < a.rate <= sink_rate) if sinks is not None and a.rate <= sink_rate else a in active
        )

    for v in reversed(order):
        if v in scattered:
            pieces = sorted(scattered.pop(v), key=lambda piece: int(piece[1].max(initial=-1)))
            rows = g.concat([c for c, _ in pieces])
            give(v, g.segsum(rows, np.concatenate([idx for _, idx in pieces]), v.n))
        ct = bar.get(v)
        if ct is None or v in leaves or not v.args:
            continue
        if sinks is not None and v.rate <= sink_rate:
            give(v, ct)
            continue
        if v.op in OPS:
            rule = OPS[v.op].pull
            if rule is not None and any(wanted(a) for a in v.args):
                for a, abar in zip(v.args, rule(g, ct, v, *v.args), strict=True):
                    if wanted(a):
                        give(a, abar)
        elif v.op == "concat":
            start = 0
            for a in v.args:
                if wanted(a):
                    give(a, g.gather(ct, np.arange(start, start + a.n)))
                start += a.n
        elif v.op == "gather":
            if wanted(v.args[0]):
                scattered.setdefault(v.args[0], []).append((_to_rows(g, ct, v.n), v.data))
        elif v.op == "segsum":
            if wanted(v.args[0]):
                give(v.args[0], g.gather(ct, v.data))
        elif v.op == "contract":
            _pull_contract(g, v, ct, give, wanted, sinks, sink_rate)
        else:
            _pull_outer(g, v, ct, give, wanted)
    return [bar.get(w) for w in wrt]


def _pull_contract(g: Graph, v: Node, ct: Node, give, wanted, sinks, sink_rate: int) -> None:  # type: ignore[no-untyped-def]
    O, K, J, I = v.attrs  # noqa: E741
    x, w = v.args[:2]
    if wanted(x):
        give(x, g.contract(ct, _transpose(g, w, K, J), (O, J, K, I)))
    if wanted(w):
        if sinks is not None and w.rate <= sink_rate:
            sinks.append(Sink(w, x, ct, v.attrs))
        else:
            give(w, g.outer(x, ct, v.attrs))
    if len(v.args) > 2 and wanted(v.args[2]):
        bias = v.args[2]
        if sinks is not None and bias.rate <= sink_rate:
            sinks.append(Sink(bias, None, ct, (O, 1, J, I)))
        else:
            give(bias, g.segsum(ct, _bias_index(v.attrs), J))


def _pull_outer(g: Graph, v: Node, ct: Node, give, wanted) -> None:  # type: ignore[no-untyped-def]
    O, K, J, I = v.attrs  # noqa: E741
    x, h = v.args
    if wanted(x):
        give(x, g.contract(h, _transpose(g, ct, K, J), (O, J, K, I)))
    if wanted(h):
        give(h, g.contract(x, ct, (O, K, J, I)))

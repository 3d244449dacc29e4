"""Algebra on construction: what an elementwise op is when its arguments are special."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .graph import Dims, Graph, Node

PARAMS = 1  # as in graph


def simplify(g: Graph, op: str, args: tuple[Node, ...], n: int) -> Node | None:
    """Identities that hold bitwise up to the sign of zero."""
    a = args[0]
    b = args[1] if len(args) > 1 else None
    one = b is not None and b.op == "const" and b.n == 1 and a.n == n
    if op == "add":
        if one and b is not None and b.data[0] == 0:
            return a
        for x, y in (args, args[::-1]):
            if y.op == "neg":
                return g.ew("sub", x, y.args[0])
            uniform = x.op == "contract" and x.args[1].rate <= PARAMS >= y.rate
            if uniform and len(x.args) == 2:
                bias = _bias_of(y, x.attrs)
                if bias is not None:
                    return g.contract(x.args[0], x.args[1], x.attrs, bias)
    elif op == "sub":
        if b is not None and b.op == "neg":
            return g.ew("add", a, b.args[0])
        if a.op == "const" and a.n == 1 and a.data[0] == 0 and b is not None:
            return g.ew("neg", b)
        if one and b is not None and b.data[0] == 0:
            return a
    elif op in ("mul", "div", "zmul"):
        if one and b is not None:
            if b.data[0] == 1:
                return a
            if b.data[0] == -1:
                return g.ew("neg", a)
        if b is not None and op == "div":
            if a.op == "const" and a.n == 1 and a.data[0] == 1:
                return g.ew("recip", b)
        elif b is not None:
            for x, y in (args, args[::-1]):
                if x.op == "const" and x.n == 1 and x.data[0] == 0:
                    if not y.wild or (op == "zmul" and x is a):
                        return x if n == 1 else g.zeros(n)
            if op == "zmul" and not b.wild:
                return g.ew("mul", a, b)
    elif op == "recip":
        # 1 / (1 + exp(-x)), as people write it
        if a.op == "add" and a.args[0].op == "exp" and _is_number(a.args[1], 1.0):
            return g.ew("sigmoid", g.ew("neg", a.args[0].args[0]))
    elif op == "log":
        if a.op == "add" and a.args[0].op == "exp" and _is_number(a.args[1], 1.0):
            return g.ew("softplus", a.args[0].args[0])
    elif op == "log1p":
        if a.op == "exp":
            return g.ew("softplus", a.args[0])
    elif op == "neg":
        if a.op == "neg":
            return a.args[0]
    elif op == "select" and args[1] is args[2] and args[1].n == n:
        return args[1]
    return None


def _is_number(a: Node, value: float) -> bool:
    return a.op == "const" and a.n == 1 and bool(a.data[0] == value)


def _bias_of(b: Node, dims: Dims) -> Node | None:
    """The J numbers that ``b`` repeats over the result of a contraction, if it does."""
    O, _, J, I = dims  # noqa: E741
    if O == 1 and I == 1:
        return b if b.n == J else None
    if b.n == 1 == J:
        return b
    if b.op == "gather" and b.args[0].n == J and b.n == O * J * I:
        pattern = np.broadcast_to(np.arange(J)[None, :, None], (O, J, I)).reshape(-1)
        if (b.data == pattern).all():
            return b.args[0]
    return None

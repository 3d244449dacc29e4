"""The op table: opcode, arity, NumPy meaning and derivative rule of every op, in one place.

Opcodes come from ``_kernels/ops.def``. An elementwise op has one rule, ``pull``: given the graph,
the cotangent ``ct``, the output ``y`` and the arguments, it returns for each argument the product
of ``ct`` with the local derivative (or None where that is zero). The Jacobian of an elementwise op
is diagonal, so the same rule with ``ct`` replaced by a tangent is its jvp. ``reads`` says whether
the rule looks at the inputs ("x"), the output ("y"), both or neither; expensive ops (``costly``)
keep their value as a residual, the others are computed again in the reverse phase.

Rules multiply by ``zmul``, so that a cotangent of 0 (behind ``np.where``) stays 0 whatever the
local derivative, and a local derivative of 0 (below ``np.sqrt(np.maximum(x, 0))``) whatever the
cotangent; the graph makes it ``mul`` where the other factor cannot be infinite or NaN.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .graph import Graph, Node

Rule = Callable[..., "tuple[Node | None, ...]"]


def _read_def() -> list[tuple[str, str]]:
    path = os.path.join(os.path.dirname(__file__), "..", "_kernels", "ops.def")
    with open(path, encoding="utf-8") as file:
        return re.findall(r"^(UNARY|BINARY|TERNARY|OTHER)\((\w+)\)", file.read(), re.MULTILINE)


_TABLE = _read_def()
OPCODE: dict[str, int] = {name: code for code, (_, name) in enumerate(_TABLE)}
ARITY: dict[str, int] = {
    name: {"UNARY": 1, "BINARY": 2, "TERNARY": 3, "OTHER": 0}[group] for group, name in _TABLE
}
ELEMENTWISE: tuple[str, ...] = tuple(name for group, name in _TABLE if group != "OTHER")


# Ops that may give inf or NaN for finite arguments, and ops that never do; see graph.py on "wild".
WILD = frozenset(
    ("recip", "sqrt", "exp", "expm1", "log", "log1p", "tan", "sinh", "cosh", "div", "pow")
)
TAME = frozenset(("isnan", "not", "lt", "le", "eq", "ne", "and", "or"))


@dataclass(frozen=True)
class Op:
    """One elementwise op."""

    name: str
    numpy: Callable[..., Any]
    pull: Rule | None  # None: the derivative is zero everywhere
    reads: str
    costly: bool


OPS: dict[str, Op] = {}


def _op(name: str, numpy: Callable[..., Any], pull: Rule | None, reads: str = "",
        costly: bool = False) -> None:  # fmt: skip
    OPS[name] = Op(name, numpy, pull, reads, costly)


def _const(g: Graph, v: float) -> Node:
    return g.const(v)


def _times(g: Graph, ct: Node, slope: Node) -> Node:
    """A cotangent times a local derivative; 0 where either is 0, as far as it can be guarded."""
    return g.ew("zmul", ct, slope) if slope.wild else g.ew("zmul", slope, ct)


def _softplus(a: Any) -> Any:
    return np.logaddexp(0, a)


def _sigmoid(a: Any) -> Any:
    e = np.exp(-np.abs(a))
    return np.where(np.asarray(a) >= 0, 1 / (1 + e), e / (1 + e))


def _erf(a: Any) -> Any:
    from scipy.special import erf

    return erf(a)


def _zmul(a: Any, b: Any) -> Any:
    return np.where(np.asarray(a) == 0, 0.0, np.multiply(a, b))


def _tanh_rule(g: Graph, ct: Node, y: Node, a: Node) -> tuple[Node]:
    if y.wild:
        slope = g.ew("sub", _const(g, 1.0), g.ew("square", y))
        return (g.ew("zmul", ct, slope),)
    return (g.ew("tanhbar", ct, y),)


def _div_rule(g: Graph, ct: Node, y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    abar = g.ew("zmul", ct, g.ew("recip", b))
    return abar, g.ew("neg", g.ew("zmul", abar, y))


def _pow_rule(g: Graph, ct: Node, y: Node, a: Node, b: Node) -> tuple[Node, Node | None]:
    below = g.ew("pow", a, g.ew("sub", b, _const(g, 1.0)))
    abar = g.ew("zmul", ct, g.ew("mul", b, below))
    if b.op == "const":
        return abar, None
    return abar, g.ew("zmul", ct, g.ew("zmul", y, g.ew("log", a)))


def _arctan2_rule(g: Graph, ct: Node, y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    r2 = g.ew("add", g.ew("square", a), g.ew("square", b))
    w = g.ew("zmul", ct, g.ew("recip", r2))
    return g.ew("zmul", w, b), g.ew("neg", g.ew("zmul", w, a))


def _extremum_rule(greater: bool) -> Rule:
    def rule(g: Graph, ct: Node, y: Node, a: Node, b: Node) -> tuple[Node, Node]:
        # the tie is shared, so that the rule is symmetric
        tie = g.ew("mul", g.ew("eq", a, b), _const(g, 0.5))
        left = g.ew("lt", b, a) if greater else g.ew("lt", a, b)
        right = g.ew("lt", a, b) if greater else g.ew("lt", b, a)
        return _times(g, ct, g.ew("add", left, tie)), _times(g, ct, g.ew("add", right, tie))

    return rule


def _erf_rule(g: Graph, ct: Node, y: Node, a: Node) -> tuple[Node]:
    e = g.ew("exp", g.ew("neg", g.ew("square", a)))
    return (_times(g, ct, g.ew("mul", e, _const(g, 2 / np.sqrt(np.pi)))),)


def _select_rule(g: Graph, ct: Node, y: Node, c: Node, a: Node, b: Node) -> tuple[Any, ...]:
    zero = _const(g, 0.0)
    return None, g.ew("select", c, ct, zero), g.ew("select", c, zero, ct)


# fmt: off
_op("copy", np.positive, lambda g, ct, y, a: (ct,))
_op("neg", np.negative, lambda g, ct, y, a: (g.ew("neg", ct),))
_op("abs", np.abs, lambda g, ct, y, a: (_times(g, ct, g.ew("sign", a)),), "x")
_op("sign", np.sign, None)
_op("square", np.square, lambda g, ct, y, a: (_times(g, ct, g.ew("add", a, a)),), "x")
_op("recip", np.reciprocal,
    lambda g, ct, y, a: (g.ew("neg", g.ew("zmul", ct, g.ew("square", y))),), "y", True)
_op("sqrt", np.sqrt,
    lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("div", _const(g, 0.5), y)),), "y", True)
_op("exp", np.exp, lambda g, ct, y, a: (g.ew("zmul", ct, y),), "y", True)
_op("expm1", np.expm1,
    lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("add", y, _const(g, 1.0))),), "y", True)
_op("log", np.log, lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("recip", a)),), "x", True)
_op("log1p", np.log1p,
    lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("recip", g.ew("add", a, _const(g, 1.0)))),),
    "x", True)
_op("sin", np.sin, lambda g, ct, y, a: (_times(g, ct, g.ew("cos", a)),), "x", True)
_op("cos", np.cos,
    lambda g, ct, y, a: (g.ew("neg", _times(g, ct, g.ew("sin", a))),), "x", True)
_op("tan", np.tan,
    lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("add", g.ew("square", y), _const(g, 1.0))),),
    "y", True)
_op("tanh", np.tanh, _tanh_rule, "y", True)
_op("sinh", np.sinh, lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("cosh", a)),), "x", True)
_op("cosh", np.cosh, lambda g, ct, y, a: (g.ew("zmul", ct, g.ew("sinh", a)),), "x", True)
_op("arctan", np.arctan,
    lambda g, ct, y, a: (
        g.ew("zmul", ct, g.ew("recip", g.ew("add", g.ew("square", a), _const(g, 1.0)))),
    ), "x", True)
_op("sigmoid", _sigmoid,
    lambda g, ct, y, a: (_times(g, ct, g.ew("mul", y, g.ew("sub", _const(g, 1.0), y))),),
    "y", True)
_op("softplus", _softplus, lambda g, ct, y, a: (_times(g, ct, g.ew("sigmoid", a)),), "x", True)
_op("erf", _erf, _erf_rule, "x", True)
_op("floor", np.floor, None)
_op("isnan", np.isnan, None)
_op("not", np.logical_not, None)
_op("add", np.add, lambda g, ct, y, a, b: (ct, ct))
_op("sub", np.subtract, lambda g, ct, y, a, b: (ct, g.ew("neg", ct)))
_op("mul", np.multiply, lambda g, ct, y, a, b: (_times(g, ct, b), _times(g, ct, a)), "x")
_op("div", np.divide, _div_rule, "xy", True)
_op("pow", np.power, _pow_rule, "xy", True)
_op("arctan2", np.arctan2, _arctan2_rule, "x", True)
_op("maximum", np.maximum, _extremum_rule(True), "x")
_op("minimum", np.minimum, _extremum_rule(False), "x")
_op("zmul", _zmul, lambda g, ct, y, a, b: (_times(g, ct, b), _times(g, ct, a)), "x")
_op("tanhbar", lambda a, b: a * (1 - b * b),
    lambda g, ct, y, a, b: (g.ew("tanhbar", ct, b),
                            g.ew("mul", ct, g.ew("mul", g.ew("mul", a, b), _const(g, -2.0)))), "x")
_op("lt", np.less, None)
_op("le", np.less_equal, None)
_op("eq", np.equal, None)
_op("ne", np.not_equal, None)
_op("and", np.logical_and, None)
_op("or", np.logical_or, None)
_op("select", lambda c, a, b: np.where(np.asarray(c) != 0, a, b), _select_rule, "x")
# fmt: on

assert set(OPS) == set(ELEMENTWISE)

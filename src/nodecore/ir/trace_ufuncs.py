"""What each NumPy and SciPy ufunc means on tracers, by name.

Functions without an op of their own are written with ops, so that they need no derivative rule:
each formula here is chosen so that its derivative, too, is right where the function is smooth.

One short function for each ufunc, in NumPy's order of topics; that is why the file is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .blame import trace_error
from .tracer import UFUNCS, Tracer, ew, lift

F = TypeVar("F", bound=Callable[..., Any])


def ufunc(*names: str) -> Callable[[F], F]:
    """Register a function as the meaning of the ufuncs ``names``."""

    def register(function: F) -> F:
        for name in names:
            UFUNCS[name] = function
        return function

    return register


def const(x: Tracer, value: float) -> Tracer:
    """A number in the graph of ``x``."""
    return lift(x.graph, value)


def _kind(a: Tracer, b: Tracer) -> str:
    return "f" if "f" in (a.kind, b.kind) else "i"


def _no_masks(name: str, *xs: Tracer) -> None:
    if any(x.kind == "b" for x in xs):
        raise trace_error(
            f"{name} of a mask (the result of a comparison)",
            "Write ~mask, or convert it: 1.0*mask.",
        )


# ---- arithmetic ---------------------------------------------------------------------------------


@ufunc("add")
def add(a: Tracer, b: Tracer) -> Tracer:
    if a.kind == b.kind == "b":
        return ew("or", a, b, kind="b")
    return ew("add", a, b, kind=_kind(a, b))


@ufunc("subtract")
def subtract(a: Tracer, b: Tracer) -> Tracer:
    if a.kind == b.kind == "b":
        _no_masks("the difference", a, b)
    return ew("sub", a, b, kind=_kind(a, b))


@ufunc("multiply")
def multiply(a: Tracer, b: Tracer) -> Tracer:
    if a.kind == b.kind == "b":
        return ew("and", a, b, kind="b")
    return ew("mul", a, b, kind=_kind(a, b))


@ufunc("divide", "true_divide")
def divide(a: Tracer, b: Tracer) -> Tracer:
    return ew("div", a, b)


@ufunc("negative")
def negative(a: Tracer) -> Tracer:
    _no_masks("the negative", a)
    return ew("neg", a, kind=a.kind)


@ufunc("positive", "conjugate")
def positive(a: Tracer) -> Tracer:
    return a.copy() if a.shape else a


@ufunc("square")
def square(a: Tracer) -> Tracer:
    return ew("square", a, kind=a.kind)


@ufunc("reciprocal")
def reciprocal(a: Tracer) -> Tracer:
    return ew("recip", a)


@ufunc("absolute", "fabs", "abs")
def absolute(a: Tracer) -> Tracer:
    return ew("abs", a, kind=a.kind)


@ufunc("sign")
def sign(a: Tracer) -> Tracer:
    return ew("sign", a, kind=a.kind)


def _integer_power(a: Tracer, n: int) -> Tracer:
    if n == 1:
        return a
    half = square(_integer_power(a, n // 2))
    return multiply(half, a) if n % 2 else half


@ufunc("power", "float_power")
def power(a: Tracer, b: Tracer) -> Tracer:
    """Small constant powers are products and roots: exact, and far cheaper than ``pow``."""
    if b.node.op == "const" and b.node.n == 1 and b.size == 1:
        p = float(b.node.data[0])
        shape = ew("add", a, b).shape if b.shape else a.shape
        if p == 0:
            return add(const(a, 1.0), Tracer(a.graph, a.graph.zeros(a.size), a.shape)).broadcast(
                shape
            )
        simple = None
        if p == int(p) and abs(p) <= 8:
            simple = _integer_power(a, abs(int(p)))
            if p < 0:
                simple = reciprocal(simple)
        elif abs(p) == 0.5:
            simple = sqrt(a) if p > 0 else reciprocal(sqrt(a))
        elif abs(p) == 1.5:
            simple = multiply(a, sqrt(a))
            if p < 0:
                simple = reciprocal(simple)
        if simple is not None:
            return positive(simple.broadcast(shape))
    return ew("pow", a, b)


@ufunc("floor_divide")
def floor_divide(a: Tracer, b: Tracer) -> Tracer:
    return ew("floor", ew("div", a, b), kind=_kind(a, b))


@ufunc("remainder", "mod")
def remainder(a: Tracer, b: Tracer) -> Tracer:
    return subtract(a, multiply(b, floor_divide(a, b)))


@ufunc("fmod")
def fmod(a: Tracer, b: Tracer) -> Tracer:
    return subtract(a, multiply(b, trunc(divide(a, b))))


@ufunc("divmod")
def divmod_(a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
    quotient = floor_divide(a, b)
    return quotient, subtract(a, multiply(b, quotient))


@ufunc("floor")
def floor(a: Tracer) -> Tracer:
    return ew("floor", a)


@ufunc("ceil")
def ceil(a: Tracer) -> Tracer:
    return negative(floor(negative(a)))


@ufunc("trunc", "fix")
def trunc(a: Tracer) -> Tracer:
    return select(less(a, const(a, 0.0)), ceil(a), floor(a))


@ufunc("rint")
def rint(a: Tracer) -> Tracer:
    """Halves go to the even neighbour."""
    up = floor(add(a, const(a, 0.5)))
    tie = equal(subtract(up, a), const(a, 0.5))
    return subtract(up, multiply(tie, remainder(up, const(a, 2.0))))


# ---- comparisons and masks ----------------------------------------------------------------------


@ufunc("less")
def less(a: Tracer, b: Tracer) -> Tracer:
    return ew("lt", a, b, kind="b")


@ufunc("less_equal")
def less_equal(a: Tracer, b: Tracer) -> Tracer:
    return ew("le", a, b, kind="b")


@ufunc("greater")
def greater(a: Tracer, b: Tracer) -> Tracer:
    return ew("lt", b, a, kind="b")


@ufunc("greater_equal")
def greater_equal(a: Tracer, b: Tracer) -> Tracer:
    return ew("le", b, a, kind="b")


@ufunc("equal")
def equal(a: Tracer, b: Tracer) -> Tracer:
    return ew("eq", a, b, kind="b")


@ufunc("not_equal")
def not_equal(a: Tracer, b: Tracer) -> Tracer:
    return ew("ne", a, b, kind="b")


@ufunc("logical_and")
def logical_and(a: Tracer, b: Tracer) -> Tracer:
    return ew("and", a, b, kind="b")


@ufunc("logical_or")
def logical_or(a: Tracer, b: Tracer) -> Tracer:
    return ew("or", a, b, kind="b")


@ufunc("logical_xor")
def logical_xor(a: Tracer, b: Tracer) -> Tracer:
    return ew("ne", truth(a), truth(b), kind="b")


@ufunc("logical_not")
def logical_not(a: Tracer) -> Tracer:
    return ew("not", a, kind="b")


def truth(a: Tracer) -> Tracer:
    """A mask of what is not zero."""
    return a if a.kind == "b" else ew("ne", a, const(a, 0.0), kind="b")


def _bitwise(name: str, logical: Any) -> None:
    def function(*xs: Tracer) -> Any:
        if any(x.kind != "b" for x in xs):
            raise trace_error(
                f"{name} of traced numbers; it combines masks (results of comparisons) only",
                "Put comparisons in parentheses: (a > 0) & (b > 0).",
            )
        return logical(*xs)

    UFUNCS[name] = function


_bitwise("bitwise_and", logical_and)
_bitwise("bitwise_or", logical_or)
_bitwise("bitwise_xor", logical_xor)
_bitwise("invert", logical_not)


@ufunc("isnan")
def isnan(a: Tracer) -> Tracer:
    return ew("isnan", a, kind="b")


@ufunc("isfinite")
def isfinite(a: Tracer) -> Tracer:
    return less(absolute(a), const(a, np.inf))


@ufunc("isinf")
def isinf(a: Tracer) -> Tracer:
    return equal(absolute(a), const(a, np.inf))


@ufunc("signbit")
def signbit(a: Tracer) -> Tracer:
    return less(a, const(a, 0.0))


def select(c: Tracer, a: Tracer, b: Tracer) -> Tracer:
    """np.where."""
    kind = "b" if a.kind == b.kind == "b" else _kind(a, b)
    return ew("select", c, a, b, kind=kind)


@ufunc("maximum")
def maximum(a: Tracer, b: Tracer) -> Tracer:
    return ew("maximum", a, b, kind=_kind(a, b))


@ufunc("minimum")
def minimum(a: Tracer, b: Tracer) -> Tracer:
    return ew("minimum", a, b, kind=_kind(a, b))


@ufunc("fmax")
def fmax(a: Tracer, b: Tracer) -> Tracer:
    return maximum(select(isnan(a), b, a), select(isnan(b), a, b))


@ufunc("fmin")
def fmin(a: Tracer, b: Tracer) -> Tracer:
    return minimum(select(isnan(a), b, a), select(isnan(b), a, b))


@ufunc("clip")
def clip(a: Tracer, lo: Tracer, hi: Tracer) -> Tracer:
    return minimum(maximum(a, lo), hi)


@ufunc("heaviside")
def heaviside(a: Tracer, at_zero: Tracer) -> Tracer:
    zero = const(a, 0.0)
    step = select(equal(a, zero), at_zero, less(zero, a))
    return select(isnan(a), a, step)


@ufunc("copysign")
def copysign(a: Tracer, b: Tracer) -> Tracer:
    return multiply(absolute(a), select(less(b, const(b, 0.0)), const(b, -1.0), const(b, 1.0)))


# ---- exponentials, logarithms, roots ------------------------------------------------------------


@ufunc("sqrt")
def sqrt(a: Tracer) -> Tracer:
    return ew("sqrt", a)


def root(a: Tracer) -> Tracer:
    """sqrt whose derivative at 0 is 0: the root of a sum of squares is a norm."""
    zero = const(a, 0.0)
    none = equal(a, zero)
    return select(none, zero, sqrt(select(none, const(a, 1.0), a)))


@ufunc("cbrt")
def cbrt(a: Tracer) -> Tracer:
    return multiply(sign(a), ew("pow", absolute(a), const(a, 1 / 3)))


@ufunc("exp")
def exp(a: Tracer) -> Tracer:
    return ew("exp", a)


@ufunc("exp2")
def exp2(a: Tracer) -> Tracer:
    return ew("pow", const(a, 2.0), a)


@ufunc("exp10")
def exp10(a: Tracer) -> Tracer:
    return ew("pow", const(a, 10.0), a)


@ufunc("expm1")
def expm1(a: Tracer) -> Tracer:
    return ew("expm1", a)


@ufunc("log")
def log(a: Tracer) -> Tracer:
    return ew("log", a)


@ufunc("log2")
def log2(a: Tracer) -> Tracer:
    return multiply(log(a), const(a, 1 / math.log(2)))


@ufunc("log10")
def log10(a: Tracer) -> Tracer:
    return multiply(log(a), const(a, 1 / math.log(10)))


@ufunc("log1p")
def log1p(a: Tracer) -> Tracer:
    return ew("log1p", a)


@ufunc("logaddexp")
def logaddexp(a: Tracer, b: Tracer) -> Tracer:
    """The larger plus softplus of the difference; selects keep it smooth where both are equal."""
    for x, y in ((a, b), (b, a)):
        if x.node.op == "const" and x.node.n == 1 and x.node.data[0] == 0:
            return ew("softplus", y).broadcast(broadcast(x, y))
    swap = less(a, b)
    return add(select(swap, b, a), ew("softplus", subtract(select(swap, a, b), select(swap, b, a))))


def broadcast(a: Tracer, b: Tracer) -> tuple[int, ...]:
    """The common shape of two."""
    return np.broadcast_shapes(a.shape, b.shape)


@ufunc("logaddexp2")
def logaddexp2(a: Tracer, b: Tracer) -> Tracer:
    ln2 = const(a, math.log(2))
    return divide(logaddexp(multiply(a, ln2), multiply(b, ln2)), ln2)


@ufunc("hypot")
def hypot(a: Tracer, b: Tracer) -> Tracer:
    return root(add(square(a), square(b)))


# ---- trigonometric and hyperbolic ---------------------------------------------------------------


@ufunc("sin")
def sin(a: Tracer) -> Tracer:
    return ew("sin", a)


@ufunc("cos")
def cos(a: Tracer) -> Tracer:
    return ew("cos", a)


@ufunc("tan")
def tan(a: Tracer) -> Tracer:
    return ew("tan", a)


def _cathetus(a: Tracer) -> Tracer:
    one = const(a, 1.0)
    return sqrt(multiply(subtract(one, a), add(one, a)))


@ufunc("arcsin", "asin")
def arcsin(a: Tracer) -> Tracer:
    return ew("arctan2", a, _cathetus(a))


@ufunc("arccos", "acos")
def arccos(a: Tracer) -> Tracer:
    return ew("arctan2", _cathetus(a), a)


@ufunc("arctan", "atan")
def arctan(a: Tracer) -> Tracer:
    return ew("arctan", a)


@ufunc("arctan2", "atan2")
def arctan2(a: Tracer, b: Tracer) -> Tracer:
    return ew("arctan2", a, b)


@ufunc("sinh")
def sinh(a: Tracer) -> Tracer:
    return ew("sinh", a)


@ufunc("cosh")
def cosh(a: Tracer) -> Tracer:
    return ew("cosh", a)


@ufunc("tanh")
def tanh(a: Tracer) -> Tracer:
    return ew("tanh", a)


@ufunc("arcsinh", "asinh")
def arcsinh(a: Tracer) -> Tracer:
    """Odd by selects, not by sign(): their derivatives at 0 are those of one side, not 0."""
    negate = less(a, const(a, 0.0))
    u = select(negate, negative(a), a)
    u2 = square(u)
    one = const(a, 1.0)
    r = log1p(add(u, divide(u2, add(one, sqrt(add(u2, one))))))
    return select(negate, negative(r), r)


@ufunc("arccosh", "acosh")
def arccosh(a: Tracer) -> Tracer:
    v = subtract(a, const(a, 1.0))
    return log1p(add(v, sqrt(multiply(v, add(v, const(a, 2.0))))))


@ufunc("arctanh", "atanh")
def arctanh(a: Tracer) -> Tracer:
    return multiply(subtract(log1p(a), log1p(negative(a))), const(a, 0.5))


@ufunc("deg2rad", "radians")
def deg2rad(a: Tracer) -> Tracer:
    return multiply(a, const(a, math.pi / 180))


@ufunc("rad2deg", "degrees")
def rad2deg(a: Tracer) -> Tracer:
    return multiply(a, const(a, 180 / math.pi))


# ---- scipy.special ------------------------------------------------------------------------------


@ufunc("expit")
def expit(a: Tracer) -> Tracer:
    return ew("sigmoid", a)


@ufunc("log_expit")
def log_expit(a: Tracer) -> Tracer:
    return negative(ew("softplus", negative(a)))


@ufunc("logit")
def logit(a: Tracer) -> Tracer:
    return subtract(log(a), log1p(negative(a)))


@ufunc("erf")
def erf(a: Tracer) -> Tracer:
    return ew("erf", a)


@ufunc("erfc")
def erfc(a: Tracer) -> Tracer:
    return subtract(const(a, 1.0), erf(a))


@ufunc("ndtr")
def ndtr(a: Tracer) -> Tracer:
    return multiply(add(erf(multiply(a, const(a, math.sqrt(0.5)))), const(a, 1.0)), const(a, 0.5))


@ufunc("xlogy")
def xlogy(a: Tracer, b: Tracer) -> Tracer:
    return ew("zmul", a, log(b))


@ufunc("xlog1py")
def xlog1py(a: Tracer, b: Tracer) -> Tracer:
    return ew("zmul", a, log1p(b))


@ufunc("entr")
def entr(a: Tracer) -> Tracer:
    return negative(ew("zmul", a, log(a)))

"""Splitting methods: a step of y' = sum_i f_i as flows of the parts, as data.

name      order  error  step of two parts, A and B
lie         1      -     A(h) B(h)
strang      2      1     A(h/2) B(h) A(h/2)
yoshida4    4      -     Strang(w h) Strang((1 - 2 w) h) Strang(w h), w = 1 / (2 - 2^(1/3))

error: the order of the estimate, which is the difference to Lie's step. The flow that is written
first is taken first. Parts beyond two are nested: A(h/2) B(h/2) C(h) B(h/2) A(h/2).

H. F. Trotter, Proc. Amer. Math. Soc. 10 (1959) 545-551; G. Strang, SIAM J. Numer. Anal. 5 (1968)
506-517; H. Yoshida, Phys. Lett. A 150 (1990) 262-268; docs/math/splitting.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .tableau import FloatArray, Rosenbrock, Tableau

SCHEMES = {"lie": 1, "strang": 2, "yoshida4": 4}


class Flow(NamedTuple):
    """Part ``part`` goes from ``start`` to ``start + size`` on its own clock, in steps."""

    part: int
    start: float
    size: float


@dataclass(frozen=True)
class Exponential:
    """The exact flow of a linear part, exp(h A); or, with ``phis``, the functions of h A that an
    exponential integrator needs."""

    name: str = "expm"
    phis: bool = False
    family: str = "expm"
    order: int = 1 << 20


EXPM = Exponential()


def _strang(n: int) -> list[tuple[int, float]]:
    halves = [(i, 0.5) for i in range(n - 1)]
    return [*halves, (n - 1, 1.0), *reversed(halves)]


def flows(scheme: str, n: int) -> tuple[Flow, ...]:
    """The flows of a step of ``n`` parts, in order; neighbours of one part are one flow.

    Examples
    --------
    >>> flows("strang", 2)[1]
    Flow(part=1, start=0.0, size=1.0)
    """
    if scheme == "lie":
        sizes = [(i, 1.0) for i in range(n)]
    elif scheme == "strang":
        sizes = _strang(n)
    else:
        w = 1 / (2 - 2 ** (1 / 3))
        sizes = [(i, w * s) for w in (w, 1 - 2 * w, w) for i, s in _strang(n)]
    merged: list[tuple[int, float]] = []
    for part, size in sizes:
        if merged and merged[-1][0] == part:
            size += merged.pop()[1]
        merged.append((part, size))
    clock = [0.0] * n
    out = []
    for k, (part, size) in enumerate(merged):
        last = all(p != part for p, _ in merged[k + 1 :])
        if last:  # every clock ends with the step, whatever rounding says
            size = 1.0 - clock[part]
        out.append(Flow(part, clock[part], size))
        clock[part] = 1.0 if last else clock[part] + size
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Composition:
    """A splitting method with the methods of its parts.

    Parameters
    ----------
    name : {"lie", "strang", "yoshida4", "etdrk4"}
        The scheme.
    of_parts : tuple of methods
        For each part the method of its flow.
    substeps : tuple of int
        For each part the steps that make a flow.
    """

    name: str
    of_parts: tuple[Tableau | Rosenbrock | Exponential, ...]
    substeps: tuple[int, ...]
    family: ClassVar[str] = "split"
    P: ClassVar[FloatArray] = np.ones((1, 1))  # there is no interpolant

    @property
    def order(self) -> int:
        """The scheme's, or what the parts' methods leave of it."""
        return min(SCHEMES.get(self.name, 4), *(m.order for m in self.of_parts))

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.name == "strang"

    @property
    def error_order(self) -> int:
        """Lie's order: the error estimate is O(h^2)."""
        return 1

    def kernel_form(self) -> dict[str, Any]:
        """What the kernels read (``nc_tableau``, ``nc_composition``)."""
        n = len(self.of_parts)
        exponential = self.name not in SCHEMES
        step = flows("lie" if exponential else self.name, n)
        lie = flows("lie", n) if self.adaptive else ()
        part, start, size = zip(*step, *lie, strict=True)
        nothing = np.zeros((1, 1))
        return {
            "n_step": 1, "gamma": 0.0, "filter_error": False,
            "A": nothing, "b": np.zeros(1), "c": np.zeros(1), "P": self.P, "b_err": None,
            "b_err2": None, "n_flows": len(step), "n_lie": len(lie),
            "exponential": exponential,
            "part": np.array(part, np.int32), "start": np.array(start), "size": np.array(size),
            "substeps": np.array(self.substeps, np.int32),
        }  # fmt: skip

    def __repr__(self) -> str:
        parts = ", ".join(m.name for m in self.of_parts)
        return f"<splitting {self.name}: order {self.order}, {parts}>"


@lru_cache(maxsize=256)
def composition(
    scheme: str,
    of_parts: tuple[Tableau | Rosenbrock | Exponential, ...],
    substeps: tuple[int, ...],
) -> Composition:
    """The same object for the same scheme and methods."""
    return Composition(scheme, of_parts, substeps)


@cache
def etdrk4() -> Composition:
    """The exponential integrator of order 4 for a linear part and another one.

    Its nonlinear stages are those of the classical Runge-Kutta method: S. M. Cox and P. C.
    Matthews, J. Comput. Phys. 176 (2002) 430-455, doi:10.1006/jcph.2002.6995.
    """
    from .explicit import BUILDERS

    return composition("etdrk4", (Exponential("phi", phis=True), BUILDERS["rk4"]()), (1, 1))

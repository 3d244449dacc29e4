"""`stability`: what a step does to y' = lambda y, read off a method's coefficients."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nodecore import methods, plot
from nodecore.methods import Method, order
from nodecore.methods.tableau import FloatArray
from nodecore.status import InputError

ComplexArray = npt.NDArray[np.complex128]


class Stability:
    """The linear stability of a method: a step multiplies y of y' = lambda y by R(h lambda).

    Attributes
    ----------
    method : str
        The method's name.
    real_limit : float
        |R(z)| <= 1 on [-real_limit, 0]: the longest stable step is ``real_limit / |lambda|`` for a
        negative real lambda. ``inf``: any step is stable.
    imaginary_limit : float
        The same on the imaginary axis, from -i to i times this number: 0 if a step amplifies every
        undamped oscillation, however short it is.
    a_stable : bool
        Whether |R(z)| <= 1 wherever Re z <= 0.
    l_stable : bool
        Whether moreover R(z) -> 0 for z -> infinity, so that what decays fast is gone after a step
        that is too long to follow it.
    at_infinity : float
        The limit of |R(z)| for z -> infinity.
    """

    def __init__(self, method: Method) -> None:
        assert not isinstance(method, methods.Auto)
        self._method: methods.Tableau | methods.Rosenbrock = method
        self._numerator, self._denominator = order.stability_function(method)
        self.method = method.name
        self.at_infinity = order.at_infinity(self._numerator, self._denominator)

    def R(self, z: npt.ArrayLike) -> Any:
        """The stability function.

        Parameters
        ----------
        z : complex array_like
            Step size times eigenvalue; any shape, infinity included.

        Returns
        -------
        complex array of the same shape (a number for a number)
        """
        x = np.asarray(z, np.complex128)
        n, d = len(self._numerator), len(self._denominator)
        far, infinite = np.abs(x) > 1, np.isinf(x)
        with np.errstate(all="ignore"):
            # Far out in powers of 1 / z, which neither overflow nor lose what cancels.
            w = np.where(infinite, 0, 1 / np.where(far, x, 1))
            outside = np.polyval(self._numerator, w) / np.polyval(self._denominator, w)
            if n > d:  # complex powers overflow to NaN
                outside = outside * np.where(far, x, 1) ** (n - d)
                outside = np.where(np.isfinite(outside) & ~infinite, outside, complex(np.inf))
            else:
                outside = outside * w ** (d - n)
            near = np.where(far, 0, x)
            inside = np.polyval(self._numerator[::-1], near) / np.polyval(
                self._denominator[::-1], near
            )
        return np.where(far, outside, inside)[()]

    @cached_property
    def real_limit(self) -> float:
        return order.real_limit(self._method)

    @cached_property
    def imaginary_limit(self) -> float:
        return order.imaginary_limit(self._method)

    @cached_property
    def a_stable(self) -> bool:
        return order.a_stable(self._method)

    @cached_property
    def l_stable(self) -> bool:
        return order.l_stable(self._method)

    def largest_step(self, eigenvalues: npt.ArrayLike) -> float:
        """The largest step that is stable, with all shorter ones, for each of some eigenvalues.

        Parameters
        ----------
        eigenvalues : complex array_like
            Of the Jacobian of the field. Those with a positive real part do not count: their growth
            is the problem's own, which accurate steps follow. (A real part that is rounding beside
            the largest eigenvalue counts as zero.)

        Returns
        -------
        float
            ``inf`` if no step is too long, 0 if none is short enough.

        Examples
        --------
        >>> from nodecore import stability
        >>> stability("euler").largest_step([-10.0, -1000.0])
        0.002
        """
        if self.a_stable:
            return float("inf")
        values = np.ravel(np.asarray(eigenvalues, np.complex128))
        rounding = 1e-9 * np.abs(values).max(initial=0)
        values = values[values.real <= rounding]
        # a conjugate pair has one limit
        values = np.unique(np.minimum(values.real, 0) + 1j * np.abs(values.imag))
        best = float("inf")
        for value in values[values != 0]:
            size = abs(value)
            if value.imag == 0:
                limit = self.real_limit
            elif value.real == 0:
                limit = self.imaginary_limit
            else:
                limit = order.ray_limit(self._numerator, self._denominator, value / size)
            best = min(best, limit / size)
        return float(best)

    def plot(self, ax: Any = None) -> Any:
        """Draw the region where |R| <= 1, and the limits on the axes.

        Needs matplotlib (``pip install nodecore[plot]``).

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        matplotlib.axes.Axes
        """
        return plot.stability(self, ax)

    def __repr__(self) -> str:
        method = self._method
        part = ", the implicit part" if method.family == "imex" else ""
        lines = [f"Stability of {self.method} (order {method.order}{part})"]
        lines.append(f"  R(z) = {self._formula()}")
        if self.a_stable:
            kind = "L-stable" if self.l_stable else "A-stable, not L-stable"
            lines.append(
                f"  {kind}: no step is too long for what decays; |R(inf)| = "
                f"{_number(self.at_infinity)}"
            )
        else:
            up = self.imaginary_limit
            imaginary = f"up to {_number(up)}i" if up > 0 else "nowhere"
            lines.append(
                f"  stable for h lambda down to -{_number(self.real_limit)} on the real axis, "
                f"{imaginary} on the imaginary axis"
            )
        return "\n".join(lines)

    def _formula(self) -> str:
        above = _polynomial(self._numerator)
        degree = len(self._denominator) - 1
        if degree == 0:
            return above
        gamma = -self._denominator[1] / degree
        power: FloatArray = np.ones(1)
        for _ in range(degree):
            power = np.convolve(power, [1.0, -gamma])
        size = np.convolve(np.ones(1), np.abs(power))
        if np.all(np.abs(power - self._denominator) <= 1e-12 * size):
            below = f"({_polynomial(np.array([1.0, -gamma]))})"
            below += f"^{degree}" if degree > 1 else ""
        else:
            below = f"({_polynomial(self._denominator)})"
        return f"({above}) / {below}" if len(self._numerator) > 1 else f"{above} / {below}"


def stability(method: str | Method) -> Stability:
    """How a method's steps multiply y of y' = lambda y, and for which steps that is stable.

    Parameters
    ----------
    method : str, Tableau or Rosenbrock
        A name or an alias of any family, also one that `solve` takes for a `Split` alone. Of an
        implicit-explicit method (kencarp4), the implicit part.

    Returns
    -------
    Stability
        With ``R(z)``, ``real_limit``, ``imaginary_limit``, ``a_stable``, ``l_stable``, ``plot()``.

    Raises
    ------
    InputError
        If there is no such method.

    Notes
    -----
    R(z) = 1 + z b^T (I - z A)^-1 1 for the coefficients A, b: Hairer & Wanner, Solving Ordinary
    Differential Equations II (1996), IV.2 and IV.3. The limits are roots of the polynomial
    |N|^2 - |D|^2 along a ray, with R = N / D.

    Examples
    --------
    >>> import nodecore as nc
    >>> nc.stability("rk4")
    Stability of rk4 (order 4)
      R(z) = 1 + z + z^2/2 + z^3/6 + z^4/24
      stable for h lambda down to -2.785 on the real axis, up to 2.828i on the imaginary axis
    >>> abs(nc.stability("euler").R(-2.5))  # |1 + z|: grows, although the solution decays
    np.float64(1.5)
    >>> nc.stability("backward_euler").l_stable
    True
    """
    if methods.get(method, (*methods.FAMILIES, "auto")).family == "auto":
        raise InputError(
            'method "auto" is two methods: look at nc.stability("tsit5") and '
            'nc.stability("kvaerno5")'
        )
    return Stability(methods.get(method, methods.FAMILIES))


def _number(x: float) -> str:
    return "inf" if np.isinf(x) else f"{x:.4g}"


# Denominators of a coefficient that is printed as a fraction: small, or a factorial.
_SIMPLE = (*range(1, 1000), 5040, 40320)


def _polynomial(p: FloatArray) -> str:
    """1 + z + z^2/2, the coefficients as fractions where they are simple ones."""
    terms: list[str] = []
    for k, c in enumerate(p):
        if c == 0:
            continue
        z = "" if k == 0 else "z" if k == 1 else f"z^{k}"
        near = Fraction(abs(float(c))).limit_denominator(_SIMPLE[-1])
        if abs(abs(c) - float(near)) <= 1e-12 * abs(c) and near.denominator in _SIMPLE:
            top = str(near.numerator) if near.numerator > 1 or not z else ""
            text = f"{top} {z}".strip() + (f"/{near.denominator}" if near.denominator > 1 else "")
        else:
            text = f"{abs(c):.4g} {z}".strip()
        sign = "-" if c < 0 else "+"
        terms.append(f" {sign} {text}" if terms else f"-{text}" if c < 0 else text)
    return "".join(terms) or "0"

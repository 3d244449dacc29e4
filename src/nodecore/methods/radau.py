"""Radau IIA collocation of order 5, in the form of the code RADAU5.

name    order  error  dense  stages  stability
radau5    5      3      4      3     L

Written with an explicit first stage of weight zero, the step before's last, it is in extended FSAL
form like every other method: c = (0, c_1, c_2, 1). Its three implicit stages are coupled; the
transformation T splits their Newton systems into a real and a complex one of the size of y
(docs/math/implicit-methods.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from .exact import (
    Vector,
    cbrt,
    inverse,
    lagrange,
    numbers,
    solve,
    sqrt,
    times,
    to_float,
    to_float2,
    transpose,
)
from .tableau import FloatArray, Tableau, _freeze

_NO_VECTOR: FloatArray = np.zeros(0)
_NO_MATRIX: FloatArray = np.zeros((0, 0))


@dataclass(frozen=True, eq=False, repr=False)
class Radau(Tableau):
    """A Radau IIA method of three implicit stages, with what its Newton iteration needs.

    With z_i = Y_i - y_n of the implicit stages, h k = A_inv z; with z = T w, the simplified Newton
    systems are

        (mu_real / h - J)     dw_1            = ...
        (mu_complex / h - J) (dw_2 + 1j dw_3) = ...

    Parameters
    ----------
    A_inv : (3, 3) array
        Inverse of the implicit part A[1:, 1:].
    T, T_inv : (3, 3) arrays
        T_inv A_inv T = [[mu_real, 0, 0], [0, alpha, -beta], [0, beta, alpha]].
    mu_real : float
        Real eigenvalue of A_inv.
    mu_complex : complex
        alpha + 1j beta.
    P_z : (3, 3) array
        The collocation polynomial y_n + sum_i z_i sum_k P_z[i, k] theta^(k+1), which at theta > 1
        is Newton's first guess for the next step; of order 3.
    e_z : (3,) array
        The error estimate is (mu_real / h - J)^-1 (f(t_n, y_n) + (1/h) sum_i e_z[i] z_i).

    Others as in `Tableau`; `b_err` is the same estimate in terms of k, without the filter.
    """

    A_inv: FloatArray = field(default_factory=lambda: _NO_MATRIX)
    T: FloatArray = field(default_factory=lambda: _NO_MATRIX)
    T_inv: FloatArray = field(default_factory=lambda: _NO_MATRIX)
    mu_real: float = 0.0
    mu_complex: complex = 0.0j
    P_z: FloatArray = field(default_factory=lambda: _NO_MATRIX)
    e_z: FloatArray = field(default_factory=lambda: _NO_VECTOR)

    def __post_init__(self) -> None:
        _freeze(self, ("A_inv", "T", "T_inv", "P_z", "e_z"))
        super().__post_init__()

    def _check(self) -> None:
        super()._check()
        eye = np.eye(3)
        alpha, beta = self.mu_complex.real, self.mu_complex.imag
        split = np.array([[self.mu_real, 0, 0], [0, alpha, -beta], [0, beta, alpha]])
        for what, product, want in (
            ("A_inv is not the inverse of A", self.A_inv @ self.A[1:, 1:], eye),
            ("T_inv is not the inverse of T", self.T_inv @ self.T, eye),
            ("T does not split A_inv", self.T_inv @ self.A_inv @ self.T, split),
            ("P_z misses the stages", self.c[1:, None] ** [1, 2, 3] @ self.P_z.T, eye),
            ("e_z is not b_err", -self.gamma * self.e_z @ self.A[1:, 1:], self._b_err()[1:]),
        ):
            self._require(bool(np.all(np.abs(product - want) < 1e-13)), what)

    def _b_err(self) -> FloatArray:
        return np.zeros(self.n_stages) if self.b_err is None else self.b_err

    def kernel_form(self) -> dict[str, Any]:
        """As of a `Tableau`, and what the iteration needs."""
        alpha, beta = self.mu_complex.real, self.mu_complex.imag
        more = {"A_inv": self.A_inv, "T": self.T, "T_inv": self.T_inv, "P_z": self.P_z}
        return super().kernel_form() | more | {"alpha": alpha, "beta": beta}

    @property
    def gamma(self) -> float:
        """1 / mu_real: the error is filtered with I - gamma h J."""
        return 1 / self.mu_real


def _eigenvectors(
    matrix: list[Vector], mu: Fraction, alpha: Fraction, beta: Fraction
) -> list[Vector]:
    """Columns v, x, y: the eigenvectors v of mu and x + i y of alpha - i beta, scaled to end in 1.

    Then matrix x = alpha x + beta y and matrix y = alpha y - beta x.
    """
    (a, b, e), (c, d, f), _ = matrix
    one, zero = mu**0, mu * 0
    real = [*solve([[a - mu, b], [c, d - mu]], [-e, -f]), one]
    p, q, r, s = solve(
        [
            [a - alpha, b, -beta, zero],
            [c, d - alpha, zero, -beta],
            [beta, zero, a - alpha, b],
            [zero, beta, c, d - alpha],
        ],
        [-e, -f, zero, zero],
    )
    return transpose([real, [p, q, one], [r, s, zero]])


def _radau5() -> Radau:
    root = sqrt(6)
    c = [(4 - root) / 10, (4 + root) / 10, root**0]
    A = [
        [(88 - 7 * root) / 360, (296 - 169 * root) / 1800, (-2 + 3 * root) / 225],
        [(296 + 169 * root) / 1800, (88 + 7 * root) / 360, (-2 - 3 * root) / 225],
        [(16 - root) / 36, (16 + root) / 36, Fraction(1, 9)],
    ]
    A_inv = inverse(A)
    # 1 / mu_real is a root of x^3 - 36 x^2 / 60 + 9 x / 60 - 1 / 60.
    third, square = cbrt(3), cbrt(9)
    mu = 3 + square - third
    alpha = 3 + (third - square) / 2
    beta = sqrt(3) * (third + square) / 2
    T = _eigenvectors(A_inv, mu, alpha, beta)
    e_z = [(-13 - 7 * root) / 3, (-13 + 7 * root) / 3, Fraction(-1, 3)]
    # b - b_hat: what (f + e_z.z / h) h / mu adds to y_{n+1}, with the sign turned.
    b_err = [-1 / mu, *(-value / mu for value in times(transpose(A), e_z))]
    # The quartic whose slope interpolates all four derivatives.
    dense = [[w / (k + 1) for k, w in enumerate(row)] for row in lagrange([root * 0, *c])]
    return Radau(
        name="radau5",
        order=5,
        c=to_float([root * 0, *c]),
        A=to_float2([numbers("0 0 0 0"), *([root * 0, *row] for row in A)]),
        b=to_float([root * 0, *A[2]]),
        P=to_float2(dense),
        dense_order=4,
        citation="E. Hairer and G. Wanner, Solving Ordinary Differential Equations II (1996), IV.5 "
        "and IV.8, and their code RADAU5",
        family="radau",
        aliases=("radau", "radauiia5", "radau_iia_5"),
        b_err=to_float(b_err),
        embedded_order=3,
        filter_error=True,
        A_inv=to_float2(A_inv),
        T=to_float2(T),
        T_inv=to_float2(inverse(T)),
        mu_real=float(mu),
        mu_complex=complex(alpha, beta),
        P_z=to_float2([row[1:] for row in lagrange([root * 0, *c])[1:]]),
        e_z=to_float(e_z),
    )


BUILDERS: dict[str, Callable[[], Tableau]] = {"radau5": _radau5}

"""Exact arithmetic for coefficients: everything is a Fraction until it is rounded once.

Irrational numbers enter as roots of `DIGITS` digits, far beyond what float64 keeps, so that sums
and products of them may cancel freely.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from .tableau import FloatArray

Vector: TypeAlias = list[Fraction]
Matrix: TypeAlias = list[list[Fraction]]

DIGITS = 60

_ZERO, _ONE = Fraction(0), Fraction(1)


def numbers(text: str, size: int = 0) -> Vector:
    """Exact numbers from "1/2 0.25 1e-3", padded with zeros to `size`."""
    values = [Fraction(token) for token in text.split()]
    return values + [_ZERO] * (size - len(values))


def sqrt(x: int) -> Fraction:
    """The square root to `DIGITS` decimals."""
    return Fraction(math.isqrt(x * 10 ** (2 * DIGITS)), 10**DIGITS)


def cbrt(x: int) -> Fraction:
    """The cube root to `DIGITS` decimals, by Newton's method on integers."""
    target = x * 10 ** (3 * DIGITS)
    root = 10 ** (len(str(target)) // 3 + 1)  # above the root: the iteration falls
    while True:
        step = (2 * root + target // root**2) // 3
        if step >= root:
            return Fraction(root, 10**DIGITS)
        root = step


def unit(size: int, index: int) -> Vector:
    """The unit vector e_index."""
    return [Fraction(int(i == index)) for i in range(size)]


def dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    """The inner product."""
    return sum((a * b for a, b in zip(x, y, strict=True)), _ZERO)


def times(matrix: Sequence[Sequence[Fraction]], x: Sequence[Fraction]) -> Vector:
    """Matrix times vector."""
    return [dot(row, x) for row in matrix]


def transpose(matrix: Sequence[Sequence[Fraction]]) -> Matrix:
    """The transposed matrix."""
    return [list(column) for column in zip(*matrix, strict=True)]


def solve(matrix: Sequence[Sequence[Fraction]], rhs: Sequence[Fraction]) -> Vector:
    """The solution of a square linear system.

    Raises
    ------
    ValueError
        If the matrix is singular.
    """
    n = len(rhs)
    rows = [[*row, value] for row, value in zip(matrix, rhs, strict=True)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
        if rows[pivot][k] == 0:
            raise ValueError("singular matrix")
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            if factor:
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    x = [_ZERO] * n
    for k in range(n - 1, -1, -1):
        x[k] = (rows[k][n] - dot(rows[k][k + 1 : n], x[k + 1 :])) / rows[k][k]
    return x


def inverse(matrix: Sequence[Sequence[Fraction]]) -> Matrix:
    """The inverse of a square matrix."""
    n = len(matrix)
    return transpose([solve(matrix, unit(n, k)) for k in range(n)])


def least_norm(matrix: Sequence[Sequence[Fraction]], rhs: Sequence[Fraction]) -> Vector:
    """The shortest solution of an underdetermined system of full rank: M^T (M M^T)^-1 rhs."""
    gram = [[dot(p, q) for q in matrix] for p in matrix]
    return times(transpose(matrix), solve(gram, rhs))


def polynomial_product(p: Sequence[Fraction], q: Sequence[Fraction]) -> Vector:
    """The product of two polynomials, ascending powers."""
    out = [_ZERO] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return out


def lagrange(nodes: Sequence[Fraction]) -> Matrix:
    """Lagrange's polynomials l_i of some nodes, ascending powers, one row a node."""
    rows = []
    for i, node in enumerate(nodes):
        row = [_ONE]
        for j, other in enumerate(nodes):
            if j != i:
                scale = 1 / (node - other)
                row = polynomial_product(row, [-other * scale, scale])
        rows.append(row)
    return rows


def nested(b: Vector, step: int, extra: Sequence[Vector] = ()) -> Matrix:
    """Expand Hairer's nested form of a C1 interpolant into powers of theta.

    With x = theta and z = 1 - theta,

        b(x) = x (r_0 + z (r_1 + x (r_2 + z (r_3 + x (r_4 + ...)))))
        r_0 = b,  r_1 = e_first - b,  r_2 = b - e_step - r_1,  r_3, ... = extra

    (Hairer, Norsett & Wanner I, II.6 and the functions CONTD5, CONTD8). Without `extra` this is
    the cubic Hermite interpolant; `extra` of one vector v adds x^2 z^2 v.
    """
    s = len(b)
    r1 = [f - w for f, w in zip(unit(s, 0), b, strict=True)]
    r2 = [w - e - r for w, e, r in zip(b, unit(s, step), r1, strict=True)]
    levels = [b, r1, r2, *extra]
    rows = [[_ZERO] * len(levels) for _ in range(s)]
    basis = [_ZERO, _ONE]  # ascending powers; grows by the factors x, z, x, z, ...
    for level, weights in enumerate(levels):
        for row, weight in zip(rows, weights, strict=True):
            for power, factor in enumerate(basis[1:]):
                row[power] += weight * factor
        basis = polynomial_product(basis, [_ZERO, _ONE] if level % 2 else [_ONE, -_ONE])
    return rows


def to_float(values: Sequence[Fraction]) -> FloatArray:
    """Each number rounded to float64."""
    return np.array([float(v) for v in values])


def to_float2(rows: Sequence[Sequence[Fraction]]) -> FloatArray:
    """Each entry of a matrix rounded to float64."""
    return np.array([[float(v) for v in row] for row in rows])

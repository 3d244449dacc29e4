"""Order conditions, stability functions, measured orders: what the coefficients are held to.

Order conditions are those of Butcher's theory of rooted trees (Hairer, Norsett & Wanner I, II.2;
docs/math/explicit-runge-kutta.md). Weights w are of order p if, for every tree t with
rho(t) <= p nodes,

    sum_i w_i Phi_i(t) = 1 / gamma(t),

with the density gamma and the elementary weights Phi defined recursively over the subtrees that
are left when the root is taken away:

    gamma(t)  = rho(t) prod_sub gamma(sub)
    Phi_i(t)  = prod_sub sum_j A[i, j] Phi_j(sub)
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .tableau import FloatArray, Tableau

# A rooted tree is the sorted tuple of its subtrees; () is the tree of one node.
Tree: TypeAlias = "tuple[Tree, ...]"


# ---- Rooted trees --------------------------------------------------------------------------------


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Partitions of `total` into parts of at most `largest`, parts descending."""
    if total == 0:
        yield ()
    for part in range(min(total, largest), 0, -1):
        for rest in _partitions(total - part, part):
            yield (part, *rest)


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of `order` nodes.

    Examples
    --------
    >>> [len(trees(n)) for n in range(1, 9)]
    [1, 1, 2, 4, 9, 20, 48, 115]
    """
    found: list[Tree] = []
    for sizes in _partitions(order - 1, order - 1):
        forests: list[Tree] = [()]
        for size in sorted(set(sizes)):
            choices = list(combinations_with_replacement(trees(size), sizes.count(size)))
            forests = [forest + choice for forest in forests for choice in choices]
        found.extend(tuple(sorted(forest)) for forest in forests)
    return tuple(found)


@cache
def rho(tree: Tree) -> int:
    """Number of nodes."""
    return 1 + sum(rho(sub) for sub in tree)


@cache
def density(tree: Tree) -> int:
    """gamma(t): the density of a tree."""
    value = rho(tree)
    for sub in tree:
        value *= density(sub)
    return value


class Condition(NamedTuple):
    """One order condition: sum_i w_i phi_i = 1 / density."""

    tree: Tree
    order: int
    density: int
    phi: FloatArray


def conditions(A: npt.ArrayLike, order: int) -> list[Condition]:
    """The order conditions that stages with weights A (s, s) impose, up to `order`."""
    matrix = np.asarray(A, dtype=np.float64)
    phis: dict[Tree, FloatArray] = {}
    out = []
    for n in range(1, order + 1):
        for tree in trees(n):
            phi: FloatArray = np.ones(len(matrix))
            for sub in tree:
                phi = phi * (matrix @ phis[sub])
            phis[tree] = phi
            out.append(Condition(tree, n, density(tree), phi))
    return out


# ---- Residuals -----------------------------------------------------------------------------------


def residual(A: npt.ArrayLike, weights: npt.ArrayLike, order: int) -> float:
    """Largest violation by step weights (s,) of the conditions up to `order`.

    Each violation is relative to max(1, sum_i |w_i phi_i|), the scale at which the sum is rounded.
    """
    w = np.asarray(weights, dtype=np.float64)
    worst = 0.0
    for condition in conditions(A, order):
        terms = w * condition.phi
        violation = abs(float(terms.sum()) - 1 / condition.density)
        worst = max(worst, violation / max(1.0, float(np.abs(terms).sum())))
    return worst


def dense_residual(A: npt.ArrayLike, P: npt.ArrayLike, order: int) -> float:
    """Largest violation by dense-output weights P (s, degree) of the conditions up to `order`.

    b_i(theta) is of order q if sum_i b_i(theta) Phi_i(t) = theta^rho(t) / gamma(t) for every theta
    and rho(t) <= q: as polynomials, so each power of theta gives one condition. Relative as in
    `residual`.
    """
    polynomials = np.asarray(P, dtype=np.float64)
    worst = 0.0
    for condition in conditions(A, order):
        terms = condition.phi[:, None] * polynomials
        want = np.zeros(max(polynomials.shape[1], condition.order))
        want[condition.order - 1] = 1 / condition.density
        got = np.zeros_like(want)
        got[: polynomials.shape[1]] = terms.sum(axis=0)
        scale = max(1.0, float(np.abs(terms).sum(axis=0).max()))
        worst = max(worst, float(np.abs(got - want).max()) / scale)
    return worst


def measured_order(steps: npt.ArrayLike, errors: npt.ArrayLike) -> float:
    """Slope of log(error) against log(step), by least squares.

    Parameters
    ----------
    steps, errors : (n,) array_like
        Positive step sizes and the errors made with them.

    Examples
    --------
    >>> round(measured_order([0.1, 0.05, 0.025], [1e-4, 6.25e-6, 3.90625e-7]), 6)
    4.0
    """
    x = np.log(np.asarray(steps, dtype=np.float64))
    y = np.log(np.asarray(errors, dtype=np.float64))
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


# ---- Linear stability ----------------------------------------------------------------------------


def stability_function(tableau: Tableau) -> tuple[FloatArray, FloatArray]:
    """R(z) = N(z) / D(z), the factor by which a step of y' = lambda y multiplies y, z = h lambda.

    Returns
    -------
    numerator, denominator : arrays of coefficients, ascending powers
        The denominator is [1] for an explicit method.

    Notes
    -----
    R(z) = 1 + z b^T (I - z A)^-1 1 = 1 + sum_k (b^T A^(k-1) 1) z^k. For triangular A,
    D(z) = prod_i (1 - z A[i, i]), and N = R D is a polynomial of degree s, so that it is given by
    the first s + 1 terms of the series.
    """
    s = tableau.n_step_stages
    A, b = tableau.A[:s, :s], tableau.b[:s]
    denominator: FloatArray = np.ones(1)
    for a in np.diagonal(A):
        if a != 0.0:
            denominator = np.convolve(denominator, [1.0, -a])
    series: FloatArray = np.ones(s + 1)
    power: FloatArray = np.ones(s)
    for k in range(1, s + 1):
        series[k] = b @ power
        power = A @ power
    numerator = np.convolve(series, denominator)[: s + 1]
    last = int(np.flatnonzero(numerator)[-1])
    return numerator[: last + 1], denominator


def _first_positive(p: FloatArray) -> float:
    """Where the polynomial p (ascending), starting at 0 <= 0, first becomes positive for x > 0."""
    nonzero = np.flatnonzero(p)
    if len(nonzero) == 0:
        return float("inf")
    p = p[nonzero[0] : nonzero[-1] + 1]  # dividing by a power of x keeps the sign
    if p[0] > 0:
        return 0.0
    roots = np.roots(p[::-1])
    # A multiple root comes out as a close cluster with imaginary parts: keep it as a candidate.
    real = np.sort(roots.real[(np.abs(roots.imag) < 1e-4 * np.abs(roots)) & (roots.real > 0)])
    for left, right in zip(real, [*real[1:], 2 * real[-1] + 1] if len(real) else [], strict=True):
        if np.polyval(p[::-1], 0.5 * (left + right)) > 0:
            return float(left)
    return float("inf")


def _squares(p: FloatArray, imaginary: bool) -> tuple[FloatArray, FloatArray]:
    """|p(-x)|^2 in powers of x, or |p(i sqrt x)|^2; and the size of the terms in each sum."""
    k = np.arange(len(p))
    if not imaginary:
        q = p * (-1.0) ** k
        return np.convolve(q, q), np.convolve(np.abs(q), np.abs(q))
    # conj(p(iw)) = p(-iw), so the odd powers of w cancel and w^(2m) has the sign (-1)^m.
    square = np.convolve(p, p * (-1.0) ** k)[::2] * (-1.0) ** k
    return square, np.convolve(np.abs(p), np.abs(p))[::2]


def _limit(tableau: Tableau, imaginary: bool) -> float:
    numerator, denominator = stability_function(tableau)
    n = max(len(numerator), len(denominator))
    num, num_size = _squares(np.pad(numerator, (0, n - len(numerator))), imaginary)
    den, den_size = _squares(np.pad(denominator, (0, n - len(denominator))), imaginary)
    excess = num - den
    # What the order conditions cancel is left as rounding; its sign must not decide.
    excess[np.abs(excess) <= 1e-13 * (num_size + den_size)] = 0.0
    return _first_positive(excess)


def real_limit(tableau: Tableau) -> float:
    """Largest x such that |R| <= 1 on [-x, 0] (inf if everywhere)."""
    return _limit(tableau, imaginary=False)


def imaginary_limit(tableau: Tableau) -> float:
    """Largest x such that |R| <= 1 on [-ix, ix] (inf if everywhere, 0 if nowhere)."""
    return float(np.sqrt(_limit(tableau, imaginary=True)))


# ---- Documentation -------------------------------------------------------------------------------


def markdown_table(tableaus: Iterable[Tableau]) -> str:
    """The table of docs/methods.md, made from the coefficients themselves."""

    def number(x: float) -> str:
        return "∞" if np.isinf(x) else f"{x:.4f}".rstrip("0").rstrip(".")

    rows = [
        "| method | order | embedded | dense | evaluations a step "
        "| real limit | imaginary limit | also known as | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for t in tableaus:
        extra = t.n_stages - t.n_step_stages
        cells = [
            f"`{t.name}`",
            str(t.order),
            "-" if t.embedded_order is None else str(t.embedded_order),
            str(t.dense_order),
            f"{t.evaluations} (+{extra})" if extra else str(t.evaluations),
            number(real_limit(t)),
            number(imaginary_limit(t)),
            ", ".join(f"`{alias}`" for alias in t.aliases) or "-",
            t.citation,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"

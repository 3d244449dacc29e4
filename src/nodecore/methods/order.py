"""Order conditions, stability functions, measured orders: what the coefficients are held to.

Order conditions are those of Butcher's theory of rooted trees (Hairer, Norsett & Wanner I, II.2;
docs/math/explicit-runge-kutta.md). Weights w are of order p if, for every tree t with
rho(t) <= p nodes,

    sum_i w_i Phi_i(t) = 1 / gamma(t),

with the density gamma and the elementary weights Phi defined recursively over the subtrees that
are left when the root is taken away:

    gamma(t)  = rho(t) prod_sub gamma(sub)
    Phi_i(t)  = prod_sub sum_j A[i, j] Phi_j(sub)

Of a Rosenbrock method, in its classical form, A is alpha where a node has several subtrees and
beta = alpha + Gamma where it has one (Hairer & Wanner II, IV.7). Of an additive method every branch
has either part's A, and the conditions hold for all choices (Kennedy & Carpenter 2003).
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations_with_replacement, product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .tableau import FloatArray, Rosenbrock, Tableau

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


def conditions(
    A: npt.ArrayLike, order: int, single: npt.ArrayLike | None = None
) -> list[Condition]:
    """The order conditions that stages with weights A (s, s) impose, up to `order`.

    `single` replaces A where a node has one subtree (a Rosenbrock method's alpha + Gamma).
    """
    matrix = np.asarray(A, dtype=np.float64)
    single = matrix if single is None else np.asarray(single, dtype=np.float64)
    phis: dict[Tree, FloatArray] = {}
    out = []
    for n in range(1, order + 1):
        for tree in trees(n):
            phi: FloatArray = np.ones(len(matrix))
            for sub in tree:
                phi = phi * ((single if len(tree) == 1 else matrix) @ phis[sub])
            phis[tree] = phi
            out.append(Condition(tree, n, density(tree), phi))
    return out


def additive_conditions(matrices: Sequence[npt.ArrayLike], order: int) -> list[Condition]:
    """The order conditions of an additive method: of trees whose branches are of several kinds."""
    kinds = [np.asarray(A, dtype=np.float64) for A in matrices]
    phis: dict[Tree, list[FloatArray]] = {}
    out: list[Condition] = []
    for n in range(1, order + 1):
        for tree in trees(n):
            branches = [[A @ phi for A in kinds for phi in phis[sub]] for sub in tree]
            phis[tree] = [
                np.prod([np.ones(len(kinds[0])), *choice], axis=0) for choice in product(*branches)
            ]
            out.extend(Condition(tree, n, density(tree), phi) for phi in phis[tree])
    return out


# ---- Residuals -----------------------------------------------------------------------------------


def classical(method: Tableau | Rosenbrock) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A, what replaces it at nodes of one subtree, and b: arguments of the order conditions."""
    if isinstance(method, Tableau):
        return method.A, method.A, method.b
    return method.alpha, method.alpha + method.Gamma, method.b


def _violation(weights: npt.ArrayLike, found: Iterable[Condition]) -> float:
    w = np.asarray(weights, dtype=np.float64)
    worst = 0.0
    for condition in found:
        terms = w * condition.phi
        violation = abs(float(terms.sum()) - 1 / condition.density)
        worst = max(worst, violation / max(1.0, float(np.abs(terms).sum())))
    return worst


def residual(
    A: npt.ArrayLike, weights: npt.ArrayLike, order: int, single: npt.ArrayLike | None = None
) -> float:
    """Largest violation by step weights (s,) of the conditions up to `order`.

    Each violation is relative to max(1, sum_i |w_i phi_i|), the scale at which the sum is rounded.
    """
    return _violation(weights, conditions(A, order, single))


def additive_residual(
    matrices: Sequence[npt.ArrayLike], weights: npt.ArrayLike, order: int
) -> float:
    """As `residual`, for an additive method."""
    return _violation(weights, additive_conditions(matrices, order))


def dense_residual(
    A: npt.ArrayLike, P: npt.ArrayLike, order: int, single: npt.ArrayLike | None = None
) -> float:
    """Largest violation by dense-output weights P (s, degree) of the conditions up to `order`.

    b_i(theta) is of order q if sum_i b_i(theta) Phi_i(t) = theta^rho(t) / gamma(t) for every theta
    and rho(t) <= q: as polynomials, so each power of theta gives one condition. Relative as in
    `residual`.
    """
    return _dense_violation(P, conditions(A, order, single))


def additive_dense_residual(
    matrices: Sequence[npt.ArrayLike], P: npt.ArrayLike, order: int
) -> float:
    """As `dense_residual`, for an additive method."""
    return _dense_violation(P, additive_conditions(matrices, order))


def _dense_violation(P: npt.ArrayLike, found: Iterable[Condition]) -> float:
    polynomials = np.asarray(P, dtype=np.float64)
    worst = 0.0
    for condition in found:
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


def stability_function(
    method: Tableau | Rosenbrock, weights: npt.ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """R(z) = N(z) / D(z), the factor by which a step of y' = lambda y multiplies y, z = h lambda.

    Parameters
    ----------
    method : Tableau or Rosenbrock
        Of an additive method, the implicit part.
    weights : (s,) array_like, optional
        Other weights than the step's: of the embedded solution, or dense-output weights. Of a
        Rosenbrock method, those of its k.

    Returns
    -------
    numerator, denominator : arrays of coefficients, ascending powers
        The denominator is [1] for an explicit method.

    Notes
    -----
    R(z) = 1 + z b^T (I - z A)^-1 1 = 1 + sum_k (b^T A^(k-1) 1) z^k, with A = alpha + Gamma for a
    Rosenbrock method. D(z) = det(I - z A), and N = R D is a polynomial of degree s, so that it is
    given by the first s + 1 terms of the series.
    """
    if isinstance(method, Tableau):
        s = method.n_step_stages
        A = method.A[:s, :s]
        b = method.b if weights is None else np.asarray(weights, dtype=np.float64)
        b = b[:s]
    else:
        s = method.n_stages
        A = method.alpha + method.Gamma
        b = method.b if weights is None else np.asarray(weights, dtype=np.float64) @ method.Gamma
    denominator: FloatArray = np.ones(1)
    if np.triu(A, 1).any():
        # z^s times the characteristic polynomial of A at 1 / z.
        denominator = np.poly(A).real
    else:
        for a in np.diagonal(A):
            if a != 0.0:
                denominator = np.convolve(denominator, [1.0, -a])
    series: FloatArray = np.ones(s + 1)
    power: FloatArray = np.ones(s)
    size, sizes = np.ones(s), np.ones(s + 1)
    for k in range(1, s + 1):
        series[k], sizes[k] = b @ power, np.abs(b) @ size
        power, size = A @ power, np.abs(A) @ size
    numerator = np.convolve(series, denominator)[: s + 1]
    if len(denominator) > 1:
        # Rounding must not pretend a degree: growth at infinity is decided by the last one.
        sizes = np.convolve(sizes, np.abs(denominator))[: s + 1]
        numerator[np.abs(numerator) <= 1e-13 * sizes] = 0.0
        denominator[np.abs(denominator) <= 1e-13 * sizes[: len(denominator)]] = 0.0
    return np.trim_zeros(numerator, "b"), np.trim_zeros(denominator, "b")


def at_infinity(numerator: FloatArray, denominator: FloatArray) -> float:
    """|N / D| for z -> infinity."""
    if len(numerator) != len(denominator):
        return 0.0 if len(numerator) < len(denominator) else float("inf")
    return float(abs(numerator[-1] / denominator[-1]))


def a_stable(method: Tableau | Rosenbrock) -> bool:
    """Whether |R| <= 1 in the whole left half-plane: on its edge, and R has no poles in it."""
    poles = np.roots(stability_function(method)[1][::-1])
    return bool(np.all(poles.real > 0)) and np.isinf(imaginary_limit(method))


def l_stable(method: Tableau | Rosenbrock) -> bool:
    """Whether the method is A-stable and R vanishes at infinity."""
    return a_stable(method) and at_infinity(*stability_function(method)) == 0.0


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


def _square(p: FloatArray, direction: complex) -> tuple[FloatArray, FloatArray]:
    """|p(x direction)|^2 in powers of x; and the size of the terms in each of its sums."""
    powers = np.cumprod(np.full(len(p), direction, complex)) / direction  # exact for -1 and 1j
    q = p * powers
    return np.convolve(q, q.conj()).real, np.convolve(np.abs(p), np.abs(p))


def ray_limit(numerator: FloatArray, denominator: FloatArray, direction: complex) -> float:
    """Largest x such that |N / D| <= 1 from 0 to x direction (inf if everywhere, 0 if nowhere).

    Parameters
    ----------
    numerator, denominator : arrays of coefficients, ascending powers
        As `stability_function` returns them.
    direction : complex
        Of size 1: -1 for the negative real axis, 1j for the imaginary one.

    Examples
    --------
    Of Euler's method, whose region is the disk of radius 1 around -1, at 45 degrees above the
    negative axis: a chord of length sqrt 2.

    >>> round(ray_limit(np.array([1.0, 1.0]), np.ones(1), np.exp(0.75j * np.pi)), 6)
    1.414214
    """
    n = max(len(numerator), len(denominator))
    num, num_size = _square(np.pad(numerator, (0, n - len(numerator))), direction)
    den, den_size = _square(np.pad(denominator, (0, n - len(denominator))), direction)
    excess = num - den
    # What the order conditions cancel is left as rounding; its sign must not decide.
    excess[np.abs(excess) <= 1e-13 * (num_size + den_size)] = 0.0
    return _first_positive(excess)


@cache
def real_limit(method: Tableau | Rosenbrock) -> float:
    """Largest x such that |R| <= 1 on [-x, 0] (inf if everywhere)."""
    return ray_limit(*stability_function(method), -1)


def imaginary_limit(method: Tableau | Rosenbrock) -> float:
    """Largest x such that |R| <= 1 on [-ix, ix] (inf if everywhere, 0 if nowhere)."""
    return ray_limit(*stability_function(method), 1j)


# ---- Documentation -------------------------------------------------------------------------------


def markdown_table(methods: Iterable[Tableau | Rosenbrock]) -> str:
    """The tables of docs/methods.md, made from the coefficients: explicit and implicit methods."""
    found = list(methods)
    explicit = [m for m in found if isinstance(m, Tableau) and m.explicit]
    implicit = [m for m in found if not m.explicit]
    tables = [_explicit_table(explicit)] if explicit else []
    return "\n".join([*tables, _implicit_table(implicit)] if implicit else tables)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heading), *lines[1:]]) + "\n"


def _orders(method: Tableau | Rosenbrock) -> list[str]:
    embedded = "-" if method.embedded_order is None else str(method.embedded_order)
    return [f"`{method.name}`", str(method.order), embedded, str(method.dense_order)]


def _source(method: Tableau | Rosenbrock) -> list[str]:
    return [", ".join(f"`{alias}`" for alias in method.aliases) or "-", method.citation]


def _explicit_table(tableaus: Iterable[Tableau]) -> str:
    def number(x: float) -> str:
        return "∞" if np.isinf(x) else f"{x:.4f}".rstrip("0").rstrip(".")

    heading = "method,order,embedded,dense,evaluations a step,real limit,imaginary limit"
    rows = []
    for t in tableaus:
        extra = t.n_stages - t.n_step_stages
        evaluations = f"{t.evaluations} (+{extra})" if extra else str(t.evaluations)
        limits = [number(real_limit(t)), number(imaginary_limit(t))]
        rows.append([*_orders(t), evaluations, *limits, *_source(t)])
    return _table([*heading.split(","), "also known as", "source"], rows)


def _implicit_table(methods: Iterable[Tableau | Rosenbrock]) -> str:
    heading = "method,order,embedded,dense,implicit stages,stability"
    rows = []
    for m in methods:
        stages = int(m.implicit.sum()) if isinstance(m, Tableau) else m.n_stages
        stability = "L" if l_stable(m) else "A" if a_stable(m) else "-"
        rows.append([*_orders(m), str(stages), stability, *_source(m)])
    return _table([*heading.split(","), "also known as", "source"], rows)

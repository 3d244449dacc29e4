"""All diagonally implicit Runge-Kutta coefficients, as data.

name            order  error  dense  solves  gamma   stability
backward_euler    1      -      1       1    1       L
trapezoid         2      -      2       1    1/2     A
trbdf2            2      2      2       2    0.2929  L
kvaerno3          3      2      3       3    0.4359  L
kvaerno5          5      4      4       6    0.26    L
kencarp4          4      3      3       5    1/4     L (implicit part)

error: order of the error estimate; solves: nonlinear systems a step, one for each implicit stage.

All have an explicit first stage and a step stage (extended FSAL form; docs/math/
implicit-methods.md). Numbers as in `explicit`: exact, or of 40 digits and more, rounded once.
"""

from collections.abc import Callable, Sequence

from .exact import (
    Matrix,
    Vector,
    dot,
    inverse,
    least_norm,
    numbers,
    solve,
    sqrt,
    times,
    to_float,
    to_float2,
)
from .exact import nested as nest
from .tableau import Tableau

# ---- From data to tableaus -----------------------------------------------------------------------

# The stages' derivatives are those of the solution up to O(h^3), for each has stage order 2; what
# a predictor matches beyond the square of time it cannot see.
_PREDICTED_DEGREE = 2


def _predictor(c: Vector, implicit: Sequence[bool]) -> Matrix:
    """Weights alpha with k_i ~ sum_j<i alpha_ij k_j, by one rule for all methods.

    Where an earlier stage than i has the same node, its derivative is the guess (the last one, if
    there are several). Else the shortest alpha that extrapolates 1, c, c^2 exactly, or as many of
    these as there are different nodes before.
    """
    rows = []
    for i, node in enumerate(c):
        row = [node * 0] * len(c)
        twins = [j for j in range(1, i) if c[j] == node]
        if implicit[i] and twins:
            row[twins[-1]] += 1
        elif implicit[i]:
            degree = min(_PREDICTED_DEGREE, len(set(c[:i])) - 1)
            moments = [[x**k for x in c[:i]] for k in range(degree + 1)]
            row[:i] = least_norm(moments, [node**k for k in range(degree + 1)])
        rows.append(row)
    return rows


def _build(
    name: str,
    order: int,
    A: Sequence[str] | Matrix,
    *,
    dense_order: int,
    citation: str,
    b: str | None = None,
    A_explicit: Sequence[str] = (),
    b_hat: str | Vector | None = None,
    embedded_order: int | None = None,
    filter_error: bool = False,
    dense: Sequence[str] | None = None,
    quartic: Vector | None = None,
    aliases: tuple[str, ...] = (),
) -> Tableau:
    """A tableau from exact data.

    `A` holds the rows below the first, with their diagonal; the last one is b, unless b is given:
    then the step stage is appended, to both parts of an additive method. c is the row sums. The
    dense output is given by `dense` in powers of theta, one row a stage, or it is the cubic
    Hermite interpolant plus theta^2 (1 - theta)^2 `quartic`.
    """
    given = [numbers(row) if isinstance(row, str) else row for row in A]
    appended = [numbers(b)] if b is not None else []
    s = 1 + len(given) + len(appended)
    matrix = [row + numbers("", s - len(row)) for row in [[], *given, *appended]]
    weights = matrix[-1]
    c = [sum(row, start=row[0] * 0) for row in matrix]
    error = None
    if b_hat is not None:
        values = numbers(b_hat, s) if isinstance(b_hat, str) else b_hat
        error = [w - v for w, v in zip(weights, values, strict=True)]
    if dense is not None:
        polynomials = [numbers(row) for row in dense]
    else:
        polynomials = nest(weights, s - 1, [] if quartic is None else [quartic])
    explicit = [numbers(row, s) for row in ["", *A_explicit, b]] if b is not None else None
    return Tableau(
        name=name,
        order=order,
        c=to_float(c),
        A=to_float2(matrix),
        b=to_float(weights),
        P=to_float2(polynomials),
        dense_order=dense_order,
        citation=citation,
        family="dirk" if explicit is None else "imex",
        aliases=aliases,
        b_err=None if error is None else to_float(error),
        embedded_order=embedded_order,
        predictor=to_float2(_predictor(c, [matrix[i][i] != 0 for i in range(s)])),
        A_explicit=None if explicit is None else to_float2(explicit),
        filter_error=filter_error,
    )


# ---- Fixed steps ---------------------------------------------------------------------------------


def _backward_euler() -> Tableau:
    return _build(
        "backward_euler",
        1,
        ["0 1"],
        # Linear, for explicit Euler's reason; and it keeps k_1, which may be huge, out.
        dense=["0", "1"],
        dense_order=1,
        aliases=("implicit_euler", "bdf1"),
        citation="C. F. Curtiss and J. O. Hirschfelder, Proc. Natl. Acad. Sci. 38 (1952) 235-243, "
        "doi:10.1073/pnas.38.3.235",
    )


def _trapezoid() -> Tableau:
    return _build(
        "trapezoid",
        2,
        ["1/2 1/2"],
        # The Hermite cubic, whose cubic term vanishes: the integral of the line through the slopes.
        dense=["1 -1/2", "0 1/2"],
        dense_order=2,
        aliases=("trapezoidal", "crank_nicolson"),
        citation="J. Crank and P. Nicolson, Proc. Camb. Phil. Soc. 43 (1947) 50-67, "
        "doi:10.1017/S0305004100023197",
    )


# ---- Embedded pairs ------------------------------------------------------------------------------


def _trbdf2() -> Tableau:
    d = 1 - sqrt(2) / 2
    w = sqrt(2) / 4
    return _build(
        "trbdf2",
        2,
        [[d, d], [w, w, d]],
        b_hat=[(1 - w) / 3, (3 * w + 1) / 3, d / 3],
        embedded_order=3,
        # The embedded solution grows like h J in stiff components.
        filter_error=True,
        dense_order=2,
        aliases=("tr_bdf2", "ode23tb"),
        citation="R. E. Bank et al., IEEE Trans. CAD 4 (1985) 436-451, "
        "doi:10.1109/TCAD.1985.1270142; M. E. Hosea and L. F. Shampine, Appl. Numer. Math. 20 "
        "(1996) 21-37, doi:10.1016/0168-9274(95)00115-8",
    )


def _kvaerno3() -> Tableau:
    # The middle root of 6 x^3 - 18 x^2 + 9 x - 1, for which R vanishes at infinity; the rest
    # follows from stage order 2, order 3 and order 2 of the stage before the last.
    g = numbers("0.435866521508458999416019451193556842529294092938425642485477")[0]
    a2 = (1 - 2 * g) / (4 * g)
    b2 = 1 / (12 * g * (1 - 2 * g))
    b3 = (1 - 2 * g) / 2 - 2 * g * b2
    third = [1 - g - a2, a2, g]
    return _build(
        "kvaerno3",
        3,
        [[g, g], third, [1 - g - b2 - b3, b2, b3, g]],
        b_hat=[*third, g * 0],
        embedded_order=2,
        dense_order=3,
        aliases=("kvaerno32", "esdirk32a", "kvaerno_4_2_3"),
        citation="A. Kvaerno, BIT 44 (2004) 489-502, doi:10.1023/B:BITN.0000046811.70614.38 "
        "(ESDIRK 3/2 a)",
    )


def _quartic(A: Matrix, gap: Vector) -> Vector:
    """v of an interpolant Hermite + theta^2 (1 - theta)^2 v of order 4, for kvaerno5.

    v must not change the conditions that the Hermite cubic satisfies (1, c, c^2; with stage order
    2 these are all up to order 3), give theta^4 its coefficient in the two of order 4 that are
    left (c^3 and A c^2), leave out the stages `gap` marks, and place the interpolant on a cubic at
    theta = 1/2 in the stiff limit (docs/math/implicit-methods.md): b_hat^T A^-1 c^3 = theta^3 over
    the implicit stages.
    """
    s = len(A)
    c = [sum(row, start=row[0] * 0) for row in A]
    zero, half = c[0], 1 / (c[0] + 2)
    squares = times(A, [x**2 for x in c])
    inner = inverse([row[1:] for row in A[1:]])
    stiff = [zero, *times(inner, [x**3 for x in c[1:]])]
    hermite = nest(A[-1], s - 1)
    middle = [dot(row, [half, half**2, half**3]) for row in hermite]
    conditions = [
        ([x**0 for x in c], zero),
        (c, zero),
        ([x**2 for x in c], zero),
        ([x**3 for x in c], 1 / (zero + 4)),
        (squares, 1 / (zero + 12)),
        (gap, zero),
        (stiff, (half**3 - dot(middle, stiff)) / half**4),
    ]
    return solve([row for row, _ in conditions], [value for _, value in conditions])


def _kvaerno5() -> Tableau:
    # Kvaerno's 17 digits, continued: docs/math/implicit-methods.md.
    rows = [
        "0.26 0.26",
        "0.13 0.840333209967908096317136048791526815405129 0.26",
        "0.223719614783205055916314389829052944199142"
        " 0.476755323197996998327892793727087416242924"
        " -0.0647089536311261513381616118065848828268062 0.26",
        "0.166485643232483215253515172536043004445221"
        " 0.104500188415917204115116724032896736245527"
        " 0.0363148227209871516165199375828520325190862"
        " -0.130907044510739985707174964570005240181909 0.26",
        "0.138556402312682249505497309116158145658177"
        " 0 -0.0424533720175204309888439972598216851252301"
        " 0.0244665789800314196596358151387910130556063"
        " 0.619430390724806761823710873004872526411447 0.26",
        "0.136597511776402914406278384414612703392123"
        " 0 -0.0549690879653837671248777311464863000910467"
        " -0.0411862672832104686829977695829629574159228"
        " 0.629933048990164031916106039266724653480638"
        " 0.0696247944820272894854910770481119006342081 0.26",
    ]
    A = [numbers(row, 7) for row in ["", *rows]]
    # c_6 = c_7 = 1 to the last digit, so that the predictor sees that they are equal.
    for row in A[5:]:
        row[0] += 1 - sum(row)
    return _build(
        "kvaerno5",
        5,
        A[1:],
        b_hat=A[5],
        embedded_order=4,
        dense_order=4,
        quartic=_quartic(A, numbers("0 1 0 0 0 0 0")),
        aliases=("kvaerno54", "esdirk54a", "kvaerno_7_4_5"),
        citation="A. Kvaerno, BIT 44 (2004) 489-502, doi:10.1023/B:BITN.0000046811.70614.38 "
        "(ESDIRK 5/4 a)",
    )


# ---- Additive pairs ------------------------------------------------------------------------------


def _kencarp4() -> Tableau:
    # The rows of the explicit part are the authors' rational approximations, exact to 1e-25.
    return _build(
        "kencarp4",
        4,
        [
            "1/4 1/4",
            "8611/62500 -1743/31250 1/4",
            "5012029/34652500 -654441/2922500 174375/388108 1/4",
            "15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4",
            "82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4",
        ],
        b="82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4",
        A_explicit=[
            "1/2",
            "13861/62500 6889/62500",
            "-116923316275/2393684061468 -2731218467317/15368042101831"
            " 9408046702089/11113171139209",
            "-451086348788/2902428689909 -2682348792572/7519795681897"
            " 12662868775082/11960479115383 3355817975965/11060851509271",
            "647845179188/3216320057751 73281519250/8382639484533 552539513391/3454668386233"
            " 3354512671639/8306763924573 4040/17871",
        ],
        b_hat="4586570599/29645900160 0 178811875/945068544 814220225/1159782912"
        " -3700637/11593932 61727/225920",
        embedded_order=3,
        dense_order=3,
        aliases=("ark436l2sa", "ark4"),
        citation="C. A. Kennedy and M. H. Carpenter, Appl. Numer. Math. 44 (2003) 139-181, "
        "doi:10.1016/S0168-9274(02)00138-1 (ARK4(3)6L[2]SA)",
    )


BUILDERS: dict[str, Callable[[], Tableau]] = {
    "backward_euler": _backward_euler,
    "trapezoid": _trapezoid,
    "trbdf2": _trbdf2,
    "kvaerno3": _kvaerno3,
    "kvaerno5": _kvaerno5,
}

IMEX_BUILDERS: dict[str, Callable[[], Tableau]] = {"kencarp4": _kencarp4}

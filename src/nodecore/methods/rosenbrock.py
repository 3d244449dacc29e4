"""All Rosenbrock coefficients, as data, in the form without products with J.

name          order  error  dense  solves  stability
rosenbrock23    2      2      2       3    L
rodas4          4      3      3       6    L
rodas5p         5      4      4       8    L

error: order of the error estimate; solves: linear systems a step, one a stage.

rosenbrock23 is exact; rodas4 is the published 16 digits continued to 40; rodas5p is published to 16
digits, which are kept as they are (docs/math/implicit-methods.md).
"""

from collections.abc import Callable, Sequence

from .exact import Vector, numbers, sqrt, to_float, to_float2
from .tableau import Rosenbrock


def _interpolant(m: Vector, H: Sequence[Vector]) -> list[Vector]:
    """B_i(theta) = theta (m + (1 - theta) (H_1 + theta H_2 + theta^2 H_3)), powers of theta."""
    s = len(m)
    rows = [numbers("", 2 + len(H)) for _ in range(s)]
    for i in range(s):
        rows[i][0] += m[i]
        for power, weights in enumerate(H):
            rows[i][power] += weights[i]
            rows[i][power + 1] -= weights[i]
    return rows


def _rodas(
    name: str,
    order: int,
    *,
    gamma: str,
    c: str,
    d: str,
    A: Sequence[str],
    C: Sequence[str],
    H: Sequence[str],
    added: int,
    embedded_order: int,
    dense_order: int,
    aliases: tuple[str, ...],
    citation: str,
) -> Rosenbrock:
    """A method whose last `added` stages start from the result of the stage before.

    `A` holds the rows below the first without those of these stages, which repeat the last one
    with further ones. y_{n+1} is the last stage's argument plus its k, which is the error.
    """
    rows = ["", *A]
    for _ in range(added):
        rows.append(rows[-1] + " 1")
    s = len(rows)
    m = numbers(rows[-1] + " 1", s)
    H_rows = [numbers(row, s) for row in H]
    return Rosenbrock(
        name=name,
        order=order,
        gamma=float(gamma),
        c=to_float(numbers(c)),
        d=to_float(numbers(d)),
        A=to_float2([numbers(row, s) for row in rows]),
        C=to_float2([numbers(row, s) for row in ["", *C]]),
        m=to_float(m),
        m_err=to_float(numbers("0 " * (s - 1) + "1")),
        P=to_float2(_interpolant(m, H_rows)),
        dense_order=dense_order,
        embedded_order=embedded_order,
        aliases=aliases,
        citation=citation,
    )


def _rosenbrock23() -> Rosenbrock:
    # Shampine & Reichelt's k_1, k_2, k_3 are k_1 / (h d), (k_1 + k_2) / (h d) and
    # (k_3 + e k_2 + 2 k_1) / (h d) here, with e = 6 + sqrt 2 (docs/math/implicit-methods.md).
    d = 1 / (2 + sqrt(2))
    e = 6 + sqrt(2)
    zero, half = d * 0, d**0 / 2
    return Rosenbrock(
        name="rosenbrock23",
        order=2,
        gamma=float(d),
        c=to_float([zero, half, 2 * half]),
        d=to_float([d, zero, -d]),
        A=to_float2([[zero] * 3, [half / d, zero, zero], [1 / d, 1 / d, zero]]),
        C=to_float2([[zero] * 3, [-1 / d, zero, zero], [-2 / d, -e / d, zero]]),
        m=to_float([1 / d, 1 / d, zero]),
        m_err=to_float([-1 / (6 * d), (2 - e) / (6 * d), -1 / (6 * d)]),
        P=to_float2([[1 / d, zero], [-2 / (1 - 2 * d), 1 / (d * (1 - 2 * d))], [zero, zero]]),
        dense_order=2,
        embedded_order=3,
        aliases=("ros23", "ode23s"),
        citation="L. F. Shampine and M. W. Reichelt, SIAM J. Sci. Comput. 18 (1997) 1-22, "
        "doi:10.1137/S1064827594276424",
    )


def _rodas4() -> Rosenbrock:
    return _rodas(
        "rodas4",
        4,
        gamma="0.25",
        c="0 0.386 0.21 0.63 1 1",
        d="0.25 -0.1043 0.1035 -0.0362 0 0",
        A=[
            "1.544",
            "0.9466785280815824440595066871806497604976 0.2557011698983280058952701035010780452963",
            "3.314825187068521065793610769896252828303"
            " 2.896124015972201763312191465354767708752"
            " 0.99864191399778142478317755905738227002",
            "1.22122450922664202064654963946291720003"
            " 6.019134481288630802722904844997651720538"
            " 12.53708332932087225058233844387018610151"
            " -0.6878860361058952935660092963249036723229",
        ],
        added=1,
        C=[
            "-5.6688",
            "-2.4300933568338746630538406473583731694 -0.2063599157091914263035490109261101855232",
            "-0.1073529058151367065388502743409880024317"
            " -9.594562251023358455228420517498667409085"
            " -20.47028614809615565454697286367018367304",
            "7.496443313967649018888597102480939091536"
            " -10.24680431464352291857944783088170309266"
            " -33.99990352819905207919148671672926677931"
            " 11.70890893206159682137201130385959375109",
            "8.083246795921524460596270561549038461505"
            " -7.981132988064894081464079074555332741007"
            " -31.52159432874371183382850704689084623898"
            " 16.3193054312313644487436632185132108986"
            " -6.058818238834053913246451843970223549298",
        ],
        H=[
            "10.12623508344586243254088667053857991659"
            " -7.487995877610170083614381421445056865394"
            " -34.80091861555746543778548401122805591357"
            " -7.99277170756882113134242942736849107311"
            " 1.025137723295662017105427884638479869971",
            "-0.6762803392801253343416642567806172644141"
            " 6.087714651680016766471432669546533849587"
            " 16.43084320892476171431629695522830253865"
            " 24.76722511418386063821409511705169934074"
            " -6.594389125716873588826922212535534614392",
        ],
        embedded_order=3,
        dense_order=3,
        aliases=("rodas", "rodas43"),
        citation="E. Hairer and G. Wanner, Solving Ordinary Differential Equations II (1996), "
        "VI.4, and their code RODAS",
    )


def _rodas5p() -> Rosenbrock:
    return _rodas(
        "rodas5p",
        5,
        gamma="0.21193756319429014",
        c="0 0.6358126895828704 0.4095798393397535 0.9769306725060716 0.4288403609558664 1 1 1",
        d="0.21193756319429014 -0.42387512638858027 -0.3384627126235924 1.8046452872882734"
        " 2.325825639765069 0 0 0",
        A=[
            "3",
            "2.849394379747939 0.45842242204463923",
            "-6.954028509809101 2.489845061869568 -10.358996098473584",
            "2.8029986275628964 0.5072464736228206 -0.3988312541770524 -0.04721187230404641",
            "-7.502846399306121 2.561846144803919 -11.627539656261098 -0.18268767659942256"
            " 0.030198172008377946",
        ],
        added=2,
        C=[
            "-14.155112264123755",
            "-17.97296035885952 -2.859693295451294",
            "147.12150275711716 -1.41221402718213 71.68940251302358",
            "165.43517024871676 -0.4592823456491126 42.90938336958603 -5.961986721573306",
            "24.854864614690072 -3.0009227002832186 47.4931110020768 5.5814197821558125"
            " -0.6610691825249471",
            "30.91273214028599 -3.1208243349937974 77.79954646070892 34.28646028294783"
            " -19.097331116725623 -28.087943162872662",
            "37.80277123390563 -3.2571969029072276 112.26918849496327 66.9347231244047"
            " -40.06618937091002 -54.66780262877968 -9.48861652309627",
        ],
        H=[
            "25.948786856663858 -2.5579724845846235 10.433815404888879 -2.3679251022685204"
            " 0.524948541321073 1.1241088310450404 0.4272876194431874 -0.17202221070155493",
            "-9.91568850695171 -0.9689944594115154 3.0438037242978453 -24.495224566215796"
            " 20.176138334709044 15.98066361424651 -6.789040303419874 -6.710236069923372",
            "11.419903575922262 2.8879645146136994 72.92137995996029 80.12511834622643"
            " -52.072871366152654 -59.78993625266729 -0.15582684282751913 4.883087185713722",
        ],
        embedded_order=4,
        dense_order=4,
        aliases=(),
        citation="G. Steinebach, BIT 63 (2023) 27, doi:10.1007/s10543-023-00967-x",
    )


BUILDERS: dict[str, Callable[[], Rosenbrock]] = {
    "rosenbrock23": _rosenbrock23,
    "rodas4": _rodas4,
    "rodas5p": _rodas5p,
}

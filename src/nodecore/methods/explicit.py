"""All explicit Runge-Kutta coefficients, as data.

name      order  error  dense  evaluations  real limit  imaginary limit
euler       1      -      1         1         2.00         0.00
midpoint    2      -      2         2         2.00         0.00
heun        2      1      2         2         2.00         0.00
ralston     2      -      2         2         2.00         0.00
ssprk3      3      -      3         3         2.51         1.73
rk4         4      -      3         4         2.79         2.83
rk38        4      -      3         4         2.79         2.83
bosh3       3      2      3         3         2.51         1.73
dopri5      5      4      4         6         3.31         1.00
tsit5       5      4      4         6         3.51         0.48
dop853      8      7      7        12 (+3)    6.39         5.96

error: order of the error estimate; evaluations: per accepted step, in brackets those that only a
step holding an output needs; limits: of absolute stability along the axes, in units of 1/h.

Every number is an exact fraction or a decimal of at least 28 digits; sums and products are exact
(`fractions.Fraction`), each result is rounded to float64 once. A tableau is built when first
asked for.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from .tableau import FloatArray, Tableau

_Vector = list[Fraction]


# ---- From data to tableaus -----------------------------------------------------------------------


def _numbers(text: str, size: int = 0) -> _Vector:
    """Exact numbers from "1/2 0.25 1e-3", padded with zeros to `size`."""
    values = [Fraction(token) for token in text.split()]
    return values + [Fraction(0)] * (size - len(values))


def _float(values: Sequence[Fraction]) -> FloatArray:
    return np.array([float(v) for v in values])


def _float2(rows: Sequence[Sequence[Fraction]]) -> FloatArray:
    return np.array([[float(v) for v in row] for row in rows])


def _nested(b: _Vector, step: int, extra: Sequence[_Vector] = ()) -> list[_Vector]:
    """Expand Hairer's nested form of a C1 interpolant into powers of theta.

    With x = theta and z = 1 - theta,

        b(x) = x (r_0 + z (r_1 + x (r_2 + z (r_3 + x (r_4 + ...)))))
        r_0 = b,  r_1 = e_first - b,  r_2 = b - e_step - r_1,  r_3, ... = extra

    (Hairer, Norsett & Wanner I, II.6 and the functions CONTD5, CONTD8). Without `extra` this is
    the cubic Hermite interpolant.
    """
    s = len(b)
    first = [Fraction(int(i == 0)) for i in range(s)]
    last = [Fraction(int(i == step)) for i in range(s)]
    r1 = [f - w for f, w in zip(first, b, strict=True)]
    r2 = [w - e - r for w, e, r in zip(b, last, r1, strict=True)]
    levels = [b, r1, r2, *extra]
    rows = [[Fraction(0)] * len(levels) for _ in range(s)]
    basis = [Fraction(0), Fraction(1)]  # ascending powers; grows by the factors x, z, x, z, ...
    for level, weights in enumerate(levels):
        for row, weight in zip(rows, weights, strict=True):
            for power, factor in enumerate(basis[1:]):
                row[power] += weight * factor
        shifted = [Fraction(0), *basis]
        if level % 2 == 0:  # times z
            basis = [p - q for p, q in zip([*basis, Fraction(0)], shifted, strict=True)]
        else:  # times x
            basis = shifted
    return rows


def _build(
    name: str,
    order: int,
    *,
    c: str,
    A: Sequence[str],
    citation: str,
    dense_order: int,
    b: str | None = None,
    b_hat: str | None = None,
    b_err: str | None = None,
    b_err2: str | None = None,
    embedded_order: int | None = None,
    error_order: int | None = None,
    n_step_stages: int | None = None,
    dense: Sequence[str] | None = None,
    nested: Sequence[str] = (),
    aliases: tuple[str, ...] = (),
) -> Tableau:
    """A tableau in extended FSAL form from exact data.

    `A` holds the rows below the first. With `b` the step stage is appended; without it the
    method has one already: stage `n_step_stages` (default the last), whose row is b. The error is
    given by `b_hat` or by `b_err`. `dense` is the interpolant in powers of theta, one row a stage;
    else `_nested` makes it, from `nested`.
    """
    rows = ["", *A]
    nodes = c
    if b is not None:
        rows, nodes = [*rows, b], c + " 1"
    s = len(rows)
    step = (n_step_stages or s) - 1
    matrix = [_numbers(row, s) for row in rows]
    weights = matrix[step]
    error = None if b_err is None else _numbers(b_err, s)
    if b_hat is not None:
        error = [w - v for w, v in zip(weights, _numbers(b_hat, s), strict=True)]
    if dense is not None:
        polynomials = [_numbers(row) for row in dense]
    else:
        polynomials = _nested(weights, step, [_numbers(row, s) for row in nested])
    return Tableau(
        name=name,
        order=order,
        c=_float(_numbers(nodes)),
        A=_float2(matrix),
        b=_float(weights),
        P=_float2(polynomials),
        dense_order=dense_order,
        citation=citation,
        family="explicit",
        aliases=aliases,
        b_err=None if error is None else _float(error),
        b_err2=None if b_err2 is None else _float(_numbers(b_err2, s)),
        embedded_order=embedded_order,
        error_order=error_order,
        n_step_stages=step + 1,
    )


# ---- Fixed steps ---------------------------------------------------------------------------------


def _euler() -> Tableau:
    return _build(
        "euler",
        1,
        c="0",
        A=[],
        b="1",
        # Linear. The leading error of the Hermite cubic, theta^2 (3 - 2 theta) h^2 y''/2, is
        # nowhere below that of the line, theta^2 h^2 y''/2, because y_{n+1} itself is that far off.
        dense=["1", "0"],
        dense_order=1,
        aliases=("forward_euler", "explicit_euler"),
        citation="L. Euler, Institutionum calculi integralis I (1768), section 650",
    )


def _midpoint() -> Tableau:
    return _build(
        "midpoint",
        2,
        c="0 1/2",
        A=["1/2"],
        b="0 1",
        dense_order=2,
        aliases=("explicit_midpoint", "rk2"),
        citation="C. Runge, Math. Ann. 46 (1895) 167-178, doi:10.1007/BF01446807",
    )


def _ralston() -> Tableau:
    return _build(
        "ralston",
        2,
        c="0 2/3",
        A=["2/3"],
        b="1/4 3/4",
        dense_order=2,
        citation="A. Ralston, Math. Comp. 16 (1962) 431-437, doi:10.1090/S0025-5718-1962-0150954-0",
    )


def _ssprk3() -> Tableau:
    return _build(
        "ssprk3",
        3,
        c="0 1 1/2",
        A=["1", "1/4 1/4"],
        b="1/6 1/6 2/3",
        dense_order=3,
        aliases=("ssprk33", "ssp33", "tvdrk3"),
        citation="C.-W. Shu and S. Osher, J. Comput. Phys. 77 (1988) 439-471, "
        "doi:10.1016/0021-9991(88)90177-5",
    )


def _rk4() -> Tableau:
    return _build(
        "rk4",
        4,
        c="0 1/2 1/2 1",
        A=["1/2", "0 1/2", "0 0 1"],
        b="1/6 1/3 1/3 1/6",
        dense_order=3,
        aliases=("runge_kutta4",),
        citation="W. Kutta, Z. Math. Phys. 46 (1901) 435-453",
    )


def _rk38() -> Tableau:
    return _build(
        "rk38",
        4,
        c="0 1/3 2/3 1",
        A=["1/3", "-1/3 1", "1 -1 1"],
        b="1/8 3/8 3/8 1/8",
        dense_order=3,
        aliases=("rk4_38", "three_eighths"),
        citation="W. Kutta, Z. Math. Phys. 46 (1901) 435-453",
    )


# ---- Embedded pairs ------------------------------------------------------------------------------


def _heun() -> Tableau:
    return _build(
        "heun",
        2,
        c="0 1",
        A=["1"],
        b="1/2 1/2",
        b_hat="1 0",
        embedded_order=1,
        dense_order=2,
        aliases=("heun2", "heun_euler", "adaptive_heun", "rk21"),
        citation="K. Heun, Z. Math. Phys. 45 (1900) 23-38; the embedded solution is Euler's",
    )


def _bosh3() -> Tableau:
    return _build(
        "bosh3",
        3,
        c="0 1/2 3/4 1",
        A=["1/2", "0 3/4", "2/9 1/3 4/9"],
        b_hat="7/24 1/4 1/3 1/8",
        embedded_order=2,
        dense_order=3,
        aliases=("rk23", "bs3", "bs32", "ode23", "bogacki_shampine"),
        citation="P. Bogacki and L. F. Shampine, Appl. Math. Lett. 2 (1989) 321-325, "
        "doi:10.1016/0893-9659(89)90079-7",
    )


def _dopri5() -> Tableau:
    return _build(
        "dopri5",
        5,
        c="0 1/5 3/10 4/5 8/9 1 1",
        A=[
            "1/5",
            "3/40 9/40",
            "44/45 -56/15 32/9",
            "19372/6561 -25360/2187 64448/6561 -212/729",
            "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
            "35/384 0 500/1113 125/192 -2187/6784 11/84",
        ],
        b_err="71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40",
        embedded_order=4,
        dense_order=4,
        nested=[
            "-12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072"
            " 701980252875/199316789632 -1453857185/822651844 69997945/29380423"
        ],
        aliases=("rk45", "dp5", "dopri54", "dormand_prince", "ode45"),
        citation="J. R. Dormand and P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26, "
        "doi:10.1016/0771-050X(80)90013-3; dense output: E. Hairer, S. P. Norsett and G. Wanner, "
        "Solving Ordinary Differential Equations I (1993), II.6",
    )


def _tsit5() -> Tableau:
    # Tsitouras' published coefficients with the digits that the order conditions add to them
    # (docs/math/explicit-runge-kutta.md); b_2(theta) and b_7(theta) are exact as published.
    return _build(
        "tsit5",
        5,
        c="0 0.161 0.327 0.9 0.980025540904509685729810286287024595494214 1 1",
        A=[
            "0.161",
            "-0.00848065549235698854442687425023077467512118"
            " 0.335480655492356988544426874250230774675121",
            "2.89715305710549343213043259419293876492489"
            " -6.3594484899750748431481599123838256259527"
            " 4.36229543286958141101772731819088686102781",
            "5.32586482843925660442887792084051131783648"
            " -11.7488835640628278777471703397857729618874"
            " 7.49553934288983620830460478456435815565868"
            " -0.0924950663617552492565020793320719161134998",
            "5.86145544294642002865925148698264789039434"
            " -12.9209693178471092917061186817833593954178"
            " 8.15936789857615864318040079453925348518192"
            " -0.0715849732814009972245305425258297386912721"
            " -0.0282690503940683829090030572127122414671763",
            "0.09646076681806522951816731316512876333712"
            " 0.01"
            " 0.47988965041449957477524953229059651991304"
            " 1.37900857410374189319227482185687277075646"
            " -3.29006951543608067990104758571136385011568"
            " 2.32471052409977398241535591839876579610906",
        ],
        b_err="0.00178001105222577144337855060753953477594468"
        " 0.000816434459656746903223636063354686240186254"
        " -0.00788087801026199601031472767252630423862873"
        " 0.144711007173262907537165147972635116720923"
        " -0.582357165452555225019937610652042179426078"
        " 0.458082105929186946661636518832554297442805"
        " -1/66",
        embedded_order=4,
        dense_order=4,
        dense=[
            "1 -2.76370619727482586867298836302768225993184"
            " 2.91325546182191265541864597871587957321216"
            " -1.0530884977290215572274903025230685499432",
            "0 0.1317 -0.2234 0.1017",
            "0 3.9302962368947515174092936694599854980878"
            " -5.94103387213150473571758920975758491652344"
            " 2.49062728565125279308354507258819593834868",
            "0 -12.4110771669336770387304733967118549368082"
            " 30.3381886302823216502300460808512009566422"
            " -16.5481028892449027183072978622824732490776",
            "0 37.5093134165110391789784391110647412519609"
            " -88.1789048947664010775610685649749379043846"
            " 47.379521962819281218681581868198832802308",
            "0 -27.8965262891972877889842710207851895533087"
            " 65.0918946747936715076299657151654422910537"
            " -34.8706578614966097362303387759814869416359",
            "0 3/2 -4 5/2",
        ],
        aliases=("tsitouras5", "tsit54"),
        citation="Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770-775, "
        "doi:10.1016/j.camwa.2011.06.002",
    )


def _dop853() -> Tableau:
    # Stages 1 to 12, the step stage 13, and three for the dense output. Hairer's error estimate
    # combines E5 (b_err) and E3 (b_err2: against weights 31/127, 1 - 31/127 - 3/136, 3/136).
    return _build(
        "dop853",
        8,
        c="0 0.0526001519587677318785587544488 0.0789002279381515978178381316732"
        " 0.11835034190722739672675719751 0.28164965809277260327324280249 1/3 1/4 4/13 127/195 3/5"
        " 6/7 1 1 1/10 1/5 7/9",
        A=[
            "0.0526001519587677318785587544488",
            "0.0197250569845378994544595329183 0.0591751709536136983633785987549",
            "0.0295875854768068491816892993775 0 0.0887627564304205475450678981324",
            "0.241365134159266685502369798665 0 -0.884549479328286085344864962717"
            " 0.924834003261792003115737966543",
            "1/27 0 0 0.170828608729473871279604482173 0.125467687566822425016691814123",
            "19/512 0 0 0.170252211019544039314978060272 0.0602165389804559606850219397283 -9/512",
            "0.0370920001185047927108779319836 0 0 0.170383925712239993810214054705"
            " 0.107262030446373284651809199168 -0.0153194377486244017527936158236"
            " 0.00827378916381402288758473766002",
            "0.624110958716075717114429577812 0 0 -3.36089262944694129406857109825"
            " -0.868219346841726006818189891453 27.5920996994467083049415600797"
            " 20.1540675504778934086186788979 -43.4898841810699588477366255144",
            "0.477662536438264365890433908527 0 0 -2.48811461997166764192642586468"
            " -0.590290826836842996371446475743 21.2300514481811942347288949897"
            " 15.2792336328824235832596922938 -33.2882109689848629194453265587"
            " -0.0203312017085086261358222928593",
            "-0.93714243008598732571704021658 0 0 5.18637242884406370830023853209"
            " 1.09143734899672957818500254654 -8.14978701074692612513997267357"
            " -18.5200656599969598641566180701 22.7394870993505042818970056734"
            " 2.49360555267965238987089396762 -3.0467644718982195003823669022",
            "2.27331014751653820792359768449 0 0 -10.5344954667372501984066689879"
            " -2.00087205822486249909675718444 -17.9589318631187989172765950534"
            " 27.9488845294199600508499808837 -2.85899827713502369474065508674"
            " -8.87285693353062954433549289258 12.3605671757943030647266201528"
            " 0.643392746015763530355970484046",
            "0.0542937341165687622380535766363 0 0 0 0 4.45031289275240888144113950566"
            " 1.89151789931450038304281599044 -5.8012039600105847814672114227"
            " 0.31116436695781989440891606237 -0.152160949662516078556178806805"
            " 0.201365400804030348374776537501 0.0447106157277725905176885569043",
            "0.0561675022830479523392909219681 0 0 0 0 0 0.253500210216624811088794765333"
            " -0.246239037470802489917441475441 -0.124191423263816360469010140626"
            " 0.15329179827876569731206322685 0.00820105229563468988491666602057"
            " 0.00756789766054569976138603589584 -0.008298",
            "0.0318346481635021405060768473261 0 0 0 0 0.0283009096723667755288322961402"
            " 0.0535419883074385676223797384372 -0.0549237485713909884646569340306 0 0"
            " -0.000108347328697249322858509316994 0.000382571090835658412954920192323"
            " -0.000340465008687404560802977114492 0.141312443674632500278074618366",
            "-0.428896301583791923408573538692 0 0 0 0 -4.69762141536116384314449447206"
            " 7.68342119606259904184240953878 4.06898981839711007970213554331"
            " 0.356727187455281109270669543021 0 0 0 -0.00139902416515901462129418009734"
            " 2.9475147891527723389556272149 -9.15095847217987001081870187138",
        ],
        b_err="0.01312004499419488073250102996 0 0 0 0 -1.225156446376204440720569753"
        " -0.4957589496572501915214079952 1.664377182454986536961530415"
        " -0.350328848749973681688648729 0.3341791187130174790297318841"
        " 0.08192320648511571246570742613 -0.02235530786388629525884427845",
        b_err2="-0.189800754072407615714702328875511 0 0 0 0 4.45031289275240888144113950566"
        " 1.89151789931450038304281599044 -5.8012039600105847814672114227"
        " -0.422682321323791962932445679177013 -0.152160949662516078556178806805"
        " 0.201365400804030348374776537501 0.0226517921983608258118062039631235",
        embedded_order=5,
        error_order=7,
        n_step_stages=13,
        dense_order=7,
        nested=[
            "-8.4289382761090128651353491142 0 0 0 0 0.5667149535193777696253178359"
            " -3.0689499459498916912797304727 2.384667656512069828772814968"
            " 2.1170345824450282767155149946 -0.8713915837779729920678990749"
            " 2.240437430260788275854177165 0.6315787787694688181557024929"
            " -0.0889903364513333108206981174 18.148505520854727256656404962"
            " -9.1946323924783554000451984436 -4.4360363875948939664310572",
            "10.427508642579134603413151009 0 0 0 0 242.28349177525818288430175319"
            " 165.20045171727028198505394887 -374.54675472269020279518312152"
            " -22.113666853125306036270938578 7.7334326684722638389603898808"
            " -30.674084731089398182061213626 -9.3321305264302278729567221706"
            " 15.697238121770843886131091075 -31.139403219565177677282850411"
            " -9.3529243588444783865713862664 35.81684148639408375246589854",
            "19.985053242002433820987653617 0 0 0 0 -387.03730874935176555105901742"
            " -189.17813819516756882830838328 527.80815920542364900561016686"
            " -11.573902539959630126141871134 6.8812326946963000169666922661"
            " -1.000605096691083840318386098 0.7777137798053443209286926574"
            " -2.7782057523535084065932004339 -60.196695231264120758267380846"
            " 84.320405506677161018159903784 11.99229113618278932803513003",
            "-25.693933462703749003312586129 0 0 0 0 -154.18974869023643374053993627"
            " -231.52937917604549567536039109 357.6391179106141237828534991"
            " 93.405324183624310003907691704 -37.458323136451633156875139351"
            " 104.09964950896230045147246184 29.840293426660503123344363579"
            " -43.533456590011143754432175058 96.3245539591882829483949506"
            " -39.177261675615439165231486172 -149.72683625798562581422125276",
        ],
        aliases=("dopri853", "dp8"),
        citation="E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential Equations "
        "I (1993), II.5 and II.6, and their code DOP853",
    )


# In the order of the documentation: by order, fixed before adaptive.
BUILDERS: dict[str, Callable[[], Tableau]] = {
    "euler": _euler,
    "midpoint": _midpoint,
    "heun": _heun,
    "ralston": _ralston,
    "ssprk3": _ssprk3,
    "rk4": _rk4,
    "rk38": _rk38,
    "bosh3": _bosh3,
    "dopri5": _dopri5,
    "tsit5": _tsit5,
    "dop853": _dop853,
}

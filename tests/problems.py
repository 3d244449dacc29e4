"""Initial value problems whose solutions are known, as plain NumPy fields.

The nonstiff DETEST set (T. E. Hull, W. H. Enright, B. M. Fellen & A. E. Sedgwick, Comparing
numerical methods for ordinary differential equations, SIAM J. Numer. Anal. 9 (1972); W. H. Enright
& J. D. Pryce, ACM TOMS 13 (1987)), from t = 0 to 20, and problems of Hairer, Nørsett & Wanner,
Solving Ordinary Differential Equations I. Where there is no closed form, the end value was computed
by Gragg's midpoint rule, extrapolated to order 20, in 80-bit arithmetic, at two tolerances that
agree to 1e-12; ``python tests/problems.py`` does so again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Problem:
    """y' = field(t, y), y(0) = y0; ``end`` is y(T).

    growth: how many tolerances the end may be off, by the problem's own sensitivity: the same for
    all methods.
    """

    name: str
    field: Callable[..., Any]
    y0: Any
    T: float
    end: Any
    growth: float = 30.0

    def __repr__(self) -> str:
        return self.name


PROBLEMS: dict[str, Problem] = {}

# y(T) where there is no closed form.
ENDS: dict[str, list[float]] = {
    "A5": [-0.7887826688964001],
    "B1": [0.6761876008576587, 0.1860816099640028],
    "B3": [2.061153622438617e-09, 0.05257228022048512, 0.9474277177183613],
    "B4": [0.9826950928006521, 2.198447081694928, 0.9129452507276279],
    "C1": [
        2.061153622438562e-09, 4.122307244877115e-08, 4.122307244877115e-07,
        2.748204829918077e-06, 1.374102414959038e-05, 5.496409659836154e-05,
        0.0001832136553278718, 0.0005234675866510623, 0.001308668966627656,
        0.997912740950865,
    ],
    "C2": [
        2.061153622438557e-09, 2.061153618190203e-09, 2.061153613941849e-09,
        2.061153609693495e-09, 2.061153605445141e-09, 2.061153601196786e-09,
        2.061153596948432e-09, 2.061153592700078e-09, 2.061153588455775e-09,
        0.9999999814496175,
    ],
    "C5": [
        -4.792730224323634, -2.420550725449023, -0.9212509306015124, -4.217310404035213,
        7.356202947498969, 3.223785985421211, 4.035559443262272, 17.19865528670555,
        7.478910794233703, -29.98759326324844, -4.107310937550929, -0.9277008321754406,
        -24.42125302518483, 23.81459045746554, 14.92096306951359, 0.3499208963063999,
        -0.5748487687912802, -0.2551694020879144, -0.5237040978903325,
        -0.2493000463579663, -0.08045341642044471, -0.387528923733411,
        0.05648603288767889, 0.03023606472143341, 0.04133856546712448,
        -0.2862393029841379, -0.1183032405136207, -0.1511986457359205,
        -0.2460068894318766, -0.03189687411323877,
    ],
    "E2": [2.008149762174948, -0.04250887527320248],
    "E3": [-0.1004178858647244, 0.241140013209593],
    "lotka_volterra": [10.21411065931456, 1.333808310563651],
    "lorenz": [-4.902687541134644, -3.743872921802903, 24.69085810279058],
    "brusselator": [0.4986370712683478, 4.596780349452011],
    "pendulum": [0.3854534534242395, -1.957866458887712],
    "pleiades": [
        0.3706139143968519, 3.237284092057223, -3.222559032418305, 0.659709145577526,
        0.3425581707156331, 1.562172101400642, -0.7003092922212147, -3.943437585517676,
        -3.271380973972553, 5.225081843456586, -2.590612434977478, 1.198213693392317,
        -0.2429682344935856, 1.091449240428981, 3.417003806313751, 1.3545845016255,
        -2.590065597810774, 2.025053734714331, -1.155815100160635, -0.807298817022279,
        0.5952396354210138, -3.741244961234381, 0.3773459685750577, 0.938685886955142,
        0.36679222272006, -0.3474046353808516, 2.344915448180931, -1.947020434263247,
    ],
}  # fmt: skip


def _problem(name: str, y0: Any, end: Any, T: float = 20.0, growth: float = 30.0) -> Any:
    """Register the decorated field; ``end``: a function of T, numbers, or None (in ENDS)."""

    def register(field: Callable[..., Any]) -> Callable[..., Any]:
        value = ENDS.get(name) if end is None else end(T) if callable(end) else end
        value = np.array(value, float).reshape(-1)
        start = np.array(y0, float).reshape(-1)
        PROBLEMS[name] = Problem(name, field, start, T, value, growth)
        return field

    return register


# ---- Class A: one equation ----------------------------------------------------------------------


@_problem("A1", 1.0, lambda t: np.exp(-t))
def decay(t, y):
    return -y


@_problem("A2", 1.0, lambda t: 1 / np.sqrt(1 + t))
def riccati(t, y):
    return -(y**3) / 2


@_problem("A3", 1.0, lambda t: np.exp(np.sin(t)))
def oscillating_growth(t, y):
    return y * np.cos(t)


@_problem("A4", 1.0, lambda t: 20 / (1 + 19 * np.exp(-t / 4)))
def logistic(t, y):
    return y / 4 * (1 - y / 20)


@_problem("A5", 4.0, None)
def spiral_curve(t, y):
    return (y - t) / (y + t)


# ---- Class B: small systems ---------------------------------------------------------------------


@_problem("B1", (1, 3), None)
def conflicting_populations(t, y):
    y1, y2 = y
    return [2 * (y1 - y1 * y2), -(y2 - y1 * y2)]


def _linear(A: Any, y0: Any) -> Callable[[float], Any]:
    """exp(A t) y0 for a symmetric A."""
    w, V = np.linalg.eigh(np.array(A, float))
    return lambda t: V @ (np.exp(w * t) * (V.T @ np.array(y0, float)))


@_problem("B2", (2, 0, 1), _linear([[-1, 1, 0], [1, -2, 1], [0, 1, -1]], (2, 0, 1)))
def linear_reaction(t, y):
    y1, y2, y3 = y
    return [-y1 + y2, y1 - 2 * y2 + y3, y2 - y3]


@_problem("B3", (1, 0, 0), None)
def nonlinear_reaction(t, y):
    y1, y2, _ = y
    return [-y1, y1 - y2**2, y2**2]


@_problem("B4", (3, 0, 0), None)
def torus(t, y):
    y1, y2, y3 = y
    r = np.sqrt(y1**2 + y2**2)
    return [-y2 - y1 * y3 / r, y1 - y2 * y3 / r, y1 / r]


@_problem("B5", (0, 1, 1), lambda t: special.ellipj(t, 0.51)[:3])
def rigid_body(t, y):
    y1, y2, y3 = y
    return [y2 * y3, -y1 * y3, -0.51 * y1 * y2]


# ---- Class C: moderate systems ------------------------------------------------------------------


def _first(n: int) -> Any:
    return np.eye(n)[0]


@_problem("C1", _first(10), None)
def decay_chain(t, y):
    return np.concatenate([-y[:1], y[:-2] - y[1:-1], y[8:9]])


@_problem("C2", _first(10), None)
def faster_decay_chain(t, y):
    k = np.arange(1.0, 10.0)
    flow = k * y[:9]
    return np.concatenate([-flow[:1], flow[:8] - flow[1:], flow[8:]])


def _laplacian(n: int) -> Any:
    return np.diag(-2 * np.ones(n)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)


@_problem("C3", _first(10), _linear(_laplacian(10), _first(10)))
def heat_10(t, y):
    return _laplacian(10) @ y


@_problem("C4", _first(51), _linear(_laplacian(51), _first(51)))
def heat_51(t, y):
    dy = -2 * y
    dy[1:] += y[:-1]
    dy[:-1] += y[1:]
    return dy


_K2 = 2.95912208286
_M0 = 1.00000597682
_M = np.array(
    [
        0.000954786104043,
        0.000285583733151,
        0.0000437273164546,
        0.0000517759138449,
        0.00000277777777778,
    ]
)
_PLANETS = [
    3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728,
    11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721,
    -21.1238353380, 28.4465098142, 15.3882659679, -0.557160570446, 0.505696783289, 0.230578543901,
    -0.415570776342, 0.365682722812, 0.169143213293, -0.325325669158, 0.189706021964,
    0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175, -0.176860753121,
    -0.216393453025, -0.0148647893090,
]  # fmt: skip


@_problem("C5", _PLANETS, None)
def five_bodies(t, y):
    x, v = y[:15].reshape(5, 3), y[15:]
    a = []
    for i in range(5):
        r = np.linalg.norm(x[i])
        acc = -(_M0 + _M[i]) * x[i] / r**3
        for j in range(5):
            if j != i:
                d = x[j] - x[i]
                acc = acc + _M[j] * (d / np.linalg.norm(d) ** 3 - x[j] / np.linalg.norm(x[j]) ** 3)
        a.append(_K2 * acc)
    return np.concatenate([v, *a])


# ---- Class D: orbits ----------------------------------------------------------------------------


def _kepler(e: float) -> Callable[[float], Any]:
    """Position and velocity on an orbit of eccentricity e, by Kepler's equation E - e sin E = t."""

    def end(t: float) -> Any:
        E = t
        for _ in range(60):
            E -= (E - e * np.sin(E) - t) / (1 - e * np.cos(E))
        c, s, b, r = np.cos(E), np.sin(E), np.sqrt(1 - e**2), 1 - e * np.cos(E)
        return [c - e, b * s, -s / r, b * c / r]

    return end


def orbit(t, y):
    x, z, u, w = y
    r3 = (x * x + z * z) ** 1.5
    return [u, w, -x / r3, -z / r3]


for _i, _e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), 1):
    _problem(f"D{_i}", (1 - _e, 0, 0, np.sqrt((1 + _e) / (1 - _e))), _kepler(_e), growth=300.0)(
        orbit
    )


# ---- Class E: second-order equations ------------------------------------------------------------


def _bessel(t: float) -> Any:
    """J_1/2(t + 1) and its derivative."""
    x = t + 1
    y = np.sqrt(2 / (np.pi * x))
    return [y * np.sin(x), y * (np.cos(x) - np.sin(x) / (2 * x))]


@_problem("E1", _bessel(0.0), _bessel)
def bessel(t, y):
    y1, y2 = y
    return [y2, -(y2 / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y1)]


@_problem("E2", (2, 0), None)
def van_der_pol(t, y):
    y1, y2 = y
    return [y2, (1 - y1**2) * y2 - y1]


@_problem("E3", (0, 0), None)
def duffing(t, y):
    y1, y2 = y
    return [y2, y1**3 / 6 - y1 + 2 * np.sin(2.78535 * t)]


def _falling(t: float) -> Any:
    a, b = 0.032, 0.4
    w = np.sqrt(a * b)
    return [30 + np.log(np.cosh(w * t)) / b, np.sqrt(a / b) * np.tanh(w * t)]


@_problem("E4", (30, 0), _falling)
def falling(t, y):
    _, v = y
    return [v, 0.032 - 0.4 * v**2]


def _pursuit(t: float) -> Any:
    q = 25 / (25 - t)
    return [(25 * np.log(q) - t + t**2 / 50) / 2, (q - 1 / q) / 2]


@_problem("E5", (0, 0), _pursuit)
def pursuit(t, y):
    _, v = y
    return [v, np.sqrt(1 + v**2) / (25 - t)]


# ---- Others -------------------------------------------------------------------------------------

_MU = 0.012277471
ARENSTORF_PERIOD = 17.0652165601579625588917206249


@_problem(
    "arenstorf",
    (0.994, 0, 0, -2.00158510637908252240537862224),
    (0.994, 0, 0, -2.00158510637908252240537862224),
    T=ARENSTORF_PERIOD,
    growth=5e4,
)
def arenstorf(t, y):
    x, z, u, w = y
    d1 = ((x + _MU) ** 2 + z**2) ** 1.5
    d2 = ((x - (1 - _MU)) ** 2 + z**2) ** 1.5
    return [
        u,
        w,
        x + 2 * w - (1 - _MU) * (x + _MU) / d1 - _MU * (x - (1 - _MU)) / d2,
        z - 2 * u - (1 - _MU) * z / d1 - _MU * z / d2,
    ]


@_problem("lotka_volterra", (10, 5), None)
def lotka_volterra(t, y):
    prey, predators = y
    return [1.1 * prey - 0.4 * prey * predators, 0.1 * prey * predators - 0.4 * predators]


@_problem("lorenz", (1, 1, 1), None, T=10.0, growth=500.0)
def lorenz(t, y):
    x, z, w = y
    return [10 * (z - x), x * (28 - w) - z, x * z - 8 / 3 * w]


@_problem("brusselator", (1.5, 3), None)
def brusselator(t, y):
    u, v = y
    return [1 + u**2 * v - 4 * u, 3 * u - u**2 * v]


@_problem("pendulum", (3.0, 0), None, growth=1000.0)
def pendulum(t, y):
    angle, velocity = y
    return [velocity, -np.sin(angle)]


@_problem("pleiades", [
    3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4,
    0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0,
], None, T=3.0, growth=500.0)  # fmt: skip
def pleiades(t, y):
    x, z = y[:7], y[7:14]
    dx, dz = x[None, :] - x[:, None], z[None, :] - z[:, None]
    r3 = (dx**2 + dz**2 + np.eye(7)) ** 1.5  # the diagonal is 0 / 1
    m = np.arange(1.0, 8.0)
    return np.concatenate([y[14:], (m * dx / r3).sum(axis=1), (m * dz / r3).sum(axis=1)])


# ---- Where the end values come from -------------------------------------------------------------


def reference(problem: Problem, tolerance: float) -> Any:
    """y(T) by extrapolation of Gragg's midpoint rule, ten columns, in 80-bit arithmetic."""
    real = np.longdouble
    t, y, T = real(0), problem.y0.astype(real), real(problem.T)
    h = T / 50

    def f(t: Any, y: Any) -> Any:
        return np.array(problem.field(t, y), real).reshape(-1)

    while t < T:
        h = min(h, T - t)
        table: list[list[Any]] = []
        for i in range(10):
            n = 2 * (i + 1)
            s = h / n
            before, here = y, y + s * f(t, y)
            for k in range(1, n):
                before, here = here, before + 2 * s * f(t + k * s, here)
            row = [(before + here + s * f(t + h, here)) / 2]
            for j in range(i):
                ratio = (real(n) / (2 * (i - j))) ** 2
                row.append(row[j] + (row[j] - table[i - 1][j]) / (ratio - 1))
            table.append(row)
        error = np.abs(table[-1][-1] - table[-1][-2]) / (1e-3 + np.abs(y))
        error = max(float(error.max()) / tolerance, 1e-30)
        if error <= 1:
            t, y = t + h, table[-1][-1]
        h *= min(3.0, max(0.2, 0.8 * error ** (-1 / 19)))
    return y


def main() -> None:
    """Print ENDS, with the difference to a second tolerance and to the closed form."""
    for name, problem in PROBLEMS.items():
        tight, loose = reference(problem, 1e-16), reference(problem, 1e-14)
        apart = float(np.max(np.abs(tight - loose) / (1e-3 + np.abs(tight))))
        text = ", ".join(f"{float(x):.16g}" for x in tight)
        known = ""
        if name not in ENDS:
            known = f", {float(np.max(np.abs(tight - problem.end))):.0e} from the closed form"
        print(f'    "{name}": [{text}],  # {apart:.0e}{known}', flush=True)


if __name__ == "__main__":
    main()

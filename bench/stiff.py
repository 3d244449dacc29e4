"""Every kind of method on three stiff problems and a smooth one: the tables of docs/stiff.md.

    python bench/stiff.py             # measures, rewrites the tables
    python bench/stiff.py --repeats 1 # quick and rough
    python bench/stiff.py --dry       # prints the tables only

Each row is one solve of one sample at rtol = 1e-6 through eleven output times, the best of several
on one thread, without tracing. Error: against radau5 at rtol = 1e-12 with stops
at the outputs, the largest over outputs and components, relative to each component's largest size.

Gradients are those of A at the last time of Robertson's problem in the logarithms of the rates,
solve and vjp together; their error is relative to that of radau5 at rtol = 1e-12. The continuous
adjoint has tolerances of its own, since lambda is not measured like y.
"""

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from which_gradient import processor

import nodecore as nc

PAGE = Path(__file__).parents[1] / "docs" / "stiff.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
METHODS = ["kvaerno5", "radau5", "rodas5p", "trbdf2", "auto", "tsit5"]
LIMIT = 200_000
LOG_RATES = np.log([0.04, 3e7, 1e4])
GRADIENTS = {
    "kvaerno5, discrete": ("kvaerno5", "discrete"),
    "radau5, discrete": ("radau5", "discrete"),
    "rodas5p, discrete": ("rodas5p", "discrete"),
    "trbdf2, discrete": ("trbdf2", "discrete"),
    "auto, discrete": ("auto", "discrete"),
    "kvaerno5, discrete, 8 KiB": ("kvaerno5", nc.Discrete(memory="8 KiB")),
    "kvaerno5, continuous": ("kvaerno5", nc.Continuous("gauss", rtol=1e-6, atol=1e-8)),
    "radau5, continuous": ("radau5", nc.Continuous("gauss", rtol=1e-6, atol=1e-8)),
}


@dataclass(frozen=True)
class Problem:
    name: str
    what: str
    field: Callable[..., Any]
    y0: list[float]
    t: Any
    atol: Any


def kinetics(t, y, log_rates):
    k = np.exp(log_rates)
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b**2, k[2] * b * c
    return [back - slow, slow - back - fast, fast]


def robertson(t, y):
    return kinetics(t, y, LOG_RATES)


def oregonator(t, y):
    a, b, c = y
    return [77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)]


def van_der_pol(t, y):
    x, v = y
    return [v, 1000 * (1 - x**2) * v - x]


def kepler(t, y):
    x, z, u, w = y
    r3 = (x**2 + z**2) ** 1.5
    return [u, w, -x / r3, -z / r3]


PROBLEMS = [
    Problem("Robertson", "t = 0 to 1e5, outputs at powers of ten", robertson, [1.0, 0.0, 0.0],
            np.concatenate([[0.0], np.logspace(-4, 5, 10)]), [1e-8, 1e-12, 1e-8]),
    Problem("OREGO", "t = 0 to 360", oregonator, [1.0, 2.0, 3.0], np.linspace(0, 360, 11), 1e-6),
    Problem("van der Pol", "mu = 1000, t = 0 to 2000", van_der_pol, [2.0, 0.0],
            np.linspace(0, 2000, 11), 1e-6),
    Problem("Orbit", "Kepler's problem, eccentricity 0.3, t = 0 to 30; not stiff", kepler,
            [0.7, 0.0, 0.0, (1.3 / 0.7) ** 0.5], np.linspace(0, 30, 11), 1e-9),
]  # fmt: skip


def reference(p: Problem) -> np.ndarray:
    return nc.solve(
        p.field, p.y0, p.t, method="radau5", rtol=1e-12, atol=np.multiply(p.atol, 1e-6), tstops=True
    ).y


def measure(p: Problem, method: str, exact: np.ndarray, repeats: int) -> str:
    best, end = np.inf, ""
    for _ in range(repeats + 1):  # the first one traces
        begin = time.perf_counter()
        try:
            sol = nc.solve(
                p.field, p.y0, p.t, method=method, rtol=1e-6, atol=p.atol, max_steps=LIMIT,
                threads=1,
            )  # fmt: skip
        except nc.SolveError as failure:
            assert failure.solution is not None and failure.t is not None
            sol, end = failure.solution, f"stopped at t = {failure.t:.3g}"
        best = min(best, time.perf_counter() - begin)
    s = sol.stats
    error = np.max(np.abs(sol.y - exact) / np.abs(exact).max(axis=0))
    return (
        f"| {method} | {s.accepted + s.rejected:,} | {s.nfev:,} | {s.njev:,} | {s.nlu:,} "
        f"| {1e3 * best:.3g} ms | {end or f'{error:.1e}'} |"
    )


def gradient(method: str, adjoint: Any, rtol: float, atol: Any) -> tuple[np.ndarray, Any]:
    p = PROBLEMS[0]
    sol = nc.solve(
        kinetics, p.y0, p.t, LOG_RATES, method=method, adjoint=adjoint, rtol=rtol, atol=atol,
        threads=1,
    )  # fmt: skip
    dy = np.zeros_like(sol.y)
    dy[-1, 0] = 1.0
    return sol.vjp(dy).params, sol.stats


def gradients(repeats: int) -> list[str]:
    atol = np.array(PROBLEMS[0].atol)
    exact = gradient("radau5", "discrete", 1e-12, 1e-6 * atol)[0]
    lines = ["| gradient | time | kept | error |", "|---|---:|---:|---:|"]
    for name, (method, adjoint) in GRADIENTS.items():
        best = np.inf
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            g, stats = gradient(method, adjoint, 1e-6, atol)
            best = min(best, time.perf_counter() - begin)
        error = np.linalg.norm(g - exact) / np.linalg.norm(exact)
        kept = f"{stats.storage_bytes / 1024:.3g} KiB"
        lines.append(f"| {name} | {1e3 * best:.3g} ms | {kept} | {error:.1e} |")
    return lines


def table(repeats: int) -> str:
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d')}: {processor()}, one thread, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, nodecore {nc.__version__}; "
        f"rtol = 1e-6, at most {LIMIT:,} steps."
    ]
    for p in PROBLEMS:
        exact = reference(p)
        atol = f"{p.atol:g}" if np.ndim(p.atol) == 0 else ", ".join(f"{a:g}" for a in p.atol)
        lines += [
            f"\n**{p.name}**: {p.what} (atol = {atol}).\n",
            "| method | steps | evaluations | Jacobians | factorisations | time | error |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(measure(p, method, exact, repeats) for method in METHODS),
        ]
    lines += ["\n**Gradients** on Robertson's problem, with the same tolerances.\n"]
    return "\n".join(lines + gradients(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", nc.StiffnessWarning)  # of tsit5: it is what is measured
    text = table(options.repeats)
    print(text)
    if not options.dry:
        before, rest = PAGE.read_text("utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()

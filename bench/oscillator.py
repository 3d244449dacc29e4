"""How exact gradients of a relaxation oscillator are: the tables of docs/which-gradient.md.

    python bench/oscillator.py

The problem is S6v-1 of cases.py. Errors are relative to its reference, of the gradient in all
weights; times are the least of three calls, of the solve and its gradient.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import cases
import numpy as np

import nodecore as nc

METHODS = ("kvaerno5", "rodas5p", "auto", "radau5")
EXPONENTS = range(4, 11)
FIELD = nc.field(cases.van_der_pol)


def gradient(
    case: cases.Case, method: str, rtol: float, adjoint: Any
) -> tuple[Any, np.ndarray, float]:
    """The solution, all gradients in a row, seconds."""
    constants = {k: v[0] for k, v in case.constants.items()}
    best = np.inf
    for _ in range(3):
        begin = time.perf_counter()
        sol = nc.solve(
            FIELD, case.y0[0], case.t, case.weights, constants, method=method, rtol=rtol,
            atol=rtol * case.atol / case.rtol, adjoint=adjoint,
        )  # fmt: skip
        g = sol.value_and_grad(nc.losses.mse, case.target[0])[1].params
        best = min(best, time.perf_counter() - begin)
    return sol, flat(case, g), best


def flat(case: cases.Case, g: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([g[k].ravel() for k in case.weights])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def by_tolerance(case: cases.Case, exact: np.ndarray) -> None:
    row("rtol", *METHODS)
    row("---:", *["---:"] * len(METHODS))
    for k in EXPONENTS:
        cells = []
        for method in METHODS:
            sol, g, seconds = gradient(case, method, 10.0**-k, "discrete")
            steps = int(sol.stats.accepted)
            cells.append(f"{relative(g, exact):.1e} ({steps}, {seconds * 1e3:.3g} ms)")
        row(f"1e-{k}", *cells)


def continuous(case: cases.Case, exact: np.ndarray) -> None:
    tolerances = (4, 6, 8, 10)
    row("forward", *(f"backward 1e-{k}" for k in tolerances))
    row("---", *["---:"] * len(tolerances))
    for method in ("radau5", "kvaerno5"):
        for k in (4, 5, 6, 7):
            cells = []
            for back in tolerances:
                adjoint = nc.Continuous("gauss", rtol=10.0**-back, atol=10.0 ** -(back + 3))
                try:
                    _, g, seconds = gradient(case, method, 10.0**-k, adjoint)
                    cells.append(f"{relative(g, exact):.1e} ({seconds * 1e3:.3g} ms)")
                except nc.GradientError as e:
                    cells.append(type(e).__name__)
            row(f"{method}, 1e-{k}", *cells)


def by_stiffness(case: cases.Case) -> None:
    methods = ("kvaerno5", "rodas5p", "radau5")
    row("mu", *(f"{m}: y | gradient | ratio" for m in methods))
    row("---:", *["---:"] * (3 * len(methods)))
    for mu in (100.0, 316.0, 1000.0):
        softer = dataclasses.replace(case, constants={"mu": np.array([mu])})
        best, exact, _ = gradient(softer, "radau5", 1e-11, "discrete")
        cells = []
        for method in methods:
            sol, g, _ = gradient(softer, method, 1e-6, "discrete")
            y, error = relative(sol.y, best.y), relative(g, exact)
            cells += [f"{y:.1e}", f"{error:.1e}", f"{error / y:.0f}"]
        row(f"{mu:g}", *cells)


def main() -> None:
    case = cases.get("S6v-1")
    exact = flat(case, cases.reference(case).g)
    for table in (by_tolerance, continuous):
        table(case, exact)
        print()
    by_stiffness(case)


if __name__ == "__main__":
    main()

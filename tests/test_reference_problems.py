"""End values of problems with known solutions: right to the digits that the tolerance promises."""

import numpy as np
import pytest
from problems import PROBLEMS

import nodecore as nc

ACCURATE = [
    m for m in nc.methods.names() if nc.methods.get(m).adaptive and nc.methods.get(m).order > 4
]


# These are not the problems that stiff methods are for: where the error's constant is large, many
# short steps of one sign add up.
MORE = {"dirk": 20, "rosenbrock": 20, "radau": 20}


@pytest.mark.parametrize("method", ACCURATE)
@pytest.mark.parametrize("name", PROBLEMS)
def test_end_values(name, method):
    problem = PROBLEMS[name]
    for tol in (1e-9, 1e-10, 1e-11):
        sol = nc.solve(
            problem.field, problem.y0, [0.0, problem.T], method=method, rtol=tol, atol=tol
        )
        error = np.max(np.abs(sol.y[-1] - problem.end) / (1 + np.abs(problem.end)))
        assert error <= problem.growth * tol * MORE.get(nc.methods.get(method).family, 1)


@pytest.mark.parametrize("method", ACCURATE)
def test_end_values_are_reached_backwards_too(method):
    for name in ("A3", "B5", "D2", "lotka_volterra"):
        problem = PROBLEMS[name]
        sol = nc.solve(
            problem.field, problem.end, [problem.T, 0.0], method=method, rtol=1e-10, atol=1e-10
        )
        assert np.max(np.abs(sol.y[-1] - problem.y0) / (1 + np.abs(problem.y0))) <= 1e-6


def test_outputs_between_are_as_right_as_the_end():
    for name in ("D1", "E4", "A4", "B5"):
        problem = PROBLEMS[name]
        t = np.linspace(0, problem.T, 41)
        fine = nc.solve(problem.field, problem.y0, t, method="dop853", rtol=1e-13, atol=1e-13)
        sol = nc.solve(problem.field, problem.y0, t, method="tsit5", rtol=1e-9, atol=1e-9)
        assert np.abs(sol.y - fine.y).max() <= 300e-9


def test_many_samples_each_with_its_own_period():
    """Orbits of different eccentricity as one batch: each with its own steps, each as right."""
    orbits = [PROBLEMS[f"D{i}"] for i in range(1, 6)]
    y0 = np.stack([p.y0 for p in orbits])
    sol = nc.solve(orbits[0].field, y0, [0.0, 20.0], method="dop853", rtol=1e-11, atol=1e-11)
    assert np.abs(sol.y[:, -1] - np.stack([p.end for p in orbits])).max() <= 300e-11
    assert (np.diff(sol.stats.accepted) > 0).all()  # the more eccentric, the more steps


def test_float32_reaches_its_precision():
    for name in ("A1", "A4", "B2", "B5", "E1", "E4", "E5"):
        problem = PROBLEMS[name]
        y0 = problem.y0.astype(np.float32)
        sol = nc.solve(problem.field, y0, [0.0, problem.T], rtol=1e-5, atol=1e-6)
        assert sol.y.dtype == np.float32
        assert np.max(np.abs(sol.y[-1] - problem.end) / (1 + np.abs(problem.end))) <= 1e-4

"""Measured orders of every method through the engine: of the step, and of the dense output."""

import numpy as np
import pytest

import nodecore as nc

METHODS = nc.methods.names()


def rotation(t, y):
    u, v = y
    return [-0.3 * u + 4 * v, -4 * u - 0.3 * v]


def rotation_exact(t):
    e = np.exp(-0.3 * t)
    return np.stack([e * np.cos(4 * t), -e * np.sin(4 * t)], axis=-1)


def limit_cycle(t, y):
    """In polar coordinates r' = r (1 - r^2), angle' = 3 + cos t."""
    u, v = y
    grow, turn = 1 - u**2 - v**2, 3 + np.cos(t)
    return [grow * u - turn * v, grow * v + turn * u]


def limit_cycle_exact(t):
    r = 1 / np.sqrt(1 + 3 * np.exp(-2 * t))
    angle = 3 * t + np.sin(t)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1)


PROBLEMS = {
    "linear": (rotation, rotation_exact, 0.0),
    "nonlinear": (limit_cycle, limit_cycle_exact, 0.3),
}


def slope(h, errors):
    """Of log error over log h, where rounding does not show."""
    h, errors = np.array(h), np.array(errors)
    seen = errors > 3e-14
    assert seen.sum() >= 4, errors
    h, errors = np.log(h[seen])[-4:], np.log(errors[seen])[-4:]
    return np.polyfit(h, errors, 1)[0]


def errors_of(method, problem, sizes, end, **options):
    """The largest error behind the start, for step sizes, over times up to ``end(h)``."""
    field, exact, t0 = PROBLEMS[problem]
    out = []
    for n in sizes:
        t = t0 + end(n)
        grid = {k: v(n) for k, v in options.items()}
        sol = nc.solve(field, exact(t0), t, method=method, **grid)
        out.append(np.max(np.abs(sol.y - exact(t))))
    return out


def counts(method):
    """Steps a third of the interval: enough to see the order, few enough to see the error."""
    order = nc.methods.get(method).order
    first = {1: 60, 2: 20, 3: 12, 4: 10, 5: 16}.get(order, 3)
    return np.unique(np.round(first * 2.0 ** np.arange(0, 2.4, 0.4)).astype(int))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_step(method, problem):
    n = counts(method)
    for options in ({"steps": int}, {"dt": lambda n: 1 / (3 * n)}):
        errors = errors_of(method, problem, n, lambda n: np.arange(4) / 3, **options)
        more = slope(1 / n, errors) - nc.methods.get(method).order
        # rodas5p is of order 6 for linear problems
        assert -0.2 <= more <= (1.2 if (method, problem) == ("rodas5p", "linear") else 0.2)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_dense_output(method, problem):
    """One step from an exact state: the local error between its ends is O(h^(dense order + 1))."""
    order = nc.methods.get(method).dense_order
    h = 2.0 ** -np.arange(1.5 if order > 4 else 3.5 if order > 2 else 5, 8, 0.25)[:10]
    theta = np.array([0.0, 0.21, 0.43, 0.62, 0.87, 1.0])
    errors = errors_of(method, problem, h, lambda h: theta * h, dt=lambda h: h)
    assert abs(slope(h, errors) - (order + 1)) <= 0.3

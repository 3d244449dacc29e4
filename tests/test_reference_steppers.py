"""The reference steppers' adjoints against the complex step, which has no truncation to hide in."""

import numpy as np
import pytest
import reference_steppers as reference

from nodecore import methods

METHODS = [methods.get(name, methods.FAMILIES) for name in methods.names(methods.FAMILIES)]

STIFF = [(m, 500.0) for m in METHODS if not m.explicit]
each_case = pytest.mark.parametrize(
    ("method", "rate"),
    [(m, 2.0) for m in METHODS] + STIFF,
    ids=lambda x: getattr(x, "name", x),
)


class Kinetics(reference.Field):
    """A nonlinear, non-autonomous field with all its derivatives; stiff by its first parameter."""

    def f(self, t, y, p):
        a, b, c = y
        return np.array(
            [
                p[0] * (np.cos(p[1] * t) - a) + b * c,
                p[2] * a * c - b**3 + np.sin(t * a),
                p[3] * (1 - b**2) * c - a + t * b,
            ]
        )

    def fy(self, t, y, p):
        a, b, c = y
        return np.array(
            [
                [-p[0], c, b],
                [p[2] * c + t * np.cos(t * a), -3 * b**2, p[2] * a],
                [-1, -2 * p[3] * b * c + t, p[3] * (1 - b**2)],
            ]
        )

    def fp(self, t, y, p):
        a, b, c = y
        zero = 0 * a
        return np.array(
            [
                [np.cos(p[1] * t) - a, -p[0] * t * np.sin(p[1] * t), zero, zero],
                [zero, zero, a * c, zero],
                [zero, zero, zero, (1 - b**2) * c],
            ]
        )

    def ft(self, t, y, p):
        a, b, c = y
        return np.array([-p[0] * p[1] * np.sin(p[1] * t), a * np.cos(t * a), b])


class Drift(reference.Field):
    """The slow part of an additive field."""

    def f(self, t, y, p):
        a, b, c = y
        return np.array([p[2] * np.sin(b) + t, p[1] * a * c, -c * b + np.cos(p[1] * t)])

    def fy(self, t, y, p):
        a, b, c = y
        zero = 0 * a
        return np.array(
            [[zero, p[2] * np.cos(b), zero], [p[1] * c, zero, p[1] * a], [zero, -c, -b]]
        )

    def fp(self, t, y, p):
        a, b, c = y
        zero = 0 * a
        return np.array(
            [
                [zero, zero, np.sin(b), zero],
                [zero, a * c, zero, zero],
                [zero, -t * np.sin(p[1] * t), zero, zero],
            ]
        )

    def ft(self, t, y, p):
        zero = 0 * y[0]
        return np.array([1 + zero, zero, -p[1] * np.sin(p[1] * t) + zero])


T0, Y0 = 0.3, np.array([0.7, -0.4, 1.1])
STEPS = np.array([0.11, 0.07, 0.16])
OUTPUTS = [(0, 0.35), (1, 0.8), (2, 0.15), (2, 0.9)]


def problem(method, rate):
    field = (Kinetics(), Drift()) if method.family == "imex" else Kinetics()
    return field, np.array([rate, 1.3, 0.8, -0.6])


@pytest.mark.parametrize("field", [Kinetics(), Drift()], ids=["Kinetics", "Drift"])
def test_the_fields_derivatives(field):
    args = 0.3, Y0, np.array([2.0, 1.3, 0.8, -0.6])
    for name in ("fy", "fp", "ft"):
        by_hand = getattr(field, name)(*args)
        np.testing.assert_allclose(
            by_hand, getattr(reference.Field, name)(field, *args), atol=1e-15
        )


@each_case
def test_frozen_step_adjoint(method, rate):
    field, p = problem(method, rate)
    rng = np.random.default_rng(0)
    lam, bars = rng.normal(size=3), rng.normal(size=(len(OUTPUTS), 3))

    def loss(t0, y0, steps, p):
        s = reference.solve(method, field, t0, y0, steps, p, OUTPUTS)
        return lam @ s.end + sum(bar @ out for bar, out in zip(bars, s.outputs, strict=True))

    def derivative(*tangents):
        points = zip((T0, Y0, STEPS, p), tangents, strict=True)
        return np.imag(loss(*(x + 1j * reference.STEP * v for x, v in points))) / reference.STEP

    solution = reference.solve(method, field, T0, Y0, STEPS, p, OUTPUTS)
    g = reference.gradient(method, field, solution, p, lam, OUTPUTS, bars)
    zeros = 0.0, 0 * Y0, 0 * STEPS, 0 * p
    close = {"rtol": 1e-10, "atol": 1e-10}
    for slot, got in ((1, g.y0), (2, g.steps), (3, g.p)):
        want = [
            derivative(*(e if k == slot else z for k, z in enumerate(zeros)))
            for e in np.eye(len(got))
        ]
        np.testing.assert_allclose(got, want, **close)
    np.testing.assert_allclose(g.t0, derivative(1.0, *zeros[1:]), **close)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.family in ("dirk", "radau")], ids=lambda m: m.name
)
def test_a_stages_derivative_is_the_fields(method):
    field, p = problem(method, 500.0)
    for record in reference.solve(method, field, T0, Y0, STEPS, p).records:
        for c, Y, k in zip(method.c, record.Y, record.k, strict=True):
            np.testing.assert_allclose(k, field.f(record.t + c * record.h, Y, p), rtol=1e-10)

"""Coefficients: identities, order conditions, stability, measured orders, the registry."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45

from nodecore import methods
from nodecore.methods import order as theory
from nodecore.status import InputError

ALL = [methods.get(name) for name in methods.names()]
ADAPTIVE = [t for t in ALL if t.adaptive]
EXPLICIT = [t for t in ALL if t.explicit]

each = pytest.mark.parametrize("tab", ALL, ids=lambda t: t.name)
each_adaptive = pytest.mark.parametrize("tab", ADAPTIVE, ids=lambda t: t.name)
each_explicit = pytest.mark.parametrize("tab", EXPLICIT, ids=lambda t: t.name)


# ---- A reference stepper and two problems with known solutions -----------------------------------


def stages(tab, f, t, y, h):
    """All stage arguments Y (s, D) and derivatives k (s, D) of one step."""
    Y, k = np.zeros((2, tab.n_stages, len(y)))
    for i in range(tab.n_stages):
        Y[i] = y + h * tab.A[i, :i] @ k[:i]
        k[i] = f(t + tab.c[i] * h, Y[i])
    return Y, k


def integrate(tab, f, y, t0, t1, n):
    """States (n + 1, D) after each of n equal steps."""
    h = (t1 - t0) / n
    states = [y]
    for i in range(n):
        Y, _ = stages(tab, f, t0 + i * h, states[-1], h)
        states.append(Y[tab.step_stage])
    return np.array(states)


class Linear:
    """A forced, damped rotation: y = (exp(-t/2) cos 2t + sin t, exp(-t/2) sin 2t + cos t)."""

    t0, t1 = 0.3, 2.3
    M = np.array([[-0.5, -2.0], [2.0, -0.5]])

    @classmethod
    def f(cls, t, y):
        p, dp = np.array([np.sin(t), np.cos(t)]), np.array([np.cos(t), -np.sin(t)])
        return cls.M @ (y - p) + dp

    @staticmethod
    def exact(t):
        e = np.exp(-0.5 * t)
        return np.array([e * np.cos(2 * t) + np.sin(t), e * np.sin(2 * t) + np.cos(t)])


class Nonlinear:
    """y' = N(y) + g' - N(g), N(y) = 3/2 (sin y2 - y1 y2, y1^2 - y2): y = g =
    (sin 2t, cos(2t) / 2).
    """

    t0, t1 = 0.2, 2.2

    @staticmethod
    def N(y):
        return 1.5 * np.array([np.sin(y[1]) - y[0] * y[1], y[0] ** 2 - y[1]])

    @classmethod
    def f(cls, t, y):
        dg = np.array([2 * np.cos(2 * t), -np.sin(2 * t)])
        return cls.N(y) - cls.N(cls.exact(t)) + dg

    @staticmethod
    def exact(t):
        return np.array([np.sin(2 * t), np.cos(2 * t) / 2])


each_problem = pytest.mark.parametrize("problem", [Linear, Nonlinear], ids=lambda p: p.__name__)


def slope(steps, error, floor=3e-13):
    """Measured order over the four finest steps whose error is above the floor set by rounding."""
    points = [(h, error(h)) for h in steps]
    usable = [(h, e) for h, e in points if e > floor][-4:]
    assert len(usable) == 4
    return theory.measured_order(*zip(*usable, strict=True))


# ---- Identities ----------------------------------------------------------------------------------


@each_explicit
def test_the_last_stage_of_a_step_is_its_result(tab):
    assert tab.stiffly_accurate and tab.fsal
    assert tab.step_stage == tab.n_step_stages - 1
    np.testing.assert_array_equal(tab.A[tab.step_stage], tab.b)


@each
def test_arrays_are_read_only_doubles(tab):
    for field in ("c", "A", "b", "P", "b_err", "b_err2"):
        value = getattr(tab, field)
        if value is not None:
            assert value.dtype == np.float64 and value.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 1.0


@each
def test_contradictions_are_refused(tab):
    def broken(field, index, **more):
        value = getattr(tab, field).copy()
        value[index] += 1e-9
        with pytest.raises(ValueError, match=tab.name):
            dataclasses.replace(tab, **{field: value}, **more)

    broken("c", 1)
    broken("A", (1, 0))
    broken("A", (0, 1))
    broken("b", 0)
    broken("P", (0, 0))
    if tab.adaptive:
        broken("b_err", 0)
    if tab.b_err2 is not None:
        broken("b_err2", 0)
    with pytest.raises(ValueError, match="come together"):
        dataclasses.replace(tab, b_err=None if tab.adaptive else tab.b - tab.A[1], b_err2=None)


# ---- Order conditions ----------------------------------------------------------------------------


def test_numbers_of_rooted_trees():
    assert [len(theory.trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(theory.rho(t) == n for n in range(1, 9) for t in theory.trees(n))
    assert all(len(set(theory.trees(n))) == len(theory.trees(n)) for n in range(1, 9))
    # The tall tree has density n!, the bushy one n.
    assert theory.density(((((),),),)) == 24
    assert theory.density(((), (), ())) == 4


@each
def test_order_conditions(tab):
    assert theory.residual(tab.A, tab.b, tab.order) < 1e-14
    assert theory.residual(tab.A, tab.b, tab.order + 1) > 1e-6, "of higher order than stated"


@each_adaptive
def test_embedded_order_conditions(tab):
    b_hat = tab.b - tab.b_err
    assert theory.residual(tab.A, b_hat, tab.embedded_order) < 1e-14
    assert theory.residual(tab.A, b_hat, tab.embedded_order + 1) > 1e-5
    if tab.b_err2 is not None:
        # |e|^2 / |e2| is to have the order that step-size control assumes.
        second = 2 * tab.embedded_order - tab.error_order
        assert theory.residual(tab.A, tab.b - tab.b_err2, second) < 1e-14
        assert theory.residual(tab.A, tab.b - tab.b_err2, second + 1) > 1e-5
    else:
        assert tab.error_order == tab.embedded_order


@each
def test_dense_output_order_conditions(tab):
    assert theory.dense_residual(tab.A, tab.P, tab.dense_order) < 1e-13
    assert theory.dense_residual(tab.A, tab.P, tab.dense_order + 1) > 1e-3


@each
def test_dense_output_joins_the_steps(tab):
    np.testing.assert_array_equal(tab.weights(0.0), 0.0)
    np.testing.assert_allclose(tab.weights(1.0), tab.b, rtol=0, atol=2e-13)
    assert tab.weights(np.zeros((2, 3))).shape == (2, 3, tab.n_stages)
    if tab.P.shape[1] > 1:
        ends = np.zeros((2, tab.n_stages))
        ends[0, 0] = ends[1, tab.step_stage] = 1.0
        np.testing.assert_allclose(tab.weights_derivative([0.0, 1.0]), ends, rtol=0, atol=5e-13)


@each
def test_dense_output_derivative(tab):
    theta, d = np.linspace(0.1, 0.9, 9), 1e-4
    difference = (
        8 * (tab.weights(theta + d) - tab.weights(theta - d))
        - (tab.weights(theta + 2 * d) - tab.weights(theta - 2 * d))
    ) / (12 * d)
    np.testing.assert_allclose(tab.weights_derivative(theta), difference, rtol=0, atol=1e-8)


# ---- Against SciPy's coefficients ----------------------------------------------------------------


@pytest.mark.parametrize("peer", [RK23, RK45])
def test_agrees_with_scipy(peer):
    tab = methods.get(peer.__name__)
    s = peer.n_stages
    np.testing.assert_allclose(tab.A[:s, : peer.A.shape[1]], peer.A, rtol=1e-15, atol=1e-16)
    np.testing.assert_allclose(tab.b[:s], peer.B, rtol=1e-15)
    np.testing.assert_allclose(tab.c[:s], peer.C, rtol=1e-15)
    np.testing.assert_allclose(tab.P, peer.P, rtol=1e-13, atol=1e-14)
    sign = np.sign(peer.E[0] * tab.b_err[0])
    np.testing.assert_allclose(tab.b_err, sign * peer.E, rtol=1e-13, atol=1e-16)


def test_dop853_agrees_with_scipy():
    tab = methods.get("dop853")
    y0 = Nonlinear.exact(Nonlinear.t0)
    peer = DOP853(Nonlinear.f, Nonlinear.t0, y0, 5.0, first_step=0.4, rtol=1e-3)
    peer.step()
    assert peer.t - peer.t_old == pytest.approx(0.4)
    Y, k = stages(tab, Nonlinear.f, Nonlinear.t0, y0, 0.4)
    np.testing.assert_allclose(Y[tab.step_stage], peer.y, rtol=1e-14)
    theta = np.linspace(0, 1, 11)
    ours = y0 + 0.4 * tab.weights(theta) @ k
    np.testing.assert_allclose(ours, peer.dense_output()(Nonlinear.t0 + 0.4 * theta).T, rtol=2e-13)
    scale = 1e-3 * np.abs(y0) + 1e-6
    e, e2 = (np.linalg.norm(w @ k / scale) for w in (tab.b_err, tab.b_err2))
    ours = 0.4 * e**2 / np.sqrt((e**2 + 0.01 * e2**2) * len(y0))
    theirs = peer._estimate_error_norm(k[: tab.n_step_stages], 0.4, scale)
    assert ours == pytest.approx(theirs, rel=1e-10)


# ---- Linear stability ----------------------------------------------------------------------------


@each_explicit
def test_stability_function_is_what_a_step_does(tab):
    num, den = theory.stability_function(tab)
    for z in (-0.7, 0.3j, -1.1 + 0.8j, 0.4):
        M = np.array([[np.real(z), -np.imag(z)], [np.imag(z), np.real(z)]])
        Y, _ = stages(tab, lambda t, y, M=M: M @ y, 0.0, np.array([1.0, 0.0]), 1.0)
        R = np.polyval(num[::-1], z) / np.polyval(den[::-1], z)
        assert complex(*Y[tab.step_stage]) == pytest.approx(R, abs=1e-13)
    # R agrees with exp to the order of the method, and no further.
    series = 1 / np.cumprod([1, *range(1, tab.order + 1)])
    np.testing.assert_allclose(num[: tab.order + 1], series, rtol=0, atol=1e-13)


@each_explicit
@pytest.mark.parametrize("direction", [-1, 1j])
def test_stability_limits(tab, direction):
    limit = theory.real_limit(tab) if direction == -1 else theory.imaginary_limit(tab)
    num, _ = theory.stability_function(tab)

    def size(x):
        return np.abs(np.polyval(num[::-1], direction * np.asarray(x)))

    assert np.all(size(np.linspace(0, limit, 1001)) <= 1 + 1e-12)
    assert size(1.01 * limit if limit else 0.1) > 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "real", "imaginary"),
    [
        ("euler", 2, 0),
        ("rk4", 2.785293563405282, np.sqrt(8)),
        ("ssprk3", 2.512745326618329, np.sqrt(3)),
        ("dopri5", 3.3066, 0.9972),
        ("tsit5", 3.5068, 0.478),
    ],
)
def test_known_stability_limits(name, real, imaginary):
    tab = methods.get(name)
    assert theory.real_limit(tab) == pytest.approx(real, abs=5e-5)
    assert theory.imaginary_limit(tab) == pytest.approx(imaginary, abs=5e-5)


# ---- Measured orders -----------------------------------------------------------------------------


@each_explicit
@each_problem
def test_convergence(tab, problem):
    span = problem.t1 - problem.t0

    def error(h):
        n = round(span / h)
        states = integrate(tab, problem.f, problem.exact(problem.t0), problem.t0, problem.t1, n)
        exact = problem.exact(np.linspace(problem.t0, problem.t1, n + 1)).T
        return np.sqrt(np.mean((states - exact) ** 2))

    first = 6 if tab.order > 5 else 24
    steps = [span / round(first * 1.3**i) for i in range(9)]
    assert slope(steps, error) == pytest.approx(tab.order, abs=0.2)


def local_slope(tab, problem, quantity, **floor):
    """Measured order of a quantity of one step from the exact solution."""
    y0 = problem.exact(problem.t0)

    def value(h):
        return quantity(h, y0, *stages(tab, problem.f, problem.t0, y0, h))

    return slope(0.4 * 0.8 ** np.arange(24), value, **floor)


@each_explicit
@each_problem
def test_dense_output_order(tab, problem):
    theta = np.linspace(0, 1, 41)

    def error(h, y0, Y, k):
        dense = y0 + h * tab.weights(theta) @ k
        return np.abs(dense - problem.exact(problem.t0 + h * theta).T).max()

    assert local_slope(tab, problem, error) == pytest.approx(tab.dense_order + 1, abs=0.3)


@pytest.mark.parametrize("tab", [t for t in ADAPTIVE if t.explicit], ids=lambda t: t.name)
@each_problem
def test_embedded_and_error_order(tab, problem):
    def embedded(h, y0, Y, k):
        y_hat = y0 + h * (tab.b - tab.b_err) @ k
        return np.abs(y_hat - problem.exact(problem.t0 + h)).max()

    def estimate(h, y0, Y, k):
        e = h * np.linalg.norm(tab.b_err @ k)
        if tab.b_err2 is None:
            return e
        return e**2 / np.hypot(e, 0.1 * h * np.linalg.norm(tab.b_err2 @ k))

    assert local_slope(tab, problem, embedded) == pytest.approx(tab.embedded_order + 1, abs=0.2)
    # The estimate is a small sum, not a small difference of states: its floor is far lower.
    estimated = local_slope(tab, problem, estimate, floor=3e-19)
    assert estimated == pytest.approx(tab.error_order + 1, abs=0.2)


# ---- The registry --------------------------------------------------------------------------------


def test_names():
    want = "euler midpoint heun ralston ssprk3 rk4 rk38 bosh3 dopri5 tsit5 dop853".split()
    assert set(want) <= set(methods.names())
    assert len(set(methods.names())) == len(methods.names())


@each
def test_lookup(tab):
    assert methods.get(tab.name) is tab
    assert methods.get(tab) is tab
    assert tab.citation and repr(tab).startswith(f"<Tableau {tab.name}")
    for alias in (*tab.aliases, tab.name):
        for spelling in (alias, alias.upper(), alias.title(), alias.replace("_", "-")):
            assert methods.get(spelling) is tab


@pytest.mark.parametrize(
    ("alias", "name"),
    [("RK45", "dopri5"), ("Dopri5", "dopri5"), ("Tsit5", "tsit5"), ("DOP853", "dop853")]
    + [("RK4", "rk4"), ("Euler", "euler"), ("bs3", "bosh3"), ("RK23", "bosh3")]
    + [("Bosh3", "bosh3"), ("Heun", "heun"), ("Midpoint", "midpoint"), ("SSPRK33", "ssprk3")],
)
def test_names_from_elsewhere(alias, name):
    assert methods.get(alias).name == name


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("dopri55", "dopri5"), ("tsitt5", "tsit5"), ("eulr", "euler")]
)
def test_unknown_names(wrong, nearest):
    with pytest.raises(InputError, match=f"{wrong}.*did you mean '{nearest}'"):
        methods.get(wrong)


@pytest.mark.parametrize("wrong", ["", "???", 5, None])
def test_nonsense_names(wrong):
    with pytest.raises(InputError, match="tsit5"):
        methods.get(wrong)


def test_the_documentation_is_current():
    page = (Path(__file__).parent.parent / "docs" / "methods.md").read_text("utf-8")
    assert theory.markdown_table(ALL) in page, (
        "docs/methods.md differs from the registry: put in what "
        "nodecore.methods.order.markdown_table(map(get, names())) returns"
    )

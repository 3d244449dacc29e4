"""Coefficients: identities, order conditions, stability, measured orders, the registry."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import reference_steppers as reference
from scipy.integrate import DOP853, RK23, RK45, Radau

from nodecore import methods
from nodecore.methods import Rosenbrock, Tableau, exact
from nodecore.methods import order as theory
from nodecore.status import InputError

ALL = [methods.get(name, methods.FAMILIES) for name in methods.names(methods.FAMILIES)]
SEEN = [methods.get(name) for name in methods.names()]
TABLEAUS = [m for m in ALL if isinstance(m, Tableau)]
ADAPTIVE = [m for m in ALL if m.adaptive]
EXPLICIT = [m for m in ALL if m.explicit]
IMPLICIT = [m for m in ALL if not m.explicit]
PREDICTED = [m for m in TABLEAUS if m.predictor is not None]


def each_of(found, name="tab"):
    return pytest.mark.parametrize(name, found, ids=lambda m: m.name)


each = each_of(ALL)
each_seen = each_of(SEEN)
each_tableau = each_of(TABLEAUS)
each_adaptive = each_of(ADAPTIVE)
each_explicit = each_of(EXPLICIT)
each_implicit = each_of(IMPLICIT)
each_predicted = each_of(PREDICTED)


def step_weights(method):
    """The weights of the step, of the stages as they are stored."""
    return method.b if isinstance(method, Tableau) else method.m


def error_weights(method):
    return method.b_err if isinstance(method, Tableau) else method.m_err


def classical(method, weights):
    """Weights of the stages as stored -> of the derivatives that the order conditions know."""
    return weights if isinstance(method, Tableau) else method.Gamma.T @ weights


# ---- Two problems with known solutions -----------------------------------------------------------


def field_of(method, fun):
    """A field f(t, y) as its stepper takes it; of an additive method, half of it in each part."""
    if method.family == "imex":
        return (reference.Plain(lambda t, y: 0.75 * fun(t, y)),) + (
            reference.Plain(lambda t, y: 0.25 * fun(t, y)),
        )
    return reference.Plain(fun)


def one_step(method, fun, t, y, h):
    """A step from (t, y), and the increments that the weights multiply."""
    record = reference.solve(method, field_of(method, fun), t, y, [h], np.zeros(0)).records[0]
    if isinstance(method, Rosenbrock):
        return record, record.k
    return record, h * (record.k if record.explicit is None else record.k + record.explicit)


def integrate(method, fun, y, t0, t1, n):
    """States (n + 1, D) after each of n equal steps."""
    h = (t1 - t0) / n
    solution = reference.solve(method, field_of(method, fun), t0, y, [h] * n, np.zeros(0))
    return np.array([y, *(record.y1 for record in solution.records)])


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


@each_tableau
def test_the_last_stage_of_a_step_is_its_result(tab):
    assert tab.stiffly_accurate and tab.fsal
    assert tab.step_stage == tab.n_step_stages - 1
    np.testing.assert_array_equal(tab.A[tab.step_stage], tab.b)


def arrays(method):
    values = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@each
def test_arrays_are_read_only_doubles(tab):
    for value in arrays(tab).values():
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

    for field, value in arrays(tab).items():
        if value.ndim == 1:
            broken(field, 0 if field == "m_err" else 1)
        else:
            broken(field, (1, 0))
        if field in ("A", "C", "A_explicit", "predictor"):
            broken(field, (0, 1))
    if isinstance(tab, Tableau):
        with pytest.raises(ValueError, match="come together"):
            dataclasses.replace(tab, b_err=None if tab.adaptive else tab.b - tab.A[1], b_err2=None)
    if not tab.explicit and isinstance(tab, Tableau):
        broken("A", (1, 1))
        with pytest.raises(ValueError, match=tab.name):
            dataclasses.replace(tab, family="explicit")


# ---- Exact arithmetic ----------------------------------------------------------------------------


def test_roots():
    for root, power in ((exact.sqrt, 2), (exact.cbrt, 3)):
        for x in (2, 3, 6, 9, 1000):
            assert abs(root(x) ** power - x) < 10 ** (4 - exact.DIGITS)
    assert exact.cbrt(27) == 3 and exact.sqrt(49) == 7


def test_linear_algebra_is_exact():
    matrix = [exact.numbers(row) for row in ("0 1/3 2", "1/7 -5 1/2", "3 1 1")]
    inverse = exact.inverse(matrix)
    for k in range(3):
        assert exact.times(matrix, exact.transpose(inverse)[k]) == exact.unit(3, k)
    short = exact.least_norm(matrix[:2], exact.numbers("1 2"))
    assert exact.times(matrix[:2], short) == exact.numbers("1 2")
    want = np.linalg.lstsq(exact.to_float2(matrix[:2]), [1, 2], rcond=None)[0]
    np.testing.assert_allclose(exact.to_float(short), want, rtol=1e-14)
    with pytest.raises(ValueError, match="singular"):
        exact.solve([matrix[0], matrix[0], matrix[1]], exact.unit(3, 0))


def test_lagrange_polynomials():
    nodes = exact.numbers("0 1/3 3/4 1")
    for i, row in enumerate(exact.lagrange(nodes)):
        values = [sum(a * x**k for k, a in enumerate(row)) for x in nodes]
        assert values == exact.unit(4, i)


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
    A, single, b = theory.classical(tab)
    assert theory.residual(A, b, tab.order, single) < 1e-14
    assert theory.residual(A, b, tab.order + 1, single) > 1e-6, "of higher order than stated"


@each_adaptive
def test_embedded_order_conditions(tab):
    A, single, _ = theory.classical(tab)
    b_hat = classical(tab, step_weights(tab) - error_weights(tab))
    assert theory.residual(A, b_hat, tab.embedded_order, single) < 1e-14
    assert theory.residual(A, b_hat, tab.embedded_order + 1, single) > 1e-5
    if isinstance(tab, Tableau) and tab.b_err2 is not None:
        # |e|^2 / |e2| is to have the order that step-size control assumes.
        second = 2 * tab.embedded_order - tab.error_order
        assert theory.residual(A, tab.b - tab.b_err2, second) < 1e-14
        assert theory.residual(A, tab.b - tab.b_err2, second + 1) > 1e-5
    else:
        assert tab.error_order == min(tab.order, tab.embedded_order)


@each
def test_dense_output_order_conditions(tab):
    A, single, _ = theory.classical(tab)
    P = classical(tab, tab.P)
    assert theory.dense_residual(A, P, tab.dense_order, single) < 1e-13
    assert theory.dense_residual(A, P, tab.dense_order + 1, single) > 1e-3


def test_additive_order_conditions():
    tab = methods.get("kencarp4", methods.FAMILIES)
    parts = [tab.A, tab.A_explicit]
    assert theory.additive_residual(parts, tab.b, 4) < 1e-14
    assert theory.additive_residual(parts, tab.b, 5) > 1e-3
    assert theory.additive_residual(parts, tab.b - tab.b_err, 3) < 1e-14
    assert theory.additive_residual(parts, tab.b - tab.b_err, 4) > 1e-3
    assert theory.additive_dense_residual(parts, tab.P, 3) < 1e-14
    # One kind of branch: the conditions of the method itself.
    alone = theory.additive_conditions([tab.A], 5)
    for one, other in zip(alone, theory.conditions(tab.A, 5), strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one.phi, other.phi)


@each_tableau
def test_stage_order(tab):
    orders = {"backward_euler": 1, "radau5": 3}
    want = 1 if tab.explicit else orders.get(tab.name, 2)
    assert tab.stage_order == want


@each
def test_dense_output_joins_the_steps(tab):
    s = tab.n_stages
    np.testing.assert_array_equal(tab.weights(0.0), 0.0)
    np.testing.assert_allclose(tab.weights(1.0), step_weights(tab), rtol=0, atol=2e-13)
    assert tab.weights(np.zeros((2, 3))).shape == (2, 3, s)
    if isinstance(tab, Tableau) and tab.P.shape[1] > 1:
        ends = np.zeros((2, s))
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
    record, _ = one_step(tab, Nonlinear.f, Nonlinear.t0, y0, 0.4)
    k = record.k
    np.testing.assert_allclose(record.y1, peer.y, rtol=1e-14)
    theta = np.linspace(0, 1, 11)
    ours = y0 + 0.4 * tab.weights(theta) @ k
    np.testing.assert_allclose(ours, peer.dense_output()(Nonlinear.t0 + 0.4 * theta).T, rtol=2e-13)
    scale = 1e-3 * np.abs(y0) + 1e-6
    e, e2 = (np.linalg.norm(w @ k / scale) for w in (tab.b_err, tab.b_err2))
    ours = 0.4 * e**2 / np.sqrt((e**2 + 0.01 * e2**2) * len(y0))
    theirs = peer._estimate_error_norm(k[: tab.n_step_stages], 0.4, scale)
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_radau5_agrees_with_scipy():
    tab = methods.get("Radau", methods.FAMILIES)
    from scipy.integrate._ivp import radau as peer

    np.testing.assert_allclose(tab.c[1:], peer.C, rtol=1e-15)
    np.testing.assert_allclose(tab.e_z, peer.E, rtol=1e-14)
    np.testing.assert_allclose(tab.P_z, peer.P, rtol=1e-13)
    assert tab.mu_real == pytest.approx(peer.MU_REAL, rel=1e-15)
    assert tab.mu_complex.conjugate() == pytest.approx(peer.MU_COMPLEX, rel=1e-15)
    # Eigenvectors, up to their scale and the sign of the imaginary part.
    for column in (0, 1):
        ratio = tab.T[:, column] / peer.T[:, column]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-13)


def test_radau5_steps_as_scipy():
    tab = methods.get("radau5", methods.FAMILIES)
    y0 = Nonlinear.exact(Nonlinear.t0)
    peer = Radau(Nonlinear.f, Nonlinear.t0, y0, 5.0, first_step=0.3, rtol=1e-8, atol=1e-12)
    peer.newton_tol = 1e-14
    peer.step()
    h = peer.t - peer.t_old
    record, _ = one_step(tab, Nonlinear.f, Nonlinear.t0, y0, h)
    np.testing.assert_allclose(record.y1, peer.y, rtol=1e-12)
    theta = np.linspace(0, 1, 5)
    z = record.Y[1:] - y0
    powers = theta[:, None] ** [1, 2, 3]
    ours = y0 + powers @ tab.P_z.T @ z
    np.testing.assert_allclose(ours, peer.dense_output()(Nonlinear.t0 + h * theta).T, rtol=1e-11)


# ---- Against published digits --------------------------------------------------------------------


def test_kvaerno5_continues_the_published_digits():
    A = methods.get("kvaerno5", methods.FAMILIES).A
    published = """0.13 0.84033320996790809 0.22371961478320505 0.47675532319799699
        -0.06470895363112615 0.16648564323248321 0.10450018841591720 0.03631482272098715
        -0.13090704451073998 0.13855640231268224 0 -0.04245337201752043 0.02446657898003141
        0.61943039072480676 0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046
        0.62993304899016403 0.06962479448202728"""
    ours = np.concatenate([A[i, :i] for i in range(2, 7)])
    np.testing.assert_allclose(ours, np.array(published.split(), float), rtol=0, atol=1.2e-16)


def test_kvaerno3_has_the_published_digits():
    A = methods.get("kvaerno3", methods.FAMILIES).A
    published = [0.490563388419108, 0.073570090080892, 0.308809969973036, 1.490563388254106]
    ours = np.concatenate([A[2, :2], A[3, :2]])
    np.testing.assert_allclose(ours, published, rtol=0, atol=2e-10)  # published with gamma to 1e-10
    gamma = A[1, 1]
    assert 6 * gamma**3 - 18 * gamma**2 + 9 * gamma - 1 == pytest.approx(0, abs=1e-15)


def test_rodas4_continues_the_published_digits():
    tab = methods.get("rodas4", methods.FAMILIES)
    ours = np.concatenate([tab.A[2, :2], tab.A[4, :4], tab.C[2, :2], tab.C[5, :5]])
    published = """0.9466785280815826 0.2557011698983284 1.221224509226641 6.019134481288629
        12.53708332932087 -0.6878860361058950 -2.430093356833875 -0.2063599157091915
        8.083246795921522 -7.981132988064893 -31.52159432874371 16.31930543123136
        -6.058818238834054"""
    np.testing.assert_allclose(ours, np.array(published.split(), float), rtol=3e-15)


def test_rosenbrock23_is_shampine_and_reichelts():
    tab = methods.get("rosenbrock23", methods.FAMILIES)
    t, y, h = Nonlinear.t0, Nonlinear.exact(Nonlinear.t0) + 0.1, 0.2
    field = reference.Plain(Nonlinear.f)
    d, e32 = 1 / (2 + np.sqrt(2)), 6 + np.sqrt(2)
    J, T = field.fy(t, y, None), field.ft(t, y, None)
    W = np.eye(2) - h * d * J
    f0 = Nonlinear.f(t, y)
    k1 = np.linalg.solve(W, f0 + h * d * T)
    f1 = Nonlinear.f(t + h / 2, y + h / 2 * k1)
    k2 = np.linalg.solve(W, f1 - k1) + k1
    y1 = y + h * k2
    f2 = Nonlinear.f(t + h, y1)
    k3 = np.linalg.solve(W, f2 - e32 * (k2 - f1) - 2 * (k1 - f0) + h * d * T)
    record, k = one_step(tab, Nonlinear.f, t, y, h)
    np.testing.assert_allclose(record.y1, y1, rtol=1e-14)
    np.testing.assert_allclose(-tab.m_err @ k, h / 6 * (k1 - 2 * k2 + k3), rtol=1e-11)
    x = 0.3
    dense = y + h / (1 - 2 * d) * (x * (1 - x) * k1 + x * (x - 2 * d) * k2)
    np.testing.assert_allclose(record.dense(tab, x), dense, rtol=1e-14)


# ---- Newton's first guess ------------------------------------------------------------------------


@each_predicted
def test_predictor(tab):
    """Extrapolates 1, c and c^2 as far as there are nodes, or repeats a stage at the same node."""
    for i in np.flatnonzero(tab.implicit):
        alpha, before = tab.predictor[i, :i], tab.c[:i]
        same = np.flatnonzero(before == tab.c[i])
        if i > 1 and len(same):
            assert alpha[same[-1]] == 1.0 and np.count_nonzero(alpha) == 1
            continue
        degree = min(2, len(np.unique(before)) - 1)
        moments = before ** np.arange(degree + 1)[:, None]
        np.testing.assert_allclose(moments @ alpha, tab.c[i] ** np.arange(degree + 1), rtol=2e-15)
        # The shortest such: orthogonal to all that the conditions do not see.
        null = np.linalg.svd(moments)[2][degree + 1 :]
        np.testing.assert_allclose(null @ alpha, 0.0, atol=5e-15)
    want = np.tril(tab.A, -1) + tab.gamma * tab.predictor
    np.testing.assert_array_equal(tab.guess, want)
    rows = np.where(tab.implicit, tab.c, want.sum(axis=1))
    np.testing.assert_allclose(want.sum(axis=1), rows, rtol=1e-15)


# ---- Linear stability ----------------------------------------------------------------------------


def R(method, z, weights=None):
    num, den = theory.stability_function(method, weights)
    return np.polyval(num[::-1], z) / np.polyval(den[::-1], z)


@each
def test_stability_function_is_what_a_step_does(tab):
    for z in (-0.7, 0.3j, -1.1 + 0.8j, 0.4, -30 + 5j):
        if tab.explicit and abs(z) > 5:
            continue
        M = np.array([[np.real(z), -np.imag(z)], [np.imag(z), np.real(z)]])
        field = reference.Plain(lambda t, y, M=M: M @ y)
        if tab.family == "imex":
            field = field, reference.Plain(lambda t, y: 0 * y)
        record = reference.solve(tab, field, 0.0, np.array([1.0, 0.0]), [1.0], np.zeros(0))
        assert complex(*record.end) == pytest.approx(R(tab, z), abs=1e-12)
        if tab.name == "dop853":
            continue  # its dense output has stages beyond the step's
        middle = record.records[0].dense(tab, 0.4)
        assert complex(*middle) == pytest.approx(R(tab, z, tab.weights(0.4)), abs=1e-11)
    # R agrees with exp to the order of the method, and no further.
    num, den = theory.stability_function(tab)
    series = 1 / np.cumprod([1, *range(1, tab.order + 1)])
    want = np.convolve(den, series)[: tab.order + 1]
    got = np.pad(num, (0, tab.order))[: tab.order + 1]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


@each_implicit
def test_implicit_methods_are_stable(tab):
    assert theory.a_stable(tab)
    assert theory.l_stable(tab) == (tab.name != "trapezoid")
    assert theory.real_limit(tab) == theory.imaginary_limit(tab) == np.inf
    y = np.concatenate([np.linspace(0, 30, 3001), np.logspace(1.5, 8, 300)])
    angle = np.exp(1j * np.linspace(np.pi / 2, np.pi, 19))[:, None]
    assert np.all(np.abs(R(tab, angle * y)) <= 1 + 1e-11)
    far = abs(R(tab, -1e9))
    assert far == pytest.approx(1.0) if tab.name == "trapezoid" else far < 1e-6


@each_explicit
def test_explicit_methods_are_not_a_stable(tab):
    assert not theory.a_stable(tab) and not theory.l_stable(tab)


@each_of([m for m in IMPLICIT if m.adaptive and isinstance(m, Tableau)])
def test_the_error_is_filtered_where_it_is_unbounded(tab):
    unfiltered = theory.at_infinity(*theory.stability_function(tab, tab.b - tab.b_err))
    assert tab.filter_error == np.isinf(unfiltered)
    z = -1e6
    error = abs(R(tab, z) - R(tab, z, tab.b - tab.b_err))
    assert error / (abs(1 - tab.gamma * z) if tab.filter_error else 1) < 1.7


@each_of([m for m in IMPLICIT if isinstance(m, Rosenbrock)])
def test_rosenbrock_errors_are_bounded(tab):
    assert theory.at_infinity(*theory.stability_function(tab, tab.m - tab.m_err)) < 1.7


def test_kvaerno5s_interpolant_in_the_stiff_limit():
    """theta = 1/2 lies on cubics where y is a function of time; docs/math/implicit-methods.md."""
    tab = methods.get("kvaerno5", methods.FAMILIES)
    stiff = np.linalg.solve(tab.A[1:, 1:], tab.c[1:] ** 3)
    assert tab.weights(0.5)[1:] @ stiff == pytest.approx(1 / 8, abs=1e-14)
    assert not tab.weights(np.linspace(0, 1, 5))[:, 1].any()
    off = np.linspace(0, 1, 101)
    assert np.abs(tab.weights(off)[:, 1:] @ stiff - off**3).max() < 0.04


@each_explicit
@pytest.mark.parametrize("direction", [-1, 1j])
def test_stability_limits(tab, direction):
    limit = theory.real_limit(tab) if direction == -1 else theory.imaginary_limit(tab)
    num, _ = theory.stability_function(tab)

    def size(x):
        return np.abs(np.polyval(num[::-1], direction * np.asarray(x)))

    # the limit is the root of a polynomial whose coefficients are rounded
    assert np.all(size(np.linspace(0, limit, 1001)) <= 1 + 1e-11)
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


@each
@each_problem
def test_convergence(tab, problem):
    span = problem.t1 - problem.t0

    def error(h):
        n = round(span / h)
        states = integrate(tab, problem.f, problem.exact(problem.t0), problem.t0, problem.t1, n)
        exact = problem.exact(np.linspace(problem.t0, problem.t1, n + 1)).T
        return np.sqrt(np.mean((states - exact) ** 2))

    first = 6 if tab.order > 5 else 24
    ratio, count = (1.3, 9) if tab.explicit else (1.5, 5)
    steps = [span / round(first * ratio**i) for i in range(count)]
    assert slope(steps, error) == pytest.approx(tab.order, abs=0.2)


def local_slope(tab, problem, quantity, **floor):
    """Measured order of a quantity of one step from the exact solution."""
    y0 = problem.exact(problem.t0)

    def value(h):
        return quantity(h, y0, *one_step(tab, problem.f, problem.t0, y0, h))

    return slope(0.4 * 0.8 ** np.arange(24), value, **floor)


@each
@each_problem
def test_dense_output_order(tab, problem):
    theta = np.linspace(0, 1, 41)

    def error(h, y0, record, k):
        dense = record.dense(tab, theta)
        return np.abs(dense - problem.exact(problem.t0 + h * theta).T).max()

    assert local_slope(tab, problem, error) == pytest.approx(tab.dense_order + 1, abs=0.3)


@each_adaptive
@each_problem
def test_embedded_and_error_order(tab, problem):
    def embedded(h, y0, record, k):
        y_hat = y0 + (step_weights(tab) - error_weights(tab)) @ k
        return np.abs(y_hat - problem.exact(problem.t0 + h)).max()

    def estimate(h, y0, record, k):
        e = np.linalg.norm(error_weights(tab) @ k)
        if tab.name != "dop853":
            return e
        return e**2 / np.hypot(e, 0.1 * np.linalg.norm(tab.b_err2 @ k))

    assert local_slope(tab, problem, embedded) == pytest.approx(tab.embedded_order + 1, abs=0.2)
    # The estimate is a small sum, not a small difference of states: its floor is far lower.
    floor = 3e-19 if tab.explicit else 3e-14
    estimated = local_slope(tab, problem, estimate, floor=floor)
    assert estimated == pytest.approx(tab.error_order + 1, abs=0.2)


# ---- The registry --------------------------------------------------------------------------------


def test_names():
    want = "euler midpoint heun ralston ssprk3 rk4 rk38 bosh3 dopri5 tsit5 dop853".split()
    assert set(want) <= set(methods.names())
    everything = methods.names(methods.FAMILIES)
    implicit = "backward_euler trapezoid trbdf2 kvaerno3 kvaerno5 radau5 rosenbrock23 rodas5p"
    assert {*implicit.split(), "kencarp4"} <= set(everything)
    assert len(set(everything)) == len(everything)
    assert {m.family for m in SEEN} == set(methods.STEPPED) and "auto" in methods.names()


@each
def test_families_without_a_stepper_are_not_seen(tab):
    assert (tab.name in methods.names()) == (tab.family in methods.STEPPED)
    if tab.family not in methods.STEPPED:
        for unseen in (tab.name, tab):
            with pytest.raises(InputError, match=f"{tab.name} solves the sum of an nc.Split"):
                methods.get(unseen)


@each
def test_lookup_in_all_families(tab):
    for spelling in (tab, tab.name, tab.name.upper(), *tab.aliases):
        assert methods.get(spelling, methods.FAMILIES) is tab
    assert tab.citation and repr(tab).endswith(f"{tab.n_stages} stages>")


@each_seen
def test_lookup(tab):
    assert methods.get(tab.name) is tab
    assert methods.get(tab) is tab
    assert tab.citation and f" {tab.name}:" in repr(tab)
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
    assert theory.markdown_table(SEEN) in page, (
        "docs/methods.md differs from the registry: put in what "
        "nodecore.methods.order.markdown_table(map(get, names())) returns"
    )

"""Splitting, exponentials and additive methods: orders, exactness, gradients, bits, messages."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg

import nodecore as nc
from nodecore.methods.split import SCHEMES, flows

RNG = np.random.default_rng(7)
D = 3
A = RNG.standard_normal((D, D))
PARAMS = {
    "A": RNG.standard_normal((D, D)) * 0.7,
    "d": RNG.standard_normal(D) * 0.7,
    "w": RNG.standard_normal(D),
}
Y0 = RNG.standard_normal((5, D))
ARGS = RNG.standard_normal((5, 2))
T = np.array([0.0, 0.3, 1.0])

# one of each family, and each that has an order of its own
SUB_SOLVERS = {
    "euler": 1, "heun": 2, "rk4": 4, "tsit5": 5, "backward_euler": 1, "trapezoid": 2, "trbdf2": 2,
    "kvaerno5": 5, "radau5": 5, "rosenbrock23": 2, "rodas4": 4,
}  # fmt: skip


def push(t, y):
    return np.sin(y) * np.cos(t)


def first(t, y, p, a):
    return np.sin(y * p["w"]) * np.cos(t * a[0]) + a[1]


def second(t, y, p, a):
    return np.tanh(p["w"] * t) * a[1] - 0.3 * np.sin(y)


DENSE = nc.linear(lambda p: p["A"])
DIAGONAL = nc.linear(lambda p: p["d"])


# ---- Data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_every_part_goes_through_the_whole_step(scheme, n):
    table = flows(scheme, n)
    clock = np.zeros(n)
    for flow in table:
        assert flow.start == clock[flow.part]
        clock[flow.part] = flow.start + flow.size
    assert (clock == 1.0).all()
    assert all(a.part != b.part for a, b in zip(table, table[1:], strict=False))
    if scheme != "lie":  # symmetric
        assert [f.part for f in table] == [f.part for f in reversed(table)]
        assert np.allclose([f.size for f in table], [f.size for f in reversed(table)], atol=1e-15)


# ---- The linear field ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "radau5", "rodas4"])
def test_linear_is_a_field(method):
    for matrix in (A, np.diag(A).copy()):
        full = matrix if matrix.ndim == 2 else np.diag(matrix)
        sol = nc.solve(nc.linear(matrix), Y0, T, method=method, rtol=1e-8, atol=1e-10)
        for k, t in enumerate(T):
            assert np.allclose(sol.y[:, k], Y0 @ scipy.linalg.expm(t * full).T, atol=1e-6)
    sol = nc.solve(DENSE, Y0, T, PARAMS, method=method, adjoint="discrete")
    assert nc.gradcheck(sol) < 1e-8


def test_a_matrix_acts_on_the_flat_state():
    K = RNG.standard_normal((6, 6))
    y0 = RNG.standard_normal((2, 3))
    sol = nc.solve(nc.linear(K), y0, [0.0, 0.5], batch=False, rtol=1e-10, atol=1e-12)
    assert np.allclose(sol.y[-1].ravel(), scipy.linalg.expm(0.5 * K) @ y0.ravel(), atol=1e-8)
    zero = nc.Split(nc.linear(K), lambda t, y: 0 * y)
    sol = nc.solve(zero, y0, [0.0, 0.5], batch=False, steps=3)
    assert np.allclose(sol.y[-1].ravel(), scipy.linalg.expm(0.5 * K) @ y0.ravel(), atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 5, 17, 64])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_linear_part_is_exact(dim, scheme):
    K = RNG.standard_normal((dim, dim))
    K *= 2 / np.linalg.norm(K, 2)
    y0 = RNG.standard_normal((3, dim))
    exact = y0 @ scipy.linalg.expm(K).T
    field = nc.Split(nc.linear(K), lambda t, y: 0 * y, scheme=scheme)
    t = np.linspace(0, 1, 4)
    for options in ({"steps": 1}, {"steps": 7}, {"dt": 0.17}, {"dt": 0.17, "tstops": [0.5]}):
        y = nc.solve(field, y0, t, **options).y[:, -1]
        assert np.abs(y - exact).max() < 1e-13 * np.abs(exact).max()
    backwards = nc.solve(field, exact, t[::-1], steps=2).y[:, -1]
    assert np.allclose(backwards, y0, atol=1e-12)


def test_a_stiff_linear_part_is_exact():
    n = 40
    K = 1e4 * (np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1) - 2 * np.eye(n))
    y0 = RNG.standard_normal(n)
    field = nc.Split(nc.linear(K), lambda t, y: 0 * y)
    y = nc.solve(field, y0, [0.0, 1e-3, 0.1], steps=2).y
    for k, t in ((1, 1e-3), (2, 0.1)):
        exact = scipy.linalg.expm(t * K) @ y0
        assert np.abs(y[k] - exact).max() < 1e-12 * np.abs(y0).max()
    stiff = np.array([-1e8, -1.0, 0.0, 3.0])
    y = nc.solve(nc.Split(nc.linear(stiff), lambda t, y: 0 * y), np.ones(4), [0.0, 1.0], steps=5).y
    assert np.allclose(y[-1], np.exp(stiff), rtol=5e-14, atol=0)


# ---- Orders --------------------------------------------------------------------------------------


def errors(field, exact, steps, **options):
    return [
        np.abs(nc.solve(field, Y0[0], [0.0, 1.0], steps=n, **options).y[-1] - exact).max()
        for n in steps
    ]


def exact_of(field, **options):
    return nc.solve(field, Y0[0], [0.0, 1.0], method="dop853", rtol=1e-13, atol=1e-14).y[-1]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sub", SUB_SOLVERS)
def test_orders(scheme, sub):
    exact = exact_of(lambda t, y: A @ y + push(t, y))
    for methods in (("expm", sub), (sub, sub), (sub, (sub, 2))):
        field = nc.Split(nc.linear(A), push, scheme=scheme, methods=methods)
        order = min(SCHEMES[scheme], SUB_SOLVERS[sub])
        assert field.solver.order == order
        e = errors(field, exact, (30, 60, 120))
        slope = np.log2(e[1] / e[2])
        # symmetric sub-solvers of order 2 keep the order 4 of a symmetric composition
        assert slope > order - 0.3 and (
            slope < order + 0.3 or (scheme == "yoshida4" and order == 2)
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_orders_of_three_parts(scheme):
    parts = (nc.linear(A), push, lambda t, y: -0.2 * y * np.roll(y, 1) + t)
    exact = exact_of(lambda t, y: A @ y + push(t, y) + parts[2](t, y))
    field = nc.Split(parts, scheme=scheme, methods=("expm", "rk4", "kvaerno5"))
    e = errors(field, exact, (30, 60, 120))
    assert abs(np.log2(e[1] / e[2]) - SCHEMES[scheme]) < 0.3


def test_adaptive_strang_keeps_its_tolerance():
    whole = lambda t, y: A @ y + push(t, y)  # noqa: E731
    exact = exact_of(whole)
    field = nc.Split(nc.linear(A), push)
    found = []
    for rtol in (1e-3, 1e-5, 1e-7):
        sol = nc.solve(field, Y0[0], [0.0, 0.6, 1.0], rtol=rtol, atol=rtol * 1e-2)
        found.append(np.abs(sol.y[-1] - exact).max())
        assert found[-1] < 10 * rtol
    assert found[2] < found[0] / 30


# ---- Gradients -----------------------------------------------------------------------------------


def solved(split, adjoint="discrete", y0=Y0, args=ARGS, **options):
    options = options or {"steps": 4}
    return nc.solve(split, y0, T, PARAMS, args, adjoint=adjoint, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sub", SUB_SOLVERS)
def test_gradients(scheme, sub):
    for lin in (DENSE, DIAGONAL, nc.linear(A)):
        split = nc.Split(lin, first, second, scheme=scheme, methods=("expm", sub, (sub, 2)))
        sol = solved(split, steps=3)
        assert nc.gradcheck(sol) < 1e-8
    split = nc.Split(DENSE, first, scheme=scheme, methods=(sub, "rk4"))
    assert nc.gradcheck(solved(split)) < 1e-8


def test_gradient_of_an_exponential_with_a_long_norm():
    big = {**PARAMS, "A": PARAMS["A"] * 10}
    split = nc.Split(DENSE, first, scheme="lie")
    sol = nc.solve(split, Y0, [0.0, 0.4], big, ARGS, adjoint="discrete", steps=1)
    assert nc.gradcheck(sol, wrt=["params"]) < 2e-7


@pytest.mark.parametrize("sub", ["rk4", "kvaerno5", "rodas4"])
def test_gradients_of_adaptive_steps(sub):
    split = nc.Split(DENSE, first, second, methods=("expm", sub, sub))
    sol = solved(split, rtol=1e-3, atol=1e-5)
    assert nc.gradcheck(sol) < 1e-8
    assert np.array_equal(sol.replay().y, sol.y)


def test_gradients_of_a_given_step():
    split = nc.Split(DENSE, first, second)
    for options in ({"dt": 0.07}, {"tstops": [0.2, 0.5], "rtol": 1e-3}):
        sol = solved(split, **options)
        assert nc.gradcheck(sol) < 1e-8  # without t
        assert np.array_equal(sol.replay().y, sol.y)
        g = sol.vjp(np.ones_like(sol.y))
        with pytest.raises(nc.GradientError, match=r"g\.t is unknown"):
            g.t  # noqa: B018
        with pytest.raises(nc.InputError, match="cannot follow other times"):
            sol.replay(t=T * 1.1)


def test_single_precision():
    split = nc.Split(DENSE, first, second, methods=("expm", "rk4", "kvaerno3"))
    sol = solved(split, y0=Y0.astype(np.float32), steps=4)
    reference = solved(split, steps=4)
    assert sol.y.dtype == np.float32 and np.allclose(sol.y, reference.y, atol=1e-5)
    dy = np.ones_like(sol.y)
    g, exact = sol.vjp(dy), reference.vjp(dy.astype(np.float64))
    for name in PARAMS:
        assert np.allclose(g.params[name], exact.params[name], rtol=1e-4, atol=1e-4)


# ---- Bits ----------------------------------------------------------------------------------------

BITS = [
    ("expm", "rk4", "expm", "tsit5"),
    ("expm", "kvaerno5", "expm", "radau5"),
    ("rk4", "rodas4", "expm", ("rosenbrock23", 2)),
]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def grads(g):
    return [g.y0, g.args, *(g.params[k] for k in PARAMS)]


@pytest.mark.parametrize("methods", BITS)
@pytest.mark.parametrize("options", [{"steps": 6}, {"rtol": 1e-3, "atol": 1e-5}])
def test_bits(methods, options):
    split = nc.Split(DENSE, first, DIAGONAL, second, methods=methods)
    sol = solved(split, **options)
    dy = RNG.standard_normal(sol.y.shape)
    g = sol.vjp(dy)
    alone = solved(split, y0=Y0[2], args=ARGS[2], **options)
    assert np.array_equal(alone.y, sol.y[2])
    assert np.array_equal(alone.vjp(dy[2]).y0, g.y0[2])
    for budget in (nc.Discrete(checkpoints=2), nc.Discrete(memory="200 KiB")):
        again = solved(split, adjoint=budget, **options)
        assert np.array_equal(again.y, sol.y)
        assert same(grads(again.vjp(dy)), grads(g))
    many = [np.tile(x, (20,) + (1,) * (x.ndim - 1)) for x in (Y0, ARGS, dy)]
    one, two = (
        nc.solve(split, many[0], T, PARAMS, many[1], adjoint="discrete", threads=n, **options)
        for n in (1, 2)
    )
    assert np.array_equal(one.y[:5], sol.y) and np.array_equal(one.y, two.y)
    assert same(grads(one.vjp(many[2])), grads(two.vjp(many[2])))
    assert np.array_equal(one.vjp(many[2]).y0[:5], g.y0)


# ---- Additive Runge-Kutta ------------------------------------------------------------------------


def test_order_of_kencarp4():
    exact = exact_of(lambda t, y: A @ y + push(t, y))
    e = errors(nc.Split(nc.linear(A), push), exact, (8, 16, 32), method="kencarp4")
    assert abs(np.log2(e[1] / e[2]) - 4) < 0.3


@pytest.mark.parametrize(
    "options", [{}, {"tstops": True}, {"steps": 3}, {"dt": 0.07}, {"tstops": [0.2, 0.5]}]
)
def test_kencarp4(options):
    split = nc.Split(DENSE, first)
    solve = lambda **more: nc.solve(  # noqa: E731
        split, Y0, T, PARAMS, ARGS, method="kencarp4", **{**options, **more}
    )
    sol = solve(adjoint="discrete")
    assert nc.gradcheck(sol) < 1e-8
    dy = RNG.standard_normal(sol.y.shape)
    g = sol.vjp(dy)
    alone = nc.solve(
        split, Y0[2], T, PARAMS, ARGS[2], method="kencarp4", adjoint="discrete", **options
    )
    assert np.array_equal(alone.y, sol.y[2]) and np.array_equal(alone.vjp(dy[2]).y0, g.y0[2])
    for budget in (nc.Discrete(checkpoints=2), nc.Discrete(checkpoints=1)):
        assert same(grads(solve(adjoint=budget).vjp(dy)), grads(g))


def test_kencarp4_between_its_steps():
    split = nc.Split(DENSE, first)
    options = {"method": "kencarp4", "rtol": 1e-8, "atol": 1e-10}
    sol = nc.solve(split, Y0, T, PARAMS, ARGS, dense=True, **options)
    direct = nc.solve(split, Y0, [0.0, 0.77], PARAMS, ARGS, **options)
    assert np.allclose(sol(0.77), direct.y[:, -1], atol=1e-6)


def test_kencarp4_on_a_stiff_linear_part_with_a_network():
    stiff = nc.linear([[-1e4, 5e3], [0.0, -1.0]])
    net = nc.nn.MLP([2, 16, 2])
    params = net.init(seed=0)

    def learned(t, y, p):
        return net(p, y)

    def whole(t, y, p):
        return stiff(t, y) + learned(t, y, p)

    split = nc.Split(stiff, learned)
    y0, t = [1.0, 1.0], [0.0, 1.0]
    exact = nc.solve(whole, y0, t, params, method="radau5", rtol=1e-11, atol=1e-13).y[-1]
    sol = nc.solve(split, y0, t, params, method="kencarp4", adjoint="discrete")
    assert np.abs(sol.y[-1] - exact).max() < 1e-5
    assert sol.stats.accepted + sol.stats.rejected < 200
    assert nc.gradcheck(sol) < 1e-8


# ---- Exponential integrator ----------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [A, np.diag(A).copy(), np.array([-300.0, -20.0, 0.0])])
def test_order_of_etdrk4(matrix):
    part = nc.linear(matrix)
    exact = exact_of(lambda t, y: part(t, y) + push(t, y))
    e = errors(nc.Split(part, push), exact, (20, 40, 80), method="etdrk4")
    assert abs(np.log2(e[1] / e[2]) - 4) < 0.3
    dense = nc.linear(np.diag(matrix)) if matrix.ndim == 1 else part
    assert np.allclose(
        errors(nc.Split(dense, push), exact, (20,), method="etdrk4"), e[0], rtol=1e-4
    )


@pytest.mark.parametrize("lin", [DENSE, DIAGONAL, nc.linear(A)])
def test_etdrk4(lin):
    split = nc.Split(lin, first)
    sol = solved(split, method="etdrk4", steps=4)
    assert nc.gradcheck(sol) < 1e-8
    assert np.array_equal(sol.replay().y, sol.y)
    dy = RNG.standard_normal(sol.y.shape)
    g = sol.vjp(dy)
    alone = solved(split, y0=Y0[2], args=ARGS[2], method="etdrk4", steps=4)
    assert np.array_equal(alone.y, sol.y[2]) and np.array_equal(alone.vjp(dy[2]).y0, g.y0[2])
    again = solved(split, adjoint=nc.Discrete(checkpoints=2), method="etdrk4", steps=4)
    assert same(grads(again.vjp(dy)), grads(g))
    many = [np.tile(x, (20,) + (1,) * (x.ndim - 1)) for x in (Y0, ARGS, dy)]
    one, two = (
        nc.solve(
            split, many[0], T, PARAMS, many[1], method="etdrk4", steps=4, adjoint="discrete",
            threads=n,
        ).vjp(many[2])
        for n in (1, 2)
    )  # fmt: skip
    assert same(grads(one), grads(two)) and np.array_equal(one.y0[:5], g.y0)
    with pytest.raises(nc.GradientError, match=r"g\.t is unknown"):
        g.t  # noqa: B018


def test_etdrk4_is_exact_where_the_other_part_is_constant():
    K = RNG.standard_normal((4, 4))
    b = RNG.standard_normal(4)
    y0 = RNG.standard_normal(4)
    split = nc.Split(nc.linear(K), lambda t, y: b + 0 * y)
    y = nc.solve(split, y0, [0.0, 2.0], method="etdrk4", steps=1).y[-1]
    augmented = np.zeros((5, 5))
    augmented[:4, :4], augmented[:4, 4] = K, b
    exact = (scipy.linalg.expm(2 * augmented) @ np.append(y0, 1.0))[:4]
    assert np.allclose(y, exact, rtol=1e-12, atol=1e-12)


# ---- How it is asked for -------------------------------------------------------------------------


def test_trees_and_plain_lists():
    def turn(t, y):
        return {"q": y["p"], "p": 0 * y["q"]}

    def pull(t, y):
        return {"q": 0 * y["p"], "p": -np.sin(y["q"])}

    y0 = {"q": np.array([1.0]), "p": np.array([0.0])}
    sol = nc.solve(nc.Split(turn, pull), y0, [0.0, 1.0], steps=200)
    whole = nc.solve(lambda t, y: {"q": y["p"], "p": -np.sin(y["q"])}, y0, [0.0, 1.0])
    assert np.allclose(sol.y["q"], whole.y["q"], atol=1e-4)
    pair = nc.Split(lambda t, y: [y[1], 0.0 * y[0]], lambda t, y: [0.0 * y[0], -y[0]])
    assert np.allclose(pair(0.0, np.array([1.0, 2.0])), [2.0, -1.0])
    assert np.allclose(nc.solve(pair, [1.0, 0.0], [0.0, 1.0], steps=100).y[-1],
                       [np.cos(1), -np.sin(1)], atol=1e-4)  # fmt: skip


def test_captured_values_are_seen_until_the_solve():
    scale = np.array([1.0])

    def part(t, y):
        return scale * y

    split = nc.Split(nc.linear(np.zeros(1)), part)
    sol = nc.solve(split, [1.0], [0.0, 1.0], steps=20, adjoint="discrete")
    scale[0] = 2.0
    again = nc.solve(split, [1.0], [0.0, 1.0], steps=20)
    assert np.isclose(sol.y[-1, 0], np.e, rtol=1e-5)
    assert np.isclose(again.y[-1, 0], np.e**2, rtol=1e-4)
    assert np.array_equal(sol.replay().y, sol.y)
    promised = nc.field(split)
    assert np.isclose(nc.solve(promised, [1.0], [0.0, 1.0], steps=20).y[-1, 0], again.y[-1, 0])


def test_pickling():
    split = nc.Split(nc.linear(A), push, methods=("expm", ("kvaerno5", 2)))
    copy = pickle.loads(pickle.dumps(split))
    assert copy.solver is split.solver
    sol = nc.solve(split, Y0, T, steps=3, adjoint="discrete")
    assert np.array_equal(pickle.loads(pickle.dumps(sol)).y, sol.y)


def test_fit_learns_a_matrix():
    true = np.array([[0.0, 1.0], [-2.0, -0.3]])
    t = np.linspace(0, 2, 9)
    y0 = np.array([[1.0, 0.0], [0.0, 1.0]])
    target = nc.solve(nc.linear(true), y0, t, rtol=1e-9).y
    split = nc.Split(nc.linear(lambda p: p), lambda t, y, p: 0 * y)
    found = nc.fit(
        split, np.zeros((2, 2)), y0, t, target, optimizer=nc.optim.Adam(0.05), steps=400,
        solve={"steps": 1}, progress=False,
    )  # fmt: skip
    assert np.allclose(found.params, true, atol=0.02)


@pytest.mark.parametrize(
    "options",
    [{"steps": 20}, {"rtol": 1e-3}, {"method": "kencarp4"}, {"method": "etdrk4", "dt": 0.1}],
)
def test_gradient_error(options):
    sol = solved(nc.Split(DENSE, first), **options)
    assert 0 < nc.gradient_error(sol, np.ones_like(sol.y)) < 1e-2


def test_diagnose_looks_at_the_sum():
    stiff = nc.linear([[-1e4, 5e3], [0.0, -1.0]])
    found = nc.diagnose(nc.Split(stiff, lambda t, y: np.tanh(y)), [1.0, 1.0], [0.0, 1.0])
    assert found.recommended == "kvaerno5" and 0.9e4 < found.spectral_radius < 1.1e4


def test_events_are_for_a_field_as_a_whole():
    split = nc.Split(nc.linear(A), push)
    event = nc.Event(lambda t, y: y[0])
    with pytest.raises(nc.InputError, match="no events"):
        nc.solve(split, Y0, T, steps=2, events=event)
    assert nc.solve(split.whole, Y0, T, events=event).ok


def test_a_failed_sample_is_named():
    split = nc.Split(nc.linear(np.zeros(1)), lambda t, y: y**2, methods=("expm", "backward_euler"))
    sol = nc.solve(split, [[0.1], [50.0]], [0.0, 1.0], steps=2, on_failure="mark")
    assert sol.status[0] == nc.Status.OK and sol.status[1] == nc.Status.NEWTON_FAILED
    with pytest.raises(nc.SolveError, match="sample 1"):
        nc.solve(split, [[0.1], [50.0]], [0.0, 1.0], steps=2)


MESSAGES = [
    (lambda: nc.linear(np.zeros((2, 3))), "shape"),
    (lambda: nc.linear("A"), "array or a function"),
    (lambda: nc.Split(push), "two to eight parts"),
    (lambda: nc.Split(push, push, scheme="strong"), "scheme must be one of"),
    (lambda: nc.Split(push, push, methods=("rk4",)), "one for each of the 2 parts"),
    (lambda: nc.Split(push, push, methods=("expm", "rk4")), "not linear"),
    (lambda: nc.Split(push, push, methods=("rk5", "rk4")), "unknown method"),
    (lambda: nc.Split(push, push, methods=("auto", "rk4")), "not by a choice"),
    (lambda: nc.Split(push, push, methods=(("rk4", 0), "rk4")), "positive integer"),
    (lambda: nc.Split(push, nc.opaque(push)), "cannot be traced"),
    (lambda: nc.Split(push, nc.Split(push, push)), "in one"),
    (lambda: nc.Split(push, 3), "not a field"),
    (lambda: nc.solve(nc.Split(push, push), Y0, T, method="rk4", steps=2), "leave out method"),
    (lambda: nc.solve(nc.Split(push, push, scheme="lie"), Y0, T), "no error estimate"),
    (lambda: nc.solve(nc.Split(push, push), Y0, T, dense=True, steps=2), "no interpolant"),
    (lambda: nc.solve(nc.Split(push, push), Y0, T, adjoint="continuous", steps=2), "continuous"),
    (
        lambda: nc.solve(nc.Split(push, push), Y0, T, adjoint="reversible", steps=2),
        "explicit method",
    ),
    (lambda: nc.solve(nc.Split(push, push, push), Y0, T, method="kencarp4"), "two parts"),
    (lambda: nc.solve(push, Y0, T, method="kencarp4"), "nc.Split"),
    (lambda: nc.solve(push, Y0, T, method="etdrk4"), "nc.Split"),
    (
        lambda: nc.solve(nc.Split(push, nc.linear(A)), Y0, T, method="etdrk4", steps=2),
        "in this order",
    ),
    (lambda: nc.solve(nc.Split(nc.linear(A), push), Y0, T, method="etdrk4"), "no error estimate"),
    (lambda: nc.solve(push, Y0, T, method=nc.Split(push, push).solver, steps=2), "nc.Split"),
    (lambda: nc.solve(nc.linear(lambda p: p), Y0, T), "function of params"),
    (lambda: nc.solve(nc.Split(nc.linear(np.eye(2)), push), Y0, T, steps=2), "A has shape"),
]


@pytest.mark.parametrize("call, message", MESSAGES)
def test_messages(call, message):
    with pytest.raises((nc.InputError, nc.TraceError), match=message):
        call()


def test_forward_mode_says_what_it_needs():
    for options in ({"steps": 2}, {"method": "kencarp4"}, {"method": "etdrk4", "steps": 2}):
        sol = nc.solve(nc.Split(nc.linear(A), push), Y0, T, adjoint="discrete", **options)
        with pytest.raises(nc.GradientError, match="Split"):
            sol.jvp(dy0=Y0)


@pytest.mark.skipif("NODECORE_ISA" in os.environ, reason="this is the run with another ISA")
@pytest.mark.parametrize("isa", nc.show_config()["isa_available"])
def test_every_instruction_set(isa):
    """Exactness, bits and gradients again, with the instruction set forced and seen active."""
    if isa == nc.show_config()["isa"]:
        pytest.skip("this is the default: the tests above ran with it")
    code = (
        "import nodecore as nc, pytest, sys; "
        f"assert nc.show_config()['isa'] == {isa!r}; "
        "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-k", "exact or bits or kencarp4 or etdrk4", __file__],
        env={**os.environ, "NODECORE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

"""Implicit methods on stiff problems: end values, gradients, independence, the choice."""

import numpy as np
import pytest

import nodecore as nc

STIFF = ["kvaerno5", "rodas5p", "radau5", "auto"]
ITERATING = ["trbdf2", "kvaerno3", "kvaerno5", "radau5"]


def robertson(t, y, k):
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b**2, k[2] * b * c
    return [back - slow, slow - back - fast, fast]


RATES = np.array([0.04, 3e7, 1e4])


def oregonator(t, y):
    a, b, c = y
    return [77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)]


def van_der_pol(t, y, p, a):
    x, v = y
    return [v, a["mu"] * (1 - x**2) * v - x + p["push"]]


def dahlquist(t, y, p):
    """Prothero & Robinson: y' = -1000 (y - cos wt)."""
    return -p["rate"] * (y - np.cos(p["w"] * t))


# ---- End values ----------------------------------------------------------------------------------

# Hairer & Wanner, Solving Ordinary Differential Equations II, and Enright, Hull & Lindberg (1975)
PROBLEMS = {
    "ROBER": (robertson, [1.0, 0, 0], 1e11, RATES, [1e-10, 1e-16, 1e-10],
              [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]),
    "OREGO": (oregonator, [1.0, 2, 3], 360.0, None, 1e-8,
              [1.000814870318523, 1228.178521549917, 132.0554942846706]),
    "VDPOL": (lambda t, y: [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]], [2.0, 0], 2000.0, None,
              1e-10, [1.706167732170469, -0.8928097010248125e-3]),
    "D2": (lambda t, y: [-0.04 * y[0] + 0.01 * y[1] * y[2],
                         400 * y[0] - 100 * y[1] * y[2] - 3000 * y[1] ** 2, 30 * y[1] ** 2],
           [1.0, 0, 0], 40.0, None, 1e-10,
           [0.7158270687193941, 0.09185534764557338, 28.41637457458413]),
}  # fmt: skip


@pytest.mark.parametrize("method", STIFF)
@pytest.mark.parametrize("name", PROBLEMS)
def test_end_values(name, method):
    field, y0, T, params, atol, end = PROBLEMS[name]
    atol = np.multiply(atol, 1e-8) if name == "ROBER" else atol
    sol = nc.solve(field, y0, [0.0, T], params, method=method, rtol=1e-8, atol=atol)
    np.testing.assert_allclose(sol.y[-1], end, rtol=3e-4)
    assert sol.stats.accepted < 8000 and sol.stats.njev > 0 and sol.stats.nlu > 0


@pytest.mark.parametrize("method", ["trbdf2", "kvaerno3", "rosenbrock23", "rodas4"])
def test_lower_orders_meet_a_loose_tolerance(method):
    field, y0, T, params, _, end = PROBLEMS["D2"]
    sol = nc.solve(field, y0, [0.0, T], params, method=method, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(sol.y[-1], end, rtol=1e-3)


def test_many_species():
    """A chain of 20 species over eight orders of magnitude of rates: linear, so it is known."""
    n = 20
    k = np.logspace(-2, 6, n)
    A = np.diag(-k) + np.diag(k[:-1], -1) + 0.1 * np.diag(k[1:], 1)
    A[np.arange(n - 1), np.arange(1, n)] = 0.1 * k[1:]
    A -= np.diag(A.sum(axis=0))
    y0 = np.eye(n)[0]
    w, V = np.linalg.eig(A)
    times = np.array([0.0, 1e-3, 1.0, 100.0])
    exact = np.stack([(V @ (np.exp(w * t) * np.linalg.solve(V, y0))).real for t in times])
    for method in STIFF:
        sol = nc.solve(lambda t, y: A @ y, y0, times, method=method, rtol=1e-8, atol=1e-14)
        np.testing.assert_allclose(sol.y, exact, rtol=1e-5, atol=1e-9)
        assert sol.stats.accepted < 1000


def test_the_interpolant_is_as_right_as_the_steps():
    """The derivative at a step's end is that of the stage: a fresh one has thousands of times the
    error in the stiff component."""
    t = np.concatenate([[0.0], np.logspace(-3, 4, 60)])
    exact = nc.solve(
        robertson, [1.0, 0, 0], t, RATES, method="radau5", rtol=1e-11, atol=1e-18, tstops=True
    ).y
    for method in ("kvaerno3", "kvaerno5", "radau5", "rodas5p"):
        sol = nc.solve(robertson, [1.0, 0, 0], t, RATES, method=method, rtol=1e-6, atol=1e-11)
        error = np.abs(sol.y - exact) / (1e-11 + 1e-6 * np.abs(exact))
        assert error.max() < 300, method


@pytest.mark.parametrize("method", [*ITERATING, "rodas5p", "rosenbrock23"])
def test_float32(method):
    y0 = np.array([2.0, 0.0], np.float32)
    args = {"mu": np.float32(30.0)}
    sol = nc.solve(van_der_pol, y0, [0.0, 40.0], {"push": 0.0}, args, method=method, rtol=1e-4,
                   atol=1e-5)  # fmt: skip
    ref = nc.solve(van_der_pol, np.float64(y0), [0.0, 40.0], {"push": 0.0}, {"mu": 30.0},
                   method="radau5", rtol=1e-9, atol=1e-9)  # fmt: skip
    assert sol.y.dtype == np.float32
    np.testing.assert_allclose(sol.y[-1], ref.y[-1], rtol=0.02)


def test_cost_does_not_grow_with_stiffness():
    steps = []
    for rate in (1e4, 1e6, 1e8):
        sol = nc.solve(dahlquist, [0.0], [0.0, 10.0], {"rate": rate, "w": 1.0}, method="kvaerno5")
        steps.append(sol.stats.accepted)
        assert sol.y[-1, 0] == pytest.approx(np.cos(10.0), abs=2e-4)
    assert max(steps) < 3 * min(steps)


# ---- Gradients -----------------------------------------------------------------------------------


def exact_dahlquist(p, t):
    """y and its derivatives in rate and w, from y(0) = 0."""

    def y(k, w):
        c = k / (k * k + w * w)
        return c * (k * np.cos(w * t) + w * np.sin(w * t) - k * np.exp(-k * t))

    h = 1e-20
    return [y(p["rate"], p["w"]), np.imag(y(p["rate"] + 1j * h, p["w"])) / h,
            np.imag(y(p["rate"], p["w"] + 1j * h)) / h]  # fmt: skip


@pytest.mark.parametrize(
    "adjoint",
    ["discrete", nc.Continuous("gauss", rtol=1e-9, atol=1e-12),
     nc.Continuous("interpolating", rtol=1e-9, atol=1e-12),
     nc.Continuous("gauss", method="radau5", rtol=1e-9, atol=1e-12)],
    ids=["discrete", "gauss", "interpolating", "gauss by radau5"],
)  # fmt: skip
def test_a_stiff_adjoint(adjoint):
    p = {"rate": 1000.0, "w": 1.7}
    t = np.array([0.0, 0.6, 1.3])
    sol = nc.solve(dahlquist, [0.0], t, p, method="kvaerno5", rtol=1e-9, atol=1e-12,
                   adjoint=adjoint)  # fmt: skip
    g = sol.vjp(np.array([[0.0], [0.7], [1.0]]))
    _, in_rate, in_w = exact_dahlquist(p, t)
    assert g.params["rate"] == pytest.approx(0.7 * in_rate[1] + in_rate[2], rel=1e-5)
    assert g.params["w"] == pytest.approx(0.7 * in_w[1] + in_w[2], rel=1e-5)
    assert abs(g.y0[0]) < 1e-8


@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno5", "radau5", "rodas5p", "auto"])
def test_gradients_of_robertson(method):
    """Rates nine orders of magnitude apart, through their logarithms (Kim et al. 2021)."""

    def field(t, y, logk):
        return robertson(t, y, np.exp(logk))

    t = np.concatenate([[0.0], np.logspace(-4, 4, 9)])
    sol = nc.solve(field, [1.0, 0, 0], t, np.log(RATES), method=method, rtol=1e-7, atol=1e-12,
                   adjoint="discrete")  # fmt: skip
    dy = np.ones_like(sol.y) * [1.0, 1e4, 1.0]
    assert nc.gradcheck(sol, dy, wrt=("params",)) < 2e-7
    assert nc.gradient_error(sol, dy) < 1e-3


@pytest.mark.parametrize("method", [*ITERATING, "rodas5p", "auto"])
def test_budgets_keep_the_bits(method):
    """What Newton's iteration remembers is part of a checkpoint."""
    rng = np.random.default_rng(1)
    mu = np.geomspace(5, 80, 11)
    y0 = rng.normal(size=(11, 2)) + [1.5, 0]
    t = np.linspace(0, 20, 5)
    given = (van_der_pol, y0, t, {"push": 0.1}, {"mu": mu})
    options = {"method": method, "rtol": 1e-5, "atol": 1e-8}
    whole = nc.solve(*given, adjoint="discrete", **options)
    dy = rng.normal(size=whole.y.shape)
    want = whole.vjp(dy)
    assert whole.stats.storage_bytes > 0
    for adjoint in (
        nc.Discrete(checkpoints=2), nc.Discrete(checkpoints=9), nc.Discrete(memory="96 KiB"),
        nc.Discrete(checkpoints=4, schedule="uniform"),
    ):  # fmt: skip
        sol = nc.solve(*given, adjoint=adjoint, **options)
        assert sol.y.tobytes() == whole.y.tobytes()
        for _ in range(2):
            g = sol.vjp(dy)
            assert g.y0.tobytes() == want.y0.tobytes()
            assert g.args["mu"].tobytes() == want.args["mu"].tobytes()
            assert g.params["push"] == want.params["push"]
        assert sol.stats.recomputed_steps > 0
        if adjoint.memory:
            assert sol.stats.storage_bytes <= 96 * 1024


# ---- Per sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kvaerno5", "radau5", "rodas5p", "auto"])
def test_van_der_pol_of_all_stiffnesses_in_one_batch(method):
    mu = np.geomspace(1, 1000, 13)
    y0 = np.tile([2.0, 0.0], (13, 1))
    t = np.linspace(0, 1, 4) * (1 + mu[:, None])
    given = {"method": method, "rtol": 1e-5, "atol": 1e-8}
    batch = nc.solve(van_der_pol, y0, t, {"push": 0.0}, {"mu": mu}, **given)
    for b in (0, 4, 9, 12):
        lone = nc.solve(van_der_pol, y0[b], t[b], {"push": 0.0}, {"mu": mu[b]}, **given)
        assert lone.y.tobytes() == batch.y[b].tobytes()
        for name in ("accepted", "rejected", "nfev", "njev", "nlu"):
            assert getattr(lone.stats, name) == getattr(batch.stats, name)[b], name


# ---- The choice ----------------------------------------------------------------------------------


def test_auto_is_explicit_where_nothing_is_stiff():
    def orbit(t, y):
        x, v = y
        return [v, -x]

    auto = nc.solve(orbit, [1.0, 0.0], np.linspace(0, 30, 7), method="auto")
    plain = nc.solve(orbit, [1.0, 0.0], np.linspace(0, 30, 7), method="tsit5")
    assert auto.y.tobytes() == plain.y.tobytes()
    assert auto.stats.switches == 0 and auto.stats.accepted == plain.stats.accepted


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_auto_switches_and_comes_back():
    """Relaxation oscillations: implicit on the slow branches, and each sample for itself."""
    mu = np.array([0.5, 200.0])
    t = np.array([[0.0, 50.0], [0.0, 500.0]])
    y0 = np.tile([2.0, 0.0], (2, 1))
    sol = nc.solve(van_der_pol, y0, t, {"push": 0.0}, {"mu": mu}, method="auto", rtol=1e-6,
                   atol=1e-9, adjoint="discrete")  # fmt: skip
    assert sol.stats.switches[0] == 0 and sol.stats.njev[0] <= 1
    assert sol.stats.switches[1] >= 2
    explicit = nc.solve(van_der_pol, y0, t, {"push": 0.0}, {"mu": mu}, rtol=1e-6, atol=1e-9)
    assert sol.stats.accepted[1] < explicit.stats.accepted[1] / 3
    g = sol.vjp(np.ones_like(sol.y))
    alone = nc.solve(van_der_pol, y0[1], t[1], {"push": 0.0}, {"mu": mu[1]}, method="auto",
                     rtol=1e-6, atol=1e-9, adjoint="discrete")  # fmt: skip
    assert alone.vjp(np.ones_like(alone.y)).y0.tobytes() == g.y0[1].tobytes()


def test_gradients_across_a_switch():
    """A damped mode is explicit while it decays and implicit behind."""

    def field(t, y, p):
        return np.stack([-p["fast"] * (y[0] - np.cos(y[1])), 1.0 + 0 * y[1] - 0.1 * y[1]])

    p = {"fast": 3000.0}
    sol = nc.solve(field, [3.0, 0.2], np.linspace(0, 3, 5), p, method="auto", rtol=1e-6, atol=1e-9,
                   adjoint="discrete")  # fmt: skip
    assert sol.stats.switches >= 1
    assert nc.gradcheck(sol) < 2e-7
    replay = sol.replay()
    np.testing.assert_allclose(replay.y, sol.y, rtol=1e-6, atol=1e-8)
    assert replay.stats.switches == sol.stats.switches


# ---- Seeing it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dop853"])
def test_an_explicit_method_says_that_stability_limits_it(method):
    """Once, with the numbers: the step is its limit over the rate."""
    p = {"rate": np.array([1.0, 1000.0]), "w": 1.0}
    with pytest.warns(nc.StiffnessWarning, match=f"sample 1: .* steps of {method}") as caught:
        sol = nc.solve(lambda t, y, p, a: -a * (y - np.cos(t)), np.ones((2, 1)), [0.0, 10.0], None,
                       p["rate"], method=method)  # fmt: skip
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "about 1e+03" in str(caught[0].message) and "samples were limited" not in str(caught[0])
    assert sol.stats.accepted[1] > 1000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_no_warning_where_accuracy_limits(rtol):
    def lorenz(t, y):
        a, b, c = y
        return [10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c]

    for method in ("tsit5", "dopri5", "dop853", "bosh3"):
        nc.solve(lambda t, y: [y[1], -y[0]], [1.0, 0.0], [0.0, 200.0], method=method, rtol=rtol)
        nc.solve(lorenz, [1.0, 1.0, 1.0], [0.0, 40.0], method=method, rtol=rtol)
    nc.solve(dahlquist, [0.0], [0.0, 10.0], {"rate": 1e3, "w": 1.0}, method="kvaerno5", rtol=rtol)


# ---- Failure -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kvaerno5", "radau5", "rodas5p"])
def test_a_matrix_that_cannot_be_factored(method):
    """The field is finite and its derivative is not."""

    def field(t, y):
        return [-1e200 * (1e200 * y[0]) + y[1], -y[1]]

    with pytest.raises(nc.SolveError, match="cannot be factored") as caught:
        nc.solve(field, [0.0, 0.0], [0.0, 2.0], method=method, dt=0.1)
    assert caught.value.status == nc.Status.SINGULAR and caught.value.t == 0.0


@pytest.mark.parametrize("method", ["backward_euler", "kvaerno5", "radau5"])
def test_a_failed_neighbour_changes_nothing(method):
    def field(t, y, p, a):
        return a["sign"] * y**2 - 50 * (1 - a["sign"]) * y

    y0 = np.ones((5, 1))
    sign = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    options = {"dt": 0.05} if method == "backward_euler" else {}
    args = {"sign": sign}
    sol = nc.solve(field, y0, [0.0, 2.0], None, args, method=method, on_failure="mark",
                   adjoint="discrete", **options)  # fmt: skip
    assert list(sol.status != 0) == [False, False, True, False, False]
    good = np.flatnonzero(sol.status == 0)
    part = nc.solve(field, y0[good], [0.0, 2.0], None, {"sign": sign[good]}, method=method,
                    adjoint="discrete", **options)  # fmt: skip
    assert part.y.tobytes() == sol.y[good].tobytes()
    dy = np.ones_like(sol.y)
    assert part.vjp(dy[good]).y0.tobytes() == sol.vjp(dy).y0[good].tobytes()
    assert not sol.vjp(dy).y0[2].any()

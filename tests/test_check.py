"""gradcheck and gradient_error: small where they must be, large where they must be."""

import numpy as np
import pytest

import nodecore as nc


def scaled(t, y, p, a):
    """States, params and args of very different sizes."""
    rate = np.stack([p["slow"] * y[1] * a["load"], -p["fast"][0] * y[0] * p["fast"][1]])
    return rate + p["bias"] * np.where(a["kind"] > 1, np.cos(t), np.sin(t))


PARAMS = {"slow": np.array(1e-4), "fast": np.array([3e4, 1e-1]), "bias": np.zeros(2)}
ARGS = {"load": np.array([2.0, 1.0, 0.5]), "kind": np.array([0, 5_000_000, 2])}
Y0 = np.array([[1e-5, 0.2], [2e-5, 0.0], [0.0, -0.3]])
T = np.linspace(0, 2, 5)


@pytest.mark.parametrize("wrt", ["y0", "params", "args", "t"])
def test_sizes_of_any_kind(wrt):
    sol = nc.solve(scaled, Y0, T, PARAMS, ARGS, atol=1e-12, adjoint="discrete")
    for seed in range(3):
        assert nc.gradcheck(sol, wrt=[wrt], seed=seed) < 1e-8


def test_each_sample_of_ragged_times():
    t = [np.linspace(0, 1 + i, 3 + i) for i in range(3)]
    sol = nc.solve(scaled, Y0, t, PARAMS, ARGS, atol=1e-12, adjoint="discrete")
    assert nc.gradcheck(sol) < 1e-8


def test_large_integers_do_not_set_the_steps():
    """Sizes come from the numbers that are moved: integer leaves stay."""

    def fun(t, y, p, a):
        return -y * p * np.where(a["id"] > 10, 1.0, a["w"])

    args = {"id": np.array([10**9, 3]), "w": np.array([0.3, 0.7])}
    sol = nc.solve(fun, np.ones((2, 1)), [0.0, 1.0], 0.5, args, adjoint="discrete")
    assert nc.gradcheck(sol) < 1e-8
    only = nc.solve(
        lambda t, y, p, a: -y * p * np.where(a > 10, 1.0, 2.0),
        np.ones((2, 1)), [0.0, 1.0], 0.5, np.array([10**9, 3]), adjoint="discrete",
    )  # fmt: skip
    assert nc.gradcheck(only, wrt=["args"]) == 0.0


def test_a_state_that_must_stay_positive():
    sol = nc.solve(
        lambda t, y, k: -k * np.sqrt(y), [1e-3, 4.0], [0.0, 0.05], 0.4, adjoint="discrete"
    )
    assert nc.gradcheck(sol) < 1e-8


@pytest.mark.parametrize(
    "change",
    [
        lambda g: setattr(g, "params", {**g.params, "fast": 1.001 * g.params["fast"]}),
        lambda g: setattr(g, "y0", g.y0[::-1]),
        lambda g: setattr(g, "args", {**g.args, "load": 0 * g.args["load"]}),
    ],
)
def test_a_wrong_gradient_is_seen(change, monkeypatch):
    sol = nc.solve(scaled, Y0, T, PARAMS, ARGS, atol=1e-12, adjoint="discrete")
    vjp = sol.vjp

    def wrong(dy):
        g = vjp(dy)
        change(g)
        return g

    monkeypatch.setattr(sol, "vjp", wrong)
    assert nc.gradcheck(sol) > 1e-5


def test_a_sample_that_failed_is_no_part_of_it():
    sol = nc.solve(
        lambda t, y, k: k * y**2, [[0.5], [2.0]], [0.0, 0.4, 1.0], 1.0, adjoint="discrete",
        on_failure="mark", max_steps=100,
    )  # fmt: skip
    assert not sol.ok
    dy = np.ones_like(sol.y)
    dy[1] = 0.0
    assert nc.gradcheck(sol, dy) < 1e-8
    assert nc.gradient_error(sol, np.ones_like(sol.y)) < 1e-4


@pytest.mark.parametrize("mode", ["gauss", "interpolating", "backsolve"])
def test_of_a_continuous_gradient_it_is_the_discretisation_difference(mode):
    differences = []
    for rtol in (1e-4, 1e-7, 1e-10):
        sol = nc.solve(
            lambda t, y, k: -k * y**2, [1.0], [0.0, 1.0], 2.0, rtol=rtol, atol=rtol / 1000,
            adjoint=nc.Continuous(mode),
        )  # fmt: skip
        differences.append(nc.gradcheck(sol, wrt=("y0", "params")))
    assert 1e-7 < differences[0] < 1e-2
    assert differences[0] > 10 * differences[1] > 100 * differences[2]


def test_wrong_names_and_no_adjoint():
    sol = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0], adjoint="discrete")
    with pytest.raises(nc.InputError, match="wrt holds 'x'"):
        nc.gradcheck(sol, wrt=["x"])
    with pytest.raises(nc.InputError, match="factor must be more than 1"):
        nc.gradient_error(sol, np.ones((2, 1)), factor=1.0)
    bare = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0])
    with pytest.raises(nc.GradientError):
        nc.gradcheck(bare)
    with pytest.raises(nc.GradientError):
        nc.gradient_error(bare, np.ones((2, 1)))


# ---- gradient_error ------------------------------------------------------------------------------


def van_der_pol(t, y, mu):
    return np.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def test_a_relaxation_oscillator_at_loose_tolerances():
    """The gradient is exact for the steps that were made, and useless: Alexe & Sandu 2009."""
    t = np.linspace(0, 30, 16)
    loose = nc.solve(
        van_der_pol, [2.0, 0.0], t, 10.0, rtol=1e-3, atol=1e-4, method="dopri5", adjoint="discrete"
    )
    dy = np.ones_like(loose.y)
    assert nc.gradcheck(loose, dy, wrt=("y0", "params")) < 1e-7
    assert nc.gradient_error(loose, dy) > 0.1
    tight = nc.solve(van_der_pol, [2.0, 0.0], t, 10.0, rtol=1e-10, atol=1e-12, adjoint="discrete")
    assert nc.gradient_error(tight, dy) < 1e-4


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "rk4", "steps": 20}, {"method": "rk4", "dt": 0.02},
     {"method": "rk4", "controller": nc.FixedStep(dt=0.02)}],
)  # fmt: skip
def test_a_smooth_problem(options, adjoint):
    y0 = np.array([[1.0, 0.5], [0.3, 1.2]])
    sol = nc.solve(
        lambda t, y, k: np.stack([y[1], -k * np.sin(y[0])]), y0, np.linspace(0, 2, 5), 1.3,
        adjoint=adjoint, **options,
    )  # fmt: skip
    error = nc.gradient_error(sol, np.ones_like(sol.y))
    assert 1e-12 < error < 1e-4


def test_error_estimates_the_error():
    exact = nc.solve(
        van_der_pol, [2.0, 0.0], [0.0, 3.0], 2.0, method="dop853", rtol=1e-12, atol=1e-13,
        adjoint="discrete",
    )  # fmt: skip
    sol = nc.solve(van_der_pol, [2.0, 0.0], [0.0, 3.0], 2.0, rtol=1e-4, adjoint="discrete")
    dy = np.array([[0.0, 0.0], [1.0, 1.0]])
    a, b = sol.vjp(dy), exact.vjp(dy)
    true = np.hypot(np.linalg.norm(a.y0 - b.y0), a.params - b.params)
    true /= np.hypot(np.linalg.norm(b.y0), b.params)
    assert nc.gradient_error(sol, dy) == pytest.approx(true, rel=0.1)


def test_float32_is_compared_with_float64():
    y0 = np.array([[1.0, 0.5]], np.float32)
    sol = nc.solve(
        lambda t, y, k: -k * y, y0, [0.0, 1.0], 1.3, rtol=1e-5, atol=1e-6, adjoint="discrete"
    )
    assert nc.gradient_error(sol, np.ones_like(sol.y)) < 1e-4


def test_a_tighter_solve_that_fails():
    def hole(t, y):  # between the stages of the coarse steps
        return -y * np.where(np.abs(t - 1.2345) < 1e-3, np.nan, 1.0)

    sol = nc.solve(hole, [1.0, 2.0], [0.0, 2.0], method="rk4", dt=0.5, adjoint="discrete")
    dy = np.ones_like(sol.y)
    assert 1e-5 < nc.gradient_error(sol, dy, factor=100) < 1e-2
    with pytest.raises(
        nc.GradientError, match="sample 0 fails at the tighter tolerances: .*finite"
    ):
        nc.gradient_error(sol, dy, factor=1e9)

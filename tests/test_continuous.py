"""The continuous adjoint converges to the derivative of the exact solution, or says why not."""

import pickle
import warnings

import numpy as np
import pytest

import nodecore as nc
from nodecore import tree

RNG = np.random.default_rng(3)
MODES = ("gauss", "interpolating", "backsolve")


def field(t, y, p, a):
    h = np.tanh(y @ p["W"] + p["b"] * np.sin(t))
    turn = np.where(a["kind"] > 1, y, -y) * a["count"]
    return h @ p["W"].T * a["rate"] - np.log1p(y**2) * np.exp(p["k"]) + 0.1 * turn


B = 5
PARAMS = {"W": RNG.normal(size=(2, 4)), "b": RNG.normal(size=4), "k": np.array(-0.3)}
Y0 = RNG.normal(size=(B, 2))
ARGS = {
    "rate": RNG.uniform(0.5, 1, (B, 2)),
    "kind": np.arange(B),
    "count": np.array([True, False, True, True, False]),
}
SHARED = np.linspace(0, 1.5, 6)
TIMES = {
    "shared": SHARED,
    "backwards": SHARED[::-1].copy(),
    "rows": SHARED * RNG.uniform(0.5, 1, (B, 1)) + RNG.uniform(0, 1, (B, 1)),
    "ragged": [np.linspace(0.1 * i, 1 + 0.2 * i, 3 + i) for i in range(B)],
}


def cotangent(sol):
    return tree.map(lambda x: np.cos(np.arange(np.size(x))).reshape(np.shape(x)), sol.y)


def flat(g, names=("y0", "params", "args", "t")):
    leaves = [x for name in names for x in tree.flatten(getattr(g, name))[0]]
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves])


def difference(g, exact, names=("y0", "params", "args", "t")):
    a, b = flat(g, names), flat(exact, names)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def tight(fun, y0, t, *rest, **options):
    """(solution, gradient) by the discrete adjoint, as good as exact."""
    sol = nc.solve(
        fun, y0, t, *rest, method="dop853", rtol=1e-12, atol=1e-13, adjoint="discrete", **options
    )
    return sol, sol.vjp(cotangent(sol))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("mode", MODES)
def test_converges_with_the_tolerance(mode, times):
    t = TIMES[times]
    sol, exact = tight(field, Y0, t, PARAMS, ARGS)
    dy = cotangent(sol)
    tolerances = np.array([1e-4, 1e-6, 1e-8, 1e-10])
    errors = []
    for tol in tolerances:
        sol = nc.solve(
            field, Y0, t, PARAMS, ARGS, rtol=tol, atol=tol / 100, adjoint=nc.Continuous(mode)
        )
        g = sol.vjp(dy)
        errors.append(difference(g, exact))
        for name in ("y0", "params", "args", "t"):  # none is small beside the others
            assert difference(g, exact, [name]) < 20 * tol
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert 0.8 < slope < 1.25
    assert errors[-1] < 2e-9


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_dtypes_are_those_of_what_was_given(mode):
    sol = nc.solve(field, Y0, SHARED, PARAMS, ARGS, adjoint=nc.Continuous(mode))
    g = sol.vjp(cotangent(sol))
    assert g.y0.shape == Y0.shape and g.t.shape == SHARED.shape
    for name, value in PARAMS.items():
        assert g.params[name].shape == value.shape
    assert g.args["kind"].dtype == ARGS["kind"].dtype and not g.args["kind"].any()
    assert g.args["count"].dtype == bool and not g.args["count"].any()
    again = sol.vjp(cotangent(sol))
    np.testing.assert_array_equal(flat(g), flat(again))


@pytest.mark.parametrize("mode", MODES)
def test_trees_and_one_sample(mode):
    def swing(t, y, p, a):
        return {"x": y["v"], "v": -np.sin(y["x"]) * p[0] - a["drag"] * y["v"] * p[1]}

    y0 = {"x": np.array([0.3, 1.0]), "v": np.zeros(2)}
    args = {"drag": np.array([0.1, 0.2])}
    params = [np.array(2.0), np.array([0.5, 1.5])]
    t = np.linspace(0, 2, 4)
    sol, exact = tight(swing, y0, t, params, args)
    options = {"rtol": 1e-9, "atol": 1e-10}
    g = nc.solve(swing, y0, t, params, args, adjoint=nc.Continuous(mode), **options).vjp(
        cotangent(sol)
    )
    assert g.y0["x"].shape == (2,) and g.params[0].shape == () and g.args["drag"].shape == (2,)
    assert difference(g, exact) < 1e-7


@pytest.mark.parametrize("mode", MODES)
def test_float32(mode):
    sol, exact = tight(field, Y0, SHARED, PARAMS, ARGS)
    y0 = Y0.astype(np.float32)
    single = nc.solve(
        field, y0, SHARED, PARAMS, ARGS, rtol=1e-5, atol=1e-6, adjoint=nc.Continuous(mode)
    )
    g = single.vjp(cotangent(sol))
    assert g.y0.dtype == np.float32 and g.params["W"].dtype == np.float64
    assert difference(g, exact) < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_own_method_and_tolerances(mode):
    sol, exact = tight(field, Y0, SHARED, PARAMS, ARGS)
    dy = cotangent(sol)

    def error(**own):
        forward = {"rtol": 1e-11, "atol": 1e-12}
        adjoint = nc.Continuous(mode, **own)
        made = nc.solve(field, Y0, SHARED, PARAMS, ARGS, adjoint=adjoint, **forward)
        return difference(made.vjp(dy), exact)

    assert error(method="dop853", rtol=1e-10, atol=1e-11) < 1e-8
    coarse = error(method="bosh3", rtol=1e-4, atol=1e-5)
    assert 1e-7 < coarse < 1e-3
    assert error(rtol=1e-5, atol=1e-6) > 3 * error(rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("method", "options"), [("rk4", {"dt": 0.01}), ("rk4", {"steps": 40}), ("tsit5", {"dt": 0.05})]
)
def test_fixed_steps_forwards(mode, method, options):
    sol, exact = tight(field, Y0, SHARED, PARAMS, ARGS)
    made = nc.solve(
        field, Y0, SHARED, PARAMS, ARGS, method=method, adjoint=nc.Continuous(mode), **options
    )
    assert difference(made.vjp(cotangent(sol)), exact) < 3e-6


@pytest.mark.parametrize("mode", MODES)
def test_failed_samples_contribute_nothing(mode):
    def blows_up(t, y, k, a):
        return k * y**2 * a

    y0 = np.array([[0.5], [2.0], [0.25]])  # the second becomes infinite at t = 0.5
    a = np.ones((3, 1))
    t = np.linspace(0, 1, 5)
    with_bad = nc.solve(
        blows_up, y0, t, 1.0, a, adjoint=nc.Continuous(mode), on_failure="mark", max_steps=200
    )
    assert list(with_bad.status != 0) == [False, True, False]
    dy = np.ones((3, 5, 1))
    dy[1] = np.nan  # is ignored, reached or not
    g = with_bad.vjp(dy)
    good = [0, 2]
    alone = nc.solve(blows_up, y0[good], t, 1.0, a[good], adjoint=nc.Continuous(mode))
    h = alone.vjp(dy[good])
    np.testing.assert_allclose(g.params, h.params, rtol=1e-12)
    np.testing.assert_array_equal(g.y0[good], h.y0)
    np.testing.assert_array_equal(g.args[good], h.args)
    assert not g.y0[1].any() and not g.args[1].any()
    np.testing.assert_allclose(g.t, h.t, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_limits_in_time(mode):
    """dL/dt_k = dy_k . f(t_k, y_k), dL/dt_0 = -lambda(t_0) . f(t_0, y_0); dy_0 adds nothing."""
    k, t = 0.7, np.array([0.2, 0.9, 1.3])
    options = {"rtol": 1e-10, "atol": 1e-12, "adjoint": nc.Continuous(mode)}
    sol = nc.solve(lambda t, y, k: -k * y, [2.0], t, k, **options)
    dy = np.array([[5.0], [1.0], [-2.0]])
    decay = 2 * np.exp(-k * (t - t[0]))
    slopes = -k * decay * dy[:, 0]
    want = [-slopes[1:].sum(), slopes[1], slopes[2]]
    np.testing.assert_allclose(sol.vjp(dy).t, want, rtol=1e-8)
    dy[0] = 0.0
    np.testing.assert_allclose(sol.vjp(dy).t, want, rtol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_terms_of_params_and_of_args_alone(mode):
    """A right-hand side without y: its whole gradient is an integral."""
    y0, t = np.zeros((3, 2)), np.linspace(0, 2, 4)
    a = {"s": np.array([[1.0], [2.0], [3.0]])}

    def fun(t, y, p, a):
        return np.exp(p["u"]) * np.cos(t) + np.square(p["w"]) + a["s"] ** 2

    p = {"u": np.array([0.1, 0.2]), "w": np.array(1.5), "unused": np.ones(3)}
    sol, exact = tight(fun, y0, t, p, a)
    made = nc.solve(fun, y0, t, p, a, rtol=1e-9, adjoint=nc.Continuous(mode))
    g = made.vjp(cotangent(sol))
    assert difference(g, exact) < 1e-8
    assert not g.params["unused"].any()


@pytest.mark.parametrize("mode", MODES)
def test_without_params_and_args(mode):
    sol, exact = tight(lambda t, y: -(y**2), [1.0, 2.0], [0.0, 1.0, 2.0])
    made = nc.solve(
        lambda t, y: -(y**2), [1.0, 2.0], [0.0, 1.0, 2.0], rtol=1e-9, adjoint=nc.Continuous(mode)
    )
    g = made.vjp(cotangent(sol))
    assert g.params is None and g.args is None
    np.testing.assert_allclose(g.y0, exact.y0, rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_the_scale_of_the_loss_does_not_matter(mode):
    sol = nc.solve(field, Y0, SHARED, PARAMS, ARGS, adjoint=nc.Continuous(mode))
    dy = cotangent(sol)
    one, tiny = sol.vjp(dy), sol.vjp(2.0**-60 * dy)
    np.testing.assert_array_equal(flat(one), 2.0**60 * flat(tiny))


def test_only_outputs_with_a_cotangent_cost_a_solve(monkeypatch):
    from nodecore import _run

    t = np.linspace(0, 3, 61)
    sol = nc.solve(field, Y0, t, PARAMS, ARGS, rtol=1e-9, atol=1e-11, adjoint="continuous")
    dy = np.zeros_like(sol.y)
    dy[:, 20], dy[:3, 40] = 1.0, -1.0
    calls = []
    original = _run.run
    monkeypatch.setattr(_run, "run", lambda *a, **k: calls.append(a[0]) or original(*a, **k))
    g = sol.vjp(dy)
    assert sum(inputs.transform == "gauss" and inputs.keep for inputs in calls) == 2
    exact = nc.solve(
        field, Y0, t, PARAMS, ARGS, method="dop853", rtol=1e-12, atol=1e-13, adjoint="discrete"
    ).vjp(dy)
    assert difference(g, exact) < 1e-7


@pytest.mark.parametrize("mode", MODES)
def test_zero_cotangent(mode):
    sol = nc.solve(field, Y0, SHARED, PARAMS, ARGS, adjoint=nc.Continuous(mode))
    assert not flat(sol.vjp(np.zeros_like(sol.y))).any()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("tstops", ["times", "outputs"])
@pytest.mark.parametrize("mode", ["gauss", "interpolating"])
def test_jumps_of_the_field(mode, tstops, backwards):
    jump = 1.25

    def dosed(t, y, k):
        return -k * y + np.where(t < jump, 2.0, 0.5 * y)

    t = np.array([0.0, 0.5, jump, 2.0]) if tstops == "outputs" else np.array([0.0, 0.5, 2.0])
    t = t[::-1].copy() if backwards else t
    stops = True if tstops == "outputs" else np.array([jump])
    sol, exact = tight(dosed, np.ones((2, 1)), t, 0.8, tstops=stops)
    options = {"rtol": 1e-7, "atol": 1e-9, "tstops": stops}
    made = nc.solve(dosed, np.ones((2, 1)), t, 0.8, adjoint=nc.Continuous(mode), **options)
    dy = cotangent(sol)
    # at an output the forward steps see the jump from the wrong side in their last stage
    assert difference(made.vjp(dy), exact, ["y0", "params"]) < (1e-6 if stops is not True else 2e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_more_samples_than_a_tile(threads):
    rng = np.random.default_rng(5)
    y0 = rng.normal(size=(150, 2))
    args = {
        "rate": rng.uniform(0.5, 1, (150, 2)),
        "kind": np.arange(150) % 4,
        "count": np.arange(150) % 2 > 0,
    }
    t = [np.linspace(0, 1 + i / 150, 2 + i % 3) for i in range(150)]
    sol, exact = tight(field, y0, t, PARAMS, args)
    made = nc.solve(
        field, y0, t, PARAMS, args, rtol=1e-8, atol=1e-9, adjoint="continuous", threads=threads
    )
    assert difference(made.vjp(cotangent(sol)), exact) < 1e-6


# ---- Where it cannot work ------------------------------------------------------------------------


def damped(t, y, k):
    return -k * (y - np.cos(t))


def test_backsolve_warns_when_damped_modes_grow():
    t, dy = np.array([0.0, 0.25, 0.5]), np.array([[0.0], [1.0], [1.0]])
    sol = nc.solve(damped, [1.5], t, 50.0, adjoint=nc.Continuous("backsolve"))
    exact = nc.solve(damped, [1.5], t, 50.0, rtol=1e-11, atol=1e-12, adjoint="discrete").vjp(dy)
    with pytest.warns(nc.PrecisionWarning, match="damped forwards grow backwards") as caught:
        sol.vjp(dy)
    assert len(caught) == 1 and caught[0].filename == __file__
    for mode in ("gauss", "interpolating"):
        made = nc.solve(damped, [1.5], t, 50.0, adjoint=nc.Continuous(mode))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            g = made.vjp(dy)
        np.testing.assert_allclose(g.params, exact.params, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
@pytest.mark.parametrize(("k", "span"), [(1000.0, 1.0), (50.0, 20.0)])
def test_backsolve_fails_where_damping_is_strong(k, span):
    sol = nc.solve(damped, [1.5], [0.0, span], k, adjoint=nc.Continuous("backsolve"))
    with pytest.raises(nc.GradientError, match="damped forwards grow backwards") as caught:
        sol.vjp(np.ones((2, 1)))
    assert caught.value.sample == 0 and 0 <= caught.value.t <= span
    g = nc.solve(damped, [1.5], [0.0, span], k, adjoint="continuous").vjp(np.ones((2, 1)))
    # y(T) follows (k^2 cos T + k sin T) / (k^2 + 1): the initial state is forgotten
    exact = ((1 - k**2) * np.sin(span) + 2 * k * np.cos(span)) / (k**2 + 1) ** 2
    np.testing.assert_allclose(g.params, exact, rtol=2e-2, atol=2e-8)


def test_a_failed_backward_solve_says_what_to_do():
    """The state stays finite, its cotangent does not: d sqrt(y) / dy at y = 0."""
    y0 = [[1.0, 1.0], [1.0, 0.0]]
    sol = nc.solve(lambda t, y: -np.sqrt(y), y0, [0.0, 1.0], adjoint="continuous")
    with pytest.raises(nc.GradientError, match="sample 1: the backward solve .* failed") as caught:
        sol.vjp(np.ones((2, 2, 2)))
    assert "discrete adjoint" in str(caught.value) and caught.value.sample == 1


def test_a_cotangent_that_is_not_finite():
    sol = nc.solve(field, Y0, SHARED, PARAMS, ARGS, adjoint="continuous")
    dy = cotangent(sol)
    dy[3, 2, 1] = np.nan
    with pytest.raises(nc.GradientError, match="sample 3: .* t = 0.6, because dy is not"):
        sol.vjp(dy)


def test_a_parameter_whose_derivative_is_infinite():
    def fun(t, y, p):
        return -y * p["k"] + 0 * t + np.sqrt(p["z"] * np.maximum(t - 1, 0))

    p = {"k": np.array(1.0), "z": np.array(0.0)}
    sol = nc.solve(fun, [[1.0], [2.0]], [0.0, 2.0], p, adjoint="continuous")
    with pytest.raises(nc.GradientError, match=r"sample \d: the cotangent of params\['z'\]"):
        sol.vjp(np.ones((2, 2, 1)))


def test_opaque_fields_have_no_continuous_adjoint():
    opaque = nc.opaque(lambda t, y, p, a: -y, lambda t, y, p, a, ct: (-ct, None, None))
    with pytest.raises(nc.InputError, match="cannot be traced, which the continuous adjoint needs"):
        nc.solve(opaque, Y0, SHARED, adjoint="continuous")


def test_pickled():
    sol = nc.solve(lambda t, y: -y, Y0, SHARED, adjoint="continuous")
    again = pickle.loads(pickle.dumps(sol))
    np.testing.assert_array_equal(again.y, sol.y)
    assert "continuous, gauss" in again.adjoint
    with pytest.raises(nc.GradientError, match="it was pickled"):
        again.vjp(np.ones_like(sol.y))


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "trapezoid"},
        {"rtol": -1.0},
        {"atol": "small"},
        {"method": "rk4"},
        {"method": "no such"},
    ],
)
def test_impossible_options(options):
    with pytest.raises(nc.InputError):
        nc.Continuous(**options)


def test_coarse_fixed_steps_are_not_taken_for_damped_modes():
    sol = nc.solve(
        lambda t, y, k: np.stack([y[1], -k * np.sin(y[0])]), [1.0, 0.0], [0.0, 1.0, 2.0], 2.0,
        method="rk4", steps=4, adjoint=nc.Continuous("backsolve"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol.vjp(np.ones((3, 2)))


@pytest.mark.parametrize("mode", MODES)
def test_windows_of_the_forward_solution_change_nothing(mode, monkeypatch):
    """Few polynomials at a time, or all at once: the same bits in lambda."""
    from nodecore import _continuous, _curve

    t = [np.linspace(0, 1 + 0.2 * i, 4 + 3 * i) for i in range(B)]
    sol = nc.solve(field, Y0, t, PARAMS, ARGS, rtol=1e-8, adjoint=nc.Continuous(mode))
    dy = cotangent(sol)
    whole = sol.vjp(dy)
    monkeypatch.setattr(_curve, "_WINDOW", 1)
    monkeypatch.setattr(_continuous, "_WAITING", 7)
    parts = sol.vjp(dy)
    np.testing.assert_array_equal(parts.y0, whole.y0)
    np.testing.assert_allclose(flat(parts), flat(whole), rtol=1e-12, atol=1e-15)

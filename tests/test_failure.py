"""How a solve and a gradient fail: statuses, messages, what is left of the rest."""

import pickle
import time

import numpy as np
import pytest

import nodecore as nc
from nodecore import Status

T = np.linspace(0.0, 2.0, 5)


def square(t, y):  # blows up at t = 1 / y0
    return y * y


def decay(t, y):
    return -y


def fails(field, y0, t, *rest, says=(), sample=None, status=None, **options):
    """The SolveError of a solve, with its sample, status and the parts of its message checked."""
    with pytest.raises(nc.SolveError) as caught:
        nc.solve(field, y0, t, *rest, **options)
    error = caught.value
    text = str(error)
    for part in says:
        assert part in text, text
    if sample is not None:
        assert error.sample == sample and text.startswith(f"sample {sample}: ")
    if status is not None:
        assert error.status is status
    assert error.solution.status.ravel()[error.sample] == error.status if np.ndim(
        error.solution.status
    ) else error.solution.status == error.status  # fmt: skip
    return error


# ---- What is not finite to begin with ------------------------------------------------------------


def test_y0():
    y0 = np.array([[1.0, 2.0], [3.0, np.nan]])
    error = fails(decay, y0, T, sample=1, status=Status.NON_FINITE, says=["y0[1] is nan"])
    assert error.t == 0.0
    tree = {"a": np.ones((2, 2, 2)), "b": np.array([[1.0], [np.inf]])}
    fails(lambda t, y: {"a": -y["a"], "b": -y["b"]}, tree, T, sample=1, says=["y0['b'][0] is inf"])
    tree["a"][0, 1, 0] = -np.inf
    fails(
        lambda t, y: {"a": -y["a"], "b": -y["b"]}, tree, T, sample=0, says=["y0['a'][1, 0] is -inf"]
    )


def test_params_name_the_leaf():
    params = {"net": [{"W": np.ones((2, 2))}, {"W": np.array([[1.0, np.nan], [0.0, 1.0]])}]}

    def field(t, y, p):
        return y @ p["net"][0]["W"] @ p["net"][1]["W"]

    fails(
        field, np.ones((3, 2)), T, params, sample=0, status=Status.NON_FINITE,
        says=["params['net'][1]['W'] is not finite", "learning rate", "3 of 3 samples failed"],
    )  # fmt: skip


def test_args_name_the_leaf_and_the_sample():
    args = {"u": np.array([1.0, 1.0, np.inf]), "k": np.ones((3, 2))}
    fails(
        lambda t, y, p, a: -a["u"] * y * a["k"], np.ones((3, 2)), T, None, args,
        sample=2, status=Status.NON_FINITE, says=["args['u'] of this sample is not finite"],
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"dt": 0.1}, {"steps": 3}])
def test_the_field_at_the_initial_time(options):
    def field(t, y):
        return np.stack([y[0], np.log(y[1] - 1.0)])

    error = fails(
        field, np.array([[1.0, 3.0], [1.0, 0.5]]), T, sample=1, status=Status.NON_FINITE,
        says=["at the initial state", "the derivative of y[1] is nan", "log"], **options,
    )  # fmt: skip
    assert error.t == 0.0
    fails(lambda t, y: y / t, [1.0], T, says=["the derivative of y[0] is inf"], **options)


def test_what_is_not_used_may_be_nan():
    y = nc.solve(lambda t, y, p: -y * p["k"], [1.0], T, {"k": 1.0, "unused": np.nan}).y
    assert np.isfinite(y).all()


# ---- What becomes bad on the way -----------------------------------------------------------------


def test_blow_up():
    y0 = np.array([[0.1, 0.1], [0.5, 1.0], [0.2, 0.2]])
    error = fails(
        square, y0, T, sample=1,
        says=["t = 1", "step size", "blows up in finite time", "y[1] has grown to",
              'on_failure="mark" keeps the other samples'],
    )  # fmt: skip
    assert error.status in (Status.STEP_UNDERFLOW, Status.NON_FINITE)
    assert abs(error.t - 1) < 1e-4
    sol = error.solution
    np.testing.assert_allclose(sol.y[0, :, 0], 0.1 / (1 - 0.1 * T), rtol=1e-5)
    assert np.isfinite(sol.y[1, :2]).all() and np.isnan(sol.y[1, 3:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", nc.methods.names())
def test_blow_up_by_every_method(name, dtype):
    y0 = np.ones((1, 2), dtype)
    grids = [{"dt": 0.03}, *([{}] if nc.methods.get(name).adaptive else [])]
    if nc.methods.get(name).family == "rosenbrock":
        grids = grids[1:]  # its fixed steps may leap over a pole
    for options in grids:
        error = fails(square, y0, 5 * T, method=name, sample=0, **options)
        causes = {Status.STEP_UNDERFLOW, Status.NON_FINITE}
        if nc.methods.get(name).family in ("dirk", "radau"):
            causes.add(Status.NEWTON_FAILED)
        assert error.status in causes
        assert 0.8 < error.t < 2
        assert "blows up" in str(error)


def test_leaving_the_domain():
    error = fails(
        lambda t, y: -np.sqrt(y) - 0.1, [1.0], [0.0, 9.0], status=Status.NON_FINITE,
        says=["leaves the region where the field is defined (log, sqrt, division)", "y[0] ="],
    )  # fmt: skip
    assert 1.5 < error.t < 2.0


def test_a_derivative_that_is_infinite_where_the_solution_arrives():
    error = fails(
        lambda t, y: -np.sqrt(y), [1.0], [0.0, 3.0], method="kvaerno5",
        status=Status.NEWTON_FAILED, says=["t = 2", "discontinuous or infinite there"],
    )  # fmt: skip
    assert "blows up" not in str(error)


def test_a_fixed_step_beyond_stability():
    fails(
        lambda t, y: -(y**3), [1e3], [0.0, 9.0], method="rk4", dt=0.1, status=Status.NON_FINITE,
        says=["step size 0.1", "a smaller dt"],
    )  # fmt: skip


def test_step_underflow_at_a_jump():
    def field(t, y):
        return np.where(t < 1, 1.0, 1e12) + 0 * y

    error = fails(
        field, [1.0], [0.0, 2.0], status=Status.STEP_UNDERFLOW,
        says=["t = 1", "discontinuous or infinite there", "tstops"],
    )  # fmt: skip
    assert abs(error.t - 1) < 1e-12
    assert nc.solve(field, [1.0], [0.0, 2.0], tstops=[1.0]).ok  # what the message says


def test_step_underflow_where_time_is_coarse():
    fails(
        lambda t, y: -1e9 * y, [1.0], [1e9, 1e9 + 1], status=Status.STEP_UNDERFLOW,
        says=["measure time from a nearer origin"],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::nodecore.PrecisionWarning")
def test_step_underflow_at_tolerances_of_rounding():
    def rough(t, y):  # differs from one stage to the next by more than the tolerance
        return np.sin(1e16 * t) + y

    fails(
        rough, [1.0], [10.0, 11.0], rtol=3e-16, atol=0.0, status=Status.STEP_UNDERFLOW,
        says=["rtol=3e-16 is near the rounding of float64", "loosen rtol"],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_max_steps_says_how_far_and_why():
    error = fails(
        lambda t, y: -1e6 * (y - np.cos(t)), [1.0], [0.0, 3.0], max_steps=1000,
        status=Status.MAX_STEPS, says=["% of the way in 1000 steps", "stiff", "Raise max_steps"],
    )  # fmt: skip
    assert 0 < error.t < 0.1
    stats = error.solution.stats
    assert stats.accepted + stats.rejected == 1000
    fails(
        lambda t, y: np.where(np.sin(1e4 * t) > 0, 1.0, -1.0) * y, [1.0], [0.0, 3.0],
        max_steps=300, status=Status.MAX_STEPS, says=["many were rejected", "rough or jumps"],
    )  # fmt: skip
    for options in ({"dt": 0.01}, {"steps": 75}):
        fails(
            decay, [1.0], [0, 0.75, 1.5, 2.25, 3], max_steps=10, method="rk4",
            says=["3.33 % of the way in 10 fixed steps of about 300", "Raise max_steps"],
            **options,
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
@pytest.mark.parametrize("options", [{}, {"adjoint": "discrete"}, {"threads": 1}])
def test_a_deadline_is_kept(options):
    def stiff(t, y):
        return -1e6 * (y - np.cos(t))

    for _ in range(3):  # a busy machine may stall any of them
        begin = time.perf_counter()
        error = fails(
            stiff, np.ones((500, 2)), [0.0, 1.0, 3000.0], max_steps=10**9, deadline=0.1,
            status=Status.DEADLINE, sample=0, says=["deadline", "% of the way", "500 of 500"],
            **options,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        assert seconds > 0.09
        if seconds < 0.2:
            break
    assert seconds < 0.2
    sol = error.solution
    assert (sol.status == Status.DEADLINE).all()  # also of those that nobody had begun
    assert (sol.y[:, 0] == 1).all() and np.isnan(sol.y[:, 1:]).all()


def test_a_deadline_that_is_not_reached_changes_nothing():
    y0 = np.linspace(0.1, 1, 20).reshape(10, 2)
    np.testing.assert_array_equal(
        nc.solve(decay, y0, T, deadline=60).y, nc.solve(decay, y0, T, deadline=np.inf).y
    )


# ---- on_failure="mark" ---------------------------------------------------------------------------

MIXED = np.array([[0.3], [1.0], [np.nan], [-2.0], [0.7], [np.inf], [0.45], [0.1], [-1.0], [0.2]])
BAD = [1, 2, 4, 5]  # blow up before t = 2, or are not finite
GOOD = [0, 3, 6, 7, 8, 9]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"steps": 7}, {"tstops": True}])
def test_mark_leaves_the_others_untouched(options, threads, dtype):
    def field(t, y, p, a):
        return p * y * y + a

    y0 = np.concatenate([MIXED, 0.5 * MIXED[::-1]], axis=1).astype(dtype)
    y0[GOOD, 1] = 0.1
    a = np.linspace(0, 0.1, 10)
    options = {"adjoint": "discrete", "on_failure": "mark", "threads": threads, **options}
    if "steps" in options:
        y0[BAD] *= 100
    sol = nc.solve(field, y0, T, 1.0, a, **options)
    alone = nc.solve(field, y0[GOOD], T, 1.0, a[GOOD], **options)
    assert np.flatnonzero(sol.status).tolist() == BAD and not sol.ok
    assert alone.ok
    np.testing.assert_array_equal(sol.y[GOOD], alone.y)
    for i in BAD:
        assert np.isnan(sol.y[i, -1]).all()
        assert "t = " in sol.message(i)
    assert [sol.message(i) for i in GOOD] == ["reached the end"] * len(GOOD)

    dy = np.ones_like(sol.y)
    dy[BAD] = np.nan  # what a loss of NaN gives
    g, expected = sol.vjp(dy), alone.vjp(np.ones_like(alone.y))
    np.testing.assert_array_equal(g.y0[GOOD], expected.y0)
    np.testing.assert_array_equal(g.args[GOOD], expected.args)
    assert not g.y0[BAD].any() and not g.args[BAD].any()
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(g.params, expected.params, rtol=rtol)


def test_message_of_one_sample():
    sol = nc.solve(square, [1.0], T, on_failure="mark")
    assert sol.status == Status.STEP_UNDERFLOW and not sol.ok
    assert sol.message() == sol.message(0) == sol.message(-1)
    assert "too small to advance the time" in sol.message()
    assert nc.solve(decay, [1.0], T).message() == "reached the end"


def test_message_needs_an_index_in_a_batch():
    sol = nc.solve(decay, np.ones((3, 1)), T)
    with pytest.raises(nc.InputError, match=r"message\(i\) needs the sample's index, 0 <= i < 3"):
        sol.message()
    for i in (3, -4):
        with pytest.raises(nc.InputError, match=f"no sample {i} in a batch of 3"):
            sol.message(i)


def test_ragged_and_per_sample_times_of_failed_samples():
    y0 = np.array([[1.0], [0.1], [2.0]])
    sol = nc.solve(square, y0, [[0, 2.0, 3.0], [0, 1.0], [0, 0.25, 3.0, 4.0]], on_failure="mark")
    assert [np.isnan(y).sum() for y in sol.y] == [2, 0, 2]
    rows = np.array([[0, 0.5, 3.0], [0, 0.5, 1.0], [0, 0.6, 0.7]])
    sol = nc.solve(square, y0, rows, on_failure="mark")
    assert np.isnan(sol.y[..., 0]).sum(axis=1).tolist() == [1, 0, 2]


def test_solve_error_can_be_pickled():
    error = fails(square, np.ones((2, 1)), T)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.sample, again.t, again.status) == (
        str(error), error.sample, error.t, error.status,
    )  # fmt: skip
    np.testing.assert_array_equal(again.solution.y, error.solution.y)


# ---- gradients -----------------------------------------------------------------------------------


def growth(t, y, p):
    return y * p["r"] - y * y * p["k"][0]


PARAMS = {"r": np.array(1.5), "k": [np.array(0.5)]}


def test_a_cotangent_that_is_given_not_finite():
    sol = nc.solve(growth, np.ones((4, 2)), T, PARAMS, adjoint="discrete")
    dy = np.ones_like(sol.y)
    for bad, k in ((np.nan, 3), (np.inf, 4), (np.nan, 0)):
        dy[:] = 1
        dy[2, k, 1] = bad
        with pytest.raises(nc.GradientError, match=r"sample 2: .*not finite at t = ") as caught:
            sol.vjp(dy)
        assert (caught.value.sample, caught.value.t) == (2, T[k])
        assert "dy" in str(caught.value)


def test_a_derivative_in_the_state_that_is_infinite():
    y0 = np.array([[1.0], [2.0], [0.0], [4.0]])  # the root's slope at 0 is infinite
    sol = nc.solve(lambda t, y: np.sqrt(y), y0, T, adjoint="discrete")
    dy = np.ones_like(sol.y)
    with pytest.raises(nc.GradientError, match=r"sample 2: .*became non-finite at t = ") as caught:
        sol.vjp(dy)
    error = caught.value
    assert error.sample == 2 and 0 <= error.t <= 2
    assert "np.where guards" in str(error)
    dy[2] = 0
    assert np.isfinite(sol.vjp(dy).y0).all()


def test_a_derivative_in_a_parameter_that_is_infinite():
    def field(t, y, p, a):
        return -y * p["k"] + np.sqrt(p["c"][0] * np.maximum(a - t, 0.0))

    a = np.array([3.0, 3.0, 3.0, 1.2, 3.0])
    t = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    sol = nc.solve(
        field, np.ones((5, 2)), t, {"k": 1.0, "c": [np.array(1.0)]}, a,
        adjoint="discrete", tstops=[1.2],
    )  # fmt: skip
    with pytest.raises(nc.GradientError, match=r"sample 3: .*params\['c'\]\[0\]") as caught:
        sol.vjp(np.ones_like(sol.y))
    assert (caught.value.sample, caught.value.t) == (3, 1.5)
    dy = np.ones_like(sol.y)
    dy[3, 3:] = 0
    assert np.isfinite(sol.vjp(dy).params["c"][0])


def test_guards_by_where_protect_gradients():
    def field(t, y, p):
        return -p * np.where(y > 0, np.sqrt(np.where(y > 0, y, 1.0)), 0.0)

    sol = nc.solve(field, np.array([[1.0], [0.0]]), T / 2, 1.0, adjoint="discrete")
    g = sol.vjp(np.ones_like(sol.y))
    assert np.isfinite(g.y0).all() and np.isfinite(g.params)


def test_vjp_without_an_adjoint():
    sol = nc.solve(growth, np.ones((2, 2)), T, PARAMS)
    with pytest.raises(nc.GradientError, match='solve with adjoint="discrete"'):
        sol.vjp(np.ones_like(sol.y))
    with pytest.raises(nc.GradientError, match="adjoint"):
        sol.value_and_grad(lambda y: np.sum(y))
    with pytest.raises(nc.GradientError, match="adjoint"):
        nc.gradient_error(sol, np.ones_like(sol.y))


def test_cotangents_of_another_shape():
    sol = nc.solve(growth, np.ones((3, 2)), T, PARAMS, adjoint="discrete")
    with pytest.raises(nc.InputError, match=r"dy has shape \(3, 2\), but y has \(3, 5, 2\)"):
        sol.vjp(np.ones((3, 2)))
    with pytest.raises(nc.InputError, match="dy"):
        sol.vjp()
    ragged = nc.solve(growth, np.ones((2, 2)), [T, T[:3]], PARAMS, adjoint="discrete")
    for dy in ([np.ones((5, 2))], [np.ones((5, 2)), np.ones((4, 2))], np.ones((2, 5, 2))):
        with pytest.raises(nc.InputError, match="dy"):
            ragged.vjp(dy)


# ---- what is left of a solution ------------------------------------------------------------------


@pytest.mark.parametrize("y0", [np.ones(2), np.array([[1.0, 2.0], [4.0, 8.0]])])
def test_pickling(y0):
    sol = nc.solve(
        lambda t, y: y * y / 4, y0, T / 4, adjoint="discrete", dense=True, on_failure="mark"
    )
    again = pickle.loads(pickle.dumps(sol))
    np.testing.assert_array_equal(again.y, sol.y)
    np.testing.assert_array_equal(again.t, sol.t)
    np.testing.assert_array_equal(again.status, sol.status)
    np.testing.assert_array_equal(again.stats.nfev, sol.stats.nfev)
    assert repr(again) == repr(sol) and again.ok == sol.ok
    assert again.message(0) == sol.message(0)
    twice = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(twice.y, sol.y)
    for use in (
        lambda: again.vjp(np.ones_like(sol.y)),
        lambda: again.value_and_grad(np.sum),
        lambda: again.replay(),
    ):
        with pytest.raises(nc.GradientError, match="pickled"):
            use()


def test_pickling_trees_and_ragged_times():
    def field(t, y):
        return {"a": -y["a"], "b": [-y["b"][0]]}

    y0 = {"a": np.ones((2, 3)), "b": [np.ones((2, 2, 2))]}
    sol = nc.solve(field, y0, [T, T[:2]])
    again = pickle.loads(pickle.dumps(sol))
    for i in range(2):
        np.testing.assert_array_equal(again.y["a"][i], sol.y["a"][i])
        np.testing.assert_array_equal(again.y["b"][0][i], sol.y["b"][0][i])


def test_print():
    y0 = np.array([[0.1, 0.1], [1.0, 1.0], [0.2, 0.2]])
    text = str(nc.solve(square, y0, T, on_failure="mark", adjoint="discrete"))
    for part in ("tsit5", "3 samples of 2 components", "float64", "1 failed", "accepted",
                 "rejected", "worst: sample 1", "adjoint: discrete", "bytes"):  # fmt: skip
        assert part in text, text
    text = str(nc.solve(decay, [1.0], T, method="rk4", dt=0.1))
    for part in ("rk4", "one sample", "all solved", "20 accepted, 0 rejected"):
        assert part in text, text
    assert "adjoint" not in text and "worst" not in text


def test_one_time_is_no_work():
    sol = nc.solve(
        square, np.array([[1.0], [np.inf]]), [3.0], on_failure="mark", adjoint="discrete"
    )
    assert sol.y[0, 0, 0] == 1 and sol.status[0] == Status.OK
    assert sol.vjp(np.full_like(sol.y, 2.0)).y0[0, 0] == 2

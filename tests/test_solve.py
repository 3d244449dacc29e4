"""What solve does with its arguments: tolerances, controllers, step sizes, times, trees, dtypes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nodecore as nc
from nodecore import tree
from nodecore.control import NAMED

METHODS = nc.methods.names()
ADAPTIVE = [m for m in METHODS if nc.methods.get(m).adaptive]


def orbit(t, y):
    """Kepler's, of eccentricity 0.6: step sizes differ by a factor of ten."""
    x, z, u, v = y
    r3 = (x**2 + z**2) ** 1.5
    return [u, v, -x / r3, -z / r3]


ORBIT = np.array([0.4, 0.0, 0.0, 2.0])
PERIOD = 2 * np.pi


def closing_error(**options):
    sol = nc.solve(orbit, ORBIT, [0.0, PERIOD], **options)
    return np.max(np.abs(sol.y[-1] - ORBIT)), sol.stats


# ---- Tolerance, error and work -------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
def test_error_follows_the_tolerance(method):
    """Error per tolerance stays within bounds, and work grows as tol^(-1/order)."""
    order = nc.methods.get(method).order
    tols = np.geomspace(1e-4, 1e-7, 4) if order < 4 else np.geomspace(1e-5, 1e-11, 7)
    found = [closing_error(method=method, rtol=tol, atol=tol) for tol in tols]
    error, work = np.array([e for e, _ in found]), np.array([s.nfev for _, s in found])
    # methods of order 2 let the errors of so many steps add up
    assert np.all(error / tols < (3e3 if order > 2 else 1e5))
    assert np.polyfit(np.log(tols), np.log(error), 1)[0] > (0.65 if order > 2 else 0.6)
    growth = -np.polyfit(np.log(tols), np.log(work), 1)[0]
    k = nc.methods.get(method).error_order + 1
    assert 0.6 / k < growth < 1.2 / k


def test_higher_orders_are_cheaper_at_tight_tolerances():
    work = [closing_error(method=m, rtol=1e-9, atol=1e-9)[1].nfev for m in ("bosh3", "tsit5")]
    assert work[0] > 5 * work[1]
    tight = [closing_error(method=m, rtol=1e-12, atol=1e-12)[1].nfev for m in ("tsit5", "dop853")]
    assert tight[0] > 1.5 * tight[1]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_estimate_bounds_the_local_error(method):
    """Of one step, against 10^3 steps of dop853, where the step was accepted."""
    for h in (0.02, 0.05, 0.1):
        exact = nc.solve(orbit, ORBIT, [0.0, h], method="dop853", rtol=1e-13, atol=1e-13).y[-1]
        tol = 1e-4
        one = nc.solve(orbit, ORBIT, [0.0, h], method=method, rtol=tol, atol=tol, first_step=h)
        if one.stats.accepted == 1:
            assert np.sqrt(np.mean((one.y[-1] - exact) ** 2)) < tol * (1 + np.abs(exact).max())


CONTROLLERS = [
    None, *NAMED, "pi34", nc.IController(), nc.PIController(0.7, -0.4), nc.PIController(safety=0.8),
    nc.PIDController(), nc.PIDController(1 / 18, 1 / 9, 1 / 18, factor_max=3.0),
]  # fmt: skip


@pytest.mark.parametrize("controller", CONTROLLERS, ids=str)
def test_controllers(controller):
    """Every one reaches the tolerance, at a cost not far from the best one's."""
    for method in ("bosh3", "tsit5", "dop853"):
        best = closing_error(method=method, rtol=1e-6, atol=1e-6)[1]
        error, stats = closing_error(method=method, rtol=1e-6, atol=1e-6, controller=controller)
        assert error < 2e-3
        assert stats.nfev < 1.8 * best.nfev
        assert stats.rejected <= 0.45 * stats.accepted


def test_controllers_by_name_and_value_are_one():
    for name, value in NAMED.items():
        a, b = closing_error(controller=name), closing_error(controller=value)
        assert a == b
    assert closing_error() == closing_error(controller="PI")


def test_the_largest_growth_is_the_controllers():
    t = [0.0, 1e6]
    kept = nc.solve(lambda t, y: -1e-9 * y, [1.0], t, first_step=1e-3, adjoint="discrete",
                    controller=nc.IController(factor_max=2.0))  # fmt: skip
    h = kept._run.steps()[4]
    assert np.all(h[1:-1] / h[:-2] <= 2 * (1 + 1e-12))


def test_a_fixed_step_controller_is_dt_or_steps():
    for given_, same in (
        ({"dt": 0.3}, nc.FixedStep(dt=0.3)),
        ({"steps": 7}, nc.FixedStep(steps=7)),
    ):
        a = nc.solve(orbit, ORBIT, [0.0, 1.0, 2.5], **given_)
        b = nc.solve(orbit, ORBIT, [0.0, 1.0, 2.5], controller=same)
        assert a.y.tobytes() == b.y.tobytes()


# ---- Step sizes ----------------------------------------------------------------------------------


def sizes(sol):
    return sol._run.steps()[4]


@pytest.mark.parametrize("sign", [1, -1])
def test_first_step(sign):
    for first in (1e-6, 1e-3, 0.02):
        sol = nc.solve(orbit, ORBIT, [0.0, sign * 3.0], first_step=first, adjoint="discrete")
        assert sizes(sol)[0] == sign * first
    long = nc.solve(orbit, ORBIT, [0.0, sign * 0.01], first_step=5.0, adjoint="discrete")
    assert sizes(long)[0] == sign * 0.01


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_max_step(method, sign):
    sol = nc.solve(
        lambda t, y: 0 * y, [1.0], [0.0, sign * 1.0], method=method, max_step=0.07,
        adjoint="discrete",
    )  # fmt: skip
    h = sizes(sol)
    assert np.all(np.abs(h) <= 0.07) and np.all(np.sign(h) == sign)
    assert 15 <= sol.stats.accepted <= 25


def test_max_steps_counts_rejections_too():
    whole = nc.solve(orbit, ORBIT, [0.0, PERIOD])
    tries = whole.stats.accepted + whole.stats.rejected
    assert whole.stats.rejected > 0
    assert nc.solve(orbit, ORBIT, [0.0, PERIOD], max_steps=tries).ok
    short = nc.solve(orbit, ORBIT, [0.0, PERIOD], max_steps=tries - 1, on_failure="mark")
    assert short.status == nc.Status.MAX_STEPS
    for options in ({"steps": 10}, {"dt": PERIOD / 10}):
        assert nc.solve(orbit, ORBIT, [0.0, PERIOD], max_steps=10, **options).ok
        few = nc.solve(orbit, ORBIT, [0.0, PERIOD], max_steps=9, on_failure="mark", **options)
        assert few.status == nc.Status.MAX_STEPS and few.stats.accepted == 9


@pytest.mark.parametrize("sign", [1, -1])
def test_dt_that_does_not_divide(sign):
    """The grid is t0 + k dt, multiplied; only the last step is shorter, none a rounding error."""
    for dt, T, n in ((0.1, 1.0, 10), (0.3, 1.0, 4), (0.7, 0.5, 1), (0.1, 0.7 + 1e-12, 7)):
        t0 = 0.2
        sol = nc.solve(lambda t, y: -y, [1.0], [t0, t0 + sign * T], method="rk4", dt=dt,
                       adjoint="discrete")  # fmt: skip
        assert sol.stats.accepted == n
        start = sol._run.steps()[3]
        assert start.tolist() == [t0 + k * (sign * dt) for k in range(n)]
        assert sol._run.steps()[5][-1] == t0 + sign * T


def test_outputs_do_not_move_the_grid_of_dt():
    few, many = [0.0, 1.0], np.linspace(0, 1, 33)
    a = nc.solve(orbit, ORBIT, few, method="rk4", dt=0.13)
    b = nc.solve(orbit, ORBIT, many, method="rk4", dt=0.13)
    assert a.y[-1].tobytes() == b.y[-1].tobytes()
    assert a.stats.accepted == b.stats.accepted


@pytest.mark.parametrize("method", METHODS)
def test_steps_divide_each_interval(method):
    t = np.array([0.0, 0.1, 0.7, 1.0])
    sol = nc.solve(lambda t, y: np.cos(t) - y, ORBIT, t, method=method, steps=3, dense=True)
    _, first, _, start, h, end, _, _ = sol._run.steps()
    assert len(h) == 9
    np.testing.assert_allclose(h, np.repeat(np.diff(t) / 3, 3), rtol=1e-14)
    assert end[2::3].tolist() == t[1:].tolist() and start[3::3].tolist() == t[1:-1].tolist()


# ---- Times ---------------------------------------------------------------------------------------


def decay(t, y, p, a):
    return -a * y + np.cos(t)


def exact_decay(t, y0, a):
    def particular(t):
        return (a * np.cos(t) + np.sin(t)) / (1 + a**2)

    return particular(t) + (y0 - particular(t[0])) * np.exp(-a * (t - t[0]))


A = np.array([0.5, 1.0, 2.0, 0.1, 1.5])
Y0 = np.array([1.0, -1.0, 0.3, 2.0, 0.0])
TIMES = {
    "shared": np.linspace(0, 2, 7),
    "backwards": np.linspace(2, 0, 5),
    "rows": np.sort(np.random.default_rng(0).uniform(-1, 2, (5, 4)), axis=1),
    "ragged": [np.sort(np.random.default_rng(b).uniform(-1, 2, b + 1)) for b in range(5)],
    "both directions": [np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([0.5]),
                        np.array([3.0, 2.9, 0.1]), np.array([-2.0, -1.5])],
    "one time": np.array([0.7]),
    "very short": np.array([1.0, 1.0 + 4e-16]),
}  # fmt: skip


@pytest.mark.parametrize("form", TIMES)
@pytest.mark.parametrize("method", METHODS)
def test_forms_of_times(method, form):
    t = TIMES[form]
    order = nc.methods.get(method).order
    tol = 1e-9 if order > 2 else 1e-6
    options, bound = {"rtol": tol, "atol": tol}, 1e4 * tol
    if not nc.methods.get(method).adaptive:
        options, bound = {"dt": 0.005}, max(100 * 0.005**order, 1e-8)
    sol = nc.solve(decay, Y0, t, None, A, batch=True, method=method, **options)
    for b in range(5):
        times = t if isinstance(t, np.ndarray) and t.ndim == 1 else t[b]
        assert sol.y[b].shape == (len(times),)
        assert sol.y[b][0] == Y0[b]
        assert np.abs(sol.y[b] - exact_decay(times, Y0[b], A[b])).max() < bound
    assert sol.t is t


def test_ragged_times_are_not_padded():
    short = nc.solve(decay, Y0, [np.array([0.0, 0.01])] * 5, None, A, batch=True)
    mixed = nc.solve(
        decay, Y0, [np.array([0.0, 0.01])] * 4 + [np.array([0.0, 9.0])], None, A, batch=True
    )
    assert mixed.stats.nfev[:4].tolist() == short.stats.nfev[:4].tolist()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_cost_little_and_change_nothing(method):
    """Without tstops, outputs are interpolated: the steps stay."""
    few = nc.solve(orbit, ORBIT, [0.0, PERIOD], method=method)
    many = nc.solve(orbit, ORBIT, np.linspace(0, PERIOD, 200), method=method)
    assert many.stats.accepted == few.stats.accepted
    assert many.y[-1].tobytes() == few.y[-1].tobytes()
    s = nc.methods.get(method)
    dense_only = s.n_stages - s.n_step_stages if s.family == "explicit" else 0
    extra = dense_only * many.stats.accepted + many.stats.rejected + 1
    assert many.stats.nfev <= few.stats.nfev + extra + 1


def test_tstops_keep_the_proposal():
    """Stepping to the outputs does not slow what comes behind them."""
    free = nc.solve(orbit, ORBIT, [0.0, PERIOD])
    for n in (2, 5, 9):
        t = np.linspace(0, PERIOD, n)
        stopped = nc.solve(orbit, ORBIT, t, tstops=True)
        assert stopped.stats.accepted <= free.stats.accepted + 2 * n


# ---- States, params, args ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_of_states(dtype):
    t = np.array([0.0, 0.5, 1.0])
    shrink = np.exp(-t)
    for shape, batch, batched in (
        ((), None, False), ((3,), None, False), ((2, 3), None, True), ((4, 2, 3), None, True),
        ((5,), True, True), ((2, 3), False, False), ((2, 2, 2), False, False), ((1, 1), None, True),
    ):  # fmt: skip
        y0 = np.random.default_rng(0).normal(size=shape).astype(dtype)
        sol = nc.solve(lambda t, y: -y, y0, t, batch=batch)
        assert sol.y.dtype == dtype
        if batched:
            assert sol.y.shape == (shape[0], 3, *shape[1:])
            want = y0[:, None] * shrink.reshape(3, *[1] * (len(shape) - 1))
        else:
            assert sol.y.shape == (3, *shape)
            want = y0 * shrink.reshape(3, *[1] * len(shape))
        np.testing.assert_allclose(sol.y, want, rtol=3e-6)
        assert np.shape(sol.status) == ((shape[0],) if batched else ())


def test_trees_of_states():
    def field(t, y):
        (a, b), c = y["pair"], y["one"]
        return {"pair": (b, -a), "one": -c * np.sum(a)}

    rng = np.random.default_rng(0)
    y0 = {"pair": (rng.normal(size=(4, 2)), rng.normal(size=(4, 2))), "one": rng.normal(size=4)}
    t = np.linspace(0, 1, 3)
    sol = nc.solve(field, y0, t, batch=True)
    assert sol.y["pair"][0].shape == (4, 3, 2) and sol.y["one"].shape == (4, 3)
    a, b = (x[:, None] for x in y0["pair"])
    want = a * np.cos(t)[:, None] + b * np.sin(t)[:, None]
    np.testing.assert_allclose(sol.y["pair"][0], want, atol=1e-5)
    integral = np.sum(a * np.sin(t)[:, None] + b * (1 - np.cos(t)[:, None]), axis=-1)
    np.testing.assert_allclose(sol.y["one"], y0["one"][:, None] * np.exp(-integral), atol=1e-5)
    one = nc.solve(field, tree.map(lambda x: x[2], y0), t)
    for x, whole in zip(tree.flatten(one.y)[0], tree.flatten(sol.y)[0], strict=True):
        assert x.tobytes() == whole[2].tobytes()


def test_params_and_args_of_all_kinds():
    def field(t, y, p, a):
        gain = p["net"][0]["w"] @ y + p["net"][1]
        return np.where(a["on"], gain, -y) * a["u"] / a["n"]

    p = {"net": [{"w": np.array([[0.0, 1.0], [-1.0, 0.0]], np.float32)}, 2]}
    a = {"on": np.array([True, False, True]), "n": np.array([1, 2, 4]), "u": [1.0, 2.0, 0.5]}
    y0, t = np.array([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]), [0.0, 0.5]
    sol = nc.solve(field, y0, t, p, a, rtol=1e-10, atol=1e-12)
    c, s = np.cos, np.sin
    for b, scale in ((0, 1.0), (2, 0.125)):
        # y' = scale (R y + 2): around the fixed point (2, -2), since R (2, -2) = (-2, -2)
        x, z = y0[b] - [2, -2]
        angle = 0.5 * scale
        want = [2 + x * c(angle) + z * s(angle), -2 - x * s(angle) + z * c(angle)]
        np.testing.assert_allclose(sol.y[b, -1], want, rtol=1e-9)
    np.testing.assert_allclose(sol.y[1, -1], y0[1] * np.exp(-0.5), rtol=1e-9)


def test_float32_keeps_time_in_float64():
    """10^5 steps at t = 10^4: sums of dt in float32 would be off by percents."""
    n = 100_000
    sol = nc.solve(
        lambda t, y: 0 * y + 1, np.zeros(1, np.float32), [1e4, 1e4 + 1.0], method="euler", steps=n
    )
    assert sol.stats.accepted == n
    assert abs(sol.y[-1, 0] - 1) < 2e-3


# ---- Against NumPy -------------------------------------------------------------------------------


def rk4(f, y, grid):
    out = [y]
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        h = s - t
        k1 = f(t, y)
        k2 = f(t + h / 2, y + h / 2 * k1)
        k3 = f(t + h / 2, y + h / 2 * k2)
        k4 = f(s, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        out.append(y)
    return np.array(out)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    B=st.integers(1, 9),
    D=st.integers(1, 6),
    T=st.integers(2, 6),
    n=st.integers(1, 4),
    backwards=st.booleans(),
    ragged=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rk4_of_numpy(B, D, T, n, backwards, ragged, seed):
    """The same grid, the same stages: equal to rounding, whatever the batch, tree and times."""
    rng = np.random.default_rng(seed)
    W, u, y0 = rng.normal(size=(D, D)), rng.normal(size=(B, D)), rng.normal(size=(B, D))

    def field(t, y, p, a):
        return np.tanh(y @ p["W"]) + a * np.sin(3 * t)

    def some_times(count):
        t = np.cumsum(rng.uniform(0.05, 0.5, count)) + rng.normal()
        return t[::-1].copy() if backwards else t

    t = [some_times(rng.integers(1, T + 1)) for _ in range(B)] if ragged else some_times(T)
    sol = nc.solve(field, y0, t, {"W": W}, u, method="rk4", steps=n)
    for b in range(B):
        times = t[b] if ragged else t
        pieces = [np.linspace(a, z, n + 1)[:-1] for a, z in zip(times[:-1], times[1:], strict=True)]
        grid = np.concatenate([*pieces, times[-1:]])
        want = rk4(lambda t, y, b=b: field(t, y, {"W": W}, u[b]), y0[b], grid)[::n]
        np.testing.assert_allclose(sol.y[b], want, rtol=1e-11, atol=1e-12)

"""Steps that end on given times: discontinuous fields, by every method, in both directions."""

import numpy as np
import pytest
from families import same_replay, to_a_tolerance

import nodecore as nc

METHODS = nc.methods.names()
AT = (0.3, 0.5, 0.65)


def rate(t):
    """Of the exact solution: constant between the stops, not defined on them."""
    return np.where(t < AT[0], 1.0, np.where(t < AT[1], -2.0, np.where(t < AT[2], 3.0, 0.5)))


def exact(t):
    knots = np.array([0.0, *AT, 1.0])
    values = np.concatenate([[0.25], 0.25 + np.cumsum(np.diff(knots) * rate(knots[:-1]))])
    return np.interp(t, knots, values)


def from_the_right(t, y):
    """On a stop the field has the later value."""
    return rate(t) + 0 * y


def from_the_left(t, y):
    """On a stop the field has the earlier value."""
    return (
        np.where(t <= AT[0], 1.0, np.where(t <= AT[1], -2.0, np.where(t <= AT[2], 3.0, 0.5)))
        + 0 * y
    )


def only_there(t, y):
    """On a stop the field has a value that no step may see."""
    hit = (t == AT[0]) | (t == AT[1]) | (t == AT[2])
    return np.where(hit, 1e9, rate(t)) + 0 * y


FIELDS = [from_the_right, from_the_left, only_there]
TIMES = {
    "forwards": np.array([0.0, 0.2, 0.5, 0.6, 1.0]),
    "backwards": np.array([1.0, 0.8, 0.65, 0.4, 0.3, 0.0]),
    "from a stop": np.array([0.3, 0.45, 0.65, 0.9]),
    "from a stop, backwards": np.array([0.65, 0.45, 0.3, 0.2]),
    "to a stop": np.array([0.1, 0.2, 0.65]),
    "to a stop, backwards": np.array([0.9, 0.5, 0.3]),
    "between stops": np.array([0.3, 0.5]),
}
# dop853's dense output has large coefficients of both signs, so that it rounds more.
BOUND = {np.float64: 1e-12, np.float32: 1e-5}


def grids_of(method):
    return [{"dt": 0.13}, {"dt": 1.7}] + ([{}] if nc.methods.get(method).adaptive else [])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_sees_one_side(method, times, dtype):
    """Pieces of constant slope have no error, and neither has the dense output."""
    t = TIMES[times]
    query = np.union1d(np.linspace(t.min(), t.max(), 23), t)
    for field in FIELDS:
        for options in grids_of(method):
            start = exact(t[:1]).astype(dtype)
            sol = nc.solve(
                field, start, t, method=method, tstops=AT, dense=True, adjoint="discrete", **options
            )
            assert np.abs(sol.y[:, 0] - exact(t)).max() <= BOUND[dtype], options
            assert np.abs(sol(query)[:, 0] - exact(query)).max() <= BOUND[dtype], options
            assert same_replay(method, options, sol.y, sol.replay().y)
            assert np.array_equal(sol.vjp(np.ones_like(sol.y)).y0, [len(t)])


def jumps(t, y, p, a):
    """Discontinuous in t where it is solved with stops, and dependent on everything."""
    push = np.where(t < a["at"][0], p["k"][0], np.where(t <= a["at"][1], -p["k"][1], 0.3 * y))
    return push * np.cos(y + t) - a["u"] * y


def problem(B=5, dtype=np.float64, sign=1.0):
    rng = np.random.default_rng(3)
    at = np.sort(rng.uniform(0.15, 0.85, (B, 2)), axis=1)
    t = [np.sort(rng.uniform(0, 1, rng.integers(2, 7)))[:: int(sign)] for _ in range(B)]
    return (
        rng.normal(size=(B, 2)).astype(dtype), t, {"k": rng.uniform(0.5, 2, (2, 2))},
        {"at": at, "u": rng.uniform(0, 1, (B, 2))}, list(at),
    )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", METHODS)
def test_stops_of_each_sample(method, sign):
    """Each sample's own stops; the same as a solve from stop to stop."""
    y0, t, p, a, stops = problem(sign=sign)
    options = {"rtol": 1e-9, "atol": 1e-12} if nc.methods.get(method).adaptive else {"dt": 0.01}
    sol = nc.solve(jumps, y0, t, p, a, method=method, tstops=stops, **options)
    for b in range(len(y0)):
        ends = np.concatenate([t[b][:1], stops[b][:: int(sign)], t[b][-1:]])
        inside = (sign * ends >= sign * t[b][0]) & (sign * ends <= sign * t[b][-1])
        ends = ends[inside]
        y = y0[b]
        for lo, hi in zip(ends[:-1], ends[1:], strict=True):
            own = {"at": a["at"][b], "u": a["u"][b]}
            part = nc.solve(jumps, y, [lo, hi], p, own, method="dop853", rtol=1e-12, atol=1e-13,
                            tstops=stops[b])  # fmt: skip
            y = part.y[-1]
        bound = 1e-7 if nc.methods.get(method).order > 2 else 1e-5
        if "dt" in options:
            bound = {1: 0.1, 2: 1e-3, 3: 1e-5}.get(nc.methods.get(method).order, 1e-7)
        np.testing.assert_allclose(sol.y[b][-1], y, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", METHODS)
def test_all_passes_see_the_same_side(method, sign, dtype):
    """Forwards, replay, checkpoints, tangents and dense output agree in every bit."""
    y0, t, p, a, stops = problem(dtype=dtype, sign=sign)
    for options in grids_of(method):
        given = {"method": method, "tstops": stops, **options}
        sol = nc.solve(jumps, y0, t, p, a, adjoint="discrete", dense=True, **given)
        dy = [np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape) for y in sol.y]
        g = sol.vjp(dy)
        others = [nc.solve(jumps, y0, t, p, a, adjoint=nc.Discrete(checkpoints=2), **given)]
        if not to_a_tolerance(method, options):
            others.append(sol.replay())
        for other in others:
            h = other.vjp(dy)
            for x, y in zip(sol.y, other.y, strict=True):
                assert x.tobytes() == y.tobytes()
            for x, y in [(g.y0, h.y0), (g.args["u"], h.args["u"]), *zip(g.t, h.t, strict=True)]:
                assert x.tobytes() == y.tobytes()
            np.testing.assert_allclose(g.params["k"], h.params["k"], rtol=1e-5)
        direction = {"k": np.array([[0.3, -1.0], [0.7, 0.2]])}
        tangent = sol.jvp(dparams=direction)
        forwards = sum(float(np.sum(x * np.float64(v))) for x, v in zip(dy, tangent, strict=True))
        backwards = float(np.sum(g.params["k"] * direction["k"]))
        close = 1e-6 if to_a_tolerance(method, options) else 1e-11
        assert forwards == pytest.approx(backwards, rel=close if dtype is np.float64 else 1e-3)


def test_times_that_are_not_reached_are_no_stops():
    sol = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0], tstops=[-3.0, 7.0])
    plain = nc.solve(lambda t, y: -y, [1.0], [0.0, 1.0])
    assert sol.y.tobytes() == plain.y.tobytes() and sol.stats.accepted == plain.stats.accepted


def test_a_stop_costs_one_evaluation():
    def field(t, y):
        return -y

    for n in range(3):
        sol = nc.solve(field, [1.0], [0.0, 1.0], method="rk4", dt=0.25, tstops=[0.25, 0.5][:n])
        assert sol.stats.accepted == 4
        assert sol.stats.nfev == 16 + n + 0


def test_stops_between_the_points_of_a_grid():
    sol = nc.solve(lambda t, y: 0 * y + 1, [0.0], [0.0, 1.0], method="euler", dt=0.3,
                   tstops=[0.3, 0.45, 0.9 - 1e-12], adjoint="discrete")  # fmt: skip
    ends = sol._run.steps()[5]
    np.testing.assert_allclose(ends, [0.3, 0.45, 0.6, 0.9, 1.0], atol=1e-9)


def test_steps_end_on_outputs():
    """tstops=True: no interpolation, also where dt does not divide the intervals."""
    t = np.array([0.0, 0.31, 0.5, 1.0])
    for method in METHODS:
        for options in grids_of(method):
            sol = nc.solve(from_the_right, [0.25], t, method=method, tstops=True,
                           adjoint="discrete", **options)  # fmt: skip
            assert np.isin(t[1:], sol._run.steps()[5]).all()
            assert same_replay(method, options, sol.y, sol.replay().y)

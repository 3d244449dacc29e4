"""Events: where they are, what follows, and the gradient through all of it."""

import pickle
import warnings

import numpy as np
import pytest
from families import to_a_tolerance

import nodecore as nc
from nodecore import tree

METHODS = nc.methods.names()
BOUND = 1e-7  # relative, to finite differences on the frozen grid, events located again


def adaptive(method):
    return nc.methods.get(method).adaptive


def explicit(method):
    return nc.methods.get(method).family == "explicit"


def bits(*values):
    return b"".join(np.ascontiguousarray(x).tobytes() for x in tree.flatten(values)[0])


def all_of(sol):
    return bits(sol.y, sol.t_events, sol.y_events, sol.status)


def leaves(sol):
    return tree.flatten((sol.y, sol.t_events, sol.y_events, sol.status))[0]


def replayed(method, options, sol):
    """The solution's replay: of the same bits, unless an iteration ended at a tolerance."""
    again = sol.replay()
    stiff = method == "auto" and np.any(np.asarray(sol.stats.njev))
    if not stiff and not to_a_tolerance(method, options):
        assert all_of(again) == all_of(sol)
    for a, b in zip(leaves(sol), leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    return again


def random_like(value, rng):
    return tree.map(lambda x: rng.standard_normal(np.shape(x)), value)


def gradient_bits(g):
    return bits(g.y0, g.params, g.args, g.t)


# ---- A problem with everything: driven, walled, tripped ------------------------------------------


def driven(t, y, p, a):
    x, v, z = y
    force = -p["k"] * x - p["c"] * v + a["f"] * np.cos(p["w"] * t)
    return [v, force, -z + x * x + 0.1 * np.sin(t)]


def wall(t, y, p, a):
    return y[0] - p["wall"] * (1 + 0.1 * np.sin(t))


def rebound(t, y, p, a):
    return [y[0], -p["e"] * y[1] + 0.05 * t, y[2] + a["kick"]]


def slow(t, y, p, a):
    return y[1] - 0.1 * a["f"]


def top(t, y, p, a):
    return y[2] - p["top"] + 0.05 * t


EVENTS = [nc.Event(wall, direction=1, reset=rebound), nc.Event(slow, terminal=False), nc.Event(top)]
PARAMS = {"k": 4.0, "c": 0.3, "w": 2.0, "wall": 0.4, "e": 0.8, "top": 0.9}


def samples(B, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    y0 = rng.normal(size=(B, 3)) * [0.3, 1.5, 0.2]
    args = {"f": rng.uniform(0.5, 1.5, B), "kick": rng.uniform(0.0, 0.2, B)}
    return y0.astype(dtype), args


_rng = np.random.default_rng(0)
TIMES = {
    "shared": np.linspace(0, 4, 9),
    "ragged": [np.sort(_rng.uniform(0, 4, n)) for n in (3, 5, 2, 7, 4)],
    "backwards": np.linspace(0.5, -2.5, 7),
}
STOPS = np.array([1.1, 2.7, -1.2])
TIGHT = {"rtol": 1e-5, "atol": 1e-7}
GRIDS = {
    "dt": {"dt": 0.07},
    "steps": {"steps": 8},
    "dt, tstops": {"dt": 0.13, "tstops": True},
    "dt, stops": {"dt": 0.13, "tstops": STOPS},
    "adaptive": TIGHT,
    "adaptive, tstops": {**TIGHT, "tstops": True},
    "adaptive, stops": {**TIGHT, "tstops": STOPS},
}


def grids_of(method):
    return {k: o for k, o in GRIDS.items() if "rtol" not in o or adaptive(method)}


def solve(method, t, options, B=5, dtype=np.float64, **more):
    y0, args = samples(B, dtype)
    more.setdefault("adjoint", "discrete")
    return nc.solve(driven, y0, t, PARAMS, args, events=EVENTS, method=method, **options, **more)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_what_was_computed(method):
    """In y0, params, args and times; of outputs, of the events' times and of their states."""
    happened = np.zeros(3, int)
    for i, (grid, options) in enumerate(grids_of(method).items()):
        times = list(TIMES)[(i + METHODS.index(method)) % len(TIMES)]
        sol = solve(method, TIMES[times], options)
        again = replayed(method, options, sol)
        # stages that are found to a tolerance make a gradient to a tolerance; replayed ones do not
        exact = again if to_a_tolerance(method, options) else sol
        assert nc.gradcheck(exact) < BOUND, (grid, times)
        happened += [sum(map(len, t)) for t in sol.t_events]
    assert happened.min() > 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_bits_do_not_depend_on_batch_threads_and_budget(method, dtype):
    t = TIMES["shared"]
    grids = [{"steps": 5}, {"dt": 0.06}]
    if adaptive(method):
        rtol = 1e-4 if nc.methods.get(method).order > 2 else 1e-2
        grids.append({"rtol": rtol, "atol": 0.1 * rtol})
    budgets = [
        nc.Discrete(checkpoints=1),
        nc.Discrete(checkpoints=4),
        nc.Discrete(checkpoints=3, schedule="uniform"),
        nc.Discrete(memory="150 KiB"),
        "auto",
    ]
    B = 41
    y0, args = samples(B, dtype)
    for i, options in enumerate(grids):
        whole = solve(method, t, options, B, dtype, threads=1)
        rng = np.random.default_rng(i)
        dy, dt_events = random_like(whole.y, rng), random_like(whole.t_events, rng)
        dy_events = random_like(whole.y_events, rng)

        def gradient(sol, dy=dy, bars=(dt_events, dy_events)):
            g = sol.vjp(dy, dt_events=bars[0], dy_events=bars[1])
            return gradient_bits(g)

        g = gradient(whole)
        for b in (0, 7, 40):
            one = nc.solve(
                driven, y0[b], t, PARAMS, tree.map(lambda x, b=b: x[b], args), events=EVENTS,
                method=method, **options,
            )  # fmt: skip
            assert bits(one.y) == bits(whole.y[b])
            assert bits(one.t_events) == bits([x[b] for x in whole.t_events])
            assert bits(one.y_events) == bits([x[b] for x in whole.y_events])
            assert one.stats.nfev == whole.stats.nfev[b]
        free = solve(method, t, options, B, dtype, threads=2, adjoint=None)
        assert all_of(free) == all_of(whole)
        for j, budget in enumerate(budgets):
            sol = solve(method, t, options, B, dtype, threads=1 + j % 2, adjoint=budget)
            assert all_of(sol) == all_of(whole), budget
            assert gradient(sol) == g and gradient(sol) == g, budget
            if j == 3:
                assert sol.stats.storage_bytes <= 150 * 1024
            if j % 2:  # a replay has fewer tries, so that samples meet other ones in sums
                again = sol.replay()
                assert to_a_tolerance(method, options) or all_of(again) == all_of(whole)
                assert gradient(again) == gradient(again)


# ---- Where they are ------------------------------------------------------------------------------


def oscillator(t, y, p):
    return [y[1], -(p**2) * y[0]]


@pytest.mark.parametrize("method", METHODS)
def test_located_times_have_the_order_of_the_solution(method):
    """Of a solution of order p whose dense output has the error O(h^(q+1)) in one step."""
    m = nc.methods.get(method)
    order = min(m.order, m.dense_order + 1)
    coarsest = 0.8 if order > 5 else 0.4 if order > 3 else 0.1
    errors = []
    for halvings in range(4):
        # steps that hold the event at the same place, so that their errors are alike
        exact = np.pi - np.arcsin(0.3)
        steps = round(exact / coarsest) * 2**halvings + 0.4
        sol = nc.solve(
            oscillator, [0.0, 1.0], [0.0, 20.0], 1.0, method=method, dt=exact / steps,
            events=nc.Event(lambda t, y: y[0] - 0.3, direction=-1),
        )  # fmt: skip
        errors.append(abs(sol.t_events[0][0] - exact))
    last = max(i for i in range(4) if errors[i] > 1e-13)  # above rounding
    slope = np.log2(errors[0] / errors[last]) / last
    assert last > 0 and slope > order - 0.35, errors


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_g_is_zero_where_it_is_said_to_be(method, dtype):
    """To rounding, on whatever the dense output is; the state is the one at that time."""
    options = {"dt": 0.02}
    if adaptive(method):
        options = {"rtol": 1e-5, "atol": 1e-6, "max_step": 0.3}
    g = nc.Event(lambda t, y: y[0] * y[1] - 0.2 + 0.1 * np.sin(t), terminal=False)
    sol = nc.solve(
        oscillator, np.array([0.0, 1.0], dtype), [0.0, 9.0], 1.0, method=method, events=g,
        dense=True, **options,
    )  # fmt: skip
    t, y = sol.t_events[0], sol.y_events[0]
    assert len(t) >= 5 and y.dtype == dtype and t.dtype == np.float64
    assert np.all(np.diff(t) > 0)
    eps = 100 * np.finfo(dtype).eps
    assert np.abs(y[:, 0] * y[:, 1] - 0.2 + 0.1 * np.sin(t)).max() < eps
    np.testing.assert_allclose(sol(t), y, atol=10 * eps)


def test_directions_along_the_way():
    for t, ups, downs in (([0.3, 10.0], [2], [1, 3]), ([10.0, 0.3], [3, 1], [2])):
        y0 = [np.sin(t[0]), np.cos(t[0])]
        found = [
            nc.solve(
                oscillator, y0, t, 1.0, rtol=1e-10, atol=1e-12,
                events=nc.Event(lambda t, y: y[0], terminal=False, direction=d),
            ).t_events[0] / np.pi
            for d in (1, -1, 0)
        ]  # fmt: skip
        np.testing.assert_allclose(found[0], ups, rtol=1e-9)
        np.testing.assert_allclose(found[1], downs, rtol=1e-9)
        both = sorted(ups + downs, reverse=t[0] > t[1])
        np.testing.assert_allclose(found[2], both, rtol=1e-9)


def test_several_events_in_one_step():
    """All that lie before the first that ends it, in the order of time; and the outputs there."""

    def at(level, **options):
        return nc.Event(lambda t, y, level=level: y[0] - level, **options)

    def run(*events):
        return nc.solve(
            lambda t, y: np.ones(1), [0.0], [0.0, 0.3, 0.35, 1.0], events=list(events),
            method="rk4", dt=1.0, adjoint="discrete",
        )  # fmt: skip

    recorded = [at(c, terminal=False) for c in (0.1, 0.35, 0.2, 0.9)]
    sol = run(*recorded)
    np.testing.assert_allclose(np.concatenate(sol.t_events), [0.1, 0.35, 0.2, 0.9])
    assert sol.stats.accepted == 1
    assert nc.gradcheck(sol) < BOUND
    recorded[1] = at(0.35)
    sol = run(*recorded)
    assert sol.status == nc.Status.EVENT and sol.ok
    assert [len(t) for t in sol.t_events] == [1, 1, 1, 0]
    np.testing.assert_allclose(sol.y[:, 0], [0.0, 0.3, 0.35, np.nan])
    recorded[1] = at(0.35, reset=lambda t, y: y + 0.6)  # beyond 0.9: a jump is not a passage
    sol = run(*recorded)
    assert [len(t) for t in sol.t_events] == [1, 1, 1, 0]
    np.testing.assert_allclose(sol.y[:, 0], [0.0, 0.3, 0.35, 1.6])
    assert nc.gradcheck(sol) < BOUND


def fall(t, y, p):
    return [y[1], -p["g"]]


def two_balls(t, y, p):
    return [y[1], -p["g"], y[3], -p["g"]]


FIRST = nc.Event(lambda t, y: y[0], reset=lambda t, y, p: [y[0], -p["e"] * y[1], y[2], y[3]])
SECOND = nc.Event(lambda t, y: y[2], reset=lambda t, y, p: [y[0], y[1], y[2], -0.5 * y[3]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("events", [[FIRST, SECOND], [SECOND, FIRST]])
def test_events_at_the_same_time_all_happen(events, method):
    options = {"rtol": 1e-8, "atol": 1e-10} if adaptive(method) else {"dt": 0.005}
    sol = nc.solve(
        two_balls, [5.0, 0.0, 5.0, 0.0], np.linspace(0, 2.3, 12), {"g": 10.0, "e": 0.5},
        events=events, method=method, adjoint="discrete", **options,
    )  # fmt: skip
    loose = 0.02 if nc.methods.get(method).order < 2 else 1e-4
    assert np.allclose(sol.t_events, [[1.0, 2.0], [1.0, 2.0]], atol=loose)
    np.testing.assert_allclose(sol.y[:, 0], sol.y[:, 2], atol=1e-9)
    assert nc.gradcheck(sol) < BOUND


# ---- What follows --------------------------------------------------------------------------------


def floor(**options):
    return nc.Event(
        lambda t, y: y[0], direction=-1, reset=lambda t, y, p: [0.0, -p["e"] * y[1]], **options
    )


@pytest.mark.parametrize("method", METHODS)
def test_five_bounces_with_a_learned_restitution(method):
    """Against differences on the frozen grid, and against the formula."""
    options = {"dt": 0.01}  # exact for a parabola, from order 2 on
    e, n = 0.8, 5
    sol = nc.solve(
        fall, [5.0, 0.0], [0.0, 6.0], {"g": 10.0, "e": e}, events=floor(), method=method,
        adjoint="discrete", **options,
    )  # fmt: skip
    k = np.arange(n)
    exact = 1 + 2 * np.where(k > 0, e * (1 - e**k) / (1 - e), 0)  # sums of 2 e^j
    close = 0.1 if nc.methods.get(method).order == 1 else 1e-7
    np.testing.assert_allclose(sol.t_events[0], exact, rtol=close)
    assert nc.gradcheck(sol) < BOUND
    g = sol.vjp(dt_events=[np.eye(n)[n - 1]])  # the time of the fifth bounce
    slope = 2 * np.sum(k[1:] * e ** (k[1:] - 1))
    np.testing.assert_allclose(g.params["e"], slope, rtol=2 * close)
    np.testing.assert_allclose(g.y0[0], exact[-1] / 10, rtol=2 * close)


@pytest.mark.parametrize("adjoint", ["discrete", nc.Discrete(checkpoints=3)])
def test_the_time_of_a_terminal_event(adjoint):
    """t* = log(y0 / c) / k: what stops a sample is learned from when it stopped."""
    y0, limit = np.array([[2.0], [3.0], [0.5]]), np.array([1.0, 0.2, 0.7])
    sol = nc.solve(
        lambda t, y, k, a: -k * y, y0, [0.0, 1.0, 5.0], 0.8, limit, adjoint=adjoint,
        events=nc.Event(lambda t, y, k, a: y[0] - a), rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    assert sol.status.tolist() == [8, 8, 0] and sol.ok
    assert "terminal event" in sol.message(0)
    exact = np.log(y0[:, 0] / limit) / 0.8
    assert [len(t) for t in sol.t_events[0]] == [1, 1, 0]
    np.testing.assert_allclose(np.concatenate(sol.t_events[0]), exact[:2], rtol=1e-8)
    assert np.isnan(sol.y[0, 1:]).all() and np.isfinite(sol.y[2]).all()
    assert np.isnan(sol.y[1, 2]).all() and np.isfinite(sol.y[1, 1]).all()
    g = sol.vjp(dt_events=[[np.ones(1), np.ones(1), np.zeros(0)]])
    np.testing.assert_allclose(g.y0[:, 0], [1 / (0.8 * 2), 1 / (0.8 * 3), 0], rtol=1e-7)
    np.testing.assert_allclose(g.params, -np.sum(exact[:2]) / 0.8, rtol=1e-7)
    np.testing.assert_allclose(g.args, [-1 / 0.8, -1 / (0.8 * 0.2), 0], rtol=1e-7)
    np.testing.assert_allclose(g.t, [2.0, 0.0, 0.0], rtol=1e-7, atol=1e-9)
    assert nc.gradcheck(sol) < BOUND


def test_steps_behind_an_event_stay_tied_to_stops_and_outputs():
    """The gradient of a coarse grid is exact here, so it must be that of the solution itself."""
    jump = 2.0

    def field(t, y):  # 1, and 3 behind the jump
        return np.where(t < jump, 1.0, 3.0) + 0 * y

    back = nc.Event(lambda t, y, c: y[0] - c, reset=lambda t, y: 0 * y - 5)
    t = np.array([0.0, 0.5, 1.5, 2.5, 3.0])
    for method in METHODS:
        for options in ({"dt": 0.4}, {"rtol": 1e-3, "atol": 1e-3} if adaptive(method) else {}):
            if not options:
                continue
            sol = nc.solve(
                field, [0.0], t, 1.25, events=back, method=method, tstops=[jump],
                adjoint="discrete", **options,
            )  # fmt: skip
            # y = (t - t*) + 2 (t - jump)_+ - 5 behind t* = c - y0
            np.testing.assert_allclose(sol.y[:, 0], [0, 0.5, -4.75, -2.75, -1.25], atol=1e-12)
            g = sol.vjp(np.ones_like(sol.y))
            np.testing.assert_allclose(g.y0, [2 + 3], rtol=1e-9)  # rows 0, 1; and 2 to 4
            np.testing.assert_allclose(g.params, -3, rtol=1e-9)
            np.testing.assert_allclose(g.t, [-4, 1, 1, 3, 3], rtol=1e-9)


def test_outputs_at_the_time_of_an_event_are_before_it():
    dose = nc.Event(lambda t, y: t - 5.0, reset=lambda t, y, amount: y + amount)
    for method in METHODS:
        options = {"rtol": 1e-9, "atol": 1e-11} if adaptive(method) else {"dt": 0.01}
        for t in (np.arange(11.0), np.arange(5.0, -1.0, -0.5)):
            sol = nc.solve(
                lambda t, y: -0.3 * y, [1.0], t, 1.0, events=dose, dense=True, method=method,
                adjoint="discrete", **options,
            )  # fmt: skip
            if t[0] == 5.0:  # g is zero where it begins, and not passed
                assert len(sol.t_events[0]) == 0
                continue
            np.testing.assert_allclose(sol.t_events[0], [5.0], rtol=1e-15)
            assert sol.y[6] > sol.y[5]
            np.testing.assert_allclose(sol.y_events[0][0], sol.y[5], rtol=1e-14)
            np.testing.assert_allclose(sol(5.0), sol.y[5], rtol=1e-12)
            np.testing.assert_allclose(sol(5.0 + 1e-9), sol.y[5] + 1, rtol=1e-7)
            ones = np.zeros_like(sol.y)
            ones[6] = 1.0
            np.testing.assert_allclose(sol.vjp(ones).params, np.exp(-0.3), rtol=2e-3)


def test_an_event_is_disarmed_until_g_has_left_zero():
    """A reset that leaves g at zero; one that does not; and an initial state where it is zero."""

    def slide(t, y):
        return np.ones(2)

    through = nc.Event(lambda t, y: y[0] - 1.0, reset=lambda t, y: [y[0], 0.0])
    sol = nc.solve(slide, [0.0, 0.0], [0.0, 3.0], events=through)
    np.testing.assert_allclose(sol.t_events[0], [1.0])
    np.testing.assert_allclose(sol.y[-1], [3.0, 2.0])
    back = nc.Event(lambda t, y: y[0] - 1.0, reset=lambda t, y: [y[0] - 0.5, y[1]])
    sol = nc.solve(slide, [0.0, 0.0], [0.0, 3.2], events=back)
    np.testing.assert_allclose(sol.t_events[0], [1.0, 1.5, 2.0, 2.5, 3.0])
    sol = nc.solve(
        fall,
        [0.0, 5.0],
        [0.0, 1.5],
        {"g": 10.0},
        events=nc.Event(lambda t, y: y[0]),
        first_step=1.2,
    )
    np.testing.assert_allclose(sol.t_events[0], [1.0])  # thrown up from the ground, in one step
    rest = nc.solve(slide, [0.0, 0.0], [0.0, 3.0], events=nc.Event(lambda t, y: 0 * y[0]))
    assert len(rest.t_events[0]) == 0 and rest.status == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("e", [0.9, 0.5, 0.1])
def test_bounces_without_end_end_the_sample(e, dtype):
    """The times pile up at a finite one: a status, never a hang or a fall through the floor."""
    end = 1 + 2 * e / (1 - e)
    for options in ({}, {"method": "rk4", "dt": 0.5}, {"method": "dop853"}):
        y0, t = np.array([[5.0, 0.0], [5e9, 0.0]], dtype), np.array([0.0, 1.9, 60.0])
        sol = nc.solve(
            fall, y0, t, {"g": 10.0, "e": e}, events=floor(), on_failure="mark", **options
        )
        assert sol.status.tolist() == [nc.Status.STEP_UNDERFLOW, 0]
        last = sol.t_events[0][0][-1]
        assert abs(last - end) < 1e-8 if dtype == np.float64 else 1e-3
        assert len(sol.t_events[0][0]) > 8 and np.isnan(sol.y[0, 2]).all()
    with pytest.raises(nc.SolveError, match="event 0 .*happened .* times") as caught:
        nc.solve(fall, [5.0, 0.0], [0.0, 60.0], {"g": 10.0, "e": e}, events=floor())
    assert caught.value.status == nc.Status.STEP_UNDERFLOW
    assert abs(caught.value.t - end) < 1e-8


def test_a_tiny_restitution_does_not_fall_through_the_floor():
    for e in (1e-2, 1e-3):
        sol = nc.solve(
            fall, [5.0, 0.0], [0.0, 3.0], {"g": 10.0, "e": e}, events=floor(), on_failure="mark",
            dense=True,
        )  # fmt: skip
        assert sol.status == nc.Status.STEP_UNDERFLOW
        assert np.isnan(sol.y[1]).all() and np.isnan(sol(2.0)).all()
        np.testing.assert_allclose(sol._run.floats[0], 1 + 2 * e / (1 - e), rtol=1e-8)


def test_ping_pong_at_one_place_ends_with_a_status():
    a = nc.Event(lambda t, y: y[0] - 1, reset=lambda t, y: [2 + 1e-13, y[1] + 1])
    b = nc.Event(lambda t, y: y[0] - 2, reset=lambda t, y: [1 - 1e-13, y[1] + 1])

    def toward(t, y):  # each reset leads right back to the other's surface
        return [np.where(y[0] > 1.5, -1.0, 1.0), 0.0]

    sol = nc.solve(toward, [0.0, 0.0], [0.0, 3.0], events=[a, b], on_failure="mark", max_steps=5000)
    assert sol.status in (nc.Status.STEP_UNDERFLOW, nc.Status.MAX_STEPS)


def relaxation(t, y, p, a):
    return [y[1], p["mu"] * ((1 - y[0] ** 2) * y[1] - a * y[0])]


STIFF = [m for m in METHODS if adaptive(m) and not explicit(m)]


@pytest.mark.parametrize("method", STIFF)
def test_events_of_a_stiff_problem(method):
    """A relaxation oscillation that is turned back at a wall."""
    wall = nc.Event(
        lambda t, y, p: y[0] - p["wall"], direction=-1,
        reset=lambda t, y, p: [y[0] + 0.8, 0.0 * y[1]],
    )  # fmt: skip
    zero = nc.Event(lambda t, y: y[0], terminal=False)
    y0, args = np.array([[2.0, 0.0], [1.9, 0.1], [-2.0, 0.0]]), np.array([1.0, 1.1, 0.9])
    sol = nc.solve(
        relaxation, y0, [0.0, 0.4, 1.1, 2.5], {"mu": 200.0, "wall": 1.2}, args, method=method,
        events=[wall, zero], adjoint="discrete", rtol=1e-5, atol=1e-7,
    )  # fmt: skip
    assert [len(t) for t in sol.t_events[0]] == [3, 3, 1]
    assert [len(t) for t in sol.t_events[1]] == [0, 0, 1]
    reference = nc.solve(
        relaxation, y0, [0.0, 0.4, 1.1, 2.5], {"mu": 200.0, "wall": 1.2}, args, method="radau5",
        events=[wall, zero], rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    for t, exact in zip(sol.t_events[0] + sol.t_events[1], reference.t_events[0] +
                        reference.t_events[1], strict=True):  # fmt: skip
        np.testing.assert_allclose(t, exact, rtol=3e-3)
    again = replayed(method, {"rtol": 1e-5}, sol)
    assert nc.gradcheck(again) < BOUND
    few = nc.solve(
        relaxation, y0, [0.0, 0.4, 1.1, 2.5], {"mu": 200.0, "wall": 1.2}, args, method=method,
        events=[wall, zero], adjoint=nc.Discrete(checkpoints=3), rtol=1e-5, atol=1e-7,
    )  # fmt: skip
    dy, dt_events = np.ones_like(sol.y), tree.map(np.ones_like, sol.t_events)
    assert all_of(few) == all_of(sol)
    g, h = sol.vjp(dy, dt_events=dt_events), few.vjp(dy, dt_events=dt_events)
    assert gradient_bits(g) == gradient_bits(h)


# ---- The rest of a solution ----------------------------------------------------------------------


def test_state_trees_and_event_cotangents_as_trees():
    y0 = {"h": np.array([5.0, 4.0]), "v": np.array([[0.0, 1.0], [0.0, 2.0]])}

    def field(t, y, p):
        return {"h": y["v"][0], "v": [-p["g"], 0.1 * y["h"]]}

    hit = nc.Event(
        lambda t, y: y["h"],
        reset=lambda t, y, p: {"h": 0.0 * y["h"], "v": [-p["e"] * y["v"][0], y["v"][1]]},
    )
    sol = nc.solve(
        field, y0, np.linspace(0, 2.1, 4), {"g": 10.0, "e": 0.5}, batch=True, events=hit,
        adjoint="discrete",
    )  # fmt: skip
    assert [y.shape for y in sol.y_events[0]["v"]] == [(2, 2), (2, 2)]
    np.testing.assert_allclose(np.concatenate(sol.y_events[0]["h"]), 0, atol=1e-12)
    assert nc.gradcheck(sol) < BOUND
    bar = {"h": [np.zeros(2), np.zeros(2)], "v": [np.ones((2, 2)), np.zeros((2, 2))]}
    g = sol.vjp(dy_events=[bar])
    assert np.any(g.y0["v"][0]) and not np.any(g.y0["v"][1])
    with pytest.raises(nc.InputError, match="another tree"):
        sol.vjp(dy_events=[[np.zeros(2), np.zeros(2)]])


def test_what_a_solution_with_events_can_do():
    t = np.linspace(0, 4, 9)
    sol = solve("tsit5", t, TIGHT, dense=True)
    text = str(sol)
    assert f"events: {', '.join(str(sum(map(len, x))) for x in sol.t_events)}" in text
    copy = pickle.loads(pickle.dumps(sol))
    assert all_of(copy) == all_of(sol) and str(copy) == text
    with pytest.raises(nc.GradientError, match="pickled"):
        copy.vjp(sol.y)
    value, g = sol.value_and_grad(lambda y: np.nansum(y**2))
    same = sol.vjp(np.nan_to_num(2 * sol.y))
    np.testing.assert_allclose(g.params["e"], same.params["e"], rtol=1e-12)
    # dense output: what the outputs are, and nothing behind a stop
    np.testing.assert_allclose(sol(t), sol.y, rtol=1e-9, atol=1e-9)
    for b, times in enumerate(sol.t_events[0]):
        for k, x in enumerate(times):
            np.testing.assert_allclose(sol(x)[b], sol.y_events[0][b][k], rtol=1e-9, atol=1e-12)
    with pytest.raises(nc.GradientError, match="by an event .* forward mode"):
        sol.jvp(dparams={k: 1.0 for k in PARAMS})
    # events that only look are no obstacle
    y0, args = samples(5)
    looked = nc.solve(driven, y0, t, PARAMS, args, events=EVENTS[1], adjoint="discrete", **TIGHT)
    plain = nc.solve(driven, y0, t, PARAMS, args, adjoint="discrete", **TIGHT)
    assert bits(looked.y) == bits(plain.y)
    direction = dict.fromkeys(PARAMS, 1.0)
    assert bits(looked.jvp(dparams=direction)) == bits(plain.jvp(dparams=direction))
    assert nc.gradient_error(looked, np.ones_like(looked.y)) < 1e-3


def test_a_failed_sample_leaves_the_others_alone():
    y0 = np.array([[5.0, 0.0], [np.nan, 0.0], [4.0, 0.0], [5.0, 0.0]])

    def field(t, y, p, a):
        return [y[1], -p["g"] / a]

    def run(index):
        return nc.solve(
            field, y0[index], np.linspace(0, 2.5, 6), {"g": 10.0, "e": 0.5},
            np.array([1.0, 1.0, 0.0, 2.0])[index], events=floor(), adjoint="discrete",
            on_failure="mark",
        )  # fmt: skip

    sol, alone = run(np.arange(4)), run(np.array([0, 3]))
    assert sol.status[1] == sol.status[2] == nc.Status.NON_FINITE
    assert bits(sol.y[[0, 3]]) == bits(alone.y)
    g, h = sol.vjp(np.ones_like(sol.y)), alone.vjp(np.ones_like(alone.y))
    assert bits(g.y0[[0, 3]], g.args[[0, 3]]) == bits(h.y0, h.args)
    assert not g.y0[1:3].any()
    np.testing.assert_allclose(g.params["e"], h.params["e"], rtol=1e-12)


def test_replay_follows_an_event_that_moves():
    """Off the step that held it, even; an event that is lost is a status."""
    sol = nc.solve(
        fall, [5.0, 0.0], np.linspace(0, 2.6, 6), {"g": 10.0, "e": 0.5}, events=floor(),
        method="rk4", dt=0.1, dense=True,
    )  # fmt: skip
    moved = sol.replay(y0=[5.6, 0.0])  # by 0.06, 0.12, and 0.15, beyond the dt of 0.1
    np.testing.assert_allclose(moved.t_events[0], np.sqrt(5.6 / 5) * np.array([1, 2, 2.5]))
    np.testing.assert_allclose(np.abs(moved.y_events[0][:, 0]), 0, atol=1e-12)
    later = sol.replay(t=sol.t + 1.5)
    np.testing.assert_allclose(later.t_events[0], sol.t_events[0] + 1.5)
    np.testing.assert_allclose(later.y, sol.y, atol=1e-12)
    lost = sol.replay(y0=[50.0, 0.0])
    assert lost.status == nc.Status.NON_FINITE and len(lost.t_events[0]) == 0


def test_an_event_and_its_frozen_solution_do_not_notice_later_changes():
    box = {"level": 0.5}
    sol = nc.solve(
        lambda t, y: -y, [1.0], [0.0, 2.0], adjoint="discrete",
        events=nc.Event(lambda t, y: y[0] - box["level"]),
    )  # fmt: skip
    before = sol.t_events[0]
    box["level"] = 0.7
    np.testing.assert_array_equal(sol.replay().t_events[0], before)
    pure = nc.field(lambda t, y: -y)
    for level in (0.3, 0.6):  # a plain g is never stale, also beside an nc.field
        box["level"] = level
        found = nc.solve(pure, [1.0], [0.0, 2.0], events=nc.Event(lambda t, y: y[0] - box["level"]))
        np.testing.assert_allclose(found.t_events[0], [-np.log(level)], rtol=1e-5)


def test_fit_learns_a_restitution():
    t = np.linspace(0, 2.2, 23)
    options = {"events": floor(), "rtol": 1e-8, "atol": 1e-10}
    p = {"g": 10.0, "e": 0.6}
    heights = nc.solve(fall, [5.0, 0.0], t, p, **options).y[:, :1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = nc.fit(
            fall, {"g": 10.0, "e": 0.55}, [5.0, 0.0], t, heights, steps=150, progress=False,
            optimizer=nc.optim.Adam(3e-3), observe=lambda t, y, p, a: y[:1], solve=options,
        )  # fmt: skip
    np.testing.assert_allclose(fit.params["e"], 0.6, atol=2e-3)


# ---- What cannot be ------------------------------------------------------------------------------

LINE = {"y0": [0.0, 1.0], "t": [0.0, 3.0]}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (lambda t, y: y[0], r"write nc.Event\(g\)"),
        ([1], r"events\[0\] must be an nc.Event"),
        (3, "must be an nc.Event or a list"),
    ],
)
def test_what_is_not_an_event(events, message):
    with pytest.raises(nc.InputError, match=message):
        nc.solve(oscillator, *LINE.values(), 1.0, events=events)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"g": 3}, "an event is a function"),
        ({"direction": 2}, "direction must be"),
        ({"direction": [1]}, "direction must be"),
        ({"terminal": 1}, "terminal must be"),
        ({"reset": 1}, "reset must be a function"),
    ],
)
def test_options_of_an_event(options, message):
    with pytest.raises(nc.InputError, match=message):
        nc.Event(**{"g": lambda t, y: y[0], **options})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (nc.Event(lambda t, y: y), r"returns shape \(2,\), not one number"),
        (nc.Event(lambda t, y: {"a": y[0]}), "returns a tree"),
        (nc.Event(lambda t, y: None), "returns None"),
        (nc.Event(lambda t, y: y[0] < 1), "a comparison"),
        (nc.Event(lambda y, t: y[0]), "takes the state first"),
        (nc.Event(lambda t: t), "takes 1 arguments"),
        (nc.Event(lambda t, y: y[0] if y[0] > 0 else 1.0), "branches on a traced value"),
        (nc.Event(lambda t, y: y[0] - 0.5, reset=lambda t, y: y[0]), r"reset returns shape \(\)"),
        (nc.Event(lambda t, y: y[0] - 0.5, reset=lambda t, y: None), "the state behind the event"),
        (nc.Event(lambda t, y: y[0] - 0.5, reset=lambda t, y: [*y, 1.0]), r"shape \(3,\)"),
    ],
)
def test_functions_of_an_event(event, message):
    with pytest.raises(nc.TraceError, match=message):
        nc.solve(oscillator, *LINE.values(), 1.0, events=event)


def test_an_event_that_is_not_a_function_of_its_arguments():
    count = iter(range(100))
    with pytest.raises(nc.TraceError, match="the traced event .* depend on its arguments alone"):
        nc.solve(
            oscillator, *LINE.values(), 1.0, events=nc.Event(lambda t, y: y[0] - next(count) - 0.5)
        )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (nc.Event(lambda t, y: y[0] - 0.5, reset=lambda t, y: y / 0.0), "the reset of event 0"),
        (nc.Event(lambda t, y: np.sqrt(0.5 - y[0]), terminal=False), "the g of an event is NaN"),
    ],
)
def test_what_is_not_finite_ends_the_sample(event, message):
    with pytest.raises(nc.SolveError, match=message) as caught:
        nc.solve(oscillator, *LINE.values(), 1.0, events=event)
    assert caught.value.status == nc.Status.NON_FINITE
    sol = nc.solve(  # also where its steps are made again
        oscillator, np.array([[0.0, 1.0], [0.0, 0.1]]), LINE["t"], 1.0, events=event,
        on_failure="mark", adjoint=nc.Discrete(checkpoints=2),
    )  # fmt: skip
    assert sol.status.tolist() == [nc.Status.NON_FINITE, 0]
    g = sol.vjp(np.ones_like(sol.y))
    assert np.isfinite(g.y0).all() and g.y0[1].any() and not g.y0[0].any()


def test_a_grazing_root_has_no_derivative():
    """g = (y - 1)^3 passes zero without a slope: sample 1 only."""
    sol = nc.solve(
        lambda t, y, p: p * np.ones(1), np.array([[0.0], [0.5]]), [0.0, 0.8], 1.0,
        events=nc.Event(lambda t, y: (y[0] - 1) ** 3, terminal=False), adjoint="discrete",
        method="rk4", dt=0.3,
    )  # fmt: skip
    assert [len(t) for t in sol.t_events[0]] == [0, 1]
    with pytest.raises(nc.GradientError, match=r"sample 1: event 0 at t = 0.5.* grazes") as caught:
        sol.vjp(dt_events=[[np.zeros(0), np.ones(1)]])
    assert caught.value.sample == 1 and abs(caught.value.t - 0.5) < 1e-4


def test_what_does_not_go_with_events():
    event = nc.Event(lambda t, y: y[0] - 0.5)
    with pytest.raises(nc.InputError, match="opaque"):
        nc.solve(nc.opaque(lambda t, y, p, a: -y), *LINE.values(), events=event)
    with pytest.raises(nc.InputError, match="continuous adjoint"):
        nc.solve(oscillator, *LINE.values(), 1.0, events=event, adjoint="continuous")
    plain = nc.solve(oscillator, *LINE.values(), 1.0, adjoint="discrete")
    assert plain.t_events == [] == plain.y_events
    with pytest.raises(nc.InputError, match="had no events"):
        plain.vjp(dt_events=[np.ones(1)])


def test_cotangents_of_events_are_checked():
    sol = nc.solve(
        oscillator,
        *LINE.values(),
        1.0,
        adjoint="discrete",
        events=nc.Event(lambda t, y: y[0] - 0.5),
    )
    for bars, message in (
        ({"dt_events": np.ones(1)}, "a list with one entry"),
        ({"dt_events": [1.0, 2.0]}, "a list with one entry"),
        ({"dt_events": [np.ones(2)]}, r"dt_events\[0\] has shape \(2,\), but there it is \(1,\)"),
        ({"dy_events": [np.ones((1, 3))]}, r"dy_events\[0\] has shape \(1, 3\)"),
        ({}, "vjp needs dy"),
    ):
        with pytest.raises(nc.InputError, match=message):
            sol.vjp(**bars)
    for name, bar in (("dt_events", [np.nan]), ("dy_events", [[np.nan, 0.0]])):
        with pytest.raises(nc.GradientError, match=f"sample 0: .*because {name} is not"):
            sol.vjp(**{name: [np.array(bar)]})
    zero = sol.vjp(np.zeros_like(sol.y), dt_events=[None])
    assert not zero.y0.any()


def test_a_derivative_of_an_event_that_is_infinite():
    """sqrt at zero in the event's own parameter: states have a finite gradient, params have not."""
    sol = nc.solve(
        lambda t, y: -y, [1.0], [0.0, 3.0], {"a": 0.0, "b": 1.0}, adjoint="discrete",
        events=nc.Event(lambda t, y, p: y[0] - 0.5 - np.sqrt(p["a"])),
    )  # fmt: skip
    with pytest.raises(nc.GradientError, match=r"sample 0: .*params\['a'\].* event 0 at t = 0.69"):
        sol.vjp(dt_events=[np.ones(1)])

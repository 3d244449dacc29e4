"""The reversible adjoint: exact for every explicit method, in constant memory, and it knows when it
fails."""

import itertools
import pickle

import numpy as np
import pytest
from test_adjoint import CASES, TIMES, all_of, cast, grids_of, random_like, same_bits

import nodecore as nc
from nodecore import tree

METHODS = nc.methods.names(("explicit",))
_fields = itertools.cycle(CASES)
# Some of the cases are damped: their parasitic mode leaves them half of the time that others have.
SHORT = {
    name: [0.5 * x for x in t] if isinstance(t, list) else 0.5 * t for name, t in TIMES.items()
}


def short(method, options):
    """A grid of test_adjoint.py for these times. Euler's method starts the mode with its own error,
    so it gets a coupling that damps it."""
    coupling = 0.999 if nc.methods.get(method).order > 1 else 0.5
    out = {"method": method, "adjoint": nc.Reversible(coupling), **options}
    if "dt" in out:
        out["dt"] *= 0.3
    if not isinstance(out.get("tstops", True), bool):
        stops = out["tstops"]
        out["tstops"] = [0.5 * x for x in stops] if isinstance(stops, list) else 0.5 * stops
    return out


COMBINATIONS = [
    (method, grid, times, next(_fields))
    for method in METHODS
    for grid in grids_of(method)
    for times in TIMES
]


def solve(case, t, dtype=np.float64, adjoint="reversible", **options):
    return nc.solve(
        case.field, cast(case.y0, dtype), t, case.params, case.args, batch=True, adjoint=adjoint,
        **options,
    )  # fmt: skip


def pendulum(t, y, w):
    return [y[1], -w * np.sin(y[0])]


def swing(T=10.0, **options):
    options = {"method": "rk4", "adjoint": "reversible", **options}
    return nc.solve(pendulum, [1.0, 0.0], [0.0, 0.4 * T, T], 1.3, **options)


# ---- Exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, grid, times, name", COMBINATIONS)
def test_exact_on_every_grid(method, grid, times, name):
    """In y0, params, args and t, which interpolated outputs depend on too."""
    options = short(method, grids_of(method)[grid])
    sol = solve(CASES[name], SHORT[times], **options)
    beyond = grid == "dt, stops" and nc.methods.get(method).c.max() > 1
    wrt = ("y0", "params", "args") if beyond else ("y0", "params", "args", "t")
    assert nc.gradcheck(sol, wrt=wrt) < 1e-8


@pytest.mark.parametrize("coupling", [0.3, 0.9, 0.99999])
def test_any_coupling(coupling):
    for options in ({"steps": 7}, {"rtol": 1e-5, "method": "dopri5"}):
        sol = swing(adjoint=nc.Reversible(coupling), **{"T": 5.0, **options})
        assert nc.gradcheck(sol) < 1e-8
        assert f"coupling {coupling:g}: " in sol.adjoint
        assert f"every {round(5 / (1 - coupling))} steps" in sol.adjoint


@pytest.mark.parametrize("method", METHODS)
def test_float32(method):
    """As the float64 gradient on the same grid, to its own precision."""
    case = CASES["sample_rate"]
    for options in ({"dt": 0.13}, {"steps": 5}, {"dt": 0.13, "tstops": np.array([0.2, 0.45])}):
        options = short(method, options)
        single = solve(case, SHORT["rows"], np.float32, **options)
        double = solve(case, SHORT["rows"], **options)
        assert single.y.dtype == np.float32
        dy = random_like(double.y, np.random.default_rng(1))
        for x, y in zip(
            all_of(single.vjp(dy.astype(np.float32))), all_of(double.vjp(dy)), strict=True
        ):
            for a, b in zip(tree.flatten(x)[0], tree.flatten(y)[0], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_opaque():
    def field(t, y, p, a):
        return -p * a * np.sin(y)

    def vjp(t, y, p, a, ct):
        return (
            -p * a * np.cos(y) * ct,
            np.sum(-a * np.sin(y) * ct),
            np.sum(-p * np.sin(y) * ct, axis=1, keepdims=True),
        )

    args = np.array([[0.5], [1.5]])
    sol = nc.solve(
        nc.opaque(field, vjp=vjp), np.array([[1.0, 2.0], [0.5, 1.0]]), [0.0, 0.7, 1.0], 0.9, args,
        adjoint="reversible", method="dopri5", rtol=1e-4,
    )  # fmt: skip
    assert nc.gradcheck(sol) < 1e-8


def test_against_the_formulas():
    """The scheme itself, written out once more."""
    m, coupling, h = nc.methods.get("dopri5"), 0.97, 0.1

    def psi(t, h, y):
        k = []
        for i in range(m.n_step_stages - 1):
            arg = y + h * sum((m.A[i, j] * k[j] for j in range(i)), np.zeros(2))
            k.append(np.array([arg[1], np.cos(t + m.c[i] * h) - np.sin(arg[0])]))
        return h * sum(b * x for b, x in zip(m.b, k, strict=False))

    y = z = np.array([1.0, 0.0])
    for n in range(20):
        y = coupling * y + (1 - coupling) * z + psi(n * h, h, z)
        z = z - psi((n + 1) * h, -h, y)
    sol = nc.solve(
        lambda t, y: [y[1], np.cos(t) - np.sin(y[0])], [1.0, 0.0], [0.0, 2.0], dt=h,
        method="dopri5", adjoint=nc.Reversible(coupling),
    )  # fmt: skip
    np.testing.assert_allclose(sol.y[-1], y, rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_as_near_as_the_method_itself(method):
    """At step ends and between, for every step size: so it has the order of the method."""
    t = np.linspace(0, 1, 41)
    exact = np.exp(np.sin(t))

    def error(h, adjoint):
        y = nc.solve(lambda t, y: y * np.cos(t), [1.0], t, dt=h, method=method, adjoint=adjoint).y
        return np.abs(y[:, 0] - exact).max()

    for h in (0.16, 0.08, 0.04, 0.02, 0.01):
        assert error(h, "reversible") <= 1.5 * error(h, None) + 1e-14


# ---- Memory --------------------------------------------------------------------------------------


def test_memory_does_not_depend_on_the_number_of_steps():
    few, many = swing(steps=5), swing(steps=2000)
    assert many.stats.accepted == 400 * few.stats.accepted
    assert many.stats.storage_bytes == few.stats.storage_bytes < 200
    batch = np.random.default_rng(0).normal(size=(64, 2))
    kept = [
        nc.solve(pendulum, batch, [0.0, 4.0], 1.3, steps=n, adjoint="reversible", method="rk4")
        for n in (10, 1000)
    ]
    assert kept[0].stats.storage_bytes == kept[1].stats.storage_bytes < 100 * 64


def test_adaptive_steps_keep_their_ends():
    loose, tight = (swing(method="tsit5", T=50.0, rtol=r, atol=r) for r in (1e-5, 1e-10))
    more = tight.stats.accepted - loose.stats.accepted
    assert more > 500
    # the peak: an array that grows holds up to twice what it needs
    assert 8 * more <= tight.stats.storage_bytes - 1024 <= 16 * tight.stats.accepted
    assert tight.stats.recomputed_steps == 0


def test_long_solves():
    """Beyond 5 / (1 - l) steps, where undoing alone would have lost every digit at 40,000."""
    sol = swing(T=400.0, steps=20_000)
    assert sol.stats.accepted == 40_000
    assert sol.stats.storage_bytes < 1024
    exact = swing(T=400.0, steps=20_000, adjoint="discrete")
    np.testing.assert_allclose(sol.y, exact.y, rtol=1e-6)
    dy = np.random.default_rng(0).normal(size=(3, 2))
    g, d = sol.vjp(dy), exact.vjp(dy)
    np.testing.assert_allclose(g.params, d.params, rtol=1e-6)
    np.testing.assert_allclose(g.y0, d.y0, rtol=1e-6)
    assert nc.gradcheck(sol, dy) < 1e-8


@pytest.mark.parametrize("coupling", [0.5, 0.9])
def test_pairs_kept_on_the_way(coupling):
    """Ends of a solve just before, at and behind a pair."""
    every = round(5 / (1 - coupling))
    for n in (1, every - 1, every, every + 1, 2 * every, 3 * every + 2):
        sol = swing(T=1.0, dt=1.0 / n, adjoint=nc.Reversible(coupling))
        assert sol.stats.accepted == n
        assert nc.gradcheck(sol) < 1e-8


# ---- The parasitic mode --------------------------------------------------------------------------


def decay(T, k=1.0, y0=(1.0,), **options):
    options = {"method": "rk4", "adjoint": "reversible", **options}
    return nc.solve(lambda t, y, k: -k * y, np.array(y0), [0.0, T], k, **options)


def test_parasitic_mode_is_seen():
    with pytest.raises(nc.SolveError, match=r"t = 9\.\d+.*nc\.Discrete\(memory=") as caught:
        decay(10.0, dt=0.05)
    assert caught.value.status is nc.Status.UNSTABLE
    assert caught.value.sample == 0
    assert 9 < caught.value.t < 10
    sol = decay(10.0, dt=0.05, adjoint=None)  # the method itself is stable
    np.testing.assert_allclose(sol.y[-1], np.exp(-10.0), rtol=1e-5)
    sol = decay(5.0, dt=0.05)  # before it has grown
    np.testing.assert_allclose(sol.y[-1], np.exp(-5.0), rtol=1e-4)
    assert nc.gradcheck(sol) < 1e-8


@pytest.mark.parametrize("method", [m for m in METHODS if nc.methods.get(m).adaptive])
def test_parasitic_mode_of_adaptive_steps(method):
    """Damped: it ends while the error is what it says. Not damped: no alarm, at any tolerance."""
    sol = decay(20.0, method=method, rtol=1e-5, on_failure="mark")
    assert sol.status == nc.Status.UNSTABLE
    assert "unstable at t" in sol.message()
    for rtol in (1e-3, 1e-6, 1e-8) if nc.methods.get(method).order > 2 else (1e-3, 1e-5):
        sol = swing(T=20.0, method=method, rtol=rtol, atol=rtol)
        assert sol.ok
        fine = swing(T=20.0, method="dop853", rtol=1e-12, atol=1e-12, adjoint=None)
        assert np.abs(sol.y - fine.y).max() < 100 * rtol


def test_one_sample_fails():
    """The others are untouched, in value and gradient."""
    y0 = np.array([[1.0], [1.0], [0.5]])
    k = np.array([0.1, 2.0, 0.2])

    def run(keep, on_failure="raise"):
        return nc.solve(
            lambda t, y, p, k: -k * y * p, y0[keep], [0.0, 4.0, 10.0], 1.0, k[keep], dt=0.05,
            method="rk4", adjoint="reversible", on_failure=on_failure,
        )  # fmt: skip

    sol = run([0, 1, 2], "mark")
    assert sol.status.tolist() == [0, nc.Status.UNSTABLE, 0]
    assert "t = 4." in sol.message(1)
    assert np.isfinite(sol.y[1, 1]).all()
    assert np.isnan(sol.y[1, 2]).all()
    good = run([0, 2])
    assert same_bits(sol.y[[0, 2]], good.y)
    dy = np.ones((3, 3, 1))
    g, h = sol.vjp(dy), good.vjp(dy[[0, 2]])
    assert same_bits(g.y0[[0, 2]], h.y0)
    assert same_bits(g.args[[0, 2]], h.args)
    assert g.y0[1] == 0 and g.args[1] == 0
    np.testing.assert_allclose(g.params, h.params, rtol=1e-13)


def test_passing_zero_is_no_alarm():
    """Of coarse steps too, where the state is as small as its error."""
    for method in METHODS:
        sol = nc.solve(
            lambda t, y, p: p * np.cos(t), [0.0], [0.0, 50.0], 1.0, dt=0.05, method=method,
            adjoint="reversible",
        )  # fmt: skip
        assert sol.ok
    sol = nc.solve(lambda t, y: 0 * y, [0.0], [0.0, 1.0], steps=5, adjoint="reversible")
    assert sol.ok


# ---- As other solves do --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_alone_in_any_batch_with_any_threads(dtype):
    """Bits of states, work, and the gradients in y0, args and t; refilled lanes."""
    rng = np.random.default_rng(0)
    N = 70
    y0 = rng.normal(size=(N, 2)) * np.exp(rng.normal(size=(N, 1)))
    w = np.geomspace(0.1, 10, N)
    t = [np.concatenate([[0], np.sort(rng.uniform(0, 3, rng.integers(1, 6)))]) for _ in range(N)]

    def run(index, **options):
        return nc.solve(
            lambda t, y, p, w: [y[1], -w * np.sin(y[0]) + p * np.cos(t)], y0[index].astype(dtype),
            [t[i] for i in index], 0.3, w[index], adjoint=nc.Reversible(0.98), method="tsit5",
            **options,
        )  # fmt: skip

    dy = [rng.normal(size=(len(x), 2)).astype(dtype) for x in t]
    for options in ({"rtol": 1e-3, "atol": 1e-3}, {"dt": 0.07}, {"steps": 9}):
        whole = run(range(N), threads=1, **options)
        g = whole.vjp(dy)
        for threads in (1, 2):
            again = run(range(N), threads=threads, **options)
            assert same_bits(again.y, whole.y)
            assert same_bits(all_of(again.vjp(dy)), all_of(g))
        for n in (1, 3, 8, 17):
            index = rng.permutation(N)[:n]
            sol = run(index, threads=1, **options)
            h = sol.vjp([dy[i] for i in index])
            for j, i in enumerate(index):
                assert same_bits(sol.y[j], whole.y[i])
                assert sol.stats.nfev[j] == whole.stats.nfev[i]
                assert same_bits(h.y0[j], g.y0[i]) and same_bits(h.args[j], g.args[i])
                assert same_bits(h.t[j], g.t[i])


def test_replay_has_the_same_bits():
    for i, (method, times) in enumerate(itertools.product(("rk4", "tsit5", "dop853"), TIMES)):
        for grid, options in grids_of(method).items():
            case = CASES[list(CASES)[i % len(CASES)]]
            sol = solve(case, TIMES[times], method=method, **options)
            again = sol.replay()
            assert same_bits(again.y, sol.y), (method, grid, times)
            dy = random_like(sol.y, np.random.default_rng(i))
            assert same_bits(all_of(again.vjp(dy)), all_of(sol.vjp(dy))), (method, grid, times)


def test_the_steps_are_those_that_were_made():
    """Going back finds the ends of fixed steps: nodes, stops and outputs, near each other too."""
    out = np.array([0.0, 0.3, 0.3 + 1e-10, 0.7, 1.0])
    for t in (out, 1.0 - out):
        for options in (
            {"dt": 0.1},
            {"dt": 0.1, "tstops": True},
            {"dt": 0.1, "tstops": np.array([0.2, 0.25, 0.25 + 2e-11, 0.9])},
            {"dt": 0.33, "tstops": np.array([0.0, 1.0])},
            {"dt": 7.0},
            {"steps": 3},
        ):
            if "tstops" in options and options["tstops"] is not True and t[0] > t[-1]:
                options = {**options, "tstops": options["tstops"][::-1]}
            args = (lambda t, y: np.sin(t) * y, [1.0], t)
            kept = nc.solve(*args, method="rk4", adjoint="discrete", **options)
            walked = nc.solve(*args, method="rk4", adjoint="reversible", **options)
            for a, b in zip(kept._frozen().steps[:6], walked._frozen().steps[:6], strict=True):
                assert a.tobytes() == b.tobytes(), (t, options)


def test_jumps_are_seen_from_their_side():
    """A field that jumps at a stop: both increments stay on their side, so the order stays."""
    sol = nc.solve(
        lambda t, y, p: np.where(t < 0.5, p, -2.0 * p) * np.ones(1), [0.0], [0.0, 0.5, 1.0], 1.5,
        method="rk4", dt=0.1, tstops=np.array([0.5]), adjoint="reversible",
    )  # fmt: skip
    np.testing.assert_allclose(sol.y[:, 0], [0.0, 0.75, -0.75], rtol=1e-12)
    np.testing.assert_allclose(sol.vjp(np.array([[0.0], [0.0], [1.0]])).params, -0.5, rtol=1e-12)


def test_forward_mode_is_its_transpose():
    """The tangent's solve is that of the same scheme."""
    for options in ({"method": "tsit5"}, {"method": "rk4", "dt": 0.11}):
        sol = solve(CASES["hybrid"], TIMES["shared"], **options)
        rng = np.random.default_rng(0)
        dy, dp = random_like(sol.y, rng), random_like(CASES["hybrid"].params, rng)
        g = sol.vjp(dy)
        left = float(np.sum(sol.jvp(dparams=dp) * dy))
        right = sum(
            float(np.sum(a * b))
            for a, b in zip(tree.flatten(g.params)[0], tree.flatten(dp)[0], strict=True)
        )
        assert abs(left - right) < 1e-11 * abs(left)
        J = sol.jacobian("y0")
        np.testing.assert_allclose(np.einsum("btij,bti->bj", J, dy), g.y0, rtol=1e-10, atol=1e-12)


def test_second_order():
    sol = swing(T=3.0, steps=20)
    h = sol.hvp(lambda y: np.sum(y[-1] ** 2), dparams=1.0)
    e = 1e-5

    def slope(w):
        return sol.replay(params=w).value_and_grad(lambda y: np.sum(y[-1] ** 2))[1].params

    np.testing.assert_allclose(h.params, (slope(1.3 + e) - slope(1.3 - e)) / (2 * e), rtol=1e-7)


def test_pickled():
    sol = swing(steps=10)
    copy = pickle.loads(pickle.dumps(sol))
    assert same_bits(copy.y, sol.y)
    assert copy.adjoint == sol.adjoint and copy.adjoint.startswith("reversible")
    assert copy.stats.storage_bytes == sol.stats.storage_bytes
    with pytest.raises(nc.GradientError, match="pickled"):
        copy.vjp(np.ones((3, 2)))


def test_in_training():
    """fit takes it as any other adjoint."""
    t = np.linspace(0, 1, 5)
    data = np.exp(-0.7 * t)[None, :, None] * np.ones((3, 5, 1))
    result = nc.fit(
        lambda t, y, k: -k * y, 2.0, np.ones((3, 1)), t, data, steps=60,
        optimizer=nc.optim.Adam(0.1), progress=False,
        solve={"adjoint": "reversible", "method": "rk4", "steps": 5},
    )  # fmt: skip
    np.testing.assert_allclose(result.params, 0.7, atol=0.05)


def test_max_steps_and_deadlines():
    sol = swing(steps=1000, max_steps=17, on_failure="mark")
    assert sol.status == nc.Status.MAX_STEPS
    assert sol.vjp(np.ones((3, 2))).y0.tolist() == [0, 0]
    sol = swing(method="tsit5", max_steps=5, on_failure="mark")
    assert len(sol._frozen().steps[0]) == sol.stats.accepted <= 5


def test_without_a_step():
    sol = nc.solve(lambda t, y, k: -k * y, [2.0], [0.5], 1.0, method="rk4", dt=0.1,
                   adjoint="reversible")  # fmt: skip
    assert sol.vjp(np.array([[3.0]])).y0 == 3.0


# ---- Errors --------------------------------------------------------------------------------------


def test_what_cannot_be():
    for method in nc.methods.names():
        if method not in METHODS:
            with pytest.raises(nc.InputError, match="rk4.*tsit5.*nc.Discrete"):
                swing(method=method)
    with pytest.raises(nc.InputError, match="dense=True"):
        swing(steps=3, dense=True)
    with pytest.raises(nc.InputError, match="events"):
        swing(steps=3, events=nc.Event(lambda t, y: y[0]))
    for bad in (0, 1, -0.5, 1.5, True, "0.9", None, np.nan):
        with pytest.raises(nc.InputError, match="coupling must be a number between 0 and 1"):
            nc.Reversible(bad)
    with pytest.raises(nc.InputError, match="reversible.*nc.Reversible"):
        swing(steps=3, adjoint="reversed")


def test_cotangents_that_are_not_finite():
    sol = nc.solve(lambda t, y, p: -p * np.sqrt(y), np.array([[1.0], [0.0]]), [0.0, 0.5, 1.0], 0.1,
                   method="rk4", steps=4, adjoint="reversible")  # fmt: skip
    with pytest.raises(nc.GradientError, match="sample 1"):
        sol.vjp(np.ones((2, 3, 1)))
    with pytest.raises(nc.GradientError, match="dy"):
        sol.vjp(np.array([[[0.0], [0.0], [np.nan]], [[0.0], [0.0], [0.0]]]))

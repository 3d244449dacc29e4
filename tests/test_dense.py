"""Solutions as functions of time: ``sol(t)`` with dense=True."""

import numpy as np
import pytest

import nodecore as nc
from nodecore import tree

METHODS = nc.methods.names()
B = 4


def oscillator(t, y, p, a):
    x, v = y
    return [v, -(a**2) * x + p * np.sin(3 * t)]


def exact(t, y0, a, p):
    """Of the forced oscillator, from t = 0."""
    t = np.asarray(t)
    forced = p / (a**2 - 9)
    x0, v0 = y0[0], y0[1] - 3 * forced
    x = x0 * np.cos(a * t) + v0 / a * np.sin(a * t) + forced * np.sin(3 * t)
    v = -a * x0 * np.sin(a * t) + v0 * np.cos(a * t) + 3 * forced * np.cos(3 * t)
    return np.stack([x, v], axis=-1)


Y0 = np.array([[1.0, 0.0], [0.3, -1.0], [-2.0, 0.5], [0.0, 0.0]])
A = np.array([1.0, 2.0, 0.5, 1.5])
P = 0.7
T = np.array([0.0, 0.4, 1.1, 2.0])


def grids_of(method):
    fixed = [{"dt": 0.03}, {"steps": 20}, {"dt": 0.03, "tstops": True}]
    tol = 1e-8 if nc.methods.get(method).order > 2 else 1e-6
    adaptive = {"rtol": tol, "atol": tol}
    stops = np.array([0.25, 1.3])
    more = [adaptive, {**adaptive, "tstops": True}, {**adaptive, "tstops": stops}]
    return fixed + (more if nc.methods.get(method).adaptive else [])


def solve(method, t=T, dtype=np.float64, **options):
    return nc.solve(
        oscillator, Y0.astype(dtype), t, P, A, method=method, dense=True, **options
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_exact_solution_between_outputs(method):
    query = np.linspace(0, 2, 41)
    order = min(nc.methods.get(method).order, nc.methods.get(method).dense_order + 1)
    for options in grids_of(method):
        sol = solve(method, **options)
        bound = max(30 * 0.05**order, 1e-9) if "rtol" not in options else 200 * options["rtol"]
        y = sol(query)
        assert y.shape == (B, 41, 2)
        for b in range(B):
            assert np.abs(y[b] - exact(query, Y0[b], A[b], P)).max() < bound


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_at_the_outputs(method, dtype):
    """Where a step ends on an output: its bits. Elsewhere the interpolant: to rounding."""
    for options in grids_of(method):
        if dtype == np.float32 and "rtol" in options:
            options = {**options, "rtol": 1e-5, "atol": 1e-6}
        sol = solve(method, dtype=dtype, **options)
        y = sol(T)
        assert y.dtype == dtype
        on_steps = "steps" in options or options.get("tstops") is True
        if on_steps:
            assert y.tobytes() == sol.y.tobytes(), options
        assert y[:, [0, -1]].tobytes() == sol.y[:, [0, -1]].tobytes(), options
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(y, sol.y, rtol=0, atol=100 * eps)


@pytest.mark.parametrize("method", METHODS)
def test_interpolated_outputs_are_the_dense_output(method):
    """Outputs and queries come from one polynomial, whichever solve made the steps."""
    few = solve(method, [0.0, 2.0], dt=0.13)
    many = np.linspace(0, 2, 23)
    np.testing.assert_allclose(few(many), solve(method, many, dt=0.13).y, rtol=0, atol=2e-13)


@pytest.mark.parametrize("method", METHODS)
def test_steps_meet(method):
    """The dense output is continuous: both limits at the end of a step are its state."""
    sol = solve(method, dt=0.11)
    ends = 0.11 * np.arange(1, 18)
    here = sol(ends)
    for side in (np.nextafter(ends, 0), np.nextafter(ends, 3)):
        np.testing.assert_allclose(sol(side), here, rtol=0, atol=1e-13)


def test_forms_of_queries():
    sol = solve("tsit5")
    assert sol(0.7).shape == (B, 2)
    assert sol(np.array([0.7])).shape == (B, 1, 2)
    assert sol(np.array([0.7]))[:, 0].tobytes() == sol(0.7).tobytes()
    each = np.array([[0.1, 1.9, 0.4], [2.0, 0.0, 1.0], [0.3, 0.3, 0.3], [1.0, 1.1, 0.9]])
    rows = sol(each)
    assert rows.shape == (B, 3, 2)
    for b in range(B):
        assert rows[b].tobytes() == sol(each[b])[b].tobytes()
    shuffled = np.array([1.9, 0.1, 1.9, 0.0, 2.0])
    order = np.argsort(shuffled, kind="stable")
    assert sol(shuffled)[:, order].tobytes() == sol(shuffled[order]).tobytes()
    assert sol(np.zeros(0)).shape == (B, 0, 2)
    with pytest.raises(nc.InputError, match="does not fit a batch of 4"):
        sol(np.zeros((3, 2)))
    with pytest.raises(nc.InputError, match="does not fit"):
        sol(np.zeros((B, 2, 2)))


def test_one_sample_without_a_batch():
    whole = solve("tsit5")
    one = nc.solve(oscillator, Y0[1], T, P, A[1], dense=True)
    query = np.linspace(0, 2, 9)
    assert one(query).tobytes() == whole(query)[1].tobytes()
    assert one(0.3).shape == (2,)
    number = nc.solve(lambda t, y: -y, 1.0, [0.0, 1.0], dense=True)
    assert np.shape(number(0.5)) == () and abs(number(0.5) - np.exp(-0.5)) < 1e-6
    assert number([0.5, 0.25]).shape == (2,)


def test_trees():
    y0 = {"x": np.ones((3, 2)), "z": [np.full((3, 2, 2), 2.0)]}
    sol = nc.solve(lambda t, y: tree.map(lambda v: -v, y), y0, [0.0, 1.0], dense=True)
    y = sol(np.array([0.0, 0.25, 0.5]))
    assert y["x"].shape == (3, 3, 2) and y["z"][0].shape == (3, 3, 2, 2)
    np.testing.assert_allclose(y["z"][0][1, 1], 2 * np.exp(-0.25), rtol=1e-6)


def test_backwards_and_ragged():
    t = [np.array([2.0, 0.5]), np.array([0.0, 2.0]), np.array([0.0, 0.3, 1.0]), np.array([1.0])]
    y0 = np.stack([exact(t[b][0], Y0[b], A[b], P) for b in range(B)])
    sol = nc.solve(oscillator, y0, t, P, A, rtol=1e-9, atol=1e-9, dense=True)
    query = np.array([[0.5, 2.0, 1.1], [0.0, 0.1, 1.7], [0.9, 1.0, 0.0], [1.0, 1.0, 1.0]])
    y = sol(query)
    for b in range(B):
        np.testing.assert_allclose(y[b], exact(query[b], Y0[b], A[b], P), rtol=0, atol=1e-6)
    assert y[3].tobytes() == np.tile(y0[3], (3, 1)).tobytes()


def test_outside_of_the_interval():
    sol = solve("tsit5")
    for t in (-1e-9, 2.0 + 1e-9, np.nan, np.array([0.5, 3.0]), np.inf):
        with pytest.raises(nc.InputError, match=r"outside of the interval \[0, 2\]"):
            sol(t)
    with pytest.raises(nc.InputError, match="array of real numbers"):
        sol("now")


def test_it_must_be_asked_for():
    sol = nc.solve(oscillator, Y0, T, P, A, adjoint="discrete")
    with pytest.raises(nc.InputError, match="dense=True"):
        sol(0.5)


def test_failed_samples_are_nan_behind_their_end():
    """y' = y^2 blows up at 1 / y0."""
    y0 = np.array([[0.1], [2.0], [np.nan], [0.2]])
    sol = nc.solve(lambda t, y: y**2, y0, [0.0, 1.0], dense=True, on_failure="mark")
    assert (sol.status != 0).tolist() == [False, True, True, False]
    query = np.array([0.0, 0.2, 0.4, 0.6, 1.0])
    y = sol(query)[..., 0]
    want = y0 / (1 - y0 * query)
    np.testing.assert_allclose(y[[0, 3]], want[[0, 3]], rtol=1e-5)
    np.testing.assert_allclose(y[1, :3], want[1, :3], rtol=1e-5)
    assert np.isnan(y[1, 3:]).all() and np.isnan(y[2]).all()


def test_with_an_adjoint_of_few_checkpoints():
    """The steps are made again, and the gradient stays."""
    options = {"rtol": 1e-6, "atol": 1e-8}
    sol = solve("tsit5", adjoint=nc.Discrete(checkpoints=2), **options)
    whole = solve("tsit5", **options)
    query = np.linspace(0, 2, 17)
    dy = np.ones_like(sol.y)
    before = sol.vjp(dy)
    assert sol(query).tobytes() == whole(query).tobytes()
    after = sol.vjp(dy)
    assert before.y0.tobytes() == after.y0.tobytes()
    assert np.asarray(before.params).tobytes() == np.asarray(after.params).tobytes()


def test_inputs_may_change_after_the_solve():
    y0, a, t = Y0.copy(), A.copy(), T.copy()
    sol = nc.solve(oscillator, y0, t, P, a, dense=True)
    query = np.linspace(0, 2, 7)
    before = sol(query)
    y0[:], a[:], t[:] = 7, 7, 7
    assert sol(query).tobytes() == before.tobytes()


def test_a_replayed_solution_is_dense_too():
    sol = solve("tsit5")
    again = sol.replay(params=0.9)
    query = np.linspace(0, 2, 11)
    assert sol.replay()(query).tobytes() == sol(query).tobytes()
    for b in range(B):
        np.testing.assert_allclose(again(query)[b], exact(query, Y0[b], A[b], 0.9), atol=1e-4)


def test_an_opaque_field():
    def fun(t, y, p, a):
        a = a[:, None]
        return np.concatenate([y[:, 1:], -(a**2) * y[:, :1] + p * np.sin(3 * t)[:, None]], axis=1)

    sol = nc.solve(nc.opaque(fun), Y0, T, P, A, dense=True)
    query = np.linspace(0, 2, 11)
    np.testing.assert_allclose(sol(query), solve("tsit5")(query), rtol=0, atol=1e-9)

"""Opaque fields: a Python callable on the batch of active samples, stepped by the same steppers."""

import traceback

import numpy as np
import pytest
from families import gradient_bound

import nodecore as nc

T = np.linspace(0.0, 1.0, 4)
PARAMS = {"W": np.array([[-0.5, 1.0], [-1.2, -0.3]]), "b": [np.array([0.1, -0.2])]}
Y0 = np.array([[1.0, 0.0], [0.5, -0.5], [-1.0, 2.0], [0.0, 0.3], [2.0, 2.0]])
ARGS = {"u": np.array([0.3, -0.1, 0.0, 1.0, 0.5]), "kind": np.array([0, 1, 2, 0, 1])}


def traced(t, y, p, a):
    return np.tanh(y @ p["W"] + p["b"][0]) * np.cos(t) + a["u"] * (1 + a["kind"]) - 0.1 * y


def fun(t, y, p, a):
    h = np.tanh(y @ p["W"] + p["b"][0])
    return h * np.cos(t)[:, None] + (a["u"] * (1 + a["kind"]))[:, None] - 0.1 * y


def vjp(t, y, p, a, ct):
    h = np.tanh(y @ p["W"] + p["b"][0])
    g = ct * np.cos(t)[:, None] * (1 - h**2)
    params_bar = {"W": y.T @ g, "b": [g.sum(axis=0)]}
    args_bar = {"u": ct.sum(axis=1) * (1 + a["kind"]), "kind": np.zeros(len(t))}
    return g @ p["W"].T - 0.1 * ct, params_bar, args_bar


FIELD = nc.opaque(fun, vjp)


def cases(name):
    """Fixed steps, and adaptive ones where the method has them."""
    yield {"method": name, "dt": 0.07}
    yield {"method": name, "steps": 3}
    yield {"method": name, "dt": 0.07, "tstops": [0.31, 0.5]}
    if nc.methods.get(name).adaptive:
        yield {"method": name, "rtol": 1e-5}
        yield {"method": name, "rtol": 1e-5, "tstops": True}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", nc.methods.names())
def test_the_same_as_the_traced_field(name, dtype):
    family = nc.methods.get(name).family
    y0 = Y0.astype(dtype)
    for options in cases(name):
        options["adjoint"] = "discrete" if family != "rosenbrock" else None
        sol = nc.solve(FIELD, y0, T, PARAMS, ARGS, **options)
        ref = nc.solve(traced, y0, T, PARAMS, ARGS, **options)
        assert sol.y.dtype == dtype
        close = {"rtol": 1e-12, "atol": 1e-13}
        if dtype == np.float32:
            close = {"rtol": 2e-4, "atol": 2e-5}
        elif "rtol" in options:  # rounding moves the step sizes a little
            close = {"rtol": 1e-7, "atol": 1e-8}
            if family == "rosenbrock":  # whose formula has the Jacobian, here one of differences
                close = {"rtol": 1e-4, "atol": 1e-5}
        else:
            np.testing.assert_array_equal(sol.stats.accepted, ref.stats.accepted)
            if family == "rosenbrock":
                close = {"rtol": 1e-5, "atol": 1e-6}
            elif family != "explicit":  # Jacobians by differences
                close = {"rtol": 1e-7, "atol": 1e-8}
        np.testing.assert_allclose(sol.y, ref.y, **close)
        if family == "rosenbrock":
            continue
        dy = np.cos(np.arange(sol.y.size)).reshape(sol.y.shape).astype(dtype)
        g, r = sol.vjp(dy), ref.vjp(dy)
        close["atol"] *= 10
        np.testing.assert_allclose(g.y0, r.y0, **close)
        np.testing.assert_allclose(g.params["W"], r.params["W"], **close)
        np.testing.assert_allclose(g.params["b"][0], r.params["b"][0], **close)
        np.testing.assert_allclose(g.args["u"], r.args["u"], **close)
        assert g.y0.dtype == dtype and not g.args["kind"].any()
        assert g.args["kind"].dtype == ARGS["kind"].dtype


@pytest.mark.parametrize("name", nc.methods.names())
def test_the_gradient_is_that_of_what_was_computed(name):
    if nc.methods.get(name).family == "rosenbrock":
        with pytest.raises(nc.InputError, match="needs second derivatives"):
            nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete", method=name, steps=1)
        return
    adaptive = nc.methods.get(name).adaptive
    for options in ({"steps": 1}, {"rtol": 1e-2, "atol": 1e-3} if adaptive else {"dt": 0.4}):
        options["method"] = name
        sol = nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete", **options)
        # so coarse a tolerance leaves the stages coarse too
        bound = 1e-5 if gradient_bound(name, options) > 1e-8 else 1e-8
        assert nc.gradcheck(sol, wrt=("y0", "params", "args")) < bound


def test_a_given_jacobian_serves():
    """Exact or not, gradients are those of what was computed."""

    def jac(t, y, p, a):
        J = np.zeros((len(t), 2, 2))
        for j in range(2):
            e = np.zeros_like(y)
            e[:, j] = 1e-4
            J[:, :, j] = (FIELD.fun(t, y + e, p, a) - FIELD.fun(t, y - e, p, a)) / 2e-4
        return J

    with_jac = nc.opaque(FIELD.fun, FIELD.vjp, jac)
    for name in ("trapezoid", "kvaerno3", "radau5"):
        sol = nc.solve(with_jac, Y0, T, PARAMS, ARGS, adjoint="discrete", method=name, steps=2)
        assert nc.gradcheck(sol, wrt=("y0", "params", "args")) < 1e-8
        ref = nc.solve(traced, Y0, T, PARAMS, ARGS, method=name, steps=2)
        np.testing.assert_allclose(sol.y, ref.y, rtol=1e-10)
    wrong = nc.opaque(FIELD.fun, FIELD.vjp, lambda t, y, p, a: np.zeros((len(t), 2)))
    with pytest.raises(nc.InputError, match="jac of the opaque field"):
        nc.solve(wrong, Y0, T, PARAMS, ARGS, method="radau5")


def test_the_gradient_in_time_is_unknown():
    g = nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete").vjp(np.ones((5, 4, 2)))
    with pytest.raises(nc.GradientError, match="no derivative in time"):
        g.t  # noqa: B018


def test_the_same_bits_again():
    sol = nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete")
    again = nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete")
    np.testing.assert_array_equal(sol.y, again.y)
    dy = np.ones_like(sol.y)
    first, second = sol.vjp(dy), sol.vjp(dy)
    for key in ("W",):
        np.testing.assert_array_equal(first.params[key], second.params[key])
    np.testing.assert_array_equal(first.y0, second.y0)
    np.testing.assert_array_equal(sol.replay().y, sol.y)


# ---- what the callback sees ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_sees_the_active_samples(dtype):
    sizes = []

    def watch(t, y, p, a):
        n = len(t)
        sizes.append(n)
        assert t.shape == (n,) and t.dtype == np.float64
        assert y.shape == (n, 2) and y.dtype == dtype
        assert p is PARAMS
        np.testing.assert_array_equal(a["index"] % 1, 0)
        assert a["index"].shape == (n,) and a["x"].shape == (n, 3)
        np.testing.assert_array_equal(a["x"][:, 0], a["index"])
        y[:] = np.nan  # its own copy
        return -np.ones_like(y)

    args = {"index": np.arange(5), "x": np.arange(5.0)[:, None] * np.ones(3)}
    ends = [0.1, 5.0, 0.2, 0.3, 0.4]
    sol = nc.solve(
        nc.opaque(watch), Y0.astype(dtype), [[0, end] for end in ends], PARAMS, args,
        method="rk4", dt=0.05,
    )  # fmt: skip
    assert sizes[0] == 5 and sizes[-1] == 1  # finished samples are not evaluated any more
    for b, end in enumerate(ends):
        np.testing.assert_allclose(sol.y[b][-1], Y0[b] - end, rtol=1e-4, atol=1e-6)


def test_one_sample():
    shapes = set()

    def one(t, y, p, a):
        shapes.add((t.shape, y.shape, a.shape))
        return -y * a[:, None] * p

    def pull(t, y, p, a, ct):
        return -ct * a[:, None] * p, -np.sum(ct * y * a[:, None]), -np.sum(ct * y * p, axis=1)

    sol = nc.solve(nc.opaque(one, pull), [1.0, 2.0, 3.0], T, 2.0, 0.5, adjoint="discrete")
    assert shapes == {((1,), (1, 3), (1,))}
    np.testing.assert_allclose(sol.y[-1], np.array([1, 2, 3]) / np.e, rtol=1e-5)
    g = sol.vjp(np.ones((4, 3)))
    assert g.args.shape == () and g.params.shape == () and g.y0.shape == (3,)
    assert nc.gradcheck(sol, wrt=("y0", "params", "args")) < 1e-8


def test_a_state_tree_arrives_flattened():
    def one(t, y, p, a):
        assert y.shape == (2, 7) and p is None and a is None
        return -y

    y0 = {"b": np.ones((2, 2, 2)), "a": np.full((2, 3), 2.0)}
    sol = nc.solve(nc.opaque(one), y0, T)
    np.testing.assert_allclose(sol.y["a"][:, -1], np.full((2, 3), 2 / np.e), rtol=1e-5)
    np.testing.assert_allclose(sol.y["b"][:, -1], np.ones((2, 2, 2)) / np.e, rtol=1e-5)


def test_ragged_times_and_dense_output():
    times = [T, T[:2] + 1, np.array([3.0]), T[::-1], np.array([0.0, 2.0, 7.0])]
    sol = nc.solve(FIELD, Y0, times, PARAMS, ARGS)
    ref = nc.solve(traced, Y0, times, PARAMS, ARGS)
    for y, r in zip(sol.y, ref.y, strict=True):
        np.testing.assert_allclose(y, r, rtol=1e-7, atol=1e-8)
    shared = nc.solve(FIELD, Y0, T, PARAMS, ARGS, dense=True)
    np.testing.assert_allclose(shared(T), shared.y, rtol=1e-13)
    fine = np.linspace(0, 1, 50)
    np.testing.assert_allclose(
        shared(fine), nc.solve(traced, Y0, fine, PARAMS, ARGS).y, rtol=1e-7, atol=1e-8
    )


# ---- failure ------------------------------------------------------------------------------------


class MyError(Exception):
    pass


@pytest.mark.parametrize("kind", [MyError, KeyboardInterrupt, SystemExit, StopIteration])
@pytest.mark.parametrize("call", [1, 2, 5, 40])
def test_an_exception_in_the_field_arrives_unharmed(call, kind):
    count = [0]
    mine = kind("mine")

    def one(t, y, p, a):
        count[0] += 1
        if count[0] == call:
            raise mine
        return -y

    field = nc.opaque(one)
    with pytest.raises(kind) as caught:
        nc.solve(field, Y0, T, method="dopri5", rtol=1e-9, on_failure="mark")
    assert caught.value is mine and count[0] == call
    assert any(frame.name == "one" for frame in traceback.extract_tb(mine.__traceback__))
    assert nc.solve(field, Y0, T).ok


def test_an_exception_in_the_pullback_arrives_unharmed():
    fail = [True]
    mine = MyError("mine")

    def pull(t, y, p, a, ct):
        if fail[0]:
            raise mine
        return vjp(t, y, p, a, ct)

    sol = nc.solve(nc.opaque(fun, pull), Y0, T, PARAMS, ARGS, adjoint="discrete")
    dy = np.ones_like(sol.y)
    for _ in range(2):
        with pytest.raises(MyError) as caught:
            sol.vjp(dy)
        assert caught.value is mine
    fail[0] = False
    expected = nc.solve(FIELD, Y0, T, PARAMS, ARGS, adjoint="discrete").vjp(dy)
    np.testing.assert_array_equal(sol.vjp(dy).y0, expected.y0)


@pytest.mark.parametrize(
    "result, message",
    [
        (
            lambda y: y[:, :1],
            r"the opaque field one returned shape \(5, 1\) for y of shape \(5, 2\)",
        ),
        (lambda y: y[0], r"returned shape \(2,\)"),
        (lambda y: y.T, r"returned shape \(2, 5\)"),
        (lambda y: None, "returned dtype object"),
        (lambda y: y + 1j, "returned dtype complex128"),
        (lambda y: [[1.0, 2.0], [1.0]], "returned what is not an array"),
    ],
)
def test_a_result_that_is_no_derivative(result, message):
    def one(t, y, p, a):
        return result(y)

    with pytest.raises(nc.InputError, match=message):
        nc.solve(nc.opaque(one), Y0, T)


@pytest.mark.parametrize(
    "result, message",
    [
        (lambda ct: ct, r"must return \(y_bar, params_bar, args_bar\)"),
        (lambda ct: (ct, None), r"must return \(y_bar, params_bar, args_bar\)"),
        (lambda ct: (ct[0], None, None), r"y_bar, returned shape \(2,\) for y of shape \(\d, 2\)"),
        (lambda ct: (ct + 1j, None, None), "y_bar, returned dtype complex128"),
        (lambda ct: (ct, {"W": ct}, None), "params_bar that is not a tree like params"),
        (lambda ct: (ct, {"W": ct, "b": [ct[0]]}, None), r"params_bar\['W'\], returned shape"),
        (lambda ct: (ct, None, {"u": ct[0], "kind": ct[0]}), r"args_bar\['kind'\], returned shape"),
    ],
)
def test_a_result_that_is_no_pullback(result, message):
    field = nc.opaque(fun, lambda t, y, p, a, ct: result(ct))
    sol = nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete")
    with pytest.raises(nc.InputError, match=message):
        sol.vjp(np.ones_like(sol.y))


def test_lists_and_other_numbers_are_derivatives_too():
    sol = nc.solve(nc.opaque(lambda t, y, p, a: [[-1, -2]] * len(t)), Y0, T)
    np.testing.assert_allclose(sol.y[:, -1], Y0 - [1, 2], rtol=1e-6, atol=1e-14)


def test_none_stands_for_zeros():
    sol = nc.solve(nc.opaque(fun, lambda *_: (None, None, None)), Y0, T, PARAMS, ARGS,
                   adjoint="discrete")  # fmt: skip
    g = sol.vjp(np.ones_like(sol.y))
    np.testing.assert_array_equal(g.y0, np.full((5, 2), 4.0))
    assert not g.params["W"].any() and not g.args["u"].any()


def test_without_a_pullback_there_is_no_gradient():
    with pytest.raises(nc.InputError, match="opaque field fun has no vjp"):
        nc.solve(nc.opaque(fun), Y0, T, PARAMS, ARGS, adjoint="discrete")
    assert nc.solve(nc.opaque(fun), Y0, T, PARAMS, ARGS, dense=True).ok


@pytest.mark.parametrize("arguments", [(3,), (None,), (fun, 3), (fun, vjp, "jac")])
def test_opaque_takes_callables(arguments):
    with pytest.raises(nc.InputError, match="must be callable"):
        nc.opaque(*arguments)


def test_mark():
    def one(t, y, p, a):
        return y * y

    def pull(t, y, p, a, ct):
        return 2 * y * ct, None, None

    y0 = np.array([[0.3], [1.0], [np.nan], [-2.0], [0.2]])
    t = np.linspace(0, 2, 5)
    sol = nc.solve(nc.opaque(one, pull), y0, t, on_failure="mark", adjoint="discrete")
    ref = nc.solve(lambda t, y: y * y, y0, t, on_failure="mark", adjoint="discrete")
    np.testing.assert_array_equal(sol.status, ref.status)
    assert np.flatnonzero(sol.status).tolist() == [1, 2]
    good = sol.status == 0
    np.testing.assert_allclose(sol.y[good], ref.y[good], rtol=1e-13)
    dy = np.where(np.isnan(sol.y), np.nan, 1.0)
    g, r = sol.vjp(dy), ref.vjp(dy)
    np.testing.assert_allclose(g.y0, r.y0, rtol=1e-12)
    with pytest.raises(nc.SolveError, match="sample 1: ") as caught:
        nc.solve(nc.opaque(one), y0[[0, 1]], t)
    assert caught.value.sample == 1


def test_not_finite_from_the_field_is_a_status():
    def one(t, y, p, a):
        return np.where(y > -0.5, -1.0, np.nan)

    with pytest.raises(nc.SolveError) as caught:
        nc.solve(nc.opaque(one), np.array([[1.0], [-0.4]]), T)
    assert caught.value.status is nc.Status.NON_FINITE and caught.value.sample == 1


def test_a_gradient_that_is_not_finite():
    def pull(t, y, p, a, ct):
        y_bar, params_bar, args_bar = vjp(t, y, p, a, ct)
        params_bar["W"] = params_bar["W"] + np.where(
            (ct[a["u"] == 0.5] ** 2).sum() > 0, np.inf, 0.0
        )
        return y_bar, params_bar, args_bar

    sol = nc.solve(nc.opaque(fun, pull), Y0, T, PARAMS, ARGS, adjoint="discrete")
    with pytest.raises(nc.GradientError, match=r"sample 4: .*params\['W'\]") as caught:
        sol.vjp(np.ones_like(sol.y))
    assert caught.value.sample == 4

    def nan(t, y, p, a, ct):
        y_bar, params_bar, args_bar = vjp(t, y, p, a, ct)
        return np.where(a["u"][:, None] == 1.0, np.nan, y_bar), params_bar, args_bar

    sol = nc.solve(nc.opaque(fun, nan), Y0, T, PARAMS, ARGS, adjoint="discrete")
    with pytest.raises(nc.GradientError, match="sample 3: ") as caught:
        sol.vjp(np.ones_like(sol.y))
    assert caught.value.sample == 3

"""Tangents, Jacobians and Hessian-vector products on the frozen grid."""

import numpy as np
import pytest

import nodecore as nc
from nodecore import tree

RNG = np.random.default_rng(3)


def field(t, y, p, a):
    h = np.tanh(y @ p["W"] + p["b"] * np.sin(t))
    return h @ p["W"].T * a["rate"] - np.log1p(y**2) * np.exp(p["k"])


PARAMS = {"W": RNG.normal(size=(2, 4)), "b": RNG.normal(size=4), "k": np.array(-0.3)}
Y0 = RNG.normal(size=(5, 2))
ARGS = {"rate": RNG.uniform(0.5, 1, (5, 2)), "kind": np.arange(5)}
T = np.linspace(0, 1.5, 6)
METHODS = [("tsit5", {}), ("dop853", {}), ("rk4", {"dt": 0.11}), ("heun", {"steps": 4}),
           ("dopri5", {"tstops": True})]  # fmt: skip
RAGGED = [np.linspace(0, 1 + 0.1 * i, 3 + i) for i in range(5)]


def like(value):
    return tree.map(lambda x: RNG.normal(size=np.shape(x)), value)


def dot(a, b):
    return sum(np.sum(x * y) for x, y in zip(tree.flatten(a)[0], tree.flatten(b)[0], strict=True))


@pytest.mark.parametrize("t", [T, RAGGED], ids=["shared", "ragged"])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_jvp_is_the_transpose_of_vjp(method, options, t):
    sol = nc.solve(field, Y0, t, PARAMS, ARGS, method=method, adjoint="discrete", **options)
    dy0, dp = like(Y0), like(PARAMS)
    da = {"rate": like(ARGS["rate"]), "kind": np.zeros(5)}
    tangent = sol.jvp(dy0=dy0, dparams=dp, dargs=da)
    ct = like(sol.y)
    g = sol.vjp(ct)
    back = dot(g.y0, dy0) + dot(g.params, dp) + np.sum(g.args["rate"] * da["rate"])
    assert dot(ct, tangent) == pytest.approx(back, rel=1e-11)


def test_jvp_against_finite_differences():
    sol = nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete")
    dy0, eps = like(Y0), 1e-4

    def moved(e):
        return sol.replay(y0=Y0 + e * dy0).y

    fd = (8 * (moved(eps) - moved(-eps)) - (moved(2 * eps) - moved(-2 * eps))) / (12 * eps)
    np.testing.assert_allclose(sol.jvp(dy0=dy0), fd, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("wrt", ["params", "y0", "args"])
def test_jacobian_columns_are_tangents(wrt):
    sol = nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete")
    jac = sol.jacobian(wrt)
    if wrt == "params":
        assert jac["W"].shape == sol.y.shape + (2, 4) and jac["k"].shape == sol.y.shape
        dp = like(PARAMS)
        total = sum(np.tensordot(jac[k], dp[k], axes=np.ndim(PARAMS[k])) for k in PARAMS)
        np.testing.assert_allclose(total, sol.jvp(dparams=dp), rtol=1e-10, atol=1e-12)
        some = sol.jacobian("params", leaves=["k", "b"])
        assert list(some) == ["k", "b"]
        np.testing.assert_array_equal(some["b"], jac["b"])
    elif wrt == "y0":
        dy0 = like(Y0)
        assert jac.shape == sol.y.shape + (2,)
        np.testing.assert_allclose(
            np.einsum("btij,bj->bti", jac, dy0), sol.jvp(dy0=dy0), rtol=1e-10, atol=1e-12
        )
    else:
        da = like(ARGS["rate"])
        np.testing.assert_allclose(
            np.einsum("btij,bj->bti", jac["rate"], da),
            sol.jvp(dargs={"rate": da, "kind": np.zeros(5)}),
            rtol=1e-10,
            atol=1e-12,
        )
        assert not jac["kind"].any()


def test_jacobian_for_least_squares():
    sol = nc.solve(lambda t, y, k: -k * y, [2.0], T, np.array([0.7]), adjoint="discrete")
    jac = sol.jacobian("params")
    exact = -T * 2 * np.exp(-0.7 * T)
    np.testing.assert_allclose(jac[:, 0, 0], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [T, RAGGED], ids=["shared", "ragged"])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_hvp_against_differences_of_gradients(method, options, t):
    sol = nc.solve(field, Y0, t, PARAMS, ARGS, method=method, adjoint="discrete", **options)
    targets = tree.map(lambda x: x + 0.3, sol.y)

    def loss(y, target):
        if isinstance(y, list):
            return sum(np.sum(np.sqrt(1 + (a - b) ** 2)) for a, b in zip(y, target, strict=True))
        return np.sum(np.sqrt(1 + (y - target) ** 2))

    dp, dy0, eps = like(PARAMS), like(Y0), 2e-4
    h = sol.hvp(loss, targets, dy0=dy0, dparams=dp)

    def gradient(e):
        p = {k: PARAMS[k] + e * dp[k] for k in PARAMS}
        g = sol.replay(y0=Y0 + e * dy0, params=p).value_and_grad(loss, targets)[1]
        return np.concatenate([g.y0.ravel(), *[np.ravel(g.params[k]) for k in PARAMS]])

    fd = (8 * (gradient(eps) - gradient(-eps)) - (gradient(2 * eps) - gradient(-2 * eps))) / (
        12 * eps
    )
    got = np.concatenate([h.y0.ravel(), *[np.ravel(h.params[k]) for k in PARAMS]])
    np.testing.assert_allclose(got, fd, rtol=1e-7, atol=1e-7 * np.abs(fd).max())


def test_one_sample_float32_and_budget():
    y0 = Y0[0].astype(np.float32)
    a = {"rate": ARGS["rate"][0], "kind": 3}
    sol = nc.solve(field, y0, T, PARAMS, a, adjoint=nc.Discrete(checkpoints=3), rtol=1e-5)
    tangent = sol.jvp(dy0=np.ones(2))
    assert tangent.shape == sol.y.shape and tangent.dtype == np.float32
    wide = nc.solve(field, Y0[0], T, PARAMS, a, adjoint="discrete").jvp(dy0=np.ones(2))
    np.testing.assert_allclose(tangent, wide, rtol=1e-3)


def test_errors():
    sol = nc.solve(field, Y0, T, PARAMS, ARGS)
    with pytest.raises(nc.GradientError, match="kept no steps"):
        sol.jvp(dy0=Y0)
    sol = nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete")
    with pytest.raises(nc.InputError, match="dy0 has a leaf of shape"):
        sol.jvp(dy0=Y0[:2])
    with pytest.raises(nc.InputError, match="no leaf 'q'"):
        sol.jacobian("params", leaves=["q"])
    opaque = nc.opaque(lambda t, y, p, a: -y, lambda t, y, p, a, ct: (-ct, None, None))
    with pytest.raises(nc.GradientError, match="no tangent"):
        nc.solve(opaque, Y0, T, adjoint="discrete").jvp(dy0=Y0)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_a_solution_keeps_the_field_it_solved(adjoint):
    rate = np.array([0.7])

    def decay(t, y):
        return -rate * y

    def results(sol):
        h = sol.hvp(lambda y: np.sum(y**2), dy0=np.ones(1))
        out = [sol.vjp(np.ones_like(sol.y)).y0, sol.jvp(dy0=np.ones(1)), sol.replay().y, h.y0]
        return [*out, sol(0.4), nc.gradient_error(sol, np.ones_like(sol.y))]

    options = {"adjoint": adjoint, "dense": True}
    before = results(nc.solve(decay, [1.0], T, **options))
    sol = nc.solve(decay, [1.0], T, **options)
    rate[0] = 5.0  # after the solve, before its results are asked for
    for a, b in zip(before, results(sol), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nc.solve(decay, [1.0], T).y[-1, 0] == pytest.approx(np.exp(-7.5), rel=1e-3)

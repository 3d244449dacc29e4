"""The tracer: every spelling of a field means on tracers what it means on arrays."""

import math
import operator

import numpy as np
import pytest
import scipy.special

from nodecore import tree
from nodecore.ir.graph import PARAMS, STEP, reachable
from nodecore.ir.numpy_eval import evaluate
from nodecore.ir.trace import (
    field_arguments,
    graph_key,
    spec_of,
    trace_field,
    trace_function,
    trace_scalar,
)

RNG = np.random.default_rng(7)


def flat(value):
    leaves = [np.asarray(leaf, float).ravel() for leaf in tree.flatten(value)[0]]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def run(trace, t, y, params=None, args=None):
    env = {trace.t: t, trace.y: flat(y)}
    for nodes, value in ((trace.params, params), (trace.args, args)):
        leaves = tree.flatten(value)[0]
        env.update({n: np.asarray(v, float) for n, v in zip(nodes, leaves, strict=True)})
    return evaluate(trace.outs, env)[0]


def trace_like(fun, y, params=None, args=None):
    return trace_field(fun, spec_of(y), spec_of(params), spec_of(args))


def copied(value):
    return tree.map(lambda a: np.array(a)[()], value)


def check_field(fun, y, params=None, args=None, t=0.3, rtol=1e-12):
    """Trace, evaluate, and compare with the function itself on arrays."""
    trace = trace_like(fun, y, params, args)
    count = field_arguments(fun, params is not None, args is not None)
    expected = flat(fun(*[copied(v) for v in (t, y, params, args)][:count]))
    np.testing.assert_allclose(run(trace, t, y, params, args), expected, rtol=rtol, atol=1e-13)
    return trace


def check(fun, *arrays, rtol=1e-12, atol=1e-13):
    """The same for a function of arrays with any result, including its shapes."""
    trace = trace_function(fun, [(f"v{i}", spec_of(a), STEP) for i, a in enumerate(arrays)])
    values = [np.asarray(leaf, float) for a in arrays for leaf in tree.flatten(a)[0]]
    env = dict(zip([n for nodes in trace.inputs for n in nodes], values, strict=True))
    with np.errstate(all="ignore"):
        expected = tree.flatten(fun(*[copied(a) for a in arrays]))[0]
    got = evaluate(trace.outs, env)
    assert len(got) == len(expected)
    for shape, value, reference in zip(trace.shapes, got, expected, strict=True):
        assert shape == np.shape(reference)
        reference = np.asarray(reference, float).ravel()
        np.testing.assert_allclose(value, reference, rtol=rtol, atol=atol)
    return trace


V, W, M, N, C = (RNG.normal(size=s) for s in ((5,), (5,), (3, 4), (4, 3), (2, 3, 4)))
P = np.abs(V) + 0.1
NAN = np.where(V > 0, np.nan, V)

# ---- ufuncs -------------------------------------------------------------------------------------

UNARY = [
    "negative", "positive", "absolute", "fabs", "sign", "square", "exp", "exp2", "expm1", "sin",
    "cos", "tan", "sinh", "cosh", "tanh", "arctan", "arcsinh", "cbrt", "floor", "ceil", "trunc",
    "rint", "deg2rad", "rad2deg", "degrees", "radians", "isnan", "isfinite", "isinf", "signbit",
    "logical_not", "reciprocal", "conjugate",
]  # fmt: skip
POSITIVE = ["sqrt", "log", "log2", "log10", "log1p"]
UNIT = ["arcsin", "arccos", "arctanh"]
BINARY = [
    "add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "fmax", "fmin",
    "arctan2", "hypot", "logaddexp", "logaddexp2", "remainder", "mod", "fmod", "floor_divide",
    "copysign", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal",
    "logical_and", "logical_or", "logical_xor", "heaviside", "divmod",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary_ufuncs(name):
    f = getattr(np, name)
    check(f, np.concatenate([V, 10 * V, [0.5, 1.5, -2.5, 3.0]]))
    check(f, M)
    check(lambda x: f(x[0]), V)


@pytest.mark.parametrize("name", POSITIVE)
def test_unary_ufuncs_of_positive_numbers(name):
    check(getattr(np, name), np.concatenate([P, [1e-30, 1e30]]))


@pytest.mark.parametrize("name", UNIT)
def test_unary_ufuncs_on_the_unit_interval(name):
    check(getattr(np, name), np.array([-1.0, -0.999, -0.5, -1e-9, 0.0, 0.3, 0.99999]), rtol=1e-11)


def test_arccosh():
    check(np.arccosh, 1 + P)


@pytest.mark.parametrize("name", BINARY)
def test_binary_ufuncs(name):
    f = getattr(np, name)
    check(f, np.append(V, [0.0, 3.0]), np.append(W, [0.5, 3.0]))
    check(f, M, RNG.normal(size=(3, 1)))
    check(f, M, RNG.normal(size=4))
    check(f, RNG.normal(size=(3, 1)), RNG.normal(size=(1, 4)))
    check(lambda x: f(x, 1.7), V)
    check(lambda x: f(0.7, x), V)
    check(lambda x: f(x, W), V)
    check(lambda x: f(list(W), x), V)


@pytest.mark.parametrize(
    "p", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0.5, 1.5, 2.5, -1, -2, -3, -0.5, -1.5, 1 / 3]
)
def test_constant_powers(p):
    check(lambda x: x**p, P)
    check(lambda x: np.power(x, p), P.reshape(5, 1))
    check(lambda x: x ** np.array([p]), P.reshape(5, 1))
    check(lambda x: x ** np.full(5, p), P)
    if p == int(p):
        check(lambda x: x**p, V)


def test_traced_powers():
    check(lambda x, p: x**p, P, W)
    check(lambda p: 2.0**p, W)
    check(lambda p: P**p, W)


@pytest.mark.parametrize("name", ["expit", "log_expit", "erf", "erfc", "ndtr", "entr"])
def test_scipy_special(name):
    check(getattr(scipy.special, name), V if name != "entr" else np.append(P, 0.0), rtol=1e-10)


def test_scipy_special_of_more_arguments():
    check(scipy.special.logit, np.array([0.1, 0.5, 0.9]))
    check(scipy.special.xlogy, np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 3.0]))
    check(scipy.special.xlog1py, np.array([0.0, 1.0, 2.0]), np.array([-1.0, 2.0, 3.0]))


def test_sigmoid_and_softplus_as_people_write_them():
    trace = check(lambda x: 1 / (1 + np.exp(-x)), V)
    assert [n.op for n in reachable(trace.outs)] == ["input", "sigmoid"]
    trace = check(lambda x: np.log(1 + np.exp(x)), V)
    assert [n.op for n in reachable(trace.outs)] == ["input", "softplus"]
    trace = check(lambda x: np.log1p(np.exp(x)), V)
    assert [n.op for n in reachable(trace.outs)] == ["input", "softplus"]
    trace = check(lambda x: np.logaddexp(0, x), V)
    assert [n.op for n in reachable(trace.outs)] == ["input", "softplus"]


def test_ufunc_methods_and_out():
    for f in (np.add, np.multiply, np.maximum, np.minimum):
        check(lambda x, f=f: f.reduce(x), M)
        check(lambda x, f=f: f.reduce(x, axis=None, keepdims=True), M)
    check(np.add.accumulate, M)
    check(np.multiply.accumulate, V)
    check(np.add.outer, V, W)
    check(np.logaddexp.reduce, V)

    def out(x):
        z = np.empty_like(x)
        np.multiply(x, 2.0, out=z)
        np.exp(z[1:], out=z[1:])
        np.add(z, 1.0, out=z, where=x > 0)
        return z

    check(out, V)


def test_operators():
    for op in (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.mod,
        operator.floordiv, operator.lt, operator.le, operator.gt, operator.ge, operator.eq,
        operator.ne,
    ):  # fmt: skip
        check(op, V, W)
        check(lambda x, op=op: op(x, 2), V)
        check(lambda x, op=op: op(2, x), V)
        check(lambda x, op=op: op(np.float64(2), x), V)
        check(lambda x, op=op: op(W, x), V)
        check(lambda x, op=op: op(x, W), V)
        check(lambda x, op=op: op(x[0], np.float32(2)), V)
    check(lambda x: (-x, +x, abs(x), round(x[0]), round(x[1], 2), divmod(x, 2.0)), V)
    check(lambda x: (x > 0) & (x < 1) | ~(x > -1) ^ (x == 0), V)
    check(lambda x: math.floor(x[0]) + math.ceil(x[1]) + math.trunc(x[2]), V)
    check(lambda x: sum(x) + sum(2 * v for v in x), V)


def test_masks_compute_like_arrays():
    check(lambda x: (x > 0) + (x < 1), V)
    check(lambda x: (x > 0) * (x < 1), V)
    check(lambda x: 2.0 * (x > 0) - (x < -1) * x, V)
    check(lambda x: (x > 0).sum() + np.sum(x > 0, axis=0) + np.count_nonzero(x), V)
    check(lambda x: (x > 0).mean(), V)
    check(lambda x: (np.any(x > 1), np.all(x > -9), (x > 0).any(), (x > 0).all()), V)
    check(lambda x: (np.any(x > 1, axis=0), np.all(x > -1, axis=1)), M)
    check(lambda x: (x > 0).astype(float), V)
    check(lambda x: x.astype(int) + x.astype(bool), V * 3)


# ---- shapes and indexing ------------------------------------------------------------------------

KEYS = [
    0, -1, slice(1, None), slice(None, None, -1), slice(4, 1, -2), slice(3, 3), Ellipsis,
    (Ellipsis, 0), (None, slice(None)), (slice(None), None), [0, 2, 2], np.array([[1], [3]]),
    np.array([True, False, True, True, False]), np.int64(2), [True, False, True, True, False],
]  # fmt: skip
KEYS2 = [
    0, (0, 1), (slice(None), 1), (slice(None), -1), (slice(1, None), slice(None, None, 2)),
    (Ellipsis, 0), (0, Ellipsis), (slice(None), None, slice(None)), ([0, 1], [2, 3]),
    (slice(None), [3, 0]), np.array([True, False, True]), np.arange(12).reshape(3, 4) % 3 == 0,
    np.ix_([0, 2], [1, 3]), (None, Ellipsis, None),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_a_vector(key):
    check(lambda x: x[key], V)

    def assign(x):
        z = x.copy()
        z[key] = 7.0
        z[key] += x[0]
        return z

    check(assign, V)


@pytest.mark.parametrize("key", KEYS2, ids=str)
def test_indexing_a_matrix(key):
    check(lambda x: x[key], M)

    def assign(x):
        z = x.copy()
        z[key] = 2 * z[key]
        z[key] *= 3
        return z

    check(assign, M)


MOVES = {
    "reshape": lambda x: (np.reshape(x, (4, 3)), x.reshape(2, -1), x.reshape((12,)), x.reshape(-1)),
    "reshape F": lambda x: x.reshape(4, 3, order="F"),
    "ravel": lambda x: (np.ravel(x), x.ravel(), x.flatten(), x.ravel("F")),
    "T": lambda x: (x.T, np.transpose(x), x.transpose(1, 0), x.transpose((1, 0)), x.swapaxes(0, 1)),
    "moveaxis": lambda x: (np.moveaxis(x, 0, 1), np.swapaxes(x, 0, 1), np.rollaxis(x, 1)),
    "expand": lambda x: (np.expand_dims(x, 0), np.expand_dims(x, (0, 2)), x[None].squeeze()),
    "squeeze": lambda x: np.squeeze(x[:, :1], axis=1),
    "broadcast": lambda x: (np.broadcast_to(x, (2, 3, 4)), np.broadcast_arrays(x, x[0])),
    "tile": lambda x: (np.tile(x, 2), np.tile(x, (2, 1)), np.repeat(x, 2, axis=0), x.repeat(2)),
    "take": lambda x: (np.take(x, [1, 0], axis=1), x.take([3, 4])),
    "flip": lambda x: (np.flip(x), np.flip(x, 0), np.fliplr(x), np.flipud(x), np.rot90(x)),
    "roll": lambda x: (np.roll(x, 1), np.roll(x, -1, axis=1), np.roll(x, (1, 2), axis=(0, 1))),
    "split": lambda x: (np.split(x, 2, axis=1), np.array_split(x, 2), np.hsplit(x, 2)),
    "diag": lambda x: (np.diag(x[0]), np.diag(x), np.diagonal(x, 1), x.diagonal(), np.trace(x)),
    "tril": lambda x: (np.tril(x), np.triu(x, 1)),
    "pad": lambda x: (np.pad(x, 1), np.pad(x, ((1, 0), (0, 2)), mode="edge")),
    "pad wrap": lambda x: (np.pad(x, 1, mode="wrap"), np.pad(x, 1, mode="reflect")),
    "pad value": lambda x: np.pad(x, 1, constant_values=2.5),
    "pad values": lambda x: np.pad(x, ((1, 1), (0, 0)), constant_values=((1, 2), (0, 0))),
    "atleast": lambda x: (np.atleast_1d(x[0, 0]), np.atleast_2d(x[0]), np.atleast_3d(x)),
    "stack": lambda x: (np.stack([x[0], x[1]]), np.stack([x[0], 2 * x[1]], axis=1)),
    "stack numbers": lambda x: np.stack([x[0, 0], 1.0, x[1, 2] * 2]),
    "concatenate": lambda x: (np.concatenate([x, 2 * x]), np.concatenate((x, x[:, :1]), axis=1)),
    "hstack": lambda x: (np.hstack([x[0], 1.0]), np.hstack([x, x]), np.vstack([x, x[0]])),
    "dstack": lambda x: (np.dstack([x, x]), np.column_stack([x[0], x[1]])),
    "append": lambda x: (np.append(x[0], 3.0), np.append(x, x, axis=0), np.append(1.0, x)),
    "insert": lambda x: (np.insert(x[0], 1, 9.0), np.delete(x, 1, axis=1)),
    "block": lambda x: np.block([[x, x[:, :1]], [x[:1] * 2, np.ones((1, 1))]]),
    "meshgrid": lambda x: np.meshgrid(x[0], x[:, 0]),
    "like": lambda x: (np.zeros_like(x), np.ones_like(x), np.empty_like(x[0]) * 0),
    "full": lambda x: (np.full_like(x, x[0, 0]), np.full(3, x[0, 0]) * 2.0),
    "shape": lambda x: x * np.shape(x)[0] + np.size(x) + np.ndim(x) + len(x) + x.size + x.ndim,
    "iterate": lambda x: [row * i for i, row in enumerate(x)],
    "flat": lambda x: np.stack(list(x.flat)),
    "tolist": lambda x: np.array(x.tolist()) * 1.0,
    "real": lambda x: x.real + np.real(x) + x.imag + x.conj(),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_moving_elements(name):
    check(MOVES[name], M)


# ---- reductions ---------------------------------------------------------------------------------

REDUCTIONS = {
    "sum": (np.sum, True), "prod": (np.prod, True), "mean": (np.mean, True), "max": (np.max, True),
    "min": (np.min, True), "var": (np.var, True), "std": (np.std, True), "ptp": (np.ptp, True),
    "any": (np.any, True), "all": (np.all, True), "nansum": (np.nansum, True),
    "nanmean": (np.nanmean, True), "nanmax": (np.nanmax, True), "nanmin": (np.nanmin, True),
    "norm": (np.linalg.norm, False), "average": (np.average, True),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name, axis, keepdims):
    f, any_axes = REDUCTIONS[name]
    x = C if any_axes or axis is not None else C.ravel()
    check(lambda x: f(x, axis=axis, keepdims=keepdims), x)


def test_reductions_as_methods():
    check(
        lambda x: (
            x.sum(), x.sum(0), x.sum(axis=1), x.mean(), x.mean(axis=0), x.max(), x.min(axis=1),
            x.prod(), x.std(), x.var(0), x.cumsum(), x.cumprod(), x.dot(np.ones(4)), x.trace(),
            x.clip(-1, 1), x.round(2),
        ),
        M,
    )  # fmt: skip


def test_reductions_with_options():
    check(lambda x: np.sum(x, initial=2.0), V)
    check(lambda x: np.sum(x, where=x > 0), V)
    check(lambda x: np.mean(x, where=x > -9), V)
    check(lambda x: np.max(x, initial=0.3, where=x < 0.5), V)
    check(lambda x: np.var(x, ddof=1), V)
    check(lambda x, w: np.average(x, weights=w), V, P)
    check(lambda x, w: np.average(x, axis=1, weights=w), M, np.abs(M[0]))
    check(lambda x: np.sum([x[0], x[1], 2.0]), V)


def test_missing_values():
    check(lambda x: (np.nansum(x), np.nanmean(x), np.nanmax(x), np.nanmin(x)), NAN)
    check(lambda x: np.nan_to_num(x, nan=2.0), NAN)
    check(lambda x: np.where(np.isnan(x), 0, x), NAN)
    check(lambda x: np.nansum((x - 1) ** 2) / np.sum(~np.isnan(x)), NAN)


@pytest.mark.parametrize("ord", [None, 1, 2, 3, np.inf, -np.inf, 0])
def test_norms(ord):
    check(lambda x: np.linalg.norm(x, ord), V)
    check(lambda x: np.linalg.norm(x, ord, axis=1), M)


def test_along_an_axis():
    check(lambda x: (np.cumsum(x), np.cumsum(x, axis=1), np.cumprod(x, axis=0)), M)
    check(lambda x: (np.diff(x), np.diff(x, axis=0), np.diff(x, n=2)), M)
    check(lambda x: np.diff(x, prepend=x[:1], append=0.0), V)
    check(lambda x: (np.gradient(x), np.gradient(x, 0.5)), V)
    check(lambda x: (np.gradient(x), np.gradient(x, 0.1, axis=1)), M)
    trapezoid = vars(np).get("trapezoid") or vars(np)["trapz"]
    check(lambda x: (trapezoid(x), trapezoid(x, dx=0.1, axis=0), trapezoid(x, np.arange(4.0))), M)
    check(lambda x: (np.convolve(x, [1, -2, 1]), np.convolve(x, [1, 2], "same")), V)
    check(lambda x, k: np.convolve(x, k, "valid"), V, W[:3])


# ---- products -----------------------------------------------------------------------------------

SHAPES = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((1, 3), (3, 1)),
    ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)),
    ((2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("rates", [(STEP, STEP), (STEP, PARAMS), (PARAMS, STEP), (PARAMS, PARAMS)])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes, rates):
    a, b = (RNG.normal(size=s) for s in shapes)
    inputs = [(f"v{i}", spec_of(x), r) for i, (x, r) in enumerate(zip((a, b), rates, strict=True))]
    trace = trace_function(lambda x, y: (x @ y, np.matmul(x, y), np.dot(x, y)), inputs)
    env = {trace.inputs[0][0]: a, trace.inputs[1][0]: b}
    for shape, got, ref in zip(
        trace.shapes, evaluate(trace.outs, env), (a @ b, a @ b, np.dot(a, b)), strict=True
    ):
        assert shape == ref.shape
        np.testing.assert_allclose(got, ref.ravel(), rtol=1e-12, atol=1e-13)


def test_products():
    check(lambda a, b: (np.dot(a, b), np.vdot(a, b), np.inner(a, b), np.outer(a, b)), V, W)
    check(lambda a, b: (np.dot(a, 2.0), np.dot(a, b), a.dot(b), np.inner(a, a)), M, N)
    check(lambda a: (W @ a, a @ W, W.dot(a), np.dot(W, a)), V)
    check(lambda a: np.eye(5) @ a + np.ones((5, 5)) @ a, V)
    check(lambda a, b: np.tensordot(a, b, axes=1), M, N)
    check(lambda a, b: np.tensordot(a, b, axes=([1, 0], [0, 1])), M, N)
    check(lambda a, b: (np.kron(a, b), np.kron(a[0], b[0])), M, N)
    check(np.cross, V[:3], W[:3])
    check(lambda a: (np.trace(a[:, :3]), np.linalg.det(a[:, :3]), np.linalg.inv(a[:, 1:])), M)
    check(lambda a, b: np.linalg.solve(a[:, :3], b), M, V[:3], rtol=1e-10)
    check(lambda b: np.linalg.solve(np.eye(5) * 2 + 0.1, b), V)


@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("i,i->", [(5,), (5,)]), ("i,j->ij", [(5,), (3,)]), ("ij,j->i", [(3, 4), (4,)]),
        ("ij,jk", [(3, 4), (4, 2)]), ("ij,kj->ik", [(3, 4), (2, 4)]), ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]), ("ij->ji", [(3, 4)]), ("ij->", [(3, 4)]), ("ij->j", [(3, 4)]),
        ("bij,bjk->bik", [(5, 3, 4), (5, 4, 2)]), ("bi,bi->b", [(5, 3), (5, 3)]),
        ("i,ij,j->", [(3,), (3, 4), (4,)]), ("ijk,j,k->i", [(2, 3, 4), (3,), (4,)]),
        ("...i,ij->...j", [(2, 5, 3), (3, 4)]), ("ij,ij->ij", [(3, 4), (3, 4)]),
        ("i,i,i->i", [(3,), (3,), (3,)]), ("ab,cd->abcd", [(2, 3), (2, 2)]),
        ("...ij,...jk->...ik", [(5, 3, 4), (4, 2)]), ("ij , j", [(3, 4), (4,)]),
        ("ij,k->i", [(3, 4), (2,)]),
    ],
)  # fmt: skip
def test_einsum(subscripts, shapes):
    arrays = [RNG.normal(size=s) for s in shapes]
    check(lambda *xs: np.einsum(subscripts, *xs), *arrays)
    if len(arrays) > 1:
        check(lambda x: np.einsum(subscripts, x, *arrays[1:]), arrays[0])


def test_a_bias_joins_its_product():
    p = {"W": M, "b": RNG.normal(size=4), "c": RNG.normal(size=2)}
    for fun, y in (
        (lambda t, y, p: np.resize(y @ p["W"] + p["b"], 3), V[:3]),
        (lambda t, y, p: (y @ p["W"] + p["b"])[:, :3], C[:, :, 0]),
        (lambda t, y, p: (p["W"].T @ y + p["b"][:, None])[:3], RNG.normal(size=(3, 2))),
        (lambda t, y, p: (p["b"] + p["W"].T @ y)[:3], V[:3]),
    ):
        trace = check_field(fun, y, p)
        ops = [n.op for n in reachable(trace.outs)]
        assert ops.count("contract") == 1 and "add" not in ops


# ---- choices ------------------------------------------------------------------------------------


def test_choices():
    check(lambda x: np.where(x > 0, x, 0.1 * x), V)
    check(lambda x: np.where(x[0] > 0, x, -x), V)
    check(lambda x: np.where(x, 1.0, W), V)
    check(lambda x: np.select([x > 1, x > 0], [x, 2 * x], default=-1.0), V)
    check(lambda x: np.piecewise(x, [x < 0, x >= 0], [lambda z: -z, lambda z: z**2]), V)
    check(lambda x: np.piecewise(x, [x < 0], [-1.0, 1.0]), V)
    check(lambda x: (np.clip(x, -0.5, 0.5), np.clip(x, None, 0.1), x.clip(0, None)), V)
    check(lambda x: np.clip(x, W - 1, W + 1), V)
    check(lambda x: (np.round(x), np.round(x, 2), np.around(x, 1)), 10 * V)
    check(lambda x: (np.sinc(x), np.sinc(x - x[0])), V)
    check(lambda x: np.polyval([1.0, -2.0, 3.0], x), V)
    check(lambda p: np.polyval(p, 1.5), V)
    check(lambda x: np.isclose(x, W), V)
    check(lambda x: np.heaviside(x, 0.5), np.append(V, 0.0))


XP = np.array([0.0, 0.5, 0.6, 2.0, 3.5])


@pytest.mark.parametrize("options", [{}, {"left": -7.0}, {"right": 9.0}, {"left": 1, "right": 2}])
def test_interp(options):
    x = np.concatenate([XP, [-1.0, 0.1, 0.55, 1.0, 3.4999, 4.0]])
    check(lambda x: np.interp(x, XP, W, **options), x)
    check(lambda x, fp: np.interp(x, XP, fp, **options), x, W)
    check(lambda x, xp, fp: np.interp(x, xp, fp, **options), x, XP, W)
    check(lambda x: np.interp(x[3], XP, list(W), **options), x)


def test_periodic_interp():
    x = np.linspace(-5, 9, 29)
    check(lambda x: np.interp(x, [3.0, 0.5, 1.0], [1.0, 2.0, 4.0], period=3.5), x)


# ---- fields as people write them ----------------------------------------------------------------


def lotka_volterra(t, y, p):
    prey, predator = y
    return [p["a"] * prey - p["b"] * prey * predator, -p["c"] * predator + p["d"] * prey * predator]


LV = {"a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1}


def test_lists_tuples_and_object_arrays():
    y = np.array([1.3, 0.7])
    check_field(lotka_volterra, y, LV)
    check_field(lambda t, y, p: tuple(lotka_volterra(t, y, p)), y, LV)
    check_field(lambda t, y, p: np.array(lotka_volterra(t, y, p)), y, LV)
    check_field(lambda t, y, p: np.stack(lotka_volterra(t, y, p)), y, LV)
    check_field(lambda t, y: np.array([y[1], -np.sin(y[0])]) * 2.0, y)
    check_field(lambda t, y: np.sin(np.array([y[1], y[0] * t])), y)
    check_field(lambda t, y: np.array([y[1], 1.0]) @ np.eye(2), y)
    check_field(lambda t, y: np.eye(2) @ np.array([y[1], 1.0]), y)
    check_field(lambda t, y: y + np.array([y[1], t]), y)
    check_field(lambda t, y: np.array([y[1], t]) - y, y)
    check_field(lambda t, y: [[y[0]], [2.0]] @ np.array([y[0] + 1]), y)
    check_field(lambda t, y: np.concatenate([np.array([y[1]]), y[:1]]), y)
    check_field(lambda t, y: np.array([y, y]).sum(axis=0), y)
    check_field(lambda t, y: np.asarray(y) * 2, y)
    check_field(lambda t, y: np.dot(np.array([[0.0, 1.0], [-1.0, -0.1]]), y), y)
    check_field(lambda t, y: np.hypot(np.array([y[0], y[1]]), np.array([t, y[0]])), y)
    check_field(lambda t, y: (y[1], 0.0), y)
    check_field(lambda t, y: [-y[0], y[1] * t], M[:2])
    check_field(lambda t, y: [[y[0, 1], 0], [t, y[1, 1]]], M[:2, :2])


def test_states_of_no_and_one_dimension():
    check_field(lambda t, y: -y, 0.7)
    check_field(lambda t, y: 1.0, 0.7)
    check_field(lambda t, y: np.array(-y), 0.7)
    check_field(lambda t, y: [-y[0]], np.array([0.7]))
    check_field(lambda t, y: -2 * y[0] + t, np.array([0.7]))
    check_field(lambda t, y: np.zeros(3), V[:3])


def test_trees():
    y = {"q": V[:3], "p": (W[:3], 0.5)}

    def fun(t, y, p, args):
        v, s = y["p"]
        return {"p": (-p["k"] * y["q"] + args["u"], v @ v), "q": v * s + p["W"][0]}

    trace = check_field(fun, y, {"k": 2.0, "W": [P[:3], P]}, {"u": np.array(0.3), "n": 2})
    assert [n.n for n in trace.params] == [3, 5, 1]
    check_field(lambda t, y: [y[1], -y[0]], (V, W))
    check_field(lambda t, y: (y[1], -y[0]), (0.3, 0.7))


def test_integers_and_masks_in_args():
    args = {"n": 2, "on": True, "idx": np.array([1, 0])}
    check_field(lambda t, y, p, a: y * a["n"] * a["on"] + a["idx"] // 2, V[:2], None, args)
    check_field(lambda t, y, p, a: np.where(a["on"], y, -y) ** a["n"], V[:2], None, args)
    check_field(lambda t, y, p, a: np.where(~a["on"], y, -y), V[:2], None, args)


def test_indices_that_differ_by_sample():
    table = {"k": np.array([1.0, 2.0, 4.0]), "W": M}
    for i in (0, 2, -1):
        check_field(lambda t, y, p, a: p["k"][a] * y, V, table, i)
        check_field(lambda t, y, p, a: p["W"][a] * y, W[:4], table, i)
    check_field(lambda t, y, p, a: p["W"][a] @ y, W[:4], table, np.array([2, 0, 1, 1]))
    trace = trace_like(lambda t, y, p, a: p["k"][a] * y, V, table, 3)
    assert np.isnan(run(trace, 0.0, V, table, 3)).all()


def test_helpers_loops_and_closures():
    k = np.array([0.3, 0.2, 0.1, 0.4])

    def rate(y, i):
        return k[i] * y[i]

    def chain(t, y):
        dy = np.zeros_like(y)
        for i in range(len(y)):
            if i > 0:
                dy[i] += rate(y, i - 1)
            dy[i] -= rate(y, i)
        return dy

    check_field(chain, V[:4])

    class Field:
        gain = 3.0

        def __call__(self, t, y, params):
            return self.gain * y * params

    check_field(Field(), V, 0.5)


def test_numbers_of_arguments():
    y = V[:2]
    check_field(lambda t, y: y, y)
    check_field(lambda t, y, params: y, y)
    check_field(lambda t, y, params, args: y, y)
    check_field(lambda t, y, k=0.5: y * k, y)
    check_field(lambda t, y, *rest: y * rest[0], y, 2.0)
    check_field(lambda *a: a[1] * 2, y)
    check_field(lambda t, y, params, args=None: y * params, y, 2.0)
    assert field_arguments(np.add, False, False) == 2


# ---- views --------------------------------------------------------------------------------------


def in_place(body):
    """A field that fills a copy by ``body`` and returns all it touched."""

    def fun(x):
        z = x.copy()
        rest = body(z)
        return (z, *rest) if isinstance(rest, tuple) else z

    return fun


def slices(z):
    v = z[1:]
    v[0] = 1.0
    v += 2.0
    w = v[::-1]
    w[:2] = z[:2]
    return v, w


def transposes(z):
    z.T[0] = 5.0
    z.reshape(-1)[::2] *= 2
    z[None, ..., 0] = -1.0
    z.swapaxes(0, 1)[1, 1] = 0.25


def aliases(z):
    a = z
    a *= 2
    b = z[0]
    b = b + 1
    z[0] = 3
    c = z[...]
    c[-1] = b
    return a, b, c


def scalars_are_copies(z):
    a = z[0]
    z[0] = 99.0
    a += 1
    return (a,)


def fancy_indexing_copies(z):
    a = z[[0, 1]]
    a[0] = 99.0
    z[[0, 1]] += 1
    z[[2, 2]] = 4.0
    return (a,)


def flips(z):
    np.flip(z)[0] = 8.0
    np.ravel(z)[1] = 7.0
    a, b = np.split(z[:4], 2)
    a[:] = b
    np.copyto(z[:2], 1.5)
    z[:] = z[::-1]
    return a, b


def views_of_views(z):
    v = z[::2]
    v.ravel()[0] = 7.0  # a copy, as v is not contiguous
    v.reshape(3, 1)[1] = 8.0
    z[1:3].ravel()[0] = 9.0
    w = v[1:]
    w[0] += 1.0
    return v, w


BODIES = [slices, aliases, scalars_are_copies, fancy_indexing_copies, flips, views_of_views]


@pytest.mark.parametrize("body", BODIES)
def test_views_of_vectors(body):
    check(in_place(body), V)


def test_views_of_matrices():
    check(in_place(transposes), M)

    def rows(x):
        z = np.zeros_like(x)
        for i, row in enumerate(z):
            row[:] = x[i] * i
        for row in z:
            row[0] = 1.0
        return z

    check(rows, M)

    def strided(x):
        z = np.empty_like(x)
        z[::2] = x[1]
        z[1::2] = x[0][::-1]
        return z, z[1:], z[0, 0]

    check(strided, M)
    check(lambda x: np.fill_diagonal(z := x.copy(), 0.0) or z, M)


def test_masked_assignment_of_a_number():
    def fun(x):
        z = x.copy()
        z[x > 0] = 0.5
        z[z == 0.5] = x[0]
        return z

    check(fun, V)


def test_results_may_be_changed():
    def fun(x):
        h = np.tanh(x)
        h *= 2
        h[0] = 1
        h -= x
        h /= 3
        h **= 2
        m = x > 0
        m |= x < -1
        return h * m

    check(fun, V)


def test_copies_are_not_views():
    def fun(x):
        z = x.copy()
        parts = [z.copy(), z.flatten(), np.copy(z), z + 0, np.array(z), z.astype(float), +z]
        z[:] = 0
        return parts

    check(fun, V)


# ---- identity -----------------------------------------------------------------------------------


def test_equal_fields_have_equal_keys():
    y, k = spec_of(V), 2.0

    def key(fun):
        return graph_key(trace_field(fun, y).outs)

    def a(t, y):
        return k * np.tanh(y) + W

    def b(t, y):
        np.exp(y)  # not used
        return np.add(np.tanh(y) * k, W)

    assert key(a) == key(b) and hash(key(a)) == hash(key(b))
    assert key(a) != key(lambda t, y: 2.5 * np.tanh(y) + W)
    assert key(a) != key(lambda t, y: k * np.tanh(y) + V)
    assert key(a) != key(lambda t, y: k * np.tanh(y) - W)
    assert key(lambda t, y: y[::-1]) != key(lambda t, y: np.roll(y, 1))
    before = key(a)
    k = 3.0
    assert key(a) != before


def test_functions_of_data():
    def loss(y, data, weight):
        return np.nanmean(weight * (y["a"] - data) ** 2)

    y, data = {"a": C}, np.where(C > 0, C, np.nan)
    check(loss, y, data, 2.0)
    trace = trace_scalar(loss, [(n, spec_of(v), STEP) for n, v in
                                (("y", y), ("data", data), ("weight", 2.0))])  # fmt: skip
    assert trace.out.n == 1

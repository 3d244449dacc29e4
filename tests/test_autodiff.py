"""jvp and vjp: every rule and every transform against finite differences and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import fields

from nodecore import tree
from nodecore.ir import autodiff
from nodecore.ir.graph import PARAMS, SAMPLE, STEP, Graph, reachable
from nodecore.ir.numpy_eval import evaluate
from nodecore.ir.ops import ARITY, OPS
from nodecore.ir.trace import NOTHING, spec_of, trace_field
from nodecore.ir.transforms import divergence, grad, jvp, vjp
from nodecore.status import InputError, TraceError

RNG = np.random.default_rng(2)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers():
    """For each test, whichever ran before: points near a kink have no good difference quotient."""
    RNG.bit_generator.state = START


def central(f, x, v, h=2e-3):
    """The derivative along v, of fourth order in h."""
    return (8 * (f(x + h * v) - f(x - h * v)) - (f(x + 2 * h * v) - f(x - 2 * h * v))) / (12 * h)


# ---- each op ------------------------------------------------------------------------------------

POSITIVE = {"sqrt", "log", "recip", "log1p"}
RULES = [name for name in OPS if OPS[name].pull is not None]


def operands(name):
    n = 6
    xs = [RNG.normal(size=n) for _ in range(ARITY[name])]
    if name in POSITIVE or name == "pow":
        xs[0] = np.abs(xs[0]) + 0.3
    if name == "tan":
        xs[0] = np.arctan(xs[0])
    if name == "div":
        xs[1] = np.abs(xs[1]) + 0.5
    if name == "select":
        xs[0] = (xs[0] > 0) * 1.0
    return xs


def graph_of(name, xs):
    g = Graph()
    ins = [g.input("y", i, x.size, STEP) for i, x in enumerate(xs)]
    return g, ins, g.ew(name, *ins)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("wide", [None, 0, 1])
def test_rules_are_the_derivatives(name, wide):
    """By finite differences; the operand number ``wide`` is one row that serves for all."""
    xs = operands(name)
    if wide is not None:
        if len(xs) <= wide:
            pytest.skip("fewer operands")
        xs[wide] = xs[wide][:1]
    g, ins, out = graph_of(name, xs)
    vs = [RNG.normal(size=x.size) for x in xs]
    if name == "select":
        vs[0] *= 0
    tangents = [g.input("v", i, x.size, STEP) for i, x in enumerate(xs)]
    (moved,) = autodiff.jvp(g, [out], ins, tangents)
    ct = g.input("ct", 0, out.n, STEP)
    bars = autodiff.vjp(g, [out], [ct], ins)
    u = RNG.normal(size=out.n)
    env = {**dict(zip(ins, xs, strict=True)), **dict(zip(tangents, vs, strict=True)), ct: u}

    def f(s):
        return evaluate(
            [out], dict(zip(ins, (x + s * v for x, v in zip(xs, vs, strict=True)), strict=True))
        )[0]

    (Jv,) = evaluate([moved], env)
    np.testing.assert_allclose(Jv, central(f, 0.0, 1.0), rtol=1e-8, atol=1e-9)
    pulled = [np.zeros(x.size) if b is None else evaluate([b], env)[0]
              for b, x in zip(bars, xs, strict=True)]  # fmt: skip
    assert all(b.size == x.size for b, x in zip(pulled, xs, strict=True))
    np.testing.assert_allclose(
        u @ Jv, sum(b @ v for b, v in zip(pulled, vs, strict=True)), rtol=1e-12
    )


@pytest.mark.parametrize("name", [n for n in OPS if OPS[n].pull is None])
def test_steps_have_no_derivative(name):
    g, ins, out = graph_of(name, operands(name))
    assert autodiff.vjp(g, [out], [g.const(1.0)], ins) == [None] * len(ins)
    assert autodiff.jvp(g, [out], ins, ins) == [None]


@pytest.mark.parametrize("name", ["sqrt", "log", "log1p", "recip", "exp", "expm1", "tan", "sinh",
                                  "cosh", "square", "abs", "sin", "cos", "tanh", "sigmoid",
                                  "arctan", "softplus", "erf"])  # fmt: skip
@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, -np.inf, np.nan, 1e300])
def test_a_cotangent_of_zero_stays_zero(name, bad):
    """Whatever the argument: what np.where did not choose must not reach the gradient."""
    g = Graph()
    x = g.input("data", 0, 1, STEP)
    out = g.ew(name, x)
    ct = g.input("ct", 0, 1, STEP)
    (bar,) = autodiff.vjp(g, [out], [ct], [x])
    assert evaluate([bar], {x: bad, ct: 0.0})[0][0] == 0


@pytest.mark.parametrize("name", ["mul", "div", "pow", "arctan2", "maximum", "minimum", "zmul"])
@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan, 1e300])
def test_a_cotangent_of_zero_stays_zero_for_two_operands(name, bad):
    for pair in ((bad, 0.5), (0.5, bad), (bad, bad)):
        g = Graph()
        ins = [g.input("data", i, 1, STEP) for i in range(2)]
        ct = g.input("ct", 0, 1, STEP)
        bars = autodiff.vjp(g, [g.ew(name, *ins)], [ct], ins)
        values = evaluate(bars, {**dict(zip(ins, pair, strict=True)), ct: 0.0})
        assert [v[0] for v in values] == [0, 0]


# ---- the ops on rows ----------------------------------------------------------------------------


def linear_programs(g, x, w, b):
    return {
        "gather": g.gather(x, [3, 0, 0, -1, 5]),
        "segsum": g.segsum(x, [0, 2, 2, -1, 0, 0], 3),
        "concat": g.concat([g.ew("sin", x), w, g.ew("mul", x, x)]),
        "contract": g.contract(x, w, (2, 3, 4, 1)),
        "contract with bias": g.contract(x, w, (2, 3, 4, 1), b),
        "contract inside": g.contract(x, w, (1, 3, 4, 2), b),
        "contract square": g.contract(x, g.concat([x, x]), (2, 3, 4, 1)),
        "outer": g.outer(x, w, (1, 2, 4, 3)),
        "outer square": g.outer(x, x, (2, 1, 1, 3)),
    }


@pytest.mark.parametrize("name", list(linear_programs(g := Graph(), *(
    g.input("y", i, n, STEP) for i, n in enumerate((6, 12, 4))))))  # fmt: skip
def test_row_ops(name):
    g = Graph()
    ins = [g.input("y", i, n, STEP) for i, n in enumerate((6, 12, 4))]
    check_graph(g, ins, linear_programs(g, *ins)[name])


def check_graph(g, ins, out, second=True, rtol=1e-7):
    """First derivatives, and through them second ones, along random directions."""
    xs = [RNG.normal(size=i.n) for i in ins]
    vs = [RNG.normal(size=i.n) for i in ins]
    us = [RNG.normal(size=i.n) for i in ins]
    y = RNG.normal(size=out.n)
    v = [g.input("v", i, x.n, STEP) for i, x in enumerate(ins)]
    u = [g.input("v", 100 + i, x.n, STEP) for i, x in enumerate(ins)]
    ct = g.input("ct", 0, out.n, STEP)
    env = {**dict(zip(ins, xs, strict=True)), **dict(zip(v, vs, strict=True)),
           **dict(zip(u, us, strict=True)), ct: y}  # fmt: skip

    def total(nodes, against):
        filled = [g.zeros(i.n) if n is None else n for n, i in zip(nodes, ins, strict=True)]
        return sum(a @ b for a, b in zip(evaluate(filled, env), against, strict=True))

    def f(s):
        moved = {i: x + s * d for i, x, d in zip(ins, xs, vs, strict=True)}
        return evaluate([out], {**env, **moved})[0]

    (moved,) = autodiff.jvp(g, [out], ins, v)
    Jv = np.zeros(out.n) if moved is None else evaluate([moved], env)[0]
    scale = 1 + np.abs(Jv).max()
    np.testing.assert_allclose(Jv, central(f, 0.0, 1.0), rtol=rtol, atol=rtol * scale)
    bars = autodiff.vjp(g, [out], [ct], ins)
    np.testing.assert_allclose(total(bars, vs), y @ Jv, rtol=1e-10, atol=1e-11 * scale)
    if not second:
        return
    filled = [g.zeros(i.n) if n is None else n for n, i in zip(bars, ins, strict=True)]
    # H = d(J^T ct)/dx: jvp of vjp along v, and vjp of vjp; H is symmetric
    Hv = autodiff.jvp(g, filled, ins, v)
    Hu = autodiff.jvp(g, filled, ins, u)
    HTu = autodiff.vjp(g, filled, u, ins)
    reference = total(Hv, us)
    scale = 1 + abs(reference)
    assert abs(reference - total(Hu, vs)) <= 1e-9 * scale
    assert abs(reference - total(HTu, vs)) <= 1e-9 * scale

    def pulled(s):
        at = {i: x + s * d for i, x, d in zip(ins, xs, vs, strict=True)}
        return sum(a @ b for a, b in zip(evaluate(filled, {**env, **at}), us, strict=True))

    assert abs(reference - central(pulled, 0.0, 1.0)) <= 1e-6 * scale


# ---- random programs ----------------------------------------------------------------------------


def traced(field):
    specs = [spec_of(v) for v in (field.y, field.params, field.args)]
    return trace_field(field.fun, *specs)


def point(trace, field):
    params = [np.asarray(a, float) for a in tree.flatten(field.params)[0]]
    args = [np.asarray(a, float) for a in tree.flatten(field.args)[0]]
    env = {trace.t: field.t, trace.y: field.y}
    env.update(zip(trace.params, params, strict=True))
    env.update(zip(trace.args, args, strict=True))
    return env


@given(fields())
@settings(max_examples=60, deadline=None)
def test_random_fields_are_what_numpy_computes(field):
    trace = traced(field)
    with np.errstate(all="ignore"):
        expected = field.value()
    (got,) = evaluate(trace.outs, point(trace, field))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@given(fields(smooth=True, max_lines=8))
@settings(max_examples=40, deadline=None)
def test_derivatives_of_random_fields(field):
    trace = traced(field)
    g = trace.graph
    ins = [trace.t, trace.y, *trace.params, *trace.args]
    env = point(trace, field)
    rng = np.random.default_rng(7)  # of its own: nobody knows how many examples there are
    vs = [rng.normal(size=i.n) for i in ins]
    v = [g.input("v", i, x.n, STEP) for i, x in enumerate(ins)]
    ct = g.input("ct", 0, trace.out.n, STEP)
    u = rng.normal(size=trace.out.n)
    full = {**env, **dict(zip(v, vs, strict=True)), ct: u}

    def f(s):
        moved = {i: np.ravel(env[i]) + s * d for i, d in zip(ins, vs, strict=True)}
        return evaluate(trace.outs, moved)[0]

    (moved,) = autodiff.jvp(g, trace.outs, ins, v)
    Jv = np.zeros(trace.out.n) if moved is None else evaluate([moved], full)[0]
    scale = 1 + np.abs(Jv).max()
    np.testing.assert_allclose(Jv, central(f, 0.0, 1.0, 1e-3), rtol=1e-5, atol=1e-6 * scale)
    bars = autodiff.vjp(g, trace.outs, [ct], ins)
    total = sum(evaluate([b], full)[0] @ d for b, d in zip(bars, vs, strict=True) if b is not None)
    assert abs(total - u @ Jv) <= 1e-10 * (1 + abs(total) + np.abs(u) @ np.abs(Jv))


@given(fields(max_lines=8))
@settings(max_examples=40, deadline=None)
def test_sinks_hold_the_gradient_of_params(field):
    """What flows into slow nodes, summed as sinks say and pulled back once, is the cotangent."""
    trace = traced(field)
    g = trace.graph
    env = point(trace, field)
    ct = g.input("ct", 0, trace.out.n, STEP)
    env[ct] = np.random.default_rng(7).normal(size=trace.out.n)
    direct = autodiff.vjp(g, trace.outs, [ct], [trace.y, *trace.args, *trace.params])
    sinks = []
    fast = autodiff.vjp(g, trace.outs, [ct], [trace.y], sinks, SAMPLE)
    bars = {}
    for s in sinks:
        assert 0 < s.target.rate <= SAMPLE
        O, K, J, I = s.dims  # noqa: E741
        gv = evaluate([s.g], env)[0].reshape(O, J, I)
        xv = np.ones((O, 1, I)) if s.x is None else evaluate([s.x], env)[0].reshape(O, K, I)
        bars[s.target] = bars.get(s.target, 0) + np.einsum("oki,oji->kj", xv, gv).ravel()
    targets = list(bars)
    cts = [g.input("ct", 1 + i, x.n, STEP) for i, x in enumerate(targets)]
    env.update(zip(cts, bars.values(), strict=True))
    slow = autodiff.vjp(g, targets, cts, [*trace.args, *trace.params])
    for a, b in zip(direct, [*fast, *slow], strict=True):
        if a is None or b is None:
            assert all(x is None or not evaluate([x], env)[0].any() for x in (a, b))
        else:
            np.testing.assert_allclose(*evaluate([a, b], env), rtol=1e-9, atol=1e-10)


# ---- guards -------------------------------------------------------------------------------------

GUARDS = {
    "log": (lambda x: np.where(x > 0, np.log(x), 0.0), lambda x: np.where(x > 0, 1 / x, 0)),
    "x log x": (
        lambda x: np.where(x > 0, x * np.log(x), 0.0),
        lambda x: np.where(x > 0, 1 + np.log(np.where(x > 0, x, 1)), 0),
    ),
    "sqrt": (
        lambda x: np.where(x > 0, np.sqrt(x) * np.exp(x), 0.0),
        lambda x: np.where(x > 0, (0.5 / np.sqrt(np.abs(x)) + np.sqrt(np.abs(x))) * np.exp(x), 0),
    ),
    "div": (lambda x: np.where(x != 0, 1 / x, 0.0), lambda x: np.where(x != 0, -1 / x**2, 0)),
    "square of div": (
        lambda x: np.where(x != 0, (1 / x) ** 2, 0.0),
        lambda x: np.where(x != 0, -2 / x**3, 0),
    ),
    "pow": (
        lambda x: np.where(x > 0, x**0.3, 0.0),
        lambda x: np.where(x > 0, 0.3 * np.abs(x) ** -0.7, 0),
    ),
    "tanh": (
        lambda x: np.where(x > 0, np.tanh(np.log(x)), 0.0),
        lambda x: np.where(x > 0, 4 * x / (x**2 + 1) ** 2, 0),
    ),
}


@pytest.mark.parametrize("name", GUARDS)
def test_where_guards_gradients(name):
    f, df = GUARDS[name]
    x = np.array([-1.0, 0.0, 0.25, 2.0])
    with np.errstate(all="ignore"):
        expected = df(x)
    np.testing.assert_allclose(grad(lambda x: np.sum(f(x)))(x), expected, rtol=1e-12)
    np.testing.assert_allclose(jvp(f, x, np.ones(4))[1], expected, rtol=1e-12)


def test_norm_at_zero():
    zero = np.zeros(3)
    assert not grad(np.linalg.norm)(zero).any()
    assert not grad(lambda x: np.hypot(x[0], x[1]) + np.std(x))(zero).any()
    assert not grad(lambda x: grad(np.linalg.norm)(x).sum())(zero).any()
    np.testing.assert_allclose(grad(np.linalg.norm)(np.array([3.0, 4.0])), [0.6, 0.8])


def test_a_slope_of_zero_stays_zero():
    """Below a function whose derivative is infinite."""
    x = np.array([-1.0, 4.0])
    np.testing.assert_allclose(grad(lambda x: np.sum(np.sqrt(np.maximum(x, 0))))(x), [0, 0.25])
    np.testing.assert_allclose(grad(lambda x: np.sqrt(x[0] ** 2 + x[1] ** 2))(0 * x), [0, 0])
    np.testing.assert_allclose(grad(lambda x: np.sqrt(np.abs(x)))(0.0), 0)
    np.testing.assert_allclose(grad(lambda x: np.sqrt(x * 0.0) + x)(1.0), 1)


def test_missing_data_do_not_reach_the_gradient():
    data = np.array([1.0, np.nan, 3.0])
    x = np.array([0.5, 0.5, np.nan])
    got = grad(lambda x: np.nansum((x - data) ** 2))(x)
    np.testing.assert_allclose(got, [-1.0, 0.0, 0.0])
    got = grad(lambda x: np.nanmean(np.abs(x - data)))(x)
    np.testing.assert_allclose(got, [-1.0, 0.0, 0.0])
    got = grad(lambda x: np.mean(np.where(np.isnan(data), 0.0, x * data)))(x)
    np.testing.assert_allclose(got[:2], [1 / 3, 0.0])


def test_smooth_where_formulas_branch():
    """Functions written with selects have the right derivatives at the seams."""
    np.testing.assert_allclose(grad(np.arcsinh)(0.0), 1.0)
    np.testing.assert_allclose(grad(np.sinc)(0.0), 0.0, atol=1e-15)
    np.testing.assert_allclose(grad(grad(np.sinc))(0.0), -(np.pi**2) / 3)
    np.testing.assert_allclose(grad(lambda x: np.logaddexp(x[0], x[1]))(np.ones(2)), [0.5, 0.5])
    second = grad(lambda x: grad(lambda z: np.logaddexp(z[0], z[1]))(x)[0])(np.ones(2))
    np.testing.assert_allclose(second, [0.25, -0.25])
    np.testing.assert_allclose(grad(lambda x: np.maximum(x, 0.0))(0.0), 0.5)


# ---- the functions of the API -------------------------------------------------------------------


def rotor(x):
    return {"u": np.array([np.sin(x["a"]) * x["b"][0], x["b"] @ x["b"]]), "v": x["b"] * x["a"]}


def test_transforms_of_trees():
    x = {"a": 0.3, "b": np.array([1.0, 2.0, 3.0])}
    v = {"a": -1.0, "b": np.array([0.5, 0.0, 1.0])}
    value, moved = jvp(rotor, x, v)
    np.testing.assert_allclose(value["u"], rotor(x)["u"])
    for key in ("u", "v"):
        expected = central(lambda s, key=key: rotor({k: x[k] + s * v[k] for k in x})[key], 0.0, 1.0)
        np.testing.assert_allclose(moved[key], expected, rtol=1e-9)
    ct = {"u": np.array([1.0, -2.0]), "v": np.array([0.1, 0.2, 0.3])}
    value, pullback = vjp(rotor, x)
    bar = pullback(ct)
    left = sum(np.sum(ct[k] * moved[k]) for k in ct)
    np.testing.assert_allclose(left, sum(np.sum(bar[k] * v[k]) for k in v))
    assert set(bar) == {"a", "b"} and bar["b"].shape == (3,)
    np.testing.assert_array_equal(pullback(ct)["b"], bar["b"])


def test_transforms_nest():
    assert grad(lambda a: grad(lambda b: b**3 * a)(a))(2.0) == 36.0
    assert jvp(grad(lambda x: x**4), 2.0, 1.0)[1] == 48.0
    hessian = vjp(grad(lambda x: x[0] ** 2 * x[1]), np.array([2.0, 3.0]))[1]
    np.testing.assert_allclose(hessian(np.array([1.0, 0.0])), [6.0, 4.0])
    # an inner direction that depends on the outer variable is not differentiated by the inner one
    got = grad(lambda x: x * jvp(lambda z: x + z, 1.0, 1.0)[1])(3.0)
    assert got == 1.0


@pytest.mark.parametrize("fun", [
    lambda x: x**3, lambda x: np.tanh(x @ W1 + 0.1) @ W1.T, lambda x: np.roll(x, 1) * x,
    lambda x: x / np.linalg.norm(x), lambda x: np.array([x[1], x[0] * x[2], x[2] ** 2]),
    lambda x: np.ones(3), lambda x: np.cumsum(x) * 2.0, lambda x: x * np.sum(x),
    lambda x: np.tanh(np.tanh(x @ W1) @ W1.T @ W1) @ W1.T,
])  # fmt: skip
def test_divergence(fun):
    x = np.array([0.3, -0.7, 1.1])
    value, got = divergence(fun)(x)
    np.testing.assert_allclose(value, fun(x))
    J = np.array([central(lambda s, e=e: fun(x + s * e), 0.0, 1.0) for e in np.eye(3)])
    np.testing.assert_allclose(got, np.trace(J), rtol=1e-9, atol=1e-10)


W1 = RNG.normal(size=(3, 4))


_MORE = np.random.default_rng(12)
W2, W3 = _MORE.normal(size=(4, 5)), _MORE.normal(size=(5, 3))


def _two_hidden(x, p):
    return np.tanh(np.tanh(x @ p["A"] + p["b"]) @ p["B"]) @ p["C"]


def _network(*sizes):
    rng = np.random.default_rng(sum(sizes))
    return [rng.normal(size=shape) for shape in zip(sizes[:-1], sizes[1:], strict=True)]


@pytest.mark.parametrize("fun", [
    _two_hidden,
    lambda x, p: np.sin(np.tanh(x @ p["A"]) @ p["B"])[1:4] * p["s"],
    lambda x, p: np.tanh(np.concatenate([x, [2.0]]) @ p["D"] + p["b"]) @ p["B"] @ p["C"],
    lambda x, p: _two_hidden(x[::-1], p)[[2, 0, 1]] - p["s"] * x,
    lambda x, p: 0.5 * _two_hidden(x, p) - x**3 + np.tanh(x) * x[0],
    lambda x, p: np.concatenate([_two_hidden(x, p)[2:], x[:1], x[1:2] * p["s"] - x[2:]]),
    lambda x, p: np.tanh((x + 2 * x[[1, 1, 2]]) @ p["A"]) @ (p["B"] @ p["C"]),
    lambda x, p: np.tanh(np.tanh(_two_hidden(x, p) @ p["A"]) @ p["B"]) @ p["C"],
    lambda x, p: np.exp(-np.tanh(x @ p["A"]) ** 2) @ p["B"] @ p["C"] + 1.0,
])  # fmt: skip
def test_divergence_of_networks_and_its_gradient(fun):
    rng = np.random.default_rng(13)
    p = {
        "A": W1,
        "B": W2,
        "C": W3,
        "D": rng.normal(size=(4, 4)),
        "b": rng.normal(size=4),
        "s": 0.7,
    }
    x = np.array([0.3, -0.7, 1.1])

    def exact(x, p):
        J = [central(lambda s, e=e: fun(x + s * e, p), 0.0, 1.0) for e in np.eye(3)]
        return np.trace(np.array(J))

    def field(t, x, p):
        return x * divergence(lambda z: fun(z, p))(x)[1]

    assert divergence(lambda z: fun(z, p))(x)[1] == pytest.approx(exact(x, p), rel=1e-7)
    leaves = [np.ravel(v) for v in (p[k] for k in sorted(p))]
    trace = trace_field(field, spec_of(x), spec_of({k: p[k] for k in sorted(p)}))
    env = {trace.t: 0.0, trace.y: x, **dict(zip(trace.params, leaves, strict=True))}
    ct = trace.graph.input("ct", 0, 3, STEP)
    bars = autodiff.vjp(trace.graph, trace.outs, [ct], [trace.y, *trace.params])
    u = rng.normal(size=3)
    for bar, at in zip(bars, [trace.y, *trace.params], strict=True):
        if bar is None:
            continue
        v = rng.normal(size=at.n)

        def along(h, at=at, v=v):
            return u @ evaluate(trace.outs, {**env, at: np.ravel(env[at]) + h * v})[0]

        got = evaluate([bar], {**env, ct: u})[0] @ v
        assert got == pytest.approx(central(along, 0.0, 1.0), rel=1e-6, abs=1e-8)


def test_divergence_of_two_hidden_layers_costs_one_product_for_any_dimension():
    def products(n):
        p = {k: np.ones(w.shape) for k, w in zip("ABC", _network(n, 16, 16, n), strict=True)}

        def flow(t, x, p):
            return x * divergence(lambda z: np.tanh(np.tanh(z @ p["A"]) @ p["B"]) @ p["C"])(x)[1]

        trace = trace_field(flow, spec_of(np.ones(n)), spec_of(p))
        at_each_stage = [v for v in reachable(trace.outs) if v.rate == STEP]
        return sum(v.op == "contract" for v in at_each_stage)

    assert products(2) == products(9) == 3  # two of the layers, one of the trace


def test_divergence_of_trees():
    def fun(x):
        return {"q": np.sin(x["q"]) * x["p"], "p": x["p"] ** 2 * x["q"].sum()}

    x = {"q": np.array([0.1, 0.2]), "p": 0.5}
    expected = np.sum(np.cos(x["q"])) * 0.5 + 2 * 0.5 * 0.3
    np.testing.assert_allclose(divergence(fun)(x)[1], expected)


def test_transforms_inside_fields():
    rng = np.random.default_rng(8)

    def hamilton(t, y, p):
        def energy(z):
            return z[2:] @ z[2:] / 2 - p["k"] * np.cos(z[0] - z[1]) + z[0] * z[3] * t

        dH = grad(energy)(y)
        return np.concatenate([dH[2:], -dH[:2]])

    y, p = rng.normal(size=4), {"k": 1.3}
    trace = trace_field(hamilton, spec_of(y), spec_of(p))
    (got,) = evaluate(trace.outs, {trace.t: 0.4, trace.y: y, trace.params[0]: 1.3})
    np.testing.assert_allclose(got, hamilton(0.4, y, p), rtol=1e-12)

    def flow(t, s, p):
        dz, div = divergence(lambda z: np.tanh(z @ p["W"] + t) @ p["W"].T)(s["z"])
        _, moved = jvp(lambda z: np.sin(z) * t, s["z"], dz)
        value, pullback = vjp(lambda z: {"w": z**2 * t}, moved)
        return {"z": pullback({"w": value["w"]}), "l": -div}

    s, p = {"z": rng.normal(size=3), "l": 0.0}, {"W": W1}
    trace = trace_field(flow, spec_of(s), spec_of(p))
    env = {trace.t: 0.4, trace.y: np.append(0.0, s["z"]), trace.params[0]: W1}
    expected = flow(0.4, s, p)
    (got,) = evaluate(trace.outs, env)
    np.testing.assert_allclose(got, [expected["l"], *expected["z"]], rtol=1e-12)
    # a whole adjoint of it
    ct = trace.graph.input("ct", 0, 4, STEP)
    bars = autodiff.vjp(trace.graph, trace.outs, [ct], [trace.y, *trace.params])
    u, v = rng.normal(size=4), rng.normal(size=3)
    got = evaluate([bars[0]], {**env, ct: u})[0][1:] @ v

    def f(h):
        return u @ evaluate(trace.outs, {**env, trace.y: np.append(0.0, s["z"] + h * v)})[0]

    np.testing.assert_allclose(got, central(f, 0.0, 1.0), rtol=1e-7)


def test_plain_arguments_inside_a_field():
    def fun(t, y, p):
        slope = grad(lambda q: q**2 * y[0])(3.0)
        return y * slope + grad(np.sin)(np.array(0.5))

    y = np.array([1.0, 2.0])
    trace = trace_field(fun, spec_of(y), NOTHING)
    (got,) = evaluate(trace.outs, {trace.t: 0.0, trace.y: y})
    np.testing.assert_allclose(got, 6 * y + np.cos(0.5))


def test_dtypes_and_shapes_of_results():
    x = np.ones(2, np.float32)
    value, moved = jvp(lambda z: z * 2, x, x)
    assert value.dtype == moved.dtype == np.float32
    assert grad(lambda z: z.sum())(x).dtype == np.float32
    assert grad(lambda z: z**2)(3.0).shape == ()
    assert grad(lambda z, k: k * z**2)(3.0, 2.0) == 12.0
    assert grad(lambda z: z.sum())(np.ones((2, 3))).shape == (2, 3)


def test_wrong_use_is_explained():
    with pytest.raises(InputError, match="one number"):
        grad(lambda x: x)(np.ones(3))
    with pytest.raises(InputError, match="like its argument"):
        divergence(lambda x: x[:2])(np.ones(3))
    with pytest.raises(InputError, match="tree"):
        jvp(lambda x: x, {"a": 1.0}, 1.0)
    with pytest.raises(InputError, match=r"shape \(2,\) where \(3,\)"):
        jvp(lambda x: x, np.ones(3), np.ones(2))
    with pytest.raises(InputError, match="None"):
        grad(lambda x: None)(1.0)
    with pytest.raises(TraceError, match="np.where"):
        grad(lambda x: x if x > 0 else -x)(1.0)
    with pytest.raises(KeyError):
        grad(lambda x: {}["a"])(1.0)


def test_rates_of_derivatives():
    """The transposed weights of an adjoint are computed once a solve."""
    y, p = np.ones(3), {"W": W1, "b": np.ones(4)}
    trace = trace_field(lambda t, y, p: np.tanh(y @ p["W"] + p["b"])[:3], spec_of(y), spec_of(p))
    ct = trace.graph.input("ct", 0, 3, STEP)
    sinks = []
    (bar,) = autodiff.vjp(trace.graph, trace.outs, [ct], [trace.y], sinks, PARAMS)
    assert bar.op == "contract" and bar.args[1].op == "gather" and bar.args[1].rate == PARAMS
    assert {s.target for s in sinks} == set(trace.params)

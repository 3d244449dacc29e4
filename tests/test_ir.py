"""The graph: what is one node, what is simplified and packed, and what it means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import fields

from nodecore import tree
from nodecore.ir import ops
from nodecore.ir.graph import CONST, PARAMS, SAMPLE, STEP, Graph, reachable
from nodecore.ir.numpy_eval import evaluate
from nodecore.ir.ops import ARITY, ELEMENTWISE, OPCODE, OPS
from nodecore.ir.trace import graph_key, spec_of, trace_field

RNG = np.random.default_rng(11)


@pytest.fixture
def g():
    return Graph()


def inputs(g, *sizes, rate=STEP):
    return [g.input("y", i, n, rate) for i, n in enumerate(sizes)]


def count(outs):
    """How often each op occurs among the nodes that ``outs`` need."""
    found = {}
    for node in reachable(outs):
        found[node.op] = found.get(node.op, 0) + 1
    return found


# ---- construction -------------------------------------------------------------------------------


def test_the_op_table_is_the_op_file():
    assert set(OPS) == set(ELEMENTWISE) <= set(OPCODE)
    assert sorted(OPCODE.values()) == list(range(len(OPCODE)))
    assert all(ARITY[name] in (1, 2, 3) for name in OPS)
    assert ops.WILD.isdisjoint(ops.TAME) and ops.WILD | ops.TAME <= set(OPS)


def test_equal_nodes_are_one(g):
    x, y = inputs(g, 3, 3)
    assert g.ew("mul", x, y) is g.ew("mul", x, y)
    assert g.ew("mul", x, y) is g.ew("mul", y, x)
    assert g.ew("sub", x, y) is not g.ew("sub", y, x)
    assert g.const([1.0, 2.0]) is g.const(np.array([1, 2]))
    assert g.const(0.0) is not g.const(-0.0)
    assert g.const(np.nan) is g.const(np.nan)
    assert g.gather(x, [0, 2]) is g.gather(x, np.array([0, 2], np.int64))
    assert g.var(3, STEP) is not g.var(3, STEP)


def test_ids_are_a_topological_order(g):
    (x,) = inputs(g, 3)
    out = g.ew("add", g.ew("sin", x), g.ew("mul", x, g.const(2.0)))
    order = reachable([out])
    for i, node in enumerate(order):
        assert all(a in order[:i] for a in node.args)
    assert reachable([out], stop=lambda v: v.op == "sin")[0] is not None


def test_rates(g):
    c, p, a = g.const(2.0), g.input("params", 0, 3, PARAMS), g.input("args", 0, 3, SAMPLE)
    y = g.input("y", 0, 3, STEP)
    assert g.ew("exp", c).rate == CONST
    assert g.ew("exp", p).rate == PARAMS
    assert g.ew("mul", p, a).rate == SAMPLE
    assert g.ew("mul", g.ew("mul", p, a), y).rate == STEP


def test_rows_must_agree(g):
    x, y = inputs(g, 3, 2)
    with pytest.raises(ValueError, match=r"add: rows \[3, 2\]"):
        g.ew("add", x, y)
    with pytest.raises(ValueError, match="contract"):
        g.contract(x, y, (1, 3, 1, 1))
    with pytest.raises(ValueError, match="outer"):
        g.outer(x, y, (1, 3, 1, 1))


def test_repeated_rows_serve_as_one(g):
    x, s = inputs(g, 3, 1)
    wide = g.gather(s, [0, 0, 0])
    assert g.ew("mul", x, wide).args == (x, s)
    both = g.ew("exp", wide)
    assert both.op == "gather" and both.args[0] is g.ew("exp", s) and both.n == 3
    assert g.const(np.full(4, 2.5)).args[0] is g.const(2.5)
    assert g.zeros(1) is g.const(0.0)


# ---- identities ---------------------------------------------------------------------------------


def test_identities(g):
    x, y = inputs(g, 3, 3)
    one, zero = g.const(1.0), g.const(0.0)
    assert g.ew("add", x, zero) is x and g.ew("add", zero, x) is x
    assert g.ew("sub", x, zero) is x
    assert g.ew("mul", one, x) is x and g.ew("div", x, one) is x
    assert g.ew("mul", x, g.const(-1.0)) is g.ew("neg", x)
    assert g.ew("neg", g.ew("neg", x)) is x
    assert g.ew("add", x, g.ew("neg", y)) is g.ew("sub", x, y)
    assert g.ew("sub", x, g.ew("neg", y)) is g.ew("add", x, y)
    assert g.ew("div", one, x) is g.ew("recip", x)
    assert g.ew("select", x, y, y) is y
    assert g.ew("mul", x, zero) is g.zeros(3)
    assert g.ew("sin", g.const([0.5, 1.0])).op == "const"


def test_products_with_wild_factors_are_guarded(g):
    x, y = inputs(g, 3, 3)
    wild = g.ew("log", y)
    assert wild.wild and g.ew("add", wild, x).wild and not x.wild
    assert not g.ew("lt", wild, x).wild
    assert g.ew("zmul", x, wild).op == "zmul"
    assert g.ew("zmul", x, y).op == "mul"
    assert g.ew("mul", g.const(0.0), wild).op == "mul"  # 0 times inf is NaN, as in NumPy
    assert g.ew("zmul", g.const(0.0), wild) is g.zeros(3)
    assert g.input("args", 0, 2, SAMPLE).wild and g.const([1.0, np.nan]).wild


def test_gathers_compose(g):
    (x,) = inputs(g, 5)
    a = g.gather(x, [4, -1, 2, 0])
    b = g.gather(a, [3, 1, -1, 0, 0])
    assert b.args == (x,)
    np.testing.assert_array_equal(b.data, [0, -1, -1, 4, 4])
    assert g.gather(x, range(5)) is x
    assert g.gather(x, [-1, -1]) is g.zeros(2)
    assert g.gather(g.const([1.0, 2.0, 3.0]), [2, -1]) is g.const([3.0, 0.0])


def test_concats_merge(g):
    x, y = inputs(g, 4, 2)
    assert g.concat([g.gather(x, [0, 1]), g.gather(x, [2, 3])]) is x
    assert g.concat([x]) is x and g.concat([]).n == 0
    assert g.concat([g.const(1.0), g.const([2.0, 3.0])]) is g.const([1.0, 2.0, 3.0])
    both = g.concat([y, g.gather(x, [1]), g.gather(x, [3])])
    assert [p.n for p in both.args] == [2, 2]
    assert g.gather(g.concat([x, y]), [4, 5]) is y
    assert g.gather(g.concat([x, y]), [1, 2]) is g.gather(x, [1, 2])


def test_segsum_that_moves_only_is_a_gather(g):
    (x,) = inputs(g, 3)
    moved = g.segsum(x, [4, 0, -1], 5)
    assert moved.op == "gather"
    np.testing.assert_array_equal(moved.data, [1, -1, -1, -1, 0])
    assert g.segsum(x, [0, 0, 1], 2).op == "segsum"
    assert g.sum(g.gather(x, [1])) is g.gather(x, [1])


def test_sparse_constants_shorten_products(g):
    w = g.input("params", 0, 12, PARAMS)
    unit = g.const([0.0, 1.0, 0.0])
    assert g.contract(unit, w, (1, 3, 4, 1)) is g.gather(w, range(4, 8))
    some = g.contract(g.const([2.0, 0.0, 3.0]), w, (1, 3, 4, 1))
    assert some.attrs == (1, 2, 4, 1)
    assert g.contract(g.zeros(3), w, (1, 3, 4, 1)).n == 4
    value = evaluate([some], {w: np.arange(12.0)})[0]
    np.testing.assert_array_equal(value, np.array([2, 0, 3]) @ np.arange(12.0).reshape(3, 4))


def test_biases_join_products(g):
    x, w = g.input("y", 0, 6, STEP), g.input("params", 0, 12, PARAMS)
    b = g.input("params", 1, 4, PARAMS)
    tile = g.gather(b, np.tile(np.arange(4), 2))
    joined = g.ew("add", tile, g.contract(x, w, (2, 3, 4, 1)))
    assert joined.op == "contract" and joined.args == (x, w, b)
    other = g.gather(b, np.repeat(np.arange(4), 2))
    assert g.ew("add", g.contract(x, w, (2, 3, 4, 1)), other).op == "add"
    assert g.ew("add", other, g.contract(x, w, (1, 3, 4, 2))).args == (x, w, b)


def test_empty_vectors(g):
    (x,) = inputs(g, 3)
    none = g.gather(x, [])
    assert none.n == 0 and g.ew("mul", none, g.const(2.0)).n == 0
    assert g.concat([none, x]) is x
    assert g.segsum(none, [], 2) is g.zeros(2)


# ---- substitution -------------------------------------------------------------------------------


def test_substitution_folds(g):
    x, y = inputs(g, 2, 2)
    out = g.ew("mul", g.ew("sin", x), y)
    (same,) = g.substitute([out], {})
    assert same is out
    (moved,) = g.substitute([out], {x: y})
    assert moved is g.ew("mul", g.ew("sin", y), y)
    (folded,) = g.substitute([out], {x: g.zeros(2), y: g.const([1.0, 2.0])})
    assert folded is g.zeros(2)


def every_op(g):
    x, w, b = g.input("y", 0, 6, STEP), g.input("params", 0, 12, PARAMS), g.const([1.0, 2, 3, 4])
    h = g.contract(x, w, (2, 3, 4, 1), b)
    parts = [g.ew("tanh", h), g.segsum(x, [0, 0, 1, 1, 2, -1], 3), g.gather(x, [5, -1, 0])]
    parts.append(g.outer(x, g.ew("neg", x), (2, 3, 3, 1)))
    return [g.concat(parts), g.gather(g.ew("exp", g.input("t", 0, 1, STEP)), [0, 0])]


def test_substitution_moves_between_graphs(g):
    outs = every_op(g)
    other = Graph()
    other.const(7.0)
    moved = other.substitute(outs, {})
    assert all(other.owns(v) and not g.owns(v) for v in reachable(moved))
    assert graph_key(moved) == graph_key(outs)


# ---- packing ------------------------------------------------------------------------------------


def trace_of(fun, y, params=None):
    trace = trace_field(fun, spec_of(y), spec_of(params))
    env = {trace.t: 0.3, trace.y: y.ravel()}
    leaves = tree.flatten(params)[0]
    env.update({n: np.asarray(v, float) for n, v in zip(trace.params, leaves, strict=True)})
    expected = fun(0.3, y, params) if params is not None else fun(0.3, y)
    got = evaluate(trace.outs, env)[0]
    np.testing.assert_allclose(got, np.ravel(expected), rtol=1e-12)
    return trace


def test_loops_over_elements_become_vectors():
    def ring(t, y, p):
        n = len(y)
        return [p["D"] * (y[(i - 1) % n] - 2 * y[i] + y[(i + 1) % n]) for i in range(n)]

    few, many = (trace_of(ring, RNG.normal(size=n), {"D": 0.3}) for n in (5, 50))
    assert count(few.outs) == count(many.outs)
    assert count(many.outs)["mul"] == 2 and "concat" not in count(many.outs)


def test_what_two_places_share_is_computed_once():
    def chain(t, y, p):
        f = [p["k"][i] * np.tanh(y[i] - y[i + 1]) for i in range(len(y) - 1)]
        dy = np.zeros_like(y)
        for i, flux in enumerate(f):
            dy[i] -= flux
            dy[i + 1] += flux
        return dy

    trace = trace_of(chain, RNG.normal(size=8), {"k": RNG.normal(size=7)})
    assert count(trace.outs)["tanh"] == 1
    (tanh,) = [v for v in reachable(trace.outs) if v.op == "tanh"]
    assert tanh.n == 7


def test_loops_over_rows_become_matrices():
    W, b = RNG.normal(size=(2, 3)), RNG.normal(size=3)
    U = RNG.normal(size=(3, 2))

    def cells(t, y, p):
        return np.stack([np.tanh(x @ p["W"] + p["b"]) @ p["U"] for x in y])

    trace = trace_of(cells, RNG.normal(size=(5, 2)), {"W": W, "b": b, "U": U})
    assert count(trace.outs) == {"input": 4, "contract": 2, "tanh": 1}

    def columns(t, y, p):
        return [y @ p["W"][:, i] + p["b"][i] for i in range(3)]

    trace = trace_of(columns, np.ones(3), {"W": RNG.normal(size=(3, 3)), "b": b})
    assert count(trace.outs)["contract"] == 1

    def rows(t, y, p):
        return [p["W"][i] @ y for i in range(3)]

    trace = trace_of(rows, np.ones(3), {"W": RNG.normal(size=(3, 3))})
    assert count(trace.outs)["contract"] == 1


def test_pairs_of_particles():
    def bodies(t, y, p):
        acc = []
        for i in range(4):
            a = 0.0
            for j in range(4):
                if i != j:
                    d = y[j] - y[i]
                    a = a + p["m"][j] * d / np.linalg.norm(d) ** 3
            acc.append(a)
        return np.stack(acc)

    trace = trace_of(bodies, RNG.normal(size=(4, 2)), {"m": RNG.uniform(size=4)})
    assert len(reachable(trace.outs)) < 60


def test_different_forms_stay_apart():
    def lorenz(t, y, p):
        a, b, c = y
        return [p["s"] * (b - a), a * (p["r"] - c) - b, a * b - p["b"] * c]

    trace = trace_of(lorenz, RNG.normal(size=3), {"s": 10.0, "r": 28.0, "b": 8 / 3})
    assert trace.out.op == "concat" and [p.n for p in trace.out.args] == [1, 1, 1]


def test_deep_expressions_do_not_recurse_too_far():
    def deep(t, y):
        out = []
        for v in y:
            for _ in range(3000):
                v = np.sin(v) + 0.1
            out.append(v)
        return out

    trace_of(deep, RNG.normal(size=4))


# ---- identity -----------------------------------------------------------------------------------


@given(fields())
@settings(max_examples=25, deadline=None)
def test_keys_are_a_function_of_the_program(field):
    specs = [spec_of(v) for v in (field.y, field.params, field.args)]
    first, second = (trace_field(field.fun, *specs) for _ in range(2))
    assert graph_key(first.outs) == graph_key(second.outs)
    g = first.graph
    changed = g.ew("add", first.out, g.const(1.0))
    assert graph_key([changed]) != graph_key(second.outs)


# ---- the interpreter ----------------------------------------------------------------------------


def test_evaluation_in_float32(g):
    x, w = g.input("y", 0, 3, STEP), g.input("params", 0, 12, PARAMS)
    out = g.ew("exp", g.contract(g.ew("mul", x, g.const(0.1)), w, (1, 3, 4, 1)))
    (value,) = evaluate([out], {x: np.ones(3), w: np.ones(12)}, np.float32)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, np.exp(0.3), rtol=1e-6)


def test_evaluation_stops_at_given_values(g):
    (x,) = inputs(g, 2)
    inner = g.ew("exp", x)
    (value,) = evaluate([g.ew("add", inner, inner)], {inner: [1.0, 2.0]})
    np.testing.assert_array_equal(value, [2, 4])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_row_ops_mean_what_they_say(seed):
    rng = np.random.default_rng(seed)
    O, K, J, I = rng.integers(1, 4, 4)  # noqa: E741
    g = Graph()
    x, w = g.input("y", 0, int(O * K * I), STEP), g.input("y", 1, int(K * J), STEP)
    b, h = g.input("y", 2, int(J), STEP), g.input("y", 3, int(O * J * I), STEP)
    env = {v: rng.normal(size=v.n) for v in (x, w, b, h)}
    dims = (int(O), int(K), int(J), int(I))
    X, W, H = env[x].reshape(O, K, I), env[w].reshape(K, J), env[h].reshape(O, J, I)
    product = np.zeros((O, J, I)) + env[b][None, :, None]
    outer = np.zeros((K, J))
    for o, k, j, i in np.ndindex(O, K, J, I):
        product[o, j, i] += X[o, k, i] * W[k, j]
        outer[k, j] += X[o, k, i] * H[o, j, i]
    got = evaluate([g.contract(x, w, dims, b), g.outer(x, h, dims)], env)
    np.testing.assert_allclose(got[0], product.ravel(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got[1], outer.ravel(), rtol=1e-12, atol=1e-12)


def test_nodes_print(g):
    x, w = inputs(g, 3, 6)
    assert repr(g.contract(x, w, (1, 3, 2, 1))) == "%2 = contract(%0, %1) (1, 3, 2, 1) : 2"

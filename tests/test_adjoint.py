"""The discrete adjoint is the derivative of what was computed: every method, every grid, field."""

import itertools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from families import gradient_bound, same_replay, to_a_tolerance

import nodecore as nc
from nodecore import tree

METHODS = nc.methods.names()
B = 4


# ---- Fields --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A field with a batch of four; smooth, so that differences of fourth order are right."""

    field: Any
    y0: Any
    params: Any = None
    args: Any = None


CASES: dict[str, Case] = {}


def _case(y0, params=None, args=None):
    """Register the decorated field; what is given are shapes (of one sample for y0 and args)."""

    def draw(rng, shape, lead, scale):
        if isinstance(shape, np.ndarray):
            return shape
        return scale * rng.normal(size=lead + shape)

    def fill(value, rng, lead, scale):
        if value is None:
            return None
        if isinstance(value, dict):
            return {k: fill(v, rng, lead, scale) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v, rng, lead, scale) for v in value]
        return draw(rng, value, lead, scale)

    def register(fun):
        rng = np.random.default_rng(zlib.crc32(fun.__name__.encode()))
        CASES[fun.__name__] = Case(
            nc.field(fun),
            fill(y0, rng, (B,), 1.0),
            fill(params, rng, (), 0.5),
            fill(args, rng, (B,), 1.0),
        )
        return fun

    return register


@_case(
    (3,), {"net": [{"W": (3, 5), "b": (5,)}, {"W": (5, 3), "b": (3,)}], "log_k": (3,)}, {"u": (3,)}
)
def hybrid(t, y, p, a):
    h = np.tanh(y @ p["net"][0]["W"] + p["net"][0]["b"] + 0.3 * np.sin(t))
    rate = np.exp(p["log_k"])
    gain = np.where(y > 0, np.log1p(y**6), np.tanh(y**6))  # they agree to order 11
    return h @ p["net"][1]["W"] + p["net"][1]["b"] - rate * y * a["u"] ** 2 + gain * np.cos(t) / 9


@_case(
    {"x": (2,), "z": (), "m": [(2, 2), (3,)]}, {"w": (2,), "deep": {"c": (), "v": [(3,), (2, 2)]}},
    {"f": (2,), "g": {"h": ()}},
)  # fmt: skip
def nested_trees(t, y, p, a):
    x, z, (m, v) = y["x"], y["z"], y["m"]
    c, (q, r) = p["deep"]["c"], p["deep"]["v"]
    return {
        "x": np.tanh(m @ x) + p["w"] * z - a["f"],
        "z": np.sum(x * p["w"]) * np.cos(a["g"]["h"] * t) - z + c,
        "m": [np.outer(x, x) / (1 + x @ x) - r * m, np.sin(v * q + z) + t * c],
    }


@_case((3, 3), {"W": (3, 3), "b": (3,), "V": (3, 3), "s": ()}, {"M": (3, 3)})
def matrices(t, X, p, a):
    Y = np.tanh(X)
    return 0.3 * (X @ p["W"] + p["b"] + p["V"] @ X + Y @ Y - Y @ a["M"] + p["s"] * Y.T) - X


@_case((2, 5), {"W": (5, 3), "b": (3,), "V": (2, 2), "U": (3, 5)})
def matrix_network(t, X, p):
    return p["V"] @ np.tanh(X @ p["W"] + p["b"]) @ p["U"] - X


@_case((2,), {"w": (), "k": (2,)})
def time_only(t, y, p):
    return np.stack([np.sin(p["w"] * t) * p["k"][0], t**2 * p["k"][1] + np.exp(-t)])


@_case((3,), (3,), (3,))
def constant(t, y, p, a):
    return p * a


@_case((2,), (2,))
def constant_of_params(t, y, p):
    return np.exp(p)


@_case((2,), {"c": (2,)}, {"u": (2,), "w": ()})
def ignores_y(t, y, p, a):
    return a["u"] * np.cos(a["w"] * t) + p["c"]


@_case((3,), {"log_k": (4,)})
def mass_action(t, y, p):
    k = np.exp(p["log_k"])
    a, b, c = np.tanh(y)
    return [
        -k[0] * a + k[1] * b * c,
        k[0] * a - k[1] * b * c - k[2] * b * b,
        k[2] * b * b - k[3] * c,
    ]


@_case((3,), {"W": (4, 3), "b": (3,), "V": (4, 3)}, {"x": (4,), "z": (4,)})
def sample_rate(t, y, p, a):
    rate = np.exp(np.tanh(a["x"] @ p["W"] + p["b"]))  # a network of this sample's features
    force = np.sin(a["z"] @ p["V"]) * np.sum(a["x"] * a["z"])
    return force * np.cos(t) - rate * y


@_case((3,), {"A": (3, 3), "s": (3,), "L": (3, 3)})
def transposed_params(t, y, p):
    skew = p["A"] - p["A"].T
    scaled = (p["A"] * np.exp(p["s"])).T
    return y @ skew + 0.2 * scaled @ np.tanh(y) - (p["L"] @ p["L"].T) @ y * 0.3


@_case((4,), {"w": (4,)}, {"c": ()})
def reductions(t, y, p, a):
    e = np.exp(np.tanh(y) * p["w"])
    share = e / np.sum(e)
    return np.roll(share, 1) - np.mean(y) * a["c"] + np.concatenate([y[2:] * y[:2], -y[:2]]) * 0.1


@_case((2,))
def no_params(t, y):
    return np.sin(y[::-1]) - 0.5 * y


@_case((), {"k": ()}, ())
def one_number(t, y, p, a):
    return np.sin(a * t) - p["k"] ** 2 * y


@_case(
    (2,), {"k": np.array([0.7, 1.3])},
    {"on": np.array([True, False, True, False]), "n": np.array([1, 2, 3, 1]), "u": (2,)},
)  # fmt: skip
def args_of_all_kinds(t, y, p, a):
    return np.where(a["on"], -p["k"] * y, a["u"] * np.sin(y)) / a["n"] - 0.1 * y


@_case((4,), {"m": (2,), "k": ()})
def hamiltonian(t, y, p):
    def energy(y):
        q, v = y[:2], y[2:]
        return (
            np.sum(v**2 * np.exp(p["m"])) / 2
            + np.sum(np.log1p(q**2))
            + p["k"] * np.cos(q[0] * q[1])
        )

    g = nc.grad(energy)(y)
    return np.concatenate([g[2:], -g[:2]])


@_case({"x": (2,), "logp": ()}, {"W": (2, 4), "b": (4,), "V": (4, 2)})
def flow_with_density(t, y, p):
    dx, divergence = nc.divergence(lambda x: np.tanh(x @ p["W"] + p["b"] * t) @ p["V"])(y["x"])
    return {"x": dx, "logp": -divergence}


# ---- Grids ---------------------------------------------------------------------------------------

RAGGED_STOPS = [np.array([0.33, 0.6]), np.array([0.25]), np.array([]), np.array([0.2, 0.9])]
FIXED = {
    "dt": {"dt": 0.13},
    "steps": {"steps": 3},
    "dt, tstops": {"dt": 0.13, "tstops": True},
    "dt, stops": {"dt": 0.13, "tstops": np.array([0.4, 0.9])},
}
ADAPTIVE = {
    "adaptive": {"rtol": 1e-5, "atol": 1e-6},
    "adaptive, tstops": {"rtol": 1e-5, "atol": 1e-6, "tstops": True},
    "adaptive, stops": {"rtol": 1e-5, "atol": 1e-6, "tstops": np.array([0.4, 0.9])},
    "adaptive, ragged stops": {"rtol": 1e-5, "atol": 1e-6, "tstops": RAGGED_STOPS},
}
_rng = np.random.default_rng(5)


def _times(n):
    return np.sort(_rng.choice(14, n, replace=False) / 10 + _rng.uniform(0, 0.02, n))


TIMES = {
    "shared": np.array([0.0, 0.21, 0.5, 0.62, 0.9, 1.2]),
    "rows": np.stack([_times(4) for _ in range(B)]),
    "ragged": [_times(n) for n in (4, 2, 1, 7)],
    "backwards": np.array([1.1, 0.83, 0.5, 0.1]),
}


def grids_of(method):
    return {**FIXED, **(ADAPTIVE if nc.methods.get(method).adaptive else {})}


def cast(value, dtype):
    return tree.map(lambda x: np.asarray(x, dtype) if np.asarray(x).dtype.kind == "f" else x, value)


def solve(case, t, dtype=np.float64, **options):
    return nc.solve(
        case.field, cast(case.y0, dtype), t, case.params, case.args, batch=True,
        adjoint="discrete", **options,
    )  # fmt: skip


def leaves(value):
    return [np.asarray(x, np.float64) for x in tree.flatten(value)[0]]


def dot(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(leaves(a), leaves(b), strict=True))


def random_like(value, rng):
    return tree.map(lambda x: rng.normal(size=np.shape(x)), value)


def moved(value, direction, eps):
    def move(x, d):
        x = np.asarray(x)
        return x + eps * d if x.dtype.kind == "f" else x

    out, treedef = tree.flatten(value)
    return tree.unflatten(
        treedef, [move(x, d) for x, d in zip(out, leaves(direction), strict=True)]
    )


def errors(sol, given, seed=0, sizes=(4e-3, 1e-3, 2.5e-4)):
    """The relative errors of sol.vjp in y0, params, args and t, along random directions."""
    rng = np.random.default_rng(seed)
    dy = random_like(sol.y, rng)
    g = sol.vjp(dy)
    out = {}
    for name, value in given.items():
        if value is None:
            continue
        grad = getattr(g, name)
        direction = random_like(value, rng)
        if name == "t":
            gap = min(np.abs(np.diff(x)).min(initial=1.0) for x in leaves(value))
            direction = tree.map(lambda x, gap=gap: gap * x, direction)
        exact = dot(grad, direction)
        scale = max(abs(exact), 1e-3 * np.sqrt(dot(grad, grad) * dot(direction, direction)), 1e-12)

        def at(eps, name=name, value=value, direction=direction):
            return dot(dy, sol.replay(**{name: moved(value, direction, eps)}).y)

        best = np.inf
        for e in sizes:
            difference = (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
            best = min(best, abs(difference - exact) / scale)
            if best < 1e-9:
                break
        out[name] = best
    return out


def check(case, t, options, bound=1e-8, dtype=np.float64, sizes=(4e-3, 1e-3, 2.5e-4), in_t=True):
    sol = solve(case, t, dtype, **options)
    given = {"y0": cast(case.y0, dtype), "params": case.params, "args": case.args}
    if in_t:
        given["t"] = t
    found = errors(sol, given, sizes=sizes)
    assert max(found.values()) <= bound, found


# ---- Every method, grid and form of the times ----------------------------------------------------

_fields = itertools.cycle(CASES)
COMBINATIONS = [
    (method, grid, times, next(_fields))
    for method in METHODS
    for grid in grids_of(method)
    for times in TIMES
]


@pytest.mark.parametrize("method, grid, times, name", COMBINATIONS)
def test_exact_on_every_grid(method, grid, times, name):
    options = {"method": method, **grids_of(method)[grid]}
    # a moved grid takes a node beyond the step over a stop
    in_t = not (grid == "dt, stops" and nc.methods.get(method).c.max() > 1)
    check(CASES[name], TIMES[times], options, gradient_bound(method, options), in_t=in_t)


@pytest.mark.parametrize("name", CASES)
def test_exact_for_every_field(name):
    for options in (
        {"method": "rk4", "steps": 2},
        {"method": "tsit5", "rtol": 1e-6},
        {"method": "dop853", "rtol": 1e-6, "tstops": True},
        {"method": "dopri5", "rtol": 1e-6},
        {"method": "ssprk3", "dt": 0.1},
    ):
        check(CASES[name], TIMES["shared"], options)


@pytest.mark.parametrize("method", METHODS)
def test_float32(method):
    """To the precision of its differences; and on a fixed grid, as the float64 one to its own."""
    for grid, options in grids_of(method).items():
        check(
            CASES["hybrid"],
            TIMES["shared"],
            {"method": method, **options},
            2e-2,
            np.float32,
            (3e-2, 1e-2),
        )
        if grid in FIXED:
            case = CASES["sample_rate"]
            single = solve(case, TIMES["rows"], np.float32, method=method, **options)
            double = solve(case, TIMES["rows"], method=method, **options)
            dy = random_like(double.y, np.random.default_rng(1))
            a, b = single.vjp(dy.astype(np.float32)), double.vjp(dy)
            for x, y in zip(
                leaves([a.y0, a.params, a.args, a.t]),
                leaves([b.y0, b.params, b.args, b.t]),
                strict=True,
            ):
                np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4 * np.abs(y).max())


def test_public_check():
    """nc.gradcheck says what the differences of this file say."""
    sol = solve(CASES["hybrid"], TIMES["ragged"], method="tsit5", rtol=1e-5)
    assert nc.gradcheck(sol) < 1e-8
    sol = solve(CASES["nested_trees"], TIMES["shared"], method="dop853", rtol=1e-5, tstops=True)
    assert nc.gradcheck(sol, wrt=("y0", "params")) < 1e-8
    sol = solve(CASES["mass_action"], TIMES["shared"], np.float32, rtol=1e-4)
    assert nc.gradcheck(sol) < 2e-2


# ---- Against solve itself ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_differences_of_solve(method):
    """One component after the other, with nothing but solve: no replay, no direction."""
    case = CASES["hybrid"]
    y0, params, args = case.y0[:2], case.params, {"u": case.args["u"][:2]}
    t = np.array([0.0, 0.3, 0.75, 1.0])
    rng = np.random.default_rng(2)
    dy = rng.normal(size=(2, 4, 3))
    for options in ({"steps": 2}, {"dt": 0.21}, {"dt": 0.21, "tstops": True}):

        def value(y0, params, args, t, options=options):
            return np.sum(
                dy * nc.solve(case.field, y0, t, params, args, method=method, **options).y
            )

        given = [y0, params, args, t]
        sol = nc.solve(
            case.field, *(y0, t, params, args), method=method, adjoint="discrete", **options
        )
        g = sol.vjp(dy)
        for k, (where, grad) in enumerate(zip(given, (g.y0, g.params, g.args, g.t), strict=True)):
            flat, unravel = nc.ravel(where)
            exact = nc.ravel(grad)[0]
            some = range(flat.size) if flat.size < 8 else rng.choice(flat.size, 5, replace=False)
            for i in some:
                if k == 3 and "dt" in options and (i in (0, 3) or "tstops" in options):
                    continue  # the step that solve shortens depends on t; sizes are held
                e = 2e-4

                def at(s, i=i, k=k, flat=flat, unravel=unravel, given=given):
                    x = flat.copy()
                    x[i] += s
                    return value(*given[:k], unravel(x), *given[k + 1 :])

                difference = (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
                assert difference == pytest.approx(exact[i], rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("method", [m for m in METHODS if nc.methods.get(m).adaptive])
@pytest.mark.parametrize("tstops", [False, True])
def test_converges_to_the_exact_gradient(method, tstops):
    """y = y0 exp(-k (t - t0)): the derivatives in y0, k and t."""
    tol = 1e-7 if nc.methods.get(method).order < 4 else 1e-10
    t = np.array([0.2, 0.9, 1.7])
    k, y0 = 1.3, np.array([[0.8], [2.0]])
    dy = np.random.default_rng(0).normal(size=(2, 3, 1))
    sol = nc.solve(
        lambda t, y, k: -k * y,
        y0,
        t,
        k,
        method=method,
        rtol=tol,
        atol=tol,
        tstops=tstops,
        adjoint="discrete",
    )
    g = sol.vjp(dy)
    decay = np.exp(-k * (t - t[0]))[None, :, None]
    bound = 300 * tol
    np.testing.assert_allclose(g.y0, np.sum(dy * decay, axis=1), atol=bound)
    y = y0[:, None] * decay
    np.testing.assert_allclose(g.params, np.sum(-dy * y * (t - t[0])[None, :, None]), atol=bound)
    slope = np.sum(-k * y * dy, axis=(0, 2))
    slope[0] = -np.sum(slope[1:])
    # the derivative of an interpolant is one order less exact
    np.testing.assert_allclose(g.t, slope, atol=bound if tstops else 3e-4 if tol > 1e-8 else 3e-6)


# ---- What a gradient promises --------------------------------------------------------------------


def same_bits(a, b):
    pairs = zip(tree.flatten(a)[0], tree.flatten(b)[0], strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def all_of(g):
    return [g.y0, g.params, g.args, g.t]


@pytest.mark.parametrize("method", METHODS)
def test_replay_of_the_same_has_the_same_bits(method):
    for i, (grid, options) in enumerate(grids_of(method).items()):
        times = list(TIMES)[i % len(TIMES)]
        for dtype in (np.float64, np.float32):
            sol = solve(CASES["hybrid"], TIMES[times], dtype, method=method, **options)
            again = sol.replay()
            if to_a_tolerance(method, options):
                pairs = zip(tree.flatten(sol.y)[0], tree.flatten(again.y)[0], strict=True)
                assert all(same_replay(method, options, a, b) for a, b in pairs)
                continue
            assert same_bits(sol.y, again.y), (grid, times, dtype)
            dy = random_like(sol.y, np.random.default_rng(3))
            g = sol.vjp(dy)
            assert same_bits(all_of(g), all_of(sol.vjp(dy)))
            h = again.vjp(dy)
            assert same_bits([g.y0, g.args, g.t], [h.y0, h.args, h.t])
            # where steps were rejected, samples met in other tile steps: another order of the sum
            for a, b in zip(leaves(g.params), leaves(h.params), strict=True):
                if np.any(sol.stats.rejected):
                    np.testing.assert_allclose(
                        a, b, rtol=0, atol=50 * np.finfo(dtype).eps * np.abs(a).max()
                    )
                else:
                    assert same_bits(a, b)
            given = sol.replay(
                CASES["hybrid"].y0.astype(dtype),
                CASES["hybrid"].params,
                CASES["hybrid"].args,
                TIMES[times],
            )
            assert same_bits(sol.y, given.y)


@pytest.mark.parametrize("options", [{}, {"tstops": True}, {"steps": 3}, {"tstops": [0.4, 0.9]}])
def test_a_replayed_solution_has_its_own_gradient(options):
    case = CASES["hybrid"]
    sol = solve(case, TIMES["shared"], rtol=1e-5, **options)
    rng = np.random.default_rng(1)
    params = moved(case.params, random_like(case.params, rng), 0.1)
    t = TIMES["shared"] * 1.001 + 0.003
    again = sol.replay(y0=case.y0 + 0.1, params=params, t=t)
    found = errors(again, {"y0": case.y0 + 0.1, "params": params, "args": case.args, "t": t})
    assert max(found.values()) < 1e-8


def test_value_and_grad_is_vjp():
    sol = solve(CASES["nested_trees"], TIMES["shared"], rtol=1e-6)
    weight = random_like(sol.y, np.random.default_rng(0))

    def loss(y, w):
        return np.sum(np.sin(y["x"]) * w["x"]) + np.mean(y["m"][0] ** 2) * np.sum(y["z"] * w["z"])

    value, g = sol.value_and_grad(loss, weight)
    y = sol.y
    assert value == pytest.approx(float(loss(y, weight)), rel=1e-13)
    total = np.sum(y["z"] * weight["z"])
    m = y["m"][0]
    dy = {
        "x": np.cos(y["x"]) * weight["x"],
        "z": np.mean(m**2) * weight["z"],
        "m": [2 * m / m.size * total, np.zeros_like(y["m"][1])],
    }
    for a, b in zip(leaves(all_of(g)), leaves(all_of(sol.vjp(dy))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_a_loss_that_reads_params():
    case = CASES["mass_action"]
    sol = solve(case, TIMES["shared"], rtol=1e-6)

    def loss(y, p, scale):
        return np.sum((y * np.exp(p["log_k"][:3])) ** 2) + scale * np.sum(p["log_k"] ** 2)

    _, g = sol.value_and_grad(loss, 0.1, with_params=True)
    direction = random_like(case.params, np.random.default_rng(4))

    def at(e):
        params = moved(case.params, direction, e)
        return loss(sol.replay(params=params).y, params, 0.1)

    e = 1e-3
    difference = (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
    assert dot(g.params, direction) == pytest.approx(difference, rel=1e-9)


def test_shapes_and_dtypes_are_those_of_what_was_given():
    case = CASES["args_of_all_kinds"]
    sol = solve(case, TIMES["ragged"], np.float32, rtol=1e-5)
    g = sol.vjp([np.ones_like(y) for y in sol.y])
    assert g.y0.shape == (4, 2) and g.y0.dtype == np.float32
    assert g.params["k"].shape == (2,) and g.params["k"].dtype == np.float64
    assert g.args["u"].shape == (4, 2)
    assert g.args["on"].dtype == bool and not g.args["on"].any()
    assert g.args["n"].dtype == np.int64 and not g.args["n"].any()
    assert [x.shape for x in g.t] == [x.shape for x in TIMES["ragged"]]
    assert all(x.dtype == np.float64 for x in g.t)

    one = nc.solve(lambda t, y, k: -k * y, 1.0, [0.0, 1.0], 2, adjoint="auto")
    g = one.vjp(np.ones(2))
    assert (
        np.shape(g.y0) == () and np.shape(g.params) == () and g.args is None and g.t.shape == (2,)
    )
    assert g.params.dtype == np.float64  # the integer 2 was converted


def test_nothing_given_nothing_returned():
    sol = nc.solve(lambda t, y: -y, np.ones((2, 1)), TIMES["shared"], adjoint="discrete")
    g = sol.vjp(np.ones((2, 6, 1)))
    assert g.params is None and g.args is None
    assert g.y0.shape == (2, 1)


@pytest.mark.parametrize("method", METHODS)
def test_one_time_is_the_identity(method):
    options = {} if nc.methods.get(method).adaptive else {"dt": 0.1}
    sol = solve(CASES["hybrid"], np.array([0.7]), method=method, **options)
    dy = np.random.default_rng(0).normal(size=(B, 1, 3))
    g = sol.vjp(dy)
    assert same_bits(g.y0, dy[:, 0])
    assert not any(x.any() for x in leaves([g.params, g.args, g.t]))


def test_a_failed_sample_contributes_nothing():
    def field(t, y, p, a):
        return p["k"] * y**2 * a["up"] - 0.1 * y

    y0 = np.array([[1.0], [1.0], [0.5], [np.nan], [1.0]])
    up = np.array([1.0, 50.0, 1.0, 1.0, -1.0])
    t = np.linspace(0, 0.5, 4)
    keep = np.array([0, 2, 4])
    p = {"k": 1.0}
    for options in ({}, {"steps": 5}, {"dt": 0.07}):
        sol = nc.solve(
            field, y0, t, p, {"up": up}, adjoint="discrete", on_failure="mark", **options
        )
        if not options:
            assert list(sol.status != nc.Status.OK) == [False, True, False, True, False]
        dy = np.random.default_rng(0).normal(size=(5, 4, 1))
        dy[3] = np.nan  # never looked at
        part = nc.solve(field, y0[keep], t, p, {"up": up[keep]}, adjoint="discrete", **options)
        if not sol.ok and (sol.status[[1, 3]] != 0).all():
            g, h = sol.vjp(dy), part.vjp(dy[keep])
            assert same_bits(g.y0[keep], h.y0) and not g.y0[[1, 3]].any()
            assert same_bits(g.args["up"][keep], h.args["up"]) and not g.args["up"][[1, 3]].any()
            np.testing.assert_allclose(g.params["k"], h.params["k"], rtol=1e-13)
            np.testing.assert_allclose(g.t, h.t, rtol=1e-13)


def test_guarded_singularities_have_finite_gradients():
    """0 times an unbounded derivative is 0: where guards protect gradients."""

    def field(t, y, p):
        root = np.where(y > 0, np.sqrt(y), 0.0)
        log = np.where(y > 0, np.log(y), 0.0)
        inverse = np.where(y > 0, 1 / y, 0.0)
        power = np.where(y > 0, y**-0.5, 0.0)
        return -p * (root + 0.1 * log + 0.1 * inverse + 0.1 * power) * np.array([0.0, 1.0])

    sol = nc.solve(field, np.array([[0.0, 2.0], [1.0, 3.0]]), [0.0, 0.5], 0.3, adjoint="discrete")
    g = sol.vjp(np.ones((2, 2, 2)))
    assert np.isfinite(g.y0).all() and np.isfinite(g.params) and g.params != 0


def test_inputs_may_change_after_the_solve():
    case = CASES["hybrid"]
    y0, t = case.y0.copy(), TIMES["shared"].copy()
    params, args = tree.map(np.copy, case.params), tree.map(np.copy, case.args)
    sol = nc.solve(case.field, y0, t, params, args, adjoint="discrete")
    dy = np.ones_like(sol.y)
    before = all_of(sol.vjp(dy))
    for x in (y0, t, *tree.flatten(params)[0], *tree.flatten(args)[0]):
        x[...] = 7.0
    assert same_bits(before, all_of(sol.vjp(dy)))
    assert same_bits(sol.y, sol.replay().y)


def test_opaque_and_traced_fields_have_one_gradient():
    def traced(t, y, p, a):
        return -p["k"] * y * a + np.sin(t)

    def fun(t, y, p, a):
        return -p["k"] * y * a + np.sin(t)[:, None]

    def vjp(t, y, p, a, ct):
        return -p["k"] * a * ct, {"k": -np.sum(ct * y * a, axis=0)}, -ct * p["k"] * y

    rng = np.random.default_rng(0)
    y0, a, p = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), {"k": rng.normal(size=2)}
    for options in ({}, {"tstops": True}, {"steps": 2}):
        x = nc.solve(nc.opaque(fun, vjp), y0, TIMES["shared"], p, a, adjoint="discrete", **options)
        y = nc.solve(traced, y0, TIMES["shared"], p, a, adjoint="discrete", **options)
        np.testing.assert_allclose(x.y, y.y, rtol=1e-12, atol=1e-14)
        dy = rng.normal(size=x.y.shape)
        g, h = x.vjp(dy), y.vjp(dy)
        for u, v in zip(
            leaves([g.y0, g.params, g.args]), leaves([h.y0, h.params, h.args]), strict=True
        ):
            np.testing.assert_allclose(u, v, rtol=1e-10, atol=1e-13)
        with pytest.raises(nc.GradientError, match="time"):
            _ = g.t

"""Bit for bit: a sample alone, in any batch, in any order, with any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_adjoint import CASES, all_of, cast, leaves, random_like, same_bits

import nodecore as nc
from nodecore import tree

METHODS = nc.methods.names()
SIZES = (1, 3, 8, 17)  # one lane, and tiles of one and two vectors, not full
N = 40
FIELDS = list(CASES)
T = np.array([0.0, 0.31, 0.5, 0.9])


def options_of(method):
    grids = [{"dt": 0.11}, {"steps": 2}]
    if nc.methods.get(method).adaptive:
        grids += [{"rtol": 1e-3, "atol": 1e-5}, {"rtol": 1e-3, "atol": 1e-5, "tstops": True}]
    return grids


def many(name):
    """The case's field with N samples, some much harder than others."""
    case, rng = CASES[name], np.random.default_rng(len(name))
    size = np.exp(rng.normal(size=N))

    def draw(x, scale=1.0):
        if x.dtype.kind != "f":
            return x[rng.integers(0, len(x), N)]
        return rng.normal(size=(N,) + x.shape[1:]) * np.reshape(scale, (-1,) + (1,) * (x.ndim - 1))

    y0 = tree.map(lambda x: draw(x, size), case.y0)
    return case, y0, None if case.args is None else tree.map(draw, case.args)


def take(value, index):
    return None if value is None else tree.map(lambda x: x[index], value)


def run(problem, index, dtype, t=T, **options):
    case, y0, args = problem
    return nc.solve(
        case.field, cast(take(y0, index), dtype), t, case.params, take(args, index), batch=True,
        on_failure="mark", **options,
    )  # fmt: skip


def numbers(sol):
    """Per sample: states, status, work."""
    s = sol.stats
    return [*tree.flatten(sol.y)[0], sol.status, s.accepted, s.rejected, s.nfev]


def same_samples(sol, whole, index):
    return all(
        a.tobytes() == b[index].tobytes() for a, b in zip(numbers(sol), numbers(whole), strict=True)
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_alone_in_any_batch_in_any_order(method, dtype):
    """States and work, with and without a record."""
    rng = np.random.default_rng(0)
    for i, options in enumerate(options_of(method)):
        for name in FIELDS[(METHODS.index(method) + i) % 7 :: 7]:
            problem = many(name)
            whole = run(problem, np.arange(N), dtype, method=method, threads=1, **options)
            for n in SIZES:
                index = rng.permutation(N)[:n]
                keep = "discrete" if n % 2 else None
                sol = run(problem, index, dtype, method=method, threads=1, adjoint=keep, **options)
                assert same_samples(sol, whole, index), (name, n, options)


@pytest.mark.parametrize("name", FIELDS)
def test_alone_for_every_field(name):
    problem = many(name)
    for method, options in (
        ("tsit5", {"rtol": 1e-5}),
        ("dop853", {"rtol": 1e-5}),
        ("rk4", {"steps": 3}),
    ):
        whole = run(problem, np.arange(N), np.float64, method=method, **options)
        for b in (0, 7, N - 1):
            sol = run(problem, np.array([b]), np.float64, method=method, **options)
            assert same_samples(sol, whole, np.array([b]))


@pytest.mark.parametrize("name", FIELDS)
def test_one_sample_without_a_batch(name):
    case, y0, args = many(name)
    whole = run((case, y0, args), np.arange(N), np.float64)
    one = nc.solve(case.field, take(y0, 3), T, case.params, take(args, 3), batch=False)
    for a, b in zip(leaves(one.y), leaves(whole.y), strict=True):
        assert a.tobytes() == b[3].tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_threads(method, dtype):
    """States and all gradients, those in params too."""
    for i, options in enumerate(options_of(method)):
        name = FIELDS[(METHODS.index(method) + 3 * i) % len(FIELDS)]
        problem = many(name)
        each = []
        for threads in (1, 2):
            sol = run(
                problem,
                np.arange(N),
                dtype,
                method=method,
                adjoint="discrete",
                threads=threads,
                **options,
            )
            each.append((sol, sol.vjp(random_like(sol.y, np.random.default_rng(1)))))
        (a, g), (b, h) = each
        assert same_samples(a, b, np.arange(N)) and same_bits(all_of(g), all_of(h)), (name, options)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_sample(method, dtype):
    """In y0, args and t they do not depend on the batch; in params they sum over it."""
    for i, options in enumerate(options_of(method)):
        name = ("hybrid", "sample_rate", "nested_trees", "ignores_y")[i]
        problem = many(name)
        rng, t = np.random.default_rng(i), np.tile(T, (N, 1))
        whole = run(problem, np.arange(N), dtype, t, method=method, adjoint="discrete", **options)
        dy = random_like(whole.y, rng)
        g = whole.vjp(dy)
        for n in (1, 17):
            index = rng.permutation(N)[:n]
            sol = run(problem, index, dtype, t[index], method=method, adjoint="discrete", **options)
            h = sol.vjp(take(dy, index))
            for part in ("y0", "args", "t"):
                assert same_bits(take(getattr(g, part), index), getattr(h, part)), (name, n, part)


def test_ragged_times_and_stops_are_a_samples_own():
    problem = many("hybrid")
    rng = np.random.default_rng(0)
    t = [np.sort(rng.choice(40, rng.integers(1, 9), replace=False)) / 30 for _ in range(N)]
    stops = [rng.uniform(0, 1.4, rng.integers(0, 4)) for _ in range(N)]
    for options in ({}, {"tstops": True}, {"tstops": stops}, {"dt": 0.07, "tstops": stops}):
        whole = run(problem, np.arange(N), np.float64, t, method="tsit5", **options)
        for b in range(0, N, 7):
            own = {**options, "tstops": [stops[b]]} if options.get("tstops") is stops else options
            sol = run(problem, np.array([b]), np.float64, [t[b]], method="tsit5", **own)
            assert sol.y[0].tobytes() == whole.y[b].tobytes()
            assert sol.stats.nfev[0] == whole.stats.nfev[b]


@pytest.mark.parametrize("method", METHODS)
def test_work_is_the_sum_of_the_samples_own(method):
    """Van der Pol, one easy and one hard: a mixed batch beats its size times its slowest."""

    def field(t, y, p, a):
        return [y[1], a * (1 - y[0] ** 2) * y[1] - y[0]]

    mu = np.geomspace(0.1, 30, 24)
    y0 = np.tile([2.0, 0.0], (24, 1))
    adaptive = nc.methods.get(method).adaptive
    t = (
        [np.array([0.0, 5.0])] * 24
        if adaptive
        else [np.array([0.0, 0.1 + 0.2 * b]) for b in range(24)]
    )
    options = {"rtol": 1e-4} if adaptive else {"dt": 0.004}
    sol = nc.solve(field, y0, t, None, mu, method=method, **options)
    alone = [
        nc.solve(field, y0[b], t[b], None, mu[b], method=method, **options).stats.nfev
        for b in range(24)
    ]
    assert sol.stats.nfev.tolist() == alone
    assert max(alone) > 2 * min(alone)


def test_a_failed_neighbour_changes_nothing():
    def field(t, y, p, a):
        return y**2 * a - y

    a = np.linspace(-1, 3, N)
    y0 = np.ones((N, 1))
    y0[5] = np.nan
    a[11] = np.inf
    for method in METHODS:
        options = {} if nc.methods.get(method).adaptive else {"dt": 0.05}
        sol = nc.solve(field, y0, T, None, a, method=method, on_failure="mark", **options)
        assert not sol.ok and sol.status[5] != 0 and sol.status[11] != 0
        good = np.flatnonzero(sol.status == nc.Status.OK)
        assert good.size >= N // 2
        part = nc.solve(field, y0[good], T, None, a[good], method=method, **options)
        assert part.y.tobytes() == sol.y[good].tobytes()


@pytest.mark.skipif("NODECORE_ISA" in os.environ, reason="this is the run with another ISA")
@pytest.mark.parametrize("isa", nc.show_config()["isa_available"])
def test_every_instruction_set(isa):
    """Batches and threads by every method, with the instruction set forced and seen active."""
    if isa == nc.show_config()["isa"]:
        pytest.skip("this is the default: the tests above ran with it")
    code = (
        "import nodecore as nc, pytest, sys; "
        f"assert nc.show_config()['isa'] == {isa!r}; "
        "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-k", "any_order or threads", __file__],
        env={**os.environ, "NODECORE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

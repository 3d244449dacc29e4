"""Gradients within a budget: the bits of keeping everything, the work of the formula, the bytes."""

import re

import numpy as np
import pytest
from test_adjoint import CASES, TIMES, all_of, grids_of, random_like, same_bits, solve

import nodecore as nc
from nodecore import tree
from nodecore._adjoint import parse_bytes
from nodecore.schedule import optimal_recomputation

METHODS = nc.methods.names()
FIELDS = ("hybrid", "sample_rate", "nested_trees", "one_number")
BUDGETS = [
    nc.Discrete(checkpoints=1),
    nc.Discrete(checkpoints=3),
    nc.Discrete(checkpoints=100),
    nc.Discrete(checkpoints=4, schedule="binomial"),
    nc.Discrete(checkpoints=4, schedule="uniform"),
    nc.Discrete(memory="64 KiB", schedule="binomial"),
    nc.Discrete(memory=20_000, checkpoints=5),
    nc.Discrete(memory="2 MiB"),
    nc.Discrete(schedule="all"),
]


def with_budget(case, t, dtype, budget, **options):
    y0 = tree.map(lambda x: x.astype(dtype), case.y0)
    return nc.solve(
        case.field, y0, t, case.params, case.args, batch=True, adjoint=budget, **options
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_the_bits_of_keeping_everything(method, dtype):
    """Any budget, fixed and adaptive, shared and ragged times, stops; twice, since slots move."""
    for i, (grid, options) in enumerate(grids_of(method).items()):
        if "rtol" in options:
            options = {**options, "rtol": 1e-4, "atol": 1e-4}
        options = {**options, "method": method}
        case = CASES[FIELDS[i % len(FIELDS)]]
        times = list(TIMES)[i % len(TIMES)]
        whole = solve(case, TIMES[times], dtype, **options)
        dy = random_like(whole.y, np.random.default_rng(i))
        g = all_of(whole.vjp(dy))
        assert whole.stats.recomputed_steps == 0
        for budget in BUDGETS[i % 3 :: 3]:
            sol = with_budget(case, TIMES[times], dtype, budget, **options)
            assert same_bits(sol.y, whole.y), (grid, budget)
            for _ in range(2):
                assert same_bits(all_of(sol.vjp(dy)), g), (grid, times, budget)
            if budget.memory is not None:
                assert sol.stats.storage_bytes <= parse_bytes(budget.memory)


@pytest.mark.parametrize("schedule", ["binomial", "uniform"])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_samples_of_mixed_difficulty(threads, schedule):
    """Lanes are refilled, steps rejected, chunks several: checkpoints hold the whole tile."""
    rng = np.random.default_rng(0)
    N = 120
    y0 = rng.normal(size=(N, 2)) * np.exp(rng.normal(size=(N, 1)))
    mu = np.geomspace(0.1, 10, N)
    t = [np.sort(rng.uniform(0, 3, rng.integers(1, 6))) for _ in range(N)]

    def field(t, y, p, a):
        return [y[1], p * a * (1 - y[0] ** 2) * y[1] - y[0]]

    def run(adjoint):
        return nc.solve(field, y0, t, 1.1, mu, rtol=1e-5, adjoint=adjoint, threads=threads)

    whole = run("discrete")
    dy = [rng.normal(size=y.shape) for y in whole.y]
    g = all_of(whole.vjp(dy))
    for budget in (
        nc.Discrete(checkpoints=3, schedule=schedule),
        nc.Discrete(memory="256 KiB", schedule=schedule),
    ):
        sol = run(budget)
        for _ in range(3):
            assert same_bits(all_of(sol.vjp(dy)), g)
        assert sol.stats.recomputed_steps > 0


def decay(t, y, k):
    return -k * y * np.cos(t)


def gradient_of(n, budget, **options):
    sol = nc.solve(decay, [1.0, 0.5], [0.0, 2.0], 0.7, method="rk4", steps=n, adjoint=budget)
    g = sol.vjp(np.ones((2, 2)))
    return sol, g


@pytest.mark.parametrize("n", [100, 1000])
def test_work_is_optimal(n):
    """One sample on a known grid: Revolve's count, in each pass."""
    _, g = gradient_of(n, "discrete")
    for slots in (3, 4, 5, 7, 10, 14, 20):
        sol, h = gradient_of(n, nc.Discrete(checkpoints=slots))
        assert sol.stats.recomputed_steps == optimal_recomputation(n, slots)
        assert same_bits(all_of(g), all_of(h))
        assert f"{slots} slots" in sol.adjoint and "binomial" in sol.adjoint
        assert f"predicted recomputation {optimal_recomputation(n, slots)} lane" in sol.adjoint
        again = sol.vjp(np.ones((2, 2)))
        assert same_bits(all_of(again), all_of(h))
        # the slots were used: the first sweep is made once more
        assert sol.stats.recomputed_steps == n + optimal_recomputation(n, slots)


@pytest.mark.parametrize("n", [100, 1000])
def test_known_grids_are_known(n):
    """Of dt=, and of a replay of steps that were found adaptively."""
    for slots in (3, 10, 20):
        budget = nc.Discrete(checkpoints=slots)
        sol = nc.solve(decay, [1.0], [0.0, 2.0], 0.7, method="rk4", dt=2 / n, adjoint=budget)
        sol.vjp(np.ones((2, 1)))
        assert sol.stats.recomputed_steps == optimal_recomputation(n, slots)
        found = nc.solve(
            decay, [1.0], [0.0, 2.0], 0.7, max_step=2 / n * 1.0001, adjoint=budget
        ).replay()
        found.vjp(np.ones((2, 1)))
        steps = found.stats.accepted
        assert found.stats.recomputed_steps == optimal_recomputation(steps, slots)


@pytest.mark.parametrize("n", [100, 1000])
def test_adaptive_work_is_near_the_optimum(n):
    for slots in (3, 5, 10, 20):
        sol = nc.solve(
            decay, [1.0], [0.0, 2.0], 0.7, max_step=2 / n * 1.0001,
            adjoint=nc.Discrete(checkpoints=slots),
        )  # fmt: skip
        sol.vjp(np.ones((2, 1)))
        steps = sol.stats.accepted
        assert steps >= n and "online" in sol.adjoint
        optimum = optimal_recomputation(steps, slots)
        assert sol.stats.recomputed_steps + steps <= 1.4 * (optimum + steps)
        sol.vjp(np.ones((2, 1)))  # the number of steps is known now
        assert sol.stats.recomputed_steps == steps + optimum


def test_batches_share_no_slots():
    """The slots are a sample's: a batch that fills several tiles keeps as many for each."""
    n, slots = 200, 5
    for B in (1, 2, 7, 40):
        sol = nc.solve(
            decay, np.ones((B, 1)), [0.0, 2.0], 0.7, method="rk4", steps=n,
            adjoint=nc.Discrete(checkpoints=slots),
        )  # fmt: skip
        sol.vjp(np.ones((B, 2, 1)))
        # a tile's later generations cannot use the state that is at hand when the sweep ends
        each = sol.stats.recomputed_steps / B
        assert optimal_recomputation(n, slots) <= each <= optimal_recomputation(n, slots) + n


def test_memory_is_kept_and_used():
    """More memory, less work; never more bytes than granted, and none wasted when all fits."""
    work = []
    for memory in (2_000, 8_000, 32_000, 1 << 20):
        sol, _ = gradient_of(1000, nc.Discrete(memory=memory))
        assert 0 < sol.stats.storage_bytes <= memory
        work.append(sol.stats.recomputed_steps)
    assert work == sorted(work, reverse=True) and work[-1] == 0
    assert work[0] > 1.5 * work[1] > 2.5 * work[2]
    assert "all steps fit" in sol.adjoint


def test_storage_does_not_grow_with_the_steps():
    budget = nc.Discrete(memory="16 KiB")
    bytes_ = [gradient_of(n, budget)[0].stats.storage_bytes for n in (300, 3000, 10_000)]
    assert max(bytes_) <= 16 * 1024 and bytes_[1] == bytes_[2]


@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 40}, {}, {"method": "dop853"}])
@pytest.mark.parametrize("B", [1, 5, 100])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_budget_that_is_too_small_names_the_smallest(dtype, B, options):
    def run(memory):
        y0 = np.linspace(0.1, 1, 3 * B).reshape(B, 3).astype(dtype)
        return nc.solve(decay, y0, [0.0, 2.0], 0.7, adjoint=nc.Discrete(memory=memory), **options)

    with pytest.raises(nc.InputError, match="memory=10 is too small") as caught:
        run(10)
    least = int(re.search(r"needs (\d+) bytes", str(caught.value))[1])
    sol = run(least)
    g = sol.vjp(np.ones((B, 2, 3)))
    assert np.isfinite(g.params) and sol.stats.storage_bytes <= least
    with pytest.raises(nc.InputError, match=f"needs {least} bytes"):
        run(least - 1)


def test_auto_is_a_budget_too():
    sol, g = gradient_of(50, "auto")
    assert sol.stats.recomputed_steps == 0 and "binomial" in sol.adjoint
    assert same_bits(all_of(g), all_of(gradient_of(50, "discrete")[1]))


def test_failed_samples_within_a_budget():
    y0 = np.array([[0.1], [2.0], [np.nan], [0.2], [3.0]])

    def run(adjoint):
        return nc.solve(lambda t, y, p: p * y**2, y0, [0.0, 0.5, 1.0], 1.0, adjoint=adjoint,
                        on_failure="mark")  # fmt: skip

    whole, dy = run("discrete"), np.ones((5, 3, 1))
    g = all_of(whole.vjp(dy))
    assert g[0][[0, 3]].all() and not g[0][[1, 2, 4]].any()
    for budget in (nc.Discrete(checkpoints=5), nc.Discrete(memory="8 KiB")):
        sol = run(budget)
        for _ in range(2):
            assert same_bits(all_of(sol.vjp(dy)), g)


def test_opaque_fields_within_a_budget():
    def fun(t, y, p, a):
        return -p * y

    def vjp(t, y, p, a, ct):
        return -p * ct, -np.sum(ct * y), None

    y0 = np.array([[1.0], [2.0], [3.0]])
    field = nc.opaque(fun, vjp)
    gs = [
        nc.solve(field, y0, [0.0, 1.0], 2.0, adjoint=adjoint).vjp(np.ones((3, 2, 1)))
        for adjoint in ("discrete", nc.Discrete(checkpoints=2), nc.Discrete(memory=4096))
    ]
    for g in gs[1:]:
        assert same_bits([g.y0, g.params], [gs[0].y0, gs[0].params])


def test_auto_keeps_what_the_steps_need():
    """The schedule of a large budget takes room as steps are made, not for all it may hold."""
    sol = nc.solve(lambda t, y: -y, np.ones((7, 2)), np.linspace(0, 1, 5), adjoint="auto")
    assert 0 < sol.stats.storage_bytes < 1 << 20
    assert sol.vjp(np.ones_like(sol.y)).y0.shape == (7, 2)
    assert sol.stats.recomputed_steps == 0

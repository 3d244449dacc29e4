"""The continuous adjoint within a budget: the gradient of keeping all steps, and the bytes."""

import os
import re
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from test_adjoint import CASES, TIMES, grids_of, same_bits, solve
from test_continuous import ARGS, PARAMS, SHARED, Y0, B, cotangent, difference, field, flat

import nodecore as nc
from nodecore import _adjoint, _record

WITH_Y = ("gauss", "interpolating")
MODES = (*WITH_Y, "backsolve")
METHODS = {
    "tsit5": {"method": "tsit5", "rtol": 1e-8},
    "dopri5": {"method": "dopri5", "rtol": 1e-8},
    "rk4": {"method": "rk4", "dt": 0.02},
    "kvaerno5": {"method": "kvaerno5", "rtol": 1e-8},
    "radau5": {"method": "radau5", "rtol": 1e-8},
    "rodas5p": {"method": "rodas5p", "rtol": 1e-6},
    "auto": {"method": "auto", "rtol": 1e-8},
}


def smallest(run):
    """The budget that the error of a tiny one names."""
    with pytest.raises(nc.InputError, match="memory=10 is too small") as caught:
        run(10)
    return int(re.search(r"needs (\d+) bytes", str(caught.value))[1])


@pytest.mark.parametrize("times", ["shared", "backwards", "ragged"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", WITH_Y)
def test_the_gradient_of_keeping_all_steps(mode, method, times):
    t = {
        "shared": np.linspace(0, 2, 6),
        "backwards": np.linspace(2, 0, 6),
        "ragged": [np.linspace(0.1 * i, 1 + 0.2 * i, 3 + i) for i in range(B)],
    }[times]

    def run(memory):
        adjoint = nc.Continuous(mode, memory=memory)
        return nc.solve(field, Y0, t, PARAMS, ARGS, adjoint=adjoint, **METHODS[method])

    whole = run(None)
    dy = cotangent(whole)
    exact = whole.vjp(dy)
    assert whole.stats.recomputed_steps == 0
    least = smallest(run)
    for memory in (least, 2 * least, 8 * least, "32 MiB"):
        sol = run(memory)
        assert same_bits(sol.y, whole.y)
        g = sol.vjp(dy)
        assert difference(g, exact) < 5e-6
        assert sol.stats.storage_bytes <= _adjoint.parse_bytes(memory)
        assert sol.stats.recomputed_steps >= 0.5 * np.sum(sol.stats.accepted)
        assert same_bits(flat(g), flat(sol.vjp(dy)))  # from what the first has left
        assert "checkpoints" in sol.adjoint
    assert same_bits(g.y0, exact.y0)  # all fit into a window: nothing was cut
    np.testing.assert_allclose(flat(g), flat(exact), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("method", nc.methods.names())
def test_windows_are_made_again_with_the_same_bits(method):
    """From the last to the first, and once more, whatever the sizes of windows and of the pool."""
    for i, (grid, options) in enumerate(grids_of(method).items()):
        case = CASES[("hybrid", "sample_rate")[i % 2]]
        t = TIMES[list(TIMES)[i % len(TIMES)]]
        want = solve(case, t, method=method, **options)._run.steps()
        for window, slots in ((1, 2), (3, 1), (5, 3), (4, 100)):
            made = limited(case, t, window, slots, method=method, **options)
            for _ in range(2):
                parts = list(from_the_end(made, window))
                columns = [np.concatenate(c) for c in zip(*parts[::-1], strict=True)]
                order = np.argsort(columns[0], kind="stable")
                for a, b in zip(columns, want, strict=True):
                    assert same_bits(a[order], b), (grid, window, slots)


def limited(case, t, window, slots, **options):
    """A run whose records keep at most so many states, each before so many tile steps."""

    class Plan(_record.Plan):
        def __call__(self, lanes, bounds, *sizes):
            return [(_record.KEEP_ONLINE, slots, 0, 0, window)] * (len(bounds) - 1), 0

    with mock.patch.object(_record, "plan_for", lambda *_: Plan(nc.Discrete(), None)):
        return solve(case, t, **options)._run


def from_the_end(run, window):
    for chunk, n in enumerate(run.kept_steps()):
        for begin in range((n - 1) // window * window, -1, -window):
            yield run.window([chunk], [begin], [min(begin + window, n)])[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", WITH_Y)
def test_more_samples_than_lanes(mode, threads):
    """Chunks whose samples are in different windows, and of different lengths."""
    N, rng = 150, np.random.default_rng(5)
    y0, rate = rng.normal(size=(N, 2)), np.geomspace(0.1, 10, N)
    t = [np.sort(rng.uniform(0, 2, rng.integers(1, 6))) for _ in range(N)]

    def oscillator(t, y, p, a):
        return [y[1], p * a * (1 - y[0] ** 2) * y[1] - y[0]]

    def run(memory):
        adjoint = nc.Continuous(mode, memory=memory, rtol=1e-8, atol=1e-10)
        return nc.solve(oscillator, y0, t, 1.1, rate, rtol=1e-7, adjoint=adjoint, threads=threads)

    whole = run(None)
    dy = [rng.normal(size=y.shape) for y in whole.y]
    exact = whole.vjp(dy)
    again = []
    for memory in (smallest(run), 100_000, 1_000_000, "64 MiB"):
        sol = run(memory)
        g = sol.vjp(dy)
        assert difference(g, exact) < 1e-5
        assert sol.stats.storage_bytes <= _adjoint.parse_bytes(memory)
        again.append(sol.stats.recomputed_steps)
    assert again == sorted(again, reverse=True) and again[0] > 3 * again[-1] > 0
    assert same_bits(g.y0, exact.y0)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("tstops", ["times", "outputs"])
@pytest.mark.parametrize("mode", WITH_Y)
def test_jumps_of_the_field(mode, tstops, backwards):
    jump = 1.25

    def dosed(t, y, k):
        return -k * y + np.where(t < jump, 2.0, 0.5 * y)

    t = np.array([0.0, 0.5, jump, 2.0]) if tstops == "outputs" else np.array([0.0, 0.5, 2.0])
    t = t[::-1].copy() if backwards else t
    options = {"rtol": 1e-9, "tstops": True if tstops == "outputs" else np.array([jump])}

    def run(memory):
        adjoint = nc.Continuous(mode, memory=memory)
        return nc.solve(dosed, np.ones((2, 1)), t, 0.8, adjoint=adjoint, **options)

    whole = run(None)
    dy = cotangent(whole)
    sol = run(smallest(run))
    assert difference(sol.vjp(dy), whole.vjp(dy), ["y0", "params"]) < 1e-6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("mode", MODES)
def test_a_budget_that_is_too_small_names_the_smallest(mode, size, dtype):
    rtol = 1e-4 if dtype is np.float32 else 1e-7

    def run(memory, **options):
        y0 = np.linspace(0.1, 1, 3 * size).reshape(size, 3).astype(dtype)
        return nc.solve(
            lambda t, y, k, a: -k * y * np.cos(t) * a, y0, [0.0, 1.0, 2.0], 0.7, np.ones(size),
            rtol=rtol, atol=rtol / 100, adjoint=nc.Continuous(mode, memory=memory, **options),
        )  # fmt: skip

    least = smallest(run)
    whole, sol = run(None), run(least)
    dy = cotangent(whole)
    assert difference(sol.vjp(dy), whole.vjp(dy)) < 30 * rtol
    assert sol.stats.storage_bytes <= least
    with pytest.raises(nc.InputError, match=f"needs {least} bytes"):
        run(least - 1)
    # many more steps back than forth: the backward solve goes on from where its room ended
    if mode != "backsolve" and dtype is np.float64:
        fine = {"method": "bosh3", "rtol": 1e-8, "atol": 1e-10}
        small = run(smallest(lambda m: run(m, **fine)), **fine)
        assert difference(small.vjp(dy), run(None, **fine).vjp(dy)) < 1e-6
        assert small.stats.storage_bytes <= least


def test_impossible_budgets():
    for memory in (0, -1, "lots", True, "3 apples"):
        with pytest.raises(nc.InputError, match="memory must be a number of bytes"):
            nc.Continuous(memory=memory)


@pytest.mark.parametrize("mode", WITH_Y)
def test_failed_samples_within_a_budget(mode):
    y0 = np.array([[0.1], [2.0], [np.nan], [0.2], [3.0]])

    def run(memory):
        return nc.solve(
            lambda t, y, p: p * y**2, y0, [0.0, 0.5, 1.0], 1.0, rtol=1e-8, on_failure="mark",
            adjoint=nc.Continuous(mode, memory=memory),
        )  # fmt: skip

    whole, sol = run(None), run(smallest(run))
    dy = np.ones((5, 3, 1))
    assert same_bits(sol.status, whole.status) and sum(sol.status != 0) == 3
    g = sol.vjp(dy)
    assert difference(g, whole.vjp(dy)) < 1e-6
    assert g.y0[[0, 3]].all() and not g.y0[[1, 2, 4]].any()


def test_a_backward_solve_that_fails_within_a_budget():
    def run(memory):
        y0 = [[1.0, 1.0], [1.0, 0.0]]
        adjoint = nc.Continuous(memory=memory)
        return nc.solve(lambda t, y, k: -k * np.sqrt(y), y0, [0.0, 1.0], 1.0, adjoint=adjoint)

    with pytest.raises(nc.GradientError, match="sample 1: the backward solve .* failed"):
        run(smallest(run)).vjp(np.ones((2, 2, 2)))


@pytest.mark.parametrize("mode", WITH_Y)
def test_without_a_budget_a_quarter_of_the_memory_is_one(mode, monkeypatch):
    def run():
        return nc.solve(field, Y0, SHARED, PARAMS, ARGS, rtol=1e-9, adjoint=nc.Continuous(mode))

    whole = run()
    dy = cotangent(whole)
    assert "every forward step is kept" in whole.adjoint
    monkeypatch.setattr(_adjoint, "quarter_of_memory", lambda: 60_000)
    sol = run()
    assert "checkpoints" in sol.adjoint
    assert same_bits(sol.y, whole.y)
    assert difference(sol.vjp(dy), whole.vjp(dy)) < 1e-6
    assert sol.stats.storage_bytes <= 60_000 < whole.stats.storage_bytes


def test_backsolve_keeps_no_steps():
    """Nor does it make any again; all that looks at steps still can."""
    kept = []
    for n in (100, 1000):
        sol = nc.solve(
            field, Y0, SHARED, PARAMS, ARGS, method="rk4", steps=n,
            adjoint=nc.Continuous("backsolve"),
        )  # fmt: skip
        sol.vjp(cotangent(sol))
        kept.append(sol.stats.storage_bytes)
        assert sol.stats.recomputed_steps == 0
    assert kept[0] == kept[1] < 4096
    assert nc.gradcheck(sol) < 1e-5
    whole = nc.solve(field, Y0, SHARED, PARAMS, ARGS, method="rk4", steps=1000, adjoint="discrete")
    assert same_bits(sol.jvp(dy0=Y0), whole.jvp(dy0=Y0))
    assert same_bits(sol.replay().y, whole.y)


def test_dense_output_within_a_budget():
    t = np.linspace(0, 1.5, 40)
    sol, whole = [
        nc.solve(field, Y0, SHARED, PARAMS, ARGS, dense=True, adjoint=nc.Continuous(memory=memory))
        for memory in (60_000, None)
    ]
    assert same_bits(sol(t), whole(t))


MEMORY = """
import resource, sys
import numpy as np
import nodecore as nc

def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))

def gradient(steps, memory):
    sol = nc.solve(
        lambda t, y, p: [y[1], -p * np.sin(y[0])], np.linspace(0.1, 1, 16).reshape(8, 2),
        [0.0, 20.0], 1.3, method=METHOD, dt=20 / steps, max_steps=10**6,
        adjoint=nc.Continuous(MODE, memory=memory))
    sol.vjp(np.ones_like(sol.y))
    return sol.stats.storage_bytes

gradient(200, BUDGET)
before = peak()
stored = gradient(STEPS, BUDGET)
print(peak() - before, stored)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peaks are read from /proc")
@pytest.mark.parametrize(("method", "steps"), [("rk4", 40_000), ("kvaerno5", 8_000)])
@pytest.mark.parametrize("mode", MODES)
def test_the_process_stays_within_the_budget(mode, method, steps):
    budget = 1 << 20  # all steps and their polynomials would be 40 to 90 MiB
    values = {"MODE": mode, "METHOD": method, "BUDGET": budget, "STEPS": steps}
    code = "".join(f"{k} = {v!r}\n" for k, v in values.items()) + MEMORY
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    grown, stored = map(int, done.stdout.split())
    assert stored <= budget
    assert grown <= budget + (6 << 20)

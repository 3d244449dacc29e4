"""Threads, signals, fork, environment, progress: a solve is a good citizen of its process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nodecore as nc
from nodecore import plan

T = np.linspace(0.0, 2.0, 6)
rng = np.random.default_rng(3)
PARAMS = {
    "W1": rng.standard_normal((3, 16)),
    "b1": rng.standard_normal(16),
    "W2": 0.3 * rng.standard_normal((16, 3)),
}
Y0 = rng.standard_normal((70, 3)) * 10 ** rng.uniform(-0.5, 1.0, (70, 1))
ARGS = rng.standard_normal(70)


def mlp(t, y, p, a):
    return np.tanh(y @ p["W1"] + p["b1"] * a) @ p["W2"] - 0.1 * y


def stiff(t, y):  # takes 10^9 steps to t = 3000
    return -1e6 * (y - np.cos(t))


LONG = {"max_steps": 10**12}


def run(source, timeout=60, **env):
    """The output of a Python program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def flat(g):
    return np.concatenate([g.y0.ravel(), *(g.params[k].ravel() for k in PARAMS), g.args, g.t])


def gradient(sol):
    return flat(sol.vjp(np.ones_like(sol.y)))


# ---- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(threads):
    options = {"adjoint": "discrete", "rtol": 1e-8}
    one = nc.solve(mlp, Y0, T, PARAMS, ARGS, threads=1, **options)
    many = nc.solve(mlp, Y0, T, PARAMS, ARGS, threads=threads, **options)
    free = nc.solve(mlp, Y0, T, PARAMS, ARGS, threads=threads, rtol=1e-8)
    np.testing.assert_array_equal(one.y, many.y)
    np.testing.assert_array_equal(one.y, free.y)
    np.testing.assert_array_equal(gradient(one), gradient(many))
    for name in ("accepted", "rejected", "nfev"):
        np.testing.assert_array_equal(getattr(one.stats, name), getattr(many.stats, name))


def test_concurrent_solves_give_the_same_bits():
    def job(i):
        n = 5 + 13 * (i % 5)
        sol = nc.solve(
            mlp, Y0[:n], T, PARAMS, ARGS[:n], adjoint="discrete", threads=1 + i % 2,
            method=("tsit5", "dop853", "bosh3")[i % 3],
        )  # fmt: skip
        return sol.y, gradient(sol)

    expected = [job(i) for i in range(15)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for (y, g), (y_, g_) in zip(pool.map(job, range(15)), expected, strict=True):
                np.testing.assert_array_equal(y, y_)
                np.testing.assert_array_equal(g, g_)


def test_one_field_and_one_solution_in_several_threads():
    field = nc.field(mlp)
    sol = nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete")
    expected = gradient(sol)

    def job(i):
        if i % 2:
            return gradient(sol)
        return gradient(nc.solve(field, Y0, T, PARAMS, ARGS, adjoint="discrete"))

    with ThreadPoolExecutor(6) as pool:
        for g in pool.map(job, range(40)):
            np.testing.assert_array_equal(g, expected)


def test_an_opaque_solution_in_several_threads():
    def fun(t, y, p, a):
        return -p * y * y

    def vjp(t, y, p, a, ct):
        return -2 * p * y * ct, -np.sum(ct * y * y), None

    sol = nc.solve(nc.opaque(fun, vjp), np.abs(Y0[:9]), T, 0.5, adjoint="discrete")
    dy = np.ones_like(sol.y)
    expected = sol.vjp(dy)
    with ThreadPoolExecutor(4) as pool:
        for g in pool.map(lambda _: sol.vjp(dy), range(12)):
            np.testing.assert_array_equal(g.y0, expected.y0)
            assert g.params == expected.params


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_a_solve_within_a_solve():
    def outer(t, y, p, a):
        inner = nc.solve(lambda t, y: -y, y, [0, 0.1], threads=2)
        return -inner.y[:, -1]

    y0 = np.abs(Y0[:5])
    sol = nc.solve(nc.opaque(outer), y0, [0, 1.0])
    np.testing.assert_allclose(sol.y[:, -1], y0 * np.exp(-np.exp(-0.1)), rtol=1e-4)
    seen = []

    def progress(done):
        seen.append(nc.solve(lambda t, y: -y, y0, [0, 0.1], threads=2).ok)

    nc.solve(slow, np.ones((200, 2)), [0, 1.0], progress=progress, threads=2)
    assert all(seen)


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_the_gil_is_released():
    """Another Python thread makes progress while a solve runs."""
    count = 0
    stop = threading.Event()

    def work():
        nonlocal count
        while not stop.is_set():
            count += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        before = count
        begin = time.perf_counter()
        sol = nc.solve(stiff, np.ones((1, 2)), [0, 3000.0], deadline=0.3, on_failure="mark", **LONG)
        seconds, done = time.perf_counter() - begin, count - before
    finally:
        stop.set()
        worker.join()
    assert sol.status[0] == nc.Status.DEADLINE
    assert seconds < 1.0
    assert done > 1000


# ---- Ctrl-C -----------------------------------------------------------------------------------

INTERRUPT = """
    import os, signal, threading, time
    import numpy as np, nodecore as nc

    def stiff(t, y):
        return -1e6 * (y - np.cos(t))

    def quiet(t, y):
        return -y

    {setup}
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by jobs in the background
    timer = threading.Timer(0.3, interrupt)
    timer.start()
    try:
        {work}
    except KeyboardInterrupt:
        seconds = time.perf_counter() - sent[0]
    else:
        raise SystemExit("not interrupted")
    for threads in (1, 2):  # everything is usable afterwards
        y0 = np.linspace(0.1, 1, 100)[:, None]
        sol = nc.solve(quiet, y0, [0, 1.0], threads=threads, adjoint="discrete")
        assert np.allclose(sol.y[:, -1], y0 / np.e, rtol=1e-5)
        assert np.allclose(sol.vjp(np.ones_like(sol.y)).y0, 1 + 1 / np.e, rtol=1e-5)
    print(seconds)
"""


@pytest.mark.parametrize(
    "setup, work",
    [
        ("pass", "nc.solve(stiff, [1.0], [0, 3e3], max_steps=10**12)"),
        ("pass", "nc.solve(stiff, np.ones((64, 2)), [0, 3e3], max_steps=10**12, threads=2)"),
        # the calling thread is soon out of work: it waits for the other one, and for the signal
        ("pass",
         "nc.solve(quiet, np.ones((2, 1)), [[0, 20.0], [0, 1e9]], adjoint='discrete', "
         "max_steps=10**12, threads=2, method='euler', dt=1e-3)"),
        ("W = np.ones((1500, 1500)) * 1e-5",
         "nc.solve(lambda t, y, p: np.tanh(y @ p) - y, np.ones((64, 1500)), [0, 1e9], W, "
         "method='rk4', dt=0.01, max_steps=10**12)"),
        # the backward pass
        ("sol = nc.solve(stiff, np.ones((2, 4)), [0, 1.5], adjoint='discrete', threads=2)\n"
         "    dy = np.ones_like(sol.y)",
         "while True: sol.vjp(dy)"),
        ("def fun(t, y, p, a):\n        time.sleep(0.01)\n        return -y",
         "nc.solve(nc.opaque(fun), np.ones((3, 1)), [0, 1e9], method='rk4', dt=0.01, "
         "max_steps=10**12)"),
    ],
    ids=["single", "batch", "waiting", "wide", "backward", "opaque"],
)  # fmt: skip
def test_an_interrupt_ends_a_long_solve(setup, work):
    source = INTERRUPT.format(setup=setup, work=work)
    # a busy machine may stall any of them
    assert any(float(run(source)) < 0.2 for _ in range(3))


# ---- fork -------------------------------------------------------------------------------------


def child_solves(sol, queue):
    again = nc.solve(mlp, Y0, T, PARAMS, ARGS, adjoint="discrete", threads=2)
    queue.put((again.y, gradient(again), gradient(sol), nc.show_config()["threads"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_fork_a_child_solves():
    sol = nc.solve(mlp, Y0, T, PARAMS, ARGS, adjoint="discrete", threads=2)
    expected = gradient(sol)
    big = nc.solve(mlp, np.tile(Y0, (60, 1)), T, PARAMS, np.tile(ARGS, 60), threads=2)
    assert big.ok  # this one took long enough to open a parallel region
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=child_solves, args=(sol, queue)) for _ in range(2)]
    for child in children:
        child.start()
    try:
        for _ in children:
            y, g, old, threads = queue.get(timeout=20)
            np.testing.assert_array_equal(y, sol.y)
            np.testing.assert_array_equal(g, expected)
            np.testing.assert_array_equal(old, expected)
            assert threads == 1
        for child in children:
            child.join(timeout=10)
            assert child.exitcode == 0
    finally:
        for child in children:
            child.kill()
    np.testing.assert_array_equal(gradient(sol), expected)  # the parent goes on as before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_while_another_thread_solves():
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            nc.solve(mlp, Y0, T, PARAMS, ARGS, adjoint="discrete", threads=2)

    thread = threading.Thread(target=busy)
    thread.start()
    pids = []
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                try:
                    ok = nc.solve(mlp, Y0[:9], T, PARAMS, ARGS[:9], threads=2).ok
                    os._exit(0 if ok else 1)
                finally:
                    os._exit(2)
            pids.append(pid)
            time.sleep(0.005)
        end = time.monotonic() + 20
        for pid in list(pids):
            done, status = 0, -1
            while not done and time.monotonic() < end:
                done, status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.002)
            assert done, "a child hangs"
            pids.remove(pid)
            assert status == 0
    finally:
        stop.set()
        thread.join()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


# ---- environment ------------------------------------------------------------------------------

TASKS = """
    import os, numpy as np, nodecore as nc
    y0 = np.tile(np.linspace(0.1, 1, 1000)[:, None], (20, 1))
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    sol = nc.solve(lambda t, y: np.sin(y) - y, y0, [0, 50.0], rtol=1e-9)
    after = len(os.listdir("/proc/self/task")) if before else 0
    print(nc.show_config()["threads"], after - before)
"""


@pytest.mark.parametrize(
    "env, threads",
    [
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"NODECORE_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, 1),
        ({"NODECORE_NUM_THREADS": "3"}, 3),
    ],
)
def test_the_environment_sets_the_number_of_threads(env, threads):
    told, started = run(TASKS, **{"NODECORE_NUM_THREADS": "", **env}).split()
    assert int(told) == threads
    if os.path.isdir("/proc/self/task") and nc.show_config()["openmp"]:
        assert int(started) == threads - 1


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none(value, monkeypatch):
    monkeypatch.setenv("NODECORE_NUM_THREADS", value)
    monkeypatch.setattr(plan, "_default_threads", None)
    with pytest.raises(nc.InputError, match="NODECORE_NUM_THREADS must be a positive integer"):
        nc.solve(lambda t, y: -y, [1.0], [0, 1.0])


@pytest.mark.parametrize(
    "content, cpus", [("150000 100000", 2), ("50000 100000", 1), ("400000 100000", 4)]
)
def test_the_cpus_that_a_container_grants(content, cpus, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.delenv("NODECORE_NUM_THREADS", raising=False)
    monkeypatch.setattr(plan, "_default_threads", None)
    monkeypatch.setattr(plan, "open", lambda path: open(tmp_path / path.split("/")[-1]), False)
    monkeypatch.setattr(plan._kernels, "openmp", lambda: (True, 8))
    assert plan.thread_count() == cpus
    (tmp_path / "cpu.max").write_text("max 100000")
    monkeypatch.setattr(plan, "_default_threads", None)
    assert plan.thread_count() == 8


@pytest.mark.parametrize("isa", nc.show_config()["isa_available"])
def test_each_instruction_set_can_be_forced(isa):
    source = """
        import numpy as np, nodecore as nc
        sol = nc.solve(lambda t, y, k: -k * y, np.ones((5, 3)), [0, 1.0], 2.0, adjoint="discrete")
        assert np.allclose(sol.y[:, -1], np.exp(-2), rtol=1e-5)
        assert np.allclose(sol.vjp(np.ones_like(sol.y)).params, -30 * np.exp(-2) / 2, rtol=1e-5)
        print(nc.show_config()["isa"])
    """
    assert run(source, NODECORE_ISA=f" {isa.upper()} ") == isa


def test_an_instruction_set_that_is_none(monkeypatch):
    monkeypatch.setenv("NODECORE_ISA", "nonsense")
    monkeypatch.setattr(plan, "_isa", None)
    for use in (nc.show_config, lambda: nc.solve(lambda t, y: -y, [1.0], [0, 1.0])):
        with pytest.raises(nc.InputError, match="NODECORE_ISA='nonsense' is not available") as e:
            use()
        assert "baseline" in str(e.value)


# ---- progress ---------------------------------------------------------------------------------


def slow(t, y):
    return -1e4 * (y - np.cos(t))


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_a_progress_callback():
    seen = []
    y0 = np.ones((400, 2))
    sol = nc.solve(slow, y0, [0, 2.0], progress=seen.append, threads=2)
    assert len(seen) >= 2 and seen[-1] == 1.0
    assert all(0 <= a <= b <= 1 for a, b in zip(seen, seen[1:], strict=False))
    np.testing.assert_array_equal(sol.y, nc.solve(slow, y0, [0, 2.0]).y)


def test_an_exception_in_a_progress_callback_arrives():
    mine = ValueError("mine")

    def progress(done):
        raise mine

    begin = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        nc.solve(stiff, np.ones((40, 2)), [0, 3000.0], progress=progress, threads=2, **LONG)
    assert caught.value is mine
    assert time.perf_counter() - begin < 1.0


@pytest.mark.filterwarnings("ignore::nodecore.StiffnessWarning")
def test_a_progress_bar(capfd):
    nc.solve(slow, np.ones((400, 2)), [0, 2.0], progress=True)
    assert "solve" in capfd.readouterr().err
    nc.solve(slow, np.ones((4, 2)), [0, 0.1], progress=False)
    assert capfd.readouterr().err == ""

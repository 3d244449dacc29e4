"""One library on one case, in a process of its own, doing what the coordinator sends.

Started by peers.py, which talks to it over a pipe. A request is (command, options), an answer
("ok", result) or ("error", text). Memory is that of this process: growth is the peak while a call
ran, less what was resident before it.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def resident() -> int:
    """Bytes resident now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def reset_peak() -> None:
    """Let the peak start again from what is resident (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak() -> int:
    """The largest number of bytes resident since the reset."""
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class Worker:
    def __init__(self, peer: str, case: str, dtype: str, threads: int) -> None:
        import cases

        self.case = cases.get(case)
        self.reference = cases.reference(self.case)
        begin = time.perf_counter()
        import adapters

        cls = adapters.ALL[peer]
        __import__(cls.module)
        self.import_seconds = time.perf_counter() - begin
        self.adapter = cls(self.case, dtype, threads)

    def hello(self) -> dict[str, Any]:
        return {"import": self.import_seconds, "resident": resident()}

    def tolerance(self, rtol: float) -> None:
        """rtol for the calls that follow, atol in proportion."""
        if rtol != self.adapter.rtol:
            self.adapter.use_tolerance(rtol)

    def errors(self, what: str, result: Any) -> dict[str, float]:
        """Relative to the reference: of all numbers together, and of the worst sample's."""
        ref = self.reference
        if what == "forward":
            y, exact = self.adapter.outputs(result)[:, 1:], ref.y[:, 1:]
            worst = max(relative(a, b) for a, b in zip(y, exact, strict=True))
            return {"error": relative(y, exact), "worst": worst}
        g = self.adapter.gradients(result[1])
        flat = [np.concatenate([x[k].ravel() for k in ref.g]) for x in (g, ref.g)]
        loss = float(result[0])
        return {"error": relative(*flat), "loss": loss}

    def first(self, what: str) -> dict[str, Any]:
        """The first call: seconds, growth of memory, errors."""
        gc.collect()
        reset_peak()
        before = resident()
        begin = time.perf_counter()
        result = getattr(self.adapter, what)()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "growth": peak() - before, **self.errors(what, result)}

    def burst(self, what: str, seconds: float) -> list[float]:
        """Times of calls, for about this long: at least one."""
        call = getattr(self.adapter, what)
        gc.collect()
        gc.disable()
        try:
            begin = time.perf_counter()
            call()  # caches and threads wake up; counted only if it was long
            times = [time.perf_counter() - begin]
            if times[0] > seconds / 4:
                return times
            times, end = [], time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                call()
                times.append(time.perf_counter() - begin)
            return times
        finally:
            gc.enable()


def main() -> None:
    fd, peer, case, dtype, threads = sys.argv[1:]
    pipe = Connection(int(fd))
    # float32 cases ask for the tolerances of the float64 ones, and libraries warn in many ways
    warnings.simplefilter("ignore")
    worker: Worker | None = None
    while True:
        try:
            command, options = pipe.recv()
        except EOFError:
            return
        try:
            if command == "start":
                worker = Worker(peer, case, dtype, int(threads))
                command = "hello"
            answer = ("ok", getattr(worker, command)(**options))
        except Exception as e:
            answer = ("error", f"{type(e).__name__}: {e}"[:500])
        try:
            pipe.send(answer)
        except OSError:
            return


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()

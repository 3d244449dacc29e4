"""Throughput of the kernels, seen through fixed steps of fields that are nothing but one operation.

Four evaluations a step (RK4) of many samples: stepping and calling are a few percent.
"""

import time

import numpy as np

import nodecore as nc

from . import ISAS, choose

OPS = {
    "tanh": np.tanh,
    "exp": lambda x: np.exp(-x),
    "log1p": lambda x: np.log1p(np.abs(x)),
    "sin": np.sin,
    "square": np.square,
}


def best_seconds(call, runs=5):
    call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


class _Kernel:
    def solve(self, field, y0, params=None, steps=50):
        self.evaluations = 4 * steps * len(y0)
        t, options = np.array([0.0, 1e-3]), {"method": "rk4", "steps": steps, "threads": 1}
        return lambda: nc.solve(field, y0, t, params, **options)


class Elementwise(_Kernel):
    """A chain of 16 equal functions on 64 rows, one thread."""

    params = (list(OPS), ["float32", "float64"], ISAS)
    param_names = ("op", "dtype", "isa")

    def setup(self, op, dtype, isa):
        choose(isa)
        fun = OPS[op]

        def field(t, y):
            for _ in range(16):
                y = fun(y)
            return y

        y0 = np.random.default_rng(0).uniform(-0.9, 0.9, size=(256, 64)).astype(dtype)
        self.call = self.solve(nc.field(field), y0)

    def track_ns_per_element(self, op, dtype, isa):
        return 1e9 * best_seconds(self.call) / (self.evaluations * 64 * 16)

    track_ns_per_element.unit = "ns"


class Affine(_Kernel):
    """A chain of 4 matrix products of this width, one thread; of many samples, and of one."""

    params = ([8, 32, 64, 256], [1, 256], ["float32", "float64"], ISAS)
    param_names = ("dim", "batch", "dtype", "isa")

    def setup(self, dim, batch, dtype, isa):
        choose(isa)
        rng = np.random.default_rng(0)
        w = [rng.normal(size=(dim, dim)) / np.sqrt(dim) for _ in range(4)]

        def field(t, y, p):
            for matrix in p:
                y = y @ matrix
            return y

        y0 = rng.normal(size=(batch, dim)).astype(dtype)
        steps = max(5, int(2e8 / (4 * batch * 4 * 2 * dim**2)))
        self.call = self.solve(nc.field(field), y0, w, min(steps, 2000))

    def track_gflops(self, dim, batch, dtype, isa):
        return self.evaluations * 4 * 2 * dim**2 / best_seconds(self.call) / 1e9

    track_gflops.unit = "GFLOP/s"


class Scalars(_Kernel):
    """Interpretation: 64 multiplications of one row each, a tile after the other."""

    params = (["float32", "float64"], ISAS)
    param_names = ("dtype", "isa")

    def setup(self, dtype, isa):
        choose(isa)

        def field(t, y):
            a, b = y
            for _ in range(32):
                a, b = a * b, b * a + a
            return [a, b]

        y0 = np.random.default_rng(0).uniform(0, 0.1, size=(256, 2)).astype(dtype)
        self.call = self.solve(nc.field(field), y0, steps=200)

    def track_ns_per_operation_and_sample(self, dtype, isa):
        return 1e9 * best_seconds(self.call) / (self.evaluations * 96)

    track_ns_per_operation_and_sample.unit = "ns"

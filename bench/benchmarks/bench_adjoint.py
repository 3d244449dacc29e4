"""Gradients of the cases' losses in all weights: time and memory."""

import numpy as np

import nodecore as nc

from . import choose
from .bench_solve import CASES, Problem


class Gradient:
    """Forward solve, loss and backward pass."""

    params = (CASES, ["float32", "float64"], [1, 2])
    param_names = ("case", "dtype", "threads")

    def setup(self, case, dtype, threads):
        choose(nc.show_config()["isa"])
        self.problem = Problem(case, dtype)

    def time_gradient(self, case, dtype, threads):
        self.problem.gradient(threads=threads)

    def track_storage_bytes(self, case, dtype, threads):
        """The peak of what is kept for the backward pass."""
        return self.problem.solve(adjoint="discrete", threads=threads).stats.storage_bytes

    track_storage_bytes.unit = "bytes"


class Budget:
    """1000 steps of S5 within a budget of memory, float64."""

    params = (["none", "1 MiB", "256 KiB"],)
    param_names = ("memory",)

    def setup(self, memory):
        choose(nc.show_config()["isa"])
        self.problem = Problem("S5-1e3", "float64")
        self.adjoint = nc.Discrete(memory=None if memory == "none" else memory)

    def time_gradient(self, memory):
        self.problem.gradient(adjoint=self.adjoint)

    def peakmem_gradient(self, memory):
        self.problem.gradient(adjoint=self.adjoint)

    def track_recomputed_steps_each(self, memory):
        """Steps made again, for each of the solve's."""
        sol = self.problem.solve(adjoint=self.adjoint)
        sol.vjp(np.ones_like(sol.y))
        return sol.stats.recomputed_steps / float(np.sum(sol.stats.accepted))

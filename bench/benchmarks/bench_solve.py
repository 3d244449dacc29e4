"""Forward solves: the cases of the comparison, and dim x batch."""

import cases
import numpy as np

import nodecore as nc

from . import ISAS, choose

CASES = ["S1", "S2", "S3a", "S4", "S5-1e3", "S7"]


class Problem:
    """A case's arguments of `nodecore.solve`."""

    def __init__(self, name, dtype):
        self.case = case = cases.get(name)
        self.field = nc.field(cases.numpy_field(case))
        self.y0 = case.y0.astype(dtype)
        self.target = None if case.target is None else case.target.astype(dtype)
        if len(self.y0) == 1:
            self.y0, self.target = self.y0[0], self.target[0]
        self.weights = {k: v.astype(dtype) for k, v in case.weights.items()}
        self.options = {"method": case.method}
        if case.adaptive:
            self.options |= {"rtol": case.rtol, "atol": case.atol}
        else:
            self.options["steps"] = case.steps

    def solve(self, **options):
        return nc.solve(self.field, self.y0, self.case.t, self.weights, **self.options, **options)

    def gradient(self, **options):
        sol = self.solve(**{"adjoint": "discrete"} | options)
        if self.target is None:
            return sol.value_and_grad(cases.negative_log_likelihood)
        return sol.value_and_grad(nc.losses.mse, self.target)


class Solve:
    params = (CASES, ["float32", "float64"], [1, 2])
    param_names = ("case", "dtype", "threads")

    def setup(self, case, dtype, threads):
        choose(nc.show_config()["isa"])
        self.problem = Problem(case, dtype)

    def time_solve(self, case, dtype, threads):
        self.problem.solve(threads=threads)

    def track_steps(self, case, dtype, threads):
        """Accepted steps, of all samples together."""
        return int(np.sum(self.problem.solve(threads=threads).stats.accepted))


class Isa:
    """S3a with each instruction set."""

    params = (["float32", "float64"], ISAS)
    param_names = ("dtype", "isa")

    def setup(self, dtype, isa):
        choose(isa)
        self.problem = Problem("S3a", dtype)

    def time_solve(self, dtype, isa):
        self.problem.solve(threads=1)

    def time_gradient(self, dtype, isa):
        self.problem.gradient(threads=1)


class Shape:
    """50 steps of RK4, dim-64-dim."""

    params = ([2, 16, 128], [1, 16, 1024], ["float32", "float64"], [1, 2])
    param_names = ("dim", "batch", "dtype", "threads")

    def setup(self, dim, batch, dtype, threads):
        choose(nc.show_config()["isa"])
        net = nc.nn.MLP([dim, 64, dim])
        self.field, self.weights = nc.field(lambda t, y, p: net(p, y)), net.init(0, dtype)
        self.y0 = np.random.default_rng(0).normal(size=(batch, dim)).astype(dtype)
        self.t = np.array([0.0, 1.0])

    def time_solve(self, dim, batch, dtype, threads):
        nc.solve(self.field, self.y0, self.t, self.weights, method="rk4", steps=50, threads=threads)

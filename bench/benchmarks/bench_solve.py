"""Forward solves, and gradients of a mean square in all weights."""

import numpy as np

import nodecore as nc


class _Case:
    """Subclasses give `problem(dtype)` -> (field, y0, t, params, options)."""

    params = (["float32", "float64"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        field, y0, t, params, self.options = self.problem(np.dtype(dtype))
        self.problem_args = (nc.field(field), y0.astype(dtype), t, params)
        self.target = np.zeros_like(self.solve().y)

    def solve(self, **options):
        return nc.solve(*self.problem_args, **self.options, **options)

    def time_solve(self, dtype):
        self.solve()

    def time_gradient(self, dtype):
        self.solve(adjoint="discrete").value_and_grad(nc.losses.mse, self.target)

    def track_steps(self, dtype):
        return int(np.sum(self.solve().stats.accepted))

    def track_storage_bytes(self, dtype):
        return self.solve(adjoint="discrete").stats.storage_bytes


def spiral(dtype):
    """y' = mlp(y^3), 2-50-2, with weights near those of the spiral it is trained on."""
    net = nc.nn.MLP([2, 50, 2])
    params = net.init(seed=0, dtype=dtype)
    # least squares for the last layer: the field y^3 @ A on random states
    rng = np.random.default_rng(0)
    y = rng.uniform(-1.5, 1.5, size=(2000, 2)) ** 3
    hidden = np.tanh(y @ params["W1"] + params["b1"])
    wanted = y @ np.array([[-0.1, 2.0], [-2.0, -0.1]])
    params["W2"] = np.linalg.lstsq(hidden, wanted, rcond=None)[0].astype(dtype)
    y0 = rng.uniform(-1.4, 1.4, size=(20, 2))
    options = {"method": "dopri5", "rtol": 1e-7, "atol": 1e-9}
    return lambda t, y, p: net(p, y**3), y0, np.linspace(0, 1, 10), params, options


class Spiral(_Case):
    """S1: 20 samples, 10 outputs."""

    problem = staticmethod(spiral)


class Trajectory(_Case):
    """S2: one trajectory of a 2-16-16-2 network, 100 outputs."""

    @staticmethod
    def problem(dtype):
        net = nc.nn.MLP([2, 16, 16, 2])
        t = np.linspace(0, 10, 100)
        y0 = np.array([1.0, -0.5])
        return lambda t, y, p: net(p, y), y0, t, net.init(seed=1, dtype=dtype), {"rtol": 1e-6}


class Mixed(_Case):
    """S3a: 256 samples of very different difficulty, y' = mlp([y, t]), 9-64-64-8."""

    @staticmethod
    def problem(dtype):
        net = nc.nn.MLP([9, 64, 64, 8])
        rng = np.random.default_rng(2)
        y0 = rng.normal(size=(256, 8)) * 10 ** rng.uniform(-0.5, 1.75, size=(256, 1))
        options = {"rtol": 1e-5, "atol": 1e-6}

        def field(t, y, p):
            return net(p, np.concatenate([y, np.reshape(t, (1,))]))

        return field, y0, np.linspace(0, 1, 4), net.init(seed=2, dtype=dtype), options


class Long(_Case):
    """S5: 64 samples, a 4-32-32-4 network, RK4, 1000 steps."""

    @staticmethod
    def problem(dtype):
        net = nc.nn.MLP([4, 32, 32, 4])
        y0 = np.random.default_rng(3).normal(size=(64, 4))
        options = {"method": "rk4", "steps": 1000}
        return lambda t, y, p: net(p, y), y0, np.array([0.0, 10.0]), net.init(3, dtype), options

"""What a call costs beside the kernels."""

import subprocess
import sys

import numpy as np

import nodecore as nc

NET = nc.nn.MLP([4, 32, 32, 4])


def field(t, y, params):
    return NET(params, y)


class Calls:
    """One Euler step of one sample: nearly nothing to compute."""

    def setup(self):
        self.params = NET.init()
        self.pure = nc.field(field)
        self.y0, self.t = np.ones(4), np.array([0.0, 0.1])
        self.options = {"method": "euler", "steps": 1}
        self.time_warm_field()
        self.time_plain_function()

    def time_warm_field(self):
        """A repeated solve of the same `nodecore.field`."""
        nc.solve(self.pure, self.y0, self.t, self.params, **self.options)

    def time_plain_function(self):
        """The same, traced at every call."""
        nc.solve(field, self.y0, self.t, self.params, **self.options)

    def time_first_gradient(self):
        """Trace, differentiate and lower a new field, and run it."""
        pure = nc.field(lambda t, y, p: NET(p, y))
        sol = nc.solve(pure, self.y0, self.t, self.params, adjoint="discrete", **self.options)
        sol.vjp(np.ones((2, 4)))


class Import:
    def track_seconds_beyond_numpy(self):
        code = (
            "import numpy, time; begin = time.perf_counter(); import nodecore; "
            "print(time.perf_counter() - begin)"
        )
        run = [sys.executable, "-c", code]
        return min(float(subprocess.check_output(run)) for _ in range(5))
